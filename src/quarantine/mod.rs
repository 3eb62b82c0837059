//! What could not be delivered: the bytes, the reason, and where they were.
//!
//! One object for each line, under a name made from what it holds, so that the same line kept again
//! after a crash overwrites itself. A line that is too long to be held, and a batch file that
//! cannot be read, are beside them.
//!
//! ```text
//! quarantine/<stream>/<file>/<line>-<event id>.json            one line of JSON: a QuarantineRecord
//! quarantine/<stream>/<file>/<line>-<reason>-<version>.json    the same of a file from a line on
//! quarantine/<stream>/<file>/file-<version>                    a whole batch file, byte for byte
//! quarantine/<stream>/<file>/line-<line>-<version>             one line, as gzip
//! ```
//! `<file>` is the first 128 bits of SHA-256 over the file's key, in hex; `<version>` those over
//! its size and `ETag`, since one key may be listed again with other bytes. Before there were
//! versions, a file was kept as `file`: it is still read.

mod names;

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

pub use names::{in_quarantine, is_kept_file, is_kept_line, is_record};
use names::{kept_file, kept_line, object, parent, records_of, tail};

use crate::checkpoint::FileVersion;
use crate::store::{Area, ByteStream, KeepError, Keeping, Names, Store, StoreError};

/// What the event id and the overhead of a rejection's allocations come to, in bytes.
const ALLOCATIONS: usize = 160;

/// One line that was not delivered, or not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its place.
    pub position: FilePosition,
    /// The id of the event, 32 hexadecimal digits; empty where a file, not a line, is meant.
    pub event_id: String,
    /// What was wrong, in one word: `not-json`, `row-refused`, `corrupt-file`.
    pub reason: &'static str,
    /// What was wrong, in a sentence.
    pub detail: String,
    /// Whether the row was delivered nevertheless (Azure cuts an oversize column).
    pub delivered: bool,
    /// What is kept of it.
    pub kept: Kept,
}

/// What is kept beside the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The line as received, without its line end.
    Line(Bytes),
    /// The whole file, or the line alone where it is too long to be held, under the name that
    /// [`Quarantine::keep_file`] or [`Quarantine::keep_line`] gave.
    File(String),
    /// Nothing: the source no longer has it.
    Nothing,
}

impl Kept {
    fn file(&self) -> Option<&str> {
        match self {
            Self::File(name) => Some(name),
            Self::Line(_) | Self::Nothing => None,
        }
    }
}

/// A line of a batch file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePosition {
    /// The stream.
    pub stream: String,
    /// The file's key.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
}

/// The part of a store that holds [`Rejection`]s.
#[derive(Clone)]
pub struct Quarantine(Area);

/// A rejection as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineRecord<'a> {
    /// The stream.
    pub stream: Cow<'a, str>,
    /// The file's key.
    pub file: Cow<'a, str>,
    /// The line, from 1.
    pub line: u64,
    /// See [`Rejection::event_id`].
    pub event_id: Cow<'a, str>,
    /// See [`Rejection::reason`].
    pub reason: Cow<'a, str>,
    /// See [`Rejection::detail`].
    pub detail: Cow<'a, str>,
    /// See [`Rejection::delivered`].
    pub delivered: bool,
    /// The line, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<Cow<'a, str>>,
    /// The line, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    original_base64: Option<String>,
    /// The name of the file, where it is kept whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_kept_as: Option<String>,
}

/// A record as it is found.
#[derive(Debug)]
pub struct Found {
    /// Its name in the store.
    pub name: String,
    /// What it holds, or why that cannot be read.
    pub record: Result<QuarantineRecord<'static>, String>,
}

impl Quarantine {
    /// Quarantine in `store`, without a limit of its own.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(Area::new(store, "quarantine"))
    }

    /// The same with a limit, in bytes.
    #[must_use]
    pub fn of_at_most(self, bytes: u64) -> Self {
        Self(self.0.of_at_most("QUARANTINE_MAX_BYTES", bytes))
    }

    /// A run begins: what quarantine holds is counted again when it is first needed.
    pub async fn recount(&self) {
        self.0.recount().await;
    }

    /// Where it is, for a person.
    pub fn location(&self, stream: &str) -> String {
        self.0.location(stream)
    }

    /// Keeps one line. It is durable on return.
    pub async fn keep(&self, rejection: &Rejection) -> Result<(), KeepError> {
        // Room for the line with its quotes escaped: a long one that grows step by step takes twice
        // its size.
        let mut bytes = Vec::with_capacity(rejection.size() + rejection.size() / 4);
        // Strings and numbers into memory: nothing in it can fail.
        drop(serde_json::to_writer(&mut bytes, &QuarantineRecord::of(rejection)));
        bytes.push(b'\n');
        self.0.write(&rejection.name(), Bytes::from(bytes)).await
    }

    /// Begins to keep a whole batch file, byte for byte.
    pub fn keep_file(&self, stream: &str, file: &str, version: &FileVersion) -> Keeping {
        self.0.keep(kept_file(stream, file, version))
    }

    /// Begins to keep one line, packed as a batch file of one line is.
    pub fn keep_line(&self, position: &FilePosition, version: &FileVersion) -> Keeping {
        self.0.keep_packed(kept_line(position, version))
    }

    /// The names of all objects in `folder`, which is [`in_quarantine`] or below it: records, and
    /// files that are kept whole. Those of one batch file follow one another.
    pub fn names<'a>(&'a self, folder: &'a str) -> Names<'a> {
        self.0.store.names(folder)
    }

    /// The record of this name; `None` if it is not there, or no longer.
    pub async fn read(&self, name: String) -> Result<Option<Found>, StoreError> {
        let Some(bytes) = self.0.store.read(&name).await? else { return Ok(None) };
        let record = QuarantineRecord::parse(&name, &bytes);
        Ok(Some(Found { name, record }))
    }

    /// The bytes of the file that is [`Kept::File`] under this name.
    pub async fn open_file(&self, name: &str) -> Result<Option<ByteStream>, StoreError> {
        self.0.store.read_stream(name).await
    }

    /// Removes a record: its event was delivered.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.0.store.delete(name).await
    }

    /// Removes a file that is kept whole, or a line that is kept by itself, unless a record still needs
    /// it.
    pub async fn remove_unneeded_file(&self, name: &str) -> Result<(), StoreError> {
        let of_it = records_of(name);
        let mut names = self.names(&of_it).try_filter(|name| std::future::ready(is_record(name)));
        while let Some(record) = names.try_next().await? {
            match self.read(record).await?.map(|found| found.record) {
                None => {}
                Some(Ok(record)) if record.file_kept_as.as_deref() != Some(name) => {}
                // One that cannot be read may need it.
                Some(_) => return Ok(()),
            }
        }
        self.0.store.delete(name).await
    }
}

impl<'a> QuarantineRecord<'a> {
    fn of(rejection: &'a Rejection) -> Self {
        let FilePosition { stream, file, line } = &rejection.position;
        let (original, original_base64) = match &rejection.kept {
            Kept::Line(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => (Some(text.into()), None),
                Err(_) => (None, Some(BASE64.encode(bytes))),
            },
            Kept::File(_) | Kept::Nothing => (None, None),
        };
        let file_kept_as = rejection.kept.file().map(str::to_owned);
        Self {
            stream: stream.into(),
            file: file.into(),
            line: *line,
            event_id: (&rejection.event_id).into(),
            reason: rejection.reason.into(),
            detail: (&rejection.detail).into(),
            delivered: rejection.delivered,
            original,
            original_base64,
            file_kept_as,
        }
    }

    /// Refuses a record that was edited or moved: it no longer holds what was received.
    fn parse(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let kept = record.file_kept_as.as_deref();
        let tail = tail(&record.event_id, &record.reason, kept);
        if object(&record.stream, &record.file, record.line, &tail) != name {
            return Err("its name is not that of what it says".to_owned());
        }
        if kept.is_some_and(|kept| !is_kept_file(kept) || parent(kept) != parent(name)) {
            return Err("the file that it names was not kept with it".to_owned());
        }
        match &record.original_base64 {
            Some(text) if BASE64.decode(text).is_err() => Err("its base64 is damaged".to_owned()),
            _ => Ok(record),
        }
    }

    /// What is kept of it.
    pub fn kept(&self) -> Kept {
        let decoded = self.original_base64.as_ref().and_then(|text| BASE64.decode(text).ok());
        match (&self.original, decoded, &self.file_kept_as) {
            (Some(text), _, _) => Kept::Line(Bytes::copy_from_slice(text.as_bytes())),
            (None, Some(bytes), _) => Kept::Line(bytes.into()),
            (None, None, Some(name)) => Kept::File(name.clone()),
            (None, None, None) => Kept::Nothing,
        }
    }

    /// Whether it is about one event, and not about a whole file.
    pub fn is_event(&self) -> bool {
        !self.event_id.is_empty()
    }

    /// The same without the line and what may be personal in it.
    #[must_use]
    pub fn without_original(self) -> Self {
        Self { original: None, original_base64: None, ..self }
    }
}

impl Rejection {
    /// Whether it is about one event that was read, and not about a whole file.
    pub fn is_event(&self) -> bool {
        !self.event_id.is_empty()
    }

    /// About how many bytes it holds in memory, with what its allocations cost.
    pub fn size(&self) -> usize {
        let kept = match &self.kept {
            Kept::Line(bytes) => bytes.len(),
            Kept::File(name) => name.len(),
            Kept::Nothing => 0,
        };
        let FilePosition { stream, file, .. } = &self.position;
        size_of::<Self>() + kept + stream.len() + file.len() + self.detail.len() + ALLOCATIONS
    }

    /// The name under which it is kept.
    pub fn name(&self) -> String {
        let FilePosition { stream, file, line } = &self.position;
        object(stream, file, *line, &tail(&self.event_id, self.reason, self.kept.file()))
    }
}

impl std::fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quarantine({})", self.0.store.location())
    }
}
