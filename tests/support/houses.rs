//! Sources with the world behind them, as `tests/contract.rs` tests them: each has two streams with a
//! table of its own, and Azure's side is the simulator.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use mimecast_sentinel::checkpoint::Cursor;
use mimecast_sentinel::pipeline::source::{Format, Opened, Page, Part};
use mimecast_sentinel::pipeline::{Connector, Interrupt, Source};
use mimecast_sentinel::seams::{Clock, Deadline, Random};
use mimecast_sentinel::simulator::{self, BatchFile, FaultPlan, SimulatorOptions, World};
use mimecast_sentinel::table::{CLOUD_INTEGRATED, Stream, Table};
use serde_json::Value;

use super::rig::{Rig, impatient};
use super::second_source::server::ThermometerServer;
use super::second_source::{ALARMS, READINGS, ThermometerSource};

/// What a house is built for.
pub struct Plan {
    /// What goes wrong at the simulator.
    pub faults: FaultPlan,
    /// A seed, and of how many in a thousand requests something becomes that passes: for a server that is
    /// not the simulator.
    pub seeded: (u64, u64),
    /// The most events of a page, which is two parts.
    pub page: usize,
}

/// A source with the world behind it. The events of its n-th stream have the numbers from n · 1,000 on.
#[async_trait]
pub trait House: Send + Sync + Sized + 'static {
    async fn new(plan: Plan) -> Self;

    /// What is behind the sink.
    fn rig(&self) -> &Rig;

    /// The source, as a new process makes it.
    fn source(&self) -> Arc<dyn Source>;

    /// There are more events, in pages of their own. One that is in `no_rows` is a line that is no event.
    fn add(&self, numbers: Range<u64>, no_rows: &[u64]);

    /// Three weeks go by: the source has none of the events any more that it had, and refuses the cursors
    /// that it gave.
    fn lapse(&self);

    /// The number of the event that a row was made of.
    fn number(row: &Value) -> u64;

    /// A connector of a new process.
    fn connector(&self) -> Connector {
        Connector { source: self.source(), ..self.rig().connector() }
    }
}

/// A clock that goes on when a test says so.
#[derive(Clone)]
pub struct HandClock(Arc<AtomicI64>);

impl HandClock {
    pub fn new() -> Self {
        let start = NaiveDate::from_ymd_opt(2026, 11, 10).unwrap().and_hms_opt(9, 0, 0).unwrap();
        Self(Arc::new(AtomicI64::new(start.and_utc().timestamp_millis())))
    }

    pub fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0.load(Ordering::Relaxed)).unwrap()
    }

    pub fn clock(&self) -> Clock {
        let clock = self.clone();
        Clock::from_fn(move || clock.now())
    }

    pub fn go_on(&self, by: TimeDelta) {
        self.0.fetch_add(by.num_milliseconds(), Ordering::Relaxed);
    }

    async fn rig(&self, tables: [&'static Table; 2], faults: FaultPlan) -> Rig {
        let options = SimulatorOptions {
            clock: self.clock(),
            retention_days: Some(7),
            tables: tables.to_vec(),
            ..SimulatorOptions::default()
        };
        Rig::with(World::default(), faults, options).await
    }
}

/// The names of the streams with these numbers.
fn stream_of(names: [&'static str; 2], numbers: &Range<u64>) -> &'static str {
    names[numbers.start as usize / 1_000]
}

/// Mimecast, whose source has one table: here the second stream has another of the same columns.
pub struct Mimecast {
    rig: Rig,
    clock: HandClock,
    page: usize,
}

const MIMECAST: [&str; 2] = ["entities", "mailflow"];

static MAILFLOW: Table =
    Table::new("Mailflow_CL", "Custom-Mailflow", Some("timestamp"), CLOUD_INTEGRATED.columns);

struct TwoTables(Arc<dyn Source>);

#[async_trait]
impl House for Mimecast {
    async fn new(plan: Plan) -> Self {
        let clock = HandClock::new();
        let mut rig = clock.rig([&CLOUD_INTEGRATED, &MAILFLOW], plan.faults).await;
        rig.options.types = MIMECAST.to_vec();
        Self { rig, clock, page: plan.page }
    }

    fn rig(&self) -> &Rig {
        &self.rig
    }

    fn source(&self) -> Arc<dyn Source> {
        Arc::new(TwoTables(self.rig.connector().source))
    }

    fn add(&self, numbers: Range<u64>, no_rows: &[u64]) {
        let (stream, now) = (stream_of(MIMECAST, &numbers), self.clock.now());
        let line = |n: &u64| match no_rows.contains(n) {
            true => format!("{n} is no event"),
            false => {
                let timestamp = now.timestamp_millis() + *n as i64;
                format!(r#"{{"n":{n},"processingId":"p{n}","timestamp":{timestamp}}}"#)
            }
        };
        for numbers in numbers.collect::<Vec<_>>().chunks(self.page) {
            let page = simulator::Page::new(now.date_naive());
            let files = numbers.chunks(self.page.div_ceil(2)).map(|numbers| {
                let lines: Vec<String> = numbers.iter().map(line).collect();
                BatchFile::of_lines(&format!("{}.json.gz", numbers[0]), &lines)
            });
            let page = files.fold(page, simulator::Page::file);
            self.rig.simulator.add_page(stream, page);
        }
    }

    fn lapse(&self) {
        self.clock.go_on(TimeDelta::days(21));
        self.rig.simulator.forget_page_tokens();
    }

    fn number(row: &Value) -> u64 {
        row["AdditionalFields"]["n"].as_u64().unwrap()
    }
}

#[async_trait]
impl Source for TwoTables {
    fn name(&self) -> &'static str {
        "of a test"
    }

    fn owner(&self) -> BTreeMap<String, String> {
        self.0.owner()
    }

    fn streams(&self) -> Vec<Stream> {
        let tables = [&CLOUD_INTEGRATED, &MAILFLOW];
        let streams = self.0.streams().into_iter().zip(tables);
        streams.map(|(stream, table)| Stream { table, ..stream }).collect()
    }

    fn format(&self, stream: &Stream) -> Arc<dyn Format> {
        self.0.format(stream)
    }

    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        self.0.page(stream, at, deadline).await
    }

    async fn open(&self, part: &Part, deadline: Deadline) -> Result<Opened, Interrupt> {
        self.0.open(part, deadline).await
    }

    fn is_same(&self, known: &str, listed: &str) -> bool {
        self.0.is_same(known, listed)
    }

    fn finished(&self, stream: &Stream) {
        self.0.finished(stream);
    }
}

/// The second source.
pub struct Thermometers {
    rig: Rig,
    clock: HandClock,
    server: ThermometerServer,
    source: ThermometerSource,
}

const THERMOMETERS: [&str; 2] = ["readings", "alarms"];

#[async_trait]
impl House for Thermometers {
    async fn new(plan: Plan) -> Self {
        let clock = HandClock::new();
        let rig = clock.rig([&READINGS, &ALARMS], plan.faults).await;
        let server = ThermometerServer::start(plan.seeded).await;
        let source = ThermometerSource {
            client: reqwest::Client::new(),
            base_url: server.url.parse().unwrap(),
            limit: plan.page,
            retry: impatient(),
            clock: clock.clock(),
            random: Random::seeded(1),
        };
        Self { rig, clock, server, source }
    }

    fn rig(&self) -> &Rig {
        &self.rig
    }

    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.source.clone())
    }

    fn add(&self, numbers: Range<u64>, no_rows: &[u64]) {
        let stream = stream_of(THERMOMETERS, &numbers);
        let line = |n: u64| match stream {
            _ if no_rows.contains(&n) => format!("{n} is no event"),
            "readings" => format!(r#"{{"n":{n},"celsius":20.5,"sensor":"roof"}}"#),
            _ => format!(r#"{{"n":{n},"level":3,"limit":30.25,"acknowledged":false}}"#),
        };
        self.server.add(stream, numbers.map(line));
    }

    fn lapse(&self) {
        self.clock.go_on(TimeDelta::days(21));
        self.server.reset();
    }

    fn number(row: &Value) -> u64 {
        row.get("Number").or_else(|| row.get("No")).and_then(Value::as_u64).unwrap()
    }
}
