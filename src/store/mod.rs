//! Where checkpoints and quarantine are: a local folder or Azure Blob Storage.
//!
//! Names are relative, `/`-separated and made by this program: `checkpoints/<stream>.json`,
//! `quarantine/<stream>/…`. A part of a name consists of ASCII letters, digits and `-_.=+@~,`, does
//! not begin with a dot and does not end in `.lock`; another name is [`StoreError::Failed`].

mod area;
mod below;
mod files;
mod folder;
mod keeping;
mod lock;
mod null;
mod probe;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

pub use area::{Area, KeepError};
pub use below::Below;
pub use folder::FolderStore;
pub use keeping::Keeping;
pub use null::NullStore;

/// Bytes that arrive piece by piece, as a download does.
pub type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Names that come one by one, since there may be many.
pub type Names<'a> = BoxStream<'a, Result<String, StoreError>>;

/// A place that keeps named objects.
///
/// What a method has answered `Ok` to is durable: it outlives the process and the machine's crash.
/// An empty object is the same as none: a blob has to exist before it can be leased.
#[async_trait]
pub trait Store: Send + Sync {
    /// Where it is, for a person. Never with a SAS or another secret.
    fn location(&self) -> String;

    /// The object's bytes; `None` if there is none. One that is larger than any that this program
    /// writes whole is [`StoreError::Refused`].
    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError>;

    /// The same piece by piece, for an object that may be large.
    async fn read_stream(&self, name: &str) -> Result<Option<ByteStream>, StoreError> {
        let bytes = self.read(name).await?;
        Ok(bytes.map(|bytes| stream::iter([Ok(bytes)]).boxed()))
    }

    /// Writes an object whole, over an older one of that name. An object whose lease somebody holds
    /// is written through the [`Lease`] only.
    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError>;

    /// Writes an object from a stream without holding it in memory. An interrupted write leaves
    /// nothing, or the older object, under that name.
    async fn write_stream(&self, name: &str, bytes: ByteStream) -> Result<(), StoreError>;

    /// The names that begin with `prefix`, in order.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// The same one by one. Those of one folder follow one another, in order; one that is written
    /// meanwhile may be left out.
    fn names<'a>(&'a self, prefix: &'a str) -> Names<'a> {
        let list = stream::once(self.list(prefix));
        list.map_ok(|names| stream::iter(names.into_iter().map(Ok))).try_flatten().boxed()
    }

    /// The bytes of all objects whose names begin with `prefix`. (A store that has them in its
    /// lists reads no object for it.)
    async fn size(&self, prefix: &str) -> Result<u64, StoreError> {
        let mut size = 0;
        for name in self.list(prefix).await? {
            size += self.read(&name).await?.map_or(0, |bytes| bytes.len() as u64);
        }
        Ok(size)
    }

    /// Removes an object; one that is not there is fine.
    async fn delete(&self, name: &str) -> Result<(), StoreError>;

    /// Takes the lease on `name`, at once or not at all: `None` means that somebody else has it.
    async fn lease(&self, name: &str) -> Result<Option<Box<dyn Lease>>, StoreError>;

    /// Tries with an object of this name, which nothing else may have, all that a run needs: a lease,
    /// writing, reading, listing and removing. Nothing is left of it.
    ///
    /// # Errors
    /// What did not work.
    async fn probe(&self, name: &str) -> Result<(), StoreError> {
        probe::probe(self, name).await
    }
}

/// The right to write one object, held until it is released, dropped or lost.
///
/// It is renewed in the background. Dropping it lets it go without waiting; in Blob Storage it then
/// runs out by itself within 60 seconds.
#[async_trait]
pub trait Lease: Send + Sync {
    /// Whether it is held, as far as is known without waiting: a blob's within its term, a folder's
    /// when its file was last looked at, seconds ago. Once it has said no, it never says yes again.
    fn held(&self) -> bool;

    /// What tells others whether it is held, while its owner writes.
    fn watch(&self) -> LeaseWatch;

    /// The object's bytes; `None` if there is none yet.
    async fn read(&mut self) -> Result<Option<Bytes>, StoreError>;

    /// Writes the object, if the lease is held and nobody else has written since the last
    /// [`Lease::read`] or [`Lease::write`], or since it was taken. After
    /// [`StoreError::Failed`] it may have been written all the same: read again before the next one.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Removes the object, under the same conditions as [`Lease::write`], and releases the lease.
    async fn clear(self: Box<Self>) -> Result<(), StoreError>;

    /// Lets it go, so that another can have it at once. One that was already lost is fine.
    async fn release(self: Box<Self>) -> Result<(), StoreError>;

    /// Where the object was, if it was lost since that place is gone, and not since another has it.
    fn gone(&self) -> Option<String> {
        None
    }
}

/// Tells whether a [`Lease`] is held.
#[derive(Clone)]
pub struct LeaseWatch(Arc<dyn Fn() -> bool + Send + Sync>);

impl LeaseWatch {
    /// A watch that asks `held`.
    pub fn new(held: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(held))
    }

    /// What [`Lease::held`] says.
    pub fn held(&self) -> bool {
        (self.0)()
    }
}

impl std::fmt::Debug for LeaseWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LeaseWatch").field(&self.held()).finish()
    }
}

/// The most bytes that are read of an object that is read whole: more than this program ever
/// writes.
///
/// A checkpoint has the names of a page's files: a listing has 4 MiB at most, and the listings of
/// one page are mostly the same. A record of quarantine has a line of `MAX_LINE_BYTES`, 16 MiB at
/// most, of which JSON may write each byte in six.
pub(crate) fn most_bytes(name: &str) -> u64 {
    if name.starts_with("checkpoints/") { 64 << 20 } else { 128 << 20 }
}

/// An object that is read whole has more bytes than [`most_bytes`].
#[derive(Debug, thiserror::Error)]
#[error(
    "it has {length} bytes, and more than {most} are not read: put back what was there, or \
     remove it"
)]
pub(crate) struct TooLarge {
    pub(crate) length: u64,
    pub(crate) most: u64,
}

/// Whether `name` may name an object; what it may look like stands at the top of this file.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= 900 && name.split('/').all(is_part)
}

/// Whether `part` may stand between the slashes of a name. (255 bytes are what file systems take;
/// the rest is left to a store's own prefixes and suffixes. Azure takes 1,024 characters in all.)
pub(crate) fn is_part(part: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=+@~,".contains(&byte);
    (1..=200).contains(&part.len())
        && part.bytes().all(fits)
        && !part.starts_with('.')
        && !part.ends_with('.')
        && !part.ends_with(".lock")
}

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The lease ran out or somebody broke it, or the object changed under it: another connector
    /// writes the same checkpoint.
    #[error("the lease on {name} in {location} was lost")]
    LeaseLost {
        /// The store's [`Store::location`].
        location: String,
        /// The object.
        name: String,
    },
    /// The store refuses this identity, or the place does not exist: a setting or a role is wrong.
    #[error("{location} refuses {action}: {reason}")]
    Refused {
        /// The store's [`Store::location`].
        location: String,
        /// What was tried, e.g. `writing checkpoints/mailflow.json`.
        action: String,
        /// In the store's own words.
        reason: String,
    },
    /// Anything else: the network, a full disk.
    #[error("{action} in {location} failed: {reason}")]
    Failed {
        /// The store's [`Store::location`].
        location: String,
        /// What was tried.
        action: String,
        /// In the store's own words.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn a_name_stays_inside_its_store() {
        for name in ["checkpoints/mailflow.json", "quarantine/urlclick/9f-12=a.json", "a..b"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(201);
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../a",
            "a/../b",
            "a//b",
            "a/",
            "a\\b",
            "C:a",
            "a b",
            ".a",
            "a/.b",
            "a.",
            "a.lock",
            "a/b.lock",
            "a\0b",
            "a\nb",
            "ä",
            "a%2fb",
            "a*",
            "a?b",
            &long,
        ] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
