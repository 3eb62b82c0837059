//! The columns of `MimecastConnectorHealth_CL`.

use super::{Column, ColumnType, From, Table};

/// Where the connector reports how it is: a row for a stream, or for a verdict of `check`.
///
/// Columns have the names and meanings of those of Microsoft's `SentinelHealth`, as far as they fit,
/// so that queries of one can be used for the other.
pub static HEALTH: Table =
    Table::new("MimecastConnectorHealth_CL", "Custom-MimecastConnectorHealth", None, COLUMNS);

const COLUMNS: &[Column] = &[
    Column::new(
        "TimeGenerated",
        ColumnType::Datetime,
        From::TimeOrArrival,
        "When the row was made.",
    ),
    Column::field(
        "OperationName",
        ColumnType::String,
        "Data fetch status change (of a stream) or Connection test (of a verdict of check).",
    ),
    Column::field(
        "SentinelResourceName",
        ColumnType::String,
        "The connector and what of it, as app/stream or app/rung: the function app's name, elsewhere \
         mimecast-sentinel, and the stream, or what check tested.",
    ),
    Column::field("SentinelResourceKind", ColumnType::String, "Always mimecast-sentinel."),
    Column::field(
        "Status",
        ColumnType::String,
        "Success or Failure. Of a stream, the states Connected and Connecting are Success; Degraded, \
         Disconnected and Unavailable are Failure. Of a verdict, only fail is Failure.",
    ),
    Column::field(
        "Reason",
        ColumnType::String,
        "The code of the fault, as in docs/TROUBLESHOOTING.md; empty if there is none.",
    ),
    Column::field("Description", ColumnType::String, "What happened, for a person."),
    Column::new(
        "ExtendedProperties",
        ColumnType::Dynamic,
        From::Rest,
        "An object. State of a stream: Unavailable (no run has succeeded yet), Connecting (it \
         reads a backlog), Connected, Degraded or Disconnected. Source, Stream, and Version of \
         the connector; of a stream also Build (the version with hashes of the tables' columns and of \
         the content) and Template, that of the template that was deployed, or null. LagSeconds. LastRow: when the newest run that delivered rows did so (RFC \
         3339), or null. Verdict of a connection test: ok, warn, fail, inconclusive or skipped; null \
         for a stream. Fix: what to do, or null. Summary: rows_delivered and \
         rows_quarantined since the stream's row before, rows_24h, quarantine (records in it), \
         files_waiting, held_up and last_gap (from, to, and at, when it was found: events of that time may be \
         missing for good); null for a verdict.",
    ),
];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::table::EventId;

    #[test]
    fn what_has_no_column_is_an_extended_property() {
        let event = json!({
            "OperationName": "Data fetch status change",
            "SentinelResourceName": "mimecastci-abc/entities",
            "SentinelResourceKind": "mimecast-sentinel",
            "Status": "Success",
            "Reason": "",
            "Description": "Caught up.",
            "State": "Connected",
            "LastRow": null,
            "Summary": { "rows_delivered": 12 },
        })
        .to_string();
        let arrival = "2026-11-29T21:00:00Z".parse().unwrap();
        let mut row = Vec::new();
        HEALTH.write_row(event.as_bytes(), EventId::of(b""), arrival, &mut row).unwrap();
        let row: Value = serde_json::from_slice(&row).unwrap();
        assert_eq!(row["TimeGenerated"], "2026-11-29T21:00:00.000Z");
        assert_eq!(row["Status"], "Success");
        let properties =
            json!({ "State": "Connected", "LastRow": null, "Summary": { "rows_delivered": 12 } });
        assert_eq!(row["ExtendedProperties"], properties);
        assert_eq!(row.as_object().unwrap().len(), 8);
    }
}
