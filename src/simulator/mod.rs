//! Mimecast, Entra, Microsoft Graph, the managed identity and the Logs Ingestion endpoint on loopback, for `demo`,
//! tests and benches.
//!
//! A [`Simulator`] serves a [`World`] (what Mimecast has to give) on one port. It is a strict
//! server: whatever a client does that the real services would refuse, or that would quietly lose
//! data there, is refused and kept in [`Simulator::violations`]. A [`FaultPlan`] makes it
//! misbehave the way the real services do. What the ingestion endpoint accepted is in
//! [`Simulator::landed`].

mod azure;
mod faults;
mod graph;
mod history;
mod made_up;
mod mimecast;
mod reply;
mod rows;
mod serve;
mod state;
mod world;

use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use std::{fmt, io};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::seams::Clock;
use crate::table::{CLOUD_INTEGRATED, TABLES, Table};

pub use faults::{Endpoint, Fault, FaultPlan, Moment};
pub use graph::GraphWorld;
pub use history::{Calls, Drawn};
pub use made_up::MadeUp;
pub use serve::Handler;
pub use world::{BatchFile, NextToken, Page, World};

use state::{Shared, State};

/// How a simulator behaves, apart from its world and its faults.
#[derive(Debug, Clone)]
pub struct SimulatorOptions {
    /// Decides what "today" is for the retention, and the times written into tokens and listings.
    pub clock: Clock,
    /// How many days back a listing may start; an older start gets a 400. `None` keeps everything.
    pub retention_days: Option<u32>,
    /// The text of that 400.
    pub retention_message: String,
    /// After how many days Mimecast forgets its files: their pages are listed empty, and an address
    /// that was given before answers 404. `None` is never.
    pub forgets_after_days: Option<u32>,
    /// The text of the 400 for a page token that is not known; `{token}` is replaced with the token.
    pub unknown_token_message: String,
    /// After how many further listings of its stream a signed URL expires. `None` is never.
    pub signature_listings: Option<u64>,
    /// How long a Mimecast access token lives, in seconds.
    pub mimecast_token_seconds: u64,
    /// How long every answer is held back.
    pub latency: Duration,
    /// What becomes of accepted rows.
    pub keep: Keep,
    /// The most that a body may have, uncompressed. Azure's documents say 1 MB; programs that take
    /// it for 1 MiB and more are known to work.
    pub max_body_bytes: usize,
    /// The tables whose streams the rule has.
    pub tables: Vec<&'static Table>,
    /// Whether bodies are taken as from any program: also without gzip, and with rows of any columns.
    pub any_program: bool,
}

impl Default for SimulatorOptions {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            retention_days: None,
            forgets_after_days: None,
            retention_message: "Invalid date range: 'from' must be within the 7-day retention \
                                period"
                .to_owned(),
            unknown_token_message: "Invalid nextPage token '{token}'".to_owned(),
            signature_listings: None,
            mimecast_token_seconds: 1799,
            latency: Duration::ZERO,
            keep: Keep::Memory,
            max_body_bytes: 1_000_000,
            tables: TABLES.to_vec(),
            any_program: false,
        }
    }
}

/// What becomes of accepted rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// They are kept for [`Simulator::landed`].
    Memory,
    /// They are appended to a file of their table in this folder, one to a line: `<table>.ndjson`.
    Folder(PathBuf),
    /// They are only counted, and not looked into: for benches.
    Count,
}

/// A running simulator. It serves until it is dropped.
pub struct Simulator {
    shared: Arc<Shared>,
    url: String,
    handler: Handler,
    accepting: JoinHandle<()>,
}

impl Simulator {
    /// Starts serving on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start(
        world: World,
        faults: FaultPlan,
        options: SimulatorOptions,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared::new(world, faults, options, url.clone()));
        let handler = Handler::new(&shared);
        let accepting = tokio::spawn(serve::accept(listener, handler.clone()));
        Ok(Self { shared, url, handler, accepting })
    }

    /// `http://127.0.0.1:<port>`: Mimecast's base URL and the ingestion endpoint.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The client id that Mimecast and Entra know.
    pub fn client_id(&self) -> &'static str {
        state::CLIENT_ID
    }

    /// Its secret at the start, with characters that must be escaped in a form.
    pub fn client_secret(&self) -> &'static str {
        state::CLIENT_SECRET
    }

    /// Replaces the secret at Mimecast, at Entra and in the key vault.
    pub fn set_client_secret(&self, secret: &str) {
        self.state().client_secret = secret.to_owned();
    }

    /// Where the key vault has it.
    pub fn secret_uri(&self) -> String {
        format!("{}/secrets/{}", self.url, state::SECRET_NAME)
    }

    /// The Entra tenant.
    pub fn tenant_id(&self) -> &'static str {
        state::TENANT_ID
    }

    /// What App Service would set as `IDENTITY_ENDPOINT`.
    pub fn identity_endpoint(&self) -> String {
        format!("{}/msi/token", self.url)
    }

    /// What App Service would set as `IDENTITY_HEADER`.
    pub fn identity_header(&self) -> &'static str {
        state::IDENTITY_HEADER
    }

    /// The immutable id of the data collection rule.
    pub fn rule_id(&self) -> &'static str {
        state::RULE_ID
    }

    /// That of another rule with the same streams, on which the identity has no role.
    pub fn other_rule_id(&self) -> &'static str {
        state::OTHER_RULE_ID
    }

    /// The stream of `Cloud_Integrated_CL` in the rule.
    pub fn stream(&self) -> &'static str {
        CLOUD_INTEGRATED.stream
    }

    /// Serves single connections, for a test that brings its own listener (with TLS, say).
    pub fn handler(&self) -> Handler {
        self.handler.clone()
    }

    /// From now on listings name files below this address, where the test serves them (with TLS,
    /// say).
    pub fn serve_files_at(&self, url: String) {
        self.state().files_at = url;
    }

    /// The rows that were accepted, in order; empty unless they are kept in memory.
    pub fn landed(&self) -> Vec<Value> {
        self.state().landed.rows.iter().map(|(_, row)| row.clone()).collect()
    }

    /// The same of one table.
    pub fn landed_in(&self, table: &Table) -> Vec<Value> {
        let state = self.state();
        let rows = state.landed.rows.iter().filter(|(stream, _)| *stream == table.stream);
        rows.map(|(_, row)| row.clone()).collect()
    }

    /// Gives up the rows that were accepted since the last call, so that a long run can look at
    /// them without keeping them.
    pub fn take_landed(&self) -> Vec<Value> {
        let rows = std::mem::take(&mut self.state().landed.rows);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// How many rows were accepted.
    pub fn landed_count(&self) -> u64 {
        self.state().landed.count
    }

    /// Why a file of [`Keep::Folder`] took no more rows, if it did not.
    pub fn file_error(&self) -> Option<String> {
        self.state().landed.file_error.clone()
    }

    /// Every breach of the strict checks, in order.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// What was asked of it so far.
    pub fn calls(&self) -> Calls {
        self.state().calls.clone()
    }

    /// Every fault that was drawn, in order.
    pub fn faults(&self) -> Vec<Drawn> {
        self.state().drawn.clone()
    }

    /// The client assertions that Entra was shown, in order.
    pub fn assertions(&self) -> Vec<String> {
        self.state().assertions.clone()
    }

    /// New events: a page behind the last one of `stream`.
    pub fn add_page(&self, stream: &str, page: Page) {
        self.state().add_page(stream, page);
    }

    /// Replaces a page: its files, its flag or where its token leads. Signed URLs that were given
    /// out before stay good; a file of the same name has the new content.
    pub fn set_page(&self, stream: &str, index: usize, page: Page) {
        self.state().set_page(stream, index, page);
    }

    /// The token that leads to the page at `index` of `stream`.
    pub fn page_token(&self, stream: &str, index: usize) -> String {
        self.state().page_token(stream, index)
    }

    /// Makes every page token given out so far unknown, as if it had outlived the retention.
    pub fn forget_page_tokens(&self) {
        self.state().generation += 1;
    }

    /// Gives the identity its role on the rule, or takes it away: then every post is answered 403.
    pub fn set_role(&self, granted: bool) {
        self.state().has_role = granted;
    }

    /// Looks at what Microsoft Graph has to give, or changes it.
    pub fn graph<T>(&self, change: impl FnOnce(&mut GraphWorld) -> T) -> T {
        change(&mut self.state().graph)
    }

    /// From now on, these faults and no others.
    pub fn plan(&self, plan: FaultPlan) {
        self.state().plan = plan;
    }

    /// Puts a fault at the end of the script.
    pub fn script(&self, endpoint: Endpoint, fault: Fault) {
        self.state().plan.push(endpoint, fault);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("url", &self.url).finish_non_exhaustive()
    }
}
