//! Rows for the health table: of each stream hourly while it stays as it is, and at once when it
//! changes; of each verdict of the connection test once a day, and when it changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::seen::PATIENCE;
use super::status::{State, Status, StreamStatus};
use crate::check::{Rung, Verdict};
use crate::pipeline::sink::{PostError, packed};
use crate::pipeline::{Interrupt, Outcome, RunSummary, Sink};
use crate::seams::Deadline;
use crate::store::{Store, StoreError};
use crate::table::{EventId, HEALTH};

/// A row comes so long after the one before while nothing changes: an hour, less what the runs of an
/// hourly schedule may differ by.
const EVERY: TimeDelta = TimeDelta::minutes(55);

/// How long posting may take.
const POST_TIME: Duration = Duration::from_secs(10);

/// Posts the rows.
#[derive(Clone)]
pub struct Reporter {
    store: Arc<dyn Store>,
    sink: Arc<dyn Sink>,
    /// The name of the function app, or else of this program.
    app: String,
    /// Held by the one that reports: what was reported is one object for all sources.
    turn: Arc<Mutex<()>>,
    /// Held by the one that tests the connections.
    testing: Arc<Mutex<()>>,
}

/// What was reported last, as it is kept in `health/reported.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Reported {
    /// Of each stream.
    #[serde(default)]
    streams: BTreeMap<String, ReportedStream>,
    /// Of each rung, its verdict.
    #[serde(default)]
    verdicts: BTreeMap<String, String>,
    /// The day of the last connection test.
    #[serde(default)]
    tested_on: Option<NaiveDate>,
    /// When rows could not be posted: the next are tried an hour later.
    #[serde(default)]
    refused_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReportedStream {
    state: State,
    code: Option<String>,
    at: DateTime<Utc>,
    /// When the newest run ended that delivered rows: it may be of long ago.
    last_row: Option<DateTime<Utc>>,
}

const REPORTED: &str = "health/reported.json";

impl Reporter {
    /// Posts to `sink`, and notes in `store` what was reported. `app` names this connector among others.
    pub fn new(store: Arc<dyn Store>, sink: Arc<dyn Sink>, app: String) -> Self {
        Self { store, sink, app, turn: Arc::default(), testing: Arc::default() }
    }

    /// Whether nothing is due after this run: all is well, and was reported so less than an hour ago. It
    /// saves most runs from reading the status.
    pub async fn is_quiet(&self, run: &RunSummary) -> bool {
        let reported = self.reported().await;
        run.streams.iter().all(|of| {
            let reported = reported.streams.get(&of.stream);
            let is_well =
                of.outcome == Outcome::CaughtUp && of.files_waiting == 0 && of.gap.is_none();
            is_well
                && reported.is_some_and(|reported| {
                    let ago = run.finished_at - reported.at;
                    reported.state == State::Connected && (TimeDelta::zero()..EVERY).contains(&ago)
                })
        })
    }

    /// Reports of the streams what is due. What fails is logged, and ends nothing.
    pub async fn streams(&self, status: &Status) {
        let _turn = self.turn.lock().await;
        let mut reported = self.reported().await;
        let now = status.read_at;
        let due: Vec<_> = status
            .streams
            .iter()
            .filter(|stream| is_due(stream, reported.streams.get(stream.stream), now))
            .collect();
        let rows = due
            .iter()
            .map(|of| {
                let mut row = self.row_of_stream(of, reported.streams.get(of.stream), now);
                row["Build"] = json!(status.build);
                row["Template"] = json!(status.template);
                row
            })
            .collect();
        if self.post(rows, &mut reported, now).await {
            for of in due {
                let before = reported.streams.get(of.stream);
                let next = ReportedStream {
                    state: of.state,
                    code: of.code.clone(),
                    at: now,
                    last_row: last_row(of, before),
                };
                reported.streams.insert(of.stream.to_owned(), next);
            }
            self.note(&reported).await;
        }
    }

    /// The right to test the connections, unless somebody is at it.
    pub fn begin_test(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.testing).try_lock_owned().ok()
    }

    /// Whether no connection test was reported on this day.
    pub async fn is_test_due(&self, today: NaiveDate) -> bool {
        self.reported().await.tested_on != Some(today)
    }

    /// Reports a connection test: the first of a day whole, others as far as a verdict has changed.
    pub async fn verdicts(&self, rungs: &[Rung], now: DateTime<Utc>) {
        let _turn = self.turn.lock().await;
        let mut reported = self.reported().await;
        let is_first = reported.tested_on != Some(now.date_naive());
        let changed = |of: &&Rung| reported.verdicts.get(&of.rung) != Some(&of.verdict.to_string());
        let due: Vec<_> = rungs.iter().filter(|of| is_first || changed(of)).collect();
        let rows = due.iter().map(|rung| self.row_of_rung(rung)).collect();
        // Also if they cannot be posted: a test is not made at each tick for it.
        reported.tested_on = Some(now.date_naive());
        if self.post(rows, &mut reported, now).await {
            reported.verdicts =
                rungs.iter().map(|of| (of.rung.clone(), of.verdict.to_string())).collect();
        }
        self.note(&reported).await;
    }

    /// Whether all rows were taken. There may be none.
    async fn post(&self, rows: Vec<Value>, reported: &mut Reported, now: DateTime<Utc>) -> bool {
        if rows.is_empty() {
            return false;
        }
        if reported.refused_at.is_some_and(|at| now >= at && now - at < EVERY) {
            return false;
        }
        let posted = self.sink.post(&HEALTH, body(&rows, now), Deadline::after(POST_TIME));
        let (is_refused, why) = match timeout(POST_TIME, posted).await.map(|posted| posted.answer) {
            Ok(Ok(())) => {
                reported.refused_at = None;
                return true;
            }
            Ok(Err(PostError::RowRefused(words))) => (true, words),
            Ok(Err(PostError::TooLarge)) => (true, "it is too large (413)".to_owned()),
            Ok(Err(PostError::Interrupt(
                Interrupt::Fault(fault) | Interrupt::Destination(fault),
            ))) => (fault.settings, fault.message.clone()),
            Ok(Err(PostError::Interrupt(Interrupt::OutOfTime))) | Err(_) => {
                (false, format!("no answer within {} s", POST_TIME.as_secs()))
            }
        };
        if is_refused {
            tracing::warn!(
                table = HEALTH.name,
                fix = "deploy the template of this release, whose rule has the stream for it; or set \
                       HEALTH_STREAM to `off`",
                "a row of the health table was not accepted; it is tried again in an hour: {why}"
            );
        } else {
            let table = HEALTH.name;
            tracing::info!(table, "a row of the health table is tried again in an hour: {why}");
        }
        reported.refused_at = Some(now);
        self.note(reported).await;
        false
    }

    fn row_of_stream(
        &self,
        of: &StreamStatus,
        reported: Option<&ReportedStream>,
        now: DateTime<Utc>,
    ) -> Value {
        // Of all runs since the last row, so that rows of health add up. One that ended later than now,
        // by a clock that was ahead, would be in each.
        let since = reported.map_or(DateTime::UNIX_EPOCH, |reported| reported.at);
        let ended = of.ended.iter().filter(|(at, _)| *at > since && *at <= now);
        let [delivered, quarantined] =
            ended.fold([0_u64; 2], |[a, b], (_, [delivered, quarantined])| {
                [a.saturating_add(*delivered), b.saturating_add(*quarantined)]
            });
        let description = of.reason.clone().unwrap_or_else(|| match of.state {
            State::Connecting => "it reads what was there before it was connected".to_owned(),
            _ => "it works".to_owned(),
        });
        json!({
            "OperationName": "Data fetch status change",
            "SentinelResourceName": format!("{}/{}", self.app, of.stream),
            "SentinelResourceKind": KIND,
            "Status": if of.state.is_fine() { "Success" } else { "Failure" },
            "Reason": of.code,
            "Description": description,
            "State": of.state,
            "Source": of.source,
            "Stream": of.stream,
            "Version": env!("CARGO_PKG_VERSION"),
            "LagSeconds": of.lag_seconds,
            "LastRow": last_row(of, reported).map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)),
            "Verdict": null,
            "Fix": of.fix,
            "Summary": {
                "rows_delivered": delivered,
                "rows_quarantined": quarantined,
                "rows_24h": of.rows_24h,
                "quarantine": of.quarantine.records,
                "files_waiting": of.files_waiting,
                "held_up": of.held_up,
                "last_gap": of.last_gap,
            },
        })
    }

    fn row_of_rung(&self, of: &Rung) -> Value {
        let fails = of.verdict == Verdict::Fail;
        json!({
            "OperationName": "Connection test",
            "SentinelResourceName": format!("{}/{}", self.app, of.rung),
            "SentinelResourceKind": KIND,
            "Status": if fails { "Failure" } else { "Success" },
            "Reason": if fails { of.rung.as_str() } else { "" },
            "Description": of.answer,
            "State": null,
            "Source": of.source,
            "Stream": null,
            "Version": env!("CARGO_PKG_VERSION"),
            "LagSeconds": null,
            "LastRow": null,
            "Verdict": of.verdict,
            "Fix": of.fix,
            "Summary": null,
        })
    }

    /// What cannot be read counts as nothing: a row too much is reported.
    async fn reported(&self) -> Reported {
        let read = self.store.read(REPORTED).await.ok().flatten();
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    async fn note(&self, reported: &Reported) {
        let bytes = serde_json::to_vec(reported).unwrap_or_default();
        let written: Result<(), StoreError> = self.store.write(REPORTED, bytes.into()).await;
        if let Err(error) = written {
            tracing::debug!("{REPORTED} is not written, so rows of health come again: {error}");
        }
    }
}

const KIND: &str = "mimecast-sentinel";

/// Whether a row of a stream is due, of which this was reported last.
fn is_due(of: &StreamStatus, reported: Option<&ReportedStream>, now: DateTime<Utc>) -> bool {
    let Some(reported) = reported else { return true };
    // A clock that was ahead must not hold it back.
    if now < reported.at || now - reported.at >= EVERY {
        return true;
    }
    if of.last_gap.is_some_and(|gap| gap.at > reported.at) {
        return true;
    }
    if (reported.state, &reported.code) == (of.state, &of.code) {
        return false;
    }
    let may_pass = !of.state.is_fine() && !of.person;
    !may_pass || of.since.is_some_and(|since| now - since >= PATIENCE)
}

/// When the newest run ended that delivered rows. It may be of long ago, before what was read.
fn last_row(of: &StreamStatus, reported: Option<&ReportedStream>) -> Option<DateTime<Utc>> {
    of.last_row.or_else(|| reported.and_then(|reported| reported.last_row))
}

/// The body of these rows. Their values are ours, so each is a row of the table.
fn body(rows: &[Value], now: DateTime<Utc>) -> Bytes {
    let mut body = Vec::from(b"[");
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        let row = row.to_string();
        // It has no column for an id.
        drop(HEALTH.write_row(row.as_bytes(), EventId::of(b""), now, &mut body));
    }
    body.push(b']');
    packed(&body)
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").field("app", &self.app).finish_non_exhaustive()
    }
}
