//! What is remembered of a backfill beyond its checkpoints: its day, its streams, and its listing calls, by
//! which it keeps to the pace whoever runs it where.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::CommandError;
use super::state::failed;
use crate::codes::Code;
use crate::pipeline::{Fault, Interrupt, Live, Outcome, RunSummary, checkpoint_name};
use crate::seams::{Clock, spawn};
use crate::sources::mimecast::CallLog;
use crate::store::{Lease, Store, StoreError};

/// Its name, in the folder of backfills.
const JOB: &str = "job.json";

/// What Mimecast counts calls in.
const WINDOW: TimeDelta = TimeDelta::minutes(15);

/// What is remembered, in `backfill/job.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Job {
    /// Its first day; none is begun without it.
    pub(super) from: Option<NaiveDate>,
    /// The streams that have not caught up.
    pub(super) streams: BTreeSet<String>,
    /// When the listing calls of the last 15 minutes began, whoever made them.
    calls: Vec<DateTime<Utc>>,
}

/// A job under its lease: there is one backfill at a time.
pub(super) struct OpenJob {
    pub(super) job: Job,
    lease: Box<dyn Lease>,
}

impl OpenJob {
    pub(super) async fn take(store: &Arc<dyn Store>) -> Result<Self, CommandError> {
        let at = store.location();
        let mut lease = store.lease(JOB).await.map_err(failed)?.ok_or_else(|| {
            CommandError::Failed(format!(
                "another backfill is in progress in {at}, or was killed less than a minute ago: wait until \
                 it has ended"
            ))
        })?;
        let job = match lease.read().await {
            Ok(bytes) => {
                bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|error| {
                    failed(format!("{at}/{JOB} cannot be read: {error}; remove {at} to begin anew"))
                })
            }
            Err(error) => Err(failed(error)),
        };
        match job {
            Ok(job) => Ok(Self { job: job.unwrap_or_default(), lease }),
            Err(error) => {
                release(lease).await;
                Err(error)
            }
        }
    }

    pub(super) async fn write(&mut self) -> Result<(), StoreError> {
        // Strings, dates and a list: nothing in it can fail to serialise.
        let bytes = serde_json::to_vec_pretty(&self.job).unwrap_or_default();
        let written = self.lease.write(bytes.into()).await;
        if written.is_err() {
            // It may have been written all the same, and the next write must know what is there.
            drop(self.lease.read().await);
        }
        written
    }

    pub(super) async fn release(self) {
        release(self.lease).await;
    }
}

async fn release(lease: Box<dyn Lease>) {
    if let Err(error) = lease.release().await {
        tracing::debug!(%error, "the lease runs out by itself");
    }
}

/// Remembers each listing call in the job before it is made, and says how far the backfill is.
pub(super) struct Calls {
    job: Arc<Mutex<Option<OpenJob>>>,
    ago: Vec<Duration>,
    clock: Clock,
    /// How far the backfill is, once it has begun.
    pub(super) summaries: OnceLock<Vec<Live>>,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").field("ago", &self.ago).finish_non_exhaustive()
    }
}

impl Calls {
    pub(super) fn new(job: OpenJob, clock: Clock) -> Self {
        let now = clock.now();
        // By a clock that was ahead, one may be of the future: it counts as one of now.
        let ago = job.job.calls.iter().map(|at| (now - *at).to_std().unwrap_or_default()).collect();
        Self { job: Arc::new(Mutex::new(Some(job))), ago, clock, summaries: OnceLock::new() }
    }

    /// Forgets the streams that have caught up, and says which have not.
    pub(super) async fn close(
        &self,
        summary: &RunSummary,
        store: &dyn Store,
    ) -> Result<BTreeSet<String>, CommandError> {
        let Some(mut job) = self.job.lock().await.take() else { return Ok(BTreeSet::new()) };
        let caught_up = summary.streams.iter().filter(|of| of.outcome == Outcome::CaughtUp);
        let caught_up: Vec<&str> = caught_up.map(|of| of.stream.as_str()).collect();
        job.job.streams.retain(|stream| !caught_up.contains(&stream.as_str()));
        if job.job.streams.is_empty() {
            job.job.from = None;
        }
        job.write().await.map_err(failed)?;
        for stream in caught_up {
            store.delete(&checkpoint_name(stream)).await.map_err(failed)?;
        }
        let left = std::mem::take(&mut job.job.streams);
        job.release().await;
        Ok(left)
    }
}

#[async_trait]
impl CallLog for Calls {
    fn ago(&self) -> Vec<Duration> {
        self.ago.clone()
    }

    async fn begin(&self) -> Result<(), Interrupt> {
        let (job, now) = (Arc::clone(&self.job).lock_owned().await, self.clock.now());
        // A task of its own: of a write that is broken off nobody knows whether it was done, and the next
        // one would find that the job has changed.
        spawn(note_call(job, now)).await.map_err(|error| {
            Fault::passing(
                Code::Internal,
                format!("an internal step failed: {error}"),
                "this is a bug; please report it with this log line",
            )
        })??;
        let (files, rows, newest_event) = so_far(self.summaries.get().map_or(&[], Vec::as_slice));
        tracing::info!(files, rows, newest_event, "the backfill lists the next batch files");
        Ok(())
    }
}

async fn note_call(
    mut open: OwnedMutexGuard<Option<OpenJob>>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let Some(open) = open.as_mut() else { return Ok(()) };
    let calls = &mut open.job.calls;
    calls.retain(|at| now - *at < WINDOW);
    for at in calls.iter_mut() {
        // By a clock that was ahead it may be of the future: it counts as one of now.
        *at = now.min(*at);
    }
    calls.push(now);
    open.write().await
}

/// Files, rows, and the time of the newest event.
pub(super) fn so_far(summaries: &[Live]) -> (u64, u64, Option<String>) {
    let each = summaries.iter().map(|summary| {
        summary.with(|summary| (summary.files, summary.rows_delivered, summary.newest_ms))
    });
    let (files, rows, newest) = each.fold((0, 0, None), |(a, b, c), (files, rows, newest)| {
        (a + files, b + rows, c.max(newest))
    });
    let newest = newest.and_then(DateTime::from_timestamp_millis);
    (files, rows, newest.map(|newest| newest.format("%F %R UTC").to_string()))
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::poll;

    use super::*;
    use crate::store::FolderStore;

    async fn calls_at(folder: &std::path::Path, clock: Clock) -> Calls {
        let store: Arc<dyn Store> = Arc::new(FolderStore::new(folder));
        Calls::new(OpenJob::take(&store).await.unwrap(), clock)
    }

    async fn noted(calls: &Calls) -> Vec<DateTime<Utc>> {
        calls.job.lock().await.as_ref().unwrap().job.calls.clone()
    }

    #[tokio::test]
    async fn a_call_that_is_broken_off_does_not_break_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let calls = calls_at(folder.path(), Clock::system()).await;
        for begun in 0..3 {
            {
                let begin = calls.begin();
                tokio::pin!(begin);
                assert!(matches!(poll!(begin), Poll::Pending));
            }
            calls.begin().await.unwrap();
            assert_eq!(noted(&calls).await.len(), 2 * (begun + 1));
        }
    }

    #[tokio::test]
    async fn calls_by_a_clock_that_was_ahead_are_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let calls = calls_at(folder.path(), Clock::from_fn(move || now)).await;
        let at = [TimeDelta::minutes(-16), TimeDelta::minutes(-14), TimeDelta::hours(1)];
        calls.job.lock().await.as_mut().unwrap().job.calls = at.map(|ago| now + ago).to_vec();
        calls.begin().await.unwrap();
        assert_eq!(noted(&calls).await, [now - TimeDelta::minutes(14), now, now]);
    }
}
