//! The protocols of others: Envoy's and ASM's, from settings to routes, services and tasks.
//!
//! Invariant: a start takes its files or fails; later files that are wrong change nothing but a log line
//! and a metric. Deliberately absent: what is answered (`rls`, `http::asm`, `grpc`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use domain::limit::LimitSpec;
use domain::policy::model::LimitId;
use service::{Clock, Failure, Readiness, Tasks};

use super::{EnforcerError, now};
use crate::config::{DeniedHits, EnforcerConfig, RlsConfig};
use crate::engine::{Engine, Source};
use crate::grpc::Services;
use crate::http::asm::{self, Asm};
use crate::http::authorize::Identity;
use crate::http::json;
use crate::observe;
use crate::rls::{Denied, HeaderNames, OneDomain, Options, Rls, Watch};

/// How often the files of rules are read.
const READ_EVERY: Duration = Duration::from_secs(1);

/// The protocols, before they are served.
pub(super) struct Protocols {
    rls: Arc<Rls>,
    watch: Watch,
    asm: Option<Arc<Asm>>,
}

impl Protocols {
    /// Takes settings and reads the files that they name.
    pub(super) fn new(
        engine: &Engine,
        config: &EnforcerConfig,
        base: PathBuf,
    ) -> Result<Self, EnforcerError> {
        let rls = Rls::new(Arc::clone(engine.counters()), options(&config.rls));
        let rls = rls.map_err(|error| {
            EnforcerError::Failed(Failure::unexpected(format!(
                "no windows for rules: {error}"
            )))
        })?;
        let one_domain = if config.rls.merge_domains {
            OneDomain::Merged
        } else {
            OneDomain::Refused
        };
        let mut watch = Watch::new(base, config.rls.files.clone(), one_domain);
        let loaded = watch.poll().map_err(|error| EnforcerError::Setting {
            key: "rls.files",
            problem: format!("cannot be used: {error}"),
        })?;
        if let Some(loaded) = loaded {
            if !config.rls.files.is_empty() {
                observe::rules_in_force(&loaded.warnings);
            }
            rls.swap(loaded.rules);
        }
        let asm = config.asm.config.as_deref().map(Asm::new).transpose();
        let asm = asm.map_err(|error| EnforcerError::Setting {
            key: "asm.config",
            problem: error.to_string(),
        })?;
        Ok(Self {
            rls: Arc::new(rls),
            watch,
            asm: asm.map(Arc::new),
        })
    }

    /// Returns the limits that they count by.
    pub(super) fn limits(&self) -> Vec<(LimitId, LimitSpec)> {
        self.rls.limits().collect()
    }

    /// Returns their paths of HTTP.
    pub(super) fn routes(&self, readiness: &Readiness, clock: &Arc<dyn Clock>) -> Router {
        let json = json::routes(Arc::clone(&self.rls), readiness.clone(), Arc::clone(clock));
        match &self.asm {
            None => json,
            Some(asm) => json.merge(asm::routes(Arc::clone(asm), Arc::clone(clock))),
        }
    }

    /// Returns their services of gRPC.
    pub(super) fn services(
        &self,
        engine: Arc<Engine>,
        config: &EnforcerConfig,
        readiness: &Readiness,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Services> {
        Arc::new(Services {
            rls: Arc::clone(&self.rls),
            engine,
            identity: Identity::new(&config.authorize),
            reset: config.x_ratelimit_reset,
            readiness: readiness.clone(),
            clock: Arc::clone(clock),
        })
    }

    /// Reads the files again and again, as a task, where any are named.
    pub(super) fn follow(self, engine: Arc<Engine>, clock: Arc<dyn Clock>, tasks: &Tasks) {
        let Self { rls, mut watch, .. } = self;
        if watch.is_idle() {
            return;
        }
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("rules of the rate limit service", async move {
            let mut ticks = tokio::time::interval(READ_EVERY);
            while shutdown.unless_requested(ticks.tick()).await.is_some() {
                let looked = now(&*clock);
                // Reading may take longer than other tasks should wait.
                let polled = tokio::task::spawn_blocking(move || {
                    let polled = watch.poll();
                    (watch, polled)
                });
                let (returned, polled) = polled.await.map_err(|error| {
                    Failure::unexpected(format!("reading the files of rules failed: {error}"))
                })?;
                watch = returned;
                if watch.is_current() {
                    engine.sources().note(Source::Files, looked);
                }
                match polled {
                    Ok(None) => {}
                    Ok(Some(loaded)) => {
                        rls.swap(loaded.rules);
                        observe::rules_in_force(&loaded.warnings);
                    }
                    Err(error) => observe::rules_refused(&error),
                }
            }
            Ok(())
        });
    }
}

fn options(config: &RlsConfig) -> Options {
    let headers = config.response_headers.then(|| HeaderNames {
        limit: config.limit_header.clone(),
        remaining: config.remaining_header.clone(),
        reset: config.reset_header.clone(),
    });
    Options {
        denied: match config.denied_hits {
            DeniedHits::Count => Denied::Counts,
            DeniedHits::Free => Denied::Free,
        },
        is_all_quota: config.quota_mode,
        is_all_shadow: config.shadow_mode,
        headers,
        adds_metadata: config.response_metadata,
    }
}
