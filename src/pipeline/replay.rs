//! What lies in quarantine, sent again: through the reader, the bodies and the sink of a pull.
//!
//! A record leaves quarantine when its row was accepted, or when it was written anew under the same
//! name because the row was refused again. So a crash in between leaves the record, and it is sent
//! once more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::join_all;
use futures::stream::{self, Peekable};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::body::{BodyBuilder, hex};
use super::deliver::{Poster, Settled};
use super::fault::{Fault, Interrupt, internal, lease_lost};
use super::outbox::{Outbox, Outgoing};
use super::read::{Download, FillEnd, Filler};
use super::resume::{lease, release, stored};
use super::sink::Sink;
use super::source::{OpenPart, OpenRecords, ReadError, Record, RecordReader};
use super::stream::log_failure;
use super::summary::Outcome;
use super::{Policy, Run};
use crate::checkpoint::{FileVersion, Position};
use crate::quarantine::{
    self, FilePosition, Found, Kept, Quarantine, Rejection, in_quarantine, is_kept_file, is_record,
};
use crate::store::{Lease, Names, Store, StoreError};

/// Records that are read, or removed, at the same time.
const AT_ONCE: usize = 8;

/// Sends again what lies in quarantine.
#[derive(Clone)]
pub struct Replay {
    /// How the bytes of a batch file are read.
    pub records: OpenRecords,
    /// Where rows go.
    pub sink: Arc<dyn Sink>,
    /// Where the streams' leases are.
    pub store: Arc<dyn Store>,
    /// What to send.
    pub quarantine: Quarantine,
    /// How to go about it.
    pub policy: Policy,
}

/// What a replay did.
#[derive(Clone, Debug, Serialize)]
pub struct ReplaySummary {
    /// How it ended.
    pub outcome: Outcome,
    /// Its streams.
    pub streams: Vec<StreamReplay>,
}

/// What became of one stream's quarantine.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReplay {
    /// Its name.
    pub stream: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Rows that the sink accepted.
    pub rows_delivered: u64,
    /// Records that were tried and stay, by reason.
    pub stay: BTreeMap<String, u64>,
    /// Why it failed.
    pub error: Option<Fault>,
}

impl Replay {
    /// Sends what lies in the quarantine of these streams; one where nothing does is not in the
    /// summary. `stop` ends it early, as the time limit does.
    pub async fn run(&self, streams: &[&str], stop: &CancellationToken) -> ReplaySummary {
        let run = Run::begin(&self.policy, stop);
        // Here a body of bad rows alone is no sign of a wrong setting.
        run.accepted.store(true, Ordering::Relaxed);
        let streams = streams.iter().map(|stream| self.stream(stream, &run));
        let streams: Vec<_> = join_all(streams).await.into_iter().flatten().collect();
        let outcomes: Vec<Outcome> = streams.iter().map(|stream| stream.outcome).collect();
        ReplaySummary { outcome: Outcome::of(&outcomes), streams }
    }

    async fn stream(&self, stream: &str, run: &Run) -> Option<StreamReplay> {
        let (ended, sent) = match self.is_empty(stream).await {
            Ok(true) => return None,
            Ok(false) => self.under_lease(stream, run).await,
            Err(error) => (Err(error.into()), Sent::default()),
        };
        let (outcome, error) = match ended {
            Ok(outcome) => (outcome, None),
            Err(Interrupt::OutOfTime) => (Outcome::TimeLimit, None),
            Err(Interrupt::Fault(fault)) => (Outcome::Failed, Some(*fault)),
        };
        log_failure(stream, outcome, error.as_ref());
        let Sent { rows_delivered, stay } = sent;
        Some(StreamReplay { stream: stream.to_owned(), outcome, rows_delivered, stay, error })
    }

    /// Whether there is nothing to do, which needs no lease and leaves no trace.
    async fn is_empty(&self, stream: &str) -> Result<bool, StoreError> {
        let below = in_quarantine(Some(stream));
        Ok(self.quarantine.names(&below).try_next().await?.is_none())
    }

    async fn under_lease(&self, stream: &str, run: &Run) -> (Result<Outcome, Interrupt>, Sent) {
        let mut lease = match lease(&*self.store, stream, &self.policy, &run.stop).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return (Ok(Outcome::Busy), Sent::default()),
            Err(interrupt) => return (Err(interrupt), Sent::default()),
        };
        let mut resend = Resend::new(self, stream, run, lease.as_ref());
        let ended = match self.check_destination(stream, lease.as_mut()).await {
            Ok(()) => resend.run().await,
            Err(interrupt) => Err(interrupt),
        };
        release(stream, lease).await;
        (ended.map(|()| Outcome::CaughtUp), resend.sent)
    }

    /// One customer's events must not land in another's table because two settings do not fit.
    async fn check_destination(
        &self,
        stream: &str,
        lease: &mut dyn Lease,
    ) -> Result<(), Interrupt> {
        let checkpoint = stored(&*self.store, stream, lease).await?;
        let ours = self.sink.destination();
        match checkpoint.map(|checkpoint| checkpoint.destination) {
            Some(theirs) if theirs != ours => Err(Fault::settings(
                "another-destination",
                format!(
                    "the last run of {stream} delivered to {theirs}, but this replay would go to \
                     {ours}"
                ),
                "give LOGS_INGESTION_ENDPOINT, LOGS_INGESTION_RULE_ID and LOGS_INGESTION_STREAM as \
                 the connector has them; if it was moved to another rule, let it run once first",
            )
            .into()),
            _ => Ok(()),
        }
    }
}

/// What became of a stream's records.
#[derive(Default)]
struct Sent {
    rows_delivered: u64,
    stay: BTreeMap<String, u64>,
}

impl Sent {
    fn stays(&mut self, reason: &str) {
        *self.stay.entry(reason.to_owned()).or_default() += 1;
    }
}

/// One stream's records on their way.
struct Resend<'a> {
    replay: &'a Replay,
    stream: &'a str,
    run: &'a Run,
    poster: Arc<Poster>,
    sent: Sent,
    /// The body in hand.
    builder: BodyBuilder,
    /// The records whose rows are in it, and in those before it that are settled.
    leaving: BTreeSet<String>,
}

/// How reading a record ended.
struct Filled {
    /// The last line that was read.
    line: u64,
    /// How many events were.
    events: u64,
    end: FillEnd,
}

impl<'a> Resend<'a> {
    fn new(replay: &'a Replay, stream: &'a str, run: &'a Run, lease: &dyn Lease) -> Self {
        let poster = Poster {
            sink: Arc::clone(&replay.sink),
            quarantine: replay.quarantine.clone(),
            lease: lease.watch(),
            stop: run.stop.clone(),
            deadline: run.deadline.plus(replay.policy.grace),
            counters: Arc::default(),
            policy: replay.policy,
            accepted: Arc::clone(&run.accepted),
        };
        let builder = BodyBuilder::new(stream, replay.policy.gzip_level, &run.pool);
        let (poster, leaving) = (Arc::new(poster), BTreeSet::new());
        Self { replay, stream, run, poster, sent: Sent::default(), builder, leaving }
    }

    async fn run(&mut self) -> Result<(), Interrupt> {
        let (quarantine, below) = (&self.replay.quarantine, in_quarantine(Some(self.stream)));
        let mut names = quarantine.names(&below).peekable();
        loop {
            let of_file = names_of_file(&mut names).await?;
            if of_file.is_empty() {
                return self.flush().await;
            }
            let (records, files): (Vec<_>, Vec<_>) =
                of_file.into_iter().partition(|name| is_record(name));
            let reading = records.into_iter().map(|name| quarantine.read(name));
            let mut found = stream::iter(reading).buffered(AT_ONCE);
            while let Some(found) = found.try_next().await? {
                if self.run.stop.is_cancelled() {
                    return Err(Interrupt::OutOfTime);
                }
                match found {
                    Some(Found { name, record: Ok(record) }) => self.send(name, &record).await?,
                    Some(Found { name, record: Err(why) }) => self.unreadable(&name, &why),
                    None => {}
                }
            }
            for file in files.iter().filter(|name| is_kept_file(name)) {
                self.flush().await?;
                self.check_lease()?;
                quarantine.remove_unneeded_file(file).await?;
            }
        }
    }

    /// Sends one record, if it is one to be sent.
    async fn send(
        &mut self,
        name: String,
        record: &quarantine::Record<'_>,
    ) -> Result<(), Interrupt> {
        if record.delivered {
            return Ok(());
        }
        let (reader, file_kept) = match record.kept() {
            Kept::Line(line) => ((self.replay.records)(Box::new(file_of(&line)?), 0), None),
            Kept::Nothing => {
                self.sent.stays(&record.reason);
                return Ok(());
            }
            Kept::File(kept) => match self.open_file(record, &kept).await? {
                Some(rest) if record.is_event() => (rest, Some(kept)),
                Some(rest) => return self.send_rest(&name, record, rest, kept).await,
                None => {
                    self.unreadable(&name, "the file that was kept with it is gone");
                    return Ok(());
                }
            },
        };
        let id = record.event_id.clone().into_owned();
        let one = One { inner: reader, line: record.line, id, is_read: false };
        let filled = self.fill(record, Box::new(one), file_kept).await?;
        match filled.end {
            FillEnd::End if filled.events == 1 => {
                self.leaving.insert(name);
            }
            FillEnd::End => self.unreadable(&name, "its bytes are not those of its event id"),
            FillEnd::KeepFile => self.unreadable(&name, "it is longer than MAX_LINE_BYTES"),
            FillEnd::Failed(error) => self.unreadable(&name, &error.to_string()),
            FillEnd::Stopped => return Err(Interrupt::OutOfTime),
        }
        Ok(())
    }

    /// Sends what can be read of a file that is kept whole, from the record's line on.
    async fn send_rest(
        &mut self,
        name: &str,
        record: &quarantine::Record<'_>,
        rest: Box<dyn RecordReader>,
        kept: String,
    ) -> Result<(), Interrupt> {
        self.flush().await?;
        let filled = self.fill(record, rest, Some(kept.clone())).await?;
        self.flush().await?;
        self.check_lease()?;
        let error = match filled.end {
            FillEnd::End => return Ok(self.replay.quarantine.remove(name).await?),
            FillEnd::Failed(error) => error,
            FillEnd::Stopped | FillEnd::KeepFile => return Err(Interrupt::OutOfTime),
        };
        let Some(reason) = error.reason() else {
            self.unreadable(name, &error.to_string());
            return Ok(());
        };
        let (stream, file) = (self.stream.to_owned(), record.file.clone().into_owned());
        let stays = Rejection {
            position: FilePosition { stream, file, line: filled.line + 1 },
            event_id: String::new(),
            reason,
            detail: error.to_string(),
            delivered: false,
            kept: Kept::File(kept),
        };
        self.sent.stays(reason);
        self.replay.quarantine.keep(&stays).await?;
        if stays.name() != name {
            self.replay.quarantine.remove(name).await?;
        }
        Ok(())
    }

    /// The file that is `kept` with a record, from the record's line on.
    async fn open_file(
        &self,
        record: &quarantine::Record<'_>,
        kept: &str,
    ) -> Result<Option<Box<dyn RecordReader>>, StoreError> {
        let bytes = self.replay.quarantine.open_file(kept).await?;
        Ok(bytes.map(|bytes| {
            let part = OpenPart { etag: None, bytes, end_is_proof: true };
            let counters = Arc::clone(&self.poster.counters);
            let download = Download::new(part, None, self.run.stop.clone(), counters);
            (self.replay.records)(Box::new(download), record.line.saturating_sub(1))
        }))
    }

    /// Fills the body in hand, and sends on those that get full.
    async fn fill(
        &mut self,
        record: &quarantine::Record<'_>,
        reader: Box<dyn RecordReader>,
        file_kept: Option<String>,
    ) -> Result<Filled, Interrupt> {
        let line = record.line.saturating_sub(1);
        let (version, from) = (FileVersion::default(), Position::Line(line));
        self.builder.begin_file(&record.file, &version, from, file_kept);
        let (outbox, mut outgoing) = Outbox::new(&self.run.pool);
        let policy = self.replay.policy;
        let empty = BodyBuilder::new(self.stream, policy.gzip_level, &self.run.pool);
        let filler = Filler {
            reader,
            builder: std::mem::replace(&mut self.builder, empty),
            outbox,
            stop: self.run.stop.clone(),
            counters: Arc::clone(&self.poster.counters),
            policy,
            rows_left: Arc::clone(&self.run.rows_left),
            line,
            events: 0,
        };
        let filling = async {
            let (filler, end) =
                tokio::task::spawn_blocking(move || filler.fill()).await.map_err(internal)?;
            let Filler { builder, line, events, .. } = filler;
            Ok::<_, Fault>((builder, Filled { line, events, end }))
        };
        let poster = Arc::clone(&self.poster);
        let settling = async {
            // Moved in, so that a failure here ends the filling.
            let outgoing = stream::poll_fn(move |context| outgoing.poll_recv(context));
            let settling = outgoing.map(|Outgoing { body, slots }| {
                let settling = Arc::clone(&poster).settle(body, false);
                async move { (settling.await, slots) }
            });
            let mut settling = settling.buffered(policy.in_flight);
            let mut any = false;
            while let Some((settled, _slots)) = settling.next().await {
                self.settled(settled?);
                any = true;
            }
            Ok::<_, Interrupt>(any)
        };
        let (filled, settled) = futures::join!(filling, settling);
        if settled? {
            self.leave().await?;
        }
        let (builder, filled) = filled?;
        self.builder = builder;
        Ok(filled)
    }

    /// Sends on what is in the body in hand.
    async fn flush(&mut self) -> Result<(), Interrupt> {
        if let Some(body) = self.builder.take().map_err(internal)? {
            let settled = Arc::clone(&self.poster).settle(body, false).await?;
            self.settled(settled);
        }
        self.leave().await
    }

    fn settled(&mut self, settled: Settled) {
        self.sent.rows_delivered += settled.delivered;
        for kept in settled.kept {
            self.leaving.remove(&kept.name);
            if !kept.delivered {
                self.sent.stays(kept.reason);
            }
        }
    }

    /// Removes the records whose rows were accepted.
    async fn leave(&mut self) -> Result<(), Interrupt> {
        self.check_lease()?;
        let leaving = std::mem::take(&mut self.leaving);
        let removing = leaving.iter().map(|name| self.replay.quarantine.remove(name));
        stream::iter(removing).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(())
    }

    fn check_lease(&self) -> Result<(), Fault> {
        if self.poster.lease.held() { Ok(()) } else { Err(lease_lost()) }
    }

    fn unreadable(&mut self, name: &str, why: &str) {
        tracing::warn!(name, why, "a record cannot be sent: it stays as it is");
        self.sent.stays("unreadable");
    }
}

/// The next names, which are those of one batch file.
async fn names_of_file(names: &mut Peekable<Names<'_>>) -> Result<Vec<String>, StoreError> {
    let Some(first) = names.try_next().await? else { return Ok(Vec::new()) };
    let folder = |name: &str| name.rfind('/').map(|end| name[..end].to_owned());
    let of_first = folder(&first);
    let mut of_file = vec![first];
    let same = |name: &Result<String, StoreError>| {
        name.as_ref().is_ok_and(|name| folder(name) == of_first)
    };
    while let Some(name) = Pin::new(&mut *names).next_if(same).await {
        of_file.push(name?);
    }
    Ok(of_file)
}

/// A batch file of one line.
fn file_of(line: &[u8]) -> Result<io::Cursor<Vec<u8>>, Fault> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    // A reader takes one `\r` at the end for a line's end; one that is kept belongs to the line.
    let end: &[u8] = if line.ends_with(b"\r") { b"\r" } else { b"" };
    let written = gzip.write_all(line).and_then(|()| gzip.write_all(end));
    written.and_then(|()| gzip.finish()).map(io::Cursor::new).map_err(internal)
}

/// Reads a record's one event, which keeps its line; nothing if it is not that event.
struct One {
    inner: Box<dyn RecordReader>,
    line: u64,
    id: String,
    is_read: bool,
}

impl RecordReader for One {
    fn next<'a>(&'a mut self, row: &mut Vec<u8>) -> Result<Option<Record<'a>>, ReadError> {
        if std::mem::replace(&mut self.is_read, true) {
            return Ok(None);
        }
        let record = self.inner.next(row)?.filter(|record| hex(&record.id) == self.id);
        Ok(record.map(|record| Record { line: self.line, ..record }))
    }
}

impl ReplaySummary {
    /// The exit code of the process: see [`super::RunSummary::exit_code`].
    pub fn exit_code(&self) -> u8 {
        let faults = self.streams.iter().filter_map(|stream| stream.error.as_ref());
        self.outcome.exit_code(&faults.collect::<Vec<_>>())
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("policy", &self.policy).finish_non_exhaustive()
    }
}
