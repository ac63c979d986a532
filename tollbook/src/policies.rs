//! The policy files that the configuration names, and reading files.
//!
//! Invariant: the same folder gives the same files in the same order; a file that is named without `*`
//! must be there. Deliberately absent: what policies mean.

use std::ffi::OsStr;
use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::Arc;

use domain::policy::PolicyError;
use domain::policy::files::{PolicyFile, compile_files};
use ingest::policies::PolicyFiles;
use service::config::Path;
use service::{Exit, Failure};

use crate::config::Settings;
use crate::failure;

/// Lists the configured files, in the order of the settings; those of a pattern by name.
pub(crate) fn files(settings: &Settings) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for (index, pattern) in settings.config().policies.files.iter().enumerate() {
        let found = expand(&settings.base(), FilePath::new(pattern));
        if found.is_empty() && !pattern.contains('*') {
            let path = Path::of_keys("policies.files").index(index);
            let problem = format!(
                "names the policy file {}, which is not there; create it, or take it out",
                settings.base().join(pattern).display()
            );
            return Err(failure::of_config(&settings.refuse(&path, &problem)));
        }
        // A file that two patterns name is one file.
        files.extend(
            found
                .into_iter()
                .filter(|file| !files.contains(file))
                .collect::<Vec<_>>(),
        );
    }
    Ok(files)
}

/// Reads files; their names stand in errors as they were given.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let read = paths.iter().map(|path| {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let problem = format!("the policy file {name} cannot be read ({error}); name another");
            Failure::new(Exit::Configuration, problem)
        })?;
        Ok((name, text))
    });
    read.collect()
}

/// Compiles files together, as they are to be put in force; errors name files as they were given.
pub(crate) fn compile(
    read: &[(String, String)],
    origin: &str,
) -> Result<PolicyFiles, Vec<PolicyError>> {
    let mut files: Vec<PolicyFile> = Vec::with_capacity(read.len());
    for (name, text) in read {
        files.push(PolicyFile::new(name, text.clone()));
    }
    match compile_files(&files) {
        Ok(set) => Ok(PolicyFiles {
            files,
            set: Arc::new(set),
            origin: origin.to_owned(),
        }),
        Err(mut errors) => {
            for error in &mut errors {
                let of_file = files.iter().zip(read);
                let mut given = of_file.filter(|(file, _)| file.name() == error.file);
                if let (Some((_, (name, _))), None) = (given.next(), given.next()) {
                    error.file.clone_from(name);
                }
            }
            Err(errors)
        }
    }
}

/// Reads and compiles the configured files; a fault refuses the configuration.
pub(crate) fn configured(settings: &Settings) -> Result<PolicyFiles, Failure> {
    let files = read(&files(settings)?)?;
    compile(&files, "configuration").map_err(|errors| {
        let first = errors.first().map(ToString::to_string).unwrap_or_default();
        let sentence = format!("{first}; `tollbook policy check` tells all that is wrong");
        Failure::new(Exit::Configuration, sentence)
    })
}

/// Lists what a pattern names below a folder: `*` stands for any part of one name.
fn expand(base: &FilePath, pattern: &FilePath) -> Vec<PathBuf> {
    let mut found = vec![base.to_path_buf()];
    for component in pattern.components() {
        found = match component {
            Component::Normal(name) => {
                let below = found.iter();
                below.flat_map(|folder| below_of(folder, name)).collect()
            }
            Component::Prefix(_)
            | Component::RootDir
            | Component::CurDir
            | Component::ParentDir => found.iter().map(|folder| folder.join(component)).collect(),
        };
    }
    found.retain(|file| file.is_file());
    found
}

fn below_of(folder: &FilePath, name: &OsStr) -> Vec<PathBuf> {
    let Some(pattern) = name.to_str().filter(|name| name.contains('*')) else {
        return vec![folder.join(name)];
    };
    let folder = if folder.as_os_str().is_empty() {
        FilePath::new(".")
    } else {
        folder
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // A hidden file is an editor's, not a policy.
    let mut names: Vec<_> = names
        .filter(|name| !name.starts_with('.') && fits(pattern, name))
        .collect();
    names.sort();
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Tells whether a name has the pattern's parts in order, the first at its start, the last at its end.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut middle: Vec<_> = parts.collect();
    let last = middle.pop().unwrap_or_default();
    for part in middle {
        let Some((_, behind)) = rest.split_once(part) else {
            return false;
        };
        rest = behind;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_part_of_one_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("more")).unwrap();
        for name in ["b.yaml", "a.yaml", ".c.yaml", "d.yml", "more/e.yaml"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let cases: [(&str, &[&str]); 6] = [
            ("*.yaml", &["a.yaml", "b.yaml"]),
            ("*.y*ml", &["a.yaml", "b.yaml", "d.yml"]),
            ("*/*.yaml", &["more/e.yaml"]),
            ("d.yml", &["d.yml"]),
            ("more/../a.yaml", &["more/../a.yaml"]),
            ("nothing", &[]),
        ];
        for (pattern, expected) in cases {
            let found = expand(folder.path(), FilePath::new(pattern));
            let expected: Vec<_> = expected
                .iter()
                .map(|name| folder.path().join(name))
                .collect();
            assert_eq!(found, expected, "of {pattern}");
        }
    }
}
