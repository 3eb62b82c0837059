//! One stream's pull: take the lease, read the checkpoint, go through the pages, release the lease.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::fault::Interrupt;
use super::pages::Pages;
use super::post::Poster;
use super::progress::Progress;
use super::resume::{lease, release};
use super::source::{Content, OpenPart, Opened, Page, Part};
use super::summary::{Gap, Hold, Live, Outcome, StreamSummary};
use super::{Connector, Run};
use crate::checkpoint::{Checkpoint, Cursor};
use crate::seams::spawn;
use crate::table::Stream;

/// One stream in one run.
#[derive(Clone)]
pub(super) struct StreamPull {
    pub(super) connector: Connector,
    pub(super) stream: Stream,
    pub(super) run: Run,
    pub(super) summary: Live,
}

impl StreamPull {
    /// Pulls until there is nothing more, the time is up, or something fails.
    pub(super) async fn run(self) -> StreamSummary {
        let ended = self.pull().await;
        self.connector.source.finished(&self.stream);
        let ended = Outcome::of_stream(&self.run, self.stream.name, ended);
        self.summary.with(|summary| {
            (summary.outcome, summary.error) = ended;
            summary.clone()
        })
    }

    /// Reads page after page under the lease.
    async fn pull(&self) -> Result<Outcome, Interrupt> {
        let Self { connector, stream, run, summary } = self;
        let leasing = lease(&*connector.store, stream.name, run);
        let Some(mut lease) = leasing.await? else { return Ok(Outcome::Busy) };
        let checkpoint = match connector.resume(stream, lease.as_mut()).await {
            Ok(checkpoint) => checkpoint,
            Err(interrupt) => {
                release(stream.name, lease).await;
                return Err(interrupt);
            }
        };
        summary.with(|summary| summary.begins = checkpoint.cursor.is_none());
        let poster = Poster {
            sink: Arc::clone(&connector.sink),
            table: stream.table,
            stand_ins: Some(connector.source.format(stream)),
            quarantine: connector.quarantine.clone(),
            lease: lease.watch(),
            run: run.clone(),
            summary: summary.clone(),
            patience: None,
            gave_up: false,
        };
        let clock = connector.clock.clone();
        let progress = Progress::new(checkpoint, lease, summary.clone(), clock, run.policy);
        let mut pages = Pages::new(self.clone(), poster, progress);
        // Of runs before this one: it may be killed too.
        pages.report_quarantine();
        let ended = pages.run().await;
        pages.report_quarantine();
        let mut progress = pages.progress;
        let saved = progress.save().await;
        let blame = |interrupt: Interrupt| interrupt.blame(&*progress.lease);
        let (ended, saved) = (ended.map_err(blame), saved.map_err(blame));
        release(stream.name, progress.lease).await;
        let (now, checkpoint) = (connector.clock.now(), progress.checkpoint);
        summary.with(|summary| {
            summary.backfill_from = checkpoint.backfill_from;
            let newest = summary.newest_ms;
            summary.lag_seconds = newest.map(|newest| (now.timestamp_millis() - newest) / 1000);
            summary.files_waiting = checkpoint.files_waiting();
            summary.held_up = Hold::of(&checkpoint, stream.name, run.policy.give_up.0);
        });
        match (ended, saved) {
            (Err(Interrupt::OutOfTime) | Ok(_), Err(interrupt)) => Err(interrupt),
            (ended, _) => ended,
        }
    }
}

impl StreamPull {
    /// Lists the page at a cursor.
    pub(super) fn list(&self, at: Option<Cursor>) -> AbortOnDropHandle<Result<Page, Interrupt>> {
        let Self { connector, stream, run, .. } = self.clone();
        AbortOnDropHandle::new(spawn(async move {
            let page = connector.source.page(&stream, at.as_ref(), run.deadline);
            run.in_time(page).await.flatten()
        }))
    }

    /// Opens a part from its beginning.
    pub(super) async fn open(&self, part: &Part) -> Result<Opened, Interrupt> {
        match &part.content {
            Content::At(_) => self.connector.source.open(part, self.run.deadline).await,
            Content::Here(bytes) => {
                Ok(Opened::Part(OpenPart::here(part.etag.clone(), bytes.clone())))
            }
        }
    }

    /// Whether the body in hand was refused whole for so long that it is not the settings.
    pub(super) fn gives_up(&self, checkpoint: &Checkpoint) -> bool {
        let now = self.connector.clock.now();
        let refused = checkpoint.refused.as_ref();
        refused.is_some_and(|refused| refused.is_due(now, self.run.policy.give_up))
    }

    /// The stored cursor, which was accepted before, was refused.
    pub(super) fn report_gap(&self, gap: Gap) {
        tracing::error!(
            stream = self.stream.name,
            from = %gap.from,
            to = %gap.to,
            "the source no longer accepts the stored cursor: events of this time may be missing, \
             and later ones come again"
        );
    }
}
