//! The pages of a stream in one run: what waits in spill first, then what the source lists; what the
//! destination does not take for long is kept.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Run;
use super::fault::{Fault, Interrupt, internal, lease_lost};
use super::page::{HeldUpPart, PageReader, Spilling};
use super::post::Poster;
use super::progress::Progress;
use super::source::Page;
use super::spilled::SpillSource;
use super::stream::StreamPull;
use super::summary::{Gap, Outcome};
use crate::checkpoint::{Checkpoint, Cursor, HeldUp, Position};
use crate::codes::Code;
use crate::seams::Deadline;

/// Where the time was up, if not in a file.
const LISTING: &str = "the listing";

/// The pages of a stream, in one run.
pub(super) struct Pages {
    /// While files that wait in spill are delivered, its source is they.
    pull: StreamPull,
    /// What posts, but for what a page asks of it.
    poster: Poster,
    pub(super) progress: Progress,
    /// The cursors of the pages that were read.
    read: HashSet<Cursor>,
    /// Whether the source has dropped the cursor.
    dropped: bool,
    /// The files of the page in hand, in order.
    files: Vec<String>,
    /// The next page, which is listed while the last bodies of this one are on their way.
    listing: Option<AbortOnDropHandle<Result<Page, Interrupt>>>,
    /// Whether files are kept in spill instead of being delivered.
    spills: bool,
}

impl Pages {
    pub(super) fn new(pull: StreamPull, poster: Poster, progress: Progress) -> Self {
        Self {
            pull,
            poster,
            progress,
            read: HashSet::new(),
            dropped: false,
            files: Vec::new(),
            listing: None,
            spills: false,
        }
    }

    /// Delivers what waits in spill, and then reads page after page. If the destination is down for
    /// too long, what is read is kept in spill.
    pub(super) async fn run(&mut self) -> Result<Outcome, Interrupt> {
        // What is left of the time must suffice to keep what it does not take.
        let patience = self.pull.run.deadline.remaining() / 4;
        self.poster.patience = self.is_down_for_long().then(|| Deadline::after(patience));
        let delivered = match self.deliver_spill().await {
            Ok(Outcome::CaughtUp) => self.read().await,
            ended => ended,
        };
        let Err(Interrupt::Destination(mut fault)) = delivered else { return delivered };
        let now = self.pull.connector.clock.now();
        let down = &mut self.progress.change().destination_down;
        let mut held_up = HeldUp::again(down.take(), now, fault.message.clone());
        held_up.passes |= fault.code == Code::EveryRowRefused;
        fault.message += &tried(&held_up);
        *down = Some(held_up.clone());
        if !self.is_down_for_long() {
            if let Some(after) = self.pull.run.policy.spill_after {
                let from = time_after(&held_up, after);
                fault.fix += &format!("; from {from} on, batch files are kept until it works");
            }
            return Err(Interrupt::Destination(fault));
        }
        self.check_lease()?;
        self.spills = true;
        fault.fix += "; batch files are kept, and delivered when it works";
        let (stream, waiting) = (self.pull.stream.name, self.progress.checkpoint.files_waiting());
        tracing::warn!(
            stream,
            waiting,
            r#where = self.pull.connector.spill.location(stream),
            "the destination is down for long: batch files are kept until it works"
        );
        match self.read().await {
            Err(Interrupt::Fault(other)) => {
                // The run ends with the other; both must be fixed.
                self.pull.run.note(stream, &fault);
                Err(Interrupt::Fault(other))
            }
            _ => Err(Interrupt::Destination(fault)),
        }
    }

    /// Another that has the lease keeps files under the same numbers.
    fn check_lease(&self) -> Result<(), Fault> {
        if self.progress.lease.held() { Ok(()) } else { Err(lease_lost()) }
    }

    /// Whether the destination has accepted nothing for so long that files are kept.
    fn is_down_for_long(&self) -> bool {
        let (now, after) = (self.pull.connector.clock.now(), self.pull.run.policy.spill_after);
        let down = self.progress.checkpoint.destination_down.as_ref();
        down.zip(after).is_some_and(|(down, after)| down.is_due(now, (after, 0)))
    }

    /// Delivers the files that wait in spill, in their order.
    async fn deliver_spill(&mut self) -> Result<Outcome, Interrupt> {
        let next = self.progress.checkpoint.spill.as_ref().map(|spill| spill.next);
        let Some(next) = next else { return Ok(Outcome::CaughtUp) };
        let connector = &self.pull.connector;
        let spill = connector.spill.clone();
        let (stream, inner, clock) =
            (self.pull.stream, Arc::clone(&connector.source), connector.clock.clone());
        let source = Arc::new(SpillSource { files: spill.clone(), stream, inner, next, clock });
        let ended = if self.progress.checkpoint.turn_to_spill() {
            let inner = std::mem::replace(&mut self.pull.connector.source, source);
            let ended = self.read().await;
            self.progress.checkpoint.turn_to_source();
            self.pull.connector.source = inner;
            self.read.clear();
            self.files.clear();
            self.listing = None;
            ended
        } else {
            Ok(Outcome::CaughtUp)
        };
        // What is removed must not be asked for again.
        self.progress.save().await?;
        self.check_lease()?;
        let (stream, checkpoint) = (self.pull.stream.name, &self.progress.checkpoint);
        let first = next - checkpoint.files_waiting();
        if first < next {
            spill.remove_before(stream, first).await?;
        } else {
            // Also what was kept and never counted.
            spill.remove_before(stream, u64::MAX).await?;
            // After a reset, it is all that the checkpoint has until a page is listed.
            if checkpoint.cursor.is_some() {
                self.progress.change().spill = None;
            }
        }
        ended
    }

    /// Reads page after page, and notes if the time was up.
    async fn read(&mut self) -> Result<Outcome, Interrupt> {
        let ended = self.read_pages().await;
        let starved = std::mem::take(&mut self.progress.starved);
        match ended {
            Err(Interrupt::OutOfTime)
                if starved && !self.poster.run.has_accepted(self.poster.table) =>
            {
                self.note_starved()
            }
            // It has read its share of rows, or another stream has: neither is stuck.
            Err(Interrupt::OutOfTime) if self.pull.run.has_read_enough() => Ok(Outcome::TimeLimit),
            Err(Interrupt::OutOfTime) => self.note_out_of_time(),
            Err(Interrupt::Fault(mut fault)) if fault.code == Code::EveryRowRefused => {
                let now = self.pull.connector.clock.now();
                let before = self.progress.change().refused.take();
                let held_up = HeldUp::again(before, now, fault.message.clone());
                fault.message += &tried(&held_up);
                fault.fix += &format!("; the body {}", self.outlook(&held_up));
                self.progress.change().refused = Some(held_up);
                Err(Interrupt::Fault(fault))
            }
            ended => ended,
        }
    }

    /// Not one body was taken in all the time that there was.
    fn note_starved(&mut self) -> Result<Outcome, Interrupt> {
        let destination = self.progress.checkpoint.destination.clone();
        let message = format!("{destination} has taken no body in the time that there was");
        if self.is_down_for_long() {
            let fix = "the log says what was waited for; nothing is lost";
            let fault = Fault::passing(Code::IngestionUnreachable, message, fix);
            return Err(Interrupt::Destination(Box::new(fault)));
        }
        let now = self.pull.connector.clock.now();
        let down = &mut self.progress.change().destination_down;
        *down = Some(HeldUp::again(down.take(), now, message));
        self.note_out_of_time()
    }

    async fn read_pages(&mut self) -> Result<Outcome, Interrupt> {
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
                // Of what waits in spill, all comes before anything new.
                empty_pages += u32::from(!self.progress.checkpoint.is_in_spill());
            } else {
                self.progress.change().totals.pages += 1;
                self.pull.summary.with(|summary| summary.pages += 1);
            }
            if page.caught_up || stays || empty_pages >= self.pull.run.policy.empty_pages {
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
            self.progress.change().advance(page.at.clone());
        }
        if let Some((from, to)) = page.gap {
            let gap = since(&self.progress.checkpoint, from, to);
            self.pull.summary.with(|summary| summary.gap = Some(gap));
            // What is gone from spill is reported where it was looked for.
            if !self.progress.checkpoint.is_in_spill() {
                self.pull.report_gap(gap);
            }
        }
        for part in &page.parts {
            if let Some(begun) = &part.begun {
                let files = &mut self.progress.checkpoint.files;
                files.entry(part.key.clone()).or_insert_with(|| begun.clone());
            }
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
        let pull = self.pull.clone();
        // The pool's slots are what bounds the channel.
        let (bodies, filled) = mpsc::unbounded_channel();
        // Ends the reading side, and its thread, once the delivering side has ended, in whatever way.
        let stop = pull.run.stop.child_token();
        let stopping = stop.clone().drop_guard();
        let side = StreamPull { run: Run { stop, ..pull.run.clone() }, ..pull.clone() };
        let checkpoint = &self.progress.checkpoint;
        // What is kept is not posted, and so not given up.
        let gives_up = !self.spills && pull.gives_up(checkpoint);
        let gave_up = gives_up || checkpoint.passed_body;
        let poster = Arc::new(Poster { gave_up, ..self.poster.clone() });
        let spill = self.spills.then(|| Spilling {
            files: pull.connector.spill.clone(),
            number: checkpoint.spill.as_ref().map_or(0, |spill| spill.next),
            lease: self.poster.lease.clone(),
        });
        let at = page.at.clone();
        let mut reader = PageReader::new(&side, at, &checkpoint.files, bodies, spill);
        let reading = async {
            let read = side.run.in_time(reader.read(page)).await.flatten();
            let held_up = std::mem::take(&mut reader.held_up);
            // Closes the channel: nothing more is coming.
            drop(reader);
            let goes_on = |page: &&Page| !page.caught_up && held_up.is_empty();
            let next = read.as_ref().ok().filter(goes_on).and_then(Page::next);
            (next.map(|next| pull.list(Some(next.clone()))), held_up, read)
        };
        let delivering = async {
            let _ended = stopping;
            self.progress.settle(poster, filled, gives_up).await
        };
        let ((listing, held_up, read), delivered) = tokio::join!(reading, delivering);
        let accepted = self.poster.run.has_accepted(self.poster.table);
        if gives_up && !accepted && self.progress.checkpoint.refused.is_none() {
            self.progress.change().passed_body = true;
        }
        if std::mem::take(&mut self.progress.files_gone) {
            // Nobody knows their events' times.
            let gap = since(&self.progress.checkpoint, None, pull.connector.clock.now());
            pull.summary.with(|summary| summary.gap = Some(gap));
        }
        delivered?;
        let fault = self.hold(held_up);
        let page = read?;
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        // Only now: what is not delivered is read again, from this page on.
        self.listing = listing;
        Ok(page)
    }

    /// Counts the run for the parts that could not be had; the first one's fault, if there is one.
    fn hold(&mut self, held_up: Vec<HeldUpPart>) -> Option<Fault> {
        let others = match held_up.len().saturating_sub(1) {
            0 => String::new(),
            others => format!(", as are {others} more files"),
        };
        let mut first = None;
        for HeldUpPart { key, version, held_up, fault } in held_up {
            first.get_or_insert_with(|| Fault {
                message: format!("{}{}{others}", fault.message, tried(&held_up)),
                fix: format!(
                    "the other files of its page are delivered; it {}; {}",
                    self.outlook(&held_up),
                    fault.fix
                ),
                ..fault
            });
            self.progress.change().hold(key, version, held_up);
        }
        first
    }

    /// What becomes of what is held up.
    fn outlook(&self, held_up: &HeldUp) -> String {
        let (after, least) = self.pull.run.policy.give_up;
        if after.is_zero() && least <= 1 {
            return "is passed into quarantine at the next run".to_owned();
        }
        format!(
            "is passed into quarantine on {} and after {least} runs, or at the next run after \
             `mimecast-sentinel skip {}`",
            time_after(held_up, after),
            self.pull.stream.name
        )
    }

    /// Reports what is quarantined and was not reported yet, also by a run that was killed. First
    /// in the log, then in the checkpoint: twice rather than never.
    pub(super) fn report_quarantine(&mut self) {
        if self.progress.checkpoint.unreported.is_nothing() {
            return;
        }
        let unreported = std::mem::take(&mut self.progress.change().unreported);
        let StreamPull { stream, connector, .. } = &self.pull;
        tracing::error!(
            stream = stream.name,
            rows_quarantined = unreported.rows_quarantined,
            rows_truncated = unreported.rows_truncated,
            r#where = connector.quarantine.location(stream.name),
            "rows were put in quarantine"
        );
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

/// The gap until `to`, which begins with the newest event that was delivered if `from` is not
/// known.
fn since(checkpoint: &Checkpoint, from: Option<DateTime<Utc>>, to: DateTime<Utc>) -> Gap {
    let newest = checkpoint.newest_event.unwrap_or(checkpoint.updated_at);
    Gap { from: from.unwrap_or(newest).min(to), to }
}

/// How long something is held up.
fn tried(HeldUp { since, runs, .. }: &HeldUp) -> String {
    match runs {
        1 => ", for the first time".to_owned(),
        _ => format!(", in {runs} runs since {}", since.format("%F %R UTC")),
    }
}

/// So long after it was tried first.
fn time_after(held_up: &HeldUp, after: TimeDelta) -> String {
    held_up.due_at(after).unwrap_or(held_up.since).format("%F %R UTC").to_string()
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
