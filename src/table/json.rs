//! What `serde_json`'s `RawValue` lets pass and Azure must not see.
//!
//! Everything here reads text whose grammar `serde_json` has already accepted.

use std::borrow::Cow;

use super::RejectReason;

/// How deep an event may be nested; the event itself is the first level.
pub(super) const MAX_DEPTH: usize = 128;

/// The text of a JSON string, given with its quotes, or nothing if it has a lone surrogate.
pub(super) fn unescape(string: &str) -> Option<Cow<'_, str>> {
    if string.contains('\\') {
        serde_json::from_str(string).ok().map(Cow::Owned)
    } else {
        string.get(1..string.len() - 1).map(Cow::Borrowed)
    }
}

/// Whether an escape anywhere in `json` is half of a surrogate pair without the other half.
pub(super) fn has_lone_surrogate(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        rest = &rest[at..];
        let length = match unit(rest) {
            None => 2,
            Some(0xD800..=0xDBFF) => match rest.get(6..).and_then(unit) {
                Some(0xDC00..=0xDFFF) => 12,
                _ => return true,
            },
            Some(0xDC00..=0xDFFF) => return true,
            Some(_) => 6,
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}

/// The UTF-16 code unit of the `\uXXXX` with which `json` begins.
fn unit(json: &[u8]) -> Option<u16> {
    let hex = json.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

/// Whether a name occurs twice. Sorts, since a hostile object has very many.
pub(super) fn repeats<T: Ord>(names: &mut [T]) -> bool {
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

/// Checks the nested values of one event for depth and duplicate keys, without recursion. It is
/// made once for an event, so that its fields share the buffers.
#[derive(Default)]
pub(super) struct Nesting<'a> {
    /// The keys of all objects that are open, outermost first.
    keys: Vec<Cow<'a, str>>,
    /// For each open array or object, how many of `keys` stand before its own.
    open: Vec<usize>,
}

impl<'a> Nesting<'a> {
    /// Checks the value of one field of the event.
    pub(super) fn check(&mut self, value: &'a str) -> Result<(), RejectReason> {
        let bytes = value.as_bytes();
        if !matches!(bytes.first(), Some(b'[' | b'{')) {
            return Ok(());
        }
        let mut string = "";
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'"' => {
                    let end = string_end(bytes, at);
                    string = value.get(at..end).unwrap_or_default();
                    at = end;
                    continue;
                }
                // Only a key is followed by a colon.
                b':' => self.keys.push(unescape(string).ok_or(RejectReason::LoneSurrogate)?),
                b'[' | b'{' => {
                    if self.open.len() + 1 == MAX_DEPTH {
                        return Err(RejectReason::TooDeep);
                    }
                    self.open.push(self.keys.len());
                }
                b']' | b'}' => {
                    let first = self.open.pop().unwrap_or_default();
                    if repeats(&mut self.keys[first..]) {
                        return Err(RejectReason::DuplicateKey);
                    }
                    self.keys.truncate(first);
                }
                _ => {}
            }
            at += 1;
        }
        Ok(())
    }
}

/// Where the string that begins at `start` ends, after its closing quote.
fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    json.len()
}
