//! Where a stream goes on: its lease, and its stored checkpoint, compared with what is configured.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fault::{Fault, Interrupt};
use super::{Connector, Run, checkpoint_name};
use crate::checkpoint::{Checkpoint, CheckpointError, Spill};
use crate::codes::Code;
use crate::store::{Lease, Store};
use crate::table::Stream;

/// A wait for a lease is reported once it has taken so long.
const REPORT_WAIT_AFTER: Duration = Duration::from_secs(5);

/// Takes a stream's lease, waiting for it as long as the policy says. `None` if another keeps it
/// all that time.
pub(super) async fn lease(
    store: &dyn Store,
    stream: &str,
    run: &Run,
) -> Result<Option<Box<dyn Lease>>, Interrupt> {
    let (began, wait) = (Instant::now(), run.policy.lease_wait);
    let mut reported = false;
    loop {
        let lease = store.lease(&checkpoint_name(stream)).await?;
        if lease.is_some() || began.elapsed() + run.policy.lease_poll > wait {
            return Ok(lease);
        }
        if !reported && began.elapsed() >= REPORT_WAIT_AFTER {
            reported = true;
            tracing::info!(
                stream,
                checkpoint = name_in(store, stream),
                waits_at_most_seconds = wait.saturating_sub(began.elapsed()).as_secs(),
                "waiting for the lease, which another connector holds"
            );
        }
        run.in_time(sleep(run.policy.lease_poll)).await?;
    }
}

/// Releases a lease.
pub(super) async fn release(stream: &str, lease: Box<dyn Lease>) {
    if let Err(error) = lease.release().await {
        tracing::debug!(stream, %error, "the lease runs out by itself");
    }
}

/// The stored checkpoint, which this release must be able to read; `None` if there is none.
pub(super) async fn stored(
    store: &dyn Store,
    stream: &str,
    lease: &mut dyn Lease,
) -> Result<Option<Checkpoint>, Interrupt> {
    let Some(bytes) = lease.read().await? else { return Ok(None) };
    let checkpoint = Checkpoint::parse(&bytes).map_err(|error| {
        let fix = match &error {
            CheckpointError::Newer { .. } => "install the newer release again".to_owned(),
            _ => format!(
                "look at the file; `mimecast-sentinel state reset {stream}`, or in a backfill its \
                 `--restart`, begins again"
            ),
        };
        Fault::settings(Code::CheckpointRefused, format!("{} {error}", name_in(store, stream)), fix)
    })?;
    Ok(Some(checkpoint))
}

fn name_in(store: &dyn Store, stream: &str) -> String {
    format!("{} in {}", checkpoint_name(stream), store.location())
}

impl Connector {
    /// Reads the stored checkpoint, or begins a new one.
    pub(super) async fn resume(
        &self,
        stream: &Stream,
        lease: &mut dyn Lease,
    ) -> Result<Checkpoint, Interrupt> {
        let owner = self.source.owner();
        let destination = self.sink.destination(stream.table);
        let stream = stream.name;
        let Some(mut checkpoint) = stored(self.store.as_ref(), stream, lease).await? else {
            // What waits in spill is there still, if it was the checkpoint that was lost or reset.
            let waits = self.spill.range(stream).await?;
            let mut new = Checkpoint::new(owner, destination);
            new.spill = waits.map(|(first, next)| Spill::new(first, next));
            return Ok(new);
        };
        if checkpoint.owner != owner {
            let name = name_in(self.store.as_ref(), stream);
            return Err(Fault::settings(
                Code::CheckpointOfAnother,
                format!("{name} belongs to {:?}, not to {owner:?}", checkpoint.owner),
                format!(
                    "use another CHECKPOINT_URL for this account; or, to begin again, run \
                     `mimecast-sentinel state reset {stream}`, or the backfill with `--restart`"
                ),
            )
            .into());
        }
        if checkpoint.destination != destination {
            let (old, new) = (&checkpoint.destination, &destination);
            tracing::info!(stream, old, new, "rows go to another destination now");
            checkpoint.destination = destination;
        }
        Ok(checkpoint)
    }
}
