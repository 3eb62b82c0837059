//! `completions`: what a shell needs to complete this program's commands and flags.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::output::say;
use super::{Cli, CommandError, DONE};

/// Print what a shell needs to complete the commands and flags
#[derive(Args, Debug)]
pub(super) struct Completions {
    /// For bash, in ~/.bashrc: source <(mimecast-sentinel completions bash)
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<u8, CommandError> {
        let mut command = Cli::command();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        generate(self.shell, &mut command, name, &mut script);
        say(String::from_utf8_lossy(&script).trim_end())?;
        Ok(DONE)
    }
}
