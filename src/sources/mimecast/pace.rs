//! How fast the listing may be called: Mimecast counts 50 calls in 15 minutes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::pipeline::Interrupt;
use crate::seams::Deadline;

/// The window that Mimecast counts in.
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// Remembers listing calls beyond this process, so that another one keeps to the pace too.
#[async_trait]
pub trait CallLog: std::fmt::Debug + Send + Sync {
    /// How long ago the last ones began; older ones than 15 minutes do not count.
    fn ago(&self) -> Vec<Duration>;

    /// A call is about to begin.
    ///
    /// # Errors
    /// It cannot be remembered, so that it must not begin.
    async fn begin(&self) -> Result<(), Interrupt>;
}

/// Lets at most so many calls begin in any 15 minutes. Each stream that wants more may count on an
/// equal share of them, so that no stream's backlog starves another; what the others leave is for
/// the first to ask.
#[derive(Debug)]
pub struct Pace {
    calls: usize,
    state: Mutex<State>,
    /// A stream wants no more for now.
    rested: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When the last calls began, and of which stream they were.
    begun: VecDeque<(Instant, String)>,
    /// The streams that want more.
    busy: BTreeSet<String>,
}

impl Pace {
    /// At most `calls` in 15 minutes.
    pub fn new(calls: u32) -> Self {
        let state = Mutex::default();
        Self { calls: calls.max(1) as usize, state, rested: Notify::new() }
    }

    /// The same after calls that began so long ago.
    #[must_use]
    pub fn after(self, ago: &[Duration]) -> Self {
        let now = Instant::now();
        let mut begun: Vec<_> = ago.iter().filter_map(|ago| now.checked_sub(*ago)).collect();
        begun.sort();
        self.state().begun = begun.into_iter().map(|at| (at, String::new())).collect();
        self
    }

    /// Waits for the turn of `stream`; `false` if it would come after the deadline.
    pub(super) async fn turn(&self, stream: &str, deadline: Deadline) -> bool {
        let mut reported = false;
        loop {
            let rested = self.rested.notified();
            let Err(look_again) = self.state().begin(stream, self.calls, deadline) else {
                return true;
            };
            let Some(look_again) = look_again else { return false };
            if !std::mem::replace(&mut reported, true) {
                let calls = self.calls;
                tracing::info!(
                    stream,
                    calls,
                    "waiting: so many listing calls are made in 15 minutes"
                );
            }
            tokio::select! {
                () = sleep_until(look_again) => {}
                () = rested => {}
            }
        }
    }

    /// `stream` wants no more calls for now: its share is free for the others.
    pub(super) fn rest(&self, stream: &str) {
        self.state().busy.remove(stream);
        self.rested.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Begins a call, or says when to look again, if that is before the deadline.
    fn begin(
        &mut self,
        stream: &str,
        calls: usize,
        deadline: Deadline,
    ) -> Result<(), Option<Instant>> {
        let now = Instant::now();
        while self.begun.front().is_some_and(|(began, _)| *began + WINDOW <= now) {
            self.begun.pop_front();
        }
        if !self.busy.contains(stream) {
            self.busy.insert(stream.to_owned());
        }
        let free = calls.saturating_sub(self.begun.len());
        if free > 0 && (self.share_left(stream, calls) > 0 || free > self.kept_free(stream, calls))
        {
            self.begun.push_back((now, stream.to_owned()));
            return Ok(());
        }
        let next = self.begun.front().map(|(began, _)| *began + WINDOW);
        let next = next.filter(|next| *next < deadline.instant());
        // What is kept for other streams may become free at any time.
        let any_time = || (free > 0 && !deadline.passed()).then(|| deadline.instant());
        Err(next.or_else(any_time))
    }

    /// Calls that are kept for the other streams.
    fn kept_free(&self, stream: &str, calls: usize) -> usize {
        let others = self.busy.iter().filter(|other| *other != stream);
        others.map(|other| self.share_left(other, calls)).sum()
    }

    fn share_left(&self, stream: &str, calls: usize) -> usize {
        let begun = self.begun.iter().filter(|(_, of)| of == stream).count();
        (calls / self.busy.len()).saturating_sub(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_window_of_fifteen_minutes_holds_more_calls() {
        let pace = Pace::new(3);
        let far = Deadline::after(Duration::from_secs(86_400));
        let start = Instant::now();
        let mut begun = Vec::new();
        for _ in 0..9 {
            assert!(pace.turn("a", far).await);
            begun.push(start.elapsed().as_secs());
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        for four in begun.windows(4) {
            assert!(four[3] - four[0] >= 900, "{begun:?}");
        }
        assert!(!pace.turn("a", Deadline::after(Duration::from_secs(60))).await);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_another_process_count_too() {
        tokio::time::advance(WINDOW).await;
        let minutes = |ago: u64| Duration::from_secs(60 * ago);
        let pace = Pace::new(3).after(&[minutes(1), minutes(14), minutes(16)]);
        let start = Instant::now();
        let far = Deadline::after(minutes(60));
        let mut begun = Vec::new();
        for _ in 0..3 {
            assert!(pace.turn("a", far).await);
            begun.push(start.elapsed().as_secs() / 60);
        }
        assert_eq!(begun, [0, 1, 14]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_can_count_on_its_share_until_it_rests() {
        let pace = Pace::new(9);
        let near = Deadline::after(Duration::from_secs(60));
        for stream in ["b", "c", "a", "a", "a"] {
            assert!(pace.turn(stream, near).await);
        }
        // Two calls each are kept for `b` and `c`; `a` waits for them, and gets what `b` leaves.
        let (got, ()) = tokio::join!(pace.turn("a", near), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(pace.state().begun.len(), 5);
            pace.rest("b");
        });
        assert!(got);
        assert!(pace.turn("c", near).await && pace.turn("c", near).await);
        pace.rest("c");
        assert!(pace.turn("a", near).await);
        assert!(!pace.turn("a", near).await);
    }

    #[tokio::test(start_paused = true)]
    async fn fewer_calls_than_streams_go_to_whoever_comes_first() {
        let pace = Pace::new(1);
        let near = Deadline::after(Duration::from_secs(60));
        assert!(pace.turn("a", near).await);
        assert!(!pace.turn("b", near).await);
        tokio::time::advance(WINDOW).await;
        assert!(pace.turn("b", Deadline::after(Duration::from_secs(60))).await);
    }
}
