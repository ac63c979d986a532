//! YAML as a tree with lines.
//!
//! Invariant: one document; scalars keep their text, whatever YAML would take them for. Deliberately
//! absent: anchors and aliases, by which a short file could say endlessly much, and tags.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::super::entry::LineError;
use super::{DEPTH_MAX, Field, Item, Node, map_of, too_deep};

/// Reads the one document of a YAML file.
pub(in super::super) fn read(text: &str) -> Result<Item, LineError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
    };
    let mut document = None;
    loop {
        let (event, line) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            Event::Alias(_)
            | Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::SequenceEnd
            | Event::MappingStart(..)
            | Event::MappingEnd => {
                if document.is_some() {
                    let problem = "begins a second document; put each into a file of its own";
                    return Err((line, problem.to_owned()));
                }
                document = Some(reader.item(event, line, 0)?);
            }
        }
    }
    Ok(document.unwrap_or(Item {
        line: 1,
        node: Node::Null,
    }))
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, usize), LineError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, line_of(&span))),
            Some(Err(error)) => Err(not_yaml(&error)),
            None => Ok((Event::StreamEnd, 1)),
        }
    }

    fn item(&mut self, event: Event<'t>, line: usize, depth: usize) -> Result<Item, LineError> {
        if depth > DEPTH_MAX {
            return Err(too_deep(line));
        }
        let below = depth.saturating_add(1);
        let node = match event {
            Event::Scalar(text, style, ..) => scalar(text.into_owned(), style),
            Event::SequenceStart(..) => Node::List(self.list(below)?),
            Event::MappingStart(..) => map_of(self.fields(below)?)?,
            Event::Alias(_) => {
                let problem = "stands for another place by `*`; write out what stands there";
                return Err((line, problem.to_owned()));
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                return Err((line, "is not YAML: a value is missing".to_owned()));
            }
        };
        Ok(Item { line, node })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Item>, LineError> {
        let mut items = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            items.push(self.item(event, line, depth)?);
        }
    }

    fn fields(&mut self, depth: usize) -> Result<Vec<Field>, LineError> {
        let mut fields = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(fields);
            }
            let Event::Scalar(name, ..) = event else {
                return Err((line, "has a key that is no text; name it".to_owned()));
            };
            let name = name.into_owned();
            let (event, value_line) = self.next()?;
            let value = self.item(event, value_line, depth)?;
            fields.push(Field { name, line, value });
        }
    }
}

/// The words are those of YAML 1.2's core schema (<https://yaml.org/spec/1.2.2/#103-core-schema>).
fn scalar(text: String, style: ScalarStyle) -> Node {
    match style {
        ScalarStyle::Plain if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") => {
            Node::Null
        }
        ScalarStyle::Plain => Node::Plain(text),
        ScalarStyle::SingleQuoted
        | ScalarStyle::DoubleQuoted
        | ScalarStyle::Literal
        | ScalarStyle::Folded => Node::Text(text),
    }
}

fn line_of(span: &Span) -> usize {
    span.start.line().max(1)
}

fn not_yaml(error: &ScanError) -> LineError {
    let line = error.marker().line().max(1);
    let problem = error.info().replace('\n', " ");
    (line, format!("is not YAML: {problem}"))
}
