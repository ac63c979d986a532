//! The level of a bucket's counter: walked over slots from the base, or followed at its very instants.
//!
//! Invariant: folding slots into the base moves no level. Deliberately absent: windows.

use super::super::Origin;
use super::super::bucket::{self, Base, Fluid, Walk, fold_instant};
use super::super::table::SlotTable;
use super::{Bucket, Counter, Others, slots};
use crate::decision::Verdict;
use crate::limit::{LimitSpec, Moment, Refill};
use crate::time::UnixMs;
use crate::units::Units;

impl Counter {
    pub(super) fn check_bucket(
        &self,
        limit: &LimitSpec,
        refill: Refill,
        moment: Moment,
        asked: Units,
    ) -> Verdict {
        let walk = Walk::of(refill);
        let now = self.now(moment.now);
        let level = self.level(walk, now);
        let after = level.saturating_add(walk.scaled(asked));
        let capacity = walk.scaled(limit.limit());
        let later = |ms: i64| now.saturating_add_ms(ms);
        let reset = later(walk.ms_to_drain(level));
        let verdict = Verdict::of(limit.limit(), walk.units(level), asked, reset);
        verdict.retried_at(|| {
            let wait = walk.ms_to_drain(after.saturating_sub(capacity));
            (asked <= limit.limit()).then(|| later(wait))
        })
    }

    /// Returns the present, or the latest one that own use was charged at: for a bucket no time passes
    /// until a clock that was set back is there again.
    pub(super) fn now(&self, now: UnixMs) -> UnixMs {
        let latest = self.bucket.as_ref().map(|bucket| bucket.exact.at());
        latest.map_or(now, |latest| latest.max(now))
    }

    pub(super) fn level(&self, walk: Walk, now: UnixMs) -> i128 {
        let now = self.now(now);
        self.bucket.as_ref().map_or(0, |bucket| {
            let merged = bucket.merged.level_at(walk, now);
            merged.max(bucket.exact.level_at(walk, now))
        })
    }

    pub(super) fn charge_bucket(&mut self, refill: Refill, moment: Moment, units: Units) {
        let walk = Walk::of(refill);
        let Some(bucket) = &mut self.bucket else {
            return;
        };
        let start = moment.slot.start();
        bucket.own_total.add(units);
        bucket.exact.charge(walk, moment.now, units);
        let is_in_order = start >= bucket.merged.at();
        // The walk begins at the base, so what comes after it lies behind that.
        let is_folded =
            !is_in_order && bucket.base.as_deref().is_some_and(|base| start < base.at());
        if !is_folded {
            self.own.add(start, units);
        }
        if is_in_order {
            bucket.merged.charge(walk, start, units);
            let due = walk.fold_due(start.get());
            bucket.fold_due = bucket.fold_due.min(due);
        } else {
            self.walk_all(walk);
        }
        self.fold_if_due(walk, moment.now);
    }

    /// Folds old slots before there are too many: at most each 16 slots, at least each 48.
    pub(super) fn fold_if_due(&mut self, walk: Walk, now: UnixMs) {
        let due = self.bucket.as_ref().map(|bucket| bucket.fold_due);
        if due.is_none_or(|due| now.get() < due) {
            return;
        }
        let slot_ms = walk.slot_ms();
        let at = fold_instant(slot_ms, now);
        let Some(bucket) = &mut self.bucket else {
            return;
        };
        let since = bucket.base.as_deref().map_or(UnixMs::FIRST, Base::at);
        if at <= since {
            return;
        }
        let others = self.others.as_deref();
        let fluid = walked(walk, self.origin, bucket, others, &self.own, at);
        let known = bucket.base.as_deref().map(Base::included);
        let mut included = known.cloned().unwrap_or_default();
        let others = others
            .into_iter()
            .flat_map(|others| others.account.origins());
        let others = others.map(|(origin, use_)| (origin, use_.before(at)));
        let own = (self.origin, own_before(bucket, &self.own, at));
        for (origin, before) in others.chain([own]) {
            // The base before may know more of an origin than has arrived here.
            let held = included.entry(origin).or_insert(before);
            *held = before.max(*held);
        }
        let level = fluid.level_at(walk, at);
        bucket.base = Some(Box::new(Base::new(at, level, included)));
        self.own.drop_before(at);
        if let Some(others) = &mut self.others {
            others.table.drop_before(at);
        }
        self.walk_all(walk);
    }

    /// Takes a base if it is later; says whether it was.
    pub(super) fn merge_base(&mut self, base: Option<Base>) -> bool {
        let Some(bucket) = &mut self.bucket else {
            return false;
        };
        if base.as_ref() <= bucket.base.as_deref() {
            return false;
        }
        let seen = base.as_ref().map_or(Units::ZERO, |base| {
            let own = own_before(bucket, &self.own, base.at());
            let seen = base.included().get(&self.origin).copied();
            seen.unwrap_or(own).saturating_sub(own).or_zero()
        });
        // Others saw more of this process than this counter knows: it is one that began anew.
        bucket.own_total.add(seen);
        bucket.base = base.map(Box::new);
        true
    }

    pub(super) fn walk_all(&mut self, walk: Walk) {
        if let Some(bucket) = &mut self.bucket {
            let others = self.others.as_deref();
            let oldest = slots(&self.own, others).next();
            bucket.fold_due = oldest.map_or(i64::MAX, |slot| walk.fold_due(slot.start));
            let (origin, own) = (self.origin, &self.own);
            bucket.merged = walked(walk, origin, bucket, others, own, UnixMs::LAST);
        }
    }
}

/// Returns all that this process charged in slots before an instant.
fn own_before(bucket: &Bucket, own: &SlotTable, at: UnixMs) -> Units {
    let since = own.iter().filter(|slot| slot.start >= at.get());
    since.fold(bucket.own_total.get(), |rest, slot| {
        rest.saturating_sub(Units::new(slot.sum))
    })
}

/// Walks from the base over all slots that start before `end`, as [`super::Account`] does.
fn walked(
    walk: Walk,
    origin: Origin,
    bucket: &Bucket,
    others: Option<&Others>,
    own: &SlotTable,
    end: UnixMs,
) -> Fluid {
    let base = bucket.base.as_deref();
    let mut fluid = Fluid::standing_on(base);
    let since = fluid.at();
    let own_late = bucket::late(base, origin, own_before(bucket, own, since));
    fluid.charge(walk, since, own_late);
    let accounts = others
        .into_iter()
        .flat_map(|others| others.account.origins());
    for (other, use_) in accounts {
        let late = bucket::late(base, other, use_.before(since));
        fluid.charge(walk, since, late);
    }
    for slot in slots(own, others).filter(|slot| slot.start < end.get()) {
        if let Some(start) = UnixMs::new(slot.start) {
            fluid.charge(walk, start, Units::new(slot.sum));
        }
    }
    fluid
}
