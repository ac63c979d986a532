//! The reference page of policies: from the types that read them, and its examples read.
//!
//! Invariant: a key that a policy may have is on the page, in the words of its type.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{check, resolve};

#[test]
fn the_page_of_policies_lists_each_key() {
    let schema: Value = serde_json::from_str(&domain::policy::language::json_schema()).unwrap();
    let mut text = String::new();
    let mut told = BTreeSet::new();
    section(&schema, "Policy", &schema, &mut text, &mut told);
    let rows = text.lines().filter(|line| line.starts_with("| `")).count();
    assert!(rows > 50, "only {rows} keys found: the walk is broken");
    let all = schema["$defs"].as_object().unwrap();
    assert_eq!(told.len(), all.len(), "each type has a section");
    check("policies.md", &format!("\n{text}"));
}

/// Adds the section of a type, then those of the types that it names.
fn section(
    schema: &Value,
    name: &str,
    node: &Value,
    text: &mut String,
    told: &mut BTreeSet<String>,
) {
    text.push_str(&format!("### {name}\n\n{}\n\n", what(node)));
    let properties = node["properties"].as_object();
    if let Some(properties) = properties {
        let required: Vec<_> = node["required"].as_array().into_iter().flatten().collect();
        text.push_str("| key | form | default | what it says |\n| --- | --- | --- | --- |\n");
        for (key, property) in properties {
            let default = if required.contains(&&Value::from(key.as_str())) {
                "required".to_owned()
            } else {
                match property.get("default") {
                    None | Some(Value::Null) => String::new(),
                    Some(value) => format!("`{value}`"),
                }
            };
            let form = form(property);
            text.push_str(&format!(
                "| `{key}` | {form} | {default} | {} |\n",
                what(property)
            ));
        }
        text.push('\n');
    }
    let either = ["oneOf", "anyOf"].map(|way| node[way].as_array().into_iter().flatten());
    let choices: Vec<_> = either.into_iter().flatten().collect();
    for choice in &choices {
        let name = match choice.get("const").and_then(Value::as_str) {
            Some(word) => format!("`{word}`"),
            None => form(choice),
        };
        text.push_str(&format!("- {name}: {}\n", what(choice)));
    }
    if !choices.is_empty() {
        text.push('\n');
    }
    let properties = properties
        .into_iter()
        .flatten()
        .map(|(_, property)| property);
    for inner in properties.chain(choices) {
        named_below(inner, &mut |reference| {
            let name = reference.trim_start_matches("#/$defs/");
            if told.insert(name.to_owned()) {
                let target = serde_json::json!({ "$ref": reference });
                section(schema, name, resolve(schema, &target), text, told);
            }
        });
    }
}

/// Visits the types that a node names, in order.
fn named_below(node: &Value, visit: &mut impl FnMut(&str)) {
    if let Some(reference) = node["$ref"].as_str() {
        visit(reference);
    }
    for inner in node["anyOf"].as_array().into_iter().flatten() {
        named_below(inner, visit);
    }
    for below in ["items", "additionalProperties"] {
        if node[below].is_object() {
            named_below(&node[below], visit);
        }
    }
}

/// Says in words what a value must be.
fn form(node: &Value) -> String {
    if let Some(reference) = node["$ref"].as_str() {
        let name = reference.trim_start_matches("#/$defs/");
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(either) = node["anyOf"].as_array() {
        let each = either.iter().filter(|one| one["type"] != "null").map(form);
        return each.collect::<Vec<_>>().join(" or ");
    }
    let kind = match &node["type"] {
        Value::Array(kinds) => kinds[0].as_str(),
        kind => kind.as_str(),
    };
    match kind.unwrap_or_default() {
        "string" => "text".to_owned(),
        "integer" => match (&node["minimum"], &node["maximum"]) {
            (Value::Number(least), Value::Number(greatest)) => format!("{least} to {greatest}"),
            _ => "whole number".to_owned(),
        },
        "boolean" => "true or false".to_owned(),
        "array" => format!("list of {}", form(&node["items"])),
        "object" => format!("table of {} by name", form(&node["additionalProperties"])),
        other => panic!("a form without words: {other} in {node}"),
    }
}

fn what(node: &Value) -> String {
    let text = node["description"].as_str().unwrap_or_default();
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|")
}

#[test]
fn the_examples_of_the_page_are_policies() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies.md");
    let text = fs::read_to_string(path).unwrap();
    let blocks: Vec<_> = text.split("```yaml\n").skip(1).collect();
    assert!(blocks.len() >= 2, "only {} examples found", blocks.len());
    for block in blocks {
        let (example, _) = block.split_once("```").unwrap();
        let read = domain::policy::read("docs/policies.md", example);
        let policies = read.unwrap_or_else(|errors| panic!("{errors:#?} in\n{example}"));
        assert!(
            !policies.is_empty(),
            "an example without a policy:\n{example}"
        );
        domain::policy::compile(policies).unwrap();
    }
}
