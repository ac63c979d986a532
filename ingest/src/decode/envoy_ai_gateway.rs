//! Access log lines of Envoy AI Gateway 1.1, as JSON objects with flat keys
//! (<https://aigateway.envoyproxy.io/docs/capabilities/observability/accesslogs>).
//!
//! Invariant: what the gateway counts as input includes what the cache served and stored, its output
//! includes reasoning, for every provider; the parts taken out here are disjoint and sum to the
//! whole, or the line is rejected. Deliberately absent: lines of other formats, and Envoy's gRPC log.

use std::sync::Arc;

use chrono::DateTime;
use domain::event::{IdentitySecret, Outcome, UsageEvent};
use domain::ids::ModelId;
use domain::price::PriceBook;
use domain::reject::{Reason, Rejection};
use domain::time::UnixMs;

mod usage;

use usage::UsageFields;

use super::envelope::ENVELOPE_KEYS;
use super::object::{FieldId, FieldSet, Object, kind_of, quoted, whole_number};
use super::scan::Value;
use super::source::{LineFields, Source, id};
use super::{Decoded, Ignored};
use crate::source_config::{Attribute, SourceConfig};

/// Response flags of a stream that broke or was left before its end, short and long
/// (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>).
/// With a status below 400 the client saw the beginning of an answer and not its end.
const ABORT_FLAGS: [&str; 20] = [
    "DC",
    "DownstreamConnectionTermination",
    "DPE",
    "DownstreamProtocolError",
    "DR",
    "DownstreamRemoteReset",
    "DT",
    "DurationTimeout",
    "LR",
    "LocalReset",
    "SI",
    "StreamIdleTimeout",
    "UC",
    "UpstreamConnectionTermination",
    "UPE",
    "UpstreamProtocolError",
    "UR",
    "UpstreamRemoteReset",
    "UT",
    "UpstreamRequestTimeout",
];

/// Reads the lines of one source.
#[derive(Debug)]
pub(super) struct EnvoyAiGateway {
    fields: FieldSet,
    envelope: [FieldId; 2],
    line: LineFields,
    usage: UsageFields,
    start_time: FieldId,
    request_id: FieldId,
    response_code: FieldId,
    response_flags: FieldId,
    answered_model: FieldId,
    source: Source,
}

impl EnvoyAiGateway {
    /// Makes the decoder of a source whose configuration was validated.
    pub(super) fn new(config: &SourceConfig, book: Arc<PriceBook>, secret: IdentitySecret) -> Self {
        let mut fields = FieldSet::default();
        let envelope = ENVELOPE_KEYS.map(|key| fields.add(key));
        let source = Source::new(config, (book, secret), &[], &mut fields);
        let usage = UsageFields::new(config, &mut fields);
        let mut named =
            |attribute, key| fields.add(config.fields.get(&attribute).map_or(key, String::as_str));
        let start_time = named(Attribute::StartTime, "start_time");
        let request_id = named(Attribute::RequestId, "x-request-id");
        let response_code = named(Attribute::ResponseCode, "response_code");
        let response_flags = named(Attribute::ResponseFlags, "response_flags");
        let line = LineFields {
            model: named(Attribute::Model, "gen_ai.request.model"),
            provider: named(Attribute::Provider, "gen_ai.provider.name"),
            route: named(Attribute::Route, "route_name"),
        };
        let answered_model = named(Attribute::AnsweredModel, "gen_ai.response.model");
        Self {
            envelope,
            line,
            usage,
            start_time,
            request_id,
            response_code,
            response_flags,
            answered_model,
            source,
            fields,
        }
    }

    pub(super) const fn fields(&self) -> &FieldSet {
        &self.fields
    }

    pub(super) const fn envelope_fields(&self) -> [FieldId; 2] {
        self.envelope
    }

    pub(super) fn time_field(&self) -> &str {
        self.fields.name(self.start_time)
    }

    /// Says whether a line is of a request to a model: it names one, or has usage.
    pub(super) fn is_metered(&self, line: &Object<'_, '_>) -> bool {
        let is_set = |field| match line.value(field) {
            Some(Value::Text(text)) => !super::object::is_absent(text.raw()),
            Some(_) => true,
            None => false,
        };
        is_set(self.line.model) || self.usage.all().any(is_set)
    }

    /// Decodes one line; `bytes` are its own, trimmed.
    pub(super) fn decode<'a>(&'a self, line: &Object<'a, '_>, bytes: &[u8]) -> Decoded<'a> {
        if !self.is_metered(line) {
            return Decoded::Ignored(Ignored::NoModelRequest);
        }
        self.event(line, bytes)
            .map_or_else(Decoded::Rejected, Decoded::Event)
    }

    fn event<'a>(
        &'a self,
        line: &Object<'a, '_>,
        bytes: &[u8],
    ) -> Result<UsageEvent<'a>, Rejection> {
        let model = line.text(self.line.model)?.ok_or_else(|| {
            let detail = "is absent from a line with usage".to_owned();
            line.reject(Reason::MissingField, self.line.model, detail)
        })?;
        let (quantities, provenance) = self.usage.read(line)?;
        let start = self.start(line)?;
        let outcome = self.outcome(line)?;
        let dimensions = self.source.dimensions(line, self.line, model)?;
        let answered_model = id(line, self.answered_model, ModelId::new)?;
        let request_id = || Ok(line.text(self.request_id)?.unwrap_or_default());
        let identity = self
            .source
            .identity(line, bytes, start, &dimensions.tenant, request_id)?;
        Ok(UsageEvent {
            dimensions,
            answered_model,
            start,
            outcome,
            provenance,
            quantities,
            identity,
            payload: None,
        })
    }

    fn start(&self, line: &Object<'_, '_>) -> Result<UnixMs, Rejection> {
        let bad = |found: &str| {
            let detail = format!(
                "is {found}: neither RFC 3339 nor milliseconds since 1970, within 1970 to 9999"
            );
            line.reject(Reason::BadTime, self.start_time, detail)
        };
        match line.value(self.start_time) {
            Some(Value::Number(digits)) => epoch_ms(digits).ok_or_else(|| bad(&quoted(digits))),
            Some(Value::Text(_)) | None => match line.text(self.start_time)? {
                Some(text) => read_time(&text).ok_or_else(|| bad(&quoted(&text))),
                None => {
                    let detail = "is absent".to_owned();
                    Err(line.reject(Reason::MissingField, self.start_time, detail))
                }
            },
            Some(other) => {
                let detail = format!("is {}, not a time", kind_of(other));
                Err(line.reject(Reason::WrongType, self.start_time, detail))
            }
        }
    }

    /// Says what became of the request.
    ///
    /// | status | flags | outcome |
    /// | --- | --- | --- |
    /// | 401, 403, 429 | any | refused |
    /// | any other from 400 | any | failed |
    /// | 0 (the client left before the answer began) | any | aborted |
    /// | below 400, or absent | one of [`ABORT_FLAGS`] | aborted |
    /// | below 400, or absent | others, or none | succeeded |
    fn outcome(&self, line: &Object<'_, '_>) -> Result<Outcome, Rejection> {
        let status = line.quantity(self.response_code)?;
        let flags = line.text(self.response_flags)?;
        let is_abort = |flags: &str| flags.split(',').any(|flag| ABORT_FLAGS.contains(&flag));
        Ok(match status {
            Some(401 | 403 | 429) => Outcome::Refused,
            Some(400..) => Outcome::Failed,
            Some(0) => Outcome::Aborted,
            Some(_) | None if flags.as_deref().is_some_and(is_abort) => Outcome::Aborted,
            Some(_) | None => Outcome::Succeeded,
        })
    }
}

fn epoch_ms(digits: &str) -> Option<UnixMs> {
    UnixMs::new(i64::try_from(whole_number(digits)?).ok()?)
}

/// Reads a time as RFC 3339, cut to the millisecond, or as milliseconds since 1970 in digits.
fn read_time(text: &str) -> Option<UnixMs> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(instant) => UnixMs::from_utc(instant.to_utc()),
        Err(_) => epoch_ms(text),
    }
}
