//! A reader in a loop, while parts arrive and are rolled up.

use std::sync::atomic::{AtomicBool, Ordering};

use domain::meter::Meter;
use store::cost::{Dimension, Tenants};
use store::rollup::RolledUp;

use super::ledger::{Ledger, Line};
use super::read;
use crate::harness::database::RUNTIME;

/// Three writers, two roll-ups and two readers; each part holds 20 requests, so that a reader can
/// tell how many parts it saw, which lies between those there before and after it looked.
pub(super) fn readers_see_each_posting_once_while_parts_arrive_and_are_rolled_up() {
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
            RolledUp::DayFailed { error, .. } => panic!("a day was not made: {error}"),
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
