//! Our own events: CloudEvents 1.0 of type `tollbook.usage.v1`, in structured mode, or in the binary
//! mode of the Kafka binding.
//!
//! Invariant: an event is the same in either mode; the producer owns its id, so that two events are
//! one exactly where tenant, source, the `source` attribute and the id are the same. An unknown field
//! or meter rejects the event and names the nearest. Deliberately absent: the published schema, see
//! `event_schema`.

use std::sync::Arc;

use chrono::DateTime;
use domain::event::{
    Dimensions, Identity, IdentitySecret, Outcome, PayloadDigest, ProducerIdentity, Provenance,
    UsageEvent,
};
use domain::hash::Canonical;
use domain::ids::{AppId, IdError, ModelId, ProviderId, RouteId, SessionId, TenantId, UserId};
use domain::meter::{Meter, Quantities};
use domain::price::PriceBook;
use domain::reject::{Reason, Rejection};
use domain::time::UnixMs;

mod attributes;
mod strict;

#[cfg(test)]
pub(super) use attributes::ATTRIBUTES;
pub(super) use attributes::{Mode, mode_of};
#[cfg(test)]
pub(super) use strict::DATA_FIELDS;

use attributes::Attributes;
use strict::Members;

use super::Decoded;
use super::envelope::ENVELOPE_KEYS;
use super::line::LineFormat;
use super::object::{FieldId, FieldSet, Object, quoted};
use super::source::Source;
use crate::headers::Headers;
use crate::source_config::{Dedupe, SourceConfig};

/// Reads the events of one source.
#[derive(Debug)]
pub(super) struct Tollbook {
    fields: FieldSet,
    envelope: [FieldId; 2],
    specversion: FieldId,
    dedupe: Dedupe,
    name: String,
    tenant: String,
    source: Source,
}

impl Tollbook {
    /// Makes the decoder of a source whose configuration was validated.
    pub(super) fn new(config: &SourceConfig, book: Arc<PriceBook>, secret: IdentitySecret) -> Self {
        let mut fields = FieldSet::default();
        let envelope = ENVELOPE_KEYS.map(|key| fields.add(key));
        let specversion = fields.add("specversion");
        Self {
            envelope,
            specversion,
            dedupe: config.dedupe,
            name: config.name().to_owned(),
            tenant: config.tenant.clone(),
            source: Source::new(config, (book, secret), &[], &mut fields),
            fields,
        }
    }

    /// Decodes a record in binary mode: attributes in its headers, data in its value.
    pub(super) fn decode_binary<'a>(&'a self, headers: &'a Headers, data: &'a str) -> Decoded<'a> {
        let read = Attributes::of_headers(headers)
            .and_then(|attributes| self.event(&attributes, "", data.trim_ascii()));
        read.map_or_else(Decoded::Rejected, Decoded::Event)
    }

    /// Reads an event; `within` is what stands before the names of the data's fields.
    fn event<'a>(
        &'a self,
        attributes: &Attributes<'a>,
        within: &'static str,
        data: &'a str,
    ) -> Result<UsageEvent<'a>, Rejection> {
        attributes.check()?;
        let data = Members::of_data(within, data)?;
        let dimensions = self.dimensions(&data)?;
        let answered_model = data.id("priced_model", ModelId::new)?;
        let start = start_of(attributes, &data)?;
        let outcome = outcome_of(&data)?;
        let (quantities, provenance) = quantities_of(&data)?;
        let identity = (self.dedupe == Dedupe::On).then(|| {
            Identity::of_producer(&ProducerIdentity {
                tenant: dimensions.tenant.as_str(),
                source: &self.name,
                producer: attributes.source(),
                id: attributes.id(),
            })
        });
        let mut event = UsageEvent {
            dimensions,
            answered_model,
            start,
            outcome,
            provenance,
            quantities,
            identity,
            payload: None,
        };
        event.payload = Some(digest_of(&event));
        Ok(event)
    }

    fn dimensions<'a>(&'a self, data: &Members<'a>) -> Result<Dimensions<'a>, Rejection> {
        let model = data.id("model", ModelId::new)?;
        let tenant = match data.id("tenant", TenantId::new)? {
            Some(tenant) => tenant,
            None => TenantId::new(self.tenant.as_str()).map_err(|error| bad_tenant(&error))?,
        };
        Ok(Dimensions {
            tenant,
            app: data
                .id("app", AppId::new)?
                .unwrap_or_else(AppId::unattributed),
            user: data.id("user", UserId::new)?,
            session: data.id("session", SessionId::new)?,
            route: data.id("route", |route| RouteId::new(self.source.route(route)))?,
            provider: data.id("provider", |name| {
                ProviderId::new(self.source.provider(name))
            })?,
            model: model.ok_or_else(|| data.missing("model"))?,
        })
    }
}

/// The source's own tenant was checked with its configuration.
fn bad_tenant(error: &IdError) -> Rejection {
    Rejection::new(Reason::BadId, "tenant", error.to_string())
}

fn start_of(attributes: &Attributes<'_>, data: &Members<'_>) -> Result<UnixMs, Rejection> {
    let of_data = data.text("start")?;
    let (field, text) = match (&of_data, attributes.time()) {
        (Some(start), _) => (data.name("start"), start.as_ref()),
        (None, Some(time)) => (attributes.name("time"), time),
        (None, None) => {
            let detail = "is absent, as is the event's `time`";
            return Err(Rejection::new(
                Reason::MissingField,
                &data.name("start"),
                detail,
            ));
        }
    };
    let read = DateTime::parse_from_rfc3339(text).ok();
    let start = read.and_then(|instant| UnixMs::from_utc(instant.to_utc()));
    start.ok_or_else(|| {
        let detail = format!("is {}: not RFC 3339 within 1970 to 9999", quoted(text));
        Rejection::new(Reason::BadTime, &field, detail)
    })
}

fn outcome_of(data: &Members<'_>) -> Result<Outcome, Rejection> {
    match data.text("outcome")?.as_deref() {
        None | Some("succeeded") => Ok(Outcome::Succeeded),
        Some("refused") => Ok(Outcome::Refused),
        Some("failed") => Ok(Outcome::Failed),
        Some("aborted") => Ok(Outcome::Aborted),
        Some(other) => {
            let other = quoted(other);
            let detail = format!("is {other}, none of succeeded, refused, failed, aborted");
            Err(Rejection::new(
                Reason::UnknownValue,
                &data.name("outcome"),
                detail,
            ))
        }
    }
}

/// Reads the meters; `requests` is 1, said or not.
fn quantities_of(data: &Members<'_>) -> Result<(Quantities, Provenance), Rejection> {
    let mut quantities = Quantities::default();
    let mut provenance = Provenance::Missing;
    if let Some(meters) = data.meters()? {
        for meter in Meter::ALL {
            let Some(quantity) = meters.quantity(meter.name())? else {
                continue;
            };
            if meter == Meter::Requests && quantity != 1 {
                let detail = format!("is {quantity}, but an event is one request");
                let field = meters.name(meter.name());
                return Err(Rejection::new(Reason::Inconsistent, &field, detail));
            }
            if meter != Meter::Requests {
                provenance = Provenance::Reported;
            }
            quantities.set(meter, quantity);
        }
    }
    quantities.set(Meter::Requests, 1);
    Ok((quantities, provenance))
}

/// Hashes what an event says, whatever mode and order it says it in.
fn digest_of(event: &UsageEvent<'_>) -> PayloadDigest {
    let Dimensions {
        tenant,
        app,
        user,
        session,
        route,
        provider,
        model,
    } = &event.dimensions;
    let answered = event.answered_model.as_ref().map(ModelId::as_str);
    let mut canonical = Canonical::new("usage-payload/1");
    for text in [
        Some(tenant.as_str()),
        Some(app.as_str()),
        user.as_ref().map(UserId::as_str),
        session.as_ref().map(SessionId::as_str),
        route.as_ref().map(RouteId::as_str),
        provider.as_ref().map(ProviderId::as_str),
        Some(model.as_str()),
        answered,
    ] {
        canonical
            .present(text.is_some())
            .text(text.unwrap_or_default());
    }
    canonical.signed(event.start.get());
    canonical.unsigned(match event.outcome {
        Outcome::Succeeded => 0,
        Outcome::Refused => 1,
        Outcome::Failed => 2,
        Outcome::Aborted => 3,
    });
    for quantity in event.quantities.as_array() {
        canonical.unsigned(*quantity);
    }
    let [
        first,
        second,
        third,
        fourth,
        fifth,
        sixth,
        seventh,
        eighth,
        ..,
    ] = canonical.finish128().to_bytes();
    PayloadDigest(u64::from_be_bytes([
        first, second, third, fourth, fifth, sixth, seventh, eighth,
    ]))
}

/// Writes a record in binary mode as the one object that it is in structured mode, so that what is
/// kept of a rejected one is all of it and can be read again. Bytes that are no text are kept as they
/// are, in a form that no event may have: replacing them would make another event, which could pass.
/// So is the data of a record whose headers were too many, which lacks some of them.
pub(super) fn as_structured(headers: &Headers, data: &[u8]) -> String {
    let members = headers.iter().filter_map(|(name, value)| {
        let attribute = quote(attributes::attribute_of(name)?);
        Some(match std::str::from_utf8(value) {
            Ok(value) => format!("{attribute}:{}", quote(value)),
            Err(_) => format!("{attribute}:{{\"base64\":\"{}\"}}", base64(value)),
        })
    });
    // Without a version the object could be taken for another format's.
    let is_unsaid = headers.too_many().is_some() && headers.all("ce_specversion").next().is_none();
    let version = is_unsaid.then(|| "\"specversion\":null".to_owned());
    let data = data.trim_ascii();
    let data = match headers.too_many() {
        None => data_member(data),
        Some(_) => base64_member(data),
    };
    let members: Vec<String> = members.chain(version).chain([data]).collect();
    format!("{{{}}}", members.join(","))
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes the data: as it is where it is JSON, else as a string, else as its bytes.
fn data_member(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(json) if super::scan::Scanner::read_value(json).is_ok() => format!("\"data\":{json}"),
        Ok(text) => format!("\"data\":{}", quote(text)),
        Err(_) => base64_member(data),
    }
}

fn base64_member(data: &[u8]) -> String {
    format!("\"data_base64\":\"{}\"", base64(data))
}

/// Writes bytes in the base64 of RFC 4648, which CloudEvents have for data that is no text.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = usize::try_from((bits >> shift) & 0x3f).unwrap_or(0);
            let digit = DIGITS.get(digit).copied().unwrap_or(b'=');
            // A group of n bytes has n + 1 digits.
            text.push(char::from(if place <= group.len() { digit } else { b'=' }));
        }
    }
    text
}

impl LineFormat for Tollbook {
    fn fields(&self) -> &FieldSet {
        &self.fields
    }

    fn envelope_fields(&self) -> [FieldId; 2] {
        self.envelope
    }

    fn is_metered(&self, line: &Object<'_, '_>) -> bool {
        line.is_named(self.specversion)
    }

    // An extension attribute may have the name of an envelope's field.
    fn is_never_envelope(&self, outer: &Object<'_, '_>) -> bool {
        outer.is_named(self.specversion)
    }

    fn decode<'a>(&'a self, _line: &Object<'a, '_>, text: &'a str) -> Decoded<'a> {
        let read = Attributes::of_object(text)
            .and_then(|(attributes, data)| self.event(&attributes, "data.", data));
        read.map_or_else(Decoded::Rejected, Decoded::Event)
    }
}
