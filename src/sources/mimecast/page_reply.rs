//! A reply to a listing, as it comes: a page of batch files and the token of the next one.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use url::Url;

use super::key::key;
use super::listing::Place;
use super::refusal::{is_object, says_something};
use crate::codes::Code;
use crate::http::json;
use crate::pipeline::source::{Content, Page, Part};
use crate::pipeline::{Fault, Interrupt};

/// A page of more files than this is refused: it is ten times what is asked for.
const MOST_FILES: usize = 1_000;

/// A longer page token would not fit into a request.
const LONGEST_TOKEN: usize = 8 * 1024;

/// A reply, as it comes. What is missing is as if it were empty, but a reply that has nothing of it
/// is no listing.
#[derive(Deserialize)]
pub(super) struct Listing {
    #[serde(default, deserialize_with = "files")]
    value: Option<Files>,
    #[serde(rename = "@nextPage", default, deserialize_with = "text")]
    next_page: Option<String>,
    #[serde(rename = "isCaughtUp", default, deserialize_with = "text")]
    is_caught_up: Option<String>,
    #[serde(default, deserialize_with = "says_something")]
    fail: bool,
    #[serde(default, deserialize_with = "says_something")]
    error: bool,
    #[serde(default, deserialize_with = "says_something")]
    errors: bool,
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
    Some(Part { key, size, content: Content::At(address), etag: None, begun: None })
}

/// The listing that a reply's body is, if it is one, and says of no failure.
pub(super) fn read(body: &[u8]) -> Option<Listing> {
    // An array would be read as the fields of the struct, in order.
    let listing = json::<Listing>(body).ok().filter(|_| is_object(body))?;
    let Listing { value, next_page, is_caught_up, fail, error, errors } = &listing;
    let is_one = value.is_some() || next_page.is_some() || is_caught_up.is_some();
    (is_one && !(*fail || *error || *errors)).then_some(listing)
}

/// The page that a reply's body is, if it is one.
#[cfg(fuzzing)]
pub fn page_of(body: &[u8], at: &Place) -> Option<Page> {
    page("mailflow", read(body)?, at).ok()
}

/// The page that a listing is, which was asked for at this place.
pub(super) fn page(stream: &str, listing: Listing, at: &Place) -> Result<Page, Interrupt> {
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
            code = Code::ListingEntryOdd.as_str(),
            fix = "tell Mimecast's support: nothing can be downloaded without an address",
            "the listing has entries without a usable address: the other files are read"
        );
    }
    let caught_up = listing.is_caught_up.is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let backfill_from = match at {
        Place::Start(day) => Some(*day),
        Place::Token(_) => None,
    };
    let next = next.map(|token| Place::Token(token).cursor());
    Ok(Page { at: at.cursor(), parts, next, caught_up, backfill_from, gap: None })
}

fn unreadable(stream: &str, has: &str) -> Fault {
    Fault::passing(
        Code::ListingUnreadable,
        format!("Mimecast's listing of {stream} has {has}"),
        "the next run tries again; check what stands between here and Mimecast; if it stays so, \
         give this line to Mimecast's support",
    )
}
