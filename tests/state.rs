//! Checkpoint, quarantine, lease and the time limit: what is written when, and what a crash leaves.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::NaiveDate;
use futures::future::{join_all, pending};
use mimecast_sentinel::azure::blob::{BlobAccess, BlobStore};
use mimecast_sentinel::checkpoint::{Checkpoint, Position};
use mimecast_sentinel::codes::Code;
use mimecast_sentinel::pipeline::sink::PostError;
use mimecast_sentinel::pipeline::{
    Connector, Fault as RunFault, Interrupt, Outcome, Policy, Pool, RunSummary, checkpoint_name,
};
use mimecast_sentinel::simulator::{BatchFile, Endpoint, Fault, FaultPlan, MadeUp, Page, World};
use mimecast_sentinel::store::{FolderStore, Store};
use mimecast_sentinel::table::EventId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::support::azurite::{Azurite, sas};
use crate::support::doubles::{
    Act, Call, HookedSink, MemorySink, MemorySource, WatchedStore, in_memory, line_of, numbered,
    run_or_die,
};
use crate::support::rig::{Rig, run as pull};
use crate::support::scenario::{start_at, token_at, token_of};

const STREAM: &str = "mailflow";
/// 2026-11-10T00:00:00Z.
const AT: i64 = 1_794_268_800_000;

fn events(stream: &str, count: i64) -> Vec<String> {
    let mut made_up = MadeUp::new(11);
    (0..count).map(|n| made_up.event(stream, AT + n)).collect()
}

fn page<L: AsRef<[u8]>>(files: &[(&str, &[L])]) -> Page {
    let day = NaiveDate::from_ymd_opt(2026, 11, 10).unwrap();
    let files = files.iter().map(|(name, lines)| BatchFile::of_lines(name, lines));
    files.fold(Page::new(day), Page::file)
}

fn id(line: &str) -> String {
    EventId::of(line.as_bytes()).to_string()
}

fn ids(lines: &[String]) -> Vec<String> {
    let mut ids: Vec<String> = lines.iter().map(|line| id(line)).collect();
    ids.sort();
    ids
}

/// The ids that landed, sorted; one that landed twice is in it twice.
fn landed(rig: &Rig) -> Vec<String> {
    let rows = rig.simulator.landed();
    let mut ids: Vec<String> =
        rows.iter().map(|row| row["EventId"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn folder(rig: &Rig) -> Arc<dyn Store> {
    Arc::new(FolderStore::new(rig.state()))
}

/// A body for each row, and no save for age: what is written when depends on nothing but the order.
fn row_by_row() -> Policy {
    Policy {
        body_wait: Duration::ZERO,
        look_every: 1,
        save_after: Duration::from_secs(3600),
        lease_wait: Duration::from_secs(5),
        lease_poll: Duration::from_millis(5),
        ..Policy::default()
    }
}

/// The fault of the only stream of a run that failed with this exit code.
#[track_caller]
fn fault(run: &RunSummary, exit_code: u8) -> RunFault {
    assert_eq!((run.outcome, run.exit_code()), (Outcome::Failed, exit_code), "{run:#?}");
    run.streams[0].error.clone().unwrap()
}

#[track_caller]
fn assert_caught_up(run: &RunSummary) {
    assert_eq!((run.outcome, run.exit_code()), (Outcome::CaughtUp, 0), "{run:#?}");
}

/// A connector without sockets.
struct Memory {
    source: MemorySource,
    policy: Policy,
    landed: Arc<MemorySink>,
    folder: TempDir,
    /// Slots for bodies.
    in_flight: usize,
}

impl Memory {
    fn new(source: MemorySource) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { source, policy: row_by_row(), landed: Arc::default(), folder, in_flight: 16 }
    }

    fn folder(&self) -> Arc<dyn Store> {
        Arc::new(FolderStore::new(self.folder.path()))
    }

    fn watched(&self) -> WatchedStore {
        WatchedStore::new(self.folder(), |_, _| Act::Pass)
    }

    fn connector(&self, store: Arc<dyn Store>) -> Connector {
        let sink = Arc::clone(&self.landed) as _;
        let connector = in_memory(&self.source, sink, store, self.policy);
        Connector { pool: Pool::new(self.in_flight), ..connector }
    }

    /// With `hook` before the sink.
    fn hooked<F>(
        &self,
        store: Arc<dyn Store>,
        hook: impl Fn(u64, usize) -> F + Send + Sync + 'static,
    ) -> Connector
    where
        F: Future<Output = Result<(), PostError>> + Send + 'static,
    {
        let mut connector = self.connector(store);
        connector.sink = Arc::new(HookedSink::new(connector.sink, move |post| {
            hook(post.rows[0]["n"].as_u64().unwrap(), post.number)
        }));
        connector
    }

    /// The numbers that landed, in order.
    fn landed(&self) -> Vec<u64> {
        let rows = self.landed.rows.lock().unwrap();
        rows.iter().map(|row| row["n"].as_u64().unwrap()).collect()
    }

    fn checkpoint(&self) -> Checkpoint {
        let path = self.folder.path().join(checkpoint_name("numbers"));
        Checkpoint::parse(&std::fs::read(path).unwrap()).unwrap()
    }
}

#[test]
fn the_waits_are_those_of_the_documents() {
    let policy = Policy::default();
    let seconds = [policy.run_time_limit, policy.grace, policy.save_after, policy.lease_wait];
    assert_eq!(seconds.map(|wait| wait.as_secs()), [540, 30, 5, 60]);
    assert_eq!(policy.save_after_bodies, 16);
}

fn out_of_time() -> PostError {
    PostError::Interrupt(Interrupt::OutOfTime)
}

fn broken() -> PostError {
    PostError::Interrupt(RunFault::passing(Code::StoreFailed, "it broke", "fix it").into())
}

mod progress {
    use super::*;

    /// The rows of one page's file `f`, at most five, so that none waits in a blocked thread and a
    /// paused clock goes on.
    fn one_file(lines: u64) -> Memory {
        Memory::new(MemorySource::default().page(&[("f", &numbered(0..lines))]))
    }

    #[tokio::test(start_paused = true)]
    async fn progress_does_not_pass_a_body_that_fails_whatever_comes_after_it() {
        for failing in 0..5 {
            let mut memory = one_file(5);
            memory.in_flight = 4;
            let store = memory.watched();
            let connector = memory.hooked(Arc::new(store.clone()), move |n, _| async move {
                if n < failing {
                    return Ok(());
                }
                // Later ones are accepted first.
                sleep(Duration::from_secs(if n == failing { 1 } else { 0 })).await;
                if n == failing { Err(broken()) } else { Ok(()) }
            });
            let run = pull(&connector).await;
            assert_eq!(fault(&run, 1).code, Code::StoreFailed);
            assert_eq!(run.streams[0].rows_delivered, failing);
            let saved = store.saved();
            let at = saved.last().and_then(|checkpoint| line_of(checkpoint, "f"));
            assert_eq!(at.unwrap_or(Position::Line(0)), Position::Line(failing));
            assert!(saved.iter().all(|saved| saved.cursor == memory.checkpoint().cursor));

            assert_caught_up(&pull(&memory.connector(memory.folder())).await);
            let landed = memory.landed();
            let all: BTreeSet<u64> = (0..5).collect();
            assert_eq!(landed.iter().copied().collect::<BTreeSet<_>>(), all);
            // Of four in flight, one failed.
            assert!(landed.len() <= 5 + 3, "{landed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_waits_for_a_slow_body_however_long_it_takes() {
        let mut memory = one_file(5);
        memory.in_flight = 4;
        memory.policy.save_after = Duration::from_secs(5);
        let store = memory.watched();
        let connector = memory.hooked(Arc::new(store.clone()), |n, _| async move {
            sleep(Duration::from_secs(if n == 0 { 100 } else { 0 })).await;
            Ok(())
        });
        assert_caught_up(&pull(&connector).await);
        assert_eq!(memory.landed()[..4], [1, 2, 3, 0], "accepted out of order");
        // The first save, before the first post, is about the day alone; then comes the end of the
        // file.
        let lines: Vec<_> = store.saved().iter().map(|saved| line_of(saved, "f")).collect();
        assert_eq!(lines, [None, Some(Position::End), None]);
    }

    #[tokio::test]
    async fn progress_is_saved_after_sixteen_bodies_at_a_files_end_and_at_the_runs_end() {
        use Position::{End, Line};
        let memory = Memory::new(MemorySource::default().page(&[
            ("f", &numbered(0..40)),
            ("g", &numbered(40..41)),
            ("h", &numbered(41..59)),
        ]));
        let store = memory.watched();
        assert_caught_up(&pull(&memory.connector(Arc::new(store.clone()))).await);
        let at = |saved: &Checkpoint| ["f", "g", "h"].map(|file| line_of(saved, file));
        let end = Some(End);
        assert_eq!(
            store.saved().iter().map(at).collect::<Vec<_>>(),
            [
                // Before the first post.
                [None, None, None],
                [Some(Line(16)), None, None],
                [Some(Line(32)), None, None],
                // A body that is closed in the next file's name begins that.
                [end, Some(Line(0)), None],
                [end, end, Some(Line(0))],
                [end, end, Some(Line(16))],
                [end, end, end],
                [None, None, None],
            ],
        );
        let last = store.saved().pop().unwrap();
        assert_eq!(last.cursor, token_at("1"));
        assert_eq!((last.totals.files, last.totals.pages, last.totals.rows_delivered), (3, 1, 59));
        assert_eq!(memory.landed(), (0..59).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn progress_of_many_small_files_is_saved_once_for_each_body() {
        let lines = numbered(0..100);
        let names: Vec<String> = (0..100).map(|n| format!("f{n}")).collect();
        let files: Vec<(&str, &[String])> =
            names.iter().zip(lines.chunks(1)).map(|(name, lines)| (name.as_str(), lines)).collect();
        let mut memory = Memory::new(MemorySource::default().page(&files));
        memory.policy.body_wait = Duration::from_secs(3600);
        let store = memory.watched();
        assert_caught_up(&pull(&memory.connector(Arc::new(store.clone()))).await);
        assert_eq!(store.saved().len(), 3, "before the first post, for the body, and at the end");
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_saved_after_five_seconds() {
        let mut memory = one_file(4);
        memory.policy.save_after = Policy::default().save_after;
        let (start, saved_at) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
        let times = Arc::clone(&saved_at);
        let store = WatchedStore::new(memory.folder(), move |_, call| {
            if let Some(saved) = call.saved() {
                times.lock().unwrap().push((start.elapsed().as_secs(), line_of(&saved, "f")));
            }
            Act::Pass
        });
        // One body at a time would be refused: the reading side must not be held back.
        let connector = memory.hooked(Arc::new(store), |n, _| async move {
            sleep(Duration::from_secs([0, 60, 0, 70][n as usize])).await;
            Ok(())
        });
        assert_caught_up(&pull(&connector).await);
        let line = |n| Some(Position::Line(n));
        assert_eq!(
            *saved_at.lock().unwrap(),
            [(0, None), (5, line(1)), (65, line(3)), (70, Some(Position::End)), (70, None)],
        );
    }

    #[tokio::test]
    async fn a_run_without_progress_costs_three_listings_and_at_most_one_save_a_stream() {
        let world = ["entities", STREAM, "urlclick"].iter().fold(World::default(), |world, s| {
            world.page(s, page(&[("a.json.gz", &events(s, 3))]))
        });
        for world in [world, World::default()] {
            let rig = Rig::new(world, FaultPlan::none()).await;
            assert_caught_up(&rig.pull().await);
            let before = rig.simulator.calls();
            for _ in 0..2 {
                let store = WatchedStore::new(folder(&rig), |_, _| Act::Pass);
                let run = pull(&rig.connector_on(Arc::new(store.clone()))).await;
                assert_caught_up(&run);
                assert_eq!(run.total(|stream| stream.events_read), 0);
                let mut saves: Vec<Call> = store.calls();
                saves.retain(Call::is_save);
                assert!(saves.len() <= 3, "{saves:?}");
            }
            let after = rig.simulator.calls();
            assert_eq!(after.all_listings() - before.all_listings(), 2 * 3);
            assert_eq!(after.all_downloads(), before.all_downloads());
            assert_eq!(after.posts, before.posts);
        }
    }
}

mod quarantine {
    use super::*;

    /// Some rows that Azure refuses, a line that is no event, and a file that is damaged.
    async fn rig() -> (Rig, Vec<String>) {
        let lines = events(STREAM, 30);
        let mut with_bad = lines.clone();
        with_bad.insert(7, "no event".to_owned());
        let whole = BatchFile::of_lines("c.json.gz", &lines[28..]);
        let half = whole.bytes.len() / 2;
        let damaged = page(&[("a.json.gz", &with_bad[..29])]).file(whole.damaged(half));
        let refused: HashSet<String> = [id(&lines[3]), id(&lines[20])].into();
        let plan =
            FaultPlan::none().poison(move |row| refused.contains(row["EventId"].as_str().unwrap()));
        let mut rig = Rig::new(World::default().page(STREAM, damaged), plan).await.only(STREAM);
        rig.policy = Policy { download_pause: rig.policy.download_pause, ..row_by_row() };
        (rig, lines)
    }

    #[tokio::test]
    async fn a_record_is_durable_before_the_checkpoint_passes_it() {
        let (rig, _) = rig().await;
        let store = WatchedStore::new(folder(&rig), |_, _| Act::Pass);
        assert_caught_up(&pull(&rig.connector_on(Arc::new(store.clone()))).await);
        let log = store.log();
        let mut checked = 0;
        for record in rig.quarantined() {
            let line = record["line"].as_u64().unwrap();
            let file = record["file"].as_str().unwrap();
            let kept = log.iter().position(|(call, ended)| {
                let name = call.kept().unwrap_or_default();
                *ended && name.contains(&format!("/{line:010}-")) && name.ends_with(".json")
            });
            let passed = log.iter().position(|(call, _)| {
                call.saved().is_some_and(|saved| match saved.files.get(file) {
                    Some(progress) => progress.done >= Position::Line(line),
                    None => saved.cursor != start_at(rig.options.start),
                })
            });
            assert!(kept.unwrap() < passed.unwrap(), "{record}");
            checked += 1;
        }
        assert_eq!(checked, 4);
        let file =
            log.iter().position(|(call, ended)| *ended && matches!(call, Call::WriteStream(_)));
        let advanced = log.iter().position(|(call, _)| {
            call.saved().is_some_and(|saved| line_of(&saved, "c.json.gz") == Some(Position::End))
        });
        assert!(file.unwrap() < advanced.unwrap());
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_written_stops_the_stream_before_it() {
        let (rig, lines) = rig().await;
        let store = WatchedStore::new(folder(&rig), |_, call| match call {
            Call::Write(_) => Act::Fail,
            _ => Act::Pass,
        });
        let run = pull(&rig.connector_on(Arc::new(store))).await;
        let fault = fault(&run, 1);
        assert_eq!(fault.code.as_str(), "store-failed");
        assert!(fault.message.contains("no space left on device"), "{fault}");
        assert!(fault.fix.contains("CHECKPOINT_URL"), "{fault}");
        // Line 4 is the first to be kept.
        let checkpoint = rig.checkpoint(STREAM);
        assert_eq!(line_of(&checkpoint, "a.json.gz"), Some(Position::Line(3)));
        let version = &checkpoint.files.values().next().unwrap().version;
        assert!(version.size.is_some() && version.etag.is_some(), "the content that it is about");
        assert_eq!(run.streams[0].rows_quarantined, 0);

        let run = rig.pull().await;
        assert_caught_up(&run);
        assert_eq!(run.streams[0].rows_quarantined, 3);
        assert_eq!(rig.quarantined().len(), 4);
        assert_eq!(rig.kept_files().len(), 1);
        let safe: HashSet<String> = landed(&rig).into_iter().collect();
        let missing = lines[..28].iter().filter(|line| !safe.contains(&id(line)));
        assert_eq!(missing.count(), 2, "those in quarantine");
    }
}

mod crashes {
    use super::*;

    /// Rows that the sink refuses, and the line that is no row.
    const REFUSED: [u64; 2] = [10, 50];
    const NO_ROW: usize = 20;

    /// Two pages, three files.
    fn memory() -> Memory {
        let mut lines = numbered(0..54);
        lines[NO_ROW] = "no row".to_owned();
        let first: [(&str, &[String]); 2] = [("f", &lines[..46]), ("g", &lines[46..51])];
        let source = MemorySource::default().page(&first).page(&[("h", &lines[51..])]);
        Memory { policy: row_by_row(), ..Memory::new(source) }
    }

    fn refuse(n: u64) -> Result<(), PostError> {
        match REFUSED.contains(&n) {
            true => Err(PostError::RowRefused("no such row".to_owned())),
            false => Ok(()),
        }
    }

    /// After whatever happened, the next run ends the work: nothing is lost, and no more came twice
    /// than was in flight or unsaved. Returns how many did.
    async fn recovers(memory: &Memory, crash: &str) -> usize {
        let next = memory.hooked(memory.folder(), |n, _| async move { refuse(n) });
        assert_caught_up(&pull(&next).await);
        let landed = memory.landed();
        let once: BTreeSet<u64> = landed.iter().copied().collect();
        let mut missing: Vec<u64> = (0..54).filter(|n| !once.contains(n)).collect();
        missing.retain(|n| *n != NO_ROW as u64);
        assert_eq!(missing, REFUSED, "{crash}");
        let kept = memory.folder().list("quarantine/").await.unwrap();
        let lines: Vec<&str> = kept.iter().map(|name| &name[name.len() - 48..][..10]).collect();
        let mut lines: Vec<u64> = lines.into_iter().map(|line| line.parse().unwrap()).collect();
        lines.sort_unstable();
        assert_eq!(lines, [5, 11, 21], "{crash}: the fifth line of g, two of f");
        let twice = landed.len() - once.len();
        let bound = memory.in_flight + memory.policy.save_after_bodies as usize;
        assert!(twice <= bound, "{crash}: {twice} rows came twice");
        twice
    }

    #[tokio::test]
    async fn a_crash_at_any_call_to_the_store_loses_nothing() {
        for act in [Act::HangBefore, Act::HangAfter] {
            // Lease, read, before the first post, 16 bodies, 32 bodies, three files, the end, the
            // release; three records.
            for number in 1..=14 {
                let memory = memory();
                let store = WatchedStore::new(memory.folder(), move |call, _| {
                    if call == number { act } else { Act::Pass }
                });
                let hung = store.hung();
                let connector = memory.hooked(Arc::new(store), |n, _| async move { refuse(n) });
                let ended = run_or_die(connector, &hung).await;
                assert_eq!(ended.is_some(), number == 14, "all calls were hit, and no other");
                recovers(&memory, &format!("{act:?} at store call {number}")).await;
            }
        }
    }

    #[tokio::test]
    async fn a_crash_at_any_post_loses_nothing_and_doubles_what_was_not_saved() {
        let mut most = 0;
        for hanging in (0..54).step_by(3).chain([50, 53]) {
            let memory = memory();
            let hung = Arc::new(Notify::new());
            let notify = Arc::clone(&hung);
            // Those behind it are on their way, as far as they may.
            let last = hanging.max((hanging + 3).min(if hanging < 51 { 50 } else { 53 }));
            let last = if last == NO_ROW as u64 { last - 1 } else { last };
            let connector = memory.hooked(memory.folder(), move |n, _| {
                if n == last {
                    notify.notify_one();
                }
                async move { if n == hanging { pending().await } else { refuse(n) } }
            });
            assert!(run_or_die(connector, &hung).await.is_none(), "row {hanging}");
            let twice = recovers(&memory, &format!("at the post of row {hanging}")).await;
            most = most.max(twice);
        }
        assert!(most > 15, "the bound is worth testing");
    }
}

mod time_limit {
    use super::*;

    /// `stop` is what the limit cancels, and a signal.
    #[tokio::test]
    async fn the_time_limit_ends_a_run_in_peace_and_the_next_goes_on() {
        let lines = events(STREAM, 40);
        let world = World::default()
            .page(STREAM, page(&[("a.json.gz", &lines[..25]), ("b.json.gz", &lines[25..26])]))
            .page(STREAM, page(&[("c.json.gz", &lines[26..])]));
        let mut rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
        rig.policy = row_by_row();
        let mut outcomes = Vec::new();
        while outcomes.last() != Some(&Outcome::CaughtUp) {
            let stop = CancellationToken::new();
            let mut connector = rig.connector();
            let at_the_seventh = stop.clone();
            connector.sink = Arc::new(HookedSink::new(connector.sink, move |post| {
                if post.number == 7 {
                    at_the_seventh.cancel();
                }
                async { Ok(()) }
            }));
            let before = rig.simulator.landed_count();
            let run = connector.run(connector.begin(), &connector.summaries(), &stop).await;
            assert_eq!(run.exit_code(), 0, "{run:#?}");
            let landed = rig.simulator.landed_count() - before;
            assert_eq!(run.total(|stream| stream.rows_delivered), landed);
            assert!(landed >= 7 || run.outcome == Outcome::CaughtUp);
            outcomes.push(run.outcome);
            assert!(outcomes.len() < 20, "no progress: {outcomes:?}");
        }
        assert!(outcomes.len() >= 4, "{outcomes:?}");
        assert_eq!(landed(&rig), ids(&lines), "nothing is lost, and nothing came twice");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_limit_gives_bodies_in_flight_thirty_seconds_and_posts_nothing_new() {
        let mut memory = Memory::new(MemorySource::default().page(&[("f", &numbered(0..5))]));
        memory.in_flight = 4;
        memory.policy.run_time_limit = Duration::from_secs(100);
        let posted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&posted);
        let connector = memory.hooked(memory.folder(), move |n, number| {
            count.store(number, Ordering::Relaxed);
            async move {
                sleep(Duration::from_secs(if n == 0 { 129 } else { 0 })).await;
                Ok(())
            }
        });
        let start = Instant::now();
        let run = pull(&connector).await;
        assert_eq!((run.outcome, run.exit_code()), (Outcome::TimeLimit, 0), "{run:#?}");
        assert_eq!(start.elapsed().as_secs(), 129);
        assert_eq!(posted.load(Ordering::Relaxed), 4, "the fifth is new");
        assert_eq!(run.streams[0].rows_delivered, 4);
        assert_eq!(line_of(&memory.checkpoint(), "f"), Some(Position::Line(4)));

        assert_caught_up(&pull(&memory.connector(memory.folder())).await);
        assert_eq!(memory.landed(), [1, 2, 3, 0, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_limit_does_not_wait_for_a_body_for_ever() {
        let mut memory = Memory::new(MemorySource::default().page(&[("f", &numbered(0..1))]));
        memory.policy.run_time_limit = Duration::from_secs(100);
        let connector = memory.hooked(memory.folder(), |_, _| pending());
        let start = Instant::now();
        let run = pull(&connector).await;
        assert_eq!((run.outcome, run.exit_code()), (Outcome::TimeLimit, 0), "{run:#?}");
        assert_eq!(start.elapsed().as_secs(), 130);
        assert_eq!(run.streams[0].ambiguous_posts, 1, "nobody knows what became of it");
        assert!(memory.checkpoint().files.is_empty());

        assert_caught_up(&pull(&memory.connector(memory.folder())).await);
        assert_eq!(memory.landed(), [0]);
    }

    #[tokio::test]
    async fn the_time_limit_twice_without_a_new_line_of_a_file_is_an_error() {
        let lines = events(STREAM, 3);
        let hour = Fault::TooManyRequests(Some(("Retry-After", "3600".to_owned())));
        let plan = FaultPlan::none().times(3, Endpoint::Post, hour);
        let world = World::default().page(STREAM, page(&[("a.json.gz", &lines)]));
        let rig = Rig::new(world, plan).await.only(STREAM);
        let first = rig.pull().await;
        assert_eq!((first.outcome, first.exit_code()), (Outcome::TimeLimit, 0));
        for _ in 0..2 {
            let fault = fault(&rig.pull().await, 2);
            assert_eq!(fault.code.as_str(), "no-progress");
            assert!(fault.message.contains("/files/mailflow/a.json.gz"), "{fault}");
            assert!(fault.fix.contains("RUN_TIME_LIMIT_SECONDS"), "{fault}");
        }
        assert_caught_up(&rig.pull().await);
        assert_eq!(landed(&rig), ids(&lines));
    }

    /// Runs until the body with number `at` runs out of time; all `last` are in flight then.
    async fn out_of_time_at(memory: &Memory, at: usize, last: usize) -> RunSummary {
        let all_in_flight = Arc::new(Notify::new());
        let connector = memory.hooked(memory.folder(), move |_, number| {
            let all_in_flight = Arc::clone(&all_in_flight);
            async move {
                if number == last {
                    all_in_flight.notify_one();
                }
                match number {
                    _ if number < at => Ok(()),
                    _ if number > at => pending().await,
                    _ => {
                        all_in_flight.notified().await;
                        Err(out_of_time())
                    }
                }
            }
        });
        pull(&connector).await
    }

    #[tokio::test]
    async fn the_time_limit_twice_in_the_same_file_is_no_error_if_an_earlier_one_went_on() {
        let files = MemorySource::default();
        let files = files.page(&[("f", &numbered(0..3)), ("g", &numbered(3..4))]);
        let memory = Memory::new(files);
        let run = out_of_time_at(&memory, 1, 4).await;
        assert_eq!((run.outcome, run.exit_code()), (Outcome::TimeLimit, 0), "{run:#?}");
        // One line of f.
        let run = out_of_time_at(&memory, 2, 4).await;
        assert_eq!((run.outcome, run.exit_code()), (Outcome::TimeLimit, 0), "{run:#?}");
        // None at all.
        let fault = fault(&out_of_time_at(&memory, 1, 3).await, 2);
        assert_eq!(fault.code.as_str(), "no-progress");
        assert!(fault.message.contains("file f"), "{fault}");
        assert_caught_up(&pull(&memory.connector(memory.folder())).await);
        assert_eq!(memory.landed(), [0, 1, 2, 3]);
    }
}

/// What one connector does to another that shares its checkpoints.
mod leases {
    use super::*;

    pub(super) async fn rig(events_per_stream: i64) -> (Rig, Vec<String>) {
        let (mut world, mut lines) = (World::default(), Vec::new());
        for stream in ["entities", STREAM, "urlclick"] {
            let own = events(stream, events_per_stream);
            world = world.page(stream, page(&[("a.json.gz", &own)]));
            lines.extend(own);
        }
        (Rig::new(world, FaultPlan::none()).await, lines)
    }

    /// One holds the lease while the other waits in vain.
    pub(super) async fn is_held_by_one(rig: &Rig, lines: &[String], store: Arc<dyn Store>) {
        let (entered, gate) = (Arc::new(Notify::new()), CancellationToken::new());
        let mut first = rig.connector_on(Arc::clone(&store));
        let (notify, wait) = (Arc::clone(&entered), gate.clone());
        first.sink = Arc::new(HookedSink::new(first.sink, move |post| {
            // All three streams are at work.
            if post.number == 3 {
                notify.notify_one();
            }
            let wait = wait.clone();
            async move {
                wait.cancelled().await;
                Ok(())
            }
        }));
        let first = tokio::spawn(async move { pull(&first).await });
        entered.notified().await;

        let mut second = rig.connector_on(store);
        second.policy.lease_wait = Duration::from_millis(60);
        let start = Instant::now();
        let busy = pull(&second).await;
        assert_eq!((busy.outcome, busy.exit_code()), (Outcome::Busy, 1), "{busy:#?}");
        assert!(busy.streams.iter().all(|stream| stream.outcome == Outcome::Busy));
        assert!(start.elapsed() >= Duration::from_millis(50), "it was waited for");
        assert_eq!(rig.simulator.landed_count(), 0);

        gate.cancel();
        assert_caught_up(&first.await.unwrap());
        assert_eq!(landed(rig), ids(lines));
    }

    /// Both come at once, and wait long enough.
    pub(super) async fn lets_two_deliver_everything_once(
        rig: &Rig,
        lines: &[String],
        stores: [Arc<dyn Store>; 2],
    ) {
        let runs = stores.map(|store| {
            let mut connector = rig.connector_on(store);
            connector.policy.lease_wait = Duration::from_secs(20);
            tokio::spawn(async move { pull(&connector).await })
        });
        let runs = join_all(runs).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        runs.iter().for_each(assert_caught_up);
        let delivered = runs.iter().map(|run| run.total(|stream| stream.rows_delivered));
        assert_eq!(delivered.sum::<u64>(), lines.len() as u64);
        assert_eq!(landed(rig), ids(lines));
    }

    /// Somebody takes it away at the fourth of ten posts.
    pub(super) async fn that_is_lost_stops_the_stream<F: Future<Output = ()> + Send + 'static>(
        rig: &Rig,
        lines: &[String],
        store: Arc<dyn Store>,
        break_it: impl Fn() -> F + Send + Sync + Clone + 'static,
    ) {
        let watched = WatchedStore::new(Arc::clone(&store), |_, _| Act::Pass);
        let mut connector = rig.connector_on(Arc::new(watched.clone()));
        // A save after each body shows where it stops.
        connector.policy = Policy { save_after_bodies: 1, ..row_by_row() };
        connector.pool = Pool::new(1);
        connector.sink = Arc::new(HookedSink::new(connector.sink, move |post| {
            let break_it = break_it.clone();
            async move {
                if post.number == 4 {
                    break_it().await;
                }
                Ok(())
            }
        }));
        let run = pull(&connector).await;
        let fault = fault(&run, 1);
        assert_eq!(fault.code.as_str(), "lease-lost");
        // Three bodies are recorded already.
        let words = ["one connector per checkpoint", "sent and not yet recorded may come again"];
        assert!(words.iter().all(|words| fault.fix.contains(words)), "{fault}");
        assert_eq!(rig.simulator.calls().posts, 4, "no further body is posted");
        let saved = store.read(&checkpoint_name(STREAM)).await.unwrap().unwrap();
        let saved = Checkpoint::parse(&saved).unwrap();
        assert_eq!(line_of(&saved, "a.json.gz"), Some(Position::Line(3)), "nothing is recorded");

        let mut next = rig.connector_on(store);
        next.policy.lease_wait = Duration::from_secs(5);
        assert_caught_up(&pull(&next).await);
        let (landed, expected) = (landed(rig), ids(lines));
        assert_eq!(landed.len(), expected.len() + 1, "the fourth comes twice");
        assert_eq!(landed.into_iter().collect::<BTreeSet<_>>().len(), expected.len());
    }

    #[tokio::test]
    async fn a_lease_in_a_folder_is_held_by_one() {
        let (rig, lines) = rig(3).await;
        is_held_by_one(&rig, &lines, folder(&rig)).await;
    }

    #[tokio::test]
    async fn a_lease_in_a_folder_lets_two_deliver_everything_once() {
        let (rig, lines) = rig(3).await;
        lets_two_deliver_everything_once(&rig, &lines, [folder(&rig), folder(&rig)]).await;
    }

    /// Only a wait that was over says that another has it.
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_waited_for_when_the_run_is_stopped_is_no_busy_one() {
        let memory = Memory::new(MemorySource::default().page(&[("f", &numbered(0..3))]));
        let held = memory.folder().lease(&checkpoint_name("numbers")).await.unwrap().unwrap();
        let waits = [
            // Limit, signal, and when which of them ends it.
            (30, 1_000, 30, Outcome::TimeLimit, 0),
            (540, 10, 10, Outcome::TimeLimit, 0),
            (540, 0, 0, Outcome::TimeLimit, 0),
            (540, 1_000, 60, Outcome::Busy, 1),
        ];
        for (limit, signal, ends, outcome, exit_code) in waits {
            let mut connector = memory.connector(memory.folder());
            let run_time_limit = Duration::from_secs(limit);
            connector.policy = Policy { run_time_limit, ..Policy::default() };
            let (start, stop) = (Instant::now(), CancellationToken::new());
            let counters = connector.summaries();
            let signalled = async {
                sleep(Duration::from_secs(signal)).await;
                stop.cancel();
            };
            let mut running = std::pin::pin!(connector.run(connector.begin(), &counters, &stop));
            let run = tokio::select! {
                biased;
                () = signalled => running.await,
                run = &mut running => run,
            };
            assert_eq!((run.outcome, run.exit_code()), (outcome, exit_code), "{limit} {signal}");
            assert_eq!(run.streams[0].error, None);
            assert_eq!(start.elapsed().as_secs(), ends, "{limit} {signal}");
        }
        assert!(memory.landed().is_empty());
        held.release().await.unwrap();
        assert_caught_up(&pull(&memory.connector(memory.folder())).await);
    }

    #[tokio::test]
    async fn a_lease_in_a_folder_that_is_lost_stops_the_stream() {
        let lines = events(STREAM, 10);
        let world = World::default().page(STREAM, page(&[("a.json.gz", &lines)]));
        let lock = |rig: &Rig| rig.state().join(format!("{}.lock", checkpoint_name(STREAM)));
        let removed = |lock: PathBuf| std::fs::remove_file(lock).unwrap();
        let replaced = |lock: PathBuf| {
            std::fs::write(lock.with_extension("new"), "").unwrap();
            std::fs::rename(lock.with_extension("new"), lock).unwrap();
        };
        for break_it in [removed as fn(PathBuf), replaced] {
            let rig = Rig::new(world.clone(), FaultPlan::none()).await.only(STREAM);
            let lock = lock(&rig);
            let break_it = move || {
                break_it(lock.clone());
                async {}
            };
            that_is_lost_stops_the_stream(&rig, &lines, folder(&rig), break_it).await;
        }
    }

    /// A write would see it by itself.
    #[tokio::test]
    async fn a_lease_in_a_folder_that_is_lost_between_two_writes_stops_the_posts() {
        const ROWS: u64 = 10_000;
        let mut memory = Memory::new(MemorySource::default().page(&[("f", &numbered(0..ROWS))]));
        memory.policy = Policy { save_after_bodies: u32::MAX, ..row_by_row() };
        memory.in_flight = 1;
        let lock = memory.folder.path().join(format!("{}.lock", checkpoint_name("numbers")));
        let connector = memory.hooked(memory.folder(), move |n, _| {
            if n == 0 {
                std::fs::remove_file(&lock).unwrap();
            }
            async {
                sleep(Duration::from_millis(10)).await;
                Ok(())
            }
        });
        let run = pull(&connector).await;
        assert_eq!(fault(&run, 1).code, Code::LeaseLost);
        assert!(memory.landed().len() < 1_000, "of {ROWS} rows, a hundred a second");
        assert_eq!(line_of(&memory.checkpoint(), "f"), None, "nothing is recorded");
    }

    /// Otherwise a run would report success, and its progress would be lost.
    #[tokio::test]
    async fn a_lease_that_is_lost_before_the_last_save_is_reported() {
        let memory = Memory::new(MemorySource::default().page(&[("f", &numbered(0..3))]));
        let store = WatchedStore::new(memory.folder(), |_, call| {
            let at_end = |saved| line_of(&saved, "f") == Some(Position::End);
            if call.saved().is_some_and(at_end) { Act::Lose } else { Act::Pass }
        });
        let run = pull(&memory.connector(Arc::new(store))).await;
        assert_eq!(fault(&run, 1).code.as_str(), "lease-lost");

        assert_caught_up(&pull(&memory.connector(memory.folder())).await);
        assert_eq!(memory.landed(), [0, 1, 2]);
    }
}

mod stored_checkpoints {
    use super::*;

    /// A rig that has pulled one page, with another one waiting.
    async fn pulled() -> (Rig, Vec<String>) {
        let lines = events(STREAM, 5);
        let world = World::default().page(STREAM, page(&[("a.json.gz", &lines[..3])]));
        let rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
        assert_caught_up(&rig.pull().await);
        rig.simulator.add_page(STREAM, page(&[("b.json.gz", &lines[3..])]));
        (rig, lines)
    }

    fn path(rig: &Rig) -> PathBuf {
        rig.state().join(checkpoint_name(STREAM))
    }

    fn edit(rig: &Rig, change: impl FnOnce(&mut Value)) {
        let mut json: Value = serde_json::from_slice(&std::fs::read(path(rig)).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(path(rig), serde_json::to_vec(&json).unwrap()).unwrap();
    }

    /// The run ends with this fault, and changes nothing.
    async fn refused(rig: &Rig, code: &str, says: &[&str]) {
        let before = std::fs::read(path(rig)).unwrap();
        let calls = rig.simulator.calls();
        let fault = fault(&rig.pull().await, 2);
        assert_eq!(fault.code.as_str(), code);
        for word in says {
            assert!(fault.message.contains(word), "{word}: {fault}");
        }
        assert!(fault.message.contains("checkpoints/mailflow.json"), "{fault}");
        assert_eq!(std::fs::read(path(rig)).unwrap(), before);
        assert_eq!(rig.simulator.calls(), calls, "nobody was asked");
    }

    #[tokio::test]
    async fn a_checkpoint_of_another_client_or_base_url_is_refused() {
        let (mut rig, lines) = pulled().await;
        let own = rig.options.client_id.clone();
        rig.options.client_id = "another-client".to_owned();
        refused(&rig, "checkpoint-of-another", &[&own, "another-client"]).await;
        rig.options.client_id = own;
        let base_url = rig.simulator.url().to_owned();
        edit(&rig, |json| json["owner"]["base_url"] = "https://eu.example".into());
        refused(&rig, "checkpoint-of-another", &[&base_url, "https://eu.example"]).await;

        edit(&rig, |json| json["owner"]["base_url"] = base_url.into());
        assert_caught_up(&rig.pull().await);
        assert_eq!(landed(&rig), ids(&lines));
    }

    #[tokio::test]
    async fn a_checkpoint_of_another_destination_goes_on_there() {
        let (rig, lines) = pulled().await;
        let own = rig.checkpoint(STREAM).destination;
        edit(&rig, |json| json["destination"] = "another rule".into());
        assert_caught_up(&rig.pull().await);
        assert_eq!(rig.checkpoint(STREAM).destination, own);
        assert_eq!(landed(&rig), ids(&lines));
    }

    #[tokio::test]
    async fn a_checkpoint_of_a_newer_version_is_refused() {
        let (rig, _) = pulled().await;
        edit(&rig, |json| json["version"] = 3.into());
        refused(&rig, "checkpoint-refused", &["version 3", "up to 2"]).await;
        // Whatever else a newer one has.
        std::fs::write(path(&rig), r#"{"version": 99, "cursors": []}"#).unwrap();
        refused(&rig, "checkpoint-refused", &["version 99"]).await;
    }

    /// What this release does not know, an older one wrote, and it means nothing any more.
    #[tokio::test]
    async fn a_checkpoint_of_an_older_version_or_with_other_fields_is_read() {
        let (rig, lines) = pulled().await;
        edit(&rig, |json| {
            json["version"] = 0.into();
            json["left_over"] = json!({"from": "before"});
        });
        assert_caught_up(&rig.pull().await);
        assert_eq!(landed(&rig), ids(&lines));
        let text = std::fs::read_to_string(path(&rig)).unwrap();
        assert!(text.contains("\"version\": 1"), "{text}");
        assert!(!text.contains("left_over"), "{text}");
    }

    #[tokio::test]
    async fn a_checkpoint_that_cannot_be_read_is_refused() {
        let (rig, _) = pulled().await;
        let whole = std::fs::read_to_string(path(&rig)).unwrap();
        let half = whole[..whole.len() / 2].to_owned();
        let odd = whole.replace("\"token\"", "\"tokens\"");
        for broken in [half, odd, "{}".to_owned(), "null".to_owned(), "\0\0\0".to_owned()] {
            std::fs::write(path(&rig), &broken).unwrap();
            refused(&rig, "checkpoint-refused", &["cannot be read"]).await;
        }
    }

    #[tokio::test]
    async fn a_checkpoint_can_be_read_by_a_person() {
        let (rig, _) = pulled().await;
        let text = std::fs::read_to_string(path(&rig)).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert!(text.lines().count() > 10, "{text}");
        assert_eq!(json["owner"]["client_id"], rig.simulator.client_id());
        assert_eq!(json["cursor"]["token"], rig.simulator.page_token(STREAM, 1));
        assert_eq!(json["totals"]["rows_delivered"], 3);
        assert!(!text.contains(rig.simulator.client_secret()));
    }
}

mod failing_stores {
    use super::*;

    #[tokio::test]
    async fn a_store_that_fails_to_save_stops_the_stream_and_loses_nothing() {
        // The save before the first post, that after 16 bodies, that at the file's end, the last
        // one. What no checkpoint covers comes again: nothing, since nothing was posted; all 16 and
        // the one in flight with the last of them, if it got as far; the 4 since then; nothing.
        for (failing, again) in [(1, 0..=0), (2, 16..=17), (3, 4..=4), (4, 0..=0)] {
            let mut memory = Memory::new(MemorySource::default().page(&[("f", &numbered(0..20))]));
            memory.in_flight = 2;
            let saves = AtomicUsize::new(0);
            let store = WatchedStore::new(memory.folder(), move |_, call| {
                let fails = call.is_save() && saves.fetch_add(1, Ordering::Relaxed) + 1 >= failing;
                if fails { Act::Fail } else { Act::Pass }
            });
            let run = pull(&memory.connector(Arc::new(store))).await;
            let fault = fault(&run, 1);
            assert_eq!(fault.code.as_str(), "store-failed", "{failing}");
            assert!(fault.message.contains("no space left on device"), "{fault}");
            assert_eq!(memory.landed().is_empty(), failing == 1, "nothing that is not recorded");

            assert_caught_up(&pull(&memory.connector(memory.folder())).await);
            let landed = memory.landed();
            assert_eq!(landed.iter().collect::<BTreeSet<_>>().len(), 20);
            assert!(again.contains(&(landed.len() - 20)), "{failing}: {landed:?}");
        }
    }

    /// The time is up while the next page is listed, and then the checkpoint cannot be written.
    #[tokio::test]
    async fn a_store_that_fails_to_save_at_the_time_limit_is_reported() {
        let lines = events(STREAM, 3);
        let hour = Fault::TooManyRequests(Some(("Retry-After", "3600".to_owned())));
        let plan =
            FaultPlan::none().once(Endpoint::Listing, Fault::Nothing).once(Endpoint::Listing, hour);
        let world = World::default().page(STREAM, page(&[("a.json.gz", &lines)]));
        let rig = Rig::new(world, plan).await.only(STREAM);
        let store = WatchedStore::new(folder(&rig), |_, call| {
            let advanced = |saved: Checkpoint| token_of(&saved.cursor).is_some();
            if call.saved().is_some_and(advanced) { Act::Fail } else { Act::Pass }
        });
        let run = pull(&rig.connector_on(Arc::new(store))).await;
        assert_eq!(fault(&run, 1).code.as_str(), "store-failed");

        assert_caught_up(&rig.pull().await);
        assert_eq!(landed(&rig), ids(&lines));
    }

    #[tokio::test]
    async fn a_store_whose_folder_is_a_file_is_about_the_settings() {
        let lines = events(STREAM, 3);
        let world = World::default().page(STREAM, page(&[("a.json.gz", &lines)]));
        let rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
        std::fs::write(rig.state(), "not a folder").unwrap();
        let fault = fault(&rig.pull().await, 2);
        assert_eq!(fault.code.as_str(), "store-refused");
        assert!(fault.message.contains(&*rig.state().to_string_lossy()), "{fault}");
        assert!(fault.message.contains("CHECKPOINT_URL"), "{fault}");
        assert_eq!(rig.simulator.calls().all_listings(), 0);
    }
}

/// The same in Azure Blob Storage, as Azurite has it.
mod in_azure {
    use super::*;

    fn store(azurite: &Azurite, container: &Url) -> Arc<dyn Store> {
        let access = BlobAccess::Sas(sas("rcwdl").into());
        Arc::new(BlobStore::new(container.clone(), access, &azurite.http).unwrap())
    }

    async fn read(store: &dyn Store, name: &str) -> Vec<u8> {
        store.read(name).await.unwrap().unwrap().to_vec()
    }

    #[tokio::test]
    async fn all_is_in_a_container_as_in_a_folder() {
        let Some(azurite) = Azurite::start().await else { return };
        a_pull_keeps_checkpoints_and_quarantine(&azurite).await;
        the_lease_lets_one_work_at_a_time(&azurite).await;
    }

    async fn a_pull_keeps_checkpoints_and_quarantine(azurite: &Azurite) {
        let container = azurite.create_container("pull").await;
        let store = store(azurite, &container);
        let lines = events(STREAM, 30);
        let whole = BatchFile::of_lines("b.json.gz", &lines[20..]);
        let damaged = whole.clone().damaged(whole.bytes.len() / 2);
        let world = World::default()
            .page(STREAM, page(&[("a.json.gz", &lines[..20])]).file(damaged.clone()))
            .page("urlclick", page(&[("c.json.gz", &events("urlclick", 4))]));
        let refused = id(&lines[5]);
        let plan = FaultPlan::none().poison(move |row| row["EventId"] == refused.as_str());
        let rig = Rig::new(world, plan).await;
        let connector = rig.connector_on(Arc::clone(&store));

        let run = pull(&connector).await;
        assert_caught_up(&run);
        assert_eq!(run.total(|stream| stream.rows_quarantined), 1);
        let delivered = run.total(|stream| stream.rows_delivered);
        assert_eq!(run.total(|stream| stream.events_read), delivered + 1);
        assert_eq!(rig.simulator.landed_count(), delivered);
        rig.assert_no_violations();

        let names = store.list("").await.unwrap();
        let (checkpoints, kept): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| name.starts_with("checkpoints/"));
        assert_eq!(checkpoints, ["entities", STREAM, "urlclick"].map(checkpoint_name).each_ref());
        for name in checkpoints {
            let checkpoint = Checkpoint::parse(&read(store.as_ref(), name).await).unwrap();
            assert!(token_of(&checkpoint.cursor).is_some(), "{name}");
        }
        let (files, records): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|name| name.contains("/file-"));
        assert_eq!(files.len(), 1);
        assert_eq!(read(store.as_ref(), files[0]).await, damaged.bytes, "byte for byte");
        let mut reasons = Vec::new();
        for name in records {
            let record: Value = serde_json::from_slice(&read(store.as_ref(), name).await).unwrap();
            reasons.push((record["reason"].as_str().unwrap().to_owned(), record));
        }
        reasons.sort_by(|a, b| a.0.cmp(&b.0));
        let [(corrupt, of_file), (refused, of_row)] = &reasons[..] else { panic!("{reasons:?}") };
        assert_eq!([corrupt.as_str(), refused], ["corrupt-file", "row-refused"]);
        assert_eq!(of_file["file_kept_as"], **files[0]);
        assert_eq!(of_row["original"], lines[5]);

        let again = pull(&connector).await;
        assert_caught_up(&again);
        assert_eq!(again.total(|stream| stream.events_read), 0);
        assert_eq!(store.list("").await.unwrap(), names);
    }

    async fn the_lease_lets_one_work_at_a_time(azurite: &Azurite) {
        let container = azurite.create_container("busy").await;
        let (rig, lines) = leases::rig(3).await;
        leases::is_held_by_one(&rig, &lines, store(azurite, &container)).await;

        let container = azurite.create_container("both").await;
        let (rig, lines) = leases::rig(3).await;
        let stores = [store(azurite, &container), store(azurite, &container)];
        leases::lets_two_deliver_everything_once(&rig, &lines, stores).await;

        let container = azurite.create_container("broken").await;
        let lines = events(STREAM, 10);
        let world = World::default().page(STREAM, page(&[("a.json.gz", &lines)]));
        let rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
        let store = store(azurite, &container);
        let broken = azurite.lease_breaker(&container, &checkpoint_name(STREAM));
        leases::that_is_lost_stops_the_stream(&rig, &lines, store, broken).await;
    }
}
