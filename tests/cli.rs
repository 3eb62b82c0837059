//! The real binary: `pull`, its settings, exit codes, summary, logs and bar.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chrono::{NaiveDate, NaiveTime};
use futures::FutureExt as _;
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, MadeUp, Page, Simulator, SimulatorOptions, World,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::support::azurite::{Azurite, sas};
use crate::support::program::{
    Ended, Program, STREAMS, assert_no_secret, ended, events, issued, landed, simulator, skipped,
    until,
};
use crate::support::tls::Certificates;

const ALWAYS: usize = usize::MAX;

async fn calm() -> Simulator {
    simulator(2, FaultPlan::none(), Duration::ZERO).await
}

async fn faulty(plan: FaultPlan) -> Simulator {
    simulator(2, plan, Duration::ZERO).await
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

// Runs

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_lands_everything_and_tells_it_in_a_table() {
    let simulator = calm().await;
    let program = Program::of(&simulator);
    let first = program.run(&["pull"]).await;
    first.assert_code(0);
    assert_eq!(landed(&simulator), events(2));
    assert_eq!(first.stderr, "");
    let lines: Vec<&str> = first.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{first:#?}");
    assert!(
        lines[0].starts_with("stream           events read  rows delivered  quarantined   files")
    );
    for (line, stream) in lines[1..4].iter().zip(STREAMS) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, [stream, "40", "40", "0", "4", "since", "2020-01-01"]);
    }
    let state = program.state().display().to_string();
    assert!(lines[4].starts_with("this was a first run: no checkpoint"), "{}", lines[4]);
    assert!(lines[4].contains(&state), "{}", lines[4]);
    assert!(lines[5].starts_with("120 rows delivered in "), "{}", lines[5]);
    assert!(lines[5].ends_with(" s: caught up"), "{}", lines[5]);

    let second = program.run(&["pull"]).await;
    second.assert_code(0);
    assert!(second.stdout.contains("\n0 rows delivered in "), "{second:#?}");
    assert_eq!(simulator.landed_count(), events(2), "nothing lands twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_is_one_json_object_with_the_documented_keys() {
    let plan = FaultPlan::none().once(Endpoint::Post, Fault::ServerError);
    let simulator = faulty(plan).await;
    let program = Program::of(&simulator);
    let pulled = program.run(&["pull", "--json"]).await;
    pulled.assert_code(0).assert_stderr(&["INFO", "trying again"]);
    assert_eq!(pulled.stdout.lines().count(), 1, "logs go elsewhere");
    let summary = pulled.json();
    let run =
        ["run_id", "started_at", "finished_at", "outcome", "state_at", "first_run", "streams"];
    assert_eq!(keys(&summary), run.into());
    assert_eq!(summary["first_run"], true);
    assert_eq!(summary["state_at"], program.state().display().to_string());
    let stream = [
        "source",
        "stream",
        "outcome",
        "pages",
        "files",
        "events_read",
        "rows_delivered",
        "rows_quarantined",
        "rows_truncated",
        "bodies",
        "ambiguous_posts",
        "bytes_read",
        "bytes_sent",
        "backfill_from",
        "gap",
        "lag_seconds",
        "files_spilled",
        "files_waiting",
        "held_up",
        "error",
    ];
    let streams = summary["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 3);
    for (summary, name) in streams.iter().zip(STREAMS) {
        assert_eq!(keys(summary), stream.into());
        assert_eq!(summary["stream"], name);
        assert_eq!(summary["outcome"], "caught_up");
        assert_eq!(summary["pages"], 2);
        assert_eq!(summary["files"], 4);
        assert_eq!(summary["events_read"], 40);
        assert_eq!(summary["rows_delivered"], 40);
        assert_eq!(summary["backfill_from"], "2020-01-01");
        assert_eq!(summary["error"], Value::Null);
    }
    assert_eq!(summary["outcome"], "caught_up");
    let ambiguous: u64 = streams.iter().map(|s| s["ambiguous_posts"].as_u64().unwrap()).sum();
    assert_eq!(ambiguous, 1);

    let again = program.run(&["pull", "--json"]).await.json();
    assert_eq!(again["streams"][0]["events_read"], 0);
    assert_eq!(again["streams"][0]["lag_seconds"], Value::Null);
    assert_eq!(simulator.landed_count(), events(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_prints_rows_and_changes_nothing() {
    let simulator = calm().await;
    let program = Program::of(&simulator)
        .unset("LOGS_INGESTION_ENDPOINT")
        .unset("LOGS_INGESTION_RULE_ID")
        .unset("IDENTITY_ENDPOINT")
        .unset("IDENTITY_HEADER")
        .unset("CHECKPOINT_URL");
    let printed = program.run(&["pull", "--dry-run"]).await;
    printed.assert_code(0).assert_stderr(&["rows printed", "120 rows printed in", "caught up"]);
    let rows: Vec<Value> =
        printed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len() as u64, events(2));
    assert!(rows.iter().all(|row| row["EventId"].is_string() && row["type_"].is_string()));
    assert_eq!(simulator.calls().posts, 0);
    assert_eq!(simulator.calls().azure_tokens.len(), 0);
    assert_eq!(program.folder.path().read_dir().unwrap().count(), 0, "nothing is written");
    assert_eq!(simulator.violations(), Vec::<String>::new());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_whose_rows_nobody_reads_on_can_be_stopped() {
    let mut made_up = MadeUp::new(1);
    let lines: Vec<String> =
        (0..1_000).map(|n| made_up.event("entities", 1_800_000_000_000 + n)).collect();
    let page = Page::new(NaiveDate::from_ymd_opt(2026, 11, 15).unwrap());
    let page = page.file(BatchFile::of_lines("a.json.gz", &lines));
    let world = World::default().page("entities", page);
    let simulator =
        Simulator::start(world, FaultPlan::none(), SimulatorOptions::default()).await.unwrap();
    let mut dry = Program::of(&simulator).command(&["pull", "--dry-run"]).spawn().unwrap();
    // A reader that takes one row and keeps the pipe open: it is full long before the body's end.
    let mut rows = BufReader::new(dry.stdout.take().unwrap()).lines();
    assert!(rows.next_line().await.unwrap().is_some());
    let mut log = BufReader::new(dry.stderr.take().unwrap()).lines();
    crate::support::program::signal(&dry, "TERM");
    while !log.next_line().await.unwrap().unwrap().contains("stopping") {}
    crate::support::program::signal(&dry, "TERM");
    ended(dry).await.assert_code(130);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_with_json_is_a_usage_error() {
    let ended = Program::bare().run(&["pull", "--dry-run", "--json"]).await;
    ended.assert_code(2).assert_stderr(&["--json", "--dry-run", "cannot be used with"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_failure() {
    let simulator = calm().await;
    let program = Program::of(&simulator);
    for line in [
        "{ $EXE pull --dry-run; echo code $? >&2; } | head -n 1 >/dev/null",
        "{ $EXE pull --dry-run; echo code $? >&2; } | true",
        "{ sleep 0.1; $EXE pull --json; echo code $? >&2; } | true",
        "{ sleep 0.1; $EXE pull; echo code $? >&2; } | true",
        "{ sleep 0.1; $EXE state show; echo code $? >&2; } | true",
        "{ sleep 0.1; $EXE demo; echo code $? >&2; } | true",
        "$EXE pull >&- 2>&-; echo code $? >&2",
    ] {
        assert_eq!(program.shell(line).await.stderr, "code 0\n", "{line}");
    }
    for line in ["$EXE pull >/dev/full", "$EXE state show >/dev/full", "$EXE demo >/dev/full"] {
        let full = program.shell(line).await;
        full.assert_code(1).assert_stderr(&["error: stdout cannot be written to: No space left"]);
    }
    program.shell("$EXE pull --dry-run >/dev/full").await.assert_code(1).assert_stderr(&["stdout"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_in_the_documented_folder_by_default() {
    let simulator = calm().await;
    let program = Program::of(&simulator).unset("CHECKPOINT_URL");
    program.run(&["pull"]).await.assert_code(0);
    assert!(program.folder.path().join("mimecast-sentinel-state/checkpoints").is_dir());
    program.run(&["state", "show"]).await.assert_code(0);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn state_is_its_owners_alone_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let simulator = faulty(FaultPlan::none().once(Endpoint::File, Fault::Corrupt(30))).await;
    let program = Program::of(&simulator);
    program.shell("umask 000 && exec $EXE pull").await.assert_code(0);
    let (mut folders, mut files) = (vec![program.state()], Vec::new());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    let are = |end| files.iter().filter(|file| file.to_string_lossy().ends_with(end)).count();
    let have = |part| files.iter().filter(|file| file.to_string_lossy().contains(part)).count();
    let seen = [are("/checkpoints/entities.json"), have("-corrupt-file-"), have("/file-")];
    assert_eq!(seen, [1; 3], "{files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pull_waits_for_the_first() {
    let simulator = simulator(2, FaultPlan::none(), Duration::from_millis(50)).await;
    let program = Program::of(&simulator);
    let first = program.command(&["pull"]).spawn().unwrap();
    until("the first pull", || simulator.landed_count() > 0).await;
    let second = program.command(&["pull"]).spawn().unwrap();
    ended(first).await.assert_code(0);
    let second = ended(second).await;
    second.assert_code(0);
    assert!(second.stdout.contains("\n0 rows delivered"), "{second:#?}");
    assert_eq!(simulator.landed_count(), events(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn being_asked_to_stop_ends_a_pull_in_order() {
    for signal in ["TERM", "INT"] {
        let simulator = simulator(8, FaultPlan::none(), Duration::from_millis(40)).await;
        let program = Program::of(&simulator);
        let pull = program.command(&["pull", "--json"]).spawn().unwrap();
        until("the first rows", || simulator.landed_count() > 0).await;
        crate::support::program::signal(&pull, signal);
        let stopped = ended(pull).await;
        stopped.assert_code(0).assert_stderr(&["stopping"]);
        assert_eq!(stopped.json()["outcome"], "time_limit");
        assert!(simulator.landed_count() < events(8), "it was to be stopped in the middle");
        program.run(&["pull"]).await.assert_code(0);
        assert_eq!(landed(&simulator), events(8));
        assert_eq!(simulator.landed_count(), events(8), "nothing landed twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_limit_is_no_failure_and_the_next_run_goes_on() {
    let simulator = simulator(8, FaultPlan::none(), Duration::from_millis(80)).await;
    let program = Program::of(&simulator).set("RUN_TIME_LIMIT_SECONDS", "1");
    let first = program.run(&["pull"]).await;
    first.assert_code(0);
    assert!(first.stdout.contains("stopped before the end"), "{first:#?}");
    assert!(simulator.landed_count() < events(8));
    program.unset("RUN_TIME_LIMIT_SECONDS").run(&["pull"]).await.assert_code(0);
    assert_eq!(landed(&simulator), events(8));
    assert_eq!(simulator.landed_count(), events(8));
}

// Exit codes

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_3_is_for_some_streams_and_names_them() {
    let plan = FaultPlan::none().matching("mailflow", ALWAYS, Endpoint::Listing, Fault::Forbidden);
    let simulator = faulty(plan).await;
    let pulled = Program::of(&simulator).run(&["pull"]).await;
    pulled.assert_code(3).assert_stderr(&["ERROR", "mailflow", "mimecast-forbidden", "fix="]);
    assert_eq!(pulled.stderr.lines().count(), 1, "a failure is logged once: {pulled:#?}");
    assert!(pulled.stdout.contains("80 rows delivered in "), "{pulled:#?}");
    assert!(pulled.stdout.contains("some streams failed, the others did their work"));
    assert_eq!(landed(&simulator), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_2_is_for_what_a_person_must_mend() {
    let simulator = calm().await;
    let wrong = Program::of(&simulator).set("MIMECAST_CLIENT_SECRET", "wrong-canary");
    let pulled = wrong.run(&["pull", "--json"]).await;
    pulled.assert_code(2).assert_stderr(&["mimecast-credentials", "MIMECAST_CLIENT_SECRET"]);
    assert_eq!(pulled.json()["streams"][0]["error"]["code"], "mimecast-credentials");
    assert_eq!(keys(&pulled.json()["streams"][0]["error"]), ["code", "fix", "message"].into());
    assert!(!pulled.said().contains("canary"), "{pulled:#?}");

    let plan = FaultPlan::none().times(ALWAYS, Endpoint::Post, Fault::Forbidden);
    let forbidden = faulty(plan).await;
    let pulled = Program::of(&forbidden).run(&["pull"]).await;
    pulled.assert_code(2).assert_stderr(&[
        "ingestion-forbidden",
        "Monitoring Metrics Publisher",
        "403",
    ]);
    assert_eq!(forbidden.landed_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_another_account_is_refused_by_name() {
    let simulator = calm().await;
    let program = Program::of(&simulator);
    program.run(&["pull"]).await.assert_code(0);
    let program_state = program.state();
    let other = program.set("MIMECAST_CLIENT_ID", "another-client").run(&["pull"]).await;
    let id = simulator.client_id();
    let place = format!(".json in {}", program_state.display());
    other.assert_code(2).assert_stderr(&["checkpoint-of-another", "another-client", id, &place]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_1_is_for_what_may_pass() {
    let simulator = calm().await;
    let listing = json!({"value": [{"url": "nowhere"}], "@nextPage": "n", "isCaughtUp": true});
    for stream in ["entities", "mailflow", "urlclick"] {
        let day = NaiveDate::from_ymd_opt(2026, 11, 1).unwrap();
        simulator.set_page(stream, 0, Page::new(day).verbatim(listing.clone()));
    }
    let pulled = Program::of(&simulator).run(&["pull"]).await;
    pulled.assert_code(1).assert_stderr(&["listing-unreadable", "usable address"]);
    assert!(pulled.stdout.ends_with(": failed\n"), "{pulled:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    let Some(disk) = TinyDisk::mount() else {
        return skipped("a tmpfs cannot be mounted here, so no disk is full");
    };
    let simulator = calm().await;
    let state = disk.folder.path().join("state");
    let program = Program::of(&simulator).set("CHECKPOINT_URL", &state.display().to_string());
    let filler = disk.fill();
    let full = program.run(&["pull"]).await;
    full.assert_code(1).assert_stderr(&["No space left", "free space", "store-failed"]);
    assert_eq!(full.stderr.lines().count(), 1, "once for all streams: {full:#?}");
    full.assert_stderr(&[&state.display().to_string()]);

    std::fs::remove_file(filler).unwrap();
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(landed(&simulator), events(2));
    let rows = simulator.landed_count();
    let filler = disk.fill();
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(simulator.landed_count(), rows, "an idle run needs no room");
    std::fs::remove_file(filler).unwrap();
}

/// Nobody waits for a minute of attempts, or is told to look at Azure.
#[tokio::test(flavor = "multi_thread")]
async fn a_demo_on_a_full_disk_says_so_at_once() {
    let Some(disk) = TinyDisk::mount() else {
        return skipped("a tmpfs cannot be mounted here, so no disk is full");
    };
    let folder = disk.folder.path().join("demo");
    let demo = Program::bare().run(&["demo", "--folder", folder.to_str().unwrap()]).await;
    demo.assert_code(1).assert_stderr(&[
        "Cloud_Integrated_CL.ndjson cannot be written to: No space left on device",
        "free space there, or name another --folder",
    ]);
    assert!(!demo.said().contains("Azure"), "{demo:#?}");
}

/// A file system of its own, as small as it gets.
struct TinyDisk {
    folder: TempDir,
}

impl TinyDisk {
    fn mount() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=128k,nr_inodes=64", "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self { folder })
    }

    /// Takes all the room that is left.
    fn fill(&self) -> std::path::PathBuf {
        let path = self.folder.path().join("filler");
        assert!(std::fs::write(&path, vec![0; 1 << 20]).is_err());
        path
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        // A killed process may still be on its way out.
        Command::new("umount").arg("--lazy").arg(self.folder.path()).status().unwrap();
    }
}

// Settings

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_of_the_settings_are_reported_at_once() {
    let program = Program::bare()
        .set("MIMECAST_CLIENT_ID", "")
        .set("MIMECAST_CLIENT_SECRET", "  ")
        .set("MIMECAST_TYPES", "entities,nonsense")
        .set("START_DATE", "01.02.2026")
        .set("SCHEDULE", "0 */9 * * * *")
        .set("LOG_LEVEL", "chatty")
        .set("LOG_FORMAT", "xml")
        .set("GZIP_LEVEL", "10")
        .set("AZURE_CLIENT_SECRET", "azure-canary")
        .set("CHECKPOINT_URL", "https://acc.blob.core.windows.net/c?sv=1&notsig=sas-canary");
    let ended = program.run(&["pull"]).await;
    ended.assert_code(2);
    let faults: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(faults[0], "error: the settings are wrong:");
    let named: Vec<&str> =
        faults[1..].iter().map(|line| line.split_once(": ").unwrap().0).collect();
    let expected = [
        "MIMECAST_CLIENT_ID",
        "MIMECAST_CLIENT_SECRET",
        "MIMECAST_TYPES",
        "START_DATE",
        "SCHEDULE",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "LOGS_INGESTION_ENDPOINT",
        "LOGS_INGESTION_RULE_ID",
        "GZIP_LEVEL",
        "AZURE_TENANT_ID",
        "AZURE_CLIENT_ID",
        "CHECKPOINT_URL",
    ];
    assert_eq!(named, expected);
    assert!(!ended.said().contains("canary"), "{ended:#?}");
    assert_eq!(ended.stdout, "");
    assert_eq!(program.folder.path().read_dir().unwrap().count(), 0);

    let dry = program.run(&["pull", "--dry-run"]).await;
    dry.assert_code(2).assert_stderr(&["MIMECAST_CLIENT_ID", "START_DATE"]);
    for azure in ["LOGS_INGESTION", "AZURE", "CHECKPOINT_URL"] {
        assert!(!dry.stderr.contains(azure), "a dry run needs nothing of Azure: {dry:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_goes_before_its_variable_and_an_empty_value_is_unset() {
    let simulator = calm().await;
    let program = Program::of(&simulator)
        .set("MIMECAST_TYPES", "entities")
        .set("AZURE_CLIENT_SECRET", "")
        .set("AZURE_CLIENT_ID", "")
        .set("START_DATE", "2999-01-01")
        .set("FUNCTIONS_CUSTOMHANDLER_PORT", "");
    let pulled = program
        .run(&["pull", "--json", "--mimecast-types", "urlclick", "--start-date=2020-02-02"])
        .await;
    pulled.assert_code(0);
    let summary = pulled.json();
    assert_eq!(summary["streams"].as_array().unwrap().len(), 1);
    assert_eq!(summary["streams"][0]["stream"], "urlclick");
    assert_eq!(summary["streams"][0]["backfill_from"], "2020-02-02");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_has_no_place_on_the_command_line() {
    let program = Program::bare();
    for args in [
        &["pull", "--mimecast-client-secret=canary"][..],
        &["pull", "--azure-client-secret", "canary"],
    ] {
        let ended = program.run(args).await;
        ended.assert_code(2).assert_stderr(&["unexpected argument"]);
        assert!(!ended.said().contains("canary"), "{ended:#?}");
    }
    let url = format!("https://acc.blob.core.windows.net/state?{}", sas("rw"));
    let shown = program.run(&["state", "show", "--checkpoint-url", &url]).await;
    shown.assert_code(2).assert_stderr(&["CHECKPOINT_URL", "command line", "environment"]);
    assert!(!shown.said().contains("sig="), "{shown:#?}");
}

// Azure's identities, and a container

#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_posts_by_entra() {
    let simulator = calm().await;
    let folder = TempDir::new().unwrap();
    let certificates = Certificates::write(folder.path());
    let entra = certificates.serve(&simulator).await;
    let program = Program::of(&simulator)
        .unset("IDENTITY_ENDPOINT")
        .unset("IDENTITY_HEADER")
        .set("AZURE_TENANT_ID", simulator.tenant_id())
        .set("AZURE_CLIENT_ID", simulator.client_id())
        .set("AZURE_CLIENT_SECRET", simulator.client_secret())
        .set("AZURE_AUTHORITY_HOST", &entra.url())
        .set("SSL_CERT_FILE", &certificates.ca.display().to_string())
        .set("LOG_LEVEL", "TRACE");
    let pulled = program.run(&["pull"]).await;
    pulled.assert_code(0);
    assert_eq!(landed(&simulator), events(2));
    assert_no_secret(&simulator, &pulled.said());

    let state = folder.path().join("other").display().to_string();
    let wrong = program.set("AZURE_CLIENT_SECRET", "wrong-canary").set("CHECKPOINT_URL", &state);
    let refused = wrong.run(&["pull"]).await;
    refused.assert_code(2).assert_stderr(&[
        "azure-credentials",
        "AADSTS7000215",
        "AZURE_CLIENT_SECRET",
    ]);
    assert!(!refused.said().contains("canary"), "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_for_azure_follows_a_redirect() {
    let thief = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let redirect = Fault::Redirect(format!("http://{}/", thief.local_addr().unwrap()));
    let folder = TempDir::new().unwrap();
    let certificates = Certificates::write(folder.path());
    let cases = [
        (Endpoint::Post, false, "ingestion-settings"),
        (Endpoint::AzureToken, false, "azure-token-unavailable"),
        (Endpoint::AzureToken, true, "azure-token-unavailable"),
    ];
    for (endpoint, by_secret, code) in cases {
        let simulator = faulty(FaultPlan::none().times(ALWAYS, endpoint, redirect.clone())).await;
        let entra = certificates.serve(&simulator).await;
        let mut program = Program::of(&simulator);
        if by_secret {
            program = program
                .set("AZURE_TENANT_ID", simulator.tenant_id())
                .set("AZURE_CLIENT_ID", simulator.client_id())
                .set("AZURE_CLIENT_SECRET", simulator.client_secret())
                .set("AZURE_AUTHORITY_HOST", &entra.url())
                .set("SSL_CERT_FILE", &certificates.ca.display().to_string());
        }
        let pulled = program.run(&["pull", "--json"]).await;
        let summary = pulled.json();
        assert_eq!(summary["streams"][0]["error"]["code"], code, "{endpoint:?}: {pulled:#?}");
        assert_eq!(simulator.landed_count(), 0);
        assert_no_secret(&simulator, &pulled.said());
    }
    assert!(thief.accept().now_or_never().is_none(), "the redirect was followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_a_sas_keeps_the_state() {
    let Some(azurite) = Azurite::start().await else { return };
    let container = azurite.create_container("state").await;
    let simulator = calm().await;
    let url = format!("{container}?{}", sas("rwdlc"));
    let program = Program::of(&simulator).set("CHECKPOINT_URL", &url).set("LOG_LEVEL", "TRACE");
    let mut said = String::new();
    for rows in [events(2), 0] {
        let pulled = program.run(&["pull"]).await;
        pulled.assert_code(0);
        assert!(pulled.stdout.contains(&format!("\n{rows} rows delivered")), "{pulled:#?}");
        said += &pulled.said();
    }
    let shown = program.run(&["state", "show"]).await;
    shown.assert_code(0);
    assert_eq!(keys(&shown.json()), STREAMS.into());
    said += &shown.said();

    let reset = program.run(&["state", "reset", "urlclick", "--yes"]).await;
    reset.assert_code(0);
    said += &reset.said();
    let shown = program.run(&["state", "show"]).await.json();
    assert_eq!(keys(&shown), ["entities", "mailflow"].into());
    let again = program.run(&["pull"]).await;
    assert!(again.stdout.contains("\n40 rows delivered"), "{again:#?}");
    assert_eq!(landed(&simulator), events(2));

    let weak = program.set("CHECKPOINT_URL", &format!("{container}?{}", sas("l")));
    let refused = weak.run(&["pull"]).await;
    refused.assert_code(2).assert_stderr(&["store-refused", "CHECKPOINT_URL"]);
    said += &refused.said();
    assert_no_secret(&simulator, &said);
}

// Logs and the bar

/// What makes the program log as much as it can.
fn noisy() -> FaultPlan {
    FaultPlan::none()
        .once(Endpoint::MimecastToken, Fault::ServerError)
        .once(Endpoint::Listing, Fault::Unauthorized("token_expired".to_owned()))
        .once(Endpoint::Listing, Fault::Unavailable)
        .once(Endpoint::File, Fault::Reset)
        .once(Endpoint::File, Fault::Expired)
        .once(Endpoint::File, Fault::CutShort(30))
        .once(Endpoint::Post, Fault::Unauthorized("InvalidToken".to_owned()))
        .once(Endpoint::Post, Fault::ServerError)
        .matching("urlclick", ALWAYS, Endpoint::Listing, Fault::Forbidden)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_that_the_tests_look_for_are_real() {
    let simulator = calm().await;
    let secret = simulator.client_secret();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", simulator.client_id()),
        ("client_secret", secret),
    ];
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/oauth/token", simulator.url());
    let answer = http.post(url).form(&form).send().await.unwrap().bytes().await.unwrap();
    let token: Value = serde_json::from_slice(&answer).unwrap();
    assert!(issued().contains(&token["access_token"].as_str().unwrap().to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_plain_text_with_failures_on_stderr_and_no_secret() {
    let simulator = faulty(noisy()).await;
    let program = Program::of(&simulator).set("LOG_LEVEL", "trace");
    let pulled = program.run(&["pull"]).await;
    pulled.assert_code(3);
    assert!(pulled.stdout.contains(" INFO "), "{pulled:#?}");
    for line in pulled.stderr.lines() {
        assert!(line.contains("ERROR") || line.contains(" WARN"), "{line}");
    }
    assert!(!pulled.said().contains('\u{1b}'), "colours in a pipe: {pulled:#?}");
    assert_no_secret(&simulator, &pulled.said());
    let shown = program.run(&["state", "show"]).await;
    assert_no_secret(&simulator, &shown.said());
    let dry = program.run(&["pull", "--dry-run"]).await;
    dry.assert_code(3);
    assert_no_secret(&simulator, &dry.stderr);
    // Nor what the events say about people: their addresses, for one.
    assert!(dry.stdout.contains('@') && !dry.stderr.contains('@'), "{dry:#?}");
    assert!(!pulled.said().contains('@'), "{pulled:#?}");

    let quiet = program.set("LOG_LEVEL", "ERROR").run(&["pull"]).await;
    assert_eq!(quiet.stdout.lines().count(), 5, "{quiet:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_the_log_has_its_date_or_is_json_if_that_is_asked_for() {
    let plan = FaultPlan::none().once(Endpoint::Post, Fault::ServerError);
    let simulator = faulty(plan.clone()).await;
    let program = Program::of(&simulator);
    let before = Clock::system().now().date_naive();
    let pulled = program.run(&["pull", "--json"]).await;
    let days = [before, Clock::system().now().date_naive()].map(|day| day.to_string());
    let (date, rest) = pulled.stderr.split_once(' ').unwrap();
    assert!(days.iter().any(|day| day == date), "{pulled:#?}");
    let time = rest.split_once(' ').unwrap().0;
    assert!(time.parse::<NaiveTime>().is_ok() && time.len() == 8, "{pulled:#?}");

    let simulator = faulty(plan).await;
    let program = Program::of(&simulator).set("LOG_FORMAT", "Json");
    let pulled = program.run(&["pull", "--json"]).await;
    pulled.assert_code(0);
    let line: Value = serde_json::from_str(pulled.stderr.trim_end()).unwrap();
    assert_eq!((&line["level"], &line["call"]), (&json!("INFO"), &json!("the post")));
}

/// Runs a line of shell on a terminal of 100 columns; `None` where there is no `script`.
async fn on_a_terminal(program: &Program, line: &str) -> Option<Ended> {
    let version = Command::new("script").arg("--version").output();
    if !version.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("util-linux")) {
        skipped("there is no `script` of util-linux, so no terminal");
        return None;
    }
    let line = format!("script -qec 'stty cols 100 rows 30; {line}' /dev/null");
    Some(program.shell(&line).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_a_bar_for_what_takes_longer_than_a_second() {
    let plan = FaultPlan::none().times(3, Endpoint::Post, Fault::ServerError);
    let slow = simulator(2, plan.clone(), Duration::from_millis(200)).await;
    let program = Program::of(&slow).set("TERM", "xterm");
    let Some(shown) = on_a_terminal(&program, "$EXE pull").await else { return };
    shown.assert_code(0);
    let bar = shown.stdout.split(['\r', '\n']).next().unwrap();
    assert!(bar.contains(" events read (") && bar.contains(" rows delivered "), "{bar:?}");
    // A line of the log begins where a line begins, or where the bar was wiped off.
    let mut lines = 0;
    for (at, _) in shown.stdout.match_indices("trying again") {
        let before = shown.stdout[..at].rsplit(['\n', '\r']).next().unwrap();
        assert!(!before.contains("rows delivered"), "{before:?}");
        lines += 1;
    }
    assert_eq!(lines, 3);
    let last = shown.stdout.rsplit("\u{1b}[2K").next().unwrap();
    assert!(last.ends_with(" s: caught up\r\n"), "the bar is gone at the end: {last}");

    let fast = calm().await;
    let program = Program::of(&fast).set("TERM", "xterm");
    let shown = on_a_terminal(&program, "$EXE pull").await.unwrap();
    assert!(!shown.stdout.contains('\u{1b}'), "{shown:#?}");

    let slow = simulator(2, plan, Duration::from_millis(200)).await;
    let program = Program::of(&slow).set("TERM", "xterm");
    let piped = program.run(&["pull"]).await;
    piped.assert_code(0);
    assert!(!piped.said().contains(['\u{1b}', '\r']), "{piped:#?}");
    let shown = on_a_terminal(&program, "$EXE pull --mimecast-types entities | cat").await.unwrap();
    shown.assert_code(0);
}

// The state

#[tokio::test(flavor = "multi_thread")]
async fn state_is_shown_as_json_and_reset_after_a_confirmation() {
    let simulator = calm().await;
    let program = Program::of(&simulator);
    let none = program.run(&["state", "show"]).await;
    none.assert_code(0).assert_stderr(&["no checkpoints"]);
    assert_eq!(none.json(), serde_json::json!({}));
    assert!(!program.state().exists(), "looking makes nothing");

    program.run(&["pull"]).await.assert_code(0);
    let shown = program.run(&["state", "show"]).await;
    shown.assert_code(0);
    assert_eq!(shown.stderr, "");
    let state = shown.json();
    assert_eq!(keys(&state), STREAMS.into());
    assert_eq!(state["mailflow"]["totals"]["rows_delivered"], 40);
    assert_eq!(state["mailflow"]["owner"]["client_id"], simulator.client_id());

    let asked = program.run(&["state", "reset", "mailflow"]).await;
    asked.assert_code(2).assert_stderr(&["--yes", "no terminal"]);
    let unknown = program.run(&["state", "reset", "nonsense", "--yes"]).await;
    let streams = "the streams are entities, group-members, groups, mailflow, risk-detections, risky-users, urlclick, users";
    unknown.assert_code(2).assert_stderr(&["checkpoints/nonsense.json", "state show", streams]);
    for args in [&["skip", "nonsense"][..], &["skip", "nonsense", "--yes"], &["skip", "../../x"]] {
        program.run(args).await.assert_code(2).assert_stderr(&["there is no stream", streams]);
    }
    let outside = program.run(&["state", "reset", "../../x", "--yes"]).await;
    assert_ne!(outside.code, 0, "{outside:#?}");
    assert_eq!(program.run(&["state", "show"]).await.json(), state, "nothing was changed");

    program.run(&["state", "reset", "mailflow", "--yes"]).await.assert_code(0);
    assert_eq!(
        keys(&program.run(&["state", "show"]).await.json()),
        ["entities", "urlclick"].into()
    );
    let again = program.run(&["pull"]).await;
    assert!(again.stdout.contains("\n40 rows delivered"), "{again:#?}");
    assert_eq!(landed(&simulator), events(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_before_a_reset() {
    let simulator = calm().await;
    let program = Program::of(&simulator);
    program.run(&["pull"]).await.assert_code(0);
    for (answer, left) in [("n", 3), ("", 3), ("y", 2)] {
        let line = format!(
            "printf \"{answer}\\\\n\" | script -qec \"$EXE state reset entities\" /dev/null"
        );
        if on_a_terminal(&program, "true").await.is_none() {
            return;
        }
        let asked = program.shell(&line).await;
        assert!(asked.stdout.contains("Clear the checkpoint of entities in "), "{asked:#?}");
        assert_eq!(keys(&program.run(&["state", "show"]).await.json()).len(), left, "{asked:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_progress_keeps_its_checkpoint() {
    let simulator = simulator(4, FaultPlan::none(), Duration::from_millis(50)).await;
    let program = Program::of(&simulator);
    let pull = program.command(&["pull"]).spawn().unwrap();
    let entities = program.state().join("checkpoints/entities.json");
    until("a checkpoint", || entities.exists()).await;
    let reset = program.run(&["state", "reset", "entities", "--yes"]).await;
    reset.assert_code(1).assert_stderr(&["a connector is using checkpoints/entities.json"]);
    program.run(&["state", "show"]).await.assert_code(0);
    ended(pull).await.assert_code(0);
    assert_eq!(simulator.landed_count(), events(4));
}

/// As docs/OPERATIONS.md has it done from one storage account to another.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_was_copied_in_the_middle_of_a_backlog_goes_on_elsewhere() {
    let mut made_up = MadeUp::new(1);
    let lines: Vec<String> = (0..5_000).map(|n| made_up.event("entities", n)).collect();
    let file = BatchFile::of_lines("a.json.gz", &lines);
    let day = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
    let world = World::default().page("entities", Page::new(day).file(file));
    let options = SimulatorOptions::default();
    let simulator = Simulator::start(world, FaultPlan::none(), options).await.unwrap();
    let program = Program::of(&simulator).set("MAX_ROWS_PER_RUN", "1000");
    let begun = program.run(&["pull", "--json"]).await.assert_code(0).json();
    assert_eq!(begun["outcome"], "time_limit", "{begun}");
    let shown = program.run(&["state", "show"]).await.json();

    let copied = program.shell("cp -R state copied && find copied -name '*.lock' -delete").await;
    copied.assert_code(0);
    let copy = program.folder.path().join("copied").display().to_string();
    let program = program.set("CHECKPOINT_URL", &copy).unset("MAX_ROWS_PER_RUN");
    assert_eq!(program.run(&["state", "show"]).await.json(), shown);
    let gone_on = program.run(&["pull", "--json"]).await.assert_code(0).json();
    assert_eq!((&gone_on["outcome"], &gone_on["first_run"]), (&json!("caught_up"), &json!(false)));
    assert_eq!(landed(&simulator), 5_000);
    assert_eq!(simulator.landed_count(), 5_000, "none comes again");
}

/// Nobody should look for another connector then.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_removed_during_a_run_is_said_to_be_gone() {
    let simulator = simulator(8, FaultPlan::none(), Duration::from_millis(50)).await;
    let program = Program::of(&simulator);
    let pull = program.command(&["pull"]).spawn().unwrap();
    let checkpoints = program.state().join("checkpoints");
    until("the checkpoints", || {
        STREAMS.iter().all(|s| checkpoints.join(format!("{s}.json")).exists())
    })
    .await;
    std::fs::remove_dir_all(program.state()).unwrap();
    let ended = ended(pull).await;
    ended.assert_code(1);
    let gone = format!("the folder {} is gone", program.state().display());
    ended.assert_stderr(&[&gone, "store-failed", "find out what removed it"]);
    assert!(!ended.said().contains("another connector"), "{ended:#?}");
    assert_eq!(ended.stderr.lines().count(), 1, "once for all streams: {ended:#?}");
}

/// It is probably another place than the connector's.
#[tokio::test(flavor = "multi_thread")]
async fn that_there_is_no_checkpoint_is_said_with_its_place() {
    let empty = Simulator::start(World::default(), FaultPlan::none(), SimulatorOptions::default());
    let simulator = empty.await.unwrap();
    let program = Program::of(&simulator);
    let state = program.state().display().to_string();
    let none = format!("there are no checkpoints in {state} yet");
    for args in [
        &["state", "show"][..],
        &["quarantine", "list"],
        &["quarantine", "replay"],
        &["skip", "entities"],
    ] {
        program.run(args).await.assert_code(0).assert_stderr(&[&none]);
    }
    let first = format!("no checkpoint was found in {state}");
    let json = program.run(&["pull", "--json"]).await.json();
    assert_eq!((&json["first_run"], &json["state_at"]), (&json!(true), &json!(state)));
    std::fs::remove_dir_all(program.state()).unwrap();
    // Also where nothing has landed that could come again.
    let pulled = program.run(&["pull"]).await;
    assert!(pulled.assert_code(0).stdout.contains(&first), "{pulled:#?}");
    for args in [&["state", "show"][..], &["quarantine", "list"], &["skip", "entities"]] {
        let ended = program.run(args).await;
        assert!(!ended.assert_code(0).stderr.contains("no checkpoints"), "{ended:#?}");
    }
    let again = program.run(&["pull"]).await;
    assert!(!again.said().contains("no checkpoint"), "{again:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_newer_checkpoint_is_refused_and_kept() {
    let simulator = calm().await;
    let program = Program::of(&simulator);
    program.run(&["pull"]).await.assert_code(0);
    let path = program.state().join("checkpoints/entities.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let newer = good.replace("\"version\": 1", "\"version\": 999");
    assert_ne!(newer, good);
    for (bad, word) in [("{", "state reset"), (newer.as_str(), "newer")] {
        std::fs::write(&path, bad).unwrap();
        let pulled = program.run(&["pull"]).await;
        let place = format!("checkpoints/entities.json in {}", program.state().display());
        pulled.assert_code(3).assert_stderr(&["checkpoint-refused", &place, word]);
        program.run(&["state", "show"]).await.assert_code(2).assert_stderr(&[&place]);
        program.run(&["skip", "entities"]).await.assert_code(1).assert_stderr(&[&place]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
    }
    program.run(&["state", "reset", "entities", "--yes"]).await.assert_code(0);
    program.run(&["pull"]).await.assert_code(0);
}

// The demo

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_needs_nothing_and_can_be_repeated() {
    let program = Program::bare();
    for _ in 0..2 {
        let demo = program.run(&["demo"]).await;
        demo.assert_code(0);
        assert_eq!(demo.stderr, "");
        let today = Clock::system().now().date_naive();
        for stream in STREAMS {
            let line = demo.stdout.lines().find(|line| line.trim().starts_with(stream)).unwrap();
            let (rows, day) = line.trim().split_once(" rows since ").unwrap();
            assert!(rows.ends_with(" 3000"), "{line}");
            let days = (today - day.parse::<NaiveDate>().unwrap()).num_days();
            assert!((59..=61).contains(&days), "{line}");
        }
        assert!(demo.stdout.contains("9000 rows in "), "{demo:#?}");
        for next in ["demo-state", "pull --dry-run", "pull --help", "keeps 60 days"] {
            assert!(demo.stdout.contains(next), "{demo:#?}");
        }
        assert_next_steps_work(&program, &demo).await;
        let rows = "mimecast-sentinel-demo/Cloud_Integrated_CL.ndjson";
        assert!(demo.stdout.contains(rows), "{demo:#?}");
        let rows = std::fs::read_to_string(program.folder.path().join(rows)).unwrap();
        assert_eq!(rows.lines().count(), 9000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_shows_risk_and_a_directory_if_asked_to() {
    let program = Program::bare();
    let demo = program.run(&["demo", "--identity"]).await;
    demo.assert_code(0);
    assert_eq!(demo.stderr, "");
    for (table, rows) in [
        ("EntraRiskDetections_CL", 2),
        ("EntraRiskyUsers_CL", 2),
        ("DirectoryUsers_CL", 7),
        ("DirectoryGroups_CL", 3),
        ("DirectoryGroupMembers_CL", 7),
    ] {
        let line = demo.stdout.lines().find(|line| line.trim().starts_with(table)).unwrap();
        assert!(line.contains(&format!(" {rows} rows in ")), "{demo:#?}");
    }
    // Without it the folder is a demo's all the same.
    program.run(&["demo"]).await.assert_code(0);
}

/// What a demo says to type next is typed as it is printed; the last line needs Mimecast.
async fn assert_next_steps_work(program: &Program, demo: &Ended) {
    let (_, next) = demo.stdout.split_once("See what it made:\n").unwrap();
    let lines: Vec<&str> = next.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let shows =
        ["head -n 1 ", " status ", " state show ", " pull --help", " pull --dry-run | head"];
    assert_eq!(lines.len(), shows.len(), "{next}");
    for (line, shows) in lines.iter().zip(shows) {
        assert!(line.contains(shows), "{line}");
    }
    let printed = ["\"EventId\"", "Connected", "\"rows_delivered\": 3000", "START_DATE"];
    for (line, shows) in lines.iter().zip(printed) {
        let ended = program.shell(line).await;
        assert!(ended.assert_code(0).stdout.contains(shows), "{ended:#?}");
        assert_eq!(ended.stderr, "", "{line}");
    }
    let without = program.shell(lines[4]).await;
    without.assert_stderr(&["MIMECAST_CLIENT_ID: ", "MIMECAST_CLIENT_SECRET: "]);
    assert_eq!(without.stderr.lines().count(), 3, "nothing else is missing: {without:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_is_deaf_to_the_environment() {
    let mut program = Program::bare();
    for (name, value) in [
        ("AZURE_CLIENT_SECRET", "canary"),
        ("AZURE_CLOUD", "nonsense"),
        ("MIMECAST_TYPES", "nonsense"),
        ("MIMECAST_CALLS_PER_15_MINUTES", "1"),
        ("LOGS_INGESTION_STREAM", "nonsense"),
        ("IDENTITY_ENDPOINT", "http://127.0.0.1:1"),
        ("START_DATE", "nonsense"),
        ("SCHEDULE", "nonsense"),
        ("LOG_LEVEL", "nonsense"),
        ("LISTEN", "nonsense"),
        ("HEALTH_STREAM", "nonsense"),
        ("LOG_FORMAT", "nonsense"),
        ("GZIP_LEVEL", "nonsense"),
        ("RUN_TIME_LIMIT_SECONDS", "nonsense"),
        ("MAX_ROWS_PER_RUN", "nonsense"),
        ("MAX_LINE_BYTES", "nonsense"),
        ("MAX_FILE_BYTES", "nonsense"),
        ("QUARANTINE_MAX_BYTES", "nonsense"),
        ("GIVE_UP_AFTER_HOURS", "nonsense"),
        ("SPILL_AFTER_HOURS", "nonsense"),
        ("SPILL_MAX_BYTES", "nonsense"),
        ("CHECKPOINT_URL", "https://example.com"),
        ("CHECKPOINT_URI", "nonsense"),
        ("FUNCTIONS_CUSTOMHANDLER_PORT", "1"),
        ("http_proxy", "http://127.0.0.1:1"),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("ALL_PROXY", "http://127.0.0.1:1"),
    ] {
        program = program.set(name, value);
    }
    let demo = program.run(&["demo", "--folder", "mine"]).await;
    demo.assert_code(0);
    assert_eq!(demo.stderr, "");
    assert!(demo.stdout.contains("9000 rows in "), "{demo:#?}");
    assert!(program.folder.path().join("mine/Cloud_Integrated_CL.ndjson").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_in_a_folder_of_any_name_has_next_steps_that_work() {
    let program = Program::bare();
    let demo = program.run(&["demo", "--folder", "it's $HOME"]).await;
    demo.assert_code(0);
    assert_next_steps_work(&program, &demo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_touches_nothing_that_is_not_its_own() {
    let program = Program::bare();
    let root = program.folder.path();
    std::fs::create_dir(root.join("taken")).unwrap();
    std::fs::write(root.join("taken/Cloud_Integrated_CL.ndjson"), "mine").unwrap();
    std::fs::write(root.join("taken/thesis.txt"), "mine").unwrap();
    std::fs::write(root.join("file"), "mine").unwrap();
    let taken = program.run(&["demo", "--folder", "taken"]).await;
    taken.assert_code(2).assert_stderr(&["thesis.txt", "name another --folder"]);
    for kept in ["taken/Cloud_Integrated_CL.ndjson", "taken/thesis.txt", "file"] {
        let file = program.run(&["demo", "--folder", "file"]).await;
        file.assert_code(1).assert_stderr(&["file cannot be made", "name another --folder"]);
        assert_eq!(std::fs::read_to_string(root.join(kept)).unwrap(), "mine");
    }
    let refused = program.run(&["demo", "--folder", "/proc/absent"]).await;
    refused.assert_code(1).assert_stderr(&["/proc/absent cannot be made"]);
    // An empty folder that is there already is fine.
    std::fs::create_dir(root.join("empty")).unwrap();
    program.run(&["demo", "--folder", "empty"]).await.assert_code(0);
}

/// The demo is made slow by holding its pull still for a moment.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_demo_on_a_terminal_shows_a_bar_with_an_end() {
    let program = Program::bare().set("TERM", "xterm");
    let folder = program.folder.path().to_owned();
    let hold = tokio::spawn(async move {
        let mut pull = None;
        until("the demo's pull", || {
            pull = pull_in(&folder);
            pull.is_some()
        })
        .await;
        let pull = pull.unwrap();
        Command::new("kill").args(["-s", "STOP", &pull]).status().unwrap();
        sleep(Duration::from_millis(1_500)).await;
        Command::new("kill").args(["-s", "CONT", &pull]).status().unwrap();
    });
    let Some(shown) = on_a_terminal(&program, "$EXE demo").await else { return };
    hold.await.unwrap();
    shown.assert_code(0);
    assert!(shown.stdout.contains("] 0 of 9,000 rows"), "{shown:#?}");
    assert!(shown.stdout.contains("\n  all         9000 rows in "), "{shown:#?}");
}

/// The process of a pull that was started in `folder`.
#[cfg(target_os = "linux")]
fn pull_in(folder: &Path) -> Option<String> {
    std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let process = entry.ok()?.path();
        let is_here = std::fs::read_link(process.join("cwd")).ok()? == folder;
        let line = std::fs::read(process.join("cmdline")).ok()?;
        let is_pull = line.split(|&byte| byte == 0).nth(1)? == b"pull";
        (is_here && is_pull).then(|| process.file_name().unwrap().to_string_lossy().into_owned())
    })
}

// What a new user types

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_on_the_command_line_is_refused_in_plain_words_and_not_repeated() {
    let cases: [(&[&str], &str); 7] = [
        (&["pull", "--mimecast-client-secret", "canary"], "set MIMECAST_CLIENT_SECRET in the env"),
        (&["pull", "--mimecast-client-secret=canary"], "set MIMECAST_CLIENT_SECRET in the env"),
        (&["serve", "--azure-client-secret", "canary"], "set AZURE_CLIENT_SECRET in the env"),
        (&["--azure-client-secret", "canary", "check"], "set AZURE_CLIENT_SECRET in the env"),
        (&["demo", "--client-secret", "canary"], "MIMECAST_CLIENT_SECRET or AZURE_CLIENT_SECRET"),
        (&["pull", "MIMECAST_CLIENT_SECRET=canary"], "set MIMECAST_CLIENT_SECRET in the env"),
        (&["MIMECAST_CLIENT_SECRET=canary", "pull"], "set MIMECAST_CLIENT_SECRET in the env"),
    ];
    for (args, says) in cases {
        let refused = Program::bare().run(args).await;
        refused.assert_code(2).assert_stderr(&[
            "error: unexpected argument",
            "the environment alone",
            says,
            "with _FILE or _URI at its end",
        ]);
        assert!(!refused.said().contains("canary"), "{refused:#?}");
        assert!(!refused.said().contains("similar"), "{refused:#?}");
    }
    let other = Program::bare().run(&["pull", "--mimecast-client-idd", "x"]).await;
    other.assert_code(2).assert_stderr(&["--mimecast-client-id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_no_setting_is_a_warning_with_the_nearest_name() {
    let simulator = calm().await;
    let program = Program::of(&simulator)
        .set("MIMECAST_CLIENT_SECRT", "canary")
        .set("mimecast_types", "canary")
        .set("SPILL_MAX", "")
        .set("SOMEBODY_ELSES", "canary");
    for args in [&["pull"][..], &["pull", "--dry-run"], &["state", "show"], &["quarantine", "list"]]
    {
        let ended = program.run(args).await;
        ended.assert_code(0);
        let warned: Vec<&str> =
            ended.stderr.lines().filter(|line| line.contains("there is no such setting")).collect();
        assert_eq!(warned.len(), 2, "{ended:#?}");
        assert!(warned[0].contains("MIMECAST_CLIENT_SECRT is set"), "{ended:#?}");
        assert!(warned[0].contains("the nearest is MIMECAST_CLIENT_SECRET;"), "{ended:#?}");
        assert!(warned[1].contains("the nearest is MIMECAST_TYPES;"), "{ended:#?}");
        assert!(!ended.said().contains("canary"), "{ended:#?}");
    }
    let check = program.run(&["check"]).await;
    let line = check.stdout.lines().find(|line| line.contains("MIMECAST_CLIENT_SECRT")).unwrap();
    assert!(
        line.starts_with("warn ") && line.contains("nearest is MIMECAST_CLIENT_SECRET:"),
        "{line}"
    );
    assert!(!check.said().contains("canary"), "{check:#?}");
}

// The help

#[tokio::test(flavor = "multi_thread")]
async fn the_help_says_where_to_begin() {
    let program = Program::bare();
    let top = program.run(&["--help"]).await;
    top.assert_code(0);
    for part in [
        "Lands every Mimecast Cloud Integrated security event in a Microsoft Sentinel workspace",
        "\nFirst steps:\n  mimecast-sentinel demo ",
        "pull --help",
        "pull --dry-run",
        "\nExit codes:\n  0  done",
        "\n  1  nothing could be done\n  2  wrong settings or usage\n  3  some streams failed",
    ] {
        assert!(top.stdout.contains(part), "no {part:?} in {top:#?}");
    }
    let nothing = program.run(&[]).await;
    nothing.assert_code(2).assert_stderr(&["First steps:", "Usage:"]);
    let version = program.run(&["--version"]).await;
    assert_eq!(version.stdout, concat!("mimecast-sentinel ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// What the help of a run says of each setting.
const SETTINGS: [(&str, &str); 42] = [
    ("MIMECAST_BASE_URL", "[default: https://api.services.mimecast.com]"),
    ("MIMECAST_CLIENT_ID", "required"),
    ("MIMECAST_CLIENT_SECRET_FILE", "instead of MIMECAST_CLIENT_SECRET"),
    ("MIMECAST_CLIENT_SECRET_URI", "instead of MIMECAST_CLIENT_SECRET"),
    ("MIMECAST_TYPES", "[default: entities,mailflow,urlclick]"),
    ("MIMECAST_CALLS_PER_15_MINUTES", "[default: 40]"),
    ("START_DATE", "[default: 60 days ago]"),
    ("MAX_LINE_BYTES", "[default: 2097152, which is 2 MiB]"),
    ("MAX_FILE_BYTES", "[default: 8589934592, which is 8 GiB]"),
    ("SCHEDULE", "[default: 0 */15 * * * *, every 15 minutes]"),
    ("RUN_TIME_LIMIT_SECONDS", "[default: 540, which is 9 minutes]"),
    ("MAX_ROWS_PER_RUN", "[default: 20000000]"),
    ("LISTEN", "[default: nowhere]"),
    ("LOG_LEVEL", "[default: INFO]"),
    ("LOG_FORMAT", "[default: json in Azure Functions, text elsewhere]"),
    ("CHECKPOINT_URL", "[default: ./mimecast-sentinel-state; required in Azure Functions]"),
    ("QUARANTINE_MAX_BYTES", "[default: 20000000000, which is 20 GB]"),
    ("GIVE_UP_AFTER_HOURS", "[default: 24]"),
    ("SPILL_AFTER_HOURS", "[default: 72]"),
    ("SPILL_MAX_BYTES", "[default: 20000000000, which is 20 GB]"),
    ("LOGS_INGESTION_ENDPOINT", "required"),
    ("LOGS_INGESTION_RULE_ID", "required"),
    ("LOGS_INGESTION_STREAM", "[default: Custom-Cloud_Integrated]"),
    ("HEALTH_STREAM", "[default: Custom-MimecastConnectorHealth]"),
    ("GZIP_LEVEL", "[default: 2]"),
    ("AZURE_CLOUD", "[default: public]"),
    ("AZURE_AUTHORITY_HOST", "[default: that of AZURE_CLOUD]"),
    ("AZURE_TENANT_ID", "for a client secret or a federated token"),
    ("AZURE_CLIENT_ID", "[default: the system-assigned identity]"),
    ("AZURE_CLIENT_SECRET_FILE", "instead of AZURE_CLIENT_SECRET"),
    ("AZURE_CLIENT_SECRET_URI", "instead of AZURE_CLIENT_SECRET"),
    ("AZURE_FEDERATED_TOKEN_FILE", "File with the token of a workload identity"),
    ("SOURCES", "[default: cloud-integrated]"),
    ("ENTRA_RISK_SCHEDULE", "[default: 0 */15 * * * *, every 15 minutes]"),
    ("ENTRA_RISK_START_DATE", "[default: those detected from the first run on]"),
    ("DIRECTORY_SCHEDULE", "[default: 0 0 * * * *, hourly]"),
    ("DIRECTORY_ROUND_DAYS", "[default: 7]"),
    ("ENTRA_TENANT_ID", "if not that of the program's own identity"),
    ("ENTRA_CLIENT_ID", "Application of that tenant"),
    ("ENTRA_CLIENT_SECRET_FILE", "instead of ENTRA_CLIENT_SECRET"),
    ("ENTRA_CLIENT_SECRET_URI", "instead of ENTRA_CLIENT_SECRET"),
    ("GRAPH_BASE_URL", "[default: that of AZURE_CLOUD]"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_help_states_each_setting_with_its_default() {
    let program = Program::bare();
    for command in ["pull", "serve"] {
        let help = program.run(&[command, "--help"]).await;
        help.assert_code(0);
        let words = help.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        for (name, default) in SETTINGS {
            let (before, _) = words.split_once(&format!("[env: {name}]")).unwrap();
            let own = before.rsplit("[env: ").next().unwrap();
            assert!(own.contains(default), "{command}: {name} says {own}");
        }
        for secret in [
            "MIMECAST_CLIENT_SECRET",
            "AZURE_CLIENT_SECRET",
            "ENTRA_CLIENT_SECRET",
            "IDENTITY_ENDPOINT",
        ] {
            assert!(words.contains(secret), "{command}: no {secret}");
        }
    }
}

/// What stands below the settings too, whose paragraphs are not broken anywhere else.
#[tokio::test(flavor = "multi_thread")]
async fn a_help_is_as_wide_as_the_terminal() {
    let program = Program::bare().set("NO_COLOR", "1");
    let Some(help) = on_a_terminal(&program, "stty cols 60; $EXE pull --help").await else {
        return;
    };
    let shown = help.assert_code(0).stdout.replace('\r', "");
    let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
    assert!((50..=60).contains(&widest), "{widest}: {shown}");
    let last: Vec<&str> = shown.lines().rev().take_while(|line| !line.is_empty()).collect();
    let full = |line: &&&str| line.chars().count() > 40;
    assert_eq!(last[1..].iter().filter(full).count(), last.len() - 1, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_help_is_too_wide_or_shows_a_value() {
    let program = Program::bare()
        .set("MIMECAST_CLIENT_ID", "canary")
        .set("MIMECAST_CLIENT_SECRET", "canary")
        .set("CHECKPOINT_URL", "https://x/?sig=canary");
    for args in [
        &["pull", "--help"][..],
        &["serve", "--help"],
        &["demo", "--help"],
        &["state", "--help"],
        &["state", "show", "--help"],
        &["state", "reset", "--help"],
        &["quarantine", "--help"],
        &["quarantine", "list", "--help"],
        &["quarantine", "show", "--help"],
        &["quarantine", "replay", "--help"],
    ] {
        let help = program.run(args).await;
        help.assert_code(0);
        assert!(!help.said().contains("canary"), "{help:#?}");
        let widest = help.stdout.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{args:?}: {widest} columns");
        if ["state", "quarantine"].contains(&args[0]) && args.len() == 3 {
            assert!(help.stdout.contains("[env: CHECKPOINT_URL]"), "{help:#?}");
            assert!(!help.stdout.contains("[env: MIMECAST_"), "{help:#?}");
        }
    }
    let demo = program.run(&["demo", "-h"]).await.stdout;
    assert!(demo.contains("[default: mimecast-sentinel-demo]"), "{demo}");
}
