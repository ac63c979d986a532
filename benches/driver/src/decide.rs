//! `make bench-decide`: decisions in process, on the wire beside servers that decide nothing, behind
//! the log, and beside an ingest at full speed.
//!
//! Invariant: on the wire both sides are asked by turns by the same generator, and a ratio is the median
//! of the ratios of such pairs. The last line carries the figures that matter. Deliberately absent: any
//! claim about other machines; generator and servers share the cores, so compare ratios, and processor
//! time per decision.

mod backlog;
mod client;
mod in_process;
mod lag;
mod sides;
mod wire;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use self::sides::{Noop, Ours, Protocol, Side};
use self::wire::Wire;
use crate::servers::{Servers, say};
use crate::{absolute, print};

/// What is measured, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What is measured, in this order.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "decide,http,grpc,lag,ingest"
    )]
    cases: Vec<Case>,
    /// How often each side runs on the wire.
    #[arg(long, default_value_t = 7)]
    runs: u32,
    /// How long each of these runs is measured, in seconds.
    #[arg(long, default_value_t = 1)]
    seconds: u32,
    /// How many requests are under way at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    connections: Vec<usize>,
    /// Asks only this side.
    #[arg(long)]
    side: Option<Side>,
    /// How many threads each server has for each protocol; as many as there are cores unless told.
    #[arg(long, default_value_t = 0)]
    threads: u32,
    /// How many events the log holds for the ingest at full speed.
    #[arg(long, default_value_t = 2_000_000)]
    events: u64,
    /// The executable that is measured.
    #[arg(long)]
    tollbook: PathBuf,
    /// The executable that decides in process.
    #[arg(long)]
    benches: PathBuf,
    /// The executable that has the generator and the no-op servers.
    #[arg(long)]
    wire: PathBuf,
}

/// The parts of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Case {
    /// Decisions in process.
    Decide,
    /// Decisions over HTTP/1.1.
    Http,
    /// Decisions over gRPC.
    Grpc,
    /// From a usage event on Kafka to the decision that knows it.
    Lag,
    /// Decisions over HTTP/1.1 beside an ingest at full speed.
    Ingest,
}

/// Measures, and prints a line per run and one per case, and last the figures that matter.
///
/// # Errors
///
/// A process failed, or an answer was not the expected one.
pub(crate) fn measure(arguments: &Arguments) -> Result<(), String> {
    let mut summary = Map::new();
    if arguments.cases.contains(&Case::Decide) {
        say("decisions in process");
        in_process::measure(&absolute(&arguments.benches)?, &mut summary)?;
    }
    let measured = if arguments.cases.iter().any(|&case| case != Case::Decide) {
        on_servers(arguments, &mut summary)
    } else {
        Ok(())
    };
    // What was measured before a failure is told all the same.
    print(&Value::Object(summary))?;
    measured
}

fn on_servers(arguments: &Arguments, summary: &mut Map<String, Value>) -> Result<(), String> {
    let wants = |case| arguments.cases.contains(&case);
    let asks = |side| arguments.side.is_none_or(|only| only == side);
    let (servers, ours) = if asks(Side::Ours) {
        say("Postgres and Kafka start");
        let servers = Servers::start()?;
        say("the enforcer starts");
        let executable = absolute(&arguments.tollbook)?;
        let ours = Ours::start(&executable, &servers, arguments.threads)?;
        (Some(servers), Some(ours))
    } else {
        (None, None)
    };
    let noop = if asks(Side::Noop) {
        let answer = ours.as_ref().map(Ours::answer).transpose()?;
        let executable = absolute(&arguments.wire)?;
        Some(Noop::start(
            &executable,
            arguments.threads,
            answer.as_deref(),
        )?)
    } else {
        None
    };
    let wire = Wire {
        executable: absolute(&arguments.wire)?,
        ours: ours.as_ref(),
        noop: noop.as_ref(),
        runs: arguments.runs,
        seconds: arguments.seconds,
    };
    for (case, protocol) in [(Case::Http, Protocol::Http), (Case::Grpc, Protocol::Grpc)] {
        for &connections in arguments.connections.iter().filter(|_| wants(case)) {
            say(&format!("{protocol}, {connections} at a time"));
            wire.measure(protocol, connections, summary)?;
        }
    }
    let (Some(servers), Some(ours)) = (&servers, &ours) else {
        return Ok(());
    };
    if wants(Case::Lag) {
        lag::measure(servers, ours, summary)?;
    }
    if wants(Case::Ingest) {
        backlog::measure(servers, ours, &wire, arguments.events, summary)?;
    }
    Ok(())
}
