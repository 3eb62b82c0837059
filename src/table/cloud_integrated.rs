//! The columns of `Cloud_Integrated_CL`.

use super::{Column, ColumnType, From, Table};

/// Where Mimecast's Cloud Integrated events land.
///
/// Columns of the API's fields have the API's own names, except where Log Analytics reserves the
/// name (`type_`) or refuses it (`_partition`, `_offset`); ours are `PascalCase`.
pub static CLOUD_INTEGRATED: Table =
    Table::new("Cloud_Integrated_CL", "Custom-Cloud_Integrated", Some("timestamp"), COLUMNS);

const COLUMNS: &[Column] = &[
    Column::new(
        "TimeGenerated",
        ColumnType::Datetime,
        From::TimeOrArrival,
        "When the event happened; when it arrived, if it has no usable timestamp. The \
         time of ingestion takes its place if it is more than 46 hours old.",
    ),
    Column::new(
        "EventTime",
        ColumnType::Datetime,
        From::Time,
        "When the event happened, whatever its age. Empty if timestamp is missing, not an integer, \
         or outside the years 2000 to 2099.",
    ),
    Column::new(
        "EventId",
        ColumnType::String,
        From::Id,
        "The event's identity: the first 128 bits of SHA-256 over the line as Mimecast sent it, in \
         lower-case hex. Rows with the same value are the same event.",
    ),
    Column::field(
        "timestamp",
        ColumnType::Long,
        "The event's time in milliseconds since 1970, as given.",
    ),
    Column::new(
        "type_",
        ColumnType::String,
        From::Field("type"),
        "The kind of event: entities (one message's summary), mailflow (its authentication) or \
         urlclick (a blocked click on a link).",
    ),
    Column::field(
        "subtype",
        ColumnType::String,
        "The event's finer kind; for entities the type of threat, as in threatType.",
    ),
    Column::field("accountId", ColumnType::String, "The Mimecast account the event belongs to."),
    Column::field(
        "aggregateId",
        ColumnType::String,
        "Mimecast's aggregate id, as given; ends in a time in seconds since 1970.",
    ),
    Column::field(
        "processingId",
        ColumnType::String,
        "Mimecast's id of one processing, as given; ends in a time in seconds since 1970.",
    ),
    Column::field(
        "messageId",
        ColumnType::String,
        "The message's Message-ID header, with its brackets.",
    ),
    Column::field(
        "subject",
        ColumnType::String,
        "The message's subject, of which Mimecast keeps 150 characters.",
    ),
    Column::field(
        "source",
        ColumnType::String,
        "The mail system the message was in, such as OFFICE_365_MAIL.",
    ),
    Column::field(
        "direction",
        ColumnType::String,
        "The way the message went, such as INBOUND; Mimecast's use of capitals varies.",
    ),
    Column::field(
        "senderIp",
        ColumnType::String,
        "The address, v4 or v6, the message was sent from.",
    ),
    Column::field(
        "senderEnvelope",
        ColumnType::String,
        "The sender's address in the envelope; empty for a bounce.",
    ),
    Column::field("senderHeader", ColumnType::String, "The sender's address in the From header."),
    Column::field(
        "threatState",
        ColumnType::String,
        "What was done, such as DELIVERED, DELIVERY_IN_PROGRESS or BLOCKED.",
    ),
    Column::field(
        "threatType",
        ColumnType::String,
        "The type of threat found, such as MALWARE; NO_DETECTIONS if none was.",
    ),
    Column::field(
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
    Column::field(
        "authResults",
        ColumnType::Dynamic,
        "For mailflow: an array of objects with type (SPF, DKIM, DMARC), result, and aligned.",
    ),
    Column::field("action", ColumnType::String, "For urlclick: what was done about the click."),
    Column::field("originalUrl", ColumnType::String, "For urlclick: the link that was clicked."),
    Column::field("redirectUrl", ColumnType::String, "For urlclick: where the clicked link led."),
    Column::field(
        "sourceIp",
        ColumnType::String,
        "For urlclick: the address the original message was sent from.",
    ),
    Column::new(
        "sourcePartition",
        ColumnType::Long,
        From::Field("_partition"),
        "Mimecast's _partition, as given; with sourceOffset, the event's place at Mimecast.",
    ),
    Column::new(
        "sourceOffset",
        ColumnType::Long,
        From::Field("_offset"),
        "Mimecast's _offset, as given; it grows with time within one sourcePartition.",
    ),
    Column::new(
        "AdditionalFields",
        ColumnType::Dynamic,
        From::Rest,
        "Every field that has no column, and every field whose value is of another type than its \
         column, under the name the API gave it.",
    ),
];

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
}
