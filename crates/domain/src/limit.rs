//! Limits: how much of a meter one key may use in a window, and the algorithms that say so.
//!
//! Invariant: a limit is a pure value; what it counts lies elsewhere (see `account`), so raising or
//! lowering it leaves every counter as it is. Deliberately absent: names, keys and the requests that
//! a limit matches, which are a policy's; and limits by lease (`enforce: hard`).

mod text;

use crate::decision::Asked;
use crate::hash::Canonical;
use crate::meter::{Meter, Quantities};
use crate::money::Amount;
use crate::time::UnixMs;
use crate::units::Units;
use crate::window::{Interval, SlotCursor, SlotLength, SlotRule, Span, WindowSpec};

/// The greatest limit, capacity or refill of one limit in units: 10³⁸ − 1, as `NUMERIC(38,18)`
/// holds amounts.
const UNITS_MAX: i128 = 99_999_999_999_999_999_999_999_999_999_999_999_999;

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MeterSelector {
    /// One standard meter.
    Standard(Meter),
    /// All input meters.
    InputTokens,
    /// All output meters.
    OutputTokens,
    /// All input and output meters.
    TotalTokens,
    /// The amount, in 10⁻¹⁸ of the currency.
    Cost,
    /// An amount that the policy's expression gives, in whole units.
    Computed,
}

impl MeterSelector {
    /// Returns the meter of this name; `computed` names none, as an expression stands for it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "input_tokens" => Some(Self::InputTokens),
            "output_tokens" => Some(Self::OutputTokens),
            "total_tokens" => Some(Self::TotalTokens),
            "cost" => Some(Self::Cost),
            _ => name.parse().ok().map(Self::Standard),
        }
    }

    /// Returns the name used in policies, answers and the identity of a counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard(meter) => meter.name(),
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::TotalTokens => "total_tokens",
            Self::Cost => "cost",
            Self::Computed => "computed",
        }
    }

    /// Says whether a standard meter is part of what is counted.
    #[must_use]
    pub fn includes(self, meter: Meter) -> bool {
        match self {
            Self::Standard(standard) => standard == meter,
            Self::InputTokens => meter.is_input(),
            Self::OutputTokens => meter.is_output(),
            Self::TotalTokens => meter.is_input() || meter.is_output(),
            Self::Cost | Self::Computed => false,
        }
    }

    /// Returns what an ask asks of this meter: 1 for requests, the estimate for others. A total of
    /// which one part is estimated asks for that part; a single kind of token cannot be estimated by
    /// the total that it is part of.
    #[must_use]
    pub fn asked(self, estimate: &Estimate) -> Asked {
        let (input, output) = (estimate.input_tokens, estimate.output_tokens);
        let units = match self {
            Self::Standard(Meter::Requests) => Some(Units::ONE),
            Self::Standard(_) => None,
            Self::InputTokens => input.map(Units::from),
            Self::OutputTokens => output.map(Units::from),
            Self::TotalTokens => [input, output]
                .into_iter()
                .flatten()
                .map(Units::from)
                .reduce(Units::saturating_add),
            Self::Cost => estimate.cost.map(Units::from),
            Self::Computed => estimate.computed,
        };
        units.map_or(Asked::Unknown, Asked::Units)
    }

    /// Returns how much was used, of what is known; `None` where that is not known: a cost without a
    /// price, an expression without a value.
    #[must_use]
    pub fn used(self, use_: &Used<'_>) -> Option<Units> {
        match self {
            Self::Cost => use_.cost.map(Units::from),
            Self::Computed => use_.computed,
            Self::Standard(_) | Self::InputTokens | Self::OutputTokens | Self::TotalTokens => {
                let parts = use_.quantities.iter();
                let parts = parts.filter(|(meter, _)| self.includes(*meter));
                let sum = parts.fold(Units::ZERO, |sum, (_, quantity)| {
                    sum.saturating_add(Units::from(quantity))
                });
                Some(sum)
            }
        }
    }
}

/// What a client thinks that its request will use, as far as it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimate {
    /// Input tokens of all kinds.
    pub input_tokens: Option<u64>,
    /// Output tokens of all kinds.
    pub output_tokens: Option<u64>,
    /// What they cost.
    pub cost: Option<Amount>,
    /// What the limit's expression gives for the request.
    pub computed: Option<Units>,
}

/// What one request used.
#[derive(Debug, Clone, Copy)]
pub struct Used<'a> {
    /// Quantities of the standard meters.
    pub quantities: &'a Quantities,
    /// What they cost; `None` where they have no price.
    pub cost: Option<Amount>,
    /// What the limit's expression gives; `None` where it has none or gave none.
    pub computed: Option<Units>,
}

/// How far a limit binds. Limits by lease (`hard`) are not built yet; whoever reads policies refuses
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Enforce {
    /// It denies; replicas may pass it by what they admit between two exchanges.
    Soft,
    /// It counts and says that it would deny, and does not.
    Shadow,
}

/// How a bucket is refilled (token bucket) or drained (leaky bucket).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refill {
    /// Units that one interval brings; at least 1. It comes evenly over the interval.
    pub amount: Units,
    /// The interval.
    pub every: Interval,
}

/// How a limit counts.
///
/// | algorithm | use falls | `limit` is |
/// | --- | --- | --- |
/// | window | at a window's end, or slot by slot as a window slides on | the most of one window |
/// | token bucket | evenly: `refill.amount` per `refill.every` | the bucket's capacity: the greatest burst |
/// | leaky bucket | the same | what the bucket holds before it overflows; 1 is an even pace |
///
/// Both buckets are the generic cell rate algorithm (ITU-T I.371, annex A), and admit the same asks:
/// tokens taken out of the one are water in the other. They differ in what their users mean by
/// default, which is the policy's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// A calendar, fixed or sliding window.
    Window(WindowSpec),
    /// A bucket of tokens that asks take from.
    TokenBucket(Refill),
    /// A bucket that asks fill and that leaks.
    LeakyBucket(Refill),
}

impl Algorithm {
    /// Returns how its use is cut into slots: for buckets by the interval, so that neither capacity
    /// nor refill moves what was counted.
    #[must_use]
    pub fn slots(&self) -> SlotRule {
        match self {
            Self::Window(window) => window.slots(),
            Self::TokenBucket(refill) | Self::LeakyBucket(refill) => {
                SlotRule::Every(SlotLength::of(refill.every.ms()))
            }
        }
    }

    /// Adds what makes it count otherwise than others to the identity of a counter: kind and window,
    /// or interval; not the amount of a refill, which may be raised without a reset.
    pub fn identify(&self, canonical: &mut Canonical) {
        match self {
            Self::Window(window) => window.identify(canonical),
            Self::TokenBucket(refill) => {
                canonical.text("token_bucket").signed(refill.every.ms());
            }
            Self::LeakyBucket(refill) => {
                canonical.text("leaky_bucket").signed(refill.every.ms());
            }
        }
    }
}

/// Why numbers do not make a limit; the person who wrote them mends what the text names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The limit is negative or beyond what amounts can hold.
    #[error("a limit is from 0 to 99999999999999999999 of the currency, or 10^38 - 1 units")]
    Limit,
    /// A refill brings less than one unit, or more than amounts can hold.
    #[error("a refill brings at least 1 unit, and at most 99999999999999999999 of the currency")]
    Refill,
    /// Capacity × interval does not fit into 128 bits.
    #[error(
        "a bucket's capacity (or refill) times its interval is too large to count exactly; use a \
         shorter interval with a smaller amount"
    )]
    Bucket,
}

/// What a limit allows: everything about it that a level is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitSpec {
    meter: MeterSelector,
    algorithm: Algorithm,
    limit: Units,
    enforce: Enforce,
}

impl LimitSpec {
    /// Takes the parts of a limit.
    ///
    /// # Errors
    ///
    /// Each case of [`LimitError`]; the policy is refused.
    pub fn new(
        meter: MeterSelector,
        algorithm: Algorithm,
        limit: Units,
        enforce: Enforce,
    ) -> Result<Self, LimitError> {
        if !(0..=UNITS_MAX).contains(&limit.get()) {
            return Err(LimitError::Limit);
        }
        match algorithm {
            Algorithm::Window(_) => {}
            Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
                if !(1..=UNITS_MAX).contains(&refill.amount.get()) {
                    return Err(LimitError::Refill);
                }
                for units in [limit, refill.amount] {
                    // Twice, so that a full bucket and a full ask still fit.
                    let scaled = units.get().checked_mul(i128::from(refill.every.ms()));
                    let twice = scaled.and_then(|scaled| scaled.checked_mul(2));
                    twice.ok_or(LimitError::Bucket)?;
                }
            }
        }
        Ok(Self {
            meter,
            algorithm,
            limit,
            enforce,
        })
    }

    /// Returns what it counts.
    #[must_use]
    pub const fn meter(&self) -> MeterSelector {
        self.meter
    }

    /// Returns how it counts.
    #[must_use]
    pub const fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }

    /// Returns the most that may be used: of one window, or the capacity of a bucket.
    #[must_use]
    pub const fn limit(&self) -> Units {
        self.limit
    }

    /// Returns how far it binds.
    #[must_use]
    pub const fn enforce(&self) -> Enforce {
        self.enforce
    }
}

/// The present, as one limit sees it: now, and the slot that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Now.
    pub now: UnixMs,
    /// The limit's slot that holds it.
    pub slot: Span,
}

impl LimitSpec {
    /// Returns the moment of an instant. Decisions take it from a [`MomentCursor`].
    #[must_use]
    pub fn moment(&self, now: UnixMs) -> Moment {
        let slot = self.algorithm.slots().slot_at(now);
        Moment { now, slot }
    }
}

/// The present slot of one limit, so that a decision computes no calendar: one per limit and thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MomentCursor(SlotCursor);

impl MomentCursor {
    /// Begins at an instant.
    #[must_use]
    pub fn new(limit: &LimitSpec, now: UnixMs) -> Self {
        Self(SlotCursor::new(limit.algorithm.slots(), now))
    }

    /// Returns the moment of an instant, which may lie before the last one.
    #[inline]
    pub fn at(&mut self, now: UnixMs) -> Moment {
        let slot = self.0.slot_at(now);
        Moment { now, slot }
    }
}

#[cfg(test)]
mod tests;
