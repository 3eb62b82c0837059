//! Connections, routes, and the faults between them.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::DATE;
use axum::http::{HeaderValue, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::reply::{self, Accepted, HangUp};
use super::state::Shared;
use super::{Endpoint, Fault, Moment, azure, graph, mimecast};

/// What is buffered of a request, far above what any endpoint takes.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// Serves a simulator's connections.
#[derive(Debug, Clone)]
pub struct Handler {
    router: Router,
}

impl Handler {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let at = |endpoint, route: MethodRouter<Arc<Shared>>| {
            route.layer(from_fn_with_state((Arc::clone(shared), endpoint), through_faults))
        };
        let listing = "/siem/v1/batch/events/ci";
        let ingestion = "/dataCollectionRules/{rule}/streams/{stream}";
        let router = Router::new()
            .route("/", get(root))
            .route("/oauth/token", at(Endpoint::MimecastToken, post(mimecast::token)))
            .route(listing, at(Endpoint::Listing, get(mimecast::list)))
            .route("/files/{*key}", at(Endpoint::File, get(mimecast::file)))
            .route("/msi/token", at(Endpoint::AzureToken, get(azure::managed_identity)))
            .route("/{tenant}/oauth2/v2.0/token", at(Endpoint::AzureToken, post(azure::entra)))
            .route("/secrets/{name}", at(Endpoint::Secret, get(azure::secret)))
            .route("/v1.0/{*path}", at(Endpoint::Graph, get(graph::get)))
            .route(ingestion, at(Endpoint::Post, post(azure::ingest)))
            .fallback(unknown_path)
            .method_not_allowed_fallback(unknown_path)
            .layer(DefaultBodyLimit::disable())
            .layer(from_fn_with_state(Arc::clone(shared), dated))
            .with_state(Arc::clone(shared));
        Self { router }
    }

    /// Serves one connection until either side closes it.
    pub async fn serve<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = TowerToHyperService::new(self.router.clone());
        // hyper closes the connection without an answer when the service fails.
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let answer = router.call(request);
            async move {
                let response: Response = answer.await.unwrap_or_else(|never| match never {});
                match response.extensions().get::<HangUp>() {
                    Some(_) => Err(reply::Broken),
                    None => Ok(response),
                }
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::trace!(%error, "a connection to the simulator ended early");
        }
    }
}

/// Accepts until it is dropped, and drops its connections with it.
pub(super) async fn accept(listener: TcpListener, handler: Handler) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error is that of a client which is gone already.
                if let Ok((stream, _)) = accepted
                    // Else answers in two packets wait for the client's delayed acknowledgement.
                    && stream.set_nodelay(true).is_ok()
                {
                    let handler = handler.clone();
                    connections.spawn(async move { handler.serve(stream).await });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// None of the services has anything there, and each says so.
async fn root() -> Response {
    reply::json(404, &serde_json::json!({}))
}

async fn unknown_path(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let breach = format!("{} {}: no such route", request.method(), request.uri().path());
    shared.state().violations.push(breach);
    reply::json(404, &serde_json::json!({}))
}

/// Dates each answer by the simulator's clock.
async fn dated(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    let now = shared.options.clock.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(now) = HeaderValue::from_str(&now) {
        answer.headers_mut().insert(DATE, now);
    }
    answer
}

/// Lets a request meet its fault, before or after it is carried out.
async fn through_faults(
    State((shared, endpoint)): State<(Arc<Shared>, Endpoint)>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST_BYTES).await else {
        return reply::hang_up();
    };
    let (name, identity) = identify(endpoint, &parts.uri, &body);
    let (number, watch) = shared.state().watched();
    let goes_on = |moment| watch.as_ref().is_none_or(|watch| watch(number, moment));
    if !goes_on(Moment::Arrived) {
        return reply::hang_up();
    }
    let fault = shared.state().meet(endpoint, &name, identity);
    if !shared.options.latency.is_zero() {
        tokio::time::sleep(shared.options.latency).await;
    }
    if let Fault::Echo(status) = fault {
        return reply::echo(status, endpoint, &parts, &body);
    }
    if let Some(refusal) = reply::refused_by(&fault, endpoint) {
        return refusal;
    }
    let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
    let accepted = answer.extensions().get::<Accepted>().copied();
    let answer = match goes_on(Moment::CarriedOut) {
        true => reply::spoiled_by(&fault, answer).await,
        false => reply::hang_up(),
    };
    if let Some(Accepted(rows)) = accepted
        && answer.extensions().get::<HangUp>().is_some()
    {
        let mut state = shared.state();
        state.calls.lost_replies += 1;
        state.calls.lost_rows += rows;
    }
    answer
}

/// The name a request is counted under, and what makes it the same request when it is repeated.
fn identify(endpoint: Endpoint, uri: &Uri, body: &Bytes) -> (String, String) {
    let query = uri.query().unwrap_or_default();
    let own = |name: String| (name.clone(), name);
    match endpoint {
        Endpoint::MimecastToken | Endpoint::Secret => own(String::new()),
        Endpoint::Listing => {
            (reply::field(query.as_bytes(), "type").unwrap_or_default(), query.to_owned())
        }
        Endpoint::File => own(uri.path().trim_start_matches("/files/").to_owned()),
        Endpoint::Graph => {
            let path = uri.path().trim_start_matches("/v1.0/").to_owned();
            let identity = format!("{path}?{query}");
            (path, identity)
        }
        Endpoint::AzureToken => own(reply::field(query.as_bytes(), "resource")
            .or_else(|| reply::field(body, "scope"))
            .map(|resource| resource.trim_end_matches("/.default").to_owned())
            .unwrap_or_default()),
        Endpoint::Post => {
            let digest = Sha256::digest(body);
            let digest = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            (uri.path().rsplit('/').next().unwrap_or_default().to_owned(), digest)
        }
    }
}
