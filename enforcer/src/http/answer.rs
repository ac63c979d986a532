//! Answers as JSON: one form for all protocols that carry a body.
//!
//! Invariant: every field is always there, `null` where there is nothing to say; amounts are decimal
//! strings, instants RFC 3339. What stands here is enough to work the verdict out again.

use std::collections::BTreeMap;
use std::fmt;

use domain::decision::{Outcome, Verdict};
use domain::limit::MeterSelector;
use domain::policy::model::Limit;
use domain::request::{Field, Request};
use domain::time::UnixMs;
use domain::units::Units;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::headers;
use super::problem::json;
use crate::config::XRatelimitReset;
use crate::engine::{Answer, Ask, Reason};

mod write;

pub(super) use self::write::write;

/// An answer, ready to be written.
#[derive(Debug, Serialize)]
pub(crate) struct AnswerView<'a> {
    outcome: &'static str,
    reason: &'static str,
    policy: Option<&'a str>,
    attachment: Option<&'a str>,
    limit: Option<&'a str>,
    meter: Option<&'static str>,
    key: Option<Key>,
    missing_key: Option<&'a str>,
    used: Option<String>,
    asked: Option<String>,
    limit_value: Option<String>,
    remaining: Option<String>,
    reset: Option<Instant>,
    retry: Option<Instant>,
    candidate: Option<CandidateView<'a>>,
    /// Nothing reserves yet.
    reservation: Option<&'a str>,
    as_of: Option<Instant>,
    warming: Option<Instant>,
    shadow_denials: usize,
    uncharged: Vec<&'a str>,
    denial: Option<String>,
    policies_version: i64,
    headers: Headers,
}

/// The candidate that was chosen, as it was sent, with its place.
#[derive(Debug, Serialize)]
struct CandidateView<'a> {
    index: usize,
    model: Option<&'a str>,
    provider: Option<&'a str>,
    instance: Option<&'a str>,
}

/// An instant, as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instant(pub(super) UnixMs);

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = chrono::DateTime::parse_from_rfc3339(&text).ok();
        let instant = parsed.and_then(|instant| UnixMs::from_utc(instant.to_utc()));
        let unread = || D::Error::custom(format!("{text:?} is no instant"));
        instant.map(Self).ok_or_else(unread)
    }
}

/// Names and values of a counter's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(pub(super) Vec<(String, Option<String>)>);

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Several constants or expressions have one name; a number tells them apart.
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            let count = counts.entry(name).or_default();
            *count = count.saturating_add(1);
            if *count == 1 {
                map.serialize_entry(name, value)?;
            } else {
                map.serialize_entry(&format!("{name}:{count}"), value)?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeyReader)
    }
}

/// Reads a key in its order; a number that tells equal names apart stays with the name.
struct KeyReader;

impl<'de> Visitor<'de> for KeyReader {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names and values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Key, A::Error> {
        let mut values = Vec::new();
        while let Some(entry) = map.next_entry()? {
            values.push(entry);
        }
        Ok(Key(values))
    }
}

/// Headers by name; a repeated one keeps its last value.
#[derive(Debug)]
struct Headers(headers::Written);

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = self
            .0
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_str()));
        serializer.collect_map(named)
    }
}

impl<'a> AnswerView<'a> {
    /// Writes an answer to an ask; of a report what was reported for.
    pub(crate) fn new(answer: &'a Answer, ask: &'a Ask<'_>, reset: XRatelimitReset) -> Self {
        let bound = answer.bound();
        let verdict = answer.binding.and_then(|binding| binding.verdict);
        let meter = bound.map(|(_, _, limit)| limit.spec.meter());
        let number = |of: fn(&Verdict) -> Units| {
            let (meter, verdict) = meter.zip(verdict)?;
            Some(decimal(meter, of(&verdict)))
        };
        let candidate = answer.candidate.and_then(|index| {
            let candidate = ask.candidates.get(index)?;
            Some(CandidateView {
                index,
                model: candidate.model,
                provider: candidate.provider,
                instance: candidate.instance,
            })
        });
        let uncharged = answer.uncharged.iter().filter_map(|index| {
            let (_, _, limit) = answer.limit_at(*index)?;
            Some(limit.name.as_str())
        });
        let request = ask.of(answer.candidate);
        Self {
            outcome: match answer.outcome {
                Outcome::Allow => "allow",
                Outcome::Deny => "deny",
            },
            reason: answer.reason.name(),
            policy: bound.map(|(policy, _, _)| policy.name.as_str()),
            attachment: bound
                .map(|(_, attachment, _)| attachment.name.as_str())
                .filter(|name| !name.is_empty()),
            limit: bound.map(|(_, _, limit)| limit.name.as_str()),
            meter: meter.map(MeterSelector::name),
            key: bound.map(|(_, _, limit)| key_of(limit, &request)),
            missing_key: match &answer.reason {
                Reason::MissingKey(name) => Some(name),
                Reason::NoLimit
                | Reason::Within
                | Reason::Over
                | Reason::Unavailable
                | Reason::NoRoom
                | Reason::Reported => None,
            },
            used: number(|verdict| verdict.used),
            asked: number(|verdict| verdict.asked),
            limit_value: number(|verdict| verdict.limit),
            remaining: number(|verdict| verdict.remaining),
            reset: verdict.map(|verdict| Instant(verdict.reset)),
            retry: verdict.and_then(|verdict| verdict.retry).map(Instant),
            candidate,
            reservation: None,
            as_of: answer
                .binding
                .and_then(|binding| binding.as_of)
                .map(Instant),
            warming: answer.warming.map(Instant),
            shadow_denials: answer.shadow_denials,
            uncharged: uncharged.collect(),
            denial: answer.denial.as_deref().map(|denial| denial.id.to_string()),
            policies_version: answer.version(),
            headers: Headers(headers::of(answer, reset)),
        }
    }
}

/// Returns a key's names and values; the tenant is always part of it.
fn key_of(limit: &Limit, request: &Request<'_>) -> Key {
    let mut values = limit.values(request);
    if !values.iter().any(|(name, _)| name == Field::Tenant.name()) {
        let tenant = request.text(Field::Tenant).map(str::to_owned);
        values.insert(0, (Field::Tenant.name().to_owned(), tenant));
    }
    Key(values)
}

/// Writes units of a meter: of cost an amount, else a whole number.
pub(crate) fn decimal(meter: MeterSelector, units: Units) -> String {
    meter.text_of(units)
}

/// A refusal's own body: what is wrong, in the form of a problem and where asked for in `OpenAI`'s,
/// beside the whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct RefusalView<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(rename = "violated-policies", skip_serializing_if = "Vec::is_empty")]
    violated_policies: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<OpenAiError<'a>>,
    #[serde(flatten)]
    answer: AnswerView<'a>,
}

/// The error as `OpenAI`'s clients read it.
#[derive(Debug, Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

/// Returns the sentence of a refusal: the policy's own, or what happened.
pub(crate) fn sentence(answer: &Answer) -> String {
    let Some((policy, _, limit)) = answer.bound() else {
        return "refused".to_owned();
    };
    if let Some(message) = &policy.response.message {
        return message.clone();
    }
    let name = format!("limit {} of policy {}", limit.name, policy.name);
    match (
        &answer.reason,
        answer.binding.and_then(|binding| binding.verdict),
    ) {
        (Reason::MissingKey(key), _) => format!("{name} refuses requests without {key}"),
        (Reason::Unavailable, _) => format!("{name} refuses while its numbers are too old"),
        (Reason::NoRoom, _) => format!("{name} refuses while there is no room for new counters"),
        (_, Some(verdict)) => {
            let meter = limit.spec.meter();
            let [used, of] = [verdict.used, verdict.limit].map(|units| decimal(meter, units));
            let again = verdict
                .retry
                .map_or_else(String::new, |retry| format!("; try again at {retry}"));
            format!(
                "{name} is reached: {used} of {of} {} are used{again}",
                meter.name()
            )
        }
        (_, None) => format!("{name} refuses"),
    }
}

impl<'a> RefusalView<'a> {
    /// Writes a refusal with the status that it is answered by, and its sentence.
    pub(crate) fn new(
        answer: &'a Answer,
        ask: &'a Ask<'_>,
        reset: XRatelimitReset,
        status: u16,
        sentence: &'a str,
    ) -> Self {
        let is_over = answer.reason == Reason::Over;
        let bound = answer.bound();
        let error = bound
            .filter(|(policy, ..)| headers::has_openai(policy))
            .map(|(_, _, limit)| {
                let (r#type, code) = match limit.spec.meter() {
                    MeterSelector::Cost => ("insufficient_quota", "insufficient_quota"),
                    MeterSelector::Standard(domain::meter::Meter::Requests)
                    | MeterSelector::Computed => ("requests", "rate_limit_exceeded"),
                    MeterSelector::Standard(_)
                    | MeterSelector::InputTokens
                    | MeterSelector::OutputTokens
                    | MeterSelector::TotalTokens => ("tokens", "rate_limit_exceeded"),
                };
                OpenAiError {
                    message: sentence,
                    r#type,
                    param: None,
                    code,
                }
            });
        Self {
            r#type: if is_over {
                "https://iana.org/assignments/http-problem-types#quota-exceeded"
            } else {
                "about:blank"
            },
            title: if is_over {
                "Request cannot be satisfied as assigned quota has been exceeded"
            } else {
                "Request refused"
            },
            status,
            detail: sentence,
            violated_policies: bound
                .filter(|_| is_over)
                .map(|(_, _, limit)| limit.name.as_str())
                .into_iter()
                .collect(),
            error,
            answer: AnswerView::new(answer, ask, reset),
        }
    }
}
