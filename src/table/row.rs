//! One event to one row.

use std::ops::Range;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Timelike, Utc};

use super::column_start::ColumnStart;
use super::json::{Field, read_fields, repeats};
use super::{ColumnType, EventId, From, Table};

/// What Azure keeps of one column's value, in UTF-8 bytes; it cuts the rest without a word (64 KB
/// in the Azure Monitor service limits, Logs Ingestion API).
pub const MAX_COLUMN_BYTES: usize = 65_536;

/// The times in milliseconds that are taken as an event's: 2000-01-01 up to 2100-01-01. Zero,
/// negative numbers and seconds are outside.
const USABLE_TIME: Range<i64> = 946_684_800_000..4_102_444_800_000;

const NULL: &[u8] = b"null";

/// What [`Table::write_row`] says of the row it wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// The event's time in milliseconds since 1970, if the table has a time field and the event a
    /// usable one.
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
    /// Columns without a value are left out. The columns of fields come first, in the order of the
    /// event.
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
        let begin = out.len();
        // About what a row has more than its line.
        out.reserve(line.len() + 256);
        let written = self.write_columns(line, id, arrival, out);
        match written {
            // The first column's comma.
            Ok(_) => out[begin] = b'{',
            Err(_) => out.truncate(begin),
        }
        written
    }

    fn write_columns(
        &self,
        line: &[u8],
        id: EventId,
        arrival: DateTime<Utc>,
        out: &mut Vec<u8>,
    ) -> Result<Row, RejectReason> {
        let mut fields = Fields::new(self, line, out);
        read_fields(line, |field| fields.add(field))?;
        fields.write_verbatim();
        if fields.repeat() {
            return Err(RejectReason::DuplicateKey);
        }
        let Fields { time, rest, mut oversize, .. } = fields;

        let event_time =
            time.and_then(time_of).filter(|time| USABLE_TIME.contains(&time.timestamp_millis()));
        let time = iso_8601_ms(event_time.unwrap_or(arrival));
        for (column, start) in self.columns[..self.first_field].iter().zip(&self.starts) {
            match column.from {
                From::Time if event_time.is_none() => {}
                From::TimeOrArrival | From::Time => write_text(out, start, &time),
                From::Id => write_text(out, start, &id.hex()),
                From::Field(_) | From::Rest => {}
            }
        }
        let last = self.columns.len() - 1;
        if write_rest(out, &self.starts[last], &rest) > MAX_COLUMN_BYTES {
            oversize.push(self.columns[last].name);
        }
        out.push(b'}');
        Ok(Row { event_time_ms: event_time.map(|time| time.timestamp_millis()), oversize })
    }
}

/// Writes the columns of an event's fields.
struct Fields<'a, 'o> {
    table: &'a Table,
    line: &'a [u8],
    out: &'o mut Vec<u8>,
    /// Fields that the row has as they stand in the line, one behind the other, and that are yet to
    /// be written: one copy instead of two for each.
    verbatim: Range<usize>,
    /// The columns whose field has come, as bits.
    seen: u64,
    /// Whether a field that has a column came twice.
    repeated: bool,
    /// The table's time field.
    time: Option<&'a [u8]>,
    /// The fields that no column takes.
    rest: Vec<Field<'a>>,
    /// Columns whose value is too large.
    oversize: Vec<&'static str>,
}

impl<'a, 'o> Fields<'a, 'o> {
    fn new(table: &'a Table, line: &'a [u8], out: &'o mut Vec<u8>) -> Self {
        Self {
            table,
            line,
            out,
            verbatim: 0..0,
            seen: 0,
            repeated: false,
            time: None,
            rest: Vec::new(),
            oversize: Vec::new(),
        }
    }

    fn add(&mut self, field: Field<'a>) {
        let position = field.key.text().and_then(|name| self.table.column_of(&name));
        let Some(position) = position else {
            self.rest.push(field);
            return;
        };
        let (column, start) = (&self.table.columns[position], &self.table.starts[position]);
        self.repeated |= self.seen >> position & 1 == 1;
        self.seen |= 1 << position;
        if field.value == NULL {
            return;
        }
        if !fits(column.stream_type, field.value) {
            self.rest.push(field);
            return;
        }
        if self.table.time_column == Some(position) {
            self.time = Some(field.value);
        }
        if is_oversize(column.stream_type, field.value) {
            self.oversize.push(column.name);
        }
        if start.same_name && field.is_plain() {
            // Only a comma may stand between them.
            if self.verbatim.is_empty() || self.verbatim.end + 1 != field.place.start {
                self.write_verbatim();
                self.verbatim.start = field.place.start;
            }
            self.verbatim.end = field.place.end;
        } else {
            self.write_verbatim();
            self.out.extend_from_slice(start.bytes());
            self.out.extend_from_slice(field.value);
        }
    }

    fn write_verbatim(&mut self) {
        let verbatim = std::mem::take(&mut self.verbatim);
        if !verbatim.is_empty() {
            self.out.push(b',');
            self.out.extend_from_slice(&self.line[verbatim]);
        }
    }

    /// Whether one of them came twice.
    fn repeat(&self) -> bool {
        let mut others: Vec<_> = self.rest.iter().filter_map(|field| field.key.text()).collect();
        self.repeated || repeats(&mut others)
    }
}

/// Whether a JSON value is of a column's type.
fn fits(column: ColumnType, raw: &[u8]) -> bool {
    // The first byte tells one kind of value from the other.
    match raw {
        [b'"', ..] => match column {
            ColumnType::String | ColumnType::Dynamic => true,
            // Azure makes null of any other text.
            ColumnType::Datetime => time_of(raw).is_some(),
            _ => false,
        },
        _ if column == ColumnType::Dynamic => true,
        [b't' | b'f', ..] => column == ColumnType::Boolean,
        _ => match column {
            ColumnType::Long => number::<i64>(raw).is_some(),
            ColumnType::Int => number::<i32>(raw).is_some(),
            // A number beyond 64-bit floats would be lost in the column.
            ColumnType::Real => number(raw).is_some_and(f64::is_finite),
            _ => false,
        },
    }
}

/// The time that a number means in milliseconds since 1970, or a text as RFC 3339 has it.
fn time_of(raw: &[u8]) -> Option<DateTime<Utc>> {
    if let [b'"', ..] = raw {
        let text: String = serde_json::from_slice(raw).ok()?;
        return Some(DateTime::parse_from_rfc3339(&text).ok()?.to_utc());
    }
    number(raw).and_then(DateTime::from_timestamp_millis)
}

fn number<T: FromStr>(raw: &[u8]) -> Option<T> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

/// Whether Azure would cut a value: a string counts unescaped, a dynamic as its JSON text.
fn is_oversize(column: ColumnType, raw: &[u8]) -> bool {
    // An escape is never shorter than what it stands for.
    if raw.len() <= MAX_COLUMN_BYTES {
        return false;
    }
    match column {
        ColumnType::Dynamic => true,
        _ => serde_json::from_slice::<String>(raw).is_ok_and(|text| text.len() > MAX_COLUMN_BYTES),
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
fn write_rest(out: &mut Vec<u8>, start: &ColumnStart, rest: &[Field<'_>]) -> usize {
    if rest.is_empty() {
        return 0;
    }
    out.extend_from_slice(start.bytes());
    let begin = out.len();
    for Field { key, value, .. } in rest {
        out.push(b',');
        out.extend_from_slice(key.raw);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out[begin] = b'{';
    out.push(b'}');
    out.len() - begin
}

/// A time as `2024-11-07T17:20:00.123Z`.
fn iso_8601_ms(time: DateTime<Utc>) -> [u8; 24] {
    // Without its offset, which would be added again for each part.
    let time = time.naive_utc();
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
    put(20..23, time.and_utc().timestamp_subsec_millis().min(999));
    text
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
