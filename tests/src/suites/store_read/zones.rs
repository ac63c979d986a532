//! Days as a zone counts them, over the roll-up and what is not rolled up yet.

use domain::calendar::{Grain, Tz, parse_instant};
use reports::cost::CostArgs;
use serde_json::Value;

use super::ledger::{Ledger, Line};
use super::report;

/// A zone, from when on, and its days with their lengths in quarter-hours.
type Days = (Tz, &'static str, [(&'static str, u64); 3]);

const CASES: [Days; 4] = [
    (
        Tz::Asia__Kathmandu,
        "2027-03-10",
        [
            ("2027-03-10T00:00:00+05:45", 96),
            ("2027-03-11T00:00:00+05:45", 96),
            ("2027-03-12T00:00:00+05:45", 96),
        ],
    ),
    // Back by half an hour at 02:00 on 4 April 2027, so 24.5 hours.
    (
        Tz::Australia__Lord_Howe,
        "2027-04-03",
        [
            ("2027-04-03T00:00:00+11:00", 96),
            ("2027-04-04T00:00:00+11:00", 98),
            ("2027-04-05T00:00:00+10:30", 96),
        ],
    ),
    // Forward by half an hour at 02:00 on 3 October 2027, so 23.5 hours.
    (
        Tz::Australia__Lord_Howe,
        "2027-10-02",
        [
            ("2027-10-02T00:00:00+10:30", 96),
            ("2027-10-03T00:00:00+10:30", 94),
            ("2027-10-04T00:00:00+11:00", 96),
        ],
    ),
    // Forward by an hour at 02:00 on 28 March 2027.
    (
        Tz::Europe__Berlin,
        "2027-03-27",
        [
            ("2027-03-27T00:00:00+01:00", 96),
            ("2027-03-28T00:00:00+01:00", 92),
            ("2027-03-29T00:00:00+02:00", 96),
        ],
    ),
];

/// One request in every quarter-hour around a change of the clock: a day's requests are its length.
pub(super) fn zones_off_the_hour_and_days_of_a_change_of_clock_are_cut_exactly() {
    for (zone, from, expected) in CASES {
        let ledger = Ledger::with_chains(1);
        let start = parse_instant(from, zone).unwrap();
        let lines: Vec<Line> = (-96..96 * 5)
            .map(|quarter| start.saturating_add_ms(quarter * 15 * 60 * 1_000))
            .map(|quarter| Line::of("a", &quarter.to_string(), 1, 10))
            .collect();
        let (first, second) = lines.split_at(300);
        ledger.add_part(1, 1, first);
        ledger.roll_up_all();
        ledger.add_part(1, 2, second);
        let expected = expected.map(|(start, requests)| (start.to_owned(), requests));
        assert_eq!(
            days(&ledger, zone, from),
            expected,
            "{zone}: half of it rolled up"
        );
        ledger.roll_up_all();
        assert_eq!(
            days(&ledger, zone, from),
            expected,
            "{zone}: all of it rolled up"
        );
    }
}

/// Returns the first three days with their requests.
fn days(ledger: &Ledger, zone: Tz, from: &str) -> Vec<(String, u64)> {
    let args = CostArgs {
        from: Some(from.to_owned()),
        grain: Grain::Day,
        zone,
        ..CostArgs::default()
    };
    let day = |row: &Value| {
        let start = row["start"].as_str().unwrap().to_owned();
        (start, row["requests"].as_u64().unwrap())
    };
    report(ledger, &args)
        .as_array()
        .unwrap()
        .iter()
        .take(3)
        .map(day)
        .collect()
}

/// Without `--from` the first bucket begins where its day does, not where the usage does.
pub(super) fn a_report_without_a_range_begins_with_a_whole_bucket() {
    let ledger = Ledger::with_chains(1);
    ledger.add_part(1, 1, &[Line::of("a", "2027-03-30 10:00Z", 1, 10)]);
    let expected = [
        (Grain::Hour, "2027-03-30T15:00:00+05:45"),
        (Grain::Day, "2027-03-30T00:00:00+05:45"),
        (Grain::Week, "2027-03-29T00:00:00+05:45"),
        (Grain::Month, "2027-03-01T00:00:00+05:45"),
        (Grain::Year, "2027-01-01T00:00:00+05:45"),
    ];
    for (grain, start) in expected {
        let args = CostArgs {
            grain,
            zone: Tz::Asia__Kathmandu,
            ..CostArgs::default()
        };
        let found = report(&ledger, &args);
        assert_eq!(
            found.as_array().map(Vec::len),
            Some(1),
            "{grain}: one bucket"
        );
        assert_eq!(found[0]["start"], start, "{grain}");
    }
}
