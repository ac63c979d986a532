//! `tollbook doctor`: what is set up wrongly, and how to mend it.
//!
//! Invariant: it changes nothing, and goes on after a check that failed wherever the next one can
//! still be made. Deliberately absent: what the ledger says, which `verify` proves.

mod broker;
mod database;

use service::{Exit, Failure};

use super::policy;
use crate::config::Settings;
use crate::{output, prices};

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// It works, and gives something up.
    Warn,
    /// It does not work; the process ends with this code.
    Fail(Exit),
}

/// The lines of the answer and the worst exit code so far.
#[derive(Debug, Default)]
struct Examination {
    lines: Vec<String>,
    fails: Vec<Exit>,
}

impl Examination {
    fn note(&mut self, verdict: Verdict, what: &str, found: &str) {
        let word = match verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail(exit) => {
                self.fails.push(exit);
                "fail"
            }
        };
        self.lines.push(format!(
            "{word}  {what}: {}",
            service::exit::one_line(found)
        ));
    }

    fn ok(&mut self, what: &str, found: &str) {
        self.note(Verdict::Ok, what, found);
    }

    fn warn(&mut self, what: &str, found: &str) {
        self.note(Verdict::Warn, what, found);
    }

    fn fail(&mut self, exit: Exit, what: &str, found: &str) {
        self.note(Verdict::Fail(exit), what, found);
    }

    /// Notes what stopped a check.
    fn stopped(&mut self, what: &str, failure: &Failure) {
        self.fail(failure.exit(), what, failure.sentence());
    }

    /// Returns the exit code: data that stopped before what is away before what must be set up, since
    /// that is the order of harm.
    fn exit(&self) -> Exit {
        self.fails.iter().copied().max().unwrap_or(Exit::Ok)
    }
}

pub(super) async fn run(settings: &Settings) -> Result<Exit, Failure> {
    let mut examination = Examination::default();
    examine_settings(settings, &mut examination);
    broker::examine(settings, &mut examination).await;
    database::examine(settings, &mut examination).await;
    output::print(&examination.lines.join("\n"))?;
    Ok(examination.exit())
}

fn examine_settings(settings: &Settings, examination: &mut Examination) {
    examination.ok(
        "configuration",
        &format!("well-formed ({})", settings.file()),
    );
    let config = settings.config();
    match prices::read(settings) {
        Ok(prices) => examination.ok("prices", &prices::describe(&prices)),
        Err(failure) => examination.stopped("prices", &failure),
    }
    if config.ingest.sources.is_empty() {
        examination.fail(
            Exit::Configuration,
            "sources",
            "none are configured; add at least one [[ingest.sources]] with `topic` and `format`",
        );
    }
    match policy::of_files(settings) {
        Ok(set) => examination.ok(
            "policies",
            &format!(
                "{} policies with {} limits",
                set.policies().len(),
                set.limits().count()
            ),
        ),
        Err(failure) => examination.stopped("policies", &failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_failure_is_the_exit_code() {
        let mut examination = Examination::default();
        examination.warn("a", "b");
        assert_eq!(examination.exit(), Exit::Ok, "a warning is no failure");
        examination.fail(Exit::Configuration, "a", "b\nc");
        examination.fail(Exit::Dependency, "a", "b");
        assert_eq!(examination.exit(), Exit::Dependency, "the greater one");
        assert_eq!(
            examination.lines.get(1).map(String::as_str),
            Some("fail  a: b c"),
            "one line"
        );
    }
}
