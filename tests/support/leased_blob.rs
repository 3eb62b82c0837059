//! A model of one blob and its lease, as Azure Blob Storage has them: a lease id, a term after
//! which another may lease it, and an `ETag` that each write changes. Each request is a step.
//!
//! The lease's owner goes by the rules of `src/azure/blob_lease.rs`: the term counts from when it
//! was asked for, and a write is given up when the term is over, though it may still arrive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mimecast_sentinel::store::{ByteStream, Lease, LeaseWatch, Store, StoreError};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::steps::{Steps, answer_to};

pub const TERM: Duration = Duration::from_secs(60);
/// Half a term and not a third of it, so that there are fewer interleavings.
pub const RENEW_EVERY: Duration = Duration::from_secs(30);

/// The blob, as the server has it.
#[derive(Clone, Debug, Default)]
pub struct Blob {
    pub bytes: Bytes,
    pub etag: u64,
    pub lease: Option<Leased>,
    leases: u64,
    /// Since when each asks for the lease.
    pub asking: BTreeMap<char, Instant>,
    /// What each owner of a lease knows of it.
    pub terms: BTreeMap<char, Arc<Term>>,
    /// What was asked for and what came of it, by whom.
    pub log: Vec<(char, String)>,
}

#[derive(Clone, Debug)]
pub struct Leased {
    pub id: u64,
    pub who: char,
    pub until: Instant,
}

/// A condition that did not hold: HTTP 409 or 412.
#[derive(Debug)]
pub struct Unmet;

impl Blob {
    /// Who holds the lease.
    pub fn holder(&self) -> Option<char> {
        let lease = self.lease.as_ref()?;
        (Instant::now() < lease.until).then_some(lease.who)
    }

    /// An active lease with this id. An expired one permits no write.
    fn check(&self, id: u64) -> Result<(), Unmet> {
        let is_it = self.holder().is_some() && self.lease.as_ref().is_some_and(|l| l.id == id);
        if is_it { Ok(()) } else { Err(Unmet) }
    }

    fn acquire(&mut self, who: char) -> Result<(u64, u64), Unmet> {
        if self.holder().is_some() {
            return Err(Unmet);
        }
        self.leases += 1;
        let until = Instant::now() + TERM;
        self.lease = Some(Leased { id: self.leases, who, until });
        Ok((self.leases, self.etag))
    }

    /// Even an expired lease is renewed, if nobody has leased the blob since.
    fn renew(&mut self, id: u64) -> Result<(), Unmet> {
        let lease = self.lease.as_mut().filter(|lease| lease.id == id).ok_or(Unmet)?;
        lease.until = Instant::now() + TERM;
        Ok(())
    }

    fn read(&mut self, id: u64) -> Result<(Bytes, u64), Unmet> {
        self.check(id)?;
        Ok((self.bytes.clone(), self.etag))
    }

    fn write(&mut self, id: u64, etag: u64, bytes: Bytes) -> Result<u64, Unmet> {
        self.check(id)?;
        if etag != self.etag {
            return Err(Unmet);
        }
        self.etag += 1;
        self.bytes = bytes;
        Ok(self.etag)
    }

    fn release(&mut self, id: u64) -> Result<(), Unmet> {
        self.lease.take_if(|lease| lease.id == id).map(drop).ok_or(Unmet)
    }
}

/// The store of `who` that has this blob, whatever its name.
#[derive(Clone)]
pub struct BlobOf {
    pub who: char,
    pub blob: Arc<Mutex<Blob>>,
    pub steps: Steps,
}

impl BlobOf {
    /// One request: it waits for its permit, and is written down with what came of it.
    async fn ask<T>(
        &self,
        what: &str,
        request: impl FnOnce(&mut Blob) -> Result<T, Unmet>,
    ) -> Result<T, Unmet> {
        self.steps.wait(self.who, what).await;
        let mut blob = self.blob.lock().unwrap();
        let result = request(&mut blob);
        let came_of_it = if result.is_ok() { "done" } else { "refused" };
        blob.log.push((self.who, format!("{what} {came_of_it}")));
        result
    }

    fn lost(&self) -> StoreError {
        StoreError::LeaseLost { location: self.location(), name: "the blob".to_owned() }
    }
}

#[async_trait]
impl Store for BlobOf {
    fn location(&self) -> String {
        "the model".to_owned()
    }

    async fn lease(&self, _: &str) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let asked = Instant::now();
        self.blob.lock().unwrap().asking.insert(self.who, asked);
        let acquired = self.ask("lease", |blob| blob.acquire(self.who)).await;
        self.blob.lock().unwrap().asking.remove(&self.who);
        let Ok((id, etag)) = acquired else { return Ok(None) };
        let term = Arc::new(Term::since(asked));
        self.blob.lock().unwrap().terms.insert(self.who, Arc::clone(&term));
        let renewals = tokio::spawn(keep(self.clone(), id, Arc::clone(&term)));
        let renewals = renewals.abort_handle();
        Ok(Some(Box::new(BlobLease { of: self.clone(), id, etag, term, renewals })))
    }

    async fn read(&self, _: &str) -> Result<Option<Bytes>, StoreError> {
        unimplemented!("a connector reads through its lease")
    }

    async fn write(&self, _: &str, _: Bytes) -> Result<(), StoreError> {
        unimplemented!("nothing goes to quarantine")
    }

    async fn write_stream(&self, _: &str, _: ByteStream) -> Result<(), StoreError> {
        unimplemented!("nothing goes to quarantine")
    }

    /// Nothing waits in spill.
    async fn list(&self, _: &str) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        unimplemented!("a connector deletes nothing")
    }
}

/// A lease, as its owner knows it.
#[derive(Debug)]
pub struct Term {
    /// The last request for it, answered or not.
    asked: Mutex<Instant>,
    until: Mutex<Instant>,
    lost: CancellationToken,
    /// A write on its way.
    saving: Mutex<Bytes>,
}

impl Term {
    fn since(asked: Instant) -> Self {
        Self {
            asked: Mutex::new(asked),
            until: Mutex::new(asked + TERM),
            lost: CancellationToken::new(),
            saving: Mutex::default(),
        }
    }

    fn held(&self) -> bool {
        if Instant::now() >= *self.until.lock().unwrap() {
            self.lost.cancel();
        }
        !self.lost.is_cancelled()
    }

    /// All of it; times as `when` says.
    pub fn said(&self, when: impl Fn(Instant) -> u128) -> String {
        let times = [&self.asked, &self.until].map(|time| when(*time.lock().unwrap()));
        format!("{times:?} {} {:?}", self.lost.is_cancelled(), self.saving.lock().unwrap())
    }
}

async fn keep(of: BlobOf, id: u64, term: Arc<Term>) {
    while term.held() {
        let next = *term.asked.lock().unwrap() + RENEW_EVERY;
        sleep_until(next).await;
        let asked = Instant::now();
        *term.asked.lock().unwrap() = asked;
        let until = *term.until.lock().unwrap();
        match timeout_at(until, of.ask("renew", |blob| blob.renew(id))).await {
            Ok(Ok(())) if term.held() => *term.until.lock().unwrap() = asked + TERM,
            _ => term.lost.cancel(),
        }
    }
}

struct BlobLease {
    of: BlobOf,
    id: u64,
    etag: u64,
    term: Arc<Term>,
    renewals: AbortHandle,
}

impl BlobLease {
    fn lost(&self) -> StoreError {
        self.term.lost.cancel();
        self.of.lost()
    }
}

#[async_trait]
impl Lease for BlobLease {
    fn held(&self) -> bool {
        self.term.held()
    }

    fn watch(&self) -> LeaseWatch {
        let term = Arc::clone(&self.term);
        LeaseWatch::new(move || term.held())
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        let id = self.id;
        let read = self.of.ask("read", |blob| blob.read(id)).await;
        let (bytes, etag) = read.map_err(|Unmet| self.lost())?;
        self.etag = etag;
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if !self.held() {
            return Err(self.lost());
        }
        *self.term.saving.lock().unwrap() = bytes.clone();
        let (of, id, etag) = (self.of.clone(), self.id, self.etag);
        let on_its_way = self
            .of
            .steps
            .detached(async move { of.ask("save", |blob| blob.write(id, etag, bytes)).await });
        let written = async {
            let written = on_its_way.await.unwrap();
            self.of.steps.wait(self.of.who, answer_to("save")).await;
            written
        };
        let written = tokio::select! {
            biased;
            written = written => written,
            () = self.term.lost.cancelled() => Err(Unmet),
        };
        self.etag = written.map_err(|Unmet| self.lost())?;
        Ok(())
    }

    async fn clear(self: Box<Self>) -> Result<(), StoreError> {
        unimplemented!("a connector clears nothing")
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        self.renewals.abort();
        let id = self.id;
        self.of.ask("release", |blob| blob.release(id)).await.unwrap_or_default();
        Ok(())
    }
}

impl Drop for BlobLease {
    fn drop(&mut self) {
        self.of.blob.lock().unwrap().terms.remove(&self.of.who);
        self.renewals.abort();
    }
}
