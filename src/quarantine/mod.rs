//! What could not be delivered: the bytes, the reason, and where they stood.
//!
//! One object for each line, under a name made from what it holds, so that the same line kept again
//! after a crash overwrites itself. A batch file that cannot be read lies beside them as it came.
//!
//! ```text
//! quarantine/<stream>/<file>/<line>-<event id>.json    one line of JSON: a Rejection
//! quarantine/<stream>/<file>/file                      a whole batch file, byte for byte
//! ```
//! `<file>` is the first 128 bits of SHA-256 over the file's key, in hex.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::checkpoint::{ByteStream, Store, StoreError};

/// What the event id and the overhead of a rejection's allocations come to, in bytes.
const ALLOCATIONS: usize = 160;

/// One line that was not delivered, or not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Where it stood.
    pub position: FilePosition,
    /// The id of the event, 32 hexadecimal digits; empty where a file, not a line, is meant.
    pub event_id: String,
    /// What was wrong, in one word: `not-json`, `row-refused`, `corrupt-file`.
    pub reason: &'static str,
    /// What was wrong, in a sentence.
    pub detail: String,
    /// Whether the row was delivered all the same (Azure cuts an oversize column).
    pub delivered: bool,
    /// What is kept of it.
    pub kept: Kept,
}

/// What is kept beside the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The line as received, without its line end.
    Line(Bytes),
    /// The whole file, by [`Quarantine::keep_file`]: the line cannot be held or had.
    File,
    /// Nothing: the source no longer has it.
    Nothing,
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
pub struct Quarantine(Arc<dyn Store>);

/// A rejection as it is written.
#[derive(Serialize)]
struct Record<'a> {
    stream: &'a str,
    file: &'a str,
    line: u64,
    event_id: &'a str,
    reason: &'a str,
    detail: &'a str,
    delivered: bool,
    /// The line, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<&'a str>,
    /// The line, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    original_base64: Option<String>,
    /// Where the file lies, where no single line is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_kept_as: Option<String>,
}

impl Quarantine {
    /// Quarantine in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Where it is, for a person.
    pub fn location(&self, stream: &str) -> String {
        format!("{}/quarantine/{stream}/", self.0.location().trim_end_matches('/'))
    }

    /// Keeps one line. It is durable on return.
    pub async fn keep(&self, rejection: &Rejection) -> Result<(), StoreError> {
        let FilePosition { stream, file, line } = &rejection.position;
        let (original, original_base64) = match &rejection.kept {
            Kept::Line(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => (Some(text), None),
                Err(_) => (None, Some(BASE64.encode(bytes))),
            },
            Kept::File | Kept::Nothing => (None, None),
        };
        let record = Record {
            stream,
            file,
            line: *line,
            event_id: &rejection.event_id,
            reason: rejection.reason,
            detail: &rejection.detail,
            delivered: rejection.delivered,
            original,
            original_base64,
            file_kept_as: (rejection.kept == Kept::File).then(|| kept_file(stream, file)),
        };
        // Strings and numbers: nothing in it can fail to serialise.
        let mut bytes = serde_json::to_vec(&record).unwrap_or_default();
        bytes.push(b'\n');
        let name = format!("{}/{line:010}-{}.json", folder(stream, file), rejection.tail());
        self.0.write(&name, Bytes::from(bytes)).await
    }

    /// Keeps a whole batch file as it comes. It is durable on return.
    pub async fn keep_file(
        &self,
        stream: &str,
        file: &str,
        bytes: ByteStream,
    ) -> Result<(), StoreError> {
        self.0.write_stream(&kept_file(stream, file), bytes).await
    }
}

impl Rejection {
    /// Whether it stands for one event that was read, and not for a whole file.
    pub fn is_event(&self) -> bool {
        !self.event_id.is_empty()
    }

    /// About how many bytes it holds in memory, with what its allocations cost.
    pub fn size(&self) -> usize {
        let kept = match &self.kept {
            Kept::Line(bytes) => bytes.len(),
            Kept::File | Kept::Nothing => 0,
        };
        let FilePosition { stream, file, .. } = &self.position;
        size_of::<Self>() + kept + stream.len() + file.len() + self.detail.len() + ALLOCATIONS
    }

    /// The last part of its name.
    fn tail(&self) -> &str {
        if self.is_event() { &self.event_id } else { self.reason }
    }
}

impl std::fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quarantine({})", self.0.location())
    }
}

fn folder(stream: &str, file: &str) -> String {
    let digest = Sha256::digest(file);
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("quarantine/{stream}/{hex}")
}

fn kept_file(stream: &str, file: &str) -> String {
    format!("{}/file", folder(stream, file))
}
