//! The quick way from a request to the counters that it meets.
//!
//! Invariant: it yields the limits that [`CompiledSet::matching`] does, in the same order, and two
//! requests have one place at a limit where they have one key there, and else not. Deliberately absent:
//! the keys, which cost more than all the rest: who needs one asks [`Limit::counter_key`].

use super::compile::CompiledSet;
use super::key::{Place, Placing, place_of};
use super::model::{Key, Limit, LimitId, MissingKey, Policy};
use crate::request::Request;

/// A limit that holds for a request.
#[derive(Debug, Clone, Copy)]
pub struct Holds<'s> {
    /// The policy.
    pub policy: &'s Policy,
    /// The limit.
    pub limit: &'s Limit,
    /// Its identity at its attachment.
    pub id: LimitId,
    /// Its place among all limits of the set, from 0.
    pub index: usize,
    /// Where its counter lies, or that it refuses.
    pub placed: Placed<'s>,
}

/// Where a limit that matches counts a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed<'s> {
    /// It counts by the counter of this limit here.
    Counts(Place),
    /// It refuses a request that lacks this key.
    Denied(&'s Key),
}

impl CompiledSet {
    /// Hands over the limits that hold for a request, in the order of the policies; those that skip it
    /// are left out.
    #[inline]
    pub fn each_holding<'s>(
        &'s self,
        request: &Request<'_>,
        placing: &Placing,
        mut take: impl FnMut(Holds<'s>),
    ) {
        let mut rules = self.matching(request);
        while let Some((rule, policy)) = rules.next_that_fits() {
            let (first, end) = rule.limits;
            let limits = self.limits.get(first..end).unwrap_or_default();
            let mut known = None;
            for (compiled, index) in limits.iter().zip(first..) {
                let Some(limit) = policy.limits.get(compiled.limit) else {
                    continue;
                };
                if !compiled.has_keys_of_before {
                    known = None;
                }
                let (place, missing) =
                    *known.get_or_insert_with(|| place_of(rule.name, limit, request, placing));
                let placed = match (missing, limit.missing_key) {
                    (Some(_), MissingKey::Skip) => continue,
                    (Some(key), MissingKey::Deny) => Placed::Denied(key),
                    (Some(_), MissingKey::Shared) | (None, _) => Placed::Counts(place),
                };
                take(Holds {
                    policy,
                    limit,
                    id: compiled.id,
                    index,
                    placed,
                });
            }
        }
    }
}
