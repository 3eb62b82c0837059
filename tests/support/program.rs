//! The real binary as a child process, with nothing in its environment but what it is given.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use chrono::NaiveDate;
use mimecast_sentinel::simulator::{Simulator, World};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The program that is tested.
pub const EXE: &str = env!("CARGO_BIN_EXE_mimecast-sentinel");

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

/// A world of three days and as many streams, of `events` events each in files of `per_file`.
pub fn small_world(events: usize, per_file: usize) -> World {
    let day = |day| NaiveDate::from_ymd_opt(2026, 11, day).unwrap();
    World::made_up(1, day(10)..day(13), events, per_file)
}
