//! Benchmarks beside their floors, one JSON object a line: `cargo run --release -p benches` (with the
//! argument `decide` that of decisions in process, with their allocations); with the arguments
//! `floor URL BROKERS TOPIC` the floor that `make bench-ingest` runs beside ingest.
//!
//! Invariant: the thing measured and its floor run alternately on the same bytes, so that their ratio
//! holds on a noisy machine too. Deliberately absent: starting servers, which `bench-driver` does; and
//! any claim about other machines.

mod decide;
mod floor;
mod fold;
mod measure;

use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let lines = match arguments.as_slice() {
        [] => fold::run(),
        ["decide"] => decide::run(),
        ["floor", url, brokers, topic] => floor::run(url, brokers, topic),
        _ => Err("takes no arguments, `decide`, or `floor URL BROKERS TOPIC`".to_owned()),
    };
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
