//! A batch file gives the lines that its text has, however its bytes come in, and ends as it must.
//!
//! The first four bytes say how the rest is taken: as a gzip file, or as text that is gzipped here.
#![no_main]

use std::fmt;
use std::io::{ErrorKind, Read, Write};

use bytes::Bytes;
use chrono::DateTime;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::pipeline::source::{Format, Line, ReadError};
use mimecast_sentinel::sources::mimecast::{BatchFile, Limits};
use mimecast_sentinel::table::{CLOUD_INTEGRATED, EventId, EventIdHasher, Row};

/// The most bytes of a line and of a file.
const LIMITS: [Limits; 4] = [
    Limits { line: 8, file: 64 },
    Limits { line: 40, file: 3_000 },
    Limits { line: 700, file: 70_000 },
    Limits { line: 1 << 20, file: 1 << 30 },
];

/// The most bytes that are decoded at a time.
const BUFFER: u64 = 64 * 1024;

fuzz_target!(|input: &[u8]| {
    let Some((&[how, cut, pieces, skip], rest)) = input.split_first_chunk() else { return };
    let limits = LIMITS[usize::from(how & 3)];
    let is_gzip = how & 4 != 0;
    let breaks_off = how & 8 != 0;
    let file = if is_gzip {
        rest.to_vec()
    } else {
        // Up to 60 times over, so that buffers have an end in it.
        let most = 100_000 / rest.len().max(1);
        let times = if how & 16 != 0 { usize::from(cut % 60).min(most) } else { 1 };
        let level = if how & 32 != 0 { Compression::none() } else { Compression::fast() };
        gzip(&rest.repeat(times), cut, level)
    };
    let skip = u64::from(skip & 7);

    // Whether it is sure that all bytes of the file came.
    let all = !breaks_off;
    let given = read(limits, Pieces::new(&file, 0), all, skip);
    let again = read(limits, Pieces::new(&file, 1 + u64::from(pieces)), all, skip);
    assert!(given == again, "in one piece {given:#?}\nin others {again:#?}");

    let mut text = Vec::new();
    let mut errors: Vec<ErrorKind> = unpacked(&file, &mut text).err().into_iter().collect();
    // What is no gzip is read as it is, and gzip within gzip is unpacked once more.
    let packed = file.starts_with(&GZIP);
    if packed && text.starts_with(&GZIP) {
        let again = std::mem::take(&mut text);
        // One that is cut only since the outer one is says nothing of its own.
        let within = unpacked(&again, &mut text).err();
        let own = |error: &ErrorKind| errors.is_empty() || *error != ErrorKind::UnexpectedEof;
        errors.extend(within.filter(own));
    }
    let too_large = text.len() as u64 > limits.file;
    let cut = !packed && !text.is_empty() && !text.ends_with(b"\n");
    if text.starts_with(BOM) {
        text.drain(..BOM.len());
    }
    let ended = match given.1.as_str() {
        // Somebody else's answer, which only the tests know from Mimecast's.
        end if end.starts_with("Foreign") => return,
        "" => "whole",
        end if end.starts_with("Broken") => "broken",
        end if end.starts_with("Damaged") => "damaged",
        _ => "too large",
    };
    let name = |error| match error {
        ErrorKind::UnexpectedEof if breaks_off => "broken",
        _ => "damaged",
    };
    // The decoder gives nothing of the block in which it fails.
    let mut may_end: Vec<&str> = errors.iter().copied().map(name).collect();
    match (may_end.is_empty(), too_large) {
        (_, true) => may_end.push("too large"),
        (true, false) if breaks_off && cut => may_end.push("broken"),
        (true, false) => may_end.push("whole"),
        (false, false) => {}
    }
    assert!(may_end.contains(&ended), "{} instead of {may_end:?}", given.1);

    let expected = lines(&text, limits.line, skip);
    if ended == "whole" {
        assert_eq!(given.0, expected);
    }
    // What was given before a bad end is the beginning of the file, but for a line that the
    // decoder's error cut off.
    let whole_lines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
    for (given, expected) in given.0.iter().zip(&expected) {
        let fits = match given.kind.as_str() {
            CUT_OFF => {
                given.line == expected.line && expected.original.starts_with(&given.original)
            }
            _ => given == expected,
        };
        assert!(fits || expected.line > whole_lines, "{given:?}, not {expected:?}");
    }
});

const GZIP: [u8; 2] = [0x1f, 0x8b];
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Adds to `text` what the file holds; why not all of it could be unpacked.
fn unpacked(mut file: &[u8], text: &mut Vec<u8>) -> Result<(), ErrorKind> {
    if !file.starts_with(&GZIP) {
        text.extend_from_slice(file);
        return Ok(());
    }
    while !file.is_empty() {
        GzDecoder::new(&mut file).read_to_end(text).map_err(|error| error.kind())?;
        // NULs behind a member are padding.
        while let [0, rest @ ..] = file {
            file = rest;
        }
    }
    Ok(())
}

/// The kind of a long line of which not all was read.
const CUT_OFF: &str = "CutOff";

/// What is compared of one line.
#[derive(PartialEq)]
struct Compared {
    line: u64,
    id: EventId,
    original: Vec<u8>,
    kind: String,
    row: Vec<u8>,
}

impl Compared {
    fn held(
        line: u64,
        original: &[u8],
        made: (EventId, Result<Row, (&str, String)>),
        row: Vec<u8>,
    ) -> Self {
        let (id, made) = made;
        let kind = match made {
            Ok(row) => {
                format!("Row {{ time_ms: {:?}, oversize: {:?} }}", row.event_time_ms, row.oversize)
            }
            Err((word, sentence)) => format!("Rejected({word:?}, {sentence:?})"),
        };
        Self { line, id, original: original.to_vec(), kind, row }
    }

    /// One that is too long to be held; it may not have ended.
    fn long(line: u64, id: EventId, original: Vec<u8>, ended: bool) -> Self {
        let kind = if ended { "TooLong" } else { CUT_OFF };
        Self { line, id, original, kind: kind.to_owned(), row: Vec::new() }
    }
}

impl fmt::Debug for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, id, original, kind, row } = self;
        let [original, row] = [original, row].map(|bytes| {
            let (begin, rest) = bytes.split_at(bytes.len().min(200));
            format!("{} and {} bytes", begin.escape_ascii(), rest.len())
        });
        write!(f, "line {line} {id}: {kind}\n  {original}\n  {row}")
    }
}

/// The lines that are read of a file whose bytes come so, and how it ends.
fn read(limits: Limits, pieces: Pieces, all: bool, skip: u64) -> (Vec<Compared>, String) {
    let format = BatchFile::new(limits, &CLOUD_INTEGRATED, DateTime::UNIX_EPOCH);
    let mut reader = format.lines(skip);
    let mut pieces = pieces.fuse();
    let mut read = Vec::new();
    let mut long: Option<(u64, EventIdHasher, Vec<u8>)> = None;
    let mut ended = false;
    let end = loop {
        match reader.next() {
            Ok(Some(Line { number, bytes, begins: true, ends: true })) => {
                assert!(long.is_none(), "a line begins within another");
                let mut row = Vec::new();
                let made = format.row(bytes, &mut row);
                read.push(Compared::held(number, bytes, made, row));
            }
            Ok(Some(Line { number, bytes, begins, ends })) => {
                assert_eq!(begins, long.is_none(), "a piece of no line, or of two");
                assert!(bytes.len() as u64 <= limits.line + BUFFER, "a piece of {}", bytes.len());
                let (of, id, line) =
                    long.get_or_insert_with(|| (number, EventIdHasher::new(), Vec::new()));
                assert_eq!(*of, number);
                id.update(bytes);
                line.extend_from_slice(bytes);
                if ends && let Some((number, id, line)) = long.take() {
                    read.push(Compared::long(number, id.finish(), line, true));
                }
            }
            Ok(None) if ended => break String::new(),
            Ok(None) => {
                // Until it is enough to go on with.
                let enough = pieces.by_ref().any(|piece| reader.push(piece));
                if !enough {
                    ended = true;
                    reader.end(all);
                }
            }
            Err(error @ ReadError::Broken(_)) => break format!("Broken: {error}"),
            Err(error) => break format!("{error:?}"),
        }
    };
    if let Some((number, id, line)) = long {
        assert!(!end.is_empty(), "the file ends, but not its last line");
        read.push(Compared::long(number, id.finish(), line, false));
    }
    (read, end)
}

/// What the lines of a text must be read as.
fn lines(text: &[u8], limit: u64, skip: u64) -> Vec<Compared> {
    let text = text.strip_suffix(b"\n").map_or_else(|| text.to_vec(), <[u8]>::to_vec);
    let none = text.is_empty();
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let blank = line.iter().all(u8::is_ascii_whitespace);
        let too_long = line.len() as u64 > limit;
        if none || number <= skip || (blank && !too_long) {
            continue;
        }
        let id = EventId::of(line);
        lines.push(if too_long {
            Compared::long(number, id, line.to_vec(), true)
        } else {
            let mut row = Vec::new();
            let written = CLOUD_INTEGRATED.write_row(line, id, DateTime::UNIX_EPOCH, &mut row);
            let made = (id, written.map_err(|why| (why.as_str(), why.to_string())));
            Compared::held(number, line, made, row)
        });
    }
    lines
}

/// The text in up to four gzip members.
fn gzip(text: &[u8], cut: u8, level: Compression) -> Vec<u8> {
    let members = usize::from(cut & 3) + 1;
    let size = (text.len() / members).max(1);
    let mut file = Vec::new();
    for member in 0..members {
        let from = (member * size).min(text.len());
        let to = if member + 1 == members { text.len() } else { (from + size).min(text.len()) };
        let mut encoder = GzEncoder::new(&mut file, level);
        encoder.write_all(&text[from..to]).unwrap();
        encoder.finish().unwrap();
    }
    file
}

/// A download: the bytes in pieces whose sizes a seed gives, 0 for one piece.
struct Pieces {
    bytes: Bytes,
    seed: u64,
}

impl Pieces {
    fn new(bytes: &[u8], seed: u64) -> Self {
        Self { bytes: Bytes::copy_from_slice(bytes), seed }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut size = self.bytes.len();
        if self.seed > 0 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            let most = if self.seed >> 61 == 0 { 20 } else { 5_000 };
            size = size.min(1 + (self.seed >> 33) as usize % most);
        }
        (size > 0).then(|| self.bytes.split_to(size))
    }
}
