//! The policy language as it is written: from these types come the reading of files, the JSON Schema
//! and the reference page.
//!
//! Invariant: every field that is read is documented, since both come from the same line. What a field
//! means beyond its form is checked in [`super::resolve`]. Deliberately absent: defaults that depend on
//! other fields; their text says them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// A named set of limits, and the requests that they hold for.
///
/// A file holds one policy, or several with `---` between them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Policy", deny_unknown_fields)]
pub struct PolicyText {
    /// Its name, unique among all policies in force. Part of its counters' identity: renaming a
    /// policy starts its counters anew.
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    pub name: String,
    /// What it is for, for people.
    pub description: Option<String>,
    /// Which requests it holds for; all of them where absent. Part of its counters' identity.
    #[serde(default, rename = "match")]
    pub matches: MatchText,
    /// Where it is attached: each attachment that fits a request applies all limits once more, with
    /// counters of its own, so that a limit of a backend and one of a consumer hold together. Absent:
    /// attached once, to whatever `match` fits.
    #[serde(default)]
    pub attachments: Vec<AttachmentText>,
    /// What a request may use; all of them must allow it, or none is charged.
    #[schemars(length(min = 1))]
    pub limits: Vec<LimitText>,
    /// What is decided while the numbers are older than tolerated: `allow` or `deny`, or a table with
    /// the tolerance. Absent: `allow`.
    #[serde(default)]
    pub on_unavailable: UnavailableText,
    /// What a refused request is answered.
    #[serde(default)]
    pub response: ResponseText,
}

/// One place that a policy is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Attachment", deny_unknown_fields)]
pub struct AttachmentText {
    /// Its name, unique within the policy. Part of its counters' identity.
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    pub name: String,
    /// Which requests pass here, of those that the policy's own `match` fits.
    #[serde(rename = "match")]
    pub matches: MatchText,
}

/// Conditions on a request; all that are written must hold. A condition on something that a request
/// does not carry does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename = "Match", deny_unknown_fields)]
pub struct MatchText {
    /// The tenant. Whatever is written here, counters are never shared between tenants.
    pub tenant: Option<TextMatch>,
    /// The application; `unattributed` where a request has none.
    pub app: Option<TextMatch>,
    /// The user.
    pub user: Option<TextMatch>,
    /// The session.
    pub session: Option<TextMatch>,
    /// The model that the client asked for.
    pub model: Option<TextMatch>,
    /// The provider.
    pub provider: Option<TextMatch>,
    /// The gateway's route.
    pub route: Option<TextMatch>,
    /// The method of HTTP, in capitals. Not for limits from the log.
    pub method: Option<TextMatch>,
    /// The host that was asked for, without its port. Not for limits from the log.
    pub host: Option<TextMatch>,
    /// The path, without the query. Not for limits from the log.
    pub path: Option<TextMatch>,
    /// The client's address: an address or a network, or a list of them. Not for limits from the log.
    pub source_address: Option<AddressMatch>,
    /// The address that was connected to: an address or a network, or a list of them. Not for limits
    /// from the log.
    pub destination_address: Option<AddressMatch>,
    /// Headers by name, in any case. Not for limits from the log.
    #[serde(default)]
    pub headers: BTreeMap<String, TextMatch>,
    /// A CEL expression that is true or false. One that fails does not hold.
    pub cel: Option<String>,
}

/// A condition on a text: the text itself, a list of texts of which it must be one, or a table with
/// one of the keys below.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "TextMatch", untagged)]
pub enum TextMatch {
    /// The text itself.
    Exact(String),
    /// One of these.
    OneOf(Vec<String>),
    /// By a pattern.
    Pattern(PatternText),
}

/// A condition on a text, by exactly one of these keys. All compare bytes: case matters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename = "Pattern", deny_unknown_fields)]
pub struct PatternText {
    /// The text itself.
    pub exact: Option<String>,
    /// What the text begins with.
    pub prefix: Option<String>,
    /// The whole text, where `*` stands for any characters and `?` for one.
    pub glob: Option<String>,
    /// A regular expression (RE2's syntax) that must fit somewhere in the text; write `^` and `$` to
    /// fit the whole.
    pub regex: Option<String>,
}

/// Addresses: one, or several of which one must fit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "AddressMatch", untagged)]
pub enum AddressMatch {
    /// An address such as `192.0.2.1`, or a network such as `10.0.0.0/8` or `2001:db8::/32`.
    One(String),
    /// One of these.
    OneOf(Vec<String>),
}

/// How much of something one key may use in a window.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Limit", deny_unknown_fields)]
pub struct LimitText {
    /// Its name, unique within the policy; answers and headers name it. Part of its counters'
    /// identity.
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    pub name: String,
    /// What it is for, for people.
    pub description: Option<String>,
    /// What is counted: `requests`, a standard meter (`input_uncached_tokens`, …), a sum
    /// (`input_tokens`, `output_tokens`, `total_tokens`), `cost`, or a table with a CEL expression.
    pub meter: MeterText,
    /// How much of it: a whole number; of cost a decimal number in quotes, in the installation's
    /// currency. Of a bucket either what `refill` brings or the `capacity`. Changing it keeps the
    /// counters.
    pub limit: ScalarText,
    /// What is counted separately. Absent or empty: everything that matches counts together, though
    /// never across tenants.
    #[serde(default)]
    pub per: Vec<KeyText>,
    /// The span of time that is counted over. Not for buckets, which refill.
    pub window: Option<WindowText>,
    /// How it is counted. Absent: `window`.
    #[serde(default)]
    pub algorithm: AlgorithmText,
    /// How a bucket refills; of buckets only.
    pub refill: Option<RefillText>,
    /// How much a full bucket holds, the greatest burst; of buckets only. Absent: `limit`. Changing it
    /// keeps the counters.
    pub capacity: Option<ScalarText>,
    /// What is counted from: `decision` as the gateway asks, `log` as usage is logged. Absent:
    /// `decision` for `requests` and for a CEL expression that reads no usage, else `log`.
    pub from: Option<CountedFromText>,
    /// What becomes of a request that lacks something of `per`. Absent: `shared`.
    #[serde(default)]
    pub missing_key: MissingKeyText,
    /// How strictly it holds. Absent: `soft`.
    #[serde(default)]
    pub enforce: EnforceText,
    /// Of `cost` only: what one unit of usage without a price counts as, a decimal number in quotes.
    /// Absent: such usage counts nothing and is reported as unpriced.
    pub unpriced_rate: Option<String>,
}

/// What a limit counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Meter", untagged)]
pub enum MeterText {
    /// By its name.
    Name(String),
    /// By an expression.
    Cel(CelText),
}

/// A CEL expression.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Cel", deny_unknown_fields)]
pub struct CelText {
    /// The expression: a whole number of at least 0 where it counts, a text where it is a key.
    pub cel: String,
}

/// A whole number, or a decimal number in quotes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Number", untagged)]
pub enum ScalarText {
    /// A whole number.
    Whole(i64),
    /// A decimal number in quotes.
    Decimal(String),
}

/// One thing that is counted separately: a name, or a table with one of the keys below.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Key", untagged)]
pub enum KeyText {
    /// A dimension of the request.
    Dimension(DimensionText),
    /// Something else.
    Other(OtherKeyText),
}

/// A dimension of a request that limits count separately by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename = "Dimension", rename_all = "snake_case")]
pub enum DimensionText {
    /// The tenant; always counted separately, written or not.
    Tenant,
    /// The application.
    App,
    /// The user.
    User,
    /// The session.
    Session,
    /// The model that the client asked for.
    Model,
    /// The provider.
    Provider,
    /// The gateway's route.
    Route,
}

/// A key of a limit by exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename = "OtherKey", deny_unknown_fields)]
pub struct OtherKeyText {
    /// A header's value, by the header's name in any case. Not for limits from the log.
    pub header: Option<String>,
    /// A text that is the same for all requests: it tells apart counters that would else be one.
    pub constant: Option<String>,
    /// The value of a CEL expression: a text, a whole number or a truth. One that fails is a missing
    /// key.
    pub cel: Option<String>,
}

/// A span of time, by exactly one of `calendar`, `fixed` and `sliding`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename = "Window", deny_unknown_fields)]
pub struct WindowText {
    /// A unit of the calendar, from its beginning in the time zone.
    pub calendar: Option<CalendarText>,
    /// Of a calendar window: the IANA time zone, such as `Europe/Berlin`. Absent: `UTC`.
    pub timezone: Option<String>,
    /// Of a week, month or year: the day that it begins on: of a week 1 (Monday) to 7, else 1 to 31,
    /// where a shorter month's last day stands in. Absent: 1.
    #[schemars(range(min = 1, max = 31))]
    pub anchor_day: Option<i64>,
    /// Of a year: the month that it begins in, 1 to 12. Absent: 1.
    #[schemars(range(min = 1, max = 12))]
    pub anchor_month: Option<i64>,
    /// Spans of this length one after the other, such as `60s`, from 1970 on.
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub fixed: Option<String>,
    /// The last so many seconds, at every instant, such as `60s`.
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub sliding: Option<String>,
}

/// A unit of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Calendar", rename_all = "snake_case")]
pub enum CalendarText {
    /// A minute.
    Minute,
    /// An hour of the zone's clock.
    Hour,
    /// A day of the zone.
    Day,
    /// A week, from Monday or `anchor_day`.
    Week,
    /// A month, from the first or `anchor_day`.
    Month,
    /// A year, from January, or from `anchor_month` and `anchor_day`.
    Year,
}

/// How use is counted against a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename = "Algorithm", rename_all = "snake_case")]
pub enum AlgorithmText {
    /// By the sum over `window`.
    #[default]
    Window,
    /// A bucket that `refill` fills up to `capacity`: short bursts pass. From decisions only.
    TokenBucket,
    /// A bucket that leaks at `refill`'s pace: use is spread evenly. From decisions only.
    LeakyBucket,
}

/// How a bucket refills.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Refill", deny_unknown_fields)]
pub struct RefillText {
    /// The time in which `amount` flows, evenly, such as `30s`.
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub every: String,
    /// How much flows in that time. Absent: `limit`. Changing it keeps the counters.
    pub amount: Option<ScalarText>,
}

/// What a limit counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "CountedFrom", rename_all = "snake_case")]
pub enum CountedFromText {
    /// From the gateway's asks and reports, by the enforcers. At once, but what was never asked for
    /// does not count.
    Decision,
    /// From the usage that gateways log, by the ledger. Exact to the last request, a moment later.
    /// Windows of at least 10 s, no buckets, and only what events carry: tenant, app, user, session,
    /// model, provider, route.
    Log,
}

/// What becomes of a request that lacks something that a limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename = "MissingKey", rename_all = "snake_case")]
pub enum MissingKeyText {
    /// All such requests count together.
    #[default]
    Shared,
    /// The limit does not hold for them.
    Skip,
    /// They are refused.
    Deny,
}

/// How strictly a limit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename = "Enforce", rename_all = "snake_case")]
pub enum EnforceText {
    /// Never exceeded, by lease. Comes in a later version and is refused until then.
    Hard,
    /// Refuses once it is reached; what is under way at that moment may exceed it.
    #[default]
    Soft,
    /// Counts and reports what it would refuse, and refuses nothing.
    Shadow,
}

/// What is decided while the numbers are too old: a word, or a table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "OnUnavailable", untagged)]
pub enum UnavailableText {
    /// What is decided, with the usual tolerance of 60 s.
    Verdict(VerdictText),
    /// With a tolerance.
    Table(UnavailableTable),
}

impl Default for UnavailableText {
    fn default() -> Self {
        Self::Verdict(VerdictText::Allow)
    }
}

/// What is decided while the numbers are too old.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "OnUnavailableTable", deny_unknown_fields)]
pub struct UnavailableTable {
    /// What is decided.
    pub decide: VerdictText,
    /// How old the numbers may be, such as `30s`. Absent: `60s`.
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub after: Option<String>,
}

/// What is decided without knowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Verdict", rename_all = "snake_case")]
pub enum VerdictText {
    /// By the numbers that are there; where there are none, the request passes.
    Allow,
    /// The request is refused.
    Deny,
}

/// What a refused request is answered, where the gateway's protocol leaves it to us.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Response", default, deny_unknown_fields)]
pub struct ResponseText {
    /// The status of HTTP. Absent: 429.
    #[schemars(range(min = 400, max = 599))]
    pub status: i64,
    /// A sentence for the client, beside limit, key, used, limit value and reset.
    pub message: Option<String>,
    /// The conventions by which headers tell limit, remaining and reset. Absent: `[ietf]`.
    pub headers: Vec<HeaderStyleText>,
    /// Whether a refusal tells by `Retry-After` when to come again. Absent: true.
    pub retry_after: bool,
    /// Further headers of a refusal, by name.
    pub extra_headers: BTreeMap<String, String>,
}

impl Default for ResponseText {
    fn default() -> Self {
        Self {
            status: 429,
            message: None,
            headers: vec![HeaderStyleText::Ietf],
            retry_after: true,
            extra_headers: BTreeMap::new(),
        }
    }
}

/// A convention for headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename = "HeaderStyle", rename_all = "snake_case")]
pub enum HeaderStyleText {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11).
    Ietf,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`, as the asking gateway writes them.
    XRatelimit,
    /// `x-ratelimit-limit-requests`, `-tokens` and so on, as `OpenAI` writes them.
    Openai,
}

/// Returns the JSON Schema of a policy, for editors and for the API.
#[must_use]
pub fn json_schema() -> String {
    format!("{:#}", schemars::schema_for!(PolicyText).to_value())
}
