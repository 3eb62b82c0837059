//! The role `faulty` of `benches/peer.rs`: serves some events with one kind of fault, and says of each
//! event whether it landed, and how often. `tests/rivals/compare.py` starts it.

use std::collections::HashMap;
use std::fs;
use std::io::{BufWriter, Write, stdin};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use mimecast_sentinel::simulator::{
    Endpoint, Fault, FaultPlan, Page, Simulator, SimulatorOptions, World,
};
use serde_json::{Value, json};

use super::{Events, options, send, settings};

#[path = "../support/tls.rs"]
#[allow(dead_code, missing_docs, missing_debug_implementations, unreachable_pub)]
#[allow(clippy::unwrap_used)]
pub(super) mod tls;

type Failure = Box<dyn std::error::Error>;

const FILES_PER_PAGE: usize = 2;
const EVENTS_PER_FILE: usize = 4_000;
/// Rows that are refused, as places among the events.
const POISON: [usize; 3] = [1_234, 20_000, 33_333];
/// Every so many requests one meets the fault.
const EVERY: usize = 4;

#[derive(Args)]
pub(super) struct Faulty {
    #[arg(long)]
    fault: Kind,
    #[arg(long, default_value_t = 40_000)]
    events: usize,
    /// Where to write the events as one file (`events.ndjson`) and the authority for TLS (`ca.pem`)
    #[arg(long)]
    folder: PathBuf,
    /// The port for TLS; any free one by default
    #[arg(long, default_value_t = 0)]
    tls_port: u16,
    /// Takes bodies of any program: up to 1,100,000 bytes, also without gzip
    #[arg(long)]
    any_program: bool,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    Nothing,
    Throttled,
    ServerError,
    Unavailable,
    RequestTimeout,
    Reset,
    LostReply,
    TooLarge,
    Poison,
    TokenExpired,
    Killed,
    FileCutShort,
    FileExpired,
    EmptyPage,
}

impl Faulty {
    pub(super) async fn serve(self) -> Result<(), Failure> {
        let events = Events {
            events: self.events,
            events_per_file: EVENTS_PER_FILE,
            distinct: self.events,
            event_bytes: 0,
        };
        let world = self.world(&events);
        let streams = ["entities", "mailflow", "urlclick"];
        let lines: Vec<_> = streams.iter().flat_map(|stream| world.lines(stream)).collect();
        let path = self.folder.join("events.ndjson");
        let mut file = BufWriter::new(fs::File::create(path)?);
        for line in &lines {
            file.write_all(line)?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
        let ids: Vec<String> = lines.iter().map(|line| read_id(line)).collect();
        // So that there is a middle in which a program can be killed.
        let latency = if self.fault == Kind::Killed { 150 } else { 0 };
        let options = SimulatorOptions {
            latency: Duration::from_millis(latency),
            ..options(self.any_program)
        };
        let simulator = Simulator::start(world, self.plan(&ids), options).await?;
        let tls = tls::Certificates::write(&self.folder);
        let port = tls.serve_at(self.tls_port, &simulator).await;
        let mut given = settings(&simulator);
        given["TENANT_ID"] = simulator.tenant_id().into();
        given["TLS_ENDPOINT"] = port.url().into();
        given["CA"] = tls.ca.display().to_string().into();
        send(&given)?;
        let read = || async {
            tokio::task::spawn_blocking(|| {
                let mut line = String::new();
                stdin().read_line(&mut line).map(|_| line)
            })
            .await
        };
        loop {
            let line = read().await??;
            match line.trim() {
                "" => return Ok(()),
                "landed" => send(&simulator.landed_count().into())?,
                given_back => send(&outcome(&simulator, &ids, Path::new(given_back))?)?,
            }
        }
    }

    fn world(&self, events: &Events) -> World {
        let day = chrono::NaiveDate::from_ymd_opt(2026, 8, 1).unwrap_or_default();
        let mut world = World::default();
        for (stream, files) in events.files() {
            for (number, files) in files.chunks(FILES_PER_PAGE).enumerate() {
                if number == 1 && self.fault == Kind::EmptyPage {
                    world = world.page(stream, Page::new(day));
                }
                let page = files.iter().cloned().fold(Page::new(day), Page::file);
                world = world.page(stream, page);
            }
        }
        world
    }

    fn plan(&self, ids: &[String]) -> FaultPlan {
        let after = ("Retry-After", "1".to_owned());
        match self.fault {
            Kind::Nothing | Kind::Killed | Kind::EmptyPage => FaultPlan::none(),
            Kind::Throttled => every(Endpoint::Post, &Fault::TooManyRequests(Some(after))),
            Kind::ServerError => every(Endpoint::Post, &Fault::ServerError),
            Kind::Unavailable => every(Endpoint::Post, &Fault::Unavailable),
            Kind::RequestTimeout => every(Endpoint::Post, &Fault::RequestTimeout),
            Kind::Reset => every(Endpoint::Post, &Fault::Reset),
            Kind::LostReply => every(Endpoint::Post, &Fault::LostReply),
            Kind::TooLarge => every(Endpoint::Post, &Fault::TooLarge),
            Kind::Poison => {
                let poison: Vec<String> = POISON.iter().map(|&at| ids[at].clone()).collect();
                FaultPlan::none().poison(move |row| poison.iter().any(|id| id == id_of(row)))
            }
            Kind::TokenExpired => FaultPlan::none()
                .times(8, Endpoint::Post, Fault::Nothing)
                .once(Endpoint::Post, Fault::Unauthorized("InvalidToken".to_owned())),
            Kind::FileCutShort => twice_in_a_row(&Fault::CutShort(100_000)),
            Kind::FileExpired => twice_in_a_row(&Fault::Expired),
        }
    }
}

/// Each [`EVERY`]th request, as far as anything here can come.
fn every(endpoint: Endpoint, fault: &Fault) -> FaultPlan {
    (0..1_000).fold(FaultPlan::none(), |plan, _| {
        plan.times(EVERY - 1, endpoint, Fault::Nothing).once(endpoint, fault.clone())
    })
}

/// The first two downloads of two of the files.
fn twice_in_a_row(fault: &Fault) -> FaultPlan {
    let files = ["entities-000002", "mailflow-000001"];
    files
        .iter()
        .fold(FaultPlan::none(), |plan, file| plan.matching(file, 2, Endpoint::File, fault.clone()))
}

/// What identifies one event, in Mimecast's event and in our row.
fn id_of(event: &Value) -> &str {
    let id = event.get("processingId").or_else(|| event.get("ProcessingId"));
    id.and_then(Value::as_str).unwrap_or_default()
}

fn read_id(line: &[u8]) -> String {
    serde_json::from_slice::<Value>(line).map(|event| id_of(&event).to_owned()).unwrap_or_default()
}

/// What became of the events; `given_back` are those that the program says it could not deliver.
fn outcome(simulator: &Simulator, ids: &[String], given_back: &Path) -> Result<Value, Failure> {
    let mut fates: HashMap<&str, (u64, bool)> =
        ids.iter().map(|id| (id.as_str(), Default::default())).collect();
    let mut foreign = 0;
    for row in &simulator.landed() {
        match fates.get_mut(id_of(row)) {
            Some((landed, _)) => *landed += 1,
            None => foreign += 1,
        }
    }
    for line in fs::read_to_string(given_back)?.split('\n') {
        // It may be a piece of an event.
        let id = line.split_once(r#""processingId":"#).map(|(_, rest)| rest.trim_start());
        let id = id.and_then(|rest| rest.split('"').nth(1)).unwrap_or_default();
        if let Some((_, given_back)) = fates.get_mut(id) {
            *given_back = true;
        }
    }
    let (missing, landed): (Vec<_>, Vec<_>) = fates.values().partition(|(landed, _)| *landed == 0);
    let given_back = |of: &[&(u64, bool)]| of.iter().filter(|(_, given_back)| *given_back).count();
    let calls = simulator.calls();
    Ok(json!({
        "events": ids.len(),
        "missing": missing.len(),
        "given_back": given_back(&missing),
        "given_back_though_landed": given_back(&landed),
        "twice": fates.values().map(|(landed, _)| landed.saturating_sub(1)).sum::<u64>(),
        "foreign": foreign,
        "posts": calls.posts,
        "largest_body": calls.largest_body,
        "faults": simulator.faults().len(),
        "violations": simulator.violations(),
    }))
}
