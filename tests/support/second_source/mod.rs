//! A second source, as somebody else would write it: readings and alarms of thermometers.
//!
//! `GET {base}/readings?limit=6[&after=12&epoch=1]` answers with NDJSON, one event a line; the last line
//! says where the reply begins, where the next one does, and whether there is more. A place that the server
//! no longer knows is 410. [`server`] is the other side.

mod format;
pub mod server;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mimecast_sentinel::checkpoint::Cursor;
use mimecast_sentinel::codes::Code;
use mimecast_sentinel::http::{Failure, GaveUp, RetryPolicy, send};
use mimecast_sentinel::pipeline::source::{Content, Format, Opened, Page, Part};
use mimecast_sentinel::pipeline::{Fault, Interrupt, Source};
use mimecast_sentinel::seams::{Clock, Deadline, Random};
use mimecast_sentinel::table::Stream;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout_at;
use url::Url;

use format::Ndjson;
pub use tables::{ALARMS, READINGS};

/// The most bytes of a reply.
const REPLY_LIMIT: usize = 1 << 20;

#[derive(Clone)]
pub struct ThermometerSource {
    pub client: reqwest::Client,
    pub base_url: Url,
    /// The most events of a reply, which is two parts.
    pub limit: usize,
    pub retry: RetryPolicy,
    pub clock: Clock,
    pub random: Random,
}

/// Where a reply begins: behind so many events, of all that the server has had since its last reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub after: u64,
    pub epoch: u64,
}

/// The last line of a reply.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trailer {
    pub at: Place,
    pub next: Place,
    pub more: bool,
}

/// The server does not know the place any more.
struct Gone;

impl ThermometerSource {
    async fn list(
        &self,
        stream: &Stream,
        at: Option<Place>,
        deadline: Deadline,
    ) -> Result<Result<Page, Gone>, Interrupt> {
        let mut url = self.base_url.clone();
        url.set_path(stream.name);
        url.query_pairs_mut().append_pair("limit", &self.limit.to_string());
        if let Some(Place { after, epoch }) = at {
            let mut query = url.query_pairs_mut();
            query.append_pair("after", &after.to_string()).append_pair("epoch", &epoch.to_string());
        }
        let attempt = || async {
            let sent = send(self.client.get(url.clone()), REPLY_LIMIT);
            let sent = timeout_at(deadline.instant(), sent).await;
            let reply = sent.map_err(|_| Failure::OutOfTime)?.map_err(Failure::passing)?;
            match reply.status {
                StatusCode::OK => match self.read(stream, &reply.body) {
                    Some(page) => Ok(Ok(page)),
                    None => Err(Failure::passing("the reply has no last line")),
                },
                StatusCode::GONE => Ok(Err(Gone)),
                status => Err(Failure::passing(status)),
            }
        };
        let gave_up = |gave_up: Option<GaveUp>| match gave_up {
            None => Interrupt::OutOfTime,
            Some(GaveUp { said, how_often, .. }) => Fault::passing(
                Code::ListingUnreadable,
                format!("{} at {} failed {how_often}: {said}", stream.name, self.base_url),
                "nothing is lost, the next run tries again",
            )
            .into(),
        };
        self.retry.start(&self.random, deadline).run("the thermometers", attempt, gave_up).await
    }

    /// The page that a reply is, if it is whole.
    fn read(&self, stream: &Stream, body: &Bytes) -> Option<Page> {
        let text = body.strip_suffix(b"\n")?;
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
        let Trailer { at, next, more } = serde_json::from_slice(&text[end..]).ok()?;
        let events = body.slice(..end);
        let ends = events.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let ends: Vec<usize> = ends.map(|(newline, _)| newline + 1).collect();
        let half = self.limit.div_ceil(2);
        let (mut parts, mut begin) = (Vec::new(), 0);
        for (number, ends) in ends.chunks(half).enumerate() {
            let bytes = events.slice(begin..*ends.last()?);
            begin += bytes.len();
            let after = at.after + (number * half) as u64;
            parts.push(Part {
                key: format!("{}/{}/{after}", stream.name, at.epoch),
                size: Some(bytes.len() as u64),
                content: Content::Here(bytes),
                etag: None,
                begun: None,
            });
        }
        let (at, next) = (Cursor(json!(at)), Some(Cursor(json!(next))));
        Some(Page { at, parts, next, caught_up: !more, backfill_from: None, gap: None })
    }
}

#[async_trait]
impl Source for ThermometerSource {
    fn name(&self) -> &'static str {
        "of a test"
    }

    fn owner(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("thermometers".to_owned(), self.base_url.to_string())])
    }

    fn streams(&self) -> Vec<Stream> {
        vec![
            Stream { name: "readings", table: &READINGS },
            Stream { name: "alarms", table: &ALARMS },
        ]
    }

    fn format(&self, stream: &Stream) -> Arc<dyn Format> {
        Arc::new(Ndjson { table: stream.table, arrival: self.clock.now() })
    }

    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        let place = at.map(|Cursor(place)| Place::deserialize(place)).transpose();
        let place = place.map_err(|error| {
            let message = format!("the cursor of {} is not a thermometer's: {error}", stream.name);
            Fault::settings(Code::CheckpointRefused, message, "reset the stream")
        })?;
        if let Ok(page) = self.list(stream, place, deadline).await? {
            return Ok(page);
        }
        match self.list(stream, None, deadline).await? {
            Ok(page) => Ok(Page { gap: Some((None, self.clock.now())), ..page }),
            Err(Gone) => Err(Fault::passing(
                Code::ListingRefused,
                format!("{} has no beginning", stream.name),
                "nothing is skipped, the next run asks again",
            )
            .into()),
        }
    }

    async fn open(&self, _: &Part, _: Deadline) -> Result<Opened, Interrupt> {
        Ok(Opened::Expired("its parts are all here".to_owned()))
    }
}
