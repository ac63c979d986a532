//! Both ends of a wire, for `make bench-decide`: a generator of requests for decisions, and servers that
//! answer the same protocols and decide nothing.
//!
//! Invariant: whoever is measured gets the same bytes from the same generator. Deliberately absent:
//! starting servers and comparing them, which `bench-driver` does.

mod load;
mod messages;
mod noop;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

/// The product's allocator, so that the servers differ by the decision alone.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The generator and the no-op servers of `make bench-decide`.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Asks a server for decisions, as fast as it answers; prints a JSON object.
    Load(load::Plan),
    /// Answers until it is ended.
    Noop {
        /// What it speaks.
        protocol: Protocol,
        /// Where it listens.
        address: SocketAddr,
        /// How many threads, each with a listener of its own; as many as there are cores unless told.
        #[arg(long)]
        threads: Option<NonZeroUsize>,
        /// A file with the body of every HTTP answer.
        #[arg(long)]
        answer: Option<PathBuf>,
    },
}

/// How decisions are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// `POST /v1/decisions` over HTTP/1.1.
    Http,
    /// Envoy's `RateLimitService` over HTTP/2.
    Grpc,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Load(plan) => load::run(&plan).and_then(|line| print(&line)),
        Command::Noop {
            protocol,
            address,
            threads,
            answer,
        } => noop::run(protocol, address, threads, answer.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed, the exit code must do.
            writeln!(io::stderr(), "bench-wire: {error}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

fn print(line: &serde_json::Value) -> Result<(), String> {
    writeln!(io::stdout().lock(), "{line}").map_err(text)
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().map_err(|_| "a number of milliseconds")?;
    Ok(Duration::from_millis(number))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that `map_err` wants"
)]
fn text(error: impl ToString) -> String {
    error.to_string()
}
