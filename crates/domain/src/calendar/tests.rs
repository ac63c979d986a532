//! Calendars: the cases of the table, and all zones at all their transitions.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test whose arithmetic overflows fails"
)]

use std::collections::BTreeSet;

use super::*;

fn at(text: &str) -> UnixMs {
    parse_instant(text, Tz::UTC).unwrap()
}

/// The cuts inside the range, as the zone's clock shows them.
fn cuts(zone: &str, grain: Grain, from: &str, to: &str) -> Vec<String> {
    let zone = parse_zone(zone).unwrap();
    let range = Range::new(at(from), at(to)).unwrap();
    let bounds = bounds(range, grain, zone).unwrap();
    assert_eq!(bounds.first(), Some(&range.from()), "the first bound");
    assert_eq!(bounds.last(), Some(&range.to()), "the last bound");
    let inner = bounds.iter().skip(1).rev().skip(1).rev();
    inner.map(|cut| to_zone_text(*cut, zone)).collect()
}

/// Zone, grain, from, to, and the cuts between them.
type Case<'c> = (&'c str, Grain, &'c str, &'c str, &'c [&'c str]);

const CASES: &[Case<'_>] = &[
    ("UTC", Grain::None, "2026-01-01", "2027-01-01", &[]),
    (
        "UTC",
        Grain::Day,
        "2026-01-01",
        "2026-01-03",
        &["2026-01-02T00:00:00Z"],
    ),
    (
        "UTC",
        Grain::QuarterHour,
        "2026-01-01",
        "2026-01-01T00:30:00Z",
        &["2026-01-01T00:15:00Z"],
    ),
    (
        "UTC",
        Grain::Week,
        "2026-01-01",
        "2026-01-08",
        &["2026-01-05T00:00:00Z"],
    ),
    (
        "UTC",
        Grain::Month,
        "2026-01-31",
        "2026-02-02",
        &["2026-02-01T00:00:00Z"],
    ),
    (
        "UTC",
        Grain::Year,
        "2026-12-31",
        "2027-01-02",
        &["2027-01-01T00:00:00Z"],
    ),
    // The first year of time has a start in the zone that lies before time.
    (
        "Europe/Berlin",
        Grain::Year,
        "1970-01-01",
        "1971-06-01",
        &["1971-01-01T00:00:00+01:00"],
    ),
    // 02:00 → 03:00.
    (
        "Europe/Berlin",
        Grain::Hour,
        "2026-03-29T00:15:00Z",
        "2026-03-29T02:15:00Z",
        &["2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"],
    ),
    (
        "Europe/Berlin",
        Grain::Day,
        "2026-03-28",
        "2026-03-30",
        &["2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"],
    ),
    // 03:00 → 02:00.
    (
        "Europe/Berlin",
        Grain::Hour,
        "2026-10-25T00:00:00Z",
        "2026-10-25T02:15:00Z",
        &["2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"],
    ),
    // Midnight is skipped: 00:00 → 01:00.
    (
        "Africa/Cairo",
        Grain::Day,
        "2026-04-23T12:00:00Z",
        "2026-04-24T12:00:00Z",
        &["2026-04-24T01:00:00+03:00"],
    ),
    // Midnight is doubled: 01:00 → 00:00.
    (
        "America/Havana",
        Grain::Day,
        "2026-11-01T00:00:00Z",
        "2026-11-02T04:00:00Z",
        &["2026-11-01T00:00:00-04:00"],
    ),
    (
        "America/Havana",
        Grain::Hour,
        "2026-11-01T03:30:00Z",
        "2026-11-01T06:15:00Z",
        &[
            "2026-11-01T00:00:00-04:00",
            "2026-11-01T00:00:00-05:00",
            "2026-11-01T01:00:00-05:00",
        ],
    ),
    // 00:00 → 23:00: the day that ends is longer.
    (
        "Africa/Cairo",
        Grain::Day,
        "2026-10-29T12:00:00Z",
        "2026-10-30T12:00:00Z",
        &["2026-10-30T00:00:00+02:00"],
    ),
    // 00:01 → 23:01: Sunday begins twice; the first counts.
    (
        "America/St_Johns",
        Grain::Day,
        "2006-10-28T12:00:00Z",
        "2006-10-30T03:30:00Z",
        &["2006-10-29T00:00:00-02:30"],
    ),
    // Half an hour forward, and back.
    (
        "Australia/Lord_Howe",
        Grain::Hour,
        "2026-10-03T14:30:00Z",
        "2026-10-03T16:15:00Z",
        &["2026-10-04T02:30:00+11:00", "2026-10-04T03:00:00+11:00"],
    ),
    (
        "Australia/Lord_Howe",
        Grain::Hour,
        "2026-04-04T14:00:00Z",
        "2026-04-04T15:45:00Z",
        &["2026-04-05T02:00:00+10:30"],
    ),
    // 30 December 2011 never came.
    (
        "Pacific/Apia",
        Grain::Day,
        "2011-12-29T12:00:00Z",
        "2011-12-31T12:00:00Z",
        &["2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"],
    ),
    // 44:30 minutes off; the quarter-hour that midnight splits stays with the day before.
    (
        "Africa/Monrovia",
        Grain::Day,
        "1971-06-01T00:30:00Z",
        "1971-06-02T00:30:00Z",
        &["1971-06-01T00:45:00Z"],
    ),
    (
        "Asia/Kathmandu",
        Grain::Day,
        "2026-01-01",
        "2026-01-02",
        &["2026-01-02T00:00:00+05:45"],
    ),
];

#[test]
fn buckets_are_cut_where_the_zones_clock_says() {
    for (zone, grain, from, to, expected) in CASES {
        assert_eq!(
            cuts(zone, *grain, from, to),
            *expected,
            "{grain} in {zone} from {from}"
        );
    }
}

/// All instants at which a zone's offset changes, found by halving days.
fn transitions(zone: Tz, from: UnixMs, to: UnixMs) -> Vec<UnixMs> {
    let offset = |at: UnixMs| local(at, zone) - at.to_utc().naive_utc();
    let mut found = Vec::new();
    let mut day = from;
    while day < to {
        let next = day.saturating_add_ms(crate::time::DAY_MS);
        if offset(day) != offset(next) {
            let (mut low, mut high) = (day.get() / QUARTER_MS, next.get() / QUARTER_MS);
            while high - low > 1 {
                let middle = i64::midpoint(low, high);
                let is_before = offset(UnixMs::new(middle * QUARTER_MS).unwrap()) == offset(day);
                *(if is_before { &mut low } else { &mut high }) = middle;
            }
            found.push(UnixMs::new(high * QUARTER_MS).unwrap());
        }
        day = next;
    }
    found
}

/// The obvious model: a quarter-hour begins a period when its date's period was never shown before.
fn model(range: Range, grain: Grain, zone: Tz) -> Vec<UnixMs> {
    let mut shown = period_start(local(range.from(), zone).date(), grain);
    let mut bounds = vec![range.from()];
    for quarter in quarters(range).skip(1) {
        let period = period_start(local(quarter, zone).date(), grain);
        if period > shown {
            shown = period;
            bounds.push(quarter);
        }
    }
    bounds.push(range.to());
    bounds
}

#[test]
fn all_zones_are_cut_as_a_walk_over_their_quarter_hours_says() {
    let (first, last) = (at("1970-01-03"), at("2037-12-01"));
    let mut seen = 0;
    for zone in chrono_tz::TZ_VARIANTS {
        // Three days around a transition hold all that it can move.
        for transition in transitions(zone, first, last) {
            seen += 1;
            let from = transition.saturating_add_ms(-36 * 3_600_000);
            let range = Range::new(from, from.saturating_add_ms(72 * 3_600_000)).unwrap();
            for grain in [Grain::Day, Grain::Month] {
                let bounds = bounds(range, grain, zone).unwrap();
                assert_eq!(
                    bounds,
                    model(range, grain, zone),
                    "{grain} in {zone} from {from}"
                );
            }
        }
    }
    assert!(seen > 20_000, "{seen} transitions are too few to be all");
}

#[test]
fn hours_of_all_zones_show_one_hour_each() {
    let (first, last) = (at("2017-01-01"), at("2027-01-01"));
    for zone in chrono_tz::TZ_VARIANTS {
        for transition in transitions(zone, first, last) {
            let from = transition.saturating_add_ms(-5 * 3_600_000);
            let range = Range::new(from, from.saturating_add_ms(10 * 3_600_000)).unwrap();
            let bounds = bounds(range, Grain::Hour, zone).unwrap();
            for pair in bounds.windows(2) {
                let &[start, end] = pair else {
                    unreachable!("windows of two")
                };
                let quarters = quarters(Range::new(start, end).unwrap());
                let hours = quarters.map(|quarter| local(quarter, zone));
                let hours: BTreeSet<_> = hours.map(|at| (at.date(), at.hour())).collect();
                assert_eq!(hours.len(), 1, "{zone} from {start} shows {hours:?}");
                let minutes = (end.get() - start.get()) / 60_000;
                assert!(minutes <= 90, "{zone} from {start} lasts {minutes} minutes");
            }
        }
    }
}

#[test]
fn every_instant_lies_in_one_bucket_of_every_zone_and_grain() {
    let (from, to) = (at("2016-11-21T03:45:00Z"), at("2026-11-21T09:30:00Z"));
    for zone in chrono_tz::TZ_VARIANTS {
        for grain in [Grain::Day, Grain::Week, Grain::Month, Grain::Year] {
            let bounds = bounds(Range::new(from, to).unwrap(), grain, zone).unwrap();
            assert_eq!(bounds.first(), Some(&from), "{grain} in {zone}");
            assert_eq!(bounds.last(), Some(&to), "{grain} in {zone}");
            assert!(
                bounds.is_sorted_by(|a, b| a < b),
                "{grain} in {zone} ascends"
            );
            let on_quarters = bounds
                .iter()
                .all(|cut| Quarter::starting_at(*cut).is_some());
            assert!(on_quarters, "{grain} in {zone} is cut at quarter-hours");
            let buckets = bounds.len() - 1;
            let (least, most) = match grain {
                // A zone may skip a date.
                Grain::Day => (3652, 3654),
                Grain::Week => (522, 523),
                Grain::Month => (121, 121),
                Grain::None | Grain::QuarterHour | Grain::Hour | Grain::Year => (11, 11),
            };
            assert!(
                (least..=most).contains(&buckets),
                "{buckets} buckets: {grain} in {zone}"
            );
        }
    }
}

#[test]
fn wrong_ranges_say_what_to_mend() {
    let range = |from: &str, to: &str| Range::new(at(from), at(to));
    let too_many = range("2026-01-01", "2028-01-01")
        .and_then(|range| bounds(range, Grain::Hour, Tz::Europe__Berlin));
    let cases = [
        (
            range("2026-01-01T00:01:00Z", "2026-01-02").unwrap_err(),
            "2026-01-01T00:01:00Z is not the start of a quarter-hour, the ledger's finest grain; \
             use 2026-01-01T00:00:00Z or 2026-01-01T00:15:00Z",
        ),
        (
            range("2026-01-02", "2026-01-02").unwrap_err(),
            "the range from 2026-01-02T00:00:00Z to 2026-01-02T00:00:00Z is empty; it must begin \
             before it ends",
        ),
        (
            too_many.unwrap_err(),
            "more than 10000 buckets of grain hour; shorten the range or use a coarser grain",
        ),
        (
            "dya".parse::<Grain>().unwrap_err(),
            "grain \"dya\" is unknown; use none, quarter-hour, hour, day, week, month or year",
        ),
        (
            parse_zone("Europe/Berlni").unwrap_err(),
            "time zone \"Europe/Berlni\" is unknown; the nearest name is Europe/Berlin",
        ),
        (
            parse_instant("yesterday", Tz::UTC).unwrap_err(),
            "\"yesterday\" is not a time of the years 1970 to 9999; write 2027-01-31 (that day's \
             start in the zone) or 2027-01-31T12:00:00Z",
        ),
    ];
    for (error, expected) in cases {
        assert_eq!(error.to_string(), expected, "{error:?}");
    }
}

#[test]
fn ten_thousand_buckets_are_the_most() {
    let from = at("2026-01-01");
    let range = |buckets: i64| Range::new(from, from.saturating_add_ms(buckets * QUARTER_MS));
    let of = |buckets| bounds(range(buckets).unwrap(), Grain::QuarterHour, Tz::UTC);
    assert_eq!(
        of(10_000).map(|bounds| bounds.len()),
        Ok(10_001),
        "the most"
    );
    assert_eq!(
        of(10_001),
        Err(CalendarError::TooManyBuckets(Grain::QuarterHour)),
        "one more"
    );
}

#[test]
fn texts_are_read_as_instants() {
    let cases = [
        ("2026-11-21", "Europe/Berlin", Some("2026-11-20T23:00:00Z")),
        ("2026-11-21", "UTC", Some("2026-11-21T00:00:00Z")),
        (
            "2026-11-21T10:00:00+01:00",
            "UTC",
            Some("2026-11-21T09:00:00Z"),
        ),
        ("2026-11-21t10:00:00z", "UTC", Some("2026-11-21T10:00:00Z")),
        ("2026-11-21T10:00:00", "UTC", None),
        ("2011-12-30", "Pacific/Apia", Some("2011-12-30T10:00:00Z")),
        ("2026-04-24", "Africa/Cairo", Some("2026-04-23T22:00:00Z")),
        ("2026-02-29", "UTC", None),
        ("1969-12-31", "UTC", None),
        ("1970-01-01", "Europe/Berlin", None),
        (
            "1970-01-01",
            "America/New_York",
            Some("1970-01-01T05:00:00Z"),
        ),
        (
            "9999-12-31",
            "America/New_York",
            Some("9999-12-31T05:00:00Z"),
        ),
        ("10000-01-01", "UTC", None),
        ("", "UTC", None),
        ("2026-1-1", "UTC", None),
    ];
    for (text, zone, expected) in cases {
        let read = parse_instant(text, parse_zone(zone).unwrap()).ok();
        assert_eq!(
            read.map(|at| at.to_string()).as_deref(),
            expected,
            "{text} in {zone}"
        );
    }
}
