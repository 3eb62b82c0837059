//! Nothing is silent: what a run cannot deliver is in its log.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveTime};
use mimecast_sentinel::simulator::{BatchFile, Endpoint, Fault, FaultPlan, MadeUp, Page, World};
use mimecast_sentinel::store::FolderStore;
use mimecast_sentinel::table::EventId;
use serde_json::{Value, json};
use tracing::Level;

use crate::support::doubles::{Act, WatchedStore, run_or_die};
use crate::support::log::Log;
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
