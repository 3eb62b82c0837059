//! Reading replies within limits, and judging what their bodies are.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::describe;

/// How a gzip stream begins (RFC 1952). No text does, so it is more reliable than a header.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// How often a body is unpacked: a gateway may pack what the server packed already.
const GZIP_LAYERS: usize = 2;

/// How much of a body is looked at to say what it is.
const LOOKED_AT: usize = 1024;

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
    /// The body begins as gzip but is not.
    #[error("the reply cannot be decompressed: {0}")]
    Gzip(std::io::Error),
}

/// Why a body is not the JSON that was asked for, in words that follow "it answered 200, but".
/// Nothing of the body itself is in it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    /// There is no body.
    #[error("it is empty")]
    Empty,
    /// It is something else, see [`looks_like`].
    #[error("it is {0}, not JSON (from a proxy or a firewall?)")]
    Other(&'static str),
    /// It begins as JSON, but is not valid.
    #[error("it is JSON that is damaged or breaks off at line {line} column {column}")]
    Damaged {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
    },
    /// It is valid JSON, but not what was asked for.
    #[error("it is JSON of another shape: {0}")]
    Shape(String),
}

impl Reply {
    /// The body as JSON, with or without a byte order mark.
    ///
    /// # Errors
    /// [`NotJson`] says what it is instead.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, NotJson> {
        json(&self.body)
    }
}

/// A text in UTF-8 without the byte order mark that it may begin with.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// `body` as JSON; see [`Reply::json`].
///
/// # Errors
/// [`NotJson`] says what it is instead.
pub fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, NotJson> {
    let text = without_bom(body);
    serde_json::from_slice(text).map_err(|error| match (error.classify(), looks_like(body)) {
        (Category::Data, _) => NotJson::Shape(without_values(&error.to_string())),
        (_, "nothing") => NotJson::Empty,
        (_, "JSON") => NotJson::Damaged { line: error.line(), column: error.column() },
        (_, other) => NotJson::Other(other),
    })
}

/// serde's words without the value that it quotes: there may be a token in it.
fn without_values(error: &str) -> String {
    // Here the quoted word is the name of a field of ours.
    if ["missing field", "duplicate field"].iter().any(|words| error.starts_with(words)) {
        return error.to_owned();
    }
    let before_value =
        |text: &str| text.split(['`', '"']).next().unwrap_or_default().trim_end().to_owned();
    match error.rsplit_once(", expected ") {
        Some((found, expected)) => format!("{}, expected {expected}", before_value(found)),
        None => before_value(error),
    }
}

/// What a body is, by its beginning: `an HTML page`, `XML`, `JSON`, `plain text`, `binary` or
/// `nothing`. A proxy or firewall may answer in the server's place.
pub fn looks_like(body: &[u8]) -> &'static str {
    let text = without_bom(body).trim_ascii_start();
    let start = text[..text.len().min(LOOKED_AT)].to_ascii_lowercase();
    let has = |tag: &[u8]| start.windows(tag.len()).any(|window| window == tag);
    match start.first() {
        None => "nothing",
        Some(b'{' | b'[') => "JSON",
        Some(b'<') if has(b"<html") || has(b"<!doctype html") => "an HTML page",
        Some(b'<') => "XML",
        // By its control characters, since text may be in an older encoding than UTF-8.
        _ if start.iter().any(|byte| *byte < b' ' && !byte.is_ascii_whitespace()) => "binary",
        _ => "plain text",
    }
}

/// Sends a request and reads its reply whole, which may have at most `limit` bytes.
///
/// # Errors
/// See [`ReplyError`].
pub async fn send(request: RequestBuilder, limit: usize) -> Result<Reply, ReplyError> {
    read_reply(request.send().await?, limit).await
}

/// Reads a reply whole, decompressed if it is gzip, if it has at most `limit` bytes. By its first
/// bytes, not by `Content-Encoding`: a gateway may unpack a body and leave the header, or spell it
/// in its own way.
async fn read_reply(response: Response, limit: usize) -> Result<Reply, ReplyError> {
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
    for _ in 0..GZIP_LAYERS {
        if !body.starts_with(&GZIP) {
            break;
        }
        body = unpack(&body, limit)?;
    }
    Ok(Reply { status, headers, body })
}

fn unpack(packed: &[u8], limit: usize) -> Result<Bytes, ReplyError> {
    let mut plain = Vec::new();
    let mut decoder = MultiGzDecoder::new(packed).take(limit as u64 + 1);
    decoder.read_to_end(&mut plain).map_err(ReplyError::Gzip)?;
    if plain.len() > limit {
        return Err(ReplyError::TooLarge(limit));
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use reqwest::header::CONTENT_ENCODING;
    use serde_json::Value;

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
            let twice = gzip(&compressed);
            for body in [zeros, compressed, twice] {
                match read("gzip", body).await {
                    Ok(reply) => assert!(size == LIMIT && reply.body.len() == LIMIT),
                    Err(error) => {
                        assert!(size > LIMIT && matches!(error, ReplyError::TooLarge(LIMIT)));
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_reply_is_unpacked_by_what_it_is_and_not_by_what_it_is_called() {
        let (plain, packed) = (br#"{"a":1}"#.to_vec(), gzip(br#"{"a":1}"#));
        for (encoding, body) in [
            ("gzip", packed.clone()),
            ("GZIP", packed.clone()),
            ("x-gzip", packed.clone()),
            ("gzip, gzip", gzip(&packed)),
            ("identity", packed.clone()),
            ("gzip", plain.clone()),
            ("identity", plain),
        ] {
            let reply = read(encoding, body).await.unwrap();
            assert_eq!(reply.body, br#"{"a":1}"#[..], "{encoding}");
        }
        assert_eq!(read("gzip", Vec::new()).await.unwrap().body, b""[..]);
        let broken = read("gzip", packed[..packed.len() - 9].to_vec()).await;
        assert!(matches!(broken, Err(ReplyError::Gzip(_))));
    }

    #[test]
    fn a_body_is_what_it_begins_as() {
        let cases: [(&[u8], &str); 15] = [
            (b"", "nothing"),
            (b"\xef\xbb\xbf \r\n", "nothing"),
            (b"<!DOCTYPE html><html><title>Web Page Blocked</title></html>", "an HTML page"),
            (b"\xef\xbb\xbf\n<HTML lang=en>", "an HTML page"),
            (b"<!-- policy 7 --><html>", "an HTML page"),
            (b"<?xml version='1.0'?><!DOCTYPE html PUBLIC 'x'><html xmlns='y'>", "an HTML page"),
            (b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>", "XML"),
            (b"<soap:Envelope/>", "XML"),
            (b"\xef\xbb\xbf{\"a\":1}", "JSON"),
            (b" [", "JSON"),
            (b"Access denied", "plain text"),
            (b"Zugriff f\xfcr alle gesperrt", "plain text"),
            (b"\x1f\x8b\x08\x00", "binary"),
            (b"PK\x03\x04", "binary"),
            (b"\xff\xfe<\0h\0t\0m\0l\0", "binary"),
        ];
        for (body, expected) in cases {
            assert_eq!(looks_like(body), expected, "{}", body.escape_ascii());
        }
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Grant {
        token: String,
        lives: u64,
    }

    #[test]
    fn what_is_not_the_json_that_was_asked_for_is_described_without_its_values() {
        let good = Grant { token: "t".to_owned(), lives: 1 };
        assert_eq!(json::<Grant>(b"\xef\xbb\xbf{\"token\":\"t\",\"lives\":1}\n"), Ok(good));
        for (body, expected) in [
            ("", "it is empty"),
            ("<html>", "it is an HTML page, not JSON (from a proxy or a firewall?)"),
            ("<Error/>", "it is XML, not JSON (from a proxy or a firewall?)"),
            ("blocked", "it is plain text, not JSON (from a proxy or a firewall?)"),
            (r#"{"token":"#, "it is JSON that is damaged or breaks off at line 1 column 9"),
            (
                r#"{"lives":1}"#,
                "it is JSON of another shape: missing field `token` at line 1 column 11",
            ),
            (
                r#"{"token":"t","lives":"canary, expected `canary`"}"#,
                "it is JSON of another shape: invalid type: string, expected u64 at line 1 column \
                 48",
            ),
            (
                r#"{"token":["canary"]}"#,
                "it is JSON of another shape: invalid type: sequence, expected a string at line 1 \
                 column 9",
            ),
            (
                r#""canary""#,
                "it is JSON of another shape: invalid type: string, expected struct Grant at line \
                 1 column 8",
            ),
        ] {
            assert_eq!(json::<Grant>(body.as_bytes()).unwrap_err().to_string(), expected);
        }
        // Text is not JSON, even where any shape of JSON is taken.
        assert_eq!(json::<Value>(b"blocked"), Err(NotJson::Other("plain text")));
    }
}
