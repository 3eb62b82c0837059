//! Batch files that were kept whole while the destination was down: Mimecast forgets its own after
//! days. They are numbered in the order in which they came.
//!
//! ```text
//! spill/<stream>/<number>    one line of JSON that says which file it is, then its bytes as they came
//! ```
//! Which numbers wait is in the stream's checkpoint. One that is not counted there yet is written again,
//! under the same number.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::checkpoint::FileProgress;
use crate::store::{Area, ByteStream, Keeping, Store, StoreError};

/// Files that are removed at the same time.
const AT_ONCE: usize = 8;

/// The most bytes of a first line: a key is part of a listing, and far shorter.
const MAX_HEADER: usize = 64 * 1024;

/// The files that are kept of all streams.
#[derive(Clone, Debug)]
pub struct SpilledFiles(Area);

/// What there is under a number.
#[allow(missing_debug_implementations, reason = "bytes on their way have none")]
pub enum InSpill {
    /// Nothing any more.
    Gone,
    /// What does not begin as it was written.
    Damaged,
    /// This file, and its bytes.
    File(SpilledFile, ByteStream),
}

/// Which file it is: its first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpilledFile {
    /// Its key.
    pub file: String,
    /// Its size and `ETag`, as they were at its source, and what was delivered of it before.
    #[serde(flatten)]
    pub progress: FileProgress,
}

impl SpilledFiles {
    /// Those in a store, without a limit.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(Area::new(store, "spill"))
    }

    /// The same with a limit, in bytes.
    #[must_use]
    pub fn of_at_most(self, bytes: u64) -> Self {
        Self(self.0.of_at_most("SPILL_MAX_BYTES", bytes))
    }

    /// A run begins: what is kept is counted again when it is first needed.
    pub async fn recount(&self) {
        self.0.recount().await;
    }

    /// Where they are, for a person.
    pub fn location(&self, stream: &str) -> String {
        self.0.location(stream)
    }

    /// Begins to keep a file under a number.
    pub async fn keep(&self, stream: &str, number: u64, file: &SpilledFile) -> Keeping {
        let mut keeping = self.0.keep(object(stream, number));
        // Texts and numbers: nothing in it can fail to serialise.
        let mut header = serde_json::to_vec(file).unwrap_or_default();
        header.push(b'\n');
        // What is wrong is reported when it is finished.
        keeping.write(header.into()).await;
        keeping
    }

    /// The lowest number and the one behind the highest, if there is a file.
    pub async fn range(&self, stream: &str) -> Result<Option<(u64, u64)>, StoreError> {
        let below = folder(stream);
        let mut names = self.0.store.names(&below);
        let mut range: Option<(u64, u64)> = None;
        while let Some(name) = names.try_next().await? {
            let Some(number) = number(stream, &name) else { continue };
            let (first, next) = range.unwrap_or((number, number));
            range = Some((first.min(number), next.max(number + 1)));
        }
        Ok(range)
    }

    /// Removes the files with lower numbers: they are delivered.
    pub async fn remove_before(&self, stream: &str, first: u64) -> Result<(), StoreError> {
        let below = folder(stream);
        let names = self.0.store.names(&below);
        let lower = |name: &String| number(stream, name).is_some_and(|number| number < first);
        let names = names.try_filter(|name| std::future::ready(lower(name)));
        let remove = |name: String| async move { self.0.store.delete(&name).await };
        names.map_ok(remove).try_buffer_unordered(AT_ONCE).try_collect().await
    }

    /// What is kept under a number.
    pub async fn open(&self, stream: &str, number: u64) -> Result<InSpill, StoreError> {
        let name = object(stream, number);
        let Some(mut bytes) = self.0.store.read_stream(&name).await? else {
            return Ok(InSpill::Gone);
        };
        let mut begun = BytesMut::new();
        let end = loop {
            if let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                break Some(end);
            }
            match bytes.next().await {
                Some(Ok(piece)) if begun.len() <= MAX_HEADER => begun.extend_from_slice(&piece),
                Some(Err(error)) => {
                    let (location, action) = (self.0.store.location(), format!("reading {name}"));
                    let reason = error.to_string();
                    return Err(StoreError::Failed { location, action, reason });
                }
                _ => break None,
            }
        };
        let header = end.map(|end| begun.split_to(end + 1));
        let Some(file) = header.and_then(|header| serde_json::from_slice(&header).ok()) else {
            return Ok(InSpill::Damaged);
        };
        let rest: io::Result<Bytes> = Ok(begun.freeze());
        Ok(InSpill::File(file, stream::iter([rest]).chain(bytes).boxed()))
    }
}

fn folder(stream: &str) -> String {
    format!("spill/{stream}/")
}

fn object(stream: &str, number: u64) -> String {
    format!("{}{number:010}", folder(stream))
}

fn number(stream: &str, name: &str) -> Option<u64> {
    name.strip_prefix(&folder(stream))?.parse().ok()
}
