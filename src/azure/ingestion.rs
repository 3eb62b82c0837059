//! The sink: Azure Monitor's Logs Ingestion API, version 2023-01-01.
//!
//! `POST {endpoint}/dataCollectionRules/{rule}/streams/{stream}?api-version=2023-01-01`

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use url::Url;

use super::credential::{AccessTokens, CredentialError};
use crate::http::{GaveUp, Reply, ReplyError, Retries, RetryPolicy, read_reply, retry_after};
use crate::pipeline::sink::{PostError, Posted};
use crate::pipeline::{Fault, Interrupt, Sink};
use crate::seams::{Clock, Deadline, Random};

const API_VERSION: &str = "2023-01-01";

/// The most that is read of a reply.
const REPLY_LIMIT: usize = 64 * 1024;

/// Words of a refusal that are shown at most, in characters.
const SHOWN: usize = 300;

/// A 400 that names one of these is about the settings, not about the rows.
const SETTINGS_WORDS: [&str; 4] = ["stream", "rule", "api-version", "apiversion"];

/// One stream of one data collection rule.
pub struct LogsIngestion {
    /// Where to post.
    url: Url,
    /// The rule and its stream, for a person.
    destination: String,
    client: Client,
    tokens: AccessTokens,
    retry: RetryPolicy,
    clock: Clock,
    random: Random,
}

/// Azure's words.
#[derive(Deserialize)]
struct ErrorReply {
    error: Said,
}

#[derive(Deserialize, Default)]
struct Said {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What is done after one attempt.
enum Next {
    Done(Result<(), PostError>),
    /// Again, with a new token.
    Renew(String),
    /// Again, after the wait that a 429 asks for.
    Throttled(Option<Duration>),
    /// Again later; nobody knows whether the body was taken.
    Ambiguous(String),
    /// Again later; it never left.
    Unsent(String),
}

impl LogsIngestion {
    /// A sink for `stream` (`Custom-…`) of the rule with the immutable id `rule` (`dcr-…`).
    pub fn new(
        endpoint: &Url,
        rule: &str,
        stream: &str,
        client: Client,
        tokens: AccessTokens,
        retry: RetryPolicy,
        (clock, random): (Clock, Random),
    ) -> Self {
        let mut url = endpoint.clone();
        url.set_path(&format!("dataCollectionRules/{rule}/streams/{stream}"));
        url.set_query(Some(&format!("api-version={API_VERSION}")));
        let host = endpoint.host_str().unwrap_or_default();
        let destination = format!("stream {stream} of rule {rule} at {host}");
        Self { url, destination, client, tokens, retry, clock, random }
    }

    async fn attempt(&self, body: Bytes) -> Next {
        let token = match self.tokens.bearer().await {
            Ok(token) => token,
            Err(error) => return Next::Done(Err(no_token(&error))),
        };
        let request = self
            .client
            .post(self.url.clone())
            .bearer_auth(token.expose_secret())
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_ENCODING, "gzip")
            .body(body);
        match request.send().await {
            Ok(response) => match read_reply(response, REPLY_LIMIT).await {
                Ok(reply) => self.judge(&reply),
                Err(error) => Next::Ambiguous(error.to_string()),
            },
            Err(error) if error.is_connect() => Next::Unsent(ReplyError::Http(error).to_string()),
            Err(error) => Next::Ambiguous(ReplyError::Http(error).to_string()),
        }
    }

    /// What an answer means.
    fn judge(&self, reply: &Reply) -> Next {
        let said = Said::read(reply);
        let status = reply.status;
        let passing = status == StatusCode::REQUEST_TIMEOUT || status.is_server_error();
        match status {
            _ if status.is_success() => Next::Done(Ok(())),
            _ if passing => Next::Ambiguous(format!("{}: {said}", status.as_u16())),
            StatusCode::TOO_MANY_REQUESTS => {
                Next::Throttled(retry_after(&reply.headers, self.clock.now()))
            }
            StatusCode::UNAUTHORIZED => Next::Renew(said.to_string()),
            StatusCode::PAYLOAD_TOO_LARGE => Next::Done(Err(PostError::TooLarge)),
            StatusCode::BAD_REQUEST if !said.names_a_setting() => {
                Next::Done(Err(PostError::RowRefused(said.to_string())))
            }
            _ => Next::Done(Err(self.refused(status, &said.to_string()))),
        }
    }

    fn refused(&self, status: StatusCode, said: &str) -> PostError {
        let (code, fix) = match status.as_u16() {
            403 => (
                "ingestion-forbidden",
                "give the identity the role Monitoring Metrics Publisher on that data collection \
                 rule; a new role takes up to 30 minutes, or hours where a token was cached \
                 before; the checkpoint stays, nothing is lost",
            ),
            404 => (
                "ingestion-not-found",
                "check LOGS_INGESTION_ENDPOINT, LOGS_INGESTION_RULE_ID (the rule's immutable id) \
                 and LOGS_INGESTION_STREAM; the checkpoint stays, nothing is lost",
            ),
            401 => (
                "ingestion-unauthorized",
                "check AZURE_CLOUD and that the identity belongs to the rule's tenant",
            ),
            _ => (
                "ingestion-settings",
                "check LOGS_INGESTION_ENDPOINT, LOGS_INGESTION_RULE_ID and LOGS_INGESTION_STREAM \
                 against the rule; the checkpoint stays, nothing is lost",
            ),
        };
        let message = format!("{} answered {}: {said}", self.destination, status.as_u16());
        PostError::Interrupt(Fault::settings(code, message, fix).into())
    }

    /// Waits before the next attempt.
    async fn wait(&self, next: &Next, retries: &mut Retries) -> Result<(), PostError> {
        let (waited, failed) = match next {
            Next::Throttled(asked) => {
                tracing::warn!("Azure limits the rate of the rule; waiting");
                (retries.throttled(*asked).await, "the rule's rate is limited (429)")
            }
            Next::Ambiguous(failed) | Next::Unsent(failed) => {
                tracing::warn!(failed, "a post failed; trying again with the same bytes");
                (retries.back_off().await, failed.as_str())
            }
            Next::Done(_) | Next::Renew(_) => return Ok(()),
        };
        waited.map_err(|gave_up| match gave_up {
            GaveUp::OutOfTime => PostError::Interrupt(Interrupt::OutOfTime),
            GaveUp::Attempts => {
                let attempts = self.retry.attempts;
                let fault = Fault::passing(
                    "ingestion-unreachable",
                    format!("{} failed {attempts} times: {failed}", self.destination),
                    "nothing is lost, the next run posts again; if it stays so, check the \
                     network to the endpoint and Azure's status page",
                );
                PostError::Interrupt(fault.into())
            }
        })
    }
}

#[async_trait]
impl Sink for LogsIngestion {
    fn destination(&self) -> String {
        self.destination.clone()
    }

    async fn post(&self, body: Bytes, deadline: Deadline) -> Posted {
        let mut retries = self.retry.start(&self.random, deadline);
        let mut ambiguous = 0;
        let mut renewed = false;
        loop {
            let next = self.attempt(body.clone()).await;
            match &next {
                Next::Done(_) => {}
                Next::Renew(said) if renewed => {
                    let answer = Err(self.refused(StatusCode::UNAUTHORIZED, said));
                    return Posted { ambiguous, answer };
                }
                Next::Renew(_) => {
                    renewed = true;
                    self.tokens.renew();
                }
                Next::Ambiguous(_) => ambiguous += 1,
                Next::Throttled(_) | Next::Unsent(_) => {}
            }
            if let Next::Done(answer) = next {
                return Posted { ambiguous, answer };
            }
            if let Err(error) = self.wait(&next, &mut retries).await {
                return Posted { ambiguous, answer: Err(error) };
            }
        }
    }
}

impl Said {
    fn read(reply: &Reply) -> Self {
        let json = serde_json::from_slice::<ErrorReply>(&reply.body).map(|reply| reply.error);
        json.unwrap_or_else(|_| Self {
            code: String::new(),
            message: String::from_utf8_lossy(&reply.body).into_owned(),
        })
    }

    fn names_a_setting(&self) -> bool {
        let text = format!("{} {}", self.code, self.message).to_lowercase();
        SETTINGS_WORDS.iter().any(|word| text.contains(word))
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{} {}", self.code, self.message);
        let words = text.split(|c: char| c.is_whitespace() || c.is_control());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let shown: String = words.join(" ").chars().take(SHOWN).collect();
        f.write_str(if shown.is_empty() { "no reason given" } else { &shown })
    }
}

fn no_token(error: &CredentialError) -> PostError {
    let fault = match error {
        CredentialError::Refused { credential, reason, fix } => Fault::settings(
            "azure-credentials",
            format!("{credential} was refused: {reason}"),
            *fix,
        ),
        CredentialError::Unavailable { credential, reason, authority } => Fault::passing(
            "azure-token-unavailable",
            format!("{credential} got no token: {reason}"),
            format!("nothing is lost, the next run tries again; check the way to {authority}"),
        ),
    };
    PostError::Interrupt(fault.into())
}

impl std::fmt::Debug for LogsIngestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogsIngestion")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}
