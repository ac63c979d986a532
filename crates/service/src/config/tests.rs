//! The layers of a configuration, and what each mistake says.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde::Deserialize;

use super::*;

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Sample {
    store: Store,
    broker: Broker,
    files: Vec<String>,
    readers: Vec<Reader>,
    mode: Mode,
    maybe: Option<u16>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Store {
    url: String,
    pool_size: u8,
    pool: Pool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: "db://localhost".to_owned(),
            pool_size: 4,
            pool: Pool::default(),
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Pool {
    size: u8,
    warm: bool,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Broker {
    properties: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
struct Reader {
    name: String,
    #[serde(default)]
    fields: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Reads all.
    #[default]
    Full,
    /// Reads some.
    Part,
}

const NAMES: Names = Names {
    prefix: "SAMPLE",
    file: "no-such-file-in-the-working-directory.toml",
    others: &["SCRIPTS_"],
    is_secret: |path| path.contains("properties.") && path.contains("password"),
};

/// Writes a file, loads it below the variables and flags, and hands back what came of it with the
/// file's name taken out.
fn attempt(
    text: &str,
    variables: &[(&str, &str)],
    flags: &[Override],
) -> Result<Loaded<Sample>, String> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("it takes the text");
    let name = file.path().display().to_string();
    let environment = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(NAMES, Some(file.path()), &environment.collect(), flags)
        .map_err(|error| error.to_string().replace(&name, "FILE"))
}

#[test]
fn later_layers_win_and_each_setting_knows_its_origin() {
    let text = "files = [\"a\", \"b\"]\n[store]\nurl = \"db://file\"\npool_size = 7\n";
    let variables = [
        ("SAMPLE_STORE__POOL_SIZE", "9"),
        ("SAMPLE_STORE_URL", "db://ann:pw@variable"),
    ];
    let flags = [Override {
        flag: "--mode",
        path: "mode",
        value: "part".to_owned(),
    }];
    let loaded = attempt(text, &variables, &flags).expect("all is well");
    assert_eq!(
        loaded.value.store.url, "db://ann:pw@variable",
        "the variable wins over the file"
    );
    assert_eq!(loaded.value.store.pool_size, 9, "here too");
    assert_eq!(
        loaded.value.mode,
        Mode::Part,
        "the flag wins over the default"
    );
    assert_eq!(
        loaded.value.files,
        ["a", "b"],
        "the file wins over the default"
    );
    let shown = loaded.to_toml().expect("it can be shown");
    for line in [
        "mode = \"part\"  # flag --mode",
        "url = \"db://ann:***@variable\"  # environment variable SAMPLE_STORE_URL",
        "pool_size = 9  # environment variable SAMPLE_STORE__POOL_SIZE",
        "warm = false  # default",
    ] {
        assert!(shown.contains(line), "{line} is not in:\n{shown}");
    }
    assert!(shown.contains(":1\n"), "the file's line is told:\n{shown}");
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let text = "[[readers]]\nname = \"x\"\nfields = { a = \"b\" }\n[broker.properties]\n\"sasl.user\" = \"u\"\n";
    let loaded = attempt(text, &[], &[]).expect("all is well");
    let shown = loaded.to_toml().expect("it can be shown");
    let again = attempt(&shown, &[], &[]).expect("it loads again");
    assert_eq!(again.value, loaded.value, "{shown}");
}

#[test]
fn variables_reach_lists_maps_and_files_of_secrets() {
    let mut secret = tempfile::NamedTempFile::new().expect("a file");
    secret.write_all(b"hush\n").expect("it takes the secret");
    let secret = secret.path().display().to_string();
    let variables = [
        ("SAMPLE_FILES", "a, b"),
        ("SAMPLE_BROKER_PROPERTIES_SASL_USERNAME", "ann"),
        (
            "SAMPLE_BROKER__PROPERTIES__SASL_PASSWORD_FILE",
            secret.as_str(),
        ),
        ("SAMPLE_STORE_POOL_WARM", "true"),
        ("SAMPLE_READERS", "[{ name = \"x\" }]"),
        ("SAMPLE_SCRIPTS_FOLDER", "/x"),
        ("SAMPLE_PORT", "tcp://10.0.0.1:80"),
        ("SAMPLE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("SAMPLE_WEB_SERVICE_HOST", "10.0.0.1"),
    ];
    let loaded = attempt("", &variables, &[]).expect("all is well");
    assert_eq!(loaded.value.files, ["a", "b"], "commas part a list");
    let properties = &loaded.value.broker.properties;
    assert_eq!(
        properties.get("sasl.username").map(String::as_str),
        Some("ann"),
        "{properties:?}"
    );
    assert_eq!(
        properties.get("sasl.password").map(String::as_str),
        Some("hush"),
        "{properties:?}"
    );
    assert!(loaded.value.store.pool.warm, "a bool is read");
    assert_eq!(
        loaded.value.readers.len(),
        1,
        "tables are read as in a file"
    );
    let shown = loaded.to_toml().expect("it can be shown");
    assert!(!shown.contains("hush"), "{shown}");
}

#[test]
fn each_mistake_in_the_file_names_place_setting_and_cure() {
    let cases = [
        (
            "\n[store]\nurk = 1\n",
            "FILE:3: `store.urk` is no setting; the nearest known key is `url`: write that, or remove it",
        ),
        (
            "[stroe]\n",
            "FILE:1: `stroe` is no setting; the nearest known key is `store`: write that, or remove it",
        ),
        (
            "[store]\nurl = 5\n",
            "FILE:2: `store.url` is a whole number but must be a text in quotes",
        ),
        (
            "[store]\npool_size = 300\n",
            "FILE:2: `store.pool_size` is 300 but must be a whole number from 0 to 255, without quotes",
        ),
        (
            "maybe = \"x\"\n",
            "FILE:1: `maybe` is a text but must be a whole number from 0 to 65535, without quotes",
        ),
        (
            "mode = \"ful\"\n",
            "FILE:1: `mode` is \"ful\" but must be one of \"full\", \"part\"",
        ),
        (
            "store = 3\n",
            "FILE:1: `store` is a whole number but must be a table of its own",
        ),
        (
            "[[readers]]\nname = \"x\"\n[[readers]]\nnmae = \"y\"\n",
            "FILE:4: `readers[1].nmae` is no setting; the nearest known key is `name`: write that, or remove it",
        ),
        (
            "\n[[readers]]\n",
            "FILE:2: `readers[0].name` is missing; add it as a text in quotes",
        ),
        (
            "a = \n",
            "FILE:1: this is no TOML: string values must be quoted, expected literal string",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(attempt(text, &[], &[]).expect_err(text), expected, "{text}");
    }
}

#[test]
fn each_mistake_in_a_variable_names_place_setting_and_cure() {
    let cases = [
        (
            ("SAMPLE_STORE_URK", "x"),
            "the environment variable SAMPLE_STORE_URK is no setting; the nearest known one is SAMPLE_STORE_URL: use that, or unset it",
        ),
        (
            ("SAMPLE_MAYBE", "many"),
            "environment variable SAMPLE_MAYBE: `maybe` is a text but must be a whole number from 0 to 65535, without quotes",
        ),
        (
            ("SAMPLE_STORE_POOL_SIZE", "2"),
            "the environment variable SAMPLE_STORE_POOL_SIZE may mean `store.pool.size` or `store.pool_size`; put two underscores between section and key",
        ),
        (
            ("SAMPLE_STORE_URL_FILE", "/nowhere/x"),
            "the environment variable SAMPLE_STORE_URL_FILE names the file /nowhere/x, which cannot be read: No such file or directory (os error 2); create it or name another",
        ),
    ];
    for (variable, expected) in cases {
        assert_eq!(
            attempt("", &[variable], &[]).expect_err(variable.0),
            expected,
            "{variable:?}"
        );
    }
}

#[test]
fn a_named_file_that_is_missing_is_refused_and_says_who_named_it() {
    let environment = std::iter::once(("SAMPLE_CONFIG".to_owned(), "/nowhere/s.toml".to_owned()));
    let error =
        load::<Sample>(NAMES, None, &environment.collect(), &[]).expect_err("it is missing");
    let text = error.to_string();
    assert!(
        text.contains("/nowhere/s.toml") && text.contains("SAMPLE_CONFIG"),
        "{text}"
    );
}
