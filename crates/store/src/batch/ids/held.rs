//! What a process holds of the ids that were taken: those of the stretches that its last batches had.
//!
//! Invariant: of a stretch it holds all ids up to the taking that it names, so that only what was taken
//! since must be read. It is a copy of what is committed: what is forgotten is read again. Bounded, but for the
//! few bytes of each stretch that a batch has: what finds no room is not held. Deliberately absent: reading.

use std::collections::BTreeMap;

use domain::event::Identity;
use domain::ids::PartRef;

use super::run::{Run, Stretch};
use crate::source::SourceId;

/// How much is held at most, in ids of some 20 bytes.
const WEIGHT_MAX: usize = 1 << 20;

/// What a stretch weighs besides its ids: some 400 bytes.
const STRETCH_WEIGHT: usize = 20;

/// How long a run is made of shorter ones, so that no merge copies much: longer ones are a batch's own, and few.
const MERGED_MAX: usize = 1 << 16;

/// Among how many parts that were named last a part is looked for, so that it is not named for each row.
const LAST_PARTS: usize = 8;

type Key = (Stretch, SourceId);

/// Ids by stretch and source.
#[derive(Debug, Default)]
pub(crate) struct HeldIds {
    stretches: BTreeMap<Key, HeldStretch>,
    weight: usize,
    /// Grows with each batch.
    now: u64,
    /// The stretches that the batch at hand did not ask for, those asked for longest ago last; `None` before
    /// it needed room.
    forgettable: Option<Vec<Key>>,
}

/// The ids of one stretch of one source.
#[derive(Debug)]
struct HeldStretch {
    /// The last taking of the source whose ids are held, if they are of this stretch.
    number: i64,
    /// What the runs' ids name.
    parts: Vec<PartRef>,
    /// Each more than twice as long as the next, or long itself, so that they are few.
    runs: Vec<Run>,
    /// The last batch that had ids of it.
    asked: u64,
    /// There was no room for some of its ids: none are held, and it is forgotten.
    is_cut: bool,
}

impl HeldStretch {
    const fn empty(asked: u64) -> Self {
        Self {
            number: 0,
            parts: Vec::new(),
            runs: Vec::new(),
            asked,
            is_cut: false,
        }
    }

    fn weight(&self) -> usize {
        self.runs.iter().map(Run::len).sum::<usize>() + STRETCH_WEIGHT
    }

    /// Returns the number by which a part is known here, where rows of few parts come one after another.
    fn name_of(&mut self, part: PartRef) -> u32 {
        let known = self.parts.iter().rev().take(LAST_PARTS);
        let index = match known.zip(1..).find(|(known, _)| **known == part) {
            Some((_, back)) => self.parts.len() - back,
            None => {
                self.parts.push(part);
                self.parts.len() - 1
            }
        };
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Adds ids, and names their parts by the stretch's own list.
    fn add(&mut self, mut run: Run, parts: &[PartRef]) {
        // Few parts have ids of one stretch, and neighbours are often of one.
        let mut names: Vec<(u32, u32)> = Vec::new();
        run.rename(|part| {
            if let Some((_, name)) = names.iter().find(|(from, _)| *from == part) {
                return *name;
            }
            let index = usize::try_from(part).unwrap_or(usize::MAX);
            let named = parts.get(index).expect("a run names parts of its list");
            let name = self.name_of(*named);
            names.push((part, name));
            name
        });
        while let Some(last) = self
            .runs
            .pop_if(|last| last.len() <= 2 * run.len() && last.len() + run.len() <= MERGED_MAX)
        {
            run = last.merge(run);
        }
        self.runs.push(run);
    }
}

impl HeldIds {
    /// Returns the taking up to which all ids of a stretch are held, which are kept for the batch at hand; `None`:
    /// none are.
    pub(super) fn ask(&mut self, stretch: Stretch, source: SourceId) -> Option<i64> {
        let held = self.stretches.get_mut(&(stretch, source))?;
        held.asked = self.now;
        self.forgettable = None;
        Some(held.number)
    }

    /// Says whether ids of a stretch are held, or known to be none.
    pub(super) fn holds(&self, stretch: Stretch, source: SourceId) -> bool {
        self.stretches.contains_key(&(stretch, source))
    }

    /// Adds ids of a stretch that are not held yet, ascending, if there is room; their run names these parts.
    pub(super) fn add(&mut self, stretch: Stretch, source: SourceId, run: Run, parts: &[PartRef]) {
        let key = (stretch, source);
        if self.stretches.get(&key).is_some_and(|held| held.is_cut) {
            return;
        }
        let has_room = self.make_room(run.len() + STRETCH_WEIGHT);
        let now = self.now;
        let held = self.stretches.entry(key).or_insert_with(|| {
            self.weight += STRETCH_WEIGHT;
            HeldStretch::empty(now)
        });
        if has_room {
            self.weight += run.len();
            held.add(run, parts);
        } else {
            self.weight -= held.weight() - STRETCH_WEIGHT;
            *held = HeldStretch {
                is_cut: true,
                ..HeldStretch::empty(now)
            };
        }
    }

    /// Notes that all ids of a stretch are held up to a taking, if there was room for them.
    pub(super) fn note(&mut self, stretch: Stretch, source: SourceId, number: i64) {
        let key = (stretch, source);
        if let Some(held) = self.stretches.get_mut(&key) {
            held.number = number;
            if held.is_cut {
                self.forget(&key);
            }
        } else if self.make_room(STRETCH_WEIGHT) {
            // Nobody took ids of it: that is known, too.
            self.weight += STRETCH_WEIGHT;
            let mut held = HeldStretch::empty(self.now);
            held.number = number;
            self.stretches.insert(key, held);
        }
    }

    /// Adds what the batch at hand took, if all else of the stretch is held, and notes its taking.
    pub(super) fn add_own(
        &mut self,
        (stretch, source): Key,
        run: Run,
        parts: &[PartRef],
        number: i64,
    ) {
        if self.holds(stretch, source) {
            self.add(stretch, source, run, parts);
            self.note(stretch, source, number);
        }
    }

    /// Tells each of a stretch's ids that was taken, with the part that took it.
    pub(super) fn taken(
        &self,
        stretch: Stretch,
        source: SourceId,
        ids: &[Identity],
        mut tell: impl FnMut(Identity, PartRef),
    ) {
        let Some(held) = self.stretches.get(&(stretch, source)) else {
            return;
        };
        for run in &held.runs {
            run.common(ids, |id, part| {
                let part = usize::try_from(part).unwrap_or(usize::MAX);
                let part = held.parts.get(part).expect("runs name the stretch's parts");
                tell(id, *part);
            });
        }
    }

    /// Ends a batch, whatever came of it: what it asked for may be forgotten.
    pub(crate) fn end_batch(&mut self) {
        self.now += 1;
        self.forgettable = None;
    }

    /// Forgets what was asked for longest ago until there is room; says whether there is.
    fn make_room(&mut self, weight: usize) -> bool {
        if self.weight + weight <= WEIGHT_MAX {
            return true;
        }
        let mut forgettable = self.forgettable.take().unwrap_or_else(|| {
            let of_others = self
                .stretches
                .iter()
                .filter(|(_, held)| held.asked < self.now);
            let mut keys: Vec<_> = of_others.map(|(key, held)| (held.asked, *key)).collect();
            keys.sort_unstable_by(|a, b| b.cmp(a));
            keys.into_iter().map(|(_, key)| key).collect()
        });
        // A quarter more than is needed, so that not each batch looks for the oldest.
        while self.weight + weight > WEIGHT_MAX / 4 * 3
            && let Some(key) = forgettable.pop()
        {
            self.forget(&key);
        }
        self.forgettable = Some(forgettable);
        self.weight + weight <= WEIGHT_MAX
    }

    fn forget(&mut self, key: &Key) {
        if let Some(forgotten) = self.stretches.remove(key) {
            self.weight -= forgotten.weight();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::event::Identity;
    use domain::ids::{ChainId, PartNumber, PartRef};
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::{HeldIds, STRETCH_WEIGHT, WEIGHT_MAX};
    use crate::batch::ids::run::{Run, Stretch};
    use crate::source::SourceId;

    const SOURCE: SourceId = SourceId(1);

    fn part(number: i64) -> PartRef {
        PartRef {
            chain: ChainId(1),
            number: PartNumber(number),
        }
    }

    fn identity(bits: u128) -> Identity {
        Identity::from_bits(bits)
    }

    fn stretch() -> Stretch {
        Stretch::of(identity(0))
    }

    proptest! {
        /// Against a map of all ids: parts add those that nobody has.
        #[test]
        fn what_was_added_is_found_with_its_part(
            added in vec(btree_set(0..300_u128, 0..40), 1..20),
            asked in btree_set(0..300_u128, 0..60),
        ) {
            let mut held = HeldIds::default();
            let mut model: BTreeMap<u128, PartRef> = BTreeMap::new();
            for (number, ids) in (1..).zip(&added) {
                let mut run = Run::default();
                for id in ids.iter().filter(|id| !model.contains_key(*id)) {
                    // Every second is of another part.
                    run.push(identity(*id), u32::try_from(id % 2).unwrap());
                }
                let parts = [part(number), part(-number)];
                model.extend(run.entries().map(|(id, part)| {
                    (id.to_bits(), parts[usize::try_from(part).unwrap()])
                }));
                held.add(stretch(), SOURCE, run, &parts);
            }
            let ids: Vec<Identity> = asked.iter().copied().map(identity).collect();
            let mut found = BTreeMap::new();
            held.taken(stretch(), SOURCE, &ids, |id, part| {
                found.insert(id.to_bits(), part);
            });
            model.retain(|id, _| asked.contains(id));
            prop_assert_eq!(found, model);
        }
    }

    #[test]
    fn runs_are_few_however_many_were_added() {
        let mut held = HeldIds::default();
        for id in 0..10_000 {
            held.add(
                stretch(),
                SOURCE,
                Run::of_part(vec![identity(id)], 0),
                &[part(1)],
            );
        }
        let runs = held.stretches.values().map(|held| held.runs.len());
        assert!(
            runs.sum::<usize>() <= 14,
            "about the logarithm of their number"
        );
    }

    /// Ids of one of many seconds, all of one part.
    fn ids_of(second: u128, count: usize) -> (Stretch, Run) {
        let first = (second * 1_000) << 80;
        let last = u128::try_from(count).unwrap();
        let ids: Vec<Identity> = (first..first + last).map(identity).collect();
        (Stretch::of(identity(first)), Run::of_part(ids, 0))
    }

    fn weighed(held: &HeldIds) -> usize {
        held.stretches
            .values()
            .map(super::HeldStretch::weight)
            .sum()
    }

    #[test]
    fn stretches_of_long_ago_are_forgotten_and_recent_ones_kept() {
        let mut held = HeldIds::default();
        let (first, _) = ids_of(0, 0);
        for second in 0..9 {
            // The first is asked for by each batch.
            held.ask(first, SOURCE);
            let (stretch, run) = ids_of(second, WEIGHT_MAX / 5);
            held.add(stretch, SOURCE, run, &[part(1)]);
            held.note(stretch, SOURCE, 7);
            assert!(held.weight <= WEIGHT_MAX, "bounded within a batch, too");
            assert_eq!(held.weight, weighed(&held), "as it is counted");
            held.end_batch();
        }
        let mut known = |second| held.ask(ids_of(second, 0).0, SOURCE);
        assert_eq!(known(0), Some(7), "asked for lately");
        assert_eq!(known(1), None, "asked for long ago");
        assert_eq!(known(8), Some(7), "the newest");
        assert_eq!(known(99), None, "never added");
    }

    #[test]
    fn what_finds_no_room_is_not_held_in_part() {
        let mut held = HeldIds::default();
        for second in 0..3 {
            let (stretch, run) = ids_of(second, WEIGHT_MAX / 2 - 2 * STRETCH_WEIGHT);
            held.add(stretch, SOURCE, run, &[part(1)]);
            assert!(held.weight <= WEIGHT_MAX, "bounded within a batch");
        }
        // Of the last one some ids were there already.
        let (stretch, run) = ids_of(1, 10);
        held.add(stretch, SOURCE, run, &[part(2)]);
        for second in 0..3 {
            held.note(ids_of(second, 0).0, SOURCE, 7);
        }
        assert_eq!(held.weight, weighed(&held), "as it is counted");
        let mut known = |second| held.ask(ids_of(second, 0).0, SOURCE);
        assert_eq!(known(0), Some(7), "whole");
        assert_eq!(known(2), None, "it found no room");
    }

    #[test]
    fn stretches_of_few_ids_have_a_weight() {
        let mut held = HeldIds::default();
        let count = u128::try_from(WEIGHT_MAX / STRETCH_WEIGHT).unwrap();
        for second in 0..2 * count {
            let (stretch, run) = ids_of(second, 1);
            held.add(stretch, SOURCE, run, &[part(1)]);
            held.note(stretch, SOURCE, 7);
            held.end_batch();
        }
        assert!(
            held.stretches.len() * STRETCH_WEIGHT <= WEIGHT_MAX,
            "a quiet source does not fill the memory"
        );
    }
}
