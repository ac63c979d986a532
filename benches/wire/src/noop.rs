//! Servers that read a request as a decision would and answer the same each time.
//!
//! Invariant: the framework's own way to a typed request and back, and nothing else. Deliberately
//! absent: limits, counters, headers.

use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::path::Path;

use axum::http::header::CONTENT_TYPE;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use tokio::net::TcpListener;
use tonic::server::{Grpc, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::messages::{OK, RateLimitRequest, RateLimitResponse, Status};
use crate::{Protocol, cores};

/// What is answered where no file says otherwise.
const ANSWER: &[u8] = br#"{"outcome":"allow","policy":"bench","limit":"pace","key":"app-00000","used":"1","limit_value":"1000000000000","remaining":"999999999999","reset":60,"as_of":"2026-11-21T12:00:00Z","headers":{}}"#;

/// Serves until the process is ended.
///
/// # Errors
///
/// The address cannot be listened at, or the answer not be read.
pub(crate) fn run(
    protocol: Protocol,
    address: SocketAddrV4,
    threads: usize,
    answer: Option<&Path>,
) -> Result<(), String> {
    match protocol {
        Protocol::Http => {
            let answer = match answer {
                Some(path) => std::fs::read(path).map_err(crate::text)?.into(),
                None => Bytes::from_static(ANSWER),
            };
            cores::run(address, threads, move |listener| {
                http(listener, answer.clone())
            })
        }
        Protocol::Grpc => cores::run(address, threads, grpc),
    }
}

/// The fields of a request that the generator sends.
#[derive(Deserialize)]
struct Asked {
    app: String,
    model: Option<String>,
    path: Option<String>,
}

async fn http(listener: TcpListener, answer: Bytes) -> Result<(), String> {
    let decide = async move |Json(asked): Json<Asked>| {
        std::hint::black_box((&asked.app, &asked.model, &asked.path));
        ([(CONTENT_TYPE, "application/json")], answer)
    };
    let router = Router::new()
        .route("/v1/decisions", post(decide))
        .route("/readyz", get(async || "ready"));
    // Where it cannot be set, an answer is late and no less right.
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap_or_default());
    axum::serve(listener, router).await.map_err(crate::text)
}

/// Answers a rate limit request with one status.
#[derive(Clone, Copy)]
struct Allow;

impl UnaryService<RateLimitRequest> for Allow {
    type Response = RateLimitResponse;
    type Future = std::future::Ready<Result<tonic::Response<RateLimitResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<RateLimitRequest>) -> Self::Future {
        std::hint::black_box(request.get_ref());
        let status = Status {
            code: OK,
            limit_remaining: 999_999,
            ..Status::default()
        };
        std::future::ready(Ok(tonic::Response::new(RateLimitResponse {
            overall_code: OK,
            statuses: vec![status],
        })))
    }
}

async fn grpc(listener: TcpListener) -> Result<(), String> {
    let service = service_fn(async |request: http::Request<tonic::body::Body>| {
        let mut grpc = Grpc::new(ProstCodec::<RateLimitResponse, RateLimitRequest>::default());
        Ok::<_, Infallible>(grpc.unary(Allow, request).await)
    });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .serve_with_incoming(service, incoming)
        .await
        .map_err(crate::text)
}
