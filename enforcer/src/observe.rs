//! What the enforcer tells about itself: one function per fact, which logs and counts it.
//!
//! Invariant: no other file of this room names a metric. Labels come from enums only: never an
//! application, a model or an id.

pub(crate) mod feed;
pub(crate) mod spans;

use domain::decision::Outcome;
use domain::time::UnixMs;
use metrics::{Counter, counter, gauge};

use crate::engine::{Source, Sources};
use crate::rls::WatchError;

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

/// What answers to Envoy's rate limit filter count.
#[derive(Debug)]
pub(crate) struct RateLimits {
    within: Counter,
    over: Counter,
    refused: Counter,
}

impl RateLimits {
    pub(crate) fn new() -> Self {
        let answers = |code| counter!("tollbook_enforcer_rls_answers_total", "code" => code);
        Self {
            within: answers("ok"),
            over: answers("over_limit"),
            refused: answers("error"),
        }
    }

    /// Tells that a request was answered: within its limits, or over them.
    pub(crate) fn answered(&self, is_over: bool) {
        if is_over {
            self.over.increment(1);
        } else {
            self.within.increment(1);
        }
    }

    /// Tells that a request was none.
    pub(crate) fn refused(&self) {
        self.refused.increment(1);
    }
}

/// Tells that other rules of the rate limit service are in force.
pub(crate) fn rules_in_force(warnings: &[String]) {
    counter!("tollbook_enforcer_rls_loads_total", "outcome" => "taken").increment(1);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!("the rate limit service's rules are in force");
}

/// Tells that its files are wrong, so that what was in force stays.
pub(crate) fn rules_refused(error: &WatchError) {
    counter!("tollbook_enforcer_rls_loads_total", "outcome" => "refused").increment(1);
    tracing::error!(error.text = %error, "the rate limit service's rules stay as they were");
}

/// What was told of the room for counters.
#[derive(Debug, Default)]
pub(crate) struct Room {
    was_full: bool,
    refused: u64,
}

impl Room {
    /// Tells how many counters there are, and how many found no room so far.
    pub(crate) fn tell(&mut self, count: usize, is_full: bool, refused: u64) {
        gauge!("tollbook_enforcer_counters_count").set(lossy(count));
        let more = refused.saturating_sub(self.refused);
        self.refused = refused;
        counter!("tollbook_enforcer_counters_refused_total").increment(more);
        // Between two looks some were forgotten and as many came.
        let is_full = is_full || more > 0;
        match (self.was_full, is_full) {
            (false, true) => tracing::warn!(
                counters.count = count,
                "there is no room for more counters; asks for new keys are decided by on_unavailable, reports for them are not charged; those known count as before; raise enforcer.counters_max, or limit who chooses keys"
            ),
            (true, false) => tracing::info!("there is room for counters again"),
            (true, true) | (false, false) => {}
        }
        self.was_full = is_full;
    }
}

/// Tells how old each source of truth is, and whether it was ever read.
pub(crate) fn staleness(sources: &Sources, now: UnixMs) {
    for source in Source::ALL {
        let as_of = sources.as_of(source);
        let is_known = if as_of.is_some() { 1.0 } else { 0.0 };
        gauge!("tollbook_enforcer_source_known", "source" => source.name()).set(is_known);
        if let Some(as_of) = as_of {
            let ms = now.get().saturating_sub(as_of.get()).max(0);
            let seconds = u32::try_from(ms).map_or(f64::from(u32::MAX), f64::from) / 1_000.0;
            gauge!("tollbook_enforcer_staleness_seconds", "source" => source.name()).set(seconds);
        }
    }
}

/// Tells that policies are in force.
pub(crate) fn in_force(version: i64, policies: usize, limits: usize) {
    gauge!("tollbook_enforcer_policies_version")
        .set(lossy(usize::try_from(version).unwrap_or_default()));
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
