//! The oracle against what the upstream billed, and against cases worked out by hand.

use bigdecimal::BigDecimal;
use serde_json::Value;

use crate::harness::load;
use crate::harness::runner::Test;
use crate::harness::topic::Stored;
use crate::oracle::{Ledger, METERS, Oracle, Sums, compare, time};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(oracle_agrees_with_what_the_upstream_billed),
    test!(oracle_prices_tiers_and_stand_ins_as_worked_out_by_hand),
    test!(oracle_reads_times),
    test!(every_difference_between_ledgers_is_seen),
];

fn record(payload: &str, time: i64) -> Stored {
    Stored {
        key: None,
        partition: 0,
        offset: 0,
        payload: Some(payload.as_bytes().to_vec()),
        time,
    }
}

fn folded(lines: &[String]) -> Ledger {
    let mut oracle = Oracle::new("usage.envoy");
    for line in lines {
        oracle.fold(&record(line, load::now_ms()));
    }
    oracle.ledger
}

/// Sums what the upstream billed, by the same ten meters.
pub(super) fn billed_totals() -> [u128; 10] {
    let mut totals = [0; 10];
    for bill in load::billed() {
        totals[0] += 1;
        let usage = &bill["usage"];
        let at = |path: &str| usage.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let (cached, created, uncached, output) = if bill["provider"] == "anthropic" {
            let (read, created) = (
                at("/cache_read_input_tokens"),
                at("/cache_creation_input_tokens"),
            );
            (read, created, at("/input_tokens"), at("/output_tokens"))
        } else {
            let cached = at("/prompt_tokens_details/cached_tokens");
            (
                cached,
                0,
                at("/prompt_tokens") - cached,
                at("/completion_tokens"),
            )
        };
        let reasoning = at("/completion_tokens_details/reasoning_tokens");
        let parts = [
            (1, uncached),
            (2, cached),
            (3, created),
            (6, output - reasoning),
            (7, reasoning),
        ];
        for (meter, quantity) in parts {
            totals[meter] += u128::from(quantity);
        }
    }
    totals
}

fn oracle_agrees_with_what_the_upstream_billed() {
    let ledger = folded(&load::captured());
    let totals = billed_totals();
    for (meter, billed) in METERS.iter().zip(totals) {
        assert_eq!(ledger.total(meter), billed, "{meter}");
    }
    assert_eq!(ledger.counts.accepted, 1000, "{:?}", ledger.counts);
    let unattributed: u128 = ledger
        .rows
        .iter()
        .filter(|(key, _)| key.app == "unattributed")
        .map(|(_, sums)| sums.quantities[0])
        .sum();
    assert_eq!(unattributed, 27, "requests without a tenant");
    let failed: u128 = ledger.rows.values().map(|sums| sums.failed).sum();
    assert_eq!(failed, 25, "failed requests");
}

fn oracle_prices_tiers_and_stand_ins_as_worked_out_by_hand() {
    let at = time::format(load::now_ms());
    let line = |usage: &str| {
        format!(
            "{{\"gen_ai.provider.name\":\"anthropic\",\"gen_ai.request.model\":\"m\",\
             \"start_time\":\"{at}\",{usage}}}"
        )
    };
    let list = "provider,model,meter,above_input_tokens,usd_per_unit\n\
                anthropic,m,input_uncached_tokens,0,0.000003\n\
                anthropic,m,input_uncached_tokens,1000,0.000006\n\
                anthropic,m,input_cache_read_tokens,0,0.0000003\n\
                anthropic,m,output_text_tokens,0,0.000015\n";
    let cases = [
        // 600 × 3 + 399 × 0.3 + 10 × 15 = 2069.7 µ$
        (
            r#""gen_ai.usage.input_tokens":999,"gen_ai.usage.cached_input_tokens":399,"gen_ai.usage.output_tokens":10,"gen_ai.usage.reasoning_tokens":4"#,
            "0.0020697",
        ),
        // Not above 1000: 600 × 3 + 400 × 0.3 + 10 × 15 = 2070 µ$
        (
            r#""gen_ai.usage.input_tokens":1000,"gen_ai.usage.cached_input_tokens":400,"gen_ai.usage.output_tokens":10"#,
            "0.00207",
        ),
        // Above 1000 the whole input: 601 × 6 + 400 × 0.3 + 10 × 15 = 3876 µ$
        (
            r#""gen_ai.usage.input_tokens":1001,"gen_ai.usage.cached_input_tokens":400,"gen_ai.usage.output_tokens":10"#,
            "0.003876",
        ),
        // Written to the cache, no rate of its own: 1000 × 6 + 500 × 6 = 9000 µ$
        (
            r#""gen_ai.usage.input_tokens":1500,"gen_ai.usage.cache_creation_input_tokens":500"#,
            "0.009",
        ),
    ];
    for (usage, cost) in cases {
        let mut oracle = Oracle::new("s").with_prices(list);
        oracle.fold(&record(&line(usage), load::now_ms()));
        let wanted: BigDecimal = cost.parse().unwrap();
        assert_eq!(oracle.ledger.cost(), wanted, "{usage}");
    }
}

fn oracle_reads_times() {
    let cases = [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2026-11-21T01:48:58.801Z", Some(1_795_225_738_801)),
        ("2026-11-21T03:48:58.8019+02:00", Some(1_795_225_738_801)),
        ("2000-02-29T00:00:00Z", Some(951_782_400_000)),
        ("2001-02-29T00:00:00Z", None),
        ("2026-11-21T24:00:00Z", None),
        ("1969-12-31T23:59:59Z", None),
        ("yesterday", None),
    ];
    for (text, wanted) in cases {
        assert_eq!(time::parse(text), wanted, "{text}");
        if let Some(at) = wanted.filter(|_| text.ends_with('Z') && text.contains('.')) {
            assert_eq!(time::format(at), text, "written back");
        }
    }
}

/// Changes one row by the least there is.
type Change = fn(&mut Sums, &BigDecimal);

fn every_difference_between_ledgers_is_seen() {
    let lines = load::captured();
    let ledger = folded(&lines);
    assert_eq!(
        compare::differences(&ledger, &folded(&lines)),
        "",
        "equal ledgers"
    );
    let key = ledger.rows.keys().next().cloned().expect("rows");
    let least: BigDecimal = "0.000000000000000001".parse().unwrap();
    let cases: [(&str, Change); 3] = [
        ("the last digit", |sums, least| sums.amount += least),
        ("one unit", |sums, _| sums.quantities[1] += 1),
        ("a failed request", |sums, _| sums.failed += 1),
    ];
    for (what, change) in cases {
        let mut other = ledger.clone();
        change(other.rows.get_mut(&key).expect("the row"), &least);
        assert_ne!(compare::differences(&ledger, &other), "", "{what}");
    }
    let mut other = ledger.clone();
    other.rows.remove(&key);
    assert_ne!(
        compare::differences(&ledger, &other),
        "",
        "a row is missing"
    );
    let mut other = ledger.clone();
    other.counts.duplicates += 1;
    assert_ne!(compare::differences(&ledger, &other), "", "a count");
}
