//! A store, a sink and a source in which a test has a hand.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::NaiveDate;
use flate2::read::GzDecoder;
use futures::future::{BoxFuture, pending, ready};
use futures::{FutureExt, StreamExt};
use mimecast_sentinel::checkpoint::{Checkpoint, Cursor, Position};
use mimecast_sentinel::pipeline::sink::{PostError, Posted};
use mimecast_sentinel::pipeline::source::{
    Content, Format, Line, LineReader, OpenPart, Opened, Page, Part, ReadError,
};
use mimecast_sentinel::pipeline::{Connector, Interrupt, Policy, Pool, RunSummary, Sink, Source};
use mimecast_sentinel::quarantine::Quarantine;
use mimecast_sentinel::seams::{Clock, Deadline, Random};
use mimecast_sentinel::sources::mimecast::Place;
use mimecast_sentinel::spill::SpilledFiles;
use mimecast_sentinel::store::{ByteStream, Lease, LeaseWatch, NullStore, Store, StoreError};
use mimecast_sentinel::table::{CLOUD_INTEGRATED, EventId, Row, Stream, Table};
use serde_json::Value;
use tokio::sync::Notify;

use super::rig::run;

/// One call to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Lease(String),
    /// Through the lease.
    Read(String),
    /// Through the lease: the checkpoint.
    Save(String, Bytes),
    Release(String),
    Write(String),
    WriteStream(String),
}

impl Call {
    pub fn is_save(&self) -> bool {
        matches!(self, Self::Save(..))
    }

    /// The checkpoint that is saved.
    pub fn saved(&self) -> Option<Checkpoint> {
        match self {
            Self::Save(_, bytes) => Some(Checkpoint::parse(bytes).unwrap()),
            _ => None,
        }
    }

    /// The object that is written into quarantine.
    pub fn kept(&self) -> Option<&str> {
        match self {
            Self::Write(name) | Self::WriteStream(name) => Some(name),
            _ => None,
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Pass,
    /// Nothing is done, and an error returned.
    Fail,
    /// Nothing is done, and nothing returned: what a crash before the call leaves.
    HangBefore,
    /// It is done, but does not return: what a crash after the call leaves.
    HangAfter,
    /// It is done, and then the lease it came through is lost.
    Lose,
}

type Decide = Arc<dyn Fn(usize, &Call) -> Act + Send + Sync>;

type Gate = Arc<dyn Fn(&Call, bool) -> BoxFuture<'static, ()> + Send + Sync>;

/// A store that writes down what is asked of it, and does with it as the test decides.
#[derive(Clone)]
pub struct WatchedStore {
    inner: Arc<dyn Store>,
    watch: Arc<Watch>,
}

struct Watch {
    /// Each call when it begins, and again when it ends well.
    log: Mutex<Vec<(Call, bool)>>,
    begun: AtomicUsize,
    decide: Decide,
    gate: Gate,
    hung: Arc<Notify>,
}

impl WatchedStore {
    /// `decide` gets the number of the call, from 1.
    pub fn new(
        inner: Arc<dyn Store>,
        decide: impl Fn(usize, &Call) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::with(inner, Arc::new(decide), Arc::new(|_, _| ready(()).boxed()))
    }

    /// Each call waits for `gate` before it is done (`false`), and again before it returns (`true`).
    pub fn gated(
        inner: Arc<dyn Store>,
        gate: impl Fn(&Call, bool) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        Self::with(inner, Arc::new(|_, _| Act::Pass), Arc::new(gate))
    }

    fn with(inner: Arc<dyn Store>, decide: Decide, gate: Gate) -> Self {
        let (log, begun, hung) = (Mutex::default(), AtomicUsize::new(0), Arc::default());
        Self { inner, watch: Arc::new(Watch { log, begun, decide, gate, hung }) }
    }

    /// The calls in the order in which they began.
    pub fn calls(&self) -> Vec<Call> {
        self.log().into_iter().filter(|(_, ended)| !ended).map(|(call, _)| call).collect()
    }

    /// Each call when it began (`false`), and again when it ended well (`true`).
    pub fn log(&self) -> Vec<(Call, bool)> {
        self.watch.log.lock().unwrap().clone()
    }

    /// The checkpoints that were saved, in order.
    pub fn saved(&self) -> Vec<Checkpoint> {
        self.calls().iter().filter_map(Call::saved).collect()
    }

    /// Told when a call hangs.
    pub fn hung(&self) -> Arc<Notify> {
        Arc::clone(&self.watch.hung)
    }
}

impl Watch {
    async fn through<T>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<(T, Act), StoreError> {
        self.log.lock().unwrap().push((call.clone(), false));
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let act = (self.decide)(number, &call);
        match act {
            Act::Fail => {
                return Err(StoreError::Failed {
                    location: "the test's store".to_owned(),
                    action: format!("{call:?}").chars().take(60).collect(),
                    reason: "no space left on device".to_owned(),
                });
            }
            Act::HangBefore => self.hang().await,
            Act::Pass | Act::HangAfter | Act::Lose => {}
        }
        (self.gate)(&call, false).await;
        let done = work.await;
        (self.gate)(&call, true).await;
        let done = done?;
        if act == Act::HangAfter {
            self.hang().await;
        }
        self.log.lock().unwrap().push((call, true));
        Ok((done, act))
    }

    async fn hang(&self) {
        self.hung.notify_one();
        pending::<()>().await;
    }
}

#[async_trait]
impl Store for WatchedStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.inner.read(name).await
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let call = Call::Write(name.to_owned());
        self.watch.through(call, self.inner.write(name, bytes)).await.map(|_| ())
    }

    async fn write_stream(&self, name: &str, bytes: ByteStream) -> Result<(), StoreError> {
        let call = Call::WriteStream(name.to_owned());
        self.watch.through(call, self.inner.write_stream(name, bytes)).await.map(|_| ())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.inner.delete(name).await
    }

    async fn lease(&self, name: &str) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let call = Call::Lease(name.to_owned());
        let (lease, _) = self.watch.through(call, self.inner.lease(name)).await?;
        let (watch, name) = (Arc::clone(&self.watch), name.to_owned());
        Ok(lease.map(|inner| -> Box<dyn Lease> {
            Box::new(WatchedLease { inner, name, watch, lost: Arc::default() })
        }))
    }
}

struct WatchedLease {
    inner: Box<dyn Lease>,
    name: String,
    watch: Arc<Watch>,
    lost: Arc<AtomicBool>,
}

impl WatchedLease {
    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Lease for WatchedLease {
    fn held(&self) -> bool {
        !self.is_lost() && self.inner.held()
    }

    fn watch(&self) -> LeaseWatch {
        let (lost, inner) = (Arc::clone(&self.lost), self.inner.watch());
        LeaseWatch::new(move || !lost.load(Ordering::Relaxed) && inner.held())
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        let call = Call::Read(self.name.clone());
        self.watch.through(call, self.inner.read()).await.map(|(bytes, _)| bytes)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if self.is_lost() {
            let (location, name) = ("the test's store".to_owned(), self.name.clone());
            return Err(StoreError::LeaseLost { location, name });
        }
        let call = Call::Save(self.name.clone(), bytes.clone());
        let ((), act) = self.watch.through(call, self.inner.write(bytes)).await?;
        self.lost.store(act == Act::Lose, Ordering::Relaxed);
        Ok(())
    }

    async fn clear(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.clear().await
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        let Self { inner, name, watch, .. } = *self;
        watch.through(Call::Release(name), inner.release()).await.map(|_| ())
    }
}

/// A store in memory, of a folder's kind: the lease ends with its holder.
#[derive(Clone, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    leased: Arc<Mutex<BTreeSet<String>>>,
}

struct MemoryLease(MemoryStore, String);

impl MemoryStore {
    /// The objects whose names begin with `prefix`.
    pub fn objects(&self, prefix: &str) -> Vec<(String, Bytes)> {
        let objects = self.objects.lock().unwrap();
        let named = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        named.map(|(name, bytes)| (name.clone(), bytes.clone())).collect()
    }

    /// Every record in quarantine, in the order of its name.
    pub fn quarantined(&self) -> Vec<Value> {
        let records = self.objects("quarantine/");
        let records = records.iter().filter(|(name, _)| name.ends_with(".json"));
        records.map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect()
    }

    fn put(&self, name: &str, bytes: Bytes) {
        self.objects.lock().unwrap().insert(name.to_owned(), bytes);
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.objects.lock().unwrap().get(name).cloned())
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.put(name, bytes);
        Ok(())
    }

    async fn write_stream(&self, name: &str, mut bytes: ByteStream) -> Result<(), StoreError> {
        let mut whole = Vec::new();
        while let Some(piece) = bytes.next().await {
            whole.extend_from_slice(&piece.map_err(|error| StoreError::Failed {
                location: self.location(),
                action: format!("writing {name}"),
                reason: error.to_string(),
            })?);
        }
        self.put(name, whole.into());
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.objects(prefix).into_iter().map(|(name, _)| name).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }

    async fn lease(&self, name: &str) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let taken = self.leased.lock().unwrap().insert(name.to_owned());
        Ok(taken
            .then(|| -> Box<dyn Lease> { Box::new(MemoryLease(self.clone(), name.to_owned())) }))
    }
}

#[async_trait]
impl Lease for MemoryLease {
    fn held(&self) -> bool {
        true
    }

    fn watch(&self) -> LeaseWatch {
        NullStore.watch()
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.0.read(&self.1).await
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.0.write(&self.1, bytes).await
    }

    async fn clear(self: Box<Self>) -> Result<(), StoreError> {
        self.0.delete(&self.1).await
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.0.leased.lock().unwrap().remove(&self.1);
    }
}

/// A body on its way.
pub struct Post {
    /// Counted from 1.
    pub number: usize,
    pub rows: Vec<Value>,
}

type Hook = Arc<dyn Fn(Post) -> BoxFuture<'static, Result<(), PostError>> + Send + Sync>;

/// A sink before which a test looks at each body: it goes on to `inner`, or gets the test's answer.
pub struct HookedSink {
    inner: Arc<dyn Sink>,
    hook: Hook,
    posts: AtomicUsize,
}

impl HookedSink {
    pub fn new<F>(inner: Arc<dyn Sink>, hook: impl Fn(Post) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), PostError>> + Send + 'static,
    {
        let hook: Hook = Arc::new(move |post| hook(post).boxed());
        Self { inner, hook, posts: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl Sink for HookedSink {
    fn destination(&self, table: &Table) -> String {
        self.inner.destination(table)
    }

    async fn post(&self, table: &Table, body: Bytes, deadline: Deadline) -> Posted {
        let number = self.posts.fetch_add(1, Ordering::Relaxed) + 1;
        let rows = serde_json::from_reader(GzDecoder::new(&body[..])).unwrap();
        match (self.hook)(Post { number, rows }).await {
            Ok(()) => self.inner.post(table, body, deadline).await,
            Err(error) => Posted { ambiguous: 0, answer: Err(error) },
        }
    }
}

/// A sink that accepts everything.
#[derive(Default)]
pub struct MemorySink {
    pub rows: Mutex<Vec<Value>>,
}

#[async_trait]
impl Sink for MemorySink {
    fn destination(&self, _: &Table) -> String {
        "memory".to_owned()
    }

    async fn post(&self, _: &Table, body: Bytes, _: Deadline) -> Posted {
        let rows: Vec<Value> = serde_json::from_reader(GzDecoder::new(&body[..])).unwrap();
        self.rows.lock().unwrap().extend(rows);
        Posted { ambiguous: 0, answer: Ok(()) }
    }
}

/// One stream of pages in memory, without sockets, so that a paused clock moves only when the test
/// says so. A line is its own row; one that is no JSON object is rejected. `{"n":7,"long":1}` is too
/// long, and `{"n":7,"damaged":1}` ends what can be read of its file; with 2, even once it is `mended`.
#[derive(Clone, Default)]
pub struct MemorySource {
    pub pages: Vec<Vec<(String, Vec<String>)>>,
    /// How much of this trouble is over.
    pub mended: u64,
}

impl MemorySource {
    /// With one more page, of these files.
    pub fn page(mut self, files: &[(&str, &[String])]) -> Self {
        let files = files.iter().map(|(key, lines)| ((*key).to_owned(), lines.to_vec()));
        self.pages.push(files.collect());
        self
    }
}

/// Rows `{"n":…}` with these numbers.
pub fn numbered(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|n| format!("{{\"n\":{n}}}")).collect()
}

#[async_trait]
impl Source for MemorySource {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn owner(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("client_id".to_owned(), "memory".to_owned())])
    }

    fn streams(&self) -> Vec<Stream> {
        vec![Stream { name: "numbers", table: &CLOUD_INTEGRATED }]
    }

    async fn page(&self, _: &Stream, at: Option<&Cursor>, _: Deadline) -> Result<Page, Interrupt> {
        let day = NaiveDate::from_ymd_opt(2026, 11, 1).unwrap();
        let at = at.map_or(Place::Start(day), |at| Place::of(at).unwrap());
        let index = match &at {
            Place::Start(_) => 0,
            Place::Token(token) => token.parse::<usize>().unwrap(),
        };
        let files = self.pages.get(index).cloned().unwrap_or_default();
        let part = |(key, lines): (String, Vec<String>)| Part {
            size: Some(lines.iter().map(|line| line.len() as u64 + 1).sum()),
            content: Content::At(format!("{index} {key}").into()),
            key,
            etag: None,
            begun: None,
        };
        Ok(Page {
            at: at.cursor(),
            parts: files.into_iter().map(part).collect(),
            next: Some(Place::Token((index + 1).min(self.pages.len()).to_string()).cursor()),
            caught_up: index + 1 >= self.pages.len(),
            backfill_from: (index == 0).then_some(day),
            gap: None,
        })
    }

    async fn open(&self, part: &Part, _: Deadline) -> Result<Opened, Interrupt> {
        let mut files = self.pages.iter().flatten();
        let (_, lines) = files.find(|(key, _)| *key == part.key).unwrap();
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        Ok(Opened::Part(OpenPart::here(None, text.into())))
    }

    fn format(&self, _: &Stream) -> Arc<dyn Format> {
        Arc::new(Numbers { mended: self.mended })
    }
}

/// Lines as they are.
struct Numbers {
    mended: u64,
}

impl Format for Numbers {
    fn lines(&self, skip: u64) -> Box<dyn LineReader> {
        let (mended, text) = (self.mended, Vec::new());
        Box::new(NumberLines { mended, text, read: 0, number: 0, skip, ended: false, half: false })
    }

    fn row(
        &self,
        line: &[u8],
        row: &mut Vec<u8>,
    ) -> (EventId, Result<Row, (&'static str, String)>) {
        let id = EventId::of(line);
        if !line.starts_with(b"{") {
            return (id, Err(("not-json", "it is not JSON".to_owned())));
        }
        row.extend_from_slice(line);
        (id, Ok(Row { event_time_ms: None, oversize: Vec::new() }))
    }
}

struct NumberLines {
    mended: u64,
    text: Vec<u8>,
    read: usize,
    number: u64,
    skip: u64,
    ended: bool,
    /// The first half of a long line was given.
    half: bool,
}

impl NumberLines {
    /// Whether a line has a trouble of this name that is not over.
    fn has(&self, line: &[u8], trouble: &str) -> bool {
        trouble_of(std::str::from_utf8(line).unwrap(), trouble) > self.mended
    }
}

/// How bad the trouble of this name is that a line has; 0 if it has none.
pub fn trouble_of(line: &str, trouble: &str) -> u64 {
    let json = serde_json::from_str::<Value>(line).unwrap_or_default();
    json[trouble].as_u64().unwrap_or(0)
}

impl LineReader for NumberLines {
    fn push(&mut self, bytes: Bytes) -> bool {
        self.text.extend_from_slice(&bytes);
        true
    }

    fn end(&mut self, _: bool) {
        self.ended = true;
        // A line that was kept by itself.
        if self.text.starts_with(&[0x1f, 0x8b]) {
            let packed = std::mem::take(&mut self.text);
            GzDecoder::new(&packed[..]).read_to_end(&mut self.text).unwrap();
        }
    }

    fn next(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        loop {
            let rest = &self.text[self.read..];
            if rest.starts_with(&[0x1f]) && !self.ended {
                return Ok(None);
            }
            let length = match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => end,
                None if rest.is_empty() || !self.ended => return Ok(None),
                None => rest.len(),
            };
            let line = self.read..self.read + length;
            self.number += u64::from(!self.half);
            if self.has(&self.text[line.clone()], "damaged") {
                let reason = "it says so".to_owned();
                return Err(ReadError::Damaged { offset: self.number, reason });
            }
            let middle = line.start + length / 2;
            let long = self.has(&self.text[line.clone()], "long");
            let (piece, begins, ends) = match (long, self.half) {
                (false, _) => (line.clone(), true, true),
                (true, false) => (line.start..middle, true, false),
                (true, true) => (middle..line.end, false, true),
            };
            self.half = !ends;
            if ends {
                self.read = (line.end + 1).min(self.text.len());
            }
            if self.number > self.skip {
                let bytes = &self.text[piece];
                return Ok(Some(Line { number: self.number, bytes, begins, ends }));
            }
        }
    }
}

/// A connector in memory, but for `store`.
pub fn in_memory(
    source: &MemorySource,
    sink: Arc<dyn Sink>,
    store: Arc<dyn Store>,
    policy: Policy,
) -> Connector {
    Connector {
        source: Arc::new(source.clone()),
        sink,
        quarantine: Quarantine::new(Arc::clone(&store)),
        spill: SpilledFiles::new(Arc::clone(&store)),
        store,
        policy,
        pool: Pool::default(),
        clock: Clock::system(),
        random: Random::seeded(1),
    }
}

/// Runs until the end, or until something hangs: then the run dies where it stands, as a process
/// that is killed does.
pub async fn run_or_die(connector: Connector, hung: &Notify) -> Option<RunSummary> {
    let mut running = tokio::spawn(async move { run(&connector).await });
    tokio::select! {
        ended = &mut running => Some(ended.unwrap()),
        () = hung.notified() => {
            running.abort();
            assert!(running.await.unwrap_err().is_cancelled());
            None
        }
    }
}

/// How far a file is in a checkpoint.
pub fn line_of(checkpoint: &Checkpoint, file: &str) -> Option<Position> {
    let mut files = checkpoint.files.iter();
    files.find(|(key, _)| key.ends_with(file)).map(|(_, progress)| progress.done)
}
