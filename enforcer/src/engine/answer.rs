//! Answers: what all limits of a request said, and the one that binds.
//!
//! Invariant: an answer holds the set that it was made by, so names and texts are those of that set;
//! it is made into bytes at once and not kept. Deliberately absent: how it is written.

use std::fmt;
use std::sync::Arc;

use domain::decision::{Outcome, Verdict};
use domain::policy::model::{Attachment, Limit, Policy};
use domain::time::UnixMs;
use domain::window::Span;
use smallvec::SmallVec;

use super::denials::Denial;
use super::in_force::InForce;
use super::met::MetList;

/// What the engine says to an ask or a report.
pub struct Answer {
    /// Whether the request may go; a report always may.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// The limit that binds most: of a denial the one that refuses. Absent where none matched.
    pub binding: Option<Binding>,
    /// All limits that counted, in the order of the policies.
    pub met: MetList,
    /// The candidate that was chosen, or that is refused for the shortest time.
    pub candidate: Option<usize>,
    /// How many limits in shadow would have refused.
    pub shadow_denials: usize,
    /// From when all accounts are whole, where one of them is not yet.
    pub warming: Option<UnixMs>,
    /// Of a report: limits that it was not charged to, since they count something which it does not say,
    /// or for want of room for their counters.
    pub uncharged: SmallVec<[usize; 4]>,
    /// Of a refusal: how it is kept.
    pub denial: Option<Arc<Denial>>,
    /// When it was made.
    pub now: UnixMs,
    pub(super) force: arc_swap::Guard<Arc<InForce>>,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No limit holds for the request.
    NoLimit,
    /// Every limit has room.
    Within,
    /// A limit is passed.
    Over,
    /// The request lacks this key, and the limit refuses those that do.
    MissingKey(String),
    /// The numbers are older than the policy tolerates.
    Unavailable,
    /// There is no room for a counter of the key, so nobody knows its use.
    NoRoom,
    /// It was used already.
    Reported,
}

impl Reason {
    /// Returns the word used in answers and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoLimit => "no_limit",
            Self::Within => "within",
            Self::Over => "over",
            Self::MissingKey(_) => "missing_key",
            Self::Unavailable => "unavailable",
            Self::NoRoom => "no_room",
            Self::Reported => "reported",
        }
    }
}

/// One limit that counted.
#[derive(Debug, Clone, Copy)]
pub struct Met {
    /// Its place in the set.
    pub index: usize,
    /// What it said, after the charge where there was one.
    pub verdict: Option<Verdict>,
    /// As of when its use is known; `None` where it never was.
    pub as_of: Option<UnixMs>,
    /// From when its account is whole, where it is not yet.
    pub warming: Option<UnixMs>,
}

/// The limit that binds.
#[derive(Debug, Clone, Copy)]
pub struct Binding {
    /// Its place in the set.
    pub index: usize,
    /// What it said; `None` of one that never looked at numbers.
    pub verdict: Option<Verdict>,
    /// As of when its use is known.
    pub as_of: Option<UnixMs>,
}

impl Answer {
    /// Returns the limit at a place of the set by which this was answered.
    #[must_use]
    pub fn limit_at(&self, index: usize) -> Option<(&Policy, &Attachment, &Limit)> {
        let (_, policy, attachment, limit) = self.force.set().limit_at(index)?;
        Some((policy, attachment, limit))
    }

    /// Returns the limit that binds.
    #[must_use]
    pub fn bound(&self) -> Option<(&Policy, &Attachment, &Limit)> {
        self.limit_at(self.binding?.index)
    }

    /// Returns the slot of a limit that held the instant; of calendar and fixed windows the window.
    #[must_use]
    pub fn slot_at(&self, index: usize) -> Option<Span> {
        let (_, _, limit) = self.limit_at(index)?;
        Some(self.force.moment(index, &limit.spec, self.now).slot)
    }

    /// Returns the version of the policies that it was made by.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.force.version()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("outcome", &self.outcome)
            .field("reason", &self.reason)
            .field("binding", &self.binding)
            .field("candidate", &self.candidate)
            .field("shadow_denials", &self.shadow_denials)
            .finish_non_exhaustive()
    }
}
