//! The keys of objects while these are read: none may occur twice in one object.
//!
//! Invariant: keys are equal where their texts are, however they are escaped; an object of n keys
//! takes at most n log n steps. Deliberately absent: which keys matter.

use std::borrow::Cow;
use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::value::Span;

/// Above this many keys an object's keys are looked up in a tree, so that an object of many keys
/// takes n log n steps, not n².
const LINEAR_KEYS_MAX: usize = 64;

/// The keys of the objects that are open, innermost last.
pub(super) struct KeyStack {
    hashes: SmallVec<[u64; LINEAR_KEYS_MAX]>,
    spans: SmallVec<[Span; LINEAR_KEYS_MAX]>,
    is_checked: bool,
}

/// The keys of one open object: from where on the stack, and all of them where they are many.
pub(super) struct OpenKeys<'a> {
    base: usize,
    /// A bit for each key's hash: where it is not set, the key is new.
    seen: [u64; 8],
    many: Option<BTreeSet<Cow<'a, str>>>,
}

/// The object has this key already.
pub(super) struct Twice;

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
    pub(super) const fn checking() -> Self {
        Self {
            hashes: SmallVec::new_const(),
            spans: SmallVec::new_const(),
            is_checked: true,
        }
    }

    pub(super) const fn unchecked() -> Self {
        Self {
            hashes: SmallVec::new_const(),
            spans: SmallVec::new_const(),
            is_checked: false,
        }
    }

    pub(super) fn open<'a>(&self) -> OpenKeys<'a> {
        OpenKeys {
            base: self.hashes.len(),
            seen: [0; 8],
            many: None,
        }
    }

    pub(super) fn add<'a>(
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
            if equal.any(|(_, span)| span.text(text) == key) {
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
                    .map(|s| s.text(text))
                    .collect(),
            );
        }
        Ok(())
    }

    pub(super) fn close(&mut self, open: &OpenKeys<'_>) {
        self.hashes.truncate(open.base);
        self.spans.truncate(open.base);
    }
}

/// Hashes a key by its length and its first, middle and last eight bytes: without a loop, whose end
/// the processor would guess wrong for each key. Not against an adversary: equal hashes are compared,
/// and an object of many keys does not use it.
pub(in crate::decode) fn hash_key(key: &[u8]) -> u64 {
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
