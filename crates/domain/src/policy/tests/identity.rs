//! Counters' identities: never shared by accident, never lost by an edit that means the same.

use std::collections::HashMap;

use proptest::prelude::{
    ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::{policies, set};
use crate::policy::model::LimitId;

fn ids(text: &str) -> Vec<LimitId> {
    set(text).limits().map(|(id, ..)| id).collect()
}

fn one(text: &str) -> LimitId {
    let ids = ids(text);
    assert_eq!(ids.len(), 1, "one limit in\n{text}");
    ids[0]
}

/// Pairs that mean the same numbers.
const SAME: &[(&str, &str)] = &[
    // Explicit defaults.
    (
        "{ name: l, meter: requests, limit: 5, window: { calendar: day } }",
        "{ name: l, meter: requests, limit: 5, window: { calendar: day, timezone: UTC }, per: [], \
         algorithm: window, from: decision, missing_key: shared, enforce: soft }",
    ),
    (
        "{ name: l, meter: cost, limit: \"5\", window: { calendar: month } }",
        "{ name: l, meter: cost, limit: 5, window: { calendar: month, anchor_day: 1 }, from: log }",
    ),
    (
        "{ name: l, meter: cost, limit: \"5\", window: { calendar: year } }",
        "{ name: l, meter: cost, limit: 5, window: { calendar: year, anchor_day: 1, anchor_month: 1 } }",
    ),
    // What is compared with the numbers, not what they are.
    (
        "{ name: l, meter: requests, limit: 5, window: { fixed: 60s } }",
        "{ name: l, meter: requests, limit: 500, window: { fixed: 1m }, enforce: shadow, \
         missing_key: deny, description: more }",
    ),
    (
        "{ name: l, meter: requests, limit: 5, algorithm: token_bucket, refill: { every: 1m } }",
        "{ name: l, meter: requests, limit: 7, algorithm: token_bucket, capacity: 9, \
         refill: { every: 60s, amount: 7 } }",
    ),
    // The tenant always is part of a key; the order of keys means nothing.
    (
        "{ name: l, meter: requests, limit: 5, window: { fixed: 60s }, per: [app, model] }",
        "{ name: l, meter: requests, limit: 5, window: { fixed: 60s }, per: [model, tenant, app] }",
    ),
    (
        "{ name: l, meter: requests, limit: 5, window: { fixed: 60s }, per: [{ header: X-Team }] }",
        "{ name: l, meter: requests, limit: 5, window: { fixed: 60s }, per: [{ header: x-team }] }",
    ),
    (
        "{ name: l, meter: { cel: \"input_tokens+3*output_tokens\" }, limit: 5, window: { fixed: 60s } }",
        "{ name: l, meter: { cel: \"input_tokens + (3 * output_tokens)\" }, limit: 5, window: { fixed: 60s } }",
    ),
];

#[test]
fn absent_and_explicit_defaults_have_one_identity() {
    for (short, long) in SAME {
        let of = |limit: &str| one(&format!("name: p\nlimits: [{limit}]\n"));
        assert_eq!(of(short), of(long), "{short}\nand\n{long}");
    }
    let limits = "limits: [{ name: l, meter: requests, limit: 5, window: { fixed: 60s } }]\n";
    let short = format!("name: p\n{limits}");
    let long = format!(
        "name: p\ndescription: d\nmatch: {{}}\nattachments: []\non_unavailable: {{ decide: deny, after: 5s }}\n\
         response: {{ status: 403, headers: [openai], retry_after: false }}\n{limits}"
    );
    assert_eq!(one(&short), one(&long), "a policy's defaults");
    for (one_way, other_way) in [
        ("model: a", "model: [a]"),
        ("model: a", "model: { exact: a }"),
        ("model: [a, b]", "model: [b, a, b]"),
        (
            "headers: { X-A: a, x-b: b }",
            "headers: { x-b: { exact: b }, x-a: a }",
        ),
        ("source_address: 10.1.2.3/8", "source_address: [10.0.0.0/8]"),
    ] {
        let of = |matches: &str| one(&format!("name: p\nmatch: {{ {matches} }}\n{limits}"));
        assert_eq!(of(one_way), of(other_way), "{one_way} and {other_way}");
    }
}

/// A policy of one limit, by the choice made for each part of its identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts([usize; 7]);

const CHOICES: [&[&str]; 7] = [
    &["p", "pl", "p1"],
    &[
        "",
        "attachments: [{ name: l, match: {} }]",
        "attachments: [{ name: b, match: {} }]",
        "attachments: [{ name: b, match: { app: x } }]",
    ],
    &["l", "p", "ll"],
    &[
        "",
        "app: x",
        "model: x",
        "app: { prefix: x }",
        "app: { glob: x }",
        "app: { regex: x }",
        "app: [x, y]",
        "headers: { app: x }",
        "cel: \"app == 'x'\"",
        "cel: \"model == 'x'\"",
        "source_address: 10.0.0.0/8",
        "destination_address: 10.0.0.0/8",
        "source_address: 10.0.0.0/9",
    ],
    &[
        "requests",
        "images",
        "{ cel: \"1\" }",
        "{ cel: \"2\" }",
        "cost",
        "input_tokens",
        "total_tokens",
    ],
    &[
        "",
        "app",
        "model",
        "app, model",
        "{ header: app }",
        "{ constant: app }",
        "{ cel: app }",
        "{ header: model }",
        "{ constant: \"\" }",
    ],
    &[
        "window: { fixed: 60s }",
        "window: { sliding: 60s }",
        "window: { sliding: 61s }",
        "window: { calendar: day }",
        "window: { calendar: day, timezone: Europe/Berlin }",
        "window: { calendar: month }",
        "window: { calendar: month, anchor_day: 2 }",
        "algorithm: token_bucket, refill: { every: 60s }",
        "algorithm: leaky_bucket, refill: { every: 60s }",
        "algorithm: token_bucket, refill: { every: 61s }",
    ],
];

impl Parts {
    fn text(&self, rest: &str) -> String {
        let [policy, attachments, name, matches, meter, per, window] =
            std::array::from_fn(|part| CHOICES[part][self.0[part]]);
        format!(
            "name: {policy}\nmatch: {{ {matches} }}\n{attachments}\nlimits: [{{ name: {name}, meter: \
             {meter}, per: [{per}], {window}, from: decision, {rest} }}]\n"
        )
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    any::<[prop::sample::Index; 7]>().prop_map(|indexes| {
        Parts(std::array::from_fn(|part| {
            indexes[part].index(CHOICES[part].len())
        }))
    })
}

proptest! {
    // Each case compares some thirty policies with one another.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_limits_share_counters_only_if_all_that_identifies_them_is_equal(
        all in prop::collection::vec(parts(), 2..5),
        change in 0..7_usize,
    ) {
        let mut seen: HashMap<LimitId, Parts> = HashMap::new();
        let changed = all.iter().flat_map(|parts| {
            // Neighbours, too: the same but for one part.
            (0..CHOICES[change].len()).map(|choice| {
                let mut parts = parts.clone();
                parts.0[change] = choice;
                parts
            })
        });
        for parts in all.iter().cloned().chain(changed) {
            let id = one(&parts.text("limit: 5"));
            let known = seen.entry(id).or_insert_with(|| parts.clone());
            prop_assert_eq!(known.text("limit: 5"), parts.text("limit: 5"));
        }
    }

    #[test]
    fn raising_lowering_or_shadowing_a_limit_keeps_its_counters(
        parts in parts(),
        limit in 1..1_000_000_i64,
        rest in prop_oneof![
            prop::strategy::Just(""),
            prop::strategy::Just(", enforce: shadow"),
            prop::strategy::Just(", missing_key: deny"),
            prop::strategy::Just(", description: other"),
        ],
    ) {
        let before = one(&parts.text("limit: 5"));
        prop_assert_eq!(one(&parts.text(&format!("limit: {limit}{rest}"))), before);
    }

    #[test]
    fn editing_one_limit_resets_no_other(one in parts(), other in parts(), edited in parts()) {
        let limit = |parts: &Parts, name: &str| {
            let text = parts.text("limit: 5");
            let limits = text.split_once("limits: [").unwrap().1.trim_end().trim_end_matches(']').to_owned();
            limits.replacen(&format!("name: {}", CHOICES[2][parts.0[2]]), &format!("name: {name}"), 1)
        };
        let both = |second: &Parts| {
            format!("name: p\nlimits: [{}, {}]\n", limit(&one, "first"), limit(second, "second"))
        };
        let [before, after] = [both(&other), both(&edited)].map(|text| ids(&text));
        prop_assert_eq!(before[0], after[0]);
        prop_assert!(before[0] != before[1] && after[0] != after[1], "two names, two counters");
    }
}

#[test]
fn each_attachment_counts_for_itself() {
    let text = "name: p\nattachments:\n  - { name: a, match: { provider: x } }\n  - { name: b, match: { app: y } }\n\
                limits: [{ name: l, meter: requests, limit: 5, window: { fixed: 60s } }]\n";
    let ids = ids(text);
    assert_eq!(ids.len(), 2, "one limit at two places");
    assert_ne!(ids[0], ids[1], "counters of their own");
    assert_eq!(policies(text).len(), 1, "one policy");
}
