//! The memory for bodies: what bounds it, and large buffers that are used again.
//!
//! A body's buffers are made on one thread and dropped on another, a megabyte at a time. Given back
//! to the allocator, or grown step by step, they leave holes, and the process grows to twice what
//! it uses. Room that is not written to costs nothing.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc};

use super::body::{Body, BodyRow, MAX_BODY_BYTES};
use super::fault::Interrupt;

/// What one slot stands for: a full body of usual events, with its lines, takes two.
const SLOT_BYTES: usize = 512 * 1024;

/// The memory for bodies, shared by all streams of a process: buffers that are used again, and
/// slots, which bound the bodies in flight in bytes and in number.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(super) gzip: Arc<Buffer<u8>>,
    pub(super) lines: Arc<Buffer<u8>>,
    pub(super) rows: Arc<Buffer<BodyRow>>,
    slots: Arc<Semaphore>,
    all: usize,
}

/// 16 slots, which are 8 MiB.
impl Default for Pool {
    fn default() -> Self {
        Self::new(16)
    }
}

impl Pool {
    /// A pool of so many slots of 512 KiB, with buffers that have room for a full body of usual
    /// events, whose rows have some 800 bytes and shrink to a seventh.
    pub fn new(slots: usize) -> Self {
        Self {
            gzip: Arc::new(Buffer::with_room(MAX_BODY_BYTES / 4)),
            lines: Arc::new(Buffer::with_room(MAX_BODY_BYTES)),
            rows: Arc::new(Buffer::with_room(2_048)),
            slots: Arc::new(Semaphore::new(slots)),
            all: slots,
        }
    }

    /// Sends a body on as soon as there is room for it; out of time if nobody takes it any more.
    /// One that is larger than all slots is in flight alone.
    pub(super) async fn send(
        &self,
        mut body: Body,
        bodies: &mpsc::UnboundedSender<Body>,
    ) -> Result<(), Interrupt> {
        let slots = body.size().div_ceil(SLOT_BYTES).clamp(1, self.all);
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let slots = tokio::select! {
            slots = Arc::clone(&self.slots).acquire_many_owned(slots) => slots,
            () = bodies.closed() => return Err(Interrupt::OutOfTime),
        };
        body.slots = Some(slots.map_err(|_| Interrupt::OutOfTime)?);
        bodies.send(body).map_err(|_| Interrupt::OutOfTime)
    }
}

/// A buffer whose memory is kept for another one when it is dropped. As many are kept as were ever
/// used at the same time.
pub struct Buffer<T> {
    /// What is in it.
    pub items: Vec<T>,
    room: usize,
    kept: Arc<Mutex<Vec<Vec<T>>>>,
}

impl<T> Buffer<T> {
    /// A buffer without memory; those that are [taken](Self::take) of it have room for so many
    /// items.
    fn with_room(room: usize) -> Self {
        Self { items: Vec::new(), room, kept: Arc::default() }
    }

    /// An empty buffer of the same kind, with the memory of one that was dropped if there is any.
    pub(super) fn take(&self) -> Self {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let items = kept.unwrap_or_else(|| Vec::with_capacity(self.room));
        Self { items, room: self.room, kept: Arc::clone(&self.kept) }
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self::with_room(0)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let mut items = std::mem::take(&mut self.items);
        if items.capacity() > 0 {
            items.clear();
            // A body that does not compress needs much more than the next.
            items.shrink_to(self.room);
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(items);
        }
    }
}

impl AsRef<[u8]> for Buffer<u8> {
    fn as_ref(&self) -> &[u8] {
        &self.items
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items", self.items.len())
    }
}
