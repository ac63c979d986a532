//! Price files in CSV, in the layout of the shipped book.
//!
//! Invariant: the first line names the columns, in any order; every row has as many cells. Empty
//! lines and lines that begin with `#` say nothing. Deliberately absent: what the cells mean.

use csv::{ReaderBuilder, StringRecord, Trim};

use super::entry::{Column, LineError, RawRow};

/// How strictly the text is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// As people write it: white space around cells, empty lines and `#` lines say nothing.
    Written,
    /// As [`super::PriceBook::to_canonical`] writes it: every byte counts.
    Canonical,
}

/// Reads the rows of a CSV file.
pub(super) fn read(text: &str, strictness: Strictness) -> Result<Vec<RawRow>, LineError> {
    let is_written = strictness == Strictness::Written;
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(if is_written { Trim::All } else { Trim::None })
        .comment(is_written.then_some(b'#'))
        .from_reader(text.as_bytes());
    let mut columns: Option<Vec<Option<Column>>> = None;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| (1, format!("is not CSV: {error}")))?;
        let line = line_of(&record, text);
        match &columns {
            None => columns = Some(header(&record, line)?),
            Some(columns) => rows.push(row(&record, columns, strictness, line)?),
        }
    }
    if columns.is_none() {
        return Err((1, format!("is empty; its first line is {}", header_names())));
    }
    Ok(rows)
}

fn header(record: &StringRecord, line: usize) -> Result<Vec<Option<Column>>, LineError> {
    let mut columns = Vec::with_capacity(record.len());
    for name in record {
        let column = Column::named(name).map_err(|problem| (line, problem))?;
        if column.is_some() && columns.contains(&column) {
            return Err((line, format!("column {name} occurs twice; leave one out")));
        }
        columns.push(column);
    }
    for column in [Column::Provider, Column::Model] {
        if !columns.contains(&Some(column)) {
            let name = column.name();
            return Err((
                line,
                format!("no column {name}; the first line is {}", header_names()),
            ));
        }
    }
    Ok(columns)
}

fn header_names() -> String {
    Column::ALL.map(Column::name).join(",")
}

fn row(
    record: &StringRecord,
    columns: &[Option<Column>],
    strictness: Strictness,
    line: usize,
) -> Result<RawRow, LineError> {
    if record.len() != columns.len() {
        let problem = format!(
            "has {} cells where the first line names {} columns; fill it up with commas, and quote \
             a cell that holds one",
            record.len(),
            columns.len()
        );
        return Err((line, problem));
    }
    let mut cells = Vec::with_capacity(columns.len());
    for (column, text) in columns.iter().zip(record) {
        if let Some(column) = column
            && !text.is_empty()
        {
            let text = if strictness == Strictness::Written {
                without_apostrophe(text)
            } else {
                text
            };
            cells.push((*column, text.to_owned(), line));
        }
    }
    Ok(RawRow { line, cells })
}

/// Takes off the apostrophe that `prices list` and spreadsheets put before a text which would
/// otherwise be a formula; no name begins with both.
fn without_apostrophe(text: &str) -> &str {
    text.strip_prefix('\'')
        .filter(|rest| rest.starts_with(['=', '+', '-', '@']))
        .unwrap_or(text)
}

/// Returns the line on which a record begins, from 1. The reader's own position lies before the
/// empty lines and `#` lines that it passes over.
fn line_of(record: &StringRecord, text: &str) -> usize {
    let Some(position) = record.position() else {
        return 1;
    };
    let start = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let passed_over = text
        .get(start..)
        .unwrap_or_default()
        .split_inclusive('\n')
        .take_while(|line| line.trim_end_matches(['\r', '\n']).is_empty() || line.starts_with('#'))
        .count();
    usize::try_from(position.line())
        .unwrap_or(usize::MAX)
        .saturating_add(passed_over)
}
