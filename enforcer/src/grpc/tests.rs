//! The server over real sockets, by tonic's own client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::account::ReplicaId;
use domain::policy::{compile, read};
use http::uri::PathAndQuery;
use service::{Readiness, Shutdown};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Services;
use super::health::{CHECK, HealthCheckRequest, HealthCheckResponse};
use super::rls::SHOULD_RATE_LIMIT;
use super::wire::{
    Address, AttributeContext, AttributeRequest, CheckRequest, CheckResponse, Descriptor, Entry,
    HttpRequest, LimitOverride, Peer, RateLimitRequest, RateLimitResponse, SocketAddress, Value,
};
use crate::config::{AuthorizeConfig, XRatelimitReset};
use crate::engine::{Engine, PoliciesInForce};
use crate::http::authorize::Identity;
use crate::rls::{OneDomain, Options, Rls, RuleFile, load};
use crate::sockets::SetClock;

const POLICIES: &str = r#"
name: tier
match: { path: { prefix: /v1/chat }, host: gw.example, method: POST, source_address: 10.0.0.0/8 }
limits: [{ name: pace, meter: requests, limit: 1, per: [app, model], window: { fixed: 60s } }]
response: { status: 403, headers: [x_ratelimit] }
---
name: odd
match: { app: odd }
limits: [{ name: none, meter: requests, limit: 0, window: { calendar: day } }]
response: { status: 499 }
"#;

struct Server {
    address: SocketAddr,
    readiness: Readiness,
    shutdown: Shutdown,
}

#[expect(clippy::disallowed_methods, reason = "the test ends with its runtime")]
async fn serve() -> Server {
    let text =
        "{domain: gw, descriptors: [{key: app, rate_limit: {unit: hour, requests_per_unit: 3}}]}";
    let (path, text) = ("a.yaml".to_owned(), text.to_owned());
    let rules = load(&[RuleFile { path, text }], OneDomain::Refused)
        .unwrap()
        .rules;
    let engine = Arc::new(Engine::new(ReplicaId(1), 10));
    let policies = read("test.yaml", POLICIES).unwrap_or_else(|errors| panic!("{errors:?}"));
    engine.swap(PoliciesInForce {
        set: compile(policies).unwrap(),
        ..PoliciesInForce::default()
    });
    let counters = Arc::clone(engine.counters());
    let rls = Arc::new(Rls::new(counters, Options::default()).unwrap());
    rls.swap(rules);
    let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
    let clock = SetClock::at(1_792_875_754_000);
    let authorize = AuthorizeConfig {
        app: Some("X-Tenant-Id".to_owned()),
        body_bytes_max: 32,
        ..AuthorizeConfig::default()
    };
    let services = Arc::new(Services {
        rls,
        engine,
        identity: Identity::new(&authorize),
        reset: XRatelimitReset::Seconds,
        readiness: readiness.clone(),
        clock,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            tokio::spawn(Arc::clone(&services).converse(stream, stop.clone()));
        }
    });
    Server {
        address,
        readiness,
        shutdown,
    }
}

async fn connect(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    endpoint.connect().await.unwrap()
}

async fn call<M, A>(channel: &Channel, path: &'static str, message: M) -> Result<A, Status>
where
    M: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<M, A>::default();
    let path = PathAndQuery::from_static(path);
    let answer = client
        .unary(tonic::Request::new(message), path, codec)
        .await;
    answer.map(tonic::Response::into_inner)
}

fn request(apps: usize) -> RateLimitRequest {
    let descriptors = (0..apps).map(|app| Descriptor {
        entries: vec![Entry {
            key: "app".to_owned(),
            value: format!("a{app}"),
        }],
        limit: None,
        hits_addend: Some(2),
    });
    RateLimitRequest {
        domain: "gw".to_owned(),
        descriptors: descriptors.collect(),
        hits_addend: 0,
    }
}

async fn should_rate_limit(
    channel: &Channel,
    request: RateLimitRequest,
) -> Result<RateLimitResponse, Status> {
    call(channel, SHOULD_RATE_LIMIT, request).await
}

#[tokio::test]
async fn rate_limits_are_asked_for_over_grpc() {
    let server = serve().await;
    let channel = connect(&server).await;
    for (code, remaining) in [(1, 1), (2, 0)] {
        let answer = should_rate_limit(&channel, request(1)).await.unwrap();
        assert_eq!(answer.overall_code, code);
        assert_eq!(answer.statuses[0].limit_remaining, remaining);
        assert_eq!(
            answer.statuses[0]
                .current_limit
                .as_ref()
                .unwrap()
                .requests_per_unit,
            3
        );
    }
    let many = should_rate_limit(&channel, request(1_000)).await.unwrap();
    assert_eq!(
        many.statuses.len(),
        1_000,
        "as many statuses as descriptors"
    );
}

#[tokio::test]
async fn what_is_refused_has_a_status() {
    let server = serve().await;
    let channel = connect(&server).await;
    let refused = async |request| should_rate_limit(&channel, request).await.unwrap_err();
    let empty = refused(RateLimitRequest::default()).await;
    assert_eq!(
        (empty.code(), empty.message()),
        (Code::Unknown, "rate limit domain must not be empty")
    );
    let bare = refused(request(0)).await;
    assert_eq!(
        (bare.code(), bare.message()),
        (
            Code::Unknown,
            "rate limit descriptor list must not be empty"
        )
    );
    let mut unit = request(1);
    unit.descriptors[0].limit = Some(LimitOverride {
        requests_per_unit: 1,
        unit: 99,
    });
    assert_eq!(refused(unit).await.code(), Code::InvalidArgument);
    let huge = refused(request(20_000)).await;
    assert_eq!(huge.code(), Code::OutOfRange, "{huge}");
    let path = "/envoy.service.ratelimit.v3.RateLimitService/Other";
    let other: Result<RateLimitResponse, _> = call(&channel, path, request(1)).await;
    assert_eq!(other.unwrap_err().code(), Code::Unimplemented);
    // What is no protobuf is refused, and the connection goes on.
    let wrong: Result<RateLimitResponse, _> = call(
        &channel,
        SHOULD_RATE_LIMIT,
        Wrong {
            domain: vec![0xff, 0xfe],
        },
    )
    .await;
    assert_eq!(wrong.unwrap_err().code(), Code::Internal, "not UTF-8");
    assert!(
        should_rate_limit(&channel, request(1)).await.is_ok(),
        "it goes on"
    );
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
struct Wrong {
    #[prost(bytes = "vec", tag = "1")]
    domain: Vec<u8>,
}

fn check_of(app: &str, model: Option<&str>, path: &str) -> CheckRequest {
    let headers = [("x-tenant-id", app), ("x-model", "ignored")];
    let headers = headers.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let http = HttpRequest {
        method: "POST".to_owned(),
        headers: headers.into_iter().collect(),
        path: path.to_owned(),
        host: "gw.example:443".to_owned(),
        ..HttpRequest::default()
    };
    let address = SocketAddress {
        address: "10.1.2.3".to_owned(),
    };
    let extensions = model.map(|model| ("model".to_owned(), model.to_owned()));
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                address: Some(Address {
                    socket_address: Some(address),
                }),
            }),
            destination: None,
            request: Some(AttributeRequest { http: Some(http) }),
            context_extensions: extensions.into_iter().collect(),
        }),
    }
}

#[tokio::test]
async fn envoy_asks_for_authorization() {
    let server = serve().await;
    let channel = connect(&server).await;
    let ask = async |request: CheckRequest| -> CheckResponse {
        call(&channel, super::authz::CHECK, request).await.unwrap()
    };
    let path = "/v1/chat/completions?x=1";
    let allowed = ask(check_of("a", Some("m"), path)).await;
    assert_eq!(allowed.status.unwrap().code, 0, "allowed");
    let headers = allowed.ok_response.unwrap().response_headers_to_add;
    let headers: Vec<_> = headers
        .into_iter()
        .filter_map(|option| option.header)
        .collect();
    assert!(
        headers
            .iter()
            .any(|h| h.key == "x-ratelimit-remaining" && h.value == "0"),
        "{headers:?}"
    );
    let denied = ask(check_of("a", Some("m"), path)).await;
    assert_eq!(denied.status.unwrap().code, 8, "denied");
    let response = denied.denied_response.unwrap();
    assert_eq!(response.status.unwrap().code, 403, "the policy's status");
    let body: serde_json::Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(
        (&body["policy"], &body["limit"]),
        (&"tier".into(), &"pace".into()),
        "{body}"
    );
    let fields = denied.dynamic_metadata.unwrap().fields;
    assert_eq!(fields["outcome"], Value::text("deny"));
    assert_eq!(fields["remaining"], Value::text("0"));
    // Others by who asks, and requests that no policy matches, go on.
    for (app, model, path) in [
        ("b", Some("m"), path),
        ("a", Some("other"), path),
        ("a", None, path),
        ("a", Some("m"), "/v1/models"),
    ] {
        let answer = ask(check_of(app, model, path)).await;
        assert_eq!(answer.status.unwrap().code, 0, "{app} {model:?} {path}");
    }
    assert_eq!(
        ask(CheckRequest::default()).await.status.unwrap().code,
        0,
        "nothing is known"
    );
    // A model that only the body names, as text or as bytes, whole and short enough.
    let body = r#"{"model":"m"}"#.to_owned();
    for (text, bytes, code) in [
        (body.clone(), String::new(), 8),
        (String::new(), body.clone(), 8),
        (format!("{body}{}", " ".repeat(32)), String::new(), 0),
    ] {
        let mut request = check_of("a", None, path);
        let attributes = request.attributes.as_mut().unwrap();
        let http = attributes.request.as_mut().unwrap().http.as_mut().unwrap();
        (http.body, http.raw_body) = (text.into(), bytes.into());
        let asked = if code == 0 { "c" } else { "a" };
        http.headers
            .insert("x-tenant-id".to_owned(), asked.to_owned());
        assert_eq!(ask(request).await.status.unwrap().code, code, "{body}");
    }
    // A status that Envoy does not know is told as 429.
    let odd = ask(check_of("odd", None, "/"))
        .await
        .denied_response
        .unwrap();
    assert_eq!(odd.status.unwrap().code, 429);
}

#[tokio::test]
async fn health_is_readiness() {
    let server = serve().await;
    let channel = connect(&server).await;
    let check = async |service: &str| {
        let service = service.to_owned();
        let answer = call(&channel, CHECK, HealthCheckRequest { service }).await;
        answer.map(|answer: HealthCheckResponse| answer.status)
    };
    assert_eq!(check("").await.unwrap(), 2, "not serving");
    server.readiness.ready();
    assert_eq!(check("").await.unwrap(), 1, "serving");
    assert_eq!(check("ratelimit").await.unwrap(), 1, "by name");
    assert_eq!(check("other").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn hostile_peers_end_with_their_connection() {
    let server = serve().await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\xff\xff\x00\x00\x00\x00\x00\x00garbage",
        &[0; 4096],
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        // Closed by the server, with or without a word.
        drop(stream.read_to_end(&mut rest).await);
    }
    let channel = connect(&server).await;
    assert!(
        should_rate_limit(&channel, request(1)).await.is_ok(),
        "others are served"
    );
}

#[tokio::test]
async fn a_preface_comes_whole_and_in_time() {
    const LONG: Duration = Duration::from_secs(60);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let met = async || {
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (peer.unwrap(), accepted.unwrap().0)
    };
    let (mut slow, accepted) = met().await;
    slow.write_all(&super::PREFACE[..1]).await.unwrap();
    accepted.readable().await.unwrap();
    let within = Duration::from_millis(50);
    assert!(
        !super::has_begun(&accepted, within).await,
        "one byte is no preface"
    );

    slow.write_all(&super::PREFACE[1..]).await.unwrap();
    assert!(
        super::has_begun(&accepted, LONG).await,
        "whole, in two pieces"
    );

    let (mut other, accepted) = met().await;
    other.write_all(b"PRI * HTTP/1").await.unwrap();
    assert!(!super::has_begun(&accepted, LONG).await, "another protocol");
    let (gone, accepted) = met().await;
    drop(gone);
    assert!(!super::has_begun(&accepted, LONG).await, "a peer that left");
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    let server = serve().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut bytes =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec();
    // `:method POST`, `:scheme http`, `:path /`, by the static table; then RST_STREAM.
    let headers = [0x83, 0x86, 0x84];
    for id in (1..40_001_u32).step_by(2) {
        bytes.extend_from_slice(&[0, 0, 3, 1, 4]);
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&headers);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 8]);
    }
    let (mut read, mut write) = stream.split();
    let mut rest = Vec::new();
    let sent = async { drop(write.write_all(&bytes).await) };
    let (ended, ()) = tokio::join!(read.read_to_end(&mut rest), sent);
    // A GOAWAY with ENHANCE_YOUR_CALM (11), or a connection that is simply gone.
    let calm = rest.windows(4).any(|bytes| bytes == [0, 0, 0, 11]);
    assert!(calm || ended.is_err(), "the connection was ended: {rest:?}");
    let channel = connect(&server).await;
    assert!(
        should_rate_limit(&channel, request(1)).await.is_ok(),
        "others are served"
    );
}

#[tokio::test]
async fn a_shutdown_ends_idle_connections() {
    let server = serve().await;
    let channel = connect(&server).await;
    assert!(
        should_rate_limit(&channel, request(1)).await.is_ok(),
        "served"
    );
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        .await
        .unwrap();
    // Its own settings say that the connection is served; then the shutdown tells it to leave.
    assert_eq!(frame_kind(&mut idle).await, SETTINGS, "served");
    server.shutdown.request();
    while frame_kind(&mut idle).await != GOAWAY {}
}

const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Reads one frame of HTTP/2 and returns its type.
async fn frame_kind(stream: &mut TcpStream) -> u8 {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let [high, middle, low, kind, ..] = head;
    let length = u32::from_be_bytes([0, high, middle, low]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.unwrap();
    kind
}
