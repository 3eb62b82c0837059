//! Files written so that a crash leaves the old one or the new one, and nothing in between.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{TooLarge, is_part};

/// How many folders are within one another: `quarantine/<stream>/<file>/`.
const DEEPEST: usize = 3;

/// How much of a file is read at a time.
const PIECE: usize = 64 * 1024;

/// How many names of drafts are tried: so many at least may be left of crashes.
const DRAFTS: u32 = 100_000;

/// Why what is found is not used, though the file system would let us.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it is {0}, which this program never makes: find out who put it there, and remove it")]
    NotAFile(&'static str),
    #[error(transparent)]
    TooLarge(TooLarge),
    #[error(
        "the file system does not lock files ({0}): mount it with locks, or choose another place \
         with CHECKPOINT_URL"
    )]
    NoLocks(io::Error),
    #[error(
        "the file system shows another file each time it is asked, so that no lock can be relied \
         on: mount it with lasting inode numbers (`serverino` for SMB), or choose another place \
         with CHECKPOINT_URL"
    )]
    ChangingFiles,
}

impl From<Unfit> for io::Error {
    fn from(unfit: Unfit) -> Self {
        Self::other(unfit)
    }
}

/// What tells one content of a file from the next. (Not its times or its inode: a share may set
/// them late, or anew at each look.)
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Version([u8; 32]);

impl Version {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The version of what is at `path`; `None` if nothing is.
    pub(super) fn at(path: &Path, most: u64) -> AtPath<Option<Self>> {
        Ok(read(path, most)?.map(|bytes| Self::of(&bytes)))
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
        for _ in 0..DRAFTS {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            // The dot keeps it out of the names; another process may have the same id on a share.
            let draft = format!(".{name}.{}-{count}.tmp", std::process::id());
            let path = object.with_file_name(draft);
            match owners_alone().create_new(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                opened => {
                    // A person knows the object, and not its draft.
                    let file = opened.at(object)?;
                    return Ok(Self { object: object.to_owned(), path, file });
                }
            }
        }
        Err(ErrorKind::AlreadyExists.into()).at(object)
    }

    pub(super) fn with(mut self, bytes: &[u8]) -> AtPath<Self> {
        self.file.write_all(bytes).at(&self.object)?;
        Ok(self)
    }

    pub(super) fn publish(self) -> AtPath<()> {
        self.file.sync_all().at(&self.object)?;
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

/// The bytes of a file of at most `most`; `None` if there are none.
pub(super) fn read(path: &Path, most: u64) -> AtPath<Option<Bytes>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let length = file.metadata().at(path)?.len();
    let mut bytes = Vec::with_capacity(length.min(most) as usize);
    // It may grow meanwhile, or be one whose length says nothing.
    file.take(most + 1).read_to_end(&mut bytes).at(path)?;
    let length = length.max(bytes.len() as u64);
    if length > most {
        return Err(Unfit::TooLarge(TooLarge { length, most }).into()).at(path);
    }
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()).map(Bytes::from))
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

/// What is in one folder, in the order of whole names: its objects with their lengths, and its
/// folders with a `/` behind their names. `folder` is empty, or ends in a `/` too.
pub(super) fn entries(root: &Path, folder: &str) -> AtPath<Vec<(String, u64)>> {
    let path = root.join(folder);
    let mut entries = Vec::new();
    let Some(found) = if_there(fs::read_dir(&path)).at(&path)? else { return Ok(entries) };
    for entry in found {
        let entry = entry.at(&path)?;
        let part = entry.file_name().to_string_lossy().into_owned();
        // A folder may be a link to another disk; the entry may be gone by now.
        let Some(found) = if_there(fs::metadata(entry.path())).at(&entry.path())? else {
            continue;
        };
        if !is_part(&part) {
            continue;
        }
        if found.is_dir() {
            // A link that somebody planted may lead to a whole disk.
            if folder.matches('/').count() < DEEPEST {
                entries.push((format!("{folder}{part}/"), 0));
            }
        } else if found.len() > 0 {
            entries.push((format!("{folder}{part}"), found.len()));
        }
    }
    entries.sort();
    Ok(entries)
}

/// The next piece of a file; `None` at its end.
pub(super) fn piece(file: &mut File) -> io::Result<Option<Bytes>> {
    let mut piece = vec![0; PIECE];
    let read = file.read(&mut piece)?;
    piece.truncate(read);
    Ok(Some(piece).filter(|piece| !piece.is_empty()).map(Bytes::from))
}

/// The file at `path`, to be read; `None` if there is none, or nothing in it.
pub(super) fn open(path: &Path) -> AtPath<Option<File>> {
    let Some(file) = if_there(open_file(OpenOptions::new().read(true), path)).at(path)? else {
        return Ok(None);
    };
    let length = file.metadata().at(path)?.len();
    Ok(Some(file).filter(|_| length > 0))
}

/// Opens what is a file, or is not there yet. A link is not followed, and a pipe not waited for:
/// whoever can write to the folder may have put them there.
pub(super) fn open_file(how: &mut OpenOptions, path: &Path) -> io::Result<File> {
    if let Some(found) = if_there(fs::symlink_metadata(path))? {
        refuse_others(&found)?;
    }
    // It may be another by now.
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        how.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    }
    let file = how.open(path)?;
    refuse_others(&file.metadata()?)?;
    Ok(file)
}

fn refuse_others(found: &Metadata) -> io::Result<()> {
    match found {
        found if found.is_file() => Ok(()),
        found if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        found if found.is_symlink() => Err(Unfit::NotAFile("a link").into()),
        _ => Err(Unfit::NotAFile("a pipe, a socket or a device").into()),
    }
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

/// Makes a new name in the folder of `path` durable, where the file system does that for folders.
fn sync_folder_of(path: &Path) -> AtPath<()> {
    let Some(folder) = path.parent().filter(|_| cfg!(unix)) else { return Ok(()) };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if says_that_folders_are_not_synced(&error) => Ok(()),
        synced => synced.at(folder),
    }
}

/// Whether a file system answers so that has no sync for folders, as SMB and some FUSE have none.
/// (`PostgreSQL` passes over the same ones.) Of a file's own sync nothing is passed over.
fn says_that_folders_are_not_synced(error: &io::Error) -> bool {
    let none = [
        ErrorKind::InvalidInput,
        ErrorKind::Unsupported,
        ErrorKind::PermissionDenied,
        ErrorKind::IsADirectory,
    ];
    none.contains(&error.kind()) || is_bad_descriptor(error)
}

#[cfg(unix)]
fn is_bad_descriptor(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::BADF.raw_os_error())
}

#[cfg(not(unix))]
fn is_bad_descriptor(_: &io::Error) -> bool {
    false
}

/// What a person should know of the folder at `path`, if it is there: who else can change what is
/// in it.
#[cfg(unix)]
pub(super) fn warning(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).ok()?;
    let (shown, ours, harm) = (
        path.display(),
        rustix::process::geteuid().as_raw(),
        "can make events be left out or come again, and read what is quarantined",
    );
    // The superuser can do so anywhere.
    if found.uid() != ours && found.uid() != 0 {
        let owner = found.uid();
        return Some(format!(
            "the folder {shown} belongs to another account (uid {owner}), which {harm}: run \
             `chown -R {ours} '{shown}'`, or choose another place with CHECKPOINT_URL"
        ));
    }
    (found.mode() & 0o002 != 0).then(|| {
        format!(
            "every account of this machine can write to the folder {shown}, and so {harm}: run \
             `chmod o-w '{shown}'`, or choose another place with CHECKPOINT_URL"
        )
    })
}

#[cfg(not(unix))]
pub(super) fn warning(_: &Path) -> Option<String> {
    None
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_a_file_system_does_not_have_for_folders_may_be_missing() {
        let missing = [
            ErrorKind::InvalidInput,
            ErrorKind::Unsupported,
            ErrorKind::PermissionDenied,
            ErrorKind::IsADirectory,
        ];
        for kind in missing {
            assert!(says_that_folders_are_not_synced(&kind.into()), "{kind}");
        }
        let failed = [
            ErrorKind::StorageFull,
            ErrorKind::QuotaExceeded,
            ErrorKind::ReadOnlyFilesystem,
            ErrorKind::StaleNetworkFileHandle,
            ErrorKind::TimedOut,
            ErrorKind::NotFound,
        ];
        for kind in failed {
            assert!(!says_that_folders_are_not_synced(&kind.into()), "{kind}");
        }
    }

    /// `/proc` is such a file system.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_cannot_be_synced_is_no_failure_and_a_file_is_one() {
        let is_invalid = |error: io::Error| error.kind() == ErrorKind::InvalidInput;
        let [folder, file] = ["/proc/self", "/proc/self/comm"].map(Path::new);
        assert!(File::open(folder).unwrap().sync_all().is_err_and(is_invalid));
        sync_folder_of(file).unwrap();

        let (path, object) = (file.to_owned(), file.to_owned());
        let draft = Draft { object, path, file: File::open(file).unwrap() };
        assert!(draft.publish().is_err_and(|(_, error)| is_invalid(error)));
    }
}
