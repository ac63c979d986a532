//! Where counters lie, by the keys that others know them by.
//!
//! Invariant: a key stands here exactly while its counter lies at a place of its own, for whoever holds
//! the lock of that place's shard; those that lie where their keys say are only numbered. Its locks are
//! held for one look and nothing is locked under them.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};

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

type Part = Mutex<HashTable<(CounterKey, Place)>>;

/// What one key takes in a table, in bytes.
#[cfg(test)]
pub(super) const ENTRY_BYTES: usize = size_of::<(CounterKey, Place)>();

/// Returns where a counter lies of which nobody asked by values yet.
pub(super) const fn place_of(key: CounterKey) -> Place {
    Place(u128::from_le_bytes(key.0.to_bytes()))
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
    pub(super) fn get(&self, key: CounterKey) -> Option<Place> {
        let hash = self.hasher.hash_one(key);
        let part = self.part(hash)?.lock();
        let found = part.find(hash, |(known, _)| *known == key);
        found.map(|(_, place)| *place)
    }

    /// Says whether any counter lies where its key says.
    pub(super) fn has_any_by_key(&self) -> bool {
        self.by_key.load(Ordering::Relaxed) > 0
    }

    /// Notes where a counter lies from now on.
    pub(super) fn came(&self, key: CounterKey, place: Place) {
        if place == place_of(key) {
            self.by_key.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let hash = self.hasher.hash_one(key);
        if let Some(part) = self.part(hash) {
            let rehash = |(key, _): &(CounterKey, Place)| self.hasher.hash_one(key);
            part.lock().insert_unique(hash, (key, place), rehash);
        }
    }

    /// Notes that a counter lies there no longer.
    pub(super) fn went(&self, key: CounterKey, place: Place) {
        if place == place_of(key) {
            self.by_key.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let hash = self.hasher.hash_one(key);
        if let Some(part) = self.part(hash) {
            let mut part = part.lock();
            if let Ok(entry) = part.find_entry(hash, |(known, _)| *known == key) {
                entry.remove();
            }
            if part.len().saturating_mul(4) < part.capacity() {
                let length = part.len().saturating_mul(2);
                part.shrink_to(length, |(key, _)| self.hasher.hash_one(key));
            }
        }
    }

    fn part(&self, hash: u64) -> Option<&Part> {
        let high = usize::try_from(hash >> 32).unwrap_or_default();
        self.parts.get(high.checked_rem(self.parts.len())?)
    }
}
