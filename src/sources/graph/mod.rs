//! Microsoft Graph: risk of identities, and the directory.
//!
//! `client` gets a reply, `risk` or `directory` makes `lines` of its objects and says where the next
//! page is. A line is an observation of one object: what it was when it was read. Nothing of it is kept
//! here but the place that is read next.

mod client;
mod directory;
mod lines;
mod objects;
mod pace;
mod probe;
mod risk;
mod seen;
mod ticks;

pub use client::Options;
pub use directory::{DIRECTORY, DirectorySource, directory_streams};
pub use lines::Observations;
pub use probe::{GRAPH_APP, Granted, Needed, OPTIONAL, Probe, Right, needed};
pub use risk::{ENTRA_RISK, RISK_EVERY, RiskSource, RiskStart, risk_streams};

use serde::Deserialize;

use crate::checkpoint::Cursor;
use crate::codes::Code;
use crate::pipeline::{Fault, checkpoint_name};

/// The place that is stored as a cursor. What one that is none holds is not shown: a link is among it.
fn place<'a, P: Deserialize<'a>>(stream: &str, Cursor(value): &'a Cursor) -> Result<P, Fault> {
    P::deserialize(value).map_err(|error| {
        Fault::settings(
            Code::CheckpointRefused,
            format!(
                "the cursor in {} is not one of Microsoft Graph's: {error}",
                checkpoint_name(stream)
            ),
            format!(
                "put the checkpoint back as it was; or let the stream begin again: `mimecast-sentinel \
                 state reset {stream}`"
            ),
        )
    })
}

/// As a cursor.
fn cursor(place: &impl serde::Serialize) -> Cursor {
    // Texts, numbers and maps with keys of text have no form that JSON could not take.
    Cursor(serde_json::to_value(place).unwrap_or_default())
}
