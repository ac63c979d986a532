//! The counters of one shard, and each in its place.
//!
//! Invariant: what is changed and not sent stands in `changed` once, and a place has one block.
//! Deliberately absent: locks, and which shard a counter lies in ([`super`]).

use std::sync::Arc;

use domain::account::{Counter, Grounds, Origin, Revision};
use domain::decision::{Asked, Verdict};
use domain::feed::Entry;
use domain::limit::{LimitSpec, Moment};
use domain::policy::model::LimitId;
use domain::policy::{CounterKey, Place};
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::Counted;
use super::blocks::Block;

/// A shard on a cache line of its own, so that threads in neighbours do not disturb each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Shard(pub(super) Mutex<Table>);

/// The counters of a shard.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) blocks: HashTable<Block>,
    /// Those with own use that was not sent yet, each once.
    pub(super) changed: Vec<(Place, LimitId)>,
}

/// Where a counter lies in its table: its block, and its position in that. Good until a counter comes or
/// goes.
pub(super) type Found = (usize, usize);

/// One counter in its place. Aligned and in this order, so that a decision meets as few cache lines as
/// can be.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Held {
    pub(super) limit: LimitId,
    /// What the last denial stood on, and when; nothing once that is no longer true.
    pub(super) denied: Option<Box<Denied>>,
    /// Whether it stands among the changed ones.
    pub(super) is_changed: bool,
    pub(super) counter: Counter,
    /// Its name outside of this process.
    pub(super) key: CounterKey,
}

/// What a denial stood on. Many denials follow each other while a counter stays as it is, and taking its
/// grounds takes long where many count.
#[derive(Debug)]
pub(super) struct Denied {
    taken: Moment,
    grounds: Arc<Grounds>,
}

impl Held {
    pub(super) const fn new(limit: LimitId, key: CounterKey, counter: Counter) -> Self {
        Self {
            limit,
            denied: None,
            is_changed: false,
            counter,
            key,
        }
    }

    pub(super) fn entry(&self, revision: Revision) -> Entry {
        Entry {
            limit: self.limit,
            counter: self.key,
            message: self.counter.message(revision),
        }
    }

    /// Returns what a verdict stands on: what the last denial did, as long as that is true.
    pub(super) fn grounds(&mut self, limit: &LimitSpec, moment: Moment) -> Arc<Grounds> {
        let known = self.denied.as_deref();
        let known = known.filter(|denied| denied.grounds.hold(limit, denied.taken, moment));
        if let Some(denied) = known {
            return Arc::clone(&denied.grounds);
        }
        let grounds = Arc::new(self.counter.grounds(limit, moment));
        self.denied = Some(Box::new(Denied {
            taken: moment,
            grounds: Arc::clone(&grounds),
        }));
        grounds
    }
}

impl Table {
    #[inline]
    pub(super) fn block_index(&self, hash: u64, place: Place) -> Option<usize> {
        self.blocks
            .find_bucket_index(hash, |block| block.is_at(place))
    }

    pub(super) fn position(&self, hash: u64, place: Place, limit: LimitId) -> Option<Found> {
        let block = self.block_index(hash, place)?;
        let position = self.blocks.get_bucket(block)?.position(limit, 0)?;
        Some((block, position))
    }

    pub(super) fn find(&self, hash: u64, place: Place, limit: LimitId) -> Option<&Held> {
        let block = self.blocks.find(hash, |block| block.is_at(place))?;
        block.held().get(block.position(limit, 0)?)
    }

    pub(super) fn find_mut(
        &mut self,
        hash: u64,
        place: Place,
        limit: LimitId,
    ) -> Option<&mut Held> {
        let block = self.blocks.find_mut(hash, |block| block.is_at(place))?;
        let position = block.position(limit, 0)?;
        block.get_mut(position)
    }

    #[inline]
    pub(super) fn at(&self, found: Option<Found>) -> Option<&Held> {
        let (block, position) = found?;
        self.blocks.get_bucket(block)?.held().get(position)
    }

    #[inline]
    pub(super) fn at_mut(&mut self, found: Option<Found>) -> Option<&mut Held> {
        let (block, position) = found?;
        self.blocks.get_bucket_mut(block)?.get_mut(position)
    }

    /// Adds a counter of which there is none yet, at its place, and returns its position in its block.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        place: Place,
        held: Held,
        rehash: impl Fn(Place) -> u64,
    ) -> usize {
        match self.blocks.find_mut(hash, |block| block.is_at(place)) {
            Some(block) => block.push(held),
            None => {
                let rehash = |block: &Block| rehash(block.place());
                self.blocks
                    .insert_unique(hash, Block::of(place, held), rehash);
                0
            }
        }
    }

    /// Takes a counter out.
    pub(super) fn take(&mut self, hash: u64, place: Place, limit: LimitId) -> Option<Held> {
        let is_here = |block: &Block| block.is_at(place);
        let mut entry = self.blocks.find_entry(hash, is_here).ok()?;
        let taken = entry.get_mut().take(limit)?;
        if entry.get().held().is_empty() {
            entry.remove();
        }
        Some(taken)
    }

    /// Says what a limit says; of a counter that is not there, what a new one would.
    #[inline]
    pub(super) fn check(
        &mut self,
        found: Option<Found>,
        counted: &Counted<'_>,
        asked: Asked,
        origin: Origin,
    ) -> Verdict {
        match self.at_mut(found) {
            Some(held) => held.counter.check(counted.limit, counted.moment, asked),
            None => Counter::new(counted.limit, origin).check(counted.limit, counted.moment, asked),
        }
    }

    #[inline]
    pub(super) fn charge(&mut self, found: Found, counted: &Counted<'_>) {
        let units = counted.charge.or_zero();
        if units.is_zero() {
            return;
        }
        let (block, position) = found;
        let Some(block) = self.blocks.get_bucket_mut(block) else {
            return;
        };
        let place = block.place();
        if let Some(held) = block.get_mut(position) {
            held.counter.charge(counted.limit, counted.moment, units);
            held.denied = None;
            if !held.is_changed {
                held.is_changed = true;
                self.changed.push((place, held.limit));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_counter_takes_four_cache_lines() {
        assert_eq!(size_of::<Held>(), 256, "{}", size_of::<Counter>());
        // The first holds what all decisions look at, the first slot with it.
        assert_eq!(offset_of!(Held, counter), 32);
    }
}
