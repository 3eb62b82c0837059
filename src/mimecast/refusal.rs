//! Whether a reply is a refusal, whatever its status.

use serde_json::value::RawValue;

use crate::http::without_bom;

/// Whether a text begins as a JSON object does, with or without a byte order mark.
pub(super) fn is_object(text: &[u8]) -> bool {
    without_bom(text).trim_ascii_start().starts_with(b"{")
}

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
    // An array would be read as the fields of the struct, in order.
    is_object(body)
        && serde_json::from_slice::<Said<'_>>(body)
            .is_ok_and(|said| [said.fail, said.error, said.errors].into_iter().any(says_something))
}
