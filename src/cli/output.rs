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

/// Bytes as text on one line, in which nothing drives a terminal: what is no printable character is
/// shown as `\u{…}`, and a byte that is no text as `\x…`.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_printable(c) { text.push(c) } else { text.extend(c.escape_unicode()) }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// The same JSON, in which nothing drives a terminal.
pub(super) fn printable_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_printable(c) || c == '\n' {
            text.push(c);
        } else {
            text.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    text
}

fn is_printable(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_a_terminal() {
        let hostile = "\u{1b}[2J\r\n\u{7}\u{7f}\u{9b}31m\u{202e}\u{feff}\u{e0001}";
        let (shown, json) =
            (printable(hostile.as_bytes()), serde_json::to_string(hostile).unwrap());
        assert_eq!(shown, r"\u{1b}[2J\u{d}\u{a}\u{7}\u{7f}\u{9b}31m\u{202e}\u{feff}\u{e0001}");
        let safe = printable_json(&json);
        assert!(safe.bytes().all(|byte| byte.is_ascii_graphic()), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), hostile);
    }

    #[test]
    fn text_is_shown_as_it_is_and_other_bytes_as_numbers() {
        let text = "{\"subject\":\"Grüße 東京 'a\\b'\"}";
        assert_eq!(printable(text.as_bytes()), text);
        assert_eq!(printable_json(text), text);
        assert_eq!(printable(b"a\xffb\xc3"), r"a\xffb\xc3");
    }
}
