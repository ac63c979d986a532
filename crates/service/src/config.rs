//! Configuration in layers: defaults < a TOML file < the environment < flags.
//!
//! Invariant: what cannot be understood is refused, never skipped: an unknown key with the nearest
//! known one, a wrong type with what was expected, each with the place it was written at.
//! Deliberately absent: which settings there are; a caller brings a type that says so by its schema.

mod check;
mod document;
mod environment;
mod error;
mod path;
mod print;
mod schema;
mod secret;
mod tree;
mod variables;

use std::path::{Path as FilePath, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::check::check;
use self::schema::SchemaNode;
use self::tree::Node;

pub use self::environment::Environment;
pub use self::error::ConfigError;
pub use self::path::Path;
pub use self::secret::mask;
pub use self::tree::Origin;

/// What a program calls its settings.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// What its environment variables begin with, upper case, without the underscore.
    pub prefix: &'static str,
    /// The file that is read from the working directory where no other is named.
    pub file: &'static str,
    /// Beginnings of what follows the prefix in variables that are no settings, such as those that only
    /// scripts read.
    pub others: &'static [&'static str],
    /// Tells of a setting's path whether its value is a secret; passwords in URLs are hidden anyway.
    pub is_secret: fn(&str) -> bool,
}

/// A setting given by a flag.
#[derive(Debug, Clone)]
pub struct Override {
    /// The flag as typed, such as `--database-url`.
    pub flag: &'static str,
    /// The setting's path, such as `database.url`.
    pub path: &'static str,
    /// Its value as typed.
    pub value: String,
}

/// A configuration, and where each of its settings was written.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    file: Option<PathBuf>,
    tree: Node,
    names: Names,
}

/// Reads all layers and checks them.
///
/// `file` is the one that a flag names; without it the variable `PREFIX_CONFIG` names one, and
/// without that the usual file is read if it is there.
///
/// # Errors
///
/// The first thing that cannot be understood, with its place; the caller should show it and exit.
pub fn load<T: DeserializeOwned + JsonSchema>(
    names: Names,
    file: Option<&FilePath>,
    environment: &Environment,
    overrides: &[Override],
) -> Result<Loaded<T>, ConfigError> {
    let schema = schemars::schema_for!(T).to_value();
    let root = SchemaNode::root(&schema);
    let file = document::choose(names, file, environment)?;
    let mut tree = match &file {
        Some(path) => document::read(path)?,
        None => Node::empty_table(),
    };
    for (path, node) in variables::settings(names, environment, root)? {
        tree.set(path.segments(), node);
    }
    for given in overrides {
        let (path, node) = variables::flag(given, root)?;
        tree.set(path.segments(), node);
    }
    check(&tree, root, &Path::root())?;
    let value = deserialize(&tree, names)?;
    Ok(Loaded {
        value,
        file,
        tree,
        names,
    })
}

/// Returns the JSON Schema of a configuration, for editors.
#[must_use]
pub fn json_schema<T: JsonSchema>() -> String {
    let schema = schemars::schema_for!(T).to_value();
    format!("{schema:#}")
}

fn deserialize<T: DeserializeOwned>(tree: &Node, names: Names) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(tree.to_json()).map_err(|error| {
        let path = Path::of_serde(error.path());
        let origin = tree.origin_of(path.segments());
        // A value of the user's may be quoted in the text.
        let problem = if (names.is_secret)(&path.to_string()) {
            "cannot be used as it is".to_owned()
        } else {
            mask(&error.inner().to_string())
        };
        ConfigError::Value {
            place: origin,
            path,
            problem,
        }
    })
}

impl<T> Loaded<T> {
    /// Returns the file that was read, if any.
    #[must_use]
    pub fn file(&self) -> Option<&FilePath> {
        self.file.as_deref()
    }

    /// Returns what relative paths in the settings start from: the file's folder, or where there is
    /// no file the working directory.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        let folder = self.file.as_deref().and_then(FilePath::parent);
        folder.map_or_else(PathBuf::new, FilePath::to_path_buf)
    }

    /// Returns where a setting, or where it was not written the nearest one around it, came from.
    #[must_use]
    pub fn origin(&self, path: &Path) -> Origin {
        self.tree.origin_of(path.segments())
    }

    /// Makes the error of a setting that is well-formed and yet cannot be used.
    #[must_use]
    pub fn refuse(&self, path: &Path, problem: &str) -> ConfigError {
        let problem = if (self.names.is_secret)(&path.to_string()) {
            problem.to_owned()
        } else {
            mask(problem)
        };
        ConfigError::Value {
            place: self.origin(path),
            path: path.clone(),
            problem,
        }
    }
}

impl<T: Serialize> Loaded<T> {
    /// Returns the effective configuration as TOML, each setting with its origin as a comment and
    /// without its secrets.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unprintable`] where the configuration's type is no table of TOML: a defect.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        print::print(&self.value, &self.tree, self.names)
    }
}

#[cfg(test)]
mod tests;
