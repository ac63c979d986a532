//! What a request meets, limit by limit, before the counters are asked.
//!
//! Invariant: each limit that counts the request stands in `counted` and in `met`, at the same place.
//! Deliberately absent: what policies tolerate, and what counters say.

use domain::decision::{Asked, Decision};
use domain::limit::{Enforce, Moment};
use domain::policy::model::Limit;
use domain::policy::{Holds, Placed};
use domain::request::Request;
use domain::units::Units;
use smallvec::SmallVec;

use super::Found;
use super::answer::{Met, Reason};
use super::met::MetList;
use crate::counters::{Counted, INLINE, Named, Verdicts};

/// A limit that refuses without looking at numbers.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) index: usize,
    pub(super) reason: Reason,
}

/// All limits that hold for a request.
#[derive(Debug, Default)]
pub(super) struct Gathered<'f> {
    pub(super) counted: SmallVec<[Counted<'f>; INLINE]>,
    pub(super) met: MetList,
    pub(super) refusal: Option<Refusal>,
    pub(super) shadow_refusals: usize,
}

impl<'f> Gathered<'f> {
    pub(super) fn refuse(&mut self, limit: &Limit, index: usize, reason: impl FnOnce() -> Reason) {
        match limit.spec.enforce() {
            Enforce::Shadow => self.shadow_refusals = self.shadow_refusals.saturating_add(1),
            Enforce::Soft => {
                let reason = reason();
                self.refusal.get_or_insert(Refusal { index, reason });
            }
        }
    }

    /// Adds a limit that counts the request.
    pub(super) fn count(
        &mut self,
        holds: &Holds<'f>,
        request: &'f Request<'f>,
        (asked, charge): (Asked, Units),
        met: Met,
        moment: Moment,
    ) {
        let Placed::Counts(place) = holds.placed else {
            return;
        };
        let limit = holds.limit;
        self.counted.push(Counted {
            limit: &limit.spec,
            id: holds.id,
            key: Named::values(place, limit, request),
            moment,
            asked,
            charge,
        });
        self.met.push(met);
    }

    /// Returns the place of the limit that refuses without looking at numbers; one behind the last where
    /// that limit has no counter. `None` where none refuses so.
    pub(super) fn place_of_refusal(&self) -> Option<usize> {
        let refusal = self.refusal.as_ref()?;
        let place = self.met.iter().position(|met| met.index == refusal.index);
        Some(place.unwrap_or(self.counted.len()))
    }

    /// Adds what the counters said. They said it before the charge where `is_charged_since`.
    pub(super) fn found(
        &mut self,
        decision: Decision,
        verdicts: &Verdicts,
        is_charged_since: bool,
    ) -> Found {
        let mut met = std::mem::take(&mut self.met);
        for ((met, counted), verdict) in met.iter_mut().zip(&self.counted).zip(verdicts) {
            met.verdict = Some(if is_charged_since {
                verdict.after(counted.charge.or_zero())
            } else {
                *verdict
            });
        }
        Found {
            shadow_denials: decision.shadow_denials.saturating_add(self.shadow_refusals),
            decision,
            met,
            refusal: self.refusal.take(),
            consulted: None,
        }
    }
}
