//! Where counters lie, by the limits and keys that others know them by.
//!
//! Invariant: a counter stands here exactly while it lies at a place of its own, for whoever holds the
//! lock of that place's shard; a key alone names none, since others may tell any key of any limit. Those
//! that lie where their keys say are only numbered. Its locks are held for one look, and nothing is locked
//! under them.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::policy::model::LimitId;
use domain::policy::{CounterKey, Place};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

/// Parts with a lock each.
const PARTS: usize = 64;

/// Places by key.
#[derive(Debug)]
pub(super) struct Places {
    hasher: RandomState,
    parts: Box<[Part]>,
    /// How many lie where their keys say.
    by_key: AtomicUsize,
}

/// What others know a counter by.
type Name = (LimitId, CounterKey);

type Part = Mutex<HashTable<(Name, Place)>>;

/// What one name takes in a table, in bytes.
#[cfg(test)]
pub(super) const ENTRY_BYTES: usize = size_of::<(Name, Place)>();

/// Returns where a counter lies of which nobody asked by values yet.
pub(super) const fn place_of(key: CounterKey) -> Place {
    let [a, b, c, d, e, f, g, h, rest @ ..] = key.0.to_bytes();
    Place([
        u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        u64::from_le_bytes(rest),
    ])
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::default(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            by_key: AtomicUsize::new(0),
        }
    }

    /// Returns the place of its own where a counter lies.
    pub(super) fn get(&self, name: Name) -> Option<Place> {
        let hash = self.hasher.hash_one(name);
        let part = self.part(hash)?.lock();
        let found = part.find(hash, |(known, _)| *known == name);
        found.map(|(_, place)| *place)
    }

    /// Says whether any counter lies where its key says.
    pub(super) fn has_any_by_key(&self) -> bool {
        self.by_key.load(Ordering::Relaxed) > 0
    }

    /// Notes where a counter lies from now on.
    pub(super) fn came(&self, name: Name, place: Place) {
        if place == place_of(name.1) {
            self.by_key.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let hash = self.hasher.hash_one(name);
        if let Some(part) = self.part(hash) {
            let rehash = |(name, _): &(Name, Place)| self.hasher.hash_one(name);
            let mut part = part.lock();
            debug_assert!(
                part.find(hash, |(known, _)| *known == name).is_none(),
                "a counter comes to one place of its own"
            );
            part.insert_unique(hash, (name, place), rehash);
        }
    }

    /// Notes that a counter lies there no longer.
    pub(super) fn went(&self, name: Name, place: Place) {
        if place == place_of(name.1) {
            self.by_key.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let hash = self.hasher.hash_one(name);
        if let Some(part) = self.part(hash) {
            let mut part = part.lock();
            if let Ok(entry) = part.find_entry(hash, |known| *known == (name, place)) {
                entry.remove();
            }
            if part.len().saturating_mul(4) < part.capacity() {
                let length = part.len().saturating_mul(2);
                part.shrink_to(length, |(name, _)| self.hasher.hash_one(name));
            }
        }
    }

    fn part(&self, hash: u64) -> Option<&Part> {
        let high = usize::try_from(hash >> 32).unwrap_or_default();
        self.parts.get(high.checked_rem(self.parts.len())?)
    }
}
