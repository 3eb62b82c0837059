//! An access token that is kept until shortly before it expires.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::hold_token;

/// How long before its end a token is renewed.
const EARLY: Duration = Duration::from_secs(300);

/// A token lives at least this long here, however short its life is said to be, so that a fresh one
/// is used at least once.
const SHORTEST: Duration = Duration::from_secs(1);

/// Nor longer than this, however long it is said to be.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// An access token.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token itself.
    pub secret: SecretString,
    /// Counts the tokens of a cache: tells one from the next.
    number: u64,
}

/// One token, fetched when it is first needed. Whoever asks while it is fetched waits for it, and
/// shares the failure if there is none: a service that is down is not tried by one after the other.
#[derive(Debug)]
pub struct TokenCache<E> {
    slot: Mutex<Slot<E>>,
    /// How many fetches have failed.
    failed: AtomicU64,
}

#[derive(Debug)]
struct Slot<E> {
    token: Option<(Token, Instant)>,
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
    /// The token, fetched with `fetch` if there is none that is good for another five minutes.
    /// `fetch` returns it with the time it lives.
    pub async fn get(
        &self,
        fetch: impl AsyncFnOnce() -> Result<(SecretString, Duration), E>,
    ) -> Result<Token, E> {
        let failed = self.failed.load(Ordering::Relaxed);
        let mut slot = self.slot.lock().await;
        if let Some((token, until)) = &slot.token
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        if let Some(failure) = &slot.failure
            && self.failed.load(Ordering::Relaxed) > failed
        {
            return Err(failure.clone());
        }
        let (secret, lives) = match fetch().await {
            Ok(fetched) => fetched,
            Err(failure) => {
                slot.failure = Some(failure.clone());
                self.failed.fetch_add(1, Ordering::Relaxed);
                return Err(failure);
            }
        };
        hold_token(secret.expose_secret());
        slot.fetched += 1;
        let token = Token { secret, number: slot.fetched };
        let until = Instant::now() + lives.saturating_sub(EARLY).clamp(SHORTEST, LONGEST);
        slot.token = Some((token.clone(), until));
        Ok(token)
    }

    /// Forgets a token that was refused. A newer one stays.
    pub async fn discard(&self, refused: &Token) {
        let mut slot = self.slot.lock().await;
        slot.token.take_if(|(token, _)| token.number == refused.number);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::time::{advance, sleep};

    use super::*;

    async fn get(cache: &TokenCache<Infallible>, fresh: &str) -> Token {
        let fetch = async || Ok::<_, Infallible>((fresh.into(), Duration::from_secs(1_799)));
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
        let for_ever = async || Ok::<_, Infallible>(("a".into(), Duration::MAX));
        cache.get(for_ever).await.unwrap();
        advance(LONGEST).await;
        assert_eq!(get(&cache, "b").await.secret.expose_secret(), "b");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_shares_the_failure_and_who_comes_later_tries_again() {
        let (cache, fetches) = (TokenCache::default(), AtomicU64::new(0));
        let failing = || {
            cache.get(async || {
                sleep(Duration::from_secs(60)).await;
                Err(fetches.fetch_add(1, Ordering::Relaxed))
            })
        };
        let failed = tokio::join!(failing(), failing(), failing());
        assert_eq!([failed.0, failed.1, failed.2].map(Result::unwrap_err), [0, 0, 0]);
        assert_eq!(failing().await.unwrap_err(), 1);
        let fetched = cache.get(async || Ok(("a".into(), Duration::from_secs(1_799)))).await;
        assert_eq!(fetched.unwrap().secret.expose_secret(), "a");
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
