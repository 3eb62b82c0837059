//! Rung 3, where checkpoints and quarantine are kept.

use tokio::time::timeout;

use super::hosts::Hosts;
use super::{Given, NOT_REACHED, PATIENCE, Rung, Tools, Verdict, WRONG_SETTINGS};
use crate::pipeline::Interrupt;
use crate::settings::{BlobAccessSettings, StateLocation};
use crate::store::Store;

/// Tried with an object that is removed again, so that no checkpoint is held from a run.
pub(super) async fn rung(
    given: &Given,
    store: Option<&dyn Store>,
    hosts: &Hosts,
    tools: &Tools<'_>,
) -> Rung {
    let (Some(location), Some(store)) = (&given.state, store) else {
        return Rung::skipped("state", WRONG_SETTINGS);
    };
    if let StateLocation::Blob { container, access } = location {
        let issued = match access {
            BlobAccessSettings::Identity(identity) => hosts.issue_to(identity),
            BlobAccessSettings::Sas(_) => true,
        };
        if !issued || !hosts.reached(container) {
            return Rung::skipped("state", NOT_REACHED);
        }
    }
    let name = format!("check-{:032x}.json", tools.random.bits());
    let tried = format!("leasing, writing, reading, listing and removing a file in {location}");
    match timeout(PATIENCE, store.probe(&name)).await {
        Ok(Ok(())) => Rung::ok("state", tried, "all of it works"),
        Ok(Err(error)) => {
            let rung = Rung::interrupt("state", tried, Interrupt::from(error));
            // A folder has no network before it that may be better later.
            match location {
                StateLocation::Folder(_) => Rung { verdict: Verdict::Fail, ..rung },
                StateLocation::Blob { .. } => rung,
            }
        }
        Err(_) => Rung::out_of_time("state", tried),
    }
}
