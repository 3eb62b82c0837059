//! Progress made durable: the document, its rules, and the stores it lies in.

mod files;
mod folder;
mod lock;
mod nowhere;
mod progress;
mod store;

pub use folder::FolderStore;
pub use nowhere::Nowhere;
pub use progress::{
    Checkpoint, CheckpointError, Cursor, Delta, FileProgress, FileVersion, Position, Refused,
    Totals, Untold,
};
pub use store::{ByteStream, Lease, LeaseWatch, Names, Store, StoreError};
pub(crate) use store::{TooLarge, is_name, most_bytes};
