//! The Azure Functions custom handler: the HTTP server that the Functions host starts, asks whether
//! it is there (`GET /`) and calls at each tick of a timer (`POST /CloudIntegrated`).
//!
//! The host waits until its function timeout, and then kills the process, for a success whose body
//! is empty or `null`. So every answer here is a JSON object, `application/json`:
//! `{"Outputs":{},"Logs":["…"],"ReturnValue":…}`, and none is a redirect, which the host would
//! follow. Of an answer that is no success the host reads the status alone; what went wrong belongs
//! in the log.

mod connections;
mod page;
mod timer;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, error_span, info, warn};

use connections::accept;
pub use page::{Asked, Health, Pages, Shown, listen};
pub use timer::Tick;

/// Where it calls for the status page.
const STATUS: &str = "/Status";
/// The host's id of an invocation, by which its own log lines are found.
const INVOCATION_ID: &str = "x-azure-functions-invocationid";
/// The most a payload may have; a timer's is well under 1 KiB.
const MAX_PAYLOAD_BYTES: usize = 64 * 1024;
/// How long a payload may take to arrive; over loopback it takes milliseconds.
const PAYLOAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection of the host may be idle. It replaces its own after 75 s: ours must not be the
/// first to close, or a tick might be on its way.
const IDLE_TIME: Duration = Duration::from_secs(120);
/// How long clients have, once the last run ended after a stop, to take their answers.
const FAREWELL: Duration = Duration::from_secs(1);

/// One run: what a tick starts. It never gets two at a time.
pub type Run = Arc<dyn Fn(Tick) -> BoxFuture<'static, RunEnd> + Send + Sync>;

/// What ticks start, and by which rules.
#[derive(Clone)]
pub struct Job {
    /// The run.
    pub run: Run,
    /// The least time between the beginnings of two runs. The port is open to every process of this
    /// machine, and each run spends calls that are counted.
    pub pause: Duration,
    /// How long a run may take: one that is in progress for longer is a warning at each tick.
    pub time_limit: Duration,
}

/// A function that a timer starts.
#[derive(Clone, Debug)]
pub struct Function {
    /// Where the host calls: `/` and the name of the folder that has its `function.json`.
    pub path: &'static str,
    /// What a tick does.
    pub does: Does,
}

/// What a tick does.
#[derive(Clone, Debug)]
pub enum Does {
    /// It starts a run.
    Run(Job),
    /// Nothing, for this reason.
    Nothing(String),
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { run: _, pause, time_limit } = self;
        let mut shown = f.debug_struct("Job");
        shown.field("pause", pause).field("time_limit", time_limit).finish_non_exhaustive()
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// What the program would exit with after this run: only 0 counts as a success of the function.
    pub exit_code: u8,
    /// The run's summary, handed to the host as the function's return value.
    pub summary: Value,
}

/// Answers the Functions host's calls of these functions on `listener`, which the caller binds to loopback before anything
/// slow, until `stop` is cancelled. Then it accepts nothing more and waits for the runs in progress,
/// which are meant to watch the same token.
///
/// A run is a task of its own: a client that goes away does not end it, and a panic in it fails its
/// tick alone.
pub async fn serve(
    listener: TcpListener,
    functions: Vec<Function>,
    pages: Pages,
    stop: CancellationToken,
) {
    let port = listener.local_addr().map(|address| address.port()).unwrap_or_default();
    let ours = Arc::new(["127.0.0.1", "localhost"].map(|name| format!("{name}:{port}")));
    let mut router = Router::new()
        .route("/", get(|| async { answer(StatusCode::OK, "ready", Value::Null) }))
        .route(STATUS, post(status).with_state(pages));
    let mut runs = Vec::new();
    for Function { path, does } in functions {
        router = match does {
            Does::Run(job) => {
                let (one_run, began) = (Arc::new(Mutex::new(())), Arc::default());
                runs.push(Arc::clone(&one_run));
                let handler = Handler { job, one_run, began, stop: stop.clone() };
                router.route(path, post(tick).with_state(handler))
            }
            Does::Nothing(why) => router.route(path, post(nothing).with_state(why)),
        };
    }
    let router = router
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "there is no such function") })
        .method_not_allowed_fallback(|| async {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "this address takes GET / or POST /<function>")
        })
        .layer(middleware::from_fn_with_state(ours, only_from_the_host));
    let connections = GracefulShutdown::new();
    accept(listener, router, IDLE_TIME, &connections, &stop).await;
    let all_ended = async || {
        for one_run in &runs {
            drop(one_run.lock().await);
        }
    };
    let last_run_ended = async {
        all_ended().await;
        sleep(FAREWELL).await;
    };
    tokio::select! {
        () = connections.shutdown() => {}
        // A client that keeps its connection open and silent does not hold up the program.
        () = last_run_ended => {}
    }
    // A run whose client went away has no connection that would have been waited for.
    all_ended().await;
}

/// A tick of what is off.
async fn nothing(State(why): State<String>) -> Response {
    info!("no run was started: {why}");
    answer(StatusCode::OK, &why, Value::Null)
}

/// Refuses what a web page can make a browser of this machine send: a request from a page has that
/// page's `Origin`, and where a name of the page's owner leads to 127.0.0.1, that name as `Host`.
async fn only_from_the_host(
    State(ours): State<Arc<[String; 2]>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let hosts = headers.get_all(HOST).into_iter().map(HeaderValue::as_bytes);
    // A request line with a whole URL counts before the header.
    let mut hosts = hosts.chain(request.uri().authority().map(|host| host.as_str().as_bytes()));
    let is_ours = |host: &[u8]| ours.iter().any(|ours| host.eq_ignore_ascii_case(ours.as_bytes()));
    if !headers.contains_key(HOST) || !hosts.all(is_ours) || headers.contains_key(ORIGIN) {
        let line = "only the Functions host of this machine may call: the Host header must be \
                    this address, and there must be no Origin header";
        return refusal(StatusCode::FORBIDDEN, line);
    }
    next.run(request).await
}

/// What a tick needs to know.
#[derive(Clone)]
struct Handler {
    job: Job,
    /// Held by the run in progress.
    one_run: Arc<Mutex<()>>,
    /// When the last run began.
    began: Arc<std::sync::Mutex<Option<Instant>>>,
    stop: CancellationToken,
}

async fn tick(State(handler): State<Handler>, headers: HeaderMap, body: Body) -> Response {
    let invocation_id = invocation_id(&headers);
    // At the level of errors, so that no log level takes the id from a line that is printed.
    let span = error_span!("tick", invocation_id);
    async {
        match payload(body).await {
            Ok(payload) => handler.tick(Tick::read(invocation_id, &payload)).await,
            Err(refusal) => refusal,
        }
    }
    .instrument(span)
    .await
}

async fn status(State(pages): State<Pages>, headers: HeaderMap, body: Body) -> Response {
    let span = error_span!("status", invocation_id = invocation_id(&headers));
    async {
        match payload(body).await {
            Ok(payload) => {
                let shown = page::function(&pages, &payload).await;
                Json(json!({ "Outputs": { "res": shown }, "Logs": [], "ReturnValue": null }))
                    .into_response()
            }
            Err(refusal) => refusal,
        }
    }
    .instrument(span)
    .await
}

impl Handler {
    async fn tick(&self, tick: Tick) -> Response {
        if self.stop.is_cancelled() {
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, "stopping: no run was started");
        }
        let running = match self.begin() {
            Ok(running) => running,
            Err(why) => {
                let line = format!("no run was started: {why}");
                return answer(StatusCode::OK, &line, Value::Null);
            }
        };
        info!(past_due = tick.past_due, last = ?tick.last, due = ?tick.due, "run started");
        let run = Arc::clone(&self.job.run);
        let task = async move {
            let _running = running;
            run(tick).await
        };
        match tokio::spawn(task.in_current_span()).await {
            Ok(RunEnd { exit_code: 0, summary }) => answer(StatusCode::OK, "run done", summary),
            Ok(RunEnd { exit_code, summary }) => {
                let line = format!("run failed with exit code {exit_code}");
                answer(StatusCode::INTERNAL_SERVER_ERROR, &line, summary)
            }
            Err(_) => {
                error!(
                    "the run broke off in a panic; this is a bug: please report it with the message \
                     above; the next tick starts a new run"
                );
                refusal(StatusCode::INTERNAL_SERVER_ERROR, "run broken off by a panic")
            }
        }
    }

    /// The right to run, or why there is none now.
    fn begin(&self) -> Result<OwnedMutexGuard<()>, String> {
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let ago = began.map(|began| began.elapsed());
        let Ok(running) = Arc::clone(&self.one_run).try_lock_owned() else {
            return Err(self.in_progress(ago.unwrap_or_default()));
        };
        if let Some(ago) = ago.filter(|ago| *ago < self.job.pause) {
            let (ago, pause) = (ago.as_secs(), self.job.pause.as_secs());
            return Err(format!("the last one began {ago} s ago; there are {pause} s between two"));
        }
        *began = Some(Instant::now());
        Ok(running)
    }

    fn in_progress(&self, since: Duration) -> String {
        let (seconds, limit) = (since.as_secs(), self.job.time_limit.as_secs());
        if since > self.job.time_limit {
            warn!(
                running_for_seconds = seconds,
                time_limit_seconds = limit,
                "no run was started: the one before is in progress for longer than its time limit \
                 and should have ended; if the next ticks find it too, restart the function app and \
                 report this line"
            );
        }
        format!("the one that began {seconds} s ago is still in progress")
    }
}

/// What a timer's payload says.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn tick_of(payload: &[u8]) -> Tick {
    Tick::read(None, payload)
}

/// The host's id of an invocation; nothing that is longer than a GUID could be.
fn invocation_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(INVOCATION_ID)?.to_str().ok()?;
    (id.len() <= 64).then(|| id.to_owned())
}

/// The whole payload, or the answer to one that is too large, too slow or broken. A large one is
/// read to its end all the same, without being kept, so that its client is there for the answer.
async fn payload(body: Body) -> Result<Bytes, Response> {
    let read = async {
        let mut kept = Vec::new();
        let mut size = 0_usize;
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            size = size.saturating_add(chunk.len());
            if size <= MAX_PAYLOAD_BYTES {
                kept.extend_from_slice(&chunk);
            }
        }
        Ok::<_, axum::Error>((size <= MAX_PAYLOAD_BYTES).then(|| kept.into()))
    };
    match timeout(PAYLOAD_TIME, read).await {
        Ok(Ok(Some(payload))) => Ok(payload),
        Ok(Ok(None)) => Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "payload over 64 KiB")),
        Ok(Err(_)) => Err(refusal(StatusCode::BAD_REQUEST, "payload broken off")),
        Err(_) => Err(refusal(StatusCode::REQUEST_TIMEOUT, "payload not there after 10 s")),
    }
}

fn refusal(status: StatusCode, line: &str) -> Response {
    answer(status, line, Value::Null)
}

/// An answer in the form that the host reads.
fn answer(status: StatusCode, line: &str, return_value: Value) -> Response {
    let body = json!({ "Outputs": {}, "Logs": [line], "ReturnValue": return_value });
    (status, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;
    use tokio::sync::oneshot;
    use tokio::task::yield_now;
    use tokio::time::advance;

    use super::*;

    fn handler(run: Run, pause: u64) -> Handler {
        let (pause, time_limit) = (Duration::from_secs(pause), Duration::from_secs(540));
        let job = Job { run, pause, time_limit };
        let (one_run, began, stop) = (Arc::default(), Arc::default(), CancellationToken::new());
        Handler { job, one_run, began, stop }
    }

    /// The line of a tick's answer, which is a success.
    async fn tick(handler: &Handler) -> String {
        let answer = handler.tick(Tick::default()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        body["Logs"][0].as_str().unwrap().to_owned()
    }

    fn done() -> RunEnd {
        RunEnd { exit_code: 0, summary: Value::Null }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_within_the_pause_succeeds_does_nothing_and_says_so() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let run: Run = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { done() }.boxed()
        });
        let handler = handler(run, 60);
        assert_eq!(tick(&handler).await, "run done");
        for ago in 0..60 {
            let expected = format!(
                "no run was started: the last one began {ago} s ago; there are 60 s between two"
            );
            assert_eq!(tick(&handler).await, expected);
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        assert_eq!(tick(&handler).await, "run done");
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }

    /// How many lines of warnings there are.
    #[derive(Clone, Default)]
    struct Warnings(Arc<StdMutex<Vec<u8>>>);

    impl std::io::Write for Warnings {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_since_when_a_run_is_in_progress_and_warns_of_one_over_its_time_limit() {
        let warnings = Warnings::default();
        let writer = warnings.clone();
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(log);
        let warned = || String::from_utf8(warnings.0.lock().unwrap().clone()).unwrap();

        let (end, ended) = oneshot::channel();
        let ended = StdMutex::new(Some(ended));
        let run: Run = Arc::new(move |_| {
            let ended = ended.lock().unwrap().take().unwrap();
            async {
                drop(ended.await);
                done()
            }
            .boxed()
        });
        let handler = handler(run, 60);
        let first = tokio::spawn({
            let handler = handler.clone();
            async move { tick(&handler).await }
        });
        while handler.one_run.try_lock().is_ok() {
            yield_now().await;
        }
        advance(Duration::from_secs(30)).await;
        let expected = "no run was started: the one that began 30 s ago is still in progress";
        assert_eq!(tick(&handler).await, expected);
        advance(Duration::from_secs(510)).await;
        let expected = "no run was started: the one that began 540 s ago is still in progress";
        assert_eq!(tick(&handler).await, expected);
        assert_eq!(warned(), "");
        advance(Duration::from_secs(61)).await;
        for ticks in 1..=2 {
            let expected = "no run was started: the one that began 601 s ago is still in progress";
            assert_eq!(tick(&handler).await, expected);
            assert_eq!(warned().lines().count(), ticks, "{}", warned());
        }
        assert!(warned().contains("WARN"), "{}", warned());
        assert!(
            warned().contains("running_for_seconds=601 time_limit_seconds=540"),
            "{}",
            warned()
        );
        end.send(()).unwrap();
        assert_eq!(first.await.unwrap(), "run done");
    }
}
