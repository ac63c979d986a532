//! Windows: the cases of the table, all zones at all their transitions of ten years, month ends.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test whose arithmetic overflows fails"
)]

use chrono::Timelike as _;
use proptest::prelude::*;

use super::*;
use crate::calendar::{parse_instant, parse_zone};

fn at(text: &str) -> UnixMs {
    parse_instant(text, Tz::UTC).unwrap()
}

fn day(day: u8) -> AnchorDay {
    AnchorDay::new(day).unwrap()
}

fn date(month: Month, of: u8) -> AnchorDate {
    AnchorDate::new(month, day(of)).unwrap()
}

fn rule(period: Period, zone: &str) -> SlotRule {
    let zone = parse_zone(zone).unwrap();
    SlotRule::Calendar(Calendar { period, zone })
}

fn earlier(instant: UnixMs, ms: i64) -> UnixMs {
    instant.saturating_add_ms(-ms)
}

const HOUR_MS: i64 = 3_600_000;

fn check(cases: &[(SlotRule, &str, &str)]) {
    for (rule, instant, expected) in cases {
        let slot = rule.slot_at(at(instant));
        assert_eq!(slot.to_string(), *expected, "{rule:?} at {instant}");
    }
}

#[test]
fn days_and_hours_begin_and_end_as_the_table_says() {
    check(&[
        (
            rule(Period::Day, "Africa/Cairo"),
            "2026-04-24T08:00:00Z",
            "2026-04-23T22:00:00Z to 2026-04-24T21:00:00Z",
        ),
        (
            rule(Period::Day, "America/Havana"),
            "2026-11-01T05:30:00Z",
            "2026-11-01T04:00:00Z to 2026-11-02T05:00:00Z",
        ),
        // The clock shows 28 October again; Sunday has begun.
        (
            rule(Period::Day, "America/St_Johns"),
            "2006-10-29T03:00:00Z",
            "2006-10-29T02:30:00Z to 2006-10-30T03:30:00Z",
        ),
        (
            rule(Period::Day, "Pacific/Apia"),
            "2011-12-30T09:59:59Z",
            "2011-12-29T10:00:00Z to 2011-12-30T10:00:00Z",
        ),
        (
            rule(Period::Day, "Pacific/Apia"),
            "2011-12-30T10:00:00Z",
            "2011-12-30T10:00:00Z to 2011-12-31T10:00:00Z",
        ),
        (
            rule(Period::Hour, "Europe/Berlin"),
            "2026-10-25T01:59:59Z",
            "2026-10-25T01:00:00Z to 2026-10-25T02:00:00Z",
        ),
        (
            rule(Period::Hour, "Australia/Lord_Howe"),
            "2026-04-04T15:10:00Z",
            "2026-04-04T14:00:00Z to 2026-04-04T15:30:00Z",
        ),
        (
            rule(Period::Hour, "Asia/Kathmandu"),
            "2026-01-01T00:00:00Z",
            "2025-12-31T23:15:00Z to 2026-01-01T00:15:00Z",
        ),
        (
            rule(Period::Minute, "Asia/Kathmandu"),
            "2026-01-01T00:00:59Z",
            "2026-01-01T00:00:00Z to 2026-01-01T00:01:00Z",
        ),
    ]);
}

#[test]
fn weeks_months_and_years_begin_and_end_as_the_table_says() {
    let (months, leap) = (Period::Month(day(31)), date(Month::February, 29));
    check(&[
        (
            rule(Period::Week(Weekday::Sun), "UTC"),
            "2026-11-21T00:00:00Z",
            "2026-11-15T00:00:00Z to 2026-11-22T00:00:00Z",
        ),
        (
            rule(months, "UTC"),
            "2026-04-30T00:00:00Z",
            "2026-04-30T00:00:00Z to 2026-05-31T00:00:00Z",
        ),
        (
            rule(months, "UTC"),
            "2026-03-01T00:00:00Z",
            "2026-02-28T00:00:00Z to 2026-03-31T00:00:00Z",
        ),
        (
            rule(Period::Year(leap), "UTC"),
            "2028-02-28T23:59:59Z",
            "2027-02-28T00:00:00Z to 2028-02-29T00:00:00Z",
        ),
        (
            rule(Period::Year(AnchorDate::FIRST), "Europe/Berlin"),
            "1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z to 1970-12-31T23:00:00Z",
        ),
        (
            rule(Period::Month(AnchorDay::FIRST), "Europe/Berlin"),
            "9999-12-31T23:30:00Z",
            "9999-12-31T23:00:00Z to 9999-12-31T23:59:59.999Z",
        ),
    ]);
}

/// Instants at which the zone's offset changes, to the quarter-hour.
fn transitions(zone: Tz, from: UnixMs, to: UnixMs) -> Vec<UnixMs> {
    let offset = |at: UnixMs| local(at, zone) - at.to_utc().naive_utc();
    let quarters = |from: UnixMs, to: UnixMs, step: i64| {
        let next = move |at: &UnixMs| Some(at.saturating_add_ms(step));
        std::iter::successors(Some(from), next).take_while(move |at| *at < to)
    };
    let days =
        quarters(from, to, 24 * HOUR_MS).map(|day| (day, day.saturating_add_ms(24 * HOUR_MS)));
    let changing = days.filter(|(day, next)| offset(*day) != offset(*next));
    let found = changing.filter_map(|(day, next)| {
        quarters(day, next, QUARTER_MS)
            .find(|at| offset(at.saturating_add_ms(QUARTER_MS)) != offset(*at))
    });
    found
        .map(|last| last.saturating_add_ms(QUARTER_MS))
        .collect()
}

/// Says whether a period begins on a date.
fn is_first(date: NaiveDate, period: Period) -> bool {
    let is_last_of_month = date.succ_opt().unwrap().day() == 1;
    let is_anchor = |anchor: u8| {
        date.day() == u32::from(anchor) || (is_last_of_month && date.day() < u32::from(anchor))
    };
    match period {
        Period::Minute | Period::Hour => unreachable!("periods of whole days"),
        Period::Day => true,
        Period::Week(first) => date.weekday() == first,
        Period::Month(anchor) => is_anchor(anchor.get()),
        Period::Year(anchor) => {
            date.month() == anchor.month.number_from_month() && is_anchor(anchor.day.get())
        }
    }
}

/// The obvious model: walk over all quarter-hours; a slot begins when the zone's clock shows, for
/// the first time, a date on which or before which a period begins.
fn model(from: UnixMs, to: UnixMs, calendar: Calendar) -> Vec<UnixMs> {
    let mut latest = local(from, calendar.zone).date();
    let mut starts = Vec::new();
    let mut quarter = from;
    while quarter < to {
        let shown = local(quarter, calendar.zone).date();
        let mut begins = false;
        while latest < shown {
            latest = latest.succ_opt().unwrap();
            begins |= is_first(latest, calendar.period);
        }
        if begins {
            starts.push(quarter);
        }
        quarter = quarter.saturating_add_ms(QUARTER_MS);
    }
    starts
}

/// Walks from slot to slot: each begins where the one before ends, and holds its first, middle and
/// last instant. Returns the starts after `from` and before `to`.
fn walk(from: UnixMs, to: UnixMs, rule: SlotRule) -> Vec<UnixMs> {
    let mut starts = Vec::new();
    let mut slot = rule.slot_at(from);
    assert!(slot.contains(from), "{rule:?} at {from}: {slot}");
    while slot.end() < to {
        let next = rule.slot_at(slot.end());
        assert_eq!(next.start(), slot.end(), "{rule:?} after {slot}");
        let middle = UnixMs::new(i64::midpoint(next.start().get(), next.end().get())).unwrap();
        for instant in [middle, earlier(next.end(), 1)] {
            assert_eq!(rule.slot_at(instant), next, "{rule:?} at {instant}");
        }
        starts.push(next.start());
        slot = next;
    }
    starts
}

#[test]
fn no_instant_of_ten_years_is_in_two_windows_or_in_none_at_any_zones_transition() {
    let (first, last) = (at("2017-01-01"), at("2027-01-01"));
    let mut seen = 0;
    for zone in chrono_tz::TZ_VARIANTS {
        for transition in transitions(zone, first, last) {
            seen += 1;
            let from = earlier(transition, 36 * HOUR_MS);
            let to = transition.saturating_add_ms(36 * HOUR_MS);
            // Periods that begin on the day itself move with it.
            let near = local(transition, zone).date();
            let anchor = day(u8::try_from(near.day()).unwrap());
            let month = Month::try_from(u8::try_from(near.month()).unwrap()).unwrap();
            let periods = [
                Period::Day,
                Period::Week(near.weekday()),
                Period::Month(anchor),
                Period::Month(day(31)),
                Period::Year(AnchorDate::new(month, anchor).unwrap()),
            ];
            for period in periods {
                let calendar = Calendar { period, zone };
                let starts = walk(from, to, SlotRule::Calendar(calendar));
                assert_eq!(
                    starts,
                    model(from, to, calendar),
                    "{calendar:?} from {from}"
                );
            }
        }
    }
    assert!(seen > 4_000, "{seen} transitions are too few to be all");
}

#[test]
fn an_hour_window_shows_one_hour_of_its_zone_at_every_transition() {
    let (first, last) = (at("2017-01-01"), at("2027-01-01"));
    for zone in chrono_tz::TZ_VARIANTS {
        let calendar = Calendar {
            period: Period::Hour,
            zone,
        };
        for transition in transitions(zone, first, last) {
            let from = earlier(transition, 3 * HOUR_MS);
            let to = transition.saturating_add_ms(3 * HOUR_MS);
            for start in walk(from, to, SlotRule::Calendar(calendar)) {
                let slot = SlotRule::Calendar(calendar).slot_at(start);
                // A clock that jumps within a quarter-hour (Casey, 2020-10-04, 00:01) is read at
                // its start.
                let shown = |at: UnixMs| {
                    let at = local(at, zone);
                    (at.date(), at.hour())
                };
                assert_eq!(
                    shown(start),
                    shown(earlier(slot.end(), QUARTER_MS)),
                    "{zone}: {slot}"
                );
                let strikes = local(start, zone).minute() == 0;
                let jumps = shown(start) != shown(earlier(start, QUARTER_MS));
                assert!(strikes || jumps, "{zone}: {slot} begins in an hour");
                let ms = slot.end().get() - start.get();
                assert!(ms <= 90 * 60_000, "{zone}: {slot} is long");
            }
        }
    }
}

#[test]
fn month_ends_and_anchor_days_hold_for_thirty_years() {
    let (from, to) = (at("2000-01-01"), at("2030-01-01"));
    for zone in ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"] {
        let zone = parse_zone(zone).unwrap();
        for anchor in [1, 15, 28, 29, 30, 31] {
            let period = Period::Month(day(anchor));
            let starts = walk(from, to, SlotRule::Calendar(Calendar { period, zone }));
            assert!(
                (359..=360).contains(&starts.len()),
                "{} months",
                starts.len()
            );
            for start in starts {
                let begins = local(start, zone).date();
                assert!(is_first(begins, period), "{begins} from the {anchor}th");
            }
        }
        for anchor in [
            AnchorDate::FIRST,
            date(Month::February, 29),
            date(Month::April, 6),
        ] {
            let period = Period::Year(anchor);
            let starts = walk(from, to, SlotRule::Calendar(Calendar { period, zone }));
            assert!((29..=30).contains(&starts.len()), "{} years", starts.len());
            for start in starts {
                let begins = local(start, zone).date();
                assert!(is_first(begins, period), "{begins} for {anchor:?}");
            }
        }
    }
}

#[test]
fn slots_of_sliding_windows_are_a_sixtieth_rounded_up_and_at_least_a_second() {
    let cases = [
        (1_000, 1_000),
        (59_999, 1_000),
        (60_000, 1_000),
        (60_001, 1_001),
        (3_600_000, 60_000),
        (WINDOW_MS_MAX, 5_270_400_000),
    ];
    for (window_ms, slot_ms) in cases {
        let window = WindowSpec::Sliding(WindowLength::from_ms(window_ms).unwrap());
        let slot = window.slots().slot_at(at("2026-11-21T12:34:56.789Z"));
        assert_eq!(
            slot.end().get() - slot.start().get(),
            slot_ms,
            "{window_ms} ms"
        );
        assert_eq!(slot.start().get() % slot_ms, 0, "{window_ms} ms");
    }
}

#[test]
fn what_is_no_window_says_what_to_mend() {
    let cases = [
        (
            WindowLength::from_ms(999).unwrap_err(),
            "a window of 999 ms is not from 1 second to 3660 days",
        ),
        (
            Interval::from_ms(0).unwrap_err(),
            "an interval of 0 ms is not from 1 ms to 3660 days",
        ),
        (
            AnchorDay::new(32).unwrap_err(),
            "anchor day 32 is not from 1 to 31",
        ),
        (
            AnchorDate::new(Month::February, day(30)).unwrap_err(),
            "February never has a day 30",
        ),
    ];
    for (error, expected) in cases {
        assert_eq!(error.to_string(), expected, "{error:?}");
    }
}

fn periods() -> impl Strategy<Value = Period> {
    let days = (1..=31_u8).prop_map(day);
    let dates = (1..=12_u8, 1..=31_u8).prop_filter_map("a date", |(month, of)| {
        AnchorDate::new(Month::try_from(month).ok()?, day(of)).ok()
    });
    prop_oneof![
        Just(Period::Minute),
        Just(Period::Hour),
        Just(Period::Day),
        (0..7_u8).prop_map(|of| Period::Week(Weekday::try_from(of).unwrap())),
        days.prop_map(Period::Month),
        dates.prop_map(Period::Year),
    ]
}

proptest! {
    #[test]
    fn every_instant_lies_in_the_slot_that_any_other_of_its_instants_names(
        period in periods(),
        zone in 0..chrono_tz::TZ_VARIANTS.len(),
        instant in 0..253_402_300_800_000_i64,
        part in 0..1_000_i64,
    ) {
        let zone = chrono_tz::TZ_VARIANTS.get(zone).copied().unwrap();
        let rule = SlotRule::Calendar(Calendar { period, zone });
        let instant = UnixMs::new(instant).unwrap();
        let slot = rule.slot_at(instant);
        prop_assert!(slot.contains(instant) || instant == UnixMs::LAST, "{} outside {}", instant, slot);
        let length = slot.end().get() - slot.start().get();
        let other = slot.start().saturating_add_ms(length / 1_000 * part);
        prop_assert_eq!(rule.slot_at(other), slot);
        let mut cursor = SlotCursor::new(rule, other);
        prop_assert_eq!(cursor.slot_at(instant), slot);
        let before = earlier(slot.start(), 1);
        if slot.start() > UnixMs::FIRST {
            prop_assert_eq!(rule.slot_at(before).end(), slot.start());
            prop_assert_eq!(cursor.slot_at(before).end(), slot.start());
        }
    }
}
