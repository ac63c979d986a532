//! `tollbook ingest`.
//!
//! Invariant: a start that fails is one line; the log begins once database and broker have answered.

use std::net::SocketAddr;
use std::time::Duration;

use ::ingest::{IngestError, IngestSettings, Mode, Summary};
use service::config::{Environment, Path};
use service::http::{self, Exposure, ListenError, Listener};
use service::telemetry::{Metrics, Telemetry};
use service::{Exit, Failure, Readiness, Shutdown, Tasks};

use super::{otlp, serving};
use crate::arguments::IngestArguments;
use crate::config::Settings;
use crate::{failure, output, policies, prices};

pub(super) async fn run(
    settings: &Settings,
    arguments: &IngestArguments,
    telemetry: &Telemetry,
) -> Result<Exit, Failure> {
    let pushed = otlp::read(&Environment::of_process(), "tollbook-ingest")?;
    let shutdown = serving::watch_signals(grace(settings))?;
    let readiness = Readiness::new();
    let ingest = read(settings)?;
    if !arguments.until_caught_up {
        let metrics = serving::metrics()?;
        let push = otlp::start(&pushed, Some(&metrics))?;
        let folding = serve(settings, &ingest, metrics, &shutdown, &readiness);
        let ended = serving::until_ended(folding, &[&readiness], telemetry).await;
        otlp::stop(push, grace(settings)).await;
        ended?;
        return Ok(Exit::Ok);
    }
    // Nobody could scrape it, and what is counted for nobody would only grow.
    let metrics = pushed.pushes_metrics().then(serving::metrics).transpose()?;
    let push = otlp::start(&pushed, metrics.as_ref())?;
    let folding = fold(
        settings,
        &ingest,
        Mode::UntilCaughtUp,
        &shutdown,
        &readiness,
    );
    let ended = serving::until_ended(folding, &[&readiness], telemetry).await;
    otlp::stop(push, grace(settings)).await;
    let summary = ended?;
    if !shutdown.is_requested() {
        output::print(&describe(&summary))?;
    }
    Ok(Exit::Ok)
}

/// Returns how long a shutdown may take.
pub(super) fn grace(settings: &Settings) -> Duration {
    Duration::from_millis(settings.config().ingest.shutdown_deadline_ms.into())
}

/// Folds until the shutdown; meanwhile serves health and metrics, also while the broker is waited for.
pub(super) async fn serve(
    settings: &Settings,
    ingest: &IngestSettings,
    metrics: Metrics,
    shutdown: &Shutdown,
    readiness: &Readiness,
) -> Result<(), Failure> {
    let tasks = Tasks::new(shutdown.clone());
    let address = listen(settings, readiness, metrics, &tasks).await?;
    tell_address(address, readiness, &tasks);
    let folded = fold(settings, ingest, Mode::Serve, shutdown, readiness).await;
    shutdown.request();
    let joined = tasks.join().await;
    folded?;
    joined
}

async fn fold(
    settings: &Settings,
    ingest: &IngestSettings,
    mode: Mode,
    shutdown: &Shutdown,
    readiness: &Readiness,
) -> Result<Summary, Failure> {
    let folding = Box::pin(::ingest::run(ingest, mode, shutdown, readiness));
    folding.await.map_err(|error| of_ingest(settings, error))
}

/// Reads what ingest needs to know; what is wrong with it stops the start.
pub(super) fn read(settings: &Settings) -> Result<IngestSettings, Failure> {
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

/// Serves health and metrics.
async fn listen(
    settings: &Settings,
    readiness: &Readiness,
    metrics: Metrics,
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

/// Tells where health and metrics are served, once the start has come so far that it is no failed one.
fn tell_address(address: SocketAddr, readiness: &Readiness, tasks: &Tasks) {
    let (readiness, shutdown) = (readiness.clone(), tasks.shutdown().clone());
    tasks.spawn_errand("log", async move {
        let started = shutdown.unless_requested(readiness.wait_started());
        if started.await.is_some() {
            tracing::info!(http.address = %address, "health and metrics are served");
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
