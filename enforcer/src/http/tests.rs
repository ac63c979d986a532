//! The protocols over real sockets: what they answer, and what they refuse.

mod authorize;
mod refused;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use domain::account::ReplicaId;
use domain::policy::{compile, read};
use serde_json::{Value, json};
use service::cores::{Bounds, Sockets};
use service::http::Exposure;
use service::{Shutdown, Tasks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::engine::PoliciesInForce;

/// 2026-10-24T10:00:00Z.
const NOW: i64 = 1_792_836_000_000;

/// A clock that stands.
struct Stands;

impl Clock for Stands {
    fn now_unix_ms(&self) -> i64 {
        NOW
    }
}

const POLICIES: &str = r#"
name: tier
limits:
  - { name: pace, meter: requests, limit: 2, per: [app], window: { fixed: 60s } }
  - { name: tokens, meter: total_tokens, limit: 100, per: [app, model], window: { calendar: day }, from: decision }
response: { status: 403, message: "come back later", headers: [ietf, openai], extra_headers: { x-tier: free } }
---
name: paths
match: { host: gw.example, path: { prefix: /v1/chat }, method: POST }
limits: [{ name: none, meter: requests, limit: 0, window: { calendar: day } }]
---
name: networks
match: { source_address: 10.0.0.0/8 }
limits: [{ name: none, meter: requests, limit: 0, window: { calendar: day } }]
---
name: dear
match: { model: dear }
limits: [{ name: none, meter: requests, limit: 0, window: { calendar: day } }]
"#;

/// A server, and the request to stop it when the test ends.
struct Server {
    address: SocketAddr,
    engine: Arc<Engine>,
    tasks: Tasks,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.shutdown().request();
    }
}

fn serve() -> Server {
    serve_from(OriginalRequest::default())
}

fn serve_from(original: OriginalRequest) -> Server {
    serve_by(&AuthorizeConfig {
        app: Some("X-Tenant-Id".to_owned()),
        model: Some("x-model".to_owned()),
        original,
        ..AuthorizeConfig::default()
    })
}

fn serve_by(authorize: &AuthorizeConfig) -> Server {
    let policies = read("test.yaml", POLICIES).unwrap_or_else(|errors| panic!("{errors:?}"));
    let engine = Arc::new(Engine::new(ReplicaId(7), 100));
    engine.swap(PoliciesInForce {
        set: compile(policies).unwrap(),
        ..PoliciesInForce::default()
    });
    let service = Http::new(
        engine.clone(),
        Arc::new(Stands),
        authorize,
        XRatelimitReset::Seconds,
        Router::new(),
    );
    let loopback = "127.0.0.1:0".parse().unwrap();
    let one = NonZeroUsize::MIN;
    let sockets = Sockets::bind(loopback, Exposure::Loopback, one).unwrap();
    let address = sockets.address();
    let tasks = Tasks::new(Shutdown::new());
    sockets
        .spawn(&tasks, "test", Bounds::default(), move |core| {
            core.serve_http1(service.clone())
        })
        .unwrap();
    Server {
        address,
        engine,
        tasks,
    }
}

/// Status, headers by lower-case name, body.
struct Got {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        let named = self.headers.iter().find(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Server {
    /// Sends bytes as they are; reads until the server closes.
    async fn raw(&self, bytes: &[u8]) -> Got {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that answers early may close before all was taken.
        drop(stream.write_all(bytes).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let text = String::from_utf8_lossy(&answer).into_owned();
        // A peer that is cut off while it is still sending may see nothing.
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or(("HTTP/1.1 0", ""));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers = lines.filter_map(|line| line.split_once(": "));
        Got {
            status: status.and_then(|status| status.parse().ok()).unwrap(),
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: body.as_bytes().to_vec(),
        }
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Got {
        let length = body.len();
        let mut bytes = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes).await
    }

    async fn decide(&self, body: &Value) -> Value {
        let got = self
            .send("POST", "/v1/decisions", "", body.to_string().as_bytes())
            .await;
        assert_eq!(got.status, 200, "{}", got.json());
        assert_eq!(got.header("content-type"), Some("application/json"), "JSON");
        got.json()
    }
}

#[tokio::test]
async fn a_decision_names_everything() {
    let server = serve();
    let body = json!({ "app": "a", "model": "m", "estimate": { "input_tokens": 40 } });
    let allowed = server.decide(&body).await;
    let expected = json!({
        "outcome": "allow", "reason": "within", "policy": "tier", "attachment": null,
        "limit": "pace", "meter": "requests", "key": { "tenant": "default", "app": "a" },
        "missing_key": null, "used": "1", "asked": "1", "limit_value": "2", "remaining": "1",
        "reset": "2026-10-24T10:01:00Z", "retry": null, "candidate": null, "reservation": null,
        "as_of": "2026-10-24T10:00:00Z", "warming": null, "shadow_denials": 0, "uncharged": [],
        "denial": null, "policies_version": 0,
        "headers": {
            "ratelimit-policy": "\"pace\";q=2;w=60, \"tokens\";q=100;qu=\"tokens\";w=86400",
            "ratelimit": "\"pace\";r=1;t=60, \"tokens\";r=100;t=50400",
            "x-ratelimit-limit-requests": "2", "x-ratelimit-remaining-requests": "1",
            "x-ratelimit-reset-requests": "1m0s", "x-ratelimit-limit-tokens": "100",
            "x-ratelimit-remaining-tokens": "100", "x-ratelimit-reset-tokens": "14h0m0s",
        },
    });
    assert_eq!(allowed, expected);
    let large = json!({ "app": "a", "model": "m", "estimate": { "input_tokens": 40, "output_tokens": 61 } });
    let denied = server.decide(&large).await;
    let part = |name: &str| denied[name].clone();
    assert_eq!(part("outcome"), "deny", "{denied}");
    assert_eq!(part("limit"), "tokens", "{denied}");
    assert_eq!(
        (part("used"), part("asked"), part("limit_value")),
        ("0".into(), "101".into(), "100".into()),
        "{denied}"
    );
    assert_eq!(
        part("key"),
        json!({ "tenant": "default", "app": "a", "model": "m" }),
        "{denied}"
    );
    assert_eq!(part("headers")["x-tier"], "free", "{denied}");
    assert_eq!(part("denial"), "0000000000000007-1", "{denied}");
}

#[tokio::test]
async fn absent_null_and_explicit_defaults_are_the_same() {
    let server = serve();
    let absent = server.decide(&json!({ "app": "a" })).await;
    let explicit = json!({
        "tenant": "default", "app": "a", "user": null, "session": "", "model": null, "provider": null,
        "route": null, "method": null, "host": null, "path": null, "source_address": null,
        "destination_address": null, "headers": {}, "estimate": {}, "candidates": [], "report": null,
    });
    let explicit = server.decide(&explicit).await;
    assert_eq!(
        (absent["used"].clone(), explicit["used"].clone()),
        ("1".into(), "2".into()),
        "one counter"
    );
}

#[tokio::test]
async fn candidates_and_reports_over_http() {
    let server = serve();
    let report = json!({ "app": "a", "model": "big", "report": { "total_tokens": 150 } });
    let reported = server.decide(&report).await;
    assert_eq!(
        reported["outcome"], "allow",
        "what happened is not refused: {reported}"
    );
    assert_eq!(
        (&reported["limit"], &reported["remaining"]),
        (&json!("tokens"), &json!("0")),
        "{reported}"
    );
    let ask = json!({ "app": "a", "candidates": [
        { "model": "big" }, { "model": "small", "instance": "eu-1" }, { "model": "third" }
    ] });
    let answer = server.decide(&ask).await;
    assert_eq!(
        answer["candidate"],
        json!({ "index": 1, "model": "small", "provider": null, "instance": "eu-1" }),
        "{answer}"
    );
    let cost =
        json!({ "app": "a", "report": { "input_tokens": 1, "cost": "0.000000000000000001" } });
    let answer = server.decide(&cost).await;
    assert_eq!(answer["reason"], "reported", "{answer}");
}

#[tokio::test]
async fn denials_are_listed_by_pages_and_one_by_one() {
    let server = serve();
    for app in ["a", "b c"] {
        for _ in 0..4 {
            drop(server.decide(&json!({ "app": app, "path": "/p" })).await);
        }
    }
    let get = async |path: &str| server.send("GET", path, "", b"").await;
    let page = get("/v1/denials?limit=3").await.json();
    let ids = |page: &Value| -> Vec<String> {
        let denials = page["denials"].as_array().unwrap();
        denials
            .iter()
            .map(|denial| denial["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let id = |number: u64| format!("0000000000000007-{number}");
    assert_eq!(ids(&page), [id(4), id(3), id(2)], "newest first");
    let next = page["next"].as_str().unwrap();
    let last = get(&format!("/v1/denials?limit=3&cursor={next}"))
        .await
        .json();
    assert_eq!(
        (ids(&last), &last["next"]),
        (vec![id(1)], &Value::Null),
        "the end"
    );
    let of_b = get("/v1/denials?app=b%20c&policy=tier").await.json();
    assert_eq!(ids(&of_b), [id(4), id(3)], "filtered");
    let mut one = get("/v1/denials/0000000000000007-1").await.json();
    let grounds = one.as_object_mut().unwrap().remove("grounds");
    assert!(grounds.is_some_and(|grounds| grounds.is_object()), "{one}");
    assert_eq!(one, last["denials"][0], "else the same");
    assert_eq!(one["request"], json!({ "app": "a", "path": "/p" }), "{one}");
    assert_eq!(
        (&one["window_start"], &one["window_end"]),
        (
            &json!("2026-10-24T10:00:00Z"),
            &json!("2026-10-24T10:01:00Z")
        ),
        "{one}"
    );
    for (path, status) in [
        ("/v1/denials/0000000000000007-9", 404),
        ("/v1/denials/nonsense", 400),
        ("/v1/denials?limit=0", 400),
        ("/v1/denials?cursor=x", 400),
        ("/v1/denials?cursor=0000000000000008-3", 400),
        ("/v1/denials?app=%ff", 400),
        ("/v1/denials?application=a", 400),
    ] {
        assert_eq!(get(path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let server = serve();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for number in 0..50 {
        let body = format!("{{\"app\":\"app-{number}\"}}");
        let request = format!(
            "POST /v1/decisions HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4_096];
        while !answer.ends_with(b"}") {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "kept open");
            answer.extend_from_slice(&buffer[..read]);
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains("\"outcome\":\"allow\""), "{text}");
    }
    server.tasks.shutdown().request();
    assert_eq!(
        server.tasks.join().await,
        Ok(()),
        "an idle connection holds up nothing"
    );
}
