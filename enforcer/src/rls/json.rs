//! The service's messages as protobuf's JSON (<https://protobuf.dev/programming-guides/json/>).
//!
//! Invariant: what Go's `protojson` reads is read alike, and what it refuses is refused: unknown and
//! repeated fields, numbers out of range. Both spellings of names are taken, `null` is absence, numbers
//! may be texts; written are camel case and no zeros, 64 bits as texts. Deliberately absent: HTTP.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::rules::Unit;
use crate::grpc::wire::{
    self, CODE_OK, CODE_OVER_LIMIT, CurrentLimit, DescriptorStatus, Kind, RateLimitResponse,
};

/// Why bytes are no request: a sentence with line and column, for the sender.
#[derive(Debug, thiserror::Error)]
#[error("the body is no RateLimitRequest: {0}")]
pub(crate) struct NoRequest(serde_json::Error);

/// Reads a request.
///
/// # Errors
///
/// [`NoRequest`]; the sender mends its message.
pub(crate) fn read(bytes: &[u8]) -> Result<wire::RateLimitRequest, NoRequest> {
    let request: Request = serde_json::from_slice(bytes).map_err(NoRequest)?;
    Ok(request.into())
}

/// Writes an answer.
pub(crate) fn write(response: &RateLimitResponse) -> Vec<u8> {
    let response = Response::of(response);
    // Texts and numbers only, so that nothing here can fail.
    serde_json::to_vec(&response).unwrap_or_default()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Request {
    domain: Option<String>,
    descriptors: Option<Vec<Descriptor>>,
    #[serde(alias = "hits_addend")]
    hits_addend: Option<Whole<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Descriptor {
    entries: Option<Vec<Entry>>,
    limit: Option<Limit>,
    #[serde(alias = "hits_addend")]
    hits_addend: Option<Whole<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Limit {
    #[serde(alias = "requests_per_unit")]
    requests_per_unit: Option<Whole<u32>>,
    unit: Option<UnitNumber>,
}

impl From<Request> for wire::RateLimitRequest {
    fn from(request: Request) -> Self {
        let descriptors = request.descriptors.unwrap_or_default();
        Self {
            domain: request.domain.unwrap_or_default(),
            descriptors: descriptors.into_iter().map(Into::into).collect(),
            hits_addend: request.hits_addend.map_or(0, |whole| whole.0),
        }
    }
}

impl From<Descriptor> for wire::Descriptor {
    fn from(descriptor: Descriptor) -> Self {
        let entries = descriptor.entries.unwrap_or_default();
        let entries = entries.into_iter().map(|entry| wire::Entry {
            key: entry.key.unwrap_or_default(),
            value: entry.value.unwrap_or_default(),
        });
        Self {
            entries: entries.collect(),
            limit: descriptor.limit.map(|limit| wire::LimitOverride {
                requests_per_unit: limit.requests_per_unit.map_or(0, |whole| whole.0),
                unit: limit.unit.map_or(0, |unit| unit.0),
            }),
            hits_addend: descriptor.hits_addend.map(|whole| whole.0),
        }
    }
}

/// A whole number that may be written as a text, or with an exponent or a fraction of zeros.
struct Whole<N>(N);

struct WholeVisitor<N>(PhantomData<N>);

impl<'de, N: TryFrom<i128>> Deserialize<'de> for Whole<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor(PhantomData))
    }
}

impl<N: TryFrom<i128>> WholeVisitor<N> {
    fn take<E: serde::de::Error>(number: i128) -> Result<Whole<N>, E> {
        let number = N::try_from(number)
            .map_err(|_range| E::custom(format_args!("{number} is out of the field's range")));
        number.map(Whole)
    }
}

impl<N: TryFrom<i128>> Visitor<'_> for WholeVisitor<N> {
    type Value = Whole<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, or one as a text")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Whole<N>, E> {
        Self::take(number.into())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Whole<N>, E> {
        Self::take(number.into())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Whole<N>, E> {
        let refused = || E::invalid_type(Unexpected::Float(number), &self);
        // A float's shortest form is its digits; one that is whole has no others behind the point.
        let digits = format!("{number:.0}");
        let is_whole = digits
            .parse::<f64>()
            .is_ok_and(|whole| whole.to_bits() == number.to_bits());
        let whole = digits.parse::<i128>().ok().filter(|_| is_whole);
        Self::take(whole.ok_or_else(refused)?)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Whole<N>, E> {
        let expected = &"a whole number";
        let refused = || E::invalid_value(Unexpected::Str(text), expected);
        if let Ok(number) = text.parse::<i128>() {
            return if text.starts_with('+') {
                Err(refused())
            } else {
                Self::take(number)
            };
        }
        if text.contains(|c: char| c.is_ascii_whitespace()) {
            return Err(refused());
        }
        let number: serde_json::Number = serde_json::from_str(text).map_err(|_no| refused())?;
        self.visit_f64(number.as_f64().ok_or_else(refused)?)
    }
}

/// A unit by its name or its number; numbers without a name pass, as enums are open.
struct UnitNumber(i32);

impl<'de> Deserialize<'de> for UnitNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i32),
            Name(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(Self(number)),
            Written::Name(name) if name == "UNKNOWN" => Ok(Self(0)),
            Written::Name(name) => {
                let unit = Unit::ALL.into_iter().find(|unit| unit.name() == name);
                let refused = || D::Error::custom(format_args!("{name:?} is no unit"));
                unit.map(|unit| Self(unit.number())).ok_or_else(refused)
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    overall_code: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<Status<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    response_headers_to_add: Vec<Header<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamic_metadata: Option<Json>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_limit: Option<Current<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    limit_remaining: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_until_reset: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Current<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    requests_per_unit: u32,
    unit: &'static str,
}

#[derive(Serialize)]
struct Header<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn code(code: i32) -> &'static str {
    match code {
        CODE_OK => "OK",
        CODE_OVER_LIMIT => "OVER_LIMIT",
        _ => "UNKNOWN",
    }
}

impl<'a> Response<'a> {
    fn of(response: &'a RateLimitResponse) -> Self {
        let headers = response.response_headers_to_add.iter();
        let headers = headers.map(|header| Header {
            key: &header.key,
            value: &header.value,
        });
        Self {
            overall_code: code(response.overall_code),
            statuses: response.statuses.iter().map(Status::of).collect(),
            response_headers_to_add: headers.collect(),
            dynamic_metadata: response.dynamic_metadata.as_ref().map(json_struct),
        }
    }
}

impl<'a> Status<'a> {
    fn of(status: &'a DescriptorStatus) -> Self {
        let current = |limit: &'a CurrentLimit| Current {
            name: &limit.name,
            requests_per_unit: limit.requests_per_unit,
            unit: Unit::from_number(limit.unit).map_or("UNKNOWN", Unit::name),
        };
        let reset = status.duration_until_reset;
        Self {
            code: code(status.code),
            current_limit: status.current_limit.as_ref().map(current),
            limit_remaining: status.limit_remaining,
            duration_until_reset: reset.map(|reset| format!("{}s", reset.seconds)),
        }
    }
}

fn json_struct(fields: &wire::Struct) -> Json {
    let fields = fields.fields.iter();
    let fields: Map<String, Json> = fields
        .map(|(key, value)| (key.clone(), json_value(value)))
        .collect();
    Json::Object(fields)
}

fn json_value(value: &wire::Value) -> Json {
    match &value.kind {
        None | Some(Kind::Null(_)) => Json::Null,
        // Whole numbers have no point, as protojson writes them.
        Some(Kind::Number(number)) => {
            let whole = format!("{number:.0}").parse::<i64>().ok();
            let exact = whole.filter(|whole| whole.to_string() == number.to_string());
            exact.map_or_else(|| Json::from(*number), Json::from)
        }
        Some(Kind::Text(text)) => Json::from(text.as_str()),
        Some(Kind::Truth(truth)) => Json::from(*truth),
        Some(Kind::Struct(fields)) => json_struct(fields),
        Some(Kind::List(list)) => list.values.iter().map(json_value).collect(),
    }
}
