//! Risk of identities: each state of each detection once, whenever it becomes visible.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use mimecast_sentinel::pipeline::{Connector, Policy, RunSummary, checkpoint_name};
use mimecast_sentinel::simulator::{Endpoint, Fault, FaultPlan, SimulatorOptions, World};
use mimecast_sentinel::sources::graph::{Options, RiskSource, RiskStart};
use mimecast_sentinel::store::Store as _;
use mimecast_sentinel::table::{RISK_DETECTIONS, RISKY_USERS};
use serde_json::{Value, json};

use crate::support::doubles::MemoryStore;
use crate::support::houses::HandClock;
use crate::support::rig::{Rig, run};
use crate::support::scenario::{assert_done, code};

struct Protection {
    rig: Rig,
    /// A process that is killed in the middle of a write to a folder would write on, since it is this one.
    store: MemoryStore,
    clock: HandClock,
    start: RiskStart,
    every: Duration,
}

impl Protection {
    async fn new() -> Self {
        let clock = HandClock::new();
        let tables = vec![&RISK_DETECTIONS, &RISKY_USERS];
        let options =
            SimulatorOptions { clock: clock.clock(), tables, ..SimulatorOptions::default() };
        let rig = Rig::with(World::default(), FaultPlan::none(), options).await;
        rig.simulator.graph(|graph| graph.risk_every = Duration::ZERO);
        Self {
            rig,
            store: MemoryStore::default(),
            clock,
            start: RiskStart::FromNow,
            every: Duration::ZERO,
        }
    }

    fn connector(&self) -> Connector {
        let options = Options { every: self.every, ..self.rig.graph() };
        let source = RiskSource::new(options, self.start);
        let connector = self.rig.connector_on(Arc::new(self.store.clone()));
        // Graph says itself when there is no more.
        let policy = Policy { empty_pages: u32::MAX, ..connector.policy };
        Connector { source: Arc::new(source), policy, ..connector }
    }

    /// A run, a quarter of an hour after the one before.
    async fn pull(&self) -> RunSummary {
        self.clock.go_on(TimeDelta::minutes(15));
        run(&self.connector()).await
    }

    async fn pulls(&self) {
        assert_done(&self.pull().await);
    }

    /// A detection of now, `ago` it was detected and changed.
    fn detect(&self, id: &str, detected_ago: TimeDelta, changed_ago: TimeDelta, state: &str) {
        let now = self.clock.now();
        let detection = json!({
            "id": id, "riskState": state, "riskLevel": "medium", "riskEventType": "unfamiliarFeatures",
            "activityDateTime": text(now - detected_ago - TimeDelta::hours(40)),
            "detectedDateTime": text(now - detected_ago), "lastUpdatedDateTime": text(now - changed_ago),
            "userId": "ada", "tokenIssuerType": "Azure Active Directory",
        });
        self.rig.simulator.graph(|graph| graph.put_detection(detection));
    }

    /// The detections that landed, each with its state.
    fn detections(&self) -> Vec<(String, String)> {
        let rows = self.rig.simulator.landed_in(&RISK_DETECTIONS);
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        rows.iter().map(|row| (text(row, "DetectionId"), text(row, "RiskState"))).collect()
    }
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn states(states: &[(&str, &str)]) -> Vec<(String, String)> {
    states.iter().map(|(id, state)| ((*id).to_owned(), (*state).to_owned())).collect()
}

const NOW: TimeDelta = TimeDelta::zero();

#[tokio::test]
async fn each_state_of_a_detection_is_sent_once() {
    let protection = Protection::new().await;
    protection.pulls().await;
    protection.detect("a", NOW, NOW, "atRisk");
    for _ in 0..3 {
        protection.pulls().await;
    }
    assert_eq!(protection.detections(), states(&[("a", "atRisk")]));
    protection.detect("a", TimeDelta::minutes(45), NOW, "dismissed");
    protection.detect("b", NOW, NOW, "atRisk");
    for _ in 0..3 {
        protection.pulls().await;
    }
    let mut expected = states(&[("a", "atRisk"), ("a", "dismissed"), ("b", "atRisk")]);
    let mut landed = protection.detections();
    landed.sort();
    expected.sort();
    assert_eq!(landed, expected);
    protection.rig.assert_no_violations();
}

#[tokio::test]
async fn only_what_is_detected_from_the_integration_on_is_sent() {
    let protection = Protection::new().await;
    protection.detect("old", TimeDelta::days(3), TimeDelta::days(3), "atRisk");
    protection.pulls().await;
    // It changes now, and is still older than the integration.
    protection.detect("old", TimeDelta::days(3), NOW, "dismissed");
    protection.detect("new", NOW, NOW, "atRisk");
    protection.pulls().await;
    assert_eq!(protection.detections(), states(&[("new", "atRisk")]));
}

#[tokio::test]
async fn a_start_date_reads_back() {
    let mut protection = Protection::new().await;
    protection.start = RiskStart::Day((protection.clock.now() - TimeDelta::days(10)).date_naive());
    protection.detect("older", TimeDelta::days(12), TimeDelta::days(12), "atRisk");
    protection.detect("old", TimeDelta::days(9), TimeDelta::days(3), "dismissed");
    protection.pulls().await;
    assert_eq!(protection.detections(), states(&[("old", "dismissed")]));
}

/// Offline detections come up to 48 hours after what they rate, and nobody knows how late a change can
/// become visible.
#[tokio::test]
async fn what_becomes_visible_47_hours_late_is_sent() {
    let protection = Protection::new().await;
    protection.pulls().await;
    for hour in 1..=50 {
        protection.clock.go_on(TimeDelta::minutes(45));
        protection.detect(&format!("on time {hour}"), NOW, NOW, "atRisk");
        protection.pulls().await;
    }
    protection.detect("late", TimeDelta::hours(47), TimeDelta::hours(47), "atRisk");
    let landed = |id: &str| protection.detections().iter().filter(|(one, _)| one == id).count();
    for _ in 0..30 {
        protection.clock.go_on(TimeDelta::minutes(45));
        protection.pulls().await;
    }
    assert_eq!(landed("late"), 1);
    assert_eq!(protection.detections().len(), 51, "each once");
}

#[tokio::test]
async fn any_page_size_order_repeat_or_fault_gives_the_same_rows() {
    let mut all = Vec::new();
    for seed in 0..8 {
        let protection = Protection::new().await;
        protection.pulls().await;
        protection.rig.simulator.graph(|graph| (graph.page, graph.seed) = (4, Some(seed)));
        protection.clock.go_on(TimeDelta::minutes(1));
        for number in 0..30 {
            let ago = TimeDelta::seconds(number);
            protection.detect(&format!("d{number:02}"), ago, ago, "atRisk");
        }
        let plan = FaultPlan::seeded(seed, if seed < 4 { 0 } else { 200 });
        protection.rig.simulator.plan(plan);
        for _ in 0..4 {
            protection.pull().await;
        }
        protection.rig.simulator.plan(FaultPlan::none());
        protection.pulls().await;
        let landed: BTreeSet<_> = protection.detections().into_iter().collect();
        if seed < 4 {
            assert_eq!(protection.detections().len(), 30, "seed {seed}: each once without faults");
        }
        all.push(landed);
        protection.rig.assert_no_violations();
    }
    assert_eq!(all[0].len(), 30);
    assert!(all.iter().all(|landed| *landed == all[0]));
}

#[tokio::test]
async fn a_process_that_is_killed_at_any_request_loses_nothing() {
    for request in 1..24 {
        let protection = Protection::new().await;
        protection.pulls().await;
        protection.rig.simulator.graph(|graph| graph.page = 3);
        protection.clock.go_on(TimeDelta::minutes(1));
        for number in 0..12 {
            protection.detect(&format!("d{number:02}"), NOW, NOW, "atRisk");
        }
        protection.rig.kill_at(request, protection.pull()).await;
        protection.rig.simulator.plan(FaultPlan::none());
        protection.pulls().await;
        let landed: BTreeSet<_> = protection.detections().into_iter().collect();
        assert_eq!(landed.len(), 12, "killed at request {request}");
        protection.rig.assert_no_violations();
    }
}

#[tokio::test]
async fn a_time_far_ahead_hides_nothing() {
    let protection = Protection::new().await;
    protection.pulls().await;
    protection.detect("ahead", NOW, TimeDelta::days(-400), "atRisk");
    protection.pulls().await;
    protection.detect("next", NOW, NOW, "atRisk");
    protection.pulls().await;
    assert_eq!(protection.detections(), states(&[("ahead", "atRisk"), ("next", "atRisk")]));
}

#[tokio::test]
async fn risky_users_begin_with_a_baseline_of_all() {
    let protection = Protection::new().await;
    let user = |id: &str, state: &str, ago| {
        let time = text(protection.clock.now() - ago);
        let user = json!({"id": id, "riskState": state, "riskLastUpdatedDateTime": time, "isDeleted": false});
        protection.rig.simulator.graph(|graph| graph.put_risky_user(user));
    };
    user("ada", "atRisk", TimeDelta::days(400));
    user("bob", "atRisk", NOW);
    protection.pulls().await;
    protection.pulls().await;
    user("ada", "dismissed", NOW);
    protection.pulls().await;
    protection.clock.go_on(TimeDelta::days(1));
    protection.pulls().await;
    let rows = protection.rig.simulator.landed_in(&RISKY_USERS);
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = rows.iter().map(|row| {
        format!("{} {} {}", text(row, "RowKind"), text(row, "UserId"), text(row, "RiskState"))
    });
    let expected = ["Baseline ada atRisk", "Baseline bob atRisk", "RiskyUser ada dismissed"];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
}

/// The year 1 stands for no time; two hours before it is nothing that Graph could be asked for.
#[tokio::test]
async fn a_risky_user_without_a_time_of_change_holds_up_nothing() {
    let protection = Protection::new().await;
    let user = |id: &str, time: &str| {
        let user = json!({"id": id, "riskState": "atRisk", "riskLastUpdatedDateTime": time});
        protection.rig.simulator.graph(|graph| graph.put_risky_user(user));
    };
    user("ada", "0001-01-01T00:00:00Z");
    protection.pulls().await;
    user("bob", &text(protection.clock.now()));
    protection.pulls().await;
    protection.clock.go_on(TimeDelta::days(1));
    protection.pulls().await;
    let rows = protection.rig.simulator.landed_in(&RISKY_USERS);
    assert_eq!(rows.iter().map(|row| &row["UserId"]).collect::<Vec<_>>(), ["ada", "bob"]);
    let asked = protection.rig.simulator.violations();
    assert_eq!(asked, Vec::<String>::new());
}

/// How long is waited, `src/sources/graph/pace.rs` tests.
#[tokio::test]
async fn the_limit_of_the_tenant_is_waited_out_whoever_used_it_up() {
    let mut protection = Protection::new().await;
    protection.every = Duration::from_millis(20);
    protection.rig.simulator.graph(|graph| {
        (graph.risk_every, graph.page) = (Duration::from_millis(10), 5);
    });
    for number in 0..20 {
        protection.detect(&format!("d{number}"), NOW, NOW, "atRisk");
    }
    let other_programs = FaultPlan::none().once(Endpoint::Graph, Fault::TooManyRequests(None));
    protection.rig.simulator.plan(other_programs);
    protection.clock.go_on(TimeDelta::minutes(-15));
    protection.pulls().await;
    assert_eq!(protection.detections().len(), 20);
    protection.rig.assert_no_violations();
}

#[tokio::test]
async fn consent_and_licence_are_told_apart_by_what_is_there() {
    let cases = [
        (true, true, true, "graph-refused", "though the right and Entra ID P2"),
        (true, false, true, "graph-licence", "has no licence with Entra ID P2"),
        (true, false, false, "graph-licence", "could not be seen"),
        (false, true, true, "graph-consent", "no right IdentityRiskEvent.Read.All"),
        (false, false, false, "graph-consent", "no right IdentityRiskEvent.Read.All"),
    ];
    for (right, plan, sees_licences, expected, words) in cases {
        let protection = Protection::new().await;
        protection.rig.simulator.graph(|graph| {
            if !right {
                graph.roles.remove("IdentityRiskEvent.Read.All");
            }
            if !plan {
                graph.plans.clear();
            }
            if sees_licences {
                graph.roles.insert("LicenseAssignment.Read.All".to_owned());
            }
        });
        if right && plan {
            let forbidden =
                FaultPlan::none().matching("riskDetections", 1, Endpoint::Graph, Fault::Forbidden);
            protection.rig.simulator.plan(forbidden);
        }
        let run = protection.pull().await;
        let stream = run.streams.iter().find(|s| s.stream == "risk-detections").unwrap();
        assert_eq!(code(stream), expected, "{stream:#?}");
        let error = stream.error.as_ref().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// A page that was read in part is read again, on the next day in a look that goes further back.
#[tokio::test]
async fn a_page_that_is_half_delivered_at_midnight_is_delivered_whole_and_nothing_is_called_missing()
 {
    let protection = Protection::new().await;
    protection.clock.go_on(TimeDelta::hours(14));
    protection.pulls().await;
    for number in 0..60 {
        let now = text(protection.clock.now());
        let detection = json!({
            "id": format!("d{number:02}"), "detectedDateTime": now, "lastUpdatedDateTime": now,
            "additionalInfo": json!([{"Key": "userAgent", "Value": "x".repeat(50_000)}]).to_string(),
        });
        protection.rig.simulator.graph(|graph| graph.put_detection(detection));
    }
    let fails = FaultPlan::none().once(Endpoint::Post, Fault::Nothing).times(
        usize::MAX,
        Endpoint::Post,
        Fault::Unavailable,
    );
    protection.rig.simulator.plan(fails);
    protection.pull().await;
    let landed = protection.detections().len();
    assert!(landed > 0 && landed < 60, "{landed}");
    protection.rig.simulator.plan(FaultPlan::none());
    protection.clock.go_on(TimeDelta::hours(1));
    protection.pulls().await;
    let landed: BTreeSet<_> = protection.detections().into_iter().collect();
    assert_eq!(landed.len(), 60);
    assert_eq!(protection.store.quarantined(), Vec::<Value>::new());
}

/// In which words Graph refuses a link of another day, nobody says.
#[tokio::test]
async fn a_look_whose_link_is_refused_begins_again() {
    let protection = Protection::new().await;
    protection.pulls().await;
    protection.rig.simulator.graph(|graph| graph.page = 2);
    protection.clock.go_on(TimeDelta::minutes(1));
    for id in ["a", "b", "c", "d", "e"] {
        protection.detect(id, NOW, NOW, "atRisk");
    }
    let fails =
        FaultPlan::none().matching("skiptoken", usize::MAX, Endpoint::Graph, Fault::Unavailable);
    protection.rig.simulator.plan(fails);
    protection.pull().await;
    let (code, message) = ("BadRequest".to_owned(), "Invalid skip token.".to_owned());
    let refused = Fault::BadRequest { code, message };
    let fails = FaultPlan::none().matching("skiptoken", 1, Endpoint::Graph, refused);
    protection.rig.simulator.plan(fails);
    protection.pulls().await;
    assert_eq!(protection.detections().len(), 5, "each once");
}

#[tokio::test]
async fn a_detection_that_cannot_be_read_holds_up_no_other_and_is_kept_once() {
    let protection = Protection::new().await;
    protection.pulls().await;
    let now = text(protection.clock.now());
    let reply = format!(
        r#"{{"value": [{{"id": "bad", "userDisplayName": "Bob \ud83d"}},
        {{"id": "good", "riskState": "atRisk", "detectedDateTime": "{now}", "lastUpdatedDateTime": "{now}"}}]}}"#
    );
    let says = Fault::Says(200, reply.into_bytes());
    let plan = FaultPlan::none().matching("riskDetections", 2, Endpoint::Graph, says);
    protection.rig.simulator.plan(plan);
    protection.pull().await;
    protection.pull().await;
    let mut landed = protection.detections();
    landed.sort();
    assert_eq!(landed, states(&[("bad", ""), ("good", "atRisk")]));
    assert_eq!(protection.store.quarantined().len(), 1);
}

/// `generic` and `hidden` are what a detection is called that the licence does not show.
#[tokio::test]
async fn values_that_nobody_knows_yet_are_kept_as_they_are() {
    let protection = Protection::new().await;
    protection.pulls().await;
    let now = text(protection.clock.now());
    for (id, kind, level, additional) in [
        ("new", "aKindOfTomorrow", "extreme", r#"[{"Key":"alertUrl","Value":null}]"#),
        ("hidden", "generic", "hidden", "not JSON: ["),
    ] {
        let detection = json!({
            "id": id, "riskEventType": kind, "riskLevel": level, "riskState": "aStateOfTomorrow",
            "detectedDateTime": now, "lastUpdatedDateTime": now, "additionalInfo": additional,
        });
        protection.rig.simulator.graph(|graph| graph.put_detection(detection));
    }
    protection.pulls().await;
    let mut rows = protection.rig.simulator.landed_in(&RISK_DETECTIONS);
    rows.sort_by_key(|row| row["DetectionId"].to_string());
    let seen = rows.iter().map(|row| {
        ["DetectionId", "RiskEventType", "RiskLevel", "RiskState", "LicenceLimited"]
            .map(|name| &row[name])
    });
    let limited = json!(true);
    let expected = [
        [
            &json!("hidden"),
            &json!("generic"),
            &json!("hidden"),
            &json!("aStateOfTomorrow"),
            &limited,
        ],
        [
            &json!("new"),
            &json!("aKindOfTomorrow"),
            &json!("extreme"),
            &json!("aStateOfTomorrow"),
            &json!(false),
        ],
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    assert_eq!(protection.store.quarantined(), Vec::<Value>::new());
}

/// With Entra ID P1 there are detections, and no risky users.
#[tokio::test]
async fn a_licence_for_one_stream_is_enough_for_that_one() {
    let protection = Protection::new().await;
    protection.rig.simulator.graph(|graph| {
        graph.plans = BTreeSet::from(["41781fb2-bc02-4b7c-bd55-b576c07bb09d".to_owned()]);
        graph.roles.insert("LicenseAssignment.Read.All".to_owned());
    });
    protection.pull().await;
    protection.detect("a", NOW, NOW, "atRisk");
    let run = protection.pull().await;
    assert_eq!(protection.detections(), states(&[("a", "atRisk")]));
    let users = run.streams.iter().find(|stream| stream.stream == "risky-users").unwrap();
    assert_eq!(code(users), "graph-licence");
}

/// A checkpoint is a file that somebody else could have written.
#[tokio::test]
async fn a_link_to_another_host_is_refused_also_in_a_checkpoint() {
    let protection = Protection::new().await;
    protection.pulls().await;
    protection.rig.simulator.graph(|graph| graph.page = 1);
    protection.clock.go_on(TimeDelta::minutes(1));
    protection.detect("a", NOW, NOW, "atRisk");
    protection.detect("b", NOW, NOW, "atRisk");
    let elsewhere =
        "https://graph.example.net/v1.0/identityProtection/riskDetections?$skiptoken=secret";
    let reply = json!({"value": [], "@odata.nextLink": elsewhere}).to_string();
    let says = Fault::Says(200, reply.into_bytes());
    let plan = FaultPlan::none().matching("riskDetections", 1, Endpoint::Graph, says);
    protection.rig.simulator.plan(plan);
    let refused = |run: &RunSummary| {
        let stream = run.streams.iter().find(|stream| stream.stream == "risk-detections").unwrap();
        assert_eq!(code(stream), "graph-link");
        let error = stream.error.as_ref().unwrap().to_string();
        assert!(error.contains("graph.example.net") && !error.contains("secret"), "{error}");
    };
    refused(&protection.pull().await);

    let fails =
        FaultPlan::none().matching("skiptoken", usize::MAX, Endpoint::Graph, Fault::Unavailable);
    protection.rig.simulator.plan(fails);
    protection.pull().await;
    protection.rig.simulator.plan(FaultPlan::none());
    let name = checkpoint_name("risk-detections");
    let text = protection.store.read(&name).await.unwrap().unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let link = |host: &str| format!("{host}/v1.0/identityProtection/riskDetections");
    let moved =
        text.replace(&link(protection.rig.simulator.url()), &link("https://graph.example.net"));
    assert_ne!(moved, text);
    protection.store.write(&name, moved.into()).await.unwrap();
    refused(&protection.pull().await);
    assert_eq!(protection.detections(), states(&[("a", "atRisk")]));
}
