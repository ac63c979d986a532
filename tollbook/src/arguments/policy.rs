//! The arguments of `tollbook policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputFlag;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Checks policy files together; needs neither broker nor database.
    #[command(after_help = "\
Examples:
  tollbook policy check policies/*.yaml
  tollbook policy check                    those that the configuration names
  tollbook policy check --output json free-tier.yaml

Where all is well it lists the limits; else it lists everything that is wrong, by file, line and
column, and exits with 3.")]
    Check(PolicyCheckArguments),
    /// Puts policy files in force, all of them together in place of those in force.
    #[command(after_help = "\
Examples:
  tollbook policy apply --dry-run policies/*.yaml
  tollbook policy apply policies/*.yaml
  tollbook policy apply                    those that the configuration names

It lists what becomes of each limit: it starts, stays with its counters, or ends. A limit that counts
from the log in calendar windows of an hour or more starts with what the ledger holds; any other is
whole after one window. A set with a fault changes nothing.")]
    Apply(PolicyApplyArguments),
    /// Lists the versions that were put in force, the newest first.
    #[command(after_help = "Examples:\n  tollbook policy list --output json")]
    List {
        #[command(flatten)]
        output: OutputFlag,
    },
    /// Prints the JSON Schema of a policy, for editors.
    #[command(after_help = "Examples:\n  tollbook policy schema > policy.schema.json")]
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyCheckArguments {
    /// The files; by default those of policies.files.
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyApplyArguments {
    /// The files; by default those of policies.files.
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Shows what would change, and writes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}
