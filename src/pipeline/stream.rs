//! One stream's pull: take the lease, read the checkpoint, go from page to page, release the lease.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::fault::{Fault, Interrupt, internal};
use super::page::PageReader;
use super::post::Poster;
use super::progress::Progress;
use super::resume::{lease, release};
use super::source::{Content, OpenPart, Page, Part};
use super::summary::{Gap, Live, Outcome, StreamSummary};
use super::{Connector, Run};
use crate::checkpoint::{Checkpoint, Cursor, HeldUp, Position};
use crate::codes::Code;
use crate::table::Stream;

/// Empty pages that are asked for in one run; the next run goes on behind them.
const EMPTY_PAGES: u32 = 5;

/// Where the time was up, if not in a file.
const LISTING: &str = "the listing";

/// One stream in one run.
#[derive(Clone)]
pub(super) struct StreamPull {
    pub(super) connector: Connector,
    pub(super) stream: Stream,
    pub(super) run: Run,
    pub(super) summary: Live,
}

impl StreamPull {
    /// Pulls until there is nothing more, the time is up, or something fails.
    pub(super) async fn run(self) -> StreamSummary {
        let ended = self.pull().await;
        self.connector.source.finished(&self.stream);
        let ended = Outcome::of_stream(self.stream.name, ended);
        self.summary.with(|summary| {
            (summary.outcome, summary.error) = ended;
            summary.clone()
        })
    }

    /// Reads page after page under the lease.
    async fn pull(&self) -> Result<Outcome, Interrupt> {
        let Self { connector, stream, run, summary } = self;
        let leasing = lease(&*connector.store, stream.name, run);
        let Some(mut lease) = leasing.await? else { return Ok(Outcome::Busy) };
        let checkpoint = match connector.resume(stream, lease.as_mut()).await {
            Ok(checkpoint) => checkpoint,
            Err(interrupt) => {
                release(stream.name, lease).await;
                return Err(interrupt);
            }
        };
        let poster = Poster {
            sink: Arc::clone(&connector.sink),
            table: stream.table,
            quarantine: connector.quarantine.clone(),
            lease: lease.watch(),
            run: run.clone(),
            summary: summary.clone(),
        };
        let clock = connector.clock.clone();
        let mut pages = Pages {
            pull: self,
            poster: Arc::new(poster),
            progress: Progress::new(checkpoint, lease, summary.clone(), clock, run.policy),
            read: HashSet::new(),
            dropped: false,
            files: Vec::new(),
            listing: None,
        };
        // Of runs before this one: it may be killed too.
        pages.report_quarantine();
        let ended = pages.read().await;
        let ended = pages.note(ended);
        pages.report_quarantine();
        let mut progress = pages.progress;
        let saved = progress.save().await;
        release(stream.name, progress.lease).await;
        let now = connector.clock.now().timestamp_millis();
        summary.with(|summary| {
            summary.backfill_from = progress.checkpoint.backfill_from;
            summary.lag_seconds = progress.newest_ms.map(|newest| (now - newest) / 1000);
        });
        match (ended, saved) {
            (Err(Interrupt::Fault(fault)), _) => Err(Interrupt::Fault(fault)),
            (_, Err(interrupt)) => Err(interrupt),
            (ended, Ok(())) => ended,
        }
    }
}

/// The pages of a stream, in one run.
struct Pages<'a> {
    pull: &'a StreamPull,
    poster: Arc<Poster>,
    progress: Progress,
    /// The cursors of the pages that were read.
    read: HashSet<Cursor>,
    /// Whether the source has dropped the cursor.
    dropped: bool,
    /// The files of the page in hand, in order.
    files: Vec<String>,
    /// The next page, which is listed while the last bodies of this one are on their way.
    listing: Option<AbortOnDropHandle<Result<Page, Interrupt>>>,
}

impl Pages<'_> {
    /// Reads page after page.
    async fn read(&mut self) -> Result<Outcome, Interrupt> {
        let mut empty_pages = 0;
        loop {
            let page = self.next().await?;
            self.begin(&page)?;
            // A half-read file must be looked for even in an empty page.
            let is_empty = page.parts.is_empty() && !self.progress.checkpoint.has_half_read();
            let page = if is_empty { page } else { self.read_page(page).await? };
            let stays = page.next().is_none();
            if let Some(next) = page.next() {
                if self.read.contains(next) {
                    return Err(circle(self.pull.stream.name).into());
                }
                self.progress.change().advance(next.clone());
                self.files.clear();
            }
            if is_empty {
                empty_pages += 1;
            } else {
                self.progress.change().totals.pages += 1;
                self.pull.summary.with(|summary| summary.pages += 1);
            }
            if page.caught_up || stays || empty_pages >= EMPTY_PAGES {
                if self.progress.checkpoint.out_of_time_at.is_some() {
                    self.progress.change().out_of_time_at = None;
                }
                return Ok(Outcome::CaughtUp);
            }
        }
    }

    /// The page at the checkpoint's cursor.
    async fn next(&mut self) -> Result<Page, Interrupt> {
        let cursor = &self.progress.checkpoint.cursor;
        let listing = self.listing.take().unwrap_or_else(|| self.pull.list(cursor.clone()));
        listing.await.map_err(internal)?
    }

    /// Moves the checkpoint's cursor to where the page was listed, if the source had to begin
    /// elsewhere, and reports the gap that this leaves.
    fn begin(&mut self, page: &Page) -> Result<(), Fault> {
        let checkpoint = &self.progress.checkpoint;
        if checkpoint.cursor.as_ref() != Some(&page.at) {
            // Once it begins again; after that it would read the same pages over and over.
            if checkpoint.cursor.is_some() && std::mem::replace(&mut self.dropped, true) {
                return Err(dropped_again(self.pull.stream.name));
            }
            // What this run has read comes again.
            self.read.clear();
            if let Some((from, to)) = page.gap {
                self.pull.report_gap(since(checkpoint, from, to));
            }
            self.progress.change().advance(page.at.clone());
        }
        let day =
            page.backfill_from.filter(|day| Some(*day) != self.progress.checkpoint.backfill_from);
        if day.is_some() {
            self.progress.change().backfill_from = day;
        }
        self.read.insert(page.at.clone());
        self.files = page.parts.iter().map(|part| part.key.clone()).collect();
        Ok(())
    }

    /// Reads one page while its bodies are posted; returns the reply whose parts were read.
    async fn read_page(&mut self, page: Page) -> Result<Page, Interrupt> {
        let pull = self.pull;
        // The pool's slots are what bounds the channel.
        let (bodies, filled) = mpsc::unbounded_channel();
        // Ends the reading side, and its thread, once the delivering side has ended, in whatever way.
        let stop = pull.run.stop.child_token();
        let stopping = stop.clone().drop_guard();
        let side = StreamPull { run: Run { stop, ..pull.run.clone() }, ..pull.clone() };
        let poster = Arc::clone(&self.poster);
        let gives_up = pull.gives_up(&self.progress.checkpoint);
        let (at, files) = (page.at.clone(), &self.progress.checkpoint.files);
        let mut reader = PageReader::new(&side, at, files, bodies);
        let reading = async {
            let read = side.run.in_time(reader.read(page)).await.flatten();
            // Closes the channel: nothing more is coming.
            drop(reader);
            let next = read.as_ref().ok().filter(|page| !page.caught_up).and_then(Page::next);
            (next.map(|next| pull.list(Some(next.clone()))), read)
        };
        let delivering = async {
            let _ended = stopping;
            self.progress.settle(poster, filled, gives_up).await
        };
        let ((listing, read), delivered) = tokio::join!(reading, delivering);
        self.listing = listing;
        if std::mem::take(&mut self.progress.files_gone) {
            // Nobody knows their events' times.
            let gap = since(&self.progress.checkpoint, None, pull.connector.clock.now());
            pull.summary.with(|summary| summary.gap = Some(gap));
        }
        delivered?;
        read
    }

    /// Reports what is quarantined and was not reported yet, also by a run that was killed. First
    /// in the log, then in the checkpoint: twice rather than never.
    fn report_quarantine(&mut self) {
        if self.progress.checkpoint.unreported.is_nothing() {
            return;
        }
        let unreported = std::mem::take(&mut self.progress.change().unreported);
        let StreamPull { stream, connector, .. } = self.pull;
        tracing::error!(
            stream = stream.name,
            rows_quarantined = unreported.rows_quarantined,
            rows_truncated = unreported.rows_truncated,
            r#where = connector.quarantine.location(stream.name),
            "rows were put in quarantine"
        );
    }

    /// What the checkpoint must remember of how the run ended.
    fn note(&mut self, ended: Result<Outcome, Interrupt>) -> Result<Outcome, Interrupt> {
        let pull = self.pull;
        match ended {
            // It has read its share of rows, or another stream has: neither is stuck.
            Err(Interrupt::OutOfTime) if pull.run.has_read_enough() => Ok(Outcome::TimeLimit),
            Err(Interrupt::OutOfTime) => self.note_out_of_time(),
            Err(Interrupt::Fault(fault)) if fault.code == Code::EveryRowRefused => {
                let now = pull.connector.clock.now();
                let refused = &mut self.progress.change().refused;
                *refused = Some(HeldUp::again(refused.take(), now, fault.message.clone()));
                Err(Interrupt::Fault(fault))
            }
            ended => ended,
        }
    }

    /// The time was up within a file, or while a listing was waited for. If it was so last time
    /// too, and not one line was gained (any step of progress forgets the last time), this is no
    /// success.
    fn note_out_of_time(&mut self) -> Result<Outcome, Interrupt> {
        let settled = &self.progress.checkpoint.files;
        let done = |file: &String| settled.get(file).map_or(Position::Line(0), |file| file.done);
        let file = self.files.iter().find(|file| done(file) != Position::End);
        let has_moved = self.pull.summary.with(|summary| summary.pages + summary.bodies > 0);
        if file.is_none() && has_moved {
            return Ok(Outcome::TimeLimit);
        }
        let listing = || (LISTING.to_owned(), Position::Line(0));
        let (at, done) = file.map_or_else(listing, |file| (file.clone(), done(file)));
        let now = Some((at.clone(), done));
        if std::mem::replace(&mut self.progress.change().out_of_time_at, now.clone()) != now {
            return Ok(Outcome::TimeLimit);
        }
        let fault = if at == LISTING {
            let stream = self.pull.stream.name;
            Fault::passing(
                Code::NoProgress,
                format!("two runs in a row ended while {stream} waited to list a page"),
                "nothing is lost, the next run tries again; the log says what was waited for: after \
                 429s, look which other program uses the same application",
            )
        } else {
            Fault::settings(
                Code::NoProgress,
                format!("file {at}: two runs in a row ended at {done} without a new one"),
                "raise RUN_TIME_LIMIT_SECONDS (and the function's timeout with it); where the log \
                 has 429s, wait instead",
            )
        };
        Err(fault.into())
    }
}

impl StreamPull {
    /// Lists the page at a cursor.
    pub(super) fn list(&self, at: Option<Cursor>) -> AbortOnDropHandle<Result<Page, Interrupt>> {
        let Self { connector, stream, run, .. } = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let page = connector.source.page(&stream, at.as_ref(), run.deadline);
            run.in_time(page).await.flatten()
        }))
    }

    /// Opens a part from its beginning; `None` if its address has expired.
    pub(super) async fn open(&self, part: &Part) -> Result<Option<OpenPart>, Interrupt> {
        match &part.content {
            Content::At(_) => self.connector.source.open(part, self.run.deadline).await,
            Content::Here(bytes) => Ok(Some(OpenPart::here(bytes.clone()))),
        }
    }

    /// Whether the body in hand was refused whole for so long that it is not the settings.
    fn gives_up(&self, checkpoint: &Checkpoint) -> bool {
        let (give_up_after, give_up_runs) = self.run.policy.give_up;
        checkpoint.refused.as_ref().is_some_and(|HeldUp { since, runs, .. }| {
            let lasted = self.connector.clock.now() - since;
            *runs >= give_up_runs && lasted >= give_up_after
        })
    }

    /// The stored cursor, which was accepted before, was refused.
    fn report_gap(&self, gap: Gap) {
        tracing::error!(
            stream = self.stream.name,
            from = %gap.from,
            to = %gap.to,
            "the source no longer accepts the stored cursor: events of this time may be missing, \
             and later ones come again"
        );
        self.summary.with(|summary| summary.gap = Some(gap));
    }
}

/// The gap until `to`, which begins with the newest event that was delivered if `from` is not
/// known.
fn since(checkpoint: &Checkpoint, from: Option<DateTime<Utc>>, to: DateTime<Utc>) -> Gap {
    let newest = checkpoint.newest_event.unwrap_or(checkpoint.updated_at);
    Gap { from: from.unwrap_or(newest).min(to), to }
}

fn dropped_again(stream: &str) -> Fault {
    Fault::passing(
        Code::CursorDropped,
        format!("the source refuses a cursor of {stream} that it gave in this run"),
        "the next run begins again once more, and what it reads comes again; if it stays so, give \
         this line to the support of the source",
    )
}

fn circle(stream: &str) -> Fault {
    Fault::passing(
        Code::ListingCircle,
        format!("the cursors of {stream} lead back to a page that this run has read"),
        "what was read is delivered, and the next run begins at this page again; if it stays so, \
         give this line to the support of the source",
    )
}
