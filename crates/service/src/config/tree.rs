//! What was written, layer over layer, and where: the configuration before it has a type.
//!
//! Invariant: each node knows the place that wrote it last.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

use super::path::Segment;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The program's own default.
    Default,
    /// A line of a file, from 1.
    File {
        /// The file.
        file: Arc<str>,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: Arc<str>,
    },
    /// A flag.
    Flag {
        /// The flag as typed.
        flag: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { file, line } => write!(formatter, "{file}:{line}"),
            Self::Environment { name } => write!(formatter, "environment variable {name}"),
            Self::Flag { flag } => write!(formatter, "flag {flag}"),
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) item: Item,
}

#[derive(Debug, Clone)]
pub(crate) enum Item {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    pub(crate) const fn empty_table() -> Self {
        Self {
            origin: Origin::Default,
            item: Item::Table(BTreeMap::new()),
        }
    }

    /// Writes a node at a path; tables on the way are made where they are missing, and what is no
    /// table there is replaced, since the later layer wins.
    pub(crate) fn set(&mut self, path: &[Segment], node: Self) {
        let Some((first, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        let Segment::Key(key) = first else { return };
        if !matches!(self.item, Item::Table(_)) {
            *self = Self {
                origin: node.origin.clone(),
                item: Item::Table(BTreeMap::new()),
            };
        }
        if let Item::Table(entries) = &mut self.item {
            let origin = node.origin.clone();
            let made = || Self {
                origin,
                item: Item::Table(BTreeMap::new()),
            };
            entries
                .entry(key.clone())
                .or_insert_with(made)
                .set(rest, node);
        }
    }

    /// Returns where the node at the path, or the deepest one on the way to it, was written.
    pub(crate) fn origin_of(&self, path: &[Segment]) -> Origin {
        let mut node = self;
        for segment in path {
            let next = node.child(segment);
            let Some(next) = next else { break };
            node = next;
        }
        node.origin.clone()
    }

    /// Returns where the node at exactly this path was written.
    pub(crate) fn exact_origin(&self, path: &[Segment]) -> Option<&Origin> {
        let mut node = self;
        for segment in path {
            node = node.child(segment)?;
        }
        Some(&node.origin)
    }

    fn child(&self, segment: &Segment) -> Option<&Self> {
        match (&self.item, segment) {
            (Item::Table(entries), Segment::Key(key)) => entries.get(key),
            (Item::List(nodes), Segment::Index(index)) => nodes.get(*index),
            _ => None,
        }
    }

    /// Returns the values without their origins.
    pub(crate) fn to_json(&self) -> Json {
        match &self.item {
            Item::Text(text) => Json::from(text.as_str()),
            Item::Integer(number) => Json::from(*number),
            Item::Float(number) => Json::from(*number),
            Item::Boolean(truth) => Json::from(*truth),
            Item::List(nodes) => nodes.iter().map(Self::to_json).collect(),
            Item::Table(entries) => entries
                .iter()
                .map(|(key, node)| (key.clone(), node.to_json()))
                .collect(),
        }
    }
}
