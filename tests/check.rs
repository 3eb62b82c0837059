//! `check`, by the real binary: on a set-up that is right, and on ones of which just one thing is not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, Page, Simulator, SimulatorOptions, World,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use url::Url;

use crate::support::azurite::{Azurite, sas};
use crate::support::program::{Ended, Program, STREAMS, assert_no_secret};
use crate::support::proxy::Proxy;
use crate::support::tls::{Certificates, TlsPort};

const ALWAYS: usize = usize::MAX;

/// A simulator with a file of today for each stream.
async fn simulator(plan: FaultPlan) -> Simulator {
    with_clock(plan, Clock::system()).await
}

async fn with_clock(plan: FaultPlan, clock: Clock) -> Simulator {
    let today = Clock::system().now().date_naive();
    let world = STREAMS.into_iter().fold(World::default(), |world, stream| {
        world.page(stream, Page::new(today).file(BatchFile::of_lines("a.json.gz", &["{}"])))
    });
    let options = SimulatorOptions { clock, ..SimulatorOptions::default() };
    Simulator::start(world, plan, options).await.unwrap()
}

async fn right() -> Simulator {
    simulator(FaultPlan::none()).await
}

fn always(endpoint: Endpoint, fault: Fault) -> FaultPlan {
    FaultPlan::none().times(ALWAYS, endpoint, fault)
}

fn says(status: u16, body: &Value) -> Fault {
    Fault::Says(status, body.to_string().into_bytes())
}

/// Runs `check --json`, and returns its rungs.
async fn check(program: &Program, code: i32) -> Vec<Value> {
    let ended = program.run(&["check", "--json"]).await;
    ended.assert_code(code);
    rungs(&ended)
}

fn rungs(ended: &Ended) -> Vec<Value> {
    let report = ended.json();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    report["rungs"].as_array().unwrap().clone()
}

fn with_verdict<'a>(rungs: &'a [Value], verdict: &str) -> Vec<&'a str> {
    let of_it = rungs.iter().filter(|rung| rung["verdict"] == verdict);
    of_it.map(|rung| rung["rung"].as_str().unwrap()).collect()
}

/// Fails unless just this rung fails, and its fix has these words.
#[track_caller]
fn assert_only(rungs: &[Value], name: &str, fix: &str) {
    let not_fine =
        rungs.iter().filter(|rung| rung["verdict"] != "ok" && rung["verdict"] != "skipped");
    let [rung] = not_fine.collect::<Vec<_>>()[..] else { panic!("{rungs:#?}") };
    assert_eq!((&rung["rung"], &rung["verdict"]), (&json!(name), &json!("fail")), "{rungs:#?}");
    assert!(rung["fix"].as_str().unwrap().contains(fix), "{rungs:#?}");
    assert!(!rung["tried"].as_str().unwrap().is_empty(), "{rungs:#?}");
    assert!(!rung["answer"].as_str().unwrap().is_empty(), "{rungs:#?}");
}

/// Everything below a folder.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    let mut found = BTreeSet::new();
    for entry in entries {
        let path = entry.unwrap().path();
        found.extend(files(&path));
        found.insert(path);
    }
    found
}

/// A program that posts as an application, whose Entra is the simulator over TLS.
struct Application {
    certificates: Certificates,
    entra: TlsPort,
    _folder: TempDir,
}

impl Application {
    async fn of(simulator: &Simulator) -> Self {
        let folder = TempDir::new().unwrap();
        let certificates = Certificates::write(folder.path());
        let entra = certificates.serve(simulator).await;
        Self { certificates, entra, _folder: folder }
    }

    fn program(&self, simulator: &Simulator) -> Program {
        Program::of(simulator)
            .unset("IDENTITY_ENDPOINT")
            .unset("IDENTITY_HEADER")
            .set("AZURE_TENANT_ID", simulator.tenant_id())
            .set("AZURE_CLIENT_ID", simulator.client_id())
            .set("AZURE_CLIENT_SECRET", simulator.client_secret())
            .set("AZURE_AUTHORITY_HOST", &self.entra.url())
            .set("SSL_CERT_FILE", &self.certificates.ca.display().to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_is_ok_and_nothing_is_changed() {
    let simulator = right().await;
    let program = Program::of(&simulator);
    for pulled in [false, true] {
        if pulled {
            program.run(&["pull"]).await.assert_code(0);
        }
        let before = (files(program.folder.path()), simulator.calls());
        let rungs = check(&program, 0).await;
        let names = with_verdict(&rungs, "ok");
        let host = simulator.url().trim_start_matches("http://");
        let expected = [
            "settings",
            "schedule",
            &format!("reach/{host}"),
            "clock",
            "mimecast/token",
            "mimecast/listing/entities",
            "mimecast/listing/mailflow",
            "mimecast/listing/urlclick",
            &format!("mimecast/files/{host}"),
            "azure/token",
            "azure/stream/Custom-Cloud_Integrated",
            "state",
        ];
        assert_eq!(names, expected, "{rungs:#?}");
        assert_eq!(rungs.len(), expected.len());
        assert_eq!(files(program.folder.path()), before.0, "it left something");
        let (after, before) = (simulator.calls(), before.1);
        assert_eq!(after.all_downloads(), before.all_downloads());
        let of_source = rungs.iter().filter(|rung| rung["source"] == "cloud-integrated");
        assert_eq!(of_source.count(), 6, "Mimecast's, and the stream: {rungs:#?}");
        let audience = rungs.iter().find(|rung| rung["rung"] == "azure/token").unwrap();
        for word in ["managed identity", simulator.tenant_id(), "https://monitor.azure.com"] {
            assert!(audience["answer"].as_str().unwrap().contains(word), "{audience}");
        }
    }
    assert_eq!(simulator.landed_count(), STREAMS.len() as u64, "those of the pull");
    assert_eq!(simulator.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gets_a_line_for_each_rung_and_no_secret() {
    let simulator = right().await;
    simulator.set_role(false);
    let program = Program::of(&simulator).set("LOG_LEVEL", "TRACE");
    let ended = program.run(&["check"]).await;
    ended.assert_code(1);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 12, "{ended:#?}");
    let failed: Vec<&&str> = lines.iter().filter(|line| !line.starts_with("ok  ")).collect();
    assert_eq!(failed.len(), 1, "{ended:#?}");
    for word in ["fail  ", "azure/stream", " 403", "; fix: give the identity the role"] {
        assert!(failed[0].contains(word), "{ended:#?}");
    }
    assert!(lines[1].contains("the next ticks are 20"), "{ended:#?}");
    assert_no_secret(&simulator, &ended.said());
    let ended = program.run(&["check", "--json"]).await;
    assert_no_secret(&simulator, &ended.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_wrong_are_told_at_once_and_what_does_not_need_them_is_tested() {
    let simulator = right().await;
    let program =
        Program::of(&simulator).unset("LOGS_INGESTION_RULE_ID").unset("LOGS_INGESTION_ENDPOINT");
    let rungs = check(&program, 2).await;
    assert_eq!(with_verdict(&rungs, "fail"), ["settings", "settings"]);
    assert_eq!(rungs[0]["tried"], "LOGS_INGESTION_ENDPOINT");
    assert_eq!(rungs[1]["tried"], "LOGS_INGESTION_RULE_ID");
    assert_eq!(with_verdict(&rungs, "skipped"), ["schedule", "azure"]);
    let ok = with_verdict(&rungs, "ok");
    for rung in ["mimecast/token", "mimecast/listing/urlclick", "state"] {
        assert!(ok.contains(&rung), "{rungs:#?}");
    }
    assert_eq!(with_verdict(&check(&Program::bare(), 2).await, "ok"), ["state"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_instead_of_a_secret_is_a_fault_of_the_settings() {
    let simulator = right().await;
    let application = Application::of(&simulator).await;
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let program = application.program(&simulator).set("AZURE_CLIENT_SECRET", id);
    let ended = program.run(&["check", "--json"]).await;
    ended.assert_code(2);
    assert_only(&rungs(&ended), "settings", "copy the column Value");
    assert!(!ended.said().contains(id), "{ended:#?}");
    check(&application.program(&simulator), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_has_expired_is_told_from_one_that_is_wrong() {
    let expired = json!({
        "error": "invalid_client",
        "error_description": "AADSTS7000222: The provided client secret keys are expired.",
        "error_codes": [7_000_222],
    });
    let simulator = simulator(always(Endpoint::AzureToken, says(401, &expired))).await;
    let application = Application::of(&simulator).await;
    let rungs = check(&application.program(&simulator), 1).await;
    assert_only(&rungs, "azure/token", "Certificates & secrets");
    let token = rungs.iter().find(|rung| rung["rung"] == "azure/token").unwrap();
    assert!(token["answer"].as_str().unwrap().contains("AADSTS7000222"), "{token}");

    let simulator = right().await;
    let program = Program::of(&simulator).set("MIMECAST_CLIENT_SECRET", "of-another");
    assert_only(&check(&program, 1).await, "mimecast/token", "MIMECAST_CLIENT_SECRET");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_lacks_for_one_stream_fails_that_stream_alone() {
    let plan = FaultPlan::none().matching("mailflow", ALWAYS, Endpoint::Listing, Fault::Forbidden);
    let simulator = simulator(plan).await;
    let rungs = check(&Program::of(&simulator), 1).await;
    assert_only(&rungs, "mimecast/listing/mailflow", "Threats, Security Events, and Data");
    assert!(with_verdict(&rungs, "ok").contains(&"mimecast/listing/urlclick"));
}

/// Another region does not know the application.
#[tokio::test(flavor = "multi_thread")]
async fn the_base_url_of_another_region_fails_there() {
    let here = right().await;
    let unknown = json!({"fail": [{"code": "InvalidClientIdentifier", "message": "no"}]});
    let there = simulator(always(Endpoint::MimecastToken, says(401, &unknown))).await;
    let program = Program::of(&here).set("MIMECAST_BASE_URL", there.url());
    assert_only(&check(&program, 1).await, "mimecast/token", "MIMECAST_BASE_URL is its region");
}

#[tokio::test(flavor = "multi_thread")]
async fn role_rule_stream_and_endpoint_are_told_apart() {
    let simulator = right().await;
    let stream = "azure/stream/Custom-Cloud_Integrated";
    let program = || Program::of(&simulator);

    let other = program().set("LOGS_INGESTION_RULE_ID", simulator.other_rule_id());
    let rungs = check(&other, 1).await;
    assert_only(&rungs, stream, "a role on another rule does not count");
    let tried = &rungs.iter().find(|rung| rung["rung"] == stream).unwrap()["tried"];
    assert!(tried.as_str().unwrap().contains(simulator.other_rule_id()), "it names the rule");

    let none = program().set("LOGS_INGESTION_RULE_ID", "dcr-ffffffffffffffffffffffffffffffff");
    assert_only(&check(&none, 1).await, stream, "check LOGS_INGESTION_RULE_ID");

    let no_stream = program().set("LOGS_INGESTION_STREAM", "Custom-Other");
    let rungs = check(&no_stream, 1).await;
    assert_only(&rungs, "azure/stream/Custom-Other", "set LOGS_INGESTION_STREAM to a name in");

    let words =
        format!("Data collection rule with immutable Id '{}' not found.", simulator.rule_id());
    let unknown = json!({"error": {"code": "NotFound", "message": words}});
    let there = self::simulator(always(Endpoint::Post, says(404, &unknown))).await;
    let other_region = program().set("LOGS_INGESTION_ENDPOINT", there.url());
    let rungs = check(&other_region, 1).await;
    assert_only(&rungs, stream, "an endpoint of another region does not know the rule");

    // That of the health table: events land without it.
    let health = program().set("HEALTH_STREAM", "Custom-NotThere");
    let rungs = check(&health, 0).await;
    let rung = rungs.iter().find(|rung| rung["rung"] == "azure/stream/Custom-NotThere").unwrap();
    assert_eq!(rung["verdict"], "warn", "{rung}");
    assert!(rung["fix"].as_str().unwrap().contains("HEALTH_STREAM"), "{rung}");
    let all = check(&program().unset("HEALTH_STREAM"), 0).await;
    assert!(all.iter().all(|rung| rung["verdict"] == "ok"), "{all:#?}");

    simulator.set_role(false);
    assert_only(&check(&program(), 1).await, stream, "the role Monitoring Metrics Publisher");
}

/// What Azure answers to an array without a row was never seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_empty_array_itself_proves_the_rest() {
    let empty = json!({"error": {"code": "InvalidPayload", "message": "There are no records."}});
    let simulator = simulator(always(Endpoint::Post, says(400, &empty))).await;
    let rungs = check(&Program::of(&simulator), 0).await;
    assert!(with_verdict(&rungs, "ok").contains(&"azure/stream/Custom-Cloud_Integrated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_inconclusive_and_fails_nothing() {
    let plan = always(Endpoint::Listing, Fault::Unavailable).times(
        ALWAYS,
        Endpoint::Post,
        Fault::TooManyRequests(None),
    );
    let simulator = simulator(plan).await;
    let program = Program::of(&simulator).set("MIMECAST_TYPES", "entities");
    let rungs = check(&program, 0).await;
    let expected = ["mimecast/listing/entities", "azure/stream/Custom-Cloud_Integrated"];
    assert_eq!(with_verdict(&rungs, "inconclusive"), expected, "{rungs:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_20_minutes_off_fails_as_such() {
    for minutes in [20, -20] {
        let theirs = Clock::from_fn(move || Clock::system().now() + TimeDelta::minutes(minutes));
        let simulator = with_clock(FaultPlan::none(), theirs).await;
        assert_only(&check(&Program::of(&simulator), 1).await, "clock", "NTP");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_inspects_tls_is_named_as_such() {
    let simulator = right().await;
    let application = Application::of(&simulator).await;
    let entra = Url::parse(&application.entra.url()).unwrap();
    let proxy = Proxy::start(entra.port().unwrap()).await;
    // The real Entra's name, behind a certificate of an authority that is not trusted here.
    let program = application
        .program(&simulator)
        .unset("AZURE_AUTHORITY_HOST")
        .set("HTTPS_PROXY", &format!("http://127.0.0.1:{}", proxy.port));
    check(&program, 0).await;
    let program = program.unset("SSL_CERT_FILE");
    let rungs = check(&program, 1).await;
    assert_only(&rungs, "reach/login.microsoftonline.com", "a proxy that inspects TLS");
    let skipped = ["azure/token", "azure/stream/Custom-Cloud_Integrated"];
    assert_eq!(with_verdict(&rungs, "skipped"), skipped);
}

/// A name with a part of 64 letters has no address (RFC 1035), and no name server is asked for it. It is
/// the proxy's, since TLS refuses such a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_resolved_is_named_as_such() {
    let simulator = right().await;
    let application = Application::of(&simulator).await;
    let program = application
        .program(&simulator)
        .unset("AZURE_AUTHORITY_HOST")
        .set("HTTPS_PROXY", &format!("http://{}.invalid:3128", "a".repeat(64)));
    let rungs = check(&program, 1).await;
    let fix = "check AZURE_AUTHORITY_HOST, HTTPS_PROXY if it is set, and the name server";
    assert_only(&rungs, "reach/login.microsoftonline.com", fix);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_must_be_there_and_its_sas_must_allow_writing() {
    let Some(azurite) = Azurite::start().await else { return };
    let simulator = right().await;
    let container = azurite.create_container("state").await;
    let at = |url: &Url, sas: &str| {
        Program::of(&simulator).set("CHECKPOINT_URL", &format!("{url}?{sas}"))
    };
    let rungs = check(&at(&container, &sas("rwdlc")), 0).await;
    assert!(with_verdict(&rungs, "ok").contains(&"state"), "{rungs:#?}");
    let mut list = container.clone();
    list.set_query(Some(&format!("restype=container&comp=list&{}", sas("rwdlc"))));
    let list = azurite.http.get(list).send().await.unwrap().text().await.unwrap();
    assert!(!list.contains("<Name>"), "nothing is left there: {list}");

    let rungs = check(&at(&container, &sas("rl")), 1).await;
    assert_only(&rungs, "state", "CHECKPOINT_URL");
    let state = rungs.last().unwrap()["answer"].as_str().unwrap();
    assert!(state.contains("must permit read, create, write, delete and list"), "{state}");

    let missing = azurite.container("missing");
    let rungs = check(&at(&missing, &sas("rwdlc")), 1).await;
    assert_only(&rungs, "state", "CHECKPOINT_URL");
    let state = rungs.last().unwrap()["answer"].as_str().unwrap();
    assert!(state.contains("create the container"), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_none_fails() {
    let simulator = right().await;
    let program = Program::of(&simulator);
    std::fs::write(program.folder.path().join("file"), "").unwrap();
    let program = program.set("CHECKPOINT_URL", "file/state");
    assert_only(&check(&program, 1).await, "state", "CHECKPOINT_URL");
}
