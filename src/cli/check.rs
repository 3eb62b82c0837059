//! `check`: tries every connection, each by itself.

use clap::Args;

use super::CommandError;
use super::logs::{self, Stdout};
use super::output::{say, say_json};
use super::wiring::Wiring;
use crate::check::{self, Given, Report, Rung, Subjects, Tools};
use crate::seams::Clock;
use crate::settings::{RawSettings, is_loopback, process_env, process_env_names, unknown_settings};
use crate::sources::graph::{Probe, RISK_EVERY};

/// Instead of what is said below the settings.
pub(super) const HELP: &str = "\
The settings and the secrets are those of `pull`, whose help explains them.

Nothing is changed, and no event is read. Each line has a verdict, what was tried, what came \
back, and what to do:
  ok            it works
  warn          it works, but is probably a mistake
  fail          it does not work until somebody acts
  inconclusive  no answer, or one that may pass: nothing is proven
  skipped       not tried, since what it needs does not work

Exit codes:
  0  nothing fails
  1  something fails
  2  the settings are wrong";

/// Test every connection: the settings, Mimecast, Microsoft Graph, Azure, and where the state is kept
#[derive(Args, Debug)]
pub(super) struct Check {
    /// Print the verdicts as one JSON document on stdout, and nothing else there
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: RawSettings,
}

impl Check {
    pub(super) async fn run(self) -> Result<u8, CommandError> {
        logs::start(&self.settings, Stdout::Taken);
        let report = check(&self.settings, &mut |_| {}).await?;
        if self.json {
            say_json(&serde_json::to_string(&report).unwrap_or_default())?;
        } else {
            say(&lines(&report))?;
        }
        Ok(report.exit_code())
    }
}

/// Tries everything, with connections and tokens of its own. Shows what comes of it as it comes.
pub(super) async fn check(
    settings: &RawSettings,
    show: &mut (dyn FnMut(&Rung) + Send),
) -> Result<Report, CommandError> {
    let today = Clock::system().now().date_naive();
    let unknown = unknown_settings(process_env_names());
    let given = Given::resolve(settings, &process_env, today, unknown);
    let loopback = given.mimecast.as_ref().is_some_and(|to| is_loopback(&to.base_url));
    let wiring = Wiring { retry: check::RETRY, ..Wiring::new(loopback)? };
    let source = given.mimecast.as_ref().map(|settings| wiring.source(settings));
    let graph = given.graph.as_ref().map(|of| Probe::new(wiring.graph(of, RISK_EVERY)));
    let sink = given.ingestion.as_ref().map(|settings| wiring.sink(settings));
    let store = given.state.as_ref().map(|at| wiring.store(at)).transpose()?;
    let subjects = Subjects {
        source: source.as_ref(),
        graph: graph.as_ref(),
        sink: sink.as_ref(),
        store: store.as_deref(),
    };
    let Wiring { clients, clock, random, .. } = &wiring;
    Ok(check::check(&given, &subjects, &Tools { clients, clock, random }, show).await)
}

/// A line for each rung.
fn lines(report: &Report) -> String {
    let width = report.rungs.iter().map(|rung| rung.rung.len()).max().unwrap_or_default();
    let line = |Rung { rung, verdict, tried, answer, fix, .. }: &Rung| {
        let colon = if tried.is_empty() { "" } else { ": " };
        let fix = fix.as_ref().map(|fix| format!("; fix: {fix}")).unwrap_or_default();
        format!("{verdict:<12}  {rung:<width$}  {tried}{colon}{answer}{fix}")
    };
    report.rungs.iter().map(line).collect::<Vec<_>>().join("\n")
}
