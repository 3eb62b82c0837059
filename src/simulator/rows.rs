//! Strict reading of an ingestion body: what Azure would refuse, and what it would quietly lose.

use std::io::Read;

use chrono::DateTime;
use flate2::read::MultiGzDecoder;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::reply::Refusal;
use crate::table::{ColumnType, From, Table};

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::breach(400, "InvalidPayload", message)
}

/// The body without its gzip, if it has one.
pub(super) fn json(body: &[u8], zipped: bool, max: usize) -> Result<Vec<u8>, Refusal> {
    let mut json = Vec::new();
    let plain: Box<dyn Read + '_> =
        if zipped { Box::new(MultiGzDecoder::new(body)) } else { Box::new(body) };
    plain
        .take(max as u64 + 1)
        .read_to_end(&mut json)
        .map_err(|error| invalid(format!("the body is not gzip: {error}")))?;
    if json.len() > max {
        let message = format!("the body has more than {max} bytes uncompressed");
        return Err(Refusal::breach(413, "ContentLengthLimitExceeded", message));
    }
    Ok(json)
}

/// How many rows there are, without a look into them.
pub(super) fn count(json: &[u8]) -> Result<u64, Refusal> {
    let rows: Vec<IgnoredAny> = serde_json::from_slice(json)
        .map_err(|error| invalid(format!("the body is not a JSON array: {error}")))?;
    Ok(rows.len() as u64)
}

/// The rows, each checked against the table if it is given.
pub(super) fn read(json: &[u8], table: Option<&Table>) -> Result<Vec<Value>, Refusal> {
    let rows: Vec<Map<String, Value>> = serde_json::from_slice(json)
        .map_err(|error| invalid(format!("the body is not a JSON array of objects: {error}")))?;
    if let Some(table) = table {
        for (at, row) in rows.iter().enumerate() {
            check(table, row).map_err(|fault| invalid(format!("row {at}: {fault}")))?;
        }
    }
    Ok(rows.into_iter().map(Value::Object).collect())
}

fn check(table: &Table, row: &Map<String, Value>) -> Result<(), String> {
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    if DateTime::parse_from_rfc3339(text("TimeGenerated")).is_err() {
        return Err("TimeGenerated is not a time".to_owned());
    }
    for column in table.columns.iter().filter(|column| column.from == From::Id) {
        let id = text(column.name);
        if id.len() != 32 || !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format!("{} is not 128 bits in lower-case hex", column.name));
        }
    }
    for (name, value) in row {
        let Some(column) = table.columns.iter().find(|column| column.name == name) else {
            return Err(format!("{name} is no column of the table, and would be lost"));
        };
        if !fits(column.stream_type, value) {
            let kind = column.stream_type;
            return Err(format!("{name} does not fit its type {kind:?}, and would become null"));
        }
    }
    Ok(())
}

fn fits(kind: ColumnType, value: &Value) -> bool {
    match (kind, value) {
        (_, Value::Null) | (ColumnType::Dynamic, _) => true,
        (ColumnType::String, value) => value.is_string(),
        (ColumnType::Int, value) => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        (ColumnType::Long, value) => value.is_i64(),
        (ColumnType::Real, value) => value.is_number(),
        (ColumnType::Boolean, value) => value.is_boolean(),
        (ColumnType::Datetime, value) => {
            value.as_str().is_some_and(|text| DateTime::parse_from_rfc3339(text).is_ok())
        }
    }
}
