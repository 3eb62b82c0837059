//! What a command says on stdout and stderr. `println!` would panic where nobody listens any more.

use std::io::{self, ErrorKind, Write as _};

use super::CommandError;

/// Prints a line on stdout. A reader that has gone, as `head` does, is no failure.
pub(super) fn say(line: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let message = format!("stdout cannot be written to: {error}; check where it goes");
            Err(CommandError::Failed(message))
        }
        _ => Ok(()),
    }
}

/// Prints a line on stderr, beside the logs. Where nobody reads it, there is nobody to tell.
pub(super) fn note(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}
