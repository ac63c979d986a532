//! What a decision does while it holds the locks of its shards: find, check, charge.
//!
//! Invariant: no lock is waited for while another is held, but in index order; all are let go together at
//! its end. A counter comes to a place of its own only under the locks of both that and its key, so there
//! is never a second one. Deliberately absent: what a shard holds ([`super::table`]).

use std::sync::Arc;

use domain::account::Counter;
use domain::decision::{Asked, Decision, Verdict, Weighing};
use domain::limit::Algorithm;
use domain::policy::{CounterKey, Place};
use domain::window::WindowSpec;
use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::places::place_of;
use super::table::{Found, Held, Table};
use super::{Consulted, Counted, Counters, INLINE, Named, Verdicts};

/// What locks are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Counters that are not there stay away.
    Look,
    /// They come to be, where there is room.
    Charge,
}

/// The locks of one decision, and where its counters lie under them.
#[derive(Debug)]
pub(super) struct Locked<'c> {
    counters: &'c Counters,
    shards: SmallVec<[usize; INLINE]>,
    tables: SmallVec<[MutexGuard<'c, Table>; INLINE]>,
    spots: SmallVec<[Spot; INLINE]>,
    /// Whether any counter lay where its key says when it began: then each may. Else only those need
    /// their keys that come to be.
    has_any_by_key: bool,
}

/// Where the counter of one limit of a decision lies.
#[derive(Debug, Clone, Copy)]
struct Spot {
    place: Place,
    hash: u64,
    shard: usize,
    /// Which of the locked shards.
    table: usize,
    /// Absent where there is no such counter yet.
    found: Option<Found>,
    /// Its key, where the shard of that is locked, too.
    key: Option<CounterKey>,
}

impl<'c> Locked<'c> {
    /// Locks the shards of all counters in index order, each once, and finds the counters.
    pub(super) fn new(counters: &'c Counters, counted: &[Counted<'_>], purpose: Purpose) -> Self {
        // What is locked is written where it is returned, as moving it costs as much as a look-up.
        let mut locked = Self {
            counters,
            shards: SmallVec::new(),
            tables: SmallVec::new(),
            spots: SmallVec::new(),
            has_any_by_key: counters.places.has_any_by_key(),
        };
        for counted in counted {
            let place = counted.key.place();
            // The limits of a rule come one after the other.
            if let Some(before) = locked.spots.last().filter(|before| before.place == place) {
                let spot = *before;
                locked.spots.push(spot);
                continue;
            }
            let hash = counters.hash(place);
            let shard = counters.shard_of(hash);
            if !locked.shards.contains(&shard) {
                locked.shards.push(shard);
            }
            locked.spots.push(Spot {
                place,
                hash,
                shard,
                table: 0,
                found: None,
                key: None,
            });
        }
        locked.lock();
        let may_come = purpose == Purpose::Charge && !counters.room.is_full();
        while !locked.find(counted) && (locked.has_any_by_key || may_come) {
            locked.look_by_key(counted);
        }
        locked
    }

    /// Takes the locks.
    fn lock(&mut self) {
        self.shards.sort_unstable();
        let known = self.shards.iter();
        let known = known.filter_map(|shard| self.counters.shards.get(*shard));
        self.tables.extend(known.map(|shard| shard.0.lock()));
        if self.shards.len() > 1 {
            for spot in &mut self.spots {
                let table = self.shards.iter().position(|shard| *shard == spot.shard);
                spot.table = table.unwrap_or_default();
            }
        }
    }

    /// Finds the counters; says whether none of those that are not there might lie where its key says.
    fn find(&mut self, counted: &[Counted<'_>]) -> bool {
        let mut is_certain = true;
        let mut before: Option<(Place, Option<usize>, usize)> = None;
        for (spot, counted) in self.spots.iter_mut().zip(counted) {
            let Some(table) = self.tables.get(spot.table) else {
                continue;
            };
            let (block, likely) = match before {
                Some((place, block, likely)) if place == spot.place => (block, likely),
                _ => (table.block_index(spot.hash, spot.place), 0),
            };
            let found = block.and_then(|block| table.blocks.get_bucket(block));
            let position = found.and_then(|block| block.position(counted.id, likely));
            spot.found = block.zip(position);
            let likely = position.map_or(likely, |position| position.saturating_add(1));
            before = Some((spot.place, block, likely));
            is_certain &= position.is_some()
                || spot.key.is_some()
                || !needs_key(counted, self.has_any_by_key);
        }
        is_certain
    }

    /// Looks whether counters that are not at their places lie where their keys say, as those do that
    /// only others told of, and puts them in their places. The locks of those keys are kept.
    #[cold]
    fn look_by_key(&mut self, counted: &[Counted<'_>]) {
        for (spot, counted) in self.spots.iter_mut().zip(counted) {
            if spot.found.is_none() && needs_key(counted, self.has_any_by_key) {
                spot.key = Some(counted.key());
            }
        }
        if !self.lock_keys() {
            // Somebody holds one of them: all are taken in order, and what was found may have moved.
            self.tables.clear();
            let keys = self.spots.iter().filter_map(|spot| spot.key);
            let more: SmallVec<[usize; INLINE]> = keys
                .map(|key| self.counters.shard_of(self.counters.hash(place_of(key))))
                .collect();
            self.shards.extend(more);
            self.shards.sort_unstable();
            self.shards.dedup();
            self.lock();
        }
        for index in 0..self.spots.len() {
            let (Some(spot), Some(counted)) = (self.spots.get(index), counted.get(index)) else {
                continue;
            };
            let spot = *spot;
            let held = spot.key.and_then(|key| self.take_by_key(key, counted));
            if let Some(held) = held {
                let _found_again_by_the_caller = self.put(spot, held);
            }
        }
    }

    /// Takes the locks of the keys without waiting for any; says whether all could be had.
    fn lock_keys(&mut self) -> bool {
        for spot in &self.spots {
            let Some(key) = spot.key else {
                continue;
            };
            let shard = self.counters.shard_of(self.counters.hash(place_of(key)));
            if self.shards.contains(&shard) {
                continue;
            }
            let table = self.counters.shards.get(shard);
            let Some(table) = table.and_then(|table| table.0.try_lock()) else {
                return false;
            };
            // Behind those that spots know by number.
            self.shards.push(shard);
            self.tables.push(table);
        }
        true
    }

    fn take_by_key(&mut self, key: CounterKey, counted: &Counted<'_>) -> Option<Held> {
        let place = place_of(key);
        let hash = self.counters.hash(place);
        let shard = self.counters.shard_of(hash);
        let table = self.shards.iter().position(|known| *known == shard)?;
        let held = self.tables.get_mut(table)?.take(hash, place, counted.id)?;
        self.counters.places.went((counted.id, key), place);
        Some(held)
    }

    /// Puts a counter at its place, for which room was taken, and returns where that is.
    fn put(&mut self, spot: Spot, held: Held) -> Option<Found> {
        let table = self.tables.get_mut(spot.table)?;
        if held.is_changed {
            // Where it lay it is no longer found.
            table.changed.push((spot.place, held.limit));
        }
        let position = self.counters.put(table, spot.hash, spot.place, held);
        Some((table.block_index(spot.hash, spot.place)?, position))
    }

    /// Asks all limits; `instead` replaces what each is asked.
    #[inline]
    pub(super) fn check(
        &mut self,
        counted: &[Counted<'_>],
        instead: Option<Asked>,
        verdicts: &mut Verdicts,
    ) -> Decision {
        verdicts.clear();
        let mut weighing = Weighing::default();
        for (index, (spot, counted)) in self.spots.iter().zip(counted).enumerate() {
            if let Some(table) = self.tables.get_mut(spot.table) {
                let asked = instead.unwrap_or(counted.asked);
                let verdict = table.check(spot.found, counted, asked, self.counters.origin);
                weighing.take(index, counted.limit.enforce(), &verdict);
                verdicts.push(verdict);
            }
        }
        weighing.decision()
    }

    /// Returns the counter of one limit as it is; of one that is not there, what a new one would be.
    pub(super) fn consulted(&mut self, index: usize, counted: &[Counted<'_>]) -> Option<Consulted> {
        let (spot, counted) = (self.spots.get(index)?, counted.get(index)?);
        let (counter, grounds) = match self.tables.get_mut(spot.table)?.at_mut(spot.found) {
            Some(held) => (held.key, held.grounds(counted.limit, counted.moment)),
            None => {
                let counter = Counter::new(counted.limit, self.counters.origin);
                let grounds = counter.grounds(counted.limit, counted.moment);
                (counted.key(), Arc::new(grounds))
            }
        };
        Some(Consulted { counter, grounds })
    }

    /// Writes when each limit that was charged is free again, where that depends on its use.
    #[inline]
    pub(super) fn reset(&self, counted: &[Counted<'_>], verdicts: &mut [Verdict]) {
        for ((spot, counted), verdict) in self.spots.iter().zip(counted).zip(verdicts) {
            let is_tiled = matches!(
                counted.limit.algorithm(),
                Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_))
            );
            if is_tiled || counted.charge.or_zero().is_zero() {
                continue;
            }
            let table = self.tables.get(spot.table);
            if let Some(held) = table.and_then(|table| table.at(spot.found)) {
                verdict.reset = held.counter.reset(counted.limit, counted.moment);
            }
        }
    }

    /// Charges all limits, and makes the counters that are not there yet, where there is room.
    #[inline]
    pub(super) fn charge(&mut self, counted: &[Counted<'_>]) {
        let mut makes_new = false;
        for (spot, counted) in self.spots.iter().zip(counted) {
            match (spot.found, self.tables.get_mut(spot.table)) {
                (Some(found), Some(table)) => table.charge(found, counted),
                (None, Some(_)) => makes_new |= !counted.charge.or_zero().is_zero(),
                (Some(_) | None, None) => {}
            }
        }
        if makes_new {
            self.charge_new(counted);
        }
    }

    /// Returns the places of the limits that were to be charged and have no counter still.
    pub(super) fn uncharged(&self, counted: &[Counted<'_>]) -> impl Iterator<Item = usize> {
        let both = self.spots.iter().zip(counted).enumerate();
        let lost = both.filter(|(_, (spot, counted))| {
            spot.found.is_none() && !counted.charge.or_zero().is_zero()
        });
        lost.map(|(place, _)| place)
    }

    #[cold]
    fn charge_new(&mut self, counted: &[Counted<'_>]) {
        for index in 0..self.spots.len() {
            let (Some(spot), Some(counted)) = (self.spots.get(index), counted.get(index)) else {
                continue;
            };
            // Where the key's shard is not locked there was no room when it began.
            let key = match counted.key {
                Named::Key(key) => Some(key),
                Named::Values { .. } => spot.key,
            };
            let is_charged = spot.found.is_none() && !counted.charge.or_zero().is_zero();
            let Some(key) = key.filter(|_| is_charged && self.counters.room.take()) else {
                continue;
            };
            let spot = *spot;
            let counter = Counter::new(counted.limit, self.counters.origin);
            let found = self.put(spot, Held::new(counted.id, key, counter));
            if let (Some(found), Some(table)) = (found, self.tables.get_mut(spot.table)) {
                table.charge(found, counted);
            }
        }
        // Others may have moved.
        self.find(counted);
    }
}

/// Says whether a counter that is not at its place is to be looked for where its key says: where any lies
/// there, and where it is to come to be, which needs that lock.
fn needs_key(counted: &Counted<'_>, has_any_by_key: bool) -> bool {
    matches!(counted.key, Named::Values { .. })
        && (has_any_by_key || !counted.charge.or_zero().is_zero())
}
