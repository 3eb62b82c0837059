//! The Azure side: what goes into a body, and what each answer to it does.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use mimecast_sentinel::pipeline::{Fault as RunFault, Outcome, StreamSummary};
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::simulator::Fault::{
    BadRequest, Forbidden, LostReply, NotFound, NotJson, Redirect, RequestTimeout, Reset,
    ServerError, Slow, TooLarge, TooManyRequests, Unauthorized, Unavailable,
};
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, MadeUp, Page, SimulatorOptions, World,
};
use mimecast_sentinel::store::FolderStore;
use mimecast_sentinel::table::EventId;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::doubles::{Act, Call, HookedSink, WatchedStore};
use crate::support::rig::{Rig, run};
use crate::support::scenario::start_at;

const STREAM: &str = "mailflow";
/// 2026-11-10T00:00:00Z.
const AT: i64 = 1_794_268_800_000;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(AT).unwrap() + TimeDelta::hours(1)
}

fn day() -> NaiveDate {
    now().date_naive()
}

/// Events of `stream`, a millisecond apart.
fn events_of(stream: &str, count: i64) -> Vec<String> {
    let mut made_up = MadeUp::new(7);
    (0..count).map(|n| made_up.event(stream, AT + n)).collect()
}

fn events(count: i64) -> Vec<String> {
    events_of(STREAM, count)
}

/// A page with these files.
fn page<L: AsRef<[u8]>>(files: &[(&str, &[L])]) -> Page {
    let files = files.iter().map(|(name, lines)| BatchFile::of_lines(name, lines));
    files.fold(Page::new(day()), Page::file)
}

/// A connector for one stream whose one file has these lines.
async fn one_file<L: AsRef<[u8]>>(lines: &[L], faults: FaultPlan) -> Rig {
    with_clock(World::default().page(STREAM, page(&[("a.json.gz", lines)])), faults).await
}

async fn with_clock(world: World, faults: FaultPlan) -> Rig {
    let options = SimulatorOptions { clock: Clock::from_fn(now), ..SimulatorOptions::default() };
    Rig::with(world, faults, options).await.only(STREAM)
}

fn id<L: AsRef<[u8]>>(line: L) -> String {
    EventId::of(line.as_ref()).to_string()
}

/// Refuses bodies with any of these lines.
fn poison<L: AsRef<[u8]>>(lines: &[L]) -> FaultPlan {
    let bad: Vec<String> = lines.iter().map(id).collect();
    FaultPlan::none().poison(move |row| bad.iter().any(|id| row["EventId"] == id.as_str()))
}

#[track_caller]
fn assert_landed_once<L: AsRef<[u8]>>(rig: &Rig, lines: &[L]) {
    let mut landed = landed(rig);
    landed.sort();
    let mut expected: Vec<String> = lines.iter().map(id).collect();
    expected.sort();
    assert_eq!(landed, expected);
    rig.assert_no_violations();
}

fn landed(rig: &Rig) -> Vec<String> {
    let rows = rig.simulator.landed();
    rows.iter().map(|row| row["EventId"].as_str().unwrap().to_owned()).collect()
}

/// Nothing landed, nothing is in quarantine, and the next run begins where this one did.
#[track_caller]
fn assert_nothing_moved(rig: &Rig) {
    assert_eq!(rig.simulator.landed_count(), 0);
    assert_eq!(rig.quarantined(), [Value::Null; 0]);
    let checkpoint = rig.checkpoint(STREAM);
    assert_eq!(checkpoint.cursor, start_at(rig.options.start));
    assert!(checkpoint.files.is_empty(), "{:?}", checkpoint.files);
}

/// The only stream's summary and fault of a run that failed with this exit code.
async fn fails(rig: &Rig, exit_code: u8) -> (StreamSummary, RunFault) {
    let run = rig.pull().await;
    assert_eq!((run.outcome, run.exit_code()), (Outcome::Failed, exit_code), "{run:#?}");
    let stream = run.streams.into_iter().next().unwrap();
    let fault = stream.error.clone().unwrap();
    (stream, fault)
}

/// The only stream's summary of a run that read everything.
async fn catches_up(rig: &Rig) -> StreamSummary {
    let run = rig.pull().await;
    assert_eq!((run.outcome, run.exit_code()), (Outcome::CaughtUp, 0), "{run:#?}");
    run.streams.into_iter().next().unwrap()
}

mod bodies {
    use super::*;

    #[tokio::test]
    async fn a_body_is_filled_across_the_files_of_a_page() {
        let lines = events(100);
        let page = lines.iter().enumerate().fold(Page::new(day()), |page, (n, line)| {
            page.file(BatchFile::of_lines(&format!("{n:03}.json.gz"), &[line]))
        });
        let rig = with_clock(World::default().page(STREAM, page), FaultPlan::none()).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.files, stream.bodies, stream.rows_delivered), (100, 1, 100));
        assert_eq!(rig.simulator.calls().posts, 1);
        assert_eq!(landed(&rig), lines.iter().map(id).collect::<Vec<_>>(), "in order");
    }

    #[tokio::test]
    async fn no_body_reaches_across_pages() {
        let lines = events(3);
        let world = lines.iter().enumerate().fold(World::default(), |world, (n, line)| {
            world.page(STREAM, page(&[(&format!("{n}.json.gz"), &[line])]))
        });
        let rig = with_clock(world, FaultPlan::none()).await;
        assert_eq!(catches_up(&rig).await.bodies, 3);
        assert_landed_once(&rig, &lines);
    }

    /// The simulator refuses a larger body, and keeps the breach.
    #[tokio::test]
    async fn a_body_holds_at_most_a_million_bytes_and_little_less() {
        let subject = "é".repeat(20_000);
        let line = |n| json!({"timestamp": AT, "n": n, "subject": subject}).to_string();
        let lines: Vec<String> = (0..100).map(line).collect();
        let rig = one_file(&lines, FaultPlan::none()).await;
        let stream = catches_up(&rig).await;
        assert_landed_once(&rig, &lines);
        // 24 rows of 40.1 kB fit into one.
        assert_eq!(stream.bodies, 5);
    }

    #[tokio::test]
    async fn a_body_is_the_same_bytes_at_each_try() {
        let lines = events(300);
        let tries = [ServerError, Reset, Unauthorized("InvalidToken".to_owned()), LostReply];
        let tries = tries.into_iter().chain([
            TooManyRequests(None),
            Slow(Duration::from_millis(1)), // which is carried out
        ]);
        let plan = tries.fold(FaultPlan::none(), |plan, fault| plan.once(Endpoint::Post, fault));
        let rig = one_file(&lines, plan).await;
        catches_up(&rig).await;
        // A body's identity is its digest.
        let posts: Vec<String> = rig.simulator.faults().into_iter().map(|f| f.identity).collect();
        assert_eq!(posts, vec![posts[0].clone(); 6]);
        assert_eq!(rig.simulator.calls().posts, 6);
    }
}

mod status_400 {
    use super::*;

    fn of(code: &str, message: &str) -> Fault {
        BadRequest { code: code.to_owned(), message: message.to_owned() }
    }

    /// With this 400 the stream stops at the first post, and nothing has moved.
    async fn assert_stops_the_stream(rig: &Rig, lines: &[String], refusal: Fault) {
        rig.simulator.script(Endpoint::Post, refusal.clone());
        let (_, fault) = fails(rig, 2).await;
        assert_eq!(fault.code.as_str(), "ingestion-settings", "{fault}");
        let BadRequest { code, message } = refusal else { panic!("{refusal:?}") };
        assert!(fault.message.contains(&format!("{code}: {message}")), "{fault}");
        assert!(fault.message.contains(rig.simulator.rule_id()), "{fault}");
        assert!(fault.fix.contains("LOGS_INGESTION_STREAM"), "{fault}");
        assert_eq!(rig.simulator.calls().posts, 1, "{code}: it is not halved");
        assert_nothing_moved(rig);

        catches_up(rig).await;
        assert_landed_once(rig, lines);
    }

    #[tokio::test]
    async fn a_400_whose_code_names_a_setting_stops_the_stream() {
        for (code, message) in [
            ("InvalidStream", "Custom-X was not configured"),
            ("InvalidDataCollectionRule", "it is of the wrong kind"),
            ("UnsupportedApiVersion", "not supported"),
        ] {
            let lines = events(30);
            let rig = one_file(&lines, FaultPlan::none()).await;
            assert_stops_the_stream(&rig, &lines, of(code, message)).await;
        }
    }

    #[tokio::test]
    async fn a_400_that_names_the_rules_id_stops_the_stream() {
        let lines = events(30);
        let rig = one_file(&lines, FaultPlan::none()).await;
        let message = format!("{} has no such input", rig.simulator.rule_id().to_uppercase());
        assert_stops_the_stream(&rig, &lines, of("BadArgument", &message)).await;
    }

    /// Azure may quote a row, and who writes a subject knows the words.
    #[tokio::test]
    async fn a_400_that_quotes_a_row_is_about_the_row_whatever_its_words() {
        for subject in
            ["the rule of the stream", "Custom-Cloud_Integrated", "the api-version '2023-01-01'"]
        {
            let lines = events(8);
            let refusal = of("InvalidRow", &format!("cannot take the value '{subject}'"));
            // The body, its half, its quarter, and the row.
            let rig = one_file(&lines, FaultPlan::none().times(4, Endpoint::Post, refusal)).await;
            let stream = catches_up(&rig).await;
            assert_eq!((stream.rows_delivered, stream.rows_quarantined), (7, 1), "{subject}");
            assert_landed_once(&rig, &lines[1..]);
            let records = rig.quarantined();
            assert_eq!(records.len(), 1);
            assert_eq!(records[0]["original"], lines[0]);
        }
    }

    #[tokio::test]
    async fn a_400_about_a_setting_in_other_words_is_reported_and_loses_nothing() {
        let lines = events(30);
        let refusal = of("BadArgument", "The stream is not in the collection");
        let rig = one_file(&lines, FaultPlan::none()).await;
        // As often as a body of 30 is halved until its rows are alone.
        (0..59).for_each(|_| rig.simulator.script(Endpoint::Post, refusal.clone()));
        let (_, fault) = fails(&rig, 2).await;
        assert_eq!(fault.code.as_str(), "every-row-refused");
        assert!(fault.message.contains("The stream is not in the collection"), "{fault}");
        assert_nothing_moved(&rig);

        catches_up(&rig).await;
        assert_landed_once(&rig, &lines);
    }

    #[tokio::test]
    async fn a_400_leaves_the_bad_rows_alone_in_quarantine() {
        let lines = events(200);
        let bad = [0, 1, 77, 199];
        let bad_lines: Vec<&String> = bad.iter().map(|&n| &lines[n]).collect();
        let rig = one_file(&lines, poison(&bad_lines)).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.rows_delivered, stream.rows_quarantined), (196, 4));
        assert_eq!((stream.events_read, stream.ambiguous_posts), (200, 0));
        let good: Vec<&String> = lines.iter().filter(|line| !bad_lines.contains(line)).collect();
        assert_landed_once(&rig, &good);

        let records = rig.quarantined();
        assert_eq!(records.len(), 4);
        for (record, n) in records.iter().zip(bad) {
            assert_eq!(record["original"], lines[n], "its bytes");
            assert_eq!(record["event_id"], id(&lines[n]));
            assert_eq!(record["line"], n as u64 + 1);
            let file = record["file"].as_str().unwrap();
            assert!(file.ends_with("/files/mailflow/a.json.gz"), "{file}");
            assert_eq!((&record["stream"], &record["delivered"]), (&json!(STREAM), &json!(false)));
            assert_eq!(record["reason"], "row-refused");
            let detail = record["detail"].as_str().unwrap();
            assert_eq!(detail, "InvalidRow: Row 0 cannot be taken.", "Azure's words");
        }
        let checkpoint = rig.checkpoint(STREAM);
        assert_eq!(
            (checkpoint.totals.rows_delivered, checkpoint.totals.rows_quarantined),
            (196, 4)
        );
    }

    #[tokio::test]
    async fn a_400_to_every_row_of_ten_or_more_is_about_the_settings() {
        for count in [10, 25] {
            let lines = events(count);
            let rig = one_file(&lines, poison(&lines)).await;
            let (stream, fault) = fails(&rig, 2).await;
            assert_eq!(fault.code.as_str(), "every-row-refused");
            assert!(fault.message.contains("cannot be taken"), "{fault}");
            assert!(fault.message.contains(rig.simulator.rule_id()), "{fault}");
            assert_eq!((stream.rows_delivered, stream.rows_quarantined), (0, 0));
            assert_nothing_moved(&rig);
        }
    }

    #[tokio::test]
    async fn a_400_to_every_row_of_fewer_than_ten_is_about_the_rows() {
        let lines = events(9);
        let rig = one_file(&lines, poison(&lines)).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.rows_delivered, stream.rows_quarantined), (0, 9));
        assert_eq!(rig.quarantined().len(), 9);
        assert_eq!(stream.lag_seconds, None, "nothing was delivered");
    }

    #[tokio::test]
    async fn a_400_to_every_row_is_about_the_rows_once_another_was_accepted_in_the_run() {
        let lines = events(13);
        let world = World::default()
            .page(STREAM, page(&[("good.json.gz", &lines[..1])]))
            .page(STREAM, page(&[("bad.json.gz", &lines[1..])]));
        let rig = with_clock(world, poison(&lines[1..])).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.rows_delivered, stream.rows_quarantined), (1, 12));
        assert_landed_once(&rig, &lines[..1]);
    }

    /// All streams go to the same stream of the same rule.
    #[tokio::test]
    async fn a_400_to_every_row_is_about_the_rows_once_another_streams_was_accepted() {
        let (bad, good) = (events(12), events_of("urlclick", 1));
        let world = World::default()
            .page(STREAM, page(&[("bad.json.gz", &bad)]))
            .page("urlclick", page(&[("good.json.gz", &good)]));
        let mut rig = with_clock(world, poison(&bad)).await;
        rig.options.types.push("urlclick");
        let through = Arc::new(Notify::new());
        let notify = Arc::clone(&through);
        let store = WatchedStore::new(Arc::new(FolderStore::new(rig.state())), move |_, call| {
            if *call == Call::Release("checkpoints/urlclick.json".to_owned()) {
                notify.notify_one();
            }
            Act::Pass
        });
        let mut connector = rig.connector_on(Arc::new(store));
        connector.sink = Arc::new(HookedSink::new(connector.sink, move |post| {
            let through = Arc::clone(&through);
            async move {
                if post.rows.len() == 12 {
                    through.notified().await;
                }
                Ok(())
            }
        }));
        let run = run(&connector).await;
        assert_eq!(run.exit_code(), 0, "{run:#?}");
        assert_eq!(run.total(|stream| stream.rows_quarantined), 12);
        assert_landed_once(&rig, &good);
    }

    /// `lag_seconds` and the checkpoint are about what was delivered.
    #[tokio::test]
    async fn a_400_to_the_newest_row_leaves_the_newest_delivered_one() {
        let old = json!({"timestamp": AT, "n": 1}).to_string();
        let new = json!({"timestamp": AT + 600_000, "n": 2}).to_string();
        let rig = one_file(&[&old, &new], poison(&[&new])).await;
        let stream = catches_up(&rig).await;
        assert_eq!(stream.lag_seconds, Some(3600));
        assert_eq!(rig.checkpoint(STREAM).newest_event, DateTime::from_timestamp_millis(AT));
    }
}

mod status_413 {
    use super::*;

    #[tokio::test]
    async fn a_413_halves_the_body() {
        let lines = events(5);
        let plan = FaultPlan::none().times(2, Endpoint::Post, TooLarge);
        let rig = one_file(&lines, plan).await;
        let stream = catches_up(&rig).await;
        // 5 → 2 and 3; 2 → 1 and 1.
        assert_eq!((stream.bodies, stream.rows_delivered, stream.ambiguous_posts), (3, 5, 0));
        assert_eq!(landed(&rig), lines.iter().map(id).collect::<Vec<_>>());
        assert_eq!(rig.quarantined(), [Value::Null; 0]);
    }

    #[tokio::test]
    async fn a_413_to_a_single_row_puts_it_in_quarantine() {
        let lines = events(2);
        let plan = FaultPlan::none().times(2, Endpoint::Post, TooLarge);
        let rig = one_file(&lines, plan).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.rows_delivered, stream.rows_quarantined), (1, 1));
        assert_landed_once(&rig, &lines[1..]);
        let records = rig.quarantined();
        assert_eq!(records[0]["reason"], "row-too-large");
        assert_eq!(records[0]["original"], lines[0]);
    }

    /// No body can hold it, so Azure is not asked.
    #[tokio::test]
    async fn a_413_is_not_provoked_by_a_row_that_no_body_can_hold() {
        let long = json!({"timestamp": AT, "unknown": "x".repeat(1_000_000)}).to_string();
        let lines = [events(1).remove(0), long.clone()];
        let rig = one_file(&lines, FaultPlan::none()).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.rows_delivered, stream.rows_quarantined), (1, 1));
        assert_eq!(rig.simulator.calls().posts, 1);
        let records = rig.quarantined();
        assert_eq!(records[0]["reason"], "row-too-large");
        assert_eq!(records[0]["original"], long);
        rig.assert_no_violations();
    }
}

mod access {
    use super::*;

    #[tokio::test]
    async fn access_refused_once_gets_a_new_token() {
        let lines = events(3);
        let fault = Unauthorized("InvalidToken".to_owned());
        let rig = one_file(&lines, FaultPlan::none().once(Endpoint::Post, fault)).await;
        let stream = catches_up(&rig).await;
        assert_landed_once(&rig, &lines);
        assert_eq!(stream.ambiguous_posts, 0);
        assert_eq!(rig.simulator.calls().azure_tokens.values().sum::<u64>(), 2);
    }

    #[tokio::test]
    async fn access_refused_twice_is_about_the_settings() {
        let lines = events(3);
        let fault = Unauthorized("InvalidToken".to_owned());
        let rig = one_file(&lines, FaultPlan::none().times(2, Endpoint::Post, fault)).await;
        let (_, fault) = fails(&rig, 2).await;
        assert_eq!(fault.code.as_str(), "ingestion-unauthorized");
        assert!(fault.message.contains("401"), "{fault}");
        assert_eq!(rig.simulator.calls().posts, 2);
        assert_nothing_moved(&rig);

        catches_up(&rig).await;
        assert_landed_once(&rig, &lines);
    }

    #[tokio::test]
    async fn access_refused_again_after_another_answer_gets_another_token() {
        let lines = events(3);
        let unauthorized = || Unauthorized("InvalidToken".to_owned());
        for between in [ServerError, Reset, TooManyRequests(None)] {
            let plan = [unauthorized(), between.clone(), unauthorized(), between, unauthorized()]
                .into_iter()
                .fold(FaultPlan::none(), |plan, fault| plan.once(Endpoint::Post, fault));
            let rig = one_file(&lines, plan).await;
            catches_up(&rig).await;
            assert_landed_once(&rig, &lines);
            assert_eq!(rig.simulator.calls().azure_tokens.values().sum::<u64>(), 4);
        }
    }

    /// As two in a row are when they come first.
    #[tokio::test]
    async fn access_refused_twice_in_a_row_after_another_answer_is_about_the_settings() {
        let lines = events(3);
        let unauthorized = || Unauthorized("InvalidToken".to_owned());
        let plan = FaultPlan::none()
            .once(Endpoint::Post, unauthorized())
            .once(Endpoint::Post, Unavailable)
            .times(2, Endpoint::Post, unauthorized());
        let rig = one_file(&lines, plan).await;
        let (_, fault) = fails(&rig, 2).await;
        assert_eq!(
            (fault.code.as_str(), rig.simulator.calls().posts),
            ("ingestion-unauthorized", 4)
        );
        assert_nothing_moved(&rig);
    }

    #[tokio::test]
    async fn access_refused_again_and_again_between_other_answers_comes_to_an_end() {
        let lines = events(3);
        // A 429 alone is waited out however often it comes.
        let plan = (0..40).fold(FaultPlan::none(), |plan, _| {
            plan.once(Endpoint::Post, Unauthorized("InvalidToken".to_owned()))
                .once(Endpoint::Post, TooManyRequests(None))
        });
        let rig = one_file(&lines, plan).await;
        let (_, fault) = fails(&rig, 1).await;
        assert_eq!(fault.code.as_str(), "ingestion-unreachable");
        assert!(fault.message.contains("12 times: InvalidToken"), "{fault}");
        // The first 401 is no failed try, and between 13 of them are 12 answers.
        assert_eq!(rig.simulator.calls().posts, 13 + 12);
        assert_nothing_moved(&rig);
    }

    #[tokio::test]
    async fn access_refused_by_role_or_rule_stops_the_stream_until_it_is_granted() {
        for (answer, code) in
            [(Forbidden, "ingestion-forbidden"), (NotFound, "ingestion-not-found")]
        {
            let lines = events(30);
            let rig = one_file(&lines, FaultPlan::none().once(Endpoint::Post, answer)).await;
            let (stream, fault) = fails(&rig, 2).await;
            assert_eq!(fault.code.as_str(), code);
            assert!(fault.message.contains(rig.simulator.rule_id()), "{fault}");
            assert!(fault.fix.contains("Monitoring Metrics Publisher"), "{fault}");
            assert!(fault.fix.contains("30 minutes"), "{fault}");
            assert_eq!((rig.simulator.calls().posts, stream.rows_delivered), (1, 0));
            assert_nothing_moved(&rig);

            catches_up(&rig).await;
            assert_landed_once(&rig, &lines);
        }
    }
}

mod status_429 {
    use super::*;

    fn retry_after(value: impl ToString) -> Fault {
        TooManyRequests(Some(("Retry-After", value.to_string())))
    }

    #[tokio::test]
    async fn a_429_is_waited_out_as_it_asks() {
        let lines = events(3);
        let plan = FaultPlan::none().once(Endpoint::Post, retry_after(1));
        let rig = one_file(&lines, plan).await;
        let start = Instant::now();
        let stream = catches_up(&rig).await;
        assert!(start.elapsed() >= Duration::from_secs(1));
        assert_eq!((stream.ambiguous_posts, rig.simulator.calls().posts), (0, 2));
        assert_landed_once(&rig, &lines);
    }

    #[tokio::test]
    async fn a_429_that_asks_for_nothing_or_for_a_time_that_has_passed_is_waited_out_too() {
        let lines = events(3);
        let plan = FaultPlan::none().times(15, Endpoint::Post, TooManyRequests(None)).times(
            15,
            Endpoint::Post,
            retry_after("Tue, 10 Nov 2026 00:00:00 GMT"),
        );
        let rig = one_file(&lines, plan).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.ambiguous_posts, rig.simulator.calls().posts), (0, 31), "no limit");
        assert_landed_once(&rig, &lines);
    }

    #[tokio::test]
    async fn a_429_that_asks_for_more_than_the_run_has_ends_it_in_peace() {
        // An hour, against the run's 540 s and 30 s of grace.
        for value in ["3600", "Tue, 10 Nov 2026 02:00:00 GMT"] {
            let lines = events(3);
            let plan = FaultPlan::none().once(Endpoint::Post, retry_after(value));
            let rig = one_file(&lines, plan).await;
            let run = rig.pull().await;
            assert_eq!((run.outcome, run.exit_code()), (Outcome::TimeLimit, 0), "{value}");
            assert_eq!(run.streams[0].error, None);
            assert_eq!(run.total(|stream| stream.rows_delivered), 0);
            assert_eq!(rig.simulator.calls().posts, 1);

            catches_up(&rig).await;
            assert_landed_once(&rig, &lines);
        }
    }
}

mod passing_failures {
    use super::*;

    #[tokio::test]
    async fn a_passing_failure_is_tried_again_and_counted() {
        for fault in [RequestTimeout, ServerError, Unavailable, Reset] {
            let lines = events(30);
            let plan = FaultPlan::none().times(2, Endpoint::Post, fault.clone());
            let rig = one_file(&lines, plan).await;
            let stream = catches_up(&rig).await;
            assert_eq!(stream.ambiguous_posts, 2, "{fault:?}");
            assert_landed_once(&rig, &lines);
        }
    }

    #[tokio::test]
    async fn a_failure_after_the_rows_were_taken_doubles_one_body_at_most() {
        let lines: Vec<Vec<String>> = events(60).chunks(20).map(<[_]>::to_vec).collect();
        let world = lines.iter().enumerate().fold(World::default(), |world, (n, lines)| {
            world.page(STREAM, page(&[(&format!("{n}.json.gz"), lines)]))
        });
        let rig = with_clock(world, FaultPlan::none().once(Endpoint::Post, LostReply)).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.ambiguous_posts, stream.rows_delivered), (1, 60));
        // The same rows, with the same ids, and no other.
        let twice = [lines[0].clone(), lines.concat()].concat();
        assert_landed_once(&rig, &twice);
    }

    #[tokio::test]
    async fn a_failure_that_does_not_pass_fails_the_run_and_loses_nothing() {
        let lines = events(30);
        // `impatient` gives a post 12 tries.
        let plan = FaultPlan::none().times(12, Endpoint::Post, Unavailable);
        let rig = one_file(&lines, plan).await;
        let (stream, fault) = fails(&rig, 1).await;
        assert_eq!(fault.code.as_str(), "ingestion-unreachable");
        assert!(fault.message.contains("12 times: 503"), "{fault}");
        assert_eq!((stream.ambiguous_posts, stream.rows_delivered), (12, 0));
        assert_nothing_moved(&rig);

        catches_up(&rig).await;
        assert_landed_once(&rig, &lines);
    }
}

/// 204 alone is success: a proxy that answers with a page, say, took no rows.
#[tokio::test]
async fn another_success_is_somebody_elses_and_the_post_is_repeated() {
    let lines = events(3);
    let rig = one_file(&lines, FaultPlan::none().times(2, Endpoint::Post, NotJson)).await;
    assert_eq!(catches_up(&rig).await.ambiguous_posts, 2);
    assert_landed_once(&rig, &lines);

    let always = FaultPlan::none().times(12, Endpoint::Post, NotJson);
    let rig = one_file(&lines, always).await;
    let (stream, fault) = fails(&rig, 1).await;
    assert_eq!((fault.code.as_str(), stream.rows_delivered), ("ingestion-unreachable", 0));
    assert!(fault.message.contains("200: everything is fine"), "{fault}");
    assert_nothing_moved(&rig);
    catches_up(&rig).await;
    assert_landed_once(&rig, &lines);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_is_about_the_settings() {
    let lines = events(3);
    let elsewhere = Redirect("/elsewhere".to_owned());
    let rig = one_file(&lines, FaultPlan::none().once(Endpoint::Post, elsewhere)).await;
    let (stream, fault) = fails(&rig, 2).await;
    assert_eq!((fault.code.as_str(), stream.rows_delivered), ("ingestion-settings", 0));
    assert!(fault.message.contains("answered 302"), "{fault}");
    assert!(fault.fix.contains("LOGS_INGESTION_ENDPOINT"), "{fault}");
    assert_nothing_moved(&rig);

    catches_up(&rig).await;
    assert_landed_once(&rig, &lines);
}

mod long_columns {
    use super::*;

    fn with_subject(bytes: usize) -> String {
        json!({"timestamp": AT, "subject": "s".repeat(bytes)}).to_string()
    }

    #[tokio::test]
    async fn a_column_over_65_536_bytes_is_delivered_and_kept_whole() {
        let lines = [with_subject(65_536), with_subject(65_537)];
        let rig = one_file(&lines, FaultPlan::none()).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.rows_delivered, stream.rows_truncated), (2, 1));
        assert_eq!((stream.events_read, stream.rows_quarantined), (2, 0));
        assert_landed_once(&rig, &lines);
        let records = rig.quarantined();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["reason"], "oversize-field");
        assert_eq!((&records[0]["delivered"], &records[0]["line"]), (&json!(true), &json!(2)));
        assert_eq!(records[0]["original"], lines[1]);
        assert!(records[0]["detail"].as_str().unwrap().contains("subject"), "{}", records[0]);
        assert_eq!(rig.checkpoint(STREAM).totals.rows_quarantined, 0);
    }

    /// Its record says so; otherwise nobody would ever replay it.
    #[tokio::test]
    async fn a_column_over_65_536_bytes_of_a_row_that_is_refused_was_not_delivered() {
        let lines = [with_subject(10), with_subject(65_537)];
        let rig = one_file(&lines, poison(&lines[1..])).await;
        let stream = catches_up(&rig).await;
        assert_eq!((stream.rows_delivered, stream.rows_quarantined), (1, 1));
        assert_eq!(stream.rows_truncated, 0);
        let records = rig.quarantined();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["delivered"], false);
        assert_eq!(records[0]["reason"], "row-refused");
        assert_eq!(records[0]["original"], lines[1]);
    }
}
