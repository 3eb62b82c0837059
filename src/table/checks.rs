//! What a table must be, checked when it is compiled.

use super::column_start::same;
use super::{Column, ColumnType, From, Table};

/// The longest name of a column that Log Analytics takes, in characters.
pub(super) const LONGEST_NAME: usize = 45;

/// What Log Analytics keeps for itself, in capitals or not.
const RESERVED: [&str; 7] =
    ["_ResourceId", "id", "_SubscriptionId", "TenantId", "Type", "UniqueId", "Title"];

/// The columns' names and types, and their order.
pub(super) const fn columns(columns: &[Column]) {
    assert!(columns.len() >= 2 && columns.len() <= Table::MAX_COLUMNS, "2 to 64 columns");
    let last = columns.len() - 1;
    assert!(matches!(columns[0].from, From::TimeOrArrival), "the time comes first");
    let (mut fields, mut at) = (false, 0);
    while at <= last {
        let column = &columns[at];
        name(column.name);
        differs(column, columns.split_at(at).0);
        let type_fits = match column.from {
            From::TimeOrArrival | From::Time => matches!(column.stream_type, ColumnType::Datetime),
            From::Id => matches!(column.stream_type, ColumnType::String),
            From::Rest => matches!(column.stream_type, ColumnType::Dynamic),
            From::Field(_) => true,
        };
        assert!(type_fits, "a time is a datetime, the id a string, the rest dynamic");
        match column.from {
            From::Field(_) => fields = true,
            From::Rest => assert!(at == last, "the rest comes last"),
            _ => assert!(!fields, "columns of our own stand before those of fields"),
        }
        at += 1;
    }
    assert!(matches!(columns[last].from, From::Rest), "the rest comes last");
}

const fn name(name: &str) {
    let name = name.as_bytes();
    assert!(!name.is_empty() && name.len() <= LONGEST_NAME, "a name has 1 to 45 characters");
    assert!(name[0].is_ascii_alphabetic(), "a name begins with a letter");
    let mut at = 0;
    while at < name.len() {
        let fits = name[at].is_ascii_alphanumeric() || name[at] == b'_';
        assert!(fits, "a name has letters, digits and _");
        at += 1;
    }
    at = 0;
    while at < RESERVED.len() {
        assert!(!name.eq_ignore_ascii_case(RESERVED[at].as_bytes()), "a name is reserved");
        at += 1;
    }
}

/// That those before have neither its name nor its field.
const fn differs(column: &Column, before: &[Column]) {
    let mut at = 0;
    while at < before.len() {
        let other = &before[at];
        let same_name = other.name.as_bytes().eq_ignore_ascii_case(column.name.as_bytes());
        assert!(!same_name, "two columns have the same name");
        if let (From::Field(field), From::Field(other)) = (column.from, other.from) {
            assert!(!same(field.as_bytes(), other.as_bytes()), "two columns take one field");
        }
        at += 1;
    }
}

/// That the time field has a column of a time's type, and each time column a time field.
pub(super) const fn time(columns: &[Column], time_field: Option<&str>, column: Option<usize>) {
    assert!(time_field.is_some() == column.is_some(), "the time field has a column");
    let mut at = 0;
    while at < columns.len() {
        let Column { from, stream_type, .. } = &columns[at];
        assert!(column.is_some() || !matches!(from, From::Time), "there is no time field");
        if let Some(column) = column
            && column == at
        {
            let fits = matches!(stream_type, ColumnType::Long | ColumnType::Datetime);
            assert!(fits, "the time field is a long or a datetime");
        }
        at += 1;
    }
}
