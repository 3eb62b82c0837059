//! The lease on a blob, and what keeps it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::Error;
use azure_core::http::Etag;
use azure_storage_blob::BlobClient;
use azure_storage_blob::models::{
    BlobClientDeleteOptions, BlobClientUploadOptions, StorageErrorCode,
};
use bytes::Bytes;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::blob::BlobStore;
use super::blob_errors::{has_code, is_unmet_condition};
use crate::seams::spawn;
use crate::store::{Lease, LeaseWatch, Store, StoreError, most_bytes};

/// How long Azure keeps a lease without a renewal: the longest it grants.
pub(super) const TERM: Duration = Duration::from_secs(60);
/// From the start of one renewal to the next, so that two may fail.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// The wait after a renewal that got no answer. The SDK has already repeated it for 15 s.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A lease on one blob. Each write carries its id and the version that it saw last.
pub(super) struct BlobLease {
    store: BlobStore,
    name: String,
    blob: Arc<BlobClient>,
    id: String,
    etag: Option<Etag>,
    term: Arc<Term>,
    renewals: AbortHandle,
}

impl BlobLease {
    /// The lease that `id` is, asked for at `asked`, on a blob that had `etag` then.
    pub(super) fn new(
        store: BlobStore,
        name: &str,
        blob: BlobClient,
        id: String,
        etag: Option<Etag>,
        asked: Instant,
    ) -> Self {
        let (blob, term) = (Arc::new(blob), Arc::new(Term::since(asked)));
        let renew = {
            let (store, blob, id) = (store.clone(), Arc::clone(&blob), id.clone());
            let renewing = format!("renewing the lease on {name}");
            move || {
                let (store, blob, id) = (store.clone(), Arc::clone(&blob), id.clone());
                let renewing = renewing.clone();
                async move {
                    let Err(error) = blob.renew_lease(id, None).await else { return Renewal::Done };
                    if is_lost(&error) {
                        return Renewal::Refused;
                    }
                    let error = store.fault(&renewing, error);
                    tracing::info!(%error, "the lease was not renewed; trying again");
                    Renewal::Unknown
                }
            }
        };
        let renewals = spawn(keep(Arc::clone(&term), renew)).abort_handle();
        Self { store, name: name.to_owned(), blob, id, etag, term, renewals }
    }

    fn lost(&self) -> StoreError {
        self.term.lost.cancel();
        StoreError::LeaseLost { location: self.store.location(), name: self.name.clone() }
    }

    fn fault(&self, action: &str, error: Error) -> StoreError {
        if is_lost(&error) {
            return self.lost();
        }
        self.store.fault(&format!("{action} {}", self.name), error)
    }

    async fn upload(&self, bytes: Bytes) -> Result<Option<Etag>, Error> {
        let options = BlobClientUploadOptions {
            if_match: self.etag.clone(),
            lease_id: Some(self.id.clone()),
            ..Default::default()
        };
        let error = match self.blob.upload(bytes.clone().into(), Some(options)).await {
            Ok(written) => return Ok(written.etag),
            Err(error) if is_unmet_condition(&error) => error,
            Err(error) => return Err(error),
        };
        // A repeated request finds the version that its first try, whose answer was lost, wrote.
        let read = BlobStore::download(&self.blob, most_bytes(&self.name), Some(self.id.clone()));
        match read.await {
            Ok((found, etag)) if found == bytes => Ok(etag),
            _ => Err(error),
        }
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
        let read = BlobStore::download(&self.blob, most_bytes(&self.name), Some(self.id.clone()));
        let (bytes, etag) = read.await.map_err(|error| self.fault("reading", error))?;
        self.etag = etag;
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if !self.held() {
            return Err(self.lost());
        }
        let written = tokio::select! {
            written = self.upload(bytes) => written,
            () = self.term.lost.cancelled() => return Err(self.lost()),
        };
        self.etag = written.map_err(|error| self.fault("writing", error))?;
        Ok(())
    }

    async fn clear(self: Box<Self>) -> Result<(), StoreError> {
        if !self.held() {
            return Err(self.lost());
        }
        let options = BlobClientDeleteOptions {
            if_match: self.etag.clone(),
            lease_id: Some(self.id.clone()),
            ..Default::default()
        };
        let Err(error) = self.blob.delete(Some(options)).await else { return Ok(()) };
        let fault = self.fault("removing", error);
        // A repeated request finds nothing if its first try, whose answer was lost, removed it.
        match (&fault, self.store.read(&self.name).await) {
            (StoreError::LeaseLost { .. }, Ok(None)) => Ok(()),
            _ => Err(fault),
        }
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        self.renewals.abort();
        match self.blob.release_lease(self.id.clone(), None).await {
            Err(error) if is_lost(&error) => Ok(()),
            done => done.map(drop).map_err(|error| self.fault("releasing", error)),
        }
    }
}

impl Drop for BlobLease {
    fn drop(&mut self) {
        self.renewals.abort();
    }
}

/// Until when a lease is certainly held.
struct Term {
    until: Mutex<Instant>,
    lost: CancellationToken,
}

impl Term {
    fn since(asked: Instant) -> Self {
        Self { until: Mutex::new(asked + TERM), lost: CancellationToken::new() }
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewed(&self, asked: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked + TERM;
    }

    fn held(&self) -> bool {
        if Instant::now() >= self.until() {
            self.lost.cancel();
        }
        !self.lost.is_cancelled()
    }
}

/// What came of one renewal.
enum Renewal {
    Done,
    Refused,
    /// No answer, or none that says anything about the lease.
    Unknown,
}

/// Whether another holds the lease now, or the blob is gone. Other answers, about a role that was
/// taken away or a policy, say nothing about the lease.
fn is_lost(error: &Error) -> bool {
    is_unmet_condition(error) || has_code(error, StorageErrorCode::BlobNotFound)
}

/// Renews a lease until it is lost. The term counts from a renewal's start, since Azure's may begin
/// no earlier.
async fn keep<F: Future<Output = Renewal>>(term: Arc<Term>, renew: impl Fn() -> F) {
    let mut next = term.until() - TERM + RENEW_EVERY;
    while term.held() {
        sleep_until(next).await;
        let asked = Instant::now();
        match timeout_at(term.until(), renew()).await {
            Ok(Renewal::Done) if term.held() => {
                term.renewed(asked);
                next = asked + RENEW_EVERY;
            }
            Ok(Renewal::Unknown) => next = term.until().min(Instant::now() + TRY_AGAIN_AFTER),
            Ok(_) | Err(_) => term.lost.cancel(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use azure_core::error::ErrorKind;
    use azure_core::http::StatusCode;
    use tokio::time::sleep;

    use super::*;

    /// A lease whose renewals end as `renewal` says: the n-th, which may take its time.
    fn kept<F>(renewal: impl Fn(u32) -> F + Send + Sync + 'static) -> Arc<Term>
    where
        F: Future<Output = Renewal> + Send + 'static,
    {
        let term = Arc::new(Term::since(Instant::now()));
        let count = AtomicU32::new(0);
        let renew = move || renewal(count.fetch_add(1, Ordering::Relaxed));
        tokio::spawn(keep(Arc::clone(&term), renew));
        term
    }

    #[test]
    fn only_answers_about_the_lease_lose_it() {
        let answered = |status, code: &str| {
            let error_code = Some(code.to_owned());
            Error::from(ErrorKind::HttpResponse { status, error_code, raw_response: None })
        };
        for (status, code) in [
            (StatusCode::Conflict, "LeaseIdMismatchWithLeaseOperation"),
            (StatusCode::Conflict, "LeaseIsBrokenAndCannotBeRenewed"),
            (StatusCode::PreconditionFailed, "ConditionNotMet"),
            (StatusCode::NotFound, "BlobNotFound"),
        ] {
            assert!(is_lost(&answered(status, code)), "{code}");
        }
        for (status, code) in [
            (StatusCode::Conflict, "BlobImmutableDueToPolicy"),
            (StatusCode::Conflict, "InvalidBlobType"),
            (StatusCode::Conflict, "ContainerBeingDeleted"),
            (StatusCode::Forbidden, "AuthorizationPermissionMismatch"),
            (StatusCode::NotFound, "ContainerNotFound"),
            (StatusCode::ServiceUnavailable, "ServerBusy"),
        ] {
            assert!(!is_lost(&answered(status, code)), "{code}");
        }
    }

    async fn held_for(term: &Term) -> Duration {
        let start = Instant::now();
        term.lost.cancelled().await;
        assert!(!term.held());
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_keep_it() {
        let term = kept(|_| async { Renewal::Done });
        sleep(Duration::from_secs(3600)).await;
        assert!(term.held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_renewal_loses_it_at_once() {
        let term = kept(|n| async move { if n < 2 { Renewal::Done } else { Renewal::Refused } });
        assert_eq!(held_for(&term).await, RENEW_EVERY * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn without_answers_it_is_lost_60_s_after_the_last_renewal_began() {
        let slow_but_done = Duration::from_secs(15);
        let term = kept(move |n| async move {
            if n > 0 {
                return Renewal::Unknown;
            }
            sleep(slow_but_done).await;
            Renewal::Done
        });
        assert_eq!(held_for(&term).await, RENEW_EVERY + TERM);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_never_ends_loses_it_in_time() {
        let term = kept(|_| std::future::pending());
        assert_eq!(held_for(&term).await, TERM);
    }

    #[tokio::test(start_paused = true)]
    async fn one_failed_renewal_does_not_matter() {
        let term =
            kept(|n| async move { if n % 2 == 0 { Renewal::Unknown } else { Renewal::Done } });
        sleep(Duration::from_secs(3600)).await;
        assert!(term.held());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_held_past_its_term_even_if_nobody_watches() {
        let term = Term::since(Instant::now());
        sleep(TERM - Duration::from_millis(1)).await;
        assert!(term.held());
        sleep(Duration::from_millis(1)).await;
        assert!(!term.held());
        term.renewed(Instant::now());
        assert!(!term.held(), "never again");
    }
}
