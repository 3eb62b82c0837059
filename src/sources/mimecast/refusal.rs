//! Whether a reply is a refusal, whatever its status.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::http::{json, without_bom};

/// Whether a text begins as a JSON object does, with or without a byte order mark.
pub(super) fn is_object(text: &[u8]) -> bool {
    without_bom(text).trim_ascii_start().starts_with(b"{")
}

/// Whether JSON says that something failed, whatever the status of the reply.
pub(super) fn is_refusal(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Said {
        #[serde(default, deserialize_with = "says_something")]
        fail: bool,
        #[serde(default, deserialize_with = "says_something")]
        error: bool,
        #[serde(default, deserialize_with = "says_something")]
        errors: bool,
    }
    // An array would be read as the fields of the struct, in order.
    is_object(body) && json::<Said>(body).is_ok_and(|said| said.fail || said.error || said.errors)
}

/// Whether a value is neither empty nor false.
pub(super) fn says_something<'de, D: Deserializer<'de>>(given: D) -> Result<bool, D::Error> {
    let said: String = <&RawValue>::deserialize(given)?.get().split_whitespace().collect();
    Ok(!["null", "[]", "{}", "\"\"", "false"].contains(&said.as_str()))
}
