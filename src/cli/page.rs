//! The status page, as `serve` shows it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use futures::FutureExt as _;
use futures::channel::mpsc;
use futures::stream::{self, StreamExt as _};
use tokio::time::{Instant, timeout};

use super::check::check;
use super::status::template_version;
use crate::check::{Rung, Verdict};
use crate::functions::{Asked, Pages, Shown};
use crate::health::page::{Page, content_security_policy, test_begin, test_end, test_verdict};
use crate::health::{Depth, Named, Reporter, Status};
use crate::seams::{Clock, spawn};
use crate::settings::RawSettings;
use crate::store::Store;

/// The least time between two connection tests. Each spends calls that Mimecast counts.
const PAUSE: Duration = Duration::from_secs(60);

/// How long a connection test may take: a function app's front end gives up after 230 s, and nobody
/// looks at an empty page for longer.
const TEST_TIME: Duration = Duration::from_secs(55);

/// How long reading the status may take.
const READ_TIME: Duration = Duration::from_secs(30);

/// Where the status is read.
#[derive(Clone)]
pub(super) struct LookedAt {
    pub(super) store: Arc<dyn Store>,
    pub(super) named: Vec<Named>,
}

/// What the page is made of.
pub(super) struct StatusPage {
    pub(super) settings: RawSettings,
    /// What is wrong with them, a line each.
    pub(super) faults: Vec<String>,
    /// Or why it cannot be read.
    pub(super) looked_at: Result<LookedAt, String>,
    /// Where verdicts are reported; none while the settings are wrong.
    pub(super) reporter: Option<Reporter>,
    /// When the last connection test began.
    pub(super) tested: Mutex<Option<Instant>>,
}

impl StatusPage {
    /// What the server asks for pages.
    pub(super) fn pages(self) -> Pages {
        let this = Arc::new(self);
        let show = move |asked| {
            let this = Arc::clone(&this);
            async move {
                match asked {
                    Asked::Status => Shown::whole(StatusCode::OK, this.page().await),
                    Asked::Test => this.test(),
                }
            }
            .boxed()
        };
        Pages { show: Arc::new(show), policy: content_security_policy() }
    }

    async fn page(&self) -> String {
        let now = Clock::system().now();
        let status = match &self.looked_at {
            Ok(LookedAt { store, named }) => {
                let read = Status::read(store, named, Depth::Whole, template_version(), now);
                match timeout(READ_TIME, read).await {
                    Ok(read) => read.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer from {}", store.location())),
                }
            }
            Err(why) => Err(why.clone()),
        };
        let (status, faults) = (status.as_ref().map_err(String::clone), self.faults.clone());
        Page { status, faults, now, has_test: true }.html()
    }

    /// A page of its own: each verdict as it comes, then what came of it all. It does not show the status
    /// too, which takes long to read just when something is wrong.
    fn test(self: Arc<Self>) -> Shown {
        if let Err(why) = self.may_test() {
            let html = test_begin() + &test_end(&why);
            return Shown::whole(StatusCode::TOO_MANY_REQUESTS, html);
        }
        let (sender, verdicts) = mpsc::unbounded();
        // A task of its own: a client that goes away does not end it.
        let tested = spawn(async move {
            let shown = sender.clone();
            let mut show = move |rung: &_| {
                drop(shown.unbounded_send(test_verdict(rung)));
            };
            let ended = timeout(TEST_TIME, check(&self.settings, &mut show)).await;
            let mut rungs = Vec::new();
            let result = match ended {
                Ok(Ok(report)) => {
                    rungs = report.rungs;
                    counted(&rungs)
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!(
                    "The rest was not tried in {} seconds: `mimecast-sentinel check` has no such limit.",
                    TEST_TIME.as_secs()
                ),
            };
            drop(sender.unbounded_send(test_end(&result)));
            drop((sender, show));
            // The page is whole, and does not wait for it.
            if !rungs.is_empty() {
                self.report(&rungs).await;
            }
        });
        // Nothing waits for it: its last piece ends the page.
        drop(tested);
        let pieces = stream::iter([test_begin()]).chain(verdicts).boxed();
        Shown { status: StatusCode::OK, pieces }
    }

    /// Begins a test, unless one began a short while ago.
    fn may_test(&self) -> Result<(), String> {
        let mut tested = self.tested.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ago) = tested.map(|began| began.elapsed()).filter(|ago| *ago < PAUSE) {
            let left = (PAUSE - ago).as_secs() + 1;
            return Err(format!(
                "The connection was tested a short while ago. It can be tested again in {left} seconds."
            ));
        }
        *tested = Some(Instant::now());
        Ok(())
    }

    async fn report(&self, rungs: &[Rung]) {
        if let Some(reporter) = &self.reporter {
            reporter.verdicts(rungs, Clock::system().now()).await;
        }
    }
}

/// How many there are of each verdict, those first that matter most.
fn counted(rungs: &[Rung]) -> String {
    use Verdict::{Fail, Inconclusive, Ok, Skipped, Warn};
    let counts = [Fail, Inconclusive, Warn, Ok, Skipped].map(|name| {
        let count = rungs.iter().filter(|of| of.verdict == name).count();
        (count > 0).then(|| format!("{count} {name}"))
    });
    format!("Done: {}.", counts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}
