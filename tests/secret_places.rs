//! The client secrets from a file and from a key vault: read when a token is asked for, never shown, and
//! with a clear word where they cannot be read.

use std::path::Path;

use mimecast_sentinel::simulator::{
    BatchFile, Endpoint, Fault, FaultPlan, Page, Simulator, SimulatorOptions, World,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::functions_host::{HostSimulator, Invocation};
use crate::support::program::{EXE, Program, STREAMS, assert_no_secret};
use crate::support::tls::{Certificates, TlsPort};

const ALWAYS: usize = usize::MAX;
const ROTATED: &str = "rotated-secret-canary";

/// A simulator with a file for each stream, whose Mimecast tokens are renewed at each run.
async fn simulator(plan: FaultPlan) -> Simulator {
    let day = "2026-11-01".parse().unwrap();
    let world = STREAMS.into_iter().fold(World::default(), |world, stream| {
        world.page(stream, Page::new(day).file(BatchFile::of_lines("a.json.gz", &["{}"])))
    });
    let options = SimulatorOptions { mimecast_token_seconds: 1, ..SimulatorOptions::default() };
    Simulator::start(world, plan, options).await.unwrap()
}

/// The secret is in the key vault alone, as in what the template deploys.
fn with_vault(simulator: &Simulator) -> Program {
    Program::of(simulator)
        .unset("MIMECAST_CLIENT_SECRET")
        .set("MIMECAST_CLIENT_SECRET_URI", &simulator.secret_uri())
}

/// The error of the first stream of a pull that ends with this code.
async fn error_of(program: &Program, code: i32) -> Value {
    let ended = program.run(&["pull", "--json"]).await;
    ended.assert_code(code);
    ended.json()["streams"][0]["error"].clone()
}

/// A rung of `check`.
async fn rung(program: &Program, name: &str) -> Value {
    let ended = program.run(&["check", "--json"]).await;
    let rungs = ended.json()["rungs"].as_array().unwrap().clone();
    rungs.into_iter().find(|rung| rung["rung"] == name).unwrap_or_else(|| panic!("{ended:#?}"))
}

fn says(status: u16, code: &str, inner: &str) -> Fault {
    let body = json!({"error": {"code": code, "message": "words", "innererror": {"code": inner}}});
    Fault::Says(status, body.to_string().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_key_vault_is_read_as_the_apps_identity_and_never_shown() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = with_vault(&simulator).set("LOG_LEVEL", "TRACE");
    let ended = program.run(&["pull"]).await;
    ended.assert_code(0);
    assert_eq!(simulator.landed_count(), STREAMS.len() as u64);
    assert_no_secret(&simulator, &ended.said());
    let asked = simulator.calls();
    assert_eq!(asked.secrets, asked.mimecast_tokens, "it is read for each token");
    assert_eq!(asked.azure_tokens["https://vault.azure.net"], asked.secrets);
    assert_eq!(simulator.violations(), [""; 0]);

    let tested = program.run(&["check"]).await;
    tested.assert_code(0);
    assert!(tested.stdout.contains("mimecast/secret"), "{tested:#?}");
    assert_no_secret(&simulator, &tested.said());

    let dry = program.run(&["pull", "--dry-run"]).await;
    dry.assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_rotated_is_used_without_a_restart() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = with_vault(&simulator);
    let file = program.folder.path().join("secret");
    let in_file = Program::of(&simulator)
        .unset("MIMECAST_CLIENT_SECRET")
        .set("MIMECAST_CLIENT_SECRET_FILE", &file.display().to_string());
    std::fs::write(&file, format!("{}\n", simulator.client_secret())).unwrap();
    let mut hosts = [
        HostSimulator::start(Path::new(EXE), &["serve"], &program.env()).await,
        HostSimulator::start(Path::new(EXE), &["serve"], &in_file.env()).await,
    ];
    for secret in [simulator.client_secret(), ROTATED] {
        simulator.set_client_secret(secret);
        std::fs::write(&file, secret).unwrap();
        for host in &mut hosts {
            let tick = host.tick("CloudIntegrated").await;
            assert!(matches!(tick, Invocation::Succeeded { .. }), "{secret}: {tick:?}");
        }
    }
    assert_eq!(simulator.violations(), [""; 0]);
}

/// What the vault answers, what is said, and whether a person must act.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_does_not_give_the_secret_says_what_to_do() {
    let cases = [
        (says(403, "Forbidden", "ForbiddenByRbac"), "Key Vault Secrets User", "fail"),
        (says(403, "Forbidden", "ForbiddenByFirewall"), "does not admit this program", "fail"),
        (says(403, "Forbidden", "ForbiddenByConnection"), "private endpoint", "fail"),
        (says(403, "Forbidden", "SecretDisabled"), "Enable the secret", "fail"),
        (says(404, "SecretNotFound", ""), "Check the secret's name", "fail"),
        (says(401, "Unauthorized", ""), "in the tenant of the identity", "fail"),
        (says(400, "BadParameter", ""), "Check the URL of the secret", "fail"),
        (Fault::Says(200, b"{\"value\":\" \"}".to_vec()), "Set it again", "fail"),
        (Fault::Says(200, b"{\"value\":\"an-id\\nsecret\"}".to_vec()), "Set it again", "fail"),
        (Fault::Says(200, b"{\"id\":1}".to_vec()), "the way to 127.0.0.1", "inconclusive"),
        (Fault::Says(403, b"<html>Blocked</html>".to_vec()), "the way to", "inconclusive"),
        (Fault::Unavailable, "The next run tries again", "inconclusive"),
    ];
    for (fault, fix, verdict) in cases {
        let simulator =
            simulator(FaultPlan::none().times(ALWAYS, Endpoint::Secret, fault.clone())).await;
        let tested = rung(&with_vault(&simulator), "mimecast/secret").await;
        assert_eq!(tested["verdict"], verdict, "{fault:?}: {tested}");
        assert!(tested["fix"].as_str().unwrap().contains(fix), "{fault:?}: {tested}");
        assert!(
            tested["answer"].as_str().unwrap().contains("/secrets/MimecastClientSecret"),
            "{tested}"
        );
    }
    let role = FaultPlan::none().times(ALWAYS, Endpoint::Secret, Fault::Forbidden);
    let simulator = simulator(role).await;
    // Of several streams, one that begins a little later asks once more.
    let program = with_vault(&simulator).set("MIMECAST_TYPES", STREAMS[0]);
    let error = error_of(&program, 2).await;
    assert_eq!(error["code"], "secret-unreadable", "{error}");
    assert!(error["fix"].as_str().unwrap().contains("Key Vault Secrets User"), "{error}");
    assert_eq!(simulator.calls().secrets, 1, "a refusal is not asked for again");

    let none = format!("{}/secrets/Other", simulator.url());
    simulator.plan(FaultPlan::none());
    let program = with_vault(&simulator).set("MIMECAST_CLIENT_SECRET_URI", &none);
    assert_eq!(rung(&program, "mimecast/secret").await["verdict"], "fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_whose_identity_has_no_token_is_not_asked() {
    let plan = FaultPlan::none().times(ALWAYS, Endpoint::AzureToken, Fault::Forbidden);
    let simulator = simulator(plan).await;
    let error = error_of(&with_vault(&simulator), 2).await;
    assert_eq!(error["code"], "secret-unreadable", "{error}");
    assert!(
        error["message"].as_str().unwrap().contains("the managed identity was refused"),
        "{error}"
    );
    assert_eq!(simulator.calls().secrets, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_of_a_vault_is_followed() {
    let elsewhere = simulator(FaultPlan::none()).await;
    let to = Fault::Redirect(elsewhere.secret_uri());
    let simulator = simulator(FaultPlan::none().times(ALWAYS, Endpoint::Secret, to)).await;
    let error = error_of(&with_vault(&simulator), 1).await;
    assert_eq!(error["code"], "secret-unreadable", "{error}");
    assert_eq!(elsewhere.calls().secrets, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_fails_once_costs_no_run() {
    let plan = FaultPlan::none().once(Endpoint::Secret, Fault::Unavailable);
    let simulator = simulator(plan).await;
    with_vault(&simulator).run(&["pull"]).await.assert_code(0);
    assert_eq!(simulator.landed_count(), STREAMS.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_has_no_secret_is_named_and_loses_nothing() {
    let simulator = simulator(FaultPlan::none()).await;
    let program = Program::of(&simulator).unset("MIMECAST_CLIENT_SECRET");
    let folder = program.folder.path().to_owned();
    let file = folder.join("secret");
    let program = program.set("MIMECAST_CLIENT_SECRET_FILE", &file.display().to_string());
    let large = vec![b'x'; 64 * 1024 + 1];
    let contents: [Option<&[u8]>; 6] = [
        None,
        Some(b" \n"),
        Some(b"\xff\xfe"),
        Some(b"an-id\nsecret\n"),
        Some(b"sec\0ret"),
        Some(&large),
    ];
    for content in contents {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let error = error_of(&program, 2).await;
        assert_eq!(error["code"], "secret-unreadable", "{content:?}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&file.display().to_string()), "{content:?}: {error}");
    }
    assert_eq!(simulator.calls().mimecast_tokens, 0, "it is sent nowhere");
    // With what Windows' editors add.
    std::fs::write(&file, format!("\u{feff}{}\r\n", simulator.client_secret())).unwrap();
    program.run(&["pull"]).await.assert_code(0);
    assert_eq!(simulator.landed_count(), STREAMS.len() as u64);
}

/// Rows are posted as an application whose secret is in the vault, which the managed identity reads.
#[tokio::test(flavor = "multi_thread")]
async fn an_applications_secret_is_read_in_the_same_ways() {
    let simulator = simulator(FaultPlan::none()).await;
    let folder = TempDir::new().unwrap();
    let certificates = Certificates::write(folder.path());
    let entra: TlsPort = certificates.serve(&simulator).await;
    let file = folder.path().join("secret");
    std::fs::write(&file, simulator.client_secret()).unwrap();
    let program = |name: &str, value: &str| {
        Program::of(&simulator)
            .set("AZURE_TENANT_ID", simulator.tenant_id())
            .set("AZURE_CLIENT_ID", simulator.client_id())
            .set(name, value)
            .set("AZURE_AUTHORITY_HOST", &entra.url())
            .set("SSL_CERT_FILE", &certificates.ca.display().to_string())
    };
    let in_vault = program("AZURE_CLIENT_SECRET_URI", &simulator.secret_uri());
    let in_file = program("AZURE_CLIENT_SECRET_FILE", &file.display().to_string());
    for program in [&in_vault, &in_file] {
        let ended = program.run(&["pull"]).await;
        ended.assert_code(0);
        assert_no_secret(&simulator, &ended.said());
    }
    assert_eq!(simulator.calls().secrets, 1);
    let ended = in_vault.run(&["check"]).await;
    ended.assert_code(0);
    assert!(ended.stdout.contains("granted to the client secret"), "{ended:#?}");

    simulator.plan(FaultPlan::none().times(ALWAYS, Endpoint::Secret, Fault::Forbidden));
    let day = "2026-11-02".parse().unwrap();
    let file = BatchFile::of_lines("b.json.gz", &["{\"a\":1}"]);
    simulator.add_page(STREAMS[0], Page::new(day).file(file));
    let error = error_of(&in_vault, 3).await;
    assert_eq!(error["code"], "azure-credentials", "{error}");
    assert!(error["message"].as_str().unwrap().contains("/secrets/"), "{error}");
    assert!(error["fix"].as_str().unwrap().contains("Key Vault Secrets User"), "{error}");
}
