//! Series of a ledger by hand: which are taken, and what of them is since.

use std::sync::Arc;

use domain::policy::Keyed;
use domain::policy::files::{PolicyFile, compile_files};
use domain::policy::model::LimitId;
use domain::request::Request;
use domain::series::Series;

use super::*;

const POLICIES: &str = r#"
name: budgets
limits:
  - { name: cost, meter: cost, limit: "5", per: [app], window: { calendar: day }, from: log, unpriced_rate: "0.5" }
  - { name: tokens, meter: total_tokens, limit: 100, per: [app], window: { sliding: 10m }, from: log }
"#;

/// 2026-10-24T21:00:00Z.
const AT: i64 = 1_792_875_600_000;

fn at(ms: i64) -> UnixMs {
    UnixMs::FIRST.saturating_add_ms(AT + ms)
}

fn limits() -> LogLimits {
    let set = compile_files(&[PolicyFile::new("test.yaml", POLICIES.to_owned())]);
    LogLimits::of(Arc::new(set.expect("well-formed"))).expect("they count from the log")
}

fn series(app: &str, model: &str, session: &str) -> Series {
    Series {
        tenant: "default".to_owned(),
        app: app.to_owned(),
        user: String::new(),
        session: session.to_owned(),
        route: String::new(),
        provider: "openai".to_owned(),
        model: model.to_owned(),
    }
}

/// Returns a limit's identity and its counter for an application.
fn counter(limits: &LogLimits, name: &str, app: &str) -> (LimitId, CounterKey) {
    let series = series(app, "m", "");
    let request = Request::of_series(&series);
    let mut applies = limits.set().matching(&request);
    let found = applies.find(|applies| applies.limit.name == name);
    let found = found.expect("it matches");
    let Keyed::Counts(counter) = found.keyed else {
        panic!("it has its key");
    };
    (found.id, counter)
}

fn used(
    series: Series,
    is_since: bool,
    requests: i128,
    amount: i128,
    unpriced: i128,
) -> SeriesBehind {
    let mut quantities = PerMeter::<i128>::default();
    quantities.set(Meter::Requests, requests);
    quantities.set(Meter::InputUncachedTokens, requests * 10);
    SeriesBehind {
        is_since,
        series,
        quantities,
        amount,
        unpriced,
    }
}

fn behind(series: Vec<SeriesBehind>) -> Behind {
    Behind {
        at: at(0),
        policies: None,
        accounts: Vec::new(),
        chains: Vec::new(),
        replicas: Vec::new(),
        series,
    }
}

fn names(uses: &Uses) -> Vec<(&str, i128, i128)> {
    let (all, _) = uses.biggest(99);
    let name = |used: &Use| (used.events, used.counted.get());
    all.iter()
        .map(|used| (used.model.as_str(), name(used).0, name(used).1))
        .collect()
}

#[test]
fn only_the_counters_own_series_are_taken_and_what_came_since_is_apart() {
    let limits = limits();
    let (id, counter) = counter(&limits, "cost", "shop");
    let behind = behind(vec![
        used(series("shop", "a", "s1"), false, 5, 70, 0),
        used(series("shop", "a", "s2"), false, 2, 30, 0),
        used(series("shop", "a", "s2"), true, 1, 10, 0),
        // Without a price, at the policy's ceiling.
        used(series("shop", "b", ""), false, 1, 0, 3),
        used(series("shop", "c", ""), false, 4, 20, 0),
        used(series("shop", "c", ""), true, 4, 20, 0),
        used(series("other", "a", ""), false, 9, 900, 0),
    ]);
    let span = Span::new(at(0), at(QUARTER_MS)).expect("it has a length");
    let ledger = Ledger::of(&limits, id, counter, &behind, span).expect("it counts from the log");
    let ceiling = 3 * 500_000_000_000_000_000;
    assert_eq!(
        names(&ledger.known),
        [("b", 1, ceiling), ("a", 6, 90)],
        "biggest first"
    );
    assert_eq!(names(&ledger.since), [("c", 4, 20), ("a", 1, 10)], "since");
    assert_eq!(ledger.now().get(), ceiling + 120, "all of it");
    assert!(ledger.is_exact, "a day is a sum of quarter-hours");
    let (listed, rest) = ledger.known.biggest(1);
    assert_eq!(
        (
            listed.len(),
            rest.map(|(count, sum)| (count, sum.counted.get()))
        ),
        (1, Some((1, 90))),
        "the others are summed"
    );
    let total = ledger.known.total();
    assert_eq!(
        (total.events, total.tokens, total.cost),
        (7, 70, 90),
        "{total:?}"
    );
}

#[test]
fn a_sliding_window_is_shown_by_the_quarter_hours_that_it_touches() {
    let limits = limits();
    let (id, counter) = counter(&limits, "tokens", "shop");
    let behind = behind(vec![used(series("shop", "a", ""), false, 5, 70, 0)]);
    let touched = Span::new(at(-1), at(1)).expect("it has a length");
    let span = quarters(touched).expect("it has a length");
    assert_eq!(
        (span.start(), span.end()),
        (at(-QUARTER_MS), at(QUARTER_MS)),
        "both"
    );
    let whole = Span::new(at(0), at(QUARTER_MS)).expect("it has a length");
    assert_eq!(quarters(whole), Some(whole), "and no other");
    let ledger = Ledger::of(&limits, id, counter, &behind, span).expect("it counts from the log");
    assert!(!ledger.is_exact, "its slots are shorter");
    assert_eq!(names(&ledger.known), [("a", 5, 50)], "tokens");
}
