//! `make bench-ingest` and `make bench-decide`: what is measured runs beside its floor, on a real
//! Postgres and a real Kafka.
//!
//! Invariant: both sides do the same work by turns in one run; stdout holds JSON lines and nothing
//! else. Deliberately absent: any claim about other machines; compare ratios, and processor time per
//! event or decision.

mod decide;
mod figures;
mod ingest;
mod input;
mod product;
mod servers;
mod usage;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use crate::servers::say;

/// Measures, and prints JSON lines.
#[derive(Debug, Parser)]
enum Command {
    /// Ingest beside its floor.
    Ingest(ingest::Arguments),
    /// Decisions beside servers that decide nothing.
    Decide(decide::Arguments),
}

fn main() -> ExitCode {
    let measured = match Command::parse() {
        Command::Ingest(arguments) => ingest::measure(&arguments),
        Command::Decide(arguments) => decide::measure(&arguments),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn print(line: &impl Serialize) -> Result<(), String> {
    let line = serde_json::to_string(line).map_err(text)?;
    writeln!(io::stdout().lock(), "{line}").map_err(text)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that `map_err` wants"
)]
fn text(error: impl ToString) -> String {
    error.to_string()
}
