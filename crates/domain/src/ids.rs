//! Names from outside: tenant, application, user, session, provider, model, route; and the numbers
//! that name a chain and a part.
//!
//! Invariant: a text id has 1 to 256 bytes of UTF-8 without NUL (Postgres's `text` refuses it). Ids
//! are opaque bytes: nothing is trimmed, folded or normalised, so that two spellings stay two ids.

use std::borrow::Cow;
use std::fmt;

/// The greatest length of a text id, in bytes.
pub const ID_BYTES_MAX: usize = 256;

/// The application that usage without one is charged to, visible in every report.
pub const UNATTRIBUTED: &str = "unattributed";

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text has no bytes.
    #[error("is empty")]
    Empty,
    /// The text has more than [`ID_BYTES_MAX`] bytes.
    #[error("has {0} bytes, more than 256")]
    TooLong(usize),
    /// The text holds U+0000.
    #[error("holds a NUL character")]
    Nul,
}

/// Checks the one rule that all text ids share.
///
/// # Errors
///
/// Each case of [`IdError`]; the caller rejects what the text came from.
pub fn check_id(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong(text.len()));
    }
    if text.as_bytes().contains(&0) {
        return Err(IdError::Nul);
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name<'a>(Cow<'a, str>);

        impl<'a> $name<'a> {
            /// Takes a text as an id.
            ///
            /// # Errors
            ///
            /// Each case of [`IdError`]; the caller rejects what the text came from.
            pub fn new(text: impl Into<Cow<'a, str>>) -> Result<Self, IdError> {
                let text = text.into();
                check_id(&text)?;
                Ok(Self(text))
            }

            /// Returns the id as it came.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the same id with its own memory.
            #[must_use]
            pub fn into_owned(self) -> $name<'static> {
                $name(Cow::Owned(self.0.into_owned()))
            }
        }

        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// An organisation; nothing crosses from one to another.
    TenantId
);
text_id!(
    /// Who the gateway authenticated and whose ledger is charged.
    AppId
);
text_id!(
    /// The person or service behind an application's request, where a source names one.
    UserId
);
text_id!(
    /// A conversation or run that several requests belong to, where a source names one.
    SessionId
);
text_id!(
    /// Who answered the request and sets the price: `openai`, `anthropic`.
    ProviderId
);
text_id!(
    /// A model by name, as a client asked for it or as a provider answered.
    ModelId
);
text_id!(
    /// The gateway's route that carried the request, as logged.
    RouteId
);

impl AppId<'_> {
    /// The application that usage without one is charged to.
    #[must_use]
    pub const fn unattributed() -> Self {
        Self(Cow::Borrowed(UNATTRIBUTED))
    }
}

impl TenantId<'_> {
    /// The tenant where nobody configures any.
    #[must_use]
    pub const fn default_tenant() -> Self {
        Self(Cow::Borrowed("default"))
    }
}

/// Names one chain of parts: one (source, topic, partition, incarnation). At least 1; Postgres
/// hands it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub i32);

/// The place of a part in its chain: 1 for the first, growing by one; 0 stands for "no part yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(pub i64);

impl PartNumber {
    /// The number before the first part of a chain.
    pub const NONE: Self = Self(0);

    /// Returns the number of the part after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// One part of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartRef {
    /// The chain.
    pub chain: ChainId,
    /// The place in it.
    pub number: PartNumber,
}

/// A fencing epoch: who claimed a chain last has the greatest. At least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

/// A Kafka offset: of a record, or the next one to read. Zero or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub i64);

impl Offset {
    /// Returns the offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Where an event stands in its partition: the record's offset and the event's index within the
/// record, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The record's offset.
    pub offset: Offset,
    /// The event's index in the record: 0 unless the record holds an array.
    pub index: u32,
}

/// A version of what is in force (a price book, a source configuration). At least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub i64);
