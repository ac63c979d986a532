//! A denial as JSON: how it is written, and how it is read back to be explained.
//!
//! Invariant: what is written reads back to the same denial, and holds all that its verdict was worked out
//! from, but in lists; numbers are texts, so that no reader rounds them. Deliberately absent: how long a
//! denial is kept.

use std::collections::BTreeMap;

use domain::account::{
    Grounds, Level, Levels, Origin, OriginSum, ReplicaId, Revision, SlotSum, Unnamed,
};
use domain::decision::Verdict;
use domain::explain::{self, Reason as Why};
use domain::hash::Hash128;
use domain::ids::{ChainId, Version};
use domain::limit::{Algorithm, LimitSpec, MeterSelector, Refill};
use domain::money::Amount;
use domain::policy::CounterKey;
use domain::policy::model::{CountedFrom, LimitId};
use domain::request::Field;
use domain::units::Units;
use domain::window::WindowSpec;
use serde::{Deserialize, Serialize};

use crate::engine::{Denial, Reason};
use crate::http::answer::{Instant, Key, decimal};

/// A denial as `/v1/denials` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialView {
    id: String,
    at: Instant,
    reason: String,
    missing_key: Option<String>,
    policy: String,
    policies_version: i64,
    attachment: Option<String>,
    limit: String,
    limit_id: String,
    from: String,
    meter: String,
    window: String,
    window_start: Option<Instant>,
    window_end: Option<Instant>,
    key: Key,
    counter: Option<String>,
    used: Option<String>,
    asked: Option<String>,
    limit_value: Option<String>,
    remaining: Option<String>,
    reset: Option<Instant>,
    retry: Option<Instant>,
    as_of: Option<Instant>,
    /// Of a denial with a counter; left out in lists, since they may take tens of kilobytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grounds: Option<GroundsView>,
    request: BTreeMap<String, String>,
}

/// What the verdict stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GroundsView {
    origins: Vec<OriginView>,
    unnamed: Option<UnnamedView>,
    slots: Vec<SlotView>,
    levels: Option<LevelsView>,
}

/// Who counted how much; a chain's number is a part's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OriginView {
    origin: String,
    id: Option<String>,
    epoch: Option<i64>,
    number: Option<i64>,
    sum: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UnnamedView {
    origins: usize,
    sum: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SlotView {
    start: Instant,
    sum: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LevelsView {
    merged: LevelView,
    own: LevelView,
}

/// A level in units times the refill's interval in ms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LevelView {
    at: Instant,
    unit_ms: String,
}

/// A denial that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableDenial {
    /// A field that no enforcer writes so: take the JSON as it was written.
    #[error("`{field}` is {found:?}, which {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        found: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It comes from a list.
    #[error("`grounds` is left out, as lists do; take the denial from /v1/denials/{{id}}")]
    NoGrounds,
}

fn unreadable(field: &'static str, found: &str, problem: &'static str) -> UnreadableDenial {
    UnreadableDenial::Field {
        field,
        found: found.to_owned(),
        problem,
    }
}

impl DenialView {
    /// Tells all of a denial.
    pub(super) fn of(denial: &Denial) -> Self {
        let meter = denial.spec.meter();
        let consulted = denial.consulted.as_ref();
        Self {
            grounds: consulted.map(|consulted| GroundsView::of(&consulted.grounds, meter)),
            ..Self::in_list(denial)
        }
    }

    /// Tells a denial as one of many, without its grounds.
    pub(super) fn in_list(denial: &Denial) -> Self {
        let meter = denial.spec.meter();
        let number = |units| decimal(meter, units);
        let verdict = denial.verdict;
        let (start, end) = match denial.spec.algorithm() {
            Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => {
                (Some(denial.slot.start()), Some(denial.slot.end()))
            }
            Algorithm::Window(WindowSpec::Sliding(length)) => {
                let start = denial.at.saturating_add_ms(length.ms().saturating_neg());
                (Some(start), Some(denial.at))
            }
            Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => (None, None),
        };
        let consulted = denial.consulted.as_ref();
        let request = denial.request.iter();
        Self {
            id: denial.id.to_string(),
            at: Instant(denial.at),
            reason: denial.reason.name().to_owned(),
            missing_key: denial.reason.missing_key().map(str::to_owned),
            policy: denial.policy.clone(),
            policies_version: denial.version,
            attachment: Some(denial.attachment.clone()).filter(|name| !name.is_empty()),
            limit: denial.limit.clone(),
            limit_id: denial.limit_id.0.to_string(),
            from: denial.from.name().to_owned(),
            meter: meter.name().to_owned(),
            window: window(&denial.spec),
            window_start: start.map(Instant),
            window_end: end.map(Instant),
            key: Key(denial.key.clone()),
            counter: consulted.map(|consulted| consulted.counter.0.to_string()),
            used: verdict.map(|verdict| number(verdict.used)),
            asked: verdict.map(|verdict| number(verdict.asked)),
            limit_value: verdict.map(|verdict| number(verdict.limit)),
            remaining: verdict.map(|verdict| number(verdict.remaining)),
            reset: verdict.map(|verdict| Instant(verdict.reset)),
            retry: verdict.and_then(|verdict| verdict.retry).map(Instant),
            as_of: denial.as_of.map(Instant),
            grounds: None,
            request: request
                .map(|(field, text)| (field.name().to_owned(), text.clone()))
                .collect(),
        }
    }

    /// Returns the meter that its numbers are of, by name.
    #[must_use]
    pub fn meter(&self) -> &str {
        &self.meter
    }

    /// Reads the denial.
    ///
    /// # Errors
    ///
    /// [`UnreadableDenial`], each with what the caller should do.
    pub fn read(&self) -> Result<explain::Denial, UnreadableDenial> {
        let meter = MeterSelector::from_name(&self.meter)
            .or_else(|| (self.meter == "computed").then_some(MeterSelector::Computed))
            .ok_or_else(|| unreadable("meter", &self.meter, "is no meter"))?;
        let hash = |field, text: &str| {
            Hash128::from_hex(text).ok_or_else(|| unreadable(field, text, "is no hash"))
        };
        let counter = self.counter.as_deref();
        let grounds = self.grounds.as_ref();
        if counter.is_some() && grounds.is_none() {
            return Err(UnreadableDenial::NoGrounds);
        }
        let mut request = Vec::with_capacity(self.request.len());
        for (name, text) in &self.request {
            let field = Field::ALL.into_iter().find(|field| field.name() == name);
            let field = field.ok_or_else(|| unreadable("request", name, "is no field"))?;
            request.push((field, text.clone()));
        }
        request.sort_unstable_by_key(|(field, _)| *field);
        Ok(explain::Denial {
            id: self.id.clone(),
            at: self.at.0,
            reason: self.why()?,
            policy: self.policy.clone(),
            attachment: self.attachment.clone().unwrap_or_default(),
            limit: self.limit.clone(),
            version: Version(self.policies_version),
            limit_id: LimitId(hash("limit_id", &self.limit_id)?),
            counter: counter
                .map(|text| hash("counter", text).map(CounterKey))
                .transpose()?,
            from: match self.from.as_str() {
                "decision" => CountedFrom::Decision,
                "log" => CountedFrom::Log,
                other => return Err(unreadable("from", other, "is neither log nor decision")),
            },
            key: self.key.0.clone(),
            verdict: self.verdict(meter)?,
            as_of: self.as_of.map(|as_of| as_of.0),
            grounds: grounds.map(|grounds| grounds.read(meter)).transpose()?,
            request,
        })
    }

    fn why(&self) -> Result<Why, UnreadableDenial> {
        match (self.reason.as_str(), &self.missing_key) {
            ("over", _) => Ok(Why::Over),
            ("unavailable", _) => Ok(Why::Unavailable),
            ("no_room", _) => Ok(Why::NoRoom),
            ("missing_key", Some(key)) => Ok(Why::MissingKey(key.clone())),
            (other, _) => Err(unreadable("reason", other, "refuses nothing")),
        }
    }

    /// Reads the numbers; they are there all together, or none is.
    fn verdict(&self, meter: MeterSelector) -> Result<Option<Verdict>, UnreadableDenial> {
        let Some(used) = &self.used else {
            return Ok(None);
        };
        let number = |field, text: &Option<String>| {
            let text = text.as_deref().unwrap_or_default();
            units(meter, field, text)
        };
        let used = units(meter, "used", used)?;
        let asked = number("asked", &self.asked)?;
        let limit = number("limit_value", &self.limit_value)?;
        let reset = self.reset;
        let reset = reset.ok_or_else(|| unreadable("reset", "null", "is no instant"))?;
        Ok(Some(Verdict {
            is_over: self.reason == "over",
            used,
            asked,
            limit,
            remaining: number("remaining", &self.remaining)?,
            reset: reset.0,
            retry: self.retry.map(|retry| retry.0),
        }))
    }
}

impl Reason {
    fn missing_key(&self) -> Option<&str> {
        match self {
            Self::MissingKey(name) => Some(name),
            Self::NoLimit
            | Self::Within
            | Self::Over
            | Self::Unavailable
            | Self::NoRoom
            | Self::Reported => None,
        }
    }
}

impl GroundsView {
    fn of(grounds: &Grounds, meter: MeterSelector) -> Self {
        let level = |level: Level| LevelView {
            at: Instant(level.at),
            unit_ms: level.level.to_string(),
        };
        let origins = grounds.origins.iter();
        let slots = grounds.slots.iter();
        Self {
            origins: origins.map(|sum| OriginView::of(sum, meter)).collect(),
            unnamed: grounds.unnamed.map(|unnamed| UnnamedView {
                origins: unnamed.origins,
                sum: decimal(meter, unnamed.sum),
            }),
            slots: slots
                .map(|slot| SlotView {
                    start: Instant(slot.start),
                    sum: decimal(meter, slot.sum),
                })
                .collect(),
            levels: grounds.levels.map(|levels| LevelsView {
                merged: level(levels.merged),
                own: level(levels.own),
            }),
        }
    }

    fn read(&self, meter: MeterSelector) -> Result<Grounds, UnreadableDenial> {
        let level = |view: &LevelView| {
            let level = view.unit_ms.parse();
            let level =
                level.map_err(|_| unreadable("unit_ms", &view.unit_ms, "is no whole number"))?;
            Ok(Level {
                at: view.at.0,
                level,
            })
        };
        let slots = self.slots.iter().map(|slot| {
            Ok(SlotSum {
                start: slot.start.0,
                sum: units(meter, "sum", &slot.sum)?,
            })
        });
        Ok(Grounds {
            origins: self
                .origins
                .iter()
                .map(|origin| origin.read(meter))
                .collect::<Result<_, _>>()?,
            unnamed: match &self.unnamed {
                Some(unnamed) => Some(Unnamed {
                    origins: unnamed.origins,
                    sum: units(meter, "sum", &unnamed.sum)?,
                }),
                None => None,
            },
            slots: slots.collect::<Result<_, _>>()?,
            levels: match &self.levels {
                Some(levels) => Some(Levels {
                    merged: level(&levels.merged)?,
                    own: level(&levels.own)?,
                }),
                None => None,
            },
        })
    }
}

impl OriginView {
    fn of(sum: &OriginSum, meter: MeterSelector) -> Self {
        let (origin, id) = match sum.origin {
            Origin::Chain(chain) => ("chain", Some(chain.0.to_string())),
            Origin::Replica(replica) => ("replica", Some(format!("{:016x}", replica.0))),
            Origin::Opening => ("opening", None),
            Origin::Adjustment => ("adjustment", None),
        };
        Self {
            origin: origin.to_owned(),
            id,
            epoch: sum.revision.map(|revision| revision.epoch),
            number: sum.revision.map(|revision| revision.number),
            sum: decimal(meter, sum.sum),
        }
    }

    fn read(&self, meter: MeterSelector) -> Result<OriginSum, UnreadableDenial> {
        let id = self.id.as_deref().unwrap_or_default();
        let chain = || id.parse().ok().map(|id| Origin::Chain(ChainId(id)));
        let replica = || {
            let id = u64::from_str_radix(id, 16).ok()?;
            Some(Origin::Replica(ReplicaId(id)))
        };
        let origin = match self.origin.as_str() {
            "chain" => chain(),
            "replica" => replica(),
            "opening" => Some(Origin::Opening),
            "adjustment" => Some(Origin::Adjustment),
            _ => None,
        };
        let revision = self.epoch.zip(self.number);
        Ok(OriginSum {
            origin: origin.ok_or_else(|| unreadable("origin", &self.origin, "nobody is"))?,
            revision: revision.map(|(epoch, number)| Revision { epoch, number }),
            sum: units(meter, "sum", &self.sum)?,
        })
    }
}

/// Reads units of a meter, as [`decimal`] writes them.
fn units(meter: MeterSelector, field: &'static str, text: &str) -> Result<Units, UnreadableDenial> {
    let units = match meter {
        MeterSelector::Cost => text.parse::<Amount>().ok().map(Units::from),
        MeterSelector::Standard(_)
        | MeterSelector::InputTokens
        | MeterSelector::OutputTokens
        | MeterSelector::TotalTokens
        | MeterSelector::Computed => text.parse().ok().map(Units::new),
    };
    units.ok_or_else(|| unreadable(field, text, "is no number of its meter"))
}

/// Describes how a limit counts.
fn window(spec: &LimitSpec) -> String {
    let bucket = |kind: &str, refill: &Refill| {
        let amount = decimal(spec.meter(), refill.amount);
        format!("{kind}, {amount} every {} ms", refill.every.ms())
    };
    match spec.algorithm() {
        Algorithm::Window(WindowSpec::Calendar(calendar)) => {
            let period = calendar.period.name();
            format!("calendar {period}, {}", calendar.zone)
        }
        Algorithm::Window(WindowSpec::Fixed(length)) => format!("fixed, {} ms", length.ms()),
        Algorithm::Window(WindowSpec::Sliding(length)) => format!("sliding, {} ms", length.ms()),
        Algorithm::TokenBucket(refill) => bucket("token bucket", refill),
        Algorithm::LeakyBucket(refill) => bucket("leaky bucket", refill),
    }
}

#[cfg(test)]
mod tests;
