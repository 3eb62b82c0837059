//! What a run did: counted while it goes on, and reported at its end.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Run;
use super::fault::{Fault, Interrupt, busy};
use crate::checkpoint::{Checkpoint, HeldUp};

/// How a stream's run, or a whole run, ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There is nothing more for now.
    #[default]
    CaughtUp,
    /// The time was up; all that was read is delivered, the next run goes on.
    TimeLimit,
    /// Another connector has the lease.
    Busy,
    /// It could not go on.
    Failed,
    /// Of a whole run: some streams did their work, others did not.
    Partial,
}

/// A span of time for which events may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// From when.
    pub from: DateTime<Utc>,
    /// Until when.
    pub to: DateTime<Utc>,
}

/// What a stream's run did, or has done so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StreamSummary {
    /// The name of its source.
    pub source: &'static str,
    /// Its name.
    pub stream: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Pages finished.
    pub pages: u64,
    /// Batch files finished.
    pub files: u64,
    /// Lines read that are not blank.
    pub events_read: u64,
    /// Rows that the sink accepted.
    pub rows_delivered: u64,
    /// Events that are in quarantine instead.
    pub rows_quarantined: u64,
    /// Rows delivered of which Azure cuts a column.
    pub rows_truncated: u64,
    /// Bodies accepted.
    pub bodies: u64,
    /// Attempts after which nobody knows whether the rows were taken.
    pub ambiguous_posts: u64,
    /// Bytes of batch files, compressed.
    pub bytes_read: u64,
    /// Bytes of accepted bodies, compressed.
    pub bytes_sent: u64,
    /// The day from which the source had events to give.
    pub backfill_from: Option<NaiveDate>,
    /// What may be missing.
    pub gap: Option<Gap>,
    /// Finish less the newest delivered event's time, in seconds.
    pub lag_seconds: Option<i64>,
    /// The time of the newest event that was delivered, in milliseconds since 1970.
    #[serde(skip)]
    pub newest_ms: Option<i64>,
    /// Batch files that were kept whole, since the destination is down.
    pub files_spilled: u64,
    /// Batch files that wait in spill, of this run and others.
    pub files_waiting: u64,
    /// What keeps it from going on.
    pub held_up: Option<Hold>,
    /// Why it failed.
    pub error: Option<Fault>,
    /// Whether it had no checkpoint.
    #[serde(skip)]
    pub begins: bool,
}

/// What keeps a stream from going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// What it is, for a person.
    pub what: String,
    /// Since when it is tried.
    pub since: DateTime<Utc>,
    /// In how many runs.
    pub tries: u32,
    /// When it is passed, at the earliest. The destination never is.
    pub passed_at: Option<DateTime<Utc>>,
    /// The command that passes it at the next run.
    pub command: Option<String>,
}

/// A run that has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Its id: 32 hexadecimal digits.
    pub run_id: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
}

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    /// Its id: 32 hexadecimal digits.
    pub run_id: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// How it ended.
    pub outcome: Outcome,
    /// Where its checkpoints are.
    pub state_at: String,
    /// Whether no stream had one.
    pub first_run: bool,
    /// Its streams.
    pub streams: Vec<StreamSummary>,
}

/// A stream's summary while its run goes on, for a display of progress.
#[derive(Clone, Debug)]
pub struct Live(Arc<Mutex<StreamSummary>>);

impl Hold {
    /// What holds a stream up, by its checkpoint: the destination first, since nothing is delivered
    /// then, and else what waits longest. It is passed after `give_up_after`.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        stream: &str,
        give_up_after: TimeDelta,
    ) -> Option<Self> {
        let hold = |what, held_up: &HeldUp| {
            let HeldUp { since, runs: tries, .. } = *held_up;
            Self { what, since, tries, passed_at: None, command: None }
        };
        if let Some(down) = &checkpoint.destination_down {
            return Some(hold(format!("the destination: {}", checkpoint.destination), down));
        }
        let held_up = checkpoint.held_up();
        let (what, first) = held_up.iter().min_by_key(|(_, held_up)| held_up.since)?;
        let what = match held_up.len() - 1 {
            0 => what.clone(),
            others => format!("{what} and {others} more"),
        };
        let passed_at = first.due_at(give_up_after);
        let command = format!("mimecast-sentinel skip {stream}");
        Some(Self { passed_at, command: Some(command), ..hold(what, first) })
    }
}

impl Live {
    /// Of a run of a source's `stream` that has done nothing yet.
    pub fn new(source: &'static str, stream: &str) -> Self {
        let stream = stream.to_owned();
        let summary = StreamSummary { source, stream, ..StreamSummary::default() };
        Self(Arc::new(Mutex::new(summary)))
    }

    /// Reads it, or changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut StreamSummary) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Outcome {
    /// Whether the stream did what it should.
    pub fn is_done(self) -> bool {
        matches!(self, Self::CaughtUp | Self::TimeLimit)
    }

    /// The outcome of a stream that ended so, and its fault. Why it did not do its work, if it did
    /// not, is noted in `run`, which logs each failure once.
    pub(super) fn of_stream(
        run: &Run,
        stream: &'static str,
        ended: Result<Self, Interrupt>,
    ) -> (Self, Option<Fault>) {
        match ended {
            Err(Interrupt::OutOfTime) => (Self::TimeLimit, None),
            Err(Interrupt::Fault(fault) | Interrupt::Destination(fault)) => {
                run.note(stream, &fault);
                (Self::Failed, Some(*fault))
            }
            Ok(Self::Busy) => {
                run.note(stream, &busy());
                (Self::Busy, None)
            }
            Ok(outcome) => (outcome, None),
        }
    }

    /// The outcome of a run whose streams ended so.
    pub(super) fn of(streams: impl Iterator<Item = Self> + Clone) -> Self {
        let all = |outcome: &Self| streams.clone().all(|stream| stream == *outcome);
        if let Some(same) = [Self::CaughtUp, Self::Busy, Self::Failed].into_iter().find(all) {
            return same;
        }
        match (streams.clone().all(Self::is_done), streams.clone().any(Self::is_done)) {
            (true, _) => Self::TimeLimit,
            (false, true) => Self::Partial,
            (false, false) => Self::Failed,
        }
    }

    /// The exit code of a run with this outcome, whose streams had these faults: 0 done, 1 nothing
    /// could be done, 2 a setting is wrong, 3 some streams failed.
    pub(super) fn exit_code<'a>(self, faults: impl Iterator<Item = &'a Fault>) -> u8 {
        let mut settings = faults.map(|fault| fault.settings).peekable();
        match self {
            Self::CaughtUp | Self::TimeLimit => 0,
            Self::Partial => 3,
            Self::Failed if settings.peek().is_some() && settings.all(|is_one| is_one) => 2,
            Self::Failed | Self::Busy => 1,
        }
    }
}

impl RunSummary {
    /// Puts the streams' summaries together.
    pub fn new(
        begun: Begun,
        finished_at: DateTime<Utc>,
        state_at: String,
        streams: Vec<StreamSummary>,
    ) -> Self {
        let Begun { run_id, started_at } = begun;
        let outcome = Outcome::of(streams.iter().map(|stream| stream.outcome));
        let first_run = streams.iter().all(|stream| stream.begins);
        Self { run_id, started_at, finished_at, outcome, state_at, first_run, streams }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        Self::exit_code_of(std::slice::from_ref(self))
    }

    /// That of a process that made all of these.
    pub fn exit_code_of(runs: &[Self]) -> u8 {
        let streams = runs.iter().flat_map(|run| &run.streams);
        let outcome = Outcome::of(streams.clone().map(|stream| stream.outcome));
        outcome.exit_code(streams.filter_map(|stream| stream.error.as_ref()))
    }

    /// The sum of one of the counts over the streams.
    pub fn total(&self, count: impl Fn(&StreamSummary) -> u64) -> u64 {
        self.streams.iter().map(count).sum()
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::{Value, json};

    use super::*;
    use crate::codes::Code;

    /// How a stream ended.
    #[derive(Clone, Copy, Debug)]
    enum End {
        Done,
        Time,
        Busy,
        Failed,
        Settings,
    }

    fn stream(end: End) -> StreamSummary {
        let (outcome, error) = match end {
            End::Done => (Outcome::CaughtUp, None),
            End::Time => (Outcome::TimeLimit, None),
            End::Busy => (Outcome::Busy, None),
            End::Failed => {
                (Outcome::Failed, Some(Fault::passing(Code::StoreFailed, "It broke", "fix it")))
            }
            End::Settings => {
                (Outcome::Failed, Some(Fault::settings(Code::StoreRefused, "No", "set it")))
            }
        };
        StreamSummary {
            newest_ms: None,
            source: "cloud-integrated",
            stream: "mailflow".to_owned(),
            outcome,
            pages: 1,
            files: 2,
            events_read: 3,
            rows_delivered: 4,
            rows_quarantined: 5,
            rows_truncated: 6,
            bodies: 7,
            ambiguous_posts: 8,
            bytes_read: 9,
            bytes_sent: 10,
            backfill_from: None,
            gap: None,
            lag_seconds: None,
            files_spilled: 11,
            files_waiting: 12,
            held_up: None,
            error,
            begins: false,
        }
    }

    fn summary(streams: Vec<StreamSummary>) -> RunSummary {
        let at = DateTime::from_timestamp(1_794_268_800, 0).unwrap();
        let end = at + TimeDelta::milliseconds(1_500);
        let begun = Begun { run_id: "0f".repeat(16), started_at: at };
        RunSummary::new(begun, end, "./state".to_owned(), streams)
    }

    #[test]
    fn a_run_ends_as_its_streams_do() {
        use End::{Busy, Done, Failed, Settings, Time};
        use Outcome::{CaughtUp, Partial, TimeLimit};
        let cases: [(&[End], Outcome, u8); 18] = [
            (&[Done, Done, Done], CaughtUp, 0),
            (&[Time, Time, Time], TimeLimit, 0),
            (&[Done, Time, Done], TimeLimit, 0),
            (&[Busy, Busy, Busy], Outcome::Busy, 1),
            (&[Failed, Failed, Failed], Outcome::Failed, 1),
            (&[Settings, Settings, Settings], Outcome::Failed, 2),
            (&[Failed, Settings, Settings], Outcome::Failed, 1),
            (&[Busy, Failed, Failed], Outcome::Failed, 1),
            (&[Busy, Settings, Settings], Outcome::Failed, 2),
            (&[Busy, Failed, Settings], Outcome::Failed, 1),
            (&[Done, Busy, Busy], Partial, 3),
            (&[Time, Failed, Failed], Partial, 3),
            (&[Done, Settings, Settings], Partial, 3),
            (&[Done, Time, Failed], Partial, 3),
            (&[Time, Busy, Settings], Partial, 3),
            (&[Done], CaughtUp, 0),
            (&[Busy], Outcome::Busy, 1),
            (&[Settings], Outcome::Failed, 2),
        ];
        for (ends, outcome, exit_code) in cases {
            for turn in 0..ends.len() {
                let mut ends = ends.to_vec();
                ends.rotate_left(turn);
                let run = summary(ends.iter().copied().map(stream).collect());
                assert_eq!((run.outcome, run.exit_code()), (outcome, exit_code), "{ends:?}");
            }
        }
    }

    /// The keys, their order and their types are an interface.
    #[test]
    fn it_is_written_as_documented() {
        let mut full = stream(End::Settings);
        full.backfill_from = NaiveDate::from_ymd_opt(2026, 11, 3);
        let at = DateTime::from_timestamp(1_794_268_800, 0).unwrap();
        full.gap = Some(Gap { from: at, to: at + TimeDelta::hours(1) });
        full.lag_seconds = Some(-2);
        full.held_up = Some(Hold {
            what: "file f".to_owned(),
            since: at,
            tries: 3,
            passed_at: Some(at + TimeDelta::hours(24)),
            command: Some("mimecast-sentinel skip mailflow".to_owned()),
        });
        let text = serde_json::to_string(&summary(vec![stream(End::Time), full])).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"run_id":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","#,
                r#""started_at":"2026-11-10T00:00:00Z","#,
                r#""finished_at":"2026-11-10T00:00:01.500Z","outcome":"partial","#,
                r#""state_at":"./state","first_run":false,"streams":["#,
                r#"{"source":"cloud-integrated","stream":"mailflow","#,
                r#""outcome":"time_limit","pages":1,"files":2,"#,
                r#""events_read":3,"rows_delivered":4,"rows_quarantined":5,"rows_truncated":6,"#,
                r#""bodies":7,"ambiguous_posts":8,"bytes_read":9,"bytes_sent":10,"#,
                r#""backfill_from":null,"gap":null,"lag_seconds":null,"files_spilled":11,"#,
                r#""files_waiting":12,"held_up":null,"error":null},"#,
                r#"{"source":"cloud-integrated","stream":"mailflow","#,
                r#""outcome":"failed","pages":1,"files":2,"#,
                r#""events_read":3,"rows_delivered":4,"rows_quarantined":5,"rows_truncated":6,"#,
                r#""bodies":7,"ambiguous_posts":8,"bytes_read":9,"bytes_sent":10,"#,
                r#""backfill_from":"2026-11-03","#,
                r#""gap":{"from":"2026-11-10T00:00:00Z","to":"2026-11-10T01:00:00Z"},"#,
                r#""lag_seconds":-2,"files_spilled":11,"files_waiting":12,"#,
                r#""held_up":{"what":"file f","since":"2026-11-10T00:00:00Z","tries":3,"#,
                r#""passed_at":"2026-11-11T00:00:00Z","#,
                r#""command":"mimecast-sentinel skip mailflow"},"#,
                r#""error":{"code":"store-refused","message":"No","fix":"set it"}}]}"#,
            ),
        );
        let words = [Outcome::CaughtUp, Outcome::Busy, Outcome::Failed].map(|o| json!(o));
        assert_eq!(words, ["caught_up", "busy", "failed"].map(Value::from));
    }
}
