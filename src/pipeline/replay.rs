//! What is in quarantine, sent again: through the format, the bodies and the sink of a pull.
//!
//! A record leaves quarantine when its row was accepted, or when it was written again under the same
//! name because the row was refused again. So a crash in between leaves the record, and it is sent
//! once more.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, Peekable};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::body::{Body, BodyBuilder};
use super::fault::{Fault, Interrupt, internal, lease_lost};
use super::part::too_long;
use super::post::{Poster, Settled};
use super::read::{Filler, Step};
use super::resume::{lease, release, stored};
use super::sink::Sink;
use super::source::{Format, Line, ReadError};
use super::stream::log_failure;
use super::summary::{Live, Outcome};
use super::{Policy, Pool, Run};
use crate::checkpoint::{FileVersion, Position};
use crate::codes::Code;
use crate::quarantine::{
    FilePosition, Found, Kept, Quarantine, Record, Rejection, in_quarantine, is_kept_file,
    is_kept_line, is_record,
};
use crate::store::{Lease, Names, Store, StoreError};
use crate::table::{EventIdHasher, Stream};

/// Records that are read, or removed, and bodies that are posted, at the same time.
const AT_ONCE: usize = 8;

/// Why a record is not sent whose file is missing.
const GONE: &str = "the file that was kept with it is gone";

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
        let outcomes: Vec<Outcome> = streams.iter().map(|stream| stream.outcome).collect();
        ReplaySummary { outcome: Outcome::of(&outcomes), streams }
    }

    async fn stream(
        &self,
        stream: &Stream,
        format: &Arc<dyn Format>,
        run: &Run,
    ) -> Option<StreamReplay> {
        let mut report = StreamReplay {
            stream: stream.name.to_owned(),
            outcome: Outcome::CaughtUp,
            rows_delivered: 0,
            stay: BTreeMap::new(),
            error: None,
        };
        let below = in_quarantine(Some(stream.name));
        // Whether there is nothing to do, which needs no lease and leaves no trace.
        let any = self.quarantine.names(&below).try_next().await;
        let ended = match any {
            Ok(None) => return None,
            Ok(Some(_)) => self.under_lease(stream, format, run, &mut report).await,
            Err(error) => Err(error.into()),
        };
        (report.outcome, report.error) = Outcome::of_stream(ended);
        log_failure(stream.name, report.outcome, report.error.as_ref());
        Some(report)
    }

    async fn under_lease(
        &self,
        stream: &Stream,
        format: &Arc<dyn Format>,
        run: &Run,
        report: &mut StreamReplay,
    ) -> Result<Outcome, Interrupt> {
        let leasing = lease(&*self.store, stream.name, &self.policy, &run.stop);
        let Some(mut lease) = leasing.await? else { return Ok(Outcome::Busy) };
        let mut ended = self.check_destination(stream, lease.as_mut()).await;
        if ended.is_ok() {
            let poster = Arc::new(Poster {
                sink: Arc::clone(&self.sink),
                table: stream.table,
                quarantine: self.quarantine.clone(),
                lease: lease.watch(),
                run: run.clone(),
                policy: self.policy,
                summary: Live::new(stream.name),
            });
            let builder = BodyBuilder::new(stream.name, self.policy.gzip_level, &run.pool);
            let (format, stop) = (Arc::clone(format), run.stop.clone());
            let filler = Filler::new(Arc::clone(&format), builder, run.clone(), stop, self.policy);
            let filler = Arc::new(Mutex::new(filler));
            let leaving = BTreeSet::new();
            ended = Resend { poster, format, filler, leaving, report }.run().await;
        }
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
        let ours = self.sink.destination(stream.table);
        match checkpoint.map(|checkpoint| checkpoint.destination) {
            Some(theirs) if theirs != ours => Err(Fault::settings(
                Code::AnotherDestination,
                format!(
                    "the last run of {} delivered to {theirs}, but this replay would go to {ours}",
                    stream.name
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
    format: Arc<dyn Format>,
    /// It has the body in hand.
    filler: Arc<Mutex<Filler>>,
    /// The records whose rows are in it, and in those before it that are settled.
    leaving: BTreeSet<String>,
    report: &'a mut StreamReplay,
}

impl Resend<'_> {
    async fn run(&mut self) -> Result<(), Interrupt> {
        let quarantine = self.poster.quarantine.clone();
        let below = in_quarantine(Some(&self.report.stream));
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
                self.check_time()?;
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
    async fn send(&mut self, name: String, record: &Record<'_>) -> Result<(), Interrupt> {
        let line = match record.kept() {
            _ if record.delivered => return Ok(()),
            Kept::Nothing => {
                self.stays(&record.reason);
                return Ok(());
            }
            Kept::Line(line) => Some(line),
            Kept::File(kept) if is_kept_line(&kept) => self.kept_line(&name, record, &kept).await?,
            // A release before this one kept the whole file for a line that is too long.
            Kept::File(kept) if record.is_event() => self.in_file(&name, record, &kept).await?,
            Kept::File(kept) => return self.send_rest(&name, record, kept).await,
        };
        match line {
            Some(line) => self.send_line(name, record, &line).await,
            None => Ok(()),
        }
    }

    /// Puts a record's line into the body in hand.
    async fn send_line(
        &mut self,
        name: String,
        record: &Record<'_>,
        bytes: &[u8],
    ) -> Result<(), Interrupt> {
        let mut row = Vec::new();
        let (id, made) = self.format.row(bytes, &mut row);
        if id.to_string() != record.event_id {
            self.unreadable(&name, "its bytes are not those of its event id");
            return Ok(());
        }
        let fits = self.filler().builder.fits(row.len());
        if !fits {
            self.flush().await?;
        }
        let line = Line { number: record.line, bytes, begins: true, ends: true };
        let before = Position::Line(record.line.saturating_sub(1));
        {
            let builder = &mut self.filler().builder;
            builder.begin_file(&record.file, &FileVersion::default(), before);
            builder.put(&line, id, &row, made).map_err(internal)?;
        }
        self.leaving.insert(name);
        Ok(())
    }

    /// The line of a record, which is kept by itself; `None` if the record stays.
    async fn kept_line(
        &mut self,
        name: &str,
        record: &Record<'_>,
        kept: &str,
    ) -> Result<Option<Bytes>, Interrupt> {
        let longest = self.format.longest_line();
        match self.poster.quarantine.read_line(kept, longest).await? {
            Some(Ok(line)) if line.len() as u64 <= longest => return Ok(Some(line)),
            Some(Ok(_)) => self.stays(&record.reason),
            Some(Err(error)) => self.unreadable(name, &error.to_string()),
            None => self.unreadable(name, GONE),
        }
        Ok(None)
    }

    /// The line of a record, which is in a file that is kept whole; `None` if the record stays.
    async fn in_file(
        &mut self,
        name: &str,
        record: &Record<'_>,
        kept: &str,
    ) -> Result<Option<Bytes>, Interrupt> {
        let Some(mut file) = self.poster.quarantine.open_file(kept).await? else {
            self.unreadable(name, GONE);
            return Ok(None);
        };
        let mut lines = self.format.lines(record.line.saturating_sub(1));
        let mut ended = false;
        loop {
            match lines.next() {
                Ok(Some(Line { bytes, begins: true, ends: true, .. })) => {
                    return Ok(Some(Bytes::copy_from_slice(bytes)));
                }
                Ok(Some(_)) => self.stays(&record.reason),
                Ok(None) if ended => self.unreadable(name, "its file has no such line"),
                Ok(None) => match file.next().await {
                    Some(Ok(bytes)) => {
                        lines.push(bytes);
                        continue;
                    }
                    Some(Err(error)) => self.unreadable(name, &error.to_string()),
                    None => {
                        ended = true;
                        lines.end(true);
                        continue;
                    }
                },
                Err(error) => self.unreadable(name, &error.to_string()),
            }
            return Ok(None);
        }
    }

    /// Sends what can be read of a file that is kept whole, from the record's line on.
    async fn send_rest(
        &mut self,
        name: &str,
        record: &Record<'_>,
        kept: String,
    ) -> Result<(), Interrupt> {
        self.flush().await?;
        let (bodies, mut filled) = mpsc::unbounded_channel();
        let poster = Arc::clone(&self.poster);
        let settling = stream::poll_fn(move |context| filled.poll_recv(context))
            .map(|body: Body| Arc::clone(&poster).settle(body, false))
            .buffered(AT_ONCE)
            .try_for_each(|settled| {
                count(self.report, &mut self.leaving, settled);
                ready(Ok(()))
            });
        let reading = read_rest(&self.poster, &self.filler, record, &kept, bodies);
        let (read, settled) = tokio::join!(reading, settling);
        settled?;
        let error = read?;
        self.flush().await?;
        self.check_lease()?;
        let Some(error) = error else {
            return Ok(self.poster.quarantine.remove(name).await?);
        };
        let Some(reason) = error.reason() else {
            self.unreadable(name, &error.to_string());
            return Ok(());
        };
        let stays = Rejection {
            position: place(record, self.filler().line + 1),
            event_id: String::new(),
            reason,
            detail: error.to_string(),
            delivered: false,
            kept: Kept::File(kept),
        };
        self.stays(reason);
        self.poster.quarantine.keep(&stays).await?;
        if stays.name() != name {
            self.poster.quarantine.remove(name).await?;
        }
        Ok(())
    }

    /// What fills the bodies. It is never held over an `await`.
    fn filler(&self) -> MutexGuard<'_, Filler> {
        Filler::lock(&self.filler)
    }

    /// Sends on what is in the body in hand, and removes the records whose rows were accepted.
    async fn flush(&mut self) -> Result<(), Interrupt> {
        let body = self.filler().builder.take().map_err(internal)?;
        if let Some(body) = body {
            let settled = Arc::clone(&self.poster).settle(body, false).await?;
            count(self.report, &mut self.leaving, settled);
        }
        self.check_lease()?;
        let leaving = std::mem::take(&mut self.leaving);
        let removing = leaving.iter().map(|name| self.poster.quarantine.remove(name));
        stream::iter(removing).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(())
    }

    fn check_time(&self) -> Result<(), Interrupt> {
        let run = &self.poster.run;
        let over = run.stop.is_cancelled() || run.has_read_enough();
        if over { Err(Interrupt::OutOfTime) } else { Ok(()) }
    }

    fn check_lease(&self) -> Result<(), Fault> {
        if self.poster.lease.held() { Ok(()) } else { Err(lease_lost()) }
    }

    fn stays(&mut self, reason: &str) {
        *self.report.stay.entry(reason.to_owned()).or_default() += 1;
    }

    fn unreadable(&mut self, name: &str, why: &str) {
        tracing::warn!(name, why, "a record cannot be sent: it stays as it is");
        self.stays("unreadable");
    }
}

/// Reads the rest of a file that is kept whole into bodies; returns why it could not be read to its
/// end, if it could not.
async fn read_rest(
    poster: &Poster,
    filler: &Arc<Mutex<Filler>>,
    record: &Record<'_>,
    kept: &str,
    bodies: mpsc::UnboundedSender<Body>,
) -> Result<Option<ReadError>, Interrupt> {
    let Some(mut file) = poster.quarantine.open_file(kept).await? else {
        return Ok(Some(ReadError::Broken(io::Error::other(GONE))));
    };
    let before = record.line.saturating_sub(1);
    {
        let mut filler = Filler::lock(filler);
        let (version, from) = (FileVersion::default(), Position::Line(before));
        filler.builder.begin_file(&record.file, &version, from);
        filler.begin(before);
    }
    let (mut ended, mut id, mut length) = (false, EventIdHasher::new(), 0);
    loop {
        match Filler::work(filler).await?.0 {
            Ok(Step::Body(body)) => poster.run.pool.send(body, &bodies).await?,
            Ok(Step::Piece { number, bytes, ends, .. }) => {
                id.update(&bytes);
                length += bytes.len() as u64;
                if ends {
                    let id = std::mem::take(&mut id).finish();
                    let kept = Kept::File(kept.to_owned());
                    let rejection = too_long(place(record, number), id, length, kept);
                    Filler::lock(filler).reject(rejection);
                    length = 0;
                }
            }
            Ok(Step::Read) if poster.run.stop.is_cancelled() || poster.run.has_read_enough() => {
                return Err(Interrupt::OutOfTime);
            }
            Ok(Step::Read) if ended => return Ok(None),
            Ok(Step::Read) => match file.next().await {
                Some(Ok(bytes)) => drop(Filler::lock(filler).lines.push(bytes)),
                Some(Err(error)) => return Ok(Some(ReadError::Broken(error))),
                None => {
                    ended = true;
                    Filler::lock(filler).lines.end(true);
                }
            },
            Err(error) => return Ok(Some(error)),
        }
    }
}

fn place(record: &Record<'_>, line: u64) -> FilePosition {
    let (stream, file) = (record.stream.clone().into_owned(), record.file.clone().into_owned());
    FilePosition { stream, file, line }
}

/// Counts a settled body: the records of rows that were refused again stay.
fn count(report: &mut StreamReplay, leaving: &mut BTreeSet<String>, settled: Settled) {
    report.rows_delivered += settled.delivered;
    for kept in settled.kept {
        leaving.remove(&kept.name());
        if !kept.delivered {
            *report.stay.entry(kept.reason.to_owned()).or_default() += 1;
        }
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
