//! One page, read to its end: what happens when an address expires, or a part is no longer listed.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::body::{Body, rest};
use super::fault::{Fault, Interrupt, internal};
use super::read::{FileRead, Filler};
use super::source::{Page, Part};
use super::stream::StreamPull;
use crate::checkpoint::{Cursor, FileProgress, FileVersion, Position};
use crate::codes::Code;
use crate::quarantine::Kept;

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
    pub(super) pull: &'a StreamPull,
    at: Cursor,
    pub(super) files: BTreeMap<String, FileRead>,
    /// Shared with the thread that is at work on what was read.
    pub(super) filler: Arc<Mutex<Filler>>,
    /// Where it sends bodies.
    bodies: mpsc::UnboundedSender<Body>,
    /// Addresses that were refused in a row.
    pub(super) expired: u32,
}

impl<'a> PageReader<'a> {
    /// Goes on in the page at a cursor from this progress in its files.
    pub(super) fn new(
        pull: &'a StreamPull,
        at: Cursor,
        files: &BTreeMap<String, FileProgress>,
        bodies: mpsc::UnboundedSender<Body>,
    ) -> Self {
        let known = |(key, progress): (&String, &FileProgress)| {
            (key.clone(), FileRead { progress: progress.clone(), events: 0 })
        };
        let files = files.iter().map(known).collect();
        let filler = Arc::new(Mutex::new(Filler::new(pull, bodies.clone())));
        Self { pull, at, files, filler, bodies, expired: 0 }
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
            if !matches!(read, Err(Interrupt::OutOfTime)) || !self.pull.run.stop.is_cancelled() {
                self.flush().await?;
            }
            let Some(expired) = read? else { return Ok(page) };
            self.expired += 1;
            if self.expired > RELISTINGS {
                let message = format!(
                    "file {expired} was refused at the new addresses of {RELISTINGS} listings"
                );
                let fix = "the next run tries again from the same line; if it stays so, give the \
                           file's name to the support of the source";
                return Err(Fault::passing(Code::FileForbidden, message, fix).into());
            }
            page = self.list_again().await?;
        }
    }

    /// What fills the bodies. It is never held over an `await`.
    pub(super) fn filler(&self) -> MutexGuard<'_, Filler> {
        Filler::lock(&self.filler)
    }

    /// Sends on what waits in the body in hand, as soon as there is room for it.
    pub(super) async fn flush(&self) -> Result<(), Interrupt> {
        let body = self.filler().builder.take().map_err(internal)?;
        match body {
            Some(body) => self.pull.run.pool.send(body, &self.bodies).await,
            None => Ok(()),
        }
    }

    /// Waits for something to read. A body that has waited long enough meanwhile is sent on.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        let mut work = pin!(work);
        loop {
            let since = self.filler().builder.since();
            let due = since.map(|since| since + self.pull.run.policy.body_wait);
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
                FileRead {
                    progress: FileProgress { version, ..FileProgress::default() },
                    events: 0,
                }
            });
        }
    }

    /// Files that are not read to their end, and which the listing no longer has.
    fn missing(&self, page: &Page) -> Vec<String> {
        let listed: BTreeSet<&String> = page.parts.iter().map(|part| &part.key).collect();
        let unread = self.files.iter().filter(|(_, file)| file.progress.done != Position::End);
        unread.map(|(key, _)| key.clone()).filter(|key| !listed.contains(key)).collect()
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
            let Some(FileRead { progress, events }) = self.files.get_mut(&key) else { continue };
            let builder = &mut Filler::lock(&self.filler).builder;
            builder.begin_file(&key, &progress.version, progress.done);
            let position = builder.place(progress.done.lines() + 1);
            tracing::error!(
                stream = position.stream,
                file = key,
                line = position.line,
                "a file is gone from the listing: it is missing from this line on"
            );
            let detail = "three listings of its page no longer have it".to_owned();
            builder.reject(rest(position, FILE_GONE, detail, Kept::Nothing));
            builder.end_file(None);
            // It may come back as another, whose events are counted from none.
            (progress.done, *events) = (Position::End, 0);
        }
    }

    /// Reads what is not yet read of a page's parts, in order; returns the first whose address has
    /// expired.
    async fn read_parts(&mut self, page: &Page) -> Result<Option<String>, Interrupt> {
        // The same key twice is one file, whatever their sizes: the first.
        let mut keys = BTreeSet::new();
        let is_unread = |part: &&Part| {
            let is_read = self.files.get(&part.key).is_some_and(|FileRead { progress, .. }| {
                progress.done == Position::End && progress.version.size == part.size
            });
            keys.insert(part.key.clone()) && !is_read
        };
        let parts: Vec<Part> = page.parts.iter().filter(is_unread).cloned().collect();
        let pull = self.pull;
        let opening = parts.into_iter().map(|part| {
            let pull = pull.clone();
            // A task of its own goes on while the parts before it are read.
            AbortOnDropHandle::new(tokio::spawn(async move {
                let open = pull.open(&part).await;
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
