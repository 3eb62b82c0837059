//! The promise, held against made-up histories: several runs over a small world, in which anything
//! may go wrong at both ends at any time. What must have landed is known; when the trouble is over,
//! it has, or is in quarantine.
//!
//! All of the connector is real but the store. Time is tokio's, paused: it goes on when
//! nothing else does, so that a timeout of a minute takes milliseconds. `PROPTEST_CASES` sets how
//! many histories are tried. A failing one is made small and printed, with the line that repeats it;
//! those that failed once are in the file beside this one, and tried first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use flate2::read::GzDecoder;
use mimecast_sentinel::checkpoint::{Checkpoint, Position};
use mimecast_sentinel::http::RetryPolicy;
use mimecast_sentinel::pipeline::{Outcome, Policy, RunSummary};
use mimecast_sentinel::quarantine::{is_kept_line, is_record};
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, Moment, NextToken, Page, SimulatorOptions, World,
};
use mimecast_sentinel::table::EventId;
use proptest::prelude::*;
use proptest::test_runner::{FailurePersistence, PersistedSeed};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::support::doubles::{Act, MemoryStore, WatchedStore};
use crate::support::rig::{Rig, Tools, run};
use crate::support::scenario::{DAY, token_at, token_of};

/// Histories that are tried if nobody says how many.
const HISTORIES: u32 = 400;
const STREAMS: [&str; 3] = ["entities", "mailflow", "urlclick"];
const MAX_LINE_BYTES: u64 = 1_500;
/// Runs after which the trouble must be over.
const LAST_RUNS: usize = 40;

/// Everything that happens.
#[derive(Clone, Debug)]
struct History {
    seed: u64,
    /// The pages of each stream.
    streams: Vec<Vec<PagePlan>>,
    /// Of a thousand requests, how many meet a passing fault.
    per_mille: u16,
    /// The faults that the first requests meet.
    script: Vec<(Endpoint, Fault)>,
    signature_listings: Option<u64>,
    token_seconds: u64,
    /// A body for each row.
    row_by_row: bool,
    visits: Vec<Visit>,
}

#[derive(Clone, Debug)]
struct PagePlan {
    files: Vec<FilePlan>,
    /// What its token is until the last runs.
    next: NextToken,
    caught_up: bool,
}

#[derive(Clone, Debug)]
struct FilePlan {
    lines: Vec<LineKind>,
    damage: Option<Damage>,
    etag: bool,
    /// How many requests for it are refused, whatever its address.
    forbidden: usize,
    /// The page behind it lists it too.
    twice: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineKind {
    Event,
    /// An event that Azure refuses.
    Refused,
    NotJson,
    Blank,
    /// Longer than `MAX_LINE_BYTES`.
    Long,
}

/// At so many thousandths of the file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut(usize),
    Ones(usize),
    Flip(usize),
}

/// One run.
#[derive(Clone, Debug)]
struct Visit {
    trouble: Trouble,
    limit: u64,
    /// Whether the identity has no role on the rule.
    no_role: bool,
    /// How far the wall clock jumps at each look at it, in seconds.
    clock: Vec<i64>,
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// The process dies at this request.
    Dies(u64, Moment),
    /// A call to the store.
    Store(usize, Act),
    /// At this request, something changes at Mimecast.
    Change(u64, Change),
}

#[derive(Clone, Copy, Debug)]
enum Change {
    /// Every page lists its files the other way round.
    Reverse,
    /// The page's files are no longer listed.
    Empty { stream: usize, page: usize },
    /// They are listed again.
    Restore,
    /// All page tokens are refused from now on.
    ForgetTokens,
}

fn line_kind() -> impl Strategy<Value = LineKind> {
    prop_oneof![
        12 => Just(LineKind::Event),
        1 => Just(LineKind::Refused),
        1 => Just(LineKind::NotJson),
        1 => Just(LineKind::Blank),
        1 => Just(LineKind::Long),
    ]
}

fn file_plan() -> impl Strategy<Value = FilePlan> {
    let damage = prop_oneof![
        12 => Just(None),
        1 => (0..1_000usize).prop_map(|at| Some(Damage::Cut(at))),
        1 => (0..1_000usize).prop_map(|at| Some(Damage::Ones(at))),
        1 => (0..1_000usize).prop_map(|at| Some(Damage::Flip(at))),
    ];
    let lines = prop::collection::vec(line_kind(), 0..8);
    let forbidden = prop_oneof![20 => Just(0), 1 => 1..60usize];
    (lines, damage, prop::bool::weighted(0.9), forbidden, prop::bool::weighted(0.1)).prop_map(
        |(lines, damage, etag, forbidden, twice)| FilePlan {
            lines,
            damage,
            etag,
            forbidden,
            twice,
        },
    )
}

fn page_plan() -> impl Strategy<Value = PagePlan> {
    let next = prop_oneof![
        12 => Just(NextToken::Moves),
        1 => Just(NextToken::Unmoved),
        1 => Just(NextToken::Missing),
        1 => Just(NextToken::Empty),
    ];
    (prop::collection::vec(file_plan(), 0..5), next, prop::bool::weighted(0.1))
        .prop_map(|(files, next, caught_up)| PagePlan { files, next, caught_up })
}

/// Faults that may harm a row at most, never an event.
fn fault(endpoint: Endpoint) -> BoxedStrategy<Fault> {
    let slow = (1..100u64).prop_map(|seconds| Fault::Slow(Duration::from_secs(seconds)));
    let cut = (0..2_000usize).prop_map(Fault::CutShort);
    let any = prop_oneof![
        4 => Just(Fault::Nothing),
        2 => Just(Fault::Reset),
        2 => Just(Fault::LostReply),
        1 => Just(Fault::RequestTimeout),
        1 => Just(Fault::ServerError),
        1 => Just(Fault::Unavailable),
        1 => Just(Fault::TooManyRequests(None)),
        1 => Just(Fault::TooManyRequests(Some(("Retry-After", "900".to_owned())))),
        1 => Just(Fault::Unauthorized("token_verification_failed".to_owned())),
        1 => Just(Fault::Forbidden),
        1 => Just(Fault::NotFound),
        1 => slow,
        2 => cut,
        1 => Just(Fault::NotJson),
        1 => Just(Fault::Redirect("http://127.0.0.1:1/".to_owned())),
    ];
    let bad = |code: &str, message: &str| Fault::BadRequest {
        code: code.to_owned(),
        message: message.to_owned(),
    };
    match endpoint {
        // The wrong 200 is an empty one here: another text is rightly kept, as a damaged file.
        Endpoint::File => prop_oneof![
            8 => any.prop_map(|fault| if fault == Fault::NotJson { Fault::Empty } else { fault }),
            2 => Just(Fault::Expired),
            // What does not begin as gzip is not Mimecast's, and holds its stream up.
            1 => (0..600usize).prop_map(|at| Fault::Corrupt(at.max(2))),
        ]
        .boxed(),
        Endpoint::Listing => {
            prop_oneof![10 => any, 1 => Just(bad("Request Validation Failed", "Invalid token"))]
                .boxed()
        }
        Endpoint::Post => prop_oneof![
            10 => any,
            1 => Just(Fault::TooLarge),
            1 => Just(bad("InvalidRow", "A row cannot be taken.")),
        ]
        .boxed(),
        Endpoint::MimecastToken | Endpoint::AzureToken | Endpoint::Secret | Endpoint::Graph => {
            any.boxed()
        }
    }
}

fn scripted() -> impl Strategy<Value = (Endpoint, Fault)> {
    use Endpoint::{AzureToken, File, Listing, MimecastToken, Post};
    prop_oneof![
        1 => Just(MimecastToken),
        3 => Just(Listing),
        4 => Just(File),
        1 => Just(AzureToken),
        4 => Just(Post),
    ]
    .prop_flat_map(|endpoint| fault(endpoint).prop_map(move |fault| (endpoint, fault)))
}

fn visit() -> impl Strategy<Value = Visit> {
    let moment = prop_oneof![Just(Moment::Arrived), Just(Moment::CarriedOut)];
    let act =
        prop_oneof![Just(Act::Fail), Just(Act::HangBefore), Just(Act::HangAfter), Just(Act::Lose)];
    let change = prop_oneof![
        2 => Just(Change::Reverse),
        3 => (0..3usize, 0..4usize).prop_map(|(stream, page)| Change::Empty { stream, page }),
        1 => Just(Change::Restore),
        1 => Just(Change::ForgetTokens),
    ];
    let trouble = prop_oneof![
        3 => Just(Trouble::None),
        4 => (1..60u64, moment).prop_map(|(number, moment)| Trouble::Dies(number, moment)),
        2 => (1..20usize, act).prop_map(|(number, act)| Trouble::Store(number, act)),
        2 => (1..40u64, change).prop_map(|(number, change)| Trouble::Change(number, change)),
    ];
    let limit = prop_oneof![6 => Just(540), 1 => 1..60u64];
    let jump = prop_oneof![8 => Just(0), 1 => Just(-90_000), 1 => Just(3_600), 1 => Just(90_000)];
    let no_role = prop::bool::weighted(0.3);
    (trouble, limit, no_role, prop::collection::vec(jump, 1..6))
        .prop_map(|(trouble, limit, no_role, clock)| Visit { trouble, limit, no_role, clock })
}

fn history(row_by_row: bool) -> impl Strategy<Value = History> {
    let pages = prop::collection::vec(page_plan(), 0..4);
    let per_mille = prop_oneof![2 => Just(0), 1 => Just(50), 1 => Just(150)];
    let expire = prop_oneof![4 => Just(None), 1 => (1..3u64).prop_map(Some)];
    (
        any::<u64>(),
        prop::collection::vec(pages, 1..=3),
        per_mille,
        prop::collection::vec(scripted(), 0..14),
        (expire, prop_oneof![3 => Just(1_799), 1 => 1..40u64]),
        prop::collection::vec(visit(), 0..5),
    )
        .prop_map(
            move |(seed, streams, per_mille, script, (expire, token_seconds), visits)| History {
                seed,
                streams,
                per_mille,
                script,
                signature_listings: expire,
                token_seconds,
                row_by_row,
                visits,
            },
        )
}

/// One file of a page, and what is in it.
struct Listed {
    stream: usize,
    page: usize,
    file: BatchFile,
    forbidden: usize,
    /// The events, by line from 1.
    events: BTreeMap<u64, String>,
}

/// What Mimecast gives.
struct Given {
    world: World,
    listed: Vec<Listed>,
    refused: BTreeSet<String>,
    pages: Vec<Vec<Page>>,
}

fn id(line: &[u8]) -> String {
    EventId::of(line).to_string()
}

impl History {
    fn has_damage(&self) -> bool {
        let mut files = self.streams.iter().flatten().flat_map(|page| &page.files);
        let mut faults = self.script.iter().map(|(_, fault)| fault);
        files.any(|file| file.damage.is_some())
            || faults.any(|fault| matches!(fault, Fault::Corrupt(_)))
    }

    /// Whether Mimecast may refuse a page token: then the stream begins again, with a gap.
    fn drops_cursors(&self) -> bool {
        let refuses = |(endpoint, fault): &(Endpoint, Fault)| {
            *endpoint == Endpoint::Listing && matches!(fault, Fault::BadRequest { .. })
        };
        let forgets =
            |visit: &Visit| matches!(visit.trouble, Trouble::Change(_, Change::ForgetTokens));
        self.script.iter().any(refuses) || self.visits.iter().any(forgets)
    }

    fn given(&self) -> Given {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let (mut listed, mut refused) = (Vec::new(), BTreeSet::new());
        let (mut world, mut pages) = (World::default(), Vec::new());
        for (stream, plans) in self.streams.iter().enumerate() {
            let mut of_stream: Vec<Page> = Vec::new();
            let mut again: Vec<(BatchFile, BTreeMap<u64, String>)> = Vec::new();
            for (number, plan) in plans.iter().enumerate() {
                let day = DAY + chrono::Days::new(number as u64);
                let mut page = Page::new(day).caught_up(Some(plan.caught_up)).next(plan.next);
                let mut files: Vec<_> = std::mem::take(&mut again);
                let forbidden: Vec<usize> =
                    files.iter().map(|_| 0).chain(plan.files.iter().map(|f| f.forbidden)).collect();
                for (index, file) in plan.files.iter().enumerate() {
                    let name = format!("{number}-{index}.json.gz");
                    let lines: Vec<String> =
                        file.lines.iter().map(|kind| line(stream, *kind, &mut rng)).collect();
                    let events = lines.iter().zip(1..).filter(|(line, _)| !line.trim().is_empty());
                    let events: BTreeMap<u64, String> =
                        events.map(|(line, number)| (number, id(line.as_bytes()))).collect();
                    for (kind, number) in file.lines.iter().zip(1..) {
                        if *kind == LineKind::Refused {
                            refused.insert(events[&number].clone());
                        }
                    }
                    let made = file.made(&name, &lines);
                    if file.twice {
                        again.push((made.clone(), events.clone()));
                    }
                    files.push((made, events));
                }
                for ((file, events), forbidden) in files.into_iter().zip(forbidden) {
                    page = page.file(file.clone());
                    listed.push(Listed { stream, page: number, file, forbidden, events });
                }
                of_stream.push(page);
            }
            for page in &of_stream {
                world = world.page(STREAMS[stream], page.clone());
            }
            pages.push(of_stream);
        }
        Given { world, listed, refused, pages }
    }
}

fn line(stream: usize, kind: LineKind, rng: &mut fastrand::Rng) -> String {
    let pad = |most: usize, rng: &mut fastrand::Rng| {
        (0..rng.usize(..most)).map(|_| rng.alphanumeric()).collect::<String>()
    };
    let number = rng.u64(..);
    match kind {
        LineKind::Event | LineKind::Refused => format!(
            r#"{{"timestamp":1794268800000,"type":"{}","processingId":"{number}","subject":"{}"}}"#,
            STREAMS[stream],
            pad(300, rng)
        ),
        LineKind::NotJson => format!("{{\"{number}"),
        LineKind::Blank => " ".repeat(rng.usize(..3)),
        LineKind::Long => format!("{number}{}", "x".repeat(MAX_LINE_BYTES as usize)),
    }
}

impl FilePlan {
    fn made(&self, name: &str, lines: &[String]) -> BatchFile {
        let whole = BatchFile::of_lines(name, lines);
        // As above, it still begins as gzip.
        let at = |thousandth: usize| (whole.bytes.len() * thousandth / 1_000).max(2);
        let made = match self.damage {
            None => whole,
            Some(Damage::Cut(t)) => BatchFile::raw(name, whole.bytes.slice(..at(t))),
            Some(Damage::Ones(t)) => {
                let at = at(t);
                whole.damaged(at)
            }
            Some(Damage::Flip(t)) => {
                let mut bytes = whole.bytes.to_vec();
                bytes[at(t)] ^= 0x10;
                BatchFile::raw(name, bytes)
            }
        };
        if self.etag { made } else { made.without_etag() }
    }
}

/// Lets time go on while nothing else does: the longer nothing happens, the faster.
async fn pass_time(happened: Arc<AtomicU64>) {
    let (least, most) = (Duration::from_millis(1), Duration::from_secs(1));
    let (mut step, mut seen) = (least, 0);
    loop {
        tokio::time::advance(step).await;
        let now = happened.load(Ordering::Relaxed);
        step = if now == seen { (step * 5 / 4 + least / 4).min(most) } else { least };
        seen = now;
        if step > least * 20 {
            // For the threads that read files: the machine may be busy.
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}

thread_local! {
    static SHARED: RefCell<Option<(Arc<Tools>, Runtime)>> = const { RefCell::new(None) };
}

/// Tries one history on this thread's runtime.
fn try_out(history: &History) -> Result<(), TestCaseError> {
    SHARED.with_borrow_mut(|shared| {
        let (tools, runtime) = shared.get_or_insert_with(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().start_paused(true).build().unwrap();
            (Arc::new(Tools::new()), runtime)
        });
        runtime.block_on(Played::play(history, Arc::clone(tools)))
    })
}

/// A history that is played.
struct Played<'a> {
    history: &'a History,
    given: Given,
    rig: Rig,
    store: MemoryStore,
    happened: Arc<AtomicU64>,
    /// The request at which `reached` is notified, counted from the run's first.
    due: Arc<Mutex<Due>>,
    reached: Arc<Notify>,
    jumps: Arc<Mutex<Vec<i64>>>,
    /// Pages whose files were not listed for a while.
    emptied: BTreeSet<(usize, usize)>,
    /// Files that a checkpoint knew.
    begun: BTreeSet<String>,
}

#[derive(Default)]
struct Due {
    at: Option<(u64, Moment)>,
    dies: bool,
    dead: bool,
    seen: u64,
}

impl<'a> Played<'a> {
    async fn play(history: &'a History, tools: Arc<Tools>) -> Result<(), TestCaseError> {
        let given = history.given();
        let (happened, reached) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let due: Arc<Mutex<Due>> = Arc::default();
        let jumps: Arc<Mutex<Vec<i64>>> = Arc::default();
        let rig = rig(history, &given, tools, (&happened, &reached, &due, &jumps)).await;
        let passing = tokio::spawn(pass_time(Arc::clone(&happened)));
        let store = MemoryStore::default();
        let (emptied, begun) = (BTreeSet::new(), BTreeSet::new());
        let mut played =
            Self { history, given, rig, store, happened, due, reached, jumps, emptied, begun };
        let judged = played.all().await;
        passing.abort();
        judged
    }

    async fn all(&mut self) -> Result<(), TestCaseError> {
        for (number, visit) in self.history.visits.iter().enumerate() {
            self.visit(visit).await;
            self.remember();
            self.check_covered(&format!("after run {number}"))?;
        }
        self.change(Change::Restore, NextToken::Moves);
        *self.jumps.lock().unwrap() = vec![0];
        let mut last = None;
        for _ in 0..LAST_RUNS {
            let calm = Visit { trouble: Trouble::None, limit: 540, no_role: false, clock: vec![0] };
            self.quiet().await;
            let before = self.counts();
            let run = self.visit(&calm).await.unwrap();
            self.check_covered("in the last runs")?;
            self.check_doubles(&run, before)?;
            let at_end = run.outcome == Outcome::CaughtUp && self.is_at_end();
            last = Some(run);
            if at_end {
                return self.check_conserved(last.unwrap());
            }
        }
        let calls = self.rig.simulator.calls();
        Err(TestCaseError::fail(format!("no run came to the end: {last:#?}\n{calls:#?}")))
    }

    /// Waits until what the last run left on its way has arrived, or never will: it is not the next
    /// run's.
    async fn quiet(&self) {
        let mut seen = u64::MAX;
        while std::mem::replace(&mut seen, self.happened.load(Ordering::Relaxed)) != seen {
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
    }

    /// One run; `None` if the process died.
    async fn visit(&mut self, visit: &Visit) -> Option<RunSummary> {
        self.rig.policy = Policy {
            run_time_limit: Duration::from_secs(visit.limit),
            // The clocks here stand still.
            give_up: (TimeDelta::days(-100), 6),
            spill_after: Some(TimeDelta::days(-100)),
            ..Policy::default()
        };
        if self.history.row_by_row {
            self.rig.policy.body_wait = Duration::ZERO;
            self.rig.policy.look_every = 1;
        }
        self.jumps.lock().unwrap().clone_from(&visit.clock);
        self.rig.simulator.set_role(!visit.no_role);
        let (at, dies) = match visit.trouble {
            Trouble::Dies(number, moment) => (Some((number, moment)), true),
            Trouble::Change(number, _) => (Some((number, Moment::Arrived)), false),
            Trouble::None | Trouble::Store(..) => (None, false),
        };
        *self.due.lock().unwrap() = Due { at, dies, ..Due::default() };
        let happened = Arc::clone(&self.happened);
        let trouble = visit.trouble;
        let store = WatchedStore::new(Arc::new(self.store.clone()), move |number, call| {
            happened.fetch_add(1, Ordering::Relaxed);
            match trouble {
                // Only a checkpoint's lease can be lost.
                Trouble::Store(at, Act::Lose) if at == number && !call.is_save() => Act::Pass,
                Trouble::Store(at, act) if at == number => act,
                _ => Act::Pass,
            }
        });
        let hung = store.hung();
        let connector = self.rig.connector_on(Arc::new(store));
        let mut running = tokio::spawn(async move { run(&connector).await });
        loop {
            let dead = tokio::select! {
                ended = &mut running => return Some(ended.unwrap()),
                () = hung.notified() => true,
                () = self.reached.notified() => dies,
            };
            if dead {
                self.due.lock().unwrap().dead = true;
                running.abort();
                // It may have been done already.
                return running.await.ok();
            }
            if let Trouble::Change(_, change) = trouble {
                self.change(change, NextToken::Unmoved);
            }
        }
    }

    /// Something changes at Mimecast. `stuck` is what a page's token is that does not move.
    fn change(&mut self, change: Change, stuck: NextToken) {
        if let Change::ForgetTokens = change {
            self.rig.simulator.forget_page_tokens();
            return;
        }
        for (stream, pages) in self.given.pages.iter_mut().enumerate() {
            for (number, page) in pages.iter_mut().enumerate() {
                if stuck == NextToken::Moves {
                    page.next = NextToken::Moves;
                }
                let mut shown = page.clone();
                match change {
                    Change::Reverse => shown.files.reverse(),
                    Change::Empty { stream: of, page } if (of, page) == (stream, number) => {
                        self.emptied.insert((stream, number));
                        shown.files.clear();
                    }
                    Change::Empty { .. } => continue,
                    Change::Restore | Change::ForgetTokens => {}
                }
                self.rig.simulator.set_page(STREAMS[stream], number, shown);
            }
        }
    }

    /// How often each event landed.
    fn landed(&self) -> BTreeMap<String, usize> {
        let mut landed = BTreeMap::new();
        for row in self.rig.simulator.landed() {
            *landed.entry(row["EventId"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        landed
    }

    fn counts(&self) -> (u64, u64) {
        (self.rig.simulator.landed_count(), self.rig.simulator.calls().lost_rows)
    }

    /// Whether events are safe: landed, in quarantine alone or with their file, in spill, or reported
    /// as gone with their file.
    fn safe(&self) -> impl Fn(&Listed, u64) -> bool {
        let landed = self.landed();
        let mut kept = BTreeSet::new();
        let mut gone: BTreeSet<(String, u64)> = BTreeSet::new();
        let mut files: BTreeSet<Bytes> = BTreeSet::new();
        let objects = self.store.objects("quarantine/");
        let lines: BTreeMap<&str, String> = objects
            .iter()
            .filter(|(name, _)| is_kept_line(name))
            .map(|(name, bytes)| {
                let mut line = Vec::new();
                GzDecoder::new(&bytes[..]).read_to_end(&mut line).unwrap();
                (&**name, EventId::of(&line).to_string())
            })
            .collect();
        for (name, bytes) in &objects {
            if !is_record(name) {
                files.insert(bytes.clone());
                continue;
            }
            let record: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            let text = |key: &str| record[key].as_str().unwrap().to_owned();
            if record["reason"] == "file-gone" || record["reason"] == "file-unavailable" {
                gone.insert((text("file"), record["line"].as_u64().unwrap()));
            }
            // A line that is kept by itself is there, whole.
            let line = record["file_kept_as"].as_str().filter(|kept| is_kept_line(kept));
            if line.is_none_or(|line| lines.get(line) == Some(&text("event_id"))) {
                kept.insert(text("event_id"));
            }
        }
        for (name, bytes) in self.store.objects("checkpoints/") {
            let Some(spill) = Checkpoint::parse(&bytes).unwrap().spill else { continue };
            let stream = STREAMS.iter().find(|stream| name.contains(**stream)).unwrap();
            let waiting = spill.cursor.spilled().unwrap()..spill.next;
            for (name, bytes) in self.store.objects(&format!("spill/{stream}/")) {
                let number: u64 = name.rsplit('/').next().unwrap().parse().unwrap();
                let behind = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                if waiting.contains(&number) {
                    files.insert(bytes.slice(behind..));
                }
            }
        }
        let mut damaged: BTreeMap<String, usize> = BTreeMap::new();
        for drawn in self.rig.simulator.faults() {
            if let Fault::Corrupt(at) = drawn.fault {
                damaged.entry(drawn.identity).or_insert(at);
            }
        }
        move |listed, line| {
            let id = &listed.events[&line];
            let path = format!("{}/{}", STREAMS[listed.stream], listed.file.name);
            let served = match damaged.get(&path) {
                Some(at) => listed.file.clone().damaged(*at).bytes,
                None => listed.file.bytes.clone(),
            };
            let is_gone =
                |(file, from): &(String, u64)| file.ends_with(&format!("/{path}")) && *from <= line;
            landed.contains_key(id)
                || kept.contains(id)
                || files.contains(&served)
                || gone.iter().any(is_gone)
        }
    }

    /// What a checkpoint knows of must not be lost silently.
    fn remember(&mut self) {
        for (_, bytes) in self.store.objects("checkpoints/") {
            let keys = Checkpoint::parse(&bytes).unwrap().files.into_keys();
            let paths = keys.map(|key| key.split("/files/").last().unwrap().to_owned());
            self.begun.extend(paths);
        }
    }

    /// Whether every stream is behind its last page.
    fn is_at_end(&self) -> bool {
        let saved = self.store.objects("checkpoints/");
        self.given.pages.iter().zip(STREAMS).all(|(pages, stream)| {
            let end = token_at(self.rig.simulator.page_token(stream, pages.len()));
            let own = saved.iter().find(|(name, _)| name.contains(stream));
            own.is_some_and(|(_, bytes)| {
                let checkpoint = Checkpoint::parse(bytes).unwrap();
                checkpoint.cursor == end && checkpoint.files_waiting() == 0
            })
        })
    }

    /// Whether a file may be damaged, and gone or refused before that was found out: of its first lines
    /// something else may have been read then, and there is no file to keep.
    fn is_half_gone(&self, listed: &Listed) -> bool {
        let is_same = |other: &&Listed| {
            (other.stream, &other.file.name) == (listed.stream, &listed.file.name)
        };
        let is_refused =
            || self.given.listed.iter().filter(is_same).any(|other| other.forbidden > 0);
        let is_emptied = self.emptied.contains(&(listed.stream, listed.page));
        self.history.has_damage() && (is_emptied || is_refused())
    }

    /// No checkpoint is past what is safe.
    fn check_covered(&self, when: &str) -> Result<(), TestCaseError> {
        let safe = self.safe();
        for (name, bytes) in self.store.objects("checkpoints/") {
            let checkpoint = Checkpoint::parse(&bytes).unwrap();
            let stream = STREAMS.iter().position(|stream| name.contains(stream)).unwrap();
            let pages = self.given.pages.get(stream).map_or(0, Vec::len);
            let token = |page| self.rig.simulator.page_token(STREAMS[stream], page);
            let page = match token_of(&checkpoint.cursor) {
                None => 0,
                // One that was forgotten says nothing any more.
                Some(at) => (0..=pages).find(|page| token(*page) == at).unwrap_or(0),
            };
            for listed in self.given.listed.iter().filter(|listed| listed.stream == stream) {
                // What was not listed at its time is beyond the promise.
                if listed.page < page && self.emptied.contains(&(stream, listed.page)) {
                    continue;
                }
                let name = format!("/{}/{}", STREAMS[stream], listed.file.name);
                let file = checkpoint.files.iter().find(|(key, _)| key.ends_with(&name));
                let done = match file.map(|(_, progress)| progress.done) {
                    _ if listed.page < page => u64::MAX,
                    Some(Position::End) if listed.page == page => u64::MAX,
                    Some(Position::Line(line)) if listed.page == page => line,
                    _ => 0,
                };
                if self.is_half_gone(listed) {
                    continue;
                }
                // Of a damaged file, lines may have been read that are not what they were; what
                // counts is that all of it is kept when that is found out, at its end.
                let certain = !self.history.has_damage() || done == u64::MAX;
                for line in listed.events.keys().filter(|l| **l <= done && certain) {
                    prop_assert!(
                        safe(listed, *line),
                        "{when}: {name}, line {line} is covered and not safe: {checkpoint:#?}"
                    );
                }
            }
        }
        Ok(())
    }

    /// What landed in a run that came to its end is what it says, but for the answers that got lost.
    fn check_doubles(&self, run: &RunSummary, before: (u64, u64)) -> Result<(), TestCaseError> {
        let slow = |(endpoint, fault): &(Endpoint, Fault)| {
            *endpoint == Endpoint::Post && matches!(fault, Fault::Slow(_))
        };
        if run.outcome != Outcome::CaughtUp || self.history.script.iter().any(slow) {
            return Ok(());
        }
        let after = self.counts();
        let delivered = run.total(|stream| stream.rows_delivered);
        prop_assert_eq!(after.0 - before.0, delivered + after.1 - before.1, "{:#?}", run);
        let settled = delivered + run.total(|stream| stream.rows_quarantined);
        prop_assert_eq!(run.total(|stream| stream.events_read), settled, "{:#?}", run);
        Ok(())
    }

    /// Every event is safe, and nothing foreign landed.
    fn check_conserved(&self, run: RunSummary) -> Result<(), TestCaseError> {
        let mut violations = self.rig.simulator.violations();
        // A flipped bit can make a number that is JSON and beyond what most readers hold: it is
        // delivered as it is, and the sink refuses it.
        let too_large = |violation: &String| violation.contains("number out of range");
        violations.retain(|violation| !(self.history.has_damage() && too_large(violation)));
        prop_assert!(violations.is_empty(), "{violations:#?}");
        let safe = self.safe();
        for listed in &self.given.listed {
            let path = format!("{}/{}", STREAMS[listed.stream], listed.file.name);
            let was_emptied = self.emptied.contains(&(listed.stream, listed.page))
                && (!self.begun.contains(&path) || self.history.drops_cursors());
            for line in listed.events.keys().filter(|_| !was_emptied && !self.is_half_gone(listed))
            {
                let Listed { file, .. } = listed;
                prop_assert!(safe(listed, *line), "{} line {line} is lost: {run:#?}", file.name);
            }
        }
        let landed = self.landed();
        let refused = landed.keys().find(|id| self.given.refused.contains(*id));
        prop_assert!(refused.is_none(), "{refused:?} landed, which Azure refuses");
        let known: BTreeSet<&String> =
            self.given.listed.iter().flat_map(|listed| listed.events.values()).collect();
        // What is damaged may decode to something before it is found out.
        let foreign = landed.keys().find(|id| !known.contains(id) && !self.history.has_damage());
        prop_assert!(foreign.is_none(), "{foreign:?} landed, which Mimecast did not give");
        Ok(())
    }
}

type Hooks<'a> =
    (&'a Arc<AtomicU64>, &'a Arc<Notify>, &'a Arc<Mutex<Due>>, &'a Arc<Mutex<Vec<i64>>>);

async fn rig(history: &History, given: &Given, tools: Arc<Tools>, hooks: Hooks<'_>) -> Rig {
    let (happened, reached, due, jumps) = hooks;
    let mut plan = FaultPlan::seeded(history.seed, history.per_mille);
    for (endpoint, fault) in &history.script {
        plan = plan.once(*endpoint, fault.clone());
    }
    for Listed { stream, file, forbidden, .. } in &given.listed {
        let path = format!("{}/{}", STREAMS[*stream], file.name);
        plan = plan.matching(&path, *forbidden, Endpoint::File, Fault::Forbidden);
    }
    let refused = given.refused.clone();
    let plan = plan.poison(move |row| refused.contains(row["EventId"].as_str().unwrap()));
    let (happened, reached, due) = (Arc::clone(happened), Arc::clone(reached), Arc::clone(due));
    let plan = plan.watch(move |_, moment| {
        happened.fetch_add(1, Ordering::Relaxed);
        let mut due = due.lock().unwrap();
        due.seen += u64::from(moment == Moment::Arrived);
        if due.at == Some((due.seen, moment)) {
            due.at = None;
            due.dead = due.dies;
            reached.notify_one();
        }
        !due.dead
    });
    // The wall clock of this machine jumps; that of the other side does not.
    let start = DAY.and_hms_opt(12, 0, 0).unwrap().and_utc();
    let options = SimulatorOptions {
        clock: Clock::from_fn(move || start),
        signature_listings: history.signature_listings,
        mimecast_token_seconds: history.token_seconds,
        ..SimulatorOptions::default()
    };
    let mut rig = Rig::of(tools, given.world.clone(), plan, options).await;
    rig.options.types = STREAMS[..history.streams.len()].to_vec();
    rig.options.limits.line = MAX_LINE_BYTES;
    rig.options.retry = RetryPolicy::default();
    let (jumps, looks, now) = (Arc::clone(jumps), AtomicU64::new(0), AtomicI64::new(0));
    rig.clock = Clock::from_fn(move || {
        let jumps = jumps.lock().unwrap();
        let look = looks.fetch_add(1, Ordering::Relaxed) as usize;
        let jump = jumps.get(look % jumps.len().max(1)).copied().unwrap_or(0);
        let now = now.fetch_add(jump, Ordering::Relaxed) + jump;
        start + TimeDelta::seconds(now)
    });
    rig
}

/// Histories that failed once. A new one is printed and not written: a test changes no file of the
/// project.
#[derive(Clone, Debug, PartialEq)]
struct Failed;

/// The line of a history to try, and no other: `cc` and its seed.
const REPEATED: &str = "HISTORY";

impl FailurePersistence for Failed {
    fn load_persisted_failures2(&self, _: Option<&'static str>) -> Vec<PersistedSeed> {
        let repeated = std::env::var(REPEATED).ok();
        let kept = include_str!("histories.proptest-regressions");
        let lines = repeated.as_deref().unwrap_or(kept).lines();
        let lines = lines.map(|line| line.split('#').next().unwrap_or_default().trim());
        let lines = lines.filter(|line| !line.is_empty());
        lines.map(|line| line.parse().unwrap_or_else(|()| panic!("no history: {line}"))).collect()
    }

    fn save_persisted_failure2(
        &mut self,
        _: Option<&'static str>,
        seed: PersistedSeed,
        _: &dyn std::fmt::Debug,
    ) {
        eprintln!(
            "A history failed. To repeat it: {REPEATED}='{seed}' cargo test --test all histories::\n\
             To keep it, add this line to tests/histories.proptest-regressions: {seed}"
        );
    }

    fn box_clone(&self) -> Box<dyn FailurePersistence> {
        Box::new(self.clone())
    }

    fn eq(&self, other: &dyn FailurePersistence) -> bool {
        other.as_any().is::<Self>()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn config() -> ProptestConfig {
    let config = ProptestConfig {
        failure_persistence: Some(Box::new(Failed)),
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    };
    match std::env::var_os("PROPTEST_CASES") {
        _ if std::env::var_os(REPEATED).is_some() => ProptestConfig { cases: 0, ..config },
        Some(_) => config,
        None => ProptestConfig { cases: HISTORIES, ..config },
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_event_lands_or_is_quarantined_whatever_happens(history in history(false)) {
        try_out(&history)?;
    }

    #[test]
    fn every_event_lands_or_is_quarantined_where_each_row_is_a_body_of_its_own(history in history(true)) {
        try_out(&history)?;
    }
}
