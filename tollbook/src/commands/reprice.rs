//! `tollbook reprice`.
//!
//! Invariant: without `--yes` nothing is changed. Deliberately absent: what anything costs.

use ::ingest::corrections::{self, RepriceArgs, RepricedGroup, RepricedTotals};
use domain::calendar::{Tz, parse_instant};
use domain::time::{Quarter, UnixMs};
use serde_json::{Value, json};
use service::{Exit, Failure};
use store::Role;
use store::adjust::SumsFilter;

use super::report::zone;
use crate::arguments::RepriceArguments;
use crate::config::Settings;
use crate::output::{self, Format, Grid};

/// The columns of the answer.
const COLUMNS: [&str; 9] = [
    "app",
    "model",
    "requests",
    "cost_before",
    "cost_after",
    "difference",
    "unpriced_before",
    "unpriced_after",
    "unclear_requests",
];

pub(super) async fn run(settings: &Settings, arguments: RepriceArguments) -> Result<Exit, Failure> {
    let args = read(settings, &arguments)?;
    let db = super::open(settings, Role::Ingest).await?;
    let totals = corrections::reprice(&db, &args).await;
    let totals = totals.map_err(|error| super::of_correction(settings, &error))?;
    let mut grid = Grid::new(&COLUMNS);
    for ((app, model), group) in &totals.groups {
        grid.row(row(app, model, group));
    }
    let format = arguments.output.output;
    grid.print(
        format,
        "nothing to do: all usage costs what the price book in force says",
    )?;
    if format == Format::Table && !totals.groups.is_empty() {
        output::print(&format!("\n{}", sentence(&totals, args.is_dry_run)))?;
    }
    Ok(Exit::Ok)
}

fn read(settings: &Settings, arguments: &RepriceArguments) -> Result<RepriceArgs, Failure> {
    let zone = zone(settings, arguments.zone.as_deref())?;
    let from = edge("--from", arguments.from.as_deref(), zone)?;
    let to = edge("--to", arguments.to.as_deref(), zone)?;
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        let sentence = format!("--to is {to}, not after --from, {from}");
        return Err(Failure::new(Exit::Usage, sentence));
    }
    if arguments.by.as_ref().is_some_and(|by| by.trim().is_empty()) {
        let sentence = "--by is empty; name who takes responsibility, or leave it out";
        return Err(Failure::new(Exit::Usage, sentence));
    }
    let instant = |edge: Option<UnixMs>| edge.map(|edge| edge.to_string());
    let asked = json!({
        "from": instant(from), "to": instant(to), "tenant": arguments.tenant,
        "app": arguments.app, "provider": arguments.provider, "model": arguments.model,
    });
    Ok(RepriceArgs {
        filter: SumsFilter {
            from,
            to,
            tenant: arguments.tenant.clone(),
            app: arguments.app.clone(),
            provider: arguments.provider.clone(),
            model: arguments.model.clone(),
            keys: Vec::new(),
        },
        arguments: asked.to_string(),
        by: arguments.by.clone(),
        because: arguments.because.clone().unwrap_or_default(),
        is_dry_run: !arguments.yes,
    })
}

/// Reads an edge of the range: the ledger sums by quarter-hours, so no other instant can be one.
fn edge(flag: &str, text: Option<&str>, zone: Tz) -> Result<Option<UnixMs>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let instant = parse_instant(text, zone).map_err(|error| super::of_flag(flag, &error))?;
    if Quarter::starting_at(instant).is_none() {
        let what = format!("{instant} is not the start of a quarter-hour");
        return Err(super::of_flag(flag, &what));
    }
    Ok(Some(instant))
}

fn row(app: &str, model: &str, group: &RepricedGroup) -> [Value; 9] {
    let difference = group.after.checked_sub(group.before);
    [
        Value::from(app),
        Value::from(model),
        Value::from(group.requests),
        Value::from(group.before.to_string()),
        Value::from(group.after.to_string()),
        difference.map_or(Value::Null, |amount| Value::from(amount.to_string())),
        Value::from(group.unpriced_before),
        Value::from(group.unpriced_after),
        Value::from(group.unclear),
    ]
}

fn sentence(totals: &RepricedTotals, is_dry_run: bool) -> String {
    let requests: u64 = totals.groups.values().map(|group| group.requests).sum();
    let mut text = if is_dry_run {
        format!("{requests} requests cost otherwise. Nothing was changed; add --yes to post it.")
    } else {
        let adjustments = totals.adjustments;
        format!("{requests} requests were priced anew, in {adjustments} adjustments.")
    };
    for (count, why) in [
        (
            totals.unclear_rates,
            "the book prices them by more than one rate set, and their sums do not say which",
        ),
        (
            totals.unclear_requests,
            "their sums do not say how many of them have a rate",
        ),
        (
            totals.overflowing,
            "their amount does not fit into the ledger",
        ),
    ] {
        if count > 0 {
            text.push_str(&format!("\n{count} requests stay as they are: {why}."));
        }
    }
    text
}
