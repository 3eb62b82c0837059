//! One part of a page, read to its end: what happens when a download breaks off, a file is damaged,
//! or a line is too long.

use std::io::{self, ErrorKind};

use bytes::Bytes;
use futures::StreamExt;

use super::fault::{Fault, Interrupt};
use super::page::{FileRead, PageReader};
use super::read::{Filler, Step};
use super::source::{OpenPart, Part, ReadError};
use crate::checkpoint::{FileProgress, FileVersion, Position};
use crate::codes::Code;
use crate::quarantine::{FilePosition, Keeping, Kept, Rejection};
use crate::table::{EventId, EventIdHasher};

/// How often a file is downloaded without one new line before it is given up.
const DOWNLOADS: u32 = 5;

/// How many downloads must break at the same place before a file counts as corrupt.
const CORRUPT_DOWNLOADS: u32 = 3;

/// A line that goes to quarantine piece by piece, since it is too long to be held.
pub(super) struct LongLine {
    keeping: Keeping,
    id: EventIdHasher,
    /// Its bytes so far.
    length: u64,
}

impl PageReader {
    /// Reads one part to its end, through as many downloads as it takes. False if its address has
    /// expired.
    pub(super) async fn read_part(
        &mut self,
        part: &Part,
        mut open: Option<OpenPart>,
    ) -> Result<bool, Interrupt> {
        let mut tries = Tries::default();
        loop {
            let Some(opened) = open else { return Ok(false) };
            self.resume(part, opened.etag.clone());
            let Some(error) = self.download(part, opened).await? else { break };
            if tries.is_empty_again(&error, part) {
                tracing::warn!(
                    stream = self.stream.name,
                    file = part.key,
                    "a batch file came without a byte twice, and its listing gives no size: it \
                     counts as empty"
                );
                break;
            }
            let line = self.filler().line;
            if let Some(reason) = tries.after(&error, line)
                && let Some(name) = self.keep_file(part).await?
            {
                self.reject_rest(part, reason, &error, name);
                break;
            }
            self.pause(part, &error, &tries).await?;
            open = self.connector.open(part, self.run.deadline).await?;
        }
        if let Some(FileRead { progress, events }) = self.files.get_mut(&part.key) {
            progress.done = Position::End;
            let events = std::mem::take(events);
            self.filler().builder.end_file(Some(events));
        }
        self.summary.with(|summary| summary.files += 1);
        self.expired = 0;
        Ok(true)
    }

    /// Goes on in a part that has just been opened.
    fn resume(&mut self, part: &Part, etag: Option<String>) {
        let version = FileVersion { size: part.size, etag };
        let file = self.files.entry(part.key.clone()).or_insert_with(|| FileRead::new(part.size));
        let from = match file.progress.done {
            Position::Line(line) if file.progress.version == version => line,
            _ => 0,
        };
        let done = Position::Line(from);
        file.progress = FileProgress { done, version: version.clone() };
        let mut filler = self.filler();
        filler.builder.begin_file(&part.key, &version, done);
        filler.begin(from);
    }

    /// Fills bodies from one download; returns why it could not be read to the end, if it could not.
    async fn download(
        &mut self,
        part: &Part,
        mut open: OpenPart,
    ) -> Result<Option<ReadError>, Interrupt> {
        let (mut arrived, mut ended, mut broken) = (0, false, None);
        let error = loop {
            match self.step(part).await? {
                Ok(Step::Body(body)) => self.run.pool.send(body, &self.bodies).await?,
                Ok(Step::Piece(number, bytes, ends)) => {
                    self.keep_piece(part, number, bytes, ends).await?;
                }
                Ok(Step::Read) if self.stop.is_cancelled() || self.run.has_read_enough() => {
                    return Err(Interrupt::OutOfTime);
                }
                Ok(Step::Read) if ended => break None,
                // What arrived before it broke is read too.
                Ok(Step::Read) => loop {
                    let bytes = match self.wait(open.bytes.next()).await? {
                        Some(Ok(bytes)) => bytes,
                        None if arrived == 0 && part.size != Some(0) => {
                            return Ok(Some(ReadError::Empty));
                        }
                        end => {
                            ended = true;
                            let proven = open.end_is_proof || part.size == Some(arrived);
                            broken = end.and_then(Result::err);
                            self.filler().lines.end(proven && broken.is_none());
                            break;
                        }
                    };
                    arrived += bytes.len() as u64;
                    self.summary.with(|summary| summary.bytes_read += bytes.len() as u64);
                    if self.filler().lines.push(bytes) {
                        break;
                    }
                },
                Err(error) => break Some(error),
            }
        };
        // Whether a file is damaged is only known when all of it has arrived.
        while !ended && broken.is_none() {
            match self.wait(open.bytes.next()).await? {
                Some(Ok(_)) => {}
                end => (ended, broken) = (true, end.and_then(Result::err)),
            }
        }
        // The next download reads it again.
        if let Some(long) = self.long.take() {
            long.keeping.cancel().await;
        }
        Ok(broken.map(ReadError::Broken).or(error))
    }

    /// Reads on in the bytes that are here.
    async fn step(&mut self, part: &Part) -> Result<Result<Step, ReadError>, Interrupt> {
        let (step, events) = Filler::work(&self.filler).await?;
        self.count(part, events);
        Ok(step)
    }

    /// So many more events of the part are read.
    fn count(&mut self, part: &Part, events: u64) {
        let line = self.filler().line;
        self.summary.with(|summary| summary.events_read += events);
        if let Some(file) = self.files.get_mut(&part.key) {
            file.events += events;
            file.progress.done = Position::Line(line);
        }
    }

    /// Sends a piece of a long line to quarantine, and with its end the line's record after it.
    async fn keep_piece(
        &mut self,
        part: &Part,
        number: u64,
        bytes: Bytes,
        ends: bool,
    ) -> Result<(), Interrupt> {
        let place = self.place(part, number);
        let mut long = self.long.take().unwrap_or_else(|| {
            let keeping = self.connector.quarantine.keep_line(&place, &self.version(part));
            LongLine { keeping, id: EventIdHasher::new(), length: 0 }
        });
        long.id.update(&bytes);
        long.length += bytes.len() as u64;
        if long.keeping.write(bytes).await && !ends {
            self.long = Some(long);
            return Ok(());
        }
        let LongLine { keeping, id, length } = long;
        let kept = Kept::File(keeping.finish().await?);
        self.filler().reject(too_long(place, id.finish(), length, kept));
        self.count(part, 1);
        Ok(())
    }

    /// Copies the part to quarantine as it is, through as many downloads as it takes, and says under
    /// which name; `None` if it cannot be had as it was read.
    async fn keep_file(&mut self, part: &Part) -> Result<Option<String>, Interrupt> {
        let mut tries = Tries::default();
        loop {
            let open = self.connector.open(part, self.run.deadline).await?;
            let Some(OpenPart { etag, mut bytes, .. }) = open else { return Ok(None) };
            let version = FileVersion { size: part.size, etag };
            if version != self.version(part) {
                return Ok(None);
            }
            let quarantine = &self.connector.quarantine;
            let mut keeping = quarantine.keep_file(self.stream.name, &part.key, &version);
            let mut any = false;
            let broken = loop {
                match self.wait(bytes.next()).await? {
                    Some(Ok(piece)) => {
                        any = true;
                        if !keeping.write(piece).await {
                            break None;
                        }
                    }
                    Some(Err(error)) => break Some(error),
                    None if any => break None,
                    // It had some when it was read.
                    None => break Some(io::Error::other(ReadError::Empty)),
                }
            };
            let Some(broken) = broken else { return Ok(Some(keeping.finish().await?)) };
            keeping.cancel().await;
            let error = ReadError::Broken(broken);
            tries.after(&error, 0);
            self.pause(part, &error, &tries).await?;
        }
    }

    /// Puts what follows the last line that was read into quarantine: the file is there as `name`.
    fn reject_rest(&self, part: &Part, reason: &'static str, error: &ReadError, name: String) {
        let line = self.filler().line + 1;
        tracing::error!(
            stream = self.stream.name,
            file = part.key,
            line,
            reason,
            %error,
            r#where = self.connector.quarantine.location(self.stream.name),
            "a batch file cannot be read on: it is quarantined whole, and is not delivered from \
             this line on"
        );
        self.filler().builder.reject(Rejection {
            position: self.place(part, line),
            event_id: String::new(),
            reason,
            detail: error.to_string(),
            delivered: false,
            kept: Kept::File(name),
        });
    }

    fn place(&self, part: &Part, line: u64) -> FilePosition {
        FilePosition { stream: self.stream.name.to_owned(), file: part.key.clone(), line }
    }

    /// The content of the part that is being read.
    fn version(&self, part: &Part) -> FileVersion {
        self.files.get(&part.key).map(|file| file.progress.version.clone()).unwrap_or_default()
    }

    /// Waits before the next download of the same part. What was read before is not held back.
    async fn pause(&self, part: &Part, error: &ReadError, tries: &Tries) -> Result<(), Interrupt> {
        self.flush().await?;
        // No later download of it is smaller.
        let endless = matches!(error, ReadError::Broken(e) if e.kind() == ErrorKind::FileTooLarge);
        if endless || tries.without_a_line >= DOWNLOADS {
            return Err(unreadable(part, tries.without_a_line, error).into());
        }
        tracing::info!(file = part.key, %error, "downloading the file again");
        let pause = self.connector.policy.download_pause * tries.without_a_line;
        self.wait(tokio::time::sleep(pause)).await
    }
}

/// The rejection of a line that is too long to be held.
pub(super) fn too_long(position: FilePosition, id: EventId, length: u64, kept: Kept) -> Rejection {
    let detail = format!("the line has {length} bytes, more than MAX_LINE_BYTES");
    let (event_id, reason, delivered) = (id.to_string(), "line-too-long", false);
    Rejection { position, event_id, reason, detail, delivered, kept }
}

fn unreadable(part: &Part, downloads: u32, error: &dyn std::fmt::Display) -> Fault {
    Fault::passing(
        Code::FileUnreadable,
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
        let empty = matches!(error, ReadError::Empty) && part.size.is_none();
        empty && std::mem::replace(&mut self.came_empty, true)
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
