//! What the runs of a stream say of it: its state, and why. A pure function of records and a time.
//!
//! | state | when |
//! |---|---|
//! | `Unavailable` | no run has succeeded yet |
//! | `Connecting` | it reads a backlog: its newest run that succeeded has not come to its end, and none in two days before it |
//! | `Connected` | the last run succeeded, also if there was nothing new |
//! | `Degraded` | a failure that may pass, for less than an hour; a batch file that is left aside; files that wait in spill |
//! | `Disconnected` | a failure that a person must fix, or that lasts for an hour; no run though the schedule has one |

use chrono::{DateTime, TimeDelta, Utc};

use super::history::{Failure, RunRecord, StreamRecord};
use super::status::{LastFailure, LastGap, Named, Quarantined, State, StreamStatus};
use crate::codes::Code;
use crate::pipeline::Outcome;

/// After this time what may pass counts as not passing, and a run that the schedule has as missing.
pub(super) const PATIENCE: TimeDelta = TimeDelta::minutes(60);

/// So many days are enough to see how a stream is.
pub(super) const RECENT_DAYS: u64 = 2;

/// What goes wrong since when.
#[derive(Clone)]
struct Trouble {
    since: DateTime<Utc>,
    failure: Failure,
}

/// What the runs say of a stream, one after the other.
pub(super) struct Seen<'a> {
    named: &'a Named,
    now: DateTime<Utc>,
    stream: &'static str,
    has_delivered: bool,
    last_begin: Option<DateTime<Utc>>,
    running_since: Option<DateTime<Utc>>,
    last_success: Option<DateTime<Utc>>,
    last_row: Option<DateTime<Utc>>,
    last_failure: Option<LastFailure>,
    last_gap: Option<LastGap>,
    /// The failures since the last success.
    trouble: Option<Trouble>,
    /// When the newest run ended that came to the end of what there is.
    caught_up: Option<DateTime<Utc>>,
    latest: Option<StreamRecord>,
    ended: Vec<(DateTime<Utc>, [u64; 2])>,
    by_hour: [u64; 24],
    by_day: [u64; 30],
}

impl<'a> Seen<'a> {
    /// By the runs of its source, oldest first.
    pub(super) fn of(
        runs: &[RunRecord],
        named: &'a Named,
        stream: &'static str,
        has_delivered: bool,
        now: DateTime<Utc>,
    ) -> Self {
        let mut seen = Self {
            named,
            now,
            stream,
            has_delivered,
            last_begin: None,
            running_since: None,
            last_success: None,
            last_row: None,
            last_failure: None,
            last_gap: None,
            trouble: None,
            caught_up: None,
            latest: None,
            ended: Vec::new(),
            by_hour: [0; 24],
            by_day: [0; 30],
        };
        for run in runs {
            if let Some(record) = run.streams.iter().find(|record| record.stream == stream) {
                seen.add(run, record);
            }
        }
        seen
    }

    fn add(&mut self, run: &RunRecord, record: &StreamRecord) {
        self.last_begin = Some(run.started_at.min(self.now));
        let Some(finished) = run.finished_at else {
            if self.now <= run.ends_by && !is_ahead(run, self.now) {
                self.running_since = Some(run.started_at);
            } else {
                self.fail(run.started_at, killed(run));
            }
            return;
        };
        if let Some(gap) = record.gap {
            self.last_gap = Some(LastGap { at: finished, gap });
        }
        match (record.outcome, &record.error) {
            (Some(Outcome::Failed | Outcome::Partial), Some(failure)) => {
                self.fail(finished, failure.clone());
            }
            (Some(outcome), _) if outcome.is_done() => {
                self.last_success = Some(finished);
                self.trouble = None;
                if outcome == Outcome::CaughtUp {
                    self.caught_up = Some(finished);
                }
            }
            // Of one that is busy another does the work, and has a record of its own.
            _ => return,
        }
        // Two do not work at a stream at once, so one that began before was killed.
        self.running_since = None;
        self.count(finished, record.rows_delivered);
        self.ended.push((finished, [record.rows_delivered, record.rows_quarantined]));
        self.latest = Some(record.clone());
    }

    fn fail(&mut self, at: DateTime<Utc>, failure: Failure) {
        let Failure { code, message, fix, .. } = failure.clone();
        self.last_failure = Some(LastFailure { at, code, message, fix });
        let since = self.trouble.as_ref().map_or(at, |before| before.since);
        self.trouble = Some(Trouble { since, failure });
    }

    fn count(&mut self, finished: DateTime<Utc>, rows: u64) {
        if rows > 0 {
            self.last_row = Some(finished);
        }
        // A clock that was ahead counts as now.
        let ago = (self.now - finished).max(TimeDelta::zero());
        for (bucket, of) in [
            (ago.num_hours(), self.by_hour.as_mut_slice()),
            (ago.num_days(), self.by_day.as_mut_slice()),
        ] {
            let bucket =
                usize::try_from(bucket).ok().and_then(|ago| (of.len() - 1).checked_sub(ago));
            if let Some(sum) = bucket.and_then(|at| of.get_mut(at)) {
                *sum = sum.saturating_add(rows);
            }
        }
    }

    fn has_worked(&self) -> bool {
        self.last_success.is_some() || self.has_delivered
    }

    /// Whether a run has come to the end of what there is, not long before the last success: a schedule
    /// may have days between two runs.
    fn has_caught_up(&self) -> bool {
        let recent = TimeDelta::days(RECENT_DAYS as i64);
        let pair = self.last_success.zip(self.caught_up);
        pair.is_some_and(|(last, caught_up)| last - caught_up < recent)
    }

    /// Its state, and why.
    fn state(&self) -> (State, Option<Trouble>) {
        if let Some(missing) = self.missing_run() {
            return (State::Disconnected, Some(missing));
        }
        let latest = self.latest.as_ref();
        match &self.trouble {
            Some(trouble) => {
                let lasts = self.now - trouble.since >= PATIENCE;
                let state = match self.has_worked() {
                    _ if self.is_left_aside(&trouble.failure) => State::Degraded,
                    false => State::Unavailable,
                    true if trouble.failure.person || lasts => State::Disconnected,
                    true => State::Degraded,
                };
                (state, Some(trouble.clone()))
            }
            None if !self.has_worked() => (State::Unavailable, None),
            None => match latest.map_or(0, |latest| latest.files_waiting) {
                0 if self.has_caught_up() => (State::Connected, None),
                0 => (State::Connecting, None),
                waiting => (State::Degraded, Some(self.spilled(waiting))),
            },
        }
    }

    /// Whether nothing but a file fails that is held up: the rest of its page is delivered, and it will be
    /// passed. Beside such a file all else can fail too, as a secret.
    fn is_left_aside(&self, failure: &Failure) -> bool {
        let held_up = self.latest.as_ref().and_then(|latest| latest.held_up.as_ref());
        let of_a_file = [
            Code::FileForbidden,
            Code::FileUnreachable,
            Code::FileUnreadable,
            Code::FileAddressRefused,
        ];
        held_up.is_some_and(|held_up| held_up.passed_at.is_some())
            && of_a_file.iter().any(|code| code.as_str() == failure.code)
    }

    /// The schedule had two runs since the last one, and the second is overdue.
    fn missing_run(&self) -> Option<Trouble> {
        let failure = |message| Failure {
            code: Code::NoRun.to_string(),
            message,
            fix:
                "check that the function app is running, that its function CloudIntegrated is not \
                  disabled and that SCHEDULE is set, and look into its log; elsewhere, that \
                  `mimecast-sentinel serve` runs, or what starts `pull`, and that SCHEDULE is what \
                  starts it"
                    .to_owned(),
            person: true,
        };
        let Some(last) = self.last_begin else {
            let message = "no run is recorded".to_owned();
            let since = self.now;
            return self.has_delivered.then(|| Trouble { since, failure: failure(message) });
        };
        let after = |time: DateTime<Utc>| self.named.schedule.after(time);
        let since = after(last)?;
        let overdue = after(since)?.checked_add_signed(PATIENCE)? < self.now;
        let message = || {
            let last = last.format("%F %R");
            format!("no run has begun since {last} UTC; the schedule is `{}`", self.named.schedule)
        };
        (overdue && self.running_since.is_none())
            .then(|| Trouble { since, failure: failure(message()) })
    }

    fn spilled(&self, waiting: u64) -> Trouble {
        let failure = Failure {
            code: Code::FilesWaiting.to_string(),
            message: format!("{waiting} batch files were kept while the destination was down"),
            fix: "nothing is lost: the next runs deliver them before anything new".to_owned(),
            person: false,
        };
        Trouble { since: self.last_success.unwrap_or(self.now), failure }
    }

    pub(super) fn status(self, quarantine: Quarantined) -> StreamStatus {
        let (state, trouble) = self.state();
        let (failure, since) = trouble.map(|Trouble { since, failure }| (failure, since)).unzip();
        let person = failure.as_ref().is_some_and(|failure| failure.person);
        let (reason, fix, code) = match failure {
            Some(Failure { code, message, fix, .. }) => (Some(message), Some(fix), Some(code)),
            None if self.running_since.is_some() && state == State::Unavailable => {
                (Some("its first run is in progress".to_owned()), None, None)
            }
            None if state == State::Unavailable => {
                let fix = "start one with `mimecast-sentinel pull`, or wait for the next tick; if \
                           there should be some, check CHECKPOINT_URL";
                (Some("no run is recorded".to_owned()), Some(fix.to_owned()), None)
            }
            None => (None, None, None),
        };
        let newest = self.latest.as_ref().and_then(|latest| latest.newest_event);
        StreamStatus {
            source: self.named.source,
            stream: self.stream,
            state,
            reason,
            fix,
            code,
            last_success: self.last_success,
            last_failure: self.last_failure,
            last_gap: self.last_gap,
            last_row: self.last_row,
            running_since: self.running_since,
            next_run: self.named.schedule.after(self.now),
            lag_seconds: newest.map(|newest| (self.now - newest).num_seconds()),
            rows_24h: sum(&self.by_hour),
            rows_30d: sum(&self.by_day),
            rows_by_hour: self.by_hour,
            rows_by_day: self.by_day,
            quarantine,
            files_waiting: self.latest.as_ref().map_or(0, |latest| latest.files_waiting),
            held_up: self.latest.as_ref().and_then(|latest| latest.held_up.clone()),
            since,
            person,
            ended: self.ended,
        }
    }
}

/// The sum of what is stored, and may be any numbers.
pub(super) fn sum(rows: &[u64]) -> u64 {
    rows.iter().fold(0, |sum, rows| sum.saturating_add(*rows))
}

/// Whether the clock was ahead when a run began; by less, another machine's may be.
pub(super) fn is_ahead(run: &RunRecord, now: DateTime<Utc>) -> bool {
    run.started_at - now > PATIENCE
}

fn killed(run: &RunRecord) -> Failure {
    let began = run.started_at.format("%F %T");
    Failure {
        code: Code::RunKilled.to_string(),
        message: format!("the run that began at {began} UTC has left no end: it was killed"),
        fix: "nothing is lost; if it comes again, look into the log of the host and of this machine \
              for why: too little memory, a function timeout below RUN_TIME_LIMIT_SECONDS, a restart"
            .to_owned(),
        person: false,
    }
}
