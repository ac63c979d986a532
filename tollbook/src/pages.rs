//! The pages under `docs/` agree with the executable: their tables are written by these tests.
//!
//! Invariant: a setting or a command that changes without its page fails a test, which then has
//! written the page as it should be. Deliberately absent: anything outside the markers.

mod policies;

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use domain::price::PriceBook;
use serde_json::Value;
use service::config::Environment;

use crate::arguments::{Arguments, SettingsFlags};
use crate::config::{self, Settings};

const BEGIN: &str = "<!-- generated: begin -->\n";
const END: &str = "<!-- generated: end -->";

/// Compares what stands between a page's markers, and writes it where it differs.
fn check(page: &str, expected: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(page);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if found == expected {
        return;
    }
    fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
    panic!("docs/{page} was out of date and is now written anew; look at it and commit it");
}

#[test]
fn the_page_of_settings_lists_each_setting() {
    let schema: Value = serde_json::from_str(&config::json_schema()).unwrap();
    let mut rows = vec![
        "| setting | default | what it does |".to_owned(),
        "| --- | --- | --- |".to_owned(),
    ];
    settings(&schema, &schema, "", &mut rows);
    assert!(
        rows.len() > 20,
        "only {} settings found: the walk is broken",
        rows.len()
    );
    check("configuration.md", &format!("\n{}\n\n", rows.join("\n")));
}

#[test]
fn the_published_schema_of_events_is_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tollbook-event.schema.json");
    let expected = ingest::event_schema::event_schema();
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found != expected {
        fs::write(&path, expected).unwrap();
        panic!("{} was out of date and is now written anew", path.display());
    }
}

/// Adds a row for each setting below a node of the schema.
fn settings(schema: &Value, node: &Value, path: &str, rows: &mut Vec<String>) {
    let Some(properties) = resolve(schema, node)["properties"].as_object() else {
        return;
    };
    for (key, property) in properties {
        let target = resolve(schema, property);
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let items = resolve(schema, &target["items"]);
        if target["properties"].is_object() {
            settings(schema, target, &path, rows);
        } else if items["properties"].is_object() {
            settings(schema, items, &format!("{path}[]"), rows);
        } else {
            rows.push(row(schema, &path, property));
        }
    }
}

fn row(schema: &Value, path: &str, property: &Value) -> String {
    let target = resolve(schema, property);
    let either = |field: &str| {
        [property, target]
            .into_iter()
            .find_map(|node| node.get(field))
    };
    let what = either("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let default = match either("default") {
        None | Some(Value::Null) => String::new(),
        Some(value) => format!("`{value}`"),
    };
    let mut what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    for choice in target["oneOf"].as_array().into_iter().flatten() {
        let meaning = choice["description"].as_str().unwrap_or_default();
        let meaning = meaning.split_whitespace().collect::<Vec<_>>().join(" ");
        what = format!("{what} `{}`: {meaning}", choice["const"]);
    }
    format!("| `{path}` | {default} | {} |", what.replace('|', "\\|"))
}

/// Follows a reference within the schema.
fn resolve<'a>(schema: &'a Value, node: &'a Value) -> &'a Value {
    match node["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix('#'))
    {
        Some(pointer) => schema.pointer(pointer).unwrap_or(node),
        None => node,
    }
}

#[test]
fn the_page_of_commands_lists_each_command() {
    let mut command = Arguments::command();
    command.build();
    let mut text = String::new();
    commands(&mut command, &mut text);
    check("commands.md", &format!("\n{text}"));
}

/// Adds the help of each command that does something, as a terminal of 100 columns shows it.
fn commands(command: &mut clap::Command, text: &mut String) {
    let name = command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .to_owned();
    if command.get_name() != "help" && !command.is_subcommand_required_set() {
        let mut shown = command.clone().term_width(100);
        let help = shown.render_help().to_string();
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        text.push_str(&format!(
            "## {name}\n\n```text\n{}\n```\n\n",
            lines.join("\n").trim_end()
        ));
    }
    for inner in command
        .get_subcommands_mut()
        .filter(|inner| inner.get_name() != "help")
    {
        commands(inner, text);
    }
}

/// Returns the README's TOML blocks: the settings, then the prices.
fn readme_blocks() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("```toml\n").skip(1);
    blocks
        .filter_map(|block| Some(block.split_once("```")?.0.to_owned()))
        .collect()
}

#[test]
fn the_files_of_the_readme_can_be_used_as_they_stand() {
    let [settings, prices] = <[String; 2]>::try_from(readme_blocks()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tollbook.toml");
    fs::write(&config, settings).unwrap();
    let flags = SettingsFlags {
        config: Some(config),
        database_url: None,
        kafka_brokers: None,
    };
    let settings = Settings::load(&flags, &Environment::default()).unwrap();
    assert_eq!(
        settings.config().prices.files,
        ["prices.toml"],
        "the second block"
    );
    let shipped = PriceBook::shipped();
    let book = shipped.with_file("prices.toml", &prices).unwrap();
    assert_eq!(
        book.rates().count(),
        shipped.rates().count() + 2,
        "two rates that no list has"
    );
}
