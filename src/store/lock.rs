//! The lock on an object of a folder: one of the operating system's, on a file beside it.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::files::{At, AtPath, Unfit, ensure_folder_of, file_id, open_file, owners_alone};
use crate::seams::spawn_blocking;

/// How often a lock is taken again since its file is no longer the one on disk.
const TRIES: u32 = 10;

/// How often a lock is looked at between writes, each of which looks for itself. So long posts may
/// go on after somebody removed its file: a file that vanishes is rarer than a blob's lease that is
/// lost, which shows after 20 s. More often would see no more on a share, whose client answers from
/// what it remembers for 1 s (SMB) or 3 s (NFS).
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The OS lock that a lease is.
pub(super) struct Lock {
    object: PathBuf,
    path: PathBuf,
    file: File,
    lost: AtomicBool,
    /// Whether its folder was gone when it was lost.
    gone: AtomicBool,
}

impl Lock {
    /// Locks an object's lock file; `None` if another has it.
    pub(super) fn take(object: PathBuf) -> AtPath<Option<Self>> {
        let mut path = OsString::from(&object);
        path.push(".lock");
        let path = PathBuf::from(path);
        ensure_folder_of(&path)?;
        for _ in 0..TRIES {
            let file = open_file(owners_alone().create(true).truncate(false), &path).at(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(no_lock(error)).at(&path),
            }
            // Somebody may have removed the file before it was locked; then another can lock the
            // next one of that name.
            let (object, path) = (object.clone(), path.clone());
            let lock = Self { object, path, file, lost: false.into(), gone: false.into() };
            if lock.look() {
                return Ok(Some(lock));
            }
        }
        Err(Unfit::ChangingFiles.into()).at(&path)
    }

    /// Whether it was held when it was last looked at.
    pub(super) fn held(&self) -> bool {
        !self.lost.load(Ordering::Relaxed)
    }

    /// Whether it is held. Asks the file system, which on a share may take its time.
    pub(super) fn look(&self) -> bool {
        if self.held() && self.is_the_file_on_disk() {
            return true;
        }
        if self.held() && self.object.parent().is_some_and(|folder| !folder.exists()) {
            self.gone.store(true, Ordering::Relaxed);
        }
        self.lose();
        false
    }

    /// Whether it was lost since its folder is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Looks at it until it is lost or let go.
    pub(super) async fn watch(lock: Weak<Self>) {
        loop {
            sleep(LOOK_EVERY).await;
            let lock = Weak::clone(&lock);
            let look = spawn_blocking(move || lock.upgrade().is_some_and(|lock| lock.look()));
            if !matches!(look.await, Ok(true)) {
                return;
            }
        }
    }

    /// From now on it is not held, whatever is on the disk.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// What it is a lock on.
    pub(super) fn object(&self) -> &Path {
        &self.object
    }

    #[cfg(unix)]
    fn is_the_file_on_disk(&self) -> bool {
        match (self.file.metadata(), std::fs::symlink_metadata(&self.path)) {
            (Ok(ours), Ok(theirs)) => file_id(&ours) == file_id(&theirs),
            _ => false,
        }
    }

    #[cfg(not(unix))]
    fn is_the_file_on_disk(&self) -> bool {
        self.path.exists()
    }

    pub(super) fn release(&self) -> AtPath<()> {
        self.lose();
        self.file.unlock().at(&self.path)
    }
}

/// Why a file could not be locked, where that is not since another has it.
fn no_lock(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::Unsupported | ErrorKind::InvalidInput => Unfit::NoLocks(error).into(),
        _ if has_no_lock_service(&error) => Unfit::NoLocks(error).into(),
        _ => error,
    }
}

/// As NFS answers where nothing serves its locks.
#[cfg(unix)]
fn has_no_lock_service(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error())
}

#[cfg(not(unix))]
fn has_no_lock_service(_: &io::Error) -> bool {
    false
}
