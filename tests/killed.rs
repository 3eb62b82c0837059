//! The program, killed with SIGKILL at every request that it makes: when the request has arrived,
//! and when it is carried out and not answered. Started again, it ends the work, and exactly those
//! rows come again that no checkpoint covered.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use mimecast_sentinel::checkpoint::{Checkpoint, Position};
use mimecast_sentinel::pipeline::checkpoint_name;
use mimecast_sentinel::simulator::{
    BatchFile, FaultPlan, MadeUp, Moment, Page, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::table::EventId;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;

use crate::support::program::{Program, STREAMS};
use crate::support::scenario::{DAY, token_of};

/// Programs that run at the same time.
const AT_ONCE: usize = 3;
/// Pages of a stream, each with two files of two events.
const PAGES: usize = 4;
const MAX_LINE_BYTES: usize = 4_096;

/// What Mimecast has to give, and what must become of it.
struct Given {
    world: World,
    /// The lines of each file, by stream and page.
    files: Vec<(&'static str, usize, String, Vec<String>)>,
    refused: String,
    /// What cannot become a row, with the reason in its record.
    undeliverable: BTreeMap<String, &'static str>,
}

fn id(line: &str) -> String {
    EventId::of(line.as_bytes()).to_string()
}

fn given() -> Given {
    let mut made_up = MadeUp::new(5);
    let (mut world, mut files) = (World::default(), Vec::new());
    let at = DAY.and_hms_opt(9, 0, 0).unwrap().and_utc().timestamp_millis();
    for stream in STREAMS {
        for page in 0..PAGES {
            let mut listed = Page::new(DAY);
            for file in 0..2 {
                let mut lines: Vec<String> = (0..2).map(|_| made_up.event(stream, at)).collect();
                match (stream, page, file) {
                    ("mailflow", 1, 0) => lines[1] = "no event".to_owned(),
                    ("urlclick", 2, 1) => lines[0] = "x".repeat(MAX_LINE_BYTES + 1),
                    _ => {}
                }
                let name = format!("{page}-{file}.json.gz");
                listed = listed.file(BatchFile::of_lines(&name, &lines));
                files.push((stream, page, name, lines));
            }
            world = world.page(stream, listed);
        }
    }
    let line = |stream, page: usize| {
        &files.iter().find(|file| (file.0, file.1) == (stream, page)).unwrap().3[0]
    };
    let refused = id(line("entities", 1));
    let undeliverable = BTreeMap::from([
        (refused.clone(), "row-refused"),
        (id("no event"), "not-json"),
        (id(&"x".repeat(MAX_LINE_BYTES + 1)), "line-too-long"),
    ]);
    Given { world, files, refused, undeliverable }
}

impl Given {
    async fn simulator(&self, plan: FaultPlan) -> Simulator {
        let refused = self.refused.clone();
        let plan = plan.poison(move |row| row["EventId"] == *refused);
        Simulator::start(self.world.clone(), plan, SimulatorOptions::default()).await.unwrap()
    }

    /// The events that the checkpoints say are settled.
    fn covered(&self, simulator: &Simulator, program: &Program) -> BTreeSet<String> {
        let mut covered = BTreeSet::new();
        for (stream, page, name, lines) in &self.files {
            let path = program.state().join(checkpoint_name(stream));
            let Some(bytes) = std::fs::read(path).ok().filter(|bytes| !bytes.is_empty()) else {
                continue;
            };
            let checkpoint = Checkpoint::parse(&bytes).unwrap();
            let in_hand = match token_of(&checkpoint.cursor) {
                None => 0,
                Some(token) => {
                    let page = (0..=PAGES).find(|at| simulator.page_token(stream, *at) == token);
                    page.unwrap()
                }
            };
            let of_file = checkpoint.files.iter().find(|(key, _)| key.ends_with(&**name));
            let done = match of_file.map(|(_, progress)| progress.done) {
                _ if *page < in_hand => lines.len(),
                Some(Position::End) if *page == in_hand => lines.len(),
                Some(Position::Line(line)) if *page == in_hand => line as usize,
                _ => 0,
            };
            covered.extend(lines[..done].iter().map(|line| id(line)));
        }
        covered
    }
}

/// How often each event landed.
fn landed(simulator: &Simulator) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in simulator.landed() {
        *counts.entry(row["EventId"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

/// What is in quarantine, and why; and how many whole files.
fn quarantined(program: &Program) -> (BTreeMap<String, String>, usize) {
    let (mut records, mut files) = (BTreeMap::new(), 0);
    for stream in STREAMS {
        let folder = program.state().join("quarantine").join(stream);
        let Ok(folders) = std::fs::read_dir(folder) else { continue };
        for entry in folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap()) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("file-") || name.starts_with("line-") {
                files += 1;
            } else if !name.starts_with('.') {
                let bytes = std::fs::read(&path).unwrap();
                let record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                let text = |key: &str| record[key].as_str().unwrap().to_owned();
                records.insert(text("event_id"), text("reason"));
            }
        }
    }
    (records, files)
}

/// Counts the requests of a program that nobody kills.
async fn requests() -> u64 {
    let given = given();
    let most = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&most);
    let plan = FaultPlan::none().watch(move |number, _| {
        count.fetch_max(number, Ordering::Relaxed);
        true
    });
    let simulator = given.simulator(plan).await;
    let program = Program::of(&simulator).set("MAX_LINE_BYTES", &MAX_LINE_BYTES.to_string());
    program.run(&["pull"]).await.assert_code(0);
    most.load(Ordering::Relaxed)
}

async fn survives(number: u64, moment: Moment) {
    let given = given();
    let child: Arc<Mutex<Option<Child>>> = Arc::default();
    let (victim, dead) = (Arc::clone(&child), AtomicBool::new(false));
    // What the dead had asked for and is not yet begun does not happen: its connections are gone.
    let plan = FaultPlan::none().watch(move |request, at| {
        let mut child = victim.lock().unwrap();
        let Some(killed) = &mut *child else { return true };
        if (request, at) == (number, moment) {
            killed.start_kill().unwrap();
            dead.store(true, Ordering::Relaxed);
        }
        !dead.load(Ordering::Relaxed)
    });
    let simulator = given.simulator(plan).await;
    let program = Program::of(&simulator).set("MAX_LINE_BYTES", &MAX_LINE_BYTES.to_string());
    let mut started = program.command(&["pull"]).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = started.stdout.take().unwrap();
    // No request is served before this: the runtime has one thread.
    *child.lock().unwrap() = Some(started);
    // That ends with the program, however that ends.
    stdout.read_to_end(&mut Vec::new()).await.unwrap();
    let mut started = child.lock().unwrap().take().unwrap();
    let status = started.wait().await.unwrap();
    assert_eq!(status.signal(), Some(9), "request {number}, {moment:?}: {status}");
    let at = format!("killed at request {number}, {moment:?}");
    let (before, covered) = (landed(&simulator), given.covered(&simulator, &program));

    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(simulator.violations(), Vec::<String>::new(), "{at}");
    let after = landed(&simulator);
    let events: BTreeSet<String> =
        given.files.iter().flat_map(|file| &file.3).map(|line| id(line)).collect();
    assert!(after.keys().all(|id| events.contains(id)), "{at}: foreign rows");
    for id in &events {
        let is_row = !given.undeliverable.contains_key(id);
        let again = usize::from(is_row && !covered.contains(id));
        let expected = before.get(id).copied().unwrap_or(0) + again;
        assert_eq!(after.get(id).copied().unwrap_or(0), expected, "{at}: {id}");
        assert!(expected > 0 || !is_row, "{at}: {id} is lost");
    }
    let (records, files) = quarantined(&program);
    let expected = given.undeliverable.iter().map(|(id, why)| (id.clone(), (*why).to_owned()));
    assert_eq!(records, expected.collect(), "{at}");
    assert_eq!(files, 1, "{at}: the file with the long line");
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn a_kill_at_any_request_loses_nothing_and_doubles_what_was_not_saved() {
    let requests = block_on(requests());
    let moments = [Moment::Arrived, Moment::CarriedOut];
    let points: Vec<(u64, Moment)> =
        (1..=requests).flat_map(|number| moments.map(|moment| (number, moment))).collect();
    assert!(points.len() > 100, "only {} points", points.len());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((number, moment)) = points.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    block_on(survives(*number, *moment));
                }
            });
        }
    });
}
