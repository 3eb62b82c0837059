//! From the bytes of a part to bodies: reads lines, makes rows of them, fills bodies.
//!
//! `part` brings it bytes. It waits for nothing but room: for a full body, or for a piece of a line
//! that is too long to be held.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Run;
use super::body::{Body, BodyBuilder};
use super::fault::{Interrupt, internal};
use super::source::{Format, Line, LineReader, Part, ReadError};
use super::stream::StreamPull;
use super::summary::Live;
use crate::checkpoint::{FileProgress, FileVersion, Position};
use crate::quarantine::{FilePosition, Kept, Quarantine, Rejection};
use crate::seams::spawn_blocking;
use crate::store::Keeping;
use crate::table::{EventId, EventIdHasher};

/// Fills bodies with the lines of one part after the other, and sends them on.
pub(super) struct Filler {
    pub(super) builder: BodyBuilder,
    /// Of the part in hand,
    pub(super) lines: Box<dyn LineReader>,
    /// and what is known of it.
    pub(super) file: FileRead,
    /// The line that is on its way to quarantine, since it is too long to be held; with its id and
    /// length so far.
    pub(super) long: Option<(Keeping, EventIdHasher, u64)>,
    format: Arc<dyn Format>,
    quarantine: Quarantine,
    /// Where bodies go. The slots that they take bound them.
    bodies: mpsc::UnboundedSender<Body>,
    run: Run,
    summary: Live,
    /// Whether lines are only checked: their file is kept, and delivered later.
    pub(super) only_checks: bool,
    /// Rows that are not yet counted.
    uncounted: u64,
    /// The row in hand; its memory is used again.
    row: Vec<u8>,
}

/// What is known of a file.
#[derive(Default)]
pub(super) struct FileRead {
    /// How far it is read: at first what the checkpoint says.
    pub(super) progress: FileProgress,
    /// The events that were read of it in this run.
    pub(super) events: u64,
}

impl Filler {
    pub(super) fn new(pull: &StreamPull, bodies: mpsc::UnboundedSender<Body>) -> Self {
        let format = pull.connector.source.format(&pull.stream);
        let run = pull.run.clone();
        Self {
            builder: BodyBuilder::new(pull.stream.name, run.policy.gzip_level, &run.pool),
            lines: format.lines(0),
            file: FileRead::default(),
            long: None,
            format,
            quarantine: pull.connector.quarantine.clone(),
            bodies,
            run,
            summary: pull.summary.clone(),
            only_checks: false,
            uncounted: 0,
            row: Vec::new(),
        }
    }

    /// What fills bodies, for one side at a time.
    pub(super) fn lock(filler: &Mutex<Self>) -> MutexGuard<'_, Self> {
        filler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on in the part in hand, which has just been opened: behind the lines that are read, if
    /// it is still the same content.
    pub(super) fn begin(&mut self, part: &Part, etag: Option<String>) {
        let version = FileVersion { size: part.size, etag };
        let progress = &mut self.file.progress;
        if progress.version != version {
            let held_up = progress.held_up.take();
            *progress = FileProgress { done: Position::Line(0), version, held_up };
        }
        self.builder.begin_file(&part.key, &progress.version, progress.done);
        self.lines = self.format.lines(progress.done.lines());
    }

    /// Reads on in the bytes that are here, on a thread for such work. Returns why it cannot go on,
    /// if not for want of bytes.
    pub(super) async fn work(filler: &Arc<Mutex<Self>>) -> Result<Option<ReadError>, Interrupt> {
        let filler = Arc::clone(filler);
        let working = spawn_blocking(move || {
            let mut filler = Self::lock(&filler);
            let read = filler.read();
            filler.count();
            read
        });
        working.await.map_err(internal)?
    }

    /// Reads on to the end of the bytes that are here. A body that is due or full is sent on.
    fn read(&mut self) -> Result<Option<ReadError>, Interrupt> {
        for read in 0_u64.. {
            let read = if self.only_checks { read } else { self.file.events };
            let look = read.is_multiple_of(self.run.policy.look_every);
            if look {
                self.check()?;
            }
            let Self { lines, builder, format, row, run, .. } = self;
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => return Ok(Some(error)),
            };
            let Line { number, bytes, begins, ends } = line;
            if self.only_checks {
                continue;
            }
            if !(begins && ends) {
                let piece = Bytes::copy_from_slice(bytes);
                let run = run.clone();
                Handle::current().block_on(run.in_time(self.keep_piece(number, piece, ends)))??;
                continue;
            }
            row.clear();
            let (id, made) = format.row(bytes, row);
            let waited = |since: Instant| since.elapsed() >= run.policy.body_wait;
            let due = look && builder.since().is_some_and(waited);
            let full = if due || !builder.fits(row.len()) { builder.take() } else { Ok(None) };
            if let Some(full) = full.map_err(internal)? {
                // This thread waits, since another would find nothing of what is read in its caches.
                Handle::current().block_on(run.pool.send(full, &self.bodies))?;
            }
            builder.put(&line, id, row, made).map_err(internal)?;
            self.uncounted += 1;
            self.reach(number);
        }
        self.check()?;
        Ok(None)
    }

    /// Counts what was read; whether it may read on.
    fn check(&mut self) -> Result<(), Interrupt> {
        self.count();
        // What is only checked makes no rows, however many the run has read before.
        if self.only_checks && !self.run.stop.is_cancelled() {
            return Ok(());
        }
        self.run.check()
    }

    /// Sends a piece of a long line to quarantine, and with its end the line's record after it.
    async fn keep_piece(&mut self, number: u64, bytes: Bytes, ends: bool) -> Result<(), Interrupt> {
        let place = self.builder.place(number);
        let (mut keeping, mut id, mut length) = self.long.take().unwrap_or_else(|| {
            let keeping = self.quarantine.keep_line(&place, &self.file.progress.version);
            (keeping, EventIdHasher::new(), 0)
        });
        id.update(&bytes);
        length += bytes.len() as u64;
        if keeping.write(bytes).await && !ends {
            self.long = Some((keeping, id, length));
            return Ok(());
        }
        let kept = Kept::File(keeping.finish().await?);
        self.builder.reject(too_long(place, id.finish(), length, kept));
        self.summary.with(|summary| summary.events_read += 1);
        self.reach(number);
        Ok(())
    }

    /// One event more is read.
    fn reach(&mut self, line: u64) {
        self.file.progress.done = Position::Line(line);
        self.file.events += 1;
    }

    fn count(&mut self) {
        let rows = std::mem::take(&mut self.uncounted);
        self.run.count_rows(rows);
        self.summary.with(|summary| summary.events_read += rows);
    }
}

/// The rejection of a line that is too long to be held.
pub(super) fn too_long(position: FilePosition, id: EventId, length: u64, kept: Kept) -> Rejection {
    let detail = format!("the line has {length} bytes, more than MAX_LINE_BYTES");
    let (event_id, reason, delivered) = (id.to_string(), "line-too-long", false);
    Rejection { position, event_id, reason, detail, delivered, kept }
}
