//! Text that others wrote, shown so that nothing in it drives a terminal, hides, or turns around
//! what a person reads.

use std::borrow::Cow;

/// `text`, in which such a character is shown as `\u{…}`. Line feeds and tabs stay.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    replaced(text, |c, shown| shown.extend(c.escape_unicode()))
}

/// The same JSON: such a character is written as `\u…`, which means the same.
pub(super) fn escaped_json(json: &str) -> Cow<'_, str> {
    replaced(json, |c, shown| match c {
        // Valid JSON has it only between values, where an escape is not allowed.
        '\r' => shown.push(' '),
        _ => shown.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
    })
}

/// Bytes as text on one line: as [`escaped`], with line feeds and tabs escaped too, and a byte that
/// is not text as `\x…`.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_shown_as_it_is(c) { text.push(c) } else { text.extend(c.escape_unicode()) }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

fn replaced(text: &str, replace: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let stays = |c: char| matches!(c, '\n' | '\t') || is_shown_as_it_is(c);
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        if stays(c) { shown.push(c) } else { replace(c, &mut shown) }
    }
    Cow::Owned(shown)
}

/// Whether `c` is neither a control character (C0, DEL, C1) nor one that has no look of its own but
/// changes that of others: marks and overrides of direction, separators of lines, joiners of
/// nothing, tags.
fn is_shown_as_it_is(c: char) -> bool {
    let unseen = matches!(c,
        '\u{61c}'
        | '\u{200b}'
        | '\u{200e}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !unseen
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "\u{1b}[2J\r\0\u{7}\u{7f}\u{9b}31m\u{202e}\u{2067}\u{200f}\u{2028}\u{feff}\u{e0041}";

    #[test]
    fn nothing_drives_a_terminal() {
        let shown = r"\u{1b}[2J\u{d}\u{0}\u{7}\u{7f}\u{9b}31m\u{202e}\u{2067}\u{200f}\u{2028}";
        let shown = format!(r"{shown}\u{{feff}}\u{{e0041}}");
        assert_eq!(escaped(HOSTILE), shown);
        assert_eq!(printable(HOSTILE.as_bytes()), shown);
        assert_eq!(escaped("a\n\tb"), "a\n\tb");
        assert_eq!(printable(b"a\n\tb"), r"a\u{a}\u{9}b");
    }

    #[test]
    fn json_stays_the_same_json() {
        let json = serde_json::to_string(HOSTILE).unwrap();
        let safe = escaped_json(&json);
        assert!(safe.bytes().all(|byte| byte.is_ascii_graphic()), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), HOSTILE);
        // As a field of an event that has no column has it.
        let spaced = "{\"a\":\r\n\t[1,\r2]}";
        let safe = escaped_json(spaced);
        assert_eq!(safe, "{\"a\": \n\t[1, 2]}");
    }

    #[test]
    fn text_is_shown_as_it_is_and_other_bytes_as_numbers() {
        // Letters with marks of their own, and an emoji of three.
        let text = "{\"subject\":\"Grüße e\u{301} 東京 שלום \u{1f468}\u{200d}\u{1f469} 'a\\b'\"}";
        assert!(matches!(escaped(text), Cow::Borrowed(shown) if shown == text));
        assert_eq!(escaped_json(text), text);
        assert_eq!(printable(text.as_bytes()), text);
        assert_eq!(printable(b"a\xffb\xc3"), r"a\xffb\xc3");
    }
}
