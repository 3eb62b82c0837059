//! What a sink of rows must offer.

use std::io::Write as _;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::Interrupt;
use crate::seams::Deadline;
use crate::table::Table;

/// Where rows go.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Where a table's rows go, for a person: no secret.
    fn destination(&self, table: &Table) -> String;

    /// Posts one body of a table: a JSON array of rows, gzip-encoded.
    ///
    /// It repeats what is worth repeating, always with the same bytes. Rather than wait beyond
    /// `deadline` it returns [`Interrupt::OutOfTime`] at once.
    async fn post(&self, table: &Table, body: Bytes, deadline: Deadline) -> Posted;
}

/// A small body of rows that are JSON already, as [`Sink::post`] takes it.
pub fn packed(rows: &[u8]) -> Bytes {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    packed.write_all(rows).and_then(|()| packed.finish()).unwrap_or_default().into()
}

/// What became of a body.
#[derive(Debug)]
pub struct Posted {
    /// Attempts after which nobody knows whether the rows were taken.
    pub ambiguous: u64,
    /// `Ok` if the rows were accepted.
    pub answer: Result<(), PostError>,
}

/// Why a body was not accepted.
#[derive(Debug)]
pub enum PostError {
    /// At least one row is not as it must be; in the sink's words.
    RowRefused(String),
    /// The body is too large.
    TooLarge,
    /// Nothing that another body would change.
    Interrupt(Interrupt),
}
