//! What records and files in quarantine are called: by what they hold, so that the same has one
//! name.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::checkpoint::FileVersion;

/// Where the records of a stream, or of all streams, lie.
pub fn in_quarantine(stream: Option<&str>) -> String {
    stream.map_or_else(|| "quarantine/".to_owned(), |stream| format!("quarantine/{stream}/"))
}

/// Whether an object of this name is a record, and not a file that is kept whole.
pub fn is_record(name: &str) -> bool {
    name.starts_with("quarantine/") && name.ends_with(".json")
}

/// Whether an object of this name is a file that is kept whole.
pub fn is_kept_file(name: &str) -> bool {
    let is_hash = |text: &str| {
        text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let own = name.strip_prefix("quarantine/").and_then(|name| name.rsplit_once('/'));
    own.is_some_and(|(_, own)| own == "file" || own.strip_prefix("file-").is_some_and(is_hash))
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn folder(stream: &str, file: &str) -> String {
    format!("{}{}", in_quarantine(Some(stream)), hash(file))
}

/// What tells a record from others of the same line: two contents of one file may break at one
/// line.
pub(super) fn tail<'a>(
    event_id: &'a str,
    reason: &'a str,
    file_kept_as: Option<&str>,
) -> Cow<'a, str> {
    let version = file_kept_as.and_then(|kept| kept.rsplit_once("/file-"));
    match version {
        _ if !event_id.is_empty() => event_id.into(),
        Some((_, version)) => format!("{reason}-{version}").into(),
        None => reason.into(),
    }
}

pub(super) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub(super) fn object(stream: &str, file: &str, line: u64, tail: &str) -> String {
    format!("{}/{line:010}-{tail}.json", folder(stream, file))
}

pub(super) fn kept_file(
    stream: &str,
    file: &str,
    FileVersion { size, etag }: &FileVersion,
) -> String {
    let size = size.map(|size| size.to_string()).unwrap_or_default();
    let version = hash(&format!("{size}\n{}", etag.as_deref().unwrap_or_default()));
    format!("{}/file-{version}", folder(stream, file))
}
