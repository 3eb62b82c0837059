//! From bodies to the sink: posts a body, splits it if it is refused, keeps what cannot be delivered.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::body::{Body, Span};
use super::fault::{Fault, Interrupt, internal, lease_lost};
use super::sink::{PostError, Sink};
use super::summary::Live;
use super::{Policy, Run};
use crate::codes::Code;
use crate::quarantine::{Quarantine, QuarantineError, Rejection};
use crate::store::LeaseWatch;
use crate::table::Table;

/// From how many rows on a body that is refused whole points at the settings rather than at its
/// rows.
const ROWS_THAT_PROVE_A_SETTING: usize = 10;

/// Quarantine records of one body that are written at the same time.
const KEPT_AT_ONCE: usize = 4;

/// Posts the bodies of one table, and keeps what is refused. Shared by the bodies in flight.
pub(super) struct Poster {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) table: &'static Table,
    pub(super) quarantine: Quarantine,
    pub(super) lease: LeaseWatch,
    pub(super) run: Run,
    pub(super) policy: Policy,
    pub(super) summary: Live,
}

/// A body of which every row was accepted or is in quarantine.
pub(super) struct Settled {
    /// Its spans, each with the number of its events that are settled.
    pub(super) spans: Vec<(Span, u64)>,
    pub(super) newest_ms: Option<i64>,
    pub(super) delivered: u64,
    pub(super) quarantined: u64,
    pub(super) truncated: u64,
    /// What was put into quarantine.
    pub(super) kept: Vec<Rejection>,
    /// Its body's slots, which are free again once it is recorded, not sooner: else a body that must be tried
    /// again would let the others run far ahead.
    pub(super) _slots: Option<OwnedSemaphorePermit>,
}

impl Poster {
    /// Posts a body, splitting it as often as it takes, and keeps what was refused. With `gives_up`,
    /// that may be all of it.
    pub(super) async fn settle(
        self: Arc<Self>,
        mut body: Body,
        gives_up: bool,
    ) -> Result<Settled, Interrupt> {
        let mut settled = vec![0; body.spans.len()];
        // What does not depend on the answer first: if it cannot be kept, nothing is posted, and so
        // nothing is posted again at every run.
        let rejections = std::mem::take(&mut body.rejections);
        let (cut, undeliverable) = rejections.into_iter().partition(|kept| kept.delivered);
        let mut kept: Vec<Rejection> = self.keep(undeliverable).await?;
        let refused = self.post(&body, &mut settled, gives_up).await?;
        if !gives_up && refused.len() == body.rows.len() {
            self.blame_the_settings(&body, &refused)?;
        }
        let delivered = settled.iter().sum();
        for (row, _) in &refused {
            settled[body.rows[*row].span] += 1;
        }
        for (span, settled) in body.spans.iter().zip(&mut settled) {
            *settled += span.rejected;
        }
        let is_refused = |row: usize| refused.binary_search_by_key(&row, |(row, _)| *row).is_ok();
        let newest_ms = body.newest_ms(|row| !is_refused(row));
        let mut keep: Vec<Rejection> =
            refused.into_iter().map(|(_, rejection)| rejection).collect();
        // A row of which the sink would have cut a column, and which it refused, was not delivered.
        let mut cut: Vec<Rejection> = cut;
        cut.retain(|cut| keep.iter().all(|refused| refused.position != cut.position));
        let truncated = cut.len() as u64;
        keep.extend(cut);
        kept.extend(self.keep(keep).await?);
        let quarantined = settled.iter().sum::<u64>() - delivered;
        Ok(Settled {
            spans: body.spans.into_iter().zip(settled).collect(),
            newest_ms,
            delivered,
            quarantined,
            truncated,
            kept,
            _slots: body.slots,
        })
    }

    /// Posts the rows of a body; counts the accepted ones by span, returns the refused ones in
    /// order, each with its place in the body.
    async fn post(
        &self,
        body: &Body,
        settled: &mut [u64],
        gives_up: bool,
    ) -> Result<Vec<(usize, Rejection)>, Interrupt> {
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
                    self.run.accept(self.table);
                    self.summary.with(|summary| {
                        summary.bodies += 1;
                        summary.bytes_sent += sent;
                    });
                    rows.for_each(|row| settled[body.rows[row].span] += 1);
                    continue;
                }
                Err(PostError::RowRefused(detail)) => ("row-refused", detail),
                Err(PostError::TooLarge) => {
                    ("row-too-large", "it is too large by itself (413)".to_owned())
                }
                Err(PostError::Interrupt(interrupt)) => {
                    // All that there was time for was refused: that is what ended it.
                    if matches!(interrupt, Interrupt::OutOfTime) && settled.iter().all(|n| *n == 0)
                    {
                        self.blame_the_settings(body, &refused)?;
                    }
                    return Err(interrupt);
                }
            };
            // To halve it once more may take longer than a run has.
            if rows.len() == 1 || gives_up {
                refused.extend(rows.map(|row| (row, body.reject(row, reason, &detail))));
                continue;
            }
            if json.is_none() {
                json = Some(body.json().map_err(internal)?);
            }
            let middle = rows.start + rows.len() / 2;
            // The first half comes first.
            waiting.extend([middle..rows.end, rows.start..middle]);
        }
        Ok(refused)
    }

    /// Every row of a large body is refused and no other was accepted: it is not the rows.
    fn blame_the_settings(&self, body: &Body, refused: &[(usize, Rejection)]) -> Result<(), Fault> {
        let enough = refused.len() >= ROWS_THAT_PROVE_A_SETTING;
        match refused.first() {
            Some((_, first)) if enough && !self.run.has_accepted(self.table) => {
                Err(Fault::settings(
                    Code::EveryRowRefused,
                    format!(
                        "{} refuses every row of a body of {} ({} tried by themselves): {}",
                        self.sink.destination(self.table),
                        body.rows.len(),
                        refused.len(),
                        first.detail
                    ),
                    "compare the columns of the rule's stream with the table's documentation; the \
                 checkpoint has not moved; if it stays so for a day, this body is quarantined and \
                 the stream goes on",
                ))
            }
            _ => Ok(()),
        }
    }

    async fn post_once(&self, bytes: Bytes) -> Result<(), PostError> {
        if self.run.stop.is_cancelled() {
            return Err(PostError::Interrupt(Interrupt::OutOfTime));
        }
        if !self.lease.held() {
            return Err(PostError::Interrupt(lease_lost().into()));
        }
        // Even bodies in flight must end then.
        let deadline = self.run.deadline.plus(self.policy.grace);
        tokio::select! {
            posted = self.sink.post(self.table, bytes, deadline) => {
                self.summary.with(|summary| summary.ambiguous_posts += posted.ambiguous);
                posted.answer
            }
            () = self.grace_over() => {
                self.summary.with(|summary| summary.ambiguous_posts += 1);
                Err(PostError::Interrupt(Interrupt::OutOfTime))
            }
        }
    }

    /// Makes rejections durable, and returns them.
    async fn keep(&self, rejections: Vec<Rejection>) -> Result<Vec<Rejection>, Interrupt> {
        if rejections.is_empty() {
            return Ok(Vec::new());
        }
        if !self.lease.held() {
            return Err(lease_lost().into());
        }
        let keep = rejections.into_iter().map(|rejection| async move {
            self.quarantine.keep(&rejection).await?;
            Ok::<_, QuarantineError>(rejection)
        });
        let keeping = stream::iter(keep).buffer_unordered(KEPT_AT_ONCE).try_collect();
        Ok(self.in_time(keeping).await??)
    }

    /// What comes of `work`, if it comes before even what is in flight must end.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        tokio::select! {
            done = work => Ok(done),
            () = self.grace_over() => Err(Interrupt::OutOfTime),
        }
    }

    /// Comes when even what is in flight must end.
    async fn grace_over(&self) {
        self.run.stop.cancelled().await;
        sleep(self.policy.grace).await;
    }
}
