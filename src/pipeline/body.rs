//! One request to the sink: rows, and what their acceptance means for progress.
//!
//! A body is deflated while it is filled, so that a row is held once, small. Its rows' originals
//! are kept beside it until it is settled, for the row that is refused.

use std::io::{self, Read, Write};
use std::ops::Range;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tokio::time::Instant;

use super::source::{Record, RecordId};
use crate::checkpoint::{Delta, FileVersion, Position};
use crate::quarantine::{FilePosition, Kept, Rejection};

/// The most a body may hold, uncompressed, brackets and commas counted: 1 MB in the Logs Ingestion
/// API's limits, taken as the smaller of its two readings.
pub const MAX_BODY_BYTES: usize = 1_000_000;

/// Rejected lines of this many bytes close a body, so that they do not pile up in memory.
const MAX_REJECTED_BYTES: usize = MAX_BODY_BYTES;

/// A full body on its way to the sink.
#[derive(Debug)]
pub struct Body {
    /// The stream it belongs to.
    pub stream: String,
    /// The rows as a JSON array, gzip-encoded.
    pub gzip: Bytes,
    /// The rows, in order.
    pub rows: Vec<BodyRow>,
    /// Lines that did not become rows, and rows of which more must be kept.
    pub rejections: Vec<Rejection>,
    /// The progress that is made once all of it is settled, in order.
    pub spans: Vec<Span>,
    originals: Vec<u8>,
}

/// One row of a body.
#[derive(Debug)]
pub struct BodyRow {
    /// The event's id.
    pub id: RecordId,
    /// The event's time, in milliseconds since 1970.
    pub time_ms: Option<i64>,
    /// Which of the body's spans it belongs to.
    pub span: usize,
    line: u64,
    /// Where its JSON ends in the array, uncompressed.
    json_end: usize,
    /// Where its original ends among the originals.
    original_end: usize,
}

/// A piece of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The step of progress.
    pub delta: Delta,
    /// How many rows of the body belong to it.
    pub rows: u64,
    /// How many of its lines are rejected instead.
    pub rejected: u64,
    /// At the end of a file: how many events the reader saw in this run.
    pub events_in_file: Option<u64>,
}

/// Fills bodies, across the files of one page.
#[derive(Debug)]
pub struct BodyBuilder {
    stream: String,
    level: Compression,
    gzip: GzEncoder<Vec<u8>>,
    /// Bytes of JSON so far, without the closing bracket.
    json_len: usize,
    rows: Vec<BodyRow>,
    originals: Vec<u8>,
    rejections: Vec<Rejection>,
    rejected_bytes: usize,
    spans: Vec<Span>,
    since: Option<Instant>,
}

impl BodyBuilder {
    /// A builder for bodies of `stream`, deflated at `level` (0 to 9).
    pub fn new(stream: &str, level: u32) -> Self {
        let level = Compression::new(level);
        Self {
            stream: stream.to_owned(),
            level,
            gzip: GzEncoder::new(Vec::new(), level),
            json_len: 0,
            rows: Vec::new(),
            originals: Vec::new(),
            rejections: Vec::new(),
            rejected_bytes: 0,
            spans: Vec::new(),
            since: None,
        }
    }

    /// Whether a row of this many bytes can be in a body at all.
    pub const fn can_ever_fit(row_len: usize) -> bool {
        row_len + 2 <= MAX_BODY_BYTES
    }

    /// Whether a row of this many bytes still fits into this one.
    pub fn fits(&self, row_len: usize) -> bool {
        // A separator (or the opening bracket) before it, the closing bracket after it.
        self.json_len + 1 + row_len < MAX_BODY_BYTES && self.rejected_bytes < MAX_REJECTED_BYTES
    }

    /// Since when something waits in it.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// What follows comes from this file, from behind `from`.
    pub fn begin_file(&mut self, file: &str, version: &FileVersion, from: Position) {
        let delta = Delta { file: file.to_owned(), version: version.clone(), from, to: from };
        self.spans.push(Span { delta, rows: 0, rejected: 0, events_in_file: None });
    }

    /// Adds a row that [`BodyBuilder::fits`].
    pub fn push_row(
        &mut self,
        row: &[u8],
        record: &Record<'_>,
        time_ms: Option<i64>,
    ) -> io::Result<()> {
        self.gzip.write_all(if self.rows.is_empty() { b"[" } else { b"," })?;
        self.gzip.write_all(row)?;
        self.json_len += 1 + row.len();
        self.originals.extend_from_slice(record.original);
        self.rows.push(BodyRow {
            id: record.id,
            time_ms,
            line: record.line,
            span: self.spans.len().saturating_sub(1),
            json_end: self.json_len,
            original_end: self.originals.len(),
        });
        self.reach(Position::Line(record.line), |span| span.rows += 1);
        Ok(())
    }

    /// Adds a line that goes to quarantine instead of, or beside, its row.
    pub fn push_rejection(&mut self, rejection: Rejection) {
        self.rejected_bytes += rejection.size();
        let line = Position::Line(rejection.position.line);
        let counts = rejection.is_event() && !rejection.delivered;
        self.rejections.push(rejection);
        self.reach(line, |span| span.rejected += u64::from(counts));
    }

    /// The file in hand is read to its end; the reader saw `events` in it in this run.
    pub fn end_file(&mut self, events: u64) {
        self.reach(Position::End, |span| span.events_in_file = Some(events));
    }

    /// The file in hand is passed without being read to its end.
    pub fn pass_file(&mut self) {
        self.reach(Position::End, |_| {});
    }

    /// A position in the file in hand.
    pub fn position(&self, line: u64) -> FilePosition {
        let file = self.spans.last().map_or_else(String::new, |span| span.delta.file.clone());
        FilePosition { stream: self.stream.clone(), file, line }
    }

    /// The body so far, if it holds anything; what follows goes on in the same file.
    pub fn take(&mut self) -> io::Result<Option<Body>> {
        let Some(last) = self.spans.last() else { return Ok(None) };
        let (file, version, at) =
            (last.delta.file.clone(), last.delta.version.clone(), last.delta.to);
        let fresh = GzEncoder::new(Vec::new(), self.level);
        let mut gzip = std::mem::replace(&mut self.gzip, fresh);
        gzip.write_all(if self.rows.is_empty() { b"[]" } else { b"]" })?;
        let body = Body {
            stream: self.stream.clone(),
            gzip: Bytes::from(gzip.finish()?),
            rows: std::mem::take(&mut self.rows),
            rejections: std::mem::take(&mut self.rejections),
            spans: std::mem::take(&mut self.spans),
            originals: std::mem::take(&mut self.originals),
        };
        self.json_len = 0;
        self.rejected_bytes = 0;
        self.since = None;
        if at != Position::End {
            self.begin_file(&file, &version, at);
        }
        let moved = body.spans.iter().any(|span| span.delta.from != span.delta.to);
        Ok(moved.then_some(body))
    }

    /// The file in hand is settled up to `to` once this body is.
    fn reach(&mut self, to: Position, count: impl FnOnce(&mut Span)) {
        self.since.get_or_insert_with(Instant::now);
        if let Some(span) = self.spans.last_mut() {
            span.delta.to = to;
            count(span);
        }
    }
}

impl Body {
    /// The rows' JSON array, inflated again: for a body that must be split.
    pub fn json(&self) -> io::Result<Vec<u8>> {
        let mut json = Vec::new();
        GzDecoder::new(&self.gzip[..]).take(MAX_BODY_BYTES as u64).read_to_end(&mut json)?;
        Ok(json)
    }

    /// Some of the rows as a body's bytes of their own. `json` is what [`Body::json`] returned.
    pub fn part(&self, json: &[u8], rows: &Range<usize>) -> io::Result<Bytes> {
        let begin = rows.start.checked_sub(1).map_or(0, |before| self.rows[before].json_end);
        let end = self.rows[rows.end - 1].json_end;
        // Each row is preceded by one byte: the bracket or a comma.
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(b"[")?;
        gzip.write_all(&json[begin + 1..end])?;
        gzip.write_all(b"]")?;
        Ok(Bytes::from(gzip.finish()?))
    }

    /// The rejection of one of its rows.
    pub fn reject(&self, row: usize, reason: &'static str, detail: String) -> Rejection {
        let begin = row.checked_sub(1).map_or(0, |before| self.rows[before].original_end);
        let row = &self.rows[row];
        let delta = &self.spans[row.span].delta;
        let stream = self.stream.clone();
        Rejection {
            position: FilePosition { stream, file: delta.file.clone(), line: row.line },
            event_id: hex(&row.id),
            reason,
            detail,
            delivered: false,
            kept: Kept::Line(Bytes::copy_from_slice(&self.originals[begin..row.original_end])),
        }
    }

    /// The time of the newest of its events that were `delivered`.
    pub fn newest_ms(&self, delivered: impl Fn(usize) -> bool) -> Option<i64> {
        let rows = self.rows.iter().enumerate().filter(|(row, _)| delivered(*row));
        rows.filter_map(|(_, row)| row.time_ms).max()
    }
}

/// An id as it is written.
pub fn hex(id: &RecordId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
