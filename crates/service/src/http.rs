//! The process's HTTP listener: health, readiness, metrics, and whatever routes a room adds.
//!
//! Invariant: a peer that sends nothing, or its headers slowly, holds a connection for a bounded
//! time, and the number of connections is bounded. Deliberately absent: authentication; so a
//! listener beyond loopback is refused unless the configuration says `insecure`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::cores;
use crate::exit::Failure;
use crate::health::Readiness;
use crate::shutdown::Shutdown;
use crate::tasks::{TaskResult, Tasks};
use crate::telemetry::Metrics;

/// How long a peer may take to send a request's headers, also the first ones, and how long an idle
/// connection is kept. A scraper asks each 15 s and may connect anew each time.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);

/// Connections served at once; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 256;

/// How long a listener rests after the system refused it a connection, mostly for want of file
/// descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Why a listener does not listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address is beyond loopback, where anyone could read; the configuration should change.
    #[error("{address} is not a loopback address, and the listener asks for no key")]
    Insecure {
        /// The address as configured.
        address: SocketAddr,
    },
    /// The system refused the address; another should be chosen.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Who may reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Processes of this machine only.
    Loopback,
    /// Anyone who reaches the address; the configuration says so.
    Insecure,
}

/// A socket that listens, before it is served.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes the address; port 0 takes any free one.
    ///
    /// # Errors
    ///
    /// [`ListenError::Insecure`] for an address beyond loopback without [`Exposure::Insecure`];
    /// [`ListenError::Bind`] where the system refuses. The caller should stop.
    pub async fn bind(address: SocketAddr, exposure: Exposure) -> Result<Self, ListenError> {
        if exposure == Exposure::Loopback && !address.ip().is_loopback() {
            return Err(ListenError::Insecure { address });
        }
        let refused = |source| ListenError::Bind { address, source };
        let socket = TcpListener::bind(address).await.map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        Ok(Self { socket, address })
    }

    /// Returns the address it listens on, with its real port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the routes as a task until the shutdown; requests in hand are finished.
    pub fn serve(self, routes: Router, tasks: &Tasks) {
        let task = accept(self.socket, routes, tasks.clone());
        tasks.spawn("http listener", task);
    }
}

/// Returns the routes that every process has: `/livez` and `/healthz`, which answer while the process
/// turns, `/readyz`, which says why where it is not ready, and `/metrics`.
pub fn routes(readiness: Readiness, metrics: Metrics, shutdown: Shutdown) -> Router {
    Router::new()
        .route("/livez", get(alive))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready).with_state((readiness, shutdown)))
        .route("/metrics", get(scrape).with_state(metrics))
}

async fn alive() -> &'static str {
    "ok\n"
}

async fn ready(State((readiness, shutdown)): State<(Readiness, Shutdown)>) -> Response {
    let reason = if shutdown.is_requested() {
        Some("draining".to_owned())
    } else {
        readiness.reason()
    };
    match reason {
        None => match readiness.lack() {
            None => "ready\n".into_response(),
            Some(lack) => format!("ready, without {lack}\n").into_response(),
        },
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        )
            .into_response(),
    }
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        metrics.render(),
    )
        .into_response()
}

async fn accept(socket: TcpListener, routes: Router, tasks: Tasks) -> TaskResult {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Some(place) = tasks
            .shutdown()
            .unless_requested(places.clone().acquire_owned())
            .await
        else {
            return Ok(());
        };
        let place =
            place.map_err(|_closed| Failure::unexpected("the listener's semaphore closed"))?;
        let Some(accepted) = tasks.shutdown().unless_requested(socket.accept()).await else {
            return Ok(());
        };
        match accepted {
            Ok((stream, _peer)) => {
                let connection = converse(stream, routes.clone(), tasks.shutdown().clone());
                tasks.spawn_errand("http connection", async move {
                    connection.await;
                    drop(place);
                    Ok(())
                });
            }
            Err(error) => {
                tracing::warn!(error.text = %error, "a connection was refused by the system");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Serves one connection as a core does ([`cores::converse`]).
async fn converse(stream: TcpStream, routes: Router, shutdown: Shutdown) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN);
    let service = TowerToHyperService::new(routes);
    cores::converse(&builder, TokioIo::new(stream), service, shutdown).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("the request is taken");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("an answer in text");
        answer
    }

    #[tokio::test]
    async fn readiness_and_metrics_are_served() {
        let tasks = Tasks::new(Shutdown::new());
        let readiness = Readiness::new();
        let metrics = Metrics::start().expect("the first registry");
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(loopback, Exposure::Loopback)
            .await
            .expect("a free port");
        let address = listener.address();
        listener.serve(
            routes(readiness.clone(), metrics, tasks.shutdown().clone()),
            &tasks,
        );
        metrics::counter!("requests_of_the_test_total").increment(3);

        assert!(
            ask(address, "/livez").await.starts_with("HTTP/1.1 200"),
            "alive at once"
        );
        let waiting = ask(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503"), "{waiting}");
        assert!(waiting.ends_with("not ready: starting\n"), "{waiting}");
        readiness.ready();
        assert!(
            ask(address, "/readyz").await.starts_with("HTTP/1.1 200"),
            "ready when told"
        );
        let scraped = ask(address, "/metrics").await;
        assert!(
            scraped.contains("requests_of_the_test_total 3"),
            "{scraped}"
        );

        tasks.shutdown().request();
        assert_eq!(tasks.join().await, Ok(()), "the listener drains");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_nothing_is_dropped() {
        let tasks = Tasks::new(Shutdown::new());
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(loopback, Exposure::Loopback)
            .await
            .expect("a free port");
        let address = listener.address();
        listener.serve(Router::new(), &tasks);
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream
            .write_all(b"GET / HTTP/1.1\r\nx-slow: ")
            .await
            .expect("half a request is taken");
        let mut answer = Vec::new();
        // Ends only when the listener closes the connection.
        stream
            .read_to_end(&mut answer)
            .await
            .expect("closed, not reset");
        assert!(
            !answer.starts_with(b"HTTP/1.1 200"),
            "no answer to half a request"
        );
    }

    #[tokio::test]
    async fn an_address_beyond_loopback_needs_the_word_insecure() {
        let everywhere = "0.0.0.0:0".parse().expect("an address");
        let refused = Listener::bind(everywhere, Exposure::Loopback).await;
        assert!(
            matches!(refused, Err(ListenError::Insecure { .. })),
            "{refused:?}"
        );
        Listener::bind(everywhere, Exposure::Insecure)
            .await
            .expect("told so");
    }
}
