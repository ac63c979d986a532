//! The protocols over real sockets: what they answer, and what they refuse.

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
async fn what_cannot_be_read_is_refused_with_a_sentence() {
    let server = serve();
    let deep = format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000));
    let many = json!({ "candidates": vec![json!({ "model": "m" }); 1_000] }).to_string();
    let headers: serde_json::Map<_, _> = (0..201).map(|n| (format!("h{n}"), json!("v"))).collect();
    let headers = json!({ "headers": headers }).to_string();
    let long = json!({ "app": "x".repeat(257) }).to_string();
    let cases: [(&[u8], &str); 26] = [
        (b"{\"estimate\":[1,2]}", "an object"),
        (b"{\"candidates\":[[\"m\"]]}", "an object"),
        (b"", "cannot be read"),
        (b"nonsense", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"\"text\"", "cannot be read"),
        (b"{} {}", "trailing"),
        (b"{\"app\":\"a\",\"app\":\"b\"}", "duplicate field"),
        (b"{\"app\":7}", "a text"),
        (b"{\"app\":\"\xff\xfe\"}", "cannot be read"),
        (b"{\"app\":\"\\ud800\"}", "cannot be read"),
        (b"{\"modle\":\"m\"}", "did you mean \"model\"?"),
        (
            b"{\"estimate\":{\"tokens\":1}}",
            "there is no field \"tokens\"",
        ),
        (
            b"{\"candidates\":[{\"modell\":\"m\"}]}",
            "did you mean \"model\"?",
        ),
        (b"{\"estimate\":{\"input_tokens\":-1}}", "cannot be read"),
        (b"{\"estimate\":{\"input_tokens\":1.5}}", "cannot be read"),
        (
            b"{\"estimate\":{\"input_tokens\":9007199254740993}}",
            "is above",
        ),
        (b"{\"report\":{\"total_tokens\":1e3}}", "cannot be read"),
        (b"{\"report\":{\"cost\":0.5}}", "a text"),
        (b"{\"report\":{\"cost\":\"-1\"}}", "never negative"),
        (
            b"{\"report\":{\"input_tokens\":1,\"output_tokens\":1,\"total_tokens\":3}}",
            "total_tokens is not the sum",
        ),
        (
            b"{\"report\":{},\"candidates\":[{}]}",
            "leave `candidates` out",
        ),
        (deep.as_bytes(), "cannot be read"),
        (many.as_bytes(), "1000 of them; send at most 100"),
        (headers.as_bytes(), "more than 200 headers"),
        (long.as_bytes(), "app: 257 bytes long"),
    ];
    for (body, expected) in cases {
        let got = server.send("POST", "/v1/decisions", "", body).await;
        let shown = String::from_utf8_lossy(body.get(..80).unwrap_or(body)).into_owned();
        assert_eq!(got.status, 400, "{shown}");
        assert_eq!(
            got.header("content-type"),
            Some("application/problem+json"),
            "{shown}"
        );
        let detail = got.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(expected), "{shown}: {detail}");
        assert!(detail.len() <= 512, "{shown}: {detail}");
    }
    assert_eq!(server.engine.counters().count(), 0, "nothing was charged");
}

#[tokio::test]
async fn what_is_too_large_is_refused_unread() {
    let server = serve();
    let head = "POST /v1/decisions HTTP/1.1\r\nhost: test\r\nconnection: close\r\n";
    let said = format!("{head}content-length: 1000000000000\r\n\r\n{{");
    assert_eq!(
        server.raw(said.as_bytes()).await.status,
        413,
        "by what it says"
    );
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..20 {
        chunked.extend_from_slice(b"2000\r\n");
        chunked.extend_from_slice(&[b' '; 0x2000]);
        chunked.extend_from_slice(b"\r\n");
    }
    assert_eq!(server.raw(&chunked).await.status, 413, "by what it sends");
    let huge = format!(
        "GET /{} HTTP/1.1\r\nhost: test\r\n\r\n",
        "x".repeat(300_000)
    );
    let status = server.raw(huge.as_bytes()).await.status;
    assert!((400..500).contains(&status) || status == 0, "{status}");
    let many: String = (0..5_000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let status = server.send("GET", "/v1/authorize", &many, b"").await.status;
    assert!((400..500).contains(&status) || status == 0, "{status}");
    let next = server.send("GET", "/v1/authorize", "", b"").await.status;
    assert_eq!(next, 200, "the next one is served");
}

/// A body that never comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn bodies_that_never_come_are_not_waited_for() {
    let router = asm::routes(Arc::new(asm::Asm::new("[]").unwrap()), Arc::new(Stands));
    let mut request = Request::new(Body::new(Never));
    *request.uri_mut() = "/update_ratelimit_record".parse().unwrap();
    let answer = routed(router, request, Duration::from_millis(1)).await;
    assert_eq!(answer.status(), 408, "after its time");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let server = serve();
    for (method, path, status) in [
        ("GET", "/v1/decisions", 405),
        ("POST", "/v1/decisions/", 404),
        ("GET", "/", 404),
        ("GET", "/v1/authorized", 404),
        ("DELETE", "/v1/denials", 405),
    ] {
        let got = server.send(method, path, "", b"").await;
        assert_eq!(got.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn sub_requests_of_any_method_and_path_are_decided() {
    let server = serve();
    let who = "x-tenant-id: a\r\nx-model: m\r\n";
    let allowed = server.send("GET", "/v1/authorize", who, b"").await;
    assert_eq!((allowed.status, allowed.body.len()), (200, 0), "allowed");
    let limits = "\"pace\";r=1;t=60, \"tokens\";r=100;t=50400";
    assert_eq!(allowed.header("ratelimit"), Some(limits), "told");
    let below = server
        .send("PURGE", "/v1/authorize/any/path?x=1", who, b"")
        .await;
    assert_eq!(below.status, 200, "any method, any path");

    let refused = server
        .send("POST", "/v1/authorize", who, b"a body that nobody reads")
        .await;
    assert_eq!(refused.status, 403, "the policy's status");
    for (name, value) in [
        ("x-tier", "free"),
        ("retry-after", "60"),
        ("content-type", "application/problem+json"),
    ] {
        assert_eq!(refused.header(name), Some(value), "{name}");
    }
    let body = refused.json();
    assert_eq!(
        (&body["status"], &body["detail"]),
        (&json!(403), &json!("come back later")),
        "{body}"
    );
    assert_eq!(body["violated-policies"], json!(["pace"]), "{body}");
    assert_eq!(body["error"]["code"], "rate_limit_exceeded", "{body}");
    assert_eq!(
        body["key"],
        json!({ "tenant": "default", "app": "a" }),
        "{body}"
    );
    assert_eq!(
        (&body["used"], &body["limit_value"]),
        (&json!("2"), &json!("2")),
        "{body}"
    );
}

#[tokio::test]
async fn identity_comes_from_named_headers_alone() {
    let server = serve();
    for _ in 0..3 {
        let who = "x-user-id: a\r\nx-app: a\r\napp: a\r\ntenant: other\r\nx-tenant-id: \r\n";
        drop(server.send("GET", "/v1/authorize", who, b"").await);
    }
    let answer = server.decide(&json!({})).await;
    assert_eq!(
        answer["outcome"], "deny",
        "nobody is one application: {answer}"
    );
    assert_eq!(
        answer["key"],
        json!({ "tenant": "default", "app": null }),
        "{answer}"
    );
}

#[tokio::test]
async fn an_identity_that_comes_twice_is_none() {
    let server = serve();
    let who = "x-tenant-id: a\r\nx-tenant-id: b\r\n";
    drop(server.send("GET", "/v1/authorize", who, b"").await);
    for (app, used) in [(Value::Null, "2"), (json!("a"), "1"), (json!("b"), "1")] {
        let answer = server.decide(&json!({ "app": app })).await;
        assert_eq!(answer["used"], used, "{answer}");
    }
}

#[tokio::test]
async fn the_original_request_comes_from_where_the_settings_say() {
    use OriginalRequest::{Request, XForwarded, XOriginal};
    let forwarded = "x-forwarded-method: POST\r\nx-forwarded-host: gw.example:8443\r\nx-forwarded-uri: /v1/chat/completions?x=1\r\n";
    let original = "x-original-method: POST\r\nx-original-url: https://gw.example/v1/chat?x\r\nx-original-host: gw.example\r\n";
    let other = "x-forwarded-method: POST\r\nx-forwarded-host: gw.example\r\nx-forwarded-uri: /v1/models\r\n";
    let host = "x-forwarded-host: gw.example\r\n";
    let twice = "x-forwarded-uri: /v1/chat\r\nx-forwarded-uri: /v1/chat\r\n";
    let chat = "/v1/authorize/v1/chat/completions";
    let cases = [
        (
            XForwarded,
            "GET",
            "/v1/authorize",
            forwarded.to_owned(),
            429,
        ),
        (XForwarded, "GET", "/v1/authorize", original.to_owned(), 200),
        (
            XForwarded,
            "GET",
            "/v1/authorize",
            format!("{original}{other}"),
            200,
        ),
        // What it does not say is that of the sub-request.
        (XForwarded, "POST", chat, host.to_owned(), 429),
        (
            XForwarded,
            "POST",
            "/v1/authorize/v1/models",
            host.to_owned(),
            200,
        ),
        (
            XForwarded,
            "POST",
            "/v1/authorize",
            format!("{host}{twice}"),
            200,
        ),
        (XOriginal, "GET", "/v1/authorize", original.to_owned(), 429),
        (XOriginal, "GET", "/v1/authorize", forwarded.to_owned(), 200),
        (
            XOriginal,
            "GET",
            "/v1/authorize",
            format!("{other}{original}"),
            429,
        ),
        (
            Request,
            "POST",
            "/v1/authorize",
            format!("{forwarded}{original}"),
            200,
        ),
        (
            Request,
            "POST",
            "/v1/authorize/v1/models",
            forwarded.to_owned(),
            200,
        ),
    ];
    for (number, (from, method, path, headers, status)) in cases.into_iter().enumerate() {
        let server = serve_from(from);
        let headers = format!("x-tenant-id: app-{number}\r\n{headers}");
        let got = server.send(method, path, &headers, b"").await;
        assert_eq!(got.status, status, "{from:?}: {method} {path} {headers}");
    }
}

#[tokio::test]
async fn a_sub_request_is_read_itself_by_default() {
    let other = "x-forwarded-host: gw.example\r\nx-forwarded-uri: /v1/models\r\n";
    let chat = "/v1/authorize/v1/chat/completions";
    let server = serve();
    let own = format!("POST {chat} HTTP/1.1\r\nhost: gw.example\r\nconnection: close\r\n");
    let own = format!("{own}{other}x-tenant-id: own\r\n\r\n");
    let got = server.raw(own.as_bytes()).await;
    assert_eq!(
        got.status, 429,
        "the sub-request itself, whatever its headers say"
    );
}

#[tokio::test]
async fn the_clients_address_is_the_one_that_the_gateway_wrote() {
    use OriginalRequest::{Request, XForwarded, XOriginal};
    let (inside, outside) = ("192.0.2.1, 10.1.2.3", "10.1.2.3, 192.0.2.1");
    let cases = [
        // The address that the gateway appended, not the one that the client made up.
        (Request, format!("x-forwarded-for: {inside}\r\n"), 429),
        (Request, format!("x-forwarded-for: {outside}\r\n"), 200),
        (XForwarded, format!("x-forwarded-for: {inside}\r\n"), 429),
        (XForwarded, "x-real-ip: 10.1.2.3\r\n".to_owned(), 200),
        (XOriginal, "x-real-ip: 10.1.2.3\r\n".to_owned(), 429),
        (XOriginal, format!("x-forwarded-for: {inside}\r\n"), 200),
    ];
    for (number, (from, headers, status)) in cases.into_iter().enumerate() {
        let headers = format!("x-tenant-id: app-{number}\r\n{headers}");
        let got = serve_from(from)
            .send("GET", "/v1/authorize", &headers, b"")
            .await;
        assert_eq!(got.status, status, "{from:?}: {headers}");
    }
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
    let one = get("/v1/denials/0000000000000007-1").await.json();
    assert_eq!(one, last["denials"][0], "the same");
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

#[tokio::test]
async fn a_model_is_read_from_a_body_where_no_header_names_it() {
    let mut authorize = AuthorizeConfig {
        app: Some("x-tenant-id".to_owned()),
        model: Some("x-model".to_owned()),
        ..AuthorizeConfig::default()
    };
    let body = br#"{"messages":[],"model":"dear"}"#;
    let path = "/v1/authorize/v1/messages";
    let deaf = serve_by(&authorize).send("POST", path, "", body).await;
    assert_eq!(
        deaf.status, 200,
        "bodies are not read unless the settings say so"
    );
    authorize.body_bytes_max = 64;
    let server = serve_by(&authorize);
    let long = format!("{{\"model\":\"dear\",\"x\":\"{}\"}}", "x".repeat(64));
    let longest = vec![b' '; 4 * 1_024 * 1_024];
    for (what, headers, body, status) in [
        ("named", "", &body[..], 429),
        (
            "a header stands above it",
            "x-model: cheap\r\n",
            &body[..],
            200,
        ),
        (
            "of two headers none counts",
            "x-model: a\r\nx-model: b\r\n",
            &body[..],
            429,
        ),
        ("none", "", b"", 200),
        ("cut", "", &body[..20], 200),
        ("twice", "", br#"{"model":"dear","model":"x"}"#, 200),
        ("too long", "", long.as_bytes(), 200),
        ("far too long", "", &longest, 200),
    ] {
        // Each by somebody else, so that no other limit refuses it.
        let headers = format!("x-tenant-id: {what}\r\n{headers}");
        let got = server.send("POST", path, &headers, body).await;
        // Of one that sends on and on, the connection ends.
        let is_cut = body.len() == longest.len() && got.status == 0;
        assert!(got.status == status || is_cut, "{what}: {}", got.status);
    }
    assert_eq!(
        server.send("POST", path, "", body).await.status,
        429,
        "it goes on"
    );
}
