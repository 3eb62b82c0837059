//! What a source of events must offer.
//!
//! A *source* has *streams*; a stream, given a *cursor*, has a *page*; a page has *parts* and the
//! cursor of the next page; the stream's *format* reads the lines of a part, and makes a row of a
//! line.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use futures::{StreamExt, stream};
use secrecy::SecretString;

use super::{Fault, Interrupt};
use crate::checkpoint::{Cursor, FileProgress};
use crate::seams::Deadline;
use crate::store::ByteStream;
use crate::table::{EventId, Row, Stream};

/// Where events come from.
///
/// A source repeats what is worth repeating; what it returns as an error is final for this run.
/// Rather than wait beyond `deadline` it returns [`Interrupt::OutOfTime`] at once.
#[async_trait]
pub trait Source: Send + Sync {
    /// Its name, e.g. `cloud-integrated`.
    fn name(&self) -> &'static str;

    /// Whose events these are: names and values that are not secret.
    fn owner(&self) -> BTreeMap<String, String>;

    /// The streams to pull.
    fn streams(&self) -> Vec<Stream>;

    /// How the parts of a stream are read.
    fn format(&self, stream: &Stream) -> Arc<dyn Format>;

    /// Lists the page at a cursor, which [`Page::at`] or [`Page::next`] of an earlier page was;
    /// without one, the first page.
    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        deadline: Deadline,
    ) -> Result<Page, Interrupt>;

    /// Opens a part whose content is [`Content::At`] an address, from its beginning.
    ///
    /// # Errors
    /// If nobody answered: it says nothing about this part.
    async fn open(&self, part: &Part, deadline: Deadline) -> Result<Opened, Interrupt>;

    /// Whether a part that is listed as `listed` is the one that was listed as `known` before: a
    /// source may give one object under several addresses in turn.
    fn is_same(&self, _known: &str, _listed: &str) -> bool {
        false
    }

    /// Whether a part that was listed must be listed again, until it is read: not where the parts are made
    /// of what there is when it is asked for.
    fn keeps_parts(&self) -> bool {
        true
    }

    /// A stream's run has ended, however: what was reserved for it is free for the others.
    fn finished(&self, _stream: &Stream) {}
}

/// One reply to a listing: its parts and its next cursor belong together.
#[derive(Debug)]
pub struct Page {
    /// The cursor that this page answers. It differs from the one asked for where the source had to
    /// begin elsewhere.
    pub at: Cursor,
    /// What to read.
    pub parts: Vec<Part>,
    /// Where the next page begins; `None` if the reply does not say.
    pub next: Option<Cursor>,
    /// Whether the source says that there is nothing more for now.
    pub caught_up: bool,
    /// The day from which the source has events to give, where the page is its first.
    pub backfill_from: Option<NaiveDate>,
    /// From when until when events may be missing, where the source had to begin elsewhere; without
    /// a beginning, it is since the newest event that was delivered.
    pub gap: Option<(Option<DateTime<Utc>>, DateTime<Utc>)>,
}

impl Page {
    /// Where to go on, if anywhere.
    pub fn next(&self) -> Option<&Cursor> {
        self.next.as_ref().filter(|next| **next != self.at)
    }
}

/// A piece of a page: a file to download, or a reply that is here.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name, the same in every listing. Safe to log and to store.
    pub key: String,
    /// Its size in bytes, if it is known.
    pub size: Option<u64>,
    /// What identifies its content, if the listing says it: another content has another one.
    pub etag: Option<String>,
    /// Its bytes.
    pub content: Content,
    /// What was delivered of it before it was kept in spill; a source's own parts have none.
    pub begun: Option<FileProgress>,
}

/// Where a part's bytes are.
#[derive(Clone, Debug)]
pub enum Content {
    /// At a signed address, which is never logged and never stored.
    At(SecretString),
    /// Here.
    Here(Bytes),
}

/// What comes of opening a part.
#[derive(Debug)]
pub enum Opened {
    /// Its bytes are on their way.
    Part(OpenPart),
    /// It is refused at this address, in these words: another listing of the same page may give a better
    /// one.
    Expired(String),
    /// It cannot be had, and another address would not change that.
    Refused(Fault),
}

/// A part whose bytes are on their way.
pub struct OpenPart {
    /// Identifies this content of the part; another content has another one.
    pub etag: Option<String>,
    /// The bytes as they are stored. An error means that not all of them arrived;
    /// [`io::ErrorKind::FileTooLarge`], that there are more than may be.
    pub bytes: ByteStream,
    /// Whether the end of `bytes` proves that all of them arrived: their number, or their last
    /// chunk, was announced. Else the connection was merely closed, as it is when it breaks.
    pub end_is_proof: bool,
}

impl OpenPart {
    /// One whose bytes are here.
    pub fn here(etag: Option<String>, bytes: Bytes) -> Self {
        let bytes = stream::iter([Ok(bytes)]).boxed();
        Self { etag, bytes, end_is_proof: true }
    }
}

/// How a stream's parts are read.
pub trait Format: Send + Sync {
    /// A reader of one part, which leaves out the first `skip` lines. One that gives lines in
    /// pieces also reads a line that comes alone and packed with gzip: so it is kept in quarantine.
    fn lines(&self, skip: u64) -> Box<dyn LineReader>;

    /// Appends the row of a line to `row`, and says which event it is. A line that has no row is
    /// rejected, with a word and a sentence; then `row` is as it was.
    fn row(&self, line: &[u8], row: &mut Vec<u8>)
    -> (EventId, Result<Row, (&'static str, String)>);

    /// Appends a row that takes the place of one that is in quarantine, and whether there is one: where
    /// readers count rows, a row that never comes must not look like one that is still under way.
    fn stand_in(&self, _line: &[u8], _row: &mut Vec<u8>) -> bool {
        false
    }
}

/// Reads lines out of bytes that others bring: it neither waits nor does I/O.
pub trait LineReader: Send {
    /// Takes the next bytes of the part; whether they are enough to go on with.
    fn push(&mut self, bytes: Bytes) -> bool;

    /// No more will come. With `all`, it is sure that these were all.
    fn end(&mut self, all: bool);

    /// The next line that is not blank, or the next piece of one that is too long; `None` where it
    /// needs more bytes, or at the end of the part.
    fn next(&mut self) -> Result<Option<Line<'_>>, ReadError>;
}

/// A line, or a piece of one that is too long to be held in memory.
#[derive(Debug)]
pub struct Line<'a> {
    /// Its number in the part, from 1.
    pub number: u64,
    /// As received, without the line's end.
    pub bytes: &'a [u8],
    /// Whether this is its beginning,
    pub begins: bool,
    /// and whether its end.
    pub ends: bool,
}

/// Why a part could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not all bytes arrived.
    #[error("the download broke off: {0}")]
    Broken(io::Error),
    /// Not one byte arrived, though the listing does not say that the part is empty.
    #[error("no byte of the file arrived")]
    Empty,
    /// What arrived is not the part, but the answer of a proxy, a firewall or its host.
    #[error("{0} came instead of the file (from a proxy or a firewall?)")]
    Foreign(&'static str),
    /// The bytes cannot be decoded.
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
            Self::Broken(_) | Self::Empty | Self::Foreign(_) => None,
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
