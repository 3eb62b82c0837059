//! NCRONTAB, the six-field schedules of Azure Functions' timer: second, minute, hour, day of the
//! month, month, day of the week, all in UTC.
//!
//! No crate speaks it: `cron` counts weekdays from 1 and so fires a day early, silently. The reader
//! here takes NCRONTAB's grammar and nothing else, and hands `cron` plain lists of values.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike, Days, NaiveDate, TimeDelta, Utc};

/// The longest schedule that is read, in bytes. One written by hand is never longer.
const MAX_LENGTH: usize = 512;
const SECONDS_PER_DAY: u64 = 86_400;
/// After 400 years the Gregorian calendar repeats, weekdays included.
const DAYS_PER_CALENDAR_CYCLE: u32 = 146_097;

/// A valid schedule, which fires at least once in a calendar cycle.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    engine: cron::Schedule,
    smallest_gap: Duration,
}

/// Why a text is not a schedule. Each message says what is accepted instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// It is longer than any sensible schedule.
    #[error("it is longer than {MAX_LENGTH} characters")]
    TooLong,
    /// It has five fields, which the Functions host would take.
    #[error("it has five fields; SCHEDULE needs six, seconds first")]
    FiveFields,
    /// It is a .NET `TimeSpan`, which the Functions host would take.
    #[error("it is a TimeSpan, which is not accepted; write NCRONTAB")]
    TimeSpan,
    /// It has not six fields.
    #[error(
        "it has {0} fields separated by spaces; a schedule has six: second, minute, hour, \
         day of the month, month and day of the week, e.g. `0 0 */1 * * *`"
    )]
    FieldCount(usize),
    /// One of its fields is not understood.
    #[error("its field \"{field}\" has {given:?}, which is not accepted; accepted is {accepted}")]
    Field {
        /// The field's name, e.g. `hour`.
        field: &'static str,
        /// The part of the field that is wrong.
        given: String,
        /// What the field takes.
        accepted: String,
    },
    /// No day is ever like that, e.g. 31 February.
    #[error("it never fires: no month has such a day; change the day of the month or the month")]
    NeverFires,
    /// The schedule engine does not take what was read.
    #[error("the schedule engine refuses it: {0}")]
    Engine(String),
}

impl Schedule {
    /// Reads NCRONTAB. The grammar of a field is that of the library in the Functions host: values,
    /// lists, `a-b` (also reversed), `*/n`, `a/n`, `a-b/n` (a step of 0 counts as 1), for months and
    /// weekdays also beginnings of their English names; weekdays are 0 (Sunday) to 6.
    ///
    /// Whatever is read here the host takes too, or its ticks would never come. It takes more: five
    /// fields, and a `TimeSpan`, which counts from the host's own start. Both are refused here, so
    /// that a schedule means the same with and without a host.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim_matches(' ');
        if text.len() > MAX_LENGTH {
            return Err(ScheduleError::TooLong);
        }
        let fields: Vec<&str> = text.split(' ').filter(|field| !field.is_empty()).collect();
        let &[second, minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(match fields.as_slice() {
                [span] if is_time_span(span) => ScheduleError::TimeSpan,
                [_, _, _, _, _] => ScheduleError::FiveFields,
                _ => ScheduleError::FieldCount(fields.len()),
            });
        };
        let ticks = Ticks {
            seconds: SECOND.values(second)?,
            minutes: MINUTE.values(minute)?,
            hours: HOUR.values(hour)?,
            days: DAY.values(day)?,
            months: MONTH.values(month)?,
            weekdays: WEEKDAY.values(weekday)?,
        };
        Ok(Self {
            text: text.to_owned(),
            smallest_gap: ticks.smallest_gap().ok_or(ScheduleError::NeverFires)?,
            engine: cron::Schedule::from_str(&ticks.to_cron())
                .map_err(|error| ScheduleError::Engine(error.to_string()))?,
        })
    }

    /// The first tick strictly later than `time`; `None` once there is none until the year 2100,
    /// where the engine's calendar ends.
    pub fn after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // The engine adds a second without looking.
        time.checked_add_signed(TimeDelta::seconds(1))?;
        self.engine.after(&time).next()
    }

    /// The shortest time between two ticks, exact over the whole calendar: `0 */7 * * * *` has
    /// 4 minutes, at the hour.
    pub fn smallest_gap(&self) -> Duration {
        self.smallest_gap
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One of the six fields: what it is called and which values it takes.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    /// English names of the values, the first one that of `min`.
    names: &'static [&'static str],
}

const fn numeric(name: &'static str, min: u32, max: u32) -> Field {
    Field { name, min, max, names: &[] }
}

static SECOND: Field = numeric("second", 0, 59);
static MINUTE: Field = numeric("minute", 0, 59);
static HOUR: Field = numeric("hour", 0, 23);
static DAY: Field = numeric("day of the month", 1, 31);
static MONTH: Field = Field {
    name: "month",
    min: 1,
    max: 12,
    names: &[
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
};
static WEEKDAY: Field = Field {
    name: "day of the week",
    min: 0,
    max: 6,
    names: &["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"],
};

impl Field {
    /// The values that `text` means.
    fn values(&self, text: &str) -> Result<BTreeSet<u32>, ScheduleError> {
        let mut values = BTreeSet::new();
        for item in text.split(',') {
            let (first, last, step) = self.item(item).ok_or_else(|| self.refuse(item))?;
            values.extend((first..=last).step_by(step));
        }
        Ok(values)
    }

    /// First value, last value and step of one item of a list.
    fn item(&self, item: &str) -> Option<(u32, u32, usize)> {
        let (base, step) = match item.split_once('/') {
            Some((base, step)) => (base, Some(usize::try_from(number(step)?).ok()?.max(1))),
            None => (item, None),
        };
        let (first, last) = if base == "*" {
            (self.min, self.max)
        } else if let Some((a, b)) = base.split_once('-') {
            let (a, b) = (self.value(a)?, self.value(b)?);
            (a.min(b), a.max(b))
        } else {
            let value = self.value(base)?;
            (value, if step.is_some() { self.max } else { value })
        };
        Some((first, last, step.unwrap_or(1)))
    }

    /// A number, or the beginning of a name; of two names the earlier one.
    fn value(&self, text: &str) -> Option<u32> {
        let value = if text.starts_with(|first: char| first.is_ascii_digit()) {
            number(text)?
        } else {
            let begins = |name: &&str| {
                !text.is_empty()
                    && name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text))
            };
            self.min + u32::try_from(self.names.iter().position(begins)?).ok()?
        };
        (self.min..=self.max).contains(&value).then_some(value)
    }

    fn refuse(&self, given: &str) -> ScheduleError {
        let Self { name, min, max, names } = self;
        let names = match names {
            [first, .., last] => format!(" ({first} to {last}, or the beginning of a name)"),
            _ => String::new(),
        };
        let accepted = format!(
            "`*`, numbers from {min} to {max}{names}, ranges `a-b`, steps `*/n`, `a/n`, `a-b/n` \
             and lists of these with commas"
        );
        ScheduleError::Field { field: name, given: given.to_owned(), accepted }
    }
}

/// Whether it has a `TimeSpan`'s form, such as `00:15:00`, `1.00:00:00` or, for days, `15`.
fn is_time_span(text: &str) -> bool {
    let parts = text.strip_prefix('-').unwrap_or(text).split([':', '.']);
    parts.into_iter().all(|part| !part.is_empty() && number(part).is_some())
}

/// Digits only: no sign, no blank.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The values of each field; none is empty.
struct Ticks {
    seconds: BTreeSet<u32>,
    minutes: BTreeSet<u32>,
    hours: BTreeSet<u32>,
    days: BTreeSet<u32>,
    months: BTreeSet<u32>,
    weekdays: BTreeSet<u32>,
}

impl Ticks {
    /// The same in the dialect of `cron`, where Sunday is 1.
    fn to_cron(&self) -> String {
        let list = |values: &BTreeSet<u32>, plus: u32| {
            values.iter().map(|value| (value + plus).to_string()).collect::<Vec<_>>().join(",")
        };
        [
            list(&self.seconds, 0),
            list(&self.minutes, 0),
            list(&self.hours, 0),
            list(&self.days, 0),
            list(&self.months, 0),
            list(&self.weekdays, 1),
        ]
        .join(" ")
    }

    fn fires_on(&self, day: NaiveDate) -> bool {
        self.days.contains(&day.day())
            && self.months.contains(&day.month())
            && self.weekdays.contains(&day.weekday().num_days_from_sunday())
    }

    /// The times of a day at which it fires, in seconds since midnight, in order.
    fn times(&self) -> impl Iterator<Item = u64> {
        self.hours.iter().flat_map(move |hour| {
            self.minutes.iter().flat_map(move |minute| {
                self.seconds.iter().map(move |second| u64::from((hour * 60 + minute) * 60 + second))
            })
        })
    }

    /// The shortest time between two ticks of one day or of two days that follow on each other;
    /// `None` if it never fires.
    fn smallest_gap(&self) -> Option<Duration> {
        let (first, last) = (self.times().next()?, self.times().last()?);
        let over_midnight = self.smallest_day_gap()? * SECONDS_PER_DAY - (last - first);
        let within_a_day = self.times().zip(self.times().skip(1)).map(|(a, b)| b - a).min();
        Some(Duration::from_secs(within_a_day.map_or(over_midnight, |gap| gap.min(over_midnight))))
    }

    /// The fewest days from one day on which it fires to the next such day. A step like `*/2` is
    /// shorter at the end of a month, and a weekday with a day of the month has no simple rule.
    fn smallest_day_gap(&self) -> Option<u64> {
        let cycle = NaiveDate::from_ymd_opt(2000, 1, 1)?
            .iter_days()
            .take(usize::try_from(DAYS_PER_CALENDAR_CYCLE).ok()?);
        let mut days = cycle.filter(|day| self.fires_on(*day));
        let mut previous = days.next()?;
        let first_of_next_cycle =
            previous.checked_add_days(Days::new(u64::from(DAYS_PER_CALENDAR_CYCLE)))?;
        let mut smallest = u64::from(DAYS_PER_CALENDAR_CYCLE);
        for day in days.chain([first_of_next_cycle]) {
            smallest = smallest.min((day - previous).num_days().unsigned_abs());
            if smallest == 1 {
                break;
            }
            previous = day;
        }
        Some(smallest)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{NaiveTime, TimeZone, Timelike};
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// The first ticks of `schedule` after Sunday 15 November 2026, 10:07:30.
    fn ticks(schedule: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule).unwrap();
        let mut time = at("2026-11-15T10:07:30Z");
        std::iter::repeat_with(|| {
            time = schedule.after(time).unwrap();
            time.format("%a %m-%d %H:%M:%S").to_string()
        })
        .take(count)
        .collect()
    }

    #[test]
    fn fires_when_the_functions_host_would() {
        let cases: &[(&str, &[&str])] = &[
            ("0 0 */1 * * *", &["Sun 11-15 11:00:00", "Sun 11-15 12:00:00"]),
            ("0 */10 * * * *", &["Sun 11-15 10:10:00", "Sun 11-15 10:20:00"]),
            // Weekdays count from Sunday = 0.
            ("0 30 9 * * 1-5", &["Mon 11-16 09:30:00", "Tue 11-17 09:30:00"]),
            ("0 0 0 * * 6", &["Sat 11-21 00:00:00", "Sat 11-28 00:00:00"]),
            ("0 0 0 * * 0", &["Sun 11-22 00:00:00", "Sun 11-29 00:00:00"]),
            // Day of the month and day of the week, not or.
            ("0 0 0 13 * 5", &["Fri 08-13 00:00:00", "Fri 10-13 00:00:00"]),
            // Names by any beginning; of two the earlier one.
            ("0 0 12 * * wed", &["Wed 11-18 12:00:00"]),
            ("0 0 12 * * s", &["Sun 11-15 12:00:00"]),
            ("0 0 12 1 FEBRU *", &["Mon 02-01 12:00:00"]),
            ("0 0 12 1 m *", &["Mon 03-01 12:00:00"]),
            ("0 0 12 * * Mon-Fri/2", &["Mon 11-16 12:00:00", "Wed 11-18 12:00:00"]),
            // Reversed ranges are swapped.
            ("0 30 9 * * 5-1", &["Mon 11-16 09:30:00"]),
            ("0 0 22-4 * * *", &["Sun 11-15 11:00:00"]),
            // Steps: from a value to the end, within a range, of 0, beyond the end.
            ("0 40/15 * * * *", &["Sun 11-15 10:40:00", "Sun 11-15 10:55:00"]),
            ("0 0-30/12 * * * *", &["Sun 11-15 10:12:00", "Sun 11-15 10:24:00"]),
            ("0 */0 * * * *", &["Sun 11-15 10:08:00", "Sun 11-15 10:09:00"]),
            ("0 */99 * * * *", &["Sun 11-15 11:00:00"]),
            ("0 50,20,20 10 * * *", &["Sun 11-15 10:20:00", "Sun 11-15 10:50:00"]),
            ("  0  0 */1   * * * ", &["Sun 11-15 11:00:00"]),
        ];
        for (schedule, expected) in cases {
            assert_eq!(&ticks(schedule, expected.len()), expected, "{schedule}");
        }
    }

    #[test]
    fn a_tick_is_strictly_later() {
        let hourly = Schedule::parse("0 0 * * * *").unwrap();
        let noon = Some(at("2026-11-15T12:00:00Z"));
        assert_eq!(hourly.after(at("2026-11-15T11:00:00Z")), noon);
        assert_eq!(hourly.after(at("2026-11-15T11:59:59.999Z")), noon);
        assert_eq!(hourly.after(at("2026-11-15T11:00:00.001Z")), noon);
        assert_eq!(hourly.after(at("2026-12-31T23:59:59.5Z")), Some(at("2027-01-01T00:00:00Z")));
        assert_eq!(hourly.after(DateTime::<Utc>::MAX_UTC), None);
    }

    #[test]
    fn refuses_everything_that_is_not_ncrontab() {
        let cases = [
            ("", "0 fields"),
            ("0 */5 * * *", "five fields; SCHEDULE needs six, seconds first"),
            ("0 0 0 1 1 * 2027", "7 fields"),
            ("@hourly", "1 fields"),
            ("01:00:00", "a TimeSpan, which is not accepted; write NCRONTAB"),
            ("1.00:00:00", "a TimeSpan"),
            ("-00:15", "a TimeSpan"),
            ("15", "a TimeSpan"),
            ("ö", "1 fields"),
            ("00:15:", "1 fields"),
            ("0 0 0 * * 7", "\"day of the week\" has \"7\""),
            ("0 0 0 ? * 1", "\"day of the month\" has \"?\""),
            ("0 0 0 L * *", "\"day of the month\" has \"L\""),
            ("0 0 0 15W * *", "\"day of the month\" has \"15W\""),
            ("0 0 0 * * 2#1", "\"day of the week\" has \"2#1\""),
            ("0 0 0 * * 5L", "\"day of the week\" has \"5L\""),
            ("60 0 0 * * *", "\"second\" has \"60\""),
            ("0 60 0 * * *", "\"minute\" has \"60\""),
            ("0 0 24 * * *", "\"hour\" has \"24\""),
            ("0 0 0 0 * *", "\"day of the month\" has \"0\""),
            ("0 0 0 * 13 *", "\"month\" has \"13\""),
            ("0 0 0 * 0 *", "\"month\" has \"0\""),
            ("0 0 Mon * * *", "\"hour\" has \"Mon\""),
            ("0 0 0 * Mon *", "\"month\" has \"Mon\""),
            ("0 0 0 * * Mondays", "\"day of the week\" has \"Mondays\""),
            ("0 0 0 * * Mö", "\"day of the week\" has \"Mö\""),
            ("0 1,,2 * * * *", "\"minute\" has \"\""),
            ("0 ,1 * * * *", "\"minute\" has \"\""),
            ("0 */ * * * *", "\"minute\" has \"*/\""),
            ("0 */-1 * * * *", "\"minute\" has \"*/-1\""),
            ("0 +5 * * * *", "\"minute\" has \"+5\""),
            ("0 1-2-3 * * * *", "\"minute\" has \"1-2-3\""),
            ("0 1/2/3 * * * *", "\"minute\" has \"1/2/3\""),
            ("0 *-5 * * * *", "\"minute\" has \"*-5\""),
            ("0 */99999999999 * * * *", "\"minute\""),
            ("0 5\t* * * *", "five fields"),
            ("0 0 0 31 2 *", "never fires"),
            ("0 0 0 31 4,6,9,11 *", "never fires"),
        ];
        for (text, expected) in cases {
            let error = Schedule::parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = Schedule::parse(&"0 ".repeat(5000)).unwrap_err();
        assert_eq!(error, ScheduleError::TooLong);
    }

    #[test]
    fn an_error_says_what_the_field_takes() {
        let error = Schedule::parse("0 0 0 * * 7").unwrap_err().to_string();
        assert!(
            error.contains("0 to 6 (Sunday to Saturday, or the beginning of a name)"),
            "{error}"
        );
    }

    #[test]
    fn is_shown_as_it_was_written() {
        assert_eq!(
            Schedule::parse(" 0 30 9 * * Mon-Fri").unwrap().to_string(),
            "0 30 9 * * Mon-Fri"
        );
    }

    #[test]
    fn the_smallest_gap_is_exact() {
        const MINUTE: u64 = 60;
        const DAY: u64 = 86_400;
        let cases = [
            ("* * * * * *", 1),
            ("0 0 */1 * * *", 60 * MINUTE),
            ("0 */10 * * * *", 10 * MINUTE),
            // The step starts again at the hour.
            ("0 */7 * * * *", 4 * MINUTE),
            ("0 */9 * * * *", 6 * MINUTE),
            ("0 55,3 * * * *", 8 * MINUTE),
            // Only across midnight, only at a month's end (31 to 1).
            ("0 2,55 0,23 * * *", 7 * MINUTE),
            ("0 2,55 0,23 */2 * *", 7 * MINUTE),
            ("0 2,55 0,23 */2 2 *", 53 * MINUTE),
            ("0 0 6 * * *", DAY),
            ("0 0 6 * * 1", 7 * DAY),
            ("0 0 6 1 * *", 28 * DAY),
            ("0 0 6 29 2 *", 1461 * DAY),
            // A Monday that is 29 February: 28 years, but 12 across some centuries.
            ("0 0 6 29 2 1", 4382 * DAY),
        ];
        for (text, seconds) in cases {
            let gap = Schedule::parse(text).unwrap().smallest_gap();
            assert_eq!(gap, Duration::from_secs(seconds), "{text}");
        }
    }

    /// One item of a field's list, as drawn: how it is written, and what it means.
    #[derive(Clone, Debug)]
    enum Item {
        Any,
        Value(u32),
        Range(u32, u32),
        Step(u32),
        From(u32, u32),
        RangeStep(u32, u32, u32),
    }

    impl Item {
        fn text(&self) -> String {
            match self {
                Self::Any => "*".to_owned(),
                Self::Value(a) => a.to_string(),
                Self::Range(a, b) => format!("{a}-{b}"),
                Self::Step(n) => format!("*/{n}"),
                Self::From(a, n) => format!("{a}/{n}"),
                Self::RangeStep(a, b, n) => format!("{a}-{b}/{n}"),
            }
        }

        fn means(&self, value: u32, min: u32) -> bool {
            let stepped =
                |from: u32, n: u32| value >= from && (value - from).is_multiple_of(n.max(1));
            match *self {
                Self::Any => true,
                Self::Value(a) => value == a,
                Self::Range(a, b) => value >= a.min(b) && value <= a.max(b),
                Self::Step(n) => stepped(min, n),
                Self::From(a, n) => stepped(a, n),
                Self::RangeStep(a, b, n) => stepped(a.min(b), n) && value <= a.max(b),
            }
        }
    }

    const BOUNDS: [(u32, u32); 6] = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];

    fn field((min, max): (u32, u32)) -> impl Strategy<Value = Vec<Item>> {
        let value = move || min..=max;
        let item = prop_oneof![
            4 => Just(Item::Any),
            4 => value().prop_map(Item::Value),
            1 => (value(), value()).prop_map(|(a, b)| Item::Range(a, b)),
            1 => (0..70u32).prop_map(Item::Step),
            1 => (value(), 0..70u32).prop_map(|(a, n)| Item::From(a, n)),
            1 => (value(), value(), 0..9u32).prop_map(|(a, b, n)| Item::RangeStep(a, b, n)),
        ];
        proptest::collection::vec(item, 1..4)
    }

    fn written(fields: &[Vec<Item>]) -> String {
        let list = |items: &Vec<Item>| items.iter().map(Item::text).collect::<Vec<_>>().join(",");
        fields.iter().map(list).collect::<Vec<_>>().join(" ")
    }

    /// Whether field `index` of the schedule allows `value`.
    fn allows(fields: &[Vec<Item>], index: usize, value: u32) -> bool {
        fields[index].iter().any(|item| item.means(value, BOUNDS[index].0))
    }

    fn day_allowed(fields: &[Vec<Item>], day: NaiveDate) -> bool {
        allows(fields, 3, day.day())
            && allows(fields, 4, day.month())
            && allows(fields, 5, day.weekday().num_days_from_sunday())
    }

    fn times(fields: &[Vec<Item>]) -> Vec<NaiveTime> {
        let values = |index: usize| {
            let (min, max) = BOUNDS[index];
            (min..=max).filter(move |value| allows(fields, index, *value))
        };
        let mut times = Vec::new();
        for hour in values(2) {
            for minute in values(1) {
                times.extend(values(0).map(|s| NaiveTime::from_hms_opt(hour, minute, s).unwrap()));
            }
        }
        times
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_next_tick_is_the_first_that_every_field_allows(
            fields in BOUNDS.map(field),
            start in 0..1_900_000_000_i64,
            nanos in prop_oneof![Just(0_u32), 0..1_000_000_000_u32],
        ) {
            let start = Utc.timestamp_opt(start, nanos).unwrap();
            let times = times(&fields);
            // Among 60 years each date falls on each weekday.
            let expected = start.date_naive().iter_days().take(60 * 366)
                .filter(|day| day_allowed(&fields, *day))
                .take(2)
                .flat_map(|day| times.iter().map(move |time| day.and_time(*time).and_utc()))
                .find(|time| *time > start);
            match Schedule::parse(&written(&fields)) {
                Ok(schedule) => prop_assert_eq!(schedule.after(start), expected),
                Err(error) => {
                    prop_assert_eq!(error, ScheduleError::NeverFires);
                    prop_assert_eq!(expected, None);
                }
            }
        }
    }

    proptest! {
        /// What the reader takes, the engine takes too; nothing makes either panic.
        #[test]
        fn any_text_is_read_or_refused(
            text in prop_oneof!["\\PC{0,40}", "([0-9*,/a-z?-]{1,5} ){5}[0-9*,/a-z?-]{1,5}"],
        ) {
            let refused = Schedule::parse(&text).err();
            prop_assert!(!matches!(refused, Some(ScheduleError::Engine(_))), "{refused:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Against every tick of four years; without months and weekdays, which need a longer walk.
        #[test]
        fn the_smallest_gap_is_that_of_a_walk(
            minute in field(BOUNDS[1]), hour in field(BOUNDS[2]), day in field(BOUNDS[3]),
        ) {
            let fields = [vec![Item::Value(0)], minute, hour, day, vec![Item::Any], vec![Item::Any]];
            let seconds: Vec<u64> =
                times(&fields).iter().map(|t| u64::from(t.num_seconds_from_midnight())).collect();
            let first_day = NaiveDate::from_ymd_opt(2023, 1, 1).unwrap();
            let (mut previous, mut smallest) = (None, u64::MAX);
            for (number, day) in (0..).zip(first_day.iter_days().take(4 * 366)) {
                if !day_allowed(&fields, day) {
                    continue;
                }
                for second in &seconds {
                    let now = number * SECONDS_PER_DAY + second;
                    smallest = previous.map_or(smallest, |before| smallest.min(now - before));
                    previous = Some(now);
                }
            }
            let schedule = Schedule::parse(&written(&fields)).unwrap();
            prop_assert_eq!(schedule.smallest_gap(), Duration::from_secs(smallest));
        }
    }
}
