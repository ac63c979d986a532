//! Tasks: everything that runs beside `main`, named, counted, and joined at shutdown.
//!
//! Invariant: the process is never half alive: a task that fails, panics, or ends although nobody
//! asked it to, requests the shutdown of all, and its failure is what the process ends with.
//! Deliberately absent: restarts of single tasks; whoever supervises the process restarts it whole.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::exit::Failure;
use crate::shutdown::Shutdown;

/// What a task returns.
pub type TaskResult = Result<(), Failure>;

/// The tasks of a process; clones are the same set.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    tracker: TaskTracker,
    shutdown: Shutdown,
    /// The first failure; later ones are mostly its consequences.
    failure: Mutex<Option<Failure>>,
}

/// When a task may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Term {
    /// Only after the shutdown was requested.
    Service,
    /// Whenever its work is done.
    Errand,
}

impl Tasks {
    /// Makes an empty set whose failures request the given shutdown.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        let inner = Inner {
            tracker: TaskTracker::new(),
            shutdown,
            failure: Mutex::new(None),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the shutdown that its tasks follow.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// Returns how many tasks and threads have not ended.
    #[must_use]
    pub fn count(&self) -> usize {
        // Each task is tracked once, by its supervisor.
        self.inner.tracker.len()
    }

    /// Runs a task that must not end before the shutdown is requested.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = TaskResult> + Send + 'static,
    ) {
        self.supervise(name, Term::Service, task);
    }

    /// Runs a task that may end whenever its work is done.
    pub fn spawn_errand(
        &self,
        name: &'static str,
        task: impl Future<Output = TaskResult> + Send + 'static,
    ) {
        self.supervise(name, Term::Errand, task);
    }

    /// Runs a function on an operating system thread of its own, for work that blocks; it must not
    /// end before the shutdown is requested.
    ///
    /// # Errors
    ///
    /// The system refused a thread; the caller should stop.
    pub fn spawn_thread(
        &self,
        name: &'static str,
        work: impl FnOnce() -> TaskResult + Send + 'static,
    ) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let result = work();
                // Nobody listens only where the runtime is gone, and the process with it.
                done.send(result).unwrap_or_default();
            })?;
        let tasks = self.clone();
        self.inner.tracker.spawn(async move {
            let result = outcome.await.unwrap_or_else(|_dropped| Err(panicked(name)));
            tasks.ended(name, Term::Service, result);
        });
        Ok(())
    }

    /// Waits until every task has ended.
    ///
    /// # Errors
    ///
    /// The first failure of any task; the process should exit with it.
    pub async fn join(&self) -> TaskResult {
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
        self.inner.failure.lock().take().map_or(Ok(()), Err)
    }

    fn supervise(
        &self,
        name: &'static str,
        term: Term,
        task: impl Future<Output = TaskResult> + Send + 'static,
    ) {
        let running = tracing::Instrument::instrument(task, tracing::debug_span!("task", name));
        let tasks = self.clone();
        // The supervisor alone is tracked; a task cannot outlive it.
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        let handle = tokio::spawn(running);
        self.inner.tracker.spawn(async move {
            let result = handle.await.unwrap_or_else(|_panic| Err(panicked(name)));
            tasks.ended(name, term, result);
        });
    }

    fn ended(&self, name: &'static str, term: Term, result: TaskResult) {
        let asked = self.inner.shutdown.is_requested() || term == Term::Errand;
        let failure = match result {
            Ok(()) if asked => return,
            Ok(()) => Failure::unexpected(format!(
                "the task `{name}` ended although nobody asked it to; restart the process, and report it with its log"
            )),
            Err(failure) => failure,
        };
        self.inner.failure.lock().get_or_insert(failure);
        self.inner.shutdown.request();
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tasks")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

fn panicked(name: &str) -> Failure {
    Failure::unexpected(format!(
        "the task `{name}` panicked; restart the process, and report it with its log"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn tasks() -> Tasks {
        Tasks::new(Shutdown::new())
    }

    #[tokio::test]
    async fn tasks_that_end_after_the_request_are_no_failure() {
        let tasks = tasks();
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("waits", async move {
            shutdown.requested().await;
            Ok(())
        });
        tasks.spawn_errand("done", async { Ok(()) });
        tasks.shutdown().request();
        assert_eq!(tasks.join().await, Ok(()), "all ended as asked");
        assert_eq!(tasks.count(), 0, "none is left");
    }

    #[tokio::test]
    async fn an_unexpected_end_stops_all() {
        let tasks = tasks();
        tasks.spawn("quits", async { Ok(()) });
        tasks.shutdown().requested().await;
        let failure = tasks.join().await.expect_err("the end was not asked for");
        assert_eq!(failure.exit(), Exit::Unexpected, "{failure}");
        assert!(failure.sentence().contains("`quits`"), "{failure}");
    }

    #[tokio::test]
    async fn a_panic_stops_all_and_names_its_task() {
        let tasks = tasks();
        tasks.spawn("panics", async { panic!("on purpose") });
        tasks
            .spawn_thread("panics too", || panic!("on purpose"))
            .expect("a thread");
        tasks.shutdown().requested().await;
        let failure = tasks.join().await.expect_err("one panicked");
        assert!(failure.sentence().contains("panicked"), "{failure}");
    }

    #[tokio::test]
    async fn the_first_failure_is_the_one_told() {
        let tasks = tasks();
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("follows", async move {
            shutdown.requested().await;
            Err(Failure::unexpected("its channel closed"))
        });
        tasks.spawn("fails", async {
            Err(Failure::new(Exit::Dependency, "broker away"))
        });
        let failure = tasks.join().await.expect_err("both failed");
        assert_eq!(
            failure,
            Failure::new(Exit::Dependency, "broker away"),
            "the cause, not the effect"
        );
    }
}
