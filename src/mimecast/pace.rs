//! How fast the listing may be called: Mimecast counts 50 calls in 15 minutes.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::seams::Deadline;

/// The window that Mimecast counts in.
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// Lets at most so many calls begin in any 15 minutes, in the order in which they are asked for, so
/// that no stream waits behind another's backlog.
#[derive(Debug)]
pub struct Pace {
    calls: usize,
    /// When the last calls began. The lock is fair: first come, first served.
    begun: Mutex<VecDeque<Instant>>,
}

impl Pace {
    /// At most `calls` in 15 minutes.
    pub fn new(calls: u32) -> Self {
        Self { calls: calls.max(1) as usize, begun: Mutex::default() }
    }

    /// Waits for the turn; `false` if it would come after the deadline.
    pub(super) async fn turn(&self, deadline: Deadline) -> bool {
        let mut begun = self.begun.lock().await;
        while begun.len() >= self.calls {
            let Some(oldest) = begun.front() else { break };
            let free = *oldest + WINDOW;
            if free >= deadline.instant() {
                return false;
            }
            sleep_until(free).await;
            begun.pop_front();
        }
        begun.push_back(Instant::now());
        true
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
            assert!(pace.turn(far).await);
            begun.push(start.elapsed().as_secs());
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        for four in begun.windows(4) {
            assert!(four[3] - four[0] >= 900, "{begun:?}");
        }
        assert!(!pace.turn(Deadline::after(Duration::from_secs(60))).await);
    }
}
