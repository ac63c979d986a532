//! The flags of `tollbook explain`.
//!
//! Invariant: as for all commands. A file of its own, since the command line is long.

use std::path::PathBuf;

use clap::Args;

use super::OutputFlag;

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// The denial, from an answer's `denial`; without, the latest ones are listed.
    #[arg(value_name = "ID", conflicts_with = "file")]
    pub(crate) id: Option<String>,
    /// The denial as JSON, or a decision's answer that names it; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The enforcer that refused: `http://host:port`; by default `enforcer.http` of the settings.
    #[arg(long, value_name = "URL")]
    pub(crate) enforcer: Option<String>,
    /// Lists denials of this application only.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["id", "file"])]
    pub(crate) app: Option<String>,
    /// Lists denials by this policy only.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["id", "file"])]
    pub(crate) policy: Option<String>,
    /// How many denials, or how many series behind one, are listed at most; the others are summed.
    #[arg(long, value_name = "COUNT", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
    /// In which time zone a window is shown, beside UTC and its own; by default reports.zone.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputFlag,
}
