//! `status`, and what it is made of: each state by the runs that lead to it, and the run history.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mimecast_sentinel::health::page::Page;
use mimecast_sentinel::health::{Depth, History, Named, State, Status};
use mimecast_sentinel::pipeline::{Begun, Policy, RunSummary, StreamSummary};
use mimecast_sentinel::quarantine::{FilePosition, Kept, Quarantine, Rejection};
use mimecast_sentinel::schedule::Schedule;
use mimecast_sentinel::simulator::{Endpoint, Fault, FaultPlan};
use mimecast_sentinel::store::{FolderStore, Store};
use mimecast_sentinel::table::HEALTH;
use mimecast_sentinel::version::BUILD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::support::doubles::MemoryStore;
use crate::support::program::{Program, STREAMS, signal, simulator, until};

/// The schedule is every 15 minutes.
fn now() -> DateTime<Utc> {
    "2026-11-29T21:05:00Z".parse().unwrap()
}

fn minutes(ago: i64) -> DateTime<Utc> {
    now() - TimeDelta::minutes(ago)
}

fn named(streams: &[&'static str]) -> Named {
    let schedule = Schedule::parse("0 */15 * * * *").unwrap();
    Named { source: "cloud-integrated", streams: streams.to_vec(), schedule }
}

/// A run of one stream that began so many minutes ago, and took one.
fn run(ago: i64, stream: Value) -> Value {
    let mut of = json!({ "stream": "mailflow" });
    of.as_object_mut().unwrap().extend(stream.as_object().unwrap().clone());
    json!({
        "run_id": format!("{ago:032}"),
        "version": "0.1.0",
        "started_at": minutes(ago),
        "ends_by": minutes(ago - 11),
        "finished_at": minutes(ago - 1),
        "streams": [of],
    })
}

fn well(ago: i64) -> Value {
    run(ago, json!({ "outcome": "caught_up" }))
}

fn failed(ago: i64, person: bool) -> Value {
    let error =
        json!({ "code": "store-failed", "message": "It broke", "fix": "fix it", "person": person });
    run(ago, json!({ "outcome": "failed", "error": error }))
}

fn without_end(ago: i64) -> Value {
    let mut run = run(ago, json!({}));
    run["finished_at"] = Value::Null;
    run
}

/// A store in which these runs are recorded, each in its day.
async fn store(runs: &[Value]) -> Arc<dyn Store> {
    let store = Arc::new(MemoryStore::default());
    let mut days = std::collections::BTreeMap::<String, Vec<&Value>>::new();
    for run in runs {
        days.entry(run["started_at"].as_str().unwrap()[..10].to_owned()).or_default().push(run);
    }
    for (day, runs) in days {
        let bytes = json!({ "runs": runs }).to_string();
        store.write(&format!("runs/cloud-integrated/{day}.json"), bytes.into()).await.unwrap();
    }
    store
}

async fn status(store: &Arc<dyn Store>) -> Status {
    Status::read(store, &[named(&["mailflow"])], Depth::Whole, None, now()).await.unwrap()
}

async fn state(runs: &[Value]) -> (State, Option<String>) {
    let status = status(&store(runs).await).await;
    let [stream] = status.streams.as_slice() else { panic!("{status:#?}") };
    assert_eq!(status.is_fine(), stream.state.is_fine());
    assert_eq!(stream.state.is_fine(), stream.reason.is_none(), "{stream:#?}");
    (stream.state, stream.code.clone())
}

/// A run that failed with this code, while a file or the destination holds the stream up.
fn held_up(passed_at: Option<DateTime<Utc>>, code: &str) -> Value {
    let mut run = failed(5, true);
    run["streams"][0]["error"]["code"] = json!(code);
    run["streams"][0]["held_up"] = json!({
        "what": "file f", "since": minutes(300), "tries": 20, "passed_at": passed_at,
        "command": null,
    });
    run
}

/// What the runs are called, the runs, the state they lead to, and its code.
type Case = (&'static str, Vec<Value>, State, Option<&'static str>);

async fn assert_states(cases: Vec<Case>) {
    for (what, runs, expected, code) in cases {
        assert_eq!(state(&runs).await, (expected, code.map(str::to_owned)), "{what}");
    }
}

#[tokio::test]
async fn each_state_by_the_runs_that_lead_to_it() {
    use State::{Connected, Connecting, Degraded, Disconnected, Unavailable};
    let rows = |ago, outcome| run(ago, json!({ "outcome": outcome, "rows_delivered": 5 }));
    let waiting = run(5, json!({ "outcome": "caught_up", "files_waiting": 3 }));
    let busy = |ago| run(ago, json!({ "outcome": "busy" }));
    assert_states(vec![
        ("nothing", vec![], Unavailable, None),
        ("the first run is in progress", vec![without_end(5)], Unavailable, None),
        ("a quiet night", vec![well(20), well(5)], Connected, None),
        ("one of the rows", vec![rows(20, "time_limit"), rows(5, "caught_up")], Connected, None),
        ("a dead connector", vec![well(200), well(185)], Disconnected, Some("no-run")),
        ("one that is late", vec![well(75)], Connected, None),
        ("a backlog", vec![rows(20, "time_limit"), rows(5, "time_limit")], Connecting, None),
        ("a short failure", vec![well(20), failed(5, false)], Degraded, Some("store-failed")),
        ("it passed", vec![failed(20, false), well(5)], Connected, None),
        (
            "a long failure",
            vec![well(95), failed(80, false), failed(65, false), failed(5, false)],
            Disconnected,
            Some("store-failed"),
        ),
        ("a person must act", vec![well(20), failed(5, true)], Disconnected, Some("store-failed")),
        (
            "it never worked",
            vec![failed(20, true), failed(5, true)],
            Unavailable,
            Some("store-failed"),
        ),
        ("a kill", vec![well(35), without_end(20)], Degraded, Some("run-killed")),
        ("a kill, and all is well", vec![without_end(20), well(5)], Connected, None),
        ("a run in progress", vec![well(20), without_end(5)], Connected, None),
        ("files wait", vec![well(20), waiting], Degraded, Some("files-waiting")),
        ("another does the work", vec![well(20), busy(6), busy(5)], Connected, None),
        ("another alone", vec![busy(20), busy(5)], Unavailable, None),
    ])
    .await;
}

/// A file that is left aside is a state of its own, and hides nothing else.
#[tokio::test]
async fn what_is_held_up_hides_nothing_else() {
    use State::{Degraded, Disconnected};
    assert_states(vec![
        (
            "a file is left aside",
            vec![well(320), held_up(Some(minutes(-1000)), "file-forbidden")],
            Degraded,
            Some("file-forbidden"),
        ),
        (
            "a secret expires beside a file that is left aside",
            vec![well(320), held_up(Some(minutes(-1000)), "mimecast-credentials")],
            Disconnected,
            Some("mimecast-credentials"),
        ),
        (
            "every row is refused",
            vec![well(320), held_up(Some(minutes(-1000)), "every-row-refused")],
            Disconnected,
            Some("every-row-refused"),
        ),
        (
            "kills after a file was left aside",
            vec![
                well(400),
                run(
                    300,
                    json!({
                        "outcome": "failed",
                        "error": { "code": "file-forbidden", "message": "m", "fix": "f" },
                        "held_up": {
                            "what": "file f", "since": minutes(300), "tries": 1,
                            "passed_at": minutes(-1000), "command": null,
                        },
                    }),
                ),
                without_end(90),
                without_end(20),
            ],
            Disconnected,
            Some("run-killed"),
        ),
        (
            "the destination holds it up",
            vec![well(320), held_up(None, "store-failed")],
            Disconnected,
            Some("store-failed"),
        ),
    ])
    .await;
}

/// A run is days old before the next is due.
#[tokio::test]
async fn a_weekly_schedule_is_connected_the_whole_week() {
    for days in [1, 3, 6] {
        let ago = days * 24 * 60;
        for (run, expected) in [
            (well(ago), State::Connected),
            (run(ago, json!({ "outcome": "time_limit", "rows_delivered": 5 })), State::Connecting),
        ] {
            let mut named = named(&["mailflow"]);
            named.schedule = Schedule::parse("0 0 6 * * 1").unwrap();
            let store = store(&[run]).await;
            let status = Status::read(&store, &[named], Depth::Whole, None, now()).await.unwrap();
            assert_eq!(status.streams[0].state, expected, "{days} days after it");
        }
    }
}

/// It is put right, and runs go on.
#[tokio::test]
async fn a_run_whose_clock_was_days_ahead_says_nothing_of_now() {
    let ahead = -10 * 24 * 60;
    assert_eq!(state(&[failed(ahead, true), well(5)]).await.0, State::Connected);
    assert_eq!(state(&[well(ahead), well(20), failed(5, true)]).await.0, State::Disconnected);
    let (state_now, code) = state(&[well(ahead), well(200)]).await;
    assert_eq!((state_now, code.as_deref()), (State::Disconnected, Some("no-run")));
    let (state_now, code) = state(&[without_end(ahead), well(200)]).await;
    assert_eq!((state_now, code.as_deref()), (State::Disconnected, Some("no-run")));
    assert_eq!(state(&[well(20), well(-1)]).await.0, State::Connected, "another machine's clock");
}

#[tokio::test]
async fn what_was_delivered_once_is_remembered_without_history() {
    let store = store(&[]).await;
    let checkpoint = json!({
        "version": 1, "owner": {}, "destination": "d", "cursor": {"token": "t"},
        "backfill_from": null, "files": {}, "updated_at": minutes(50_000),
        "totals": {"pages": 1, "files": 1, "rows_delivered": 10, "rows_quarantined": 0},
    });
    store.write("checkpoints/mailflow.json", checkpoint.to_string().into()).await.unwrap();
    let status = status(&store).await;
    assert_eq!(status.streams[0].state, State::Disconnected);
    assert_eq!(status.streams[0].code.as_deref(), Some("no-run"));
}

#[tokio::test]
async fn rows_are_counted_by_hour_and_by_day() {
    let rows = |ago, rows: u64| run(ago, json!({ "outcome": "caught_up", "rows_delivered": rows }));
    let day = 24 * 60;
    let store = store(&[
        rows(31 * day, 1),
        rows(29 * day + 30, 20),
        rows(day + 30, 300),
        rows(90, 4_000),
        rows(30, 50_000),
        rows(5, 0),
    ])
    .await;
    let stream = &status(&store).await.streams[0];
    assert_eq!((stream.rows_24h, stream.rows_30d), (54_000, 54_320));
    assert_eq!(stream.rows_by_hour[22..], [4_000, 50_000]);
    assert_eq!(stream.rows_by_day[28..], [300, 54_000]);
    assert_eq!(stream.rows_by_day[0], 20);
    assert_eq!(stream.last_row, Some(minutes(29)));
    assert_eq!(stream.last_success, Some(minutes(4)));
}

#[tokio::test]
async fn quarantine_is_counted_by_reason() {
    let store = store(&[well(5)]).await;
    let quarantine = Quarantine::new(Arc::clone(&store));
    for line in 1..=3 {
        let rejection = Rejection {
            position: FilePosition { stream: "mailflow".to_owned(), file: "f".to_owned(), line },
            event_id: format!("{line:032}"),
            reason: if line == 1 { "row-refused" } else { "not-json" },
            detail: "no".to_owned(),
            delivered: false,
            kept: Kept::Nothing,
        };
        quarantine.keep(&rejection).await.unwrap();
    }
    let stream = &status(&store).await.streams[0];
    assert_eq!(stream.quarantine.records, 3);
    let reasons = [("not-json".to_owned(), 2), ("row-refused".to_owned(), 1)];
    assert_eq!(stream.quarantine.reasons, reasons.into());
    assert_eq!(stream.state, State::Connected, "the rest is delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_large_quarantine_it_is_said_how_far_it_was_counted() {
    let program = Program::bare();
    let program = program.set("CHECKPOINT_URL", "state").set("MIMECAST_TYPES", "mailflow");
    let folder = program.folder.path().join("state/quarantine/mailflow");
    let records = async |file: &str, count: u32| {
        let folder = folder.join(file);
        std::fs::create_dir_all(&folder).unwrap();
        (0..count).for_each(|n| std::fs::write(folder.join(format!("{n}.json")), "{}").unwrap());
        program.run(&["status"]).await.stdout
    };
    let said = records("a", 2).await;
    assert!(said.contains("quarantine     2 (2 unreadable)\n"), "{said}");
    let said = records("b", 300).await;
    assert!(said.contains("quarantine     302 (of the first 200: 200 unreadable)\n"), "{said}");
    let said = records("c", 10_000).await;
    let expected = "quarantine     10,000 or more (of the first 200: 200 unreadable)\n";
    assert!(said.contains(expected), "{said}");
}

#[tokio::test]
async fn a_killed_run_is_not_in_progress_once_another_did_its_work() {
    let since = async |runs: &[Value]| status(&store(runs).await).await.streams[0].running_since;
    assert_eq!(since(&[without_end(8)]).await, Some(minutes(8)));
    assert_eq!(since(&[without_end(8), well(5)]).await, None);
    let busy = run(5, json!({ "outcome": "busy" }));
    assert_eq!(since(&[without_end(8), busy]).await, Some(minutes(8)), "it does the work");
}

fn begun(id: u64, at: DateTime<Utc>) -> Begun {
    Begun { run_id: format!("{id:032x}"), started_at: at }
}

fn ended(begun: Begun, rows_delivered: u64) -> RunSummary {
    let at = begun.started_at + TimeDelta::seconds(1);
    let stream =
        StreamSummary { stream: "mailflow".to_owned(), rows_delivered, ..StreamSummary::default() };
    RunSummary::new(begun, at, "memory".to_owned(), vec![stream])
}

/// Both find the other's record, however their writes fall.
#[tokio::test]
async fn two_connectors_lose_no_run_of_each_other() {
    let folder = TempDir::new().unwrap();
    let history = || {
        let store: Arc<dyn Store> = Arc::new(FolderStore::new(folder.path()));
        History::new(store, "cloud-integrated")
    };
    let policy = Policy::default();
    let runs = async |first: u64| {
        let history = history();
        for n in 0..10 {
            let begun = begun(first + n, minutes(5));
            history.begin(&begun, &policy, ["mailflow"]).await;
            history.end(&ended(begun, 1)).await;
        }
    };
    tokio::join!(runs(0), runs(100));
    let found = history().since(now().date_naive()).await.unwrap();
    assert_eq!(found.len(), 20);
    assert!(found.iter().all(|run| run.finished_at.is_some()), "{found:#?}");
}

#[tokio::test]
async fn runs_are_kept_for_30_days_and_no_day_grows_without_end() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let history = History::new(Arc::clone(&store), "cloud-integrated");
    let policy = Policy::default();
    for ago in (0..40).rev() {
        let begun = begun(ago, now() - TimeDelta::days(ago as i64));
        history.begin(&begun, &policy, ["mailflow"]).await;
        history.end(&ended(begun, 1)).await;
    }
    let days = store.list("runs/").await.unwrap();
    assert_eq!(days.len(), 31, "{days:?}");
    assert_eq!(days[0], "runs/cloud-integrated/2026-10-30.json");
    // Of somebody who pulls without a pause.
    for n in 100..1_200 {
        history.end(&ended(begun(n, now()), 1)).await;
    }
    let today = history.since(now().date_naive()).await.unwrap();
    assert_eq!(today.len(), 1_000);
    let rows: u64 = today.iter().flat_map(|run| &run.streams).map(|of| of.rows_delivered).sum();
    assert_eq!(rows, 1_101, "what a day delivered stays true");
}

#[tokio::test]
async fn a_history_that_cannot_be_read_is_begun_anew() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let name = "runs/cloud-integrated/2026-11-29.json";
    for bytes in ["", "{", "[]", "{\"runs\":[{}]}", "\u{0}"] {
        store.write(name, bytes.to_owned().into()).await.unwrap();
        assert_eq!(status(&store).await.streams[0].state, State::Unavailable, "{bytes:?}");
        let history = History::new(Arc::clone(&store), "cloud-integrated");
        history.end(&ended(begun(1, minutes(5)), 1)).await;
        assert_eq!(status(&store).await.streams[0].state, State::Connected, "{bytes:?}");
    }
}

/// Whoever can write to the folder may have put it there.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_is_no_file_hides_no_other_day() {
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let program = Program::of(&simulator);
    program.run(&["pull"]).await.assert_code(0);
    let day = program.state().join("runs/cloud-integrated/2999-01-01.json");
    std::os::unix::fs::symlink("../../checkpoints/mailflow.json", day).unwrap();
    let status = program.run(&["status"]).await;
    status.assert_code(0).assert_stderr(&["counts as empty", "2999-01-01.json: it is a link"]);
}

/// What is stored may be anybody's.
#[tokio::test]
async fn numbers_and_times_that_cannot_be_do_no_harm() {
    let most =
        json!({ "outcome": "caught_up", "rows_delivered": u64::MAX, "rows_quarantined": u64::MAX });
    let mut runs =
        vec![run(90, most.clone()), run(5, most), run(3, json!({ "outcome": "failed" }))];
    for time in ["+262142-12-31T00:00:00Z", "-262143-01-01T00:00:00Z"] {
        let mut odd = well(4);
        for name in ["started_at", "ends_by", "finished_at"] {
            odd[name] = json!(time);
        }
        odd["streams"][0]["newest_event"] = json!(time);
        runs.push(odd);
    }
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let day = json!({ "runs": runs }).to_string();
    store.write("runs/cloud-integrated/2026-11-29.json", day.into()).await.unwrap();
    let status = status(&store).await;
    let stream = &status.streams[0];
    assert_eq!((stream.rows_24h, stream.rows_30d), (u64::MAX, u64::MAX));
    let page = Page { status: Ok(&status), faults: Vec::new(), now: now(), has_test: false }.html();
    assert!(page.contains("in 24 hours"), "{page}");
    History::new(Arc::clone(&store), "cloud-integrated").end(&ended(begun(1, minutes(5)), 1)).await;
}

/// After a newer release was tried, and this one is back.
#[tokio::test]
async fn a_record_that_is_not_understood_is_kept_and_hides_no_other() {
    let mut newer = well(20);
    newer["run_id"] = json!("newer");
    newer["streams"][0]["outcome"] = json!("a_new_word");
    let store = store(&[well(35), newer.clone()]).await;
    assert_eq!(status(&store).await.streams[0].last_success, Some(minutes(34)));
    History::new(Arc::clone(&store), "cloud-integrated").end(&ended(begun(1, minutes(5)), 1)).await;
    assert_eq!(status(&store).await.streams[0].state, State::Connected);
    let day = store.read("runs/cloud-integrated/2026-11-29.json").await.unwrap().unwrap();
    let day: Value = serde_json::from_slice(&day).unwrap();
    assert_eq!((day["runs"].as_array().unwrap().len(), &day["runs"][1]), (3, &newer));
}

fn runs_in(state: &Path) -> Vec<Value> {
    let Ok(days) = std::fs::read_dir(state.join("runs/cloud-integrated")) else { return vec![] };
    let paths =
        days.map(|day| day.unwrap().path()).filter(|path| path.extension().unwrap() == "json");
    paths
        .flat_map(|path| {
            let day: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            day["runs"].as_array().unwrap().clone()
        })
        .collect()
}

/// The stream works again, and what is missing is not forgotten.
#[tokio::test]
async fn a_time_of_which_events_may_be_missing_is_said_for_30_days() {
    let gap = json!({"from": minutes(9_000), "to": minutes(3_000)});
    let with_gap = run(2_000, json!({ "outcome": "caught_up", "gap": gap }));
    let store = store(&[with_gap, well(5)]).await;
    let status = status(&store).await;
    assert_eq!(status.streams[0].state, State::Connected);
    let found = status.streams[0].last_gap.unwrap();
    assert_eq!((found.at, found.gap.to), (minutes(1_999), minutes(3_000)));
    let page = Page { status: Ok(&status), faults: Vec::new(), now: now(), has_test: false }.html();
    assert!(page.contains("may be missing"), "{page}");
    let json = serde_json::to_value(&status).unwrap();
    let keys: Vec<_> = json["streams"][0]["last_gap"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["at", "from", "to"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_longer_known_shows_as_missing_events() {
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let program = Program::of(&simulator).set("HEALTH_STREAM", HEALTH.stream);
    program.run(&["pull"]).await.assert_code(0);
    simulator.forget_page_tokens();
    program.run(&["pull"]).await.assert_code(0);
    let status = program.run(&["status"]).await;
    status.assert_code(0);
    assert_eq!(status.stdout.matches("missing        events from").count(), 3, "{status:#?}");
    let rows = simulator.landed_in(&HEALTH);
    let last = &rows[rows.len() - 3..];
    for row in last {
        let gap = &row["ExtendedProperties"]["Summary"]["last_gap"];
        assert!(gap["from"].is_string(), "it is reported at once: {row:#}");
        assert_eq!(row["Status"], "Success");
    }
    assert_eq!(rows.len(), 6, "{rows:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_how_pulls_went() {
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let program = Program::of(&simulator);
    let before = program.run(&["status"]).await;
    before.assert_code(1);
    assert!(before.stdout.contains("Unavailable"), "{before:#?}");
    assert!(before.stdout.contains("no run is recorded"), "{before:#?}");
    assert!(!program.state().exists(), "it only reads");

    program.run(&["pull"]).await.assert_code(0);
    let after = program.run(&["status", "--json"]).await;
    after.assert_code(0);
    let status = after.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["state_at"], program.state().display().to_string());
    for (stream, name) in status["streams"].as_array().unwrap().iter().zip(STREAMS) {
        assert_eq!((&stream["stream"], &stream["state"]), (&json!(name), &json!("Connected")));
        assert_eq!((&stream["rows_24h"], &stream["rows_30d"]), (&json!(20), &json!(20)));
        assert_eq!(stream["source"], "cloud-integrated");
        assert!(stream["lag_seconds"].as_i64().unwrap() > 0);
    }

    // Nothing new, then a secret that was changed at Mimecast.
    let program = program.set("MIMECAST_CLIENT_SECRET", "another");
    program.run(&["pull"]).await.assert_code(2);
    let broken = program.run(&["status"]).await;
    broken.assert_code(1);
    assert_eq!(broken.stdout.matches("Disconnected").count(), 3, "{broken:#?}");
    assert!(broken.stdout.contains("MIMECAST_CLIENT_SECRET"), "the fix: {broken:#?}");
    assert!(!broken.stdout.contains("another"), "{broken:#?}");
    assert_eq!(runs_in(&program.state()).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_of_three_that_fails_is_told_from_the_others() {
    let refused = FaultPlan::none().matching(
        "type=urlclick",
        usize::MAX,
        Endpoint::Listing,
        Fault::Forbidden,
    );
    let simulator = simulator(1, refused, Duration::ZERO).await;
    let program = Program::of(&simulator);
    program.run(&["pull"]).await.assert_code(3);
    let status = program.run(&["status", "--json"]).await;
    status.assert_code(3);
    let status = status.json();
    let states: Vec<_> = status["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| of["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["Connected", "Connected", "Unavailable"]);
    assert_eq!(status["streams"][2]["code"], "mimecast-forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_has_no_end_and_one_that_is_stopped_has() {
    let simulator = simulator(40, FaultPlan::none(), Duration::from_millis(100)).await;
    let program = Program::of(&simulator);
    for (name, ended) in [("KILL", false), ("TERM", true)] {
        let before = runs_in(&program.state()).len();
        let mut child = program.command(&["pull"]).spawn().unwrap();
        while runs_in(&program.state()).len() == before {
            sleep(Duration::from_millis(10)).await;
        }
        let status = program.run(&["status"]).await;
        assert!(status.stdout.contains("running        since"), "{status:#?}");
        signal(&child, name);
        child.wait().await.unwrap();
        let runs = runs_in(&program.state());
        let last = runs.iter().max_by_key(|run| run["started_at"].as_str()).unwrap();
        assert_eq!(!last["finished_at"].is_null(), ended, "{last:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_leaves_no_history() {
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let program = Program::of(&simulator);
    program.run(&["pull", "--dry-run"]).await.assert_code(0);
    assert!(!program.state().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_written_to_a_file_and_a_place_that_is_not_there_is_said() {
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let program = Program::of(&simulator);
    program.run(&["pull"]).await.assert_code(0);
    program.run(&["status", "--html", "page.html"]).await.assert_code(0);
    let page = std::fs::read_to_string(program.folder.path().join("page.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"), "{page}");
    assert!(page.contains("All 3 streams work."), "{page}");
    assert!(!page.contains("<form"), "there is nothing behind it");
    let nowhere = program.run(&["status", "--html", "no/such/page.html"]).await;
    nowhere.assert_code(1).assert_stderr(&["no/such/page.html cannot be written"]);
    let both = program.run(&["status", "--html", "page.html", "--json"]).await;
    both.assert_code(2);
}

/// The template leaves its version in the app's settings, and columns that it lacks are dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_of_another_release_is_a_warning_wherever_somebody_looks() {
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let of = |template: &str| {
        let health = HEALTH.stream;
        Program::of(&simulator).set("TEMPLATE_VERSION", template).set("HEALTH_STREAM", health)
    };
    let (older, same) = (of("0.0.1+schema.00000000.content.00000000"), of(BUILD));
    for (program, warned) in [(&older, true), (&same, false)] {
        program.run(&["pull"]).await.assert_code(0);
        let text = program.run(&["status"]).await;
        text.assert_code(0);
        assert_eq!(text.stdout.contains("template that was deployed 0.0.1+"), warned, "{text:#?}");
        assert!(text.stdout.contains(BUILD), "{text:#?}");
        let json = program.run(&["status", "--json"]).await.json();
        assert_eq!(json["build"], BUILD);
        assert_eq!(json["warnings"].as_array().unwrap().len(), usize::from(warned), "{json}");
        program.run(&["status", "--html", "page.html"]).await.assert_code(0);
        let page = std::fs::read_to_string(program.folder.path().join("page.html")).unwrap();
        assert_eq!(page.contains("drops what has no column"), warned, "{page}");
        assert!(page.contains("All 3 streams work."), "it is no failure");
    }
    let rows = simulator.landed_in(&HEALTH);
    let templates: Vec<_> =
        rows.iter().map(|row| row["ExtendedProperties"]["Template"].as_str().unwrap()).collect();
    assert_eq!(templates.len(), 6, "{rows:#?}");
    assert!(templates[..3].iter().all(|template| template.starts_with("0.0.1+")), "{rows:#?}");
    assert!(templates[3..].iter().all(|template| *template == BUILD), "{rows:#?}");
    assert!(rows.iter().all(|row| row["ExtendedProperties"]["Build"] == BUILD), "{rows:#?}");

    let log = older.folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let mut command = older.command(&["serve"]);
    command.stdout(file.try_clone().unwrap()).stderr(file);
    let _serve = command.spawn().unwrap();
    let warned = || std::fs::read_to_string(&log).unwrap().contains("that was deployed 0.0.1+");
    until("a warning in the log of serve", warned).await;
}
