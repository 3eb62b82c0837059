//! Microsoft Entra ID Protection: risk detections and risky users.
//!
//! Both are records that change, and come in no order. A *look* reads all that changed since two hours
//! before the newest change known, whose time is the watermark; what was sent in the same state is left
//! out. Nobody knows how late a change can become visible, so once a day a look goes back seven days; how
//! many it found is logged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use url::Url;

use super::client::{Answer, Call, Graph, Link, Options};
use super::lines::{Lines, Observations, id_of_unread};
use super::objects::{RISKY_USER, columns, detection, id};
use super::seen::Seen;
use super::ticks::Ticks;
use super::{cursor, place};
use crate::checkpoint::Cursor;
use crate::codes::Code;
use crate::http::SignedIn;
use crate::pipeline::source::{Format, Opened, Page, Part};
use crate::pipeline::{Interrupt, Source};
use crate::seams::Deadline;
use crate::table::{EventId, RISK_DETECTIONS, RISKY_USERS, Stream, Table};

/// The name of the source.
pub const ENTRA_RISK: &str = "entra-risk";

/// The streams.
const STREAMS: [(&str, &Table); 2] =
    [("risk-detections", &RISK_DETECTIONS), ("risky-users", &RISKY_USERS)];

/// Graph allows one request a second for risk in a tenant, to all programs together: [`Options::every`].
pub const RISK_EVERY: Duration = Duration::from_secs(1);

/// Objects of a page; Graph's largest.
const PAGE_SIZE: &str = "500";

/// How far before the watermark a look begins, and the one of a day that looks further, in seconds.
const OVERLAP: i64 = 2 * 3_600;
const WIDE: i64 = 7 * 86_400;

/// How far ahead of the server's clock a change may be to be believed, in seconds.
const AHEAD: i64 = 300;

const P2: (&str, &str) = ("Entra ID P2", "eec0eb4f-6444-4f95-aba0-50c24d67f998");
const P1: (&str, &str) = ("Entra ID P1", "41781fb2-bc02-4b7c-bd55-b576c07bb09d");

pub(super) const DETECTIONS: Call = Call {
    what: "the risk detections",
    prefer: "include-unknown-enum-members",
    needs: &["IdentityRiskEvent.Read.All", "IdentityRiskEvent.ReadWrite.All"],
    plans: &[P2, P1],
    is_delta: false,
};

pub(super) const USERS: Call = Call {
    what: "the risky users",
    prefer: "include-unknown-enum-members",
    needs: &["IdentityRiskyUser.Read.All", "IdentityRiskyUser.ReadWrite.All"],
    plans: &[P2],
    is_delta: false,
};

/// From when on detections are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RiskStart {
    /// Those that are detected from the first run on.
    FromNow,
    /// Those that were detected from this day on, as far as Microsoft keeps them.
    Day(NaiveDate),
}

/// Microsoft Entra ID Protection.
#[derive(Debug)]
pub struct RiskSource {
    graph: Graph,
    start: RiskStart,
}

/// Where a stream is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    /// Detections from before are not sent.
    t0: DateTime<Utc>,
    /// The newest change that was seen; of risky users none until all were read once.
    watermark: Option<Ticks>,
    /// When the last look ended: so no look leads back to where it began.
    looked: DateTime<Utc>,
    /// The day on which a look went further back.
    looked_back: Option<NaiveDate>,
    /// The look that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    look: Option<Look>,
    /// What was sent.
    seen: Seen,
}

/// A look, all of whose pages are read before the watermark moves: they come in no order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Look {
    /// From which change on; all, if there is none.
    since: Option<Ticks>,
    /// Whether it goes further back than others,
    wide: bool,
    /// and from when on an object would have been found without.
    known_from: Option<Ticks>,
    /// The page that is read next.
    page: u32,
    link: Option<String>,
    /// The newest change so far.
    newest: Option<Ticks>,
    /// Objects that only a wide look found.
    late: u64,
    /// Detections from before the beginning, which are left out.
    older: u64,
}

/// What became of the objects of a page.
struct Read {
    lines: Lines,
    seen: Seen,
    look: Look,
}

impl RiskSource {
    /// A source that calls Graph so.
    pub fn new(options: Options, start: RiskStart) -> Self {
        Self { graph: Graph::new(options), start }
    }

    /// The place of a stream that begins.
    fn begin(&self, stream: &Stream) -> Place {
        let now = self.graph.clock().now();
        let t0 = match self.start {
            RiskStart::FromNow => now,
            RiskStart::Day(day) => day.and_time(NaiveTime::MIN).and_utc(),
        };
        let watermark = is_detections(stream).then(|| Ticks::of(t0));
        let (looked, looked_back) = (now, Some(now.date_naive()));
        let seen = Seen::default();
        Place { t0, watermark, looked, looked_back, look: None, seen }.with_look(now)
    }

    fn first_page(&self, stream: &Stream, look: &Look) -> Url {
        let (path, changed) = match is_detections(stream) {
            true => ("identityProtection/riskDetections", "lastUpdatedDateTime"),
            false => ("identityProtection/riskyUsers", "riskLastUpdatedDateTime"),
        };
        let filter = look.since.map(|since| format!("{changed} ge {}", since.literal()));
        let mut query = vec![("$top", PAGE_SIZE)];
        query.extend(filter.as_deref().map(|filter| ("$filter", filter)));
        self.graph.at(path, &query)
    }

    /// What is new among the objects of a page.
    fn read(
        &self,
        stream: &Stream,
        place: &Place,
        look: &Look,
        signed_in: &SignedIn,
        now: DateTime<Utc>,
        objects: &[&RawValue],
    ) -> Read {
        let lines = Lines::new(&signed_in.tenant, None, self.graph.clock().now());
        let mut read = Read { lines, seen: place.seen.clone(), look: look.clone() };
        for object in objects {
            match serde_json::from_str(object.get()) {
                Ok(object) => {
                    read.add(is_detections(stream), place, Ticks::of(now).minus(-AHEAD), object);
                }
                Err(_) => read.add_unread(is_detections(stream), place, object),
            }
        }
        read
    }
}

impl Read {
    fn add_unread(&mut self, is_detection: bool, place: &Place, object: &RawValue) {
        let Self { lines, seen, look } = self;
        let column = if is_detection { "DetectionId" } else { "UserId" };
        let line = lines.unread(kind(is_detection, look), column, object);
        let when = place.watermark.unwrap_or_else(|| Ticks::of(place.t0));
        if seen.is_new(&id_of_unread(object), EventId::of(object.get().as_bytes()), when) {
            lines.put(&line);
        }
    }

    fn add(
        &mut self,
        is_detection: bool,
        place: &Place,
        believed: Ticks,
        object: Map<String, Value>,
    ) {
        let Self { lines, seen, look } = self;
        let id = id(&object).to_owned();
        let text = |name: &str| object.get(name).and_then(Value::as_str);
        let time = |name: &str| text(name).and_then(Ticks::parse);
        let changed =
            time(if is_detection { "lastUpdatedDateTime" } else { "riskLastUpdatedDateTime" });
        // A time that is far ahead would hide all that comes until then.
        look.newest = look.newest.max(changed.filter(|changed| *changed <= believed));
        // One whose time cannot be read is sent rather than left out.
        let t0 = Ticks::of(place.t0);
        let is_older = is_detection && time("detectedDateTime").is_some_and(|time| time < t0);
        let mut columns =
            if is_detection { detection(object) } else { columns(object, RISKY_USER) };
        if is_detection {
            columns
                .extend(changed.map(|Ticks(ticks)| ("LastUpdatedTicks".to_owned(), json!(ticks))));
        }
        // What the row is called is no change of the object.
        let state = EventId::of(&lines.line("", columns.clone()));
        let line = lines.line(kind(is_detection, look), columns);
        let when = changed.or(place.watermark).unwrap_or(t0);
        if !seen.is_new(&id, state, when) {
            return;
        }
        if is_older {
            look.older += 1;
            return;
        }
        let is_late = changed.zip(look.known_from).is_some_and(|(changed, from)| changed < from);
        look.late += u64::from(look.wide && is_late);
        lines.put(&line);
    }
}

impl Place {
    /// With a look from its beginning.
    fn with_look(self, now: DateTime<Utc>) -> Self {
        let today = now.date_naive();
        let wide = self.watermark.is_some() && self.looked_back != Some(today);
        let back = |seconds| self.watermark.map(|watermark| watermark.minus(seconds));
        let since = back(if wide { WIDE } else { OVERLAP });
        let look = Look { since, wide, known_from: back(OVERLAP), ..Look::default() };
        Self { look: Some(look), ..self }
    }

    /// After a page: in the next one, or at the look's end.
    fn after(&self, seen: Seen, look: Look, link: Link, now: DateTime<Utc>) -> Self {
        let mut place = Self { seen, ..self.clone() };
        // A first look may find any number.
        place.seen.forget(self.watermark.unwrap_or(Ticks(i64::MIN)));
        if let Link::Next(link) = link {
            place.look = Some(Look { link: Some(link), page: look.page + 1, ..look });
            return place;
        }
        // Of a tenant without risky users, the first look has seen all too.
        place.watermark = place.watermark.max(look.newest).or_else(|| Some(Ticks::of(self.t0)));
        if look.wide {
            place.looked_back = Some(now.date_naive());
        }
        (place.look, place.looked) = (None, now.max(self.looked + TimeDelta::milliseconds(1)));
        if let Some(watermark) = place.watermark {
            place.seen.forget(watermark);
        }
        place
    }
}

#[async_trait]
impl Source for RiskSource {
    fn name(&self) -> &'static str {
        ENTRA_RISK
    }

    fn owner(&self) -> BTreeMap<String, String> {
        self.graph.owner()
    }

    fn streams(&self) -> Vec<Stream> {
        risk_streams()
    }

    fn format(&self, stream: &Stream) -> Arc<dyn Format> {
        Observations::of(stream.table, self.graph.clock().now())
    }

    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        let begun = at.is_none();
        let mut place = match at {
            None => self.begin(stream),
            Some(at) => place(stream.name, at)?,
        };
        let now = self.graph.clock().now();
        let mut restarted = false;
        loop {
            // A place between two looks is where the next one begins.
            let asked = cursor(&place);
            let look = match &place.look {
                Some(look) => look.clone(),
                None => place.clone().with_look(now).look.unwrap_or_default(),
            };
            let url = match &look.link {
                Some(link) => self.graph.own(link)?,
                None => self.first_page(stream, &look),
            };
            let call = if is_detections(stream) { DETECTIONS } else { USERS };
            let make = |signed_in: &SignedIn, now: DateTime<Utc>, objects: &[&RawValue]| {
                self.read(stream, &place, &look, signed_in, now, objects)
            };
            let goes_on = look.link.is_some() && !restarted;
            let answer = match self.graph.get(call, url, deadline, make).await {
                // In which words Graph refuses a link of another day, nobody says.
                Err(Interrupt::Fault(fault)) if goes_on && fault.code == Code::GraphRefused => {
                    let refused = fault.message;
                    tracing::info!(stream = stream.name, refused, "what changed is asked for anew");
                    Answer::Resync
                }
                answer => answer?,
            };
            let (Read { lines, seen, look }, link, server_now) = match answer {
                Answer::Page(read, link, now) => (read, link, now),
                // The link, which is of another day, is no longer good: the look begins again.
                Answer::Resync if goes_on => {
                    restarted = true;
                    place = Place { look: None, ..place }.with_look(now);
                    continue;
                }
                Answer::Resync => return Err(call.refused_from_the_beginning().into()),
            };
            let caught_up = !matches!(link, Link::Next(_));
            if caught_up {
                report(stream, &look);
            }
            // Not from when on it looks, which the day decides: this page may be read again tomorrow.
            let looked = place.looked.to_rfc3339_opts(SecondsFormat::Millis, true);
            let key = format!("{}/{looked}/{}", stream.name, look.page);
            let parts = lines.part(key);
            let next = Some(cursor(&place.after(seen, look, link, server_now)));
            let backfill_from = begun.then(|| place.t0.date_naive());
            return Ok(Page { at: asked, parts, next, caught_up, backfill_from, gap: None });
        }
    }

    fn keeps_parts(&self) -> bool {
        false
    }

    async fn open(&self, _: &Part, _: Deadline) -> Result<Opened, Interrupt> {
        Ok(Opened::Expired("a reply of Microsoft Graph's has no address".to_owned()))
    }
}

/// The streams of this source.
pub fn risk_streams() -> Vec<Stream> {
    STREAMS.map(|(name, table)| Stream { name, table }).to_vec()
}

fn is_detections(stream: &Stream) -> bool {
    stream.name == STREAMS[0].0
}

/// What the rows of a look are.
fn kind(is_detection: bool, look: &Look) -> &'static str {
    match (is_detection, look.since) {
        (true, _) => "Detection",
        (false, None) => "Baseline",
        (false, Some(_)) => "RiskyUser",
    }
}

/// What a look has found besides.
fn report(stream: &Stream, look: &Look) {
    if look.late > 0 {
        let since = look.since.map_or_else(String::new, Ticks::literal);
        tracing::info!(
            stream = stream.name,
            late = look.late,
            since,
            "changes became visible more than two hours late, and are sent now"
        );
    }
    if look.older > 0 {
        tracing::info!(
            stream = stream.name,
            older = look.older,
            "detections from before the beginning changed, and are left out; ENTRA_RISK_START_DATE \
             says where the beginning is"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_ever_so_many_remembers_no_more_than_may_be() {
        let (now, state) = (DateTime::UNIX_EPOCH, EventId::of(b"1"));
        let mut seen = Seen::default();
        for number in 0..20_010 {
            seen.is_new(&number.to_string(), state, Ticks(number));
        }
        let (t0, looked, looked_back) = (now, now, None);
        let of =
            Place { t0, watermark: None, looked, looked_back, look: None, seen: Seen::default() };
        let next = Link::Next("https://localhost/".to_owned());
        let place = of.after(seen, Look::default(), next, now);
        assert_eq!(cursor(&place).0["seen"].as_object().unwrap().len(), 20_000);
    }
}
