//! This very executable as the demo runs it: the commands that a user would type, with the demo's
//! configuration.
//!
//! Invariant: the demo reaches the product only through its command line and its database.
//! Deliberately absent: any shortcut that an installation does not have.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use service::{Exit, Failure};

use super::folder::Folder;
use super::guard::{EndSignal, Guard};
use super::kafka::TOPIC;
use super::process::{self, Process};

/// The executable and its configuration.
#[derive(Debug, Clone)]
pub(super) struct Tollbook {
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
        let text = format!(
            "# Written by `tollbook demo`; gone when it ends.\n\
             [database]\nurl = \"{database}\"\n\n\
             [kafka]\nbrokers = \"{brokers}\"\n\n\
             [[ingest.sources]]\ntopic = \"{TOPIC}\"\nformat = \"envoy-ai-gateway\"\n\
             app = \"x-tenant-id\"\nuser = \"x-user-id\"\n\n\
             [ingest]\nhttp = \"127.0.0.1:{}\"\n",
            process::free_port()?,
        );
        let config = folder.write("tollbook.toml", &text)?;
        Ok(Self {
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

    /// Starts `tollbook ingest`, announced to the guard.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(super) fn ingest(&self, guard: &mut Guard) -> Result<Process, Failure> {
        let log = self.logs.join("ingest.log");
        let command = self.command(&["ingest"]);
        Process::start(
            "`tollbook ingest`",
            command,
            EndSignal::Terminate,
            log,
            guard,
        )
    }
}
