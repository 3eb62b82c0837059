//! Observations as lines of JSON, and how they are read.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::pipeline::source::{Content, Format, Line, LineReader, Part, ReadError};
use crate::table::{EventId, EventIdHasher, Row, Table};

/// What stands before the time of the observation, with which each line ends.
const OBSERVED: &[u8] = br#","ObservedDateTime":""#;

/// How long that time is, with what ends the line: `2026-11-07T10:00:27.773Z"}`.
const TIME: usize = 26;

/// What a row that stands in for another has of it: whose it is, in which round, and what it is of.
const STAND_IN: [&str; 7] =
    ["AadTenantId", "ObservedDateTime", "Round", "DetectionId", "UserId", "GroupId", "MemberId"];

/// The longest id that a row which stands in for another has, in characters.
const LONGEST_ID: usize = 256;

/// The lines that a page is made of.
pub(super) struct Lines {
    /// What each line has.
    common: Vec<(&'static str, Value)>,
    /// When the next of them was observed,
    observed: DateTime<Utc>,
    /// since when of these one each.
    named: HashSet<String>,
    text: Vec<u8>,
    hash: EventIdHasher,
    pub(super) count: u64,
}

impl Lines {
    /// Lines of this tenant's objects, observed at this time.
    pub(super) fn new(tenant: &str, round: Option<&str>, observed: DateTime<Utc>) -> Self {
        let mut common = vec![("AadTenantId", json!(tenant))];
        common.extend(round.map(|round| ("Round", json!(round))));
        let (text, hash, named) = (Vec::new(), EventIdHasher::new(), HashSet::new());
        Self { common, observed, named, text, hash, count: 0 }
    }

    /// What follows is of the thing of this name. If something of it came before, it was observed later:
    /// the last word on it must be known as such.
    pub(super) fn of(&mut self, name: String) {
        if self.named.contains(&name) {
            self.observed += TimeDelta::milliseconds(1);
            self.named.clear();
        }
        self.named.insert(name);
    }

    /// When the last of them was observed.
    pub(super) fn observed(&self) -> DateTime<Utc> {
        self.observed
    }

    /// An observation as a line, without the time and so the same whenever it is read.
    pub(super) fn line(&self, kind: &str, columns: Map<String, Value>) -> Vec<u8> {
        // In the order of the names, in which nested ones are too.
        let mut sorted: BTreeMap<String, Value> = columns.into_iter().collect();
        sorted.retain(|_, value| !value.is_null());
        sorted.insert("RowKind".to_owned(), json!(kind));
        let common = self.common.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        sorted.extend(common);
        // Maps with keys of text and JSON values cannot fail.
        serde_json::to_vec(&sorted).unwrap_or_default()
    }

    /// Adds a line that [`Lines::line`] made.
    pub(super) fn put(&mut self, line: &[u8]) {
        self.hash.update(line);
        self.text.extend_from_slice(&line[..line.len() - 1]);
        self.text.extend_from_slice(OBSERVED);
        let observed = self.observed.to_rfc3339_opts(SecondsFormat::Millis, true);
        self.text.extend_from_slice(observed.as_bytes());
        self.text.extend_from_slice(b"\"}\n");
        self.count += 1;
    }

    /// Adds an observation.
    pub(super) fn add(&mut self, kind: &str, columns: Map<String, Value>) {
        let line = self.line(kind, columns);
        self.put(&line);
    }

    /// An object that cannot be read, such as one with half of a character, as a line that has it as it
    /// came: it goes into quarantine, where a batch file's line would.
    pub(super) fn unread(&self, kind: &str, id_column: &str, object: &RawValue) -> Vec<u8> {
        let id = (id_column.to_owned(), json!(id_of_unread(object)));
        let mut line = self.line(kind, [id].into_iter().collect());
        line.pop();
        line.extend_from_slice(br#","unread":"#);
        // Between values only: within a text they are escaped.
        line.extend(object.get().bytes().map(|byte| if byte < b' ' { b' ' } else { byte }));
        line.push(b'}');
        line
    }

    /// As the page's part, if there is any.
    pub(super) fn part(self, key: String) -> Vec<Part> {
        if self.count == 0 {
            return Vec::new();
        }
        let (size, etag) = (Some(self.text.len() as u64), Some(self.hash.finish().to_string()));
        // Without the room that it grew for.
        let text = self.text.into_boxed_slice();
        vec![Part { key, size, etag, content: Content::Here(text.into()), begun: None }]
    }
}

/// How the lines of one table are read.
#[derive(Debug)]
pub struct Observations {
    table: &'static Table,
    arrival: DateTime<Utc>,
}

impl Observations {
    /// Rows of this table, which arrive now.
    pub fn of(table: &'static Table, arrival: DateTime<Utc>) -> Arc<dyn Format> {
        Arc::new(Self { table, arrival })
    }
}

/// The id of an object that cannot be read whole.
pub(super) fn id_of_unread(object: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Identified {
        id: String,
    }
    serde_json::from_str(object.get()).map(|Identified { id }| id).unwrap_or_default()
}

/// The observation's id, which its time has no part in.
fn id_of(line: &[u8]) -> EventId {
    let place = line.len().checked_sub(OBSERVED.len() + TIME);
    match place.filter(|place| line[*place..].starts_with(OBSERVED)) {
        Some(place) => {
            let mut hash = EventIdHasher::new();
            hash.update(&line[..place]);
            hash.update(b"}");
            hash.finish()
        }
        None => EventId::of(line),
    }
}

impl Format for Observations {
    fn lines(&self, skip: u64) -> Box<dyn LineReader> {
        Box::new(Reader { text: Bytes::new(), line: Bytes::new(), number: 0, skip, all: None })
    }

    fn row(
        &self,
        line: &[u8],
        row: &mut Vec<u8>,
    ) -> (EventId, Result<Row, (&'static str, String)>) {
        let id = id_of(line);
        let written = self.table.write_row(line, id, self.arrival, row);
        (id, written.map_err(|reason| (reason.as_str(), reason.to_string())))
    }

    /// With whose object it is and in which round, so that readers know that they do not know it.
    fn stand_in(&self, line: &[u8], row: &mut Vec<u8>) -> bool {
        // The rest of it may be what cannot be read.
        let Ok(known) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(line) else {
            return false;
        };
        let text = |name| serde_json::from_str::<String>(known.get(name)?.get()).ok();
        let kept = STAND_IN.iter().filter_map(|name| Some((*name, text(*name)?)));
        let kept = kept.filter(|(_, text)| text.len() <= LONGEST_ID);
        let mut stands: Map<String, Value> =
            kept.map(|(name, text)| (name.to_owned(), json!(text))).collect();
        stands.insert("RowKind".to_owned(), json!("Quarantined"));
        let stands = Value::Object(stands).to_string();
        self.table.write_row(stands.as_bytes(), id_of(line), self.arrival, row).is_ok()
    }
}

/// Reads lines that end with `\n`. None is longer than a reply may be.
struct Reader {
    text: Bytes,
    /// The line in hand.
    line: Bytes,
    number: u64,
    skip: u64,
    /// Nothing follows; whether that is sure to be all.
    all: Option<bool>,
}

impl LineReader for Reader {
    fn push(&mut self, bytes: Bytes) -> bool {
        let is_enough = memchr(b'\n', &bytes).is_some();
        // A reply comes in one piece, which is not copied: it is the largest thing that is held.
        self.text = match self.text.is_empty() {
            true => bytes,
            false => [&*self.text, &*bytes].concat().into(),
        };
        is_enough
    }

    fn end(&mut self, all: bool) {
        self.all = Some(all);
    }

    fn next(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        loop {
            let length = match (memchr(b'\n', &self.text), self.all) {
                (Some(length), _) => length,
                (None, Some(true)) if !self.text.is_empty() => self.text.len(),
                (None, Some(false)) if !self.text.is_empty() => {
                    let cut = io::Error::other("in the middle of a line");
                    return Err(ReadError::Broken(cut));
                }
                (None, _) => return Ok(None),
            };
            self.line = self.text.split_to(length);
            if !self.text.is_empty() {
                self.text.advance(1);
            }
            self.number += 1;
            if self.number > self.skip && !self.line.trim_ascii().is_empty() {
                let (number, bytes) = (self.number, &*self.line);
                return Ok(Some(Line { number, bytes, begins: true, ends: true }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::USERS;

    fn at(time: &str) -> DateTime<Utc> {
        time.parse().unwrap()
    }

    fn columns(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn user(observed: &str, name: &str) -> Lines {
        let mut lines = Lines::new("t", Some("2026-11-07T10:00:00.000Z"), at(observed));
        let user =
            json!({"UserId": "u", "DisplayName": name, "Mail": null, "zone": {"b": 1, "a": 2}});
        lines.add("User", columns(user));
        lines
    }

    #[test]
    fn an_observation_is_the_same_whenever_it_is_read() {
        let parts = [user("2026-11-07T10:00:27.773Z", "Ada"), user("2026-11-08T00:00:00Z", "Ada")]
            .map(|lines| lines.part("k".to_owned()).remove(0));
        assert_eq!(parts[0].etag, parts[1].etag);
        let texts = parts.map(|part| match part.content {
            Content::Here(bytes) => bytes,
            Content::At(_) => Bytes::new(),
        });
        assert_ne!(texts[0], texts[1]);
        let ids = texts.each_ref().map(|text| id_of(text.trim_ascii_end()));
        assert_eq!(ids[0], ids[1]);
        let expected = r#"{"AadTenantId":"t","DisplayName":"Ada","Round":"2026-11-07T10:00:00.000Z","RowKind":"User","UserId":"u","zone":{"a":2,"b":1}}"#;
        assert_eq!(ids[0], EventId::of(expected.as_bytes()));
        let other = user("2026-11-08T00:00:00Z", "Eve").part("k".to_owned()).remove(0);
        assert_ne!(other.etag, parts_etag(&texts[0]));
    }

    fn parts_etag(text: &Bytes) -> Option<String> {
        Some(id_of(text.trim_ascii_end()).to_string())
    }

    #[test]
    fn its_row_has_its_columns_and_what_stands_in_for_it_only_its_ids() {
        let part = user("2026-11-07T10:00:27.773Z", "Ada").part("k".to_owned()).remove(0);
        let Content::Here(text) = part.content else { unreachable!() };
        let line = text.trim_ascii_end();
        let format = Observations::of(&USERS, at("2026-11-07T11:00:00Z"));
        let mut row = Vec::new();
        let (id, made) = format.row(line, &mut row);
        made.unwrap();
        let id = id.to_string();
        assert_eq!(
            serde_json::from_slice::<Value>(&row).unwrap(),
            json!({
                "TimeGenerated": "2026-11-07T10:00:27.773Z", "EventId": id,
                "ObservedDateTime": "2026-11-07T10:00:27.773Z", "AadTenantId": "t",
                "RowKind": "User", "Round": "2026-11-07T10:00:00.000Z", "UserId": "u",
                "DisplayName": "Ada", "AdditionalFields": {"zone": {"a": 2, "b": 1}},
            })
        );
        row.clear();
        assert!(format.stand_in(line, &mut row));
        assert_eq!(
            serde_json::from_slice::<Value>(&row).unwrap(),
            json!({
                "TimeGenerated": "2026-11-07T10:00:27.773Z", "EventId": id,
                "ObservedDateTime": "2026-11-07T10:00:27.773Z", "AadTenantId": "t",
                "RowKind": "Quarantined", "Round": "2026-11-07T10:00:00.000Z", "UserId": "u",
            })
        );
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_come() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\n{\"c\":3}";
        for piece in 1..=text.len() {
            for skip in 0..4 {
                let mut reader = Observations::of(&USERS, at("2026-11-07T11:00:00Z")).lines(skip);
                let mut read = Vec::new();
                let mut take = |reader: &mut Box<dyn LineReader>| {
                    while let Some(line) = reader.next().unwrap() {
                        read.push((line.number, line.bytes.to_vec()));
                    }
                };
                for piece in text.chunks(piece) {
                    reader.push(Bytes::copy_from_slice(piece));
                    take(&mut reader);
                }
                reader.end(true);
                take(&mut reader);
                let all: [(u64, &[u8]); 3] =
                    [(1, b"{\"a\":1}"), (3, b"{\"b\":2}"), (4, b"{\"c\":3}")];
                let expected = all.into_iter().filter(|(number, _)| *number > skip);
                let expected: Vec<_> =
                    expected.map(|(number, line)| (number, line.to_vec())).collect();
                assert_eq!(read, expected, "pieces of {piece}, {skip} skipped");
            }
        }
        let mut reader = Observations::of(&USERS, at("2026-11-07T11:00:00Z")).lines(0);
        reader.push(Bytes::from_static(b"{\"a\""));
        reader.end(false);
        assert!(matches!(reader.next(), Err(ReadError::Broken(_))));
    }
}
