//! Connectors that go on only as a test permits: each effect on what they share is a step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::GzDecoder;
use futures::FutureExt;
use mimecast_sentinel::checkpoint::Cursor;
use mimecast_sentinel::pipeline::sink::Posted;
use mimecast_sentinel::pipeline::source::{Format, Opened, Page, Part};
use mimecast_sentinel::pipeline::{Interrupt, Sink, Source};
use mimecast_sentinel::seams::Deadline;
use mimecast_sentinel::store::Store;
use mimecast_sentinel::table::{Stream, Table};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

use super::doubles::{Call, MemorySource, WatchedStore};

/// Who wants to do what.
pub type Step = (char, String);

/// The steps that wait for their permit.
#[derive(Clone, Default)]
pub struct Steps(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    steps: Mutex<BTreeMap<Step, oneshot::Sender<()>>>,
    changed: Notify,
    free: Mutex<BTreeSet<char>>,
    detached: Mutex<Vec<AbortHandle>>,
}

impl Steps {
    /// Waits until this step is permitted.
    pub async fn wait(&self, who: char, what: impl Into<String>) {
        if self.0.free.lock().unwrap().contains(&who) {
            return;
        }
        let (permit, permitted) = oneshot::channel();
        let step = (who, what.into());
        let earlier = self.0.steps.lock().unwrap().insert(step.clone(), permit);
        assert!(earlier.is_none_or(|earlier| earlier.is_closed()), "{step:?} waits twice");
        self.0.changed.notify_one();
        permitted.await.unwrap();
    }

    /// What waits, in order.
    pub fn waiting(&self) -> Vec<Step> {
        let steps = self.0.steps.lock().unwrap();
        let open = steps.iter().filter(|(_, permit)| !permit.is_closed());
        open.map(|(step, _)| step.clone()).collect()
    }

    /// Permits a step that waits.
    pub fn permit(&self, step: &Step) {
        let permit = self.0.steps.lock().unwrap().remove(step);
        permit.unwrap_or_else(|| panic!("{step:?} does not wait")).send(()).unwrap();
    }

    /// Comes when `step` waits.
    pub async fn until_waiting(&self, step: &Step) {
        while !self.waiting().contains(step) {
            self.0.changed.notified().await;
        }
    }

    /// Permits whatever `who` does from now on.
    pub fn free(&self, who: char) {
        self.0.free.lock().unwrap().insert(who);
        self.waiting().iter().filter(|step| step.0 == who).for_each(|step| self.permit(step));
    }

    /// What goes on though nobody waits for it any more, as a request on its way does.
    pub fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let working = tokio::spawn(work);
        self.0.detached.lock().unwrap().push(working.abort_handle());
        working
    }

    /// Ends what is detached.
    pub fn end(&self) {
        self.0.detached.lock().unwrap().drain(..).for_each(|work| work.abort());
    }

    /// `store` for `who`: each call is a step, and so is its answer (`… answer`).
    pub fn store(&self, who: char, store: Arc<dyn Store>) -> Arc<dyn Store> {
        let steps = self.clone();
        Arc::new(WatchedStore::gated(store, move |call, ended| {
            let what = match call {
                Call::Lease(_) => "lease",
                Call::Read(_) => "read",
                Call::Save(..) => "save",
                Call::Release(_) => "release",
                Call::Write(_) | Call::WriteStream(_) => "keep",
            };
            let what = if ended { answer_to(what) } else { what.to_owned() };
            let steps = steps.clone();
            async move { steps.wait(who, what).await }.boxed()
        }))
    }
}

/// The step in which `what` is answered.
pub fn answer_to(what: &str) -> String {
    format!("{what} answer")
}

/// A source of which each listing is a step.
pub struct SteppedSource {
    pub who: char,
    pub steps: Steps,
    pub source: MemorySource,
}

#[async_trait]
impl Source for SteppedSource {
    fn name(&self) -> &'static str {
        "of a test"
    }

    fn owner(&self) -> BTreeMap<String, String> {
        self.source.owner()
    }

    fn streams(&self) -> Vec<Stream> {
        self.source.streams()
    }

    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        end: Deadline,
    ) -> Result<Page, Interrupt> {
        self.steps.wait(self.who, "list").await;
        Source::page(&self.source, stream, at, end).await
    }

    async fn open(&self, part: &Part, end: Deadline) -> Result<Opened, Interrupt> {
        self.source.open(part, end).await
    }

    fn format(&self, stream: &Stream) -> Arc<dyn Format> {
        self.source.format(stream)
    }
}

/// The rows `{"n":…}` that landed, and who sent them.
pub type Landed = Arc<Mutex<Vec<(char, u64)>>>;

type OnPost = Box<dyn Fn(&[u64]) + Send + Sync>;

/// A sink that accepts everything, in two steps: `post <first row>`, and the answer to that.
pub struct SteppedSink {
    pub who: char,
    pub steps: Steps,
    pub landed: Landed,
    /// Told of the rows when their post begins.
    pub on_post: OnPost,
}

#[async_trait]
impl Sink for SteppedSink {
    fn destination(&self, _: &Table) -> String {
        "memory".to_owned()
    }

    async fn post(&self, _: &Table, body: Bytes, _: Deadline) -> Posted {
        let rows: Vec<Value> = serde_json::from_reader(GzDecoder::new(&body[..])).unwrap();
        let rows: Vec<u64> = rows.iter().map(|row| row["n"].as_u64().unwrap()).collect();
        (self.on_post)(&rows);
        let what = format!("post {}", rows[0]);
        let answer = answer_to(&what);
        let (who, steps, landed) = (self.who, self.steps.clone(), Arc::clone(&self.landed));
        let sending = self.steps.detached(async move {
            steps.wait(who, what).await;
            landed.lock().unwrap().extend(rows.into_iter().map(|row| (who, row)));
        });
        sending.await.unwrap();
        self.steps.wait(who, answer).await;
        Posted { ambiguous: 0, answer: Ok(()) }
    }
}
