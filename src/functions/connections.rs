//! Connections from outside, with limits to how many there are and to what each may hold or wait.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How many connections there may be; the host has a few. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// The most that is held of a request's head, and at once of its body; the host's head is under
/// 4 KiB.
const MAX_BUFFER_BYTES: usize = 32 * 1024;
/// The wait after a connection could not be accepted, as when no file can be opened.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Accepts connections, each a task of its own, until `stop` is cancelled. axum's own server has no
/// limit to how many there are, nor to how slowly a request may begin: each may be for `head_time` without
/// a whole head of a request, from its start or from its last answer.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    head_time: Duration,
    connections: &GracefulShutdown,
    stop: &CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_time).max_buf_size(MAX_BUFFER_BYTES);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(router.clone());
                let connection = http.serve_connection(TokioIo::new(stream), service);
                let connection = connections.watch(connection);
                tokio::spawn(async move {
                    let _place = place;
                    // A client that breaks off or says nothing is no error of ours.
                    drop(connection.await);
                });
            }
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}
