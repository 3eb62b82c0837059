//! Progress made durable: the document, its rules, and the stores it lies in.

mod nowhere;
mod progress;
mod store;

pub use nowhere::Nowhere;
pub use progress::{
    Checkpoint, CheckpointError, Cursor, Delta, FileProgress, FileVersion, Position, Totals,
};
pub use store::{ByteStream, Lease, Store, StoreError};
