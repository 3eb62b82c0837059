//! `quarantine list`, `show` and `replay`, as a person uses them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mimecast_sentinel::checkpoint::FileVersion;
use mimecast_sentinel::pipeline::sink::PostError;
use mimecast_sentinel::pipeline::{
    Interrupt, Outcome, Pool, Replay, ReplaySummary, Sink, StreamReplay,
};
use mimecast_sentinel::quarantine::{FilePosition, Kept, Quarantine, Rejection};
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::sources::mimecast::{self, Limits};
use mimecast_sentinel::store::{ByteStream, FolderStore, Lease, Store, StoreError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::azurite::{Azurite, sas};
use crate::support::doubles::HookedSink;
use crate::support::program::{Program, ended, landed, signal, until};
use crate::support::rig::Rig;
use crate::support::scenario::{
    assert_caught_up, code, events, ids, landed_ids, page, page_of, reasons,
};

const STREAM: &str = "mailflow";

/// Sets the terminal's title, turns text right-to-left, and has bytes that are not text.
const HOSTILE: &[u8] = b"{\"\x1b]0;owned\x07 \xc2\x9b31m \xe2\x80\xae \xff\x7f";

/// Rows that the simulator refuses, as long as it should.
#[derive(Clone)]
struct Refused(Arc<AtomicBool>);

impl Refused {
    fn plan(ids: impl IntoIterator<Item = String>) -> (Self, FaultPlan) {
        let (refused, ids) = (Self(Arc::new(AtomicBool::new(true))), HashSet::<_>::from_iter(ids));
        let on = Arc::clone(&refused.0);
        let plan = FaultPlan::none().poison(move |row| {
            on.load(Ordering::Relaxed) && ids.contains(row["EventId"].as_str().unwrap())
        });
        (refused, plan)
    }

    fn no_longer(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What the lines of `quarantine list --json` say.
async fn listed(program: &Program) -> Vec<Value> {
    let listed = program.run(&["quarantine", "list", "--json"]).await;
    listed.assert_code(0);
    listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap()
}

/// How many records are undelivered, by reason.
fn undelivered(records: &[Value]) -> BTreeMap<&str, u64> {
    let mut reasons = BTreeMap::new();
    for record in records.iter().filter(|record| record["delivered"] == false) {
        *reasons.entry(text(record, "reason")).or_default() += 1;
    }
    reasons
}

async fn replayed(program: &Program, args: &[&str]) -> Value {
    let replayed = program.run(&[&["quarantine", "replay", "--json"], args].concat()).await;
    replayed.assert_code(0);
    replayed.json()
}

/// Whole files in quarantine.
fn kept_files(program: &Program) -> usize {
    fn count(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| {
                if path.is_dir() {
                    count(&path)
                } else {
                    usize::from(path.extension().is_none_or(|extension| extension != "json"))
                }
            })
            .sum()
    }
    count(&program.state().join("quarantine"))
}

/// A page that has something of every kind of trouble.
struct Trouble {
    world: World,
    /// Lines that a replay can deliver: refused rows, and one that is too long.
    refused: [String; 3],
    too_long: String,
    /// The file that is too large, and the one that is damaged.
    large: Vec<String>,
    damaged: Vec<String>,
    /// Lines that cannot be delivered: no JSON, and a row that no body holds.
    bad: [Vec<u8>; 2],
    /// What lands at once.
    good: Vec<String>,
}

fn trouble() -> Trouble {
    let good = events(1, STREAM, 10);
    let mut refused = events(2, STREAM, 3);
    // Its line ends in `\r\r\n`, and one `\r` is the line's own.
    refused[1] += "\r";
    let wide = format!(r#","x":"{}"}}"#, "w".repeat(70_000));
    refused[2] = refused[2].replacen('{', &format!(r#"{{"subject":"{}","#, "s".repeat(70_000)), 1);
    let refused: [String; 3] = refused.try_into().unwrap();
    let oversize = format!("{}{wide}", r#"{"type":"mailflow""#);
    let too_long = format!("{{\"type\":\"mailflow\",{}\"n\":1}}", " ".repeat(2_200_000));
    let no_body = format!("{{\"type\":\"mailflow\",\"subject\":\"{}\"}}", "b".repeat(1_000_000));
    let bad = [HOSTILE.to_vec(), no_body.into_bytes()];
    let mut lines: Vec<Vec<u8>> = good.iter().map(|line| line.clone().into_bytes()).collect();
    lines[5] = oversize.clone().into_bytes();
    lines.insert(2, [refused[1].as_bytes(), b"\r"].concat());
    for (at, line) in [
        (3, refused[0].as_bytes()),
        (4, &bad[0]),
        (6, too_long.as_bytes()),
        (8, &bad[1]),
        (9, refused[2].as_bytes()),
    ] {
        lines.insert(at, line.to_vec());
    }
    let large = events(3, STREAM, 10_000);
    let damaged = events(4, STREAM, 20);
    let of_damaged = BatchFile::of_lines("b.json.gz", &damaged);
    let half = of_damaged.bytes.len() / 2;
    let page = page_of("a.json.gz", &lines)
        .file(of_damaged.damaged(half))
        .file(BatchFile::of_lines("c.json.gz", &large));
    let good =
        good.into_iter().enumerate().map(|(n, line)| if n == 5 { oversize.clone() } else { line });
    Trouble {
        world: World::default().page(STREAM, page),
        refused,
        too_long,
        large,
        damaged,
        bad,
        good: good.collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_record_is_listed_shown_and_sent_again() {
    let trouble = trouble();
    let (refused, plan) = Refused::plan(ids(&trouble.refused));
    let simulator =
        Simulator::start(trouble.world.clone(), plan, SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator).set("MAX_FILE_BYTES", "4000000");
    program.run(&["pull"]).await.assert_code(0);
    keep_gone(&program).await;
    let records = listed(&program).await;
    let all = json!({"row-refused": 3, "invalid-utf8": 1, "row-too-large": 1, "line-too-long": 1,
        "corrupt-file": 1, "file-too-large": 1, "file-gone": 1});
    assert_eq!(json!(undelivered(&records)), all);
    assert_eq!(records.len(), 10, "and the oversize field");
    assert_shown(&program, &trouble, &records).await;
    assert_list_is_readable(&program, &records).await;

    // While nothing has changed, all of it stays, and as it was.
    let checkpoint = std::fs::read(program.state().join("checkpoints/mailflow.json")).unwrap();
    let landed_before = simulator.landed_count();
    let expected = json!({"outcome": "caught_up", "streams": [{"stream": STREAM,
        "outcome": "caught_up", "rows_delivered": 0, "stay": all, "error": null}]});
    assert_eq!(replayed(&program, &[]).await, expected);
    assert_eq!(simulator.landed_count(), landed_before);
    assert_eq!(listed(&program).await, records);
    assert_eq!(kept_files(&program), 3);

    // What can be delivered now leaves.
    refused.no_longer();
    let program = program.set("MAX_FILE_BYTES", "100000000").set("MAX_LINE_BYTES", "4000000");
    let summary = replayed(&program, &[STREAM]).await;
    let stay = json!({"invalid-utf8": 1, "row-too-large": 1, "corrupt-file": 1, "file-gone": 1});
    assert_eq!(summary["streams"][0]["stay"], stay);
    let records = listed(&program).await;
    assert_eq!(json!(undelivered(&records)), stay);
    let cut = records.iter().filter(|record| record["delivered"] == true);
    let cut: BTreeSet<String> = cut.map(|record| text(record, "event_id").to_owned()).collect();
    let cut_now = ids(&[trouble.good[5].as_str(), &trouble.refused[2]]);
    assert_eq!(cut, cut_now.into_iter().collect(), "of a refused row Azure cut a column now");
    assert_eq!(kept_files(&program), 1, "only the damaged one is still needed");
    assert_each_landed_once(&simulator, &trouble, &records);

    // Once more does nothing, and none of it touches progress.
    let landed_before = simulator.landed_count();
    let again = program.run(&["quarantine", "replay"]).await;
    again.assert_code(0);
    let stay = "1 corrupt-file, 1 file-gone, 1 invalid-utf8, 1 row-too-large";
    for part in ["mailflow ", " 0  ", stay, "quarantine list"] {
        assert!(again.stdout.contains(part), "no {part:?} in {again:#?}");
    }
    assert_eq!(simulator.landed_count(), landed_before);
    assert_eq!(listed(&program).await, records);
    let now = std::fs::read(program.state().join("checkpoints/mailflow.json")).unwrap();
    assert_eq!(now, checkpoint);
}

/// A record whose content is gone.
async fn keep_gone(program: &Program) {
    let gone = Rejection {
        position: FilePosition { stream: STREAM.into(), file: "https://x/gone".into(), line: 7 },
        event_id: String::new(),
        reason: "file-gone",
        detail: "three listings of its page no longer have it".to_owned(),
        delivered: false,
        kept: Kept::Nothing,
    };
    Quarantine::new(Arc::new(FolderStore::new(program.state()))).keep(&gone).await.unwrap();
}

/// Each line is shown byte for byte.
async fn assert_shown(program: &Program, trouble: &Trouble, records: &[Value]) {
    let bad = trouble.bad.iter().map(|line| &line[..]);
    for line in trouble.refused.iter().map(String::as_bytes).chain(bad) {
        let id = &ids(&[line])[0];
        let record = records.iter().find(|record| record["event_id"] == **id).unwrap();
        assert!(record.get("original").is_none(), "a list has no personal data");
        let shown = program.run(&["quarantine", "show", text(record, "name"), "--json"]).await;
        shown.assert_code(0);
        let shown = shown.json();
        match shown["original"].as_str() {
            Some(original) => assert_eq!(original.as_bytes(), line),
            None => assert_eq!(base64(text(&shown, "original_base64")), line),
        }
        assert_eq!(shown["reason"], record["reason"]);
    }
}

/// Each record has its line, with all that is known of it.
async fn assert_list_is_readable(program: &Program, records: &[Value]) {
    let plain = program.run(&["quarantine", "list", STREAM]).await;
    plain.assert_code(0);
    assert_eq!(plain.stdout.lines().count(), records.len());
    for (line, record) in plain.stdout.lines().zip(records) {
        let place = format!("line {} of {}", record["line"], text(record, "file"));
        let time = format!("  {}  ", record["event_time"].as_str().unwrap_or("-"));
        for part in [text(record, "name"), text(record, "reason"), &time, &place] {
            assert!(line.contains(part), "no {part} in {line}");
        }
        assert_eq!(line.contains(" undelivered "), record["delivered"] == false, "{line}");
        assert!(line.contains(text(record, "event_id")), "{line}");
    }
    let refused = records.iter().find(|record| record["reason"] == "row-refused").unwrap();
    assert!(text(refused, "event_time").starts_with("2026-11-10T09:00:00"), "{refused}");
    let other = program.run(&["quarantine", "list", "urlclick"]).await;
    other.assert_code(0).assert_stderr(&["nothing is in", "quarantine/urlclick"]);
}

fn assert_each_landed_once(simulator: &Simulator, trouble: &Trouble, records: &[Value]) {
    let corrupt = records.iter().find(|record| record["reason"] == "corrupt-file").unwrap();
    let before_damage = &trouble.damaged[..corrupt["line"].as_u64().unwrap() as usize - 1];
    let lines = trouble.good.iter().chain(&trouble.refused).chain(&trouble.large);
    let lines: Vec<&String> = lines.chain([&trouble.too_long]).chain(before_damage).collect();
    let expected: BTreeSet<String> = ids(&lines).into_iter().collect();
    let rows = simulator.landed();
    let landed: BTreeSet<String> = rows.iter().map(|row| text(row, "EventId").to_owned()).collect();
    let differ: Vec<_> = expected.symmetric_difference(&landed).collect();
    assert!(differ.is_empty(), "lost or foreign: {differ:?}");
    assert_eq!(rows.len(), expected.len(), "each once");
    assert_eq!(simulator.violations(), Vec::<String>::new());
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

/// A simulator with ten events that refuses one of them; pulled.
async fn one_refused() -> (Simulator, Program, Refused, String) {
    let lines = events(1, STREAM, 10);
    let (refused, plan) = Refused::plan(ids(&lines[3..4]));
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    let simulator = Simulator::start(world, plan, SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator);
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(simulator.landed_count(), 9);
    (simulator, program, refused, lines[3].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_record_drives_the_terminal() {
    let world = World::default().page(STREAM, page_of("a.json.gz", &[HOSTILE]));
    let simulator =
        Simulator::start(world, FaultPlan::none(), SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator);
    program.run(&["pull"]).await.assert_code(0);
    let name = text(&listed(&program).await[0], "name").to_owned();
    for args in [&["show", &name][..], &["show", &name, "--json"], &["list"], &["list", "--json"]] {
        let shown = program.run(&[&["quarantine"], args].concat()).await;
        shown.assert_code(0);
        let odd = |c: &char| *c != '\n' && (c.is_control() || *c == '\u{202e}');
        assert_eq!(shown.said().chars().find(odd), None, "{args:?}: {shown:#?}");
    }
    let shown = program.run(&["quarantine", "show", &name]).await.stdout;
    assert!(shown.contains(r#"{"\u{1b}]0;owned\u{7} \u{9b}31m \u{202e} \xff\u{7f}"#), "{shown}");
    let typed = program.run(&["quarantine", "show", "\u{1b}[2J"]).await;
    typed.assert_code(2).assert_stderr(&[r"\u{1b}[2J", "quarantine list"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_after_its_post_is_done_again() {
    let (simulator, program, refused, line) = one_refused().await;
    refused.no_longer();
    // It waits for its next attempts, and is killed there.
    simulator.script(Endpoint::Post, Fault::LostReply);
    let wait = Some(("Retry-After", "3".to_owned()));
    simulator.script(Endpoint::Post, Fault::TooManyRequests(wait));
    let mut child = program.command(&["quarantine", "replay"]).spawn().unwrap();
    until("the row", || simulator.landed_count() == 10).await;
    child.kill().await.unwrap();
    assert_eq!(undelivered(&listed(&program).await), [("row-refused", 1)].into());

    assert_eq!(replayed(&program, &[]).await["streams"][0]["rows_delivered"], 1);
    let twice: Vec<String> =
        simulator.landed()[9..].iter().map(|row| text(row, "EventId").to_owned()).collect();
    assert_eq!(twice, [ids(&[&line]), ids(&[&line])].concat(), "twice, under one id");
    assert_eq!(listed(&program).await, Vec::<Value>::new());
    assert_eq!(replayed(&program, &[]).await, json!({"outcome": "caught_up", "streams": []}));
    let nothing = program.run(&["quarantine", "replay"]).await;
    assert_eq!(nothing.assert_code(0).stdout, "nothing is in quarantine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_asks_for_the_settings_that_it_needs() {
    let (simulator, program, refused, _) = one_refused().await;
    refused.no_longer();
    let bare = Program::bare().set("CHECKPOINT_URL", program.state().to_str().unwrap());
    let name = text(&listed(&bare).await[0], "name").to_owned();
    bare.run(&["quarantine", "show", &name]).await.assert_code(0);
    let replay = bare.run(&["quarantine", "replay"]).await;
    replay.assert_code(2).assert_stderr(&["LOGS_INGESTION_ENDPOINT", "LOGS_INGESTION_RULE_ID"]);
    assert!(!replay.stderr.contains("MIMECAST_"), "{replay:#?}");
    assert_eq!(simulator.landed_count(), 9);

    let program = program.unset("MIMECAST_CLIENT_ID").unset("MIMECAST_CLIENT_SECRET");
    assert_eq!(replayed(&program, &[]).await["streams"][0]["rows_delivered"], 1);
    for args in [&["replay", "nonsense"][..], &["list", "nonsense"], &["show"], &[]] {
        bare.run(&[&["quarantine"], args].concat()).await.assert_code(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_another_destination_than_the_last_run() {
    let (simulator, program, _, _) = one_refused().await;
    let posts = simulator.calls().posts;
    let other = format!("dcr-{}", "0".repeat(32));
    let program = program.set("LOGS_INGESTION_RULE_ID", &other);
    let refused = program.run(&["quarantine", "replay"]).await;
    refused.assert_code(2).assert_stderr(&["another-destination", simulator.rule_id(), &other]);
    assert_eq!(simulator.calls().posts, posts);
    assert_eq!(listed(&program).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_edited_or_moved_is_reported_and_stays() {
    let (simulator, program, refused, line) = one_refused().await;
    refused.no_longer();
    let path = program.state().join(text(&listed(&program).await[0], "name"));
    let record = std::fs::read_to_string(&path).unwrap();
    let subject = serde_json::from_str::<Value>(&line).unwrap()["messageId"].to_string();
    let inside = subject.trim_matches('"');
    let edited = record.replace(inside, "edited");
    assert_ne!(edited, record);
    std::fs::write(&path, edited).unwrap();
    let summary = replayed(&program, &[]).await;
    assert_eq!(summary["streams"][0]["stay"], json!({"unreadable": 1}));
    assert_eq!(simulator.landed_count(), 9);

    let moved = path.with_file_name("0000000009-x.json");
    std::fs::write(&path, &record).unwrap();
    std::fs::rename(&path, &moved).unwrap();
    let listed = program.run(&["quarantine", "list"]).await;
    listed.assert_code(1).assert_stderr(&["0000000009-x.json cannot be read", "put them back"]);
    let summary = replayed(&program, &[]).await;
    assert_eq!(summary["streams"][0]["stay"], json!({"unreadable": 1}));
    assert!(moved.exists());
    std::fs::rename(&moved, &path).unwrap();
    assert_eq!(replayed(&program, &[]).await["streams"][0]["rows_delivered"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_line_limit_does_not_hold_back_a_record() {
    let (simulator, program, refused, line) = one_refused().await;
    refused.no_longer();
    let longer = line.replacen('{', &format!("{{{}", " ".repeat(3_000)), 1);
    let record = Rejection {
        position: FilePosition { stream: STREAM.into(), file: "https://x/f".into(), line: 1 },
        event_id: ids(&[&longer]).remove(0),
        reason: "row-refused",
        detail: String::new(),
        delivered: false,
        kept: Kept::Line(longer.into()),
    };
    Quarantine::new(Arc::new(FolderStore::new(program.state()))).keep(&record).await.unwrap();
    let program = program.set("MAX_LINE_BYTES", "2000");
    let summary = replayed(&program, &[]).await;
    assert_eq!(summary["streams"][0]["stay"], json!({}));
    assert!(!program.state().join(record.name()).exists());
    let landed = simulator.landed();
    let of_record = landed.iter().filter(|row| row["EventId"] == record.event_id);
    assert_eq!(
        (landed.len(), of_record.count()),
        (11, 1),
        "its bytes are here: no limit cuts them"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_as_in_a_folder_in_a_container() {
    let Some(azurite) = Azurite::start().await else { return };
    let container = azurite.create_container("quarantine").await;
    let lines = events(1, STREAM, 40);
    let (refused, plan) = Refused::plan(ids(&lines[3..6]));
    let of_large = BatchFile::of_lines("b.json.gz", &lines[10..]);
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines[..10]).file(of_large));
    let simulator = Simulator::start(world, plan, SimulatorOptions::default()).await.unwrap();
    let url = format!("{container}?{}", sas("rcwdl"));
    let program =
        Program::of(&simulator).set("CHECKPOINT_URL", &url).set("MAX_FILE_BYTES", "12000");
    program.run(&["pull"]).await.assert_code(0);
    let records = listed(&program).await;
    assert_eq!(undelivered(&records), [("file-too-large", 1), ("row-refused", 3)].into());
    let name = records
        .iter()
        .map(|record| text(record, "name"))
        .find(|name| name.contains(&ids(&lines)[3]));
    let shown = program.run(&["quarantine", "show", name.unwrap()]).await;
    shown.assert_code(0);
    assert!(shown.stdout.contains(&lines[3]), "{shown:#?}");

    refused.no_longer();
    let program = program.unset("MAX_FILE_BYTES");
    let summary = replayed(&program, &[]).await;
    assert_eq!(summary["streams"][0]["stay"], json!({}));
    assert_eq!(landed(&simulator), 40);
    assert_eq!(simulator.landed_count(), 40, "each once");
    assert_eq!(listed(&program).await, Vec::<Value>::new());
    let names = azurite_names(&azurite, &container).await;
    let others = ["checkpoints/", "runs/"];
    let is_other = |name: &String| others.iter().any(|folder| name.starts_with(folder));
    assert!(names.iter().all(is_other), "{names:?}");
}

async fn azurite_names(azurite: &Azurite, container: &url::Url) -> Vec<String> {
    use mimecast_sentinel::azure::blob::{BlobAccess, BlobStore};
    let access = BlobAccess::Sas(sas("rcwdl").into());
    BlobStore::new(container.clone(), access, &azurite.http).unwrap().list("").await.unwrap()
}

// What interferes with the store or with time.

/// A replay of what `rig` has pulled.
async fn replay_on(rig: &Rig, store: Arc<dyn Store>) -> ReplaySummary {
    replay_until(rig, store, &CancellationToken::new()).await
}

async fn replay_until(rig: &Rig, store: Arc<dyn Store>, stop: &CancellationToken) -> ReplaySummary {
    replay_to(rig, rig.connector().sink, store).run(stop).await
}

fn replay_to(rig: &Rig, sink: Arc<dyn Sink>, store: Arc<dyn Store>) -> Replay {
    let stream = mimecast::stream(STREAM);
    Replay {
        streams: vec![(stream, rig.connector().source.format(&stream))],
        sink,
        quarantine: Quarantine::new(Arc::clone(&store)),
        store,
        policy: rig.policy,
        pool: Pool::default(),
    }
}

#[tokio::test]
async fn records_stay_whose_rows_got_no_answer_before_the_replay_had_to_end() {
    let (rig, _) = rig_with_one_refused().await;
    let sink = HookedSink::new(rig.connector().sink, |_| async {
        Err(PostError::Interrupt(Interrupt::OutOfTime))
    });
    let replay = replay_to(&rig, Arc::new(sink), folder(&rig));
    let replayed = replay.run(&CancellationToken::new()).await;
    assert_eq!((replayed.outcome, replayed.streams[0].rows_delivered), (Outcome::TimeLimit, 0));
    assert_eq!(rig.quarantined().len(), 1);
}

#[tokio::test]
async fn a_replay_that_may_read_no_more_rows_delivers_those_it_read_and_the_next_one_goes_on() {
    let lines = events(1, STREAM, 10);
    let (refused, plan) = Refused::plan(ids(&lines[2..8]));
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    let mut rig = Rig::new(world, plan).await.only(STREAM);
    assert_eq!(rig.pull_one().await.rows_quarantined, 6);
    refused.no_longer();
    rig.policy.max_rows = 4;
    let delivered = async || {
        let replayed = replay_on(&rig, folder(&rig)).await;
        (replayed.outcome, replayed.streams[0].rows_delivered)
    };
    assert_eq!(delivered().await, (Outcome::TimeLimit, 4));
    assert_eq!(delivered().await, (Outcome::CaughtUp, 2));
    let (mut landed, mut all) = (landed_ids(&rig), ids(&lines));
    landed.sort();
    all.sort();
    assert_eq!(landed, all);
}

/// A replay in which every row is refused, while something happens `meanwhile`.
async fn replay_refused(rig: &Rig, meanwhile: impl Fn() + Send + Sync + 'static) -> StreamReplay {
    let sink = HookedSink::new(rig.connector().sink, move |_| {
        meanwhile();
        async { Err(PostError::RowRefused("no such row".to_owned())) }
    });
    let replay = replay_to(rig, Arc::new(sink), folder(rig));
    let mut replayed = replay.run(&CancellationToken::new()).await;
    assert_eq!((replayed.outcome, replayed.streams[0].rows_delivered), (Outcome::CaughtUp, 0));
    replayed.streams.remove(0)
}

fn folder(rig: &Rig) -> Arc<dyn Store> {
    Arc::new(FolderStore::new(rig.state()))
}

async fn rig_with_one_refused() -> (Rig, Vec<String>) {
    let lines = events(1, STREAM, 10);
    let (refused, plan) = Refused::plan(ids(&lines[3..4]));
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    let rig = Rig::new(world, plan).await.only(STREAM);
    assert_eq!(rig.pull_one().await.rows_quarantined, 1);
    refused.no_longer();
    (rig, lines)
}

/// Mimecast may no longer have the file, or its addresses may have expired.
#[tokio::test]
async fn a_refused_row_is_quarantined_whole_though_its_file_is_served_only_once() {
    let lines = events(1, STREAM, 40);
    for refused in [3..4, 0..20] {
        let (_refused, plan) = Refused::plan(ids(&lines[refused.clone()]));
        // The first download is read; there is no other.
        let plan =
            plan.once(Endpoint::File, Fault::Nothing).times(1_000, Endpoint::File, Fault::Expired);
        let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
        let mut rig = Rig::new(world, plan).await.only(STREAM);
        // A body for each line.
        rig.policy.body_wait = Duration::ZERO;
        rig.policy.look_every = 1;
        let run = rig.pull_one().await;
        assert_eq!((run.outcome, run.files), (Outcome::CaughtUp, 1));
        assert_eq!(run.rows_quarantined, refused.len() as u64);
        assert_eq!(run.rows_delivered, 40 - refused.len() as u64);
        let records = rig.quarantined();
        let kept: Vec<&str> = records.iter().map(|record| text(record, "original")).collect();
        assert_eq!(kept, lines[refused]);
        assert_eq!(rig.simulator.calls().downloads.values().sum::<u64>(), 1);
    }
}

/// Rows are refused again out of a file that is kept whole: then each has its own line.
#[tokio::test]
async fn a_row_of_a_kept_file_that_is_refused_gets_a_record_of_its_own() {
    let lines = events(1, STREAM, 40);
    let (_refused, plan) = Refused::plan(ids(&lines[30..32]));
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    let mut rig = Rig::new(world, plan).await.only(STREAM);
    rig.options.limits.file = 12_000;
    assert_eq!(rig.pull_one().await.rows_quarantined, 0);
    rig.options.limits.file = 8 << 30;
    for _ in 0..2 {
        let replay = replay_on(&rig, folder(&rig)).await;
        assert_eq!(replay.streams[0].stay, [("row-refused".to_owned(), 2)].into());
        let records = rig.quarantined();
        let originals: Vec<&str> = records.iter().map(|record| text(record, "original")).collect();
        assert_eq!(originals, lines[30..32]);
    }
    assert_eq!(rig.simulator.landed_count(), 38);
}

#[tokio::test]
async fn a_stream_that_another_pulls_is_busy() {
    let (rig, _) = rig_with_one_refused().await;
    let held = folder(&rig).lease("checkpoints/mailflow.json").await.unwrap().unwrap();
    let busy = replay_on(&rig, folder(&rig)).await;
    assert_eq!((busy.outcome, busy.exit_code()), (Outcome::Busy, 1));
    assert_eq!(rig.simulator.landed_count(), 9);
    held.release().await.unwrap();
    assert_eq!(replay_on(&rig, folder(&rig)).await.streams[0].rows_delivered, 1);
    assert_eq!(rig.quarantined().len(), 0);
}

/// Somebody removes or edits the record, or the file that was kept with it, while its row is on its way.
#[tokio::test]
async fn a_row_that_is_refused_again_keeps_its_line_whatever_becomes_of_its_record() {
    type Change = fn(&Path);
    let remove: Change = |path| drop(std::fs::remove_file(path));
    let edit: Change = |path| std::fs::write(path, "{}").unwrap();
    for change in [remove, edit] {
        let (rig, lines) = rig_with_one_refused().await;
        let name = folder(&rig).list("quarantine/").await.unwrap().remove(0);
        let record = rig.state().join(&name);
        let replay = replay_refused(&rig, move || change(&record)).await;
        assert_eq!(replay.stay, [("row-refused".to_owned(), 1)].into());
        assert_eq!(folder(&rig).list("quarantine/").await.unwrap(), [name]);
        assert_eq!(rig.quarantined()[0]["original"], lines[3]);
    }
    // Rows of a file that is kept whole.
    for change in [remove, edit] {
        let lines = long_lines(1);
        let rig = rig_with_a_kept_file(&lines).await;
        let (_, record) = only_record(&rig);
        let file = rig.state().join(text(&record, "file_kept_as"));
        replay_refused(&rig, move || change(&file)).await;
        let records = rig.quarantined();
        let kept: Vec<&str> = records.iter().map(|record| text(record, "original")).collect();
        assert_eq!(kept, lines);
    }
}

/// A store that removes nothing.
struct Keeps(Arc<dyn Store>);

#[async_trait]
impl Store for Keeps {
    fn location(&self) -> String {
        self.0.location()
    }

    async fn read_stream(&self, name: &str) -> Result<Option<ByteStream>, StoreError> {
        self.0.read_stream(name).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.0.read(name).await
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.0.write(name, bytes).await
    }

    async fn write_stream(&self, name: &str, bytes: ByteStream) -> Result<(), StoreError> {
        self.0.write_stream(name, bytes).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.0.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let (location, action) = (self.location(), format!("removing {name}"));
        Err(StoreError::Failed { location, action, reason: "not now".to_owned() })
    }

    async fn lease(&self, name: &str) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.0.lease(name).await
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_removed_is_sent_again_under_its_id() {
    let (rig, lines) = rig_with_one_refused().await;
    for _ in 0..2 {
        let failed = replay_on(&rig, Arc::new(Keeps(folder(&rig)))).await;
        assert_eq!((failed.outcome, failed.exit_code()), (Outcome::Failed, 1));
        let fault = failed.streams[0].error.as_ref().unwrap();
        assert_eq!(fault.code.as_str(), "store-failed");
        assert_eq!(rig.quarantined().len(), 1);
    }
    assert_eq!(replay_on(&rig, folder(&rig)).await.streams[0].rows_delivered, 1);
    assert_eq!(rig.quarantined().len(), 0);
    assert_eq!(
        landed_ids(&rig)[9..],
        [ids(&lines[3..4]), ids(&lines[3..4]), ids(&lines[3..4])].concat()
    );
}

#[tokio::test]
async fn the_readable_part_of_a_file_leaves_and_the_rest_stays_from_its_line_on() {
    let lines = events(1, STREAM, 1_000);
    let size: usize = lines.iter().map(|line| line.len() + 1).sum();
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    let mut rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
    rig.options.limits.file = size as u64 / 3;
    rig.pull().await;
    let first = rig.quarantined().remove(0)["line"].as_u64().unwrap();
    rig.options.limits.file = size as u64 * 2 / 3;
    let part = replay_on(&rig, folder(&rig)).await;
    assert_eq!(part.streams[0].stay, [("file-too-large".to_owned(), 1)].into());
    let records = rig.quarantined();
    assert_eq!(records.len(), 1, "moved on, not doubled");
    let line = records[0]["line"].as_u64().unwrap();
    assert!((first + 200..800).contains(&line), "{line}");
    assert_eq!(part.streams[0].rows_delivered, line - first);

    rig.options.limits.file = 8 << 30;
    let rest = replay_on(&rig, folder(&rig)).await;
    assert_eq!(rest.streams[0].rows_delivered, 1_000 + 1 - line);
    assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());
    assert_eq!(landed_ids(&rig), ids(&lines), "each once");
}

/// Ten events that are long, and short when compressed.
fn long_lines(seed: u32) -> Vec<String> {
    let subject = "s".repeat(50_000);
    (0..10).map(|n| format!(r#"{{"type":"{STREAM}","subject":"{subject} {seed} {n}"}}"#)).collect()
}

/// A rig that has pulled a file of such lines, larger than it may be; it may be now.
async fn rig_with_a_kept_file(lines: &[String]) -> Rig {
    let world = World::default().page(STREAM, page_of("a.json.gz", lines));
    let mut rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
    rig.options.limits.file = 20_000;
    rig.pull().await;
    rig.options.limits.file = 8 << 30;
    rig
}

#[tokio::test]
async fn two_contents_of_one_file_are_both_kept_and_both_sent_again() {
    let (first, second) = (long_lines(1), long_lines(2));
    let mut rig = rig_with_a_kept_file(&first).await;
    rig.simulator.add_page(STREAM, page_of("a.json.gz", &second));
    rig.options.limits.file = 20_000;
    rig.pull().await;
    let records = rig.quarantined();
    let places: BTreeSet<_> =
        records.iter().map(|record| (text(record, "file"), record["line"].as_u64())).collect();
    assert_eq!((records.len(), places.len()), (2, 1), "at the same place: {records:?}");
    let contents: BTreeSet<Vec<u8>> = rig.kept_files().into_iter().collect();
    let expected = [&first, &second].map(|lines| BatchFile::of_lines("a.json.gz", lines).bytes);
    assert_eq!(contents, expected.iter().map(|bytes| bytes.to_vec()).collect());

    rig.options.limits.file = 8 << 30;
    let replayed = replay_on(&rig, folder(&rig)).await;
    assert_eq!(replayed.streams[0].rows_delivered, 20);
    assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());
    let landed: BTreeSet<String> = landed_ids(&rig).into_iter().collect();
    assert_eq!(landed, ids(&[first, second].concat()).into_iter().collect());
}

/// The only record of `rig`, and its path.
fn only_record(rig: &Rig) -> (PathBuf, Value) {
    let record = rig.quarantined().remove(0);
    let kept = rig.state().join(text(&record, "file_kept_as"));
    let beside = std::fs::read_dir(kept.parent().unwrap()).unwrap();
    let mut paths = beside.map(|entry| entry.unwrap().path());
    let path = paths.find(|path| path.extension().is_some_and(|end| end == "json")).unwrap();
    (path, record)
}

#[tokio::test]
async fn a_file_that_was_kept_before_names_had_versions_is_sent_again() {
    let lines = long_lines(1);
    let rig = rig_with_a_kept_file(&lines).await;
    let (path, mut record) = only_record(&rig);
    let new = text(&record, "file_kept_as").to_owned();
    let old = format!("{}/file", new.rsplit_once('/').unwrap().0);
    std::fs::rename(rig.state().join(new), rig.state().join(&old)).unwrap();
    record["file_kept_as"] = old.into();
    std::fs::remove_file(&path).unwrap();
    let old = path.with_file_name("0000000001-file-too-large.json");
    std::fs::write(old, record.to_string()).unwrap();

    assert_eq!(replay_on(&rig, folder(&rig)).await.streams[0].rows_delivered, 10);
    assert_eq!(landed_ids(&rig), ids(&lines));
    assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());
}

#[tokio::test]
async fn a_record_takes_no_file_but_its_own() {
    let lines = long_lines(1);
    let rig = rig_with_a_kept_file(&lines).await;
    let (path, record) = only_record(&rig);
    let own = text(&record, "file_kept_as");
    let (own_folder, own_name) = own.rsplit_once('/').unwrap();
    let others = [
        "checkpoints/mailflow.json".to_owned(),
        format!("quarantine/urlclick/{}/{own_name}", "0".repeat(32)),
        format!("{own_folder}/x/../{own_name}"),
        format!("{own_folder}/{}", path.file_name().unwrap().to_str().unwrap()),
        format!("{own_folder}/file-{}", "A".repeat(32)),
        format!("/{own}"),
        // Of its folder, but then its own name is another.
        format!("{own_folder}/file-{}", "0".repeat(32)),
    ];
    for other in others {
        let mut forged = record.clone();
        forged["file_kept_as"] = other.clone().into();
        std::fs::write(&path, forged.to_string()).unwrap();
        let replayed = replay_on(&rig, folder(&rig)).await;
        assert_eq!(replayed.streams[0].stay, [("unreadable".to_owned(), 1)].into(), "{other}");
        assert_eq!(rig.quarantined(), [forged], "it stays as it is");
        assert_eq!((rig.kept_files().len(), rig.simulator.landed_count()), (1, 0), "{other}");
    }
}

#[tokio::test]
async fn a_replay_that_is_stopped_is_gone_on_with() {
    let lines = events(1, STREAM, 10);
    let world =
        World::default().page(STREAM, page().file(BatchFile::of_lines("a.json.gz", &lines)));
    let mut rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
    rig.options.limits.file = 1_000;
    rig.pull().await;
    rig.options.limits.file = 8 << 30;
    let stop = CancellationToken::new();
    stop.cancel();
    let stopped = replay_until(&rig, folder(&rig), &stop).await;
    assert_eq!((stopped.outcome, stopped.exit_code()), (Outcome::TimeLimit, 0));
    assert_eq!(rig.quarantined().len(), 1);
    replay_on(&rig, folder(&rig)).await;
    assert_eq!(landed_ids(&rig), ids(&lines));
}

#[tokio::test]
async fn a_replay_that_fails_in_the_middle_of_a_file_keeps_all_of_it() {
    // Far more bodies than may be in flight, so that reading is held back.
    let lines = events(1, STREAM, 20_000);
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    let mut rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
    // Less than it has when decoded, more than when it is not: it is kept.
    rig.options.limits.file = 5_000_000;
    rig.pull().await;
    let before = landed_ids(&rig).len() as u64;
    rig.options.limits.file = 8 << 30;
    rig.simulator.script(Endpoint::Post, Fault::Nothing);
    rig.simulator.script(Endpoint::Post, Fault::Forbidden);
    let failed = replay_on(&rig, folder(&rig)).await;
    assert_eq!((failed.outcome, failed.exit_code()), (Outcome::Failed, 2));
    assert_eq!(failed.streams[0].error.as_ref().unwrap().code.as_str(), "ingestion-forbidden");
    assert_eq!((rig.quarantined().len(), rig.kept_files().len()), (1, 1));

    let rest = replay_on(&rig, folder(&rig)).await.streams[0].rows_delivered;
    assert_eq!(before + rest, 20_000);
    assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());
    let landed: BTreeSet<String> = landed_ids(&rig).into_iter().collect();
    assert_eq!(landed, ids(&lines).into_iter().collect());
}

// A line that is too long to be held.

/// The longest line that is held in these tests.
const MAX_LINE: usize = 2_000;

/// An event of `length` bytes that hardly shrink.
fn long_line(seed: u64, length: usize) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let begin = format!(r#"{{"type":"{STREAM}","subject":""#);
    let noise = std::iter::repeat_with(|| random.alphanumeric()).take(length - begin.len() - 2);
    begin + &noise.collect::<String>() + r#""}"#
}

/// A long line with ten events on either side of it.
fn around(long: &str) -> Vec<String> {
    let mut lines = events(1, STREAM, 20);
    lines.insert(10, long.to_owned());
    lines
}

async fn long_line_in(lines: &[String], plan: FaultPlan) -> (Simulator, Program) {
    let world = World::default().page(STREAM, page_of("a.json.gz", lines));
    let simulator = Simulator::start(world, plan, SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator).set("MIMECAST_TYPES", STREAM);
    (simulator, program.set("MAX_LINE_BYTES", &MAX_LINE.to_string()))
}

/// All objects in quarantine, drafts too, and the records among them.
fn in_quarantine(state: &Path) -> (Vec<PathBuf>, Vec<Value>) {
    fn below(folder: &Path) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
    }
    let paths = below(&state.join("quarantine"));
    let records = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "json"));
    let records =
        records.map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap());
    let records = records.collect();
    (paths, records)
}

#[track_caller]
fn assert_nothing_is_kept(state: &Path) {
    assert_eq!(in_quarantine(state), (Vec::new(), Vec::new()));
}

/// Only the long line, the eleventh, is in quarantine, whole and once; each of the others has landed
/// once.
#[track_caller]
fn assert_only_the_long_line_is_kept(simulator: &Simulator, state: &Path, lines: &[String]) {
    let (objects, records) = in_quarantine(state);
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((&record["line"], &record["reason"]), (&json!(11), &json!("line-too-long")));
    assert_eq!(text(record, "event_id"), ids(&lines[10..11])[0]);
    let kept = std::fs::read(state.join(text(record, "file_kept_as"))).unwrap();
    // It is a batch file of one line, whose last `\r` is not the line's.
    let end = if lines[10].ends_with('\r') { "\r" } else { "" };
    assert_eq!(gunzip(&kept), [lines[10].as_bytes(), end.as_bytes()].concat());
    assert_eq!(objects.len(), 2, "{objects:?}");
    assert_eq!((landed(simulator), simulator.landed_count()), (20, 20));
    let rows = simulator.landed();
    let landed: BTreeSet<&str> = rows.iter().map(|row| text(row, "EventId")).collect();
    let neighbours = ids(&[&lines[..10], &lines[11..]].concat());
    assert_eq!(landed, neighbours.iter().map(String::as_str).collect());
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    let mut line = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut line).unwrap();
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_is_kept_by_itself_listed_shown_and_sent_again() {
    // One that is a little too long, one of many pieces, one that shrinks to almost nothing, and one
    // that has a `\r` of its own before that of its end.
    let blank = format!(r#"{{"type":"{STREAM}",{}"n":1}}"#, " ".repeat(500_000));
    let with_cr = long_line(3, 10_000) + "\r";
    for long in [long_line(1, MAX_LINE + 1), long_line(2, 300_000), blank, with_cr] {
        let mut lines = around(&long);
        lines[10] += "\r";
        let (simulator, program) = long_line_in(&lines, FaultPlan::none()).await;
        program.run(&["pull"]).await.assert_code(0);
        lines[10].pop();
        assert_only_the_long_line_is_kept(&simulator, &program.state(), &lines);

        let record = listed(&program).await.remove(0);
        let (name, kept) = (text(&record, "name"), text(&record, "file_kept_as"));
        let plain = program.run(&["quarantine", "list"]).await;
        for part in [name, "line-too-long", " undelivered ", "line 11 of ", "a.json.gz"] {
            assert!(plain.stdout.contains(part), "no {part} in {plain:#?}");
        }
        let shown = program.run(&["quarantine", "show", name]).await;
        let place = format!("the line, as gzip in {kept}");
        for part in [&*place, "the line has ", "more than MAX_LINE_BYTES", &ids(&[&long])[0]] {
            assert!(shown.stdout.contains(part), "no {part} in {shown:#?}");
        }
        let shown = program.run(&["quarantine", "show", name, "--json"]).await.json();
        assert_eq!(text(&shown, "file_kept_as"), kept);

        // It stays while it is too long, and nothing of it is changed.
        let before = in_quarantine(&program.state());
        let summary = replayed(&program, &[]).await;
        assert_eq!(summary["streams"][0]["stay"], json!({"line-too-long": 1}));
        assert_eq!(in_quarantine(&program.state()), before);
        let program = program.set("MAX_LINE_BYTES", &long.len().to_string());
        let summary = replayed(&program, &[]).await;
        assert_eq!(summary["streams"][0]["rows_delivered"], 1);
        let (objects, records) = in_quarantine(&program.state());
        // Azure cuts a column of 64 KiB: then the line is kept for that, in its record.
        let cut = long.contains("subject") && long.len() > 65_536;
        assert_eq!(objects.len(), usize::from(cut), "the line went: {objects:?}");
        assert!(records.iter().all(|record| record["reason"] == "oversize-field"));
        assert_eq!((landed(&simulator), simulator.landed_count()), (21, 21));
    }
}

#[tokio::test]
async fn a_download_that_breaks_in_a_long_line_leaves_it_whole_and_once() {
    let lines = around(&long_line(1, 400_000));
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    // In the line's first piece, in its middle, and in its last one; as often as one run bears, and more.
    for cuts in
        [&[20_000][..], &[150_000, 150_000], &[250_000, 20_000], &[150_000; 4], &[150_000; 5]]
    {
        let cut = |plan: FaultPlan, at: &usize| plan.once(Endpoint::File, Fault::CutShort(*at));
        let plan = cuts.iter().fold(FaultPlan::none(), cut);
        let mut rig = Rig::new(world.clone(), plan).await.only(STREAM);
        rig.options.limits.line = MAX_LINE as u64;
        let mut run = rig.pull_one().await;
        if cuts.len() == 5 {
            assert_eq!(code(&run), "file-unreadable");
            assert_nothing_is_kept(&rig.state());
            assert_eq!(rig.simulator.landed_count(), 10, "what comes before it is not held back");
            run = rig.pull_one().await;
        }
        assert_caught_up(&run);
        assert_eq!(run.rows_quarantined, 1);
        assert_eq!(rig.simulator.calls().all_downloads(), cuts.len() as u64 + 1);
        assert_only_the_long_line_is_kept(&rig.simulator, &rig.state(), &lines);
    }
}

/// Damage within the line is that of the file.
#[tokio::test]
async fn a_file_that_is_damaged_in_a_long_line_is_kept_whole_from_that_line_on() {
    let lines = around(&long_line(1, 400_000));
    let file = BatchFile::of_lines("a.json.gz", &lines);
    let half = file.bytes.len() / 2;
    let file = file.damaged(half);
    let world = World::default().page(STREAM, page().file(file.clone()));
    let mut rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
    rig.options.limits.line = MAX_LINE as u64;
    assert_caught_up(&rig.pull_one().await);
    assert_eq!(reasons(&rig), [("corrupt-file".to_owned(), 11)]);
    assert_eq!(rig.kept_files(), [file.bytes.to_vec()]);
    assert_eq!(landed_ids(&rig), ids(&lines[..10]));
}

/// Its file was kept for being too large: the line needs it, and no copy of its own.
#[tokio::test]
async fn a_long_line_of_a_kept_file_stays_in_it_until_it_may_be_so_long() {
    let lines = around(&long_line(1, 50_000));
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    let mut rig = Rig::new(world, FaultPlan::none()).await.only(STREAM);
    rig.options.limits = Limits { line: MAX_LINE as u64, file: 40_000 };
    rig.pull().await;
    assert_eq!(reasons(&rig), [("file-too-large".to_owned(), 11)]);
    rig.options.limits.file = 8 << 30;
    for _ in 0..2 {
        replay_on(&rig, folder(&rig)).await;
        assert_eq!(reasons(&rig), [("line-too-long".to_owned(), 11)]);
        assert_eq!(rig.kept_files().len(), 1);
        assert_eq!(landed_ids(&rig), ids(&[&lines[..10], &lines[11..]].concat()));
    }
    rig.options.limits.line = 50_000;
    assert_eq!(replay_on(&rig, folder(&rig)).await.streams[0].rows_delivered, 1);
    assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());
    assert_eq!(rig.simulator.landed_count(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_in_a_long_line_leaves_nothing_of_it_behind() {
    let lines = around(&long_line(1, 400_000));
    let slow = Fault::Slow(Duration::from_millis(30));
    let (simulator, program) =
        long_line_in(&lines, FaultPlan::none().once(Endpoint::File, slow)).await;
    let pull = program.command(&["pull"]).spawn().unwrap();
    until("a piece of the line", || !in_quarantine(&program.state()).0.is_empty()).await;
    signal(&pull, "TERM");
    let pull = ended(pull).await;
    pull.assert_code(0);
    assert_nothing_is_kept(&program.state());

    program.run(&["pull"]).await.assert_code(0);
    assert_only_the_long_line_is_kept(&simulator, &program.state(), &lines);
}

#[tokio::test]
async fn a_long_line_that_takes_longer_than_a_run_has_is_reported() {
    let lines = around(&long_line(1, 400_000));
    let world = World::default().page(STREAM, page_of("a.json.gz", &lines));
    let plan = FaultPlan::none().times(2, Endpoint::File, Fault::Slow(Duration::from_millis(30)));
    let mut rig = Rig::new(world, plan).await.only(STREAM);
    rig.options.limits.line = MAX_LINE as u64;
    (rig.policy.run_time_limit, rig.policy.body_wait) =
        (Duration::from_secs(1), Duration::from_millis(50));
    assert_eq!(rig.pull_one().await.outcome, Outcome::TimeLimit);
    let stuck = rig.pull_one().await;
    assert_eq!(code(&stuck), "no-progress");
    let fault = stuck.error.unwrap();
    assert!(fault.message.contains("a.json.gz: two runs in a row ended at line 10"), "{fault}");
    assert!(fault.fix.contains("RUN_TIME_LIMIT_SECONDS"), "{fault}");
    assert_nothing_is_kept(&rig.state());
    assert_eq!(rig.simulator.landed_count(), 10, "what comes before it is not held back");

    assert_caught_up(&rig.pull_one().await);
    assert_only_the_long_line_is_kept(&rig.simulator, &rig.state(), &lines);
}

/// `ulimit` is in blocks of 512 or 1,024 bytes.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_has_no_room_for_a_long_line_stops_the_stream_before_it() {
    let lines = around(&long_line(1, 600_000));
    let (simulator, program) = long_line_in(&lines, FaultPlan::none()).await;
    for _ in 0..2 {
        let full = program.shell("trap '' XFSZ; ulimit -f 100; exec $EXE pull").await;
        full.assert_code(1).assert_stderr(&["store-failed", "line-0000000011"]);
        assert_nothing_is_kept(&program.state());
        assert_eq!(
            simulator.landed_count(),
            10,
            "what comes before it is not held back, nor repeated"
        );
    }
    program.run(&["pull"]).await.assert_code(0);
    assert_only_the_long_line_is_kept(&simulator, &program.state(), &lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_for_which_quarantine_has_no_room_stops_the_stream_before_it() {
    let lines = around(&long_line(1, 3_000_000));
    let (simulator, program) = long_line_in(&lines, FaultPlan::none()).await;
    let program = program.set("QUARANTINE_MAX_BYTES", "1000000");
    for _ in 0..2 {
        let full = program.run(&["pull"]).await;
        full.assert_code(2).assert_stderr(&["quarantine-full", "holds 0 of the 1000000 bytes"]);
        assert_nothing_is_kept(&program.state());
        assert_eq!(
            simulator.landed_count(),
            10,
            "what comes before it is not held back, nor repeated"
        );
    }
    let program = program.unset("QUARANTINE_MAX_BYTES");
    program.run(&["pull"]).await.assert_code(0);
    assert_only_the_long_line_is_kept(&simulator, &program.state(), &lines);
}

#[tokio::test]
async fn a_line_is_kept_once_it_is_finished_and_not_before() {
    let rig = Rig::new(World::default(), FaultPlan::none()).await;
    let quarantine = Quarantine::new(folder(&rig));
    let position = FilePosition { stream: STREAM.into(), file: "https://x/f".into(), line: 7 };
    let version = FileVersion::default();
    let line = [long_line(1, 200_000).as_bytes(), HOSTILE, &[b' '; 500_000]].concat();
    for size in [line.len(), 65_536, 1_000] {
        let mut pieces = line.chunks(size).map(Bytes::copy_from_slice);
        let mut keeping = quarantine.keep_line(&position, &version);
        assert!(keeping.write(pieces.next().unwrap()).await);
        keeping.cancel().await;
        assert_nothing_is_kept(&rig.state());

        let mut keeping = quarantine.keep_line(&position, &version);
        for piece in line.chunks(size) {
            assert!(keeping.write(Bytes::copy_from_slice(piece)).await);
        }
        let name = keeping.finish().await.unwrap();
        assert_eq!(folder(&rig).list("quarantine/").await.unwrap(), std::slice::from_ref(&name));
        assert!(gunzip(&std::fs::read(rig.state().join(&name)).unwrap()) == line);
        quarantine.remove(&name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_line_that_was_damaged_is_reported_and_stays() {
    let lines = around(&long_line(1, 10_000));
    let (simulator, program) = long_line_in(&lines, FaultPlan::none()).await;
    program.run(&["pull"]).await.assert_code(0);
    let record = listed(&program).await.remove(0);
    let path = program.state().join(text(&record, "file_kept_as"));
    let program = program.set("MAX_LINE_BYTES", "100000");
    let packed = std::fs::read(&path).unwrap();
    let other = BatchFile::of_lines("x", &[long_line(2, 10_000)]).bytes;
    for bytes in [Some(&packed[..packed.len() / 2]), Some(&other), None] {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let summary = replayed(&program, &[]).await;
        assert_eq!(summary["streams"][0]["stay"], json!({"unreadable": 1}));
        assert_eq!(listed(&program).await, std::slice::from_ref(&record));
    }
    std::fs::write(&path, packed).unwrap();
    assert_eq!(replayed(&program, &[]).await["streams"][0]["rows_delivered"], 1);
    assert_nothing_is_kept(&program.state());
    assert_eq!((landed(&simulator), simulator.landed_count()), (21, 21));
}
