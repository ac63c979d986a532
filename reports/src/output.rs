//! The forms of a report.
//!
//! Invariant: JSON and CSV hold the same fields under the same names; an array of JSON is one object
//! a line, so that it can be read by line as well.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use serde_json::Value;

use crate::error::ReportError;
use crate::text;

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Output {
    /// For a person at a terminal.
    #[default]
    Table,
    /// An array of flat objects.
    Json,
    /// RFC 4180 with a header, for spreadsheets.
    Csv,
}

impl Output {
    /// All forms.
    pub const ALL: [Self; 3] = [Self::Table, Self::Json, Self::Csv];

    /// Returns the name used on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Csv => "csv",
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no form of a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("output {0:?} is unknown; use table, json or csv")]
pub struct UnknownOutput(String);

impl FromStr for Output {
    type Err = UnknownOutput;

    fn from_str(name: &str) -> Result<Self, UnknownOutput> {
        let found = Self::ALL.into_iter().find(|output| output.name() == name);
        found.ok_or_else(|| UnknownOutput(name.to_owned()))
    }
}

/// One value of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    /// Text, possibly from outside.
    Text(String),
    /// A whole number.
    Count(u128),
    /// An exact decimal: a string in JSON, so that no reader rounds it.
    Decimal(String),
    /// Nothing: `null` in JSON, an empty cell in CSV.
    Nothing,
}

/// Named values in the order in which they are written.
pub(crate) type Record = Vec<(&'static str, Field)>;

/// Writes records as an array of objects, one a line.
pub(crate) fn write_json(
    records: impl Iterator<Item = Record>,
    out: &mut dyn Write,
) -> Result<(), ReportError> {
    let mut is_first = true;
    for record in records {
        out.write_all(if is_first { b"[\n" } else { b",\n" })?;
        is_first = false;
        out.write_all(json_object(record)?.as_bytes())?;
    }
    out.write_all(if is_first { b"[]\n" } else { b"\n]\n" })?;
    Ok(())
}

/// Returns a record as one object on one line. `serde_json` would sort the names of a map, so the
/// object is put together here from names and values that it wrote.
pub(crate) fn json_object(record: Record) -> Result<String, ReportError> {
    let mut fields = Vec::with_capacity(record.len());
    for (name, field) in record {
        let value = match field {
            Field::Text(text) | Field::Decimal(text) => serde_json::to_string(&text)?,
            Field::Count(count) => count.to_string(),
            Field::Nothing => Value::Null.to_string(),
        };
        fields.push(format!("{}:{value}", serde_json::to_string(name)?));
    }
    Ok(text::json_without_controls(&format!(
        "{{{}}}",
        fields.join(",")
    )))
}

/// Writes records as CSV under a header.
///
/// A text cell that a spreadsheet would take for a formula, since it begins with `=`, `+`, `-`, `@`,
/// a tab or a carriage return, gets a leading apostrophe; control characters are written as
/// `\u{1b}`.
pub(crate) fn write_csv(
    header: &[&str],
    records: impl Iterator<Item = Record>,
    out: &mut dyn Write,
) -> Result<(), ReportError> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(header)?;
    for record in records {
        writer.write_record(record.into_iter().map(|(_, field)| match field {
            Field::Text(text) => text::csv_cell(&text),
            Field::Count(count) => count.to_string(),
            Field::Decimal(decimal) => decimal,
            Field::Nothing => String::new(),
        }))?;
    }
    writer.flush()?;
    Ok(())
}
