//! `status`: how each stream is.

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Arg, Args};
use indicatif::HumanCount;

use super::logs::Stdout;
use super::output::{note, say, say_json};
use super::state::failed;
use super::wiring::Wiring;
use super::{CommandError, DONE, NOTHING_DONE, SOME_FAILED, begin};
use crate::health::page::Page;
use crate::health::{Depth, LastFailure, LastGap, Named, Status, StreamStatus, length};
use crate::pipeline::Gap;
use crate::schedule::Schedule;
use crate::settings::{RawSettings, SourceName, StatusSettings, process_env};
use crate::sources::{self, mimecast::SOURCE};
use crate::version::TEMPLATE;

/// Say how each stream is: its state and why, the last success, the next run, the rows
#[derive(Args, Debug)]
#[command(mut_args = only_status, after_help = HELP)]
pub(super) struct StatusCommand {
    /// Print it as one JSON document on stdout, and nothing else there
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// Write it as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    settings: RawSettings,
}

const HELP: &str = "\
It reads what runs have left in CHECKPOINT_URL, and asks neither Mimecast nor Azure: `check` does.
States:
  Connected     the last run succeeded, also if there was nothing new
  Connecting    it reads a backlog
  Degraded      a failure that may pass, a batch file that is left aside, or files in spill
  Disconnected  a failure that a person must fix or that lasts for an hour; or no run
  Unavailable   no run has succeeded yet

Exit codes:
  0  all streams are Connected or Connecting
  1  none is
  2  the settings are wrong
  3  some are";

fn only_status(arg: Arg) -> Arg {
    let id = arg.get_id().as_str();
    let matters = ["checkpoint_url", "log_level", "json", "html", "sources", "mimecast_types"];
    let matters = matters.contains(&id) || id.starts_with("azure_") || id.ends_with("schedule");
    arg.hide(!matters)
}

impl StatusCommand {
    pub(super) async fn run(self) -> Result<u8, CommandError> {
        begin(&self.settings, Stdout::Taken);
        let settings = StatusSettings::resolve(&self.settings, &process_env)?;
        let wiring = Wiring::new(false)?;
        let store = wiring.store(&settings.state.location)?;
        let named = named(&settings);
        let now = wiring.clock.now();
        let status = Status::read(&store, &named, Depth::Whole, template_version(), now)
            .await
            .map_err(failed)?;
        if let Some(file) = &self.html {
            let page = Page { status: Ok(&status), faults: Vec::new(), now, has_test: false };
            std::fs::write(file, page.html()).map_err(|error| {
                CommandError::Failed(format!("{} cannot be written: {error}", file.display()))
            })?;
            note(&format!("written to {}", file.display()));
        } else if self.json {
            say_json(&serde_json::to_string(&status).map_err(failed)?)?;
        } else {
            say(&text(&status))?;
        }
        let fine = status.streams.iter().filter(|stream| stream.state.is_fine()).count();
        Ok(match fine {
            all if all == status.streams.len() => DONE,
            0 => NOTHING_DONE,
            _ => SOME_FAILED,
        })
    }
}

/// The version of the template that was deployed, which it leaves in the environment.
pub(super) fn template_version() -> Option<String> {
    process_env(TEMPLATE)
}

/// What these settings name.
pub(super) fn named(settings: &StatusSettings) -> Vec<Named> {
    let of = |(source, schedule): &(SourceName, Schedule)| {
        let source = source.as_str();
        let known = sources::streams().into_iter().filter(|known| known.source == source);
        let names = known.map(|known| known.stream.name);
        let is_on = |name: &&str| source != SOURCE || settings.types.contains(name);
        Named { source, streams: names.filter(is_on).collect(), schedule: schedule.clone() }
    };
    settings.sources.iter().map(of).collect()
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%F %R UTC").to_string()
}

fn ago(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> String {
    at.map_or_else(|| "never".to_owned(), |at| format!("{}, {} ago", time(at), length(now - at)))
}

/// A few lines for each stream.
fn text(status: &Status) -> String {
    let mut lines: Vec<String> =
        status.streams.iter().map(|stream| of_stream(stream, status.read_at)).collect();
    lines.extend(status.warnings.iter().map(|warning| format!("warning    {warning}")));
    lines.push(format!("read from {} by {}", status.state_at, status.build));
    lines.join("\n")
}

fn of_stream(of: &StreamStatus, now: DateTime<Utc>) -> String {
    let mut lines = vec![format!("{:<15} {}", of.stream, of.state.as_str())];
    let mut add = |name: &str, value: String| lines.push(format!("  {name:<14} {value}"));
    if let Some(reason) = &of.reason {
        add("why", reason.clone());
    }
    if let Some(fix) = &of.fix {
        add("fix", fix.clone());
    }
    if let Some(held_up) = &of.held_up {
        let passed = held_up.passed_at.map(|at| format!(", passed at {}", time(at)));
        let command = held_up.command.as_ref().map(|command| format!(" or by `{command}`"));
        add(
            "held up by",
            format!(
                "{}, since {}{}{}",
                held_up.what,
                time(held_up.since),
                passed.unwrap_or_default(),
                command.unwrap_or_default()
            ),
        );
    }
    add("last success", ago(of.last_success, now));
    // Else it is what stands there as the reason.
    let is_over = |failure: &&LastFailure| of.reason.as_ref() != Some(&failure.message);
    if let Some(failure) = of.last_failure.as_ref().filter(is_over) {
        add(
            "last failure",
            format!("{}: {} ({})", time(failure.at), failure.message, failure.code),
        );
    }
    if let Some(LastGap { at, gap: Gap { from, to } }) = of.last_gap {
        let noticed = time(at);
        add(
            "missing",
            format!("events from {} to {} may be, seen at {noticed}", time(from), time(to)),
        );
    }
    match of.running_since {
        Some(since) => add("running", format!("since {}", time(since))),
        None => add("next run", of.next_run.map_or_else(|| "never".to_owned(), time)),
    }
    add("last rows", ago(of.last_row, now));
    if let Some(lag) = of.lag_seconds {
        add("newest event", format!("{} old", length(TimeDelta::seconds(lag))));
    }
    add(
        "rows",
        format!("{} in 24 hours, {} in 30 days", HumanCount(of.rows_24h), HumanCount(of.rows_30d)),
    );
    add("quarantine", of.quarantine.words(|number| HumanCount(number).to_string()));
    if of.files_waiting > 0 {
        add("files waiting", HumanCount(of.files_waiting).to_string());
    }
    lines.join("\n")
}
