//! What a command prints: a table for people, JSON and CSV for programs.
//!
//! Invariant: a reader that goes away (`tollbook … | head`) ends the command quietly. Deliberately
//! absent: colours and progress, which are no part of an answer.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{LineStyle, Table, TableStyle};
use serde_json::{Map, Value};
use service::Failure;

/// A rule under the header and nothing else, as in the reports.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// How to print an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// An array of objects.
    Json,
    /// With a header; cells that a spreadsheet would take for a formula are escaped.
    Csv,
}

/// Prints a text as it is; a line break is added where the text lacks one.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let written = write!(stdout, "{text}{end}").and_then(|()| stdout.flush());
    written.or_else(|error| of_write(&error))
}

/// Passes over a reader that went away; else makes the failure of a stdout that takes no more.
pub(crate) fn of_write(error: &io::Error) -> Result<(), Failure> {
    if error.kind() == ErrorKind::BrokenPipe {
        return Ok(());
    }
    Err(Failure::unexpected(format!(
        "the answer cannot be written to stdout ({error}); free the disk that it goes to"
    )))
}

impl From<Format> for reports::Output {
    fn from(format: Format) -> Self {
        match format {
            Format::Table => Self::Table,
            Format::Json => Self::Json,
            Format::Csv => Self::Csv,
        }
    }
}

/// Returns how many columns the terminal has; `None` where stdout is none.
pub(crate) fn width() -> Option<u16> {
    let stdout = io::stdout();
    let size = stdout
        .is_terminal()
        .then(|| terminal_size::terminal_size_of(stdout))
        .flatten();
    size.map(|(width, _)| width.0)
}

/// Rows under named columns.
#[derive(Debug, Default)]
pub(crate) struct Grid {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Grid {
    /// Makes an empty grid with these columns.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: a value for each column, in their order.
    pub(crate) fn row(&mut self, values: impl IntoIterator<Item = Value>) {
        self.rows.push(values.into_iter().collect());
    }

    /// Prints the grid; in a table `none` stands for no rows.
    pub(crate) fn print(&self, format: Format, none: &str) -> Result<(), Failure> {
        match format {
            Format::Table if self.rows.is_empty() => print(none),
            Format::Table => print(&self.to_table()),
            Format::Json => print(&format!("{:#}", self.to_json())),
            Format::Csv => print(&self.to_csv()),
        }
    }

    fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(STYLE).set_header(&self.columns);
        table.add_rows(
            self.rows
                .iter()
                .map(|row| row.iter().map(text_of).collect::<Vec<_>>()),
        );
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect()
    }

    /// Returns the rows as an array of objects.
    pub(crate) fn to_json(&self) -> Value {
        let object = |row: &Vec<Value>| -> Map<String, Value> {
            let columns = self.columns.iter().map(|column| (*column).to_owned());
            columns.zip(row.iter().cloned()).collect()
        };
        self.rows.iter().map(object).map(Value::Object).collect()
    }

    fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = self
            .columns
            .iter()
            .map(|column| (*column).to_owned())
            .collect();
        let cells = self
            .rows
            .iter()
            .map(|row| row.iter().map(escaped).collect());
        let all = std::iter::once(header).chain(cells);
        // Memory takes all that is written, and all of it is text.
        let _taken = all
            .into_iter()
            .try_for_each(|row: Vec<String>| writer.write_record(row));
        writer
            .into_inner()
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

/// Returns a cell as a person reads it: texts without quotes, nothing for what is absent.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text
            .escape_debug()
            .to_string()
            .replace("\\\"", "\"")
            .replace("\\'", "'"),
        other => other.to_string(),
    }
}

/// Returns a cell of CSV; a text that begins like a formula gets an apostrophe in front
/// (OWASP, "CSV injection").
fn escaped(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
            format!("'{text}")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(&["name", "count"]);
        grid.row([Value::from("=cmd(\"x\")"), Value::from(3)]);
        grid.row([Value::from("plain, with a comma"), Value::Null]);
        grid
    }

    #[test]
    fn csv_escapes_formulas_and_quotes() {
        let expected = "name,count\n\"'=cmd(\"\"x\"\")\",3\n\"plain, with a comma\",\n";
        assert_eq!(
            grid().to_csv(),
            expected,
            "as a spreadsheet reads it safely"
        );
    }

    #[test]
    fn json_keeps_types() {
        let expected = serde_json::json!([
            { "name": "=cmd(\"x\")", "count": 3 },
            { "name": "plain, with a comma", "count": null },
        ]);
        assert_eq!(
            grid().to_json(),
            expected,
            "numbers are numbers, absent is null"
        );
    }

    #[test]
    fn a_table_has_a_header_and_a_line_per_row() {
        let table = grid().to_table();
        assert_eq!(table.lines().count(), 4, "with a rule:\n{table}");
        assert!(table.lines().all(|line| !line.ends_with(' ')), "{table:?}");
    }
}
