//! Shutdown: one request to stop, seen by every task, with a deadline for draining.
//!
//! Invariant: once requested, the process ends within the grace period, whatever its tasks do.
//! Deliberately absent: what draining means; each task knows.

use std::future::Future;
use std::io::{self, Write as _};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// The request to stop; clones see the same one.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Makes a shutdown that nobody has requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every task to drain and end; asking again changes nothing.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Returns a shutdown that follows this one, and by itself stops nothing else. What waits for it
    /// shares no lock with what waits for this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
        }
    }

    /// Tells whether it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until it is requested.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Runs a future unless the shutdown comes first, and then drops the future and returns `None`.
    pub async fn unless_requested<F: Future>(&self, future: F) -> Option<F::Output> {
        self.token.run_until_cancelled(future).await
    }

    /// Requests the shutdown at the first SIGTERM or SIGINT, and ends the process at once at the
    /// second, or when `grace` has passed since the request without the process having ended.
    ///
    /// It runs on a thread of its own, so that it also works when the runtime is stuck.
    ///
    /// # Errors
    ///
    /// The system refused a thread or a signal handler; the caller should stop.
    pub fn watch_signals(&self, program: &'static str, grace: Duration) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (terminate, interrupt) = {
            let _context = runtime.enter();
            (
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            )
        };
        let shutdown = self.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let last_words = runtime.block_on(watch(shutdown, terminate, interrupt, grace));
                end_now(program, &last_words);
            })?;
        Ok(())
    }
}

type Signal = tokio::signal::unix::Signal;

/// Returns why the process must end at once.
async fn watch(
    shutdown: Shutdown,
    mut terminate: Signal,
    mut interrupt: Signal,
    grace: Duration,
) -> String {
    tokio::select! {
        _ = terminate.recv() => shutdown.request(),
        _ = interrupt.recv() => shutdown.request(),
        () = shutdown.requested() => {}
    }
    tokio::select! {
        _ = terminate.recv() => "stopped by a second signal before everything was drained".to_owned(),
        _ = interrupt.recv() => "stopped by a second signal before everything was drained".to_owned(),
        () = tokio::time::sleep(grace) => {
            format!("not drained within {} s, so stopped", grace.as_secs())
        }
    }
}

/// Ends the process without running anything else: what was not drained is done again at the next
/// start.
#[expect(
    clippy::exit,
    reason = "the tasks did not end in time; nothing else can end them"
)]
fn end_now(program: &str, last_words: &str) {
    // A closed stderr must not keep the process alive.
    writeln!(io::stderr(), "{program}: {last_words}").unwrap_or_default();
    std::process::exit(i32::from(Exit::Unexpected.code()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_reaches_every_clone() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        assert!(!other.is_requested(), "nobody asked yet");
        shutdown.request();
        other.requested().await;
        let ran = other.unless_requested(std::future::pending::<()>()).await;
        assert!(ran.is_none(), "a future that never ends is dropped");
    }
}
