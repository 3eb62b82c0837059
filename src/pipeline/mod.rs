//! One pull: pages → bodies → posts → progress. It knows no vendor.
//!
//! Follow an event in this order: [`source`] (what comes in), `stream` (the loop over pages),
//! `page`, `part` and `read` (files to bodies), [`body`], `deliver` (bodies to the [`sink`]), `ledger`
//! (progress). What lies in quarantine takes the same way from [`body`] on, by [`Replay`].

pub mod body;
pub mod buffers;
mod deflate;
mod deliver;
mod fault;
mod ledger;
mod outbox;
mod page;
mod part;
mod read;
mod replay;
mod resume;
pub mod sink;
pub mod source;
mod stream;
mod summary;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use fault::{Fault, Interrupt};
pub use replay::{Replay, ReplaySummary, StreamReplay};
pub use sink::Sink;
pub use source::Source;
pub use summary::{Counters, Gap, Outcome, RunSummary, StreamSummary, get};

use crate::quarantine::Quarantine;
use crate::seams::{Clock, Deadline, Random};
use crate::store::Store;
use outbox::Pool;
use stream::StreamPull;

/// How a run goes about its work.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long a run may read and post.
    pub run_time_limit: Duration,
    /// How much longer bodies in flight may take.
    pub grace: Duration,
    /// How a body is deflated: 0 (not at all) to 9.
    pub gzip_level: u32,
    /// Slots for bodies, of all streams, that are posted at the same time or not yet recorded. A
    /// body takes one for each 512 KiB that it holds, and one at least: 16 are 8 MiB.
    pub in_flight: usize,
    /// A body that has waited this long is posted though it is not full.
    pub body_wait: Duration,
    /// After so many events a reader looks whether its body has waited so long, and whether the run
    /// must stop. Both take longer than one would think: a clock and a lock are 1 % of an event.
    pub look_every: u64,
    /// The checkpoint is written after this many bodies at the latest,
    pub save_after_bodies: u32,
    /// or after this time.
    pub save_after: Duration,
    /// How long a lease that another holds is waited for.
    pub lease_wait: Duration,
    /// How often it is asked for meanwhile.
    pub lease_poll: Duration,
    /// The wait before a broken download is begun again, times the number of tries.
    pub download_pause: Duration,
    /// A body whose rows are all refused is taken for a sign of wrong settings so long, and for so
    /// many runs. Then it is quarantined, and the stream goes on.
    pub give_up_after: TimeDelta,
    /// See [`Policy::give_up_after`].
    pub give_up_runs: u32,
    /// A run ends after so many rows, as it does at its time limit: what somebody makes Mimecast send
    /// must not become a bill without end.
    pub max_rows: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            run_time_limit: Duration::from_secs(540),
            grace: Duration::from_secs(30),
            gzip_level: 2,
            in_flight: 16,
            body_wait: Duration::from_secs(5),
            look_every: 16,
            save_after_bodies: 16,
            save_after: Duration::from_secs(5),
            lease_wait: Duration::from_secs(60),
            lease_poll: Duration::from_secs(2),
            download_pause: Duration::from_secs(1),
            give_up_after: TimeDelta::hours(24),
            give_up_runs: 6,
            max_rows: 20_000_000,
        }
    }
}

/// A source, a sink and a store, wired together.
#[derive(Clone)]
pub struct Connector {
    /// Where events come from.
    pub source: Arc<dyn Source>,
    /// Where rows go.
    pub sink: Arc<dyn Sink>,
    /// Where checkpoints lie.
    pub store: Arc<dyn Store>,
    /// Where rows lie that could not be delivered.
    pub quarantine: Quarantine,
    /// How to go about it.
    pub policy: Policy,
    /// The wall clock.
    pub clock: Clock,
    /// Run ids.
    pub random: Random,
}

/// One run: what its streams share.
#[derive(Clone)]
struct Run {
    /// When nothing new may be read or posted.
    deadline: Deadline,
    /// Is cancelled then, or when somebody ends the run earlier.
    stop: CancellationToken,
    pool: Pool,
    rows_left: Arc<RowsLeft>,
    /// Whether the sink has accepted a row, of whatever stream.
    accepted: Arc<AtomicBool>,
    /// Cancels at the deadline, while it lives.
    _limit: Arc<AbortOnDropHandle<()>>,
}

impl Run {
    /// A run that begins now. `stop` ends it early.
    fn begin(policy: &Policy, stop: &CancellationToken) -> Self {
        let deadline = Deadline::after(policy.run_time_limit);
        let stop = stop.child_token();
        let cancelling = {
            let stop = stop.clone();
            async move {
                sleep_until(deadline.instant()).await;
                stop.cancel();
            }
        };
        let left = AtomicU64::new(policy.max_rows);
        Self {
            deadline,
            stop,
            pool: Pool::new(policy.in_flight),
            rows_left: Arc::new(RowsLeft { left, most: policy.max_rows }),
            accepted: Arc::default(),
            _limit: Arc::new(AbortOnDropHandle::new(tokio::spawn(cancelling))),
        }
    }
}

/// How many rows a run may still read, of all its streams.
struct RowsLeft {
    left: AtomicU64,
    most: u64,
}

impl RowsLeft {
    /// Whether the run has read as many as it may: what is read is delivered, and it ends.
    fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Counts rows that were read, and warns at the last one that the run may read.
    fn count(&self, rows: u64) {
        let less = |left: u64| Some(left.saturating_sub(rows));
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if before.is_ok_and(|before| (1..=rows).contains(&before)) {
            tracing::warn!(
                rows = self.most,
                "the run ends here, since it has read MAX_ROWS_PER_RUN rows; the next one goes on \
                 from the same line. Look what they are before you raise the setting"
            );
        }
    }
}

/// The name of a stream's checkpoint in the store.
pub fn checkpoint_name(stream: &str) -> String {
    format!("checkpoints/{stream}.json")
}

/// The counters of the streams of a run, by name: for whoever shows progress meanwhile.
pub type RunCounters = Vec<(String, Arc<Counters>)>;

impl Connector {
    /// Counters for [`Connector::run`].
    pub fn counters(&self) -> RunCounters {
        let streams = self.source.streams();
        streams.into_iter().map(|stream| (stream, Arc::default())).collect()
    }

    /// One run over all streams. `stop` ends it early, as the time limit does.
    pub async fn run(&self, counters: &RunCounters, stop: &CancellationToken) -> RunSummary {
        let started_at = self.clock.now();
        self.quarantine.count_anew().await;
        let run = Run::begin(&self.policy, stop);
        let pulls = counters.iter().map(|(stream, counters)| {
            let (run, counters) = (run.clone(), Arc::clone(counters));
            StreamPull { connector: self, stream, run, counters }.run()
        });
        let streams = join_all(pulls).await;
        let run_id = format!("{:032x}", self.random.bits());
        RunSummary::new(run_id, started_at, self.clock.now(), streams)
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("policy", &self.policy).finish_non_exhaustive()
    }
}
