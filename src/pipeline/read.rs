//! From the bytes of a part to bodies: reads lines, makes rows of them, fills bodies.
//!
//! It neither waits nor does I/O: `page` brings it bytes, and takes what comes of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::{Body, BodyBuilder};
use super::fault::{Interrupt, internal};
use super::source::{Format, Line, LineReader, ReadError};
use super::{Policy, Run};
use crate::quarantine::Rejection;

/// Fills bodies with the lines of one part after the other.
pub(super) struct Filler {
    pub(super) builder: BodyBuilder,
    /// Of the part in hand.
    pub(super) lines: Box<dyn LineReader>,
    /// How many of its lines are read.
    pub(super) line: u64,
    /// How many of them were events, in this run.
    pub(super) events: u64,
    format: Arc<dyn Format>,
    run: Run,
    /// Ends the reading.
    stop: CancellationToken,
    policy: Policy,
    /// The row in hand; its memory is used again.
    row: Vec<u8>,
}

/// What came of the bytes that are here.
pub(super) enum Step {
    /// They are read.
    Read,
    /// A body is full, or has waited long enough.
    Body(Body),
    /// A piece of the line of this number, which is too long to be held, and whether it is the
    /// last.
    Piece(u64, Bytes, bool),
}

impl Filler {
    pub(super) fn new(
        format: Arc<dyn Format>,
        builder: BodyBuilder,
        run: Run,
        stop: CancellationToken,
        policy: Policy,
    ) -> Self {
        let (lines, row) = (format.lines(0), Vec::new());
        Self { builder, lines, line: 0, events: 0, format, run, stop, policy, row }
    }

    /// What fills bodies, for one side at a time.
    pub(super) fn lock(filler: &Mutex<Self>) -> MutexGuard<'_, Self> {
        filler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on in another part, or in the same from its beginning, behind the line `from`.
    pub(super) fn begin(&mut self, from: u64) {
        self.lines = self.format.lines(from);
        self.line = from;
    }

    /// The next line is rejected.
    pub(super) fn reject(&mut self, rejection: Rejection) {
        self.line = rejection.position.line;
        self.builder.reject(rejection);
    }

    /// Reads on in the bytes that are here, on a thread for such work. Returns the events that it
    /// read.
    pub(super) async fn work(
        filler: &Arc<Mutex<Self>>,
    ) -> Result<(Result<Step, ReadError>, u64), Interrupt> {
        let filler = Arc::clone(filler);
        let working = tokio::task::spawn_blocking(move || {
            let mut filler = Self::lock(&filler);
            let before = filler.events;
            let step = filler.step();
            (step, filler.events - before)
        });
        Ok(working.await.map_err(internal)?)
    }

    /// Reads on until something must be done that takes time. At a stop, it reads no further.
    fn step(&mut self) -> Result<Step, ReadError> {
        let mut counted = self.events;
        let step = loop {
            if self.events.is_multiple_of(self.policy.look_every) {
                self.run.count_rows(self.events - counted);
                counted = self.events;
                if self.stop.is_cancelled() || self.run.has_read_enough() {
                    break Ok(Step::Read);
                }
            }
            match self.next() {
                Ok(None) => {}
                Ok(Some(step)) => break Ok(step),
                Err(error) => break Err(error),
            }
        };
        self.run.count_rows(self.events - counted);
        step
    }

    /// Puts the next line into the body in hand. `None` if that is all there is to do.
    fn next(&mut self) -> Result<Option<Step>, ReadError> {
        let Self { lines, builder, format, row, .. } = self;
        let Some(line) = lines.next()? else { return Ok(Some(Step::Read)) };
        let Line { number, bytes, begins, ends } = line;
        if !(begins && ends) {
            let bytes = Bytes::copy_from_slice(bytes);
            return Ok(Some(Step::Piece(number, bytes, ends)));
        }
        row.clear();
        let (id, made) = format.row(bytes, row);
        let look = self.events.is_multiple_of(self.policy.look_every);
        let waited = |since: Instant| since.elapsed() >= self.policy.body_wait;
        let due = look && builder.since().is_some_and(waited);
        let full = if due || !builder.fits(row.len()) { builder.take() } else { Ok(None) };
        let put = full.and_then(|full| builder.put(&line, id, row, made).map(|()| full));
        let full = put.map_err(ReadError::Broken)?;
        self.line = number;
        self.events += 1;
        Ok(full.map(Step::Body))
    }
}
