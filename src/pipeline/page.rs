//! One page, read to its end: what happens when an address expires, a download breaks off, or a
//! file is damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Policy;
use super::body::{Body, BodyBuilder};
use super::fault::{Fault, Interrupt, internal};
use super::read::{Download, FillEnd, Filler};
use super::source::{OpenError, OpenPart, Page, Part, ReadError, Source};
use super::summary::{Counters, add};
use crate::checkpoint::{Cursor, FileProgress, FileVersion, Position};
use crate::quarantine::{FilePosition, Kept, Quarantine, Rejection};
use crate::seams::Deadline;

/// Files that are opened before their turn comes, so that small ones do not wait for one another.
const OPEN_AHEAD: usize = 4;

/// How often in a row the same page is listed again because an address was refused.
const RELISTINGS: u32 = 3;

/// How often the page is listed again to find a half-read file that it no longer has.
const RELISTINGS_FOR_MISSING: u32 = 2;

/// How often a file is downloaded without one new line before it is given up.
const DOWNLOADS: u32 = 5;

/// How many downloads must break at the same place before a file counts as corrupt.
const CORRUPT_DOWNLOADS: u32 = 3;

/// Reads one page of one stream into bodies.
pub(super) struct PageReader {
    pub(super) source: Arc<dyn Source>,
    pub(super) quarantine: Quarantine,
    pub(super) stream: String,
    pub(super) cursor: Cursor,
    /// How far each file is read: at first what the checkpoint says.
    pub(super) read: BTreeMap<String, FileProgress>,
    pub(super) bodies: mpsc::Sender<Body>,
    pub(super) stop: CancellationToken,
    pub(super) deadline: Deadline,
    pub(super) counters: Arc<Counters>,
    pub(super) policy: Policy,
    /// Files that are gone: what may be missing.
    pub(super) gone: Vec<FilePosition>,
    /// The file in hand.
    pub(super) in_hand: Option<String>,
    /// Events read in this run, of files that are not at their end.
    pub(super) events: BTreeMap<String, u64>,
    /// Files that lie in quarantine whole.
    pub(super) kept: BTreeSet<String>,
    /// Addresses refused in a row.
    pub(super) expired: u32,
}

/// Why a part was put down before its end.
enum PutDown {
    /// Its address expired: the page must be listed again.
    Expired,
    Interrupt(Interrupt),
}

impl<E: Into<Interrupt>> From<E> for PutDown {
    fn from(error: E) -> Self {
        Self::Interrupt(error.into())
    }
}

impl From<OpenError> for PutDown {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Expired => Self::Expired,
            OpenError::Interrupt(interrupt) => Self::Interrupt(interrupt),
        }
    }
}

impl PageReader {
    /// Reads all files of `page`; returns the reply whose files they were in the end.
    pub(super) async fn read(&mut self, mut page: Page) -> Result<Page, Interrupt> {
        let mut builder = BodyBuilder::new(&self.stream, self.policy.gzip_level);
        let mut looked_for = 0;
        loop {
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
                    self.expired += 1;
                    if self.expired > RELISTINGS {
                        return Err(self.forbidden().into());
                    }
                    page = self.list_again().await?;
                }
                Err(PutDown::Interrupt(interrupt)) => return Err(interrupt),
            }
        }
        if let Some(body) = builder.take().map_err(internal)? {
            self.bodies.send(body).await.map_err(|_| Interrupt::OutOfTime)?;
        }
        Ok(page)
    }

    /// Files of which a part was read, and which the listing no longer has.
    fn missing(&self, page: &Page) -> Vec<FilePosition> {
        let listed = |key: &str| page.parts.iter().any(|part| part.key == key);
        let half_read = self.read.iter().filter_map(|(key, progress)| match progress.done {
            Position::Line(line) if line > 0 && !listed(key) => Some(FilePosition {
                stream: self.stream.clone(),
                file: key.clone(),
                line: line + 1,
            }),
            _ => None,
        });
        half_read.collect()
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
            builder.begin_file(&position.file, &progress.version, progress.done);
            builder.push_rejection(Rejection {
                position: position.clone(),
                event_id: String::new(),
                reason: "file-gone",
                detail: "three listings of its page no longer have it".to_owned(),
                delivered: false,
                kept: Kept::Nothing,
            });
            builder.pass_file();
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
            async move {
                let open = source.open(&part, deadline).await;
                (part, open)
            }
        });
        let mut opened = stream::iter(opening).buffered(OPEN_AHEAD);
        while let Some((part, open)) = opened.next().await {
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

    /// Reads one part to its end, through as many downloads as it takes.
    async fn read_part(
        &mut self,
        part: &Part,
        first: Result<OpenPart, OpenError>,
        builder: &mut BodyBuilder,
    ) -> Result<(), PutDown> {
        let mut first = Some(first);
        let mut tries = Tries::default();
        loop {
            let open = match first.take() {
                Some(open) => open?,
                None => self.source.open(part, self.deadline).await?,
            };
            let from = self.resume(part, open.etag.clone(), builder);
            match self.fill(part, open, from, builder).await? {
                FillEnd::End => break,
                FillEnd::KeepFile => self.keep_file(part).await?,
                FillEnd::Stopped => return Err(Interrupt::OutOfTime.into()),
                FillEnd::Failed(error) => {
                    let line = self.line_of(part);
                    let Some(reason) = tries.after(&error, line) else {
                        self.pause(part, &error, &tries).await?;
                        continue;
                    };
                    self.keep_file(part).await?;
                    builder.push_rejection(self.whole_file(part, line, reason, &error));
                    tracing::error!(
                        stream = self.stream,
                        file = part.key,
                        line = line + 1,
                        reason,
                        %error,
                        r#where = self.quarantine.location(&self.stream),
                        "a batch file cannot be read on: it lies in quarantine whole, and is not \
                         delivered from this line on"
                    );
                    break;
                }
            }
        }
        builder.end_file(self.events.remove(&part.key).unwrap_or_default());
        if let Some(progress) = self.read.get_mut(&part.key) {
            progress.done = Position::End;
        }
        add(&self.counters.files, 1);
        self.expired = 0;
        Ok(())
    }

    /// Where to go on in a part that has just been opened.
    fn resume(&mut self, part: &Part, etag: Option<String>, builder: &mut BodyBuilder) -> u64 {
        let version = FileVersion { size: part.size, etag };
        let from = match self.read.get(&part.key) {
            Some(FileProgress { done: Position::Line(line), version: known })
                if *known == version =>
            {
                *line
            }
            _ => 0,
        };
        let done = Position::Line(from);
        builder.begin_file(&part.key, &version, done);
        self.read.insert(part.key.clone(), FileProgress { done, version });
        from
    }

    /// Fills bodies from one download.
    async fn fill(
        &mut self,
        part: &Part,
        open: OpenPart,
        from: u64,
        builder: &mut BodyBuilder,
    ) -> Result<FillEnd, PutDown> {
        let download = Download::begin(open, self.stop.clone(), Arc::clone(&self.counters));
        let empty = BodyBuilder::new(&self.stream, self.policy.gzip_level);
        let filler = Filler {
            reader: self.source.records(Box::new(download), from),
            builder: std::mem::replace(builder, empty),
            bodies: self.bodies.clone(),
            stop: self.stop.clone(),
            counters: Arc::clone(&self.counters),
            policy: self.policy,
            file_kept: self.kept.contains(&part.key),
            line: from,
            events: 0,
        };
        let filling = tokio::task::spawn_blocking(move || filler.fill());
        let (filler, end) = filling.await.map_err(internal)?;
        *builder = filler.builder;
        *self.events.entry(part.key.clone()).or_default() += filler.events;
        if let Some(progress) = self.read.get_mut(&part.key) {
            progress.done = Position::Line(filler.line);
        }
        Ok(end)
    }

    /// Copies the part to quarantine as it is.
    async fn keep_file(&mut self, part: &Part) -> Result<(), PutDown> {
        let open = self.source.open(part, self.deadline).await?;
        self.quarantine.keep_file(&self.stream, &part.key, open.bytes).await?;
        self.kept.insert(part.key.clone());
        Ok(())
    }

    fn line_of(&self, part: &Part) -> u64 {
        match self.read.get(&part.key).map(|progress| progress.done) {
            Some(Position::Line(line)) => line,
            _ => 0,
        }
    }

    /// Stands in quarantine for what follows `line` in a file that is kept whole.
    fn whole_file(
        &self,
        part: &Part,
        line: u64,
        reason: &'static str,
        error: &ReadError,
    ) -> Rejection {
        let (stream, file) = (self.stream.clone(), part.key.clone());
        Rejection {
            position: FilePosition { stream, file, line: line + 1 },
            event_id: String::new(),
            reason,
            detail: error.to_string(),
            delivered: false,
            kept: Kept::File,
        }
    }

    /// Waits before the next download of the same part.
    async fn pause(&self, part: &Part, error: &ReadError, tries: &Tries) -> Result<(), PutDown> {
        if tries.without_a_line >= DOWNLOADS {
            return Err(Fault::passing(
                "file-unreadable",
                format!("batch file {}: {DOWNLOADS} downloads in a row failed: {error}", part.key),
                "the next run tries again from the same line; check the network between here \
                 and the file's host",
            )
            .into());
        }
        tracing::info!(file = part.key, %error, "downloading the file again");
        tokio::select! {
            () = tokio::time::sleep(self.policy.download_pause * tries.without_a_line) => Ok(()),
            () = self.stop.cancelled() => Err(Interrupt::OutOfTime.into()),
        }
    }
}

/// The downloads of one part.
#[derive(Default)]
struct Tries {
    line: u64,
    without_a_line: u32,
    damaged_at: Option<u64>,
    damaged: u32,
}

impl Tries {
    /// Counts a failed download that got to `line`; a word if the file must be kept whole.
    fn after(&mut self, error: &ReadError, line: u64) -> Option<&'static str> {
        self.without_a_line = if line > self.line { 1 } else { self.without_a_line + 1 };
        self.line = line;
        match error {
            ReadError::Broken(_) => None,
            ReadError::TooLarge(_) => Some("file-too-large"),
            ReadError::Damaged { offset, .. } => {
                let again = self.damaged_at.replace(*offset) == Some(*offset);
                self.damaged = if again { self.damaged + 1 } else { 1 };
                (self.damaged >= CORRUPT_DOWNLOADS).then_some("corrupt-file")
            }
        }
    }
}
