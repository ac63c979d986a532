//! Limits of all algorithms, and what they say by a list of all events.

use proptest::prelude::*;

use crate::account::{Counter, Origin, ReplicaId};
use crate::calendar::Tz;
use crate::limit::{Algorithm, Enforce, LimitSpec, MeterSelector, Refill};
use crate::meter::Meter;
use crate::time::UnixMs;
use crate::units::Units;
use crate::window::{AnchorDay, Calendar, Interval, Period, WindowLength, WindowSpec};

/// Some time before a change of Berlin's clock: 2026-10-24T21:00:00Z.
pub(super) const BEGIN_MS: i64 = 1_792_875_600_000;

pub(super) fn at(ms: i64) -> UnixMs {
    UnixMs::new(BEGIN_MS + ms).unwrap()
}

pub(super) const OWN: Origin = Origin::Replica(ReplicaId(0));

pub(super) fn limit(algorithm: Algorithm, units: i128) -> LimitSpec {
    let meter = MeterSelector::Standard(Meter::Requests);
    LimitSpec::new(meter, algorithm, Units::new(units), Enforce::Soft).unwrap()
}

pub(super) fn bucket(amount: i128, every_ms: i64) -> Algorithm {
    Algorithm::TokenBucket(Refill {
        amount: Units::new(amount),
        every: Interval::from_ms(every_ms).unwrap(),
    })
}

pub(super) fn sliding(ms: i64) -> Algorithm {
    Algorithm::Window(WindowSpec::Sliding(WindowLength::from_ms(ms).unwrap()))
}

pub(super) fn fixed(ms: i64) -> Algorithm {
    Algorithm::Window(WindowSpec::Fixed(WindowLength::from_ms(ms).unwrap()))
}

pub(super) fn calendar(period: Period) -> Algorithm {
    let zone = Tz::Europe__Berlin;
    Algorithm::Window(WindowSpec::Calendar(Calendar { period, zone }))
}

pub(super) fn windows() -> impl Strategy<Value = Algorithm> {
    prop_oneof![
        (1_000..200_000_i64).prop_map(sliding),
        (1_000..200_000_i64).prop_map(fixed),
        Just(calendar(Period::Minute)),
        Just(calendar(Period::Hour)),
        Just(calendar(Period::Day)),
        Just(calendar(Period::Month(AnchorDay::new(25).unwrap()))),
    ]
}

pub(super) fn buckets() -> impl Strategy<Value = Algorithm> {
    (1..60_i128, 1..120_000_i64).prop_map(|(amount, every)| bucket(amount, every))
}

pub(super) fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop_oneof![windows(), buckets()]
}

/// Everything that was charged, in the order in which it was.
#[derive(Debug, Default)]
pub(super) struct Events(pub(super) Vec<(UnixMs, i128)>);

impl Events {
    fn sum(&self, counts: impl Fn(UnixMs) -> bool) -> i128 {
        let counting = self.0.iter().filter(|(at, _)| counts(*at));
        counting.map(|(_, units)| units).sum()
    }

    /// What is used at an instant: windows by their slots, buckets exactly.
    pub(super) fn used(&self, algorithm: &Algorithm, now: UnixMs) -> i128 {
        let slots = algorithm.slots();
        match algorithm {
            Algorithm::Window(WindowSpec::Sliding(length)) => self.sum(|at| {
                let age_of_end = now.get() - slots.slot_at(at).end().get();
                age_of_end < length.ms()
            }),
            Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => {
                self.sum(|at| slots.slot_at(at).contains(now))
            }
            Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
                let scaled = self.bucket_level(*refill, now);
                let every = i128::from(refill.every.ms());
                (scaled + every - 1) / every
            }
        }
    }

    /// What a sliding window of this length holds exactly: (now − length, now].
    pub(super) fn exact_sliding(&self, ms: i64, now: UnixMs) -> i128 {
        self.sum(|at| now.get() - at.get() < ms)
    }

    /// The level times the interval, by virtual scheduling (ITU-T I.371, figure A.1): the
    /// theoretical arrival time of the next unit, in parts of a millisecond so that it is whole.
    pub(super) fn bucket_level(&self, refill: Refill, now: UnixMs) -> i128 {
        let (amount, every) = (refill.amount.get(), i128::from(refill.every.ms()));
        let mut arrival: i128 = 0;
        let mut clock: i128 = 0;
        for (at, units) in &self.0 {
            clock = clock.max(i128::from(at.get()));
            arrival = arrival.max(clock * amount) + units * every;
        }
        (arrival - clock.max(i128::from(now.get())) * amount).max(0)
    }
}

/// A step of time, in milliseconds, and what is done then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) ms: i64,
    pub(super) units: u32,
    pub(super) does: Does,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Does {
    Asks,
    AsksBlindly,
    Reports,
}

/// Steps that go back, too, by less than the shortest slot.
pub(super) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let ms = prop_oneof![
        5 => 0..300_i64,
        3 => 300..5_000_i64,
        1 => 5_000..200_000_i64,
        1 => -1_000..0_i64,
    ];
    let does = prop_oneof![
        Just(Does::Asks),
        Just(Does::AsksBlindly),
        Just(Does::Reports)
    ];
    let step = (ms, 0..40_u32, does).prop_map(|(ms, units, does)| Step { ms, units, does });
    proptest::collection::vec(step, 1..count)
}

/// Charges a counter and the list alike.
pub(super) fn charge(
    counter: &mut Counter,
    events: &mut Events,
    limit: &LimitSpec,
    now: UnixMs,
    units: i128,
) {
    counter.charge(limit, limit.moment(now), Units::new(units));
    // A charge of nothing is none, and moves no bucket's clock.
    if units != 0 {
        events.0.push((now, units));
    }
}
