//! Lands every Mimecast *Cloud Integrated* security event in a Microsoft Sentinel workspace.
//!
//! `ARCHITECTURE.md` is the map of the modules and follows one event through them.

pub mod azure;
pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod codes;
pub mod functions;
pub mod health;
pub mod http;
pub mod pipeline;
pub mod quarantine;
pub mod schedule;
pub mod seams;
pub mod settings;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod sources;
pub mod spill;
pub mod store;
pub mod table;
pub mod version;
