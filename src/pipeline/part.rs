//! One part of a page, read to its end: what happens when a download breaks off, a file is damaged,
//! or a line is too long.

use std::io::{self, ErrorKind};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::fault::{Fault, Interrupt};
use super::page::{FileRead, PageReader};
use super::read::Filler;
use super::source::{OpenPart, Part, ReadError};
use crate::checkpoint::{FileVersion, Position};
use crate::codes::Code;
use crate::quarantine::{FilePosition, Kept, Rejection};
use crate::table::{EventId, EventIdHasher};

/// Bytes of a download that are taken at once, if so many are here.
const AT_ONCE: usize = 256 * 1024;

/// How often a file is downloaded without one new line before it is given up.
const DOWNLOADS: u32 = 5;

/// How many downloads must break at the same place before a file counts as corrupt.
const CORRUPT_DOWNLOADS: u32 = 3;

impl PageReader<'_> {
    /// Reads one part to its end, through as many downloads as it takes. False if its address has
    /// expired.
    pub(super) async fn read_part(
        &mut self,
        part: &Part,
        mut open: Option<OpenPart>,
    ) -> Result<bool, Interrupt> {
        let FileRead { progress, events, .. } = self.files.remove(&part.key).unwrap_or_default();
        let file = FileRead { progress, events, ..FileRead::default() };
        self.files.insert(part.key.clone(), file);
        loop {
            let Some(opened) = open else { return Ok(false) };
            self.resume(part, opened.etag.clone());
            let Some(error) = self.download(part, opened).await? else { break };
            let file = self.files.entry(part.key.clone()).or_default();
            if file.is_empty_again(&error, part) {
                tracing::warn!(
                    stream = self.pull.stream.name,
                    file = part.key,
                    "a file came without a byte twice, and its listing gives no size: it \
                     counts as empty"
                );
                break;
            }
            let kept = match file.failed(&error) {
                Some(reason) => self.keep_file(part).await?.map(|name| (reason, name)),
                None => None,
            };
            if let Some((reason, name)) = kept {
                self.reject_rest(part, reason, &error, name);
                break;
            }
            let in_vain = self.files.get(&part.key).map_or(0, |file| file.in_vain);
            self.pause(part, &error, in_vain).await?;
            open = self.pull.connector.open(part, self.pull.run.deadline).await?;
        }
        let FileRead { progress, events, .. } = self.files.entry(part.key.clone()).or_default();
        progress.done = Position::End;
        let events = std::mem::take(events);
        self.filler().builder.end_file(Some(events));
        self.pull.summary.with(|summary| summary.files += 1);
        self.expired = 0;
        Ok(true)
    }

    /// Goes on in a part that has just been opened.
    fn resume(&mut self, part: &Part, etag: Option<String>) {
        let version = FileVersion { size: part.size, etag };
        let progress = &mut self.files.entry(part.key.clone()).or_default().progress;
        if progress.version != version {
            (progress.version, progress.done) = (version, Position::Line(0));
        }
        let mut filler = Filler::lock(&self.filler);
        filler.builder.begin_file(&part.key, &progress.version, progress.done);
        filler.begin(progress.done.lines());
    }

    /// Fills bodies from one download; returns why it could not be read to the end, if it could
    /// not.
    async fn download(
        &mut self,
        part: &Part,
        mut open: OpenPart,
    ) -> Result<Option<ReadError>, Interrupt> {
        let run = &self.pull.run;
        let (mut arrived, mut ended, mut broken) = (0_usize, false, None);
        let error = loop {
            let (read, events) = Filler::work(&self.filler).await?;
            self.count(part, events);
            match read {
                Ok(Some((number, bytes, ends))) => {
                    self.keep_piece(part, number, bytes, ends).await?;
                }
                Ok(None) if self.stop.is_cancelled() || run.has_read_enough() => {
                    return Err(Interrupt::OutOfTime);
                }
                Ok(None) if ended => break None,
                Ok(None) => {
                    // As much as is here at once: each hand-over to the thread has its price.
                    let (mut given, mut enough) = (0, false);
                    while !(ended || enough && given >= AT_ONCE) {
                        let next = open.bytes.next();
                        let next = match enough {
                            true => match next.now_or_never() {
                                Some(next) => next,
                                None => break,
                            },
                            false => self.wait(next).await?,
                        };
                        match next {
                            Some(Ok(bytes)) => {
                                given += bytes.len();
                                enough |= self.filler().lines.push(bytes);
                            }
                            None if arrived + given == 0 && part.size != Some(0) => {
                                return Ok(Some(ReadError::Empty));
                            }
                            // What arrived before it broke is read too.
                            end => {
                                ended = true;
                                let all = open.end_is_proof
                                    || part.size == Some((arrived + given) as u64);
                                let short = || cut_short(part, arrived + given).filter(|_| !all);
                                broken = end.map_or_else(short, Result::err);
                                self.filler().lines.end(all && broken.is_none());
                            }
                        }
                    }
                    arrived += given;
                    self.pull.summary.with(|summary| summary.bytes_read += given as u64);
                }
                Err(error) => break Some(error),
            }
        };
        // Whether a file is damaged is only known when all of it has arrived.
        while !ended {
            match self.wait(open.bytes.next()).await? {
                Some(Ok(_)) => {}
                end => (ended, broken) = (true, end.and_then(Result::err)),
            }
        }
        // The next download reads it again.
        if let Some((keeping, ..)) = self.long.take() {
            keeping.cancel().await;
        }
        Ok(broken.map(ReadError::Broken).or(error))
    }

    /// So many more events of the part are read.
    fn count(&mut self, part: &Part, events: u64) {
        let line = self.filler().line;
        self.pull.summary.with(|summary| summary.events_read += events);
        let file = self.files.entry(part.key.clone()).or_default();
        file.events += events;
        file.progress.done = Position::Line(line);
    }

    /// Sends a piece of a long line to quarantine, and with its end the line's record after it.
    async fn keep_piece(
        &mut self,
        part: &Part,
        number: u64,
        bytes: Bytes,
        ends: bool,
    ) -> Result<(), Interrupt> {
        let place = self.pull.position(&part.key, number);
        let (mut keeping, mut id, mut length) = self.long.take().unwrap_or_else(|| {
            let keeping = self.pull.connector.quarantine.keep_line(&place, &self.version(part));
            (keeping, EventIdHasher::new(), 0)
        });
        id.update(&bytes);
        length += bytes.len() as u64;
        if keeping.write(bytes).await && !ends {
            self.long = Some((keeping, id, length));
            return Ok(());
        }
        let kept = Kept::File(keeping.finish().await?);
        self.filler().reject(too_long(place, id.finish(), length, kept));
        self.count(part, 1);
        Ok(())
    }

    /// Copies the part to quarantine as it is, through as many downloads as it takes, and says
    /// under which name; `None` if it cannot be had as it was read.
    async fn keep_file(&mut self, part: &Part) -> Result<Option<String>, Interrupt> {
        let connector = self.pull.connector;
        let mut copies = 0;
        loop {
            let open = connector.open(part, self.pull.run.deadline).await?;
            let Some(OpenPart { etag, mut bytes, end_is_proof }) = open else { return Ok(None) };
            let version = FileVersion { size: part.size, etag };
            if version != self.version(part) {
                return Ok(None);
            }
            let stream = self.pull.stream.name;
            let mut keeping = connector.quarantine.keep_file(stream, &part.key, &version);
            let mut arrived = 0;
            let broken = loop {
                match self.wait(bytes.next()).await? {
                    Some(Ok(piece)) => {
                        arrived += piece.len();
                        if !keeping.write(piece).await {
                            break None;
                        }
                    }
                    Some(Err(error)) => break Some(error),
                    // It had some when it was read.
                    None if arrived == 0 => break Some(io::Error::other(ReadError::Empty)),
                    None => break cut_short(part, arrived).filter(|_| !end_is_proof),
                }
            };
            let Some(broken) = broken else { return Ok(Some(keeping.finish().await?)) };
            keeping.cancel().await;
            let error = ReadError::Broken(broken);
            copies += 1;
            self.pause(part, &error, copies).await?;
        }
    }

    /// Puts what follows the last line that was read into quarantine: the file is there as `name`.
    fn reject_rest(&self, part: &Part, reason: &'static str, error: &ReadError, name: String) {
        let (stream, mut filler) = (self.pull.stream.name, self.filler());
        let position = self.pull.position(&part.key, filler.line + 1);
        tracing::error!(
            stream,
            file = part.key,
            line = position.line,
            reason,
            %error,
            r#where = self.pull.connector.quarantine.location(stream),
            "a file cannot be read on: it is quarantined whole, and is not delivered from \
             this line on"
        );
        filler.builder.reject(Rejection {
            position,
            event_id: String::new(),
            reason,
            detail: error.to_string(),
            delivered: false,
            kept: Kept::File(name),
        });
    }

    /// The content of the part that is being read.
    fn version(&self, part: &Part) -> FileVersion {
        self.files.get(&part.key).map(|file| file.progress.version.clone()).unwrap_or_default()
    }

    /// Waits before the next download of the same part. What was read before is not held back.
    async fn pause(&self, part: &Part, error: &ReadError, downloads: u32) -> Result<(), Interrupt> {
        self.flush().await?;
        // No later download of it is smaller.
        let endless = matches!(error, ReadError::Broken(e) if e.kind() == ErrorKind::FileTooLarge);
        if endless || downloads >= DOWNLOADS {
            return Err(unreadable(part, downloads, error).into());
        }
        tracing::info!(file = part.key, %error, "downloading the file again");
        let pause = self.pull.connector.policy.download_pause * downloads;
        self.wait(tokio::time::sleep(pause)).await
    }
}

impl FileRead {
    /// Whether the part came without a byte, and did so before. Where its listing gives a size, it
    /// is not empty.
    fn is_empty_again(&mut self, error: &ReadError, part: &Part) -> bool {
        let empty = matches!(error, ReadError::Empty) && part.size.is_none();
        empty && std::mem::replace(&mut self.came_empty, true)
    }

    /// Counts a failed download; a word if the file must be kept whole.
    fn failed(&mut self, error: &ReadError) -> Option<&'static str> {
        let line = self.progress.done.lines();
        self.in_vain = if line > self.reached { 1 } else { self.in_vain + 1 };
        self.reached = line;
        if let ReadError::Damaged { offset, .. } = error {
            let again = self.damaged > 0 && self.damaged_at == *offset;
            (self.damaged, self.damaged_at) = (if again { self.damaged + 1 } else { 1 }, *offset);
            if self.damaged < CORRUPT_DOWNLOADS {
                return None;
            }
        }
        error.reason()
    }
}

/// The error of a download that ended with fewer bytes than its listing gives.
fn cut_short(part: &Part, arrived: usize) -> Option<io::Error> {
    let size = part.size.filter(|size| (arrived as u64) < *size)?;
    let cut = format!("the connection was closed after {arrived} of {size} bytes");
    Some(io::Error::other(cut))
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
        format!("file {}: {downloads} downloads in a row failed: {error}", part.key),
        "the next run tries again from the same line; check the network between here and the \
         file's host",
    )
}
