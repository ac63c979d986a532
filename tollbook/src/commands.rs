//! The commands: each calls the room that does its work.
//!
//! Invariant: settings are read once, before anything else, so that a wrong one stops every command
//! alike.

mod all;
mod completions;
mod config;
mod doctor;
mod enforcer;
mod explain;
mod gaps;
mod ingest;
mod migrate;
mod otlp;
mod policy;
mod prices;
mod rejected;
mod report;
mod reprice;
mod schema;
mod serving;
mod verify;

use service::config::Environment;
use service::telemetry::{Filters, Telemetry, TelemetryError};
use service::{Exit, Failure};
use store::{Database, Role};

use crate::arguments::{Arguments, Command, ConfigCommand, PolicyCommand};
use crate::config::Settings;
use crate::{demo, failure, policies};

/// What the log shows: while starting, only what our own rooms say, so that a failed start is one
/// line; then also what librdkafka warns of.
const LOG: Filters = Filters {
    at_start: "info,librdkafka=off,rdkafka=off,sqlx=off",
    started: "info,librdkafka=warn,rdkafka=warn,sqlx=warn",
};

/// What the log of a command shows that answers and exits.
const QUIET: Filters = Filters {
    at_start: "off",
    started: "off",
};

/// Runs a command to its end.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let environment = Environment::of_process();
    let begin = |filters| {
        let settings = Settings::load(&arguments.settings, &environment)?;
        start_log(&environment, filters).map(|log| (settings, log))
    };
    let quiet = || begin(QUIET).map(|(settings, _log)| settings);
    match arguments.command {
        Command::Ingest(arguments) => {
            let (settings, log) = begin(LOG)?;
            ingest::run(&settings, &arguments, &log).await
        }
        Command::Enforcer => {
            let (settings, log) = begin(LOG)?;
            enforcer::run(&settings, &log).await
        }
        Command::All => {
            let (settings, log) = begin(LOG)?;
            all::run(&settings, &log).await
        }
        Command::Migrate => migrate::run(&quiet()?).await,
        Command::Report(command) => report::run(&quiet()?, command).await,
        Command::Rejected(command) => rejected::run(&quiet()?, command).await,
        Command::Verify => verify::run(&quiet()?).await,
        Command::Gaps(command) => gaps::run(&quiet()?, command).await,
        Command::Prices(command) => prices::run(&quiet()?, command).await,
        Command::Reprice(arguments) => reprice::run(&quiet()?, arguments).await,
        Command::Policy(PolicyCommand::Schema) => policy::schema(),
        Command::Policy(PolicyCommand::Check(arguments)) if !arguments.files.is_empty() => {
            policy::check(&arguments.files, arguments.output.output)
        }
        Command::Policy(PolicyCommand::Check(arguments)) => {
            policy::check(&policies::files(&quiet()?)?, arguments.output.output)
        }
        Command::Policy(PolicyCommand::Apply(arguments)) => {
            policy::apply(&quiet()?, &arguments).await
        }
        Command::Policy(PolicyCommand::List { output }) => {
            policy::list_versions(&quiet()?, output.output).await
        }
        Command::Explain(arguments) => explain::run(&quiet()?, &arguments).await,
        Command::Doctor => doctor::run(&quiet()?).await,
        Command::Config {
            command: Some(ConfigCommand::Schema),
        } => config::schema(),
        Command::Config { command } => config::run(&quiet()?, command),
        Command::Demo(arguments) => {
            let _log = start_log(&environment, QUIET)?;
            demo::run(&arguments).await.map(|()| Exit::Ok)
        }
        Command::Schema(command) => schema::run(command),
        Command::Completions { shell } => completions::run(shell),
    }
}

fn start_log(environment: &Environment, filters: Filters) -> Result<Telemetry, Failure> {
    Telemetry::start(environment.get("RUST_LOG"), filters).map_err(|error| {
        let exit = match error {
            TelemetryError::Filter { .. } => Exit::Configuration,
            _ => Exit::Unexpected,
        };
        Failure::new(exit, error.to_string())
    })
}

/// Opens the ledger in a role.
async fn open(settings: &Settings, role: Role) -> Result<Database, Failure> {
    Database::open(&settings.config().database.url, role)
        .await
        .map_err(|error| of_store(settings, &error))
}

/// Makes the failure of the ledger.
fn of_store(settings: &Settings, error: &store::StoreError) -> Failure {
    let url = &settings.config().database.url;
    failure::of_store(error, url, &settings.place("database.url"))
}

/// Makes the failure of a correction.
fn of_correction(settings: &Settings, error: &::ingest::corrections::CorrectionError) -> Failure {
    use ::ingest::corrections::CorrectionError;
    match error {
        CorrectionError::Store(error) => of_store(settings, error),
        CorrectionError::Log(error) => failure::of_log(error, &settings.place("kafka.brokers")),
        error => Failure::new(error.exit(), error.to_string()),
    }
}

/// Makes the failure of a report.
fn of_report(settings: &Settings, error: &reports::ReportError) -> Result<Exit, Failure> {
    use reports::ReportError;
    match error {
        ReportError::Store(error) => Err(of_store(settings, error)),
        ReportError::Usage(_) | ReportError::Calendar(_) => {
            Err(Failure::new(Exit::Usage, error.to_string()))
        }
        ReportError::Write(error) => crate::output::of_write(error).map(|()| Exit::Ok),
    }
}

/// Makes the failure of a flag's value.
fn of_flag(flag: &str, error: &impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format!("{flag}: {error}"))
}
