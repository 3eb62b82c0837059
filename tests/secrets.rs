//! No secret is shown. Everything that the program does, and everything that can go wrong with it,
//! is done at the highest log level, with every kind of secret that there is; then all that it
//! said, all files that it left, and its command lines are searched.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt as _, stream};
use mimecast_sentinel::simulator::{Endpoint, Fault, FaultPlan, Simulator};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use url::form_urlencoded;

use crate::support::azurite::{Azurite, sas};
use crate::support::functions_host::{HostSimulator, Invocation};
use crate::support::program::{EXE, Ended, Program, issued, simulator};
use crate::support::script;
use crate::support::tls::Certificates;

const ALWAYS: usize = usize::MAX;
/// Of a client secret that Entra and Mimecast do not know.
const WRONG_SECRET: &str = "wrong~canary";
/// Of a workload identity.
const ASSERTION: &str = "assertion.canary";
/// Of a proxy's user, and as a proxy is sent it (`me:proxy-canary`).
const PROXY_PASSWORD: &str = "proxy-canary";
const PROXY_BASIC: &str = "bWU6cHJveHktY2FuYXJ5";
/// What the Azure CLI answers.
const PERSONS_TOKEN: &str = "persons.canary";

/// All that was said or left behind.
#[derive(Default)]
struct Output(String);

impl Output {
    /// What the operating system shows everybody about a process.
    fn command_line(&mut self, process: Option<u32>) {
        if cfg!(target_os = "linux") {
            let line = std::fs::read(format!("/proc/{}/cmdline", process.unwrap())).unwrap();
            writeln!(self.0, "command line: {}", String::from_utf8(line).unwrap()).unwrap();
        }
    }

    /// Runs a command to its end, and records what it says and leaves.
    async fn run(&mut self, program: Program, args: &[&str]) -> Ended {
        let program = loud(program);
        let ended = program.run(args).await;
        self.0 += &ended.said();
        self.files(program.folder.path());
        ended
    }

    fn files(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.files(&path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                writeln!(self.0, "{}: {}", path.display(), String::from_utf8_lossy(&bytes))
                    .unwrap();
            }
        }
    }
}

/// As talkative as a setting can make it; the libraries would listen to `RUST_LOG`.
fn loud(program: Program) -> Program {
    program.set("LOG_LEVEL", "TRACE").set("RUST_LOG", "trace").set("RUST_BACKTRACE", "full")
}

/// What must not be shown: each secret, as it is and as a form or a query has it, and the words
/// before one.
fn secrets(simulator: &Simulator, sas: &str) -> Vec<String> {
    let signature = form_urlencoded::parse(sas.as_bytes()).find(|(name, _)| name == "sig");
    let signature = signature.unwrap().1.into_owned();
    let plain = [
        simulator.client_secret(),
        simulator.identity_header(),
        &signature,
        WRONG_SECRET,
        ASSERTION,
        PERSONS_TOKEN,
        PROXY_PASSWORD,
        PROXY_BASIC,
    ];
    let escape = |text: &&str| form_urlencoded::byte_serialize(text.as_bytes()).collect();
    // Entra's tokens begin with `eyJ`, as each JWT does.
    let words = ["Bearer ", "eyJ", "X-Amz-", "sig=", "sig%3D"];
    let mut secrets: Vec<String> = plain.iter().map(escape).collect();
    secrets.extend(plain.into_iter().chain(words).map(str::to_owned));
    // Access tokens and the signatures of batch files.
    secrets.extend(issued());
    secrets
}

/// Each kind of failure that passes, and one that ends a stream.
fn noise() -> FaultPlan {
    FaultPlan::none()
        .once(Endpoint::MimecastToken, Fault::ServerError)
        .once(Endpoint::AzureToken, Fault::Unavailable)
        .once(Endpoint::Listing, Fault::Unauthorized("token_expired".to_owned()))
        .once(Endpoint::Listing, Fault::LostReply)
        .once(Endpoint::File, Fault::Expired)
        .once(Endpoint::File, Fault::Reset)
        .once(Endpoint::File, Fault::CutShort(30))
        .once(Endpoint::File, Fault::Corrupt(30))
        .once(Endpoint::Post, Fault::Unauthorized("InvalidToken".to_owned()))
        .once(Endpoint::Post, Fault::LostReply)
        .matching("urlclick", ALWAYS, Endpoint::Listing, Fault::Forbidden)
        .poison(|row| row["type_"] == "entities")
}

async fn faulty(plan: FaultPlan) -> Simulator {
    simulator(2, plan, Duration::ZERO).await
}

fn refuses(endpoint: Endpoint, fault: Fault) -> FaultPlan {
    FaultPlan::none().times(ALWAYS, endpoint, fault)
}

/// A folder with an `az` that has a login, and writes its command line down.
#[cfg(unix)]
fn azure_cli(folder: &Path) -> String {
    let expires_on = 4_000_000_000_u64;
    let answer = json!({"accessToken": PERSONS_TOKEN, "expires_on": expires_on, "tokenType": "B"});
    let az = folder.join("az");
    let folder = folder.display().to_string();
    script::write(&az, &format!("#!/bin/sh\necho \"az $@\" >> {folder}/called\necho '{answer}'\n"));
    folder
}

/// A run with all kinds of failures, looked at and forgotten; then what ends a run.
async fn pulls() -> Output {
    let mut output = Output::default();
    let noisy = faulty(noise()).await;
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state").display().to_string();
    let program = || Program::of(&noisy).set("CHECKPOINT_URL", &state);
    output.run(program(), &["pull"]).await.assert_code(3);
    output.run(program(), &["pull", "--json"]).await.assert_code(3);
    output.files(folder.path());
    output.run(program(), &["state", "show"]).await.assert_code(0);
    output.run(program(), &["state", "reset", "entities", "--yes"]).await.assert_code(0);
    output.run(program(), &["pull", "--dry-run"]).await.assert_code(3);
    output.run(program(), &["check"]).await.assert_code(1);
    output.run(program(), &["check", "--json"]).await.assert_code(1);
    for (endpoint, fault, code) in [
        (Endpoint::Post, Fault::Forbidden, 2),
        (Endpoint::Post, Fault::Unauthorized("InvalidToken".to_owned()), 2),
        (Endpoint::AzureToken, Fault::Forbidden, 2),
        (Endpoint::Listing, Fault::Redirect("http://127.0.0.1:9/?sig=x".to_owned()), 2),
        (Endpoint::MimecastToken, Fault::Forbidden, 2),
    ] {
        let simulator = faulty(refuses(endpoint, fault)).await;
        output.run(Program::of(&simulator), &["pull"]).await.assert_code(code);
    }
    let simulator = faulty(FaultPlan::none()).await;
    let wrong = Program::of(&simulator).set("MIMECAST_CLIENT_SECRET", WRONG_SECRET);
    output.run(wrong, &["pull"]).await.assert_code(2).assert_stderr(&["mimecast-credentials"]);
    let wrong = Program::of(&simulator).set("MIMECAST_CLIENT_SECRET", WRONG_SECRET);
    output.run(wrong, &["check"]).await.assert_code(1);
    // Nobody listens there; the run gives up when its time is up.
    let proxy = format!("http://me:{PROXY_PASSWORD}@127.0.0.1:1");
    let behind =
        Program::of(&simulator).set("HTTP_PROXY", &proxy).set("RUN_TIME_LIMIT_SECONDS", "2");
    let behind = output.run(behind, &["pull"]).await;
    behind.assert_code(1);
    assert!(behind.stdout.contains("could not connect"), "{behind:#?}");
    output
}

/// Every identity there is, accepted and refused.
async fn identities() -> Output {
    let mut output = Output::default();
    let simulator = faulty(FaultPlan::none()).await;
    let folder = TempDir::new().unwrap();
    let certificates = Certificates::write(folder.path());
    let entra = certificates.serve(&simulator).await;
    let anonymous = || Program::of(&simulator).unset("IDENTITY_ENDPOINT").unset("IDENTITY_HEADER");
    let application = || {
        anonymous()
            .set("AZURE_TENANT_ID", simulator.tenant_id())
            .set("AZURE_CLIENT_ID", simulator.client_id())
            .set("AZURE_AUTHORITY_HOST", &entra.url())
            .set("SSL_CERT_FILE", &certificates.ca.display().to_string())
    };
    let by_secret = |secret| application().set("AZURE_CLIENT_SECRET", secret);
    output.run(by_secret(simulator.client_secret()), &["pull"]).await.assert_code(0);
    let refused = output.run(by_secret(WRONG_SECRET), &["pull"]).await;
    refused.assert_code(2).assert_stderr(&["azure-credentials", "AADSTS7000215"]);
    output.run(by_secret(WRONG_SECRET), &["check"]).await.assert_code(1);

    let file = folder.path().join("assertion");
    std::fs::write(&file, ASSERTION).unwrap();
    let file = file.display().to_string();
    output.run(application().set("AZURE_FEDERATED_TOKEN_FILE", &file), &["pull"]).await;
    assert_eq!(simulator.assertions(), [ASSERTION]);

    #[cfg(unix)]
    {
        let person = anonymous().set("PATH", &azure_cli(folder.path()));
        // Not a token of the simulator's Entra.
        output
            .run(person, &["pull"])
            .await
            .assert_code(2)
            .assert_stderr(&["ingestion-unauthorized"]);
        output.0 += &std::fs::read_to_string(folder.path().join("called")).unwrap();
    }
    output
}

/// As the Functions host starts it: a tick that fails, and settings that are wrong.
async fn served() -> Output {
    let mut output = Output::default();
    let simulator = faulty(noise()).await;
    let right = Program::of(&simulator);
    let wrong = Program::of(&simulator).set("SCHEDULE", "often").unset("LOGS_INGESTION_RULE_ID");
    for program in [right, wrong] {
        let program = loud(program);
        let mut host = HostSimulator::start(Path::new(EXE), &["serve"], &program.env()).await;
        output.command_line(host.worker().id());
        let tick = host.tick("CloudIntegrated").await;
        assert!(matches!(tick, Invocation::Failed(_)), "{tick:?}");
        for (_, line) in host.scale_in().await {
            writeln!(output.0, "{line}").unwrap();
        }
        output.files(program.folder.path());
    }
    output
}

/// With a container's SAS: one that works, one without the rights, and one at a place that is none.
async fn containers(sas_of_all: &str) -> Output {
    let mut output = Output::default();
    let simulator = faulty(FaultPlan::none()).await;
    let nowhere = format!("{}/account/container?{sas_of_all}", simulator.url());
    let mut places = vec![(nowhere, 1)];
    let azurite = Azurite::start().await;
    if let Some(azurite) = &azurite {
        let container = azurite.create_container("state").await;
        places.push((format!("{container}?{sas_of_all}"), 0));
        places.push((format!("{container}?{}", sas("l")), 2));
        places.push((format!("{}?{sas_of_all}", azurite.container("missing")), 2));
    }
    for (place, code) in places {
        let program = || Program::of(&simulator).set("CHECKPOINT_URL", &place);
        output.run(program(), &["pull"]).await.assert_code(code);
        output.run(program(), &["state", "show"]).await;
        output.run(program(), &["check"]).await;
    }
    output
}

/// Settings that are refused while the secrets beside them are right, secrets that are not where
/// they belong, and the demo, which has secrets of its own.
async fn bad_settings(sas: &str) -> Output {
    let mut output = Output::default();
    let simulator = faulty(FaultPlan::none()).await;
    let secretive = || {
        Program::of(&simulator)
            .set("AZURE_CLIENT_SECRET", simulator.client_secret())
            .set("CHECKPOINT_URL", &format!("https://acc.blob.core.windows.net/state?{sas}"))
    };
    output.run(secretive(), &["pull", "--help"]).await.assert_code(0);
    output.run(secretive().set("START_DATE", "soon"), &["pull"]).await.assert_code(2);
    output.run(secretive(), &["state", "reset", "nothing"]).await;
    let part = format!("acc.blob.core.windows.net/state?{sas}");
    for place in [format!("ftp://{part}"), part.clone(), format!("https://a:b@{part}")] {
        let program = secretive().set("CHECKPOINT_URL", &place);
        output.run(program, &["pull"]).await.assert_code(2).assert_stderr(&["CHECKPOINT_URL"]);
    }
    for name in ["MIMECAST_BASE_URL", "LOGS_INGESTION_ENDPOINT", "AZURE_AUTHORITY_HOST"] {
        for place in [format!("https://h/?{sas}"), format!("https://u:{WRONG_SECRET}@h")] {
            let program = secretive().set(name, &place);
            output.run(program, &["pull"]).await.assert_code(2).assert_stderr(&[name]);
        }
    }
    output.run(Program::bare(), &["demo"]).await.assert_code(0);
    output
}

/// A server that answers each request with this status and everything it was sent; as Azure Storage
/// words it, and as plain text to all but its clients.
async fn echo(status: u16) -> u16 {
    async fn answer(status: StatusCode, request: Request) -> impl IntoResponse {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let sent = format!("{} {:?} {}", parts.uri, parts.headers, String::from_utf8_lossy(&body));
        let form: String = form_urlencoded::byte_serialize(sent.as_bytes()).collect();
        let sent = format!("you sent {sent} {form} {}", BASE64_STANDARD.encode(&sent));
        let azures = [("x-ms-request-id", "1"), ("x-ms-error-code", "Explained")];
        if !parts.headers.contains_key("x-ms-version") {
            return (status, azures, sent);
        }
        let sent = sent.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        let xml = format!(
            "<?xml version=\"1.0\"?><Error><Code>Explained</Code><Message>{sent}</Message>\
             <AuthenticationErrorDetail>{sent}</AuthenticationErrorDetail></Error>"
        );
        (status, azures, xml)
    }
    let status = StatusCode::from_u16(status).unwrap();
    let app = Router::new().fallback(move |request| answer(status, request));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

/// What is asked of a server that echoes, and by whom.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Mimecast(Endpoint),
    Ingestion,
    IdentityEndpoint,
    EntraBySecret,
    EntraByAssertion,
    Storage,
    Proxy,
}

/// A pull whose `asked` echoes everything, and where that is the state, a look at it.
async fn echoed(asked: Asked, status: u16, sas: &str) -> Output {
    let plan = |endpoint| refuses(endpoint, Fault::Echo(status));
    let simulator = faulty(match asked {
        Asked::Mimecast(endpoint) => plan(endpoint),
        Asked::Ingestion => plan(Endpoint::Post),
        Asked::Storage | Asked::Proxy => FaultPlan::none(),
        _ => plan(Endpoint::AzureToken),
    })
    .await;
    let folder = TempDir::new().unwrap();
    let certificates = Certificates::write(folder.path());
    let entra = certificates.serve(&simulator).await;
    let file = folder.path().join("assertion");
    std::fs::write(&file, ASSERTION).unwrap();
    let state = folder.path().join("state").display().to_string();
    let port = echo(status).await;
    // A 403 alone ends a run.
    let limit = if status == 403 { "60" } else { "2" };
    let program = || {
        let program = Program::of(&simulator)
            .set("RUN_TIME_LIMIT_SECONDS", limit)
            .set("CHECKPOINT_URL", &state);
        let entra = |program: Program| {
            program
                .set("AZURE_TENANT_ID", simulator.tenant_id())
                .set("AZURE_CLIENT_ID", simulator.client_id())
                .set("AZURE_AUTHORITY_HOST", &entra.url())
                .set("SSL_CERT_FILE", &certificates.ca.display().to_string())
        };
        match asked {
            Asked::Mimecast(_) | Asked::Ingestion | Asked::IdentityEndpoint => program,
            Asked::EntraBySecret => {
                entra(program).set("AZURE_CLIENT_SECRET", simulator.client_secret())
            }
            Asked::EntraByAssertion => {
                entra(program).set("AZURE_FEDERATED_TOKEN_FILE", &file.display().to_string())
            }
            Asked::Storage => {
                let container = format!("http://127.0.0.1:{port}/account/container?{sas}");
                program.set("CHECKPOINT_URL", &container)
            }
            Asked::Proxy => {
                let proxy = format!("http://me:{PROXY_PASSWORD}@127.0.0.1:{port}");
                program.set("HTTP_PROXY", &proxy)
            }
        }
    };
    let mut output = Output::default();
    let commands: &[&[&str]] = match asked {
        // A 500 is repeated for a while.
        Asked::Storage if status != 500 => {
            &[&["pull", "--json"], &["state", "show"], &["quarantine", "list"]]
        }
        _ => &[&["pull", "--json"]],
    };
    for args in commands {
        output.run(program(), args).await;
    }
    std::fs::remove_file(file).unwrap();
    output.files(folder.path());
    output
}

/// How the Base64 of any text has `secret` in it.
fn in_base64(secret: &str) -> impl Iterator<Item = String> {
    (0..3).map(move |before| {
        let text = BASE64_STANDARD.encode([&b"xxx"[..before], secret.as_bytes()].concat());
        let text = text.trim_end_matches('=');
        text[(before * 8_usize).div_ceil(6)..text.len() - 1].to_owned()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_echoes_is_struck_out() {
    let sas = sas("rwdlc");
    let simulator = faulty(FaultPlan::none()).await;
    let words = ["Bearer ", "sig=", "sig%3D", "eyJ"];
    let secrets = secrets(&simulator, &sas);
    let secrets: Vec<&String> = secrets.iter().filter(|s| !words.contains(&s.as_str())).collect();
    let mut needles: Vec<String> = secrets.iter().map(|secret| (*secret).clone()).collect();
    needles.extend(secrets.iter().flat_map(|secret| in_base64(secret)));
    let asked = [
        Asked::Mimecast(Endpoint::MimecastToken),
        Asked::Mimecast(Endpoint::Listing),
        Asked::Mimecast(Endpoint::File),
        Asked::Ingestion,
        Asked::IdentityEndpoint,
        Asked::EntraBySecret,
        Asked::EntraByAssertion,
        Asked::Storage,
        Asked::Proxy,
    ];
    let cases = asked.into_iter().flat_map(|asked| [400, 401, 403, 500].map(|s| (asked, s)));
    let output = stream::iter(cases.collect::<Vec<_>>()).map(|(asked, status)| {
        let sas = sas.clone();
        async move { (asked, status, echoed(asked, status, &sas).await.0) }
    });
    let output: Vec<_> = output.buffer_unordered(36).collect().await;
    assert_eq!(output.len(), 36);
    for (asked, status, output) in output {
        for needle in &needles {
            if let Some(at) = output.find(needle) {
                let from = output.floor_char_boundary(at.saturating_sub(500));
                let said = &output[from..at + needle.len()];
                panic!("{needle} of {asked:?} is shown after {status}: {said}");
            }
        }
        // What a file's server says is not repeated at all.
        let quoted = status == 403 && !matches!(asked, Asked::Mimecast(Endpoint::File));
        assert!(!quoted || output.contains("[secret]"), "{asked:?} {status}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_shown_whatever_happens() {
    let simulator = faulty(FaultPlan::none()).await;
    let sas = sas("rwdlc");
    let secrets = secrets(&simulator, &sas);
    let (pulls, identities, served, containers, bad_settings) =
        tokio::join!(pulls(), identities(), served(), containers(&sas), bad_settings(&sas));
    let output =
        [pulls, identities, served, containers, bad_settings].map(|output| output.0).concat();

    // It was all there.
    let signs = [
        " INFO ",
        "command line: ",
        "az account get-access-token",
        "checkpoints/entities.json",
        "row-refused",
        "corrupt-file",
        "\"level\":\"ERROR\"",
        "mimecast-redirect",
        "ingestion-forbidden",
        "azure-credentials",
        "store-failed",
        "Cloud_Integrated_CL.ndjson",
    ];
    for sign in signs {
        assert!(output.contains(sign), "{sign:?} is missing in {output}");
    }
    for secret in secrets {
        if let Some(at) = output.find(&secret) {
            let from = output.floor_char_boundary(at.saturating_sub(500));
            panic!("{secret} is shown: {}", &output[from..at + secret.len()]);
        }
    }
}
