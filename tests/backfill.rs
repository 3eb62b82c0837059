//! `backfill`, by the real binary: what is kept comes again, once, beside the schedule's own place, whoever
//! stops it.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, Page, Simulator, SimulatorOptions, World,
};
use serde_json::{Value, json};

use crate::support::azurite::{Azurite, sas};
use crate::support::program::{Program, STREAMS, assert_no_secret, ended, signal, until};

const ALWAYS: usize = usize::MAX;

fn days_ago(days: u64) -> NaiveDate {
    Clock::system().now().date_naive().checked_sub_days(Days::new(days)).unwrap()
}

/// A page for each day and stream, from four days ago on, with a file of one event.
fn world() -> World {
    (0..4).rev().fold(World::default(), |world, ago| {
        STREAMS.into_iter().fold(world, |world, stream| {
            let line = json!({"type": stream, "ago": ago}).to_string();
            let file = BatchFile::of_lines(&format!("{ago}.json.gz"), &[&line]);
            world.page(stream, Page::new(days_ago(ago)).file(file))
        })
    })
}

async fn simulator(plan: FaultPlan) -> Simulator {
    Simulator::start(world(), plan, SimulatorOptions::default()).await.unwrap()
}

/// Everything was delivered by the schedule before.
async fn delivered(simulator: &Simulator) -> Program {
    let program = Program::of(simulator);
    program.run(&["pull"]).await.assert_code(0);
    program
}

fn job(program: &Program) -> Value {
    let path = program.state().join("backfill/job.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn calls_of(program: &Program) -> usize {
    job(program)["calls"].as_array().unwrap().len()
}

fn delivered_by_checkpoint(program: &Program) -> Option<u64> {
    let path = program.state().join("backfill/checkpoints/mailflow.json");
    let checkpoint: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    checkpoint["totals"]["rows_delivered"].as_u64()
}

fn set_job(program: &Program, job: &Value) {
    let folder = program.state().join("backfill");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("job.json"), job.to_string()).unwrap();
}

/// As if 15 minutes had passed: the calls of before no longer count.
fn rest(program: &Program) {
    let mut job = job(program);
    job["calls"] = json!([]);
    set_job(program, &job);
}

/// The checkpoints below a folder of the state.
fn checkpoints(program: &Program, folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(program.state().join(folder)) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".json")).collect();
    names.sort();
    names
}

fn since(days: u64) -> Vec<String> {
    vec!["backfill".to_owned(), "--yes".to_owned(), format!("--from={}", days_ago(days))]
}

/// The same of one stream, whose four pages are four calls.
fn of_mailflow(days: u64) -> Vec<String> {
    [since(days), vec!["--stream=mailflow".to_owned()]].concat()
}

fn args(of: &[String]) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_comes_again_and_the_schedules_place_stays() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    let before = program.run(&["state", "show"]).await.stdout;
    let first = simulator.take_landed();
    let arguments = since(0);
    let ended = program.run(&args(&arguments)).await;
    ended.assert_code(0);
    assert_no_secret(&simulator, &ended.said());
    let again = simulator.take_landed();
    assert_eq!(again.len(), 3, "a day of three streams");
    let id = |row: &Value| row["EventId"].as_str().unwrap().to_owned();
    let ids: Vec<String> = first.iter().map(id).collect();
    assert!(again.iter().all(|row| ids.contains(&id(row))), "the parser knows them for the same");
    assert_eq!(program.run(&["state", "show"]).await.stdout, before);
    assert!(ended.stderr.contains("each row is billed again"), "{ended:#?}");
    assert!(
        ended.stderr.contains(&format!(
            "the backfill of entities, mailflow, urlclick since {} is done",
            days_ago(0)
        )),
        "{ended:#?}"
    );
    assert!(!ended.said().contains("first run"), "{ended:#?}");
    assert_eq!(checkpoints(&program, "backfill/checkpoints"), [""; 0], "nothing is left of it");
    assert_eq!(job(&program)["from"], Value::Null);

    // It begins anew, and the schedule goes on as if nothing had been.
    rest(&program);
    program.run(&args(&arguments)).await.assert_code(0);
    assert_eq!(simulator.take_landed().len(), 3);
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(simulator.take_landed().len(), 0);
    assert_eq!(simulator.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cost_is_said_by_the_last_days_before_anything_is_asked_for() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    let from = days_ago(3).to_string();
    let refused = program.run(&["backfill", "--from", &from]).await;
    refused.assert_code(2).assert_stderr(&[
        "say --yes",
        "last 1 days, 12 a day",
        "about 48",
        "USD",
    ]);
    let calls = simulator.calls();
    assert_eq!(simulator.calls().all_listings(), calls.all_listings());

    let new = Program::of(&simulator);
    let refused = new.run(&["backfill", "--from", &from]).await;
    refused.assert_code(2).assert_stderr(&["No rows were delivered in the last week"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_killed_goes_on_where_it_was() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    simulator.take_landed();
    // It stops at the second page of one stream.
    let second = simulator.page_token("mailflow", 1);
    let second: String = url::form_urlencoded::byte_serialize(second.as_bytes()).collect();
    simulator.plan(FaultPlan::none().matching(
        &second,
        ALWAYS,
        Endpoint::Listing,
        Fault::Slow(Duration::from_secs(30)),
    ));
    let arguments = of_mailflow(3);
    let mut child = program.command(&args(&arguments)).spawn().unwrap();
    until("the first page, and the call for the second", || {
        delivered_by_checkpoint(&program) == Some(1) && calls_of(&program) == 2
    })
    .await;
    signal(&child, "KILL");
    child.wait().await.unwrap();
    simulator.plan(FaultPlan::none());
    let before = simulator.take_landed().len();

    let other = program.run(&["backfill", "--yes", "--from", &days_ago(2).to_string()]).await;
    other.assert_code(2).assert_stderr(&["is not finished", "`--restart` forgets it"]);
    let stream = program.run(&["backfill", "--from", &days_ago(3).to_string()]).await;
    stream.assert_code(0);
    assert!(stream.stderr.contains("goes on with the backfill of"), "nobody is asked: {stream:#?}");
    assert!(
        stream.stderr.contains("the backfill of mailflow since"),
        "and of no other: {stream:#?}"
    );
    assert_eq!((before, simulator.take_landed().len()), (1, 3), "none twice");
    assert!((5..=8).contains(&calls_of(&program)), "those of both are remembered");
    assert_eq!(job(&program)["streams"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_day_begins_anew_if_that_is_said() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    set_job(&program, &json!({"from": days_ago(3), "streams": STREAMS, "calls": []}));
    simulator.take_landed();
    let arguments = [since(0), vec!["--restart".to_owned()]].concat();
    program.run(&args(&arguments)).await.assert_code(0);
    assert_eq!(simulator.take_landed().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_eight_calls_are_made_in_15_minutes_whoever_makes_them() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    let listings = simulator.calls().all_listings();
    let now = Clock::system().now();
    let calls: Vec<DateTime<Utc>> = vec![now - TimeDelta::seconds(20); 8];
    set_job(&program, &json!({"from": null, "streams": [], "calls": calls}));
    let arguments = since(3);
    let waiting = program.command(&args(&arguments)).spawn().unwrap();
    let begun = || job(&program)["from"] != Value::Null;
    until("the backfill to begin", begun).await;

    // There is one at a time.
    let second = program.run(&args(&since(3))).await;
    second.assert_code(1).assert_stderr(&["another backfill is in progress"]);

    // The schedule is not held up by it.
    program.run(&["pull"]).await.assert_code(0);
    let of_schedule = simulator.calls().all_listings();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(simulator.calls().all_listings(), of_schedule, "none is left for the backfill");
    assert!(of_schedule > listings);
    signal(&waiting, "TERM");
    let ended = ended(waiting).await;
    // Stopped by a signal, it can go on.
    ended.assert_code(0);
    assert!(ended.stdout.contains("waiting: so many listing calls"), "{ended:#?}");
    assert_eq!(job(&program)["streams"], json!(STREAMS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_alone_and_a_dry_run() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    simulator.take_landed();
    let day = days_ago(3).to_string();
    let dry = program.run(&["backfill", "--from", &day, "--stream", "urlclick", "--dry-run"]).await;
    dry.assert_code(0);
    assert_eq!(dry.stdout.lines().count(), 4, "{dry:#?}");
    assert!(dry.stdout.lines().all(|line| line.contains("\"urlclick\"")), "{dry:#?}");
    assert_eq!(simulator.take_landed().len(), 0);
    assert!(!program.state().join("backfill").exists(), "it writes nothing");

    program.run(&args(&of_mailflow(3))).await.assert_code(0);
    let landed = simulator.take_landed();
    assert_eq!(landed.len(), 4);
    assert!(landed.iter().all(|row| row["type_"] == "mailflow"), "{landed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_is_older_than_what_is_kept_begins_at_the_oldest() {
    let options = SimulatorOptions { retention_days: Some(6), ..SimulatorOptions::default() };
    let simulator = Simulator::start(world(), FaultPlan::none(), options).await.unwrap();
    let program = Program::of(&simulator);
    let ended = program.run(&args(&of_mailflow(40))).await;
    ended.assert_code(0);
    assert!(ended.stdout.contains(&format!("since {}", days_ago(6))), "{ended:#?}");
    assert_eq!(simulator.landed_count(), 4, "all that there is");
    let future = days_ago(0).succ_opt().unwrap().succ_opt().unwrap().to_string();
    let refused = program.run(&["backfill", "--yes", "--from", &future]).await;
    refused.assert_code(2).assert_stderr(&["is in the future"]);
    let odd = program.run(&["backfill", "--yes", "--from", "yesterday"]).await;
    odd.assert_code(2).assert_stderr(&["yesterday", "--from"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_had_is_passed_and_said() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    simulator.take_landed();
    let gone = "mailflow/1.json.gz";
    simulator.plan(FaultPlan::none().matching(gone, ALWAYS, Endpoint::File, Fault::NotFound));
    let ended = program.run(&args(&of_mailflow(2))).await;
    ended.assert_code(0);
    assert!(ended.stderr.contains("ERROR") && ended.stderr.contains(gone), "{ended:#?}");
    assert!(!ended.said().contains("mimecast-sentinel skip"), "that is the schedule's: {ended:#?}");
    assert_eq!(simulator.take_landed().len(), 2);
    let kept = program.run(&["quarantine", "list"]).await;
    assert!(kept.stdout.contains("file-unavailable"), "{kept:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_read_is_named() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    set_job(&program, &json!("odd"));
    let refused = program.run(&args(&since(1))).await;
    refused.assert_code(1).assert_stderr(&["backfill/job.json cannot be read", "remove"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_on_a_blob_container_too() {
    let Some(azurite) = Azurite::start().await else { return };
    let simulator = simulator(FaultPlan::none()).await;
    let container = azurite.create_container("state").await;
    let url = format!("{container}?{}", sas("rwdlc"));
    let program = Program::of(&simulator).set("CHECKPOINT_URL", &url);
    program.run(&["pull"]).await.assert_code(0);
    simulator.take_landed();
    let unanswered = ["backfill", "--from", &days_ago(1).to_string()];
    for _ in 0..2 {
        // It leaves no lease behind, which would run out after a minute.
        program.run(&unanswered).await.assert_code(2).assert_stderr(&["say --yes"]);
        program.run(&args(&of_mailflow(1))).await.assert_code(0);
        assert_eq!(simulator.take_landed().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_behind_empty_pages_comes_too() {
    let page = |world: World, ago: u64, files: bool| {
        let line = json!({"type": "mailflow", "ago": ago}).to_string();
        let file = BatchFile::of_lines(&format!("{ago}.json.gz"), &[&line]);
        let page = Page::new(days_ago(ago));
        world.page("mailflow", if files { page.file(file) } else { page })
    };
    let world = page(World::default(), 3, true);
    let world = (0..5).fold(world, |world, _| page(world, 2, false));
    let world = page(world, 1, true);
    let options = SimulatorOptions::default();
    let simulator = Simulator::start(world, FaultPlan::none(), options).await.unwrap();
    let program = Program::of(&simulator);
    program.run(&args(&of_mailflow(3))).await.assert_code(0);
    assert_eq!(simulator.landed_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_forgotten_before_somebody_has_said_so() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    set_job(&program, &json!({"from": days_ago(3), "streams": ["mailflow"], "calls": []}));
    let checkpoints_of_it = program.state().join("backfill/checkpoints");
    std::fs::create_dir_all(&checkpoints_of_it).unwrap();
    let schedule = program.state().join("checkpoints/mailflow.json");
    std::fs::copy(schedule, checkpoints_of_it.join("mailflow.json")).unwrap();
    simulator.take_landed();
    let refused = program.run(&["backfill", "--restart", "--from", &days_ago(1).to_string()]).await;
    refused.assert_code(2).assert_stderr(&["say --yes"]);
    program.run(&args(&since(3))).await.assert_code(0);
    assert_eq!(simulator.take_landed().len(), 0, "it went on where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_another_application_or_release_says_how_to_forget_it() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    set_job(&program, &json!({"from": days_ago(0), "streams": ["mailflow"], "calls": []}));
    let place = program.state().join("backfill/checkpoints");
    std::fs::create_dir_all(&place).unwrap();
    let schedule = std::fs::read_to_string(program.state().join("checkpoints/mailflow.json"));
    let of_another = schedule.unwrap().replace(simulator.client_id(), "another");
    std::fs::write(place.join("mailflow.json"), of_another).unwrap();
    let refused = program.run(&args(&of_mailflow(0))).await;
    refused.assert_code(2).assert_stderr(&["belongs to", "the backfill with `--restart`"]);

    set_job(&program, &json!({"from": days_ago(0), "streams": ["../later"], "calls": []}));
    let refused = program.run(&args(&of_mailflow(0))).await;
    refused.assert_code(2).assert_stderr(&["\"../later\"", "`--restart`"]);
    let arguments = [of_mailflow(0), vec!["--restart".to_owned()]].concat();
    let ended = program.run(&args(&arguments)).await;
    ended.assert_code(0);
    assert!(ended.stderr.contains("is done"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_is_reported_though_the_job_cannot_be_written() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = delivered(&simulator).await;
    let second = simulator.page_token("mailflow", 1);
    let second: String = url::form_urlencoded::byte_serialize(second.as_bytes()).collect();
    let slow = Fault::Slow(Duration::from_secs(30));
    simulator.plan(FaultPlan::none().matching(&second, ALWAYS, Endpoint::Listing, slow));
    let child = program.command(&args(&of_mailflow(3))).spawn().unwrap();
    until("the first page, and the call for the second", || {
        delivered_by_checkpoint(&program) == Some(1) && calls_of(&program) == 2
    })
    .await;
    set_job(&program, &json!({"from": null, "streams": [], "calls": []}));
    signal(&child, "TERM");
    let ended = ended(child).await;
    ended.assert_code(1).assert_stderr(&["the lease on backfill/job.json", "was lost"]);
    assert!(ended.stdout.contains("1 row delivered"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wrong_rule_refused_is_delivered_once_it_is_right() {
    let lines: Vec<String> =
        (0..20).map(|n| json!({"type": "mailflow", "n": n}).to_string()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let file = BatchFile::of_lines("a.json.gz", &lines);
    let world = World::default().page("mailflow", Page::new(days_ago(1)).file(file));
    let refusing = FaultPlan::none().poison(|_| true);
    let simulator = Simulator::start(world, refusing, SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator);
    let refused = program.run(&args(&of_mailflow(1))).await;
    refused.assert_code(2).assert_stderr(&[
        "every-row-refused",
        "is passed into quarantine at the next run",
        "of mailflow since",
        "is not done",
    ]);
    assert!(!refused.said().contains("mimecast-sentinel skip"), "{refused:#?}");
    simulator.plan(FaultPlan::none());
    let ended = program.run(&args(&of_mailflow(1))).await;
    ended.assert_code(0).assert_stderr(&["is done"]);
    assert_eq!(simulator.landed_count(), 20);
}
