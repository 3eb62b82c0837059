//! `demo`: the whole way on loopback. The simulator plays Mimecast, the managed identity and the
//! ingestion endpoint; a second process of this program pulls from one to the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use chrono::{Days, NaiveDate};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::Instant;

use super::CommandError;
use crate::seams::Clock;
use crate::settings::FUNCTIONS_PORT;
use crate::simulator::{FaultPlan, Keep, Options, Simulator, World};
use crate::table::CLOUD_INTEGRATED;

/// The made-up events are the same in every demo of one day.
const SEED: u64 = 1;

/// How far the made-up history goes back.
const DAYS: u64 = 60;

const EVENTS_PER_STREAM: usize = 3_000;
const EVENTS_PER_FILE: usize = 50;

/// See it work: made-up events go all the way, on this machine only. Needs no settings
#[derive(Args, Debug)]
pub(super) struct Demo {
    /// Where the rows and the state are put; a demo that is there is replaced
    #[arg(long, default_value = "mimecast-sentinel-demo", value_name = "FOLDER")]
    folder: PathBuf,
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
        let options = Options { keep: Keep::File(rows.clone()), ..Options::default() };
        let simulator = Simulator::start(world, FaultPlan::none(), options)
            .await
            .map_err(|error| CommandError::Failed(format!("no simulator: {error}")))?;
        println!(
            "Pulling {} made-up events of {DAYS} days from a simulated Mimecast …",
            3 * EVENTS_PER_STREAM
        );
        let began = Instant::now();
        let summary = self.pull(&simulator, start).await?;
        let seconds = began.elapsed().as_secs_f64();
        let violations = simulator.violations();
        if !violations.is_empty() {
            return Err(failed(format!("the simulator objects: {}", violations.join("; "))));
        }
        self.tell(&rows, &summary, seconds)
    }

    /// An empty folder for the rows.
    fn prepare(&self) -> Result<PathBuf, CommandError> {
        let rows = self.folder.join(format!("{}.ndjson", CLOUD_INTEGRATED.name));
        let folder = self.folder.display();
        let is_empty =
            |folder: &Path| folder.read_dir().map(|mut entries| entries.next().is_none());
        if rows.exists() {
            std::fs::remove_dir_all(&self.folder)
                .map_err(|error| failed(format!("{folder} cannot be replaced: {error}")))?;
        } else if self.folder.exists() && !is_empty(&self.folder).unwrap_or(false) {
            let what = format!("{folder} holds something that is no demo; name another --folder");
            return Err(CommandError::Usage(what));
        }
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| failed(format!("{folder} cannot be made: {error}")))?;
        Ok(rows)
    }

    /// Runs `pull` with settings that point at the simulator, and nothing else in its environment
    /// that could lead it elsewhere.
    async fn pull(&self, simulator: &Simulator, start: NaiveDate) -> Result<Value, CommandError> {
        let program = std::env::current_exe()
            .map_err(|error| failed(format!("this program's own file is not known: {error}")))?;
        let state = std::path::absolute(self.folder.join("state")).map_err(failed)?;
        let mut pull = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["AZURE_", "MIMECAST_", "LOGS_INGESTION_", "IDENTITY_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                pull.env_remove(name);
            }
        }
        for name in [FUNCTIONS_PORT, "SCHEDULE", "LOG_LEVEL", "GZIP_LEVEL"] {
            pull.env_remove(name);
        }
        for name in ["RUN_TIME_LIMIT_SECONDS", "MAX_LINE_BYTES", "MAX_FILE_BYTES"] {
            pull.env_remove(name);
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
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let output = pull.output().await.map_err(failed)?;
        if !output.status.success() {
            return Err(failed(format!("the pull ended with {}", output.status)));
        }
        serde_json::from_slice(&output.stdout).map_err(failed)
    }

    /// What landed, from when, how long it took, where it is, and what to try next.
    fn tell(&self, rows: &Path, summary: &Value, seconds: f64) -> Result<u8, CommandError> {
        let text = std::fs::read_to_string(rows).map_err(failed)?;
        let mut landed: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for row in text.lines() {
            let row: Landed = serde_json::from_str(row).map_err(failed)?;
            let (count, oldest) = landed.entry(row.stream).or_insert_with(|| (0, row.time.clone()));
            *count += 1;
            *oldest = std::mem::take(oldest).min(row.time);
        }
        println!("\nRows in {} that landed:", CLOUD_INTEGRATED.name);
        for (stream, (count, oldest)) in &landed {
            println!("  {stream:<9} {count:>6} rows, the oldest of {oldest}");
        }
        let total: u64 = landed.values().map(|(count, _)| count).sum();
        println!("  {:<9} {total:>6} rows in {seconds:.2} s: {}\n", "all", summary["outcome"]);
        println!("The rows:  {}", rows.display());
        println!("The state: {}\n", self.folder.join("state").display());
        println!(
            "(This simulated Mimecast keeps {DAYS} days; the real one is documented to keep 7.)"
        );
        println!("Next, with your own tenant's settings (see README.md):");
        println!("  mimecast-sentinel pull --dry-run | head   what would land, nothing is posted");
        println!("  mimecast-sentinel pull                    once, now");
        println!("  mimecast-sentinel pull --help             all settings, with their defaults");
        Ok(super::DONE)
    }
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(error.to_string())
}
