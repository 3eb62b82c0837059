//! The HTTP clients, and reading replies within limits.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, StatusCode};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls_platform_verifier::BuilderVerifierExt;

use super::public_hosts::PublicHosts;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may stay silent in the middle of a reply.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an API call may take in all.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The clients of this program. None of them follows redirects or decompresses by itself.
#[derive(Clone, Debug)]
pub struct Clients {
    /// For APIs, and the transport of Azure's own libraries.
    pub api: Client,
    /// For files at addresses that an API handed out: connects to public addresses only. It has no
    /// limit on the whole time, since a file may be large.
    pub files: Client,
    /// For the managed identity's endpoint on this machine: passes by proxies.
    pub local: Client,
}

/// Why there are no clients.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// Without root certificates, mostly.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The HTTP library refuses its settings.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

impl Clients {
    /// Builds them. With `loopback`, files may come from this machine too: for tests.
    pub fn new(loopback: bool) -> Result<Self, ClientsError> {
        let tls = tls()?;
        let builder = || {
            Client::builder()
                .user_agent(concat!("mimecast-sentinel/", env!("CARGO_PKG_VERSION")))
                .redirect(Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .tls_backend_preconfigured(tls.clone())
        };
        let files = |builder: ClientBuilder| match loopback {
            true => builder,
            false => builder.https_only(true).dns_resolver(Arc::new(PublicHosts)),
        };
        Ok(Self {
            api: builder().timeout(CALL_TIMEOUT).build()?,
            files: files(builder()).build()?,
            local: builder().timeout(CALL_TIMEOUT).no_proxy().build()?,
        })
    }
}

/// TLS 1.2 and 1.3, with the system's root certificates, for all clients: to load those is most of
/// what a run with nothing new costs, so they are loaded once.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_platform_verifier()?
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// A reply that was read whole.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, decompressed.
    pub body: Bytes,
}

/// Why a reply could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The connection failed.
    #[error("{}", describe(.0))]
    Http(#[from] reqwest::Error),
    /// The body is larger than it may be.
    #[error("the reply is larger than {0} bytes")]
    TooLarge(usize),
    /// The body is not the gzip that its headers say it is.
    #[error("the reply cannot be decompressed: {0}")]
    Gzip(std::io::Error),
}

/// Reads a reply whole, decompressed if the server gzipped it, if it has at most `limit` bytes.
pub async fn read_reply(response: Response, limit: usize) -> Result<Reply, ReplyError> {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = BytesMut::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if body.len() + chunk.len() > limit {
            return Err(ReplyError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    let mut body = body.freeze();
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip") {
        let mut plain = Vec::new();
        let mut decoder = MultiGzDecoder::new(&body[..]).take(limit as u64 + 1);
        decoder.read_to_end(&mut plain).map_err(ReplyError::Gzip)?;
        if plain.len() > limit {
            return Err(ReplyError::TooLarge(limit));
        }
        body = Bytes::from(plain);
    }
    Ok(Reply { status, headers, body })
}

/// An error of the HTTP library with its causes, and without the address: that may be signed.
pub fn describe(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "could not connect"
    } else {
        "the connection failed"
    };
    let mut cause = std::error::Error::source(error);
    let mut last = None;
    while let Some(error) = cause {
        last = Some(error.to_string());
        cause = error.source();
    }
    last.map_or_else(|| kind.to_owned(), |last| format!("{kind}: {last}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const LIMIT: usize = 1_000;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn read(encoding: &str, body: Vec<u8>) -> Result<Reply, ReplyError> {
        let reply = hyper::Response::builder().header(CONTENT_ENCODING, encoding).body(body);
        read_reply(Response::from(reply.unwrap()), LIMIT).await
    }

    #[tokio::test]
    async fn no_reply_is_larger_than_its_limit_however_it_is_compressed() {
        for size in [LIMIT, LIMIT + 1, 100 * LIMIT] {
            let zeros = vec![0; size];
            let compressed = gzip(&zeros);
            assert!(compressed.len() < LIMIT);
            for reply in [read("identity", zeros).await, read("gzip", compressed).await] {
                match reply {
                    Ok(reply) => assert!(size == LIMIT && reply.body.len() == LIMIT),
                    Err(error) => {
                        assert!(size > LIMIT && matches!(error, ReplyError::TooLarge(LIMIT)));
                    }
                }
            }
        }
        assert!(matches!(read("gzip", b"no gzip".to_vec()).await, Err(ReplyError::Gzip(_))));
    }
}
