//! Azure: the credential and the blob store.

pub mod blob;
mod blob_lease;
pub mod credential;
mod sdk;
