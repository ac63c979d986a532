//! Tidy: the rules of the house that neither the compiler nor clippy checks.
//!
//! Invariant: a broken rule is named with file and line. Deliberately absent: taste.

#![expect(
    clippy::unwrap_used,
    reason = "this is test code: what it cannot read fails it"
)]

mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use source::Source;

/// A screen is the unit of proof-reading.
const FUNCTION_LINES_MAX: usize = 70;

/// Where houses with a database grew their god file.
const FILE_LINES_MAX: usize = 500;

/// Files that a person wrote.
const EXTENSIONS: &[&str] = &["rs", "sql", "md", "sh", "toml", "xml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Returns every file that a person wrote, in the order of its path.
fn sources() -> Vec<Source> {
    let root = root();
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        Source::new(path.strip_prefix(&root).unwrap().to_path_buf(), text)
    };
    let sources: Vec<_> = files.into_iter().map(read).collect();
    assert!(
        sources.len() > 50,
        "only {} files found: the walk is broken",
        sources.len()
    );
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            // Cargo marks the target folders that it makes, whatever their name, but not a
            // `target` that it found: set-up puts the jars of Kafka there before cargo comes.
            let ours = (!name.starts_with('.') || name == ".ci") && name != "target";
            if ours && !path.join("CACHEDIR.TAG").exists() {
                collect(&path, files);
            }
            continue;
        }
        let extension = path
            .extension()
            .map(|text| text.to_string_lossy().into_owned());
        let ours = extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()));
        if ours || name == "Makefile" || folder.file_name().is_some_and(|folder| folder == ".ci") {
            files.push(path);
        }
    }
}

/// Fails with every offence in a line of its own.
fn check(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

fn place(source: &Source, line: usize) -> String {
    format!("{}:{line}", source.path.display())
}

/// Returns the places of product code (or of all code) that hold one of the words.
fn places_of(source: &Source, words: &[&str]) -> Vec<String> {
    let lines = source.product_lines().into_iter();
    let found = lines.flat_map(|(number, line)| {
        let hits = words.iter().filter(move |word| holds_word(line, word));
        hits.map(move |word| format!("{}: {word}", place(source, number)))
    });
    found.collect()
}

/// Tells whether a text holds a word that is not part of a longer one.
fn holds_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text
            .get(at + word.len()..)
            .and_then(|text| text.chars().next());
        let opens = word.chars().next().is_some_and(is_part);
        let closes = word.chars().next_back().is_some_and(is_part);
        !((opens && before.is_some_and(is_part)) || (closes && after.is_some_and(is_part)))
    })
}

#[test]
fn every_file_says_what_it_holds() {
    let headless = sources()
        .into_iter()
        .filter(|source| source.is_rust() && !source.text.trim_start().starts_with("//!"));
    let offences: Vec<_> = headless.map(|source| place(&source, 1)).collect();
    check(
        "each .rs file opens with `//!`: what it holds, its invariant, what is absent",
        &offences,
    );
}

#[test]
fn functions_fit_a_screen() {
    // Clippy measures tests, too, but lets a table of cases be longer where its author says why.
    let mut offences = Vec::new();
    for source in sources().into_iter().filter(|source| !source.is_test()) {
        for (name, line, lines) in source.functions() {
            if lines > FUNCTION_LINES_MAX {
                offences.push(format!("{}: {name} has {lines}", place(&source, line)));
            }
        }
    }
    check("functions have at most 70 lines of code", &offences);
}

#[test]
fn files_are_proof_readable() {
    let mut offences = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.is_rust() && !source.is_test())
    {
        let code = source.product_lines();
        let lines = code
            .iter()
            .filter(|(_, line)| !line.trim().is_empty())
            .count();
        if lines > FILE_LINES_MAX {
            offences.push(format!("{} has {lines}", source.path.display()));
        }
    }
    check(
        "files have at most 500 lines of code that is no test",
        &offences,
    );
}

#[test]
fn only_the_store_knows_sql() {
    let mut offences = Vec::new();
    for source in sources() {
        // A benchmark's floor is what would be written without the store, and asks Postgres itself.
        if source.is_in("crates/store") || source.is_in("benches") || source.is_test() {
            continue;
        }
        offences.extend(places_of(&source, &["sqlx"]));
        let sql = source.literals.iter().filter(|(_, text)| is_sql(text));
        offences.extend(sql.map(|(line, _)| place(&source, *line)));
    }
    check("of the product, crates/store alone knows SQL", &offences);
}

fn is_sql(text: &str) -> bool {
    let text = text.trim_start().to_lowercase();
    let opens = |verb: &str, then: &str| text.starts_with(verb) && text.contains(then);
    opens("select ", " from ")
        || opens("insert into ", "(")
        || opens("update ", " set ")
        || opens("delete from ", "")
        || opens("truncate table ", "")
        || opens("create table ", "")
        || opens("create database ", "")
}

#[test]
fn the_domain_is_pure() {
    let banned = [
        "SystemTime",
        "Instant",
        "Utc::now",
        "Local::now",
        "std::env",
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "async",
        "await",
        "tokio",
        "f32",
        "f64",
        "static mut",
        "thread_local",
        "rand",
    ];
    let mut offences = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.is_in("crates/domain/src") && !source.is_test())
    {
        offences.extend(places_of(source, &banned));
    }
    check(
        "the domain has no clock, no I/O, no async, no environment, no floats",
        &offences,
    );
}

#[test]
fn service_knows_no_word_of_the_domain() {
    let glossary = [
        "tenant",
        "tenants",
        "ledger",
        "ledgers",
        "posting",
        "postings",
        "journal",
        "meter",
        "meters",
        "price",
        "prices",
        "rate card",
        "rate set",
        "budget",
        "budgets",
        "quota",
        "quotas",
        "lease",
        "leases",
        "watermark",
        "usage event",
        "usage events",
    ];
    let mut offences = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.is_in("crates/service/src"))
    {
        for (line, number) in source.text.lines().zip(1..) {
            let line = line.to_lowercase();
            let hits = glossary.iter().filter(|word| holds_word(&line, word));
            offences.extend(hits.map(|word| format!("{}: {word}", place(source, number))));
        }
    }
    check(
        "service is plumbing and knows no word of the glossary",
        &offences,
    );
}

#[test]
fn metrics_are_named_in_observe_alone() {
    let macros = [
        "counter!",
        "gauge!",
        "histogram!",
        "describe_counter!",
        "describe_gauge!",
        "describe_histogram!",
    ];
    let mut offences = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.is_rust() && !source.is_in("tests"))
        // What counts there is a registry of the test's own.
        .filter(|source| !source.path.ends_with("tests.rs"))
    {
        let observes = source
            .path
            .components()
            .any(|part| part.as_os_str() == "observe" || part.as_os_str() == "observe.rs");
        if !observes {
            offences.extend(places_of(source, &macros));
        }
    }
    check(
        "log and metric of a fact come from one function in observe.rs",
        &offences,
    );
}

#[test]
fn panics_are_rare_and_proven() {
    let (mut lines, mut offences) = (0, Vec::new());
    for source in sources() {
        if !source.is_rust() || source.is_test() || source.is_in("benches") {
            continue;
        }
        lines += source.product_lines().len();
        offences.extend(places_of(&source, &[".unwrap()", ".expect("]));
    }
    let allowed = lines / 1000;
    if offences.len() > allowed {
        check(
            &format!("at most one expect in 1,000 lines, so {allowed}"),
            &offences,
        );
    }
}

#[test]
fn a_landed_migration_is_never_edited() {
    let folder = root().join("migrations");
    let landed = fs::read_to_string(folder.join("LANDED")).unwrap();
    let listed: Vec<_> = landed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let mut migrations = Vec::new();
    collect(&folder, &mut migrations);
    let unlisted: Vec<_> = migrations
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .filter(|name| !listed.contains(&name.as_str()))
        .collect();
    check(
        "migrations/LANDED names every migration (`sha256sum *.sql > LANDED`)",
        &unlisted,
    );
    let output = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "LANDED"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "a landed migration was edited; write a new one instead: {}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn the_readme_names_the_commands() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["make demo", "make test"] {
        assert!(
            readme.contains(command),
            "README.md does not name `{command}`"
        );
    }
}

#[test]
fn nothing_is_left_for_later_and_no_machine_is_named() {
    let banned = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    let mut offences = Vec::new();
    for source in sources() {
        for (line, number) in source.text.lines().zip(1..) {
            let hits = banned.iter().filter(|word| holds_word(line, word));
            offences.extend(hits.map(|word| format!("{}: {word}", place(&source, number))));
        }
    }
    check(
        "work left is an issue's number or is not there; paths are not one machine's",
        &offences,
    );
}

#[test]
fn every_metric_is_documented() {
    let page = fs::read_to_string(root().join("docs/telemetry.md")).unwrap();
    let mut names = Vec::new();
    for source in sources() {
        let is_product = source.path.starts_with("ingest")
            || source.path.starts_with("enforcer")
            || source.path.starts_with("crates/service");
        if !(is_product && source.is_rust()) {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            // Between quotes, and nothing else there: `tests` ask for whole series.
            let words = line.split('"').filter(|word| {
                let is_ours = word.starts_with("tollbook_ingest_")
                    || word.starts_with("tollbook_enforcer_")
                    || word.starts_with("otel_");
                is_ours && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            });
            names.extend(words.map(|word| (place(&source, number + 1), word.to_owned())));
        }
    }
    assert!(names.len() > 30, "only {} metrics found", names.len());
    let missing = names.iter().filter(|(_, name)| !holds_word(&page, name));
    let offences: Vec<_> = missing
        .map(|(place, name)| format!("{place}: {name}"))
        .collect();
    check("each metric is in docs/telemetry.md", &offences);
}
