//! What files mean: the design's own file, defaults, patterns.

use std::net::IpAddr;

use proptest::prelude::{prop_assert_eq, proptest};

use super::{policies, set};
use crate::limit::{Algorithm, Enforce, MeterSelector};
use crate::policy::model::{CountedFrom, HeaderStyle, Key, MissingKey, Verdict};
use crate::policy::{Keyed, Network, TextPattern};
use crate::request::{Field, Request};
use crate::units::Units;
use crate::window::{Calendar, Period, WindowSpec};

/// The file that must keep working.
const FREE_TIER: &str = r#"
name: free-tier
match: { model: { prefix: "gpt-" } }
limits:
  - { name: daily-cost, meter: cost, limit: "25.00", per: [app], window: { calendar: day, timezone: Europe/Berlin }, from: log }
  - { name: model-tokens, meter: total_tokens, limit: 100000, per: [app, model], window: { sliding: 60s }, from: log }
  - { name: pace, meter: requests, limit: 50, per: [app], algorithm: token_bucket, refill: { every: 30s, amount: 50 }, capacity: 200 }
on_unavailable: allow
"#;

#[test]
fn the_file_that_must_keep_working_means_what_it_says() {
    let policies = policies(FREE_TIER);
    let [policy] = policies.as_slice() else {
        panic!("one policy");
    };
    assert_eq!(policy.name, "free-tier", "its name");
    assert_eq!(policy.on_unavailable.verdict, Verdict::Allow, "as written");
    assert_eq!(
        policy.on_unavailable.after_ms, 60_000,
        "the usual tolerance"
    );
    let [cost, tokens, pace] = policy.limits.as_slice() else {
        panic!("three limits");
    };
    assert_eq!(cost.spec.meter(), MeterSelector::Cost, "a budget");
    assert_eq!(
        cost.spec.limit(),
        Units::new(25_000_000_000_000_000_000),
        "25 in 10^-18"
    );
    let berlin = Calendar {
        period: Period::Day,
        zone: chrono_tz::Europe::Berlin,
    };
    let day = Algorithm::Window(WindowSpec::Calendar(berlin));
    assert_eq!(cost.spec.algorithm(), &day, "a day of Berlin");
    assert_eq!(cost.from, CountedFrom::Log, "from the log");
    assert_eq!(
        tokens.per,
        [Key::Field(Field::App), Key::Field(Field::Model)],
        "two keys"
    );
    assert_eq!(
        pace.from,
        CountedFrom::Decision,
        "requests are counted as they are asked for"
    );
    assert_eq!(pace.spec.limit(), Units::new(200), "a bucket's capacity");
    assert_eq!(pace.written, Units::new(50), "what was written");
    assert_eq!(pace.spec.enforce(), Enforce::Soft, "the default");
    assert_eq!(pace.missing_key, MissingKey::Shared, "the default");
    assert_eq!(policy.response.status, 429, "the default");
    assert_eq!(policy.response.headers, [HeaderStyle::Ietf], "the default");
}

#[test]
fn a_backends_and_a_consumers_limits_hold_together() {
    let set = set("name: backend\nmatch: { provider: openai }\n\
         limits: [{ name: l, meter: requests, limit: 5, window: { fixed: 60s } }]\n---\n\
         name: consumer\nmatch: { app: { prefix: team- } }\nattachments:\n\
         - { name: chat, match: { route: chat } }\n- { name: all, match: {} }\n\
         limits: [{ name: l, meter: requests, limit: 5, window: { fixed: 60s }, per: [app] }]\n");
    let request = Request {
        app: Some("team-a"),
        provider: Some("openai"),
        route: Some("chat"),
        ..Request::default()
    };
    let applied: Vec<_> = set.matching(&request).collect();
    let names: Vec<_> = applied
        .iter()
        .map(|one| (one.policy.name.as_str(), one.attachment.name.as_str()))
        .collect();
    assert_eq!(
        names,
        [("backend", ""), ("consumer", "chat"), ("consumer", "all")],
        "in order"
    );
    let mut keys: Vec<_> = applied
        .iter()
        .map(|one| format!("{:?}", one.keyed))
        .collect();
    keys.dedup();
    assert_eq!(keys.len(), 3, "a counter for each: {keys:?}");
    assert_eq!(
        applied[1].values(&request),
        [("app".to_owned(), Some("team-a".to_owned()))],
        "told"
    );
}

#[test]
fn a_missing_key_is_shared_skipped_or_refused() {
    let cases = [("shared", 2), ("skip", 1), ("deny", 2)];
    for (word, expected) in cases {
        let set = set(&format!(
            "name: p\nlimits:\n\
             - {{ name: a, meter: requests, limit: 5, window: {{ fixed: 60s }}, per: [app, user], missing_key: {word} }}\n\
             - {{ name: b, meter: requests, limit: 5, window: {{ fixed: 60s }}, per: [app] }}\n"
        ));
        // What a log calls unattributed is what a request without an application is.
        for app in [None, Some(""), Some("unattributed")] {
            let request = Request {
                app,
                user: Some("u"),
                ..Request::default()
            };
            let applied: Vec<_> = set.matching(&request).collect();
            assert_eq!(applied.len(), expected, "{word} with {app:?}");
            let is_denied = applied
                .iter()
                .any(|one| matches!(one.keyed, Keyed::Denied(Key::Field(Field::App))));
            assert_eq!(is_denied, word == "deny", "{word}");
        }
    }
}

#[test]
fn counters_are_never_shared_between_tenants() {
    let set =
        set("name: p\nlimits: [{ name: l, meter: requests, limit: 5, window: { fixed: 60s } }]\n");
    let key = |tenant| {
        let request = Request {
            tenant,
            ..Request::default()
        };
        set.matching(&request)
            .map(|one| format!("{:?}", one.keyed))
            .collect::<Vec<_>>()
    };
    assert_ne!(key(Some("a")), key(Some("b")), "two organisations");
    assert_eq!(
        key(None),
        key(Some("default")),
        "the one where nobody configures any"
    );
}

#[test]
fn globs_fit_whole_texts() {
    let cases = [
        ("gpt-*", "gpt-4o", true),
        ("gpt-*", "gpt-", true),
        ("gpt-*", "a-gpt-4", false),
        ("*", "", true),
        ("?", "ä", true),
        ("?", "", false),
        ("a*b*c", "aXbYbZc", true),
        ("a*b*c", "aXbYbZ", false),
        ("**a", "aaa", true),
        ("a?c", "abc", true),
        ("", "", true),
        ("*.example.org", "api.example.org", true),
    ];
    for (glob, text, expected) in cases {
        let pattern = TextPattern::Glob(glob.to_owned());
        assert_eq!(pattern.fits(text), expected, "{glob} on {text}");
    }
}

/// Globs by their definition.
fn glob_slowly(glob: &[char], text: &[char]) -> bool {
    match (glob, text) {
        ([], []) => true,
        (['*', rest @ ..], _) => {
            glob_slowly(rest, text) || matches!(text, [_, behind @ ..] if glob_slowly(glob, behind))
        }
        (['?', rest @ ..], [_, behind @ ..]) => glob_slowly(rest, behind),
        ([one, rest @ ..], [other, behind @ ..]) => one == other && glob_slowly(rest, behind),
        _ => false,
    }
}

proptest! {
    #[test]
    fn globs_agree_with_their_definition(glob in "[ab*?]{0,8}", text in "[ab]{0,10}") {
        let [slow_glob, slow_text] = [&glob, &text].map(|text| text.chars().collect::<Vec<_>>());
        let expected = glob_slowly(&slow_glob, &slow_text);
        prop_assert_eq!(TextPattern::Glob(glob).fits(&text), expected);
    }
}

#[test]
fn networks_hold_their_addresses() {
    let cases = [
        ("10.0.0.0/8", "10.255.0.1", Some(true)),
        ("10.0.0.0/8", "11.0.0.1", Some(false)),
        ("10.9.9.9/8", "10.0.0.1", Some(true)),
        ("10.0.0.0/8", "::ffff:10.0.0.1", Some(true)),
        ("0.0.0.0/0", "255.255.255.255", Some(true)),
        ("0.0.0.0/0", "::1", Some(false)),
        ("2001:db8::/32", "2001:db8:1::", Some(true)),
        ("2001:db8::/32", "2001:db9::", Some(false)),
        ("::/0", "::1", Some(true)),
        ("192.0.2.1", "192.0.2.1", Some(true)),
        ("192.0.2.1", "192.0.2.2", Some(false)),
        ("10.0.0.0/33", "10.0.0.0", None),
        ("10.0.0.0/+8", "10.0.0.0", None),
        ("example.org", "10.0.0.0", None),
    ];
    for (network, address, expected) in cases {
        let address: IpAddr = address.parse().unwrap();
        let found = Network::parse(network).map(|network| network.contains(address));
        assert_eq!(found, expected, "{network} and {address}");
    }
}
