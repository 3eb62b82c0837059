//! A connector's whole world in memory, in which every call is an *effect*: effects are counted in
//! an order that is always the same, and the process can die at any of them, before it is done or
//! before its answer is seen.
//!
//! The order is fixed since the blocking threads that read files take turns: one reads its next
//! record when everything else has come to rest. The clock is tokio's, paused; it goes on by
//! [`Staged::step`] with each record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use flate2::read::GzDecoder;
use futures::TryStreamExt;
use futures::future::pending;
use mimecast_sentinel::checkpoint::{Checkpoint, Cursor, Position};
use mimecast_sentinel::pipeline::sink::{PostError, Posted};
use mimecast_sentinel::pipeline::source::{
    Format, Line, LineReader, OpenPart, Page, Part, ReadError,
};
use mimecast_sentinel::pipeline::{
    Connector, Interrupt, Policy, Pool, Replay, ReplaySummary, RunSummary, Sink, Source,
};
use mimecast_sentinel::quarantine::{Quarantine, is_kept_line, is_record};
use mimecast_sentinel::seams::{Clock, Deadline, Random};
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
use super::scenario::token_of;
use super::steps::Steps;

/// So many turns of all tasks bring everything to rest that one record sets going.
const TURNS_TO_REST: usize = 16;

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

/// Pages of files of numbered events, by stream.
#[derive(Clone)]
pub struct Staged {
    pub streams: BTreeMap<&'static str, MemorySource>,
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
    /// The files of each stream by page, and whose checkpoint covers what.
    plan: Staged,
    life: Mutex<Life>,
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
            let streams = self.plan.streams.iter().map(|(name, source)| {
                let stream = Stream { name, table: &CLOUD_INTEGRATED };
                (stream, source.format(&stream))
            });
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
        let conductor = tokio::spawn(conduct(wanted, self.plan.step));
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
            store,
            policy: self.plan.policy,
            pool: Pool::default(),
            clock: Clock::from_fn(|| DateTime::UNIX_EPOCH),
            random: Random::seeded(1),
        }
    }

    fn source(&self, turns: mpsc::UnboundedSender<Turn>) -> StagedSource {
        StagedSource {
            shared: Arc::clone(&self.shared),
            readers: Arc::new(AtomicU64::new(1)),
            turns,
        }
    }
}

impl Staged {
    /// The numbers of the events that a checkpoint says are settled.
    fn covered(&self, stream: &str, checkpoint: &Checkpoint) -> BTreeSet<u64> {
        let pages = &self.streams[stream].pages;
        let page = page_of(&checkpoint.cursor);
        let mut covered = BTreeSet::new();
        for (number, files) in pages.iter().enumerate() {
            for (key, lines) in files {
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
        let mut events = BTreeMap::new();
        for source in self.streams.values() {
            for (_, lines) in source.pages.iter().flatten() {
                let mut readable = true;
                for line in lines {
                    let n = number_of(line);
                    readable &= trouble_of(line, "damaged") <= source.mended;
                    let row = line.starts_with('{') && trouble_of(line, "long") <= source.mended;
                    events.insert(n, readable && row && !self.refused.contains(&n));
                }
            }
        }
        events
    }
}

/// `{"n":7}`, or what is no row: `7 is no row`.
fn number_of(line: &str) -> u64 {
    let digits = |c: char| !c.is_ascii_digit();
    let digits = line.trim_start_matches(digits).split(digits).next().unwrap();
    digits.parse().unwrap()
}

fn page_of(cursor: &Option<Cursor>) -> usize {
    token_of(cursor).map_or(0, |token| token.parse().unwrap())
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
            if !before.is_subset(&covered) || page_of(&new.cursor) < page_of(&old.cursor) {
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

/// What a reading thread tells the conductor.
enum Turn {
    Begun(u64),
    Wants(u64, Sender<()>),
    Ended(u64),
}

/// Lets the readers go on one by one, each when everything else is at rest.
async fn conduct(mut turns: mpsc::UnboundedReceiver<Turn>, step: Duration) {
    let mut readers: BTreeMap<u64, Option<Sender<()>>> = BTreeMap::new();
    let mut last = 0;
    loop {
        for _ in 0..TURNS_TO_REST {
            yield_now().await;
        }
        let all_wait = !readers.is_empty() && readers.values().all(Option::is_some);
        let turn = match turns.try_recv() {
            Ok(turn) => turn,
            Err(_) if all_wait => {
                let next = readers.keys().find(|number| **number > last);
                last = *next.or_else(|| readers.keys().next()).unwrap();
                if !step.is_zero() {
                    tokio::time::advance(step).await;
                }
                let granted = readers.get_mut(&last).and_then(Option::take);
                // A reader that is gone says so next.
                granted.unwrap().send(()).unwrap_or_default();
                continue;
            }
            Err(_) => match turns.recv().await {
                Some(turn) => turn,
                None => return,
            },
        };
        match turn {
            Turn::Begun(number) => drop(readers.insert(number, None)),
            Turn::Wants(number, grant) => drop(readers.insert(number, Some(grant))),
            Turn::Ended(number) => drop(readers.remove(&number)),
        }
    }
}

struct StagedSource {
    shared: Arc<Shared>,
    readers: Arc<AtomicU64>,
    turns: mpsc::UnboundedSender<Turn>,
}

#[async_trait]
impl Source for StagedSource {
    fn owner(&self) -> BTreeMap<String, String> {
        MemorySource::default().owner()
    }

    fn streams(&self) -> Vec<Stream> {
        let names = self.shared.plan.streams.keys();
        names.map(|name| Stream { name, table: &CLOUD_INTEGRATED }).collect()
    }

    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        end: Deadline,
    ) -> Result<Page, Interrupt> {
        self.shared.effect(Effect::List(stream.name.to_owned()), |_| ()).await;
        Source::page(&self.shared.plan.streams[stream.name], stream, at, end).await
    }

    async fn open(&self, part: &Part, end: Deadline) -> Result<Option<OpenPart>, Interrupt> {
        self.shared.effect(Effect::Open(part.key.clone()), |_| ()).await;
        let mut sources = self.shared.plan.streams.values();
        let has = |source: &&MemorySource| source.pages.iter().flatten().any(|f| f.0 == part.key);
        sources.find(has).unwrap().open(part, end).await
    }

    fn format(&self, stream: &Stream) -> Arc<dyn Format> {
        let inner = self.shared.plan.streams[stream.name].format(stream);
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
        Box::new(TurnLines { inner, number, turns, begun: false, ended: false })
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
    begun: bool,
    /// Whether all is read, so that nothing needs a turn any more.
    ended: bool,
}

impl LineReader for TurnLines {
    fn push(&mut self, bytes: Bytes) -> bool {
        if !std::mem::replace(&mut self.begun, true) {
            drop(self.turns.send(Turn::Begun(self.number)));
        }
        self.inner.push(bytes)
    }

    fn end(&mut self, all: bool) {
        self.ended = true;
        self.inner.end(all);
    }

    fn next(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        if !self.begun || self.ended {
            return self.inner.next();
        }
        let (grant, granted) = channel();
        drop(self.turns.send(Turn::Wants(self.number, grant)));
        loop {
            match granted.recv_timeout(Duration::from_millis(100)) {
                Ok(()) => return self.inner.next(),
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
        let rows: Vec<u64> = rows.iter().map(|row| row["n"].as_u64().unwrap()).collect();
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
