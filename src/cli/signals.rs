//! Reasons to stop: Ctrl-C, or SIGTERM from a container's host; under the Functions host, its death.

use tokio_util::sync::CancellationToken;

/// A token that is cancelled at the first such signal. At the second, the process ends at once, as
/// it would have at the first without this. From the return on, no signal is missed.
pub(super) fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let mut signals = Signals::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            signals.next().await;
            tracing::info!("stopping: what is in flight is finished first; again to stop at once");
            stop.cancel();
            signals.next().await;
            std::process::exit(130);
        }
    });
    stop
}

/// Cancels `stop` once the process that started this one is gone. The Functions host sends no
/// signal: one that dies, or that shuts down during a run of more than 10 s, leaves its handler
/// behind, and nothing else would ever end it.
#[cfg(unix)]
pub(super) fn stop_when_orphaned(stop: &CancellationToken) {
    use std::os::unix::process::parent_id;
    use std::time::Duration;

    const LOOK_EVERY: Duration = Duration::from_secs(1);

    let (stop, parent) = (stop.clone(), parent_id());
    tokio::spawn(async move {
        while parent_id() == parent {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tracing::info!("stopping: the process that started this one is gone");
        stop.cancel();
    });
}

/// Elsewhere a process is not given another parent.
#[cfg(not(unix))]
pub(super) fn stop_when_orphaned(_: &CancellationToken) {}

#[cfg(unix)]
struct Signals(Vec<tokio::signal::unix::Signal>);

#[cfg(unix)]
impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};

        let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
        // A signal that cannot be watched ends the process, as it always does.
        Self(kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect())
    }

    async fn next(&mut self) {
        use std::task::Poll;

        std::future::poll_fn(|context| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) {
        drop(tokio::signal::ctrl_c().await);
    }
}
