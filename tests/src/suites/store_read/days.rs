//! Days that have rows of their own beside days that are summed from quarter-hours, and late usage.

use std::time::Duration;

use domain::meter::Meter;
use store::audit::rollup_differences;
use store::cost::{Dimension, Tenants};
use store::rollup::{RolledUp, waiting};

use super::ledger::{Ledger, Line};
use super::read;
use crate::harness::database::RUNTIME;
use crate::harness::load::{Random, seed};

/// Half-open ranges with one cut, so two buckets: some whole days of UTC, some not.
const RANGES: [[&str; 3]; 4] = [
    ["2027-03-01", "2027-03-04", "2027-03-09"],
    ["2027-03-02", "2027-03-03", "2027-03-05"],
    ["2027-03-03", "2027-03-06", "2027-04-01"],
    [
        "2027-03-01T10:15:00Z",
        "2027-03-03T00:00:00Z",
        "2027-03-06T23:45:00Z",
    ],
];

/// Parts of random days, most of the latest and some late, rolled up now and then.
pub(super) fn reports_are_the_sums_of_postings_whichever_days_are_made() {
    let ledger = Ledger::with_chains(2);
    let mut random = Random::new(seed("days"));
    let (mut tails, mut late) = (0, 0);
    for step in 1..=48_u64 {
        let latest = 1 + step / 7;
        let lines: Vec<Line> = (0..1 + random.below(6))
            .map(|_| line(&mut random, latest))
            .collect();
        let named = ledger.sql.number("select count(*) from rolled_day");
        let (chain, number) = (
            1 + i32::from(step % 2 == 0),
            i64::try_from(step.div_ceil(2)),
        );
        ledger.add_part(chain, number.unwrap(), &lines);
        let days: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.quarter.split(' ').next())
            .collect();
        let is_late = days.iter().any(|day| {
            let sql = format!("select count(*) from rolled_day where day = '{day} 00:00Z'");
            ledger.sql.number(&sql) > 0
        });
        match random.below(4) {
            0 => tails += 1,
            // One run leaves days unmade that it could make.
            1 => {
                let ran = ledger.roll_up().unwrap();
                let is_busy = matches!(ran, RolledUp::Busy);
                assert!(!is_busy, "step {step}: nobody else rolls up");
            }
            _ => {
                ledger.roll_up_all();
                late += i32::from(is_late && named > 0);
            }
        }
        assert_reports(&ledger, step);
        let differences = RUNTIME.block_on(rollup_differences(&ledger.reports, 10));
        assert_eq!(differences.unwrap(), [], "step {step}");
    }
    ledger.roll_up_all();
    assert_reports(&ledger, 49);
    let named = ledger.sql.number("select count(*) from rolled_day");
    assert!(
        named >= 4 && tails > 4 && late > 4,
        "{named} days were made, {tails} tails left, {late} parts came late"
    );
    let unnamed = "select count(*) from rollup_day d left join rolled_day n using (day)
        where n.day is null";
    assert_eq!(
        ledger.sql.number(unnamed),
        0,
        "rows of days that are not over"
    );
}

fn line(random: &mut Random, latest: u64) -> Line {
    let day = if random.percent(60) {
        latest
    } else {
        1 + random.below(latest)
    };
    let (hour, minute) = (random.below(24), 15 * random.below(4));
    let quarter = format!("2027-03-{day:02} {hour:02}:{minute:02}Z");
    let app = format!("app-{}", random.below(3));
    let tokens = i64::try_from(random.below(3) * random.below(1_000_000)).unwrap();
    let line = Line::of(
        &app,
        &quarter,
        1 + i64::try_from(random.below(3)).unwrap(),
        tokens,
    );
    if random.percent(25) {
        line.unpriced()
    } else {
        line
    }
}

/// Compares each range's report with the plain sum of the journal.
fn assert_reports(ledger: &Ledger, step: u64) {
    for bounds in RANGES {
        let reported: Vec<Vec<String>> = read(ledger, Tenants::All, &[Dimension::App], &bounds)
            .into_iter()
            .map(|row| {
                let sums = row.sums;
                vec![
                    row.start.to_string(),
                    row.dimensions.concat(),
                    sums.quantities.get(Meter::Requests).to_string(),
                    sums.quantities.get(Meter::InputUncachedTokens).to_string(),
                    sums.priced_requests.to_string(),
                    sums.unpriced_requests.to_string(),
                    sums.amount.map_or(0, |amount| amount.units()).to_string(),
                ]
            })
            .collect();
        let [from, cut, to] = bounds;
        let sql = format!(
            "select to_char((case when quarter < '{cut}'::timestamptz then '{from}'::timestamptz
                        else '{cut}'::timestamptz end) at time zone 'UTC',
                    'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                app, sum(p.requests), sum(input_uncached_tokens), sum(priced_requests),
                sum(unpriced_requests), trim_scale(coalesce(sum(amount), 0) * 1e18)
             from posting p join series s on s.key = p.series
             where quarter >= '{from}'::timestamptz and quarter < '{to}'::timestamptz
             group by 1, 2 order by 1, 2"
        );
        let posted: Vec<Vec<String>> = ledger
            .sql
            .rows(&format!("set timezone = 'UTC'; {sql}"))
            .into_iter()
            .map(|row| row.into_iter().flatten().collect())
            .collect();
        assert_eq!(reported, posted, "step {step}: {bounds:?}");
    }
}

pub(super) fn what_waits_is_told_with_its_age() {
    let ledger = Ledger::with_chains(2);
    let told = || RUNTIME.block_on(waiting(&ledger.ingest)).unwrap();
    let nothing = told();
    assert_eq!(
        (nothing.postings, nothing.oldest),
        (0, None),
        "an empty ledger"
    );
    let lines = [
        Line::of("a", "2027-03-01 10:00Z", 1, 10),
        Line::of("b", "2027-03-01 10:00Z", 1, 10),
    ];
    ledger.tamper("update batch set committed_at = clock_timestamp() - interval '1 hour'");
    ledger.add_part(1, 1, &lines);
    ledger.add_part(2, 1, &lines[..1]);
    let all = told();
    assert_eq!(all.postings, 3, "both parts wait");
    let hour = Duration::from_secs(3_600);
    assert!(all.oldest.is_some_and(|age| age >= hour), "{all:?}");
    ledger.roll_up_all();
    assert_eq!(told(), nothing, "all is rolled up");
    ledger.add_part(2, 2, &lines[..1]);
    assert_eq!(told().postings, 1, "the new part waits");
}
