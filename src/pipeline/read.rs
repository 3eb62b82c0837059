//! From the bytes of a part to bodies: reads lines, makes rows of them, fills bodies.
//!
//! It does no I/O: `page` brings it bytes. It waits for nothing but room for a body.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::{Body, BodyBuilder};
use super::fault::{Interrupt, internal};
use super::source::{Format, Line, LineReader, ReadError};
use super::stream::StreamPull;
use super::{Policy, Run};
use crate::quarantine::Rejection;

/// Fills bodies with the lines of one part after the other, and sends them on.
pub(super) struct Filler {
    pub(super) builder: BodyBuilder,
    /// Of the part in hand.
    pub(super) lines: Box<dyn LineReader>,
    /// How many of its lines are read.
    pub(super) line: u64,
    /// How many of them were events, in this run.
    pub(super) events: u64,
    format: Arc<dyn Format>,
    /// Where bodies go. The slots that they take bound them.
    bodies: mpsc::UnboundedSender<Body>,
    run: Run,
    /// Ends the reading.
    stop: CancellationToken,
    policy: Policy,
    /// The row in hand; its memory is used again.
    row: Vec<u8>,
    /// The piece of a long line in hand: the line's number, its bytes, and whether it is the last.
    piece: Option<(u64, Bytes, bool)>,
}

impl Filler {
    pub(super) fn new(
        format: Arc<dyn Format>,
        bodies: mpsc::UnboundedSender<Body>,
        pull: &StreamPull<'_>,
        stop: CancellationToken,
    ) -> Self {
        let (run, policy) = (pull.run.clone(), pull.connector.policy);
        Self {
            builder: BodyBuilder::new(pull.stream.name, policy.gzip_level, &run.pool),
            lines: format.lines(0),
            line: 0,
            events: 0,
            format,
            bodies,
            run,
            stop,
            policy,
            row: Vec::new(),
            piece: None,
        }
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

    /// Sends on what is in the body in hand as soon as there is room for it.
    pub(super) async fn flush(filler: &Mutex<Self>) -> Result<(), Interrupt> {
        let (body, pool, bodies) = {
            let mut filler = Self::lock(filler);
            let body = filler.builder.take().map_err(internal)?;
            (body, filler.run.pool.clone(), filler.bodies.clone())
        };
        match body {
            Some(body) => pool.send(body, &bodies).await,
            None => Ok(()),
        }
    }

    /// Reads on in the bytes that are here, on a thread for such work. Returns the events that it
    /// read.
    pub(super) async fn work(
        filler: &Arc<Mutex<Self>>,
    ) -> Result<(Result<Option<(u64, Bytes, bool)>, ReadError>, u64), Interrupt> {
        let filler = Arc::clone(filler);
        let working = tokio::task::spawn_blocking(move || {
            let mut filler = Self::lock(&filler);
            let before = filler.events;
            let step = filler.step();
            (step, filler.events - before)
        });
        Ok(working.await.map_err(internal)?)
    }

    /// Reads on to the end of the bytes that are here, or to a piece of a line that is too long to be
    /// held: the line's number, its bytes, and whether it is the last. At a stop, it reads no further.
    fn step(&mut self) -> Result<Option<(u64, Bytes, bool)>, ReadError> {
        let mut counted = self.events;
        let read = loop {
            if self.events.is_multiple_of(self.policy.look_every) {
                self.run.count_rows(self.events - counted);
                counted = self.events;
                if self.stop.is_cancelled() || self.run.has_read_enough() {
                    break Ok(None);
                }
            }
            match self.next() {
                Ok(true) => {}
                Ok(false) => break Ok(self.piece.take()),
                Err(error) => break Err(error),
            }
        };
        self.run.count_rows(self.events - counted);
        read
    }

    /// Puts the next line into the body in hand, which is sent on before if it is due or full. False
    /// if there is none, or only a piece of one.
    fn next(&mut self) -> Result<bool, ReadError> {
        let Self { lines, builder, format, row, run, bodies, .. } = self;
        let Some(line) = lines.next()? else { return Ok(false) };
        let Line { number, bytes, begins, ends } = line;
        if !(begins && ends) {
            self.piece = Some((number, Bytes::copy_from_slice(bytes), ends));
            return Ok(false);
        }
        row.clear();
        let (id, made) = format.row(bytes, row);
        let look = self.events.is_multiple_of(self.policy.look_every);
        let waited = |since: Instant| since.elapsed() >= self.policy.body_wait;
        let due = look && builder.since().is_some_and(waited);
        let full = if due || !builder.fits(row.len()) { builder.take() } else { Ok(None) };
        if let Some(full) = full.map_err(ReadError::Broken)? {
            // This thread waits, since another would find nothing of what is read in its caches.
            let sent = Handle::current().block_on(run.pool.send(full, bodies));
            if sent.is_err() {
                // Nobody takes it any more.
                self.stop.cancel();
                return Ok(false);
            }
        }
        builder.put(&line, id, row, made).map_err(ReadError::Broken)?;
        self.line = number;
        self.events += 1;
        Ok(true)
    }
}
