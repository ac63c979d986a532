//! Folders for servers and processes, under TMPDIR.
//!
//! Invariant: a run's folder bears its process id; what a killed run left behind is removed by the
//! next one.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "tollbook-tests-";

static BASE: LazyLock<PathBuf> = LazyLock::new(|| {
    let temporary = std::env::temp_dir();
    remove_left_behind(&temporary);
    let base = temporary.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&base).unwrap();
    base
});

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Makes an empty folder of this run; `name` only tells a person what it is for.
#[must_use]
pub fn make(name: &str) -> PathBuf {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = BASE.join(format!("{name}-{number}"));
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// Removes all folders of this run.
pub fn remove_all() {
    drop(std::fs::remove_dir_all(&*BASE));
}

/// Returns where the run keeps everything.
#[must_use]
pub fn base() -> &'static Path {
    &BASE
}

/// Returns the workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// Returns the folder of built executables that this test executable lies in (`target/debug`).
#[must_use]
pub fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent()
        .and_then(Path::parent)
        .expect("cargo puts tests into deps")
        .to_owned()
}

fn remove_left_behind(temporary: &Path) {
    for entry in std::fs::read_dir(temporary).unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}
