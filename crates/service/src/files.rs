//! The files that a setting names by a pattern.
//!
//! Invariant: the same folder gives the same files in the same order, and no hidden ones. Deliberately
//! absent: what is in them, and whether one that is missing is wrong.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Lists what a pattern names below a folder: `*` stands for any part of one name.
#[must_use]
pub fn expand(base: &Path, pattern: &Path) -> Vec<PathBuf> {
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

fn below_of(folder: &Path, name: &OsStr) -> Vec<PathBuf> {
    let Some(pattern) = name.to_str().filter(|name| name.contains('*')) else {
        return vec![folder.join(name)];
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // A hidden file is an editor's, not meant.
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
            let found = expand(folder.path(), Path::new(pattern));
            let expected: Vec<_> = expected
                .iter()
                .map(|name| folder.path().join(name))
                .collect();
            assert_eq!(found, expected, "of {pattern}");
        }
    }
}
