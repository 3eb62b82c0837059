//! How far a stream is, and the rules by which that moves.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};

/// The newest format that this build reads and writes.
const VERSION: u32 = 2;

/// The format of a checkpoint without [`Spill`], which older releases read too: so that one can be
/// installed again as long as nothing waits that it does not know of.
const WITHOUT_SPILL: u32 = 1;

/// What is held up where a body is refused whole.
const REFUSED: &str = "a body whose rows are all refused";

/// Where in a source a page begins: a JSON value that means something to its source alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub Value);

/// How much of a file is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    /// This many lines; 0 is the beginning.
    Line(u64),
    /// The whole file.
    End,
}

/// Identifies one content of a file among others under the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    /// The size that the listing gave, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The object's `ETag`, known once it has been opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// One file of the page in hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProgress {
    /// How much of it is settled.
    pub done: Position,
    /// Of which content that is true.
    #[serde(flatten)]
    pub version: FileVersion,
    /// Why it comes no further, if it cannot be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_up: Option<HeldUp>,
}

/// What is tried in vain, run after run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUp {
    /// When the first of these runs tried it.
    pub since: DateTime<Utc>,
    /// How many runs in a row tried it.
    pub runs: u32,
    /// What the last one got, for a person. (Releases before this one do not write it.)
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said: String,
    /// Whether it is to be passed at the next try, since somebody said so or it took too long.
    #[serde(default, skip_serializing_if = "is_false")]
    pub passes: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(value: &bool) -> bool {
    !value
}

impl HeldUp {
    /// Counts a run that tried it in vain at `now`.
    pub fn again(before: Option<Self>, now: DateTime<Utc>, said: String) -> Self {
        let first = || Self { since: now, runs: 0, said: String::new(), passes: false };
        let before = before.unwrap_or_else(first);
        // A clock that was ahead must not hold it up until it is that late.
        let since = before.since.min(now);
        Self { since, runs: before.runs.saturating_add(1), said, ..before }
    }

    /// Whether it was tried for so long and in so many runs by now, or is to be passed anyway.
    pub fn is_due(&self, now: DateTime<Utc>, (after, runs): (TimeDelta, u32)) -> bool {
        self.passes || (self.runs >= runs && now - self.since >= after)
    }

    /// So long after it was tried first. What is stored may be any time, and that may be none.
    pub fn due_at(&self, after: TimeDelta) -> Option<DateTime<Utc>> {
        self.since.checked_add_signed(after)
    }
}

/// Files that were kept whole while the destination was down, and wait to be delivered.
///
/// They are numbered. Between the one that the cursor means and `next` they all wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spill {
    /// The first that waits: [`Cursor::of_spilled`].
    pub cursor: Cursor,
    /// Progress in those that are being delivered, by key.
    #[serde(default)]
    pub files: BTreeMap<String, FileProgress>,
    /// The number of the next that is kept.
    pub next: u64,
}

impl Spill {
    /// Those numbered from `first` to before `next`.
    pub fn new(first: u64, next: u64) -> Self {
        Self { cursor: Cursor::of_spilled(first), files: BTreeMap::new(), next }
    }
}

impl Cursor {
    /// The place of a file in spill.
    pub fn of_spilled(number: u64) -> Self {
        Self(json!({ "spilled": number }))
    }

    /// Which file in spill it means, if it means one.
    pub fn spilled(&self) -> Option<u64> {
        self.0.get("spilled")?.as_u64()
    }
}

/// A step of progress in one file: from where it is expected to be, to where it is then.
///
/// | recorded | delta | outcome |
/// |---|---|---|
/// | nothing | (0, b] | b |
/// | a | (a, b] | b |
/// | a | (x, b], x ≠ a | refused, nothing changes: lines would be counted twice, or passed over |
/// | a of another version | (0, b] | b of the new version |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The file's key.
    pub file: String,
    /// The content it was read from.
    pub version: FileVersion,
    /// Where progress must stand.
    pub from: Position,
    /// Where it stands then.
    pub to: Position,
}

/// Counts since the checkpoint was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Pages finished.
    pub pages: u64,
    /// Batch files finished.
    pub files: u64,
    /// Rows that Azure accepted.
    pub rows_delivered: u64,
    /// Rows and lines in quarantine that were not delivered.
    pub rows_quarantined: u64,
}

/// What was quarantined and no log has reported yet: a run that is killed leaves it to the next
/// one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreported {
    /// Rows and lines that were not delivered.
    pub rows_quarantined: u64,
    /// Rows delivered of which Azure cuts a column.
    pub rows_truncated: u64,
}

impl Unreported {
    /// Whether there is nothing to report.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A stream's progress, as it is stored in `checkpoints/<stream>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    version: u32,
    /// Whose events these are: the progress of one source means nothing to another.
    pub owner: BTreeMap<String, String>,
    /// Where the rows went last. It may change.
    pub destination: String,
    /// The page in hand; `None` until the first one was listed.
    pub cursor: Option<Cursor>,
    /// The day from which the source had events to give, once known.
    pub backfill_from: Option<NaiveDate>,
    /// Progress in the files of the page in hand, by key.
    pub files: BTreeMap<String, FileProgress>,
    /// The file at which the last run ran out of time, and how far it was then; `the listing` if it
    /// got to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_time_at: Option<(String, Position)>,
    /// The body in hand, every row of which the sink refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<HeldUp>,
    /// Whether such a body was passed, and none accepted since: if the next is refused whole too, it is
    /// the destination.
    #[serde(default, skip_serializing_if = "is_false")]
    pub passed_body: bool,
    /// The destination, which has accepted nothing since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_down: Option<HeldUp>,
    /// What waits until the destination works again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<Spill>,
    /// Whether `cursor` and `files` are those of `spill` for now, and the source's are there.
    #[serde(skip)]
    in_spill: bool,
    /// The time of the newest event that was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_event: Option<DateTime<Utc>>,
    /// Counts since the beginning.
    pub totals: Totals,
    /// What no log has reported yet.
    #[serde(rename = "untold", default, skip_serializing_if = "Unreported::is_nothing")]
    pub unreported: Unreported,
    /// When it was written.
    pub updated_at: DateTime<Utc>,
}

/// Why a checkpoint or a step of it is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CheckpointError {
    /// Written by a newer release.
    #[error("has version {found}; this release knows up to {VERSION}")]
    Newer {
        /// Its version.
        found: u32,
    },
    /// Not a checkpoint.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// A [`Delta`] that does not begin where progress stands.
    #[error("progress of {file} stands at {at}, not at {expected}")]
    Overlap {
        /// The file.
        file: String,
        /// Where progress stands.
        at: Position,
        /// Where the delta begins.
        expected: Position,
    },
}

impl Position {
    /// How many lines that is, unless it is the whole file: then 0.
    pub fn lines(self) -> u64 {
        match self {
            Self::Line(line) => line,
            Self::End => 0,
        }
    }
}

impl Default for Position {
    fn default() -> Self {
        Self::Line(0)
    }
}

impl Checkpoint {
    /// The checkpoint of a stream that begins.
    pub fn new(owner: BTreeMap<String, String>, destination: String) -> Self {
        Self {
            version: WITHOUT_SPILL,
            owner,
            destination,
            cursor: None,
            backfill_from: None,
            files: BTreeMap::new(),
            out_of_time_at: None,
            refused: None,
            passed_body: false,
            destination_down: None,
            spill: None,
            in_spill: false,
            newest_event: None,
            totals: Totals::default(),
            unreported: Unreported::default(),
            updated_at: DateTime::UNIX_EPOCH,
        }
    }

    /// Reads a stored one.
    pub fn parse(bytes: &[u8]) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Header {
            version: u32,
        }
        let unreadable = |error: serde_json::Error| CheckpointError::Unreadable(error.to_string());
        let Header { version: found } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if found > VERSION {
            return Err(CheckpointError::Newer { found });
        }
        let read: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        let is_new = read.cursor.is_none() && read.spill.is_none();
        if is_new && (read.totals != Totals::default() || !read.files.is_empty()) {
            let why = "it has progress, but no cursor".to_owned();
            return Err(CheckpointError::Unreadable(why));
        }
        // Which one it was matters no longer: what the next one holds decides how it is written.
        Ok(Self { version: WITHOUT_SPILL, ..read })
    }

    /// The bytes to store: JSON that a person can read.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut stored = self.clone();
        stored.turn_to_source();
        stored.version = if stored.spill.is_some() { VERSION } else { WITHOUT_SPILL };
        // Strings, numbers and maps with string keys: nothing in it can fail to serialise.
        let mut bytes = serde_json::to_vec_pretty(&stored).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Takes one step, or refuses it and stays as it was. The table stands at [`Delta`].
    pub fn apply(&mut self, delta: &Delta) -> Result<(), CheckpointError> {
        let at = match self.files.get(&delta.file) {
            Some(progress) if progress.version == delta.version => progress.done,
            _ => Position::Line(0),
        };
        if delta.from != at || delta.to < delta.from || at == Position::End {
            return Err(CheckpointError::Overlap {
                file: delta.file.clone(),
                at,
                expected: delta.from,
            });
        }
        let version = delta.version.clone();
        let progress = FileProgress { done: delta.to, version, held_up: None };
        self.files.insert(delta.file.clone(), progress);
        self.out_of_time_at = None;
        self.refused = None;
        Ok(())
    }

    /// Whether a file of the page in hand was begun and not finished.
    pub fn has_half_read(&self) -> bool {
        self.files.values().any(|progress| progress.done < Position::End)
    }

    /// A file of the page in hand cannot be had: it is held up so.
    pub fn hold(&mut self, key: String, version: FileVersion, held_up: HeldUp) {
        let file = self.files.entry(key).or_default();
        if file.version != version {
            *file = FileProgress { version, ..FileProgress::default() };
        }
        if file.done != Position::End {
            file.held_up = Some(held_up);
        }
    }

    /// What holds the stream up and can be passed, each with its name for a person.
    pub fn held_up(&self) -> Vec<(String, HeldUp)> {
        let in_spill = self.spill.iter().flat_map(|spill| &spill.files);
        let files = self.files.iter().chain(in_spill).filter_map(|(key, file)| {
            file.held_up.as_ref().map(|held_up| (format!("file {key}"), held_up.clone()))
        });
        let refused = self.refused.iter().map(|refused| (REFUSED.to_owned(), refused.clone()));
        files.chain(refused).collect()
    }

    /// Passes what holds the stream up at its next try.
    pub fn skip(&mut self) {
        let in_spill = self.spill.iter_mut().flat_map(|spill| spill.files.values_mut());
        let files = self.files.values_mut().chain(in_spill);
        let files = files.filter_map(|file| file.held_up.as_mut());
        files.chain(&mut self.refused).for_each(|held_up| held_up.passes = true);
    }

    /// How many files wait in spill.
    pub fn files_waiting(&self) -> u64 {
        let Some(spill) = &self.spill else { return 0 };
        let cursor = if self.in_spill { self.cursor.as_ref() } else { Some(&spill.cursor) };
        spill.next.saturating_sub(cursor.and_then(Cursor::spilled).unwrap_or(0))
    }

    /// From now on, `cursor` and `files` are those of the files that wait in spill. False if none does.
    pub fn turn_to_spill(&mut self) -> bool {
        let waits = self.files_waiting() > 0;
        if waits && !self.in_spill {
            self.turn();
        }
        waits
    }

    /// From now on, `cursor` and `files` are the source's again.
    pub fn turn_to_source(&mut self) {
        if self.in_spill {
            self.turn();
        }
    }

    /// Whether `cursor` and `files` are those of the files that wait in spill.
    pub fn is_in_spill(&self) -> bool {
        self.in_spill
    }

    fn turn(&mut self) {
        let Some(spill) = &mut self.spill else { return };
        let (cursor, files) = (self.cursor.take(), std::mem::take(&mut self.files));
        // What the source's page was is none until the first one was listed.
        let parked = std::mem::replace(&mut spill.cursor, cursor.unwrap_or_default());
        self.cursor = Some(parked).filter(|cursor| *cursor != Cursor::default());
        self.files = std::mem::replace(&mut spill.files, files);
        self.in_spill = !self.in_spill;
    }

    /// Goes on to the next page: the files of the old one are finished.
    pub fn advance(&mut self, next: Cursor) {
        self.cursor = Some(next);
        self.files.clear();
        self.out_of_time_at = None;
        self.refused = None;
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::End => f.write_str("the end"),
        }
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Line(line) => serializer.serialize_u64(*line),
            Self::End => serializer.serialize_str("end"),
        }
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Position;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of lines or \"end\"")
            }

            fn visit_u64<E: de::Error>(self, line: u64) -> Result<Position, E> {
                Ok(Position::Line(line))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Position, E> {
                match word {
                    "end" => Ok(Position::End),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checkpoint() -> Checkpoint {
        let owner = BTreeMap::from([("client_id".to_owned(), "abc".to_owned())]);
        Checkpoint { cursor: Some(cursor("t")), ..Checkpoint::new(owner, "rule".to_owned()) }
    }

    fn cursor(token: &str) -> Cursor {
        Cursor(json!({ "token": token }))
    }

    fn version(size: u64, etag: &str) -> FileVersion {
        FileVersion { size: Some(size), etag: Some(etag.to_owned()) }
    }

    fn delta(from: Position, to: Position) -> Delta {
        Delta { file: "f".to_owned(), version: version(9, "v1"), from, to }
    }

    #[test]
    fn progress_moves_only_from_where_it_stands() {
        use Position::{End, Line};
        // (steps, whether the last one is taken, where progress stands then)
        type Steps = &'static [(Position, Position)];
        let cases: [(Steps, bool, Position); 10] = [
            (&[(Line(0), Line(0))], true, Line(0)),
            (&[(Line(0), Line(3))], true, Line(3)),
            (&[(Line(0), Line(3)), (Line(3), Line(7))], true, Line(7)),
            (&[(Line(0), Line(3)), (Line(3), End)], true, End),
            (&[(Line(0), End)], true, End),
            (&[(Line(0), Line(3)), (Line(2), Line(7))], false, Line(3)),
            (&[(Line(0), Line(3)), (Line(4), Line(7))], false, Line(3)),
            (&[(Line(0), Line(3)), (Line(3), Line(2))], false, Line(3)),
            (&[(Line(0), End), (End, End)], false, End),
            (&[(Line(0), End), (Line(0), Line(1))], false, End),
        ];
        for (steps, taken, at) in cases {
            let mut checkpoint = checkpoint();
            let mut last = Ok(());
            for (from, to) in steps {
                last = checkpoint.apply(&delta(*from, *to));
            }
            assert_eq!(last.is_ok(), taken, "{steps:?}");
            assert_eq!(checkpoint.files["f"].done, at, "{steps:?}");
        }
    }

    #[test]
    fn another_content_of_the_same_file_starts_at_its_first_line() {
        let mut checkpoint = checkpoint();
        checkpoint.apply(&delta(Position::Line(0), Position::End)).unwrap();
        let mut other = delta(Position::Line(3), Position::Line(5));
        other.version = version(9, "v2");
        let refused = checkpoint.apply(&other).unwrap_err().to_string();
        assert_eq!(refused, "progress of f stands at line 0, not at line 3");
        other.from = Position::Line(0);
        checkpoint.apply(&other).unwrap();
        assert_eq!(checkpoint.files["f"].done, Position::Line(5));
    }

    #[test]
    fn a_page_is_half_read_until_its_files_are_at_their_end() {
        let mut checkpoint = checkpoint();
        assert!(!checkpoint.has_half_read());
        checkpoint.apply(&delta(Position::Line(0), Position::End)).unwrap();
        assert!(!checkpoint.has_half_read());
        let other = Delta { file: "g".to_owned(), ..delta(Position::Line(0), Position::Line(3)) };
        checkpoint.apply(&other).unwrap();
        assert!(checkpoint.has_half_read());
        checkpoint.out_of_time_at = Some(("g".to_owned(), Position::Line(3)));

        checkpoint.advance(cursor("next"));
        let (owner, destination) = (checkpoint.owner.clone(), checkpoint.destination.clone());
        let next = Checkpoint::new(owner, destination);
        let next = Checkpoint { cursor: Some(cursor("next")), ..next };
        assert_eq!(checkpoint, next, "nothing of the last page is left");
    }

    #[test]
    fn a_stored_checkpoint_reads_back_and_a_newer_one_is_refused() {
        let mut checkpoint = checkpoint();
        checkpoint.apply(&delta(Position::Line(0), Position::Line(12))).unwrap();
        checkpoint.out_of_time_at = Some(("f".to_owned(), Position::Line(12)));
        let of_another = Delta { file: "g".to_owned(), ..delta(Position::Line(0), Position::End) };
        checkpoint.apply(&of_another).unwrap();
        let bytes = checkpoint.to_bytes();
        assert_eq!(Checkpoint::parse(&bytes).as_ref(), Ok(&checkpoint));

        let without = r#"{"version":1,"owner":{},"destination":"","cursor":{"token":"t"},
            "backfill_from":null,"files":{},"updated_at":"2026-11-22T00:00:00Z","totals":
            {"pages":0,"files":0,"rows_delivered":0,"rows_quarantined":7}}"#;
        let old = Checkpoint::parse(without.as_bytes()).unwrap();
        assert!(
            old.unreported.is_nothing(),
            "what an older release reported is not reported again"
        );
        assert_eq!(old.cursor, Some(cursor("t")));

        let text = String::from_utf8(bytes).unwrap();
        let with_version = |n| text.replace("\"version\": 1", &format!("\"version\": {n}"));
        assert_eq!(
            Checkpoint::parse(with_version(0).as_bytes()),
            Ok(checkpoint),
            "written again as 1"
        );
        let error = Checkpoint::parse(with_version(3).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "has version 3; this release knows up to 2");
        assert!(matches!(Checkpoint::parse(b"{}"), Err(CheckpointError::Unreadable(_))));
    }

    /// Whatever is in hand, what is stored has the source's place and that of spill.
    #[test]
    fn the_places_of_source_and_spill_are_stored_beside_one_another() {
        for source in [Some(cursor("t")), None] {
            let mut checkpoint = Checkpoint { cursor: source.clone(), ..checkpoint() };
            if source.is_some() {
                checkpoint.apply(&delta(Position::Line(0), Position::Line(3))).unwrap();
            }
            assert!(!checkpoint.turn_to_spill(), "nothing waits");
            let version = |checkpoint: &Checkpoint| {
                let stored: Value = serde_json::from_slice(&checkpoint.to_bytes()).unwrap();
                stored["version"].as_u64()
            };
            assert_eq!(version(&checkpoint), Some(1), "older releases read it");
            checkpoint.spill = Some(Spill::new(3, 5));
            assert_eq!(version(&checkpoint), Some(2), "they would not know what waits");
            assert!(checkpoint.turn_to_spill());
            assert_eq!(checkpoint.cursor, Some(Cursor::of_spilled(3)));
            assert_eq!(checkpoint.files.len(), 0);
            let of_spill =
                Delta { file: "s".to_owned(), ..delta(Position::Line(0), Position::End) };
            checkpoint.apply(&of_spill).unwrap();
            assert_eq!(checkpoint.files_waiting(), 2);

            let mut read = Checkpoint::parse(&checkpoint.to_bytes()).unwrap();
            assert_eq!((&read.cursor, read.files.contains_key("f")), (&source, source.is_some()));
            assert_eq!(read.files_waiting(), 2);
            assert!(read.turn_to_spill());
            assert_eq!(read, checkpoint);
            checkpoint.advance(Cursor::of_spilled(5));
            assert_eq!(checkpoint.files_waiting(), 0);
            checkpoint.turn_to_source();
            assert_eq!(checkpoint.cursor, source);
            assert!(!checkpoint.turn_to_spill());
        }
    }

    #[test]
    fn what_is_held_up_is_counted_until_it_moves() {
        let at = |hour: i64| DateTime::from_timestamp(hour * 3_600, 0).unwrap();
        let mut checkpoint = checkpoint();
        let again = |before, hour, said: &str| HeldUp::again(before, at(hour), said.to_owned());
        let first = again(None, 1, "403");
        let second = again(Some(first), 2, "404");
        assert_eq!((second.since, second.runs, &*second.said), (at(1), 2, "404"));
        let set_back = again(Some(again(None, 9_000, "403")), 3, "403");
        assert_eq!((set_back.since, set_back.runs), (at(3), 2), "the clock was wrong before");
        checkpoint.apply(&delta(Position::Line(0), Position::Line(3))).unwrap();
        checkpoint.files.get_mut("f").unwrap().held_up = Some(second.clone());
        checkpoint.refused = Some(second);
        let stored = Checkpoint::parse(&checkpoint.to_bytes()).unwrap();
        assert_eq!(stored, checkpoint);
        checkpoint.apply(&delta(Position::Line(3), Position::Line(4))).unwrap();
        assert_eq!((&checkpoint.files["f"].held_up, &checkpoint.refused), (&None, &None));

        let older = r#"{"since": "2026-11-22T00:00:00Z", "runs": 3}"#;
        assert_eq!(serde_json::from_str::<HeldUp>(older).unwrap().runs, 3);
    }

    #[test]
    fn a_position_that_is_none_is_reported() {
        for (done, said) in [("true", "boolean `true`"), ("\"ende\"", "string \"ende\"")] {
            let bytes = String::from_utf8(checkpoint().to_bytes()).unwrap();
            let bytes = bytes
                .replace("\"files\": {}", &format!("\"files\": {{\"f\": {{\"done\": {done}}}}}"));
            let error = Checkpoint::parse(bytes.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(error.contains("expected a number of lines or \"end\""), "{error}");
        }
    }
}
