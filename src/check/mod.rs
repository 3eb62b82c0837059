//! The connection test: each thing that a run needs is tried by itself, in the order in which a run
//! needs it. It changes nothing, reads no event, and shows no secret.
//!
//! `settings` → `hosts` (the way to each, and the clock) → `mimecast` → `graph` → `azure` → `state`. What cannot
//! work since something before it does not is skipped, so that the cause alone has a verdict.

mod azure;
mod graph;
mod hosts;
mod mimecast;
mod settings;
mod state;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::azure::ingestion::LogsIngestion;
use crate::http::{Clients, RetryPolicy};
use crate::pipeline::{Fault, Interrupt};
use crate::seams::{Clock, Random};
use crate::sources::graph::Probe;
use crate::sources::mimecast::MimecastSource;
use crate::store::Store;

pub use settings::Given;

/// How calls are repeated: a person waits for the answer.
pub const RETRY: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(1),
    attempts: 2,
    throttled_at_least: Duration::from_secs(1),
    throttled: Duration::from_secs(30),
};

/// How long each rung may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The rung of the settings, whose failure has an exit code of its own.
const SETTINGS: &str = "settings";

/// What came of a rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It works.
    Ok,
    /// It works, but is probably a mistake.
    Warn,
    /// It does not work until a person acts.
    Fail,
    /// There was no answer, or one that may pass: nothing is proven.
    Inconclusive,
    /// It was not tried, since something that it needs does not work or is not there.
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Skipped => "skipped",
        })
    }
}

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Rung {
    /// Its name, which never changes, e.g. `mimecast/token`.
    pub rung: String,
    /// The source that needs it; `None` for what all of them need.
    pub source: Option<&'static str>,
    /// What came of it.
    pub verdict: Verdict,
    /// What was tried; empty if it was skipped.
    pub tried: String,
    /// What came back, or why it was skipped.
    pub answer: String,
    /// What to do, unless nothing is to be done.
    pub fix: Option<String>,
}

impl Rung {
    fn ok(rung: impl Into<String>, tried: impl Into<String>, answer: impl Into<String>) -> Self {
        Self {
            rung: rung.into(),
            source: None,
            verdict: Verdict::Ok,
            tried: tried.into(),
            answer: answer.into(),
            fix: None,
        }
    }

    fn skipped(rung: impl Into<String>, why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Skipped, ..Self::ok(rung, "", why) }
    }

    /// With another verdict than `ok`, and what to do.
    fn but(self, verdict: Verdict, fix: impl Into<String>) -> Self {
        Self { verdict, fix: Some(fix.into()), ..self }
    }

    fn of_source(self, source: &'static str) -> Self {
        Self { source: Some(source), ..self }
    }

    fn fault(rung: impl Into<String>, tried: impl Into<String>, fault: Fault) -> Self {
        let verdict = if fault.settings { Verdict::Fail } else { Verdict::Inconclusive };
        Self::ok(rung, tried, fault.message).but(verdict, fault.fix)
    }

    fn interrupt(rung: impl Into<String>, tried: impl Into<String>, why: Interrupt) -> Self {
        match why {
            Interrupt::Fault(fault) | Interrupt::Destination(fault) => {
                Self::fault(rung, tried, *fault)
            }
            Interrupt::OutOfTime => Self::out_of_time(rung, tried),
        }
    }

    fn out_of_time(rung: impl Into<String>, tried: impl Into<String>) -> Self {
        let answer = format!("no answer within {} s, or a limited rate", PATIENCE.as_secs());
        Self::ok(rung, tried, answer).but(Verdict::Inconclusive, "try again in 15 minutes")
    }
}

/// What was tried so far, each shown as it comes.
struct Rungs<'a> {
    all: Vec<Rung>,
    show: &'a mut (dyn FnMut(&Rung) + Send),
}

impl Rungs<'_> {
    fn push(&mut self, rung: Rung) {
        (self.show)(&rung);
        self.all.push(rung);
    }

    fn extend(&mut self, rungs: impl IntoIterator<Item = Rung>) {
        rungs.into_iter().for_each(|rung| self.push(rung));
    }
}

/// All that was tried, in order.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: &'static str,
    /// One for each thing that was tried or skipped.
    pub rungs: Vec<Rung>,
}

impl Report {
    /// 0 without a `fail`, 2 if the settings have one, else 1.
    pub fn exit_code(&self) -> u8 {
        let failed: Vec<&str> = self
            .rungs
            .iter()
            .filter(|rung| rung.verdict == Verdict::Fail)
            .map(|rung| rung.rung.as_str())
            .collect();
        match failed.as_slice() {
            [] => 0,
            rungs if rungs.contains(&SETTINGS) => 2,
            _ => 1,
        }
    }
}

/// What is tested, each made of the settings that it needs; `None` where those are wrong. They should
/// be new, so that they have no token yet.
#[allow(missing_debug_implementations, reason = "a store has none")]
pub struct Subjects<'a> {
    /// Where events come from.
    pub source: Option<&'a MimecastSource>,
    /// Microsoft Graph, if a source needs it.
    pub graph: Option<&'a Probe>,
    /// Where rows go.
    pub sink: Option<&'a LogsIngestion>,
    /// Where checkpoints and quarantine are kept.
    pub store: Option<&'a dyn Store>,
}

/// What it is tested with.
#[derive(Debug)]
pub struct Tools<'a> {
    /// The way to each host.
    pub clients: &'a Clients,
    /// What the servers' clocks are compared with.
    pub clock: &'a Clock,
    /// Names the object that the store is tried with.
    pub random: &'a Random,
}

/// Tries everything once, and shows what comes of it as it comes.
pub async fn check(
    given: &Given,
    subjects: &Subjects<'_>,
    tools: &Tools<'_>,
    show: &mut (dyn FnMut(&Rung) + Send),
) -> Report {
    let mut rungs = Rungs { all: Vec::new(), show };
    rungs.extend(settings::rungs(given, tools.clock.now()));
    let hosts = hosts::rungs(given, tools, &mut rungs).await;
    mimecast::rungs(given, subjects.source, &hosts, tools, &mut rungs).await;
    graph::rungs(given, subjects.graph, &hosts, &mut rungs).await;
    azure::rungs(given, subjects.sink, &hosts, &mut rungs).await;
    rungs.push(state::rung(given, subjects.store, &hosts, tools).await);
    Report { version: env!("CARGO_PKG_VERSION"), rungs: rungs.all }
}

/// The answer of what is skipped since its settings are wrong, or its host is not reached.
const WRONG_SETTINGS: &str = "its settings are wrong";
const NOT_REACHED: &str = "its host was not reached";
