//! Being asked to stop: Ctrl-C, or SIGTERM from a container's host.

use tokio_util::sync::CancellationToken;

/// A token that is cancelled at the first such signal. At the second, the process ends at once, as
/// it would have at the first without this.
pub(super) fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            signal().await;
            tracing::info!("stopping: what is in flight is finished first; again to stop at once");
            stop.cancel();
            signal().await;
            std::process::exit(130);
        }
    });
    stop
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};

    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

#[cfg(not(unix))]
async fn signal() {
    drop(tokio::signal::ctrl_c().await);
}
