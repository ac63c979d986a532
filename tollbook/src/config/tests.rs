//! The documented file loads, and what cannot be used is refused with its place.

use std::io::Write as _;

use super::*;

fn load(text: &str) -> Result<Settings, String> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("it takes the text");
    let name = file.path().display().to_string();
    let flags = SettingsFlags {
        config: Some(file.path().to_path_buf()),
        database_url: None,
        kafka_brokers: None,
    };
    Settings::load(&flags, &Environment::default())
        .map_err(|failure| failure.sentence().replace(&name, "FILE"))
}

/// The file of the documentation, which must keep working.
const DOCUMENTED: &str = r#"
[database]
url = "postgres://tollbook@127.0.0.1/tollbook"

[kafka]
brokers = "127.0.0.1:9092"
properties."security.protocol" = "sasl_ssl"

[[ingest.sources]]
topic = "usage.envoy"
format = "envoy-ai-gateway"
app = "x-tenant-id"
user = "x-user-id"
tenant = "default"
fields = { input_cache_read_tokens = "gen_ai.usage.cached_input_tokens" }

[prices]
files = ["prices.toml"]

[policies]
files = ["policies/*.yaml"]

[ingest]
http = "127.0.0.1:8070"

[enforcer]
http = "127.0.0.1:8080"
grpc = "127.0.0.1:8081"

[enforcer.rls]
files = ["rls/*.yaml"]
denied_hits = "count"
"#;

#[test]
fn the_documented_file_loads_and_is_shown() {
    let settings = load(DOCUMENTED).expect("it is documented");
    assert_eq!(settings.config().ingest.sources.len(), 1, "one source");
    let shown = settings.to_toml().expect("it can be shown");
    for line in [
        "topic = \"usage.envoy\"",
        "denied_hits = \"count\"",
        "files = [\"policies/*.yaml\"]",
    ] {
        assert!(shown.contains(line), "{line} is not in:\n{shown}");
    }
    load(&shown).expect("what is shown can be loaded");
}

#[test]
fn secrets_are_not_shown() {
    let text = "[database]\nurl = \"postgres://ann:hush@db/x\"\n[kafka.properties]\n\
                \"sasl.password\" = \"hush\"\n\"ssl.key.password\" = \"hush\"\n\"sasl.username\" = \"ann\"\n";
    let shown = load(text)
        .expect("it is well-formed")
        .to_toml()
        .expect("it can be shown");
    assert!(!shown.contains("hush"), "{shown}");
    assert!(shown.contains("\"sasl.username\" = \"ann\""), "{shown}");
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    let cases = [
        (
            "[kafka.properties]\n\"auto.offset.reset\" = \"latest\"\n",
            "FILE:2: `kafka.properties.\"auto.offset.reset\"` is set by Tollbook itself",
        ),
        (
            "[kafka]\nbrokers = \"\"\n",
            "FILE:2: `kafka.brokers` is empty",
        ),
        (
            "[database]\nurl = \"mysql://x\"\n",
            "FILE:2: `database.url` is no URL of Postgres",
        ),
        (
            "[ingest]\nhttp = \"here\"\n",
            "FILE:2: `ingest.http` is \"here\", which is no address",
        ),
        (
            "[ingest]\nhttp = \"0.0.0.0:8070\"\n",
            "FILE:2: `ingest.http` is 0.0.0.0:8070, where anyone could reach it without a key",
        ),
        (
            "[reports]\nzone = \"Europe/Berlim\"\n",
            "FILE:2: `reports.zone` is no zone",
        ),
        (
            "[ingest]\nbatch_records_max = 0\n",
            "FILE:2: `ingest.batch_records_max` 0 is out of range",
        ),
        (
            "[[ingest.sources]]\ntopic = \"a b\"\nformat = \"envoy-ai-gateway\"\n",
            "FILE:2: `ingest.sources[0].topic` \"a b\" is no name of a Kafka topic",
        ),
        (
            "[[ingest.sources]]\ntopic = \"a\"\nformat = \"envoy-ai-gateway\"\n[[ingest.sources]]\ntopic = \"a\"\nformat = \"envoy-ai-gateway\"\n",
            "FILE:4: `ingest.sources[1].name` is \"a\", as another source's",
        ),
        (
            "[[ingest.sources]]\ntopic = \"a\"\nformat = \"envoy\"\n",
            "FILE:3: `ingest.sources[0].format` is \"envoy\" but must be one of \"envoy-ai-gateway\"",
        ),
    ];
    for (text, expected) in cases {
        let error = load(text).expect_err(text);
        assert!(
            error.starts_with(expected),
            "{text}\n  said {error}\n  not  {expected}"
        );
    }
}

#[test]
fn beyond_loopback_needs_the_word_insecure() {
    load("[ingest]\nhttp = \"0.0.0.0:8070\"\ninsecure = true\n").expect("told so");
}
