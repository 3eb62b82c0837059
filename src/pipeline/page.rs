//! One page, read to its end: what happens when an address expires, or a part is no longer listed.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::body::Body;
use super::fault::{Fault, Interrupt, internal};
use super::part::LongLine;
use super::read::Filler;
use super::source::{Content, OpenPart, Page, Part};
use super::summary::Live;
use super::{Connector, Run};
use crate::checkpoint::{Cursor, FileProgress, FileVersion, Position};
use crate::codes::Code;
use crate::quarantine::{FilePosition, Kept, Rejection};
use crate::seams::Deadline;
use crate::table::Stream;

/// Parts that are open at a time, the one that is read with them, so that small ones do not wait for
/// one another.
const OPEN: usize = 3;

/// How often in a row the same page is listed again because an address was refused.
const RELISTINGS: u32 = 3;

/// How often the page is listed again to find a file that it no longer has.
const RELISTINGS_FOR_MISSING: u32 = 2;

/// The word for a file that no listing has any more, in quarantine.
pub(super) const FILE_GONE: &str = "file-gone";

/// Reads one page of one stream into bodies.
pub(super) struct PageReader {
    pub(super) connector: Connector,
    pub(super) stream: Stream,
    pub(super) cursor: Cursor,
    pub(super) files: BTreeMap<String, FileRead>,
    /// Where bodies go. The slots that they take bound them.
    pub(super) bodies: mpsc::UnboundedSender<Body>,
    pub(super) run: Run,
    /// Ends the reading.
    pub(super) stop: CancellationToken,
    pub(super) summary: Live,
    /// Shared with the thread that is at work on what was read.
    pub(super) filler: Arc<Mutex<Filler>>,
    /// The line that is on its way to quarantine, since it is too long to be held.
    pub(super) long: Option<LongLine>,
    /// Addresses that were refused in a row.
    pub(super) expired: u32,
}

/// What is known of a file.
pub(super) struct FileRead {
    /// How far it is read: at first what the checkpoint says.
    pub(super) progress: FileProgress,
    /// The events that were read of it in this run.
    pub(super) events: u64,
}

impl FileRead {
    /// A file of which nothing is read; the listing says it has `size` bytes.
    pub(super) fn new(size: Option<u64>) -> Self {
        let version = FileVersion { size, etag: None };
        Self { progress: FileProgress { done: Position::Line(0), version }, events: 0 }
    }
}

impl PageReader {
    /// Reads all parts of `page`; returns the reply whose parts they were in the end.
    pub(super) async fn read(&mut self, mut page: Page) -> Result<Page, Interrupt> {
        let mut looked_for = 0;
        loop {
            self.note(&mut page);
            let missing = self.missing(&page);
            if !missing.is_empty() && looked_for < RELISTINGS_FOR_MISSING {
                looked_for += 1;
                page = self.list_again().await?;
                continue;
            }
            self.give_up(&missing);
            let read = self.read_parts(&page).await;
            // Whatever ended it, what was read is delivered while there is time for it.
            if !matches!(read, Err(Interrupt::OutOfTime)) || !self.stop.is_cancelled() {
                self.flush().await?;
            }
            let Some(expired) = read? else { return Ok(page) };
            self.expired += 1;
            if self.expired > RELISTINGS {
                return Err(forbidden(&expired).into());
            }
            page = self.list_again().await?;
        }
    }

    /// What fills the bodies. It is never held over an `await`.
    pub(super) fn filler(&self) -> MutexGuard<'_, Filler> {
        Filler::lock(&self.filler)
    }

    /// Sends on what waits in the body in hand.
    pub(super) async fn flush(&self) -> Result<(), Interrupt> {
        let body = self.filler().builder.take().map_err(internal)?;
        match body {
            Some(body) => self.run.pool.send(body, &self.bodies).await,
            None => Ok(()),
        }
    }

    /// Waits for something to read. A body that has waited long enough meanwhile is sent on.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        let mut work = pin!(work);
        loop {
            let since = self.filler().builder.since();
            let due = since.map(|since| since + self.connector.policy.body_wait);
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.flush().await?;
                }
            }
        }
    }

    /// Remembers what is listed, none of which may disappear unseen. A file that is listed under another
    /// address keeps the key that it is known by.
    fn note(&mut self, page: &mut Page) {
        let listed: BTreeSet<String> = page.parts.iter().map(|part| part.key.clone()).collect();
        for part in page.parts.iter_mut().filter(|part| !self.files.contains_key(&part.key)) {
            let known = self.files.iter().find(|(key, file)| {
                file.progress.version.size == part.size
                    && !listed.contains(*key)
                    && self.connector.source.is_same(key, &part.key)
            });
            if let Some((known, _)) = known {
                part.key.clone_from(known);
            }
        }
        for part in &page.parts {
            self.files.entry(part.key.clone()).or_insert_with(|| FileRead::new(part.size));
        }
    }

    /// Files that are not read to their end, and which the listing no longer has.
    fn missing(&self, page: &Page) -> Vec<FilePosition> {
        let listed = |key: &str| page.parts.iter().any(|part| part.key == key);
        let unread = self.files.iter().filter_map(|(key, file)| match file.progress.done {
            Position::Line(line) if !listed(key) => Some(FilePosition {
                stream: self.stream.name.to_owned(),
                file: key.clone(),
                line: line + 1,
            }),
            _ => None,
        });
        unread.collect()
    }

    async fn list_again(&mut self) -> Result<Page, Interrupt> {
        tracing::info!(stream = self.stream.name, "listing the same page again for new addresses");
        let (source, at) = (&self.connector.source, Some(&self.cursor));
        let page = source.page(&self.stream, at, self.run.deadline).await?;
        if page.at != self.cursor {
            let message = "the source dropped the page's token while the page was being read";
            let fix = "nothing to do: the next run starts again at the oldest day that it accepts";
            return Err(Fault::passing(Code::CursorDropped, message, fix).into());
        }
        Ok(page)
    }

    /// Puts files that are gone into quarantine, without their bytes, and passes them.
    fn give_up(&mut self, missing: &[FilePosition]) {
        for position in missing {
            let Some(file) = self.files.get_mut(&position.file) else { continue };
            tracing::error!(
                stream = self.stream.name,
                file = position.file,
                line = position.line,
                "a batch file is gone from the listing: it is missing from this line on"
            );
            let mut filler = Filler::lock(&self.filler);
            let FileProgress { version, done } = &mut file.progress;
            filler.builder.begin_file(&position.file, version, *done);
            filler.builder.reject(Rejection {
                position: position.clone(),
                event_id: String::new(),
                reason: FILE_GONE,
                detail: "three listings of its page no longer have it".to_owned(),
                delivered: false,
                kept: Kept::Nothing,
            });
            filler.builder.end_file(None);
            *done = Position::End;
            // It may come back as another, whose events are counted from none.
            file.events = 0;
        }
    }

    /// Reads what is not yet read of a page's parts, in order; returns the first whose address has
    /// expired.
    async fn read_parts(&mut self, page: &Page) -> Result<Option<String>, Interrupt> {
        let mut parts: Vec<Part> = Vec::new();
        for part in &page.parts {
            if !self.is_read(part) && !parts.iter().any(|other| other.key == part.key) {
                parts.push(part.clone());
            }
        }
        let (connector, deadline) = (self.connector.clone(), self.run.deadline);
        let opening = parts.into_iter().map(move |part| {
            let connector = connector.clone();
            // A task of its own goes on while the parts before it are read.
            AbortOnDropHandle::new(tokio::spawn(async move {
                let open = connector.open(&part, deadline).await;
                (part, open)
            }))
        });
        let mut opened = stream::iter(opening).buffered(OPEN);
        while let Some(opened) = self.wait(opened.next()).await? {
            let (part, open) = opened.map_err(internal)?;
            if !self.read_part(&part, open?).await? {
                return Ok(Some(part.key));
            }
        }
        Ok(None)
    }

    fn is_read(&self, part: &Part) -> bool {
        self.files.get(&part.key).is_some_and(|FileRead { progress, .. }| {
            progress.done == Position::End && progress.version.size == part.size
        })
    }
}

impl Connector {
    /// Opens a part from its beginning; `None` if its address has expired.
    pub(super) async fn open(
        &self,
        part: &Part,
        deadline: Deadline,
    ) -> Result<Option<OpenPart>, Interrupt> {
        match &part.content {
            Content::At(_) => self.source.open(part, deadline).await,
            Content::Here(bytes) => Ok(Some(OpenPart::here(bytes.clone()))),
        }
    }
}

fn forbidden(file: &str) -> Fault {
    Fault::passing(
        Code::FileForbidden,
        format!("batch file {file} was refused at the new addresses of {RELISTINGS} listings"),
        "the next run tries again from the same line; if it stays so, give the file's name to the \
         support of the source",
    )
}
