//! Price files in YAML and JSON: rows with the names of the CSV's columns, as TOML has them.
//!
//! Invariant: a row says the same as the row of a CSV file with the same cells. Deliberately absent:
//! what the values mean.

use super::entry::{Column, LineError, RawRow, nearest};
use super::tree::{Field, Item, Node};

/// The lists of a file that has more than one; the first holds rates.
const LISTS: [&str; 2] = ["rates", "aliases"];

/// Says whether a tree is laid out as rows: a list of them, or lists of rates and aliases.
pub(super) fn is_rows(tree: &Item) -> bool {
    match &tree.node {
        Node::List(_) => true,
        Node::Map(fields) => fields.iter().any(|field| {
            LISTS.contains(&field.name.as_str()) && matches!(field.value.node, Node::List(_))
        }),
        Node::Null | Node::Plain(_) | Node::Text(_) => false,
    }
}

/// Reads the rows.
pub(super) fn read(tree: Item) -> Result<Vec<RawRow>, LineError> {
    let mut rows = Vec::new();
    match tree.node {
        Node::List(items) => {
            for item in items {
                rows.push(row(item)?);
            }
        }
        Node::Map(fields) => {
            for field in fields {
                for item in list(field)? {
                    rows.push(row(item)?);
                }
            }
        }
        Node::Null | Node::Plain(_) | Node::Text(_) => {}
    }
    rows.sort_by_key(|row| row.line);
    Ok(rows)
}

fn list(field: Field) -> Result<Vec<Item>, LineError> {
    if !LISTS.contains(&field.name.as_str()) {
        let hint = nearest(&field.name, &LISTS);
        let problem = format!("there is no {:?} in a price file; {hint}", field.name);
        return Err((field.line, problem));
    }
    match field.value.node {
        Node::List(items) => Ok(items),
        Node::Null => Ok(Vec::new()),
        Node::Plain(_) | Node::Text(_) | Node::Map(_) => {
            let problem = format!("{} is no list; begin each row of it with `- `", field.name);
            Err((field.line, problem))
        }
    }
}

fn row(item: Item) -> Result<RawRow, LineError> {
    let Node::Map(fields) = item.node else {
        let problem =
            "is no row; write provider, model, meter and usd_per_unit, each with its value";
        return Err((item.line, problem.to_owned()));
    };
    let line = fields.first().map_or(item.line, |field| field.line);
    let mut cells = Vec::with_capacity(fields.len());
    for field in fields {
        let column = Column::named(&field.name).map_err(|problem| (field.line, problem))?;
        let line = field.value.line;
        match (column, field.value.node) {
            (None, _) | (_, Node::Null) => {}
            (Some(column), Node::Plain(text) | Node::Text(text)) if !text.is_empty() => {
                cells.push((column, text, line));
            }
            (Some(column), Node::Plain(_) | Node::Text(_)) => {
                let problem = format!("{} is empty; fill it or leave it out", column.name());
                return Err((line, problem));
            }
            (Some(column), Node::List(_) | Node::Map(_)) => {
                let problem = format!("{} is no text and no number; write one", column.name());
                return Err((line, problem));
            }
        }
    }
    Ok(RawRow { line, cells })
}
