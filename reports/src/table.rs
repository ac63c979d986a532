//! Tables for a terminal.
//!
//! Invariant: every cell went through `text::one_line`; numbers are never wrapped. Deliberately
//! absent: how wide the terminal is, which the caller knows.

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Row, Table, TableStyle,
};

use crate::text;

/// A rule under the header and above the total, nothing else: wide reports are cramped as it is.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// How a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text: on the left, wrapped where the terminal is narrow.
    Left,
    /// Numbers and times: on the right, never wrapped.
    Right,
    /// Short fixed words and times: on the left, never wrapped.
    Fixed,
}

/// Renders rows under their header, at most `width` columns wide where the texts can be wrapped so
/// far. With a total, the last row is set off by a rule.
pub(crate) fn render(
    header: &[(&str, Align)],
    rows: impl Iterator<Item = Vec<String>>,
    total: Option<Vec<String>>,
    width: Option<u16>,
) -> String {
    let has_total = total.is_some();
    let mut table = Table::new();
    table.load_style(STYLE);
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    table.set_header(cells(
        header,
        header.iter().map(|(name, _)| (*name).to_owned()),
    ));
    for row in rows.chain(total) {
        table.add_row(cells(header, row.into_iter()));
    }
    for (column, (_, align)) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 1));
        if *align != Align::Left {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let mut lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    if has_total && let Some(rule) = lines.iter().find(|line| line.starts_with('─')).cloned() {
        lines.insert(lines.len().saturating_sub(1), rule);
    }
    lines.push(String::new());
    lines.join("\n")
}

fn cells(header: &[(&str, Align)], values: impl Iterator<Item = String>) -> Row {
    let mut row = Row::new();
    for (value, (_, align)) in values.zip(header) {
        let alignment = if *align == Align::Right {
            CellAlignment::Right
        } else {
            CellAlignment::Left
        };
        row.add_cell(Cell::new(text::one_line(&value)).set_alignment(alignment));
    }
    row
}
