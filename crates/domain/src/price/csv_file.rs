//! Price files in CSV, in the layout of the shipped book.
//!
//! Invariant: the first line names the columns, in any order; every row has as many cells. Empty
//! lines and lines that begin with `#` say nothing. Deliberately absent: what the cells mean.

use csv::{ReaderBuilder, StringRecord, Trim};

use super::entry::{Column, LineError, RawRow};

/// How strictly the text is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As people write it: white space around cells, empty lines and `#` lines say nothing.
    Written,
    /// As [`super::PriceBook::to_canonical`] writes it: every byte counts.
    Canonical,
}

/// Reads the rows of a CSV file.
pub(super) fn read(text: &str, layout: Layout) -> Result<Vec<RawRow>, LineError> {
    let is_written = layout == Layout::Written;
    let text = text
        .strip_prefix('\u{feff}')
        .filter(|_| is_written)
        .unwrap_or(text);
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(if is_written { Trim::All } else { Trim::None })
        .comment(is_written.then_some(b'#'))
        .from_reader(text.as_bytes());
    let mut columns: Option<Vec<Column>> = None;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| (1, format!("is not CSV: {error}")))?;
        let line = line_of(&record, text);
        match &columns {
            None => columns = Some(header(&record, line)?),
            Some(columns) => rows.push(row(&record, columns, line)?),
        }
    }
    if columns.is_none() {
        return Err((1, format!("is empty; its first line is {}", header_names())));
    }
    Ok(rows)
}

fn header(record: &StringRecord, line: usize) -> Result<Vec<Column>, LineError> {
    let mut columns = Vec::with_capacity(record.len());
    for name in record {
        let column = Column::named(name).map_err(|problem| (line, problem))?;
        if columns.contains(&column) {
            return Err((line, format!("column {name} occurs twice; leave one out")));
        }
        columns.push(column);
    }
    for column in [Column::Provider, Column::Model] {
        if !columns.contains(&column) {
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

fn row(record: &StringRecord, columns: &[Column], line: usize) -> Result<RawRow, LineError> {
    if record.len() != columns.len() {
        let problem = format!(
            "has {} cells where the first line names {} columns; fill it up with commas, and quote \
             a cell that holds one",
            record.len(),
            columns.len()
        );
        return Err((line, problem));
    }
    let cells = columns
        .iter()
        .zip(record)
        .filter(|(_, text)| !text.is_empty());
    let cells = cells
        .map(|(column, text)| (*column, text.to_owned(), line))
        .collect();
    Ok(RawRow { line, cells })
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
