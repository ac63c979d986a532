//! The executable: reads arguments and settings, calls the room that does the work, and says how it
//! went.
//!
//! Invariant: a command that fails ends with one line on stderr, `tollbook: …`, and the exit code of
//! its kind; stdout holds only what the command was asked for. Deliberately absent: the work itself.

mod arguments;
mod client;
mod commands;
mod config;
mod demo;
mod failure;
mod output;
#[cfg(test)]
mod pages;
mod policies;
mod prices;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use service::{Exit, Failure};

use crate::arguments::Arguments;

/// One allocator for Rust and librdkafka alike: glibc's keeps freed memory in an arena per thread, so
/// that memory handed from the reading thread to the folding and the writing one grows with time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What the program calls itself in its own lines.
const PROGRAM: &str = "tollbook";

fn main() -> ExitCode {
    service::panics::end_the_process(PROGRAM);
    match run(Arguments::parse()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // Where stderr is closed, the exit code must do.
            writeln!(io::stderr(), "{PROGRAM}: {failure}").unwrap_or_default();
            failure.exit().into()
        }
    }
}

fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::unexpected(format!("the system refuses threads: {error}")))?;
    let exit = runtime.block_on(commands::run(arguments));
    // What still runs has nothing left to do: its results are nobody's.
    runtime.shutdown_background();
    exit
}
