//! One decision in process, with 1, 3 and 10 matching limits over 100,000 keys, beside the lookup of
//! as many counters.
//!
//! Invariant: every decision is admitted and charged, as almost all are in life; keys come in an order
//! that no cache foresees, and time passes as at a million decisions a second, about what one core
//! does. Deliberately absent: matching, keys as text, protocols and locks.

use std::collections::HashMap;
use std::hint::black_box;

use domain::account::{Counter, Origin, ReplicaId};
use domain::calendar::Tz;
use domain::decision::{Asked, Outcome, Room, decide};
use domain::limit::{Algorithm, Enforce, LimitSpec, MeterSelector, MomentCursor, Refill};
use domain::meter::Meter;
use domain::time::UnixMs;
use domain::units::Units;
use domain::window::{
    AnchorDay, Calendar, Interval, Period, WindowError, WindowLength, WindowSpec,
};
use foldhash::fast::FixedState;
use serde_json::Value;

use crate::measure::{Contender, measure};

/// Keys that each limit counts by.
const KEYS: u64 = 100_000;

/// Decisions in one round: each key once.
const DECISIONS: u64 = KEYS;

/// Decisions in one millisecond.
const PER_MS: u64 = 1_000;

/// 2026-11-21T12:00:00Z.
const BEGIN_MS: i64 = 1_795_262_400_000;

/// Walks over all keys in an order that looks like chance: coprime to their number.
const STRIDE: u64 = 61_803;

/// One limit with its counters by key.
struct Counted {
    limit: LimitSpec,
    cursor: MomentCursor,
    counters: HashMap<u64, Counter, FixedState>,
}

/// Measures, and returns a line of figures per contender.
///
/// # Errors
///
/// The benchmark's own limits are none; the text says why.
pub(crate) fn run() -> Result<Vec<Value>, String> {
    let mut lines = measure_limits::<1>("decide, 1 limit")?;
    lines.extend(measure_limits::<3>("decide, 3 limits")?);
    lines.extend(measure_limits::<10>("decide, 10 limits")?);
    Ok(lines)
}

fn measure_limits<const LIMITS: usize>(name: &str) -> Result<Vec<Value>, String> {
    let mut all = counted::<LIMITS>().map_err(|error| error.to_string())?;
    let mut looked_up = counted::<LIMITS>().map_err(|error| error.to_string())?;
    let mut step = 0_u64;
    let admitted = decide_all(&mut all, &mut step);
    if admitted != DECISIONS {
        return Err(format!(
            "{name}: of {DECISIONS} asks {admitted} were admitted"
        ));
    }
    let mut contenders = [
        Contender {
            name: "look up, check all, charge all",
            work: Box::new(|| decide_all(&mut all, &mut step)),
        },
        Contender {
            name: "look up",
            work: Box::new(|| look_up_all(&mut looked_up)),
        },
    ];
    Ok(measure(name, "ns", u128::from(DECISIONS), &mut contenders))
}

/// The limits of a gateway: a pace, tokens per minute and cost per day first; then more of the same.
fn counted<const LIMITS: usize>() -> Result<[Counted; LIMITS], WindowError> {
    let zone = Tz::Europe__Berlin;
    let month = Period::Month(AnchorDay::new(15)?);
    let minute = WindowLength::from_ms(60_000)?;
    let refill = Refill {
        amount: Units::new(1_000_000_000),
        every: Interval::from_ms(30_000)?,
    };
    let kinds = [
        Algorithm::TokenBucket(refill),
        Algorithm::Window(WindowSpec::Sliding(minute)),
        Algorithm::Window(WindowSpec::Calendar(Calendar {
            period: Period::Day,
            zone,
        })),
        Algorithm::Window(WindowSpec::Fixed(minute)),
        Algorithm::Window(WindowSpec::Calendar(Calendar {
            period: month,
            zone,
        })),
    ];
    let meter = MeterSelector::Standard(Meter::Requests);
    let most = Units::new(1_000_000_000_000);
    let begin = UnixMs::new(BEGIN_MS).unwrap_or(UnixMs::FIRST);
    let mut limits = kinds
        .into_iter()
        .cycle()
        .filter_map(|algorithm| LimitSpec::new(meter, algorithm, most, Enforce::Soft).ok());
    Ok(std::array::from_fn(|_| {
        let limit = limits.next().expect("a cycle never ends");
        let origin = Origin::Replica(ReplicaId(1));
        let counters = (0..KEYS).map(|key| (hash(key), Counter::new(&limit, origin)));
        Counted {
            limit,
            cursor: MomentCursor::new(&limit, begin),
            counters: counters.collect(),
        }
    }))
}

/// Stands for the hash that a key's text has.
const fn hash(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The key of a step.
const fn key(step: u64) -> u64 {
    hash(step.wrapping_mul(STRIDE) % KEYS)
}

/// Decides once for each key; returns how many asks were admitted.
fn decide_all<const LIMITS: usize>(all: &mut [Counted; LIMITS], step: &mut u64) -> u64 {
    let mut admitted = 0;
    for _ in 0..DECISIONS {
        *step += 1;
        let ms = i64::try_from(*step / PER_MS).unwrap_or(i64::MAX);
        let now = UnixMs::FIRST.saturating_add_ms(BEGIN_MS.saturating_add(ms));
        let key = key(*step);
        let mut rooms = all.each_mut().map(|counted| {
            let counter = counted.counters.get_mut(&key);
            let counter = counter.expect("every key has its counter");
            let moment = counted.cursor.at(now);
            let asked = Asked::Units(Units::ONE);
            Room::new(&counted.limit, moment, counter, asked, Units::ONE)
        });
        let decision = decide(&mut rooms);
        admitted += u64::from(black_box(decision).outcome == Outcome::Allow);
    }
    admitted
}

/// Looks the counters of each key up; returns how many there were.
fn look_up_all<const LIMITS: usize>(all: &mut [Counted; LIMITS]) -> u64 {
    let mut found = 0;
    for step in 0..DECISIONS {
        let key = key(step);
        for counted in all.iter_mut() {
            let counter = black_box(counted.counters.get_mut(&key));
            found += u64::from(counter.is_some());
        }
    }
    found
}
