//! Counters that requests name by their values and others by their keys.

use domain::policy::{CompiledSet, Placed, compile, read};
use domain::request::Request;
use proptest::prelude::*;

use super::*;

/// Limits of one rule, side by side; and one that counts by other values.
const POLICY: &str = "
name: pace
limits:
  - { name: window, meter: requests, limit: 1000000, per: [app], window: { fixed: 1h } }
  - { name: sliding, meter: requests, limit: 1000000, per: [app], window: { sliding: 1h } }
  - { name: bucket, meter: requests, limit: 1000000, per: [app], algorithm: leaky_bucket, refill: { every: 10h, amount: 1 } }
  - { name: all, meter: requests, limit: 1000000, window: { calendar: day } }
";

const APPS: [&str; 3] = ["a", "b", "c"];

fn set() -> CompiledSet {
    compile(read("test.yaml", POLICY).unwrap()).unwrap()
}

/// Charges an application by the policy, or asks for nothing; returns what each limit says is used
/// before, by name.
fn spend(counters: &Counters, set: &CompiledSet, app: &str, units: i128) -> Vec<(String, i128)> {
    let request = Request {
        app: Some(app),
        ..Request::default()
    };
    let (mut counted, mut names) = (Vec::new(), Vec::new());
    set.each_holding(&request, counters.placing(), |holds| {
        let Placed::Counts(place) = holds.placed else {
            panic!("nothing is denied");
        };
        names.push(holds.limit.name.clone());
        counted.push(Counted {
            limit: &holds.limit.spec,
            id: holds.id,
            key: Named::values(place, holds.limit, &request),
            moment: holds.limit.spec.moment(at(0)),
            asked: Asked::Units(Units::new(units)),
            charge: Units::new(units),
        });
    });
    let mut verdicts = Verdicts::new();
    counters.decide(&counted, &mut verdicts);
    let used = verdicts.iter().map(|verdict| verdict.used.get());
    names.into_iter().zip(used).collect()
}

/// Tells one replica what changed on the other.
fn tell(from: &Counters, to: &Counters, set: &CompiledSet, number: i64) {
    for entry in from.take_changed(1_000, revision(number)) {
        let found = set.limits().find(|(id, ..)| *id == entry.limit);
        let (_, _, _, limit) = found.unwrap();
        to.merge(
            entry.limit,
            entry.counter,
            &limit.spec,
            entry.message,
            at(0),
        );
    }
}

fn expect_sums(counters: &Counters, set: &CompiledSet, sums: [i128; 3]) {
    for (app, sum) in APPS.into_iter().zip(sums) {
        for (limit, used) in spend(counters, set, app, 0) {
            let expected = if limit == "all" {
                sums.iter().sum()
            } else {
                sum
            };
            assert_eq!(used, expected, "{limit} of {app}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_told_by_key_and_asked_by_values_is_one_counter(
        steps in prop::collection::vec((0..2_usize, 0..3_usize, prop::option::of(1..5_i128)), 1..30),
        shards in prop::sample::select(vec![1_usize, 2, 512]),
    ) {
        let set = set();
        let replicas = [1, 2].map(|replica| Counters::with_shards(ReplicaId(replica), usize::MAX, shards));
        let mut sums = [0; 3];
        let mut number = 0;
        for (replica, app, units) in steps {
            match units {
                Some(units) => {
                    sums[app] += units;
                    spend(&replicas[replica], &set, APPS[app], units);
                }
                None => {
                    number += 1;
                    tell(&replicas[replica], &replicas[1 - replica], &set, number);
                }
            }
        }
        for (from, to) in [(0, 1), (1, 0)] {
            tell(&replicas[from], &replicas[to], &set, number + 1);
        }
        let used = sums.iter().filter(|sum| **sum > 0).count();
        let expected = if used == 0 { 0 } else { used * 3 + 1 };
        for replica in &replicas {
            expect_sums(replica, &set, sums);
            prop_assert_eq!(replica.count(), expected, "none came to be twice");
            let own = replica.own_names(|_| true).collect::<Vec<_>>();
            prop_assert!(own.iter().all(|(limit, key)| replica.has_own(*limit, *key)));
            prop_assert_eq!(replica.own_of(own.clone(), revision(99)).len(), own.len());
            replica.prune(at(10_000 * 3_600_000), |id| {
                set.limits().find(|(known, ..)| *known == id).map(|(_, _, _, limit)| limit.spec)
            });
            prop_assert_eq!(replica.count(), 0, "all are over, and forgotten");
            expect_sums(replica, &set, [0; 3]);
        }
    }
}

#[test]
fn whoever_asks_while_others_tell_meets_one_counter() {
    let set = set();
    for shards in [1, 2, 3, 512] {
        for round in 0..50 {
            let (peer, counters) = (
                Counters::new(ReplicaId(2), usize::MAX),
                Counters::with_shards(ReplicaId(1), usize::MAX, shards),
            );
            for app in APPS {
                spend(&peer, &set, app, 5);
            }
            let barrier = Barrier::new(4);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    barrier.wait();
                    tell(&peer, &counters, &set, round + 1);
                });
                for _ in 0..3 {
                    scope.spawn(|| {
                        barrier.wait();
                        for app in APPS {
                            spend(&counters, &set, app, 1);
                        }
                    });
                }
            });
            expect_sums(&counters, &set, [8; 3]);
            assert_eq!(counters.count(), 10, "none came to be twice");
        }
    }
}

/// However counters are named and moved, each takes the room of one, and gives it back when it goes.
#[test]
fn each_takes_the_room_of_one_wherever_it_lies() {
    let set = set();
    let (peer, counters) = (
        Counters::new(ReplicaId(2), usize::MAX),
        Counters::new(ReplicaId(1), 6),
    );
    for app in ["a", "b"] {
        spend(&peer, &set, app, 5);
    }
    let mut told = peer.take_changed(1_000, revision(1));
    // Of the seven one finds no room, wherever it would lie.
    told.sort_by_key(|entry| entry.limit);
    for entry in told {
        let found = set.limits().find(|(id, ..)| *id == entry.limit);
        let limit = &found.unwrap().3.spec;
        counters.merge(
            entry.limit,
            entry.counter,
            limit,
            entry.message.clone(),
            at(0),
        );
    }
    assert_eq!((counters.count(), counters.refused()), (6, 1), "all told");
    // Asked for by values they move, and none is added, nor one for whoever is new.
    for app in ["a", "b", "c", "a"] {
        spend(&counters, &set, app, 1);
        assert_eq!(counters.count(), 6, "after {app}");
    }
    let asked = |app: &str| -> Vec<_> { spend(&counters, &set, app, 0) };
    let known = |of: &[(String, i128)]| of.iter().filter(|(_, used)| *used > 0).count();
    let (a, b, c) = (asked("a"), asked("b"), asked("c"));
    let shared = usize::from(a.iter().any(|(name, used)| name == "all" && *used > 0));
    assert_eq!(known(&a) + known(&b), 6 + shared, "{a:?} {b:?}");
    assert_eq!(known(&c), shared, "no room: {c:?}");
    let spec_of = |id| {
        let found = set.limits().find(|(known, ..)| *known == id);
        found.map(|(_, _, _, limit)| limit.spec)
    };
    counters.prune(at(10_000 * 3_600_000), spec_of);
    assert_eq!((counters.count(), counters.is_full()), (0, false), "over");
    assert!(!counters.places.has_any_by_key(), "nor is a place left");
    spend(&counters, &set, "c", 2);
    assert_eq!(counters.count(), 4, "there is room again");
    counters.prune(at(0), |_| None);
    assert_eq!(counters.count(), 0, "gone with their limits");
}

/// What is there is known, under whatever name; what is not there lacks, and is not made by asking.
#[test]
fn what_lacks_is_told_from_what_was_only_told() {
    let set = set();
    let (peer, counters) = (
        Counters::new(ReplicaId(2), usize::MAX),
        Counters::new(ReplicaId(1), 4),
    );
    spend(&peer, &set, "a", 5);
    tell(&peer, &counters, &set, 1);
    assert!(counters.is_full(), "four limits");
    let lacking = |app: &str| {
        let request = Request {
            app: Some(app),
            ..Request::default()
        };
        let mut lacking = 0;
        set.each_holding(&request, counters.placing(), |holds| {
            let Placed::Counts(place) = holds.placed else {
                panic!("nothing is denied");
            };
            let counted = Counted {
                limit: &holds.limit.spec,
                id: holds.id,
                key: Named::values(place, holds.limit, &request),
                moment: holds.limit.spec.moment(at(0)),
                asked: Asked::Unknown,
                charge: Units::ONE,
            };
            lacking += usize::from(counters.lacks(&counted));
        });
        lacking
    };
    assert_eq!(
        (lacking("a"), lacking("b")),
        (0, 3),
        "told by key: all but what all share"
    );
    spend(&counters, &set, "a", 1);
    assert_eq!((lacking("a"), lacking("b")), (0, 3), "and moved");
    assert_eq!(counters.refused(), 6, "each look once");
}

#[test]
fn a_key_that_others_tell_of_another_limit_is_another_counter() {
    let set = set();
    let counters = Counters::new(ReplicaId(1), 100);
    let other = Counters::new(ReplicaId(2), 100);
    spend(&counters, &set, "a", 1);
    spend(&other, &set, "a", 5);
    for entry in other.take_changed(1_000, revision(1)) {
        // As a peer may say by mistake: the key of one limit's counter, and all limits.
        for (id, _, _, limit) in set.limits() {
            let message = entry.message.clone();
            counters.merge(id, entry.counter, &limit.spec, message, at(0));
        }
    }
    let used = spend(&counters, &set, "a", 0);
    let used: Vec<_> = used.iter().map(|(_, used)| *used).collect();
    assert_eq!(used, [6; 4], "nothing is mixed up");
}
