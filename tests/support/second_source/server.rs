//! The thermometers' server, on loopback.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::stream;
use mimecast_sentinel::table::EventId;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Place, Trailer};

/// Serves until it is dropped.
pub struct ThermometerServer {
    pub url: String,
    memory: Arc<Mutex<Memory>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Memory {
    epoch: u64,
    streams: BTreeMap<String, Log>,
    /// A seed, and of how many in a thousand requests something becomes that passes.
    faults: (u64, u64),
    /// How often each request came.
    attempts: HashMap<String, u64>,
}

#[derive(Default)]
struct Log {
    lines: Vec<String>,
    /// How many of them are gone.
    gone: usize,
    /// How often an event was sent.
    sent: u64,
}

impl ThermometerServer {
    pub async fn start(faults: (u64, u64)) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let memory = Arc::new(Mutex::new(Memory { faults, epoch: 1, ..Memory::default() }));
        let router = Router::new().route("/{stream}", get(list)).with_state(Arc::clone(&memory));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, memory, serving }
    }

    /// There are more events: JSON objects, or what is none.
    pub fn add(&self, stream: &str, lines: impl IntoIterator<Item = String>) {
        self.memory().streams.entry(stream.to_owned()).or_default().lines.extend(lines);
    }

    /// Loses all events that there are, and no longer knows any place that it gave.
    pub fn reset(&self) {
        let mut memory = self.memory();
        memory.epoch += 1;
        memory.streams.values_mut().for_each(|log| log.gone = log.lines.len());
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }
}

impl Drop for ThermometerServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn list(
    State(memory): State<Arc<Mutex<Memory>>>,
    Path(stream): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap();
    let mut memory = memory.lock().unwrap();
    let mut chance = memory.chance(&stream, &query);
    let asked: HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let asked = |name: &str| asked.get(name).map(|number| number.parse::<u64>().unwrap());
    let spoilt = chance.u64(..1_000) < memory.faults.1;
    let kind = chance.u8(..4);
    if spoilt && kind == 0 {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let epoch = memory.epoch;
    let log = memory.streams.entry(stream).or_default();
    let after = asked("after").map_or(log.gone, |after| after as usize);
    if asked("epoch").unwrap_or(epoch) != epoch || after < log.gone || after > log.lines.len() {
        return StatusCode::GONE.into_response();
    }
    let limit = asked("limit").unwrap() as usize;
    let upto = (after + limit).min(log.lines.len());
    let mut reply = String::new();
    for line in &log.lines[after..upto] {
        log.sent += 1;
        match line.strip_suffix('}') {
            Some(fields) => reply += &format!("{fields},\"sent\":{}}}\n", 1_000_000 + log.sent),
            None => reply += &format!("{line}\n"),
        }
    }
    let place = |after: usize| Place { after: after as u64, epoch };
    let trailer = Trailer { at: place(after), next: place(upto), more: upto < log.lines.len() };
    reply += &format!("{}\n", json!(trailer));
    let (cut, reply) = (chance.usize(..reply.len()), Bytes::from(reply));
    match kind {
        _ if !spoilt => reply.into_response(),
        // It breaks off, and can be seen to;
        1 => {
            let pieces = [
                Ok(reply.slice(..cut)),
                Err(io::Error::other("the server closed the connection, as planned")),
            ];
            Body::from_stream(stream::iter(pieces)).into_response()
        }
        // or looks like all of it.
        2 => reply.slice(..cut).into_response(),
        // What is asked for comes in vain: the answer is that of a proxy.
        _ => (StatusCode::OK, "<html>Please log in</html>\n").into_response(),
    }
}

impl Memory {
    /// What chance has for a request: the same for the same seed, request and attempt.
    fn chance(&mut self, stream: &str, query: &str) -> fastrand::Rng {
        let request = format!("{} {stream} {query}", self.faults.0);
        let attempt = self.attempts.entry(request.clone()).or_default();
        *attempt += 1;
        let EventId(digest) = EventId::of(format!("{request} {attempt}").as_bytes());
        fastrand::Rng::with_seed(u128::from_be_bytes(digest) as u64)
    }
}
