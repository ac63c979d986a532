//! The counters of this process: one per limit and key, in shards, decided over atomically.
//!
//! Invariant: whoever touches several counters holds the locks of all their shards, waited for in index
//! order alone, from the first check to the last charge; so decisions are as if one came after the other, and
//! a refused ask leaves everything as it was. A counter comes into being when it is first charged or
//! merged, so what is only asked for takes no memory. Deliberately absent: time, names of limits, and
//! who sends what is taken here.

mod blocks;
mod counted;
mod locked;
mod places;
mod room;
mod table;

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::account::{Counter, Message, Origin, ReplicaId, Revision};
use domain::decision::{Asked, Decision, Outcome, Verdict};
use domain::feed::Entry;
use domain::hash::HashKey;
use domain::limit::LimitSpec;
use domain::policy::model::LimitId;
use domain::policy::{CounterKey, Place, Placing};
use domain::time::UnixMs;
use domain::units::Units;
use foldhash::fast::RandomState;
use parking_lot::MutexGuard;
use service::random;
use smallvec::SmallVec;

pub use self::counted::{Consulted, Counted, Named};

use self::locked::{Locked, Purpose};
use self::places::{Places, place_of};
use self::room::Room;
use self::table::{Held, Shard, Table};

/// Shards: so many that threads seldom meet, so few that their locks stay in the cache.
const SHARDS: usize = 512;

/// So many limits of one decision lie on the stack; few requests meet more.
pub const INLINE: usize = 16;

/// What one decision's limits say, in their order; on the stack for as many as most have.
pub type Verdicts = SmallVec<[Verdict; INLINE]>;

/// All counters of this process.
///
/// A counter that was first asked for by a request's values lies at their place, beside those of the
/// same rule; one that only others told of, or that is named by its key, lies where its key says.
#[derive(Debug)]
pub struct Counters {
    origin: Origin,
    hasher: RandomState,
    placing: Placing,
    shards: Box<[Shard]>,
    places: Places,
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
            placing: Placing::new(HashKey::new(random::words())),
            room: Room::new(max),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            places: Places::new(),
            next: AtomicUsize::new(0),
        }
    }

    /// Returns what makes places of requests' values.
    #[must_use]
    pub const fn placing(&self) -> &Placing {
        &self.placing
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
        let mut locked = Locked::new(self, counted, Purpose::Charge);
        let decision = locked.check(counted, None, verdicts);
        match decision.outcome {
            Outcome::Deny => {
                note(&mut locked, &decision);
                decision
            }
            Outcome::Allow => {
                locked.charge(counted);
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
        let mut locked = Locked::new(self, counted, Purpose::Charge);
        locked.check(counted, None, verdicts);
        let is_admitted = admits(verdicts);
        if is_admitted {
            locked.charge(counted);
        }
        is_admitted
    }

    /// Says what [`Counters::decide`] would, and charges nothing.
    pub fn evaluate(&self, counted: &[Counted<'_>], verdicts: &mut Verdicts) -> Decision {
        Locked::new(self, counted, Purpose::Look).check(counted, None, verdicts)
    }

    /// Says what [`Counters::evaluate`] does, and returns the counter of one of the limits, by its place,
    /// as it was at that moment.
    pub fn evaluate_one(
        &self,
        counted: &[Counted<'_>],
        place: usize,
        verdicts: &mut Verdicts,
    ) -> (Decision, Option<Consulted>) {
        let mut locked = Locked::new(self, counted, Purpose::Look);
        let decision = locked.check(counted, None, verdicts);
        (decision, locked.consulted(place, counted))
    }

    /// Charges a report: all limits in full, whatever they say; then says what they say to an ask for
    /// nothing. Tells `lost` the place of each that could not be charged, as there was no room for its
    /// counter; each is noted as one that found none.
    pub fn report(
        &self,
        counted: &[Counted<'_>],
        verdicts: &mut Verdicts,
        mut lost: impl FnMut(usize),
    ) -> Decision {
        let mut locked = Locked::new(self, counted, Purpose::Charge);
        locked.charge(counted);
        for place in locked.uncharged(counted) {
            self.room.refuse();
            lost(place);
        }
        locked.check(counted, Some(Asked::Units(Units::ZERO)), verdicts)
    }

    /// Charges one counter for itself, whatever its limit says, and returns what that says to an ask
    /// for nothing afterwards.
    pub fn charge(&self, counted: &Counted<'_>) -> Verdict {
        let nothing = Asked::Units(Units::ZERO);
        let Named::Key(key) = counted.key else {
            let mut verdicts = Verdicts::new();
            self.report(std::slice::from_ref(counted), &mut verdicts, |_| {});
            return verdicts[0];
        };
        let place = place_of(key);
        let hash = self.hash(place);
        let mut table = self.table_of(hash);
        let mut found = table.position(hash, place, counted.id);
        if found.is_none() && !counted.charge.or_zero().is_zero() {
            if self.room.take() {
                let counter = Counter::new(counted.limit, self.origin);
                let held = Held::new(counted.id, key, counter);
                self.put(&mut table, hash, place, held);
                found = table.position(hash, place, counted.id);
            } else {
                self.room.refuse();
            }
        }
        if let Some(found) = found {
            table.charge(found, counted);
        }
        table.check(found, counted, nothing, self.origin)
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
        self.with_table_of(id, key, |table, hash, place| {
            match table.find_mut(hash, place, id) {
                Some(held) => {
                    held.counter.merge(limit, message);
                    held.denied = None;
                }
                None if message.origin == self.origin => {}
                None => {
                    let mut counter = Counter::new(limit, self.origin);
                    counter.merge(limit, message);
                    // A feed tells of much that is over; it would only be pruned again.
                    if counter.is_idle(limit, now) {
                        return;
                    }
                    if self.room.take() {
                        self.put(table, hash, place, Held::new(id, key, counter));
                    } else {
                        self.room.miss();
                    }
                }
            }
        });
    }

    /// Hands over the table where a counter lies that others name by its key, or where it would.
    fn with_table_of<T>(
        &self,
        id: LimitId,
        key: CounterKey,
        work: impl FnOnce(&mut Table, u64, Place) -> T,
    ) -> T {
        loop {
            let known = self.places.get((id, key));
            let place = known.unwrap_or_else(|| place_of(key));
            let hash = self.hash(place);
            let mut table = self.table_of(hash);
            // It may have moved, or be forgotten, before its lock was had.
            let is_here = match known {
                Some(_) => table.find(hash, place, id).is_some(),
                None => self.places.get((id, key)).is_none(),
            };
            if is_here {
                return work(&mut table, hash, place);
            }
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
            while let Some((place, limit)) = table.changed.pop() {
                let hash = self.hash(place);
                if let Some(held) = table.find_mut(hash, place, limit) {
                    // One that was forgotten and came again may stand there twice.
                    if std::mem::take(&mut held.is_changed) {
                        taken.push((limit, held.key));
                    }
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
            self.with_table_of(limit, key, |table, hash, place| {
                let held = table.find(hash, place, limit);
                held.map(|held| held.entry(revision))
            })
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
            let held = table.blocks.iter().flat_map(|block| block.held());
            let own = held.filter(|held| is_wanted(held.limit) && held.counter.has_own());
            let names: Vec<_> = own.map(|held| (held.limit, held.key)).collect();
            names
        })
    }

    /// Says whether there is such a counter, and own use in it.
    pub(crate) fn has_own(&self, limit: LimitId, key: CounterKey) -> bool {
        self.with_table_of(limit, key, |table, hash, place| {
            let held = table.find(hash, place, limit);
            held.is_some_and(|held| held.counter.has_own())
        })
    }

    /// Forgets what no longer counts, and the counters of limits that are gone. Holds one shard at a
    /// time.
    pub fn prune(&self, now: UnixMs, limit_of: impl Fn(LimitId) -> Option<LimitSpec>) {
        for shard in &self.shards {
            let mut table = shard.0.lock();
            let mut forgotten = 0_usize;
            let mut stays = |place: Place, held: &mut Held| {
                let stays = limit_of(held.limit).is_some_and(|limit| {
                    if held.counter.others().is_some() {
                        held.counter.prune(&limit, now);
                    }
                    // Kept for denials in a row; for good it would be memory without a bound.
                    held.denied = None;
                    !held.counter.is_idle(&limit, now)
                });
                if !stays {
                    self.places.went((held.limit, held.key), place);
                    forgotten = forgotten.saturating_add(1);
                }
                stays
            };
            table.blocks.retain(|block| {
                let place = block.place();
                block.retain(|held| stays(place, held))
            });
            self.room.give(forgotten);
            if forgotten > 0 {
                let Table { blocks, changed } = &mut *table;
                changed.retain(|(place, limit)| {
                    let block = blocks.find(self.hash(*place), |block| block.is_at(*place));
                    block.is_some_and(|block| block.position(*limit, 0).is_some())
                });
                if blocks.len().saturating_mul(4) < blocks.capacity() {
                    let length = blocks.len().saturating_mul(2);
                    blocks.shrink_to(length, |block| self.hash(block.place()));
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
    pub(crate) fn lacks(&self, counted: &Counted<'_>) -> bool {
        let lacks = self.room.is_incomplete() && !self.has(counted);
        if lacks {
            self.room.refuse();
        }
        lacks
    }

    fn has(&self, counted: &Counted<'_>) -> bool {
        let place = counted.key.place();
        let hash = self.hash(place);
        let is_in_place = self.table_of(hash).find(hash, place, counted.id).is_some();
        let is_by_values = matches!(counted.key, Named::Values { .. });
        is_in_place
            || is_by_values
                && self.places.has_any_by_key()
                && self.with_table_of(counted.id, counted.key(), |table, hash, place| {
                    table.find(hash, place, counted.id).is_some()
                })
    }

    /// A place is a hash already; the seed keeps whoever chooses keys from choosing shards.
    #[inline]
    fn hash(&self, place: Place) -> u64 {
        let Place([high, low]) = place;
        self.hasher.hash_one(high.rotate_left(32) ^ low)
    }

    /// The table within a shard goes by the other bits.
    #[inline]
    fn shard_of(&self, hash: u64) -> usize {
        let high = usize::try_from(hash >> 32).unwrap_or_default();
        high.checked_rem(self.shards.len()).unwrap_or_default()
    }

    fn table_of(&self, hash: u64) -> MutexGuard<'_, Table> {
        // There is at least one shard, and the index is below their number.
        self.shards[self.shard_of(hash)].0.lock()
    }

    /// Puts a counter at its place, for which room was taken, and returns its position in its block.
    fn put(&self, table: &mut Table, hash: u64, place: Place, held: Held) -> usize {
        self.places.came((held.limit, held.key), place);
        table.insert(hash, place, held, |place| self.hash(place))
    }
}

#[cfg(test)]
mod tests;
