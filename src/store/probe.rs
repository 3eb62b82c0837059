//! Whether a store can do all that a run needs, tried with an object of its own.

use bytes::Bytes;

use super::{Store, StoreError};

/// See [`Store::probe`].
pub(super) async fn probe<S: Store + ?Sized>(store: &S, name: &str) -> Result<(), StoreError> {
    let failed = |action: &str, reason: &str| StoreError::Failed {
        location: store.location(),
        action: format!("{action} {name}"),
        reason: reason.to_owned(),
    };
    let Some(mut lease) = store.lease(name).await? else {
        return Err(failed("leasing", "somebody else has it"));
    };
    let bytes = Bytes::from_static(b"{}");
    let tried = async {
        lease.write(bytes.clone()).await?;
        if store.read(name).await?.as_ref() != Some(&bytes) {
            return Err(failed("reading", "it is not what was written"));
        }
        if store.list(name).await? != [name] {
            return Err(failed("listing", "it is not in the list"));
        }
        Ok(())
    };
    let tried = tried.await;
    // Also after a failure: nothing may be left of it.
    let cleared = lease.clear().await;
    tried.and(cleared)
}
