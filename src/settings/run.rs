//! When a run starts, how long it may take, and how much it logs.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use chrono::TimeDelta;
use tracing::Level;

use super::raw::RawSettings;
use super::reader::{Reader, Wrong, given, whole_number, wrong};
use crate::schedule::Schedule;

const MIN_GAP: Duration = Duration::from_secs(10 * 60);
/// What a run needs after its limit: bodies in flight, the checkpoint, the answer to the host.
const RESERVE: Duration = Duration::from_secs(60);
/// Later than what Mimecast keeps is too late: 7 days.
const MOST_HOURS: u64 = 7 * 24;
/// The host.json that is deployed, for when the real one cannot be read.
const BUNDLED_HOST_JSON: &str = include_str!("../../host.json");

pub(super) fn schedule(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<Schedule> {
    schedule_of("SCHEDULE", &raw.schedule, "0 */15 * * * *", reader)
}

/// The schedule of a source.
pub(super) fn schedule_of(
    setting: &'static str,
    value: &Option<String>,
    default: &str,
    reader: &mut Reader<'_>,
) -> Option<Schedule> {
    reader.optional(setting, value, default, |text| {
        const FIX: &str = "Give NCRONTAB in UTC with ticks at least 10 minutes apart, e.g. \
                           `0 */15 * * * *` for every 15 minutes.";
        let schedule = Schedule::parse(text).or_else(|error| wrong(error.to_string(), FIX))?;
        let gap = schedule.smallest_gap();
        if gap < MIN_GAP {
            let gap = gap.as_secs();
            return wrong(format!("`{schedule}` has ticks only {gap} seconds apart"), FIX);
        }
        Ok(schedule)
    })
}

/// `LISTEN`: an address of this machine and a port.
pub(super) fn listen(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<Option<SocketAddr>> {
    let Some(text) = given(&raw.listen) else { return Some(None) };
    let address = text.parse().map(Some).or_else(|_| {
        wrong(
            format!("{text:?} is not an address and a port"),
            "Give an IP address of this machine and a port, e.g. 127.0.0.1:8080, or [::]:8080 for \
             all addresses.",
        )
    });
    address.map_err(|wrong| reader.fault("LISTEN", wrong)).ok()
}

/// Checks `LOG_LEVEL` and `LOG_FORMAT`, which logs are started with before anything is checked.
pub(super) fn logs(raw: &RawSettings, reader: &mut Reader<'_>) {
    log_level(raw, reader);
    log_format(raw, reader);
}

fn log_level(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<Level> {
    reader.optional("LOG_LEVEL", &raw.log_level, "INFO", |text| {
        level(text).map_or_else(
            || {
                wrong(
                    format!("{text:?} is not a level"),
                    "Give ERROR, WARNING, INFO, DEBUG or TRACE.",
                )
            },
            Ok,
        )
    })
}

fn level(text: &str) -> Option<Level> {
    match text.to_ascii_uppercase().as_str() {
        "ERROR" => Some(Level::ERROR),
        "WARNING" | "WARN" => Some(Level::WARN),
        "INFO" => Some(Level::INFO),
        "DEBUG" => Some(Level::DEBUG),
        "TRACE" => Some(Level::TRACE),
        _ => None,
    }
}

/// How a record is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for a person.
    Text,
    /// One JSON object on a line.
    Json,
}

/// `LOG_FORMAT`. What its default is depends on who started the process.
fn log_format(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<LogFormat> {
    reader.optional("LOG_FORMAT", &raw.log_format, "text", |text| {
        let problem = || wrong(format!("{text:?} is not a format"), "Give text or json.");
        format(text).map_or_else(problem, Ok)
    })
}

fn format(text: &str) -> Option<LogFormat> {
    match text.to_ascii_lowercase().as_str() {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

impl RawSettings {
    /// `LOG_FORMAT`; `None` where it is unset or not a format.
    pub fn log_format(&self) -> Option<LogFormat> {
        given(&self.log_format).and_then(format)
    }

    /// `LOG_LEVEL`, or `INFO` where it is unset or not a level.
    pub fn log_level(&self) -> Level {
        given(&self.log_level).and_then(level).unwrap_or(Level::INFO)
    }

    /// Whether `SCHEDULE` is set.
    pub fn has_schedule(&self) -> bool {
        given(&self.schedule).is_some()
    }
}

/// `RUN_TIME_LIMIT_SECONDS`: at least a minute, on loopback a second.
pub(super) fn run_time_limit(
    raw: &RawSettings,
    on_loopback: bool,
    reader: &mut Reader<'_>,
) -> Option<Duration> {
    const NAME: &str = "RUN_TIME_LIMIT_SECONDS";
    let least = if on_loopback { 1 } else { 60 };
    let seconds = whole_number(least..=86_400, "number of seconds");
    let limit = reader
        .optional(NAME, &raw.run_time_limit_seconds, "540", seconds)
        .map(Duration::from_secs)?;
    if reader.under_functions() {
        let timeout = function_timeout(reader);
        if limit + RESERVE > timeout {
            let (limit, timeout) = (limit.as_secs(), timeout.as_secs());
            let most = timeout.saturating_sub(RESERVE.as_secs());
            let problem = format!(
                "{limit} seconds leave less than a minute of the function timeout of {timeout} \
                 seconds, after which the host kills the run"
            );
            let fix = if most < least {
                "Raise functionTimeout in host.json to at least 2 minutes.".to_owned()
            } else {
                format!("Set it to at most {most}, or raise functionTimeout in host.json.")
            };
            reader.fault(NAME, Wrong { problem, fix });
            return None;
        }
    }
    Some(limit)
}

/// `MAX_ROWS_PER_RUN`. The default is a whole day of the large tenant in `docs/SCALE.md`.
pub(super) fn max_rows(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<u64> {
    let rows = whole_number(1_000..=1_000_000_000, "number of rows");
    reader.optional("MAX_ROWS_PER_RUN", &raw.max_rows_per_run, "20000000", rows)
}

/// `GIVE_UP_AFTER_HOURS`; 0 is after 6 runs.
pub(super) fn give_up_after(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<TimeDelta> {
    let hours = whole_number(0..=MOST_HOURS, "number of hours");
    let hours = reader.optional("GIVE_UP_AFTER_HOURS", &raw.give_up_after_hours, "24", hours);
    hours.map(TimeDelta::hours)
}

/// `SPILL_AFTER_HOURS`; 0 is at the first run that fails, and `never` nothing. The default is less than
/// half of the 7 days that Mimecast keeps: what went wrong may be seen after a weekend only.
pub(super) fn spill_after(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<Option<TimeDelta>> {
    reader.optional("SPILL_AFTER_HOURS", &raw.spill_after_hours, "72", |text| {
        if text.eq_ignore_ascii_case("never") {
            return Ok(None);
        }
        let hours = text.parse().ok().filter(|hours| (0..=MOST_HOURS).contains(hours));
        let hours = hours.and_then(|hours| i64::try_from(hours).ok());
        hours.map_or_else(
            || {
                let fix =
                    format!("Give a whole number of hours from 0 to {MOST_HOURS}, or `never`.");
                wrong(format!("{text:?} is not accepted"), fix)
            },
            |hours| Ok(Some(TimeDelta::hours(hours))),
        )
    })
}

/// After what time the Functions host kills this process.
fn function_timeout(reader: &Reader<'_>) -> Duration {
    let overridden = reader.env("AzureFunctionsJobHost__functionTimeout");
    let deployed = || {
        let path = Path::new(&reader.env("FUNCTIONS_APP_ROOT_PATH")?).join("host.json");
        timeout_in(&std::fs::read_to_string(path).ok()?)
    };
    overridden
        .and_then(|text| time_span(&text))
        .or_else(deployed)
        .or_else(|| timeout_in(BUNDLED_HOST_JSON))
        .unwrap_or(Duration::ZERO)
}

fn timeout_in(host_json: &str) -> Option<Duration> {
    let host: serde_json::Value = serde_json::from_str(host_json).ok()?;
    time_span(host.get("functionTimeout")?.as_str()?)
}

/// Reads .NET's `[d.]hh:mm:ss`; `-1` means without end.
fn time_span(text: &str) -> Option<Duration> {
    if text == "-1" {
        return Some(Duration::MAX);
    }
    let (days, clock) = text.split_once('.').unwrap_or(("0", text));
    let days: u64 = days.parse().ok()?;
    let parts: Vec<u64> = clock.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let &[hours @ 0..24, minutes @ 0..60, seconds @ 0..60] = parts.as_slice() else {
        return None;
    };
    let seconds = ((hours * 60 + minutes) * 60) + seconds;
    days.checked_mul(86_400)?.checked_add(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_time_spans_as_the_host_does() {
        let cases = [
            ("00:10:00", Some(600)),
            ("01:02:03", Some(3723)),
            ("1.00:00:00", Some(86_400)),
            ("-1", Some(Duration::MAX.as_secs())),
            ("00:60:00", None),
            ("10", None),
            ("ten", None),
            ("99999999999999999999.00:00:00", None),
            ("999999999999999999.00:00:00", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(time_span(text).map(|span| span.as_secs()), seconds, "{text}");
        }
    }
}
