//! What a process holds of the ids that were taken: those of the stretches that its last batches had.
//!
//! Invariant: of a stretch it holds all ids up to the taking that it names, so that only what was taken
//! since must be read. It is a copy of what is committed: what is forgotten is read again.
//! Deliberately absent: reading.

use std::collections::BTreeMap;

use domain::event::Identity;
use domain::ids::PartRef;

use super::run::{Run, Stretch};
use crate::source::SourceId;

/// How many ids are held at most between two batches: some 20 MiB.
const IDS_MAX: usize = 1 << 20;

/// How long a run is made of shorter ones, so that no merge copies much: longer ones are a batch's own, and few.
const MERGED_MAX: usize = 1 << 16;

/// Ids by stretch and source.
#[derive(Debug, Default)]
pub(crate) struct HeldIds {
    stretches: BTreeMap<(Stretch, SourceId), HeldStretch>,
    ids: usize,
    /// Grows with each batch.
    now: u64,
}

/// The ids of one stretch of one source.
#[derive(Debug, Default)]
struct HeldStretch {
    /// The last taking of the source whose ids are held, if they are of this stretch.
    number: i64,
    /// What the runs' ids name.
    parts: Vec<PartRef>,
    /// Each more than twice as long as the next, or long itself, so that they are few.
    runs: Vec<Run>,
    /// The last batch that had ids of it.
    asked: u64,
}

impl HeldIds {
    /// Returns the taking up to which all ids of a stretch are held; `None`: none are.
    pub(super) fn known_to(&self, stretch: Stretch, source: SourceId) -> Option<i64> {
        Some(self.stretches.get(&(stretch, source))?.number)
    }

    /// Notes that all ids of a stretch are held up to a taking, as those that were added are.
    pub(super) fn note(&mut self, stretch: Stretch, source: SourceId, number: i64) {
        let now = self.now;
        let held = self.stretches.entry((stretch, source)).or_default();
        held.number = number;
        held.asked = now;
    }

    /// Adds ids of a stretch that are not held yet, ascending; their run names these parts.
    pub(super) fn add(
        &mut self,
        stretch: Stretch,
        source: SourceId,
        mut run: Run,
        parts: &[PartRef],
    ) {
        let held = self.stretches.entry((stretch, source)).or_default();
        self.ids += run.len();
        // Few parts have ids of one stretch, and neighbours are often of one.
        let mut names: Vec<(u32, u32)> = Vec::new();
        run.rename(|part| {
            if let Some((_, name)) = names.iter().find(|(from, _)| *from == part) {
                return *name;
            }
            let name = u32::try_from(held.parts.len()).unwrap_or(u32::MAX);
            let index = usize::try_from(part).unwrap_or(usize::MAX);
            held.parts.extend(parts.get(index));
            names.push((part, name));
            name
        });
        while let Some(last) = held
            .runs
            .pop_if(|last| last.len() <= 2 * run.len() && last.len() + run.len() <= MERGED_MAX)
        {
            run = last.merge(run);
        }
        held.runs.push(run);
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
                let part = usize::try_from(part).ok();
                if let Some(part) = part.and_then(|part| held.parts.get(part)) {
                    tell(id, *part);
                }
            });
        }
    }

    /// Ends a batch: forgets the stretches that were asked for longest ago, while too many ids are held.
    pub(crate) fn end_batch(&mut self) {
        self.now += 1;
        if self.ids <= IDS_MAX {
            return;
        }
        let asked = self.stretches.iter().map(|(key, held)| (held.asked, *key));
        let mut oldest: Vec<_> = asked.collect();
        oldest.sort_unstable();
        for (_, key) in oldest {
            // A quarter less, so that it is not done for each batch.
            if self.ids <= IDS_MAX / 4 * 3 {
                return;
            }
            let forgotten = self.stretches.remove(&key);
            let runs = forgotten.into_iter().flat_map(|held| held.runs);
            self.ids -= runs.map(|run| run.len()).sum::<usize>();
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

    use super::{HeldIds, IDS_MAX};
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

    #[test]
    fn stretches_of_long_ago_are_forgotten_and_recent_ones_kept() {
        let mut held = HeldIds::default();
        let many = u128::try_from(IDS_MAX / 4).unwrap();
        let at = |number: u128| (number * 1_000) << 80;
        for number in 0..6 {
            let ids = (0..many).map(|id| identity(at(number) + id)).collect();
            let stretch = Stretch::of(identity(at(number)));
            held.add(stretch, SOURCE, Run::of_part(ids, 0), &[part(1)]);
            held.note(stretch, SOURCE, 1);
            // The first is asked for by each batch.
            held.note(Stretch::of(identity(at(0))), SOURCE, 1);
            held.end_batch();
            assert!(held.ids <= IDS_MAX, "bounded between batches");
        }
        let known = |number| held.known_to(Stretch::of(identity(at(number))), SOURCE);
        assert_eq!(known(0), Some(1), "asked for lately");
        assert_eq!(known(1), None, "asked for long ago");
        assert_eq!(known(5), Some(1), "the newest");
        assert_eq!(known(9), None, "never added");
    }
}
