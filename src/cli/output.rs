//! What a command says on stdout and stderr. `println!` would panic where nobody listens any more.

use std::io::{self, ErrorKind, Write as _};

use super::CommandError;
use super::escape::{escaped, escaped_json};

/// Prints text on stdout, and in it nothing that drives a terminal. A reader that has gone, as
/// `head` does, is no failure.
pub(super) fn say(text: &str) -> Result<(), CommandError> {
    print(&escaped(text))
}

/// The same for JSON, whose meaning stays the same.
pub(super) fn say_json(json: &str) -> Result<(), CommandError> {
    print(&escaped_json(json))
}

fn print(safe: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{safe}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let message = format!("stdout cannot be written to: {error}; check where it goes");
            Err(CommandError::Failed(message))
        }
        _ => Ok(()),
    }
}

/// Prints text on stderr, beside the logs, and in it nothing that drives a terminal. Where nobody
/// reads stderr any more, it is dropped.
pub(super) fn note(text: &str) {
    drop(writeln!(io::stderr(), "{}", escaped(text)));
}
