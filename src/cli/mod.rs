//! The commands, one file each, and what they share.

mod backfill;
mod backfill_job;
mod check;
mod completions;
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

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use crate::settings::{RawSettings, SECRETS, SettingsFaults, process_env_names, unknown_settings};
use logs::Stdout;

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
    #[command(after_help = backfill::HELP)]
    Backfill(backfill::Backfill),
    Serve(serve::Serve),
    #[command(after_help = check::HELP)]
    Check(check::Check),
    Status(status::StatusCommand),
    Package(package::Package),
    Completions(completions::Completions),
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

/// Starts the log, and warns of each variable that is named as a setting and is none.
fn begin(settings: &RawSettings, stdout: Stdout) {
    logs::start(settings, stdout);
    for unknown in unknown_settings(process_env_names()) {
        tracing::warn!("{unknown}; correct the name, or unset it");
    }
}

/// What to say of an argument that clap does not know, if it was meant to give a secret: clap would
/// propose a flag of a similar name, or repeat the value.
fn secret_argument(error: &clap::Error) -> Option<String> {
    let context = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let ContextValue::String(argument) = context.into_iter().find_map(|kind| error.get(kind))?
    else {
        return None;
    };
    let name = argument.split('=').next()?;
    // Without its dashes it may be a secret itself.
    let shown = if name.starts_with("--") { format!(" {name}") } else { String::new() };
    let setting = name.trim_start_matches('-').to_uppercase().replace('-', "_");
    let unknown = [ErrorKind::UnknownArgument, ErrorKind::InvalidSubcommand];
    if !unknown.contains(&error.kind()) || !setting.contains("SECRET") {
        return None;
    }
    let known = SECRETS.iter().find(|known| **known == setting);
    let named = known.map_or_else(|| SECRETS.join(" or "), |known| (*known).to_owned());
    Some(format!(
        "unexpected argument{shown}: a secret is read from the environment alone, since other \
         processes can read a command line: set {named} in the environment, or, with _FILE or _URI at \
         its end, to the file or the key vault's URL that has it. What was typed may be in this shell's \
         history"
    ))
}

impl Cli {
    /// Reads the command line. Ends the process if that is wrong, or asks for help.
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            let Some(said) = secret_argument(&error) else { error.exit() };
            output::note(&format!("error: {said}"));
            std::process::exit(USAGE.into());
        })
    }

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
                Command::Backfill(backfill) => backfill.run().await,
                Command::Serve(serve) => serve.run().await,
                Command::Check(check) => check.run().await,
                Command::Status(status) => status.run().await,
                Command::Package(package) => package.run(),
                Command::Completions(completions) => completions.run(),
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
