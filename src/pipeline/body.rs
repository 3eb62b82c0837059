//! One request to the sink: rows, and what their acceptance means for progress.
//!
//! A body is deflated while it is filled, so that a row is held once, small. It holds the lines
//! that its rows were made of until it is settled: a row that is refused is quarantined from there,
//! whatever has become of its file.

use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::deflate::{COLLECTED, Deflater};
use super::pool::{Buffer, Pool};
use super::source::Line;
use crate::checkpoint::{Delta, FileVersion, Position};
use crate::quarantine::{FilePosition, Kept, Rejection};
use crate::table::{EventId, MAX_COLUMN_BYTES, Row};

/// The most a body may hold, uncompressed, brackets and commas counted: 1 MB in the Logs Ingestion
/// API's limits, taken as the smaller of its two readings.
pub const MAX_BODY_BYTES: usize = 1_000_000;

/// Rejected lines of this many bytes close a body, so that they do not pile up in memory.
const MAX_REJECTED_BYTES: usize = MAX_BODY_BYTES / 4;

/// So many bytes of lines close a body, however short their rows (white space and nulls are not in
/// the row), since they are held. Other lines are shorter than their rows, and never get there.
const MAX_BYTES_OF_LINES: usize = 2 * MAX_BODY_BYTES;

/// A full body on its way to the sink, and then what became of it.
#[derive(Debug)]
pub struct Body {
    /// The stream it belongs to.
    pub stream: String,
    /// The rows as a JSON array, gzip-encoded.
    pub gzip: Bytes,
    /// The rows, in order.
    pub rows: Buffer<BodyRow>,
    /// The lines that the rows were made of, one behind the other.
    lines: Bytes,
    /// Lines that did not become rows, and rows of which more must be kept; once it is settled, all
    /// that was put into quarantine.
    pub rejections: Vec<Rejection>,
    /// The progress that is made once all of it is settled, in order.
    pub spans: Vec<Span>,
    /// Its slots, once it is in flight. They are free again when it is recorded, not sooner: else a
    /// body that must be tried again would let the others run far ahead.
    pub(super) slots: Option<OwnedSemaphorePermit>,
}

/// One row of a body.
#[derive(Debug)]
pub struct BodyRow {
    /// The event's id.
    pub id: EventId,
    /// The event's time, in milliseconds since 1970.
    pub time_ms: Option<i64>,
    /// Which of the body's spans it belongs to.
    pub span: usize,
    /// Whether the sink accepted it.
    pub accepted: bool,
    line: u64,
    /// Where its JSON ends in the array, uncompressed.
    json_end: usize,
    /// Where its line ends among the body's lines.
    line_end: usize,
}

/// A piece of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The step of progress.
    pub delta: Delta,
    /// How many of its events are accepted or quarantined; at first, those that are rejected.
    pub settled: u64,
    /// At the end of a file: how many events the reader saw in this run.
    pub events_in_file: Option<u64>,
    /// Whether the file is kept in spill instead of being delivered.
    pub spilled: bool,
}

/// Fills bodies, across the files of one page.
#[derive(Debug, Default)]
pub struct BodyBuilder {
    stream: String,
    level: u32,
    pool: Pool,
    /// Made when it is first needed.
    deflater: Option<BufWriter<Deflater>>,
    /// Bytes of JSON so far, without the closing bracket.
    json_len: usize,
    rows: Buffer<BodyRow>,
    lines: Buffer<u8>,
    rejections: Vec<Rejection>,
    rejected_bytes: usize,
    spans: Vec<Span>,
    since: Option<Instant>,
}

impl BodyBuilder {
    /// A builder for bodies of `stream`, deflated at `level` (0 to 9).
    pub fn new(stream: &str, level: u32, pool: &Pool) -> Self {
        Self { stream: stream.to_owned(), level, pool: pool.clone(), ..Self::default() }
    }

    /// Whether a row of this many bytes still fits into this one.
    pub fn fits(&self, row_len: usize) -> bool {
        // A separator (or the opening bracket) before it, the closing bracket after it.
        self.json_len + 1 + row_len < MAX_BODY_BYTES
            && self.rejected_bytes < MAX_REJECTED_BYTES
            && self.lines.items.len() < MAX_BYTES_OF_LINES
    }

    /// Since when something waits in it.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// What follows comes from this file, from behind `from`.
    pub fn begin_file(&mut self, file: &str, version: &FileVersion, from: Position) {
        let delta = Delta { file: file.to_owned(), version: version.clone(), from, to: from };
        self.spans.push(Span { delta, settled: 0, events_in_file: None, spilled: false });
    }

    /// A line of the file in hand.
    pub fn place(&self, line: u64) -> FilePosition {
        let file = self.spans.last().map_or_else(String::new, |span| span.delta.file.clone());
        FilePosition { stream: self.stream.clone(), file, line }
    }

    /// Adds a line: the row that was made of it, which [`BodyBuilder::fits`], or the reason why there
    /// is none.
    pub fn put(
        &mut self,
        line: &Line<'_>,
        id: EventId,
        row: &[u8],
        made: Result<Row, (&'static str, String)>,
    ) -> io::Result<()> {
        let (reason, detail, delivered) = match made {
            // With its brackets it is larger than any body.
            Ok(_) if row.len() + 2 > MAX_BODY_BYTES => {
                let detail = format!("its row has {} bytes; a body holds 1000000", row.len());
                ("row-too-large", detail, false)
            }
            Ok(Row { event_time_ms, oversize }) => {
                self.put_row(line, id, row, event_time_ms)?;
                if oversize.is_empty() {
                    return Ok(());
                }
                let detail = format!("cut at {MAX_COLUMN_BYTES} bytes: {}", oversize.join(", "));
                ("oversize-field", detail, true)
            }
            Err((reason, detail)) => (reason, detail, false),
        };
        self.reject(Rejection {
            position: self.place(line.number),
            event_id: id.to_string(),
            reason,
            detail,
            delivered,
            kept: Kept::Line(Bytes::copy_from_slice(line.bytes)),
        });
        Ok(())
    }

    fn put_row(
        &mut self,
        line: &Line<'_>,
        id: EventId,
        row: &[u8],
        time_ms: Option<i64>,
    ) -> io::Result<()> {
        let first = self.rows.items.is_empty();
        if first {
            (self.rows, self.lines) = (self.pool.rows.take(), self.pool.lines.take());
        }
        let deflater = self.deflater();
        deflater.write_all(if first { b"[" } else { b"," })?;
        deflater.write_all(row)?;
        self.json_len += 1 + row.len();
        self.lines.items.extend_from_slice(line.bytes);
        self.rows.items.push(BodyRow {
            id,
            time_ms,
            line: line.number,
            span: self.spans.len().saturating_sub(1),
            accepted: false,
            json_end: self.json_len,
            line_end: self.lines.items.len(),
        });
        self.reach(Position::Line(line.number));
        Ok(())
    }

    /// Adds a line that goes to quarantine instead of, or beside, its row.
    pub fn reject(&mut self, rejection: Rejection) {
        self.rejected_bytes += rejection.size();
        if let Some(span) = self.reach(Position::Line(rejection.position.line)) {
            span.settled += u64::from(rejection.is_event() && !rejection.delivered);
        }
        self.rejections.push(rejection);
    }

    /// The file in hand is done with. If it was read to its end, so many `events` were in it in
    /// this run.
    pub fn end_file(&mut self, events: Option<u64>) {
        if let Some(span) = self.reach(Position::End) {
            span.events_in_file = events;
        }
    }

    /// The file in hand is kept in spill, whole.
    pub fn spill_file(&mut self) {
        if let Some(span) = self.reach(Position::End) {
            span.spilled = true;
        }
    }

    /// The body so far, if it holds anything; what follows goes on in the same file.
    pub fn take(&mut self) -> io::Result<Option<Body>> {
        let Some(last) = self.spans.last() else { return Ok(None) };
        let Delta { file, version, to, .. } = last.delta.clone();
        let end: &[u8] = if self.rows.items.is_empty() { b"[]" } else { b"]" };
        let deflater = self.deflater();
        deflater.write_all(end)?;
        deflater.flush()?;
        let gzip = deflater.get_mut().finish()?;
        let body = Body {
            stream: self.stream.clone(),
            gzip,
            rows: std::mem::take(&mut self.rows),
            lines: Bytes::from_owner(std::mem::take(&mut self.lines)),
            rejections: std::mem::take(&mut self.rejections),
            spans: std::mem::take(&mut self.spans),
            slots: None,
        };
        (self.json_len, self.rejected_bytes, self.since) = (0, 0, None);
        if to != Position::End {
            self.begin_file(&file, &version, to);
        }
        let moved = body.spans.iter().any(|span| span.delta.from != span.delta.to);
        Ok(moved.then_some(body))
    }

    fn deflater(&mut self) -> &mut BufWriter<Deflater> {
        let (level, buffers) = (self.level, &self.pool.gzip);
        let new = || BufWriter::with_capacity(COLLECTED, Deflater::new(level, buffers));
        self.deflater.get_or_insert_with(new)
    }

    /// The file in hand is settled up to `to` once this body is.
    fn reach(&mut self, to: Position) -> Option<&mut Span> {
        self.since.get_or_insert_with(Instant::now);
        let span = self.spans.last_mut()?;
        span.delta.to = to;
        Some(span)
    }
}

impl Body {
    /// Bytes of its gzip, its lines and its rejections, which are most of what it holds in memory.
    pub fn size(&self) -> usize {
        let rejected: usize = self.rejections.iter().map(Rejection::size).sum();
        self.gzip.len() + self.lines.len() + rejected
    }

    /// Frees the memory of its bytes and lines, once it is settled.
    pub fn free(&mut self) {
        (self.gzip, self.lines) = (Bytes::new(), Bytes::new());
    }

    /// The rows' JSON array, inflated again: for a body that must be split.
    pub fn json(&self) -> io::Result<Vec<u8>> {
        let mut json = Vec::new();
        GzDecoder::new(&self.gzip[..]).take(MAX_BODY_BYTES as u64).read_to_end(&mut json)?;
        Ok(json)
    }

    /// Some of the rows as a body's bytes of their own. `json` is what [`Body::json`] returned.
    pub fn part(&self, json: &[u8], rows: &Range<usize>) -> io::Result<Bytes> {
        let begin = rows.start.checked_sub(1).map_or(0, |before| self.rows.items[before].json_end);
        let end = self.rows.items[rows.end - 1].json_end;
        // Each row is preceded by one byte: the bracket or a comma.
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(b"[")?;
        gzip.write_all(&json[begin + 1..end])?;
        gzip.write_all(b"]")?;
        Ok(Bytes::from(gzip.finish()?))
    }

    /// Some of its rows are accepted or refused.
    pub(super) fn settle(&mut self, rows: Range<usize>, accepted: bool) {
        for row in &mut self.rows.items[rows] {
            row.accepted = accepted;
            self.spans[row.span].settled += 1;
        }
    }

    /// The rejection of one of its rows.
    pub fn reject(&self, row: usize, reason: &'static str, detail: &str) -> Rejection {
        let begin = row.checked_sub(1).map_or(0, |before| self.rows.items[before].line_end);
        let row = &self.rows.items[row];
        let file = self.spans[row.span].delta.file.clone();
        Rejection {
            position: FilePosition { stream: self.stream.clone(), file, line: row.line },
            event_id: row.id.to_string(),
            reason,
            detail: detail.to_owned(),
            delivered: false,
            kept: Kept::Line(self.lines.slice(begin..row.line_end)),
        }
    }
}

/// The rejection of what a file holds from a line on.
pub(super) fn rest(
    position: FilePosition,
    reason: &'static str,
    detail: String,
    kept: Kept,
) -> Rejection {
    Rejection { position, event_id: String::new(), reason, detail, delivered: false, kept }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::checkpoint::Checkpoint;

    /// A row of exactly `len` bytes that no other has.
    fn row(number: u64, len: usize) -> Vec<u8> {
        let head = format!("{{\"n\":{number},\"p\":\"");
        let pad = len.saturating_sub(head.len() + 2);
        format!("{head}{}\"}}", "x".repeat(pad)).into_bytes()
    }

    fn push(builder: &mut BodyBuilder, line: u64, row: &[u8]) {
        push_line(builder, line, row, b"");
    }

    fn push_line(builder: &mut BodyBuilder, number: u64, row: &[u8], bytes: &[u8]) {
        let id = EventId(u128::from(number).to_be_bytes());
        let line = Line { number, bytes, begins: true, ends: true };
        let made = Row { event_time_ms: Some(number as i64), oversize: Vec::new() };
        builder.put(&line, id, row, Ok(made)).unwrap();
    }

    fn rejection(builder: &BodyBuilder, line: u64, original: &[u8]) -> Rejection {
        Rejection {
            position: FilePosition {
                stream: "s".to_owned(),
                file: builder.spans.last().unwrap().delta.file.clone(),
                line,
            },
            event_id: "0".repeat(32),
            reason: "not-json",
            detail: String::new(),
            delivered: false,
            kept: Kept::Line(Bytes::copy_from_slice(original)),
        }
    }

    /// A builder with one file in hand.
    fn begun() -> BodyBuilder {
        let mut builder = BodyBuilder::new("s", 1, &Pool::new(16));
        builder.begin_file("f", &FileVersion::default(), Position::Line(0));
        builder
    }

    /// The rows of a body's bytes, each as it stands.
    fn rows_of(json: &[u8]) -> Vec<Vec<u8>> {
        let rows: Vec<&RawValue> = serde_json::from_slice(json).unwrap();
        rows.into_iter().map(|row| row.get().as_bytes().to_vec()).collect()
    }

    fn inflate(gzip: &[u8]) -> Vec<u8> {
        let mut json = Vec::new();
        GzDecoder::new(gzip).read_to_end(&mut json).unwrap();
        json
    }

    #[test]
    fn a_body_is_full_at_a_million_bytes() {
        // [ + 400,000 + , + 599,997 + ] = 1,000,000
        for (second, fits) in [(599_996, true), (599_997, true), (599_998, false)] {
            let mut builder = begun();
            push(&mut builder, 1, &row(1, 400_000));
            assert_eq!(builder.fits(second), fits, "{second}");
            if fits {
                push(&mut builder, 2, &row(2, second));
                let json = builder.take().unwrap().unwrap().json().unwrap();
                assert_eq!(json.len(), 400_003 + second);
                assert_eq!(rows_of(&json).len(), 2);
            }
        }
    }

    #[test]
    fn a_row_of_999_998_bytes_fills_a_body_and_one_more_fits_into_none() {
        for (len, fits) in [(999_998, true), (999_999, false), (usize::MAX / 2, false)] {
            assert_eq!(begun().fits(len), fits, "{len}");
        }
        let mut builder = begun();
        push(&mut builder, 1, &row(1, 999_998));
        assert!(!builder.fits(2));
        let body = builder.take().unwrap().unwrap();
        assert_eq!(body.json().unwrap().len(), MAX_BODY_BYTES);
        assert_eq!(inflate(&body.part(&body.json().unwrap(), &(0..1)).unwrap()).len(), 1_000_000);
        assert!(builder.fits(999_998), "the next one is empty");
        push(&mut builder, 2, &row(2, 999_999));
        let body = builder.take().unwrap().unwrap();
        assert_eq!((body.rows.items.len(), body.rejections[0].reason), (0, "row-too-large"));
    }

    #[test]
    fn a_quarter_of_a_million_rejected_bytes_close_a_body() {
        let mut builder = begun();
        push(&mut builder, 1, b"{}");
        let around = rejection(&builder, 2, b"").size();
        let long = vec![b'x'; 125_000 - around];
        for line in [2, 3] {
            assert!(builder.fits(2));
            let rejection = rejection(&builder, line, &long);
            builder.reject(rejection);
        }
        assert!(!builder.fits(2));
        let body = builder.take().unwrap().unwrap();
        assert_eq!((body.rows.items.len(), body.rejections.len()), (1, 2));
        assert!(builder.fits(2));
    }

    /// A line may be long and its row short: what is white space or null is not in the row.
    #[test]
    fn the_lines_of_a_body_stay_bounded() {
        let mut builder = begun();
        let original = &vec![b' '; 500_000];
        let pushed = (1..100).take_while(|&line| {
            let fits = builder.fits(2);
            if fits {
                push_line(&mut builder, line, b"{}", original);
            }
            fits
        });
        assert_eq!(pushed.count(), 4);
        builder.take().unwrap().unwrap();
        assert!(builder.fits(2));
    }

    #[test]
    fn what_holds_nothing_is_no_body() {
        let mut builder = BodyBuilder::new("s", 1, &Pool::new(16));
        assert!(builder.take().unwrap().is_none());
        builder.begin_file("f", &FileVersion::default(), Position::Line(7));
        assert!(builder.take().unwrap().is_none());
        assert_eq!(builder.since(), None);
        // The file is still in hand, at the same place.
        push(&mut builder, 8, b"{}");
        assert!(builder.since().is_some());
        let body = builder.take().unwrap().unwrap();
        assert_eq!(body.spans.len(), 1);
        assert_eq!(body.spans[0].delta.from, Position::Line(7));
    }

    #[test]
    fn an_empty_file_is_progress_without_rows() {
        let mut builder = begun();
        builder.end_file(Some(0));
        let body = builder.take().unwrap().unwrap();
        assert!(body.rows.items.is_empty());
        assert_eq!(body.json().unwrap(), b"[]");
        assert_eq!(body.spans[0].delta.to, Position::End);
        assert_eq!(body.spans[0].events_in_file, Some(0));
        assert!(builder.take().unwrap().is_none(), "no file is in hand any more");
    }

    /// Otherwise each run would look for it again.
    #[test]
    fn a_file_that_is_passed_is_at_its_end_and_no_event() {
        let mut builder = begun();
        let (event_id, kept) = (String::new(), Kept::Nothing);
        let whole = Rejection { event_id, kept, ..rejection(&builder, 1, b"") };
        builder.reject(whole);
        builder.end_file(None);
        let [span] = &builder.take().unwrap().unwrap().spans[..] else { panic!("one file") };
        assert_eq!((span.delta.to, span.events_in_file), (Position::End, None));
        assert_eq!(span.settled, 0);
    }

    /// One line of a file, with the size of its row, or its own.
    #[derive(Clone, Debug)]
    enum Made {
        Row(usize),
        Rejected(usize),
    }

    fn line() -> impl Strategy<Value = Made> {
        let size = prop_oneof![
            12 => 24_usize..400,
            3 => 20_000_usize..200_000,
            1 => 490_000_usize..510_000,
            1 => 999_900_usize..=999_998,
        ];
        prop_oneof![
            12 => size.prop_map(Made::Row),
            1 => (1_usize..400_000).prop_map(Made::Rejected),
        ]
    }

    /// Files of lines, and after which of them the body is taken since it has waited.
    fn files() -> impl Strategy<Value = Vec<Vec<(Made, bool)>>> {
        let line = (line(), prop::bool::weighted(0.05));
        prop::collection::vec(prop::collection::vec(line, 0..25), 1..6)
    }

    /// What went into the bodies.
    #[derive(Default)]
    struct Given {
        rows: Vec<Vec<u8>>,
        rejected: Vec<Vec<u8>>,
    }

    /// Fills bodies as the reading side does.
    fn fill(files: &[Vec<(Made, bool)>]) -> (Vec<Body>, Given) {
        let (mut bodies, mut given) = (Vec::new(), Given::default());
        let mut builder = BodyBuilder::new("s", 1, &Pool::new(16));
        for (number, lines) in files.iter().enumerate() {
            let version = FileVersion::default();
            builder.begin_file(&format!("f{number}"), &version, Position::Line(0));
            for ((line, due), at) in lines.iter().zip(1..) {
                let size = if let Made::Row(size) = line { *size } else { 0 };
                if *due || !builder.fits(size) {
                    bodies.extend(builder.take().unwrap());
                }
                let unique = given.rows.len() as u64;
                match line {
                    Made::Row(size) => {
                        let row = row(unique, *size);
                        push(&mut builder, at, &row);
                        given.rows.push(row);
                    }
                    Made::Rejected(size) => {
                        let original = vec![b'r'; *size];
                        let rejection = rejection(&builder, at, &original);
                        builder.reject(rejection);
                        given.rejected.push(original);
                    }
                }
            }
            builder.end_file(Some(lines.len() as u64));
        }
        bodies.extend(builder.take().unwrap());
        (bodies, given)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// What goes in comes out: in order, once, in bodies that Azure takes.
        #[test]
        fn rows_come_out_in_order_and_once(files in files()) {
            let (bodies, given) = fill(&files);
            let (mut rows, mut rejected) = (Vec::new(), Vec::new());
            for body in &bodies {
                let json = body.json().unwrap();
                prop_assert!(json.len() <= MAX_BODY_BYTES);
                prop_assert_eq!(inflate(&body.gzip), json.clone());
                let in_body = rows_of(&json);
                prop_assert_eq!(in_body.len(), body.rows.items.len());
                rows.extend(in_body);
                for row in 0..body.rows.items.len() {
                    let Rejection { position, .. } = body.reject(row, "", "");
                    prop_assert_eq!(&position.file, &body.spans[body.rows.items[row].span].delta.file);
                }
                for rejection in &body.rejections {
                    let Kept::Line(line) = &rejection.kept else { panic!("it has its line") };
                    rejected.push(line.to_vec());
                }
            }
            prop_assert!(rows == given.rows);
            prop_assert!(rejected == given.rejected);
        }

        /// The parts of a body are the body, however it is split.
        #[test]
        fn parts_hold_the_rows_of_their_range(files in files(), cut in any::<prop::sample::Index>()) {
            let (bodies, _) = fill(&files);
            for body in bodies.iter().filter(|body| !body.rows.items.is_empty()) {
                let json = body.json().unwrap();
                let cut = cut.index(body.rows.items.len());
                let mut rows = Vec::new();
                for part in [0..cut, cut..body.rows.items.len()].into_iter().filter(|p| !p.is_empty()) {
                    let part_json = inflate(&body.part(&json, &part).unwrap());
                    prop_assert!(part_json.len() <= json.len());
                    let in_part = rows_of(&part_json);
                    prop_assert_eq!(in_part.len(), part.len());
                    rows.extend(in_part);
                }
                prop_assert!(rows == rows_of(&json));
            }
        }

        /// Each body's steps follow on those of the body before, and account for every line.
        #[test]
        fn steps_of_progress_chain_without_gap_or_overlap(files in files()) {
            let (bodies, _) = fill(&files);
            let mut checkpoint = Checkpoint::new(BTreeMap::new(), String::new());
            let mut settled = vec![0; files.len()];
            for body in &bodies {
                for (number, span) in body.spans.iter().enumerate() {
                    prop_assert!(checkpoint.apply(&span.delta).is_ok(), "{:?}", span.delta);
                    let rows = body.rows.items.iter().filter(|row| row.span == number).count() as u64;
                    let file: usize = span.delta.file[1..].parse().unwrap();
                    settled[file] += rows + span.settled;
                    if let Some(events) = span.events_in_file {
                        prop_assert_eq!(span.delta.to, Position::End);
                        prop_assert_eq!(settled[file], events);
                    }
                }
            }
            prop_assert_eq!(checkpoint.files.len(), files.len());
            prop_assert!(checkpoint.files.values().all(|file| file.done == Position::End));
        }
    }

    #[test]
    fn short_bad_lines_close_a_body_too() {
        let mut builder = BodyBuilder::new("s", 1, &Pool::new(16));
        builder.begin_file("f", &FileVersion::default(), Position::Line(0));
        let mut lines = 0;
        while builder.fits(10) && lines < 5_000 {
            lines += 1;
            builder.reject(rejection(&builder, lines, b"x"));
        }
        assert!(lines < 5_000, "{lines} rejections are held in memory");
    }
}
