//! Each kind of credential against the other side it has: Entra over HTTPS, the platform's identity
//! endpoint, and an `az`.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test's helpers")]

mod support;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use chrono::TimeDelta;
use mimecast_sentinel::azure::credential::{AccessTokens, CredentialError, Credentials};
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::settings::CredentialSettings;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use support::entra_tls;
use url::{Url, form_urlencoded};

const SCOPE: &str = "https://monitor.azure.com/.default";
const SECRET: &str = "the~secret.itself";

/// The other side: what it was asked, and what it answers next (the last one again and again).
#[derive(Clone, Default)]
struct Script {
    asked: Arc<Mutex<Vec<HashMap<String, String>>>>,
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = (u16, Value)>) -> Self {
        let script = Self::default();
        let answers = answers.into_iter().map(|(status, json)| (status, json.to_string()));
        script.answers.lock().unwrap().extend(answers);
        script
    }

    fn asked(&self) -> Vec<HashMap<String, String>> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, asked: HashMap<String, String>) -> (StatusCode, String) {
        self.asked.lock().unwrap().push(asked);
        let mut answers = self.answers.lock().unwrap();
        let last = answers.len() == 1;
        let next = if last { answers.front().cloned() } else { answers.pop_front() };
        let (status, body) = next.unwrap();
        (StatusCode::from_u16(status).unwrap(), body)
    }
}

/// Answers every request with the script's next answer, and notes its path, its parameters (in the
/// query or in a form) and the header that the identity endpoint wants.
fn app(script: &Script) -> Router {
    async fn answer(
        State(script): State<Script>,
        uri: Uri,
        headers: HeaderMap,
        form: String,
    ) -> impl IntoResponse {
        let parameters = format!("{}&{form}", uri.query().unwrap_or_default());
        let mut asked: HashMap<_, _> =
            form_urlencoded::parse(parameters.as_bytes()).into_owned().collect();
        asked.insert("path".to_owned(), uri.path().to_owned());
        if let Some(header) = headers.get("x-identity-header") {
            asked.insert("header".to_owned(), header.to_str().unwrap().to_owned());
        }
        script.answer(asked)
    }
    Router::new().fallback(answer).with_state(script.clone())
}

fn token(token: &str, expires_in: i64) -> (u16, Value) {
    (200, json!({"token_type": "Bearer", "access_token": token, "expires_in": expires_in}))
}

fn client_secret() -> CredentialSettings {
    CredentialSettings::ClientSecret {
        tenant_id: "tenant-1".to_owned(),
        client_id: "client-1".to_owned(),
        secret: SECRET.into(),
    }
}

async fn tokens_of_entra(script: &Script, settings: CredentialSettings) -> AccessTokens {
    let (authority, http) = entra_tls::serve(app(script)).await;
    let credentials = Credentials { settings, authority, http_without_proxy: http.clone(), http };
    AccessTokens::new(credentials, SCOPE, Clock::system())
}

async fn bearer(tokens: &AccessTokens) -> String {
    tokens.bearer().await.unwrap().expose_secret().to_owned()
}

#[tokio::test]
async fn a_client_secret_becomes_a_token_that_is_kept() {
    let script = Script::new([token("first", 3600), token("second", 3600)]);
    let tokens = tokens_of_entra(&script, client_secret()).await;
    let (a, b) = tokio::join!(bearer(&tokens), bearer(&tokens));
    assert_eq!([a, b, bearer(&tokens).await], ["first"; 3]);
    let asked = script.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["path"], "/tenant-1/oauth2/v2.0/token");
    assert_eq!(asked[0]["grant_type"], "client_credentials");
    assert_eq!(asked[0]["client_id"], "client-1");
    assert_eq!(asked[0]["client_secret"], SECRET);
    assert_eq!(asked[0]["scope"], SCOPE);

    tokens.renew();
    assert_eq!([bearer(&tokens).await, bearer(&tokens).await], ["second"; 2]);
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test]
async fn a_token_in_its_last_five_minutes_is_renewed() {
    let script = Script::new([token("first", 299), token("second", 3600)]);
    let tokens = tokens_of_entra(&script, client_secret()).await;
    assert_eq!(bearer(&tokens).await, "first");
    assert_eq!(bearer(&tokens).await, "second");
    assert_eq!(bearer(&tokens).await, "second");
}

#[tokio::test]
async fn a_workload_identity_sends_its_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "assertion-1").unwrap();
    let settings = CredentialSettings::WorkloadIdentity {
        tenant_id: "tenant-1".to_owned(),
        client_id: "client-1".to_owned(),
        token_file: file.path().to_owned(),
    };
    let script = Script::new([token("first", 3600)]);
    let tokens = tokens_of_entra(&script, settings).await;
    assert_eq!(bearer(&tokens).await, "first");
    // The platform has rotated the file by the time the token is refused.
    std::fs::write(file.path(), "assertion-2").unwrap();
    tokens.renew();
    assert_eq!(bearer(&tokens).await, "first");
    let sent: Vec<_> = script.asked().iter().map(|a| a["client_assertion"].clone()).collect();
    assert_eq!(sent, ["assertion-1", "assertion-2"]);
}

#[tokio::test]
async fn a_missing_token_file_is_refused_by_its_path() {
    let settings = CredentialSettings::WorkloadIdentity {
        tenant_id: "tenant-1".to_owned(),
        client_id: "client-1".to_owned(),
        token_file: "/nowhere/token".into(),
    };
    let error = tokens_of_entra(&Script::default(), settings).await.bearer().await.unwrap_err();
    assert!(matches!(error, CredentialError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/token"), "{error}");
    assert!(error.to_string().contains("AZURE_FEDERATED_TOKEN_FILE"), "{error}");
}

#[tokio::test]
async fn entras_refusal_is_repeated_with_what_to_do() {
    for said in [
        "AADSTS7000215: Invalid client secret provided. Trace ID: 1",
        "AADSTS7000215: Invalid client secret provided. \"Mind\" the\r\nTrace ID: 1",
    ] {
        let refusal = json!({
            "error": "invalid_client", "error_description": said, "error_codes": [7000215],
        });
        let script = Script::new([(401, refusal), token("at last", 3600)]);
        let tokens = tokens_of_entra(&script, client_secret()).await;
        let error = tokens.bearer().await.unwrap_err();
        assert!(matches!(error, CredentialError::Refused { .. }), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("the client secret was refused"), "{text}");
        assert!(text.contains("AADSTS7000215: Invalid client secret provided."), "{text}");
        assert!(text.contains("Check AZURE_TENANT_ID"), "{text}");
        assert!(!format!("{text}{error:?}{tokens:?}").contains(SECRET), "{error:?}");
        assert_eq!(bearer(&tokens).await, "at last", "it is asked again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_entra_is_no_fault_of_the_settings() {
    for broken in [(503, json!("no")), (200, json!("<html>")), (502, json!({}))] {
        let script = Script::new([broken]);
        let error = tokens_of_entra(&script, client_secret()).await.bearer().await.unwrap_err();
        assert!(matches!(error, CredentialError::Unavailable { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_entra_is_no_fault_of_the_settings() {
    let (_, http) = entra_tls::serve(Router::new()).await;
    let authority = Url::parse("https://127.0.0.1:1/").unwrap();
    let http_without_proxy = http.clone();
    let settings = client_secret();
    let credentials = Credentials { settings, authority, http, http_without_proxy };
    let error = AccessTokens::new(credentials, SCOPE, Clock::system()).bearer().await.unwrap_err();
    assert!(matches!(error, CredentialError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("refused (os error"), "{error}");
    assert!(error.to_string().contains("https://127.0.0.1:1/"), "{error}");
}

#[tokio::test]
async fn entra_is_asked_over_https_only() {
    let settings = client_secret();
    let (authority, http) = (Url::parse("http://127.0.0.1:1/").unwrap(), reqwest::Client::new());
    let credentials = Credentials { settings, authority, http_without_proxy: http.clone(), http };
    let error = credentials.build().unwrap_err();
    assert!(error.to_string().contains("HTTPS"), "{error}");
}

// What azure_identity takes from the environment is tested in processes with their own.

#[tokio::test]
async fn a_managed_identity_is_asked_without_a_proxy() {
    let (script, endpoint) = identity_endpoint([(200, identity_token("from-the-platform"))]).await;
    let child = child("managed", &[("IDENTITY_ENDPOINT", &endpoint)]).await;
    assert_eq!(said(&child), "token from-the-platform");
    let asked = &script.asked()[0];
    assert_eq!(asked["resource"], "https://monitor.azure.com");
    assert_eq!(asked["api-version"], "2019-08-01");
    assert_eq!(asked["header"], "header-1");
    assert_eq!(asked.get("client_id"), None);
}

#[tokio::test]
async fn a_user_assigned_identity_is_asked_for_by_its_client_id() {
    let (script, endpoint) = identity_endpoint([(200, identity_token("the-users"))]).await;
    let child = child("user-assigned", &[("IDENTITY_ENDPOINT", &endpoint)]).await;
    assert_eq!(said(&child), "token the-users");
    assert_eq!(script.asked()[0]["client_id"], "client-2");
}

#[tokio::test]
async fn an_identity_that_the_app_does_not_have_is_refused() {
    let body = json!({"statusCode": 400, "message": "No User Assigned Identity found"});
    let (_, endpoint) = identity_endpoint([(400, body)]).await;
    let child = child("managed", &[("IDENTITY_ENDPOINT", &endpoint)]).await;
    let said = said(&child);
    assert!(said.starts_with("refused the managed identity was refused"), "{said}");
    assert!(said.contains("No User Assigned Identity found"), "{said}");
    assert!(said.contains("Turn on the system-assigned identity"), "{said}");
    assert!(!said.contains("header-1"), "{said}");
}

async fn identity_endpoint(answers: [(u16, Value); 1]) -> (Script, String) {
    let script = Script::new(answers);
    let app = app(&script);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/msi/token", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (script, endpoint)
}

fn identity_token(token: &str) -> Value {
    let expires_on = (Clock::system().now() + TimeDelta::hours(8)).timestamp().to_string();
    json!({
        "access_token": token, "expires_on": expires_on, "token_type": "Bearer",
        "resource": "https://monitor.azure.com",
    })
}

#[cfg(unix)]
#[tokio::test]
async fn the_persons_login_is_asked_once_per_token() {
    let folder = tempfile::tempdir().unwrap();
    let expires_on = (Clock::system().now() + TimeDelta::hours(1)).timestamp();
    let answer = json!({"accessToken": "of-a-person", "expires_on": expires_on, "tokenType": "B"});
    let script = format!("echo \"$@\" >> {}/asked\necho '{answer}'", folder.path().display());
    let child = child("az", &[("PATH", &fake_az(folder.path(), &script))]).await;
    assert_eq!(said(&child), "token of-a-person");
    let asked = std::fs::read_to_string(folder.path().join("asked")).unwrap();
    assert_eq!(asked, format!("account get-access-token -o json --scope {SCOPE}\n"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_person_who_is_not_logged_in_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1";
    let child_said = said(&child("az", &[("PATH", &fake_az(folder.path(), script))]).await);
    assert!(child_said.starts_with("refused the Azure CLI's login"), "{child_said}");
    assert!(child_said.contains("Please run 'az login' to setup account."), "{child_said}");

    let empty = tempfile::tempdir().unwrap();
    let child_said = said(&child("az", &[("PATH", empty.path().to_str().unwrap())]).await);
    assert!(child_said.contains("az not found on PATH"), "{child_said}");
    assert!(child_said.contains("Install the Azure CLI"), "{child_said}");
}

#[cfg(unix)]
fn fake_az(folder: &Path, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let az = folder.join("az");
    std::fs::write(&az, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder.display().to_string()
}

/// Runs [`in_a_process_of_its_own`] as one, with this environment.
async fn child(credential: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "in_a_process_of_its_own", "--nocapture"])
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("IDENTITY_HEADER", "header-1")
        .env("CREDENTIAL", credential)
        .envs(environment.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What a child's first call came to.
fn said(child: &Output) -> String {
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("CHILD: "));
    let (_, said) = line.unwrap_or_else(|| panic!("{child:?}"));
    said.to_owned()
}

#[tokio::test]
async fn in_a_process_of_its_own() {
    let settings = match std::env::var("CREDENTIAL").as_deref() {
        Ok("managed") => CredentialSettings::ManagedIdentity { client_id: None },
        Ok("user-assigned") => {
            CredentialSettings::ManagedIdentity { client_id: Some("client-2".to_owned()) }
        }
        Ok("az") => CredentialSettings::AzureCli,
        _ => return,
    };
    let credentials = Credentials {
        settings,
        authority: Url::parse("https://localhost:1/").unwrap(),
        http: reqwest::Client::new(),
        http_without_proxy: reqwest::Client::builder().no_proxy().build().unwrap(),
    };
    let tokens = AccessTokens::new(credentials, SCOPE, Clock::system());
    let first = tokens.bearer().await;
    println!(
        "\nCHILD: {}",
        match &first {
            Ok(token) => format!("token {}", token.expose_secret()),
            Err(error @ CredentialError::Refused { .. }) => format!("refused {error}"),
            Err(error) => format!("unavailable {error}"),
        }
    );
    if let Ok(token) = first {
        assert_eq!(bearer(&tokens).await, token.expose_secret(), "it is kept");
    }
}
