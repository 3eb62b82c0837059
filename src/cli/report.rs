//! A run's summary for a person.

use crate::pipeline::{Outcome, RunSummary, StreamSummary};

/// A small table, one line a stream, and how it ended. `done` is what became of the rows:
/// `delivered` or `printed`.
pub(super) fn report(summary: &RunSummary, done: &str) -> String {
    let rows_done = format!("rows {done}");
    let (events, kept) = ("events read", "quarantined");
    let mut lines = vec![format!(
        "{:<15}  {events:>11}  {rows_done:>14}  {kept:>11}  {:>6}",
        "stream", "files"
    )];
    lines.extend(summary.streams.iter().map(line));
    let seconds = (summary.finished_at - summary.started_at).num_milliseconds() as f64 / 1000.0;
    let rows = summary.total(|stream| stream.rows_delivered);
    let unit = if rows == 1 { "row" } else { "rows" };
    if summary.first_run && done == "delivered" {
        lines.push(first_run(summary));
    }
    lines.push(format!("{rows} {unit} {done} in {seconds:.2} s: {}", in_words(summary.outcome)));
    lines.join("\n")
}

/// Says that no checkpoint was found, and what that means.
pub(super) fn first_run(summary: &RunSummary) -> String {
    format!(
        "this was a first run: no checkpoint was found in {}; what an earlier installation delivered \
         comes again",
        summary.state_at
    )
}

fn line(stream: &StreamSummary) -> String {
    let mut line = format!(
        "{:<15}  {:>11}  {:>14}  {:>11}  {:>6}",
        stream.stream,
        stream.events_read,
        stream.rows_delivered,
        stream.rows_quarantined,
        stream.files
    );
    let mut remarks = Vec::new();
    if let Some(day) = stream.backfill_from {
        remarks.push(format!("since {day}"));
    }
    if let Some(gap) = &stream.gap {
        let [from, to] = [gap.from, gap.to].map(|time| time.format("%F %T UTC"));
        remarks.push(format!("events from {from} to {to} may be missing"));
    }
    if let Some(held_up) = &stream.held_up {
        let since = held_up.since.format("%F %R UTC");
        remarks.push(format!("held up by {} since {since}", held_up.what));
    }
    if stream.files_waiting > 0 {
        remarks.push(format!("{} files wait for the destination", stream.files_waiting));
    }
    if stream.outcome != Outcome::CaughtUp {
        remarks.push(in_words(stream.outcome).to_owned());
    }
    if !remarks.is_empty() {
        line.push_str("  ");
        line.push_str(&remarks.join("; "));
    }
    line
}

pub(super) fn in_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::CaughtUp => "caught up",
        Outcome::TimeLimit => "stopped before the end; the next run goes on",
        Outcome::Busy => "another connector holds the lease",
        Outcome::Failed => "failed",
        Outcome::Partial => "some streams failed, the others did their work",
    }
}
