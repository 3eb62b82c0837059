//! A progress bar on a terminal, for what runs longer than a second.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{interval, sleep};
use tokio_util::task::AbortOnDropHandle;

const NOT_BEFORE: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(100);

/// The bar on the screen, if there is one.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// How far a command is.
pub(super) struct Done {
    /// Rows so far.
    pub(super) rows: u64,
    /// The text beside the bar.
    pub(super) text: String,
}

/// Shows what `look` says until it is dropped. `rows` is how many are expected, if that is known.
/// In a pipe it shows nothing.
pub(super) fn show(rows: Option<u64>, look: impl Fn() -> Done + Send + 'static) -> Option<Shown> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::with_draw_target(rows, ProgressDrawTarget::hidden());
    set_bar(Some(bar.clone()));
    let drawing = tokio::spawn(draw(bar.clone(), rows.is_some(), look));
    Some(Shown { bar, _drawing: AbortOnDropHandle::new(drawing) })
}

/// Writes to the terminal without running into the bar.
pub(super) fn aside<T>(write: impl FnOnce() -> T) -> T {
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Takes the bar away when it is dropped.
pub(super) struct Shown {
    bar: ProgressBar,
    _drawing: AbortOnDropHandle<()>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        set_bar(None);
        self.bar.finish_and_clear();
    }
}

fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

async fn draw(bar: ProgressBar, is_end_known: bool, look: impl Fn() -> Done) {
    sleep(NOT_BEFORE).await;
    let template =
        if is_end_known { "{elapsed} [{wide_bar}] {msg}" } else { "{elapsed} {spinner} {msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut ticks = interval(EVERY);
    loop {
        ticks.tick().await;
        let Done { rows, text } = look();
        bar.set_message(text);
        bar.set_position(rows);
        // Shown only once it has a text.
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.tick();
    }
}
