//! A batch file: gzip over NDJSON, one event a line.
//!
//! Lines end with `\n` only, since U+2028 and its kind occur inside of strings. Several gzip members
//! behind one another are one file. A file of zero bytes, and blank lines, are normal.

use std::io::{self, BufRead, BufReader, Read};

use chrono::{DateTime, Utc};
use memchr::memchr;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::refusal::{is_object, is_refusal};
use super::unpack::Unpacker;
use crate::http::{looks_like, without_bom};
use crate::pipeline::source::{ReadError, Record, RecordKind, RecordReader};
use crate::table::{EventId, EventIdHasher, RejectReason, Row, Table};

/// How much is decoded at a time.
const BUFFER: usize = 64 * 1024;

/// How much of a line that is too long is looked at to say what it is, in bytes.
const HEAD: usize = 256;

/// What a line and a file may hold, decoded, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) line: u64,
    pub(super) file: u64,
}

/// Reads events out of the bytes of a batch file.
pub(super) struct EventReader {
    lines: Lines,
    /// Whether the first line was seen to be Mimecast's.
    trusted: bool,
    skip: u64,
    table: &'static Table,
    arrival: DateTime<Utc>,
}

impl EventReader {
    pub(super) fn new(
        input: Box<dyn Read + Send>,
        skip: u64,
        limits: Limits,
        table: &'static Table,
        arrival: DateTime<Utc>,
    ) -> Self {
        Self { lines: Lines::new(input, limits), trusted: false, skip, table, arrival }
    }
}

impl RecordReader for EventReader {
    fn next<'a>(&'a mut self, row: &mut Vec<u8>) -> Result<Option<Record<'a>>, ReadError> {
        loop {
            let Some(kind) = self.lines.next()? else { return Ok(None) };
            let blank = || self.lines.line.iter().all(u8::is_ascii_whitespace);
            let blank = matches!(kind, Line::Whole) && blank();
            if !blank && !std::mem::replace(&mut self.trusted, true) {
                self.lines.judge(&kind)?;
            }
            if blank || self.lines.number <= self.skip {
                continue;
            }
            let held = matches!(kind, Line::Whole);
            let (id, kind) = match kind {
                Line::Whole => {
                    let id = EventId::of(&self.lines.line);
                    let written = self.table.write_row(&self.lines.line, id, self.arrival, row);
                    (id, kind_of(written))
                }
                Line::TooLong { id, length } => (id, RecordKind::TooLong(length)),
            };
            return Ok(Some(Record {
                line: self.lines.number,
                id: id.0,
                original: if held { &self.lines.line } else { &[] },
                kind,
            }));
        }
    }
}

fn kind_of(written: Result<Row, RejectReason>) -> RecordKind {
    match written {
        Ok(row) => RecordKind::Row { time_ms: row.event_time_ms, oversize: row.oversize },
        Err(reason) => RecordKind::Rejected(reason.as_str(), reason.to_string()),
    }
}

/// The lines of a batch file.
struct Lines {
    decoded: BufReader<Unpacker>,
    limits: Limits,
    /// The line in hand, without its end; of one that is too long, the beginning.
    line: Vec<u8>,
    /// Its number, from 1.
    number: u64,
}

/// What is in hand.
enum Line {
    Whole,
    /// More than the limit; its bytes are gone by.
    TooLong {
        id: EventId,
        length: u64,
    },
}

impl Lines {
    fn new(input: Box<dyn Read + Send>, limits: Limits) -> Self {
        let decoded = BufReader::with_capacity(BUFFER, Unpacker::new(input));
        Self { decoded, limits, line: Vec::new(), number: 0 }
    }

    /// Goes to the next line; `None` at the end of the file.
    fn next(&mut self) -> Result<Option<Line>, ReadError> {
        self.line.clear();
        let mut long: Option<LongLine> = None;
        let (mut any, mut ended) = (false, false);
        loop {
            let buffer = match self.decoded.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) => return Err(self.decoded.get_mut().explain(&error)),
            };
            if buffer.is_empty() {
                break;
            }
            any = true;
            let end = memchr(b'\n', buffer);
            let piece = &buffer[..end.unwrap_or(buffer.len())];
            let taken = piece.len() + usize::from(end.is_some());
            // One byte more may be the `\r` of its end.
            let most = self.limits.line.saturating_add(1);
            match &mut long {
                Some(long) => long.add(piece),
                None if (self.line.len() + piece.len()) as u64 > most => {
                    let long = long.insert(LongLine::default());
                    long.add(&self.line);
                    long.add(piece);
                    // What it looks like; the rest is not held.
                    self.line = self.line.iter().chain(piece).take(HEAD).copied().collect();
                }
                None => self.line.extend_from_slice(piece),
            }
            self.decoded.consume(taken);
            if self.decoded.get_ref().unpacked() > self.limits.file {
                return Err(ReadError::TooLarge(self.limits.file));
            }
            ended = end.is_some();
            if ended {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        if !ended && self.decoded.get_mut().may_be_cut() {
            let cut = "the connection was closed in the middle of a line";
            return Err(ReadError::Broken(io::Error::other(cut)));
        }
        self.number += 1;
        if self.number == 1 {
            let bom = self.line.len() - without_bom(&self.line).len();
            self.line.drain(..bom);
        }
        if let Some(long) = long {
            return Ok(Some(long.told()));
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        if self.line.len() as u64 > self.limits.line {
            let mut long = LongLine::default();
            long.add(&self.line);
            self.line = self.line[..HEAD.min(self.line.len())].to_vec();
            return Ok(Some(long.told()));
        }
        Ok(Some(Line::Whole))
    }

    /// Whether the file is Mimecast's, by its first line that is not blank. A proxy, a firewall or
    /// the object store answers 200 with words of its own: a page, or a refusal in JSON or XML. What
    /// was packed is the file but for those: another line that is no event is quarantined by itself.
    /// What was not packed must begin with an event.
    fn judge(&mut self, first: &Line) -> Result<(), ReadError> {
        let packed = self.decoded.get_ref().is_packed();
        let object = is_object(&self.line);
        let foreign = if !object && self.line.trim_ascii_start().starts_with(b"<") {
            true
        } else if matches!(first, Line::TooLong { .. }) {
            !packed && !object
        } else {
            match serde_json::from_slice::<Ids>(&self.line).ok().filter(|_| object) {
                Some(ids) if ids.any() => false,
                Some(ids) => {
                    !packed || is_refusal(&self.line) || (ids.says_why() && self.is_alone()?)
                }
                // JSON over several lines is nobody's event.
                None => !packed || self.line.trim_ascii() == b"{",
            }
        };
        if !foreign {
            return Ok(());
        }
        let looks_like = looks_like(&self.line);
        // A file that is damaged may begin in any way.
        let rest = io::copy(&mut (&mut self.decoded).take(self.limits.file), &mut io::sink());
        match rest {
            Ok(_) => Err(ReadError::Foreign(looks_like)),
            Err(error) => Err(self.decoded.get_mut().explain(&error)),
        }
    }

    /// Whether nothing follows the line in hand but white space, as far as it is here.
    fn is_alone(&mut self) -> Result<bool, ReadError> {
        match self.decoded.fill_buf() {
            Ok(rest) => Ok(rest.iter().all(u8::is_ascii_whitespace)),
            Err(error) => Err(self.decoded.get_mut().explain(&error)),
        }
    }
}

/// What Mimecast's events have, and what a refusal of whoever stands in the way has instead.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ids {
    account_id: Option<IgnoredAny>,
    aggregate_id: Option<IgnoredAny>,
    processing_id: Option<IgnoredAny>,
    code: Option<IgnoredAny>,
    detail: Option<IgnoredAny>,
    message: Option<IgnoredAny>,
    status: Option<IgnoredAny>,
    title: Option<IgnoredAny>,
}

impl Ids {
    fn any(&self) -> bool {
        [self.account_id, self.aggregate_id, self.processing_id].iter().any(Option::is_some)
    }

    fn says_why(&self) -> bool {
        let words = [self.code, self.detail, self.message, self.status, self.title];
        words.iter().any(Option::is_some)
    }
}

/// A line that is too long to be held: its id and its length.
#[derive(Default)]
struct LongLine {
    hasher: EventIdHasher,
    length: u64,
    /// The last byte was a `\r`, which belongs to the line only if more follows.
    cr: bool,
}

impl LongLine {
    fn add(&mut self, piece: &[u8]) {
        let Some((last, before)) = piece.split_last() else { return };
        if std::mem::replace(&mut self.cr, *last == b'\r') {
            self.hasher.update(b"\r");
            self.length += 1;
        }
        let kept = if self.cr { before } else { piece };
        self.hasher.update(kept);
        self.length += kept.len() as u64;
    }

    fn told(self) -> Line {
        Line::TooLong { id: self.hasher.finish(), length: self.length }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::table::CLOUD_INTEGRATED;

    const LIMITS: Limits = Limits { line: 1_000, file: 100_000 };

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn reader(file: Vec<u8>, skip: u64) -> EventReader {
        let input = Box::new(io::Cursor::new(file));
        EventReader::new(input, skip, LIMITS, &CLOUD_INTEGRATED, DateTime::UNIX_EPOCH)
    }

    /// The records of a file: number and original, and how it ended.
    fn read(file: Vec<u8>, skip: u64) -> (Vec<(u64, String)>, Option<ReadError>) {
        let mut reader = reader(file, skip);
        let mut records = Vec::new();
        loop {
            match reader.next(&mut Vec::new()) {
                Ok(Some(record)) => {
                    let text = String::from_utf8_lossy(record.original).into_owned();
                    records.push((record.line, text));
                }
                Ok(None) => return (records, None),
                Err(error) => return (records, Some(error)),
            }
        }
    }

    #[test]
    fn lines_end_with_a_line_feed_only_and_blank_ones_are_passed() {
        let text = "{\"a\":\"\u{2028}\u{2029}\u{85}\"}\n\n \t\r\n{\"b\":1}\r\n{\"c\":2}";
        let (records, ended) = read(gzip(text.as_bytes()), 0);
        assert!(ended.is_none());
        let expected =
            [(1, "{\"a\":\"\u{2028}\u{2029}\u{85}\"}"), (4, "{\"b\":1}"), (5, "{\"c\":2}")];
        assert_eq!(records, expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn an_event_has_the_same_id_whatever_ends_its_line() {
        let ids = |file: Vec<u8>| reader(file, 0).next(&mut Vec::new()).unwrap().unwrap().id;
        let id = ids(gzip(b"{\"a\":1}\n"));
        assert_eq!(ids(gzip(b"{\"a\":1}\r\n")), id);
        assert_eq!(ids(gzip(b"{\"a\":1}")), id);
    }

    #[test]
    fn two_members_are_one_file_and_nothing_is_an_empty_one() {
        let two = [gzip(b"{\"a\":1}\n{\"b\""), gzip(b":2}\n")].concat();
        let (records, ended) = read(two, 0);
        assert!(ended.is_none());
        assert_eq!(records[1], (2, "{\"b\":2}".to_owned()));
        for empty in [Vec::new(), gzip(b"")] {
            let (records, ended) = read(empty, 0);
            assert!(records.is_empty() && ended.is_none());
        }
    }

    #[test]
    fn lines_that_are_settled_are_passed() {
        let file = gzip(b"{\"a\":1}\n\n{\"b\":2}\n{\"c\":3}\n");
        let numbers = |skip| read(file.clone(), skip).0.iter().map(|r| r.0).collect::<Vec<_>>();
        assert_eq!(numbers(0), [1, 3, 4]);
        assert_eq!(numbers(3), [4]);
        assert_eq!(numbers(9), [0; 0]);
    }

    #[test]
    fn a_line_over_the_limit_is_told_with_its_length_and_id_and_the_rest_goes_on() {
        let long = "x".repeat(1_001);
        let mut reader = reader(gzip(format!("{long}\n{{\"b\":2}}\n").as_bytes()), 0);
        let record = reader.next(&mut Vec::new()).unwrap().unwrap();
        assert!(matches!(record.kind, RecordKind::TooLong(1_001)), "{record:?}");
        assert_eq!(record.id, EventId::of(long.as_bytes()).0);
        let record = reader.next(&mut Vec::new()).unwrap().unwrap();
        assert!(matches!(record.kind, RecordKind::Row { .. }), "{record:?}");
        assert_eq!(record.line, 2);
    }

    #[test]
    fn the_end_of_a_line_does_not_count_however_long_it_is() {
        // The limit, one more, and so many that its end comes alone, in the next buffer.
        for length in [1_000, 1_001, BUFFER - 1] {
            let line = format!("{{{}", "x".repeat(length - 1));
            for end in ["\n", "\r\n", "\r", ""] {
                let mut reader = reader(gzip(format!("{line}{end}").as_bytes()), 0);
                let record = reader.next(&mut Vec::new()).unwrap().unwrap();
                assert_eq!(record.id, EventId::of(line.as_bytes()).0, "{length} {end:?}");
                match record.kind {
                    RecordKind::TooLong(told) => assert_eq!(told, length as u64),
                    _ => assert_eq!(record.original.len(), 1_000),
                }
            }
            let mut reader = reader(gzip(format!("{line}\r\r\n").as_bytes()), 0);
            let id = reader.next(&mut Vec::new()).unwrap().unwrap().id;
            assert_eq!(id, EventId::of(format!("{line}\r").as_bytes()).0, "{length}");
        }
    }

    #[test]
    fn what_is_not_an_event_is_told_and_the_rest_goes_on() {
        let (records, ended) = read(gzip(b"nonsense\n[1,2]\n{\"a\":1}\n"), 0);
        assert!(ended.is_none());
        assert_eq!(records.len(), 3);
        let mut reader = reader(gzip(b"nonsense\n[1,2]\n"), 0);
        for expected in ["not-json", "not-object"] {
            let record = reader.next(&mut Vec::new()).unwrap().unwrap();
            let RecordKind::Rejected(reason, _) = record.kind else { panic!("{record:?}") };
            assert_eq!(reason, expected);
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let (records, ended) = read(gzip(&vec![b'\n'; 1_000_000]), 0);
        assert!(records.is_empty());
        assert!(matches!(ended, Some(ReadError::TooLarge(100_000))), "{ended:?}");
    }

    #[test]
    fn a_damaged_file_is_told_from_a_broken_download() {
        struct Breaks(io::Cursor<Vec<u8>>);
        impl Read for Breaks {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => Err(io::ErrorKind::ConnectionReset.into()),
                    n => Ok(n),
                }
            }
        }
        let whole = gzip("{\"a\":1}\n".repeat(500).as_bytes());
        let cut = whole[..whole.len() - 10].to_vec();
        let (_, ended) = read(cut.clone(), 0);
        assert!(matches!(ended, Some(ReadError::Damaged { .. })), "{ended:?}");
        let input = Box::new(Breaks(io::Cursor::new(cut)));
        let mut broken =
            EventReader::new(input, 0, LIMITS, &CLOUD_INTEGRATED, DateTime::UNIX_EPOCH);
        let ended = std::iter::from_fn(|| {
            broken.next(&mut Vec::new()).map(|r| r.map(|r| r.line)).transpose()
        })
        .find_map(Result::err);
        assert!(matches!(ended, Some(ReadError::Broken(_))), "{ended:?}");
    }

    #[test]
    fn damage_is_at_the_same_place_however_the_bytes_come() {
        struct Pieces(io::Cursor<Vec<u8>>, usize);
        impl Read for Pieces {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let most = buffer.len().min(self.1);
                self.0.read(&mut buffer[..most])
            }
        }
        let mut rng = fastrand::Rng::with_seed(7);
        let text: String =
            (0..9_000).map(|_| format!("{{\"a\":\"{:x}\"}}\n", rng.u128(..))).collect();
        let mut file = gzip(text.as_bytes());
        let middle = file.len() / 2;
        assert!(middle > BUFFER);
        file[middle..].iter_mut().for_each(|byte| *byte = rng.u8(..));
        let limits = Limits { line: 1_000, file: u64::MAX };
        let failed = |piece| {
            let input = Box::new(Pieces(io::Cursor::new(file.clone()), piece));
            let mut reader =
                EventReader::new(input, 0, limits, &CLOUD_INTEGRATED, DateTime::UNIX_EPOCH);
            let mut lines = 0;
            loop {
                match reader.next(&mut Vec::new()) {
                    Ok(_) => lines += 1,
                    Err(error) => return (lines, error.to_string()),
                }
            }
        };
        let whole = failed(usize::MAX);
        for piece in [1, 100, 4_096, 16_000] {
            assert_eq!(failed(piece), whole, "pieces of {piece}");
        }
    }
}
