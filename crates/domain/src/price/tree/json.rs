//! JSON as a tree with lines.
//!
//! Invariant: what `serde_json` refuses is refused here; of what it takes, the bytes of each value
//! are kept until somebody reads them.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::entry::LineError;
use super::super::lines::Lines;
use super::{DEPTH_MAX, Field, Item, Node, map_of, too_deep};

/// Reads one JSON value.
pub(in super::super) fn read(text: &str) -> Result<Item, LineError> {
    let reader = Reader {
        text,
        lines: Lines::of(text),
    };
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| not_json(1, &error))?;
    reader.item(raw, 0)
}

struct Reader<'t> {
    text: &'t str,
    lines: Lines,
}

impl<'t> Reader<'t> {
    fn item(&self, raw: &'t RawValue, depth: usize) -> Result<Item, LineError> {
        let text = raw.get();
        let line = self.line_of(text);
        if depth > DEPTH_MAX {
            return Err(too_deep(line));
        }
        let below = depth.saturating_add(1);
        let node = match text.as_bytes().first() {
            Some(b'{') => map_of(self.fields(text, line, below)?)?,
            Some(b'[') => {
                let raws: Vec<&RawValue> =
                    serde_json::from_str(text).map_err(|error| not_json(line, &error))?;
                let items: Result<_, _> =
                    raws.into_iter().map(|raw| self.item(raw, below)).collect();
                Node::List(items?)
            }
            Some(b'"') => {
                Node::Text(serde_json::from_str(text).map_err(|error| not_json(line, &error))?)
            }
            _ if text == "null" => Node::Null,
            _ => Node::Plain(text.to_owned()),
        };
        Ok(Item { line, node })
    }

    fn fields(&self, text: &'t str, line: usize, depth: usize) -> Result<Vec<Field>, LineError> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let pairs = deserializer
            .deserialize_map(Pairs)
            .map_err(|error| not_json(line, &error))?;
        let mut fields = Vec::with_capacity(pairs.len());
        for (name, raw) in pairs {
            let value = self.item(raw, depth)?;
            fields.push(Field {
                name,
                line: value.line,
                value,
            });
        }
        Ok(fields)
    }

    /// Returns the line of a part of the text.
    fn line_of(&self, part: &str) -> usize {
        let start = self.text.as_ptr().addr();
        self.lines
            .line_at(part.as_ptr().addr().saturating_sub(start))
    }
}

/// Says where the syntax ends; `first` is the line on which the text begins that was read.
fn not_json(first: usize, error: &serde_json::Error) -> LineError {
    let line = first.saturating_add(error.line().saturating_sub(1));
    let text = error.to_string();
    // The line is said already, and of the whole file.
    let problem = text.split(" at line ").next().unwrap_or(&text);
    (line, format!("is not JSON: {problem}"))
}

/// Takes the keys and values of an object as they come, also such as occur twice.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = access.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}
