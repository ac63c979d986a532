//! `report cost`: what usage cost, by any dimensions, range, grain and zone.
//!
//! Invariant: the report is one snapshot of the ledger, and what it totals it totals exactly, before
//! anything is rounded for display. Deliberately absent: sums over groups of groups.

mod plan;
mod view;

use std::io::Write;

use domain::calendar::{self, Grain, Range, Tz};
use store::Database;
use store::cost::{CostQuery, CostRow, Dimension, Snapshot, Tenants};

use crate::error::ReportError;
use crate::output::Output;
use plan::Plan;

pub use view::shown;

/// What `report cost` was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostArgs {
    /// The dimensions to sum separately by, in the order in which they are shown; none for a total.
    pub by: Vec<Dimension>,
    /// Whose usage: one tenant's, or all of it.
    pub tenant: Option<String>,
    /// From when on, as RFC 3339 or as a date, which means that day's start in the zone; from the
    /// first usage on where absent.
    pub from: Option<String>,
    /// Until when, not included; to the end of the last usage where absent.
    pub to: Option<String>,
    /// How finely to cut the range.
    pub grain: Grain,
    /// Whose days, weeks, months and years.
    pub zone: Tz,
    /// Only groups that used something without a rate.
    pub only_unpriced: bool,
    /// In which form.
    pub output: Output,
    /// How wide a table may be, in columns; as wide as it wants where absent.
    pub width: Option<u16>,
}

impl Default for CostArgs {
    /// One total over everything.
    fn default() -> Self {
        Self {
            by: Vec::new(),
            tenant: None,
            from: None,
            to: None,
            grain: Grain::None,
            zone: Tz::UTC,
            only_unpriced: false,
            output: Output::Table,
            width: None,
        }
    }
}

/// A cost report, read and not yet written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostReport {
    /// What was asked.
    pub args: CostArgs,
    /// The range that the report covers; `None` where the ledger is empty and no range was given.
    pub range: Option<Range>,
    /// The range that the ledger holds, to the quarter-hour; `None` where it is empty.
    pub ledger: Option<Range>,
    /// The groups, ascending by bucket, then by the dimensions' values, bytewise.
    pub rows: Vec<CostRow>,
}

/// Reads a cost report and writes it.
///
/// # Errors
///
/// Those of [`read()`] and [`write()`].
pub async fn run(db: &Database, args: &CostArgs, out: &mut dyn Write) -> Result<(), ReportError> {
    let report = read(db, args).await?;
    write(&report, out)
}

/// Reads a cost report in one snapshot.
///
/// # Errors
///
/// [`ReportError::Usage`] and [`ReportError::Calendar`] where what was asked cannot be reported,
/// [`ReportError::Store`] as its kind says.
pub async fn read(db: &Database, args: &CostArgs) -> Result<CostReport, ReportError> {
    plan::check(args)?;
    let tenants = args.tenant.clone().map_or(Tenants::All, Tenants::One);
    let mut snapshot = Snapshot::open(db, tenants).await?;
    let Plan {
        range,
        ledger,
        is_empty,
    } = plan::plan(args, snapshot.extent().await?)?;
    let mut rows = match range {
        Some(range) if !is_empty => {
            let bounds = calendar::bounds(range, args.grain, args.zone)?;
            snapshot
                .cost(&CostQuery {
                    by: args.by.clone(),
                    bounds,
                })
                .await?
        }
        Some(_) | None => Vec::new(),
    };
    if args.only_unpriced {
        rows.retain(|row| row.sums.unpriced_requests > 0);
    }
    Ok(CostReport {
        args: args.clone(),
        range,
        ledger,
        rows,
    })
}

/// Writes a cost report in the form that was asked for.
///
/// # Errors
///
/// [`ReportError::Write`].
pub fn write(report: &CostReport, out: &mut dyn Write) -> Result<(), ReportError> {
    match report.args.output {
        Output::Table => view::write_table(report, out),
        Output::Json => view::write_json(report, out),
        Output::Csv => view::write_csv(report, out),
    }?;
    // A buffer that is dropped would swallow the error of its last write.
    Ok(out.flush()?)
}
