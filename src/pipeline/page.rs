//! One page, read to its end: what happens when an address expires, or a part is no longer listed.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Connector;
use super::body::Body;
use super::fault::{Fault, Interrupt, internal};
use super::read::Filler;
use super::source::{Content, OpenPart, Page, Part};
use super::stream::StreamPull;
use crate::checkpoint::{Cursor, FileProgress, FileVersion, Position};
use crate::codes::Code;
use crate::quarantine::{FilePosition, Keeping, Kept, Rejection};
use crate::seams::Deadline;
use crate::table::EventIdHasher;

/// Parts that are open at a time, the one that is read with them, so that small ones do not wait
/// for one another.
const OPEN: usize = 3;

/// How often in a row the same page is listed again because an address was refused.
const RELISTINGS: u32 = 3;

/// How often the page is listed again to find a file that it no longer has.
const RELISTINGS_FOR_MISSING: u32 = 2;

/// The word for a file that no listing has any more, in quarantine.
pub(super) const FILE_GONE: &str = "file-gone";

/// Reads one page of one stream into bodies.
pub(super) struct PageReader<'a> {
    pub(super) pull: &'a StreamPull<'a>,
    at: Cursor,
    pub(super) files: BTreeMap<String, FileRead>,
    /// Ends the reading.
    pub(super) stop: CancellationToken,
    /// Shared with the thread that is at work on what was read.
    pub(super) filler: Arc<Mutex<Filler>>,
    /// The line that is on its way to quarantine, since it is too long to be held; with its id and
    /// length so far.
    pub(super) long: Option<(Keeping, EventIdHasher, u64)>,
    /// Addresses that were refused in a row.
    pub(super) expired: u32,
}

/// What is known of a file.
#[derive(Default)]
pub(super) struct FileRead {
    /// How far it is read: at first what the checkpoint says.
    pub(super) progress: FileProgress,
    /// The events that were read of it in this run.
    pub(super) events: u64,
    /// The downloads in a row that gave no new line, and the line that they came to.
    pub(super) in_vain: u32,
    pub(super) reached: u64,
    /// The downloads in a row that failed at the same place, and that place.
    pub(super) damaged: u32,
    pub(super) damaged_at: u64,
    /// Whether a download came without a byte.
    pub(super) came_empty: bool,
}

impl<'a> PageReader<'a> {
    /// Goes on in the page at a cursor from this progress in its files.
    pub(super) fn new(
        pull: &'a StreamPull<'a>,
        at: Cursor,
        files: &BTreeMap<String, FileProgress>,
        bodies: mpsc::UnboundedSender<Body>,
        stop: CancellationToken,
    ) -> Self {
        let format = pull.connector.source.format(&pull.stream);
        let filler = Filler::new(format, bodies, pull, stop.clone());
        let known = |(key, progress): (&String, &FileProgress)| {
            (key.clone(), FileRead { progress: progress.clone(), ..FileRead::default() })
        };
        let files = files.iter().map(known).collect();
        let filler = Arc::new(Mutex::new(filler));
        Self { pull, at, files, stop, filler, long: None, expired: 0 }
    }

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
            self.give_up(missing);
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
        Filler::flush(&self.filler).await
    }

    /// Waits for something to read. A body that has waited long enough meanwhile is sent on.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        let mut work = pin!(work);
        loop {
            let since = self.filler().builder.since();
            let due = since.map(|since| since + self.pull.connector.policy.body_wait);
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.flush().await?;
                }
            }
        }
    }

    /// Remembers what is listed, none of which may disappear unseen. A file that is listed under
    /// another address keeps the key that it is known by.
    fn note(&mut self, page: &mut Page) {
        let listed: BTreeSet<String> = page.parts.iter().map(|part| part.key.clone()).collect();
        for part in page.parts.iter_mut().filter(|part| !self.files.contains_key(&part.key)) {
            let known = self.files.iter().find(|(key, file)| {
                file.progress.version.size == part.size
                    && !listed.contains(*key)
                    && self.pull.connector.source.is_same(key, &part.key)
            });
            if let Some((known, _)) = known {
                part.key.clone_from(known);
            }
        }
        for part in &page.parts {
            self.files.entry(part.key.clone()).or_insert_with(|| {
                let version = FileVersion { size: part.size, etag: None };
                let progress = FileProgress { version, ..FileProgress::default() };
                FileRead { progress, ..FileRead::default() }
            });
        }
    }

    /// Files that are not read to their end, and which the listing no longer has.
    fn missing(&self, page: &Page) -> Vec<String> {
        let listed = |key: &str| page.parts.iter().any(|part| part.key == key);
        let unread = self
            .files
            .iter()
            .filter(|(key, file)| file.progress.done != Position::End && !listed(key));
        unread.map(|(key, _)| key.clone()).collect()
    }

    async fn list_again(&mut self) -> Result<Page, Interrupt> {
        let stream = self.pull.stream.name;
        tracing::info!(stream, "listing the same page again for new addresses");
        let page = self.pull.list(Some(self.at.clone())).await.map_err(internal)??;
        if page.at != self.at {
            let message = "the source dropped the page's token while the page was being read";
            let fix = "nothing to do: the next run starts again at the oldest day that it accepts";
            return Err(Fault::passing(Code::CursorDropped, message, fix).into());
        }
        Ok(page)
    }

    /// Puts files that are gone into quarantine, without their bytes, and passes them.
    fn give_up(&mut self, missing: Vec<String>) {
        for key in missing {
            let Some(FileRead { progress, events, .. }) = self.files.get_mut(&key) else {
                continue;
            };
            let position = self.pull.position(&key, progress.done.lines() + 1);
            tracing::error!(
                stream = position.stream,
                file = key,
                line = position.line,
                "a file is gone from the listing: it is missing from this line on"
            );
            let builder = &mut Filler::lock(&self.filler).builder;
            builder.begin_file(&key, &progress.version, progress.done);
            builder.reject(Rejection {
                position,
                event_id: String::new(),
                reason: FILE_GONE,
                detail: "three listings of its page no longer have it".to_owned(),
                delivered: false,
                kept: Kept::Nothing,
            });
            builder.end_file(None);
            // It may come back as another, whose events are counted from none.
            (progress.done, *events) = (Position::End, 0);
        }
    }

    /// Reads what is not yet read of a page's parts, in order; returns the first whose address has
    /// expired.
    async fn read_parts(&mut self, page: &Page) -> Result<Option<String>, Interrupt> {
        let mut parts: Vec<&Part> = Vec::new();
        // The same key twice is one file, whatever their sizes: the first.
        let mut keys = BTreeSet::new();
        for part in &page.parts {
            let is_read = self.files.get(&part.key).is_some_and(|FileRead { progress, .. }| {
                progress.done == Position::End && progress.version.size == part.size
            });
            if keys.insert(&part.key) && !is_read {
                parts.push(part);
            }
        }
        let (connector, deadline) = (self.pull.connector, self.pull.run.deadline);
        let opening = parts.into_iter().cloned().map(|part| {
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
}

impl StreamPull<'_> {
    /// A line of a file.
    pub(super) fn position(&self, file: &str, line: u64) -> FilePosition {
        FilePosition { stream: self.stream.name.to_owned(), file: file.to_owned(), line }
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
        format!("file {file} was refused at the new addresses of {RELISTINGS} listings"),
        "the next run tries again from the same line; if it stays so, give the file's name to the \
         support of the source",
    )
}
