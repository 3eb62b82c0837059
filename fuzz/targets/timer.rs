//! A timer's payload is read as what it says, however often its parts are encoded; anything else
//! is read as nothing.
#![no_main]

use chrono::{DateTime, Datelike, Utc};
use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::functions::tick_of;
use mimecast_sentinel_fuzz::has_serde_jsons_own_key;
use serde_json::{Value, json};

fuzz_target!(|payload: &[u8]| {
    let tick = tick_of(payload);
    assert_eq!(tick.invocation_id, None);
    for time in [tick.last, tick.due].into_iter().flatten() {
        assert!(time.year() > 1);
    }
    if has_serde_jsons_own_key(payload) {
        return;
    }
    if let Ok(whole @ Value::Object(_)) = serde_json::from_slice(payload) {
        for times in 1..=2 {
            let again = tick_of(encoded(&whole, times).to_string().as_bytes());
            assert_eq!(again, tick, "the payload, encoded {times} times");
        }
    }
    if let Some((drawn, rest)) = payload.split_first_chunk() {
        as_the_host_words_it(drawn, rest);
    }
});

/// A payload that is made here must be read as it was made.
fn as_the_host_words_it(&[how, a, b, c]: &[u8; 4], name: &[u8]) {
    let time = |byte: u8| {
        let seconds = i64::from(byte) * 16_777_216 - 62_135_596_800 * i64::from(byte % 5 == 0);
        DateTime::<Utc>::from_timestamp(seconds, 0).unwrap()
    };
    let (last, next) = (time(a), time(b));
    let times = |shift: u8| (c >> shift) % 3;
    let schedule = json!({"Last": last.to_rfc3339(), "Next": next.to_rfc3339()});
    let timer = json!({
        "IsPastDue": encoded(&json!(how & 1 == 1), times(0)),
        "ScheduleStatus": encoded(&schedule, times(2)),
    });
    let name = String::from_utf8_lossy(name);
    let data = encoded(&json!({ &*name: encoded(&timer, times(4)) }), times(6));
    let payload = json!({"Data": data, "Metadata": {"sys": name}});
    let tick = tick_of(payload.to_string().as_bytes());
    assert_eq!(tick.past_due, how & 1 == 1, "{payload}");
    assert_eq!(tick.last, Some(last).filter(|time| time.year() > 1), "{payload}");
    assert_eq!(tick.due, Some(next).filter(|time| time.year() > 1), "{payload}");
}

/// JSON text in a JSON string, so many times.
fn encoded(value: &Value, times: u8) -> Value {
    (0..times).fold(value.clone(), |value, _| Value::String(value.to_string()))
}
