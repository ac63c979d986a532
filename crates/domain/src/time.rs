//! Instants and quarter-hours.
//!
//! Invariant: an instant is a count of milliseconds since 1970-01-01T00:00:00Z within the years 1970
//! to 9999. Deliberately absent: the present (an argument everywhere) and zones (see `calendar`).

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_whole = self.0.rem_euclid(1000) == 0;
        let format = if is_whole {
            SecondsFormat::Secs
        } else {
            SecondsFormat::Millis
        };
        f.write_str(&self.to_utc().to_rfc3339_opts(format, true))
    }
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
