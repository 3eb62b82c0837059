//! JSON by RFC 8259, read by recursion and kept whole: what the row writer is held against.

/// A value, and its text.
pub struct Value<'a> {
    pub text: &'a str,
    pub shape: Shape<'a>,
}

pub enum Shape<'a> {
    /// `null`, `true`, `false`, a number.
    Plain,
    /// In UTF-16, as escapes mean it.
    String(Vec<u16>),
    Array(Vec<Value<'a>>),
    Object(Vec<(Value<'a>, Value<'a>)>),
}

/// The one value that `text` is, if it is JSON.
pub fn parse(text: &str) -> Option<Value<'_>> {
    let mut reader = Reader { text, at: 0 };
    reader.blanks();
    let value = reader.value()?;
    reader.blanks();
    (reader.at == text.len()).then_some(value)
}

impl Value<'_> {
    /// How many arrays and objects are one in the other.
    pub fn depth(&self) -> usize {
        let deepest = |values: &mut dyn Iterator<Item = &Self>| {
            1 + values.map(Self::depth).max().unwrap_or_default()
        };
        match &self.shape {
            Shape::Plain | Shape::String(_) => 0,
            Shape::Array(items) => deepest(&mut items.iter()),
            Shape::Object(fields) => deepest(&mut fields.iter().map(|(_, value)| value)),
        }
    }

    /// Whether this or anything in it is true.
    pub fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        test(self)
            || match &self.shape {
                Shape::Plain | Shape::String(_) => false,
                Shape::Array(items) => items.iter().any(|item| item.any(test)),
                Shape::Object(fields) => {
                    fields.iter().any(|(key, value)| key.any(test) || value.any(test))
                }
            }
    }

    /// Whether it is an object that has a key twice.
    pub fn repeats_a_key(&self) -> bool {
        let Shape::Object(fields) = &self.shape else { return false };
        let same = |a: &Self, b: &Self| a.units() == b.units();
        (1..fields.len()).any(|n| fields[..n].iter().any(|(key, _)| same(key, &fields[n].0)))
    }

    /// Whether it is a string that is not Unicode.
    pub fn has_half_a_character(&self) -> bool {
        self.units().is_some_and(|units| String::from_utf16(units).is_err())
    }

    /// The string that it is, if it is one and Unicode.
    pub fn string(&self) -> Option<String> {
        String::from_utf16(self.units()?).ok()
    }

    fn units(&self) -> Option<&[u16]> {
        if let Shape::String(units) = &self.shape { Some(units) } else { None }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = self.text[self.at..].starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn blanks(&mut self) {
        while matches!(self.next(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Option<Value<'a>> {
        let start = self.at;
        let shape = match self.next()? {
            b'"' => Shape::String(self.string()?),
            b'[' => Shape::Array(self.list(']', Self::value)?),
            b'{' => Shape::Object(self.list('}', Self::field)?),
            b'-' | b'0'..=b'9' => self.number().then_some(Shape::Plain)?,
            _ => {
                let known = self.takes("null") || self.takes("true") || self.takes("false");
                known.then_some(Shape::Plain)?
            }
        };
        Some(Value { text: &self.text[start..self.at], shape })
    }

    fn list<T>(&mut self, end: char, item: fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let end = end.encode_utf8(&mut [0; 4]).to_owned();
        let mut items = Vec::new();
        self.at += 1;
        self.blanks();
        if self.takes(&end) {
            return Some(items);
        }
        loop {
            self.blanks();
            items.push(item(self)?);
            self.blanks();
            if self.takes(&end) {
                return Some(items);
            }
            if !self.takes(",") {
                return None;
            }
        }
    }

    fn field(&mut self) -> Option<(Value<'a>, Value<'a>)> {
        let key = self.value().filter(|key| key.text.starts_with('"'))?;
        self.blanks();
        if !self.takes(":") {
            return None;
        }
        self.blanks();
        Some((key, self.value()?))
    }

    fn string(&mut self) -> Option<Vec<u16>> {
        let mut units = Vec::new();
        self.at += 1;
        loop {
            let c = self.text[self.at..].chars().next()?;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(units),
                '\0'..='\x1f' => return None,
                '\\' => {
                    let escape = self.next()?;
                    self.at += 1;
                    units.push(match escape {
                        b'"' | b'\\' | b'/' => u16::from(escape),
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => 10,
                        b'r' => 13,
                        b't' => 9,
                        b'u' => {
                            let hex = self.text.get(self.at..self.at + 4)?;
                            let all = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
                            self.at += 4;
                            u16::from_str_radix(hex, 16).ok().filter(|_| all)?
                        }
                        _ => return None,
                    });
                }
                _ => units.extend_from_slice(c.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn number(&mut self) -> bool {
        self.takes("-");
        if !self.takes("0") && !self.digits() {
            return false;
        }
        if self.takes(".") && !self.digits() {
            return false;
        }
        if self.takes("e") || self.takes("E") {
            let _sign = self.takes("+") || self.takes("-");
            return self.digits();
        }
        true
    }

    fn digits(&mut self) -> bool {
        let start = self.at;
        while self.next().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at > start
    }
}
