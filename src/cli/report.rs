//! A run's summary for a person.

use crate::pipeline::{Outcome, RunSummary, StreamSummary};

/// A few lines: one a stream, and how it ended.
pub(super) fn report(summary: &RunSummary) -> String {
    let mut lines: Vec<String> = summary.streams.iter().map(line).collect();
    let seconds = (summary.finished_at - summary.started_at).num_milliseconds() as f64 / 1000.0;
    let rows = summary.total(|stream| stream.rows_delivered);
    lines.push(format!("{rows} rows delivered in {seconds:.1} s: {}", told(summary.outcome)));
    lines.join("\n")
}

fn line(stream: &StreamSummary) -> String {
    let mut line = format!(
        "{:<9} {:>9} events read, {:>9} rows delivered, {:>3} quarantined, {:>4} files",
        stream.stream,
        stream.events_read,
        stream.rows_delivered,
        stream.rows_quarantined,
        stream.files
    );
    if let Some(day) = stream.backfill_from {
        line.push_str(&format!(", since {day}"));
    }
    if let Some(gap) = &stream.gap {
        line.push_str(&format!("; events from {} to {} may be missing", gap.from, gap.to));
    }
    if stream.outcome != Outcome::CaughtUp {
        line.push_str(&format!("; {}", told(stream.outcome)));
    }
    line
}

fn told(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::CaughtUp => "caught up",
        Outcome::TimeLimit => "the time limit was reached, the next run goes on from here",
        Outcome::Busy => "another connector holds the lease",
        Outcome::Failed => "failed",
        Outcome::Partial => "some streams failed, the others did their work",
    }
}
