//! Calendars and time zones: grains of a report, cut where a zone's own days and hours begin.
//!
//! Invariant: buckets tile their range: each instant of it lies in exactly one bucket, whatever the
//! zone's clock does, and every cut is the start of a quarter-hour, the ledger's finest grain.
//! Deliberately absent: the present; who says "today" computes it outside.

use std::fmt;
use std::str::FromStr;

use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, Offset, SecondsFormat,
    TimeDelta, TimeZone, Timelike, Utc,
};

pub use chrono_tz::Tz;

use crate::time::{QUARTER_MS, Quarter, UnixMs};

/// The most buckets of one report: 27 years of days, a year of hours, 3 months of quarter-hours.
pub const BUCKETS_MAX: usize = 10_000;

/// How finely a report is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grain {
    /// Not at all: one bucket.
    None,
    /// Quarter-hours.
    QuarterHour,
    /// Hours of the zone's clock.
    Hour,
    /// Days of the zone.
    Day,
    /// Weeks of the zone, from Monday (ISO 8601).
    Week,
    /// Months of the zone.
    Month,
    /// Years of the zone.
    Year,
}

impl Grain {
    /// All grains, ascending.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::QuarterHour,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Year,
    ];

    /// Returns the name used on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::QuarterHour => "quarter-hour",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

impl fmt::Display for Grain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Grain {
    type Err = CalendarError;

    fn from_str(name: &str) -> Result<Self, CalendarError> {
        let grain = Self::ALL.into_iter().find(|grain| grain.name() == name);
        grain.ok_or_else(|| CalendarError::UnknownGrain(name.to_owned()))
    }
}

/// Why a range cannot be reported as wanted; the person who asked mends what the text names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// A text names no grain.
    #[error("grain {0:?} is unknown; use none, quarter-hour, hour, day, week, month or year")]
    UnknownGrain(String),
    /// A text names no IANA time zone.
    #[error("time zone {name:?} is unknown; the nearest name is {nearest}")]
    UnknownZone {
        /// What was asked for.
        name: String,
        /// The IANA zone whose name has the fewest edits from it.
        nearest: &'static str,
    },
    /// A text is no instant and no date of the years 1970 to 9999.
    #[error(
        "{0:?} is not a time of the years 1970 to 9999; write 2027-01-31 (that day's start in the \
         zone) or 2027-01-31T12:00:00Z"
    )]
    NotATime(String),
    /// An end of the range lies inside a quarter-hour, which the ledger cannot split.
    #[error("{0} is not the start of a quarter-hour, the ledger's finest grain; use {1} or {2}")]
    NotAQuarter(UnixMs, UnixMs, UnixMs),
    /// The range does not begin before it ends.
    #[error("the range from {0} to {1} is empty; it must begin before it ends")]
    EmptyRange(UnixMs, UnixMs),
    /// The grain is too fine for the range.
    #[error("more than 10000 buckets of grain {0}; shorten the range or use a coarser grain")]
    TooManyBuckets(Grain),
}

/// A half-open range of instants: `from` is in it, `to` is not. Both are starts of quarter-hours,
/// and `from` lies before `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    from: UnixMs,
    to: UnixMs,
}

impl Range {
    /// Takes both ends.
    ///
    /// # Errors
    ///
    /// [`CalendarError::NotAQuarter`] and [`CalendarError::EmptyRange`].
    pub fn new(from: UnixMs, to: UnixMs) -> Result<Self, CalendarError> {
        for end in [from, to] {
            if Quarter::starting_at(end).is_none() {
                let before = end.quarter().start();
                let after = before.saturating_add_ms(QUARTER_MS);
                return Err(CalendarError::NotAQuarter(end, before, after));
            }
        }
        if from >= to {
            return Err(CalendarError::EmptyRange(from, to));
        }
        Ok(Self { from, to })
    }

    /// Returns the first instant in it.
    #[must_use]
    pub const fn from(self) -> UnixMs {
        self.from
    }

    /// Returns the first instant after it.
    #[must_use]
    pub const fn to(self) -> UnixMs {
        self.to
    }
}

/// Returns the bounds of the range's buckets: strictly ascending, the first is `from`, the last is
/// `to`, at most [`BUCKETS_MAX`] + 1. The first and the last bucket may be parts of a day.
///
/// A day (week, month, year) begins at the first instant at which the zone's clock shows that date
/// or a later one, an hour at each strike; both at the first quarter-hour that starts then or later.
///
/// | the zone's clock | day | hour |
/// | --- | --- | --- |
/// | jumps 02:00 → 03:00 (Berlin, March) | 23 hours | there is no bucket for 02 |
/// | falls 03:00 → 02:00 (Berlin, October) | 25 hours | two buckets for 02, each an hour |
/// | jumps 00:00 → 01:00 (Cairo, April): midnight skipped | begins at 01:00 | none for 00 |
/// | falls 01:00 → 00:00 (Havana, November): midnight doubled | begins at the first | two for 00 |
/// | falls 00:00 → 23:00 (Cairo, October) | the day that ends has 25 hours | two for 23 |
/// | falls 00:01 → 23:01 (St John's, until 2010) | begins at the first midnight, one hour longer | two for 23 |
/// | jumps 02:00 → 02:30 (Lord Howe, October) | 23.5 hours | 02 has 30 minutes |
/// | falls 02:00 → 01:30 (Lord Howe, April) | 24.5 hours | 01 has 90 minutes |
/// | skips a date (Apia, 2011-12-30) | there is no bucket for it | none for its hours |
/// | lies off the quarter-hour (Monrovia, until 1972) | a split quarter stays with the day it starts in | the same |
///
/// # Errors
///
/// [`CalendarError::TooManyBuckets`].
pub fn bounds(range: Range, grain: Grain, zone: Tz) -> Result<Vec<UnixMs>, CalendarError> {
    let mut bounds = vec![range.from];
    let cut_at = |cut: UnixMs| {
        let last = bounds.last().copied().unwrap_or(range.from);
        if cut > last && cut < range.to {
            bounds.push(cut);
        }
        if bounds.len() > BUCKETS_MAX {
            return Err(CalendarError::TooManyBuckets(grain));
        }
        Ok(())
    };
    match grain {
        Grain::None => {}
        Grain::QuarterHour => quarters(range).try_for_each(cut_at)?,
        Grain::Hour => {
            let mut starts = quarters(range).filter(|quarter| is_hour_start(*quarter, zone));
            starts.try_for_each(cut_at)?;
        }
        Grain::Day | Grain::Week | Grain::Month | Grain::Year => {
            let first = period_start(local(range.from, zone).date(), grain);
            let dates = std::iter::successors(Some(first), |date| next_period(*date, grain));
            let starts = dates.skip(1).map_while(|date| start_of_day(date, zone));
            starts
                .take_while(|start| *start < range.to)
                .try_for_each(cut_at)?;
        }
    }
    bounds.push(range.to);
    Ok(bounds)
}

/// Reads an instant as a person writes it: RFC 3339, or a date, which means the first instant of
/// that day in the zone.
///
/// # Errors
///
/// [`CalendarError::NotATime`].
pub fn parse_instant(text: &str, zone: Tz) -> Result<UnixMs, CalendarError> {
    let is_date = text.len() == 10 && text.bytes().all(|b| b == b'-' || b.is_ascii_digit());
    let instant = if is_date {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
        date.and_then(|date| start_of_day(date, zone))
    } else {
        let instant = DateTime::parse_from_rfc3339(text).ok();
        instant.and_then(|instant| UnixMs::from_utc(instant.with_timezone(&Utc)))
    };
    instant.ok_or_else(|| CalendarError::NotATime(text.to_owned()))
}

/// Finds an IANA time zone by its name, as `Europe/Berlin` or `UTC`.
///
/// # Errors
///
/// [`CalendarError::UnknownZone`] says which one was probably meant.
pub fn parse_zone(name: &str) -> Result<Tz, CalendarError> {
    Tz::from_str(name).map_err(|_| {
        let zones = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        let nearest = zones.min_by_key(|zone| strsim::damerau_levenshtein(name, zone));
        CalendarError::UnknownZone {
            name: name.to_owned(),
            nearest: nearest.unwrap_or("UTC"),
        }
    })
}

/// Writes an instant as the zone's clock shows it, with its offset: `2026-11-21T13:00:00+01:00`.
/// With `Z` where the zone is UTC or its offset has seconds, which RFC 3339 cannot write.
#[must_use]
pub fn to_zone_text(instant: UnixMs, zone: Tz) -> String {
    let shown = instant.to_utc().with_timezone(&zone);
    let has_seconds = shown.offset().fix().local_minus_utc().rem_euclid(60) != 0;
    if zone == Tz::UTC || has_seconds {
        return instant.to_string();
    }
    let is_whole = instant.get().rem_euclid(1000) == 0;
    let format = if is_whole {
        SecondsFormat::Secs
    } else {
        SecondsFormat::Millis
    };
    shown.to_rfc3339_opts(format, false)
}

/// Returns the first quarter-hour that starts when the zone's clock shows this date or a later one;
/// `None` outside the years 1970 to 9999.
#[must_use]
pub fn start_of_day(date: NaiveDate, zone: Tz) -> Option<UnixMs> {
    let mut wall = date.and_time(NaiveTime::MIN);
    // The longest gap so far is a day (Apia, 2011-12-30): 96 quarter-hours.
    for _ in 0..=2 * 96 {
        if let Some(instant) = zone.from_local_datetime(&wall).earliest() {
            return next_quarter(instant.with_timezone(&Utc));
        }
        wall = wall.checked_add_signed(TimeDelta::minutes(15))?;
    }
    None
}

/// Returns the first start of a quarter-hour at or after an instant.
fn next_quarter(instant: DateTime<Utc>) -> Option<UnixMs> {
    let ms = instant.timestamp_millis();
    let past = ms.rem_euclid(QUARTER_MS);
    let wait = if past == 0 {
        0
    } else {
        QUARTER_MS.checked_sub(past)?
    };
    UnixMs::new(ms.checked_add(wait)?)
}

pub(crate) fn local(instant: UnixMs, zone: Tz) -> NaiveDateTime {
    instant.to_utc().with_timezone(&zone).naive_local()
}

/// Returns the starts of the range's quarter-hours, ascending.
fn quarters(range: Range) -> impl Iterator<Item = UnixMs> {
    let next = |quarter: &UnixMs| Some(quarter.saturating_add_ms(QUARTER_MS));
    std::iter::successors(Some(range.from), next).take_while(move |quarter| *quarter < range.to)
}

/// Says whether the zone's clock strikes in this quarter-hour, or shows another hour than before it.
pub(crate) fn is_hour_start(quarter: UnixMs, zone: Tz) -> bool {
    let shown = local(quarter, zone);
    let before = local(quarter.saturating_add_ms(QUARTER_MS.saturating_neg()), zone);
    shown.minute() < 15 || (shown.date(), shown.hour()) != (before.date(), before.hour())
}

/// Returns the first date of the period that holds a date.
fn period_start(date: NaiveDate, grain: Grain) -> NaiveDate {
    let start = match grain {
        Grain::None | Grain::QuarterHour | Grain::Hour | Grain::Day => Some(date),
        Grain::Week => {
            let since_monday = u64::from(date.weekday().num_days_from_monday());
            date.checked_sub_days(Days::new(since_monday))
        }
        Grain::Month => date.with_day(1),
        Grain::Year => NaiveDate::from_ymd_opt(date.year(), 1, 1),
    };
    start.unwrap_or(date)
}

/// Returns the first date of the period after the one that begins at `start`.
fn next_period(start: NaiveDate, grain: Grain) -> Option<NaiveDate> {
    match grain {
        Grain::None => None,
        Grain::QuarterHour | Grain::Hour | Grain::Day => start.checked_add_days(Days::new(1)),
        Grain::Week => start.checked_add_days(Days::new(7)),
        Grain::Month => start.checked_add_months(Months::new(1)),
        Grain::Year => start.checked_add_months(Months::new(12)),
    }
}

#[cfg(test)]
mod tests;
