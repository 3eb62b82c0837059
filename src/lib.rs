//! Lands every Mimecast *Cloud Integrated* security event in a Microsoft Sentinel workspace.
//!
//! `ARCHITECTURE.md` is the map of the modules and follows one event through them.

pub mod azure;
pub mod checkpoint;
pub mod seams;
pub mod table;
