//! One replica: every algorithm against the list of all events.

use proptest::prelude::*;

use super::models::{
    Does, Events, OWN, Step, algorithms, at, bucket, buckets, calendar, charge, fixed, limit,
    sliding, steps, windows,
};
use crate::account::{Account, Counter, Message, Origin, OriginUse, ReplicaId, Revision, SlotSum};
use crate::decision::Asked;
use crate::limit::{Algorithm, LimitSpec};
use crate::time::UnixMs;
use crate::units::Units;
use crate::window::{Period, WindowSpec};

fn asked(units: i128) -> Asked {
    Asked::Units(Units::new(units))
}

fn revision(number: i64) -> Revision {
    Revision { epoch: 0, number }
}

/// How far the steps set the clock back: three of the shortest slots.
const BACK_MS_MAX: i64 = 3_000;

/// Never further back than that behind the greatest time.
fn clamped(now: i64, greatest: i64) -> i64 {
    now.max(greatest - BACK_MS_MAX).max(0)
}

/// Does what the steps say to a counter and to the list; compares every verdict.
fn play(steps: &[Step], algorithm: Algorithm, capacity: i128) -> (Counter, Events, UnixMs) {
    let limit = limit(algorithm, capacity);
    let mut counter = Counter::new(&limit, OWN);
    let mut events = Events::default();
    let (mut ms, mut greatest) = (0_i64, 0_i64);
    for step in steps {
        ms = clamped(ms + step.ms, greatest);
        greatest = greatest.max(ms);
        let (now, units) = (at(ms), i128::from(step.units));
        let used = events.used(&algorithm, now);
        let ask = match step.does {
            Does::Asks | Does::Reports => asked(units),
            Does::AsksBlindly => Asked::Unknown,
        };
        let verdict = counter.check(&limit, limit.moment(now), ask);
        let is_over = match ask {
            Asked::Units(units) => used + units.get() > capacity,
            Asked::Unknown => used >= capacity,
        };
        assert_eq!(verdict.used, Units::new(used), "{step:?} at {now}");
        assert_eq!(verdict.is_over, is_over, "{step:?} at {now}: {verdict:?}");
        let left = Units::new((capacity - used).max(0));
        assert_eq!(verdict.remaining, left, "{step:?} at {now}");
        let is_charged = match step.does {
            Does::Asks | Does::AsksBlindly => !is_over,
            Does::Reports => true,
        };
        if is_charged {
            charge(&mut counter, &mut events, &limit, now, units);
        }
    }
    (counter, events, at(greatest))
}

proptest! {
    #[test]
    fn every_algorithm_answers_as_the_list_of_all_events_does(
        steps in steps(300),
        algorithm in algorithms(),
        capacity in 0..200_i128,
    ) {
        play(&steps, algorithm, capacity);
    }

    #[test]
    fn a_denied_ask_fits_at_its_retry_and_not_a_millisecond_before(
        steps in steps(100),
        algorithm in algorithms(),
        capacity in 1..200_i128,
        units in 1..250_i128,
    ) {
        let (mut counter, _, now) = play(&steps, algorithm, capacity);
        let limit = limit(algorithm, capacity);
        let mut is_over = |now| counter.check(&limit, limit.moment(now), asked(units)).is_over;
        let was_over = is_over(now);
        let verdict = counter.check(&limit, limit.moment(now), asked(units));
        match verdict.retry {
            Some(retry) => {
                let mut is_over = |now| counter.check(&limit, limit.moment(now), asked(units)).is_over;
                prop_assert!(was_over, "no retry where it fits");
                prop_assert!(retry > now, "{} is not after {}", retry, now);
                prop_assert!(!is_over(retry), "does not fit at {}", retry);
                let before = retry.saturating_add_ms(-1);
                prop_assert!(is_over(before), "fits at {}", before);
            }
            None => prop_assert!(!was_over || units > capacity, "{:?}", verdict),
        }
    }

    #[test]
    fn at_the_reset_nothing_of_now_counts_and_before_it_something_does(
        steps in steps(100),
        algorithm in algorithms(),
    ) {
        let (mut counter, _, now) = play(&steps, algorithm, 100);
        let limit = limit(algorithm, 100);
        let mut used = |now| counter.check(&limit, limit.moment(now), asked(0)).used;
        let used_now = used(now);
        let reset = counter.check(&limit, limit.moment(now), asked(0)).reset;
        let mut used = |now| counter.check(&limit, limit.moment(now), asked(0)).used;
        prop_assert_eq!(used(reset), Units::ZERO);
        if !used_now.is_zero() {
            prop_assert!(used(reset.saturating_add_ms(-1)) > Units::ZERO);
        }
        prop_assert!(counter.is_idle(&limit, reset));
    }

    #[test]
    fn sliding_windows_err_by_what_one_slot_length_took_before_them(
        steps in steps(200),
        ms in 1_000..200_000_i64,
    ) {
        let algorithm = sliding(ms);
        let (mut counter, events, greatest) = play(&steps, algorithm, 100);
        let limit = limit(algorithm, 100);
        let slot_ms = algorithm.slots().slot_ms(greatest);
        for later in [0, 1, 500, 999, 5_000, 60_000] {
            let now = greatest.saturating_add_ms(later);
            let used = counter.check(&limit, limit.moment(now), asked(0)).used.get();
            prop_assert!(used >= events.exact_sliding(ms, now), "frees use early");
            prop_assert!(used <= events.exact_sliding(ms + slot_ms, now), "keeps use long");
        }
    }

    #[test]
    fn slots_of_buckets_err_by_what_one_slot_length_refills(
        steps in steps(300),
        algorithm in buckets(),
    ) {
        let (counter, events, now) = play(&steps, algorithm, 100);
        let limit = limit(algorithm, 100);
        let mut account = Account::default();
        account.merge(counter.message(revision(1)));
        let slots = account.level(&limit, now).get();
        let exact = events.used(&algorithm, now);
        let (Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill)) = algorithm else {
            unreachable!("a bucket")
        };
        // A clock that is set back makes the slot of a charge that much earlier.
        let early_ms = i128::from(algorithm.slots().slot_ms(now) + BACK_MS_MAX);
        let refilled = refill.amount.get() * early_ms / i128::from(refill.every.ms()) + 1;
        prop_assert!(slots <= exact, "{} used by slots, {} exactly", slots, exact);
        prop_assert!(exact <= slots + refilled, "{} used by slots, {} exactly", slots, exact);
    }

    #[test]
    fn an_account_of_its_message_has_the_level_of_the_counter(
        steps in steps(200),
        algorithm in windows(),
    ) {
        let (mut counter, _, now) = play(&steps, algorithm, 100);
        let limit = limit(algorithm, 100);
        let mut account = Account::default();
        account.merge(counter.message(revision(1)));
        let used = counter.check(&limit, limit.moment(now), asked(0)).used;
        prop_assert_eq!(account.level(&limit, now), used);
    }

    #[test]
    fn raising_or_lowering_a_limit_keeps_what_was_counted(
        steps in steps(100),
        algorithm in algorithms(),
        other in 0..500_i128,
    ) {
        let (mut counter, events, now) = play(&steps, algorithm, 100);
        let limit = limit(algorithm, other);
        let verdict = counter.check(&limit, limit.moment(now), Asked::Unknown);
        let used = events.used(&algorithm, now);
        prop_assert_eq!(verdict.used, Units::new(used));
        prop_assert_eq!(verdict.is_over, used >= other);
    }

    #[test]
    fn a_clock_set_back_frees_no_use(
        steps in steps(100),
        algorithm in algorithms(),
        back in 0..10_000_000_i64,
    ) {
        let (mut counter, _, now) = play(&steps, algorithm, 100);
        let limit = limit(algorithm, 100);
        let mut used = |now| counter.check(&limit, limit.moment(now), asked(0)).used;
        let before = used(now);
        let earlier = now.saturating_add_ms(-back);
        let same_window = limit.moment(earlier).slot == limit.moment(now).slot;
        let is_tiled = matches!(
            algorithm,
            Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_))
        );
        if is_tiled && !same_window {
            // Each window keeps its own use, and gives it back when the clock comes forward again.
            used(earlier);
            prop_assert_eq!(used(now), before);
        } else {
            prop_assert!(used(earlier) >= before, "{} frees {}", earlier, back);
        }
        let moment = limit.moment(UnixMs::FIRST);
        counter.charge(&limit, moment, Units::ONE);
        let verdict = counter.check(&limit, moment, Asked::Unknown);
        prop_assert!(verdict.remaining <= Units::new(100));
    }
}

/// Asks for one unit a given number of times at an instant; returns how many are admitted.
fn admitted(counter: &mut Counter, limit: &LimitSpec, ms: i64, times: usize) -> usize {
    let moment = limit.moment(at(ms));
    let admits = (0..times).filter(|_| {
        let is_over = counter.check(limit, moment, asked(1)).is_over;
        if !is_over {
            counter.charge(limit, moment, Units::ONE);
        }
        !is_over
    });
    admits.count()
}

#[test]
fn bursts_and_refills_are_those_of_the_algorithms() {
    // Algorithm, limit, then (ms, asks, admitted).
    type Case = (Algorithm, i128, &'static [(i64, usize, usize)]);
    let cases: &[Case] = &[
        (
            bucket(50, 30_000),
            200,
            &[(0, 300, 200), (599, 5, 0), (600, 5, 1), (30_000, 100, 49)],
        ),
        // An even pace of ten a second, from within a slot on.
        (
            bucket(10, 1_000),
            1,
            &[
                (950, 5, 1),
                (1_049, 5, 0),
                (1_050, 5, 1),
                (1_149, 1, 0),
                (1_150, 9, 1),
            ],
        ),
        (
            fixed(60_000),
            3,
            &[(0, 5, 3), (59_999, 1, 0), (60_000, 5, 3)],
        ),
        (
            sliding(60_000),
            3,
            &[(500, 5, 3), (60_999, 1, 0), (61_000, 5, 3)],
        ),
        // 2026-10-24T23:00 in Berlin: the next day begins an hour later and lasts 25.
        (
            calendar(Period::Day),
            2,
            &[
                (0, 3, 2),
                (3_599_999, 1, 0),
                (3_600_000, 3, 2),
                (26 * 3_600_000 - 1, 1, 0),
                (26 * 3_600_000, 3, 2),
            ],
        ),
        (calendar(Period::Minute), 0, &[(0, 2, 0)]),
    ];
    for (algorithm, units, asks) in cases {
        let limit = limit(*algorithm, *units);
        let mut counter = Counter::new(&limit, OWN);
        for (ms, times, expected) in *asks {
            let count = admitted(&mut counter, &limit, *ms, *times);
            assert_eq!(count, *expected, "{algorithm:?} after {ms} ms");
        }
    }
}

#[test]
fn token_and_leaky_buckets_of_one_size_admit_the_same() {
    let token = bucket(7, 1_000);
    let Algorithm::TokenBucket(refill) = token else {
        unreachable!("a token bucket")
    };
    let [token, leaky] = [token, Algorithm::LeakyBucket(refill)].map(|of| limit(of, 5));
    let mut counters = [&token, &leaky].map(|limit| Counter::new(limit, OWN));
    for ms in (0..20_000).step_by(37) {
        let [tokens, water] = &mut counters;
        let tokens = admitted(tokens, &token, ms, 2);
        let water = admitted(water, &leaky, ms, 2);
        assert_eq!(tokens, water, "after {ms} ms");
    }
}

#[test]
fn what_does_not_fit_into_128_bits_saturates_and_denies() {
    for algorithm in [bucket(1, 1), sliding(60_000), fixed(60_000)] {
        let limit = limit(algorithm, 100);
        let mut counter = Counter::new(&limit, OWN);
        for ms in [0, 1, 1_000, 2_000] {
            counter.charge(&limit, limit.moment(at(ms)), Units::new(i128::MAX));
        }
        let verdict = counter.check(&limit, limit.moment(at(3_000)), asked(i128::MAX));
        assert!(verdict.is_over, "{algorithm:?}: {verdict:?}");
        assert_eq!(verdict.remaining, Units::ZERO, "{algorithm:?}");
        assert_eq!(
            verdict.retry, None,
            "{algorithm:?}: more than the limit never fits"
        );
        let mut account = Account::default();
        account.merge(counter.message(revision(1)));
        assert!(
            account.level(&limit, at(3_000)) > Units::new(100),
            "{algorithm:?}"
        );
    }
}

#[test]
fn a_counter_forgets_windows_that_its_algorithm_no_longer_needs() {
    let limits = [limit(calendar(Period::Minute), 9), limit(sliding(1_000), 9)];
    for limit in limits {
        let mut counter = Counter::new(&limit, OWN);
        for minute in 0..10_000 {
            admitted(&mut counter, &limit, minute * 60_000, 1);
        }
        let kept = counter.message(revision(1)).use_.slots().len();
        assert!(kept <= 64, "{kept} slots of {limit:?}");
        let used = counter.check(&limit, limit.moment(at(9_999 * 60_000)), asked(0));
        assert_eq!(used.used, Units::ONE, "{limit:?}");
    }
}

#[test]
fn a_clock_set_back_by_many_windows_goes_on_counting() {
    for (algorithm, window) in [(fixed(1_000), 1_000), (calendar(Period::Minute), 60_000)] {
        let limit = limit(algorithm, 3);
        let mut counter = Counter::new(&limit, OWN);
        for number in 0..8 {
            counter.charge(&limit, limit.moment(at(number * window)), Units::ONE);
        }
        for back in [2, 0, -40] {
            let moment = limit.moment(at(back * window));
            let admitted = (0..9).filter(|_| {
                let verdict = counter.check(&limit, moment, asked(1));
                if !verdict.is_over {
                    counter.charge(&limit, moment, Units::ONE);
                }
                !verdict.is_over
            });
            assert_eq!(admitted.count(), 3, "{algorithm:?}, window {back}");
        }
        // Those ahead went, the farthest first.
        let starts = counter.message(revision(1)).use_.slots().len();
        assert_eq!(starts, 4, "{algorithm:?}");
    }
}

#[test]
fn the_present_window_of_a_replica_whose_clock_is_behind_counts() {
    let limit = limit(fixed(1_000), 100);
    let mut counter = Counter::new(&limit, OWN);
    for replica in 2..7_u64 {
        let slots = (0..4).map(|number| SlotSum {
            start: at(i64::try_from(replica).unwrap() * 1_000 + number * 1_000),
            sum: Units::ONE,
        });
        counter.merge(
            &limit,
            Message {
                origin: Origin::Replica(ReplicaId(replica)),
                use_: OriginUse::new(revision(1), Units::new(4), slots.collect()),
                base: None,
            },
        );
    }
    let verdict = counter.check(&limit, limit.moment(at(2_000)), asked(1));
    assert_eq!(verdict.used, Units::ONE, "that of the first replica");
}
