//! A receiver of OTLP: a real server that decodes what comes, over HTTP and over gRPC.
//!
//! Invariant: it keeps everything that it takes, and takes it only as the protocol says: its paths, its
//! content types. Deliberately absent: anything of the product's; the messages are OpenTelemetry's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;

/// Attributes by name, as text.
pub type Attributes = BTreeMap<String, String>;

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Who sent it.
    pub resource: Attributes,
    /// The span.
    pub span: Span,
    /// What it says.
    pub attributes: Attributes,
}

impl Sent {
    /// Returns the trace's id in hexadecimal digits.
    #[must_use]
    pub fn trace(&self) -> String {
        hexadecimal(&self.span.trace_id)
    }

    /// Returns an attribute; empty where there is none.
    #[must_use]
    pub fn says(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<Sent>>,
    metrics: Mutex<Vec<ExportMetricsServiceRequest>>,
    headers: Mutex<Vec<HeaderMap>>,
    is_silent: AtomicBool,
}

/// A running receiver.
pub struct Receiver {
    port: u16,
    kept: Arc<Kept>,
    _runtime: tokio::runtime::Runtime,
}

impl Receiver {
    /// Starts one that takes everything, on any free port.
    #[must_use]
    pub fn start() -> Self {
        Self::start_on(0)
    }

    /// Starts one on a port.
    #[must_use]
    pub fn start_on(port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", port)));
        let listener = listener.unwrap();
        let port = listener.local_addr().unwrap().port();
        let kept = Arc::new(Kept::default());
        let keeping = Arc::clone(&kept);
        let handle = runtime.handle().clone();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let keeping = Arc::clone(&keeping);
                let connection = async move {
                    let service = service_fn(|request| answer(Arc::clone(&keeping), request));
                    let server = auto::Builder::new(TokioExecutor::new());
                    let served = server.serve_connection(TokioIo::new(stream), service).await;
                    // Whoever sends may end at any time.
                    drop(served);
                };
                handle.spawn(connection);
            }
        });
        Self {
            port,
            kept,
            _runtime: runtime,
        }
    }

    /// Has it take connections and never answer.
    #[must_use]
    pub fn silent(self) -> Self {
        self.kept.is_silent.store(true, Ordering::Relaxed);
        self
    }

    /// Returns its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the spans of a service, as they came.
    #[must_use]
    pub fn spans(&self, service: &str) -> Vec<Sent> {
        let all = self.kept.spans.lock();
        let of_service = all.iter().filter(|sent| {
            sent.resource
                .get("service.name")
                .is_some_and(|name| name == service)
        });
        of_service.cloned().collect()
    }

    /// Returns the last value that a service sent of a series with these attributes: of a histogram how
    /// many were counted.
    #[must_use]
    pub fn metric(&self, service: &str, name: &str, attributes: &[(&str, &str)]) -> Option<f64> {
        let wanted: Attributes = attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let all = self.kept.metrics.lock();
        let metrics = all.iter().flat_map(|request| &request.resource_metrics);
        let of_service = metrics.filter(|of_resource| {
            let resource = of_resource.resource.as_ref();
            resource.is_some_and(|resource| {
                texts(&resource.attributes)
                    .get("service.name")
                    .map(String::as_str)
                    == Some(service)
            })
        });
        let metrics = of_service
            .flat_map(|of_resource| &of_resource.scope_metrics)
            .flat_map(|of_scope| &of_scope.metrics);
        let named = metrics.filter(|metric| metric.name == name);
        named
            .filter_map(|metric| value_of(metric, &wanted))
            .next_back()
    }

    /// Returns the headers of each export.
    #[must_use]
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.kept.headers.lock().clone()
    }
}

#[expect(clippy::cast_precision_loss, reason = "tests count little")]
fn value_of(metric: &Metric, wanted: &Attributes) -> Option<f64> {
    let points = match metric.data.as_ref()? {
        Data::Gauge(gauge) => &gauge.data_points,
        Data::Sum(sum) => {
            assert!(sum.is_monotonic, "{} grows", metric.name);
            &sum.data_points
        }
        Data::Histogram(histogram) => {
            let mut points = histogram.data_points.iter();
            let point = points.find(|point| texts(&point.attributes) == *wanted)?;
            let sum: u64 = point.bucket_counts.iter().sum();
            assert_eq!(sum, point.count, "{}'s buckets", metric.name);
            assert_eq!(
                point.bucket_counts.len(),
                point.explicit_bounds.len() + 1,
                "{}'s bounds",
                metric.name
            );
            return Some(point.count as f64);
        }
        other => panic!("{} is none of ours: {other:?}", metric.name),
    };
    let mut points = points.iter();
    let point = points.find(|point| texts(&point.attributes) == *wanted)?;
    Some(match point.value? {
        number_data_point::Value::AsInt(value) => value as f64,
        number_data_point::Value::AsDouble(value) => value,
    })
}

type Answered = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(
    kept: Arc<Kept>,
    request: Request<Incoming>,
) -> Result<Response<Answered>, Infallible> {
    if kept.is_silent.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let body = body.to_bytes();
    let content = parts.headers.get("content-type");
    let content = content
        .and_then(|content| content.to_str().ok())
        .unwrap_or_default();
    let (message, is_grpc) = match content {
        "application/x-protobuf" => (body, false),
        "application/grpc" => {
            let [0, a, b, c, d] = body[..5] else {
                panic!("an uncompressed message: {:?}", &body[..5]);
            };
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            assert_eq!(length, body.len() - 5, "one message");
            (body.slice(5..), true)
        }
        other => panic!("{other} is no content of OTLP"),
    };
    match parts.uri.path() {
        "/v1/traces" | "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
            keep_spans(&kept, message);
        }
        "/v1/metrics" | "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
            let message = ExportMetricsServiceRequest::decode(message).expect("metrics");
            kept.metrics.lock().push(message);
        }
        other => panic!("{other} is no path of OTLP"),
    }
    kept.headers.lock().push(parts.headers);
    if !is_grpc {
        return Ok(status(StatusCode::OK));
    }
    let trailers = HeaderMap::from_iter([(
        "grpc-status".parse().unwrap(),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(Bytes::from_static(&[0; 5]));
    let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed_unsync());
    let content = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", content);
    Ok(response)
}

fn keep_spans(kept: &Kept, message: Bytes) {
    let message = ExportTraceServiceRequest::decode(message).expect("spans");
    for of_resource in message.resource_spans {
        let resource = of_resource.resource.unwrap_or_default();
        let resource = texts(&resource.attributes);
        let spans = of_resource
            .scope_spans
            .into_iter()
            .flat_map(|of_scope| of_scope.spans);
        kept.spans.lock().extend(spans.map(|span| Sent {
            resource: resource.clone(),
            attributes: texts(&span.attributes),
            span,
        }));
    }
}

fn status(status: StatusCode) -> Response<Answered> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = status;
    response
}

fn texts(attributes: &[KeyValue]) -> Attributes {
    let texts = attributes.iter().map(|attribute| {
        let value = attribute
            .value
            .as_ref()
            .and_then(|value| value.value.as_ref());
        (attribute.key.clone(), value.map_or_else(String::new, text))
    });
    texts.collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::ArrayValue(array) => {
            let values = array.values.iter().filter_map(|value| value.value.as_ref());
            values.map(text).collect::<Vec<_>>().join(" ")
        }
        other => panic!("no attribute is {other:?}"),
    }
}

/// Writes bytes in hexadecimal digits.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
