//! Reads the JSON of one event, in one pass and without making values of it.
//!
//! `serde_json` reads the same with a `RawValue` for each field, at a higher cost, and lets pass what
//! Azure must not see, which takes a second pass (docs/PERFORMANCE.md has the figures). What is
//! JSON here is what `serde_json` takes; the tests and a fuzz target hold one against the other.

use std::borrow::Cow;

use super::RejectReason;

/// How deep an event may be nested; the event itself is the first level.
const MAX_DEPTH: usize = 128;

/// A string as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonString<'a> {
    /// With its quotes.
    pub(super) raw: &'a str,
    /// Whether anything in it is written as an escape.
    pub(super) escaped: bool,
}

impl<'a> JsonString<'a> {
    /// What it means, or nothing if it has a lone surrogate.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        if self.escaped {
            serde_json::from_str(self.raw).ok().map(Cow::Owned)
        } else {
            self.raw.get(1..self.raw.len() - 1).map(Cow::Borrowed)
        }
    }
}

/// Gives each field of the object that `line` is to `take`: its key, and the text of its value.
///
/// # Errors
/// Why the line is no event: JSON, object, surrogates; then depth or keys that repeat within a value.
/// That keys of the event itself repeat is for the caller to see.
pub(super) fn read_fields<'a>(
    line: &'a [u8],
    mut take: impl FnMut(JsonString<'a>, &'a str),
) -> Result<(), RejectReason> {
    let text = std::str::from_utf8(line).map_err(|_| RejectReason::InvalidUtf8)?;
    let mut reader = Reader::new(text);
    let object = reader.whole(&mut take).ok_or(RejectReason::NotJson)?;
    if !object {
        return Err(RejectReason::NotObject);
    }
    if reader.lone_surrogate {
        return Err(RejectReason::LoneSurrogate);
    }
    reader.refused.map_or(Ok(()), Err)
}

/// Whether a name occurs twice. Sorts, since a hostile object has very many.
pub(super) fn repeats<T: Ord>(names: &mut [T]) -> bool {
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

/// Goes through a text without recursion, since a hostile one is nested as deep as it is long. Its
/// methods give `None` where the text is not JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Whether an escape is half of a surrogate pair without the other half.
    lone_surrogate: bool,
    /// The first thing that is JSON, and that no row may have.
    refused: Option<RejectReason>,
    /// What closes each array and object that is open within a field, outermost first.
    closers: Vec<u8>,
    /// Of each of these, while none is too deep: how many of `keys` stand before its own.
    first_keys: Vec<usize>,
    /// The keys of all objects that are open within a field, outermost first.
    keys: Vec<Cow<'a, str>>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            lone_surrogate: false,
            refused: None,
            closers: Vec::new(),
            first_keys: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// The whole text, one value; whether that is an object.
    fn whole(&mut self, take: &mut impl FnMut(JsonString<'a>, &'a str)) -> Option<bool> {
        let object = self.next()? == b'{';
        if object {
            self.object(take)?;
        } else {
            self.value()?;
        }
        self.blanks();
        (self.at == self.text.len()).then_some(object)
    }

    /// The event's own object.
    fn object(&mut self, take: &mut impl FnMut(JsonString<'a>, &'a str)) -> Option<()> {
        self.at += 1;
        if self.next()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.key()?;
            self.next()?;
            let start = self.at;
            self.value()?;
            take(key, self.text.get(start..self.at)?);
            let next = self.next()?;
            self.at += 1;
            match next {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Any value, with all that is in it.
    fn value(&mut self) -> Option<()> {
        loop {
            let opens = match self.next()? {
                b'"' => self.string().map(|_| false),
                b'{' => self.open(b'}'),
                b'[' => self.open(b']'),
                b'-' | b'0'..=b'9' => self.number().map(|()| false),
                b't' => self.word("true"),
                b'f' => self.word("false"),
                b'n' => self.word("null"),
                _ => None,
            }?;
            // Behind a value, up to the next one.
            let mut ended = !opens;
            while ended {
                let Some(&closer) = self.closers.last() else { return Some(()) };
                match self.next()? {
                    b',' => {
                        self.at += 1;
                        if closer == b'}' {
                            self.nested_key()?;
                        }
                        ended = false;
                    }
                    next if next == closer => self.close(),
                    _ => return None,
                }
            }
        }
    }

    /// Goes into an array or an object; `false` if it is empty, and passed.
    fn open(&mut self, closer: u8) -> Option<bool> {
        self.at += 1;
        self.closers.push(closer);
        // The event is a level too.
        if self.closers.len() == MAX_DEPTH {
            self.refused.get_or_insert(RejectReason::TooDeep);
        }
        if self.refused.is_none() {
            self.first_keys.push(self.keys.len());
        }
        if self.next()? == closer {
            self.close();
            return Some(false);
        }
        if closer == b'}' {
            self.nested_key()?;
        }
        Some(true)
    }

    fn close(&mut self) {
        self.at += 1;
        self.closers.pop();
        if self.refused.is_some() {
            return;
        }
        let first = self.first_keys.pop().unwrap_or_default();
        if repeats(&mut self.keys[first..]) {
            self.refused = Some(RejectReason::DuplicateKey);
        }
        self.keys.truncate(first);
    }

    fn nested_key(&mut self) -> Option<()> {
        let key = self.key()?;
        if self.refused.is_none() {
            // What is no text has a lone surrogate.
            self.keys.extend(key.text());
        }
        Some(())
    }

    /// A key and its colon. Inlined: what is returned in memory costs more than it is worth.
    #[inline]
    fn key(&mut self) -> Option<JsonString<'a>> {
        if self.next()? != b'"' {
            return None;
        }
        let start = self.at;
        let escaped = self.string()?;
        let raw = self.text.get(start..self.at)?;
        if self.next()? != b':' {
            return None;
        }
        self.at += 1;
        Some(JsonString { raw, escaped })
    }

    /// A string; whether it has escapes.
    fn string(&mut self) -> Option<bool> {
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain(self.text.as_bytes().get(self.at..)?);
            match self.byte()? {
                b'"' => {
                    self.at += 1;
                    return Some(escaped);
                }
                b'\\' => self.escape()?,
                // A control character.
                _ => return None,
            }
            escaped = true;
        }
    }

    fn escape(&mut self) -> Option<()> {
        self.at += 1;
        match self.byte()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                let unit = self.unit()?;
                let pairs = unit & 0xFC00 == 0xD800
                    && self.rest().starts_with(b"\\u")
                    && self.rest().get(2..).and_then(hex).is_some_and(|low| low & 0xFC00 == 0xDC00);
                if pairs {
                    self.at += 6;
                } else if unit & 0xF800 == 0xD800 {
                    self.lone_surrogate = true;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The `uXXXX` of an escape.
    fn unit(&mut self) -> Option<u16> {
        let unit = hex(self.rest().get(1..)?)?;
        self.at += 5;
        Some(unit)
    }

    fn number(&mut self) -> Option<()> {
        self.at += usize::from(self.byte()? == b'-');
        match self.byte()? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Some(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Option<()> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        (digits > 0).then_some(())
    }

    fn word(&mut self, word: &str) -> Option<bool> {
        self.at += word.len();
        (self.text.get(self.at - word.len()..self.at)? == word).then_some(false)
    }

    /// The next byte that is not blank, where it stands.
    fn next(&mut self) -> Option<u8> {
        self.blanks();
        self.byte()
    }

    fn blanks(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &[u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }
}

/// The number that four hexadecimal digits make.
fn hex(digits: &[u8]) -> Option<u16> {
    let digits = digits.first_chunk::<4>()?;
    digits.iter().try_fold(0, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | digit as u16)
    })
}

/// How many bytes stand before the first that ends a string, begins an escape, or is a control
/// character. Eight at a time: most of an event is strings.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        // Taking n from a byte borrows if it is smaller, which shows in its highest bit, unless that
        // was set before. The lowest byte found is right; what it borrows may spoil those above.
        let found = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * b' ' as u64) & !word);
        if found & HIGH_BITS != 0 {
            return index * 8 + (found & HIGH_BITS).trailing_zeros() as usize / 8;
        }
    }
    let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    words.len() * 8 + rest.iter().position(ends).unwrap_or(rest.len())
}
