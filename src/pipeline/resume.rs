//! Where a stream goes on: its stored checkpoint, held against what is configured.

use super::fault::{Fault, Interrupt};
use super::{Connector, checkpoint_name};
use crate::checkpoint::{Checkpoint, CheckpointError, Lease};

impl Connector {
    /// Reads the stored checkpoint, or begins a new one.
    pub(super) async fn resume(
        &self,
        stream: &str,
        lease: &mut dyn Lease,
    ) -> Result<Checkpoint, Interrupt> {
        let owner = self.source.owner();
        let destination = self.sink.destination();
        let Some(bytes) = lease.read().await? else {
            return Ok(Checkpoint::new(owner, destination, self.source.start()));
        };
        let name = format!("{} in {}", checkpoint_name(stream), self.store.location());
        let mut checkpoint = Checkpoint::parse(&bytes).map_err(|error| refused(&name, &error))?;
        if checkpoint.owner != owner {
            return Err(Fault::settings(
                "checkpoint-of-another",
                format!("{name} belongs to {:?}, not to {owner:?}", checkpoint.owner),
                format!(
                    "use another CHECKPOINT_URL for this account, or run `mimecast-sentinel state \
                     reset {stream}` to begin anew"
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

fn refused(name: &str, error: &CheckpointError) -> Fault {
    let fix = match error {
        CheckpointError::Newer { .. } => "install the newer release again",
        _ => "look at the file; `mimecast-sentinel state reset <stream>` begins anew",
    };
    Fault::settings("checkpoint-refused", format!("{name} {error}"), fix)
}
