//! Rows for the health table, and the status page as an HTTP function and at `LISTEN`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use flate2::read::GzDecoder;
use mimecast_sentinel::check::{Rung, Verdict};
use mimecast_sentinel::codes::Code;
use mimecast_sentinel::health::{Depth, History, Named, Reporter, Status};
use mimecast_sentinel::pipeline::sink::{PostError, Posted};
use mimecast_sentinel::pipeline::{Begun, Fault, Outcome, RunSummary, Sink, StreamSummary};
use mimecast_sentinel::schedule::Schedule;
use mimecast_sentinel::seams::Deadline;
use mimecast_sentinel::simulator::{
    Endpoint, Fault as Broken, FaultPlan, Simulator, SimulatorOptions,
};
use mimecast_sentinel::store::Store;
use mimecast_sentinel::table::{CLOUD_INTEGRATED, HEALTH, Table};
use serde_json::{Value, json};
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use crate::support::doubles::MemoryStore;
use crate::support::ports::unused_port;
use crate::support::program::{Program, assert_no_secret, signal, world};

/// Takes rows of health, unless it is to refuse them.
#[derive(Default)]
struct HealthSink {
    rows: Mutex<Vec<Value>>,
    posts: Mutex<u32>,
    refuses: Mutex<bool>,
}

#[async_trait]
impl Sink for HealthSink {
    fn destination(&self, _: &Table) -> String {
        "memory".to_owned()
    }

    async fn post(&self, table: &Table, body: Bytes, _: Deadline) -> Posted {
        assert_eq!(table.name, HEALTH.name);
        *self.posts.lock().unwrap() += 1;
        if *self.refuses.lock().unwrap() {
            let words = "The stream was not configured in the rule.".to_owned();
            return Posted { ambiguous: 0, answer: Err(PostError::RowRefused(words)) };
        }
        let rows: Vec<Value> = serde_json::from_reader(GzDecoder::new(&body[..])).unwrap();
        self.rows.lock().unwrap().extend(rows);
        Posted { ambiguous: 0, answer: Ok(()) }
    }
}

/// A connector of one stream whose runs end as the test says, at a time of the test's.
struct Reports {
    store: Arc<dyn Store>,
    sink: Arc<HealthSink>,
    reporter: Reporter,
    now: DateTime<Utc>,
    /// How many runs were quiet.
    quiet: u32,
}

impl Reports {
    fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let sink = Arc::new(HealthSink::default());
        let reporter = Reporter::new(Arc::clone(&store), sink.clone(), "my-app".to_owned());
        Self { store, sink, reporter, now: "2026-11-29T00:00:00Z".parse().unwrap(), quiet: 0 }
    }

    /// A run every 15 minutes, and the rows that it has posted: nothing is posted of a quiet one.
    async fn run(&mut self, outcome: Outcome, error: Option<Fault>) -> Vec<Value> {
        self.now += TimeDelta::minutes(15);
        let begun = Begun { run_id: self.now.to_string(), started_at: self.now };
        let stream = StreamSummary {
            stream: "mailflow".to_owned(),
            outcome,
            error,
            rows_delivered: 1,
            ..StreamSummary::default()
        };
        let summary = RunSummary::new(begun, self.now, "memory".to_owned(), vec![stream]);
        History::new(Arc::clone(&self.store), "cloud-integrated").end(&summary).await;
        let schedule = Schedule::parse("0 */15 * * * *").unwrap();
        let named = Named { source: "cloud-integrated", streams: vec!["mailflow"], schedule };
        let is_quiet = self.reporter.is_quiet(&summary).await;
        let status =
            Status::read(&self.store, &[named], Depth::Glance, None, self.now).await.unwrap();
        self.reporter.streams(&status).await;
        let rows = std::mem::take(&mut *self.sink.rows.lock().unwrap());
        assert!(rows.is_empty() || !is_quiet, "{rows:#?}");
        self.quiet += u32::from(is_quiet);
        rows
    }

    async fn well(&mut self) -> Vec<Value> {
        self.run(Outcome::CaughtUp, None).await
    }

    async fn fails(&mut self) -> Vec<Value> {
        let fault = Fault::passing(Code::StoreFailed, "It broke", "wait");
        self.run(Outcome::Failed, Some(fault)).await
    }

    async fn is_refused(&mut self) -> Vec<Value> {
        let fault = Fault::settings(Code::StoreRefused, "No right", "grant it");
        self.run(Outcome::Failed, Some(fault)).await
    }
}

fn states(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["ExtendedProperties"]["State"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_stream_that_stays_as_it_is_has_a_row_an_hour() {
    let mut reports = Reports::new();
    let mut rows = Vec::new();
    for _ in 0..96 {
        rows.extend(reports.well().await);
    }
    assert_eq!((rows.len(), reports.quiet), (24, 72));
    let row = &rows[0];
    assert_eq!(row["OperationName"], "Data fetch status change");
    assert_eq!(row["SentinelResourceName"], "my-app/mailflow");
    assert_eq!(row["SentinelResourceKind"], "mimecast-sentinel");
    assert_eq!(row["Status"], "Success");
    let properties = &row["ExtendedProperties"];
    assert_eq!(
        (&properties["State"], &properties["Stream"]),
        (&json!("Connected"), &json!("mailflow"))
    );
    assert_eq!(properties["LastRow"], "2026-11-29T00:15:00Z");
    let delivered = |row: &Value| row["ExtendedProperties"]["Summary"]["rows_delivered"].as_u64();
    assert_eq!(delivered(&rows[0]), Some(1));
    assert_eq!(rows[1..].iter().map(delivered).collect::<Vec<_>>(), [Some(4); 23], "they add up");
}

#[tokio::test]
async fn rows_of_a_run_whose_clock_was_ahead_are_not_in_each_row_of_health() {
    let mut reports = Reports::new();
    let right = reports.now;
    reports.now += TimeDelta::days(1);
    reports.well().await;
    reports.now = right;
    let mut rows = Vec::new();
    for _ in 0..12 {
        rows.extend(reports.well().await);
    }
    let delivered = |row: &Value| row["ExtendedProperties"]["Summary"]["rows_delivered"].as_u64();
    assert_eq!(rows[1..].iter().map(delivered).collect::<Vec<_>>(), [Some(4), Some(4)]);
}

#[tokio::test]
async fn what_a_person_must_fix_is_reported_at_once_and_so_is_its_end() {
    let mut reports = Reports::new();
    assert_eq!(states(&reports.well().await), ["Connected"]);
    let rows = reports.is_refused().await;
    assert_eq!(states(&rows), ["Disconnected"]);
    assert_eq!(
        (&rows[0]["Status"], &rows[0]["Reason"]),
        (&json!("Failure"), &json!("store-refused"))
    );
    assert_eq!(rows[0]["Description"], "No right");
    assert_eq!(rows[0]["ExtendedProperties"]["Fix"], "grant it");
    assert_eq!(reports.is_refused().await, [] as [Value; 0], "nothing new");
    assert_eq!(states(&reports.well().await), ["Connected"]);
}

#[tokio::test]
async fn what_may_pass_is_reported_once_it_lasts_for_an_hour() {
    let mut reports = Reports::new();
    reports.well().await;
    assert_eq!(reports.fails().await.len() + reports.fails().await.len(), 0);
    assert_eq!(reports.well().await.len(), 0, "it passed");
    // The hourly row falls into the next failure, and says how it is.
    assert_eq!(states(&reports.fails().await), ["Degraded"]);
    let rows = [reports.fails().await, reports.fails().await, reports.fails().await].concat();
    assert_eq!(rows.len(), 0);
    assert_eq!(states(&reports.fails().await), ["Disconnected"], "after an hour");
}

#[tokio::test]
async fn a_row_that_is_refused_is_tried_again_in_an_hour() {
    let mut reports = Reports::new();
    *reports.sink.refuses.lock().unwrap() = true;
    for _ in 0..8 {
        reports.well().await;
    }
    assert_eq!(*reports.sink.posts.lock().unwrap(), 2, "in two hours");
    *reports.sink.refuses.lock().unwrap() = false;
    for _ in 0..4 {
        reports.well().await;
    }
    assert_eq!(*reports.sink.posts.lock().unwrap(), 3);
}

fn verdict(rung: &str, verdict: Verdict) -> Rung {
    Rung {
        rung: rung.to_owned(),
        source: None,
        tried: "it".to_owned(),
        verdict,
        answer: "so".to_owned(),
        fix: None,
    }
}

#[tokio::test]
async fn verdicts_are_reported_once_a_day_and_when_one_changes() {
    let reports = Reports::new();
    let mut now = reports.now;
    assert!(reports.reporter.is_test_due(now.date_naive()).await);
    let rows = || std::mem::take(&mut *reports.sink.rows.lock().unwrap());
    reports
        .reporter
        .verdicts(&[verdict("a", Verdict::Ok), verdict("b", Verdict::Inconclusive)], now)
        .await;
    let first = rows();
    assert_eq!(first.len(), 2);
    assert_eq!(first[1]["OperationName"], "Connection test");
    assert_eq!(first[1]["SentinelResourceName"], "my-app/b");
    assert_eq!(first[1]["Status"], "Success", "nothing is proven");
    assert!(!reports.reporter.is_test_due(now.date_naive()).await);

    now += TimeDelta::hours(1);
    reports.reporter.verdicts(&[verdict("a", Verdict::Ok), verdict("b", Verdict::Fail)], now).await;
    let changed = rows();
    assert_eq!(changed.len(), 1);
    assert_eq!((&changed[0]["Status"], &changed[0]["Reason"]), (&json!("Failure"), &json!("b")));

    now += TimeDelta::days(1);
    assert!(reports.reporter.is_test_due(now.date_naive()).await);
    reports.reporter.verdicts(&[verdict("a", Verdict::Ok), verdict("b", Verdict::Fail)], now).await;
    assert_eq!(rows().len(), 2);
}

async fn simulator(tables: Vec<&'static Table>) -> Simulator {
    let options = SimulatorOptions { tables, ..SimulatorOptions::default() };
    Simulator::start(world(1), FaultPlan::none(), options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_posts_rows_of_health_to_the_same_rule() {
    let simulator = simulator(vec![&CLOUD_INTEGRATED, &HEALTH]).await;
    let program = Program::of(&simulator).unset("HEALTH_STREAM");
    program.run(&["pull"]).await.assert_code(0);
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(simulator.violations(), Vec::<String>::new());
    let rows = simulator.landed_in(&HEALTH);
    assert_eq!(states(&rows), ["Connected"; 3], "once, since nothing changed");
    assert_eq!(rows[1]["SentinelResourceName"], "mimecast-sentinel/mailflow");
    assert_eq!(rows[1]["ExtendedProperties"]["Summary"]["rows_delivered"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_without_the_stream_fails_no_run() {
    let simulator = simulator(vec![&CLOUD_INTEGRATED]).await;
    let program = Program::of(&simulator).unset("HEALTH_STREAM");
    let first = program.run(&["pull"]).await;
    first
        .assert_code(0)
        .assert_stderr(&["a row of the health table was not accepted", "HEALTH_STREAM"]);
    let second = program.run(&["pull"]).await;
    second.assert_code(0);
    assert!(!second.said().contains("health table"), "it is said once an hour: {second:#?}");
    assert_eq!(simulator.landed_in(&CLOUD_INTEGRATED).len(), 60);
}

/// The handler, as the Functions host has started it.
struct Handler {
    url: String,
    http: reqwest::Client,
    child: Child,
}

impl Handler {
    async fn start(program: Program, port: u16) -> (Self, Program) {
        let child = program.command(&["serve"]).spawn().unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{port}");
        while http.get(&url).send().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
        (Self { url, http, child }, program)
    }

    async fn post(&self, function: &str, payload: &Value) -> Value {
        let url = format!("{}/{function}", self.url);
        let answer = self.http.post(url).body(payload.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// What a browser gets of the HTTP function, whose bindings are named as in the package.
    async fn status(&self, method: &str, headers: &Value) -> (u64, Value, String) {
        let function = include_str!("../status.function.json");
        let function: Value = serde_json::from_str(function).unwrap();
        let [request_name, answer_name] =
            [0, 1].map(|at| function["bindings"][at]["name"].as_str().unwrap());
        let url = "https://my-app.azurewebsites.net/api/Status?code=key";
        let request = json!({
            "Url": url, "Method": method, "Query": "{\"code\":\"key\"}", "Headers": headers,
            "Params": {}, "Body": "",
        });
        let payload = json!({ "Data": { request_name: request }, "Metadata": {} });
        let answer = self.post("Status", &payload).await;
        assert_eq!(answer["ReturnValue"], Value::Null);
        let res = &answer["Outputs"][answer_name];
        let body = res["body"].as_str().unwrap().to_owned();
        (res["statusCode"].as_u64().unwrap(), res["headers"].clone(), body)
    }
}

fn under_functions(program: Program, port: u16) -> Program {
    let state = program.state().display().to_string();
    program
        .set("FUNCTIONS_CUSTOMHANDLER_PORT", &port.to_string())
        .set("SCHEDULE", "0 */15 * * * *")
        .set("CHECKPOINT_URL", &state)
}

fn from_the_page() -> Value {
    json!({
        "Host": ["my-app.azurewebsites.net"],
        "Origin": ["https://my-app.azurewebsites.net"],
        "Sec-Fetch-Site": ["same-origin"],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_shows_the_status_and_tests_the_connection() {
    let simulator = simulator(vec![&CLOUD_INTEGRATED, &HEALTH]).await;
    let port = unused_port();
    let program = under_functions(Program::of(&simulator).unset("HEALTH_STREAM"), port);
    let (handler, _program) = Handler::start(program, port).await;
    let host = json!({ "Host": ["my-app.azurewebsites.net"] });
    let (code, headers, page) = handler.status("GET", &host).await;
    assert_eq!(code, 200);
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    let policy = headers["content-security-policy"].as_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert_eq!(headers["cache-control"], "no-store");
    assert!(page.contains("3 of 3 streams need attention") && page.contains("<form"), "{page}");

    let done = handler.post("CloudIntegrated", &json!({ "Data": { "timer": {} } })).await;
    assert_eq!(done["ReturnValue"]["outcome"], "caught_up");
    let (_, _, page) = handler.status("GET", &host).await;
    assert!(page.contains("All 3 streams work."), "{page}");
    // The first tick of a day tests the connection, and tells of it.
    let rows = simulator.landed_in(&HEALTH);
    let verdicts = rows.iter().filter(|row| row["OperationName"] == "Connection test");
    let verdicts: Vec<_> =
        verdicts.map(|row| row["SentinelResourceName"].as_str().unwrap()).collect();
    assert!(verdicts.contains(&"mimecast-sentinel/mimecast/token"), "{rows:#?}");
    assert_eq!(rows.len(), 3 + verdicts.len());

    // Not from elsewhere.
    for headers in [
        host,
        json!({ "host": ["my-app.azurewebsites.net"], "origin": ["https://evil.example"] }),
        json!({ "host": ["my-app.azurewebsites.net"], "origin": ["null"] }),
        json!({
            "host": ["my-app.azurewebsites.net"], "origin": ["https://my-app.azurewebsites.net"],
            "sec-fetch-site": ["cross-site"],
        }),
        Value::Null,
    ] {
        let (code, _, said) = handler.status("POST", &headers).await;
        assert_eq!(code, 403, "{headers}: {said}");
    }
    let (code, _, page) = handler.status("POST", &from_the_page()).await;
    assert_eq!(code, 200);
    for part in ["mimecast/token", "azure/stream/Custom-Cloud_Integrated", "state", "</html>"] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    assert_no_secret(&simulator, &page);
    let (code, _, page) = handler.status("POST", &from_the_page()).await;
    assert_eq!(code, 429);
    assert!(page.contains("was tested a short while ago"), "{page}");
    let (code, ..) = handler.status("PUT", &from_the_page()).await;
    assert_eq!(code, 405);
    assert_eq!(simulator.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_the_test_of_the_day() {
    // The token of the rows of health is given; that of the test does not come.
    let hangs = Broken::Slow(Duration::from_secs(3_600));
    let plan = FaultPlan::none().once(Endpoint::AzureToken, Broken::Nothing).times(
        usize::MAX,
        Endpoint::AzureToken,
        hangs,
    );
    let tables = vec![&CLOUD_INTEGRATED, &HEALTH];
    let options = SimulatorOptions { tables, ..SimulatorOptions::default() };
    let simulator = Simulator::start(world(1), plan, options).await.unwrap();
    let port = unused_port();
    let program = under_functions(Program::of(&simulator).unset("HEALTH_STREAM"), port);
    let (mut handler, _program) = Handler::start(program, port).await;
    let payload = json!({ "Data": { "timer": {} } });
    let tick = handler.post("CloudIntegrated", &payload);
    let stopped = async {
        while simulator.calls().azure_tokens.values().sum::<u64>() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
        signal(&handler.child, "TERM");
    };
    // By itself the test gives up after 30 s.
    let answered = timeout(Duration::from_secs(15), async { tokio::join!(tick, stopped) }).await;
    let (done, ()) = answered.expect("the tick ends with the stop");
    assert_eq!(done["ReturnValue"]["outcome"], "caught_up");
    assert!(handler.child.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_on_the_page() {
    let port = unused_port();
    let program = under_functions(Program::bare(), port).set("MIMECAST_TYPES", "<b>nonsense");
    let (handler, _program) = Handler::start(program, port).await;
    let (code, _, page) = handler.status("GET", &json!({ "Host": ["a"] })).await;
    assert_eq!(code, 200);
    for part in ["The settings are wrong", "MIMECAST_CLIENT_ID: it is not set", "&lt;b&gt;nonsense"]
    {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    assert!(!page.contains("<b>nonsense"), "{page}");
    // A call that is none of the host's is answered all the same.
    let answer = handler.post("Status", &json!([1])).await;
    assert_eq!(answer["Outputs"]["res"]["statusCode"], 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_functions_the_page_is_where_listen_says() {
    let simulator = simulator(vec![&CLOUD_INTEGRATED]).await;
    let port = unused_port();
    let program = Program::of(&simulator).set("LISTEN", &format!("127.0.0.1:{port}"));
    let (handler, program) = Handler::start(program, port).await;
    let get = async |path: &str| {
        let answer = handler.http.get(format!("{}{path}", handler.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("/healthz").await, (200, "ok\n".to_owned()));
    let (code, page) = get("/").await;
    assert_eq!(code, 200);
    assert!(page.contains("3 of 3 streams need attention"), "{page}");
    assert_eq!(get("/elsewhere").await.0, 404);
    // A name of somebody else's that leads here.
    let rebound =
        handler.http.get(&handler.url).header("Host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), 403);
    // What nobody can listen on is a fault of the settings.
    let taken = program.run(&["serve"]).await;
    taken.assert_code(2).assert_stderr(&["LISTEN is", "cannot be listened on"]);
}
