//! The listing: which batch files there are, page after page.
//!
//! `GET {base}/siem/v1/batch/events/ci?type=…&pageSize=100&nextPage=…`

use std::fmt;

use chrono::{DateTime, Days, NaiveDate};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, DATE};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use url::Url;

use super::api::{Api, Call};
use super::error_body::{ErrorBody, is_refusal};
use super::key::key;
use crate::checkpoint::Cursor;
use crate::http::{GaveUp, Reply, json};
use crate::pipeline::source::{Page, Part};
use crate::pipeline::{Fault, Interrupt};
use crate::seams::Deadline;

/// Files of one page; Mimecast's largest.
const PAGE_SIZE: &str = "100";

/// More files than this are no page, whoever made it: ten times what is asked for.
const MOST_FILES: usize = 1_000;

/// How many days Mimecast is documented to keep.
const DAYS_KEPT: u64 = 7;

/// How many days are tried, one after the other, when the start is too old.
const STEPS: usize = 7;

/// A longer page token would not fit into a request.
const LONGEST_TOKEN: usize = 8 * 1024;

/// A reply, as it comes. What is missing is as if it were empty, but a reply that has nothing of it
/// is no listing.
#[derive(Deserialize)]
struct Listing {
    #[serde(default, deserialize_with = "files")]
    value: Option<Files>,
    #[serde(rename = "@nextPage", default, deserialize_with = "text")]
    next_page: Option<String>,
    #[serde(rename = "isCaughtUp", default, deserialize_with = "text")]
    is_caught_up: Option<String>,
}

/// The entries of a page.
#[derive(Default)]
struct Files {
    parts: Vec<Part>,
    /// How many have no usable address.
    odd: usize,
}

#[derive(Deserialize)]
struct File {
    url: SecretString,
    /// Read if it is a number that can be a size, and passed over if not.
    #[serde(default, deserialize_with = "size")]
    size: Option<u64>,
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(<&RawValue>::deserialize(deserializer)?.get().parse().ok())
}

/// Text, or as text what should be: some gateways quote all values, others none. Null is nothing.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let given = <&RawValue>::deserialize(deserializer)?.get();
    match given.as_bytes().first() {
        Some(b'"') => serde_json::from_str(given).map(Some).map_err(D::Error::custom),
        Some(b'n') => Ok(None),
        _ => Ok(Some(given.to_owned())),
    }
}

fn files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Files>, D::Error> {
    struct Page;
    impl<'de> Visitor<'de> for Page {
        type Value = Option<Files>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the files of a page")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut files = Files::default();
            while let Some(entry) = seq.next_element::<&RawValue>()? {
                if files.parts.len() + files.odd == MOST_FILES {
                    return Err(A::Error::invalid_length(MOST_FILES + 1, &self));
                }
                match part(entry) {
                    Some(part) => files.parts.push(part),
                    None => files.odd += 1,
                }
            }
            Ok(Some(files))
        }
    }
    deserializer.deserialize_any(Page)
}

fn part(entry: &RawValue) -> Option<Part> {
    let File { url: address, size } = serde_json::from_str(entry.get()).ok()?;
    let key = key(Url::parse(address.expose_secret()).ok()?);
    Some(Part { key, size, address })
}

/// Why a listing failed.
enum Refusal {
    /// 400: the date or the token is not accepted.
    BadRequest(BadRequest),
    Interrupt(Interrupt),
}

#[derive(PartialEq)]
struct BadRequest {
    said: ErrorBody,
    /// Mimecast's own day, or else this machine's.
    today: NaiveDate,
}

impl BadRequest {
    fn is_about_the_range(&self) -> bool {
        let words = format!("{} {}", self.said.code, self.said.message).to_lowercase();
        ["range", "retention", "date", "day"].iter().any(|word| words.contains(word))
    }

    /// Whether Mimecast should still have the events of `day`.
    fn keeps(&self, day: NaiveDate) -> bool {
        self.today.checked_sub_days(Days::new(DAYS_KEPT)).is_some_and(|oldest| day > oldest)
    }
}

impl<E: Into<Interrupt>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Interrupt(error.into())
    }
}

impl Api {
    /// The page at `cursor`, or, where Mimecast does not accept that, at the oldest day it does.
    pub(super) async fn page(
        &self,
        stream: &str,
        cursor: &Cursor,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        let page = self.page_or_start(stream, cursor, deadline).await;
        let leads_on = |page: &Page| page.next.as_ref().is_some_and(|next| *next != page.cursor);
        if !page.as_ref().is_ok_and(|page| leads_on(page) && !page.caught_up) {
            self.pace.rest(stream);
        }
        page
    }

    async fn page_or_start(
        &self,
        stream: &str,
        cursor: &Cursor,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        match self.list(stream, cursor, deadline).await {
            Ok(listing) => page(stream, listing, cursor.clone()),
            Err(Refusal::Interrupt(interrupt)) => Err(interrupt),
            Err(Refusal::BadRequest(refused)) => match cursor {
                Cursor::Start(day) => self.step(stream, *day, refused, deadline).await,
                // If a listing without the token is accepted, it was the token's fault.
                Cursor::Token(_) => self.start_again(stream, deadline).await,
            },
        }
    }

    async fn start_again(&self, stream: &str, deadline: Deadline) -> Result<Page, Interrupt> {
        let start = Cursor::Start(self.start);
        match self.list(stream, &start, deadline).await {
            Ok(listing) => page(stream, listing, start),
            Err(Refusal::BadRequest(refused)) => {
                self.step(stream, self.start, refused, deadline).await
            }
            Err(Refusal::Interrupt(interrupt)) => Err(interrupt),
        }
    }

    /// The day that was asked for may be older than what Mimecast keeps: steps to the oldest day
    /// that it accepts. The number of days may stand in its message; whether the last of them is
    /// accepted does not. A refusal for another reason skips no day.
    async fn step(
        &self,
        stream: &str,
        asked: NaiveDate,
        mut refused: BadRequest,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        if !refused.is_about_the_range() {
            match self.list(stream, &Cursor::Start(asked), deadline).await {
                Ok(listing) => return page(stream, listing, Cursor::Start(asked)),
                Err(Refusal::BadRequest(again)) if again == refused && !refused.keeps(asked) => {}
                Err(Refusal::BadRequest(again)) => return Err(bad_request(stream, &again).into()),
                Err(Refusal::Interrupt(interrupt)) => return Err(interrupt),
            }
        }
        let kept = days_in(&refused.said.message).unwrap_or(DAYS_KEPT);
        for days in (0..=kept).rev().take(STEPS) {
            let day = refused.today.checked_sub_days(Days::new(days)).unwrap_or(refused.today);
            if day <= asked {
                continue;
            }
            match self.list(stream, &Cursor::Start(day), deadline).await {
                Ok(listing) => {
                    tracing::info!(stream, %day, %asked, "Mimecast keeps no older events");
                    return page(stream, listing, Cursor::Start(day));
                }
                Err(Refusal::BadRequest(again)) => refused = again,
                Err(Refusal::Interrupt(interrupt)) => return Err(interrupt),
            }
        }
        let said = refused.said;
        Err(Fault::settings(
            "listing-refused",
            format!("Mimecast refuses to list {stream}, from whatever day: {said}"),
            "set START_DATE to a day of the last week; if that changes nothing, give the words \
             above to Mimecast's support",
        )
        .into())
    }

    /// One listing, with a token that Mimecast accepts.
    async fn list(
        &self,
        stream: &str,
        cursor: &Cursor,
        deadline: Deadline,
    ) -> Result<Listing, Refusal> {
        let place = match cursor {
            Cursor::Start(day) => ("dateRangeStartsAt", day.to_string()),
            Cursor::Token(token) => ("nextPage", token.clone()),
        };
        let query = [("type", stream), ("pageSize", PAGE_SIZE), (place.0, &place.1)];
        let url = self.at("siem/v1/batch/events/ci");
        let call = Call { what: "the listing", lists: Some(stream) };
        let mut retries = self.retry.start(&self.random, deadline);
        let mut renewed = false;
        loop {
            let token = self.token(deadline).await?;
            let request = || {
                let request = self.clients.api.get(url.clone()).query(&query);
                request
                    .bearer_auth(token.secret.expose_secret())
                    .header(ACCEPT, "application/json")
                    .header(ACCEPT_ENCODING, "gzip")
            };
            let again = |reply: &Reply| match meant(reply) {
                StatusCode::OK => read(reply).is_none(),
                // A refusal in a 200 is repeated as that status is.
                status => status.is_server_error(),
            };
            let reply = self.send(&call, deadline, request, again).await?;
            let status = meant(&reply);
            match status {
                StatusCode::OK => {
                    return Ok(read(&reply).ok_or_else(|| unreadable(stream, "no page"))?);
                }
                StatusCode::BAD_REQUEST => {
                    let said = ErrorBody::read(&reply.body);
                    let today = day_of(&reply).unwrap_or_else(|| self.clock.now().date_naive());
                    return Err(Refusal::BadRequest(BadRequest { said, today }));
                }
                StatusCode::UNAUTHORIZED => {
                    self.tokens.discard(&token).await;
                    // A second refusal may be transient as well: it is waited out.
                    if std::mem::replace(&mut renewed, true) {
                        let waited = retries.back_off().await;
                        waited.map_err(|gave_up| unauthorized(stream, &reply, gave_up))?;
                    }
                }
                _ => return Err(refused(stream, status, &reply).into()),
            }
        }
    }
}

fn page(stream: &str, listing: Listing, cursor: Cursor) -> Result<Page, Interrupt> {
    let Files { parts, odd } = listing.value.unwrap_or_default();
    let next = listing.next_page.filter(|token| !token.is_empty());
    if next.as_ref().is_some_and(|token| token.len() > LONGEST_TOKEN) {
        return Err(unreadable(stream, "a page token of more than 8 KiB").into());
    }
    if parts.is_empty() && odd > 0 {
        return Err(unreadable(stream, "no batch file with a usable address").into());
    }
    if odd > 0 {
        tracing::error!(
            stream,
            entries = odd,
            code = "listing-entry-odd",
            fix = "tell Mimecast's support: nothing can be downloaded without an address",
            "the listing has entries without a usable address: the other files are read"
        );
    }
    let caught_up = listing.is_caught_up.is_some_and(|text| text.eq_ignore_ascii_case("true"));
    Ok(Page { cursor, parts, next: next.map(Cursor::Token), caught_up })
}

/// The status that a reply means: a refusal may come as a 200.
fn meant(reply: &Reply) -> StatusCode {
    if reply.status != StatusCode::OK || !is_refusal(&reply.body) {
        return reply.status;
    }
    let code = ErrorBody::read(&reply.body).code.to_lowercase();
    match code {
        code if code.contains("forbidden") => StatusCode::FORBIDDEN,
        code if code.contains("unauthorized") || code.contains("token") => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The day of a reply's `Date`, which does not depend on this machine's clock.
fn day_of(reply: &Reply) -> Option<NaiveDate> {
    let text = reply.headers.get(DATE)?.to_str().ok()?;
    DateTime::parse_from_rfc2822(text).ok().map(|date| date.to_utc().date_naive())
}

/// The number before the first `day` or `-day` in a message.
fn days_in(message: &str) -> Option<u64> {
    let words: Vec<&str> = message
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let number = words.windows(2).find(|pair| pair[1].to_ascii_lowercase().starts_with("day"))?;
    number[0].parse().ok().filter(|days| (1..=366).contains(days))
}

fn read(reply: &Reply) -> Option<Listing> {
    listing(&reply.body)
}

fn listing(body: &[u8]) -> Option<Listing> {
    json::<Listing>(body).ok().filter(|listing| {
        listing.value.is_some() || listing.next_page.is_some() || listing.is_caught_up.is_some()
    })
}

/// The page that a reply's body is, if it is one.
#[cfg(fuzzing)]
pub fn page_of(body: &[u8], cursor: Cursor) -> Option<Page> {
    page("mailflow", listing(body)?, cursor).ok()
}

fn bad_request(stream: &str, BadRequest { said, .. }: &BadRequest) -> Fault {
    Fault::passing(
        "listing-bad-request",
        format!("Mimecast refuses to list {stream} (400): {said}"),
        "nothing is skipped, the next run asks again; if it stays so, give the words above to \
         Mimecast's support",
    )
}

fn unreadable(stream: &str, has: &str) -> Fault {
    Fault::passing(
        "listing-unreadable",
        format!("Mimecast's listing of {stream} has {has}"),
        "the next run tries again; check what stands between here and Mimecast; if it stays so, \
         give this line to Mimecast's support",
    )
}

fn unauthorized(stream: &str, reply: &Reply, gave_up: GaveUp) -> Interrupt {
    let said = ErrorBody::read(&reply.body);
    match gave_up {
        GaveUp::OutOfTime => Interrupt::OutOfTime,
        GaveUp::Attempts => Fault::passing(
            "mimecast-unauthorized",
            format!("Mimecast refuses fresh access tokens for {stream}: {said}"),
            "the next run tries again; if it stays so, make a new API 2.0 application and set \
             MIMECAST_CLIENT_ID and MIMECAST_CLIENT_SECRET",
        )
        .into(),
    }
}

fn refused(stream: &str, status: StatusCode, reply: &Reply) -> Fault {
    let said = ErrorBody::read(&reply.body);
    let status = status.as_u16();
    let (code, fix) = match status {
        403 => (
            "mimecast-forbidden",
            "give the API 2.0 application the product \"Threats, Security Events, and Data\" for \
             Cloud Integrated; a product cannot be added later, so make a new application if it \
             lacks it",
        ),
        _ => ("mimecast-refused", "check MIMECAST_BASE_URL"),
    };
    Fault::settings(code, format!("Mimecast refuses to list {stream} ({status}): {said}"), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_kept_are_read_from_the_message() {
        let cases = [
            ("Invalid date range: 'from' must be within the 7-day retention period", Some(7)),
            ("must be within 30 days", Some(30)),
            ("Need time range", None),
            ("the day is wrong", None),
            ("within 0 days", None),
            ("within 99999 days", None),
        ];
        for (message, expected) in cases {
            assert_eq!(days_in(message), expected, "{message}");
        }
    }
}
