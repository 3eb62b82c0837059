//! The status page over HTTP: as a function of the Functions host, and on an address of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::connections::accept;

/// How long a connection may be idle: the places of those who say nothing are needed by others, such as
/// a container's probe.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// What a browser says of where a request comes from.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// How the streams are.
    Status,
    /// The same, and a connection test.
    Test,
}

/// A page, piece by piece.
pub struct Shown {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its HTML.
    pub pieces: BoxStream<'static, String>,
}

/// Makes pages.
#[derive(Clone)]
pub struct Pages {
    /// The page that is asked for.
    pub show: Arc<dyn Fn(Asked) -> BoxFuture<'static, Shown> + Send + Sync>,
    /// Its `Content-Security-Policy`.
    pub policy: String,
}

/// Says why the program does not do its work, if it does not.
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

impl Shown {
    /// A page that is whole.
    pub fn whole(status: StatusCode, html: String) -> Self {
        Self { status, pieces: futures::stream::iter([html]).boxed() }
    }
}

impl Pages {
    /// The answer to a request, or why there is none.
    async fn answer(&self, method: &str, from: From<'_>) -> Result<Shown, (StatusCode, String)> {
        let asked = match method {
            "GET" | "HEAD" => Asked::Status,
            "POST" if from.is_this_page() => Asked::Test,
            "POST" => {
                let why = "the connection can be tested from the status page alone";
                return Err((StatusCode::FORBIDDEN, why.to_owned()));
            }
            _ => {
                let why = "this address takes GET and POST".to_owned();
                return Err((StatusCode::METHOD_NOT_ALLOWED, why));
            }
        };
        Ok((self.show)(asked).await)
    }

    fn headers(&self) -> [(HeaderName, String); 5] {
        [
            (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
            (CONTENT_SECURITY_POLICY, self.policy.clone()),
            (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            // The address may have a key in it. With `no-referrer` a form would have no Origin.
            (REFERRER_POLICY, "same-origin".to_owned()),
            (CACHE_CONTROL, "no-store".to_owned()),
        ]
    }
}

/// Where a request comes from, by its headers.
#[derive(Clone, Copy, Debug, Default)]
struct From<'a> {
    host: Option<&'a str>,
    origin: Option<&'a str>,
    fetch_site: Option<&'a str>,
}

impl From<'_> {
    /// Whether a browser sent it from a page of the same host. Each sends `Origin` with a POST.
    fn is_this_page(self) -> bool {
        let same_host = |origin: &str, host: &str| {
            let of_origin = origin.parse::<Uri>().ok();
            let of_origin = of_origin.as_ref().and_then(Uri::authority);
            of_origin.is_some_and(|of_origin| of_origin.as_str().eq_ignore_ascii_case(host))
        };
        let (Some(origin), Some(host)) = (self.origin, self.host) else { return false };
        same_host(origin, host) && self.fetch_site.is_none_or(|site| site == "same-origin")
    }
}

/// Answers the host's call of the HTTP function: `{"Data":{"req":{"Method":…,"Headers":…}}}`. The page is
/// sent whole, since the host waits for the end anyway.
pub(super) async fn function(pages: &Pages, payload: &[u8]) -> Value {
    let payload: Value = serde_json::from_slice(payload).unwrap_or_default();
    let request = &payload["Data"]["req"];
    let none = Map::new();
    let headers = request["Headers"].as_object().unwrap_or(&none);
    // As the host writes them: a list of values for each name, in any case.
    let header = |wanted: &str| {
        let (_, value) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        value.get(0).unwrap_or(value).as_str()
    };
    let from = From {
        host: header(HOST.as_str()),
        origin: header(ORIGIN.as_str()),
        fetch_site: header(SEC_FETCH_SITE),
    };
    let method = request["Method"].as_str().unwrap_or_default();
    let (status, headers, body) = match pages.answer(method, from).await {
        Ok(shown) => {
            let html: String = shown.pieces.collect().await;
            let headers =
                pages.headers().map(|(name, value)| (name.to_string(), Value::from(value)));
            (shown.status, Map::from_iter(headers), html)
        }
        Err((status, why)) => {
            let headers = [(CONTENT_TYPE.to_string(), "text/plain; charset=utf-8".into())];
            (status, Map::from_iter(headers), format!("{why}\n"))
        }
    };
    json!({ "statusCode": status.as_u16(), "headers": headers, "body": body })
}

/// Shows the pages on `listener` until `stop` is cancelled, and at `/healthz` whether the program does
/// its work.
pub async fn listen(listener: TcpListener, pages: Pages, health: Health, stop: CancellationToken) {
    let only_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let router = Router::new()
        .route("/", get(page).post(page).with_state(pages))
        .route("/healthz", get(healthz).with_state(health))
        .fallback(|| async { plain(StatusCode::NOT_FOUND, "there are / and /healthz") })
        .layer(middleware::from_fn_with_state(only_loopback, known_host));
    accept(listener, router, IDLE_TIME, &GracefulShutdown::new(), &stop).await;
}

async fn page(State(pages): State<Pages>, request: Request) -> Response {
    let headers = request.headers();
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let from = From {
        host: header(HOST.as_str()),
        origin: header(ORIGIN.as_str()),
        fetch_site: header(SEC_FETCH_SITE),
    };
    match pages.answer(request.method().as_str(), from).await {
        Ok(Shown { status, pieces }) => {
            let body = Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>));
            (status, pages.headers(), body).into_response()
        }
        Err((status, why)) => plain(status, &why),
    }
}

async fn healthz(State(health): State<Health>) -> Response {
    match health() {
        Ok(()) => plain(StatusCode::OK, "ok"),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

fn plain(status: StatusCode, line: &str) -> Response {
    (status, format!("{line}\n")).into_response()
}

/// On an address of this machine alone, refuses a name that somebody else has lead here: a web page
/// could read the status by it.
async fn known_host(
    State(only_loopback): State<bool>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if only_loopback && !is_loopback(host) {
        let line = "the Host header must be localhost or an address of this machine";
        return plain(StatusCode::FORBIDDEN, line);
    }
    next.run(request).await
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let address = format!("{name}:0").parse::<SocketAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|to| to.ip().is_loopback())
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").field("status", &self.status).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}
