//! A listing reply gives the page that a plain reader of JSON finds in it, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::pipeline::source::{Content, Part};
use mimecast_sentinel::sources::mimecast::{Place, page_of};
use mimecast_sentinel_fuzz::has_serde_jsons_own_key;
use mimecast_sentinel_fuzz::json::{self, Shape, Value};
use secrecy::ExposeSecret;
use url::Url;

/// Query parameters that sign, of those that a person would think of.
const SIGNING: [&str; 7] =
    ["X-Amz-Signature", "x-amz-credential", "x-goog-signature", "Signature", "sig", "Policy", "se"];

/// The most files of a page, and bytes of a token.
const MOST_FILES: usize = 1_000;
const LONGEST_TOKEN: usize = 8 * 1024;

fuzz_target!(|body: &[u8]| {
    let place = Place::Token("here".to_owned());
    let page = page_of(body, &place);
    for part in page.iter().flat_map(|page| &page.parts) {
        check(&part.key, address(part));
    }
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let Ok(text) = std::str::from_utf8(text) else { return };
    // Where what nobody may send stands, it depends whether it is read.
    let odd = |value: &Value| value.repeats_a_key() || value.has_half_a_character();
    let reply = json::parse(text);
    if reply.as_ref().is_some_and(|it| it.any(&odd)) || has_serde_jsons_own_key(body) {
        return;
    }
    let expected = reply.and_then(|reply| Expected::of(&reply));
    let Some(page) = page else {
        return assert!(expected.is_none(), "a good reply is refused: {expected:?}");
    };
    assert_eq!(Place::of(&page.at), Some(place));
    let files = page.parts.iter().map(|part| (address(part).to_owned(), part.size));
    let next = page.next.map(|next| match Place::of(&next) {
        Some(Place::Token(token)) => token,
        other => panic!("{other:?} is no token"),
    });
    let given = Expected { files: files.collect(), next, caught_up: page.caught_up };
    assert_eq!(Some(given), expected);
});

/// What is read of a reply.
#[derive(Debug, PartialEq)]
struct Expected {
    /// The address and the size of each file that has a usable address.
    files: Vec<(String, Option<u64>)>,
    next: Option<String>,
    caught_up: bool,
}

impl Expected {
    fn of(reply: &Value) -> Option<Self> {
        let Shape::Object(fields) = &reply.shape else { return None };
        let field = |name: &str| {
            let of_name = fields.iter().find(|(key, _)| key.string().as_deref() == Some(name));
            of_name.map(|(_, value)| value).filter(|value| value.text != "null")
        };
        let entries = match field("value").map(|value| &value.shape) {
            None => &[][..],
            Some(Shape::Array(entries)) => entries,
            Some(_) => return None,
        };
        let files: Vec<_> = entries.iter().filter_map(file).collect();
        let (next, caught_up) = (field("@nextPage"), field("isCaughtUp"));
        let has_any = [field("value"), next, caught_up].iter().any(Option::is_some);
        let fails = ["fail", "error", "errors"].iter().any(|name| field(name).is_some_and(says));
        let next = next.map(text).filter(|token| !token.is_empty());
        let is_page = has_any
            && !fails
            && entries.len() <= MOST_FILES
            && (entries.is_empty() || !files.is_empty())
            && next.as_ref().is_none_or(|token| token.len() <= LONGEST_TOKEN);
        let caught_up = caught_up.is_some_and(|value| text(value).eq_ignore_ascii_case("true"));
        is_page.then_some(Self { files, next, caught_up })
    }
}

/// A file of a page; serde takes an array for an object too, by position.
fn file(entry: &Value) -> Option<(String, Option<u64>)> {
    let (url, size) = match &entry.shape {
        Shape::Object(fields) => {
            let named = |name: &str| {
                let of_name = fields.iter().find(|(key, _)| key.string().as_deref() == Some(name));
                of_name.map(|(_, value)| value)
            };
            (named("url")?, named("size"))
        }
        Shape::Array(items) if items.len() <= 2 => (items.first()?, items.get(1)),
        _ => return None,
    };
    let url = url.string().filter(|url| Url::parse(url).is_ok())?;
    Some((url, size.and_then(|size| size.text.parse().ok())))
}

/// A string, or the JSON of what should be one.
fn text(value: &Value) -> String {
    value.string().unwrap_or_else(|| value.text.to_owned())
}

/// Whether a value is neither empty nor false.
fn says(value: &Value) -> bool {
    let text: String = value.text.split_whitespace().collect();
    !["[]", "{}", "\"\"", "false"].contains(&text.as_str())
}

fn address(part: &Part) -> &str {
    match &part.content {
        Content::At(address) => address.expose_secret(),
        Content::Here(_) => panic!("a listing has no content"),
    }
}

/// The name of a file says where it is, and nothing that opens it.
fn check(key: &str, address: &str) {
    let (name, url) = (Url::parse(key).unwrap(), Url::parse(address).unwrap());
    assert_eq!((name.scheme(), name.host()), (url.scheme(), url.host()));
    // Blanks before a `#` go with it where a URL has no host.
    assert_eq!(name.path().trim_end(), url.path().trim_end());
    assert_eq!((name.username(), name.password(), name.fragment()), ("", None, None));
    // Of the rest of its query there is a hash.
    if let Some(query) = name.query() {
        let hash = query.strip_prefix("sha256=").unwrap();
        let is_hex = hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        assert!(is_hex && hash.len() == 32, "{key}");
        assert_ne!(url.query(), None, "{key} has what {address} has not");
    }
    for signs in SIGNING {
        assert_eq!(key_with(&url, signs), key, "{signs} changes it");
    }
    assert_ne!(key_with(&url, "versionId"), key, "another object has another name");
}

/// The name of the file at an address with one more query parameter.
fn key_with(url: &Url, parameter: &str) -> String {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair(parameter, "1");
    let listed = serde_json::json!({"value": [{"url": url.as_str()}]}).to_string();
    page_of(listed.as_bytes(), &Place::Token(String::new())).unwrap().parts.remove(0).key
}
