//! The files of rules, followed while the process runs.
//!
//! Invariant: what the last good set said stays in force until another good set is there. Deliberately
//! absent: tasks and telemetry; whoever polls says what came of it.

use std::io;
use std::path::{Path, PathBuf};

use service::files;

use super::load::{LoadedRules, OneDomain, RuleFile, RulesError, load};

/// Why files are no rules.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// A file that is named without `*` is not there, or cannot be read; the person who set it mends
    /// the path or the permissions.
    #[error("the file of rules {} cannot be read; create it, or take it out of enforcer.rls.files", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What a file says is wrong.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// The files that settings name, and what they said last.
#[derive(Debug)]
pub(crate) struct Watch {
    base: PathBuf,
    patterns: Vec<String>,
    one_domain: OneDomain,
    seen: Option<Vec<RuleFile>>,
    /// Whether that was good.
    is_seen_good: bool,
    /// What could not be read the last time, and why.
    unread: Option<(PathBuf, io::ErrorKind)>,
}

impl Watch {
    /// Follows files below `base`, by patterns with `*` in names.
    pub(crate) const fn new(base: PathBuf, patterns: Vec<String>, one_domain: OneDomain) -> Self {
        Self {
            base,
            patterns,
            one_domain,
            seen: None,
            is_seen_good: false,
            unread: None,
        }
    }

    /// Says whether no files are named, so that there is nothing to follow.
    pub(crate) const fn is_idle(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Says whether what is in force is what the files said at the last look.
    pub(crate) const fn is_current(&self) -> bool {
        self.unread.is_none() && self.is_seen_good
    }

    /// Reads the files; `None` where they say what they said the last time, good or bad.
    ///
    /// # Errors
    ///
    /// Each case of [`WatchError`]; what is in force stays. The same trouble is told of once.
    pub(crate) fn poll(&mut self) -> Result<Option<LoadedRules>, WatchError> {
        let files = match self.read() {
            Ok(files) => files,
            Err((path, source)) => {
                let trouble = Some((path.clone(), source.kind()));
                if self.unread == trouble {
                    return Ok(None);
                }
                self.unread = trouble;
                return Err(WatchError::Read { path, source });
            }
        };
        self.unread = None;
        if self.seen.as_ref() == Some(&files) {
            return Ok(None);
        }
        let loaded = load(&files, self.one_domain);
        self.seen = Some(files);
        self.is_seen_good = loaded.is_ok();
        Ok(Some(loaded?))
    }

    fn read(&self) -> Result<Vec<RuleFile>, (PathBuf, io::Error)> {
        let mut read: Vec<RuleFile> = Vec::new();
        for pattern in &self.patterns {
            let mut found = files::expand(&self.base, Path::new(pattern));
            if found.is_empty() && !pattern.contains('*') {
                // Not there: reading it says why.
                found.push(self.base.join(pattern));
            }
            for file in found {
                let path = file.display().to_string();
                if read.iter().any(|known| known.path == path) {
                    continue;
                }
                match std::fs::read_to_string(&file) {
                    Ok(text) => read.push(RuleFile { path, text }),
                    Err(source) => return Err((file, source)),
                }
            }
        }
        Ok(read)
    }
}
