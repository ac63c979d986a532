//! From YAML to nodes that know their places.
//!
//! Invariant: no number passes through a float: a scalar keeps its digits. What a reader could take
//! in two ways is refused: a key that occurs twice, tags, merge keys. Bounded: bytes, depth, nodes.
//! Deliberately absent: what the keys mean.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

/// The greatest size of one file, in bytes.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// The deepest nesting: three times what the language itself nests.
const DEPTH_MAX: usize = 24;

/// The most nodes of one file, aliases counted as often as they are used: a megabyte of short limits
/// has about 200,000.
const NODES_MAX: usize = 400_000;

/// A place in a file, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) item: Item,
}

/// A value by its form in YAML's core schema (YAML 1.2.2, section 10.3); numbers as their digits.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Null,
    Boolean(bool),
    Whole(String),
    Fraction(String),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key with its value; keys are unique within a table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) value: Node,
}

/// What is wrong with a file's YAML: the place, then the rest of a sentence.
pub(super) type Fault = (Mark, String);

/// Reads a file's documents, and all faults that leave a tree behind (keys that occur twice).
///
/// The error ends the reading: what follows it cannot be trusted.
pub(super) fn read(text: &str) -> Result<(Vec<Node>, Vec<Fault>), Fault> {
    let start = Mark { line: 1, column: 1 };
    if text.len() > BYTES_MAX {
        let problem = format!("the file has {} bytes, more than {BYTES_MAX}", text.len());
        return Err((start, problem));
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| (mark_of(*error.marker()), syntax(error.info())))?;
        builder.take(event, span)?;
    }
    Ok((builder.documents, builder.faults))
}

fn syntax(info: &str) -> String {
    format!("this is no YAML: {info}")
}

fn mark_of(marker: Marker) -> Mark {
    Mark {
        line: marker.line().max(1),
        column: marker.col().saturating_add(1),
    }
}

/// A list or table that is not closed yet.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<(String, Mark)>,
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    faults: Vec<Fault>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let mark = mark_of(span.start);
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(anchor) => self.alias(anchor, mark),
            Event::Scalar(text, style, anchor, tag) => {
                let item = scalar(&text, style, tag.as_deref(), mark)?;
                self.put(Node { mark, item }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(Item::List(Vec::new()), mark, anchor, tag.as_deref())
            }
            Event::MappingStart(anchor, tag) => {
                self.open(Item::Table(Vec::new()), mark, anchor, tag.as_deref())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(closed) => self.put(closed.node, closed.anchor),
                None => Err((mark, syntax("an end without a beginning"))),
            },
        }
    }

    fn open(
        &mut self,
        item: Item,
        mark: Mark,
        anchor: usize,
        tag: Option<&Tag>,
    ) -> Result<(), Fault> {
        refuse_tag(tag, mark)?;
        if self.open.len() >= DEPTH_MAX {
            let problem = format!("this is nested deeper than {DEPTH_MAX} levels");
            return Err((mark, problem));
        }
        let node = Node { mark, item };
        self.open.push(Open {
            node,
            anchor,
            key: None,
        });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, mark: Mark) -> Result<(), Fault> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err((mark, "this alias stands inside what it names".to_owned()));
        };
        let size = size_of(node);
        let copy = node.clone();
        let depth = self.open.len().saturating_add(depth_of(&copy));
        self.nodes = self.nodes.saturating_add(size);
        if self.nodes > NODES_MAX || depth > DEPTH_MAX {
            let problem = "aliases make this file too large or too deep; write less by aliases";
            return Err((mark, problem.to_owned()));
        }
        // Errors point at what was written, so the copy keeps its own places.
        self.place(copy)
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > NODES_MAX {
            return Err((
                node.mark,
                format!("the file holds more than {NODES_MAX} values"),
            ));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
            self.nodes = self.nodes.saturating_add(size_of(&node));
        }
        self.place(node)
    }

    fn place(&mut self, node: Node) -> Result<(), Fault> {
        let Some(parent) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        match &mut parent.node.item {
            Item::List(nodes) => nodes.push(node),
            Item::Table(entries) => match parent.key.take() {
                None => parent.key = Some((key_of(&node)?, node.mark)),
                Some((key, mark)) => {
                    if entries.iter().any(|entry| entry.key == key) {
                        let problem = format!("the key `{key}` occurs twice; remove one");
                        self.faults.push((mark, problem));
                    } else {
                        let value = node;
                        entries.push(Entry { key, mark, value });
                    }
                }
            },
            Item::Null | Item::Boolean(_) | Item::Whole(_) | Item::Fraction(_) | Item::Text(_) => {}
        }
        Ok(())
    }
}

fn key_of(node: &Node) -> Result<String, Fault> {
    let key = match &node.item {
        Item::Text(text) if text == "<<" => {
            let problem = "`<<` is no part of YAML 1.2; repeat the keys, or alias a whole value";
            return Err((node.mark, problem.to_owned()));
        }
        Item::Text(text) | Item::Whole(text) | Item::Fraction(text) => text.clone(),
        Item::Boolean(truth) => truth.to_string(),
        Item::Null => "null".to_owned(),
        Item::List(_) | Item::Table(_) => {
            return Err((node.mark, "a key must be a plain text".to_owned()));
        }
    };
    Ok(key)
}

fn size_of(node: &Node) -> usize {
    let below: usize = match &node.item {
        Item::List(nodes) => nodes.iter().map(size_of).sum(),
        Item::Table(entries) => entries.iter().map(|entry| size_of(&entry.value)).sum(),
        Item::Null | Item::Boolean(_) | Item::Whole(_) | Item::Fraction(_) | Item::Text(_) => 0,
    };
    below.saturating_add(1)
}

fn depth_of(node: &Node) -> usize {
    let below = match &node.item {
        Item::List(nodes) => nodes.iter().map(depth_of).max(),
        Item::Table(entries) => entries.iter().map(|entry| depth_of(&entry.value)).max(),
        Item::Null | Item::Boolean(_) | Item::Whole(_) | Item::Fraction(_) | Item::Text(_) => {
            return 0;
        }
    };
    below.unwrap_or(0).saturating_add(1)
}

fn refuse_tag(tag: Option<&Tag>, mark: Mark) -> Result<(), Fault> {
    tag.map_or(Ok(()), |tag| {
        let problem = format!("the tag {tag} means nothing here; remove it");
        Err((mark, problem))
    })
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, mark: Mark) -> Result<Item, Fault> {
    refuse_tag(tag, mark)?;
    if text.contains('\0') {
        return Err((mark, "a text must not hold a NUL character".to_owned()));
    }
    Ok(match style {
        ScalarStyle::Plain => plain(text),
        ScalarStyle::SingleQuoted
        | ScalarStyle::DoubleQuoted
        | ScalarStyle::Literal
        | ScalarStyle::Folded => Item::Text(text.to_owned()),
    })
}

/// Reads a scalar without quotes by the core schema.
///
/// | written | taken as |
/// | --- | --- |
/// | nothing, `~`, `null` | nothing |
/// | `true`, `false` (also `True`, `TRUE`) | a truth |
/// | `12`, `-12`, `0x1f`, `0o17` | a whole number |
/// | `1.5`, `.5`, `5.`, `1e3`, `.inf`, `.nan` | a number with a fraction |
/// | anything else, also `no`, `60s`, `1_000` | a text |
fn plain(text: &str) -> Item {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Item::Null,
        "true" | "True" | "TRUE" => return Item::Boolean(true),
        "false" | "False" | "FALSE" => return Item::Boolean(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_whole = is_digits(digits, 10)
        || text
            .strip_prefix("0x")
            .is_some_and(|text| is_digits(text, 16))
        || text
            .strip_prefix("0o")
            .is_some_and(|text| is_digits(text, 8));
    if is_whole {
        Item::Whole(text.to_owned())
    } else if is_fraction(digits) {
        Item::Fraction(text.to_owned())
    } else {
        Item::Text(text.to_owned())
    }
}

fn is_digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_digit(radix))
}

fn is_fraction(text: &str) -> bool {
    let word = text.to_ascii_lowercase();
    if word == ".inf" || word == ".nan" {
        return true;
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let fits_exponent = exponent.is_none_or(|exponent| {
        is_digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent), 10)
    });
    let fits_mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => is_digits(fraction, 10),
        Some((whole, fraction)) => {
            is_digits(whole, 10) && (fraction.is_empty() || is_digits(fraction, 10))
        }
        None => exponent.is_some() && is_digits(mantissa, 10),
    };
    fits_exponent && fits_mantissa
}
