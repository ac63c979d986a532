//! The product's own processes: the executable that was built beside the tests.
//!
//! Invariant: suites run what users run: the executable with a configuration file, an environment
//! and arguments.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;

use super::children::{Child, DeathSignal, Program};
use super::folders;
use super::topic::Topic;

/// How long a command that should just do its work may take on a busy machine.
pub const COMMAND: Duration = Duration::from_secs(120);

/// A configuration file to be, with the settings that suites vary.
#[derive(Clone)]
pub struct Config {
    /// Where the ledger is.
    pub database_url: String,
    /// Where the log is.
    pub brokers: String,
    /// The consumer group: one for each test, since they share a broker.
    pub group: String,
    /// The group's session time-out in ms, which tells how soon a dead member is noticed.
    pub session_timeout_ms: u32,
    /// One `[[ingest.sources]]` table each, as TOML.
    pub sources: Vec<String>,
    /// Further lines of the `[ingest]` table, as TOML.
    pub ingest: String,
    /// Whatever else goes at the end of the file, as TOML.
    pub more: String,
    /// Environment variables, `FAILPOINTS` for one.
    pub environment: Vec<(String, String)>,
}

impl Config {
    /// Adds a source that reads this topic with the usual fields.
    #[must_use]
    pub fn with_source(mut self, topic: &Topic) -> Self {
        self.sources.push(source(topic.name()));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Names a fail point that kills the process once it has been passed `passes` times.
    #[must_use]
    pub fn dying_at(self, point: &str, passes: u32) -> Self {
        let times = if passes == 0 {
            String::new()
        } else {
            format!("{passes}*off->")
        };
        self.with_variable("FAILPOINTS", &format!("{point}={times}return"))
    }

    /// Adds a line to the `[ingest]` table.
    #[must_use]
    pub fn with_ingest(mut self, line: &str) -> Self {
        self.ingest.push_str(line);
        self.ingest.push('\n');
        self
    }

    /// Adds TOML at the end of the file.
    #[must_use]
    pub fn with_more(mut self, toml: &str) -> Self {
        self.more.push_str(toml);
        self
    }

    /// Returns the topic that enforcers are told of accounts by: one for each database.
    #[must_use]
    pub fn balances_topic(&self) -> String {
        let database = self.database_url.rsplit('/').next().unwrap_or_default();
        let database = database.split('?').next().unwrap_or_default();
        format!("balances-{database}")
    }

    /// Returns the topic that enforcers tell each other by: one for each database.
    #[must_use]
    pub fn exchange_topic(&self) -> String {
        self.balances_topic().replacen("balances", "exchange", 1)
    }

    fn text(&self) -> String {
        let mut text = format!(
            "[database]\nurl = \"{}\"\n\n[kafka]\nbrokers = \"{}\"\ngroup = \"{}\"\n\
             balances_topic = \"{}\"\nexchange_topic = \"{}\"\n\
             properties.\"session.timeout.ms\" = \"{}\"\n\
             properties.\"heartbeat.interval.ms\" = \"500\"\n\
             properties.\"reconnect.backoff.max.ms\" = \"500\"\n\n\
             [ingest]\nhttp = \"127.0.0.1:0\"\n{}\n",
            self.database_url,
            self.brokers,
            self.group,
            self.balances_topic(),
            self.exchange_topic(),
            self.session_timeout_ms,
            self.ingest
        );
        for source in &self.sources {
            writeln!(text, "{source}").expect("a String takes all");
        }
        text + &self.more
    }

    /// Writes the file into a folder of its own and returns its path.
    #[must_use]
    pub fn write(&self) -> PathBuf {
        let path = folders::make("config").join("tollbook.toml");
        std::fs::write(&path, self.text()).unwrap();
        path
    }

    /// Starts `tollbook` with this configuration and these arguments.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Child {
        let path = self.write();
        let folder = path.parent().expect("a file lies in a folder").to_owned();
        let mut all: Vec<String> = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        all.extend(["--config".to_owned(), path.display().to_string()]);
        let program = Program {
            // Names a file of its output: without flags and paths.
            name: arguments[..arguments.len().min(2)].join("-"),
            path: executable(),
            arguments: all,
            environment: self.environment.clone(),
            account: None,
            death_signal: DeathSignal::Kill,
            logs: folder,
        };
        program.start()
    }

    /// Runs `tollbook` to its end and returns exit code, standard output and standard error.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let child = self.start(arguments);
        let status = child.wait(COMMAND);
        (status.code().unwrap_or(-1), child.stdout(), child.stderr())
    }

    /// Runs `tollbook` and returns its standard output; panics unless it exits with 0.
    #[must_use]
    pub fn output(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, 0, "tollbook {arguments:?}\n{stdout}\n{stderr}");
        stdout
    }

    /// Starts `tollbook ingest`.
    #[must_use]
    pub fn ingest(&self) -> Child {
        self.start(&["ingest"])
    }

    /// Folds all that the log holds now, and returns.
    pub fn catch_up(&self) {
        let _output = self.output(&["ingest", "--until-caught-up"]);
    }
}

/// Returns the table of a source that reads a topic with the usual fields.
#[must_use]
pub fn source(topic: &str) -> String {
    format!(
        "[[ingest.sources]]\ntopic = \"{topic}\"\nformat = \"envoy-ai-gateway\"\n\
         app = \"x-tenant-id\"\nuser = \"x-user-id\"\n"
    )
}

/// Asks a process to end and waits until it has; panics unless it exits with 0.
pub fn drain(process: &Child, within: Duration) {
    process.signal(Signal::TERM);
    let status = process.wait(within);
    assert_eq!(
        status.code(),
        Some(0),
        "SIGTERM must drain\n{}",
        process.log()
    );
}

/// Runs `tollbook migrate` on a database.
pub fn migrate(url: &str) {
    let config = Config {
        database_url: url.to_owned(),
        brokers: "127.0.0.1:9".to_owned(),
        group: "none".to_owned(),
        session_timeout_ms: 6000,
        sources: Vec::new(),
        ingest: String::new(),
        more: String::new(),
        environment: Vec::new(),
    };
    let _output = config.output(&["migrate"]);
}

/// Returns the executable, brought up to date with the sources first: a run of the tests alone must
/// not test an old product. `TOLLBOOK_TESTS_EXECUTABLE` names another one.
#[must_use]
pub fn executable() -> PathBuf {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    let path = EXECUTABLE.get_or_init(|| {
        if let Some(given) = std::env::var_os("TOLLBOOK_TESTS_EXECUTABLE") {
            return PathBuf::from(given);
        }
        build();
        folders::built().join("tollbook")
    });
    path.clone()
}

fn build() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = folders::built();
    // The whole workspace, since only then do the fail points that this package asks for reach it.
    let mut command = Command::new(cargo);
    command
        .args(["build", "--workspace", "--bins", "--quiet"])
        .current_dir(folders::workspace());
    command
        .arg("--target-dir")
        .arg(built.parent().expect("a profile lies in target"));
    if built.ends_with("release") {
        command.arg("--release");
    }
    // Cargo tells a test of its package in variables that build scripts watch (ring's does): with
    // them half the dependencies would be built anew, and once more by the next build without.
    for (name, _) in std::env::vars_os() {
        let is_of_the_package = name.to_str().is_some_and(|name| {
            [
                "CARGO_PKG_",
                "CARGO_MANIFEST_",
                "CARGO_CRATE_",
                "CARGO_BIN_",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        });
        if is_of_the_package {
            command.env_remove(name);
        }
    }
    assert!(
        command.status().unwrap().success(),
        "the executable does not build"
    );
}
