//! How far a stream is, and the rules by which that moves.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// The format that this build writes. It reads this one and older ones.
const VERSION: u32 = 1;

/// Where in a source a page begins: a JSON value that means something to its source alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// Runs in a row that came no further, since the sink refused every row of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// When the first of them ended.
    pub since: DateTime<Utc>,
    /// How many they are.
    pub runs: u32,
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
    /// The runs that ended since the sink refused every row of the body in hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
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
            version: VERSION,
            owner,
            destination,
            cursor: None,
            backfill_from: None,
            files: BTreeMap::new(),
            out_of_time_at: None,
            refused: None,
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
        if read.cursor.is_none() && (read.totals != Totals::default() || !read.files.is_empty()) {
            let why = "it has progress, but no cursor".to_owned();
            return Err(CheckpointError::Unreadable(why));
        }
        Ok(Self { version: VERSION, ..read })
    }

    /// The bytes to store: JSON that a person can read.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and maps with string keys: nothing in it can fail to serialise.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
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
        let progress = FileProgress { done: delta.to, version: delta.version.clone() };
        self.files.insert(delta.file.clone(), progress);
        self.out_of_time_at = None;
        self.refused = None;
        Ok(())
    }

    /// Whether a file of the page in hand was begun and not finished.
    pub fn has_half_read(&self) -> bool {
        self.files.values().any(|progress| progress.done < Position::End)
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
        let error = Checkpoint::parse(with_version(2).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "has version 2; this release knows up to 1");
        assert!(matches!(Checkpoint::parse(b"{}"), Err(CheckpointError::Unreadable(_))));
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
