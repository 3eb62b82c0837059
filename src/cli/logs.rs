//! Logs: one line of JSON per record in Functions, plain text elsewhere. Normal lines on stdout,
//! failures on stderr, which the Functions host takes for errors.

use std::io::{self, IsTerminal as _};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::time::ChronoUtc;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt};

use crate::settings::{FUNCTIONS_PORT, process_env};

/// Where normal lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stdout {
    /// To stdout.
    Logs,
    /// To stderr as well: stdout has something else to say.
    Taken,
}

/// Sends each record where its level belongs.
struct ByLevel(Stdout);

impl<'a> MakeWriter<'a> for ByLevel {
    type Writer = Box<dyn io::Write + 'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Box::new(io::stderr())
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        let failure = *meta.level() <= Level::WARN;
        if failure || self.0 == Stdout::Taken {
            Box::new(io::stderr())
        } else {
            Box::new(io::stdout())
        }
    }
}

/// Starts logging. Other crates are only heard from `WARN` on: their debug lines may hold what must
/// not be logged.
pub(super) fn start(level: Level, stdout: Stdout) {
    let filter = EnvFilter::new(format!("warn,mimecast_sentinel={level}"));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(ByLevel(stdout)).with_target(false);
    let started = if process_env(FUNCTIONS_PORT).is_some() {
        registry.with(lines.json().flatten_event(true).with_current_span(true)).try_init()
    } else {
        let plain = lines.with_ansi(io::stderr().is_terminal());
        registry.with(plain.with_timer(ChronoUtc::new("%H:%M:%S".to_owned()))).try_init()
    };
    if let Err(error) = started {
        eprintln!("logging was started before: {error}");
    }
}
