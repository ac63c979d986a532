//! Lines of a text: on which one a byte stands.
//!
//! Invariant: lines count from 1 and end with a line feed. Deliberately absent: columns.

/// Where the lines of a text end: ascending offsets of its line feeds, in bytes.
pub(super) struct Lines {
    ends: Vec<usize>,
}

impl Lines {
    /// Finds the ends.
    pub(super) fn of(text: &str) -> Self {
        Self {
            ends: text.match_indices('\n').map(|(at, _)| at).collect(),
        }
    }

    /// Returns the line of a byte's offset, from 1.
    pub(super) fn line_at(&self, byte: usize) -> usize {
        self.ends
            .partition_point(|end| *end < byte)
            .saturating_add(1)
    }
}
