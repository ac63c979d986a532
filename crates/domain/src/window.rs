//! Windows: the spans of time that a limit counts in, and the slots that use is kept by.
//!
//! Invariant: the slots of one rule tile time: each instant lies in exactly one of them, whatever
//! the zone's clock does, and a slot is named by its first instant. Deliberately absent: the present
//! (an argument everywhere) and what is counted (see `account`).

use std::fmt;

use chrono::{Datelike as _, Days, Months, NaiveDate};
pub use chrono::{Month, Weekday};

use crate::calendar::{Tz, is_hour_start, local, start_of_day};
use crate::hash::Canonical;
use crate::time::{QUARTER_MS, UnixMs};

/// Slots of a sliding window or a bucket: its length is cut into so many.
pub const SLOTS_PER_WINDOW: i64 = 60;

/// The shortest slot of a sliding window or a bucket, in milliseconds.
pub const SLOT_MS_MIN: i64 = 1_000;

/// The shortest fixed or sliding window, in milliseconds: one slot.
pub const WINDOW_MS_MIN: i64 = SLOT_MS_MIN;

/// The longest fixed or sliding window and refill interval: 3,660 days, ten years and some days.
pub const WINDOW_MS_MAX: i64 = 3_660 * 24 * 60 * 60 * 1_000;

const MINUTE_MS: i64 = 60_000;

/// The most quarter-hours of one hour window: the clock may fall back within an hour and show its
/// minutes twice. No zone has shown more than 90 minutes; two days are out of reach.
const HOUR_QUARTERS_MAX: usize = 2 * 96;

/// Why something is not a window; the person who wrote it mends what the text names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// A fixed or sliding window is shorter than [`WINDOW_MS_MIN`] or longer than
    /// [`WINDOW_MS_MAX`].
    #[error("a window of {0} ms is not from 1 second to 3660 days")]
    Length(i64),
    /// An interval of a refill is below 1 ms or above [`WINDOW_MS_MAX`].
    #[error("an interval of {0} ms is not from 1 ms to 3660 days")]
    Interval(i64),
    /// A day of the month is not from 1 to 31.
    #[error("anchor day {0} is not from 1 to 31")]
    AnchorDay(u8),
    /// A month of the year never has this day.
    #[error("{month} never has a day {day}")]
    AnchorDate {
        /// The month's English name.
        month: &'static str,
        /// The day that it never has.
        day: u8,
    },
}

/// The length of a fixed or sliding window: 1 second to 3,660 days, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowLength(i64);

impl WindowLength {
    /// Takes milliseconds.
    ///
    /// # Errors
    ///
    /// [`WindowError::Length`].
    pub fn from_ms(ms: i64) -> Result<Self, WindowError> {
        if (WINDOW_MS_MIN..=WINDOW_MS_MAX).contains(&ms) {
            Ok(Self(ms))
        } else {
            Err(WindowError::Length(ms))
        }
    }

    /// Returns milliseconds.
    #[must_use]
    pub const fn ms(self) -> i64 {
        self.0
    }
}

/// How often a bucket is refilled: 1 millisecond to 3,660 days, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(i64);

impl Interval {
    /// Takes milliseconds.
    ///
    /// # Errors
    ///
    /// [`WindowError::Interval`].
    pub fn from_ms(ms: i64) -> Result<Self, WindowError> {
        if (1..=WINDOW_MS_MAX).contains(&ms) {
            Ok(Self(ms))
        } else {
            Err(WindowError::Interval(ms))
        }
    }

    /// Returns milliseconds.
    #[must_use]
    pub const fn ms(self) -> i64 {
        self.0
    }
}

/// A day of a month, 1 to 31; in a shorter month it stands for the last day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnchorDay(u8);

impl AnchorDay {
    /// The first day of the month.
    pub const FIRST: Self = Self(1);

    /// Takes a day of a month.
    ///
    /// # Errors
    ///
    /// [`WindowError::AnchorDay`].
    pub fn new(day: u8) -> Result<Self, WindowError> {
        if (1..=31).contains(&day) {
            Ok(Self(day))
        } else {
            Err(WindowError::AnchorDay(day))
        }
    }

    /// Returns the day of the month.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A day of the year that a year begins on; 29 February stands for the 28th in common years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnchorDate {
    month: Month,
    day: AnchorDay,
}

impl AnchorDate {
    /// 1 January.
    pub const FIRST: Self = Self {
        month: Month::January,
        day: AnchorDay::FIRST,
    };

    /// Takes a month and one of its days.
    ///
    /// # Errors
    ///
    /// [`WindowError::AnchorDate`] where the month never has that day.
    pub fn new(month: Month, day: AnchorDay) -> Result<Self, WindowError> {
        let is_day = NaiveDate::from_ymd_opt(2000, month.number_from_month(), day.0.into());
        if is_day.is_none() {
            let (month, day) = (month.name(), day.0);
            return Err(WindowError::AnchorDate { month, day });
        }
        Ok(Self { month, day })
    }
}

/// What a calendar window repeats by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// Minutes of Unix time, which are every present zone's minutes.
    Minute,
    /// Hours of the zone's clock.
    Hour,
    /// Days of the zone.
    Day,
    /// Weeks of the zone, from this day on (ISO 8601: Monday).
    Week(Weekday),
    /// Months of the zone, from this day on; 31 means the last day of each month.
    Month(AnchorDay),
    /// Years of the zone, from this date on.
    Year(AnchorDate),
}

impl Period {
    /// Returns the word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week(_) => "week",
            Self::Month(_) => "month",
            Self::Year(_) => "year",
        }
    }
}

/// A calendar window: a period of a zone's calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Calendar {
    /// What it repeats by.
    pub period: Period,
    /// Whose clock and calendar it follows.
    pub zone: Tz,
}

/// The window of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowSpec {
    /// A period of a zone's calendar.
    Calendar(Calendar),
    /// Spans of one length, one after the other, aligned to the Unix epoch.
    Fixed(WindowLength),
    /// The span of this length that ends now.
    Sliding(WindowLength),
}

impl WindowSpec {
    /// Returns how its use is cut into slots.
    #[must_use]
    pub fn slots(&self) -> SlotRule {
        match self {
            Self::Calendar(calendar) => SlotRule::Calendar(*calendar),
            Self::Fixed(length) => SlotRule::Every(SlotLength(length.0)),
            Self::Sliding(length) => SlotRule::Every(SlotLength::of(length.0)),
        }
    }

    /// Adds what makes it another window than others to the identity of a counter.
    pub fn identify(&self, canonical: &mut Canonical) {
        match self {
            Self::Calendar(Calendar { period, zone }) => {
                canonical.text("calendar").text(zone.name());
                match period {
                    Period::Minute => canonical.text("minute"),
                    Period::Hour => canonical.text("hour"),
                    Period::Day => canonical.text("day"),
                    Period::Week(first) => canonical
                        .text("week")
                        .unsigned(first.number_from_monday().into()),
                    Period::Month(anchor) => canonical.text("month").unsigned(anchor.0.into()),
                    Period::Year(AnchorDate { month, day }) => canonical
                        .text("year")
                        .unsigned(month.number_from_month().into())
                        .unsigned(day.0.into()),
                }
            }
            Self::Fixed(length) => canonical.text("fixed").signed(length.0),
            Self::Sliding(length) => canonical.text("sliding").signed(length.0),
        };
    }
}

/// A half-open span of instants: `start` is in it, `end` is not, and `start` lies before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    start: UnixMs,
    end: UnixMs,
}

impl Span {
    /// Takes both ends; `None` unless `start` lies before `end`.
    #[must_use]
    pub fn new(start: UnixMs, end: UnixMs) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// Returns its first instant, which names it.
    #[must_use]
    pub const fn start(self) -> UnixMs {
        self.start
    }

    /// Returns the first instant after it.
    #[must_use]
    pub const fn end(self) -> UnixMs {
        self.end
    }

    /// Says whether an instant lies in it.
    #[must_use]
    pub fn contains(self, instant: UnixMs) -> bool {
        self.start <= instant && instant < self.end
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.start, self.end)
    }
}

/// The length of an even slot, in milliseconds; at least 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotLength(i64);

impl SlotLength {
    /// Returns the slot of a sliding window or of a bucket's interval of this many milliseconds:
    /// a sixtieth, rounded up, at least a second.
    #[must_use]
    pub(crate) fn of(ms: i64) -> Self {
        let up = ms.saturating_add(SLOTS_PER_WINDOW.saturating_sub(1));
        Self(up.div_euclid(SLOTS_PER_WINDOW).max(SLOT_MS_MIN))
    }

    /// Returns milliseconds.
    #[must_use]
    pub const fn ms(self) -> i64 {
        self.0
    }
}

/// How time is cut into the slots that use is kept by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotRule {
    /// A slot is a window of a zone's calendar.
    Calendar(Calendar),
    /// Slots of one length, aligned to the Unix epoch.
    Every(SlotLength),
}

impl SlotRule {
    /// Returns the slot that holds an instant.
    ///
    /// A day (week, month, year) begins at the first quarter-hour that starts when the zone's clock
    /// shows that date or a later one; an hour where the clock strikes, or shows another hour than
    /// before. So a slot's ends are quarter-hours, the ledger's finest grain, but for minutes.
    ///
    /// | case | slot |
    /// | --- | --- |
    /// | the clock skips or doubles midnight | the day begins once, at the first instant of its date |
    /// | the clock skips a date (Apia, 2011-12-30) | that date has none; the day before ends where the day after begins |
    /// | the clock falls back over an hour (Berlin, October) | two slots for 02, each an hour |
    /// | the clock falls back by 30 minutes (Lord Howe, April) | 01 lasts 90 minutes |
    /// | month from the 31st, in April | begins on the 30th |
    /// | year from 29 February, in 2027 | begins on the 28th |
    /// | it would begin before 1970 or end after 9999 | it begins with 1970, or ends with the last instant, which it holds |
    #[must_use]
    pub fn slot_at(&self, instant: UnixMs) -> Span {
        match self {
            Self::Every(length) => even_slot(instant, length.0),
            Self::Calendar(calendar) => match calendar.period {
                Period::Minute => even_slot(instant, MINUTE_MS),
                Period::Hour => hour_slot(instant, calendar.zone),
                Period::Day | Period::Week(_) | Period::Month(_) | Period::Year(_) => {
                    dated_slot(instant, *calendar)
                }
            },
        }
    }
}

/// The slot that holds the present, computed once per slot: almost every decision finds `now` in
/// the slot of the decision before, and then costs two comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotCursor {
    rule: SlotRule,
    slot: Span,
}

impl SlotCursor {
    /// Begins at an instant.
    #[must_use]
    pub fn new(rule: SlotRule, now: UnixMs) -> Self {
        let slot = rule.slot_at(now);
        Self { rule, slot }
    }

    /// Returns the slot that holds `now`, which may lie before the last one.
    pub fn slot_at(&mut self, now: UnixMs) -> Span {
        if !self.slot.contains(now) {
            self.slot = self.rule.slot_at(now);
        }
        self.slot
    }
}

fn even_slot(instant: UnixMs, length_ms: i64) -> Span {
    let past = instant.get().checked_rem(length_ms).unwrap_or(0);
    let start = instant.saturating_add_ms(past.saturating_neg());
    let end = start.saturating_add_ms(length_ms);
    Span { start, end }
}

fn hour_slot(instant: UnixMs, zone: Tz) -> Span {
    let mut start = instant.quarter().start();
    for _ in 0..HOUR_QUARTERS_MAX {
        if start == UnixMs::FIRST || is_hour_start(start, zone) {
            break;
        }
        start = start.saturating_add_ms(QUARTER_MS.saturating_neg());
    }
    let mut end = start.saturating_add_ms(QUARTER_MS);
    for _ in 0..HOUR_QUARTERS_MAX {
        if is_hour_start(end, zone) {
            break;
        }
        end = end.saturating_add_ms(QUARTER_MS);
    }
    Span { start, end }
}

/// Returns the slot of a period of whole days.
///
/// The date that the clock shows does not decide: a clock that falls back over midnight shows the
/// date before once more, which belongs to the day that has begun. So the search begins with the
/// period after the one of tomorrow, and goes back until one has begun.
fn dated_slot(instant: UnixMs, calendar: Calendar) -> Span {
    let Calendar { period, zone } = calendar;
    let ahead = Days::new(1_u64.saturating_add(days_max(period)));
    let shown = local(instant, zone).date();
    let mut first = period_start(shown.checked_add_days(ahead).unwrap_or(shown), period);
    let mut end = UnixMs::LAST;
    while let Some(before) = first.checked_sub_days(Days::new(1)) {
        match start_of_day(first, zone) {
            Some(start) if start <= instant => return Span { start, end },
            // A date that the clock skips begins when the one after it does: an empty span.
            Some(start) => end = start,
            None if first.year() <= 1970 => break,
            None => {}
        }
        first = period_start(before, period);
    }
    let start = UnixMs::FIRST;
    Span { start, end }
}

/// Returns the most days that the period may have, at least as many as lead from its first day into
/// the next period.
const fn days_max(period: Period) -> u64 {
    match period {
        Period::Minute | Period::Hour | Period::Day => 1,
        Period::Week(_) => 7,
        Period::Month(_) => 31,
        Period::Year(_) => 366,
    }
}

/// Returns the first date of the period that holds a date.
fn period_start(date: NaiveDate, period: Period) -> NaiveDate {
    let start = match period {
        Period::Minute | Period::Hour | Period::Day => Some(date),
        Period::Week(first) => {
            let since = date.weekday().days_since(first);
            date.checked_sub_days(Days::new(since.into()))
        }
        Period::Month(anchor) => {
            let this = anchored(date.year(), date.month(), anchor);
            this.filter(|this| *this <= date).or_else(|| {
                let before = date.with_day(1)?.checked_sub_months(Months::new(1))?;
                anchored(before.year(), before.month(), anchor)
            })
        }
        Period::Year(anchor) => {
            let month = anchor.month.number_from_month();
            let this = anchored(date.year(), month, anchor.day);
            this.filter(|this| *this <= date)
                .or_else(|| anchored(date.year().checked_sub(1)?, month, anchor.day))
        }
    };
    // The calendar reaches 260,000 years further than instants do, on both sides.
    start.unwrap_or(date)
}

/// Returns the anchor's day in a month, or the last day of a month that is shorter.
fn anchored(year: i32, month: u32, anchor: AnchorDay) -> Option<NaiveDate> {
    let days = (28..=u32::from(anchor.0)).rev();
    let within = NaiveDate::from_ymd_opt(year, month, anchor.0.into());
    within.or_else(|| {
        days.into_iter()
            .find_map(|day| NaiveDate::from_ymd_opt(year, month, day))
    })
}

#[cfg(test)]
mod tests;
