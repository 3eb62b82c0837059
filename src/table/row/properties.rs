//! What holds for every line. A failure prints its input; `PROPTEST_RNG_SEED` tries other ones.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value};

use super::*;
use crate::table::{CLOUD_INTEGRATED, Column};

fn config() -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if matches!(config.rng_seed, RngSeed::Random) {
        config.rng_seed = RngSeed::Fixed(20_241_127);
    }
    config
}

fn write(line: &[u8]) -> Result<Vec<u8>, RejectReason> {
    let arrival = DateTime::from_timestamp_millis(1_772_600_767_089).unwrap();
    let mut out = b"[".to_vec();
    match CLOUD_INTEGRATED.write_row(line, EventId::of(line), arrival, &mut out) {
        Ok(_) => Ok(out.split_off(1)),
        Err(reason) => {
            assert_eq!(out, b"[", "a rejected line leaves nothing behind");
            Err(reason)
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        (900_000_000_000_i64..4_200_000_000_000).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((any::<String>(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Names of fields, of our own columns, and any others.
fn key() -> impl Strategy<Value = String> {
    let known: Vec<String> = CLOUD_INTEGRATED
        .columns
        .iter()
        .flat_map(|column| match column.from {
            From::Field(field) => vec![field, column.name],
            _ => vec![column.name],
        })
        .map(String::from)
        .collect();
    prop_oneof![4 => proptest::sample::select(known), 1 => any::<String>()]
}

fn event() -> impl Strategy<Value = Map<String, Value>> {
    vec((key(), value()), 0..30).prop_map(|fields| fields.into_iter().collect())
}

/// JSON text of the event, its top-level keys written in escapes where `escaped` says so.
fn line_of(event: &Map<String, Value>, escaped: bool) -> String {
    let fields = event.iter().map(|(key, value)| {
        let escapes = || key.encode_utf16().map(|unit| format!("\\u{unit:04X}"));
        let key = match escaped {
            true => format!("\"{}\"", escapes().collect::<String>()),
            false => Value::from(key.as_str()).to_string(),
        };
        format!("{key}: {value}")
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(" ,"))
}

fn column_of(field: &str) -> Option<&'static Column> {
    let takes = |column: &&Column| matches!(column.from, From::Field(name) if name == field);
    CLOUD_INTEGRATED.columns.iter().find(takes)
}

fn is_of(column: ColumnType, value: &Value) -> bool {
    match column {
        ColumnType::String => value.is_string(),
        ColumnType::Int => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        ColumnType::Long => value.is_i64(),
        ColumnType::Real => value.is_number(),
        ColumnType::Boolean => value.is_boolean(),
        ColumnType::Dynamic => true,
        ColumnType::Datetime => false,
    }
}

/// Pieces of JSON that make, put together at random, lines that are almost events.
fn almost_json() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 28] = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\\u",
        "\\ud83d",
        "\\ude00",
        "\\\"",
        " ",
        "\r",
        "null",
        "true",
        "1",
        "-1.5e3",
        "\"a\"",
        "\"a\":",
        "\"subject\":",
        "\"timestamp\":",
        "{\"a\":",
        "{\"tags\":[",
        "1700000000000",
        "\"\\ud800\"",
        "é",
        "\u{2028}",
    ];
    vec(proptest::sample::select(&PIECES[..]), 0..24)
        .prop_map(|pieces| pieces.concat().into_bytes())
}

/// Checks a line against `serde_json`'s own reader of values, which knows surrogates and depth.
fn agrees_with_serde_json(line: &[u8]) {
    let parsed = serde_json::from_slice::<Value>(line);
    match (write(line), parsed) {
        (Ok(row), Ok(event)) => {
            assert!(event.is_object());
            serde_json::from_slice::<Value>(&row).unwrap();
            assert!(!row.contains(&b'\n') || line.contains(&b'\n'));
        }
        // The one thing that is JSON and that it refuses: its numbers are of 64 bits.
        (Ok(_), Err(error)) => {
            assert!(error.to_string().contains("number out of range"), "{error}")
        }
        (Err(RejectReason::NotObject), Ok(event)) => assert!(!event.is_object()),
        (Err(reason), Ok(_)) => assert_eq!(reason, RejectReason::DuplicateKey),
        (Err(_), Err(_)) => {}
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_field_is_in_the_row_once(event in event(), escaped: bool) {
        let line = line_of(&event, escaped);
        // Read back, since serde_json may round a float that it wrote.
        let event: Map<String, Value> = serde_json::from_str(&line).unwrap();
        let row = write(line.as_bytes()).unwrap();
        // A row is JSON without duplicate keys: the writer itself takes it for an event.
        prop_assert!(write(&row).is_ok());
        let mut row: Map<String, Value> = serde_json::from_slice(&row).unwrap();
        let mut rest = match row.remove("AdditionalFields") {
            Some(Value::Object(rest)) => rest,
            None => Map::new(),
            Some(other) => panic!("AdditionalFields is {other}"),
        };
        for ours in ["TimeGenerated", "EventTime", "EventId"] {
            row.remove(ours);
        }
        for (field, value) in &event {
            let found = match column_of(field) {
                Some(_) if value.is_null() => continue,
                Some(column) if is_of(column.stream_type, value) => row.remove(column.name),
                _ => rest.remove(field),
            };
            prop_assert_eq!(found.as_ref(), Some(value), "{}", field);
        }
        prop_assert!(row.is_empty() && rest.is_empty(), "{:?} {:?}", row, rest);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(line in vec(any::<u8>(), 0..200)) {
        agrees_with_serde_json(&line);
    }

    #[test]
    fn almost_json_does_no_harm(line in almost_json()) {
        agrees_with_serde_json(&line);
    }

    #[test]
    fn mutated_events_do_no_harm(
        event in event(),
        escaped: bool,
        changes in vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4), 1..6),
    ) {
        let mut line = line_of(&event, escaped).into_bytes();
        for (place, byte, kind) in changes {
            let at = place.index(line.len() + 1);
            match kind {
                0 => line.insert(at, byte),
                1 => line.truncate(at),
                2 => line.extend_from_within(at..),
                _ => drop(line.drain(at..(at + 1).min(line.len()))),
            }
        }
        agrees_with_serde_json(&line);
    }
}
