//! The systems that events come from, a folder each.

pub mod mimecast;
