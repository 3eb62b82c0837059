//! A process that dies, at every point at which it can: each call to the world outside is a point,
//! before it is done and after it, when nobody learned that it was. Whatever the point, the next run
//! ends the work, and exactly those rows come again that no checkpoint covered.
#![cfg(feature = "simulator")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mimecast_sentinel::checkpoint::Cursor;
use mimecast_sentinel::pipeline::{Outcome, Policy};
use support::doubles::MemorySource;
use support::stage::{Answers, Death, Effect, Moment, Stage, Staged};

/// With the waits of production. The clock goes on by 400 ms with each record, so that a body, which
/// is closed after a second, has three rows, and goes from one file into the next.
fn three_rows_to_a_body() -> Policy {
    Policy { body_wait: Duration::from_secs(1), ..Policy::default() }
}

/// The events of the `stream`-th stream with these numbers.
fn lines(stream: u64, numbers: std::ops::Range<u64>, no_row: u64) -> Vec<String> {
    let numbers = numbers.map(|n| stream * 1_000 + n);
    let line = |n| if n == no_row { format!("{n} is no row") } else { format!("{{\"n\":{n}}}") };
    numbers.map(line).collect()
}

/// Three streams of two pages, the first of three small files and the second of one; a line that is
/// no row, and a row that is refused, in the second stream.
fn three_streams() -> Staged {
    let streams = (0..3).map(|stream| {
        let name = ["entities", "mailflow", "urlclick"][stream as usize];
        let key = |file: &str| format!("{name}/{file}");
        let lines = |numbers| lines(stream, numbers, 1_003);
        let source = MemorySource::default()
            .page(&[
                (&key("a"), &lines(0..4)),
                (&key("b"), &lines(4..6)),
                (&key("c"), &lines(6..6)),
                (&key("d"), &lines(6..11)),
            ])
            .page(&[(&key("e"), &lines(11..13))]);
        (name.to_owned(), source)
    });
    Staged {
        streams: streams.collect(),
        refused: vec![1_007],
        answers: Answers::AtOnce,
        // They take turns.
        step: Duration::from_millis(400) / 3,
        policy: three_rows_to_a_body(),
    }
}

/// One stream, two pages, four bodies.
fn small() -> Staged {
    let lines = |numbers| lines(0, numbers, 1);
    let source = MemorySource::default()
        .page(&[("a", &lines(0..4)), ("b", &lines(4..6))])
        .page(&[("c", &lines(6..8))]);
    Staged {
        streams: BTreeMap::from([("mailflow".to_owned(), source)]),
        refused: vec![5],
        answers: Answers::AtOnce,
        step: Duration::from_millis(400),
        policy: three_rows_to_a_body(),
    }
}

/// One long file, a body for each row, and answers that come late: as much in flight as can be.
fn long_file() -> Staged {
    let source = MemorySource::default().page(&[("a", &lines(0, 0..45, 1_000))]);
    let policy = Policy {
        body_wait: Duration::ZERO,
        save_after: Duration::from_secs(3_600),
        ..Policy::default()
    };
    Staged {
        streams: BTreeMap::from([("mailflow".to_owned(), source)]),
        refused: Vec::new(),
        answers: Answers::Late(policy.in_flight),
        step: Duration::ZERO,
        policy,
    }
}

/// How often each event landed.
fn counts(landed: &[u64]) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for n in landed {
        *counts.entry(*n).or_default() += 1;
    }
    counts
}

/// Runs that die one after the other, and one that does not. Returns how many bodies came again
/// after the last death, at most of one stream.
async fn survives(plan: &Staged, deaths: &[Death]) -> usize {
    let stage = Stage::new(plan.clone());
    let mut bodies = 0;
    for death in deaths {
        let ended = stage.run(Some(*death)).await;
        assert!(ended.is_none(), "{deaths:?}: the run had only {} effects", stage.effects());
        bodies = stage.outside().bodies_uncovered(plan);
        let bound = plan.policy.in_flight + plan.policy.save_after_bodies as usize - 1;
        assert!(bodies <= bound, "{deaths:?}: {bodies} bodies will come again");
    }
    let (before, covered) = {
        let outside = stage.outside();
        (counts(&outside.landed), outside.covered(plan))
    };

    let run = stage.run(None).await.unwrap();
    assert_eq!(run.outcome, Outcome::CaughtUp, "{deaths:?}: {run:#?}");
    let outside = stage.outside();
    assert_eq!(outside.breaches, Vec::<String>::new(), "{deaths:?}");
    let landed = counts(&outside.landed);
    let mut kept = BTreeSet::new();
    for (n, is_row) in plan.events() {
        // What no checkpoint covered comes again, and nothing else.
        let again = usize::from(!covered.contains(&n));
        let expected = before.get(&n).copied().unwrap_or(0) + if is_row { again } else { 0 };
        assert_eq!(landed.get(&n).copied().unwrap_or(0), expected, "{deaths:?}: event {n}");
        assert!(expected > 0 || !is_row, "{deaths:?}: event {n} is lost");
        if !is_row {
            kept.insert(n);
        }
    }
    assert_eq!(outside.kept(), kept, "{deaths:?}");
    for (stream, checkpoint) in outside.checkpoints() {
        let end = plan.streams[&stream].pages.len().to_string();
        assert_eq!(checkpoint.cursor, Cursor::Token(end), "{deaths:?}: {stream}");
    }
    bodies
}

/// The effects of a run that nothing befalls.
async fn effects(plan: &Staged) -> Vec<Effect> {
    let stage = Stage::new(plan.clone());
    let run = stage.run(None).await.unwrap();
    assert_eq!(run.outcome, Outcome::CaughtUp, "{run:#?}");
    let outside = stage.outside();
    let rows = plan.events().into_iter().filter(|(_, is_row)| *is_row).map(|(n, _)| n);
    let mut landed = outside.landed.clone();
    landed.sort_unstable();
    assert_eq!(landed, rows.collect::<Vec<_>>(), "without a crash each row lands once");
    outside.done.clone()
}

const MOMENTS: [Moment; 2] = [Moment::Before, Moment::After];

#[tokio::test(start_paused = true)]
async fn the_order_of_effects_is_always_the_same() {
    for plan in [three_streams(), small(), long_file()] {
        let first = effects(&plan).await;
        for _ in 0..10 {
            assert_eq!(effects(&plan).await, first);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_any_effect_of_three_streams_loses_nothing_and_doubles_what_was_not_saved() {
    let plan = three_streams();
    let all = effects(&plan).await;
    let shared = |effect: &&Effect| matches!(effect, Effect::Post(rows) if *rows == [3, 4]);
    assert!(all.iter().any(|e| shared(&e)), "a body goes from one file into the next: {all:?}");
    for number in 1..=all.len() {
        for moment in MOMENTS {
            survives(&plan, &[(number, moment)]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_any_two_effects_one_after_the_other_loses_nothing() {
    let plan = small();
    for number in 1..=effects(&plan).await.len() {
        for moment in MOMENTS {
            let stage = Stage::new(plan.clone());
            assert!(stage.run(Some((number, moment))).await.is_none());
            stage.run(None).await.unwrap();
            for second in 1..=stage.effects() {
                for again in MOMENTS {
                    survives(&plan, &[(number, moment), (second, again)]).await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn doubles_what_is_in_flight_and_unsaved_at_most_and_all_of_it_at_the_worst_point() {
    let plan = long_file();
    let mut most = 0;
    for number in 1..=effects(&plan).await.len() {
        for moment in MOMENTS {
            most = most.max(survives(&plan, &[(number, moment)]).await);
        }
    }
    assert_eq!(
        most, 21,
        "6 in flight, and 15 since the checkpoint was written: the 16th writes it"
    );
}
