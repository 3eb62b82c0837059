//! Files written so that a crash leaves the old one or the new one, and nothing in between.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use super::store::is_part;

/// How much of a file is read at a time.
const PIECE: usize = 64 * 1024;

/// What tells one content of a file from the next: each write makes a new file.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Version {
    id: (u64, u64),
    modified: Option<SystemTime>,
    length: u64,
}

impl Version {
    pub(super) fn of(path: &Path) -> AtPath<Option<Self>> {
        let Some(found) = if_there(fs::metadata(path)).at(path)? else { return Ok(None) };
        let modified = found.modified().ok();
        Ok(Some(Self { id: file_id(&found), modified, length: found.len() }))
    }
}

#[cfg(unix)]
pub(super) fn file_id(file: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino())
}

#[cfg(not(unix))]
pub(super) fn file_id(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

/// A new content on its way: a file beside the object, removed again if it does not get there.
pub(super) struct Draft {
    object: PathBuf,
    path: PathBuf,
    file: File,
}

impl Draft {
    pub(super) fn begin(object: &Path) -> AtPath<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        ensure_folder_of(object)?;
        let name = object.file_name().unwrap_or_default().to_string_lossy();
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            // The dot keeps it out of the names; another process may have the same id on a share.
            let draft = format!(".{name}.{}-{count}.tmp", std::process::id());
            let path = object.with_file_name(draft);
            match owners_alone().create_new(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                opened => {
                    let file = opened.at(&path)?;
                    return Ok(Self { object: object.to_owned(), path, file });
                }
            }
        }
    }

    pub(super) fn with(mut self, bytes: &[u8]) -> AtPath<Self> {
        self.file.write_all(bytes).at(&self.path)?;
        Ok(self)
    }

    pub(super) fn publish(self) -> AtPath<()> {
        self.file.sync_all().at(&self.path)?;
        fs::rename(&self.path, &self.object).at(&self.object)?;
        sync_folder_of(&self.object)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is gone if it was published, and there is nothing to do about one that stays.
        drop(fs::remove_file(&self.path));
    }
}

pub(super) fn read(path: &Path) -> AtPath<Option<Bytes>> {
    let bytes = if_there(fs::read(path)).at(path)?;
    Ok(bytes.filter(|bytes| !bytes.is_empty()).map(Bytes::from))
}

pub(super) fn replace(path: &Path, bytes: &[u8]) -> AtPath<()> {
    Draft::begin(path)?.with(bytes)?.publish()
}

pub(super) fn remove(path: &Path) -> AtPath<()> {
    if if_there(fs::remove_file(path)).at(path)?.is_some() {
        sync_folder_of(path)?;
    }
    Ok(())
}

/// What is in one folder, in the order of whole names: its objects, and its folders with a `/` behind
/// them. `folder` is empty, or ends in a `/` too.
pub(super) fn entries(root: &Path, folder: &str) -> AtPath<Vec<String>> {
    let path = root.join(folder);
    let mut names = Vec::new();
    let Some(entries) = if_there(fs::read_dir(&path)).at(&path)? else { return Ok(names) };
    for entry in entries {
        let entry = entry.at(&path)?;
        let part = entry.file_name().to_string_lossy().into_owned();
        // Followed if it is a link, as reading and writing do; it may be gone by now.
        let Some(found) = if_there(fs::metadata(entry.path())).at(&entry.path())? else {
            continue;
        };
        if !is_part(&part) {
            continue;
        }
        if found.is_dir() {
            names.push(format!("{folder}{part}/"));
        } else if found.len() > 0 {
            names.push(format!("{folder}{part}"));
        }
    }
    names.sort();
    Ok(names)
}

/// The next piece of a file; `None` at its end.
pub(super) fn piece(file: &mut File) -> io::Result<Option<Bytes>> {
    let mut piece = vec![0; PIECE];
    let read = file.read(&mut piece)?;
    piece.truncate(read);
    Ok(Some(piece).filter(|piece| !piece.is_empty()).map(Bytes::from))
}

pub(super) fn open(path: &Path) -> AtPath<Option<File>> {
    let Some(file) = if_there(File::open(path)).at(path)? else { return Ok(None) };
    let length = file.metadata().at(path)?.len();
    Ok(Some(file).filter(|_| length > 0))
}

/// What is not there is `None`.
fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Makes the folders above `path` that are missing, durably.
pub(super) fn ensure_folder_of(path: &Path) -> AtPath<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    if folder.is_dir() {
        return Ok(());
    }
    ensure_folder_of(folder)?;
    match owners_folder().create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match folder.is_dir() {
            true => Ok(()),
            false => Err(ErrorKind::NotADirectory.into()).at(folder),
        },
        made => made.at(folder).and_then(|()| sync_folder_of(folder)),
    }
}

/// Makes a new name in the folder of `path` durable, where folders can be opened for that.
fn sync_folder_of(path: &Path) -> AtPath<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder).and_then(|f| f.sync_all()).at(folder),
        _ => Ok(()),
    }
}

pub(super) fn owners_alone() -> OpenOptions {
    let mut how = OpenOptions::new();
    how.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut how, 0o600);
    how
}

fn owners_folder() -> DirBuilder {
    #[cfg_attr(not(unix), expect(unused_mut))]
    let mut how = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut how, 0o700);
    how
}

/// An I/O error knows no path; this one does.
pub(super) type AtPath<T> = Result<T, (PathBuf, io::Error)>;

pub(super) trait At<T> {
    fn at(self, path: &Path) -> AtPath<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> AtPath<T> {
        self.map_err(|error| (path.to_owned(), error))
    }
}
