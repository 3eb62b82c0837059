//! One run as `pull` and `serve` make it: with its record in the history, and what it says of each
//! stream in the health table.

use std::sync::Arc;
use std::time::Duration;

use tokio::join;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::CommandError;
use super::status::template_version;
use super::wiring::Wiring;
use crate::health::{Depth, History, Named, Reporter, Status};
use crate::pipeline::{Connector, Live, RunSummary};
use crate::settings::{Settings, process_env};

/// How long the rows of health may take after a run, whose function must end in time.
const HEALTH_TIME: Duration = Duration::from_secs(15);

/// The name of the function app, which its platform sets.
const SITE_NAME: &str = "WEBSITE_SITE_NAME";

/// A connector, and where it reports what it does.
pub(super) struct Runner {
    pub(super) connector: Connector,
    /// How its streams are looked at.
    pub(super) named: Named,
    /// None where `HEALTH_STREAM` is `off`.
    pub(super) reporter: Option<Reporter>,
}

impl Runner {
    /// Of each source that is on.
    pub(super) fn all(wiring: &Wiring, settings: &Settings) -> Result<Vec<Self>, CommandError> {
        let mut reporter = None;
        let connectors = wiring.connectors(settings)?.into_iter();
        Ok(connectors
            .map(|(named, connector)| {
                let (store, sink) = (&connector.store, &connector.sink);
                if settings.ingestion.health_stream.is_some() && reporter.is_none() {
                    let app = process_env(SITE_NAME);
                    let app = app.unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned());
                    reporter = Some(Reporter::new(Arc::clone(store), Arc::clone(sink), app));
                }
                Self { connector, named, reporter: reporter.clone() }
            })
            .collect())
    }

    /// One run; see [`Connector::run`].
    pub(super) async fn run(&self, summaries: &[Live], stop: &CancellationToken) -> RunSummary {
        let Self { connector, named, .. } = self;
        let history = History::new(Arc::clone(&connector.store), named.source);
        let begun = connector.begin();
        let streams = named.streams.iter().copied();
        let begin = history.begin(&begun, &connector.policy, streams);
        // Beside each other, since a store that hangs must not take time from the run.
        let (summary, ()) = join!(connector.run(begun.clone(), summaries, stop), begin);
        history.end(&summary).await;
        if timeout(HEALTH_TIME, self.report(&summary)).await.is_err() {
            tracing::debug!("there was no time for rows of health");
        }
        summary
    }

    async fn report(&self, summary: &RunSummary) {
        let Self { connector, named, reporter } = self;
        let Some(reporter) = reporter else { return };
        if reporter.is_quiet(summary).await {
            return;
        }
        let now = connector.clock.now();
        let named = std::slice::from_ref(named);
        match Status::read(&connector.store, named, Depth::Glance, template_version(), now).await {
            Ok(status) => reporter.streams(&status).await,
            // Where the store cannot be read, the run has said so.
            Err(error) => tracing::debug!("there are no rows of health: {error}"),
        }
    }
}
