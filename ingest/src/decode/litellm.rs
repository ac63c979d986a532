//! `StandardLoggingPayload`s of LiteLLM's proxy, as its generic API callback writes them
//! (<https://docs.litellm.ai/docs/proxy/logging_spec>).
//!
//! Invariant: `prompt_tokens` includes what the cache served and stored, `completion_tokens` includes
//! reasoning, for every provider; the parts taken out here are disjoint and sum to the whole, or the
//! event is rejected. What LiteLLM answered from its own cache is a request without tokens, since no
//! provider billed any. Deliberately absent: `response_cost`, for which the ledger has no place: it is
//! LiteLLM's float by LiteLLM's list.

use std::borrow::Cow;
use std::sync::Arc;

use domain::event::{IdentitySecret, Outcome, Provenance, UsageEvent};
use domain::ids::ModelId;
use domain::meter::{Meter, Quantities};
use domain::price::PriceBook;
use domain::reject::{Reason, Rejection};
use domain::time::UnixMs;

mod seconds;
mod usage;

use seconds::epoch_seconds;
use usage::UsageFields;

use super::envelope::ENVELOPE_KEYS;
use super::line::LineFormat;
use super::object::{FieldId, FieldSet, Object, kind_of, quoted};
use super::scan::Value;
use super::source::{LineFields, Source, checked};
use super::{Decoded, Ignored};
use crate::source_config::SourceConfig;

/// Whom LiteLLM authenticated, the widest first: who is charged where the source names no field. The
/// hash of a key is the last resort, since keys rotate.
const APPS: [&str; 4] = [
    "metadata.user_api_key_team_id",
    "metadata.user_api_key_team_alias",
    "metadata.user_api_key_alias",
    "metadata.user_api_key_hash",
];

/// Reads the payloads of one source.
#[derive(Debug)]
pub(super) struct LiteLlm {
    fields: FieldSet,
    envelope: [FieldId; 2],
    line: LineFields,
    usage: UsageFields,
    start_time: FieldId,
    call_type: FieldId,
    call_id: FieldId,
    id: FieldId,
    status: FieldId,
    cache_hit: FieldId,
    model: FieldId,
    deployed_model: FieldId,
    error_code: FieldId,
    error_class: FieldId,
    source: Source,
}

impl LiteLlm {
    /// Makes the decoder of a source whose configuration was validated.
    pub(super) fn new(config: &SourceConfig, book: Arc<PriceBook>, secret: IdentitySecret) -> Self {
        let mut fields = FieldSet::default();
        let envelope = ENVELOPE_KEYS.map(|key| fields.add(key));
        let source = Source::new(config, (book, secret), &APPS, &mut fields);
        let usage = UsageFields::new(&mut fields);
        Self {
            envelope,
            line: LineFields {
                model: fields.add("model_group"),
                provider: fields.add("custom_llm_provider"),
                route: fields.add("metadata.user_api_key_request_route"),
            },
            usage,
            start_time: fields.add("startTime"),
            call_type: fields.add("call_type"),
            call_id: fields.add("litellm_call_id"),
            id: fields.add("id"),
            status: fields.add("status"),
            cache_hit: fields.add("cache_hit"),
            model: fields.add("model"),
            deployed_model: fields.add("hidden_params.litellm_model_name"),
            error_code: fields.add("error_information.error_code"),
            error_class: fields.add("error_information.error_class"),
            source,
            fields,
        }
    }

    pub(super) fn time_field(&self) -> &str {
        self.fields.name(self.start_time)
    }

    fn event<'a>(
        &'a self,
        line: &Object<'a, '_>,
        text: &str,
    ) -> Result<Option<UsageEvent<'a>>, Rejection> {
        let outcome = self.outcome(line)?;
        let model = line.text(self.model)?;
        let asked = line.text(self.line.model)?;
        let Some(asked) = asked.or_else(|| model.clone()) else {
            return self.without_model(line);
        };
        let (quantities, provenance) = if self.is_from_own_cache(line)? {
            (request_alone(), Provenance::Reported)
        } else {
            self.usage.read(line)?
        };
        let start = self.start(line)?;
        let provider = line.text(self.line.provider)?;
        let deployed = line.text(self.deployed_model)?.or(model);
        let answered_model = deployed
            .map(|name| without_provider(name, provider.as_deref()))
            .map(|name| checked(line, self.model, name, ModelId::new))
            .transpose()?;
        let asked = without_provider(asked, provider.as_deref());
        let dimensions = self.source.dimensions(line, self.line, asked)?;
        let request_id = || self.request_id(line).map(Cow::Owned);
        let identity =
            self.source
                .identity(line, text.as_bytes(), start, &dimensions.tenant, request_id)?;
        Ok(Some(UsageEvent {
            dimensions,
            answered_model,
            start,
            outcome,
            provenance,
            quantities,
            identity,
            payload: None,
        }))
    }

    /// An event of a call to no model (a file, a list of models) uses none; one with tokens cannot be
    /// priced.
    fn without_model<'a>(
        &self,
        line: &Object<'_, '_>,
    ) -> Result<Option<UsageEvent<'a>>, Rejection> {
        let (_, provenance) = self.usage.read(line)?;
        if provenance == Provenance::Missing {
            return Ok(None);
        }
        let detail = "is absent from an event with usage, as is `model`".to_owned();
        Err(line.reject(Reason::MissingField, self.line.model, detail))
    }

    /// Says what became of the request.
    ///
    /// | `status` | `error_code`, `error_class` | outcome |
    /// | --- | --- | --- |
    /// | `success` | any | succeeded |
    /// | `failure` | 401, 403, 429, or a spent budget | refused |
    /// | `failure` | 499: the client left | aborted |
    /// | `failure` | any other, or none | failed |
    /// | absent | any | rejected `missing_field` |
    /// | anything else | any | rejected `unknown_value` |
    fn outcome(&self, line: &Object<'_, '_>) -> Result<Outcome, Rejection> {
        match line.text(self.status)?.as_deref() {
            Some("success") => Ok(Outcome::Succeeded),
            Some("failure") => Ok(self.failure(line)),
            Some(other) => {
                let detail = format!("is {}, neither \"success\" nor \"failure\"", quoted(other));
                Err(line.reject(Reason::UnknownValue, self.status, detail))
            }
            None => {
                let detail = "is absent: the event is no payload of LiteLLM's log".to_owned();
                Err(line.reject(Reason::MissingField, self.status, detail))
            }
        }
    }

    fn failure(&self, line: &Object<'_, '_>) -> Outcome {
        let written = |field| match line.value(field) {
            Some(Value::Text(text)) => Some(text.decode()),
            Some(Value::Number(digits)) => Some(Cow::Borrowed(digits)),
            Some(_) | None => None,
        };
        let class = written(self.error_class);
        match written(self.error_code).as_deref() {
            Some("401" | "403" | "429") => Outcome::Refused,
            Some("499") => Outcome::Aborted,
            Some(_) | None if class.as_deref() == Some("BudgetExceededError") => Outcome::Refused,
            Some(_) | None => Outcome::Failed,
        }
    }

    /// Says whether LiteLLM answered without asking a provider.
    fn is_from_own_cache(&self, line: &Object<'_, '_>) -> Result<bool, Rejection> {
        match line.value(self.cache_hit) {
            None => Ok(false),
            Some(Value::Bool(is_hit)) => Ok(is_hit),
            Some(other) => {
                let detail = format!("is {}, not a boolean", kind_of(other));
                Err(line.reject(Reason::WrongType, self.cache_hit, detail))
            }
        }
    }

    fn start(&self, line: &Object<'_, '_>) -> Result<UnixMs, Rejection> {
        let bad = |found: &str| {
            let detail = format!("is {found}: not seconds since 1970, within 1970 to 9999");
            line.reject(Reason::BadTime, self.start_time, detail)
        };
        let digits = match line.value(self.start_time) {
            Some(Value::Number(digits)) => Some(Cow::Borrowed(digits)),
            Some(Value::Text(_)) | None => line.text(self.start_time)?,
            Some(other) => {
                let detail = format!("is {}, not a time", kind_of(other));
                return Err(line.reject(Reason::WrongType, self.start_time, detail));
            }
        };
        let digits = digits.ok_or_else(|| {
            line.reject(
                Reason::MissingField,
                self.start_time,
                "is absent".to_owned(),
            )
        })?;
        epoch_seconds(&digits).ok_or_else(|| bad(&quoted(&digits)))
    }

    /// Joins both ids; the length of the first keeps them apart.
    fn request_id(&self, line: &Object<'_, '_>) -> Result<String, Rejection> {
        let call = line.text(self.call_id)?.unwrap_or_default();
        let id = line.text(self.id)?.unwrap_or_default();
        Ok(format!("{}:{call}{id}", call.len()))
    }
}

impl LineFormat for LiteLlm {
    fn fields(&self) -> &FieldSet {
        &self.fields
    }

    fn envelope_fields(&self) -> [FieldId; 2] {
        self.envelope
    }

    fn is_metered(&self, line: &Object<'_, '_>) -> bool {
        let is_there = |field| line.value(field).is_some();
        is_there(self.call_type) || is_there(self.status)
    }

    fn decode<'a>(&'a self, line: &Object<'a, '_>, text: &'a str) -> Decoded<'a> {
        match self.event(line, text) {
            Ok(Some(event)) => Decoded::Event(event),
            Ok(None) => Decoded::Ignored(Ignored::NoModelRequest),
            Err(rejection) => Decoded::Rejected(rejection),
        }
    }
}

fn request_alone() -> Quantities {
    let mut quantities = Quantities::default();
    quantities.set(Meter::Requests, 1);
    quantities
}

/// Takes the provider's name off a model's, where LiteLLM puts it: `openai/gpt-4o` of `openai`.
fn without_provider<'a>(model: Cow<'a, str>, provider: Option<&str>) -> Cow<'a, str> {
    let Some(provider) = provider else {
        return model;
    };
    let bare = |model: &str| -> Option<usize> {
        let rest = model.strip_prefix(provider)?.strip_prefix('/')?;
        (!rest.is_empty()).then(|| model.len() - rest.len())
    };
    match (bare(&model), model) {
        (None, model) => model,
        (Some(at), Cow::Borrowed(model)) => Cow::Borrowed(model.get(at..).unwrap_or(model)),
        (Some(at), Cow::Owned(mut model)) => {
            model.drain(..at);
            Cow::Owned(model)
        }
    }
}
