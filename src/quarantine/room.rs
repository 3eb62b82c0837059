//! The limit on what quarantine holds.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Mutex;

use super::in_quarantine;
use crate::store::{ByteStream, Store, StoreError};

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// It would exceed the limit.
    #[error(
        "quarantine in {location} holds {used} of the {most} bytes that QUARANTINE_MAX_BYTES \
         allows, and there is no room for {name}"
    )]
    Full {
        /// The store's [`Store::location`].
        location: String,
        /// What is not kept.
        name: String,
        /// The bytes that quarantine holds.
        used: u64,
        /// The bytes that it may hold.
        most: u64,
    },
    /// It cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The bytes that quarantine may hold, those of all streams, and those that it holds.
///
/// They are counted once in a run, when the first are to be kept; then what is written is added.
/// What is overwritten is counted twice until the next run.
pub(super) struct Room {
    most: u64,
    used: Mutex<Option<u64>>,
}

impl Room {
    pub(super) fn of(most: u64) -> Self {
        Self { most, used: Mutex::default() }
    }

    /// Others may have removed or added something.
    pub(super) async fn recount(&self) {
        *self.used.lock().await = None;
    }

    /// Takes room for bytes that are to be written as `name`.
    pub(super) async fn take(
        &self,
        store: &dyn Store,
        name: &str,
        bytes: usize,
    ) -> Result<(), QuarantineError> {
        let mut counted = self.used.lock().await;
        let used = match *counted {
            Some(used) => used,
            None => store.size(&in_quarantine(None)).await?,
        };
        let with_it = used.saturating_add(bytes as u64);
        *counted = Some(if with_it > self.most { used } else { with_it });
        if with_it > self.most {
            let (location, name, most) = (store.location(), name.to_owned(), self.most);
            return Err(QuarantineError::Full { location, name, used, most });
        }
        Ok(())
    }

    /// Writes a stream as `name`, as long as there is room for it. If it is not written, it takes
    /// none.
    pub(super) async fn write_stream(
        self: &Arc<Self>,
        store: &Arc<dyn Store>,
        name: &str,
        bytes: ByteStream,
    ) -> Result<(), QuarantineError> {
        let taken = Arc::new(AtomicU64::new(0));
        let refused = Arc::new(OnceLock::new());
        let counted = {
            let (room, store, name) = (Arc::clone(self), Arc::clone(store), name.to_owned());
            let (taken, refused) = (Arc::clone(&taken), Arc::clone(&refused));
            bytes.and_then(move |piece: Bytes| {
                let (room, store, name) = (Arc::clone(&room), Arc::clone(&store), name.clone());
                let (taken, refused) = (Arc::clone(&taken), Arc::clone(&refused));
                async move {
                    if let Err(error) = room.take(&*store, &name, piece.len()).await {
                        let what = io::Error::other(error.to_string());
                        drop(refused.set(error));
                        return Err(what);
                    }
                    taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    Ok(piece)
                }
            })
        };
        let Err(error) = store.write_stream(name, counted.boxed()).await else { return Ok(()) };
        let taken = taken.load(Ordering::Relaxed);
        if let Some(used) = self.used.lock().await.as_mut() {
            *used = used.saturating_sub(taken);
        }
        let refused = Arc::into_inner(refused).and_then(OnceLock::into_inner);
        Err(match refused {
            Some(QuarantineError::Full { location, name, used, most }) => {
                let used = used.saturating_sub(taken);
                QuarantineError::Full { location, name, used, most }
            }
            other => other.unwrap_or_else(|| error.into()),
        })
    }
}
