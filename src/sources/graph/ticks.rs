//! Times of Graph's, whose fractions have up to 7 digits, of which the last zeros are left out: as text
//! they have another order than as times.

use chrono::{DateTime, SecondsFormat, Utc};

/// Units of 100 ns since 1970.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub(super) struct Ticks(pub(super) i64);

const A_SECOND: i64 = 10_000_000;

impl Ticks {
    /// As Graph writes it; `None` if it is no time.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self::of(DateTime::parse_from_rfc3339(text).ok()?.to_utc()))
    }

    pub(super) fn of(time: DateTime<Utc>) -> Self {
        let fraction = i64::from(time.timestamp_subsec_nanos() / 100);
        Self(time.timestamp().saturating_mul(A_SECOND).saturating_add(fraction))
    }

    pub(super) fn minus(self, seconds: i64) -> Self {
        Self(self.0.saturating_sub(seconds.saturating_mul(A_SECOND)))
    }

    /// As a filter takes it, of whole seconds: not later than it is, but for times before 1970, such as
    /// the year 1 that stands for none.
    pub(super) fn literal(self) -> String {
        let time = DateTime::from_timestamp(self.0.div_euclid(A_SECOND).max(0), 0);
        time.unwrap_or(DateTime::UNIX_EPOCH).to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_ordered_as_times_whatever_their_digits() {
        let in_order = [
            "2026-11-07T10:00:27Z",
            "2026-11-07T10:00:27.77Z",
            "2026-11-07T10:00:27.773602Z",
            "2026-11-07T10:00:27.7736021Z",
            "2026-11-07T11:00:28+01:00",
        ];
        let ticks: Vec<_> = in_order.into_iter().map(|text| Ticks::parse(text).unwrap()).collect();
        assert!(ticks.is_sorted() && ticks.windows(2).all(|two| two[0] != two[1]), "{ticks:?}");
        assert_eq!(ticks[3].0 % A_SECOND, 7_736_021);
        assert_eq!(ticks[3].literal(), "2026-11-07T10:00:27Z");
        assert_eq!(ticks[0].minus(7_200).literal(), "2026-11-07T08:00:27Z");
        for none in ["", "yesterday", "2026-11-07", "0001-01-01"] {
            assert_eq!(Ticks::parse(none), None, "{none}");
        }
        let first = Ticks::parse("0001-01-01T00:00:00Z").unwrap();
        assert!(first < ticks[0]);
        assert_eq!(first.minus(i64::MAX).literal(), "1970-01-01T00:00:00Z");
    }
}
