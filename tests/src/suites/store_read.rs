//! What readers see: cost over roll-up and rest, zones, unknown costs, tenants, rejected events.

mod ledger;
mod stored;

use std::sync::atomic::{AtomicBool, Ordering};

use domain::calendar::{Grain, Tz};
use domain::meter::Meter;
use domain::time::UnixMs;
use reports::Output;
use reports::cost::CostArgs;
use serde_json::Value;
use store::cost::{CostQuery, CostRow, Dimension, Tenants, cost};
use store::rollup::{RollUpError, RolledUp};

use crate::harness::database::RUNTIME;
use crate::harness::runner::Test;
use crate::test;
use ledger::{Ledger, Line, RATE};
use stored::{
    a_changed_row_does_not_hash_to_its_part, stored_contents_have_the_keys_that_they_hash_to,
    stored_rows_hash_to_what_their_parts_say,
};

pub(super) const TESTS: &[Test] = &[
    test!(readers_see_each_posting_once_while_parts_arrive_and_are_rolled_up),
    test!(zones_off_the_hour_and_days_of_a_change_of_clock_are_cut_exactly),
    test!(a_cost_is_null_exactly_where_billable_usage_has_no_amount),
    test!(a_tampered_amount_stops_the_roll_up_and_is_named),
    test!(a_tampered_roll_up_is_named),
    test!(a_tenants_reader_sees_no_other_tenant),
    test!(rejected_events_are_paged_once_and_shown_harmlessly),
    test!(stored_rows_hash_to_what_their_parts_say),
    test!(stored_contents_have_the_keys_that_they_hash_to),
    test!(a_changed_row_does_not_hash_to_its_part),
];

fn instant(text: &str) -> UnixMs {
    domain::calendar::parse_instant(text, Tz::UTC).unwrap()
}

fn read(ledger: &Ledger, tenants: Tenants, by: &[Dimension], bounds: &[&str]) -> Vec<CostRow> {
    let bounds = bounds.iter().map(|bound| instant(bound)).collect();
    let query = CostQuery {
        by: by.to_vec(),
        bounds,
    };
    RUNTIME
        .block_on(cost(&ledger.reports, tenants, &query))
        .unwrap()
}

fn report(ledger: &Ledger, args: &CostArgs) -> Value {
    let args = CostArgs {
        output: Output::Json,
        ..args.clone()
    };
    let mut out = Vec::new();
    RUNTIME
        .block_on(reports::cost::run(&ledger.reports, &args, &mut out))
        .unwrap();
    serde_json::from_slice(&out).unwrap()
}

/// Three writers, two roll-ups and two readers; each part holds 20 requests, so that a reader can
/// tell how many parts it saw, which lies between those there before and after it looked.
fn readers_see_each_posting_once_while_parts_arrive_and_are_rolled_up() {
    const PARTS: i64 = 120;
    let ledger = Ledger::with_chains(3);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=3)
            .map(|chain| {
                let ledger = &ledger;
                scope.spawn(move || {
                    for number in 1..=PARTS {
                        ledger.add_part(chain, number, &twenty_requests(number));
                    }
                })
            })
            .collect();
        let rollers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| roll_up_until(&ledger, &is_done)))
            .collect();
        // Midnights are read from the roll-up by day, others from the one by quarter-hour.
        let ranges = [
            ["2027-03-01", "2027-03-03", "2027-03-05"],
            [
                "2027-03-01T00:00:00Z",
                "2027-03-02T10:15:00Z",
                "2027-03-05T00:00:00Z",
            ],
        ];
        let readers: Vec<_> = ranges
            .map(|bounds| {
                let (ledger, is_done) = (&ledger, &is_done);
                scope.spawn(move || check_until(ledger, &bounds, is_done))
            })
            .into_iter()
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        is_done.store(true, Ordering::Release);
        let moved: u64 = rollers
            .into_iter()
            .map(|roller| roller.join().unwrap())
            .sum();
        assert_eq!(
            i64::try_from(moved),
            Ok(3 * PARTS),
            "each part is rolled up once"
        );
        for reader in readers {
            let looks = reader.join().unwrap();
            assert!(looks > 10, "a reader looked only {looks} times");
        }
    });
    let differences = RUNTIME.block_on(store::audit::rollup_differences(&ledger.reports, 10));
    assert_eq!(
        differences.unwrap(),
        [],
        "the roll-up holds what was posted"
    );
    let rest = ledger.sql.number(
        "select count(*) from posting p join rollup_mark m using (chain) where p.part > m.part",
    );
    assert_eq!(rest, 0, "everything was rolled up");
}

fn twenty_requests(number: i64) -> Vec<Line> {
    (0..5)
        .map(|place| {
            let (day, hour) = (1 + (number + place) % 4, number % 24);
            let quarter = format!("2027-03-0{day} {hour:02}:{:02}Z", 15 * (place % 4));
            Line::of(&format!("app-{}", place % 3), &quarter, 4, 4_000)
        })
        .collect()
}

fn roll_up_until(ledger: &Ledger, is_done: &AtomicBool) -> u64 {
    let mut moved = 0;
    loop {
        let was_done = is_done.load(Ordering::Acquire);
        match ledger.roll_up().unwrap() {
            RolledUp::Moved { parts: 0, .. } if was_done => return moved,
            RolledUp::Moved { parts, .. } => moved += parts,
            RolledUp::Busy => {}
        }
    }
}

fn check_until(ledger: &Ledger, bounds: &[&str], is_done: &AtomicBool) -> u64 {
    let parts = || u128::try_from(ledger.sql.number("select count(*) from part")).unwrap();
    for looks in 1.. {
        let was_done = is_done.load(Ordering::Acquire);
        let before = parts();
        let rows = read(ledger, Tenants::All, &[Dimension::App], bounds);
        let after = parts();
        let requests: u128 = rows
            .iter()
            .map(|row| row.sums.quantities.get(Meter::Requests))
            .sum();
        assert_eq!(requests % 20, 0, "parts are seen whole");
        let seen = requests / 20;
        assert!(
            (before..=after).contains(&seen),
            "{before} <= {seen} <= {after} parts"
        );
        let units: i128 = rows
            .iter()
            .map(|row| row.sums.amount.unwrap().units())
            .sum();
        // 1,000 tokens a request at 150,000,000,001 units a token.
        assert_eq!(
            units,
            i128::try_from(requests).unwrap() * 1_000 * 150_000_000_001,
            "every unit of every amount"
        );
        if was_done {
            return looks;
        }
    }
    unreachable!("the loop ends by returning")
}

/// One request in every quarter-hour around a change of the clock: a day's requests are its length.
fn zones_off_the_hour_and_days_of_a_change_of_clock_are_cut_exactly() {
    let cases: [(Tz, &str, &[(&str, u64)]); 4] = [
        (
            Tz::Asia__Kathmandu,
            "2027-03-10",
            &[
                ("2027-03-10T00:00:00+05:45", 96),
                ("2027-03-11T00:00:00+05:45", 96),
                ("2027-03-12T00:00:00+05:45", 96),
            ],
        ),
        // Back by half an hour at 02:00 on 4 April 2027, so 24.5 hours.
        (
            Tz::Australia__Lord_Howe,
            "2027-04-03",
            &[
                ("2027-04-03T00:00:00+11:00", 96),
                ("2027-04-04T00:00:00+11:00", 98),
                ("2027-04-05T00:00:00+10:30", 96),
            ],
        ),
        // Forward by half an hour at 02:00 on 3 October 2027, so 23.5 hours.
        (
            Tz::Australia__Lord_Howe,
            "2027-10-02",
            &[
                ("2027-10-02T00:00:00+10:30", 96),
                ("2027-10-03T00:00:00+10:30", 94),
                ("2027-10-04T00:00:00+11:00", 96),
            ],
        ),
        (
            Tz::Europe__Berlin,
            "2027-03-27",
            &[
                ("2027-03-27T00:00:00+01:00", 96),
                ("2027-03-28T00:00:00+01:00", 92),
                ("2027-03-29T00:00:00+02:00", 96),
            ],
        ),
    ];
    for (zone, from, expected) in cases {
        let ledger = Ledger::with_chains(1);
        let start = domain::calendar::parse_instant(from, zone).unwrap();
        let lines: Vec<Line> = (-96..96 * 5)
            .map(|quarter| start.saturating_add_ms(quarter * 15 * 60 * 1_000))
            .map(|quarter| Line::of("a", &quarter.to_string(), 1, 10))
            .collect();
        let (first, second) = lines.split_at(300);
        ledger.add_part(1, 1, first);
        let args = CostArgs {
            from: Some(from.to_owned()),
            grain: Grain::Day,
            zone,
            ..CostArgs::default()
        };
        let days = |ledger: &Ledger| -> Vec<(String, u64)> {
            let report = report(ledger, &args);
            let rows = report.as_array().unwrap().iter().take(expected.len());
            let day = |row: &Value| {
                (
                    row["start"].as_str().unwrap().to_owned(),
                    row["requests"].as_u64().unwrap(),
                )
            };
            rows.map(day).collect()
        };
        ledger.roll_up_all();
        ledger.add_part(1, 2, second);
        let wanted: Vec<(String, u64)> = expected
            .iter()
            .map(|(start, requests)| ((*start).to_owned(), *requests))
            .collect();
        assert_eq!(days(&ledger), wanted, "{zone}: half of it rolled up");
        ledger.roll_up_all();
        assert_eq!(days(&ledger), wanted, "{zone}: all of it rolled up");
    }
}

fn a_cost_is_null_exactly_where_billable_usage_has_no_amount() {
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

fn a_tampered_amount_stops_the_roll_up_and_is_named() {
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

fn a_tampered_roll_up_is_named() {
    let ledger = Ledger::with_chains(1);
    ledger.add_part(
        1,
        1,
        &[
            Line::of("a", "2027-02-01 10:00Z", 1, 10),
            Line::of("b", "2027-03-01 10:00Z", 1, 10),
        ],
    );
    ledger.roll_up_all();
    let differences = || -> Vec<String> {
        let found = RUNTIME.block_on(store::audit::rollup_differences(&ledger.reports, 100));
        let text = |found: &store::audit::RollupDifference| {
            let store::audit::RollupDifference {
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
}

fn a_tenants_reader_sees_no_other_tenant() {
    let ledger = Ledger::with_chains(1);
    ledger.add_part(
        1,
        1,
        &[
            Line::of("one", "2027-03-01 10:00Z", 1, 10).of_tenant("a"),
            Line::of("two", "2027-03-02 10:00Z", 1, 10).of_tenant("b"),
            Line::of("three", "2027-03-02 10:00Z", 1, 10).of_tenant("*"),
        ],
    );
    ledger.roll_up_all();
    ledger.add_part(
        1,
        2,
        &[Line::of("two", "2027-03-03 10:00Z", 1, 10).of_tenant("b")],
    );
    assert!(
        ledger.reports.has_role(),
        "the reader has the role that row-level security binds"
    );
    let apps = |tenants: Tenants| -> Vec<String> {
        let rows = read(
            &ledger,
            tenants,
            &[Dimension::App],
            &["2027-03-01", "2027-04-01"],
        );
        rows.into_iter().flat_map(|row| row.dimensions).collect()
    };
    let one = |tenant: &str| Tenants::One(tenant.to_owned());
    assert_eq!(apps(Tenants::All), ["one", "three", "two"], "the operator");
    assert_eq!(apps(one("a")), ["one"], "tenant a");
    assert_eq!(apps(one("b")), ["two"], "tenant b");
    assert_eq!(apps(one("*")), ["three"], "a tenant by the operator's sign");
    assert_eq!(apps(one("")), Vec::<String>::new(), "nobody");
    let extent = |tenant: &str| {
        let tenants = one(tenant);
        let found = RUNTIME.block_on(async {
            store::cost::Snapshot::open(&ledger.reports, tenants)
                .await?
                .extent()
                .await
        });
        found.unwrap().map(|extent| extent.last.to_string())
    };
    assert_eq!(
        extent("a").as_deref(),
        Some("2027-03-01T10:00:00Z"),
        "a's last usage"
    );
    assert_eq!(
        extent("b").as_deref(),
        Some("2027-03-03T10:00:00Z"),
        "b's last usage"
    );
    let mut session = ledger.sql.session();
    session.run("set role tollbook_reports");
    let mut count = |setting: &str| {
        let sql = format!("begin; {setting}; select count(*) from series; commit");
        session
            .try_rows(&sql)
            .unwrap()
            .pop()
            .and_then(|mut row| row.pop())
            .flatten()
            .unwrap()
    };
    assert_eq!(count("select 1 where false"), "0", "unset: none");
    assert_eq!(
        count("set local tollbook.tenant = 'a'"),
        "1",
        "set: that one"
    );
    assert_eq!(
        count("set local tollbook.tenant = '*'"),
        "3",
        "the operator: all"
    );
    for change in [
        "delete from rollup_day",
        "insert into batch (process) values (null)",
    ] {
        assert!(
            session.try_rows(change).is_err(),
            "a reader may not: {change}"
        );
    }
}

fn rejected_events_are_paged_once_and_shown_harmlessly() {
    let ledger = Ledger::with_chains(2);
    let add = |from: i32, to: i32, at: &str| {
        ledger.sql.run(&format!(
            "insert into rejected_event
             select 1 + n % 2, n, 0, 1, case n % 3 when 0 then 'bad_number' else 'not_json' end,
                 e'x\\x1b[2J', e'is \\u009b31m', {at}::timestamptz,
                 e'\\\\x1b5b324a7b7d'::bytea, 7, md5(n::text)::uuid
             from generate_series({from}, {to}) n"
        ));
    };
    add(1, 30, "'2027-03-01Z'");
    add(31, 40, "'2027-03-02Z'");
    let mut args = reports::rejected::ListArgs {
        limit: 7,
        output: Output::Json,
        ..reports::rejected::ListArgs::default()
    };
    let list = |args: &reports::rejected::ListArgs| {
        let mut out = Vec::new();
        RUNTIME
            .block_on(reports::rejected::list(&ledger.reports, args, &mut out))
            .unwrap();
        String::from_utf8(out).unwrap()
    };
    let mut offsets = Vec::new();
    loop {
        let text = list(&args);
        let page: Value = serde_json::from_str(&text).unwrap();
        let Some(last) = page.as_array().unwrap().last() else {
            break;
        };
        args.after = Some(last["cursor"].as_str().unwrap().parse().unwrap());
        offsets.extend(
            page.as_array()
                .unwrap()
                .iter()
                .map(|row| row["offset"].as_u64().unwrap()),
        );
        // What arrives meanwhile is newer, so it stands before the pages that are left.
        let next = 100 + i32::try_from(offsets.len()).unwrap();
        add(next, next, "'2027-03-03Z'");
    }
    let mut sorted = offsets.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        (1..=40).collect::<Vec<u64>>(),
        "each of the first pages' events once"
    );
    assert!(
        offsets[..10].iter().all(|offset| *offset > 30),
        "the newest first: {offsets:?}"
    );
    args = reports::rejected::ListArgs {
        reason: Some("bad_number".parse().unwrap()),
        since: Some("2027-03-02".to_owned()),
        ..reports::rejected::ListArgs::default()
    };
    let table = list(&args);
    assert!(
        table.contains("bad_number") && !table.contains("not_json"),
        "filtered:\n{table}"
    );
    for output in Output::ALL {
        args.output = output;
        let text = list(&args);
        assert!(
            !text.contains(['\u{1b}', '\u{9b}']),
            "{output} holds a control: {text:?}"
        );
    }
    let show = |output| {
        let place = "usage.envoy/1/31".parse().unwrap();
        let args = reports::rejected::ShowArgs {
            place,
            zone: Tz::UTC,
            output,
        };
        let mut out = Vec::new();
        RUNTIME
            .block_on(reports::rejected::show(&ledger.reports, &args, &mut out))
            .unwrap();
        String::from_utf8(out).unwrap()
    };
    let text = show(Output::Table);
    assert!(
        text.contains("usage.envoy/1/31/0") && text.contains("\\u{1b}[2J"),
        "shown:\n{text}"
    );
    for output in [Output::Table, Output::Json] {
        assert!(
            !show(output).contains(['\u{1b}', '\u{9b}']),
            "{output} holds a control"
        );
    }
}
