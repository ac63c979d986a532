//! The counters of one shard, and each in its place.
//!
//! Invariant: what is changed and not sent stands in `changed` once. Deliberately absent: locks, and
//! which shard a counter lies in ([`super`]).

use std::sync::Arc;

use domain::account::{Counter, Grounds, Origin, Revision};
use domain::decision::{Asked, Verdict};
use domain::feed::Entry;
use domain::limit::{LimitSpec, Moment};
use domain::policy::CounterKey;
use domain::policy::model::LimitId;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::Counted;

/// A shard on a cache line of its own, so that threads in neighbours do not disturb each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Shard(pub(super) Mutex<Table>);

/// The counters of a shard.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) held: HashTable<Held>,
    /// Those with own use that was not sent yet, each once.
    pub(super) changed: Vec<(LimitId, CounterKey)>,
}

/// One counter in its place.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) limit: LimitId,
    pub(super) key: CounterKey,
    /// Whether it stands among the changed ones.
    pub(super) is_changed: bool,
    pub(super) counter: Counter,
    /// What the last denial stood on, and when; nothing once that is no longer true.
    pub(super) denied: Option<Box<Denied>>,
}

/// What a denial stood on. Many denials follow each other while a counter stays as it is, and taking its
/// grounds takes long where many count.
#[derive(Debug)]
pub(super) struct Denied {
    taken: Moment,
    grounds: Arc<Grounds>,
}

impl Table {
    pub(super) fn find(&self, hash: u64, limit: LimitId, key: CounterKey) -> Option<usize> {
        self.held
            .find_bucket_index(hash, |held| held.is(limit, key))
    }

    /// Says what a limit says; of a counter that is not there, what a new one would.
    pub(super) fn check(
        &mut self,
        bucket: Option<usize>,
        counted: &Counted<'_>,
        asked: Asked,
        origin: Origin,
    ) -> Verdict {
        let held = bucket.and_then(|bucket| self.held.get_bucket_mut(bucket));
        match held {
            Some(held) => held.counter.check(counted.limit, counted.moment, asked),
            None => Counter::new(counted.limit, origin).check(counted.limit, counted.moment, asked),
        }
    }

    pub(super) fn charge(&mut self, bucket: usize, counted: &Counted<'_>) {
        let units = counted.charge.or_zero();
        if units.is_zero() {
            return;
        }
        if let Some(held) = self.held.get_bucket_mut(bucket) {
            held.counter.charge(counted.limit, counted.moment, units);
            held.denied = None;
            if !held.is_changed {
                held.is_changed = true;
                self.changed.push((held.limit, held.key));
            }
        }
    }
}

impl Held {
    pub(super) fn is(&self, limit: LimitId, key: CounterKey) -> bool {
        self.key == key && self.limit == limit
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
