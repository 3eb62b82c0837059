//! Parses the arguments, runs one command and turns its outcome into an exit code.

use std::process::ExitCode;

use mimecast_sentinel::cli::Cli;

fn main() -> ExitCode {
    Cli::read().run()
}
