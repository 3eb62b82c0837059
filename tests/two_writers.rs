//! Two connectors on one checkpoint: in every interleaving of a small history, on a model of a
//! leased blob; and in chosen ones on a folder, and on Azure Blob Storage as Azurite has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mimecast_sentinel::checkpoint::{Checkpoint, Position};
use mimecast_sentinel::pipeline::{Outcome, Pool, RunSummary};
use serde_json::Value;

use crate::support::doubles::{MemorySource, numbered};
use crate::support::scenario::token_of;

/// What the two have recorded, and each of them.
#[derive(Default)]
struct Recorded {
    stored: Vec<u8>,
    rows: BTreeSet<u64>,
    by: BTreeMap<char, BTreeSet<u64>>,
}

impl Recorded {
    /// Looks at the stored checkpoint, which only `who` can have written since the last look.
    fn look(
        &mut self,
        who: char,
        stored: &[u8],
        landed: &[(char, u64)],
        source: &MemorySource,
    ) -> Result<(), String> {
        if self.stored == stored {
            return Ok(());
        }
        self.stored = stored.to_vec();
        let checkpoint = Checkpoint::parse(stored).unwrap();
        let now = rows_behind(&checkpoint, source);
        if !now.is_superset(&self.rows) {
            return Err(format!("progress went back from {:?} to {now:?}", self.rows));
        }
        if let Some(row) = now.iter().find(|row| landed.iter().all(|(_, other)| other != *row)) {
            return Err(format!("row {row} is recorded and was never accepted"));
        }
        let total = checkpoint.totals.rows_delivered;
        if total != now.len() as u64 {
            return Err(format!("{now:?} is recorded as {total} rows: steps overlap"));
        }
        self.by.entry(who).or_default().extend(now.difference(&self.rows));
        self.rows = now;
        Ok(())
    }

    /// What must hold when both have ended: as `a` and `b`.
    fn judge(&self, runs: [&RunSummary; 2], landed: &[(char, u64)]) -> Result<(), String> {
        for (who, run) in ['A', 'B'].into_iter().zip(runs) {
            let mut sent: Vec<u64> =
                landed.iter().filter(|(by, _)| *by == who).map(|(_, row)| *row).collect();
            sent.sort_unstable();
            if sent.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(format!("{who} sent a row twice: {sent:?}"));
            }
            let sent: BTreeSet<u64> = sent.into_iter().collect();
            let recorded = self.by.get(&who).cloned().unwrap_or_default();
            if !recorded.is_subset(&sent) {
                return Err(format!("{who} recorded {recorded:?} and sent {sent:?}"));
            }
            let ending = ending(run)?;
            let right = match ending {
                "caught up" => sent == recorded && run.exit_code() == 0,
                "busy" => sent.is_empty() && run.exit_code() == 1,
                // It may have sent what it could not record any more: those rows come twice.
                _ => run.exit_code() == 1,
            };
            if !right {
                return Err(format!("{who} sent {sent:?}, recorded {recorded:?}, and is {ending}"));
            }
        }
        Ok(())
    }
}

/// One page of two files, each a body.
fn two_bodies() -> MemorySource {
    MemorySource::default().page(&[("f", &numbered(0..1)), ("g", &numbered(1..2))])
}

/// The rows that a checkpoint has passed.
fn rows_behind(checkpoint: &Checkpoint, source: &MemorySource) -> BTreeSet<u64> {
    let page = token_of(&checkpoint.cursor).map_or(0, |token| token.parse().unwrap());
    let mut rows = BTreeSet::new();
    for (index, files) in source.pages.iter().enumerate() {
        for (name, lines) in files {
            let done = match checkpoint.files.get(name).map(|progress| progress.done) {
                _ if index < page => lines.len(),
                Some(Position::End) if index == page => lines.len(),
                Some(Position::Line(line)) if index == page => line as usize,
                _ => 0,
            };
            rows.extend(lines[..done].iter().map(|line| row_of(line)));
        }
    }
    rows
}

fn row_of(line: &str) -> u64 {
    serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap()
}

/// How a run ended, if it is one of the three ways in which it may.
fn ending(run: &RunSummary) -> Result<&'static str, String> {
    let code = run.streams[0].error.as_ref().map(|fault| fault.code.as_str());
    match (run.outcome, code) {
        (Outcome::CaughtUp, None) => Ok("caught up"),
        (Outcome::Busy, None) => Ok("busy"),
        (Outcome::Failed, Some("lease-lost")) => Ok("stopped"),
        _ => Err(format!("{run:#?}")),
    }
}

/// Each listing, and each effect on the store and the sink, is one step; the clock moves only by a
/// step of its own.
mod every_interleaving {
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::time::Duration;

    use chrono::DateTime;
    use mimecast_sentinel::pipeline::{Connector, Policy};
    use mimecast_sentinel::seams::Clock;
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, sleep, sleep_until};

    use super::*;
    use crate::support::doubles::in_memory;
    use crate::support::leased_blob::{Blob, BlobOf, RENEW_EVERY, TERM};
    use crate::support::rig::run as pull;
    use crate::support::steps::{Landed, Step, SteppedSink, SteppedSource, Steps};

    /// By so much the clock moves at a time: a renewal is due, and who waits asks again. The half
    /// second is for the milliseconds that go by between steps.
    const TICK: Duration = Duration::from_millis(RENEW_EVERY.as_millis() as u64 + 500);

    /// So often it may move while somebody could go on: for a term.
    const TICKS: u32 = 2;

    /// What both have to do.
    struct History {
        source: MemorySource,
        in_flight: usize,
    }

    impl History {
        fn of_two_bodies(in_flight: usize) -> Self {
            Self { source: two_bodies(), in_flight }
        }

        fn policy(&self) -> Policy {
            Policy {
                body_wait: Duration::ZERO,
                look_every: 1,
                gzip_level: 0,
                save_after: Duration::from_secs(3600),
                // Three tries; the last is after a term.
                lease_wait: TERM + Duration::from_secs(5),
                lease_poll: RENEW_EVERY,
                ..Policy::default()
            }
        }
    }

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Choice {
        Permit(Step),
        Tick,
    }

    /// The two at one point of one interleaving.
    struct Pair<'a> {
        history: &'a History,
        start: Instant,
        ticks: u32,
        steps: Steps,
        blob: Arc<Mutex<Blob>>,
        landed: Landed,
        broken: Arc<Mutex<Vec<String>>>,
        running: [JoinHandle<()>; 2],
        ended: Arc<Mutex<BTreeMap<char, RunSummary>>>,
        recorded: Recorded,
        /// The steps that each has taken.
        taken: BTreeMap<char, Vec<String>>,
        schedule: Vec<Choice>,
    }

    impl<'a> Pair<'a> {
        async fn begin(history: &'a History) -> Self {
            let (steps, blob, landed) = (Steps::default(), Arc::default(), Landed::default());
            let broken = Arc::default();
            let ended: Arc<Mutex<BTreeMap<char, RunSummary>>> = Arc::default();
            let running = ['A', 'B'].map(|who| {
                let connector = connector(who, history, &steps, &blob, &landed, &broken);
                let ended = Arc::clone(&ended);
                tokio::spawn(async move {
                    let run = pull(&connector).await;
                    ended.lock().unwrap().insert(who, run);
                })
            });
            let (recorded, taken) = (Recorded::default(), BTreeMap::new());
            let (start, schedule) = (Instant::now(), Vec::new());
            let pair = Self {
                history,
                start,
                ticks: 0,
                steps,
                blob,
                landed,
                broken,
                running,
                ended,
                recorded,
                taken,
                schedule,
            };
            settle().await;
            pair
        }

        /// All that can happen next. It begins when the first has the lease, and that is called A.
        fn choices(&self) -> Vec<Choice> {
            let mut steps = self.steps.waiting();
            if self.schedule.is_empty() {
                steps.retain(|(who, _)| *who == 'A');
                return steps.into_iter().map(Choice::Permit).collect();
            }
            let may_tick = self.ticks < TICKS || steps.is_empty();
            let tick = (self.ended.lock().unwrap().len() < 2 && may_tick).then_some(Choice::Tick);
            steps.into_iter().map(Choice::Permit).chain(tick).collect()
        }

        async fn take(&mut self, choice: Choice) {
            let by = match &choice {
                Choice::Permit(step) => {
                    self.steps.permit(step);
                    self.taken.entry(step.0).or_default().push(step.1.clone());
                    step.0
                }
                Choice::Tick => {
                    self.ticks += 1;
                    sleep_until(self.start + TICK * self.ticks).await;
                    '-'
                }
            };
            self.schedule.push(choice);
            settle().await;
            self.look(by);
        }

        /// Holds what is stored now against what it was.
        fn look(&mut self, by: char) {
            let stored = self.blob.lock().unwrap().bytes.clone();
            let landed = self.landed.lock().unwrap().clone();
            let looked = self.recorded.look(by, &stored, &landed, &self.history.source);
            self.hold(looked);
            let broken = self.broken.lock().unwrap().pop();
            self.hold(broken.map_or(Ok(()), Err));
        }

        /// Whatever follows depends on nothing but this. Of a renewal, what came of it counts.
        fn state(&self) -> String {
            let blob = self.blob.lock().unwrap();
            let ended = self.ended.lock().unwrap();
            let so_far = ['A', 'B'].map(|who| match ended.get(&who) {
                Some(run) => ending(run).unwrap_or_default().to_owned(),
                None => {
                    let seen = blob.log.iter().filter(|(by, _)| *by == who).map(|(_, what)| what);
                    let taken = self.taken.get(&who).into_iter().flatten();
                    let steps = taken.chain(seen).filter(|what| !what.starts_with("renew"));
                    let mut steps: Vec<&str> = steps.map(String::as_str).collect();
                    steps.sort_unstable();
                    steps.join(", ")
                }
            });
            let mut landed = self.landed.lock().unwrap().clone();
            landed.sort_unstable();
            // All waits are of half seconds; the milliseconds are those between steps.
            let when = |time: Instant| (time - self.start).as_millis() / 500;
            let lease = blob.lease.as_ref().map(|lease| (lease.id, when(lease.until)));
            let terms: Vec<String> = blob.terms.values().map(|term| term.said(when)).collect();
            let asking: Vec<_> = blob.asking.iter().map(|(who, at)| (*who, when(*at))).collect();
            let (waiting, by, bytes) = (self.steps.waiting(), &self.recorded.by, &blob.bytes);
            let shared =
                format!("{} {waiting:?} {landed:?} {by:?} {lease:?} {bytes:?}", self.ticks);
            format!("{shared} {so_far:?} {asking:?} {terms:?}")
        }

        /// Both have ended. The next run ends the work; how the two ended, in a few words.
        async fn judge(mut self) -> String {
            let runs = self.ended.lock().unwrap().clone();
            let (a, b) = (&runs[&'A'], &runs[&'B']);
            let landed = self.landed.lock().unwrap().clone();
            let judged = self.recorded.judge([a, b], &landed);
            self.hold(judged);
            let [a, b] = [a, b].map(|run| ending(run).unwrap());
            self.hold(match [a, b].contains(&"stopped") && TICK * self.ticks < TERM {
                true => Err(format!("{a} and {b}, and no lease can have run out")),
                false => Ok(()),
            });

            sleep(TERM).await;
            let (history, steps) = (self.history, &self.steps);
            steps.free('C');
            let lines = history.source.pages.iter().flatten().flat_map(|(_, lines)| lines);
            let expected: BTreeSet<u64> = lines.map(|line| row_of(line)).collect();
            let connector = connector('C', history, steps, &self.blob, &self.landed, &self.broken);
            let last = pull(&connector).await;
            let ended = ending(&last);
            self.hold(match ended {
                Ok("caught up") => Ok(()),
                _ => Err(format!("after {a} and {b}: {last:#?}")),
            });
            let stored = self.blob.lock().unwrap().bytes.clone();
            let landed = self.landed.lock().unwrap().clone();
            let unrecorded = expected.len() - self.recorded.rows.len();
            let looked = self.recorded.look('C', &stored, &landed, &history.source);
            self.hold(looked);
            let sent = landed.iter().filter(|(who, _)| *who == 'C').count();
            self.hold(match sent == unrecorded {
                true => Ok(()),
                false => Err(format!("the next run sent {sent} rows, not {unrecorded}")),
            });
            let rows: BTreeSet<u64> = landed.iter().map(|(_, row)| *row).collect();
            self.hold(match self.recorded.rows == expected && rows == expected {
                true => Ok(()),
                false => Err(format!("landed {landed:?}, recorded {:?}", self.recorded.rows)),
            });
            format!("A {a}, B {b}, {} rows twice", landed.len() - rows.len())
        }

        fn schedule(&self) -> String {
            let said = |choice: &Choice| match choice {
                Choice::Permit((who, what)) => format!("{who} {what}"),
                Choice::Tick => "tick".to_owned(),
            };
            self.schedule.iter().map(said).collect::<Vec<_>>().join(", ")
        }

        #[track_caller]
        fn hold(&self, result: Result<(), String>) {
            if let Err(broken) = result {
                panic!("{broken}\nin the interleaving: {}", self.schedule());
            }
        }
    }

    impl Drop for Pair<'_> {
        fn drop(&mut self) {
            self.running.iter().for_each(JoinHandle::abort);
            self.steps.end();
        }
    }

    fn connector(
        who: char,
        history: &History,
        steps: &Steps,
        blob: &Arc<Mutex<Blob>>,
        landed: &Landed,
        broken: &Arc<Mutex<Vec<String>>>,
    ) -> Connector {
        let on_post = {
            let (blob, broken) = (Arc::clone(blob), Arc::clone(broken));
            let source = history.source.clone();
            move |rows: &[u64]| {
                let blob = blob.lock().unwrap();
                if blob.holder() != Some(who) {
                    broken.lock().unwrap().push(format!("{who} posts {rows:?} without the lease"));
                }
                let recorded = match &blob.bytes[..] {
                    [] => BTreeSet::new(),
                    bytes => rows_behind(&Checkpoint::parse(bytes).unwrap(), &source),
                };
                if rows.iter().any(|row| recorded.contains(row)) {
                    let what =
                        format!("{who} posts {rows:?}, and {recorded:?} of them is recorded");
                    broken.lock().unwrap().push(what);
                }
            }
        };
        let (steps, blob, landed) = (steps.clone(), Arc::clone(blob), Arc::clone(landed));
        let sink = SteppedSink { who, steps: steps.clone(), landed, on_post: Box::new(on_post) };
        let store = Arc::new(BlobOf { who, blob, steps: steps.clone() });
        let mut connector = in_memory(&history.source, Arc::new(sink), store, history.policy());
        connector.pool = Pool::new(history.in_flight);
        connector.source = Arc::new(SteppedSource { who, steps, source: history.source.clone() });
        connector.clock = Clock::from_fn(|| DateTime::UNIX_EPOCH);
        connector
    }

    /// Comes when nobody can go on: a paused clock moves only then.
    async fn settle() {
        sleep(Duration::from_millis(1)).await;
    }

    /// From each state, what can happen and to which state that leads.
    type Graph = HashMap<String, BTreeMap<Choice, String>>;

    /// Depth first. Two interleavings that come to the same state are followed once from there.
    async fn explore(history: &History) -> (u128, BTreeMap<String, u32>) {
        let mut graph = Graph::new();
        let mut endings = BTreeMap::new();
        let mut untried = vec![Vec::new()];
        let mut root = String::new();
        let mut runs = 0;
        while let Some(mut prefix) = untried.pop() {
            runs += 1;
            let last = prefix.pop();
            let mut pair = Pair::begin(history).await;
            for choice in prefix {
                pair.take(choice).await;
            }
            let mut state = pair.state();
            let mut next = last;
            if next.is_none() {
                root.clone_from(&state);
            }
            loop {
                if let Some(choice) = next.take() {
                    pair.take(choice.clone()).await;
                    let from = std::mem::replace(&mut state, pair.state());
                    let known = graph.get_mut(&from);
                    let known = known.unwrap_or_else(|| panic!("unsteady: {}", pair.schedule()));
                    known.insert(choice, state.clone());
                }
                if let Some(known) = graph.get(&state) {
                    // What was seen from here must be seen again, or states are merged that differ.
                    let Some(choice) = known.keys().nth(runs % known.len().max(1)) else { break };
                    let (choice, expected) = (choice.clone(), known[choice].clone());
                    pair.take(choice).await;
                    assert_eq!(pair.state(), expected, "{}", pair.schedule());
                    break;
                }
                graph.insert(state.clone(), BTreeMap::new());
                let mut choices = pair.choices().into_iter();
                next = choices.next();
                untried.extend(choices.map(|other| [&pair.schedule[..], &[other]].concat()));
                if next.is_none() {
                    *endings.entry(pair.judge().await).or_default() += 1;
                    break;
                }
            }
        }
        let mut ways = HashMap::new();
        let interleavings = ways_from(&root, &graph, &mut ways);
        println!("{interleavings} interleavings, {} states, {runs} runs", graph.len());
        println!("{endings:#?}");
        (interleavings, endings)
    }

    /// In how many ways a state goes on to an end.
    fn ways_from<'a>(state: &'a str, graph: &'a Graph, known: &mut HashMap<&'a str, u128>) -> u128 {
        if let Some(ways) = known.get(state) {
            return *ways;
        }
        let next = &graph[state];
        let ways = next.values().map(|next| ways_from(next, graph, known)).sum::<u128>();
        let ways = ways.max(u128::from(next.is_empty()));
        known.insert(state, ways);
        ways
    }

    #[tokio::test(start_paused = true)]
    async fn every_interleaving_with_one_body_in_flight_loses_nothing() {
        let (interleavings, endings) = explore(&History::of_two_bodies(1)).await;
        assert!(interleavings > 500_000);
        assert_seen(&endings, &["A stopped, B caught up, 1 rows twice"]);
    }

    #[tokio::test(start_paused = true)]
    async fn every_interleaving_with_both_bodies_in_flight_loses_nothing() {
        let (interleavings, endings) = explore(&History::of_two_bodies(2)).await;
        assert!(interleavings > 100_000_000);
        assert_seen(&endings, &["A stopped, B caught up, 2 rows twice"]);
    }

    /// Without these, too little can happen.
    fn assert_seen(endings: &BTreeMap<String, u32>, more: &[&str]) {
        let always = [
            "A caught up, B busy, 0 rows twice",
            "A caught up, B caught up, 0 rows twice",
            "A stopped, B caught up, 0 rows twice",
        ];
        for ending in always.iter().chain(more) {
            assert!(endings.contains_key(*ending), "never: {ending}");
        }
    }
}

/// Some interleavings on the stores there are. A lease that has run out is one that a third party
/// took away: an OS lock has no term, and that of Azure is too long to be waited for.
mod chosen_interleavings {
    use std::time::Duration;

    use async_trait::async_trait;
    use mimecast_sentinel::azure::blob::{BlobAccess, BlobStore};
    use mimecast_sentinel::pipeline::{Connector, Policy, checkpoint_name};
    use mimecast_sentinel::store::{FolderStore, Store};
    use tempfile::TempDir;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;
    use url::Url;

    use super::*;
    use crate::support::azurite::{Azurite, sas};
    use crate::support::doubles::in_memory;
    use crate::support::rig::run as pull;
    use crate::support::steps::{Landed, SteppedSink, Steps, answer_to};

    /// What happens in turn, and how A and B end. `B ends`: it does all that it can do. `unanswered`:
    /// the step is done, and who did it does not know yet. `lost`: A's lease is taken away.
    const CHOSEN: [(&str, &str, &str); 11] = [
        // Before the first post each writes what it found. The second comes when nothing is posted
        // yet,
        ("A lease, A read, B ends, A ends", "caught up", "busy"),
        // when a body is accepted and A does not know it,
        ("A lease, A read, A save, A post 0 unanswered, B ends, A ends", "caught up", "busy"),
        // when progress is written and A does not know it,
        (
            "A lease, A read, A save, A post 0, A save unanswered, B ends, A ends",
            "caught up",
            "busy",
        ),
        // when all is done but the release,
        (
            "A lease, A read, A save, A post 0, A save, A post 1, A save, A save, B ends, A ends",
            "caught up",
            "busy",
        ),
        // or it waits, asks again and again, and finds nothing left to do.
        (
            "A lease, B waits, B lease, A read, A save, A post 0, B lease, A save, A post 1, B lease, \
             A save, A save, B lease, A release, B ends, A ends",
            "caught up",
            "caught up",
        ),
        // A is held up before its posts arrive,
        ("A lease, A read, lost, B ends, A ends", "stopped", "caught up"),
        // before it knows that one did,
        (
            "A lease, A read, A save, A post 0 unanswered, lost, B ends, A ends",
            "stopped",
            "caught up",
        ),
        // before it writes: B has the lease and has written nothing,
        (
            "A lease, A read, A save, A post 0, lost, B lease, B read, A ends, B ends",
            "stopped",
            "caught up",
        ),
        // or has written just what A would,
        (
            "A lease, A read, A save, A post 0, lost, B lease, B read, B save, B post 0, B save, A ends, \
             B ends",
            "stopped",
            "caught up",
        ),
        // before it knows that it has written,
        (
            "A lease, A read, A save, A post 0, A save unanswered, lost, B ends, A ends",
            "stopped",
            "caught up",
        ),
        // or with all done: its release does not release what B holds now.
        (
            "A lease, A read, A save, A post 0, A save, A post 1, A save, A save, lost, B lease, \
             A ends, C is busy, B ends",
            "caught up",
            "caught up",
        ),
    ];

    /// A store that is empty at first, and a way to take a lease away.
    #[async_trait]
    trait Place: Sync {
        fn store(&self) -> Arc<dyn Store>;

        async fn take_lease_away(&self);
    }

    struct Folder(TempDir);

    #[async_trait]
    impl Place for Folder {
        fn store(&self) -> Arc<dyn Store> {
            Arc::new(FolderStore::new(self.0.path()))
        }

        async fn take_lease_away(&self) {
            let lock = format!("{}.lock", checkpoint_name("numbers"));
            std::fs::remove_file(self.0.path().join(lock)).unwrap();
        }
    }

    struct Container<'a>(&'a Azurite, Url);

    #[async_trait]
    impl Place for Container<'_> {
        fn store(&self) -> Arc<dyn Store> {
            let access = BlobAccess::Sas(sas("rcwdl").into());
            Arc::new(BlobStore::new(self.1.clone(), access, &self.0.http).unwrap())
        }

        async fn take_lease_away(&self) {
            self.0.lease_breaker(&self.1, &checkpoint_name("numbers"))().await;
        }
    }

    #[tokio::test]
    async fn chosen_interleavings_in_a_folder_end_as_they_should() {
        for (script, a, b) in CHOSEN {
            play(&Folder(tempfile::tempdir().unwrap()), script, [a, b]).await;
        }
    }

    #[tokio::test]
    async fn chosen_interleavings_in_azure_end_as_they_should() {
        let Some(azurite) = Azurite::start().await else { return };
        for (number, (script, a, b)) in CHOSEN.into_iter().enumerate() {
            let container = azurite.create_container(&format!("writers-{number}")).await;
            play(&Container(&azurite, container), script, [a, b]).await;
        }
    }

    async fn play(place: &dyn Place, script: &str, expected: [&str; 2]) {
        let mut pair = Pair::begin(place, script.contains("B waits"));
        let played = timeout(Duration::from_secs(60), pair.play(script)).await;
        let waiting = pair.steps.waiting();
        let runs = played.unwrap_or_else(|_| panic!("{script}\nhangs with {waiting:?} waiting"));
        let landed = pair.landed.lock().unwrap().clone();
        let judged = pair.recorded.judge([&runs[&'A'], &runs[&'B']], &landed);
        judged.unwrap_or_else(|broken| panic!("{script}\n{broken}"));
        let ended = ['A', 'B'].map(|who| ending(&runs[&who]).unwrap());
        assert_eq!(ended, expected, "{script}");
        let rows: BTreeSet<u64> = landed.iter().map(|(_, row)| *row).collect();
        assert_eq!((&rows, &pair.recorded.rows), (&[0, 1].into(), &[0, 1].into()), "{script}");
    }

    struct Pair<'a> {
        place: &'a dyn Place,
        source: MemorySource,
        steps: Steps,
        landed: Landed,
        recorded: Recorded,
        running: BTreeMap<char, JoinHandle<RunSummary>>,
    }

    impl<'a> Pair<'a> {
        fn begin(place: &'a dyn Place, b_waits: bool) -> Self {
            let (steps, landed) = (Steps::default(), Landed::default());
            let (source, recorded) = (two_bodies(), Recorded::default());
            let running = BTreeMap::new();
            let mut pair = Self { place, source, steps, landed, recorded, running };
            for who in ['A', 'B'] {
                let patience = if who == 'B' && b_waits { 3600 } else { 0 };
                let connector = pair.connector(who, Duration::from_secs(patience));
                pair.running.insert(who, tokio::spawn(async move { pull(&connector).await }));
            }
            pair
        }

        fn connector(&self, who: char, lease_wait: Duration) -> Connector {
            let policy = Policy {
                body_wait: Duration::ZERO,
                look_every: 1,
                lease_wait,
                lease_poll: Duration::from_millis(1),
                ..Policy::default()
            };
            let (steps, landed) = (self.steps.clone(), Arc::clone(&self.landed));
            let on_post = Box::new(|_: &[u64]| {});
            let sink = SteppedSink { who, steps: steps.clone(), landed, on_post };
            let store = steps.store(who, self.place.store());
            in_memory(&self.source, Arc::new(sink), store, policy)
        }

        /// How each ended.
        async fn play(&mut self, script: &str) -> BTreeMap<char, RunSummary> {
            let mut runs = BTreeMap::new();
            for line in script.split(", ") {
                let (who, what) = (line.chars().next().unwrap(), line.get(2..).unwrap());
                match what {
                    _ if line == "lost" => self.place.take_lease_away().await,
                    "waits" => {}
                    "ends" => {
                        self.steps.free(who);
                        runs.insert(who, self.running.remove(&who).unwrap().await.unwrap());
                    }
                    "is busy" => {
                        self.steps.free(who);
                        let run = pull(&self.connector(who, Duration::ZERO)).await;
                        assert_eq!(run.outcome, Outcome::Busy);
                    }
                    _ => self.step(who, what).await,
                }
                let stored = self.place.store().read(&checkpoint_name("numbers")).await.unwrap();
                let landed = self.landed.lock().unwrap().clone();
                let stored = stored.unwrap_or_default();
                let looked = self.recorded.look(who, &stored, &landed, &self.source);
                looked.unwrap_or_else(|broken| panic!("{script}\nat {line}: {broken}"));
            }
            runs
        }

        /// Permits a step, and the answer to it unless that is to come later.
        async fn step(&self, who: char, what: &str) {
            let (what, answered) = match what.strip_suffix(" unanswered") {
                Some(what) => (what, false),
                None => (what, true),
            };
            let (step, answer) = ((who, what.to_owned()), (who, answer_to(what)));
            self.steps.until_waiting(&step).await;
            self.steps.permit(&step);
            self.steps.until_waiting(&answer).await;
            if answered {
                self.steps.permit(&answer);
            }
        }
    }
}
