//! One stream's pull: take the lease, read page after page, end with a summary.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{NaiveDate, NaiveTime};
use tokio_util::sync::CancellationToken;

use super::deliver::{EVERY_ROW_REFUSED, Poster};
use super::fault::{Fault, Interrupt};
use super::ledger::Ledger;
use super::outbox::Outbox;
use super::page::PageReader;
use super::resume::{lease, release};
use super::source::Page;
use super::summary::{Counters, Gap, Outcome, StreamSummary, add, get};
use super::{Connector, Shared};
use crate::checkpoint::{Checkpoint, Cursor, Position, Refused};
use crate::quarantine::FilePosition;
use crate::seams::Deadline;
use crate::store::Lease;

/// Empty pages that are asked for in one run; the next run goes on behind them.
const EMPTY_PAGES: u32 = 5;

/// Where the time was up, if not in a file.
const LISTING: &str = "the listing";

/// One stream in one run.
pub(super) struct StreamPull<'a> {
    pub(super) connector: &'a Connector,
    pub(super) stream: &'a str,
    pub(super) stop: CancellationToken,
    pub(super) deadline: Deadline,
    pub(super) counters: Arc<Counters>,
    pub(super) shared: Shared,
}

/// What is told of a stream beside its counts.
#[derive(Default)]
struct Told {
    gap: Option<Gap>,
    newest_ms: Option<i64>,
    backfill_from: Option<NaiveDate>,
}

impl StreamPull<'_> {
    /// Pulls until there is nothing more, the time is up, or something fails.
    pub(super) async fn run(self) -> StreamSummary {
        let mut told = Told::default();
        let connector = self.connector;
        let leasing = lease(&*connector.store, self.stream, &connector.policy, &self.stop);
        let ended = match leasing.await {
            Ok(Some(lease)) => self.pull(lease, &mut told).await,
            Ok(None) => Ok(Outcome::Busy),
            Err(interrupt) => Err(interrupt),
        };
        connector.source.rest(self.stream);
        let summary = self.summary(ended, told);
        // Each failure once, where it is handled: here, as soon as the stream has ended.
        log_failure(self.stream, summary.outcome, summary.error.as_ref());
        summary
    }

    /// Tells what lies in quarantine and was not told yet, also by a run that was killed. First the
    /// log, then the checkpoint: it is told twice rather than never.
    fn tell_quarantine(&self, ledger: &mut Ledger) {
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

    async fn pull(&self, mut lease: Box<dyn Lease>, told: &mut Told) -> Result<Outcome, Interrupt> {
        let checkpoint = match self.connector.resume(self.stream, lease.as_mut()).await {
            Ok(checkpoint) => checkpoint,
            Err(interrupt) => {
                release(self.stream, lease).await;
                return Err(interrupt);
            }
        };
        let connector = self.connector;
        let (counters, clock) = (Arc::clone(&self.counters), connector.clock.clone());
        let mut ledger = Ledger::new(checkpoint, lease, counters, clock, connector.policy);
        // Of runs before this one: it may be killed too.
        self.tell_quarantine(&mut ledger);
        let mut in_hand = None;
        let ended = self.pages(&mut ledger, told, &mut in_hand).await;
        let ended = match ended {
            // It has read its share of rows, or another stream has: neither is stuck.
            Err(Interrupt::OutOfTime) if self.shared.rows_left.is_spent() => Ok(Outcome::TimeLimit),
            Err(Interrupt::OutOfTime) => self.note_out_of_time(&mut ledger, in_hand),
            Err(Interrupt::Fault(fault)) if fault.code == EVERY_ROW_REFUSED => {
                let first = Refused { since: connector.clock.now(), runs: 0 };
                ledger.checkpoint.refused.get_or_insert(first).runs += 1;
                ledger.touch();
                Err(Interrupt::Fault(fault))
            }
            ended => ended,
        };
        told.newest_ms = ledger.newest_ms;
        told.backfill_from = ledger.checkpoint.backfill_from;
        self.tell_quarantine(&mut ledger);
        let saved = ledger.save().await;
        release(self.stream, ledger.lease).await;
        match (ended, saved) {
            (Err(Interrupt::Fault(fault)), _) => Err(Interrupt::Fault(fault)),
            (_, Err(interrupt)) => Err(interrupt),
            (ended, Ok(())) => ended,
        }
    }

    /// Reads page after page.
    async fn pages(
        &self,
        ledger: &mut Ledger,
        told: &mut Told,
        in_hand: &mut Option<String>,
    ) -> Result<Outcome, Interrupt> {
        let mut empty_pages = 0;
        let mut read = BTreeSet::new();
        let mut dropped = false;
        let mut listed = self.list(&ledger.checkpoint.cursor).await;
        loop {
            let page = listed?;
            // Once it begins anew; after that it would read the same pages over and over.
            let drops = page.cursor != ledger.checkpoint.cursor;
            if drops && std::mem::replace(&mut dropped, true) {
                return Err(dropped_again(self.stream).into());
            }
            let page = self.begin(ledger, told, &mut read, page);
            read.insert(page.cursor.clone());
            // A half-read file must be looked for even in an empty page.
            let listed_nothing = page.parts.is_empty() && !ledger.checkpoint.has_half_read();
            let (page, ahead) = match listed_nothing {
                true => (page, None),
                false => self.page(ledger, page, told, in_hand).await?,
            };
            let moved = page.next(&ledger.checkpoint.cursor).cloned();
            let stays = moved.is_none();
            if let Some(next) = moved {
                if read.contains(&next) {
                    return Err(circle(self.stream).into());
                }
                ledger.checkpoint.advance(next);
                ledger.touch();
                *in_hand = None;
            }
            if !listed_nothing {
                ledger.checkpoint.totals.pages += 1;
                add(&self.counters.pages, 1);
                ledger.touch();
            }
            empty_pages += u32::from(listed_nothing);
            if page.caught_up || stays || empty_pages >= EMPTY_PAGES {
                if ledger.checkpoint.out_of_time_at.take().is_some() {
                    ledger.touch();
                }
                return Ok(Outcome::CaughtUp);
            }
            listed = match ahead {
                Some(listed) => listed,
                None => self.list(&ledger.checkpoint.cursor).await,
            };
        }
    }

    /// Lists the page at a cursor.
    async fn list(&self, cursor: &Cursor) -> Result<Page, Interrupt> {
        tokio::select! {
            // At the deadline both are ready, and the source knows why it got no page.
            biased;
            page = self.connector.source.page(self.stream, cursor, self.deadline) => page,
            () = self.stop.cancelled() => Err(Interrupt::OutOfTime),
        }
    }

    /// Moves the checkpoint's cursor to where the page was listed, if the source had to begin elsewhere,
    /// and tells the gap that this leaves.
    fn begin(
        &self,
        ledger: &mut Ledger,
        told: &mut Told,
        read: &mut BTreeSet<Cursor>,
        page: Page,
    ) -> Page {
        let cursor = ledger.checkpoint.cursor.clone();
        if page.cursor != cursor {
            // What this run has read comes again.
            read.clear();
            if let Cursor::Start(day) = page.cursor
                && (matches!(cursor, Cursor::Token(_)) || ledger.checkpoint.backfill_from.is_some())
            {
                told.gap = Some(self.gap_of_cursor(&ledger.checkpoint, day));
            }
            ledger.checkpoint.advance(page.cursor.clone());
            ledger.touch();
        }
        if let Cursor::Start(day) = page.cursor
            && ledger.checkpoint.backfill_from != Some(day)
        {
            ledger.checkpoint.backfill_from = Some(day);
            ledger.touch();
        }
        page
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

    /// Reads one page and delivers it; returns the reply whose files were read, and the next page,
    /// which is listed while the last bodies are on their way.
    async fn page(
        &self,
        ledger: &mut Ledger,
        page: Page,
        told: &mut Told,
        in_hand: &mut Option<String>,
    ) -> Result<(Page, Option<Result<Page, Interrupt>>), Interrupt> {
        let (outbox, outgoing) = Outbox::new(self.shared.slots.clone());
        // Ends the reading side when the delivering side fails.
        let stop = self.stop.child_token();
        let poster = self.poster(ledger);
        let mut reader = self.reader(&ledger.checkpoint, outbox, stop.clone());
        let keys: Vec<String> = page.parts.iter().map(|part| part.key.clone()).collect();
        let cursor = reader.cursor.clone();
        let reading = async {
            let read = tokio::select! {
                read = reader.read(page) => read,
                () = stop.cancelled() => Err(Interrupt::OutOfTime),
            };
            // Drops the outbox: nothing more is coming.
            let gone = std::mem::take(&mut reader.gone);
            drop(reader);
            let next = match &read {
                Ok(page) if !page.caught_up => page.next(&cursor),
                _ => None,
            };
            let ahead = match next {
                Some(next) => tokio::select! {
                    listed = self.list(next) => Some(listed),
                    () = stop.cancelled() => None,
                },
                None => None,
            };
            (read, gone, ahead)
        };
        let delivering = async {
            let gives_up = self.gives_up(&ledger.checkpoint);
            let delivered = ledger.deliver(poster, outgoing, gives_up).await;
            if delivered.is_err() {
                stop.cancel();
            }
            delivered
        };
        let ((read, gone, ahead), delivered) = tokio::join!(reading, delivering);
        let settled = &ledger.checkpoint.files;
        let is_open = |key: &String| settled.get(key).is_none_or(|f| f.done != Position::End);
        *in_hand = keys.into_iter().find(is_open);
        if !gone.is_empty() {
            told.gap = Some(self.gap_of_files(&ledger.checkpoint, &gone));
        }
        delivered?;
        Ok((read?, ahead))
    }

    fn reader(
        &self,
        checkpoint: &Checkpoint,
        outbox: Outbox,
        stop: CancellationToken,
    ) -> PageReader {
        PageReader {
            source: Arc::clone(&self.connector.source),
            quarantine: self.connector.quarantine.clone(),
            stream: self.stream.to_owned(),
            cursor: checkpoint.cursor.clone(),
            read: checkpoint.files.clone(),
            outbox,
            buffers: self.shared.buffers.clone(),
            stop,
            deadline: self.deadline,
            counters: Arc::clone(&self.counters),
            policy: self.connector.policy,
            rows_left: Arc::clone(&self.shared.rows_left),
            gone: Vec::new(),
            in_hand: None,
            events: BTreeMap::new(),
            kept: BTreeMap::new(),
            expired: 0,
        }
    }

    fn poster(&self, ledger: &Ledger) -> Arc<Poster> {
        let deadline = self.deadline.plus(self.connector.policy.grace);
        Arc::new(Poster {
            sink: Arc::clone(&self.connector.sink),
            quarantine: self.connector.quarantine.clone(),
            lease: ledger.lease.watch(),
            stop: self.stop.clone(),
            deadline,
            counters: Arc::clone(&self.counters),
            policy: self.connector.policy,
            accepted: Arc::clone(&self.shared.accepted),
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
    fn gap_of_files(&self, checkpoint: &Checkpoint, gone: &[FilePosition]) -> Gap {
        let from = checkpoint.newest_event.unwrap_or(checkpoint.updated_at);
        let to = self.connector.clock.now();
        for FilePosition { file, line, .. } in gone {
            tracing::error!(
                stream = self.stream,
                file,
                line,
                "a batch file is gone from the listing: it is missing from this line on"
            );
        }
        Gap { from: from.min(to), to }
    }

    /// The time was up within a file, or while a listing was waited for. If it was so last time too,
    /// and not one line was gained (any step of progress forgets the last time), this is no success.
    fn note_out_of_time(
        &self,
        ledger: &mut Ledger,
        file: Option<String>,
    ) -> Result<Outcome, Interrupt> {
        let counters = &self.counters;
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
                format!("two runs in a row ended while {} waited to list a page", self.stream),
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

    fn summary(&self, ended: Result<Outcome, Interrupt>, told: Told) -> StreamSummary {
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
            backfill_from: told.backfill_from,
            gap: told.gap,
            lag_seconds: told.newest_ms.map(lag),
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
