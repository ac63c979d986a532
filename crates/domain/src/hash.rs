//! Canonical hashing: BLAKE3 over length-prefixed fields, integers big-endian.
//!
//! Invariant: two different field lists never give the same input bytes, since every variable
//! field carries its length. Deliberately absent: what is hashed; each type says its own fields.

use std::fmt;

use highway::{HighwayHash as _, HighwayHasher, Key};

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

    /// Reads a hash as it is displayed: 32 hexadecimal digits, lower case; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = u128::from_str_radix(text, 16).ok()?;
        let hash = Self(bytes.to_be_bytes());
        (hash.to_string() == text).then_some(hash)
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

/// A key under which content is told apart within one process.
///
/// By `HighwayHash` (<https://arxiv.org/abs/1612.06257>), several times as fast as BLAKE3 on a few
/// bytes. Nobody who does not know the key can make two contents with one hash.
#[derive(Clone, Copy)]
pub struct HashKey(Key);

impl HashKey {
    /// Takes words that were drawn at random, each time anew.
    #[must_use]
    pub const fn new(words: [u64; 4]) -> Self {
        Self(Key(words))
    }

    pub(crate) fn hasher(self) -> HighwayHasher {
        HighwayHasher::new(self.0)
    }

    pub(crate) fn hash(self, bytes: &[u8]) -> [u64; 2] {
        let mut hasher = self.hasher();
        hasher.append(bytes);
        hasher.finalize128()
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

/// How many bytes of fields are hashed at once: BLAKE3 takes sixteen of its chunks side by side, and a
/// field alone has a few bytes of one.
const PIECE_BYTES: usize = 16 * blake3::CHUNK_LEN;

/// Bytes that most lists of fields do not exceed.
const USUAL_BYTES: usize = 256;

/// Collects fields into one canonical hash.
#[derive(Clone, Default)]
pub struct Canonical {
    /// Fields that are not hashed yet; fewer bytes than a piece, and one field.
    pending: Vec<u8>,
    /// The state after the first piece; a hash of few fields needs none.
    hasher: Option<Box<blake3::Hasher>>,
}

impl Canonical {
    /// Starts a hash of one kind of thing; the kind and its version separate domains, so that a
    /// series never has the hash of a rate set.
    #[must_use]
    pub fn new(kind_and_version: &str) -> Self {
        let mut canonical = Self {
            pending: Vec::with_capacity(USUAL_BYTES),
            hasher: None,
        };
        canonical.text(kind_and_version);
        canonical
    }

    fn add(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE_BYTES {
            self.hasher.get_or_insert_default().update(&self.pending);
            self.pending.clear();
        }
    }

    /// Adds bytes behind their length (64 bits, big-endian).
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.add(&length.to_be_bytes());
        self.add(bytes);
        self
    }

    /// Adds text behind its length in bytes.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Adds an unsigned integer, 64 bits, big-endian.
    pub fn unsigned(&mut self, value: u64) -> &mut Self {
        self.add(&value.to_be_bytes());
        self
    }

    /// Adds a signed integer, 64 bits, big-endian two's complement.
    pub fn signed(&mut self, value: i64) -> &mut Self {
        self.add(&value.to_be_bytes());
        self
    }

    /// Adds an amount, 128 bits, big-endian two's complement.
    pub fn wide(&mut self, value: i128) -> &mut Self {
        self.add(&value.to_be_bytes());
        self
    }

    /// Adds whether an optional field follows.
    pub fn present(&mut self, is_present: bool) -> &mut Self {
        self.add(&[u8::from(is_present)]);
        self
    }

    /// Returns the 128-bit hash of all fields added so far.
    #[must_use]
    pub fn finish128(&self) -> Hash128 {
        first_half(&self.finish())
    }

    /// Returns the 256-bit hash of all fields added so far.
    #[must_use]
    pub fn finish256(&self) -> Hash256 {
        Hash256(*self.finish().as_bytes())
    }

    fn finish(&self) -> blake3::Hash {
        match &self.hasher {
            None => blake3::hash(&self.pending),
            Some(hasher) => hasher.clone().update(&self.pending).finalize(),
        }
    }
}

fn first_half(hash: &blake3::Hash) -> Hash128 {
    let mut half = [0; 16];
    half.iter_mut()
        .zip(hash.as_bytes())
        .for_each(|(to, from)| *to = *from);
    Hash128(half)
}
