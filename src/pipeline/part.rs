//! One file of a page, read to its end: what happens when a download breaks off, or the file is
//! damaged.

use std::future::ready;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};

use super::body::BodyBuilder;
use super::fault::{Fault, Interrupt, internal};
use super::page::{FileRead, PageReader};
use super::read::{Download, FillEnd, Filler, bytes_of};
use super::source::{NoBytes, OpenError, OpenPart, Part, ReadError, is_unproven_end};
use super::summary::add;
use crate::checkpoint::{FileProgress, FileVersion, Position};
use crate::quarantine::{FilePosition, Kept, Rejection};

/// How often a file is downloaded without one new line before it is given up.
const DOWNLOADS: u32 = 5;

/// How many downloads must break at the same place before a file counts as corrupt.
const CORRUPT_DOWNLOADS: u32 = 3;

/// Why a part was not read to its end.
pub(super) enum PartError {
    /// Its address expired: the page must be listed again.
    Expired {
        file: String,
    },
    Interrupt(Interrupt),
}

impl<E: Into<Interrupt>> From<E> for PartError {
    fn from(error: E) -> Self {
        Self::Interrupt(error.into())
    }
}

impl PageReader {
    /// Reads one part to its end, through as many downloads as it takes.
    pub(super) async fn read_part(
        &mut self,
        part: &Part,
        first: Result<OpenPart, OpenError>,
        builder: &mut BodyBuilder,
    ) -> Result<(), PartError> {
        let mut first = Some(first);
        let mut tries = Tries::default();
        loop {
            let open = match first.take() {
                Some(open) => open,
                None => self.connector.source.open(part, self.run.deadline).await,
            };
            let open = open.map_err(|error| not_open(part, error))?;
            let from = self.resume(part, open.etag.clone(), builder);
            let error = match self.fill(part, open, from, builder).await? {
                FillEnd::End => break,
                FillEnd::Stopped => return Err(Interrupt::OutOfTime.into()),
                FillEnd::KeepFile if self.keep_file(part, builder).await?.is_some() => continue,
                FillEnd::KeepFile => ReadError::Broken(io::Error::other("the file has changed")),
                FillEnd::Failed(error) if tries.is_empty_again(&error, part) => {
                    tracing::warn!(
                        stream = self.stream,
                        file = part.key,
                        "a batch file came without a byte twice, and its listing gives no size: it \
                         counts as empty"
                    );
                    break;
                }
                FillEnd::Failed(error) => error,
            };
            let line = self.line_of(part);
            let kept = match tries.after(&error, line) {
                Some(reason) => self.keep_file(part, builder).await?.map(|name| (reason, name)),
                None => None,
            };
            let Some((reason, name)) = kept else {
                self.pause(part, &error, &tries, builder).await?;
                continue;
            };
            builder.push_rejection(self.whole_file(part, line, reason, &error, name));
            tracing::error!(
                stream = self.stream,
                file = part.key,
                line = line + 1,
                reason,
                %error,
                r#where = self.connector.quarantine.location(&self.stream),
                "a batch file cannot be read on: it lies in quarantine whole, and is not \
                 delivered from this line on"
            );
            break;
        }
        if let Some(file) = self.files.get_mut(&part.key) {
            builder.end_file(std::mem::take(&mut file.events));
            file.progress.done = Position::End;
        }
        add(&self.counters.files, 1);
        self.expired = 0;
        Ok(())
    }

    /// Where to go on in a part that has just been opened.
    fn resume(&mut self, part: &Part, etag: Option<String>, builder: &mut BodyBuilder) -> u64 {
        let version = FileVersion { size: part.size, etag };
        let file = self.files.entry(part.key.clone()).or_insert_with(|| FileRead::new(part.size));
        let from = match file.progress.done {
            Position::Line(line) if file.progress.version == version => line,
            _ => {
                file.kept = None;
                0
            }
        };
        let done = Position::Line(from);
        builder.begin_file(&part.key, &version, done, file.kept.clone());
        file.progress = FileProgress { done, version };
        from
    }

    /// Fills bodies from one download.
    async fn fill(
        &mut self,
        part: &Part,
        open: OpenPart,
        from: u64,
        builder: &mut BodyBuilder,
    ) -> Result<FillEnd, PartError> {
        let download =
            Download::new(open, part.size, self.stop.clone(), Arc::clone(&self.counters));
        let empty = self.builder();
        let filler = Filler {
            reader: self.connector.source.records(Box::new(download), from),
            builder: std::mem::replace(builder, empty),
            outbox: self.outbox.clone(),
            stop: self.stop.clone(),
            counters: Arc::clone(&self.counters),
            policy: self.connector.policy,
            rows_left: Arc::clone(&self.run.rows_left),
            line: from,
            events: 0,
        };
        let filling = tokio::task::spawn_blocking(move || filler.fill());
        let (filler, end) = filling.await.map_err(internal)?;
        *builder = filler.builder;
        if let Some(file) = self.files.get_mut(&part.key) {
            file.events += filler.events;
            file.progress.done = Position::Line(filler.line);
        }
        Ok(end)
    }

    /// Copies the part to quarantine as it is, through as many downloads as it takes, and says as
    /// what; `None` if it is no longer that which was read.
    async fn keep_file(
        &mut self,
        part: &Part,
        builder: &mut BodyBuilder,
    ) -> Result<Option<String>, PartError> {
        let mut tries = Tries::default();
        loop {
            let open = self.connector.source.open(part, self.run.deadline).await;
            let open = open.map_err(|error| not_open(part, error))?;
            let version = FileVersion { size: part.size, etag: open.etag.clone() };
            let Some(file) = self.files.get_mut(&part.key) else { return Ok(None) };
            if file.progress.version != version {
                return Ok(None);
            }
            let broken = Arc::new(Mutex::new(None));
            let tell = Arc::clone(&broken);
            let bytes = bytes_of(open, part.size);
            // It was read before: this is all that its host gives.
            let bytes =
                bytes.take_while(|bytes| ready(!bytes.as_ref().is_err_and(is_unproven_end)));
            let bytes = bytes.inspect_err(move |error| {
                *tell.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(io::Error::new(error.kind(), error.to_string()));
            });
            let keeping = self.connector.quarantine.keep_file(
                &self.stream,
                &part.key,
                &version,
                bytes.boxed(),
            );
            let kept = keeping.await;
            let broken = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(error) = broken else {
                let name = kept?;
                file.kept = Some(name.clone());
                return Ok(Some(name));
            };
            // A download that broke off is not the store's fault.
            let error = ReadError::Broken(error);
            tries.after(&error, 0);
            self.pause(part, &error, &tries, builder).await?;
        }
    }

    fn line_of(&self, part: &Part) -> u64 {
        match self.files.get(&part.key).map(|file| file.progress.done) {
            Some(Position::Line(line)) => line,
            _ => 0,
        }
    }

    /// Stands in quarantine for what follows `line` in a file that is kept whole as `name`.
    fn whole_file(
        &self,
        part: &Part,
        line: u64,
        reason: &'static str,
        error: &ReadError,
        name: String,
    ) -> Rejection {
        let (stream, file) = (self.stream.clone(), part.key.clone());
        Rejection {
            position: FilePosition { stream, file, line: line + 1 },
            event_id: String::new(),
            reason,
            detail: error.to_string(),
            delivered: false,
            kept: Kept::File(name),
        }
    }

    /// Waits before the next download of the same part. What was read before is not held back.
    async fn pause(
        &self,
        part: &Part,
        error: &ReadError,
        tries: &Tries,
        builder: &mut BodyBuilder,
    ) -> Result<(), PartError> {
        self.flush(builder).await?;
        // No later download of it is smaller.
        let endless =
            matches!(error, ReadError::Broken(e) if e.kind() == io::ErrorKind::FileTooLarge);
        if endless || tries.without_a_line >= DOWNLOADS {
            return Err(unreadable(part, tries.without_a_line, error).into());
        }
        tracing::info!(file = part.key, %error, "downloading the file again");
        tokio::select! {
            () = tokio::time::sleep(self.connector.policy.download_pause * tries.without_a_line) => Ok(()),
            () = self.stop.cancelled() => Err(Interrupt::OutOfTime.into()),
        }
    }
}

fn not_open(part: &Part, error: OpenError) -> PartError {
    match error {
        OpenError::Expired => PartError::Expired { file: part.key.clone() },
        OpenError::Interrupt(interrupt) => PartError::Interrupt(interrupt),
    }
}

fn unreadable(part: &Part, downloads: u32, error: &dyn std::fmt::Display) -> Fault {
    Fault::passing(
        "file-unreadable",
        format!("batch file {}: {downloads} downloads in a row failed: {error}", part.key),
        "the next run tries again from the same line; check the network between here and the \
         file's host",
    )
}

/// The downloads of one part.
#[derive(Default)]
struct Tries {
    line: u64,
    without_a_line: u32,
    damaged_at: Option<u64>,
    damaged: u32,
    came_empty: bool,
}

impl Tries {
    /// Whether the part came without a byte, and did so before. Where its listing gives a size, it
    /// is not empty.
    fn is_empty_again(&mut self, error: &ReadError, part: &Part) -> bool {
        let ReadError::Broken(error) = error else { return false };
        let empty = error.get_ref().is_some_and(|error| error.is::<NoBytes>());
        empty && part.size.is_none() && std::mem::replace(&mut self.came_empty, true)
    }

    /// Counts a failed download that got to `line`; a word if the file must be kept whole.
    fn after(&mut self, error: &ReadError, line: u64) -> Option<&'static str> {
        self.without_a_line = if line > self.line { 1 } else { self.without_a_line + 1 };
        self.line = line;
        if let ReadError::Damaged { offset, .. } = error {
            let again = self.damaged_at.replace(*offset) == Some(*offset);
            self.damaged = if again { self.damaged + 1 } else { 1 };
            if self.damaged < CORRUPT_DOWNLOADS {
                return None;
            }
        }
        error.reason()
    }
}
