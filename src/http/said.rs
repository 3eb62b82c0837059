//! What others say, made fit to be shown: in a log, an error, a summary or a record.

use serde_json::Value;

use super::reply::{json, looks_like};
use super::secrets::strike_out;

/// The longest error text to repeat, in characters.
const SHOWN: usize = 600;

/// How much of a text is read, in characters or bytes.
const LOOKED_AT: usize = 16 * 1024;

/// A larger body is not read as JSON: parsed, it can take thirty times its bytes.
const MOST_JSON: usize = 64 * 1024;

/// A text that this program did not write itself, fit to be shown: without secrets and without the
/// queries of addresses, which may be signed; on one line; without
/// control characters; shortened.
pub fn said(text: &str) -> String {
    shortened(&clean(text))
}

/// The same, not shortened.
fn clean(text: &str) -> String {
    let looked_at: String = text.chars().take(LOOKED_AT).collect();
    let mut line = String::new();
    for word in strike_out(&looked_at).split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for c in without_queries(word).chars() {
            if is_printable(c) { line.push(c) } else { line.extend(c.escape_unicode()) }
        }
    }
    line
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// A word without what follows the `?` of each address in it, be it whole or a path alone.
fn without_queries(word: &str) -> String {
    const ENDS: [char; 6] = ['"', '\'', '<', '>', '\\', ')'];
    let pieces = word.split_inclusive(ENDS).map(|piece| {
        let text = piece.trim_end_matches(ENDS);
        match text.split_once('?') {
            Some((place, query)) if place.contains('/') && !query.is_empty() => {
                format!("{place}?…{}", &piece[text.len()..])
            }
            _ => piece.to_owned(),
        }
    });
    pieces.collect()
}

/// Neither a control character nor one that is not seen or turns the direction of the text.
fn is_printable(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

/// A refusal in the server's words, fit to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// E.g. `invalid_client`; may be empty.
    pub code: String,
    /// A sentence; may be empty. Of any length: shown shortened.
    pub message: String,
}

impl ErrorBody {
    /// Reads `fail[0]`, `fail[0].errors[0]`, `error`, `errors[0]`, OAuth's `error` and
    /// `error_description`, or `code` and `message`; of anything else, what it is or its text.
    pub fn read(body: &[u8]) -> Self {
        let message = || Self { code: String::new(), message: text_of(body) };
        Self::read_json(body).unwrap_or_else(message)
    }

    /// The same of a body that is JSON and has any of these.
    pub fn read_json(body: &[u8]) -> Option<Self> {
        let json = json::<Value>(Some(body).filter(|body| body.len() <= MOST_JSON)?).ok()?;
        let places = ["/fail/0/errors/0", "/fail/0", "/error", "/errors/0", ""];
        places.iter().filter_map(|place| json.pointer(place)).find_map(|at| {
            let text = |name: &str| at.get(name).and_then(Value::as_str).map(clean);
            let code = text("code").or_else(|| text("error"));
            let message = text("message").or_else(|| text("error_description"));
            (code.is_some() || message.is_some()).then(|| Self {
                code: code.unwrap_or_default(),
                message: message.unwrap_or_default(),
            })
        })
    }
}

impl std::fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whole = match (self.code.as_str(), self.message.as_str()) {
            ("", "") => "no reason given".to_owned(),
            (code, "") => code.to_owned(),
            ("", message) => message.to_owned(),
            (code, message) => format!("{code}: {message}"),
        };
        f.write_str(&shortened(&whole))
    }
}

/// What a body that is not JSON says: its text, or of a page its title.
fn text_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(LOOKED_AT)]);
    match looks_like(body) {
        "nothing" => String::new(),
        kind @ "an HTML page" => match title(&text) {
            Some(title) => format!("{kind}: {title}"),
            None => kind.to_owned(),
        },
        kind @ "binary" => kind.to_owned(),
        _ => clean(&text),
    }
}

fn title(page: &str) -> Option<String> {
    // Of the same length as `page`, byte by byte.
    let tags = page.to_ascii_lowercase();
    let tag = tags.find("<title")?;
    let start = tag + tags[tag..].find('>')? + 1;
    let end = start + tags[start..].find("</title")?;
    Some(clean(&page[start..end])).filter(|title| !title.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::hold;

    #[test]
    fn every_known_shape_is_read() {
        let cases = [
            (r#"{"fail":[{"code":"app_forbidden","message":"no"}]}"#, "app_forbidden: no"),
            (r#"{"fail":[{"errors":[{"code":"c","message":"m","retryable":false}]}]}"#, "c: m"),
            (
                r#"{"error":{"code":"Request Validation Failed","message":"from"}}"#,
                "Request Validation Failed: from",
            ),
            (r#"{"errors":[{"message":"m"}]}"#, "m"),
            (r#"{"error":"invalid_client","error_description":"d"}"#, "invalid_client: d"),
            (r#"{"statusCode":400,"message":"No identity"}"#, "No identity"),
            (r#"{"fail":[{"code":"unauthorized"}]}"#, "unauthorized"),
            ("\u{feff}{\"error\":\"bom\"}", "bom"),
            ("<html>\n<b>502</b>\n</html>", "an HTML page"),
            (
                "<!DOCTYPE html><HEAD><Title lang=en>\nWeb  Page Blocked</TITLE>é</HEAD>",
                "an HTML page: Web Page Blocked",
            ),
            ("<html><title></title>", "an HTML page"),
            ("<?xml?><Error><Code>no</Code></Error>", "<?xml?><Error><Code>no</Code></Error>"),
            ("access\n denied", "access denied"),
            ("\u{1f}\u{8}", "binary"),
            ("{}", "{}"),
            (r#"{"error":""}"#, "no reason given"),
            ("", "no reason given"),
        ];
        for (body, expected) in cases {
            assert_eq!(ErrorBody::read(body.as_bytes()).to_string(), expected, "{body}");
        }
    }

    #[test]
    fn what_is_shown_is_one_line_that_drives_no_terminal() {
        assert_eq!(
            said(
                " \u{1b}[2J\r\n\u{7}\t\u{7f} \u{9b}31m\u{85}\u{202e}\u{2066}\u{feff}é 東京 'a\\b' "
            ),
            r"\u{1b}[2J \u{7} \u{7f} \u{9b}31m \u{202e}\u{2066}\u{feff}é 東京 'a\b'",
        );
    }

    #[test]
    fn no_query_of_an_address_is_shown() {
        for (text, expected) in [
            (
                "error for url (https://a.example/c/b?sv=1&sig=s%2F=)\n  at once",
                "error for url (https://a.example/c/b?…) at once",
            ),
            (
                r#"{"url":"https://h/p?X-Amz-Signature=1","a":"http://h?b","c":"x?y"}"#,
                r#"{"url":"https://h/p?…","a":"http://h?…","c":"x?y"}"#,
            ),
            ("https://h/?a=https://i/?b", "https://h/?…"),
            ("is it?yes", "is it?yes"),
            ("is it this and/or that?", "is it this and/or that?"),
            ("GET /v1.0/users/delta?$skiptoken=abc failed", "GET /v1.0/users/delta?… failed"),
        ] {
            assert_eq!(said(text), expected);
        }
    }

    #[test]
    fn a_long_text_is_shortened_after_its_secrets_are_struck_out() {
        assert_eq!(said(&"é".repeat(601)).chars().count(), 601);
        hold("canary-at-the-cut");
        for before in 580..=600 {
            let text = format!("{}canary-at-the-cut", ".".repeat(before));
            assert!(!said(&text).contains("can"), "{before}");
            let json = format!(r#"{{"error":"{text}"}}"#);
            assert!(!ErrorBody::read(json.as_bytes()).to_string().contains("can"), "{before}");
        }
    }
}
