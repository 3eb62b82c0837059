//! A connector's whole world in memory, in which every call is an *effect*: effects are counted in
//! an order that is always the same, and the process can die at any of them, before it is done or
//! before its answer is seen.
//!
//! The order is fixed since the blocking threads that read files take turns: one reads its next
//! record when everything else has come to rest. Calls of a source to its server, if it has one, go one
//! by one. The clock is tokio's, paused; it goes on by [`Staged::step`] with each record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, NaiveDate};
use flate2::read::GzDecoder;
use futures::future::pending;
use futures::{StreamExt, TryStreamExt, stream};
use mimecast_sentinel::checkpoint::{Checkpoint, Cursor, Position};
use mimecast_sentinel::pipeline::sink::{PostError, Posted};
use mimecast_sentinel::pipeline::source::{
    Content, Format, Line, LineReader, OpenPart, Opened, Page, Part, ReadError,
};
use mimecast_sentinel::pipeline::{
    Connector, Interrupt, Policy, Pool, Replay, ReplaySummary, RunSummary, Sink, Source,
};
use mimecast_sentinel::quarantine::{Quarantine, is_kept_line, is_record};
use mimecast_sentinel::seams::{Clock, Deadline, Random};
use mimecast_sentinel::sources::mimecast::Place;
use mimecast_sentinel::spill::SpilledFiles;
use mimecast_sentinel::store::{ByteStream, Lease, LeaseWatch, NullStore, Store, StoreError};
use mimecast_sentinel::table::{CLOUD_INTEGRATED, EventId, Row, Stream, Table};
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::doubles::{MemorySource, trouble_of};
use super::leased_blob::{Blob, BlobOf};
use super::rig::run;
use super::steps::Steps;

/// So many turns of all tasks bring everything to rest that one record sets going.
const TURNS_TO_REST: usize = 8;

/// One call of the connector to its world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    List(String),
    Open(String),
    /// With the numbers of the rows.
    Post(Vec<u64>),
    Lease(String),
    Read(String),
    Save(String),
    Keep(String),
    KeepFile(String),
    Names(String),
    Remove(String),
    Release(String),
}

/// Where the process dies in an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing is done.
    Before,
    /// It is done, and nobody learns of it.
    After,
}

/// A death: in the n-th effect of a run, counted from 1.
pub type Death = (usize, Moment);

/// How the sink answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    AtOnce,
    /// The oldest when so many wait, and the last ones when nothing more comes: as many are in
    /// flight as may be. For one stream.
    Late(usize),
}

/// Where checkpoints lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoints {
    /// The lease ends with its holder.
    Folder,
    /// In the model of a leased blob: the lease of the dead runs out. For one stream.
    Blob,
}

/// A source, and what it has to give: numbered events, the number of which comes first in its line,
/// and says with its thousands which stream it is of.
#[derive(Clone)]
pub struct Supply {
    /// Makes the source, as each process does for itself.
    pub source: Arc<dyn Fn() -> Arc<dyn Source> + Send + Sync>,
    /// The pages of each stream. The last has nothing: there it is caught up.
    pub pages: BTreeMap<&'static str, Vec<Listed>>,
    /// The events, and whether they become rows.
    pub events: BTreeMap<u64, bool>,
    /// The number of the event that a row was made of.
    pub number: fn(&Value) -> u64,
}

/// One page: its cursor, and the lines of its parts by key.
#[derive(Clone, Debug)]
pub struct Listed {
    pub at: Cursor,
    pub parts: Vec<(String, Vec<String>)>,
}

/// What is outside of a process, and how that goes about its work.
#[derive(Clone)]
pub struct Staged {
    pub supply: Supply,
    /// Rows that the sink refuses.
    pub refused: Vec<u64>,
    pub answers: Answers,
    /// How far the clock goes on with each record.
    pub step: Duration,
    pub policy: Policy,
    pub checkpoints: Checkpoints,
}

/// What is outside of the process: it outlives a crash.
#[derive(Clone, Default)]
pub struct Outside {
    objects: BTreeMap<String, Bytes>,
    leased: BTreeSet<String>,
    /// The rows that landed, in order.
    pub landed: Vec<u64>,
    /// The effects of the run in hand that were done, in order.
    pub done: Vec<Effect>,
    /// The body of each row of the run in hand: the number of the first post that had it.
    bodies: BTreeMap<u64, usize>,
    /// The rows that were accepted in the run in hand.
    accepted: BTreeSet<u64>,
    /// What must never be, and was.
    pub breaches: Vec<String>,
}

/// A world on which runs are made, one after the other.
pub struct Stage {
    pub plan: Staged,
    shared: Arc<Shared>,
}

struct Shared {
    outside: Mutex<Outside>,
    plan: Staged,
    life: Mutex<Life>,
    /// Is held by the call to a server that is on its way.
    calling: tokio::sync::Mutex<()>,
    blob: Arc<Mutex<Blob>>,
    steps: Steps,
}

#[derive(Default)]
struct Life {
    /// How many were before it.
    number: u32,
    begun: usize,
    death: Option<Death>,
    dead: bool,
    held: VecDeque<oneshot::Sender<()>>,
    died: Arc<Notify>,
}

impl Stage {
    pub fn new(plan: Staged) -> Self {
        let shared = Shared {
            outside: Mutex::default(),
            plan: plan.clone(),
            life: Mutex::default(),
            calling: tokio::sync::Mutex::default(),
            blob: Arc::default(),
            steps: Steps::default(),
        };
        Self { plan, shared: Arc::new(shared) }
    }

    pub fn outside(&self) -> MutexGuard<'_, Outside> {
        self.shared.outside.lock().unwrap()
    }

    /// The same world, but for what `plan` has otherwise.
    pub fn go_on(&self, plan: Staged) -> Self {
        let next = Self::new(plan);
        *next.outside() = self.outside().clone();
        next
    }

    /// One run by a process of its own; `None` if it died.
    pub async fn run(&self, death: Option<Death>) -> Option<RunSummary> {
        self.live(death, |turns| {
            let connector = self.connector(turns);
            async move { run(&connector).await }
        })
        .await
    }

    /// One replay of the streams' quarantine; `None` if it died.
    pub async fn replay(&self, death: Option<Death>) -> Option<ReplaySummary> {
        self.live(death, |turns| {
            // It reads on the runtime's thread, so that nothing takes turns.
            drop(turns);
            let source = (self.plan.supply.source)();
            let streams = source.streams().into_iter().map(|s| (s, source.format(&s)));
            let store: Arc<dyn Store> = Arc::new(StagedStore(Arc::clone(&self.shared)));
            let replay = Replay {
                streams: streams.collect(),
                sink: Arc::new(StagedSink(Arc::clone(&self.shared))),
                quarantine: Quarantine::new(Arc::clone(&store)),
                store,
                policy: self.plan.policy,
                pool: Pool::default(),
            };
            async move { replay.run(&CancellationToken::new()).await }
        })
        .await
    }

    /// The work of a process; `None` if it died.
    async fn live<T, F: Future<Output = T>>(
        &self,
        death: Option<Death>,
        work: impl FnOnce(mpsc::UnboundedSender<Turn>) -> F,
    ) -> Option<T> {
        let died = Arc::new(Notify::new());
        {
            let mut life = self.shared.life.lock().unwrap();
            let number = life.number + 1;
            *life = Life { number, death, died: Arc::clone(&died), ..Life::default() };
        }
        {
            let mut outside = self.outside();
            outside.done.clear();
            outside.bodies.clear();
            outside.accepted.clear();
            // The locks of a dead process are free.
            outside.leased.clear();
        }
        let (turns, wanted) = mpsc::unbounded_channel();
        let conductor = tokio::spawn(conduct(wanted, Arc::clone(&self.shared)));
        // Not spawned, so that it is gone when it died.
        let ended = tokio::select! {
            biased;
            () = died.notified() => None,
            ended = work(turns) => Some(ended),
        };
        conductor.abort();
        drop(conductor.await);
        ended
    }

    /// How many effects the last run had.
    pub fn effects(&self) -> usize {
        self.shared.life.lock().unwrap().begun
    }

    fn connector(&self, turns: mpsc::UnboundedSender<Turn>) -> Connector {
        let store: Arc<dyn Store> = Arc::new(StagedStore(Arc::clone(&self.shared)));
        Connector {
            source: Arc::new(self.source(turns)),
            sink: Arc::new(StagedSink(Arc::clone(&self.shared))),
            quarantine: Quarantine::new(Arc::clone(&store)),
            spill: SpilledFiles::new(Arc::clone(&store)),
            store,
            policy: self.plan.policy,
            pool: Pool::default(),
            clock: Clock::from_fn(|| DateTime::UNIX_EPOCH),
            random: Random::seeded(1),
        }
    }

    fn source(&self, turns: mpsc::UnboundedSender<Turn>) -> StagedSource {
        StagedSource {
            inner: (self.plan.supply.source)(),
            shared: Arc::clone(&self.shared),
            readers: Arc::new(AtomicU64::new(1)),
            turns,
        }
    }
}

impl Supply {
    /// Of sources in memory.
    pub fn in_memory(streams: BTreeMap<&'static str, MemorySource>) -> Self {
        let (mut pages, mut events) = (BTreeMap::new(), BTreeMap::new());
        for (name, source) in &streams {
            let parts = source.pages.iter().cloned().chain([Vec::new()]).enumerate();
            let listed = parts.map(|(number, parts)| Listed { at: cursor_of(number), parts });
            pages.insert(*name, listed.collect());
            for (_, lines) in source.pages.iter().flatten() {
                let mut readable = true;
                for line in lines {
                    readable &= trouble_of(line, "damaged") <= source.mended;
                    let row = line.starts_with('{') && trouble_of(line, "long") <= source.mended;
                    events.insert(number_of(line), readable && row);
                }
            }
        }
        let source = move || Arc::new(MemoryStreams(streams.clone())) as Arc<dyn Source>;
        let number = |row: &Value| row["n"].as_u64().unwrap();
        Self { source: Arc::new(source), pages, events, number }
    }

    /// Of any source, which is read to its end.
    pub async fn of(
        source: impl Fn() -> Arc<dyn Source> + Send + Sync + 'static,
        number: fn(&Value) -> u64,
    ) -> Self {
        let reader = source();
        let (mut pages, mut events) = (BTreeMap::new(), BTreeMap::new());
        for stream in reader.streams() {
            let listed = at_once(read_all(&*reader, &stream)).await;
            let format = reader.format(&stream);
            for line in listed.iter().flat_map(|page| &page.parts).flat_map(|(_, lines)| lines) {
                let (_, row) = format.row(line.as_bytes(), &mut Vec::new());
                events.insert(number_of(line), row.is_ok());
            }
            pages.insert(stream.name, listed);
        }
        Self { source: Arc::new(source), pages, events, number }
    }

    /// Which page a cursor is of.
    fn page_at(&self, stream: &str, cursor: &Option<Cursor>) -> usize {
        let Some(at) = cursor else { return 0 };
        self.pages[stream].iter().position(|page| page.at == *at).unwrap()
    }
}

/// All that a source has of a stream, without the engine.
async fn read_all(source: &dyn Source, stream: &Stream) -> Vec<Listed> {
    let (end, mut listed) = (Deadline::after(Duration::from_secs(60)), Vec::new());
    let mut next = None;
    loop {
        let page = source.page(stream, next.as_ref(), end).await.unwrap();
        let mut parts = Vec::new();
        for part in &page.parts {
            let bytes = match &part.content {
                Content::Here(bytes) => bytes.clone(),
                Content::At(_) => {
                    let Opened::Part(open) = source.open(part, end).await.unwrap() else {
                        panic!("it has its parts")
                    };
                    open.bytes.try_collect::<Vec<Bytes>>().await.unwrap().concat().into()
                }
            };
            let mut reader = source.format(stream).lines(0);
            reader.push(bytes);
            reader.end(true);
            let mut lines = Vec::new();
            while let Some(line) = reader.next().unwrap() {
                lines.push(String::from_utf8(line.bytes.to_vec()).unwrap());
            }
            parts.push((part.key.clone(), lines));
        }
        next = page.next().cloned();
        listed.push(Listed { at: page.at, parts });
        match next {
            Some(at) if page.caught_up => {
                listed.push(Listed { at, parts: Vec::new() });
                return listed;
            }
            None => return listed,
            _ => {}
        }
    }
}

impl Staged {
    /// The numbers of the events that a checkpoint says are settled.
    fn covered(&self, stream: &str, checkpoint: &Checkpoint) -> BTreeSet<u64> {
        let page = self.supply.page_at(stream, &checkpoint.cursor);
        let mut covered = BTreeSet::new();
        for (number, listed) in self.supply.pages[stream].iter().enumerate() {
            for (key, lines) in &listed.parts {
                let done = match checkpoint.files.get(key).map(|file| file.done) {
                    _ if number < page => lines.len(),
                    Some(Position::End) if number == page => lines.len(),
                    Some(Position::Line(line)) if number == page => line as usize,
                    _ => 0,
                };
                covered.extend(lines[..done].iter().map(|line| number_of(line)));
            }
        }
        covered
    }

    /// All events, by stream, and whether they become rows that are accepted.
    pub fn events(&self) -> BTreeMap<u64, bool> {
        let mut events = self.supply.events.clone();
        events.iter_mut().for_each(|(n, is_row)| *is_row &= !self.refused.contains(n));
        events
    }
}

/// `{"n":7}`, or what is no row: `7 is no row`.
pub fn number_of(line: &str) -> u64 {
    let digits = |c: char| !c.is_ascii_digit();
    let digits = line.trim_start_matches(digits).split(digits).next().unwrap();
    digits.parse().unwrap()
}

/// The cursor of a page in memory.
fn cursor_of(page: usize) -> Cursor {
    let start = || NaiveDate::from_ymd_opt(2026, 11, 1).map(Place::Start).unwrap();
    if page == 0 { start().cursor() } else { Place::Token(page.to_string()).cursor() }
}

/// The stream of a checkpoint's name.
fn stream_of(name: &str) -> &str {
    name.trim_start_matches("checkpoints/").trim_end_matches(".json")
}

impl Outside {
    /// The events that lie in quarantine.
    pub fn kept(&self) -> BTreeSet<u64> {
        let records = self.objects.iter().filter(|(name, _)| is_record(name));
        records.flat_map(|(_, bytes)| self.kept_by(bytes)).collect()
    }

    /// The events of a record: its line's, or all from its line on in the file that it is kept with.
    fn kept_by(&self, record: &Bytes) -> Vec<u64> {
        let record: Value = serde_json::from_slice(record).unwrap();
        let Some(file) = record["file_kept_as"].as_str() else {
            return vec![number_of(record["original"].as_str().unwrap())];
        };
        // Without it, nothing is kept.
        let Some(bytes) = self.objects.get(file) else { return Vec::new() };
        if is_kept_line(file) {
            let mut line = String::new();
            GzDecoder::new(&bytes[..]).read_to_string(&mut line).unwrap();
            return vec![number_of(&line)];
        }
        let lines = std::str::from_utf8(bytes).unwrap().lines().map(number_of);
        let from = lines.skip(record["line"].as_u64().unwrap() as usize - 1);
        from.take(if record["event_id"] == "" { usize::MAX } else { 1 }).collect()
    }

    /// Something leaves quarantine: what it kept must have landed, or be kept still.
    fn remove(&mut self, name: &str) {
        let before = self.kept();
        self.objects.remove(name);
        for n in before.difference(&self.kept()).filter(|n| !self.landed.contains(n)) {
            self.breaches.push(format!("{name}: event {n} left quarantine and did not land"));
        }
    }

    /// The rows that the run in hand had accepted and that are kept still, with their bodies.
    pub fn sent_and_kept(&self) -> BTreeMap<u64, usize> {
        let kept = self.kept();
        self.accepted.intersection(&kept).map(|n| (*n, self.bodies[n])).collect()
    }

    /// The names of the objects that begin so.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.objects.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    pub fn checkpoints(&self) -> BTreeMap<String, Checkpoint> {
        let saved = self.objects.iter().filter(|(name, _)| name.starts_with("checkpoints/"));
        let saved = saved.map(|(name, bytes)| (stream_of(name), Checkpoint::parse(bytes).unwrap()));
        saved.map(|(stream, checkpoint)| (stream.to_owned(), checkpoint)).collect()
    }

    /// The events that the checkpoints say are settled.
    pub fn covered(&self, plan: &Staged) -> BTreeSet<u64> {
        let saved = self.checkpoints();
        saved.iter().flat_map(|(stream, checkpoint)| plan.covered(stream, checkpoint)).collect()
    }

    /// How many bodies of the run in hand, of one stream at most, were accepted, wholly or in part,
    /// with rows that no checkpoint covers.
    pub fn bodies_uncovered(&self, plan: &Staged) -> usize {
        let covered = self.covered(plan);
        let open = self.accepted.difference(&covered);
        let open: BTreeSet<_> = open.map(|n| (n / 1_000, self.bodies[n])).collect();
        let streams: BTreeSet<u64> = open.iter().map(|(stream, _)| *stream).collect();
        let bodies_of = |stream: &u64| open.iter().filter(|(of, _)| of == stream).count();
        streams.iter().map(bodies_of).max().unwrap_or(0)
    }

    /// Notes which body these rows belong to; whether they were not posted before in this run.
    fn body_of(&mut self, rows: &[u64]) -> bool {
        let first = !self.bodies.contains_key(&rows[0]);
        let body = self.bodies.len();
        for n in rows {
            self.bodies.entry(*n).or_insert(body);
        }
        first
    }

    /// A checkpoint is saved: it must go on from the one before, and over settled events only.
    fn save(&mut self, plan: &Staged, name: &str, bytes: &Bytes) {
        let (stream, new) = (stream_of(name), Checkpoint::parse(bytes).unwrap());
        let covered = plan.covered(stream, &new);
        let kept = self.kept();
        for n in covered.iter().filter(|n| !self.landed.contains(n) && !kept.contains(n)) {
            self.breaches.push(format!("{stream}: event {n} is covered and was not settled"));
        }
        if let Some(old) = self.checkpoints().get(stream) {
            let before = plan.covered(stream, old);
            let page = |checkpoint: &Checkpoint| plan.supply.page_at(stream, &checkpoint.cursor);
            if !before.is_subset(&covered) || page(&new) < page(old) {
                self.breaches.push(format!("{stream}: progress went back to {new:?}"));
            }
        }
        self.objects.insert(name.to_owned(), bytes.clone());
    }
}

impl Shared {
    /// One effect: dies in it if it is its time, else does `work` and returns what it gives.
    async fn effect<T>(&self, what: Effect, work: impl FnOnce(&mut Outside) -> T) -> T {
        self.request(what, async { work(&mut self.outside.lock().unwrap()) }).await
    }

    /// The same for work that takes its time.
    async fn request<T>(&self, what: Effect, work: impl Future<Output = T>) -> T {
        let death = {
            let mut life = self.life.lock().unwrap();
            life.begun += 1;
            // Whoever is dead does nothing more, and the others of that process neither.
            let now = life.death.filter(|(number, _)| *number == life.begun && !life.dead);
            let dead = life.dead;
            life.dead |= now.is_some();
            if dead { Some(Moment::Before) } else { now.map(|(_, moment)| moment) }
        };
        if death == Some(Moment::Before) {
            self.die().await;
        }
        self.outside.lock().unwrap().done.push(what);
        let done = work.await;
        if death == Some(Moment::After) {
            self.die().await;
        }
        yield_now().await;
        if self.life.lock().unwrap().dead {
            self.die().await;
        }
        done
    }

    /// A call to a server: one goes on at a time, in the order in which they begin, and its answer is seen
    /// when all else is at rest.
    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        let _turn = self.calling.lock().await;
        let answer = at_once(call).await;
        self.rest().await;
        answer
    }

    /// Comes when all tasks are at rest.
    async fn rest(&self) {
        let begun = || self.life.lock().unwrap().begun;
        loop {
            let before = begun();
            for _ in 0..TURNS_TO_REST {
                yield_now().await;
            }
            if begun() == before {
                return;
            }
        }
    }

    /// The blob, as the process in hand has it.
    fn blob(&self) -> BlobOf {
        let who = char::from_u32(self.life.lock().unwrap().number).unwrap();
        self.steps.free(who);
        BlobOf { who, blob: Arc::clone(&self.blob), steps: self.steps.clone() }
    }

    async fn die(&self) {
        self.life.lock().unwrap().died.notify_one();
        pending::<()>().await;
    }

    /// Answers the oldest post when so many wait.
    async fn hold(&self, most: usize) {
        let (answer, answered) = oneshot::channel();
        {
            let mut life = self.life.lock().unwrap();
            life.held.push_back(answer);
            if life.held.len() == most {
                life.held.pop_front().unwrap().send(()).unwrap_or_default();
            }
        }
        tokio::select! {
            answer = answered => answer.unwrap(),
            // Nothing more comes: the clock only goes on by itself when all are at rest.
            () = sleep(Duration::from_secs(60)) => {}
        }
    }
}

/// Makes a call to a server, which takes time of its own: the clock stands still meanwhile.
async fn at_once<T>(call: impl Future<Output = T>) -> T {
    // It does not go on by itself while a blocking thread is at work.
    let (answered, waits) = channel::<()>();
    tokio::task::spawn_blocking(move || waits.recv());
    let answer = call.await;
    drop(answered);
    answer
}

/// What a reading thread tells the conductor.
enum Turn {
    Begun(u64),
    /// Whether it reads then, so that time goes on.
    Wants(u64, bool, Sender<()>),
    Ended(u64),
}

/// Lets the readers go on one by one, each when everything else is at rest.
async fn conduct(mut turns: mpsc::UnboundedReceiver<Turn>, shared: Arc<Shared>) {
    let step = shared.plan.step;
    let mut readers: BTreeMap<u64, Option<(bool, Sender<()>)>> = BTreeMap::new();
    let mut last = 0;
    loop {
        drop(shared.calling.lock().await);
        shared.rest().await;
        if shared.calling.try_lock().is_err() {
            continue;
        }
        let all_wait = !readers.is_empty() && readers.values().all(Option::is_some);
        let turn = match turns.try_recv() {
            Ok(turn) => turn,
            Err(_) if all_wait => {
                let next = readers.keys().find(|number| **number > last);
                last = *next.or_else(|| readers.keys().next()).unwrap();
                let (reads, granted) = readers.get_mut(&last).and_then(Option::take).unwrap();
                if reads && !step.is_zero() {
                    tokio::time::advance(step).await;
                }
                // A reader that is gone says so next.
                granted.send(()).unwrap_or_default();
                continue;
            }
            Err(_) => match turns.recv().await {
                Some(turn) => turn,
                None => return,
            },
        };
        match turn {
            Turn::Begun(number) => drop(readers.insert(number, None)),
            Turn::Wants(number, reads, grant) => drop(readers.insert(number, Some((reads, grant)))),
            Turn::Ended(number) => drop(readers.remove(&number)),
        }
    }
}

/// Streams in memory, each of them a source's only one.
struct MemoryStreams(BTreeMap<&'static str, MemorySource>);

#[async_trait]
impl Source for MemoryStreams {
    fn name(&self) -> &'static str {
        "of a test"
    }

    fn owner(&self) -> BTreeMap<String, String> {
        MemorySource::default().owner()
    }

    fn streams(&self) -> Vec<Stream> {
        self.0.keys().map(|name| Stream { name, table: &CLOUD_INTEGRATED }).collect()
    }

    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        end: Deadline,
    ) -> Result<Page, Interrupt> {
        Source::page(&self.0[stream.name], stream, at, end).await
    }

    async fn open(&self, part: &Part, end: Deadline) -> Result<Opened, Interrupt> {
        let has = |source: &&MemorySource| source.pages.iter().flatten().any(|f| f.0 == part.key);
        self.0.values().find(has).unwrap().open(part, end).await
    }

    fn format(&self, stream: &Stream) -> Arc<dyn Format> {
        self.0[stream.name].format(stream)
    }
}

struct StagedSource {
    inner: Arc<dyn Source>,
    shared: Arc<Shared>,
    readers: Arc<AtomicU64>,
    turns: mpsc::UnboundedSender<Turn>,
}

#[async_trait]
impl Source for StagedSource {
    fn name(&self) -> &'static str {
        "of a test"
    }

    fn owner(&self) -> BTreeMap<String, String> {
        self.inner.owner()
    }

    fn streams(&self) -> Vec<Stream> {
        self.inner.streams()
    }

    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        end: Deadline,
    ) -> Result<Page, Interrupt> {
        let listing = self.shared.call(self.inner.page(stream, at, end));
        self.shared.request(Effect::List(stream.name.to_owned()), listing).await
    }

    async fn open(&self, part: &Part, end: Deadline) -> Result<Opened, Interrupt> {
        // With all of its bytes, which else would come while the readers take turns.
        let opening = self.shared.call(async {
            let opened = self.inner.open(part, end).await?;
            let Opened::Part(open) = opened else { return Ok(opened) };
            let bytes: Vec<Bytes> = open.bytes.try_collect().await.unwrap();
            let bytes = stream::iter([Ok(bytes.concat().into())]).boxed();
            Ok(Opened::Part(OpenPart { bytes, ..open }))
        });
        self.shared.request(Effect::Open(part.key.clone()), opening).await
    }

    fn is_same(&self, known: &str, listed: &str) -> bool {
        self.inner.is_same(known, listed)
    }

    fn finished(&self, stream: &Stream) {
        self.inner.finished(stream);
    }

    fn format(&self, stream: &Stream) -> Arc<dyn Format> {
        let inner = self.inner.format(stream);
        let (readers, turns) = (Arc::clone(&self.readers), self.turns.clone());
        Arc::new(StagedFormat { inner, readers, turns })
    }
}

struct StagedFormat {
    inner: Arc<dyn Format>,
    readers: Arc<AtomicU64>,
    turns: mpsc::UnboundedSender<Turn>,
}

impl Format for StagedFormat {
    fn lines(&self, skip: u64) -> Box<dyn LineReader> {
        let (inner, turns) = (self.inner.lines(skip), self.turns.clone());
        let number = self.readers.fetch_add(1, Ordering::Relaxed);
        // Also while it waits for something to read, nothing else is to go on.
        drop(turns.send(Turn::Begun(number)));
        Box::new(TurnLines { inner, number, turns, reads: false })
    }

    fn row(
        &self,
        line: &[u8],
        row: &mut Vec<u8>,
    ) -> (EventId, Result<Row, (&'static str, String)>) {
        self.inner.row(line, row)
    }
}

/// Waits for its turn before each line.
struct TurnLines {
    inner: Box<dyn LineReader>,
    number: u64,
    turns: mpsc::UnboundedSender<Turn>,
    /// Whether there is something to read.
    reads: bool,
}

impl LineReader for TurnLines {
    fn push(&mut self, bytes: Bytes) -> bool {
        self.reads = true;
        self.inner.push(bytes)
    }

    fn end(&mut self, all: bool) {
        self.inner.end(all);
    }

    fn next(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        let (grant, granted) = channel();
        drop(self.turns.send(Turn::Wants(self.number, self.reads, grant)));
        loop {
            match granted.recv_timeout(Duration::from_millis(100)) {
                Ok(()) => {
                    let next = self.inner.next();
                    self.reads = !matches!(next, Ok(None));
                    return next;
                }
                // What is sent while the other end is dropped stays in the channel, unseen.
                Err(RecvTimeoutError::Timeout) if !self.turns.is_closed() => {}
                // The process is dead, and with it the conductor.
                Err(gone) => return Err(ReadError::Broken(io::Error::other(gone))),
            }
        }
    }
}

/// On the async side, which then goes on at once: the next turn is given when that is at rest.
impl Drop for TurnLines {
    fn drop(&mut self) {
        drop(self.turns.send(Turn::Ended(self.number)));
    }
}

struct StagedSink(Arc<Shared>);

#[async_trait]
impl Sink for StagedSink {
    fn destination(&self, _: &Table) -> String {
        "the stage".to_owned()
    }

    async fn post(&self, _: &Table, body: Bytes, _: Deadline) -> Posted {
        let rows: Vec<Value> = serde_json::from_reader(GzDecoder::new(&body[..])).unwrap();
        let rows: Vec<u64> = rows.iter().map(self.0.plan.supply.number).collect();
        let refused = rows.iter().any(|n| self.0.plan.refused.contains(n));
        let (answer, first) = self
            .0
            .effect(Effect::Post(rows.clone()), |outside| {
                let body = outside.body_of(&rows);
                if refused {
                    return (Err(PostError::RowRefused("no such row".to_owned())), body);
                }
                outside.landed.extend(&rows);
                outside.accepted.extend(rows.iter().copied());
                (Ok(()), body)
            })
            .await;
        match self.0.plan.answers {
            Answers::Late(bodies) if first => self.0.hold(bodies).await,
            _ => {}
        }
        Posted { ambiguous: 0, answer }
    }
}

struct StagedStore(Arc<Shared>);

/// Of a folder's kind.
struct StagedLease(Arc<Shared>, String);

struct StagedBlobLease {
    shared: Arc<Shared>,
    name: String,
    inner: Box<dyn Lease>,
}

#[async_trait]
impl Store for StagedStore {
    fn location(&self) -> String {
        "the stage".to_owned()
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.effect(Effect::Read(name.to_owned()), |o| o.objects.get(name).cloned()).await)
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let keep = |outside: &mut Outside| drop(outside.objects.insert(name.to_owned(), bytes));
        self.0.effect(Effect::Keep(name.to_owned()), keep).await;
        Ok(())
    }

    async fn write_stream(&self, name: &str, bytes: ByteStream) -> Result<(), StoreError> {
        let bytes: Vec<Bytes> = bytes.try_collect().await.unwrap();
        let keep = |o: &mut Outside| drop(o.objects.insert(name.to_owned(), bytes.concat().into()));
        self.0.effect(Effect::KeepFile(name.to_owned()), keep).await;
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.0.effect(Effect::Names(prefix.to_owned()), |o| o.names(prefix)).await)
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.0.effect(Effect::Remove(name.to_owned()), |o| o.remove(name)).await;
        Ok(())
    }

    async fn lease(&self, name: &str) -> Result<Option<Box<dyn Lease>>, StoreError> {
        if self.0.plan.checkpoints == Checkpoints::Blob {
            let blob = self.0.blob();
            let lease = self.0.request(Effect::Lease(name.to_owned()), blob.lease(name)).await?;
            let (shared, name) = (Arc::clone(&self.0), name.to_owned());
            return Ok(lease.map(|inner| -> Box<dyn Lease> {
                Box::new(StagedBlobLease { shared, name, inner })
            }));
        }
        let take = |outside: &mut Outside| outside.leased.insert(name.to_owned());
        let taken = self.0.effect(Effect::Lease(name.to_owned()), take).await;
        Ok(taken.then(|| -> Box<dyn Lease> {
            Box::new(StagedLease(Arc::clone(&self.0), name.to_owned()))
        }))
    }
}

#[async_trait]
impl Lease for StagedLease {
    fn held(&self) -> bool {
        true
    }

    fn watch(&self) -> LeaseWatch {
        NullStore.watch()
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        StagedStore(Arc::clone(&self.0)).read(&self.1).await
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let save = |outside: &mut Outside| outside.save(&self.0.plan, &self.1, &bytes);
        self.0.effect(Effect::Save(self.1.clone()), save).await;
        Ok(())
    }

    async fn clear(self: Box<Self>) -> Result<(), StoreError> {
        unreachable!("{}: a run clears nothing", self.1)
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        let free = |outside: &mut Outside| outside.leased.remove(&self.1);
        self.0.effect(Effect::Release(self.1.clone()), free).await;
        Ok(())
    }
}

#[async_trait]
impl Lease for StagedBlobLease {
    fn held(&self) -> bool {
        self.inner.held()
    }

    fn watch(&self) -> LeaseWatch {
        self.inner.watch()
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.shared.request(Effect::Read(self.name.clone()), self.inner.read()).await
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let Self { shared, name, inner } = self;
        let saving = async {
            inner.write(bytes.clone()).await?;
            shared.outside.lock().unwrap().save(&shared.plan, name, &bytes);
            Ok(())
        };
        shared.request(Effect::Save(name.clone()), saving).await
    }

    async fn clear(self: Box<Self>) -> Result<(), StoreError> {
        unreachable!("{}: a run clears nothing", self.name)
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        let Self { shared, name, inner } = *self;
        shared.request(Effect::Release(name), inner.release()).await
    }
}
