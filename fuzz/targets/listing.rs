//! A listing reply gives the page that `serde_json` reads in it, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::sources::mimecast::{Place, page_of};
use mimecast_sentinel::pipeline::source::{Content, Part};
use mimecast_sentinel_fuzz::{has_serde_jsons_own_key, json};
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

/// Query parameters that sign, of those that a person would think of.
const SIGNING: [&str; 7] =
    ["x-amz-signature", "x-amz-credential", "x-goog-signature", "signature", "sig", "policy", "se"];

fuzz_target!(|body: &[u8]| {
    let place = Place::Token("here".to_owned());
    let page = page_of(body, &place);
    let read = serde_json::from_slice::<Value>(body);
    let Some(page) = page else {
        // Refused, unless every part of it is as it should be.
        let good = read.is_ok_and(|reply| is_page(&reply, body));
        assert!(!good || has_serde_jsons_own_key(body), "a good reply is refused");
        return;
    };
    assert_eq!(Place::of(&page.at), Some(place));
    for part in &page.parts {
        check(&part.key, address(part));
    }
    // `serde_json` reads no number beyond f64 and nothing nested deeper than 128 levels, which may
    // be where nothing reads them.
    let Some(reply) = read.ok().filter(|_| !has_serde_jsons_own_key(body)) else { return };
    let files = field(&reply, "value", 0).as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(page.parts.len(), files.len());
    for (part, file) in page.parts.iter().zip(files) {
        assert_eq!(Some(address(part)), field(file, "url", 0).as_str());
        assert_eq!(part.size, field(file, "size", 1).as_u64());
    }
    let next = field(&reply, "@nextPage", 1).as_str().filter(|token| !token.is_empty());
    let goes_on = page.next.map(|next| Place::of(&next));
    assert_eq!(goes_on, next.map(|token| Some(Place::Token(token.to_owned()))));
    assert_eq!(page.caught_up, *field(&reply, "isCaughtUp", 2) == Value::Bool(true));
});

fn address(part: &Part) -> &str {
    match &part.content {
        Content::At(address) => address.expose_secret(),
        Content::Here(_) => panic!("a listing has no content"),
    }
}

/// A field; serde takes an array for an object too, by position.
fn field<'a>(of: &'a Value, name: &str, position: usize) -> &'a Value {
    match of {
        Value::Array(_) => of.get(position).unwrap_or(&Value::Null),
        _ => &of[name],
    }
}

/// Whether a reply has nothing that may be refused.
fn is_page(reply: &Value, body: &[u8]) -> bool {
    let files = match &reply["value"] {
        Value::Null => &[][..],
        Value::Array(files) => files,
        _ => return false,
    };
    let named = |file: &Value| {
        file.is_object() && file["url"].as_str().is_some_and(|url| Url::parse(url).is_ok())
    };
    // `serde_json`'s own tree has the last of two values of a key.
    let text = std::str::from_utf8(body).unwrap_or_default();
    let repeats_a_key = json::parse(text).is_none_or(|it| it.any(&json::Value::repeats_a_key));
    reply.is_object()
        && files.iter().all(named)
        && (reply["@nextPage"].is_null() || reply["@nextPage"].is_string())
        && (reply["isCaughtUp"].is_null() || reply["isCaughtUp"].is_boolean())
        && ["fail", "error", "errors"].iter().all(|name| reply[name].is_null())
        && !repeats_a_key
}

/// The name of a file says where it is, and nothing that opens it.
fn check(key: &str, address: &str) {
    let (name, url) = (Url::parse(key).unwrap(), Url::parse(address).unwrap());
    assert_eq!((name.scheme(), name.host()), (url.scheme(), url.host()));
    // Blanks before a `#` go with it where a URL has no host.
    assert_eq!(name.path().trim_end(), url.path().trim_end());
    assert_eq!((name.username(), name.password(), name.fragment()), ("", None, None));
    let mut left = url.query_pairs();
    for pair in name.query_pairs() {
        assert!(!SIGNING.contains(&&*pair.0.to_ascii_lowercase()), "{key} is signed");
        assert!(left.any(|other| other == pair), "{key} has what {address} has not");
    }
    let listed = serde_json::json!({"value": [{"url": key}]}).to_string();
    let again = page_of(listed.as_bytes(), &Place::Token(String::new())).unwrap();
    assert_eq!(again.parts[0].key, key, "a name names itself");
}
