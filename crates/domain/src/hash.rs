//! Canonical hashing: BLAKE3 over length-prefixed fields, integers big-endian.
//!
//! Invariant: two different field lists never give the same input bytes, since every variable
//! field carries its length. Deliberately absent: what is hashed; each type says its own fields.

use std::fmt;

/// A 128-bit content hash: the first 16 bytes of BLAKE3 (<https://github.com/BLAKE3-team/BLAKE3-specs>).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash128([u8; 16]);

impl Hash128 {
    /// Takes the 16 bytes as they are stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes, most significant first.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Hashes bytes as they are, with no prefix.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        first_half(&blake3::hash(bytes))
    }

    /// Takes the first half of a hash that was made in pieces.
    pub(crate) fn of_blake3(hash: &blake3::Hash) -> Self {
        first_half(hash)
    }
}

impl fmt::Debug for Hash128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Hash128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A 256-bit BLAKE3 hash, used where the hash itself is the proof (a part's chain).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash256([u8; 32]);

impl Hash256 {
    /// The hash that stands before the first part of a chain.
    pub const ZERO: Self = Self([0; 32]);

    /// Takes the 32 bytes as they are stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes, most significant first.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Debug for Hash256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Hash256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Collects fields into one canonical hash.
#[derive(Clone, Default)]
pub struct Canonical {
    hasher: blake3::Hasher,
}

impl Canonical {
    /// Starts a hash of one kind of thing; the kind and its version separate domains, so that a
    /// series never has the hash of a rate set.
    #[must_use]
    pub fn new(kind_and_version: &str) -> Self {
        let mut canonical = Self::default();
        canonical.text(kind_and_version);
        canonical
    }

    /// Adds bytes behind their length (64 bits, big-endian).
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.hasher.update(&length.to_be_bytes());
        self.hasher.update(bytes);
        self
    }

    /// Adds text behind its length in bytes.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Adds an unsigned integer, 64 bits, big-endian.
    pub fn unsigned(&mut self, value: u64) -> &mut Self {
        self.hasher.update(&value.to_be_bytes());
        self
    }

    /// Adds a signed integer, 64 bits, big-endian two's complement.
    pub fn signed(&mut self, value: i64) -> &mut Self {
        self.hasher.update(&value.to_be_bytes());
        self
    }

    /// Adds an amount, 128 bits, big-endian two's complement.
    pub fn wide(&mut self, value: i128) -> &mut Self {
        self.hasher.update(&value.to_be_bytes());
        self
    }

    /// Adds whether an optional field follows.
    pub fn present(&mut self, is_present: bool) -> &mut Self {
        self.hasher.update(&[u8::from(is_present)]);
        self
    }

    /// Returns the 128-bit hash of all fields added so far.
    #[must_use]
    pub fn finish128(&self) -> Hash128 {
        first_half(&self.hasher.finalize())
    }

    /// Returns the 256-bit hash of all fields added so far.
    #[must_use]
    pub fn finish256(&self) -> Hash256 {
        Hash256(*self.hasher.finalize().as_bytes())
    }
}

fn first_half(hash: &blake3::Hash) -> Hash128 {
    let mut half = [0; 16];
    half.iter_mut()
        .zip(hash.as_bytes())
        .for_each(|(to, from)| *to = *from);
    Hash128(half)
}
