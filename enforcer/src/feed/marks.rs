//! As of when the numbers of limits that count from the log are known.
//!
//! Invariant: the instant is the least over all live chains, so a quiet feed and a dead ingest differ,
//! and a chain counts as known only by what was told after the reader began: by a snapshot of Postgres,
//! or by marks on every partition of the feed once a snapshot that began later was merged. Deliberately
//! absent: clocks and atomics; whoever follows passes the instant on.

use std::collections::{BTreeMap, HashMap};

use domain::feed::Mark;
use domain::ids::ChainId;
use domain::time::UnixMs;

/// What a snapshot of Postgres says of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The chain.
    pub(crate) chain: ChainId,
    /// Every record that its partition held at this instant is counted in the snapshot.
    pub(crate) watermark: Option<UnixMs>,
    /// Whether more may come.
    pub(crate) is_live: bool,
}

/// Which beginning of the feed's reader something belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Beginning(u64);

/// How far each chain is told.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    chains: BTreeMap<ChainId, Chain>,
    /// How many partitions the feed has; 0 while it is not read.
    partitions: usize,
    beginning: Beginning,
    /// The beginning before which the newest snapshot began.
    based_on: Option<Beginning>,
    /// When the newest snapshot was taken.
    polled: Option<UnixMs>,
}

#[derive(Debug)]
struct Chain {
    is_live: bool,
    polled: Option<UnixMs>,
    told: HashMap<i32, Told>,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            is_live: true,
            polled: None,
            told: HashMap::new(),
        }
    }
}

/// The newest mark of a chain on one partition.
#[derive(Debug, Clone, Copy)]
struct Told {
    epoch: i64,
    watermark: Option<UnixMs>,
    /// When the newest of any owner was made.
    at: UnixMs,
}

impl Marks {
    /// Returns the present beginning, which a snapshot must be asked for after.
    pub(crate) const fn beginning(&self) -> Beginning {
        self.beginning
    }

    /// Notes that the feed is read from here on, on so many partitions: what was told between is
    /// missing until a snapshot is merged.
    pub(crate) fn begin(&mut self, partitions: usize) {
        self.partitions = partitions;
        self.beginning = Beginning(self.beginning.0.saturating_add(1));
        for chain in self.chains.values_mut() {
            chain.told.clear();
        }
    }

    /// Takes a mark that was read on a partition. One of an earlier owner changes nothing.
    pub(crate) fn take(&mut self, partition: i32, mark: &Mark) {
        let chain = self.chains.entry(mark.chain).or_default();
        let newest = chain.told.values().map(|told| told.epoch).max();
        if newest.is_some_and(|newest| mark.epoch < newest) {
            return;
        }
        chain.is_live = !mark.is_last;
        let told = chain.told.entry(partition).or_insert(Told {
            epoch: mark.epoch,
            watermark: None,
            at: mark.at,
        });
        told.at = told.at.max(mark.at);
        // Of the same owner the later one stays, whichever is read last; a new owner may begin earlier.
        told.watermark = if told.epoch == mark.epoch {
            told.watermark.max(mark.watermark)
        } else {
            mark.watermark
        };
        told.epoch = mark.epoch;
    }

    /// Takes a snapshot that was asked for after `beginning` and is merged.
    pub(crate) fn take_snapshot(&mut self, beginning: Beginning, chains: &[Standing], at: UnixMs) {
        self.based_on = self.based_on.max(Some(beginning));
        self.polled = Some(at);
        // What Postgres does not know (a restore) is no longer waited for.
        self.chains
            .retain(|id, _| chains.iter().any(|standing| standing.chain == *id));
        for standing in chains {
            let chain = self.chains.entry(standing.chain).or_default();
            chain.polled = standing.watermark;
            chain.is_live = standing.is_live;
        }
    }

    /// Returns the instant as of which all live chains are told; `None` where that is not known.
    pub(crate) fn as_of(&self) -> Option<UnixMs> {
        let based_on = self.based_on?;
        let live = self.chains.values().filter(|chain| chain.is_live);
        let known = live.map(|chain| {
            let is_based = based_on == self.beginning && self.partitions > 0;
            let told = chain.told_on_all(self.partitions).filter(|_| is_based);
            told.max(chain.polled)
        });
        // An absent instant is less than any.
        known.min().unwrap_or(self.polled)
    }

    /// Returns when the feed last marked all live chains: the least of the newest marks' own instants;
    /// `None` while a chain has none. How far they reach does not matter: Postgres reaches no further.
    pub(crate) fn marked(&self) -> Option<UnixMs> {
        let live = self.chains.values().filter(|chain| chain.is_live);
        live.map(|chain| chain.marked_on_all(self.partitions))
            .min()
            .flatten()
    }
}

impl Chain {
    /// The newest marks of all partitions; `None` while one has none.
    fn on_all(&self, partitions: usize) -> Option<impl Iterator<Item = &Told>> {
        (partitions > 0 && self.told.len() >= partitions).then(|| self.told.values())
    }

    /// How far all partitions tell it.
    fn told_on_all(&self, partitions: usize) -> Option<UnixMs> {
        self.on_all(partitions)?.map(|told| told.watermark).min()?
    }

    /// When the oldest of the partitions' newest marks was made.
    fn marked_on_all(&self, partitions: usize) -> Option<UnixMs> {
        self.on_all(partitions)?.map(|told| told.at).min()
    }
}

#[cfg(test)]
mod tests {
    use domain::ids::PartNumber;

    use super::*;

    fn at(ms: i64) -> UnixMs {
        UnixMs::new(ms).expect("a small instant")
    }

    fn mark(chain: i32, epoch: i64, watermark: i64) -> Mark {
        Mark {
            chain: ChainId(chain),
            epoch,
            part: PartNumber(1),
            watermark: Some(at(watermark)),
            at: at(watermark),
            is_last: false,
        }
    }

    fn standing(chain: i32, watermark: Option<i64>) -> Standing {
        Standing {
            chain: ChainId(chain),
            watermark: watermark.map(at),
            is_live: true,
        }
    }

    #[test]
    fn nothing_is_known_before_a_snapshot() {
        let mut marks = Marks::default();
        marks.begin(1);
        marks.take(0, &mark(1, 1, 500));
        assert_eq!(marks.as_of(), None, "older accounts may be missing");
        marks.take_snapshot(marks.beginning(), &[standing(1, Some(300))], at(400));
        assert_eq!(marks.as_of(), Some(at(500)), "the mark is later");
    }

    #[test]
    fn the_least_live_chain_and_partition_count() {
        let mut marks = Marks::default();
        marks.begin(2);
        let chains = [standing(1, Some(300)), standing(2, Some(350))];
        marks.take_snapshot(marks.beginning(), &chains, at(400));
        for (partition, watermark) in [(0, 900), (1, 800)] {
            marks.take(partition, &mark(1, 1, watermark));
        }
        assert_eq!(marks.as_of(), Some(at(350)), "the second has no marks");
        marks.take(0, &mark(2, 1, 950));
        assert_eq!(marks.as_of(), Some(at(350)), "only on one partition");
        marks.take(1, &mark(2, 1, 950));
        assert_eq!(marks.as_of(), Some(at(800)), "the least of all");
        let last = Mark {
            is_last: true,
            ..mark(1, 1, 900)
        };
        marks.take(0, &last);
        assert_eq!(
            marks.as_of(),
            Some(at(950)),
            "a retired chain is not waited for"
        );
    }

    #[test]
    fn marks_count_only_after_a_snapshot_that_began_later() {
        let mut marks = Marks::default();
        marks.begin(1);
        let early = marks.beginning();
        marks.take_snapshot(early, &[standing(1, Some(300))], at(400));
        marks.begin(1);
        marks.take(0, &mark(1, 1, 900));
        assert_eq!(
            marks.as_of(),
            Some(at(300)),
            "what was told between is missing"
        );
        marks.take_snapshot(early, &[standing(1, Some(310))], at(410));
        assert_eq!(marks.as_of(), Some(at(310)), "it began before");
        marks.take_snapshot(marks.beginning(), &[standing(1, Some(320))], at(420));
        assert_eq!(marks.as_of(), Some(at(900)), "now nothing is missing");
    }

    #[test]
    fn marks_of_an_earlier_owner_change_nothing() {
        let mut marks = Marks::default();
        marks.begin(1);
        marks.take_snapshot(marks.beginning(), &[standing(1, None)], at(1));
        assert_eq!(marks.as_of(), None, "the chain never was caught up");
        marks.take(0, &mark(1, 2, 700));
        marks.take(0, &mark(1, 1, 900));
        assert_eq!(marks.as_of(), Some(at(700)), "its owner is gone");
        marks.take(0, &mark(1, 2, 650));
        assert_eq!(marks.as_of(), Some(at(700)), "of one owner the later stays");
    }

    #[test]
    fn a_feed_whose_marks_reach_not_far_is_not_silent() {
        let mut marks = Marks::default();
        assert_eq!(marks.marked(), None, "nobody told anything");
        marks.begin(2);
        let late = |made| Mark {
            at: at(made),
            ..mark(1, 1, 100)
        };
        marks.take(0, &late(5_000));
        assert_eq!(marks.marked(), None, "only on one partition");
        marks.take(1, &late(6_000));
        assert_eq!(marks.marked(), Some(at(5_000)), "though it knows less");
        marks.take(0, &late(7_000));
        assert_eq!(marks.marked(), Some(at(6_000)), "the older of the two");
        marks.take(1, &late(4_000));
        assert_eq!(
            marks.marked(),
            Some(at(6_000)),
            "an earlier one that is read late"
        );
    }

    #[test]
    fn without_chains_the_snapshot_is_all() {
        let mut marks = Marks::default();
        marks.take_snapshot(marks.beginning(), &[], at(400));
        assert_eq!(marks.as_of(), Some(at(400)), "nobody counts");
    }
}
