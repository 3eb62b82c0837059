//! The committed descriptions of the tables say what the code says.
//!
//! After a change to the columns, `WRITE_SCHEMA=1 cargo test --test all schema::` writes them again.

use std::collections::BTreeMap;
use std::path::Path;

use mimecast_sentinel::table::{CLOUD_INTEGRATED, TABLES, Table};
use mimecast_sentinel::version::BUILD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The files that describe a table. Mimecast's are older than the second table.
fn files(table: &Table) -> [(String, Value); 3] {
    let file = |name: &str| match table.name == CLOUD_INTEGRATED.name {
        true => name.to_owned(),
        false => format!("{}.{name}", table.name),
    };
    [
        (file("rule.json"), table.rule()),
        (file("table.json"), table.schema()),
        (format!("{}.kusto.json", table.name), table.kusto_schema()),
    ]
}

#[test]
fn the_committed_descriptions_are_those_of_the_tables() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sentinel/schema");
    let files = TABLES.iter().flat_map(|table| files(table));
    let files = files.map(|(name, description)| (name, format!("{description:#}\n")));
    let expected: BTreeMap<_, _> = files.collect();
    if std::env::var_os("WRITE_SCHEMA").is_some() {
        for (name, text) in &expected {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let committed = std::fs::read_dir(&folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
    });
    let committed: BTreeMap<_, _> = committed.collect();
    let names = expected.keys().chain(committed.keys());
    let stale: Vec<_> = names.filter(|name| expected.get(*name) != committed.get(*name)).collect();
    assert!(
        stale.is_empty(),
        "{stale:?} in sentinel/schema differ from src/table/; run \
         `WRITE_SCHEMA=1 cargo test --test all schema::` and commit them"
    );
}

/// Also where Bicep is not: program and template would differ without a warning.
#[test]
fn the_committed_version_is_that_of_the_columns_and_the_content() {
    let sentinel = Path::new(env!("CARGO_MANIFEST_DIR")).join("sentinel");
    let hash = |folders: &[(&str, &[&str])]| {
        let mut files = Vec::new();
        for (folder, kinds) in folders {
            for entry in std::fs::read_dir(sentinel.join(folder)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if kinds.iter().any(|kind| name.ends_with(kind)) {
                    files.push(format!("{folder}{name}"));
                }
            }
        }
        files.sort();
        let mut hash = Sha256::new();
        for file in files {
            hash.update(&file);
            hash.update(b"\0");
            hash.update(std::fs::read(sentinel.join(file)).unwrap());
        }
        hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let schema = hash(&[("schema/", &["rule.json"])]);
    let content = hash(&[
        ("connector/", &[".json"]),
        ("hunting/", &[".yaml"]),
        ("parser/", &[".kql", ".yaml"]),
        ("rules/", &[".yaml"]),
        ("", &["solution.json"]),
        ("workbook/", &[".json"]),
    ]);
    let expected = format!("{}+schema.{schema}.content.{content}", env!("CARGO_PKG_VERSION"));
    assert_eq!(BUILD, expected, "sentinel/version.txt is old: run arm/build");
}

#[test]
fn every_column_of_a_stream_reaches_its_table() {
    let names = |columns: &Value| -> Vec<_> {
        columns.as_array().unwrap().iter().map(|column| column["name"].clone()).collect()
    };
    for table in TABLES {
        let stream = names(&table.rule()["streamDeclarations"][table.stream]["columns"]);
        assert_eq!(stream, names(&table.schema()["columns"]));
    }
    assert_eq!(
        CLOUD_INTEGRATED.rule()["transformKql"],
        "source | extend TimeGenerated = iif(TimeGenerated < ago(46h), now(), TimeGenerated), \
         attachments = tostring(attachments), recipients = tostring(recipients), \
         tags = tostring(tags), policiesApplied = tostring(policiesApplied)"
    );
}
