//! Which states of which objects were sent already.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ticks::Ticks;
use crate::table::EventId;

/// The most that are remembered.
const MOST: usize = 20_000;

/// For how long they are remembered after their last change: a day longer than the widest look.
const SECONDS: i64 = 8 * 86_400;

/// A short hash of the id → a short hash of its state, and when that was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Seen(BTreeMap<String, (String, Ticks)>);

/// 64 bits: among 20,000, two are the same once in 90 billion times.
fn short(id: EventId) -> String {
    id.to_string().chars().take(16).collect()
}

impl Seen {
    /// Whether it is new in this state, which it is no longer then.
    pub(super) fn is_new(&mut self, id: &str, state: EventId, changed: Ticks) -> bool {
        let state = short(state);
        let key = short(EventId::of(id.as_bytes()));
        match self.0.get_mut(&key) {
            Some((known, at)) if *known == state => {
                *at = changed.max(*at);
                false
            }
            _ => {
                self.0.insert(key, (state, changed));
                true
            }
        }
    }

    /// Forgets what is older than any look, and the oldest of too many.
    pub(super) fn forget(&mut self, watermark: Ticks) {
        let oldest = watermark.minus(SECONDS);
        self.0.retain(|_, (_, changed)| *changed >= oldest);
        let too_many = self.0.len().saturating_sub(MOST);
        if too_many > 0 {
            let mut times: Vec<Ticks> = self.0.values().map(|(_, changed)| *changed).collect();
            times.sort_unstable();
            let newest_forgotten = times[too_many - 1];
            let mut left = too_many;
            self.0.retain(|_, (_, changed)| {
                let forget = left > 0 && *changed <= newest_forgotten;
                left -= usize::from(forget);
                !forget
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_new_once_and_what_is_old_or_too_much_is_forgotten() {
        let mut seen = Seen::default();
        let (state, other) = (EventId::of(b"1"), EventId::of(b"2"));
        let day = Ticks(0).minus(-86_400);
        assert!(seen.is_new("a", state, day) && !seen.is_new("a", state, day));
        assert!(seen.is_new("a", other, day) && seen.is_new("a", state, day));
        seen.forget(day.minus(-SECONDS));
        assert!(!seen.is_new("a", state, day));
        seen.forget(day.minus(-SECONDS - 1));
        assert_eq!(seen, Seen::default());

        for number in 0..MOST + 10 {
            seen.is_new(&number.to_string(), state, Ticks(number as i64));
        }
        seen.forget(Ticks(0));
        assert_eq!(seen.0.len(), MOST);
        assert!(!seen.is_new("10", state, Ticks(10)) && seen.is_new("9", state, Ticks(9)));
        let stored = serde_json::to_string(&seen).unwrap();
        assert!(stored.len() < 1_500_000, "{}", stored.len());
        assert_eq!(serde_json::from_str::<Seen>(&stored).unwrap(), seen);
    }
}
