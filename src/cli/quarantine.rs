//! `quarantine list`, `show` and `replay`: what could not be delivered, for a person.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Subcommand};
use futures::{StreamExt, TryStreamExt, future};
use serde::{Deserialize, Serialize};

use super::escape::printable;
use super::logs::Stdout;
use super::output::{note, say, say_json};
use super::report::in_words;
use super::signals::stop_on_signal;
use super::state::no_checkpoint;
use super::wiring::Wiring;
use super::{CommandError, DONE, begin};
use crate::pipeline::{Outcome, ReplaySummary, StreamReplay};
use crate::quarantine::{
    Found, Kept, Quarantine, QuarantineRecord, in_quarantine, is_kept_line, is_record,
};
use crate::settings::{RawSettings, ReplaySettings, StateSettings, process_env};
use crate::sources::{self, Known};
use crate::store::Store;
use crate::table::CLOUD_INTEGRATED;

/// Records that are read at the same time.
const AT_ONCE: usize = 8;

/// See and send again what could not be delivered
#[derive(Args, Debug)]
pub(super) struct QuarantineCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a line for each record: its name, reason, state, time and place
    #[command(mut_args = only_state, after_help = LISTED)]
    List {
        /// Only this stream
        #[arg(value_parser = stream_names())]
        stream: Option<String>,
        /// Print each record as one JSON object on a line of its own
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: RawSettings,
    },
    /// Print one record with its bytes, which are personal data: senders, recipients, subjects
    #[command(mut_args = only_state, after_help = IDENTITY)]
    Show {
        /// The name that `quarantine list` prints
        name: String,
        /// Print it as one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: RawSettings,
    },
    /// Send again what was not delivered; what is accepted leaves quarantine, the rest stays
    #[command(mut_args = only_replay, after_help = REPLAYED)]
    Replay {
        /// Only this stream
        #[arg(value_parser = stream_names())]
        stream: Option<String>,
        /// Print the summary as one JSON object on stdout, and nothing else there
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: RawSettings,
    },
}

const IDENTITY: &str = "\
A blob container without a SAS is opened as the managed identity, where there is one, or as the \
same identity that `pull` uses; `mimecast-sentinel pull --help` says which.";

const LISTED: &str = "\
The time is the event's own, where its line can be read. The line itself is printed by `show` alone.

A blob container without a SAS is opened as the managed identity, where there is one, or as the \
same identity that `pull` uses; `mimecast-sentinel pull --help` says which.";

const REPLAYED: &str = "\
A row keeps its EventId, so a row that comes twice counts once. Records of delivered rows \
(oversize-field) are not sent. It takes the stream's lease, and waits up to a minute for a run \
in progress. It sends to Azure as `pull` does; it needs no connection to Mimecast and no secret of it.

Exit codes are those of `pull`. Records that stay are no failure.";

/// Leaves the settings out of the help that do not matter where nothing is posted.
fn only_state(arg: Arg) -> Arg {
    let id = arg.get_id().as_str();
    let matters =
        ["checkpoint_url", "log_level", "log_format", "stream", "name", "json"].contains(&id);
    let matters = matters || id.starts_with("azure_");
    arg.hide(!matters)
}

fn only_replay(arg: Arg) -> Arg {
    let id = arg.get_id().as_str();
    let matters = [
        "max_line_bytes",
        "max_file_bytes",
        "run_time_limit_seconds",
        "max_rows_per_run",
        "gzip_level",
    ];
    let matters = matters.contains(&id) || id.starts_with("logs_ingestion_");
    if matters { arg } else { only_state(arg) }
}

impl QuarantineCommand {
    pub(super) async fn run(self) -> Result<u8, CommandError> {
        match self.action {
            Action::List { stream, json, settings } => {
                list(open(&settings)?, stream.as_deref(), json).await
            }
            Action::Show { name, json, settings } => {
                show(&Quarantine::new(open(&settings)?), name, json).await
            }
            Action::Replay { stream, json, settings } => {
                replay(&settings, stream.as_deref(), json).await
            }
        }
    }
}

fn open(settings: &RawSettings) -> Result<Arc<dyn Store>, CommandError> {
    begin(settings, Stdout::Taken);
    let state = StateSettings::resolve(settings, &process_env)?;
    Wiring::new(false)?.store(&state.location)
}

/// A record as JSON, with its name and the event's time.
#[derive(Serialize)]
struct Printed<'a> {
    name: &'a str,
    event_time: Option<String>,
    #[serde(flatten)]
    record: QuarantineRecord<'a>,
}

async fn list(store: Arc<dyn Store>, stream: Option<&str>, json: bool) -> Result<u8, CommandError> {
    let quarantine = &Quarantine::new(Arc::clone(&store));
    let folder = in_quarantine(stream);
    let records = quarantine.names(&folder).try_filter(|name| future::ready(is_record(name)));
    let reading = records.map_ok(|name| quarantine.read(name));
    let mut found = reading.try_buffered(AT_ONCE).boxed();
    let (mut listed, mut unreadable) = (0, 0);
    while let Some(found) = found.try_next().await.map_err(failed)? {
        let Some(Found { name, record }) = found else { continue };
        match record {
            Ok(record) => {
                listed += 1;
                print(&name, record, json)?;
            }
            Err(why) => {
                unreadable += 1;
                note(&printable(format!("error: {name} cannot be read: {why}").as_bytes()));
            }
        }
    }
    if unreadable > 0 {
        let place = location(quarantine, None);
        let what = format!("{unreadable} records in {place} cannot be read; {REMEDY}");
        return Err(CommandError::Failed(what));
    }
    if listed == 0 {
        note(&format!("nothing is in {}", location(quarantine, stream)));
        if let Some(nothing) = no_checkpoint(store.as_ref()).await? {
            note(&nothing);
        }
    }
    Ok(DONE)
}

const REMEDY: &str =
    "somebody has edited or moved them: put them back as they were, or delete them";

fn print(name: &str, record: QuarantineRecord<'_>, json: bool) -> Result<(), CommandError> {
    let event_time = event_time(&record);
    if json {
        let listed = Printed { name, event_time, record: record.without_original() };
        return say_json(&serde_json::to_string(&listed).map_err(failed)?);
    }
    let QuarantineRecord { reason, line, file, .. } = &record;
    let (state, time) = (state(&record), event_time.as_deref().unwrap_or("-"));
    let text = format!("{name}  {reason}  {state}  {time}  line {line} of {file}");
    say(&printable(text.as_bytes()))
}

fn location(quarantine: &Quarantine, stream: Option<&str>) -> String {
    quarantine.location(stream.unwrap_or_default()).trim_end_matches('/').to_owned()
}

fn state(record: &QuarantineRecord<'_>) -> &'static str {
    if record.delivered { "delivered" } else { "undelivered" }
}

/// When the event happened, where its line can be read so far.
fn event_time(record: &QuarantineRecord<'_>) -> Option<String> {
    #[derive(Deserialize)]
    struct Event(serde_json::Map<String, serde_json::Value>);

    let Kept::Line(line) = record.kept() else { return None };
    let Event(fields) = serde_json::from_slice(&line).ok()?;
    let ms = fields.get(CLOUD_INTEGRATED.time_field?)?.as_i64()?;
    let time = DateTime::from_timestamp_millis(ms)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

async fn show(quarantine: &Quarantine, name: String, json: bool) -> Result<u8, CommandError> {
    let unknown = || {
        CommandError::Usage(format!(
            "there is no record {} in {}; `mimecast-sentinel quarantine list` prints the names",
            printable(name.as_bytes()),
            location(quarantine, None)
        ))
    };
    if !is_record(&name) {
        return Err(unknown());
    }
    let found = quarantine.read(name.clone()).await.map_err(failed)?.ok_or_else(unknown)?;
    let record = found.record.map_err(|why| {
        let place = location(quarantine, None);
        let what = format!("{name} in {place} cannot be read: {why}; {REMEDY}");
        CommandError::Failed(printable(what.as_bytes()))
    })?;
    let event_time = event_time(&record);
    if json {
        let shown = Printed { name: &name, event_time, record };
        say_json(&serde_json::to_string_pretty(&shown).map_err(failed)?)?;
        return Ok(DONE);
    }
    let (kept, bytes) = match record.kept() {
        Kept::Line(line) => (format!("the line, {} bytes:", line.len()), printable(&line)),
        Kept::File(kept) if is_kept_line(&kept) => {
            (format!("the line, as gzip in {kept}"), String::new())
        }
        Kept::File(kept) => (format!("the whole file, as {kept}"), String::new()),
        Kept::Nothing => ("nothing".to_owned(), String::new()),
    };
    let fields = [
        ("name", name.as_str()),
        ("stream", &record.stream),
        ("file", &record.file),
        ("line", &record.line.to_string()),
        ("event id", if record.is_event() { &record.event_id } else { "-" }),
        ("event time", event_time.as_deref().unwrap_or("-")),
        ("reason", &record.reason),
        ("detail", &record.detail),
        ("state", state(&record)),
        ("kept", &kept),
    ];
    for (field, value) in fields {
        say(&printable(format!("{:<12}{value}", format!("{field}:")).as_bytes()))?;
    }
    if !bytes.is_empty() {
        say(&bytes)?;
    }
    Ok(DONE)
}

async fn replay(
    settings: &RawSettings,
    stream: Option<&str>,
    json: bool,
) -> Result<u8, CommandError> {
    begin(settings, if json { Stdout::Taken } else { Stdout::Logs });
    let settings = ReplaySettings::resolve(settings, &process_env)?;
    let wanted = |known: &Known| stream.is_none_or(|stream| stream == known.stream.name);
    let streams: Vec<Known> = sources::streams().into_iter().filter(wanted).collect();
    let replay = Wiring::new(false)?.replay(&settings, &streams)?;
    let summary = replay.run(&stop_on_signal()).await;
    if json {
        say_json(&serde_json::to_string(&summary).map_err(failed)?)?;
    } else {
        say(&report(&summary))?;
    }
    if summary.streams.is_empty()
        && let Some(nothing) = no_checkpoint(replay.store.as_ref()).await?
    {
        note(&nothing);
    }
    Ok(summary.exit_code())
}

/// The names of the streams.
fn stream_names() -> PossibleValuesParser {
    PossibleValuesParser::new(sources::streams().iter().map(|known| known.stream.name))
}

/// A small table, one line a stream, and how it ended.
fn report(summary: &ReplaySummary) -> String {
    if summary.streams.is_empty() {
        return "nothing is in quarantine".to_owned();
    }
    let mut lines = vec![format!("{:<15}  {:>14}  stay in quarantine", "stream", "rows delivered")];
    lines.extend(summary.streams.iter().map(|replayed| {
        let StreamReplay { stream, rows_delivered, stay, outcome, .. } = replayed;
        let mut remarks: Vec<String> =
            stay.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        if remarks.is_empty() {
            remarks.push("-".to_owned());
        }
        if *outcome != Outcome::CaughtUp {
            remarks.push(in_words(*outcome).to_owned());
        }
        format!("{stream:<15}  {rows_delivered:>14}  {}", printable(remarks.join(", ").as_bytes()))
    }));
    if summary.streams.iter().any(|stream| !stream.stay.is_empty()) {
        lines.push("`mimecast-sentinel quarantine list` shows them".to_owned());
    }
    lines.join("\n")
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(error.to_string())
}
