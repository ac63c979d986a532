//! Recent denials, each with everything to work it out again.
//!
//! Invariant: a bounded number is kept, the oldest go first, and each has a bounded size, whatever the
//! request carried. Numbers are those that were compared; used + asked > limit holds for each that is
//! `over`. Deliberately absent: denials of other replicas and of before the start.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use domain::account::ReplicaId;
use domain::decision::Verdict;
use domain::limit::LimitSpec;
use domain::policy::model::{CountedFrom, LimitId};
use domain::request::{Field, Request};
use domain::time::UnixMs;
use domain::window::Span;
use parking_lot::Mutex;

use super::answer::{Answer, Reason};
use crate::counters::Consulted;

/// The longest text of a request that is kept, in bytes; longer ones are cut.
const TEXT_BYTES_MAX: usize = 256;

/// Denials that are looked at under one lock.
const SLICE_MAX: usize = 1_024;

/// Names one denial of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DenialId {
    replica: ReplicaId,
    sequence: u64,
}

impl fmt::Display for DenialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.replica.0, self.sequence)
    }
}

impl std::str::FromStr for DenialId {
    type Err = UnknownDenial;

    fn from_str(text: &str) -> Result<Self, UnknownDenial> {
        let (replica, sequence) = text.split_once('-').ok_or(UnknownDenial)?;
        let replica = u64::from_str_radix(replica, 16).map_err(|_no_number| UnknownDenial)?;
        let sequence = sequence.parse().map_err(|_no_number| UnknownDenial)?;
        let id = Self {
            replica: ReplicaId(replica),
            sequence,
        };
        // One text for each.
        (id.to_string() == text).then_some(id).ok_or(UnknownDenial)
    }
}

/// A text that names no denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no denial's id")]
pub struct UnknownDenial;

/// One refused ask.
#[derive(Debug, Clone)]
pub struct Denial {
    /// Its name.
    pub id: DenialId,
    /// When it was refused.
    pub at: UnixMs,
    /// Why.
    pub reason: Reason,
    /// The policy.
    pub policy: String,
    /// The version of the policies in force.
    pub version: i64,
    /// Where it is attached; empty where it has no named attachment.
    pub attachment: String,
    /// The limit's name.
    pub limit: String,
    /// The identity of its counters.
    pub limit_id: LimitId,
    /// What it is counted from.
    pub from: CountedFrom,
    /// Meter, algorithm, window and what is allowed.
    pub spec: LimitSpec,
    /// The slot that held the instant: of calendar and fixed windows the window.
    pub slot: Span,
    /// Names and values of its keys; `None` for what was missing.
    pub key: Vec<(String, Option<String>)>,
    /// What the limit said; `None` where it looked at no numbers.
    pub verdict: Option<Verdict>,
    /// As of when its use was known.
    pub as_of: Option<UnixMs>,
    /// The counter that was looked at, as it was then; `None` where none was.
    pub consulted: Option<Consulted>,
    /// The request's texts, those that it carried.
    pub request: Vec<(Field, String)>,
}

/// Which denials are asked for.
#[derive(Debug, Clone, Default)]
pub struct DenialFilter {
    /// Of this application alone.
    pub app: Option<String>,
    /// Of this policy alone.
    pub policy: Option<String>,
    /// Only those before this one.
    pub before: Option<DenialId>,
}

impl DenialFilter {
    fn fits(&self, denial: &Denial) -> bool {
        let app = || {
            let named = denial
                .request
                .iter()
                .find(|(field, _)| *field == Field::App);
            named.map_or(domain::ids::UNATTRIBUTED, |(_, app)| app)
        };
        self.app.as_deref().is_none_or(|wanted| wanted == app())
            && self
                .policy
                .as_deref()
                .is_none_or(|wanted| wanted == denial.policy)
    }
}

/// The recent denials of this process.
#[derive(Debug)]
pub struct Denials {
    replica: ReplicaId,
    kept_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Ascending, without holes.
    denials: VecDeque<Arc<Denial>>,
    last: u64,
}

impl Denials {
    pub(super) fn new(replica: ReplicaId, kept_max: usize) -> Self {
        Self {
            replica,
            kept_max,
            kept: Mutex::default(),
        }
    }

    /// Says whether any are kept, and so whether anybody can ask what one stands on.
    pub(super) const fn keeps_any(&self) -> bool {
        self.kept_max > 0
    }

    /// Keeps a denial; returns it as it is kept.
    pub(super) fn keep(
        &self,
        answer: &Answer,
        request: &Request<'_>,
        consulted: Option<Consulted>,
        now: UnixMs,
    ) -> Option<Arc<Denial>> {
        let binding = answer.binding?;
        let (limit_id, policy, attachment, limit) = answer.force.set().limit_at(binding.index)?;
        let mut denial = Denial {
            id: DenialId {
                replica: self.replica,
                sequence: 0,
            },
            at: now,
            reason: answer.reason.clone(),
            policy: policy.name.clone(),
            version: answer.version(),
            attachment: attachment.name.clone(),
            limit: limit.name.clone(),
            limit_id,
            from: limit.from,
            spec: limit.spec,
            slot: answer.force.moment(binding.index, &limit.spec, now).slot,
            key: keys_of(limit.values(request), request),
            verdict: binding.verdict,
            as_of: binding.as_of,
            consulted,
            request: texts_of(request),
        };
        let mut kept = self.kept.lock();
        kept.last = kept.last.saturating_add(1);
        denial.id.sequence = kept.last;
        let denial = Arc::new(denial);
        if kept.denials.len() >= self.kept_max {
            kept.denials.pop_front();
        }
        if self.kept_max > 0 {
            kept.denials.push_back(denial.clone());
        }
        Some(denial)
    }

    /// Returns a denial; `None` for one that is no longer kept, or never was here.
    #[must_use]
    pub fn get(&self, id: DenialId) -> Option<Arc<Denial>> {
        if id.replica != self.replica {
            return None;
        }
        let kept = self.kept.lock();
        let first = kept.denials.front()?.id.sequence;
        let place = usize::try_from(id.sequence.checked_sub(first)?).ok()?;
        kept.denials.get(place).cloned()
    }

    /// Says whether a denial was one of this process, kept or not.
    #[must_use]
    pub fn names(&self, id: DenialId) -> bool {
        id.replica == self.replica
    }

    /// Returns at most `max` denials, newest first. Whoever decides meanwhile waits for no more than a
    /// slice of them.
    #[must_use]
    pub fn list(&self, filter: &DenialFilter, max: usize) -> Vec<Arc<Denial>> {
        let mut found = Vec::new();
        let mut before = filter.before.map_or(u64::MAX, |before| before.sequence);
        while found.len() < max {
            let slice = self.slice(before);
            let Some(oldest) = slice.last() else {
                break;
            };
            before = oldest.id.sequence;
            let wanted = slice.into_iter().filter(|denial| filter.fits(denial));
            found.extend(wanted.take(max.saturating_sub(found.len())));
        }
        found
    }

    /// Returns some denials before one, newest first; none where there is none.
    fn slice(&self, before: u64) -> Vec<Arc<Denial>> {
        let kept = self.kept.lock();
        let first = kept.denials.front().map(|denial| denial.id.sequence);
        let count = before.saturating_sub(first.unwrap_or(before));
        let end = usize::try_from(count).unwrap_or(usize::MAX);
        let end = end.min(kept.denials.len());
        let begin = end.saturating_sub(SLICE_MAX);
        kept.denials.range(begin..end).rev().cloned().collect()
    }
}

/// Adds the tenant, by which every limit counts, and cuts what is long.
fn keys_of(
    values: Vec<(String, Option<String>)>,
    request: &Request<'_>,
) -> Vec<(String, Option<String>)> {
    let tenant = request.text(Field::Tenant).map(cut);
    let has_tenant = values.iter().any(|(name, _)| name == Field::Tenant.name());
    let first = (!has_tenant).then(|| (Field::Tenant.name().to_owned(), tenant));
    let others = values
        .into_iter()
        .map(|(name, value)| (name, value.as_deref().map(cut)));
    first.into_iter().chain(others).collect()
}

fn texts_of(request: &Request<'_>) -> Vec<(Field, String)> {
    let written = [
        (Field::Tenant, request.tenant),
        (Field::App, request.app),
        (Field::User, request.user),
        (Field::Session, request.session),
        (Field::Model, request.model),
        (Field::Provider, request.provider),
        (Field::Route, request.route),
        (Field::Method, request.method),
        (Field::Host, request.host),
        (Field::Path, request.path),
    ];
    let filled = written.into_iter().filter_map(|(field, text)| {
        let text = text.filter(|text| !text.is_empty())?;
        Some((field, cut(text)))
    });
    filled.collect()
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    text.get(..end).unwrap_or(text).to_owned()
}
