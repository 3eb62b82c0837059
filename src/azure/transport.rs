//! The transport of Azure's own libraries: our client, with what they lack. A reply that is not
//! Azure's is refused, and its size and the wait that it asks for are limited.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{Headers, RETRY_AFTER, RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS};
use azure_core::http::response::PinnedStream;
use azure_core::http::{AsyncRawResponse, HttpClient, Method, Request, StatusCode, Transport, Url};
use azure_core::{Bytes, Error};
use futures::{StreamExt, TryStreamExt, future};

use crate::http::{ErrorBody, hold};

/// The prefix of Azure's own headers: each answer of Azure Storage has some, such as
/// `x-ms-request-id` (Common REST API response headers).
const AZURES: &str = "x-ms-";

/// The most that is read of a reply. The longest are a page of a container's listing, 5,000 names of
/// 1,024 characters, each with its properties, and a piece of a blob, 4 MiB.
const REPLY_LIMIT: usize = 16 << 20;

/// The most that is read of an error, or of an answer that has no content.
const ANSWER_LIMIT: usize = 64 * 1024;

/// The largest size of a blob that is accepted: as many blocks of 4 MiB as a blob may have. The SDK makes a
/// list of all pieces as soon as a reply says how large the blob is.
const LARGEST_BLOB: u64 = 50_000 * (4 << 20);

/// The longest wait that an answer may ask for, in seconds. The SDK has no limit of its own.
const LONGEST_WAIT: u32 = 10;

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
        let (status, mut headers, body) = response.deconstruct();
        shorten_waits(&mut headers);
        let mut body = body.boxed();
        if !headers.iter().any(|(name, _)| name.as_str().starts_with(AZURES)) {
            return Err(somebody_elses(status, body.try_next().await?));
        }
        if !status.is_success() {
            return Ok(AsyncRawResponse::new(status, headers, shortened(body)));
        }
        if let Some(size) = size_of_whole(&headers).filter(|size| *size > LARGEST_BLOB) {
            let message = format!(
                "it is said to have {size} bytes, which none has: is it the storage account that \
                 answers?"
            );
            return Err(Error::with_message(ErrorKind::DataConversion, message));
        }
        let body = match request.method() {
            Method::Get => limited(body, REPLY_LIMIT),
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

fn shorten_waits(headers: &mut Headers) {
    for (name, unit) in [(RETRY_AFTER, 1), (RETRY_AFTER_MS, 1_000), (X_MS_RETRY_AFTER_MS, 1_000)] {
        let most = u64::from(LONGEST_WAIT * unit);
        let Some(asked) = headers.get_optional_str(&name) else { continue };
        // A date is no number.
        if asked.parse::<u64>().is_ok_and(|asked| asked <= most) {
            continue;
        }
        headers.insert(name, most.to_string());
    }
}

/// The size of the blob that a reply has a piece of, as it says.
pub(super) fn size_of_whole(headers: &Headers) -> Option<u64> {
    let range =
        headers.get_optional_str(&reqwest::header::CONTENT_RANGE.as_str().to_owned().into())?;
    range.rsplit_once('/')?.1.parse().ok()
}

/// An answer of a proxy or a firewall: nothing was read or written, and it says nothing about blobs
/// and leases. The libraries retry it, as they do after a broken connection.
fn somebody_elses(status: StatusCode, begin: Option<Bytes>) -> Error {
    let said = ErrorBody::read(&begin.unwrap_or_default());
    let message = format!(
        "somebody else answered in Azure Storage's place (a proxy or a firewall?): HTTP {}: {said}",
        u16::from(status)
    );
    Error::with_message(ErrorKind::Io, message)
}

/// The beginning of a body: in an error, the important part.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_is_longer_than_the_longest() {
        let date = "Fri, 01 Jan 2100 00:00:00 GMT";
        for (name, asked, waited) in [
            ("retry-after", "3", "3"),
            ("retry-after", "86400", "10"),
            ("retry-after", date, "10"),
            ("retry-after-ms", "9999", "9999"),
            ("x-ms-retry-after-ms", "99999999999999999999", "10000"),
        ] {
            let mut headers = Headers::new();
            headers.insert(name, asked);
            shorten_waits(&mut headers);
            let left: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(left, [(name, waited)], "{asked}");
        }
        let mut none = Headers::new();
        shorten_waits(&mut none);
        assert_eq!(none.iter().count(), 0);
    }
}
