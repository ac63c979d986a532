//! Access log lines of Envoy AI Gateway 1.1, as JSON objects with flat keys
//! (<https://aigateway.envoyproxy.io/docs/capabilities/observability/accesslogs>).
//!
//! Invariant: what the gateway counts as input includes what the cache served and stored, its output
//! includes reasoning, for every provider; the parts taken out here are disjoint and sum to the
//! whole, or the line is rejected. Deliberately absent: lines of other formats, and Envoy's gRPC log.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use chrono::DateTime;
use domain::event::{Dimensions, Identity, LogIdentity, Outcome, UsageEvent};
use domain::hash::{Canonical, Hash128};
use domain::ids::{AppId, IdError, ModelId, ProviderId, RouteId, SessionId, TenantId, UserId};
use domain::price::PriceBook;
use domain::reject::{Reason, Rejection};
use domain::time::UnixMs;

mod usage;

use usage::UsageFields;

use super::envelope::ENVELOPE_KEYS;
use super::object::{FieldId, FieldSet, Object, kind_of, quoted, whole_number};
use super::scan::Value;
use super::{Decoded, Ignored};
use crate::source_config::{Attribute, Dedupe, SourceConfig};

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
    dimensions: DimensionFields,
    usage: UsageFields,
    start_time: FieldId,
    request_id: FieldId,
    response_code: FieldId,
    response_flags: FieldId,
    /// The fields that stand for the line in its identity; none: all of its bytes.
    identity: Vec<FieldId>,
    dedupe: Dedupe,
    source: String,
    tenant: String,
    providers: HashMap<String, String>,
    routes: HashMap<String, String>,
    book: Arc<PriceBook>,
}

#[derive(Debug)]
struct DimensionFields {
    tenant: Option<FieldId>,
    app: Option<FieldId>,
    user: Option<FieldId>,
    session: Option<FieldId>,
    route: FieldId,
    provider: FieldId,
    model: FieldId,
    answered_model: FieldId,
}

impl EnvoyAiGateway {
    /// Makes the decoder of a source whose configuration was validated.
    pub(super) fn new(config: &SourceConfig, book: Arc<PriceBook>) -> Self {
        let mut fields = FieldSet::default();
        let envelope = ENVELOPE_KEYS.map(|key| fields.add(key));
        let dimensions = DimensionFields::new(config, &mut fields);
        let usage = UsageFields::new(config, &mut fields);
        let mut named =
            |attribute, key| fields.add(config.fields.get(&attribute).map_or(key, String::as_str));
        let start_time = named(Attribute::StartTime, "start_time");
        let request_id = named(Attribute::RequestId, "x-request-id");
        let response_code = named(Attribute::ResponseCode, "response_code");
        let response_flags = named(Attribute::ResponseFlags, "response_flags");
        let identity = config
            .identity
            .iter()
            .map(|field| fields.add(field))
            .collect();
        let owned = |names: &std::collections::BTreeMap<String, String>| {
            names
                .iter()
                .map(|(logged, ours)| (logged.clone(), ours.clone()))
                .collect()
        };
        Self {
            envelope,
            dimensions,
            usage,
            start_time,
            request_id,
            response_code,
            response_flags,
            identity,
            dedupe: config.dedupe,
            source: config.name().to_owned(),
            tenant: config.tenant.clone(),
            providers: owned(&config.providers),
            routes: owned(&config.routes),
            book,
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
        is_set(self.dimensions.model) || self.usage.all().any(is_set)
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
        let model = line.text(self.dimensions.model)?.ok_or_else(|| {
            let detail = "is absent from a line with usage".to_owned();
            line.reject(Reason::MissingField, self.dimensions.model, detail)
        })?;
        let (quantities, provenance) = self.usage.read(line)?;
        let start = self.start(line)?;
        let outcome = self.outcome(line)?;
        let dimensions = self.read_dimensions(line, model)?;
        let answered_model = id(line, self.dimensions.answered_model, ModelId::new)?;
        let identity = match self.dedupe {
            Dedupe::On => Some(self.identity(line, bytes, start, &dimensions.tenant)?),
            Dedupe::Off => None,
        };
        Ok(UsageEvent {
            dimensions,
            answered_model,
            start,
            outcome,
            provenance,
            quantities,
            identity,
        })
    }

    fn read_dimensions<'a>(
        &'a self,
        line: &Object<'a, '_>,
        model: Cow<'a, str>,
    ) -> Result<Dimensions<'a>, Rejection> {
        let fields = &self.dimensions;
        let optional = |field: Option<FieldId>| match field {
            Some(field) => Ok(line.text(field)?.map(|text| (field, text))),
            None => Ok(None),
        };
        let tenant = match optional(fields.tenant)? {
            Some((field, text)) => checked(line, field, text, TenantId::new)?,
            None => checked(
                line,
                fields.model,
                Cow::Borrowed(self.tenant.as_str()),
                TenantId::new,
            )?,
        };
        let app = match optional(fields.app)? {
            Some((field, text)) => checked(line, field, text, AppId::new)?,
            None => AppId::unattributed(),
        };
        let user = optional(fields.user)?
            .map(|(field, text)| checked(line, field, text, UserId::new))
            .transpose()?;
        let session = optional(fields.session)?
            .map(|(field, text)| checked(line, field, text, SessionId::new))
            .transpose()?;
        let route = line
            .text(fields.route)?
            .map(|logged| {
                let route = mapped(&self.routes, &logged).unwrap_or(logged);
                checked(line, fields.route, route, RouteId::new)
            })
            .transpose()?;
        let provider = line
            .text(fields.provider)?
            .map(|logged| {
                checked(
                    line,
                    fields.provider,
                    self.provider(logged),
                    ProviderId::new,
                )
            })
            .transpose()?;
        let model = checked(line, fields.model, model, ModelId::new)?;
        Ok(Dimensions {
            tenant,
            app,
            user,
            session,
            route,
            provider,
            model,
        })
    }

    /// Names the provider: as configured, else the last `/`-segment that the price book knows, else
    /// the whole logged name, which is the gateway's path to a backend.
    fn provider<'a>(&'a self, logged: Cow<'a, str>) -> Cow<'a, str> {
        if let Some(configured) = mapped(&self.providers, &logged) {
            return configured;
        }
        match logged {
            Cow::Borrowed(logged) => Cow::Borrowed(self.known_segment(logged).unwrap_or(logged)),
            Cow::Owned(logged) => Cow::Owned(
                self.known_segment(&logged)
                    .map(str::to_owned)
                    .unwrap_or(logged),
            ),
        }
    }

    fn known_segment<'l>(&self, logged: &'l str) -> Option<&'l str> {
        // A name too long for an id is rejected whatever its segments are.
        let is_short = logged.len() <= domain::ids::ID_BYTES_MAX;
        is_short.then(|| {
            logged
                .rsplit('/')
                .find(|segment| self.book.knows_provider(segment))
        })?
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

    fn identity(
        &self,
        line: &Object<'_, '_>,
        bytes: &[u8],
        start: UnixMs,
        tenant: &TenantId<'_>,
    ) -> Result<Identity, Rejection> {
        let request_id = line.text(self.request_id)?.unwrap_or_default();
        let digest = match self.identity.as_slice() {
            [] => Hash128::of(bytes),
            fields => self.digest_of(fields, line)?,
        };
        Ok(Identity::of_log_line(&LogIdentity {
            tenant: tenant.as_str(),
            source: &self.source,
            request_id: &request_id,
            start,
            digest,
        }))
    }

    /// Hashes the configured fields' values. A line with none of them is rejected: all such lines
    /// of a millisecond would count as one.
    fn digest_of(&self, fields: &[FieldId], line: &Object<'_, '_>) -> Result<Hash128, Rejection> {
        let mut canonical = Canonical::new("identity-fields/1");
        let mut first_absent = None;
        let mut is_any_present = false;
        for field in fields {
            let value = line.value(*field);
            canonical.present(value.is_some());
            match value {
                None | Some(Value::Null) => {
                    first_absent = first_absent.or(Some(*field));
                    continue;
                }
                Some(Value::Text(text)) => {
                    canonical.text(&text.decode());
                }
                Some(Value::Number(raw) | Value::Object(raw) | Value::Array(raw)) => {
                    canonical.text(raw);
                }
                Some(Value::Bool(is_true)) => {
                    canonical.present(is_true);
                }
            }
            is_any_present = true;
        }
        match first_absent {
            Some(field) if !is_any_present => {
                let detail = "is absent, as are all identity fields".to_owned();
                Err(line.reject(Reason::MissingField, field, detail))
            }
            Some(_) | None => Ok(canonical.finish128()),
        }
    }
}

impl DimensionFields {
    fn new(config: &SourceConfig, fields: &mut FieldSet) -> Self {
        let tenant = config.tenant_field.as_ref().map(|name| fields.add(name));
        let app = config.app.as_ref().map(|name| fields.add(name));
        let user = config.user.as_ref().map(|name| fields.add(name));
        let session = config.session.as_ref().map(|name| fields.add(name));
        let mut named =
            |attribute, key| fields.add(config.fields.get(&attribute).map_or(key, String::as_str));
        Self {
            tenant,
            app,
            user,
            session,
            route: named(Attribute::Route, "route_name"),
            provider: named(Attribute::Provider, "gen_ai.provider.name"),
            model: named(Attribute::Model, "gen_ai.request.model"),
            answered_model: named(Attribute::AnsweredModel, "gen_ai.response.model"),
        }
    }
}

fn id<'a, T>(
    line: &Object<'a, '_>,
    field: FieldId,
    make: impl FnOnce(Cow<'a, str>) -> Result<T, IdError>,
) -> Result<Option<T>, Rejection> {
    line.text(field)?
        .map(|text| checked(line, field, text, make))
        .transpose()
}

fn checked<'a, T>(
    line: &Object<'_, '_>,
    field: FieldId,
    text: Cow<'a, str>,
    make: impl FnOnce(Cow<'a, str>) -> Result<T, IdError>,
) -> Result<T, Rejection> {
    make(text).map_err(|error| line.reject(Reason::BadId, field, error.to_string()))
}

fn mapped<'m>(names: &'m HashMap<String, String>, logged: &str) -> Option<Cow<'m, str>> {
    if names.is_empty() {
        return None;
    }
    names.get(logged).map(|ours| Cow::Borrowed(ours.as_str()))
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
