//! A storage account on loopback that answers as a test decides, and else as Azure does, so far as
//! one writer needs it: leases that never run out, versions, and pieces of 4 MiB.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use mimecast_sentinel::azure::blob::{BlobAccess, BlobStore};
use tokio::net::TcpListener;
use url::Url;

/// What a test answers instead: to a request (`acquire`, `renew`, `release`, `create`, `write`,
/// `stage`, `commit`, `read`, `delete`, `list`) for a blob of this name.
type Answer = Box<dyn Fn(&str, &str) -> Option<Response> + Send + Sync>;

pub struct FakeBlobs {
    port: u16,
    account: Arc<Account>,
}

struct Account {
    answer: Answer,
    blobs: Mutex<BTreeMap<String, Blob>>,
    asked: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Blob {
    bytes: Bytes,
    etag: u64,
    lease: Option<String>,
}

impl FakeBlobs {
    pub async fn start(
        answer: impl Fn(&str, &str) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (blobs, asked) = Default::default();
        let account = Arc::new(Account { answer: Box::new(answer), blobs, asked });
        let app = Router::new().fallback(serve).with_state(Arc::clone(&account));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, account }
    }

    /// The container's URL, with something like a SAS.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/account/container?sv=1&sig=x", self.port)
    }

    pub fn store(&self) -> BlobStore {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let access = BlobAccess::Sas("sv=1&sig=x".to_owned().into());
        BlobStore::new(Url::parse(&self.url()).unwrap(), access, &http).unwrap()
    }

    pub fn put(&self, name: &str, bytes: impl Into<Bytes>) {
        let blob = Blob { bytes: bytes.into(), etag: 1, lease: None };
        self.account.blobs.lock().unwrap().insert(name.to_owned(), blob);
    }

    /// What was asked for, in order: `write checkpoints/mailflow.json`.
    pub fn asked(&self) -> Vec<String> {
        self.account.asked.lock().unwrap().clone()
    }
}

/// An error as Azure words it.
pub fn refusal(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code>\
         <Message>{message}</Message></Error>"
    );
    let answer = Response::builder().status(status).header("x-ms-error-code", code);
    answer.header("content-type", "application/xml").body(Body::from(body)).unwrap()
}

fn done(status: StatusCode, etag: u64) -> Response {
    let answer = Response::builder().status(status).header("etag", format!("\"{etag}\""));
    answer.header("last-modified", "Fri, 01 Jan 2027 00:00:00 GMT").body(Body::empty()).unwrap()
}

async fn serve(State(account): State<Arc<Account>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let name = head.uri.path().trim_start_matches("/account/container").trim_start_matches('/');
    let name = name.replace("%2F", "/");
    let query = head.uri.query().unwrap_or_default();
    let has = |word: &str| query.split('&').any(|part| part == word);
    let what = match head.method {
        _ if has("comp=lease") => head.headers["x-ms-lease-action"].to_str().unwrap(),
        Method::GET if has("comp=list") => "list",
        Method::GET => "read",
        Method::DELETE => "delete",
        _ if has("comp=block") => "stage",
        _ if has("comp=blocklist") => "commit",
        _ if head.headers.contains_key("if-none-match") => "create",
        _ => "write",
    };
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    account.asked.lock().unwrap().push(format!("{what} {name}"));
    let mut answer = (account.answer)(what, &name)
        .unwrap_or_else(|| account.answer(what, &name, &head.headers, body));
    // Each answer of Azure Storage has it.
    answer.headers_mut().insert("x-ms-request-id", HeaderValue::from_static("1"));
    answer
}

impl Account {
    fn answer(&self, what: &str, name: &str, headers: &HeaderMap, body: Bytes) -> Response {
        let mut blobs = self.blobs.lock().unwrap();
        if what == "list" {
            // Of what its tests list there is nothing.
            let empty = "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs/>\
                         <NextMarker/></EnumerationResults>";
            let answer = Response::builder().header("content-type", "application/xml");
            return answer.body(empty.into()).unwrap();
        }
        if ["create", "write"].contains(&what) {
            let blob = blobs.entry(name.to_owned()).or_default();
            if what == "create" && blob.etag > 0 {
                return refusal(409, "BlobAlreadyExists", "The specified blob already exists.");
            }
            *blob = Blob { bytes: body, etag: blob.etag + 1, lease: blob.lease.take() };
            return done(StatusCode::CREATED, blob.etag);
        }
        let Some(blob) = blobs.get_mut(name) else {
            return refusal(404, "BlobNotFound", "The specified blob does not exist.");
        };
        match what {
            "acquire" if blob.lease.is_some() => {
                refusal(409, "LeaseAlreadyPresent", "There is already a lease present.")
            }
            "acquire" | "renew" => {
                let id = headers.get("x-ms-proposed-lease-id");
                let id = id.or_else(|| headers.get("x-ms-lease-id")).unwrap();
                blob.lease = Some(id.to_str().unwrap().to_owned());
                let mut answer = done(StatusCode::CREATED, blob.etag);
                answer.headers_mut().insert("x-ms-lease-id", id.clone());
                answer
            }
            "release" => {
                blob.lease = None;
                done(StatusCode::OK, blob.etag)
            }
            "delete" => {
                blobs.remove(name);
                done(StatusCode::ACCEPTED, 0)
            }
            "read" => blob.read(headers),
            _ => unimplemented!("{what}"),
        }
    }
}

impl Blob {
    fn read(&self, headers: &HeaderMap) -> Response {
        let range = headers.get("x-ms-range").or_else(|| headers.get("range"));
        let range = range.and_then(|range| {
            let (from, to) = range.to_str().unwrap().strip_prefix("bytes=")?.split_once('-')?;
            Some((from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap()))
        });
        let Some((from, to)) = range else {
            let mut answer = done(StatusCode::OK, self.etag);
            *answer.body_mut() = Body::from(self.bytes.clone());
            return answer;
        };
        if from >= self.bytes.len() {
            return refusal(416, "InvalidRange", "The range specified is invalid.");
        }
        let end = self.bytes.len().min(to + 1);
        let mut answer = done(StatusCode::PARTIAL_CONTENT, self.etag);
        let range = format!("bytes {from}-{}/{}", end - 1, self.bytes.len());
        answer.headers_mut().insert("content-range", HeaderValue::from_str(&range).unwrap());
        *answer.body_mut() = Body::from(self.bytes.slice(from..end));
        answer
    }
}
