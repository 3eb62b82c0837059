//! All integration tests, as one program: each is a module, so that `support` and the crates behind
//! it are compiled and linked once. `cargo test --test all field::` runs those of `tests/field.rs`.
//!
//! They share the process, as threads. A test that needs one for itself (its environment, a
//! subscriber for all threads, a counter that starts at 0) runs this program again for itself alone:
//! `support/own_process.rs`.
#![allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests, which nobody calls"
)]

mod support;

mod azure_ingestion;
mod backfill;
mod blob_answers;
mod blob_transport;
mod check;
mod cli;
mod completions;
mod conservation;
mod contract;
mod crashes;
mod credentials;
mod directory;
mod docs;
mod entra_risk;
mod field;
mod functions_host;
mod health;
mod histories;
mod homes;
mod hostile;
mod identity_program;
mod ingestion;
mod killed;
mod logged_once;
mod mimecast_files;
mod mimecast_listing;
mod planted;
mod proxy;
mod quarantine;
mod quarantine_full;
mod real_records;
mod release_state;
mod schema;
mod secret_places;
mod secrets;
mod serve;
mod settings;
mod shares;
mod simulator;
mod spill;
mod state;
mod status;
mod store_contract;
mod stuck;
mod summary;
mod terminal;
mod tls;
mod trial;
mod two_writers;
