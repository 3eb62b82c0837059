//! `pull`: one run now.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use futures::future::join_all;
use indicatif::{HumanBytes, HumanCount};

use super::dry_run;
use super::logs::Stdout;
use super::output::{say, say_json};
use super::progress::{self, Done};
use super::report::report;
use super::run::Runner;
use super::signals::stop_on_signal;
use super::wiring::Wiring;
use super::{CommandError, begin};
use crate::pipeline::{Live, RunSummary, StreamSummary};
use crate::seams::Clock;
use crate::settings::{DryRunSettings, RawSettings, Settings, process_env};

/// Pull once, now: read what is new, deliver it, and end
#[derive(Args, Debug)]
pub(super) struct Pull {
    /// Print the summary as one JSON object on stdout, and nothing else there
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    /// Print the rows of a first run as NDJSON on stdout and the summary on stderr; post nothing,
    /// write nothing. Needs no Azure setting
    #[arg(long)]
    dry_run: bool,
    /// Pull this source alone, whatever SOURCES says: cloud-integrated, entra-risk or directory
    #[arg(
        long,
        value_name = "SOURCE",
        conflicts_with = "dry_run",
        value_parser = NonEmptyStringValueParser::new()
    )]
    source: Option<String>,
    #[command(flatten)]
    settings: RawSettings,
}

impl Pull {
    pub(super) async fn run(mut self) -> Result<u8, CommandError> {
        if let Some(source) = self.source.take() {
            self.settings.sources = Some(source);
        }
        let stdout = if self.json || self.dry_run { Stdout::Taken } else { Stdout::Logs };
        begin(&self.settings, stdout);
        if self.dry_run { self.dry_run().await } else { self.pull().await }
    }

    async fn pull(self) -> Result<u8, CommandError> {
        let today = Clock::system().now().date_naive();
        let settings = Settings::resolve(&self.settings, &process_env, today)?;
        for warning in &settings.state.warnings {
            tracing::warn!("{warning}");
        }
        let runners = Runner::all(&Wiring::of(&settings)?, &settings)?;
        let summaries: Vec<_> = runners.iter().map(|runner| runner.connector.summaries()).collect();
        let stop = stop_on_signal();
        let shown = show(&summaries.concat());
        let runs = runners.iter().zip(&summaries).map(|(runner, of)| runner.run(of, &stop));
        let runs = join_all(runs).await;
        drop(shown);
        for run in &runs {
            if self.json {
                say_json(&serde_json::to_string(run).unwrap_or_default())?;
            } else {
                say(&report(run, "delivered"))?;
            }
        }
        Ok(RunSummary::exit_code_of(&runs))
    }

    async fn dry_run(self) -> Result<u8, CommandError> {
        let today = Clock::system().now().date_naive();
        let settings = DryRunSettings::resolve(&self.settings, &process_env, today)?;
        dry_run::print(&settings, show).await
    }
}

/// Shows how far the run is, until it is dropped.
fn show(summaries: &[Live]) -> impl Sized + use<> {
    let summaries = summaries.to_vec();
    progress::show(None, move || done(&summaries))
}

/// How far the run is.
fn done(summaries: &[Live]) -> Done {
    let sum = |count: fn(&mut StreamSummary) -> u64| -> u64 {
        summaries.iter().map(|summary| summary.with(count)).sum()
    };
    let rows = sum(|summary| summary.rows_delivered);
    let text = format!(
        "{} events read ({}), {} rows delivered",
        HumanCount(sum(|summary| summary.events_read)),
        HumanBytes(sum(|summary| summary.bytes_read)),
        HumanCount(rows),
    );
    Done { rows, text }
}
