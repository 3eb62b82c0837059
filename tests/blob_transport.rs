//! What answers in the place of Azure Storage, and what it answers without an end.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::IntoResponse;
use futures::stream;
use mimecast_sentinel::azure::blob::{BlobAccess, BlobStore};
use mimecast_sentinel::store::{Store, StoreError};
use tokio::net::TcpListener;
use url::Url;

const PAGE: &str = "<!DOCTYPE html><html><title>Web Page Blocked</title></html>";

/// The store in a container of `app`'s.
async fn store(app: Router) -> BlobStore {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let container = Url::parse(&format!("http://127.0.0.1:{port}/account/container")).unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    BlobStore::new(container, BlobAccess::Sas("sv=1&sig=s".into()), &http).unwrap()
}

/// All that a store does, each of which fails in these words.
async fn assert_each_fails(store: &BlobStore, words: &str) {
    let failures = [
        store.read("a").await.map(drop),
        store.read_stream("a").await.map(drop),
        store.write("a", Bytes::from_static(b"{}")).await,
        store.list("").await.map(drop),
        store.delete("a").await,
        store.lease("a").await.map(drop),
    ];
    for (n, failure) in failures.into_iter().enumerate() {
        let error = failure.unwrap_err();
        assert!(matches!(error, StoreError::Failed { .. }), "{n}: {error}");
        assert!(error.to_string().contains(words), "{n}: {error}");
    }
}

/// Neither a success, nor that a blob is missing, held by another or changed.
#[tokio::test(start_paused = true)]
async fn what_a_proxy_answers_in_azures_place_is_neither_read_nor_believed() {
    for status in [200, 201, 206, 403, 404, 409, 412] {
        let status = StatusCode::from_u16(status).unwrap();
        let app = Router::new().fallback(move || async move { (status, PAGE) });
        let words = format!(
            "somebody else answered in Azure Storage's place (a proxy or a firewall?): HTTP {}: an \
             HTML page: Web Page Blocked",
            status.as_u16()
        );
        assert_each_fails(&store(app).await, &words).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxys_page_that_passes_is_asked_again() {
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let app = Router::new().fallback(move || {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let azures = [("x-ms-request-id", "1"), ("x-ms-error-code", "BlobNotFound")];
            let answer = (StatusCode::NOT_FOUND, azures).into_response();
            if first { PAGE.into_response() } else { answer }
        }
    });
    assert_eq!(store(app).await.read("a").await.unwrap(), None);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// Bytes for ever, and how many were taken.
fn endless(status: StatusCode) -> (Router, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let app = Router::new().fallback(move |_: Method| {
        let count = Arc::clone(&count);
        async move {
            let piece = Bytes::from(vec![b' '; 64 * 1024]);
            let pieces = stream::repeat_with(move || {
                count.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Ok::<_, Infallible>(piece.clone())
            });
            let mut headers = HeaderMap::new();
            for name in ["x-ms-request-id", "x-ms-error-code"] {
                let value = HeaderValue::from_static("AuthorizationFailure");
                headers.insert(HeaderName::from_static(name), value);
            }
            (status, headers, Body::from_stream(pieces))
        }
    });
    (app, taken)
}

#[tokio::test]
async fn an_error_without_an_end_is_judged_by_its_beginning() {
    let (app, taken) = endless(StatusCode::FORBIDDEN);
    let error = store(app).await.read("a").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("HTTP 403"), "{error}");
    assert!(taken.load(Ordering::Relaxed) < 32 << 20, "as much as the sockets hold");
}

#[tokio::test]
async fn a_listing_and_an_answer_without_an_end_are_refused() {
    let (app, taken) = endless(StatusCode::OK);
    let store = store(app).await;
    let error = store.list("").await.unwrap_err();
    assert!(error.to_string().contains("larger than 16777216 bytes"), "{error}");
    let error = store.write("a", Bytes::from_static(b"{}")).await.unwrap_err();
    assert!(error.to_string().contains("larger than 65536 bytes"), "{error}");
    assert!(taken.load(Ordering::Relaxed) < 64 << 20, "as much as the sockets hold");
}
