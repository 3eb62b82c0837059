//! How fast Graph is asked.

use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::seams::{Deadline, Random};

/// The first wait after a 429 that does not say how long to wait, and the longest. They double.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(120));

/// Turns to ask, shared by all streams of a source.
#[derive(Debug)]
pub(super) struct Pace {
    /// The least time between two requests.
    every: Duration,
    random: Random,
    next: Mutex<Next>,
    /// Whose turn it is: a reply is the largest thing that is held, and one is held at a time.
    one: Semaphore,
}

#[derive(Debug, Default)]
struct Next {
    /// No request before it.
    at: Option<Instant>,
    /// 429s in a row.
    refused: u32,
}

impl Pace {
    pub(super) fn new(every: Duration, random: Random) -> Self {
        Self { every, random, next: Mutex::default(), one: Semaphore::new(1) }
    }

    /// Waits for the next turn, which lasts until it is dropped; none if it would come after the deadline.
    pub(super) async fn turn(&self, deadline: Deadline) -> Option<SemaphorePermit<'_>> {
        let turn = timeout_at(deadline.instant(), self.one.acquire()).await.ok()?.ok()?;
        loop {
            let at = {
                let mut next = self.next.lock().await;
                let now = Instant::now();
                match next.at.filter(|at| *at > now) {
                    None => {
                        next.at = Some(now + self.every);
                        return Some(turn);
                    }
                    Some(at) => at,
                }
            };
            if at >= deadline.instant() {
                return None;
            }
            // Not a turn of its own yet: a 429 meanwhile moves it.
            sleep_until(at).await;
        }
    }

    /// It was refused for its rate, which is that of all programs together: nobody asks for so long.
    pub(super) async fn refused(&self, asked: Option<Duration>) -> Duration {
        let mut next = self.next.lock().await;
        let (first, longest) = BACK_OFF;
        let doubled = first.saturating_mul(1 << next.refused.min(16)).min(longest);
        let wait = asked.unwrap_or_else(|| self.random.between(doubled / 2, doubled).max(first));
        next.refused += 1;
        next.hold(wait);
        wait
    }

    /// It was answered. `used` is how much of the limit is used up, where the answer says it: from 0.9
    /// on it waits, for a part of the 10 seconds over which Graph counts.
    pub(super) async fn answered(&self, used: Option<f64>) {
        let mut next = self.next.lock().await;
        next.refused = 0;
        if let Some(used) = used.filter(|used| *used >= 0.9) {
            next.hold(Duration::from_secs(if used < 1.0 { 5 } else { 10 }));
        }
    }
}

impl Next {
    fn hold(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        self.at = Some(self.at.map_or(until, |at| at.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> Deadline {
        Deadline::after(Duration::from_secs(86_400))
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_lies_between_two_requests_of_whichever_stream() {
        let pace = Pace::new(Duration::from_secs(1), Random::seeded(1));
        let began = Instant::now();
        let ask = async || {
            assert!(pace.turn(far()).await.is_some());
            began.elapsed().as_millis()
        };
        let mut at = [0; 4];
        (at[0], at[1], at[2], at[3]) = tokio::join!(ask(), ask(), ask(), ask());
        at.sort_unstable();
        for (turn, at) in at.into_iter().enumerate() {
            let second = 1_000 * turn as u128;
            assert!(at >= second && at <= second + 5, "turn {turn} was at {at} ms");
        }
        assert!(pace.turn(Deadline::after(Duration::from_millis(900))).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_without_a_word_holds_everybody_back_for_longer_each_time() {
        let pace = Pace::new(Duration::from_secs(1), Random::seeded(1));
        let began = Instant::now();
        let mut longest = Vec::new();
        for _ in 0..9 {
            assert!(pace.turn(far()).await.is_some());
            let (before, wait) = (began.elapsed(), pace.refused(None).await);
            assert!(pace.turn(far()).await.is_some());
            assert!(began.elapsed() - before >= wait, "{wait:?}");
            longest.push(wait.as_secs());
        }
        assert!(longest.iter().all(|wait| (2..=120).contains(wait)), "{longest:?}");
        assert!(longest[8] >= 60 && longest[2] >= 4, "{longest:?}");
        pace.answered(None).await;
        assert_eq!(pace.refused(None).await.as_secs(), 2);
        assert_eq!(pace.refused(Some(Duration::from_secs(7))).await.as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn it_slows_down_before_the_limit_is_reached() {
        let pace = Pace::new(Duration::ZERO, Random::seeded(1));
        for (used, seconds) in [(0.8, 0), (0.9, 5), (1.2, 10)] {
            let before = Instant::now();
            pace.answered(Some(used)).await;
            assert!(pace.turn(far()).await.is_some());
            assert_eq!(before.elapsed().as_secs(), seconds, "{used}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_reply_is_held_at_a_time() {
        let pace = Pace::new(Duration::ZERO, Random::seeded(1));
        let turn = pace.turn(far()).await;
        assert!(pace.turn(Deadline::after(Duration::from_secs(60))).await.is_none());
        drop(turn);
        assert!(pace.turn(far()).await.is_some());
    }
}
