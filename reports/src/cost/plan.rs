//! From what was asked to the range that is reported.
//!
//! Invariant: an end that was not given is the ledger's own, widened to where its grain begins, so
//! that nothing is left out and no bucket begins in the middle for want of a `--from`.

use domain::calendar::{self, CalendarError, Grain, Range, Tz};
use domain::time::{DAY_MS, QUARTER_MS, UnixMs};
use store::cost::{Dimension, Extent};

use super::CostArgs;
use crate::error::ReportError;

/// What is reported.
#[derive(Debug)]
pub(super) struct Plan {
    /// The range; `None` where the ledger is empty and an end was not given.
    pub(super) range: Option<Range>,
    /// What the ledger holds.
    pub(super) ledger: Option<Range>,
    /// The range holds nothing, whatever the ledger says.
    pub(super) is_empty: bool,
}

/// Checks what no type rules out.
pub(super) fn check(args: &CostArgs) -> Result<(), ReportError> {
    for (place, dimension) in args.by.iter().enumerate() {
        if args.by.iter().take(place).any(|before| before == dimension) {
            return Err(ReportError::Usage(format!(
                "--by names {dimension} twice; name it once"
            )));
        }
    }
    Ok(())
}

/// Chooses the range.
///
/// | `--from` | `--to` | range |
/// | --- | --- | --- |
/// | given | given | as given; an error where it is empty |
/// | given | absent | to the end of the last usage; nothing where that lies before `--from` |
/// | absent | given | from where the first usage's bucket begins; nothing where `--to` lies before |
/// | absent | absent | from where the first usage's bucket begins to the end of the last usage |
pub(super) fn plan(args: &CostArgs, extent: Option<Extent>) -> Result<Plan, ReportError> {
    let parse = |text: &String| calendar::parse_instant(text, args.zone);
    let from = args.from.as_ref().map(parse).transpose()?;
    let to = args.to.as_ref().map(parse).transpose()?;
    // The quarter-hour that follows the last of all is none: the year 9999 ends the calendar.
    let ledger = extent.and_then(|extent| {
        Range::new(extent.first, extent.last.saturating_add_ms(QUARTER_MS)).ok()
    });
    let range = match (from, to, ledger) {
        (Some(from), Some(to), _) => Some(Range::new(from, to)?),
        (_, _, None) => None,
        (Some(from), None, Some(ledger)) => open_range(from, ledger.to())?,
        (None, Some(to), Some(ledger)) => {
            open_range(bucket_start(ledger.from(), args.grain, args.zone)?, to)?
        }
        (None, None, Some(ledger)) => open_range(
            bucket_start(ledger.from(), args.grain, args.zone)?,
            ledger.to(),
        )?,
    };
    Ok(Plan {
        range,
        ledger,
        is_empty: range.is_none() || ledger.is_none(),
    })
}

/// Takes a range of which one end is the ledger's: nothing where the ledger does not reach it.
fn open_range(from: UnixMs, to: UnixMs) -> Result<Option<Range>, CalendarError> {
    match Range::new(from, to) {
        Ok(range) => Ok(Some(range)),
        Err(CalendarError::EmptyRange(..)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the start of the bucket that holds an instant: the last cut at or before it.
fn bucket_start(instant: UnixMs, grain: Grain, zone: Tz) -> Result<UnixMs, CalendarError> {
    // Longer than the longest bucket of the grain with its change of the clock, and than one more.
    let look_back_ms = match grain {
        Grain::None | Grain::QuarterHour => return Ok(instant),
        Grain::Hour => DAY_MS / 4,
        Grain::Day => DAY_MS * 4,
        Grain::Week => DAY_MS * 15,
        Grain::Month => DAY_MS * 64,
        Grain::Year => DAY_MS * 740,
    };
    let range = Range::new(
        instant.saturating_add_ms(-look_back_ms),
        instant.saturating_add_ms(QUARTER_MS),
    )?;
    let bounds = calendar::bounds(range, grain, zone)?;
    let cuts = bounds
        .get(..bounds.len().saturating_sub(1))
        .unwrap_or_default();
    Ok(cuts.last().copied().unwrap_or(instant))
}

/// The command that shows which usage has no rate.
pub(super) fn unpriced_command(dimensions: &[Dimension]) -> String {
    let by: Vec<&str> = dimensions
        .iter()
        .map(|dimension| dimension.name())
        .collect();
    format!("tollbook report cost --by {} --only-unpriced", by.join(","))
}
