//! The secrets that this process holds, so that they can be struck out of what others write: a
//! server, or a gateway before it, may quote what it was sent when it refuses it.
//!
//! They are kept for the whole process, since an error's text is made far from where the secret is
//! known.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use smallvec::SmallVec;
use url::form_urlencoded;

/// What a secret is replaced with.
const STRUCK: &str = "[secret]";

/// A shorter one would strike out ordinary words. In bytes.
const SHORTEST: usize = 6;

/// This many bytes of a secret are struck out even where the rest is missing, since texts are cut.
const PART: usize = 12;

/// In how many ways a text is decoded at a time. A normal one needs two or three; one made only of
/// escapes must not take longer.
const MOST_PLACES: usize = 8;

/// How many tokens are remembered. A process uses a handful at a time, each for an hour.
const TOKENS: usize = 64;

static HELD: RwLock<Held> = RwLock::new(Held { lasting: Vec::new(), tokens: VecDeque::new() });

struct Held {
    lasting: Vec<Secret>,
    tokens: VecDeque<Secret>,
}

/// A secret as it is, and then the Base64 of it that any text around it leaves as it is.
struct Secret(Vec<Vec<u8>>);

/// Holds a secret that stays the same as long as the process: a setting, or a part of one.
pub fn hold(secret: &str) {
    add(secret, |held, secret| held.lasting.push(secret));
}

/// Holds a token until many newer ones have come.
pub fn hold_token(token: &str) {
    add(token, |held, token| {
        held.tokens.push_front(token);
        held.tokens.truncate(TOKENS);
    });
}

fn add(secret: &str, keep: impl FnOnce(&mut Held, Secret)) {
    let secret = secret.trim();
    let mut held = HELD.write().unwrap_or_else(PoisonError::into_inner);
    let known = held.all().any(|known| known.0[0] == secret.as_bytes());
    if !known && secret.len() >= SHORTEST {
        keep(&mut held, Secret::new(secret));
    }
}

/// `text` without the secrets that are held: as they are, percent-encoded or form-encoded (once
/// or twice), escaped as in JSON or HTML, or in Base64.
pub(super) fn strike_out(text: &str) -> String {
    let held = HELD.read().unwrap_or_else(PoisonError::into_inner);
    let forms: Vec<&[u8]> = held.all().flat_map(Secret::forms).collect();
    let mut struck = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        let found = forms.iter().filter_map(|form| end_of(form, text.as_bytes(), at)).max();
        match found {
            Some(end) => {
                struck.push_str(STRUCK);
                at = (end..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
            }
            None => {
                struck.push(next);
                at += next.len_utf8();
            }
        }
    }
    struck
}

impl Held {
    fn all(&self) -> impl Iterator<Item = &Secret> {
        self.lasting.iter().chain(&self.tokens)
    }
}

impl Secret {
    fn new(secret: &str) -> Self {
        let mut forms = vec![secret.as_bytes().to_vec()];
        // A form is encoded first.
        let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        for secret in [secret, &encoded] {
            for (before, base64) in
                (0..3).flat_map(|before| [(before, STANDARD_NO_PAD), (before, URL_SAFE_NO_PAD)])
            {
                let bytes = [&vec![0; before], secret.as_bytes()].concat();
                let text = base64.encode(&bytes).into_bytes();
                let form = text.get(own_base64(before, bytes.len())).unwrap_or_default();
                if form.len() > SHORTEST && !forms.iter().any(|known| known == form) {
                    forms.push(form.to_owned());
                }
            }
        }
        Self(forms)
    }

    fn forms(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

/// Which characters of the Base64 of `bytes` bytes depend on none of the first `before` bytes nor
/// on what may follow: each character has six bits.
fn own_base64(before: usize, bytes: usize) -> Range<usize> {
    (before * 8).div_ceil(6)..bytes * 8 / 6
}

/// Where in `text` a secret ends that begins at `at`, or enough of it.
fn end_of(secret: &[u8], text: &[u8], at: usize) -> Option<usize> {
    let escapes = [b'%', b'\\', b'&', b'+'];
    if text.get(at) != secret.first() && !escapes.contains(text.get(at)?) {
        return None;
    }
    let mut places: SmallVec<[usize; 4]> = SmallVec::from_slice(&[at]);
    for (matched, byte) in secret.iter().enumerate() {
        let mut next = SmallVec::new();
        for place in &places {
            for length in lengths(&text[*place..], *byte) {
                if next.len() < MOST_PLACES && !next.contains(&(place + length)) {
                    next.push(place + length);
                }
            }
        }
        if next.is_empty() {
            return places.into_iter().max().filter(|_| matched >= PART);
        }
        places = next;
    }
    places.into_iter().max()
}

/// How many bytes at the beginning of `text` may mean `byte`: several answers, since `%2541` is `%41`
/// encoded once, and `A` encoded twice.
fn lengths(text: &[u8], byte: u8) -> SmallVec<[usize; 4]> {
    let mut lengths = SmallVec::new();
    let Some(first) = text.first() else { return lengths };
    let mut may = |value: Option<u32>, length: usize| {
        // A form has a `+` for a blank.
        if value == Some(u32::from(byte)) || (byte == b' ' && value == Some(u32::from(b'+'))) {
            lengths.push(length);
        }
    };
    may(Some(u32::from(*first)), 1);
    match first {
        b'%' => {
            may(text.get(1..3).and_then(|digits| number(digits, 16)), 3);
            may(text.strip_prefix(b"%25").and_then(|text| number(text.get(..2)?, 16)), 5);
        }
        b'\\' => {
            // A text that was escaped again has more of them.
            let slashes = text.iter().take(4).take_while(|byte| **byte == b'\\').count();
            (2..=slashes).for_each(|slashes| may(Some(u32::from(b'\\')), slashes));
            let escaped = &text[slashes..];
            may(escaped.first().map(|byte| u32::from(*byte)), slashes + 1);
            let unicode = escaped.strip_prefix(b"u").and_then(|text| number(text.get(..4)?, 16));
            may(unicode, slashes + 5);
        }
        b'&' => {
            if let Some((value, length)) = entity(text) {
                may(Some(value), length);
            }
        }
        _ => {}
    }
    lengths
}

/// `&amp;`, `&#65;` or `&#x41;`.
fn entity(text: &[u8]) -> Option<(u32, usize)> {
    let end = text.iter().take(10).position(|byte| *byte == b';')?;
    let value = match &text[1..end] {
        b"amp" => u32::from(b'&'),
        b"lt" => u32::from(b'<'),
        b"gt" => u32::from(b'>'),
        b"quot" => u32::from(b'"'),
        b"apos" => u32::from(b'\''),
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16)?,
        [b'#', digits @ ..] => number(digits, 10)?,
        _ => return None,
    };
    Some((value, end + 1))
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use url::form_urlencoded::byte_serialize;

    use super::*;

    // The registry is the process's, so that each test has secrets of its own.

    #[test]
    fn a_secret_is_struck_out_however_it_is_written() {
        let secret = "a+b/c =\"&%41~é\\u00e9";
        hold(secret);
        let form: String = byte_serialize(secret.as_bytes()).collect();
        let twice: String = byte_serialize(form.as_bytes()).collect();
        let percent: String = secret.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let json = serde_json::to_string(secret).unwrap();
        let json_again = serde_json::to_string(&json).unwrap();
        let html = secret.replace('&', "&amp;").replace('"', "&quot;").replace('+', "&#43;");
        let ascii = json.replace('/', "\\/").replace('+', "\\u002b").replace('~', "\\u007E");
        for written in [secret, &form, &twice, &percent, &json, &json_again, &html, &ascii] {
            let said = strike_out(&format!("you sent <{written}>, no"));
            let quoted = [r#"<"[secret]">"#, r#"<"\"[secret]\"">"#];
            let plain = quoted.iter().fold(said, |said, quoted| said.replace(quoted, "<[secret]>"));
            assert_eq!(plain, "you sent <[secret]>, no", "{written}");
        }
    }

    #[test]
    fn base64_of_a_secret_is_struck_out_whatever_stands_around_it() {
        let secret = "Kx8Q~canary+of/base64.9";
        hold(secret);
        let form: String = byte_serialize(secret.as_bytes()).collect();
        for secret in [secret, &form] {
            for before in ["", "i", "id", "id:", "client_secret="] {
                for after in ["", "&", "&a=1"] {
                    let text = format!("{before}{secret}{after}");
                    for base64 in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                        let said = strike_out(&base64);
                        assert!(said.contains(STRUCK), "{text}: {said}");
                        let rest = said.replace(STRUCK, "");
                        assert!(rest.len() <= base64.len() - secret.len(), "{text}: {said}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_secret_that_was_cut_is_struck_out_and_words_are_not() {
        hold_token("eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.part-canary");
        assert_eq!(strike_out("Bearer eyJ0eXAiOiJKV1QiLCJ…"), "Bearer [secret]…");
        assert_eq!(strike_out("é eyJ0eXAi é"), "é eyJ0eXAi é");
        hold("short");
        assert_eq!(strike_out("a short word"), "a short word");
        hold("schlüssel");
        assert_eq!(strike_out("der Schlüssel schlüssel"), "der Schlüssel [secret]");
    }

    #[test]
    fn a_secret_made_of_escapes_takes_no_longer() {
        let escapes = "\\".repeat(4_000);
        hold_token(&escapes);
        let said = strike_out(&"\\".repeat(64_000));
        assert!(said.contains(STRUCK) && said.len() < 64_000, "{}", said.len());
    }

    #[test]
    fn old_tokens_are_forgotten_and_settings_are_not() {
        hold("setting-canary");
        (0..=TOKENS).for_each(|n| hold_token(&format!("old-{n:03}-canary")));
        let said = strike_out("setting-canary old-000-canary old-064-canary");
        assert_eq!(said, "[secret] old-000-canary [secret]");
    }
}
