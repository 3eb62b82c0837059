//! The real binary as the custom handler of a strict Functions host, and as its own scheduler.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use futures::FutureExt as _;
use mimecast_sentinel::functions::{Job, Run, RunEnd, serve};
use mimecast_sentinel::pipeline::checkpoint_name;
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::simulator::{
    Endpoint, Fault, FaultPlan, MadeUp, Moment, Simulator, SimulatorOptions,
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::azurite::{Azurite, sas};
use crate::support::functions_host::{
    Handler, HostClient, HostSimulator, Invocation, Level, Limits, State, Timer, functions,
    no_pages, start_apart, takes_schedule,
};
use crate::support::program::{
    EXE, Program, STREAMS, assert_no_secret, ended, events, landed, signal, simulator, until, world,
};
use crate::support::rig::{Rig, run};
use crate::support::scenario::page_of;

const FUNCTION: &str = "CloudIntegrated";
const ALWAYS: usize = usize::MAX;

/// The function timeout, which no test reaches.
const PATIENCE: Duration = Duration::from_secs(120);

async fn host(program: &Program) -> HostSimulator {
    HostSimulator::start(Path::new(EXE), &["serve"], &program.env()).await
}

/// A host that can be gone while the program lives.
async fn host_apart(limits: Limits, program: &Program) -> (HostSimulator, Handler) {
    start_apart(limits, Path::new(EXE), &["serve"], &program.env()).await
}

/// A tick that goes on beside the test.
fn start_tick(host: &HostSimulator) -> JoinHandle<Invocation> {
    let client = host.client().clone();
    let payload = Timer::Scheduled.payload().to_string();
    tokio::spawn(async move { client.invoke(FUNCTION, payload.as_bytes(), PATIENCE).await })
}

/// What a tick that succeeded gave back.
#[track_caller]
fn succeeded(invocation: Invocation) -> (Vec<String>, Value) {
    match invocation {
        Invocation::Succeeded { logs, return_value } => (logs, return_value),
        other => panic!("{other:?}"),
    }
}

fn failed() -> Invocation {
    Invocation::Failed("status 500".to_owned())
}

/// The lines as the host files them, each read as the JSON it has to be.
fn records(lines: &[(Level, String)]) -> Vec<(Level, Value)> {
    lines
        .iter()
        .map(|(level, line)| {
            let record = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            (*level, record)
        })
        .collect()
}

/// Those that the host takes for errors.
fn errors(lines: &[(Level, String)]) -> Vec<Value> {
    let errors = records(lines).into_iter().filter(|(level, _)| *level == Level::Error);
    errors.map(|(_, record)| record).collect()
}

fn text(lines: &[(Level, String)]) -> String {
    lines.iter().map(|(_, line)| format!("{line}\n")).collect()
}

async fn calm() -> Simulator {
    simulator(2, FaultPlan::none(), Duration::ZERO).await
}

/// A simulator that takes seconds to be read.
async fn slow() -> Simulator {
    simulator(8, FaultPlan::none(), Duration::from_millis(40)).await
}

/// A simulator that closes each connection while it is shut, and what opens and shuts it.
async fn with_a_door(is_open: bool) -> (Simulator, Arc<AtomicBool>) {
    let door = Arc::new(AtomicBool::new(is_open));
    let asked = Arc::clone(&door);
    let plan = FaultPlan::none()
        .watch(move |_, moment| moment != Moment::Arrived || asked.load(Ordering::Relaxed));
    (simulator(8, plan, Duration::from_millis(40)).await, door)
}

/// Pulls what is left; fails if an event is missing, or if one landed twice.
async fn assert_rest_lands_once(program: &Program, simulator: &Simulator) {
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(landed(simulator), events(8));
    assert_eq!(simulator.landed_count(), events(8), "the checkpoint knew of all that landed");
}

// In a Functions host

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_pulls_and_hands_back_the_summary() {
    let simulator = calm().await;
    let program = Program::of(&simulator);
    let mut host = host(&program).await;
    let (logs, summary) = succeeded(host.tick(FUNCTION).await);
    assert_eq!(logs, ["run done"]);
    assert_eq!(summary["outcome"], "caught_up");
    assert_eq!(summary["streams"][2]["rows_delivered"], 40);
    assert_eq!(landed(&simulator), events(2));

    let (logs, summary) = succeeded(host.tick(FUNCTION).await);
    assert!(logs[0].ends_with("there are 60 s between two"), "{logs:?}");
    assert_eq!(summary, Value::Null);
    assert_eq!((host.starts(), host.state()), (1, State::Running));
    assert_eq!(host.names_in_root(), ["CloudIntegrated", "host.json"], "it wrote in its folder");

    let lines = host.scale_in().await;
    let folder = |(level, record): &(Level, Value)| {
        *level == Level::Warning && record.to_string().contains("CHECKPOINT_URL is the folder")
    };
    let records = records(&lines);
    assert_eq!(records.iter().filter(|record| folder(record)).count(), 1, "{records:#?}");
    let normal: Vec<_> = records.iter().filter(|record| !folder(record)).collect();
    assert!(normal.iter().all(|(level, _)| *level == Level::Information), "{normal:#?}");
    let finished: Vec<&Value> = normal
        .iter()
        .map(|(_, record)| record)
        .filter(|record| record["message"] == "run finished")
        .collect();
    assert_eq!(finished.len(), 1);
    for record in finished {
        assert_eq!(record["level"], "INFO");
        assert!(record["timestamp"].is_string());
        let id = record["span"]["invocation_id"].as_str().unwrap();
        assert!(id.starts_with("6f1d7a52-"), "the host's own id: {record}");
        let summary: Value = serde_json::from_str(record["summary"].as_str().unwrap()).unwrap();
        assert_eq!(summary["streams"].as_array().unwrap().len(), 3);
    }
}

/// A listing and a post that are tried again, which are tasks of their own; the limit of rows, which the
/// thread that reads comes to; a file that is downloaded again; a damaged one.
#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_tick_has_the_hosts_id_of_it_also_from_tasks_and_threads_of_the_run() {
    let plan = FaultPlan::none()
        .once(Endpoint::Listing, Fault::ServerError)
        .once(Endpoint::Post, Fault::Unavailable)
        .once(Endpoint::File, Fault::CutShort(100))
        .matching("2-0.json.gz", 3, Endpoint::File, Fault::Corrupt(200));
    let mut made_up = MadeUp::new(9);
    let lines: Vec<String> = (0..1_000).map(|n| made_up.event("mailflow", n)).collect();
    let world = world(4).page("mailflow", page_of("many.json.gz", &lines));
    let simulator = Simulator::start(world, plan, SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator).set("MAX_ROWS_PER_RUN", "1000");
    let mut host = host(&program).await;
    succeeded(host.tick(FUNCTION).await);

    let lines = host.scale_in().await;
    let records: Vec<Value> = records(&lines).into_iter().map(|(_, record)| record).collect();
    let at = |words: &str| {
        let found = records.iter().find(|record| record["message"] == words);
        found.unwrap()["timestamp"].as_str().unwrap().to_owned()
    };
    let (start, finish) = (at("run started"), at("run finished"));
    let of_the_run = records.iter().filter(|record| {
        let time = record["timestamp"].as_str().unwrap();
        (start.as_str()..=finish.as_str()).contains(&time)
    });
    let mut said = String::new();
    for record in of_the_run {
        let id = &record["span"]["invocation_id"];
        assert_eq!(id, "6f1d7a52-0000-4000-8000-000000000001", "{record}");
        said += &format!("{record}\n");
    }
    for words in [
        "failed; trying again",
        "\"call\":\"the listing",
        "\"call\":\"the post",
        "MAX_ROWS_PER_RUN",
        "downloading the file again",
        "corrupt-file",
    ] {
        assert!(said.contains(words), "no {words} in {said}");
    }
}

/// An error whose words have "warn" in them, in text, is an error for the host all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_text_is_filed_by_the_host_as_one_of_json_is() {
    let (code, message) = ("WARNING".to_owned(), "you were warned".to_owned());
    let refused = Fault::BadRequest { code, message };
    let plan = FaultPlan::none().matching("mailflow", ALWAYS, Endpoint::Listing, refused);
    let simulator = simulator(2, plan, Duration::ZERO).await;
    let mut host = host(&Program::of(&simulator).set("LOG_FORMAT", "text")).await;
    assert_eq!(host.tick(FUNCTION).await, failed());

    let lines = host.scale_in().await;
    let of = |level: Level| -> Vec<&str> {
        lines.iter().filter(|line| line.0 == level).map(|line| line.1.as_str()).collect()
    };
    let errors = of(Level::Error);
    assert_eq!(errors.len(), 1, "{lines:#?}");
    for part in
        [" ERROR tick{invocation_id=\"6f1d7a52-", "stream=\"mailflow\"", "you were \\u{77}arned"]
    {
        assert!(errors[0].contains(part), "no {part} in {errors:?}");
    }
    let warnings = of(Level::Warning);
    assert!(warnings.iter().all(|line| line.contains(" WARN ")), "{warnings:#?}");
    let unread = |line: &&&str| line.contains("LOG_FORMAT is text");
    assert_eq!(warnings.iter().filter(unread).count(), 1, "{warnings:#?}");
    let normal = of(Level::Information);
    assert!(normal.iter().any(|line| line.contains("run finished")), "{normal:#?}");
}

/// All of 127.0.0.0/8 is this machine on Linux, so that its other addresses show what a listener on
/// all addresses would have taken.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn it_listens_on_one_address_of_this_machine() {
    let simulator = calm().await;
    let host = host(&Program::of(&simulator)).await;
    let url: url::Url = host.client().url("/").parse().unwrap();
    let port = url.port().unwrap();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    for elsewhere in ["127.0.0.2", "::1"] {
        let refused = TcpStream::connect((elsewhere, port)).await;
        assert!(refused.is_err(), "{elsewhere}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_fails_the_function_and_tells_why_on_stderr() {
    let plan = FaultPlan::none().matching("mailflow", ALWAYS, Endpoint::Listing, Fault::Forbidden);
    let simulator = simulator(2, plan, Duration::ZERO).await;
    let mut host = host(&Program::of(&simulator)).await;
    assert_eq!(host.tick(FUNCTION).await, failed());
    assert_eq!(landed(&simulator), 80, "the others did their work");
    assert_eq!((host.starts(), host.state()), (1, State::Running));
    let lines = host.scale_in().await;
    let errors = errors(&lines);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!(errors[0]["level"], "ERROR");
    assert_eq!(errors[0]["code"], "mimecast-forbidden");
    assert_eq!(errors[0]["stream"], "mailflow");
    assert!(errors[0]["fix"].as_str().unwrap().contains("API 2.0 application"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_during_a_run_succeeds_and_does_nothing() {
    let simulator = slow().await;
    let mut host = host(&Program::of(&simulator)).await;
    let first = start_tick(&host);
    until("the first rows", || simulator.landed_count() > 0).await;
    let (logs, value) = succeeded(host.tick(FUNCTION).await);
    assert!(logs[0].contains("still in progress"), "{logs:?}");
    assert_eq!(value, Value::Null);
    assert!(host.client().ready(Duration::from_secs(10)).await, "it answers during a run");
    assert!(!first.is_finished());
    let (_, summary) = succeeded(first.await.unwrap());
    assert_eq!(summary["outcome"], "caught_up");
    assert_eq!(landed(&simulator), events(8));
    assert_eq!(simulator.landed_count(), events(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_reported_at_the_start_and_at_each_tick_and_end_nothing() {
    let program = Program::bare()
        .set("MIMECAST_CLIENT_SECRET", "@Microsoft.KeyVault(SecretUri=https://x/canary)")
        .set("START_DATE", "soon")
        .set("RUN_TIME_LIMIT_SECONDS", "541")
        .set("SCHEDULE", "0 */9 * * * *");
    let expected = [
        ("MIMECAST_CLIENT_ID", "not set"),
        ("MIMECAST_CLIENT_SECRET", "Key Vault"),
        ("START_DATE", "YYYY-MM-DD"),
        ("SCHEDULE", "10 minutes"),
        ("RUN_TIME_LIMIT_SECONDS", "at most 540"),
        ("LOGS_INGESTION_ENDPOINT", "not set"),
        ("LOGS_INGESTION_RULE_ID", "not set"),
        ("IDENTITY_ENDPOINT", "system-assigned"),
        ("CHECKPOINT_URL", "blob container"),
    ];
    let mut host = host(&program).await;
    let errors_of = |host: &HostSimulator| {
        host.lines().iter().filter(|(level, _)| *level == Level::Error).count()
    };
    until("the errors", || errors_of(&host) == expected.len()).await;
    for ticks in 1..=4 {
        assert_eq!(host.tick(FUNCTION).await, failed());
        assert!(host.client().ready(Duration::from_secs(10)).await);
        until("the errors", || errors_of(&host) == (1 + ticks) * expected.len()).await;
    }
    assert_eq!((host.starts(), host.state()), (1, State::Running));
    let lines = host.scale_in().await;
    let errors = errors(&lines);
    for tick in errors.chunks(expected.len()) {
        for (record, (name, fix)) in tick.iter().zip(expected) {
            let message = record["message"].as_str().unwrap();
            assert!(message.starts_with(&format!("{name}: ")), "{message}");
            assert!(message.contains(fix), "{message}");
            assert_eq!(record["code"], "settings");
        }
    }
    assert!(!text(&lines).contains("canary"));
}

/// The host starts the program and never calls it, so that no tick would report it.
#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_the_host_refuses_is_reported_at_the_start() {
    let simulator = calm().await;
    for (schedule, level) in [
        ("0 0 24 * * *", Level::Error),
        ("0 0 0 1 1 * 2027", Level::Error),
        ("@hourly", Level::Error),
        // Unset, since a function.json may do without.
        ("", Level::Warning),
        (" ", Level::Warning),
    ] {
        assert!(!takes_schedule(schedule), "{schedule}");
        let host = host(&Program::of(&simulator).set("SCHEDULE", schedule)).await;
        let reported = || {
            let records = records(&host.lines()).into_iter();
            let of_it =
                |record: &Value| record["message"].as_str().unwrap().starts_with("SCHEDULE");
            records.filter(|(_, record)| of_it(record)).map(|(level, _)| level).collect::<Vec<_>>()
        };
        until("the line", || !reported().is_empty()).await;
        assert_eq!(reported(), [level], "{schedule}");
    }
}

/// Whatever is in a record, the host files it as one line, whole and as what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_never_cut_split_or_taken_for_a_warning() {
    let hostile = "a warning\r\rWARN \u{9b}31m\u{202e}\u{7f}\n\n";
    let program = Program::bare()
        .set("MIMECAST_TYPES", &hostile.repeat(4_000))
        .set("LOGS_INGESTION_STREAM", hostile)
        .set("START_DATE", &"warn".repeat(20_000));
    let mut host = host(&program).await;
    assert_eq!(host.tick(FUNCTION).await, failed());
    let lines = host.scale_in().await;
    let errors = errors(&lines);
    assert_eq!(errors.len(), lines.len() - 1, "only one line is no error: {lines:#?}");
    let mut long = 0;
    for (record, (_, line)) in
        errors.iter().zip(lines.iter().filter(|(level, _)| *level == Level::Error))
    {
        assert!(line.len() < 32_768 && line.chars().all(|c| !c.is_control()), "{line}");
        assert!(!line.contains('\u{202e}'), "{line}");
        let message = record["message"].as_str().unwrap();
        long += usize::from(message.ends_with("(cut)"));
        assert!(message.starts_with(|c: char| c.is_ascii_uppercase()), "{message}");
    }
    assert!(long >= 4, "those of two settings, at the start and at the tick: {long}");
}

/// The alert on silence looks for it.
#[tokio::test(flavor = "multi_thread")]
async fn that_a_run_has_ended_is_logged_at_every_level() {
    let simulator = calm().await;
    for level in ["ERROR", "WARNING", "DEBUG"] {
        let mut host = host(&Program::of(&simulator).set("LOG_LEVEL", level)).await;
        succeeded(host.tick(FUNCTION).await);
        let records = records(&host.scale_in().await);
        let is_end = |(level, record): &&(Level, Value)| {
            *level == Level::Information && record["message"] == "run finished"
        };
        assert_eq!(records.iter().filter(is_end).count(), 1, "{level}: {records:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_of_another_process_start_one_run_a_minute() {
    let simulator = calm().await;
    let mut host = host(&Program::of(&simulator)).await;
    succeeded(host.tick(FUNCTION).await);
    let calls = simulator.calls();
    let url = host.client().url("/CloudIntegrated");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..60 {
        let answer = http.post(&url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert!(body["Logs"][0].as_str().unwrap().starts_with("no run was started"), "{body}");
    }
    let foreign = http.post(&url).header("Origin", "https://evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), 403);
    assert_eq!(simulator.calls(), calls);
}

/// The pace is kept by the connector, one for a process, and not by a run.
#[tokio::test(flavor = "multi_thread")]
async fn ticks_from_anyone_spend_no_more_calls_than_the_pace_allows() {
    let mut rig = Rig::new(world(1), FaultPlan::none()).await;
    rig.options.calls_per_15_minutes = 8;
    // Shorter than 15 minutes, so that no run waits for its turn.
    rig.policy.run_time_limit = Duration::from_secs(60);
    let connector = Arc::new(rig.connector());
    let pulls: Run = Arc::new(move |_| {
        let connector = Arc::clone(&connector);
        async move {
            let summary = run(&connector).await;
            RunEnd { exit_code: summary.exit_code(), summary: Value::Null }
        }
        .boxed()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = HostClient::new(listener.local_addr().unwrap().port());
    let job = Job { run: pulls, pause: Duration::ZERO, time_limit: PATIENCE };
    tokio::spawn(serve(listener, functions(job), no_pages(), CancellationToken::new()));
    for _ in 0..12 {
        client.invoke(FUNCTION, b"{}", PATIENCE).await;
    }
    assert_eq!(rig.simulator.calls().all_listings(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_a_run_is_in_order() {
    let simulator = slow().await;
    let program = Program::of(&simulator);
    let mut host = host(&program).await;
    let tick = start_tick(&host);
    until("the first rows", || simulator.landed_count() > 0).await;
    signal(host.worker(), "TERM");
    let (_, summary) = succeeded(tick.await.unwrap());
    assert_eq!(summary["outcome"], "time_limit");
    host.exited().await;
    assert_eq!(host.state(), State::NotRestarted, "it ended with exit code 0");
    let before = simulator.landed_count();
    assert!(before < events(8), "it was to be stopped in the middle");
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(landed(&simulator), events(8));
    assert_eq!(simulator.landed_count(), events(8), "the checkpoint knew of all that landed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_without_a_run_ends_at_once() {
    let simulator = calm().await;
    let mut host = host(&Program::of(&simulator)).await;
    signal(host.worker(), "TERM");
    host.exited().await;
    assert_eq!(host.state(), State::NotRestarted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_run_loses_nothing() {
    let simulator = slow().await;
    let mut host = host(&Program::of(&simulator)).await;
    for kills in 1..=2 {
        let rows = simulator.landed_count();
        let tick = start_tick(&host);
        until("new rows", || simulator.landed_count() > rows).await;
        signal(host.worker(), "KILL");
        assert!(matches!(tick.await.unwrap(), Invocation::Disconnected(_)));
        host.exited().await;
        assert_eq!((host.starts(), host.state()), (kills + 1, State::Running));
    }
    assert!(simulator.landed_count() < events(8), "it was to be killed in the middle");
    let (_, summary) = succeeded(host.tick(FUNCTION).await);
    assert_eq!(summary["outcome"], "caught_up");
    assert_eq!(landed(&simulator), events(8));
    // Documented: at most the bodies in flight and 15 more a stream, at each kill; here a body has 20
    // rows.
    let twice = simulator.landed_count() - events(8);
    assert!(twice <= 2 * (4 + 3 * 15) * 20, "{twice} rows landed twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_answered_though_everything_else_hangs() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let simulator = calm().await;
    let program = Program::of(&simulator)
        .set("MIMECAST_BASE_URL", &url)
        .set("IDENTITY_ENDPOINT", &url)
        .set("LOGS_INGESTION_ENDPOINT", &url)
        .set("CHECKPOINT_URL", &format!("https://127.0.0.1:{port}/account/container"));
    let mut host = host(&program).await;
    assert_eq!((host.starts(), host.state()), (1, State::Running));
    let tick = start_tick(&host);
    let _asked = silent.accept().await.unwrap();
    assert!(host.client().ready(Duration::from_secs(10)).await);
    assert!(!tick.is_finished());
    tick.abort();
    signal(host.worker(), "KILL");
    host.exited().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged_at_any_level() {
    let plan = FaultPlan::none()
        .once(Endpoint::MimecastToken, Fault::ServerError)
        .once(Endpoint::AzureToken, Fault::Unavailable)
        .once(Endpoint::Listing, Fault::Unauthorized("token_expired".to_owned()))
        .once(Endpoint::File, Fault::Expired)
        .once(Endpoint::File, Fault::CutShort(30))
        .once(Endpoint::Post, Fault::Unauthorized("InvalidToken".to_owned()))
        .once(Endpoint::Post, Fault::Reset)
        .matching("urlclick", ALWAYS, Endpoint::Listing, Fault::Forbidden);
    let simulator = simulator(2, plan, Duration::ZERO).await;
    let mut host = host(&Program::of(&simulator).set("LOG_LEVEL", "TRACE")).await;
    assert_eq!(host.tick(FUNCTION).await, failed());
    let lines = host.scale_in().await;
    assert!(records(&lines).len() > 5, "{lines:#?}");
    assert_no_secret(&simulator, &text(&lines));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_invalid_or_taken_is_reported() {
    let simulator = calm().await;
    let none = Program::of(&simulator).set("FUNCTIONS_CUSTOMHANDLER_PORT", "x");
    none.run(&["serve"]).await.assert_code(2).assert_stderr(&["FUNCTIONS_CUSTOMHANDLER_PORT"]);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let program = Program::of(&simulator).set("FUNCTIONS_CUSTOMHANDLER_PORT", &port);
    let ended = program.run(&["serve"]).await;
    ended.assert_code(1).assert_stderr(&[&port, "cannot be listened on"]);
}

// When the host ends or begins again

#[tokio::test(flavor = "multi_thread")]
async fn a_run_over_the_function_timeout_costs_the_process_and_nothing_else() {
    let (simulator, door) = with_a_door(false).await;
    let program = Program::of(&simulator);
    let (function, kill_after) = (Duration::from_millis(500), Duration::ZERO);
    let limits = Limits { function, kill_after, ..Limits::default() };
    let exe = Path::new(EXE);
    let mut host = HostSimulator::start_with(limits, exe, &["serve"], &program.env()).await;
    for starts in 2..=5 {
        assert_eq!(host.tick(FUNCTION).await, Invocation::TimedOut);
        assert_eq!((host.starts(), host.state()), (starts, State::Running), "it is no error");
    }
    door.store(true, Ordering::Relaxed);
    let (_, summary) = succeeded(start_tick(&host).await.unwrap());
    assert_eq!(summary["outcome"], "caught_up");
    assert_eq!(simulator.landed_count(), events(8));
}

/// After `POST /admin/host/restart` the host has both for a while: the old one's run goes on.
async fn two_handlers_side_by_side(checkpoints: Option<&str>) {
    let simulator = slow().await;
    let mut program = Program::of(&simulator);
    if let Some(url) = checkpoints {
        program = program.set("CHECKPOINT_URL", url);
    }
    let mut host = host(&program).await;
    let first = start_tick(&host);
    until("the first rows", || simulator.landed_count() > 0).await;
    let old = host.restart_beside().await;
    assert!(simulator.landed_count() < events(8), "the old one's run was to go on");
    let second = start_tick(&host);
    for tick in [first, second] {
        let (_, summary) = succeeded(tick.await.unwrap());
        assert_eq!(summary["outcome"], "caught_up", "{summary}");
    }
    drop(old);
    assert_eq!(landed(&simulator), events(8));
    assert_eq!(simulator.landed_count(), events(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_handlers_side_by_side_lose_nothing_and_double_nothing() {
    two_handlers_side_by_side(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_handlers_on_one_container_lose_nothing_and_double_nothing() {
    let Some(azurite) = Azurite::start().await else { return };
    let container = azurite.create_container("both").await;
    two_handlers_side_by_side(Some(&format!("{container}?{}", sas("rcwdl")))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_shuts_down_waits_for_a_run_that_ends_in_time() {
    let simulator = slow().await;
    let program = Program::of(&simulator);
    let limits = Limits { shutdown: PATIENCE, ..Limits::default() };
    let exe = Path::new(EXE);
    let host = HostSimulator::start_with(limits, exe, &["serve"], &program.env()).await;
    let tick = start_tick(&host);
    until("the first rows", || simulator.landed_count() > 0).await;
    let (_, summary) = succeeded(host.shut_down(tick).await.unwrap());
    assert_eq!(summary["outcome"], "caught_up");
    assert_rest_lands_once(&program, &simulator).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_without_a_run_ends() {
    let simulator = calm().await;
    let (host, handler) = host_apart(Limits::default(), &Program::of(&simulator)).await;
    host.die().await;
    handler.ended().await;
    // Also with settings that are wrong.
    let (host, handler) = host_apart(Limits::default(), &Program::bare()).await;
    assert!(handler.is_running());
    host.die().await;
    handler.ended().await;
}

/// A run of more than 10 s when the host shuts down.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_in_the_middle_of_a_run_keeps_its_progress_and_ends() {
    let (simulator, door) = with_a_door(true).await;
    let program = Program::of(&simulator);
    let limits = Limits { shutdown: Duration::ZERO, ..Limits::default() };
    let (host, handler) = host_apart(limits, &program).await;
    let tick = start_tick(&host);
    until("the first rows", || simulator.landed_count() > 0).await;
    // From here on it cannot end on its own.
    door.store(false, Ordering::Relaxed);
    assert_eq!(host.shut_down(tick).await, None);
    handler.ended().await;
    assert!(simulator.landed_count() < events(8), "it was to be left in the middle");
    door.store(true, Ordering::Relaxed);
    assert_rest_lands_once(&program, &simulator).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_releases_its_leases() {
    let Some(azurite) = Azurite::start().await else { return };
    let container = azurite.create_container("orphan").await;
    let (simulator, door) = with_a_door(true).await;
    let url = format!("{container}?{}", sas("rwdlc"));
    let program = Program::of(&simulator).set("CHECKPOINT_URL", &url);
    let (host, handler) = host_apart(Limits::default(), &program).await;
    let tick = start_tick(&host);
    until("the first rows", || simulator.landed_count() > 0).await;
    door.store(false, Ordering::Relaxed);
    let states = || async {
        let mut states = Vec::new();
        for stream in STREAMS {
            let blob = format!("{container}/{}?{}", checkpoint_name(stream), sas("r"));
            let answer = azurite.http.head(&blob).send().await.unwrap();
            states.push(answer.headers()["x-ms-lease-state"].to_str().unwrap().to_owned());
        }
        states
    };
    assert_eq!(states().await, ["leased"; 3]);
    host.die().await;
    handler.ended().await;
    assert_eq!(states().await, ["available"; 3]);
    tick.abort();
    door.store(true, Ordering::Relaxed);
    assert_rest_lands_once(&program, &simulator).await;
}

/// Its pipe is full, since nobody reads it, when the host dies: the line that it cannot write to its
/// end is an error's in the middle of a run.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_in_the_middle_of_a_line_keeps_its_progress_and_ends() {
    const PIPE_BYTES: usize = 65_536;
    let forbidden = FaultPlan::none().matching("mailflow", 1, Endpoint::Listing, Fault::Forbidden);
    let simulator = simulator(8, forbidden, Duration::from_millis(40)).await;
    let program = Program::of(&simulator);
    let fifo = program.folder.path().join("stderr");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut pipe = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let fifo = fifo.display().to_string();
    let line = r#"exec "$0" serve 2>"$1""#;
    let shell = ["-c", line, EXE, &fifo];
    let (host, handler) =
        start_apart(Limits::default(), Path::new("/bin/sh"), &shell, &program.env()).await;
    // That CHECKPOINT_URL is a folder.
    let read = pipe.read(&mut [0; 4_096]).unwrap();
    assert!(read > 100, "{read} bytes");
    pipe.write_all(&[b' '; PIPE_BYTES - 20]).unwrap();
    let tick = start_tick(&host);
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build();
    let (http, url) = (http.unwrap(), host.client().url("/"));
    while http.get(&url).send().await.is_ok() {
        assert!(!tick.is_finished(), "it was to be held up by its log");
    }
    host.die().await;
    assert!(handler.is_running());
    drop(pipe);
    handler.ended().await;
    tick.abort();
    assert_rest_lands_once(&program, &simulator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_ends_no_run() {
    let plan = FaultPlan::none().matching("mailflow", 1, Endpoint::Listing, Fault::Forbidden);
    let simulator = simulator(2, plan, Duration::ZERO).await;
    let mut host = host(&Program::of(&simulator)).await;
    host.stop_reading().await;
    assert_eq!(host.tick(FUNCTION).await, failed());
    assert_eq!(landed(&simulator), 80, "the others did their work");
    assert!(host.client().ready(PATIENCE).await);
    signal(host.worker(), "TERM");
    host.exited().await;
    assert_eq!(host.state(), State::NotRestarted, "it ended with exit code 0");
}

// As its own scheduler

#[tokio::test(flavor = "multi_thread")]
async fn without_a_host_it_waits_for_its_schedule() {
    let simulator = calm().await;
    // The 29th of February is far on most days; on it, the tick is at midnight.
    let program = Program::of(&simulator).set("SCHEDULE", "0 0 0 29 2 *");
    let mut serve = program.command(&["serve"]).spawn().unwrap();
    let mut lines = BufReader::new(serve.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(line.contains("waiting for the next run") && line.contains("-02-29"), "{line}");
    assert!(line.contains(" INFO ") && !line.starts_with('{'), "plain text: {line}");
    signal(&serve, "TERM");
    ended(serve).await.assert_code(0);
    assert_eq!(simulator.calls().mimecast_tokens, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_host_it_pulls_when_its_schedule_says() {
    let simulator = calm().await;
    let soon = Clock::system().now() + TimeDelta::seconds(6);
    let program =
        Program::of(&simulator).set("SCHEDULE", &soon.format("%-S %-M %-H * * *").to_string());
    let serve = program.command(&["serve"]).spawn().unwrap();
    until("the run", || simulator.landed_count() == events(2)).await;
    signal(&serve, "TERM");
    let ended = ended(serve).await;
    ended.assert_code(0);
    assert_eq!(landed(&simulator), events(2));
    assert!(Clock::system().now() >= soon - TimeDelta::seconds(1), "not before its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_ticks_too_often_is_refused() {
    let simulator = calm().await;
    for schedule in ["0 */9 * * * *", "0 */7 * * * *", "nonsense", "* * * * *"] {
        let ended = Program::of(&simulator).set("SCHEDULE", schedule).run(&["serve"]).await;
        ended.assert_code(2).assert_stderr(&["SCHEDULE: ", "at least 10 minutes apart"]);
    }
    assert_eq!(simulator.calls().mimecast_tokens, 0);
}
