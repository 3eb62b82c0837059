//! From bodies to the sink: posts a body, splits it if it is refused, keeps what cannot be
//! delivered.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

use super::Run;
use super::body::Body;
use super::fault::{Fault, Interrupt, internal, lease_lost};
use super::sink::{PostError, Posted, Sink};
use super::source::Format;
use super::summary::Live;
use crate::codes::Code;
use crate::quarantine::{Kept, Quarantine, Rejection};
use crate::seams::Deadline;
use crate::store::{KeepError, LeaseWatch};
use crate::table::Table;

/// From how many rows on a body that is refused whole points at the settings rather than at its
/// rows.
const ROWS_THAT_PROVE_A_SETTING: usize = 10;

/// Quarantine records of one body that are written at the same time.
const KEPT_AT_ONCE: usize = 4;

/// Posts the bodies of one table, and keeps what is refused. Shared by the bodies in flight.
#[derive(Clone)]
pub(super) struct Poster {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) table: &'static Table,
    /// What makes rows that stand in for those that are kept; not where they came with the first try.
    pub(super) stand_ins: Option<Arc<dyn Format>>,
    pub(super) quarantine: Quarantine,
    pub(super) lease: LeaseWatch,
    pub(super) run: Run,
    pub(super) summary: Live,
    /// While the destination has accepted nothing: until when it is tried, so that there is time left to
    /// keep what it does not take.
    pub(super) patience: Option<Deadline>,
    /// Whether a body that it refused whole is given up, or was, and none accepted since: then it is not
    /// the rows.
    pub(super) gave_up: bool,
}

impl Poster {
    /// Posts a body, splitting it as often as it takes, and keeps what was refused. With
    /// `gives_up`, that may be all of it. Returns the body with what became of it.
    pub(super) async fn settle(
        self: Arc<Self>,
        mut body: Body,
        gives_up: bool,
    ) -> Result<Body, Interrupt> {
        // What does not depend on the answer first: if it cannot be kept, nothing is posted, and so
        // nothing is posted again at every run.
        let rejections = std::mem::take(&mut body.rejections).into_iter();
        let (mut cut, undeliverable): (Vec<_>, _) = rejections.partition(|kept| kept.delivered);
        body.rejections = self.keep(undeliverable).await?;
        let mut refused = self.post(&mut body, gives_up).await?;
        // A row of which the sink would have cut a column, and which it refused, was not delivered.
        cut.retain(|cut| refused.iter().all(|refused| refused.position != cut.position));
        refused.extend(cut);
        body.rejections.extend(self.keep(refused).await?);
        self.stand_in(&body.rejections).await?;
        body.free();
        Ok(body)
    }

    /// Posts the rows that stand in for those that were kept instead of being delivered.
    async fn stand_in(&self, kept: &[Rejection]) -> Result<(), Interrupt> {
        let Some(format) = &self.stand_ins else { return Ok(()) };
        for rejection in kept.iter().filter(|rejection| !rejection.delivered) {
            let Kept::Line(line) = &rejection.kept else { continue };
            let mut row = b"[".to_vec();
            if !format.stand_in(line, &mut row) {
                continue;
            }
            row.push(b']');
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            let gzip = gzip.write_all(&row).and_then(|()| gzip.finish()).map_err(internal)?;
            match self.post_once(Bytes::from(gzip)).await {
                Ok(()) => {}
                Err(PostError::Interrupt(interrupt)) => return Err(interrupt),
                Err(PostError::RowRefused(_) | PostError::TooLarge) => tracing::error!(
                    stream = rejection.position.stream,
                    event_id = rejection.event_id,
                    "the row that stands in for one in quarantine was refused too"
                ),
            }
        }
        Ok(())
    }

    /// Posts the rows of a body, and marks those that are accepted; returns the refused ones, in
    /// order.
    async fn post(&self, body: &mut Body, gives_up: bool) -> Result<Vec<Rejection>, Interrupt> {
        let mut refused = Vec::new();
        // Inflated only if the body must be split.
        let mut json: Option<Vec<u8>> = None;
        let mut waiting: Vec<_> = std::iter::once(0..body.rows.items.len()).collect();
        while let Some(rows) = waiting.pop().filter(|rows| !rows.is_empty()) {
            let bytes = match &json {
                None => body.gzip.clone(),
                Some(json) => body.part(json, &rows).map_err(internal)?,
            };
            let (reason, detail) = match self.post_once(bytes).await {
                Ok(()) => {
                    body.settle(rows, true);
                    continue;
                }
                Err(PostError::RowRefused(detail)) => ("row-refused", detail),
                Err(PostError::TooLarge) => ("row-too-large", "it is too large (413)".to_owned()),
                Err(PostError::Interrupt(interrupt)) => {
                    // All that there was time for was refused: that is what ended it.
                    if matches!(interrupt, Interrupt::OutOfTime) {
                        self.blame_the_settings(body, &refused)?;
                    }
                    return Err(interrupt);
                }
            };
            // To halve it once more may take longer than a run has.
            if rows.len() == 1 || gives_up {
                refused.extend(rows.clone().map(|row| body.reject(row, reason, &detail)));
                body.settle(rows, false);
                continue;
            }
            if json.is_none() {
                json = Some(body.json().map_err(internal)?);
            }
            let middle = rows.start + rows.len() / 2;
            // The first half comes first.
            waiting.extend([middle..rows.end, rows.start..middle]);
        }
        if !gives_up && refused.len() == body.rows.items.len() {
            self.blame_the_settings(body, &refused)?;
        }
        Ok(refused)
    }

    /// Every row of a large body is refused and no other was accepted: it is not the rows.
    fn blame_the_settings(&self, body: &Body, refused: &[Rejection]) -> Result<(), Interrupt> {
        let few = refused.len() < ROWS_THAT_PROVE_A_SETTING;
        let Some(first) = refused.first() else { return Ok(()) };
        if few || self.run.has_accepted(self.table) {
            return Ok(());
        }
        let destination = self.sink.destination(self.table);
        let (all, tried, detail) = (body.rows.items.len(), refused.len(), &first.detail);
        let fault = Fault::settings(
            Code::EveryRowRefused,
            format!(
                "{destination} refuses every row of a body of {all} ({tried} tried by \
                 themselves): {detail}"
            ),
            format!(
                "compare the columns of the rule's stream with the table's documentation; {}",
                if self.gave_up {
                    "a body before it was refused whole too, so that no more of them are \
                     quarantined until the destination accepts a row"
                } else {
                    "the checkpoint has not moved"
                }
            ),
        );
        Err(if self.gave_up { Interrupt::Destination(Box::new(fault)) } else { fault.into() })
    }

    async fn post_once(&self, bytes: Bytes) -> Result<(), PostError> {
        if self.run.stop.is_cancelled() {
            return Err(PostError::Interrupt(Interrupt::OutOfTime));
        }
        if !self.lease.held() {
            return Err(PostError::Interrupt(lease_lost().into()));
        }
        // Even bodies in flight must end then.
        let latest = self.run.deadline.plus(self.run.policy.grace);
        let patience = self.patience.filter(|_| !self.run.has_accepted(self.table));
        let deadline = patience.unwrap_or(latest);
        let sent = bytes.len() as u64;
        let Posted { ambiguous, answer } = tokio::select! {
            posted = self.sink.post(self.table, bytes, deadline) => posted,
            () = self.grace_over() => {
                let answer = Err(PostError::Interrupt(Interrupt::OutOfTime));
                Posted { ambiguous: 1, answer }
            }
        };
        self.summary.with(|summary| {
            summary.ambiguous_posts += ambiguous;
            summary.bodies += u64::from(answer.is_ok());
            summary.bytes_sent += if answer.is_ok() { sent } else { 0 };
        });
        match answer {
            Ok(()) => {
                self.run.accept(self.table);
                Ok(())
            }
            Err(PostError::Interrupt(Interrupt::Fault(fault))) => {
                Err(PostError::Interrupt(Interrupt::Destination(fault)))
            }
            refused => refused,
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
            Ok::<_, KeepError>(rejection)
        });
        let keeping = stream::iter(keep).buffer_unordered(KEPT_AT_ONCE).try_collect();
        tokio::select! {
            kept = keeping => Ok(kept?),
            () = self.grace_over() => Err(Interrupt::OutOfTime),
        }
    }

    /// Comes when even what is in flight must end.
    async fn grace_over(&self) {
        self.run.stop.cancelled().await;
        sleep(self.run.policy.grace).await;
    }
}
