//! Small worlds of known lines, and what must hold after every run.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use mimecast_sentinel::checkpoint::Cursor;
use mimecast_sentinel::pipeline::{Outcome, RunSummary, StreamSummary};
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::simulator::{BatchFile, Endpoint, Fault, FaultPlan, MadeUp, Page, World};
use mimecast_sentinel::sources::mimecast::Place;
use mimecast_sentinel::table::EventId;

use super::rig::Rig;

/// The day that most pages are of.
pub const DAY: NaiveDate = NaiveDate::from_ymd_opt(2026, 11, 10).unwrap();

/// The streams that a rig pulls by default.
pub const STREAMS: [&str; 3] = ["entities", "mailflow", "urlclick"];

/// The cursor at the beginning of a day.
pub fn start_at(day: NaiveDate) -> Option<Cursor> {
    Some(Place::Start(day).cursor())
}

/// The cursor of a page token.
pub fn token_at(token: impl Into<String>) -> Option<Cursor> {
    Some(Place::Token(token.into()).cursor())
}

/// The page token of a cursor; `None` at the beginning of a stream.
pub fn token_of(cursor: &Option<Cursor>) -> Option<String> {
    match Place::of(cursor.as_ref()?).unwrap() {
        Place::Start(_) => None,
        Place::Token(token) => Some(token),
    }
}

/// A clock that stands still.
pub fn clock_at(time: &str) -> Clock {
    let time: DateTime<Utc> = time.parse().unwrap();
    Clock::from_fn(move || time)
}

/// A clock that a test moves by hours. It begins half an hour after [`DAY`] does.
#[derive(Clone, Default)]
pub struct Hours(Arc<AtomicI64>);

impl Hours {
    pub fn clock(&self) -> Clock {
        let hours = Arc::clone(&self.0);
        let start = DAY.and_hms_opt(0, 30, 0).unwrap().and_utc();
        Clock::from_fn(move || start + TimeDelta::hours(hours.load(Ordering::Relaxed)))
    }

    pub fn pass(&self, hours: i64) {
        self.0.fetch_add(hours, Ordering::Relaxed);
    }
}

pub fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

/// `count` made-up events of `stream`, the same for the same seed.
pub fn events(seed: u64, stream: &str, count: usize) -> Vec<String> {
    let mut made_up = MadeUp::new(seed);
    let at = DAY.and_hms_opt(9, 0, 0).unwrap().and_utc().timestamp_millis();
    (0..count).map(|n| made_up.event(stream, at + n as i64)).collect()
}

/// A page of one day.
pub fn page() -> Page {
    Page::new(DAY)
}

/// A page with one file of these lines.
pub fn page_of<L: AsRef<[u8]>>(name: &str, lines: &[L]) -> Page {
    page().file(BatchFile::of_lines(name, lines))
}

/// `stream` has so many pages of one file of two events. Returns its lines too.
pub fn backlog(world: World, stream: &str, pages: usize) -> (World, Vec<String>) {
    let lines = events(7, stream, pages * 2);
    let world = lines.chunks(2).enumerate().fold(world, |world, (number, lines)| {
        world.page(stream, page_of(&format!("{number:03}.json.gz"), lines))
    });
    (world, lines)
}

/// Every stream with one page of one file of five events; all lines.
pub fn small_world() -> (World, Vec<String>) {
    let mut all = Vec::new();
    let mut world = World::default();
    for stream in STREAMS {
        let lines = events(3, stream, 5);
        world = world.page(stream, page_of("a.json.gz", &lines));
        all.extend(lines);
    }
    (world, all)
}

/// The ids of lines, in order.
pub fn ids<L: AsRef<[u8]>>(lines: &[L]) -> Vec<String> {
    lines.iter().map(|line| EventId::of(line.as_ref()).to_string()).collect()
}

/// What landed, in the order in which it did.
pub fn landed_ids(rig: &Rig) -> Vec<String> {
    let rows = rig.simulator.landed();
    rows.iter().map(|row| row["EventId"].as_str().unwrap().to_owned()).collect()
}

/// These lines landed, each once, and nothing else did; the server has nothing to complain of.
#[track_caller]
pub fn assert_landed<L: AsRef<[u8]>>(rig: &Rig, lines: &[L]) {
    rig.assert_no_violations();
    let mut lost = ids(lines);
    let mut landed = landed_ids(rig);
    landed.retain(|id| match lost.iter().position(|other| other == id) {
        Some(at) => {
            lost.swap_remove(at);
            false
        }
        None => true,
    });
    assert!(lost.is_empty() && landed.is_empty(), "lost: {lost:?}, foreign or twice: {landed:?}");
}

/// The reasons in quarantine with their lines, in the order of the records' names.
pub fn reasons(rig: &Rig) -> Vec<(String, u64)> {
    let records = rig.quarantined();
    let text = |record: &serde_json::Value| record["reason"].as_str().unwrap().to_owned();
    records.iter().map(|record| (text(record), record["line"].as_u64().unwrap())).collect()
}

/// The run ended well, and all that was read was delivered or is in quarantine.
#[track_caller]
pub fn assert_done(run: &RunSummary) {
    assert_eq!(run.exit_code(), 0, "{run:#?}");
    run.streams.iter().for_each(assert_conserved);
}

/// The stream ended well, and all that was read of it was delivered or is in quarantine.
#[track_caller]
pub fn assert_conserved(stream: &StreamSummary) {
    assert!(stream.outcome.is_done(), "{stream:#?}");
    assert_eq!(stream.error, None);
    assert_eq!(stream.events_read, stream.rows_delivered + stream.rows_quarantined, "{stream:#?}");
}

/// The stream came to its end.
#[track_caller]
pub fn assert_caught_up(stream: &StreamSummary) {
    assert_eq!(stream.outcome, Outcome::CaughtUp, "{stream:#?}");
    assert_conserved(stream);
}

/// The code of the fault that ended the stream.
#[track_caller]
pub fn code(stream: &StreamSummary) -> &'static str {
    stream.error.as_ref().unwrap_or_else(|| panic!("no fault: {stream:#?}")).code.as_str()
}

/// A rig of the stream `entities` whose first run stopped in the middle of the page: exactly the
/// first `rows` rows are settled, and later runs meet no fault.
pub async fn stopped_after(rows: usize, world: World) -> Rig {
    let faults = FaultPlan::none()
        .times(rows, Endpoint::Post, Fault::Nothing)
        .once(Endpoint::Post, Fault::Forbidden);
    let mut rig = one_by_one(Rig::new(world, faults).await.only("entities"));
    rig.policy.download_pause = Duration::ZERO;
    let stopped = rig.pull_one().await;
    assert_eq!(code(&stopped), "ingestion-forbidden");
    assert_eq!(stopped.rows_delivered, rows as u64);
    rig
}

/// Each row is a body of its own, and the next is posted when the last is settled.
pub fn one_by_one(mut rig: Rig) -> Rig {
    rig.policy.body_wait = Duration::ZERO;
    rig.policy.look_every = 1;
    rig.in_flight = 1;
    rig
}
