//! Real records, where they are present: each field must land where the table says.

use std::io::Write as _;
use std::path::Path;

use chrono::NaiveDate;
use mimecast_sentinel::pipeline::Outcome;
use mimecast_sentinel::simulator::{BatchFile, FaultPlan, Page, World};
use mimecast_sentinel::table::EventId;
use serde_json::{Map, Value, json};

use crate::support::rig::Rig;

/// Nine events as they are in batch files: five `entities`, four `mailflow`. They are not ours to
/// publish, so they are kept beside the project.
const RECORDS: &str = "../shared/fixtures/mimecast/ci-events.ndjson";

/// What the row of an event must be, written from the table's description and not from its code.
fn expected(line: &str) -> Map<String, Value> {
    let event: Map<String, Value> = serde_json::from_str(line).unwrap();
    let mut row = Map::new();
    let milliseconds = event["timestamp"].as_i64().unwrap();
    let time = chrono::DateTime::from_timestamp_millis(milliseconds).unwrap();
    let time = json!(time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
    row.insert("TimeGenerated".to_owned(), time.clone());
    row.insert("EventTime".to_owned(), time);
    row.insert("EventId".to_owned(), json!(EventId::of(line.as_bytes()).to_string()));
    for (field, value) in event {
        let column = match field.as_str() {
            "type" => "type_",
            "_offset" => "sourceOffset",
            "_partition" => "sourcePartition",
            other => other,
        };
        if !value.is_null() {
            row.insert(column.to_owned(), value);
        }
    }
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pull_lands_every_real_record_and_a_second_lands_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORDS);
    let Ok(text) = std::fs::read_to_string(&path) else {
        let skipped = "SKIPPED: one_pull_lands_every_real_record: the real records are not here\n";
        std::io::stderr().write_all(skipped.as_bytes()).unwrap();
        return;
    };
    let lines = |stream: &str| {
        let is_of = |line: &&str| {
            let event: Value = serde_json::from_str(line).unwrap();
            event["type"] == stream
        };
        text.lines().filter(is_of).collect::<Vec<_>>()
    };
    let (entities, mailflow) = (lines("entities"), lines("mailflow"));
    assert_eq!((entities.len(), mailflow.len()), (5, 4));
    let day = NaiveDate::from_ymd_opt(2024, 11, 1).unwrap();
    let world = World::default()
        .page("entities", Page::new(day).file(BatchFile::of_lines("e.json.gz", &entities)))
        .page("mailflow", Page::new(day).file(BatchFile::of_lines("m.json.gz", &mailflow)));
    let rig = Rig::new(world, FaultPlan::none()).await;

    let run = rig.pull().await;
    assert_eq!(run.outcome, Outcome::CaughtUp);
    assert_eq!(run.total(|stream| stream.rows_delivered), 9);
    assert_eq!(run.total(|stream| stream.rows_quarantined), 0);
    let landed = rig.simulator.landed();
    assert_eq!(landed.len(), 9);
    for line in text.lines() {
        let expected = Value::Object(expected(line));
        let row = landed.iter().find(|row| row["EventId"] == expected["EventId"]);
        assert_eq!(row, Some(&expected), "{line}");
    }

    let again = rig.pull().await;
    assert_eq!(again.total(|stream| stream.events_read), 0);
    assert_eq!(rig.simulator.landed_count(), 9);
    rig.assert_no_violations();
}
