//! One part of a page, read to its end: what happens when a download breaks off, or a file is
//! damaged.

use std::future::ready;
use std::io::{self, ErrorKind};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::body::rest;
use super::fault::{Fault, Interrupt};
use super::page::PageReader;
use super::read::Filler;
use super::source::{OpenPart, Part, ReadError};
use crate::checkpoint::Position;
use crate::codes::Code;
use crate::quarantine::Kept;
use crate::store::ByteStream;

/// Bytes of a download that are taken at once, if so many are here.
const AT_ONCE: u64 = 256 * 1024;

/// How often a file is downloaded without one new line before it is given up.
const DOWNLOADS: u32 = 5;

/// How many downloads must break at the same place before a file counts as corrupt.
const CORRUPT_DOWNLOADS: usize = 3;

impl PageReader<'_> {
    /// Reads one part to its end, through as many downloads as it takes. False if its address has
    /// expired.
    pub(super) async fn read_part(
        &mut self,
        part: &Part,
        mut open: Option<OpenPart>,
    ) -> Result<bool, Interrupt> {
        self.filler().file = self.files.remove(&part.key).unwrap_or_default();
        let mut failures = Vec::new();
        let is_read = loop {
            let Some(opened) = open else { break false };
            self.filler().begin(part, opened.etag.clone());
            let Some(error) = self.download(part, opened).await? else { break true };
            failures.push((self.filler().file.progress.done, error));
            if self.is_done_with(part, &failures).await? {
                break true;
            }
            open = self.pull.open(part).await?;
        };
        let mut filler = Filler::lock(&self.filler);
        let mut file = std::mem::take(&mut filler.file);
        if is_read {
            file.progress.done = Position::End;
            filler.builder.end_file(Some(std::mem::take(&mut file.events)));
            self.pull.summary.with(|summary| summary.files += 1);
            self.expired = 0;
        }
        self.files.insert(part.key.clone(), file);
        Ok(is_read)
    }

    /// Whether a part is done with, whose downloads failed so, each behind a line: it is empty, or
    /// kept whole. Else waits before the next one.
    async fn is_done_with(
        &self,
        part: &Part,
        failures: &[(Position, ReadError)],
    ) -> Result<bool, Interrupt> {
        let Some((_, error)) = failures.last() else { return Ok(false) };
        // Where its listing gives a size, it is not empty.
        let empty = |(_, error): &&(_, ReadError)| matches!(error, ReadError::Empty);
        let came_empty = matches!(error, ReadError::Empty) && part.size.is_none();
        if came_empty && failures.iter().filter(empty).count() > 1 {
            tracing::warn!(
                stream = self.pull.stream.name,
                file = part.key,
                "a file came without a byte twice, and its listing gives no size: it counts as \
                 empty"
            );
            return Ok(true);
        }
        if let Some(reason) = reason_to_keep(failures)
            && let Some(name) = self.keep_file(part).await?
        {
            self.reject_rest(part, reason, error, name);
            return Ok(true);
        }
        let gained = |two: &&[(Position, ReadError)]| two[1].0 > two[0].0;
        let in_vain = failures.windows(2).rev().take_while(|two| !gained(two));
        self.pause(part, error, in_vain.fold(1, |count, _| count + 1)).await?;
        Ok(false)
    }

    /// Fills bodies from one download; returns why it could not be read to the end, if it could
    /// not.
    async fn download(
        &mut self,
        part: &Part,
        open: OpenPart,
    ) -> Result<Option<ReadError>, Interrupt> {
        let end_is_proof = open.end_is_proof;
        let mut bytes = whole(part, open);
        let (mut arrived, mut end) = (0, None);
        let error = loop {
            let error = Filler::work(&self.filler).await?;
            if error.is_some() || end.is_some() {
                break error;
            }
            end = self.fetch(&mut bytes, &mut arrived).await?;
            if let Some(end) = &end {
                // What arrived before it broke is read too.
                let all = end_is_proof || part.size == Some(arrived);
                self.filler().lines.end(all && end.is_ok());
            }
        };
        // Whether a file is damaged is only known when all of it has arrived.
        let rest = self.wait(bytes.try_for_each(|_| ready(Ok(())))).await?;
        // The next download reads it again.
        let long = self.filler().long.take();
        if let Some((keeping, ..)) = long {
            keeping.cancel().await;
        }
        Ok(end.unwrap_or(rest).err().or(error))
    }

    /// Gives the reader as much as is here at once: each hand-over to the thread has its price. Says
    /// how the download ended, once it has.
    async fn fetch(
        &self,
        bytes: &mut BoxStream<'static, Result<Bytes, ReadError>>,
        arrived: &mut u64,
    ) -> Result<Option<Result<(), ReadError>>, Interrupt> {
        let (before, mut enough) = (*arrived, false);
        let end = loop {
            let next = bytes.try_next();
            let next = if enough { next.now_or_never() } else { Some(self.wait(next).await?) };
            match next {
                Some(Ok(Some(piece))) => {
                    *arrived += piece.len() as u64;
                    enough |= self.filler().lines.push(piece);
                }
                Some(end) => break Some(end.map(drop)),
                None => break None,
            }
            if enough && *arrived - before >= AT_ONCE {
                break None;
            }
        };
        self.pull.summary.with(|summary| summary.bytes_read += *arrived - before);
        Ok(end)
    }

    /// Copies the part to quarantine as it is, through as many downloads as it takes, and says
    /// under which name; `None` if it cannot be had as it was read.
    async fn keep_file(&self, part: &Part) -> Result<Option<String>, Interrupt> {
        let (stream, quarantine) = (self.pull.stream.name, &self.pull.connector.quarantine);
        let version = self.filler().file.progress.version.clone();
        let mut copies = 0;
        loop {
            let open = self.pull.open(part).await?;
            let Some(open) = open.filter(|open| open.etag == version.etag) else { return Ok(None) };
            let mut keeping = quarantine.keep_file(stream, &part.key, &version);
            let mut bytes = whole(part, open);
            let mut is_empty = true;
            let error = loop {
                match self.wait(bytes.try_next()).await? {
                    Ok(Some(piece)) => {
                        is_empty &= piece.is_empty();
                        if !keeping.write(piece).await {
                            break None;
                        }
                    }
                    // It had some when it was read.
                    Ok(None) => break is_empty.then_some(ReadError::Empty),
                    Err(error) => break Some(error),
                }
            };
            let Some(error) = error else { return Ok(Some(keeping.finish().await?)) };
            keeping.cancel().await;
            copies += 1;
            self.pause(part, &error, copies).await?;
        }
    }

    /// Puts what follows the last line that was read into quarantine: the file is there as `name`.
    fn reject_rest(&self, part: &Part, reason: &'static str, error: &ReadError, name: String) {
        let (stream, mut filler) = (self.pull.stream.name, self.filler());
        let position = filler.builder.place(filler.file.progress.done.lines() + 1);
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
        filler.builder.reject(rest(position, reason, error.to_string(), Kept::File(name)));
    }

    /// Waits before the next download of the same part. What was read before is not held back.
    async fn pause(&self, part: &Part, error: &ReadError, downloads: u32) -> Result<(), Interrupt> {
        self.flush().await?;
        // No later download of it is smaller.
        let endless = matches!(error, ReadError::Broken(e) if e.kind() == ErrorKind::FileTooLarge);
        if endless || downloads >= DOWNLOADS {
            let message =
                format!("file {}: {downloads} downloads in a row failed: {error}", part.key);
            let fix = "the next run tries again from the same line; check the network between \
                       here and the file's host";
            return Err(Fault::passing(Code::FileUnreadable, message, fix).into());
        }
        tracing::info!(file = part.key, %error, "downloading the file again");
        let pause = self.pull.run.policy.download_pause * downloads;
        self.wait(tokio::time::sleep(pause)).await
    }
}

/// The word for a file whose downloads failed so, if it must be kept whole.
fn reason_to_keep(failures: &[(Position, ReadError)]) -> Option<&'static str> {
    let (_, last) = failures.last()?;
    if let ReadError::Damaged { offset: place, .. } = last {
        let damaged = failures.iter().rev().filter_map(|(_, error)| match error {
            ReadError::Damaged { offset, .. } => Some(offset),
            _ => None,
        });
        if damaged.take_while(|offset| *offset == place).count() < CORRUPT_DOWNLOADS {
            return None;
        }
    }
    last.reason()
}

/// The bytes of a download. It ends in an error if not all of them arrived.
fn whole(part: &Part, open: OpenPart) -> BoxStream<'static, Result<Bytes, ReadError>> {
    let (size, OpenPart { bytes, end_is_proof, .. }) = (part.size, open);
    let next = move |(mut bytes, arrived): (ByteStream, u64)| async move {
        match bytes.next().await {
            Some(Ok(piece)) => {
                let arrived = arrived + piece.len() as u64;
                Ok(Some((piece, (bytes, arrived))))
            }
            Some(Err(error)) => Err(ReadError::Broken(error)),
            None if arrived == 0 && size != Some(0) => Err(ReadError::Empty),
            None => match size.filter(|size| arrived < *size && !end_is_proof) {
                Some(size) => {
                    let cut = format!("the connection was closed after {arrived} of {size} bytes");
                    Err(ReadError::Broken(io::Error::other(cut)))
                }
                None => Ok(None),
            },
        }
    };
    stream::try_unfold((bytes, 0), next).boxed()
}
