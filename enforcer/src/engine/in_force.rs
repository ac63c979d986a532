//! What is in force: the policies of one version, and the present slot of each of their limits.
//!
//! Invariant: immutable; a change is another one, swapped whole. Each has a number of its own in this
//! process, so that what threads keep beside it (slots) is never taken for another's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::limit::{LimitSpec, Moment, MomentCursor};
use domain::policy::CompiledSet;
use domain::policy::model::{CountedFrom, LimitId};
use domain::time::UnixMs;
use foldhash::fast::RandomState;

/// A set of policies to put in force.
#[derive(Debug, Default)]
pub struct PoliciesInForce {
    /// The policies.
    pub set: CompiledSet,
    /// Its version, for people; 0 where it comes from files alone.
    pub version: i64,
    /// Limits that others than policies count by, which must not be forgotten either.
    pub others: Vec<(LimitId, LimitSpec)>,
    /// Of limits counted from the log whose accounts began empty: from when they are whole.
    pub whole_from: HashMap<LimitId, UnixMs>,
}

/// Policies in force.
#[derive(Debug, Default)]
pub struct InForce {
    policies: PoliciesInForce,
    number: u64,
}

/// A limit that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownLimit {
    /// What it allows.
    pub spec: LimitSpec,
    /// What it is counted from.
    pub from: CountedFrom,
}

/// How many limits that are gone are remembered.
const RETIRED_MAX: usize = 10_000;

/// All limits that count, by identity; and those that went, whose counters may still be needed: who
/// takes a policy out and puts it back has not reset its counters.
#[derive(Debug, Default)]
pub struct LimitTable {
    known: HashMap<LimitId, KnownLimit, RandomState>,
    retired: HashMap<LimitId, KnownLimit, RandomState>,
}

impl LimitTable {
    /// Returns a limit.
    #[must_use]
    pub fn get(&self, id: LimitId) -> Option<&KnownLimit> {
        self.known.get(&id)
    }

    /// Returns a limit, or one that is gone: while its counters count something they are kept and told
    /// as before.
    #[must_use]
    pub fn get_or_retired(&self, id: LimitId) -> Option<&KnownLimit> {
        self.get(id).or_else(|| self.retired.get(&id))
    }

    /// Adds those that the table before had and this one has not; where they are too many, only those
    /// that went last.
    pub(super) fn retire(&mut self, before: &Self) {
        let went = before.iter().chain(before.retired());
        for (id, limit) in went.filter(|(id, _)| !self.known.contains_key(id)) {
            if self.retired.len() >= RETIRED_MAX {
                break;
            }
            self.retired.insert(id, *limit);
        }
    }

    fn retired(&self) -> impl Iterator<Item = (LimitId, &KnownLimit)> {
        self.retired.iter().map(|(id, limit)| (*id, limit))
    }

    /// Returns all limits, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (LimitId, &KnownLimit)> {
        self.known.iter().map(|(id, known)| (*id, known))
    }
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The present slots of the limits of one set, by place in it.
    static CURSORS: RefCell<(u64, Vec<Option<MomentCursor>>)> = const { RefCell::new((0, Vec::new())) };
}

impl InForce {
    pub(super) fn new(policies: PoliciesInForce) -> Self {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Self { policies, number }
    }

    /// Returns the policies.
    #[must_use]
    pub const fn set(&self) -> &CompiledSet {
        &self.policies.set
    }

    /// Returns the version of the policies.
    #[must_use]
    pub const fn version(&self) -> i64 {
        self.policies.version
    }

    /// Returns from when a limit's account is whole, where it began empty.
    pub(super) fn whole_from(&self, id: LimitId) -> Option<UnixMs> {
        if self.policies.whole_from.is_empty() {
            return None;
        }
        self.policies.whole_from.get(&id).copied()
    }

    /// Returns the moment of a limit by the slot that this thread found last.
    pub(super) fn moment(&self, index: usize, limit: &LimitSpec, now: UnixMs) -> Moment {
        CURSORS.with_borrow_mut(|(number, cursors)| {
            if *number != self.number {
                *number = self.number;
                cursors.clear();
                cursors.resize(self.policies.set.limits_count(), None);
            }
            match cursors.get_mut(index) {
                Some(cursor) => cursor
                    .get_or_insert_with(|| MomentCursor::new(limit, now))
                    .at(now),
                None => limit.moment(now),
            }
        })
    }

    /// Lists all limits by identity.
    pub(super) fn table(&self) -> LimitTable {
        let of_policies = self.policies.set.limits().map(|(id, _, _, limit)| {
            let (spec, from) = (limit.spec, limit.from);
            (id, KnownLimit { spec, from })
        });
        let others = self.policies.others.iter().map(|(id, spec)| {
            let (spec, from) = (*spec, CountedFrom::Decision);
            (*id, KnownLimit { spec, from })
        });
        LimitTable {
            known: of_policies.chain(others).collect(),
            retired: HashMap::default(),
        }
    }
}
