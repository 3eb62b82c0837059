//! How it goes: what each run did, what that says of each stream, and where it is reported.
//!
//! [`History`] keeps a record of each run in the store. [`Status`] is made of the records, the
//! checkpoints and quarantine, and is what `status` prints, what the page shows ([`page`]) and what the
//! health table has of it ([`Reporter`]). None of it ever ends a run.

mod history;
pub mod page;
mod report;
mod seen;
mod status;

pub use history::{Failure, History, RunRecord, StreamRecord};
pub use report::Reporter;
pub use status::{
    Depth, LastFailure, LastGap, Named, Quarantined, State, Status, StreamStatus, length,
};
