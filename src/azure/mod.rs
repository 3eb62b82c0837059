//! Azure: the credential, the sink and the blob store.

pub mod blob;
mod blob_errors;
mod blob_lease;
pub mod credential;
pub mod ingestion;
mod sdk;
pub mod secret;
mod transport;
