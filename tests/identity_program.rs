//! The real binary with the sources of Microsoft Graph: alone, beside Mimecast's, in Functions, and what
//! its connection test says of rights and licences.

use std::path::Path;
use std::time::Duration;

use mimecast_sentinel::simulator::{Endpoint, Fault, FaultPlan, Simulator};
use mimecast_sentinel::table::{GROUP_MEMBERS, GROUPS, RISK_DETECTIONS, RISKY_USERS, USERS};
use serde_json::{Value, json};

use crate::support::functions_host::{HostSimulator, Invocation, Timer};
use crate::support::program::{EXE, Program, simulator};

const SOURCES: &str = "entra-risk,directory";
const PATIENCE: Duration = Duration::from_secs(60);

/// A tenant with somebody at risk.
async fn tenant() -> Simulator {
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    simulator.graph(|graph| {
        graph.put_user("ada", json!({"displayName": "Ada", "mail": "Ada@contoso.example"}));
        graph.put_group("staff", json!({"displayName": "Staff"}));
        graph.join("staff", "ada", "user");
        graph.put_risky_user(json!({
            "id": "ada", "riskState": "atRisk", "riskLastUpdatedDateTime": "2026-10-01T00:00:00Z",
        }));
        graph.put_detection(json!({
            "id": "d1", "userId": "ada", "riskState": "atRisk",
            "detectedDateTime": "2026-10-01T00:00:00Z", "lastUpdatedDateTime": "2026-10-01T00:00:00Z",
        }));
    });
    simulator
}

fn program(simulator: &Simulator, sources: &str) -> Program {
    Program::of(simulator)
        .set("SOURCES", sources)
        .set("GRAPH_BASE_URL", simulator.url())
        .set("ENTRA_RISK_START_DATE", "2026-09-01")
}

fn without_mimecast(program: Program) -> Program {
    ["MIMECAST_BASE_URL", "MIMECAST_CLIENT_ID", "MIMECAST_CLIENT_SECRET", "START_DATE"]
        .into_iter()
        .fold(program, Program::unset)
}

fn landed(simulator: &Simulator) -> [usize; 5] {
    [&RISK_DETECTIONS, &RISKY_USERS, &USERS, &GROUPS, &GROUP_MEMBERS]
        .map(|table| simulator.landed_in(table).len())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_source_works_without_the_others() {
    for (source, expected) in [("entra-risk", [1, 1, 0, 0, 0]), ("directory", [0, 0, 2, 2, 2])] {
        let simulator = tenant().await;
        let ended = without_mimecast(program(&simulator, source)).run(&["pull", "--json"]).await;
        ended.assert_code(0);
        assert_eq!(landed(&simulator), expected, "{source}");
        assert_eq!(simulator.violations(), Vec::<String>::new());
        let summary: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(summary["streams"][0]["source"], source);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_pulled_together_or_one_of_them() {
    let simulator = tenant().await;
    let program = program(&simulator, "cloud-integrated,entra-risk,directory");
    let one = program.run(&["pull", "--source", "directory", "--json"]).await;
    one.assert_code(0);
    assert_eq!(landed(&simulator), [0, 0, 2, 2, 2]);
    let all = program.run(&["pull", "--json"]).await;
    all.assert_code(0);
    let summaries: Vec<Value> =
        all.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let streams: Vec<usize> =
        summaries.iter().map(|summary| summary["streams"].as_array().unwrap().len()).collect();
    assert_eq!(streams, [3, 2, 3]);
    assert_eq!(landed(&simulator), [1, 1, 2, 2, 2], "what is not new does not come again");

    let status = program.run(&["status", "--json"]).await;
    status.assert_code(0);
    let status = status.json();
    let states: Vec<&str> = status["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stream| stream["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["Connected"; 8]);

    let unknown = program.run(&["pull", "--source", "mailboxes"]).await;
    unknown.assert_code(2);
    assert!(unknown.said().contains("\"mailboxes\" is not a source"), "{unknown:?}");
    let none = program.run(&["pull", "--source", ""]).await;
    none.assert_code(2);
    assert!(none.said().contains("--source"), "{none:?}");
}

/// Whoever has a link and the token can read on.
#[tokio::test(flavor = "multi_thread")]
async fn no_link_is_logged_and_a_shown_one_is_shortened() {
    let simulator = tenant().await;
    simulator.graph(|graph| graph.page = 1);
    let plan = FaultPlan::seeded(3, 300);
    simulator.plan(plan);
    let program = program(&simulator, SOURCES).set("LOG_LEVEL", "TRACE");
    let ended = program.run(&["pull"]).await;
    assert!(landed(&simulator)[2] > 0, "{ended:?}");
    for word in ["skiptoken", "deltatoken"] {
        assert!(!ended.said().contains(word), "{word}: {}", ended.said());
    }
    simulator.plan(FaultPlan::none());
    program.run(&["pull"]).await.assert_code(0);
    let shown = program.run(&["state", "show"]).await;
    shown.assert_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let link = shown["users"]["cursor"]["link"].as_str().unwrap();
    assert!(link.starts_with(simulator.url()) && link.chars().count() <= 81, "{link}");
    assert_eq!(shown["risky-users"]["cursor"]["seen"], "1 states");
}

/// A gateway that explains itself repeats what it was asked.
#[tokio::test(flavor = "multi_thread")]
async fn no_link_is_logged_though_a_refusal_repeats_it() {
    for status in [400, 502] {
        let simulator = tenant().await;
        let path = br#"{"error": {"message": "GET /v1.0/users/delta?$deltatoken=0-1 failed"}}"#;
        let says = Fault::Says(status, path.to_vec());
        simulator.plan(FaultPlan::none().matching("deltatoken", 1, Endpoint::Graph, says));
        let ended = program(&simulator, "directory").set("LOG_LEVEL", "TRACE").run(&["pull"]).await;
        assert!(ended.said().contains("delta?…"), "{ended:?}");
        assert!(!ended.said().contains("deltatoken"), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_lasts_longer_than_the_run_is_told() {
    let simulator = tenant().await;
    let limited = Fault::TooManyRequests(Some(("Retry-After", "3600".to_owned())));
    simulator.plan(FaultPlan::none().times(usize::MAX, Endpoint::Graph, limited));
    let ended = program(&simulator, "directory").run(&["pull"]).await;
    ended.assert_code(0);
    assert!(
        ended.said().contains("the rate is limited for longer than the run lasts"),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_does_not_stop_the_others() {
    let simulator = tenant().await;
    simulator.graph(|graph| graph.roles.remove("IdentityRiskEvent.Read.All"));
    let ended = program(&simulator, SOURCES).run(&["pull"]).await;
    ended.assert_code(3);
    assert_eq!(landed(&simulator), [0, 1, 2, 2, 2]);
    assert!(ended.said().contains("graph-consent"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_functions_each_source_has_its_tick_and_one_that_is_off_says_so() {
    let simulator = tenant().await;
    let program = program(&simulator, "directory").set("SCHEDULE", "0 */15 * * * *");
    let host = HostSimulator::start(Path::new(EXE), &["serve"], &program.env()).await;
    let payload = Timer::Scheduled.payload().to_string();
    let tick =
        async |function: &str| host.client().invoke(function, payload.as_bytes(), PATIENCE).await;
    match tick("Directory").await {
        Invocation::Succeeded { return_value, .. } => {
            assert_eq!(return_value["outcome"], "caught_up", "{return_value}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(landed(&simulator), [0, 0, 2, 2, 2]);
    for (function, source) in [("EntraRisk", "entra-risk"), ("CloudIntegrated", "cloud-integrated")]
    {
        match tick(function).await {
            Invocation::Succeeded { logs, .. } => {
                assert_eq!(logs, [format!("{source} is off: SOURCES does not name it")]);
            }
            other => panic!("{other:?}"),
        }
    }
    let wrong = simulator.calls();
    assert_eq!(wrong.all_listings(), 0);
}

/// The rungs of `check`, with their verdicts.
async fn check(program: &Program, code: i32) -> Vec<Value> {
    let ended = program.run(&["check", "--json"]).await;
    ended.assert_code(code);
    ended.json()["rungs"].as_array().unwrap().clone()
}

#[track_caller]
fn rung<'a>(rungs: &'a [Value], name: &str) -> (&'a str, &'a str, &'a str) {
    let rung = rungs.iter().find(|rung| rung["rung"] == name);
    let rung = rung.unwrap_or_else(|| panic!("no {name}: {rungs:#?}"));
    let text = |key: &str| rung[key].as_str().unwrap_or_default();
    (text("verdict"), text("answer"), text("fix"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_says_which_api_is_in_use_and_that_all_can_be_read() {
    let simulator = tenant().await;
    simulator.graph(|graph| {
        graph.roles.insert("Application.Read.All".to_owned());
        graph.granted = vec![("Microsoft Graph", "df021288-bdef-4463-88db-98f22de89214")];
    });
    let program = without_mimecast(program(&simulator, SOURCES));
    let rungs = check(&program, 0).await;
    let (verdict, answer, _) = rung(&rungs, "graph/token");
    assert_eq!(verdict, "ok");
    for words in ["the API in use is https://graph.microsoft.com", simulator.tenant_id()] {
        assert!(answer.contains(words), "{answer}");
    }
    for name in [
        "graph/rights/entra-risk",
        "graph/rights/directory",
        "graph/read/risk-detections",
        "graph/read/risky-users",
        "graph/read/users",
        "graph/read/groups",
        "graph/excess",
        "graph/azure-ad-graph",
        "schedule/entra-risk",
        "schedule/directory",
        "azure/stream/Custom-DirectoryUsers",
        "azure/stream/Custom-EntraRiskDetections",
    ] {
        assert_eq!(rung(&rungs, name).0, "ok", "{name}: {rungs:#?}");
    }
    assert!(rungs.iter().all(|rung| !rung["rung"].as_str().unwrap().contains("mimecast")));
    assert_eq!(landed(&simulator), [0; 5], "nothing lands");
    assert_eq!(simulator.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_with_the_command_that_grants_it_and_nothing_more() {
    let simulator = tenant().await;
    simulator.graph(|graph| graph.roles.remove("IdentityRiskyUser.Read.All"));
    let rungs = check(&program(&simulator, SOURCES), 1).await;
    let (verdict, answer, fix) = rung(&rungs, "graph/rights/entra-risk");
    assert_eq!((verdict, answer), ("fail", "it lacks IdentityRiskyUser.Read.All"));
    assert!(fix.contains("dc5007c0-2d7d-4c42-879c-2dab87571379"), "{fix}");
    assert!(fix.contains("az rest") && fix.contains(simulator.client_id()), "{fix}");
    assert!(!fix.contains("6e472fd1"), "it grants what is there already: {fix}");
    assert_eq!(rung(&rungs, "graph/read/risky-users").0, "fail");
    assert_eq!(rung(&rungs, "graph/read/risk-detections").0, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_granted_and_is_not_in_the_token_yet_is_told_from_what_was_not() {
    let simulator = tenant().await;
    simulator.graph(|graph| {
        graph.roles.remove("IdentityRiskyUser.Read.All");
        graph.roles.insert("Application.Read.All".to_owned());
        graph.granted = vec![("Microsoft Graph", "dc5007c0-2d7d-4c42-879c-2dab87571379")];
    });
    let rungs = check(&program(&simulator, SOURCES), 1).await;
    let (verdict, answer, fix) = rung(&rungs, "graph/rights/entra-risk");
    assert_eq!(verdict, "fail");
    assert!(answer.contains("was granted and is not in it yet"), "{answer}");
    assert!(fix.contains("wait"), "{fix}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_licence_is_told_from_a_missing_right() {
    let simulator = tenant().await;
    simulator.graph(|graph| {
        graph.plans.clear();
        graph.roles.insert("LicenseAssignment.Read.All".to_owned());
    });
    let rungs = check(&program(&simulator, "entra-risk"), 1).await;
    assert_eq!(rung(&rungs, "graph/rights/entra-risk").0, "ok");
    let (verdict, answer, _) = rung(&rungs, "graph/read/risky-users");
    assert_eq!(verdict, "fail");
    assert!(answer.contains("no licence with Entra ID P2"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_too_many_and_those_of_azure_ad_graph_are_a_warning() {
    let simulator = tenant().await;
    simulator.graph(|graph| {
        graph.roles.extend(["Mail.ReadWrite", "Application.Read.All"].map(str::to_owned));
        graph.granted =
            vec![("Windows Azure Active Directory", "5778995a-e1bf-45b8-affa-663a9f3f4d04")];
    });
    let rungs = check(&program(&simulator, "directory"), 0).await;
    let (verdict, answer, _) = rung(&rungs, "graph/excess");
    assert_eq!(verdict, "warn");
    // Those of the source that is off are too many as well.
    assert_eq!(answer, "IdentityRiskEvent.Read.All, IdentityRiskyUser.Read.All, Mail.ReadWrite");
    let (verdict, answer, _) = rung(&rungs, "graph/azure-ad-graph");
    assert_eq!(verdict, "warn");
    assert!(answer.contains("1 rights of Azure AD Graph"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_no_verdict() {
    for fault in [Fault::Unavailable, Fault::TooManyRequests(None)] {
        let simulator = tenant().await;
        let plan = FaultPlan::none().times(usize::MAX, Endpoint::Graph, fault);
        simulator.plan(plan);
        let rungs = check(&program(&simulator, "directory"), 0).await;
        assert_eq!(rung(&rungs, "graph/read/users").0, "inconclusive", "{rungs:#?}");
        assert_eq!(rung(&rungs, "graph/rights/directory").0, "ok");
    }
}

/// A secret that is the id of one is the usual mistake.
#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_secret_is_not_taken_for_it() {
    let simulator = tenant().await;
    let program = program(&simulator, "directory")
        .set("ENTRA_TENANT_ID", simulator.tenant_id())
        .set("ENTRA_CLIENT_ID", simulator.client_id())
        .set("ENTRA_CLIENT_SECRET", "6a5874ca-1234-4b1c-9d82-5ad39bd71600");
    let rungs = check(&program, 2).await;
    let fault = rungs.iter().find(|rung| rung["verdict"] == "fail").unwrap();
    assert!(fault["tried"].as_str().unwrap().contains("ENTRA_CLIENT_SECRET"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wrong_setting_does_not_concern_is_tested_and_no_source_that_is_off() {
    let simulator = tenant().await;
    let program = without_mimecast(program(&simulator, "directory"));
    let half = program.set("ENTRA_TENANT_ID", simulator.tenant_id());
    let rungs = check(&half, 2).await;
    assert_eq!(rung(&rungs, "graph").0, "skipped");
    assert_eq!(rung(&rungs, "azure/stream/Custom-DirectoryUsers").0, "ok");
    let no_rule = half.unset("ENTRA_TENANT_ID").unset("LOGS_INGESTION_RULE_ID");
    let rungs = check(&no_rule, 2).await;
    assert_eq!(rung(&rungs, "graph/read/users").0, "ok");
    let names = rungs.iter().map(|rung| rung["rung"].as_str().unwrap());
    let others: Vec<_> =
        names.filter(|name| name.contains("mimecast") || name.contains("Cloud_")).collect();
    assert_eq!(others, Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_that_are_ids_are_told_at_once() {
    let simulator = tenant().await;
    let id = "6a5874ca-1234-4b1c-9d82-5ad39bd71600";
    let program = without_mimecast(program(&simulator, "directory"))
        .set("AZURE_TENANT_ID", simulator.tenant_id())
        .set("AZURE_CLIENT_ID", simulator.client_id())
        .set("AZURE_CLIENT_SECRET", id);
    let told = async |program: &Program| -> Vec<String> {
        let rungs = check(program, 2).await;
        let fails = rungs.iter().filter(|rung| rung["verdict"] == "fail");
        fails.map(|rung| rung["tried"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(told(&program).await, ["AZURE_CLIENT_SECRET"]);
    let both = program
        .set("ENTRA_TENANT_ID", simulator.tenant_id())
        .set("ENTRA_CLIENT_ID", simulator.client_id())
        .set("ENTRA_CLIENT_SECRET", id);
    assert_eq!(told(&both).await, ["AZURE_CLIENT_SECRET", "ENTRA_CLIENT_SECRET"]);
}
