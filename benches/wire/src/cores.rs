//! A thread per core, each with a runtime and a listener of its own on one port.
//!
//! Invariant: the kernel spreads connections over the listeners (`SO_REUSEPORT`), and a connection stays
//! on its thread. Deliberately absent: time-outs, bounds and an orderly end, which cost a no-op nothing.

use std::net::SocketAddrV4;
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait for being accepted.
const BACKLOG: u32 = 1024;

/// Serves on so many threads until one of them fails.
pub(crate) fn run<S, F>(address: SocketAddrV4, threads: usize, serve: S) -> Result<(), String>
where
    S: Fn(TcpListener) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), String>>,
{
    let threads: Vec<JoinHandle<Result<(), String>>> = (0..threads.max(1))
        .map(|_| {
            let serve = serve.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(crate::text)?;
                runtime.block_on(async { serve(listen(address)?).await })
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(())
}

fn listen(address: SocketAddrV4) -> Result<TcpListener, String> {
    let socket = TcpSocket::new_v4().map_err(crate::text)?;
    socket.set_reuseaddr(true).map_err(crate::text)?;
    socket.set_reuseport(true).map_err(crate::text)?;
    socket.bind(address.into()).map_err(crate::text)?;
    socket.listen(BACKLOG).map_err(crate::text)
}
