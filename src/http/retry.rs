//! When to try again, and when to give up.

use std::time::Duration;

use tokio::time::sleep;

use crate::seams::{Deadline, Random};

/// How often and how patiently a call is repeated.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// The wait before the first repetition; it doubles with each one.
    pub first: Duration,
    /// The longest wait that is chosen here. A server may ask for more.
    pub longest: Duration,
    /// How many times a call is made at most.
    pub attempts: u32,
    /// The shortest wait after a 429, whatever its headers say.
    pub throttled_at_least: Duration,
    /// The wait after a 429 whose headers say nothing.
    pub throttled: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            attempts: 8,
            throttled_at_least: Duration::from_secs(1),
            throttled: Duration::from_secs(30),
        }
    }
}

/// Why a call is not repeated any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// It was made as often as the policy allows.
    Attempts,
    /// The wait would end after the deadline.
    OutOfTime,
}

/// The repetitions of one call.
#[derive(Debug)]
pub struct Retries {
    policy: RetryPolicy,
    random: Random,
    deadline: Deadline,
    made: u32,
}

impl RetryPolicy {
    /// Counts the repetitions of a new call.
    pub fn start(self, random: &Random, deadline: Deadline) -> Retries {
        Retries { policy: self, random: random.clone(), deadline, made: 1 }
    }
}

impl Retries {
    /// Waits before the next repetition of a call that failed, with jitter between half the wait
    /// and all of it.
    pub async fn back_off(&mut self) -> Result<(), GaveUp> {
        if self.made >= self.policy.attempts {
            return Err(GaveUp::Attempts);
        }
        let doubled = self.policy.first.saturating_mul(1 << (self.made - 1).min(16));
        self.made += 1;
        let wait = doubled.min(self.policy.longest);
        self.wait(self.random.between(wait / 2, wait)).await
    }

    /// Waits as a 429 asks. It does not count as an attempt: the call was not made.
    pub async fn throttled(&mut self, asked: Option<Duration>) -> Result<(), GaveUp> {
        let asked = asked.unwrap_or(self.policy.throttled);
        self.wait(asked.max(self.policy.throttled_at_least)).await
    }

    async fn wait(&self, wait: Duration) -> Result<(), GaveUp> {
        if wait >= self.deadline.remaining() {
            return Err(GaveUp::OutOfTime);
        }
        sleep(wait).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_longest_and_end() {
        let policy = RetryPolicy { attempts: 7, ..RetryPolicy::default() };
        let mut retries = policy.start(&Random::seeded(1), Deadline::after(Duration::MAX / 4));
        for longest in [1, 2, 4, 8, 16, 30] {
            let before = Instant::now();
            retries.back_off().await.unwrap();
            let waited = before.elapsed();
            let longest = Duration::from_secs(longest);
            assert!(waited >= longest / 2 && waited <= longest + Duration::from_millis(1));
        }
        assert_eq!(retries.back_off().await, Err(GaveUp::Attempts));
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_call_waits_as_asked_but_never_past_the_deadline() {
        let deadline = Deadline::after(Duration::from_secs(60));
        let mut retries = RetryPolicy::default().start(&Random::seeded(1), deadline);
        for (asked, waits) in [(Some(0), 1_000), (Some(2_500), 2_500), (None, 30_000)] {
            let before = Instant::now();
            retries.throttled(asked.map(Duration::from_millis)).await.unwrap();
            let waited = before.elapsed().as_millis();
            assert!((waits..=waits + 1).contains(&waited), "{asked:?}: {waited}");
        }
        let before = Instant::now();
        assert_eq!(retries.throttled(None).await, Err(GaveUp::OutOfTime));
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
