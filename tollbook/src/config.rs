//! The settings of all services, put together from what each room defines.
//!
//! Invariant: [`Settings`] were checked as a whole: what a room finds in them it can use.
//! Deliberately absent: what settings do; one file serves all services.

use std::net::SocketAddr;
use std::path::PathBuf;

use domain::calendar::parse_zone;
use enforcer::config::EnforcerConfig;
use ingest::config::{BadSetting, IngestConfig, KafkaConfig};
use ingest::source_config::{SourceConfig, SourceConfigError, validate_all};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::config::{ConfigError, Environment, Loaded, Names, Override, Path};
use service::{Failure, config as layers};

use crate::arguments::SettingsFlags;
use crate::failure;

/// Everything that can be set.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The ledger.
    pub(crate) database: DatabaseConfig,
    /// The log.
    pub(crate) kafka: KafkaConfig,
    /// From log to ledger.
    pub(crate) ingest: IngestConfig,
    /// What usage costs.
    pub(crate) prices: PricesConfig,
    /// Reading the ledger.
    pub(crate) reports: ReportsConfig,
    /// Limits.
    pub(crate) policies: PoliciesConfig,
    /// Deciding requests.
    pub(crate) enforcer: EnforcerConfig,
}

/// Where the ledger is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DatabaseConfig {
    /// `postgres://user:password@host:port/database`; see sqlx for its parameters, `sslmode` and so on.
    pub(crate) url: String,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: "postgres://tollbook@127.0.0.1/tollbook".to_owned(),
        }
    }
}

/// What usage costs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PricesConfig {
    /// Price files over the shipped book and over what was imported, later ones win: CSV, TOML, YAML or
    /// LiteLLM's map, told by their content. Relative paths start from the configuration file's folder.
    pub(crate) files: Vec<String>,
}

/// Reading the ledger.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReportsConfig {
    /// Where the reports' service listens.
    pub(crate) http: String,
    /// Lets it listen beyond loopback without authentication.
    pub(crate) insecure: bool,
    /// The time zone of dates and grains where a report names none.
    pub(crate) zone: String,
}

impl Default for ReportsConfig {
    fn default() -> Self {
        Self {
            http: "127.0.0.1:8090".to_owned(),
            insecure: false,
            zone: "UTC".to_owned(),
        }
    }
}

/// Limits.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PoliciesConfig {
    /// Policy files; `*` stands for any name.
    pub(crate) files: Vec<String>,
}

const NAMES: Names = Names {
    prefix: "TOLLBOOK",
    file: "tollbook.toml",
    // The demo's jars, and what only the test harness reads.
    others: &["KAFKA_LIBS", "TESTS_"],
    is_secret,
};

/// Tells whether a setting holds a secret: librdkafka's passwords, tokens and keys. Paths of files are
/// hidden with them; the URL of the database hides its own password.
fn is_secret(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    path.starts_with("kafka.properties.")
        && ["password", "secret", "token", "key", "jaas", "credential"]
            .iter()
            .any(|word| path.contains(word))
}

/// The checked settings and where each came from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    loaded: Loaded<Config>,
}

impl Settings {
    /// Reads and checks the settings.
    pub(crate) fn load(flags: &SettingsFlags, environment: &Environment) -> Result<Self, Failure> {
        let overrides = [
            ("--database-url", "database.url", &flags.database_url),
            ("--kafka-brokers", "kafka.brokers", &flags.kafka_brokers),
        ];
        let given = |(flag, path, value): (&'static str, &'static str, &Option<String>)| {
            value.clone().map(|value| Override { flag, path, value })
        };
        let overrides: Vec<Override> = overrides.into_iter().filter_map(given).collect();
        let loaded = layers::load(NAMES, flags.config.as_deref(), environment, &overrides);
        let settings = Self {
            loaded: loaded.map_err(|error| failure::of_config(&error))?,
        };
        settings
            .check()
            .map_err(|error| failure::of_config(&error))?;
        Ok(settings)
    }

    /// Returns the settings.
    pub(crate) const fn config(&self) -> &Config {
        &self.loaded.value
    }

    /// Returns what relative paths start from.
    pub(crate) fn base(&self) -> PathBuf {
        self.loaded.base()
    }

    /// Returns the file that was read, for people.
    pub(crate) fn file(&self) -> String {
        let file = self.loaded.file().map(|file| file.display().to_string());
        file.unwrap_or_else(|| "no file, all by default".to_owned())
    }

    /// Returns where a setting came from, for people.
    pub(crate) fn place(&self, keys: &str) -> String {
        self.loaded.origin(&Path::of_keys(keys)).to_string()
    }

    /// Makes the error of a setting that cannot be used.
    pub(crate) fn refuse(&self, path: &Path, problem: &str) -> ConfigError {
        self.loaded.refuse(path, problem)
    }

    /// Returns what is in effect as TOML, with origins and without secrets.
    pub(crate) fn to_toml(&self) -> Result<String, Failure> {
        self.loaded
            .to_toml()
            .map_err(|error| failure::of_config(&error))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let config = self.config();
        let bad = |bad: BadSetting| self.refuse(&path_of(&bad.key), &bad.problem);
        config.kafka.check().map_err(bad)?;
        config.ingest.check().map_err(bad)?;
        config
            .enforcer
            .check()
            .map_err(|bad| self.refuse(&Path::of_keys(bad.key), &bad.problem))?;
        validate_all(&config.ingest.sources).map_err(|error| self.refuse_source(&error))?;
        self.check_url()?;
        parse_zone(&config.reports.zone).map_err(|error| {
            self.refuse(
                &Path::of_keys("reports.zone"),
                &format!("is no zone: {error}"),
            )
        })?;
        for (section, key, address, insecure) in [
            (
                "ingest",
                "http",
                &config.ingest.http,
                config.ingest.insecure,
            ),
            (
                "reports",
                "http",
                &config.reports.http,
                config.reports.insecure,
            ),
            (
                "enforcer",
                "http",
                &config.enforcer.http,
                config.enforcer.insecure,
            ),
            (
                "enforcer",
                "grpc",
                &config.enforcer.grpc,
                config.enforcer.insecure,
            ),
        ] {
            let path = Path::root().key(section).key(key);
            check_address(address, insecure, section)
                .map_err(|problem| self.refuse(&path, &problem))?;
        }
        Ok(())
    }

    fn check_url(&self) -> Result<(), ConfigError> {
        let url = &self.config().database.url;
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(());
        }
        let problem = "is no URL of Postgres; write postgres://user@host:5432/database";
        Err(self.refuse(&Path::of_keys("database.url"), problem))
    }

    /// Finds the source that an error is about.
    fn refuse_source(&self, error: &SourceConfigError) -> ConfigError {
        let list = Path::of_keys("ingest.sources");
        let sources = &self.config().ingest.sources;
        let at = |test: &dyn Fn(&SourceConfig) -> bool| sources.iter().rposition(test).unwrap_or(0);
        match error {
            SourceConfigError::Setting {
                source_name,
                key,
                problem,
                cure,
            } => {
                let source = list.index(at(&|source| source.name() == source_name));
                self.refuse(
                    &key.split('.').fold(source, |path, key| path.key(key)),
                    &format!("{problem}; {cure}"),
                )
            }
            SourceConfigError::Twice { key, value } => {
                let source = at(&|source| source.name() == value || source.topic == *value);
                let problem = format!(
                    "is \"{value}\", as another source's: its events would count twice; leave one of them, or give each its own {key}"
                );
                self.refuse(&list.index(source).key(key), &problem)
            }
            SourceConfigError::Stored(problem) => self.refuse(&list, problem),
        }
    }
}

/// Checks an address to listen on.
fn check_address(address: &str, insecure: bool, section: &str) -> Result<(), String> {
    let parsed: SocketAddr = address.parse().map_err(|_unreadable| {
        format!("is \"{address}\", which is no address; write an IP address and a port, as 127.0.0.1:8070")
    })?;
    if parsed.ip().is_loopback() || insecure {
        return Ok(());
    }
    Err(format!(
        "is {address}, where anyone could reach it without a key; use 127.0.0.1, or set {section}.insecure = true"
    ))
}

/// Reads a key as rooms name them: `kafka.properties."group.id"`.
fn path_of(key: &str) -> Path {
    let (plain, quoted) = key.split_once(".\"").unwrap_or((key, ""));
    let path = Path::of_keys(plain);
    if quoted.is_empty() {
        path
    } else {
        path.key(quoted.trim_end_matches('"'))
    }
}

/// Returns the JSON Schema of the file.
pub(crate) fn json_schema() -> String {
    layers::json_schema::<Config>()
}

#[cfg(test)]
mod tests;
