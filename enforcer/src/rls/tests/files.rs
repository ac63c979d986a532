//! Which files are rules, and what is said of others.

use super::*;
use crate::grpc::wire::Kind;
use crate::rls::Watch;

fn error(text: &str) -> String {
    load(&[file(text)], OneDomain::Refused)
        .unwrap_err()
        .to_string()
}

fn descriptor_of(text: &str) -> String {
    format!("domain: gw\ndescriptors:\n  - key: k\n{text}")
}

/// Expects an error with its line, or without, where the parser's line is its own.
fn check(text: &str, expected: &str) {
    let error = error(text);
    let place = format!("rls/a.yaml:{expected}");
    let is_placed = expected.starts_with(char::is_numeric);
    let is_told = error.starts_with(&place) || (error.contains(expected) && !is_placed);
    assert!(is_told, "{text:?} is told as {error:?}, not {expected:?}");
}

#[test]
fn files_that_are_no_rules_are_refused_with_their_place() {
    for (text, expected) in [
        (String::new(), "1: a file of rules names its `domain`"),
        (
            "descriptors: []".to_owned(),
            "1: a file of rules names its `domain`",
        ),
        ("'''".to_owned(), "this is no YAML"),
        (
            "- a".to_owned(),
            "1: the file's top level is a table of keys and values",
        ),
        (
            "domain: gw\ndescriptor: []".to_owned(),
            "2: `descriptor` is no key of the file's top level; the nearest known one is `descriptors`",
        ),
        (
            "domain: gw\ndomain: gx".to_owned(),
            "2: the key `domain` occurs twice; remove one",
        ),
        ("0.25: gw".to_owned(), "1: the key 0.25 is not a text"),
        (
            "domain: gw\ndescriptors:\n  - a\n  - b".to_owned(),
            "3: a descriptor is a table of keys and values",
        ),
        (
            "domain: gw\ndescriptors: {}".to_owned(),
            "2: `descriptors` is a list",
        ),
        (
            "domain: gw\n---\ndomain: gx".to_owned(),
            "3: a second document begins here",
        ),
        (
            "domain: gw\ndescriptors:\n  - value: v".to_owned(),
            "3: a descriptor has a `key`",
        ),
    ] {
        check(&text, expected);
    }
    let depth = error(&format!("domain: gw\ndescriptors: {}", "[".repeat(100)));
    assert!(depth.contains("nested deeper"), "{depth}");
}

#[test]
fn descriptors_that_it_refuses_are_refused() {
    for (text, expected) in [
        (
            descriptor_of("    ratelimit: {}"),
            "4: `ratelimit` is no key of a descriptor; the nearest known one is `rate_limit`",
        ),
        (
            descriptor_of("    shadow_mode: \"true\""),
            "4: `shadow_mode` is true or false, without quotes",
        ),
        (
            descriptor_of("    value: v\n    share_threshold: true"),
            "3: `share_threshold` is for values with `*`",
        ),
        (
            descriptor_of("    value: 1.5"),
            "4: `value` is a text; write it in quotes, \"1.5\"",
        ),
        (
            descriptor_of("    metadata: 5"),
            "4: `metadata` is a table of keys and values",
        ),
        (
            descriptor_of("  - key: k"),
            "4: there are two rules `gw.k`; remove one",
        ),
        (descriptor_of("    value: !!str v"), "the tag"),
    ] {
        check(&text, expected);
    }
}

#[test]
fn limits_that_it_refuses_are_refused() {
    for (text, expected) in [
        (
            descriptor_of("    rate_limit:\n      unit: day\n      requestsperunit: 5"),
            "6: `requestsperunit` is no key of `rate_limit`; the nearest known one is `requests_per_unit`",
        ),
        (
            descriptor_of("    rate_limit:\n      unit: foo"),
            "5: `foo` is no unit",
        ),
        (
            descriptor_of("    rate_limit:\n      requests_per_unit: 5"),
            "5: `` is no unit",
        ),
        (
            descriptor_of("    rate_limit:\n      unlimited: true\n      unit: day"),
            "5: `unlimited` goes without a `unit`",
        ),
        (
            descriptor_of("    rate_limit: { unit: day, requests_per_unit: -1 }"),
            "4: `requests_per_unit` is a whole number from 0 to 4294967295",
        ),
        (
            descriptor_of("    rate_limit: { unit: day, requests_per_unit: \"5\" }"),
            "4: `requests_per_unit` is a whole number from 0 to 4294967295",
        ),
        (
            descriptor_of("    rate_limit: { unit: day, requests_per_unit: 4294967296 }"),
            "4: `requests_per_unit` is a whole number from 0 to 4294967295",
        ),
        (
            descriptor_of("    rate_limit: { unit: day, name: self, replaces: [{ name: self }] }"),
            "4: `self` cannot replace itself",
        ),
        (
            descriptor_of("    rate_limit: { unit: day, replaces: [{ name: }] }"),
            "4: an entry of `replaces` has the `name` of another limit",
        ),
    ] {
        check(&text, expected);
    }
}

#[test]
fn scalars_mean_what_yaml_1_1_says() {
    let text = "
domain: gw
descriptors:
  - { key: a, value: yes, quota_mode: on, shadow_mode: ~, rate_limit: { unit: HOUR, requests_per_unit: 1_0 } }
  - { key: a, value: 010, shadow_mode: Off, rate_limit: { unit: Minute, requests_per_unit: 010 } }
  - { key: a, value: null, rate_limit: { unit: week, requests_per_unit: 0x10 } }
  - &base { key: a, value: '~', rate_limit: { unit: month, requests_per_unit: } }
  - { <<: *base, value: merged }
  - key: empty
    descriptors:
";
    let rls = service(text, Options::default());
    for (entries, unit, limit) in [
        ("a=yes", 3, 10),
        ("a=010", 2, 8),
        ("a=z", 7, 16),
        ("a=~", 5, 0),
        ("a=merged", 5, 0),
    ] {
        let answer = rls
            .should_rate_limit(&request(&[descriptor(entries)]), at(NOW))
            .unwrap();
        let current = answer.statuses[0].current_limit.clone().unwrap();
        assert_eq!(
            (current.unit, current.requests_per_unit),
            (unit, limit),
            "{entries}"
        );
    }
}

#[test]
fn keys_that_have_no_effect_there_are_told_and_have_none_here() {
    let text = "
domain: gw
descriptors:
  - key: a
    unit: hour
    detailed_metric: true
    value_to_metric: true
    rate_limit: { unit: hour, requests_per_unit: 0, shadow_mode: true }
";
    let loaded = load(&[file(text)], OneDomain::Refused).unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "rls/a.yaml:5: `unit` has no effect in a descriptor, for envoyproxy/ratelimit either; it \
             belongs in `rate_limit`",
            "rls/a.yaml:8: `shadow_mode` has no effect in `rate_limit`, for envoyproxy/ratelimit \
             either; it belongs in a descriptor",
        ]
    );
    let rls = service(text, Options::default());
    let answer = rls
        .should_rate_limit(&request(&[descriptor("a=x")]), at(NOW))
        .unwrap();
    assert_eq!(answer.overall_code, 2, "no shadow");
}

#[test]
fn two_files_with_one_domain_are_refused_or_put_together() {
    let files = ["a", "b"].map(|key| RuleFile {
        path: format!("{key}.yaml"),
        text: format!("domain: gw\ndescriptors: [{{ key: {key}, rate_limit: {{ unit: day }} }}]"),
    });
    let refused = load(&files, OneDomain::Refused).unwrap_err().to_string();
    assert!(
        refused.starts_with("b.yaml:1: the domain `gw` has rules in another file"),
        "{refused}"
    );
    let merged = load(&files, OneDomain::Merged).unwrap().rules;
    for key in ["a", "b"] {
        let met = merged.meet("gw", &descriptor(&format!("{key}=x"))).unwrap();
        assert!(met.is_some(), "{key} is there");
    }
    let twice = [files[0].clone(), files[0].clone()];
    let twice = load(&twice, OneDomain::Merged).unwrap_err().to_string();
    assert_eq!(twice, "a.yaml:2: there are two rules `gw.a`; remove one");
}

#[test]
fn metadata_of_passed_rules_is_told_where_that_is_wanted() {
    let text = "
domain: gw
descriptors:
  - { key: a, rate_limit: { unit: day, requests_per_unit: 1 }, metadata: { team: red, number: 5, deep: { x: true } } }
  - { key: b, rate_limit: { unit: day, requests_per_unit: 1 }, metadata: { team: blue, deep: { y: [1.5, ~] } } }
";
    let rls = service(
        text,
        Options {
            adds_metadata: true,
            ..Options::default()
        },
    );
    let mut both = request(&[hits(1, descriptor("a=x")), descriptor("b=x")]);
    both.hits_addend = 1;
    let answer = rls.should_rate_limit(&both, at(NOW)).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&super::super::json::write(&answer)).unwrap();
    assert_eq!(
        json["dynamicMetadata"],
        serde_json::json!({
            "domain": "gw",
            "descriptors": [{ "entries": ["a=x"], "hitsAddend": 1 }, { "entries": ["b=x"] }],
            "hitsAddend": 1,
            "metadata": { "team": "red", "number": 5, "deep": { "x": true, "y": [1.5, null] } },
        })
    );
    let over = rls.should_rate_limit(&both, at(NOW)).unwrap();
    let fields = over.dynamic_metadata.unwrap().fields;
    assert!(!fields.contains_key("metadata"), "none passed");
    assert!(matches!(&fields["domain"].kind, Some(Kind::Text(text)) if text == "gw"));
}

#[test]
fn files_are_followed_and_a_bad_set_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    let mut watch = Watch::new(
        folder.path().to_path_buf(),
        vec!["*.yaml".to_owned()],
        OneDomain::Refused,
    );
    assert!(watch.poll().unwrap().is_some(), "no files are a set, too");
    assert!(watch.poll().unwrap().is_none(), "nothing changed");
    std::fs::write(&path, "domain: gw").unwrap();
    assert!(watch.poll().unwrap().is_some(), "a file came");
    std::fs::write(&path, "domain:").unwrap();
    let told = watch.poll().unwrap_err().to_string();
    assert_eq!(
        told,
        format!("{}:1: a file of rules names its `domain`", path.display())
    );
    assert!(watch.poll().unwrap().is_none(), "told once");
    std::fs::write(&path, "domain: gw").unwrap();
    assert!(watch.poll().unwrap().is_some(), "good again");
    let mut missing = Watch::new(
        folder.path().to_path_buf(),
        vec!["b.yaml".to_owned()],
        OneDomain::Refused,
    );
    assert!(
        missing
            .poll()
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    assert!(missing.poll().unwrap().is_none(), "told once");
}
