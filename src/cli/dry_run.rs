//! `pull --dry-run`: rows go to stdout instead of Azure, and nothing is written.

use std::io::{self, BufWriter, ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::GzDecoder;
use serde_json::value::RawValue;

use super::escape::escaped_json;
use super::output::note;
use super::progress;
use super::report::report;
use super::signals::stop_on_signal;
use super::wiring::Wiring;
use super::{CommandError, DONE};
use crate::codes::Code;
use crate::pipeline::sink::{PostError, Posted};
use crate::pipeline::{Connector, Fault, Interrupt, Live, Policy, Pool, Sink};
use crate::quarantine::Quarantine;
use crate::seams::Deadline;
use crate::settings::{DryRunSettings, is_loopback};
use crate::sources::mimecast::MimecastSource;
use crate::spill::SpilledFiles;
use crate::store::NullStore;
use crate::table::Table;

/// Prints the rows of a run, and then its summary on stderr. `show` shows how far it is, until it is
/// dropped.
pub(super) async fn print<S>(
    settings: &DryRunSettings,
    show: impl FnOnce(&[Live]) -> S,
) -> Result<u8, CommandError> {
    let wiring = Wiring::new(is_loopback(&settings.mimecast.base_url))?;
    let rows = Rows::default();
    let connector = rows.connector(wiring.source(&settings.mimecast), settings, &wiring);
    let (summaries, stop) = (connector.summaries(), stop_on_signal());
    let shown = show(&summaries);
    // Without a record in the history: nothing is written.
    let summary = connector.run(connector.begin(), &summaries, &stop).await;
    drop(shown);
    if rows.reader_is_gone() {
        return Ok(DONE);
    }
    note(&report(&summary, "printed"));
    Ok(summary.exit_code())
}

/// A sink that prints rows as NDJSON on stdout.
#[derive(Clone, Debug, Default)]
struct Rows(Arc<AtomicBool>);

impl Rows {
    /// A connector that reads from `source` and prints here. It keeps nothing.
    fn connector(
        &self,
        source: MimecastSource,
        settings: &DryRunSettings,
        wiring: &Wiring,
    ) -> Connector {
        Connector {
            source: Arc::new(source),
            sink: Arc::new(self.clone()),
            store: Arc::new(NullStore),
            quarantine: Quarantine::new(Arc::new(NullStore)),
            spill: SpilledFiles::new(Arc::new(NullStore)),
            policy: Policy {
                spill_after: None,
                run_time_limit: settings.run_time_limit,
                max_rows: settings.max_rows,
                gzip_level: 0,
                ..Policy::default()
            },
            pool: Pool::default(),
            clock: wiring.clock.clone(),
            random: wiring.random.clone(),
        }
    }

    /// Whether the reader of stdout has gone, as `head` does: that is not a failure.
    fn reader_is_gone(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn print(body: &[u8]) -> io::Result<()> {
        let mut json = Vec::new();
        GzDecoder::new(body).read_to_end(&mut json)?;
        let rows: Vec<&RawValue> = serde_json::from_slice(&json)?;
        progress::aside(|| {
            let mut stdout = BufWriter::new(io::stdout().lock());
            for row in rows {
                stdout.write_all(escaped_json(row.get()).as_bytes())?;
                stdout.write_all(b"\n")?;
            }
            stdout.flush()
        })
    }
}

#[async_trait]
impl Sink for Rows {
    fn destination(&self, _: &Table) -> String {
        "stdout".to_owned()
    }

    async fn post(&self, _: &Table, body: Bytes, _: Deadline) -> Posted {
        // The reader of stdout may be slow; signals and the time limit must not wait for it.
        let printing = tokio::task::spawn_blocking(move || Self::print(&body));
        let printed = printing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let answer = printed.map_err(|error| {
            if error.kind() == ErrorKind::BrokenPipe {
                self.0.store(true, Ordering::Relaxed);
                return PostError::Interrupt(Interrupt::OutOfTime);
            }
            let message = format!("rows cannot be printed: {error}");
            let fault = Fault::passing(Code::Stdout, message, "check where stdout goes");
            PostError::Interrupt(Interrupt::from(fault))
        });
        Posted { ambiguous: 0, answer }
    }
}
