//! Alibaba Cloud ASM's token rate limit service: `/ratelimit` and `/update_ratelimit_record`, with its
//! `RATE_LIMIT_CONFIG`.
//!
//! The behaviour is that of `llm-token-ratelimit-service-example` in
//! <https://github.com/AliyunContainerService/asm-labs> (read 2026-11):
//!
//! | event | bucket |
//! | --- | --- |
//! | first check, or the first after it expired | `tokens_per_fill` tokens, whatever it owed |
//! | check, intervals passed since the last fill | each adds `tokens_per_fill`, up to `max_tokens`; the rest of an interval is lost; it expires anew |
//! | check | allowed while it holds more than none |
//! | record | takes the completion tokens, below none, too; nothing where there is no bucket |
//!
//! Invariant: a key counts by the first rule whose expression is found in it; without one it is allowed.
//! Bounded: buckets, and how long an idle one is held. Deliberately absent: sharing between replicas;
//! each counts what it is told.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use domain::hash::Hash128;
use domain::time::UnixMs;
use moka::sync::Cache;
use parking_lot::Mutex;
use regex::Regex;
use serde::{Deserialize, Serialize};
use service::Clock;

use crate::observe::spans;

/// The greatest body, in bytes: keys and three numbers.
const BODY_MAX: usize = 64 * 1024;

/// The most keys that have a bucket: some 20 MB. Beyond, the least used are forgotten, so begin anew.
const BUCKETS_MAX: u64 = 100_000;

/// Why `RATE_LIMIT_CONFIG` cannot be used; the process does not start, and its person mends it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AsmError {
    /// Not a JSON array of rules.
    #[error("is no JSON array of ASM's rules: {0}")]
    Json(#[from] serde_json::Error),
    /// A rule's expression is none.
    #[error("rule {number}: `rate_limit_key_regex` is no expression: {source}")]
    Regex {
        /// Which rule, from 1.
        number: usize,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// A rule's number is out of range.
    #[error("rule {number}: `{field}` is at least {least}")]
    Number {
        /// Which rule, from 1.
        number: usize,
        /// The field.
        field: &'static str,
        /// The least that it may be.
        least: i64,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    rate_limit_key_regex: String,
    redis_expired_seconds: i64,
    fill_interval_second: i64,
    tokens_per_fill: i64,
    max_tokens: i64,
}

#[derive(Debug)]
struct Rule {
    keys: Regex,
    expires_ms: i64,
    interval_seconds: i64,
    tokens_per_fill: i64,
    max_tokens: i64,
}

#[derive(Debug)]
struct Bucket {
    tokens: i64,
    filled_seconds: i64,
    expires_ms: i64,
}

/// The service.
#[derive(Debug)]
pub(crate) struct Asm {
    rules: Vec<Rule>,
    /// By the hash of the key, whose length is the peer's choice.
    buckets: Cache<Hash128, Arc<Mutex<Bucket>>>,
}

impl Asm {
    /// Reads `RATE_LIMIT_CONFIG`.
    ///
    /// # Errors
    ///
    /// Each case of [`AsmError`].
    pub(crate) fn new(config: &str) -> Result<Self, AsmError> {
        let written: Vec<WrittenRule> = serde_json::from_str(config)?;
        let mut rules = Vec::with_capacity(written.len());
        for (index, rule) in written.into_iter().enumerate() {
            let number = index.saturating_add(1);
            for (field, value, least) in [
                ("redis_expired_seconds", rule.redis_expired_seconds, 1),
                ("fill_interval_second", rule.fill_interval_second, 1),
                ("tokens_per_fill", rule.tokens_per_fill, 0),
                ("max_tokens", rule.max_tokens, 0),
            ] {
                if value < least {
                    return Err(AsmError::Number {
                        number,
                        field,
                        least,
                    });
                }
            }
            let keys = Regex::new(&rule.rate_limit_key_regex);
            rules.push(Rule {
                keys: keys.map_err(|source| AsmError::Regex {
                    number,
                    source: Box::new(source),
                })?,
                expires_ms: rule.redis_expired_seconds.saturating_mul(1_000),
                interval_seconds: rule.fill_interval_second,
                tokens_per_fill: rule.tokens_per_fill,
                max_tokens: rule.max_tokens,
            });
        }
        let longest = rules.iter().map(|rule| rule.expires_ms).max();
        // moka refuses spans of a thousand years.
        let idle_ms = longest.unwrap_or(1_000).clamp(1_000, 366 * 86_400_000);
        let buckets = Cache::builder()
            .max_capacity(BUCKETS_MAX)
            .time_to_idle(Duration::from_millis(idle_ms.unsigned_abs()))
            .build();
        Ok(Self { rules, buckets })
    }

    /// Says which of the keys has nothing left; the first one, after which no other is looked at.
    fn limited<'k>(&self, keys: &'k [String], now: UnixMs) -> Option<&'k str> {
        let limited = keys.iter().find(|key| self.is_limited(key, now));
        limited.map(String::as_str)
    }

    fn is_limited(&self, key: &str, now: UnixMs) -> bool {
        let Some(rule) = self.rules.iter().find(|rule| rule.keys.is_match(key)) else {
            return false;
        };
        let bucket = self.buckets.entry(Hash128::of(key.as_bytes()));
        let bucket = bucket.or_insert_with(|| Arc::new(Mutex::new(rule.begin(now))));
        let mut bucket = bucket.value().lock();
        rule.fill(&mut bucket, now);
        bucket.tokens <= 0
    }

    /// Takes tokens out of each key's bucket, where it has one.
    fn record(&self, keys: &[String], tokens: i64, now: UnixMs) {
        for key in keys {
            if let Some(bucket) = self.buckets.get(&Hash128::of(key.as_bytes())) {
                let mut bucket = bucket.lock();
                if now.get() < bucket.expires_ms {
                    bucket.tokens = bucket.tokens.saturating_sub(tokens);
                }
            }
        }
    }
}

impl Rule {
    fn begin(&self, now: UnixMs) -> Bucket {
        Bucket {
            tokens: self.tokens_per_fill,
            filled_seconds: seconds(now),
            expires_ms: now.get().saturating_add(self.expires_ms),
        }
    }

    fn fill(&self, bucket: &mut Bucket, now: UnixMs) {
        if now.get() >= bucket.expires_ms {
            *bucket = self.begin(now);
            return;
        }
        let passed = seconds(now).saturating_sub(bucket.filled_seconds);
        let intervals = passed.checked_div(self.interval_seconds).unwrap_or(0);
        if intervals > 0 {
            let brought = self.tokens_per_fill.saturating_mul(intervals);
            let tokens = bucket.tokens.saturating_add(brought).min(self.max_tokens);
            *bucket = Bucket {
                tokens,
                ..self.begin(now)
            };
        }
    }
}

fn seconds(now: UnixMs) -> i64 {
    now.get().checked_div(1_000).unwrap_or(0)
}

#[derive(Clone)]
struct Answering {
    asm: Arc<Asm>,
    clock: Arc<dyn Clock>,
}

impl Answering {
    fn now(&self) -> UnixMs {
        UnixMs::FIRST.saturating_add_ms(self.clock.now_unix_ms())
    }
}

/// Returns the two routes; any method is taken, as there.
pub(crate) fn routes(asm: Arc<Asm>, clock: Arc<dyn Clock>) -> Router {
    Router::new()
        .route("/ratelimit", any(check))
        .route("/update_ratelimit_record", any(record))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(Answering { asm, clock })
}

#[derive(Serialize)]
struct Checked {
    allow: bool,
    description: String,
}

async fn check(
    State(answering): State<Answering>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Json<Checked> {
    let mut span = spans::begin(&spans::ASM, &headers);
    // Keys that are missing or unreadable are none, so allowed, as there.
    let written = query.as_deref().and_then(written_keys).unwrap_or_default();
    let keys: Vec<Option<String>> = serde_json::from_str(&written).unwrap_or_default();
    let keys: Vec<String> = keys.into_iter().map(Option::unwrap_or_default).collect();
    let limited = answering.asm.limited(&keys, answering.now());
    if let Some(span) = &mut span {
        spans::outcome(span, limited.is_none());
    }
    Json(Checked {
        allow: limited.is_none(),
        description: limited.map_or_else(
            || "ok".to_owned(),
            |key| format!("{key} is being rate-limited"),
        ),
    })
}

/// Returns the first `ratelimit_keys` of a query, decoded.
fn written_keys(query: &str) -> Option<String> {
    let mut pairs = query.split('&').filter(|pair| !pair.contains(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name)? == b"ratelimit_keys").then_some(())?;
        decoded(value).map(|value| String::from_utf8_lossy(&value).into_owned())
    })
}

/// Decodes a part of a query; `None` where a percent sign begins no byte.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok()?
            }
            byte => byte,
        });
    }
    Some(decoded)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Record {
    ratelimit_keys: Option<Vec<Option<String>>>,
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    total_tokens: Option<i64>,
}

async fn record(State(answering): State<Answering>, body: Bytes) -> Response {
    let read: Result<Option<Record>, _> = serde_json::from_slice(&body);
    let Ok(record) = read else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let record = record.unwrap_or_default();
    // These must be numbers, and do not count.
    let _unused = (record.prompt_tokens, record.total_tokens);
    let keys = record.ratelimit_keys.unwrap_or_default();
    let keys: Vec<String> = keys.into_iter().map(Option::unwrap_or_default).collect();
    let tokens = record.completion_tokens.unwrap_or(0);
    answering.asm.record(&keys, tokens, answering.now());
    StatusCode::OK.into_response()
}

#[cfg(test)]
mod tests;
