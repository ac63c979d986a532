//! The feed: what ingest and enforcers tell each other of accounts, as bytes.
//!
//! Two topics carry it. `tollbook.balances` (compacted) has one record per limit, counter and origin,
//! and each chain's mark; `tollbook.exchange` has frames, each what one replica's counters changed
//! since its last. What is said is always absolute with a revision, so a reader may see records again,
//! late, or not at all (see [`crate::account`]).
//!
//! Invariant: what is written here is read back equal, and bytes that are anything else are refused,
//! never guessed. A reader of this version refuses other versions; the first byte says which.
//! Deliberately absent: topics, partitions and clients; whoever sends and reads.

mod wire;

#[cfg(test)]
mod tests;

use crate::account::{Message, Origin, ReplicaId};
use crate::ids::{ChainId, PartNumber};
use crate::policy::CounterKey;
use crate::policy::model::LimitId;
use crate::time::UnixMs;

/// Why bytes are no part of the feed; the reader counts it and goes on with the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// The first byte names a version that this program does not know: another one writes here.
    #[error("version {0} of the feed is not known here")]
    Version(u8),
    /// Not what any version writes.
    #[error("the record is not one of the feed's")]
    Malformed,
    /// Nothing at all.
    #[error("the record is empty")]
    Empty,
}

/// The key of a record on `tollbook.balances`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BalanceKey {
    /// One origin's use of one account.
    Account {
        /// The limit, at one attachment of its policy.
        limit: LimitId,
        /// The counter.
        counter: CounterKey,
        /// Who counted.
        origin: Origin,
    },
    /// How far a chain's accounts are told.
    Mark(ChainId),
}

/// How far the accounts of one chain are told on one partition of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The chain.
    pub chain: ChainId,
    /// Who owns it.
    pub epoch: i64,
    /// The last part whose accounts were sent before this.
    pub part: PartNumber,
    /// Every record that the chain's partition held at this instant is in those parts; absent before
    /// the first time that was so.
    pub watermark: Option<UnixMs>,
    /// When this was written, by Postgres's clock.
    pub at: UnixMs,
    /// Whether the chain is retired: no other mark will come.
    pub is_last: bool,
}

/// What a record on `tollbook.balances` says of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// One origin's absolute use.
    Account(Message),
    /// A chain's mark.
    Mark(Mark),
}

/// What one replica counted since its last frame, on `tollbook.exchange`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Who counted.
    pub replica: ReplicaId,
    /// When it was sent, by the replica's clock.
    pub at: UnixMs,
    /// The counters that changed.
    pub entries: Vec<Entry>,
}

/// One counter of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The limit.
    pub limit: LimitId,
    /// The counter.
    pub counter: CounterKey,
    /// The replica's own use, absolute.
    pub message: Message,
}

impl BalanceKey {
    /// Returns the record's key.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::write(&wire::Key::of(self))
    }

    /// Reads a record's key.
    ///
    /// # Errors
    ///
    /// Each case of [`FeedError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FeedError> {
        let key: wire::Key = wire::read(bytes)?;
        Ok(key.take())
    }
}

impl Balance {
    /// Returns the record's value.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::write(&wire::Value::of(self))
    }

    /// Reads a record's value; a tombstone has none and is the caller's to tell.
    ///
    /// # Errors
    ///
    /// Each case of [`FeedError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FeedError> {
        let value: wire::Value = wire::read(bytes)?;
        value.take()
    }
}

impl Frame {
    /// Returns the record's value.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::write(&wire::Frame::of(self))
    }

    /// Reads who sent a record's value and when, and nothing of its counters.
    ///
    /// # Errors
    ///
    /// Each case of [`FeedError`].
    pub fn head_of(bytes: &[u8]) -> Result<(ReplicaId, UnixMs), FeedError> {
        wire::read_head(bytes)
    }

    /// Reads a record's value.
    ///
    /// # Errors
    ///
    /// Each case of [`FeedError`]; a frame is taken whole or not at all.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FeedError> {
        let frame: wire::Frame = wire::read(bytes)?;
        frame.take()
    }
}
