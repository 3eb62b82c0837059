//! A schedule fires when a reader of NCRONTAB that goes through all values says so; its gap is a
//! bound of what is seen.
//!
//! The first five bytes are the time at which the first tick is looked for.
#![no_main]

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};
use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::schedule::{Schedule, ScheduleError};

const BOUNDS: [(u32, u32); 6] = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
const MONTHS: &str = "JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER \
                      DECEMBER";
const WEEKDAYS: &str = "SUNDAY MONDAY TUESDAY WEDNESDAY THURSDAY FRIDAY SATURDAY";

fuzz_target!(|input: &[u8]| {
    let Some((&[a, b, c, d, fraction], text)) = input.split_first_chunk() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let expected = Slow::read(text);
    let schedule = match Schedule::parse(text) {
        Ok(schedule) => schedule,
        Err(ScheduleError::NeverFires) => {
            assert_eq!(expected.expect("a schedule").first_day(day_of(0)), None);
            return;
        }
        Err(ScheduleError::Engine(said)) => panic!("the engine refuses what was read: {said}"),
        Err(_) => return assert!(expected.is_none(), "{text:?} is refused"),
    };
    let expected = expected.unwrap_or_else(|| panic!("{text:?} is taken"));
    assert_eq!(schedule.to_string(), text.trim_matches(' '));

    let start = i64::from(u32::from_le_bytes([a, b, c, d]));
    let mut time = DateTime::<Utc>::from_timestamp(start, u32::from(fraction) << 20).unwrap();
    let mut previous: Option<DateTime<Utc>> = None;
    for _ in 0..4 {
        let next = schedule.after(time);
        let slow = expected.after(time);
        // The engine's calendar ends there.
        let Some(next) = next else {
            assert!(slow.is_none_or(|time| time.year() > 2099), "{text:?}: none, not {slow:?}");
            break;
        };
        assert!(next > time);
        assert_eq!(Some(next), slow, "{text:?} after {time}");
        if let Some(previous) = previous {
            let gap = (next - previous).to_std().unwrap();
            assert!(gap >= schedule.smallest_gap(), "{text:?}: {gap:?}");
        }
        (previous, time) = (Some(next), next);
    }
});

fn day_of(seconds: i64) -> NaiveDate {
    DateTime::from_timestamp(seconds, 0).unwrap().date_naive()
}

/// For each field, whether it allows each of its values.
struct Slow([Vec<u32>; 6]);

impl Slow {
    fn read(text: &str) -> Option<Self> {
        let text = text.trim_matches(' ');
        let fields: Vec<&str> = text.split(' ').filter(|field| !field.is_empty()).collect();
        if text.len() > 512 || fields.len() != 6 {
            return None;
        }
        let mut allowed: [Vec<u32>; 6] = Default::default();
        for (index, allowed) in allowed.iter_mut().enumerate() {
            let (min, max) = BOUNDS[index];
            let items: Option<Vec<_>> =
                fields[index].split(',').map(|item| Item::read(item, index)).collect();
            let items = items?;
            allowed.extend((min..=max).filter(|value| items.iter().any(|item| item.has(*value))));
        }
        Some(Self(allowed))
    }

    fn first_day(&self, from: NaiveDate) -> Option<NaiveDate> {
        let fires = |day: &NaiveDate| {
            self.0[3].contains(&day.day())
                && self.0[4].contains(&day.month())
                && self.0[5].contains(&day.weekday().num_days_from_sunday())
        };
        // Among 60 years each date falls on each weekday.
        from.iter_days().take(60 * 366).find(fires)
    }

    fn after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut day = time.date_naive();
        loop {
            day = self.first_day(day)?;
            for &hour in &self.0[2] {
                for &minute in &self.0[1] {
                    for &second in &self.0[0] {
                        let tick = NaiveTime::from_hms_opt(hour, minute, second).unwrap();
                        let tick = day.and_time(tick).and_utc();
                        if tick > time {
                            return Some(tick);
                        }
                    }
                }
            }
            day = day.succ_opt()?;
        }
    }
}

struct Item {
    first: u32,
    last: u32,
    step: u32,
}

impl Item {
    fn read(text: &str, field: usize) -> Option<Self> {
        let (min, max) = BOUNDS[field];
        let mut parts = text.split('/');
        let base = parts.next()?;
        let step = parts.next().map(|step| digits(step).ok_or(())).transpose().ok()?;
        if parts.next().is_some() {
            return None;
        }
        let mut ends = base.split('-').map(|end| value(end, field));
        let (first, last) = match (base, base.matches('-').count()) {
            ("*", _) => (min, max),
            (_, 0) => {
                let first = ends.next()??;
                (first, if step.is_some() { max } else { first })
            }
            (_, 1) => {
                let (a, b) = (ends.next()??, ends.next()??);
                (a.min(b), a.max(b))
            }
            _ => return None,
        };
        Some(Self { first, last, step: step.unwrap_or(1).max(1) })
    }

    fn has(&self, value: u32) -> bool {
        (self.first..=self.last).contains(&value) && (value - self.first) % self.step == 0
    }
}

fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

fn value(text: &str, field: usize) -> Option<u32> {
    let (min, max) = BOUNDS[field];
    let names = match field {
        4 => MONTHS,
        5 => WEEKDAYS,
        _ => "",
    };
    let named = || {
        let upper = text.to_ascii_uppercase();
        let begins = |name: &str| !upper.is_empty() && name.starts_with(&upper);
        names.split_whitespace().position(begins).map(|at| min + at as u32)
    };
    digits(text).or_else(named).filter(|value| (min..=max).contains(value))
}
