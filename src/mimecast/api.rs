//! Calls to Mimecast's API: what is repeated, how long, and what a final refusal means.

use std::time::Duration;

use chrono::NaiveDate;
use reqwest::{RequestBuilder, StatusCode};
use secrecy::SecretString;
use serde::de::IgnoredAny;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::pace::Pace;
use super::refusal::is_refusal;
use crate::http::{
    Clients, ErrorBody, GaveUp, Reply, ReplyError, RetryPolicy, TokenCache, looks_like, read_reply,
    retry_after,
};
use crate::pipeline::{Fault, Interrupt};
use crate::seams::{Clock, Deadline, Random};

/// The most that a reply may hold. A page of 100 files is some 100 KB.
const REPLY_LIMIT: usize = 4 * 1024 * 1024;

/// An answer that takes longer has failed, if the run's time is up before it is whole.
const SLOW: Duration = Duration::from_secs(30);

/// Mimecast's API for one application.
pub(super) struct Api {
    pub(super) clients: Clients,
    pub(super) base_url: Url,
    pub(super) client_id: String,
    pub(super) client_secret: SecretString,
    /// The day at which a stream begins.
    pub(super) start: NaiveDate,
    pub(super) tokens: TokenCache<Interrupt>,
    pub(super) pace: Pace,
    pub(super) retry: RetryPolicy,
    pub(super) clock: Clock,
    pub(super) random: Random,
}

/// What is being called, for messages.
pub(super) struct Call<'a> {
    /// E.g. `the token endpoint`.
    pub(super) what: &'static str,
    /// The stream that is listed: such a call counts against the pace.
    pub(super) lists: Option<&'a str>,
}

impl Api {
    /// A URL below the base URL.
    pub(super) fn at(&self, path: &str) -> Url {
        let mut url = self.base_url.clone();
        url.set_path(path);
        url
    }

    /// Sends a request until an answer comes that a repetition would not change. `again` says which
    /// answers are worth one beside 408, 429 and 5xx.
    pub(super) async fn send(
        &self,
        call: &Call<'_>,
        deadline: Deadline,
        request: impl Fn() -> RequestBuilder,
        again: impl Fn(&Reply) -> bool,
    ) -> Result<Reply, Interrupt> {
        let mut retries = self.retry.start(&self.random, deadline);
        // Why it failed last. To be limited in rate is no failure.
        let mut failed: Option<String> = None;
        let waited = loop {
            if let Some(stream) = call.lists
                && !self.pace.turn(stream, deadline).await
            {
                break GaveUp::OutOfTime;
            }
            let asked = Instant::now();
            let answer = async {
                match request().send().await {
                    Ok(response) => read_reply(response, REPLY_LIMIT).await,
                    Err(error) => Err(ReplyError::Http(error)),
                }
            };
            let waited = match timeout_at(deadline.instant(), answer).await {
                Ok(Ok(reply)) if reply.status == StatusCode::TOO_MANY_REQUESTS => {
                    let asked = retry_after(&reply.headers, self.clock.now());
                    tracing::info!(call = call.what, "Mimecast limits the rate; waiting");
                    retries.throttled(asked).await
                }
                Ok(Ok(reply))
                    if is_passing(reply.status) || is_foreign(&reply) || again(&reply) =>
                {
                    let failed = failed.insert(failure(&reply));
                    tracing::info!(call = call.what, failed, "Mimecast failed; trying again");
                    retries.back_off().await
                }
                Ok(Ok(reply)) if reply.status.is_redirection() => {
                    return Err(redirected(call).into());
                }
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) => {
                    let failed = failed.insert(error.to_string());
                    tracing::info!(call = call.what, failed, "Mimecast failed; trying again");
                    retries.back_off().await
                }
                Err(_) => {
                    // A call that had just begun when the time was up has not failed.
                    if asked.elapsed() >= SLOW {
                        failed = Some("no whole answer came".to_owned());
                    }
                    Err(GaveUp::OutOfTime)
                }
            };
            if let Err(gave_up) = waited {
                break gave_up;
            }
        };
        match failed {
            Some(failed) => Err(self.unreachable(call, waited, &failed).into()),
            None => Err(Interrupt::OutOfTime),
        }
    }

    fn unreachable(&self, call: &Call<'_>, gave_up: GaveUp, failed: &str) -> Fault {
        let host = self.base_url.host_str().unwrap_or_default();
        let how_often = match gave_up {
            GaveUp::OutOfTime => "until the run's time was up".to_owned(),
            GaveUp::Attempts => format!("{} times", self.retry.attempts),
        };
        Fault::passing(
            "mimecast-unreachable",
            format!("{} at {host} failed {how_often}: {failed}", call.what),
            "nothing is lost, the next run tries again; if it stays so, check the network to \
             Mimecast and its status page",
        )
    }
}

/// The words of a success are not repeated, unless they are those of a refusal: there may be a token
/// among them.
fn failure(reply: &Reply) -> String {
    let status = reply.status.as_u16();
    if is_foreign(reply) {
        let said = ErrorBody::read(&reply.body);
        return format!("it answered {status} with {said} (from a proxy or a firewall?)");
    }
    if !reply.status.is_success() || is_refusal(&reply.body) {
        return format!("it answered {status}: {}", ErrorBody::read(&reply.body));
    }
    match reply.json::<IgnoredAny>() {
        Ok(_) => format!("it answered {status}, but with JSON of another shape"),
        Err(not_json) => format!("it answered {status}, but {not_json}"),
    }
}

fn redirected(call: &Call<'_>) -> Fault {
    Fault::settings(
        "mimecast-redirect",
        format!("{} answers with a redirect", call.what),
        "redirects are not followed, since secrets would go with them: set MIMECAST_BASE_URL to \
         the API's own address",
    )
}

/// Whether what refuses is not Mimecast, whose refusals are JSON: a proxy or a firewall sends a page.
/// A page with 404 may be that of another host, which `MIMECAST_BASE_URL` names.
fn is_foreign(reply: &Reply) -> bool {
    let refusals =
        [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::PROXY_AUTHENTICATION_REQUIRED];
    refusals.contains(&reply.status)
        && ["an HTML page", "plain text"].contains(&looks_like(&reply.body))
}

/// Statuses that a repetition may change.
fn is_passing(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
}
