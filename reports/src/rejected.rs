//! `rejected list` and `rejected show`: what could not become usage, and why.
//!
//! Invariant: payloads and fields reach a terminal only with their control characters written out.

mod payload;

use std::io::Write;

use domain::calendar::{self, Tz, to_zone_text};
use domain::reject::Reason;
use store::Database;
use store::rejected::{Address, Cursor, Filter, Page, Rejected, RejectedPayload};

use crate::error::ReportError;
use crate::output::{self, Field, Output, Record};
use crate::table::{self, Align};
use crate::text::{grouped, one_line};

/// What `rejected list` was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListArgs {
    /// Of the source by this name only.
    pub source: Option<String>,
    /// With this reason only.
    pub reason: Option<Reason>,
    /// Received at or after this instant only: RFC 3339, or a date, which means that day's start in
    /// the zone.
    pub since: Option<String>,
    /// How many at most, 1 to 10,000.
    pub limit: u32,
    /// From where the page before ended.
    pub after: Option<Cursor>,
    /// For reading `since` and showing times.
    pub zone: Tz,
    /// In which form.
    pub output: Output,
    /// How wide a table may be, in columns; as wide as it wants where absent.
    pub width: Option<u16>,
}

impl Default for ListArgs {
    /// The newest fifty.
    fn default() -> Self {
        Self {
            source: None,
            reason: None,
            since: None,
            limit: 50,
            after: None,
            zone: Tz::UTC,
            output: Output::Table,
            width: None,
        }
    }
}

/// What `rejected show` was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShowArgs {
    /// Which event, or which record with all its rejected events.
    pub place: Address,
    /// For showing times.
    pub zone: Tz,
    /// In which form; CSV has no payloads, so it is refused.
    pub output: Output,
}

/// Lists rejected events, newest first, and writes them.
///
/// # Errors
///
/// [`ReportError::Usage`] and [`ReportError::Calendar`] where what was asked cannot be listed,
/// [`ReportError::Store`] as its kind says, [`ReportError::Write`].
pub async fn list(db: &Database, args: &ListArgs, out: &mut dyn Write) -> Result<(), ReportError> {
    write_page(db, args, out).await?;
    // A buffer that is dropped would swallow the error of its last write.
    Ok(out.flush()?)
}

async fn write_page(
    db: &Database,
    args: &ListArgs,
    out: &mut dyn Write,
) -> Result<(), ReportError> {
    if args.limit == 0 || args.limit > store::rejected::PAGE_MAX {
        let max = store::rejected::PAGE_MAX;
        return Err(ReportError::Usage(format!(
            "--limit is {}; use 1 to {max}",
            args.limit
        )));
    }
    let since = args
        .since
        .as_ref()
        .map(|text| calendar::parse_instant(text, args.zone));
    let filter = Filter {
        source: args.source.clone(),
        reason: args.reason,
        since: since.transpose()?,
        after: args.after,
    };
    let page = store::rejected::list(db, &filter, args.limit).await?;
    let records = || page.events.iter().map(|event| record(event, args.zone));
    match args.output {
        Output::Json => output::write_json(records(), out),
        Output::Csv => output::write_csv(&COLUMNS, records(), out),
        Output::Table => {
            out.write_all(page_table(args, &page).as_bytes())?;
            Ok(())
        }
    }
}

/// Shows the rejected events at a place, with what was kept of their payloads.
///
/// # Errors
///
/// [`ReportError::Usage`] where nothing at that place was rejected, [`ReportError::Store`] as its
/// kind says, [`ReportError::Write`].
pub async fn show(db: &Database, args: &ShowArgs, out: &mut dyn Write) -> Result<(), ReportError> {
    write_events(db, args, out).await?;
    // A buffer that is dropped would swallow the error of its last write.
    Ok(out.flush()?)
}

async fn write_events(
    db: &Database,
    args: &ShowArgs,
    out: &mut dyn Write,
) -> Result<(), ReportError> {
    if args.output == Output::Csv {
        return Err(ReportError::Usage(
            "payloads do not fit into CSV; use --output table or json".to_owned(),
        ));
    }
    let found = store::rejected::show(db, &args.place).await?;
    if found.is_empty() {
        return Err(ReportError::Usage(format!(
            "nothing at {} was rejected; `tollbook rejected list` names the places",
            one_line(&args.place.to_string())
        )));
    }
    if args.output == Output::Json {
        let records = found.iter().map(|found| {
            let mut record = record(&found.event, args.zone);
            record.extend(payload::record(found));
            record
        });
        return output::write_json(records, out);
    }
    for (place, found) in found.iter().enumerate() {
        if place > 0 {
            out.write_all(b"\n")?;
        }
        out.write_all(event_text(found, args.zone).as_bytes())?;
    }
    Ok(())
}

/// The fields of an event, in the order of [`record`].
const COLUMNS: [&str; 15] = [
    "place",
    "received",
    "source",
    "topic",
    "partition",
    "offset",
    "index",
    "incarnation",
    "reason",
    "field",
    "detail",
    "payload_bytes",
    "cursor",
    "state",
    "adjustment",
];

fn record(event: &Rejected, zone: Tz) -> Record {
    let number = |number: i64| Field::Count(number.unsigned_abs().into());
    let address = &event.address;
    let values = [
        Field::Text(address.to_string()),
        Field::Text(to_zone_text(event.record_time, zone)),
        Field::Text(event.source.clone()),
        Field::Text(address.topic.clone()),
        number(address.partition.into()),
        number(address.offset.0),
        Field::Count(address.index.unwrap_or_default().into()),
        number(event.incarnation.into()),
        Field::Text(event.reason.clone()),
        Field::Text(event.field.clone()),
        Field::Text(event.detail.clone()),
        Field::Count(event.payload_bytes.into()),
        Field::Text(event.cursor().to_string()),
        Field::Text(state(event).to_owned()),
        Field::Text(adjustment(event)),
    ];
    COLUMNS.into_iter().zip(values).collect()
}

/// What became of it: `rejected` while it waits, `retried`, `dropped`.
fn state(event: &Rejected) -> &str {
    match event
        .resolved
        .as_ref()
        .map(|resolved| resolved.kind.as_str())
    {
        None => "rejected",
        Some("retry") => "retried",
        Some("drop") => "dropped",
        Some(other) => other,
    }
}

/// The number of the adjustment that resolved it; empty while it waits.
fn adjustment(event: &Rejected) -> String {
    let resolved = event.resolved.as_ref();
    resolved.map_or_else(String::new, |resolved| resolved.adjustment.0.to_string())
}

fn page_table(args: &ListArgs, page: &Page) -> String {
    if page.events.is_empty() {
        let is_all = args.source.is_none() && args.reason.is_none() && args.since.is_none();
        return match (&args.after, is_all) {
            (Some(_), _) => "There are no more rejected events.\n".to_owned(),
            (None, true) => "No event was rejected.\n".to_owned(),
            (None, false) => "No event that matches was rejected.\n".to_owned(),
        };
    }
    let header = [
        ("place", Align::Left),
        ("received", Align::Fixed),
        ("state", Align::Fixed),
        ("reason", Align::Fixed),
        ("what", Align::Left),
        ("bytes", Align::Right),
    ];
    let rows = page.events.iter().map(|event| {
        vec![
            event.address.to_string(),
            to_zone_text(event.record_time, args.zone),
            state(event).to_owned(),
            event.reason.clone(),
            what(event),
            grouped(&event.payload_bytes.to_string()),
        ]
    });
    let mut text = table::render(&header, rows, None, args.width);
    text.push_str("\nSee one with `tollbook rejected show PLACE`.");
    if let Some(next) = page.next {
        text.push_str(&format!(" There are more: add `--after {next}`."));
    }
    text.push('\n');
    text
}

/// Field and detail as the sentence that they make.
fn what(event: &Rejected) -> String {
    format!("{} {}", event.field, event.detail)
        .trim_start()
        .to_owned()
}

/// The state as a sentence: by whom, when, why, and what became of the events in it.
fn state_text(event: &Rejected, zone: Tz) -> String {
    let Some(resolved) = &event.resolved else {
        return "rejected; `tollbook rejected retry` and `rejected drop` resolve it".to_owned();
    };
    let mut text = format!(
        "{} at {} by {}, adjustment {}",
        state(event),
        to_zone_text(resolved.at, zone),
        resolved.by,
        resolved.adjustment.0
    );
    let counts = [
        (resolved.accepted, "counted"),
        (resolved.duplicates, "counted before"),
        (resolved.ignored, "not metered"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {} {what}", grouped(&count.to_string())));
    }
    if !resolved.because.is_empty() {
        text.push_str(&format!(": {}", resolved.because));
    }
    text
}

fn event_text(found: &RejectedPayload, zone: Tz) -> String {
    let event = &found.event;
    let lines = [
        ("place", event.address.to_string()),
        ("source", event.source.clone()),
        ("received", to_zone_text(event.record_time, zone)),
        (
            "part",
            format!("{} of chain {}", event.part.number.0, event.part.chain.0),
        ),
        ("reason", event.reason.clone()),
        ("what", what(event)),
        ("state", state_text(event, zone)),
        ("payload", payload::about(found)),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        text.push_str(&format!("{name:10}{}\n", one_line(&value)));
    }
    text.push('\n');
    text.push_str(&payload::shown(&found.payload));
    text
}
