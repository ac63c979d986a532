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

use super::{LOG, policy};
use crate::config::Settings;
use crate::{PROGRAM, failure};

pub(super) async fn run(settings: &Settings, telemetry: Telemetry) -> Result<Exit, Failure> {
    let config = settings.config().enforcer.clone();
    let policies = policy::of_files(settings)?;
    let shutdown = Shutdown::new();
    shutdown
        .watch_signals(PROGRAM, config.grace())
        .map_err(|error| Failure::unexpected(format!("signals cannot be watched: {error}")))?;
    // Before anything counts, since what was counted before is lost.
    let metrics = Metrics::start().map_err(|error| Failure::unexpected(error.to_string()))?;
    let readiness = Readiness::new();
    let environment = Environment::of_process();
    let feed = feed_settings(settings, &config);
    let settings_of_enforcer = EnforcerSettings {
        config,
        base: settings.base(),
        asm_config: environment.get("RATE_LIMIT_CONFIG").map(str::to_owned),
        policies,
        feed,
        metrics,
    };
    let deciding = ::enforcer::run(settings_of_enforcer, &shutdown, &readiness);
    let mut deciding = std::pin::pin!(deciding);
    let ended = tokio::select! {
        ended = deciding.as_mut() => ended,
        () = readiness.wait_started() => {
            telemetry.started(LOG);
            deciding.await
        }
    };
    ended.map_err(|error| of_enforcer(settings, error))?;
    Ok(Exit::Ok)
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
