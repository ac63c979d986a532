//! One thread per core: each with a runtime of its own and its own socket on the same address, among
//! which the system spreads connections.
//!
//! Invariant: a connection stays on the thread that took it, so that nothing of a request moves between
//! cores; a peer that sends nothing, or sends slowly, holds a connection for a bounded time, and the
//! number of connections is bounded. At the shutdown requests in hand are finished. Deliberately
//! absent: authentication; so a listener beyond loopback is refused unless it may be insecure.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::exit::Failure;
use crate::http::{Exposure, ListenError};
use crate::shutdown::Shutdown;
use crate::tasks::{TaskResult, Tasks};

/// Connections that wait in the system's queue of each core.
const BACKLOG: u32 = 1_024;

/// How long headers may take and a connection may idle.
///
/// Longer than the minute for which gateways (APISIX, nginx) keep idle connections: one that we close
/// first may just be taking a request.
const HEADERS_WITHIN: Duration = Duration::from_secs(75);

/// How long a listener rests after the system refused it a connection, mostly for want of file
/// descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What bounds the connections of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections that one core serves at once; more wait in the system's queue.
    pub connections_max: usize,
    /// How long a peer may take to send a request's headers, and how long an idle connection is kept.
    pub headers_within: Duration,
    /// The most bytes that a request's headers may have.
    pub headers_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: 8_192,
            headers_within: HEADERS_WITHIN,
            headers_bytes_max: 64 * 1_024,
        }
    }
}

/// Sockets on one address, one for each core, before they are served.
#[derive(Debug)]
pub struct Sockets {
    listeners: Vec<StdListener>,
    address: SocketAddr,
}

/// What one core serves by.
#[derive(Debug)]
pub struct Core {
    /// Its number, from 0.
    pub index: usize,
    /// Its socket.
    pub listener: TcpListener,
    /// When to stop taking connections.
    pub shutdown: Shutdown,
    bounds: Bounds,
    places: Arc<Semaphore>,
}

/// Returns how many cores this process may use.
#[must_use]
pub fn available() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

impl Sockets {
    /// Takes the address once for each core; port 0 takes any free one. It must run within a runtime.
    ///
    /// # Errors
    ///
    /// [`ListenError::Insecure`] for an address beyond loopback without [`Exposure::Insecure`];
    /// [`ListenError::Bind`] where the system refuses, or another process has it. The caller should
    /// stop.
    pub fn bind(
        address: SocketAddr,
        exposure: Exposure,
        cores: NonZeroUsize,
    ) -> Result<Self, ListenError> {
        if exposure == Exposure::Loopback && !address.ip().is_loopback() {
            return Err(ListenError::Insecure { address });
        }
        let refused = |source| ListenError::Bind { address, source };
        // Sockets that share an address also share it with another process of the same user; one that
        // does not share finds that out.
        let probe = socket_of(address).map_err(refused)?;
        probe.bind(address).map_err(refused)?;
        drop(probe);
        let first = listen(address).map_err(refused)?;
        let address = first.local_addr().map_err(refused)?;
        let others = (1..cores.get()).map(|_| listen(address));
        let listeners: Result<_, _> = std::iter::once(Ok(first)).chain(others).collect();
        Ok(Self {
            listeners: listeners.map_err(refused)?,
            address,
        })
    }

    /// Returns the address they listen on, with its real port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs `serve` for each core, on a thread of its own, until the shutdown, after which it must come
    /// to an end by itself.
    ///
    /// # Errors
    ///
    /// The system refused a thread; the caller should stop.
    pub fn spawn<F, S>(
        self,
        tasks: &Tasks,
        name: &'static str,
        bounds: Bounds,
        serve: F,
    ) -> io::Result<()>
    where
        F: Fn(Core) -> S + Clone + Send + 'static,
        S: Future<Output = TaskResult>,
    {
        for (index, listener) in self.listeners.into_iter().enumerate() {
            let (serve, shutdown) = (serve.clone(), tasks.shutdown().child());
            tasks.spawn_thread(name, move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|error| {
                        Failure::unexpected(format!("no runtime for a core: {error}"))
                    })?;
                runtime.block_on(async move {
                    let listener = TcpListener::from_std(listener).map_err(|error| {
                        Failure::unexpected(format!("a socket cannot be served: {error}"))
                    })?;
                    serve(Core {
                        index,
                        listener,
                        shutdown,
                        bounds,
                        places: Arc::new(Semaphore::new(bounds.connections_max)),
                    })
                    .await
                })
            })?;
        }
        Ok(())
    }
}

fn socket_of(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart must not wait for the connections of the process before it.
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = socket_of(address)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

impl Core {
    /// Waits for the next connection, and for a place for it; the place is free again once the permit
    /// is dropped. `None` after the shutdown was requested.
    pub async fn accept(&self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        loop {
            let place = self.places.clone().acquire_owned();
            let place = self.shutdown.unless_requested(place).await?.ok()?;
            match self
                .shutdown
                .unless_requested(self.listener.accept())
                .await?
            {
                Ok((stream, _peer)) => {
                    // Answers are small; none should wait for another.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(error.text = %error, "a connection was gone at once");
                        continue;
                    }
                    return Some((stream, place));
                }
                Err(error) => {
                    tracing::warn!(error.text = %error, "a connection was refused by the system");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Serves HTTP/1.1 until the shutdown; then finishes the requests in hand.
    ///
    /// # Errors
    ///
    /// None now; it is what a core returns.
    pub async fn serve_http1<S, B>(self, service: S) -> TaskResult
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.headers_within)
            .max_buf_size(self.bounds.headers_bytes_max)
            .pipeline_flush(true);
        let connections = TaskTracker::new();
        while let Some((stream, place)) = self.accept().await {
            let (builder, service) = (builder.clone(), service.clone());
            let shutdown = self.shutdown.clone();
            connections.spawn(async move {
                converse(&builder, TokioIo::new(stream), service, shutdown).await;
                drop(place);
            });
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

/// Serves one connection until the peer leaves, idles too long, or the shutdown.
pub(crate) async fn converse<S, B>(
    builder: &http1::Builder,
    stream: impl Read + Write + Unpin,
    service: S,
    shutdown: Shutdown,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error.text = %error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn two() -> NonZeroUsize {
        NonZeroUsize::new(2).unwrap()
    }

    /// Serves the number of the core that answers.
    fn serve(tasks: &Tasks, bounds: Bounds) -> SocketAddr {
        let sockets = Sockets::bind(loopback(), Exposure::Loopback, two()).unwrap();
        let address = sockets.address();
        sockets
            .spawn(tasks, "test core", bounds, |core| {
                let index = core.index;
                core.serve_http1(service_fn(move |_request| async move {
                    Ok::<_, Infallible>(Response::new(format!("core {index}")))
                }))
            })
            .unwrap();
        address
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn every_core_answers_and_all_drain() {
        let tasks = Tasks::new(Shutdown::new());
        let address = serve(&tasks, Bounds::default());
        let mut seen = [false; 2];
        // The system spreads connections by a hash of their ports.
        for _ in 0..200 {
            let answer = ask(address).await;
            seen[0] |= answer.ends_with("core 0");
            seen[1] |= answer.ends_with("core 1");
            if seen == [true; 2] {
                break;
            }
        }
        assert_eq!(seen, [true; 2], "both cores");
        tasks.shutdown().request();
        assert_eq!(tasks.join().await, Ok(()), "both drain");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    }

    #[tokio::test]
    async fn an_address_of_another_process_is_refused() {
        let tasks = Tasks::new(Shutdown::new());
        let address = serve(&tasks, Bounds::default());
        let again = Sockets::bind(address, Exposure::Loopback, two());
        assert!(matches!(again, Err(ListenError::Bind { .. })), "{again:?}");
        let everywhere = "0.0.0.0:0".parse().unwrap();
        let refused = Sockets::bind(everywhere, Exposure::Loopback, two());
        assert!(
            matches!(refused, Err(ListenError::Insecure { .. })),
            "{refused:?}"
        );
        tasks.shutdown().request();
        assert_eq!(tasks.join().await, Ok(()), "all drain");
    }

    #[tokio::test]
    async fn slow_peers_are_dropped_and_give_their_places_back() {
        let tasks = Tasks::new(Shutdown::new());
        let bounds = Bounds {
            connections_max: 1,
            headers_within: Duration::from_millis(50),
            ..Bounds::default()
        };
        let address = serve(&tasks, bounds);
        let mut slow = Vec::new();
        for _ in 0..6 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nx-slow: ")
                .await
                .unwrap();
            slow.push(stream);
        }
        assert!(ask(address).await.contains("core"), "after the slow ones");
        for mut stream in slow {
            let mut answer = Vec::new();
            // Ends only when the listener closes the connection.
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(
                !answer.starts_with(b"HTTP/1.1 200"),
                "no answer to half a request"
            );
        }
        tasks.shutdown().request();
        assert_eq!(tasks.join().await, Ok(()), "all drain");
    }
}
