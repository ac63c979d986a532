//! Counters against lists of what was admitted, one thread after the other and many at once.
//!
//! Invariant: what must hold of every interleaving is checked, not one interleaving: sums equal what
//! was admitted, and use only grows within a window, so that an ask once refused stays refused.

use std::collections::BTreeMap;
use std::sync::Barrier;

use domain::account::{OriginUse, SlotSum};
use domain::hash::Hash128;
use domain::limit::{Algorithm, Enforce, MeterSelector, Refill};
use domain::window::{Interval, WindowLength, WindowSpec};
use proptest::prelude::*;

use super::*;

mod values;

const NOW: i64 = 1_792_875_600_000;

fn at(ms: i64) -> UnixMs {
    UnixMs::new(NOW + ms).unwrap()
}

fn window(kind: fn(WindowLength) -> WindowSpec) -> Algorithm {
    Algorithm::Window(kind(WindowLength::from_ms(60_000).unwrap()))
}

fn bucket() -> Algorithm {
    Algorithm::TokenBucket(Refill {
        amount: Units::ONE,
        every: Interval::from_ms(60_000).unwrap(),
    })
}

fn limit(algorithm: Algorithm, units: i128) -> LimitSpec {
    let meter = MeterSelector::TotalTokens;
    LimitSpec::new(meter, algorithm, Units::new(units), Enforce::Soft).unwrap()
}

fn id(number: usize) -> LimitId {
    LimitId(Hash128::of(&number.to_be_bytes()))
}

fn key(number: usize) -> CounterKey {
    CounterKey(Hash128::of(format!("key {number}").as_bytes()))
}

fn revision(number: i64) -> Revision {
    Revision { epoch: 0, number }
}

/// One limit of each kind, with room for few.
fn limits() -> [LimitSpec; 3] {
    let algorithms = [
        window(WindowSpec::Fixed),
        window(WindowSpec::Sliding),
        bucket(),
    ];
    algorithms.map(|algorithm| limit(algorithm, 20))
}

/// An ask: limit and key of each counter, each pair once, and how much of all.
#[derive(Debug, Clone)]
struct Ask {
    places: Vec<(usize, usize)>,
    units: i128,
}

fn ask() -> impl Strategy<Value = Ask> {
    let places = prop::collection::btree_set((0..3_usize, 0..4_usize), 1..10);
    (places, 1..6_i128).prop_map(|(places, units)| Ask {
        places: places.into_iter().collect(),
        units,
    })
}

fn counted<'a>(limits: &'a [LimitSpec], ask: &Ask, now: UnixMs) -> Vec<Counted<'a>> {
    let places = ask.places.iter().map(|(number, of)| {
        let limit = &limits[*number];
        Counted {
            limit,
            id: id(*number),
            key: Named::Key(key(*of)),
            moment: limit.moment(now),
            asked: Asked::Units(Units::new(ask.units)),
            charge: Units::new(ask.units),
        }
    });
    places.collect()
}

/// What is used, as an ask for nothing is told.
fn used(counters: &Counters, limits: &[LimitSpec], place: (usize, usize), now: UnixMs) -> i128 {
    let ask = Ask {
        places: vec![place],
        units: 0,
    };
    let mut verdicts = Verdicts::new();
    counters.evaluate(&counted(limits, &ask, now), &mut verdicts);
    verdicts[0].used.get()
}

/// Lets each thread make its asks, all at once; returns whether each was admitted.
fn race(counters: &Counters, limits: &[LimitSpec], asks: &[Vec<Ask>]) -> Vec<Vec<bool>> {
    let barrier = Barrier::new(asks.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = asks
            .iter()
            .map(|asks| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut verdicts = Verdicts::new();
                    barrier.wait();
                    let outcomes = asks.iter().map(|ask| {
                        let counted = counted(limits, ask, at(0));
                        counters.decide(&counted, &mut verdicts).outcome == Outcome::Allow
                    });
                    outcomes.collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

proptest! {
    #[test]
    fn whatever_threads_interleave_decisions_are_atomic(
        asks in prop::collection::vec(prop::collection::vec(ask(), 1..40), 2..6),
        shards in prop::sample::select(vec![1_usize, 2, 7, 512]),
    ) {
        let limits = limits();
        let counters = Counters::with_shards(ReplicaId(1), usize::MAX, shards);
        let outcomes = race(&counters, &limits, &asks);

        let all = asks.iter().flatten().zip(outcomes.iter().flatten());
        let mut sums: BTreeMap<(usize, usize), i128> = BTreeMap::new();
        for (ask, _) in all.clone().filter(|(_, is_admitted)| **is_admitted) {
            for place in &ask.places {
                *sums.entry(*place).or_default() += ask.units;
            }
        }
        for limit in 0..3 {
            for of in 0..4 {
                let sum = sums.get(&(limit, of)).copied().unwrap_or_default();
                let level = used(&counters, &limits, (limit, of), at(0));
                prop_assert_eq!(level, sum, "limit {} of key {}", limit, of);
                prop_assert!(level <= 20, "limit {} of key {} is passed", limit, of);
            }
        }
        let mut verdicts = Verdicts::new();
        for (ask, _) in all.filter(|(_, is_admitted)| !**is_admitted) {
            let again = counters.evaluate(&counted(&limits, ask, at(0)), &mut verdicts);
            prop_assert_eq!(again.outcome, Outcome::Deny, "{:?} was refused for nothing", ask);
        }
        // Nothing came into being that was not charged.
        prop_assert_eq!(counters.count(), sums.len(), "counters");
    }

    #[test]
    fn one_thread_gets_the_verdicts_of_a_map(asks in prop::collection::vec(ask(), 1..60)) {
        let limits = limits();
        let counters = Counters::with_shards(ReplicaId(1), usize::MAX, 2);
        let mut model: BTreeMap<(usize, usize), i128> = BTreeMap::new();
        let mut verdicts = Verdicts::new();
        for ask in &asks {
            let fits = |place| model.get(place).copied().unwrap_or_default() + ask.units <= 20;
            let is_admitted = ask.places.iter().all(fits);
            let expected: Vec<_> = ask.places.iter()
                .map(|place| model.get(place).copied().unwrap_or_default())
                .collect();
            let decision = counters.decide(&counted(&limits, ask, at(0)), &mut verdicts);
            let found: Vec<_> = verdicts.iter().map(|verdict| verdict.used.get()).collect();
            prop_assert_eq!(found, expected, "what each found before the charge");
            prop_assert_eq!(decision.outcome == Outcome::Allow, is_admitted, "{:?}", ask);
            if is_admitted {
                for place in &ask.places {
                    *model.entry(*place).or_default() += ask.units;
                }
            }
        }
    }

    #[test]
    fn what_replicas_take_and_merge_ends_in_the_same_levels(
        asks in prop::collection::vec(ask(), 1..40),
        max in 1..20_usize,
    ) {
        let limits = limits();
        let replicas = [1, 2].map(|replica| Counters::with_shards(ReplicaId(replica), usize::MAX, 3));
        let mut verdicts = Verdicts::new();
        for (index, ask) in asks.iter().enumerate() {
            replicas[index % 2].report(&counted(&limits, ask, at(0)), &mut verdicts, |_| {});
        }
        for (from, to) in [(0, 1), (1, 0)] {
            for number in 1.. {
                let taken = replicas[from].take_changed(max, revision(number));
                prop_assert!(taken.len() <= max, "at most as many as were asked for");
                if taken.is_empty() {
                    break;
                }
                for entry in taken {
                    let index = (0..3).find(|index| id(*index) == entry.limit).unwrap();
                    let limit = &limits[index];
                    // What comes twice, and what comes back, counts once.
                    for replica in [to, to, from] {
                        let message = entry.message.clone();
                        let into = &replicas[replica];
                        into.merge(entry.limit, entry.counter, limit, message, at(0));
                    }
                }
            }
        }
        for limit in 0..3 {
            for of in 0..4 {
                let sum: i128 = asks.iter()
                    .filter(|ask| ask.places.contains(&(limit, of)))
                    .map(|ask| ask.units)
                    .sum();
                for replica in &replicas {
                    let level = used(replica, &limits, (limit, of), at(0));
                    prop_assert_eq!(level, sum, "limit {} of key {}", limit, of);
                }
            }
        }
    }

    #[test]
    fn pruning_loses_nothing_that_counts(
        asks in prop::collection::vec((ask(), 0..30_000_i64), 1..30),
        later in 0..3_000_000_i64,
    ) {
        let limits = limits();
        let (kept, pruned) = (Counters::new(ReplicaId(1), usize::MAX), Counters::new(ReplicaId(1), usize::MAX));
        let mut verdicts = Verdicts::new();
        let mut now = 0;
        for (ask, passed) in &asks {
            now += passed;
            let counted = counted(&limits, ask, at(now));
            kept.report(&counted, &mut verdicts, |_| {});
            pruned.report(&counted, &mut verdicts, |_| {});
            pruned.prune(at(now), |limit| (0..3).find(|index| id(*index) == limit).map(|index| limits[index]));
        }
        now += later;
        pruned.prune(at(now), |limit| (0..3).find(|index| id(*index) == limit).map(|index| limits[index]));
        for limit in 0..3 {
            for of in 0..4 {
                let place = (limit, of);
                let [level, expected] = [&pruned, &kept].map(|of| used(of, &limits, place, at(now)));
                prop_assert_eq!(level, expected, "limit {} of key {}", limit, of);
            }
        }
        let levels = (0..3).flat_map(|limit| (0..4).map(move |of| (limit, of)));
        let live = levels.filter(|place| used(&kept, &limits, *place, at(now)) > 0).count();
        prop_assert!(pruned.count() >= live, "live counters stay");
        pruned.prune(at(now + 100_000_000), |limit| (0..3).find(|index| id(*index) == limit).map(|index| limits[index]));
        prop_assert_eq!(pruned.count(), 0, "nothing counts any longer");
    }
}

#[test]
fn counters_of_limits_that_are_gone_are_forgotten_with_what_was_unsent() {
    let limits = limits();
    let counters = Counters::new(ReplicaId(1), usize::MAX);
    let ask = Ask {
        places: vec![(0, 0), (1, 0)],
        units: 3,
    };
    counters.decide(&counted(&limits, &ask, at(0)), &mut Verdicts::new());
    counters.prune(at(1), |limit| (limit == id(0)).then_some(limits[0]));
    assert_eq!(counters.count(), 1, "one limit is left");
    let own: Vec<_> = counters.own_names(|_| true).collect();
    let taken = counters.take_changed(10, revision(1));
    let taken: Vec<_> = taken
        .iter()
        .map(|entry| (entry.limit, entry.counter))
        .collect();
    for names in [own, taken] {
        let limits: Vec<_> = names.iter().map(|(limit, _)| *limit).collect();
        assert_eq!(limits, [id(0)], "only it is told of");
    }
    assert_eq!(counters.take_changed(10, revision(2)), [], "sent once");
}

#[test]
fn a_charge_for_itself_counts_beyond_the_limit() {
    let limits = limits();
    let counters = Counters::new(ReplicaId(1), usize::MAX);
    for (index, limit) in limits.iter().enumerate() {
        let counted = |units| Counted {
            limit,
            id: id(index),
            key: Named::Key(key(0)),
            moment: limit.moment(at(0)),
            asked: Asked::Unknown,
            charge: Units::new(units),
        };
        assert_eq!(counters.charge(&counted(0)).used, Units::ZERO, "a look");
        assert_eq!(counters.count(), index, "a look makes no counter");
        let verdicts = [7, 13, 1].map(|units| counters.charge(&counted(units)));
        let found = verdicts.map(|verdict| (verdict.used.get(), verdict.is_over));
        assert_eq!(found, [(7, false), (20, false), (21, true)], "{limit:?}");
    }
}

#[test]
fn hundreds_of_limits_are_one_decision() {
    let spec = limit(window(WindowSpec::Fixed), 2);
    let counters = Counters::new(ReplicaId(1), usize::MAX);
    let full = Counted {
        limit: &spec,
        id: id(399),
        key: Named::Key(key(0)),
        moment: spec.moment(at(0)),
        asked: Asked::Units(Units::ONE),
        charge: Units::new(2),
    };
    counters.charge(&full);
    let all = |from: usize, to: usize| -> Vec<_> {
        let one = |number| Counted {
            id: id(number),
            charge: Units::ONE,
            ..full.clone()
        };
        (from..to).map(one).collect()
    };
    let mut verdicts = Verdicts::new();
    let denied = counters.decide(&all(0, 400), &mut verdicts);
    assert_eq!(denied.outcome, Outcome::Deny, "one of 400 is full");
    assert_eq!(denied.binding, Some(399), "and binds");
    assert_eq!(counters.count(), 1, "none of the others was charged");
    let allowed = counters.decide(&all(0, 399), &mut verdicts);
    assert_eq!(allowed.outcome, Outcome::Allow, "all have room");
    assert_eq!(
        (verdicts.len(), counters.count()),
        (399, 400),
        "all charged"
    );
}

#[test]
fn what_is_over_when_it_is_merged_takes_no_memory() {
    let limits = limits();
    let counters = Counters::new(ReplicaId(1), usize::MAX);
    let message = |start| Message {
        origin: Origin::Replica(ReplicaId(2)),
        use_: OriginUse::new(
            revision(1),
            Units::ONE,
            vec![SlotSum {
                start: limits[0].moment(at(start)).slot.start(),
                sum: Units::ONE,
            }],
        ),
        base: None,
    };
    counters.merge(id(0), key(0), &limits[0], message(-600_000), at(0));
    assert_eq!(counters.count(), 0, "ten minutes ago");
    counters.merge(id(0), key(0), &limits[0], message(0), at(0));
    assert_eq!(used(&counters, &limits, (0, 0), at(0)), 1, "now");
}

/// One request of one key.
fn one<'a>(limit: &'a LimitSpec, number: usize, now: UnixMs) -> Counted<'a> {
    Counted {
        limit,
        id: id(0),
        key: Named::Key(key(number)),
        moment: limit.moment(now),
        asked: Asked::Units(Units::ONE),
        charge: Units::ONE,
    }
}

/// However many keys come, those that were there count on, exactly; room comes back when they are over.
#[test]
fn keys_beyond_the_room_find_none_and_change_nothing() {
    let limit = limit(window(WindowSpec::Fixed), 3);
    let counters = Counters::new(ReplicaId(1), 100);
    let mut verdicts = Verdicts::new();
    let mut admitted = 0;
    for round in 0..4 {
        for number in 0..1_000 {
            let counted = [one(&limit, number, at(0))];
            let is_known = counters.has_own(id(0), key(number));
            let lacks = counters.lacks(&counted[0]);
            assert_eq!(lacks, counters.is_full() && !is_known, "{round}: {number}");
            let decision = counters.decide(&counted, &mut verdicts);
            if number < 100 {
                admitted += usize::from(decision.outcome == Outcome::Allow);
            }
        }
        assert_eq!(counters.count(), 100, "no more than there is room for");
    }
    assert_eq!(
        admitted, 300,
        "three of each that is known, and the fourth refused"
    );
    assert_eq!(counters.refused(), 4 * 900, "each once");
    let origin = Origin::Replica(ReplicaId(2));
    let peer = Counters::new(ReplicaId(2), usize::MAX);
    let _allowed = peer.decide(&[one(&limit, 5_000, at(0))], &mut verdicts);
    let told = peer.take_changed(1, revision(1)).pop().expect("one");
    assert_eq!(told.message.origin, origin, "a peer's");
    counters.merge(
        told.limit,
        told.counter,
        &limit,
        told.message.clone(),
        at(1),
    );
    assert_eq!(counters.missed(), None, "there is no room yet");
    counters.prune(at(120_000), |_| Some(limit));
    assert_eq!(
        (counters.count(), counters.is_full()),
        (0, false),
        "all are over"
    );
    let missed = counters.missed();
    assert_eq!(missed, Some(1), "what a peer told should be read again");
    let unknown = || counters.lacks(&one(&limit, 7_000, at(1)));
    assert!(unknown(), "it may be the one that was told");
    counters.heal(missed.unwrap_or_default());
    assert_eq!(counters.missed(), None, "it was read again");
    assert!(!unknown(), "all is known");
    let later = counters.decide(&[one(&limit, 7_000, at(120_000))], &mut verdicts);
    assert_eq!(
        (later.outcome, counters.count()),
        (Outcome::Allow, 1),
        "there is room"
    );
}

/// What the text of `counters_max` says of memory: at worst each has a block of its own, tables are a
/// quarter full, and lists half.
#[test]
fn a_counter_takes_what_the_settings_say() {
    let in_tables = [size_of::<blocks::Block>(), places::ENTRY_BYTES];
    let in_tables: usize = in_tables.iter().map(|bytes| 4 * (bytes + 1)).sum();
    let in_lists = 2 * size_of::<(Place, LimitId)>();
    let bytes = size_of::<Held>() + in_tables + in_lists;
    assert!(bytes <= 680, "{bytes} bytes");
}
