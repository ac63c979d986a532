//! Runs: ids of one stretch of time with the parts that took them.
//!
//! Invariant: a run is ascending and holds each id once. Deliberately absent: where runs are stored.

use domain::event::Identity;
use domain::time::UnixMs;

/// How long a stretch is. A busy source has thousands of ids in one, which share few rows; what is read for
/// a late event is still small, and a back-fill of a quiet one looks for few.
const STRETCH_MS: i64 = 1_000;

/// How many times longer one run must be than another for its ids to be searched for instead of
/// walked over.
const SEARCHED_ABOVE: usize = 8;

/// The second that the event of a log line began in; its start in ms since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stretch(i64);

impl Stretch {
    /// Returns the stretch that an id belongs to.
    pub(crate) fn of(id: Identity) -> Self {
        let ms = id.start().get();
        Self(ms - ms.rem_euclid(STRETCH_MS))
    }

    /// Returns its first instant.
    pub(crate) fn start(self) -> UnixMs {
        UnixMs::new(self.0).unwrap_or(UnixMs::FIRST)
    }
}

/// Ids of one stretch, ascending, each once, and which of the parts in a list beside it took each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Run {
    ids: Vec<Identity>,
    parts: Vec<u32>,
}

impl Run {
    /// Takes ids that one part took, ascending.
    pub(super) fn of_part(ids: Vec<Identity>, part: u32) -> Self {
        let parts = vec![part; ids.len()];
        Self { ids, parts }
    }

    /// Makes an empty run with room for so many ids.
    pub(super) fn with_capacity(ids: usize) -> Self {
        Self {
            ids: Vec::with_capacity(ids),
            parts: Vec::with_capacity(ids),
        }
    }

    /// Adds an id above all that it holds.
    pub(super) fn push(&mut self, id: Identity, part: u32) {
        self.ids.push(id);
        self.parts.push(part);
    }

    pub(super) const fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the ids, ascending.
    pub(super) fn ids(&self) -> &[Identity] {
        &self.ids
    }

    /// Returns the ids with their parts, ascending.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Identity, u32)> + '_ {
        self.ids.iter().copied().zip(self.parts.iter().copied())
    }

    /// Names parts by other numbers.
    pub(super) fn rename(&mut self, mut to: impl FnMut(u32) -> u32) {
        for part in &mut self.parts {
            *part = to(*part);
        }
    }

    /// Keeps the ids of which this says so.
    pub(super) fn retain(&mut self, is_kept: impl Fn(Identity) -> bool) {
        let kept: Vec<_> = self.entries().filter(|(id, _)| is_kept(*id)).collect();
        if kept.len() < self.len() {
            (self.ids, self.parts) = kept.into_iter().unzip();
        }
    }

    /// Makes one run of two that share no id.
    pub(super) fn merge(self, other: Self) -> Self {
        let (first, second) = if self.ids.first() <= other.ids.first() {
            (self, other)
        } else {
            (other, self)
        };
        if first.ids.last() < second.ids.first() {
            let Self { mut ids, mut parts } = first;
            ids.extend_from_slice(&second.ids);
            parts.extend_from_slice(&second.parts);
            return Self { ids, parts };
        }
        let mut merged = Self::with_capacity(first.len() + second.len());
        let (mut left, mut right) = (first.entries().peekable(), second.entries().peekable());
        while let Some((id, part)) = match (left.peek(), right.peek()) {
            (Some((one, _)), Some((other, _))) if other < one => right.next(),
            (Some(_), _) => left.next(),
            (None, _) => right.next(),
        } {
            merged.push(id, part);
        }
        merged
    }

    /// Tells each id that stands also in an ascending list, with the part that took it.
    pub(super) fn common(&self, ids: &[Identity], mut tell: impl FnMut(Identity, u32)) {
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
            return;
        };
        let from = self.ids.partition_point(|id| id < first);
        let to = self.ids.partition_point(|id| id <= last);
        let (own, parts) = (self.ids.get(from..to), self.parts.get(from..to));
        let (own, parts) = (own.unwrap_or(&[]), parts.unwrap_or(&[]));
        if own.len() > ids.len().saturating_mul(SEARCHED_ABOVE) {
            for id in ids {
                if let Ok(index) = own.binary_search(id)
                    && let Some(part) = parts.get(index)
                {
                    tell(*id, *part);
                }
            }
            return;
        }
        let mut rest = ids;
        for (id, part) in own.iter().zip(parts) {
            if rest.len() > own.len().saturating_mul(SEARCHED_ABOVE) {
                rest = rest.split_at(rest.partition_point(|other| other < id)).1;
            } else {
                while rest.first().is_some_and(|other| other < id) {
                    rest = rest.split_at(1).1;
                }
            }
            match rest.first() {
                Some(other) if other == id => tell(*id, *part),
                Some(_) => {}
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use domain::event::Identity;
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    use super::{Run, Stretch};

    fn run_of(model: &BTreeMap<u128, u32>) -> Run {
        let mut run = Run::default();
        for (id, part) in model {
            run.push(Identity::from_bits(*id), *part);
        }
        run
    }

    proptest! {
        #[test]
        fn merging_two_runs_keeps_the_ids_of_both_in_order(
            both in btree_map(0..500_u128, 0..9_u32, 0..200),
            split in 0..500_u128,
            is_by_order in any::<bool>(),
        ) {
            let is_left = |id: u128| if is_by_order { id < split } else { id.is_multiple_of(3) };
            let part = |wanted| both.iter().filter(move |(id, _)| is_left(**id) == wanted);
            let left: BTreeMap<_, _> = part(true).map(|(id, part)| (*id, *part)).collect();
            let right: BTreeMap<_, _> = part(false).map(|(id, part)| (*id, *part)).collect();
            prop_assert_eq!(run_of(&left).merge(run_of(&right)), run_of(&both));
            prop_assert_eq!(run_of(&right).merge(run_of(&left)), run_of(&both));
        }

        #[test]
        fn common_ids_are_those_that_stand_in_both(
            held in btree_map(0..400_u128, 0..9_u32, 0..150),
            asked in btree_set(0..400_u128, 0..150),
            few in btree_set(0..400_u128, 0..3),
        ) {
            let narrow: BTreeMap<u128, u32> =
                few.iter().map(|id| (*id, 1)).collect();
            for (held, asked) in [(&held, &asked), (&held, &few), (&narrow, &asked)] {
                check_common(held, asked)?;
            }
        }

        #[test]
        fn what_is_not_retained_is_gone(held in btree_map(0..99_u128, 0..9_u32, 0..50)) {
            let mut run = run_of(&held);
            run.retain(|id| !id.to_bits().is_multiple_of(3));
            let kept = held.into_iter().filter(|(id, _)| !id.is_multiple_of(3)).collect();
            prop_assert_eq!(run, run_of(&kept));
        }
    }

    fn check_common(
        held: &BTreeMap<u128, u32>,
        asked: &BTreeSet<u128>,
    ) -> Result<(), TestCaseError> {
        let ids: Vec<Identity> = asked.iter().copied().map(Identity::from_bits).collect();
        let mut found = Vec::new();
        run_of(held).common(&ids, |id, part| found.push((id.to_bits(), part)));
        let is_asked = |(id, _): &(u128, u32)| asked.contains(id);
        let expected = held.iter().map(|(id, part)| (*id, *part)).filter(is_asked);
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn a_stretch_is_the_second_of_the_event() {
        let at = |ms: u128| Stretch::of(Identity::from_bits(ms << 80 | 7)).start().get();
        assert_eq!(at(0), 0);
        assert_eq!(at(999), 0);
        assert_eq!(at(1_000), 1_000);
        assert_eq!(
            at(86_400_000 - 1),
            86_399_000,
            "a day is a whole number of them"
        );
        assert_eq!(at(86_400_000), 86_400_000);
    }
}
