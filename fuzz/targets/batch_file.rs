//! A batch file gives the lines that its text has, however its bytes come in, and ends as it must.
//!
//! The first four bytes say how the rest is taken: as a gzip file, or as text that is gzipped here.
#![no_main]

use std::io::{self, Read, Write};

use chrono::DateTime;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::sources::mimecast::open_records;
use mimecast_sentinel::pipeline::source::ReadError;
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::table::{CLOUD_INTEGRATED, EventId};

/// The most bytes of a line and of a file.
const LIMITS: [(u64, u64); 4] = [(8, 64), (40, 3_000), (700, 70_000), (1 << 20, 1 << 30)];

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

    let given = read(limits, Pieces::new(&file, 0, breaks_off), skip);
    let again = read(limits, Pieces::new(&file, 1 + u64::from(pieces), breaks_off), skip);
    assert!(given == again, "in one piece {given:#?}\nin others {again:#?}");

    let mut text = Vec::new();
    let mut decoded = unpacked(&file, &mut text);
    // What is no gzip is read as it is, and gzip within gzip is unpacked once more.
    if decoded && text.starts_with(&GZIP) {
        let again = std::mem::take(&mut text);
        decoded = unpacked(&again, &mut text);
    }
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
    let too_large = text.len() as u64 > limits.1;
    let may_end: &[&str] = match (breaks_off, decoded) {
        _ if too_large && decoded => &["too large"],
        (true, _) if too_large => &["too large", "broken"],
        (false, _) if too_large => &["too large", "damaged"],
        (true, _) => &["broken"],
        (false, true) => &["whole"],
        (false, false) => &["damaged"],
    };
    assert!(may_end.contains(&ended), "{} instead of {may_end:?}", given.1);

    let expected = lines(&text, limits.0, skip);
    if ended == "whole" {
        assert_eq!(given.0, expected);
    }
    // What was given before a bad end is the beginning of the file, but for a line that the
    // decoder's error cut off.
    let whole_lines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
    for (given, expected) in given.0.iter().zip(&expected) {
        assert!(given == expected || expected.line > whole_lines, "{given:?}, not {expected:?}");
    }
});

const GZIP: [u8; 2] = [0x1f, 0x8b];
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Adds to `text` what the file holds; whether all of it could be unpacked.
fn unpacked(mut file: &[u8], text: &mut Vec<u8>) -> bool {
    if !file.starts_with(&GZIP) {
        text.extend_from_slice(file);
        return true;
    }
    while !file.is_empty() {
        if GzDecoder::new(&mut file).read_to_end(text).is_err() {
            return false;
        }
        // NULs behind a member are padding.
        while let [0, rest @ ..] = file {
            file = rest;
        }
    }
    true
}

/// What is compared of one record.
#[derive(Debug, PartialEq)]
struct Compared {
    line: u64,
    id: EventId,
    original: Vec<u8>,
    kind: String,
    row: Vec<u8>,
}

fn read(limits: (u64, u64), input: Pieces, skip: u64) -> (Vec<Compared>, String) {
    let open = open_records(limits.0, limits.1, Clock::from_fn(|| DateTime::UNIX_EPOCH));
    let mut reader = open(Box::new(input), skip);
    let mut records = Vec::new();
    loop {
        let mut row = Vec::new();
        match reader.next(&mut row) {
            Ok(Some(record)) => records.push(Compared {
                line: record.line,
                id: EventId(record.id),
                original: record.original.to_vec(),
                kind: format!("{:?}", record.kind),
                row,
            }),
            Ok(None) => return (records, String::new()),
            Err(error @ ReadError::Broken(_)) => return (records, format!("Broken: {error}")),
            Err(error) => return (records, format!("{error:?}")),
        }
    }
}

/// What the lines of a text must be read as.
fn lines(text: &[u8], limit: u64, skip: u64) -> Vec<Compared> {
    let text = text.strip_suffix(b"\n").map_or_else(|| text.to_vec(), <[u8]>::to_vec);
    let none = text.is_empty();
    let mut records = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let blank = line.iter().all(u8::is_ascii_whitespace);
        let too_long = line.len() as u64 > limit;
        if none || number <= skip || (blank && !too_long) {
            continue;
        }
        let id = EventId::of(line);
        let mut row = Vec::new();
        let written = CLOUD_INTEGRATED.write_row(line, id, DateTime::UNIX_EPOCH, &mut row);
        let (original, kind) = match written {
            _ if too_long => {
                row.clear();
                (Vec::new(), format!("TooLong({})", line.len()))
            }
            Ok(row) => (
                line.to_vec(),
                format!("Row {{ time_ms: {:?}, oversize: {:?} }}", row.event_time_ms, row.oversize),
            ),
            Err(why) => {
                (line.to_vec(), format!("Rejected({:?}, {:?})", why.as_str(), why.to_string()))
            }
        };
        records.push(Compared { line: number, id, original, kind, row });
    }
    records
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
    bytes: io::Cursor<Vec<u8>>,
    seed: u64,
    breaks_off: bool,
}

impl Pieces {
    fn new(bytes: &[u8], seed: u64, breaks_off: bool) -> Self {
        Self { bytes: io::Cursor::new(bytes.to_vec()), seed, breaks_off }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut size = buffer.len();
        if self.seed > 0 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            size = size.min(1 + (self.seed >> 33) as usize % 5_000);
        }
        match self.bytes.read(&mut buffer[..size])? {
            0 if self.breaks_off => Err(io::ErrorKind::ConnectionReset.into()),
            n => Ok(n),
        }
    }
}
