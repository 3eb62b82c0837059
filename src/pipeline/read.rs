//! From a page to bodies: opens its files in order, reads their records, fills bodies with them.
//!
//! One blocking thread per stream inflates, splits, maps and deflates. It is held back by the
//! slots for bodies in flight: nothing is read that cannot be sent.

use std::future::ready;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::body::{BodyBuilder, hex};
use super::outbox::Outbox;
use super::source::{NoBytes, OpenPart, ReadError, Record, RecordKind, RecordReader, UnprovenEnd};
use super::summary::{Counters, add};
use super::{Policy, RowsLeft};
use crate::quarantine::{Kept, Rejection};
use crate::store::ByteStream;

/// Fills bodies from one opened part.
pub(super) struct Filler {
    pub(super) reader: Box<dyn RecordReader>,
    pub(super) builder: BodyBuilder,
    pub(super) outbox: Outbox,
    pub(super) stop: CancellationToken,
    pub(super) counters: Arc<Counters>,
    pub(super) policy: Policy,
    pub(super) rows_left: Arc<RowsLeft>,
    /// How many lines of the file are read.
    pub(super) line: u64,
    /// How many of them were events, in this run.
    pub(super) events: u64,
}

/// Why filling paused.
pub(super) enum FillEnd {
    /// The part is read.
    End,
    /// The run must stop, or the other side has.
    Stopped,
    /// The next line can only be kept with its file, which must be in quarantine first.
    KeepFile,
    /// It could not be read on.
    Failed(ReadError),
}

impl Filler {
    /// Reads on to the end, or to what must be seen to outside of this thread.
    pub(super) fn fill(mut self) -> (Self, FillEnd) {
        let mut row = Vec::new();
        let mut counted = 0;
        let end = loop {
            let look = self.events.is_multiple_of(self.policy.look_every);
            if look {
                self.rows_left.count(self.events - counted);
                counted = self.events;
            }
            if look && (self.stop.is_cancelled() || self.rows_left.is_spent()) {
                break FillEnd::Stopped;
            }
            row.clear();
            match self.reader.next(&mut row) {
                Ok(Some(record)) => {
                    let due = look && self.builder.has_waited(self.policy.body_wait);
                    if let Err(end) = put(&mut self.builder, &self.outbox, due, &record, &row) {
                        break end;
                    }
                    self.line = record.line;
                    self.events += 1;
                    add(&self.counters.events_read, 1);
                }
                Ok(None) => break FillEnd::End,
                Err(_) if self.stop.is_cancelled() => break FillEnd::Stopped,
                Err(error) => break FillEnd::Failed(error),
            }
        };
        self.rows_left.count(self.events - counted);
        (self, end)
    }
}

/// Puts one record into the body in hand, sending that on before if it is due or full.
fn put(
    builder: &mut BodyBuilder,
    outbox: &Outbox,
    due: bool,
    record: &Record<'_>,
    row: &[u8],
) -> Result<(), FillEnd> {
    if due || !builder.fits(row.len()) {
        let full = builder.take().map_err(|error| FillEnd::Failed(ReadError::Broken(error)))?;
        if let Some(body) = full {
            let sent = Handle::current().block_on(outbox.send(body));
            sent.map_err(|_| FillEnd::Stopped)?;
        }
    }
    let keep = |reason, detail, delivered| {
        let kept = Kept::Line(Bytes::copy_from_slice(record.original));
        reject(builder, record, reason, detail, delivered, kept)
    };
    match &record.kind {
        RecordKind::Row { .. } if !BodyBuilder::can_ever_fit(row.len()) => {
            let detail = format!("its row has {} bytes; a body holds 1000000", row.len());
            let rejection = keep("row-too-large", detail, false);
            builder.push_rejection(rejection);
        }
        RecordKind::Row { time_ms, oversize } => {
            let cut = (!oversize.is_empty()).then(|| {
                let detail = format!("Azure cuts at 65536 bytes: {}", oversize.join(", "));
                keep("oversize-field", detail, true)
            });
            let pushed = builder.push_row(row, record, *time_ms);
            pushed.map_err(|error| FillEnd::Failed(ReadError::Broken(error)))?;
            if let Some(cut) = cut {
                builder.push_rejection(cut);
            }
        }
        RecordKind::Rejected(reason, detail) => {
            let rejection = keep(reason, detail.clone(), false);
            builder.push_rejection(rejection);
        }
        RecordKind::TooLong(length) => {
            let kept = Kept::File(builder.file_kept().ok_or(FillEnd::KeepFile)?.to_owned());
            let detail = format!("the line has {length} bytes, more than MAX_LINE_BYTES");
            let rejection = reject(builder, record, "line-too-long", detail, false, kept);
            builder.push_rejection(rejection);
        }
    }
    Ok(())
}

fn reject(
    builder: &BodyBuilder,
    record: &Record<'_>,
    reason: &'static str,
    detail: String,
    delivered: bool,
    kept: Kept,
) -> Rejection {
    let position = builder.position(record.line);
    Rejection { position, event_id: hex(&record.id), reason, detail, delivered, kept }
}

/// The bytes of a part, which the listing says to be `size`. They end in an error if none arrived
/// and it does not say 0, and if neither their number nor the reply proves that this is the end.
pub(super) fn bytes_of(part: OpenPart, size: Option<u64>) -> ByteStream {
    let end_is_proof = part.end_is_proof;
    let mut arrived = 0;
    let bytes = part.bytes.map(Some).chain(stream::iter([None])).filter_map(move |piece| {
        ready(match piece {
            None if arrived == 0 && size != Some(0) => Some(Err(io::Error::other(NoBytes))),
            None if !end_is_proof && size != Some(arrived) => {
                Some(Err(io::Error::other(UnprovenEnd)))
            }
            None => None,
            Some(piece) => {
                arrived += piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
                Some(piece)
            }
        })
    });
    bytes.boxed()
}

/// A download as a blocking reader, for a thread that may block. HTTP reads on meanwhile, by two
/// pieces.
pub(super) struct Download {
    bytes: ByteStream,
    chunk: Bytes,
    stop: CancellationToken,
    counters: Arc<Counters>,
    runtime: Handle,
}

impl Download {
    /// A reader of the part's bytes, which the listing says to be `size`.
    pub(super) fn new(
        part: OpenPart,
        size: Option<u64>,
        stop: CancellationToken,
        counters: Arc<Counters>,
    ) -> Self {
        let bytes = bytes_of(part, size);
        Self { bytes, chunk: Bytes::new(), stop, counters, runtime: Handle::current() }
    }

    /// The next piece; nothing at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let chunk = tokio::select! {
            chunk = self.bytes.next() => chunk.transpose()?,
            () = self.stop.cancelled() => return Err(io::Error::other("the run must stop")),
        };
        add(&self.counters.bytes_read, chunk.as_ref().map_or(0, |bytes| bytes.len() as u64));
        Ok(chunk)
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let runtime = self.runtime.clone();
            match runtime.block_on(self.next())? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let n = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}
