//! A push as a whole, against receivers of the tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use metrics::{counter, with_local_recorder};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;

use super::*;
use crate::config::Environment;

type Received = Arc<Mutex<Vec<(HeaderMap, ExportMetricsServiceRequest)>>>;

fn settings(port: u16, more: &[(&str, &str)]) -> OtlpSettings {
    let base = format!("http://127.0.0.1:{port}/below");
    let all = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", base.as_str()),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret"),
    ];
    let all = all.iter().chain(more);
    let environment: Environment = all
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    OtlpSettings::read(&environment, "test").expect("settings")
}

/// A registry that counted to 7.
fn counted() -> Metrics {
    let (metrics, recorder) = Metrics::detached();
    with_local_recorder(&recorder, || counter!("things_total").increment(7));
    metrics
}

/// Serves a receiver that refuses the first exports, and returns its port and what it took.
async fn receiver(refusals: usize) -> (u16, Received) {
    let received = Received::default();
    let taken = Arc::clone(&received);
    let tries = Arc::new(AtomicUsize::new(0));
    let answer = move |headers: HeaderMap, body: Bytes| {
        let status = if tries.fetch_add(1, Ordering::Relaxed) < refusals {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            let message = ExportMetricsServiceRequest::decode(body).expect("protobuf");
            taken.lock().push((headers, message));
            StatusCode::OK
        };
        std::future::ready(status)
    };
    let routes = Router::new().route("/below/v1/metrics", post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    #[expect(clippy::disallowed_methods, reason = "a server of the test's")]
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (port, received)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_pushed_and_once_more_at_the_end() {
    let (port, received) = receiver(2).await;
    let metrics = counted();
    let push = Otlp::start(&settings(port, &[]), Some(&metrics)).expect("a push");
    timeout(Duration::from_secs(20), async {
        while received.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("refusals pass");
    let before = received.lock().len();
    push.stop(Duration::from_secs(10)).await;
    let received = received.lock();
    assert!(received.len() > before, "the last numbers go out");
    let (headers, message) = received.last().expect("some");
    assert_eq!(headers["x-key"], "secret", "the variable's header");
    assert_eq!(
        headers["content-type"], "application/x-protobuf",
        "what it is"
    );
    let of_resource = &message.resource_metrics[0];
    let names = of_resource
        .resource
        .iter()
        .flat_map(|resource| &resource.attributes);
    assert!(
        names
            .clone()
            .any(|attribute| attribute.key == "service.name"),
        "who sends"
    );
    let metrics = &of_resource.scope_metrics[0].metrics;
    assert!(
        metrics.iter().any(|metric| metric.name == "things_total"),
        "{metrics:?}"
    );
}

/// A receiver that takes connections and says nothing holds nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_does_not_wait_for_a_silent_receiver() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    for protocol in ["http/protobuf", "grpc"] {
        let more = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
        let push = Otlp::start(&settings(port, &more), Some(&counted())).expect("a push");
        let (_connection, _) = listener.accept().await.expect("it connects");
        let began = tokio::time::Instant::now();
        push.stop(Duration::from_millis(200)).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{protocol}: {took:?}");
    }
}

#[tokio::test]
async fn nothing_runs_where_nothing_is_asked_for() {
    let settings = OtlpSettings::read(&Environment::default(), "test").expect("settings");
    let push = Otlp::start(&settings, None).expect("nothing");
    assert!(push.running.is_none(), "no thread");
    assert!(!spans::is_on(), "no tracer");
    assert!(spans::begin("x", &HeaderMap::new()).is_none(), "no span");
    push.stop(Duration::ZERO).await;
}

#[test]
fn half_of_a_client_certificate_is_refused() {
    for (name, sentence) in [
        (
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            "names the key of a certificate",
        ),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            "names a certificate whose key",
        ),
    ] {
        let half = settings(1, &[(name, "/nowhere/at/all.pem")]);
        let error = Otlp::start(&half, Some(&counted())).expect_err("half");
        let text = error.to_string();
        assert!(text.starts_with(&format!("{name} {sentence}")), "{text}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_refused_with_its_variable() {
    let more = [("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/at/all.pem")];
    let mut secure = settings(1, &more);
    let pushed = secure.metrics.as_mut().expect("on");
    pushed.target.url = "https://127.0.0.1:1/".parse().expect("a URL");
    let error = Otlp::start(&secure, Some(&counted())).expect_err("no file");
    let text = error.to_string();
    assert!(
        text.starts_with("OTEL_EXPORTER_OTLP_CERTIFICATE names /nowhere/at/all.pem"),
        "{text}"
    );
}
