//! Reads the JSON of one event, in one pass and without making values of it.
//!
//! `serde_json` reads the same with a `RawValue` for each field, at a higher cost, and lets pass what
//! Azure must not see, which takes a second pass (docs/PERFORMANCE.md has the figures). What is
//! JSON here is what `serde_json` takes; the tests and a fuzz target hold one against the other.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use super::RejectReason;

/// How deep an event may be nested; the event itself is the first level.
const MAX_DEPTH: usize = 128;

/// A string as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonString<'a> {
    /// With its quotes.
    pub(super) raw: &'a [u8],
    /// Whether anything in it is written as an escape.
    pub(super) escaped: bool,
}

impl<'a> JsonString<'a> {
    /// What it means, or nothing if it has a lone surrogate.
    #[inline]
    pub(super) fn text(self) -> Option<Cow<'a, [u8]>> {
        if self.escaped {
            return self.unescaped().map(Cow::Owned);
        }
        self.raw.get(1..self.raw.len() - 1).map(Cow::Borrowed)
    }

    #[cold]
    fn unescaped(self) -> Option<Vec<u8>> {
        serde_json::from_slice(self.raw).ok().map(String::into_bytes)
    }
}

/// A field of the event.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) key: JsonString<'a>,
    /// Its value's text.
    pub(super) value: &'a [u8],
    /// Where both stand in the line.
    pub(super) place: Range<usize>,
}

impl Field<'_> {
    /// Whether its key stands for itself, with only a colon between it and the value.
    pub(super) fn is_plain(&self) -> bool {
        !self.key.escaped && self.key.raw.len() + 1 + self.value.len() == self.place.len()
    }
}

/// Gives each field of the object that `line` is to `take`, as it comes to it: on an error, what was
/// given counts for nothing.
///
/// # Errors
/// Why the line is no event: UTF-8, JSON, object, surrogates; then depth or keys that repeat within a
/// value.
/// That keys of the event itself repeat is for the caller to see.
pub(super) fn read_fields<'a>(
    line: &'a [u8],
    mut take: impl FnMut(Field<'a>),
) -> Result<(), RejectReason> {
    if std::str::from_utf8(line).is_err() {
        return Err(RejectReason::InvalidUtf8);
    }
    let mut reader = Reader::new(line);
    let object = reader.whole(&mut take).ok_or(RejectReason::NotJson)?;
    if !object {
        return Err(RejectReason::NotObject);
    }
    if reader.lone_surrogate {
        return Err(RejectReason::LoneSurrogate);
    }
    reader.refused.map_or(Ok(()), Err)
}

/// So many names are sooner compared with each other than sorted.
const FEW: usize = 8;

/// Whether a name occurs twice. Sorts, since a hostile object has very many.
pub(super) fn repeats<T: Ord>(names: &mut [T]) -> bool {
    if names.len() <= FEW {
        return (1..names.len()).any(|name| names[..name].contains(&names[name]));
    }
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

/// Goes through a text without recursion, since a hostile one is nested as deep as it is long.
///
/// Its methods take the place where something begins, and give the one behind it, or `None` where
/// the text is not JSON. A place that is handed on stays in a register; as a field it was read and
/// written at each step, and each step waits for the one before.
struct Reader<'a> {
    line: &'a [u8],
    /// Whether an escape is half of a surrogate pair without the other half.
    lone_surrogate: bool,
    /// The first thing that is JSON, and that no row may have.
    refused: Option<RejectReason>,
    /// What closes each array and object that is open within a field, outermost first.
    closers: SmallVec<[u8; 16]>,
    /// Of each of the objects, while nothing is refused: how many of `keys` stand before its own.
    first_keys: SmallVec<[usize; 8]>,
    /// The keys of all objects that are open within a field, outermost first.
    keys: SmallVec<[Cow<'a, [u8]>; 16]>,
}

impl<'a> Reader<'a> {
    fn new(line: &'a [u8]) -> Self {
        Self {
            line,
            lone_surrogate: false,
            refused: None,
            closers: SmallVec::new(),
            first_keys: SmallVec::new(),
            keys: SmallVec::new(),
        }
    }

    /// The whole text, one value; whether that is an object.
    fn whole(&mut self, take: &mut impl FnMut(Field<'a>)) -> Option<bool> {
        let begin = self.next(0);
        let object = self.byte(begin)? == b'{';
        let end = if object { self.object(begin, take)? } else { self.value(begin)? };
        (self.next(end) == self.line.len()).then_some(object)
    }

    /// The event's own object.
    fn object(&mut self, at: usize, take: &mut impl FnMut(Field<'a>)) -> Option<usize> {
        let mut at = self.next(at + 1);
        if self.byte(at)? == b'}' {
            return Some(at + 1);
        }
        loop {
            let begin = at;
            let (key, after) = self.key(at)?;
            let start = self.next(after);
            let end = match self.byte(start)? {
                // Most are strings.
                b'"' => self.string(start)?.0,
                _ => self.value(start)?,
            };
            take(Field { key, value: self.line.get(start..end)?, place: begin..end });
            at = self.next(end);
            match self.byte(at)? {
                b',' => at = self.next(at + 1),
                b'}' => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// Any value, with all that is in it.
    fn value(&mut self, mut at: usize) -> Option<usize> {
        loop {
            let opened = self.closers.len();
            at = match self.byte(at)? {
                b'"' => self.string(at)?.0,
                b'{' => self.open(at, b'}')?,
                b'[' => self.open(at, b']')?,
                b'-' | b'0'..=b'9' => self.number(at)?,
                b't' => self.word(at, b"true")?,
                b'f' => self.word(at, b"false")?,
                b'n' => self.word(at, b"null")?,
                _ => return None,
            };
            // Behind a value, up to the next one.
            let mut ended = self.closers.len() <= opened;
            while ended {
                let Some(&closer) = self.closers.last() else { return Some(at) };
                at = self.next(at);
                match self.byte(at)? {
                    b',' => {
                        at = self.next(at + 1);
                        if closer == b'}' {
                            at = self.nested_key(at)?;
                        }
                        ended = false;
                    }
                    next if next == closer => at = self.close(at),
                    _ => return None,
                }
            }
        }
    }

    /// Goes into an array or an object, or past it if it is empty.
    fn open(&mut self, at: usize, closer: u8) -> Option<usize> {
        self.closers.push(closer);
        // The event is a level too.
        if self.closers.len() == MAX_DEPTH {
            self.refused.get_or_insert(RejectReason::TooDeep);
        }
        if self.refused.is_none() && closer == b'}' {
            self.first_keys.push(self.keys.len());
        }
        let at = self.next(at + 1);
        if self.byte(at)? == closer {
            return Some(self.close(at));
        }
        if closer == b'}' { self.nested_key(at) } else { Some(at) }
    }

    fn close(&mut self, at: usize) -> usize {
        let closer = self.closers.pop();
        if self.refused.is_none() && closer == Some(b'}') {
            let first = self.first_keys.pop().unwrap_or_default();
            if repeats(&mut self.keys[first..]) {
                self.refused = Some(RejectReason::DuplicateKey);
            }
            self.keys.truncate(first);
        }
        at + 1
    }

    fn nested_key(&mut self, at: usize) -> Option<usize> {
        let (key, at) = self.key(at)?;
        // What is no text has a lone surrogate.
        if self.refused.is_none()
            && let Some(text) = key.text()
        {
            self.keys.push(text);
        }
        Some(self.next(at))
    }

    /// A key and its colon.
    #[inline]
    fn key(&mut self, at: usize) -> Option<(JsonString<'a>, usize)> {
        if self.byte(at)? != b'"' {
            return None;
        }
        let (end, escaped) = self.string(at)?;
        let raw = self.line.get(at..end)?;
        let colon = self.next(end);
        (self.byte(colon)? == b':').then_some((JsonString { raw, escaped }, colon + 1))
    }

    /// A string, and whether it has escapes.
    fn string(&mut self, at: usize) -> Option<(usize, bool)> {
        let end = plain(self.line, at + 1);
        match self.byte(end)? {
            b'"' => Some((end + 1, false)),
            _ => Some((self.escaped_string(end)?, true)),
        }
    }

    /// The rest of a string, from its first escape.
    fn escaped_string(&mut self, mut at: usize) -> Option<usize> {
        loop {
            at = match self.byte(at)? {
                b'"' => return Some(at + 1),
                b'\\' => self.escape(at + 1)?,
                // A control character.
                _ => return None,
            };
            at = plain(self.line, at);
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, at: usize) -> Option<usize> {
        match self.byte(at)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
            b'u' => {
                let (unit, end) = (hex(self.line.get(at + 1..)?)?, at + 5);
                let rest = self.line.get(end..)?;
                let pairs = unit & 0xFC00 == 0xD800
                    && rest.starts_with(b"\\u")
                    && hex(&rest[2..]).is_some_and(|low| low & 0xFC00 == 0xDC00);
                if pairs {
                    return Some(end + 6);
                }
                self.lone_surrogate |= unit & 0xF800 == 0xD800;
                Some(end)
            }
            _ => None,
        }
    }

    fn number(&self, mut at: usize) -> Option<usize> {
        at += usize::from(self.byte(at)? == b'-');
        at = match self.byte(at)? {
            b'0' => at + 1,
            _ => self.digits(at)?,
        };
        if self.byte(at) == Some(b'.') {
            at = self.digits(at + 1)?;
        }
        if matches!(self.byte(at), Some(b'e' | b'E')) {
            at += 1;
            at += usize::from(matches!(self.byte(at), Some(b'+' | b'-')));
            at = self.digits(at)?;
        }
        Some(at)
    }

    /// One digit or more.
    fn digits(&self, at: usize) -> Option<usize> {
        let digits = self.line.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (digits > 0).then_some(at + digits)
    }

    fn word(&self, at: usize, word: &[u8]) -> Option<usize> {
        self.line.get(at..)?.starts_with(word).then_some(at + word.len())
    }

    /// Where the next byte stands that is not blank.
    #[inline]
    fn next(&self, mut at: usize) -> usize {
        while matches!(self.byte(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            at += 1;
        }
        at
    }

    #[inline]
    fn byte(&self, at: usize) -> Option<u8> {
        self.line.get(at).copied()
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

/// Which byte from `at` on is the first that ends a string, begins an escape, or is a control
/// character; `bytes.len()` if there is none. Sixteen at a time: most of an event is strings, and
/// most of them are short.
#[inline]
fn plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u128 = u128::from_ne_bytes([1; 16]);
    const HIGH_BITS: u128 = ONES << 7;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u128::from_le_bytes(*word);
        // Lets a quote and a space change places; control characters stay below both.
        let quote = word ^ (ONES * 2);
        let backslash = word ^ (ONES * b'\\' as u128);
        // Taking n from a byte borrows if it is smaller, which shows in its highest bit, unless that
        // was set before. The lowest byte found is right; what it borrows may spoil those above.
        let found = (quote.wrapping_sub(ONES * (b' ' as u128 + 1)) | backslash.wrapping_sub(ONES))
            & !word
            & HIGH_BITS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 16;
    }
    let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(ends).unwrap_or(rest.len())
}
