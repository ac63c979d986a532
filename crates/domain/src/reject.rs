//! Why a record or an event cannot become usage.
//!
//! Invariant: a rejection names a fixed reason, the field at fault and, in words, what was found; it
//! never carries a panic and never loses the event, whose payload is kept beside it.

use std::fmt;
use std::str::FromStr;

/// The fixed reasons, as stored and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The record has no value (a tombstone) or only white space.
    Empty,
    /// The record is larger than is parsed.
    TooLarge,
    /// The bytes are not JSON, cut off, not UTF-8, or nested too deep.
    NotJson,
    /// The JSON is not an object, or an array holds something else than objects.
    NotAnObject,
    /// A key occurs twice in one object.
    DuplicateKey,
    /// A field without which there is no usage is absent.
    MissingField,
    /// A field holds another type than it must.
    WrongType,
    /// A field holds a word that its format does not have.
    UnknownValue,
    /// A field that a strict format does not have.
    UnknownField,
    /// A meter that the ledger does not have.
    UnknownMeter,
    /// The event has the shape of no format that is recognised.
    UnknownShape,
    /// A quantity is negative, fractional, not a number, or beyond 2⁵³.
    BadNumber,
    /// A time cannot be read or lies outside the years 1970 to 9999.
    BadTime,
    /// An id is too long or holds a NUL character.
    BadId,
    /// Quantities contradict each other: more cached than input tokens.
    Inconsistent,
    /// The event is older than the source's window, measured at the record's time on the broker.
    TooOld,
    /// The event lies more than five minutes ahead of the record's time on the broker.
    TooFarAhead,
    /// The event lies below the floor under which ids are no longer kept.
    BelowFloor,
    /// The event's amount does not fit into the ledger.
    Overflow,
}

impl Reason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 19] = [
        Self::Empty,
        Self::TooLarge,
        Self::NotJson,
        Self::NotAnObject,
        Self::DuplicateKey,
        Self::MissingField,
        Self::WrongType,
        Self::UnknownValue,
        Self::UnknownField,
        Self::UnknownMeter,
        Self::UnknownShape,
        Self::BadNumber,
        Self::BadTime,
        Self::BadId,
        Self::Inconsistent,
        Self::TooOld,
        Self::TooFarAhead,
        Self::BelowFloor,
        Self::Overflow,
    ];

    /// Returns the name used in SQL, metrics and the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::DuplicateKey => "duplicate_key",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::UnknownValue => "unknown_value",
            Self::UnknownField => "unknown_field",
            Self::UnknownMeter => "unknown_meter",
            Self::UnknownShape => "unknown_shape",
            Self::BadNumber => "bad_number",
            Self::BadTime => "bad_time",
            Self::BadId => "bad_id",
            Self::Inconsistent => "inconsistent",
            Self::TooOld => "too_old",
            Self::TooFarAhead => "too_far_ahead",
            Self::BelowFloor => "below_floor",
            Self::Overflow => "overflow",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a reason for rejection")]
pub struct UnknownReason;

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.name() == name)
            .ok_or(UnknownReason)
    }
}

/// Why one event was rejected: the reason, the field, and what was found there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {field} {detail}")]
pub struct Rejection {
    /// The fixed reason.
    pub reason: Reason,
    /// The message's field at fault, by the name the message uses; empty where the whole is.
    pub field: String,
    /// What is wrong with it, as the rest of a sentence that begins with the field: "is negative".
    /// No NUL, at most 500 bytes.
    pub detail: String,
}

impl Rejection {
    /// Names what is wrong with one field; field and detail are cut to what the store keeps.
    #[must_use]
    pub fn new(reason: Reason, field: &str, detail: impl Into<String>) -> Self {
        Self {
            reason,
            field: printable(field, 256),
            detail: printable(&detail.into(), 500),
        }
    }
}

/// Returns the text without NUL (Postgres refuses it), cut at a character to at most `bytes_max`.
fn printable(text: &str, bytes_max: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(bytes_max));
    for character in text.chars().map(|c| if c == '\0' { '\u{fffd}' } else { c }) {
        if kept.len().saturating_add(character.len_utf8()) > bytes_max {
            break;
        }
        kept.push(character);
    }
    kept
}
