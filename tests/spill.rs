//! A destination that is down for longer than Mimecast keeps its files loses nothing: they are kept
//! whole beside the checkpoints, and delivered when it works again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{Days, NaiveTime, TimeDelta};
use mimecast_sentinel::pipeline::{Outcome, StreamSummary};
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, MadeUp, Page, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::store::Store as _;

use crate::support::azurite::{Azurite, sas};
use crate::support::doubles::{Act, Call, MemoryStore, WatchedStore};
use crate::support::program::{Program, landed};
use crate::support::rig::{Rig, Tools, run};
use crate::support::scenario::{
    DAY, Hours, assert_caught_up, assert_landed, code, events, ids, landed_ids, page_of,
};

const STREAM: &str = "mailflow";

/// Every post is refused: the role is missing.
fn no_role() -> FaultPlan {
    FaultPlan::none().times(usize::MAX, Endpoint::Post, Fault::Forbidden)
}

/// Three pages of two files of three events each, and their lines in order.
fn world() -> (World, Vec<String>) {
    let lines = events(1, STREAM, 18);
    let mut world = World::default();
    for (number, lines) in lines.chunks(6).enumerate() {
        let name = |part| format!("{number}-{part}.json.gz");
        let page =
            page_of(&name('a'), &lines[..3]).file(BatchFile::of_lines(&name('b'), &lines[3..]));
        world = world.page(STREAM, page);
    }
    (world, lines)
}

async fn rig(world: World, faults: FaultPlan) -> Rig {
    let mut rig = Rig::new(world, faults).await.only(STREAM);
    rig.policy.spill_after = Some(TimeDelta::zero());
    rig
}

/// The stream has failed, and so many of its files wait.
#[track_caller]
fn assert_spilled(stream: &StreamSummary, files: u64, waiting: u64) {
    assert_eq!((stream.outcome, code(stream)), (Outcome::Failed, "ingestion-forbidden"));
    assert_eq!((stream.files_spilled, stream.files_waiting), (files, waiting), "{stream:#?}");
    let held_up = stream.held_up.as_ref().unwrap();
    assert!(held_up.what.contains("destination"), "{held_up:?}");
    assert_eq!((&held_up.passed_at, &held_up.command), (&None, &None));
}

/// The rows landed in the order in which Mimecast gave them.
#[track_caller]
fn assert_in_order(rig: &Rig, lines: &[String]) {
    assert_landed(rig, lines);
    assert_eq!(landed_ids(rig), ids(lines));
}

fn spilled_files(rig: &Rig) -> usize {
    std::fs::read_dir(rig.state().join("spill").join(STREAM)).map_or(0, Iterator::count)
}

#[tokio::test]
async fn files_are_kept_while_the_destination_is_down_and_delivered_in_order_when_it_works() {
    let (world, lines) = world();
    let rig = rig(world, no_role()).await;
    assert_spilled(&rig.pull_one().await, 6, 6);
    assert_eq!(spilled_files(&rig), 6);
    let stored = std::fs::read_to_string(rig.state().join("checkpoints/mailflow.json")).unwrap();
    assert!(stored.contains("\"version\": 2"), "an older release must not go on: {stored}");

    // What comes meanwhile is kept behind them.
    let more = events(2, STREAM, 2);
    rig.simulator.add_page(STREAM, page_of("more.json.gz", &more));
    assert_spilled(&rig.pull_one().await, 1, 7);

    rig.simulator.plan(FaultPlan::none());
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.files_spilled, stream.files_waiting), (0, 0));
    assert_eq!((stream.events_read, stream.rows_delivered), (20, 20));
    assert_in_order(&rig, &[lines, more].concat());
    assert_eq!(spilled_files(&rig), 0);
    let stored = std::fs::read_to_string(rig.state().join("checkpoints/mailflow.json")).unwrap();
    assert!(stored.contains("\"version\": 1"), "an older release may go on: {stored}");
    assert_eq!(rig.checkpoint(STREAM).totals.rows_delivered, 20);

    let downloads = rig.simulator.calls().downloads;
    assert!(downloads.iter().skip(1).all(|(_, times)| *times <= 2), "{downloads:?}");
}

/// Mimecast forgets after 7 days; the role is missing for 9.
#[tokio::test]
async fn nothing_is_lost_though_the_role_is_missing_for_longer_than_mimecast_keeps_its_files() {
    let hours = Hours::default();
    let options = SimulatorOptions {
        clock: hours.clock(),
        forgets_after_days: Some(7),
        ..SimulatorOptions::default()
    };
    let mut rig = Rig::with(World::default(), no_role(), options).await.only(STREAM);
    rig.options.start = DAY;
    let mut made_up = MadeUp::new(1);
    let mut lines = Vec::new();
    for day in 0..9 {
        let date = DAY + Days::new(day);
        for quarter in 0..4 {
            let at = date.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
            let new: Vec<String> =
                (0..5).map(|n| made_up.event(STREAM, at + quarter * 100 + n)).collect();
            let file = BatchFile::of_lines(&format!("{day}-{quarter}.json.gz"), &new);
            rig.simulator.add_page(STREAM, Page::new(date).file(file));
            lines.extend(new);
            let stream = rig.pull_one().await;
            assert_eq!(code(&stream), "ingestion-forbidden", "day {day}");
            assert_eq!(
                stream.files_waiting > 0,
                day >= 3,
                "after 72 hours: day {day}, {stream:#?}"
            );
            hours.pass(6);
        }
    }
    rig.simulator.plan(FaultPlan::none());
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!(stream.gap, None);
    assert_in_order(&rig, &lines);
}

/// Without spill, the same outage loses days: what the simulator forgets is gone.
#[tokio::test]
async fn the_simulator_forgets() {
    let hours = Hours::default();
    let options = SimulatorOptions {
        clock: hours.clock(),
        forgets_after_days: Some(7),
        ..SimulatorOptions::default()
    };
    let lines = events(1, STREAM, 4);
    let world = World::default()
        .page(STREAM, page_of("a.json.gz", &lines[..2]))
        .page(STREAM, Page::new(DAY + Days::new(8)).file(BatchFile::of_lines("b.gz", &lines[2..])));
    let mut rig = Rig::with(world, no_role(), options).await.only(STREAM);
    rig.policy.spill_after = None;
    assert_eq!(code(&rig.pull_one().await), "ingestion-forbidden");
    hours.pass(24 * 9);
    assert_eq!(rig.pull_one().await.files_waiting, 0, "never");
    rig.simulator.plan(FaultPlan::none());
    rig.pull_one().await;
    rig.pull_one().await;
    assert_landed(&rig, &lines[2..]);
}

/// A file of which some rows were delivered goes on behind them.
#[tokio::test]
async fn a_file_that_was_half_delivered_is_not_delivered_again() {
    let (world, lines) = world();
    let faults = FaultPlan::none().times(2, Endpoint::Post, Fault::Nothing).times(
        usize::MAX,
        Endpoint::Post,
        Fault::Forbidden,
    );
    let mut rig = crate::support::scenario::one_by_one(rig(world, faults).await);
    rig.policy.spill_after = Some(TimeDelta::zero());
    let stream = rig.pull_one().await;
    assert_spilled(&stream, 6, 6);
    assert_eq!(stream.rows_delivered, 2);
    rig.simulator.plan(FaultPlan::none());
    assert_caught_up(&rig.pull_one().await);
    assert_in_order(&rig, &lines);
}

/// A body that was refused whole is given up after a day; if the next one is refused whole too, it is not
/// the rows.
#[tokio::test]
async fn a_second_body_that_is_refused_whole_is_the_destination() {
    let lines = events(1, STREAM, 36);
    let mut world = World::default();
    for (number, lines) in lines.chunks(12).enumerate() {
        world = world.page(STREAM, page_of(&format!("{number}.json.gz"), lines));
    }
    let hours = Hours::default();
    let options = SimulatorOptions { clock: hours.clock(), ..SimulatorOptions::default() };
    let rig = Rig::with(world, FaultPlan::none().poison(|_| true), options).await.only(STREAM);
    for _ in 0..6 {
        assert_eq!(code(&rig.pull_one().await), "every-row-refused");
        hours.pass(5);
    }
    let stream = rig.pull_one().await;
    assert_eq!(code(&stream), "every-row-refused", "{stream:#?}");
    assert_eq!((stream.rows_quarantined, stream.files_spilled, stream.files_waiting), (12, 2, 2));
    assert!(stream.held_up.unwrap().what.contains("destination"));
    hours.pass(100);
    let stream = rig.pull_one().await;
    assert_eq!(
        (stream.rows_quarantined, stream.files_waiting),
        (0, 2),
        "it waits as long as it takes"
    );
    rig.simulator.plan(FaultPlan::none());
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines[12..]);
}

/// Two of them on one store, as the Functions host may have it.
#[tokio::test]
async fn two_connectors_keep_and_deliver_each_file_once() {
    let (world, lines) = world();
    let rig = rig(world, no_role()).await;
    for expected in [6, 0] {
        let (one, two) = (rig.connector(), rig.connector());
        let (one, two) = tokio::join!(run(&one), run(&two));
        let spilled = one.total(|stream| stream.files_spilled) + two.total(|s| s.files_spilled);
        assert_eq!(spilled, expected, "{one:#?} {two:#?}");
        assert_eq!(spilled_files(&rig), 6);
    }
    rig.simulator.plan(FaultPlan::none());
    let (one, two) = (rig.connector(), rig.connector());
    tokio::join!(run(&one), run(&two));
    assert_in_order(&rig, &lines);
}

/// Bad lines, long lines and a damaged file are as if they had never waited.
#[tokio::test]
async fn what_cannot_be_delivered_is_quarantined_when_its_turn_comes() {
    let mut lines = events(3, STREAM, 4);
    lines.insert(1, "no event".to_owned());
    lines.insert(3, format!("{{\"long\":\"{}\"}}", "x".repeat(3 << 20)));
    let noise: Vec<String> = events(4, STREAM, 2_000);
    let damaged = BatchFile::of_lines("b.json.gz", &noise).damaged(20_000);
    let page = page_of("a.json.gz", &lines).file(damaged.clone());
    let pages = World::default().page(STREAM, page).page(STREAM, page_of("c.json.gz", &noise[..2]));
    let spilling = rig(pages.clone(), no_role()).await;
    assert_spilled(&spilling.pull_one().await, 3, 3);
    spilling.simulator.plan(FaultPlan::none());
    assert_caught_up(&spilling.pull_one().await);

    let plain = rig(pages, FaultPlan::none()).await;
    assert_caught_up(&plain.pull_one().await);
    assert_eq!(landed_ids(&spilling), landed_ids(&plain));
    // Their hosts differ, and so the order of the names.
    let records = |rig: &Rig| -> BTreeSet<String> {
        let records = rig.quarantined().into_iter();
        records.map(|r| format!("{} {} {}", r["reason"], r["line"], r["event_id"])).collect()
    };
    assert_eq!(records(&spilling), records(&plain));
    assert_eq!(records(&plain).len(), 3);
    assert!(spilling.kept_files().contains(&damaged.bytes.to_vec()), "byte for byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_kept_than_may_be_and_nothing_is_passed_then() {
    let lines: Vec<String> = events(1, STREAM, 24_000);
    let mut world = World::default();
    for (number, lines) in lines.chunks(6_000).enumerate() {
        world = world.page(STREAM, page_of(&format!("{number}.json.gz"), lines));
    }
    let simulator = Simulator::start(world, no_role(), SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator)
        .set("MIMECAST_TYPES", STREAM)
        .set("SPILL_AFTER_HOURS", "0")
        .set("SPILL_MAX_BYTES", "1000000");
    let state = program.state();
    let kept = || {
        let entries = std::fs::read_dir(state.join("spill").join(STREAM)).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    for _ in 0..2 {
        let run = program.run(&["pull", "--json"]).await;
        run.assert_code(2);
        let error = run.json()["streams"][0]["error"].clone();
        assert_eq!(error["code"], "spill-full", "{run:#?}");
        assert!(error["message"].as_str().unwrap().contains("SPILL_MAX_BYTES allows"), "{error}");
        assert!((1..=1_000_000).contains(&kept()), "{}", kept());
    }
    let program = program.set("SPILL_MAX_BYTES", "100000000");
    let run = program.run(&["pull", "--json"]).await;
    run.assert_code(2);
    assert_eq!(run.json()["streams"][0]["error"]["code"], "ingestion-forbidden", "{run:#?}");
    assert_eq!(run.json()["streams"][0]["files_waiting"], 4);
    simulator.plan(FaultPlan::none());
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(landed(&simulator), 24_000);
}

/// In a container, by the real binary; the account's checkpoint is reset meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_keeps_files_too_and_a_reset_forgets_none() {
    let Some(azurite) = Azurite::start().await else { return };
    let container = azurite.create_container("spill").await;
    let (world, _) = world();
    let simulator = Simulator::start(world, no_role(), SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator)
        .set("MIMECAST_TYPES", STREAM)
        .set("SPILL_AFTER_HOURS", "0")
        .set("CHECKPOINT_URL", &format!("{container}?{}", sas("rcwdl")));
    let run = program.run(&["pull", "--json"]).await;
    run.assert_code(2);
    assert_eq!(run.json()["streams"][0]["files_spilled"], 6, "{run:#?}");
    let reset = program.run(&["state", "reset", STREAM, "--yes"]).await;
    reset.assert_code(0).assert_stderr(&["6 batch files wait in spill"]);
    simulator.plan(FaultPlan::none().times(usize::MAX, Endpoint::Listing, Fault::Forbidden));
    let run = program.run(&["pull", "--json"]).await;
    run.assert_code(2);
    let stream = run.json()["streams"][0].clone();
    assert_eq!((&stream["rows_delivered"], &stream["files_waiting"]), (&18.into(), &0.into()));
    assert_eq!(landed(&simulator), 18);
}

/// Who has the lease by then gives the same numbers.
#[tokio::test]
async fn a_file_that_is_being_kept_when_the_lease_is_lost_is_not_kept() {
    let (world, lines) = world();
    let rig = rig(world, no_role()).await;
    let memory = MemoryStore::default();
    let lost = Arc::new(AtomicI64::new(0));
    // The first that is counted: by then the next is on its way.
    let store = WatchedStore::new(Arc::new(memory.clone()), {
        let (memory, lost) = (memory.clone(), Arc::clone(&lost));
        move |_, call| {
            let kept = memory.objects("spill/").len();
            if call.is_save() && kept > 0 && lost.load(Ordering::Relaxed) == 0 {
                lost.store(kept as i64, Ordering::Relaxed);
                return Act::Lose;
            }
            Act::Pass
        }
    });
    let connector = rig.connector_on(Arc::new(store));
    let stream = run(&connector).await.streams.remove(0);
    assert_eq!(code(&stream), "lease-lost");
    assert_eq!(memory.objects("spill/").len() as i64, lost.load(Ordering::Relaxed));
    rig.simulator.plan(FaultPlan::none());
    run(&rig.connector_on(Arc::new(memory.clone()))).await;
    assert_landed(&rig, &lines);
}

/// What becomes of the world when a run in which the destination is down, or the run that delivers, is
/// disturbed at the `at`-th call to the store. `None` if it makes fewer calls; else whether it was.
async fn disturbed(tools: &Arc<Tools>, at: usize, act: Act, delivering: bool) -> Option<bool> {
    let (world, lines) = world();
    let rig = Rig::of(Arc::clone(tools), world, no_role(), SimulatorOptions::default()).await;
    let mut rig = rig.only(STREAM);
    rig.policy.spill_after = Some(TimeDelta::zero());
    let memory = MemoryStore::default();
    let calm = rig.connector_on(Arc::new(memory.clone()));
    if delivering {
        run(&calm).await;
        rig.simulator.plan(FaultPlan::none());
    }
    let store = WatchedStore::new(Arc::new(memory.clone()), move |number, call| {
        // Only a checkpoint's lease can be lost.
        let can_be = act != Act::Lose || call.is_save();
        if number == at && can_be { act } else { Act::Pass }
    });
    let (calls, hung) = (store.clone(), store.hung());
    let connector = rig.connector_on(Arc::new(store));
    let mut running = tokio::spawn(async move { run(&connector).await });
    tokio::select! {
        _ = &mut running => {}
        () = hung.notified() => {
            running.abort();
            drop(running.await);
        }
    }
    let call = calls.calls().get(at - 1).cloned()?;
    if !delivering {
        // It is down for another run.
        run(&calm).await;
        rig.simulator.plan(FaultPlan::none());
    }
    let ended = run(&calm).await;
    assert_eq!(ended.exit_code(), 0, "{at} {act:?}: {ended:#?}");
    rig.assert_no_violations();
    let landed = landed_ids(&rig);
    let all = ids(&lines);
    assert!(all.iter().all(|id| landed.contains(id)), "{at} {act:?}: lost");
    // While it is down nothing lands; delivering, at most what was in flight.
    let doubles = landed.len() - all.len();
    assert!(doubles <= if delivering { 18 } else { 0 }, "{at} {act:?}: {doubles} doubles");
    let left = memory.objects("spill/");
    assert!(left.is_empty(), "{at} {act:?}: {left:?}");
    Some(act != Act::Lose || call.is_save())
}

#[tokio::test]
async fn a_death_a_full_disk_or_a_lost_lease_at_any_call_to_the_store_loses_nothing() {
    let tools = Arc::new(Tools::new());
    for delivering in [false, true] {
        for act in [Act::HangBefore, Act::HangAfter, Act::Fail, Act::Lose] {
            let (mut at, mut disturbs) = (1, 0);
            while let Some(disturbed) = disturbed(&tools, at, act, delivering).await {
                (at, disturbs) = (at + 1, disturbs + usize::from(disturbed));
            }
            assert!(disturbs >= 4, "{act:?}: {disturbs} calls only");
        }
    }
}

/// After a reset, what waits is delivered before the source has said where it begins.
#[tokio::test]
async fn a_reset_goes_on_though_the_listing_failed_when_what_waited_was_delivered() {
    let (world, lines) = world();
    let rig = rig(world, no_role()).await;
    assert_spilled(&rig.pull_one().await, 6, 6);
    std::fs::remove_file(rig.state().join("checkpoints/mailflow.json")).unwrap();
    let no_listing = FaultPlan::none().times(usize::MAX, Endpoint::Listing, Fault::Forbidden);
    rig.simulator.plan(no_listing);
    for _ in 0..2 {
        let stream = rig.pull_one().await;
        assert_eq!(code(&stream), "mimecast-forbidden", "{stream:#?}");
    }
    rig.simulator.plan(FaultPlan::none());
    assert_caught_up(&rig.pull_one().await);
    assert_eq!(landed_ids(&rig), ids(&[lines.clone(), lines].concat()));
}

/// A body that was to be passed is kept instead, since the destination is down at that moment.
#[tokio::test]
async fn a_refused_body_that_is_kept_is_not_taken_for_one_that_was_passed() {
    let lines = events(1, STREAM, 12);
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    let hours = Hours::default();
    let options = SimulatorOptions { clock: hours.clock(), ..SimulatorOptions::default() };
    let poison = FaultPlan::none().poison(|_| true);
    let mut rig = Rig::with(world, poison.clone(), options).await.only(STREAM);
    rig.policy.spill_after = Some(TimeDelta::zero());
    for _ in 0..6 {
        assert_eq!(code(&rig.pull_one().await), "every-row-refused");
        hours.pass(5);
    }
    rig.simulator.plan(no_role());
    assert_spilled(&rig.pull_one().await, 1, 1);
    rig.simulator.plan(poison);
    for _ in 0..6 {
        assert_eq!(code(&rig.pull_one().await), "every-row-refused");
        hours.pass(5);
    }
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!(stream.rows_quarantined, 12);
}

/// The limit is for rows, none of which is made while files are kept.
#[tokio::test]
async fn files_are_kept_whole_whatever_a_run_may_read() {
    let (world, lines) = world();
    let mut rig = rig(world, no_role()).await;
    rig.policy.max_rows = 2;
    rig.pull_one().await;
    let stream = rig.pull_one().await;
    assert_eq!(stream.files_waiting, 6, "{stream:#?}");
    rig.policy.max_rows = 1_000;
    rig.simulator.plan(FaultPlan::none());
    assert_caught_up(&rig.pull_one().await);
    assert_in_order(&rig, &lines);
}

/// A destination that never answers in time is down, though the run may read no more rows.
#[tokio::test]
async fn a_destination_that_takes_nothing_is_down_whatever_a_run_may_read() {
    let (world, _) = world();
    let wait = Fault::TooManyRequests(Some(("Retry-After", "100000".to_owned())));
    let mut rig = rig(world, FaultPlan::none().times(usize::MAX, Endpoint::Post, wait)).await;
    rig.policy.max_rows = 2;
    let stream = rig.pull_one().await;
    assert!(stream.held_up.is_some(), "{stream:#?}");
    let stream = rig.pull_one().await;
    assert_eq!(stream.files_waiting, 6, "{stream:#?}");
}

/// Many files were deleted; those behind them come before anything new all the same.
#[tokio::test]
async fn what_is_left_behind_many_deleted_files_comes_before_anything_new() {
    let lines = events(1, STREAM, 200);
    let page = lines.iter().enumerate().fold(Page::new(DAY), |page, (n, line)| {
        page.file(BatchFile::of_lines(&format!("{n:03}.gz"), std::slice::from_ref(line)))
    });
    let rig = rig(World::default().page(STREAM, page), no_role()).await;
    rig.pull_one().await;
    for n in 0..190 {
        std::fs::remove_file(rig.state().join(format!("spill/{STREAM}/{n:010}"))).unwrap();
    }
    let new = events(2, STREAM, 2);
    rig.simulator.add_page(STREAM, page_of("new.json.gz", &new));
    rig.simulator.plan(FaultPlan::none());
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert!(stream.gap.is_some());
    assert_in_order(&rig, &[&lines[190..], &new].concat());
}

/// Such as one that somebody edited: it is held up as any other file is.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_file_that_cannot_be_read_is_held_up_and_can_be_passed() {
    let (world, lines) = world();
    let rig = rig(world, no_role()).await;
    assert_spilled(&rig.pull_one().await, 6, 6);
    let kept = rig.state().join(format!("spill/{STREAM}/0000000001"));
    let bytes = std::fs::read(&kept).unwrap();
    let header = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    std::fs::write(&kept, [&bytes[..=header], b"<html>nothing</html>"].concat()).unwrap();
    std::fs::write(kept.with_file_name("0000000002"), "no header").unwrap();
    rig.simulator.plan(FaultPlan::none());
    let stream = rig.pull_one().await;
    assert_eq!((code(&stream), stream.rows_delivered), ("file-unreadable", 12));
    let held_up = stream.held_up.unwrap();
    assert!(held_up.what.ends_with(" and 1 more"), "{held_up:?}");
    assert_eq!(held_up.command.as_deref(), Some("mimecast-sentinel skip mailflow"));

    let program = Program::bare().set("CHECKPOINT_URL", &rig.state().display().to_string());
    let skip = program.run(&["skip", STREAM, "--yes"]).await;
    skip.assert_code(0).assert_stderr(&[
        "0-b.json.gz: held up since",
        "spill/mailflow/0000000002: held up since",
        "does not begin as it was written",
    ]);
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &[&lines[..3], &lines[9..]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_file_that_somebody_deleted_is_reported_for_what_it_is() {
    let (world, _) = world();
    let simulator = Simulator::start(world, no_role(), SimulatorOptions::default()).await.unwrap();
    let program =
        Program::of(&simulator).set("MIMECAST_TYPES", STREAM).set("SPILL_AFTER_HOURS", "0");
    program.run(&["pull"]).await.assert_code(2);
    std::fs::remove_file(program.state().join(format!("spill/{STREAM}/0000000000"))).unwrap();
    simulator.plan(FaultPlan::none());
    let run = program.run(&["pull", "--json"]).await;
    run.assert_code(0).assert_stderr(&["files that were kept here are gone"]);
    assert!(!run.stderr.contains("stored cursor"), "{run:#?}");
    let stream = run.json()["streams"][0].clone();
    assert!(stream["gap"].is_object(), "{stream}");
    assert_eq!(landed(&simulator), 15);
}

/// Both are reported: what ends the run, and what keeps the rows from going.
#[tokio::test(flavor = "multi_thread")]
async fn what_holds_up_a_file_does_not_hide_that_the_destination_is_down() {
    let (world, _) = world();
    let faults = no_role().matching("1-a", usize::MAX, Endpoint::File, Fault::Forbidden);
    let simulator = Simulator::start(world, faults, SimulatorOptions::default()).await.unwrap();
    let program =
        Program::of(&simulator).set("MIMECAST_TYPES", STREAM).set("SPILL_AFTER_HOURS", "0");
    let run = program.run(&["pull"]).await;
    run.assert_code(1).assert_stderr(&["1-a.json.gz was refused", "Monitoring Metrics Publisher"]);
    for code in ["file-forbidden", "ingestion-forbidden"] {
        assert_eq!(run.stderr.matches(&format!("code=\"{code}\"")).count(), 1, "{run:#?}");
    }
    let shown = program.run(&["state", "show"]).await.json();
    assert_eq!(shown[STREAM]["version"], 2, "as it is stored: {shown}");

    simulator.plan(no_role());
    program.run(&["pull"]).await.assert_code(2);
    let skip = program.run(&["skip", STREAM, "--yes"]).await;
    skip.assert_code(0).assert_stderr(&["held up by its destination", "answered 403"]);
}

/// Another has taken the lease meanwhile, and keeps files under the same numbers.
#[tokio::test]
async fn without_the_lease_no_kept_file_is_removed_and_none_is_written() {
    let lines = events(1, STREAM, 4);
    // The same key twice: each is a page of its own in spill.
    let world = World::default()
        .page(STREAM, page_of("a.json.gz", &lines[..2]))
        .page(STREAM, page_of("a.json.gz", &lines[2..]));
    let rig = rig(world, no_role()).await;
    let memory = MemoryStore::default();
    let calm = rig.connector_on(Arc::new(memory.clone()));
    run(&calm).await;
    assert_eq!(memory.objects("spill/").len(), 2);
    let once = FaultPlan::none().once(Endpoint::Post, Fault::Nothing).times(
        usize::MAX,
        Endpoint::Post,
        Fault::Forbidden,
    );
    rig.simulator.plan(once);
    run(&calm).await;
    assert_eq!(memory.objects("spill/").len(), 1, "the first is delivered");

    let of_another = "spill/mailflow/0000000000";
    memory.write(of_another, "another".into()).await.unwrap();
    rig.simulator.add_page(STREAM, page_of("b.json.gz", &events(2, STREAM, 2)));
    let loses = |_, call: &Call| if call.is_save() { Act::Lose } else { Act::Pass };
    let loser = rig.connector_on(Arc::new(WatchedStore::new(Arc::new(memory.clone()), loses)));
    let stream = run(&loser).await.streams.remove(0);
    assert_eq!(code(&stream), "lease-lost");
    let kept = memory.objects("spill/");
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept.iter().any(|(name, _)| name == of_another));
}
