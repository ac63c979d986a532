//! The ledger as stored and as reported, beside the oracle's.
//!
//! Invariant: equal means equal to the unit and the last digit, row by row; a difference is named.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bigdecimal::BigDecimal;
use serde_json::Value;

use crate::harness::database::{Database, TextRow};

use super::{Counts, Key, Ledger, METERS, Sums};

/// How many differences a failed test prints.
const SHOWN: usize = 12;

/// Reads the postings of a source as stored.
#[must_use]
pub fn stored(database: &Database, source: &str) -> Ledger {
    let sums: Vec<String> = METERS
        .iter()
        .map(|meter| format!("sum(p.{meter})::text"))
        .collect();
    let source = crate::harness::database::literal(source);
    let rows = database.rows(&format!(
        "select s.app, s.user_id, s.route, s.provider, s.model, r.priced_model, r.book_model, \
         (extract(epoch from p.quarter) * 1000)::bigint, {}, sum(p.failed_requests), \
         sum(p.priced_requests), sum(p.unpriced_requests), coalesce(sum(p.amount), 0)::text \
         from posting p join series s on s.key = p.series join rate_set r on r.key = p.rate_set \
         join chain c on c.id = p.chain join source o on o.id = c.source where o.name = {source} \
         group by 1, 2, 3, 4, 5, 6, 7, 8",
        sums.join(", ")
    ));
    let counts = database.rows(&format!(
        "select coalesce(sum(records), 0), coalesce(sum(accepted), 0), \
         coalesce(sum(duplicates), 0), coalesce(sum(rejected), 0), coalesce(sum(ignored), 0) \
         from part join chain c on c.id = part.chain join source o on o.id = c.source \
         where o.name = {source}"
    ));
    let counts = counts.first().expect("an aggregate has a row");
    let count = |place| number(counts, place);
    Ledger {
        rows: rows.iter().map(stored_row).collect(),
        counts: Counts {
            records: count(0),
            accepted: count(1),
            duplicates: count(2),
            rejected: count(3),
            ignored: count(4),
        },
    }
}

fn stored_row(row: &TextRow) -> (Key, Sums) {
    let key = Key {
        app: text(row, 0),
        user: text(row, 1),
        route: text(row, 2),
        provider: text(row, 3),
        model: text(row, 4),
        priced_model: text(row, 5),
        book_model: text(row, 6),
        quarter: text(row, 7).parse().unwrap(),
    };
    let sums = Sums {
        quantities: std::array::from_fn(|meter| number(row, 8 + meter)),
        failed: number(row, 18),
        priced: number(row, 19),
        unpriced: number(row, 20),
        amount: text(row, 21).parse().unwrap(),
    };
    (key, sums)
}

fn text(row: &TextRow, place: usize) -> String {
    row.get(place).cloned().flatten().unwrap_or_default()
}

fn number<N: std::str::FromStr<Err: std::fmt::Debug>>(row: &TextRow, place: usize) -> N {
    text(row, place).parse().unwrap()
}

/// Panics with the differences unless the stored ledger is the expected one, `records` and the
/// split between what was counted and what was repeated included.
pub fn assert_stored(database: &Database, source: &str, expected: &Ledger) {
    let found = stored(database, source);
    let differences = differences(expected, &found);
    assert!(
        differences.is_empty(),
        "the ledger differs from the oracle's:\n{differences}"
    );
}

/// Returns the differences in words; empty where there is none.
#[must_use]
pub fn differences(expected: &Ledger, found: &Ledger) -> String {
    let mut lines = Vec::new();
    if expected.counts != found.counts {
        lines.push(format!(
            "expected {:?}\n   found {:?}",
            expected.counts, found.counts
        ));
    }
    let keys: BTreeMap<&Key, ()> = expected
        .rows
        .keys()
        .chain(found.rows.keys())
        .map(|key| (key, ()))
        .collect();
    let none = Sums::default();
    for key in keys.into_keys() {
        let (ours, theirs) = (expected.rows.get(key), found.rows.get(key));
        if ours.is_some() != theirs.is_some() || !equal(ours, theirs) {
            let mut line = format!("{key:?}");
            let pair = (ours.unwrap_or(&none), theirs.unwrap_or(&none));
            write!(line, "\n  expected {:?}\n     found {:?}", pair.0, pair.1)
                .expect("a String takes all");
            lines.push(line);
        }
    }
    let count = lines.len();
    lines.truncate(SHOWN);
    if count > SHOWN {
        lines.push(format!("… and {} more", count - SHOWN));
    }
    lines.join("\n")
}

fn equal(ours: Option<&Sums>, theirs: Option<&Sums>) -> bool {
    // Numerically: 1.50 and 1.5 are one amount.
    ours == theirs
}

/// Panics with the differences unless `report cost` by all dimensions says what the oracle does.
///
/// `report` is the command's JSON for `--by app,user,route,provider,model`.
pub fn assert_reported(report: &str, expected: &Ledger) {
    let mut wanted: BTreeMap<[String; 5], Sums> = BTreeMap::new();
    for (key, sums) in &expected.rows {
        let group = [&key.app, &key.user, &key.route, &key.provider, &key.model].map(Clone::clone);
        let row = wanted.entry(group).or_default();
        for (sum, quantity) in row.quantities.iter_mut().zip(sums.quantities) {
            *sum += quantity;
        }
        row.priced += sums.priced;
        row.unpriced += sums.unpriced;
        row.amount += &sums.amount;
    }
    let rows: Value = serde_json::from_str(report).expect("the report is JSON");
    let rows = rows.as_array().expect("the report is an array");
    assert_eq!(rows.len(), wanted.len(), "groups of the report");
    for row in rows {
        let group = ["app", "user", "route", "provider", "model"].map(|name| {
            row[name]
                .as_str()
                .expect("a dimension is a string")
                .to_owned()
        });
        let sums = wanted
            .get(&group)
            .unwrap_or_else(|| panic!("the oracle has no {group:?}"));
        assert_row(row, sums);
    }
}

fn assert_row(row: &Value, sums: &Sums) {
    for (meter, wanted) in METERS.iter().zip(sums.quantities) {
        assert_eq!(
            row[*meter].to_string(),
            wanted.to_string(),
            "{meter} of {row}"
        );
    }
    let input: u128 = sums.quantities[1..6].iter().sum();
    let output: u128 = sums.quantities[6..9].iter().sum();
    for (name, wanted) in [
        ("input_tokens", input),
        ("output_tokens", output),
        ("total_tokens", input + output),
    ] {
        assert_eq!(row[name].to_string(), wanted.to_string(), "{name} of {row}");
    }
    assert_eq!(
        row["unpriced_requests"].to_string(),
        sums.unpriced.to_string(),
        "{row}"
    );
    if sums.unpriced > 0 && sums.priced == 0 {
        assert!(row["cost"].is_null(), "nothing of it has a price: {row}");
    } else {
        let cost: BigDecimal = row["cost"]
            .as_str()
            .expect("cost is a string")
            .parse()
            .unwrap();
        assert_eq!(cost, sums.amount, "cost of {row}");
    }
}
