//! The tables, each defined once.
//!
//! A [`Table`] is the only place that says which columns it has. The row writer
//! ([`Table::write_row`]), and whatever describes the table elsewhere (rule, ARM template,
//! documents, KQL), come from it.

mod checks;
mod cloud_integrated;
mod column_start;
mod describe;
mod event_id;
mod field_index;
mod health;
mod identity;
mod json;
mod row;

use std::fmt;

pub use cloud_integrated::CLOUD_INTEGRATED;
use column_start::ColumnStart;
pub use event_id::{EventId, EventIdHasher};
use field_index::FieldIndex;
pub use health::HEALTH;
pub use identity::{GROUP_MEMBERS, GROUPS, RISK_DETECTIONS, RISKY_USERS, USERS};
pub use row::{MAX_COLUMN_BYTES, RejectReason, Row};

/// Every table that rows are posted to.
pub static TABLES: &[&Table] =
    &[&CLOUD_INTEGRATED, &HEALTH, &RISK_DETECTIONS, &RISKY_USERS, &USERS, &GROUPS, &GROUP_MEMBERS];

/// One table of a Log Analytics workspace and the stream of the data collection rule that feeds it.
pub struct Table {
    /// The table's name, with its `_CL`.
    pub name: &'static str,
    /// The stream that rows are posted to.
    pub stream: &'static str,
    /// The field that holds the event's time, of which the columns [`From::TimeOrArrival`] and
    /// [`From::Time`] are made: milliseconds since 1970 in a column of type `long`, RFC 3339 in one
    /// of type `datetime`. Without one, an event's time is not known.
    pub time_field: Option<&'static str>,
    /// All columns, in the order in which they are shown.
    pub columns: &'static [Column],
    /// The position of the first column that takes a field; before it are our own.
    first_field: usize,
    index: FieldIndex,
    /// The position of the column that takes the time field.
    time_column: Option<usize>,
    /// What stands before the value of each column.
    starts: [ColumnStart; Self::MAX_COLUMNS],
}

impl Table {
    /// The most columns a table may have.
    pub const MAX_COLUMNS: usize = 64;

    /// A table, checked when it is compiled (as a `static` or `const`).
    ///
    /// The columns begin with [`From::TimeOrArrival`], so that no row is empty; then come others of
    /// our own, those of fields, and last [`From::Rest`], so that no field is lost. Their names are
    /// such as Log Analytics takes, no two are the same, and no two take the same field. Times are
    /// `datetime` in the stream, the id is a `string`, the rest `dynamic`. `time_field` is a field
    /// with a column of type `long` or `datetime`.
    ///
    /// # Panics
    /// If the columns are not so: a `static` or `const` then does not compile.
    pub const fn new(
        name: &'static str,
        stream: &'static str,
        time_field: Option<&'static str>,
        columns: &'static [Column],
    ) -> Self {
        checks::columns(columns);
        let mut first_field = 0;
        while !matches!(columns[first_field].from, From::Field(_) | From::Rest) {
            first_field += 1;
        }
        let index = FieldIndex::new(columns);
        let time_column = match time_field {
            Some(field) => index.find(columns, field.as_bytes()),
            None => None,
        };
        checks::time(columns, time_field, time_column);
        let starts = ColumnStart::of_all(columns);
        Self { name, stream, time_field, columns, first_field, index, time_column, starts }
    }

    /// The position in [`Table::columns`] of the column that takes the API's field of this name.
    fn column_of(&self, field: &[u8]) -> Option<usize> {
        self.index.find(self.columns, field)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.name).finish()
    }
}

/// One stream of events of a source: what one checkpoint covers, and the table its rows land in.
///
/// No other stream has its name.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Its name in checkpoints, quarantine and summaries, such as `mailflow`.
    pub name: &'static str,
    /// Where its rows land.
    pub table: &'static Table,
}

/// One column.
#[derive(Debug)]
pub struct Column {
    /// Its name in the table, which is also its name in the stream.
    pub name: &'static str,
    /// Its type in the stream: what the row writer must write.
    pub stream_type: ColumnType,
    /// Its type in the table, which differs where the rule's transform converts it.
    pub table_type: ColumnType,
    /// Where its value comes from.
    pub from: From,
    /// What it means, for the table's documentation.
    pub description: &'static str,
}

impl Column {
    /// A column that has one type in the stream and in the table.
    pub const fn new(
        name: &'static str,
        column_type: ColumnType,
        from: From,
        description: &'static str,
    ) -> Self {
        Self { name, stream_type: column_type, table_type: column_type, from, description }
    }

    /// The same with the name of its field.
    pub const fn field(
        name: &'static str,
        column_type: ColumnType,
        description: &'static str,
    ) -> Self {
        Self::new(name, column_type, From::Field(name), description)
    }
}

/// A type, as data collection rules and tables name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// Text.
    String,
    /// A signed 32-bit integer.
    Int,
    /// A signed 64-bit integer.
    Long,
    /// A number, which Azure keeps as a 64-bit float.
    Real,
    /// `true` or `false`.
    Boolean,
    /// A point in time.
    Datetime,
    /// Any JSON value.
    Dynamic,
}

/// Where a column's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The event's field of this name.
    Field(&'static str),
    /// The event's time if it has a usable one, else the time of arrival.
    TimeOrArrival,
    /// The event's time if it has a usable one.
    Time,
    /// The event's id.
    Id,
    /// Every field that has no column, and every field whose value does not fit its column.
    Rest,
}

#[cfg(test)]
mod tests;
