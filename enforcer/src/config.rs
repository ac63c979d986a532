//! What of the configuration the enforcer reads.
//!
//! Invariant: every field has a default, and `check` refuses what cannot be used, by its key.
//! Deliberately absent: where the settings come from (files, environment, flags), which is `service`'s;
//! and what policies say.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Deciding requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EnforcerConfig {
    /// Where it listens for HTTP.
    pub http: String,
    /// Where it listens for gRPC.
    pub grpc: String,
    /// Lets it listen beyond loopback without authentication.
    pub insecure: bool,
    /// Threads that serve each protocol, one per core; 0 for as many as there are cores.
    pub threads: u32,
    /// Connections that each thread serves at once; more wait.
    pub connections_max: u32,
    /// Counters that are held in memory, one per limit and key: up to 700 bytes each (a million: 700 MB), and
    /// more where other replicas count the same keys. Beyond it idle ones are forgotten within a second; where none
    /// is idle, keys that are known count on, and new ones are decided by their policy's `on_unavailable`.
    pub counters_max: u32,
    /// Recent denials that can be read at `/v1/denials`.
    pub denials_kept: u32,
    /// How replicas' own counts are exchanged: so often, in milliseconds.
    pub exchange_interval_ms: u32,
    /// How long a start waits for the numbers before it decides without them, in milliseconds.
    pub hydrate_timeout_ms: u32,
    /// How long a shutdown may take, in milliseconds.
    pub shutdown_deadline_ms: u32,
    /// How the gateway that asks writes `X-RateLimit-Reset`.
    pub x_ratelimit_reset: XRatelimitReset,
    /// The sub-request protocol at `/v1/authorize`.
    pub authorize: AuthorizeConfig,
    /// Envoy's rate limit service.
    pub rls: RlsConfig,
    /// The token rate limit service of Alibaba Cloud ASM.
    pub asm: AsmConfig,
}

impl Default for EnforcerConfig {
    fn default() -> Self {
        Self {
            http: "127.0.0.1:8080".to_owned(),
            grpc: "127.0.0.1:8081".to_owned(),
            insecure: false,
            threads: 0,
            connections_max: 8_192,
            counters_max: 1_000_000,
            denials_kept: 4_096,
            exchange_interval_ms: 50,
            hydrate_timeout_ms: 30_000,
            shutdown_deadline_ms: 10_000,
            x_ratelimit_reset: XRatelimitReset::default(),
            authorize: AuthorizeConfig::default(),
            rls: RlsConfig::default(),
            asm: AsmConfig::default(),
        }
    }
}

/// How `X-RateLimit-Reset` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum XRatelimitReset {
    /// Seconds from now, as Envoy, APISIX and Kong write it.
    #[default]
    Seconds,
    /// Seconds since 1970, as WSO2 writes it.
    Unix,
}

/// The sub-request protocol at `/v1/authorize`: which headers of the sub-request say who asks.
///
/// Only headers that are named here are looked at, and the gateway must set them itself, or strip them
/// from what clients send.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizeConfig {
    /// The header with the tenant.
    pub tenant: Option<String>,
    /// The header with the application, such as `x-tenant-id` or `x-consumer`.
    pub app: Option<String>,
    /// The header with the user.
    pub user: Option<String>,
    /// The header with the session.
    pub session: Option<String>,
    /// The header with the model.
    pub model: Option<String>,
    /// The header with the provider.
    pub provider: Option<String>,
    /// The header with the route.
    pub route: Option<String>,
    /// Where no header names a model: up to so many bytes of the sub-request's body are read for the top-level
    /// `model` of its JSON, 0 for none. The gateway must send the body, whole: Envoy's `with_request_body`, Traefik's
    /// `forwardBody`, APISIX's `request_method = "POST"`. A longer one, or one with two models, names none.
    pub body_bytes_max: u32,
    /// Where method, host and path of the original request are read, and the client's address; nowhere
    /// else. Clients can write all of these headers, so choose what your gateway overwrites.
    pub original: OriginalRequest,
}

/// Where a sub-request tells of the original one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OriginalRequest {
    /// The sub-request itself, its path below `/v1/authorize`, and the last address of
    /// `X-Forwarded-For`: Envoy's HTTP `ext_authz`.
    #[default]
    Request,
    /// `X-Original-Method`, `-Host`, `-URI` or `-URL`, and `X-Real-IP`: nginx, where its configuration
    /// sets them. What is missing is that of the sub-request.
    XOriginal,
    /// `X-Forwarded-Method`, `-Host`, `-Uri`, and the last address of `X-Forwarded-For`: Traefik and
    /// APISIX, which set them themselves. What is missing is that of the sub-request.
    XForwarded,
}

/// Envoy's rate limit service, in place of envoyproxy/ratelimit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of envoyproxy/ratelimit, as its users know it"
)]
pub struct RlsConfig {
    /// Descriptor files of envoyproxy/ratelimit, as they are; `*` stands for any name. They are read
    /// again each second; where they are wrong, what was in force stays.
    pub files: Vec<String>,
    /// Whether denied hits count.
    pub denied_hits: DeniedHits,
    /// Takes several files with one domain together, as `MERGE_DOMAIN_CONFIG` does there; else they are
    /// refused.
    pub merge_domains: bool,
    /// Refuses no request and tells what it would, as `SHADOW_MODE` does there.
    pub shadow_mode: bool,
    /// Takes every limit as a quota, as `QUOTA_MODE` does there.
    pub quota_mode: bool,
    /// Adds dynamic metadata to answers, as `RESPONSE_DYNAMIC_METADATA` does there.
    pub response_metadata: bool,
    /// Adds the three headers below to answers, as `LIMIT_RESPONSE_HEADERS_ENABLED` does there.
    pub response_headers: bool,
    /// The header with the tightest descriptor's limit.
    pub limit_header: String,
    /// The header with what remains of it.
    pub remaining_header: String,
    /// The header with the seconds until it begins anew.
    pub reset_header: String,
}

impl Default for RlsConfig {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            denied_hits: DeniedHits::default(),
            merge_domains: false,
            shadow_mode: false,
            quota_mode: false,
            response_metadata: false,
            response_headers: false,
            limit_header: "RateLimit-Limit".to_owned(),
            remaining_header: "RateLimit-Remaining".to_owned(),
            reset_header: "RateLimit-Reset".to_owned(),
        }
    }
}

/// The token rate limit service of Alibaba Cloud ASM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AsmConfig {
    /// Its `RATE_LIMIT_CONFIG`, a JSON array; the environment variable of that name stands above it.
    /// Without either its paths are not served.
    pub config: Option<String>,
}

/// Whether denied hits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeniedHits {
    /// They do, as with envoyproxy/ratelimit.
    #[default]
    Count,
    /// They do not: for domains that only ask.
    Free,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSetting {
    /// The key, as `enforcer.threads`.
    pub key: &'static str,
    /// What is wrong with it, and how to mend it.
    pub problem: String,
}

impl EnforcerConfig {
    /// Checks what addresses do not say of themselves.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be used; the caller stops with exit code 3.
    pub fn check(&self) -> Result<(), BadSetting> {
        let bounds = [
            ("enforcer.threads", self.threads, 0, 1_024),
            (
                "enforcer.connections_max",
                self.connections_max,
                1,
                1_000_000,
            ),
            ("enforcer.counters_max", self.counters_max, 1, 100_000_000),
            ("enforcer.denials_kept", self.denials_kept, 0, 1_000_000),
            (
                "enforcer.exchange_interval_ms",
                self.exchange_interval_ms,
                5,
                10_000,
            ),
            (
                "enforcer.hydrate_timeout_ms",
                self.hydrate_timeout_ms,
                0,
                3_600_000,
            ),
            (
                "enforcer.shutdown_deadline_ms",
                self.shutdown_deadline_ms,
                1,
                3_600_000,
            ),
        ];
        let body = self.authorize.body_bytes_max;
        let body = (
            "enforcer.authorize.body_bytes_max",
            body,
            0,
            16 * 1_024 * 1_024,
        );
        for (key, value, least, greatest) in bounds.into_iter().chain([body]) {
            if !(least..=greatest).contains(&value) {
                let problem = format!("{value} is out of range; use {least} to {greatest}");
                return Err(BadSetting { key, problem });
            }
        }
        let authorize = &self.authorize;
        for (key, name) in [
            ("enforcer.authorize.tenant", &authorize.tenant),
            ("enforcer.authorize.app", &authorize.app),
            ("enforcer.authorize.user", &authorize.user),
            ("enforcer.authorize.session", &authorize.session),
            ("enforcer.authorize.model", &authorize.model),
            ("enforcer.authorize.provider", &authorize.provider),
            ("enforcer.authorize.route", &authorize.route),
        ] {
            if let Some(name) = name
                && HeaderName::from_bytes(name.as_bytes()).is_err()
            {
                let problem = format!("is {name:?}, which is no header's name");
                return Err(BadSetting { key, problem });
            }
        }
        Ok(())
    }

    /// Returns how many threads serve each protocol.
    #[must_use]
    pub fn cores(&self) -> NonZeroUsize {
        let chosen = usize::try_from(self.threads).unwrap_or(usize::MAX);
        NonZeroUsize::new(chosen).unwrap_or_else(service::cores::available)
    }

    /// Returns how long a shutdown may take.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.shutdown_deadline_ms.into())
    }
}
