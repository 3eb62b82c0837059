//! Nothing is stuck: what cannot be had holds up nothing beside it, and itself not for ever.

use chrono::TimeDelta;
use mimecast_sentinel::pipeline::{Outcome, StreamSummary};
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::table::EventId;
use serde_json::Value;

use crate::support::program::{Program, landed};
use crate::support::rig::Rig;
use crate::support::scenario::{
    Hours, assert_caught_up, assert_landed, code, events, ids, page, page_of,
};

const STREAM: &str = "mailflow";

/// Eight events: two in each of three files of a page, the second of which is `bad`, and two in the
/// page behind it.
fn world() -> (World, Vec<String>) {
    let lines = events(1, STREAM, 8);
    let file = |name: &str, at: usize| BatchFile::of_lines(name, &lines[at..at + 2]);
    let first =
        page().file(file("a.json.gz", 0)).file(file("bad.json.gz", 2)).file(file("c.json.gz", 4));
    let second = page_of("d.json.gz", &lines[6..]);
    (World::default().page(STREAM, first).page(STREAM, second), lines)
}

fn always(fault: Fault) -> FaultPlan {
    FaultPlan::none().matching("bad.json.gz", usize::MAX, Endpoint::File, fault)
}

async fn rig(faults: FaultPlan) -> (Rig, Hours, Vec<String>) {
    let (world, lines) = world();
    let hours = Hours::default();
    let options = SimulatorOptions { clock: hours.clock(), ..SimulatorOptions::default() };
    (Rig::with(world, faults, options).await.only(STREAM), hours, lines)
}

/// The stream is held up by the file, and says so.
#[track_caller]
fn assert_held_up(stream: &StreamSummary, expected: &str, tries: u32) {
    assert_eq!((stream.outcome, code(stream)), (Outcome::Failed, expected), "{stream:#?}");
    let held_up = stream.held_up.as_ref().unwrap();
    assert!(held_up.what.ends_with("/bad.json.gz"), "{held_up:?}");
    assert_eq!(held_up.tries, tries);
    assert_eq!(held_up.passed_at.unwrap() - held_up.since, TimeDelta::hours(24));
    assert_eq!(held_up.command.as_deref(), Some("mimecast-sentinel skip mailflow"));
    let error = stream.error.as_ref().unwrap();
    assert!(error.message.contains("bad.json.gz"), "{error}");
    assert!(error.fix.contains("mimecast-sentinel skip mailflow"), "{error}");
}

/// A file that cannot be had, though its host answers: the others of its page are delivered, and after a
/// day and six runs it is passed.
async fn is_passed_after_a_day(fault: Fault, expected: &str, line: u64, said: &str) {
    let (rig, hours, lines) = rig(always(fault)).await;
    let bad = 2 + line as usize - 1..4;
    let first_page: Vec<_> = lines[..bad.start].iter().chain(&lines[4..6]).collect();
    for tries in 1..=7 {
        let before = rig.simulator.calls().all_listings();
        let stream = rig.pull_one().await;
        assert_held_up(&stream, expected, tries);
        assert_landed(&rig, &first_page);
        let listings = rig.simulator.calls().all_listings() - before;
        assert!(
            listings == 1 || tries == 1,
            "{listings} listings: its address is as fresh as can be"
        );
        assert_eq!(stream.gap, None);
        hours.pass(if tries < 7 { 1 } else { 18 });
    }
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert!(stream.gap.is_some() && stream.held_up.is_none(), "{stream:#?}");
    assert_landed(&rig, &lines[..bad.start].iter().chain(&lines[4..]).collect::<Vec<_>>());
    let records = rig.quarantined();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["reason"], "file-unavailable");
    assert_eq!(records[0]["line"], line);
    let detail = records[0]["detail"].as_str().unwrap();
    assert!(detail.contains(said), "{detail}");
    assert!(rig.pull_one().await.gap.is_none(), "reported once");
}

#[tokio::test]
async fn a_file_that_stays_forbidden_holds_up_no_other_and_is_passed_after_a_day() {
    is_passed_after_a_day(Fault::Forbidden, "file-forbidden", 1, "403 Forbidden").await;
    is_passed_after_a_day(Fault::NotFound, "file-forbidden", 1, "404 Not Found").await;
}

#[tokio::test]
async fn a_file_whose_host_answers_something_else_is_passed_after_a_day() {
    is_passed_after_a_day(Fault::Unavailable, "file-unreachable", 1, "503 Service").await;
    is_passed_after_a_day(Fault::NotJson, "file-unreadable", 1, "came instead of the file").await;
}

#[tokio::test]
async fn a_file_that_always_breaks_off_is_passed_after_a_day() {
    is_passed_after_a_day(Fault::CutShort(40), "file-unreadable", 1, "broke off").await;
}

/// Nobody answered: the next run may find the network as it was.
#[tokio::test]
async fn a_host_that_cannot_be_connected_to_is_never_held_against_a_file() {
    let (rig, hours, lines) = rig(always(Fault::Reset)).await;
    for _ in 0..10 {
        let stream = rig.pull_one().await;
        assert_eq!((code(&stream), &stream.held_up), ("file-unreachable", &None));
        hours.pass(24);
    }
    rig.simulator.plan(FaultPlan::none());
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

/// It can be had again before it is passed.
#[tokio::test]
async fn a_file_that_comes_back_is_delivered_and_its_tries_are_forgotten() {
    let (rig, hours, lines) = rig(always(Fault::Forbidden)).await;
    for tries in 1..=3 {
        assert_held_up(&rig.pull_one().await, "file-forbidden", tries);
        hours.pass(30);
    }
    rig.simulator.plan(FaultPlan::none());
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.gap, rig.quarantined().len()), (None, 0));
    assert_landed(&rig, &lines);
}

/// Time alone does not pass it: the connector may have been switched off for the day.
#[tokio::test]
async fn a_file_is_not_passed_before_six_runs_have_tried_it() {
    let (rig, hours, _) = rig(always(Fault::Forbidden)).await;
    for tries in 1..=5 {
        assert_held_up(&rig.pull_one().await, "file-forbidden", tries);
        hours.pass(48);
    }
    assert_caught_up(&rig.pull_one().await);
    assert_eq!(rig.quarantined().len(), 1);
}

/// Bad files among good ones: the page is listed a few times again, not for each of them.
#[tokio::test]
async fn many_bad_files_cost_a_few_listings() {
    let lines = events(1, STREAM, 40);
    let name =
        |n: usize| if n.is_multiple_of(2) { format!("{n}.gz") } else { format!("{n}-bad.json.gz") };
    let page =
        (0..40).fold(page(), |page, n| page.file(BatchFile::of_lines(&name(n), &lines[n..=n])));
    let rig = Rig::new(World::default().page(STREAM, page), always(Fault::Forbidden)).await;
    let rig = rig.only(STREAM);
    let stream = rig.pull_one().await;
    assert_eq!(code(&stream), "file-forbidden");
    assert_eq!(stream.rows_delivered, 20);
    assert!(rig.simulator.calls().all_listings() <= 6, "{:?}", rig.simulator.calls().listings);
    let held_up = stream.held_up.unwrap();
    assert!(held_up.what.contains("and 19 more"), "{}", held_up.what);
}

/// A listing gives a size, and all that comes is nothing, in full length.
#[tokio::test]
async fn a_hollow_file_is_empty_though_its_listing_gives_a_size() {
    let (rig, _, lines) = rig(always(Fault::Empty)).await;
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_landed(&rig, &[&lines[..2], &lines[4..]].concat());
    assert_eq!(rig.simulator.calls().downloads["mailflow/bad.json.gz"], 3);
    assert_eq!(rig.quarantined().len(), 0);
}

/// A body is refused whole: after a day it is passed, replayable.
#[tokio::test]
async fn a_body_that_is_refused_whole_is_quarantined_after_a_day() {
    let lines = events(2, STREAM, 14);
    let refused = ids(&lines[..12]);
    let poison = FaultPlan::none().poison({
        let refused = refused.clone();
        move |row| refused.contains(&row["EventId"].as_str().unwrap().to_owned())
    });
    let world = World::default()
        .page(STREAM, page_of("a.json.gz", &lines[..12]))
        .page(STREAM, page_of("b.json.gz", &lines[12..]));
    let hours = Hours::default();
    let options = SimulatorOptions { clock: hours.clock(), ..SimulatorOptions::default() };
    let rig = Rig::with(world, poison, options).await.only(STREAM);
    for tries in 1..=6 {
        let stream = rig.pull_one().await;
        assert_eq!(code(&stream), "every-row-refused", "{stream:#?}");
        let held_up = stream.held_up.unwrap();
        assert_eq!(held_up.tries, tries);
        assert_eq!(held_up.command.as_deref(), Some("mimecast-sentinel skip mailflow"));
        assert_eq!(rig.quarantined().len(), 0);
        hours.pass(5);
    }
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.rows_quarantined, stream.rows_delivered), (12, 2));
    let records = rig.quarantined();
    let kept: Vec<&str> = records.iter().map(|r| r["event_id"].as_str().unwrap()).collect();
    assert!(refused.iter().all(|id| kept.contains(&id.as_str())), "{kept:?}");
    let original = records[0]["original"].as_str().unwrap();
    assert_eq!(EventId::of(original.as_bytes()).to_string(), records[0]["event_id"], "replayable");
}

/// The real binary: a person passes what holds the stream up.
#[tokio::test(flavor = "multi_thread")]
async fn skip_passes_a_file_at_the_next_run() {
    let (world, _) = world();
    let simulator = Simulator::start(world, always(Fault::Forbidden), SimulatorOptions::default())
        .await
        .unwrap();
    let program = Program::of(&simulator).set("MIMECAST_TYPES", STREAM);
    let nothing = program.run(&["skip", STREAM, "--yes"]).await;
    nothing.assert_code(0).assert_stderr(&["nothing holds mailflow up"]);

    let run = program.run(&["pull", "--json"]).await;
    run.assert_code(1);
    let held_up = run.json()["streams"][0]["held_up"].clone();
    assert_eq!(held_up["tries"], 1, "{held_up}");
    assert_eq!(held_up["command"], "mimecast-sentinel skip mailflow");
    for time in ["since", "passed_at"] {
        assert!(held_up[time].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().is_ok());
    }
    assert_eq!(run.stderr.matches("bad.json.gz").count(), 1, "once a run: {run:#?}");

    let asked = program.run(&["skip", STREAM]).await;
    asked.assert_code(2).assert_stderr(&["bad.json.gz: held up since", "say --yes"]);
    let skipped = program.run(&["skip", STREAM, "--yes"]).await;
    skipped.assert_code(0);
    assert!(skipped.stdout.contains("the next run passes it"), "{skipped:#?}");
    let run = program.run(&["pull", "--json"]).await;
    run.assert_code(0);
    let stream = run.json()["streams"][0].clone();
    assert_eq!((&stream["held_up"], &stream["outcome"]), (&Value::Null, &"caught_up".into()));
    assert!(stream["gap"].is_object(), "{stream}");
    assert_eq!(landed(&simulator), 6);
    let list = program.run(&["quarantine", "list"]).await;
    assert!(list.said().contains("file-unavailable"), "{list:#?}");
}

/// Somebody skips a file that can be had by then.
#[tokio::test(flavor = "multi_thread")]
async fn skip_loses_nothing_that_can_be_had_again() {
    let (world, _) = world();
    let simulator = Simulator::start(world, always(Fault::Forbidden), SimulatorOptions::default())
        .await
        .unwrap();
    let program = Program::of(&simulator).set("MIMECAST_TYPES", STREAM);
    program.run(&["pull"]).await.assert_code(1);
    program.run(&["skip", STREAM, "--yes"]).await.assert_code(0);
    simulator.plan(FaultPlan::none());
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(landed(&simulator), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hours_until_a_file_is_passed_are_a_setting() {
    let (world, _) = world();
    let simulator = Simulator::start(world, always(Fault::Forbidden), SimulatorOptions::default())
        .await
        .unwrap();
    let program =
        Program::of(&simulator).set("MIMECAST_TYPES", STREAM).set("GIVE_UP_AFTER_HOURS", "0");
    for _ in 0..5 {
        program.run(&["pull"]).await.assert_code(1);
    }
    program.run(&["pull"]).await.assert_code(0).assert_stderr(&["bad.json.gz"]);
    assert_eq!(landed(&simulator), 6);
}

/// Two streams of three are held up; the third is as without them.
#[tokio::test]
async fn a_stream_is_not_slower_for_others_that_are_held_up() {
    let streams = ["entities", "mailflow", "urlclick"];
    let mut calls = Vec::new();
    for blocked in [false, true] {
        let mut world = World::default();
        for (seed, stream) in streams.into_iter().enumerate() {
            let lines = events(seed as u64, stream, 20);
            for (number, lines) in lines.chunks(2).enumerate() {
                world = world.page(stream, page_of(&format!("{number}.json.gz"), lines));
            }
        }
        let faults = ["entities/0", "mailflow/0"].iter().fold(FaultPlan::none(), |plan, file| {
            plan.matching(
                file,
                if blocked { usize::MAX } else { 0 },
                Endpoint::File,
                Fault::Forbidden,
            )
        });
        let clock = Hours::default().clock();
        let rig = Rig::with(world, faults, SimulatorOptions { clock, ..Default::default() }).await;
        let mut lags = Vec::new();
        for _ in 0..3 {
            let run = rig.pull().await;
            let third = run.streams.iter().find(|stream| stream.stream == "urlclick").unwrap();
            assert_caught_up(third);
            lags.push(third.lag_seconds);
        }
        let all = rig.simulator.calls();
        let downloads = all.downloads.iter().filter(|(name, _)| name.starts_with("urlclick"));
        calls.push((lags, all.listings["urlclick"], downloads.map(|(_, n)| n).sum::<u64>()));
        assert_eq!(rig.checkpoint("urlclick").totals.rows_delivered, 20);
        let of_others = all.listings["entities"] + all.listings["mailflow"];
        assert!(!blocked || of_others <= 16, "{of_others} listings in three runs");
    }
    assert_eq!(calls[0], calls[1], "its lag, its listings and its downloads");
    assert!(calls[0].0[0].is_some());
}

/// Files that are held up for different reasons hold up no other either: each is tried in each run.
#[tokio::test]
async fn each_file_that_is_held_up_is_tried_and_passed_whatever_is_wrong_with_those_before_it() {
    let lines = events(1, STREAM, 8);
    let file = |name: &str, at: usize| BatchFile::of_lines(name, &lines[at..at + 2]);
    let first = page()
        .file(file("cut.json.gz", 0))
        .file(file("b-403.json.gz", 2))
        .file(file("c-403.json.gz", 4));
    let world = World::default().page(STREAM, first).page(STREAM, page_of("d.gz", &lines[6..]));
    let bad = FaultPlan::none()
        .matching("cut.json.gz", usize::MAX, Endpoint::File, Fault::CutShort(40))
        .matching("403", usize::MAX, Endpoint::File, Fault::Forbidden);
    let hours = Hours::default();
    let options = SimulatorOptions { clock: hours.clock(), ..SimulatorOptions::default() };
    let rig = Rig::with(world, bad, options).await.only(STREAM);
    for tries in 1..=5 {
        let held_up = rig.pull_one().await.held_up.unwrap();
        assert_eq!(held_up.tries, tries);
        let files = rig.checkpoint(STREAM).files;
        assert!(
            files.values().all(|file| file.held_up.as_ref().unwrap().runs == tries),
            "{tries}: {files:#?}"
        );
        hours.pass(5);
    }
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines[6..]);
    assert_eq!(rig.quarantined().len(), 3, "{:#?}", rig.quarantined());
}

/// It was read to its end, is listed again with another size, and cannot be had any more.
#[tokio::test]
async fn a_finished_file_that_is_listed_with_another_size_is_passed_too() {
    let (rig, hours, lines) = rig(always(Fault::Forbidden)).await;
    assert_held_up(&rig.pull_one().await, "file-forbidden", 1);
    let path = rig.state().join("checkpoints/mailflow.json");
    let stored = std::fs::read_to_string(&path).unwrap();
    let mut stored: Value = serde_json::from_str(&stored).unwrap();
    for (key, file) in stored["files"].as_object_mut().unwrap() {
        if key.ends_with("/a.json.gz") {
            assert_eq!(file["done"], "end");
            file["size"] = 1.into();
        }
    }
    std::fs::write(&path, stored.to_string()).unwrap();
    let bad = always(Fault::Forbidden).matching(
        "a.json.gz",
        usize::MAX,
        Endpoint::File,
        Fault::Forbidden,
    );
    rig.simulator.plan(bad);
    for _ in 0..5 {
        hours.pass(5);
        assert_eq!(code(&rig.pull_one().await), "file-forbidden");
    }
    hours.pass(5);
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &[&lines[..2], &lines[4..]].concat());
    assert_eq!(rig.quarantined().len(), 2);
}
