//! Policies as they are meant: checked, with every default filled in.
//!
//! Invariant: a policy that exists can be enforced as it stands. A counter's identity is made of what
//! its numbers mean, not of what is compared with them. Deliberately absent: how it was written.

use crate::hash::{Canonical, Hash128};
use crate::limit::LimitSpec;
use crate::money::Rate;
use crate::request::{Field, Request};
use crate::time::UnixMs;

use super::cel::Cel;
use super::key::values_of;
use super::pattern::{Network, TextPattern};

/// A named set of limits, and the requests that they hold for.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name, unique in a set.
    pub name: String,
    /// What it is for; empty where nothing was written.
    pub description: String,
    /// Which requests it holds for.
    pub matches: Match,
    /// Where it is attached; at least one, the unnamed one where none was written.
    pub attachments: Vec<Attachment>,
    /// Its limits in the order of the file; at least one.
    pub limits: Vec<Limit>,
    /// What is decided while the numbers are too old.
    pub on_unavailable: OnUnavailable,
    /// What a refused request is answered.
    pub response: Response,
    /// Where it was written.
    pub place: Place,
}

/// Where a policy was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The file, as it was named.
    pub file: String,
    /// The line of its name, from 1.
    pub line: usize,
    /// The column of its name, from 1.
    pub column: usize,
}

/// One place that a policy is attached to.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Its name, unique within the policy; empty for the unnamed one.
    pub name: String,
    /// Which requests pass here.
    pub matches: Match,
}

/// Conditions on a request, all of which must hold.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// Conditions on fields, ascending, each field at most once.
    pub fields: Vec<(Field, TextPattern)>,
    /// Conditions on headers by lower-case name, ascending, each at most once.
    pub headers: Vec<(String, TextPattern)>,
    /// Networks of which one must hold the client's address; any address where empty. Ascending.
    pub source: Vec<Network>,
    /// The same of the address that was connected to.
    pub destination: Vec<Network>,
    /// An expression that must be true.
    pub cel: Option<Cel>,
}

/// How much of something one key may use.
#[derive(Debug, Clone)]
pub struct Limit {
    /// Its name, unique within the policy.
    pub name: String,
    /// What it is for; empty where nothing was written.
    pub description: String,
    /// What is counted, how, and how much of it is allowed.
    pub spec: LimitSpec,
    /// The limit as it was written: for windows the same as the specification's; of a bucket, whose
    /// specification has the capacity, maybe what a refill brings.
    pub written: crate::units::Units,
    /// The expression that is counted, where no meter is.
    pub amount: Option<Cel>,
    /// What is counted separately, ascending, each once; the tenant always is and is not listed.
    pub per: Vec<Key>,
    /// What it is counted from.
    pub from: CountedFrom,
    /// What becomes of a request that lacks a key.
    pub missing_key: MissingKey,
    /// Of cost: what one unit without a price counts as.
    pub unpriced_rate: Option<Rate>,
}

/// Something that a limit counts separately by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// A field that events carry.
    Field(Field),
    /// A header by its lower-case name.
    Header(String),
    /// A text that is the same for all requests.
    Constant(String),
    /// An expression's value.
    Cel(Cel),
}

impl Limit {
    /// Returns names and values of its keys for a request, to explain a decision; `None` for what is
    /// missing.
    #[must_use]
    pub fn values(&self, request: &Request<'_>) -> Vec<(String, Option<String>)> {
        values_of(self, request)
    }
}

impl Key {
    /// Returns the name that answers use.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Field(field) => field.name().to_owned(),
            Self::Header(name) => format!("header:{name}"),
            Self::Constant(_) => "constant".to_owned(),
            Self::Cel(_) => "cel".to_owned(),
        }
    }

    /// Orders keys, so that their order in a file means nothing.
    pub(super) fn rank(&self) -> (u8, &str) {
        match self {
            Self::Field(field) => (0, field.name()),
            Self::Header(name) => (1, name),
            Self::Constant(text) => (2, text),
            Self::Cel(cel) => (3, cel.as_text()),
        }
    }

    fn identify(&self, to: &mut Canonical) {
        match self {
            Self::Field(field) => {
                to.text("field").text(field.name());
            }
            Self::Header(name) => {
                to.text("header").text(name);
            }
            Self::Constant(text) => {
                to.text("constant").text(text);
            }
            Self::Cel(cel) => cel.identify(to),
        }
    }
}

/// What a limit is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CountedFrom {
    /// The gateway's asks and reports.
    Decision,
    /// The usage that gateways log.
    Log,
}

impl CountedFrom {
    /// Returns the word of the language.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Log => "log",
        }
    }
}

/// What becomes of a request that lacks a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MissingKey {
    /// All such requests count together.
    Shared,
    /// The limit does not hold for them.
    Skip,
    /// They are refused.
    Deny,
}

/// What is decided without knowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// By the numbers that are there; where there are none, the request passes.
    Allow,
    /// The request is refused.
    Deny,
}

/// What is decided while the numbers are too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OnUnavailable {
    /// What is decided.
    pub verdict: Verdict,
    /// How old the numbers may be, in ms, 0 or more.
    pub after_ms: i64,
}

/// What a refused request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status of HTTP, 400 to 599.
    pub status: u16,
    /// A sentence for the client.
    pub message: Option<String>,
    /// Conventions for headers, in the order written, each once.
    pub headers: Vec<HeaderStyle>,
    /// Whether `Retry-After` is sent.
    pub retry_after: bool,
    /// Further headers by name, ascending.
    pub extra_headers: Vec<(String, String)>,
}

pub use super::language::HeaderStyleText as HeaderStyle;

/// The identity of a limit's counters: which numbers are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitId(pub Hash128);

impl Match {
    /// Says whether all conditions hold.
    #[must_use]
    pub fn fits(&self, request: &Request<'_>) -> bool {
        let fits =
            |pattern: &TextPattern, text: Option<&str>| text.is_some_and(|text| pattern.fits(text));
        let within = |networks: &[Network], address: Option<core::net::IpAddr>| {
            networks.is_empty()
                || address
                    .is_some_and(|address| networks.iter().any(|network| network.contains(address)))
        };
        self.fields
            .iter()
            .all(|(field, pattern)| fits(pattern, request.text(*field)))
            && within(&self.source, request.source)
            && within(&self.destination, request.destination)
            && self
                .headers
                .iter()
                .all(|(name, pattern)| fits(pattern, request.header(name)))
            && self.cel.as_ref().is_none_or(|cel| cel.holds(request))
    }

    /// Returns the path of a condition on something that usage events do not carry.
    #[must_use]
    pub fn reads_unlogged(&self) -> Option<String> {
        let field = self.fields.iter().find(|(field, _)| !field.is_logged());
        let headers = || self.headers.first().map(|_| "headers".to_owned());
        let source = || self.source.first().map(|_| "source_address".to_owned());
        let destination = || {
            let first = self.destination.first();
            first.map(|_| "destination_address".to_owned())
        };
        let cel = || {
            let read = self.cel.as_ref().and_then(Cel::reads_unlogged);
            read.map(|name| format!("cel, which reads {name}"))
        };
        field
            .map(|(field, _)| field.name().to_owned())
            .or_else(headers)
            .or_else(source)
            .or_else(destination)
            .or_else(cel)
    }

    fn identify(&self, to: &mut Canonical) {
        to.text("match").unsigned(count(&self.fields));
        for (field, pattern) in &self.fields {
            pattern.identify(to.text(field.name()));
        }
        to.unsigned(count(&self.headers));
        for (name, pattern) in &self.headers {
            pattern.identify(to.text(name));
        }
        for networks in [&self.source, &self.destination] {
            to.unsigned(count(networks));
            networks.iter().for_each(|network| network.identify(to));
        }
        to.present(self.cel.is_some());
        if let Some(cel) = &self.cel {
            cel.identify(to);
        }
    }
}

impl Policy {
    /// Says whether it refuses a request at `now`, as the numbers of one of its limits are older than it
    /// tolerates; `as_of` is absent where they never were known. Limits that count decisions never are.
    #[must_use]
    pub fn refuses_unknown(&self, limit: &Limit, as_of: Option<UnixMs>, now: UnixMs) -> bool {
        let otherwise = self.on_unavailable;
        if otherwise.verdict == Verdict::Allow || limit.from == CountedFrom::Decision {
            return false;
        }
        as_of.is_none_or(|as_of| now.get().saturating_sub(as_of.get()) > otherwise.after_ms)
    }

    /// Returns the identity of the counters of one limit at one attachment.
    ///
    /// Part of it: policy, attachment, limit by name; what matches; meter, keys, window, algorithm; and
    /// what it is counted from. Not part of it: limit, capacity and refill, `enforce`, `missing_key`,
    /// `on_unavailable`, `response`, descriptions. The tenant is part of each counter's key.
    #[must_use]
    pub fn limit_id(&self, attachment: &Attachment, limit: &Limit) -> LimitId {
        let mut canonical = Canonical::new("limit/1");
        let to = &mut canonical;
        to.text(&self.name).text(&attachment.name).text(&limit.name);
        self.matches.identify(to);
        attachment.matches.identify(to);
        to.text(limit.spec.meter().name());
        to.present(limit.amount.is_some());
        if let Some(cel) = &limit.amount {
            cel.identify(to);
        }
        to.unsigned(count(&limit.per));
        limit.per.iter().for_each(|key| key.identify(to));
        limit.spec.algorithm().identify(to);
        to.text(limit.from.name());
        LimitId(canonical.finish128())
    }
}

fn count<T>(things: &[T]) -> u64 {
    u64::try_from(things.len()).unwrap_or(u64::MAX)
}
