//! A connector wired to the simulator, with waits so short that a test need not wait.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::NaiveDate;
use mimecast_sentinel::azure::credential::{AccessTokens, Credentials, Ways};
use mimecast_sentinel::azure::ingestion::LogsIngestion;
use mimecast_sentinel::checkpoint::Checkpoint;
use mimecast_sentinel::http::{Clients, RetryPolicy};
use mimecast_sentinel::pipeline::{
    Connector, Policy, Pool, RunSummary, StreamSummary, checkpoint_name,
};
use mimecast_sentinel::quarantine::Quarantine;
use mimecast_sentinel::seams::{Clock, Random};
use mimecast_sentinel::settings::{CredentialSettings, SecretSettings};
use mimecast_sentinel::simulator::{FaultPlan, Moment, Simulator, SimulatorOptions, World};
use mimecast_sentinel::sources::graph;
use mimecast_sentinel::sources::mimecast::{Limits, MimecastSource, Options};
use mimecast_sentinel::spill::SpilledFiles;
use mimecast_sentinel::store::{FolderStore, Store};
use mimecast_sentinel::table::CLOUD_INTEGRATED;
use secrecy::SecretString;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::tls::{Certificates, TlsPort};

/// A simulator and a connector that pulls from it. Its own settings may be changed before a pull.
pub struct Rig {
    pub simulator: Simulator,
    pub folder: TempDir,
    pub options: Options,
    pub policy: Policy,
    /// Slots for bodies.
    pub in_flight: usize,
    pub clock: Clock,
    tools: Arc<Tools>,
    entra: TlsPort,
}

/// What is slow to make, and may be shared by rigs of one runtime.
pub struct Tools {
    certificates: Certificates,
    clients: Clients,
    entra_client: reqwest::Client,
}

impl Tools {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let certificates = Certificates::write(folder.path());
        let ca = std::fs::read(&certificates.ca).unwrap();
        let entra_client = reqwest::Client::builder()
            .tls_certs_merge([reqwest::Certificate::from_pem(&ca).unwrap()])
            .build()
            .unwrap();
        Self { certificates, clients: Clients::new(true).unwrap(), entra_client }
    }
}

/// Waits of milliseconds, so that a test with many faults ends soon.
pub fn impatient() -> RetryPolicy {
    RetryPolicy {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(4),
        attempts: 12,
        throttled_at_least: Duration::from_millis(1),
        throttled: Duration::from_millis(5),
    }
}

impl Rig {
    /// With the simulator's defaults.
    pub async fn new(world: World, faults: FaultPlan) -> Self {
        Self::with(world, faults, SimulatorOptions::default()).await
    }

    pub async fn with(world: World, faults: FaultPlan, simulated: SimulatorOptions) -> Self {
        Self::of(Arc::new(Tools::new()), world, faults, simulated).await
    }

    pub async fn of(
        tools: Arc<Tools>,
        world: World,
        faults: FaultPlan,
        simulated: SimulatorOptions,
    ) -> Self {
        let clock = simulated.clock.clone();
        let simulator = Simulator::start(world, faults, simulated).await.unwrap();
        let folder = TempDir::new().unwrap();
        let entra = tools.certificates.serve(&simulator).await;
        let options = Options {
            base_url: simulator.url().parse().unwrap(),
            client_id: simulator.client_id().to_owned(),
            client_secret: Arc::new(SecretString::from(simulator.client_secret())),
            types: vec!["entities", "mailflow", "urlclick"],
            start: NaiveDate::from_ymd_opt(2020, 1, 1).unwrap(),
            calls_per_15_minutes: 100_000,
            call_log: None,
            limits: Limits { line: 2 << 20, file: 8 << 30 },
            loopback: true,
            retry: impatient(),
        };
        let policy = Policy {
            lease_wait: Duration::from_millis(50),
            lease_poll: Duration::from_millis(10),
            download_pause: Duration::from_millis(1),
            ..Policy::default()
        };
        Self { simulator, folder, options, policy, in_flight: 16, clock, tools, entra }
    }

    /// Pulls one stream only.
    pub fn only(mut self, stream: &'static str) -> Self {
        self.options.types = vec![stream];
        self
    }

    pub fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    pub fn connector(&self) -> Connector {
        self.connector_on(Arc::new(FolderStore::new(self.state())))
    }

    /// The identity that Azure and Graph know.
    fn credentials(&self) -> Credentials {
        let (clock, random) = (self.clock.clone(), Random::seeded(1));
        Credentials {
            settings: CredentialSettings::ClientSecret {
                tenant_id: self.simulator.tenant_id().to_owned(),
                client_id: self.simulator.client_id().to_owned(),
                secret: SecretSettings::Given(self.simulator.client_secret().into()),
            },
            // Without a look-up, which takes a thread and real time.
            authority: self.entra.url().replace("localhost", "127.0.0.1").parse().unwrap(),
            ways: Ways {
                http: self.tools.entra_client.clone(),
                http_without_proxy: self.tools.entra_client.clone(),
                retry: self.options.retry,
                seams: (clock, random),
            },
        }
    }

    /// How Microsoft Graph is called.
    pub fn graph(&self) -> graph::Options {
        let scope = "https://graph.microsoft.com/.default";
        graph::Options {
            base_url: self.simulator.url().parse().unwrap(),
            tenant: None,
            sign_in: Arc::new(AccessTokens::new(self.credentials(), scope)),
            http: self.tools.clients.api.clone(),
            every: Duration::ZERO,
            retry: self.options.retry,
            seams: (self.clock.clone(), Random::seeded(1)),
        }
    }

    /// A connector whose checkpoints lie elsewhere.
    pub fn connector_on(&self, store: Arc<dyn Store>) -> Connector {
        let (clock, random) = (self.clock.clone(), Random::seeded(1));
        let credentials = self.credentials();
        let scope = "https://monitor.azure.com/.default";
        let sink = LogsIngestion::new(
            &self.simulator.url().parse().unwrap(),
            self.simulator.rule_id(),
            [(CLOUD_INTEGRATED.name, self.simulator.stream().to_owned())].into(),
            self.tools.clients.api.clone(),
            AccessTokens::new(credentials, scope),
            self.options.retry,
            (clock.clone(), random.clone()),
        );
        let (options, clients) = (self.options.clone(), self.tools.clients.clone());
        Connector {
            source: Arc::new(MimecastSource::new(options, clients, clock.clone(), random.clone())),
            sink: Arc::new(sink),
            quarantine: Quarantine::new(Arc::clone(&store)),
            spill: SpilledFiles::new(Arc::clone(&store)),
            store,
            policy: self.policy,
            pool: Pool::new(self.in_flight),
            clock,
            random,
        }
    }

    /// One pull by a new connector, as a process of its own would make it.
    pub async fn pull(&self) -> RunSummary {
        run(&self.connector()).await
    }

    /// One pull of the only stream.
    pub async fn pull_one(&self) -> StreamSummary {
        let mut streams = self.pull().await.streams;
        assert_eq!(streams.len(), 1);
        streams.remove(0)
    }

    pub fn checkpoint(&self, stream: &str) -> Checkpoint {
        let bytes = std::fs::read(self.state().join(checkpoint_name(stream))).unwrap();
        Checkpoint::parse(&bytes).unwrap()
    }

    /// Every record in quarantine, in the order of its name.
    pub fn quarantined(&self) -> Vec<Value> {
        let mut paths = Vec::new();
        files_below(&self.state().join("quarantine"), &mut paths);
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        paths
            .iter()
            .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
            .collect()
    }

    /// The whole files in quarantine.
    pub fn kept_files(&self) -> Vec<Vec<u8>> {
        let mut paths = Vec::new();
        files_below(&self.state().join("quarantine"), &mut paths);
        paths.retain(|path| path.extension().is_none_or(|extension| extension != "json"));
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    /// A run of a process that is killed when the simulator has the n-th request from now on. What it writes must
    /// not go on: its state is in memory.
    pub async fn kill_at(&self, request: u64, run: impl Future<Output = RunSummary>) {
        let (seen, kill) = (AtomicU64::new(0), Arc::new(Notify::new()));
        let notify = Arc::clone(&kill);
        let watch = move |_: u64, moment: Moment| {
            if moment == Moment::CarriedOut && seen.fetch_add(1, Ordering::Relaxed) + 1 == request {
                notify.notify_one();
            }
            true
        };
        self.simulator.plan(FaultPlan::none().watch(watch));
        tokio::select! {
            _ = run => {}
            () = kill.notified() => {}
        }
    }

    /// Fails if the connector did anything that the real services would not take.
    pub fn assert_no_violations(&self) {
        let mut told = String::new();
        for violation in self.simulator.violations() {
            writeln!(told, "{violation}").unwrap();
        }
        assert!(told.is_empty(), "{told}");
    }
}

pub async fn run(connector: &Connector) -> RunSummary {
    connector.run(connector.begin(), &connector.summaries(), &CancellationToken::new()).await
}

fn files_below(folder: &Path, paths: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, paths);
        } else {
            paths.push(path);
        }
    }
}
