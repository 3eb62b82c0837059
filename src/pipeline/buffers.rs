//! Large buffers that are used again.
//!
//! A body's buffers are made on one thread and let go on another, a megabyte a time. Given back to
//! the allocator they leave holes, and the process grows to twice what it uses.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that wait to be used again. As many as were ever used at the same time.
#[derive(Debug)]
pub struct Buffers<T>(Arc<Mutex<Vec<Vec<T>>>>);

/// A buffer that goes back when it is dropped.
pub struct Buffer<T> {
    items: Vec<T>,
    home: Buffers<T>,
}

impl<T> Buffers<T> {
    /// An empty buffer, one that was used before if there is one.
    pub fn take(&self) -> Buffer<T> {
        let items = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { items: items.unwrap_or_default(), home: self.clone() }
    }

    /// An empty buffer without any memory, for what may never need it.
    pub fn none(&self) -> Buffer<T> {
        Buffer { items: Vec::new(), home: self.clone() }
    }
}

impl<T> Clone for Buffers<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Buffers<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let mut items = std::mem::take(&mut self.items);
        if items.capacity() == 0 {
            return;
        }
        items.clear();
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(items);
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
