//! Instants and quarter-hours.
//!
//! Invariant: an instant is a count of milliseconds since 1970-01-01T00:00:00Z within the years 1970
//! to 9999. Deliberately absent: the present (an argument everywhere) and zones (see `calendar`).

use std::fmt;

use chrono::{DateTime, Utc};

/// Milliseconds in a quarter of an hour.
pub const QUARTER_MS: i64 = 15 * 60 * 1000;

/// Milliseconds in a day of UTC (leap seconds do not exist in Unix time).
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The first millisecond of the year 10000.
const END_MS: i64 = 253_402_300_800_000;

/// An instant in milliseconds since 1970-01-01T00:00:00Z: from 0 up to, not including, the year
/// 10000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(i64);

impl UnixMs {
    /// The first instant.
    pub const FIRST: Self = Self(0);

    /// The last instant: the last millisecond of 9999.
    pub const LAST: Self = Self(END_MS.saturating_sub(1));

    /// Takes milliseconds since 1970; `None` before 1970 or after 9999.
    #[must_use]
    pub const fn new(ms: i64) -> Option<Self> {
        if ms >= 0 && ms < END_MS {
            Some(Self(ms))
        } else {
            None
        }
    }

    /// Takes an instant, cut to the millisecond; `None` before 1970 or after 9999.
    #[must_use]
    pub const fn from_utc(instant: DateTime<Utc>) -> Option<Self> {
        Self::new(instant.timestamp_millis())
    }

    /// Returns milliseconds since 1970.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Returns the instant `ms` later, or the last one that there is.
    #[must_use]
    pub fn saturating_add_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms).clamp(0, Self::LAST.0))
    }

    /// Returns the quarter-hour that holds this instant.
    #[must_use]
    pub fn quarter(self) -> Quarter {
        Quarter(self.0.div_euclid(QUARTER_MS))
    }

    /// Returns the same instant for a calendar.
    ///
    /// # Panics
    ///
    /// Never: the years 1970 to 9999 are all representable.
    #[must_use]
    pub fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).expect("1970 to 9999 is within chrono's range")
    }
}

impl fmt::Display for UnixMs {
    /// Writes RFC 3339 in UTC, with milliseconds where there are any; by hand, since answers carry several.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0.div_euclid(DAY_MS), self.0.rem_euclid(DAY_MS));
        let (year, month, day) = date_of(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let seconds = ms / 1000;
        digits(&mut text, 0..4, year);
        digits(&mut text, 5..7, month);
        digits(&mut text, 8..10, day);
        digits(&mut text, 11..13, seconds / 3600);
        digits(&mut text, 14..16, seconds / 60 % 60);
        digits(&mut text, 17..19, seconds % 60);
        digits(&mut text, 20..23, ms % 1000);
        let [whole @ .., _, _, _, _] = &mut text;
        let bytes: &[u8] = if ms % 1000 == 0 {
            if let Some(point) = whole.last_mut() {
                *point = b'Z';
            }
            whole
        } else {
            &text
        };
        f.write_str(std::str::from_utf8(bytes).unwrap_or_default())
    }
}

/// Writes the last digits of a number, as many as there is room for.
fn digits(text: &mut [u8], room: std::ops::Range<usize>, mut number: i64) {
    for digit in text.get_mut(room).unwrap_or_default().iter_mut().rev() {
        *digit = b'0'.saturating_add(u8::try_from(number % 10).unwrap_or_default());
        number /= 10;
    }
}

/// Returns year, month and day of a day since 1970-01-01, which none lies before. Years begin in March
/// here, so that the day that some have more is their last.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "days of the years 1970 to 9999, of which nothing here is a thousandfold"
)]
fn date_of(days: i64) -> (i64, i64, i64) {
    // Since 0000-03-01; an era has 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    (year, month, day)
}

/// A quarter-hour of UTC, counted from 1970-01-01T00:00:00Z; the ledger's finest grain.
///
/// Quarters, since some zones lie 30 or 45 minutes off the hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quarter(i64);

impl Quarter {
    /// Takes the quarter that starts at this instant; `None` between two starts.
    #[must_use]
    pub fn starting_at(instant: UnixMs) -> Option<Self> {
        let quarter = instant.quarter();
        (quarter.start() == instant).then_some(quarter)
    }

    /// Returns its first instant.
    #[must_use]
    pub fn start(self) -> UnixMs {
        UnixMs(self.0.saturating_mul(QUARTER_MS))
    }
}

#[cfg(test)]
mod tests {
    use chrono::SecondsFormat;
    use proptest::prelude::*;

    use super::*;

    fn by_chrono(instant: UnixMs) -> String {
        let format = if instant.get() % 1000 == 0 {
            SecondsFormat::Secs
        } else {
            SecondsFormat::Millis
        };
        instant.to_utc().to_rfc3339_opts(format, true)
    }

    #[test]
    fn every_day_is_written_as_the_calendar_has_it() {
        let last = UnixMs::LAST.get() / DAY_MS;
        for day in (0..=last).map(|day| day * DAY_MS) {
            let day = UnixMs::new(day).unwrap();
            assert_eq!(day.to_string(), by_chrono(day));
        }
        assert_eq!(UnixMs::LAST.to_string(), by_chrono(UnixMs::LAST));
    }

    proptest! {
        #[test]
        fn every_instant_is_written_as_the_calendar_has_it(ms in 0..=UnixMs::LAST.get()) {
            let instant = UnixMs::new(ms).unwrap();
            prop_assert_eq!(instant.to_string(), by_chrono(instant));
        }
    }
}
