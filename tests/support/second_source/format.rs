//! Plain NDJSON.

use std::io;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use mimecast_sentinel::pipeline::source::{Format, Line, LineReader, ReadError};
use mimecast_sentinel::table::{EventId, Row, Table};
use serde_json::{Map, Value};

pub struct Ndjson {
    pub table: &'static Table,
    /// The time of every row, since events have none.
    pub arrival: DateTime<Utc>,
}

impl Format for Ndjson {
    fn lines(&self, skip: u64) -> Box<dyn LineReader> {
        Box::new(Lines { text: Vec::new(), read: 0, number: 0, skip, ended: None })
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
}

/// The same event comes with another `sent` each time.
fn id_of(line: &[u8]) -> EventId {
    match serde_json::from_slice::<Map<String, Value>>(line) {
        Ok(mut event) => {
            event.remove("sent");
            EventId::of(Value::Object(event).to_string().as_bytes())
        }
        Err(_) => EventId::of(line),
    }
}

struct Lines {
    text: Vec<u8>,
    /// How much of it.
    read: usize,
    number: u64,
    skip: u64,
    /// Nothing follows; whether that is sure to be all.
    ended: Option<bool>,
}

impl LineReader for Lines {
    fn push(&mut self, bytes: Bytes) -> bool {
        self.text.drain(..std::mem::take(&mut self.read));
        self.text.extend_from_slice(&bytes);
        bytes.contains(&b'\n')
    }

    fn end(&mut self, all: bool) {
        self.ended = Some(all);
    }

    fn next(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        loop {
            let begin = self.read;
            let rest = &self.text[begin..];
            let length = match (rest.iter().position(|byte| *byte == b'\n'), self.ended) {
                (Some(length), _) => length,
                (None, Some(true)) if !rest.is_empty() => rest.len(),
                (None, Some(false)) if !rest.is_empty() => {
                    return Err(ReadError::Broken(io::Error::other("in the middle of a line")));
                }
                (None, _) => return Ok(None),
            };
            self.read = (begin + length + 1).min(self.text.len());
            self.number += 1;
            let blank = rest[..length].trim_ascii().is_empty();
            if !blank && self.number > self.skip {
                let bytes = &self.text[begin..begin + length];
                return Ok(Some(Line { number: self.number, bytes, begins: true, ends: true }));
            }
        }
    }
}
