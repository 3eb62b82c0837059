//! An access token that is kept until shortly before it expires.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Grant, hold_token};

/// How long before its end a token is renewed.
const EARLY: Duration = Duration::from_secs(300);

/// How long after a renewal that failed the next one is tried, while the token lives.
const RENEWED_AGAIN: Duration = Duration::from_secs(30);

/// The shortest life that is assumed of a token, so that a fresh one is used at least once.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest life that is assumed of a token.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// An access token.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token itself.
    pub secret: SecretString,
    /// The number of the token in its cache.
    number: u64,
    renew_at: Instant,
    ends_at: Instant,
}

/// One token, fetched when it is first needed. Callers at the same time share one fetch and
/// its failure, so that a service that is down is not tried once for each of them.
#[derive(Debug)]
pub struct TokenCache<E> {
    slot: Mutex<Slot<E>>,
    /// How many fetches have failed.
    failed: AtomicU64,
}

#[derive(Debug)]
struct Slot<E> {
    token: Option<Token>,
    fetched: u64,
    /// Why the last of the fetches that failed did so.
    failure: Option<E>,
}

impl<E> Default for TokenCache<E> {
    fn default() -> Self {
        let slot = Slot { token: None, fetched: 0, failure: None };
        Self { slot: Mutex::new(slot), failed: AtomicU64::new(0) }
    }
}

impl<E: Clone> TokenCache<E> {
    /// The token, fetched with `fetch` if there is none that is good for another five minutes. If
    /// that fails, one that is good for less serves on.
    ///
    /// # Errors
    /// Why `fetch` failed, of this caller or of another at the same time.
    pub async fn get(&self, fetch: impl Future<Output = Result<Grant, E>>) -> Result<Token, E> {
        let failed = self.failed.load(Ordering::Relaxed);
        let mut slot = self.slot.lock().await;
        if let Some(token) = slot.token.as_ref().filter(|token| Instant::now() < token.renew_at) {
            return Ok(token.clone());
        }
        if let Some(failure) = &slot.failure
            && self.failed.load(Ordering::Relaxed) > failed
        {
            return Err(failure.clone());
        }
        let Grant { token: secret, lives } = match fetch.await {
            Ok(grant) => grant,
            Err(failure) => {
                let now = Instant::now();
                if let Some(token) = slot.token.as_mut().filter(|token| now < token.ends_at) {
                    token.renew_at = now + RENEWED_AGAIN;
                    return Ok(token.clone());
                }
                slot.failure = Some(failure.clone());
                self.failed.fetch_add(1, Ordering::Relaxed);
                return Err(failure);
            }
        };
        hold_token(secret.expose_secret());
        slot.fetched += 1;
        let lasts = |lives: Duration| Instant::now() + lives.clamp(SHORTEST, LONGEST);
        let (renew_at, ends_at) = (lasts(lives.saturating_sub(EARLY)), lasts(lives));
        let token = Token { secret, number: slot.fetched, renew_at, ends_at };
        Ok(slot.token.insert(token).clone())
    }

    /// Forgets a token that was refused. A newer one stays.
    pub async fn discard(&self, refused: &Token) {
        let mut slot = self.slot.lock().await;
        slot.token.take_if(|token| token.number == refused.number);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;

    use tokio::time::{advance, sleep};

    use super::*;

    fn grant(token: &str, lives: Duration) -> Grant {
        Grant { token: token.into(), lives }
    }

    async fn get(cache: &TokenCache<Infallible>, fresh: &str) -> Token {
        let fetch = ready(Ok::<_, Infallible>(grant(fresh, Duration::from_secs(1_799))));
        cache.get(fetch).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_kept_until_five_minutes_before_its_end() {
        let cache = TokenCache::default();
        assert_eq!(get(&cache, "a").await.secret.expose_secret(), "a");
        advance(Duration::from_secs(1_498)).await;
        assert_eq!(get(&cache, "b").await.secret.expose_secret(), "a");
        advance(Duration::from_secs(2)).await;
        assert_eq!(get(&cache, "c").await.secret.expose_secret(), "c");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_says_it_lives_for_ever_is_kept_for_a_day() {
        let cache = TokenCache::default();
        let for_ever = ready(Ok::<_, Infallible>(grant("a", Duration::MAX)));
        cache.get(for_ever).await.unwrap();
        advance(LONGEST).await;
        assert_eq!(get(&cache, "b").await.secret.expose_secret(), "b");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_shares_the_failure_and_who_comes_later_tries_again() {
        let (cache, fetches) = (TokenCache::default(), AtomicU64::new(0));
        let failing = || {
            cache.get(async {
                sleep(Duration::from_secs(60)).await;
                Err(fetches.fetch_add(1, Ordering::Relaxed))
            })
        };
        let failed = tokio::join!(failing(), failing(), failing());
        assert_eq!([failed.0, failed.1, failed.2].map(Result::unwrap_err), [0, 0, 0]);
        assert_eq!(failing().await.unwrap_err(), 1);
        let fetched = cache.get(ready(Ok(grant("a", Duration::from_secs(1_799))))).await;
        assert_eq!(fetched.unwrap().secret.expose_secret(), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_cannot_be_renewed_serves_to_its_end() {
        let (cache, fetches) = (TokenCache::default(), AtomicU64::new(0));
        let failing = || cache.get(async { Err(fetches.fetch_add(1, Ordering::Relaxed)) });
        let lives = Duration::from_secs(400);
        cache.get(ready(Ok(grant("a", lives)))).await.unwrap();
        advance(lives - EARLY).await;
        for fetched in 1..=10 {
            for _ in 0..2 {
                assert_eq!(failing().await.unwrap().secret.expose_secret(), "a");
            }
            assert_eq!(fetches.load(Ordering::Relaxed), fetched);
            advance(RENEWED_AGAIN).await;
        }
        assert_eq!(failing().await.unwrap_err(), 10);
    }

    #[tokio::test]
    async fn only_the_refused_token_is_forgotten() {
        let cache = TokenCache::default();
        let first = get(&cache, "a").await;
        cache.discard(&first).await;
        assert_eq!(get(&cache, "b").await.secret.expose_secret(), "b");
        cache.discard(&first).await;
        assert_eq!(get(&cache, "c").await.secret.expose_secret(), "b");
    }
}
