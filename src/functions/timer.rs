//! What the host says about the timer, read leniently: a tick starts a run whatever it says.

use chrono::{DateTime, Datelike, Utc};
use serde_json::Value;
use tracing::debug;

/// What started a run, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// The host's id of the invocation.
    pub invocation_id: Option<String>,
    /// Whether the run is late: nobody was there when it was due. However many ticks were missed,
    /// there is one such run.
    pub past_due: bool,
    /// When the schedule fired last, if it ever did.
    pub last: Option<DateTime<Utc>>,
    /// When this tick was due, which the host calls `Next`: on the schedule's own tick its time, on
    /// one that is late the time that was missed. Only a call by hand has the time of the tick after
    /// it here.
    pub due: Option<DateTime<Utc>>,
}

impl Tick {
    /// Reads a timer's payload. What is missing or odd in it is left at its default.
    pub(super) fn read(invocation_id: Option<String>, payload: &[u8]) -> Self {
        let Some(timer) = timer(payload) else {
            debug!("the payload is not a timer's; the run starts all the same");
            return Self { invocation_id, ..Self::default() };
        };
        let schedule = decoded(&timer["ScheduleStatus"]);
        Self {
            invocation_id,
            past_due: decoded(&timer["IsPastDue"]).as_bool().unwrap_or_default(),
            last: time(&schedule["Last"]),
            due: time(&schedule["Next"]),
        }
    }
}

/// `Data` has one value for each input binding, and this function has one; its name is
/// `function.json`'s business.
fn timer(payload: &[u8]) -> Option<Value> {
    let payload = decoded(&serde_json::from_slice(payload).ok()?);
    let data = decoded(&payload["Data"]);
    data.as_object()?.values().map(decoded).find(Value::is_object)
}

/// The host's year 1 means never.
fn time(value: &Value) -> Option<DateTime<Utc>> {
    let time = decoded(value).as_str()?.parse::<DateTime<Utc>>().ok()?;
    (time.year() > 1).then_some(time)
}

/// A value of the payload; the host encodes some as JSON text in a JSON string, and that up to
/// twice.
fn decoded(value: &Value) -> Value {
    let mut value = value.clone();
    for _ in 0..2 {
        let Some(inner) = value.as_str().and_then(|text| serde_json::from_str(text).ok()) else {
            break;
        };
        value = inner;
    }
    value
}
