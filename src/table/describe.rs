//! The table in the forms that the data collection rule, the ARM template and the tests of queries take.

use serde_json::{Value, json};

use super::{ColumnType, Table};

impl Table {
    /// The part of a data collection rule that depends on the columns: `streamDeclarations`, and
    /// the `transformKql` that makes a row of the table of a row of the stream.
    pub fn rule(&self) -> Value {
        let columns = self
            .columns
            .iter()
            .map(|column| json!({ "name": column.name, "type": column.stream_type.in_stream() }));
        json!({
            "streamDeclarations": { self.stream: { "columns": columns.collect::<Vec<_>>() } },
            "transformKql": self.transform(),
        })
    }

    /// The `schema` of the table in an ARM template.
    pub fn schema(&self) -> Value {
        let columns = self.columns.iter().map(|column| {
            json!({
                "name": column.name,
                "type": column.table_type.in_table(),
                "description": column.description,
            })
        });
        json!({ "name": self.name, "columns": columns.collect::<Vec<_>>() })
    }

    /// The table's columns with KQL's names of their types, for tests of queries.
    pub fn kusto_schema(&self) -> Value {
        let columns = self
            .columns
            .iter()
            .map(|column| json!({ "Name": column.name, "Type": column.table_type.in_kusto() }));
        json!({ "Name": self.name, "Properties": columns.collect::<Vec<_>>() })
    }

    /// A rule's transform may use few operators and functions; `extend`, `iif`, `ago`, `now` and
    /// the conversions are among them (Azure Monitor, "Supported KQL features in
    /// transformations").
    fn transform(&self) -> String {
        // Azure does this by itself at 2 days. A rule of Sentinel that runs more often than hourly
        // reads less than 2 days, and would miss what came almost that late.
        let late = self.time_field.map(|_| {
            "TimeGenerated = iif(TimeGenerated < ago(46h), now(), TimeGenerated)".to_owned()
        });
        let conversions =
            self.columns.iter().filter(|column| column.stream_type != column.table_type).map(
                |column| format!("{0} = to{1}({0})", column.name, column.table_type.in_kusto()),
            );
        match late.into_iter().chain(conversions).collect::<Vec<_>>().as_slice() {
            [] => "source".to_owned(),
            some => format!("source | extend {}", some.join(", ")),
        }
    }
}

impl ColumnType {
    /// The type's name in `streamDeclarations`.
    fn in_stream(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
            Self::Long => "long",
            Self::Real => "real",
            Self::Boolean => "boolean",
            Self::Datetime => "datetime",
            Self::Dynamic => "dynamic",
        }
    }

    /// The type's name in a table's schema.
    fn in_table(self) -> &'static str {
        match self {
            Self::Datetime => "dateTime",
            other => other.in_stream(),
        }
    }

    /// The type's name in KQL, which is also the end of its conversion function's name.
    fn in_kusto(self) -> &'static str {
        match self {
            Self::Boolean => "bool",
            other => other.in_stream(),
        }
    }
}
