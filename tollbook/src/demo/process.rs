//! Child processes of the demo: started with a log file, announced to the guard, ended in order.
//!
//! Invariant: a running child is always known to the guard. Deliberately absent: what the children
//! are.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use service::{Exit, Failure};
use tokio::time::{Instant, sleep};

use super::guard::{EndSignal, Guard};

/// How often a state that cannot notify us is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a child may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running child.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    signal: EndSignal,
    log: PathBuf,
}

impl Process {
    /// Starts a command with its output in a log file.
    ///
    /// # Errors
    ///
    /// The command cannot be started, or the guard is gone.
    pub(super) fn start(
        name: &'static str,
        mut command: Command,
        signal: EndSignal,
        log: PathBuf,
        guard: &mut Guard,
    ) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(
                Exit::Dependency,
                format!("{name} cannot be started: {error}"),
            )
        };
        let output = File::create(&log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        // From here on dropping `process` does not end it; the guard does.
        guard.add(child.id(), signal).map_err(failed)?;
        Ok(Self {
            name,
            child,
            signal,
            log,
        })
    }

    /// Returns whether it has ended, and how.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Makes the failure of a child that ended although nobody asked it to.
    pub(super) fn failure(&self, status: ExitStatus) -> Failure {
        let last = last_words(&self.log).unwrap_or_else(|| "it said nothing".to_owned());
        Failure::new(
            Exit::Dependency,
            format!("{} ended ({status}): {last}", self.name),
        )
    }

    /// Asks it to end, waits, and kills it if it takes too long.
    ///
    /// # Errors
    ///
    /// It cannot be waited for, or the guard is gone.
    pub(super) async fn end(mut self, guard: &mut Guard) -> Result<(), Failure> {
        let id = self.child.id();
        let deadline = Instant::now() + PATIENCE;
        if self.ended().is_none() {
            send(self.signal, id);
        }
        while self.ended().is_none() {
            if Instant::now() >= deadline {
                self.child.kill().unwrap_or_default();
            }
            sleep(LOOK_EVERY).await;
        }
        guard.gone(id).map_err(|error| {
            Failure::unexpected(format!(
                "the demo's guard is gone before {}: {error}",
                self.name
            ))
        })
    }
}

/// Sends a signal to a child that was not waited for yet, so whose id is still its own.
fn send(signal: EndSignal, pid: u32) {
    // A failure to send shows as a child that does not end, and that is then killed.
    let _sent = Command::new("sh")
        .args([
            "-c",
            "kill -s \"$0\" \"$1\"",
            signal.name(),
            &pid.to_string(),
        ])
        .status();
}

/// Returns what a log's writer said last: our own executable's sentence if there is one, else its
/// last line that is not empty.
fn last_words(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text
        .lines()
        .rev()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let last = lines.clone().next()?;
    let sentence = lines.find_map(|line| line.strip_prefix("tollbook: "));
    Some(sentence.unwrap_or(last).to_owned())
}

/// Runs a command to its end with its output in a log file; dropping the future ends it.
///
/// # Errors
///
/// It cannot be run or fails; the failure carries the last line that it wrote.
pub(super) async fn run(name: &str, command: Command, log: &Path) -> Result<(), Failure> {
    let failed = |what: String| Failure::new(Exit::Dependency, format!("{name} {what}"));
    let output = File::create(log).map_err(|error| failed(format!("has no log: {error}")))?;
    let errors = output
        .try_clone()
        .map_err(|error| failed(format!("has no log: {error}")))?;
    let status = tokio::process::Command::from(command)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let last = last_words(log).unwrap_or_else(|| "it said nothing".to_owned());
    Err(failed(format!("failed ({status}): {last}")))
}

/// Returns a TCP port of the loopback that was free a moment ago.
///
/// # Errors
///
/// The loopback refuses every port.
pub(super) fn free_port() -> Result<u16, Failure> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| {
            Failure::new(
                Exit::Dependency,
                format!("no free port on 127.0.0.1: {error}"),
            )
        })
}
