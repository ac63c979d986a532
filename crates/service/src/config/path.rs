//! Where a setting stands within a configuration.
//!
//! Invariant: what is displayed can be typed into the file: keys that need quotes have them.

use std::fmt;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Segment {
    /// Into a table.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

/// The path of a setting, such as `ingest.sources[0].topic`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    segments: Vec<Segment>,
}

impl Path {
    /// Returns the path of the whole configuration.
    #[must_use]
    pub const fn root() -> Self {
        Self {
            segments: Vec::new(),
        }
    }

    /// Returns the path of a key of this table.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.then(Segment::Key(key.to_owned()))
    }

    /// Returns the path of an element of this list, from 0.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.then(Segment::Index(index))
    }

    /// Reads a path of plain keys, such as `database.url`.
    #[must_use]
    pub fn of_keys(text: &str) -> Self {
        text.split('.')
            .fold(Self::root(), |path, key| path.key(key))
    }

    pub(crate) fn of_serde(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment as Serde;
        path.iter()
            .fold(Self::root(), |path, segment| match segment {
                Serde::Seq { index } => path.index(*index),
                Serde::Map { key } => path.key(key),
                Serde::Enum { .. } | Serde::Unknown => path,
            })
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    fn then(&self, segment: Segment) -> Self {
        let mut segments = self.segments.clone();
        segments.push(segment);
        Self { segments }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, segment) in self.segments.iter().enumerate() {
            match segment {
                Segment::Key(key) if depth == 0 => formatter.write_str(&quoted(key))?,
                Segment::Key(key) => write!(formatter, ".{}", quoted(key))?,
                Segment::Index(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Returns a key as TOML writes it: bare where it may be.
pub(crate) fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        toml::Value::String(key.to_owned()).to_string()
    }
}
