//! How each stream is, by what is in the store: read here, and judged in `seen.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Days, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::history::{History, KEPT_DAYS};
use super::seen::{RECENT_DAYS, Seen, is_ahead};
use crate::checkpoint::Checkpoint;
use crate::pipeline::{Gap, Hold, checkpoint_name};
use crate::quarantine::{Quarantine, in_quarantine, is_record};
use crate::schedule::Schedule;
use crate::store::{Store, StoreError};
use crate::version::{BUILD, warning};

/// The most objects of quarantine that are counted of a stream.
const MOST_COUNTED: usize = 10_000;
/// Of so many the reason is read.
const MOST_READ: usize = 200;
/// So many at once.
const AT_ONCE: usize = 16;

/// A source, as it is looked at.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name.
    pub source: &'static str,
    /// Its streams.
    pub streams: Vec<&'static str>,
    /// When it runs.
    pub schedule: Schedule,
}

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The last two days, and no reasons of quarantine: enough for each state. A run does it at its
    /// end.
    Glance,
    /// All that is kept.
    Whole,
}

/// How all streams are.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The program's version.
    pub version: &'static str,
    /// The same, with the hashes of the tables' columns and of the content; see [`crate::version`].
    pub build: &'static str,
    /// That of the template that was deployed, if it is known.
    pub template: Option<String>,
    /// What to know that is no failure: a template of another release.
    pub warnings: Vec<String>,
    /// When this was read.
    pub read_at: DateTime<Utc>,
    /// Where the state is.
    pub state_at: String,
    /// One for each stream.
    pub streams: Vec<StreamStatus>,
}

/// How a stream is.
#[derive(Clone, Debug, Serialize)]
pub struct StreamStatus {
    /// Its source.
    pub source: &'static str,
    /// Its name.
    pub stream: &'static str,
    /// In one word.
    pub state: State,
    /// Why it is not `Connected`.
    pub reason: Option<String>,
    /// What to do about it.
    pub fix: Option<String>,
    /// The code of the reason.
    pub code: Option<String>,
    /// When the newest run ended that did its work.
    pub last_success: Option<DateTime<Utc>>,
    /// The newest failure of the last 30 days, also if runs succeeded since.
    pub last_failure: Option<LastFailure>,
    /// The newest time of the last 30 days of which events may be missing for good.
    pub last_gap: Option<LastGap>,
    /// When the newest run ended that delivered rows.
    pub last_row: Option<DateTime<Utc>>,
    /// When the run began that is in progress.
    pub running_since: Option<DateTime<Utc>>,
    /// When the next one begins.
    pub next_run: Option<DateTime<Utc>>,
    /// Now less the time of the newest event that was delivered, in seconds.
    pub lag_seconds: Option<i64>,
    /// Rows delivered by runs that ended in the last 24 hours.
    pub rows_24h: u64,
    /// The same of the last 30 days.
    pub rows_30d: u64,
    /// `rows_24h` by hour, the last hour last.
    pub rows_by_hour: [u64; 24],
    /// `rows_30d` by 24 hours, the last last.
    pub rows_by_day: [u64; 30],
    /// What is in quarantine.
    pub quarantine: Quarantined,
    /// Batch files that wait in spill.
    pub files_waiting: u64,
    /// What keeps it from going on.
    pub held_up: Option<Hold>,
    /// Since when what is the reason lasts.
    #[serde(skip)]
    pub(super) since: Option<DateTime<Utc>>,
    /// Whether a person must act.
    #[serde(skip)]
    pub(super) person: bool,
    /// When each run ended that is known, and its rows delivered and quarantined.
    #[serde(skip)]
    pub(super) ended: Vec<(DateTime<Utc>, [u64; 2])>,
}

/// Of what time events may be missing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LastGap {
    /// When the run ended that found it.
    pub at: DateTime<Utc>,
    /// From when to when.
    #[serde(flatten)]
    pub gap: Gap,
}

/// A stream in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum State {
    /// No run has succeeded yet.
    Unavailable,
    /// It reads its first backlog.
    Connecting,
    /// It works.
    Connected,
    /// It works in part, or did a short while ago.
    Degraded,
    /// It does not work.
    Disconnected,
}

/// A failure and its time.
#[derive(Clone, Debug, Serialize)]
pub struct LastFailure {
    /// When the run ended that failed so; of one that was killed, when it began.
    pub at: DateTime<Utc>,
    /// One stable word.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub fix: String,
}

/// What is in quarantine of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// How many records there are; counted to 10,000.
    pub records: u64,
    /// How many there are for each reason, of the first 200.
    pub reasons: BTreeMap<String, u64>,
}

impl Quarantined {
    /// In words; a number is written as `number` does.
    pub(crate) fn words(&self, number: impl Fn(u64) -> String) -> String {
        let records = number(self.records);
        let more = if self.records < MOST_COUNTED as u64 { "" } else { " or more" };
        let reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let read: u64 = self.reasons.values().sum();
        match reasons.join(", ") {
            none if none.is_empty() => format!("{records}{more}"),
            all if read == self.records => format!("{records} ({all})"),
            some => format!("{records}{more} (of the first {read}: {some})"),
        }
    }
}

impl State {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "Unavailable",
            Self::Connecting => "Connecting",
            Self::Connected => "Connected",
            Self::Degraded => "Degraded",
            Self::Disconnected => "Disconnected",
        }
    }

    /// Whether nothing is wrong.
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Connecting | Self::Connected)
    }
}

impl Status {
    /// Reads how these sources are. `template` is what the environment has as
    /// [`crate::version::TEMPLATE`].
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn read(
        store: &Arc<dyn Store>,
        sources: &[Named],
        depth: Depth,
        template: Option<String>,
        now: DateTime<Utc>,
    ) -> Result<Self, StoreError> {
        let days = Days::new(if depth == Depth::Glance { RECENT_DAYS } else { KEPT_DAYS });
        let first = now.date_naive().checked_sub_days(days).unwrap_or_default();
        let mut streams = Vec::new();
        for named in sources {
            let mut runs = History::new(Arc::clone(store), named.source).since(first).await?;
            // Nobody knows when a run was whose clock was ahead: any other tells more of how it is now.
            runs.sort_by_key(|run| (!is_ahead(run, now), run.started_at));
            for stream in &named.streams {
                let has_delivered = has_delivered(store.as_ref(), stream).await?;
                let quarantine = quarantined(store, stream, depth).await?;
                let seen = Seen::of(&runs, named, stream, has_delivered, now);
                streams.push(seen.status(quarantine));
            }
        }
        let state_at = store.location();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            build: BUILD,
            warnings: warning(template.as_deref()).into_iter().collect(),
            template,
            read_at: now,
            state_at,
            streams,
        })
    }

    /// Whether nothing is wrong with any stream.
    pub fn is_fine(&self) -> bool {
        self.streams.iter().all(|stream| stream.state.is_fine())
    }
}

/// Whether its checkpoint has rows that were delivered. One that cannot be read has them: then a run
/// says what is wrong with it.
async fn has_delivered(store: &dyn Store, stream: &str) -> Result<bool, StoreError> {
    let Some(bytes) = store.read(&checkpoint_name(stream)).await? else { return Ok(false) };
    Ok(Checkpoint::parse(&bytes).map_or(true, |found| found.totals.rows_delivered > 0))
}

async fn quarantined(
    store: &Arc<dyn Store>,
    stream: &str,
    depth: Depth,
) -> Result<Quarantined, StoreError> {
    let quarantine = Quarantine::new(Arc::clone(store));
    let folder = in_quarantine(Some(stream));
    let names = quarantine.names(&folder).try_filter(|name| std::future::ready(is_record(name)));
    let mut names: Vec<String> = names.take(MOST_COUNTED).try_collect().await?;
    let records = names.len() as u64;
    names.truncate(if depth == Depth::Glance { 0 } else { MOST_READ });
    let mut reasons = BTreeMap::new();
    let mut found = stream::iter(names).map(|name| quarantine.read(name)).buffer_unordered(AT_ONCE);
    while let Some(found) = found.try_next().await? {
        let Some(found) = found else { continue };
        let reason = found.record.map_or_else(|_| "unreadable".into(), |record| record.reason);
        *reasons.entry(reason.into_owned()).or_insert(0) += 1;
    }
    Ok(Quarantined { records, reasons })
}

/// A length of time in its largest unit that it has two of.
pub fn length(time: TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
