//! The committed descriptions of the table say what the code says.
//!
//! After a change to the columns, `WRITE_SCHEMA=1 cargo test --test all schema::` writes them again.

use std::path::Path;

use mimecast_sentinel::table::CLOUD_INTEGRATED;

#[test]
fn the_committed_descriptions_are_those_of_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sentinel/schema");
    let write = std::env::var_os("WRITE_SCHEMA").is_some();
    let mut stale = Vec::new();
    for (name, description) in [
        ("rule.json", CLOUD_INTEGRATED.rule()),
        ("table.json", CLOUD_INTEGRATED.schema()),
        ("Cloud_Integrated_CL.kusto.json", CLOUD_INTEGRATED.kusto_schema()),
    ] {
        let (path, text) = (folder.join(name), format!("{description:#}\n"));
        if write {
            std::fs::write(&path, &text).unwrap();
        }
        if std::fs::read_to_string(&path).ok() != Some(text) {
            stale.push(name);
        }
    }
    assert!(
        stale.is_empty(),
        "{stale:?} in sentinel/schema differ from src/table/; run \
         `WRITE_SCHEMA=1 cargo test --test all schema::` and commit them"
    );
}

#[test]
fn every_column_of_the_stream_reaches_the_table() {
    let rule = CLOUD_INTEGRATED.rule();
    let names = |columns: &serde_json::Value| -> Vec<_> {
        columns.as_array().unwrap().iter().map(|column| column["name"].clone()).collect()
    };
    let stream = names(&rule["streamDeclarations"]["Custom-Cloud_Integrated"]["columns"]);
    assert_eq!(stream, names(&CLOUD_INTEGRATED.schema()["columns"]));
    assert_eq!(
        rule["transformKql"],
        "source | extend attachments = tostring(attachments), recipients = tostring(recipients), \
         tags = tostring(tags), policiesApplied = tostring(policiesApplied)"
    );
}
