//! Rung 3: the token for the Logs Ingestion API, and the rule's stream.

use tokio::time::timeout;

use super::hosts::Hosts;
use super::{Given, NOT_REACHED, PATIENCE, Rung, Rungs, Verdict, WRONG_SETTINGS};
use crate::azure::credential::Claims;
use crate::azure::ingestion::LogsIngestion;
use crate::http::said;
use crate::pipeline::Sink as _;
use crate::pipeline::sink::{PostError, packed};
use crate::seams::Deadline;
use crate::settings::{AzureCloud, SourceName};
use crate::sources::{self, mimecast::SOURCE};
use crate::table::{CLOUD_INTEGRATED, HEALTH, Table};

pub(super) async fn rungs(
    given: &Given,
    sink: Option<&LogsIngestion>,
    hosts: &Hosts,
    rungs: &mut Rungs<'_>,
) {
    let (Some(settings), Some(sink)) = (&given.ingestion, sink) else {
        rungs.push(Rung::skipped("azure", WRONG_SETTINGS));
        return;
    };
    let streams = streams(given, &settings.stream);
    let skip = |rungs: &mut Rungs<'_>, why: &str| {
        for (source, stream, _) in &streams {
            let rung = format!("azure/stream/{stream}");
            rungs.push(Rung::skipped(rung, why).of_source(source));
        }
    };
    if !hosts.issue_to(&settings.identity) {
        rungs.push(Rung::skipped("azure/token", NOT_REACHED));
        return skip(rungs, "there is no token");
    }
    let tried = format!("an access token for {}", audience(settings.cloud));
    let token = match timeout(PATIENCE, sink.identity()).await {
        Ok(Ok((credential, claims))) => token_rung(settings.cloud, tried, credential, &claims),
        Ok(Err(fault)) => Rung::fault("azure/token", tried, fault),
        Err(_) => Rung::out_of_time("azure/token", tried),
    };
    let has_token = matches!(token.verdict, Verdict::Ok | Verdict::Warn);
    rungs.push(token);
    let mut takes_events = false;
    if !has_token {
        skip(rungs, "there is no token");
    } else if !hosts.reached(&settings.endpoint) {
        skip(rungs, NOT_REACHED);
    } else {
        for (source, stream, table) in &streams {
            let tried = stream_rung(format!("azure/stream/{stream}"), sink, table).await;
            takes_events |= tried.verdict == Verdict::Ok;
            rungs.push(tried.of_source(source));
        }
    }
    if let Some(stream) = &settings.health_stream {
        let rung = format!("azure/stream/{stream}");
        rungs.push(if takes_events {
            health_rung(rung, sink).await
        } else {
            Rung::skipped(rung, "the same rule does not take events")
        });
    }
}

/// The rule's streams that the sources which are on post to, each with its source.
fn streams<'a>(given: &Given, mimecasts: &'a str) -> Vec<(&'static str, &'a str, &'static Table)> {
    let others: Vec<&str> = given.graph_sources().collect();
    let others = sources::streams().into_iter().filter(|known| others.contains(&known.source));
    let mut streams: Vec<_> =
        others.map(|known| (known.source, known.stream.table.stream, known.stream.table)).collect();
    if given.sources.contains(&SourceName::CloudIntegrated) {
        streams.insert(0, (SOURCE, mimecasts, &CLOUD_INTEGRATED));
    }
    streams
}

/// No run fails without rows of health.
async fn health_rung(rung: String, sink: &LogsIngestion) -> Rung {
    let tried = stream_rung(rung, sink, &HEALTH).await;
    if tried.verdict != Verdict::Fail {
        return tried;
    }
    tried.but(
        Verdict::Warn,
        "events land all the same, and no rows of health: deploy the template of this release, whose rule \
         has the stream, or set HEALTH_STREAM to `off`",
    )
}

/// What a token of this cloud is for.
fn audience(cloud: AzureCloud) -> &'static str {
    cloud.scope().trim_end_matches("/.default")
}

fn token_rung(cloud: AzureCloud, tried: String, credential: &str, claims: &Claims) -> Rung {
    let Claims { audience: of, tenant, client, .. } = claims;
    let mut answer = format!("granted to {credential}");
    for (what, value) in [("client id", client), ("tenant", tenant), ("audience", of)] {
        if !value.is_empty() {
            answer += &format!(", {what} {}", said(value));
        }
    }
    let granted = Rung::ok("azure/token", tried, answer);
    if of.is_empty() || of.trim_end_matches('/') == audience(cloud) {
        return granted;
    }
    granted.but(Verdict::Warn, "it is for another service: check AZURE_CLOUD")
}

/// Posts an array without a row: so role, rule and stream are checked, and nothing lands.
async fn stream_rung(rung: String, sink: &LogsIngestion, table: &Table) -> Rung {
    let tried = format!("an empty array to {}", sink.destination(table));
    let deadline = Deadline::after(PATIENCE);
    let posted = timeout(PATIENCE, sink.post(table, packed(b"[]"), deadline)).await;
    match posted.map(|posted| posted.answer) {
        Ok(Ok(())) => Rung::ok(rung, tried, "accepted (204)"),
        // It is about the rows, of which there are none: the rest was accepted.
        Ok(Err(PostError::RowRefused(words))) => {
            Rung::ok(rung, tried, format!("the role, the rule and the stream are right ({words})"))
        }
        Ok(Err(PostError::Interrupt(why))) => Rung::interrupt(rung, tried, why),
        Ok(Err(PostError::TooLarge)) => Rung::ok(rung, tried, "it is too large (413)")
            .but(Verdict::Inconclusive, "check what stands between this machine and Azure"),
        Err(_) => Rung::out_of_time(rung, tried),
    }
}
