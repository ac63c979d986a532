//! Limits: what each meter counts and asks, which counters are one, which numbers are refused.

use super::*;
use crate::calendar::Tz;
use crate::meter::PerMeter;
use crate::window::{AnchorDay, Calendar, Period, Weekday, WindowLength};

fn units(units: i128) -> Units {
    Units::new(units)
}

fn refill(amount: i128, every_ms: i64) -> Refill {
    Refill {
        amount: units(amount),
        every: Interval::from_ms(every_ms).unwrap(),
    }
}

fn calendar(period: Period, zone: Tz) -> Algorithm {
    Algorithm::Window(WindowSpec::Calendar(Calendar { period, zone }))
}

#[test]
fn each_meter_counts_what_its_name_says() {
    // 1, 2, 4, … 512, in the order of the meters.
    let quantities = Quantities::from_array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    let cost = "0.25".parse().ok();
    let used = Used {
        quantities: &quantities,
        cost,
        computed: None,
    };
    let cases = [
        ("requests", Some(1)),
        ("images", Some(512)),
        ("input_cache_read_tokens", Some(4)),
        ("input_tokens", Some(2 + 4 + 8 + 16 + 32)),
        ("output_tokens", Some(64 + 128 + 256)),
        ("total_tokens", Some(2 + 4 + 8 + 16 + 32 + 64 + 128 + 256)),
        ("cost", Some(250_000_000_000_000_000)),
    ];
    for (name, expected) in cases {
        let meter = MeterSelector::from_name(name).unwrap();
        assert_eq!(meter.used(&used), expected.map(units), "{name}");
        assert_eq!(meter.name(), name, "{name}");
    }
    let computed = MeterSelector::Computed;
    assert_eq!(computed.used(&used), None, "no expression gave a value");
    assert_eq!(MeterSelector::from_name("computed"), None, "names no meter");
    let unpriced = Used { cost: None, ..used };
    assert_eq!(MeterSelector::Cost.used(&unpriced), None, "no price");
    let most = PerMeter::from_fn(|_| u64::MAX);
    let used = Used {
        quantities: &most,
        ..used
    };
    let total = MeterSelector::TotalTokens.used(&used);
    assert_eq!(total, Some(units(8 * i128::from(u64::MAX))), "fits");
}

#[test]
fn an_ask_asks_for_one_request_and_for_what_is_estimated() {
    let nothing = Estimate::default();
    let input = Estimate {
        input_tokens: Some(70),
        ..nothing
    };
    let both = Estimate {
        output_tokens: Some(5),
        cost: "0.5".parse().ok(),
        ..input
    };
    let cases = [
        ("requests", nothing, Asked::Units(units(1))),
        ("requests", both, Asked::Units(units(1))),
        ("input_tokens", nothing, Asked::Unknown),
        ("input_tokens", both, Asked::Units(units(70))),
        ("output_tokens", input, Asked::Unknown),
        ("output_tokens", both, Asked::Units(units(5))),
        ("total_tokens", nothing, Asked::Unknown),
        ("total_tokens", input, Asked::Units(units(70))),
        ("total_tokens", both, Asked::Units(units(75))),
        ("input_uncached_tokens", both, Asked::Unknown),
        ("cost", input, Asked::Unknown),
        ("cost", both, Asked::Units(units(500_000_000_000_000_000))),
    ];
    for (name, estimate, expected) in cases {
        let meter = MeterSelector::from_name(name).unwrap();
        assert_eq!(meter.asked(&estimate), expected, "{name} of {estimate:?}");
    }
}

#[test]
fn algorithms_that_count_otherwise_have_other_identities() {
    let length = |ms| WindowLength::from_ms(ms).unwrap();
    let day = |day| AnchorDay::new(day).unwrap();
    let others = [
        Algorithm::Window(WindowSpec::Fixed(length(60_000))),
        Algorithm::Window(WindowSpec::Fixed(length(61_000))),
        Algorithm::Window(WindowSpec::Sliding(length(60_000))),
        Algorithm::TokenBucket(refill(1, 60_000)),
        Algorithm::TokenBucket(refill(1, 60_001)),
        Algorithm::LeakyBucket(refill(1, 60_000)),
        calendar(Period::Day, Tz::UTC),
        calendar(Period::Day, Tz::Europe__Berlin),
        calendar(Period::Hour, Tz::UTC),
        calendar(Period::Week(Weekday::Mon), Tz::UTC),
        calendar(Period::Week(Weekday::Sun), Tz::UTC),
        calendar(Period::Month(day(1)), Tz::UTC),
        calendar(Period::Month(day(2)), Tz::UTC),
    ];
    let identity = |algorithm: &Algorithm| {
        let mut canonical = Canonical::new("test");
        algorithm.identify(&mut canonical);
        canonical.finish128()
    };
    let mut identities: Vec<_> = others.iter().map(identity).collect();
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), others.len(), "each is another counter");
    let [smaller, greater] = [1, 9].map(|amount| Algorithm::TokenBucket(refill(amount, 60_000)));
    assert_eq!(
        identity(&smaller),
        identity(&greater),
        "a greater refill keeps the counter"
    );
    assert_eq!(smaller.slots(), greater.slots(), "and its slots");
}

#[test]
fn numbers_that_make_no_limit_say_what_to_mend() {
    let of = |algorithm, limit| {
        let limit = LimitSpec::new(MeterSelector::Cost, algorithm, limit, Enforce::Soft);
        limit
            .map(|limit| limit.limit())
            .map_err(|error| error.to_string())
    };
    let most = units(UNITS_MAX);
    let window = Algorithm::Window(WindowSpec::Fixed(WindowLength::from_ms(1_000).unwrap()));
    let limit_text =
        "a limit is from 0 to 99999999999999999999 of the currency, or 10^38 - 1 units";
    let refill_text =
        "a refill brings at least 1 unit, and at most 99999999999999999999 of the currency";
    let bucket_text = "a bucket's capacity (or refill) times its interval is too large to count \
                       exactly; use a shorter interval with a smaller amount";
    let cases = [
        (of(window, units(0)), Ok(units(0))),
        (of(window, most), Ok(most)),
        (of(window, units(-1)), Err(limit_text)),
        (of(window, most.saturating_add(Units::ONE)), Err(limit_text)),
        (
            of(Algorithm::TokenBucket(refill(0, 1)), units(5)),
            Err(refill_text),
        ),
        (
            of(Algorithm::LeakyBucket(refill(-1, 1)), units(5)),
            Err(refill_text),
        ),
        (
            of(Algorithm::TokenBucket(refill(1, 1_000)), most),
            Err(bucket_text),
        ),
        (
            of(Algorithm::TokenBucket(refill(UNITS_MAX, 2)), units(5)),
            Err(bucket_text),
        ),
        // 25 of the currency, refilled each month.
        (
            of(
                Algorithm::TokenBucket(refill(25_000_000_000_000_000_000, 2_592_000_000)),
                units(25_000_000_000_000_000_000),
            ),
            Ok(units(25_000_000_000_000_000_000)),
        ),
    ];
    for (limit, expected) in cases {
        assert_eq!(
            limit.as_ref().map_err(String::as_str),
            expected.as_ref().map_err(|text| *text)
        );
    }
}
