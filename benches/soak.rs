//! A long run: the program as the Functions host keeps it, tick after tick, while Mimecast has new
//! pages all the time and both ends misbehave. It ends well if nothing is lost, no more came twice
//! than answers were lost, and memory, open files and threads stay flat.
//!
//! `benches/soak` starts it.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{Days, NaiveDate};
use clap::Parser;
use functions_host::{HostSimulator, Invocation, Level};
use mimecast_sentinel::simulator::{
    BatchFile, FaultPlan, MadeUp, Page, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::table::EventId;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior, interval};

#[path = "../tests/support/functions_host.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, clippy::expect_used, clippy::unwrap_used)]
mod functions_host;
#[path = "../tests/support/ports.rs"]
#[allow(unreachable_pub)]
mod ports;

const STREAMS: [&str; 3] = ["entities", "mailflow", "urlclick"];
/// From one tick to the next: three listings a tick stay under 50 in 15 minutes, with room for
/// those that faults cost.
const TICK: Duration = Duration::from_secs(70);
/// Ticks without new pages that a backlog may need at the end.
const LAST_TICKS: u32 = 12;
/// Requests in a thousand that meet a fault.
const FAULTS_PER_MILLE: u16 = 30;
/// The ingestion endpoint refuses one row in this many.
const POISON: u128 = 10_000;
/// One file in this many is no whole gzip.
const DAMAGED: u32 = 60;
/// More rows than any body holds.
const ROWS_OF_A_BODY: u64 = 2_500;
/// Bodies that may come again after a stream failed (docs/SEMANTICS.md).
const BODIES_AGAIN: u64 = 4;

#[derive(Parser)]
struct Soak {
    /// The program
    #[arg(long)]
    program: PathBuf,
    /// How long new pages come
    #[arg(default_value_t = 30.0)]
    minutes: f64,
    /// Of the events and the faults
    #[arg(default_value_t = 1)]
    seed: u64,
    /// What `cargo bench` gives to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

type Failure = Box<dyn Error>;

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let soak = Soak::parse();
    let plan = FaultPlan::seeded(soak.seed, FAULTS_PER_MILLE).poison(|row| is_poison(id_of(row)));
    let options =
        SimulatorOptions { latency: Duration::from_millis(10), ..SimulatorOptions::default() };
    let simulator = Simulator::start(World::default(), plan, options).await?;
    let folder = TempDir::new()?;
    let state = folder.path().join("state");
    let env = settings(&simulator, &state);
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut host = HostSimulator::start(&soak.program, &["serve"], &env).await;
    let process = host.worker().id().ok_or("the program has ended")?;

    println!("Seed {}, {} minutes, ticks every {} s.", soak.seed, soak.minutes, TICK.as_secs());
    let began = Instant::now();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let sampling = tokio::spawn(sample(process, began, Arc::clone(&seen)));
    let mut feed = Feed::new(soak.seed);
    let mut oracle = Oracle::default();
    let mut ticks = Ticks::default();
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = Duration::from_secs_f64(soak.minutes * 60.0);
    let mut last_ticks = 0;
    while began.elapsed() < end || (oracle.open() > 0 && last_ticks < LAST_TICKS) {
        timer.tick().await;
        if began.elapsed() < end {
            let pages = feed.next();
            for page in pages {
                feed.show(&simulator, page.stream, page.listed.clone());
                oracle.expect(page);
            }
        } else {
            last_ticks += 1;
        }
        let (invocation, failed_streams) = tick(&mut host).await;
        ticks.take(invocation, failed_streams);
        oracle.landed(&simulator.take_landed());
        oracle.quarantined(&state.join("quarantine"))?;
        eprintln!(
            "{:5.0} s  {ticks}, {} events given, {} neither landed nor in quarantine",
            began.elapsed().as_secs_f64(),
            oracle.events.len(),
            oracle.open(),
        );
    }
    sampling.abort();
    let same_process = host.starts() == 1;
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let calls = simulator.calls();
    println!(
        "{ticks}; {} listings, {} downloads, {} posts; {} faults.",
        calls.all_listings(),
        calls.all_downloads(),
        calls.posts,
        simulator.faults().len(),
    );
    let flat = seen.report();
    let bound = calls.lost_rows + ticks.failed_streams * BODIES_AGAIN * ROWS_OF_A_BODY;
    let conserved = oracle.report(bound);
    let violations = simulator.violations();
    for what in &violations {
        println!("The simulator objected: {what}");
    }
    if !same_process {
        println!("The program ended and was started again.");
    }
    let well = flat && conserved && violations.is_empty() && same_process;
    println!("\n{}", if well { "passed" } else { "FAILED" });
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One tick, and how many streams failed in it. Prints what the host would show as an error.
async fn tick(host: &mut HostSimulator) -> (Invocation, u64) {
    let before = host.lines().len();
    let invocation = host.tick("CloudIntegrated").await;
    let errors = host.lines().split_off(before).into_iter();
    let errors = errors.filter(|(level, _)| matches!(level, Level::Warning | Level::Error));
    let mut failed_streams = 0;
    for (_, line) in errors {
        // What ends a stream says what to do.
        failed_streams += u64::from(line.contains("\"fix\":"));
        eprintln!("{line}");
    }
    (invocation, failed_streams)
}

fn settings(simulator: &Simulator, state: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("MIMECAST_BASE_URL", simulator.url().to_owned()),
        ("MIMECAST_CLIENT_ID", simulator.client_id().to_owned()),
        ("MIMECAST_CLIENT_SECRET", simulator.client_secret().to_owned()),
        ("MIMECAST_CALLS_PER_15_MINUTES", "50".to_owned()),
        ("START_DATE", "2026-08-01".to_owned()),
        ("LOGS_INGESTION_ENDPOINT", simulator.url().to_owned()),
        ("LOGS_INGESTION_RULE_ID", simulator.rule_id().to_owned()),
        ("IDENTITY_ENDPOINT", simulator.identity_endpoint()),
        ("IDENTITY_HEADER", simulator.identity_header().to_owned()),
        ("CHECKPOINT_URL", state.display().to_string()),
    ]
}

fn id_of(row: &Value) -> u128 {
    read_id(row["EventId"].as_str().unwrap_or_default())
}

/// 0, which no event has, where it is not an id.
fn read_id(hex: &str) -> u128 {
    u128::from_str_radix(hex, 16).unwrap_or_default()
}

fn is_poison(id: u128) -> bool {
    id.is_multiple_of(POISON)
}

/// A page, and what its files were made of.
struct NewPage {
    stream: &'static str,
    listed: Page,
    events: Vec<u128>,
    damaged: Vec<(Bytes, Vec<u128>)>,
}

/// New pages, of sizes drawn by seed.
struct Feed {
    rng: fastrand::Rng,
    made_up: [MadeUp; 3],
    number: u32,
    /// The last page of each stream, and its index.
    last: BTreeMap<&'static str, (usize, Page)>,
}

impl Feed {
    fn new(seed: u64) -> Self {
        let made_up = [0, 1, 2].map(|stream| MadeUp::new(seed * 3 + stream));
        Self { rng: fastrand::Rng::with_seed(seed), made_up, number: 0, last: BTreeMap::new() }
    }

    /// A page for each stream.
    fn next(&mut self) -> Vec<NewPage> {
        let day = NaiveDate::from_ymd_opt(2026, 8, 1).unwrap_or_default();
        let day = day + Days::new(u64::from(self.number / 100));
        let at = day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis();
        self.number += 1;
        let (rng, number) = (&mut self.rng, self.number);
        let pages = STREAMS.into_iter().zip(&mut self.made_up).map(|(stream, made_up)| {
            let (mut events, mut damaged) = (Vec::new(), Vec::new());
            let mut listed = Page::new(day).caught_up(Some(true));
            for file in 0..rng.u32(5..50) {
                let lines: Vec<String> =
                    (0..rng.i64(0..2_000)).map(|n| made_up.event(stream, at + n)).collect();
                let ids = lines.iter().map(|line| EventId::of(line.as_bytes()).to_string());
                let ids: Vec<u128> = ids.map(|id| read_id(&id)).collect();
                let name = format!("{day}/{number:05}-{file:02}.json.gz");
                let mut file = BatchFile::of_lines(&name, &lines);
                events.extend(&ids);
                // Cut off: of bytes that are altered, some may still be read as rows.
                if rng.u32(..DAMAGED) == 0 && !lines.is_empty() {
                    let length = rng.usize(1..file.bytes.len());
                    file = BatchFile::raw(&name, file.bytes.slice(..length));
                    damaged.push((file.bytes.clone(), ids));
                }
                listed = listed.file(file);
            }
            NewPage { stream, listed, events, damaged }
        });
        pages.collect()
    }

    /// Puts `page` behind the stream's last one, which then is no longer where it is caught up.
    fn show(&mut self, simulator: &Simulator, stream: &'static str, page: Page) {
        let index = match self.last.remove(stream) {
            Some((index, before)) => {
                simulator.set_page(stream, index, before.caught_up(Some(false)));
                index + 1
            }
            None => 0,
        };
        simulator.add_page(stream, page.clone());
        self.last.insert(stream, (index, page));
    }
}

/// The summary that the host got.
#[derive(Default)]
struct Ticks {
    succeeded: u64,
    failed: u64,
    failed_streams: u64,
    outcomes: BTreeMap<String, u64>,
}

impl Ticks {
    fn take(&mut self, invocation: Invocation, failed_streams: u64) {
        self.failed_streams += failed_streams;
        let outcome = match invocation {
            Invocation::Succeeded { return_value, .. } => {
                self.succeeded += 1;
                return_value["outcome"].as_str().unwrap_or("no outcome").to_owned()
            }
            other => {
                self.failed += 1;
                format!("{other:?}")
            }
        };
        *self.outcomes.entry(outcome).or_default() += 1;
    }
}

impl std::fmt::Display for Ticks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ticks, {} failed {:?}, {} streams failed",
            self.succeeded + self.failed,
            self.failed,
            self.outcomes,
            self.failed_streams,
        )
    }
}

/// What became of each event, by its id.
#[derive(Default)]
struct Oracle {
    events: HashMap<u128, Fate>,
    /// The events of each damaged file, until it is in quarantine whole.
    damaged: HashMap<Bytes, Vec<u128>>,
    kept_files: u64,
    foreign: u64,
}

#[derive(Default)]
struct Fate {
    given: u32,
    landed: u32,
    refused: bool,
    /// It is in a damaged file that is in quarantine: then it need not have landed.
    kept: bool,
}

impl Oracle {
    /// Each event of the page must land or be in quarantine.
    fn expect(&mut self, page: NewPage) {
        for id in page.events {
            self.events.entry(id).or_default().given += 1;
        }
        self.damaged.extend(page.damaged);
    }

    fn landed(&mut self, rows: &[Value]) {
        for row in rows {
            match self.events.get_mut(&id_of(row)) {
                Some(fate) => fate.landed += 1,
                None => self.foreign += 1,
            }
        }
    }

    /// Reads what is in quarantine: `<stream>/<file>/<line>-<event id>.json` for a refused row,
    /// `<stream>/<file>/file-<version>` for a file that is kept whole.
    fn quarantined(&mut self, folder: &Path) -> Result<(), Failure> {
        if !folder.exists() {
            return Ok(());
        }
        for stream in fs::read_dir(folder)? {
            for file in fs::read_dir(stream?.path())? {
                for record in fs::read_dir(file?.path())? {
                    self.record(&record?.path())?;
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, path: &Path) -> Result<(), Failure> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("file-")
            && let Some(ids) = self.damaged.remove(&Bytes::from(fs::read(path)?))
        {
            self.kept_files += 1;
            for id in ids {
                self.events.entry(id).or_default().kept = true;
            }
        }
        let id = name.strip_suffix(".json").and_then(|name| name.split('-').nth(1)).map(read_id);
        if let Some(fate) = id.and_then(|id| self.events.get_mut(&id)) {
            fate.refused = true;
        }
        Ok(())
    }

    /// Events that neither landed nor are in quarantine.
    fn open(&self) -> usize {
        let lost = |fate: &&Fate| fate.landed == 0 && !fate.refused && !fate.kept;
        self.events.values().filter(lost).count()
    }

    /// Prints what became of the events; whether it is as promised.
    fn report(&self, bound: u64) -> bool {
        let twice: u64 = self
            .events
            .values()
            .map(|fate| u64::from(fate.landed.saturating_sub(fate.given)))
            .sum();
        let refused = self.events.values().filter(|fate| fate.refused);
        let both = refused.clone().filter(|fate| fate.landed > 0).count();
        let poison = |id: u128, fate: &Fate| is_poison(id) && !fate.kept;
        let poison = self.events.iter().filter(|(id, fate)| poison(**id, fate)).count();
        let refused = refused.filter(|fate| !fate.kept).count();
        println!(
            "{} events: {} lost; {twice} rows more than once (at most {bound}, by the answers that \
             were lost and the streams that failed); {refused} of {poison} refused rows in quarantine, {both} of them landed \
             too; {} of {} damaged files kept; {} foreign rows.",
            self.events.len(),
            self.open(),
            self.kept_files,
            self.kept_files + self.damaged.len() as u64,
            self.foreign,
        );
        self.open() == 0
            && twice <= bound
            && refused == poison
            && both == 0
            && self.damaged.is_empty()
            && self.foreign == 0
    }
}

/// What `/proc` says of the program: KiB, KiB, and two counts.
#[derive(Clone, Copy)]
struct Sample {
    at: f64,
    values: [u64; 4],
}

const MEASURED: [&str; 4] = ["VmRSS, KiB", "VmHWM, KiB", "open files", "threads"];

#[derive(Default)]
struct Seen {
    samples: Vec<Sample>,
}

/// Looks each second, until it is aborted or the process is gone.
async fn sample(process: u32, began: Instant, seen: Arc<Mutex<Seen>>) {
    let mut timer = interval(Duration::from_secs(1));
    loop {
        timer.tick().await;
        let Some(values) = look(process) else { return };
        let sample = Sample { at: began.elapsed().as_secs_f64(), values };
        seen.lock().unwrap_or_else(PoisonError::into_inner).samples.push(sample);
    }
}

fn look(process: u32) -> Option<[u64; 4]> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let files = fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64;
    Some([field("VmRSS:")?, field("VmHWM:")?, files, field("Threads:")?])
}

impl Seen {
    /// Prints the table; whether the highest values of the second half are those of the first,
    /// the first tenth left out, within a tenth.
    fn report(&self) -> bool {
        let samples = &self.samples;
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
            println!("Nothing was measured.");
            return false;
        };
        let tenth = samples.len() / 10;
        let (early, late) = samples[tenth..].split_at((samples.len() - tenth) / 2);
        println!(
            "\n|  | start | after 10 % | end | max | max, 1st half | max, 2nd half | per hour |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        let mut flat = true;
        for (at, name) in MEASURED.into_iter().enumerate() {
            let max = |of: &[Sample]| of.iter().map(|one| one.values[at]).max().unwrap_or_default();
            let (before, after) = (max(early), max(late));
            println!(
                "| {name} | {} | {} | {} | {} | {before} | {after} | {:+.1} |",
                first.values[at],
                samples[tenth].values[at],
                last.values[at],
                max(samples),
                slope(&samples[tenth..], at) * 3600.0,
            );
            // One more of a few is no trend.
            flat &= after <= before + (before / 10).max(2);
        }
        println!(
            "\n{} samples; the halves and the slope leave the first tenth out.",
            samples.len()
        );
        flat
    }
}

/// Least squares, per second.
#[allow(clippy::cast_precision_loss, reason = "a few million at most")]
fn slope(samples: &[Sample], value: usize) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let at = mean(&|one| one.at);
    let height = mean(&|one| one.values[value] as f64);
    let both: f64 =
        samples.iter().map(|one| (one.at - at) * (one.values[value] as f64 - height)).sum();
    let spread: f64 = samples.iter().map(|one| (one.at - at).powi(2)).sum();
    both / spread
}
