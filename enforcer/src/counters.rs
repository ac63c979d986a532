//! The counters of this process: one per limit and key, in shards, decided over atomically.
//!
//! Invariant: whoever touches several counters holds the locks of all their shards, taken in index
//! order, from the first check to the last charge; so decisions are as if one came after the other, and
//! a refused ask leaves everything as it was. A counter comes into being when it is first charged or
//! merged, so what is only asked for takes no memory. Deliberately absent: time, names of limits, and
//! who sends what is taken here.

mod locked;
mod room;
mod table;

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::account::{Counter, Grounds, Message, Origin, ReplicaId, Revision};
use domain::decision::{Asked, Decision, Outcome, Verdict};
use domain::feed::Entry;
use domain::limit::{LimitSpec, Moment};
use domain::policy::CounterKey;
use domain::policy::model::LimitId;
use domain::time::UnixMs;
use domain::units::Units;
use foldhash::fast::RandomState;
use parking_lot::MutexGuard;
use smallvec::SmallVec;

use self::locked::Locked;
use self::room::Room;
use self::table::{Held, Shard, Table};

/// Shards: so many that threads seldom meet, so few that their locks stay in the cache.
const SHARDS: usize = 512;

/// So many limits of one decision lie on the stack; few requests meet more.
pub const INLINE: usize = 16;

/// What one decision's limits say, in their order; on the stack for as many as most have.
pub type Verdicts = SmallVec<[Verdict; INLINE]>;

/// One limit as one decision meets it. No two of a decision may have the same limit and key.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    /// The limit.
    pub limit: &'a LimitSpec,
    /// Its identity.
    pub id: LimitId,
    /// Which of its counters.
    pub key: CounterKey,
    /// Now, and the limit's slot that holds it.
    pub moment: Moment,
    /// What must fit.
    pub asked: Asked,
    /// What is charged where the request may go; nothing where it is negative.
    pub charge: Units,
}

/// The counter that a refusal stands on, as it was when the refusal was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consulted {
    /// Which counter.
    pub counter: CounterKey,
    /// What the verdict stands on; denials by the same numbers share it.
    pub grounds: Arc<Grounds>,
}

/// All counters of this process.
#[derive(Debug)]
pub struct Counters {
    origin: Origin,
    hasher: RandomState,
    shards: Box<[Shard]>,
    room: Room,
    /// Where the next call of `take_changed` begins, so that no shard waits forever.
    next: AtomicUsize,
}

impl Counters {
    /// Begins with no counters; `replica` is who counts here. There will be at most `max`.
    pub fn new(replica: ReplicaId, max: usize) -> Self {
        Self::with_shards(replica, max, SHARDS)
    }

    fn with_shards(replica: ReplicaId, max: usize, shards: usize) -> Self {
        Self {
            origin: Origin::Replica(replica),
            hasher: RandomState::default(),
            room: Room::new(max),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Decides an ask: checks all limits, then charges all of them or none, as one step. `verdicts`
    /// receives what each found before the charge, in order; `reset` alone is that of after it.
    pub fn decide(&self, counted: &[Counted<'_>], verdicts: &mut Verdicts) -> Decision {
        self.decide_noting(counted, verdicts, |_locked, _decision| ())
    }

    /// Decides as [`Counters::decide`] does; of a denial also returns the counter of the limit that
    /// binds, as it was at that moment.
    pub fn decide_or_say_why(
        &self,
        counted: &[Counted<'_>],
        verdicts: &mut Verdicts,
    ) -> (Decision, Option<Consulted>) {
        let mut consulted = None;
        let decision = self.decide_noting(counted, verdicts, |locked, decision| {
            consulted = decision
                .binding
                .and_then(|binding| locked.consulted(binding, counted));
        });
        (decision, consulted)
    }

    /// Decides; of a denial tells `note` before the locks are let go.
    fn decide_noting(
        &self,
        counted: &[Counted<'_>],
        verdicts: &mut Verdicts,
        note: impl FnOnce(&mut Locked<'_>, &Decision),
    ) -> Decision {
        let mut locked = Locked::new(self, counted);
        let decision = locked.check(counted, None, verdicts);
        match decision.outcome {
            Outcome::Deny => {
                note(&mut locked, &decision);
                decision
            }
            Outcome::Allow => {
                if locked.charge(counted) {
                    locked.find(counted);
                }
                locked.reset(counted, verdicts);
                let bound = decision
                    .binding
                    .and_then(|binding| Some((counted.get(binding)?, verdicts.get(binding)?)));
                bound.map_or(decision, |(counted, verdict)| {
                    decision.after(counted.charge.or_zero(), verdict.reset)
                })
            }
        }
    }

    /// Checks all limits, then charges all of them where `admits` says so of what they found, as one
    /// step; says whether it did. For protocols with a word of their own on what refuses.
    pub(crate) fn charge_if(
        &self,
        counted: &[Counted<'_>],
        verdicts: &mut Verdicts,
        admits: impl FnOnce(&[Verdict]) -> bool,
    ) -> bool {
        let mut locked = Locked::new(self, counted);
        locked.check(counted, None, verdicts);
        let is_admitted = admits(verdicts);
        if is_admitted {
            locked.charge(counted);
        }
        is_admitted
    }

    /// Says what [`Counters::decide`] would, and charges nothing.
    pub fn evaluate(&self, counted: &[Counted<'_>], verdicts: &mut Verdicts) -> Decision {
        Locked::new(self, counted).check(counted, None, verdicts)
    }

    /// Says what [`Counters::evaluate`] does, and returns the counter of one of the limits, by its place,
    /// as it was at that moment.
    pub fn evaluate_one(
        &self,
        counted: &[Counted<'_>],
        place: usize,
        verdicts: &mut Verdicts,
    ) -> (Decision, Option<Consulted>) {
        let mut locked = Locked::new(self, counted);
        let decision = locked.check(counted, None, verdicts);
        (decision, locked.consulted(place, counted))
    }

    /// Charges a report: all limits in full, whatever they say; then says what they say to an ask for
    /// nothing.
    pub fn report(&self, counted: &[Counted<'_>], verdicts: &mut Verdicts) -> Decision {
        let mut locked = Locked::new(self, counted);
        if locked.charge(counted) {
            locked.find(counted);
        }
        locked.check(counted, Some(Asked::Units(Units::ZERO)), verdicts)
    }

    /// Charges one counter for itself, whatever its limit says, and returns what that says to an ask
    /// for nothing afterwards.
    pub fn charge(&self, counted: &Counted<'_>) -> Verdict {
        let nothing = Asked::Units(Units::ZERO);
        let hash = self.hash(counted.id, counted.key);
        let mut table = self.table_of(hash);
        match table.find(hash, counted.id, counted.key) {
            None if counted.charge.or_zero().is_zero() => {
                let mut counter = Counter::new(counted.limit, self.origin);
                counter.check(counted.limit, counted.moment, nothing)
            }
            None => {
                self.charge_new(&mut table, hash, counted);
                let bucket = table.find(hash, counted.id, counted.key);
                table.check(bucket, counted, nothing, self.origin)
            }
            Some(bucket) => {
                table.charge(bucket, counted);
                table.check(Some(bucket), counted, nothing, self.origin)
            }
        }
    }

    /// Merges what another origin says of a counter; `limit` only for its algorithm. What this process
    /// sent itself and reads again changes nothing.
    pub fn merge(
        &self,
        id: LimitId,
        key: CounterKey,
        limit: &LimitSpec,
        message: Message,
        now: UnixMs,
    ) {
        let hash = self.hash(id, key);
        let mut table = self.table_of(hash);
        if let Some(bucket) = table.find(hash, id, key) {
            if let Some(held) = table.held.get_bucket_mut(bucket) {
                held.counter.merge(limit, message);
                held.denied = None;
            }
            return;
        }
        if message.origin == self.origin {
            return;
        }
        let mut counter = Counter::new(limit, self.origin);
        counter.merge(limit, message);
        // A feed tells of much that is over; it would only be pruned again.
        if !counter.is_idle(limit, now) && self.insert(&mut table, hash, id, key, counter).is_none()
        {
            self.room.miss();
        }
    }

    /// Takes own use that changed since the last call: absolute, at most `max` counters, which then
    /// count as sent.
    pub fn take_changed(&self, max: usize, revision: Revision) -> Vec<Entry> {
        self.own_of(self.take_changed_names(max), revision)
    }

    /// Takes the names of the counters whose own use changed since the last call, at most `max`, which
    /// then count as sent: for whoever sends them in more than one way, and asks [`Counters::own_of`].
    pub fn take_changed_names(&self, max: usize) -> Vec<(LimitId, CounterKey)> {
        let mut taken = Vec::new();
        let begin = self.next.load(Ordering::Relaxed);
        for step in 0..self.shards.len() {
            let index = begin.saturating_add(step) % self.shards.len();
            let Some(shard) = self.shards.get(index) else {
                continue;
            };
            let mut table = shard.0.lock();
            while let Some((limit, key)) = table.changed.pop() {
                let hash = self.hash(limit, key);
                let held = table.held.find_mut(hash, |held| held.is(limit, key));
                if let Some(held) = held {
                    held.is_changed = false;
                    taken.push((limit, key));
                }
                if taken.len() >= max {
                    self.next.store(index, Ordering::Relaxed);
                    return taken;
                }
            }
        }
        taken
    }

    /// Returns own use of some counters; nothing of those that are gone.
    pub fn own_of(
        &self,
        names: impl IntoIterator<Item = (LimitId, CounterKey)>,
        revision: Revision,
    ) -> Vec<Entry> {
        let entries = names.into_iter().filter_map(|(limit, key)| {
            let hash = self.hash(limit, key);
            let table = self.table_of(hash);
            let held = table.held.find(hash, |held| held.is(limit, key));
            held.map(|held| held.entry(revision))
        });
        entries.collect()
    }

    /// Returns the names of all counters whose limits are wanted and that hold own use.
    pub fn own_names(
        &self,
        is_wanted: impl Fn(LimitId) -> bool,
    ) -> impl Iterator<Item = (LimitId, CounterKey)> {
        self.shards.iter().flat_map(move |shard| {
            let table = shard.0.lock();
            let held = table.held.iter();
            let own = held.filter(|held| is_wanted(held.limit) && held.counter.has_own());
            let names: Vec<_> = own.map(|held| (held.limit, held.key)).collect();
            names
        })
    }

    /// Says whether there is such a counter, and own use in it.
    pub(crate) fn has_own(&self, limit: LimitId, key: CounterKey) -> bool {
        let hash = self.hash(limit, key);
        let table = self.table_of(hash);
        let held = table.held.find(hash, |held| held.is(limit, key));
        held.is_some_and(|held| held.counter.has_own())
    }

    /// Forgets what no longer counts, and the counters of limits that are gone. Holds one shard at a
    /// time.
    pub fn prune(&self, now: UnixMs, limit_of: impl Fn(LimitId) -> Option<LimitSpec>) {
        for shard in &self.shards {
            let mut table = shard.0.lock();
            let before = table.held.len();
            table.held.retain(|held| {
                limit_of(held.limit).is_some_and(|limit| {
                    if held.counter.others().is_some() {
                        held.counter.prune(&limit, now);
                    }
                    // Kept for denials in a row; for good it would be memory without a bound.
                    held.denied = None;
                    !held.counter.is_idle(&limit, now)
                })
            });
            let forgotten = before.saturating_sub(table.held.len());
            self.room.give(forgotten);
            if forgotten > 0 {
                let Table { held, changed } = &mut *table;
                changed.retain(|(limit, key)| {
                    let hash = self.hash(*limit, *key);
                    held.find(hash, |held| held.is(*limit, *key)).is_some()
                });
                if held.len().saturating_mul(4) < held.capacity() {
                    held.shrink_to(held.len().saturating_mul(2), |held| {
                        self.hash(held.limit, held.key)
                    });
                }
            }
        }
    }

    /// Returns how many counters there are.
    pub fn count(&self) -> usize {
        self.room.count()
    }

    /// Says whether there is no room for a new one. Those that are there count on.
    pub fn is_full(&self) -> bool {
        self.room.is_full()
    }

    /// Returns how many found no room so far.
    pub(crate) fn refused(&self) -> u64 {
        self.room.refused()
    }

    /// Says whether a counter that is not there may lack for want of room.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.room.is_incomplete()
    }

    /// Returns how many were told so far that found no room, once there is room again and they were not
    /// all read again.
    pub(crate) fn missed(&self) -> Option<u64> {
        self.room.missed()
    }

    /// Notes that all was merged again which had been missed until then.
    pub(crate) fn heal(&self, missed: u64) {
        self.room.heal(missed);
    }

    /// Says whether a counter lacks that there is, or was, no room for: nobody knows what it would hold.
    pub(crate) fn lacks(&self, limit: LimitId, key: CounterKey) -> bool {
        if !self.room.is_incomplete() {
            return false;
        }
        let hash = self.hash(limit, key);
        let lacks = self.table_of(hash).find(hash, limit, key).is_none();
        if lacks {
            self.room.refuse();
        }
        lacks
    }

    /// Both are the beginnings of hashes already; the seed keeps whoever chooses keys from choosing
    /// shards.
    fn hash(&self, limit: LimitId, key: CounterKey) -> u64 {
        let [limit, key] = [limit.0, key.0].map(|hash| {
            let [a, b, c, d, e, f, g, h, ..] = hash.to_bytes();
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        });
        self.hasher.hash_one(limit.rotate_left(32) ^ key)
    }

    /// The table within a shard goes by the other bits.
    fn shard_of(&self, hash: u64) -> usize {
        let high = usize::try_from(hash >> 32).unwrap_or_default();
        high.checked_rem(self.shards.len()).unwrap_or_default()
    }

    fn table_of(&self, hash: u64) -> MutexGuard<'_, Table> {
        // There is at least one shard, and the index is below their number.
        self.shards[self.shard_of(hash)].0.lock()
    }

    fn charge_new(&self, table: &mut Table, hash: u64, counted: &Counted<'_>) {
        let counter = Counter::new(counted.limit, self.origin);
        if let Some(bucket) = self.insert(table, hash, counted.id, counted.key, counter) {
            table.charge(bucket, counted);
        }
    }

    /// Adds a counter and says where it lies; nowhere where there is no room.
    fn insert(
        &self,
        table: &mut Table,
        hash: u64,
        limit: LimitId,
        key: CounterKey,
        counter: Counter,
    ) -> Option<usize> {
        if !self.room.take() {
            return None;
        }
        let held = Held {
            limit,
            key,
            is_changed: false,
            counter,
            denied: None,
        };
        let rehash = |held: &Held| self.hash(held.limit, held.key);
        let inserted = table.held.insert_unique(hash, held, rehash);
        Some(inserted.bucket_index())
    }
}

#[cfg(test)]
mod tests;
