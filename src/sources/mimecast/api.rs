//! Calls to Mimecast's API: what is repeated, how long, and what a final refusal means.

use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDate;
use reqwest::{RequestBuilder, StatusCode};
use serde::de::IgnoredAny;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::pace::{CallLog, Pace};
use super::refusal::is_refusal;
use crate::codes::Code;
use crate::http::{
    Clients, ErrorBody, Failure, GaveUp, ReadSecret, Reply, RetryPolicy, TokenCache, looks_like,
    retry_after, send,
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
    pub(super) client_secret: Arc<dyn ReadSecret>,
    /// The day at which a stream begins.
    pub(super) start: NaiveDate,
    pub(super) tokens: TokenCache<Interrupt>,
    pub(super) pace: Pace,
    pub(super) call_log: Option<Arc<dyn CallLog>>,
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

    /// Makes attempts until one succeeds, or another would change nothing.
    pub(super) async fn call<T, A>(
        &self,
        call: &Call<'_>,
        deadline: Deadline,
        attempt: impl FnMut() -> A,
    ) -> Result<T, Interrupt>
    where
        A: Future<Output = Result<T, Failure<Interrupt>>>,
    {
        let gave_up = |gave_up: Option<GaveUp>| match gave_up {
            None => Interrupt::OutOfTime,
            Some(gave_up) => self.gave_up(call, gave_up).into(),
        };
        self.retry.start(&self.random, deadline).run(call.what, attempt, gave_up).await
    }

    /// Sends a request once. What is no answer of Mimecast's, or one that passes, has failed.
    pub(super) async fn attempt(
        &self,
        call: &Call<'_>,
        deadline: Deadline,
        request: RequestBuilder,
    ) -> Result<Reply, Failure<Interrupt>> {
        if let Some(stream) = call.lists {
            if !self.pace.turn(stream, deadline).await {
                return Err(Failure::OutOfTime);
            }
            if let Some(log) = &self.call_log {
                log.begin().await?;
            }
        }
        let asked = Instant::now();
        let reply = match timeout_at(deadline.instant(), send(request, REPLY_LIMIT)).await {
            Ok(reply) => reply.map_err(Failure::passing)?,
            // A call that had just begun when the time was up has not failed.
            Err(_) if asked.elapsed() < SLOW => return Err(Failure::OutOfTime),
            Err(_) => return Err(Failure::passing("no whole answer came")),
        };
        match reply.status {
            StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Throttled(retry_after(&reply.headers, self.clock.now())))
            }
            status if is_passing(status) || is_foreign(call, &reply) => Err(failure(call, &reply)),
            status if status.is_redirection() => Err(Interrupt::from(redirected(call)).into()),
            _ => Ok(reply),
        }
    }

    fn gave_up(&self, call: &Call<'_>, GaveUp { said, token_refused, how_often }: GaveUp) -> Fault {
        if let Some(stream) = call.lists.filter(|_| token_refused) {
            return Fault::passing(
                Code::MimecastUnauthorized,
                format!("Mimecast refuses fresh access tokens for {stream}: {said}"),
                "the next run tries again; if it stays so, make a new API 2.0 application and set \
                 MIMECAST_CLIENT_ID and MIMECAST_CLIENT_SECRET",
            );
        }
        let host = self.base_url.host_str().unwrap_or_default();
        Fault::passing(
            Code::MimecastUnreachable,
            format!("{} at {host} failed {how_often}: {said}", call.what),
            "nothing is lost, the next run tries again; if it stays so, check what stands between \
             this machine and Mimecast (a proxy, a firewall), and Mimecast's status page",
        )
    }
}

/// The words of a success are not repeated, unless they are those of a refusal: there may be a
/// token among them.
pub(super) fn failure(call: &Call<'_>, reply: &Reply) -> Failure<Interrupt> {
    let status = reply.status.as_u16();
    let said = || ErrorBody::read(&reply.body);
    Failure::passing(if is_foreign(call, reply) {
        format!("it answered {status} with {} (from a proxy or a firewall?)", said())
    } else if !reply.status.is_success() || is_refusal(&reply.body) {
        format!("it answered {status}: {}", said())
    } else {
        match reply.json::<IgnoredAny>() {
            Ok(_) => format!("it answered {status}, but with JSON of another shape"),
            Err(not_json) => format!("it answered {status}, but {not_json}"),
        }
    })
}

fn redirected(call: &Call<'_>) -> Fault {
    Fault::settings(
        Code::MimecastRedirect,
        format!("{} answers with a redirect", call.what),
        "redirects are not followed, since secrets would go with them: set MIMECAST_BASE_URL to \
         the API's own address",
    )
}

/// Whether what refuses is not Mimecast, whose refusals are JSON: a proxy or a firewall sends a
/// page. At the listing a page with 404 may be that of another host, which `MIMECAST_BASE_URL`
/// names.
fn is_foreign(call: &Call<'_>, reply: &Reply) -> bool {
    let refusals =
        [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::PROXY_AUTHENTICATION_REQUIRED];
    let refuses = refusals.contains(&reply.status);
    match looks_like(&reply.body) {
        "an HTML page" => refuses || (call.lists.is_none() && reply.status.is_client_error()),
        "plain text" => refuses,
        _ => false,
    }
}

/// Statuses that a repetition may change.
fn is_passing(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
}
