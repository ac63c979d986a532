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

/// The scanner stopped at a fault, which it keeps: results that travel up from each value stay
/// small enough for registers, which halves the time of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stopped;

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

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    False,
    True,
    Number,
    Text,
    EscapedText,
    Object,
    Array,
}

/// Where a value stands in its text: 12 bytes, so that a line's values travel in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    kind: Kind,
    start: u32,
    end: u32,
}

impl Span {
    fn new(kind: Kind, start: usize, end: usize) -> Self {
        // Texts are at most PAYLOAD_MAX long; of a longer one no part would be found again.
        let offset = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            kind,
            start: offset(start),
            end: offset(end),
        }
    }

    /// Returns the value that stands there. Both ends lie beside an ASCII character, so at the edge
    /// of a character.
    pub(super) fn in_text(self, text: &str) -> Value<'_> {
        let span = self.slice(text);
        match self.kind {
            Kind::Null => Value::Null,
            Kind::False => Value::Bool(false),
            Kind::True => Value::Bool(true),
            Kind::Number => Value::Number(span),
            Kind::Text => Value::Text(RawText {
                raw: span,
                has_escape: false,
            }),
            Kind::EscapedText => Value::Text(RawText {
                raw: span,
                has_escape: true,
            }),
            Kind::Object => Value::Object(span),
            Kind::Array => Value::Array(span),
        }
    }

    /// Returns all of the value's text, a string's quotes included.
    pub(super) fn whole(self, text: &str) -> &str {
        let quote = u32::from(matches!(self.kind, Kind::Text | Kind::EscapedText));
        Self {
            start: self.start.saturating_sub(quote),
            end: self.end + quote,
            ..self
        }
        .slice(text)
    }

    fn slice(self, text: &str) -> &str {
        let index = |at| usize::try_from(at).unwrap_or(usize::MAX);
        text.get(index(self.start)..index(self.end))
            .unwrap_or_default()
    }
}

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
            let key = self.key_at(key_span)?;
            let hash = hash_key(key.as_bytes());
            member(hash, &key, value);
            if self
                .keys
                .add(&mut keys, hash, key_span, key, self.text)
                .is_err()
            {
                return Err(self.duplicate(key_span));
            }
            if !self.has_next(b'}')? {
                self.keys.close(&keys);
                return Ok(());
            }
        }
    }

    fn key_at(&mut self, span: Span) -> Result<Cow<'a, str>, Stopped> {
        if span.kind == Kind::Text {
            return Ok(Cow::Borrowed(span.slice(self.text)));
        }
        unescape(span.slice(self.text))
            .map(Cow::Owned)
            .map_err(|LoneSurrogate| {
                self.at = usize::try_from(span.start).unwrap_or(self.at);
                self.syntax("a key without half of a surrogate pair")
            })
    }

    #[cold]
    fn duplicate(&mut self, key: Span) -> Stopped {
        let key = self.key_at(key).map(Cow::into_owned).unwrap_or_default();
        self.fault = Some(Fault::DuplicateKey { key });
        Stopped
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
                for _ in 0..4 {
                    if !self.skip_if(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.syntax("four hexadecimal digits"));
                    }
                }
            }
            Some(_) | None => return Err(self.syntax("an escape")),
        }
        Ok(())
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

/// The keys of the objects that are open, innermost last.
struct KeyStack {
    hashes: Vec<u64>,
    spans: Vec<Span>,
    is_checked: bool,
}

/// The keys of one open object: from where on the stack, and all of them where they are many.
struct OpenKeys<'a> {
    base: usize,
    /// A bit for each key's hash: where it is not set, the key is new.
    seen: [u64; 8],
    many: Option<BTreeSet<Cow<'a, str>>>,
}

/// The object has this key already.
struct Twice;

impl OpenKeys<'_> {
    /// Notes the hash; says whether a key with it may have been there before.
    fn may_hold(&mut self, hash: u64) -> bool {
        let bit = 1 << (hash & 63);
        let word = usize::try_from((hash >> 6) & 7).unwrap_or(0);
        let Some(seen) = self.seen.get_mut(word) else {
            return true;
        };
        let may_hold = *seen & bit != 0;
        *seen |= bit;
        may_hold
    }
}

impl KeyStack {
    fn checking() -> Self {
        let keys = LINEAR_KEYS_MAX / 2;
        let (hashes, spans) = (Vec::with_capacity(keys), Vec::with_capacity(keys));
        Self {
            hashes,
            spans,
            is_checked: true,
        }
    }

    const fn unchecked() -> Self {
        Self {
            hashes: Vec::new(),
            spans: Vec::new(),
            is_checked: false,
        }
    }

    const fn open<'a>(&self) -> OpenKeys<'a> {
        OpenKeys {
            base: self.hashes.len(),
            seen: [0; 8],
            many: None,
        }
    }

    fn add<'a>(
        &mut self,
        open: &mut OpenKeys<'a>,
        hash: u64,
        span: Span,
        key: Cow<'a, str>,
        text: &'a str,
    ) -> Result<(), Twice> {
        if !self.is_checked {
            return Ok(());
        }
        if let Some(many) = &mut open.many {
            return if many.insert(key) { Ok(()) } else { Err(Twice) };
        }
        if open.may_hold(hash) {
            let hashes = self.hashes.get(open.base..).unwrap_or_default();
            let spans = self.spans.get(open.base..).unwrap_or_default();
            let mut equal = hashes
                .iter()
                .zip(spans)
                .filter(|(known, _)| **known == hash);
            if equal.any(|(_, span)| key_text(*span, text) == key) {
                return Err(Twice);
            }
        }
        self.hashes.push(hash);
        self.spans.push(span);
        if self.hashes.len() - open.base > LINEAR_KEYS_MAX {
            self.hashes.truncate(open.base);
            open.many = Some(
                self.spans
                    .drain(open.base..)
                    .map(|s| key_text(s, text))
                    .collect(),
            );
        }
        Ok(())
    }

    fn close(&mut self, open: &OpenKeys<'_>) {
        self.hashes.truncate(open.base);
        self.spans.truncate(open.base);
    }
}

/// Returns a key that was read before, so whose escapes are known to be text.
fn key_text(span: Span, text: &str) -> Cow<'_, str> {
    let raw = span.slice(text);
    match span.kind {
        Kind::EscapedText => unescape(raw).map_or(Cow::Borrowed(raw), Cow::Owned),
        _ => Cow::Borrowed(raw),
    }
}

/// Hashes a key by its length and its first, middle and last eight bytes: without a loop, whose end
/// the processor would guess wrong for each key. Not against an adversary: equal hashes are compared,
/// and an object of many keys does not use it.
pub(super) fn hash_key(key: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let length = u64::try_from(key.len()).unwrap_or(u64::MAX);
    let middle = key
        .get((key.len() / 2).saturating_sub(4)..)
        .unwrap_or_default();
    let words = [
        key.first_chunk::<8>(),
        middle.first_chunk::<8>(),
        key.last_chunk::<8>(),
    ];
    let hash = if let [Some(first), Some(middle), Some(last)] = words {
        let [first, middle, last] = [first, middle, last].map(|word| u64::from_le_bytes(*word));
        let ends = (first ^ length).wrapping_mul(FACTOR) ^ last.rotate_left(32);
        (ends.wrapping_mul(FACTOR) ^ middle).wrapping_mul(FACTOR)
    } else {
        key.iter().fold(length, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(FACTOR)
        })
    };
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
