//! Batch files, their lines and events, end to end against the simulator: what lands, what is in
//! quarantine, and where reading goes on.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use base64::Engine as _;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::FutureExt as _;
use mimecast_sentinel::checkpoint::Position;
use mimecast_sentinel::http::Clients;
use mimecast_sentinel::pipeline::source::{Content, Opened, Part};
use mimecast_sentinel::pipeline::{Interrupt, Source as _};
use mimecast_sentinel::seams::{Deadline, Random};
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, NextToken, SimulatorOptions, World,
};
use mimecast_sentinel::sources::mimecast::MimecastSource;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::log::Log;
use crate::support::own_process;
use crate::support::rig::Rig;
use crate::support::scenario::start_at;
use crate::support::scenario::{
    assert_caught_up, assert_done, assert_landed, clock_at, code, events, ids, landed_ids,
    one_by_one, page, page_of, reasons, small_world, stopped_after,
};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// The only page of `entities` has a file of these bytes, and behind it one of two events.
fn file_and_more(bytes: Vec<u8>) -> (World, Vec<String>) {
    let more = events(77, "entities", 2);
    let file = BatchFile::raw("a.json.gz", bytes);
    let page = page().file(file).file(BatchFile::of_lines("more.json.gz", &more));
    (World::default().page("entities", page), more)
}

async fn rig_of(bytes: Vec<u8>) -> (Rig, Vec<String>) {
    let (world, more) = file_and_more(bytes);
    (Rig::new(world, FaultPlan::none()).await.only("entities"), more)
}

fn downloads(rig: &Rig, name: &str) -> u64 {
    rig.simulator.calls().downloads.get(&format!("entities/{name}")).copied().unwrap_or_default()
}

/// The progress in a file whose key ends with `name`.
fn progress(rig: &Rig, name: &str) -> Option<Position> {
    let files = rig.checkpoint("entities").files;
    files.iter().find(|(key, _)| key.ends_with(name)).map(|(_, progress)| progress.done)
}

// Events: what lands.

/// The rows of one file of these lines, by a connector whose clock does not move.
async fn rows_of(lines: &[&str]) -> Vec<Value> {
    let world = World::default().page("entities", page_of("a.json.gz", lines));
    let options =
        SimulatorOptions { clock: clock_at("2026-11-15T10:00:00Z"), ..SimulatorOptions::default() };
    let rig = Rig::with(world, FaultPlan::none(), options).await.only("entities");
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!(stream.rows_delivered, lines.len() as u64);
    assert_landed(&rig, lines);
    rig.simulator.landed()
}

#[tokio::test]
async fn an_event_lands_whole_with_its_own_types() {
    let line = r#"{"tags":null,"recipients":"one@example.com","historicalMail":"false","subject":"a\u0041","timestamp":1763000000123,"_offset":7,"_partition":53,"type":"entities","policiesApplied":[{"action":null}],"verdict":{"score":[1,{"x":null}],"n":1.50},"senderIp":17}"#;
    let rows = rows_of(&[line]).await;
    let expected = json!({
        "TimeGenerated": "2025-11-13T02:13:20.123Z",
        "EventTime": "2025-11-13T02:13:20.123Z",
        "EventId": ids(&[line])[0],
        "timestamp": 1_763_000_000_123_i64,
        "type_": "entities",
        "subject": "aA",
        "recipients": "one@example.com",
        "policiesApplied": [{"action": null}],
        "sourcePartition": 53,
        "sourceOffset": 7,
        "AdditionalFields": {
            "historicalMail": "false",
            "verdict": {"score": [1, {"x": null}], "n": 1.50},
            "senderIp": 17,
        },
    });
    assert_eq!(rows[0], expected);
}

#[tokio::test]
async fn line_separators_of_unicode_are_text() {
    let subject = "one\u{2028}two\u{2029}three\u{85}four";
    let line = format!("{{\"subject\":\"{subject}\"}}");
    let rows = rows_of(&[&line, r#"{"subject":"next"}"#]).await;
    assert_eq!(rows[0]["subject"], subject);
    assert_eq!(rows[1]["subject"], "next");
}

#[tokio::test]
async fn a_time_is_taken_or_not_and_never_guessed() {
    let cases = [
        (r#"{"timestamp":1700000000000}"#, Some("2023-11-14T22:13:20.000Z")),
        (r#"{"timestamp":946684800000}"#, Some("2000-01-01T00:00:00.000Z")),
        (r#"{"timestamp":4102444799999}"#, Some("2099-12-31T23:59:59.999Z")),
        (r#"{"timestamp":4102444800000}"#, None),
        (r#"{"timestamp":99999999999999999}"#, None),
        (r#"{"timestamp":99999999999999999999999}"#, None),
        (r#"{"timestamp":1700000000}"#, None),
        (r#"{"timestamp":0}"#, None),
        (r#"{"timestamp":-1700000000000}"#, None),
        (r#"{"timestamp":1700000000000.5}"#, None),
        (r#"{"timestamp":"1700000000000"}"#, None),
        (r#"{"timestamp":null}"#, None),
        (r#"{"datetime":1700000000000}"#, None),
    ];
    let rows = rows_of(&cases.map(|(line, _)| line)).await;
    for ((line, time), row) in cases.iter().zip(rows) {
        assert_eq!(row["TimeGenerated"], time.unwrap_or("2026-11-15T10:00:00.000Z"), "{line}");
        assert_eq!(row.get("EventTime").and_then(Value::as_str), *time, "{line}");
    }
}

#[tokio::test]
async fn unknown_types_and_bare_events_are_delivered() {
    let rows = rows_of(&["{}", r#"{"type":"brandNew","x":1}"#, r#"{"type":3}"#]).await;
    assert_eq!(rows[1]["type_"], "brandNew");
    assert_eq!(rows[1]["AdditionalFields"], json!({"x": 1}));
    assert_eq!(rows[2]["AdditionalFields"], json!({"type": 3}));
}

#[tokio::test]
async fn two_identical_lines_are_one_event_delivered_twice() {
    let rows = rows_of(&[r#"{"a":1}"#, r#"{"a":1}"#]).await;
    assert_eq!(rows[0]["EventId"], rows[1]["EventId"]);
}

// Files: how lines are cut.

#[tokio::test]
async fn lines_are_found_however_a_file_is_made() {
    let lines = events(5, "entities", 4);
    let [a, b, c, d] = [0, 1, 2, 3].map(|n| lines[n].as_str());
    let middle = a.char_indices().nth(a.chars().count() / 2).unwrap().0;
    let files = [
        ("no newline at the end", gzip(format!("{a}\n{b}\n{c}\n{d}").as_bytes())),
        ("CRLF", gzip(format!("{a}\r\n{b}\r\n{c}\r\n{d}\r\n").as_bytes())),
        ("CRLF, none at the end", gzip(format!("{a}\r\n{b}\r\n{c}\r\n{d}\r").as_bytes())),
        ("blank lines", gzip(format!("\n\n{a}\n \t\n{b}\n\r\n{c}\n{d}\n\n").as_bytes())),
        (
            "two members, cut within a line",
            [
                gzip(&a.as_bytes()[..middle]),
                gzip(format!("{}\n{b}\n{c}\n{d}", &a[middle..]).as_bytes()),
            ]
            .concat(),
        ),
        (
            "many members, some of them empty",
            [format!("{a}\n"), String::new(), format!("{b}\n{c}\n"), String::new(), d.to_owned()]
                .map(|text| gzip(text.as_bytes()))
                .concat(),
        ),
    ];
    for (what, bytes) in files {
        let (rig, more) = rig_of(bytes).await;
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!((stream.events_read, stream.rows_quarantined), (6, 0), "{what}");
        assert_landed(&rig, &[&lines[..], &more].concat());
        assert_eq!(downloads(&rig, "a.json.gz"), 1, "{what}");
    }
}

#[tokio::test]
async fn empty_files_are_normal_and_a_page_of_them_is_passed() {
    let empty = [Vec::new(), gzip(b""), [gzip(b""), gzip(b"")].concat(), gzip(b"\n\n \r\n")];
    let mut first = page();
    for (number, bytes) in empty.into_iter().enumerate() {
        first = first.file(BatchFile::raw(&format!("{number}.json.gz"), bytes));
    }
    let lines = events(5, "entities", 3);
    let world = World::default().page("entities", first).page("entities", page_of("z.gz", &lines));
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.pages, stream.files, stream.rows_delivered), (2, 5, 3));
    assert_landed(&rig, &lines);
    assert!(rig.quarantined().is_empty());
    assert_eq!(rig.simulator.calls().all_downloads(), 5);
}

#[tokio::test]
async fn only_empty_files_end_where_nothing_is_left() {
    let empty = page().file(BatchFile::raw("a.json.gz", Vec::new()));
    let world = World::default().page("entities", empty.caught_up(Some(true)));
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    for _ in 0..2 {
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!((stream.events_read, stream.bodies), (0, 0));
    }
    assert_eq!(rig.simulator.calls().posts, 0);
    assert_eq!(downloads(&rig, "a.json.gz"), 1);
}

#[tokio::test]
async fn an_expiry_in_the_past_keeps_no_file_from_being_read() {
    let lines = events(5, "entities", 3);
    let file = |name: &str, n: usize, expiry: &str| {
        BatchFile::of_lines(name, &lines[n..=n]).expiry(expiry)
    };
    let page = page()
        .file(file("a.gz", 0, "2020-01-01T00:00:00.000Z"))
        .file(file("b.gz", 1, "not a time"))
        .file(file("c.gz", 2, ""));
    let rig = Rig::new(World::default().page("entities", page), FaultPlan::none()).await;
    let rig = rig.only("entities");
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

// Lines that are no events, and limits.

#[tokio::test]
async fn what_is_not_an_event_is_kept_with_its_bytes_and_place() {
    let good = events(5, "entities", 3);
    let bad: [(&[u8], &str); 9] = [
        (b"nonsense", "not-json"),
        (br#"{"cut":"#, "not-json"),
        (b"[1,2]", "not-object"),
        (b"\"text\"", "not-object"),
        (b"null", "not-object"),
        (b"{\"a\":\"\xff\"}", "invalid-utf8"),
        (br#"{"a":"\ud800"}"#, "lone-surrogate"),
        (br#"{"a":1,"\u0061":2}"#, "duplicate-key"),
        (br#"{"x":{"b":1,"b":2}}"#, "duplicate-key"),
    ];
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(128), "]".repeat(128));
    let mut lines: Vec<&[u8]> = vec![good[0].as_bytes()];
    lines.extend(bad.iter().map(|(line, _)| *line));
    lines.extend([good[1].as_bytes(), deep.as_bytes(), b"", good[2].as_bytes()]);
    let (rig, more) = rig_of(gzip(&lines.join(&b'\n'))).await;
    let run = rig.pull().await;
    assert_done(&run);
    let stream = &run.streams[0];
    assert_eq!((stream.events_read, stream.rows_quarantined), (15, 10));
    assert_landed(&rig, &[&good[..], &more].concat());

    let records = rig.quarantined();
    assert_eq!(records.len(), 10);
    let expected = bad.iter().copied().chain([(deep.as_bytes(), "too-deep")]);
    for ((record, (line, reason)), number) in
        records.iter().zip(expected).zip([2, 3, 4, 5, 6, 7, 8, 9, 10, 12])
    {
        assert_eq!(
            (record["reason"].as_str(), record["line"].as_u64()),
            (Some(reason), Some(number))
        );
        let original = match record["original"].as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => {
                let base64 = record["original_base64"].as_str().unwrap();
                base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
            }
        };
        assert_eq!(original, line, "{reason}");
        assert_eq!(record["event_id"], ids(&[line])[0]);
        assert_eq!(record["stream"], "entities");
        assert!(record["file"].as_str().unwrap().ends_with("/files/entities/a.json.gz"));
        assert_eq!(record["delivered"], false);
    }
    assert_eq!(rig.checkpoint("entities").totals.rows_quarantined, 10);
}

#[tokio::test]
async fn a_file_of_bad_lines_alone_is_passed() {
    let (rig, more) = rig_of(gzip(&b"bad\n".repeat(40))).await;
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.rows_quarantined, stream.rows_delivered), (40, 2));
    assert_landed(&rig, &more);
    assert_eq!(rig.quarantined().len(), 40);
}

#[tokio::test]
async fn a_line_over_the_limit_is_kept_by_itself_and_the_rest_goes_on() {
    let good = events(5, "entities", 3);
    let long = format!("{{\"subject\":\"{}\"}}", "x".repeat(30 << 20));
    let longer = format!("{{\"subject\":\"{}\"}}", "y".repeat(3 << 20));
    let text = [&good[0], &long, &good[1], &longer, &good[2]].map(String::as_str).join("\n");
    let bytes = gzip(text.as_bytes());
    let (rig, more) = rig_of(bytes).await;
    let run = rig.pull().await;
    assert_done(&run);
    let stream = &run.streams[0];
    assert_eq!((stream.events_read, stream.rows_quarantined), (7, 2));
    assert_landed(&rig, &[&good[..], &more].concat());
    assert_eq!(reasons(&rig), [("line-too-long".to_owned(), 2), ("line-too-long".to_owned(), 4)]);
    for (record, line) in rig.quarantined().iter().zip([&long, &longer]) {
        assert_eq!(record["event_id"], ids(&[line])[0]);
        assert!(record["detail"].as_str().unwrap().contains(&line.len().to_string()));
        let kept = rig.state().join(record["file_kept_as"].as_str().unwrap());
        let mut text = String::new();
        let kept = std::fs::read(kept).unwrap();
        GzDecoder::new(&kept[..]).read_to_string(&mut text).unwrap();
        assert!(text == **line, "it is there, whole");
    }
    assert_eq!(rig.kept_files().len(), 2, "the file is not");
    assert_eq!(downloads(&rig, "a.json.gz"), 1);
}

#[tokio::test]
async fn the_limit_of_a_line_is_exact() {
    let line = |length: usize| format!("{{\"subject\":\"{}\"}}", "x".repeat(length - 14));
    let (fits, long) = (line(5_000), line(5_001));
    let (world, more) = file_and_more(gzip(format!("{fits}\n{long}\n").as_bytes()));
    let mut rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    rig.options.limits.line = 5_000;
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &[&[fits][..], &more].concat());
    assert_eq!(reasons(&rig), [("line-too-long".to_owned(), 2)]);
}

/// A file that cannot be read to its end: its first `delivered` lines landed, the rest is in
/// quarantine as `bytes` with `reason`, and the page went on.
fn assert_kept_whole(rig: &Rig, lines: &[String], more: &[String], reason: &str, bytes: &[u8]) {
    rig.assert_no_violations();
    let landed = landed_ids(rig);
    let delivered = landed.len() - more.len();
    assert_eq!(landed[..delivered], ids(&lines[..delivered]));
    assert_eq!(landed[delivered..], ids(more));
    assert_eq!(reasons(rig), [(reason.to_owned(), delivered as u64 + 1)]);
    assert_eq!(rig.kept_files().len(), 1);
    assert!(rig.kept_files()[0] == bytes, "the file is not kept as it came");
    let kept_as = rig.quarantined()[0]["file_kept_as"].as_str().unwrap().to_owned();
    assert!(rig.state().join(&kept_as).is_file(), "{kept_as}");
}

#[tokio::test]
async fn a_file_over_the_limit_is_kept_whole() {
    let lines = events(5, "entities", 2_000);
    let bytes = gzip((lines.join("\n") + "\n").as_bytes());
    let (world, more) = file_and_more(bytes.clone());
    let mut rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    rig.options.limits.file = 500_000;
    let run = rig.pull().await;
    assert_done(&run);
    let stream = &run.streams[0];
    assert!(stream.rows_delivered > 300, "{stream:#?}");
    assert_kept_whole(&rig, &lines, &more, "file-too-large", &bytes);
    let detail = rig.quarantined()[0]["detail"].to_string();
    assert!(detail.contains("500000"), "{detail}");
    assert_eq!(rig.pull_one().await.events_read, 0);
}

#[tokio::test]
async fn a_gzip_bomb_ends_at_the_limits() {
    // 100 MiB each: one line, empty lines, a blank line, and that in a hundred members.
    let bombs = [
        gzip(&vec![b'x'; 100 << 20]),
        gzip(&vec![b'\n'; 100 << 20]),
        gzip(&vec![b' '; 100 << 20]),
        gzip(&vec![b' '; 1 << 20]).repeat(100),
    ];
    for (number, bomb) in bombs.into_iter().enumerate() {
        let (world, more) = file_and_more(bomb.clone());
        let mut rig = Rig::new(world, FaultPlan::none()).await.only("entities");
        rig.options.limits.file = 10 << 20;
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_kept_whole(&rig, &[], &more, "file-too-large", &bomb);
        assert_eq!(stream.rows_delivered, 2, "bomb {number}");
        assert_eq!(downloads(&rig, "a.json.gz"), 2, "bomb {number}");
    }
}

// Damage.

#[tokio::test]
async fn a_damaged_file_is_kept_whole_after_three_downloads() {
    let lines = events(5, "entities", 1_500);
    let bytes = gzip((lines.join("\n") + "\n").as_bytes());
    let at = bytes.len() / 2;
    assert!(at > 3 * 65_536 / 2, "longer than a buffer");
    let damaged = BatchFile::raw("a.json.gz", bytes.clone()).damaged(at).bytes;
    // However the bytes come in, the damage is at the same place.
    let slow = Fault::Slow(Duration::from_millis(1));
    let pieces = [
        [Fault::Nothing, Fault::Nothing, Fault::Nothing],
        [Fault::Nothing, slow.clone(), Fault::Nothing],
        [slow.clone(), Fault::Nothing, slow],
    ];
    for pieces in pieces {
        let (world, more) = file_and_more(damaged.to_vec());
        let faults = pieces.iter().cloned().fold(FaultPlan::none(), |plan, fault| {
            plan.matching("/a.json.gz", 1, Endpoint::File, fault)
        });
        let rig = Rig::new(world, faults).await.only("entities");
        let run = rig.pull().await;
        assert_done(&run);
        let delivered = run.streams[0].rows_delivered;
        assert!((500..1_000).contains(&delivered), "{pieces:?}: {delivered}");
        assert_kept_whole(&rig, &lines, &more, "corrupt-file", &damaged);
        assert_eq!(downloads(&rig, "a.json.gz"), 3 + 1, "{pieces:?}");
        assert_eq!(rig.checkpoint("entities").totals.pages, 1);
        assert_eq!(rig.pull_one().await.events_read, 0);
    }
}

#[tokio::test]
async fn a_file_that_was_damaged_while_it_was_read_is_kept_from_there_on() {
    let lines = events(5, "entities", 800);
    let whole = BatchFile::of_lines("a.json.gz", &lines);
    let at = whole.bytes.len() / 3;
    let (world, more) = file_and_more(whole.bytes.to_vec());
    // The first download is damaged and breaks off behind that: it does not count.
    let faults = FaultPlan::none().once(Endpoint::File, Fault::Corrupt(at)).matching(
        "/a.json.gz",
        1,
        Endpoint::File,
        Fault::CutShort(2 * at),
    );
    let rig = Rig::new(world, faults).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    let damaged = whole.damaged(at).bytes;
    assert_kept_whole(&rig, &lines, &more, "corrupt-file", &damaged);
    assert_eq!(downloads(&rig, "a.json.gz"), 3 + 1 + 1);
}

/// A copy to quarantine is a download like any other.
#[tokio::test]
async fn a_copy_that_breaks_off_is_made_again() {
    let lines = events(5, "entities", 300);
    let whole = BatchFile::of_lines("a.json.gz", &lines);
    let half = whole.bytes.len() / 2;
    let file = whole.damaged(half);
    let (reason, before) = ("corrupt-file", 3);
    let cut = Fault::CutShort(file.bytes.len() - 1);
    // A copy is given up after five downloads, and then the next run makes it.
    let times = [(1, false), (4, false), (5, true)];
    let cases = times.iter().flat_map(|case| [(case, &cut), (case, &Fault::Empty)]);
    for (&(breaks, fails), cut) in cases {
        let (world, more) = file_and_more(file.bytes.to_vec());
        let cut = cut.clone();
        let faults = FaultPlan::none()
            .matching("/a.json.gz", before, Endpoint::File, Fault::Nothing)
            .matching("/a.json.gz", breaks, Endpoint::File, cut);
        let rig = Rig::new(world, faults).await.only("entities");
        let stream = rig.pull_one().await;
        let case = format!("{reason}, {breaks} times: {stream:#?}");
        if fails {
            assert_eq!(code(&stream), "file-unreadable", "{case}");
            let message = &stream.error.as_ref().unwrap().message;
            assert!(message.contains("5 downloads in a row failed"), "{case}");
            assert_eq!(downloads(&rig, "a.json.gz"), (before + breaks) as u64, "{case}");
            assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty(), "{case}");
            assert_eq!(rig.simulator.landed_count() as u64, stream.rows_delivered, "{case}");
            assert!(stream.rows_delivered > 0, "what was read before it is delivered: {case}");
            assert_caught_up(&rig.pull_one().await);
        } else {
            assert_caught_up(&stream);
            let all = before + breaks + 1;
            assert_eq!(downloads(&rig, "a.json.gz"), all as u64, "{case}");
        }
        assert!(rig.kept_files() == [file.bytes.to_vec()], "byte for byte: {case}");
        let kept = reasons(&rig);
        assert_eq!((kept.len(), &*kept[0].0), (1, reason), "{case}");
        let damage = kept[0].1 as usize - 1;
        assert!(damage > 50, "{case}");
        assert_landed(&rig, &[&lines[..damage], &more].concat());
    }
}

#[tokio::test]
async fn a_truncated_file_and_one_with_rubbish_behind_it_are_kept_whole() {
    let lines = events(5, "entities", 300);
    let text = lines.join("\n") + "\n";
    let whole = gzip(text.as_bytes());
    let mut wrong_sum = whole.clone();
    *wrong_sum.iter_mut().rev().nth(5).unwrap() ^= 1;
    // (bytes, whether all lines are delivered before the damage shows)
    let files = [
        (whole[..whole.len() / 2].to_vec(), false),
        (whole[..whole.len() - 4].to_vec(), true),
        (wrong_sum, true),
        (whole[..5].to_vec(), false),
        ([&whole[..], b"rubbish behind it"].concat(), true),
    ];
    for (number, (bytes, all)) in files.into_iter().enumerate() {
        let (rig, more) = rig_of(bytes.clone()).await;
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_kept_whole(&rig, &lines, &more, "corrupt-file", &bytes);
        assert_eq!(stream.rows_delivered == 302, all, "file {number}: {stream:#?}");
        assert_eq!(downloads(&rig, "a.json.gz"), 4, "file {number}");
    }
}

#[tokio::test]
async fn downloads_that_break_off_are_no_damage() {
    let lines = events(5, "entities", 200);
    let file = BatchFile::of_lines("a.json.gz", &lines);
    let half = file.bytes.len() / 2;
    for at in [0, 1, 5, half, file.bytes.len() - 1] {
        let (world, more) = file_and_more(file.bytes.to_vec());
        let faults =
            FaultPlan::none().matching("/a.json.gz", 4, Endpoint::File, Fault::CutShort(at));
        let rig = Rig::new(world, faults).await.only("entities");
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &[&lines[..], &more].concat());
        assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty(), "{at}");
        assert_eq!(downloads(&rig, "a.json.gz"), 5, "{at}");
    }
}

#[tokio::test]
async fn a_file_that_never_comes_whole_fails_the_stream_and_is_read_on_later() {
    let lines = events(5, "entities", 200);
    let file = BatchFile::of_lines("a.json.gz", &lines);
    let (world, more) = file_and_more(file.bytes.to_vec());
    let cut = Fault::CutShort(file.bytes.len() / 2);
    let faults = FaultPlan::none().matching("/a.json.gz", 5, Endpoint::File, cut);
    let rig = one_by_one(Rig::new(world, faults).await.only("entities"));
    let run = rig.pull().await;
    assert_eq!((code(&run.streams[0]), run.exit_code()), ("file-unreadable", 1));
    assert!(run.streams[0].error.as_ref().unwrap().message.contains("a.json.gz"));
    assert!(run.streams[0].rows_delivered > 0);
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &[&lines[..], &more].concat());
    assert!(rig.quarantined().is_empty());
}

#[tokio::test]
async fn a_file_whose_host_fails_for_a_moment_is_asked_for_again() {
    let faults = [
        Fault::ServerError,
        Fault::Unavailable,
        Fault::RequestTimeout,
        Fault::Reset,
        Fault::LostReply,
        Fault::TooManyRequests(None),
        Fault::Redirect("http://127.0.0.1:9/".to_owned()),
        Fault::Slow(Duration::from_millis(5)),
    ];
    for fault in faults {
        let lines = events(5, "entities", 30);
        let world = World::default().page("entities", page_of("a.json.gz", &lines));
        let rig = Rig::new(world, FaultPlan::none().times(2, Endpoint::File, fault.clone())).await;
        let rig = rig.only("entities");
        let stream = rig.pull_one().await;
        assert_eq!(stream.error, None, "{fault:?}");
        assert_caught_up(&stream);
        assert_landed(&rig, &lines);
        assert_eq!(rig.simulator.calls().all_listings(), 2, "{fault:?}");
    }
}

// Addresses that expire.

#[tokio::test]
async fn an_expired_address_is_listed_again_and_reading_goes_on_at_the_same_line() {
    let lines = events(5, "entities", 300);
    let file = || BatchFile::of_lines("a.json.gz", &lines);
    let half = file().bytes.len() / 2;
    let refused = [Fault::Expired, Fault::NotFound, Fault::Forbidden];
    for refused in refused {
        for before in [None, Some(Fault::CutShort(half))] {
            let (world, more) = file_and_more(file().bytes.to_vec());
            let faults = before.iter().cloned().fold(FaultPlan::none(), |plan, fault| {
                plan.matching("/a.json.gz", 1, Endpoint::File, fault)
            });
            let faults = faults.matching("/a.json.gz", 3, Endpoint::File, refused.clone());
            let rig = Rig::new(world, faults).await.only("entities");
            let stream = rig.pull_one().await;
            assert_eq!(stream.error, None, "{refused:?} {before:?}");
            assert_caught_up(&stream);
            assert_landed(&rig, &[&lines[..], &more].concat());
            assert_eq!(stream.gap, None);
            // The page, three times more, and the end.
            assert_eq!(rig.simulator.calls().all_listings(), 5, "{refused:?} {before:?}");
            assert_eq!(stream.pages, 1);
        }
    }
}

#[tokio::test]
async fn addresses_that_each_listing_makes_invalid_are_no_trouble() {
    // Every listing ends the addresses that the one before it gave out.
    let lines = events(5, "entities", 60);
    let mut listed = page();
    for (number, lines) in lines.chunks(5).enumerate() {
        listed = listed.file(BatchFile::of_lines(&format!("{number:02}.json.gz"), lines));
    }
    let world = World::default().page("entities", listed);
    let options = SimulatorOptions { signature_listings: Some(1), ..SimulatorOptions::default() };
    let faults = FaultPlan::none()
        .matching("/03.json.gz", 2, Endpoint::File, Fault::Expired)
        .matching("/07.json.gz", 3, Endpoint::File, Fault::Expired)
        .matching("/11.json.gz", 1, Endpoint::File, Fault::CutShort(99));
    let rig = Rig::with(world, faults, options).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn an_address_refused_for_ever_fails_its_stream_alone_and_loses_nothing() {
    let (world, lines) = small_world();
    let faults = FaultPlan::none().matching("mailflow/", 4, Endpoint::File, Fault::Expired);
    let rig = Rig::new(world, faults).await;
    let run = rig.pull().await;
    assert_eq!(run.exit_code(), 3);
    let refused = run.streams.iter().find(|stream| stream.stream == "mailflow").unwrap();
    assert_eq!(code(refused), "file-forbidden");
    let message = &refused.error.as_ref().unwrap().message;
    assert!(message.contains("/files/mailflow/a.json.gz") && !message.contains('?'), "{message}");
    for stream in run.streams.iter().filter(|stream| stream.stream != "mailflow") {
        assert_caught_up(stream);
    }
    assert_done(&rig.pull().await);
    assert_landed(&rig, &lines);
}

// Half-read files between runs.

fn half_read_world(lines: &[String]) -> World {
    let a = BatchFile::of_lines("a.json.gz", &lines[..10]);
    let b = BatchFile::of_lines("b.json.gz", &lines[10..13]);
    World::default().page("entities", page().file(a).file(b))
}

#[tokio::test]
async fn the_next_run_goes_on_at_the_recorded_line() {
    let lines = events(5, "entities", 13);
    let rig = stopped_after(4, half_read_world(&lines)).await;
    assert_eq!(progress(&rig, "a.json.gz"), Some(Position::Line(4)));
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.events_read, stream.rows_delivered), (9, 9));
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn a_changed_file_starts_at_its_first_line() {
    let lines = events(5, "entities", 13);
    let other = events(6, "entities", 12);
    let original = || BatchFile::of_lines("a.json.gz", &lines[..10]);
    let changed = |size: Option<u64>, etag: Option<&str>| BatchFile {
        size,
        etag: etag.map(str::to_owned),
        ..BatchFile::of_lines("a.json.gz", &other)
    };
    let (size, etag) = (original().size, original().etag.unwrap());
    // (the file as it is now, whether it is the same)
    let cases = [
        (changed(size.map(|size| size + 1), Some(&etag)), false),
        (changed(size, Some("\"another\"")), false),
        (changed(size, None), false),
        (original(), true),
    ];
    for (file, same) in cases {
        let rig = stopped_after(4, half_read_world(&lines)).await;
        let b = BatchFile::of_lines("b.json.gz", &lines[10..13]);
        rig.simulator.set_page("entities", 0, page().file(file.clone()).file(b));
        assert_caught_up(&rig.pull_one().await);
        let rest = if same { &lines[4..10] } else { &other[..] };
        assert_landed(&rig, &[&lines[..4], rest, &lines[10..]].concat());
        assert!(rig.quarantined().is_empty());
    }
}

#[tokio::test]
async fn a_finished_file_whose_size_changes_under_the_same_cursor_is_read_again() {
    let (lines, other) = (events(5, "entities", 4), events(6, "entities", 9));
    let page = |lines: &[String]| page_of("a.json.gz", lines).next(NextToken::Missing);
    let world = World::default().page("entities", page(&lines));
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    rig.simulator.set_page("entities", 0, page(&other));
    for _ in 0..2 {
        assert_caught_up(&rig.pull_one().await);
    }
    assert_landed(&rig, &[lines, other].concat());
}

#[tokio::test]
async fn a_file_without_an_etag_goes_on_by_its_size() {
    let lines = events(5, "entities", 10);
    let file = BatchFile::of_lines("a.json.gz", &lines).without_etag();
    let world = World::default().page("entities", page().file(file));
    let rig = stopped_after(4, world).await;
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn a_file_that_changes_within_a_run_starts_at_its_first_line() {
    let lines = events(5, "entities", 300);
    let other = events(6, "entities", 20);
    let whole = BatchFile::of_lines("a.json.gz", &lines);
    let world = World::default().page("entities", page().file(whole.clone()));
    // The download breaks off; before the next one the file is another. Meanwhile the listing of
    // fresh addresses has to wait.
    let wait = Fault::TooManyRequests(Some(("X-RateLimit-Reset", "300".to_owned())));
    let faults = FaultPlan::none()
        .once(Endpoint::File, Fault::CutShort(whole.bytes.len() / 2))
        .once(Endpoint::File, Fault::Expired)
        .once(Endpoint::Listing, Fault::Nothing)
        .once(Endpoint::Listing, wait);
    let rig = Rig::new(world, faults).await.only("entities");
    let (stream, ()) = tokio::join!(rig.pull_one(), async {
        until_listed(&rig, 2).await;
        let changed = BatchFile::of_lines("a.json.gz", &other);
        rig.simulator.set_page("entities", 0, page().file(changed));
    });
    assert_caught_up(&stream);
    let before = landed_ids(&rig).len() - other.len();
    assert!(before > 0);
    assert_landed(&rig, &[&lines[..before], &other].concat());
}

#[tokio::test]
async fn a_damaged_file_that_is_another_when_it_is_to_be_kept_starts_at_its_first_line() {
    let lines = events(5, "entities", 300);
    let other = events(6, "entities", 20);
    let whole = BatchFile::of_lines("a.json.gz", &lines);
    let half = whole.bytes.len() / 2;
    let world = World::default().page("entities", page().file(whole.damaged(half)));
    // The copy has to wait after three downloads, and meanwhile the file is replaced.
    let wait = Fault::TooManyRequests(Some(("X-RateLimit-Reset", "300".to_owned())));
    let faults = FaultPlan::none().times(3, Endpoint::File, Fault::Nothing);
    let rig = Rig::new(world, faults.once(Endpoint::File, wait)).await.only("entities");
    let (stream, ()) = tokio::join!(rig.pull_one(), async {
        while downloads(&rig, "a.json.gz") < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let changed = BatchFile::of_lines("a.json.gz", &other);
        rig.simulator.set_page("entities", 0, page().file(changed));
    });
    assert_caught_up(&stream);
    let before = landed_ids(&rig).len() - other.len();
    assert!((1..300).contains(&before), "{before}");
    assert_landed(&rig, &[&lines[..before], &other].concat());
    assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());
}

/// Waits until the page has been listed so often.
async fn until_listed(rig: &Rig, listings: u64) {
    while rig.simulator.calls().all_listings() < listings {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_half_read_file_that_is_gone_is_looked_for_reported_and_passed() {
    let lines = events(5, "entities", 15);
    let rig = stopped_after(4, half_read_world(&lines)).await;
    let b = BatchFile::of_lines("b.json.gz", &lines[10..13]);
    rig.simulator.set_page("entities", 0, page().file(b));
    rig.simulator.add_page("entities", page_of("c.json.gz", &lines[13..]));
    let before = rig.simulator.calls().all_listings();
    let run = rig.pull().await;
    assert_done(&run);
    assert_gone(&rig, &run.streams[0], 4);
    // Three times the page, then the next one and the end.
    assert_eq!(rig.simulator.calls().all_listings() - before, 3 + 2);
    assert_landed(&rig, &[&lines[..4], &lines[10..]].concat());

    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.events_read, stream.gap), (0, None), "it is reported once");
}

fn assert_gone(rig: &Rig, stream: &mimecast_sentinel::pipeline::StreamSummary, delivered: u64) {
    let gap = stream.gap.as_ref().unwrap();
    assert!(gap.from < gap.to, "{gap:?}");
    assert_eq!(reasons(rig), [("file-gone".to_owned(), delivered + 1)]);
    let record = &rig.quarantined()[0];
    assert!(record["file"].as_str().unwrap().ends_with("/files/entities/a.json.gz"));
    for absent in ["original", "original_base64", "file_kept_as"] {
        assert_eq!(record.get(absent), None);
    }
    assert_eq!(stream.rows_quarantined, 0, "nobody knows how many they were");
}

#[tokio::test]
async fn a_half_read_file_is_looked_for_even_if_its_page_is_empty_now() {
    for next in [NextToken::Moves, NextToken::Missing] {
        for caught_up in [Some(true), Some(false)] {
            let lines = events(5, "entities", 13);
            let a = BatchFile::of_lines("a.json.gz", &lines[..10]);
            let rig = stopped_after(4, World::default().page("entities", page().file(a))).await;
            rig.simulator.set_page("entities", 0, page().caught_up(caught_up).next(next));
            let run = rig.pull().await;
            assert_done(&run);
            assert_gone(&rig, &run.streams[0], 4);
            let run = rig.pull().await;
            assert_done(&run);
            assert_eq!(run.streams[0].gap, None);
            assert_landed(&rig, &lines[..4]);
        }
    }
}

/// What was read of it before it was given up counts no more.
#[tokio::test]
async fn a_half_read_file_that_is_given_up_and_comes_back_as_another_is_read_whole() {
    let (lines, more) = (events(5, "entities", 300), events(6, "entities", 20));
    let other = events(7, "entities", 30);
    let whole = BatchFile::of_lines("a.json.gz", &lines);
    let half = whole.bytes.len() / 2;
    let rest = BatchFile::of_lines("b.json.gz", &more);
    let world = World::default().page("entities", page().file(whole).file(rest.clone()));
    let wait = Fault::TooManyRequests(Some(("X-RateLimit-Reset", "300".to_owned())));
    let faults = FaultPlan::none()
        .matching("/a.json.gz", 1, Endpoint::File, Fault::CutShort(half))
        .matching("/a.json.gz", 1, Endpoint::File, Fault::Expired)
        .matching("/b.json.gz", 1, Endpoint::File, Fault::Nothing)
        .matching("/b.json.gz", 1, Endpoint::File, Fault::Expired)
        .once(Endpoint::Listing, Fault::Nothing)
        .once(Endpoint::Listing, wait.clone())
        .times(3, Endpoint::Listing, Fault::Nothing)
        .once(Endpoint::Listing, wait);
    let rig = Rig::new(world, faults).await.only("entities");
    let (stream, ()) = tokio::join!(rig.pull_one(), async {
        until_listed(&rig, 2).await;
        rig.simulator.set_page("entities", 0, page().file(rest.clone()));
        until_listed(&rig, 6).await;
        let back = BatchFile::of_lines("a.json.gz", &other);
        rig.simulator.set_page("entities", 0, page().file(back).file(rest.clone()));
    });
    assert_caught_up(&stream);
    assert!(stream.gap.is_some(), "the rest of the first one is gone");
    let before = landed_ids(&rig).len() - other.len() - more.len();
    assert!((1..300).contains(&before), "{before}");
    assert_landed(&rig, &[&lines[..before], &other, &more].concat());
}

#[tokio::test]
async fn a_half_read_file_that_is_listed_again_goes_on() {
    let lines = events(5, "entities", 13);
    let rig = stopped_after(4, half_read_world(&lines)).await;
    let a = BatchFile::of_lines("a.json.gz", &lines[..10]);
    let b = BatchFile::of_lines("b.json.gz", &lines[10..13]);
    rig.simulator.set_page("entities", 0, page().file(b.clone()));
    // The second look has to wait until the file is back.
    rig.simulator.script(Endpoint::Listing, Fault::Nothing);
    let wait = Fault::TooManyRequests(Some(("X-RateLimit-Reset", "300".to_owned())));
    rig.simulator.script(Endpoint::Listing, wait);
    let before = rig.simulator.calls().all_listings();
    let (stream, ()) = tokio::join!(rig.pull_one(), async {
        until_listed(&rig, before + 2).await;
        rig.simulator.set_page("entities", 0, page().file(b.clone()).file(a));
    });
    assert_caught_up(&stream);
    assert_eq!(stream.gap, None);
    assert!(rig.quarantined().is_empty());
    assert_landed(&rig, &lines);
}

/// Its address is refused, and the fresh listing no longer has it: it was listed, so its loss is reported.
#[tokio::test]
async fn a_file_that_is_gone_before_it_was_begun_is_reported_and_passed() {
    let lines = events(5, "entities", 13);
    let faults = FaultPlan::none().matching("a.json.gz", 1, Endpoint::File, Fault::Expired);
    let rig = Rig::new(half_read_world(&lines), faults).await.only("entities");
    let b = BatchFile::of_lines("b.json.gz", &lines[10..13]);
    rig.simulator.script(Endpoint::Listing, Fault::Nothing);
    let wait = Fault::TooManyRequests(Some(("X-RateLimit-Reset", "300".to_owned())));
    rig.simulator.script(Endpoint::Listing, wait);
    let (stream, ()) = tokio::join!(rig.pull_one(), async {
        until_listed(&rig, 2).await;
        rig.simulator.set_page("entities", 0, page().file(b));
    });
    assert_caught_up(&stream);
    assert_gone(&rig, &stream, 0);
    assert_landed(&rig, &lines[10..]);
}

#[tokio::test]
async fn a_file_that_no_run_began_may_go_without_a_word() {
    let lines = events(5, "entities", 13);
    let rig = stopped_after(4, half_read_world(&lines)).await;
    let a = BatchFile::of_lines("a.json.gz", &lines[..10]);
    rig.simulator.set_page("entities", 0, page().file(a));
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!(stream.gap, None);
    assert_landed(&rig, &lines[..10]);
}

#[tokio::test]
async fn finished_files_of_a_page_are_not_read_again() {
    let lines = events(5, "entities", 13);
    let rig = stopped_after(11, half_read_world(&lines)).await;
    assert_eq!(progress(&rig, "a.json.gz"), Some(Position::End));
    assert_eq!(progress(&rig, "b.json.gz"), Some(Position::Line(1)));
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
    assert_eq!(downloads(&rig, "a.json.gz"), 1);
}

// Where files may be, and what is never shown.

/// A source that reads from the real Mimecast: its files must be public.
fn public_source(rig: &Rig) -> MimecastSource {
    let mut options = rig.options.clone();
    options.base_url = "https://api.services.mimecast.com".parse().unwrap();
    options.loopback = false;
    options.retry.attempts = 2;
    let clients = Clients::new(false).unwrap();
    MimecastSource::new(options, clients, rig.clock.clone(), Random::seeded(1))
}

#[tokio::test]
async fn only_public_https_addresses_are_connected_to() {
    let rig = Rig::new(World::default(), FaultPlan::none()).await;
    let port = rig.simulator.url().rsplit(':').next().unwrap().to_owned();
    let source = public_source(&rig);
    let cases = [
        (format!("http://127.0.0.1:{port}/f"), "file-address-refused"),
        ("http://example.com/f".to_owned(), "file-address-refused"),
        ("ftp://example.com/f".to_owned(), "file-address-refused"),
        ("file:///etc/passwd".to_owned(), "file-address-refused"),
        (format!("https://127.0.0.1:{port}/f"), "file-address-refused"),
        (format!("https://2130706433:{port}/f"), "file-address-refused"),
        (format!("https://[::ffff:127.0.0.1]:{port}/f"), "file-address-refused"),
        ("https://10.0.0.1/f".to_owned(), "file-address-refused"),
        ("https://169.254.169.254/metadata".to_owned(), "file-address-refused"),
        ("https://[::1]/f".to_owned(), "file-address-refused"),
        ("https://[fd00::1]/f".to_owned(), "file-address-refused"),
        ("not a url".to_owned(), "file-address-refused"),
        // A name is only known for what it is when it is resolved.
        (format!("https://localhost:{port}/f"), "file-unreachable"),
    ];
    for (address, expected) in cases {
        let part = Part {
            key: "the file".to_owned(),
            size: None,
            content: Content::At(address.clone().into()),
            etag: None,
            begun: None,
        };
        let fault = match source.open(&part, Deadline::after(Duration::from_secs(30))).await {
            Ok(Opened::Refused(fault)) => fault,
            Err(Interrupt::Fault(fault)) => *fault,
            opened => panic!("{address}: it was not refused: {opened:?}"),
        };
        assert_eq!(fault.code.as_str(), expected, "{address}: {fault}");
    }
    assert_eq!(rig.simulator.calls().all_downloads(), 0);
    assert_eq!(rig.simulator.violations(), [""; 0]);
}

/// The names of a machine that resolve to itself are here for any name whose owner lets it resolve to
/// a private address, at once or only when it is asked again: each connection is made to an address
/// that was resolved, and judged, for that connection.
#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_not_connected_to() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let rig = Rig::new(World::default(), FaultPlan::none()).await;
    let source = public_source(&rig);
    for name in ["localhost", "LOCALHOST"] {
        let address = format!("https://{name}:{port}/f").into();
        let part = Part {
            key: "the file".to_owned(),
            size: None,
            content: Content::At(address),
            etag: None,
            begun: None,
        };
        let opened = source.open(&part, Deadline::after(Duration::from_secs(30))).await;
        let Err(Interrupt::Fault(fault)) = opened else {
            panic!("{name}: it was not refused");
        };
        assert!(fault.to_string().contains("has no public address"), "{name}: {fault}");
    }
    assert!(listener.accept().now_or_never().is_none(), "it was connected to");
}

#[tokio::test]
async fn a_listing_that_leads_into_the_own_network_is_not_followed() {
    let lines = events(5, "entities", 3);
    let world = World::default().page("entities", page_of("a.json.gz", &lines));
    let mut rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    rig.options.loopback = false;
    let stream = rig.pull_one().await;
    assert_eq!(code(&stream), "file-address-refused");
    assert_eq!(rig.simulator.calls().all_downloads(), 0);
    assert_eq!(rig.checkpoint("entities").cursor, start_at(rig.options.start));
}

/// Everything that the simulator may have given out as a token or signature: its numbers come from
/// a seed. One that was asked for checks whether that is still so.
async fn given_out(rig: &Rig) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(0);
    let numbers: Vec<String> = (0..2_000).map(|_| format!("{:032x}", rng.u128(..))).collect();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", rig.simulator.client_id()),
        ("client_secret", rig.simulator.client_secret()),
    ];
    let url = format!("{}/oauth/token", rig.simulator.url());
    let answer = reqwest::Client::new().post(url).form(&form).send().await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let token = answer["access_token"].as_str().unwrap();
    assert!(numbers.iter().any(|number| number == token), "the simulator's numbers are others");
    numbers
}

#[tokio::test]
async fn no_secret_and_no_signature_is_written_anywhere() {
    // Threads of their own take part in a run, so that the log is that of the whole process.
    if !own_process::alone(module_path!(), "no_secret_and_no_signature_is_written_anywhere") {
        return;
    }
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
    let subscriber = subscriber.with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let lines = events(5, "entities", 40);
    let bytes = [&gzip((lines.join("\n") + "\nnot json\n").as_bytes())[..], b"rubbish"].concat();
    let (world, _) = file_and_more(bytes);
    let everything = [
        Fault::Expired,
        Fault::Reset,
        Fault::LostReply,
        Fault::CutShort(50),
        Fault::ServerError,
        Fault::Redirect("http://127.0.0.1:9/?X-Amz-Signature=stolen".to_owned()),
        Fault::NotFound,
        Fault::TooManyRequests(None),
    ];
    let mut faults = FaultPlan::none();
    for fault in everything {
        faults = faults.once(Endpoint::File, fault.clone());
        if !matches!(fault, Fault::Redirect(_) | Fault::Expired | Fault::NotFound) {
            faults = faults
                .once(Endpoint::Listing, fault.clone())
                .once(Endpoint::MimecastToken, fault.clone());
        }
    }
    let unauthorized = Fault::Unauthorized("token_expired".to_owned());
    let faults = faults.once(Endpoint::Listing, unauthorized);
    let rig = Rig::new(world, faults).await.only("entities");
    let mut shown = String::new();
    for _ in 0..3 {
        shown += &serde_json::to_string(&rig.pull().await).unwrap();
    }
    // And faults that end a stream.
    rig.simulator.add_page("entities", page_of("z.json.gz", &lines));
    for fault in [Fault::Reset, Fault::Expired] {
        for _ in 0..12 {
            rig.simulator.script(Endpoint::File, fault.clone());
        }
        let run = rig.pull().await;
        shown += &format!("{run:?}{}", serde_json::to_string(&run).unwrap());
    }
    assert!(shown.contains("file-unreachable") && shown.contains("file-forbidden"), "{shown}");
    shown += &log.text();
    shown += &std::fs::read_to_string(rig.state().join("checkpoints/entities.json")).unwrap();
    let records = rig.quarantined();
    assert_eq!(records.len(), 2);
    shown += &Value::from(records).to_string();

    assert!(shown.contains("downloading the file again") && shown.contains("a.json.gz"));
    let secret = rig.simulator.client_secret();
    let escaped: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut forbidden = vec![secret.to_owned(), escaped, "X-Amz".to_owned(), "Bearer".to_owned()];
    forbidden.extend(given_out(&rig).await);
    for word in forbidden {
        if let Some(at) = shown.find(&word) {
            let from = shown.floor_char_boundary(at.saturating_sub(300));
            panic!("{word} is shown: {}", &shown[from..at + word.len()]);
        }
    }
}

#[tokio::test]
async fn what_was_read_before_a_file_that_is_refused_is_delivered() {
    let (first, second) = (events(1, "entities", 3), events(2, "entities", 3));
    let page = page()
        .file(BatchFile::of_lines("a.json.gz", &first))
        .file(BatchFile::of_lines("b.json.gz", &second));
    let plan = FaultPlan::none().matching("b.json.gz", usize::MAX, Endpoint::File, Fault::NotFound);
    let rig = Rig::new(World::default().page("entities", page), plan).await.only("entities");
    let stream = rig.pull_one().await;
    assert_eq!(code(&stream), "file-forbidden");
    assert_eq!(stream.rows_delivered, 3);
    assert_eq!(landed_ids(&rig), ids(&first));
    assert_eq!(rig.pull_one().await.rows_delivered, 0, "nor are they posted again");
}

#[tokio::test]
async fn nothing_is_believed_after_three_times_where_the_listing_gives_a_size() {
    let mut file = BatchFile::raw("a.json.gz", Vec::new());
    file.size = Some(500);
    let world = World::default().page("entities", page().file(file));
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.files, downloads(&rig, "a.json.gz")), (1, 3));
}

#[tokio::test]
async fn a_size_that_is_none_does_not_hide_the_page() {
    let lines = events(1, "entities", 2);
    let world = World::default().page("entities", page().file(BatchFile::of_lines("a", &lines)));
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    for size in [json!("629"), json!(-1), json!(6.5), Value::Null] {
        let url = format!("{}/files/entities/a?X-Amz-Signature=wrong", rig.simulator.url());
        let listing = json!({"value": [{"url": url, "size": size}], "isCaughtUp": true});
        rig.simulator.set_page("entities", 0, page().verbatim(listing));
        // The address is no good, but it was read.
        assert_eq!(code(&rig.pull_one().await), "file-forbidden", "{size}");
    }
}

#[tokio::test]
async fn many_bad_lines_are_kept_a_body_at_a_time() {
    let lines: Vec<String> = (0..4_000).map(|n| format!("x{n}")).collect();
    let world = World::default().page("entities", page().file(BatchFile::of_lines("a", &lines)));
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    let stream = rig.pull_one().await;
    assert_eq!((stream.events_read, stream.rows_quarantined), (4_000, 4_000));
    assert_eq!(rig.quarantined().len(), 4_000);
}
