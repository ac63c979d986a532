//! Price files in TOML: `[[rate]]` and `[[alias]]` tables with the names of the CSV's columns.
//!
//! Invariant: a number is taken as its digits in the file, never through a float; every value keeps
//! its line. Deliberately absent: what the values mean.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::entry::{Column, LineError, RawRow, nearest};
use super::lines::Lines;

/// Reads the rows of a TOML file.
pub(super) fn read(text: &str) -> Result<Vec<RawRow>, LineError> {
    let lines = Lines::of(text);
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| lines.line_at(span.start));
        (
            line,
            format!("is not TOML: {}", error.message().replace('\n', "; ")),
        )
    })?;
    let mut rows = Vec::new();
    for (name, value) in document.get_ref() {
        let is_alias = match name.get_ref().as_ref() {
            "rate" => false,
            "alias" => true,
            other => {
                let hint = nearest(other, &["rate", "alias"]);
                let problem = format!("there is no {other:?} in a price file; {hint}");
                return Err((lines.line_of(name), problem));
            }
        };
        let Some(tables) = value.get_ref().as_array() else {
            let problem = format!("write [[{0}]] for each {0}", name.get_ref());
            return Err((lines.line_of(value), problem));
        };
        for table in tables {
            rows.push(lines.row(table, is_alias)?);
        }
    }
    rows.sort_by_key(|row| row.line);
    Ok(rows)
}

impl Lines {
    fn line_of<T>(&self, part: &Spanned<T>) -> usize {
        self.line_at(part.span().start)
    }

    fn row(&self, table: &Spanned<DeValue<'_>>, is_alias: bool) -> Result<RawRow, LineError> {
        let line = self.line_of(table);
        let Some(table) = table.get_ref().as_table() else {
            return Err((
                line,
                "write a table with provider and model in it".to_owned(),
            ));
        };
        let mut cells = Vec::with_capacity(table.len());
        for (name, value) in table {
            if let Some((column, text)) = self.cell(name, value)? {
                cells.push((column, text, self.line_of(value)));
            }
        }
        let has_target = cells.iter().any(|(column, ..)| *column == Column::AliasOf);
        match (is_alias, has_target) {
            (true, false) => {
                let problem = "an [[alias]] names by alias_of the model it stands for";
                Err((line, problem.to_owned()))
            }
            (false, true) => Err((
                line,
                "a [[rate]] has no alias_of; write [[alias]]".to_owned(),
            )),
            (true, true) | (false, false) => Ok(RawRow { line, cells }),
        }
    }

    fn cell(
        &self,
        name: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Option<(Column, String)>, LineError> {
        let column = Column::named(name.get_ref());
        let Some(column) = column.map_err(|problem| (self.line_of(name), problem))? else {
            return Ok(None);
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Datetime(instant) => instant.to_string(),
            DeValue::Integer(_) | DeValue::Boolean(_) | DeValue::Array(_) | DeValue::Table(_) => {
                let problem = format!("{} is no text and no decimal number", column.name());
                return Err((self.line_of(value), format!("{problem}; put it in quotes")));
            }
        };
        if text.is_empty() {
            let problem = format!("{} is empty; fill it or leave it out", column.name());
            return Err((self.line_of(value), problem));
        }
        Ok(Some((column, text)))
    }
}
