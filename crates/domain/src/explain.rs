//! Explaining a denial: its verdict worked out again from what was recorded of it.
//!
//! Invariant: nothing here computes a verdict; a counter is made of the recorded grounds and asked again by
//! the code that decides. Deliberately absent: where a denial comes from, what the ledger holds, and how
//! either is shown.

use crate::account::{Counter, Grounds, sliding_cut};
use crate::decision::{Asked, Verdict};
use crate::ids::Version;
use crate::limit::{Algorithm, LimitSpec};
use crate::policy::CounterKey;
use crate::policy::model::{CountedFrom, Limit, LimitId, MissingKey, Policy, Verdict as Otherwise};
use crate::request::Field;
use crate::time::UnixMs;
use crate::window::{Span, WindowSpec};

/// A refused ask, as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Its name.
    pub id: String,
    /// When it was refused.
    pub at: UnixMs,
    /// Why.
    pub reason: Reason,
    /// The policy's name.
    pub policy: String,
    /// The attachment's name; empty for the unnamed one.
    pub attachment: String,
    /// The limit's name.
    pub limit: String,
    /// The version of the policies; 0 where they came from files alone.
    pub version: Version,
    /// The identity of the limit's counters.
    pub limit_id: LimitId,
    /// Which of them it was; absent where none was looked at.
    pub counter: Option<CounterKey>,
    /// What the limit was counted from.
    pub from: CountedFrom,
    /// Names and values of the key, the tenant's among them; `None` for what was missing.
    pub key: Vec<(String, Option<String>)>,
    /// What the limit said; `None` where it looked at no numbers.
    pub verdict: Option<Verdict>,
    /// As of when its use was known; `None` where it never was.
    pub as_of: Option<UnixMs>,
    /// What the verdict stands on.
    pub grounds: Option<Grounds>,
    /// The request's texts, those that it carried.
    pub request: Vec<(Field, String)>,
}

/// Why an ask was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The limit was passed.
    Over,
    /// The request lacked this key, and the limit refuses those that do.
    MissingKey(String),
    /// The numbers were older than the policy tolerates.
    Unavailable,
    /// There was no room for a counter of the key.
    NoRoom,
}

impl Denial {
    /// Returns the value of a key by its name; `None` where it is missing or no part of the key.
    #[must_use]
    pub fn key_value(&self, field: Field) -> Option<&str> {
        let named = self.key.iter().find(|(name, _)| name == field.name());
        named.and_then(|(_, value)| value.as_deref())
    }

    /// Says whether a limit counts separately by this field.
    #[must_use]
    pub fn is_keyed_by(&self, field: Field) -> bool {
        self.key.iter().any(|(name, _)| name == field.name())
    }
}

/// What of a verdict is not as it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Difference {
    /// Whether it is refused.
    Outcome,
    /// What is used.
    Used,
    /// The limit.
    Limit,
    /// What is left.
    Remaining,
    /// When it is free again.
    Reset,
    /// When to ask again.
    Retry,
    /// What the origins counted is not what is used.
    Origins,
}

impl Difference {
    /// Returns the word used in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outcome => "outcome",
            Self::Used => "used",
            Self::Limit => "limit_value",
            Self::Remaining => "remaining",
            Self::Reset => "reset",
            Self::Retry => "retry",
            Self::Origins => "origins",
        }
    }
}

/// A verdict that was worked out again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recomputed {
    /// What the limit says now to the ask of then.
    pub verdict: Verdict,
    /// How that differs from what was recorded, each once; empty where it agrees.
    pub differences: Vec<Difference>,
}

/// Works a verdict out again from its grounds; `None` where there are none, as the limit refused
/// without looking at numbers.
#[must_use]
pub fn recompute(limit: &LimitSpec, denial: &Denial) -> Option<Recomputed> {
    let (recorded, grounds) = (denial.verdict?, denial.grounds.as_ref()?);
    let asked = Asked::Units(recorded.asked);
    let mut counter = Counter::from_grounds(limit, grounds);
    let verdict = counter.check(limit, limit.moment(denial.at), asked);
    let has_slots = matches!(limit.algorithm(), Algorithm::Window(_));
    let is_refused = verdict.is_over || denial.reason != Reason::Over;
    let found = [
        (Difference::Outcome, !is_refused),
        (Difference::Used, verdict.used != recorded.used),
        (Difference::Limit, verdict.limit != recorded.limit),
        (
            Difference::Remaining,
            verdict.remaining != recorded.remaining,
        ),
        (Difference::Reset, verdict.reset != recorded.reset),
        (Difference::Retry, verdict.retry != recorded.retry),
        (
            Difference::Origins,
            has_slots && grounds.sum() != recorded.used,
        ),
    ];
    let differs = found.into_iter().filter(|(_, differs)| *differs);
    Some(Recomputed {
        verdict,
        differences: differs.map(|(difference, _)| difference).collect(),
    })
}

/// Says whether the policy refuses what was refused without looking at numbers; true of what was
/// refused by numbers.
#[must_use]
pub fn is_refused_by(policy: &Policy, limit: &Limit, denial: &Denial) -> bool {
    match &denial.reason {
        Reason::Over => true,
        Reason::MissingKey(name) => {
            let is_key = limit.per.iter().any(|key| key.name() == *name);
            is_key && limit.missing_key == MissingKey::Deny
        }
        Reason::Unavailable => policy.refuses_unknown(limit, denial.as_of, denial.at),
        Reason::NoRoom => policy.on_unavailable.verdict == Otherwise::Deny,
    }
}

/// Returns the span of time whose use a window counted at an instant; `None` for buckets, which forget
/// evenly. Of a sliding window it begins and ends with a slot.
#[must_use]
pub fn counted_span(limit: &LimitSpec, at: UnixMs) -> Option<Span> {
    let slot = limit.moment(at).slot;
    match limit.algorithm() {
        Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => Some(slot),
        Algorithm::Window(WindowSpec::Sliding(length)) => {
            let rule = limit.algorithm().slots();
            let cut = sliding_cut(at, length.ms(), rule.slot_ms(at));
            let first = UnixMs::FIRST.saturating_add_ms(cut.saturating_add(1));
            let held = rule.slot_at(first);
            // The first slot that starts after the cut.
            let start = if held.start() < first {
                held.end()
            } else {
                held.start()
            };
            Span::new(start, slot.end())
        }
        Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => None,
    }
}

#[cfg(test)]
mod tests;
