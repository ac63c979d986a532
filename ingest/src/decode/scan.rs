//! A strict reader of JSON text (RFC 8259) that borrows: no copies, no tree, numbers kept as text.
//!
//! Invariant: what it accepts, `serde_json` accepts too; it also refuses what would make a bill
//! ambiguous or a stack overflow: a key that occurs twice in one object, at any depth, and more than
//! [`DEPTH_MAX`] levels. Not `serde_json` itself, which keeps the last of two equal keys, turns
//! numbers into floats, and skips unread values at any depth. Deliberately absent: what the values
//! mean.

use std::borrow::Cow;
use std::collections::BTreeSet;

/// The greatest depth of nesting; `serde_json` has the same.
pub(super) const DEPTH_MAX: usize = 128;

/// Above this many keys an object's keys are looked up in a tree, so that an object of many keys
/// takes n log n steps, not n².
const LINEAR_KEYS_MAX: usize = 64;

/// A value as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    /// A number, as written.
    Number(&'a str),
    Text(RawText<'a>),
    /// An object, from brace to brace.
    Object(&'a str),
    /// An array, from bracket to bracket.
    Array(&'a str),
}

/// A string between its quotes, escapes not yet resolved but known to be well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawText<'a> {
    raw: &'a str,
    has_escape: bool,
}

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

/// A string escape that names one half of a surrogate pair: no Unicode text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoneSurrogate;

impl<'a> RawText<'a> {
    /// Returns the text with its escapes resolved.
    pub(super) fn decode(self) -> Result<Cow<'a, str>, LoneSurrogate> {
        if self.has_escape {
            unescape(self.raw).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(self.raw))
        }
    }

    /// Returns the text as it stands between the quotes.
    pub(super) const fn raw(self) -> &'a str {
        self.raw
    }
}

/// Reads one text from its start.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    keys: KeyStack<'a>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            keys: KeyStack::new(),
        }
    }

    /// Reads the one object that the text holds, and tells its members in their order.
    pub(super) fn read_object(
        text: &'a str,
        mut member: impl FnMut(u64, &str, Value<'a>),
    ) -> Result<(), Fault> {
        let mut scanner = Self::new(text);
        scanner.skip_white();
        scanner.object(1, &mut member)?;
        scanner.expect_end()
    }

    /// Reads the one array that the text holds, and tells the span of each element. Keys that occur
    /// twice are left to whoever reads the element.
    pub(super) fn read_array(
        text: &'a str,
        mut element: impl FnMut(&'a str, Value<'a>),
    ) -> Result<(), Fault> {
        let mut scanner = Self::new(text);
        scanner.keys.is_off = true;
        scanner.skip_white();
        scanner.array(1, &mut element)?;
        scanner.expect_end()
    }

    /// Reads the one value that the text holds.
    pub(super) fn read_value(text: &'a str) -> Result<Value<'a>, Fault> {
        let mut scanner = Self::new(text);
        scanner.skip_white();
        let value = scanner.value(0)?;
        scanner.expect_end()?;
        Ok(value)
    }

    fn expect_end(&mut self) -> Result<(), Fault> {
        self.skip_white();
        if self.at == self.text.len() {
            Ok(())
        } else {
            Err(self.syntax("nothing more"))
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Fault> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'{') => {
                self.object(depth + 1, &mut |_, _, _| ())?;
                Ok(Value::Object(self.since(start)))
            }
            Some(b'[') => {
                self.array(depth + 1, &mut |_, _| ())?;
                Ok(Value::Array(self.since(start)))
            }
            Some(b'n') => self.literal("null", Value::Null),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => Err(self.syntax("a value")),
            None => Err(Fault::CutOff),
        }
    }

    fn object(
        &mut self,
        depth: usize,
        member: &mut dyn FnMut(u64, &str, Value<'a>),
    ) -> Result<(), Fault> {
        self.descend(depth, b'{', "an object")?;
        let mut keys = self.keys.open();
        self.skip_white();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.syntax_or_end("a key in quotes"));
            }
            let key_at = self.at;
            let raw_key = self.string()?;
            let key = raw_key.decode().map_err(|LoneSurrogate| Fault::Syntax {
                at: key_at,
                expected: "a key without half of a surrogate pair",
            })?;
            let hash = hash_key(key.as_bytes());
            self.keys.take(&mut keys, hash, &key)?;
            self.skip_white();
            self.byte(b':', "a colon")?;
            self.skip_white();
            let value = self.value(depth)?;
            member(hash, &key, value);
            self.keys.push(&mut keys, hash, key);
            if !self.has_next(b'}')? {
                self.keys.close(&keys);
                return Ok(());
            }
        }
    }

    fn array(
        &mut self,
        depth: usize,
        element: &mut dyn FnMut(&'a str, Value<'a>),
    ) -> Result<(), Fault> {
        self.descend(depth, b'[', "an array")?;
        self.skip_white();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let start = self.at;
            let value = self.value(depth)?;
            element(self.since(start), value);
            if !self.has_next(b']')? {
                return Ok(());
            }
        }
    }

    fn descend(&mut self, depth: usize, open: u8, expected: &'static str) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::TooDeep { at: self.at });
        }
        self.byte(open, expected)
    }

    /// Reads the comma before another member, or the end of the object or array.
    fn has_next(&mut self, close: u8) -> Result<bool, Fault> {
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
            _ => Err(self.syntax_or_end("a comma or the end")),
        }
    }

    /// Reads a string from quote to quote.
    fn string(&mut self) -> Result<RawText<'a>, Fault> {
        self.at += 1;
        let start = self.at;
        let mut has_escape = false;
        loop {
            self.at += plain_length(self.rest());
            match self.peek() {
                Some(b'"') => {
                    let raw = self.since(start);
                    self.at += 1;
                    return Ok(RawText { raw, has_escape });
                }
                Some(b'\\') => {
                    has_escape = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.syntax("no control character in a string")),
                None => return Err(Fault::CutOff),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let (escaped, digits) = match self.rest() {
            [_, escaped, digits @ ..] => (*escaped, digits),
            _ => return Err(Fault::CutOff),
        };
        match escaped {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
            b'u' => {
                let count = digits
                    .iter()
                    .take(4)
                    .take_while(|d| d.is_ascii_hexdigit())
                    .count();
                self.at += 2 + count;
                if count < 4 {
                    return Err(self.syntax_or_end("four hexadecimal digits"));
                }
            }
            _ => return Err(self.syntax("an escape")),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value<'a>, Fault> {
        let start = self.at;
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
        Ok(Value::Number(self.since(start)))
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let count = self
            .rest()
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if count == 0 {
            return Err(self.syntax_or_end("a digit"));
        }
        self.at += count;
        Ok(())
    }

    fn literal(&mut self, word: &'static str, value: Value<'a>) -> Result<Value<'a>, Fault> {
        if self.rest().starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        if word.as_bytes().starts_with(self.rest()) {
            return Err(Fault::CutOff);
        }
        Err(self.syntax(word))
    }

    fn byte(&mut self, byte: u8, expected: &'static str) -> Result<(), Fault> {
        if self.peek() != Some(byte) {
            return Err(self.syntax_or_end(expected));
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

    /// Returns the text from `start` to here. Both stand beside an ASCII character, so at the edge
    /// of a character.
    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    const fn syntax(&self, expected: &'static str) -> Fault {
        Fault::Syntax {
            at: self.at,
            expected,
        }
    }

    const fn syntax_or_end(&self, expected: &'static str) -> Fault {
        if self.at >= self.text.len() {
            Fault::CutOff
        } else {
            self.syntax(expected)
        }
    }
}

/// The keys of the objects that are open, innermost last.
struct KeyStack<'a> {
    hashes: Vec<u64>,
    keys: Vec<Cow<'a, str>>,
    is_off: bool,
}

/// The keys of one open object: from where on the stack, and all of them where they are many.
struct OpenKeys<'a> {
    base: usize,
    many: Option<BTreeSet<Cow<'a, str>>>,
}

impl<'a> KeyStack<'a> {
    fn new() -> Self {
        let keys = LINEAR_KEYS_MAX / 2;
        Self {
            hashes: Vec::with_capacity(keys),
            keys: Vec::with_capacity(keys),
            is_off: false,
        }
    }

    const fn open(&self) -> OpenKeys<'a> {
        OpenKeys {
            base: self.keys.len(),
            many: None,
        }
    }

    /// Refuses a key that the object has already.
    fn take(&self, open: &mut OpenKeys<'a>, hash: u64, key: &str) -> Result<(), Fault> {
        if self.is_off {
            return Ok(());
        }
        let is_known = match &open.many {
            Some(many) => many.contains(key),
            None => {
                let hashes = self.hashes.get(open.base..).unwrap_or_default();
                let keys = self.keys.get(open.base..).unwrap_or_default();
                hashes.contains(&hash)
                    && hashes
                        .iter()
                        .zip(keys)
                        .any(|(known, name)| *known == hash && name == key)
            }
        };
        if is_known {
            Err(Fault::DuplicateKey {
                key: key.to_owned(),
            })
        } else {
            Ok(())
        }
    }

    fn push(&mut self, open: &mut OpenKeys<'a>, hash: u64, key: Cow<'a, str>) {
        if self.is_off {
            return;
        }
        if let Some(many) = &mut open.many {
            many.insert(key);
            return;
        }
        self.hashes.push(hash);
        self.keys.push(key);
        if self.keys.len() - open.base > LINEAR_KEYS_MAX {
            self.hashes.truncate(open.base);
            open.many = Some(self.keys.drain(open.base..).collect());
        }
    }

    fn close(&mut self, open: &OpenKeys<'a>) {
        self.hashes.truncate(open.base);
        self.keys.truncate(open.base);
    }
}

/// Hashes a key, eight bytes at a time. Not against an adversary: equal hashes are compared, and an
/// object of many keys does not use it.
pub(super) fn hash_key(key: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = u64::try_from(key.len()).unwrap_or(u64::MAX);
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    }
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    hash = (hash.rotate_left(5) ^ u64::from_le_bytes(last)).wrapping_mul(FACTOR);
    hash ^ (hash >> 32)
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

/// Resolves escapes that are known to be well-formed.
fn unescape(raw: &str) -> Result<String, LoneSurrogate> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut characters = escaped.chars();
        match characters.next() {
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('u') => {
                let (character, after) = unicode_escape(characters.as_str())?;
                text.push(character);
                rest = after;
                continue;
            }
            Some(itself) => text.push(itself),
            None => {}
        }
        rest = characters.as_str();
    }
    text.push_str(rest);
    Ok(text)
}

/// Reads what follows `\u`: four digits, and the second half of a surrogate pair where they are the
/// first.
fn unicode_escape(after_u: &str) -> Result<(char, &str), LoneSurrogate> {
    let (first, rest) = hex4(after_u).ok_or(LoneSurrogate)?;
    if !(0xd800..0xe000).contains(&first) {
        return Ok((char::from_u32(first).ok_or(LoneSurrogate)?, rest));
    }
    let (second, rest) = rest
        .strip_prefix("\\u")
        .and_then(hex4)
        .ok_or(LoneSurrogate)?;
    if first >= 0xdc00 || !(0xdc00..0xe000).contains(&second) {
        return Err(LoneSurrogate);
    }
    let scalar = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    Ok((char::from_u32(scalar).ok_or(LoneSurrogate)?, rest))
}

fn hex4(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}
