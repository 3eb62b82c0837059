//! A process that dies, at every point at which it can: each call to the world outside is a point,
//! before it is done and after it, when nobody learned that it was. Whatever the point, the next run
//! ends the work, and exactly those rows come again that no checkpoint covered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mimecast_sentinel::pipeline::{Outcome, Policy};
use mimecast_sentinel::quarantine::is_record;
use tokio::time::Instant;

use crate::support::deaths::{
    IN_FLIGHT, MOMENTS, assert_safe, counts, effects, survives, three_rows_to_a_body,
};
use crate::support::doubles::MemorySource;
use crate::support::stage::{Answers, Checkpoints, Death, Effect, Moment, Stage, Staged, Supply};

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
        (name, source)
    });
    Staged {
        supply: Supply::in_memory(streams.collect()),
        refused: vec![1_007],
        answers: Answers::AtOnce,
        // They take turns.
        step: Duration::from_millis(400) / 3,
        policy: three_rows_to_a_body(),
        checkpoints: Checkpoints::Folder,
    }
}

fn mailflow(source: MemorySource) -> Supply {
    Supply::in_memory(BTreeMap::from([("mailflow", source)]))
}

/// One stream, two pages, four bodies.
fn small() -> Staged {
    let lines = |numbers| lines(0, numbers, 1);
    let source = MemorySource::default()
        .page(&[("a", &lines(0..4)), ("b", &lines(4..6))])
        .page(&[("c", &lines(6..8))]);
    Staged {
        supply: mailflow(source),
        refused: vec![5],
        answers: Answers::AtOnce,
        step: Duration::from_millis(400),
        policy: three_rows_to_a_body(),
        checkpoints: Checkpoints::Folder,
    }
}

/// One long file, a body for each row, and answers that come late: as much in flight as can be.
fn long_file() -> Staged {
    let source = MemorySource::default().page(&[("a", &lines(0, 0..60, 1_000))]);
    let policy = Policy {
        body_wait: Duration::ZERO,
        look_every: 1,
        save_after: Duration::from_secs(3_600),
        ..Policy::default()
    };
    Staged {
        supply: mailflow(source),
        refused: Vec::new(),
        answers: Answers::Late(IN_FLIGHT),
        step: Duration::ZERO,
        policy,
        checkpoints: Checkpoints::Folder,
    }
}

/// One stream, one page: lines that are no rows, are refused or too long, and a file that is damaged
/// at two places. So much of the trouble is over.
fn troubled_by(mended: u64, refused: &[u64]) -> Staged {
    let line = |n| match n {
        1 => format!("{n} is no row"),
        4 => format!("{{\"n\":{n},\"long\":1}}"),
        11 => format!("{{\"n\":{n},\"damaged\":1}}"),
        17 => format!("{{\"n\":{n},\"damaged\":2}}"),
        _ => format!("{{\"n\":{n}}}"),
    };
    let lines = |numbers: std::ops::Range<u64>| numbers.map(line).collect::<Vec<_>>();
    let source = MemorySource { mended, ..MemorySource::default() }.page(&[
        ("a", &lines(0..8)),
        ("b", &lines(9..20)),
        ("c", &lines(20..22)),
    ]);
    Staged { supply: mailflow(source), refused: refused.to_vec(), ..small() }
}

fn troubled() -> Staged {
    troubled_by(0, &[2, 3, 5, 6, 20])
}

#[tokio::test(start_paused = true)]
async fn the_order_of_effects_is_always_the_same() {
    for plan in [three_streams(), small(), long_file(), troubled()] {
        let first = effects(&plan).await;
        for _ in 0..10 {
            assert_eq!(effects(&plan).await, first);
        }
    }
    let pulled = pulled().await;
    let of_replay = async || {
        let stage = pulled.go_on(troubled_by(1, &[3]));
        stage.replay(None).await.unwrap();
        let outside = stage.outside();
        outside.done.clone()
    };
    let first = of_replay().await;
    for _ in 0..10 {
        assert_eq!(of_replay().await, first);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_effect_of_three_streams_loses_nothing_and_doubles_what_was_not_saved() {
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
async fn two_crashes_at_any_effects_one_after_the_other_lose_nothing() {
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
async fn a_crash_doubles_what_is_in_flight_and_unsaved_at_most_and_all_of_it_at_the_worst_point() {
    let plan = long_file();
    let mut most = 0;
    for number in 1..=effects(&plan).await.len() {
        for moment in MOMENTS {
            most = most.max(survives(&plan, &[(number, moment)]).await);
        }
    }
    assert_eq!(
        most, 31,
        "16 in flight, and 15 since the checkpoint was written: the 16th writes it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_effect_while_files_are_kept_whole_loses_nothing() {
    let plan = troubled();
    let all = effects(&plan).await;
    let copies = all.iter().filter(|effect| matches!(effect, Effect::KeepFile(_)));
    assert_eq!(copies.count(), 2, "of a long line and of a damaged file: {all:?}");
    let opened = |key: &str| all.iter().filter(|e| **e == Effect::Open(key.to_owned())).count();
    // To be read, with its long line; three times to be read, and to be kept; to be read. Not for a
    // refused row: its body holds its line.
    assert_eq!((opened("a"), opened("b"), opened("c")), (1, 4, 1), "{all:?}");
    for number in 1..=all.len() {
        for moment in MOMENTS {
            survives(&plan, &[(number, moment)]).await;
        }
    }
}

/// As above, and the lease of the dead must run out before another goes on.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_effect_with_a_leased_blob_loses_nothing() {
    for plan in [small(), troubled()] {
        let plan = Staged { checkpoints: Checkpoints::Blob, ..plan };
        let all = effects(&plan).await;
        for number in 1..=all.len() {
            for moment in MOMENTS {
                survives(&plan, &[(number, moment)]).await;
            }
        }

        let save = all.iter().position(|effect| matches!(effect, Effect::Save(_))).unwrap();
        let stage = Stage::new(plan);
        assert!(stage.run(Some((save + 1, Moment::After))).await.is_none());
        let died = Instant::now();
        stage.run(None).await.unwrap();
        assert!(died.elapsed() > Duration::from_secs(50), "it was waited for");
        let asked = |effect: &&Effect| matches!(effect, Effect::Lease(_));
        assert!(stage.outside().done.iter().filter(asked).count() > 25);
    }
}

/// A replay that dies, and one that does not. Returns how many rows came again.
async fn replays(pulled: &Stage, plan: &Staged, death: Death) -> usize {
    let stage = pulled.go_on(plan.clone());
    let ended = stage.replay(Some(death)).await;
    assert!(ended.is_none(), "{death:?}: the replay had only {} effects", stage.effects());
    let again = stage.outside().sent_and_kept();
    // One body, or what was sent of the file that is kept whole.
    let bodies: BTreeSet<usize> = again.values().copied().collect();
    let of_file = again.keys().all(|n| (11..20).contains(n));
    assert!(bodies.len() <= 1 || of_file, "{death:?}: {again:?} will come again");
    let (before, to_send) = {
        let outside = stage.outside();
        (counts(&outside.landed), outside.kept())
    };

    let replay = stage.replay(None).await.unwrap();
    assert_eq!(replay.outcome, Outcome::CaughtUp, "{death:?}: {replay:#?}");
    let outside = stage.outside();
    // What was in quarantine is sent, and nothing else.
    assert_safe(&outside, plan, &before, |n| to_send.contains(&n), &format!("{death:?}"));
    let files = outside.names("quarantine/").iter().filter(|name| !is_record(name)).count();
    // The damaged one, while any of it is to be sent.
    assert_eq!(files, usize::from(outside.kept().contains(&19)), "{death:?}");
    again.len()
}

/// A world whose events were pulled; some are in quarantine.
async fn pulled() -> Stage {
    let stage = Stage::new(troubled());
    assert_eq!(stage.run(None).await.unwrap().outcome, Outcome::CaughtUp);
    let kept: Vec<u64> = stage.outside().kept().into_iter().collect();
    assert_eq!(kept, [&[1, 2, 3, 4, 5, 6][..], &[11, 12, 13, 14, 15, 16, 17, 18, 19, 20]].concat());
    stage
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_effect_of_a_replay_loses_nothing_and_doubles_a_body_or_what_was_sent_of_a_file()
 {
    let pulled = pulled().await;
    // A row is refused again, and the file is read on to its next damage; or all is well.
    for (plan, most) in [(troubled_by(1, &[3]), 6), (troubled_by(2, &[]), 9)] {
        let stage = pulled.go_on(plan.clone());
        stage.replay(None).await.unwrap();
        let mut worst = 0;
        for number in 1..=stage.effects() {
            for moment in MOMENTS {
                worst = worst.max(replays(&pulled, &plan, (number, moment)).await);
            }
        }
        assert_eq!(worst, most);
    }
}
