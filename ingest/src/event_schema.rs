//! Our own event, as producers write it: a CloudEvent 1.0 of type [`EVENT_TYPE`] whose data is one
//! request's usage.
//!
//! Invariant: these types make the published JSON Schema (`tollbook schema event`,
//! docs/tollbook-event.schema.json); a test holds the decoder's field names to theirs. Deliberately
//! absent: reading, see `decode::tollbook`, which also finds keys that occur twice.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The type of our events.
pub const EVENT_TYPE: &str = "tollbook.usage.v1";

/// One request's usage as a CloudEvent. Extension attributes are allowed and not read. The pair of
/// `source` and `id` names the event: the same pair again is a repeat and charged once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Tollbook usage event")]
pub struct Event {
    /// The version of CloudEvents.
    pub specversion: SpecVersion,
    /// What the event is.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Who wrote the event: 1 to 256 bytes.
    #[schemars(length(min = 1, max = 256))]
    pub source: String,
    /// The event's id, unique for its `source` for 35 days: 1 to 256 bytes.
    #[schemars(length(min = 1, max = 256))]
    pub id: String,
    /// When the request started, where `data.start` does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub time: Option<String>,
    /// What the event is about; not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The type of `data`: `application/json` or another that ends in `+json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// Where the schema of `data` is; not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataschema: Option<String>,
    /// What the request used.
    pub data: Usage,
}

/// The version of CloudEvents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SpecVersion {
    /// The only one.
    #[serde(rename = "1.0")]
    V1,
}

/// What the event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EventType {
    /// One request's usage.
    #[serde(rename = "tollbook.usage.v1")]
    UsageV1,
}

/// What one request used, and whose it is. An unknown field rejects the event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// The organisation; by default the source's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whose ledger is charged; by default `unattributed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The person or service behind the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The conversation or run that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The route that carried it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Who answered: a provider of the price book, for there to be a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The model that was asked for.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// The model that answered and chooses the rates; by default the one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priced_model: Option<String>,
    /// When the request started; by default the event's `time`. One of both must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub start: Option<String>,
    /// What became of the request; by default it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<EventOutcome>,
    /// What it used; without any, the request counts as unmeasured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meters: Option<EventMeters>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventOutcome {
    /// The upstream answered with success.
    Succeeded,
    /// Gateway or upstream refused it.
    Refused,
    /// It failed.
    Failed,
    /// The client went away, or the stream broke, before the end.
    Aborted,
}

/// What one request used. Disjoint: no token is in two of them. Meters of your own are not there yet:
/// an unknown one rejects the event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventMeters {
    /// Requests: an event is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1))]
    pub requests: Option<u64>,
    /// Input tokens that no cache served or stored, without audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992_u64))]
    pub input_uncached_tokens: Option<u64>,
    /// Input tokens read from the provider's prompt cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992_u64))]
    pub input_cache_read_tokens: Option<u64>,
    /// Input tokens written to the provider's cache for its shortest time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992_u64))]
    pub input_cache_write_tokens: Option<u64>,
    /// Input tokens written to the provider's cache for an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992_u64))]
    pub input_cache_write_1h_tokens: Option<u64>,
    /// Audio input, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992_u64))]
    pub input_audio_tokens: Option<u64>,
    /// Output tokens that the client sees as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992_u64))]
    pub output_text_tokens: Option<u64>,
    /// Output tokens spent on reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992_u64))]
    pub output_reasoning_tokens: Option<u64>,
    /// Audio output, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992_u64))]
    pub output_audio_tokens: Option<u64>,
    /// Images made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_992_u64))]
    pub images: Option<u64>,
}

/// Returns the JSON Schema of our event, as text that ends in a line break.
///
/// # Panics
///
/// Never: a schema is JSON.
#[must_use]
pub fn event_schema() -> String {
    let schema = schemars::schema_for!(Event);
    let text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
    format!("{text}\n")
}
