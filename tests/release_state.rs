//! What an earlier release wrote is read unchanged, and every setting that it took is taken.
//!
//! `tests/state_of_release` says how its files came to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args as _, Command, FromArgMatches as _};
use mimecast_sentinel::checkpoint::Checkpoint;
use mimecast_sentinel::quarantine::Quarantine;
use mimecast_sentinel::settings::{RawSettings, Settings};
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::store::FolderStore;
use serde_json::{Value, json};

use crate::support::program::{Program, STREAMS, ended, signal, until};
use crate::support::scenario::{ids, page};

/// Where the release had Mimecast and Azure.
const URL: &str = "http://127.0.0.1:4711";

/// The line at which both files named `half.json` were left.
const DONE: usize = 336;

/// The kept file that the release could not read either.
const DAMAGED: &str = "73c8c7545ed21aa6b0c389cbc20ad24c/file-c00ea264253242ef3407cd2e6ca87a8e";

fn event(stream: &str, n: u64) -> String {
    let at = 1_794_301_200_000 + n;
    format!(
        r#"{{"type":"{stream}","accountId":"CDE0A1","aggregateId":"{stream}-{n}","processingId":"p-{n}","timestamp":{at},"subject":"event {n}"}}"#
    )
}

fn events(stream: &str, numbers: Range<u64>) -> Vec<String> {
    numbers.map(|n| event(stream, n)).collect()
}

/// The lines of a file that a checkpoint has half read.
fn half_read(stream: &str) -> Vec<String> {
    let mut lines = events(stream, 10_000..10_900);
    if stream == "mailflow" {
        let wide = "x".repeat(65_600);
        lines[2] = format!(r#"{{"type":"mailflow","accountId":"CDE0A1","subject":"{wide}"}}"#);
        lines[4] = r#"{"type":"mailflow","subject":"#.to_owned();
    }
    lines
}

/// A file with the size and the `ETag` that the release saw: it is not packed, since packers differ.
fn file(name: &str, lines: &[String]) -> BatchFile {
    let file = BatchFile::raw(name, lines.join("\n") + "\n");
    BatchFile { etag: Some(format!("\"etag of {name}\"")), ..file }
}

/// The pages that are in hand, behind those that are finished.
fn world() -> World {
    let in_hand = page()
        .file(file("end.json", &events("mailflow", 9_000..9_005)))
        .file(file("half.json", &half_read("mailflow")));
    let finished = (0..3).fold(World::default(), |world, _| world.page("mailflow", page()));
    finished
        .page("mailflow", in_hand)
        .page("entities", page())
        .page("entities", page().file(file("half.json", &half_read("entities"))))
        .page("urlclick", page().file(file("a.json", &events("urlclick", 0..20))))
}

fn release() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state_of_release")
}

/// The release's checkpoint of a stream.
fn checkpoint(stream: &str) -> Value {
    checkpoint_in(&release(), stream)
}

fn checkpoint_in(state: &Path, stream: &str) -> Value {
    let path = state.join(format!("checkpoints/{stream}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The names of all files below a folder of `state`.
fn names_below(state: &Path, folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(state.join(folder)).unwrap().map(Result::unwrap);
    let names = entries.flat_map(|entry| {
        let name = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() { names_below(state, &name) } else { BTreeSet::from([name]) }
    });
    names.collect()
}

/// The program with the release's state. `simulator` is the proxy through which it reaches all that the
/// release reached.
fn program(simulator: &Simulator) -> Program {
    simulator.serve_files_at(URL.to_owned());
    // Files on the proxy's own host are refused.
    let proxy = simulator.url().replace("127.0.0.1", "localhost");
    let program = Program::of(simulator)
        .set("HTTP_PROXY", &proxy)
        .set("MIMECAST_BASE_URL", URL)
        .set("LOGS_INGESTION_ENDPOINT", URL);
    for folder in ["checkpoints", "quarantine"] {
        for name in names_below(&release(), folder) {
            let path = program.state().join(&name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(release().join(name), path).unwrap();
        }
    }
    program
}

async fn simulator(plan: FaultPlan) -> (Simulator, Program) {
    let simulator = Simulator::start(world(), plan, SimulatorOptions::default()).await.unwrap();
    let program = program(&simulator);
    (simulator, program)
}

/// Fails unless these lines landed, each once, and nothing else did.
#[track_caller]
fn assert_landed(simulator: &Simulator, lines: &[String]) {
    assert_eq!(simulator.violations(), Vec::<String>::new());
    let rows = simulator.landed();
    let landed: BTreeSet<&str> = rows.iter().map(|row| row["EventId"].as_str().unwrap()).collect();
    let expected = ids(lines);
    assert_eq!(landed, expected.iter().map(String::as_str).collect());
    assert_eq!(rows.len(), lines.len(), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_shown() {
    let (_simulator, program) = simulator(FaultPlan::none()).await;
    let shown = program.run(&["state", "show"]).await;
    shown.assert_code(0);
    let expected = STREAMS.map(|stream| (stream.to_owned(), checkpoint(stream)));
    assert_eq!(shown.json(), Value::Object(expected.into_iter().collect()));
}

#[test]
fn every_field_of_a_checkpoint_is_written_as_it_was_read() {
    let mut fields = BTreeSet::new();
    for stream in STREAMS {
        let bytes = fs::read(release().join(format!("checkpoints/{stream}.json"))).unwrap();
        let written = Checkpoint::parse(&bytes).unwrap().to_bytes();
        assert_eq!(String::from_utf8(written).unwrap(), String::from_utf8(bytes).unwrap());
        fields.extend(checkpoint(stream).as_object().unwrap().keys().cloned());
    }
    let optional = ["newest_event", "out_of_time_at", "refused", "untold"];
    assert!(optional.iter().all(|field| fields.contains(*field)), "{fields:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_where_the_release_was() {
    // The first listing of each stream is refused once, and so says what was asked for.
    let plan = STREAMS.into_iter().fold(FaultPlan::none(), |plan, stream| {
        plan.matching(&format!("type={stream}"), 1, Endpoint::Listing, Fault::Unavailable)
    });
    let (simulator, program) = simulator(plan).await;
    let run = program.run(&["pull", "--json"]).await;
    run.assert_code(0);

    for asked in simulator.faults() {
        let asked: BTreeMap<String, String> =
            url::form_urlencoded::parse(asked.identity.as_bytes()).into_owned().collect();
        let cursor = &checkpoint(&asked["type"])["cursor"];
        let token = asked.get("nextPage").map(String::as_str);
        let day = asked.get("dateRangeStartsAt").map(String::as_str);
        assert_eq!((token, day), (cursor["token"].as_str(), cursor["start"].as_str()), "{asked:?}");
    }
    assert_eq!(simulator.faults().len(), STREAMS.len());
    let downloads = simulator.calls().downloads;
    let read: Vec<&str> = downloads.keys().map(String::as_str).collect();
    assert_eq!(read, ["entities/half.json", "mailflow/half.json", "urlclick/a.json"]);
    let rest = |stream| half_read(stream)[DONE..].to_vec();
    let lines = [rest("entities"), rest("mailflow"), events("urlclick", 0..20)].concat();
    assert_landed(&simulator, &lines);

    // What the run that was killed had quarantined is reported now.
    run.assert_stderr(&["rows_quarantined=1 rows_truncated=1"]);
    let summary = run.json();
    for (at, (stream, rows)) in STREAMS.into_iter().zip([564, 564, 20]).enumerate() {
        let summary = &summary["streams"][at];
        assert_eq!(summary["events_read"], rows, "{summary}");
        assert_eq!(summary["backfill_from"], "2020-01-01");
        let (before, after) = (checkpoint(stream), checkpoint_in(&program.state(), stream));
        let totals =
            |checkpoint: &Value, field: &str| checkpoint["totals"][field].as_u64().unwrap();
        let gained = |field| totals(&after, field) - totals(&before, field);
        assert_eq!(gained("rows_delivered"), rows);
        assert_eq!((gained("pages"), gained("files"), gained("rows_quarantined")), (1, 1, 0));
        for field in ["out_of_time_at", "refused", "untold"] {
            assert_eq!(after[field], Value::Null, "{stream} {field}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_the_release_in_which_every_row_was_refused_count() {
    let (_simulator, program) = simulator(FaultPlan::none().poison(|_| true)).await;
    let program = program.set("MIMECAST_TYPES", "urlclick");
    program.run(&["pull"]).await.assert_code(2).assert_stderr(&["every-row-refused"]);
    let since = &checkpoint("urlclick")["refused"]["since"];
    let refused = &checkpoint_in(&program.state(), "urlclick")["refused"];
    assert_eq!((&refused["since"], &refused["runs"]), (since, &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_gets_no_further_than_the_release_says_so() {
    let slow = Fault::Slow(Duration::from_secs(60));
    let (simulator, program) = simulator(FaultPlan::none().once(Endpoint::File, slow)).await;
    let program = program.set("MIMECAST_TYPES", "entities");
    let pull = program.command(&["pull"]).spawn().unwrap();
    until("the download", || simulator.calls().all_downloads() == 1).await;
    signal(&pull, "TERM");
    let pull = ended(pull).await;
    pull.assert_code(2)
        .assert_stderr(&["no-progress", "half.json: two runs in a row ended at line"]);
}

/// Each record by its name, and how `quarantine show` says what is kept of it.
fn records() -> BTreeMap<String, (Value, &'static str)> {
    let names = names_below(&release(), "quarantine");
    let records = names.into_iter().filter(|name| name.ends_with(".json")).map(|name| {
        let record: Value =
            serde_json::from_slice(&fs::read(release().join(&name)).unwrap()).unwrap();
        let kept = match &record {
            record if record.get("original").is_some() => "the line, ",
            record if record.get("original_base64").is_some() => "the line, ",
            record if record.get("file_kept_as").is_some() => "the whole file, as ",
            _ => "nothing",
        };
        (name, (record, kept))
    });
    records.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_listed_and_shown() {
    let (_simulator, program) = simulator(FaultPlan::none()).await;
    let records = records();
    let reasons: BTreeSet<&str> =
        records.values().map(|(record, _)| record["reason"].as_str().unwrap()).collect();
    let every = [
        "corrupt-file",
        "file-gone",
        "file-too-large",
        "invalid-utf8",
        "line-too-long",
        "not-json",
        "oversize-field",
        "row-refused",
        "row-too-large",
    ];
    assert_eq!(reasons, every.into());

    let listed = program.run(&["quarantine", "list"]).await;
    listed.assert_code(0);
    assert_eq!(listed.stdout.lines().count(), records.len());
    for (line, (name, (record, kept))) in listed.stdout.lines().zip(&records) {
        let reason = record["reason"].as_str().unwrap();
        assert!(line.contains(name) && line.contains(reason), "{line}");
        let shown = program.run(&["quarantine", "show", name]).await;
        shown.assert_code(0);
        let last = shown.stdout.lines().find(|line| line.starts_with("kept:")).unwrap();
        assert!(shown.stdout.contains(reason) && last.contains(kept), "{shown:#?}");
    }
}

#[tokio::test]
async fn every_field_of_a_record_is_written_as_it_was_read() {
    let quarantine = Quarantine::new(Arc::new(FolderStore::new(release())));
    for (name, (record, _)) in records() {
        let read = quarantine.read(name).await.unwrap().unwrap().record.unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), record);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_delivers_what_the_release_kept() {
    let before = names_below(&release(), "quarantine");
    let refused = ["event 1003", "event 3000"].map(Value::from);
    let plan = FaultPlan::none().poison(move |row| refused.contains(&row["subject"]));
    let (_first, program) = simulator(plan).await;
    let limits = [("MAX_LINE_BYTES", "80000"), ("MAX_FILE_BYTES", "4000")];
    let program = limits.iter().fold(program, |program, (name, value)| program.set(name, value));
    let replayed = program.run(&["quarantine", "replay", "--json"]).await;
    replayed.assert_code(0);
    assert_eq!(replayed.json()["streams"][0]["rows_delivered"], 0, "{replayed:#?}");
    assert_eq!(names_below(&program.state(), "quarantine"), before);

    let simulator =
        Simulator::start(world(), FaultPlan::none(), SimulatorOptions::default()).await.unwrap();
    let proxy = simulator.url().replace("127.0.0.1", "localhost");
    let program = program
        .set("HTTP_PROXY", &proxy)
        .set("IDENTITY_ENDPOINT", &simulator.identity_endpoint())
        .unset("MAX_LINE_BYTES")
        .unset("MAX_FILE_BYTES");
    let replayed = program.run(&["quarantine", "replay", "--json"]).await;
    replayed.assert_code(0);
    let stay = json!({"corrupt-file": 1, "file-gone": 1, "invalid-utf8": 1, "not-json": 2});
    assert_eq!(replayed.json()["streams"][0]["stay"], stay);
    let long = format!(
        r#"{{"type":"mailflow","accountId":"CDE0A1",{}"subject":"long"}}"#,
        " ".repeat(100_000)
    );
    let lines = [
        vec![event("mailflow", 1_003), event("mailflow", 3_000), long],
        events("mailflow", 0..60),
        events("mailflow", 2_455..3_000),
    ];
    assert_landed(&simulator, &lines.concat());

    // The records that stay, of the row that was delivered and cut too, and the one file that is needed.
    let after = names_below(&program.state(), "quarantine");
    assert!(after.is_subset(&before), "{after:?}");
    let files: Vec<&String> = after.iter().filter(|name| !name.ends_with(".json")).collect();
    assert_eq!(files, [&format!("quarantine/mailflow/{DAMAGED}")]);
    assert_eq!(after.len(), 5 + 1 + files.len());

    program.run(&["quarantine", "replay"]).await.assert_code(0);
    assert_landed(&simulator, &lines.concat());
}

/// Every setting of the release, with values that it took.
const SETTINGS: [(&str, &[&str]); 24] = [
    ("MIMECAST_CLIENT_ID", &["AbC123"]),
    (
        "MIMECAST_BASE_URL",
        &[
            "https://api.services.mimecast.com",
            "https://uk-api.services.mimecast.com/",
            "https://US-API.services.mimecast.com:443",
            "http://127.0.0.1:8080",
        ],
    ),
    (
        "MIMECAST_TYPES",
        &["entities,mailflow,urlclick", "urlclick", " urlclick , Entities,urlclick,"],
    ),
    ("MIMECAST_CALLS_PER_15_MINUTES", &["40", "1", "50"]),
    ("START_DATE", &["2026-11-01", "2020-01-01"]),
    ("MAX_LINE_BYTES", &["2097152", "1024", "16777216"]),
    ("MAX_FILE_BYTES", &["8589934592", "1024", "1099511627776"]),
    (
        "LOGS_INGESTION_ENDPOINT",
        &[
            "https://dce-1a2b.westeurope-1.ingest.monitor.azure.com",
            "https://dcr-1a2b.westeurope-1.ingest.monitor.azure.com/",
        ],
    ),
    ("LOGS_INGESTION_RULE_ID", &["dcr-0123456789abcdef0123456789ABCDEF"]),
    ("LOGS_INGESTION_STREAM", &["Custom-Cloud_Integrated", "Custom-Mine_CL"]),
    ("HEALTH_STREAM", &["Custom-MimecastConnectorHealth", "off", "Custom-Mine_CL"]),
    ("GZIP_LEVEL", &["2", "0", "9"]),
    (
        "CHECKPOINT_URL",
        &[
            "./mimecast-sentinel-state",
            "/var/lib/mimecast-sentinel",
            "file:///var/lib/mimecast-sentinel",
            "https://acc.blob.core.windows.net/state",
        ],
    ),
    ("QUARANTINE_MAX_BYTES", &["20000000000", "1000000", "1000000000000000"]),
    ("SCHEDULE", &["0 */15 * * * *", "0 0 */2 * * *", "0 30 9 * * 1-5"]),
    ("RUN_TIME_LIMIT_SECONDS", &["540", "60", "86400"]),
    ("MAX_ROWS_PER_RUN", &["20000000", "1000", "1000000000"]),
    ("LISTEN", &["127.0.0.1:8080", "[::]:8080"]),
    ("LOG_LEVEL", &["ERROR", "WARNING", "Warning", "INFO", "debug", "TRACE"]),
    ("AZURE_CLOUD", &["public", "usgov", "china"]),
    ("AZURE_AUTHORITY_HOST", &["https://login.microsoftonline.com/"]),
    ("AZURE_TENANT_ID", &["9b7a1f60-3c1e-4f6d-8d0a-7f2c5e4b9a33"]),
    ("AZURE_CLIENT_ID", &["5f1d3c2e-8a47-4b0e-9c55-0d6a7be01c11"]),
    ("AZURE_FEDERATED_TOKEN_FILE", &["/var/run/secrets/azure/tokens/azure-identity-token"]),
];

/// What must be set, and an identity; the secrets are those of the release's settings that have no flag.
const MUST: [(&str, &str); 7] = [
    ("MIMECAST_CLIENT_ID", "AbC123"),
    ("MIMECAST_CLIENT_SECRET", "a secret"),
    ("AZURE_CLIENT_SECRET", "a secret"),
    ("LOGS_INGESTION_ENDPOINT", "https://dce-1a2b.westeurope-1.ingest.monitor.azure.com"),
    ("LOGS_INGESTION_RULE_ID", "dcr-0123456789abcdef0123456789ABCDEF"),
    ("AZURE_TENANT_ID", "9b7a1f60-3c1e-4f6d-8d0a-7f2c5e4b9a33"),
    ("AZURE_CLIENT_ID", "5f1d3c2e-8a47-4b0e-9c55-0d6a7be01c11"),
];

#[test]
fn every_setting_of_the_release_is_accepted_with_the_values_it_took() {
    let command = || RawSettings::augment_args(Command::new("pull"));
    for (name, values) in SETTINGS {
        let command = command();
        let arg = command.get_arguments().find(|arg| arg.get_env() == Some(name.as_ref()));
        let flag = arg.unwrap_or_else(|| panic!("no {name}")).get_long().unwrap().to_owned();
        assert_eq!(flag, name.to_lowercase().replace('_', "-"));
        for value in values {
            accepts(name, value);
        }
    }
}

/// Fails unless a setting may have this value, beside those that must be set.
#[track_caller]
fn accepts(name: &str, value: &str) {
    let mut all: BTreeMap<&str, &str> = MUST.into();
    all.insert(name, value);
    // Each cloud has its own.
    match value {
        "usgov" => all.insert("LOGS_INGESTION_ENDPOINT", "https://d.ingest.monitor.azure.us"),
        "china" => all.insert("LOGS_INGESTION_ENDPOINT", "https://d.ingest.monitor.azure.cn"),
        _ => None,
    };
    let is_secret = |name: &str| name.ends_with("_SECRET");
    let flags = all.iter().filter(|(name, _)| !is_secret(name));
    let flags =
        flags.map(|(name, value)| format!("--{}={value}", name.to_lowercase().replace('_', "-")));
    let line: Vec<String> = std::iter::once("pull".to_owned()).chain(flags).collect();
    let command =
        RawSettings::augment_args(Command::new("pull")).mut_args(|arg| arg.env(None::<&str>));
    let raw = RawSettings::from_arg_matches(&command.try_get_matches_from(line).unwrap()).unwrap();
    let env =
        |name: &str| all.get(name).filter(|_| is_secret(name)).map(|value| (*value).to_owned());
    let settings = Settings::resolve(&raw, &env, "2026-11-22".parse().unwrap());
    assert!(settings.is_ok(), "{name}={value}: {}", settings.unwrap_err());
}
