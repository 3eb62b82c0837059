//! The lines of rows that the sink refuses.
//!
//! A body does not carry the lines that it was made of: they would be most of what a run holds in
//! memory, for a case that hardly comes. When it comes, the line is read again where it came from. If
//! that fails, the body is not recorded, and the next run comes to the same row.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Policy;
use super::body::hex;
use super::fault::{Fault, Interrupt, internal};
use super::part::{DOWNLOADS, unreadable};
use super::read::Download;
use super::source::{OpenError, OpenPart, OpenRecords, Part, ReadError, RecordReader, Source};
use super::summary::Counters;
use crate::checkpoint::Cursor;
use crate::quarantine::{Found, Kept, Quarantine, Rejection};
use crate::seams::Deadline;
use crate::store::StoreError;

/// Where lines are had again.
#[async_trait]
pub(super) trait Originals: Send + Sync {
    /// Puts what is to be kept into rejections of rows of one file, which are in the order of its
    /// lines. The file lies in quarantine as `file_kept`, if it does.
    async fn complete(
        &self,
        refused: &mut [Rejection],
        file_kept: Option<&str>,
    ) -> Result<(), Interrupt>;
}

/// Where the files of a page are, by the last listing of it.
#[derive(Clone, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<String, Part>>>);

impl Addresses {
    pub(super) fn note(&self, parts: &[Part]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(parts.iter().map(|part| (part.key.clone(), part.clone())));
    }

    fn of(&self, file: &str) -> Option<Part> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned()
    }
}

/// In a pull: the batch file is downloaded again.
pub(super) struct Refetch {
    pub(super) source: Arc<dyn Source>,
    pub(super) stream: String,
    /// Of the page.
    pub(super) cursor: Cursor,
    pub(super) addresses: Addresses,
    pub(super) deadline: Deadline,
    pub(super) policy: Policy,
    pub(super) counters: Arc<Counters>,
}

#[async_trait]
impl Originals for Refetch {
    async fn complete(
        &self,
        refused: &mut [Rejection],
        _file_kept: Option<&str>,
    ) -> Result<(), Interrupt> {
        let file = refused.first().map_or_else(String::new, |first| first.position.file.clone());
        let limit = self.policy.refetch_time;
        match timeout(limit, self.download(&file, refused)).await {
            Ok(read) => read,
            Err(_) => Err(Fault::passing(
                "file-unreadable",
                format!("batch file {file}: lines of refused rows did not arrive within {limit:?}"),
                "the next run tries again; check the network between here and the file's host",
            )
            .into()),
        }
    }
}

impl Refetch {
    /// Reads the lines, through as many downloads as it takes.
    async fn download(&self, file: &str, refused: &mut [Rejection]) -> Result<(), Interrupt> {
        let mut downloads = 0;
        loop {
            downloads += 1;
            let part = self.addresses.of(file);
            let part = part.ok_or_else(|| internal("a file is not in its page"))?;
            let open = self.source.open(&part, self.deadline).await;
            let expired = matches!(open, Err(OpenError::Expired));
            let failed = match open {
                Ok(open) => {
                    let records = |input, skip| self.source.records(input, skip);
                    match read_lines(refused, open, part.size, records, &self.counters).await? {
                        Ok(()) => return Ok(()),
                        Err(why) => why.to_string(),
                    }
                }
                Err(OpenError::Expired) => "its address has expired".to_owned(),
                Err(OpenError::Interrupt(interrupt)) => return Err(interrupt),
            };
            if downloads == DOWNLOADS {
                return Err(unreadable(&part, downloads, &failed).into());
            }
            tracing::info!(file, failed, "downloading the file again for rows that were refused");
            if expired {
                let page = self.source.page(&self.stream, &self.cursor, self.deadline).await?;
                self.addresses.note(&page.parts);
            }
            sleep(self.policy.download_pause * downloads).await;
        }
    }
}

/// In a replay: the row's record keeps what it kept. A row of a file that is kept whole has none; its
/// line is read out of that.
pub(super) struct Reread {
    pub(super) quarantine: Quarantine,
    pub(super) records: OpenRecords,
    pub(super) counters: Arc<Counters>,
}

#[async_trait]
impl Originals for Reread {
    async fn complete(
        &self,
        refused: &mut [Rejection],
        file_kept: Option<&str>,
    ) -> Result<(), Interrupt> {
        for rejection in refused.iter_mut() {
            if let Some(Found { name, record }) = self.quarantine.read(rejection.name()).await? {
                rejection.kept = record.map_err(|why| changed(&name, &why))?.kept();
            }
        }
        let of_file = refused.iter().position(|rejection| rejection.kept == Kept::Nothing);
        let Some(first) = of_file else { return Ok(()) };
        let refused = &mut refused[first..];
        let name = file_kept.ok_or_else(|| changed(&refused[0].name(), GONE))?;
        let bytes = self.quarantine.open_file(name).await?;
        let bytes = bytes.ok_or_else(|| changed(name, GONE))?;
        let open = OpenPart { etag: None, bytes, end_is_proof: true };
        let read = read_lines(refused, open, None, &*self.records, &self.counters).await?;
        read.map_err(|why| match why {
            NotFound::Unread(ReadError::Broken(error)) => StoreError::Failed {
                location: self.quarantine.location(&refused[0].position.stream),
                action: format!("reading {name}"),
                reason: error.to_string(),
            }
            .into(),
            why => changed(name, &why.to_string()).into(),
        })
    }
}

const GONE: &str = "it is gone";

/// Somebody changed quarantine meanwhile.
fn changed(name: &str, why: &str) -> Fault {
    Fault::passing(
        "quarantine-changed",
        format!("{name} is no longer what it was when its row was sent: {why}"),
        "find out who removes or edits what lies in quarantine, and replay again: what is still as it \
         was is sent then",
    )
}

/// Why a line was not found.
#[derive(Debug, thiserror::Error)]
enum NotFound {
    #[error(transparent)]
    Unread(#[from] ReadError),
    #[error("line {0} is no longer what it was")]
    Another(u64),
}

/// Reads the lines out of one download, or says why they are not in it.
async fn read_lines(
    refused: &mut [Rejection],
    open: OpenPart,
    size: Option<u64>,
    records: impl Fn(Box<dyn Read + Send>, u64) -> Box<dyn RecordReader>,
    counters: &Arc<Counters>,
) -> Result<Result<(), NotFound>, Interrupt> {
    // Ends the reading thread if nobody waits for it any more.
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    let download = Download::new(open, size, stop, Arc::clone(counters));
    let wanted: Vec<(u64, String)> =
        refused.iter().map(|r| (r.position.line, r.event_id.clone())).collect();
    let skip = wanted.first().map_or(0, |(line, _)| line.saturating_sub(1));
    let mut reader = records(Box::new(download), skip);
    // The reader comes back, so that its download has ended when this returns.
    let finding = tokio::task::spawn_blocking(move || (find(&mut *reader, &wanted), reader));
    let (found, _reader) = finding.await.map_err(internal)?;
    Ok(found.map(|lines| {
        for (rejection, line) in refused.iter_mut().zip(lines) {
            rejection.kept = Kept::Line(line);
        }
    }))
}

/// The lines with these numbers, if their events have these ids.
fn find(reader: &mut dyn RecordReader, wanted: &[(u64, String)]) -> Result<Vec<Bytes>, NotFound> {
    let (mut lines, mut row) = (Vec::with_capacity(wanted.len()), Vec::new());
    while let Some((line, id)) = wanted.get(lines.len()) {
        row.clear();
        match reader.next(&mut row)? {
            Some(record) if record.line < *line => {}
            Some(record) if record.line == *line && hex(&record.id) == *id => {
                lines.push(Bytes::copy_from_slice(record.original));
            }
            _ => return Err(NotFound::Another(*line)),
        }
    }
    Ok(lines)
}
