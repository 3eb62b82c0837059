//! The source: Mimecast API 2.0, Cloud Integrated security events in batches.
//!
//! `token` → `listing` → `batch_file` is the order in which an event passes.

mod api;
mod batch_file;
mod key;
mod listing;
mod pace;
mod page_reply;
mod refusal;
mod source;
mod token;
mod unpack;

pub use batch_file::{BatchFile, Limits};
pub use listing::Place;
pub use pace::{CallLog, Pace};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use page_reply::page_of;
pub use source::{MimecastSource, Options, SOURCE, stream, streams};
