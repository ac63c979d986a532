//! Which costs are null, and what becomes of amounts and sums that somebody changed.

use domain::ids::{ChainId, PartNumber};
use reports::cost::CostArgs;
use store::audit::{RollupDifference, amount_difference, rollup_differences};
use store::cost::Dimension;
use store::rollup::RollUpError;

use super::ledger::{Ledger, Line, RATE};
use super::report;
use crate::harness::database::RUNTIME;

pub(super) fn a_cost_is_null_exactly_where_billable_usage_has_no_amount() {
    let ledger = Ledger::with_chains(1);
    let at = "2027-03-01 10:00Z";
    let later = "2027-03-01 11:00Z";
    let lines = [
        Line::of("half", at, 2, 1_000),
        Line::of("half", at, 1, 10).unpriced(),
        Line::of("idle", at, 3, 0),
        Line::of("priced", at, 1, 1),
        Line::of("unpriced", at, 1, 10).unpriced(),
        Line::of("unpriced", later, 2, 0).unpriced(),
    ];
    let expected = [
        ("half", Some("0.000150000000001"), 1),
        ("idle", Some("0"), 0),
        ("priced", Some(RATE), 0),
        ("unpriced", None, 1),
    ];
    let check = |when: &str| {
        let report = report(
            &ledger,
            &CostArgs {
                by: vec![Dimension::App],
                ..CostArgs::default()
            },
        );
        let found: Vec<_> = report
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                let app = row["app"].as_str().unwrap();
                (
                    app,
                    row["cost"].as_str(),
                    row["unpriced_requests"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(found, expected, "{when}");
    };
    let (first, second) = lines.split_at(5);
    ledger.add_part(1, 1, first);
    ledger.roll_up_all();
    ledger.add_part(1, 2, second);
    check("rolled up in part");
    ledger.roll_up_all();
    check("rolled up");
    let unpriced = CostArgs {
        by: vec![Dimension::PricedModel],
        only_unpriced: true,
        ..CostArgs::default()
    };
    let found = report(&ledger, &unpriced);
    assert_eq!(
        found[0]["priced_model"], "gpt-unrated",
        "the model that lacks a rate"
    );
    assert_eq!(found.as_array().map(Vec::len), Some(1), "and no other");
}

pub(super) fn a_tampered_amount_stops_the_roll_up_and_is_named() {
    let ledger = Ledger::with_chains(2);
    let at = "2027-03-01 10:00Z";
    ledger.add_part(1, 1, &[Line::of("good", at, 1, 10)]);
    ledger.add_part(2, 1, &[Line::of("good", at, 1, 10)]);
    ledger.add_part(
        2,
        2,
        &[
            Line::of("bad", at, 1, 10),
            Line::of("none", at, 1, 9).unpriced(),
        ],
    );
    let cases = [
        (
            "update posting set amount = amount + 0.000000000000000001 where part = 2
                 and amount is not null",
            "update posting set amount = amount - 0.000000000000000001 where part = 2
                 and amount is not null",
        ),
        (
            "update rate_set set input_uncached_tokens = 0.1 where priced_model = 'gpt-unrated'",
            "update rate_set set input_uncached_tokens = null where priced_model = 'gpt-unrated'",
        ),
        (
            "create table kept as select * from series where app = 'bad';
             delete from series where app = 'bad'",
            "insert into series select * from kept",
        ),
    ];
    for (tampering, repair) in cases {
        ledger.tamper(tampering);
        let found = match ledger.roll_up() {
            Err(RollUpError::AmountDiffers(found)) => found,
            other => panic!("{tampering}: the roll-up went on: {other:?}"),
        };
        assert_eq!(
            (found.part.chain.0, found.part.number.0),
            (2, 2),
            "{tampering}: {found:?}"
        );
        let rolled_up = ledger.sql.number("select count(*) from rollup_mark");
        assert_eq!(rolled_up, 0, "{tampering}: nothing was rolled up");
        ledger.tamper(repair);
    }
    ledger.roll_up_all();
    assert_eq!(
        ledger.sql.number("select sum(part) from rollup_mark"),
        3,
        "mended, it goes on"
    );
}

/// What the roll-up does not see, since no sum is wrong, and `verify` does.
pub(super) fn amounts_whose_errors_cancel_are_left_to_verify() {
    let ledger = Ledger::with_chains(1);
    let at = "2027-03-01 10:00Z";
    for part in 1..=2 {
        ledger.add_part(1, part, &[Line::of("a", at, 1, 10)]);
    }
    ledger.tamper("update posting set amount = amount + case part when 1 then 1 else -1 end");
    ledger.roll_up_all();
    let found = RUNTIME.block_on(amount_difference(
        &ledger.reports,
        ChainId(1),
        PartNumber(0),
        PartNumber(2),
    ));
    let found = found.unwrap().expect("the first of the two");
    assert_eq!(
        (found.part.number, found.posted.as_str()),
        (PartNumber(1), "1.000001500000000010"),
        "it is named"
    );
}

pub(super) fn a_tampered_roll_up_is_named() {
    let ledger = Ledger::with_chains(1);
    ledger.add_part(
        1,
        1,
        &[
            Line::of("a", "2027-02-01 10:00Z", 1, 10),
            Line::of("b", "2027-03-01 10:00Z", 1, 10),
            // Until usage has passed them, days have no rows of their own.
            Line::of("c", "2027-03-02 10:00Z", 1, 10),
        ],
    );
    ledger.roll_up_all();
    let differences = || -> Vec<String> {
        let found = RUNTIME.block_on(rollup_differences(&ledger.reports, 100));
        let text = |found: &RollupDifference| {
            let RollupDifference {
                app,
                name,
                posted,
                rolled_up,
                ..
            } = found;
            format!(
                "{:?} {} {app} {name}: {posted}, {rolled_up}",
                found.grain, found.start
            )
        };
        found.unwrap().iter().map(text).collect()
    };
    assert_eq!(differences(), Vec::<String>::new(), "as it was written");
    ledger
        .sql
        .run("update rollup_quarter set requests = 2 where quarter < '2027-02-10'");
    let expected = "Quarter 2027-02-01T10:00:00Z a requests: 1, 2";
    assert_eq!(differences(), [expected], "one count of a quarter-hour");
    ledger
        .sql
        .run("update rollup_quarter set requests = 1; update rollup_day set amount = 1");
    let expected = [
        "Day 2027-02-01T00:00:00Z a amount: 0.000001500000000010, 1.000000000000000000",
        "Day 2027-03-01T00:00:00Z b amount: 0.000001500000000010, 1.000000000000000000",
    ];
    let found = differences();
    assert_eq!(found.len(), expected.len(), "amounts of days: {found:?}");
    for (found, expected) in found.iter().zip(expected) {
        let days = expected.split(", ").next().unwrap();
        assert!(found.starts_with(days), "{found} is not {expected}");
    }
    ledger.sql.run(
        "delete from rollup_day; insert into rollup_day select '2031-01-01', series, rate_set,
         requests, input_uncached_tokens, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, priced_requests, 0, amount
         from rollup_quarter limit 1",
    );
    let found = differences();
    let days = |year: &str| found.iter().filter(|text| text.contains(year)).count();
    assert_eq!(
        (days("Day 2027"), days("Day 2031")),
        (30, 15),
        "rows gone, a row too many"
    );
    ledger.sql.run("delete from rollup_day");
    ledger
        .sql
        .run("delete from rolled_day where day < '2027-02-10'");
    let found = differences();
    assert_eq!(
        (found.len(), found[0].starts_with("Day 2027-03-01")),
        (15, true),
        "a day without a name has no rows: {found:?}"
    );
}
