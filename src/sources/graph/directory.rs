//! The directory: users, groups, and who is in which group, by Graph's delta queries.
//!
//! A *round* is one whole reading. Its rows carry when it began; its last row says how many they were.
//! After it, changes are followed, whose rows carry the same round, until the next one begins: each
//! week, when a link is too old, or when other properties are asked for. Nothing is remembered but the
//! next link, so an object that is gone is in no row of the newest round.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use url::Url;

use super::client::{Answer, Call, Graph, Link, Options};
use super::lines::{Lines, Observations, id_of_unread};
use super::objects::{GROUP, USER, id, kind, of_directory, removed};
use super::{cursor, place};
use crate::checkpoint::Cursor;
use crate::codes::Code;
use crate::http::SignedIn;
use crate::pipeline::source::{Format, Opened, Page, Part};
use crate::pipeline::{Fault, Interrupt, Source};
use crate::seams::Deadline;
use crate::table::{EventId, GROUP_MEMBERS, GROUPS, Stream, Table, USERS};

/// The name of the source.
pub const DIRECTORY: &str = "directory";

/// A page of 999 is what Graph is asked for; it gives what it likes.
const PREFER: &str = "odata.maxpagesize=999";

/// One of the three readings.
#[derive(Debug)]
struct Reading {
    stream: &'static str,
    table: &'static Table,
    path: &'static str,
    /// What is asked besides the properties that have a column.
    besides: &'static [&'static str],
    properties: &'static [(&'static str, &'static str)],
    call: Call,
}

pub(super) const fn call(what: &'static str, needs: &'static [&'static str]) -> Call {
    Call { what, prefer: PREFER, needs, plans: &[], is_delta: true }
}

pub(super) const READ_USERS: &[&str] = &["User.Read.All", "Directory.Read.All"];
pub(super) const READ_GROUPS: &[&str] =
    &["GroupMember.Read.All", "Group.Read.All", "Directory.Read.All"];

static READINGS: [Reading; 3] = [
    Reading {
        stream: "users",
        table: &USERS,
        path: "users/delta",
        besides: &["proxyAddresses", "manager"],
        properties: USER,
        call: call("the users", READ_USERS),
    },
    Reading {
        stream: "groups",
        table: &GROUPS,
        path: "groups/delta",
        besides: &["proxyAddresses"],
        properties: GROUP,
        call: call("the groups", READ_GROUPS),
    },
    Reading {
        stream: "group-members",
        table: &GROUP_MEMBERS,
        path: "groups/delta",
        besides: &["members"],
        properties: &[("id", "GroupId")],
        call: call("the groups' members", READ_GROUPS),
    },
];

/// The directory of a tenant.
#[derive(Debug)]
pub struct DirectorySource {
    graph: Graph,
    /// After so long all is read again.
    round: TimeDelta,
}

/// Where a stream is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    /// When the round began, as its rows have it.
    round: String,
    /// A hash of the properties that are asked for: links hold them.
    select: String,
    phase: Phase,
    /// The page that is read next,
    page: u32,
    /// and its link; none at the beginning.
    link: Option<String>,
    /// The rows of the round so far, while all is read.
    rows: u64,
    /// When the last row was observed: the next page's come later, whatever the clock says.
    observed: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    /// All is read.
    Whole,
    /// Changes are followed.
    Changes,
}

impl DirectorySource {
    /// A source that calls Graph so, and reads all again after `round`.
    pub fn new(options: Options, round: TimeDelta) -> Self {
        Self { graph: Graph::new(options), round }
    }

    /// A place of a new round, which readers must know as newer than the one before, whatever the clock
    /// says.
    fn begin(&self, reading: &Reading, before: Option<&Place>) -> Place {
        let now = self.graph.clock().now();
        let observed =
            before.map_or(now, |place| now.max(place.observed + TimeDelta::milliseconds(1)));
        let round = observed.to_rfc3339_opts(SecondsFormat::Millis, true);
        let (select, phase) = (reading.hash(), Phase::Whole);
        Place { round, select, phase, page: 0, link: None, rows: 0, observed }
    }

    /// Whether all must be read again though the link is good, or there is none: asked from the beginning once
    /// more, Graph tells of what there is now, and not what is gone of that of which rows were sent.
    fn is_over(&self, reading: &Reading, place: &Place) -> bool {
        let began = DateTime::parse_from_rfc3339(&place.round);
        let age = began.map(|began| self.graph.clock().now() - began.to_utc());
        let is_old = age.map_or(true, |age| age >= self.round);
        let is_at_beginning = place.link.is_none();
        is_at_beginning
            || place.select != reading.hash()
            || (place.phase == Phase::Changes && is_old)
    }

    fn url(&self, reading: &Reading, place: &Place) -> Result<Url, Interrupt> {
        Ok(match &place.link {
            Some(link) => self.graph.own(link)?,
            None => self.graph.at(reading.path, &[("$select", &reading.select())]),
        })
    }

    /// The lines of a page.
    fn lines(
        &self,
        reading: &Reading,
        place: &Place,
        signed_in: &SignedIn,
        objects: &[&RawValue],
    ) -> Lines {
        let observed = self.graph.clock().now().max(place.observed + TimeDelta::milliseconds(1));
        let mut lines = Lines::new(&signed_in.tenant, Some(&place.round), observed);
        for object in objects {
            match serde_json::from_str(object.get()) {
                Ok(object) => reading.add(object, &mut lines),
                Err(_) => reading.add_unread(object, &mut lines),
            }
        }
        lines
    }
}

impl Reading {
    fn select(&self) -> String {
        let names = self.properties.iter().map(|(name, _)| *name);
        names.chain(self.besides.iter().copied()).collect::<Vec<_>>().join(",")
    }

    fn hash(&self) -> String {
        EventId::of(self.select().as_bytes()).to_string().chars().take(8).collect()
    }

    fn add_unread(&self, object: &RawValue, lines: &mut Lines) {
        let kind = match self.stream {
            "users" => "User",
            "groups" => "Group",
            _ => "Member",
        };
        lines.of(id_of_unread(object));
        let line = lines.unread(kind, self.properties[0].1, object);
        lines.put(&line);
    }

    fn add(&self, object: Map<String, Value>, lines: &mut Lines) {
        match self.stream {
            "group-members" => add_members(&object, lines),
            stream => {
                let kind = match removed(&object) {
                    Some(_) => "Removed",
                    None if stream == "users" => "User",
                    None => "Group",
                };
                lines.of(id(&object).to_owned());
                lines.add(kind, of_directory(object, self.properties));
            }
        }
    }
}

/// One row for each edge: the members of a group may come in any number of pages.
fn add_members(group: &Map<String, Value>, lines: &mut Lines) {
    let columns = |more: [(&str, Option<&str>); 3]| {
        let more =
            more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
        std::iter::once(("GroupId".to_owned(), json!(id(group)))).chain(more).collect()
    };
    lines.of(id(group).to_owned());
    if let Some(reason) = removed(group) {
        let gone = [("RemovedReason", Some(reason)), ("MemberId", None), ("MemberType", None)];
        return lines.add("GroupRemoved", columns(gone));
    }
    let members = group.get("members@delta").and_then(Value::as_array);
    for member in members.into_iter().flatten().filter_map(Value::as_object) {
        let reason = removed(member);
        lines.of(format!("{} {}", id(group), id(member)));
        let row = [
            ("MemberId", Some(id(member))),
            ("MemberType", kind(member)),
            ("RemovedReason", reason),
        ];
        lines.add(if reason.is_some() { "Removed" } else { "Member" }, columns(row));
    }
}

#[async_trait]
impl Source for DirectorySource {
    fn name(&self) -> &'static str {
        DIRECTORY
    }

    fn owner(&self) -> BTreeMap<String, String> {
        self.graph.owner()
    }

    fn streams(&self) -> Vec<Stream> {
        directory_streams()
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
        let reading = READINGS.iter().find(|reading| reading.stream == stream.name);
        let Some(reading) = reading else { return Err(no_stream(stream).into()) };
        let mut place = match at {
            None => self.begin(reading, None),
            Some(at) => {
                let place = place(stream.name, at)?;
                match self.is_over(reading, &place) {
                    true => self.begin(reading, Some(&place)),
                    false => place,
                }
            }
        };
        let (mut lines, link) = loop {
            let make = |signed_in: &SignedIn, _: DateTime<Utc>, objects: &[&RawValue]| {
                self.lines(reading, &place, signed_in, objects)
            };
            let url = self.url(reading, &place)?;
            match self.graph.get(reading.call, url, deadline, make).await? {
                Answer::Page(lines, link, _) => break (lines, link),
                Answer::Resync if place.link.is_some() => {
                    tracing::info!(
                        stream = stream.name,
                        "the place to go on from is too old for Microsoft Graph; all is read again"
                    );
                    place = self.begin(reading, Some(&place));
                }
                Answer::Resync => return Err(reading.call.refused_from_the_beginning().into()),
            }
        };
        let at = cursor(&place);
        let key = format!("{}/{}/{}", stream.name, place.round, place.page);
        // What changed while all was read comes at once.
        let caught_up = matches!(link, Link::Delta(_)) && place.phase == Phase::Changes;
        let (rows, observed) = (place.rows + lines.count, lines.observed());
        let page = place.page + 1;
        let next = match link {
            Link::Next(next) => Place { link: Some(next), page, rows, observed, ..place },
            Link::Delta(delta) => {
                if place.phase == Phase::Whole {
                    lines.add(
                        "RoundComplete",
                        [("RowCount".to_owned(), json!(rows))].into_iter().collect(),
                    );
                }
                let (phase, link) = (Phase::Changes, Some(delta));
                Place { phase, page, link, rows: 0, observed, ..place }
            }
            // The client refuses a reply without either.
            Link::None => place,
        };
        Ok(Page {
            at,
            parts: lines.part(key),
            next: Some(cursor(&next)),
            caught_up,
            backfill_from: None,
            gap: None,
        })
    }

    fn keeps_parts(&self) -> bool {
        false
    }

    async fn open(&self, _: &Part, _: Deadline) -> Result<Opened, Interrupt> {
        Ok(Opened::Expired("a reply of Microsoft Graph's has no address".to_owned()))
    }
}

/// The streams of this source.
pub fn directory_streams() -> Vec<Stream> {
    READINGS.iter().map(|Reading { stream, table, .. }| Stream { name: stream, table }).collect()
}

fn no_stream(stream: &Stream) -> Fault {
    Fault::passing(
        Code::Internal,
        format!("the directory has no stream {}", stream.name),
        "this is a bug; please report it with this log line",
    )
}
