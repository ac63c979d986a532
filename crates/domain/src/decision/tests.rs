//! Decisions: atomicity against lists of all events; which limit binds; candidates.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that overflows or misses an index fails"
)]

use proptest::prelude::*;

use super::*;
use crate::account::{Message, Origin, ReplicaId, Revision};
use crate::limit::{Algorithm, MeterSelector, Refill};
use crate::window::{Interval, WindowLength, WindowSpec};

const OWN: Origin = Origin::Replica(ReplicaId(1));

fn at(ms: i64) -> UnixMs {
    UnixMs::new(1_792_875_600_000 + ms).unwrap()
}

fn fixed(ms: i64) -> Algorithm {
    Algorithm::Window(WindowSpec::Fixed(WindowLength::from_ms(ms).unwrap()))
}

fn sliding(ms: i64) -> Algorithm {
    Algorithm::Window(WindowSpec::Sliding(WindowLength::from_ms(ms).unwrap()))
}

fn bucket(amount: i128, every_ms: i64) -> Algorithm {
    Algorithm::LeakyBucket(Refill {
        amount: Units::new(amount),
        every: Interval::from_ms(every_ms).unwrap(),
    })
}

fn limit(algorithm: Algorithm, units: i128, enforce: Enforce) -> LimitSpec {
    let units = Units::new(units);
    LimitSpec::new(MeterSelector::TotalTokens, algorithm, units, enforce).unwrap()
}

fn asked(units: i128) -> Asked {
    Asked::Units(Units::new(units))
}

/// Limits with their counters.
struct Held(Vec<(LimitSpec, Counter)>);

impl Held {
    fn new(limits: &[(Algorithm, i128, Enforce)]) -> Self {
        let limits = limits.iter().map(|(algorithm, units, enforce)| {
            let limit = limit(*algorithm, *units, *enforce);
            (limit, Counter::new(&limit, OWN))
        });
        Self(limits.collect())
    }

    fn rooms(&mut self, now: UnixMs, asked: Asked, charge: i128) -> Vec<Room<'_>> {
        let rooms = self.0.iter_mut().map(|(limit, counter)| {
            Room::new(limit, limit.moment(now), counter, asked, Units::new(charge))
        });
        rooms.collect()
    }

    fn decide(&mut self, now: UnixMs, asked: Asked, charge: i128) -> Decision {
        decide(&mut self.rooms(now, asked, charge))
    }

    /// What the counters hold.
    fn state(&self) -> Vec<Message> {
        let revision = Revision {
            epoch: 0,
            number: 0,
        };
        let messages = self.0.iter().map(|(_, counter)| counter.message(revision));
        messages.collect()
    }
}

#[test]
fn an_ask_is_denied_where_used_and_asked_pass_the_limit() {
    // Used, limit, asked, over.
    let cases = [
        (0, 0, asked(0), false),
        (0, 0, asked(1), true),
        (0, 0, Asked::Unknown, true),
        (9, 10, asked(1), false),
        (9, 10, Asked::Unknown, false),
        (9, 10, asked(2), true),
        (10, 10, asked(0), false),
        (10, 10, Asked::Unknown, true),
        (11, 10, asked(0), true),
        (11, 10, asked(-5), true),
    ];
    for algorithm in [fixed(60_000), sliding(60_000), bucket(1, 60_000)] {
        for (used, limit, asked, is_over) in cases {
            let mut held = Held::new(&[(algorithm, limit, Enforce::Soft)]);
            report(&mut held.rooms(at(0), asked, used));
            let before = held.state();
            let decision = held.decide(at(0), asked, 0);
            let verdict = decision.verdict.unwrap();
            assert_eq!(verdict.is_over, is_over, "{used} of {limit}, {asked:?}");
            assert_eq!(verdict.used, Units::new(used), "{used} of {limit}");
            assert_eq!(decision.outcome == Outcome::Deny, is_over, "{decision:?}");
            assert_eq!(held.state(), before, "{used} of {limit}, {asked:?}");
        }
    }
}

#[test]
fn a_report_is_charged_beyond_the_limit_and_closes_it() {
    let limits = [fixed(60_000), sliding(60_000), bucket(1, 60_000)];
    let mut held = Held::new(&limits.map(|algorithm| (algorithm, 100, Enforce::Soft)));
    let admitted = held.decide(at(0), asked(0), 0);
    assert_eq!(admitted.outcome, Outcome::Allow, "nothing is used");
    let reported = report(&mut held.rooms(at(1), asked(0), 250));
    assert_eq!(reported.outcome, Outcome::Deny, "the limit is passed now");
    let verdict = reported.verdict.unwrap();
    assert_eq!(verdict.used, Units::new(250), "charged in full");
    assert_eq!(verdict.remaining, Units::ZERO, "never negative");
    let next = held.decide(at(2), asked(0), 0);
    assert_eq!(next.outcome, Outcome::Deny, "an ask for nothing, too");
    // The bucket binds: 150 units above its capacity drain in as many minutes.
    assert_eq!(next.binding, Some(2), "{next:?}");
    let retry = next.verdict.and_then(|verdict| verdict.retry);
    assert_eq!(retry, Some(at(1 + 150 * 60_000)), "{next:?}");
}

#[test]
fn reset_is_that_of_after_the_charge() {
    let limits = [fixed(1_000), sliding(60_000), bucket(1, 1_000)];
    for (algorithm, ms) in limits.into_iter().zip([1_000, 61_000, 2_000]) {
        let mut held = Held::new(&[(algorithm, 10, Enforce::Soft)]);
        let mut rooms = held.rooms(at(0), asked(2), 2);
        let decision = decide(&mut rooms);
        assert_eq!(rooms[0].verdict.unwrap().reset, at(ms), "{algorithm:?}");
        let verdict = decision.verdict.unwrap();
        assert_eq!((verdict.used, verdict.reset), (Units::new(2), at(ms)));
        // The next one finds what this one told.
        let next = evaluate(&mut held.rooms(at(0), asked(0), 0));
        assert_eq!(next.verdict.unwrap().reset, at(ms), "{algorithm:?}");
    }
}

#[test]
fn a_limit_in_shadow_counts_and_does_not_deny() {
    let mut held = Held::new(&[
        (fixed(60_000), 1, Enforce::Shadow),
        (fixed(60_000), 3, Enforce::Soft),
    ]);
    let decisions: Vec<_> = (0..5).map(|ms| held.decide(at(ms), asked(1), 1)).collect();
    let outcomes: Vec<_> = decisions
        .iter()
        .map(|decision| (decision.outcome == Outcome::Allow, decision.shadow_denials))
        .collect();
    let expected = [(true, 0), (true, 1), (true, 1), (false, 1), (false, 1)];
    assert_eq!(outcomes, expected, "allowed, and denied in shadow");
    for decision in decisions {
        assert_eq!(decision.binding, Some(1), "shadow does not bind");
    }
    let used = held
        .rooms(at(5), asked(0), 0)
        .iter_mut()
        .map(|room| {
            let verdict = room.counter.check(room.limit, room.moment, room.asked);
            verdict.used.get()
        })
        .collect::<Vec<_>>();
    assert_eq!(used, [3, 3], "both are charged what was admitted");
}

#[test]
fn without_limits_everything_goes() {
    let decision = decide(&mut []);
    assert_eq!(decision.outcome, Outcome::Allow, "no limit denies");
    assert_eq!(
        (decision.binding, decision.verdict),
        (None, None),
        "none binds"
    );
}

#[test]
fn the_limit_that_binds_is_the_one_that_frees_last_or_has_the_least_left() {
    let limits = [
        (fixed(10_000), 100, Enforce::Soft),
        (fixed(3_600_000), 1_000, Enforce::Soft),
        (sliding(60_000), 200, Enforce::Soft),
    ];
    // What was reported, what is asked, and who binds.
    let cases = [
        (0, 0, 0),
        (50, 0, 0),
        (100, 0, 0),
        (100, 1, 0),
        (200, 1, 2),
        (1_000, 1, 1),
        // What is more than a limit never fits.
        (0, 150, 0),
        (200, 300, 0),
    ];
    for (used, ask, binding) in cases {
        let mut held = Held::new(&limits);
        report(&mut held.rooms(at(0), asked(0), used));
        let decision = held.decide(at(0), asked(ask), 0);
        assert_eq!(decision.binding, Some(binding), "{used} used, {ask} asked");
    }
}

#[test]
fn the_first_candidate_that_is_allowed_is_charged_alone() {
    let limits = |units| [(fixed(60_000), units, Enforce::Soft)];
    let mut all = [
        Held::new(&limits(0)),
        Held::new(&limits(2)),
        Held::new(&limits(9)),
    ];
    let mut chosen = Vec::new();
    for ms in 0..4 {
        let mut rooms: Vec<_> = all
            .iter_mut()
            .map(|held| held.rooms(at(ms), asked(1), 1))
            .collect();
        let choice = choose(rooms.iter_mut().map(Vec::as_mut_slice)).unwrap();
        chosen.push((choice.0, choice.1.outcome));
    }
    let expected = [1, 1, 2, 2].map(|index| (index, Outcome::Allow));
    assert_eq!(chosen, expected, "falls back when the second is used up");
    let totals = all.iter().map(|held| held.state()[0].use_.total().get());
    assert_eq!(
        totals.collect::<Vec<_>>(),
        [0, 2, 2],
        "charged where it went"
    );
}

#[test]
fn where_no_candidate_is_allowed_the_denial_that_ends_first_is_told() {
    let held = |ms| Held::new(&[(fixed(ms), 5, Enforce::Soft)]);
    let mut all = [held(3_600_000), held(10_000), held(60_000)];
    for held in &mut all {
        report(&mut held.rooms(at(0), asked(0), 5));
    }
    let mut rooms: Vec<_> = all
        .iter_mut()
        .map(|held| held.rooms(at(0), asked(1), 1))
        .collect();
    let (index, decision) = choose(rooms.iter_mut().map(Vec::as_mut_slice)).unwrap();
    assert_eq!(
        (index, decision.outcome),
        (1, Outcome::Deny),
        "{decision:?}"
    );
    assert_eq!(choose([]), None, "no candidate");
}

/// The obvious model: what each limit was charged, and when.
type Charged = Vec<Vec<(UnixMs, i128)>>;

fn used(algorithm: &Algorithm, charged: &[(UnixMs, i128)], now: UnixMs) -> i128 {
    let slots = algorithm.slots();
    let counting = charged.iter().filter(|(at, _)| match algorithm {
        Algorithm::Window(WindowSpec::Sliding(length)) => {
            now.get() - slots.slot_at(*at).end().get() < length.ms()
        }
        Algorithm::Window(_) | Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => {
            slots.slot_at(*at).contains(now)
        }
    });
    counting.map(|(_, units)| units).sum()
}

proptest! {
    #[test]
    fn all_limits_are_charged_or_none(
        limits in proptest::collection::vec(
            (
                prop_oneof![
                    (1_000..100_000_i64).prop_map(fixed),
                    (1_000..100_000_i64).prop_map(sliding),
                ],
                0..100_i128,
                prop_oneof![4 => Just(Enforce::Soft), 1 => Just(Enforce::Shadow)],
            ),
            1..6,
        ),
        asks in proptest::collection::vec((0..9_000_i64, 0..20_i128, 0..20_i128), 1..80),
    ) {
        let mut held = Held::new(&limits);
        let mut charged: Charged = limits.iter().map(|_| Vec::new()).collect();
        let mut ms = 0;
        for (wait, units, charge) in asks {
            ms += wait;
            let now = at(ms);
            let over: Vec<bool> = limits.iter().zip(&charged).map(|((algorithm, limit, _), charged)| {
                used(algorithm, charged, now) + units > *limit
            }).collect();
            let enforced = limits.iter().zip(&over);
            let is_denied = enforced
                .filter(|((_, _, enforce), _)| *enforce == Enforce::Soft)
                .any(|(_, is_over)| *is_over);
            let before = held.state();
            let mut rooms = held.rooms(now, asked(units), charge);
            let decision = decide(&mut rooms);
            let verdicts: Vec<_> = rooms.iter().map(|room| room.verdict.unwrap().is_over).collect();
            prop_assert_eq!(verdicts, over);
            prop_assert_eq!(decision.outcome == Outcome::Deny, is_denied);
            if is_denied {
                prop_assert_eq!(held.state(), before);
                prop_assert!(decision.verdict.unwrap().is_over, "a limit that is not over binds");
            } else {
                charged.iter_mut().for_each(|charged| charged.push((now, charge)));
                let index = decision.binding.unwrap();
                let expected = used(&limits[index].0, &charged[index], now);
                prop_assert_eq!(decision.verdict.unwrap().used, Units::new(expected));
            }
        }
        let now = at(ms);
        for (index, (algorithm, ..)) in limits.iter().enumerate() {
            let (limit, counter) = &mut held.0[index];
            let verdict = counter.check(limit, limit.moment(now), asked(0));
            prop_assert_eq!(verdict.used, Units::new(used(algorithm, &charged[index], now)));
        }
    }
}
