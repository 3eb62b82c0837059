//! What Mimecast says when it refuses: several shapes of JSON, or none.

use serde_json::Value;
use serde_json::value::RawValue;

/// Words of the server that are shown at most.
const SHOWN: usize = 300;

/// A longer body is not read as JSON, of which a tree can take thirty times its bytes.
const MOST_JSON: usize = 64 * 1024;

/// Whether JSON says that something failed, whatever the status of the reply.
pub(super) fn is_refusal(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Said<'a> {
        #[serde(borrow)]
        fail: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
        #[serde(borrow)]
        errors: Option<&'a RawValue>,
    }
    let says_something = |said: Option<&RawValue>| {
        let said: String =
            said.map(|said| said.get().split_whitespace().collect()).unwrap_or_default();
        !["", "[]", "{}", "\"\"", "false"].contains(&said.as_str())
    };
    serde_json::from_slice::<Said<'_>>(body)
        .is_ok_and(|said| [said.fail, said.error, said.errors].into_iter().any(says_something))
}

/// A refusal in the server's words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorBody {
    pub(super) code: String,
    pub(super) message: String,
}

impl ErrorBody {
    /// Reads `fail[0]`, `fail[0].errors[0]`, `error`, `errors[0]` or OAuth's `error` and
    /// `error_description`; of anything else, the beginning of the text.
    pub(super) fn read(body: &[u8]) -> Self {
        let small = Some(body).filter(|body| body.len() <= MOST_JSON);
        let Some(json) = small.and_then(|body| serde_json::from_slice::<Value>(body).ok()) else {
            let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
            return Self { code: String::new(), message: shown(&text) };
        };
        let places = ["/fail/0/errors/0", "/fail/0", "/error", "/errors/0", ""];
        let found = places.iter().filter_map(|place| json.pointer(place)).find_map(|at| {
            let text = |name: &str| at.get(name).and_then(Value::as_str).map(shown);
            let code = text("code").or_else(|| text("error"));
            let message = text("message").or_else(|| text("error_description"));
            (code.is_some() || message.is_some()).then(|| Self {
                code: code.unwrap_or_default(),
                message: message.unwrap_or_default(),
            })
        });
        found.unwrap_or_default()
    }
}

impl std::fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => f.write_str("no reason given"),
            (code, "") => f.write_str(code),
            ("", message) => f.write_str(message),
            (code, message) => write!(f, "{code}: {message}"),
        }
    }
}

/// Printable, on one line, not too long.
fn shown(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let words: String = printable.take(SHOWN).collect();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (r#"{"fail":[{"code":"unauthorized"}]}"#, "unauthorized"),
            ("<html>\n<b>502</b>\n</html>", "<html> <b>502</b> </html>"),
            ("{}", "no reason given"),
            ("", "no reason given"),
        ];
        for (body, expected) in cases {
            assert_eq!(ErrorBody::read(body.as_bytes()).to_string(), expected, "{body}");
        }
    }
}
