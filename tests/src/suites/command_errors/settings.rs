//! Wrong settings, and what is said of each: parts of one line, parted by ` | `.

/// What is wrong, TOML from line 7 of the file on, and what is said.
pub(super) const IN_THE_FILE: &[(&str, &str, &str)] = &[
    (
        "an unknown section",
        "[ingst]\n",
        "tollbook.toml:7 | `ingst` | nearest known key is `ingest`",
    ),
    (
        "an unknown key",
        "[ingest]\nbatch_age = 3\n",
        "tollbook.toml:8 | `ingest.batch_age` | `batch_age_ms`",
    ),
    (
        "a wrong type",
        "[ingest]\nbatch_age_ms = \"20\"\n",
        "tollbook.toml:8 | `ingest.batch_age_ms` | a whole number | without quotes",
    ),
    (
        "a number below the least",
        "[ingest]\nbatch_age_ms = -1\n",
        "tollbook.toml:8 | -1 | a whole number from 0 to",
    ),
    (
        "a bad value",
        "[ingest]\nbatch_records_max = 0\n",
        "tollbook.toml:8 | `ingest.batch_records_max` | out of range; use 1 to",
    ),
    (
        "a bad address",
        "[ingest]\nhttp = \"localhost\"\n",
        "tollbook.toml:8 | `ingest.http` | write an IP address and a port",
    ),
    (
        "a listener open to all",
        "[ingest]\nhttp = \"0.0.0.0:0\"\n",
        "tollbook.toml:8 | 0.0.0.0:0 | ingest.insecure = true",
    ),
    (
        "a bad zone",
        "[reports]\nzone = \"Europe/Berlim\"\n",
        "tollbook.toml:8 | Europe/Berlim | Europe/Berlin",
    ),
    ("no TOML", "[ingest\n", "tollbook.toml:7 | no TOML"),
    (
        "an owned key of Kafka",
        "[kafka.properties]\n\"auto.offset.reset\" = \"latest\"\n",
        "tollbook.toml:8 | auto.offset.reset | is set by Tollbook itself | remove it",
    ),
    (
        "a topic that cannot be",
        "[[ingest.sources]]\ntopic = \"a b\"\nformat = \"envoy-ai-gateway\"\n",
        "tollbook.toml:8 | `ingest.sources[0].topic` | \"a b\" | use 1 to 249 of a-z",
    ),
    (
        "an unknown format",
        "[[ingest.sources]]\ntopic = \"a\"\nformat = \"envoy\"\n",
        "tollbook.toml:9 | `ingest.sources[0].format` | \"envoy-ai-gateway\"",
    ),
    (
        "a source without topic",
        "[[ingest.sources]]\nformat = \"envoy-ai-gateway\"\n",
        "tollbook.toml:7 | `ingest.sources[0].topic` is missing | add it as a text in quotes",
    ),
    (
        "a source twice",
        "[[ingest.sources]]\ntopic = \"a\"\nformat = \"envoy-ai-gateway\"\n\
         [[ingest.sources]]\ntopic = \"a\"\nformat = \"envoy-ai-gateway\"\n",
        "tollbook.toml:10 | would count twice | leave one of them",
    ),
];

/// What is wrong, the file's end, and what is said.
pub(super) const IN_PRICE_FILES: &[(&str, &str, &str)] = &[
    (
        "a price file with a bad line",
        "[prices]\nfiles = [\"prices.csv\"]\n",
        "prices.csv line 3 | cheap",
    ),
    (
        "a price file that is absent",
        "[prices]\nfiles = [\"absent.csv\"]\n",
        "tollbook.toml:8 | `prices.files[0]` | absent.csv | create it, or take it out",
    ),
];

/// The variable and what is said.
pub(super) const IN_VARIABLES: &[((&str, &str), &str)] = &[
    (
        ("TOLLBOOK_DATABASE_URK", "x"),
        "TOLLBOOK_DATABASE_URK | TOLLBOOK_DATABASE_URL | unset it",
    ),
    (
        ("TOLLBOOK_KAFKA_PROPERTIES_GROUP_ID", "mine"),
        "TOLLBOOK_KAFKA_PROPERTIES_GROUP_ID | kafka.properties.\"group.id\" | set `group` instead",
    ),
    (
        ("TOLLBOOK_INGEST_BATCH_AGE_MS", "soon"),
        "TOLLBOOK_INGEST_BATCH_AGE_MS | `ingest.batch_age_ms` | a whole number",
    ),
    (
        ("TOLLBOOK_DATABASE_URL_FILE", "/nowhere/secret"),
        "TOLLBOOK_DATABASE_URL_FILE | /nowhere/secret | create it or name another",
    ),
    (
        ("RUST_LOG", "x=y=z"),
        "RUST_LOG | `x=y=z` | write for example `info`",
    ),
];

/// What has spans and metrics pushed.
pub(super) const OTLP_ON: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");

/// The variable beside it, and what is said.
pub(super) const OF_OTLP: &[((&str, &str), &str)] = &[
    (
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://ann:hush@x/y"),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT | credentials | OTEL_EXPORTER_OTLP_HEADERS",
    ),
    (
        ("OTEL_EXPORTER_OTLP_HEADERS", "hush"),
        "OTEL_EXPORTER_OTLP_HEADERS | pair 1 | write name=value",
    ),
    (
        ("OTEL_TRACES_SAMPLER", "some"),
        "OTEL_TRACES_SAMPLER | `some` | write always_on",
    ),
];

/// The arguments, the exit code and what is said.
pub(super) const IN_FLAGS: &[(&[&str], i32, &str)] = &[
    (
        &["report", "cost", "--config", "/nowhere/tollbook.toml"],
        3,
        "/nowhere/tollbook.toml | --config | create it or name another",
    ),
    (
        &["report", "cost", "--database-url", "mysql://ann:hush@x/y"],
        3,
        "flag --database-url | `database.url` | postgres://user@host:5432/database",
    ),
    (
        &["report", "cost", "--by", "ap"],
        2,
        "--by | \"ap\" | tenant, app",
    ),
    (
        &["report", "cost", "--grain", "dy"],
        2,
        "--grain | \"dy\" | quarter-hour",
    ),
    (
        &["report", "cost", "--zone", "Berlin"],
        2,
        "--zone | \"Berlin\" | nearest name is",
    ),
    (
        &["prices", "import", "/nowhere/map.json"],
        2,
        "/nowhere/map.json | cannot be read | name a file that can",
    ),
    (
        &["prices", "import", "/dev/null", "--from", "soon"],
        2,
        "--from | \"soon\" | 2027-01-31T12:00:00Z",
    ),
    (
        &["prices", "import", "/dev/null"],
        5,
        "null line 1 | is empty | provider,model,meter",
    ),
    (
        &["rejected", "list", "--reason", "odd"],
        2,
        "--reason | \"odd\" | the reasons are",
    ),
    (
        &["rejected", "show", "here"],
        2,
        "\"here\" | topic/partition/offset",
    ),
];
