//! What a source of usage events is: its topic, its format, and which fields of its messages say what.
//!
//! Invariant: a configuration that passed [`SourceConfig::validate`] makes a decoder. Deliberately
//! absent: where it comes from (the configuration file, or the version stored in Postgres), and
//! brokers and groups, which all sources share.

use std::collections::{BTreeMap, BTreeSet};

use domain::ids::check_id;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The greatest length of a Kafka topic's name (org.apache.kafka.common.internals.Topic).
const TOPIC_CHARS_MAX: usize = 249;

/// One source: a Kafka topic whose messages a gateway wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The name under which the ledger knows this source; by default the topic. It is part of every
    /// event's identity and must never change.
    #[serde(default)]
    pub name: Option<String>,
    /// The Kafka topic.
    pub topic: String,
    /// How its messages are read.
    pub format: Format,
    /// The message's field that names the application to charge. An event without it is charged to
    /// `unattributed`. An exact key is looked for first, else a path such as `request_tags.0`.
    #[serde(default)]
    pub app: Option<String>,
    /// The message's field that names the application's user; none by default.
    #[serde(default)]
    pub user: Option<String>,
    /// The message's field that names the session or conversation; none by default.
    #[serde(default)]
    pub session: Option<String>,
    /// The tenant of all events, or of those that `tenant_field` names none for.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// The message's field that names the tenant; none by default.
    #[serde(default)]
    pub tenant_field: Option<String>,
    /// Fields of the message that have other names than the format's own.
    #[serde(default)]
    pub fields: BTreeMap<Attribute, String>,
    /// The fields whose values tell a repeated line from another one, instead of all of the line's
    /// bytes: for shippers that add fields of their own to each try.
    #[serde(default)]
    pub identity: Vec<String>,
    /// Whether repeated lines are counted once.
    #[serde(default)]
    pub dedupe: Dedupe,
    /// Where to begin in a partition that was never read.
    #[serde(default)]
    pub start: Start,
    /// Providers by their logged names; without an entry the last `/`-segment that the price book
    /// knows is the provider, else the whole logged name.
    #[serde(default)]
    pub providers: BTreeMap<String, String>,
    /// Routes by their logged names; without an entry the route is as logged.
    #[serde(default)]
    pub routes: BTreeMap<String, String>,
}

/// How a source's messages are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Access log lines of Envoy AI Gateway, as JSON.
    EnvoyAiGateway,
    /// LiteLLM's `StandardLoggingPayload`, single or in arrays.
    Litellm,
    /// Tollbook's own CloudEvents, in structured or binary mode.
    Tollbook,
    /// Each event is one of the above, recognised by its shape.
    Auto,
}

impl Format {
    /// Says whether records of the format may say something in their headers.
    #[must_use]
    pub const fn reads_headers(self) -> bool {
        matches!(self, Self::Tollbook | Self::Auto)
    }
}

/// Whether repeated lines are counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dedupe {
    /// A repeat is counted as a duplicate and charged nothing.
    #[default]
    On,
    /// Every line is charged, repeats too.
    Off,
}

/// Where to begin in a partition that was never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// At the first record that the log still holds.
    #[default]
    Earliest,
    /// At the end; what the log held before is never charged.
    Latest,
}

/// What a field of a message can say.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// When the request started: RFC 3339, or milliseconds since 1970.
    StartTime,
    /// The model that the client asked for.
    Model,
    /// The model that answered.
    AnsweredModel,
    /// Who answered.
    Provider,
    /// The gateway's route.
    Route,
    /// The request's id.
    RequestId,
    /// The HTTP status.
    ResponseCode,
    /// Envoy's response flags.
    ResponseFlags,
    /// All input tokens.
    InputTokens,
    /// Input tokens read from the provider's cache; part of the input tokens.
    InputCacheReadTokens,
    /// Input tokens written to the provider's cache; part of the input tokens.
    InputCacheWriteTokens,
    /// Input tokens written to the provider's cache for an hour; part of those written.
    #[serde(rename = "input_cache_write_1h_tokens")]
    InputCacheWrite1hTokens,
    /// Audio input tokens; part of the input tokens.
    InputAudioTokens,
    /// All output tokens.
    OutputTokens,
    /// Output tokens spent on reasoning; part of the output tokens.
    OutputReasoningTokens,
    /// Audio output tokens; part of the output tokens.
    OutputAudioTokens,
    /// Input and output tokens together; checked against their sum.
    TotalTokens,
    /// Images made.
    Images,
}

/// What is wrong with a source's configuration: always the operator's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceConfigError {
    /// A setting holds a value that cannot work.
    #[error("source \"{source_name}\": `{key}` {problem}; {cure}")]
    Setting {
        /// The source, by its name.
        source_name: String,
        /// The setting's key.
        key: String,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
        /// What to do.
        cure: &'static str,
    },
    /// Two sources claim the same name or topic.
    #[error(
        "two sources have the {key} \"{value}\": its events would count twice; \
         leave one of them, or give each its own {key}"
    )]
    Twice {
        /// `name` or `topic`.
        key: &'static str,
        /// What both have.
        value: String,
    },
    /// Stored text is not a list of sources.
    #[error("the stored source configuration cannot be read: {0}")]
    Stored(String),
}

fn default_tenant() -> String {
    "default".to_owned()
}

impl SourceConfig {
    /// Makes the configuration of a topic with all else by default.
    #[must_use]
    pub fn new(topic: impl Into<String>, format: Format) -> Self {
        Self {
            name: None,
            topic: topic.into(),
            format,
            app: None,
            user: None,
            session: None,
            tenant: default_tenant(),
            tenant_field: None,
            fields: BTreeMap::new(),
            identity: Vec::new(),
            dedupe: Dedupe::On,
            start: Start::Earliest,
            providers: BTreeMap::new(),
            routes: BTreeMap::new(),
        }
    }

    /// Returns the name under which the ledger knows this source.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.topic)
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`SourceConfigError::Setting`] for the first setting that cannot work; the caller refuses to
    /// start.
    pub fn validate(&self) -> Result<(), SourceConfigError> {
        self.check_topic()?;
        let checked_id = |key: &str, text: &str| {
            check_id(text).map_err(|error| {
                self.setting(key, error.to_string(), "write 1 to 256 bytes without NUL")
            })
        };
        checked_id("name", self.name())?;
        checked_id("tenant", &self.tenant)?;
        for (key, names) in [("providers", &self.providers), ("routes", &self.routes)] {
            for (logged, ours) in names {
                checked_id(&format!("{key}.{logged}"), ours)?;
            }
        }
        let named = [
            ("app", &self.app),
            ("user", &self.user),
            ("session", &self.session),
            ("tenant_field", &self.tenant_field),
        ];
        let named = named
            .into_iter()
            .filter_map(|(key, field)| Some((key, field.as_ref()?)));
        let identity = self.identity.iter().map(|field| ("identity", field));
        let fields = self.fields.values().map(|field| ("fields", field));
        for (key, field) in named.chain(identity).chain(fields) {
            if field.is_empty() {
                let cure = "name a field of the message, or leave the setting out";
                return Err(self.setting(key, "names a field with an empty name".to_owned(), cure));
            }
        }
        self.check_fields()
    }

    /// Settings that name fields are for formats that leave their fields to their users.
    fn check_fields(&self) -> Result<(), SourceConfigError> {
        if self.format != Format::EnvoyAiGateway && !self.fields.is_empty() {
            let problem = "renames fields of a format whose names are fixed".to_owned();
            return Err(self.setting("fields", problem, "remove it, or read another format"));
        }
        if self.format != Format::Tollbook {
            return Ok(());
        }
        let named = [
            ("app", self.app.is_some()),
            ("user", self.user.is_some()),
            ("session", self.session.is_some()),
            ("tenant_field", self.tenant_field.is_some()),
            ("identity", !self.identity.is_empty()),
        ];
        match named.into_iter().find(|(_, is_set)| *is_set) {
            None => Ok(()),
            Some((key, _)) => {
                let problem = "names a field, but an event of the format says it itself".to_owned();
                Err(self.setting(key, problem, "remove it"))
            }
        }
    }

    fn check_topic(&self) -> Result<(), SourceConfigError> {
        let is_legal = |character: char| {
            character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
        };
        let is_name = !self.topic.is_empty()
            && self.topic.len() <= TOPIC_CHARS_MAX
            && self.topic.chars().all(is_legal)
            && !matches!(self.topic.as_str(), "." | "..");
        if is_name {
            return Ok(());
        }
        let problem = format!(
            "\"{}\" is no name of a Kafka topic",
            self.topic.escape_debug()
        );
        Err(self.setting(
            "topic",
            problem,
            "use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'",
        ))
    }

    fn setting(&self, key: &str, problem: String, cure: &'static str) -> SourceConfigError {
        let source_name = self.name().escape_debug().to_string();
        SourceConfigError::Setting {
            source_name,
            key: key.to_owned(),
            problem,
            cure,
        }
    }
}

/// Checks each source and that no two share a name or a topic.
///
/// # Errors
///
/// The first [`SourceConfigError`] found; the caller refuses to start.
pub fn validate_all(sources: &[SourceConfig]) -> Result<(), SourceConfigError> {
    let mut names = BTreeSet::new();
    let mut topics = BTreeSet::new();
    for source in sources {
        source.validate()?;
        if !names.insert(source.name()) {
            return Err(SourceConfigError::Twice {
                key: "name",
                value: source.name().to_owned(),
            });
        }
        if !topics.insert(source.topic.as_str()) {
            return Err(SourceConfigError::Twice {
                key: "topic",
                value: source.topic.clone(),
            });
        }
    }
    Ok(())
}

/// Returns the one text of a set of sources: JSON, sources by name, keys in a fixed order. Equal sets
/// have equal texts, whatever the order in the file.
///
/// # Panics
///
/// Never: the sources hold strings, lists and maps by strings only, all of which JSON can write.
#[must_use]
pub fn to_canonical(sources: &[SourceConfig]) -> String {
    let mut sorted: Vec<SourceConfig> = sources.to_vec();
    for source in &mut sorted {
        source.name = Some(source.name().to_owned());
    }
    sorted.sort_by(|left, right| left.name.cmp(&right.name));
    serde_json::to_string(&sorted).expect("strings, lists and maps by strings are JSON")
}

/// Reads what [`to_canonical`] wrote.
///
/// # Errors
///
/// [`SourceConfigError::Stored`] where the text is something else: it was tampered with, or a newer
/// release wrote it; the caller stops.
pub fn from_canonical(text: &str) -> Result<Vec<SourceConfig>, SourceConfigError> {
    serde_json::from_str(text).map_err(|error| SourceConfigError::Stored(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SourceConfig {
        SourceConfig::new("usage.envoy", Format::EnvoyAiGateway)
    }

    fn check(change: impl FnOnce(&mut SourceConfig), text: &str) {
        let mut broken = source();
        change(&mut broken);
        let error = broken.validate().expect_err(text).to_string();
        assert!(
            error.contains(text) && error.contains("; "),
            "{error} does not say {text}"
        );
    }

    #[test]
    fn settings_that_cannot_work_are_named_with_their_cure() {
        let map = || BTreeMap::from([("logged".to_owned(), String::new())]);
        check(
            |broken| broken.topic.clear(),
            "`topic` \"\" is no name of a Kafka topic",
        );
        check(
            |broken| broken.topic = "a b".to_owned(),
            "`topic` \"a b\" is no name",
        );
        check(
            |broken| broken.topic = "t".repeat(250),
            "is no name of a Kafka topic",
        );
        check(
            |broken| broken.name = Some(String::new()),
            "`name` is empty",
        );
        check(
            |broken| broken.name = Some("n".repeat(257)),
            "`name` has 257 bytes",
        );
        check(
            |broken| broken.tenant = "a\0".to_owned(),
            "`tenant` holds a NUL",
        );
        check(
            |broken| broken.app = Some(String::new()),
            "`app` names a field with",
        );
        check(
            |broken| broken.identity = vec![String::new()],
            "`identity` names a field with",
        );
        check(
            |broken| broken.providers = map(),
            "`providers.logged` is empty",
        );
        check(|broken| broken.routes = map(), "`routes.logged` is empty");
        check(
            |broken| {
                broken.format = Format::Litellm;
                broken.fields = BTreeMap::from([(Attribute::Model, "m".to_owned())]);
            },
            "`fields` renames fields of a format",
        );
        check(
            |broken| {
                broken.format = Format::Tollbook;
                broken.app = Some("app".to_owned());
            },
            "`app` names a field, but an event of the format says it itself",
        );
        assert_eq!(source().validate(), Ok(()), "a topic is enough");
    }

    #[test]
    fn two_sources_of_one_topic_or_name_are_refused() {
        let other = SourceConfig {
            topic: "other".to_owned(),
            ..source()
        };
        assert_eq!(validate_all(&[source(), other.clone()]), Ok(()));
        assert!(matches!(
            validate_all(&[
                source(),
                SourceConfig {
                    name: Some("a".to_owned()),
                    ..source()
                }
            ]),
            Err(SourceConfigError::Twice { key: "topic", .. })
        ));
        let named = SourceConfig {
            name: Some("usage.envoy".to_owned()),
            ..other
        };
        assert!(matches!(
            validate_all(&[source(), named]),
            Err(SourceConfigError::Twice { key: "name", .. })
        ));
    }

    #[test]
    fn canonical_text_is_one_for_equal_sets_and_reads_back() {
        let fields = BTreeMap::from([(Attribute::InputCacheWrite1hTokens, "w".to_owned())]);
        let first = SourceConfig {
            fields,
            dedupe: Dedupe::Off,
            ..source()
        };
        let second = SourceConfig {
            topic: "a".to_owned(),
            start: Start::Latest,
            ..source()
        };
        let text = to_canonical(&[first.clone(), second.clone()]);
        assert_eq!(text, to_canonical(&[second, first]));
        let read = from_canonical(&text).expect("what was written is read");
        assert_eq!(to_canonical(&read), text);
        assert_eq!(
            read.iter().map(SourceConfig::name).collect::<Vec<_>>(),
            ["a", "usage.envoy"]
        );
        assert!(
            text.contains("input_cache_write_1h_tokens"),
            "meters keep their names: {text}"
        );
        assert!(
            from_canonical("[{}]").is_err(),
            "a source without a topic is none"
        );
    }
}
