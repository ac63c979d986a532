//! The engine: what the policies in force say to an ask, and what a report charges.
//!
//! Invariant: nothing is awaited, and all limits of a request are decided on as one step; policies are
//! swapped whole, and an answer is made by one set. What a request would only be told of costs nothing
//! until somebody asks: the names and texts of an answer lie in the set that it holds. Deliberately
//! absent: protocols, and where policies, feeds and clocks come from.

mod answer;
mod ask;
mod denials;
mod gathered;
mod in_force;
mod met;
mod room;
mod sources;
mod unread;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use domain::account::ReplicaId;
use domain::decision::{Asked, Decision, Outcome};
use domain::limit::MeterSelector;
use domain::meter::Meter;
use domain::policy::model::CountedFrom;
use domain::policy::{Holds, Placed};
use domain::request::Request;
use domain::time::UnixMs;
use domain::units::Units;
use smallvec::SmallVec;

pub use self::answer::{Answer, Binding, Met, Reason};
pub use self::ask::{Ask, Candidate, Estimated, Report, Reported};
pub use self::denials::{Denial, DenialFilter, DenialId, Denials};
pub use self::in_force::{InForce, KnownLimit, LimitTable, PoliciesInForce};
pub use self::met::MetList;
pub use self::sources::{Source, Sources};
pub(crate) use self::unread::Unread;

use self::gathered::{Gathered, Refusal};
use crate::counters::{Consulted, Counters, Verdicts};
use crate::observe;

/// Decides by the policies in force over the counters of this process.
#[derive(Debug)]
pub struct Engine {
    counters: Arc<Counters>,
    force: ArcSwap<InForce>,
    limits: ArcSwap<LimitTable>,
    sources: Sources,
    denials: Denials,
    told: observe::Decisions,
    /// Whether it is too early to decide by policies, and by the rules of other protocols.
    is_held: AtomicBool,
    are_rules_held: AtomicBool,
    /// Whether other protocols have rules of their own.
    has_rules: AtomicBool,
    /// Whether others count, too, and tell it.
    has_peers: AtomicBool,
    unread: Unread,
}

/// What one request, or one candidate, was found to meet.
#[derive(Debug)]
struct Found {
    decision: Decision,
    met: MetList,
    refusal: Option<Refusal>,
    shadow_denials: usize,
    /// Of a denial: the counter that it stands on.
    consulted: Option<Consulted>,
}

impl Engine {
    /// Begins with no policies: everything is allowed. `denials_kept` recent denials can be read. There
    /// may be any number of counters.
    #[must_use]
    pub fn new(replica: ReplicaId, denials_kept: usize) -> Self {
        Self::bounded(replica, denials_kept, usize::MAX)
    }

    /// Begins as [`Self::new`] with at most so many counters.
    #[must_use]
    pub fn bounded(replica: ReplicaId, denials_kept: usize, counters_max: usize) -> Self {
        Self {
            counters: Arc::new(Counters::new(replica, counters_max)),
            force: ArcSwap::from_pointee(InForce::default()),
            limits: ArcSwap::default(),
            sources: Sources::default(),
            denials: Denials::new(replica, denials_kept),
            told: observe::Decisions::new(),
            is_held: AtomicBool::new(false),
            are_rules_held: AtomicBool::new(false),
            has_rules: AtomicBool::new(false),
            has_peers: AtomicBool::new(false),
            unread: Unread::default(),
        }
    }

    /// Has protocols refuse to decide until [`Engine::release`]: a start knows neither all policies nor
    /// what was counted before, and an answer by less would allow too much.
    pub(crate) fn hold(&self, has_rules: bool) {
        self.has_rules.store(has_rules, Ordering::Release);
        self.are_rules_held.store(true, Ordering::Release);
        self.is_held.store(true, Ordering::Release);
    }

    /// Has the protocols with rules of their own decide, and not those that go by policies; says
    /// whether there are such rules.
    pub(crate) fn release_rules(&self) -> bool {
        let has_rules = self.has_rules.load(Ordering::Acquire);
        if has_rules {
            self.are_rules_held.store(false, Ordering::Release);
        }
        has_rules
    }

    /// Says whether it is too early to decide by the rules of other protocols.
    pub(crate) fn are_rules_held(&self) -> bool {
        self.are_rules_held.load(Ordering::Acquire)
    }

    /// Has protocols decide from now on.
    pub(crate) fn release(&self) {
        self.are_rules_held.store(false, Ordering::Release);
        self.is_held.store(false, Ordering::Release);
    }

    /// Says whether it is too early to decide by policies; the gateway's own failure mode then does.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    /// Notes that other replicas count, too: numbers are as of when those were heard.
    pub(crate) fn expect_peers(&self) {
        self.has_peers.store(true, Ordering::Relaxed);
    }

    /// Returns which limits have come whose accounts were not read yet.
    pub(crate) const fn unread(&self) -> &Unread {
        &self.unread
    }

    /// Returns the counters, which the feed merges into and other protocols count by.
    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Returns how old each source of truth is.
    #[must_use]
    pub const fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Returns the recent denials.
    #[must_use]
    pub const fn denials(&self) -> &Denials {
        &self.denials
    }

    /// Returns all limits that count now, by identity.
    #[must_use]
    pub fn limits(&self) -> Arc<LimitTable> {
        self.limits.load_full()
    }

    /// Returns what is in force.
    #[must_use]
    pub fn in_force(&self) -> Arc<InForce> {
        self.force.load_full()
    }

    /// Says whether any policies are in force; without, everything is allowed.
    pub(crate) fn has_policies(&self) -> bool {
        !self.force.load().set().policies().is_empty()
    }

    /// Puts a set in force, whole: decisions under way end by the old one, all later ones go by the new.
    /// Counters stay, as each belongs to a limit's identity.
    pub fn swap(&self, set: PoliciesInForce) {
        let in_force = InForce::new(set);
        // Known before it decides, so that nothing of a limit is forgotten that has just come.
        let mut limits = in_force.table();
        limits.retire(&self.limits.load());
        self.limits.store(Arc::new(limits));
        self.force.store(Arc::new(in_force));
    }

    /// Forgets the counters that no longer count; called each few seconds.
    pub fn prune(&self, now: UnixMs) {
        // Looked up under the lock of each shard: a limit that came in force meanwhile has counters.
        self.counters.prune(now, |id| {
            let limits = self.limits.load();
            limits.get_or_retired(id).map(|known| known.spec)
        });
    }

    /// Decides an ask: the first candidate that may go is charged, or the request itself where there
    /// are none; a refused one charges nothing. Of several refusals the one that ends first is told.
    #[must_use]
    pub fn decide(&self, ask: &Ask<'_>, now: UnixMs) -> Answer {
        let force = self.force.load();
        let mut chosen: Option<(Option<usize>, Found)> = None;
        if ask.candidates.is_empty() {
            chosen = Some((None, self.ask_one(&force, &ask.request, ask, now)));
        }
        for index in 0..ask.candidates.len() {
            let found = self.ask_one(&force, &ask.of(Some(index)), ask, now);
            let is_allowed = found.decision.outcome == Outcome::Allow;
            let is_better = chosen
                .as_ref()
                .is_none_or(|(_, known)| is_allowed || found.ends_before(known));
            if is_better {
                chosen = Some((Some(index), found));
            }
            if is_allowed {
                break;
            }
        }
        // There is a candidate, or the request was asked for.
        let (candidate, mut found) = chosen.unwrap_or_else(|| (None, Found::free()));
        let consulted = found.consulted.take();
        let mut answer = found.into_answer(force, candidate, now);
        self.told.decided(answer.outcome);
        if answer.outcome == Outcome::Deny {
            let request = ask.of(candidate);
            answer.denial = self.denials.keep(&answer, &request, consulted, now);
        }
        answer
    }

    /// Charges what was used, in full, to every limit that counts it from decisions. It is never
    /// refused; what the limits say afterwards is told.
    #[must_use]
    pub fn report(&self, report: &Report<'_>, now: UnixMs) -> Answer {
        let force = self.force.load();
        let (found, mut uncharged) = {
            let mut gathered = Gathered::default();
            let mut uncharged = SmallVec::new();
            let request = &report.request;
            let placing = self.counters.placing();
            force.set().each_holding(request, placing, |holds| {
                let used = report.units(holds.limit);
                let from_log = holds.limit.from == CountedFrom::Log;
                let is_charged = used.is_some() && matches!(holds.placed, Placed::Counts(_));
                if !(from_log || is_charged || ask::is_charged_by_asks(holds.limit)) {
                    uncharged.push(holds.index);
                }
                if matches!(holds.placed, Placed::Counts(_)) {
                    let charge = used.filter(|_| !from_log).unwrap_or(Units::ZERO);
                    let asks = (Asked::Units(Units::ZERO), charge);
                    let met = self.met(&force, &holds, now);
                    let moment = force.moment(holds.index, &holds.limit.spec, now);
                    gathered.count(&holds, request, asks, met, moment);
                }
            });
            let mut verdicts = Verdicts::new();
            let met = &gathered.met;
            let decision = self
                .counters
                .report(&gathered.counted, &mut verdicts, |place| {
                    uncharged.extend(met.get(place).map(|met| met.index));
                });
            let decision = Decision {
                outcome: Outcome::Allow,
                ..decision
            };
            (gathered.found(decision, &verdicts, false), uncharged)
        };
        self.told.reported();
        let mut answer = found.into_answer(force, None, now);
        answer.reason = Reason::Reported;
        uncharged.sort_unstable();
        answer.uncharged = uncharged;
        answer
    }

    /// Asks for one request, or for one candidate of it.
    fn ask_one(&self, force: &InForce, request: &Request<'_>, ask: &Ask<'_>, now: UnixMs) -> Found {
        let mut gathered = Gathered::default();
        let placing = self.counters.placing();
        force.set().each_holding(request, placing, |holds| {
            let asks = ask::asked_and_charged(holds.limit, request, &ask.estimate);
            self.gather(&mut gathered, &holds, request, asks, (force, now));
        });
        if self.counters.is_incomplete() {
            self.do_without(&mut gathered, force);
        }
        let mut verdicts = Verdicts::new();
        let (decision, consulted) = self.weigh(&gathered, &mut verdicts);
        let is_charged = decision.outcome == Outcome::Allow;
        Found {
            consulted,
            ..gathered.found(decision, &verdicts, is_charged)
        }
    }

    /// Has the counters decide; of a denial also returns what it stands on, where that is kept.
    fn weigh(
        &self,
        gathered: &Gathered<'_>,
        verdicts: &mut Verdicts,
    ) -> (Decision, Option<Consulted>) {
        let (counters, counted) = (&self.counters, &gathered.counted);
        let is_kept = self.denials.keeps_any();
        match gathered.place_of_refusal() {
            None if is_kept => counters.decide_or_say_why(counted, verdicts),
            None => (counters.decide(counted, verdicts), None),
            Some(place) => {
                let (decision, consulted) = if is_kept {
                    counters.evaluate_one(counted, place, verdicts)
                } else {
                    (counters.evaluate(counted, verdicts), None)
                };
                let outcome = Outcome::Deny;
                let decision = Decision {
                    outcome,
                    ..decision
                };
                (decision, consulted)
            }
        }
    }

    fn gather<'f>(
        &self,
        gathered: &mut Gathered<'f>,
        holds: &Holds<'f>,
        request: &'f Request<'f>,
        asks: (Asked, Units),
        (force, now): (&InForce, UnixMs),
    ) {
        if let Placed::Denied(key) = holds.placed {
            gathered.refuse(holds.limit, holds.index, || Reason::MissingKey(key.name()));
            return;
        }
        let met = self.met(force, holds, now);
        if holds.policy.refuses_unknown(holds.limit, met.as_of, now) {
            gathered.refuse(holds.limit, holds.index, || Reason::Unavailable);
        }
        let moment = force.moment(holds.index, &holds.limit.spec, now);
        gathered.count(holds, request, asks, met, moment);
    }

    /// Notes what is known of a limit but for its numbers.
    fn met(&self, force: &InForce, holds: &Holds<'_>, now: UnixMs) -> Met {
        let (as_of, warming) = match holds.limit.from {
            CountedFrom::Decision => {
                let others = self.sources.as_of(Source::Exchange);
                let alone = || (!self.has_peers.load(Ordering::Relaxed)).then_some(now);
                let as_of = others.map(|others| others.min(now)).or_else(alone);
                (as_of, None)
            }
            CountedFrom::Log => {
                let whole_from = force.whole_from(holds.id);
                let warming = whole_from.filter(|whole_from| *whole_from > now);
                let as_of = self.sources.as_of(Source::Feed);
                (as_of.filter(|_| !self.unread.has(holds.id)), warming)
            }
        };
        Met {
            index: holds.index,
            verdict: None,
            as_of,
            warming,
        }
    }
}

impl Found {
    /// No limit, so nothing refuses.
    fn free() -> Self {
        Self {
            decision: Decision {
                outcome: Outcome::Allow,
                binding: None,
                verdict: None,
                shadow_denials: 0,
            },
            met: MetList::default(),
            refusal: None,
            shadow_denials: 0,
            consulted: None,
        }
    }

    /// Of two refusals: says whether this one ends before the other; what lacks a key never does.
    fn ends_before(&self, other: &Self) -> bool {
        match (&self.refusal, &other.refusal) {
            (None, None) => self.decision.ends_before(&other.decision),
            (None, Some(_)) => true,
            (Some(_), _) => false,
        }
    }

    fn into_answer(
        self,
        force: arc_swap::Guard<Arc<InForce>>,
        candidate: Option<usize>,
        now: UnixMs,
    ) -> Answer {
        let Self {
            decision,
            met,
            refusal,
            shadow_denials,
            consulted: _,
        } = self;
        let refused = refusal.as_ref().map(|refusal| {
            let place = met.iter().position(|met| met.index == refusal.index);
            (refusal.index, place)
        });
        let bound = || {
            let place = decision.binding?;
            Some((met.get(place)?.index, Some(place)))
        };
        let binding = refused.or_else(bound).map(|(index, place)| {
            let met = place.and_then(|place| met.get(place));
            Binding {
                index,
                verdict: met.and_then(|met| met.verdict),
                as_of: met.and_then(|met| met.as_of),
            }
        });
        let reason = match (refusal, decision.outcome, binding.is_some()) {
            (Some(refusal), ..) => refusal.reason,
            (None, Outcome::Deny, _) => Reason::Over,
            (None, Outcome::Allow, true) => Reason::Within,
            (None, Outcome::Allow, false) => Reason::NoLimit,
        };
        let warming = met.iter().filter_map(|met| met.warming).max();
        Answer {
            outcome: decision.outcome,
            reason,
            binding,
            met,
            candidate,
            shadow_denials,
            warming,
            uncharged: SmallVec::new(),
            denial: None,
            now,
            force,
        }
    }
}

/// Says whether asks charge this meter: requests, and expressions that read no usage.
const fn counts_asks(meter: MeterSelector) -> bool {
    matches!(
        meter,
        MeterSelector::Standard(Meter::Requests) | MeterSelector::Computed
    )
}
