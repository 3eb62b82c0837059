//! Nothing is silent: what a run cannot deliver is in its log.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime};
use mimecast_sentinel::pipeline::{Outcome, checkpoint_name};
use mimecast_sentinel::simulator::{BatchFile, Endpoint, Fault, FaultPlan, MadeUp, Page, World};
use mimecast_sentinel::store::{FolderStore, Store as _};
use mimecast_sentinel::table::EventId;
use serde_json::{Value, json};
use tracing::Level;

use crate::support::doubles::{Act, WatchedStore, run_or_die};
use crate::support::log::Log;
use crate::support::program::{self, Program, STREAMS};
use crate::support::rig::Rig;

/// 2027-01-15T08:00:00Z.
const AT: i64 = 1_800_000_000_000;

/// The fields of the lines with these words.
fn logged(log: &Log, words: &str) -> Vec<Value> {
    let text = log.text();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let fields = lines.map(|mut line| line["fields"].take());
    fields.filter(|fields| fields["message"].as_str().unwrap().contains(words)).collect()
}

const STREAM: &str = "entities";

fn lines(count: i64) -> Vec<String> {
    let mut made_up = MadeUp::new(1);
    (0..count).map(|n| made_up.event(STREAM, AT + n)).collect()
}

fn world(lines: &[String]) -> World {
    let page = Page::new(NaiveDate::from_ymd_opt(2027, 1, 15).unwrap());
    World::default().page(STREAM, page.file(BatchFile::of_lines("a.json.gz", lines)))
}

/// Ten events; Azure refuses two of them.
async fn with_two_refused_rows() -> Rig {
    let lines = lines(10);
    let bad = [2, 5].map(|n| EventId::of(lines[n].as_bytes()).to_string());
    let faults = FaultPlan::none().poison(move |row| bad.iter().any(|id| row["EventId"] == **id));
    Rig::new(world(&lines), faults).await.only(STREAM)
}

#[tokio::test]
async fn rows_in_quarantine_are_logged_with_their_number_and_place() {
    let log = Log::default();
    let _guard = log.listen(Level::ERROR);
    let rig = with_two_refused_rows().await;

    assert_eq!(rig.pull_one().await.rows_quarantined, 2);

    let found = logged(&log, "rows were put in quarantine");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["stream"], STREAM);
    assert_eq!(
        (&found[0]["rows_quarantined"], &found[0]["rows_truncated"]),
        (&json!(2), &json!(0))
    );
    let place = found[0]["where"].as_str().unwrap();
    assert!(place.ends_with("/quarantine/entities/"), "{place}");
    let folders = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    let records: usize = folders.map(|folder| std::fs::read_dir(folder).unwrap().count()).sum();
    assert_eq!(records, 2, "it names their place");

    rig.pull().await;
    assert_eq!(logged(&log, "rows were put in quarantine").len(), 1, "once");
}

/// Killed as soon as it had recorded that two rows are in quarantine.
#[tokio::test]
async fn rows_that_a_killed_run_put_in_quarantine_are_logged_by_the_next_one() {
    let log = Log::default();
    let _guard = log.listen(Level::ERROR);
    let rig = with_two_refused_rows().await;
    let store = WatchedStore::new(Arc::new(FolderStore::new(rig.state())), |_, call| {
        let written = call.saved().is_some_and(|saved| saved.totals.rows_quarantined == 2);
        if written { Act::HangAfter } else { Act::Pass }
    });
    let hung = store.hung();
    assert!(run_or_die(rig.connector_on(Arc::new(store)), &hung).await.is_none());
    assert_eq!(logged(&log, "").len(), 0, "it died before it could");

    assert_eq!(rig.pull_one().await.rows_quarantined, 0);
    let found = logged(&log, "rows were put in quarantine");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["stream"], &found[0]["rows_quarantined"]), (&json!(STREAM), &json!(2)));

    rig.pull().await;
    assert_eq!(logged(&log, "rows were put in quarantine").len(), 1, "once");
}

#[tokio::test]
async fn a_gap_is_logged_with_the_time_whose_events_may_be_missing() {
    let log = Log::default();
    let _guard = log.listen(Level::ERROR);
    let mut rig = Rig::new(world(&lines(10)), FaultPlan::none()).await.only(STREAM);
    let day = NaiveDate::from_ymd_opt(2027, 1, 16).unwrap();
    rig.pull().await;
    assert_eq!(logged(&log, "").len(), 0);
    rig.simulator.forget_page_tokens();
    rig.options.start = day;

    let gap = rig.pull_one().await.gap.unwrap();

    let found = logged(&log, "the source no longer accepts the stored cursor");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["stream"], STREAM);
    assert!(found[0]["message"].as_str().unwrap().contains("may be missing"), "{found:?}");
    let newest = DateTime::from_timestamp_millis(AT + 9).unwrap();
    assert_eq!((gap.from, gap.to), (newest, day.and_time(NaiveTime::MIN).and_utc()));
    assert_eq!(found[0]["from"], gap.from.to_string());
    assert_eq!(found[0]["to"], gap.to.to_string());
}

#[tokio::test]
async fn a_damaged_file_is_logged_with_its_name_line_and_place() {
    let log = Log::default();
    let _guard = log.listen(Level::ERROR);
    let faults = FaultPlan::none().once(Endpoint::File, Fault::Corrupt(200));
    let rig = Rig::new(world(&lines(50)), faults).await.only(STREAM);

    let run = rig.pull_one().await;

    assert_eq!(run.error, None);
    let record = rig.quarantined().remove(0);
    let log = log.text();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("corrupt-file")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for part in [record["file"].as_str().unwrap(), &format!("\"line\":{}", record["line"])] {
        assert!(lines[0].contains(part), "{part} is not in {log}");
    }
    assert!(lines[0].contains(rig.state().to_str().unwrap()), "{log}");
}

/// The lines of these levels on stderr, where a person reads them.
fn on_stderr<'a>(stderr: &'a str, level: &str) -> Vec<&'a str> {
    stderr.lines().filter(|line| line.contains(&format!(" {level} "))).collect()
}

const ALL: &str = "streams=\"entities, mailflow, urlclick\"";

#[tokio::test(flavor = "multi_thread")]
async fn what_all_streams_share_is_one_line_with_their_names() {
    let cases: [(Endpoint, &str); 2] = [
        (Endpoint::MimecastToken, "mimecast-credentials"),
        (Endpoint::AzureToken, "azure-credential"),
    ];
    for (endpoint, code) in cases {
        let refuses = Fault::Says(400, br#"{"error":"invalid_client"}"#.to_vec());
        let plan = FaultPlan::none().times(usize::MAX, endpoint, refuses);
        let simulator = program::simulator(1, plan, Duration::ZERO).await;
        let run = Program::of(&simulator).run(&["pull"]).await;
        let errors = on_stderr(&run.stderr, "ERROR");
        assert_eq!(errors.len(), 1, "{run:#?}");
        for part in [ALL, &format!("code=\"{code}"), "fix="] {
            assert!(errors[0].contains(part), "no {part} in {}", errors[0]);
        }
    }
}

/// Its name in each stands for the name of any.
#[tokio::test(flavor = "multi_thread")]
async fn what_streams_share_but_for_their_names_is_one_line_too() {
    let simulator = program::simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let program = Program::of(&simulator);
    program.run(&["pull"]).await.assert_code(0);
    let run = program.set("MIMECAST_CLIENT_ID", "another").run(&["pull"]).await;
    run.assert_code(2);
    let errors = on_stderr(&run.stderr, "ERROR");
    assert_eq!(errors.len(), 1, "{run:#?}");
    for part in [ALL, "checkpoints/<stream>.json in ", "state reset <stream>"] {
        assert!(errors[0].contains(part), "no {part} in {}", errors[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_differ_are_lines_of_their_own() {
    let plan = FaultPlan::none()
        .matching("entities", usize::MAX, Endpoint::Listing, Fault::Forbidden)
        .matching("urlclick", usize::MAX, Endpoint::Listing, Fault::NotFound);
    let simulator = program::simulator(1, plan, Duration::ZERO).await;
    let run = Program::of(&simulator).run(&["pull"]).await;
    run.assert_code(3);
    let errors = on_stderr(&run.stderr, "ERROR");
    assert_eq!(errors.len(), 2, "{run:#?}");
    for stream in ["entities", "urlclick"] {
        let stream = format!("stream=\"{stream}\"");
        assert_eq!(errors.iter().filter(|line| line.contains(&stream)).count(), 1, "{run:#?}");
    }
}

/// Without the wait, a person would take it for a program that hangs.
#[tokio::test(start_paused = true)]
async fn a_wait_for_a_lease_is_reported_and_that_it_was_in_vain_once_for_all_streams() {
    let log = Log::default();
    let _guard = log.listen(Level::INFO);
    let mut rig = Rig::new(World::default(), FaultPlan::none()).await;
    (rig.policy.lease_wait, rig.policy.lease_poll) =
        (Duration::from_secs(60), Duration::from_secs(1));
    let store = FolderStore::new(rig.state());
    let mut leases = Vec::new();
    for stream in STREAMS {
        leases.push(store.lease(&checkpoint_name(stream)).await.unwrap().unwrap());
    }

    assert_eq!(rig.pull().await.outcome, Outcome::Busy);

    let mut waits = logged(&log, "waiting for the lease");
    assert_eq!(waits.len(), STREAMS.len(), "{waits:?}");
    // Which stream comes to it first, its threads decide.
    waits.sort_by_key(|line| line["checkpoint"].to_string());
    for (line, stream) in waits.iter().zip(STREAMS) {
        let checkpoint = format!("checkpoints/{stream}.json in {}", rig.state().display());
        assert_eq!(line["checkpoint"], checkpoint);
        assert_eq!(line["waits_at_most_seconds"], 55);
    }
    let busy = logged(&log, "another connector holds the lease");
    assert_eq!(busy[busy.len() - 1]["streams"], "entities, mailflow, urlclick");
    assert_eq!(busy.iter().filter(|line| line["code"] == "busy").count(), 1, "{busy:?}");
}
