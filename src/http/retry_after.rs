//! How long a server wants its client to wait.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Mimecast's header in all spellings seen; its value is in **milliseconds**.
const RATE_LIMIT_RESET: [&str; 3] =
    ["x-ratelimit-reset", "x-rate-limit-reset", "x-mimecast-ratelimit-reset"];

/// The longest wait that a server may ask for. The caller checks the run's deadline besides.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The wait that a reply asks for: `X-RateLimit-Reset` in milliseconds, else `Retry-After` in
/// seconds or as an HTTP date (RFC 9110 §10.2.3). `None` if it asks for none that can be read.
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let reset = RATE_LIMIT_RESET.into_iter().find_map(text);
    if let Some(milliseconds) = reset.and_then(|text| text.parse().ok()) {
        return Some(Duration::from_millis(milliseconds).min(LONGEST));
    }
    let text = text(RETRY_AFTER.as_str())?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.to_utc() - now).to_std().unwrap_or_default().min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_headers_are_read_each_in_its_unit() {
        let now = DateTime::from_timestamp(1_784_635_200, 0).unwrap(); // 2026-07-21T12:00:00Z
        type Given = &'static [(&'static str, &'static str)];
        let cases: [(Given, Option<u64>); 10] = [
            (&[], None),
            (&[("x-ratelimit-reset", "2500")], Some(2_500)),
            (&[("X-Rate-Limit-Reset", "60000")], Some(60_000)),
            (&[("retry-after", "7")], Some(7_000)),
            (&[("retry-after", "Tue, 21 Jul 2026 12:00:30 GMT")], Some(30_000)),
            (&[("retry-after", "Tue, 21 Jul 2026 11:00:00 GMT")], Some(0)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "99999999999")], Some(86_400_000)),
            (&[("x-ratelimit-reset", "soon"), ("retry-after", "2")], Some(2_000)),
        ];
        for (given, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.insert(
                    reqwest::header::HeaderName::try_from(*name).unwrap(),
                    value.parse().unwrap(),
                );
            }
            let expected = expected.map(Duration::from_millis);
            assert_eq!(retry_after(&headers, now), expected, "{given:?}");
        }
    }
}
