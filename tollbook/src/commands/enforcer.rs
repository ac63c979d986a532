//! `tollbook enforcer`.
//!
//! Invariant: a start that fails is one line, and nothing is decided before the policies were read.

use std::time::Duration;

use ::enforcer::config::EnforcerConfig;
use ::enforcer::feed::{FeedKafka, FeedSettings};
use ::enforcer::{EnforcerError, EnforcerSettings};
use service::config::{Environment, Path};
use service::telemetry::{Metrics, Telemetry};
use service::{Exit, Failure, Readiness, Shutdown};

use super::{otlp, policy, serving};
use crate::config::Settings;
use crate::failure;

pub(super) async fn run(settings: &Settings, telemetry: &Telemetry) -> Result<Exit, Failure> {
    // Before anything counts, since what was counted before is lost.
    let metrics = serving::metrics()?;
    let pushed = otlp::read(&Environment::of_process(), "tollbook-enforcer")?;
    let enforcer = read(settings, metrics.clone())?;
    let shutdown = serving::watch_signals(grace(settings))?;
    let push = otlp::start(&pushed, Some(&metrics))?;
    let readiness = Readiness::new();
    let deciding = serve(settings, enforcer, &shutdown, &readiness);
    let ended = serving::until_ended(deciding, &[&readiness], telemetry).await;
    otlp::stop(push, grace(settings)).await;
    ended?;
    Ok(Exit::Ok)
}

/// Returns how long a shutdown may take.
pub(super) fn grace(settings: &Settings) -> Duration {
    settings.config().enforcer.grace()
}

/// Reads what the enforcer needs to know; what is wrong with it stops the start.
pub(super) fn read(settings: &Settings, metrics: Metrics) -> Result<EnforcerSettings, Failure> {
    let config = settings.config().enforcer.clone();
    let environment = Environment::of_process();
    Ok(EnforcerSettings {
        base: settings.base(),
        asm_config: environment.get("RATE_LIMIT_CONFIG").map(str::to_owned),
        policies: policy::of_files(settings)?,
        feed: feed_settings(settings, &config),
        metrics,
        config,
    })
}

/// Decides until the shutdown.
pub(super) async fn serve(
    settings: &Settings,
    enforcer: EnforcerSettings,
    shutdown: &Shutdown,
    readiness: &Readiness,
) -> Result<(), Failure> {
    let decided = ::enforcer::run(enforcer, shutdown, readiness).await;
    decided.map_err(|error| of_enforcer(settings, error))
}

fn feed_settings(settings: &Settings, config: &EnforcerConfig) -> FeedSettings {
    let all = settings.config();
    let ms = |ms: u32| Duration::from_millis(ms.into());
    FeedSettings {
        kafka: Some(FeedKafka {
            brokers: all.kafka.brokers.clone(),
            balances: all.kafka.balances_topic.clone(),
            exchange: all.kafka.exchange_topic.clone(),
            properties: all.kafka.properties.clone(),
        }),
        database_url: Some(all.database.url.clone()),
        others: Vec::new(),
        exchange_interval: ms(config.exchange_interval_ms),
        hydrate_timeout: ms(config.hydrate_timeout_ms),
    }
}

fn of_enforcer(settings: &Settings, error: EnforcerError) -> Failure {
    match error {
        EnforcerError::Setting { key, problem } => {
            let path = Path::of_keys(&format!("enforcer.{key}"));
            failure::of_config(&settings.refuse(&path, &problem))
        }
        EnforcerError::Failed(failure) => failure,
        error => Failure::unexpected(error.to_string()),
    }
}
