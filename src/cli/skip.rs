//! `skip`: passes what holds a stream up, because a person says so.

use clap::Args;

use super::logs::Stdout;
use super::output::{note, say};
use super::state::{IDENTITY, confirmed, failed, lease, no_checkpoint, only_state, streams};
use super::wiring::Wiring;
use super::{CommandError, DONE, begin};
use crate::checkpoint::Checkpoint;
use crate::pipeline::checkpoint_name;
use crate::settings::{RawSettings, StateSettings, process_env};
use crate::store::Store;

/// Pass the batch file or the body that holds a stream up, at the next run, into quarantine
#[derive(Args, Debug)]
#[command(mut_args = only_state, after_help = IDENTITY)]
pub(super) struct Skip {
    /// The stream, such as entities, risk-detections or users
    stream: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    settings: RawSettings,
}

impl Skip {
    pub(super) async fn run(self) -> Result<u8, CommandError> {
        begin(&self.settings, Stdout::Taken);
        let state = StateSettings::resolve(&self.settings, &process_env)?;
        // The argument is about batch files alone.
        let store = Wiring::new(false)?.store(&state.location)?;
        skip(store.as_ref(), &self.stream, self.yes).await
    }
}

async fn skip(store: &dyn Store, stream: &str, yes: bool) -> Result<u8, CommandError> {
    let name = checkpoint_name(stream);
    let streams = streams(store).await?;
    if !streams.iter().any(|known| known == stream) {
        let streams = streams.join(", ");
        return Err(CommandError::Usage(format!(
            "there is no stream {stream}; the streams are {streams}"
        )));
    }
    let before = checkpoint(store, &name, store.read(&name).await.map_err(failed)?)?;
    let held_up = before.as_ref().map(Checkpoint::held_up).unwrap_or_default();
    if held_up.is_empty()
        && let Some(down) = before.and_then(|before| before.destination_down)
    {
        let since = down.since.format("%F %R UTC");
        note(&format!(
            "{stream} is held up by its destination since {since}, which cannot be passed, and nothing \
             was changed: {}",
            down.said
        ));
        return Ok(DONE);
    }
    if held_up.is_empty() {
        note(&format!("nothing holds {stream} up in {}: nothing was changed", store.location()));
        if let Some(nothing) = no_checkpoint(store).await? {
            note(&nothing);
        }
        return Ok(DONE);
    }
    for (what, held_up) in &held_up {
        let (since, runs) = (held_up.since.format("%F %R UTC"), held_up.runs);
        note(&format!("{what}: held up since {since}, tried in {runs} runs: {}", held_up.said));
    }
    let question = "Pass it at the next run, if it still cannot be had? Its events that are not \
                    delivered yet are then missing, or in quarantine.";
    if !yes && !confirmed(question)? {
        note("nothing was changed");
        return Ok(DONE);
    }
    let mut lease = lease(store, &name).await?;
    let now = checkpoint(store, &name, lease.read().await.map_err(failed)?)?;
    let Some(mut now) = now.filter(|now| now.held_up() == held_up) else {
        return Err(CommandError::Failed(
            "a run has ended meanwhile, and what is held up has changed: ask again".to_owned(),
        ));
    };
    now.skip();
    lease.write(now.to_bytes().into()).await.map_err(failed)?;
    lease.release().await.map_err(failed)?;
    say(
        "the next run passes it, unless it can be had by then; `mimecast-sentinel pull` does so now",
    )?;
    Ok(DONE)
}

fn checkpoint(
    store: &dyn Store,
    name: &str,
    bytes: Option<bytes::Bytes>,
) -> Result<Option<Checkpoint>, CommandError> {
    let checkpoint = bytes.map(|bytes| Checkpoint::parse(&bytes)).transpose();
    checkpoint.map_err(|error| failed(format!("{name} in {} {error}", store.location())))
}
