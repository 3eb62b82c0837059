//! One part of a page, read to its end: what happens when a download breaks off, or a file is
//! damaged.

use std::future::ready;
use std::io::{self, ErrorKind};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::body::rest;
use super::fault::{Fault, Interrupt, lease_lost};
use super::page::PageReader;
use super::read::Filler;
use super::source::{OpenPart, Opened, Part, ReadError};
use crate::checkpoint::{FileProgress, Position};
use crate::codes::Code;
use crate::quarantine::Kept;
use crate::spill::SpilledFile;
use crate::store::{ByteStream, Keeping};

/// Bytes of a download that are taken at once, if so many are here.
const AT_ONCE: u64 = 256 * 1024;

/// How often a file is downloaded without one new line before it is given up.
const DOWNLOADS: u32 = 5;

/// How many downloads must break at the same place before a file counts as corrupt.
const CORRUPT_DOWNLOADS: usize = 3;

/// How the reading of a part ended.
pub(super) enum PartEnd {
    /// All of it is read.
    Read,
    /// Its address was refused, in these words.
    Expired(String),
    /// It cannot be had, though its host answers.
    HeldUp(Fault),
}

impl PageReader<'_> {
    /// Reads one part to its end, through as many downloads as it takes.
    pub(super) async fn read_part(
        &mut self,
        part: &Part,
        opened: Opened,
    ) -> Result<PartEnd, Interrupt> {
        self.filler().file = self.files.remove(&part.key).unwrap_or_default();
        let end = self.read_opened(part, opened).await;
        let file = std::mem::take(&mut self.filler().file);
        self.files.insert(part.key.clone(), file);
        match end {
            Err(Interrupt::Fault(fault)) if fault.code == Code::FileUnreadable => {
                Ok(PartEnd::HeldUp(*fault))
            }
            end => end,
        }
    }

    async fn read_opened(&mut self, part: &Part, mut opened: Opened) -> Result<PartEnd, Interrupt> {
        let mut failures = Vec::new();
        loop {
            let open = match opened {
                Opened::Part(open) => open,
                Opened::Expired(said) => return Ok(PartEnd::Expired(said)),
                Opened::Refused(fault) => return Ok(PartEnd::HeldUp(fault)),
            };
            self.address_worked = true;
            self.filler().begin(part, open.etag.clone());
            let mut spilling = self.begin_to_spill(part).await;
            let error = self.download(part, open, &mut spilling).await?;
            match (error, spilling) {
                (None, Some(spilling)) => {
                    self.finish(spilling).await?;
                    self.spilled();
                    return Ok(PartEnd::Read);
                }
                (None, None) => break,
                (Some(error), spilling) => {
                    if let Some(spilling) = spilling {
                        spilling.cancel().await;
                    }
                    failures.push((self.filler().file.progress.done, error));
                }
            }
            if self.is_done_with(part, &failures).await? {
                break;
            }
            opened = self.pull.open(part).await?;
        }
        let mut filler = self.filler();
        if filler.file.progress.done != Position::End {
            filler.file.progress.done = Position::End;
            let events = std::mem::take(&mut filler.file.events);
            filler.builder.end_file(Some(events));
            self.pull.summary.with(|summary| summary.files += 1);
        }
        Ok(PartEnd::Read)
    }

    /// If files are kept instead of being delivered, begins to keep the part in hand.
    async fn begin_to_spill(&self, part: &Part) -> Option<Keeping> {
        let spill = self.spill.as_ref()?;
        let FileProgress { done, version, .. } = self.filler().file.progress.clone();
        let progress = FileProgress { done, version, held_up: None };
        let file = SpilledFile { file: part.key.clone(), progress };
        Some(spill.files.keep(self.pull.stream.name, spill.number, &file).await)
    }

    /// Ends the keeping of a file. In spill, another that has the lease by now gives the same numbers.
    async fn finish(&self, keeping: Keeping) -> Result<String, Interrupt> {
        if self.spill.as_ref().is_some_and(|spill| !spill.lease.held()) {
            keeping.cancel().await;
            return Err(lease_lost().into());
        }
        Ok(keeping.finish().await?)
    }

    /// The part in hand is kept, under the next number.
    fn spilled(&mut self) {
        if let Some(spill) = &mut self.spill {
            spill.number += 1;
        }
        let mut filler = self.filler();
        filler.builder.spill_file();
        filler.file.progress.done = Position::End;
    }

    /// Whether a part is done with, whose downloads failed so, each behind a line: it is empty, or
    /// kept whole. Else waits before the next one.
    async fn is_done_with(
        &mut self,
        part: &Part,
        failures: &[(Position, ReadError)],
    ) -> Result<bool, Interrupt> {
        let Some((_, error)) = failures.last() else { return Ok(false) };
        let empty =
            failures.iter().rev().take_while(|(_, error)| matches!(error, ReadError::Empty));
        // It is believed sooner where the listing gives no size.
        if empty.count() >= part.size.map_or(2, |_| 3) {
            tracing::warn!(
                stream = self.pull.stream.name,
                file = part.key,
                size = part.size,
                "a file came without a byte again and again: it counts as empty"
            );
            return Ok(true);
        }
        if let Some(reason) = reason_to_keep(failures)
            && let Some(name) = self.keep_file(part).await?
        {
            match self.spill {
                Some(_) => self.spilled(),
                None => self.reject_rest(part, reason, error, name),
            }
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
        spilling: &mut Option<Keeping>,
    ) -> Result<Option<ReadError>, Interrupt> {
        let end_is_proof = open.end_is_proof;
        let mut bytes = whole(part, open);
        let mut arrived = 0;
        let (end, error) = loop {
            let end = self.fetch(&mut bytes, &mut arrived, spilling).await?;
            if let Some(end) = &end {
                // What arrived before it broke is read too.
                let all = end_is_proof || part.size == Some(arrived);
                self.filler().lines.end(all && end.is_ok());
            }
            let error = Filler::work(&self.filler).await?;
            if error.is_some() || end.is_some() {
                break (end, error);
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
        spilling: &mut Option<Keeping>,
    ) -> Result<Option<Result<(), ReadError>>, Interrupt> {
        let (before, mut enough) = (*arrived, false);
        let end = loop {
            let next = bytes.try_next();
            let next = if enough { next.now_or_never() } else { Some(self.wait(next).await?) };
            match next {
                Some(Ok(Some(piece))) => {
                    *arrived += piece.len() as u64;
                    if let Some(keeping) = spilling
                        && !keeping.write(piece.clone()).await
                        && let Some(keeping) = spilling.take()
                    {
                        // It says why it cannot be kept.
                        keeping.finish().await?;
                    }
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

    /// Copies the part to quarantine, or to spill, as it is, through as many downloads as it takes, and says
    /// under which name; `None` if it cannot be had as it was read.
    async fn keep_file(&self, part: &Part) -> Result<Option<String>, Interrupt> {
        let (stream, quarantine) = (self.pull.stream.name, &self.pull.connector.quarantine);
        let version = self.filler().file.progress.version.clone();
        let mut copies = 0;
        loop {
            let open = match self.pull.open(part).await? {
                Opened::Part(open) if open.etag == version.etag => open,
                _ => return Ok(None),
            };
            let mut keeping = match self.begin_to_spill(part).await {
                Some(spilling) => spilling,
                None => quarantine.keep_file(stream, &part.key, &version),
            };
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
            let Some(error) = error else { return Ok(Some(self.finish(keeping).await?)) };
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
            None => match size.filter(|size| arrived < *size && !end_is_proof) {
                Some(size) => {
                    let cut = format!("the connection was closed after {arrived} of {size} bytes");
                    Err(ReadError::Broken(io::Error::other(cut)))
                }
                None if arrived == 0 && size != Some(0) => Err(ReadError::Empty),
                None => Ok(None),
            },
        }
    };
    stream::try_unfold((bytes, 0), next).boxed()
}
