//! The listing: which batch files there are, page after page.
//!
//! `GET {base}/siem/v1/batch/events/ci?type=…&pageSize=100&nextPage=…`

use chrono::{DateTime, Days, NaiveDate};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, DATE};
use secrecy::ExposeSecret;

use super::api::{Api, Call};
use super::page_reply::{Listing, page, read, unreadable};
use super::refusal::is_refusal;
use crate::checkpoint::Cursor;
use crate::http::{ErrorBody, Reply};
use crate::pipeline::source::Page;
use crate::pipeline::{Fault, Interrupt};
use crate::seams::Deadline;

/// Files of one page; Mimecast's largest.
const PAGE_SIZE: &str = "100";

/// How many days Mimecast is documented to keep.
const DAYS_KEPT: u64 = 7;

/// How many days are tried, one after the other, when the start is too old.
const STEPS: usize = 7;

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
        let again = |reply: &Reply| match meant(reply) {
            StatusCode::OK => read(reply).is_none(),
            // A refusal in a 200 is repeated as that status is.
            status => status.is_server_error(),
        };
        let mut renewed = false;
        // What the time's end means once fresh tokens were refused.
        let mut late = Interrupt::OutOfTime;
        loop {
            let asked = async {
                let token = self.token(deadline).await?;
                let request = || {
                    let request = self.clients.api.get(url.clone()).query(&query);
                    request
                        .bearer_auth(token.secret.expose_secret())
                        .header(ACCEPT, "application/json")
                        .header(ACCEPT_ENCODING, "gzip")
                };
                Ok((self.send(&call, deadline, request, again).await?, token))
            };
            let (reply, token) = match asked.await {
                Err(Interrupt::OutOfTime) => return Err(late.into()),
                asked => asked?,
            };
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
                        late = unauthorized(stream, &reply).into();
                        if retries.back_off().await.is_err() {
                            return Err(late.into());
                        }
                    }
                }
                _ => return Err(refused(stream, status, &reply).into()),
            }
        }
    }
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

fn bad_request(stream: &str, BadRequest { said, .. }: &BadRequest) -> Fault {
    Fault::passing(
        "listing-bad-request",
        format!("Mimecast refuses to list {stream} (400): {said}"),
        "nothing is skipped, the next run asks again; if it stays so, give the words above to \
         Mimecast's support",
    )
}

fn unauthorized(stream: &str, reply: &Reply) -> Fault {
    let said = ErrorBody::read(&reply.body);
    Fault::passing(
        "mimecast-unauthorized",
        format!("Mimecast refuses fresh access tokens for {stream}: {said}"),
        "the next run tries again; if it stays so, make a new API 2.0 application and set \
         MIMECAST_CLIENT_ID and MIMECAST_CLIENT_SECRET",
    )
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
