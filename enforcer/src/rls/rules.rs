//! Descriptor rules in force, and which of them a descriptor meets.
//!
//! Invariant: matching is that of envoyproxy/ratelimit, whose rules are a tree of composed keys: a
//! rule's name in its level is `key` or `key_value`, and a request's entry is looked up as `key_value`,
//! then by the wildcards of the level in the order of loading, then as `key`. So a key `a_b` without a
//! value is met by the entry (`a`, `b`), there as here. Deliberately absent: counting, files.

use std::fmt;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::grpc::wire;

/// The span that a limit counts in. Months are 30 days and years 365, aligned to the Unix epoch, as
/// envoyproxy/ratelimit has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Unit {
    /// 1 second.
    Second,
    /// 60 seconds.
    Minute,
    /// 3,600 seconds.
    Hour,
    /// 86,400 seconds.
    Day,
    /// 7 days, from Thursdays, as the epoch was one.
    Week,
    /// 30 days.
    Month,
    /// 365 days.
    Year,
}

impl Unit {
    /// All units, the shortest first.
    pub(crate) const ALL: [Self; 7] = [
        Self::Second,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Year,
    ];

    /// Returns its length in seconds.
    pub(crate) const fn seconds(self) -> i64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
            Self::Week => 604_800,
            Self::Month => 2_592_000,
            Self::Year => 31_536_000,
        }
    }

    /// Returns the number of `RateLimitResponse.RateLimit.Unit`.
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::Second => 1,
            Self::Minute => 2,
            Self::Hour => 3,
            Self::Day => 4,
            Self::Month => 5,
            Self::Year => 6,
            Self::Week => 7,
        }
    }

    /// Returns the name that protobuf gives it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Second => "SECOND",
            Self::Minute => "MINUTE",
            Self::Hour => "HOUR",
            Self::Day => "DAY",
            Self::Week => "WEEK",
            Self::Month => "MONTH",
            Self::Year => "YEAR",
        }
    }

    /// Returns the unit of a number of protobuf; `None` for `UNKNOWN` and numbers without a name.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.number() == number)
    }

    /// Returns the unit of a name in any case.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let mut units = Self::ALL.into_iter();
        units.find(|unit| unit.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of what a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Everything.
    Unlimited,
    /// So many hits in each unit.
    Hits {
        /// The most hits of one unit; 0 lets nothing through but asks for 0 hits.
        requests_per_unit: u32,
        /// The unit.
        unit: Unit,
    },
}

/// A rule's limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limit {
    pub(crate) allowance: Allowance,
    /// By which others may replace it; empty for none.
    pub(crate) name: Box<str>,
    /// The names of the limits that do not hold where this one does.
    pub(crate) replaces: Box<[Box<str>]>,
    /// It counts and never denies.
    pub(crate) is_shadow: bool,
    /// It denies only together with all quotas of the request.
    pub(crate) is_quota: bool,
    /// What a passed rule adds to the dynamic metadata, where that is asked for.
    pub(crate) metadata: Option<wire::Struct>,
}

/// The rules below one rule, or of a domain.
#[derive(Debug, Default)]
pub(crate) struct Level {
    rules: HashMap<Box<str>, Rule, foldhash::fast::RandomState>,
    /// In the order of loading.
    wildcards: Vec<Wildcard>,
}

/// One rule: a descriptor of the file.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    pub(crate) limit: Option<Limit>,
    /// Whether all values that its wildcard fits share one counter.
    pub(crate) shares: bool,
    pub(crate) below: Level,
}

#[derive(Debug)]
struct Wildcard {
    name: Box<str>,
    parts: Box<[Box<str>]>,
}

impl Wildcard {
    /// Says whether a text has the parts in order, the first at its start and the last at its end, none
    /// over another.
    fn fits(&self, text: &str) -> bool {
        let [first, middle @ .., last] = &*self.parts else {
            return false;
        };
        let inner = text.strip_prefix(&**first);
        let Some(mut rest) = inner.and_then(|inner| inner.strip_suffix(&**last)) else {
            return false;
        };
        for part in middle {
            let Some((_, behind)) = rest.split_once(&**part) else {
                return false;
            };
            rest = behind;
        }
        true
    }
}

impl Level {
    /// Adds a rule under its composed name, which must not be taken.
    pub(super) fn add(&mut self, name: &str, rule: Rule) {
        if name.contains('*') {
            let parts = name.split('*').map(Box::from).collect();
            let name = Box::from(name);
            self.wildcards.push(Wildcard { name, parts });
        }
        self.rules.insert(Box::from(name), rule);
    }

    /// Says whether a name is taken.
    pub(super) fn has(&self, name: &str) -> bool {
        self.rules.contains_key(name)
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Finds the rule of an entry, and the wildcard that led there.
    fn find(
        &self,
        entry: &wire::Entry,
        composed: &mut SmallVec<[u8; 128]>,
    ) -> Option<(&Rule, Option<&str>)> {
        composed.clear();
        composed.extend_from_slice(entry.key.as_bytes());
        composed.push(b'_');
        composed.extend_from_slice(entry.value.as_bytes());
        // Two texts and an ASCII letter make a text.
        let name = std::str::from_utf8(composed).unwrap_or_default();
        if let Some(rule) = self.rules.get(name) {
            return Some((rule, None));
        }
        let fitting = self.wildcards.iter().find(|wildcard| wildcard.fits(name));
        if let Some(wildcard) = fitting {
            let rule = self.rules.get(&wildcard.name)?;
            return Some((rule, Some(&wildcard.name)));
        }
        self.rules.get(entry.key.as_str()).map(|rule| (rule, None))
    }
}

/// The limit that a descriptor meets, and by what it counts.
#[derive(Debug)]
pub(crate) struct Met<'r> {
    /// The rule's limit; `None` for one that the request brought.
    pub(crate) limit: Option<&'r Limit>,
    /// How much is allowed.
    pub(crate) allowance: Allowance,
    /// Which entries count by a wildcard instead of their value: index and text, in order.
    pub(crate) shared: SmallVec<[(usize, &'r str); 2]>,
}

/// All domains' rules.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(super) domains: HashMap<Box<str>, Level, foldhash::fast::RandomState>,
}

/// A request's own limit names a unit that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnknownUnit(pub(crate) i32);

impl Rules {
    /// Finds the limit of a descriptor; `None` where none holds.
    ///
    /// The limit must sit at the level of the last entry. A limit in the request beats the rules', but
    /// only where the domain is known.
    ///
    /// # Errors
    ///
    /// [`UnknownUnit`], of a limit in the request; the caller refuses the request.
    pub(crate) fn meet<'r>(
        &'r self,
        domain: &str,
        descriptor: &wire::Descriptor,
    ) -> Result<Option<Met<'r>>, UnknownUnit> {
        let Some(mut level) = self.domains.get(domain) else {
            return Ok(None);
        };
        let mut shared = SmallVec::new();
        if let Some(limit) = &descriptor.limit {
            let unit = Unit::from_number(limit.unit).ok_or(UnknownUnit(limit.unit))?;
            let requests_per_unit = limit.requests_per_unit;
            return Ok(Some(Met {
                limit: None,
                allowance: Allowance::Hits {
                    requests_per_unit,
                    unit,
                },
                shared,
            }));
        }
        let mut composed = SmallVec::new();
        let Some(last) = descriptor.entries.len().checked_sub(1) else {
            return Ok(None);
        };
        for (index, entry) in descriptor.entries.iter().enumerate() {
            let Some((rule, wildcard)) = level.find(entry, &mut composed) else {
                return Ok(None);
            };
            if let Some(wildcard) = wildcard.filter(|_| rule.shares) {
                let value = wildcard.strip_prefix(entry.key.as_str());
                let value = value.and_then(|value| value.strip_prefix('_'));
                shared.push((index, value.unwrap_or(wildcard)));
            }
            if index == last {
                return Ok(rule.limit.as_ref().map(|limit| Met {
                    limit: Some(limit),
                    allowance: limit.allowance,
                    shared,
                }));
            }
            if rule.below.is_empty() {
                return Ok(None);
            }
            level = &rule.below;
        }
        Ok(None)
    }
}
