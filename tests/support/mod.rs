//! What several tests need.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its own part")]

pub mod azurite;
pub mod entra_tls;
pub mod rig;
pub mod tls;
