//! A part of a store, with a limit on what it holds.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Mutex;

use super::{ByteStream, Store, StoreError};

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It would exceed the limit.
    #[error(
        "{area} in {location} holds {used} of the {most} bytes that {setting} allows, and there is \
         no room for {name}"
    )]
    Full {
        /// What is full: [`Area::name`].
        area: &'static str,
        /// The setting that limits it.
        setting: &'static str,
        /// The store's [`Store::location`].
        location: String,
        /// What is not kept.
        name: String,
        /// The bytes that it holds.
        used: u64,
        /// The bytes that it may hold.
        most: u64,
    },
    /// It cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All objects of a store below one folder, those of all streams.
///
/// With a limit, their bytes are counted once in a run, when the first are to be written; then what is
/// written is added. What is overwritten is counted twice until the next run.
#[derive(Clone)]
pub struct Area {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The folder, without its `/`.
    pub name: &'static str,
    limit: Option<(&'static str, u64)>,
    /// The bytes that it holds, once they are counted.
    used: Arc<Mutex<Option<u64>>>,
}

impl Area {
    /// The folder `name` of a store, without a limit of its own.
    pub fn new(store: Arc<dyn Store>, name: &'static str) -> Self {
        Self { store, name, limit: None, used: Arc::default() }
    }

    /// The same with a limit in bytes, which this setting gives.
    #[must_use]
    pub fn of_at_most(self, setting: &'static str, bytes: u64) -> Self {
        Self { limit: Some((setting, bytes)), ..self }
    }

    /// Where a stream's objects are, for a person.
    pub fn location(&self, stream: &str) -> String {
        format!("{}/{}/{stream}/", self.store.location().trim_end_matches('/'), self.name)
    }

    /// Others may have removed or added something.
    pub async fn recount(&self) {
        *self.used.lock().await = None;
    }

    /// Writes an object whole, if there is room for it.
    pub async fn write(&self, name: &str, bytes: Bytes) -> Result<(), KeepError> {
        self.take(name, bytes.len()).await?;
        Ok(self.store.write(name, bytes).await?)
    }

    /// Takes room for bytes that are to be written as `name`.
    async fn take(&self, name: &str, bytes: usize) -> Result<(), KeepError> {
        let Some((setting, most)) = self.limit else { return Ok(()) };
        let mut counted = self.used.lock().await;
        let used = match *counted {
            Some(used) => used,
            None => self.store.size(&format!("{}/", self.name)).await?,
        };
        let with_it = used.saturating_add(bytes as u64);
        *counted = Some(if with_it > most { used } else { with_it });
        if with_it > most {
            let (location, name) = (self.store.location(), name.to_owned());
            return Err(KeepError::Full { area: self.name, setting, location, name, used, most });
        }
        Ok(())
    }

    /// Writes a stream as `name`, as long as there is room for it. If it is not written, it takes
    /// none.
    pub async fn write_stream(&self, name: &str, bytes: ByteStream) -> Result<(), KeepError> {
        let taken = Arc::new(AtomicU64::new(0));
        let refused = Arc::new(OnceLock::new());
        let counted = {
            let (area, name) = (self.clone(), name.to_owned());
            let (taken, refused) = (Arc::clone(&taken), Arc::clone(&refused));
            bytes.and_then(move |piece: Bytes| {
                let (area, name) = (area.clone(), name.clone());
                let (taken, refused) = (Arc::clone(&taken), Arc::clone(&refused));
                async move {
                    if let Err(error) = area.take(&name, piece.len()).await {
                        let what = io::Error::other(error.to_string());
                        drop(refused.set(error));
                        return Err(what);
                    }
                    taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    Ok(piece)
                }
            })
        };
        let written = self.store.write_stream(name, counted.boxed()).await;
        let Err(error) = written else { return Ok(()) };
        let taken = taken.load(Ordering::Relaxed);
        if let Some(used) = self.used.lock().await.as_mut() {
            *used = used.saturating_sub(taken);
        }
        let refused = Arc::into_inner(refused).and_then(OnceLock::into_inner);
        Err(match refused {
            Some(KeepError::Full { area, setting, location, name, used, most }) => {
                let used = used.saturating_sub(taken);
                KeepError::Full { area, setting, location, name, used, most }
            }
            other => other.unwrap_or_else(|| error.into()),
        })
    }
}

impl std::fmt::Debug for Area {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.name, self.store.location())
    }
}
