//! What several targets need: readers that are slow, plain, and not the program's own.

pub mod json;
