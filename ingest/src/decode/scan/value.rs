//! JSON values as they stand in their text: where, and what they are.
//!
//! Invariant: a span's ends lie beside ASCII characters of the text that it was read from, so at the
//! edges of characters. Deliberately absent: how the text is read.

use std::borrow::Cow;
use std::num::NonZeroU64;

/// A value as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Value<'a> {
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
pub(in crate::decode) struct RawText<'a> {
    raw: &'a str,
    has_escape: bool,
}

impl<'a> RawText<'a> {
    /// Returns the text with its escapes resolved.
    pub(in crate::decode) fn decode(self) -> Cow<'a, str> {
        if self.has_escape {
            Cow::Owned(unescape(self.raw))
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// Returns the text as it stands between the quotes.
    pub(in crate::decode) const fn raw(self) -> &'a str {
        self.raw
    }
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::decode) enum Kind {
    Null = 1,
    False,
    True,
    Number,
    Text,
    EscapedText,
    Object,
    Array,
}

impl Kind {
    const fn bits(self) -> NonZeroU64 {
        // No kind is 0.
        match NonZeroU64::new(self as u64) {
            Some(bits) => bits,
            None => NonZeroU64::MIN,
        }
    }

    const fn of(bits: u64) -> Self {
        match bits {
            1 => Self::Null,
            2 => Self::False,
            3 => Self::True,
            4 => Self::Number,
            5 => Self::Text,
            6 => Self::EscapedText,
            7 => Self::Object,
            _ => Self::Array,
        }
    }
}

/// Where a value stands in its text, in one word: the kind in the lowest 8 bits, then the start and
/// the end of 28 bits each. Values travel up from the scanner in a register; through memory, piece by
/// piece, each of them would wait for its own bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) struct Span(NonZeroU64);

impl Span {
    /// The greatest offset. Texts are at most `PAYLOAD_MAX` long, a 256th of it; of a longer one no
    /// part behind it would be found again.
    const OFFSET_MAX: u64 = (1 << 28) - 1;

    pub(in crate::decode) fn new(kind: Kind, start: usize, end: usize) -> Self {
        let offset = |at| u64::try_from(at).unwrap_or(u64::MAX).min(Self::OFFSET_MAX);
        let place = (offset(start) << 8) | (offset(end) << 36);
        Self(kind.bits() | place)
    }

    const fn kind(self) -> Kind {
        Kind::of(self.0.get() & 0xff)
    }

    const fn start(self) -> u64 {
        (self.0.get() >> 8) & Self::OFFSET_MAX
    }

    const fn end(self) -> u64 {
        self.0.get() >> 36
    }

    /// Returns the value that stands there. Both ends lie beside an ASCII character, so at the edge
    /// of a character.
    pub(in crate::decode) fn in_text(self, text: &str) -> Value<'_> {
        let span = self.slice(text);
        match self.kind() {
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
    pub(in crate::decode) fn whole(self, text: &str) -> &str {
        let quote = u64::from(matches!(self.kind(), Kind::Text | Kind::EscapedText));
        slice(text, self.start().saturating_sub(quote), self.end() + quote)
    }

    /// Says whether it is a string without escapes.
    pub(in crate::decode) fn is_plain(self) -> bool {
        self.kind() == Kind::Text
    }

    /// Returns a string's text with its escapes resolved; of any other value, its text.
    pub(in crate::decode) fn text(self, text: &str) -> Cow<'_, str> {
        let raw = self.slice(text);
        if self.kind() == Kind::EscapedText {
            Cow::Owned(unescape(raw))
        } else {
            Cow::Borrowed(raw)
        }
    }

    fn slice(self, text: &str) -> &str {
        slice(text, self.start(), self.end())
    }
}

fn slice(text: &str, start: u64, end: u64) -> &str {
    let index = |at| usize::try_from(at).unwrap_or(usize::MAX);
    text.get(index(start)..index(end)).unwrap_or_default()
}

/// Resolves escapes that are known to be well-formed.
fn unescape(raw: &str) -> String {
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
                let (character, after) = unicode_escape(characters.as_str());
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
    text
}

/// Resolves what follows `\u`: four digits, and a second escape where they are the first half of a
/// surrogate pair.
fn unicode_escape(after_u: &str) -> (char, &str) {
    let hex4 = |text: &str| {
        text.get(..4)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
    };
    let unit = hex4(after_u).unwrap_or(0);
    let rest = after_u.get(4..).unwrap_or_default();
    if let Some(character) = char::from_u32(unit) {
        return (character, rest);
    }
    // The scanner saw both halves.
    let second = rest.strip_prefix("\\u").and_then(hex4).unwrap_or(0xdc00);
    let scalar = 0x1_0000 + ((unit & 0x3ff) << 10) + (second & 0x3ff);
    (
        char::from_u32(scalar).unwrap_or('\u{fffd}'),
        rest.get(6..).unwrap_or_default(),
    )
}
