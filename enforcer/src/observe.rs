//! What the enforcer tells about itself: one function per fact, which logs and counts it.
//!
//! Invariant: no other file of this room names a metric. Labels come from enums only: never an
//! application, a model or an id.

use domain::decision::Outcome;
use domain::time::UnixMs;
use metrics::{Counter, counter, gauge};

use crate::engine::{Source, Sources};

/// What decisions count; the handles are looked up once, since a lookup costs as much as a decision.
#[derive(Debug)]
pub(crate) struct Decisions {
    allowed: Counter,
    denied: Counter,
    reports: Counter,
}

impl Decisions {
    pub(crate) fn new() -> Self {
        let decisions =
            |outcome| counter!("tollbook_enforcer_decisions_total", "outcome" => outcome);
        Self {
            allowed: decisions("allow"),
            denied: decisions("deny"),
            reports: counter!("tollbook_enforcer_reports_total"),
        }
    }

    /// Tells that an ask was decided.
    pub(crate) fn decided(&self, outcome: Outcome) {
        match outcome {
            Outcome::Allow => self.allowed.increment(1),
            Outcome::Deny => self.denied.increment(1),
        }
    }

    /// Tells that a report was charged.
    pub(crate) fn reported(&self) {
        self.reports.increment(1);
    }
}

/// Tells how many counters there are.
pub(crate) fn counters(count: usize) {
    gauge!("tollbook_enforcer_counters_count").set(lossy(count));
}

/// Tells how old each source of truth is that was ever read.
pub(crate) fn staleness(sources: &Sources, now: UnixMs) {
    for source in Source::ALL {
        if let Some(as_of) = sources.as_of(source) {
            let ms = now.get().saturating_sub(as_of.get()).max(0);
            let seconds = u32::try_from(ms).map_or(f64::from(u32::MAX), f64::from) / 1_000.0;
            gauge!("tollbook_enforcer_staleness_seconds", "source" => source.name()).set(seconds);
        }
    }
}

/// Tells that policies are in force.
pub(crate) fn in_force(policies: usize, limits: usize) {
    gauge!("tollbook_enforcer_policies_count").set(lossy(policies));
    gauge!("tollbook_enforcer_limits_count").set(lossy(limits));
    tracing::info!(
        policies.count = policies,
        limits.count = limits,
        "policies are in force"
    );
}

fn lossy(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
