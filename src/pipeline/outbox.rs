//! From the reading side of a stream to its delivering side, and what bounds what is between them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::body::{Body, BodyRow, MAX_BODY_BYTES};
use super::buffers::Buffers;
use super::fault::Interrupt;

/// What one slot stands for: a full body of usual events, with its lines, takes two.
const SLOT_BYTES: usize = 512 * 1024;

/// The memory for bodies, shared by all streams of a run: buffers that are used again, and slots, which
/// bound the bodies in flight in bytes and in number.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(super) gzip: Buffers<u8>,
    pub(super) lines: Buffers<u8>,
    pub(super) rows: Buffers<BodyRow>,
    slots: Arc<Semaphore>,
    all: usize,
}

impl Pool {
    /// A pool of so many slots, with buffers that have room for a full body of usual events, whose rows
    /// have some 800 bytes and shrink to a seventh.
    pub fn new(slots: usize) -> Self {
        Self {
            gzip: Buffers::with_room(MAX_BODY_BYTES / 4),
            lines: Buffers::with_room(MAX_BODY_BYTES),
            rows: Buffers::with_room(2_048),
            slots: Arc::new(Semaphore::new(slots)),
            all: slots,
        }
    }

    /// The slots that a body of this many bytes takes. One that is larger than all of them is in
    /// flight alone.
    async fn slots(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Interrupt> {
        let slots = bytes.div_ceil(SLOT_BYTES).clamp(1, self.all);
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let slots = Arc::clone(&self.slots).acquire_many_owned(slots).await;
        slots.map_err(|_| Interrupt::OutOfTime)
    }
}

/// Takes the full bodies of a stream. It makes the reading side wait while as many as the run may
/// have in memory are not yet recorded: nothing is read that cannot be sent.
#[derive(Clone)]
pub(super) struct Outbox {
    pool: Pool,
    bodies: mpsc::UnboundedSender<Outgoing>,
}

/// A body on its way to the sink, and its place among those in flight, which is free again once
/// this is dropped.
pub(super) struct Outgoing {
    pub(super) body: Body,
    pub(super) slots: OwnedSemaphorePermit,
}

impl Outbox {
    /// An outbox, and the end at which the bodies come out. The pool's slots are what bounds the
    /// channel.
    pub(super) fn new(pool: &Pool) -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (bodies, outgoing) = mpsc::unbounded_channel();
        (Self { pool: pool.clone(), bodies }, outgoing)
    }

    /// Sends a body on as soon as there is room for it; out of time if the delivering side has ended.
    pub(super) async fn send(&self, body: Body) -> Result<(), Interrupt> {
        let slots = tokio::select! {
            slots = self.pool.slots(body.size()) => slots?,
            () = self.bodies.closed() => return Err(Interrupt::OutOfTime),
        };
        self.bodies.send(Outgoing { body, slots }).map_err(|_| Interrupt::OutOfTime)
    }
}
