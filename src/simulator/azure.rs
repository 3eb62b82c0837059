//! Entra, the managed identity of App Service, a key vault, and the Logs Ingestion endpoint.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::graph::GRAPH;
use super::mimecast::text;
use super::reply::{self, Accepted, Refusal, field};
use super::rows;
use super::state::{
    CLIENT_ID, IDENTITY_HEADER, OTHER_RULE_ID, RULE_ID, SECRET_NAME, Shared, TENANT_ID,
};
use super::{Endpoint, Keep, SimulatorOptions};
use crate::table::Table;

/// How long an Azure access token lives.
const TOKEN_SECONDS: i64 = 3600;

/// `GET /msi/token`, as App Service serves it.
pub(super) async fn managed_identity(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let refuse = |status, message| {
        Refusal::breach(status, "invalid_request", message).answer(&shared, Endpoint::AzureToken)
    };
    if text(&headers, HeaderName::from_static("x-identity-header")) != IDENTITY_HEADER {
        return refuse(401, "the X-IDENTITY-HEADER is not the one of the environment");
    }
    if field(query.as_bytes(), "api-version").as_deref() != Some("2019-08-01") {
        return refuse(400, "the api-version is not 2019-08-01");
    }
    let Some(resource) = field(query.as_bytes(), "resource").filter(|name| !name.is_empty()) else {
        return refuse(400, "the resource is missing");
    };
    let expires_on = shared.options.clock.now().timestamp() + TOKEN_SECONDS;
    let token = issue(&shared, &resource);
    let client_id = field(query.as_bytes(), "client_id").unwrap_or_else(|| CLIENT_ID.to_owned());
    reply::json(
        200,
        &json!({"access_token": token, "expires_on": expires_on.to_string(),
                "resource": resource, "token_type": "Bearer", "client_id": client_id}),
    )
}

/// `POST /<tenant>/oauth2/v2.0/token`
pub(super) async fn entra(
    State(shared): State<Arc<Shared>>,
    Path(tenant): Path<String>,
    body: Bytes,
) -> Response {
    match grant(&shared, &tenant, &body) {
        Ok(resource) => reply::json(
            200,
            &json!({"access_token": issue(&shared, &resource), "token_type": "Bearer",
                    "expires_in": TOKEN_SECONDS, "ext_expires_in": TOKEN_SECONDS}),
        ),
        Err(refusal) => refusal.answer(&shared, Endpoint::AzureToken),
    }
}

/// The resource that Entra grants access to.
fn grant(shared: &Shared, tenant: &str, body: &[u8]) -> Result<String, Refusal> {
    let is = |name, value: &str| field(body, name).as_deref() == Some(value);
    if tenant != TENANT_ID {
        let message = format!("AADSTS90002: Tenant '{tenant}' not found.");
        return Err(Refusal::breach(400, "invalid_request", message));
    }
    if !is("client_id", CLIENT_ID) {
        let message = "AADSTS700016: The application was not found in the directory.";
        return Err(Refusal::breach(400, "unauthorized_client", message));
    }
    if !is("grant_type", "client_credentials") {
        let message = "AADSTS70003: The grant type is not supported.";
        return Err(Refusal::breach(400, "unsupported_grant_type", message));
    }
    if let Some(assertion) = field(body, "client_assertion") {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        shared.state().assertions.push(assertion);
        if !is("client_assertion_type", kind) {
            let message = "AADSTS50027: The client assertion's type is not that of a JWT.";
            return Err(Refusal::breach(400, "invalid_request", message));
        }
    } else if !is("client_secret", &shared.state().client_secret) {
        let message = "AADSTS7000215: Invalid client secret provided.";
        return Err(Refusal::breach(401, "invalid_client", message));
    }
    field(body, "scope")
        .and_then(|scope| scope.strip_suffix("/.default").map(str::to_owned))
        .ok_or_else(|| {
            let message = "AADSTS1002012: The scope must end in /.default.";
            Refusal::breach(400, "invalid_scope", message)
        })
}

/// A token for `resource`: a JWT without a signature, with the claims that Azurite looks at.
fn issue(shared: &Shared, resource: &str) -> String {
    let now = shared.options.clock.now().timestamp();
    let mut state = shared.state();
    let mut claims = json!({
        "aud": resource, "iss": format!("https://sts.windows.net/{TENANT_ID}/"),
        "iat": now, "nbf": now - 300, "exp": now + TOKEN_SECONDS,
        "appid": CLIENT_ID, "tid": TENANT_ID, "uti": state.fresh(),
    });
    if resource == GRAPH {
        claims["roles"] = json!(state.graph.roles);
    }
    let encode = |claims: &Value| URL_SAFE_NO_PAD.encode(claims.to_string());
    let token = format!("{}.{}.", encode(&json!({"alg": "none", "typ": "JWT"})), encode(&claims));
    state.azure_tokens.insert(token.clone(), resource.to_owned());
    token
}

/// `GET /secrets/<name>` of a key vault.
pub(super) async fn secret(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let refuse = |refusal: Refusal| refusal.answer(&shared, Endpoint::Secret);
    if field(query.unwrap_or_default().as_bytes(), "api-version").as_deref() != Some("7.4") {
        return refuse(Refusal::breach(400, "BadParameter", "The api-version is not 7.4."));
    }
    if let Err(refusal) = authorize(&shared, &headers, "https://vault.azure.") {
        return refuse(refusal);
    }
    if name != SECRET_NAME {
        let message = format!("A secret with (name/id) {name} was not found in this key vault.");
        return refuse(Refusal::plain(404, "SecretNotFound", message));
    }
    let value = shared.state().client_secret.clone();
    reply::json(200, &json!({"value": value, "attributes": {"enabled": true}}))
}

/// `POST /dataCollectionRules/<rule>/streams/<stream>`
pub(super) async fn ingest(
    State(shared): State<Arc<Shared>>,
    Path((rule, stream)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query = query.unwrap_or_default();
    let taken = table_at(&shared, &rule, &stream, query.as_bytes()).and_then(|table| {
        authorize(&shared, &headers, "https://monitor.azure.")?;
        if rule != RULE_ID || !shared.state().has_role {
            return Err(Refusal::plain(403, "OperationFailed", reply::NO_ROLE));
        }
        take(&shared, table, &headers, &body)
    });
    match taken {
        Ok(rows) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response.extensions_mut().insert(Accepted(rows));
            response
        }
        Err(refusal) => refusal.answer(&shared, Endpoint::Post),
    }
}

/// The table whose rows are posted to an address.
fn table_at(
    shared: &Shared,
    rule: &str,
    stream: &str,
    query: &[u8],
) -> Result<&'static Table, Refusal> {
    if field(query, "api-version").as_deref() != Some("2023-01-01") {
        let message = "The api-version is not supported; use 2023-01-01.";
        return Err(Refusal::breach(400, "UnsupportedApiVersion", message));
    }
    if ![RULE_ID, OTHER_RULE_ID].contains(&rule) {
        let message = format!("Data collection rule with immutable Id '{rule}' not found.");
        return Err(Refusal::breach(404, "NotFound", message));
    }
    let table = shared.options.tables.iter().find(|table| table.stream == stream);
    table.copied().ok_or_else(|| {
        let message = format!("The stream {stream} was not configured in the rule.");
        Refusal::breach(400, "InvalidStream", message)
    })
}

/// Whether there is a token for a resource that begins so.
fn authorize(shared: &Shared, headers: &HeaderMap, resource: &str) -> Result<(), Refusal> {
    let breach = |message: String| Err(Refusal::breach(401, "InvalidToken", message));
    let Some(token) = text(headers, AUTHORIZATION).strip_prefix("Bearer ") else {
        return breach("there is no bearer token".to_owned());
    };
    match shared.state().azure_tokens.get(token) {
        Some(of) if of.starts_with(resource) => Ok(()),
        Some(of) => breach(format!("the bearer token is for {of}")),
        None => breach("the bearer token is not one of Azure's".to_owned()),
    }
}

/// Takes the rows of a body and says how many there are.
fn take(
    shared: &Shared,
    table: &'static Table,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<u64, Refusal> {
    let SimulatorOptions { max_body_bytes, any_program, keep, .. } = &shared.options;
    let plain = *any_program && !headers.contains_key(CONTENT_ENCODING);
    if !plain && text(headers, CONTENT_ENCODING) != "gzip" {
        return Err(Refusal::breach(400, "InvalidPayload", "the body is not gzip-encoded"));
    }
    if !text(headers, CONTENT_TYPE).starts_with("application/json") {
        return Err(Refusal::breach(415, "InvalidContentType", "the body is not called JSON"));
    }
    let json = rows::json(body, !plain, *max_body_bytes)?;
    let poison = shared.state().plan.poison.clone();
    let (count, rows) = if *keep == Keep::Count && poison.is_none() {
        (rows::count(&json)?, Vec::new())
    } else {
        let rows = rows::read(&json, (!any_program).then_some(table))?;
        (rows.len() as u64, rows)
    };
    if let Some(at) = poison.and_then(|poison| rows.iter().position(|row| poison(row))) {
        return Err(Refusal::plain(400, "InvalidRow", format!("Row {at} cannot be taken.")));
    }
    let rows = if *keep == Keep::Count { Vec::new() } else { rows };
    let mut state = shared.state();
    state.calls.largest_body = state.calls.largest_body.max(json.len());
    *state.calls.row_bytes.entry(table.stream.to_owned()).or_default() += json.len() as u64;
    state.landed.take(table.stream, count, rows).map_err(|error| {
        Refusal::breach(500, "InternalError", format!("the rows cannot be kept: {error}"))
    })?;
    state.calls.accepted_posts += 1;
    Ok(count)
}
