//! One page, read to its end: what happens when an address expires, or a file is no longer listed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::body::BodyBuilder;
use super::fault::{Fault, Interrupt, internal};
use super::outbox::Outbox;
use super::part::PartError;
use super::source::{Page, Part};
use super::summary::Counters;
use super::{Connector, Run};
use crate::checkpoint::{Cursor, FileProgress, FileVersion, Position};
use crate::quarantine::{FilePosition, Kept, Rejection};

/// Files that are open at a time, the one in hand with them, so that small ones do not wait for one
/// another.
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
    pub(super) stream: String,
    pub(super) cursor: Cursor,
    pub(super) files: BTreeMap<String, FileRead>,
    pub(super) outbox: Outbox,
    pub(super) run: Run,
    /// Ends the reading.
    pub(super) stop: CancellationToken,
    pub(super) counters: Arc<Counters>,
    /// Addresses refused in a row.
    pub(super) expired: u32,
}

/// What is known of a file.
pub(super) struct FileRead {
    /// How far it is read: at first what the checkpoint says.
    pub(super) progress: FileProgress,
    /// The events that were read of it in this run.
    pub(super) events: u64,
    /// The name under which it is in quarantine whole, if it is.
    pub(super) kept: Option<String>,
}

impl FileRead {
    /// A file of which nothing is read; the listing says it has `size` bytes.
    pub(super) fn new(size: Option<u64>) -> Self {
        Self::from(FileProgress {
            done: Position::Line(0),
            version: FileVersion { size, etag: None },
        })
    }
}

impl From<FileProgress> for FileRead {
    fn from(progress: FileProgress) -> Self {
        Self { progress, events: 0, kept: None }
    }
}

impl PageReader {
    /// Reads all files of `page`; returns the reply whose files they were in the end.
    pub(super) async fn read(&mut self, mut page: Page) -> Result<Page, Interrupt> {
        let mut builder = self.builder();
        let mut looked_for = 0;
        loop {
            self.note(&mut page);
            let missing = self.missing(&page);
            if !missing.is_empty() && looked_for < RELISTINGS_FOR_MISSING {
                looked_for += 1;
                page = self.list_again().await?;
                continue;
            }
            self.give_up(&missing, &mut builder);
            match self.read_parts(&page, &mut builder).await {
                Ok(()) => break,
                Err(PartError::Expired { file }) => {
                    // Whatever comes of it, what was read before is not held back by this file.
                    self.flush(&mut builder).await?;
                    self.expired += 1;
                    if self.expired > RELISTINGS {
                        return Err(forbidden(&file).into());
                    }
                    page = self.list_again().await?;
                }
                Err(PartError::Interrupt(interrupt)) => {
                    // Whatever ended it, what was read is delivered while there is time for it.
                    if matches!(interrupt, Interrupt::Fault(_)) || !self.stop.is_cancelled() {
                        self.flush(&mut builder).await?;
                    }
                    return Err(interrupt);
                }
            }
        }
        self.flush(&mut builder).await?;
        Ok(page)
    }

    /// A builder for this stream's bodies.
    pub(super) fn builder(&self) -> BodyBuilder {
        BodyBuilder::new(&self.stream, self.connector.policy.gzip_level, &self.run.pool)
    }

    /// Sends on what waits in the body in hand.
    pub(super) async fn flush(&self, builder: &mut BodyBuilder) -> Result<(), Interrupt> {
        match builder.take().map_err(internal)? {
            Some(body) => self.outbox.send(body).await,
            None => Ok(()),
        }
    }

    /// Remembers what is listed, which must not go without a word. A file that is
    /// listed under another address keeps the key that it is known by.
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
                stream: self.stream.clone(),
                file: key.clone(),
                line: line + 1,
            }),
            _ => None,
        });
        unread.collect()
    }

    async fn list_again(&mut self) -> Result<Page, Interrupt> {
        tracing::info!(stream = self.stream, "listing the same page again for fresh addresses");
        let page =
            self.connector.source.page(&self.stream, &self.cursor, self.run.deadline).await?;
        if page.cursor != self.cursor {
            let message = "the source dropped the page's token while the page was being read";
            let fix = "nothing to do: the next run starts again at the oldest day that it accepts";
            return Err(Fault::passing("cursor-dropped", message, fix).into());
        }
        Ok(page)
    }

    /// Sends files that are gone to quarantine, without their bytes, and passes them.
    fn give_up(&mut self, missing: &[FilePosition], builder: &mut BodyBuilder) {
        for position in missing {
            let Some(file) = self.files.get_mut(&position.file) else { continue };
            tracing::error!(
                stream = self.stream,
                file = position.file,
                line = position.line,
                "a batch file is gone from the listing: it is missing from this line on"
            );
            builder.begin_file(&position.file, &file.progress.version, file.progress.done, None);
            builder.push_rejection(Rejection {
                position: position.clone(),
                event_id: String::new(),
                reason: FILE_GONE,
                detail: "three listings of its page no longer have it".to_owned(),
                delivered: false,
                kept: Kept::Nothing,
            });
            builder.pass_file();
            file.progress.done = Position::End;
            // It may come back as another, whose events are counted from none.
            file.events = 0;
        }
    }

    /// Reads what is not yet read of a page's files, in order.
    async fn read_parts(
        &mut self,
        page: &Page,
        builder: &mut BodyBuilder,
    ) -> Result<(), PartError> {
        let mut parts: Vec<&Part> = Vec::new();
        for part in &page.parts {
            if !self.is_read(part) && !parts.iter().any(|other| other.key == part.key) {
                parts.push(part);
            }
        }
        let (source, deadline) = (Arc::clone(&self.connector.source), self.run.deadline);
        let opening = parts.into_iter().cloned().map(|part| {
            let source = Arc::clone(&source);
            // A task of its own goes on while the files before it are read.
            AbortOnDropHandle::new(tokio::spawn(async move {
                let open = source.open(&part, deadline).await;
                (part, open)
            }))
        });
        let mut opened = stream::iter(opening).buffered(OPEN);
        loop {
            let due = builder.since().map(|since| since + self.connector.policy.body_wait);
            let next = tokio::select! {
                biased;
                next = opened.next() => next,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.flush(builder).await?;
                    continue;
                }
            };
            let Some(opened) = next else { break };
            let (part, open) = opened.map_err(internal)?;
            self.read_part(&part, open, builder).await?;
        }
        Ok(())
    }

    fn is_read(&self, part: &Part) -> bool {
        self.files.get(&part.key).is_some_and(|FileRead { progress, .. }| {
            progress.done == Position::End && progress.version.size == part.size
        })
    }
}

fn forbidden(file: &str) -> Fault {
    Fault::passing(
        "file-forbidden",
        format!("batch file {file} was refused at fresh addresses of {RELISTINGS} listings"),
        "the next run tries again from the same line; if it stays so, give the file's name \
         to Mimecast's support",
    )
}
