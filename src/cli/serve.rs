//! `serve`: the custom handler of Azure Functions; without a Functions host, its own scheduler.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use futures::FutureExt as _;
use futures::future::join_all;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::check::check;
use super::logs::{self, Stdout};
use super::page::{LookedAt, StatusPage};
use super::report::first_run;
use super::run::Runner;
use super::signals::{stop_on_signal, stop_when_orphaned};
use super::status::{named, template_version};
use super::wiring::Wiring;
use super::{CommandError, DONE, USAGE, begin};
use crate::codes::Code;
use crate::functions::{self, Does, Function, Health, Job, RunEnd};
use crate::pipeline::{Outcome, RunSummary};
use crate::schedule::Schedule;
use crate::seams::Clock;
use crate::settings::{
    FUNCTIONS_PORT, RawSettings, Settings, SourceName, StatusSettings, process_env,
};
use crate::version::warning;

/// The longest that the scheduler sleeps before it looks at the clock again: a wall clock may jump.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The function of each source: the folder of its `function.json`.
const FUNCTIONS: [(SourceName, &str); 3] = [
    (SourceName::CloudIntegrated, "/CloudIntegrated"),
    (SourceName::EntraRisk, "/EntraRisk"),
    (SourceName::Directory, "/Directory"),
];

/// How late the schedule's next step may be until `/healthz` reports it.
const LATE: TimeDelta = TimeDelta::minutes(5);

/// What a run may take after its time limit.
const RUN_RESERVE: Duration = Duration::from_secs(120);

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
        begin(&self.settings, Stdout::Logs);
        if let Some(warning) = warning(template_version().as_deref()) {
            tracing::warn!("{warning}");
        }
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
        if self.settings.listen.is_some() {
            tracing::warn!(
                "LISTEN is not used under Azure Functions: the page is the function Status"
            );
        }
        let (functions, faults, runners) = match self.runners() {
            Ok((runners, settings)) => {
                let limit = settings.run_time_limit;
                let functions = FUNCTIONS.map(|(source, path)| {
                    let runner = runners.iter().find(|of| of.named.source == source.as_str());
                    let does = match runner {
                        Some(runner) => Does::Run(self.pulling(runner).job(limit, stop.clone())),
                        None => Does::Nothing(format!(
                            "{} is off: SOURCES does not name it",
                            source.as_str()
                        )),
                    };
                    Function { path, does }
                });
                (functions, String::new(), runners)
            }
            Err(error) => {
                let faults = match error {
                    CommandError::Settings(faults) => faults.to_string(),
                    error => error.to_string(),
                };
                let job = reports(faults.clone());
                let functions =
                    FUNCTIONS.map(|(_, path)| Function { path, does: Does::Run(job.clone()) });
                (functions, faults, Vec::new())
            }
        };
        let pages = self.page(faults, runners).pages();
        functions::serve(listener, functions.to_vec(), pages, stop).await;
        Ok(DONE)
    }

    fn pulling(&self, runner: &Arc<Runner>) -> Pulling {
        Pulling { settings: self.settings.clone(), runner: Arc::clone(runner) }
    }

    /// The status page. It is there with wrong settings too, as far as it can be.
    fn page(&self, faults: String, runners: Vec<Arc<Runner>>) -> StatusPage {
        let without_runner = || {
            let settings = StatusSettings::resolve(&self.settings, &process_env)?;
            let store = Wiring::new(false)?.store(&settings.state.location)?;
            Ok::<_, CommandError>(LookedAt { store, named: named(&settings) })
        };
        let looked_at = match runners.first() {
            Some(first) => {
                let named = runners.iter().map(|runner| runner.named.clone()).collect();
                Ok(LookedAt { store: Arc::clone(&first.connector.store), named })
            }
            None => without_runner(),
        };
        StatusPage {
            settings: self.settings.clone(),
            faults: faults.lines().map(str::to_owned).collect(),
            looked_at: looked_at.map_err(|error| error.to_string()),
            // They report to one place.
            reporter: runners.first().and_then(|runner| runner.reporter.clone()),
            tested: Mutex::default(),
        }
    }

    /// Pulls each source on its schedule, until a signal.
    async fn schedule(self) -> Result<u8, CommandError> {
        let (runners, settings) = self.runners()?;
        let stop = stop_on_signal();
        let clock = Clock::system();
        let beats: Vec<Beat> = runners.iter().map(|_| Beat::new(clock.now())).collect();
        self.listen(&settings, runners.clone(), &beats, &stop).await?;
        let limit = settings.run_time_limit;
        join_all(runners.iter().zip(&beats).map(async |(runner, beat)| {
            let pulling = self.pulling(runner);
            while wait(&runner.named.schedule, &clock, beat, &stop).await {
                beat.expect_by(clock.now() + limit + RUN_RESERVE);
                pulling.pull(limit, &stop).await;
            }
        }))
        .await;
        Ok(DONE)
    }

    /// Shows the status page, where `LISTEN` says so.
    async fn listen(
        &self,
        settings: &Settings,
        runners: Vec<Arc<Runner>>,
        beats: &[Beat],
        stop: &CancellationToken,
    ) -> Result<(), CommandError> {
        let Some(address) = settings.listen else { return Ok(()) };
        let listener = TcpListener::bind(address).await.map_err(|error| {
            CommandError::Usage(format!(
                "LISTEN is {address}, which cannot be listened on: {error}"
            ))
        })?;
        let at = listener.local_addr().unwrap_or(address);
        tracing::info!("the status page is at http://{at}/, and /healthz beside it");
        if !at.ip().is_loopback() {
            tracing::warn!(
                "LISTEN is not an address of this machine alone: whoever reaches {at} can read the \
                 status and test the connection; let only those reach it who may"
            );
        }
        let pages = self.page(String::new(), runners).pages();
        let health = Beat::health(beats.to_vec());
        tokio::spawn(functions::listen(listener, pages, health, stop.clone()));
        Ok(())
    }

    /// One for each source that is on.
    fn runners(&self) -> Result<(Vec<Arc<Runner>>, Settings), CommandError> {
        let today = Clock::system().now().date_naive();
        let settings = Settings::resolve(&self.settings, &process_env, today)?;
        for warning in &settings.state.warnings {
            tracing::warn!("{warning}");
        }
        let runners = Runner::all(&Wiring::of(&settings)?, &settings)?;
        Ok((runners.into_iter().map(Arc::new).collect(), settings))
    }
}

/// Waits for the next tick. False once there is none, or at a signal.
async fn wait(schedule: &Schedule, clock: &Clock, beat: &Beat, stop: &CancellationToken) -> bool {
    let mut awaited = None;
    while !stop.is_cancelled() {
        let now = clock.now();
        if awaited.is_some_and(|next| next <= now) {
            return true;
        }
        // Anew at each look: a clock that was ahead and is put right would be waited for otherwise.
        let Some(next) = schedule.after(now) else { return false };
        if awaited.replace(next) != Some(next) {
            tracing::info!(%schedule, %next, "waiting for the next run");
            beat.expect_by(next);
        }
        let left = (next - now).to_std().unwrap_or_default();
        tokio::select! {
            () = sleep(left.min(LOOK_AGAIN)) => {}
            () = stop.cancelled() => {}
        }
    }
    false
}

/// By when the schedule's next step is due, for `/healthz`.
#[derive(Clone)]
struct Beat(Arc<Mutex<DateTime<Utc>>>);

impl Beat {
    fn new(by: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(by)))
    }

    fn expect_by(&self, by: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = by;
    }

    fn health(beats: Vec<Self>) -> Health {
        Arc::new(move || {
            let by = |Self(by): &Self| *by.lock().unwrap_or_else(PoisonError::into_inner);
            match beats.iter().map(by).min() {
                Some(by) if Clock::system().now() >= by + LATE => Err(format!(
                    "a schedule stands still: its next step was due at {}",
                    by.format("%F %T")
                )),
                _ => Ok(()),
            }
        })
    }
}

/// What a tick does.
#[derive(Clone)]
struct Pulling {
    settings: RawSettings,
    runner: Arc<Runner>,
}

impl Pulling {
    /// Each tick is a pull.
    fn job(self, time_limit: Duration, stop: CancellationToken) -> Job {
        let run: functions::Run = Arc::new(move |_| {
            let (this, stop) = (self.clone(), stop.clone());
            async move {
                let summary = this.pull(time_limit, &stop).await;
                RunEnd {
                    exit_code: exit_code(&summary),
                    summary: serde_json::to_value(summary).unwrap_or_default(),
                }
            }
            .boxed()
        });
        Job { run, pause: PAUSE, time_limit }
    }

    async fn pull(&self, time_limit: Duration, stop: &CancellationToken) -> RunSummary {
        let began = Instant::now();
        let runner = &self.runner;
        let summary = runner.run(&runner.connector.summaries(), stop).await;
        let json = serde_json::to_string(&summary).unwrap_or_default();
        tracing::info!(target: logs::RUN_FINISHED, summary = json, "run finished");
        if summary.first_run {
            tracing::info!("{}", first_run(&summary));
        }
        // After a long run there is no time: the next tick of the day does it.
        if !stop.is_cancelled() && began.elapsed() < time_limit / 2 {
            tokio::select! {
                () = self.test_daily(time_limit / 2) => {}
                // It waits half a minute for each host that does not answer: a stop has not that time.
                () = stop.cancelled() => {}
            }
        }
        summary
    }

    /// At the first tick of a day, tests the connection for the health table.
    async fn test_daily(&self, time: Duration) {
        let Some(reporter) = &self.runner.reporter else { return };
        let now = Clock::system().now();
        // One source's tick does it for all.
        let Some(_testing) = reporter.begin_test() else { return };
        if !reporter.is_test_due(now.date_naive()).await {
            return;
        }
        let tested = timeout(time, check(&self.settings, &mut |_| {})).await;
        if let Ok(Ok(report)) = tested {
            reporter.verdicts(&report.rungs, now).await;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Begun, StreamSummary};

    /// As a machine without a battery for its clock may do at its start.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_a_day_ahead_holds_up_no_run() {
        let (began, right) = (Instant::now(), DateTime::UNIX_EPOCH + TimeDelta::minutes(1));
        let clock = Clock::from_fn(move || {
            let passed = TimeDelta::from_std(began.elapsed()).unwrap();
            let ahead = TimeDelta::days(i64::from(passed < TimeDelta::minutes(2)));
            right + ahead + passed
        });
        let schedule = Schedule::parse("0 */15 * * * *").unwrap();
        let (beat, stop) = (Beat::new(clock.now()), CancellationToken::new());
        assert!(wait(&schedule, &clock, &beat, &stop).await);
        assert_eq!(clock.now(), DateTime::UNIX_EPOCH + TimeDelta::minutes(15));
        assert!(wait(&schedule, &clock, &beat, &stop).await);
        assert_eq!(clock.now(), DateTime::UNIX_EPOCH + TimeDelta::minutes(30), "one run a tick");
        stop.cancel();
        assert!(!wait(&schedule, &clock, &beat, &stop).await);
    }

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
            let begun = Begun { run_id: String::new(), started_at: at };
            let summary = RunSummary::new(begun, at, String::new(), streams);
            assert_eq!(exit_code(&summary), expected, "{outcomes:?}");
        }
    }
}
