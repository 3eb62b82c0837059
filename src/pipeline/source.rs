//! What a source of events must offer.
//!
//! A *source* has *streams*; a stream, given a *cursor*, yields a *page*; a page has *parts* and the
//! next cursor; a part opens as a reader of *records*.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;

use super::Interrupt;
use crate::checkpoint::Cursor;
use crate::seams::Deadline;
use crate::store::ByteStream;

/// Opens a part's bytes as [`Source::records`] does.
pub type OpenRecords =
    Arc<dyn Fn(Box<dyn Read + Send>, u64) -> Box<dyn RecordReader> + Send + Sync>;

/// Where events come from.
///
/// A source repeats what is worth repeating by itself; what it returns as an error is final for this
/// run. Rather than wait beyond `deadline` it returns [`Interrupt::OutOfTime`] at once.
#[async_trait]
pub trait Source: Send + Sync {
    /// Whose events these are: names and values that are not secret.
    fn owner(&self) -> BTreeMap<String, String>;

    /// The streams to pull.
    fn streams(&self) -> Vec<String>;

    /// Where a stream that has no checkpoint begins.
    fn start(&self) -> Cursor;

    /// A stream's run has ended, however: what was reserved for it is free for the others.
    fn finished(&self, _stream: &str) {}

    /// Lists the page at `cursor`.
    async fn page(
        &self,
        stream: &str,
        cursor: &Cursor,
        deadline: Deadline,
    ) -> Result<Page, Interrupt>;

    /// Whether a part that is listed as `listed` is the one that was listed as `known` before: the
    /// source may give one object under several addresses in turn.
    fn is_same(&self, _known: &str, _listed: &str) -> bool {
        false
    }

    /// Opens a part from its beginning.
    async fn open(&self, part: &Part, deadline: Deadline) -> Result<OpenPart, OpenError>;

    /// Reads records out of a part's bytes, leaving out its first `skip` lines.
    fn records(&self, input: Box<dyn Read + Send>, skip: u64) -> Box<dyn RecordReader>;
}

/// One reply to a listing: its parts and its next cursor belong together.
#[derive(Debug)]
pub struct Page {
    /// The cursor that this page answers. It differs from the one asked for where the source had to
    /// begin elsewhere.
    pub cursor: Cursor,
    /// The files to read.
    pub parts: Vec<Part>,
    /// Where the next page begins; `None` if the reply does not say.
    pub next: Option<Cursor>,
    /// Whether the source says that there is nothing more for now.
    pub caught_up: bool,
}

impl Page {
    /// Where to go on from `cursor`, if anywhere.
    pub fn next(&self, cursor: &Cursor) -> Option<&Cursor> {
        self.next.as_ref().filter(|next| *next != cursor)
    }
}

/// A file of a page.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name, the same in every listing. Safe to log and to store.
    pub key: String,
    /// Its size in bytes, as the listing has it.
    pub size: Option<u64>,
    /// Where to get it: a signed address, never logged, never stored.
    pub address: SecretString,
}

/// A part whose bytes are on their way.
pub struct OpenPart {
    /// What tells this content of the part from another.
    pub etag: Option<String>,
    /// The bytes as they are stored. An error means that not all of them arrived;
    /// [`std::io::ErrorKind::FileTooLarge`], that there are more than may be.
    pub bytes: ByteStream,
    /// Whether the end of `bytes` proves that all of them arrived: their number, or their last
    /// chunk, was announced. Else the connection was merely closed, as it is when it breaks.
    pub end_is_proof: bool,
}

/// Why a part did not open.
#[derive(Debug)]
pub enum OpenError {
    /// Its address is no longer good: a new listing of the same cursor gives another.
    Expired,
    /// Anything else.
    Interrupt(Interrupt),
}

/// A part's records, one after the other. It blocks while it waits for bytes.
pub trait RecordReader: Send {
    /// The next record, its row (if it has one) in `row`; `None` at the end of the part.
    fn next<'a>(&'a mut self, row: &mut Vec<u8>) -> Result<Option<Record<'a>>, ReadError>;
}

/// One line of a part that is not blank.
#[derive(Debug)]
pub struct Record<'a> {
    /// Its number in the file, from 1.
    pub line: u64,
    /// The event's id.
    pub id: RecordId,
    /// The line as received, without its line end; empty where it is too long to be held.
    pub original: &'a [u8],
    /// What it is.
    pub kind: RecordKind,
}

/// An event's id: see `table::EventId`.
pub type RecordId = [u8; 16];

/// What a line turned out to be.
#[derive(Debug)]
pub enum RecordKind {
    /// An event; its row was written.
    Row {
        /// Its time in milliseconds since 1970.
        time_ms: Option<i64>,
        /// Columns of which Azure will cut a part off.
        oversize: Vec<&'static str>,
    },
    /// Not an event: one word, and a sentence.
    Rejected(&'static str, String),
    /// Longer than the limit: the file must be kept. With its length in bytes.
    TooLong(u64),
}

/// The bytes ended, and nothing says that this is the end of the part.
#[derive(Debug, thiserror::Error)]
#[error("the connection was closed, and nothing says that this was the end of the file")]
pub(super) struct UnprovenEnd;

/// Not one byte of the part arrived, though its listing does not say that it is empty.
#[derive(Debug, thiserror::Error)]
#[error("no byte of the file arrived")]
pub(super) struct NoBytes;

/// Whether a reader of a part's bytes ended so; what it gave before may be all.
pub fn is_unproven_end(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<UnprovenEnd>())
}

/// Why a part could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not all bytes arrived.
    #[error("the download broke off: {0}")]
    Broken(io::Error),
    /// What arrived is not the part, but what somebody in its way, or its host, says instead.
    #[error("{0} came instead of a batch file (from a proxy or a firewall?)")]
    Foreign(&'static str),
    /// All bytes arrived, and they cannot be decoded.
    #[error("the file is damaged after {offset} decoded bytes: {reason}")]
    Damaged {
        /// How many bytes could be decoded.
        offset: u64,
        /// In the decoder's words.
        reason: String,
    },
    /// The file is larger than the limit when decoded.
    #[error("the file holds more than {0} bytes")]
    TooLarge(u64),
}

impl ReadError {
    /// The word for it in quarantine, where it is about the file and not about its download.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Broken(_) | Self::Foreign(_) => None,
            Self::Damaged { .. } => Some("corrupt-file"),
            Self::TooLarge(_) => Some("file-too-large"),
        }
    }
}

impl std::fmt::Debug for OpenPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPart").field("etag", &self.etag).finish_non_exhaustive()
    }
}

impl<E: Into<Interrupt>> From<E> for OpenError {
    fn from(error: E) -> Self {
        Self::Interrupt(error.into())
    }
}
