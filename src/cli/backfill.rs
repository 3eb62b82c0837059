//! `backfill`: delivers once more what Mimecast still keeps from a day on, beside the schedule.
//!
//! It is a run like any other, with checkpoints of its own below `backfill/`, so that the schedule's are
//! not touched. What is to be remembered beyond them is its job: `backfill_job.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use clap::{Arg, Args};
use indicatif::HumanCount;

use super::backfill_job::{Calls, Job, OpenJob, so_far};
use super::dry_run;
use super::logs::Stdout;
use super::output::{note, say};
use super::progress::{self, Done};
use super::report::report;
use super::signals::stop_on_signal;
use super::state::{confirmed, failed};
use super::status::template_version;
use super::wiring::Wiring;
use super::{CommandError, DONE, begin};
use crate::health::{Depth, Named, Status};
use crate::pipeline::{Live, checkpoint_name};
use crate::schedule::Schedule;
use crate::seams::{Clock, spawn_blocking};
use crate::settings::{
    DryRunSettings, EVENT_TYPES, MimecastSettings, RawSettings, Settings, process_env,
};
use crate::sources::mimecast::SOURCE;
use crate::store::{Below, Store};

/// Where its checkpoints and its job are, below `CHECKPOINT_URL`.
pub(super) const FOLDER: &str = "backfill";

/// It goes on until it has caught up: longer than Mimecast keeps anything.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Listing calls in 15 minutes, beside those of the schedule.
const CALLS: u32 = 8;

/// Mimecast's own limit on those of both.
const MOST_CALLS: u32 = 50;

/// Bytes of a row, and what a GB of rows costs: `row_bytes` and the range of `ingest_usd` in
/// docs/SCALE.md.
const ROW_BYTES: f64 = 816.0;
const USD_PER_GB: [f64; 2] = [4.0, 6.0];

pub(super) const HELP: &str = "\
It reads everything since that day that Mimecast still keeps, which is about a week, until it has caught \
up. All of it comes again: the parser shows each event once, and each row is billed again. It leaves the \
checkpoints of the schedule alone, and goes on beside it, on any machine that has the same CHECKPOINT_URL, \
with at most 8 listing calls in 15 minutes. Stopped or killed, it goes on where it was when it is called \
again with the same day.

Exit codes:
  0  done, or stopped by a signal: called again it goes on
  1  nothing could be done
  2  wrong settings or usage
  3  some streams failed, the others did their work";

/// Deliver once more, from a day on, what Mimecast still keeps, beside the schedule
#[derive(Args, Debug)]
#[command(mut_args = without_its_own)]
pub(super) struct Backfill {
    /// The first day, in UTC, as YYYY-MM-DD
    #[arg(long, value_name = "DAY")]
    from: NaiveDate,
    /// This stream alone
    #[arg(long, value_name = "STREAM", value_parser = EVENT_TYPES)]
    stream: Option<String>,
    /// Print the rows as NDJSON on stdout and the summary on stderr; post nothing, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Forget a backfill from another day that was not finished
    #[arg(long, conflicts_with = "dry_run")]
    restart: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    settings: RawSettings,
}

/// Hides the settings that its flags stand for, and those of what it does not do.
fn without_its_own(arg: Arg) -> Arg {
    const HIDDEN: [&str; 9] = [
        "start_date",
        "mimecast_types",
        "mimecast_calls_per_15_minutes",
        "schedule",
        "run_time_limit_seconds",
        "give_up_after_hours",
        "spill_after_hours",
        "spill_max_bytes",
        "listen",
    ];
    let hidden = HIDDEN.contains(&arg.get_id().as_str());
    if hidden { arg.hide(true) } else { arg }
}

impl Backfill {
    pub(super) async fn run(mut self) -> Result<u8, CommandError> {
        begin(&self.settings, if self.dry_run { Stdout::Taken } else { Stdout::Logs });
        let today = Clock::system().now().date_naive();
        if self.from > today {
            return Err(CommandError::Usage(format!(
                "--from {} is in the future: give a day of the last week",
                self.from
            )));
        }
        // Of the others there is nothing that could be delivered once more.
        self.settings.sources = Some(SOURCE.to_owned());
        self.settings.start_date = Some(self.from.to_string());
        if let Some(stream) = &self.stream {
            self.settings.mimecast_types = Some(stream.clone());
        }
        if self.dry_run { self.print(today).await } else { self.deliver(today).await }
    }

    async fn print(self, today: NaiveDate) -> Result<u8, CommandError> {
        let mut settings = DryRunSettings::resolve(&self.settings, &process_env, today)?;
        settings.mimecast.calls_per_15_minutes =
            calls_beside(settings.mimecast.calls_per_15_minutes);
        settings.run_time_limit = TIME_LIMIT;
        dry_run::print(&settings, show).await
    }

    async fn deliver(self, today: NaiveDate) -> Result<u8, CommandError> {
        let settings = Settings::resolve(&self.settings, &process_env, today)?;
        let Some(mut mimecast) = settings.mimecast.clone() else {
            return Err(CommandError::Usage(format!("{SOURCE} is off")));
        };
        for warning in &settings.state.warnings {
            tracing::warn!("{warning}");
        }
        mimecast.calls_per_15_minutes = calls_beside(mimecast.calls_per_15_minutes);
        let wiring = Wiring::of(&settings)?;
        let base = wiring.store(&settings.state.location)?;
        let store: Arc<dyn Store> = Arc::new(Below::new(Arc::clone(&base), FOLDER));
        let mut job = OpenJob::take(&store).await?;
        let may_begin =
            self.may_begin(&mut job.job, [&base, &store], &mut mimecast, &settings.schedule);
        match may_begin.await {
            Ok(true) => {}
            // Not only dropped: a blob's lease would hold up the next one for a minute.
            ended => {
                job.release().await;
                return ended.map(|_| DONE);
            }
        }
        job.job.from = Some(self.from);
        job.job.streams.extend(mimecast.types.iter().map(|stream| (*stream).to_owned()));
        job.write().await.map_err(failed)?;
        let log = Arc::new(Calls::new(job, wiring.clock.clone()));
        let connector = wiring.backfill(base, &mimecast, &settings, Arc::<Calls>::clone(&log));
        let (summaries, stop) = (connector.summaries(), stop_on_signal());
        // Nobody else sets it.
        drop(log.summaries.set(summaries.clone()));
        let shown = show(&summaries);
        let mut summary = connector.run(connector.begin(), &summaries, &stop).await;
        drop(shown);
        // That of the schedule is another.
        summary.first_run = false;
        say(&report(&summary, "delivered"))?;
        let left = log.close(&summary, store.as_ref()).await?;
        note(&self.end(&mimecast.types, &left));
        Ok(summary.exit_code())
    }

    /// Goes on with one that was begun, whose streams are those of the settings then; or forgets it, and
    /// asks whether to begin.
    async fn may_begin(
        &self,
        job: &mut Job,
        [base, store]: [&Arc<dyn Store>; 2],
        mimecast: &mut MimecastSettings,
        schedule: &Schedule,
    ) -> Result<bool, CommandError> {
        if self.takes_up(job, store.as_ref(), mimecast)? {
            return Ok(true);
        }
        let named =
            Named { source: SOURCE, streams: mimecast.types.clone(), schedule: schedule.clone() };
        let words = self.what_it_costs(base, named, Clock::system().now()).await?;
        note(&words);
        // On a thread of its own: meanwhile the lease is renewed on this one.
        let asked = async { spawn_blocking(|| confirmed("Begin?")).await.map_err(failed)? };
        if !self.yes && !asked.await? {
            note("nothing was changed");
            return Ok(false);
        }
        // Of one that is forgotten, or was killed at its end.
        let old = if self.restart { &EVENT_TYPES[..] } else { &mimecast.types[..] };
        for stream in old {
            store.delete(&checkpoint_name(stream)).await.map_err(failed)?;
        }
        if self.restart {
            job.streams.clear();
        }
        Ok(true)
    }

    /// Whether it goes on with one that was begun; the streams are that one's then.
    fn takes_up(
        &self,
        job: &Job,
        store: &dyn Store,
        mimecast: &mut MimecastSettings,
    ) -> Result<bool, CommandError> {
        let Some(from) = job.from.filter(|_| !self.restart) else { return Ok(false) };
        if from != self.from {
            return Err(CommandError::Usage(format!(
                "a backfill since {from} is not finished in {}: `--from {from}` goes on with it, \
                 `--restart` forgets it",
                store.location()
            )));
        }
        let known = |stream: &&String| EVENT_TYPES.contains(&stream.as_str());
        if let Some(stream) = job.streams.iter().find(|stream| !known(stream)) {
            return Err(CommandError::Usage(format!(
                "the backfill in {} is one of {stream:?} too, which this release does not know: go on with \
                 the release that began it, or forget it by `--restart`",
                store.location()
            )));
        }
        let streams = &mut mimecast.types;
        let begun = |stream: &&'static str| job.streams.contains(*stream);
        let (begun, others): (Vec<_>, Vec<_>) = streams.iter().copied().partition(begun);
        if begun.is_empty() {
            return Ok(false);
        }
        note(&format!("goes on with the backfill of {} since {from}", begun.join(", ")));
        if !others.is_empty() {
            note(&format!("{} had caught up before, or was not asked for", others.join(", ")));
        }
        *streams = begun;
        Ok(true)
    }

    /// What comes again, and what that costs by the figures of the last days.
    async fn what_it_costs(
        &self,
        store: &Arc<dyn Store>,
        named: Named,
        now: DateTime<Utc>,
    ) -> Result<String, CommandError> {
        let streams = named.streams.join(", ");
        let named = [named];
        let status = Status::read(store, &named, Depth::Whole, template_version(), now);
        let status = status.await.map_err(failed)?;
        let by_day = |day: usize| status.streams.iter().map(|of| of.rows_by_day[day]).sum::<u64>();
        // The last 7, the newest last; without those before the first run.
        let days: Vec<u64> = (23..30).map(by_day).skip_while(|rows| *rows == 0).collect();
        let cost = match days.len() as u64 {
            0 => "No rows were delivered in the last week, so that nothing can be said of how many these \
                  are."
                .to_owned(),
            known => {
                let a_day = days.iter().sum::<u64>() / known;
                let rows = a_day * days_since(self.from, now);
                let gb = rows as f64 * ROW_BYTES / 1e9;
                let [least, most] = USD_PER_GB.map(|usd| gb * usd);
                format!(
                    "By the rows of the last {known} days, {} a day, they are about {}: {gb:.2} GB, some \
                     {least:.2} to {most:.2} USD.",
                    HumanCount(a_day),
                    HumanCount(rows)
                )
            }
        };
        Ok(format!(
            "All rows of {streams} since {} that Mimecast still keeps are delivered again, until now: the \
             parser shows each event once, and each row is billed again. {cost}",
            self.from
        ))
    }

    /// What is said at the end, by the streams of this run and those that have not caught up.
    fn end(&self, streams: &[&'static str], left: &BTreeSet<String>) -> String {
        let from = self.from;
        if left.is_empty() {
            return format!("the backfill of {} since {from} is done", streams.join(", "));
        }
        let left: Vec<&str> = left.iter().map(String::as_str).collect();
        format!(
            "the backfill of {} since {from} is not done: called again with --from {from} it goes on",
            left.join(", ")
        )
    }
}

/// How many listing calls it makes in 15 minutes, beside so many of the schedule's.
fn calls_beside(schedule: u32) -> u32 {
    MOST_CALLS.saturating_sub(schedule).clamp(1, CALLS)
}

/// Days of which there are events, with today; Mimecast keeps about a week.
fn days_since(from: NaiveDate, now: DateTime<Utc>) -> u64 {
    let days = (now.date_naive() - from).num_days() + 1;
    u64::try_from(days.clamp(1, 8)).unwrap_or(1)
}

/// Shows how far it is, until it is dropped.
fn show(summaries: &[Live]) -> impl Sized + use<> {
    let summaries = summaries.to_vec();
    progress::show(None, move || {
        let (files, rows, newest) = so_far(&summaries);
        let newest = newest.map(|newest| format!(", newest event {newest}"));
        let text = format!(
            "{} files, {} rows{}",
            HumanCount(files),
            HumanCount(rows),
            newest.unwrap_or_default()
        );
        Done { rows, text }
    })
}
