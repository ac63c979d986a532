//! Which variables mean what, and what is said of wrong ones.

use super::*;

fn read(variables: &[(&str, &str)]) -> Result<OtlpSettings, OtlpError> {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    OtlpSettings::read(&variables.collect(), "tollbook-test")
}

fn on(variables: &[(&str, &str)]) -> OtlpSettings {
    let mut all = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")];
    all.extend(variables);
    read(&all).expect("settings")
}

fn attribute(settings: &OtlpSettings, key: &str) -> Option<String> {
    let mut found = settings.resource.iter().filter(|(known, _)| known == key);
    let value = found.next().map(|(_, value)| value.clone());
    assert!(found.next().is_none(), "{key} twice");
    value
}

#[test]
fn nothing_goes_out_unless_a_variable_asks_for_it() {
    for variables in [
        &[][..],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
        &[
            ("OTEL_SERVICE_NAME", "books"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("OTEL_SDK_DISABLED", "TRUE"),
        ],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "prometheus,none"),
        ],
    ] {
        let settings = read(variables).expect("settings");
        assert!(!settings.is_on(), "{variables:?}");
    }
    let one = read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector")]);
    let one = one.expect("settings");
    assert!(one.traces.is_some() && !one.pushes_metrics(), "one signal");
    let asked = read(&[("OTEL_METRICS_EXPORTER", "otlp")]).expect("settings");
    let target = asked.metrics.expect("asked for").target;
    assert_eq!(
        target.shown(),
        "http://localhost:4318/v1/metrics",
        "the default"
    );
}

#[test]
fn a_base_gets_a_path_and_a_signals_own_url_does_not() {
    let settings = on(&[
        (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "https://other/custom/?a=b",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
            "authorization=Basic eA==,x=y",
        ),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1500"),
    ]);
    let (traces, metrics) = (settings.traces.expect("on"), settings.metrics.expect("on"));
    assert_eq!(
        traces.target.url, "http://collector:4318/v1/traces",
        "a base"
    );
    assert_eq!(traces.target.headers["x-key"], "a b", "decoded");
    assert_eq!(metrics.target.url, "https://other/custom/?a=b", "as it is");
    assert_eq!(
        metrics.target.headers["authorization"], "Basic eA==",
        "its own"
    );
    assert!(
        !metrics.target.headers.contains_key("x-key"),
        "and no others"
    );
    assert_eq!(
        metrics.target.timeout,
        Duration::from_millis(1_500),
        "its own"
    );
    assert_eq!(
        traces.target.timeout,
        Duration::from_secs(10),
        "the default"
    );
    let shown = format!("{metrics:?}");
    assert!(!shown.contains("eA==") && !shown.contains("a=b"), "{shown}");
    let grpc = on(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    assert_eq!(
        grpc.traces.expect("on").target.url,
        "http://collector:4318/",
        "an origin"
    );
    let below = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/otlp/")]);
    let below = below.expect("settings").traces.expect("on").target.url;
    assert_eq!(
        below, "http://collector:4318/otlp/v1/traces",
        "below a path"
    );
}

#[test]
fn a_resource_says_who_sends() {
    let settings = on(&[]);
    assert_eq!(
        attribute(&settings, "service.name").as_deref(),
        Some("tollbook-test"),
        "ours"
    );
    assert!(
        attribute(&settings, "service.instance.id").is_some(),
        "each start"
    );
    let settings = on(&[
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=other,region=eu%2Dwest, pod = a=b",
        ),
        ("OTEL_SERVICE_NAME", "books"),
    ]);
    assert_eq!(
        attribute(&settings, "service.name").as_deref(),
        Some("books"),
        "first of all"
    );
    assert_eq!(
        attribute(&settings, "region").as_deref(),
        Some("eu-west"),
        "decoded"
    );
    assert_eq!(
        attribute(&settings, "pod").as_deref(),
        Some("a=b"),
        "up to the first sign"
    );
}

#[test]
fn samplers_have_the_standard_names() {
    for (name, argument, expected) in [
        ("always_off", "", "AlwaysOff"),
        ("traceidratio", "0.25", "TraceIdRatioBased(0.25)"),
        (
            "parentbased_traceidratio",
            "",
            "ParentBased(TraceIdRatioBased(1.0))",
        ),
        ("", "", "ParentBased(AlwaysOn)"),
    ] {
        let settings = on(&[
            ("OTEL_TRACES_SAMPLER", name),
            ("OTEL_TRACES_SAMPLER_ARG", argument),
        ]);
        let sampler = format!("{:?}", settings.traces.expect("on").sampler);
        assert_eq!(sampler, expected, "{name}");
    }
}

/// Variables, values that are none, and what the sentence says of them.
const WRONG: &[(&str, &str, &str)] = &[
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http://"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector", "http://"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "no URL"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "a b", "no URL"),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "http://me:secret@collector",
        "credentials",
    ),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "`grpc`"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "pair 1"),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "a=b,secret secret=1",
        "pair 2",
    ),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "whole number"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "above 0"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", "`none`"),
    ("OTEL_TRACES_EXPORTER", "zipkin", "`otlp`"),
    ("OTEL_TRACES_EXPORTER", "prometheus", "`otlp`"),
    ("OTEL_METRICS_EXPORTER", "console", "`none`"),
    ("OTEL_TRACES_SAMPLER", "sometimes", "always_on"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "whole number"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999", "at most"),
    (
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "4096",
        "OTEL_BSP_MAX_QUEUE_SIZE",
    ),
    ("OTEL_METRIC_EXPORT_INTERVAL", "1.5", "whole number"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a", "name=value"),
    ("OTEL_SDK_DISABLED", "yes", "`true`"),
    (
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "delta",
        "cumulative",
    ),
];

#[test]
fn a_wrong_value_is_one_sentence_that_names_its_variable() {
    for (name, value, says) in WRONG {
        let base = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://collector");
        let both = [
            base,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector"),
            (*name, *value),
        ];
        let only = [base, (*name, *value)];
        let all = if name.ends_with("_ENDPOINT") {
            &only[..]
        } else {
            &both
        };
        let error = read(all).expect_err(value);
        let text = error.to_string();
        assert!(text.starts_with(name), "{text}");
        assert!(text.contains(says), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    let settings = on(&[
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
    ]);
    assert!(settings.traces.is_none(), "what is off is not read");
    let error = read(&[
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
    ]);
    let text = error.expect_err("a share above 1").to_string();
    assert!(text.contains("from 0 to 1"), "{text}");
    let gzip = on(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]);
    assert_eq!(
        gzip.warnings.len(),
        2,
        "each signal says so: {:?}",
        gzip.warnings
    );
}
