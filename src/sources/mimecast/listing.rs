//! The listing: which batch files there are, page after page.
//!
//! `GET {base}/siem/v1/batch/events/ci?type=…&pageSize=100&nextPage=…`

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::{Api, Call, failure};
use super::page_reply::{Listing, page, read};
use super::refusal::is_refusal;
use crate::checkpoint::Cursor;
use crate::codes::Code;
use crate::http::{ErrorBody, Failure, Reply, server_time};
use crate::pipeline::source::Page;
use crate::pipeline::{Fault, Interrupt, checkpoint_name};
use crate::seams::Deadline;

/// Files of one page; Mimecast's largest.
const PAGE_SIZE: &str = "100";

/// How many days Mimecast is documented to keep.
const DAYS_KEPT: u64 = 7;

/// How many days are tried, one after the other, when the start is too old.
const STEPS: usize = 7;

/// Where a page begins: what Mimecast's cursors mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At the beginning of a day (UTC): no page has been finished yet.
    Start(NaiveDate),
    /// Where a page token says.
    Token(String),
}

impl Place {
    /// As a cursor.
    pub fn cursor(&self) -> Cursor {
        // A day and a text have no form that JSON could not take.
        Cursor(json!(self))
    }

    /// What a stored cursor means, if it is Mimecast's.
    pub fn of(Cursor(value): &Cursor) -> Option<Self> {
        Self::deserialize(value).ok()
    }
}

/// 400: the date or the token is not accepted.
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

impl Api {
    /// The page at a cursor, or, where Mimecast does not accept that, at the oldest day it does.
    pub(super) async fn page(
        &self,
        stream: &str,
        at: Option<&Cursor>,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        let page = match at.map(|cursor| Place::of(cursor).ok_or_else(|| no_place(stream, cursor)))
        {
            None => self.begin(stream, deadline).await,
            Some(Ok(place)) => self.page_or_start(stream, place, deadline).await,
            Some(Err(fault)) => Err(fault.into()),
        };
        if !page.as_ref().is_ok_and(|page| page.next().is_some() && !page.caught_up) {
            self.pace.rest(stream);
        }
        page
    }

    /// The first page of a stream.
    async fn begin(&self, stream: &str, deadline: Deadline) -> Result<Page, Interrupt> {
        let start = Place::Start(self.start);
        match self.list(stream, &start, deadline).await? {
            Ok(listing) => page(stream, listing, &start),
            Err(refused) => {
                // Of an older day it is normal.
                let keeps = refused.keeps(self.start);
                let (day, listing) = self.step(stream, self.start, refused, deadline).await?;
                let gap = (keeps && day != self.start)
                    .then(|| (Some(midnight(self.start)), midnight(day)));
                Ok(Page { gap, ..page(stream, listing, &Place::Start(day))? })
            }
        }
    }

    /// The page at a place that was accepted before. Where it is refused by now, events may be
    /// missing.
    async fn page_or_start(
        &self,
        stream: &str,
        place: Place,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        let refused = match self.list(stream, &place, deadline).await? {
            Ok(listing) => return page(stream, listing, &place),
            Err(refused) => refused,
        };
        match place {
            Place::Start(asked) => {
                let (day, listing) = self.step(stream, asked, refused, deadline).await?;
                let gap = (day != asked).then(|| (Some(midnight(asked)), midnight(day)));
                Ok(Page { gap, ..page(stream, listing, &Place::Start(day))? })
            }
            // If a listing without the token is accepted, it was the token's fault.
            Place::Token(_) => {
                let page = self.begin(stream, deadline).await?;
                let gap = page.backfill_from.map(|day| (None, midnight(day)));
                Ok(Page { gap, ..page })
            }
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
    ) -> Result<(NaiveDate, Listing), Interrupt> {
        if !refused.is_about_the_range() {
            match self.list(stream, &Place::Start(asked), deadline).await? {
                Ok(listing) => return Ok((asked, listing)),
                Err(again) if again == refused && !refused.keeps(asked) => {}
                Err(again) => return Err(bad_request(stream, &again).into()),
            }
        }
        let kept = days_in(&refused.said.message).unwrap_or(DAYS_KEPT);
        for days in (0..=kept).rev().take(STEPS) {
            let day = refused.today.checked_sub_days(Days::new(days)).unwrap_or(refused.today);
            if day <= asked {
                continue;
            }
            match self.list(stream, &Place::Start(day), deadline).await? {
                Ok(listing) => {
                    tracing::info!(stream, %day, %asked, "Mimecast keeps no older events");
                    return Ok((day, listing));
                }
                Err(again) => refused = again,
            }
        }
        let said = refused.said;
        Err(Fault::settings(
            Code::ListingRefused,
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
        place: &Place,
        deadline: Deadline,
    ) -> Result<Result<Listing, BadRequest>, Interrupt> {
        let (name, value) = match place {
            Place::Start(day) => ("dateRangeStartsAt", &day.to_string()),
            Place::Token(token) => ("nextPage", token),
        };
        let query = [("type", stream), ("pageSize", PAGE_SIZE), (name, value)];
        let call = Call { what: "the listing", lists: Some(stream) };
        let attempt = || async {
            let token = match self.token(deadline).await {
                Err(Interrupt::OutOfTime) => return Err(Failure::OutOfTime),
                token => token?,
            };
            let request = self.clients.api.get(self.at("siem/v1/batch/events/ci")).query(&query);
            let request = request
                .bearer_auth(token.secret.expose_secret())
                .header(ACCEPT, "application/json")
                .header(ACCEPT_ENCODING, "gzip");
            let reply = self.attempt(&call, deadline, request).await?;
            let status = match reply.status {
                StatusCode::OK => match read(&reply.body) {
                    Some(listing) => return Ok(Ok(listing)),
                    None => meant(&reply.body),
                },
                status => status,
            };
            match status {
                StatusCode::BAD_REQUEST => {
                    let said = ErrorBody::read(&reply.body);
                    let today = day_of(&reply).unwrap_or_else(|| self.clock.now().date_naive());
                    Ok(Err(BadRequest { said, today }))
                }
                // A second refusal may be transient as well: it is waited out.
                StatusCode::UNAUTHORIZED => {
                    self.tokens.discard(&token).await;
                    Err(Failure::TokenRefused(ErrorBody::read(&reply.body).to_string()))
                }
                StatusCode::INTERNAL_SERVER_ERROR => Err(failure(&call, &reply)),
                _ => Err(Interrupt::from(refused(stream, status, &reply)).into()),
            }
        };
        self.call(&call, deadline, attempt).await
    }
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// The status that a 200 means which is no listing: it may be a refusal.
fn meant(body: &[u8]) -> StatusCode {
    let refusal = Some(body).filter(|body| is_refusal(body)).map(ErrorBody::read);
    match refusal.map(|said| said.code.to_lowercase()).unwrap_or_default() {
        code if code.contains("forbidden") => StatusCode::FORBIDDEN,
        code if code.contains("unauthorized") || code.contains("token") => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The day of a reply's `Date`, which does not depend on this machine's clock.
fn day_of(reply: &Reply) -> Option<NaiveDate> {
    server_time(&reply.headers).map(|time| time.date_naive())
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

/// A stored cursor is not one of Mimecast's.
fn no_place(stream: &str, Cursor(value): &Cursor) -> Fault {
    Fault::settings(
        Code::CheckpointRefused,
        format!("{} cannot be read: {value} is no cursor of Mimecast's", checkpoint_name(stream)),
        format!(
            "look at the file; `mimecast-sentinel state reset {stream}`, or in a backfill its \
                 `--restart`, begins again"
        ),
    )
}

fn bad_request(stream: &str, BadRequest { said, .. }: &BadRequest) -> Fault {
    Fault::passing(
        Code::ListingBadRequest,
        format!("Mimecast refuses to list {stream} (400): {said}"),
        "nothing is skipped, the next run asks again; if it stays so, give the words above to \
         Mimecast's support",
    )
}

fn refused(stream: &str, status: StatusCode, reply: &Reply) -> Fault {
    let said = ErrorBody::read(&reply.body);
    let status = status.as_u16();
    let (code, fix) = match status {
        403 => (
            Code::MimecastForbidden,
            "give the API 2.0 application the product \"Threats, Security Events, and Data\" for \
             Cloud Integrated; a product cannot be added later, so make a new application if it \
             lacks it",
        ),
        _ => (Code::MimecastRefused, "check MIMECAST_BASE_URL"),
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
