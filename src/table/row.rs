//! One event to one row.

use std::fmt;

use chrono::{DateTime, Utc};

use super::Table;

/// The event's identity: the first 128 bits of SHA-256 over the line as received, without its line
/// end. Cryptographic, because outsiders write parts of an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventId(pub [u8; 16]);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What [`Table::write_row`] says of the row it wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// The event's time in milliseconds since 1970, if it has a usable one.
    pub event_time_ms: Option<i64>,
    /// Columns whose value is over the 65,536 bytes that Azure keeps of one.
    pub oversize: Vec<&'static str>,
}

/// Why a line is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// Not JSON at all.
    NotJson,
}

impl Table {
    /// Writes the row for `line` to the end of `out`; on an error `out` is as it was.
    pub fn write_row(
        &self,
        _line: &[u8],
        _id: EventId,
        _arrival: DateTime<Utc>,
        _out: &mut Vec<u8>,
    ) -> Result<Row, RejectReason> {
        Err(RejectReason::NotJson)
    }
}
