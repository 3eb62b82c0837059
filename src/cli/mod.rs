//! The commands, one file each, and what they share.

mod check;
#[cfg(feature = "simulator")]
mod demo;
mod dry_run;
mod escape;
mod logs;
mod output;
mod package;
mod page;
mod progress;
mod pull;
mod quarantine;
mod report;
mod run;
mod serve;
mod signals;
mod skip;
mod state;
mod status;
mod wiring;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::settings::SettingsFaults;

const FIRST_STEPS: &str = "\
First steps:
  mimecast-sentinel demo                    see it work, without any settings
  mimecast-sentinel pull --help             the settings, with their defaults
  mimecast-sentinel pull --dry-run | head   what would land, with Mimecast's settings alone
  mimecast-sentinel check                   test every connection, and say what to fix
  mimecast-sentinel pull                    land it, once

Exit codes:
  0  done; also at the time limit or the first signal: the next run goes on from the checkpoint
  1  nothing could be done
  2  wrong settings or usage
  3  some streams failed, the others did their work";

/// Lands every Mimecast Cloud Integrated security event in a Microsoft Sentinel workspace.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, propagate_version = true, after_help = FIRST_STEPS)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "simulator")]
    Demo(demo::Demo),
    Pull(pull::Pull),
    Serve(serve::Serve),
    #[command(after_help = check::HELP)]
    Check(check::Check),
    Status(status::StatusCommand),
    Package(package::Package),
    State(state::State),
    Skip(skip::Skip),
    Quarantine(quarantine::QuarantineCommand),
}

/// How a command ended: the process's exit code.
pub(crate) const DONE: u8 = 0;
pub(crate) const NOTHING_DONE: u8 = 1;
pub(crate) const USAGE: u8 = 2;
pub(crate) const SOME_FAILED: u8 = 3;

/// Why a command ended before its work was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Shown line by line.
    #[error("the settings are wrong:\n{0}")]
    Settings(#[from] SettingsFaults),
    /// A question was not answered, or an argument makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        // What takes time runs on blocking threads, one for each stream: more threads beside this one
        // would only take memory.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                output::note(&format!("error: the runtime could not be started: {error}"));
                return NOTHING_DONE.into();
            }
        };
        let ended = runtime.block_on(async {
            match self.command {
                #[cfg(feature = "simulator")]
                Command::Demo(demo) => demo.run().await,
                Command::Pull(pull) => pull.run().await,
                Command::Serve(serve) => serve.run().await,
                Command::Check(check) => check.run().await,
                Command::Status(status) => status.run().await,
                Command::Package(package) => package.run(),
                Command::State(state) => state.run().await,
                Command::Skip(skip) => skip.run().await,
                Command::Quarantine(quarantine) => quarantine.run().await,
            }
        });
        // A blocking thread may still wait for bytes; the process does not wait for it.
        runtime.shutdown_background();
        match ended {
            Ok(code) => code.into(),
            Err(error) => {
                output::note(&format!("error: {error}"));
                match error {
                    CommandError::Settings(_) | CommandError::Usage(_) => USAGE.into(),
                    CommandError::Failed(_) => NOTHING_DONE.into(),
                }
            }
        }
    }
}
