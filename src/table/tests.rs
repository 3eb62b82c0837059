//! Tables of another kind than Mimecast's.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::*;

/// It knows no event's time, and has fields whose names are short and long.
static SIGHTINGS: Table = Table::new("Sightings_CL", "Custom-Sightings", None, SIGHTINGS_COLUMNS);

const SIGHTINGS_COLUMNS: &[Column] = &[
    column("SeenAt", ColumnType::Datetime, From::TimeOrArrival),
    column("EventId", ColumnType::String, From::Id),
    column("Seen", ColumnType::Datetime, From::Field("seen")),
    column("Legs", ColumnType::Int, From::Field("legs")),
    column("Latitude", ColumnType::Real, From::Field("latitude")),
    column("X", ColumnType::String, From::Field("x")),
    column("Y", ColumnType::String, From::Field("y")),
    column("Url", ColumnType::String, From::Field("url")),
    column("SightingsOnPlaceOne", ColumnType::String, From::Field("sightingsOnPlaceOne")),
    column("SightingsOnPlaceTwo", ColumnType::String, From::Field("sightingsOnPlaceTwo")),
    column("Long", ColumnType::String, From::Field(LONG)),
    column("Others", ColumnType::Dynamic, From::Rest),
];

/// Its event's time is text.
static RINGS: Table = Table::new("Rings_CL", "Custom-Rings", Some("at"), RINGS_COLUMNS);

const RINGS_COLUMNS: &[Column] = &[
    column("RungOrHeard", ColumnType::Datetime, From::TimeOrArrival),
    column("Rung", ColumnType::Datetime, From::Time),
    column("EventId", ColumnType::String, From::Id),
    column("AsGiven", ColumnType::Datetime, From::Field("at")),
    column("Others", ColumnType::Dynamic, From::Rest),
];

/// A name of 256 bytes.
const LONG: &str = match str::from_utf8(&[b'l'; 256]) {
    Ok(name) => name,
    Err(_) => panic!(),
};

const fn column(name: &'static str, column_type: ColumnType, from: From) -> Column {
    Column::new(name, column_type, from, "")
}

const ARRIVAL: &str = "2026-03-04T05:06:07.089Z";

fn written(table: &Table, line: &str) -> (String, Row) {
    let (id, arrival) = (EventId::of(line.as_bytes()), ARRIVAL.parse::<DateTime<Utc>>().unwrap());
    let mut out = Vec::new();
    let row = table.write_row(line.as_bytes(), id, arrival, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), row)
}

fn write(line: &str) -> String {
    written(&SIGHTINGS, line).0
}

/// Whether the line's only field is in this column, as it stands.
fn is_column(column: &str, value: &str, line: &str) -> bool {
    write(line).starts_with(&format!(r#"{{"{column}":{value},"SeenAt""#))
}

fn is_other_field(line: &str) -> bool {
    write(line).ends_with(&format!(r#","Others":{line}}}"#))
}

#[test]
fn only_an_integer_of_32_bits_is_an_int() {
    for fits in ["0", "-1", "2147483647", "-2147483648"] {
        assert!(is_column("Legs", fits, &format!(r#"{{"legs":{fits}}}"#)), "{fits}");
    }
    for other in ["2147483648", "-2147483649", "4.0", "4e0", "\"4\"", "true", "[4]", "{}"] {
        assert!(is_other_field(&format!(r#"{{"legs":{other}}}"#)), "{other}");
    }
}

#[test]
fn a_real_is_any_number_that_azure_can_keep() {
    for fits in ["0", "-0.0", "52.520", "1E-2", "-12345678901234567890", "0.1000000000000000055"] {
        assert!(is_column("Latitude", fits, &format!(r#"{{"latitude":{fits}}}"#)), "{fits}");
    }
    for other in ["1e400", "-1e400", "\"52.52\"", "\"NaN\"", "false", "[1.5]", "{}"] {
        assert!(is_other_field(&format!(r#"{{"latitude":{other}}}"#)), "{other}");
    }
}

#[test]
fn int_and_real_have_azures_names() {
    let types = |description: &Value, list: &str, key: &str| -> Vec<Value> {
        let columns = description[list].as_array().unwrap();
        columns[3..5].iter().map(|column| column[key].clone()).collect()
    };
    let expected = [json!("int"), json!("real")];
    let stream = &SIGHTINGS.rule()["streamDeclarations"]["Custom-Sightings"];
    assert_eq!(types(stream, "columns", "type"), expected);
    assert_eq!(types(&SIGHTINGS.schema(), "columns", "type"), expected);
    assert_eq!(types(&SIGHTINGS.kusto_schema(), "Properties", "Type"), expected);
}

#[test]
fn a_fields_name_may_have_any_length() {
    for (position, column) in SIGHTINGS.columns.iter().enumerate() {
        if let From::Field(field) = column.from {
            assert_eq!(SIGHTINGS.column_of(field.as_bytes()), Some(position), "{field}");
        }
    }
    let event = json!({
        "x": "a",
        "url": "b",
        "sightingsOnPlaceTwo": "c",
        LONG: "d",
        "sightingsOnPlaceTen": "e",
        "": "f",
        "z": "g",
        "xx": "h",
    });
    let mut row: Value = serde_json::from_str(&write(&event.to_string())).unwrap();
    for ours in ["SeenAt", "EventId"] {
        row.as_object_mut().unwrap().remove(ours);
    }
    let others = json!({ "sightingsOnPlaceTen": "e", "": "f", "z": "g", "xx": "h" });
    let expected = json!({
        "X": "a",
        "Url": "b",
        "SightingsOnPlaceTwo": "c",
        "Long": "d",
        "Others": others,
    });
    assert_eq!(row, expected);
}

#[test]
fn only_a_time_is_a_datetime() {
    for fits in
        ["2026-03-04T05:06:07Z", "0001-01-01T00:00:00Z", "2026-03-04T05:06:07.1234567+02:00"]
    {
        assert!(is_column("Seen", &format!("\"{fits}\""), &format!(r#"{{"seen":"{fits}"}}"#)));
    }
    for other in ["\"\"", "\"yesterday\"", "\"2026-03-04T05:06:07\"", "1731000000123", "true"] {
        assert!(is_other_field(&format!(r#"{{"seen":{other}}}"#)), "{other}");
    }
}

#[test]
fn without_a_time_field_the_time_is_that_of_arrival() {
    for line in ["{}", r#"{"seen":"2024-11-07T17:20:00Z"}"#, r#"{"timestamp":1731000000123}"#] {
        let (row, said) = written(&SIGHTINGS, line);
        assert!(row.contains(&format!(r#""SeenAt":"{ARRIVAL}""#)), "{row}");
        assert_eq!(said.event_time_ms, None);
    }
}

#[test]
fn the_events_time_may_be_text_and_its_columns_have_any_names() {
    for (given, shown) in [
        ("2024-11-07T17:20:00.123Z", "2024-11-07T17:20:00.123Z"),
        ("2024-11-07T19:20:00.1239999+02:00", "2024-11-07T17:20:00.123Z"),
    ] {
        let line = format!(r#"{{"at":"{given}"}}"#);
        let (row, said) = written(&RINGS, &line);
        let id = EventId::of(line.as_bytes());
        let expected = format!(
            r#"{{"AsGiven":"{given}","RungOrHeard":"{shown}","Rung":"{shown}","EventId":"{id}"}}"#
        );
        assert_eq!(row, expected);
        assert_eq!(said.event_time_ms, Some(1_731_000_000_123));
    }
    for unusable in
        ["\"0001-01-01T00:00:00Z\"", "\"2100-01-01T00:00:00Z\"", "1731000000123", "null"]
    {
        let (row, said) = written(&RINGS, &format!(r#"{{"at":{unusable}}}"#));
        assert!(row.contains(&format!(r#""RungOrHeard":"{ARRIVAL}","EventId""#)), "{row}");
        assert_eq!(said.event_time_ms, None);
    }
}

#[test]
fn a_table_that_azure_would_not_take_or_that_would_lose_something_is_none() {
    const TIME: Column = column("T", ColumnType::Datetime, From::TimeOrArrival);
    const FIELD: Column = column("F", ColumnType::Long, From::Field("f"));
    const REST: Column = column("R", ColumnType::Dynamic, From::Rest);
    const fn named(name: &'static str) -> Column {
        column(name, ColumnType::Long, From::Field("g"))
    }
    let refusal = |time_field, columns: Vec<Column>| {
        let columns: &'static [Column] = columns.leak();
        let made = std::panic::catch_unwind(|| Table::new("A_CL", "Custom-A", time_field, columns));
        made.err().map(|why| *why.downcast::<&str>().unwrap())
    };
    assert_eq!(refusal(None, vec![TIME, REST]), None);
    assert_eq!(refusal(Some("f"), vec![TIME, FIELD, REST]), None);

    let our_own_behind = column("E", ColumnType::String, From::Id);
    let id_that_is_long = column("E", ColumnType::Long, From::Id);
    let time = column("E", ColumnType::Datetime, From::Time);
    let same_field = column("E", ColumnType::Long, From::Field("f"));
    let no_name = column("E", ColumnType::Long, From::Field(""));
    let text = column("E", ColumnType::String, From::Field("e"));
    let too_many = || (0..63).map(|n| named(format!("C{n}").leak()));
    for (time_field, columns, why) in [
        (None, vec![REST], "2 to 64 columns"),
        (None, [TIME].into_iter().chain(too_many()).chain([REST]).collect(), "2 to 64 columns"),
        (None, vec![FIELD, REST], "the time comes first"),
        (None, vec![TIME, FIELD], "the rest comes last"),
        (None, vec![TIME, REST, FIELD], "the rest comes last"),
        (None, vec![TIME, FIELD, our_own_behind, REST], "columns of our own stand before"),
        (None, vec![TIME, id_that_is_long, REST], "the id a string"),
        (None, vec![TIME, FIELD, same_field, REST], "two columns take one field"),
        (None, vec![TIME, no_name, REST], "a field's name has a byte"),
        (None, vec![TIME, FIELD, named("f"), REST], "two columns have the same name"),
        (None, vec![TIME, named(""), REST], "a name has 1 to 45 characters"),
        (None, vec![TIME, named("A".repeat(46).leak()), REST], "a name has 1 to 45 characters"),
        (None, vec![TIME, named("_a"), REST], "a name begins with a letter"),
        (None, vec![TIME, named("a\"b"), REST], "a name has letters, digits and _"),
        (None, vec![TIME, named("tenantid"), REST], "a name is reserved"),
        (None, vec![TIME, time, REST], "there is no time field"),
        (Some("g"), vec![TIME, FIELD, REST], "the time field has a column"),
        (Some("e"), vec![TIME, text, REST], "the time field is a long or a datetime"),
    ] {
        let refusal = refusal(time_field, columns).expect(why);
        assert!(refusal.contains(why), "{refusal}, not {why}");
    }
}
