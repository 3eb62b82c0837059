//! What several tests need.
#![allow(
    dead_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests, of which each uses its own part"
)]

pub mod azurite;
#[cfg(feature = "simulator")]
pub mod doubles;
#[cfg(feature = "simulator")]
pub mod enemy;
pub mod entra_tls;
pub mod fake_blobs;
pub mod functions_host;
#[cfg(feature = "simulator")]
pub mod leased_blob;
#[cfg(feature = "simulator")]
pub mod program;
#[cfg(feature = "simulator")]
pub mod rig;
#[cfg(feature = "simulator")]
pub mod scenario;
#[cfg(feature = "simulator")]
pub mod stage;
#[cfg(feature = "simulator")]
pub mod steps;
#[cfg(feature = "simulator")]
pub mod tls;
