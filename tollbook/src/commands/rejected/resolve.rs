//! `tollbook rejected retry` and `tollbook rejected drop`.
//!
//! Invariant: the answer names every event that was meant and what became of it, also where an error
//! ends the command: what was committed is committed.

use ::ingest::corrections::{self, Fate, RejectedArgs, Resolved, ResolvedTotals};
use serde_json::{Value, json};
use service::{Exit, Failure};
use store::adjust::RejectionFilter;
use store::rejected::Address;
use store::{Database, Role};

use crate::arguments::{RejectedDropArguments, RejectedRetryArguments, RejectedSelection};
use crate::config::Settings;
use crate::output::{self, Format, Grid};

/// The columns of the answer.
const COLUMNS: [&str; 8] = [
    "place",
    "source",
    "outcome",
    "accepted",
    "duplicates",
    "ignored",
    "reason",
    "detail",
];

pub(super) async fn retry(
    settings: &Settings,
    arguments: RejectedRetryArguments,
) -> Result<Exit, Failure> {
    let mut args = args_of(&arguments.which)?;
    args.because = arguments.because.unwrap_or_default();
    args.accepts_duplicates = arguments.accept_duplicates;
    let db = super::super::open(settings, Role::Ingest).await?;
    check_places(settings, &db, &args.filter.places).await?;
    let mut grid = Grid::new(&COLUMNS);
    let mut tell = |resolved: Resolved| grid.row(row(&resolved));
    let kafka = &settings.config().kafka;
    let done = corrections::retry_rejected(&db, kafka, &args, &mut tell).await;
    finish(settings, &arguments.which, &grid, done, "retried")
}

pub(super) async fn give_up(
    settings: &Settings,
    arguments: RejectedDropArguments,
) -> Result<Exit, Failure> {
    if arguments.because.trim().is_empty() {
        let sentence = "--because is empty; say why the events are given up";
        return Err(Failure::new(Exit::Usage, sentence));
    }
    let mut args = args_of(&arguments.which)?;
    args.because.clone_from(&arguments.because);
    let db = super::super::open(settings, Role::Ingest).await?;
    check_places(settings, &db, &args.filter.places).await?;
    let mut grid = Grid::new(&COLUMNS);
    let mut tell = |resolved: Resolved| grid.row(row(&resolved));
    let done = corrections::drop_rejected(&db, &args, &mut tell).await;
    finish(settings, &arguments.which, &grid, done, "dropped")
}

fn args_of(which: &RejectedSelection) -> Result<RejectedArgs, Failure> {
    let places = which.id.iter().map(|place| place.parse());
    let places: Vec<Address> = places
        .collect::<Result<_, _>>()
        .map_err(|error| super::super::of_flag("--id", &error))?;
    if which.by.as_ref().is_some_and(|by| by.trim().is_empty()) {
        let sentence = "--by is empty; name who takes responsibility, or leave it out";
        return Err(Failure::new(Exit::Usage, sentence));
    }
    let arguments = json!({
        "id": which.id, "source": which.source, "reason": which.reason, "all": which.all,
    });
    Ok(RejectedArgs {
        filter: RejectionFilter {
            places,
            source: which.source.clone(),
            reason: which.reason.as_deref().map(super::reason).transpose()?,
        },
        arguments: arguments.to_string(),
        by: which.by.clone(),
        because: String::new(),
        is_dry_run: which.dry_run,
        accepts_duplicates: false,
    })
}

/// Refuses a place at which nothing was rejected: a slip of the pen, most likely.
async fn check_places(
    settings: &Settings,
    db: &Database,
    places: &[Address],
) -> Result<(), Failure> {
    for place in places {
        let found = store::rejected::show(db, place).await;
        let found = found.map_err(|error| super::super::of_store(settings, &error))?;
        if found.is_empty() {
            let sentence = format!(
                "--id: nothing at {place} was rejected; `tollbook rejected list` names the places"
            );
            return Err(Failure::new(Exit::Usage, sentence));
        }
    }
    Ok(())
}

fn row(resolved: &Resolved) -> [Value; 8] {
    let none = || Value::Null;
    let (outcome, counts, reason, detail) = match &resolved.fate {
        Fate::Counted {
            accepted,
            duplicates,
            ignored,
        } => {
            let outcome = match (accepted, duplicates) {
                (0, 0) => "ignored",
                (0, _) => "duplicate",
                _ => "accepted",
            };
            let counts = [accepted, duplicates, ignored].map(|count| Value::from(*count));
            (outcome, counts, none(), none())
        }
        Fate::Dropped => ("dropped", [none(), none(), none()], none(), none()),
        Fate::Rejected(rejection) => {
            let detail = format!("{} {}", rejection.field, rejection.detail);
            (
                "rejected",
                [none(), none(), none()],
                Value::from(rejection.reason.name()),
                Value::from(detail.trim_start()),
            )
        }
        Fate::Refused(why) => (
            "refused",
            [none(), none(), none()],
            none(),
            Value::from(why.as_str()),
        ),
    };
    let [accepted, duplicates, ignored] = counts;
    [
        Value::from(resolved.address.to_string()),
        Value::from(resolved.source.as_str()),
        Value::from(outcome),
        accepted,
        duplicates,
        ignored,
        reason,
        detail,
    ]
}

fn finish(
    settings: &Settings,
    which: &RejectedSelection,
    grid: &Grid,
    done: Result<ResolvedTotals, corrections::CorrectionError>,
    verb: &str,
) -> Result<Exit, Failure> {
    let format = which.output.output;
    grid.print(
        format,
        "nothing to do: no rejected event that matches is open",
    )?;
    let totals = done.map_err(|error| super::super::of_correction(settings, &error))?;
    if format == Format::Table && totals != ResolvedTotals::default() {
        output::print(&format!("\n{}", sentence(totals, which.dry_run, verb)))?;
    }
    Ok(Exit::Ok)
}

fn sentence(totals: ResolvedTotals, is_dry_run: bool, verb: &str) -> String {
    let ResolvedTotals {
        resolved,
        kept,
        accepted,
        duplicates,
        ignored,
    } = totals;
    let would = if is_dry_run { "would be " } else { "" };
    let mut text = format!("{resolved} rejected events {would}{verb}");
    if verb == "retried" {
        text.push_str(&format!(
            ": {accepted} events counted, {duplicates} counted before, {ignored} not metered; \
             {kept} stay rejected"
        ));
    }
    if is_dry_run {
        text.push_str(". Nothing was changed; leave --dry-run out to do it");
    }
    text.push('.');
    text
}
