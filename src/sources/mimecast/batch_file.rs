//! A batch file: gzip over NDJSON, one event a line.
//!
//! Lines end with `\n` only, since U+2028 and its kind occur inside of strings. Several gzip
//! members behind one another are one file. A file of zero bytes, and blank lines, are normal.

use std::io::{self, BufRead, BufReader, ErrorKind};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use memchr::memchr;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::refusal::{is_object, is_refusal};
use super::unpack::Unpacker;
use crate::http::{looks_like, without_bom};
use crate::pipeline::source::{Format, Line, LineReader, ReadError};
use crate::table::{EventId, Row, Table};

/// How much is decoded at a time.
const BUFFER: usize = 64 * 1024;

/// The bytes of a byte order mark.
const BOM: usize = 3;

/// What a line and a file may hold, decoded, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes of a line that is held in memory.
    pub line: u64,
    /// The most bytes of a file.
    pub file: u64,
}

/// How batch files are read, and events written as rows.
#[derive(Debug)]
pub struct BatchFile {
    limits: Limits,
    table: &'static Table,
    /// The time of rows that have none of their own.
    arrival: DateTime<Utc>,
}

impl BatchFile {
    /// The format of events that become rows of `table`, and are read at `arrival`.
    pub fn new(limits: Limits, table: &'static Table, arrival: DateTime<Utc>) -> Self {
        Self { limits, table, arrival }
    }
}

impl Format for BatchFile {
    fn lines(&self, skip: u64) -> Box<dyn LineReader> {
        Box::new(Lines::new(self.limits, skip))
    }

    fn row(
        &self,
        line: &[u8],
        row: &mut Vec<u8>,
    ) -> (EventId, Result<Row, (&'static str, String)>) {
        let id = EventId::of(line);
        let written = self.table.write_row(line, id, self.arrival, row);
        (id, written.map_err(|reason| (reason.as_str(), reason.to_string())))
    }
}

/// The lines of a batch file.
struct Lines {
    decoded: BufReader<Unpacker>,
    limits: Limits,
    skip: u64,
    /// The line in hand, without its end; of one that is too long, the piece in hand.
    line: Vec<u8>,
    /// Its number, from 1.
    number: u64,
    /// Whether any of it is read.
    begun: bool,
    /// Whether the file's byte order mark is taken off, if it has one.
    is_without_bom: bool,
    /// Whether `line` was given, and is empty for what follows.
    given: bool,
    /// A piece of it was given: it is too long to be held.
    long: bool,
    /// All of it was given, but not that it ends.
    end_is_due: bool,
    /// After the piece that was given there was a `\r`, which belongs to the line only if more
    /// follows.
    cr: bool,
    /// Whether the first line was seen to be Mimecast's.
    trusted: bool,
    /// What came instead of a batch file. The rest is only decoded: a file that is damaged may
    /// begin in any way.
    foreign: Option<&'static str>,
}

impl LineReader for Lines {
    fn push(&mut self, bytes: Bytes) -> bool {
        self.decoded.get_mut().push(bytes)
    }

    fn end(&mut self, all: bool) {
        self.decoded.get_mut().end(all);
    }

    fn next(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        while self.foreign.is_none() {
            let Some((begins, ends)) = self.next_piece()? else { return Ok(None) };
            if begins && ends && self.line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if !std::mem::replace(&mut self.trusted, true) && !self.is_events(ends)? {
                self.foreign = Some(looks_like(&self.line));
                break;
            }
            if self.number > self.skip {
                let (number, bytes) = (self.number, &self.line[..]);
                return Ok(Some(Line { number, bytes, begins, ends }));
            }
        }
        self.drain()
    }
}

impl Lines {
    fn new(limits: Limits, skip: u64) -> Self {
        Self {
            decoded: BufReader::with_capacity(BUFFER, Unpacker::new()),
            limits,
            skip,
            line: Vec::new(),
            number: 0,
            begun: false,
            is_without_bom: false,
            given: false,
            long: false,
            end_is_due: false,
            cr: false,
            trusted: false,
            foreign: None,
        }
    }

    /// Goes to the next line, or the next piece of a long one: whether it begins there, and whether
    /// it ends. `None` where it needs more bytes, and at the end of the file.
    fn next_piece(&mut self) -> Result<Option<(bool, bool)>, ReadError> {
        if std::mem::take(&mut self.given) {
            self.line.clear();
            if std::mem::take(&mut self.cr) {
                self.line.push(b'\r');
            }
        }
        loop {
            let ended = std::mem::take(&mut self.end_is_due)
                || match self.take_bytes()? {
                    Some(ended) => ended,
                    None => return Ok(None),
                };
            if ended && self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            // It is no part of the line, whatever of it is in the first buffer.
            if !self.is_without_bom && (ended || self.line.len() >= BOM) {
                self.is_without_bom = true;
                let bom = self.line.len() - without_bom(&self.line).len();
                self.line.drain(..bom);
            }
            // One byte more may be the `\r` of its end.
            let most = self.limits.line.saturating_add(u64::from(!ended));
            let is_over = self.line.len() as u64 > most;
            if !ended && !is_over && !self.long {
                continue;
            }
            let begins = !self.long;
            self.given = true;
            self.long = !ended || (begins && is_over);
            if self.long && ended {
                self.end_is_due = true;
            } else if self.long && self.line.last() == Some(&b'\r') {
                self.line.pop();
                self.cr = true;
            }
            self.begun = self.long;
            return Ok(Some((begins, !self.long)));
        }
    }

    /// Takes bytes to the line in hand: whether that is all of it. `None` where there are none.
    fn take_bytes(&mut self) -> Result<Option<bool>, ReadError> {
        let Some(buffer) = fill(&mut self.decoded)? else { return Ok(None) };
        if buffer.is_empty() {
            if self.begun && self.decoded.get_mut().may_be_cut() {
                let cut = "the connection was closed in the middle of a line";
                return Err(ReadError::Broken(io::Error::other(cut)));
            }
            return Ok(self.begun.then_some(true));
        }
        let end = memchr(b'\n', buffer);
        let piece = &buffer[..end.unwrap_or(buffer.len())];
        self.line.extend_from_slice(piece);
        let taken = piece.len() + usize::from(end.is_some());
        self.decoded.consume(taken);
        if self.decoded.get_ref().unpacked() > self.limits.file {
            return Err(ReadError::TooLarge(self.limits.file));
        }
        self.number += u64::from(!std::mem::replace(&mut self.begun, true));
        Ok(Some(end.is_some()))
    }

    /// Whether the file is Mimecast's, by its first line that is not blank, or the first piece of
    /// it. A proxy, a firewall or the object store answers 200 with words of its own: a page, or a
    /// refusal in JSON or XML. What was packed is the file but for those: another line that is no
    /// event is quarantined by itself. What was not packed must begin with an event.
    fn is_events(&mut self, ends: bool) -> Result<bool, ReadError> {
        let packed = self.decoded.get_ref().is_packed();
        let object = is_object(&self.line);
        if !object && self.line.trim_ascii_start().starts_with(b"<") {
            return Ok(false);
        }
        if !ends {
            return Ok(packed || object);
        }
        match serde_json::from_slice::<Ids>(&self.line).ok().filter(|_| object) {
            Some(ids) if ids.any() => Ok(true),
            Some(ids) => {
                let refused = is_refusal(&self.line) || (ids.says_why() && self.is_alone()?);
                Ok(packed && !refused)
            }
            // JSON over several lines is nobody's event.
            None => Ok(packed && self.line.trim_ascii() != b"{"),
        }
    }

    /// Whether nothing follows the line in hand but white space, as far as it is here. Where it is
    /// not, the line alone fills a block of the file, and is no refusal.
    fn is_alone(&mut self) -> Result<bool, ReadError> {
        let rest = fill(&mut self.decoded)?;
        Ok(rest.is_some_and(|rest| rest.iter().all(u8::is_ascii_whitespace)))
    }

    /// Decodes what came instead of a batch file, to its end.
    fn drain(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        while let Some(rest) = fill(&mut self.decoded)? {
            let taken = rest.len();
            self.decoded.consume(taken);
            if taken == 0 || self.decoded.get_ref().unpacked() > self.limits.file {
                return Err(ReadError::Foreign(self.foreign.unwrap_or_default()));
            }
        }
        Ok(None)
    }
}

/// What is decoded and not yet taken, nothing at the end; `None` where more bytes are needed.
fn fill(decoded: &mut BufReader<Unpacker>) -> Result<Option<&[u8]>, ReadError> {
    match decoded.fill_buf().map(<[u8]>::len) {
        // Again, since what it returns cannot be looked at first and then be given on.
        Ok(_) => Ok(Some(decoded.buffer())),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(decoded.get_mut().explain(&error)),
    }
}

/// The fields of Mimecast's events, and those of a refusal by a proxy, a firewall or the host.
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

    /// A reader that has all of the file; `all` says whether that is sure.
    fn reader(file: Vec<u8>, skip: u64, all: bool) -> Lines {
        let mut reader = Lines::new(LIMITS, skip);
        reader.push(file.into());
        reader.end(all);
        reader
    }

    /// The lines of a file, number and text, and how it ended. Pieces of a line are put together.
    fn read_with(reader: &mut dyn LineReader) -> (Vec<(u64, String)>, Option<ReadError>) {
        let mut lines: Vec<(u64, String)> = Vec::new();
        loop {
            match reader.next() {
                Ok(Some(Line { number, bytes, begins, .. })) => {
                    let text = String::from_utf8_lossy(bytes).into_owned();
                    match begins {
                        true => lines.push((number, text)),
                        false => lines.last_mut().unwrap().1.push_str(&text),
                    }
                }
                Ok(None) => return (lines, None),
                Err(error) => return (lines, Some(error)),
            }
        }
    }

    fn read(file: Vec<u8>, skip: u64) -> (Vec<(u64, String)>, Option<ReadError>) {
        read_with(&mut reader(file, skip, true))
    }

    #[test]
    fn lines_end_with_a_line_feed_only_and_blank_ones_are_left_out() {
        let text = "{\"a\":\"\u{2028}\u{2029}\u{85}\"}\n\n \t\r\n{\"b\":1}\r\n{\"c\":2}";
        let (lines, ended) = read(gzip(text.as_bytes()), 0);
        assert!(ended.is_none());
        let expected =
            [(1, "{\"a\":\"\u{2028}\u{2029}\u{85}\"}"), (4, "{\"b\":1}"), (5, "{\"c\":2}")];
        assert_eq!(lines, expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn an_event_has_the_same_line_whatever_ends_it() {
        for end in ["\n", "\r\n", ""] {
            let (lines, _) = read(gzip(format!("{{\"a\":1}}{end}").as_bytes()), 0);
            assert_eq!(lines, [(1, "{\"a\":1}".to_owned())], "{end:?}");
        }
    }

    #[test]
    fn two_members_are_one_file_and_nothing_is_an_empty_one() {
        let two = [gzip(b"{\"a\":1}\n{\"b\""), gzip(b":2}\n")].concat();
        let (lines, ended) = read(two, 0);
        assert!(ended.is_none());
        assert_eq!(lines[1], (2, "{\"b\":2}".to_owned()));
        for empty in [Vec::new(), gzip(b"")] {
            let (lines, ended) = read(empty, 0);
            assert!(lines.is_empty() && ended.is_none());
        }
    }

    #[test]
    fn lines_that_are_settled_are_left_out() {
        let file = gzip(b"{\"a\":1}\n\n{\"b\":2}\n{\"c\":3}\n");
        let numbers = |skip| read(file.clone(), skip).0.iter().map(|r| r.0).collect::<Vec<_>>();
        assert_eq!(numbers(0), [1, 3, 4]);
        assert_eq!(numbers(3), [4]);
        assert_eq!(numbers(9), [0; 0]);
    }

    #[test]
    fn a_line_over_the_limit_comes_in_pieces_and_the_rest_goes_on() {
        for length in [1_001, BUFFER * 3] {
            let long = "x".repeat(length);
            let mut reader = reader(gzip(format!("{long}\n{{\"b\":2}}\n").as_bytes()), 0, true);
            reader.limits.file = u64::MAX;
            let first = reader.next().unwrap().unwrap();
            assert!(first.begins && !first.ends && !first.bytes.is_empty(), "{length}");
            let mut read = first.bytes.len();
            loop {
                let piece = reader.next().unwrap().unwrap();
                assert!(!piece.begins && piece.number == 1 && piece.bytes.len() <= BUFFER);
                read += piece.bytes.len();
                if piece.ends {
                    break;
                }
            }
            assert_eq!(read, length);
            let next = reader.next().unwrap().unwrap();
            assert!(next.begins && next.ends && next.number == 2);
            assert_eq!(next.bytes, b"{\"b\":2}");
        }
    }

    #[test]
    fn the_end_of_a_line_does_not_count_however_long_it_is() {
        // The limit, one more, and so many that its end comes alone, in the next buffer.
        for length in [1_000, 1_001, BUFFER - 1] {
            let line = format!("{{{}", "x".repeat(length - 1));
            for end in ["\n", "\r\n", "\r", ""] {
                let mut reader = reader(gzip(format!("{line}{end}").as_bytes()), 0, true);
                let first = reader.next().unwrap().unwrap();
                assert_eq!(first.begins && first.ends, length == 1_000, "{length} {end:?}");
                let (lines, ended) = read(gzip(format!("{line}{end}").as_bytes()), 0);
                assert!(ended.is_none());
                assert_eq!(lines, [(1, line.clone())], "{length} {end:?}");
            }
            let (lines, _) = read(gzip(format!("{line}\r\r\n{{}}\n").as_bytes()), 0);
            assert_eq!(lines[0].1, format!("{line}\r"), "{length}");
            assert_eq!(lines[1], (2, "{}".to_owned()), "{length}");
        }
    }

    #[test]
    fn what_is_not_an_event_is_rejected() {
        let (lines, ended) = read(gzip(b"nonsense\n[1,2]\n{\"a\":1}\n"), 0);
        assert!(ended.is_none());
        let format = BatchFile::new(LIMITS, &CLOUD_INTEGRATED, DateTime::UNIX_EPOCH);
        let reasons = lines.iter().map(|(_, line)| {
            let mut row = Vec::new();
            let (id, made) = format.row(line.as_bytes(), &mut row);
            assert_eq!(id, EventId::of(line.as_bytes()));
            assert_eq!(row.is_empty(), made.is_err());
            made.err().map(|(reason, _)| reason)
        });
        let reasons: Vec<_> = reasons.collect();
        assert_eq!(reasons, [Some("not-json"), Some("not-object"), None]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line_however_it_comes() {
        let mark = "\u{feff}".as_bytes();
        let line = |length: usize| [b"{", &vec![b'x'; length - 1][..]].concat();
        for (length, fits) in [(999, true), (1_000, true), (1_001, false)] {
            let text = [mark, &line(length), b"\r\n"].concat();
            // In one member, and with a member's end within it and behind it.
            for split in [0, 1, 3] {
                let file = [gzip(&text[..split]), gzip(&text[split..])].concat();
                let mut reader = reader(file, 0, true);
                let first = reader.next().unwrap().unwrap();
                assert_eq!(first.begins && first.ends, fits, "{length} {split}");
                assert!(line(length).starts_with(first.bytes));
            }
        }
        let two = [gzip(mark), gzip(&[mark, b"{}\n\n", mark, b"{}"].concat())].concat();
        let lines = [(1, "\u{feff}{}".to_owned()), (3, "\u{feff}{}".to_owned())];
        assert_eq!(read(two, 0).0, lines, "there is one");
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let (lines, ended) = read(gzip(&vec![b'\n'; 1_000_000]), 0);
        assert!(lines.is_empty());
        assert!(matches!(ended, Some(ReadError::TooLarge(100_000))), "{ended:?}");
    }

    #[test]
    fn a_file_that_is_cut_is_damaged_only_if_it_is_sure_that_all_of_it_came() {
        let whole = gzip("{\"a\":1}\n".repeat(500).as_bytes());
        let cut = whole[..whole.len() - 10].to_vec();
        let (_, ended) = read(cut.clone(), 0);
        assert!(matches!(ended, Some(ReadError::Damaged { .. })), "{ended:?}");
        let (_, ended) = read_with(&mut reader(cut, 0, false));
        assert!(matches!(ended, Some(ReadError::Broken(_))), "{ended:?}");
    }

    /// Lines that hardly shrink, and the same damaged in its middle.
    fn large() -> [Vec<u8>; 2] {
        let mut rng = fastrand::Rng::with_seed(7);
        let text: String =
            (0..9_000).map(|_| format!("{{\"a\":\"{:x}\"}}\n", rng.u128(..))).collect();
        let file = gzip(text.as_bytes());
        let middle = file.len() / 2;
        assert!(middle > BUFFER);
        let mut damaged = file.clone();
        damaged[middle..].iter_mut().for_each(|byte| *byte = rng.u8(..));
        [file, damaged]
    }

    #[test]
    fn lines_and_damage_are_the_same_however_the_bytes_come() {
        let twice = gzip(&large()[0]);
        for (file, damaged) in large().into_iter().zip([false, true]).chain([(twice, false)]) {
            let read = |piece| {
                let limits = Limits { line: 1_000, file: u64::MAX };
                let mut reader = Lines::new(limits, 0);
                let (mut lines, mut pieces) = (Vec::new(), file.chunks(piece));
                loop {
                    let (more, ended) = read_with(&mut reader);
                    lines.extend(more);
                    match (ended, pieces.next()) {
                        (Some(error), _) => return (lines, Some(error.to_string())),
                        (None, Some(piece)) => drop(reader.push(Bytes::copy_from_slice(piece))),
                        (None, None) => break,
                    }
                }
                reader.end(true);
                let (more, ended) = read_with(&mut reader);
                lines.extend(more);
                (lines, ended.map(|error| error.to_string()))
            };
            let whole = read(usize::MAX);
            assert_eq!(whole.1.is_some(), damaged, "{:?}", whole.1);
            assert!(whole.0.len() > 1_000);
            for piece in [1, 100, 4_096, 16_000] {
                assert_eq!(read(piece), whole, "pieces of {piece}");
            }
        }
    }
}
