//! One event to one row.

use std::ops::Range;

use chrono::{DateTime, Datelike, Timelike, Utc};

use super::column_start::ColumnStart;
use super::json::{JsonString, read_fields, repeats};
use super::{ColumnType, EventId, From, Table};

/// What Azure keeps of one column's value, in UTF-8 bytes; it cuts the rest without a word (64 KB
/// in the Azure Monitor service limits, Logs Ingestion API).
pub const MAX_COLUMN_BYTES: usize = 65_536;

/// The times in milliseconds that are taken as an event's: 2000-01-01 up to 2100-01-01. Zero,
/// negative numbers and seconds lie outside.
const USABLE_TIME: Range<i64> = 946_684_800_000..4_102_444_800_000;

const NULL: &str = "null";

/// What [`Table::write_row`] says of the row it wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// The event's time in milliseconds since 1970, if it has a usable one.
    pub event_time_ms: Option<i64>,
    /// Columns whose value is over [`MAX_COLUMN_BYTES`].
    pub oversize: Vec<&'static str>,
}

/// Why a line is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RejectReason {
    /// Not JSON at all; also an empty line, or one that begins with a byte order mark.
    #[error("the line is not JSON")]
    NotJson,
    /// JSON, but an array, a string, a number, a boolean or null.
    #[error("the line is JSON, but not an object")]
    NotObject,
    /// Bytes that are not UTF-8.
    #[error("the line is not UTF-8")]
    InvalidUtf8,
    /// An escape such as `\ud800` that is half of a character.
    #[error("the line has an escaped surrogate without its other half")]
    LoneSurrogate,
    /// The same key twice in one object, at any level, however it is escaped.
    #[error("an object in the line has the same key twice")]
    DuplicateKey,
    /// Nested more than 128 levels deep, counting the event itself.
    #[error("the line is nested more than 128 levels deep")]
    TooDeep,
}

impl RejectReason {
    /// The reason's name in quarantine records; it does not change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not-json",
            Self::NotObject => "not-object",
            Self::InvalidUtf8 => "invalid-utf8",
            Self::LoneSurrogate => "lone-surrogate",
            Self::DuplicateKey => "duplicate-key",
            Self::TooDeep => "too-deep",
        }
    }
}

impl Table {
    /// Writes the row for `line` to the end of `out`, as one JSON object without a line feed of its
    /// own; on an error `out` is as it was.
    ///
    /// Values are copied as they stand, so that no digit and no escape changes. Each field of the
    /// event is in the row once: in its column, or under its own name in the [`From::Rest`] column.
    /// Columns without a value are left out.
    ///
    /// # Errors
    /// Why the line is not an event, in this order if it has several faults: UTF-8, JSON, object,
    /// surrogates; then depth or duplicate keys.
    pub fn write_row(
        &self,
        line: &[u8],
        id: EventId,
        arrival: DateTime<Utc>,
        out: &mut Vec<u8>,
    ) -> Result<Row, RejectReason> {
        let fields = Fields::read(self, line)?;
        let event_time = self
            .column_of(self.time_field)
            .and_then(|column| fields.values[column]?.parse().ok())
            .filter(|ms| USABLE_TIME.contains(ms))
            .and_then(DateTime::from_timestamp_millis);
        let time = iso_8601_ms(event_time.unwrap_or(arrival));

        let mut oversize = Vec::new();
        let row = out.len();
        // About what a row has more than its line.
        out.reserve(line.len() + 256);
        let columns = self.columns.iter().zip(&self.starts);
        for ((column, start), value) in columns.zip(&fields.values) {
            match column.from {
                From::TimeOrArrival => write_text(out, start, &time),
                From::Time if event_time.is_none() => {}
                From::Time => write_text(out, start, &time),
                From::Id => write_text(out, start, &id.hex()),
                From::Field(_) => {
                    if let Some(raw) = value.filter(|raw| *raw != NULL) {
                        out.extend_from_slice(start.bytes());
                        out.extend_from_slice(raw.as_bytes());
                        if is_oversize(column.stream_type, raw) {
                            oversize.push(column.name);
                        }
                    }
                }
                From::Rest => {
                    if write_rest(out, start, &fields.rest) > MAX_COLUMN_BYTES {
                        oversize.push(column.name);
                    }
                }
            }
        }
        // The first column's comma.
        out[row] = b'{';
        out.push(b'}');
        Ok(Row { event_time_ms: event_time.map(|time| time.timestamp_millis()), oversize })
    }
}

/// An event's fields, as they stand in its line.
struct Fields<'a> {
    /// By column: the value of its field if that fits; else, if the event has the field, `null`.
    values: [Option<&'a str>; Table::MAX_COLUMNS],
    /// Keys and values of the fields that no column takes.
    rest: Vec<(JsonString<'a>, &'a str)>,
    /// Whether a field that has a column came twice.
    repeated: bool,
}

impl<'a> Fields<'a> {
    fn read(table: &Table, line: &'a [u8]) -> Result<Self, RejectReason> {
        let values = [None; Table::MAX_COLUMNS];
        let mut fields = Self { values, rest: Vec::new(), repeated: false };
        read_fields(line, |key, value| fields.add(table, key, value))?;
        let mut others: Vec<_> = fields.rest.iter().filter_map(|(key, _)| key.text()).collect();
        if fields.repeated || repeats(&mut others) {
            return Err(RejectReason::DuplicateKey);
        }
        Ok(fields)
    }

    fn add(&mut self, table: &Table, key: JsonString<'a>, raw: &'a str) {
        let column = key.text().and_then(|name| table.column_of(&name));
        let Some(column) = column else {
            return self.rest.push((key, raw));
        };
        let fits = raw == NULL || fits(table.columns[column].stream_type, raw);
        if !fits {
            self.rest.push((key, raw));
        }
        let before = self.values[column].replace(if fits { raw } else { NULL });
        self.repeated |= before.is_some();
    }
}

/// Whether a JSON value is of a column's type.
fn fits(column: ColumnType, raw: &str) -> bool {
    match column {
        ColumnType::String | ColumnType::Datetime => raw.starts_with('"'),
        ColumnType::Long => raw.parse::<i64>().is_ok(),
        ColumnType::Boolean => matches!(raw, "true" | "false"),
        ColumnType::Dynamic => true,
    }
}

/// Whether Azure would cut a value: a string counts unescaped, a dynamic as its JSON text.
fn is_oversize(column: ColumnType, raw: &str) -> bool {
    // An escape is never shorter than what it stands for.
    if raw.len() <= MAX_COLUMN_BYTES {
        return false;
    }
    match column {
        ColumnType::Dynamic => true,
        _ => serde_json::from_str::<String>(raw).is_ok_and(|text| text.len() > MAX_COLUMN_BYTES),
    }
}

/// Writes a column whose text needs no escapes.
fn write_text(out: &mut Vec<u8>, start: &ColumnStart, text: &[u8]) {
    out.extend_from_slice(start.bytes());
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}

/// Writes the fields that no column takes, if there are any; the length of the column's value.
fn write_rest(out: &mut Vec<u8>, start: &ColumnStart, rest: &[(JsonString<'_>, &str)]) -> usize {
    if rest.is_empty() {
        return 0;
    }
    out.extend_from_slice(start.bytes());
    let begin = out.len();
    for (key, raw) in rest {
        out.push(b',');
        out.extend_from_slice(key.raw.as_bytes());
        out.push(b':');
        out.extend_from_slice(raw.as_bytes());
    }
    out[begin] = b'{';
    out.push(b'}');
    out.len() - begin
}

/// A time as `2024-11-07T17:20:00.123Z`.
fn iso_8601_ms(time: DateTime<Utc>) -> [u8; 24] {
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: Range<usize>, mut number: u32| {
        for digit in text[at].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    };
    put(0..4, time.year().unsigned_abs());
    put(5..7, time.month());
    put(8..10, time.day());
    put(11..13, time.hour());
    put(14..16, time.minute());
    put(17..19, time.second());
    // A leap second has up to 1,999.
    put(20..23, time.timestamp_subsec_millis().min(999));
    text
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
