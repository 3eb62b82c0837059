//! What outsiders write, a subject or a server's words, never drives the terminal of a person who
//! looks at it, and what is JSON stays the same JSON.

use std::fs;

use mimecast_sentinel::simulator::{
    Endpoint, Fault, FaultPlan, Simulator, SimulatorOptions, World,
};
use serde_json::{Value, json};

use crate::support::program::{Ended, Program};
use crate::support::scenario::page_of;

const STREAM: &str = "mailflow";

/// Sets a title, rings, colours, and turns text around.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}\u{202e}gpj.exe\u{2067}\u{200f}\u{2028}";

/// The same as an error shows it.
const SHOWN: &str = r"\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}\u{202e}gpj.exe\u{2067}\u{200f}\u{2028}";

#[track_caller]
fn assert_harmless(said: &str) {
    let odd = |c: &char| {
        let turns = ['\u{200e}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2066}'..='\u{2069}'];
        let turns = turns.iter().any(|range| range.contains(c));
        turns || (c.is_control() && !['\n', '\t'].contains(c))
    };
    assert_eq!(said.chars().find(odd), None, "{said:?}");
}

/// A simulator whose only event is `line`.
async fn simulator(line: &str, plan: FaultPlan) -> (Simulator, Program) {
    let world = World::default().page(STREAM, page_of("a.json.gz", &[line]));
    let simulator = Simulator::start(world, plan, SimulatorOptions::default()).await.unwrap();
    let program = Program::of(&simulator).set("MIMECAST_TYPES", STREAM);
    (simulator, program)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_dry_run_are_the_same_rows_without_it() {
    // What JSON allows to stand as it is, and a carriage return between values.
    let raw: String = HOSTILE.chars().filter(|c| *c >= ' ').collect();
    let line = format!("{{\"subject\":\"{raw}\",\"unknown\":{{\"a\":\r[\"{raw}\",\r1]}}}}");
    let (_simulator, program) = simulator(&line, FaultPlan::none()).await;
    let run = program.run(&["pull", "--dry-run"]).await;
    run.assert_code(0);
    assert_harmless(&run.said());
    let row: Value = serde_json::from_str(run.stdout.trim_end()).unwrap();
    assert_eq!(row["subject"], raw.as_str());
    assert_eq!(row["AdditionalFields"]["unknown"], json!({"a": [raw, 1]}));
}

fn put_checkpoint(program: &Program, checkpoint: &str) {
    let folder = program.state().join("checkpoints");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{STREAM}.json")), checkpoint).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_shown_without_it_and_so_is_why_one_cannot_be() {
    let (_simulator, program) = simulator("{}", FaultPlan::none()).await;
    program.run(&["pull"]).await.assert_code(0);
    let stored = fs::read(program.state().join(format!("checkpoints/{STREAM}.json"))).unwrap();
    let mut checkpoint: Value = serde_json::from_slice(&stored).unwrap();
    checkpoint["cursor"] = json!({ "token": HOSTILE });
    checkpoint["files"] = json!({ HOSTILE: { "done": "end" } });
    put_checkpoint(&program, &checkpoint.to_string());
    let shown = program.run(&["state", "show"]).await;
    shown.assert_code(0);
    assert_harmless(&shown.said());
    assert_eq!(shown.json()[STREAM]["cursor"], checkpoint["cursor"]);
    assert_eq!(shown.json()[STREAM]["files"], checkpoint["files"]);

    checkpoint["files"] = json!({ "f": { "done": HOSTILE } });
    put_checkpoint(&program, &checkpoint.to_string());
    let refused = program.run(&["state", "show"]).await;
    refused.assert_code(2).assert_stderr(&[SHOWN]);
    assert_harmless(&refused.said());
}

/// A server's words are in the summary.
#[tokio::test(flavor = "multi_thread")]
async fn a_servers_words_are_in_a_summary_without_it() {
    let (code, message) = ("Request Validation Failed".to_owned(), HOSTILE.to_owned());
    let refused = Fault::BadRequest { code, message };
    let plan = FaultPlan::none().times(20, Endpoint::Listing, refused);
    let (_simulator, program) = simulator("{}", plan).await;
    let run: Ended = program.run(&["pull", "--json"]).await;
    assert_ne!(run.code, 0, "{run:#?}");
    assert_harmless(&run.stdout);
    let message = run.json()["streams"][0]["error"]["message"].to_string();
    assert!(message.contains("gpj.exe"), "{message}");
}
