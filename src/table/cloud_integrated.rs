//! The columns of `Cloud_Integrated_CL`.

use super::{Column, ColumnType, From, Table};

/// Where Mimecast's Cloud Integrated events land.
///
/// Columns of the API's fields have the API's own names, except where Log Analytics reserves the
/// name (`type_`) or refuses it (`_partition`, `_offset`); ours are `PascalCase`.
pub static CLOUD_INTEGRATED: Table =
    Table::new("Cloud_Integrated_CL", "Custom-Cloud_Integrated", Some("timestamp"), COLUMNS);

const COLUMNS: &[Column] = &[
    column(
        "TimeGenerated",
        ColumnType::Datetime,
        From::TimeOrArrival,
        "When the event happened; when it arrived, if it has no usable timestamp. Azure puts the \
         time of ingestion in its place if it is more than two days old.",
    ),
    column(
        "EventTime",
        ColumnType::Datetime,
        From::Time,
        "When the event happened, whatever its age. Empty if timestamp is missing, not an integer, \
         or outside the years 2000 to 2099.",
    ),
    column(
        "EventId",
        ColumnType::String,
        From::Id,
        "The event's identity: the first 128 bits of SHA-256 over the line as Mimecast sent it, in \
         lower-case hex. Rows with the same value are the same event.",
    ),
    field("timestamp", ColumnType::Long, "The event's time in milliseconds since 1970, as given."),
    column(
        "type_",
        ColumnType::String,
        From::Field("type"),
        "The kind of event: entities (one message's summary), mailflow (its authentication) or \
         urlclick (a blocked click on a link).",
    ),
    field(
        "subtype",
        ColumnType::String,
        "The event's finer kind; for entities the type of threat, as in threatType.",
    ),
    field("accountId", ColumnType::String, "The Mimecast account the event belongs to."),
    field(
        "aggregateId",
        ColumnType::String,
        "Mimecast's aggregate id, as given; ends in a time in seconds since 1970.",
    ),
    field(
        "processingId",
        ColumnType::String,
        "Mimecast's id of one processing, as given; ends in a time in seconds since 1970.",
    ),
    field("messageId", ColumnType::String, "The message's Message-ID header, with its brackets."),
    field(
        "subject",
        ColumnType::String,
        "The message's subject, of which Mimecast keeps 150 characters.",
    ),
    field(
        "source",
        ColumnType::String,
        "The mail system the message was in, such as OFFICE_365_MAIL.",
    ),
    field(
        "direction",
        ColumnType::String,
        "The way the message went, such as INBOUND; Mimecast's use of capitals varies.",
    ),
    field("senderIp", ColumnType::String, "The address, v4 or v6, the message was sent from."),
    field(
        "senderEnvelope",
        ColumnType::String,
        "The sender's address in the envelope; empty for a bounce.",
    ),
    field("senderHeader", ColumnType::String, "The sender's address in the From header."),
    field(
        "threatState",
        ColumnType::String,
        "What was done, such as DELIVERED, DELIVERY_IN_PROGRESS or BLOCKED.",
    ),
    field(
        "threatType",
        ColumnType::String,
        "The type of threat found, such as MALWARE; NO_DETECTIONS if none was.",
    ),
    field(
        "historicalMail",
        ColumnType::Boolean,
        "Whether the message is older than the account's start with Mimecast.",
    ),
    json_text("attachments", "The names of the attached files, as the JSON text of an array."),
    json_text(
        "recipients",
        "The recipients' addresses, as the JSON text of an array; a single one may stand alone.",
    ),
    json_text(
        "tags",
        "What the message was tagged with, such as SPAM, as the JSON text of an array.",
    ),
    json_text(
        "policiesApplied",
        "The policies applied, as the JSON text of an array of objects with name, mode and action.",
    ),
    field(
        "authResults",
        ColumnType::Dynamic,
        "For mailflow: an array of objects with type (SPF, DKIM, DMARC), result, and aligned.",
    ),
    field("action", ColumnType::String, "For urlclick: what was done about the click."),
    field("originalUrl", ColumnType::String, "For urlclick: the link that was clicked."),
    field("redirectUrl", ColumnType::String, "For urlclick: where the clicked link led."),
    field(
        "sourceIp",
        ColumnType::String,
        "For urlclick: the address the original message was sent from.",
    ),
    column(
        "sourcePartition",
        ColumnType::Long,
        From::Field("_partition"),
        "Mimecast's _partition, as given; with sourceOffset, the event's place at Mimecast.",
    ),
    column(
        "sourceOffset",
        ColumnType::Long,
        From::Field("_offset"),
        "Mimecast's _offset, as given; it grows with time within one sourcePartition.",
    ),
    column(
        "AdditionalFields",
        ColumnType::Dynamic,
        From::Rest,
        "Every field that has no column, and every field whose value is of another type than its \
         column, under the name the API gave it.",
    ),
];

const fn column(
    name: &'static str,
    column_type: ColumnType,
    from: From,
    description: &'static str,
) -> Column {
    Column { name, stream_type: column_type, table_type: column_type, from, description }
}

/// A column with the name of its field.
const fn field(name: &'static str, column_type: ColumnType, description: &'static str) -> Column {
    column(name, column_type, From::Field(name), description)
}

/// A field of any JSON value; the rule's transform makes text of it, as the vendor's table has it.
const fn json_text(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        stream_type: ColumnType::Dynamic,
        table_type: ColumnType::String,
        from: From::Field(name),
        description,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_finds_its_own_column() {
        for (position, column) in CLOUD_INTEGRATED.columns.iter().enumerate() {
            if let From::Field(field) = column.from {
                assert_eq!(CLOUD_INTEGRATED.column_of(field.as_bytes()), Some(position), "{field}");
            }
        }
        for other in ["", "type_", "EventId", "sourceOffset", "Subject", "subjec"] {
            assert_eq!(CLOUD_INTEGRATED.column_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn log_analytics_takes_the_column_names() {
        const RESERVED: [&str; 7] =
            ["_ResourceId", "id", "_SubscriptionId", "TenantId", "Type", "UniqueId", "Title"];
        let mut seen = std::collections::HashSet::new();
        for Column { name, .. } in CLOUD_INTEGRATED.columns {
            assert!(name.len() <= 45 && name.starts_with(|c: char| c.is_ascii_alphabetic()));
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name}");
            assert!(RESERVED.iter().all(|reserved| !reserved.eq_ignore_ascii_case(name)));
            assert!(seen.insert(name.to_ascii_lowercase()), "{name} is there twice");
        }
    }
}
