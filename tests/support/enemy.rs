//! Mimecast in an enemy's hands, on a bare socket, so that its answers need not be valid HTTP.

use std::sync::Arc;
use std::time::Duration;

use mimecast_sentinel::simulator::{FaultPlan, World};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::rig::Rig;

pub const LISTING: &str = "/siem/";
pub const TOKEN: &str = "/oauth/";
pub const FILE: &str = "/f";

/// What is answered to a request.
#[derive(Clone)]
pub enum Answer {
    Whole(Vec<u8>),
    /// The first bytes, then the others for ever.
    Endless(Vec<u8>, Vec<u8>),
    /// The first bytes, then one more each second.
    Slow(Vec<u8>),
}

/// An answer of 200 with these headers, each with its line end, and this body.
pub fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", headers.as_bytes(), b"\r\n", body].concat()
}

pub fn whole(body: &[u8]) -> Answer {
    Answer::Whole(ok(&format!("Content-Length: {}\r\n", body.len()), body))
}

pub struct Enemy {
    pub url: String,
    /// Notified when the bad answer is asked for.
    pub asked_for: Arc<Notify>,
}

/// Mimecast in an enemy's hands. It grants tokens, lists one file (which is its own), and answers
/// with `answer` whatever path begins with `path` instead.
pub async fn enemy(path: &'static str, answer: Answer) -> Enemy {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked_for = Arc::new(Notify::new());
    let enemy = Enemy { url: url.clone(), asked_for: Arc::clone(&asked_for) };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, url) = (answer.clone(), url.clone());
            let asked_for = Arc::clone(&asked_for);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let asked = request(&mut stream).await.unwrap_or_default();
                let answer = if asked.starts_with(path) {
                    asked_for.notify_one();
                    answer
                } else if asked == "/oauth/token" {
                    whole(br#"{"access_token":"t","expires_in":1799}"#)
                } else {
                    let file =
                        format!("{{\"value\":[{{\"url\":\"{url}/f\"}}],\"isCaughtUp\":true}}");
                    whole(file.as_bytes())
                };
                // The client may be gone by now.
                drop(give(stream, &answer).await);
            });
        }
    });
    enemy
}

/// Takes one request; its path.
async fn request(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let (mut path, mut body) = (None, 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        path = path.or_else(|| Some(line.split([' ', '?']).nth(1)?.to_owned()));
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            body = length.trim().parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; body]).await?;
    Ok(path.unwrap_or_default())
}

async fn give(mut stream: BufReader<TcpStream>, answer: &Answer) -> std::io::Result<()> {
    match answer {
        Answer::Whole(bytes) => stream.write_all(bytes).await,
        Answer::Endless(first, then) => {
            stream.write_all(first).await?;
            loop {
                stream.write_all(then).await?;
            }
        }
        Answer::Slow(first) => {
            stream.write_all(first).await?;
            loop {
                sleep(Duration::from_secs(1)).await;
                stream.write_all(b" ").await?;
            }
        }
    }
}

/// A rig that reads one stream from an enemy.
pub async fn rig_at(enemy: &Enemy) -> Rig {
    let mut rig = Rig::new(World::default(), FaultPlan::none()).await.only("entities");
    rig.options.base_url = enemy.url.parse().unwrap();
    rig
}
