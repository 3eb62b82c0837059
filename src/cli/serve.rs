//! `serve`: the custom handler of Azure Functions; without a Functions host, its own scheduler.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::FutureExt as _;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::logs::{self, Stdout};
use super::report::first_run;
use super::signals::{stop_on_signal, stop_when_orphaned};
use super::wiring::Wiring;
use super::{CommandError, DONE, USAGE};
use crate::codes::Code;
use crate::functions::{self, Job, RunEnd};
use crate::pipeline::{Connector, Outcome, RunSummary};
use crate::seams::Clock;
use crate::settings::{FUNCTIONS_PORT, RawSettings, Settings, is_loopback, process_env};

/// The longest that the scheduler sleeps before it looks at the clock again: a wall clock may jump.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The least time between the beginnings of two runs, however many ticks there are. A schedule's are
/// 10 minutes apart; people, and other programs on this machine, can send more.
const PAUSE: Duration = Duration::from_secs(60);

/// Run as the custom handler of Azure Functions; elsewhere, pull on SCHEDULE until stopped
#[derive(Args, Debug)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: RawSettings,
}

impl Serve {
    pub(super) async fn run(self) -> Result<u8, CommandError> {
        logs::start(self.settings.log_level(), Stdout::Logs);
        match process_env(FUNCTIONS_PORT) {
            Some(port) => self.handle(&port).await,
            None => self.schedule().await,
        }
    }

    /// Answers the Functions host. The port is bound before anything that takes time.
    async fn handle(self, port: &str) -> Result<u8, CommandError> {
        let number: u16 = port.parse().map_err(|_| {
            CommandError::Usage(format!("{FUNCTIONS_PORT} is {port:?}, which is not a port"))
        })?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).await.map_err(|error| {
            CommandError::Failed(format!("127.0.0.1:{number} cannot be listened on: {error}"))
        })?;
        let stop = stop_on_signal();
        stop_when_orphaned(&stop);
        if !self.settings.has_schedule() {
            // No fault: a changed function.json may have another schedule in it.
            tracing::warn!(
                "SCHEDULE is not set: where function.json names it, as the packaged one does, the \
                 Functions host disables the function and there is never a tick; set it"
            );
        }
        let job = match self.connector() {
            Ok((connector, settings)) => pulls(connector, settings.run_time_limit, stop.clone()),
            Err(CommandError::Settings(faults)) => reports(faults.to_string()),
            Err(error) => reports(error.to_string()),
        };
        functions::serve(listener, job, stop).await;
        Ok(DONE)
    }

    /// Pulls on the schedule, until a signal.
    async fn schedule(self) -> Result<u8, CommandError> {
        let (connector, settings) = self.connector()?;
        let stop = stop_on_signal();
        let clock = Clock::system();
        while let Some(next) = settings.schedule.after(clock.now()) {
            tracing::info!(schedule = %settings.schedule, %next, "waiting for the next run");
            while clock.now() < next && !stop.is_cancelled() {
                let left = (next - clock.now()).to_std().unwrap_or_default();
                tokio::select! {
                    () = sleep(left.min(LOOK_AGAIN)) => {}
                    () = stop.cancelled() => {}
                }
            }
            if stop.is_cancelled() {
                break;
            }
            pull(&connector, &stop).await;
        }
        Ok(DONE)
    }

    fn connector(&self) -> Result<(Connector, Settings), CommandError> {
        let today = Clock::system().now().date_naive();
        let settings = Settings::resolve(&self.settings, &process_env, today)?;
        for warning in &settings.state.warnings {
            tracing::warn!("{warning}");
        }
        let wiring = Wiring::new(is_loopback(&settings.mimecast.base_url))?;
        Ok((wiring.connector(&settings)?, settings))
    }
}

/// Each tick is a pull.
fn pulls(connector: Connector, time_limit: Duration, stop: CancellationToken) -> Job {
    let connector = Arc::new(connector);
    let run: functions::Run = Arc::new(move |_| {
        let (connector, stop) = (Arc::clone(&connector), stop.clone());
        async move {
            let summary = pull(&connector, &stop).await;
            RunEnd {
                exit_code: exit_code(&summary),
                summary: serde_json::to_value(summary).unwrap_or_default(),
            }
        }
        .boxed()
    });
    Job { run, pause: PAUSE, time_limit }
}

/// As that of a pull, but a stream that is busy has not failed: the host sometimes starts a second
/// handler beside the first, whose run goes on and does the work.
fn exit_code(summary: &RunSummary) -> u8 {
    let fine = |outcome: Outcome| outcome.is_done() || outcome == Outcome::Busy;
    match summary.streams.iter().all(|stream| fine(stream.outcome)) {
        true => DONE,
        false => summary.exit_code(),
    }
}

/// Reports wrong settings now and again at each tick, until somebody corrects them.
fn reports(faults: String) -> Job {
    // Now, since there may never be a tick: the host has none for a `SCHEDULE` that it cannot read.
    // The process does not end, since the host would only start it again and again.
    let report = move || {
        for fault in faults.lines() {
            tracing::error!(code = Code::Settings.as_str(), "{fault}");
        }
    };
    report();
    let run: functions::Run = Arc::new(move |_| {
        report();
        let summary = serde_json::json!({ "outcome": "failed" });
        async { RunEnd { exit_code: USAGE, summary } }.boxed()
    });
    // Such a run makes no call and ends at once.
    Job { run, pause: Duration::ZERO, time_limit: Duration::MAX }
}

async fn pull(connector: &Connector, stop: &CancellationToken) -> RunSummary {
    let summary = connector.run(&connector.summaries(), stop).await;
    let json = serde_json::to_string(&summary).unwrap_or_default();
    tracing::info!(target: logs::RUN_FINISHED, summary = json, "run finished");
    if summary.first_run {
        tracing::info!("{}", first_run(&summary));
    }
    summary
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::pipeline::StreamSummary;

    fn stream(outcome: Outcome) -> StreamSummary {
        StreamSummary { stream: "mailflow".to_owned(), outcome, ..StreamSummary::default() }
    }

    #[test]
    fn a_run_that_finds_another_at_work_is_no_failure() {
        use Outcome::{Busy, CaughtUp, Failed, TimeLimit};
        let cases: [(&[Outcome], u8); 8] = [
            (&[CaughtUp, CaughtUp], 0),
            (&[CaughtUp, TimeLimit], 0),
            (&[Busy, Busy], 0),
            (&[CaughtUp, Busy], 0),
            (&[Busy, TimeLimit], 0),
            (&[Failed, Failed], 1),
            (&[Busy, Failed], 1),
            (&[CaughtUp, Failed], 3),
        ];
        for (outcomes, expected) in cases {
            let streams = outcomes.iter().copied().map(stream).collect();
            let at = DateTime::UNIX_EPOCH;
            let summary = RunSummary::new(String::new(), at, at, String::new(), streams);
            assert_eq!(exit_code(&summary), expected, "{outcomes:?}");
        }
    }
}
