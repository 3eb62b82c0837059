//! A line becomes the row, byte for byte, that a slow reader makes of it, or is refused for the
//! same reason.
#![no_main]

use chrono::DateTime;
use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::table::{CLOUD_INTEGRATED, ColumnType, EventId, From, RejectReason};
use mimecast_sentinel_fuzz::has_serde_jsons_own_key;
use mimecast_sentinel_fuzz::json::{Shape, Value, parse};

const ARRIVAL_MS: i64 = 1_772_600_767_089;
const MAX_DEPTH: usize = 128;
const MAX_COLUMN_BYTES: usize = 65_536;

fuzz_target!(|input: &[u8]| {
    let line = grown(input);
    // The slow reader goes down by recursion.
    if line.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() > 1_000 {
        return;
    }
    let id = EventId::of(&line);
    let arrival = DateTime::from_timestamp_millis(ARRIVAL_MS).unwrap();
    let mut out = b"before".to_vec();
    let written = CLOUD_INTEGRATED.write_row(&line, id, arrival, &mut out);
    assert!(out.starts_with(b"before"));
    let row = &out[6..];
    match (written, expected(&line, &id.to_string())) {
        (Ok(said), Ok(expected)) => {
            assert_eq!(String::from_utf8_lossy(row), expected.row);
            assert_eq!(said.event_time_ms, expected.time);
            assert_eq!(said.oversize, expected.oversize);
            assert!(parse(&expected.row).is_some(), "the row is JSON");
            // What has no column is one level deeper in the row.
            let deepest = expected.depth == MAX_DEPTH;
            // Others read it too; what serde_json alone does not take is a number beyond f64.
            if let Err(error) = serde_json::from_slice::<serde_json::Value>(row) {
                let error = error.to_string();
                let deep = deepest && error.contains("recursion limit exceeded");
                let own = has_serde_jsons_own_key(row);
                assert!(deep || own || error.contains("number out of range"), "{error}");
            }
            let again = CLOUD_INTEGRATED.write_row(row, id, arrival, &mut Vec::new());
            let too_deep = deepest && again == Err(RejectReason::TooDeep);
            assert!(again.is_ok() || too_deep, "a row is {again:?}");
        }
        (Err(reason), Err(expected)) => {
            assert!(expected.contains(&reason), "{reason:?}, not {expected:?}");
            assert!(row.is_empty(), "a refused line leaves nothing behind");
        }
        (written, expected) => panic!("{written:?}, but {:?}", expected.map(|row| row.row)),
    }
});

/// Replaces a few bytes that no JSON has with what is long or deep, which fuzzing rarely finds.
fn grown(input: &[u8]) -> Vec<u8> {
    let mut line = Vec::new();
    let mut left = 3;
    for &byte in input {
        let (piece, times): (&[u8], _) = match byte {
            1 => (b"x", 65_530),
            2 => (b"\\u00e9", 10_000),
            3 => (b"[", 120),
            4 => (b"]", 120),
            5 => (b"{\"a\":", 120),
            6 => (b"}", 120),
            _ => {
                line.push(byte);
                continue;
            }
        };
        if left > 0 {
            line.extend(piece.repeat(times));
        }
        left -= i32::from(byte < 3);
    }
    line
}

struct Expected {
    row: String,
    depth: usize,
    time: Option<i64>,
    oversize: Vec<&'static str>,
}

/// The row, or the possible reasons, one of which must be given.
fn expected(line: &[u8], id: &str) -> Result<Expected, Vec<RejectReason>> {
    let text = std::str::from_utf8(line).map_err(|_| vec![RejectReason::InvalidUtf8])?;
    let event = parse(text).ok_or(vec![RejectReason::NotJson])?;
    let Shape::Object(fields) = &event.shape else {
        return Err(vec![RejectReason::NotObject]);
    };
    if event.any(&Value::has_half_a_character) {
        return Err(vec![RejectReason::LoneSurrogate]);
    }
    let mut reasons = Vec::new();
    if event.depth() > MAX_DEPTH {
        reasons.push(RejectReason::TooDeep);
    }
    if event.any(&Value::repeats_a_key) {
        reasons.push(RejectReason::DuplicateKey);
    }
    if !reasons.is_empty() {
        return Err(reasons);
    }
    Ok(row(fields, event.depth(), id))
}

fn row(fields: &[(Value<'_>, Value<'_>)], depth: usize, id: &str) -> Expected {
    let value_of = |name: &str| {
        let named = fields.iter().find(|(key, _)| key.string().as_deref() == Some(name));
        named.map(|(_, value)| value)
    };
    let time = CLOUD_INTEGRATED
        .time_field
        .and_then(value_of)
        .and_then(whole)
        .filter(|ms| (946_684_800_000..4_102_444_800_000).contains(ms));
    let (mut columns, mut taken, mut oversize) = (Vec::new(), Vec::new(), Vec::new());
    for column in CLOUD_INTEGRATED.columns {
        // Columns of fields are in the order of their fields, and ours follow.
        let place = fields.iter().position(|(key, _)| {
            matches!(column.from, From::Field(name) if key.string().as_deref() == Some(name))
        });
        let place = place.unwrap_or(fields.len());
        let value = match column.from {
            From::TimeOrArrival => Some(shown(time.unwrap_or(ARRIVAL_MS))),
            From::Time => time.map(shown),
            From::Id => Some(format!("\"{id}\"")),
            From::Field(name) => {
                value_of(name).filter(|v| is(column.stream_type, v)).and_then(|v| {
                    taken.push(name);
                    (v.text != "null").then(|| {
                        if length(column.stream_type, v) > MAX_COLUMN_BYTES {
                            oversize.push((place, column.name));
                        }
                        v.text.to_owned()
                    })
                })
            }
            From::Rest => {
                let rest = fields.iter().filter(|(key, _)| {
                    key.string().is_none_or(|name| !taken.contains(&name.as_str()))
                });
                let rest: Vec<String> =
                    rest.map(|(key, value)| format!("{}:{}", key.text, value.text)).collect();
                let rest = format!("{{{}}}", rest.join(","));
                if rest.len() > MAX_COLUMN_BYTES {
                    oversize.push((place, column.name));
                }
                (rest != "{}").then_some(rest)
            }
        };
        columns.extend(value.map(|value| (place, format!("\"{}\":{value}", column.name))));
    }
    let columns = in_order(columns).join(",");
    Expected { row: format!("{{{columns}}}"), depth, time, oversize: in_order(oversize) }
}

fn in_order<T>(mut placed: Vec<(usize, T)>) -> Vec<T> {
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, it)| it).collect()
}

/// Whether a column takes the value; `null` is for each a value that is not there.
fn is(column: ColumnType, value: &Value<'_>) -> bool {
    value.text == "null"
        || match column {
            ColumnType::String => value.string().is_some(),
            ColumnType::Int => whole(value).is_some_and(|number| i32::try_from(number).is_ok()),
            ColumnType::Long => whole(value).is_some(),
            ColumnType::Real => value.text.parse().is_ok_and(f64::is_finite),
            ColumnType::Boolean => ["true", "false"].contains(&value.text),
            ColumnType::Dynamic => true,
            ColumnType::Datetime => false,
        }
}

fn whole(value: &Value<'_>) -> Option<i64> {
    let plain = matches!(value.shape, Shape::Plain);
    plain.then(|| value.text.parse().ok())?
}

fn length(column: ColumnType, value: &Value<'_>) -> usize {
    match value.string() {
        Some(text) if column == ColumnType::String => text.len(),
        _ => value.text.len(),
    }
}

fn shown(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms).unwrap();
    format!("\"{}\"", time.format("%Y-%m-%dT%H:%M:%S%.3fZ"))
}
