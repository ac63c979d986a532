//! What a decision does while it holds the locks of its shards: find, check, charge.
//!
//! Invariant: nothing here takes a lock or lets one go. Deliberately absent: which locks, and in what
//! order, which is the table's ([`super`]).

use std::sync::Arc;

use domain::account::{Counter, Grounds, Origin};
use domain::decision::{Asked, Decision, Verdict, Weighing};
use domain::limit::{Algorithm, LimitSpec, Moment};
use domain::policy::CounterKey;
use domain::policy::model::LimitId;
use domain::window::WindowSpec;

use super::{Consulted, Counted, Denied, Held, Locked, Table, Verdicts};

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
    /// Returns what a verdict stands on: what the last denial did, as long as that is true.
    fn grounds(&mut self, limit: &LimitSpec, moment: Moment) -> Arc<Grounds> {
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
