//! What the engine promises of any source, held against each: Mimecast, and a second one that shares
//! nothing with it (`support/second_source`). The sink is that of production.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mimecast_sentinel::pipeline::sink::Posted;
use mimecast_sentinel::pipeline::{
    Connector, Outcome, Pool, Replay, ReplaySummary, RunSummary, Sink, StreamSummary,
};
use mimecast_sentinel::seams::Deadline;
use mimecast_sentinel::simulator::{Endpoint, Fault, FaultPlan};
use mimecast_sentinel::table::{Stream, Table};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::support::deaths::{
    MOMENTS, assert_safe, counts, effects, survives, three_rows_to_a_body,
};
use crate::support::houses::{House, Mimecast, Plan, Thermometers};
use crate::support::rig::run;
use crate::support::scenario::{assert_caught_up, assert_done, code};
use crate::support::stage::{Answers, Checkpoints, Effect, Stage, Staged, Supply, number_of};

/// The tests of one source.
macro_rules! contract {
    ($source:ident, $house:ty) => {
        mod $source {
            use super::*;

            #[tokio::test]
            async fn every_event_lands_or_is_in_quarantine_under_seeded_faults() {
                for seed in 0..4 {
                    conserves::<$house>(seed).await;
                }
            }

            #[tokio::test(start_paused = true)]
            async fn a_crash_at_any_effect_loses_nothing_and_doubles_what_was_not_saved() {
                survives_any_crash::<$house>().await;
            }

            #[tokio::test]
            async fn what_was_refused_is_sent_again_each_to_its_own_table() {
                replays::<$house>().await;
            }

            #[tokio::test]
            async fn a_cursor_that_is_refused_leaves_a_gap_and_later_runs_are_as_ever() {
                reports_a_gap::<$house>().await;
            }

            #[tokio::test]
            async fn a_table_that_refuses_every_row_fails_alone_though_the_other_accepts() {
                for refusing in 0..2 {
                    blames_the_table::<$house>(refusing).await;
                }
            }

            #[tokio::test]
            async fn a_table_that_may_not_be_written_fails_alone() {
                for forbidden in 0..2 {
                    fails_alone::<$house>(forbidden).await;
                }
            }
        }
    };
}

contract!(mimecast, Mimecast);
contract!(second_source, Thermometers);

#[tokio::test]
async fn the_second_source_has_columns_of_its_own() {
    let house = Thermometers::new(plan(FaultPlan::none())).await;
    house.add(7..8, &[]);
    house.add(1_007..1_008, &[]);
    assert_done(&run(&house.connector()).await);
    let mut rows = streams(&house).map(|stream| house.rig().simulator.landed_in(stream.table));
    // The simulator refuses rows whose ids are none.
    rows[0][0].as_object_mut().unwrap().remove("ReadingId").unwrap();
    rows[1][0].as_object_mut().unwrap().remove("AlarmId").unwrap();
    let time = "2026-11-10T09:00:00.000Z";
    let reading = json!({"TimeGenerated": time, "Number": 7, "Celsius": 20.5, "Sensor": "roof",
                         "Rest": {"sent": 1_000_001}});
    let alarm = json!({"TimeGenerated": time, "No": 1_007, "Level": 3, "Limit": 30.25,
                       "Fields": {"acknowledged": false, "sent": 1_000_001}});
    assert_eq!(rows, [[reading], [alarm]]);
}

/// How many events each stream has: three pages and a bit.
const EVENTS: u64 = 40;

/// What each stream has that is no event.
const NO_ROWS: [u64; 3] = [0, 17, 1_005];

fn numbers(stream: u64, numbers: Range<u64>) -> Range<u64> {
    stream * 1_000 + numbers.start..stream * 1_000 + numbers.end
}

fn plan(faults: FaultPlan) -> Plan {
    Plan { faults, seeded: (0, 0), page: 12 }
}

/// A house with events in both streams.
async fn furnished<H: House>(plan: Plan) -> H {
    let house = H::new(plan).await;
    for stream in 0..2 {
        house.add(numbers(stream, 0..EVENTS), &NO_ROWS);
    }
    house
}

/// Every event that is one, of both streams.
fn events() -> BTreeSet<u64> {
    let all = (0..2).flat_map(|stream| numbers(stream, 0..EVENTS));
    all.filter(|n| !NO_ROWS.contains(n)).collect()
}

/// Of the n-th stream only.
fn of_stream(stream: usize, events: &BTreeSet<u64>) -> BTreeSet<u64> {
    events.iter().copied().filter(|n| *n as usize / 1_000 == stream).collect()
}

fn streams<H: House>(house: &H) -> [Stream; 2] {
    house.source().streams().try_into().unwrap()
}

/// How often each event landed. None is in the table of the other stream, and the server has nothing to
/// complain of.
#[track_caller]
fn landed<H: House>(house: &H) -> BTreeMap<u64, usize> {
    house.rig().assert_no_violations();
    let mut all = Vec::new();
    for (number, stream) in streams(house).into_iter().enumerate() {
        let rows = house.rig().simulator.landed_in(stream.table);
        let rows: Vec<u64> = rows.iter().map(H::number).collect();
        assert!(rows.iter().all(|n| *n as usize / 1_000 == number), "{}: {rows:?}", stream.name);
        all.extend(rows);
    }
    counts(&all)
}

/// These events landed, each once.
#[track_caller]
fn assert_landed_once<H: House>(house: &H, events: &BTreeSet<u64>) {
    assert_eq!(landed(house), events.iter().map(|n| (*n, 1)).collect());
}

/// The events in quarantine, and why they are.
fn quarantined<H: House>(house: &H) -> BTreeMap<u64, String> {
    let records = house.rig().quarantined().into_iter().map(|record| {
        let n = number_of(record["original"].as_str().unwrap());
        let stream = streams(house)[n as usize / 1_000];
        assert_eq!(record["stream"], stream.name);
        (n, record["reason"].as_str().unwrap().to_owned())
    });
    records.collect()
}

/// What should be there: what is no event, and these rows that were refused.
fn in_quarantine(refused: &BTreeSet<u64>) -> BTreeMap<u64, String> {
    let no_rows = NO_ROWS.iter().map(|n| (*n, "not-json".to_owned()));
    no_rows.chain(refused.iter().map(|n| (*n, "row-refused".to_owned()))).collect()
}

async fn conserves<H: House>(seed: u64) {
    println!("seed {seed}");
    let per_mille = [0, 100, 200, 300][seed as usize];
    let events = events();
    let refused: BTreeSet<u64> =
        events.iter().copied().filter(|n| (n + seed).is_multiple_of(13)).collect();
    let poison = refused.clone();
    let faults =
        FaultPlan::seeded(seed, per_mille).poison(move |row| poison.contains(&H::number(row)));
    let seeded = (seed, per_mille.into());
    let house: H = furnished(Plan { seeded, ..plan(faults) }).await;

    let mut failed = Vec::new();
    let done = loop {
        let run = run(&house.connector()).await;
        if run.exit_code() == 0 {
            break run;
        }
        failed.push(run);
        assert!(failed.len() < 20, "no run came to its end: {failed:#?}");
    };
    assert_done(&done);
    let landed = landed(&house);
    let accepted = &events - &refused;
    assert_eq!(landed.keys().copied().collect::<BTreeSet<_>>(), accepted);
    assert_eq!(quarantined(&house), in_quarantine(&refused));
    let again = landed.values().sum::<usize>() - accepted.len();
    if failed.is_empty() {
        // Those of bodies that were accepted without an answer.
        let lost = house.rig().simulator.calls().lost_rows;
        assert_eq!(again as u64, lost);
        let read = done.total(|stream| stream.events_read);
        assert_eq!(read, 2 * EVENTS);
        let delivered = done.total(|stream| stream.rows_delivered);
        assert_eq!(delivered, accepted.len() as u64);
    }

    let idle = run(&house.connector()).await;
    assert_eq!(idle.total(|stream| stream.events_read), 0, "{idle:#?}");
}

/// A world for crashes: small, with a line that is no event and a row that is refused.
async fn staged<H: House>(house: &Arc<H>) -> Staged {
    house.add(0..9, &[1]);
    house.add(1_000..1_008, &[1_006]);
    let maker = Arc::clone(house);
    Staged {
        supply: Supply::of(move || maker.source(), H::number).await,
        refused: vec![5, 1_002],
        answers: Answers::AtOnce,
        // They take turns.
        step: Duration::from_millis(400) / 2,
        policy: three_rows_to_a_body(),
        checkpoints: Checkpoints::Folder,
    }
}

async fn survives_any_crash<H: House>() {
    let house = Arc::new(H::new(Plan { page: 6, ..plan(FaultPlan::none()) }).await);
    let plan = staged(&house).await;
    assert_eq!(plan.supply.events.len(), 17);
    let all = effects(&plan).await;
    assert_eq!(effects(&plan).await, all, "the order of effects is always the same");
    let is = |effect: &Effect, kind: &str| format!("{effect:?}").starts_with(kind);
    for kind in ["Lease", "Read", "List", "Post", "Keep", "Save", "Release"] {
        assert!(all.iter().any(|effect| is(effect, kind)), "{kind}: {all:?}");
    }
    for number in 1..=all.len() {
        for moment in MOMENTS {
            survives(&plan, &[(number, moment)]).await;
        }
    }

    let pulled = Stage::new(plan.clone());
    pulled.run(None).await.unwrap();
    let plan = Staged { refused: Vec::new(), ..plan };
    let replay = pulled.go_on(plan.clone());
    replay.replay(None).await.unwrap();
    for number in 1..=replay.effects() {
        for moment in MOMENTS {
            let stage = pulled.go_on(plan.clone());
            assert!(stage.replay(Some((number, moment))).await.is_none());
            let (before, to_send) = {
                let outside = stage.outside();
                (counts(&outside.landed), outside.kept())
            };
            let ended = stage.replay(None).await.unwrap();
            assert_eq!(ended.outcome, Outcome::CaughtUp, "{number} {moment:?}: {ended:#?}");
            let after = format!("replay, {number} {moment:?}");
            assert_safe(&stage.outside(), &plan, &before, |n| to_send.contains(&n), &after);
        }
    }
    house.rig().assert_no_violations();
}

async fn replay(connector: &Connector) -> ReplaySummary {
    let source = &connector.source;
    let replay = Replay {
        streams: source.streams().into_iter().map(|s| (s, source.format(&s))).collect(),
        sink: Arc::clone(&connector.sink),
        store: Arc::clone(&connector.store),
        quarantine: connector.quarantine.clone(),
        policy: connector.policy,
        pool: Pool::default(),
    };
    replay.run(&CancellationToken::new()).await
}

/// Rows that are refused until it is over.
fn refusing<H: House>(
    refuses: impl Fn(u64) -> bool + Send + Sync + 'static,
) -> (FaultPlan, Arc<AtomicBool>) {
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let rule = move |row: &Value| !is_over.load(Ordering::Relaxed) && refuses(H::number(row));
    (FaultPlan::none().poison(rule), over)
}

async fn replays<H: House>() {
    let refused: BTreeSet<u64> = [3, 4, 11, 39, 1_000, 1_012].into();
    let of_plan = refused.clone();
    let (faults, over) = refusing::<H>(move |n| of_plan.contains(&n));
    let house: H = furnished(plan(faults)).await;
    assert_done(&run(&house.connector()).await);
    assert_landed_once(&house, &(&events() - &refused));
    assert_eq!(quarantined(&house), in_quarantine(&refused));

    over.store(true, Ordering::Relaxed);
    let sent = replay(&house.connector()).await;
    assert_eq!(sent.exit_code(), 0, "{sent:#?}");
    let delivered: Vec<u64> = sent.streams.iter().map(|stream| stream.rows_delivered).collect();
    assert_eq!(delivered, [4, 2], "{sent:#?}");
    let stay: Vec<u64> = sent.streams.iter().map(|stream| stream.stay["not-json"]).collect();
    assert_eq!(stay, [2, 1], "{sent:#?}");
    assert_landed_once(&house, &events());
    assert_eq!(quarantined(&house), in_quarantine(&BTreeSet::new()));

    let again = replay(&house.connector()).await;
    assert!(again.streams.iter().all(|stream| stream.rows_delivered == 0), "{again:#?}");
    assert_landed_once(&house, &events());
}

async fn reports_a_gap<H: House>() {
    let house: H = furnished(plan(FaultPlan::none())).await;
    let more = |stream, range| house.add(numbers(stream, range), &[]);
    let pull = async || {
        let run = run(&house.connector()).await;
        assert_done(&run);
        run
    };
    let gaps = |run: &RunSummary| run.streams.iter().map(|s| s.gap).collect::<Vec<_>>();
    assert_eq!(gaps(&pull().await), [None, None]);

    house.lapse();
    more(0, 100..113);
    more(1, 100..105);
    let run = pull().await;
    for stream in &run.streams {
        let gap = stream.gap.unwrap();
        assert!(gap.from <= gap.to, "{stream:#?}");
        assert!(gap.to <= run.started_at, "{stream:#?}");
    }
    let mut events = events();
    events.extend((100..113).chain(1_100..1_105));
    assert_landed_once(&house, &events);

    let idle = pull().await;
    assert_eq!((gaps(&idle), idle.total(|s| s.events_read)), (vec![None, None], 0), "{idle:#?}");
    more(1, 105..106);
    let run = pull().await;
    assert_eq!((gaps(&run), run.total(|s| s.events_read)), (vec![None, None], 1), "{run:#?}");
    events.insert(1_105);
    assert_landed_once(&house, &events);
}

/// A sink at which the others wait until a body of the first table was accepted.
struct OneFirst {
    inner: Arc<dyn Sink>,
    first: &'static str,
    accepted: Semaphore,
}

#[async_trait]
impl Sink for OneFirst {
    fn destination(&self, table: &Table) -> String {
        self.inner.destination(table)
    }

    async fn post(&self, table: &Table, body: Bytes, deadline: Deadline) -> Posted {
        if table.name != self.first {
            drop(self.accepted.acquire().await.unwrap());
        }
        let posted = self.inner.post(table, body, deadline).await;
        self.accepted.add_permits(usize::from(posted.answer.is_ok()));
        posted
    }
}

/// One run in which the bodies of the n-th stream come after one of the other was accepted: what became
/// of that stream, and of the other.
async fn run_last<H: House>(house: &H, last: usize) -> (StreamSummary, StreamSummary) {
    let first = streams(house)[1 - last].table.name;
    let connector = house.connector();
    let sink = OneFirst { inner: connector.sink, first, accepted: Semaphore::new(0) };
    let run = run(&Connector { sink: Arc::new(sink), ..connector }).await;
    assert_eq!((run.outcome, run.exit_code()), (Outcome::Partial, 3), "{run:#?}");
    let mut streams = run.streams;
    (streams.remove(last), streams.remove(0))
}

/// The events of the other stream landed, and nothing of this one is settled.
fn assert_untouched<H: House>(house: &H, stream: usize) {
    assert_landed_once(house, &of_stream(1 - stream, &events()));
    let name = streams(house)[stream].name;
    let kept = quarantined(house);
    assert!(kept.iter().all(|(n, _)| NO_ROWS.contains(n)), "{kept:#?}");
    let checkpoint = house.rig().checkpoint(name);
    assert_eq!((checkpoint.totals.pages, checkpoint.has_half_read()), (0, false));
}

async fn blames_the_table<H: House>(refusing_one: usize) {
    let (faults, over) = refusing::<H>(move |n| n as usize / 1_000 == refusing_one);
    let house: H = H::new(plan(faults)).await;
    for stream in 0..2 {
        house.add(numbers(stream, 0..EVENTS), &[]);
    }
    let (refused, other) = run_last(&house, refusing_one).await;
    assert_eq!(code(&refused), "every-row-refused");
    let table = streams(&house)[refusing_one].table;
    let message = &refused.error.as_ref().unwrap().message;
    assert!(message.contains(table.stream), "{message}");
    assert_eq!(refused.rows_delivered + refused.rows_quarantined, 0, "{refused:#?}");
    assert_caught_up(&other);
    let all: BTreeSet<u64> = (0..EVENTS).chain(1_000..1_000 + EVENTS).collect();
    assert_landed_once(&house, &of_stream(1 - refusing_one, &all));
    assert_eq!(quarantined(&house), BTreeMap::new());

    over.store(true, Ordering::Relaxed);
    assert_done(&run(&house.connector()).await);
    assert_landed_once(&house, &all);
}

async fn fails_alone<H: House>(forbidden: usize) {
    // Which tables a house has, one without faults says as well.
    let table = streams(&H::new(plan(FaultPlan::none())).await)[forbidden].table;
    let faults = FaultPlan::none().matching(table.stream, 1, Endpoint::Post, Fault::Forbidden);
    let house: H = furnished(plan(faults)).await;
    let (refused, other) = run_last(&house, forbidden).await;
    assert_eq!(code(&refused), "ingestion-forbidden");
    assert_caught_up(&other);
    assert_untouched(&house, forbidden);

    assert_done(&run(&house.connector()).await);
    assert_landed_once(&house, &events());
    assert_eq!(quarantined(&house), in_quarantine(&BTreeSet::new()));
}
