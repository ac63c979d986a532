//! Benchmarks beside their floors: `cargo run --release -p benches`, one JSON object a line.
//!
//! Invariant: the thing measured and its floor run alternately in one process on the same bytes, so
//! that their ratio holds on a noisy machine too. Deliberately absent: Kafka and Postgres; and any
//! claim about other machines.

mod fold;
mod measure;

use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let lines = fold::run();
    match lines.and_then(|lines| print(&lines).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed, the exit code must do.
            writeln!(io::stderr(), "benches: {error}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

fn print(lines: &[serde_json::Value]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}
