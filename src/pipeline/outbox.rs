//! From the reading side of a stream to its delivering side.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::body::Body;

/// Takes the full bodies of a stream. It makes the reading side wait while as many bodies as the
/// run may have in memory, those of all streams together, are not yet recorded: nothing is read
/// that cannot be sent.
#[derive(Clone)]
pub(super) struct Outbox {
    slots: Arc<Semaphore>,
    bodies: mpsc::UnboundedSender<Outgoing>,
}

/// A body on its way to the sink, and its place among those in flight, which is free again once
/// this is dropped.
pub(super) struct Outgoing {
    pub(super) body: Body,
    pub(super) slot: OwnedSemaphorePermit,
}

/// The delivering side has ended.
pub(super) struct Closed;

impl Outbox {
    /// An outbox, and the end at which the bodies come out. `slots` are shared by all streams; they
    /// are what bounds the channel.
    pub(super) fn new(slots: Arc<Semaphore>) -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (bodies, outgoing) = mpsc::unbounded_channel();
        (Self { slots, bodies }, outgoing)
    }

    /// Sends a body on as soon as there is a slot for it.
    pub(super) async fn send(&self, body: Body) -> Result<(), Closed> {
        let slot = tokio::select! {
            slot = Arc::clone(&self.slots).acquire_owned() => slot.map_err(|_| Closed)?,
            () = self.bodies.closed() => return Err(Closed),
        };
        self.bodies.send(Outgoing { body, slot }).map_err(|_| Closed)
    }
}
