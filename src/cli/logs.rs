//! Logs: one line of JSON per record in Functions, plain text elsewhere. Normal lines on stdout,
//! failures on stderr, which the Functions host takes for errors.

use std::io::{self, IsTerminal as _};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::time::ChronoUtc;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt};

use super::output::note;
use super::progress;
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
    type Writer = Aside<Box<dyn io::Write + 'a>>;

    fn make_writer(&'a self) -> Self::Writer {
        Aside(Box::new(io::stderr()))
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        let failure = *meta.level() <= Level::WARN;
        if failure || self.0 == Stdout::Taken {
            self.make_writer()
        } else {
            Aside(Box::new(io::stdout()))
        }
    }
}

/// Keeps lines out of the progress bar.
struct Aside<W>(W);

impl<W: io::Write> io::Write for Aside<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        progress::aside(|| self.0.write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Starts logging. Other crates are only heard from `WARN` on: their debug lines may hold what must
/// not be logged.
pub(super) fn start(level: Level, stdout: Stdout) {
    let filter = EnvFilter::new(format!("warn,mimecast_sentinel={level}"));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(ByLevel(stdout)).with_target(false);
    // A log that nobody reads any more ends nothing, and there is nobody to tell.
    let lines = lines.log_internal_errors(false);
    let started = if process_env(FUNCTIONS_PORT).is_some() {
        registry.with(lines.json().flatten_event(true).with_span_list(false)).try_init()
    } else {
        let on_terminal =
            io::stderr().is_terminal() && (stdout == Stdout::Taken || io::stdout().is_terminal());
        let plain = lines.with_ansi(on_terminal);
        registry.with(plain.with_timer(ChronoUtc::new("%H:%M:%S".to_owned()))).try_init()
    };
    if let Err(error) = started {
        note(&format!("logging was started before: {error}"));
    }
}
