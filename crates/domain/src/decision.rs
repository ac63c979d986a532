//! Decisions: what several limits say together to one ask, and which of several candidates may go.
//!
//! Invariant: a decision is atomic. All limits are checked, then either all are charged or none: a
//! refused ask leaves every counter as it was. Deliberately absent: which limits match a request, and
//! the locks under which this runs.

use crate::account::Counter;
use crate::limit::{Enforce, LimitSpec, Moment};
use crate::time::UnixMs;
use crate::units::Units;

/// How much a request asks of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// So much: 1 for requests, the estimate for others. 0 asks whether the limit is passed.
    Units(Units),
    /// Nobody knows: denied where nothing is left, so where used ≥ limit.
    Unknown,
}

impl Asked {
    /// Returns the units that must fit. Who does not know asks for the least that can be used: used +
    /// 1 > limit where used ≥ limit.
    #[must_use]
    pub fn units(self) -> Units {
        match self {
            Self::Units(units) => units.or_zero(),
            Self::Unknown => Units::ONE,
        }
    }
}

/// What one limit says to one ask, with the numbers to recompute it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether used + asked > limit.
    pub is_over: bool,
    /// What is used; of a bucket rounded up to whole units. Negative only by corrections.
    pub used: Units,
    /// What was asked for.
    pub asked: Units,
    /// The limit.
    pub limit: Units,
    /// What is left: limit − used, never negative.
    pub remaining: Units,
    /// When, without more use, nothing of what counts now counts any longer: the end of a calendar or
    /// fixed window, the instant by which a sliding window has passed or a bucket is full again.
    pub reset: UnixMs,
    /// When the same ask would fit, without more use; absent where it fits now, or never will.
    pub retry: Option<UnixMs>,
}

impl Verdict {
    /// Compares.
    pub(crate) fn of(limit: Units, used: Units, asked: Units, reset: UnixMs) -> Self {
        Self {
            is_over: used.saturating_add(asked) > limit,
            used,
            asked,
            limit,
            remaining: limit.saturating_sub(used).or_zero(),
            reset,
            retry: None,
        }
    }

    /// Adds when to ask again, computed only where the limit is passed.
    pub(crate) fn retried_at(mut self, retry: impl FnOnce() -> Option<UnixMs>) -> Self {
        if self.is_over {
            self.retry = retry();
        }
        self
    }

    /// Returns the same with so many more units used; `reset` stays as it is.
    #[must_use]
    pub fn after(mut self, charged: Units) -> Self {
        self.used = self.used.saturating_add(charged);
        self.remaining = self.limit.saturating_sub(self.used).or_zero();
        self
    }

    /// Says whether a smaller share of the limit is left.
    fn has_less_left_than(&self, other: &Self) -> bool {
        let own = self.remaining.get().checked_mul(other.limit.get());
        let others = other.remaining.get().checked_mul(self.limit.get());
        match own.zip(others) {
            // A limit of 0 has nothing left, as one that is used up.
            Some((own, others)) if !(self.limit.is_zero() || other.limit.is_zero()) => own < others,
            Some(_) | None => self.share_left() < other.share_left(),
        }
    }

    /// Returns the share of the limit that is left, in millionths; for limits too large to multiply.
    fn share_left(&self) -> i128 {
        let (remaining, limit) = (self.remaining.get(), self.limit.get());
        let share = remaining.checked_mul(1_000_000).map_or_else(
            || remaining.checked_div(limit.checked_div(1_000_000)?),
            |millionths| millionths.checked_div(limit),
        );
        share.unwrap_or(0)
    }

    /// Says whether this binds a request more than the other: of two that are passed the one that
    /// frees later (or never), of two that are not the one with the smaller share left.
    fn binds_more_than(&self, other: &Self) -> bool {
        match (self.is_over, other.is_over) {
            (true, true) => match (self.retry, other.retry) {
                (Some(own), Some(others)) => own > others,
                (None, Some(_)) => true,
                (Some(_) | None, None) => false,
            },
            (is_over, is_other_over) if is_over != is_other_over => is_over,
            (_, _) => self.has_less_left_than(other),
        }
    }
}

/// One limit of a decision: its counter, and what is asked of it.
#[derive(Debug)]
pub struct Room<'a> {
    /// The limit.
    pub limit: &'a LimitSpec,
    /// Now, and the limit's slot that holds it.
    pub moment: Moment,
    /// What is used; held by the caller under its lock.
    pub counter: &'a mut Counter,
    /// What must fit.
    pub asked: Asked,
    /// What is charged where the request is admitted: 1 for requests; 0 for what a report or the log
    /// will charge.
    pub charge: Units,
    /// What the limit said; written by [`decide`] and [`report`].
    pub verdict: Option<Verdict>,
}

impl<'a> Room<'a> {
    /// Begins with no verdict.
    #[must_use]
    pub const fn new(
        limit: &'a LimitSpec,
        moment: Moment,
        counter: &'a mut Counter,
        asked: Asked,
        charge: Units,
    ) -> Self {
        Self {
            limit,
            moment,
            counter,
            asked,
            charge,
            verdict: None,
        }
    }
}

/// May it go?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// What all limits said together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go.
    pub outcome: Outcome,
    /// The limit that binds most, as an index of the rooms: of a denial the one that frees last. Limits
    /// in shadow bind only where there is no other. Absent where no limit matched.
    pub binding: Option<usize>,
    /// What that limit says, after the charge where there was one.
    pub verdict: Option<Verdict>,
    /// How many limits in shadow would have denied.
    pub shadow_denials: usize,
}

impl Decision {
    /// Returns the same after the limit that binds was charged so much, by which `reset` became this.
    #[must_use]
    pub fn after(self, charged: Units, reset: UnixMs) -> Self {
        let verdict = self.verdict.map(|verdict| Verdict {
            reset,
            ..verdict.after(charged)
        });
        Self { verdict, ..self }
    }

    /// Of two denials: says whether this one ends before the other.
    #[must_use]
    pub fn ends_before(&self, other: &Self) -> bool {
        let pair = other.verdict.zip(self.verdict);
        pair.is_some_and(|(other, own)| other.binds_more_than(&own))
    }
}

/// Weighs what limits say, one after the other, to one decision.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weighing {
    enforced: Option<(usize, Verdict)>,
    shadow: Option<(usize, Verdict)>,
    shadow_denials: usize,
}

impl Weighing {
    /// Adds what the limit with this index says.
    #[inline]
    pub fn take(&mut self, index: usize, enforce: Enforce, verdict: &Verdict) {
        let binding = match enforce {
            Enforce::Soft => &mut self.enforced,
            Enforce::Shadow => {
                let denials = usize::from(verdict.is_over);
                self.shadow_denials = self.shadow_denials.saturating_add(denials);
                &mut self.shadow
            }
        };
        if binding.is_none_or(|(_, known)| verdict.binds_more_than(&known)) {
            *binding = Some((index, *verdict));
        }
    }

    /// Returns what all of them say together: denied where one that is enforced is passed.
    #[must_use]
    pub fn decision(&self) -> Decision {
        let is_denied = self.enforced.is_some_and(|(_, verdict)| verdict.is_over);
        let binding = self.enforced.or(self.shadow);
        Decision {
            outcome: if is_denied {
                Outcome::Deny
            } else {
                Outcome::Allow
            },
            binding: binding.map(|(index, _)| index),
            verdict: binding.map(|(_, verdict)| verdict),
            shadow_denials: self.shadow_denials,
        }
    }
}

/// Decides an ask: checks all limits, then charges all of them or none.
///
/// Denied where one limit that is enforced has used + asked > limit. Each room's verdict says what
/// its limit found before the charge; `reset` alone is that of after it.
pub fn decide(rooms: &mut [Room<'_>]) -> Decision {
    let decision = evaluate(rooms);
    if decision.outcome == Outcome::Deny {
        return decision;
    }
    charge_all(rooms);
    for room in rooms.iter_mut() {
        if let Some(verdict) = &mut room.verdict {
            verdict.reset = room.counter.reset(room.limit, room.moment);
        }
    }
    let bound = decision.binding.and_then(|binding| rooms.get(binding));
    match bound.and_then(|room| Some((room.charge, room.verdict?.reset))) {
        Some((charge, reset)) => decision.after(charge.or_zero(), reset),
        None => decision,
    }
}

/// Charges a report: all of it, to all limits, whatever they say. The answer is that of an ask for
/// nothing after it: `Deny` says that a limit is passed now.
pub fn report(rooms: &mut [Room<'_>]) -> Decision {
    charge_all(rooms);
    for room in rooms.iter_mut() {
        room.asked = Asked::Units(Units::ZERO);
    }
    evaluate(rooms)
}

/// Chooses among candidates: the first whose limits allow it is charged; the limits of all others
/// stay as they are. Where none is allowed, the answer is the denial that ends first.
///
/// Returns the candidate's index with its decision; `None` where there is no candidate.
pub fn choose<'a, 'b: 'a>(
    candidates: impl IntoIterator<Item = &'a mut [Room<'b>]>,
) -> Option<(usize, Decision)> {
    let mut denied: Option<(usize, Decision)> = None;
    for (index, rooms) in candidates.into_iter().enumerate() {
        let decision = decide(rooms);
        match decision.outcome {
            Outcome::Allow => return Some((index, decision)),
            Outcome::Deny => {
                if denied.is_none_or(|(_, known)| decision.ends_before(&known)) {
                    denied = Some((index, decision));
                }
            }
        }
    }
    denied
}

/// Checks all limits and charges none.
pub fn evaluate(rooms: &mut [Room<'_>]) -> Decision {
    let mut weighing = Weighing::default();
    for (index, room) in rooms.iter_mut().enumerate() {
        let verdict = room.counter.check(room.limit, room.moment, room.asked);
        room.verdict = Some(verdict);
        weighing.take(index, room.limit.enforce(), &verdict);
    }
    weighing.decision()
}

/// Charges all limits.
fn charge_all(rooms: &mut [Room<'_>]) {
    for room in rooms.iter_mut() {
        let units = room.charge.or_zero();
        room.counter.charge(room.limit, room.moment, units);
    }
}

#[cfg(test)]
mod tests;
