//! From an API field's name to its column, in constant time.

use super::column_start::same;
use super::{Column, From, Table};

/// A power of two, at least twice [`Table::MAX_COLUMNS`]: there is always a free slot to stop at.
const SLOTS: usize = 128;

/// An open-addressed hash table of positions in a table's columns, made when it is compiled.
pub(super) struct FieldIndex {
    slots: [Slot; SLOTS],
    /// The columns whose field's name is in no slot, since it is no [`Name`], as bits.
    others: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    name: Name,
    column: u8,
}

/// A field's name as numbers, which are compared sooner than slices are.
#[derive(Clone, Copy)]
struct Name {
    len: u8,
    first: u64,
    /// It may overlap the first.
    last: u64,
}

impl FieldIndex {
    pub(super) const fn new(columns: &[Column]) -> Self {
        assert!(columns.len() <= Table::MAX_COLUMNS && Table::MAX_COLUMNS * 2 <= SLOTS);
        let free = Slot { name: Name::NONE, column: 0 };
        let (mut slots, mut others) = ([free; SLOTS], 0);
        let mut column = 0;
        while column < columns.len() {
            if let From::Field(field) = columns[column].from {
                let name = Name::of(field.as_bytes());
                if name.len > 0 {
                    let mut slot = name.home();
                    while slots[slot].name.len > 0 {
                        slot = (slot + 1) % SLOTS;
                    }
                    slots[slot] = Slot { name, column: column as u8 };
                } else {
                    assert!(!field.is_empty(), "a field's name has a byte at least");
                    others |= 1 << column;
                }
            }
            column += 1;
        }
        Self { slots, others }
    }

    /// The position of a field's column among those that the index was made of.
    pub(super) const fn find(&self, columns: &[Column], field: &[u8]) -> Option<usize> {
        let name = Name::of(field);
        if name.len == 0 {
            return self.find_other(columns, field);
        }
        let mut slot = name.home();
        while self.slots[slot].name.len > 0 {
            if self.slots[slot].name.is(name) {
                return Some(self.slots[slot].column as usize);
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }

    /// One by one: the names of most fields are not so short or so long.
    #[cold]
    const fn find_other(&self, columns: &[Column], field: &[u8]) -> Option<usize> {
        let mut others = self.others;
        while others != 0 {
            let column = others.trailing_zeros() as usize;
            if let From::Field(name) = columns[column].from
                && same(name.as_bytes(), field)
            {
                return Some(column);
            }
            others &= others - 1;
        }
        None
    }
}

impl Name {
    /// Of a free slot, and of what is shorter or longer.
    const NONE: Self = Self { len: 0, first: 0, last: 0 };

    /// A name of 4 to 16 bytes, as most are; any other is none.
    const fn of(name: &[u8]) -> Self {
        let (first, last) = if name.len() > 16 {
            return Self::NONE;
        } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
            (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
        } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
            (u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64)
        } else {
            return Self::NONE;
        };
        Self { len: name.len() as u8, first, last }
    }

    const fn is(self, other: Self) -> bool {
        self.len == other.len && self.first == other.first && self.last == other.last
    }

    /// The slot where the search begins. Any multiplier would do; this one gives each of the
    /// Cloud Integrated fields a slot of its own.
    const fn home(self) -> usize {
        let mixed = (self.first ^ self.last.rotate_left(32)).wrapping_mul(0xDAA6_6D2C_7DDF_743F);
        (mixed >> 57) as usize % SLOTS
    }
}
