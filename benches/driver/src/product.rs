//! The product as it is measured: an executable, a configuration in a folder of its own, and commands.
//!
//! Invariant: nothing that the driver's own environment says leads a command to another ledger or
//! another log. Deliberately absent: what the commands are for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::harness::children::{Child, DeathSignal, Program};
use tests::harness::database::Database;
use tests::harness::folders;

use crate::servers::Servers;
use crate::text;

/// How long a command may take that just does its work, and an ended child to be reaped.
pub(crate) const COMMAND: Duration = Duration::from_secs(120);

/// The name of the file with the policies, beside the configuration.
pub(crate) const POLICIES: &str = "policies.yaml";

/// What an installation is made of, beside its servers.
pub(crate) struct Settings<'a> {
    /// The topic of its only source.
    pub(crate) topic: &'a str,
    /// Further TOML, after all else.
    pub(crate) more: &'a str,
    /// Files beside the configuration, each with its name.
    pub(crate) files: &'a [(&'a str, &'a str)],
}

/// An executable with its configuration and a database of its own.
pub(crate) struct Installation {
    executable: PathBuf,
    config: PathBuf,
    environment: Vec<(String, String)>,
    pub(crate) database: Database,
}

impl Installation {
    /// Makes an empty database and writes a configuration with nothing in it that has a default.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub(crate) fn new(
        executable: &Path,
        servers: &Servers,
        settings: &Settings<'_>,
    ) -> Result<Self, String> {
        let database = servers.postgres.empty_database("run");
        let brokers = servers.kafka.brokers();
        // Of each run its own: the next one need not wait until this one's member is given up.
        let group = database.url().rsplit('/').next().unwrap_or("run");
        let folder = folders::make("config");
        for (name, text_of_file) in settings.files {
            std::fs::write(folder.join(name), text_of_file).map_err(text)?;
        }
        let config = folder.join("tollbook.toml");
        let toml = format!(
            "[database]\nurl = \"{}\"\n\n[kafka]\nbrokers = \"{brokers}\"\ngroup = \"{group}\"\n\n\
             [[ingest.sources]]\ntopic = \"{}\"\nformat = \"envoy-ai-gateway\"\n\
             app = \"x-tenant-id\"\n\n{}",
            database.url(),
            settings.topic,
            settings.more,
        );
        std::fs::write(&config, toml).map_err(text)?;
        // The environment goes over the file.
        let environment = [
            ("TOLLBOOK_DATABASE_URL", database.url().to_owned()),
            ("TOLLBOOK_KAFKA_BROKERS", brokers),
        ];
        Ok(Self {
            executable: executable.to_owned(),
            config,
            environment: environment
                .map(|(name, value)| (name.to_owned(), value))
                .to_vec(),
            database,
        })
    }

    /// Starts a command.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let mut all: Vec<String> = arguments.iter().map(|&each| each.to_owned()).collect();
        all.extend(["--config".to_owned(), self.config.display().to_string()]);
        start(&self.executable, all, self.environment.clone())
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    ///
    /// It failed; the text is the end of what it wrote.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let child = self.start(arguments);
        if child.wait(COMMAND).success() {
            return Ok(());
        }
        Err(child.log())
    }
}

/// Starts an executable; its output goes into a folder of its own.
pub(crate) fn start(
    executable: &Path,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
) -> Child {
    let program = Program {
        name: "run".to_owned(),
        path: executable.to_owned(),
        arguments,
        environment,
        account: None,
        death_signal: DeathSignal::Kill,
        logs: folders::make("run"),
    };
    program.start()
}
