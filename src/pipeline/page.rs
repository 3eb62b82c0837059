//! One page, read to its end: what happens when an address expires, or a file is no longer listed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::body::{BodyBuffers, BodyBuilder};
use super::fault::{Fault, Interrupt, internal};
use super::outbox::Outbox;
use super::part::PutDown;
use super::source::{Page, Part, Source};
use super::summary::Counters;
use super::{Policy, RowsLeft};
use crate::checkpoint::{Cursor, FileProgress, FileVersion, Position};
use crate::quarantine::{FilePosition, Kept, Quarantine, Rejection};
use crate::seams::Deadline;

/// Files that are open at a time, the one in hand with them, so that small ones do not wait for one
/// another.
const OPEN: usize = 3;

/// How often in a row the same page is listed again because an address was refused.
const RELISTINGS: u32 = 3;

/// How often the page is listed again to find a file that it no longer has.
const RELISTINGS_FOR_MISSING: u32 = 2;

/// Reads one page of one stream into bodies.
pub(super) struct PageReader {
    pub(super) source: Arc<dyn Source>,
    pub(super) quarantine: Quarantine,
    pub(super) stream: String,
    pub(super) cursor: Cursor,
    /// How far each file is read: at first what the checkpoint says.
    pub(super) read: BTreeMap<String, FileProgress>,
    pub(super) outbox: Outbox,
    pub(super) buffers: BodyBuffers,
    pub(super) stop: CancellationToken,
    pub(super) deadline: Deadline,
    pub(super) counters: Arc<Counters>,
    pub(super) policy: Policy,
    pub(super) rows_left: Arc<RowsLeft>,
    /// Files that are gone: what may be missing.
    pub(super) gone: Vec<FilePosition>,
    /// The file in hand.
    pub(super) in_hand: Option<String>,
    /// Events read in this run, of files that are not at their end.
    pub(super) events: BTreeMap<String, u64>,
    /// Files that lie in quarantine whole, and as what.
    pub(super) kept: BTreeMap<String, String>,
    /// Addresses refused in a row.
    pub(super) expired: u32,
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
                Err(PutDown::Expired) => {
                    // Whatever comes of it, what was read before is not held back by this file.
                    self.flush(&mut builder).await?;
                    self.expired += 1;
                    if self.expired > RELISTINGS {
                        return Err(self.forbidden().into());
                    }
                    page = self.list_again().await?;
                }
                Err(PutDown::Interrupt(interrupt)) => {
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
        BodyBuilder::new(&self.stream, self.policy.gzip_level, &self.buffers)
    }

    /// Sends on what waits in the body in hand.
    pub(super) async fn flush(&self, builder: &mut BodyBuilder) -> Result<(), Interrupt> {
        match builder.take().map_err(internal)? {
            Some(body) => self.outbox.send(body).await.map_err(|_| Interrupt::OutOfTime),
            None => Ok(()),
        }
    }

    /// Remembers what is listed, which must not go without a word. A file that is
    /// listed under another address keeps the key that it is known by.
    fn note(&mut self, page: &mut Page) {
        let listed: BTreeSet<String> = page.parts.iter().map(|part| part.key.clone()).collect();
        for part in page.parts.iter_mut().filter(|part| !self.read.contains_key(&part.key)) {
            let known = self.read.iter().find(|(key, progress)| {
                progress.version.size == part.size
                    && !listed.contains(*key)
                    && self.source.is_same(key, &part.key)
            });
            if let Some((known, _)) = known {
                part.key.clone_from(known);
            }
        }
        for part in &page.parts {
            self.read.entry(part.key.clone()).or_insert_with(|| FileProgress {
                done: Position::Line(0),
                version: FileVersion { size: part.size, etag: None },
            });
        }
    }

    /// Files that are not read to their end, and which the listing no longer has.
    fn missing(&self, page: &Page) -> Vec<FilePosition> {
        let listed = |key: &str| page.parts.iter().any(|part| part.key == key);
        let unread = self.read.iter().filter_map(|(key, progress)| match progress.done {
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
        let page = self.source.page(&self.stream, &self.cursor, self.deadline).await?;
        if page.cursor != self.cursor {
            let message = "the source dropped the page's token while the page was being read";
            let fix = "nothing to do: the next run starts again at the oldest day that it accepts";
            return Err(Fault::passing("cursor-dropped", message, fix).into());
        }
        Ok(page)
    }

    fn forbidden(&self) -> Fault {
        let file = self.in_hand.as_deref().unwrap_or_default();
        Fault::passing(
            "file-forbidden",
            format!("batch file {file} was refused at fresh addresses of {RELISTINGS} listings"),
            "the next run tries again from the same line; if it stays so, give the file's name \
             to Mimecast's support",
        )
    }

    /// Sends files that are gone to quarantine, without their bytes, and passes them.
    fn give_up(&mut self, missing: &[FilePosition], builder: &mut BodyBuilder) {
        for position in missing {
            let Some(progress) = self.read.get_mut(&position.file) else { continue };
            builder.begin_file(&position.file, &progress.version, progress.done, None);
            builder.push_rejection(Rejection {
                position: position.clone(),
                event_id: String::new(),
                reason: "file-gone",
                detail: "three listings of its page no longer have it".to_owned(),
                delivered: false,
                kept: Kept::Nothing,
            });
            builder.pass_file();
            // It may come back as another, whose events are counted from none.
            self.events.remove(&position.file);
            progress.done = Position::End;
            self.gone.push(position.clone());
        }
    }

    /// Reads what is not yet read of a page's files, in order.
    async fn read_parts(&mut self, page: &Page, builder: &mut BodyBuilder) -> Result<(), PutDown> {
        let mut parts: Vec<&Part> = Vec::new();
        for part in &page.parts {
            if !self.is_read(part) && !parts.iter().any(|other| other.key == part.key) {
                parts.push(part);
            }
        }
        let (source, deadline) = (Arc::clone(&self.source), self.deadline);
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
            let due = builder.since().map(|since| since + self.policy.body_wait);
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
            self.in_hand = Some(part.key.clone());
            self.read_part(&part, open, builder).await?;
        }
        Ok(())
    }

    fn is_read(&self, part: &Part) -> bool {
        self.read.get(&part.key).is_some_and(|progress| {
            progress.done == Position::End && progress.version.size == part.size
        })
    }
}
