//! What is in quarantine, sent again: through the format, the bodies and the sink of a pull.
//!
//! A record is removed once its row was accepted. One whose row was refused again was written again,
//! under the same name, and stays. So a crash in between leaves the record, and it is sent once more.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures::future::join_all;
use futures::stream::{self, FuturesUnordered};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::body::{Body, BodyBuilder, rest};
use super::fault::{Fault, Interrupt, internal, lease_lost};
use super::post::Poster;
use super::read::too_long;
use super::resume::{lease, release, stored};
use super::sink::Sink;
use super::source::{Format, Line, ReadError};
use super::summary::{Live, Outcome};
use super::{Policy, Pool, Run};
use crate::checkpoint::{FileVersion, Position};
use crate::codes::Code;
use crate::quarantine::{
    FilePosition, Kept, Quarantine, QuarantineRecord, Rejection, in_quarantine, is_kept_file,
    is_kept_line, is_record,
};
use crate::seams::spawn;
use crate::store::{ByteStream, Lease, Store, StoreError};
use crate::table::{EventIdHasher, Stream};

/// Records that are read, or removed, and bodies that are posted, at the same time.
const AT_ONCE: usize = 8;

/// Sends again what is in quarantine.
#[derive(Clone)]
pub struct Replay {
    /// The streams whose quarantine is sent, and how their lines are read.
    pub streams: Vec<(Stream, Arc<dyn Format>)>,
    /// Where rows go.
    pub sink: Arc<dyn Sink>,
    /// Where the streams' leases are.
    pub store: Arc<dyn Store>,
    /// What to send.
    pub quarantine: Quarantine,
    /// How to go about it.
    pub policy: Policy,
    /// The memory for bodies.
    pub pool: Pool,
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
#[derive(Clone, Debug, Default, Serialize)]
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
    /// Sends what is in the quarantine of the streams; one that has nothing there is not in the
    /// summary. `stop` ends it early, as the time limit does.
    pub async fn run(&self, stop: &CancellationToken) -> ReplaySummary {
        let run = Run::begin(&self.policy, &self.pool, stop);
        let streams = self.streams.iter().map(|(stream, format)| {
            // Here a body of bad rows alone is no sign of a wrong setting.
            run.accept(stream.table);
            self.stream(stream, format, &run)
        });
        let streams: Vec<_> = join_all(streams).await.into_iter().flatten().collect();
        run.log_faults();
        let outcome = Outcome::of(streams.iter().map(|stream| stream.outcome));
        ReplaySummary { outcome, streams }
    }

    async fn stream(
        &self,
        stream: &Stream,
        format: &Arc<dyn Format>,
        run: &Run,
    ) -> Option<StreamReplay> {
        let mut report = StreamReplay { stream: stream.name.to_owned(), ..StreamReplay::default() };
        let below = in_quarantine(Some(stream.name));
        let ended = match self.quarantine.names(&below).try_next().await {
            // Nothing to do: that needs no lease and leaves no trace.
            Ok(None) => return None,
            Ok(Some(_)) => self.under_lease(stream, format, run, &mut report).await,
            Err(error) => Err(error.into()),
        };
        (report.outcome, report.error) = Outcome::of_stream(run, stream.name, ended);
        Some(report)
    }

    async fn under_lease(
        &self,
        stream: &Stream,
        format: &Arc<dyn Format>,
        run: &Run,
        report: &mut StreamReplay,
    ) -> Result<Outcome, Interrupt> {
        let leasing = lease(&*self.store, stream.name, run);
        let Some(mut lease) = leasing.await? else { return Ok(Outcome::Busy) };
        let poster = Poster {
            sink: Arc::clone(&self.sink),
            table: stream.table,
            stand_ins: None,
            quarantine: self.quarantine.clone(),
            lease: lease.watch(),
            run: run.clone(),
            summary: Live::new("", stream.name),
            patience: None,
            gave_up: false,
        };
        let mut resend = Resend {
            poster: Arc::new(poster),
            format,
            builder: BodyBuilder::new(stream.name, self.policy.gzip_level, &run.pool),
            in_flight: FuturesUnordered::new(),
            leaving: BTreeSet::new(),
            report,
        };
        let ended = match self.check_destination(stream, lease.as_mut()).await {
            Ok(()) => resend.run().await,
            refused => refused,
        };
        let ended = ended.map_err(|interrupt| interrupt.blame(&*lease));
        release(stream.name, lease).await;
        ended.map(|()| Outcome::CaughtUp)
    }

    /// One customer's events must not land in another's table because two settings do not fit.
    async fn check_destination(
        &self,
        stream: &Stream,
        lease: &mut dyn Lease,
    ) -> Result<(), Interrupt> {
        let checkpoint = stored(&*self.store, stream.name, lease).await?;
        let (name, ours) = (stream.name, self.sink.destination(stream.table));
        match checkpoint.map(|checkpoint| checkpoint.destination) {
            Some(theirs) if theirs != ours => Err(Fault::settings(
                Code::AnotherDestination,
                format!(
                    "the last run of {name} delivered to {theirs}, but this replay goes to {ours}"
                ),
                "give LOGS_INGESTION_ENDPOINT, LOGS_INGESTION_RULE_ID and LOGS_INGESTION_STREAM as \
                 the connector has them; if it was moved to another rule, let it run once first",
            )
            .into()),
            _ => Ok(()),
        }
    }
}

/// One stream's records on their way.
struct Resend<'a> {
    poster: Arc<Poster>,
    format: &'a Arc<dyn Format>,
    /// The body in hand.
    builder: BodyBuilder,
    in_flight: FuturesUnordered<AbortOnDropHandle<Result<Body, Interrupt>>>,
    /// The records whose rows are in the body in hand, in flight or accepted.
    leaving: BTreeSet<String>,
    report: &'a mut StreamReplay,
}

impl Resend<'_> {
    async fn run(&mut self) -> Result<(), Interrupt> {
        let sent = self.send_all().await;
        if matches!(sent, Err(Interrupt::Fault(_) | Interrupt::Destination(_))) {
            return sent;
        }
        // If it may read no more, what was read is delivered.
        let flushed = self.flush().await;
        sent.and(flushed)
    }

    async fn send_all(&mut self) -> Result<(), Interrupt> {
        let quarantine = &self.poster.quarantine.clone();
        let below = in_quarantine(Some(&self.report.stream));
        // The records of a batch file come before what is kept of it.
        let objects = quarantine.names(&below).map(|name| async {
            let name = name?;
            let found = if is_record(&name) { quarantine.read(name.clone()).await? } else { None };
            Ok::<_, StoreError>((name, found))
        });
        let mut objects = pin!(objects.buffered(AT_ONCE));
        while let Some((name, found)) = objects.try_next().await? {
            self.poster.run.check()?;
            match found.map(|found| found.record) {
                Some(Ok(record)) => self.send(name, &record).await?,
                Some(Err(why)) => self.unreadable(&name, &why),
                None if is_kept_file(&name) => {
                    self.flush().await?;
                    quarantine.remove_unneeded_file(&name).await?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Sends one record, if it is one to be sent.
    async fn send(&mut self, name: String, record: &QuarantineRecord<'_>) -> Result<(), Interrupt> {
        match record.kept() {
            _ if record.delivered => {}
            Kept::Nothing => self.stays(&record.reason),
            Kept::Line(line) => self.put(record, record.line, &line, Some(name)).await?,
            Kept::File(kept) => match self.poster.quarantine.open_file(&kept).await? {
                Some(file) => self.send_file(name, record, &kept, file).await?,
                None => self.unreadable(&name, "the file that was kept with it is gone"),
            },
        }
        Ok(())
    }

    /// Sends a record's line, which is kept by itself or in its file (as a release before this one
    /// kept a line that is too long); or, if it stands for a file, all from its line on.
    async fn send_file(
        &mut self,
        name: String,
        record: &QuarantineRecord<'_>,
        kept: &str,
        mut file: ByteStream,
    ) -> Result<(), Interrupt> {
        if !record.is_event() {
            self.flush().await?;
        }
        let mut read = record.line.saturating_sub(1);
        let mut lines = self.format.lines(if is_kept_line(kept) { 0 } else { read });
        let (mut ended, mut long) = (false, Default::default());
        let error = loop {
            match lines.next() {
                Ok(Some(Line { bytes, begins: true, ends: true, .. })) if record.is_event() => {
                    return self.put(record, record.line, bytes, Some(name)).await;
                }
                Ok(Some(_)) if record.is_event() => {
                    self.stays(&record.reason);
                    return Ok(());
                }
                Ok(Some(line)) => {
                    self.send_line(record, kept, &line, &mut long).await?;
                    read = if line.ends { line.number } else { read };
                }
                Ok(None) if ended => break None,
                Ok(None) => match self.poster.run.in_time(file.try_next()).await? {
                    Ok(Some(bytes)) => drop(lines.push(bytes)),
                    Ok(None) => {
                        ended = true;
                        lines.end(true);
                    }
                    Err(error) => break Some(ReadError::Broken(error)),
                },
                Err(error) => break Some(error),
            }
        };
        self.flush().await?;
        match error {
            None if record.is_event() => self.unreadable(&name, "its file has no such line"),
            None => self.poster.quarantine.remove(&name).await?,
            Some(error) => match error.reason().filter(|_| !record.is_event()) {
                None => self.unreadable(&name, &error.to_string()),
                Some(reason) => {
                    let (place, kept) = (place(record, read + 1), Kept::File(kept.to_owned()));
                    self.replace(&name, &rest(place, reason, error.to_string(), kept)).await?;
                }
            },
        }
        Ok(())
    }

    /// Sends a line of a file; one that is too long to be held stays in it. `long` is the id and the
    /// length of it so far.
    async fn send_line(
        &mut self,
        record: &QuarantineRecord<'_>,
        kept: &str,
        line: &Line<'_>,
        long: &mut (EventIdHasher, u64),
    ) -> Result<(), Interrupt> {
        if line.begins && line.ends {
            return self.put(record, line.number, line.bytes, None).await;
        }
        long.0.update(line.bytes);
        long.1 += line.bytes.len() as u64;
        if line.ends {
            let (id, length) = std::mem::take(long);
            let (place, kept) = (place(record, line.number), Kept::File(kept.to_owned()));
            self.builder.reject(too_long(place, id.finish(), length, kept));
        }
        Ok(())
    }

    /// Writes what still stands for a file, instead of the record of this name.
    async fn replace(&mut self, name: &str, stays: &Rejection) -> Result<(), Interrupt> {
        self.stays(stays.reason);
        let quarantine = &self.poster.quarantine;
        quarantine.keep(stays).await?;
        if stays.name() != name {
            quarantine.remove(name).await?;
        }
        Ok(())
    }

    /// Puts a line into the body in hand. If it is a record's own, the record of this `name` leaves
    /// once its row is accepted.
    async fn put(
        &mut self,
        record: &QuarantineRecord<'_>,
        number: u64,
        bytes: &[u8],
        name: Option<String>,
    ) -> Result<(), Interrupt> {
        self.poster.run.check()?;
        self.poster.run.count_rows(1);
        let mut row = Vec::new();
        let (id, made) = self.format.row(bytes, &mut row);
        if let Some(name) = &name
            && id.to_string() != record.event_id
        {
            self.unreadable(name, "its bytes are not those of its event id");
            return Ok(());
        }
        match &name {
            _ if self.builder.fits(row.len()) => {}
            // A crash must not send more than one body of them again.
            Some(_) => self.flush().await?,
            None => self.post().await?,
        }
        let from = Position::Line(number.saturating_sub(1));
        self.builder.begin_file(&record.file, &FileVersion::default(), from);
        let line = Line { number, bytes, begins: true, ends: true };
        self.builder.put(&line, id, &row, made).map_err(internal)?;
        self.leaving.extend(name);
        Ok(())
    }

    /// Posts the body in hand, once not too many are in flight.
    async fn post(&mut self) -> Result<(), Interrupt> {
        if let Some(body) = self.builder.take().map_err(internal)? {
            let settling = spawn(Arc::clone(&self.poster).settle(body, false));
            self.in_flight.push(AbortOnDropHandle::new(settling));
        }
        self.settle(AT_ONCE - 1).await
    }

    /// Waits until so few bodies are in flight.
    async fn settle(&mut self, most: usize) -> Result<(), Interrupt> {
        while self.in_flight.len() > most
            && let Some(settled) = self.in_flight.next().await
        {
            let settled = settled.map_err(|error| internal(error).into()).flatten();
            // Nobody knows of the rows of a body that failed: their records stay.
            let body = settled.inspect_err(|_| self.leaving.clear())?;
            let accepted = body.rows.items.iter().filter(|row| row.accepted);
            self.report.rows_delivered += accepted.count() as u64;
            for kept in body.rejections {
                self.leaving.remove(&kept.name());
                if !kept.delivered {
                    self.stays(kept.reason);
                }
            }
        }
        Ok(())
    }

    /// Posts what is in the body in hand, and removes the records whose rows were accepted.
    async fn flush(&mut self) -> Result<(), Interrupt> {
        self.post().await?;
        self.settle(0).await?;
        if !self.poster.lease.held() {
            return Err(lease_lost().into());
        }
        let leaving = std::mem::take(&mut self.leaving);
        let removing = leaving.iter().map(|name| self.poster.quarantine.remove(name));
        Ok(stream::iter(removing).buffer_unordered(AT_ONCE).try_collect::<()>().await?)
    }

    fn stays(&mut self, reason: &str) {
        *self.report.stay.entry(reason.to_owned()).or_default() += 1;
    }

    fn unreadable(&mut self, name: &str, why: &str) {
        tracing::warn!(name, why, "a record cannot be sent: it stays as it is");
        self.stays("unreadable");
    }
}

fn place(record: &QuarantineRecord<'_>, line: u64) -> FilePosition {
    let (stream, file) = (record.stream.clone().into_owned(), record.file.clone().into_owned());
    FilePosition { stream, file, line }
}

impl ReplaySummary {
    /// The exit code of the process: see [`super::RunSummary::exit_code`].
    pub fn exit_code(&self) -> u8 {
        self.outcome.exit_code(self.streams.iter().filter_map(|stream| stream.error.as_ref()))
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("policy", &self.policy).finish_non_exhaustive()
    }
}
