//! Suites against real Postgres, real Kafka and the real executable; the independent oracle.
//!
//! Invariant: a suite can fail: nothing here stands in for the product, and the oracle shares no code
//! with it. How to add a test: a function without arguments in a file under `suites`, and one line in
//! that file's `TESTS`; it panics to fail. Deliberately absent: tests of pure code, which sit beside
//! that code.

#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::too_many_lines,
    reason = "this library is test code: a helper panics to fail its test, with what it found, and a \
              test is one story, told in one function"
)]

pub mod harness;
pub mod mutate;
pub mod oracle;
mod suites;

use std::process::ExitCode;

/// Runs the suites that the command line asks for, as `cargo test` passes it on, and prints which
/// tests ran for each row of the fault catalogue.
#[must_use]
pub fn run() -> ExitCode {
    harness::runner::run(&suites::all())
}
