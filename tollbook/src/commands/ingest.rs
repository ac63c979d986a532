//! `tollbook ingest`.
//!
//! Invariant: a start that fails is one line; the log begins once database and broker have answered.

use std::net::SocketAddr;
use std::time::Duration;

use ::ingest::{IngestError, IngestSettings, Mode, Summary};
use service::config::Path;
use service::http::{self, Exposure, ListenError, Listener};
use service::telemetry::{Metrics, Telemetry};
use service::{Exit, Failure, Readiness, Shutdown, Tasks};

use super::LOG;
use crate::arguments::IngestArguments;
use crate::config::Settings;
use crate::{PROGRAM, failure, output, policies, prices};

pub(super) async fn run(
    settings: &Settings,
    arguments: &IngestArguments,
    telemetry: Telemetry,
) -> Result<Exit, Failure> {
    let mode = if arguments.until_caught_up {
        Mode::UntilCaughtUp
    } else {
        Mode::Serve
    };
    let shutdown = Shutdown::new();
    let grace = Duration::from_millis(settings.config().ingest.shutdown_deadline_ms.into());
    shutdown
        .watch_signals(PROGRAM, grace)
        .map_err(|error| Failure::unexpected(format!("signals cannot be watched: {error}")))?;
    let tasks = Tasks::new(shutdown.clone());
    let readiness = Readiness::new();
    let settings_of_ingest = read(settings)?;
    let address = match mode {
        Mode::Serve => Some(listen(settings, &readiness, &tasks).await?),
        Mode::UntilCaughtUp => None,
    };
    begin_log(telemetry, &readiness, &tasks, address);
    let folding = Box::pin(::ingest::run(
        &settings_of_ingest,
        mode,
        &shutdown,
        &readiness,
    ));
    let outcome = folding.await;
    let was_asked_to_stop = shutdown.is_requested();
    shutdown.request();
    let joined = tasks.join().await;
    let summary = outcome.map_err(|error| of_ingest(settings, error))?;
    joined?;
    if mode == Mode::UntilCaughtUp && !was_asked_to_stop {
        output::print(&describe(&summary))?;
    }
    Ok(Exit::Ok)
}

fn read(settings: &Settings) -> Result<IngestSettings, Failure> {
    let config = settings.config();
    let prices = prices::read(settings)?;
    Ok(IngestSettings {
        kafka: config.kafka.clone(),
        ingest: config.ingest.clone(),
        database_url: config.database.url.clone(),
        prices,
        policies: policies::configured(settings)?,
        apply_at_start: config.ingest.apply_at_start,
    })
}

/// Serves health and metrics, also while the broker is waited for.
async fn listen(
    settings: &Settings,
    readiness: &Readiness,
    tasks: &Tasks,
) -> Result<SocketAddr, Failure> {
    let config = &settings.config().ingest;
    let refuse = |problem: &str| {
        failure::of_config(&settings.refuse(&Path::of_keys("ingest.http"), problem))
    };
    let address = config
        .http
        .parse()
        .map_err(|_unreadable| refuse("is no address"))?;
    let exposure = if config.insecure {
        Exposure::Insecure
    } else {
        Exposure::Loopback
    };
    let metrics = Metrics::start().map_err(|error| Failure::unexpected(error.to_string()))?;
    let listener = Listener::bind(address, exposure)
        .await
        .map_err(|error| match error {
            ListenError::Bind { address, source } => refuse(&format!(
                "is {address}, which cannot be listened on ({source}); choose a free one"
            )),
            error => refuse(&format!(
                "cannot be used: {error}; set ingest.insecure = true, or use 127.0.0.1"
            )),
        })?;
    let address = listener.address();
    let routes = http::routes(readiness.clone(), metrics, tasks.shutdown().clone());
    listener.serve(routes, tasks);
    Ok(address)
}

/// Lets the log say more once the start has come so far that the process is ready, or says what it
/// waits for.
fn begin_log(
    telemetry: Telemetry,
    readiness: &Readiness,
    tasks: &Tasks,
    address: Option<SocketAddr>,
) {
    let (readiness, shutdown) = (readiness.clone(), tasks.shutdown().clone());
    tasks.spawn_errand("log", async move {
        if shutdown
            .unless_requested(readiness.wait_started())
            .await
            .is_some()
        {
            telemetry.started(LOG);
            if let Some(address) = address {
                tracing::info!(http.address = %address, "health and metrics are served");
            }
        }
        Ok(())
    });
}

fn of_ingest(settings: &Settings, error: IngestError) -> Failure {
    match error {
        IngestError::Store(error) => super::of_store(settings, &error),
        IngestError::Log(error) => failure::of_log(&error, &settings.place("kafka.brokers")),
        error => error.into(),
    }
}

fn describe(summary: &Summary) -> String {
    let Summary { topics, partitions } = summary;
    format!(
        "caught up: {partitions} partitions with records, of {}",
        topics.join(", ")
    )
}
