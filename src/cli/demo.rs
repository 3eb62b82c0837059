//! `demo`: the whole way on loopback. The simulator plays Mimecast, the managed identity and the
//! ingestion endpoint; a second process of this program pulls from one to the other.

use std::collections::BTreeMap;
use std::fs::remove_dir_all;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use chrono::{Days, NaiveDate};
use clap::{Arg, Args};
use indicatif::HumanCount;
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::CommandError;
use super::output::{note, say};
use super::progress::{self, Done};
use crate::seams::Clock;
use crate::settings::{FUNCTIONS_PORT, PREFIXES, RawSettings};
use crate::simulator::{FaultPlan, Keep, Simulator, SimulatorOptions, World};
use crate::sources::mimecast::SOURCE;
use crate::table::{CLOUD_INTEGRATED, TABLES, Table};

/// The made-up events are the same in every demo of one day.
const SEED: u64 = 1;

/// How far the made-up history goes back.
const DAYS: u64 = 60;

const EVENTS_PER_STREAM: usize = 3_000;
const EVENTS_PER_FILE: usize = 50;

/// How often it is looked whether rows can be written.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where the pull keeps its checkpoints, under the folder.
const STATE: &str = "demo-state";

/// Variables without a flag that could point the pull elsewhere, in upper case, beside those that are
/// named as settings.
const STRAY_PREFIXES: [&str; 2] = ["AZURE_", "IDENTITY_"];
const STRAY: [&str; 4] = [FUNCTIONS_PORT, "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

const KEPT: &str =
    "(The simulated Mimecast keeps 60 days of events; the real one is documented to keep 7.)";

/// See it work: made-up events go all the way, on this machine only. Needs no settings
#[derive(Args, Debug)]
pub(super) struct Demo {
    /// Where the rows and the state are put; a demo that is there is replaced
    #[arg(long, default_value = "mimecast-sentinel-demo", value_name = "FOLDER")]
    folder: PathBuf,
    /// Show identity risk and a small directory too
    #[arg(long)]
    identity: bool,
}

/// What is read of a row that landed.
#[derive(Deserialize)]
struct Landed {
    #[serde(rename = "type_")]
    stream: String,
    #[serde(rename = "EventTime")]
    time: String,
}

impl Demo {
    pub(super) async fn run(self) -> Result<u8, CommandError> {
        let rows = self.prepare()?;
        let today = Clock::system().now().date_naive();
        let start = today.checked_sub_days(Days::new(DAYS)).unwrap_or(today);
        let world = World::made_up(SEED, start..today, EVENTS_PER_STREAM, EVENTS_PER_FILE);
        let options = SimulatorOptions {
            keep: Keep::Folder(self.folder.clone()),
            ..SimulatorOptions::default()
        };
        let simulator = Simulator::start(world, FaultPlan::none(), options)
            .await
            .map_err(|error| failed(format!("no simulator for {}: {error}", rows.display())))?;
        if self.identity {
            simulator.graph(|graph| graph.make_up(Clock::system().now()));
        }
        let events = 3 * EVENTS_PER_STREAM as u64;
        say(&format!(
            "Pulling {events} made-up events of {DAYS} days from a simulated Mimecast …"
        ))?;
        let began = Instant::now();
        let simulator = Arc::new(simulator);
        let shown = progress::show(Some(events), {
            let simulator = Arc::clone(&simulator);
            move || {
                let rows = simulator.landed_count();
                Done { rows, text: format!("{} of {} rows", HumanCount(rows), HumanCount(events)) }
            }
        });
        let pulled = tokio::select! {
            pulled = self.pull(&simulator, start) => pulled,
            // The pull knows but that the rows are not taken, and would try again for a minute.
            error = file_error(&simulator) => Err(failed(format!(
                "the demo cannot go on: {} cannot be written to: {error}; free space there, or name \
                 another --folder",
                rows.display()
            ))),
        };
        drop(shown);
        let summary = pulled?;
        let seconds = began.elapsed().as_secs_f64();
        let violations = simulator.violations();
        if !violations.is_empty() {
            return Err(failed(format!("the simulator objects: {}", violations.join("; "))));
        }
        self.print_results(&rows, &summary, seconds)
    }

    /// A folder for the rows that holds nothing else. Only what a demo left there is removed.
    fn prepare(&self) -> Result<PathBuf, CommandError> {
        let rows = self.rows_of(&CLOUD_INTEGRATED);
        let state = self.folder.join(STATE);
        let of_tables: Vec<PathBuf> = TABLES.iter().map(|table| self.rows_of(table)).collect();
        let folder = self.folder.display();
        if let Ok(mut entries) = self.folder.read_dir()
            && let Some(other) = entries.find_map(|entry| {
                Some(entry.ok()?.path()).filter(|path| !of_tables.contains(path) && *path != state)
            })
        {
            let what = format!("{} is not from a demo; name another --folder", other.display());
            return Err(CommandError::Usage(what));
        }
        let removed = of_tables.iter().map(|rows| if_there(std::fs::remove_file(rows)));
        removed
            .chain([if_there(remove_dir_all(&state))])
            .collect::<io::Result<()>>()
            .map_err(|error| failed(format!("the demo in {folder} cannot be replaced: {error}")))?;
        std::fs::create_dir_all(&self.folder).map_err(|error| {
            failed(format!("{folder} cannot be made: {error}; name another --folder"))
        })?;
        Ok(rows)
    }

    /// Where the rows of a table are put.
    fn rows_of(&self, table: &Table) -> PathBuf {
        self.folder.join(format!("{}.ndjson", table.name))
    }

    /// Runs `pull` with settings that point at the simulator, and nothing else in its environment
    /// that could lead it elsewhere.
    async fn pull(&self, simulator: &Simulator, start: NaiveDate) -> Result<Value, CommandError> {
        let program = std::env::current_exe()
            .map_err(|error| failed(format!("this program's own file is not known: {error}")))?;
        let state = std::path::absolute(self.folder.join(STATE)).map_err(failed)?;
        let mut pull = Command::new(program);
        let settings = RawSettings::augment_args(clap::Command::new("pull"));
        let settings: Vec<_> = settings.get_arguments().filter_map(Arg::get_env).collect();
        for (name, _) in std::env::vars_os() {
            let upper = name.to_string_lossy().to_uppercase();
            if STRAY_PREFIXES.iter().chain(&PREFIXES).any(|prefix| upper.starts_with(prefix))
                || STRAY.contains(&upper.as_str())
                || settings.iter().any(|setting| *setting == upper.as_str())
            {
                pull.env_remove(name);
            }
        }
        pull.args(["pull", "--json", "--log-level", "WARNING"])
            .env("MIMECAST_BASE_URL", simulator.url())
            .env("MIMECAST_CLIENT_ID", simulator.client_id())
            .env("MIMECAST_CLIENT_SECRET", simulator.client_secret())
            .env("START_DATE", start.to_string())
            .env("LOGS_INGESTION_ENDPOINT", simulator.url())
            .env("LOGS_INGESTION_RULE_ID", simulator.rule_id())
            .env("IDENTITY_ENDPOINT", simulator.identity_endpoint())
            .env("IDENTITY_HEADER", simulator.identity_header())
            .env("CHECKPOINT_URL", &state)
            .env("HEALTH_STREAM", "off")
            .env(
                "SOURCES",
                if self.identity { "cloud-integrated,entra-risk,directory" } else { SOURCE },
            )
            .env("GRAPH_BASE_URL", simulator.url())
            .env("ENTRA_RISK_START_DATE", start.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = pull.output().await.map_err(failed)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if !errors.is_empty() {
            progress::aside(|| note(errors.trim_end()));
        }
        if !output.status.success() {
            return Err(failed(format!("the pull ended with {}", output.status)));
        }
        // A line for each source, of which this is the first.
        let first = output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(first).map_err(failed)
    }

    /// What to type next, so that it works as it is printed: this program as it was called, and the
    /// folder as it was given.
    fn next_steps(&self, rows: &Path) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "mimecast-sentinel".to_owned());
        let program = quoted(&program);
        let state = quoted(&self.folder.join(STATE).display().to_string());
        let rows = quoted(&rows.display().to_string());
        format!(
            "See what it made:\n  \
             head -n 1 {rows}\n  \
             {program} status --checkpoint-url {state}\n  \
             {program} state show --checkpoint-url {state}\n\n\
             Then the settings, with their defaults:\n  \
             {program} pull --help\n\n\
             With MIMECAST_CLIENT_ID and MIMECAST_CLIENT_SECRET in the environment, what would land of \
             your own tenant's; nothing is posted:\n  \
             {program} pull --dry-run | head"
        )
    }

    /// What landed, from when, how long it took, where it is, and what to try next.
    fn print_results(
        &self,
        rows: &Path,
        summary: &Value,
        seconds: f64,
    ) -> Result<u8, CommandError> {
        let text = std::fs::read_to_string(rows).map_err(failed)?;
        let mut landed: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for row in text.lines() {
            let row: Landed = serde_json::from_str(row).map_err(failed)?;
            let (count, oldest) = landed.entry(row.stream).or_insert_with(|| (0, row.time.clone()));
            *count += 1;
            *oldest = std::mem::take(oldest).min(row.time);
        }
        let mut text = format!("\nRows that landed in {}:\n", CLOUD_INTEGRATED.name);
        for (stream, (count, oldest)) in &landed {
            let day = oldest.get(..10).unwrap_or(oldest);
            text.push_str(&format!("  {stream:<9} {count:>6} rows since {day}\n"));
        }
        let total: u64 = landed.values().map(|(count, _)| count).sum();
        let outcome = summary["outcome"].as_str().unwrap_or_default().replace('_', " ");
        text.push_str(&format!("  {:<9} {total:>6} rows in {seconds:.2} s, {outcome}\n\n", "all"));
        for table in TABLES.iter().filter(|_| self.identity) {
            let file = self.rows_of(table);
            if file != rows
                && let Ok(landed) = std::fs::read_to_string(&file)
            {
                let (name, count) = (table.name, landed.lines().count());
                text.push_str(&format!("  {name:<25} {count:>3} rows in {}\n", file.display()));
            }
        }
        text.push_str(&format!("The rows:  {}\n", rows.display()));
        text.push_str(&format!("The state: {}\n\n{KEPT}\n\n", self.folder.join(STATE).display()));
        text.push_str(&self.next_steps(rows));
        say(&text)?;
        Ok(super::DONE)
    }
}

/// A word of a shell's line that means `text`.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Waits for a row that cannot be written.
async fn file_error(simulator: &Simulator) -> String {
    loop {
        if let Some(error) = simulator.file_error() {
            return error;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Removing what is not there is no error.
fn if_there(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(()),
        _ => Err(error),
    })
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(error.to_string())
}
