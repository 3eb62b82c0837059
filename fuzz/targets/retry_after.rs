//! The wait that headers ask for is what a slow reader finds in them, and never over a day.
//!
//! The first eight bytes are the time, the rest headers, one on a line.
#![no_main]

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::http::retry_after;

const DAY: u64 = 86_400;
const RESETS: [&str; 3] = ["x-ratelimit-reset", "x-rate-limit-reset", "x-mimecast-ratelimit-reset"];

fuzz_target!(|input: &[u8]| {
    let Some((time, text)) = input.split_first_chunk() else { return };
    let drawn = u64::from_le_bytes(*time);
    // The years 1970 to 2105.
    let now = DateTime::<Utc>::from_timestamp((drawn & 0xffff_ffff) as i64, 0).unwrap();
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let name = HeaderName::from_bytes(&line[..at]);
        let value = HeaderValue::from_bytes(line.get(at + 1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let asked = retry_after(&headers, now);
    assert!(asked.is_none_or(|wait| wait <= Duration::from_secs(DAY)));
    if let Some(expected) = expected(&headers) {
        assert_eq!(asked, expected, "{headers:?}");
    }

    // A date that is made here is read as it was made.
    let wait = (drawn >> 32) % (2 * DAY);
    let date = now + Duration::from_secs(wait);
    let date = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, date.parse().unwrap())]);
    assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(wait.min(DAY))), "{date}");
    let later = now + Duration::from_secs(wait + 1);
    assert_eq!(retry_after(&headers, later), Some(Duration::ZERO), "{date}");
});

/// The wait by the headers that are numbers. `None` if it may be a date.
fn expected(headers: &HeaderMap) -> Option<Option<Duration>> {
    // The first header of a name counts, and of Mimecast's names the first that is there as text.
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let reset = RESETS.iter().find_map(|name| text(name)).map(number);
    if let Some(Some(ms)) = reset {
        return Some(Some(Duration::from_millis(ms.min(DAY * 1_000))));
    }
    let Some(after) = text("retry-after") else { return Some(None) };
    match number(after) {
        Some(seconds) => Some(Some(Duration::from_secs(seconds.min(DAY)))),
        None if after.bytes().any(|byte| byte.is_ascii_alphabetic()) => None,
        None => Some(None),
    }
}

/// Digits, and as `u64` takes it a plus before them. Blanks around them do not matter.
fn number(text: &str) -> Option<u64> {
    let digits = text.trim();
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let digits = digits.trim_start_matches('0');
    match digits.len() {
        _ if !plain => None,
        0..=19 => Some(digits.bytes().fold(0, |n, digit| n * 10 + u64::from(digit - b'0'))),
        _ => digits.parse().ok(),
    }
}
