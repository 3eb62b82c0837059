//! Calls to Microsoft Graph: what is repeated, how long, and what a final refusal means.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap};
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::pace::Pace;
use crate::codes::Code;
use crate::http::{
    ErrorBody, Failure, GaveUp, NotJson, Reply, RetryPolicy, SecretError, SignIn, SignedIn, json,
    looks_like, retry_after, send, server_time,
};
use crate::pipeline::{Fault, Interrupt};
use crate::seams::{Clock, Deadline, Random};

/// The most that a reply may hold. A page of 999 users is some 2 MB.
const REPLY_LIMIT: usize = 32 * 1024 * 1024;

/// An answer that takes longer has failed, if the run's time is up before it is whole.
const SLOW: Duration = Duration::from_secs(30);

/// How much of the limit is used up, from 0.8 on.
const USED: &str = "x-ms-throttle-limit-percentage";

/// How Graph is called.
#[derive(Clone)]
pub struct Options {
    /// `https://graph.microsoft.com`, or that of another cloud.
    pub base_url: Url,
    /// The tenant, where the settings name one: the place in one means nothing in another.
    pub tenant: Option<String>,
    /// As whom.
    pub sign_in: Arc<dyn SignIn>,
    /// By which way.
    pub http: Client,
    /// The least time between two requests.
    pub every: Duration,
    /// How calls are repeated.
    pub retry: RetryPolicy,
    /// The clock, and the jitter of waits.
    pub seams: (Clock, Random),
}

/// Graph for one source.
pub(super) struct Graph {
    options: Options,
    pace: Pace,
}

/// What is being asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// E.g. `the risk detections`.
    pub(super) what: &'static str,
    /// The header `Prefer`.
    pub(super) prefer: &'static str,
    /// The rights of which one is needed, the least first.
    pub(super) needs: &'static [&'static str],
    /// The service plans of which one is needed: their names, and their ids.
    pub(super) plans: &'static [(&'static str, &'static str)],
    /// Whether a reply says where to go on, always.
    pub(super) is_delta: bool,
}

/// What comes of a call.
pub(super) enum Answer<T> {
    /// What was made of the page, where to go on, and the server's own time.
    Page(T, Link, DateTime<Utc>),
    /// The link is no longer good: all must be read anew.
    Resync,
}

/// Where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// In the next page.
    Next(String),
    /// Here, next time.
    Delta(String),
    /// Nowhere.
    None,
}

/// A page of objects. What an object holds is read one by one, so that only one is in memory twice.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    value: Vec<&'a RawValue>,
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
    #[serde(rename = "@odata.deltaLink")]
    delta: Option<String>,
}

impl Call {
    /// A page names itself as the next one.
    fn goes_round(self) -> Fault {
        Fault::passing(
            Code::GraphLink,
            format!(
                "Microsoft Graph says that the next page of {} is the same one again",
                self.what
            ),
            "nothing is lost, the next run asks for the same page again; if it stays so, `state reset` of \
             the stream begins again",
        )
    }

    /// A first page is refused as if for the age of its link.
    pub(super) fn refused_from_the_beginning(self) -> Fault {
        Fault::passing(
            Code::GraphRefused,
            format!(
                "Microsoft Graph refuses {} from the beginning, as if for an old link",
                self.what
            ),
            "nothing is lost, the next run asks again",
        )
    }
}

impl Graph {
    pub(super) fn new(options: Options) -> Self {
        let pace = Pace::new(options.every, options.seams.1.clone());
        Self { options, pace }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.options.seams.0
    }

    pub(super) fn base_url(&self) -> &Url {
        &self.options.base_url
    }

    /// Whose events they are.
    pub(super) fn owner(&self) -> BTreeMap<String, String> {
        let base_url = self.base_url().as_str().trim_end_matches('/').to_owned();
        let tenant = self.options.tenant.iter().map(|tenant| ("tenant".to_owned(), tenant.clone()));
        std::iter::once(("graph".to_owned(), base_url)).chain(tenant).collect()
    }

    /// A URL of version 1.0.
    pub(super) fn at(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.options.base_url.clone();
        url.set_path(&format!("v1.0/{path}"));
        url.query_pairs_mut().extend_pairs(query);
        url
    }

    /// A link, if it leads to Graph: a token sent elsewhere would be lost.
    pub(super) fn own(&self, link: &str) -> Result<Url, Fault> {
        let base = &self.options.base_url;
        let is_own = |url: &Url| {
            url.origin() == base.origin() && url.username().is_empty() && url.password().is_none()
        };
        Url::parse(link).ok().filter(is_own).ok_or_else(|| {
            let to = Url::parse(link).ok().and_then(|url| url.host_str().map(str::to_owned));
            Fault::passing(
                Code::GraphLink,
                format!(
                    "Microsoft Graph says that its next page is at {}, which is not {base}",
                    to.as_deref().unwrap_or("no address")
                ),
                "nothing was sent there; the next run asks for the same page again; if it stays so, find \
                 out what answers in Graph's place (a proxy?)",
            )
        })
    }

    /// Gets a token.
    pub(super) async fn sign_in(&self) -> Result<SignedIn, Fault> {
        let signed_in = self.options.sign_in.sign_in().await;
        signed_in.map_err(|SecretError { settings, problem, fix }| {
            Fault::no_token(settings, problem, fix)
        })
    }

    /// Gets a page, of whose objects `make` makes something as soon as it is whole.
    pub(super) async fn get<T>(
        &self,
        call: Call,
        url: Url,
        deadline: Deadline,
        make: impl Fn(&SignedIn, DateTime<Utc>, &[&RawValue]) -> T,
    ) -> Result<Answer<T>, Interrupt> {
        let Options { http, retry, seams: (clock, random), .. } = &self.options;
        let attempt = || async {
            let Some(_turn) = self.pace.turn(deadline).await else {
                return Err(Failure::OutOfTime);
            };
            let signed_in = self.sign_in().await.map_err(Interrupt::from)?;
            let request = http
                .get(url.clone())
                .bearer_auth(signed_in.token.secret.expose_secret())
                .header(ACCEPT, "application/json")
                .header(ACCEPT_ENCODING, "gzip")
                .header("Prefer", call.prefer)
                .header("x-ms-throttle-priority", "low");
            let asked = Instant::now();
            let reply = match timeout_at(deadline.instant(), send(request, REPLY_LIMIT)).await {
                Ok(reply) => reply.map_err(Failure::passing)?,
                Err(_) if asked.elapsed() < SLOW => return Err(Failure::OutOfTime),
                Err(_) => return Err(Failure::passing("no whole answer came")),
            };
            if reply.status == StatusCode::TOO_MANY_REQUESTS {
                let asked = retry_after(&reply.headers, clock.now());
                return Err(Failure::Throttled(Some(self.pace.refused(asked).await)));
            }
            self.pace.answered(used(&reply.headers)).await;
            if reply.status == StatusCode::OK {
                let now = server_time(&reply.headers).unwrap_or_else(|| clock.now());
                let made = read(&reply.body, call.is_delta, |page| make(&signed_in, now, page));
                let not_one = |error| Failure::passing(format!("it answered 200, but {error}"));
                let (made, link) = made.map_err(not_one)?;
                if let Link::Next(link) | Link::Delta(link) = &link {
                    self.own(link).map_err(Interrupt::from)?;
                }
                if matches!(&link, Link::Next(link) if link == url.as_str()) {
                    return Err(Interrupt::from(call.goes_round()).into());
                }
                return Ok(Answer::Page(made, link, now));
            }
            if needs_resync(&reply) {
                return Ok(Answer::Resync);
            }
            Err(self.refusal(call, &reply, &signed_in, deadline).await)
        };
        let gave_up = |gave_up: Option<GaveUp>| match gave_up {
            None => Interrupt::OutOfTime,
            Some(gave_up) => self.gave_up(call, gave_up).into(),
        };
        retry.start(random, deadline).run(call.what, attempt, gave_up).await
    }

    /// What an answer means that is neither a page nor a rate limit.
    async fn refusal(
        &self,
        call: Call,
        reply: &Reply,
        signed_in: &SignedIn,
        deadline: Deadline,
    ) -> Failure<Interrupt> {
        let status = reply.status;
        let said = || format!("HTTP {}: {}", status.as_u16(), ErrorBody::read(&reply.body));
        // Graph's own refusals are JSON; a proxy's are pages.
        let is_foreign = status.is_client_error() && looks_like(&reply.body) != "JSON";
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT || is_foreign {
            let asked = retry_after(&reply.headers, self.clock().now());
            return Failure::Passing { said: said(), asked };
        }
        if status == StatusCode::UNAUTHORIZED {
            self.options.sign_in.forget(&signed_in.token).await;
            return Failure::TokenRefused(said());
        }
        let fault = match status {
            StatusCode::FORBIDDEN => self.forbidden(call, &said(), signed_in, deadline).await,
            status if status.is_redirection() => Fault::settings(
                Code::GraphRefused,
                format!("{} at {} answers with a redirect", call.what, self.base_url()),
                "redirects are not followed, since the token would go with them: find out what answers in \
                 Graph's place (a proxy?)",
            ),
            _ => Fault::settings(
                Code::GraphRefused,
                format!("Microsoft Graph refuses {}: {}", call.what, said()),
                "nothing is lost; give these words to whoever looks after the program, or report them",
            ),
        };
        Interrupt::from(fault).into()
    }

    /// Graph says the same where a right is missing and where a licence is: what is there tells which.
    async fn forbidden(
        &self,
        call: Call,
        said: &str,
        signed_in: &SignedIn,
        deadline: Deadline,
    ) -> Fault {
        let has = |right: &&str| signed_in.roles.iter().any(|role| role == right);
        if !call.needs.iter().any(has) {
            return Fault::settings(
                Code::GraphConsent,
                format!(
                    "Microsoft Graph refuses {}: the token has no right {} ({said})",
                    call.what,
                    call.needs.join(" or ")
                ),
                "grant it: `mimecast-sentinel check` prints the command; a right that was granted just \
                 now takes up to an hour",
            );
        }
        if call.plans.is_empty() {
            return Fault::settings(
                Code::GraphRefused,
                format!("Microsoft Graph refuses {}, though the right is there: {said}", call.what),
                "give these words to whoever looks after the tenant",
            );
        }
        let names = call.plans.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
        match self.has_plan(call, deadline).await {
            Some(false) => Fault::settings(
                Code::GraphLicence,
                format!(
                    "Microsoft Graph refuses {}: the right is there, but the tenant has no licence with \
                     {names} ({said})",
                    call.what
                ),
                "have the licence bought, or take the source out of SOURCES",
            ),
            Some(true) => Fault::settings(
                Code::GraphRefused,
                format!(
                    "Microsoft Graph refuses {}, though the right and {names} are there: {said}",
                    call.what
                ),
                "give these words to whoever looks after the tenant",
            ),
            None => Fault::settings(
                Code::GraphLicence,
                format!(
                    "Microsoft Graph refuses {}: the right is there; whether a licence with {names} is, \
                     could not be seen ({said})",
                    call.what
                ),
                "look at the tenant's licences, or grant LicenseAssignment.Read.All, by which \
                 `mimecast-sentinel check` sees them",
            ),
        }
    }

    /// Whether the tenant has one of the service plans; `None` if that cannot be seen.
    async fn has_plan(&self, call: Call, deadline: Deadline) -> Option<bool> {
        let signed_in = self.options.sign_in.sign_in().await.ok()?;
        let url = self.at("subscribedSkus", &[("$select", "capabilityStatus,servicePlans")]);
        let token = signed_in.token.secret.expose_secret();
        let request = self.options.http.get(url).bearer_auth(token);
        let sent = timeout_at(deadline.instant(), send(request, REPLY_LIMIT)).await;
        let reply = sent.ok()?.ok().filter(|reply| reply.status == StatusCode::OK)?;
        let skus: Skus = reply.json().ok()?;
        Some(skus.value.iter().any(|sku| sku.has(call.plans)))
    }

    fn gave_up(&self, call: Call, GaveUp { said, token_refused, how_often }: GaveUp) -> Fault {
        if token_refused {
            return Fault::passing(
                Code::GraphUnauthorized,
                format!("Microsoft Graph refuses fresh access tokens for {}: {said}", call.what),
                "the next run tries again; if it stays so, look at the sign-in logs of the application in \
                 Microsoft Entra",
            );
        }
        let host = self.base_url().host_str().unwrap_or_default();
        Fault::passing(
            Code::GraphUnreachable,
            format!("{} at {host} failed {how_often}: {said}", call.what),
            "nothing is lost, the next run tries again; if it stays so, check what stands between this \
             machine and Microsoft Graph (a proxy, a firewall), and the service health of Microsoft 365",
        )
    }
}

/// The licences of a tenant.
#[derive(Deserialize)]
struct Skus {
    value: Vec<Sku>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Sku {
    capability_status: String,
    service_plans: Vec<Plan>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Plan {
    service_plan_id: String,
    provisioning_status: String,
}

impl Sku {
    fn has(&self, plans: &[(&str, &str)]) -> bool {
        let is_on = |plan: &&Plan| !plan.provisioning_status.eq_ignore_ascii_case("Disabled");
        let is_one =
            |plan: &Plan| plans.iter().any(|(_, id)| plan.service_plan_id.eq_ignore_ascii_case(id));
        // In grace, a subscription that ran out still works.
        ["Enabled", "Warning"].iter().any(|on| self.capability_status.eq_ignore_ascii_case(on))
            && self.service_plans.iter().filter(is_on).any(is_one)
    }
}

fn used(headers: &HeaderMap) -> Option<f64> {
    headers.get(USED)?.to_str().ok()?.trim().parse().ok()
}

fn read<T>(
    body: &[u8],
    is_delta: bool,
    make: impl Fn(&[&RawValue]) -> T,
) -> Result<(T, Link), NotJson> {
    let Page { value, next, delta } = json(body)?;
    let link = match (next, delta) {
        (Some(next), _) => Link::Next(next),
        (None, Some(delta)) => Link::Delta(delta),
        (None, None) if is_delta => {
            return Err(NotJson::Shape("it does not say where to go on".to_owned()));
        }
        (None, None) => Link::None,
    };
    Ok((make(&value), link))
}

/// Whether a link is refused for its age, in one of the ways that were seen.
fn needs_resync(reply: &Reply) -> bool {
    if reply.status == StatusCode::GONE {
        return true;
    }
    if reply.status != StatusCode::BAD_REQUEST {
        return false;
    }
    let ErrorBody { code, message } = ErrorBody::read(&reply.body);
    ["syncStateNotFound", "syncStateInvalid", "resyncRequired"]
        .iter()
        .any(|known| code.eq_ignore_ascii_case(known))
        || message.contains("Sync must reach steady state")
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({})", self.base_url())
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("base_url", &self.base_url.as_str()).finish_non_exhaustive()
    }
}
