//! The command line.
//!
//! Invariant: verbs and flags are those of the documentation; each command shows examples. What the
//! words of a flag mean is parsed by the room that knows them, so that both agree.

mod explain;
mod policy;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::demo::DemoArgs;
use crate::output::Format;

pub(crate) use explain::ExplainArguments;
pub(crate) use policy::{PolicyApplyArguments, PolicyCommand};

const EXAMPLES: &str = "\
Examples:
  tollbook migrate                                   prepare the database
  tollbook ingest                                    fold the log into the ledger, for ever
  tollbook enforcer                                  decide requests by the policies
  tollbook all                                       both in one process
  tollbook report cost --by app --from 2026-11-01    what each application cost
  tollbook verify                                    prove it
  tollbook explain                                   why requests were refused
  tollbook doctor                                    find what is set up wrongly

Settings come from the file (--config, else TOLLBOOK_CONFIG, else ./tollbook.toml), then from
environment variables such as TOLLBOOK_DATABASE_URL, then from flags.

Exit codes: 0 done, 1 unexpected, 2 usage, 3 configuration, 4 a dependency is away, 5 the data
differs, stopped or was refused.";

/// Meters what applications use through AI gateways, and keeps exact books on what it costs.
#[derive(Debug, Parser)]
#[command(name = "tollbook", version, propagate_version = true, after_help = EXAMPLES)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) settings: SettingsFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that stand above the configuration file and the environment.
#[derive(Debug, Args)]
pub(crate) struct SettingsFlags {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    pub(crate) config: Option<PathBuf>,
    /// The ledger: `postgres://user@host/database`.
    #[arg(long, global = true, value_name = "URL", help_heading = "Settings")]
    pub(crate) database_url: Option<String>,
    /// The log: `host:port`, several with commas.
    #[arg(long, global = true, value_name = "LIST", help_heading = "Settings")]
    pub(crate) kafka_brokers: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prepares the database: tables, roles and rights; run it again after each upgrade.
    #[command(
        after_help = "Examples:\n  tollbook migrate --database-url postgres://owner@db/tollbook"
    )]
    Migrate,
    /// Folds the log into the ledger, exactly once.
    #[command(after_help = "\
Examples:
  tollbook ingest                     runs until SIGTERM, which drains
  tollbook ingest --until-caught-up   folds what the log holds now, and exits")]
    Ingest(IngestArguments),
    /// Decides requests by the policies, for gateways that ask.
    #[command(after_help = "\
Examples:
  tollbook enforcer                   runs until SIGTERM, which drains
  curl -d '{\"app\":\"chatbot\",\"model\":\"gpt-4o\"}' http://127.0.0.1:8080/v1/decisions")]
    Enforcer,
    /// Folds the log and decides requests, in one process.
    #[command(after_help = "\
Examples:
  tollbook all                        runs until SIGTERM, which drains

Each service listens where it would alone, and is ready for itself. Where one fails, the process
ends with its failure.")]
    All,
    /// Reads the ledger.
    #[command(subcommand)]
    Report(ReportCommand),
    /// Shows events that could not become usage, and why; retries or drops them.
    #[command(subcommand)]
    Rejected(RejectedCommand),
    /// Shows where a log lost records or was replaced, and takes an operator's word for it.
    #[command(subcommand)]
    Gaps(GapsCommand),
    /// Shows the prices in force, and imports lists of prices.
    #[command(subcommand)]
    Prices(PricesCommand),
    /// Prices usage anew by the book in force, and posts the differences.
    #[command(after_help = "\
Examples:
  tollbook reprice                                    what would change, by application and model
  tollbook reprice --model in-house-llama --yes       post it
  tollbook reprice --from 2026-11-01 --to 2026-12-01 --because \"the contract's new rates\" --yes

Without --yes nothing is changed. What was posted stays: the difference is posted beside it, and names
what it corrects. Run twice, the second run finds nothing to do. Requests whose sums do not say what
each of them costs now (several tiers, or a rate that begins within a quarter-hour) stay as they are
and are counted as unclear.")]
    Reprice(RepriceArguments),
    /// Checks policies, puts them in force and lists them.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Works a denial out again, and shows the usage behind it.
    #[command(after_help = "\
Examples:
  tollbook explain                                    the latest denials, to choose from
  tollbook explain --app chatbot --limit 5
  tollbook explain 01939f3c6d2a7b1e-7                 one of them
  curl -s -d '{\"app\":\"chatbot\"}' http://127.0.0.1:8080/v1/decisions | tollbook explain --file -

An enforcer keeps its own latest denials (enforcer.denials_kept), each with what its verdict
stands on, from which it is worked out again. Of limits that count from the log, the postings
that the decision knew are summed and compared, and what was posted since is shown apart. Exits 0
where all agrees, 5 where something differs.")]
    Explain(ExplainArguments),
    /// Shows the effective configuration, or checks it.
    #[command(after_help = "\
Examples:
  tollbook config                          what is in effect, and where each setting comes from
  tollbook config check                    is it well-formed?
  tollbook config schema > tollbook.schema.json")]
    Config {
        #[command(subcommand)]
        command: Option<ConfigCommand>,
    },
    /// Prints schemas that others write by.
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Checks settings, broker and database, and says how to mend what is wrong.
    #[command(after_help = "\
Each line is `ok`, `warn` or `fail`, what was checked, and how to mend it. Exits 3 for what must be
set up, 4 where a dependency is away, 5 where data stopped, else 0.")]
    Doctor,
    /// Folds the log again, compares it with the ledger, and says what is proved.
    #[command(after_help = "\
Says per chain what it proved, where it differs, and what is not provable, since the log has dropped
its records. Ends with one line: `verified: …`, exit 0, or `differs: …`, exit 5.")]
    Verify,
    /// Starts a Postgres, a Kafka and Tollbook of its own, and shows a ledger filling.
    #[command(after_help = "Examples:\n  tollbook demo\n  tollbook demo --once")]
    Demo(DemoArgs),
    /// Prints a shell's completions.
    #[command(
        after_help = "Examples:\n  tollbook completions bash > /etc/bash_completion.d/tollbook"
    )]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct IngestArguments {
    /// Folds to the ends that the log has now, then exits; opens no listener.
    #[arg(long)]
    pub(crate) until_caught_up: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// What was used and what it cost.
    #[command(after_help = "\
Examples:
  tollbook report cost --by app,model --from 2026-11-01 --to 2026-12-01
  tollbook report cost --by app --grain day --zone Europe/Berlin --from 2026-11-01 --output csv
  tollbook report cost --by app,model --only-unpriced --output json")]
    Cost(CostArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CostArguments {
    /// What to sum separately by: tenant, app, user, session, route, provider, model, `priced_model`.
    #[arg(long, value_name = "DIMENSIONS", value_delimiter = ',')]
    pub(crate) by: Vec<String>,
    /// The first instant: 2026-11-01 (that day's start in the zone) or 2026-11-01T12:00:00Z; by default
    /// that of the first usage.
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// The first instant after the range; by default after the last usage.
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Of this tenant only.
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Only groups that used something without a rate.
    #[arg(long)]
    pub(crate) only_unpriced: bool,
    /// How finely to cut the range: none, quarter-hour, hour, day, week, month, year.
    #[arg(long, value_name = "GRAIN", default_value = "none")]
    pub(crate) grain: String,
    /// The time zone of dates and grains, as Europe/Berlin; by default reports.zone.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}

#[derive(Debug, Args)]
pub(crate) struct OutputFlag {
    /// How to print.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RejectedCommand {
    /// Lists rejected events, the newest first.
    #[command(after_help = "\
Examples:
  tollbook rejected list --since 2026-11-20
  tollbook rejected list --reason not_json --output csv")]
    List(RejectedListArguments),
    /// Shows one record's rejected events with their payloads.
    #[command(after_help = "Examples:\n  tollbook rejected show usage.envoy/3/1042")]
    Show(RejectedShowArguments),
    /// Decodes rejected events again by the rules in force, and counts what is usage now.
    #[command(after_help = "\
Examples:
  tollbook rejected retry --source usage.envoy --dry-run
  tollbook rejected retry --id usage.envoy/3/1042 --because \"the source's app field was wrong\"
  tollbook rejected retry --all

What still cannot become usage stays rejected, and the answer says why. Events that had been counted
are counted as duplicates. Of what is older than the ids that are kept nobody knows whether it was
counted: --accept-duplicates takes it, and the ledger records that. Run twice, it counts once.")]
    Retry(RejectedRetryArguments),
    /// Gives rejected events up; they stay in the ledger, with the reason.
    #[command(after_help = "\
Examples:
  tollbook rejected drop --reason not_json --because \"health checks of the shipper\"
  tollbook rejected drop --id usage.envoy/3/1042 --because \"test traffic\" --by ann@example.org")]
    Drop(RejectedDropArguments),
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = true,
    args = ["id", "source", "reason", "all"])]
pub(crate) struct RejectedSelection {
    /// At this place: topic/partition/offset, or with /index one event of a record; may be repeated.
    #[arg(long, value_name = "PLACE")]
    pub(crate) id: Vec<String>,
    /// Of this source only.
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// With this reason only.
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: Option<String>,
    /// All that are neither retried nor dropped.
    #[arg(long, conflicts_with_all = ["id", "source", "reason"])]
    pub(crate) all: bool,
    /// Says what would become of each, and changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Who takes responsibility; by default the database's login. The ledger keeps it.
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}

#[derive(Debug, Args)]
pub(crate) struct RejectedRetryArguments {
    #[command(flatten)]
    pub(crate) which: RejectedSelection,
    /// Takes events that are too old to be known again, repeats or not.
    #[arg(long)]
    pub(crate) accept_duplicates: bool,
    /// Why; the ledger keeps it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) because: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RejectedDropArguments {
    #[command(flatten)]
    pub(crate) which: RejectedSelection,
    /// Why; the ledger keeps it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) because: String,
}

#[derive(Debug, Args)]
pub(crate) struct RejectedListArguments {
    /// Of this source only.
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// With this reason only.
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: Option<String>,
    /// Of records that the broker received at or after this time only.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// How many to list at most.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub(crate) limit: u32,
    /// Where the page before ended: the cursor that it printed.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
    /// The time zone of dates, as Europe/Berlin; by default reports.zone.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}

#[derive(Debug, Args)]
pub(crate) struct RejectedShowArguments {
    /// The record: topic/partition/offset, or with /index one event of it.
    #[arg(value_name = "PLACE")]
    pub(crate) place: String,
    /// The time zone of times, as Europe/Berlin; by default reports.zone.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GapsCommand {
    /// Lists gaps, open ones first.
    #[command(after_help = "Examples:\n  tollbook gaps list --output json")]
    List {
        #[command(flatten)]
        output: OutputFlag,
    },
    /// Lets a stopped partition go on, in somebody's name.
    #[command(after_help = "\
Examples:
  tollbook gaps accept 7 --by ann@example.org

What a truncated log lost stays lost, and is named in the ledger. A re-created log begins a new
incarnation of the partition.")]
    Accept {
        /// The gap's number, from `gaps list`.
        #[arg(value_name = "ID")]
        id: i64,
        /// Who takes responsibility; the ledger keeps it.
        #[arg(long, value_name = "NAME")]
        by: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PricesCommand {
    /// Lists rates.
    #[command(after_help = "\
Examples:
  tollbook prices list --provider openai --model gpt-4o
  tollbook prices list --output csv > prices.csv")]
    List(PricesListArguments),
    /// Puts a list of prices in force: over the shipped book and over what was imported before, under
    /// the files of the configuration.
    #[command(after_help = "\
Examples:
  tollbook prices import model_prices_and_context_window.json --dry-run
  tollbook prices import new-rates.yaml --from 2027-01-01

The file is LiteLLM's price map, or rows in CSV, YAML, TOML or JSON; its layout is told by what stands
in it. A number that is no decimal refuses the whole file. What no price book expresses (per second,
batch tiers and so on) is counted by kind. An ingest that runs prices by the new list from its next
batch on; usage that is folded already keeps its price.")]
    Import(PricesImportArguments),
}

#[derive(Debug, Args)]
pub(crate) struct PricesImportArguments {
    /// The list.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The instant from which it holds: 2027-01-31 (midnight in UTC) or 2027-01-31T12:00:00Z; by
    /// default the beginning of time.
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Shows the difference to what is in force, and writes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}

#[derive(Debug, Args)]
pub(crate) struct RepriceArguments {
    /// Usage from this time on: 2026-11-01 (that day's start in the zone) or 2026-11-01T12:00:00Z, the
    /// start of a quarter-hour.
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Usage before this time, the start of a quarter-hour.
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Of this tenant only.
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Of this application only.
    #[arg(long, value_name = "NAME")]
    pub(crate) app: Option<String>,
    /// Of this provider only.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// Of this model only: asked for, or answered.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Says what would change, and changes nothing; so it is without --yes.
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Posts the differences.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Who takes responsibility; by default the database's login. The ledger keeps it.
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// Why; the ledger keeps it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) because: Option<String>,
    /// The time zone of dates, as Europe/Berlin; by default reports.zone.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}

#[derive(Debug, Args)]
pub(crate) struct PricesListArguments {
    /// Of this provider only.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// Of models whose name holds this text only.
    #[arg(long, value_name = "TEXT")]
    pub(crate) model: Option<String>,
    /// What the shipped book and the configured files say, instead of what is in force in the ledger.
    #[arg(long)]
    pub(crate) configured: bool,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Prints the JSON Schema of Tollbook's own usage event, a CloudEvent.
    #[command(after_help = "Examples:\n  tollbook schema event > tollbook-event.schema.json")]
    Event,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints what is in effect, each setting with its origin, without secrets.
    Print,
    /// Prints the JSON Schema of the file, for editors.
    Schema,
    /// Checks settings and price files; needs neither broker nor database.
    Check,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
