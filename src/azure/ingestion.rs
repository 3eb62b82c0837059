//! The sink: Azure Monitor's Logs Ingestion API, version 2023-01-01.
//!
//! `POST {endpoint}/dataCollectionRules/{rule}/streams/{stream}?api-version=2023-01-01`

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret;
use url::Url;

use super::credential::{AccessTokens, Claims, CredentialError};
use crate::codes::Code;
use crate::http::{
    ErrorBody, Failure, GaveUp, Reply, ReplyError, RetryPolicy, SecretError, looks_like,
    retry_after, send,
};
use crate::pipeline::sink::{PostError, Posted};
use crate::pipeline::{Fault, Interrupt, Sink};
use crate::seams::{Clock, Deadline, Random};
use crate::table::Table;

const API_VERSION: &str = "2023-01-01";

/// The most that is read of a reply.
const REPLY_LIMIT: usize = 64 * 1024;

/// A 400 with one of these in its code is about the settings, not about the rows.
const SETTINGS_WORDS: [&str; 4] = ["stream", "rule", "api-version", "apiversion"];

/// The streams of one data collection rule.
pub struct LogsIngestion {
    endpoint: Url,
    /// The rule's immutable id.
    rule: String,
    /// The names of streams that are not their table's own, by the table's name.
    streams: BTreeMap<&'static str, String>,
    client: Client,
    tokens: AccessTokens,
    retry: RetryPolicy,
    clock: Clock,
    random: Random,
}

/// What the attempts to post a body have shown.
#[derive(Default)]
struct Attempts {
    /// How many of them may have been accepted without a clear answer.
    ambiguous: AtomicU64,
    /// Whether the token was renewed since the last answer.
    fresh: AtomicBool,
}

impl LogsIngestion {
    /// A sink for the rule with the immutable id `rule` (`dcr-…`). A table's stream is that of
    /// [`Table::stream`], unless `streams` has another one (`Custom-…`) under the table's name.
    pub fn new(
        endpoint: &Url,
        rule: &str,
        streams: BTreeMap<&'static str, String>,
        client: Client,
        tokens: AccessTokens,
        retry: RetryPolicy,
        (clock, random): (Clock, Random),
    ) -> Self {
        let (endpoint, rule) = (endpoint.clone(), rule.to_owned());
        Self { endpoint, rule, streams, client, tokens, retry, clock, random }
    }

    /// With which credential rows are posted, and what its token says of itself.
    ///
    /// # Errors
    /// Why there is no token.
    pub async fn identity(&self) -> Result<(&'static str, Claims), Fault> {
        self.tokens.identity().await.map_err(|error| no_token(&error))
    }

    fn stream(&self, table: &Table) -> &str {
        self.streams.get(table.name).map_or(table.stream, String::as_str)
    }

    fn url(&self, table: &Table) -> Url {
        let mut url = self.endpoint.clone();
        let (rule, stream) = (&self.rule, self.stream(table));
        url.set_path(&format!("dataCollectionRules/{rule}/streams/{stream}"));
        url.set_query(Some(&format!("api-version={API_VERSION}")));
        url
    }

    async fn attempt(
        &self,
        table: &Table,
        body: Bytes,
        known: &Attempts,
    ) -> Result<(), Failure<PostError>> {
        let token = self
            .tokens
            .get()
            .await
            .map_err(|error| PostError::Interrupt(no_token(&error).into()))?;
        let request = self
            .client
            .post(self.url(table))
            .bearer_auth(token.secret.expose_secret())
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_ENCODING, "gzip")
            .body(body);
        let was_fresh = known.fresh.swap(false, Ordering::Relaxed);
        let reply = match send(request, REPLY_LIMIT).await {
            Ok(reply) => reply,
            Err(error) => {
                let unsent = matches!(&error, ReplyError::Http(error) if error.is_connect());
                known.ambiguous.fetch_add(u64::from(!unsent), Ordering::Relaxed);
                return Err(Failure::passing(error));
            }
        };
        if reply.status == StatusCode::UNAUTHORIZED && !is_somebody_elses(&reply) && !was_fresh {
            self.tokens.discard(&token).await;
            known.fresh.store(true, Ordering::Relaxed);
            return Err(Failure::TokenRefused(ErrorBody::read(&reply.body).to_string()));
        }
        self.judge(table, &reply, known)
    }

    /// What an answer means.
    fn judge(
        &self,
        table: &Table,
        reply: &Reply,
        known: &Attempts,
    ) -> Result<(), Failure<PostError>> {
        let said = ErrorBody::read(&reply.body);
        let status = reply.status;
        let passing = status == StatusCode::REQUEST_TIMEOUT || status.is_server_error();
        Err(match status {
            // The only answer that Azure gives to rows it took.
            StatusCode::NO_CONTENT => return Ok(()),
            _ if passing || is_somebody_elses(reply) => {
                known.ambiguous.fetch_add(1, Ordering::Relaxed);
                Failure::passing(format!("{}: {said}", status.as_u16()))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Failure::Throttled(retry_after(&reply.headers, self.clock.now()))
            }
            StatusCode::PAYLOAD_TOO_LARGE => PostError::TooLarge.into(),
            StatusCode::BAD_REQUEST if !names_a_setting(&said, &self.rule) => {
                PostError::RowRefused(said.to_string()).into()
            }
            _ => self.refused(table, status, &said).into(),
        })
    }

    fn refused(&self, table: &Table, status: StatusCode, said: &ErrorBody) -> PostError {
        let words = said.to_string().to_lowercase();
        let (code, fix) = match status.as_u16() {
            403 => (
                Code::IngestionForbidden,
                "give the identity the role Monitoring Metrics Publisher on that data collection \
                 rule (a role on another rule does not count); a new role takes up to 30 minutes, \
                 or hours where a token was cached before; the checkpoint stays, nothing is lost",
            ),
            404 if words.contains("rule") => (
                Code::IngestionNotFound,
                "check LOGS_INGESTION_RULE_ID: it is immutableId in the rule's JSON view; and \
                 LOGS_INGESTION_ENDPOINT: it must be that rule's own, or a data collection \
                 endpoint in the rule's region; an endpoint of another region does not know the \
                 rule; the checkpoint stays, nothing is lost",
            ),
            404 => (
                Code::IngestionNotFound,
                "check LOGS_INGESTION_ENDPOINT, LOGS_INGESTION_RULE_ID (the rule's immutable id) \
                 and LOGS_INGESTION_STREAM, and that the identity has the role Monitoring Metrics \
                 Publisher on that rule, which takes up to 30 minutes; the checkpoint stays, \
                 nothing is lost",
            ),
            401 => (
                Code::IngestionUnauthorized,
                "check AZURE_CLOUD and that the identity belongs to the rule's tenant",
            ),
            400 if said.code.to_lowercase().contains("stream") => (
                Code::IngestionSettings,
                "set LOGS_INGESTION_STREAM to a name in the rule's streamDeclarations, or deploy \
                 the rule again; the checkpoint stays, nothing is lost",
            ),
            _ => (
                Code::IngestionSettings,
                "check LOGS_INGESTION_ENDPOINT, LOGS_INGESTION_RULE_ID and LOGS_INGESTION_STREAM \
                 against the rule; the checkpoint stays, nothing is lost",
            ),
        };
        let (to, status) = (self.destination(table), status.as_u16());
        let message = format!("{to} answered {status}: {said}");
        PostError::Interrupt(Fault::settings(code, message, fix).into())
    }

    fn gave_up(&self, table: &Table, gave_up: Option<GaveUp>) -> PostError {
        let Some(GaveUp { said, how_often, .. }) = gave_up else {
            return PostError::Interrupt(Interrupt::OutOfTime);
        };
        let fault = Fault::passing(
            Code::IngestionUnreachable,
            format!("{} failed {how_often}: {said}", self.destination(table)),
            "nothing is lost, the next run posts again; if it stays so, check the network to the \
             endpoint and Azure's status page",
        );
        PostError::Interrupt(fault.into())
    }
}

#[async_trait]
impl Sink for LogsIngestion {
    fn destination(&self, table: &Table) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        format!("stream {} of rule {} at {host}", self.stream(table), self.rule)
    }

    async fn post(&self, table: &Table, body: Bytes, deadline: Deadline) -> Posted {
        let known = Attempts::default();
        let attempt = || self.attempt(table, body.clone(), &known);
        let gave_up = |gave_up| self.gave_up(table, gave_up);
        let retries = self.retry.start(&self.random, deadline);
        let answer = retries.run("the post", attempt, gave_up).await;
        Posted { ambiguous: known.ambiguous.into_inner(), answer }
    }
}

/// Whether a proxy or firewall answered in Azure's place: with another success, with a page, or with
/// a 400 that is not JSON, which would otherwise put rows into quarantine.
fn is_somebody_elses(reply: &Reply) -> bool {
    let kind = looks_like(&reply.body);
    reply.status.is_success()
        || kind == "an HTML page"
        || (reply.status == StatusCode::BAD_REQUEST && kind != "JSON")
}

/// Whether Azure refuses the settings: by its code, or by the id of the rule. Other words in its
/// message do not count: Azure may quote a row there, and outsiders write what is in one. If it is a
/// setting nevertheless, every row is refused, and the pipeline reports that.
fn names_a_setting(said: &ErrorBody, rule: &str) -> bool {
    let code = said.code.to_lowercase();
    SETTINGS_WORDS.iter().any(|word| code.contains(word))
        || said.message.to_lowercase().contains(&rule.to_lowercase())
}

fn no_token(error: &CredentialError) -> Fault {
    let SecretError { settings, problem, fix } = error.told();
    Fault::no_token(settings, problem, fix)
}

impl std::fmt::Debug for LogsIngestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogsIngestion").field("rule", &self.rule).finish_non_exhaustive()
    }
}
