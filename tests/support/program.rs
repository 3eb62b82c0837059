//! The real binary as a child process, with nothing in its environment but what it is given.

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use chrono::{Days, NaiveDate, NaiveTime};
use mimecast_sentinel::simulator::{
    BatchFile, FaultPlan, MadeUp, Page, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::table::CLOUD_INTEGRATED;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// The program that is tested.
pub const EXE: &str = env!("CARGO_BIN_EXE_mimecast-sentinel");

pub const STREAMS: [&str; 3] = ["entities", "mailflow", "urlclick"];

/// How long a child may take in all; it only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the program is started: its environment, in a folder of its own.
pub struct Program {
    env: BTreeMap<String, String>,
    pub folder: TempDir,
}

/// What the program left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    /// Without any setting.
    pub fn bare() -> Self {
        Self { env: BTreeMap::new(), folder: TempDir::new().unwrap() }
    }

    /// With the settings for this simulator, whose managed identity it has, and its state in
    /// [`Program::state`].
    pub fn of(simulator: &Simulator) -> Self {
        let program = Self::bare();
        let state = program.state().display().to_string();
        program
            .set("MIMECAST_BASE_URL", simulator.url())
            .set("MIMECAST_CLIENT_ID", simulator.client_id())
            .set("MIMECAST_CLIENT_SECRET", simulator.client_secret())
            .set("START_DATE", "2020-01-01")
            .set("LOGS_INGESTION_ENDPOINT", simulator.url())
            .set("LOGS_INGESTION_RULE_ID", simulator.rule_id())
            .set("IDENTITY_ENDPOINT", &simulator.identity_endpoint())
            .set("IDENTITY_HEADER", simulator.identity_header())
            .set("CHECKPOINT_URL", &state)
            // So that a test which counts posts counts those of events.
            .set("HEALTH_STREAM", "off")
    }

    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn unset(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Its environment.
    pub fn env(&self) -> Vec<(&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The child to be, with its outputs in pipes.
    pub fn command(&self, args: &[&str]) -> Command {
        self.wrapped(&[&[EXE], args].concat())
    }

    /// Another program with this one's environment, such as a shell around it.
    pub fn wrapped(&self, line: &[&str]) -> Command {
        let mut command = Command::new(line[0]);
        command
            .args(&line[1..])
            .env_clear()
            .envs(&self.env)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end.
    pub async fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args).spawn().unwrap()).await
    }

    /// Runs a line of shell in which `$EXE` is the program.
    pub async fn shell(&self, line: &str) -> Ended {
        let mut command = self.wrapped(&["/bin/sh", "-c", line]);
        let path = std::env::var_os("PATH").unwrap();
        ended(command.env("EXE", EXE).env("PATH", path).spawn().unwrap()).await
    }
}

/// Waits for the end of a child and of its outputs.
pub async fn ended(child: Child) -> Ended {
    let output = timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.expect("the program should have ended").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Sends a signal such as `TERM`.
pub fn signal(child: &Child, name: &str) {
    let id = child.id().expect("a child that runs").to_string();
    let status = std::process::Command::new("kill").args(["-s", name, &id]).status().unwrap();
    assert!(status.success());
}

impl Ended {
    /// Everything it said.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// The one JSON object that stdout is.
    pub fn json(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"));
        assert!(value.is_object(), "{self:#?}");
        value
    }

    /// Fails unless the program ended with this code, and without a panic.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// Fails unless stderr has all of these.
    #[track_caller]
    pub fn assert_stderr(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {self:#?}");
        }
        self
    }
}

/// A world whose streams have `pages` pages of two files with ten events each.
pub fn world(pages: u32) -> World {
    let mut world = World::default();
    for (seed, stream) in STREAMS.into_iter().enumerate() {
        // Not 0, from which the simulator draws its tokens: they are looked for in the output.
        let mut made_up = MadeUp::new(seed as u64 + 1);
        for page in 0..pages {
            let day = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap() + Days::new(page.into());
            let at = day.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
            let mut listed = Page::new(day);
            for file in 0..2 {
                let lines: Vec<String> =
                    (0..10).map(|n| made_up.event(stream, at + file * 10 + n)).collect();
                let name = format!("{page}-{file}.json.gz");
                listed = listed.file(BatchFile::of_lines(&name, &lines));
            }
            world = world.page(stream, listed);
        }
    }
    world
}

/// The events of a [`world`] of so many pages.
pub fn events(pages: u32) -> u64 {
    u64::from(pages) * 20 * STREAMS.len() as u64
}

/// A simulator that misbehaves as planned, and answers after `latency`.
pub async fn simulator(pages: u32, plan: FaultPlan, latency: Duration) -> Simulator {
    let options = SimulatorOptions { latency, ..SimulatorOptions::default() };
    Simulator::start(world(pages), plan, options).await.unwrap()
}

/// How many different events landed; the simulator must have had nothing to object to.
#[track_caller]
pub fn landed(simulator: &Simulator) -> u64 {
    assert_eq!(simulator.violations(), Vec::<String>::new());
    let rows = simulator.landed_in(&CLOUD_INTEGRATED);
    let ids: HashSet<_> = rows.iter().map(|row| row["EventId"].as_str().unwrap()).collect();
    ids.len() as u64
}

/// Fails if any secret of the simulator's, any token or any signature is in `said`.
#[track_caller]
pub fn assert_no_secret(simulator: &Simulator, said: &str) {
    let secret = simulator.client_secret();
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    // Azure's tokens begin with `eyJ`, as each JWT does.
    let words = ["Bearer ", "bearer ", "eyJ", "X-Amz-", "sig=", "sig%3D"];
    for needle in words.into_iter().chain([secret, &form, simulator.identity_header()]) {
        assert!(!said.contains(needle), "{needle} in {said}");
    }
    for token in issued() {
        assert!(!said.contains(&token), "{token} in {said}");
    }
}

/// The first tokens and signatures that every simulator gives out.
pub fn issued() -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(0);
    (0..2_000).map(|_| format!("{:032x}", rng.u128(..))).collect()
}

/// Waits for something that comes within milliseconds.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "waited for {what} in vain");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Says why a test did not run, where the harness would hide it.
pub fn skipped(why: &str) {
    std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes()).unwrap();
}
