//! From an API field's name to its column, in constant time.

use super::{Column, From, Table};

/// A power of two, at least twice [`Table::MAX_COLUMNS`]: there is always a free slot to stop at.
const SLOTS: usize = 128;
const FREE: u8 = u8::MAX;

/// An open-addressed hash table of positions in a table's columns, made when it is compiled.
#[derive(Debug)]
pub(super) struct FieldIndex([u8; SLOTS]);

impl FieldIndex {
    pub(super) const fn new(columns: &[Column]) -> Self {
        assert!(columns.len() <= Table::MAX_COLUMNS && Table::MAX_COLUMNS * 2 <= SLOTS);
        let mut slots = [FREE; SLOTS];
        let mut column = 0;
        while column < columns.len() {
            if let From::Field(field) = columns[column].from {
                let mut slot = home(field.as_bytes());
                while slots[slot] != FREE {
                    slot = (slot + 1) % SLOTS;
                }
                slots[slot] = column as u8;
            }
            column += 1;
        }
        Self(slots)
    }

    pub(super) fn find(&self, columns: &[Column], field: &str) -> Option<usize> {
        let mut slot = home(field.as_bytes());
        while self.0[slot] != FREE {
            let column = usize::from(self.0[slot]);
            if matches!(columns[column].from, From::Field(name) if name == field) {
                return Some(column);
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }
}

/// The slot where the search for a field begins. Any multipliers would do; these give each of the
/// Cloud Integrated fields a slot of its own.
const fn home(field: &[u8]) -> usize {
    match field {
        [] => 0,
        [.., last] => {
            let middle = field[field.len() / 2];
            (field.len() * 39 + middle as usize * 38 + *last as usize * 3) % SLOTS
        }
    }
}
