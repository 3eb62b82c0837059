//! Microsoft Graph: the directory by delta queries, risk, licences, and what an application may do.
//!
//! It gives the same oddities as the real one: pages of any size, empty ones, objects that come again,
//! in any order, links that grow old, and one request a second for risk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::header::{AUTHORIZATION, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::Endpoint;
use super::mimecast::text;
use super::reply::{self, Refusal, field};
use super::state::Shared;

/// The resource of tokens for Graph.
pub(super) const GRAPH: &str = "https://graph.microsoft.com";

/// Of Entra ID P2, without which there are no risky users.
const PLAN_P2: &str = "eec0eb4f-6444-4f95-aba0-50c24d67f998";

/// The time between two requests for risk, those of other programs included.
const EVERY: Duration = Duration::from_secs(1);

/// What the tenant is, and what its application may do.
#[derive(Debug, Clone)]
pub struct GraphWorld {
    /// The rights in the token.
    pub roles: BTreeSet<String>,
    /// The service plans of the tenant's licences that are enabled: their ids.
    pub plans: BTreeSet<String>,
    /// The most objects of a page.
    pub page: usize,
    /// Draws page sizes, order, repeats and empty pages; without one, pages are as large as they may be.
    pub seed: Option<u64>,
    /// The time that must lie between two requests for risk.
    pub risk_every: Duration,
    /// What was granted to the application: the resource's name, and the app role's id.
    pub granted: Vec<(&'static str, &'static str)>,
    users: BTreeMap<String, Map<String, Value>>,
    groups: BTreeMap<String, Map<String, Value>>,
    /// Of each group its members, and what each is.
    members: BTreeMap<String, BTreeMap<String, String>>,
    detections: BTreeMap<String, Value>,
    risky_users: BTreeMap<String, Value>,
    /// What changed, in order.
    journal: Vec<Change>,
    /// Links of another issue are too old.
    issue: u32,
    /// Where links lead, by their token.
    links: BTreeMap<String, Place>,
    asked_risk: Option<Instant>,
    drawn: u64,
}

/// What changed.
#[derive(Debug, Clone)]
enum Change {
    User(String, Option<&'static str>),
    Group(String, Option<&'static str>),
    Member(String, String),
}

/// Where a reading goes on.
#[derive(Debug, Clone)]
struct Place {
    issue: u32,
    path: String,
    select: Vec<String>,
    /// What is to come: objects as they are asked for, each with what it is.
    rest: Rest,
    /// From where on changes come at the end.
    journal: usize,
    /// Whether it is a page of a reading, and not its end.
    is_next: bool,
}

/// What is to come of a reading; the list is one for all of its pages.
#[derive(Debug, Clone, Default)]
struct Rest {
    items: Arc<Vec<Item>>,
    at: usize,
}

impl Rest {
    fn of(items: Vec<Item>) -> Self {
        Self { items: Arc::new(items), at: 0 }
    }

    fn is_empty(&self) -> bool {
        self.at >= self.items.len()
    }
}

/// What an entry of a page is of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    User(String, Option<&'static str>),
    Group(String, Option<&'static str>),
    Members(String, Vec<String>),
    Risk(Value),
}

impl Default for GraphWorld {
    fn default() -> Self {
        let all = [
            "IdentityRiskEvent.Read.All",
            "IdentityRiskyUser.Read.All",
            "User.Read.All",
            "GroupMember.Read.All",
        ];
        Self {
            roles: all.map(str::to_owned).into(),
            plans: BTreeSet::from([PLAN_P2.to_owned()]),
            page: 100,
            seed: None,
            risk_every: EVERY,
            granted: Vec::new(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            members: BTreeMap::new(),
            detections: BTreeMap::new(),
            risky_users: BTreeMap::new(),
            journal: Vec::new(),
            issue: 0,
            links: BTreeMap::new(),
            asked_risk: None,
            drawn: 0,
        }
    }
}

impl GraphWorld {
    /// A user is there, or has changed.
    pub fn put_user(&mut self, id: &str, user: Value) {
        self.users.insert(id.to_owned(), with_id(id, user));
        self.journal.push(Change::User(id.to_owned(), None));
    }

    /// A user is gone: for 30 days, or for good.
    pub fn remove_user(&mut self, id: &str, reason: &'static str) {
        if self.users.remove(id).is_some() {
            self.journal.push(Change::User(id.to_owned(), Some(reason)));
        }
        let groups: Vec<String> = self.members.keys().cloned().collect();
        groups.iter().for_each(|group| self.leave(group, id));
    }

    /// A group is there, or has changed.
    pub fn put_group(&mut self, id: &str, group: Value) {
        self.groups.insert(id.to_owned(), with_id(id, group));
        self.members.entry(id.to_owned()).or_default();
        self.journal.push(Change::Group(id.to_owned(), None));
    }

    /// A group is gone, and all who are in it are not.
    pub fn remove_group(&mut self, id: &str, reason: &'static str) {
        if self.groups.remove(id).is_some() {
            self.members.remove(id);
            self.journal.push(Change::Group(id.to_owned(), Some(reason)));
        }
    }

    /// Somebody (a `user`, a `group`, a `device`) is in a group.
    pub fn join(&mut self, group: &str, member: &str, kind: &str) {
        if let Some(members) = self.members.get_mut(group) {
            members.insert(member.to_owned(), kind.to_owned());
            self.journal.push(Change::Member(group.to_owned(), member.to_owned()));
        }
    }

    /// Somebody is no longer in a group.
    pub fn leave(&mut self, group: &str, member: &str) {
        if self.members.get_mut(group).is_some_and(|members| members.remove(member).is_some()) {
            self.journal.push(Change::Member(group.to_owned(), member.to_owned()));
        }
    }

    /// A risk detection is there, or has changed.
    pub fn put_detection(&mut self, detection: Value) {
        let id = detection["id"].as_str().unwrap_or_default().to_owned();
        self.detections.insert(id, detection);
    }

    /// A user's risk is there, or has changed.
    pub fn put_risky_user(&mut self, user: Value) {
        let id = user["id"].as_str().unwrap_or_default().to_owned();
        self.risky_users.insert(id, user);
    }

    /// A small company, in which two people are at risk since `now`; its addresses are those to whom
    /// [`World::made_up`](super::World::made_up) writes.
    pub fn make_up(&mut self, now: DateTime<Utc>) {
        let people =
            ["amara.okafor", "b.lindqvist", "chen.wei", "d_moreau", "elif.yilmaz", "farid"];
        for (number, name) in people.into_iter().enumerate() {
            let id = format!("00000000-0000-4000-8000-0000000000{number:02}");
            let mail = format!("{name}@example.com");
            let user = json!({
                "displayName": name, "userPrincipalName": mail, "mail": mail, "accountEnabled": true,
                "department": if number % 2 == 0 { "Finance" } else { "Sales" },
                "proxyAddresses": [format!("SMTP:{mail}")],
            });
            self.put_user(&id, user);
            let group = format!("00000000-0000-4000-9000-0000000000{:02}", number % 2);
            if number < 2 {
                let name = if number == 0 { "Finance" } else { "Sales" };
                self.put_group(&group, json!({"displayName": name, "securityEnabled": true}));
            }
            self.join(&group, &id, "user");
            if number >= 2 {
                continue;
            }
            let time = now.to_rfc3339_opts(SecondsFormat::Micros, true);
            self.put_detection(json!({
                "id": format!("d{number}"), "userId": id, "userPrincipalName": mail,
                "riskEventType": "anonymizedIPAddress", "riskLevel": "medium", "riskState": "atRisk",
                "activityDateTime": time, "detectedDateTime": time, "lastUpdatedDateTime": time,
            }));
            self.put_risky_user(json!({
                "id": id, "userPrincipalName": mail, "riskLevel": "medium", "riskState": "atRisk",
                "riskLastUpdatedDateTime": time,
            }));
        }
    }

    /// All links that were given out are too old.
    pub fn expire_links(&mut self) {
        self.issue += 1;
    }

    /// The users that there are.
    pub fn users(&self) -> &BTreeMap<String, Map<String, Value>> {
        &self.users
    }

    /// The groups that there are.
    pub fn groups(&self) -> &BTreeMap<String, Map<String, Value>> {
        &self.groups
    }

    /// Who is in which group.
    pub fn members(&self) -> BTreeSet<(String, String)> {
        let all = self.members.iter();
        all.flat_map(|(group, all)| all.keys().map(|one| (group.clone(), one.clone()))).collect()
    }

    fn rng(&mut self) -> Option<fastrand::Rng> {
        let seed = self.seed?;
        self.drawn += 1;
        Some(fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(self.drawn)))
    }

    /// All that a first reading gives.
    fn whole(&self, path: &str, with_members: bool) -> Vec<Item> {
        match path {
            "users/delta" => self.users.keys().map(|id| Item::User(id.clone(), None)).collect(),
            _ if with_members => {
                let members = self.members.iter();
                let most = self.page.max(1);
                let of_group = |(id, all): (&String, &BTreeMap<String, String>)| {
                    let all: Vec<String> = all.keys().cloned().collect();
                    // The members of a large group come in several pages.
                    let pieces = all.chunks(most).map(<[String]>::to_vec);
                    pieces.map(|who| Item::Members(id.clone(), who)).collect::<Vec<_>>()
                };
                members.flat_map(of_group).collect()
            }
            _ => self.groups.keys().map(|id| Item::Group(id.clone(), None)).collect(),
        }
    }

    /// What changed since.
    fn changes(&self, path: &str, with_members: bool, since: usize) -> Vec<Item> {
        let changes = self.journal[since.min(self.journal.len())..].iter();
        changes
            .filter_map(|change| match (path, change) {
                ("users/delta", Change::User(id, gone)) => Some(Item::User(id.clone(), *gone)),
                ("groups/delta", Change::Group(id, gone)) => Some(Item::Group(id.clone(), *gone)),
                ("groups/delta", Change::Member(group, member)) if with_members => {
                    Some(Item::Members(group.clone(), vec![member.clone()]))
                }
                _ => None,
            })
            .collect()
    }

    /// An entry as it is now; the state of the moment is what Graph gives, however old the change is.
    fn entry(&self, item: &Item, select: &[String]) -> Option<Value> {
        let gone = |id: &str, reason: &str| json!({"id": id, "@removed": {"reason": reason}});
        let selected = |object: &Map<String, Value>| {
            let asked = |name: &&String| select.contains(name) || *name == "id";
            let some: Map<String, Value> = object
                .iter()
                .filter(|(name, _)| asked(name))
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect();
            Value::Object(some)
        };
        match item {
            Item::Risk(value) => Some(value.clone()),
            Item::User(id, reason) => match self.users.get(id) {
                Some(user) => Some(selected(user)),
                None => Some(gone(id, reason.unwrap_or("changed"))),
            },
            Item::Group(id, reason) => match self.groups.get(id) {
                Some(group) => Some(selected(group)),
                None => Some(gone(id, reason.unwrap_or("changed"))),
            },
            Item::Members(id, who) => {
                // Of a group that is gone, its own entry says so.
                let members = self.members.get(id)?;
                let edges = who.iter().map(|who| match members.get(who) {
                    Some(kind) => {
                        json!({"@odata.type": format!("#microsoft.graph.{kind}"), "id": who})
                    }
                    None => json!({"@odata.type": "#microsoft.graph.user", "id": who,
                                   "@removed": {"reason": "deleted"}}),
                });
                Some(json!({"id": id, "members@delta": edges.collect::<Vec<_>>()}))
            }
        }
    }

    /// One page of what is to come, which goes on behind it. Members count each.
    fn page(&mut self, rest: &mut Rest) -> Vec<Item> {
        let mut most = self.page.max(1);
        let mut page = Vec::new();
        let mut rng = self.rng();
        if let Some(rng) = &mut rng {
            most = rng.usize(1..=most);
            if !rest.is_empty() && rng.u8(..6) == 0 {
                return page;
            }
        }
        let mut size = 0;
        while let Some(item) = rest.items.get(rest.at) {
            let of_item = if let Item::Members(_, who) = item { who.len() } else { 1 };
            if size > 0 && size + of_item > most {
                break;
            }
            size += of_item;
            page.push(item.clone());
            rest.at += 1;
        }
        if let Some(rng) = &mut rng {
            if rng.u8(..3) == 0
                && let Some(again) = page.first().cloned()
            {
                page.push(again);
            }
            rng.shuffle(&mut page);
        }
        page
    }

    /// The objects of risk that a first request asks for; or what is wrong with it.
    fn changed(&self, query: &str, changed: &str) -> Result<Vec<Item>, String> {
        let top = field(query.as_bytes(), "$top").and_then(|top| top.parse::<usize>().ok());
        if top.is_none_or(|top| top == 0 || top > 500) {
            return Err("$top is between 1 and 500".to_owned());
        }
        let since = match field(query.as_bytes(), "$filter") {
            None => None,
            Some(filter) => {
                let since = filter.strip_prefix(&format!("{changed} ge "));
                let since = since.and_then(|since| DateTime::parse_from_rfc3339(since).ok());
                // .NET has no time before the year 1.
                let since = since.filter(|since| since.year() >= 1);
                Some(since.ok_or_else(|| format!("Invalid filter clause: {filter}"))?)
            }
        };
        let is_detections = changed == "lastUpdatedDateTime";
        let all = if is_detections { &self.detections } else { &self.risky_users };
        let is_new = |object: &&Value| {
            let time = object[changed].as_str();
            let time = time.and_then(|time| DateTime::parse_from_rfc3339(time).ok());
            since.is_none_or(|since| time.is_some_and(|time| time >= since))
        };
        Ok(all.values().filter(is_new).cloned().map(Item::Risk).collect())
    }

    fn link(&mut self, place: Place) -> String {
        let token = format!("{}-{}", self.issue, self.links.len());
        self.links.insert(token.clone(), place);
        token
    }
}

fn with_id(id: &str, object: Value) -> Map<String, Value> {
    let Value::Object(mut object) = object else { return Map::new() };
    object.insert("id".to_owned(), json!(id));
    object
}

/// `GET /v1.0/…`
pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    match answer(&shared, &path, &query, &headers) {
        Ok(response) => response,
        Err(refusal) => refusal.answer(&shared, Endpoint::Graph),
    }
}

fn answer(
    shared: &Shared,
    path: &str,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let bearer = text(headers, AUTHORIZATION);
    let token = bearer.strip_prefix("Bearer ").unwrap_or_default();
    {
        let state = shared.state();
        if state.azure_tokens.get(token).map(String::as_str) != Some(GRAPH) {
            let message = "Access token validation failure. Invalid audience.";
            return Err(Refusal::breach(401, "InvalidAuthenticationToken", message));
        }
    }
    match path {
        "users/delta" => delta(shared, path, query, headers, &["User.Read.All"]),
        "groups/delta" => {
            delta(shared, path, query, headers, &["GroupMember.Read.All", "Group.Read.All"])
        }
        "identityProtection/riskDetections" => {
            risk(shared, path, query, headers, "lastUpdatedDateTime", "IdentityRiskEvent.Read.All")
        }
        "identityProtection/riskyUsers" => risk(
            shared,
            path,
            query,
            headers,
            "riskLastUpdatedDateTime",
            "IdentityRiskyUser.Read.All",
        ),
        "subscribedSkus" => {
            needs(shared, &["LicenseAssignment.Read.All"])?;
            let plans: Vec<Value> = shared
                .state()
                .graph
                .plans
                .iter()
                .map(|id| json!({"servicePlanId": id, "provisioningStatus": "Success"}))
                .collect();
            let sku = json!({"capabilityStatus": "Enabled", "servicePlans": plans});
            Ok(reply::json(200, &json!({"value": [sku]})))
        }
        _ if path.starts_with("servicePrincipals(") && path.ends_with("/appRoleAssignments") => {
            needs(shared, &["Application.Read.All"])?;
            let state = shared.state();
            let granted = state.graph.granted.iter().map(
                |(resource, role)| json!({"appRoleId": role, "resourceDisplayName": resource}),
            );
            Ok(reply::json(200, &json!({"value": granted.collect::<Vec<_>>()})))
        }
        _ => Err(Refusal::breach(404, "ResourceNotFound", format!("there is no {path}"))),
    }
}

/// Whether the application has one of these rights, or that to read the whole directory.
fn needs(shared: &Shared, rights: &[&str]) -> Result<(), Refusal> {
    let state = shared.state();
    let has = |right: &str| state.graph.roles.contains(right);
    if rights.iter().any(|right| has(right)) || has("Directory.Read.All") {
        return Ok(());
    }
    let message = "Insufficient privileges to complete the operation.";
    Err(Refusal::plain(403, "Authorization_RequestDenied", message))
}

fn delta(
    shared: &Shared,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    rights: &[&str],
) -> Result<Response, Refusal> {
    needs(shared, rights)?;
    let prefer = text(headers, HeaderName::from_static("prefer"));
    if !prefer.contains("odata.maxpagesize=999") || prefer.contains("return=minimal") {
        let message = format!("Prefer is {prefer:?}");
        return Err(Refusal::breach(400, "Request_BadRequest", message));
    }
    let breach = |message: &str| Refusal::breach(400, "Request_BadRequest", message);
    let mut state = shared.state();
    let base = format!("{}/v1.0/{path}", state.url);
    let graph = &mut state.graph;
    let known = ["$skiptoken", "$deltatoken"].iter().find_map(|name| field(query.as_bytes(), name));
    let from_now = known.as_deref() == Some("latest");
    let known = known.filter(|_| !from_now);
    let place = match known {
        Some(token) => {
            if query.contains("$select") || query.contains("%24select") {
                return Err(breach("a link was changed: the properties are in it"));
            }
            let place = graph.links.get(&token).cloned();
            let place = place.ok_or_else(|| breach("a link that was never given out"))?;
            if place.path != path {
                return Err(breach("a link of another reading"));
            }
            if place.issue != graph.issue {
                return Ok(too_old(graph.issue, &base));
            }
            place
        }
        None => {
            let select = field(query.as_bytes(), "$select");
            let select = select.ok_or_else(|| breach("$select is missing"))?;
            if query.contains("$top") || query.contains("$filter") || query.contains("$expand") {
                return Err(breach("a delta query takes $select alone"));
            }
            let select: Vec<String> = select.split(',').map(str::to_owned).collect();
            let with_members = select.iter().any(|name| name == "members");
            let rest = if from_now { Vec::new() } else { graph.whole(path, with_members) };
            let rest = Rest::of(rest);
            let journal = graph.journal.len();
            let (issue, path) = (graph.issue, path.to_owned());
            Place { issue, path, select, rest, journal, is_next: true }
        }
    };
    let with_members = place.select.iter().any(|name| name == "members");
    let mut place = place;
    if !place.is_next {
        place.rest = Rest::of(graph.changes(path, with_members, place.journal));
        place.journal = graph.journal.len();
    }
    let mut rest = std::mem::take(&mut place.rest);
    let page = graph.page(&mut rest);
    let value: Vec<Value> =
        page.iter().filter_map(|item| graph.entry(item, &place.select)).collect();
    let is_next = !rest.is_empty();
    let token = graph.link(Place { rest, is_next, ..place });
    let (name, kind) =
        if is_next { ("@odata.nextLink", "skiptoken") } else { ("@odata.deltaLink", "deltatoken") };
    Ok(reply::json(
        200,
        &json!({
            "@odata.context": format!("{base}#delta"), name: format!("{base}?${kind}={token}"), "value": value,
        }),
    ))
}

/// A link is too old: in one of the words that were seen.
fn too_old(issue: u32, base: &str) -> Response {
    let says = |status, error: Value| reply::json(status, &json!({ "error": error }));
    match issue % 4 {
        1 => {
            let mut response =
                says(410, json!({"code": "resyncRequired", "message": "Resync required."}));
            if let Ok(place) = HeaderValue::from_str(&format!("{base}?$deltatoken=")) {
                response.headers_mut().insert(LOCATION, place);
            }
            response
        }
        2 => says(
            400,
            json!({"code": "syncStateNotFound",
                              "message": "The sync state generation is not found."}),
        ),
        3 => says(
            400,
            json!({"code": "", "message": "Sync must reach steady state within 30 days."}),
        ),
        _ => says(410, json!({"code": "syncStateNotFound"})),
    }
}

fn risk(
    shared: &Shared,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    changed: &str,
    right: &str,
) -> Result<Response, Refusal> {
    let prefer = text(headers, HeaderName::from_static("prefer"));
    let breach = |message: String| Refusal::breach(400, "BadRequest", message);
    if !prefer.contains("include-unknown-enum-members") {
        return Err(breach("members of enumerations that are new would be lost".to_owned()));
    }
    let mut state = shared.state();
    let base = format!("{}/v1.0/{path}", state.url);
    let graph = &mut state.graph;
    let last = graph.asked_risk.replace(Instant::now());
    if last.is_some_and(|last| last.elapsed() < graph.risk_every) {
        let error = json!({"code": "TooManyRequests", "message": "Too many requests."});
        return Ok(reply::json(429, &json!({ "error": error })));
    }
    if !graph.roles.contains(right) {
        let message =
            "You cannot perform the requested operation, required scopes are missing in the token.";
        return Err(Refusal::plain(403, "Forbidden", message));
    }
    let is_licensed = match path {
        "identityProtection/riskyUsers" => graph.plans.contains(PLAN_P2),
        _ => !graph.plans.is_empty(),
    };
    if !is_licensed {
        return Err(Refusal::plain(
            403,
            "Forbidden",
            "Your tenant is not licensed for this feature.",
        ));
    }
    let mut rest = match field(query.as_bytes(), "$skiptoken") {
        Some(token) => {
            let place = graph.links.get(&token).cloned().filter(|place| place.path == path);
            let place =
                place.ok_or_else(|| breach("a link that was never given out".to_owned()))?;
            if place.issue != graph.issue {
                return Ok(too_old(graph.issue, &base));
            }
            place.rest
        }
        None => Rest::of(graph.changed(query, changed).map_err(breach)?),
    };
    let page = graph.page(&mut rest);
    let value: Vec<Value> = page.iter().filter_map(|item| graph.entry(item, &[])).collect();
    let mut answer = json!({ "value": value });
    if !rest.is_empty() {
        let (issue, path) = (graph.issue, path.to_owned());
        let place = Place { issue, path, select: Vec::new(), rest, journal: 0, is_next: true };
        let token = graph.link(place);
        answer["@odata.nextLink"] = json!(format!("{base}?$skiptoken={token}"));
    }
    Ok(reply::json(200, &answer))
}
