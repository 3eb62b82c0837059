//! Quarantine holds no more than `QUARANTINE_MAX_BYTES`: what would exceed it stops the stream, and
//! nothing is lost, since the checkpoint does not pass what is not kept.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use mimecast_sentinel::checkpoint::FileVersion;
use mimecast_sentinel::quarantine::Quarantine;
use mimecast_sentinel::simulator::{
    BatchFile, FaultPlan, Page, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::store::{FolderStore, KeepError, Store};
use serde_json::Value;

use crate::support::program::{Ended, Program, landed};
use crate::support::scenario::{events, page_of};

const STREAM: &str = "mailflow";

/// The least that may be set.
const MOST: u64 = 1_000_000;

async fn simulator(page: Page) -> (Simulator, Program) {
    let world = World::default().page(STREAM, page);
    let simulator =
        Simulator::start(world, FaultPlan::none(), SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator)
        .set("MIMECAST_TYPES", STREAM)
        .set("QUARANTINE_MAX_BYTES", &MOST.to_string());
    (simulator, program)
}

/// All files below a folder, drafts too.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![(path.display().to_string(), path.metadata().unwrap().len())],
        })
        .collect()
}

fn kept(program: &Program) -> Vec<(String, u64)> {
    files(&program.state().join("quarantine"))
}

/// The run says that quarantine is full, how much is in it, and what to do.
async fn full(program: &Program, used: u64) -> Ended {
    let run = program.run(&["pull", "--json"]).await;
    run.assert_code(2);
    let error = run.json()["streams"][0]["error"].clone();
    assert_eq!(error["code"], "quarantine-full", "{run:#?}");
    let message = error["message"].as_str().unwrap();
    let says = format!("holds {used} of the {MOST} bytes that QUARANTINE_MAX_BYTES allows");
    assert!(message.contains(&says), "{message}");
    for part in ["quarantine list", "quarantine replay", "raise QUARANTINE_MAX_BYTES"] {
        assert!(error["fix"].as_str().unwrap().contains(part), "{error}");
    }
    run
}

/// Four events, and four lines of 400 KB that are none.
fn lines() -> Vec<String> {
    let events = events(1, STREAM, 4);
    let junk = |n: usize| format!("{n}{}", "x".repeat(400_000));
    events.into_iter().enumerate().flat_map(|(n, event)| [junk(n), event]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_stop_the_stream_and_are_kept_once_there_is_room() {
    let (simulator, program) = simulator(page_of("a.json.gz", &lines())).await;
    for _ in 0..3 {
        let sum = || kept(&program).iter().map(|(_, length)| length).sum::<u64>();
        let before = sum();
        let run = program.run(&["pull", "--json"]).await;
        run.assert_code(2);
        assert_eq!(run.json()["streams"][0]["error"]["code"], "quarantine-full", "{run:#?}");
        assert!(sum() <= MOST && sum() >= before, "{:?}", kept(&program));
    }
    // A full one can be emptied: what stays is written over.
    let replayed = program.run(&["quarantine", "replay"]).await;
    replayed.assert_code(0);
    assert!(replayed.stdout.contains("2 not-json"), "{replayed:#?}");

    let program = program.set("QUARANTINE_MAX_BYTES", "2000000");
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(kept(&program).len(), 4);
    assert_eq!(landed(&simulator), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_fit_is_stopped_in_the_middle_and_nothing_of_it_is_left() {
    let good = events(2, STREAM, 3);
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<String> = (0..40)
        .map(|_| std::iter::repeat_with(|| random.alphanumeric()).take(50_000).collect())
        .collect();
    let large = BatchFile::of_lines("b.json.gz", &noise);
    assert!(large.bytes.len() as u64 > MOST, "{}", large.bytes.len());
    // Before its first line's end: nothing of it is delivered or refused.
    let damaged = large.damaged(20_000);
    let page = page_of("a.json.gz", &good).file(damaged.clone());
    let (simulator, program) = simulator(page).await;
    for _ in 0..2 {
        full(&program, 0).await;
        assert_eq!(kept(&program), []);
        assert_eq!(landed(&simulator), 3, "what comes before it is not held back");
    }

    let program = program.set("QUARANTINE_MAX_BYTES", "20000000");
    program.run(&["pull"]).await.assert_code(0);
    let kept = kept(&program);
    let files = kept.iter().filter(|(name, _)| !name.ends_with(".json"));
    let files: Vec<Vec<u8>> = files.map(|(name, _)| fs::read(name).unwrap()).collect();
    assert!(files == [damaged.bytes], "byte for byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_counts_of_whatever_stream() {
    let mut lines = lines();
    lines.truncate(1);
    let (_simulator, program) = simulator(page_of("a.json.gz", &lines)).await;
    let folder = program.state().join("quarantine/urlclick/00");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("file"), vec![0; 900_000]).unwrap();
    let run = full(&program, 900_000).await;
    let name = run.json()["streams"][0]["error"]["message"].to_string();
    assert!(name.contains("no room for quarantine/mailflow/"), "{name}");

    // Somebody deletes what nobody needs.
    fs::remove_file(folder.join("file")).unwrap();
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(kept(&program).len(), 1);
}

#[tokio::test]
async fn what_was_not_written_takes_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(FolderStore::new(folder.path()));
    let quarantine = Quarantine::new(Arc::clone(&store)).of_at_most(1_000);
    let version = FileVersion::default();
    let begin = async |file: &str, sizes: &[usize]| {
        let mut keeping = quarantine.keep_file(STREAM, file, &version);
        for size in sizes {
            keeping.write(Bytes::from(vec![0; *size])).await;
        }
        keeping
    };
    let keep = async |file: &str, sizes: &[usize]| begin(file, sizes).await.finish().await;
    begin("a", &[300, 300]).await.cancel().await;
    let too_large = keep("b", &[500, 501]).await.unwrap_err();
    assert!(matches!(too_large, KeepError::Full { used: 0, .. }), "{too_large}");
    assert_eq!(store.list("").await.unwrap(), [""; 0]);

    let kept = keep("a", &[500, 500]).await.unwrap();
    assert_eq!(store.size("quarantine/").await.unwrap(), 1_000);
    let full = keep("b", &[1]).await.unwrap_err();
    assert!(matches!(full, KeepError::Full { used: 1_000, .. }), "{full}");
    quarantine.remove(&kept).await.unwrap();
    assert!(keep("b", &[1]).await.is_err(), "counted once a run");
    quarantine.recount().await;
    keep("b", &[1]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_has_no_limit_and_needs_none() {
    let (_simulator, program) = simulator(page_of("a.json.gz", &lines())).await;
    let run = program.run(&["pull", "--dry-run"]).await;
    run.assert_code(0);
    let rows: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 4);
}
