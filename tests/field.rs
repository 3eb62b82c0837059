//! Inputs that were reported about products of this kind, and their like: what is in between and
//! answers in Mimecast's place, failures that look like an end, answers that mean something else.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use mimecast_sentinel::checkpoint::Position;
use mimecast_sentinel::http::RetryPolicy;
use mimecast_sentinel::pipeline::Outcome;
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, MadeUp, Simulator, SimulatorOptions, World,
};
use serde_json::json;

use crate::support::enemy::{Answer, FILE, LISTING, TOKEN, enemy, ok, rig_at, whole};
use crate::support::program::Program;
use crate::support::rig::Rig;
use crate::support::scenario::{
    DAY, assert_caught_up, assert_landed, backlog, clock_at, code, day, events, page, page_of,
};
use crate::support::scenario::{start_at, token_at};

const BOM: &str = "\u{feff}";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn text(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}

/// The only page of `entities` has one file of these bytes, and one of two events behind it.
async fn rig_of(bytes: Vec<u8>) -> (Rig, Vec<String>) {
    let more = events(77, "entities", 2);
    let page = page().file(BatchFile::raw("a.json.gz", bytes));
    let page = page.file(BatchFile::of_lines("more.json.gz", &more));
    let world = World::default().page("entities", page);
    (Rig::new(world, FaultPlan::none()).await.only("entities"), more)
}

/// Two pages of `entities`, and a rig that meets these faults.
async fn backlog_with(faults: FaultPlan) -> (Rig, Vec<String>) {
    let (world, lines) = backlog(World::default(), "entities", 2);
    (Rig::new(world, faults).await.only("entities"), lines)
}

// A proxy's or firewall's answer is taken for Mimecast's.

#[tokio::test]
async fn a_page_in_place_of_every_file_moves_nothing() {
    let html = b"<!DOCTYPE html><html><title>Web Page Blocked</title></html>";
    let bodies: [&[u8]; 12] = [
        html,
        b"<?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>",
        b"{\"error\":\"blocked by policy\"}",
        b"{\"timestamp\":1794268800000,\"status\":500,\"error\":\"Internal Server Error\"}",
        b"{\n  \"type\": \"about:blank\",\n  \"title\": \"Blocked\"\n}\n",
        b"\n\nAccess denied\n",
        &gzip(html),
        &gzip(b"{\"error\":\"blocked by policy\"}"),
        &gzip(&gzip(html)),
        b"[\"blocked\",\"by\",\"policy\"]",
        &gzip(b"{\"type\":\"about:blank\",\"title\":\"Blocked by policy\",\"status\":403}"),
        &gzip(b"{\n  \"message\": \"Forbidden\"\n}\n"),
    ];
    for body in bodies {
        // The first file is asked for five times, and the run ends.
        let says = Fault::Says(200, body.to_vec());
        let (rig, lines) = backlog_with(FaultPlan::none().times(5, Endpoint::File, says)).await;
        let run = rig.pull().await;
        assert_eq!((code(&run.streams[0]), run.exit_code()), ("file-unreadable", 1));
        let error = run.streams[0].error.clone().unwrap();
        assert!(error.message.contains("instead of the file"), "{error}");
        let checkpoint = rig.checkpoint("entities");
        assert_eq!(checkpoint.cursor, start_at(rig.options.start));
        assert!(checkpoint.files.values().all(|file| file.done == Position::Line(0)));
        assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());

        // The way is clean again.
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &lines);
    }
}

#[tokio::test]
async fn a_page_in_place_of_one_file_is_not_the_file() {
    let says = Fault::Says(200, b"<html>busy</html>".to_vec());
    for times in [1, 4] {
        let faults =
            FaultPlan::none().matching("/000.json.gz", times, Endpoint::File, says.clone());
        let (rig, lines) = backlog_with(faults).await;
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &lines);
        assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());
    }
    // Longer than a run is patient: the next one has all.
    let faults = FaultPlan::none().matching("/000.json.gz", 5, Endpoint::File, says);
    let (rig, lines) = backlog_with(faults).await;
    assert_eq!(code(&rig.pull_one().await), "file-unreadable");
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn a_refusal_in_a_200_is_no_listing() {
    let cases = [
        (
            r#"{"fail":[{"code":"app_forbidden","message":"Forbidden to perform the requested operation"}]}"#,
            "mimecast-forbidden",
            "Forbidden to perform the requested operation",
        ),
        (
            r#"{"meta":{"status":500},"data":[],"fail":[{"errors":[{"code":"err_internal","message":"temporary","retryable":true}]}]}"#,
            "mimecast-unreachable",
            "err_internal: temporary",
        ),
        (
            r#"{"error":{"code":"InternalServerError","message":"x"}}"#,
            "mimecast-unreachable",
            "InternalServerError: x",
        ),
        (
            r#"{"value":[],"isCaughtUp":true,"errors":[{"message":"half"}]}"#,
            "mimecast-unreachable",
            "half",
        ),
        (r#"{"fail":[{"code":"token_expired"}]}"#, "mimecast-unauthorized", "token_expired"),
        ("{}", "mimecast-unreachable", "JSON of another shape"),
        (r#"{"value":null,"data":[]}"#, "mimecast-unreachable", "JSON of another shape"),
        ("[]", "mimecast-unreachable", "JSON of another shape"),
        ("[[],\"x\",true]", "mimecast-unreachable", "JSON of another shape"),
        ("<html>busy</html>", "mimecast-unreachable", "it is an HTML page, not JSON"),
    ];
    for (body, expected, words) in cases {
        let says = Fault::Says(200, body.as_bytes().to_vec());
        let faults = FaultPlan::none().times(1_000, Endpoint::Listing, says);
        let (rig, _) = backlog_with(faults).await;
        let run = rig.pull().await;
        assert_eq!(code(&run.streams[0]), expected, "{body}");
        assert_ne!(run.exit_code(), 0);
        let error = run.streams[0].error.clone().unwrap();
        assert!(error.message.contains(words), "{body}: {error}");
    }
    // Once is waited out.
    for (body, ..) in cases.iter().skip(1) {
        let says = Fault::Says(200, body.as_bytes().to_vec());
        let (rig, lines) = backlog_with(FaultPlan::none().once(Endpoint::Listing, says)).await;
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &lines);
    }
}

#[tokio::test]
async fn a_page_that_refuses_is_not_mimecasts_refusal() {
    for (endpoint, expected) in
        [(Endpoint::Listing, "mimecast-unreachable"), (Endpoint::File, "file-unreachable")]
    {
        for status in [400, 403, 407] {
            let says = Fault::Says(status, b"<html>Blocked by proxy</html>".to_vec());
            let (rig, lines) = backlog_with(FaultPlan::none().times(12, endpoint, says)).await;
            let run = rig.pull().await;
            assert_eq!((code(&run.streams[0]), run.exit_code()), (expected, 1), "{status}");
            assert!(run.streams[0].error.as_ref().unwrap().message.contains("an HTML page"));
            assert_caught_up(&rig.pull_one().await);
            assert_landed(&rig, &lines);
        }
    }
}

#[tokio::test]
async fn a_page_token_that_is_refused_at_once_is_given_up_for_the_run() {
    let lines = events(5, "entities", 30);
    let world = World::default().page("entities", page_of("a.json.gz", &lines));
    let refused = Fault::BadRequest { code: "err_x".to_owned(), message: "no".to_owned() };
    let faults = FaultPlan::none().matching("nextPage", usize::MAX, Endpoint::Listing, refused);
    let rig = Rig::new(world, faults).await.only("entities");
    for landed in [60, 90, 120] {
        let run = rig.pull().await;
        assert_eq!((code(&run.streams[0]), run.exit_code()), ("cursor-dropped", 1));
        assert!(run.streams[0].gap.is_some());
        assert_eq!(rig.simulator.landed_count(), landed);
    }
}

#[tokio::test]
async fn lists_of_no_refusals_are_no_refusal() {
    let (world, lines) = backlog(World::default(), "entities", 1);
    let reply = json!({"value": [], "fail": [], "errors": null, "error": "", "isCaughtUp": true});
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    rig.simulator.add_page("entities", page().verbatim(reply));
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn a_file_is_read_however_often_it_is_packed() {
    let lines = events(5, "entities", 300);
    let (plain, half) = (text(&lines), text(&lines[..150]));
    let members = [gzip(half.as_bytes()), gzip(text(&lines[150..]).as_bytes())].concat();
    let with_bom = format!("{BOM}{plain}");
    for bytes in [
        plain.clone().into_bytes(),
        with_bom.clone().into_bytes(),
        format!("\n \r\n{plain}").into_bytes(),
        gzip(with_bom.as_bytes()),
        gzip(&gzip(plain.as_bytes())),
        gzip(&members),
        [&gzip(plain.as_bytes())[..], &[0; 40_000]].concat(),
        [&members[..], &[0]].concat(),
        gzip(&[&members[..], &[0; 512]].concat()),
    ] {
        let (rig, more) = rig_of(bytes).await;
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &[&lines[..], &more].concat());
        assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());
    }
}

#[tokio::test]
async fn what_follows_the_last_member_and_is_not_nuls_is_damage() {
    let lines = events(5, "entities", 10);
    let packed = gzip(text(&lines).as_bytes());
    for bytes in [[&packed[..], &[0, 0, 1]].concat(), [&packed[..], b"\n"].concat()] {
        let (rig, more) = rig_of(bytes).await;
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &[&lines[..], &more].concat());
        assert_eq!(rig.kept_files().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_an_address_is_reported_and_the_others_are_read() {
    let lines = events(5, "entities", 2);
    let world = World::default().page("entities", page_of("a.json.gz", &lines));
    let simulator =
        Simulator::start(world, FaultPlan::none(), SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator).set("MIMECAST_TYPES", "entities");
    let odd = [
        json!({}),
        json!({"url": null}),
        json!({"url": ""}),
        json!({"url": 7}),
        json!(null),
        json!("x"),
    ];
    for odd in odd {
        let mut files = vec![odd];
        let url = format!("{}/files/entities/a.json.gz", simulator.url());
        files.push(json!({"url": format!("{url}?X-Amz-Signature={}", "none")}));
        // The file's own address is refused: it is asked for, and that is what is seen.
        simulator.set_page(
            "entities",
            0,
            page().verbatim(json!({"value": files, "isCaughtUp": true})),
        );
        let ended = program.run(&["pull", "--json"]).await;
        ended.assert_stderr(&["listing-entry-odd", "entries=1", "file-forbidden"]);
        ended.assert_code(1);
    }
    // Nothing but such entries is no page.
    simulator.set_page("entities", 0, page().verbatim(json!({"value": [{}, null]})));
    let ended = program.run(&["pull", "--json"]).await;
    ended.assert_code(1).assert_stderr(&["listing-unreadable"]);
}

// A failure that ends in peace.

#[tokio::test]
async fn a_failure_until_the_time_is_up_is_a_failure() {
    for endpoint in [Endpoint::MimecastToken, Endpoint::Listing, Endpoint::File] {
        for fault in [Fault::ServerError, Fault::Unavailable, Fault::Reset, Fault::RequestTimeout] {
            let faults = FaultPlan::none().times(usize::MAX, endpoint, fault);
            let (mut rig, _) = backlog_with(faults).await;
            // The second attempt would come after the limit.
            rig.options.retry =
                RetryPolicy { first: rig.policy.run_time_limit * 3, ..rig.options.retry };
            rig.options.retry.longest = rig.options.retry.first;
            let run = rig.pull().await;
            let expected = match endpoint {
                Endpoint::File => "file-unreachable",
                _ => "mimecast-unreachable",
            };
            assert_eq!((code(&run.streams[0]), run.exit_code()), (expected, 1));
        }
    }
    let refused = Fault::Unauthorized("token_verification_failed".to_owned());
    let faults = FaultPlan::none().times(usize::MAX, Endpoint::Listing, refused);
    let (mut rig, _) = backlog_with(faults).await;
    rig.options.retry.first = rig.policy.run_time_limit * 3;
    rig.options.retry.longest = rig.options.retry.first;
    let run = rig.pull().await;
    assert_eq!((code(&run.streams[0]), run.exit_code()), ("mimecast-unauthorized", 1));
}

/// tokio's time, paused, goes on while nothing else does.
#[tokio::test(start_paused = true)]
async fn a_reply_that_drips_until_the_time_is_up_is_a_failure() {
    for path in [TOKEN, LISTING] {
        let enemy = enemy(path, Answer::Slow(ok("", b"{"))).await;
        let mut rig = rig_at(&enemy).await;
        rig.policy.run_time_limit = Duration::from_secs(90);
        let run = rig.pull().await;
        assert_eq!((code(&run.streams[0]), run.exit_code()), ("mimecast-unreachable", 1), "{path}");
    }
}

#[tokio::test]
async fn page_tokens_in_a_circle_end_the_stream_with_an_error() {
    let (world, lines) = backlog(World::default(), "entities", 3);
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    // Behind the third page comes the second again.
    let token = rig.simulator.page_token("entities", 1);
    let third = json!({"value": [], "@nextPage": token, "isCaughtUp": false});
    rig.simulator.set_page("entities", 2, page().verbatim(third));
    for _ in 0..3 {
        let run = rig.pull().await;
        assert_eq!((code(&run.streams[0]), run.exit_code()), ("listing-circle", 1));
        assert!(run.streams[0].rows_delivered <= 4, "{run:#?}");
    }
    let landed = rig.simulator.landed_count();
    assert!((4..=8).contains(&landed), "{landed} rows of 4 events");
    assert_eq!(lines.len(), 6);
}

#[tokio::test]
async fn a_body_whose_end_proves_nothing_is_no_whole_file() {
    let lines = events(5, "entities", 500);
    let file = gzip(text(&lines).as_bytes());
    let half = &file[..file.len() / 2];
    let plain = text(&lines).into_bytes();
    for cut in [half, &file[..file.len() - 1], &plain[..plain.len() - 20]] {
        let enemy = enemy(FILE, Answer::Whole(ok("", cut))).await;
        let rig = rig_at(&enemy).await;
        let stream = rig.pull_one().await;
        assert_eq!(code(&stream), "file-unreadable");
        assert!(rig.quarantined().is_empty() && rig.kept_files().is_empty());
        assert_eq!(rig.checkpoint("entities").cursor, start_at(rig.options.start));
    }
    for all in [&file[..], &plain] {
        let enemy = enemy(FILE, Answer::Whole(ok("", all))).await;
        let rig = rig_at(&enemy).await;
        assert_eq!(rig.pull_one().await.rows_delivered, 500);
    }
    // The whole length arrived: then it is the file that is damaged.
    let enemy = enemy(FILE, whole(half)).await;
    let rig = rig_at(&enemy).await;
    assert_caught_up(&rig.pull_one().await);
    assert_eq!(rig.kept_files(), [half]);
}

#[tokio::test]
async fn a_400_that_is_not_about_the_range_skips_no_day() {
    let refused = |message: &str| Fault::BadRequest {
        code: "Request Validation Failed".to_owned(),
        message: message.to_owned(),
    };
    // Two days ago, by Mimecast's clock.
    let options = || SimulatorOptions {
        clock: clock_at("2026-11-12T12:00:00Z"),
        ..SimulatorOptions::default()
    };
    for (times, says) in
        [(1, "Invalid token"), (2, "Invalid token"), (2, "The type is not enabled")]
    {
        let (world, lines) = backlog(World::default(), "entities", 2);
        let faults = FaultPlan::none().times(times, Endpoint::Listing, refused(says));
        let mut rig = Rig::with(world, faults, options()).await.only("entities");
        rig.options.start = DAY;
        // This machine's clock is a day and an hour ahead.
        rig.clock = clock_at("2026-11-13T13:00:00Z");
        if times > 1 {
            let run = rig.pull().await;
            assert_eq!((code(&run.streams[0]), run.exit_code()), ("listing-bad-request", 1));
            assert!(run.streams[0].error.as_ref().unwrap().message.contains(says));
        }
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!((stream.backfill_from, &stream.gap), (Some(DAY), &None));
        assert_landed(&rig, &lines);
    }
}

#[tokio::test]
async fn the_oldest_day_is_counted_from_mimecasts_own_date() {
    let simulated = SimulatorOptions {
        clock: clock_at("2026-11-12T12:00:00Z"),
        retention_days: Some(7),
        ..SimulatorOptions::default()
    };
    let (world, lines) = backlog(World::default(), "entities", 2);
    for ours in ["2026-11-14T12:00:00Z", "2026-11-01T12:00:00Z"] {
        let rig = Rig::with(world.clone(), FaultPlan::none(), simulated.clone()).await;
        let mut rig = rig.only("entities");
        rig.clock = clock_at(ours);
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!(stream.backfill_from, Some(day("2026-11-05")), "{ours}");
        assert_landed(&rig, &lines);
    }
}

#[tokio::test]
async fn a_file_that_comes_without_a_byte_is_asked_for_again() {
    let empty =
        |times| FaultPlan::none().matching("/000.json.gz", times, Endpoint::File, Fault::Empty);
    let listed = |rig: &Rig| {
        // A listing without sizes.
        let (_, lines) = backlog(World::default(), "entities", 1);
        let mut file = BatchFile::of_lines("000.json.gz", &lines);
        file.size = None;
        rig.simulator.set_page("entities", 0, page().file(file));
    };
    for (times, lands) in [(1, 4), (2, 2)] {
        let (rig, lines) = backlog_with(empty(times)).await;
        listed(&rig);
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!(stream.rows_delivered, lands, "{times}");
        assert_eq!(lines.len(), 4);
    }
    // Where there is a size, it is asked for once more; and without an announced end it is no whole file.
    for (times, lands) in [(2, 4), (3, 2)] {
        let (rig, _) = backlog_with(empty(times)).await;
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!(stream.rows_delivered, lands, "{times}");
    }
}

// One answer is read as another.

#[tokio::test]
async fn a_dead_address_is_replaced_whatever_its_host_answers() {
    let dead = [
        (
            400,
            "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>",
        ),
        (401, ""),
        (403, "Request has expired"),
        (404, "gone"),
        (410, ""),
    ];
    for (status, body) in dead {
        let says = Fault::Says(status, body.as_bytes().to_vec());
        let (rig, lines) = backlog_with(FaultPlan::none().once(Endpoint::File, says)).await;
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &lines);
        // Two pages, the end, and the first page again.
        assert_eq!(rig.simulator.calls().all_listings(), 4, "{status}");
    }
}

#[tokio::test]
async fn a_listing_is_read_whatever_a_gateway_quotes() {
    let (world, lines) = backlog(World::default(), "entities", 1);
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    for caught_up in ["true", "True", "TRUE"] {
        let reply = json!({"value": [], "@nextPage": 4554, "isCaughtUp": caught_up, "size": "7"});
        let body = format!("{BOM}{reply}");
        rig.simulator.script(Endpoint::Listing, Fault::Nothing);
        rig.simulator.script(Endpoint::Listing, Fault::Says(200, body.into_bytes()));
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!(rig.checkpoint("entities").cursor, token_at("4554"));
        std::fs::remove_dir_all(rig.state()).unwrap();
    }
    assert_eq!(rig.simulator.landed_count(), 3 * lines.len() as u64);
}

#[tokio::test]
async fn an_object_under_two_hosts_in_turn_is_one_file() {
    let lines = events(5, "entities", 40);
    let world = World::default().page("entities", page_of("a.json.gz", &lines));
    let rig = crate::support::scenario::stopped_after(7, world).await;
    assert_eq!(rig.simulator.url().matches("127.0.0.1").count(), 1);
    rig.simulator.serve_files_at(rig.simulator.url().replace("127.0.0.1", "localhost"));
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.gap, stream.rows_delivered), (None, 33));
    assert_landed(&rig, &lines);
    assert!(rig.quarantined().is_empty());
}

// What a server says is believed, held or repeated without a bound.

#[tokio::test]
async fn a_stream_that_never_gets_its_turn_is_no_success_the_second_time() {
    let wait = Fault::TooManyRequests(Some(("x-ratelimit-reset", "86400000".to_owned())));
    for endpoint in [Endpoint::Listing, Endpoint::MimecastToken] {
        let faults = FaultPlan::none().times(4, endpoint, wait.clone());
        let (rig, lines) = backlog_with(faults).await;
        let run = rig.pull().await;
        assert_eq!((run.outcome, run.exit_code()), (Outcome::TimeLimit, 0));
        for _ in 0..3 {
            let run = rig.pull().await;
            assert_eq!((code(&run.streams[0]), run.exit_code()), ("no-progress", 1));
        }
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &lines);
        // What is over is forgotten.
        rig.simulator.script(endpoint, wait.clone());
        assert_eq!(rig.pull().await.exit_code(), 0);
    }
}

#[tokio::test]
async fn a_stream_whose_calls_are_spent_is_no_success_the_second_time() {
    let (world, _) = backlog(World::default(), "entities", 4);
    let mut rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    rig.options.calls_per_15_minutes = 2;
    let connector = rig.connector();
    let ends = ["", "", "no-progress", "no-progress"];
    for expected in ends {
        let run = crate::support::rig::run(&connector).await;
        let error = run.streams[0].error.as_ref().map_or("", |fault| fault.code.as_str());
        assert_eq!(error, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_query_is_kept_and_no_password_goes_out() {
    let enemy = enemy("/nothing", whole(b"")).await;
    for address in ["USER@f?token=SECRET&Hmac=SECRET", "user:SECRET@f?X-Amz-Signature=SECRET"] {
        let (user, path) = address.split_once('@').unwrap();
        let user = if user == "USER" { String::new() } else { format!("{user}@") };
        let host = enemy.url.strip_prefix("http://").unwrap();
        let url = format!("http://{user}{host}/{path}");
        let simulator =
            Simulator::start(World::default(), FaultPlan::none(), SimulatorOptions::default())
                .await
                .unwrap();
        let listing = json!({"value": [{"url": url}], "@nextPage": "x", "isCaughtUp": true});
        simulator.add_page("entities", page().verbatim(listing));
        let program =
            Program::of(&simulator).set("MIMECAST_TYPES", "entities").set("LOG_LEVEL", "TRACE");
        let ended = program.run(&["pull", "--json"]).await;
        ended.assert_code(1);
        if user.is_empty() {
            ended.assert_stderr(&["/f?sha256="]);
        } else {
            ended.assert_stderr(&["file-address-refused"]);
        }
        let state = std::fs::read_to_string(program.state().join("checkpoints/entities.json"));
        let all = ended.said() + &state.unwrap_or_default();
        assert!(!all.contains("SECRET"), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_rows_ends_the_run_and_not_the_stream() {
    let mut made_up = MadeUp::new(3);
    let lines: Vec<String> = (0..5_000).map(|n| made_up.event("entities", n)).collect();
    let world = World::default().page("entities", page_of("a.json.gz", &lines));
    let simulator =
        Simulator::start(world, FaultPlan::none(), SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator).set("MIMECAST_TYPES", "entities");
    let program = program.set("MAX_ROWS_PER_RUN", "2000");
    let ended = program.run(&["pull", "--json"]).await;
    ended.assert_code(0).assert_stderr(&["WARN", "MAX_ROWS_PER_RUN", "rows=2000"]);
    assert_eq!(ended.json()["outcome"], "time_limit");
    // What is read is delivered.
    let landed = simulator.landed_count();
    assert!((2_000..=2_016).contains(&landed), "{landed}");
    for _ in 0..2 {
        program.run(&["pull", "--json"]).await.assert_code(0);
    }
    let ids: std::collections::BTreeSet<String> =
        simulator.landed().iter().map(|row| row["EventId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 5_000);
}

#[tokio::test]
async fn a_body_that_is_refused_whole_for_a_day_is_quarantined_and_the_stream_goes_on() {
    let (bad, good) = (events(5, "entities", 12), events(6, "entities", 3));
    let world = World::default()
        .page("entities", page_of("bad.json.gz", &bad))
        .page("entities", page_of("good.json.gz", &good));
    let refused: Vec<String> = crate::support::scenario::ids(&bad);
    let faults = FaultPlan::none()
        .poison(move |row| refused.iter().any(|id| *id == row["EventId"].as_str().unwrap()));
    let mut rig = Rig::new(world, faults).await.only("entities");
    // Six runs in an hour, and one a day later that is the first to know of it.
    for minutes in [0, 10, 20, 30, 40, 50, 60] {
        rig.clock =
            clock_at(&format!("2026-11-12T{:02}:{:02}:00Z", 12 + minutes / 60, minutes % 60));
        let run = rig.pull().await;
        assert_eq!((code(&run.streams[0]), run.exit_code()), ("every-row-refused", 2));
        assert!(rig.quarantined().is_empty());
    }
    rig.clock = clock_at("2026-11-13T12:01:00Z");
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.rows_quarantined, stream.rows_delivered), (12, 3));
    assert_eq!(rig.quarantined().len(), 12);
    assert_landed(&rig, &good);
}

#[tokio::test]
async fn few_runs_give_no_body_up_however_long_they_are_apart() {
    let world =
        World::default().page("entities", page_of("bad.json.gz", &events(5, "entities", 12)));
    let mut rig = Rig::new(world, FaultPlan::none().poison(|_| true)).await.only("entities");
    for day in 12..18 {
        rig.clock = clock_at(&format!("2026-11-{day}T12:00:00Z"));
        assert_eq!(code(&rig.pull_one().await), "every-row-refused");
    }
    assert!(rig.quarantined().is_empty());
    rig.clock = clock_at("2026-11-18T12:00:00Z");
    assert_caught_up(&rig.pull_one().await);
    assert_eq!(rig.quarantined().len(), 12);
}

#[tokio::test]
async fn a_flood_in_small_files_is_one_too_and_holds_no_other_stream_for_long() {
    let mut flood = page();
    for file in 0..100 {
        let lines = events(file, "entities", 15);
        flood = flood.file(BatchFile::of_lines(&format!("{file:03}.json.gz"), &lines));
    }
    let others = events(7, "mailflow", 20);
    let world =
        World::default().page("entities", flood).page("mailflow", page_of("m.json.gz", &others));
    let mut rig = Rig::new(world, FaultPlan::none()).await;
    rig.options.types = vec!["entities", "mailflow"];
    rig.policy.max_rows = 300;
    let mut runs = 0;
    loop {
        let before = rig.simulator.landed_count();
        let run = rig.pull().await;
        assert_eq!(run.exit_code(), 0, "{run:#?}");
        let landed = rig.simulator.landed_count() - before;
        assert!(landed <= 300 + 2 * 16, "{landed} rows in a run");
        runs += 1;
        if run.outcome == Outcome::CaughtUp {
            break;
        }
    }
    assert!((5..=7).contains(&runs), "{runs} runs");
    assert_eq!(rig.simulator.landed_count(), 1_520);
}

#[tokio::test]
async fn a_run_without_time_to_halve_a_body_says_that_its_rows_are_refused() {
    let world =
        World::default().page("entities", page_of("bad.json.gz", &events(5, "entities", 900)));
    let mut rig = Rig::new(world, FaultPlan::none().poison(|_| true)).await.only("entities");
    rig.policy.give_up.0 = chrono::TimeDelta::zero();
    rig.policy.grace = Duration::ZERO;
    // The time is up once some rows were refused by themselves.
    for _ in 0..rig.policy.give_up.1 {
        let (connector, stop) = (rig.connector(), tokio_util::sync::CancellationToken::new());
        let counters = connector.summaries();
        let before = rig.simulator.calls().posts;
        let (run, ()) = tokio::join!(connector.run(connector.begin(), &counters, &stop), async {
            while rig.simulator.calls().posts < before + 200 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stop.cancel();
        });
        assert_eq!(code(&run.streams[0]), "every-row-refused");
    }
    // Given up whole, with one post.
    let before = rig.simulator.calls().posts;
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.rows_quarantined, stream.rows_delivered), (900, 0));
    assert_eq!(rig.simulator.calls().posts - before, 1);
}
