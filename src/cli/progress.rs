//! A progress bar on a terminal, for what runs longer than a second.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::pipeline::{Counters, RunCounters, get};

const NOT_BEFORE: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(100);

/// Shows the counters until it is dropped. `events` is how many are expected, if that is known.
/// In a pipe it shows nothing.
pub(super) fn show(counters: &RunCounters, events: Option<u64>) -> Option<Shown> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let counters = counters.clone();
    let bar = ProgressBar::with_draw_target(events, ProgressDrawTarget::hidden());
    let drawing = tokio::spawn(draw(bar.clone(), counters, events));
    Some(Shown { bar, _drawing: AbortOnDropHandle::new(drawing) })
}

/// Takes the bar away when it is dropped.
pub(super) struct Shown {
    bar: ProgressBar,
    _drawing: AbortOnDropHandle<()>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

async fn draw(bar: ProgressBar, counters: RunCounters, events: Option<u64>) {
    sleep(NOT_BEFORE).await;
    let template = if events.is_some() {
        "{elapsed_precise} [{wide_bar}] {percent} % {msg}"
    } else {
        "{elapsed_precise} {spinner} {msg}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_draw_target(ProgressDrawTarget::stderr());
    let mut ticks = interval(EVERY);
    loop {
        ticks.tick().await;
        let sum = |count: fn(&Counters) -> &AtomicU64| -> u64 {
            counters.iter().map(|(_, counters)| get(count(counters))).sum()
        };
        let delivered = sum(|counters| &counters.rows_delivered);
        bar.set_position(delivered);
        bar.set_message(format!(
            "{} rows delivered, {} files, {} read",
            HumanCount(delivered),
            HumanCount(sum(|counters| &counters.files)),
            HumanBytes(sum(|counters| &counters.bytes_read)),
        ));
        bar.tick();
    }
}
