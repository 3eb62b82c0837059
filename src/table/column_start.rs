//! What stands in a row before a column's value, put together when the table is compiled.

use super::checks::LONGEST_NAME;
use super::{Column, From, Table};

/// Room for the longest name and what is around it.
const ROOM: usize = LONGEST_NAME + 4;

/// `,"name":`. The row's first comma becomes its opening brace.
#[derive(Clone, Copy)]
pub(super) struct ColumnStart {
    bytes: [u8; ROOM],
    len: usize,
    /// Whether the column's field has the same name.
    pub(super) same_name: bool,
}

impl ColumnStart {
    pub(super) const fn of_all(columns: &[Column]) -> [Self; Table::MAX_COLUMNS] {
        let none = Self { bytes: [0; ROOM], len: 0, same_name: false };
        let mut starts = [none; Table::MAX_COLUMNS];
        let mut column = 0;
        while column < columns.len() {
            starts[column] = Self::of(&columns[column]);
            column += 1;
        }
        starts
    }

    const fn of(column: &Column) -> Self {
        let name = column.name.as_bytes();
        let mut bytes = [0; ROOM];
        let len = name.len() + 4;
        bytes[0] = b',';
        bytes[1] = b'"';
        let (_, rest) = bytes.split_at_mut(2);
        rest.split_at_mut(name.len()).0.copy_from_slice(name);
        bytes[len - 2] = b'"';
        bytes[len - 1] = b':';
        let same_name = match column.from {
            From::Field(field) => same(field.as_bytes(), name),
            _ => false,
        };
        Self { bytes, len, same_name }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

pub(super) const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len()
}
