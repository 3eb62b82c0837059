//! The run history: one object a day and source, `runs/<source>/<day>.json`, which each run writes at
//! its begin and at its end. A run that was killed is one without an end.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::pipeline::{Begun, Fault, Gap, Hold, Outcome, Policy, RunSummary, StreamSummary};
use crate::store::{Lease, Store, StoreError};

/// For how many days runs are kept, besides today.
pub(super) const KEPT_DAYS: u64 = 30;

/// The most runs that are kept of a day, 7 times as many as the shortest schedule has. Of one more,
/// the oldest gives its rows to the next: what a day delivered stays true.
const MOST_RUNS: usize = 1_000;

/// How long a write may take. A run does not wait longer for its history.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a run needs after its time limit and the grace of its posts, until it must have ended.
const RESERVE: TimeDelta = TimeDelta::seconds(60);

/// How many days are read at once.
const AT_ONCE: usize = 8;

/// The runs of a source.
#[derive(Clone)]
pub struct History {
    store: Arc<dyn Store>,
    source: String,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The id in its summary.
    pub run_id: String,
    /// The version of the program.
    pub version: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it must have ended: without an end by then, it was killed.
    pub ends_by: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Its streams.
    pub streams: Vec<StreamRecord>,
}

/// What a run did for one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// The stream.
    pub stream: String,
    /// How it ended; `None` if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Rows that the sink accepted.
    #[serde(default)]
    pub rows_delivered: u64,
    /// Events that went to quarantine instead.
    #[serde(default)]
    pub rows_quarantined: u64,
    /// The time of the newest event that was delivered, of this run or before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_event: Option<DateTime<Utc>>,
    /// Batch files that wait in spill.
    #[serde(default)]
    pub files_waiting: u64,
    /// What keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_up: Option<Hold>,
    /// Of what time events may be missing for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// A [`Fault`] that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its code.
    pub code: String,
    /// What happened, to which thing.
    pub message: String,
    /// What to do next.
    pub fix: String,
    /// Whether a person must do it before another run can do better.
    #[serde(default)]
    pub person: bool,
}

/// The runs of one day, oldest first: as they are stored, since a newer release may have written some that
/// this one does not understand.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Day {
    runs: Vec<Value>,
}

impl History {
    /// Of the source of this name.
    pub fn new(store: Arc<dyn Store>, source: &str) -> Self {
        Self { store, source: source.to_owned() }
    }

    /// Records that a run of these streams has begun, and removes what is older than 30 days if it is
    /// the first of its day. What cannot be written is written at the end.
    pub async fn begin<'a>(
        &self,
        begun: &Begun,
        policy: &Policy,
        streams: impl IntoIterator<Item = &'a str>,
    ) {
        let Begun { run_id, started_at } = begun.clone();
        let of = |name: &str| StreamRecord { stream: name.to_owned(), ..StreamRecord::default() };
        let time = TimeDelta::from_std(policy.run_time_limit + policy.grace).unwrap_or_default();
        let record = RunRecord {
            run_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at,
            ends_by: started_at.checked_add_signed(time + RESERVE).unwrap_or(started_at),
            finished_at: None,
            streams: streams.into_iter().map(of).collect(),
        };
        let written = timeout(PATIENCE, async {
            if self.put(record).await? {
                self.prune(started_at.date_naive()).await?;
            }
            Ok::<_, StoreError>(())
        });
        if let Ok(Err(error)) = written.await {
            tracing::debug!("the begin of the run is not in its history: {error}");
        }
    }

    /// Records how a run has ended.
    pub async fn end(&self, summary: &RunSummary) {
        let RunSummary { run_id, started_at, finished_at, outcome, streams, .. } = summary;
        let record = RunRecord {
            run_id: run_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: *started_at,
            ends_by: *finished_at,
            finished_at: Some(*finished_at),
            streams: streams
                .iter()
                .map(|summary| StreamRecord::of(summary, *finished_at))
                .collect(),
        };
        let written = timeout(PATIENCE, self.put(record)).await;
        let why = match written {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        // Of a run that has failed altogether the log has the reason, which is mostly the same.
        if outcome.is_done() {
            tracing::warn!(
                fix = "nothing is lost; check the place of CHECKPOINT_URL",
                "the run's end is not in its history, so `status` will take it for killed: {why}"
            );
        }
    }

    /// The runs that began since this day, oldest first. A day that cannot be read is left out, with a
    /// warning.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn since(&self, first: NaiveDate) -> Result<Vec<RunRecord>, StoreError> {
        let names = self.store.list(&self.folder()).await?;
        let names =
            names.into_iter().filter(|name| self.day_of(name).is_some_and(|day| day >= first));
        let read = stream::iter(names).map(|name| self.day(name)).buffered(AT_ONCE);
        let days: Vec<_> = read.try_collect().await?;
        Ok(days.into_iter().flatten().collect())
    }

    async fn day(&self, name: String) -> Result<Vec<RunRecord>, StoreError> {
        match self.store.read(&name).await {
            Ok(Some(bytes)) => Ok(self.parsed(&name, &bytes).records()),
            Ok(None) => Ok(Vec::new()),
            // As of a link that somebody planted: the other days are there.
            Err(error @ StoreError::Refused { .. }) => {
                tracing::warn!("a day of the run history counts as empty: {error}");
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// What cannot be read is as if it were not there: history is no progress.
    fn parsed(&self, name: &str, bytes: &[u8]) -> Day {
        serde_json::from_slice(bytes).unwrap_or_else(|error| {
            let location = self.store.location();
            tracing::warn!("{name} in {location} cannot be read and counts as empty: {error}");
            Day::default()
        })
    }

    /// Puts a run into its day, over the record of its begin. Says whether it is the day's first.
    async fn put(&self, record: RunRecord) -> Result<bool, StoreError> {
        let name = format!("{}{}.json", self.folder(), record.started_at.date_naive());
        // Another connector may be writing its own run there, which takes milliseconds.
        let mut lease = loop {
            match self.store.lease(&name).await? {
                Some(lease) => break lease,
                None => sleep(Duration::from_millis(200)).await,
            }
        };
        let written = self.put_leased(&name, record, lease.as_mut()).await;
        lease.release().await?;
        written
    }

    async fn put_leased(
        &self,
        name: &str,
        record: RunRecord,
        lease: &mut dyn Lease,
    ) -> Result<bool, StoreError> {
        let before = lease.read().await?;
        let mut day = before.as_ref().map_or_else(Day::default, |bytes| self.parsed(name, bytes));
        let first = day.runs.is_empty();
        let stored = json!(record);
        match day.runs.iter_mut().find(|run| run["run_id"] == stored["run_id"]) {
            Some(begun) => *begun = stored,
            None => day.runs.push(stored),
        }
        day.shorten();
        // Strings, numbers and times: nothing in it can fail to serialise.
        let mut bytes = serde_json::to_vec(&day).unwrap_or_default();
        bytes.push(b'\n');
        lease.write(bytes.into()).await?;
        Ok(first)
    }

    async fn prune(&self, today: NaiveDate) -> Result<(), StoreError> {
        let first = first_kept(today);
        for name in self.store.list(&self.folder()).await? {
            if self.day_of(&name).is_some_and(|day| day < first) {
                self.store.delete(&name).await?;
            }
        }
        Ok(())
    }

    fn folder(&self) -> String {
        format!("runs/{}/", self.source)
    }

    fn day_of(&self, name: &str) -> Option<NaiveDate> {
        name.strip_prefix(&self.folder())?.strip_suffix(".json")?.parse().ok()
    }
}

fn first_kept(today: NaiveDate) -> NaiveDate {
    today.checked_sub_days(Days::new(KEPT_DAYS)).unwrap_or(today)
}

impl Day {
    fn records(self) -> Vec<RunRecord> {
        self.runs.into_iter().filter_map(|run| serde_json::from_value(run).ok()).collect()
    }

    fn shorten(&mut self) {
        let Some(over) = self.runs.len().checked_sub(MOST_RUNS).filter(|over| *over > 0) else {
            return;
        };
        let dropped = Self { runs: self.runs.drain(..over).collect() }.records();
        let Some(first) = self.runs.first_mut() else { return };
        let Ok(mut oldest) = RunRecord::deserialize(&*first) else { return };
        for stream in dropped.into_iter().flat_map(|run| run.streams) {
            let of = oldest.streams.iter_mut().find(|other| other.stream == stream.stream);
            if let Some(of) = of {
                of.rows_delivered = of.rows_delivered.saturating_add(stream.rows_delivered);
                of.rows_quarantined = of.rows_quarantined.saturating_add(stream.rows_quarantined);
            }
        }
        *first = json!(oldest);
    }
}

impl StreamRecord {
    fn of(summary: &StreamSummary, finished_at: DateTime<Utc>) -> Self {
        let newest = |lag| finished_at.checked_sub_signed(TimeDelta::try_seconds(lag)?);
        Self {
            stream: summary.stream.clone(),
            outcome: Some(summary.outcome),
            rows_delivered: summary.rows_delivered,
            rows_quarantined: summary.rows_quarantined,
            newest_event: summary.lag_seconds.and_then(newest),
            files_waiting: summary.files_waiting,
            held_up: summary.held_up.clone(),
            gap: summary.gap,
            error: summary.error.as_ref().map(Failure::of),
        }
    }
}

impl Failure {
    fn of(fault: &Fault) -> Self {
        Self {
            code: fault.code.to_string(),
            message: fault.message.clone(),
            fix: fault.fix.clone(),
            person: fault.settings,
        }
    }
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.folder(), self.store.location())
    }
}
