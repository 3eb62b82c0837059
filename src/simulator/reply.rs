//! Answers: refusals in each service's own words, and what faults make of a proper answer.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};

use super::state::Shared;
use super::{Endpoint, Fault};

/// What Azure answers to an identity without the role on the rule.
pub(super) const NO_ROLE: &str = "The authentication token provided does not have access to ingest \
                                  data for the data collection rule";

/// Marks an answer that must not be given: the connection is closed instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct HangUp;

/// Marks the answer to a body that was accepted with so many rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted(pub(super) u64);

/// What ends a connection early.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulator closed the connection, as planned")
    }
}

impl std::error::Error for Broken {}

/// Why a request is not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// Whether a correct client would never have asked so.
    pub(super) breach: bool,
}

impl Refusal {
    /// Something that a correct client never does.
    pub(super) fn breach(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), breach: true }
    }

    /// Something that happens to a correct client too.
    pub(super) fn plain(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), breach: false }
    }

    /// Records a breach, and words the answer.
    pub(super) fn answer(self, shared: &Shared, endpoint: Endpoint) -> Response {
        if self.breach {
            let breach = format!("{endpoint:?}: {}", self.message);
            shared.state().violations.push(breach);
        }
        refusal(endpoint, self.status, self.code, &self.message)
    }
}

/// The value of `name` in a query or a form.
pub(super) fn field(form: &[u8], name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(form);
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

pub(super) fn json(status: u16, body: &Value) -> Response {
    answer(status, "application/json", body.to_string())
}

/// An answer with this status and body.
pub(super) fn answer(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn hang_up() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(HangUp);
    response
}

fn refusal(endpoint: Endpoint, status: u16, code: &str, message: &str) -> Response {
    match endpoint {
        Endpoint::MimecastToken | Endpoint::Listing if status == 400 => {
            json(status, &json!({"error": {"code": code, "message": message}}))
        }
        Endpoint::MimecastToken | Endpoint::Listing => {
            json(status, &json!({"fail": [{"code": code, "message": message}]}))
        }
        Endpoint::File => {
            let xml = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
                 <Message>{message}</Message></Error>"
            );
            answer(status, "application/xml", xml)
        }
        Endpoint::AzureToken => {
            // Entra's texts begin with their number.
            let number = message.strip_prefix("AADSTS").and_then(|rest| rest.split(':').next());
            let number = number.and_then(|number| number.parse::<i32>().ok());
            json(
                status,
                &json!({"error": code, "error_description": message,
                        "error_codes": number.into_iter().collect::<Vec<_>>()}),
            )
        }
        Endpoint::Graph => json(status, &json!({"error": {"code": code, "message": message}})),
        Endpoint::Post | Endpoint::Secret => {
            let mut response = json(status, &json!({"error": {"code": code, "message": message}}));
            if let Ok(code) = HeaderValue::from_str(code) {
                response.headers_mut().insert("x-ms-error-code", code);
            }
            response
        }
    }
}

/// The answer that quotes a request.
pub(super) fn echo(status: u16, endpoint: Endpoint, request: &Parts, body: &[u8]) -> Response {
    let secretive = [AUTHORIZATION.as_str(), "x-identity-header", "proxy-authorization"];
    let headers = secretive.iter().filter_map(|name| request.headers.get(*name)?.to_str().ok());
    let body = std::str::from_utf8(body).unwrap_or_default();
    let query = request.uri.query().unwrap_or_default();
    let sent: Vec<&str> = headers.chain([query, body]).collect();
    let sent = sent.join("\n");
    let form: String = url::form_urlencoded::byte_serialize(sent.as_bytes()).collect();
    let message = format!("you sent {sent}, {form}, {}", BASE64_STANDARD.encode(&sent));
    refusal(endpoint, status, "Explained", &message)
}

/// The answer to a request that is not carried out because of its fault.
pub(super) fn refused_by(fault: &Fault, endpoint: Endpoint) -> Option<Response> {
    let refuse = |status, code: &str, message: &str| refusal(endpoint, status, code, message);
    let response = match fault {
        Fault::Nothing
        | Fault::Echo(_)
        | Fault::LostReply
        | Fault::CutShort(_)
        | Fault::Empty
        | Fault::Corrupt(_)
        | Fault::Slow(_) => return None,
        Fault::Unauthorized(code) => refuse(401, code, "The access token is not accepted"),
        Fault::Forbidden => match endpoint {
            Endpoint::MimecastToken | Endpoint::Listing => {
                refuse(403, "app_forbidden", "Forbidden to perform the requested operation")
            }
            Endpoint::File => refuse(403, "AccessDenied", "Access Denied"),
            Endpoint::Secret => {
                refuse(403, "Forbidden", "Caller is not authorized to perform action")
            }
            Endpoint::AzureToken => refuse(403, "access_denied", "The identity is not permitted"),
            Endpoint::Post => refuse(403, "OperationFailed", NO_ROLE),
            Endpoint::Graph => refuse(403, "Forbidden", "Access is denied by policy."),
        },
        Fault::NotFound if endpoint == Endpoint::File => {
            refuse(404, "NoSuchKey", "The specified key does not exist.")
        }
        Fault::NotFound => refuse(404, "NotFound", "It was not found"),
        Fault::RequestTimeout => refuse(408, "RequestTimeout", "The request took too long"),
        Fault::TooLarge => refuse(413, "ContentLengthLimitExceeded", "The request is too large"),
        Fault::TooManyRequests(header) => {
            let mut response = refuse(429, "TooManyRequests", "Slow down");
            if let Some((name, value)) = header
                && let Ok(value) = HeaderValue::from_str(value)
                && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
            {
                response.headers_mut().insert(name, value);
            }
            response
        }
        Fault::ServerError => {
            answer(500, "text/html", "<html><body><h1>500 Internal Server Error</h1></body></html>")
        }
        Fault::Unavailable => refuse(503, "ServiceUnavailable", "Try again later"),
        Fault::BadRequest { code, message } => refuse(400, code, message),
        Fault::Reset => hang_up(),
        Fault::Expired => refuse(403, "AccessDenied", "Request has expired"),
        Fault::NotJson => answer(200, "text/plain", "everything is fine"),
        Fault::Says(status, body) if body.windows(5).any(|tag| tag == b"<html") => {
            answer(*status, "text/html", body.clone())
        }
        Fault::Says(status, body) => answer(*status, "application/octet-stream", body.clone()),
        Fault::Redirect(to) => {
            let mut response = answer(302, "text/plain", "");
            if let Ok(to) = HeaderValue::from_str(to) {
                response.headers_mut().insert(LOCATION, to);
            }
            response
        }
    };
    Some(response)
}

/// What a fault makes of the answer to a request that was carried out.
pub(super) async fn spoiled_by(fault: &Fault, answer: Response) -> Response {
    match fault {
        Fault::LostReply => hang_up(),
        // There is nothing to cut.
        Fault::CutShort(_) if answer.status() == StatusCode::NO_CONTENT => hang_up(),
        Fault::CutShort(after) => {
            let (mut parts, bytes) = take_apart(answer).await;
            let promised = bytes.len().max(after + 1);
            parts.headers.insert(CONTENT_LENGTH, promised.into());
            let sent = paced(&bytes.slice(..bytes.len().min(*after)), 16 << 10, Duration::ZERO);
            let cut = stream::once(async {
                // Time for what was sent to leave; hyper drops what it still holds on an error.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(Broken)
            });
            Response::from_parts(parts, Body::from_stream(sent.map(Ok::<_, Broken>).chain(cut)))
        }
        Fault::Empty => {
            let (mut parts, _) = take_apart(answer).await;
            parts.headers.remove(CONTENT_LENGTH);
            Response::from_parts(parts, Body::empty())
        }
        Fault::Slow(delay) => {
            tokio::time::sleep(*delay).await;
            let (mut parts, bytes) = take_apart(answer).await;
            if !bytes.is_empty() {
                parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
            }
            let body = paced(&bytes, 4 << 10, *delay).map(Ok::<_, Infallible>);
            Response::from_parts(parts, Body::from_stream(body))
        }
        _ => answer,
    }
}

/// Every answer is made of bytes in memory, so that reading it cannot fail.
async fn take_apart(answer: Response) -> (axum::http::response::Parts, Bytes) {
    let (parts, body) = answer.into_parts();
    (parts, to_bytes(body, usize::MAX).await.unwrap_or_default())
}

fn paced(bytes: &Bytes, size: usize, delay: Duration) -> impl stream::Stream<Item = Bytes> + use<> {
    let chunks: Vec<_> = (0..bytes.len())
        .step_by(size)
        .map(|at| bytes.slice(at..bytes.len().min(at + size)))
        .collect();
    stream::iter(chunks).then(move |chunk| async move {
        if delay.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(delay).await;
        }
        chunk
    })
}
