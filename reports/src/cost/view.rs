//! A cost report as a table, JSON or CSV.
//!
//! Invariant: JSON and CSV are exact; the table rounds amounts only, to [`DECIMALS_SHOWN`] places, and
//! says so.

use std::io::Write;

use domain::calendar::{Grain, Range, to_zone_text};
use domain::meter::{Meter, PerMeter};
use domain::money::Amount;
use store::cost::{CostRow, CostSums, Dimension};

use super::{CostReport, plan};
use crate::error::ReportError;
use crate::output::{self, Field, Record};
use crate::table::{self, Align};
use crate::text::{grouped, one_line};

/// Decimal places of an amount in a table: a token of the cheapest models costs about 10⁻⁸, a
/// request some 10⁻⁵.
const DECIMALS_SHOWN: usize = 6;

/// 10⁻¹⁸ per last shown place.
const UNITS_PER_SHOWN: u128 = 1_000_000_000_000;

/// Last shown places per whole unit of the currency.
const SHOWN_PER_WHOLE: u128 = 1_000_000;

/// Writes the report as an array of flat objects.
pub(super) fn write_json(report: &CostReport, out: &mut dyn Write) -> Result<(), ReportError> {
    output::write_json(report.rows.iter().map(|row| record(report, row)), out)
}

/// Writes the report as CSV.
pub(super) fn write_csv(report: &CostReport, out: &mut dyn Write) -> Result<(), ReportError> {
    let nothing = CostRow {
        start: domain::time::UnixMs::FIRST,
        dimensions: report.args.by.iter().map(|_| String::new()).collect(),
        sums: nothing(),
    };
    let header: Vec<&str> = record(report, &nothing)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    output::write_csv(
        &header,
        report.rows.iter().map(|row| record(report, row)),
        out,
    )
}

/// Returns a row under the names that others rely on.
fn record(report: &CostReport, row: &CostRow) -> Record {
    let mut record = Record::new();
    if report.args.grain != Grain::None {
        record.push((
            "start",
            Field::Text(to_zone_text(row.start, report.args.zone)),
        ));
    }
    for (dimension, value) in report.args.by.iter().zip(&row.dimensions) {
        record.push((dimension.name(), Field::Text(value.clone())));
    }
    let sums = &row.sums;
    for (meter, quantity) in sums.quantities.iter() {
        record.push((meter.name(), Field::Count(quantity)));
    }
    let (input, output) = (input_tokens(sums), output_tokens(sums));
    record.push(("input_tokens", Field::Count(input)));
    record.push(("output_tokens", Field::Count(output)));
    record.push(("total_tokens", Field::Count(input.saturating_add(output))));
    let cost = sums
        .amount
        .map_or(Field::Nothing, |amount| Field::Decimal(amount.to_string()));
    record.push(("cost", cost));
    record.push(("unpriced_requests", Field::Count(sums.unpriced_requests)));
    record.push(("failed_requests", Field::Count(sums.failed_requests)));
    record.push((
        "unmeasured_requests",
        Field::Count(sums.unmeasured_requests),
    ));
    record
}

fn input_tokens(sums: &CostSums) -> u128 {
    sum_of(sums, Meter::is_input)
}

fn output_tokens(sums: &CostSums) -> u128 {
    sum_of(sums, Meter::is_output)
}

fn sum_of(sums: &CostSums, is_part: impl Fn(Meter) -> bool) -> u128 {
    let parts = sums.quantities.iter().filter(|(meter, _)| is_part(*meter));
    parts.fold(0, |sum, (_, quantity)| sum.saturating_add(quantity))
}

/// Writes the report for a person, with a footer that says what it covers and what it does not.
pub(super) fn write_table(report: &CostReport, out: &mut dyn Write) -> Result<(), ReportError> {
    if report.rows.is_empty() {
        out.write_all(why_empty(report).as_bytes())?;
        return Ok(());
    }
    let total = total(&report.rows);
    let columns = columns(report, &total);
    let header: Vec<(&str, Align)> = columns
        .iter()
        .map(|column| (column.title, column.align))
        .collect();
    let rows = report.rows.iter().map(|row| {
        columns
            .iter()
            .map(|column| (column.cell)(report, row))
            .collect::<Vec<String>>()
    });
    let total_row = total_row(report, &columns, &total);
    out.write_all(table::render(&header, rows, total_row, report.args.width).as_bytes())?;
    out.write_all(footer(report, &total).as_bytes())?;
    Ok(())
}

/// Makes a row's cell.
type CellOf = dyn Fn(&CostReport, &CostRow) -> String;

/// A column of the table.
struct Column {
    title: &'static str,
    align: Align,
    cell: Box<CellOf>,
}

impl Column {
    fn count(title: &'static str, count: impl Fn(&CostSums) -> u128 + 'static) -> Self {
        let cell = move |_: &CostReport, row: &CostRow| grouped(&count(&row.sums).to_string());
        Self {
            title,
            align: Align::Right,
            cell: Box::new(cell),
        }
    }
}

/// Chooses the columns: what the total has none of is left out.
fn columns(report: &CostReport, total: &CostSums) -> Vec<Column> {
    let mut columns = Vec::new();
    if report.args.grain != Grain::None {
        let start = |report: &CostReport, row: &CostRow| to_zone_text(row.start, report.args.zone);
        columns.push(Column {
            title: "start",
            align: Align::Fixed,
            cell: Box::new(start),
        });
    }
    for (place, dimension) in report.args.by.iter().enumerate() {
        let value = move |_: &CostReport, row: &CostRow| match row.dimensions.get(place) {
            Some(value) if !value.is_empty() => value.clone(),
            Some(_) | None => "-".to_owned(),
        };
        let title = dimension.name();
        columns.push(Column {
            title,
            align: Align::Left,
            cell: Box::new(value),
        });
    }
    columns.push(Column::count("requests", |sums| {
        sums.quantities.get(Meter::Requests)
    }));
    if total.failed_requests > 0 {
        columns.push(Column::count("failed", |sums| sums.failed_requests));
    }
    columns.push(Column::count("input tokens", input_tokens));
    if total.quantities.get(Meter::InputCacheReadTokens) > 0 {
        let cached = |sums: &CostSums| sums.quantities.get(Meter::InputCacheReadTokens);
        columns.push(Column::count("of them cached", cached));
    }
    columns.push(Column::count("output tokens", output_tokens));
    if total.quantities.get(Meter::Images) > 0 {
        columns.push(Column::count("images", |sums| {
            sums.quantities.get(Meter::Images)
        }));
    }
    if total.unpriced_requests > 0 {
        columns.push(Column::count("unpriced", |sums| sums.unpriced_requests));
    }
    let cost = |_: &CostReport, row: &CostRow| shown(row.sums.amount);
    columns.push(Column {
        title: "cost",
        align: Align::Right,
        cell: Box::new(cost),
    });
    columns
}

/// Returns the row of totals; none where the only row is the total itself.
fn total_row(report: &CostReport, columns: &[Column], total: &CostSums) -> Option<Vec<String>> {
    let texts = columns
        .iter()
        .take_while(|column| column.align != Align::Right)
        .count();
    if texts == 0 {
        return None;
    }
    let dimensions = report.args.by.iter().map(|_| String::new()).collect();
    let row = CostRow {
        start: report.rows.first()?.start,
        dimensions,
        sums: total.clone(),
    };
    let cells = columns
        .iter()
        .enumerate()
        .map(|(place, column)| match place {
            0 => "total".to_owned(),
            place if place < texts => String::new(),
            _ => (column.cell)(report, &row),
        });
    Some(cells.collect())
}

/// Sums all rows, exactly.
fn total(rows: &[CostRow]) -> CostSums {
    let mut total = nothing();
    let mut units: i128 = 0;
    for CostRow { sums, .. } in rows {
        let before = total.quantities;
        total.quantities =
            PerMeter::from_fn(|meter| before.get(meter).saturating_add(sums.quantities.get(meter)));
        for (sum, more) in [
            (&mut total.failed_requests, sums.failed_requests),
            (&mut total.unmeasured_requests, sums.unmeasured_requests),
            (&mut total.priced_requests, sums.priced_requests),
            (&mut total.unpriced_requests, sums.unpriced_requests),
        ] {
            *sum = sum.saturating_add(more);
        }
        units = units.saturating_add(sums.amount.map_or(0, Amount::units));
    }
    let has_none = total.unpriced_requests > 0 && total.priced_requests == 0;
    total.amount = if has_none {
        None
    } else {
        Amount::from_units(units)
    };
    total
}

fn nothing() -> CostSums {
    CostSums {
        quantities: PerMeter::default(),
        failed_requests: 0,
        unmeasured_requests: 0,
        priced_requests: 0,
        unpriced_requests: 0,
        amount: Some(Amount::ZERO),
    }
}

/// Returns an amount for display, rounded to six places.
///
/// | amount | shown |
/// | --- | --- |
/// | none | `no rate` |
/// | 0 | `0.000000` |
/// | 1234.5 | `1,234.500000` |
/// | 0.0000025, halfway | `0.000002`: to the even neighbour |
/// | 0.0000005 and less, but not 0 | `<0.000001` |
#[must_use]
pub fn shown(amount: Option<Amount>) -> String {
    let Some(amount) = amount else {
        return "no rate".to_owned();
    };
    let magnitude = amount.units().unsigned_abs();
    let (mut places, rest) = (magnitude / UNITS_PER_SHOWN, magnitude % UNITS_PER_SHOWN);
    let half = UNITS_PER_SHOWN / 2;
    if rest > half || (rest == half && places % 2 == 1) {
        places = places.saturating_add(1);
    }
    let sign = if amount.units() < 0 { "-" } else { "" };
    if places == 0 && magnitude > 0 {
        return format!("{}0.000001", if sign.is_empty() { "<" } else { ">-" });
    }
    let whole = grouped(&(places / SHOWN_PER_WHOLE).to_string());
    format!(
        "{sign}{whole}.{:0width$}",
        places % SHOWN_PER_WHOLE,
        width = DECIMALS_SHOWN
    )
}

fn footer(report: &CostReport, total: &CostSums) -> String {
    let mut lines = vec![String::new()];
    if let Some(range) = report.range {
        let zone = report.args.zone.name();
        lines.push(format!(
            "Usage from {} ({zone}).",
            range_text(report, range)
        ));
    }
    lines.push(
        "Costs are rounded to 6 places for display; --output json or csv has them exactly."
            .to_owned(),
    );
    if total.unpriced_requests > 0 {
        lines.push(format!(
            "{} used something that has no rate, which no cost includes; {}.",
            requests(total.unpriced_requests),
            unpriced_advice(report)
        ));
    }
    if total.unmeasured_requests > 0 {
        lines.push(format!(
            "{} succeeded without token counts in the log, so only the requests are counted.",
            requests(total.unmeasured_requests)
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Leads from any report to the unpriced models, and from those to their rates.
fn unpriced_advice(report: &CostReport) -> String {
    if report.args.only_unpriced && report.args.by.contains(&Dimension::PricedModel) {
        return "name the rates in a file under [prices] for what comes from now on".to_owned();
    }
    format!(
        "see `{}`",
        plan::unpriced_command(&[Dimension::Provider, Dimension::PricedModel])
    )
}

fn requests(count: u128) -> String {
    let noun = if count == 1 { "request" } else { "requests" };
    format!("{} {noun}", grouped(&count.to_string()))
}

fn range_text(report: &CostReport, range: Range) -> String {
    let text = |instant| to_zone_text(instant, report.args.zone);
    format!("{} to {}", text(range.from()), text(range.to()))
}

/// Says why there is nothing to show, and what to do next.
fn why_empty(report: &CostReport) -> String {
    let of = report.args.tenant.as_ref();
    let whose = of.map_or_else(String::new, |tenant| {
        format!(" of tenant {}", one_line(tenant))
    });
    let Some(ledger) = report.ledger else {
        return format!(
            "The ledger holds no usage{whose} yet. `tollbook ingest` fills it from the topics under \
             [[ingest.sources]];\n`tollbook doctor` says what is in the way, and `tollbook rejected \
             list` shows what could not be read.\n"
        );
    };
    let held = range_text(report, ledger);
    if report.args.only_unpriced {
        return format!("All usage{whose} in this range has a rate.\n");
    }
    format!("There is no usage{whose} in this range; the ledger holds usage from {held}.\n")
}

#[cfg(test)]
mod tests;
