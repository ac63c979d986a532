//! Servers that read a request as a decision would and answer the same each time.
//!
//! Invariant: the framework's own way to a typed request and back, and nothing else, on the product's
//! own threads and listeners; so the decision is the difference. Deliberately absent: limits, counters,
//! headers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;

use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use service::cores::{self, Bounds, Sockets};
use service::http::Exposure;
use service::tasks::TaskResult;
use service::{Failure, Shutdown, Tasks};
use tokio::net::TcpListener;
use tonic::server::{Grpc, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::Protocol;
use crate::messages::{OK, RateLimitRequest, RateLimitResponse, Status};

/// What is answered where no file says otherwise.
const ANSWER: &[u8] = br#"{"outcome":"allow","policy":"bench","limit":"pace","key":"app-00000","used":"1","limit_value":"1000000000000","remaining":"999999999999","reset":60,"as_of":"2026-11-21T12:00:00Z","headers":{}}"#;

/// Serves until the process is ended.
///
/// # Errors
///
/// The address cannot be listened at, or the answer not be read.
pub(crate) fn run(
    protocol: Protocol,
    address: SocketAddr,
    threads: Option<NonZeroUsize>,
    answer: Option<&Path>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(crate::text)?;
    runtime.block_on(async {
        let tasks = Tasks::new(Shutdown::new());
        let cores = threads.unwrap_or_else(cores::available);
        let sockets = Sockets::bind(address, Exposure::Loopback, cores).map_err(crate::text)?;
        let spawned = match protocol {
            Protocol::Http => {
                let service = TowerToHyperService::new(http(answer)?);
                sockets.spawn(&tasks, "http", Bounds::default(), move |core| {
                    core.serve_http1(service.clone())
                })
            }
            Protocol::Grpc => sockets.spawn(&tasks, "grpc", Bounds::default(), |core| {
                grpc(core.listener)
            }),
        };
        spawned.map_err(crate::text)?;
        let joined = tasks.join().await;
        joined.map_err(|failure| failure.sentence().to_owned())
    })
}

/// The fields of a request that the generator sends.
#[derive(Deserialize)]
struct Asked {
    app: String,
    model: Option<String>,
    path: Option<String>,
}

fn http(answer: Option<&Path>) -> Result<Router, String> {
    let answer = match answer {
        Some(path) => std::fs::read(path).map_err(crate::text)?.into(),
        None => Bytes::from_static(ANSWER),
    };
    let decide = async move |Json(asked): Json<Asked>| {
        std::hint::black_box((&asked.app, &asked.model, &asked.path));
        ([(CONTENT_TYPE, "application/json")], answer)
    };
    Ok(Router::new().route("/v1/decisions", post(decide)))
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

async fn grpc(listener: TcpListener) -> TaskResult {
    let service = service_fn(async |request: http::Request<tonic::body::Body>| {
        let mut grpc = Grpc::new(ProstCodec::<RateLimitResponse, RateLimitRequest>::default());
        Ok::<_, Infallible>(grpc.unary(Allow, request).await)
    });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder().serve_with_incoming(service, incoming);
    let served = served.await;
    served.map_err(|error| Failure::unexpected(error.to_string()))
}
