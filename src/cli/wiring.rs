//! Builds a connector from the settings: the one place that names the vendors together.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use super::{CommandError, backfill};
use crate::azure::blob::{BlobAccess, BlobStore};
use crate::azure::credential::{AccessTokens, Credentials, Ways};
use crate::azure::ingestion::LogsIngestion;
use crate::azure::secret::SecretReader;
use crate::health::Named;
use crate::http::{Clients, RetryPolicy};
use crate::pipeline::{Connector, Policy, Pool, Replay, Source};
use crate::quarantine::Quarantine;
use crate::seams::{Clock, Random};
use crate::settings::{
    self, AzureIdentity, FileLimits, GraphSettings, IngestionSettings, MimecastSettings,
    ReplaySettings, Settings, StateLocation, is_loopback,
};
use crate::sources::Known;
use crate::sources::graph::{self, DirectorySource, RiskSource, RiskStart};
use crate::sources::mimecast::{self, CallLog, Limits, MimecastSource, Options};
use crate::spill::SpilledFiles;
use crate::store::{Below, FolderStore, Store};
use crate::table::{CLOUD_INTEGRATED, HEALTH};

/// What every command needs.
pub(super) struct Wiring {
    pub(super) clients: Clients,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) retry: RetryPolicy,
}

impl Wiring {
    /// With `loopback`, batch files may come from this machine.
    pub(super) fn new(loopback: bool) -> Result<Self, CommandError> {
        let clients = Clients::new(loopback)
            .map_err(|error| CommandError::Failed(format!("no HTTP client: {error}")))?;
        let (clock, random) = (Clock::system(), Random::system());
        Ok(Self { clients, clock, random, retry: RetryPolicy::default() })
    }

    /// What these settings need.
    pub(super) fn of(settings: &Settings) -> Result<Self, CommandError> {
        Self::new(settings.mimecast.as_ref().is_some_and(|to| is_loopback(&to.base_url)))
    }

    /// Everything that the sources that are on need to be pulled, each with how it is looked at. They share
    /// what bounds memory.
    pub(super) fn connectors(
        &self,
        settings: &Settings,
    ) -> Result<Vec<(Named, Connector)>, CommandError> {
        let store = self.store(&settings.state.location)?;
        let mimecast = settings.mimecast.as_ref().map(|of| {
            let source: Arc<dyn Source> = Arc::new(self.source(of));
            (source, settings.schedule.clone())
        });
        let entra_risk = settings.entra_risk.as_ref().map(|of| {
            let start = of.start.map_or(RiskStart::FromNow, RiskStart::Day);
            let source = RiskSource::new(self.graph(&of.graph, graph::RISK_EVERY), start);
            (Arc::new(source) as Arc<dyn Source>, of.schedule.clone())
        });
        let directory = settings.directory.as_ref().map(|of| {
            let source = DirectorySource::new(self.graph(&of.graph, Duration::ZERO), of.round);
            (Arc::new(source) as Arc<dyn Source>, of.schedule.clone())
        });
        let pool = Pool::default();
        let on = [mimecast, entra_risk, directory].into_iter().flatten();
        Ok(on
            .map(|(source, schedule)| {
                let streams = source.streams().iter().map(|stream| stream.name).collect();
                let named = Named { source: source.name(), streams, schedule };
                let connector = self.connector_on(Arc::clone(&store), source, settings);
                (named, Connector { pool: pool.clone(), ..connector })
            })
            .collect())
    }

    fn connector_on(
        &self,
        store: Arc<dyn Store>,
        source: Arc<dyn Source>,
        settings: &Settings,
    ) -> Connector {
        let policy = Policy {
            give_up: (settings.give_up_after, Policy::default().give_up.1),
            spill_after: settings.spill_after,
            ..policy(settings.run_time_limit, settings.max_rows, &settings.ingestion)
        };
        let policy = match source.name() {
            mimecast::SOURCE => policy,
            // Graph says itself when there is no more, and many of its pages are empty.
            _ => Policy { empty_pages: u32::MAX, ..policy },
        };
        Connector {
            source,
            sink: Arc::new(self.sink(&settings.ingestion)),
            quarantine: Quarantine::new(Arc::clone(&store))
                .of_at_most(settings.quarantine_max_bytes),
            spill: SpilledFiles::new(Arc::clone(&store)).of_at_most(settings.spill_max_bytes),
            store,
            policy,
            pool: Pool::default(),
            clock: self.clock.clone(),
            random: self.random.clone(),
        }
    }

    /// The same for a backfill on this store: its own checkpoints, no spill, and calls that are remembered
    /// in `calls`.
    pub(super) fn backfill(
        &self,
        store: Arc<dyn Store>,
        mimecast: &MimecastSettings,
        settings: &Settings,
        calls: Arc<dyn CallLog>,
    ) -> Connector {
        let source = self.source_with(mimecast, Some(calls));
        let connector = self.connector_on(store, Arc::new(source), settings);
        let store: Arc<dyn Store> = Arc::new(Below::new(connector.store, backfill::FOLDER));
        let policy = Policy {
            run_time_limit: backfill::TIME_LIMIT,
            // A file that cannot be had is passed at once: the schedule has its events, or another backfill.
            give_up: (TimeDelta::zero(), 1),
            spill_after: None,
            // No run comes after it that would go on behind them.
            empty_pages: u32::MAX,
            ..connector.policy
        };
        let spill = SpilledFiles::new(Arc::clone(&store));
        Connector { store, spill, policy, ..connector }
    }

    /// How Microsoft Graph is called.
    pub(super) fn graph(&self, settings: &GraphSettings, every: Duration) -> graph::Options {
        let credentials = self.credentials(&settings.identity);
        let scope = format!("{}/.default", settings.cloud.graph());
        graph::Options {
            base_url: settings.base_url.clone(),
            tenant: settings.tenant().map(str::to_owned),
            sign_in: Arc::new(AccessTokens::new(credentials, scope)),
            http: self.clients.api.clone(),
            every,
            retry: self.retry,
            seams: (self.clock.clone(), self.random.clone()),
        }
    }

    /// Everything that a replay of these streams needs.
    pub(super) fn replay(
        &self,
        settings: &ReplaySettings,
        streams: &[Known],
    ) -> Result<Replay, CommandError> {
        let store = self.store(&settings.state.location)?;
        let (limits, now) = (limits(settings.limits), self.clock.now());
        let with_format = |known: &Known| (known.stream, known.format(limits, now));
        Ok(Replay {
            streams: streams.iter().map(with_format).collect(),
            sink: Arc::new(self.sink(&settings.ingestion)),
            // No limit: it only overwrites what is there, and with one a full quarantine could not be
            // emptied.
            quarantine: Quarantine::new(Arc::clone(&store)),
            store,
            policy: policy(settings.run_time_limit, settings.max_rows, &settings.ingestion),
            pool: Pool::default(),
        })
    }

    pub(super) fn source(&self, settings: &MimecastSettings) -> MimecastSource {
        self.source_with(settings, None)
    }

    fn source_with(
        &self,
        settings: &MimecastSettings,
        call_log: Option<Arc<dyn CallLog>>,
    ) -> MimecastSource {
        let options = Options {
            loopback: is_loopback(&settings.base_url),
            base_url: settings.base_url.clone(),
            client_id: settings.client_id.clone(),
            client_secret: Arc::new(SecretReader::new(settings.client_secret.clone(), self.ways())),
            types: settings.types.clone(),
            start: settings.start_date,
            calls_per_15_minutes: settings.calls_per_15_minutes,
            call_log,
            limits: limits(settings.limits),
            retry: self.retry,
        };
        let (clock, random) = (self.clock.clone(), self.random.clone());
        MimecastSource::new(options, self.clients.clone(), clock, random)
    }

    pub(super) fn sink(&self, settings: &IngestionSettings) -> LogsIngestion {
        let credentials = self.credentials(&settings.identity);
        let tokens = AccessTokens::new(credentials, settings.cloud.scope());
        let health = settings.health_stream.clone().map(|stream| (HEALTH.name, stream));
        let streams = [(CLOUD_INTEGRATED.name, settings.stream.clone())].into_iter().chain(health);
        LogsIngestion::new(
            &settings.endpoint,
            &settings.rule_id,
            streams.collect(),
            self.clients.api.clone(),
            tokens,
            self.retry,
            (self.clock.clone(), self.random.clone()),
        )
    }

    /// Where checkpoints and quarantine are kept.
    pub(super) fn store(&self, location: &StateLocation) -> Result<Arc<dyn Store>, CommandError> {
        let (container, access) = match location {
            StateLocation::Folder(path) => {
                let store = FolderStore::new(path);
                for warning in store.warnings() {
                    tracing::warn!("{warning}");
                }
                return Ok(Arc::new(store));
            }
            StateLocation::Blob { container, access } => (container, access),
        };
        let access = match access {
            settings::BlobAccessSettings::Sas(sas) => BlobAccess::Sas(sas.clone()),
            settings::BlobAccessSettings::Identity(identity) => {
                BlobAccess::Identity(Arc::new(self.credentials(identity)))
            }
        };
        let store = BlobStore::new(container.clone(), access, &self.clients.api);
        Ok(Arc::new(store.map_err(failed)?))
    }

    fn credentials(&self, identity: &AzureIdentity) -> Credentials {
        let (settings, authority) = (identity.credential.clone(), identity.authority_host.clone());
        Credentials { settings, authority, ways: self.ways() }
    }

    fn ways(&self) -> Ways {
        Ways {
            http: self.clients.api.clone(),
            http_without_proxy: self.clients.local.clone(),
            retry: self.retry,
            seams: (self.clock.clone(), self.random.clone()),
        }
    }
}

fn limits(FileLimits { max_line_bytes, max_file_bytes }: FileLimits) -> Limits {
    Limits { line: max_line_bytes, file: max_file_bytes }
}

fn policy(run_time_limit: Duration, max_rows: u64, ingestion: &IngestionSettings) -> Policy {
    let gzip_level = ingestion.gzip_level;
    Policy { run_time_limit, max_rows, gzip_level, ..Policy::default() }
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(error.to_string())
}
