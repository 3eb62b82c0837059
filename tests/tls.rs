//! What the HTTP clients demand of TLS, against peers that have less.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use mimecast_sentinel::http::Clients;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::entra_tls;

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
/// The extension `supported_versions` (RFC 8446 §4.2.1).
const SUPPORTED_VERSIONS: u16 = 43;

/// The clients as they are in operation. An address instead of a name bypasses the resolver of
/// that for files; before it comes to that, `MimecastSource` refuses such addresses.
fn clients() -> [(&'static str, reqwest::Client); 3] {
    let Clients { api, files, local, .. } = Clients::new(false).unwrap();
    [("api", api), ("files", files), ("local", local)]
}

/// A record: its type and what is in it.
async fn record(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.unwrap();
    let mut content = vec![0; u16::from_be_bytes([head[3], head[4]]).into()];
    stream.read_exact(&mut content).await.unwrap();
    (head[0], content)
}

/// Takes `count` bytes from the front.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The versions that a `ClientHello` offers (RFC 8446 §4.1.2).
fn versions_offered(hello: &[u8]) -> Vec<u16> {
    let mut rest = hello;
    assert_eq!(take(&mut rest, 1), [1], "not a ClientHello");
    take(&mut rest, 3 + 2 + 32);
    // Session id, cipher suites and compression methods: each behind its length.
    for width in [1, 2, 1] {
        let length = number(take(&mut rest, width));
        take(&mut rest, length);
    }
    take(&mut rest, 2);
    while !rest.is_empty() {
        let extension = number(take(&mut rest, 2));
        let length = number(take(&mut rest, 2));
        let content = take(&mut rest, length);
        if extension == usize::from(SUPPORTED_VERSIONS) {
            return content[1..].chunks(2).map(|version| number(version) as u16).collect();
        }
    }
    panic!("no supported_versions, which means TLS 1.2 and everything older");
}

/// A `ServerHello` of TLS 1.1 with a cipher suite of that time.
fn tls_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x13, 0]);
    let length = hello.len() as u8;
    [&[HANDSHAKE, 3, 2, 0, length + 4, 2, 0, 0, length], &hello[..]].concat()
}

#[tokio::test]
async fn a_peer_with_tls_1_1_is_refused_and_sent_nothing() {
    for (name, client) in clients() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let peer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (kind, hello) = record(&mut stream).await;
            assert_eq!(kind, HANDSHAKE);
            stream.write_all(&tls_1_1()).await.unwrap();
            let answer = record(&mut stream).await;
            let mut more = Vec::new();
            stream.read_to_end(&mut more).await.unwrap();
            (versions_offered(&hello), answer, more)
        };
        let (answer, peer) = tokio::join!(client.get(url).bearer_auth("token").send(), peer);
        answer.unwrap_err();
        let (mut offered, said, more) = peer;
        offered.sort_unstable();
        assert_eq!(offered, [0x0303, 0x0304], "{name} offers TLS 1.2 and 1.3");
        // Fatal: protocol_version.
        assert_eq!(said, (ALERT, vec![2, 70]), "{name}");
        assert_eq!(more, [0; 0], "{name} went on");
    }
}

#[tokio::test]
async fn a_peer_whose_authority_is_unknown_gets_no_request() {
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let app = Router::new().fallback(move || async move {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let (url, trusting) = entra_tls::serve(app).await;
    let url = format!("https://127.0.0.1:{}/", url.port().unwrap());
    for (name, client) in clients() {
        let refused = client.get(&url).bearer_auth("token").send().await.unwrap_err();
        assert!(refused.is_connect(), "{name}: {refused:?}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    trusting.get(&url).send().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the peer itself is in order");
}
