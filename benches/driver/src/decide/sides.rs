//! Who is asked: the enforcer, and servers that decide nothing.
//!
//! Invariant: the no-op server answers over HTTP the very bytes of an answer of ours, and both sides
//! have a thread per core. Deliberately absent: the asking.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::tests::harness::children::{Child, free_port};
use ::tests::harness::{folders, wait};
use serde::{Deserialize, Serialize};

use super::client::Client;
use crate::input::PARTITIONS;
use crate::product::{Installation, POLICIES, Settings, start};
use crate::servers::Servers;
use crate::text;

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(60);

/// What a gateway limits: requests by decision, tokens from the log. A request with this path meets all
/// three, one without it the tokens' alone. None is ever reached.
pub(super) const LIMITS: &str = r"name: requests
match: { path: /v1/chat/completions }
limits:
  - { name: pace, meter: requests, limit: 1000000000, per: [app], algorithm: token_bucket, refill: { every: 30s, amount: 1000000000 }, capacity: 1000000000 }
  - { name: minute, meter: requests, limit: 1000000000, per: [app, model], window: { sliding: 60s } }
---
name: tokens
limits:
  - { name: daily-tokens, meter: total_tokens, limit: 1000000000000, per: [app], window: { calendar: day }, from: log }
";

/// One limit for each key, as envoyproxy/ratelimit reads it; never reached either.
const DESCRIPTORS: &str = "domain: bench
descriptors:
  - key: api_key
    rate_limit: { unit: hour, requests_per_unit: 4000000000 }
";

/// Names the files beside the configuration.
const DESCRIPTORS_FILE: &str = "descriptors.yaml";

/// A request that meets all limits.
const ASK: &str = r#"{"app":"app-00000","model":"gpt-4o-mini","provider":"openai","path":"/v1/chat/completions"}"#;

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    /// `tollbook enforcer`.
    Ours,
    /// `bench-wire noop`.
    Noop,
}

/// How decisions are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    /// `POST /v1/decisions`.
    Http,
    /// Envoy's rate limit service.
    Grpc,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        })
    }
}

/// A server's process and address.
pub(super) struct Target {
    pub(super) pid: i32,
    pub(super) address: SocketAddrV4,
}

/// An enforcer with all its servers.
pub(super) struct Ours {
    pub(super) installation: Installation,
    /// The topic of the gateways' log.
    pub(super) topic: String,
    pub(super) http: SocketAddrV4,
    grpc: SocketAddrV4,
    child: Child,
}

/// What is read of an answer.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub(super) outcome: String,
    pub(super) limit: Option<String>,
    pub(super) used: Option<String>,
}

impl Ours {
    /// Starts an enforcer on an empty ledger and waits until it decides by its limits.
    ///
    /// # Errors
    ///
    /// It ends, or does not become ready.
    pub(super) fn start(
        executable: &Path,
        servers: &Servers,
        threads: u32,
    ) -> Result<Self, String> {
        let topic = servers.kafka.unused_topic("decide");
        servers.kafka.create_topic(&topic, PARTITIONS, &[]);
        let (http, grpc) = (loopback(), loopback());
        let settings = Settings {
            topic: &topic,
            more: &format!(
                "[policies]\nfiles = [\"{POLICIES}\"]\n\n\
                 [enforcer]\nhttp = \"{http}\"\ngrpc = \"{grpc}\"\nthreads = {threads}\n\n\
                 [enforcer.rls]\nfiles = [\"{DESCRIPTORS_FILE}\"]\n"
            ),
            files: &[(POLICIES, LIMITS), (DESCRIPTORS_FILE, DESCRIPTORS)],
        };
        let installation = Installation::new(executable, servers, &settings)?;
        installation.run(&["migrate"])?;
        // Puts sources and policies in force.
        installation.run(&["ingest", "--until-caught-up"])?;
        let child = installation.start(&["enforcer"]);
        let ours = Self {
            installation,
            topic,
            http,
            grpc,
            child,
        };
        await_answer(&ours.child, || ours.decides().ok())?;
        Ok(ours)
    }

    /// Returns the answer to a request that meets all limits.
    ///
    /// # Errors
    ///
    /// The enforcer does not answer, or knows no limit yet.
    fn decides(&self) -> Result<String, String> {
        let mut client = Client::connect(self.http)?;
        let (ready, why) = client.ask("GET", "/readyz", "")?;
        let (status, body) = client.ask("POST", "/v1/decisions", ASK)?;
        let answer: Answer = serde_json::from_str(&body).map_err(text)?;
        let is_limited = answer.limit.is_some() && answer.outcome == "allow";
        if ready == 200 && status == 200 && is_limited {
            return Ok(body);
        }
        Err(format!("not ready ({why}), or by no limit: {body}"))
    }

    /// Writes an answer into a file and returns its path.
    ///
    /// # Errors
    ///
    /// The enforcer does not answer as it did.
    pub(super) fn answer(&self) -> Result<PathBuf, String> {
        let path = folders::make("answer").join("answer.json");
        std::fs::write(&path, self.decides()?).map_err(text)?;
        Ok(path)
    }

    pub(super) fn target(&self, protocol: Protocol) -> Target {
        let address = match protocol {
            Protocol::Http => self.http,
            Protocol::Grpc => self.grpc,
        };
        let pid = self.child.pid();
        Target { pid, address }
    }

    /// Returns the end of what it wrote.
    pub(super) fn log(&self) -> String {
        self.child.log()
    }
}

/// A server for each protocol.
pub(super) struct Noop {
    http: (Child, SocketAddrV4),
    grpc: (Child, SocketAddrV4),
}

impl Noop {
    /// Starts both and waits until they answer.
    ///
    /// # Errors
    ///
    /// One ends.
    pub(super) fn start(
        executable: &Path,
        threads: u32,
        answer: Option<&Path>,
    ) -> Result<Self, String> {
        let serve = |protocol: Protocol| {
            let address = loopback();
            let mut arguments = vec!["noop".to_owned(), protocol.to_string(), address.to_string()];
            if threads > 0 {
                arguments.extend(["--threads".to_owned(), threads.to_string()]);
            }
            if let (Protocol::Http, Some(answer)) = (protocol, answer) {
                arguments.extend(["--answer".to_owned(), answer.display().to_string()]);
            }
            let child = start(executable, arguments, Vec::new());
            await_answer(&child, || Client::connect(address).ok())?;
            Ok::<_, String>((child, address))
        };
        Ok(Self {
            http: serve(Protocol::Http)?,
            grpc: serve(Protocol::Grpc)?,
        })
    }

    pub(super) fn target(&self, protocol: Protocol) -> Target {
        let (child, address) = match protocol {
            Protocol::Http => &self.http,
            Protocol::Grpc => &self.grpc,
        };
        let (pid, address) = (child.pid(), *address);
        Target { pid, address }
    }
}

fn loopback() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port())
}

/// Waits until a server answers; fails at once where it ended.
fn await_answer<T>(child: &Child, mut answer: impl FnMut() -> Option<T>) -> Result<T, String> {
    wait::until("the server answers", START, || {
        if child.ended().is_some() {
            return Some(Err(child.log()));
        }
        answer().map(Ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_valid() {
        let policies = domain::policy::read("limits", LIMITS).unwrap();
        let limits: usize = policies.iter().map(|policy| policy.limits.len()).sum();
        assert_eq!(limits, 3, "{policies:?}");
        assert!(
            domain::policy::compile(policies).is_ok(),
            "they fit together"
        );
    }
}
