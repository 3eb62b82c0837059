//! Large buffers that are used again.
//!
//! A body's buffers are made on one thread and let go on another, a megabyte a time. Given back to
//! the allocator, or grown step by step, they leave holes, and the process grows to twice what it
//! uses. Room that is not written to costs nothing.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that wait to be used again. As many as were ever used at the same time.
#[derive(Debug)]
pub struct Buffers<T> {
    waiting: Arc<Mutex<Vec<Vec<T>>>>,
    room: usize,
}

/// A buffer that goes back when it is dropped.
pub struct Buffer<T> {
    items: Vec<T>,
    home: Buffers<T>,
}

impl<T> Buffers<T> {
    /// Buffers that have room for so many items when they are made.
    pub fn with_room(room: usize) -> Self {
        Self { waiting: Arc::default(), room }
    }

    /// An empty buffer, one that was used before if there is one.
    pub fn take(&self) -> Buffer<T> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let items = waiting.unwrap_or_else(|| Vec::with_capacity(self.room));
        Buffer { items, home: self.clone() }
    }

    /// An empty buffer without any memory, for what may never need it.
    pub fn none(&self) -> Buffer<T> {
        Buffer { items: Vec::new(), home: self.clone() }
    }
}

impl<T> Clone for Buffers<T> {
    fn clone(&self) -> Self {
        Self { waiting: Arc::clone(&self.waiting), room: self.room }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let mut items = std::mem::take(&mut self.items);
        if items.capacity() == 0 {
            return;
        }
        items.clear();
        // A body that does not compress needs much more than the next.
        items.shrink_to(self.home.room);
        self.home.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(items);
    }
}

impl AsRef<[u8]> for Buffer<u8> {
    fn as_ref(&self) -> &[u8] {
        &self.items
    }
}

impl<T> Deref for Buffer<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.items
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.items
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items", self.items.len())
    }
}
