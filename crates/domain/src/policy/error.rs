//! What can be wrong with a policy, and where.
//!
//! Invariant: each text is one sentence with file, line, column, path and cure, so that an editor can
//! jump there; all faults of a file are told at once, none of them twice.

use std::fmt;

use super::yaml::{Entry, Item, Mark, Node};

/// One thing that is wrong with a policy file; its author mends the place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyError {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// Where it stands within the policy, such as `limits[1].window.calendar`; empty where the whole
    /// file or policy is meant.
    pub path: String,
    /// What is wrong and how to mend it: the rest of a sentence that begins with the path.
    pub problem: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "`{}` ", self.path)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for PolicyError {}

/// A place within a policy: its path, and the node there if it was written.
#[derive(Debug, Clone)]
pub(super) struct At<'n> {
    pub(super) path: String,
    pub(super) mark: Mark,
    pub(super) node: Option<&'n Node>,
}

impl<'n> At<'n> {
    pub(super) fn root(node: &'n Node) -> Self {
        Self {
            path: String::new(),
            mark: node.mark,
            node: Some(node),
        }
    }

    /// Goes to a key of this table; where it is not written, the place stays the table's.
    pub(super) fn key(&self, key: &str) -> Self {
        let entry = self.entries().iter().find(|entry| entry.key == key);
        Self {
            path: join(&self.path, key),
            mark: entry.map_or(self.mark, |entry| entry.mark),
            node: entry.map(|entry| &entry.value),
        }
    }

    /// Goes to an element of this list, from 0.
    pub(super) fn index(&self, index: usize) -> Self {
        let node = match self.node.map(|node| &node.item) {
            Some(Item::List(nodes)) => nodes.get(index),
            _ => None,
        };
        Self {
            path: format!("{}[{index}]", self.path),
            mark: node.map_or(self.mark, |node| node.mark),
            node,
        }
    }

    fn entries(&self) -> &'n [Entry] {
        match self.node.map(|node| &node.item) {
            Some(Item::Table(entries)) => entries,
            _ => &[],
        }
    }
}

/// Returns the path of a key; one that is no plain word is quoted.
pub(super) fn join(path: &str, key: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = if !key.is_empty() && key.chars().all(is_plain) {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}

/// Collects what is wrong.
#[derive(Debug)]
pub(super) struct Faults<'a> {
    file: &'a str,
    found: Vec<PolicyError>,
    damaged: Vec<String>,
}

impl<'a> Faults<'a> {
    pub(super) fn of(file: &'a str) -> Self {
        Self {
            file,
            found: Vec::new(),
            damaged: Vec::new(),
        }
    }

    /// Adds what is wrong at a place.
    ///
    /// What only says that something is lacking there, where something was taken out as unreadable, is
    /// a consequence of that and not told.
    pub(super) fn add(&mut self, at: &At<'_>, problem: impl Into<String>) {
        let is_consequence = self.damaged.iter().any(|damaged| {
            let below = at.path.strip_prefix(damaged.as_str());
            at.path == *damaged || (at.node.is_none() && below.is_some())
        });
        if !is_consequence {
            self.put(&at.path, at.mark, problem.into());
        }
    }

    pub(super) fn put(&mut self, path: &str, mark: Mark, problem: String) {
        self.found.push(PolicyError {
            file: self.file.to_owned(),
            line: mark.line,
            column: mark.column,
            path: path.to_owned(),
            problem,
        });
    }

    /// Notes that something was taken out of the table at this path.
    pub(super) fn damage(&mut self, path: &str) {
        self.damaged.push(path.to_owned());
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// Returns all of them in the order of the file.
    pub(super) fn into_errors(mut self) -> Vec<PolicyError> {
        self.found.sort();
        self.found.dedup();
        self.found
    }

    /// Forgets what was taken out: the next document begins.
    pub(super) fn next_document(&mut self) {
        self.damaged.clear();
    }
}
