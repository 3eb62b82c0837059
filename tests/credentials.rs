//! Each kind of credential against the other side it has: Entra over HTTPS, the platform's identity
//! endpoint, and an `az`.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::get;
use chrono::{NaiveDate, TimeDelta};
use futures::stream;
use mimecast_sentinel::azure::blob::{BlobAccess, BlobStore};
use mimecast_sentinel::azure::credential::{AccessTokens, CredentialError, Credentials, Ways};
use mimecast_sentinel::http::{Clients, RetryPolicy};
use mimecast_sentinel::pipeline::{Fault, Interrupt, Source as _};
use mimecast_sentinel::seams::{Clock, Deadline, Random};
use mimecast_sentinel::settings::{CredentialSettings, SecretSettings};
use mimecast_sentinel::sources::mimecast::{Limits, MimecastSource, Options};
use mimecast_sentinel::store::{Store as _, StoreError};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::advance;
use url::{Url, form_urlencoded};

use crate::support::{entra_tls, own_process, script};

const SCOPE: &str = "https://monitor.azure.com/.default";
const SECRET: &str = "the~secret.itself";
const HEADER: &str = "header-canary";

/// The other side: what it was asked, and what it answers next (the last one again and again).
#[derive(Clone, Default)]
struct Script {
    asked: Arc<Mutex<Vec<HashMap<String, String>>>>,
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = (u16, Value)>) -> Self {
        Self::of_text(answers.into_iter().map(|(status, json)| (status, json.to_string())))
    }

    fn of_text(answers: impl IntoIterator<Item = (u16, String)>) -> Self {
        let script = Self::default();
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
        secret: SecretSettings::Given(SECRET.into()),
    }
}

async fn tokens_of_entra(script: &Script, settings: CredentialSettings) -> AccessTokens {
    let (authority, http) = entra_tls::serve(app(script)).await;
    AccessTokens::new(credentials(settings, authority, http), SCOPE)
}

fn credentials(settings: CredentialSettings, authority: Url, http: reqwest::Client) -> Credentials {
    Credentials {
        settings,
        authority,
        ways: Ways {
            http_without_proxy: http.clone(),
            http,
            retry: impatient(),
            seams: (Clock::system(), Random::seeded(1)),
        },
    }
}

fn impatient() -> RetryPolicy {
    let pause = Duration::from_millis(5);
    RetryPolicy { first: pause, longest: pause, throttled_at_least: pause, ..Default::default() }
}

async fn bearer(tokens: &AccessTokens) -> String {
    tokens.get().await.unwrap().secret.expose_secret().to_owned()
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

    tokens.discard(&tokens.get().await.unwrap()).await;
    assert_eq!([bearer(&tokens).await, bearer(&tokens).await], ["second"; 2]);
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_in_its_last_five_minutes_is_renewed() {
    let script = Script::new([token("first", 299), token("second", 3600)]);
    let tokens = tokens_of_entra(&script, client_secret()).await;
    assert_eq!(bearer(&tokens).await, "first");
    // Each is used for a second at least.
    advance(Duration::from_secs(1)).await;
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
    tokens.discard(&tokens.get().await.unwrap()).await;
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
    let error = tokens_of_entra(&Script::default(), settings).await.get().await.unwrap_err();
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
        let script = Script::new([(401, refusal), token("at-last", 3600)]);
        let tokens = tokens_of_entra(&script, client_secret()).await;
        let error = tokens.get().await.unwrap_err();
        assert!(matches!(error, CredentialError::Refused { .. }), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("the client secret was refused"), "{text}");
        assert!(text.contains("AADSTS7000215: Invalid client secret provided."), "{text}");
        assert!(text.contains("Check AZURE_TENANT_ID"), "{text}");
        assert!(!format!("{text}{error:?}{tokens:?}").contains(SECRET), "{error:?}");
        assert_eq!(bearer(&tokens).await, "at-last", "it is asked again");
    }
}

#[tokio::test]
async fn every_life_of_a_token_is_read_and_so_is_a_byte_order_mark() {
    for life in [
        json!({"expires_in": 3599}),
        json!({"expires_in": "3599"}),
        json!({"expires_in": 3599.5}),
        json!({"expires_on": "4000000000"}),
        json!({}),
    ] {
        let mut answer = life.clone();
        answer["access_token"] = "first".into();
        let script = Script::of_text([(200, format!("\u{feff}{answer}"))]);
        let tokens = tokens_of_entra(&script, client_secret()).await;
        assert_eq!([bearer(&tokens).await, bearer(&tokens).await], ["first"; 2], "{life}");
        assert_eq!(script.asked().len(), 1, "{life}: it is kept");
    }
}

#[tokio::test]
async fn a_broken_entra_is_no_fault_of_the_settings() {
    let page = "<html><title>Web Page Blocked</title></html>";
    for (broken, said) in [
        ((503, "no"), "HTTP 503: no"),
        ((200, page), "it answered 200, but it is an HTML page"),
        ((403, page), "HTTP 403: an HTML page: Web Page Blocked"),
        ((407, "proxy authentication required"), "HTTP 407: proxy authentication required"),
        ((502, "{}"), "HTTP 502: {}"),
        ((200, r#"{"error":"temporarily_unavailable"}"#), "it says temporarily_unavailable"),
        ((204, ""), "it answered 204, but it is empty"),
    ] {
        let script = Script::of_text([(broken.0, broken.1.to_owned()), good()]);
        let tokens = tokens_of_entra(&script, client_secret()).await;
        assert_eq!(bearer(&tokens).await, "good", "{broken:?}: it is asked again");

        let script = Script::of_text([(broken.0, broken.1.to_owned())]);
        let tokens = tokens_of_entra(&script, client_secret()).await;
        let error = tokens.get().await.unwrap_err();
        assert!(matches!(error, CredentialError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(script.asked().len() > 3, "{broken:?}");
    }
}

fn good() -> (u16, String) {
    let (status, json) = token("good", 3600);
    (status, json.to_string())
}

/// What the blob store makes of it, through Azure's library.
#[tokio::test(start_paused = true)]
async fn a_store_without_a_token_says_whose_fault_it_is() {
    let refusal = json!({"error": "invalid_client", "error_description": "AADSTS7000215: no"});
    for (answer, refused, said) in [
        ((401, refusal), true, "the client secret was refused: HTTP 401: invalid_client: AADSTS"),
        ((503, json!({})), false, "the client secret got no token: HTTP 503"),
    ] {
        let (authority, http) = entra_tls::serve(app(&Script::new([answer]))).await;
        let credentials = credentials(client_secret(), authority, http.clone());
        let container = Url::parse("https://127.0.0.1:1/account/container").unwrap();
        let access = BlobAccess::Identity(Arc::new(credentials));
        let store = BlobStore::new(container, access, &http).unwrap();
        let error = store.read("a").await.unwrap_err();
        assert_eq!(matches!(error, StoreError::Refused { .. }), refused, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn callers_at_the_same_time_share_one_failed_request_for_a_token() {
    let refusal = json!({"error": "invalid_client", "error_description": "AADSTS7000215: no"});
    let script = Script::new([(401, refusal)]);
    let (authority, http) = entra_tls::serve(app(&script)).await;
    let credentials = credentials(client_secret(), authority, http.clone());
    let tokens = AccessTokens::new(credentials.clone(), SCOPE);
    let (a, b) = tokio::join!(tokens.get(), tokens.get());
    assert_eq!(a.unwrap_err().to_string(), b.unwrap_err().to_string());
    assert_eq!(script.asked().len(), 1);

    // And so do those of the blob store, such as the streams that renew their leases.
    let container = Url::parse("https://127.0.0.1:1/account/container").unwrap();
    let access = BlobAccess::Identity(Arc::new(credentials));
    let store = BlobStore::new(container, access, &http).unwrap();
    let (a, b) = tokio::join!(store.read("a"), store.read("b"));
    for error in [a.unwrap_err(), b.unwrap_err()] {
        assert!(error.to_string().contains("AADSTS7000215: no"), "{error}");
    }
    assert_eq!(script.asked().len(), 2, "one of each scope");
    assert!(store.read("a").await.is_err());
    assert_eq!(script.asked().len(), 3, "who comes later asks again");
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_entra_is_no_fault_of_the_settings() {
    let (_, http) = entra_tls::serve(Router::new()).await;
    let authority = Url::parse("https://127.0.0.1:1/").unwrap();
    let credentials = credentials(client_secret(), authority, http);
    let error = AccessTokens::new(credentials, SCOPE).get().await.unwrap_err();
    assert!(matches!(error, CredentialError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("refused (os error"), "{error}");
    assert!(error.to_string().contains("https://127.0.0.1:1/"), "{error}");
}

#[tokio::test]
async fn entra_is_asked_over_https_only() {
    let (authority, http) = (Url::parse("http://127.0.0.1:1/").unwrap(), reqwest::Client::new());
    let credentials = credentials(client_secret(), authority, http);
    let error = AccessTokens::new(credentials, SCOPE).get().await.unwrap_err();
    assert!(error.to_string().contains("HTTPS"), "{error}");
}

// The managed identity.

#[tokio::test]
async fn a_managed_identity_is_asked_without_a_proxy() {
    let (script, endpoint) = identity_endpoint([identity_token("from-the-platform")]).await;
    let environment = [("HTTP_PROXY", "http://127.0.0.1:1"), ("ENDPOINT", endpoint.as_str())];
    let child = child("managed", &environment).await;
    assert_eq!(said(&child), "token from-the-platform");
    let asked = &script.asked()[0];
    assert_eq!(asked["resource"], "https://monitor.azure.com");
    assert_eq!(asked["api-version"], "2019-08-01");
    assert_eq!(asked["header"], HEADER);
    assert_eq!(asked.get("client_id"), None);
}

#[tokio::test]
async fn a_user_assigned_identity_is_asked_for_by_its_client_id() {
    let (script, endpoint) = identity_endpoint([identity_token("the-users")]).await;
    let tokens = tokens_of_identity(&endpoint, Some("client-2"));
    assert_eq!(bearer(&tokens).await, "the-users");
    assert_eq!(script.asked()[0]["client_id"], "client-2");
}

#[tokio::test]
async fn an_identity_that_the_app_does_not_have_is_refused() {
    let body = json!({"statusCode": 400, "message": "No User Assigned Identity found"});
    let (script, endpoint) = identity_endpoint([(400, body.to_string())]).await;
    let error = tokens_of_identity(&endpoint, None).get().await.unwrap_err();
    assert!(matches!(error, CredentialError::Refused { .. }), "{error}");
    let said = error.to_string();
    assert!(said.starts_with("the managed identity was refused"), "{said}");
    assert!(said.contains("No User Assigned Identity found"), "{said}");
    assert!(said.contains("Turn on the system-assigned identity"), "{said}");
    assert_eq!(script.asked().len(), 1, "it is not asked again");
}

#[tokio::test]
async fn every_life_that_the_identity_endpoint_gives_is_read() {
    for life in [
        json!({"expires_on": "4000000000"}),
        json!({"expires_on": 4_000_000_000_u64}),
        json!({"expires_on": "2096-10-02T07:06:40Z"}),
        json!({"expires_on": "10/02/2096 07:06:40 +00:00"}),
        json!({"expires_in": 3600}),
        json!({"expires_in": "3600"}),
    ] {
        let mut answer = life.clone();
        answer["access_token"] = "first".into();
        let (script, endpoint) = identity_endpoint([(200, answer.to_string())]).await;
        let tokens = tokens_of_identity(&endpoint, None);
        assert_eq!([bearer(&tokens).await, bearer(&tokens).await], ["first"; 2], "{life}");
        assert_eq!(script.asked().len(), 1, "{life}: it is kept");
    }
}

#[tokio::test]
async fn an_identity_endpoint_that_is_not_ready_is_asked_again() {
    for status in [404, 408, 410, 429, 500, 503] {
        let not_ready = (status, "not ready".to_owned());
        let answers = [not_ready.clone(), not_ready.clone(), identity_token("at-last")];
        let (script, endpoint) = identity_endpoint(answers).await;
        assert_eq!(bearer(&tokens_of_identity(&endpoint, None)).await, "at-last");
        assert_eq!(script.asked().len(), 3, "{status}");

        let (script, endpoint) = identity_endpoint([not_ready]).await;
        let error = tokens_of_identity(&endpoint, None).get().await.unwrap_err();
        assert!(matches!(error, CredentialError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains(&format!("HTTP {status}: not ready")), "{error}");
        assert!(error.to_string().contains("IDENTITY_ENDPOINT"), "{error}");
        assert_eq!(script.asked().len(), impatient().attempts as usize, "{status}");
    }
}

#[tokio::test]
async fn a_reply_without_an_end_is_not_read_to_its_end() {
    let endless = || async {
        let piece = Ok::<_, Infallible>(Bytes::from(vec![b' '; 8 * 1024]));
        Body::from_stream(stream::repeat(piece))
    };
    let endpoint = serve(Router::new().fallback(endless)).await;
    let (authority, http) = entra_tls::serve(Router::new().fallback(endless)).await;
    let entra = AccessTokens::new(credentials(client_secret(), authority, http), SCOPE);
    for tokens in [tokens_of_identity(&endpoint, None), entra] {
        let error = tokens.get().await.unwrap_err();
        assert!(matches!(error, CredentialError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("larger than 65536 bytes"), "{error}");
    }
}

async fn identity_endpoint<const N: usize>(answers: [(u16, String); N]) -> (Script, String) {
    let script = Script::of_text(answers);
    let endpoint = serve(app(&script)).await;
    (script, endpoint)
}

async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/msi/token", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    endpoint
}

fn managed(endpoint: &str, client_id: Option<&str>) -> CredentialSettings {
    CredentialSettings::ManagedIdentity {
        endpoint: Url::parse(endpoint).unwrap(),
        header: HEADER.into(),
        client_id: client_id.map(str::to_owned),
    }
}

fn tokens_of_identity(endpoint: &str, client_id: Option<&str>) -> AccessTokens {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let authority = Url::parse("https://localhost:1/").unwrap();
    AccessTokens::new(credentials(managed(endpoint, client_id), authority, http), SCOPE)
}

fn identity_token(token: &str) -> (u16, String) {
    let expires_on = (Clock::system().now() + TimeDelta::hours(8)).timestamp().to_string();
    let answer = json!({
        "access_token": token, "expires_on": expires_on, "token_type": "Bearer",
        "resource": "https://monitor.azure.com",
    });
    (200, answer.to_string())
}

// Mimecast's token.

/// A source whose token endpoint follows the script, and whose streams are caught up.
async fn mimecast(script: &Script) -> MimecastSource {
    let listing = r#"{"value":[],"@nextPage":"n","isCaughtUp":true}"#;
    let app = Router::new()
        .route("/siem/v1/batch/events/ci", get(move || async move { listing }))
        .merge(app(script));
    let options = Options {
        base_url: serve(app).await.parse::<Url>().unwrap().join("/").unwrap(),
        client_id: "client-1".to_owned(),
        client_secret: Arc::new(SecretString::from(SECRET)),
        types: vec!["entities"],
        start: NaiveDate::from_ymd_opt(2026, 1, 1).unwrap(),
        calls_per_15_minutes: 1_000,
        call_log: None,
        limits: Limits { line: 1, file: 1 },
        loopback: true,
        retry: impatient(),
    };
    let clients = Clients::new(true).unwrap();
    MimecastSource::new(options, clients, Clock::system(), Random::seeded(1))
}

async fn list(source: &MimecastSource) -> Result<(), Fault> {
    let deadline = Deadline::after(Duration::from_secs(60));
    match source.page(&source.streams()[0], None, deadline).await {
        Ok(_) => Ok(()),
        Err(Interrupt::Fault(fault)) => Err(*fault),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_life_of_mimecasts_token_is_read_and_so_is_a_byte_order_mark() {
    for life in [
        json!({"expires_in": 1799}),
        json!({"expires_in": "1799"}),
        json!({"expires_in": 1799.9}),
        json!({"expires_in": null}),
        json!({"expires_on": "4000000000"}),
        json!({}),
    ] {
        let mut answer = life.clone();
        answer["access_token"] = "first".into();
        let script = Script::of_text([(200, format!("\u{feff}{answer}"))]);
        let source = mimecast(&script).await;
        list(&source).await.unwrap();
        list(&source).await.unwrap();
        assert_eq!(script.asked().len(), 1, "{life}: it is kept");
    }
}

#[tokio::test]
async fn what_is_no_token_of_mimecasts_is_a_failure_that_passes() {
    let page = "<!DOCTYPE html><html><title>Web Page Blocked</title></html>";
    for ((status, body), said) in [
        ((200, page), "it answered 200, but it is an HTML page, not JSON (from a proxy"),
        ((403, page), "it answered 403 with an HTML page: Web Page Blocked"),
        ((200, "<Error/>"), "it answered 200, but it is XML, not JSON (from a proxy"),
        (
            (200, r#"{"fail":[{"code":"err_internal","message":"temporary"}]}"#),
            "it answered 200, but it says err_internal: temporary",
        ),
        ((200, r#"{"expires_in":1799}"#), "JSON of another shape: missing field `access_token`"),
        ((204, ""), "it answered 204, but it is empty"),
    ] {
        let script = Script::of_text([(status, body.to_owned()), good()]);
        let source = mimecast(&script).await;
        let first = list(&source).await;
        assert!(status == 403 || first.is_ok(), "{body}: it is asked again");

        let script = Script::of_text([(status, body.to_owned())]);
        let fault = list(&mimecast(&script).await).await.unwrap_err();
        assert_eq!(
            (fault.code.as_str(), fault.settings),
            ("mimecast-unreachable", false),
            "{fault}"
        );
        assert!(fault.message.contains(said), "{fault}");
    }
}

// What takes something from the environment is tested in processes with their own.

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
async fn a_person_who_is_not_logged_in_gets_an_error_that_says_so() {
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
fn fake_az(folder: &Path, text: &str) -> String {
    script::write(&folder.join("az"), &format!("#!/bin/sh\n{text}\n"));
    folder.display().to_string()
}

/// Runs [`credential_of_the_environment`] as one, with this environment.
async fn child(credential: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(own_process::args(module_path!(), "credential_of_the_environment"))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
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
async fn credential_of_the_environment() {
    let settings = match std::env::var("CREDENTIAL").as_deref() {
        Ok("managed") => managed(&std::env::var("ENDPOINT").unwrap(), None),
        Ok("az") => CredentialSettings::AzureCli,
        _ => return,
    };
    let clients = Clients::new(true).unwrap();
    let authority = Url::parse("https://localhost:1/").unwrap();
    let mut credentials = credentials(settings, authority, clients.api);
    credentials.ways.http_without_proxy = clients.local;
    let tokens = AccessTokens::new(credentials, SCOPE);
    let first = tokens.get().await;
    println!(
        "\nCHILD: {}",
        match &first {
            Ok(token) => format!("token {}", token.secret.expose_secret()),
            Err(error @ CredentialError::Refused { .. }) => format!("refused {error}"),
            Err(error) => format!("unavailable {error}"),
        }
    );
    if let Ok(token) = first {
        assert_eq!(bearer(&tokens).await, token.secret.expose_secret(), "it is kept");
    }
}
