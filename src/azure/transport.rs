//! The way of Azure's own libraries to the network: our client, with what they lack. A reply is
//! Azure's or refused, and has an end where it is held whole.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::response::PinnedStream;
use azure_core::http::{AsyncRawResponse, HttpClient, Method, Request, StatusCode, Transport, Url};
use azure_core::{Bytes, Error};
use futures::{StreamExt, TryStreamExt, future};

use crate::http::{ErrorBody, hold};

/// How the names of headers begin that are Azure's: each answer of Azure Storage has some, such as
/// `x-ms-request-id` (Common REST API response headers).
const AZURES: &str = "x-ms-";

/// The most that is read of a listing: 5,000 names of 1,024 characters, each with its properties.
const LISTING_LIMIT: usize = 16 << 20;

/// The most that is read of an error, or of an answer that has no content.
const ANSWER_LIMIT: usize = 64 * 1024;

/// `http` as the transport of Azure's libraries.
pub(super) fn transport(http: &reqwest::Client) -> Transport {
    Transport::new(Arc::new(Guarded(http.clone())))
}

#[derive(Debug)]
struct Guarded(reqwest::Client);

#[async_trait]
impl HttpClient for Guarded {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        hold_signature(request.url());
        let response = self.0.execute_request(request).await?;
        let (status, headers, body) = response.deconstruct();
        let mut body = body.boxed();
        if !headers.iter().any(|(name, _)| name.as_str().starts_with(AZURES)) {
            return Err(somebody_elses(status, body.try_next().await?));
        }
        if !status.is_success() {
            return Ok(AsyncRawResponse::new(status, headers, shortened(body)));
        }
        let body = match (request.method(), lists(request.url())) {
            // The content of a blob, which may be of any size: whoever holds it has the limit.
            (Method::Get, false) => body,
            (Method::Get, true) => limited(body, LISTING_LIMIT),
            _ => limited(body, ANSWER_LIMIT),
        };
        Ok(AsyncRawResponse::new(status, headers, body))
    }
}

/// Of the parameters of a shared access signature, the one that must not be shown.
fn hold_signature(url: &Url) {
    for (_, signature) in url.query_pairs().filter(|(name, _)| name == "sig") {
        hold(&signature);
    }
}

fn lists(url: &Url) -> bool {
    url.query_pairs().any(|(name, value)| name == "comp" && value == "list")
}

/// An answer of a proxy's or a firewall's, which has read and written nothing and says nothing of
/// blobs and leases. The libraries repeat it, as they do where a connection broke off.
fn somebody_elses(status: StatusCode, begin: Option<Bytes>) -> Error {
    let said = ErrorBody::read(&begin.unwrap_or_default());
    let message = format!(
        "somebody else answered in Azure Storage's place (a proxy or a firewall?): HTTP {}: {said}",
        u16::from(status)
    );
    Error::with_message(ErrorKind::Io, message)
}

/// The beginning of a body: an error says what matters there, and in its status and headers.
fn shortened(body: PinnedStream) -> PinnedStream {
    let mut left = ANSWER_LIMIT;
    let begin = body.map_ok(move |mut chunk| {
        chunk.truncate(left);
        left -= chunk.len();
        chunk
    });
    begin.try_take_while(|chunk| future::ready(Ok(!chunk.is_empty()))).boxed()
}

/// A body that fails once it is longer than `limit`.
fn limited(body: PinnedStream, limit: usize) -> PinnedStream {
    let mut left = limit;
    body.and_then(move |chunk| {
        let rest = left.checked_sub(chunk.len());
        left = rest.unwrap_or_default();
        let too_large = || {
            let message = format!("the reply is larger than {limit} bytes");
            Error::with_message(ErrorKind::DataConversion, message)
        };
        future::ready(rest.map(|_| chunk).ok_or_else(too_large))
    })
    .boxed()
}
