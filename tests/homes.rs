//! `homes/`: the units of systemd and the Kubernetes example. Their settings are settings, systemd takes
//! the units, and the command of the unit runs as it is confined there: as another user, with a root
//! that cannot be written to and its secrets in files. (`tests/homes/run` has the schema of Kubernetes.)
#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use clap::{Arg, Args as _};
use mimecast_sentinel::settings::{RawSettings, SECRETS};
use mimecast_sentinel::simulator::{FaultPlan, Simulator};
use tempfile::TempDir;

use crate::support::program::{
    EXE, Ended, Program, assert_no_secret, ended, events, landed, simulator, skipped,
};
use crate::support::tls::{Certificates, TlsPort};

const UNIT: &str = "homes/systemd/mimecast-sentinel.service";
const TIMER: &str = "homes/systemd/mimecast-sentinel.timer";
const SETTINGS: &str = "homes/systemd/settings.env";
const CRON_JOB: &str = "homes/kubernetes/cronjob.yaml";

/// Where the unit has the program.
const INSTALLED: &str = "/usr/local/bin/mimecast-sentinel";

/// Nobody's account, as in the image.
const USER: u32 = 65532;

/// What systemd gives this unit for what it can still do, of 100; less is better.
const EXPOSURE: &str = "11";

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The values of a key of the unit, in their order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value).collect()
}

#[track_caller]
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let [value] = values(unit, key)[..] else { panic!("{key} is not there once") };
    value
}

fn is_here(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

// ---- The files ----

#[test]
fn every_setting_of_the_examples_is_one() {
    let command = RawSettings::augment_args(clap::Command::new("test"));
    let flags = command.get_arguments().filter_map(Arg::get_env);
    let mut known: BTreeSet<String> = flags.map(|name| name.to_str().unwrap().to_owned()).collect();
    known.extend(SECRETS.iter().map(|name| (*name).to_owned()));
    let (unit, env, cron_job) = (read(UNIT), read(SETTINGS), read(CRON_JOB));
    let of_unit = values(&unit, "Environment").into_iter();
    // Also what is proposed in a comment.
    let of_env = env.lines().map(|line| line.trim_start_matches('#'));
    let of_env =
        of_env.filter(|line| line.split_once('=').is_some_and(|(name, _)| !name.contains(' ')));
    let of_cron_job = cron_job.lines().filter_map(|line| line.trim().strip_prefix("- name: "));
    let of_cron_job =
        of_cron_job.filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
    let names: Vec<&str> = of_unit
        .chain(of_env)
        .map(|line| line.split_once('=').unwrap().0)
        .chain(of_cron_job)
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(known.contains(name), "{name} is no setting");
    }
}

/// Who deploys it as it stands must not run somebody's image.
#[test]
fn the_image_of_the_example_is_nobodys() {
    let text = read(CRON_JOB);
    let images: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    // Upper case is not valid in the name of an image, nor `DIGEST` as a digest.
    assert_eq!(images, ["REGISTRY/REPOSITORY@sha256:DIGEST"]);
}

fn systemd(args: &[&str]) -> Output {
    Command::new("systemd-analyze").args(args).env("SYSTEMD_COLORS", "0").output().unwrap()
}

#[test]
fn systemd_takes_the_units_and_finds_them_confined() {
    if !is_here("systemd-analyze") {
        return skipped("the units of systemd, which is not here");
    }
    let folder = TempDir::new().unwrap();
    // A program that is not there is a fault of the unit.
    let [unit, timer] = [UNIT, TIMER].map(|name| {
        let path = folder.path().join(Path::new(name).file_name().unwrap());
        fs::write(&path, read(name).replace(INSTALLED, EXE)).unwrap();
        path.display().to_string()
    });
    let verified = systemd(&["verify", "--man=no", &unit, &timer]);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
    let judged = systemd(&["security", "--offline=true", "--threshold", EXPOSURE, &unit]);
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
}

#[test]
fn systemd_waits_longer_than_a_run_takes() {
    let unit = read(UNIT);
    let seconds = |key| value(&unit, key).parse::<u64>().unwrap();
    // The limit of a run by default, the wait for a lease, and for what is in flight.
    assert!(seconds("TimeoutStartSec") > 540 + 60 + 30);
    assert!(seconds("TimeoutStopSec") > 30);
    let cron_job = read(CRON_JOB);
    let seconds = |key: &str| -> u64 {
        let line = cron_job.lines().find_map(|line| line.trim().strip_prefix(key));
        line.unwrap().trim_start_matches(": ").parse().unwrap()
    };
    assert!(seconds("activeDeadlineSeconds") > 540 + 60 + 30);
    assert!(seconds("terminationGracePeriodSeconds") > 30);
}

// ---- The unit's command, as it is confined ----

/// What systemd makes of the unit before it starts the program, in a folder.
struct Home {
    folder: TempDir,
    unit: String,
}

/// Needs root, and a kernel that allows a namespace.
fn can_confine() -> bool {
    let can = rustix::process::geteuid().is_root()
        && is_here("setpriv")
        && Command::new("unshare")
            .args(["--mount", "true"])
            .output()
            .is_ok_and(|o| o.status.success());
    if !can {
        skipped("the unit's command as it is confined; it takes root, unshare and setpriv");
    }
    can
}

impl Home {
    /// With the folders and the secrets of the unit, and a copy of the program, which the account can
    /// reach.
    fn new(simulator: &Simulator) -> Self {
        let home = Self { folder: TempDir::new().unwrap(), unit: read(UNIT) };
        fs::set_permissions(home.folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(EXE, home.program()).unwrap();
        for folder in [home.state(), home.credentials()] {
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
            chown(&folder, Some(USER), Some(USER)).unwrap();
        }
        for credential in values(&home.unit, "LoadCredential") {
            let name = credential.split(':').next().unwrap();
            let file = home.credentials().join(name);
            fs::write(&file, format!("{}\n", simulator.client_secret())).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
            chown(&file, Some(USER), Some(USER)).unwrap();
        }
        home
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("mimecast-sentinel")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn credentials(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    /// The environment of the unit, with what a user has put into settings.env.
    fn environment(&self, settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        let credentials = self.credentials().display().to_string();
        let state = format!("/var/lib/{}", value(&self.unit, "StateDirectory"));
        let given = values(&self.unit, "Environment");
        let file = read(SETTINGS);
        let file = file.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let pairs = given.into_iter().chain(file).map(|line| line.split_once('=').unwrap());
        let mut environment: BTreeMap<String, String> = pairs
            .map(|(name, value)| {
                let value = value.replace("%d", &credentials);
                (name.to_owned(), value.replace(&state, &self.state().display().to_string()))
            })
            .collect();
        for (name, value) in settings {
            environment.insert((*name).to_owned(), (*value).to_owned());
        }
        environment
    }

    /// Runs the unit's command as another user without any capability, in a root that cannot be written to
    /// but for the unit's state.
    async fn start(&self, settings: &[(&str, &str)]) -> Ended {
        const CONFINED: &str = r#"
            mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,ro,bind / &&
            exec setpriv --reuid="$1" --regid="$1" --clear-groups --no-new-privs --inh-caps=-all \
                --bounding-set=-all "${@:2}""#;
        let start = value(&self.unit, "ExecStart");
        let program = self.program().display().to_string();
        let user = USER.to_string();
        let state = self.state().display().to_string();
        let mut line = vec!["unshare", "--mount", "bash", "-c", CONFINED, &state, &user, &program];
        line.extend(start.strip_prefix(INSTALLED).unwrap().split_whitespace());
        let mut command = Program::bare().wrapped(&line);
        command.current_dir("/").env("PATH", std::env::var_os("PATH").unwrap());
        ended(command.envs(self.environment(settings)).spawn().unwrap()).await
    }
}

/// A simulator with one page of each stream, its Entra, and the unit at home.
async fn at_home() -> (Simulator, TlsPort, Home, Vec<(&'static str, String)>) {
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let home = Home::new(&simulator);
    let certificates = Certificates::write(home.folder.path());
    fs::set_permissions(&certificates.ca, Permissions::from_mode(0o644)).unwrap();
    let entra = certificates.serve(&simulator).await;
    let settings = vec![
        ("MIMECAST_BASE_URL", simulator.url().to_owned()),
        ("MIMECAST_CLIENT_ID", simulator.client_id().to_owned()),
        ("LOGS_INGESTION_ENDPOINT", simulator.url().to_owned()),
        ("LOGS_INGESTION_RULE_ID", simulator.rule_id().to_owned()),
        ("AZURE_TENANT_ID", simulator.tenant_id().to_owned()),
        ("AZURE_CLIENT_ID", simulator.client_id().to_owned()),
        ("AZURE_AUTHORITY_HOST", entra.url()),
        ("SSL_CERT_FILE", certificates.ca.display().to_string()),
        ("START_DATE", "2020-01-01".to_owned()),
    ];
    (simulator, entra, home, settings)
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unit_pulls_all_events_as_another_user_in_a_root_that_is_read_only() {
    if !can_confine() {
        return;
    }
    let (simulator, _entra, home, settings) = at_home().await;
    for _ in 0..2 {
        let ended = home.start(&borrowed(&settings)).await;
        ended.assert_code(0);
        assert_no_secret(&simulator, &ended.said());
        assert_eq!(landed(&simulator), events(1));
    }
    // As an administrator looks at it.
    let status = Program::bare().set("CHECKPOINT_URL", &home.state().display().to_string());
    let status = status.run(&["status"]).await;
    status.assert_code(0);
    assert!(status.stdout.contains("Connected"), "{status:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_at_home_is_named() {
    if !can_confine() {
        return;
    }
    let (simulator, _entra, home, settings) = at_home().await;
    // Nothing is filled in yet.
    let as_it_is = home.start(&[]).await;
    let all = [
        "MIMECAST_CLIENT_ID",
        "LOGS_INGESTION_ENDPOINT",
        "LOGS_INGESTION_RULE_ID",
        "AZURE_TENANT_ID",
        "AZURE_CLIENT_ID",
    ];
    as_it_is.assert_code(2).assert_stderr(&all);

    // No place for state: of another account, and one that the unit has not opened.
    let state = home.state().display().to_string();
    chown(home.state(), Some(0), Some(0)).unwrap();
    let refused = home.start(&borrowed(&settings)).await;
    refused.assert_code(2).assert_stderr(&[&state, "Permission denied", "give this account"]);
    chown(home.state(), Some(USER), Some(USER)).unwrap();
    let elsewhere = home.folder.path().join("elsewhere").display().to_string();
    let mut moved = borrowed(&settings);
    moved.push(("CHECKPOINT_URL", &elsewhere));
    let refused = home.start(&moved).await;
    refused.assert_code(2).assert_stderr(&[&elsewhere, "Read-only file system"]);

    for file in ["mimecast-client-secret", "azure-client-secret"] {
        let file = home.credentials().join(file);
        chown(&file, Some(0), Some(0)).unwrap();
        let unreadable = home.start(&borrowed(&settings)).await;
        unreadable
            .assert_code(2)
            .assert_stderr(&[&file.display().to_string(), "Permission denied"]);
        chown(&file, Some(USER), Some(USER)).unwrap();
        assert_no_secret(&simulator, &unreadable.said());
    }
}
