//! What must hold wherever a process on the [stage](super::stage) dies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mimecast_sentinel::pipeline::{Outcome, Policy};

use super::stage::{Death, Effect, Moment, Outside, Stage, Staged};

/// The slots for bodies, of which small ones take one.
pub const IN_FLIGHT: usize = 16;

pub const MOMENTS: [Moment; 2] = [Moment::Before, Moment::After];

/// With the waits of production. The clock goes on by 400 ms with each record, so that a body, which
/// is closed after a second, has three rows, and goes from one file into the next.
pub fn three_rows_to_a_body() -> Policy {
    Policy { body_wait: Duration::from_secs(1), look_every: 1, ..Policy::default() }
}

/// How often each event landed.
pub fn counts(landed: &[u64]) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for n in landed {
        *counts.entry(*n).or_default() += 1;
    }
    counts
}

/// Each row has landed as often as `before`, and once more if it comes again; what is no row is in
/// quarantine, and nothing else is.
pub fn assert_safe(
    outside: &Outside,
    plan: &Staged,
    before: &BTreeMap<u64, usize>,
    comes_again: impl Fn(u64) -> bool,
    after: &str,
) {
    assert_eq!(outside.breaches, Vec::<String>::new(), "{after}");
    let landed = counts(&outside.landed);
    let times = |counts: &BTreeMap<u64, usize>, n| counts.get(&n).copied().unwrap_or(0);
    let mut kept = BTreeSet::new();
    for (n, is_row) in plan.events() {
        let expected = times(before, n) + usize::from(is_row && comes_again(n));
        assert_eq!(times(&landed, n), expected, "{after}: event {n}");
        assert!(expected > 0 || !is_row, "{after}: event {n} is lost");
        if !is_row {
            kept.insert(n);
        }
    }
    assert_eq!(outside.kept(), kept, "{after}");
}

/// Runs that die one after the other, and one that does not. Returns how many bodies came again
/// after the last death, at most of one stream.
pub async fn survives(plan: &Staged, deaths: &[Death]) -> usize {
    let stage = Stage::new(plan.clone());
    let mut bodies = 0;
    for death in deaths {
        let ended = stage.run(Some(*death)).await;
        assert!(ended.is_none(), "{deaths:?}: the run had only {} effects", stage.effects());
        bodies = stage.outside().bodies_uncovered(plan);
        let bound = IN_FLIGHT + plan.policy.save_after_bodies as usize - 1;
        assert!(bodies <= bound, "{deaths:?}: {bodies} bodies will come again");
    }
    let (before, covered) = {
        let outside = stage.outside();
        (counts(&outside.landed), outside.covered(plan))
    };

    let run = stage.run(None).await.unwrap();
    assert_eq!(run.outcome, Outcome::CaughtUp, "{deaths:?}: {run:#?}");
    let outside = stage.outside();
    // What no checkpoint covered comes again, and nothing else.
    assert_safe(&outside, plan, &before, |n| !covered.contains(&n), &format!("{deaths:?}"));
    for (stream, checkpoint) in outside.checkpoints() {
        let end = plan.supply.pages[&*stream].last().map(|page| page.at.clone());
        assert_eq!(checkpoint.cursor, end, "{deaths:?}: {stream}");
    }
    bodies
}

/// The effects of a run without a fault.
pub async fn effects(plan: &Staged) -> Vec<Effect> {
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
