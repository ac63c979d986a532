//! Denials by hand, and what is not as it was recorded.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails"
)]

use proptest::prelude::*;

use super::*;
use crate::account::{Grounds, Level, Levels, Origin, OriginSum, SlotSum};
use crate::hash::Hash128;
use crate::ids::ChainId;
use crate::policy::CompiledSet;
use crate::policy::files::{PolicyFile, compile_files};
use crate::units::Units;

/// 2026-10-24T21:00:00Z.
const AT: i64 = 1_792_875_600_000;

const POLICIES: &str = r#"
name: budgets
limits:
  - { name: day, meter: cost, limit: "5", per: [app], window: { calendar: day, timezone: Europe/Berlin }, from: log }
  - { name: minutes, meter: requests, limit: 5, missing_key: deny, per: [user], window: { sliding: 10m } }
  - { name: pace, meter: requests, limit: 2, algorithm: token_bucket, refill: { every: 10s, amount: 1 }, capacity: 2 }
on_unavailable: { decide: deny, after: 5s }
"#;

fn set() -> CompiledSet {
    compile_files(&[PolicyFile::new("test.yaml", POLICIES.to_owned())]).unwrap()
}

fn limit_of(set: &CompiledSet, name: &str) -> (Policy, Limit) {
    let found = set.limits().find(|(_, _, _, limit)| limit.name == name);
    let (_, policy, _, limit) = found.unwrap();
    (policy.clone(), limit.clone())
}

fn at(ms: i64) -> UnixMs {
    UnixMs::new(AT + ms).unwrap()
}

fn denial(reason: Reason, from: CountedFrom) -> Denial {
    Denial {
        id: "0000000000000001-1".to_owned(),
        at: at(0),
        reason,
        policy: "budgets".to_owned(),
        attachment: String::new(),
        limit: "day".to_owned(),
        version: Version(1),
        limit_id: LimitId(Hash128::of(b"limit")),
        counter: None,
        from,
        key: vec![("app".to_owned(), Some("shop".to_owned()))],
        verdict: None,
        as_of: None,
        grounds: None,
        request: Vec::new(),
    }
}

/// Five of the currency, counted by one chain in the window of the day.
fn over() -> (LimitSpec, Denial) {
    let (_, limit) = limit_of(&set(), "day");
    let slot = limit.spec.moment(at(0)).slot;
    let five = Units::new(5_000_000_000_000_000_000);
    let mut denial = denial(Reason::Over, CountedFrom::Log);
    denial.grounds = Some(Grounds {
        origins: vec![OriginSum {
            origin: Origin::Chain(ChainId(1)),
            revision: None,
            sum: five,
        }],
        slots: vec![SlotSum {
            start: slot.start(),
            sum: five,
        }],
        ..Grounds::default()
    });
    let verdict = Verdict {
        is_over: true,
        used: five,
        asked: Units::ONE,
        limit: five,
        remaining: Units::ZERO,
        reset: slot.end(),
        retry: Some(slot.end()),
    };
    denial.verdict = Some(verdict);
    (limit.spec, denial)
}

#[test]
fn a_denial_is_worked_out_again() {
    let (limit, denial) = over();
    let again = recompute(&limit, &denial).unwrap();
    assert_eq!(again.verdict, denial.verdict.unwrap(), "the same code");
    assert_eq!(again.differences, [], "and the same numbers");
}

#[test]
fn what_was_changed_is_named() {
    type Change = fn(&mut Verdict);
    let rows: [(Change, &[Difference]); 5] = [
        (
            |it| it.used = Units::ZERO,
            &[Difference::Used, Difference::Origins],
        ),
        (|it| it.limit = Units::ONE, &[Difference::Limit]),
        (|it| it.remaining = Units::ONE, &[Difference::Remaining]),
        (|it| it.reset = at(1), &[Difference::Reset]),
        (|it| it.retry = None, &[Difference::Retry]),
    ];
    for (change, differences) in rows {
        let (limit, mut denial) = over();
        change(denial.verdict.as_mut().unwrap());
        let again = recompute(&limit, &denial).unwrap();
        assert_eq!(again.differences, differences, "{denial:?}");
    }
    // Less was used than the limit, so nothing refuses.
    let (limit, mut denial) = over();
    let grounds = denial.grounds.as_mut().unwrap();
    grounds
        .slots
        .iter_mut()
        .for_each(|slot| slot.sum = Units::ONE);
    let again = recompute(&limit, &denial).unwrap();
    assert_eq!(
        again.differences.first(),
        Some(&Difference::Outcome),
        "{again:?}"
    );
}

#[test]
fn a_bucket_drains_from_the_later_of_its_levels() {
    let (_, limit) = limit_of(&set(), "pace");
    let mut denial = denial(Reason::Over, CountedFrom::Decision);
    // Two units times 10,000 ms each, three seconds ago: 17,000 are left, which are two when rounded up.
    let level = |ms, level| Level { at: at(ms), level };
    denial.grounds = Some(Grounds {
        levels: Some(Levels {
            merged: level(-5_000, 20_000),
            own: level(-3_000, 20_000),
        }),
        ..Grounds::default()
    });
    denial.verdict = Some(Verdict {
        is_over: true,
        used: Units::new(2),
        asked: Units::ONE,
        limit: Units::new(2),
        remaining: Units::ZERO,
        reset: at(17_000),
        retry: Some(at(7_000)),
    });
    let again = recompute(&limit.spec, &denial).unwrap();
    assert_eq!(again.differences, [], "{:?}", again.verdict);
    assert_eq!(counted_span(&limit.spec, at(0)), None, "it forgets evenly");
}

#[test]
fn what_looked_at_no_numbers_is_refused_by_the_policy() {
    let set = set();
    let (policy, day) = limit_of(&set, "day");
    let (_, minutes) = limit_of(&set, "minutes");
    let missing = |name: &str| Reason::MissingKey(name.to_owned());
    let known = |ms| {
        let mut denial = denial(Reason::Unavailable, CountedFrom::Log);
        denial.as_of = Some(at(ms));
        denial
    };
    let rows = [
        (
            &minutes,
            denial(missing("user"), CountedFrom::Decision),
            true,
        ),
        (
            &minutes,
            denial(missing("app"), CountedFrom::Decision),
            false,
        ),
        (&day, denial(missing("app"), CountedFrom::Log), false),
        (&day, denial(Reason::Unavailable, CountedFrom::Log), true),
        (&day, known(-5_001), true),
        (&day, known(-5_000), false),
        (&minutes, known(-5_001), false),
    ];
    for (limit, denial, expected) in rows {
        assert_eq!(
            is_refused_by(&policy, limit, &denial),
            expected,
            "{denial:?}"
        );
        assert_eq!(
            recompute(&limit.spec, &denial),
            None,
            "there are no numbers"
        );
    }
}

proptest! {
    #[test]
    fn the_span_holds_the_slots_that_count(now in 0..10_000_000_i64, length in 1_000..7_200_000_i64) {
        let window = crate::window::WindowLength::from_ms(length).unwrap();
        let algorithm = Algorithm::Window(WindowSpec::Sliding(window));
        let (_, minutes) = limit_of(&set(), "minutes");
        let spec = &minutes.spec;
        let limit = LimitSpec::new(spec.meter(), algorithm, spec.limit(), spec.enforce()).unwrap();
        let span = counted_span(&limit, at(now)).unwrap();
        let rule = algorithm.slots();
        let counts = |slot: Span| at(now).get() - slot.end().get() < length;
        let first = rule.slot_at(span.start());
        prop_assert_eq!(first.start(), span.start(), "it begins with a slot");
        prop_assert!(counts(first), "which counts");
        let before = rule.slot_at(span.start().saturating_add_ms(-1));
        prop_assert!(!counts(before), "and the one before does not");
        prop_assert!(span.contains(at(now)), "up to the present one");
    }
}
