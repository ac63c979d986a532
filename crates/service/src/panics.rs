//! Panics: one line, and the process ends at once.
//!
//! Invariant: no panic is survived; what the process was doing is done again at the next start.
//! Deliberately absent: backtraces on a terminal; `RUST_BACKTRACE=1` adds one to the line.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;

use crate::exit::{Exit, one_line};

/// Lets every panic of the process, on whatever thread, print one line and end it with code 1.
///
/// A panic's message may hold what came from outside; it is cut to one line of at most 300
/// characters.
pub fn end_the_process(program: &'static str) {
    std::panic::set_hook(Box::new(move |panic| {
        // A closed stderr must not keep the process alive.
        writeln!(io::stderr(), "{}", last_words(program, panic)).unwrap_or_default();
        end_now();
    }));
}

fn last_words(program: &str, panic: &PanicHookInfo<'_>) -> String {
    let place = panic
        .location()
        .map_or_else(String::new, |place| format!(" at {place}"));
    let said: String = one_line(panic.payload_as_str().unwrap_or("no text"))
        .chars()
        .take(300)
        .collect();
    let line = format!(
        "{program}: a defect in the program stopped it{place} ({said}); restart it, and report this line"
    );
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        format!("{line}\n{trace}")
    } else {
        line
    }
}

#[expect(
    clippy::exit,
    reason = "a panic on any thread ends the process: never half alive"
)]
fn end_now() {
    std::process::exit(i32::from(Exit::Unexpected.code()));
}
