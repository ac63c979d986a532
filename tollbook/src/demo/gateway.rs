//! The demo's gateway, as far as Tollbook sees one: before each request it asks the enforcer.
//!
//! Invariant: what the enforcer refuses is never sent on; where the enforcer does not answer, the
//! request goes on, as a gateway lets it. Deliberately absent: the models behind the gateway, and what
//! requests use (see `traffic`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use service::{Exit, Failure};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::process::LOOK_EVERY;

/// How long the gateway waits for an answer; real ones wait 20 ms to 1 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How long the enforcer may take to know the ledger.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What a request says of itself before it is sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask<'a> {
    /// The application; absent where the request names none.
    pub(super) app: Option<&'a str>,
    /// The provider.
    pub(super) provider: &'a str,
    /// The model.
    pub(super) model: &'a str,
}

/// Why a request was refused, as the enforcer says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Refusal {
    /// The policy's name.
    pub(super) policy: String,
    /// The limit's name.
    pub(super) limit: String,
    /// What the limit counts separately by, with its values.
    #[serde(default)]
    pub(super) key: BTreeMap<String, Option<String>>,
    /// What is used; absent, as the two below, where the limit looked at no numbers.
    pub(super) used: Option<String>,
    /// How much may be.
    pub(super) limit_value: Option<String>,
    /// When it is free again.
    pub(super) reset: Option<String>,
    /// The id that explains it.
    pub(super) denial: Option<String>,
}

impl Refusal {
    /// Returns the values of the key but the tenant, of which the demo has one.
    pub(super) fn of_whom(&self) -> String {
        let named = self.key.iter().filter(|(name, _)| *name != "tenant");
        let values = named.filter_map(|(_, value)| value.as_deref());
        values.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy,
            limit,
            used,
            limit_value,
            reset,
            ..
        } = self;
        match (used, limit_value, reset) {
            (Some(used), Some(limit_value), Some(reset)) => write!(
                f,
                "{policy}/{limit} has {used} of {limit_value} used, until {reset}"
            ),
            _ => write!(f, "{policy}/{limit} refuses without looking at numbers"),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    outcome: String,
    #[serde(flatten)]
    refusal: serde_json::Value,
}

/// A gateway with one connection to the enforcer.
pub(super) struct Gateway {
    enforcer: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// Moves the connection's bytes.
    driver: JoinSet<()>,
    /// Refused requests by policy, limit and key values, with what the enforcer said last.
    refusals: BTreeMap<(String, String, String), (u64, Refusal)>,
    /// Requests that went on without an answer.
    unanswered: u64,
}

impl Gateway {
    /// Waits until the enforcer is ready.
    ///
    /// # Errors
    ///
    /// It does not become ready.
    pub(super) async fn connect(enforcer: SocketAddr) -> Result<Self, Failure> {
        let mut gateway = Self {
            enforcer,
            connection: None,
            driver: JoinSet::new(),
            refusals: BTreeMap::new(),
            unanswered: 0,
        };
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let said = match gateway.send(Method::GET, "/readyz", String::new()).await {
                Some((StatusCode::OK, _)) => return Ok(gateway),
                Some((_, body)) => String::from_utf8_lossy(&body).trim().to_owned(),
                None => "it does not answer".to_owned(),
            };
            if Instant::now() >= deadline {
                let sentence = format!("the enforcer on {enforcer} did not become ready: {said}");
                return Err(Failure::new(Exit::Dependency, sentence));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Asks whether a request may go; `None` says that it may.
    pub(super) async fn ask(&mut self, ask: Ask<'_>) -> Option<Refusal> {
        let mut body = json!({"provider": ask.provider, "model": ask.model});
        if let (Some(app), Some(members)) = (ask.app, body.as_object_mut()) {
            members.insert("app".to_owned(), app.into());
        }
        let answer = self.send(Method::POST, "/v1/decisions", body.to_string());
        let answer = match answer.await {
            Some((StatusCode::OK, body)) => serde_json::from_slice::<Answer>(&body).ok(),
            Some(_) | None => None,
        };
        let Some(answer) = answer else {
            self.unanswered += 1;
            return None;
        };
        if answer.outcome != "deny" {
            return None;
        }
        let refusal: Refusal = serde_json::from_value(answer.refusal).ok()?;
        let (policy, limit) = (refusal.policy.clone(), refusal.limit.clone());
        let key = (policy, limit, refusal.of_whom());
        let counted = self.refusals.entry(key);
        let (count, last) = counted.or_insert_with(|| (0, refusal.clone()));
        *count += 1;
        *last = refusal.clone();
        Some(refusal)
    }

    /// Returns what was refused so far: how often, and what was said last.
    pub(super) fn refusals(&self) -> impl Iterator<Item = &(u64, Refusal)> {
        self.refusals.values()
    }

    /// Returns how many requests went on without an answer.
    pub(super) const fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// Sends one request; `None` where there is no answer in time.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> Option<(StatusCode, Bytes)> {
        let answered = timeout(ANSWER_WITHIN, self.converse(method, path, body)).await;
        let answered = answered.ok().flatten();
        if answered.is_none() {
            // Whatever comes on it now is not the answer to the next one.
            self.connection = None;
        }
        answered
    }

    async fn converse(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> Option<(StatusCode, Bytes)> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(self.enforcer).await.ok()?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
            // The one before has ended, or is of no use; the set ends with the gateway.
            self.driver = JoinSet::new();
            self.driver.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error.text = %error, "the enforcer's connection ended");
                }
            });
            self.connection = Some(sender);
        }
        let sender = self.connection.as_mut()?;
        sender.ready().await.ok()?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "enforcer")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .ok()?;
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, body))
    }
}
