//! A checkpoint that can be read is written and read again as it was, and takes the steps that its
//! table says.
//!
//! What follows the first 0xFF, which no JSON has, is a list of steps.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::checkpoint::{
    Checkpoint, Cursor, Delta, FileProgress, FileVersion, Position,
};
use serde_json::json;

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == 0xff).unwrap_or(input.len());
    let steps = input.get(end + 1..).unwrap_or_default();
    let Ok(mut checkpoint) = Checkpoint::parse(&input[..end]) else { return };
    same_after_storing(&checkpoint);

    let files: Vec<String> = checkpoint.files.keys().take(2).cloned().collect();
    let mut model: BTreeMap<String, FileProgress> = checkpoint.files.clone();
    for step in steps.chunks_exact(4) {
        let delta = delta(step, &files, &model);
        let before = checkpoint.clone();
        // The table at `Delta`.
        let at = match model.get(&delta.file) {
            Some(known) if known.version == delta.version => known.done,
            _ => Position::Line(0),
        };
        let taken = at != Position::End && delta.from == at && delta.to >= delta.from;
        assert_eq!(checkpoint.apply(&delta).is_ok(), taken, "{delta:?} at {at:?}");
        if taken {
            let version = delta.version;
            let progress = FileProgress { done: delta.to, version, held_up: None };
            model.insert(delta.file, progress);
        } else {
            assert_eq!(checkpoint, before, "a refused step changes nothing");
        }
        assert_eq!(checkpoint.files, model);
    }
    same_after_storing(&checkpoint);
    checkpoint.advance(Cursor(json!({"token": "next"})));
    assert!(checkpoint.files.is_empty() && !checkpoint.has_half_read());
    same_after_storing(&checkpoint);
});

fn same_after_storing(checkpoint: &Checkpoint) {
    let bytes = checkpoint.to_bytes();
    let again = Checkpoint::parse(&bytes);
    assert_eq!(again.as_ref(), Ok(checkpoint), "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(again.unwrap().to_bytes(), bytes);
}

/// A step in one of the files that are there, or in another.
fn delta(step: &[u8], files: &[String], model: &BTreeMap<String, FileProgress>) -> Delta {
    let other = String::from("other");
    let file = files.get(usize::from(step[0] & 3)).unwrap_or(&other).clone();
    let known = model.get(&file);
    let version = match known {
        Some(known) if step[0] & 4 == 0 => known.version.clone(),
        _ => FileVersion { size: Some(u64::from(step[0] >> 4)), etag: None },
    };
    let at = known.filter(|known| known.version == version).map(|known| known.done);
    let position = |byte: u8| match byte {
        0x80.. => at.unwrap_or(Position::Line(0)),
        0x7f => Position::End,
        line => Position::Line(line.into()),
    };
    Delta { file, version, from: position(step[1]), to: position(step[2]) }
}
