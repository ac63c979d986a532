//! A strict reader of JSON text (RFC 8259) that borrows: no copies, no tree, numbers kept as text.
//!
//! Invariant: what it accepts, `serde_json` accepts too; it also refuses what would make a bill
//! ambiguous or a stack overflow: a key that occurs twice in one object, at any depth, and more than
//! [`DEPTH_MAX`] levels. Not `serde_json` itself, which keeps the last of two equal keys, turns
//! numbers into floats, and skips unread values at any depth. Deliberately absent: what the values
//! mean.

mod keys;
mod layout;
#[cfg(test)]
mod tests;
mod value;

pub(super) use keys::hash_key;
pub(super) use layout::Layout;
pub(super) use value::{Span, Value};

use keys::KeyStack;
use value::Kind;

/// The greatest depth of nesting; `serde_json` has the same.
pub(super) const DEPTH_MAX: usize = 128;

/// Why a text is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not JSON, from this byte on.
    Syntax { at: usize, expected: &'static str },
    /// The text ends within a value.
    CutOff,
    /// Deeper than [`DEPTH_MAX`].
    TooDeep { at: usize },
    /// A key that occurs twice in one object.
    DuplicateKey { key: String },
}

/// The scanner stopped at a fault, which it keeps: results that travel up from each value stay
/// small enough for registers, which halves the time of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stopped;

/// Reads one text from its start.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    keys: KeyStack,
    fault: Option<Fault>,
}

impl<'a> Scanner<'a> {
    /// Reads the one object that the text holds, and tells its members in their order: the hash of
    /// the key by [`hash_key`], the key, and where the value stands.
    pub(super) fn read_object(
        text: &'a str,
        mut member: impl FnMut(u64, &str, Span),
    ) -> Result<(), Fault> {
        let mut scanner = Self::new(text, KeyStack::checking());
        scanner.skip_white();
        let read = scanner.object(1, &mut member);
        scanner.finish(read)
    }

    /// Reads the one array that the text holds, and tells where each element stands. Keys that occur
    /// twice are left to whoever reads the element.
    pub(super) fn read_array(text: &'a str, mut element: impl FnMut(Span)) -> Result<(), Fault> {
        let mut scanner = Self::new(text, KeyStack::unchecked());
        scanner.skip_white();
        let read = scanner.array(1, &mut element);
        scanner.finish(read)
    }

    /// Reads the one value that the text holds.
    pub(super) fn read_value(text: &'a str) -> Result<Value<'a>, Fault> {
        let mut scanner = Self::new(text, KeyStack::checking());
        scanner.skip_white();
        let read = scanner.value(0);
        scanner.finish(read).map(|span| span.in_text(text))
    }

    fn new(text: &'a str, keys: KeyStack) -> Self {
        Self {
            text,
            at: 0,
            keys,
            fault: None,
        }
    }

    fn finish<T>(mut self, read: Result<T, Stopped>) -> Result<T, Fault> {
        let read = read.and_then(|value| {
            self.skip_white();
            if self.at == self.text.len() {
                Ok(value)
            } else {
                Err(self.syntax("nothing more"))
            }
        });
        read.map_err(|Stopped| self.fault.unwrap_or(Fault::CutOff))
    }

    fn value(&mut self, depth: usize) -> Result<Span, Stopped> {
        let start = self.at;
        let kind = match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'{') => {
                self.object(depth + 1, &mut |_, _, _| ())?;
                Kind::Object
            }
            Some(b'[') => {
                self.array(depth + 1, &mut |_| ())?;
                Kind::Array
            }
            Some(b'n') => self.literal("null", Kind::Null)?,
            Some(b't') => self.literal("true", Kind::True)?,
            Some(b'f') => self.literal("false", Kind::False)?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) | None => return Err(self.syntax("a value")),
        };
        Ok(Span::new(kind, start, self.at))
    }

    fn object(
        &mut self,
        depth: usize,
        member: &mut dyn FnMut(u64, &str, Span),
    ) -> Result<(), Stopped> {
        self.descend(depth, b'{', "an object")?;
        let mut keys = self.keys.open();
        self.skip_white();
        if self.skip_if(|byte| byte == b'}') {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.syntax("a key in quotes"));
            }
            let key_span = self.string()?;
            self.skip_white();
            self.byte(b':', "a colon")?;
            self.skip_white();
            let value = self.value(depth)?;
            let key = key_span.text(self.text);
            let hash = hash_key(key.as_bytes());
            member(hash, &key, value);
            self.add_key(&mut keys, hash, key_span)?;
            if !self.has_next(b'}')? {
                self.keys.close(&keys);
                return Ok(());
            }
        }
    }

    fn array(&mut self, depth: usize, element: &mut dyn FnMut(Span)) -> Result<(), Stopped> {
        self.descend(depth, b'[', "an array")?;
        self.skip_white();
        if self.skip_if(|byte| byte == b']') {
            return Ok(());
        }
        loop {
            let value = self.value(depth)?;
            element(value);
            if !self.has_next(b']')? {
                return Ok(());
            }
        }
    }

    fn descend(&mut self, depth: usize, open: u8, expected: &'static str) -> Result<(), Stopped> {
        if depth > DEPTH_MAX {
            self.fault = Some(Fault::TooDeep { at: self.at });
            return Err(Stopped);
        }
        self.byte(open, expected)
    }

    /// Reads the comma before another member, or the end of the object or array.
    fn has_next(&mut self, close: u8) -> Result<bool, Stopped> {
        self.skip_white();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_white();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            Some(_) | None => Err(self.syntax("a comma or the end")),
        }
    }

    /// Reads a string from quote to quote; the span is what lies between.
    fn string(&mut self) -> Result<Span, Stopped> {
        self.at += 1;
        let start = self.at;
        let mut kind = Kind::Text;
        loop {
            self.at += plain_length(self.rest());
            match self.peek() {
                Some(b'"') => {
                    let span = Span::new(kind, start, self.at);
                    self.at += 1;
                    return Ok(span);
                }
                Some(b'\\') => {
                    kind = Kind::EscapedText;
                    self.escape()?;
                }
                Some(_) | None => return Err(self.syntax("no control character in a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Stopped> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                let unit = self.hex4()?;
                if (0xd800..0xdc00).contains(&unit) {
                    self.byte(b'\\', "the other half of a surrogate pair")?;
                    self.byte(b'u', "the other half of a surrogate pair")?;
                    if !(0xdc00..0xe000).contains(&self.hex4()?) {
                        return Err(self.syntax("the other half of a surrogate pair"));
                    }
                } else if (0xdc00..0xe000).contains(&unit) {
                    return Err(self.syntax("the first half of a surrogate pair before this"));
                }
            }
            Some(_) | None => return Err(self.syntax("an escape")),
        }
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, Stopped> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.syntax("four hexadecimal digits"));
            };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<Kind, Stopped> {
        self.skip_if(|byte| byte == b'-');
        if !self.skip_if(|byte| byte == b'0') {
            self.digits()?;
        }
        if self.skip_if(|byte| byte == b'.') {
            self.digits()?;
        }
        if self.skip_if(|byte| matches!(byte, b'e' | b'E')) {
            self.skip_if(|byte| matches!(byte, b'+' | b'-'));
            self.digits()?;
        }
        Ok(Kind::Number)
    }

    fn digits(&mut self) -> Result<(), Stopped> {
        if !self.skip_if(|byte| byte.is_ascii_digit()) {
            return Err(self.syntax("a digit"));
        }
        while self.skip_if(|byte| byte.is_ascii_digit()) {}
        Ok(())
    }

    fn literal(&mut self, word: &'static str, kind: Kind) -> Result<Kind, Stopped> {
        if self.rest().starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(kind);
        }
        if word.as_bytes().starts_with(self.rest()) {
            self.at = self.text.len();
        }
        Err(self.syntax(word))
    }

    fn byte(&mut self, byte: u8, expected: &'static str) -> Result<(), Stopped> {
        if self.peek() != Some(byte) {
            return Err(self.syntax(expected));
        }
        self.at += 1;
        Ok(())
    }

    fn skip_if(&mut self, is_wanted: impl Fn(u8) -> bool) -> bool {
        let is_there = self.peek().is_some_and(is_wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn skip_white(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Keeps the fault at this place: cut off where the text is at its end.
    #[cold]
    fn syntax(&mut self, expected: &'static str) -> Stopped {
        let at = self.at;
        let is_end = at >= self.text.len();
        self.fault = Some(if is_end {
            Fault::CutOff
        } else {
            Fault::Syntax { at, expected }
        });
        Stopped
    }
}

/// Returns how many bytes stand before the next quote, backslash or control character: eight at a
/// time, by the test for a byte below n in a word
/// (<https://graphics.stanford.edu/~seander/bithacks.html#HasLessInWord>).
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGH;
    let (words, _) = bytes.as_chunks::<8>();
    let mut length = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let special = below(word, 0x20) | quote | backslash;
        if special != 0 {
            // The lowest mark is exact: borrows only travel upwards.
            return length + usize::try_from(special.trailing_zeros() / 8).unwrap_or(0);
        }
        length += 8;
    }
    let rest = bytes.get(length..).unwrap_or_default();
    length
        + rest
            .iter()
            .take_while(|byte| !matches!(byte, 0..0x20 | b'"' | b'\\'))
            .count()
}
