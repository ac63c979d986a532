//! Limits: from what was written to what can be counted.
//!
//! Invariant: what a limit counts, by what, over what and how fit together: a limit from the log reads
//! only what events carry and has no bucket; a bucket has no window.

use chrono::{Month, Weekday};

use super::super::cel::{Cel, Purpose};
use super::super::error::{At, Faults};
use super::super::language::{
    AlgorithmText, CalendarText, CountedFromText, DimensionText, EnforceText, KeyText, LimitText,
    MeterText, MissingKeyText, OtherKeyText, ScalarText, WindowText,
};
use super::super::model::{CountedFrom, Key, Limit, MissingKey};
use super::{duration, exactly_one, header_name, nearest_to};
use crate::calendar::parse_zone;
use crate::limit::{Algorithm, Enforce, LimitSpec, MeterSelector, Refill};
use crate::meter::Meter;
use crate::money::{Amount, Rate};
use crate::request::Field;
use crate::units::Units;
use crate::window::{AnchorDate, AnchorDay, Calendar, Interval, Period, WindowLength, WindowSpec};

/// The shortest window of a limit from the log, in ms: usage arrives a moment after the request.
const LOG_WINDOW_MS_MIN: i64 = 10_000;

/// Checks a limit; `None` where a fault was told.
pub(super) fn limit(text: &LimitText, at: &At<'_>, faults: &mut Faults<'_>) -> Option<Limit> {
    let before = faults.len();
    let meter = meter(&text.meter, &at.key("meter"), faults);
    let per = keys(&text.per, &at.key("per"), faults);
    let (meter, amount) = meter.unzip();
    let amount = amount.flatten();
    let written = units(&text.limit, meter, &at.key("limit"), faults);
    let (algorithm, capacity) = match text.algorithm {
        AlgorithmText::Window => (window_algorithm(text, at, faults), written),
        AlgorithmText::TokenBucket | AlgorithmText::LeakyBucket => {
            bucket(text, meter, written, at, faults).unzip()
        }
    };
    let from = counted_from(text, meter, amount.as_ref());
    if from == CountedFrom::Log {
        refuse_from_log(text, &per, amount.as_ref(), algorithm, at, faults);
    }
    let unpriced_rate = unpriced_rate(text, meter, at, faults);
    let enforce = match text.enforce {
        EnforceText::Soft => Enforce::Soft,
        EnforceText::Shadow => Enforce::Shadow,
        EnforceText::Hard => {
            let problem = "is hard, but hard limits by lease come in a later version; use soft";
            faults.add(&at.key("enforce"), problem);
            Enforce::Soft
        }
    };
    let spec = LimitSpec::new(meter?, algorithm?, capacity?, enforce);
    let spec = spec.map_err(|error| faults.add(at, format!("cannot be counted: {error}")));
    let missing_key = match text.missing_key {
        MissingKeyText::Shared => MissingKey::Shared,
        MissingKeyText::Skip => MissingKey::Skip,
        MissingKeyText::Deny => MissingKey::Deny,
    };
    let limit = Limit {
        name: text.name.clone(),
        description: text.description.clone().unwrap_or_default(),
        spec: spec.ok()?,
        written: written?,
        amount,
        per,
        from,
        missing_key,
        unpriced_rate,
    };
    (faults.len() == before).then_some(limit)
}

type Counted = (MeterSelector, Option<Cel>);

fn meter(text: &MeterText, at: &At<'_>, faults: &mut Faults<'_>) -> Option<Counted> {
    match text {
        MeterText::Name(name) => {
            let meter = MeterSelector::from_name(name);
            if meter.is_none() {
                let meters = Meter::ALL.iter().map(|meter| meter.name());
                let sums = ["input_tokens", "output_tokens", "total_tokens", "cost"];
                let near = nearest_to(name, meters.chain(sums));
                faults.add(at, format!("is {name:?}, which is no meter; {near}"));
            }
            meter.map(|meter| (meter, None))
        }
        MeterText::Cel(by) => {
            let cel = super::cel(&by.cel, Purpose::Amount, &at.key("cel"), faults);
            cel.map(|cel| (MeterSelector::Computed, Some(cel)))
        }
    }
}

fn keys(texts: &[KeyText], at: &At<'_>, faults: &mut Faults<'_>) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::with_capacity(texts.len());
    for (text, index) in texts.iter().zip(0..) {
        let at = at.index(index);
        let key = match text {
            // Counted separately in any case.
            KeyText::Dimension(DimensionText::Tenant) => continue,
            KeyText::Dimension(DimensionText::App) => Some(Key::Field(Field::App)),
            KeyText::Dimension(DimensionText::User) => Some(Key::Field(Field::User)),
            KeyText::Dimension(DimensionText::Session) => Some(Key::Field(Field::Session)),
            KeyText::Dimension(DimensionText::Model) => Some(Key::Field(Field::Model)),
            KeyText::Dimension(DimensionText::Provider) => Some(Key::Field(Field::Provider)),
            KeyText::Dimension(DimensionText::Route) => Some(Key::Field(Field::Route)),
            KeyText::Other(other) => other_key(other, &at, faults),
        };
        let Some(key) = key else {
            continue;
        };
        if keys.contains(&key) {
            faults.add(&at, "is written twice; remove one");
        }
        keys.push(key);
    }
    keys.sort_by(|one, other| one.rank().cmp(&other.rank()));
    keys
}

fn other_key(text: &OtherKeyText, at: &At<'_>, faults: &mut Faults<'_>) -> Option<Key> {
    let written = [
        ("header", text.header.is_some()),
        ("constant", text.constant.is_some()),
        ("cel", text.cel.is_some()),
    ];
    if !exactly_one(&written, at, faults) {
        return None;
    }
    if let Some(name) = &text.header {
        return Some(Key::Header(header_name(name, &at.key("header"), faults)));
    }
    if let Some(constant) = &text.constant {
        super::sendable(constant, &at.key("constant"), faults);
        return Some(Key::Constant(constant.clone()));
    }
    let cel = super::cel(text.cel.as_deref()?, Purpose::Key, &at.key("cel"), faults);
    cel.map(Key::Cel)
}

/// Reads a number of a meter's units.
fn units(
    text: &ScalarText,
    meter: Option<MeterSelector>,
    at: &At<'_>,
    faults: &mut Faults<'_>,
) -> Option<Units> {
    let problem = match (meter?, text) {
        (MeterSelector::Cost, _) => {
            let text = match text {
                ScalarText::Whole(number) => number.to_string(),
                ScalarText::Decimal(text) => text.clone(),
            };
            match text.parse::<Amount>() {
                Ok(amount) if amount >= Amount::ZERO => return Some(Units::from(amount)),
                Ok(_below) => format!("is {text}, but an amount is not below 0"),
                Err(error) => {
                    format!("is {text:?}, which {error}; write an amount such as \"25.00\"")
                }
            }
        }
        (_, ScalarText::Whole(number)) => match u64::try_from(*number) {
            Ok(number) => return Some(Units::from(number)),
            Err(_below) => format!("is {number}, but must not be below 0"),
        },
        (meter, ScalarText::Decimal(text)) => format!(
            "is {text:?}, but {} is counted in whole units; write a whole number without quotes",
            meter.name()
        ),
    };
    faults.add(at, problem);
    None
}

fn unpriced_rate(
    text: &LimitText,
    meter: Option<MeterSelector>,
    at: &At<'_>,
    faults: &mut Faults<'_>,
) -> Option<Rate> {
    let at = at.key("unpriced_rate");
    let rate = text.unpriced_rate.as_deref()?;
    if meter? != MeterSelector::Cost {
        faults.add(&at, "has a meaning for `meter: cost` only; remove it");
        return None;
    }
    let parsed = rate.parse();
    parsed
        .map_err(|error| {
            let problem = format!("is {rate:?}, which {error}; write a rate such as \"0.00006\"");
            faults.add(&at, problem);
        })
        .ok()
}

fn counted_from(
    text: &LimitText,
    meter: Option<MeterSelector>,
    amount: Option<&Cel>,
) -> CountedFrom {
    match text.from {
        Some(CountedFromText::Decision) => CountedFrom::Decision,
        Some(CountedFromText::Log) => CountedFrom::Log,
        None => match meter {
            Some(MeterSelector::Standard(Meter::Requests)) | None => CountedFrom::Decision,
            Some(MeterSelector::Computed) if !amount.is_some_and(Cel::reads_usage) => {
                CountedFrom::Decision
            }
            Some(_) => CountedFrom::Log,
        },
    }
}

fn refuse_from_log(
    text: &LimitText,
    per: &[Key],
    amount: Option<&Cel>,
    algorithm: Option<Algorithm>,
    at: &At<'_>,
    faults: &mut Faults<'_>,
) {
    let because = match text.from {
        Some(_) => "counts from the log",
        None => "counts from the log, as tokens and cost do where `from` is not written",
    };
    match algorithm {
        Some(Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_)) => {
            let problem = format!("{because}, which has no buckets; write from: decision");
            faults.add(at, problem);
        }
        Some(Algorithm::Window(WindowSpec::Fixed(length) | WindowSpec::Sliding(length)))
            if length.ms() < LOG_WINDOW_MS_MIN =>
        {
            let problem = format!(
                "{because}, where a window has at least 10s; write a longer one, or from: decision"
            );
            faults.add(&at.key("window"), problem);
        }
        Some(Algorithm::Window(_)) | None => {}
    }
    let of_keys = per.iter().find_map(|key| match key {
        Key::Field(_) | Key::Constant(_) => None,
        Key::Header(_) => Some("headers"),
        Key::Cel(cel) => cel.reads_unlogged(),
    });
    let of_meter = || amount.and_then(Cel::reads_unlogged);
    if let Some(read) = of_keys.or_else(of_meter) {
        let problem = format!(
            "{because}, but reads {read}, which logged usage does not carry; count by tenant, app, \
             user, session, model, provider or route, or write from: decision"
        );
        faults.add(at, problem);
    }
}

fn window_algorithm(text: &LimitText, at: &At<'_>, faults: &mut Faults<'_>) -> Option<Algorithm> {
    for (key, is_there) in [
        ("refill", text.refill.is_some()),
        ("capacity", text.capacity.is_some()),
    ] {
        if is_there {
            let problem = "belongs to buckets; remove it, or write algorithm: token_bucket";
            faults.add(&at.key(key), problem);
        }
    }
    let Some(window) = &text.window else {
        let problem = "is missing; add, say, window: { calendar: day } or { sliding: 60s }";
        faults.add(&at.key("window"), problem);
        return None;
    };
    window_spec(window, &at.key("window"), faults).map(Algorithm::Window)
}

fn window_spec(text: &WindowText, at: &At<'_>, faults: &mut Faults<'_>) -> Option<WindowSpec> {
    let written = [
        ("calendar", text.calendar.is_some()),
        ("fixed", text.fixed.is_some()),
        ("sliding", text.sliding.is_some()),
    ];
    if !exactly_one(&written, at, faults) {
        return None;
    }
    if let Some(unit) = text.calendar {
        return calendar(unit, text, at, faults).map(WindowSpec::Calendar);
    }
    for (key, is_there) in [
        ("timezone", text.timezone.is_some()),
        ("anchor_day", text.anchor_day.is_some()),
        ("anchor_month", text.anchor_month.is_some()),
    ] {
        if is_there {
            faults.add(&at.key(key), "belongs to calendar windows; remove it");
        }
    }
    let mut length = |text: &str, key| {
        let at = at.key(key);
        let length = WindowLength::from_ms(duration(text, &at, faults)?);
        length
            .map_err(|_length| {
                let problem = format!("is {text}, but a window has from 1s to 3660d");
                faults.add(&at, problem);
            })
            .ok()
    };
    match (&text.fixed, &text.sliding) {
        (Some(fixed), _) => length(fixed, "fixed").map(WindowSpec::Fixed),
        (None, Some(sliding)) => length(sliding, "sliding").map(WindowSpec::Sliding),
        (None, None) => None,
    }
}

fn calendar(
    unit: CalendarText,
    text: &WindowText,
    at: &At<'_>,
    faults: &mut Faults<'_>,
) -> Option<Calendar> {
    let zone = parse_zone(text.timezone.as_deref().unwrap_or("UTC"));
    let zone = zone.map_err(|error| faults.add(&at.key("timezone"), format!("is wrong: {error}")));
    let has_day = matches!(
        unit,
        CalendarText::Week | CalendarText::Month | CalendarText::Year
    );
    if text.anchor_day.is_some() && !has_day {
        let problem = "belongs to weeks, months and years; remove it";
        faults.add(&at.key("anchor_day"), problem);
    }
    if text.anchor_month.is_some() && unit != CalendarText::Year {
        faults.add(&at.key("anchor_month"), "belongs to years; remove it");
    }
    let day = u8::try_from(text.anchor_day.unwrap_or(1)).ok()?;
    let anchor = AnchorDay::new(day).ok()?;
    let period = match unit {
        CalendarText::Minute => Period::Minute,
        CalendarText::Hour => Period::Hour,
        CalendarText::Day => Period::Day,
        CalendarText::Week => {
            let Some(day) = day
                .checked_sub(1)
                .and_then(|day| Weekday::try_from(day).ok())
            else {
                let problem = "is beyond 7; a week begins on 1 (Monday) to 7 (Sunday)";
                faults.add(&at.key("anchor_day"), problem);
                return None;
            };
            Period::Week(day)
        }
        CalendarText::Month => Period::Month(anchor),
        CalendarText::Year => {
            let month = u8::try_from(text.anchor_month.unwrap_or(1)).ok()?;
            let date = AnchorDate::new(Month::try_from(month).ok()?, anchor);
            let date = date.map_err(|error| {
                faults.add(&at.key("anchor_day"), format!("is wrong: {error}"));
            });
            Period::Year(date.ok()?)
        }
    };
    zone.ok().map(|zone| Calendar { period, zone })
}

/// Checks a bucket: how it refills, and what it holds.
fn bucket(
    text: &LimitText,
    meter: Option<MeterSelector>,
    written: Option<Units>,
    at: &At<'_>,
    faults: &mut Faults<'_>,
) -> Option<(Algorithm, Units)> {
    if text.window.is_some() {
        let problem = "does not belong to a bucket, whose pace is `refill`; remove it";
        faults.add(&at.key("window"), problem);
    }
    let Some(refill) = &text.refill else {
        let problem = "is missing; add, say, refill: { every: 30s, amount: 50 }";
        faults.add(&at.key("refill"), problem);
        return None;
    };
    let at_refill = at.key("refill");
    let every = duration(&refill.every, &at_refill.key("every"), faults);
    let every = every.and_then(|ms| {
        let every = Interval::from_ms(ms);
        let problem = "is not from 1ms to 3660d";
        every
            .map_err(|_length| faults.add(&at_refill.key("every"), problem))
            .ok()
    });
    let amount = match &refill.amount {
        Some(amount) => units(amount, meter, &at_refill.key("amount"), faults),
        None => written,
    };
    let capacity = match &text.capacity {
        Some(capacity) => units(capacity, meter, &at.key("capacity"), faults),
        None => written,
    };
    let (amount, capacity, written) = (amount?, capacity?, written?);
    if written != amount && written != capacity {
        let problem = "says neither what `refill` brings nor the `capacity`; make it one of them";
        faults.add(&at.key("limit"), problem);
    }
    for (units, key) in [(amount, "refill"), (capacity, "capacity")] {
        if units.is_zero() {
            faults.add(
                &at.key(key),
                "is 0, so that nothing ever passes; write at least 1",
            );
        }
    }
    let refill = Refill {
        amount,
        every: every?,
    };
    let algorithm = match text.algorithm {
        AlgorithmText::LeakyBucket => Algorithm::LeakyBucket(refill),
        AlgorithmText::TokenBucket | AlgorithmText::Window => Algorithm::TokenBucket(refill),
    };
    Some((algorithm, capacity))
}
