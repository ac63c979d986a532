//! What can be wrong with a configuration.
//!
//! Invariant: each text is one sentence with the place, the setting and the cure.

use super::path::Path;
use super::tree::Origin;

/// Why a configuration was refused; the user must change it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error(
        "the file {file}, named by {named_by}, cannot be read: {problem}; create it or name another"
    )]
    File {
        /// The file.
        file: String,
        /// What named it: a flag, a variable, or the default.
        named_by: String,
        /// What the system said.
        problem: String,
    },
    /// The file is no TOML.
    #[error("{place}: this is no TOML: {problem}")]
    Syntax {
        /// File and line.
        place: Origin,
        /// What the parser said.
        problem: String,
    },
    /// A key that means nothing.
    #[error("{place}: `{path}` is no setting; {cure}")]
    UnknownKey {
        /// Where it was written.
        place: Origin,
        /// What was written.
        path: Path,
        /// The nearest known key.
        cure: String,
    },
    /// An environment variable that means nothing, or more than one thing.
    #[error("the environment variable {name} {problem}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong, and the cure.
        problem: String,
    },
    /// A value of the wrong type.
    #[error("{place}: `{path}` is {found} but must be {expected}")]
    Type {
        /// Where it was written.
        place: Origin,
        /// The setting.
        path: Path,
        /// What was found.
        found: String,
        /// What was expected, and how to write it.
        expected: String,
    },
    /// A setting without which its table means nothing.
    #[error("{place}: `{path}` is missing; add it as {expected}")]
    Missing {
        /// Where its table was written.
        place: Origin,
        /// The setting.
        path: Path,
        /// What was expected.
        expected: String,
    },
    /// A value that cannot be used.
    #[error("{place}: `{path}` {problem}")]
    Value {
        /// Where it was written.
        place: Origin,
        /// The setting.
        path: Path,
        /// What is wrong, and the cure.
        problem: String,
    },
    /// The configuration cannot be shown as TOML: a defect of the program.
    #[error("the configuration cannot be shown as TOML: {problem}")]
    Unprintable {
        /// What the serializer said.
        problem: String,
    },
}
