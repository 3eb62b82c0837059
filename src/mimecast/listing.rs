//! The listing: which batch files there are, page after page.
//!
//! `GET {base}/siem/v1/batch/events/ci?type=…&pageSize=100&nextPage=…`

use std::fmt;

use chrono::{Days, NaiveDate};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use url::Url;

use super::api::{Api, Call};
use super::error_body::ErrorBody;
use crate::checkpoint::Cursor;
use crate::http::{GaveUp, Reply};
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

/// Query parameters that sign a URL. What is left names the file.
const SIGNING: [&str; 16] = [
    "awsaccesskeyid",
    "signature",
    "expires",
    "key-pair-id",
    "policy",
    // Of other clouds' storage, since Mimecast's list of hosts is not published.
    "googleaccessid",
    "se",
    "sig",
    "ske",
    "skt",
    "skoid",
    "sp",
    "spr",
    "sr",
    "st",
    "sv",
];

/// A reply, as it comes. What is missing is as if it were empty.
#[derive(serde::Deserialize)]
struct Listing {
    #[serde(default, deserialize_with = "files")]
    value: Vec<File>,
    #[serde(rename = "@nextPage", default)]
    next_page: Option<String>,
    #[serde(rename = "isCaughtUp", default)]
    is_caught_up: Option<bool>,
}

#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    url: Option<SecretString>,
    /// Read if it is a number that can be a size, and passed over if not.
    #[serde(default, deserialize_with = "size")]
    size: Option<u64>,
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(<&RawValue>::deserialize(deserializer)?.get().parse().ok())
}

fn files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<File>, D::Error> {
    struct Files;
    impl<'de> Visitor<'de> for Files {
        type Value = Vec<File>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the files of a page")
        }

        fn visit_unit<E: Error>(self) -> Result<Vec<File>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<File>, A::Error> {
            let mut files = Vec::new();
            while let Some(file) = seq.next_element()? {
                if files.len() == MOST_FILES {
                    return Err(A::Error::invalid_length(MOST_FILES + 1, &self));
                }
                files.push(file);
            }
            Ok(files)
        }
    }
    deserializer.deserialize_any(Files)
}

/// Why a listing was not had.
enum Refusal {
    /// 400: the date or the token is not accepted.
    BadRequest(ErrorBody),
    Interrupt(Interrupt),
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
            Ok(listing) => page(listing, cursor.clone()),
            Err(Refusal::Interrupt(interrupt)) => Err(interrupt),
            Err(Refusal::BadRequest(said)) => match cursor {
                Cursor::Start(day) => self.step(stream, *day, said, deadline).await,
                // If a listing without the token is accepted, it was the token's fault.
                Cursor::Token(_) => self.start_again(stream, deadline).await,
            },
        }
    }

    async fn start_again(&self, stream: &str, deadline: Deadline) -> Result<Page, Interrupt> {
        let start = Cursor::Start(self.start);
        match self.list(stream, &start, deadline).await {
            Ok(listing) => page(listing, start),
            Err(Refusal::BadRequest(said)) => self.step(stream, self.start, said, deadline).await,
            Err(Refusal::Interrupt(interrupt)) => Err(interrupt),
        }
    }

    /// `refused` is older than what Mimecast keeps: steps to the oldest day that it accepts. The
    /// number of days may stand in its message; whether the last of them is accepted does not.
    async fn step(
        &self,
        stream: &str,
        refused: NaiveDate,
        mut said: ErrorBody,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        let today = self.clock.now().date_naive();
        let kept = days_in(&said.message).unwrap_or(DAYS_KEPT);
        for days in (0..=kept).rev().take(STEPS) {
            let day = today.checked_sub_days(Days::new(days)).unwrap_or(today);
            if day <= refused {
                continue;
            }
            match self.list(stream, &Cursor::Start(day), deadline).await {
                Ok(listing) => {
                    tracing::info!(stream, %day, asked = %refused, "Mimecast keeps no older events");
                    return page(listing, Cursor::Start(day));
                }
                Err(Refusal::BadRequest(again)) => said = again,
                Err(Refusal::Interrupt(interrupt)) => return Err(interrupt),
            }
        }
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
            let reply = self.send(&call, deadline, request, is_unreadable).await?;
            match reply.status {
                StatusCode::OK => return Ok(read(&reply).ok_or_else(|| unreadable(stream))?),
                StatusCode::BAD_REQUEST => {
                    return Err(Refusal::BadRequest(ErrorBody::read(&reply.body)));
                }
                StatusCode::UNAUTHORIZED => {
                    self.tokens.discard(&token).await;
                    // A second refusal may be transient as well: it is waited out.
                    if std::mem::replace(&mut renewed, true) {
                        let waited = retries.back_off().await;
                        waited.map_err(|gave_up| unauthorized(stream, &reply, gave_up))?;
                    }
                }
                _ => return Err(refused(stream, &reply).into()),
            }
        }
    }
}

fn page(listing: Listing, cursor: Cursor) -> Result<Page, Interrupt> {
    let parts: Result<Vec<Part>, Fault> = listing.value.into_iter().map(part).collect();
    Ok(Page {
        cursor,
        parts: parts?,
        next: listing.next_page.filter(|token| !token.is_empty()).map(Cursor::Token),
        caught_up: listing.is_caught_up == Some(true),
    })
}

fn part(file: File) -> Result<Part, Fault> {
    let named = file.url.and_then(|address| {
        let key = Url::parse(address.expose_secret()).ok().map(key)?;
        Some(Part { key, size: file.size, address })
    });
    named.ok_or_else(|| {
        Fault::passing(
            "listing-unreadable",
            "the listing names a batch file without a usable address",
            "the next run tries again; if it stays so, tell Mimecast's support",
        )
    })
}

/// The file's name: its URL without what signs it, and without a user and a password.
fn key(mut url: Url) -> String {
    let signs = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("x-amz-")
            || name.starts_with("x-goog-")
            || SIGNING.contains(&name.as_str())
    };
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| !signs(name))
        .map(|(n, v)| (n.into(), v.into()))
        .collect();
    // A URL that can have neither has neither.
    url.set_username("").ok();
    url.set_password(None).ok();
    url.set_fragment(None);
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
    url.into()
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
    serde_json::from_slice(body).ok()
}

/// The page that a reply's body is, if it is one.
#[cfg(fuzzing)]
pub fn page_of(body: &[u8], cursor: Cursor) -> Option<Page> {
    page(listing(body)?, cursor).ok()
}

fn is_unreadable(reply: &Reply) -> bool {
    reply.status == StatusCode::OK && read(reply).is_none()
}

fn unreadable(stream: &str) -> Fault {
    Fault::passing(
        "listing-unreadable",
        format!("Mimecast's listing of {stream} is not what it should be"),
        "the next run tries again; check what stands between here and Mimecast (a proxy's page?)",
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

fn refused(stream: &str, reply: &Reply) -> Fault {
    let said = ErrorBody::read(&reply.body);
    let status = reply.status.as_u16();
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
    fn a_key_is_the_url_without_what_signs_it() {
        let cases = [
            (
                "https://b.s3.amazonaws.com/a/1.json.gz?X-Amz-Date=1&X-Amz-Signature=2",
                "https://b.s3.amazonaws.com/a/1.json.gz",
            ),
            (
                "https://h/1?AWSAccessKeyId=a&Signature=b&Expires=3&versionId=7#f",
                "https://h/1?versionId=7",
            ),
            ("https://h/1?Key-Pair-Id=a&Policy=b&part=%26", "https://h/1?part=%26"),
            ("https://h/1?sv=1&sig=secret&X-Goog-Signature=secret", "https://h/1"),
            ("https://h/1", "https://h/1"),
            ("https://user:secret@h/1", "https://h/1"),
            ("data:1", "data:1"),
        ];
        for (url, expected) in cases {
            assert_eq!(key(Url::parse(url).unwrap()), expected);
        }
    }

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
