//! Mimecast's token endpoint, its listing of batch files, and the object store behind it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use chrono::{NaiveDate, SecondsFormat, TimeDelta};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::reply::{self, Refusal, field};
use super::state::{CLIENT_ID, Shared};
use super::world::{damage, gzip};
use super::{BatchFile, Endpoint, NextToken, Page};

const BAD_REQUEST: &str = "Request Validation Failed";

/// `POST /oauth/token`
pub(super) async fn token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = "application/x-www-form-urlencoded";
    if !text(&headers, CONTENT_TYPE).starts_with(form) {
        let refusal = Refusal::breach(400, BAD_REQUEST, "the token request is not a form");
        return refusal.answer(&shared, Endpoint::MimecastToken);
    }
    let is = |name, value: &str| field(&body, name).as_deref() == Some(value);
    let secret = shared.state().client_secret.clone();
    if !is("client_id", CLIENT_ID)
        || !is("client_secret", &secret)
        || !is("grant_type", "client_credentials")
    {
        let message = "Client credentials are invalid";
        return Refusal::breach(401, "InvalidClientIdentifier", message)
            .answer(&shared, Endpoint::MimecastToken);
    }
    let seconds = shared.options.mimecast_token_seconds;
    let mut state = shared.state();
    let token = state.fresh();
    state.mimecast_tokens.insert(token.clone(), Instant::now() + Duration::from_secs(seconds));
    let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": seconds,
                        "scope": ""});
    reply::json(200, &answer)
}

/// `GET /siem/v1/batch/events/ci`
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let page = match listed(&shared, &headers, query.unwrap_or_default().as_bytes()) {
        Ok(page) => page.to_string(),
        Err(refusal) => return refusal.answer(&shared, Endpoint::Listing),
    };
    let request_id = HeaderValue::from_str(&shared.state().fresh());
    let zipped = text(&headers, ACCEPT_ENCODING).contains("gzip");
    let body = if zipped { gzip(page.as_bytes()) } else { page.into_bytes() };
    let mut response = reply::answer(200, "application/octet-stream", body);
    if zipped {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(request_id) = request_id {
        response.headers_mut().insert("x-request-id", request_id);
    }
    response
}

fn listed(shared: &Shared, headers: &HeaderMap, query: &[u8]) -> Result<Value, Refusal> {
    if text(headers, ACCEPT_ENCODING).contains("zstd") {
        return Err(Refusal::breach(500, "InternalError", "Accept-Encoding offers zstd"));
    }
    authorize(shared, headers)?;
    let wanted = Wanted::read(query)?;
    let index = wanted.index(shared)?;
    Ok(reply_for(shared, &wanted.stream, index))
}

fn authorize(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(token) = text(headers, AUTHORIZATION).strip_prefix("Bearer ") else {
        return Err(Refusal::breach(401, "Unauthorized Request", "there is no bearer token"));
    };
    match shared.state().mimecast_tokens.get(token) {
        Some(end) if Instant::now() < *end => Ok(()),
        Some(_) => Err(Refusal::plain(401, "token_expired", "Access Token Expired")),
        None => Err(Refusal::breach(
            401,
            "token_verification_failed",
            "the bearer token is not one of Mimecast's",
        )),
    }
}

/// What a listing asks for.
struct Wanted {
    stream: String,
    token: Option<String>,
    from: Option<NaiveDate>,
}

impl Wanted {
    fn read(query: &[u8]) -> Result<Self, Refusal> {
        let breach = |message: String| Refusal::breach(400, BAD_REQUEST, message);
        for (name, _) in url::form_urlencoded::parse(query) {
            let known = ["type", "pageSize", "nextPage", "dateRangeStartsAt", "dateRangeEndsAt"];
            if !known.contains(&&*name) {
                return Err(breach(format!("unknown parameter {name}")));
            }
        }
        let stream = field(query, "type").ok_or_else(|| breach("type is missing".to_owned()))?;
        let size = field(query, "pageSize").and_then(|size| size.parse::<u8>().ok());
        if !size.is_some_and(|size| (1..=100).contains(&size)) {
            return Err(breach("pageSize is not between 1 and 100".to_owned()));
        }
        let token = field(query, "nextPage");
        if token.as_deref() == Some("") {
            return Err(breach("nextPage is empty".to_owned()));
        }
        let mut dates = [None, None];
        for (date, name) in dates.iter_mut().zip(["dateRangeStartsAt", "dateRangeEndsAt"]) {
            *date = field(query, name)
                .map(|text| text.parse::<NaiveDate>())
                .transpose()
                .map_err(|_| breach(format!("{name} is not YYYY-MM-DD")))?;
        }
        if token.is_some() && dates != [None, None] {
            return Err(breach("a date is sent together with nextPage".to_owned()));
        }
        Ok(Self { stream, token, from: dates[0] })
    }

    /// The page it gets.
    fn index(&self, shared: &Shared) -> Result<usize, Refusal> {
        let state = shared.state();
        let Some(pages) = state.streams.get(&self.stream) else {
            let message = format!("unknown type '{}'", self.stream);
            return Err(Refusal::breach(400, BAD_REQUEST, message));
        };
        let Some(token) = &self.token else {
            let oldest = shared.oldest_day();
            let from = self.from.unwrap_or(oldest);
            if from < oldest {
                let message = shared.options.retention_message.clone();
                return Err(Refusal::plain(400, BAD_REQUEST, message));
            }
            return Ok(pages.partition_point(|page| page.day < from));
        };
        match state.read_page_token(token) {
            Some((stream, index)) if stream == self.stream && index <= pages.len() => Ok(index),
            Some((stream, _)) if stream != self.stream => {
                let message = format!("the token of {stream} is used for {}", self.stream);
                Err(Refusal::breach(400, BAD_REQUEST, message))
            }
            _ => {
                let message = shared.options.unknown_token_message.replace("{token}", token);
                Err(Refusal::plain(400, BAD_REQUEST, message))
            }
        }
    }
}

fn reply_for(shared: &Shared, stream: &str, index: usize) -> Value {
    let mut state = shared.state();
    let number = state.listed.entry(stream.to_owned()).or_default();
    *number += 1;
    let number = *number;
    let Some(page) = state.streams.get(stream).and_then(|pages| pages.get(index)).cloned() else {
        let token = state.page_token(stream, index);
        return json!({"value": [], "@nextPage": token, "isCaughtUp": true});
    };
    let Page { day, mut files, caught_up, next, verbatim } = page;
    if shared.forgot(day) {
        files.clear();
    }
    if let Some(reply) = verbatim {
        return reply;
    }
    let expiry = (shared.options.clock.now() + TimeDelta::hours(1))
        .to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut sign = |file: &BatchFile| {
        let key = format!("{stream}/{}", file.name);
        let signature = state.fresh();
        let url = format!(
            "{}/files/{key}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=3600\
             &X-Amz-SignedHeaders=host&X-Amz-Signature={signature}",
            state.files_at
        );
        state.signatures.insert(signature, (key, number));
        json!({"url": url, "expiry": file.expiry.as_ref().unwrap_or(&expiry), "size": file.size})
    };
    let value = files.iter().map(&mut sign).collect::<Vec<_>>();
    let mut reply = json!({"value": value});
    match next {
        NextToken::Moves => reply["@nextPage"] = state.page_token(stream, index + 1).into(),
        NextToken::Unmoved => reply["@nextPage"] = state.page_token(stream, index).into(),
        NextToken::Empty => reply["@nextPage"] = "".into(),
        NextToken::Missing => {}
    }
    if let Some(caught_up) = caught_up {
        reply["isCaughtUp"] = caught_up.into();
    }
    reply
}

/// `GET /files/<stream>/<name>`: the object store.
pub(super) async fn file(
    State(shared): State<Arc<Shared>>,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    if let Err(refusal) = check_signature(&shared, &key, query.as_bytes(), &headers) {
        return refusal.answer(&shared, Endpoint::File);
    }
    let state = shared.state();
    let file = state.files.get(&key).filter(|(day, _)| !shared.forgot(*day));
    let Some((_, file)) = file else {
        drop(state);
        return Refusal::plain(404, "NoSuchKey", "The specified key does not exist.")
            .answer(&shared, Endpoint::File);
    };
    let bytes = match state.damaged.get(&key) {
        Some(&at) => damage(&file.bytes, at),
        None => file.bytes.clone(),
    };
    let mut response = reply::answer(200, "application/octet-stream", bytes);
    if let Some(Ok(etag)) = file.etag.as_deref().map(HeaderValue::from_str) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

fn check_signature(
    shared: &Shared,
    key: &str,
    query: &[u8],
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    if headers.contains_key(AUTHORIZATION) {
        let message = "a signed URL is fetched with an Authorization header";
        return Err(Refusal::breach(400, "InvalidArgument", message));
    }
    let Some(signature) = field(query, "X-Amz-Signature") else {
        return Err(Refusal::breach(403, "AccessDenied", "a signed URL lost its signature"));
    };
    let state = shared.state();
    let Some((_, number)) = state.signatures.get(&signature).filter(|(of, _)| of == key) else {
        let message = "a signature that was not given for this file";
        return Err(Refusal::breach(403, "SignatureDoesNotMatch", message));
    };
    let stream = key.split('/').next().unwrap_or_default();
    let since = state.listed.get(stream).copied().unwrap_or_default() - number;
    match shared.options.signature_listings {
        Some(listings) if since >= listings => {
            Err(Refusal::plain(403, "AccessDenied", "Request has expired"))
        }
        _ => Ok(()),
    }
}

/// A header's text, empty if there is none.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
