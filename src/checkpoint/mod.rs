//! Progress made durable: the document, its rules, and the stores it lies in.

mod folder;
mod store;

pub use folder::FolderStore;
pub use store::{ByteStream, Lease, Store, StoreError};
