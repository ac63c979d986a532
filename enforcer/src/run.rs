//! The enforcer's control flow: boot, serve, keep house, drain.
//!
//! Invariant: it is ready once policies are in force and both listeners listen, and what asks before
//! that is told to come again; at the shutdown
//! requests in hand are finished before it ends. Deliberately absent: signals, logs and the registry of
//! metrics, which are the process's.

mod protocols;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::account::ReplicaId;
use domain::policy::CompiledSet;
use domain::time::UnixMs;
use service::cores::{Bounds, Sockets};
use service::http::{Exposure, ListenError, routes};
use service::telemetry::Metrics;
use service::{Clock, Failure, Readiness, Shutdown, SystemClock, Tasks};
use uuid::Uuid;

use crate::config::EnforcerConfig;
use crate::engine::{Engine, PoliciesInForce, Source};
use crate::feed::{self, FeedSettings};
use crate::http::Http;
use crate::observe;

use self::protocols::Protocols;

/// How often counters that no longer count are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(5);

/// How often the ages of the sources are told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the enforcer needs to begin.
#[derive(Debug)]
pub struct EnforcerSettings {
    /// Its section of the configuration, checked.
    pub config: EnforcerConfig,
    /// What relative paths of its settings start from.
    pub base: PathBuf,
    /// `RATE_LIMIT_CONFIG` of the environment, which stands above `asm.config`.
    pub asm_config: Option<String>,
    /// The policies of the files.
    pub policies: CompiledSet,
    /// How to reach the other replicas, the log and Postgres.
    pub feed: FeedSettings,
    /// The registry that `/metrics` shows.
    pub metrics: Metrics,
}

/// Why the enforcer ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnforcerError {
    /// A setting cannot be used.
    #[error("enforcer.{key} {problem}")]
    Setting {
        /// Its key, below `enforcer`.
        key: &'static str,
        /// What is wrong, and how to mend it.
        problem: String,
    },
    /// Something failed that nobody foresaw.
    #[error("{0}")]
    Failed(Failure),
}

/// Runs the enforcer until the shutdown is requested and all is drained.
///
/// # Errors
///
/// Each case of [`EnforcerError`]; the process ends with it.
pub async fn run(
    settings: EnforcerSettings,
    shutdown: &Shutdown,
    readiness: &Readiness,
) -> Result<(), EnforcerError> {
    let tasks = Tasks::new(shutdown.clone());
    let began = begin(settings, readiness, &tasks);
    if began.is_err() {
        shutdown.request();
    }
    let joined = tasks.join().await.map_err(EnforcerError::Failed);
    began.map(drop)?;
    joined
}

/// What listens where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
}

/// Starts everything as tasks; tests go on from here.
pub(crate) fn begin(
    settings: EnforcerSettings,
    readiness: &Readiness,
    tasks: &Tasks,
) -> Result<(Arc<Engine>, Addresses), EnforcerError> {
    let EnforcerSettings {
        mut config,
        base,
        asm_config,
        policies,
        feed,
        metrics,
    } = settings;
    config.asm.config = asm_config.or(config.asm.config);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let kept = usize::try_from(config.denials_kept).unwrap_or(usize::MAX);
    let replica = replica();
    let most = usize::try_from(config.counters_max).unwrap_or(usize::MAX);
    let engine = Arc::new(Engine::bounded(replica, kept, most));
    // The feed releases it when it is first ready.
    engine.hold(!config.rls.files.is_empty() || config.asm.config.is_some());
    let limits = policies.limits().count();
    observe::in_force(0, policies.policies().len(), limits);
    let protocols = Protocols::new(&engine, &config, base)?;
    let beside = protocols.limits();
    engine.swap(PoliciesInForce {
        set: policies,
        others: beside.clone(),
        ..PoliciesInForce::default()
    });
    engine.sources().note(Source::Policies, now(&*clock));

    let others = routes(readiness.clone(), metrics, tasks.shutdown().clone())
        .merge(protocols.routes(readiness, &clock));
    let service = Http::new(
        engine.clone(),
        clock.clone(),
        &config.authorize,
        config.x_ratelimit_reset,
        others,
    );
    let http = bind(&config, "http", &config.http)?;
    let grpc = bind(&config, "grpc", &config.grpc)?;
    let addresses = Addresses {
        http: http.address(),
        grpc: grpc.address(),
    };
    let spawned = http.spawn(tasks, "http", bounds(&config), move |core| {
        core.serve_http1(service.clone())
    });
    spawned.map_err(|error| {
        EnforcerError::Failed(Failure::unexpected(format!("no thread for HTTP: {error}")))
    })?;
    let services = protocols.services(engine.clone(), &config, readiness, &clock);
    let spawned = grpc.spawn(tasks, "grpc", bounds(&config), move |core| {
        services.clone().serve(core)
    });
    spawned.map_err(|error| {
        EnforcerError::Failed(Failure::unexpected(format!("no thread for gRPC: {error}")))
    })?;
    protocols.follow(engine.clone(), clock.clone(), tasks);
    keep_house(engine.clone(), clock, tasks);
    let feed = FeedSettings {
        others: beside,
        ..feed
    };
    feed::start(&engine, replica, feed, readiness, tasks).map_err(EnforcerError::Failed)?;
    tracing::info!(http.address = %addresses.http, grpc.address = %addresses.grpc, "decisions are served");
    Ok((engine, addresses))
}

/// Draws the number of this process's start; any two starts differ.
fn replica() -> ReplicaId {
    let (high, low) = Uuid::now_v7().as_u64_pair();
    // The time in front makes each start differ from those before, the chance behind from others now.
    ReplicaId(high.rotate_left(16) ^ low)
}

fn now(clock: &dyn Clock) -> UnixMs {
    UnixMs::FIRST.saturating_add_ms(clock.now_unix_ms())
}

fn bounds(config: &EnforcerConfig) -> Bounds {
    Bounds {
        connections_max: usize::try_from(config.connections_max).unwrap_or(usize::MAX),
        ..Bounds::default()
    }
}

/// Takes the sockets of an address that the settings name.
pub(crate) fn bind(
    config: &EnforcerConfig,
    key: &'static str,
    address: &str,
) -> Result<Sockets, EnforcerError> {
    let refuse = |problem| EnforcerError::Setting { key, problem };
    let exposure = if config.insecure {
        Exposure::Insecure
    } else {
        Exposure::Loopback
    };
    let parsed = address
        .parse()
        .map_err(|_unreadable| refuse(format!("is \"{address}\", which is no address")))?;
    Sockets::bind(parsed, exposure, config.cores()).map_err(|error| match error {
        ListenError::Bind { address, source } => refuse(format!(
            "is {address}, which cannot be listened on ({source}); choose a free one"
        )),
        error => refuse(format!(
            "cannot be used: {error}; set enforcer.insecure = true, or use 127.0.0.1"
        )),
    })
}

/// Forgets old counters and tells how things stand, until the shutdown.
fn keep_house(engine: Arc<Engine>, clock: Arc<dyn Clock>, tasks: &Tasks) {
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("housekeeping", async move {
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        let mut tell = tokio::time::interval(TELL_EVERY);
        let mut room = observe::Room::default();
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                _ = prune.tick() => engine.prune(now(&*clock)),
                _ = tell.tick() => {
                    let counters = engine.counters();
                    if counters.is_full() {
                        // Old ones are forgotten sooner, as new ones wait for their room.
                        engine.prune(now(&*clock));
                    }
                    room.tell(counters.count(), counters.is_full(), counters.refused());
                    observe::staleness(engine.sources(), now(&*clock));
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
