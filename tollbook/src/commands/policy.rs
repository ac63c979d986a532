//! `tollbook policy`.
//!
//! Invariant: everything that is wrong with the files is told at once, and nothing is listed unless all
//! of them together make a set that could be put in force.

mod apply;

use std::path::PathBuf;

use domain::limit::Enforce;
use domain::policy::model::{Attachment, Limit, Policy};
use domain::policy::{CompiledSet, PolicyError, compile, language, read};
use serde_json::Value;
use service::{Exit, Failure};

use crate::config::Settings;
use crate::output::{self, Format, Grid};
use crate::policies;

pub(super) use apply::{apply, list_versions};

/// Prints the JSON Schema.
pub(super) fn schema() -> Result<Exit, Failure> {
    output::print(&language::json_schema())?;
    Ok(Exit::Ok)
}

/// Checks files together; lists their limits, or what is wrong.
pub(super) fn check(files: &[PathBuf], format: Format) -> Result<Exit, Failure> {
    match read_all(files)? {
        Ok(set) => {
            list(&set, format)?;
            if format == Format::Table {
                output::print(&format!(
                    "well-formed: {} files, {} policies, {} limits",
                    files.len(),
                    set.policies().len(),
                    set.limits().count()
                ))?;
            }
            Ok(Exit::Ok)
        }
        Err(errors) => {
            tell(&errors, format)?;
            Err(Failure::new(
                Exit::Configuration,
                format!(
                    "the policies cannot be used: {}, listed on stdout; mend them",
                    plural(errors.len(), "fault")
                ),
            ))
        }
    }
}

/// Reads the files that the settings name, for a service: what is wrong goes to the log, since stdout
/// is nobody's.
pub(super) fn of_files(settings: &Settings) -> Result<CompiledSet, Failure> {
    let files = policies::files(settings)?;
    read_all(&files)?.map_err(|errors| {
        let first = errors.first().map_or_else(String::new, ToString::to_string);
        Failure::new(
            Exit::Configuration,
            format!(
                "the policies cannot be used: {}, the first: {first}; `tollbook policy check` lists all",
                plural(errors.len(), "fault")
            ),
        )
    })
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("one {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

fn read_all(files: &[PathBuf]) -> Result<Result<CompiledSet, Vec<PolicyError>>, Failure> {
    let mut policies = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| {
            let problem = format!("the policy file {name} cannot be read ({error}); name another");
            Failure::new(Exit::Configuration, problem)
        })?;
        match read(&name, &text) {
            Ok(read) => policies.extend(read),
            Err(found) => errors.extend(found),
        }
    }
    // Names that files share are told even where one of the files is faulty otherwise.
    Ok(match compile(policies) {
        Ok(set) if errors.is_empty() => Ok(set),
        Ok(_) => Err(errors),
        Err(twins) => Err(errors.into_iter().chain(twins).collect()),
    })
}

fn tell(errors: &[PolicyError], format: Format) -> Result<(), Failure> {
    if format == Format::Table {
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        return output::print(&lines.join("\n"));
    }
    let mut grid = Grid::new(&["file", "line", "column", "path", "problem"]);
    for error in errors {
        grid.row([
            Value::from(error.file.as_str()),
            Value::from(error.line),
            Value::from(error.column),
            Value::from(error.path.as_str()),
            Value::from(error.problem.as_str()),
        ]);
    }
    grid.print(format, "")
}

fn list(set: &CompiledSet, format: Format) -> Result<(), Failure> {
    let mut grid = Grid::new(&[
        "policy",
        "attachment",
        "limit",
        "meter",
        "at_most",
        "per",
        "window",
        "from",
        "enforce",
        "identity",
    ]);
    for (id, policy, attachment, limit) in set.limits() {
        grid.row(
            row(policy, attachment, limit)
                .into_iter()
                .chain([Value::from(id.0.to_string())]),
        );
    }
    grid.print(format, "no policies")
}

fn row(policy: &Policy, attachment: &Attachment, limit: &Limit) -> Vec<Value> {
    let per: Vec<_> = limit.per.iter().map(|key| key.name()).collect();
    let meter = limit.amount.as_ref().map_or_else(
        || limit.spec.meter().name().to_owned(),
        |cel| format!("cel: {}", cel.as_text()),
    );
    let enforce = match limit.spec.enforce() {
        Enforce::Soft => "soft",
        Enforce::Shadow => "shadow",
    };
    vec![
        Value::from(policy.name.as_str()),
        Value::from(attachment.name.as_str()),
        Value::from(limit.name.as_str()),
        Value::from(meter),
        Value::from(limit.spec.meter().text_of(limit.spec.limit())),
        Value::from(per.join(", ")),
        Value::from(limit.spec.algorithm_text()),
        Value::from(limit.from.name()),
        Value::from(enforce),
    ]
}
