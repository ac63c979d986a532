//! Envoy's rate limit service, with the rules and the answers of envoyproxy/ratelimit on Redis.
//!
//! Invariant: with `denied_hits = "count"` any sequence of requests gets the codes, statuses, limits and
//! remainders that that service gives (<https://github.com/envoyproxy/ratelimit>, read 2026-07).
//! What it counts in Redis lies in the process's own counters, one per key and window as there, so that
//! replicas tell each other of it as of any counter. Deliberately absent: protocols, and policies, which
//! this service does not read.

mod answer;
pub(crate) mod json;
mod load;
mod rules;
mod watch;
mod yaml;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use domain::decision::Asked;
use domain::hash::{Canonical, Hash128};
use domain::limit::{Algorithm, Enforce, LimitError, LimitSpec, MeterSelector};
use domain::meter::Meter;
use domain::policy::CounterKey;
use domain::policy::model::LimitId;
use domain::time::UnixMs;
use domain::units::Units;
use domain::window::{WindowLength, WindowSpec};
use smallvec::SmallVec;

pub(crate) use load::OneDomain;
#[cfg(test)]
pub(crate) use load::{RuleFile, load};
use rules::{Allowance, Rules, Unit, UnknownUnit};
pub(crate) use watch::{Watch, WatchError};

use answer::{Line, answer, is_refused};

use crate::counters::{Counted, Counters, Named, Verdicts};
use crate::grpc::wire::{CODE_OVER_LIMIT, RateLimitRequest, RateLimitResponse};
use crate::observe::RateLimits;

/// What Redis can count: a sum beyond it is refused and changes nothing.
const COUNT_MAX: i128 = 9_223_372_036_854_775_807;

/// Whether hits of a refused request count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Every descriptor counts for itself, whatever the others and itself say.
    Counts,
    /// A request that is refused counts nothing, and all descriptors are decided at once.
    Free,
}

/// The names of the headers that tell of the tightest descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderNames {
    /// Of its limit.
    pub(crate) limit: String,
    /// Of what remains.
    pub(crate) remaining: String,
    /// Of the seconds until its window ends.
    pub(crate) reset: String,
}

/// How the service answers, but for its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether denied hits count.
    pub(crate) denied: Denied,
    /// Every limit is a quota (`QUOTA_MODE` there).
    pub(crate) is_all_quota: bool,
    /// No request is refused; statuses say what would be (`SHADOW_MODE` there).
    pub(crate) is_all_shadow: bool,
    /// Response headers, where they are wanted (`LIMIT_RESPONSE_HEADERS_ENABLED` there).
    pub(crate) headers: Option<HeaderNames>,
    /// Whether answers carry dynamic metadata (`RESPONSE_DYNAMIC_METADATA` there).
    pub(crate) adds_metadata: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            denied: Denied::Counts,
            is_all_quota: false,
            is_all_shadow: false,
            headers: None,
            adds_metadata: false,
        }
    }
}

/// Why a request gets no answer; its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It names no domain.
    #[error("rate limit domain must not be empty")]
    NoDomain,
    /// It has no descriptors.
    #[error("rate limit descriptor list must not be empty")]
    NoDescriptors,
    /// Its own limit has a unit that does not exist.
    #[error("a descriptor's limit has the unit {0}, which does not exist")]
    Unit(i32),
    /// A counter would pass what 64 bits hold; that counter stays as it is.
    #[error("a counter would pass 9223372036854775807; send smaller hits")]
    Overflow,
    /// It has a key that is new, and there is no room for its counter: the gateway's failure mode decides.
    #[error("there is no room for a new counter; raise enforcer.counters_max")]
    NoRoom,
}

/// The counters of one unit.
#[derive(Debug, Clone, Copy)]
struct Window {
    unit: Unit,
    id: LimitId,
    spec: LimitSpec,
}

impl Window {
    fn of(unit: Unit) -> Result<Self, LimitError> {
        let ms = unit.seconds().saturating_mul(1_000);
        let length = WindowLength::from_ms(ms).map_err(|_never| LimitError::Limit)?;
        // Answers compare with the rules' limits; this one is only counted by.
        let spec = LimitSpec::new(
            MeterSelector::Standard(Meter::Requests),
            Algorithm::Window(WindowSpec::Fixed(length)),
            Units::new(COUNT_MAX),
            Enforce::Soft,
        )?;
        let mut canonical = Canonical::new("rls/1");
        canonical.text(unit.name());
        let id = LimitId(canonical.finish128());
        Ok(Self { unit, id, spec })
    }
}

/// The service.
#[derive(Debug)]
pub(crate) struct Rls {
    rules: ArcSwap<Rules>,
    counters: Arc<Counters>,
    options: Options,
    /// By unit, the longest first.
    windows: Vec<Window>,
    told: RateLimits,
    /// Whether one request ever asked for more than 32 bits hold; only then can 64 be passed.
    has_huge: AtomicBool,
}

impl Rls {
    /// Begins without rules: every request passes.
    ///
    /// # Errors
    ///
    /// [`LimitError`] never comes, since units are proper windows; the process would not start.
    pub(crate) fn new(counters: Arc<Counters>, options: Options) -> Result<Self, LimitError> {
        let units = Unit::ALL.into_iter().rev();
        Ok(Self {
            rules: ArcSwap::default(),
            counters,
            options,
            windows: units.map(Window::of).collect::<Result<_, _>>()?,
            told: RateLimits::new(),
            has_huge: AtomicBool::new(false),
        })
    }

    /// Puts rules in force, for requests that come after.
    pub(crate) fn swap(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Returns the limits that this service's counters are kept under: one per unit.
    pub(crate) fn limits(&self) -> impl Iterator<Item = (LimitId, LimitSpec)> {
        self.windows.iter().map(|window| (window.id, window.spec))
    }

    /// Counts a request and answers it.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: nothing was counted, but for `Overflow`, where the other descriptors were.
    pub(crate) fn should_rate_limit(
        &self,
        request: &RateLimitRequest,
        now: UnixMs,
    ) -> Result<RateLimitResponse, Refusal> {
        let answered = self.answer(request, now);
        match &answered {
            Ok(answer) => self.told.answered(answer.overall_code == CODE_OVER_LIMIT),
            Err(_) => self.told.refused(),
        }
        answered
    }

    fn answer(
        &self,
        request: &RateLimitRequest,
        now: UnixMs,
    ) -> Result<RateLimitResponse, Refusal> {
        if request.domain.is_empty() {
            return Err(Refusal::NoDomain);
        }
        if request.descriptors.is_empty() {
            return Err(Refusal::NoDescriptors);
        }
        let rules = self.rules.load();
        let mut lines = lines(&rules, request)?;
        replace(&mut lines);
        match self.options.denied {
            Denied::Counts => self.count_each(request, &mut lines, now)?,
            Denied::Free => self.count_all_or_none(request, &mut lines, now)?,
        }
        let seconds = now.get().checked_div(1_000).unwrap_or(0);
        Ok(answer(request, &lines, &self.options, seconds))
    }

    /// Counts each descriptor for itself, in order. One that would pass 64 bits does not keep the
    /// others from being counted, as they are one pipeline to Redis there.
    fn count_each(
        &self,
        request: &RateLimitRequest,
        lines: &mut [Line<'_>],
        now: UnixMs,
    ) -> Result<(), Refusal> {
        let mut result = Ok(());
        for index in 0..lines.len() {
            let Some(line) = lines.get_mut(index) else {
                continue;
            };
            let Some(counted) = self.counted(request, index, line, now) else {
                continue;
            };
            if self.counters.lacks(&counted) {
                // What must never refuse does not begin to for want of room.
                if !self.is_shadow(line) {
                    result = Err(Refusal::NoRoom);
                }
                continue;
            }
            if line.hits > u64::from(u32::MAX) {
                self.has_huge.store(true, Ordering::Relaxed);
            }
            if !self.has_huge.load(Ordering::Relaxed) {
                line.after = self.counters.charge(&counted).used.get();
                continue;
            }
            let mut verdicts = Verdicts::new();
            let mut after = 0;
            let fits = self
                .counters
                .charge_if(&[counted], &mut verdicts, |verdicts| {
                    let used = verdicts.first().map_or(0, |verdict| verdict.used.get());
                    after = used.saturating_add(line.hits.into());
                    line.hits <= i64::MAX.unsigned_abs() && after <= COUNT_MAX
                });
            line.after = after;
            if !fits {
                result = Err(Refusal::Overflow);
            }
        }
        result
    }

    /// Says whether a line never refuses.
    fn is_shadow(&self, line: &Line<'_>) -> bool {
        let of_limit = line.met.as_ref().and_then(|met| met.limit);
        self.options.is_all_shadow || of_limit.is_some_and(|limit| limit.is_shadow)
    }

    /// Counts all descriptors where the request may go, and none where it may not, as one step.
    fn count_all_or_none(
        &self,
        request: &RateLimitRequest,
        lines: &mut [Line<'_>],
        now: UnixMs,
    ) -> Result<(), Refusal> {
        let mut counted: SmallVec<[Counted<'_>; 8]> = SmallVec::new();
        // For each line its counter; lines with one counter count one after the other.
        let mut places: SmallVec<[Option<usize>; 8]> = SmallVec::new();
        for (index, line) in lines.iter().enumerate() {
            let Some(own) = self.counted(request, index, line, now) else {
                places.push(None);
                continue;
            };
            if self.counters.lacks(&own) {
                if self.is_shadow(line) {
                    places.push(None);
                    continue;
                }
                return Err(Refusal::NoRoom);
            }
            let same =
                |known: &Counted<'_>| known.id == own.id && known.key.place() == own.key.place();
            match counted.iter().position(same) {
                Some(place) => {
                    if let Some(known) = counted.get_mut(place) {
                        known.charge = known.charge.saturating_add(own.charge);
                    }
                    places.push(Some(place));
                }
                None => {
                    places.push(Some(counted.len()));
                    counted.push(own);
                }
            }
        }
        let mut verdicts = Verdicts::new();
        let mut overflows = false;
        let is_admitted = self
            .counters
            .charge_if(&counted, &mut verdicts, |verdicts| {
                let mut used: SmallVec<[i128; 8]> =
                    verdicts.iter().map(|verdict| verdict.used.get()).collect();
                for (line, place) in lines.iter_mut().zip(&places) {
                    if let Some(used) = place.and_then(|place| used.get_mut(place)) {
                        *used = used.saturating_add(line.hits.into());
                        line.after = *used;
                        overflows |= *used > COUNT_MAX;
                    }
                }
                !overflows && (self.options.is_all_shadow || !is_refused(lines, &self.options))
            });
        if overflows {
            return Err(Refusal::Overflow);
        }
        if !is_admitted {
            // What passed its own limit was not counted either, so that much is still left.
            for (line, place) in lines.iter_mut().zip(&places) {
                let verdict = place.and_then(|place| verdicts.get(place));
                line.uncounted = verdict.map(|verdict| verdict.used.get());
            }
        }
        Ok(())
    }

    /// Returns the counter of a line that meets a limit.
    ///
    /// Redis counts by the text of the entries and the window's first second. So two units count
    /// together where their windows begin together: an hour and its day at midnight. Here each such
    /// window lies under the longest unit that begins with it.
    fn counted(
        &self,
        request: &RateLimitRequest,
        index: usize,
        line: &Line<'_>,
        now: UnixMs,
    ) -> Option<Counted<'_>> {
        let met = line.met.as_ref()?;
        let Allowance::Hits { unit, .. } = met.allowance else {
            return None;
        };
        let seconds = now.get().checked_div(1_000)?;
        let start = seconds.checked_sub(seconds.checked_rem(unit.seconds())?)?;
        let begins = |window: &&Window| start.checked_rem(window.unit.seconds()) == Some(0);
        let window = self.windows.iter().find(begins)?;
        let charge = Units::from(line.hits);
        Some(Counted {
            limit: &window.spec,
            id: window.id,
            key: Named::Key(key(request, index, &met.shared)?),
            moment: window.spec.moment(now),
            asked: Asked::Units(charge),
            charge,
        })
    }
}

/// Finds what each descriptor meets.
fn lines<'r>(
    rules: &'r Rules,
    request: &RateLimitRequest,
) -> Result<SmallVec<[Line<'r>; 4]>, Refusal> {
    let all = u64::from(request.hits_addend.max(1));
    let descriptors = request.descriptors.iter();
    let lines = descriptors.map(|descriptor| {
        let met = rules.meet(&request.domain, descriptor);
        Ok(Line {
            met: met.map_err(|UnknownUnit(unit)| Refusal::Unit(unit))?,
            hits: descriptor.hits_addend.unwrap_or(all),
            after: 0,
            uncounted: None,
        })
    });
    lines.collect()
}

/// Lifts the limits that others of the request replace; unlimited ones replace, and stay.
fn replace(lines: &mut [Line<'_>]) {
    let mut replaced: SmallVec<[&str; 4]> = SmallVec::new();
    for line in lines.iter() {
        let limit = line.met.as_ref().and_then(|met| met.limit);
        let names = limit.iter().flat_map(|limit| limit.replaces.iter());
        replaced.extend(names.map(|name| &**name));
    }
    if replaced.is_empty() {
        return;
    }
    for line in lines {
        let is_replaced = line.met.as_ref().is_some_and(|met| {
            let name = met.limit.map_or("", |limit| &limit.name);
            met.allowance != Allowance::Unlimited && !name.is_empty() && replaced.contains(&name)
        });
        if is_replaced {
            line.met = None;
        }
    }
}

/// Returns the key of a descriptor's counter: of the text that is the key in Redis, but for the window.
fn key(request: &RateLimitRequest, index: usize, shared: &[(usize, &str)]) -> Option<CounterKey> {
    let descriptor = request.descriptors.get(index)?;
    let mut text: SmallVec<[u8; 256]> = SmallVec::new();
    text.extend_from_slice(request.domain.as_bytes());
    text.push(b'_');
    for (index, entry) in descriptor.entries.iter().enumerate() {
        let wildcard = shared.iter().find(|(of, _)| *of == index);
        let value = wildcard.map_or(entry.value.as_str(), |(_, wildcard)| wildcard);
        text.extend_from_slice(entry.key.as_bytes());
        text.push(b'_');
        text.extend_from_slice(value.as_bytes());
        text.push(b'_');
    }
    Some(CounterKey(Hash128::of(&text)))
}
