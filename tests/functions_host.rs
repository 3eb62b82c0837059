//! The custom handler against a simulator of the Functions host.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use mimecast_sentinel::functions::{Job, Run, RunEnd, Tick, serve};
use mimecast_sentinel::schedule::Schedule;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::functions_host::{
    self as host, Errors, HostClient, HostSimulator, Invocation, Level, Limits, State, Timer,
    functions, no_pages,
};
use crate::support::log::Log;
use crate::support::own_process;

/// Longer than anything here takes; passing it is a failure, never a wait.
const LONG: Duration = Duration::from_secs(20);
const FUNCTION: &str = "CloudIntegrated";
/// That of a run, in which none here ends by itself.
const TIME_LIMIT: Duration = Duration::from_secs(540);

/// The handler in this process, with the HTTP half of the host.
struct Room {
    port: u16,
    client: HostClient,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Room {
    /// Ticks may follow on each other at once.
    async fn open(run: Run) -> Self {
        Self::of(Job { run, pause: Duration::ZERO, time_limit: TIME_LIMIT }).await
    }

    async fn of(job: Job) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, functions(job), no_pages(), stop.clone()));
        Self { port, client: HostClient::new(port), stop, served }
    }

    async fn tick(&self) -> Invocation {
        self.post(Timer::Scheduled.payload().to_string().as_bytes()).await
    }

    async fn post(&self, payload: &[u8]) -> Invocation {
        self.client.invoke(FUNCTION, payload, LONG).await
    }

    /// Sends the start of a tick by hand: its first line, the `Host` header, and `rest`.
    async fn begin_tick(&self, rest: &str) -> TcpStream {
        let host = format!("Host: 127.0.0.1:{}", self.port);
        self.begin(&format!("POST /{FUNCTION} HTTP/1.1\r\n{host}\r\n{rest}")).await
    }

    async fn begin(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Sends a tick by hand, all of it before it reads the answer.
    async fn tick_by_hand(&self, rest: &str) -> String {
        read_all(self.begin_tick(&format!("Connection: close\r\n{rest}")).await).await
    }

    /// Stops the server, and lets it do all that it does by itself then.
    async fn stop_and_settle(&self) {
        self.stop.cancel();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }
}

async fn read_all(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    timeout(LONG, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

/// A run that ends at once, and writes down what it was given.
fn ends_with(exit_code: u8) -> (Run, Arc<Mutex<Vec<Tick>>>) {
    let ticks = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ticks);
    let run: Run = Arc::new(move |tick| {
        seen.lock().unwrap().push(tick);
        async move { RunEnd { exit_code, summary: json!({ "run_id": "r1" }) } }.boxed()
    });
    (run, ticks)
}

/// A run that says when it starts, and when it is over, and lasts until it is let go.
struct HeldRun {
    run: Run,
    started: mpsc::UnboundedReceiver<()>,
    over: mpsc::UnboundedReceiver<()>,
    let_go: Arc<Semaphore>,
}

impl HeldRun {
    fn new() -> Self {
        let (start, started) = mpsc::unbounded_channel();
        let (finish, over) = mpsc::unbounded_channel();
        let let_go = Arc::new(Semaphore::new(0));
        let gate = Arc::clone(&let_go);
        let run: Run = Arc::new(move |_| {
            start.send(()).unwrap();
            let (gate, finish) = (Arc::clone(&gate), finish.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                finish.send(()).unwrap();
                RunEnd { exit_code: 0, summary: Value::Null }
            }
            .boxed()
        });
        Self { run, started, over, let_go }
    }

    async fn has_started(&mut self) {
        timeout(LONG, self.started.recv()).await.unwrap().unwrap();
    }

    async fn is_over(&mut self) {
        timeout(LONG, self.over.recv()).await.unwrap().unwrap();
    }
}

fn logs(invocation: Invocation) -> Vec<String> {
    match invocation {
        Invocation::Succeeded { logs, .. } => logs,
        other => panic!("not a success: {other:?}"),
    }
}

fn start_tick(room: &Room) -> JoinHandle<Invocation> {
    let client = room.client.clone();
    let payload = Timer::Scheduled.payload().to_string();
    tokio::spawn(async move { client.invoke(FUNCTION, payload.as_bytes(), LONG).await })
}

#[tokio::test]
async fn a_tick_runs_and_succeeds_in_the_eyes_of_a_strict_host() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    assert!(room.client.ready(LONG).await);
    let Invocation::Succeeded { logs, return_value } = room.tick().await else {
        panic!("not a success")
    };
    assert_eq!(logs, ["run done"]);
    assert_eq!(return_value, json!({ "run_id": "r1" }));
    assert_eq!(ticks.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_exit_code_other_than_0_fails_the_function() {
    for exit_code in [1, 2, 3, 255] {
        let room = Room::open(ends_with(exit_code).0).await;
        assert_eq!(room.tick().await, Invocation::Failed("status 500".to_owned()), "{exit_code}");
    }
}

#[tokio::test]
async fn readiness_is_answered_while_a_run_is_in_progress() {
    let mut held = HeldRun::new();
    let room = Room::open(Arc::clone(&held.run)).await;
    let tick = start_tick(&room);
    held.has_started().await;
    let answer = reqwest::get(room.client.url("/")).await.unwrap();
    assert_eq!(answer.status(), 200);
    held.let_go.add_permits(1);
    assert_eq!(logs(tick.await.unwrap()), ["run done"]);
}

#[tokio::test]
async fn a_chunked_payload_needs_neither_length_nor_content_type() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    let payload = Timer::PastDue.payload().to_string();
    let (first, second) = payload.split_at(17);
    let chunked = format!(
        "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len(),
    );
    let answer = room.tick_by_hand(&chunked).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(ticks.lock().unwrap()[0].past_due, "the payload was not read");
}

#[tokio::test]
async fn the_timer_is_read_however_often_it_is_encoded() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    let plain = Timer::PastDue.payload();
    let twice = |value: &Value| Value::String(Value::String(value.to_string()).to_string());
    let mut inner = plain.clone();
    let timer = inner["Data"]["timer"].clone();
    inner["Data"]["timer"] = Value::String(timer.to_string());
    let mut innermost = plain.clone();
    innermost["Data"]["timer"] = twice(&timer);
    let mut leaves = plain.clone();
    leaves["Data"]["timer"]["IsPastDue"] = json!("true");
    leaves["Data"]["timer"]["ScheduleStatus"]["Last"] = twice(&timer["ScheduleStatus"]["Last"]);
    let payloads = [twice(&plain), plain, inner, innermost, leaves];
    for payload in &payloads {
        logs(room.post(payload.to_string().as_bytes()).await);
    }
    for (number, tick) in ticks.lock().unwrap().iter().enumerate() {
        let id = format!("6f1d7a52-0000-4000-8000-{:012x}", number + 1);
        assert_eq!(tick.invocation_id.as_deref(), Some(id.as_str()));
        assert!(tick.past_due, "{payload}", payload = payloads[number]);
        assert_eq!(tick.last, BEFORE.parse().ok(), "{}", payloads[number]);
        assert_eq!(tick.due, DUE.parse().ok(), "{}", payloads[number]);
    }
}

/// As [`Timer::payload`] has them.
const BEFORE: &str = "2026-11-29T02:05:15.3987881Z";
const DUE: &str = "2026-11-29T02:06:00Z";
const AFTER: &str = "2026-11-29T03:00:00Z";

/// `Next` is the time of the tick itself; of the one after it only where a person calls.
#[tokio::test]
async fn a_tick_knows_when_it_was_due() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    for kind in Timer::ALL {
        logs(room.post(kind.payload().to_string().as_bytes()).await);
        let tick = ticks.lock().unwrap().pop().unwrap();
        let (last, due) = match kind {
            Timer::First => (None, Some(DUE)),
            Timer::Scheduled | Timer::PastDue => (Some(BEFORE), Some(DUE)),
            Timer::ByHand => (Some(BEFORE), Some(AFTER)),
            Timer::ByHandBeforeTheFirst => (None, Some(AFTER)),
            Timer::FasterThanAMinute => (None, None),
        };
        let time = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        assert_eq!((tick.last, tick.due), (time(last), time(due)), "{kind:?}");
        assert_eq!(tick.past_due, kind == Timer::PastDue);
    }
}

/// What the real host sent once, where its recording is here, byte for byte and in its chunks.
#[tokio::test]
async fn what_the_real_host_sent_is_read() {
    let recording = "../shared/fixtures/functions-host/requests.ndjson";
    let Ok(recording) = std::fs::read_to_string(recording) else {
        // Straight to stderr: the harness hides what a test that passes prints.
        let skipped = "SKIPPED: what the real host sent; the recording is not here\n";
        return std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    };
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    for request in recording.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let mut head = String::new();
        for header in request["headers"].as_array().unwrap() {
            let [name, value] = [0, 1].map(|part| header[part].as_str().unwrap());
            if name != "Host" {
                head += &format!("{name}: {value}\r\n");
            }
        }
        let body = request["body"].as_str().unwrap();
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        assert_eq!(request["chunks"], json!([body.len(), 0]));
        let answer = room.tick_by_hand(&format!("{head}\r\n{chunks}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

        let tick = ticks.lock().unwrap().pop().unwrap();
        let kind = request["kind"].as_str().unwrap();
        let sent: Value = serde_json::from_str(body).unwrap();
        let status = &sent["Data"]["timer"]["ScheduleStatus"];
        let time = |value: &Value| value.as_str().map(|text| text.parse().unwrap());
        assert_eq!(tick.due, time(&status["Next"]), "{kind}");
        assert_eq!(tick.last, time(&status["Last"]).filter(|_| !kind.contains("first")), "{kind}");
        assert_eq!(tick.past_due, kind == "past-due");
        assert!(tick.invocation_id.is_some());
        let now = time(&sent["Metadata"]["sys"]["UtcNow"]).unwrap();
        if let Some(due) = tick.due {
            assert_eq!(due < now, !kind.starts_with("by-hand"), "{kind}: due {due}, sent {now}");
        }
    }
}

#[tokio::test]
async fn a_payload_that_is_garbage_still_starts_a_run() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    let deep = "[".repeat(10_000);
    let full = "x".repeat(64 * 1024);
    let payloads: [&[u8]; 12] = [
        b"",
        b"null",
        b"[]",
        b"7",
        br#""text""#,
        b"{",
        b"\xff\xfe\x00",
        br#"{"Data":[1]}"#,
        br#"{"Data":{"timer":"\"oops"}}"#,
        br#"{"Data":{"timer":{"IsPastDue":{},"ScheduleStatus":{"Last":5,"Next":"soon"}}}}"#,
        deep.as_bytes(),
        full.as_bytes(),
    ];
    for payload in payloads {
        assert_eq!(logs(room.post(payload).await), ["run done"]);
    }
    let ticks = ticks.lock().unwrap();
    assert_eq!(ticks.len(), payloads.len());
    for tick in ticks.iter() {
        let nothing = Tick { invocation_id: tick.invocation_id.clone(), ..Tick::default() };
        assert_eq!(*tick, nothing);
    }
}

#[tokio::test]
async fn a_payload_over_64_kib_is_refused_and_starts_nothing() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    for size in [64 * 1024 + 1, 4 << 20] {
        let end = room.post(&vec![b'x'; size]).await;
        assert_eq!(end, Invocation::Failed("status 413".to_owned()), "{size}");
    }
    // A client that reads no answer before all is sent gets one too.
    let large = "x".repeat(4 << 20);
    let answer = room.tick_by_hand(&format!("Content-Length: {}\r\n\r\n{large}", 4 << 20)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(ticks.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_tick_during_a_run_succeeds_and_starts_nothing() {
    let mut held = HeldRun::new();
    let room = Room::open(Arc::clone(&held.run)).await;
    let first = start_tick(&room);
    held.has_started().await;
    assert_eq!(
        logs(room.tick().await),
        ["no run was started: the one that began 0 s ago is still in progress"]
    );
    assert!(held.started.try_recv().is_err(), "a second run was started");
    held.let_go.add_permits(2);
    assert_eq!(logs(first.await.unwrap()), ["run done"]);
    assert_eq!(logs(room.tick().await), ["run done"], "the next tick should run again");
}

/// What a page in a browser of this machine can send: its `Origin` is its own, and so is the `Host`
/// where its name leads to 127.0.0.1.
#[tokio::test]
async fn a_request_with_another_host_or_an_origin_is_refused() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    let port = room.port;
    let ours = format!("127.0.0.1:{port}");
    let refused = [
        String::new(),
        "Host: \r\n".to_owned(),
        "Host: 127.0.0.1\r\n".to_owned(),
        format!("Host: 127.0.0.1:{}\r\n", port ^ 1),
        format!("Host: evil.example:{port}\r\n"),
        format!("Host: 127.0.0.1.evil.example:{port}\r\n"),
        format!("Host: localhost.:{port}\r\n"),
        format!("Host: user@{ours}\r\n"),
        format!("Host: [::1]:{port}\r\n"),
        format!("Host: {ours}\r\nHost: evil.example\r\n"),
        format!("Host: {ours}\r\nOrigin: https://evil.example\r\n"),
        format!("Host: {ours}\r\nOrigin: null\r\n"),
        format!("Host: {ours}\r\nOrigin: http://{ours}\r\n"),
        format!("Host: {ours}\r\norigin:\r\n"),
    ];
    let rest = "Connection: close\r\nContent-Length: 2\r\n\r\n{}";
    for headers in refused {
        for line in [format!("POST /{FUNCTION}"), "GET /".to_owned(), "POST /x".to_owned()] {
            let request = format!("{line} HTTP/1.1\r\n{headers}{rest}");
            let answer = read_all(room.begin(&request).await).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{request}\n{answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("content-type: application/json"), "{head}");
            let read = host::read_answer(200, Some("application/json"), body.as_bytes());
            assert!(logs(read.unwrap())[0].starts_with("only the Functions host"), "{body}");
        }
    }
    // A request line with a whole URL is for that host, whatever the header says.
    let request = format!("POST http://evil.example/{FUNCTION} HTTP/1.1\r\nHost: {ours}\r\n{rest}");
    let answer = read_all(room.begin(&request).await).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(ticks.lock().unwrap().len(), 0);
    for host in [ours, format!("localhost:{port}"), format!("LocalHost:{port}")] {
        let request = format!("POST /{FUNCTION} HTTP/1.1\r\nHost: {host}\r\n{rest}");
        let answer = read_all(room.begin(&request).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    assert_eq!(ticks.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_end_the_run() {
    let mut held = HeldRun::new();
    let room = Room::open(Arc::clone(&held.run)).await;
    let stream = room.begin_tick("Content-Length: 2\r\n\r\n{}").await;
    held.has_started().await;
    drop(stream);
    // An answered request later, the server has seen that the connection is closed.
    assert_eq!(logs(room.tick().await).len(), 1);
    held.let_go.add_permits(1);
    held.is_over().await;
}

#[tokio::test]
async fn a_panic_fails_its_tick_alone() {
    let ticks = Arc::new(AtomicUsize::new(0));
    let run: Run = Arc::new(move |_| match ticks.fetch_add(1, Ordering::Relaxed) {
        0 => panic!("made by the test, before the run's first await"),
        1 => async { panic!("made by the test, inside the run") }.boxed(),
        _ => async { RunEnd { exit_code: 0, summary: Value::Null } }.boxed(),
    });
    let room = Room::open(run).await;
    assert_eq!(room.tick().await, Invocation::Failed("status 500".to_owned()));
    assert_eq!(room.tick().await, Invocation::Failed("status 500".to_owned()));
    assert_eq!(logs(room.tick().await), ["run done"]);
}

#[tokio::test]
async fn every_answer_is_a_json_object() {
    let room = Room::open(ends_with(2).0).await;
    let http = reqwest::Client::new();
    let large = vec![b'x'; 100_000];
    let requests = [
        (200, http.get(room.client.url("/"))),
        (404, http.get(room.client.url("/api/CloudIntegrated"))),
        (404, http.post(room.client.url("/cloudintegrated")).body("{}")),
        (404, http.post(room.client.url("/CloudIntegrated/")).body("{}")),
        (405, http.get(room.client.url("/CloudIntegrated"))),
        (405, http.delete(room.client.url("/"))),
        (413, http.post(room.client.url("/CloudIntegrated")).body(large)),
        (500, http.post(room.client.url("/CloudIntegrated")).body("{}")),
    ];
    for (status, request) in requests {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status);
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let body = answer.bytes().await.unwrap();
        // Read as if it were a success: the form has to be right whatever the status.
        let read = host::read_answer(200, Some(&content_type), &body).unwrap();
        assert_eq!(logs(read).len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_stop_accepts_nothing_more_and_waits_for_the_run() {
    let mut held = HeldRun::new();
    let room = Room::open(Arc::clone(&held.run)).await;
    let tick = start_tick(&room);
    held.has_started().await;
    room.stop_and_settle().await;
    assert!(!room.served.is_finished(), "it did not wait for the run");
    held.let_go.add_permits(1);
    assert_eq!(logs(tick.await.unwrap()), ["run done"]);
    timeout(LONG, room.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_waits_for_a_run_whose_client_went_away() {
    let mut held = HeldRun::new();
    let room = Room::open(Arc::clone(&held.run)).await;
    drop(room.begin_tick("Content-Length: 2\r\n\r\n{}").await);
    held.has_started().await;
    room.stop_and_settle().await;
    assert!(!room.served.is_finished(), "it did not wait for the run");
    held.let_go.add_permits(1);
    timeout(LONG, room.served).await.unwrap().unwrap();
    held.over.try_recv().expect("the run should be over");
}

#[tokio::test]
async fn a_tick_that_arrives_after_a_stop_starts_nothing() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    let mut late = room.begin_tick("Content-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
    let mut answer = vec![0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    timeout(LONG, late.read_exact(&mut answer)).await.unwrap().unwrap();
    room.stop.cancel();
    late.write_all(b"{}").await.unwrap();
    let mut answer = String::new();
    timeout(LONG, late.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_eq!(ticks.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_silent_client_does_not_hold_up_a_stop() {
    let room = Room::open(ends_with(0).0).await;
    let _silent = room.begin_tick("User-Agent:").await;
    logs(room.tick().await);
    room.stop.cancel();
    timeout(LONG, room.served).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_begin_is_given_up_and_its_place_is_free() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    let began = Instant::now();
    // As many as there may be: one says nothing, others stop in the middle of a head.
    let mut slow = vec![TcpStream::connect((Ipv4Addr::LOCALHOST, room.port)).await.unwrap()];
    for _ in 0..63 {
        slow.push(room.begin_tick("User-Agent: x").await);
    }
    // The clock moves on when nothing else can happen: this waits for a place.
    logs(room.client.invoke(FUNCTION, b"{}", Duration::from_secs(3_600)).await);
    let waited = began.elapsed().as_secs();
    assert!((120..=240).contains(&waited), "{waited} s");
    for mut stream in slow {
        let mut answer = String::new();
        timeout(LONG, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(!answer.contains("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(ticks.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_does_not_come_is_given_up() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    let began = Instant::now();
    let answer = room.tick_by_hand("Content-Length: 3\r\n\r\n{}").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(began.elapsed() <= Duration::from_secs(11));
    assert_eq!(ticks.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (run, ticks) = ends_with(0);
    let room = Room::open(run).await;
    // Just full: bytes that nobody reads would break the connection before its answer is read.
    let host = format!("Host: 127.0.0.1:{}", room.port);
    let first = format!("POST /{FUNCTION} HTTP/1.1\r\n{host}\r\nConnection: close\r\nX: ");
    let large = "x".repeat(32 * 1024 - first.len());
    let answer = room.tick_by_hand(&format!("X: {large}")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = "X: y\r\n".repeat(101);
    let answer = room.tick_by_hand(&format!("{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(ticks.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn lines_of_a_run_carry_the_invocation_id_and_never_the_payload() {
    let run: Run = Arc::new(|_| {
        async {
            tracing::error!("inside the run");
            RunEnd { exit_code: 1, summary: Value::Null }
        }
        .boxed()
    });
    let log = Log::default();
    let _guard = log.listen(tracing::Level::DEBUG);
    let room = Room::open(run).await;
    room.post(br#"{"Data":{"timer":{"IsPastDue":"SENTINEL"}},"Metadata":"SENTINEL"}"#).await;
    room.post(b"SENTINEL").await;
    let written = log.text();
    let inside: Vec<_> = written.lines().filter(|line| line.contains("inside the run")).collect();
    assert_eq!(inside.len(), 2, "{written}");
    assert!(inside[0].contains("6f1d7a52-0000-4000-8000-000000000001"), "{written}");
    assert!(!written.contains("SENTINEL"), "{written}");
}

// The simulator's own rules.

#[test]
fn the_simulator_reads_answers_as_the_host_does() {
    let json = Some("application/json");
    let read = |body: &str| host::read_answer(200, json, body.as_bytes());
    let succeeded = |logs: &[&str], return_value| {
        let logs = logs.iter().map(|&line| line.to_owned()).collect();
        Some(Invocation::Succeeded { logs, return_value })
    };
    assert_eq!(read("{}"), succeeded(&[], Value::Null));
    assert_eq!(read(r#"{"logs":["a",5],"RETURNVALUE":1,"x":2}"#), succeeded(&["a", "5"], json!(1)));
    assert_eq!(read(r#"{"Outputs":null,"Logs":null}"#), succeeded(&[], Value::Null));
    for body in ["[]", "7", "{", r#"{"Logs":"x"}"#, r#"{"Logs":[{}]}"#, r#"{"Outputs":[]}"#] {
        assert!(matches!(read(body), Some(Invocation::Failed(_))), "{body}");
    }
    for content_type in [None, Some("text/plain"), Some("application/jsonp")] {
        let end = host::read_answer(200, content_type, b"{}");
        assert!(matches!(end, Some(Invocation::Failed(_))), "{content_type:?}");
    }
    let utf8 = host::read_answer(201, Some("application/json; charset=utf-8"), b"{}");
    assert_eq!(utf8, succeeded(&[], Value::Null));
    for status in [199, 304, 404, 500] {
        let end = host::read_answer(status, json, b"{}");
        assert!(matches!(end, Some(Invocation::Failed(_))), "{status}");
    }
    // Taken for no answer at all.
    for (status, content_type, body) in [
        (200, json, ""),
        (200, None, ""),
        (200, json, " \r\n"),
        (200, json, "null"),
        (202, None, ""),
        (204, None, ""),
    ] {
        assert_eq!(
            host::read_answer(status, content_type, body.as_bytes()),
            None,
            "{status} {body:?}"
        );
    }
}

/// Answers each connection with the next of these, a request line and a head of which must come.
async fn answering(answers: &'static [&'static str]) -> HostClient {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4_096];
            let length = stream.read(&mut head).await.unwrap();
            let method = answer.split(' ').next().unwrap();
            assert!(head[..length].starts_with(method.as_bytes()), "not a {method}");
            let answer = answer.strip_prefix(method).unwrap().trim_start();
            stream.write_all(answer.as_bytes()).await.unwrap();
            kept.push(stream);
        }
        std::future::pending::<()>().await;
    });
    HostClient::new(port)
}

/// As recorded from the real host; `accept` is our client's own.
#[tokio::test]
async fn the_simulator_calls_as_the_host_does() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let calling =
        tokio::spawn(
            async move { HostClient::new(port).invoke(FUNCTION, &[b'x'; 2_500], LONG).await },
        );
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut request, mut bytes) = (String::new(), [0; 4_096]);
    while !request.ends_with("\r\n0\r\n\r\n") {
        let length = stream.read(&mut bytes).await.unwrap();
        request.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("POST /CloudIntegrated HTTP/1.1"));
    let mut headers: Vec<String> = lines.map(str::to_lowercase).collect();
    headers.sort();
    assert_eq!(
        headers,
        [
            "accept: */*".to_owned(),
            "content-type: application/json; charset=utf-8".to_owned(),
            format!("host: 127.0.0.1:{port}"),
            "transfer-encoding: chunked".to_owned(),
            "user-agent: azure-functions-host/4.1037.0.0".to_owned(),
            "x-azure-functions-hostversion: 4.1037.0.0".to_owned(),
            "x-azure-functions-invocationid: 6f1d7a52-0000-4000-8000-000000000001".to_owned(),
        ]
    );
    let sizes: Vec<&str> = body.split("\r\n").filter(|line| !line.contains('x')).collect();
    assert_eq!(sizes, ["400", "400", "1C4", "0", "", ""]);
    calling.abort();
}

#[tokio::test]
async fn the_simulator_follows_a_redirect_and_the_answer_there_counts() {
    let client = answering(&[
        "POST HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "GET HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    ])
    .await;
    assert_eq!(logs(client.invoke(FUNCTION, b"{}", LONG).await), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_simulator_waits_for_the_function_timeout_where_it_takes_an_answer_for_none() {
    let client = answering(&["POST HTTP/1.1 204 No Content\r\n\r\n"]).await;
    let began = Instant::now();
    let end = client.invoke(FUNCTION, b"{}", Duration::from_secs(600)).await;
    assert_eq!((end, began.elapsed().as_secs()), (Invocation::TimedOut, 600));
}

#[tokio::test(start_paused = true)]
async fn the_simulator_waits_for_whoever_listens_however_long_nothing_is_said() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = HostClient::new(listener.local_addr().unwrap().port());
    let silent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    });
    let began = Instant::now();
    assert!(client.ready(Limits::default().listening).await);
    assert!(began.elapsed() >= Duration::from_secs(3_600));
    silent.await.unwrap();
    // Now nobody listens.
    let began = Instant::now();
    assert!(!client.ready(Limits::default().listening).await);
    assert_eq!(began.elapsed().as_secs(), 34);
}

#[tokio::test(start_paused = true)]
async fn the_simulator_holds_each_error_against_the_one_before() {
    let between = Limits::default().between_errors;
    let goes_on = |minutes: &[u64]| {
        let (mut errors, start) = (Errors::default(), Instant::now());
        minutes
            .iter()
            .map(|minutes| errors.add(start + Duration::from_secs(minutes * 60), between))
            .collect::<Vec<_>>()
    };
    assert_eq!(goes_on(&[0, 1, 2]), [true, true, false]);
    // No 30 minutes have three of them.
    assert_eq!(goes_on(&[0, 30, 60]), [true, true, false]);
    assert_eq!(goes_on(&[0, 29, 60, 91, 92]), [true; 5]);
    assert_eq!(goes_on(&[0, 31, 62, 93]), [true; 4]);
}

/// Whether the host takes a schedule, and in which words it is refused here.
const SCHEDULES: [(&str, bool, Option<&str>); 17] = [
    ("0 0 */1 * * *", true, None),
    ("0 30 9 * * Mon-Fri", true, None),
    (" 0  0 0 1 JAN *", true, None),
    ("*/15 * * * *", true, Some(FIVE_FIELDS)),
    ("0 9 * * 1-5", true, Some(FIVE_FIELDS)),
    ("00:15:00", true, Some(TIME_SPAN)),
    ("1.00:00:00", true, Some(TIME_SPAN)),
    ("15", true, Some(TIME_SPAN)),
    ("", false, Some("0 fields")),
    ("@hourly", false, Some("1 fields")),
    ("0 0 0 1 1 * 2027", false, Some("7 fields")),
    ("60 0 0 * * *", false, Some("\"second\"")),
    ("0 0 24 * * *", false, Some("\"hour\"")),
    ("0 0 0 * * 7", false, Some("\"day of the week\"")),
    ("0 0 0 L * *", false, Some("\"day of the month\"")),
    ("60 * * * *", false, Some(FIVE_FIELDS)),
    ("24:00:00", false, Some(TIME_SPAN)),
];
const FIVE_FIELDS: &str = "it has five fields; SCHEDULE needs six, seconds first";
const TIME_SPAN: &str = "it is a TimeSpan, which is not accepted; write NCRONTAB";

/// What might stand in a field.
const ITEMS: &str = "* */5 */0 0 1 6 7 12 13 23 24 31 32 59 60 1-3 3-1 1/2 1-3/2 1,2 1,*/7 Mon s Jan \
                     j-m Jan/2 ? L 1W 2#1 +1 -1 1- *-5 1--2 1/ */x 1,,2 99999999999 0x1 1.5 \
                     */99999999999 1/2/3 Montag é";

/// Whatever is taken here, the host takes, so that its ticks come. What it takes beyond that is
/// refused in words that say so.
#[test]
fn what_is_taken_as_a_schedule_the_host_takes_too() {
    for (text, host_takes, refused) in SCHEDULES {
        assert_eq!(host::takes_schedule(text), host_takes, "{text}");
        let error = Schedule::parse(text).err().map(|error| error.to_string());
        assert_eq!(error.is_some(), refused.is_some(), "{text}: {error:?}");
        let (error, refused) = (error.unwrap_or_default(), refused.unwrap_or_default());
        assert!(error.contains(refused), "{text}: {error}");
    }
    for field in 0..6 {
        for item in ITEMS.split(' ') {
            let mut fields = ["0", "0", "*", "*", "*", "*"];
            fields[field] = item;
            let text = fields.join(" ");
            if Schedule::parse(&text).is_ok() {
                assert!(host::takes_schedule(&text), "{text}: the host would never tick");
            }
        }
    }
}

#[test]
fn the_simulator_files_lines_as_the_host_does() {
    assert_eq!(host::level(false, r#"{"level":"ERROR"}"#), Level::Information);
    assert_eq!(host::level(false, "LanguageWorkerConsoleLog x"), Level::System);
    assert_eq!(host::level(true, "it failed"), Level::Error);
    assert_eq!(host::level(true, "WARNING: it nearly failed"), Level::Warning);
}

#[test]
fn the_simulator_converts_values_as_the_host_does() {
    assert_eq!(host::converted(&json!({ "a": 1 })), json!({ "a": 1 }));
    assert_eq!(host::converted(&json!("x")), json!("\"x\""));
    assert_eq!(host::converted(&json!(1)), json!("1"));
    assert_eq!(host::converted(&Value::Null), json!("null"));
}

// The handler as a program of its own. This test binary is the program: it runs the one test below,
// which does nothing unless it is given a role.

const FAKE: &str = "FAKE_WORKER";

#[tokio::test]
#[ignore = "the program that the tests below start"]
async fn fake_worker() {
    let Ok(kind) = std::env::var(FAKE) else { return };
    let port = std::env::var("FUNCTIONS_CUSTOMHANDLER_PORT").unwrap().parse::<u16>().unwrap();
    match kind.as_str() {
        "deaf" => return std::future::pending().await,
        "gone" => std::process::exit(0),
        _ => {}
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let run: Run = Arc::new(move |_| {
        let kind = kind.clone();
        async move {
            match kind.split_once(' ') {
                Some(("exit", code)) => std::process::exit(code.parse().unwrap()),
                Some(("hang-once", file)) if !std::fs::exists(file).unwrap() => {
                    std::fs::write(file, "").unwrap();
                    std::future::pending().await
                }
                _ => {
                    writeln!(std::io::stdout(), "a line of the run").unwrap();
                    writeln!(std::io::stderr(), "a failure of the run").unwrap();
                    RunEnd { exit_code: 0, summary: Value::Null }
                }
            }
        }
        .boxed()
    });
    let job = Job { run, pause: Duration::ZERO, time_limit: TIME_LIMIT };
    serve(listener, functions(job), no_pages(), CancellationToken::new()).await;
}

async fn start(limits: Limits, kind: &str) -> HostSimulator {
    let program = std::env::current_exe().unwrap();
    let args = own_process::args(module_path!(), "fake_worker");
    let args = ["--ignored", &args[0], &args[1], &args[2]];
    HostSimulator::start_with(limits, &program, &args, &[(FAKE, kind)]).await
}

#[tokio::test]
async fn a_program_is_started_called_and_killed_by_the_host() {
    let mut host = start(Limits::default(), "serve").await;
    assert_eq!((host.state(), host.starts()), (State::Running, 1));
    assert!(host.client().ready(LONG).await);
    assert_eq!(logs(host.tick(FUNCTION).await), ["run done"]);
    let end = host.tick("AnotherFunction").await;
    assert_eq!(end, Invocation::Failed("status 404".to_owned()));
    let lines = host.scale_in().await;
    assert!(lines.contains(&(Level::Information, "a line of the run".to_owned())), "{lines:?}");
    assert!(lines.contains(&(Level::Error, "a failure of the run".to_owned())), "{lines:?}");
}

#[tokio::test]
async fn a_run_over_the_function_timeout_costs_the_process_and_the_next_tick_works() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("hung");
    // Only the first invocation has to pass this, and it hangs for good.
    let (function, kill_after) = (Duration::from_secs(2), Duration::ZERO);
    let limits = Limits { function, kill_after, ..Limits::default() };
    let mut host = start(limits, &format!("hang-once {}", marker.display())).await;
    assert_eq!(host.tick(FUNCTION).await, Invocation::TimedOut);
    assert_eq!((host.state(), host.starts()), (State::Running, 2));
    assert_eq!(logs(host.tick(FUNCTION).await), ["run done"]);
}

#[tokio::test]
async fn a_program_that_exits_with_0_once_it_answered_is_not_started_again() {
    let mut host = start(Limits::default(), "exit 0").await;
    assert!(matches!(host.tick(FUNCTION).await, Invocation::Disconnected(_)));
    assert_eq!((host.state(), host.starts()), (State::NotRestarted, 1));
    assert!(matches!(host.tick(FUNCTION).await, Invocation::Disconnected(_)));
}

#[tokio::test]
async fn a_program_that_exits_with_0_before_it_answers_is_as_one_that_does_not_listen() {
    let listening = Duration::from_millis(200);
    let began = Instant::now();
    let host = start(Limits { listening, ..Limits::default() }, "gone").await;
    assert_eq!((host.state(), host.starts()), (State::HostStopped, 3));
    assert!(began.elapsed() >= 3 * listening, "each was waited for");
}

#[tokio::test]
async fn the_third_error_stops_the_host() {
    let mut host = start(Limits::default(), "exit 1").await;
    for starts in [2, 3] {
        assert!(matches!(host.tick(FUNCTION).await, Invocation::Disconnected(_)));
        assert_eq!((host.state(), host.starts()), (State::Running, starts));
    }
    host.tick(FUNCTION).await;
    assert_eq!((host.state(), host.starts()), (State::HostStopped, 3));
}

#[tokio::test]
async fn exit_code_200_and_errors_far_apart_do_not_count() {
    let apart = Limits { between_errors: Duration::ZERO, ..Limits::default() };
    for (limits, kind) in [(Limits::default(), "exit 200"), (apart, "exit 1")] {
        let mut host = start(limits, kind).await;
        for starts in 2..=5 {
            host.tick(FUNCTION).await;
            assert_eq!((host.state(), host.starts()), (State::Running, starts), "{kind}");
        }
    }
}

#[tokio::test]
async fn a_program_that_never_listens_stops_the_host() {
    let limits = Limits { listening: Duration::from_millis(200), ..Limits::default() };
    let host = start(limits, "deaf").await;
    assert_eq!((host.state(), host.starts()), (State::HostStopped, 3));
}

/// The package has the program with mode 0755 (`src/cli/package.rs`).
#[tokio::test]
async fn a_program_that_is_not_executable_is_no_error_and_each_tick_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("mimecast-sentinel");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    let limits = Limits { function: Duration::from_millis(1), ..Limits::default() };
    let mut host = HostSimulator::start_with(limits, &program, &[], &[]).await;
    for _ in 0..4 {
        assert_eq!(host.tick(FUNCTION).await, Invocation::TimedOut);
        assert_eq!((host.state(), host.starts()), (State::NeverStarted, 0));
    }
}
