//! This very executable as the demo runs it: the commands that a user would type, with the demo's
//! configuration.
//!
//! Invariant: the demo reaches the product only through its command line and its database.
//! Deliberately absent: any shortcut that an installation does not have.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use service::{Exit, Failure};

use super::folder::Folder;
use super::guard::{EndSignal, Guard};
use super::kafka::TOPIC;
use super::process::{self, Process};

/// What the demo's applications may use: two budgets and a quota that run out while one watches.
///
/// The first budget is small enough for what was captured, so that also `--once` ends in a refusal.
const POLICIES: &str = "\
# Written by `tollbook demo`; gone when it ends.
name: captured-teams
description: What each team may spend in a day.
match: { app: { prefix: team- } }
limits:
  - { name: daily-budget, meter: cost, limit: \"1\", per: [app], window: { calendar: day } }
---
name: checkout
description: The checkout assistant's budget of a day.
match: { app: checkout-assistant }
limits:
  - { name: daily-budget, meter: cost, limit: \"10\", per: [app], window: { calendar: day } }
---
name: haiku
description: Tokens of one model that all applications share.
match: { model: claude-haiku-4-5 }
limits:
  - { name: tokens, meter: total_tokens, limit: 2500000, per: [model], window: { calendar: day } }
";

/// The executable and its configuration.
#[derive(Debug, Clone)]
pub(super) struct Tollbook {
    enforcer: SocketAddr,
    program: PathBuf,
    config: PathBuf,
    logs: PathBuf,
}

impl Tollbook {
    /// Writes the configuration.
    ///
    /// # Errors
    ///
    /// The executable cannot be found again, or the folder cannot be written.
    pub(super) fn configure(
        folder: &Folder,
        database: &str,
        brokers: &str,
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| {
            Failure::unexpected(format!("the demo cannot find its own executable: {error}"))
        })?;
        folder.write("policies.yaml", POLICIES)?;
        let enforcer = SocketAddr::from(([127, 0, 0, 1], process::free_port()?));
        let text = format!(
            "# Written by `tollbook demo`; gone when it ends.\n\
             [database]\nurl = \"{database}\"\n\n\
             [kafka]\nbrokers = \"{brokers}\"\n\n\
             [[ingest.sources]]\ntopic = \"{TOPIC}\"\nformat = \"envoy-ai-gateway\"\n\
             app = \"x-tenant-id\"\nuser = \"x-user-id\"\n\n\
             [policies]\nfiles = [\"policies.yaml\"]\n\n\
             [ingest]\nhttp = \"127.0.0.1:{}\"\n\n\
             [enforcer]\nhttp = \"{enforcer}\"\ngrpc = \"127.0.0.1:{}\"\n",
            process::free_port()?,
            process::free_port()?,
        );
        let config = folder.write("tollbook.toml", &text)?;
        Ok(Self {
            enforcer,
            program,
            config,
            logs: folder.path().to_path_buf(),
        })
    }

    /// Returns where the configuration lies.
    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    /// Returns the executable's path, for texts.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Returns where the enforcer listens for HTTP.
    pub(super) const fn enforcer_address(&self) -> SocketAddr {
        self.enforcer
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("TOLLBOOK_CONFIG", &self.config)
            .env("RUST_BACKTRACE", "0");
        // Settings of the user's own would win over the file.
        for other in [
            "TOLLBOOK_DATABASE_URL",
            "TOLLBOOK_KAFKA_BROKERS",
            "DATABASE_URL",
        ] {
            command.env_remove(other);
        }
        command
    }

    /// Runs a command to its end with its output in a log file.
    ///
    /// # Errors
    ///
    /// It fails; the failure carries its last line.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<(), Failure> {
        let name = format!("`tollbook {}`", arguments.join(" "));
        let log = self
            .logs
            .join(format!("{}.log", arguments.first().unwrap_or(&"tollbook")));
        process::run(&name, self.command(arguments), &log).await
    }

    /// Runs a command to its end before the user's eyes.
    ///
    /// # Errors
    ///
    /// It cannot be run, or exits with another code than 0.
    pub(super) async fn show(&self, arguments: &[&str]) -> Result<(), Failure> {
        let name = format!("`tollbook {}`", arguments.join(" "));
        let status = tokio::process::Command::from(self.command(arguments))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .map_err(|error| Failure::unexpected(format!("{name} cannot be run: {error}")))?;
        if status.success() {
            return Ok(());
        }
        let exit = if status.code() == Some(5) {
            Exit::Data
        } else {
            Exit::Unexpected
        };
        Err(Failure::new(
            exit,
            format!("{name} failed ({status}); see above"),
        ))
    }

    /// Starts `tollbook all`, announced to the guard.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(super) fn all(&self, guard: &mut Guard) -> Result<Process, Failure> {
        self.start("`tollbook all`", "all", guard)
    }

    /// Starts `tollbook enforcer`, announced to the guard.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(super) fn enforcer(&self, guard: &mut Guard) -> Result<Process, Failure> {
        self.start("`tollbook enforcer`", "enforcer", guard)
    }

    fn start(
        &self,
        name: &'static str,
        service: &str,
        guard: &mut Guard,
    ) -> Result<Process, Failure> {
        let log = self.logs.join(format!("{service}.log"));
        let command = self.command(&[service]);
        Process::start(name, command, EndSignal::Terminate, log, guard)
    }
}
