//! From settled bodies to progress: in order, into the checkpoint, and with that into the store.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::Policy;
use super::body::{Body, Span};
use super::fault::{Fault, Interrupt, internal, lease_lost};
use super::post::Poster;
use super::summary::Live;
use crate::checkpoint::{Checkpoint, Position, Spill};
use crate::codes::Code;
use crate::quarantine::Kept;
use crate::seams::{Clock, spawn};
use crate::store::Lease;

/// A stream's checkpoint in a run, and what writes it.
pub(super) struct Progress {
    pub(super) checkpoint: Checkpoint,
    pub(super) lease: Box<dyn Lease>,
    pub(super) summary: Live,
    pub(super) clock: Clock,
    pub(super) policy: Policy,
    /// Whether a body could not be posted in time.
    pub(super) starved: bool,
    /// Whether files were passed without their bytes.
    pub(super) files_gone: bool,
    /// Events settled in this run, of files that are not at their end.
    settled: HashMap<String, u64>,
    /// Bodies recorded since the checkpoint was written.
    unsaved_bodies: u32,
    /// Since when the checkpoint differs from what is stored.
    unsaved_since: Option<Instant>,
    /// Whether the checkpoint was written in this run, so that it can be.
    saved: bool,
}

impl Progress {
    /// Goes on from `checkpoint`, which is written through `lease`.
    pub(super) fn new(
        checkpoint: Checkpoint,
        lease: Box<dyn Lease>,
        summary: Live,
        clock: Clock,
        policy: Policy,
    ) -> Self {
        Self {
            checkpoint,
            lease,
            summary,
            clock,
            policy,
            starved: false,
            files_gone: false,
            settled: HashMap::new(),
            unsaved_bodies: 0,
            unsaved_since: None,
            saved: false,
        }
    }

    /// Settles all bodies of one page, as they come; gives the first one up, if it must be.
    pub(super) async fn settle(
        &mut self,
        poster: Arc<Poster>,
        mut bodies: mpsc::UnboundedReceiver<Body>,
        mut gives_up: bool,
    ) -> Result<(), Interrupt> {
        let mut in_flight: FuturesOrdered<AbortOnDropHandle<_>> = FuturesOrdered::new();
        let mut more = true;
        while more || !in_flight.is_empty() {
            let save_at = self.unsaved_since.map(|since| since + self.policy.save_after);
            tokio::select! {
                biased;
                Some(settled) = in_flight.next() => {
                    let settled = settled.map_err(internal)?;
                    self.starved |= matches!(settled, Err(Interrupt::OutOfTime));
                    self.record(settled?).await?;
                }
                () = sleep_until(save_at.unwrap_or_else(Instant::now)), if save_at.is_some() => {
                    self.save().await?;
                }
                next = bodies.recv(), if more => match next {
                    Some(body) => {
                        // Nothing is posted that cannot be recorded, else it came again at each
                        // run.
                        if !self.saved {
                            self.change();
                            self.save().await?;
                        }
                        let gives_up = std::mem::take(&mut gives_up);
                        let settling = spawn(Arc::clone(&poster).settle(body, gives_up));
                        in_flight.push_back(AbortOnDropHandle::new(settling));
                    }
                    None => more = false,
                }
            }
        }
        Ok(())
    }

    /// Moves progress over one settled body.
    async fn record(&mut self, body: Body) -> Result<(), Interrupt> {
        if !self.lease.held() {
            return Err(lease_lost().into());
        }
        // All of the body or nothing: what is saved after a breach has its rows in its totals. One
        // span moves whole or not at all.
        let several = body.spans.len() > 1;
        let before = several.then(|| (self.checkpoint.clone(), self.settled.clone()));
        if let Err(breach) = body.spans.iter().try_for_each(|span| self.move_over(span)) {
            if let Some(before) = before {
                (self.checkpoint, self.settled) = before;
            }
            return Err(breach.into());
        }
        let file_finished = body.spans.iter().any(|span| span.delta.to == Position::End);
        let accepted = body.rows.items.iter().filter(|row| row.accepted);
        let delivered = accepted.clone().count() as u64;
        let quarantined = body.spans.iter().map(|span| span.settled).sum::<u64>() - delivered;
        let truncated = body.rejections.iter().filter(|kept| kept.delivered).count() as u64;
        self.files_gone |= body.rejections.iter().any(|kept| kept.kept == Kept::Nothing);
        let newest_ms = accepted.filter_map(|row| row.time_ms).max();
        let newest = newest_ms.and_then(DateTime::from_timestamp_millis);
        let checkpoint = self.change();
        checkpoint.newest_event = checkpoint.newest_event.max(newest);
        if delivered > 0 {
            (checkpoint.destination_down, checkpoint.passed_body) = (None, false);
        }
        checkpoint.totals.rows_delivered += delivered;
        checkpoint.totals.rows_quarantined += quarantined;
        checkpoint.unreported.rows_quarantined += quarantined;
        checkpoint.unreported.rows_truncated += truncated;
        self.summary.with(|summary| {
            summary.newest_ms = summary.newest_ms.max(newest_ms);
            summary.rows_delivered += delivered;
            summary.rows_quarantined += quarantined;
            summary.rows_truncated += truncated;
        });
        self.unsaved_bodies += 1;
        if file_finished || self.unsaved_bodies >= self.policy.save_after_bodies {
            self.save().await?;
        }
        Ok(())
    }

    /// Moves progress over one span, if what was read of its file adds up.
    fn move_over(&mut self, span: &Span) -> Result<(), Fault> {
        let Span { delta, settled, events_in_file, spilled } = span;
        let (file, settled) = (&delta.file, self.settled.get(&delta.file).unwrap_or(&0) + settled);
        if let Some(events) = events_in_file.filter(|events| *events != settled) {
            return Err(Fault::passing(
                Code::ConservationBreach,
                format!(
                    "file {file}: {events} events read, but {settled} delivered or quarantined"
                ),
                "this is a bug; please report it with this log line; the checkpoint stays before \
                 the file's end",
            ));
        }
        self.checkpoint.apply(delta).map_err(internal)?;
        if *spilled {
            self.checkpoint.spill.get_or_insert_with(|| Spill::new(0, 0)).next += 1;
            self.summary.with(|summary| summary.files_spilled += 1);
        } else if delta.to == Position::End {
            self.settled.remove(file);
            self.checkpoint.totals.files += 1;
        } else {
            self.settled.insert(file.clone(), settled);
        }
        Ok(())
    }

    /// The checkpoint, to be changed: it is written then.
    pub(super) fn change(&mut self) -> &mut Checkpoint {
        self.unsaved_since.get_or_insert_with(Instant::now);
        &mut self.checkpoint
    }

    /// Writes the checkpoint, if it was changed.
    pub(super) async fn save(&mut self) -> Result<(), Interrupt> {
        if self.unsaved_since.is_none() {
            return Ok(());
        }
        self.checkpoint.updated_at = self.clock.now();
        self.lease.write(Bytes::from(self.checkpoint.to_bytes())).await?;
        self.unsaved_since = None;
        self.unsaved_bodies = 0;
        self.saved = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Pool;
    use super::super::body::BodyBuilder;
    use super::*;
    use crate::checkpoint::FileVersion;
    use crate::store::NullStore;

    fn progress() -> Progress {
        let checkpoint = Checkpoint::new(BTreeMap::new(), String::new());
        let (lease, summary) = (Box::new(NullStore), Live::new("source", "s"));
        Progress::new(checkpoint, lease, summary, Clock::system(), Policy::default())
    }

    /// A body with lines of one file, of which `settled` were quarantined.
    fn body(from: u64, to: Position, settled: u64, events_in_file: Option<u64>) -> Body {
        let mut builder = BodyBuilder::new("s", 0, &Pool::default());
        builder.begin_file("f", &FileVersion::default(), Position::Line(from));
        builder.end_file(events_in_file);
        let mut body = builder.take().unwrap().unwrap();
        body.spans[0].delta.to = to;
        body.spans[0].settled = settled;
        body
    }

    #[tokio::test]
    async fn a_file_whose_events_are_not_all_settled_stops_the_stream() {
        for (second, breach) in [(4, true), (5, false), (6, true)] {
            let mut progress = progress();
            progress.record(body(0, Position::Line(3), 3, None)).await.unwrap();
            let end = progress.record(body(3, Position::End, second, Some(8))).await;
            let done = progress.checkpoint.files["f"].done;
            if !breach {
                assert!(end.is_ok());
                assert_eq!(done, Position::End);
                continue;
            }
            let Err(Interrupt::Fault(fault)) = end else { panic!("{second}: {end:?}") };
            assert_eq!(fault.code, Code::ConservationBreach);
            let said = format!("file f: 8 events read, but {} delivered", 3 + second);
            assert!(fault.message.contains(&said), "{fault}");
            assert!(!fault.settings);
            assert_eq!(done, Position::Line(3), "it stays before the file's end");
            assert_eq!(progress.checkpoint.totals.rows_quarantined, 3);
        }
    }

    #[tokio::test]
    async fn a_breach_in_a_later_span_moves_over_none_of_the_body() {
        let mut progress = progress();
        progress.record(body(0, Position::Line(3), 3, None)).await.unwrap();
        let before = progress.checkpoint.clone();
        let mut both = body(3, Position::End, 5, Some(8));
        let mut other = body(0, Position::End, 2, Some(3));
        other.spans[0].delta.file = "g".to_owned();
        both.spans.append(&mut other.spans);
        assert!(matches!(progress.record(both).await, Err(Interrupt::Fault(_))));
        assert_eq!(progress.checkpoint, before);

        progress.record(body(3, Position::End, 5, Some(8))).await.unwrap();
        assert_eq!(progress.checkpoint.totals.rows_quarantined, 8);
    }

    #[tokio::test]
    async fn a_body_out_of_order_is_refused() {
        let mut progress = progress();
        progress.record(body(0, Position::Line(3), 3, None)).await.unwrap();
        for body in [body(2, Position::Line(5), 3, None), body(4, Position::Line(5), 1, None)] {
            assert!(progress.record(body).await.is_err());
            assert_eq!(progress.checkpoint.files["f"].done, Position::Line(3));
        }
    }
}
