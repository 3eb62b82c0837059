//! The one loop that repeats calls. Callers say what an answer means; when to try again, and when to
//! give up, is decided here.

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
    /// The shortest wait that a server may ask for.
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

/// Why an attempt did not succeed.
#[derive(Debug)]
pub enum Failure<E> {
    /// Another attempt would change nothing.
    Final(E),
    /// Another attempt may succeed.
    Passing {
        /// What happened, for a person.
        said: String,
        /// The wait that the server asks for. Such an attempt does not count.
        asked: Option<Duration>,
    },
    /// The rate is limited, with the wait that the server asks for. The server works, so this is no
    /// failure and does not count as an attempt.
    Throttled(Option<Duration>),
    /// The access token was refused, and the caller has discarded it. The first time another one is
    /// tried at once.
    TokenRefused(String),
    /// The time was up before there was an answer.
    OutOfTime,
}

impl<E> Failure<E> {
    /// A failure that may pass, after which the server asks for no wait.
    pub fn passing(said: impl ToString) -> Self {
        Self::Passing { said: said.to_string(), asked: None }
    }
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Final(error)
    }
}

/// A call that failed at every attempt.
#[derive(Debug, PartialEq, Eq)]
pub struct GaveUp {
    /// How it failed last, for a person.
    pub said: String,
    /// Whether that was a refusal of the access token.
    pub token_refused: bool,
    /// E.g. `8 times`.
    pub how_often: String,
}

/// The attempts of one call.
#[derive(Debug)]
pub struct Retries {
    policy: RetryPolicy,
    random: Random,
    deadline: Deadline,
    /// Attempts that count.
    made: u32,
    /// Whether the access token was renewed.
    renewed: bool,
    /// How it failed last, and whether that was a refusal of the access token.
    failed: Option<(String, bool)>,
}

impl RetryPolicy {
    /// The attempts of a new call, none of which begins after `deadline`.
    pub fn start(self, random: &Random, deadline: Deadline) -> Retries {
        let (random, made, renewed, failed) = (random.clone(), 1, false, None);
        Retries { policy: self, random, deadline, made, renewed, failed }
    }
}

impl Retries {
    /// Makes attempts until one succeeds, or none is worth it any more. `what` is being called, for
    /// the log.
    ///
    /// # Errors
    /// The first [`Failure::Final`]; or what `gave_up` makes of it where the attempts are used up,
    /// or a wait would end after the deadline: `None` if nothing failed until then.
    pub async fn run<T, E, A: Future<Output = Result<T, Failure<E>>>>(
        mut self,
        what: &str,
        mut attempt: impl FnMut() -> A,
        gave_up: impl FnOnce(Option<GaveUp>) -> E,
    ) -> Result<T, E> {
        let how_often = loop {
            let failure = match attempt().await {
                Ok(done) => return Ok(done),
                Err(Failure::Final(error)) => return Err(error),
                Err(failure) => failure,
            };
            match self.wait_after(&failure) {
                Some(wait) if wait < self.deadline.remaining() => {
                    match failure {
                        Failure::Passing { said, .. } | Failure::TokenRefused(said) => {
                            tracing::info!(call = what, failed = said, "failed; trying again");
                        }
                        _ => tracing::info!(call = what, "the rate is limited; waiting"),
                    }
                    sleep(wait).await;
                }
                Some(wait) => {
                    if matches!(failure, Failure::Throttled(_)) {
                        let seconds = wait.as_secs();
                        tracing::warn!(
                            call = what,
                            seconds,
                            "the rate is limited for longer than the run lasts"
                        );
                    }
                    break "until the run's time was up".to_owned();
                }
                None => break format!("{} times", self.policy.attempts),
            }
        };
        let failed = self.failed;
        Err(gave_up(failed.map(|(said, token_refused)| GaveUp { said, token_refused, how_often })))
    }

    /// How long to wait before the next attempt; `None` if the attempts are used up.
    fn wait_after<E>(&mut self, failure: &Failure<E>) -> Option<Duration> {
        let at_least = self.policy.throttled_at_least;
        match failure {
            // No run lasts that long.
            Failure::Final(_) | Failure::OutOfTime => Some(Duration::MAX),
            Failure::Throttled(asked) => {
                self.failed = None;
                Some(asked.unwrap_or(self.policy.throttled).max(at_least))
            }
            // It is not counted as an attempt, but must not go on for ever.
            Failure::TokenRefused(_) if !std::mem::replace(&mut self.renewed, true) => {
                Some(Duration::ZERO)
            }
            Failure::TokenRefused(said) => {
                self.failed = Some((said.clone(), true));
                self.back_off()
            }
            Failure::Passing { said, asked } => {
                self.failed = Some((said.clone(), false));
                asked.map_or_else(|| self.back_off(), |asked| Some(asked.max(at_least)))
            }
        }
    }

    /// A wait that doubles each time, with jitter between half of it and all.
    fn back_off(&mut self) -> Option<Duration> {
        if self.made >= self.policy.attempts {
            return None;
        }
        let doubled = self.policy.first.saturating_mul(1 << (self.made - 1).min(16));
        self.made += 1;
        let wait = doubled.min(self.policy.longest);
        Some(self.random.between(wait / 2, wait))
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::time::Instant;

    use super::*;

    const FAR: Duration = Duration::from_secs(86_400);

    /// How a call ends whose attempts fail in these ways, and after how long each was made.
    async fn run(
        policy: RetryPolicy,
        time: Duration,
        failures: impl IntoIterator<Item = Failure<Option<GaveUp>>>,
    ) -> (Result<(), Option<GaveUp>>, Vec<Duration>) {
        let (mut failures, mut last, mut waits) = (failures.into_iter(), None, Vec::new());
        let retries = policy.start(&Random::seeded(1), Deadline::after(time));
        let attempt = || {
            let now = Instant::now();
            waits.extend(last.replace(now).map(|last| now - last));
            ready(failures.next().map_or(Ok(()), Err))
        };
        (retries.run("a test", attempt, |gave_up| gave_up).await, waits)
    }

    fn is_about(wait: Duration, least: Duration, most: Duration) -> bool {
        wait >= least && wait <= most + Duration::from_millis(1)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_longest_and_end() {
        let policy = RetryPolicy { attempts: 7, ..RetryPolicy::default() };
        let failures = (0..).map(Failure::passing);
        let (ended, waits) = run(policy, FAR, failures).await;
        assert_eq!(waits.len(), 6);
        for (wait, longest) in waits.into_iter().zip([1, 2, 4, 8, 16, 30]) {
            let longest = Duration::from_secs(longest);
            assert!(is_about(wait, longest / 2, longest), "{wait:?}");
        }
        let (said, how_often) = ("6".to_owned(), "7 times".to_owned());
        assert_eq!(ended, Err(Some(GaveUp { said, token_refused: false, how_often })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limited_rate_is_waited_out_as_asked_but_never_past_the_deadline() {
        let asked = [Some(0), Some(2_500), None].map(|asked| asked.map(Duration::from_millis));
        let policy = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
        let failures = || asked.map(Failure::Throttled);
        let (ended, waits) = run(policy, FAR, failures()).await;
        assert_eq!(ended, Ok(()));
        for (wait, expected) in waits.into_iter().zip([1_000, 2_500, 30_000]) {
            let expected = Duration::from_millis(expected);
            assert!(is_about(wait, expected, expected), "{wait:?}");
        }
        let before = Instant::now();
        let (ended, _) = run(policy, Duration::from_secs(20), failures()).await;
        assert_eq!(ended, Err(None), "it did not fail");
        assert!(before.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_renewed_at_once_and_then_with_patience() {
        let policy = RetryPolicy { attempts: 2, ..RetryPolicy::default() };
        let failures = (0..).map(|n: u32| Failure::TokenRefused(n.to_string()));
        let (ended, waits) = run(policy, FAR, failures).await;
        assert!(is_about(waits[0], Duration::ZERO, Duration::ZERO), "{waits:?}");
        assert!(is_about(waits[1], policy.first / 2, policy.first), "{waits:?}");
        let (said, how_often) = ("2".to_owned(), "2 times".to_owned());
        assert_eq!(ended, Err(Some(GaveUp { said, token_refused: true, how_often })));
        assert_eq!(waits.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_before_the_time_was_up_is_reported_unless_it_worked_since() {
        let busy = || Failure::Passing { said: "busy".to_owned(), asked: Some(FAR * 2) };
        let limited = || Failure::Throttled(Some(FAR * 2));
        let cases: [(Vec<Failure<Option<GaveUp>>>, bool); 4] = [
            (vec![busy()], true),
            (vec![Failure::passing("busy"), Failure::OutOfTime], true),
            (vec![Failure::passing("busy"), limited()], false),
            (vec![Failure::TokenRefused("busy".to_owned()), Failure::OutOfTime], false),
        ];
        for (failures, reported) in cases {
            let how_often = "until the run's time was up".to_owned();
            let gave_up = GaveUp { said: "busy".to_owned(), token_refused: false, how_often };
            let (ended, _) = run(RetryPolicy::default(), FAR, failures).await;
            assert_eq!(ended, Err(reported.then_some(gave_up)));
        }
        let (ended, waits) = run(RetryPolicy::default(), FAR, [Failure::Final(None)]).await;
        assert_eq!((ended, waits.len()), (Err(None), 0));
    }
}
