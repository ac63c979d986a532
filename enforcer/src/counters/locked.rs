//! What a decision does while it holds the locks of its shards: find, check, charge.
//!
//! Invariant: all locks are taken when it begins, in index order, and let go together at its end.
//! Deliberately absent: what a shard holds ([`super::table`]).

use std::sync::Arc;

use domain::account::Counter;
use domain::decision::{Asked, Decision, Weighing};
use domain::limit::Algorithm;
use domain::window::WindowSpec;
use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::table::Table;
use super::{Consulted, Counted, Counters, INLINE, Verdicts};

/// Where the counter of one limit of a decision lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    hash: u64,
    /// Which of the locked shards.
    table: usize,
    /// Its bucket there; absent where there is no such counter yet.
    bucket: Option<usize>,
}

/// The locks of one decision, and where its counters lie under them.
#[derive(Debug)]
pub(super) struct Locked<'c> {
    counters: &'c Counters,
    tables: SmallVec<[MutexGuard<'c, Table>; INLINE]>,
    places: SmallVec<[Place; INLINE]>,
}

impl<'c> Locked<'c> {
    /// Locks the shards of all counters in index order, each once, and finds the counters.
    pub(super) fn new(counters: &'c Counters, counted: &[Counted<'_>]) -> Self {
        // What is locked is written where it is returned, as moving it costs as much as a look-up.
        let mut locked = Self {
            counters,
            tables: SmallVec::new(),
            places: SmallVec::new(),
        };
        let mut shards: SmallVec<[usize; INLINE]> = SmallVec::new();
        for counted in counted {
            let hash = counters.hash(counted.id, counted.key);
            let table = counters.shard_of(hash);
            shards.push(table);
            locked.places.push(Place {
                hash,
                table,
                bucket: None,
            });
        }
        shards.sort_unstable();
        shards.dedup();
        let known = shards
            .iter()
            .filter_map(|shard| counters.shards.get(*shard));
        locked.tables.extend(known.map(|shard| shard.0.lock()));
        for place in &mut locked.places {
            let table = shards.iter().position(|shard| *shard == place.table);
            place.table = table.unwrap_or_default();
        }
        locked.find(counted);
        locked
    }
}

impl Locked<'_> {
    pub(super) fn find(&mut self, counted: &[Counted<'_>]) {
        for (place, counted) in self.places.iter_mut().zip(counted) {
            let table = self.tables.get(place.table);
            place.bucket = table.and_then(|table| table.find(place.hash, counted.id, counted.key));
        }
    }

    /// Asks all limits; `instead` replaces what each is asked.
    pub(super) fn check(
        &mut self,
        counted: &[Counted<'_>],
        instead: Option<Asked>,
        verdicts: &mut Verdicts,
    ) -> Decision {
        verdicts.clear();
        let mut weighing = Weighing::default();
        for (index, (place, counted)) in self.places.iter().zip(counted).enumerate() {
            if let Some(table) = self.tables.get_mut(place.table) {
                let asked = instead.unwrap_or(counted.asked);
                let verdict = table.check(place.bucket, counted, asked, self.counters.origin);
                weighing.take(index, counted.limit.enforce(), &verdict);
                verdicts.push(verdict);
            }
        }
        weighing.decision()
    }

    /// Returns the counter of one limit as it is; of one that is not there, what a new one would be.
    pub(super) fn consulted(&mut self, place: usize, counted: &[Counted<'_>]) -> Option<Consulted> {
        let (place, counted) = (self.places.get(place)?, counted.get(place)?);
        let table = self.tables.get_mut(place.table)?;
        let held = place.bucket;
        let held = held.and_then(|bucket| table.held.get_bucket_mut(bucket));
        let grounds = match held {
            Some(held) => held.grounds(counted.limit, counted.moment),
            None => {
                let counter = Counter::new(counted.limit, self.counters.origin);
                Arc::new(counter.grounds(counted.limit, counted.moment))
            }
        };
        Some(Consulted {
            counter: counted.key,
            grounds,
        })
    }

    /// Writes when each limit that was charged is free again, where that depends on its use.
    pub(super) fn reset(&self, counted: &[Counted<'_>], verdicts: &mut Verdicts) {
        for ((place, counted), verdict) in self.places.iter().zip(counted).zip(verdicts) {
            let is_tiled = matches!(
                counted.limit.algorithm(),
                Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_))
            );
            if is_tiled || counted.charge.or_zero().is_zero() {
                continue;
            }
            let table = self.tables.get(place.table);
            let held = place
                .bucket
                .and_then(|bucket| table?.held.get_bucket(bucket));
            if let Some(held) = held {
                verdict.reset = held.counter.reset(counted.limit, counted.moment);
            }
        }
    }

    /// Charges all limits; says whether that made new counters, by which others may have moved.
    pub(super) fn charge(&mut self, counted: &[Counted<'_>]) -> bool {
        let mut makes_new = false;
        for (place, counted) in self.places.iter().zip(counted) {
            match (place.bucket, self.tables.get_mut(place.table)) {
                (Some(bucket), Some(table)) => table.charge(bucket, counted),
                (None, Some(_)) => makes_new |= !counted.charge.or_zero().is_zero(),
                (Some(_) | None, None) => {}
            }
        }
        if makes_new {
            for (place, counted) in self.places.iter().zip(counted) {
                if place.bucket.is_none()
                    && !counted.charge.or_zero().is_zero()
                    && let Some(table) = self.tables.get_mut(place.table)
                {
                    self.counters.charge_new(table, place.hash, counted);
                }
            }
        }
        makes_new
    }
}
