//! `make bench-ingest`: ingest beside its floor.
//!
//! Invariant: both sides read the same topic into the same server, by turns. Deliberately absent: any
//! claim about other machines; compare ratios, and processor time per event.

mod limits;
mod report;
mod run;

use std::io;
use std::path::PathBuf;

use tests::harness::load;

use self::report::Side;
use self::run::{Executables, Loaded, Runner};
use crate::input::{Case, Input, PARTITIONS};
use crate::servers::{CODEC, Servers, say};
use crate::{absolute, print};

/// How long before the present the last event lies, in ms.
const AGE_MS: i64 = 10_000;

/// What is measured, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many records a case's topic holds.
    #[arg(long, default_value_t = 2_000_000)]
    events: u64,
    /// The shapes of traffic, one after the other.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "zipf,hot,duplicates,limits"
    )]
    cases: Vec<Case>,
    /// How often each side runs.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Runs only this side.
    #[arg(long)]
    side: Option<Side>,
    /// Keeps a case's servers and topic up after its runs: each line on stdin runs ours once more, the
    /// end of stdin goes on.
    #[arg(long)]
    keep: bool,
    /// The executable that is measured.
    #[arg(long)]
    tollbook: PathBuf,
    /// The executable that has the floor.
    #[arg(long)]
    benches: PathBuf,
}

/// Measures, and prints a line per run and one per case.
///
/// # Errors
///
/// A side failed, or did not do its work.
pub(crate) fn measure(arguments: &Arguments) -> Result<(), String> {
    let executables = Executables {
        tollbook: absolute(&arguments.tollbook)?,
        benches: absolute(&arguments.benches)?,
    };
    say("Postgres and Kafka start");
    let servers = Servers::start()?;
    let runner = Runner {
        servers: &servers,
        executables,
    };
    for &case in &arguments.cases {
        let loaded = fill(&servers, case, arguments.events)?;
        let sides: &[Side] = match arguments.side {
            None => &[Side::Ours, Side::Floor],
            Some(Side::Ours) => &[Side::Ours],
            Some(Side::Floor) => &[Side::Floor],
        };
        let mut runs = Vec::new();
        for number in 1..=arguments.runs {
            for &side in sides {
                let run = runner.run(&loaded, side, number)?;
                print(&run)?;
                runs.push(run);
            }
        }
        if arguments.keep {
            run_again(&runner, &loaded, arguments.runs)?;
        }
        print(&report::of_case(case, loaded.events, &runs))?;
        servers.kafka.delete_topic(&loaded.topic);
    }
    Ok(())
}

/// Makes a case's topic and sends its input.
fn fill(servers: &Servers, case: Case, events: u64) -> Result<Loaded, String> {
    let captured = load::captured_as_is();
    let input = Input::new(case, events, PARTITIONS, load::now_ms() - AGE_MS, &captured)?;
    let topic = servers.kafka.unused_topic(case.name());
    servers.kafka.create_topic(&topic, PARTITIONS, &[]);
    say(&format!(
        "{events} records of case {} go into {PARTITIONS} partitions, codec {CODEC}",
        case.name()
    ));
    servers.send(&topic, input.records())?;
    Ok(Loaded {
        case,
        topic,
        partitions: PARTITIONS,
        events,
        unique: input.unique(),
    })
}

/// Runs ours at each line from stdin, for a person with a profiler or with a new build.
fn run_again(runner: &Runner<'_>, loaded: &Loaded, runs: u32) -> Result<(), String> {
    let mut number = runs;
    loop {
        let tollbook = runner.executables.tollbook.display();
        say(&format!("Enter runs {tollbook} again, Ctrl-D ends"));
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        if read.map_err(|error| error.to_string())? == 0 {
            return Ok(());
        }
        number += 1;
        print(&runner.run(loaded, Side::Ours, number)?)?;
    }
}
