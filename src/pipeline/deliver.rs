//! From bodies to progress: posts them, several at a time, and settles them in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use chrono::DateTime;
use futures::stream::FuturesOrdered;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Policy;
use super::body::{Body, Span};
use super::fault::{Fault, Interrupt, internal};
use super::sink::{PostError, Sink};
use super::summary::{Counters, add};
use crate::checkpoint::{Checkpoint, Lease, LeaseWatch, Position};
use crate::quarantine::{Quarantine, Rejection};
use crate::seams::{Clock, Deadline};

/// From how many rows on a body that is refused whole points at the settings rather than at its
/// rows.
const ROWS_THAT_PROVE_A_SETTING: usize = 10;

/// Quarantine records of one body that are written at the same time.
const KEPT_AT_ONCE: usize = 8;

/// Posts bodies and keeps what is refused. Shared by the bodies in flight.
pub(super) struct Poster {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) quarantine: Quarantine,
    pub(super) lease: LeaseWatch,
    pub(super) stop: CancellationToken,
    /// When even bodies in flight must end.
    pub(super) deadline: Deadline,
    pub(super) counters: Arc<Counters>,
    pub(super) policy: Policy,
    /// Whether the sink has accepted a row in this run, of whatever stream.
    pub(super) accepted: Arc<AtomicBool>,
}

/// A body of which every row was accepted or lies in quarantine.
struct Settled {
    /// Its spans, each with the number of its events that are settled.
    spans: Vec<(Span, u64)>,
    newest_ms: Option<i64>,
    delivered: u64,
    quarantined: u64,
}

/// A row that the sink will not take.
struct Refusal {
    row: usize,
    reason: &'static str,
    detail: String,
}

impl Poster {
    /// Posts a body, splitting it as often as it takes, and keeps what was refused.
    async fn settle(self: Arc<Self>, body: Body) -> Result<Settled, Interrupt> {
        let mut settled = vec![0; body.spans.len()];
        let refused = self.post(&body, &mut settled).await?;
        let delivered = settled.iter().sum();
        for refusal in &refused {
            settled[body.rows[refusal.row].span] += 1;
        }
        for (span, settled) in body.spans.iter().zip(&mut settled) {
            *settled += span.rejected;
        }
        let is_refused = |row: usize| refused.binary_search_by_key(&row, |r| r.row).is_ok();
        let newest_ms = body.newest_ms(|row| !is_refused(row));
        let refused = refused.into_iter().map(|r| body.reject(r.row, r.reason, r.detail));
        let mut keep: Vec<Rejection> = refused.collect();
        // A row of which Azure would have cut a column, and which it refused, was not delivered.
        let stands = |cut: &&Rejection| {
            !(cut.delivered && keep.iter().any(|refused| refused.position == cut.position))
        };
        let others: Vec<Rejection> = body.rejections.iter().filter(stands).cloned().collect();
        keep.extend(others);
        let truncated = keep.iter().filter(|rejection| rejection.delivered).count() as u64;
        self.keep(keep).await?;
        add(&self.counters.rows_truncated, truncated);
        let quarantined = settled.iter().sum::<u64>() - delivered;
        Ok(Settled {
            spans: body.spans.into_iter().zip(settled).collect(),
            newest_ms,
            delivered,
            quarantined,
        })
    }

    /// Posts the rows of a body; counts the accepted ones by span, returns the refused ones in
    /// order.
    async fn post(&self, body: &Body, settled: &mut [u64]) -> Result<Vec<Refusal>, Interrupt> {
        let mut refused = Vec::new();
        if body.rows.is_empty() {
            return Ok(refused);
        }
        // Inflated only if the body must be split.
        let mut json: Option<Vec<u8>> = None;
        let mut waiting: Vec<_> = std::iter::once(0..body.rows.len()).collect();
        while let Some(rows) = waiting.pop() {
            let bytes = match &json {
                None => body.gzip.clone(),
                Some(json) => body.part(json, &rows).map_err(internal)?,
            };
            let sent = bytes.len() as u64;
            let (reason, detail) = match self.post_once(bytes).await {
                Ok(()) => {
                    self.accepted.store(true, Ordering::Relaxed);
                    add(&self.counters.bodies, 1);
                    add(&self.counters.bytes_sent, sent);
                    rows.for_each(|row| settled[body.rows[row].span] += 1);
                    continue;
                }
                Err(PostError::RowRefused(detail)) => ("row-refused", detail),
                Err(PostError::TooLarge) => ("row-too-large", "Azure answers 413".to_owned()),
                Err(PostError::Interrupt(interrupt)) => return Err(interrupt),
            };
            if rows.len() == 1 {
                refused.push(Refusal { row: rows.start, reason, detail });
                continue;
            }
            if json.is_none() {
                json = Some(body.json().map_err(internal)?);
            }
            let middle = rows.start + rows.len() / 2;
            // The first half comes first.
            waiting.extend([middle..rows.end, rows.start..middle]);
        }
        self.blame_the_settings(body, &refused)?;
        Ok(refused)
    }

    /// Every row of a large body is refused and no other was accepted: it is not the rows.
    fn blame_the_settings(&self, body: &Body, refused: &[Refusal]) -> Result<(), Fault> {
        let whole = refused.len() == body.rows.len() && refused.len() >= ROWS_THAT_PROVE_A_SETTING;
        match refused.first() {
            Some(first) if whole && !self.accepted.load(Ordering::Relaxed) => Err(Fault::settings(
                "every-row-refused",
                format!(
                    "{} refuses every row of a body of {}: {}",
                    self.sink.destination(),
                    refused.len(),
                    first.detail
                ),
                "compare the columns of the rule's stream with the table's documentation; the \
                 checkpoint has not moved",
            )),
            _ => Ok(()),
        }
    }

    async fn post_once(&self, bytes: Bytes) -> Result<(), PostError> {
        if self.stop.is_cancelled() {
            return Err(PostError::Interrupt(Interrupt::OutOfTime));
        }
        if !self.lease.held() {
            return Err(PostError::Interrupt(lease_lost().into()));
        }
        let grace_over = async {
            self.stop.cancelled().await;
            sleep(self.policy.grace).await;
        };
        tokio::select! {
            posted = self.sink.post(bytes, self.deadline) => {
                add(&self.counters.ambiguous_posts, posted.ambiguous);
                posted.answer
            }
            () = grace_over => {
                add(&self.counters.ambiguous_posts, 1);
                Err(PostError::Interrupt(Interrupt::OutOfTime))
            }
        }
    }

    /// Makes rejections durable.
    async fn keep(&self, rejections: Vec<Rejection>) -> Result<(), Interrupt> {
        if rejections.is_empty() {
            return Ok(());
        }
        if !self.lease.held() {
            return Err(lease_lost().into());
        }
        let keep = rejections
            .into_iter()
            .map(|rejection| async move { self.quarantine.keep(&rejection).await });
        Ok(stream::iter(keep).buffer_unordered(KEPT_AT_ONCE).try_collect::<()>().await?)
    }
}

/// Writes progress down, in order.
pub(super) struct Ledger {
    pub(super) checkpoint: Checkpoint,
    pub(super) lease: Box<dyn Lease>,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
    pub(super) policy: Policy,
    /// The newest delivered event's time, in milliseconds since 1970.
    pub(super) newest_ms: Option<i64>,
    /// Events settled in this run, of files that are not at their end.
    settled: HashMap<String, u64>,
    /// Bodies recorded since the checkpoint was written.
    unsaved_bodies: u32,
    /// Since when the checkpoint differs from what is stored.
    unsaved_since: Option<Instant>,
}

impl Ledger {
    /// A ledger that writes to `checkpoint`, and that to where `lease` says.
    pub(super) fn new(
        checkpoint: Checkpoint,
        lease: Box<dyn Lease>,
        counters: Arc<Counters>,
        clock: Clock,
        policy: Policy,
    ) -> Self {
        Self {
            checkpoint,
            lease,
            counters,
            clock,
            policy,
            newest_ms: None,
            settled: HashMap::new(),
            unsaved_bodies: 0,
            unsaved_since: None,
        }
    }

    /// Settles all bodies of one page, as they come.
    pub(super) async fn deliver(
        &mut self,
        poster: Arc<Poster>,
        mut bodies: mpsc::Receiver<Body>,
    ) -> Result<(), Interrupt> {
        let mut in_flight = FuturesOrdered::new();
        let mut more = true;
        while more || !in_flight.is_empty() {
            let save_at = self.unsaved_since.map(|since| since + self.policy.save_after);
            tokio::select! {
                biased;
                Some(settled) = in_flight.next() => {
                    let settled: Result<_, tokio::task::JoinError> = settled;
                    self.record(settled.map_err(internal)??).await?;
                }
                () = sleep_until(save_at.unwrap_or_else(Instant::now)), if save_at.is_some() => {
                    self.save().await?;
                }
                body = bodies.recv(), if more && in_flight.len() < self.policy.in_flight => {
                    match body {
                        Some(body) => {
                            let settling = tokio::spawn(Arc::clone(&poster).settle(body));
                            in_flight.push_back(AbortOnDropHandle::new(settling));
                        }
                        None => more = false,
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves progress over one settled body.
    async fn record(&mut self, body: Settled) -> Result<(), Interrupt> {
        if !self.lease.held() {
            return Err(lease_lost().into());
        }
        let mut file_finished = false;
        for (span, settled) in body.spans {
            file_finished |= span.delta.to == Position::End;
            self.move_over(&span, settled)?;
        }
        let totals = &mut self.checkpoint.totals;
        totals.rows_delivered += body.delivered;
        totals.rows_quarantined += body.quarantined;
        add(&self.counters.rows_delivered, body.delivered);
        add(&self.counters.rows_quarantined, body.quarantined);
        self.newest_ms = self.newest_ms.max(body.newest_ms);
        let newest = body.newest_ms.and_then(DateTime::from_timestamp_millis);
        self.checkpoint.newest_event = self.checkpoint.newest_event.max(newest);
        self.touch();
        self.unsaved_bodies += 1;
        if file_finished || self.unsaved_bodies >= self.policy.save_after_bodies {
            self.save().await?;
        }
        Ok(())
    }

    /// Moves progress over one span, if what was read of its file adds up.
    fn move_over(&mut self, span: &Span, settled: u64) -> Result<(), Fault> {
        let delta = &span.delta;
        let in_file = self.settled.entry(delta.file.clone()).or_default();
        *in_file += settled;
        if let Some(events) = span.events_in_file
            && events != *in_file
        {
            return Err(Fault::passing(
                "conservation-breach",
                format!(
                    "batch file {}: {events} events read, but {in_file} delivered or in quarantine",
                    delta.file
                ),
                "this is a defect: report it with this line; the checkpoint stays before the file's end",
            ));
        }
        self.checkpoint.apply(delta).map_err(internal)?;
        if delta.to == Position::End {
            self.settled.remove(&delta.file);
            self.checkpoint.totals.files += 1;
        }
        Ok(())
    }

    /// The checkpoint was changed.
    pub(super) fn touch(&mut self) {
        self.unsaved_since.get_or_insert_with(Instant::now);
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
        Ok(())
    }
}

fn lease_lost() -> Fault {
    Fault::passing(
        "lease-lost",
        "the lease on the checkpoint was lost",
        "another connector uses the same checkpoint: run one connector per checkpoint; this one \
         stopped before recording anything",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::NaiveDate;

    use super::*;
    use crate::checkpoint::{Cursor, Delta, FileVersion, Nowhere};

    fn ledger() -> Ledger {
        let start = Cursor::Start(NaiveDate::from_ymd_opt(2026, 11, 1).unwrap());
        let checkpoint = Checkpoint::new(BTreeMap::new(), String::new(), start);
        let counters = Arc::default();
        Ledger::new(checkpoint, Box::new(Nowhere), counters, Clock::system(), Policy::default())
    }

    /// A body with lines of one file, of which `settled` were accepted or lie in quarantine.
    fn body(from: u64, to: Position, settled: u64, events_in_file: Option<u64>) -> Settled {
        let from = Position::Line(from);
        let delta = Delta { file: "f".to_owned(), version: FileVersion::default(), from, to };
        let span = Span { delta, rows: settled, rejected: 0, events_in_file };
        Settled {
            spans: vec![(span, settled)],
            newest_ms: None,
            delivered: settled,
            quarantined: 0,
        }
    }

    #[tokio::test]
    async fn a_file_whose_events_are_not_all_settled_stops_the_stream() {
        for (second, breach) in [(4, true), (5, false), (6, true)] {
            let mut ledger = ledger();
            ledger.record(body(0, Position::Line(3), 3, None)).await.unwrap();
            let end = ledger.record(body(3, Position::End, second, Some(8))).await;
            let done = ledger.checkpoint.files["f"].done;
            if !breach {
                assert!(end.is_ok());
                assert_eq!(done, Position::End);
                continue;
            }
            let Err(Interrupt::Fault(fault)) = end else { panic!("{second}: {end:?}") };
            assert_eq!(fault.code, "conservation-breach");
            let said = format!("batch file f: 8 events read, but {} delivered", 3 + second);
            assert!(fault.message.contains(&said), "{fault}");
            assert!(!fault.settings);
            assert_eq!(done, Position::Line(3), "it stays before the file's end");
            assert_eq!(ledger.checkpoint.totals.rows_delivered, 3);
        }
    }

    #[tokio::test]
    async fn a_body_out_of_order_is_refused() {
        let mut ledger = ledger();
        ledger.record(body(0, Position::Line(3), 3, None)).await.unwrap();
        for body in [body(2, Position::Line(5), 3, None), body(4, Position::Line(5), 1, None)] {
            assert!(ledger.record(body).await.is_err());
            assert_eq!(ledger.checkpoint.files["f"].done, Position::Line(3));
        }
    }
}
