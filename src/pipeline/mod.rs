//! One pull: pages → bodies → posts → progress. It knows no vendor.
//!
//! Follow an event in this order: [`source`] (what comes in), `stream` and `pages` (from page to
//! page), `page` and `part` (the bytes of its parts), `read` (bytes to lines, rows and bodies),
//! [`body`], `post` (bodies to the [`sink`]), `progress` (to the checkpoint). What is in quarantine
//! goes the same way from [`body`] on, by [`Replay`].

pub mod body;
mod deflate;
mod fault;
mod page;
mod pages;
mod part;
mod pool;
mod post;
mod progress;
mod read;
mod replay;
mod resume;
pub mod sink;
pub mod source;
mod spilled;
mod stream;
mod summary;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use fault::{Fault, Interrupt};
pub use pool::Pool;
pub use replay::{Replay, ReplaySummary, StreamReplay};
pub use sink::Sink;
pub use source::Source;
pub use summary::{Begun, Gap, Hold, Live, Outcome, RunSummary, StreamSummary};

use crate::quarantine::Quarantine;
use crate::seams::{Clock, Deadline, Random, spawn};
use crate::spill::SpilledFiles;
use crate::store::Store;
use crate::table::Table;
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
    /// A body that has waited this long is posted though it is not full.
    pub body_wait: Duration,
    /// A reader looks every so many events whether its body has waited so long, and whether the run
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
    /// What holds a stream up (a file that cannot be had, a body whose rows are all refused) is passed
    /// after so long, and so many runs.
    pub give_up: (TimeDelta, u32),
    /// When the sink has accepted nothing for so long, files are kept in spill; never, if `None`.
    pub spill_after: Option<TimeDelta>,
    /// A run ends after so many rows, as it does at its time limit: what an outsider makes a source
    /// send must not become a bill without end.
    pub max_rows: u64,
    /// Empty pages after which a stream has caught up for now; the next run goes on behind them.
    pub empty_pages: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            run_time_limit: Duration::from_secs(540),
            grace: Duration::from_secs(30),
            gzip_level: 2,
            body_wait: Duration::from_secs(5),
            look_every: 16,
            save_after_bodies: 16,
            save_after: Duration::from_secs(5),
            lease_wait: Duration::from_secs(60),
            lease_poll: Duration::from_secs(2),
            download_pause: Duration::from_secs(1),
            give_up: (TimeDelta::hours(24), 6),
            spill_after: Some(TimeDelta::hours(72)),
            max_rows: 20_000_000,
            empty_pages: 5,
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
    /// Where checkpoints are.
    pub store: Arc<dyn Store>,
    /// Where rows go that cannot be delivered.
    pub quarantine: Quarantine,
    /// Where batch files are kept while the destination is down.
    pub spill: SpilledFiles,
    /// The memory for bodies, which connectors of one process share.
    pub pool: Pool,
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
    /// Is cancelled then, or when the run is ended earlier.
    stop: CancellationToken,
    pool: Pool,
    policy: Policy,
    /// How many rows it still may read.
    rows_left: Arc<AtomicU64>,
    /// The names of the tables of which the sink has accepted a row.
    accepted: Arc<Mutex<BTreeSet<&'static str>>>,
    /// What kept a stream from its work, by the stream's name.
    faults: Arc<Mutex<Vec<(&'static str, Fault)>>>,
    /// Cancels at the deadline, while it lives.
    _limit: Arc<AbortOnDropHandle<()>>,
}

impl Run {
    /// A run that begins now. `stop` ends it early.
    fn begin(policy: &Policy, pool: &Pool, stop: &CancellationToken) -> Self {
        let deadline = Deadline::after(policy.run_time_limit);
        let stop = stop.child_token();
        let at_limit = stop.clone();
        let limit = spawn(async move {
            sleep_until(deadline.instant()).await;
            at_limit.cancel();
        });
        Self {
            deadline,
            stop,
            pool: pool.clone(),
            policy: *policy,
            rows_left: Arc::new(AtomicU64::new(policy.max_rows)),
            accepted: Arc::default(),
            faults: Arc::default(),
            _limit: Arc::new(AbortOnDropHandle::new(limit)),
        }
    }

    /// Whether it has read as many rows as it may: what is read is delivered, and it ends.
    fn has_read_enough(&self) -> bool {
        self.rows_left.load(Ordering::Relaxed) == 0
    }

    /// Whether it may go on reading.
    fn check(&self) -> Result<(), Interrupt> {
        let over = self.stop.is_cancelled() || self.has_read_enough();
        if over { Err(Interrupt::OutOfTime) } else { Ok(()) }
    }

    /// What comes of `work`, unless the run must stop before. Where both are ready, it is the work,
    /// which knows more of why it ended.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.stop.cancelled() => Err(Interrupt::OutOfTime),
        }
    }

    /// Counts rows that were read, and warns at the last one that it may read.
    fn count_rows(&self, rows: u64) {
        let less = |left: u64| Some(left.saturating_sub(rows));
        let before = self.rows_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if before.is_ok_and(|before| (1..=rows).contains(&before)) {
            tracing::warn!(
                rows = self.policy.max_rows,
                "the run ends here, since it has read MAX_ROWS_PER_RUN rows; the next one goes on \
                 from the same line. Look what they are before you raise the setting"
            );
        }
    }

    /// The sink has accepted a row of this table.
    fn accept(&self, table: &Table) {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).insert(table.name);
    }

    /// Something kept a stream from its work. It is logged when the run is over: only then is it known
    /// which streams share it.
    fn note(&self, stream: &'static str, fault: &Fault) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.push((stream, fault.clone()));
    }

    fn log_faults(&self) {
        fault::log(&self.faults.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn has_accepted(&self, table: &Table) -> bool {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).contains(table.name)
    }
}

/// The name of a stream's checkpoint in the store.
pub fn checkpoint_name(stream: &str) -> String {
    format!("checkpoints/{stream}.json")
}

impl Connector {
    /// What a run of each stream has done so far: nothing, before [`Connector::run`] is given it.
    pub fn summaries(&self) -> Vec<Live> {
        let source = self.source.name();
        self.source.streams().iter().map(|stream| Live::new(source, stream.name)).collect()
    }

    /// A run that begins now.
    pub fn begin(&self) -> Begun {
        let run_id = format!("{:032x}", self.random.bits());
        Begun { run_id, started_at: self.clock.now() }
    }

    /// One run over all streams, which says meanwhile in `summaries` what it has done. `stop` ends
    /// it early, as the time limit does.
    pub async fn run(
        &self,
        begun: Begun,
        summaries: &[Live],
        stop: &CancellationToken,
    ) -> RunSummary {
        self.quarantine.recount().await;
        self.spill.recount().await;
        let run = Run::begin(&self.policy, &self.pool, stop);
        let pulls = self.source.streams().into_iter().zip(summaries).map(|(stream, summary)| {
            let (run, summary) = (run.clone(), summary.clone());
            StreamPull { connector: self.clone(), stream, run, summary }.run()
        });
        let streams = join_all(pulls).await;
        run.log_faults();
        RunSummary::new(begun, self.clock.now(), self.store.location(), streams)
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("policy", &self.policy).finish_non_exhaustive()
    }
}
