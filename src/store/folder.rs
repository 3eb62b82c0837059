//! The store in a local folder.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::ready;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio_util::task::AbortOnDropHandle;

use super::files::warning;
use super::files::{AtPath, Draft, Unfit, Version, entries, open, piece, read, remove, replace};
use super::lock::Lock;
use super::{ByteStream, Lease, LeaseWatch, Names, Store, StoreError, is_name, most_bytes, probe};
use crate::seams::{spawn, spawn_blocking};

/// Objects as files of a folder, readable by their owner alone.
///
/// The folder is made by the first write. A lease is an OS lock on `<name>.lock` beside the object;
/// the operating system releases it when its holder dies, and the empty file stays.
#[derive(Clone, Debug)]
pub struct FolderStore {
    root: Arc<Path>,
}

impl FolderStore {
    /// The store in `root`, which need not exist yet.
    pub fn new(root: impl AsRef<Path>) -> Self {
        let root = root.as_ref();
        Self { root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()).into() }
    }

    /// What a person should know of it before a run: who else can change what is in it.
    pub fn warnings(&self) -> Vec<String> {
        let within = ["checkpoints", "quarantine"].map(|folder| self.root.join(folder));
        let folders = std::iter::once(&*self.root).chain(within.iter().map(PathBuf::as_path));
        folders.filter_map(warning).collect()
    }

    fn path(&self, name: &str, action: &str) -> Result<PathBuf, StoreError> {
        if is_name(name) {
            return Ok(name.split('/').fold(self.root.to_path_buf(), |path, part| path.join(part)));
        }
        Err(self.failed(action.to_owned(), format!("{name:?} cannot be the name of an object")))
    }

    /// What is in one folder on the way to names that begin with `prefix`.
    async fn entries(
        &self,
        prefix: &str,
        folder: String,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let action = format!("listing {prefix}*");
        if let Some(name) = folder.strip_suffix('/') {
            self.path(name, &action)?;
        }
        let root = Arc::clone(&self.root);
        self.run(action, move || entries(&root, &folder)).await
    }

    /// The objects whose names begin with `prefix`, with their lengths, in the order of names.
    fn objects<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Stream<Item = Result<(String, u64), StoreError>> + Send + 'a {
        let folder = prefix.rfind('/').map_or("", |end| &prefix[..=end]);
        // What is still to be given or looked into, the next one last.
        let waiting = vec![(folder.to_owned(), 0)];
        stream::try_unfold(waiting, move |mut waiting| async move {
            while let Some((name, length)) = waiting.pop() {
                if !name.is_empty() && !name.ends_with('/') {
                    return Ok(Some(((name, length), waiting)));
                }
                let mut found = self.entries(prefix, name).await?;
                found.retain(|(name, _)| name.starts_with(prefix));
                waiting.extend(found.into_iter().rev());
            }
            Ok(None)
        })
    }

    /// Runs what blocks where it may.
    async fn run<T: Send + 'static>(
        &self,
        action: String,
        work: impl FnOnce() -> AtPath<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        match spawn_blocking(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err((path, error))) => Err(self.refused_or_failed(action, &path, &error)),
            Err(error) => Err(self.failed(action, error.to_string())),
        }
    }

    fn refused_or_failed(&self, action: String, path: &Path, error: &io::Error) -> StoreError {
        let said = format!("{}: {error}", path.display());
        if error.get_ref().is_some_and(|reason| reason.is::<Unfit>()) {
            return StoreError::Refused { location: self.location(), action, reason: said };
        }
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::Refused {
                location: self.location(),
                action,
                reason: format!(
                    "{said}; give this account read and write access there, or choose another \
                     place with CHECKPOINT_URL"
                ),
            },
            ErrorKind::NotADirectory | ErrorKind::IsADirectory => StoreError::Refused {
                location: self.location(),
                action,
                reason: format!("{said}; choose another place with CHECKPOINT_URL"),
            },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                self.failed(action, format!("{said}; free space there"))
            }
            _ => self.failed(action, said),
        }
    }

    fn failed(&self, action: String, reason: String) -> StoreError {
        StoreError::Failed { location: self.location(), action, reason }
    }
}

#[async_trait]
impl Store for FolderStore {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let action = format!("reading {name}");
        let path = self.path(name, &action)?;
        let most = most_bytes(name);
        self.run(action, move || read(&path, most)).await
    }

    async fn read_stream(&self, name: &str) -> Result<Option<ByteStream>, StoreError> {
        let action = format!("reading {name}");
        let path = self.path(name, &action)?;
        let Some(file) = self.run(action, move || open(&path)).await? else { return Ok(None) };
        let pieces = stream::try_unfold(file, |mut file| async move {
            let read = spawn_blocking(move || piece(&mut file).map(|p| (p, file)));
            let (piece, file) = read.await.map_err(io::Error::other)??;
            Ok(piece.map(|piece| (piece, file)))
        });
        Ok(Some(pieces.boxed()))
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let action = format!("writing {name}");
        let path = self.path(name, &action)?;
        self.run(action, move || replace(&path, &bytes)).await
    }

    async fn write_stream(&self, name: &str, mut bytes: ByteStream) -> Result<(), StoreError> {
        let action = format!("writing {name}");
        let path = self.path(name, &action)?;
        let begin = move || Draft::begin(&path);
        let mut draft = self.run(action.clone(), begin).await?;
        while let Some(piece) = bytes.next().await {
            let piece = piece.map_err(|error| {
                self.failed(action.clone(), format!("the bytes to write broke off: {error}"))
            })?;
            draft = self.run(action.clone(), move || draft.with(&piece)).await?;
        }
        self.run(action, move || draft.publish()).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.names(prefix).try_collect().await
    }

    fn names<'a>(&'a self, prefix: &'a str) -> Names<'a> {
        self.objects(prefix).map_ok(|(name, _)| name).boxed()
    }

    async fn size(&self, prefix: &str) -> Result<u64, StoreError> {
        let lengths = self.objects(prefix).map_ok(|(_, length)| length);
        lengths.try_fold(0, |sum, length| ready(Ok(sum + length))).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let action = format!("removing {name}");
        let path = self.path(name, &action)?;
        self.run(action, move || remove(&path)).await
    }

    async fn lease(&self, name: &str) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let action = format!("leasing {name}");
        let path = self.path(name, &action)?;
        let most = most_bytes(name);
        let take = move || {
            let Some(lock) = Lock::take(path)? else { return Ok(None) };
            let seen = Version::at(lock.object(), most)?;
            Ok(Some((lock, seen)))
        };
        let taken = self.run(action, take).await?;
        Ok(taken.map(|(lock, seen)| -> Box<dyn Lease> {
            let (store, name, lock) = (self.clone(), name.to_owned(), Arc::new(lock));
            let watching = spawn(Lock::watch(Arc::downgrade(&lock)));
            let watching = AbortOnDropHandle::new(watching);
            Box::new(FolderLease { store, name, lock, seen, _watching: watching })
        }))
    }

    /// In a folder that is not there yet, nothing can be tried: then in the nearest one above it, where
    /// it would be made.
    async fn probe(&self, name: &str) -> Result<(), StoreError> {
        let there = self.root.ancestors().find(|folder| folder.symlink_metadata().is_ok());
        let there = Self { root: there.unwrap_or(&self.root).into() };
        let probed = probe::probe(&there, name).await;
        let lock = there.root.join(format!("{name}.lock"));
        let removed = there.run(format!("removing {name}.lock"), move || remove(&lock)).await;
        probed.and(removed)
    }
}

/// The lease on one object, and the object as this lease saw it last.
struct FolderLease {
    store: FolderStore,
    name: String,
    lock: Arc<Lock>,
    seen: Option<Version>,
    _watching: AbortOnDropHandle<()>,
}

impl FolderLease {
    fn lost(&self) -> StoreError {
        self.lock.lose();
        StoreError::LeaseLost { location: self.store.location(), name: self.name.clone() }
    }
}

#[async_trait]
impl Lease for FolderLease {
    fn held(&self) -> bool {
        self.lock.held()
    }

    fn watch(&self) -> LeaseWatch {
        let lock = Arc::clone(&self.lock);
        LeaseWatch::new(move || lock.held())
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        let (lock, most) = (Arc::clone(&self.lock), most_bytes(&self.name));
        let look = move || read(lock.object(), most);
        let bytes = self.store.run(format!("reading {}", self.name), look).await?;
        self.seen = bytes.as_deref().map(Version::of);
        Ok(bytes)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let (lock, seen, most) = (Arc::clone(&self.lock), self.seen, most_bytes(&self.name));
        let write = move || {
            if !lock.look() || Version::at(lock.object(), most)? != seen {
                return Ok(None);
            }
            replace(lock.object(), &bytes)?;
            // An object without a byte is none.
            Ok(Some(Some(bytes).filter(|bytes| !bytes.is_empty()).map(|b| Version::of(&b))))
        };
        let done = self.store.run(format!("writing {}", self.name), write).await?;
        self.seen = done.ok_or_else(|| self.lost())?;
        Ok(())
    }

    async fn clear(self: Box<Self>) -> Result<(), StoreError> {
        let (lock, seen, most) = (Arc::clone(&self.lock), self.seen, most_bytes(&self.name));
        let clear = move || {
            if !lock.look() || Version::at(lock.object(), most)? != seen {
                return Ok(None);
            }
            remove(lock.object())?;
            lock.release().map(Some)
        };
        let done = self.store.run(format!("removing {}", self.name), clear).await?;
        done.ok_or_else(|| self.lost())
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        let lock = Arc::clone(&self.lock);
        self.store.run(format!("releasing {}", self.name), move || lock.release()).await
    }

    fn gone(&self) -> Option<String> {
        self.lock.is_gone().then(|| format!("the folder {}", self.store.location()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_file_system_says_what_to_do() {
        let access = "give this account read and write access there, or choose another place";
        let (place, space) = ("; choose another place with CHECKPOINT_URL", "; free space there");
        let cases = [
            (ErrorKind::PermissionDenied, true, access),
            (ErrorKind::ReadOnlyFilesystem, true, access),
            (ErrorKind::NotADirectory, true, place),
            (ErrorKind::IsADirectory, true, place),
            (ErrorKind::StorageFull, false, space),
            (ErrorKind::QuotaExceeded, false, space),
            (ErrorKind::TimedOut, false, "f: timed out"),
        ];
        let store = FolderStore::new("state");
        for (kind, settings, says) in cases {
            let error =
                store.refused_or_failed("writing f".to_owned(), Path::new("f"), &kind.into());
            assert_eq!(matches!(error, StoreError::Refused { .. }), settings, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
