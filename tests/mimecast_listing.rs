//! Mimecast's token, its listing, paging, backfill and pace, end to end against the simulator.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mimecast_sentinel::pipeline::{Outcome, RunSummary, StreamSummary};
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, NextToken, Page, Simulator, SimulatorOptions, World,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::rig::Rig;
use crate::support::scenario::{
    STREAMS, assert_caught_up, assert_done, assert_landed, backlog, clock_at, code, day, events,
    one_by_one, page, page_of, reasons, small_world,
};
use crate::support::scenario::{start_at, token_at};

/// For ever.
const ALWAYS: usize = usize::MAX;

fn stream<'a>(run: &'a RunSummary, name: &str) -> &'a StreamSummary {
    run.streams.iter().find(|stream| stream.stream == name).unwrap()
}

// The token.

#[tokio::test]
async fn one_token_serves_all_streams_and_pages() {
    let mut world = World::default();
    let mut all = Vec::new();
    for stream in STREAMS {
        let (with, lines) = backlog(world, stream, 4);
        world = with;
        all.extend(lines);
    }
    let rig = Rig::new(world, FaultPlan::none()).await;
    // The simulator refuses a secret that is not escaped in the form.
    assert!(['&', '+', '=', '%'].iter().all(|c| rig.simulator.client_secret().contains(*c)));
    assert_done(&rig.pull().await);
    assert_landed(&rig, &all);
    assert_eq!(rig.simulator.calls().mimecast_tokens, 1);
}

#[tokio::test]
async fn a_refused_token_is_renewed_and_the_call_repeated() {
    let (world, lines) = backlog(World::default(), "entities", 3);
    let expired = Fault::Unauthorized("token_expired".to_owned());
    let faults =
        FaultPlan::none().once(Endpoint::Listing, Fault::Nothing).once(Endpoint::Listing, expired);
    let rig = Rig::new(world, faults).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
    let calls = rig.simulator.calls();
    assert_eq!((calls.mimecast_tokens, calls.all_listings()), (2, 5));
}

#[tokio::test]
async fn a_second_401_may_be_transient() {
    let (world, lines) = backlog(World::default(), "entities", 1);
    let transient = |code: &str| Fault::Unauthorized(code.to_owned());
    let faults = FaultPlan::none()
        .once(Endpoint::MimecastToken, transient("Unauthorized Request"))
        .times(3, Endpoint::Listing, transient("token_verification_failed"))
        .once(Endpoint::Listing, transient("Unauthorized Request"));
    let rig = Rig::new(world, faults).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn a_401_for_ever_is_no_settings_error_and_ends() {
    let (world, lines) = small_world();
    let refused = Fault::Unauthorized("token_verification_failed".to_owned());
    let rig = Rig::new(world, FaultPlan::none().times(39, Endpoint::Listing, refused)).await;
    let run = rig.pull().await;
    assert_eq!(run.exit_code(), 1);
    for stream in &run.streams {
        assert_eq!(code(stream), "mimecast-unauthorized");
        assert_eq!(stream.events_read, 0);
    }
    // A token is asked for again for each refusal, and no more often.
    let calls = rig.simulator.calls();
    assert!(calls.mimecast_tokens <= calls.all_listings() + 1, "{calls:?}");
    assert_done(&rig.pull().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn wrong_credentials_are_a_settings_error_and_are_not_tried_again() {
    let (world, _) = small_world();
    let wrong = Fault::Unauthorized("InvalidClientIdentifier".to_owned());
    let faults = FaultPlan::none().times(ALWAYS, Endpoint::MimecastToken, wrong);
    let rig = Rig::new(world, faults.clone()).await;
    let run = rig.pull().await;
    assert_eq!(run.exit_code(), 2);
    for stream in &run.streams {
        assert_eq!(code(stream), "mimecast-credentials");
        let fix = &stream.error.as_ref().unwrap().fix;
        assert!(fix.contains("MIMECAST_CLIENT_ID") && fix.contains("MIMECAST_CLIENT_SECRET"));
    }
    assert_eq!(rig.simulator.calls().all_listings(), 0);

    // Streams that wait for the same token ask once for all, and one that comes later asks again.
    let rig = Rig::new(small_world().0, faults).await.only("entities");
    assert_eq!(code(&rig.pull_one().await), "mimecast-credentials");
    let calls = rig.simulator.calls();
    assert_eq!((calls.mimecast_tokens, calls.all_listings()), (1, 0));
}

#[tokio::test]
async fn a_stream_without_permission_leaves_the_others_alone() {
    let (world, lines) = small_world();
    let faults =
        FaultPlan::none().matching("type=mailflow", ALWAYS, Endpoint::Listing, Fault::Forbidden);
    let rig = Rig::new(world, faults).await;
    let run = rig.pull().await;
    assert_eq!((run.outcome, run.exit_code()), (Outcome::Partial, 3));
    assert_eq!(code(stream(&run, "mailflow")), "mimecast-forbidden");
    for name in ["entities", "urlclick"] {
        assert_caught_up(stream(&run, name));
    }
    assert_landed(&rig, &[&lines[..5], &lines[10..]].concat());
    assert_eq!(rig.simulator.calls().listings["mailflow"], 1);
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let thief = Simulator::start(World::default(), FaultPlan::none(), SimulatorOptions::default());
    let thief = thief.await.unwrap();
    for endpoint in [Endpoint::MimecastToken, Endpoint::Listing, Endpoint::File] {
        let (world, lines) = backlog(World::default(), "entities", 1);
        let redirect = Fault::Redirect(format!("{}/elsewhere", thief.url()));
        // As often as a call is made at most.
        let attempts = if endpoint == Endpoint::File { 12 } else { 1 };
        let faults = FaultPlan::none().times(attempts, endpoint, redirect);
        let rig = Rig::new(world, faults).await.only("entities");
        let failed = rig.pull_one().await;
        let expected = match endpoint {
            Endpoint::File => "file-unreachable",
            _ => "mimecast-redirect",
        };
        assert_eq!(code(&failed), expected);
        assert_eq!(thief.violations(), [""; 0], "{endpoint:?} went elsewhere");
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &lines);
    }
}

/// What fails for a moment: after it the same call succeeds.
fn passing_faults() -> Vec<Fault> {
    vec![
        Fault::ServerError,
        Fault::Unavailable,
        Fault::RequestTimeout,
        Fault::NotJson,
        Fault::Reset,
        Fault::LostReply,
        Fault::CutShort(0),
        Fault::CutShort(20),
        Fault::TooManyRequests(None),
    ]
}

#[tokio::test]
async fn a_call_that_fails_for_a_moment_is_repeated() {
    let rig = Rig::new(World::default(), FaultPlan::none()).await.only("entities");
    let lines = events(5, "entities", 2 * passing_faults().len());
    let mut lines_left = lines.iter();
    for endpoint in [Endpoint::MimecastToken, Endpoint::Listing] {
        for fault in passing_faults() {
            let line = lines_left.next().unwrap();
            let name = format!("{endpoint:?}-{}.json.gz", lines_left.len());
            rig.simulator.add_page("entities", page_of(&name, &[line]));
            rig.simulator.script(endpoint, fault.clone());
            let stream = rig.pull_one().await;
            assert_eq!(stream.error, None, "{endpoint:?}: {fault:?}");
            assert_caught_up(&stream);
            assert_eq!(stream.events_read, 1, "{endpoint:?}: {fault:?}");
        }
    }
    assert_landed(&rig, &lines);
    assert_eq!(rig.simulator.faults().len(), lines.len());
}

#[tokio::test]
async fn a_call_that_fails_for_ever_ends_the_run_and_loses_nothing() {
    let (world, lines) = backlog(World::default(), "entities", 2);
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    for endpoint in [Endpoint::MimecastToken, Endpoint::Listing] {
        for fault in [Fault::ServerError, Fault::NotJson, Fault::Reset, Fault::CutShort(9)] {
            for _ in 0..rig.options.retry.attempts {
                rig.simulator.script(endpoint, fault.clone());
            }
            let run = rig.pull().await;
            assert_eq!(run.exit_code(), 1, "{endpoint:?}: {fault:?}");
            assert_eq!(code(&run.streams[0]), "mimecast-unreachable", "{endpoint:?}: {fault:?}");
        }
    }
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

// The listing.

#[tokio::test]
async fn the_newest_token_is_kept_from_every_kind_of_last_page() {
    let (world, mut lines) = backlog(World::default(), "entities", 2);
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    // The last page was the empty one, which is caught up; its token leads to where it stands.
    let token = |index| token_at(rig.simulator.page_token("entities", index));
    assert_eq!(rig.checkpoint("entities").cursor, token(2));

    // Caught up together with files: they are read, and no further page is asked for.
    let more = events(11, "entities", 4);
    let last = page_of("more.json.gz", &more).caught_up(Some(true));
    rig.simulator.add_page("entities", last);
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.pages, stream.rows_delivered), (1, 4));
    assert_eq!(rig.simulator.calls().listings["entities"], 4);
    assert_eq!(rig.checkpoint("entities").cursor, token(3));
    lines.extend(more);

    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!(stream.events_read, 0);
    assert_landed(&rig, &lines);
    assert_eq!(rig.simulator.calls().all_downloads(), 3);
}

#[tokio::test]
async fn a_missing_flag_means_that_there_is_more() {
    let lines = events(5, "entities", 6);
    let world = World::default()
        .page("entities", page_of("a.json.gz", &lines[..2]).caught_up(None))
        .page("entities", page_of("b.json.gz", &lines[2..4]).caught_up(Some(false)))
        .page("entities", page_of("c.json.gz", &lines[4..]).caught_up(None));
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn a_reply_without_files_may_lack_them_in_any_way() {
    let lines = events(5, "entities", 2);
    for empty in [json!({"value": []}), json!({"value": null}), json!({}), json!({"other": 1})] {
        let rig = Rig::new(World::default(), FaultPlan::none()).await.only("entities");
        let mut reply = empty.clone();
        reply["@nextPage"] = rig.simulator.page_token("entities", 1).into();
        rig.simulator.add_page("entities", page().verbatim(reply));
        rig.simulator.add_page("entities", page_of("a.json.gz", &lines));
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!(stream.pages, 1, "{empty}");
        assert_landed(&rig, &lines);
    }
}

#[tokio::test]
async fn an_empty_page_whose_token_does_not_move_ends_the_run() {
    for next in [NextToken::Unmoved, NextToken::Missing, NextToken::Empty] {
        for caught_up in [None, Some(false)] {
            let lines = events(5, "entities", 2);
            let world = World::default()
                .page("entities", page_of("a.json.gz", &lines))
                .page("entities", page().next(next).caught_up(caught_up));
            let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
            for run in 0..2 {
                assert_caught_up(&rig.pull_one().await);
                let listings = rig.simulator.calls().listings["entities"];
                assert_eq!(listings, 2 + run, "{next:?} {caught_up:?}");
            }
            assert_landed(&rig, &lines);
        }
    }
}

#[tokio::test]
async fn at_most_five_empty_pages_are_asked_for_in_a_run() {
    let lines = events(5, "entities", 2);
    let mut world = World::default();
    for _ in 0..4 {
        world = world.page("entities", page());
    }
    world = world.page("entities", page_of("a.json.gz", &lines[..1]));
    for _ in 0..6 {
        world = world.page("entities", page());
    }
    world = world.page("entities", page_of("b.json.gz", &lines[1..]));
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    // Four and one, with the page between them.
    assert_caught_up(&rig.pull_one().await);
    assert_eq!(rig.simulator.calls().listings["entities"], 6);
    // Where it stopped it goes on: five again, and the last page.
    assert_caught_up(&rig.pull_one().await);
    assert_eq!(rig.simulator.calls().listings["entities"], 11);
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn a_page_whose_token_does_not_move_is_read_once() {
    for next in [NextToken::Unmoved, NextToken::Missing, NextToken::Empty] {
        let lines = events(5, "entities", 8);
        let file = |name: &str, at: usize| BatchFile::of_lines(name, &lines[at..at + 2]);
        let stays = || page().file(file("a.json.gz", 2)).file(file("b.json.gz", 4)).next(next);
        let world = World::default()
            .page("entities", page().file(file("0.json.gz", 0)))
            .page("entities", stays());
        let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!((stream.pages, stream.rows_delivered), (2, 6), "{next:?}");
        assert_eq!(rig.checkpoint("entities").files.len(), 2, "finished files are kept");

        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!((stream.events_read, stream.files), (0, 0), "{next:?}");

        // A new file under the same cursor, and at last a token that moves.
        rig.simulator.set_page("entities", 1, stays().file(file("c.json.gz", 6)));
        assert_eq!(rig.pull_one().await.rows_delivered, 2);
        let moves = stays().file(file("c.json.gz", 6)).next(NextToken::Moves);
        rig.simulator.set_page("entities", 1, moves);
        assert_caught_up(&rig.pull_one().await);
        assert!(rig.checkpoint("entities").files.is_empty());
        assert_landed(&rig, &lines);
        assert_eq!(rig.simulator.calls().all_downloads(), 4, "{next:?}");
    }
}

#[tokio::test]
async fn the_same_file_twice_in_a_page_is_read_once() {
    let lines = events(5, "entities", 4);
    let a = || BatchFile::of_lines("a.json.gz", &lines[..2]);
    let b = BatchFile::of_lines("b.json.gz", &lines[2..]);
    let world = World::default().page("entities", page().file(a()).file(b).file(a()));
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!(stream.files, 2);
    assert_landed(&rig, &lines);
    assert_eq!(rig.simulator.calls().all_downloads(), 2);
}

#[tokio::test]
async fn pages_of_a_hundred_files_are_read_whole_and_in_order() {
    let lines = events(5, "entities", 500);
    let mut world = World::default();
    for (number, lines) in lines.chunks(200).enumerate() {
        let files = lines.chunks(2).enumerate();
        world = world.page(
            "entities",
            files.fold(page(), |page, (file, lines)| {
                page.file(BatchFile::of_lines(&format!("{number}/{file:03}.json.gz"), lines))
            }),
        );
    }
    let mut rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    rig.policy.body_wait = Duration::from_secs(3_600);
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.pages, stream.files, stream.rows_delivered), (3, 250, 500));
    // A body is filled across files, never across pages.
    assert_eq!(stream.bodies, 3);
    assert_landed(&rig, &lines);
    assert_eq!(rig.checkpoint("entities").totals.files, 250);
}

#[tokio::test]
async fn each_stream_has_a_chain_of_its_own() {
    let mut world = World::default();
    let mut all = Vec::new();
    for (number, stream) in STREAMS.into_iter().enumerate() {
        let (with, lines) = backlog(world, stream, number + 1);
        world = with;
        all.extend(lines);
    }
    let rig = Rig::new(world, FaultPlan::none()).await;
    assert_done(&rig.pull().await);
    // The simulator refuses one stream's token for another.
    assert_landed(&rig, &all);
    for (number, stream) in STREAMS.into_iter().enumerate() {
        let token = rig.simulator.page_token(stream, number + 1);
        assert_eq!(rig.checkpoint(stream).cursor, token_at(token));
        assert_eq!(rig.simulator.calls().listings[stream], number as u64 + 2);
    }
}

/// A server that answers as Mimecast would and records exactly what it was asked.
async fn recorder(file: Vec<u8>) -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (base, log) = (url.clone(), Arc::clone(&asked));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let mut encoding = "";
            let body = if head.starts_with("POST /oauth/token ") {
                json!({"access_token": "t", "expires_in": 1799}).to_string().into_bytes()
            } else if head.starts_with("GET /f?") {
                encoding = "Content-Encoding: gzip\r\n";
                file.clone()
            } else {
                let value = json!([{"url": format!("{base}/f?X-Amz-Signature=s&v=1"), "size": 1}]);
                json!({"value": value, "@nextPage": "a+b/c=", "isCaughtUp": true})
                    .to_string()
                    .into_bytes()
            };
            log.lock().unwrap().push(head);
            // The headers lie about what is inside.
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{encoding}Content-Length: {}\r\n\
                 Connection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(&[answer.as_bytes(), &body].concat()).await.unwrap();
        }
    });
    (url, asked)
}

#[tokio::test]
async fn requests_are_worded_as_the_api_wants_them() {
    let lines = events(5, "entities", 2);
    let file = BatchFile::of_lines("f", &lines).bytes.to_vec();
    let (url, asked) = recorder(file).await;
    let mut rig = Rig::new(World::default(), FaultPlan::none()).await.only("entities");
    rig.options.base_url = url.parse().unwrap();
    rig.options.start = day("2026-11-01");
    for _ in 0..2 {
        assert_caught_up(&rig.pull_one().await);
    }
    let asked = asked.lock().unwrap().clone();
    let begins: Vec<&str> = asked.iter().map(|head| head.lines().next().unwrap()).collect();
    let listing = "GET /siem/v1/batch/events/ci?type=entities&pageSize=100";
    let first = format!("{listing}&dateRangeStartsAt=2026-11-01 HTTP/1.1");
    let next = format!("{listing}&nextPage=a%2Bb%2Fc%3D HTTP/1.1");
    let (token, file) = ("POST /oauth/token HTTP/1.1", "GET /f?X-Amz-Signature=s&v=1 HTTP/1.1");
    assert_eq!(begins, [token, &first, file, token, &next, file]);
    let has =
        |head: &str, header: &str| head.lines().any(|line| line.to_ascii_lowercase() == header);
    let form = "content-type: application/x-www-form-urlencoded";
    assert!(has(&asked[0], form), "{}", asked[0]);
    for header in ["accept: application/json", "accept-encoding: gzip", "authorization: bearer t"] {
        assert!(has(&asked[1], header), "{}", asked[1]);
    }
    assert!(has(&asked[2], "accept-encoding: identity"), "{}", asked[2]);
    let authorized = asked[2].to_ascii_lowercase().contains("authorization");
    assert!(!authorized, "{}", asked[2]);
    assert_eq!(rig.simulator.landed_count(), 4, "a page that is not the current one is read");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_page_and_its_next_token_come_from_the_same_reply() {
    let lines = events(5, "entities", 60);
    let a = || BatchFile::of_lines("a.json.gz", &lines[..40]);
    let b = || BatchFile::of_lines("b.json.gz", &lines[40..50]);
    let c = || BatchFile::of_lines("c.json.gz", &lines[50..]);
    // The first download breaks off, and the second finds the address expired: the page is listed
    // again. When the first row is posted, the reader cannot be there yet.
    let (posted, row_posted) = std::sync::mpsc::channel();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let cut = Fault::CutShort(a().bytes.len() / 2);
    let faults = FaultPlan::none()
        .matching("/a.json.gz", 1, Endpoint::File, cut)
        .matching("/a.json.gz", 1, Endpoint::File, Fault::Expired)
        .poison(move |_| {
            // After the first row both return at once.
            posted.send(()).unwrap_or_default();
            wait.lock().unwrap().recv().unwrap_or_default();
            false
        });
    // At first its token leads to a page that is not there any more when it is listed again.
    let wrong = events(9, "entities", 3);
    let world = World::default()
        .page("entities", page().file(a()).file(b()))
        .page("entities", page_of("wrong.json.gz", &wrong));
    let rig = Arc::new(one_by_one(Rig::new(world, faults).await.only("entities")));
    let pulled = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.pull_one().await }
    });
    tokio::task::spawn_blocking(move || row_posted.recv().unwrap()).await.unwrap();
    let second = page().file(a()).file(c()).next(NextToken::Missing);
    rig.simulator.set_page("entities", 0, second);
    drop(go_on);
    assert_caught_up(&pulled.await.unwrap());
    // The first reply's `b` and its token are gone with it, and the loss of `b` is reported; `a` was
    // not read twice.
    assert_eq!(reasons(&rig), [("file-gone".to_owned(), 1)]);
    assert_landed(&rig, &[&lines[..40], &lines[50..]].concat());
    assert_eq!(rig.checkpoint("entities").cursor, start_at(rig.options.start));
    let read: Vec<String> = rig.checkpoint("entities").files.into_keys().collect();
    let names: Vec<&str> = read.iter().map(|key| key.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["a.json.gz", "b.json.gz", "c.json.gz"]);
}

// Backfill and lost tokens.

/// Today in these tests.
const TODAY: &str = "2026-11-15T10:00:00Z";

/// One page a day for the ten days up to today, each of one event; the days' lines, oldest first.
fn ten_days() -> (World, Vec<String>) {
    let lines = events(5, "entities", 10);
    let days = day("2026-11-06").iter_days();
    let world = days.zip(&lines).fold(World::default(), |world, (day, line)| {
        let file = BatchFile::of_lines(&format!("{day}.json.gz"), &[line]);
        world.page("entities", Page::new(day).file(file))
    });
    (world, lines)
}

/// A rig that starts 60 days before today; Mimecast keeps `kept` days and says `message`.
async fn backfill(kept: u32, message: &str) -> (Rig, Vec<String>) {
    let (world, lines) = ten_days();
    let options = SimulatorOptions {
        clock: clock_at(TODAY),
        retention_days: Some(kept),
        retention_message: message.to_owned(),
        ..SimulatorOptions::default()
    };
    let mut rig = Rig::with(world, FaultPlan::none(), options).await.only("entities");
    rig.options.start = day("2026-09-16");
    (rig, lines)
}

const SEVEN_DAYS: &str = "Invalid date range: 'from' must be within the 7-day retention period";

#[tokio::test]
async fn the_backfill_begins_at_the_oldest_day_that_is_accepted() {
    // (days kept, message, the first accepted day, listings until then)
    let cases = [
        (7, SEVEN_DAYS, "2026-11-08", 2),
        (6, SEVEN_DAYS, "2026-11-09", 3),
        (9, "dateRangeStartsAt must be within the last 9 days", "2026-11-06", 2),
        (7, "Invalid date range", "2026-11-08", 2),
        (6, "Invalid date range", "2026-11-09", 3),
        (1, "Invalid date range", "2026-11-14", 8),
        (100, "never said", "2026-09-16", 1),
    ];
    for (kept, message, first, listings) in cases {
        let (rig, lines) = backfill(kept, message).await;
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!(stream.backfill_from, Some(day(first)), "{kept}: {message}");
        let begins = (day(first) - day("2026-11-06")).num_days().max(0) as usize;
        assert_landed(&rig, &lines[begins..]);
        assert_eq!(stream.gap, None);
        // The pages, and the empty one at the end, which the last page's token leads to.
        let pages = (lines.len() - begins) as u64;
        assert_eq!(rig.simulator.calls().all_listings(), listings + pages, "{kept}: {message}");
        assert_eq!(rig.checkpoint("entities").backfill_from, Some(day(first)));
    }
}

#[tokio::test]
async fn at_most_seven_days_are_tried() {
    let (rig, _) = backfill(0, "Invalid date range").await;
    let run = rig.pull().await;
    assert_eq!((code(&run.streams[0]), run.exit_code()), ("listing-refused", 2));
    assert!(run.streams[0].error.as_ref().unwrap().message.contains("Invalid date range"));
    assert_eq!(rig.simulator.calls().all_listings(), 1 + 7);
    rig.assert_no_violations();
}

#[tokio::test]
async fn the_resolved_day_does_not_slide() {
    // The message says seven days, but eight and more are accepted.
    let now = Arc::new(std::sync::Mutex::new(TODAY.parse::<DateTime<Utc>>().unwrap()));
    let clock = Clock::from_fn({
        let now = Arc::clone(&now);
        move || *now.lock().unwrap()
    });
    let options = SimulatorOptions {
        clock,
        retention_days: Some(9),
        retention_message: SEVEN_DAYS.to_owned(),
        ..SimulatorOptions::default()
    };
    let lines = events(5, "entities", 2);
    let first = page_of("a.json.gz", &lines[..1]).next(NextToken::Missing);
    let world = World::default().page("entities", first);
    let mut rig = Rig::with(world, FaultPlan::none(), options).await.only("entities");
    rig.options.start = day("2026-09-16");
    for listings in [2, 3, 4] {
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!(stream.backfill_from, Some(day("2026-11-08")));
        assert_eq!(rig.checkpoint("entities").cursor, start_at(day("2026-11-08")));
        // The stored day is asked for at once.
        assert_eq!(rig.simulator.calls().all_listings(), listings);
        *now.lock().unwrap() += TimeDelta::days(1);
    }
    assert_landed(&rig, &lines[..1]);
    // It is reported when it is no longer accepted: what was not read until then is lost.
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!(stream.backfill_from, Some(day("2026-11-11")));
    let gap = stream.gap.unwrap();
    assert_eq!(gap.from.date_naive(), day("2026-11-08"));
    assert_eq!(gap.to.date_naive(), day("2026-11-11"));
}

/// Mimecast should still have the day that was asked for, and refuses it: what it does not give is missing.
#[tokio::test]
async fn a_start_of_the_last_days_that_is_refused_leaves_a_gap() {
    for (start, from) in [("2026-11-10", Some("2026-11-10")), ("2026-11-08", None)] {
        let (mut rig, lines) = backfill(3, "must be within 3 days").await;
        rig.options.start = day(start);
        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!(stream.backfill_from, Some(day("2026-11-12")));
        assert_landed(&rig, &lines[6..]);
        let gap = stream.gap.map(|gap| (gap.from.date_naive(), gap.to.date_naive()));
        assert_eq!(gap, from.map(|from| (day(from), day("2026-11-12"))), "{start}");
        assert_eq!(rig.pull_one().await.gap, None, "reported once");
    }
}

#[tokio::test]
async fn a_first_day_that_is_accepted_costs_one_call() {
    let (mut rig, lines) = backfill(7, SEVEN_DAYS).await;
    rig.options.start = day("2026-11-13");
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!(stream.backfill_from, Some(day("2026-11-13")));
    assert_landed(&rig, &lines[7..]);
    assert_eq!(rig.simulator.calls().all_listings(), 4);
}

#[tokio::test]
async fn a_forgotten_token_starts_again_at_the_oldest_day_and_reports_the_gap() {
    for message in ["Invalid nextPage token '{token}'", "the range has expired", ""] {
        let (world, lines) = ten_days();
        let options = SimulatorOptions {
            clock: clock_at(TODAY),
            retention_days: Some(7),
            unknown_token_message: message.to_owned(),
            ..SimulatorOptions::default()
        };
        let mut rig = Rig::with(world, FaultPlan::none(), options).await.only("entities");
        rig.options.start = day("2026-09-16");
        let first = rig.pull_one().await;
        assert_caught_up(&first);
        assert_eq!(first.gap, None);

        let later = events(99, "entities", 3);
        let last = Page::new(day("2026-11-15")).file(BatchFile::of_lines("late.gz", &later));
        rig.simulator.add_page("entities", last);
        rig.simulator.forget_page_tokens();
        let run = rig.pull().await;
        assert_done(&run);
        let stream = &run.streams[0];
        let gap = stream.gap.as_ref().unwrap();
        assert!(gap.from <= gap.to, "{gap:?}");
        assert_eq!(gap.to.to_rfc3339(), "2026-11-08T00:00:00+00:00");
        assert_eq!(stream.backfill_from, Some(day("2026-11-08")));
        // Duplicates are what the API still keeps; nothing is missing.
        let kept = &lines[2..];
        assert_landed(&rig, &[kept, kept, &later].concat());

        let stream = rig.pull_one().await;
        assert_caught_up(&stream);
        assert_eq!((stream.events_read, stream.gap), (0, None));
    }
}

#[tokio::test]
async fn a_token_that_is_forgotten_while_its_page_is_read_is_dropped_by_the_next_run() {
    let (world, lines) = backlog(World::default(), "entities", 1);
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    let more = events(99, "entities", 3);
    rig.simulator.add_page("entities", page_of("more.json.gz", &more));
    // The page is listed, its file's address refused, and the next listing must wait.
    rig.simulator.script(Endpoint::File, Fault::Expired);
    rig.simulator.script(Endpoint::Listing, Fault::Nothing);
    let wait = Fault::TooManyRequests(Some(("X-RateLimit-Reset", "300".to_owned())));
    rig.simulator.script(Endpoint::Listing, wait);
    let listed = rig.simulator.calls().all_listings();
    let (run, ()) = tokio::join!(rig.pull(), async {
        while rig.simulator.calls().all_listings() < listed + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        rig.simulator.forget_page_tokens();
    });
    assert_eq!((code(&run.streams[0]), run.exit_code()), ("cursor-dropped", 1));
    let run = rig.pull().await;
    assert_done(&run);
    assert!(run.streams[0].gap.is_some());
    assert_landed(&rig, &[&lines[..], &lines, &more].concat());
}

#[tokio::test]
async fn a_400_that_is_not_the_tokens_fault_keeps_it() {
    let (world, lines) = backlog(World::default(), "entities", 2);
    let rig = Rig::new(world, FaultPlan::none()).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    let before = rig.checkpoint("entities").cursor;
    let said = |message: &str| Fault::BadRequest {
        code: "Request Validation Failed".to_owned(),
        message: message.to_owned(),
    };
    for _ in 0..1 + 2 + 7 {
        rig.simulator.script(Endpoint::Listing, said("the type is not enabled"));
    }
    let failed = rig.pull_one().await;
    assert_eq!(code(&failed), "listing-refused");
    assert_eq!(rig.checkpoint("entities").cursor, before);
    let stream = rig.pull_one().await;
    assert_caught_up(&stream);
    assert_eq!((stream.events_read, stream.gap), (0, None));
    assert_landed(&rig, &lines);
}

// Time.

#[tokio::test]
async fn a_clock_that_jumps_ends_no_run_and_refetches_no_token() {
    let calls = AtomicUsize::new(0);
    let clock = Clock::from_fn(move || {
        let start: DateTime<Utc> = TODAY.parse().unwrap();
        let hours = [0, 72, -72, 24 * 400, -24 * 400, 1, -1, 24 * 30];
        start + TimeDelta::hours(hours[calls.fetch_add(1, Ordering::Relaxed) % hours.len()])
    });
    let mut world = World::default();
    let mut all = Vec::new();
    for stream in STREAMS {
        let (with, lines) = backlog(world, stream, 10);
        world = with;
        all.extend(lines);
    }
    // What is throttled or refused looks at the time too.
    let faults = FaultPlan::none()
        .times(2, Endpoint::Listing, Fault::Nothing)
        .once(Endpoint::Listing, Fault::TooManyRequests(None))
        .once(Endpoint::File, Fault::Expired)
        .once(Endpoint::Post, Fault::TooManyRequests(Some(("Retry-After", "0".to_owned()))));
    let rig =
        Rig::with(world, faults, SimulatorOptions { clock, ..SimulatorOptions::default() }).await;
    let run = rig.pull().await;
    assert_done(&run);
    assert_eq!(run.outcome, Outcome::CaughtUp);
    assert_landed(&rig, &all);
    let calls = rig.simulator.calls();
    assert_eq!((calls.mimecast_tokens, calls.azure_tokens.values().sum::<u64>()), (1, 1));
    for stream in STREAMS {
        assert_eq!(rig.checkpoint(stream).totals.pages, 10);
    }
}

// Pace.

#[tokio::test]
async fn no_more_calls_are_made_than_the_pace_allows() {
    let (world, lines) = backlog(World::default(), "entities", 10);
    let faults = FaultPlan::none().once(Endpoint::Listing, Fault::Nothing).times(
        2,
        Endpoint::Listing,
        Fault::ServerError,
    );
    let mut rig = Rig::new(world, faults).await.only("entities");
    rig.options.calls_per_15_minutes = 5;
    let run = rig.pull().await;
    assert_done(&run);
    let stream = &run.streams[0];
    assert_eq!((stream.outcome, run.outcome), (Outcome::TimeLimit, Outcome::TimeLimit));
    // Repetitions count: three pages take five calls.
    assert_eq!(rig.simulator.calls().all_listings(), 5);
    assert_eq!(stream.rows_delivered, 6);
    rig.options.calls_per_15_minutes = 100;
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn one_backlog_does_not_starve_the_other_streams() {
    let (world, mut all) = backlog(World::default(), "entities", 30);
    let (world, lines) = backlog(world, "mailflow", 2);
    all.extend(lines);
    let (world, lines) = backlog(world, "urlclick", 2);
    all.extend(lines);
    // The others are slow, and want their second page when the backlog could have had it all.
    let slow = Fault::Slow(Duration::from_millis(100));
    let faults = FaultPlan::none()
        .matching("mailflow/", ALWAYS, Endpoint::File, slow.clone())
        .matching("urlclick/", ALWAYS, Endpoint::File, slow);
    let mut rig = Rig::new(world, faults).await;
    rig.options.calls_per_15_minutes = 12;
    let run = rig.pull().await;
    assert_done(&run);
    assert_caught_up(stream(&run, "mailflow"));
    assert_caught_up(stream(&run, "urlclick"));
    assert_eq!(stream(&run, "entities").outcome, Outcome::TimeLimit);
    let calls = rig.simulator.calls();
    assert_eq!(calls.all_listings(), 12, "what others leave goes to the backlog: {calls:?}");
    rig.options.calls_per_15_minutes = 100;
    assert_done(&rig.pull().await);
    assert_landed(&rig, &all);
}

#[tokio::test]
async fn a_limited_rate_is_waited_out_as_the_reply_says() {
    let header = |name, value: &str| Some((name, value.to_owned()));
    // (header, the shortest wait)
    let cases = [
        (header("X-RateLimit-Reset", "300"), 300),
        (header("X-Rate-Limit-Reset", "300"), 300),
        (header("Retry-After", "1"), 1_000),
        (header("X-RateLimit-Reset", "0"), 40),
        (header("Retry-After", "0"), 40),
        (header("X-RateLimit-Reset", "soon"), 80),
        (None, 80),
    ];
    let run = async |(header, wait): (Option<(&'static str, String)>, u64)| {
        let mut rig = Rig::new(World::default(), FaultPlan::none()).await.only("entities");
        rig.options.retry.throttled_at_least = Duration::from_millis(40);
        rig.options.retry.throttled = Duration::from_millis(80);
        // Milliseconds that are taken for seconds would pass it.
        rig.policy.run_time_limit = Duration::from_secs(60);
        let lines = events(5, "entities", 3);
        let endpoints = [Endpoint::MimecastToken, Endpoint::Listing, Endpoint::File];
        for (line, endpoint) in lines.iter().zip(endpoints) {
            rig.simulator.add_page("entities", page_of(&format!("{endpoint:?}.gz"), &[line]));
            rig.simulator.script(endpoint, Fault::TooManyRequests(header.clone()));
            let before = Instant::now();
            assert_caught_up(&rig.pull_one().await);
            assert!(before.elapsed() >= Duration::from_millis(wait), "{header:?}: {endpoint:?}");
        }
        assert_landed(&rig, &lines);
    };
    futures::future::join_all(cases.map(run)).await;
}

#[tokio::test]
async fn a_limited_rate_does_not_use_up_the_attempts() {
    let (world, lines) = backlog(World::default(), "entities", 1);
    let limited = Fault::TooManyRequests(Some(("X-RateLimit-Reset", "1".to_owned())));
    let faults = FaultPlan::none().times(30, Endpoint::Listing, limited);
    let rig = Rig::new(world, faults).await.only("entities");
    assert_caught_up(&rig.pull_one().await);
    assert_landed(&rig, &lines);
}

#[tokio::test]
async fn a_wait_beyond_the_time_of_the_run_ends_it_at_once() {
    let hour = Fault::TooManyRequests(Some(("X-RateLimit-Reset", "3600000".to_owned())));
    for endpoint in [Endpoint::MimecastToken, Endpoint::Listing, Endpoint::File] {
        let (world, lines) = backlog(World::default(), "entities", 2);
        let faults = FaultPlan::none().once(endpoint, Fault::Nothing);
        let rig = Rig::new(world, faults.once(endpoint, hour.clone())).await.only("entities");
        if endpoint == Endpoint::MimecastToken {
            // Its first call passes, so that something is done before.
            assert_caught_up(&rig.pull_one().await);
        }
        // Under the default of nine minutes a wait would be noticed.
        let pulled = tokio::time::timeout(Duration::from_secs(60), rig.pull()).await;
        let run = pulled.unwrap_or_else(|_| panic!("{endpoint:?}: it waits"));
        assert_done(&run);
        assert_eq!(run.outcome, Outcome::TimeLimit, "{endpoint:?}");
        assert_caught_up(&rig.pull_one().await);
        assert_landed(&rig, &lines);
    }
}
