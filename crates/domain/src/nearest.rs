//! Which known name a mistyped one probably meant.
//!
//! Invariant: the answer is one of the known names, the first of equally near ones.

/// Returns the name with the fewest edits (Damerau and Levenshtein); `None` where there are none.
#[must_use]
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .min_by_key(|name| strsim::damerau_levenshtein(typed, name))
}
