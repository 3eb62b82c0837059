//! Bytes that somebody made in order to harm: memory stays flat, and the run goes on or ends with a
//! reason. Memory is the high-water mark of the real program (`VmHWM`).
#![cfg(target_os = "linux")]

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use mimecast_sentinel::pipeline::Outcome;
use mimecast_sentinel::simulator::{BatchFile, FaultPlan, Simulator, SimulatorOptions, World};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::enemy::{Answer, Enemy, FILE, LISTING, TOKEN, enemy, ok, rig_at, whole};
use crate::support::program::{Ended, Program, ended, signal};
use crate::support::scenario::{code, events, page};

/// What a run may take, in MiB. Some 20 of them are the unoptimised program itself.
const MOST_MIB: u64 = 64;

/// Runs `pull`, asks it to stop once it has logged `enough`, and watches its memory.
async fn pull(program: &Program, enough: &str) -> Ended {
    let mut child = program.command(&["pull", "--json"]).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id().unwrap());
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut stderr, mut peak) = (String::new(), 0);
    loop {
        tokio::select! {
            line = log.next_line() => {
                let Some(line) = line.unwrap() else { break };
                if line.contains(enough) && !stderr.contains(enough) {
                    signal(&child, "TERM");
                }
                stderr += &line;
                stderr.push('\n');
            }
            () = sleep(Duration::from_millis(2)) => {
                let status = std::fs::read_to_string(&status).unwrap_or_default();
                let peaks = status.lines().filter_map(|line| line.strip_prefix("VmHWM:"));
                let peaks = peaks.filter_map(|line| line.trim().strip_suffix(" kB")?.parse().ok());
                peak = peaks.max().unwrap_or(peak);
            }
        }
    }
    let ended = Ended { stderr, ..ended(child).await };
    println!("{peak} KiB at most");
    assert!(peak > 0 && peak >> 10 < MOST_MIB, "{peak} KiB: {ended:#?}");
    ended
}

/// What no run logs.
const NOTHING: &str = "\0";

fn stream(ended: &Ended) -> Value {
    ended.json()["streams"][0].clone()
}

/// The records in quarantine, in the order of their lines.
fn quarantined(program: &Program) -> Vec<Value> {
    let mut folders = vec![program.state().join("quarantine")];
    let mut records = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                records
                    .push(serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap());
            }
        }
    }
    records.sort_by_key(|record| record["line"].as_u64());
    records
}

fn gzip(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    pieces.into_iter().for_each(|piece| encoder.write_all(piece.as_ref()).unwrap());
    encoder.finish().unwrap()
}

// What is in a batch file.

/// Pulls a page of one file of these bytes and one of two events.
async fn pull_file(bytes: Vec<u8>) -> (Program, Ended) {
    let more = BatchFile::of_lines("more.json.gz", &events(77, "entities", 2));
    let page = page().file(BatchFile::raw("a.json.gz", bytes)).file(more);
    let world = World::default().page("entities", page);
    let simulator =
        Simulator::start(world, FaultPlan::none(), SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator).set("MIMECAST_TYPES", "entities");
    let ended = pull(&program, NOTHING).await;
    ended.assert_code(0);
    assert_eq!(simulator.violations(), [""; 0]);
    assert_eq!(stream(&ended)["outcome"], "caught_up");
    (program, ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_of_zeros_in_a_megabyte_is_one_line_that_is_too_long() {
    let zeros = vec![0; 1 << 20];
    let bomb = gzip(std::iter::repeat_n(&zeros, 1 << 10));
    assert!((1 << 19..6 << 20).contains(&bomb.len()), "{}", bomb.len());
    let (program, ended) = pull_file(bomb).await;
    let stream = stream(&ended);
    assert_eq!((&stream["rows_delivered"], &stream["rows_quarantined"]), (&2.into(), &1.into()));
    let records = quarantined(&program);
    assert_eq!(records[0]["reason"], "line-too-long");
    assert!(records[0]["detail"].to_string().contains("1073741824"), "{records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_100_mb_is_kept_with_its_file_and_the_lines_around_it_land() {
    let (piece, good) = ("x".repeat(1_000_000), events(5, "entities", 2));
    let long = std::iter::repeat_n(piece.as_str(), 100);
    let before = [&*good[0], "\n{\"subject\":\""];
    let text = before.into_iter().chain(long).chain(["\"}\n", &good[1]]);
    let (program, ended) = pull_file(gzip(text)).await;
    let stream = stream(&ended);
    assert_eq!((&stream["rows_delivered"], &stream["rows_quarantined"]), (&4.into(), &1.into()));
    let records = quarantined(&program);
    assert_eq!((&records[0]["reason"], &records[0]["line"]), (&"line-too-long".into(), &2.into()));
    assert!(records[0]["detail"].to_string().contains("100000014"), "{records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_nested_100000_deep_is_quarantined_and_reported() {
    const DEEP: usize = 100_000;
    let lines = [
        format!("{{\"a\":{}{}}}", "[".repeat(DEEP), "]".repeat(DEEP)),
        format!("{}1{}", "{\"a\":".repeat(DEEP), "}".repeat(DEEP)),
        format!("{{\"subject\":{}{}}}", "[".repeat(DEEP), "]".repeat(DEEP)),
        "[".repeat(DEEP),
    ];
    let (program, ended) = pull_file(gzip([lines.join("\n")])).await;
    let stream = stream(&ended);
    assert_eq!((&stream["rows_delivered"], &stream["rows_quarantined"]), (&2.into(), &4.into()));
    let reasons: Vec<Value> =
        quarantined(&program).iter().map(|record| record["reason"].clone()).collect();
    assert_eq!(reasons, ["too-deep", "too-deep", "too-deep", "not-json"]);
}

// What a server answers.

/// A simulator that only takes rows, and a program that reads one stream from an enemy.
async fn reading_from(enemy: &Enemy) -> (Simulator, Program) {
    let simulator =
        Simulator::start(World::default(), FaultPlan::none(), SimulatorOptions::default()).await;
    let simulator = simulator.unwrap();
    let program = Program::of(&simulator)
        .set("MIMECAST_BASE_URL", &enemy.url)
        .set("MIMECAST_TYPES", "entities");
    (simulator, program)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_a_million_files_is_no_listing() {
    let long = |n: u32| format!("{{\"url\":\"https://h.example/{n}?X-Amz-Signature={n:064}\"}}");
    let short = |_| r#"{"url":"a:"}"#.to_owned();
    let listing = |files: &dyn Fn(u32) -> String| {
        let files: Vec<String> = (0..1_000_000).map(files).collect();
        format!("{{\"value\":[{}]}}", files.join(","))
    };
    let gzipped = |body: &str| {
        let body = gzip([body]);
        let length = body.len();
        let headers = format!("Content-Encoding: gzip\r\nContent-Length: {length}\r\n");
        Answer::Whole(ok(&headers, &body))
    };
    let (long, short) = (listing(&long), listing(&short));
    let none = format!("{{\"value\":[{}]}}", vec!["{}"; 100_000].join(","));
    let too_large = "the reply is larger than 4194304 bytes";
    let cases = [
        (whole(long.as_bytes()), too_large),
        (gzipped(&long), too_large),
        (gzipped(&short), too_large),
        (gzipped(&none), "JSON of another shape"),
    ];
    for (answer, words) in cases {
        let enemy = enemy(LISTING, answer).await;
        let (_simulator, program) = reading_from(&enemy).await;
        let ended = pull(&program, words).await;
        ended.assert_code(0).assert_stderr(&[words]);
        assert_eq!(stream(&ended)["outcome"], "time_limit");
    }
    // With time for all attempts.
    let enemy = enemy(LISTING, gzipped(&none)).await;
    assert_eq!(code(&rig_at(&enemy).await.pull_one().await), "mimecast-unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reply_says_beside_what_is_read_of_it_takes_no_memory() {
    let numbers = format!("[{}0]", "0,".repeat(2_000_000));
    let listing = format!("{{\"value\":[{{\"size\":{numbers}}}],\"x\":{{}}}}");
    let refusal = ok("", numbers.as_bytes());
    let refusal = [b"HTTP/1.1 403 Forbidden", &refusal[15..]].concat();
    for (answer, expected, exit_code) in [
        (whole(listing.as_bytes()), "listing-unreadable", 1),
        (Answer::Whole(refusal), "mimecast-forbidden", 2),
    ] {
        let enemy = enemy(LISTING, answer).await;
        let (_simulator, program) = reading_from(&enemy).await;
        let ended = pull(&program, NOTHING).await;
        ended.assert_code(exit_code);
        assert_eq!(stream(&ended)["error"]["code"], expected);
    }
}

#[tokio::test]
async fn a_listing_nested_100000_deep_is_no_listing() {
    for body in ["[".repeat(100_000), format!("{{\"value\":{}", "[".repeat(100_000))] {
        let enemy = enemy(LISTING, whole(body.as_bytes())).await;
        assert_eq!(code(&rig_at(&enemy).await.pull_one().await), "mimecast-unreachable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_a_megabyte_is_not_taken() {
    let answer = Answer::Whole(ok(&format!("X: {}\r\n", "x".repeat(1 << 20)), b"{}"));
    for (path, expected) in [
        (TOKEN, "mimecast-unreachable"),
        (LISTING, "mimecast-unreachable"),
        (FILE, "file-unreachable"),
    ] {
        let enemy = enemy(path, answer.clone()).await;
        let stream = rig_at(&enemy).await.pull_one().await;
        assert_eq!(code(&stream), expected);
        let message = &stream.error.as_ref().unwrap().message;
        assert!(message.contains("head is too large"), "{message}");
        let (_simulator, program) = reading_from(&enemy).await;
        pull(&program, "head is too large").await.assert_code(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_never_ends_is_left() {
    let answer = Answer::Endless(ok("", b"{\"value\":["), vec![b' '; 1 << 16]);
    let enemy = enemy(LISTING, answer).await;
    let (_simulator, program) = reading_from(&enemy).await;
    let words = "the reply is larger than 4194304 bytes";
    pull(&program, words).await.assert_code(0).assert_stderr(&[words]);
    assert_eq!(code(&rig_at(&enemy).await.pull_one().await), "mimecast-unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_file_that_never_ends_is_left_and_fills_no_disk() {
    // Lines for ever, and nothing for ever.
    for text in ["{\"subject\":\"again\"}\n".repeat(20), String::new()] {
        let member = gzip([text]);
        let enemy = enemy(FILE, Answer::Endless(ok("", b""), member.repeat(100))).await;
        let (simulator, program) = reading_from(&enemy).await;
        let program = program.set("MAX_FILE_BYTES", "1048576");
        let ended = pull(&program, NOTHING).await;
        ended.assert_code(1);
        let stream = stream(&ended);
        assert_eq!(stream["error"]["code"], "file-unreadable");
        let message = stream["error"]["message"].to_string();
        assert!(message.contains("1048576") && message.contains("1 downloads"), "{stream}");
        assert_eq!(stream["rows_delivered"], simulator.landed_count());
        assert!(!program.state().join("quarantine").exists() || quarantined(&program).is_empty());
    }
}

#[tokio::test]
async fn one_byte_a_second_costs_no_more_than_the_run_has() {
    let first = gzip([events(5, "entities", 1).join("\n")]);
    for (path, answer) in [
        (TOKEN, Answer::Slow(ok("", b"{"))),
        (LISTING, Answer::Slow(ok("", b"{"))),
        (FILE, Answer::Slow(ok("", &first[..20]))),
    ] {
        let enemy = enemy(path, answer).await;
        let rig = rig_at(&enemy).await;
        // Two runs without a new line, or without a page, are no success.
        for expected in [None, Some("no-progress")] {
            let (connector, time_is_up) = (rig.connector(), CancellationToken::new());
            let counters = connector.summaries();
            let (run, ()) =
                tokio::join!(connector.run(connector.begin(), &counters, &time_is_up), async {
                    enemy.asked_for.notified().await;
                    time_is_up.cancel();
                });
            assert_eq!(
                run.streams[0].error.as_ref().map(|fault| fault.code.as_str()),
                expected,
                "{path}"
            );
            if expected.is_none() {
                assert_eq!((run.outcome, run.exit_code()), (Outcome::TimeLimit, 0), "{path}");
            }
        }
    }
}
