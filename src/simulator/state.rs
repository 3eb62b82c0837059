//! The simulator's memory, shared by its connections.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::NaiveDate;
use tokio::time::Instant;

use super::faults::Watch;
use super::history::Landed;
use super::{
    BatchFile, Calls, Drawn, Endpoint, Fault, FaultPlan, GraphWorld, Page, SimulatorOptions, World,
};

pub(super) const CLIENT_ID: &str = "5f1d3c2e-8a47-4b0e-9c55-0d6a7be01c11";
pub(super) const CLIENT_SECRET: &str = "made+up&secret=100%/of it";
/// Under which the key vault has it, as the template does.
pub(super) const SECRET_NAME: &str = "MimecastClientSecret";
pub(super) const TENANT_ID: &str = "9b7a1f60-3c1e-4f6d-8d0a-7f2c5e4b9a33";
pub(super) const IDENTITY_HEADER: &str = "8d0f6a3e7c2b4b1f";
pub(super) const RULE_ID: &str = "dcr-0f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// A rule with the same streams, on which the identity has no role.
pub(super) const OTHER_RULE_ID: &str = "dcr-00000000000000000000000000000002";

/// The streams that exist whether or not the world has a page of them.
const KNOWN_STREAMS: [&str; 3] = ["entities", "mailflow", "urlclick"];

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: SimulatorOptions,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(
        world: World,
        plan: FaultPlan,
        options: SimulatorOptions,
        url: String,
    ) -> Self {
        let state = Mutex::new(State::new(world, plan, url, Landed::new(&options.keep)));
        Self { options, state }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest day a listing may start at.
    pub(super) fn oldest_day(&self) -> NaiveDate {
        self.days_ago(self.options.retention_days)
    }

    /// Whether the files of this day are gone.
    pub(super) fn forgot(&self, day: NaiveDate) -> bool {
        day < self.days_ago(self.options.forgets_after_days)
    }

    fn days_ago(&self, days: Option<u32>) -> NaiveDate {
        let today = self.options.clock.now().date_naive();
        days.and_then(|days| today.checked_sub_days(chrono::Days::new(days.into())))
            .unwrap_or(NaiveDate::MIN)
    }
}

#[derive(Debug)]
pub(super) struct State {
    /// Below what address listings name files.
    pub(super) files_at: String,
    pub(super) streams: HashMap<String, Vec<Page>>,
    /// Every file that was ever listed, by `<stream>/<name>`, and the day of its events.
    pub(super) files: HashMap<String, (NaiveDate, BatchFile)>,
    /// From which byte on a file is damaged.
    pub(super) damaged: HashMap<String, usize>,
    pub(super) plan: FaultPlan,
    /// How often a request was made, by its endpoint and identity.
    attempts: HashMap<(Endpoint, String), u64>,
    /// How many requests came in.
    requests: u64,
    rng: fastrand::Rng,
    /// Only page tokens of this issue are valid.
    pub(super) generation: u32,
    /// When a Mimecast access token ends.
    pub(super) mimecast_tokens: HashMap<String, Instant>,
    /// The resource an Azure access token is for.
    pub(super) azure_tokens: HashMap<String, String>,
    /// The file a signature is for and the number of the listing that gave it.
    pub(super) signatures: HashMap<String, (String, u64)>,
    /// Listings answered, by stream.
    pub(super) listed: HashMap<String, u64>,
    /// The application's, which the key vault has too.
    pub(super) client_secret: String,
    /// Whether the identity may post.
    pub(super) has_role: bool,
    pub(super) assertions: Vec<String>,
    pub(super) calls: Calls,
    pub(super) violations: Vec<String>,
    pub(super) drawn: Vec<Drawn>,
    pub(super) landed: Landed,
    /// The simulator's own address.
    pub(super) url: String,
    pub(super) graph: GraphWorld,
}

impl State {
    fn new(world: World, plan: FaultPlan, url: String, landed: Landed) -> Self {
        let mut state = Self {
            files_at: url.clone(),
            streams: KNOWN_STREAMS.map(|name| (name.to_owned(), Vec::new())).into(),
            files: HashMap::new(),
            damaged: HashMap::new(),
            plan,
            attempts: HashMap::new(),
            requests: 0,
            rng: fastrand::Rng::with_seed(0),
            generation: 0,
            mimecast_tokens: HashMap::new(),
            azure_tokens: HashMap::new(),
            signatures: HashMap::new(),
            listed: HashMap::new(),
            client_secret: CLIENT_SECRET.to_owned(),
            has_role: true,
            assertions: Vec::new(),
            calls: Calls::default(),
            violations: Vec::new(),
            drawn: Vec::new(),
            landed,
            url,
            graph: GraphWorld::default(),
        };
        for (stream, pages) in world.streams {
            pages.into_iter().for_each(|page| state.add_page(&stream, page));
        }
        state
    }

    pub(super) fn add_page(&mut self, stream: &str, page: Page) {
        self.know_files(stream, &page);
        self.streams.entry(stream.to_owned()).or_default().push(page);
    }

    pub(super) fn set_page(&mut self, stream: &str, index: usize, page: Page) {
        self.know_files(stream, &page);
        let place = self.streams.get_mut(stream).and_then(|pages| pages.get_mut(index));
        match place {
            Some(place) => *place = page,
            None => self.violations.push(format!("set_page: {stream} has no page {index}")),
        }
    }

    fn know_files(&mut self, stream: &str, page: &Page) {
        let files = page.files.iter().map(|file| (format!("{stream}/{}", file.name), file.clone()));
        self.files.extend(files.map(|(key, file)| (key, (page.day, file))));
    }

    /// `ci>` in front makes the token contain a `+`, which a client that does not escape it loses.
    pub(super) fn page_token(&self, stream: &str, index: usize) -> String {
        STANDARD.encode(format!("ci>{stream}:{index}:{}", self.generation))
    }

    /// The stream and index of a page token that is still valid.
    pub(super) fn read_page_token(&self, token: &str) -> Option<(String, usize)> {
        let text = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
        let mut parts = text.strip_prefix("ci>")?.rsplitn(3, ':');
        let generation = parts.next()?.parse::<u32>().ok()?;
        let index = parts.next()?.parse().ok()?;
        let stream = parts.next()?.to_owned();
        (generation == self.generation).then_some((stream, index))
    }

    /// Counts a request and returns its fault.
    pub(super) fn meet(&mut self, endpoint: Endpoint, name: &str, identity: String) -> Fault {
        self.calls.count(endpoint, name);
        let attempt = self.attempts.entry((endpoint, identity.clone())).or_default();
        let fault = self.plan.draw(endpoint, name, &identity, *attempt);
        *attempt += 1;
        if let Fault::Corrupt(at) = fault {
            self.damaged.entry(name.to_owned()).or_insert(at);
        }
        if fault != Fault::Nothing {
            self.drawn.push(Drawn { endpoint, identity, fault: fault.clone() });
        }
        fault
    }

    /// Counts a request; its number, and who watches it.
    pub(super) fn watched(&mut self) -> (u64, Option<Watch>) {
        self.requests += 1;
        (self.requests, self.plan.watch.clone())
    }

    /// 128 bits that were not given out before, in hex.
    pub(super) fn fresh(&mut self) -> String {
        format!("{:032x}", self.rng.u128(..))
    }
}
