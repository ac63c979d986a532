//! YAML as envoyproxy/ratelimit reads it: version 1.1 by `gopkg.in/yaml.v2`, with lines.
//!
//! Invariant: a scalar keeps its text; what it means depends on the key it stands under, as there.
//! What could be taken in two ways is refused: a key that occurs twice, tags, a second document.
//! Bounded: bytes, depth, nodes. Deliberately absent: what the keys mean.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

/// The greatest size of one file, in bytes.
const BYTES_MAX: usize = 1 << 20;

/// The deepest nesting: a descriptor takes two levels.
const DEPTH_MAX: usize = 64;

/// The most nodes of one file, aliases counted as often as they are used.
const NODES_MAX: usize = 400_000;

/// A value and the line that it stands on, from 1.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) item: Item,
}

/// A value by its form.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Scalar(Scalar),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Whether the key is a text; `1`, `y` and `null` are others.
    pub(super) is_text: bool,
    pub(super) line: usize,
    pub(super) value: Node,
}

/// A text, and whether it was written without quotes, so that it may mean something else.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) text: String,
    is_plain: bool,
}

/// What a scalar means by YAML 1.1's rules, as that library has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Null,
    Truth(bool),
    Whole(i128),
    /// A number with a fraction or an exponent, `.inf` or `.nan`.
    Fraction,
    Text,
}

/// What is wrong with a file: the line, then a sentence.
pub(super) type Fault = (usize, String);

impl Scalar {
    /// Reads what it means.
    ///
    /// | written without quotes | taken as |
    /// | --- | --- |
    /// | nothing, `~`, `null` | nothing |
    /// | `true`, `yes`, `on`, `y` and their opposites, also `True`, `TRUE` | a truth |
    /// | `12`, `-12`, `1_000`, `0x1f`, `0b11`, `0o17`, `017` (octal) | a whole number |
    /// | `1.5`, `.5`, `1e+3`, `.inf`, `.nan` | a fraction |
    pub(super) fn meaning(&self) -> Meaning {
        if !self.is_plain {
            return Meaning::Text;
        }
        let text = self.text.as_str();
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Meaning::Truth(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
            | "OFF" => return Meaning::Truth(false),
            _ => {}
        }
        if let Some(whole) = whole(text) {
            Meaning::Whole(whole)
        } else if is_fraction(text) {
            Meaning::Fraction
        } else {
            Meaning::Text
        }
    }
}

fn whole(text: &str) -> Option<i128> {
    let plain = text.replace('_', "");
    let (is_negative, digits) = match plain.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    if !text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-')) {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (lower.get(2..)?, 16),
        Some("0b") => (lower.get(2..)?, 2),
        Some("0o") => (lower.get(2..)?, 8),
        Some(_) if lower.starts_with('0') => (lower.get(1..)?, 8),
        Some(_) | None => (lower.as_str(), 10),
    };
    if !digits.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    Some(if is_negative {
        magnitude.saturating_neg()
    } else {
        magnitude
    })
}

fn is_fraction(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return true;
    }
    let begins = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    let is_number =
        |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+');
    begins && unsigned.bytes().all(is_number) && unsigned.parse::<f64>().is_ok()
}

/// Reads a file's one document; `None` where the file holds none.
pub(super) fn read(text: &str) -> Result<Option<Node>, Fault> {
    if text.len() > BYTES_MAX {
        let problem = format!("the file has {} bytes, more than {BYTES_MAX}", text.len());
        return Err((1, problem));
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let line = error.marker().line().max(1);
            (line, format!("this is no YAML: {}", error.info()))
        })?;
        builder.take(event, span.start.line().max(1))?;
    }
    Ok(builder.document)
}

/// A list or table that is not closed yet.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<(Key, usize)>,
    merged: Vec<Entry>,
}

#[derive(Default)]
struct Builder {
    document: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Fault> {
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(anchor) => {
                let named = self.anchors.get(&anchor).cloned();
                let node = named
                    .ok_or_else(|| (line, "this alias stands inside what it names".to_owned()))?;
                self.place(node, line)
            }
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.as_deref(), line)?;
                let is_plain = matches!(style, ScalarStyle::Plain);
                let text = text.into_owned();
                let item = Item::Scalar(Scalar { text, is_plain });
                self.put(Node { line, item }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(Item::List(Vec::new()), line, anchor, tag.as_deref())
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(Item::Table(Vec::new()), line, anchor, tag.as_deref())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.put(closed(open.node, open.merged), open.anchor),
                None => Err((
                    line,
                    "this is no YAML: an end without a beginning".to_owned(),
                )),
            },
        }
    }

    fn begin(
        &mut self,
        item: Item,
        line: usize,
        anchor: usize,
        tag: Option<&Tag>,
    ) -> Result<(), Fault> {
        refuse_tag(tag, line)?;
        if self.open.len() >= DEPTH_MAX {
            let problem = format!("this is nested deeper than {DEPTH_MAX} levels");
            return Err((line, problem));
        }
        self.open.push(Open {
            node: Node { line, item },
            anchor,
            key: None,
            merged: Vec::new(),
        });
        Ok(())
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let line = node.line;
        self.place(node, line)
    }

    fn place(&mut self, node: Node, line: usize) -> Result<(), Fault> {
        let (size, depth) = measure(&node);
        self.nodes = self.nodes.saturating_add(size);
        if self.nodes > NODES_MAX || self.open.len().saturating_add(depth) > DEPTH_MAX {
            let problem = "the file holds too many values, or aliases make it too deep";
            return Err((line, problem.to_owned()));
        }
        let Some(parent) = self.open.last_mut() else {
            if self.document.is_some() {
                let problem = "a second document begins here, and envoyproxy/ratelimit reads only \
                               the first; put it into a file of its own";
                return Err((line, problem.to_owned()));
            }
            self.document = Some(node);
            return Ok(());
        };
        match &mut parent.node.item {
            Item::List(nodes) => nodes.push(node),
            Item::Table(entries) => match parent.key.take() {
                None => parent.key = Some((key_of(node)?, line)),
                Some((Key { key, .. }, line)) if key == "<<" => {
                    merge(node, &mut parent.merged, line)?;
                }
                Some((Key { key, is_text }, line)) => {
                    if entries.iter().any(|entry| entry.key == key) {
                        return Err((line, format!("the key `{key}` occurs twice; remove one")));
                    }
                    let value = node;
                    entries.push(Entry {
                        key,
                        is_text,
                        line,
                        value,
                    });
                }
            },
            Item::Scalar(_) => {}
        }
        Ok(())
    }
}

/// Ends a list or table: what it merges stands behind what it says itself.
fn closed(mut node: Node, merged: Vec<Entry>) -> Node {
    if let Item::Table(entries) = &mut node.item {
        for entry in merged {
            if entries.iter().all(|known| known.key != entry.key) {
                entries.push(entry);
            }
        }
    }
    node
}

/// Takes what stands under `<<`: a table, or a list of tables of which earlier ones win.
fn merge(node: Node, merged: &mut Vec<Entry>, line: usize) -> Result<(), Fault> {
    match node.item {
        Item::Table(entries) => merged.extend(entries),
        Item::List(nodes) => {
            for node in nodes {
                let Item::Table(entries) = node.item else {
                    return Err((line, "`<<` takes a table or a list of tables".to_owned()));
                };
                merged.extend(entries);
            }
        }
        Item::Scalar(_) => {
            return Err((line, "`<<` takes a table or a list of tables".to_owned()));
        }
    }
    Ok(())
}

/// A key, before its value is there.
struct Key {
    key: String,
    is_text: bool,
}

fn key_of(node: Node) -> Result<Key, Fault> {
    match node.item {
        Item::Scalar(scalar) => Ok(Key {
            is_text: scalar.meaning() == Meaning::Text,
            key: scalar.text,
        }),
        Item::List(_) | Item::Table(_) => Err((node.line, "a key must be a text".to_owned())),
    }
}

/// Returns how many nodes there are and how deep they nest.
fn measure(node: &Node) -> (usize, usize) {
    let join = |(nodes, depth): (usize, usize), below: &Node| {
        let (more, deeper) = measure(below);
        (
            nodes.saturating_add(more),
            depth.max(deeper.saturating_add(1)),
        )
    };
    match &node.item {
        Item::Scalar(_) => (1, 0),
        Item::List(nodes) => nodes.iter().fold((1, 1), join),
        Item::Table(entries) => {
            let values = entries.iter().map(|entry| &entry.value);
            values.fold((1, 1), join)
        }
    }
}

fn refuse_tag(tag: Option<&Tag>, line: usize) -> Result<(), Fault> {
    tag.map_or(Ok(()), |tag| {
        Err((line, format!("the tag {tag} means nothing here; remove it")))
    })
}
