//! The policy files that the configuration names, and reading files.
//!
//! Invariant: the same folder gives the same files in the same order; a file that is named without `*`
//! must be there. Deliberately absent: what policies mean.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use domain::policy::PolicyError;
use domain::policy::files::{PolicyFile, compile_files};
use ingest::policies::PolicyFiles;
use service::config::Path;
use service::{Exit, Failure, files};

use crate::config::Settings;
use crate::failure;

/// Lists the configured files, in the order of the settings; those of a pattern by name.
pub(crate) fn files(settings: &Settings) -> Result<Vec<PathBuf>, Failure> {
    let mut listed = Vec::new();
    for (index, pattern) in settings.config().policies.files.iter().enumerate() {
        let found = files::expand(&settings.base(), FilePath::new(pattern));
        if found.is_empty() && !pattern.contains('*') {
            let path = Path::of_keys("policies.files").index(index);
            let problem = format!(
                "names the policy file {}, which is not there; create it, or take it out",
                settings.base().join(pattern).display()
            );
            return Err(failure::of_config(&settings.refuse(&path, &problem)));
        }
        // A file that two patterns name is one file.
        listed.extend(
            found
                .into_iter()
                .filter(|file| !listed.contains(file))
                .collect::<Vec<_>>(),
        );
    }
    Ok(listed)
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
