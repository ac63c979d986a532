//! Settings from environment variables and flags: which setting a name means, and its value.
//!
//! | variable | setting |
//! | --- | --- |
//! | `PREFIX_DATABASE_URL` | `database.url`: names are joined by one underscore |
//! | `PREFIX_INGEST__BATCH_AGE_MS` | `ingest.batch_age_ms`: two where one would be ambiguous |
//! | `PREFIX_KAFKA_PROPERTIES_SASL_PASSWORD` | `kafka.properties."sasl.password"`: in a map of free keys an underscore is a dot |
//! | `PREFIX_DATABASE_URL_FILE` | `database.url` is what that file holds, without the last line break |
//! | `PREFIX_CONFIG` | the file itself, so no setting |
//! | `PREFIX_PORT_8080_TCP`, `PREFIX_SERVICE_HOST`, … | passed over: Kubernetes sets them for a service of that name |

use std::sync::Arc;

use super::check::nearest;
use super::document::parse_inline;
use super::environment::Environment;
use super::error::ConfigError;
use super::path::Path;
use super::schema::{Kind, SchemaNode};
use super::tree::{Item, Node, Origin};
use super::{Names, Override};

/// Returns the settings of all variables with the prefix.
pub(super) fn settings(
    names: Names,
    environment: &Environment,
    root: SchemaNode<'_>,
) -> Result<Vec<(Path, Node)>, ConfigError> {
    let mut settings: Vec<(Path, Node)> = Vec::new();
    for (name, rest, value) in environment.with_prefix(names.prefix) {
        let is_other = names.others.iter().any(|other| rest.starts_with(other));
        if rest == "CONFIG" || is_other || is_from_kubernetes(rest, value) {
            continue;
        }
        let (path, schema, text) = resolve(names, root, name, rest, value)?;
        if settings.iter().any(|(other, _)| *other == path) {
            let problem =
                format!("sets `{path}`, which another variable sets too; unset one of them");
            return Err(ConfigError::Variable {
                name: name.to_owned(),
                problem,
            });
        }
        let origin = Origin::Environment {
            name: Arc::from(name),
        };
        let node = parse(&text, schema, &path, &origin)?;
        settings.push((path, node));
    }
    Ok(settings)
}

/// Returns the setting of a flag.
pub(super) fn flag(given: &Override, root: SchemaNode<'_>) -> Result<(Path, Node), ConfigError> {
    let path = Path::of_keys(given.path);
    let schema = given
        .path
        .split('.')
        .try_fold(root, SchemaNode::key)
        .unwrap_or(root);
    let origin = Origin::Flag { flag: given.flag };
    let node = parse(&given.value, schema, &path, &origin)?;
    Ok((path, node))
}

/// Finds the setting that a variable means, and its text: its value, or what the file it names holds.
fn resolve<'a>(
    names: Names,
    root: SchemaNode<'a>,
    name: &str,
    rest: &str,
    value: &str,
) -> Result<(Path, SchemaNode<'a>, String), ConfigError> {
    // A name with two underscores somewhere parts all its sections by two.
    let separator = if rest.contains("__") { "__" } else { "_" };
    let mut found = Vec::new();
    find(
        root,
        &rest.to_ascii_lowercase(),
        separator,
        &Path::root(),
        &mut found,
    );
    if let [(path, schema)] = found.as_slice() {
        return Ok((path.clone(), *schema, value.to_owned()));
    }
    let refuse = |problem| ConfigError::Variable {
        name: name.to_owned(),
        problem,
    };
    if let [(one, _), (other, _), ..] = found.as_slice() {
        let problem =
            format!("may mean `{one}` or `{other}`; put two underscores between section and key");
        return Err(refuse(problem));
    }
    if let Some(setting) = rest.strip_suffix("_FILE") {
        find(
            root,
            &setting.to_ascii_lowercase(),
            separator,
            &Path::root(),
            &mut found,
        );
        if let [(path, schema)] = found.as_slice() {
            let text = std::fs::read_to_string(value).map_err(|error| {
                refuse(format!("names the file {value}, which cannot be read: {error}; create it or name another"))
            })?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            let line = line.strip_suffix('\r').unwrap_or(line);
            return Ok((path.clone(), *schema, line.to_owned()));
        }
    }
    let mut known = Vec::new();
    leaves(root, names.prefix, &mut known);
    let cure = nearest(name, known.iter().map(String::as_str)).unwrap_or(names.prefix);
    Err(refuse(format!(
        "is no setting; the nearest known one is {cure}: use that, or unset it"
    )))
}

/// Collects each way in which a lower-case name spells out a path of the schema.
fn find<'a>(
    schema: SchemaNode<'a>,
    name: &str,
    separator: &str,
    path: &Path,
    found: &mut Vec<(Path, SchemaNode<'a>)>,
) {
    for (key, below) in schema.properties() {
        let Some(rest) = name.strip_prefix(&key.to_ascii_lowercase()) else {
            continue;
        };
        if rest.is_empty() {
            found.push((path.key(key), below));
        } else if let Some(rest) = rest.strip_prefix(separator) {
            find(below, rest, separator, &path.key(key), found);
        }
    }
    let named = schema.properties().next().is_some();
    if let Some(value) = schema.other_keys().filter(|_| !named)
        && value.kind() != Kind::Table
        // A secret in a file is found by the name without `_file`.
        && !name.ends_with("_file")
    {
        found.push((path.key(&name.replace('_', ".")), value));
    }
}

/// Collects the variables of all plain settings.
fn leaves(schema: SchemaNode<'_>, prefix: &str, known: &mut Vec<String>) {
    for (key, below) in schema.properties() {
        let name = format!("{prefix}_{}", key.to_ascii_uppercase());
        if below.kind() == Kind::Table {
            leaves(below, &name, known);
        } else {
            known.push(name);
        }
    }
}

/// Reads a variable's text as the schema's type: texts as they are, lists also as `a,b`, everything
/// else as in the file.
fn parse(
    text: &str,
    schema: SchemaNode<'_>,
    path: &Path,
    origin: &Origin,
) -> Result<Node, ConfigError> {
    let plain = |text: &str| Node {
        origin: origin.clone(),
        item: Item::Text(text.to_owned()),
    };
    let kind = schema.kind();
    match &kind {
        Kind::Text | Kind::Word(_) | Kind::Anything => return Ok(plain(text)),
        Kind::List if !text.trim_start().starts_with('[') => {
            let elements = text
                .split(',')
                .map(str::trim)
                .filter(|element| !element.is_empty());
            return Ok(Node {
                origin: origin.clone(),
                item: Item::List(elements.map(plain).collect()),
            });
        }
        Kind::List | Kind::Integer { .. } | Kind::Number | Kind::Boolean | Kind::Table => {}
    }
    parse_inline(text.trim(), origin).ok_or_else(|| ConfigError::Type {
        place: origin.clone(),
        path: path.clone(),
        found: "a text".to_owned(),
        expected: kind.describe(),
    })
}

/// Tells whether Kubernetes made the variable, for the pods beside a service of that name.
fn is_from_kubernetes(rest: &str, value: &str) -> bool {
    let names_host = rest == "SERVICE_HOST" || rest.ends_with("_SERVICE_HOST");
    let names_port = rest.starts_with("SERVICE_PORT") || rest.contains("_SERVICE_PORT");
    let is_address = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let of_port = rest == "PORT"
        || rest.ends_with("_PORT")
        || rest.starts_with("PORT_")
        || rest.contains("_PORT_");
    let protocol = [
        "_TCP_PROTO",
        "_TCP_ADDR",
        "_TCP_PORT",
        "_UDP_PROTO",
        "_UDP_ADDR",
        "_UDP_PORT",
    ];
    names_host
        || names_port
        || (of_port && (is_address || protocol.iter().any(|ending| rest.ends_with(ending))))
}
