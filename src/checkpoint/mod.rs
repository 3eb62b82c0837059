//! Progress made durable: the document, its rules, and the stores it lies in.

mod files;
mod folder;
mod store;

pub use folder::FolderStore;
pub(crate) use store::is_name;
pub use store::{ByteStream, Lease, Store, StoreError};
