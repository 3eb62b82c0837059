//! What several targets need: readers that are slow, plain, and not the program's own.

pub mod json;

/// Whether `serde_json` would take a key for a word of its own: an object that begins with it is
/// read as the JSON text that its value is. It changes nothing that the program relies on.
pub fn has_serde_jsons_own_key(bytes: &[u8]) -> bool {
    const BEGINS: &[u8] = b"$serde_json::private::";
    // It may be escaped.
    bytes.windows(BEGINS.len()).any(|at| at == BEGINS)
        || bytes.windows(2).any(|at| at == b"\\u") && bytes.windows(7).any(|at| at == b"private")
}
