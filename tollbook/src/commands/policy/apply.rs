//! `tollbook policy apply` and `tollbook policy list`.
//!
//! Invariant: a dry run and an application print the same changes; files with a fault change nothing,
//! and all faults are told. Deliberately absent: what a change does to accounts (`store`).

use std::path::PathBuf;

use domain::policy::PolicyError;
use ingest::policies::{ApplyPlan, Change, LimitChange, PoliciesError, PolicyFiles, plan_apply};
use serde_json::{Value, json};
use service::{Exit, Failure};
use store::Role;

use crate::arguments::PolicyApplyArguments;
use crate::config::Settings;
use crate::output::{self, Format, Grid};
use crate::policies;

/// Puts files in force, or says what that would change.
pub(in crate::commands) async fn apply(
    settings: &Settings,
    arguments: &PolicyApplyArguments,
) -> Result<Exit, Failure> {
    let format = arguments.output.output;
    let (paths, exit) = if arguments.files.is_empty() {
        (policies::files(settings)?, Exit::Configuration)
    } else {
        (arguments.files.clone(), Exit::Data)
    };
    let files = match read(&paths)? {
        Ok(files) => files,
        Err(errors) => return refuse(&errors, format, exit),
    };
    let db = super::super::open(settings, Role::Ingest).await?;
    let (plan, version) = if arguments.dry_run {
        let plan = plan_apply(&db, &files).await;
        (plan.map_err(|error| of_policies(settings, error))?, None)
    } else {
        let applied = ingest::policies::apply(&db, &files).await;
        applied.map_err(|error| of_policies(settings, error))?
    };
    let version = version.map(|version| version.0);
    match format {
        Format::Table => {
            changes(&plan).print(Format::Table, "no limits, before or now")?;
            output::print(&outcome(&plan, version))?;
        }
        Format::Json => {
            let report = json!({
                "limits": changes(&plan).to_json(),
                "before": plan.before.map(|version| version.0),
                "version": version,
                "dry_run": arguments.dry_run,
                "effect": if plan.is_nothing { "nothing" } else { "changes" },
            });
            output::print(&format!("{report:#}"))?;
        }
        Format::Csv => changes(&plan).print(Format::Csv, "")?,
    }
    Ok(Exit::Ok)
}

/// Lists the versions.
pub(in crate::commands) async fn list_versions(
    settings: &Settings,
    format: Format,
) -> Result<Exit, Failure> {
    let db = super::super::open(settings, Role::Reports).await?;
    let versions = store::policies::list(&db).await;
    let versions = versions.map_err(|error| super::super::of_store(settings, &error))?;
    let mut grid = Grid::new(&["version", "applied", "in_force", "origin", "files", "hash"]);
    for version in versions {
        grid.row([
            Value::from(version.version.0),
            Value::from(version.applied.to_rfc3339()),
            Value::from(version.is_in_force),
            Value::from(version.origin),
            Value::from(version.files.join(", ")),
            Value::from(version.hash.to_string()),
        ]);
    }
    grid.print(
        format,
        "no policies were ever put in force; see `tollbook policy apply`",
    )?;
    Ok(Exit::Ok)
}

fn read(paths: &[PathBuf]) -> Result<Result<PolicyFiles, Vec<PolicyError>>, Failure> {
    let read = policies::read(paths)?;
    Ok(policies::compile(&read, "policy apply"))
}

fn refuse(errors: &[PolicyError], format: Format, exit: Exit) -> Result<Exit, Failure> {
    super::tell(errors, format)?;
    let faults = super::plural(errors.len(), "fault");
    let sentence = format!(
        "the policies cannot be used: {faults}, listed on stdout; nothing was changed, mend them"
    );
    Err(Failure::new(exit, sentence))
}

fn changes(plan: &ApplyPlan) -> Grid {
    let mut grid = Grid::new(&[
        "change",
        "policy",
        "attachment",
        "limit",
        "from",
        "whole_from",
        "identity",
    ]);
    for limit in &plan.limits {
        grid.row(row(limit));
    }
    grid
}

fn row(limit: &LimitChange) -> [Value; 7] {
    [
        Value::from(limit.change.name()),
        Value::from(limit.policy.as_str()),
        Value::from(limit.attachment.as_str()),
        Value::from(limit.limit.as_str()),
        Value::from(limit.from.name()),
        limit
            .whole_from
            .map_or(Value::Null, |from| Value::from(from.to_string())),
        Value::from(limit.id.0.to_string()),
    ]
}

fn outcome(plan: &ApplyPlan, version: Option<i64>) -> String {
    if plan.is_nothing {
        return "nothing to do: these files are in force already".to_owned();
    }
    let count = |change| {
        let limits = plan.limits.iter();
        limits.filter(|limit| limit.change == change).count()
    };
    let [starts, stays, ends] = [Change::Starts, Change::Stays, Change::Ends].map(count);
    let limits = format!("limits: {starts} start, {stays} stay, {ends} end");
    match version {
        Some(version) => format!("{limits}; version {version} is in force"),
        None => format!("{limits}; dry run: nothing was written"),
    }
}

fn of_policies(settings: &Settings, error: PoliciesError) -> Failure {
    match error {
        PoliciesError::Store(error) => super::super::of_store(settings, &error),
        PoliciesError::InForce(error) => Failure::new(Exit::Configuration, error.to_string()),
    }
}
