//! The lock on an object of a folder: one of the operating system's, on a file beside it.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::{At, AtPath, Unfit, ensure_folder_of, file_id, open_file, owners_alone};

/// How often a lock is taken anew since its file is no longer the one on disk.
const TRIES: u32 = 10;

/// The OS lock that a lease is.
pub(super) struct Lock {
    object: PathBuf,
    path: PathBuf,
    file: File,
    lost: AtomicBool,
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
            let lock =
                Self { object: object.clone(), path: path.clone(), file, lost: false.into() };
            if lock.held() {
                return Ok(Some(lock));
            }
        }
        Err(Unfit::ChangingFiles.into()).at(&path)
    }

    pub(super) fn held(&self) -> bool {
        if !self.lost.load(Ordering::Relaxed) && self.is_the_file_on_disk() {
            return true;
        }
        self.lose();
        false
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
