//! The names of records and files in quarantine. They are made from the content, so that the same
//! content always has the same name.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::FilePosition;
use crate::checkpoint::FileVersion;

/// The folder of a stream's records, or of all records.
pub fn in_quarantine(stream: Option<&str>) -> String {
    stream.map_or_else(|| "quarantine/".to_owned(), |stream| format!("quarantine/{stream}/"))
}

/// Whether an object of this name is a record, and not a file that is kept whole.
pub fn is_record(name: &str) -> bool {
    name.starts_with("quarantine/") && name.ends_with(".json")
}

/// Whether an object of this name is a file that is kept whole, or a line that is kept by itself.
pub fn is_kept_file(name: &str) -> bool {
    own_name(name)
        .is_some_and(|own| own == "file" || own.strip_prefix("file-").is_some_and(is_hash))
        || is_kept_line(name)
}

/// Whether an object of this name is a line that is kept by itself.
pub fn is_kept_line(name: &str) -> bool {
    let own = own_name(name).and_then(|own| own.strip_prefix("line-")?.split_once('-'));
    own.is_some_and(|(line, version)| line.parse::<u64>().is_ok() && is_hash(version))
}

/// How the names of the records begin that may need a kept file: those of its folder, or of its line.
pub(super) fn records_of(kept: &str) -> String {
    let line = own_name(kept).filter(|_| is_kept_line(kept));
    let line = line.and_then(|own| own.split('-').nth(1)).map(|line| format!("{line}-"));
    format!("{}/{}", parent(kept), line.unwrap_or_default())
}

/// What an object in quarantine is called in its folder.
fn own_name(name: &str) -> Option<&str> {
    name.strip_prefix("quarantine/")?.rsplit_once('/').map(|(_, own)| own)
}

fn is_hash(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn folder(stream: &str, file: &str) -> String {
    format!("{}{}", in_quarantine(Some(stream)), hash(file))
}

/// What distinguishes a record from others of the same line: two contents of one file may break at
/// the same line.
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

pub(super) fn kept_file(stream: &str, file: &str, version: &FileVersion) -> String {
    format!("{}/file-{}", folder(stream, file), hash_of(version))
}

pub(super) fn kept_line(position: &FilePosition, version: &FileVersion) -> String {
    let FilePosition { stream, file, line } = position;
    format!("{}/line-{line:010}-{}", folder(stream, file), hash_of(version))
}

fn hash_of(FileVersion { size, etag }: &FileVersion) -> String {
    let size = size.map(|size| size.to_string()).unwrap_or_default();
    hash(&format!("{size}\n{}", etag.as_deref().unwrap_or_default()))
}
