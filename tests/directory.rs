//! The directory: whatever happens, what its rows say in the end is what the directory is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::TimeDelta;
use mimecast_sentinel::pipeline::{Connector, Policy, RunSummary};
use mimecast_sentinel::simulator::{Endpoint, Fault, FaultPlan, SimulatorOptions, World};
use mimecast_sentinel::sources::graph::DirectorySource;
use mimecast_sentinel::table::{GROUP_MEMBERS, GROUPS, Table, USERS};
use serde_json::{Value, json};

use crate::support::doubles::MemoryStore;
use crate::support::houses::HandClock;
use crate::support::rig::{Rig, run};
use crate::support::scenario::{assert_done, code};

struct Directory {
    rig: Rig,
    /// A process that is killed in the middle of a write to a folder would write on, since it is this one.
    store: MemoryStore,
    clock: HandClock,
    round: TimeDelta,
}

impl Directory {
    async fn new(faults: FaultPlan) -> Self {
        let clock = HandClock::new();
        let tables = vec![&USERS, &GROUPS, &GROUP_MEMBERS];
        let options =
            SimulatorOptions { clock: clock.clock(), tables, ..SimulatorOptions::default() };
        let rig = Rig::with(World::default(), faults, options).await;
        Self { rig, store: MemoryStore::default(), clock, round: TimeDelta::days(7) }
    }

    /// A connector of a new process.
    fn connector(&self) -> Connector {
        let source = DirectorySource::new(self.rig.graph(), self.round);
        let connector = self.rig.connector_on(Arc::new(self.store.clone()));
        // Graph says itself when there is no more.
        let policy = Policy { empty_pages: u32::MAX, ..connector.policy };
        Connector { source: Arc::new(source), policy, ..connector }
    }

    /// A run, an hour after the one before.
    async fn pull(&self) -> RunSummary {
        self.clock.go_on(TimeDelta::hours(1));
        run(&self.connector()).await
    }

    async fn pulls(&self) -> RunSummary {
        let summary = self.pull().await;
        assert_done(&summary);
        summary
    }

    fn rows(&self, table: &Table) -> Vec<Value> {
        self.rig.simulator.landed_in(table)
    }

    /// What the rows say, as the functions in KQL read them, is what the directory is.
    fn assert_is_the_truth(&self, when: &str) {
        let (users, groups, members) = self.rig.simulator.graph(|graph| {
            let users: BTreeSet<String> = graph.users().keys().cloned().collect();
            let names: BTreeMap<String, Value> = graph
                .users()
                .iter()
                .map(|(id, user)| (id.clone(), user["displayName"].clone()))
                .collect();
            (
                (users, names),
                graph.groups().keys().cloned().collect::<BTreeSet<_>>(),
                graph.members(),
            )
        });
        let rows = self.rows(&USERS);
        let read = latest(&rows, "UserId");
        assert_eq!(read.keys().cloned().collect::<BTreeSet<_>>(), users.0, "{when}: users");
        for (id, row) in &read {
            assert_eq!(row["DisplayName"], users.1[id], "{when}: user {id}");
        }
        let rows = self.rows(&GROUPS);
        let read = latest(&rows, "GroupId");
        assert_eq!(read.into_keys().collect::<BTreeSet<_>>(), groups, "{when}: groups");
        assert_eq!(edges(&self.rows(&GROUP_MEMBERS)), members, "{when}: members");
    }
}

/// The rows of the newest round that is there as a whole.
fn newest_round(rows: &[Value]) -> Vec<&Value> {
    let complete = rows.iter().filter(|row| row["RowKind"] == "RoundComplete");
    let is_whole = |end: &&Value| {
        let before = |row: &&Value| {
            row["Round"] == end["Round"]
                && row["RowKind"] != "RoundComplete"
                && row["ObservedDateTime"].as_str() <= end["ObservedDateTime"].as_str()
        };
        rows.iter().filter(before).count() as u64 >= end["RowCount"].as_u64().unwrap()
    };
    let newest = complete.filter(is_whole).max_by_key(|row| row["Round"].as_str().unwrap());
    let Some(newest) = newest else { return Vec::new() };
    rows.iter().filter(|row| row["Round"] == newest["Round"]).collect()
}

/// The newest row of each object that is not gone.
fn latest<'a>(rows: &'a [Value], id: &str) -> BTreeMap<String, &'a Value> {
    let mut latest: BTreeMap<String, &Value> = BTreeMap::new();
    for row in newest_round(rows) {
        let Some(id) = row[id].as_str() else { continue };
        let is_newer =
            |other: &Value| row["ObservedDateTime"].as_str() >= other["ObservedDateTime"].as_str();
        if latest.get(id).is_none_or(|other| is_newer(other)) {
            latest.insert(id.to_owned(), row);
        }
    }
    latest.retain(|_, row| row["RowKind"] != "Removed");
    latest
}

/// Who is in which group.
fn edges(rows: &[Value]) -> BTreeSet<(String, String)> {
    let mut latest: BTreeMap<(String, String), &Value> = BTreeMap::new();
    let mut gone: BTreeMap<&str, &str> = BTreeMap::new();
    let text = |row: &'_ Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    for row in newest_round(rows) {
        let observed = row["ObservedDateTime"].as_str().unwrap();
        match row["RowKind"].as_str().unwrap() {
            "GroupRemoved" => {
                let at = gone.entry(row["GroupId"].as_str().unwrap()).or_default();
                *at = observed.max(*at);
            }
            "Member" | "Removed" => {
                let edge = (text(row, "GroupId"), text(row, "MemberId"));
                if latest
                    .get(&edge)
                    .is_none_or(|other| observed >= other["ObservedDateTime"].as_str().unwrap())
                {
                    latest.insert(edge, row);
                }
            }
            _ => {}
        }
    }
    latest.retain(|(group, _), row| {
        row["RowKind"] == "Member"
            && gone
                .get(&**group)
                .is_none_or(|gone| row["ObservedDateTime"].as_str().unwrap() > *gone)
    });
    latest.into_keys().collect()
}

/// Something happens in the directory.
fn happens(directory: &Directory, rng: &mut fastrand::Rng) {
    directory.rig.simulator.graph(|graph| {
        for _ in 0..rng.usize(1..12) {
            let user = format!("u{}", rng.u8(..25));
            // A group that is gone does not come back: one that is made again has another id.
            let groups: Vec<String> = graph.groups().keys().cloned().collect();
            let group = rng.choice(&groups).cloned().unwrap_or_default();
            let reason = if rng.bool() { "changed" } else { "deleted" };
            match rng.u8(..10) {
                0..4 => {
                    let address = format!("SMTP:{user}@contoso.example");
                    let name = format!("{user} {}", rng.u32(..));
                    graph
                        .put_user(&user, json!({"displayName": name, "proxyAddresses": [address]}));
                }
                4 => graph.remove_user(&user, reason),
                5 => graph.put_group(
                    &format!("g{}", rng.u32(..)),
                    json!({"displayName": "Staff", "mailEnabled": true}),
                ),
                6 => graph.remove_group(&group, reason),
                7..9 => graph.join(&group, &user, "user"),
                _ => graph.leave(&group, &user),
            }
        }
    });
}

#[tokio::test]
async fn what_the_rows_say_is_the_truth_whatever_happens_to_the_directory_and_the_runs() {
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let directory = Directory::new(FaultPlan::none()).await;
        directory.rig.simulator.graph(|graph| (graph.page, graph.seed) = (7, Some(seed)));
        for step in 0..10 {
            happens(&directory, &mut rng);
            match rng.u8(..6) {
                0 => directory.rig.simulator.graph(|graph| graph.expire_links()),
                1 => directory.clock.go_on(TimeDelta::days(8)),
                _ => {}
            }
            // Faults of all kinds; and a process that is killed at any request.
            directory.rig.simulator.plan(FaultPlan::seeded(seed * 100 + step, 80));
            if rng.bool() {
                directory.rig.kill_at(rng.u64(1..30), directory.pull()).await;
            } else {
                directory.pull().await;
            }
            happens(&directory, &mut rng);
            directory.rig.simulator.plan(FaultPlan::none());
            // The first may end a reading that an earlier one began, with what there was then.
            directory.pulls().await;
            directory.pulls().await;
            directory.assert_is_the_truth(&format!("seed {seed}, step {step}"));
        }
        assert_eq!(directory.store.quarantined(), Vec::<Value>::new(), "seed {seed}");
        directory.rig.assert_no_violations();
    }
}

#[tokio::test]
async fn a_process_that_is_killed_at_any_request_loses_nothing() {
    for request in 1..40 {
        let directory = Directory::new(FaultPlan::none()).await;
        directory.rig.simulator.graph(|graph| graph.page = 3);
        happens(&directory, &mut fastrand::Rng::with_seed(1));
        happens(&directory, &mut fastrand::Rng::with_seed(2));
        directory.rig.kill_at(request, directory.pull()).await;
        happens(&directory, &mut fastrand::Rng::with_seed(3));
        directory.rig.simulator.plan(FaultPlan::none());
        directory.pulls().await;
        directory.pulls().await;
        directory.assert_is_the_truth(&format!("killed at request {request}"));
        directory.rig.assert_no_violations();
    }
}

fn three_people(directory: &Directory) {
    directory.rig.simulator.graph(|graph| {
        for user in ["ada", "bob", "eve"] {
            graph.put_user(
                user,
                json!({"displayName": user, "mail": format!("{user}@contoso.example")}),
            );
        }
        graph.put_group("staff", json!({"displayName": "Staff"}));
        graph.join("staff", "ada", "user");
        graph.join("staff", "bob", "user");
    });
}

#[tokio::test]
async fn a_round_that_is_half_read_hides_nobody() {
    let directory = Directory::new(FaultPlan::none()).await;
    three_people(&directory);
    directory.pulls().await;
    directory.rig.simulator.graph(|graph| {
        graph.expire_links();
        graph.page = 1;
    });
    // The new round breaks off after its first pages.
    let fails =
        FaultPlan::none().matching("skiptoken", usize::MAX, Endpoint::Graph, Fault::Unavailable);
    directory.rig.simulator.plan(fails);
    directory.pull().await;
    assert!(directory.rows(&USERS).len() > 4, "it has begun");
    directory.assert_is_the_truth("half read");
    directory.rig.simulator.plan(FaultPlan::none());
    directory.rig.simulator.graph(|graph| graph.remove_user("eve", "deleted"));
    directory.pulls().await;
    directory.assert_is_the_truth("read to its end");
}

#[tokio::test]
async fn a_row_that_azure_refuses_is_counted_and_its_object_is_unknown_and_not_gone() {
    let poison = FaultPlan::none().poison(|row| row["DisplayName"] == "bob");
    let directory = Directory::new(poison).await;
    three_people(&directory);
    directory.pull().await;
    let rows = directory.rows(&USERS);
    let latest = latest(&rows, "UserId");
    assert_eq!(latest.keys().collect::<Vec<_>>(), ["ada", "bob", "eve"]);
    assert_eq!(latest["bob"]["RowKind"], "Quarantined");
    assert_eq!(directory.store.quarantined().len(), 1);
    let rounds = rows.iter().map(|row| row["Round"].as_str().unwrap()).collect::<BTreeSet<_>>();
    assert_eq!(rounds.len(), 1, "{rounds:?}");
}

#[tokio::test]
async fn nothing_that_is_not_new_is_sent_again_until_the_round_is_over() {
    let directory = Directory::new(FaultPlan::none()).await;
    three_people(&directory);
    let first = directory.pulls().await;
    // With the three rows that end the rounds.
    assert_eq!(first.total(|stream| stream.rows_delivered), 3 + 1 + 2 + 3);
    let before = directory.rig.simulator.calls();
    assert_eq!(directory.pulls().await.total(|stream| stream.rows_delivered), 0);
    let calls = directory.rig.simulator.calls();
    let asked = |calls: &mimecast_sentinel::simulator::Calls| calls.graph.values().sum::<u64>();
    assert_eq!(asked(&calls) - asked(&before), 3, "one request for each stream");
    directory.rig.simulator.graph(|graph| graph.leave("staff", "bob"));
    assert_eq!(directory.pulls().await.total(|stream| stream.rows_delivered), 1);
    directory.assert_is_the_truth("bob has left");

    directory.clock.go_on(TimeDelta::days(7));
    assert_eq!(directory.pulls().await.total(|stream| stream.rows_delivered), 3 + 1 + 1 + 3);
    directory.assert_is_the_truth("a week later");
    let rounds =
        directory.rows(&USERS).iter().map(|row| row["Round"].to_string()).collect::<BTreeSet<_>>();
    assert_eq!(rounds.len(), 2, "{rounds:?}");
}

#[tokio::test]
async fn a_link_to_another_host_is_refused_before_the_token_goes_there() {
    let reply = br#"{"value": [], "@odata.nextLink": "https://graph.example.net/v1.0/users/delta?$skiptoken=secret"}"#;
    let says = Fault::Says(200, reply.to_vec());
    let plan = FaultPlan::none().matching("users/delta", usize::MAX, Endpoint::Graph, says);
    let directory = Directory::new(plan).await;
    three_people(&directory);
    let run = directory.pull().await;
    let users = run.streams.iter().find(|stream| stream.stream == "users").unwrap();
    assert_eq!(code(users), "graph-link");
    let error = users.error.as_ref().unwrap().to_string();
    assert!(error.contains("graph.example.net") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_with_what_to_do() {
    let directory = Directory::new(FaultPlan::none()).await;
    three_people(&directory);
    directory.rig.simulator.graph(|graph| graph.roles.remove("GroupMember.Read.All"));
    let run = directory.pull().await;
    let codes: Vec<_> =
        run.streams.iter().map(|s| s.error.as_ref().map(|e| e.code.as_str())).collect();
    assert_eq!(codes, [None, Some("graph-consent"), Some("graph-consent")]);
    let error = run.streams[1].error.as_ref().unwrap().to_string();
    assert!(error.contains("GroupMember.Read.All"), "{error}");
}

/// Without a word it would ask for as long as the run may take, in every run.
#[tokio::test]
async fn a_page_that_names_itself_as_the_next_one_is_a_fault_and_not_read_on_and_on() {
    let directory = Directory::new(FaultPlan::none()).await;
    three_people(&directory);
    let link = format!("{}/v1.0/users/delta?$skiptoken=same", directory.rig.simulator.url());
    let reply = json!({"value": [], "@odata.nextLink": link}).to_string();
    let says = Fault::Says(200, reply.into_bytes());
    let plan = FaultPlan::none().matching("users/delta", 50, Endpoint::Graph, says);
    directory.rig.simulator.plan(plan);
    let run = directory.pull().await;
    let users = run.streams.iter().find(|stream| stream.stream == "users").unwrap();
    assert_eq!(code(users), "graph-link");
    let error = users.error.as_ref().unwrap().to_string();
    assert!(error.contains("the same one again") && !error.contains("skiptoken"), "{error}");
    let asked = directory.rig.simulator.calls().graph["users/delta"];
    assert_eq!(asked, 2);
}

/// Readers take the newest round.
#[tokio::test]
async fn a_round_is_newer_than_the_one_before_though_the_clock_went_back() {
    let directory = Directory::new(FaultPlan::none()).await;
    three_people(&directory);
    directory.pulls().await;
    directory.clock.go_on(TimeDelta::hours(-3));
    directory.rig.simulator.graph(|graph| {
        graph.expire_links();
        graph.remove_user("eve", "deleted");
        graph.leave("staff", "bob");
    });
    directory.pulls().await;
    directory.assert_is_the_truth("the clock went back");
}

/// A name that was cut in the middle of a character is one.
#[tokio::test]
async fn an_object_that_cannot_be_read_is_unknown_and_holds_up_no_other() {
    let directory = Directory::new(FaultPlan::none()).await;
    let url = directory.rig.simulator.url();
    let reply = format!(
        r#"{{"value": [{{"id": "ada", "displayName": "Ada"}}, {{"displayName": "Bob \ud83d",
        "id": "bob"}}], "@odata.deltaLink": "{url}/v1.0/users/delta?$deltatoken=0"}}"#
    );
    let says = Fault::Says(200, reply.into_bytes());
    let plan = FaultPlan::none().matching("users/delta", 1, Endpoint::Graph, says);
    directory.rig.simulator.plan(plan);
    directory.pull().await;
    let rows = directory.rows(&USERS);
    let latest = latest(&rows, "UserId");
    assert_eq!(latest.keys().collect::<Vec<_>>(), ["ada", "bob"]);
    assert_eq!(latest["bob"]["RowKind"], "Quarantined");
    let quarantined = directory.store.quarantined();
    assert_eq!(quarantined.len(), 1);
    assert_eq!(quarantined[0]["reason"], "lone-surrogate");
    assert!(
        quarantined[0]["original"].as_str().unwrap().contains(r"Bob \ud83d"),
        "{quarantined:?}"
    );
}

/// Graph may answer the same question with an empty page and a link to what it gave before.
#[tokio::test]
async fn a_half_delivered_page_that_comes_empty_is_not_called_missing() {
    let directory = Directory::new(FaultPlan::none()).await;
    let link = format!("{}/v1.0/users/delta?$", directory.rig.simulator.url());
    let says = |value: Value, kind: &str, token: &str| {
        let reply = json!({"value": value, kind: format!("{link}{token}=0")}).to_string();
        Fault::Says(200, reply.into_bytes())
    };
    let user = |number: u32| json!({"id": format!("u{number}"), "displayName": "x".repeat(50_000)});
    let all: Value = (0..60).map(user).collect();
    let first = says(all.clone(), "@odata.nextLink", "skiptoken");
    let fails = FaultPlan::none()
        .matching("users/delta?%24select", 1, Endpoint::Graph, first)
        .matching("DirectoryUsers", 1, Endpoint::Post, Fault::Nothing)
        .matching("DirectoryUsers", usize::MAX, Endpoint::Post, Fault::Unavailable);
    directory.rig.simulator.plan(fails);
    directory.pull().await;
    let landed = directory.rows(&USERS).len();
    assert!(landed > 0 && landed < 60, "{landed}");
    let again = FaultPlan::none()
        .matching(
            "users/delta?%24select",
            usize::MAX,
            Endpoint::Graph,
            says(json!([]), "@odata.nextLink", "skiptoken"),
        )
        .matching(
            "users/delta?$skiptoken",
            usize::MAX,
            Endpoint::Graph,
            says(all, "@odata.deltaLink", "deltatoken"),
        )
        .matching(
            "users/delta?$deltatoken",
            usize::MAX,
            Endpoint::Graph,
            says(json!([]), "@odata.deltaLink", "deltatoken"),
        );
    directory.rig.simulator.plan(again);
    let run = directory.pulls().await;
    assert!(run.streams.iter().all(|stream| stream.gap.is_none()), "{run:#?}");
    assert_eq!(latest(&directory.rows(&USERS), "UserId").len(), 60);
    assert_eq!(directory.store.quarantined(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_link_that_is_too_old_at_any_page_has_all_read_again() {
    let says = |status, error: Value| {
        Fault::Says(status, json!({ "error": error }).to_string().into_bytes())
    };
    let too_old = [
        says(410, json!(null)),
        says(410, json!({"code": "syncStateNotFound"})),
        says(400, json!({"code": "SyncStateNotFound", "message": "The delta token is expired."})),
        says(400, json!({"code": "resyncRequired"})),
        says(
            400,
            json!({"code": "BadRequest", "message": "Sync must reach steady state within 30 days."}),
        ),
    ];
    for (page, fault) in (0..8).flat_map(|page| too_old.iter().map(move |fault| (page, fault))) {
        let directory = Directory::new(FaultPlan::none()).await;
        directory.rig.simulator.graph(|graph| graph.page = 2);
        happens(&directory, &mut fastrand::Rng::with_seed(1));
        three_people(&directory);
        let plan = FaultPlan::none()
            .matching("token=", page, Endpoint::Graph, Fault::Nothing)
            .matching("token=", 1, Endpoint::Graph, fault.clone());
        directory.rig.simulator.plan(plan);
        directory.pulls().await;
        directory.pulls().await;
        directory.assert_is_the_truth(&format!("{fault:?} at page {page}"));
        assert_eq!(directory.store.quarantined(), Vec::<Value>::new());
    }
}

/// The oddities of Microsoft's own examples: an id of 35 characters, one group in two pages, a member that has left
/// before it was ever there, a user who is gone in the first reading, and the same object twice in a page.
#[tokio::test]
async fn replies_like_those_of_the_documents_are_read() {
    let directory = Directory::new(FaultPlan::none()).await;
    let base = directory.rig.simulator.url();
    let says = |value: Value, path: &str, kind: &str, token: &str| {
        let link = format!("{base}/v1.0/{path}?${token}=1");
        let context = "https://graph.microsoft.com/v1.0/$metadata#groups";
        let reply = json!({"@odata.context": context, "value": value, kind: link}).to_string();
        Fault::Says(200, reply.into_bytes())
    };
    let short = "632f6bb2-3ec8-4c1f-9073-0027a8c6859";
    let (gone, left) = (json!({"reason": "deleted"}), "c08a463b-7b8a-40a4-aa31-f9bf690b9551");
    let member = |id: &str| json!({"@odata.type": "#microsoft.graph.user", "id": id});
    let users = json!([
        {"displayName": "Cameron", "id": short}, {"displayName": "Cam", "id": short},
        {"id": "86462606", "@removed": gone},
    ]);
    let group =
        |members: Value| json!([{"displayName": "Large", "id": "g", "members@delta": members}]);
    let first = group(json!([member(short), {"id": left, "@removed": gone}, member("a")]));
    let second = group(json!([member("a"), member("b")]));
    let plan = FaultPlan::none()
        .matching(
            "users/delta",
            1,
            Endpoint::Graph,
            says(users, "users/delta", "@odata.deltaLink", "deltatoken"),
        )
        .matching(
            "id%2Cmembers",
            1,
            Endpoint::Graph,
            says(first, "groups/delta", "@odata.nextLink", "skiptoken"),
        )
        .matching(
            "groups/delta?$skiptoken",
            1,
            Endpoint::Graph,
            says(second, "groups/delta", "@odata.deltaLink", "deltatoken"),
        );
    directory.rig.simulator.plan(plan);
    // The links are not the simulator's own: what comes after them is not looked at.
    directory.pull().await;
    let rows = directory.rows(&USERS);
    let read = latest(&rows, "UserId");
    assert_eq!(read.keys().collect::<Vec<_>>(), [short]);
    let edges = edges(&directory.rows(&GROUP_MEMBERS));
    let members: Vec<_> = edges.iter().map(|(group, member)| (&**group, &**member)).collect();
    assert_eq!(members, [("g", short), ("g", "a"), ("g", "b")]);
}

/// Asked from the beginning again, Graph says nothing of who is gone since it was asked first.
#[tokio::test]
async fn who_is_gone_while_the_first_page_is_half_delivered_is_in_no_round() {
    let directory = Directory::new(FaultPlan::none()).await;
    directory.rig.simulator.graph(|graph| {
        for number in 0..60 {
            graph.put_user(&format!("u{number:02}"), json!({"displayName": "x".repeat(50_000)}));
        }
    });
    let fails = FaultPlan::none()
        .matching("DirectoryUsers", 1, Endpoint::Post, Fault::Nothing)
        .matching("DirectoryUsers", usize::MAX, Endpoint::Post, Fault::Unavailable);
    directory.rig.simulator.plan(fails);
    directory.pull().await;
    let landed = directory.rows(&USERS).len();
    assert!(landed > 0 && landed < 60, "{landed}");
    directory.rig.simulator.graph(|graph| graph.remove_user("u00", "deleted"));
    directory.rig.simulator.plan(FaultPlan::none());
    directory.pulls().await;
    directory.pulls().await;
    directory.assert_is_the_truth("u00 is gone");
}
