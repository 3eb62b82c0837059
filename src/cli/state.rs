//! `state show` and `state reset`: the checkpoints, for a person.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};

use clap::{Arg, Args, Subcommand};
use serde_json::{Value, json};

use super::logs::Stdout;
use super::output::{note, say, say_json};
use super::wiring::Wiring;
use super::{CommandError, DONE, begin};
use crate::checkpoint::Checkpoint;
use crate::pipeline::checkpoint_name;
use crate::settings::{RawSettings, StateSettings, process_env};
use crate::sources::{self, mimecast::SOURCE};
use crate::store::{Lease, Store};

/// Read or clear the checkpoints: how far each stream is
#[derive(Args, Debug)]
pub(super) struct State {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print every checkpoint, as one JSON object
    #[command(mut_args = only_state, after_help = IDENTITY)]
    Show {
        #[command(flatten)]
        settings: RawSettings,
    },
    /// Clear a stream's checkpoint: the next run starts over at the first day
    #[command(mut_args = only_state, after_help = IDENTITY)]
    Reset {
        /// The stream, such as entities, risk-detections or users
        stream: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        settings: RawSettings,
    },
}

/// How many characters are shown of a link.
const SHOWN: usize = 80;

/// How the names of checkpoints begin.
const CHECKPOINTS: &str = "checkpoints/";

/// About the settings that are not shown.
pub(super) const IDENTITY: &str = "\
A blob container without a SAS is opened as the managed identity, where there is one, or as the \
same identity that `pull` uses; `mimecast-sentinel pull --help` says which.";

/// Hides the settings in the help that do not matter here.
pub(super) fn only_state(arg: Arg) -> Arg {
    let matters = ["checkpoint_url", "log_level", "log_format", "yes", "stream"]
        .contains(&arg.get_id().as_str())
        || arg.get_id().as_str().starts_with("azure_");
    arg.hide(!matters)
}

impl State {
    pub(super) async fn run(self) -> Result<u8, CommandError> {
        let (Action::Show { settings } | Action::Reset { settings, .. }) = &self.action;
        begin(settings, Stdout::Taken);
        let state = StateSettings::resolve(settings, &process_env)?;
        // The argument is about batch files alone.
        let store = Wiring::new(false)?.store(&state.location)?;
        match self.action {
            Action::Show { .. } => show(store.as_ref()).await,
            Action::Reset { stream, yes, .. } => reset(store.as_ref(), &stream, yes).await,
        }
    }
}

async fn show(store: &dyn Store) -> Result<u8, CommandError> {
    let (mut checkpoints, mut unreadable) = (serde_json::Map::new(), Vec::new());
    for name in store.list(CHECKPOINTS).await.map_err(failed)? {
        let Some(stream) = stream_of(&name) else { continue };
        let Some(bytes) = store.read(&name).await.map_err(failed)? else { continue };
        match Checkpoint::parse(&bytes) {
            Ok(checkpoint) => {
                // As it would be stored, with the version that asks for.
                let mut checkpoint: Value =
                    serde_json::from_slice(&checkpoint.to_bytes()).map_err(failed)?;
                shorten(&mut checkpoint["cursor"]);
                checkpoints.insert(stream.to_owned(), checkpoint);
            }
            Err(error) => unreadable.push(format!("{name} in {} {error}", store.location())),
        }
    }
    if checkpoints.is_empty()
        && unreadable.is_empty()
        && let Some(nothing) = no_checkpoint(store).await?
    {
        note(&nothing);
    }
    say_json(&serde_json::to_string_pretty(&checkpoints).map_err(failed)?)?;
    if unreadable.is_empty() {
        return Ok(DONE);
    }
    Err(CommandError::Usage(format!(
        "{}; install the release that wrote it, or start over with `state reset <stream>`",
        unreadable.join("; ")
    )))
}

/// Where Microsoft Graph goes on is a link, and what was sent of risk are thousands of hashes: enough of
/// both to tell one from another.
fn shorten(cursor: &mut Value) {
    let Value::Object(members) = cursor else { return };
    if let Some(Value::String(link)) = members.get_mut("link")
        && let Some((cut, _)) = link.char_indices().nth(SHOWN)
    {
        link.truncate(cut);
        link.push('…');
    }
    if let Some(Value::Object(seen)) = members.get("seen") {
        let count = json!(format!("{} states", seen.len()));
        members.insert("seen".to_owned(), count);
    }
    members.values_mut().for_each(shorten);
}

async fn reset(store: &dyn Store, stream: &str, yes: bool) -> Result<u8, CommandError> {
    let name = checkpoint_name(stream);
    let Some(checkpoint) = store.read(&name).await.map_err(failed)? else {
        let (location, streams) = (store.location(), streams(store).await?.join(", "));
        return Err(CommandError::Usage(format!(
            "there is no {name} in {location}; `mimecast-sentinel state show` prints those there are; \
             the streams are {streams}"
        )));
    };
    let question = format!(
        "Clear the checkpoint of {stream} in {}? All that {} still keeps will be delivered again.",
        store.location(),
        keeper(stream)
    );
    if !yes && !confirmed(&question)? {
        note("nothing was changed");
        return Ok(DONE);
    }
    lease(store, &name).await?.clear().await.map_err(failed)?;
    if let Ok(checkpoint) = Checkpoint::parse(&checkpoint) {
        let waiting = checkpoint.files_waiting();
        if waiting > 0 {
            note(&format!("{waiting} batch files wait in spill: the next run delivers them first"));
        }
        // It may be all that knows of rows that a killed run quarantined.
        if !checkpoint.unreported.is_nothing() {
            note(
                "it has rows in quarantine that no log reports: see `mimecast-sentinel quarantine \
                 list`",
            );
        }
    }
    let keeper = keeper(stream);
    say(&format!(
        "{name} is cleared: the next run starts over and delivers again what {keeper} keeps"
    ))?;
    Ok(DONE)
}

/// Who has what a stream was made of.
fn keeper(stream: &str) -> &'static str {
    let known = sources::streams().into_iter().find(|known| known.stream.name == stream);
    match known {
        Some(known) if known.source != SOURCE => "Microsoft",
        _ => "Mimecast",
    }
}

/// The names of all streams: those of this release, and those that have a checkpoint.
pub(super) async fn streams(store: &dyn Store) -> Result<Vec<String>, CommandError> {
    let stored = store.list(CHECKPOINTS).await.map_err(failed)?;
    let stored = stored.iter().filter_map(|name| stream_of(name).map(str::to_owned));
    let known = sources::streams().into_iter().map(|known| known.stream.name.to_owned());
    Ok(stored.chain(known).collect::<BTreeSet<String>>().into_iter().collect())
}

/// Says that no stream has a checkpoint in `store`, if none has: it is probably another place than
/// the connector's.
pub(super) async fn no_checkpoint(store: &dyn Store) -> Result<Option<String>, CommandError> {
    let names = store.list(CHECKPOINTS).await.map_err(failed)?;
    let is_there = names.iter().any(|name| stream_of(name).is_some());
    Ok((!is_there).then(|| {
        let location = store.location();
        format!(
            "there are no checkpoints in {location} yet: no run has kept its state there; is it the \
             connector's CHECKPOINT_URL?"
        )
    }))
}

/// The stream whose checkpoint has this name.
fn stream_of(name: &str) -> Option<&str> {
    name.strip_prefix(CHECKPOINTS)?.strip_suffix(".json")
}

/// Takes the lease on a checkpoint, unless a connector has it.
pub(super) async fn lease(store: &dyn Store, name: &str) -> Result<Box<dyn Lease>, CommandError> {
    store.lease(name).await.map_err(failed)?.ok_or_else(|| {
        CommandError::Failed(format!("a connector is using {name}: wait until its run has ended"))
    })
}

/// Asks on the terminal.
pub(super) fn confirmed(question: &str) -> Result<bool, CommandError> {
    if !io::stdin().is_terminal() {
        return Err(CommandError::Usage("say --yes: there is no terminal to ask on".to_owned()));
    }
    io::stderr().write_all(format!("{question} [y/N] ").as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(super) fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(error.to_string())
}
