//! From the reading side of a stream to its delivering side.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::body::Body;

/// What one slot stands for: a full body of usual events, with its lines, takes two.
const SLOT_BYTES: usize = 512 * 1024;

/// What bounds the bodies in flight, those of all streams together, in bytes and in number.
#[derive(Clone)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    all: usize,
}

impl Slots {
    pub(super) fn new(all: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(all)), all }
    }

    /// The slots that a body of this many bytes takes. One that is larger than all of them is in
    /// flight alone.
    async fn acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Closed> {
        let slots = bytes.div_ceil(SLOT_BYTES).clamp(1, self.all);
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        Arc::clone(&self.free).acquire_many_owned(slots).await.map_err(|_| Closed)
    }
}

/// Takes the full bodies of a stream. It makes the reading side wait while as many as the run may
/// have in memory are not yet recorded: nothing is read that cannot be sent.
#[derive(Clone)]
pub(super) struct Outbox {
    slots: Slots,
    bodies: mpsc::UnboundedSender<Outgoing>,
}

/// A body on its way to the sink, and its place among those in flight, which is free again once
/// this is dropped.
pub(super) struct Outgoing {
    pub(super) body: Body,
    pub(super) slots: OwnedSemaphorePermit,
}

/// The delivering side has ended.
pub(super) struct Closed;

impl Outbox {
    /// An outbox, and the end at which the bodies come out. `slots` are shared by all streams; they
    /// are what bounds the channel.
    pub(super) fn new(slots: Slots) -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (bodies, outgoing) = mpsc::unbounded_channel();
        (Self { slots, bodies }, outgoing)
    }

    /// Sends a body on as soon as there is room for it.
    pub(super) async fn send(&self, body: Body) -> Result<(), Closed> {
        let slots = tokio::select! {
            slots = self.slots.acquire(body.size()) => slots?,
            () = self.bodies.closed() => return Err(Closed),
        };
        self.bodies.send(Outgoing { body, slots }).map_err(|_| Closed)
    }
}
