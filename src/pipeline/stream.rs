//! One stream's pull: take the lease, read page after page, end with a summary.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{NaiveDate, NaiveTime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::deliver::{EVERY_ROW_REFUSED, Poster};
use super::fault::{Fault, Interrupt, internal};
use super::ledger::Ledger;
use super::outbox::Outbox;
use super::page::{FileRead, PageReader};
use super::resume::{lease, release};
use super::source::Page;
use super::summary::{Counters, Gap, Outcome, StreamSummary, add, get};
use super::{Connector, Run};
use crate::checkpoint::{Checkpoint, Cursor, Position, Refused};
use crate::store::Lease;

/// Empty pages that are asked for in one run; the next run goes on behind them.
const EMPTY_PAGES: u32 = 5;

/// Where the time was up, if not in a file.
const LISTING: &str = "the listing";

/// One stream in one run.
pub(super) struct StreamPull<'a> {
    pub(super) connector: &'a Connector,
    pub(super) stream: &'a str,
    pub(super) run: Run,
    pub(super) counters: Arc<Counters>,
}

/// What a stream's run found out, beside its counts.
#[derive(Default)]
struct Findings {
    gap: Option<Gap>,
    newest_ms: Option<i64>,
    backfill_from: Option<NaiveDate>,
}

/// How a stream's run ended.
type Ended = Result<Outcome, Interrupt>;

impl<'a> StreamPull<'a> {
    /// Pulls until there is nothing more, the time is up, or something fails.
    pub(super) async fn run(self) -> StreamSummary {
        let connector = self.connector;
        let leasing = lease(&*connector.store, self.stream, &connector.policy, &self.run.stop);
        let (ended, findings) = match leasing.await {
            Ok(Some(lease)) => self.pull(lease).await,
            Ok(None) => (Ok(Outcome::Busy), Findings::default()),
            Err(interrupt) => (Err(interrupt), Findings::default()),
        };
        connector.source.finished(self.stream);
        let summary = self.summary(ended, findings);
        // Each failure once, where it is handled: here, as soon as the stream has ended.
        log_failure(self.stream, summary.outcome, summary.error.as_ref());
        summary
    }

    /// Reports what is quarantined and was not reported yet, also by a run that was killed. First in
    /// the log, then in the checkpoint: twice rather than never.
    fn report_quarantine(&self, ledger: &mut Ledger) {
        let untold = std::mem::take(&mut ledger.checkpoint.untold);
        if untold.is_nothing() {
            return;
        }
        tracing::error!(
            stream = self.stream,
            rows_quarantined = untold.rows_quarantined,
            rows_truncated = untold.rows_truncated,
            r#where = self.connector.quarantine.location(self.stream),
            "rows were put in quarantine"
        );
        ledger.touch();
    }

    /// Reads page after page under the lease, and lets that go.
    async fn pull(&self, mut lease: Box<dyn Lease>) -> (Ended, Findings) {
        let connector = self.connector;
        let checkpoint = match connector.resume(self.stream, lease.as_mut()).await {
            Ok(checkpoint) => checkpoint,
            Err(interrupt) => {
                release(self.stream, lease).await;
                return (Err(interrupt), Findings::default());
            }
        };
        let (counters, clock) = (Arc::clone(&self.counters), connector.clock.clone());
        let mut ledger = Ledger::new(checkpoint, lease, counters, clock, connector.policy);
        // Of runs before this one: it may be killed too.
        self.report_quarantine(&mut ledger);
        let mut pages = Pages {
            pull: self,
            ledger,
            read: BTreeSet::new(),
            dropped: false,
            files: Vec::new(),
            listing: None,
            gap: None,
        };
        let ended = pages.read().await;
        let ended = pages.note(ended);
        let Pages { mut ledger, gap, .. } = pages;
        self.report_quarantine(&mut ledger);
        let saved = ledger.save().await;
        release(self.stream, ledger.lease).await;
        let ended = match (ended, saved) {
            (Err(Interrupt::Fault(fault)), _) => Err(Interrupt::Fault(fault)),
            (_, Err(interrupt)) => Err(interrupt),
            (ended, Ok(())) => ended,
        };
        let backfill_from = ledger.checkpoint.backfill_from;
        (ended, Findings { gap, newest_ms: ledger.newest_ms, backfill_from })
    }
}

/// The pages of a stream, in one run.
struct Pages<'a> {
    pull: &'a StreamPull<'a>,
    ledger: Ledger,
    /// The cursors of the pages that were read.
    read: BTreeSet<Cursor>,
    /// Whether the source has dropped the cursor.
    dropped: bool,
    /// The files of the page in hand, in order.
    files: Vec<String>,
    /// The next page, which is listed while the last bodies of this one are on their way.
    listing: Option<AbortOnDropHandle<Result<Page, Interrupt>>>,
    /// What may be missing.
    gap: Option<Gap>,
}

impl Pages<'_> {
    /// Reads page after page.
    async fn read(&mut self) -> Ended {
        let mut empty_pages = 0;
        loop {
            let page = self.next().await?;
            self.begin(&page)?;
            // A half-read file must be looked for even in an empty page.
            let is_empty = page.parts.is_empty() && !self.ledger.checkpoint.has_half_read();
            let page = if is_empty { page } else { self.deliver(page).await? };
            let moved = page.next(&self.ledger.checkpoint.cursor).cloned();
            let stays = moved.is_none();
            if let Some(next) = moved {
                if self.read.contains(&next) {
                    return Err(circle(self.pull.stream).into());
                }
                self.ledger.checkpoint.advance(next);
                self.ledger.touch();
                self.files.clear();
            }
            if is_empty {
                empty_pages += 1;
            } else {
                self.ledger.checkpoint.totals.pages += 1;
                add(&self.pull.counters.pages, 1);
                self.ledger.touch();
            }
            if page.caught_up || stays || empty_pages >= EMPTY_PAGES {
                if self.ledger.checkpoint.out_of_time_at.take().is_some() {
                    self.ledger.touch();
                }
                return Ok(Outcome::CaughtUp);
            }
        }
    }

    /// The page at the checkpoint's cursor.
    async fn next(&mut self) -> Result<Page, Interrupt> {
        match self.listing.take() {
            Some(listing) => listing.await.map_err(internal)?,
            None => self.pull.list(&self.ledger.checkpoint.cursor).await.map_err(internal)?,
        }
    }

    /// Moves the checkpoint's cursor to where the page was listed, if the source had to begin elsewhere,
    /// and reports the gap that this leaves.
    fn begin(&mut self, page: &Page) -> Result<(), Fault> {
        let checkpoint = &mut self.ledger.checkpoint;
        if page.cursor != checkpoint.cursor {
            // Once it begins anew; after that it would read the same pages over and over.
            if std::mem::replace(&mut self.dropped, true) {
                return Err(dropped_again(self.pull.stream));
            }
            // What this run has read comes again.
            self.read.clear();
            if let Cursor::Start(day) = page.cursor
                && (matches!(checkpoint.cursor, Cursor::Token(_))
                    || checkpoint.backfill_from.is_some())
            {
                self.gap = Some(self.pull.gap_of_cursor(checkpoint, day));
            }
            checkpoint.advance(page.cursor.clone());
            self.ledger.touch();
        }
        if let Cursor::Start(day) = page.cursor
            && self.ledger.checkpoint.backfill_from != Some(day)
        {
            self.ledger.checkpoint.backfill_from = Some(day);
            self.ledger.touch();
        }
        self.read.insert(page.cursor.clone());
        self.files = page.parts.iter().map(|part| part.key.clone()).collect();
        Ok(())
    }

    /// Reads one page and delivers it; returns the reply whose files were read.
    async fn deliver(&mut self, page: Page) -> Result<Page, Interrupt> {
        let pull = self.pull;
        let (outbox, outgoing) = Outbox::new(&pull.run.pool);
        // Ends the reading side when the delivering side fails.
        let stop = pull.run.stop.child_token();
        let poster = pull.poster(&self.ledger);
        let gives_up = pull.gives_up(&self.ledger.checkpoint);
        let mut reader = pull.reader(&self.ledger.checkpoint, outbox, stop.clone());
        let cursor = self.ledger.checkpoint.cursor.clone();
        let reading = async {
            let read = tokio::select! {
                read = reader.read(page) => read,
                () = stop.cancelled() => Err(Interrupt::OutOfTime),
            };
            // Drops the outbox: nothing more is coming.
            drop(reader);
            let next = read.as_ref().ok().filter(|page| !page.caught_up);
            let next = next.and_then(|page| page.next(&cursor));
            (next.map(|next| pull.list(next)), read)
        };
        let delivering = async {
            let delivered = self.ledger.deliver(poster, outgoing, gives_up).await;
            if delivered.is_err() {
                stop.cancel();
            }
            delivered
        };
        let ((listing, read), delivered) = tokio::join!(reading, delivering);
        self.listing = listing;
        if std::mem::take(&mut self.ledger.files_gone) {
            self.gap = Some(pull.gap_of_files(&self.ledger.checkpoint));
        }
        delivered?;
        read
    }

    /// What the checkpoint must remember of how the run ended.
    fn note(&mut self, ended: Ended) -> Ended {
        let pull = self.pull;
        match ended {
            // It has read its share of rows, or another stream has: neither is stuck.
            Err(Interrupt::OutOfTime) if pull.run.rows_left.is_spent() => Ok(Outcome::TimeLimit),
            Err(Interrupt::OutOfTime) => self.note_out_of_time(),
            Err(Interrupt::Fault(fault)) if fault.code == EVERY_ROW_REFUSED => {
                let first = Refused { since: pull.connector.clock.now(), runs: 0 };
                self.ledger.checkpoint.refused.get_or_insert(first).runs += 1;
                self.ledger.touch();
                Err(Interrupt::Fault(fault))
            }
            ended => ended,
        }
    }

    /// The time was up within a file, or while a listing was waited for. If it was so last time too,
    /// and not one line was gained (any step of progress forgets the last time), this is no success.
    fn note_out_of_time(&mut self) -> Ended {
        let (ledger, counters) = (&mut self.ledger, &self.pull.counters);
        let settled = &ledger.checkpoint.files;
        let is_open = |key: &&String| settled.get(*key).is_none_or(|f| f.done != Position::End);
        let file = self.files.iter().find(is_open).cloned();
        if file.is_none() && get(&counters.pages) + get(&counters.bodies) > 0 {
            return Ok(Outcome::TimeLimit);
        }
        let at = file.unwrap_or_else(|| LISTING.to_owned());
        let done = ledger.checkpoint.files.get(&at).map_or(Position::Line(0), |file| file.done);
        let now = Some((at, done));
        let again = ledger.checkpoint.out_of_time_at == now;
        ledger.checkpoint.out_of_time_at = now;
        ledger.touch();
        match &ledger.checkpoint.out_of_time_at {
            Some((at, _)) if again && at == LISTING => Err(Fault::passing(
                "no-progress",
                format!("two runs in a row ended while {} waited to list a page", self.pull.stream),
                "nothing is lost, the next run tries again; the log says what was waited for: after \
                 429s, look which other program uses the same application",
            )
            .into()),
            Some((file, done)) if again => Err(Fault::settings(
                "no-progress",
                format!("batch file {file}: two runs in a row ended at {done} without a new one"),
                "raise RUN_TIME_LIMIT_SECONDS (and the function's timeout with it); where the log \
                 has 429s, wait instead",
            )
            .into()),
            _ => Ok(Outcome::TimeLimit),
        }
    }
}

impl StreamPull<'_> {
    /// Lists the page at a cursor.
    fn list(&self, cursor: &Cursor) -> AbortOnDropHandle<Result<Page, Interrupt>> {
        let StreamPull { connector, stream, run: Run { stop, deadline, .. }, .. } = self;
        let (source, stream) = (Arc::clone(&connector.source), (*stream).to_owned());
        let (cursor, stop, deadline) = (cursor.clone(), stop.clone(), *deadline);
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::select! {
                // At the deadline both are ready, and the source knows why it got no page.
                biased;
                page = source.page(&stream, &cursor, deadline) => page,
                () = stop.cancelled() => Err(Interrupt::OutOfTime),
            }
        }))
    }

    /// What may be missing when the stored cursor, which was accepted before, is refused: from the
    /// newest event that was delivered, or from the day that was not finished, to the day at which
    /// the source begins again.
    fn gap_of_cursor(&self, checkpoint: &Checkpoint, day: NaiveDate) -> Gap {
        let start = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc();
        let to = start(day);
        let from = match checkpoint.cursor {
            Cursor::Start(day) => start(day),
            Cursor::Token(_) => checkpoint.newest_event.unwrap_or(checkpoint.updated_at),
        };
        let gap = Gap { from: from.min(to), to };
        tracing::error!(
            stream = self.stream,
            from = %gap.from,
            to = %gap.to,
            "the source no longer accepts the stored cursor: events of this time may be missing, \
             and later ones come again"
        );
        gap
    }

    fn reader(
        &self,
        checkpoint: &Checkpoint,
        outbox: Outbox,
        stop: CancellationToken,
    ) -> PageReader {
        let files = checkpoint.files.clone().into_iter();
        let files = files.map(|(key, progress)| (key, FileRead::from(progress)));
        PageReader {
            connector: self.connector.clone(),
            stream: self.stream.to_owned(),
            cursor: checkpoint.cursor.clone(),
            files: files.collect(),
            outbox,
            run: self.run.clone(),
            stop,
            counters: Arc::clone(&self.counters),
            expired: 0,
        }
    }

    fn poster(&self, ledger: &Ledger) -> Arc<Poster> {
        let deadline = self.run.deadline.plus(self.connector.policy.grace);
        Arc::new(Poster {
            sink: Arc::clone(&self.connector.sink),
            quarantine: self.connector.quarantine.clone(),
            lease: ledger.lease.watch(),
            stop: self.run.stop.clone(),
            deadline,
            counters: Arc::clone(&self.counters),
            policy: self.connector.policy,
            accepted: Arc::clone(&self.run.accepted),
        })
    }

    /// Whether the body in hand was refused whole for so long that it is not the settings.
    fn gives_up(&self, checkpoint: &Checkpoint) -> bool {
        let policy = &self.connector.policy;
        checkpoint.refused.is_some_and(|Refused { since, runs }| {
            let lasted = self.connector.clock.now() - since;
            runs >= policy.give_up_runs && lasted >= policy.give_up_after
        })
    }

    /// What may be missing when half-read files are gone: nobody knows their events' times, so it
    /// is all since the newest event that was delivered.
    fn gap_of_files(&self, checkpoint: &Checkpoint) -> Gap {
        let from = checkpoint.newest_event.unwrap_or(checkpoint.updated_at);
        let to = self.connector.clock.now();
        Gap { from: from.min(to), to }
    }

    fn summary(&self, ended: Ended, findings: Findings) -> StreamSummary {
        let (outcome, error) = match ended {
            Ok(outcome) => (outcome, None),
            Err(Interrupt::OutOfTime) => (Outcome::TimeLimit, None),
            Err(Interrupt::Fault(fault)) => (Outcome::Failed, Some(*fault)),
        };
        let now = self.connector.clock.now();
        let lag = |newest: i64| (now.timestamp_millis() - newest) / 1000;
        let counters = &self.counters;
        StreamSummary {
            stream: self.stream.to_owned(),
            outcome,
            pages: get(&counters.pages),
            files: get(&counters.files),
            events_read: get(&counters.events_read),
            rows_delivered: get(&counters.rows_delivered),
            rows_quarantined: get(&counters.rows_quarantined),
            rows_truncated: get(&counters.rows_truncated),
            bodies: get(&counters.bodies),
            ambiguous_posts: get(&counters.ambiguous_posts),
            bytes_read: get(&counters.bytes_read),
            bytes_sent: get(&counters.bytes_sent),
            backfill_from: findings.backfill_from,
            gap: findings.gap,
            lag_seconds: findings.newest_ms.map(lag),
            error,
        }
    }
}

fn dropped_again(stream: &str) -> Fault {
    Fault::passing(
        "cursor-dropped",
        format!("the source refuses a page token of {stream} that it gave in this run"),
        "the next run begins anew once more, and what it reads comes again; if it stays so, give \
         this line to the support of the source",
    )
}

fn circle(stream: &str) -> Fault {
    Fault::passing(
        "listing-circle",
        format!("the page tokens of {stream} lead back to a page that this run has read"),
        "what was read is delivered, and the next run begins at this page again; if it stays so, \
         give this line to the support of the source",
    )
}

/// Says why a stream did not do its work, if it did not.
pub(super) fn log_failure(stream: &str, outcome: Outcome, error: Option<&Fault>) {
    if let Some(Fault { code, message, fix, .. }) = error {
        tracing::error!(stream, code, fix, "{message}");
    }
    if outcome == Outcome::Busy {
        // No error: the Functions host at times has two handlers for a while.
        tracing::warn!(
            stream,
            code = "busy",
            fix = "run one connector per checkpoint; nothing is lost",
            "another connector holds the lease on its checkpoint"
        );
    }
}
