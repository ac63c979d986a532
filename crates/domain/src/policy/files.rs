//! The files of a policy set, as they are put in force and stored.
//!
//! Invariant: what is written reads back to the same files, byte for byte, and two different sets never
//! write the same text. Deliberately absent: folders; a file has its last name only, so that the same
//! files from another folder are the same set.

use super::compile::{CompiledSet, compile};
use super::error::PolicyError;
use super::read;
use crate::hash::Hash128;

/// What the canonical text begins with.
const HEAD: &str = "tollbook policies 1\n";

/// A file with policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    name: String,
    text: String,
}

impl PolicyFile {
    /// Takes a file's name and text. Of the name the last part stays, without control characters.
    #[must_use]
    pub fn new(name: &str, text: String) -> Self {
        let last = name.rsplit('/').find(|part| !part.is_empty());
        let name = last.unwrap_or("policies");
        let name = name.chars().filter(|c| !c.is_control()).collect();
        Self { name, text }
    }

    /// Returns the name, which stands in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the text as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A stored set that is no canonical text: a newer program wrote it, or somebody changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its text is not in the form of version 1")]
pub struct NotCanonical;

/// Writes files in their order: a line with a file's length in bytes and its name, then its text.
#[must_use]
pub fn to_canonical(files: &[PolicyFile]) -> String {
    let mut text = HEAD.to_owned();
    for file in files {
        text.push_str(&format!("file {} {}\n", file.text.len(), file.name));
        text.push_str(&file.text);
        text.push('\n');
    }
    text
}

/// Returns the hash that a set is known by.
#[must_use]
pub fn content_hash(files: &[PolicyFile]) -> Hash128 {
    Hash128::of(to_canonical(files).as_bytes())
}

/// Reads files back.
///
/// # Errors
///
/// [`NotCanonical`]; the caller says which set it is and stops.
pub fn from_canonical(text: &str) -> Result<Vec<PolicyFile>, NotCanonical> {
    let mut rest = text.strip_prefix(HEAD).ok_or(NotCanonical)?;
    let mut files = Vec::new();
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').ok_or(NotCanonical)?;
        let line = line.strip_prefix("file ").ok_or(NotCanonical)?;
        let (length, name) = line.split_once(' ').ok_or(NotCanonical)?;
        let length: usize = length.parse().map_err(|_| NotCanonical)?;
        let (text, after) = after.split_at_checked(length).ok_or(NotCanonical)?;
        rest = after.strip_prefix('\n').ok_or(NotCanonical)?;
        let file = PolicyFile {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        files.push(file);
    }
    Ok(files)
}

/// Reads and compiles the files of a set together.
///
/// # Errors
///
/// Everything that is wrong with any of them, names that two policies share included; the set in
/// force stays.
pub fn compile_files(files: &[PolicyFile]) -> Result<CompiledSet, Vec<PolicyError>> {
    let mut policies = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        match read(&file.name, &file.text) {
            Ok(read) => policies.extend(read),
            Err(found) => errors.extend(found),
        }
    }
    // Names that files share are told even where one of the files is faulty otherwise.
    match compile(policies) {
        Ok(set) if errors.is_empty() => Ok(set),
        Ok(_) => Err(errors),
        Err(twins) => Err(errors.into_iter().chain(twins).collect()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn files_read_back_as_they_were(files in prop::collection::vec(("\\PC{0,9}", any::<String>()), 0..5)) {
            let files: Vec<_> = files
                .into_iter()
                .map(|(name, text)| PolicyFile::new(&name, text))
                .collect();
            let text = to_canonical(&files);
            prop_assert_eq!(from_canonical(&text), Ok(files));
        }

        #[test]
        fn what_reads_writes_the_same(text in "(tollbook policies 1\n)?(file [0-9] a\n[a-z\n]{0,9}){0,3}") {
            if let Ok(files) = from_canonical(&text) {
                prop_assert_eq!(to_canonical(&files), text);
            }
        }
    }

    #[test]
    fn the_folder_is_no_part_of_a_name() {
        let file = |name| PolicyFile::new(name, String::new());
        assert_eq!(file("/etc/tollbook/a.yaml"), file("a.yaml"));
        assert_eq!(file("a/b/").name(), "b");
        assert_eq!(file("").name(), "policies");
    }
}
