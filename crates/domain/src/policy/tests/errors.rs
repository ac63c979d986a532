//! What is wrong with a file is told with its place and its cure, all of it at once.

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_oneof, proptest};

use super::{errors, policies};
use crate::policy::{compile, read};

/// Wrong keys of one limit that begins in line 3 at column 5, and what is told.
const LIMITS: &[(&str, &str)] = &[
    (
        "meter: requests, limit: 5, window: { calendar: dya }",
        "3:63: `limits[0].window.calendar` is \"dya\" but must be one of `minute`, `hour`, `day`, \
         `week`, `month`, `year`; the nearest is `day`",
    ),
    (
        "meter: request, limit: 5, window: { calendar: day }",
        "3:16: `limits[0].meter` is \"request\", which is no meter; the nearest is `requests`",
    ),
    (
        "meter: cost, limit: 25.00, window: { calendar: day }",
        "3:36: `limits[0].limit` is a number with a fraction but must be a whole number, or a text; \
         put it in quotes: \"25.00\"",
    ),
    (
        "meter: cost, limit: \"25,00\", window: { calendar: day }",
        "3:29: `limits[0].limit` is \"25,00\", which is not a decimal number; write an amount such as \
         \"25.00\"",
    ),
    (
        "meter: requests, limit: \"5\", window: { calendar: day }",
        "3:33: `limits[0].limit` is \"5\", but requests is counted in whole units; write a whole \
         number without quotes",
    ),
    (
        "meter: requests, limit: -5, window: { calendar: day }",
        "3:33: `limits[0].limit` is -5, but must not be below 0",
    ),
    (
        "meter: requests, limit: 99999999999999999999, window: { calendar: day }",
        "3:40: `limits[0].limit` is 99999999999999999999 but must be a whole number in decimal digits \
         of at most 64 bits",
    ),
    (
        "meter: requests, limit: 5",
        "3:5: `limits[0].window` is missing; add, say, window: { calendar: day } or { sliding: 60s }",
    ),
    (
        "meter: requests, window: { calendar: day }",
        "3:5: `limits[0].limit` is missing; add it as a whole number, or a text",
    ),
    (
        "meter: requests, limit: 5, window: {}",
        "3:43: `limits[0].window` says nothing; write exactly one of `calendar`, `fixed`, `sliding`",
    ),
    (
        "meter: requests, limit: 5, window: { calendar: day, sliding: 60s }",
        "3:43: `limits[0].window` has both `calendar` and `sliding`; write exactly one of `calendar`, \
         `fixed`, `sliding`",
    ),
    (
        "meter: requests, limit: 5, window:",
        "3:49: `limits[0].window` is empty but must be a table, or be removed",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60 }",
        "3:62: `limits[0].window.sliding` is a whole number but must be a text with a unit; write, \
         say, 60s",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60sec }",
        "3:53: `limits[0].window.sliding` is \"60sec\", which is no span of time; write a whole number \
         and ms, s, m, h or d, such as 60s",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 100ms }",
        "3:53: `limits[0].window.sliding` is 100ms, but a window has from 1s to 3660d",
    ),
    (
        "meter: requests, limit: 5, window: { calendar: day, timezone: Europe/Berln }",
        "3:68: `limits[0].window.timezone` is wrong: time zone \"Europe/Berln\" is unknown; the \
         nearest name is Europe/Berlin",
    ),
    (
        "meter: requests, limit: 5, window: { calendar: day, anchor_day: 3 }",
        "3:68: `limits[0].window.anchor_day` belongs to weeks, months and years; remove it",
    ),
    (
        "meter: requests, limit: 5, window: { calendar: week, anchor_day: 8 }",
        "3:69: `limits[0].window.anchor_day` is beyond 7; a week begins on 1 (Monday) to 7 (Sunday)",
    ),
    (
        "meter: requests, limit: 5, window: { calendar: month, anchor_day: 32 }",
        "3:82: `limits[0].window.anchor_day` is 32 but must be a whole number from 1 to 31",
    ),
    (
        "meter: requests, limit: 5, window: { calendar: year, anchor_month: 2, anchor_day: 30 }",
        "3:86: `limits[0].window.anchor_day` is wrong: February never has a day 30",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s, timezone: UTC }",
        "3:67: `limits[0].window.timezone` belongs to calendar windows; remove it",
    ),
    (
        "meter: total_tokens, limit: 5, window: { sliding: 5s }",
        "3:47: `limits[0].window` counts from the log, as tokens and cost do where `from` is not \
         written, where a window has at least 10s; write a longer one, or from: decision",
    ),
    (
        "meter: total_tokens, limit: 5, algorithm: token_bucket, refill: { every: 1s }",
        "3:5: `limits[0]` counts from the log, as tokens and cost do where `from` is not written, \
         which has no buckets; write from: decision",
    ),
    (
        "meter: total_tokens, limit: 5, window: { sliding: 60s }, per: [{ header: x-team }]",
        "3:5: `limits[0]` counts from the log, as tokens and cost do where `from` is not written, but \
         reads headers, which logged usage does not carry; count by tenant, app, user, session, \
         model, provider or route, or write from: decision",
    ),
    (
        "meter: { cel: \"size(path)\" }, limit: 5, window: { sliding: 60s }, from: log",
        "3:5: `limits[0]` counts from the log, but reads path, which logged usage does not carry; \
         count by tenant, app, user, session, model, provider or route, or write from: decision",
    ),
    (
        "meter: { cel: \"total_token * 2\" }, limit: 5, window: { sliding: 60s }",
        "3:25: `limits[0].meter.cel` is no expression: at its character 1, there is no \
         `total_token`; the nearest is `total_tokens`",
    ),
    (
        "meter: { cel: \"app\" }, limit: 5, window: { sliding: 60s }",
        "3:25: `limits[0].meter.cel` is no expression: at its character 1, the expression gives a \
         text but must give a whole number",
    ),
    (
        "meter: requests, limit: 5, algorithm: token_bucket, window: { sliding: 60s }",
        "3:5: `limits[0].refill` is missing; add, say, refill: { every: 30s, amount: 50 }\n\
         3:68: `limits[0].window` does not belong to a bucket, whose pace is `refill`; remove it",
    ),
    (
        "meter: requests, limit: 5, algorithm: token_bucket, refill: { every: 9s, amount: 7 }, \
         capacity: 9",
        "3:33: `limits[0].limit` says neither what `refill` brings nor the `capacity`; make it one of \
         them",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s }, capacity: 9",
        "3:69: `limits[0].capacity` belongs to buckets; remove it, or write algorithm: token_bucket",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s }, enforce: hard",
        "3:69: `limits[0].enforce` is hard, but hard limits by lease come in a later version; use \
         soft",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s }, unpriced_rate: \"1\"",
        "3:69: `limits[0].unpriced_rate` has a meaning for `meter: cost` only; remove it",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s }, per: [app, apps]",
        "3:80: `limits[0].per[1]` is \"apps\" but must be one of `tenant`, `app`, `user`, `session`, \
         `model`, `provider`, `route`; the nearest is `app`",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s }, per: [app, app]",
        "3:80: `limits[0].per[1]` is written twice; remove one",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s }, per: app",
        "3:74: `limits[0].per` is a text but must be a list",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s }, per: [{ header: x, constant: y }]",
        "3:75: `limits[0].per[0]` has both `header` and `constant`; write exactly one of `header`, \
         `constant`, `cel`",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s }, per: [{ header: \"x y\" }]",
        "3:77: `limits[0].per[0].header` is \"x y\", which is no name of a header; write, say, x-team",
    ),
    (
        "meter: requests, limit: 5, window: { sliding: 60s }, missing_key: drop",
        "3:82: `limits[0].missing_key` is \"drop\" but must be one of `shared`, `skip`, `deny`; the \
         nearest is `skip`",
    ),
];

/// Wrong files, and what is told.
const FILES: &[(&str, &str)] = &[
    ("", ""),
    ("# only a comment\n---\n", ""),
    ("5", "1:1: is a whole number but must be a table"),
    (
        "name: a\nlimit: []\nlimits: []\n",
        "2:1: `limit` is no key; the nearest is `limits`: write that, or remove it\n\
         3:1: `limits` is empty; write at least one limit",
    ),
    (
        "name: -a\nlimits:\n  - name: l\n    meter: requests\n    limit: 5\n    window:\n      calender: day\n",
        "1:1: `name` is \"-a\", but a name has 1 to 64 letters, digits, `.`, `_` or `-`, and begins \
         with a letter or a digit\n\
         7:7: `limits[0].window.calender` is no key; the nearest is `calendar`: write that, or remove it",
    ),
    (
        "name: a\nname: b\nlimits: [{name: l, meter: requests, limit: 1, window: {fixed: 1s}}]\n",
        "2:1: the key `name` occurs twice; remove one",
    ),
    ("name: [a\nlimits: 3\n", "2:7: this is no YAML: "),
    (
        "name: !!str a\n",
        "1:7: the tag tag:yaml.org,2002:!str means nothing here; remove it",
    ),
    ("a: &a [*a]\n", "1:8: "),
    (
        "name: a\nmatch: { model: { prefix: a, glob: b }, app: [], host: { regex: \"(\" }, \
         source_address: 10.0.0.0/33, headers: { X-A: b, x-a: c }, cel: \"path\" }\n\
         limits: [{ name: l, meter: requests, limit: 1, window: { fixed: 1s } }]\n",
        "2:10: `match.model` has both `prefix` and `glob`; write exactly one of `exact`, `prefix`, \
         `glob`, `regex`\n\
         2:41: `match.app` is an empty list, which nothing fits; write at least one text\n\
         2:58: `match.host.regex` is no regular expression: unclosed group\n\
         2:72: `match.source_address` is \"10.0.0.0/33\", which is no address and no network; write, \
         say, 10.0.0.0/8\n\
         2:120: `match.headers.x-a` is written twice in different cases; remove one\n\
         2:130: `match.cel` is no expression: at its character 1, the expression gives a text but \
         must give true or false",
    ),
    (
        "name: a\nmatch: { path: { prefix: /v1 } }\n\
         limits: [{ name: l, meter: cost, limit: \"1\", window: { calendar: day } }]\n",
        "3:10: `limits[0]` counts from the log, but the policy matches by match.path, which logged \
         usage does not carry; match by tenant, app, user, session, model, provider or route, or \
         write from: decision",
    ),
    (
        "name: a\non_unavailable: { decide: deny, after: 30 }\nresponse: { status: 200 }\n\
         limits: [{ name: l, meter: requests, limit: 1, window: { fixed: 1s } },\n\
         { name: l, meter: requests, limit: 1, window: { fixed: 1s } }]\n",
        "2:40: `on_unavailable.after` is a whole number but must be a text with a unit; write, say, \
         30s\n\
         3:21: `response.status` is 200 but must be a whole number from 400 to 599\n\
         5:3: `limits[1].name` is the second limit named \"l\"; rename one",
    ),
];

fn check(text: &str, expected: &str) {
    let found = match read("p.yaml", text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    };
    let expected: Vec<_> = expected
        .lines()
        .map(|line| format!("p.yaml:{line}"))
        .collect();
    assert_eq!(found.len(), expected.len(), "{found:#?} of\n{text}");
    for (found, expected) in found.iter().zip(&expected) {
        // What the parser of YAML says in its own words may change with it.
        let is_open = expected.ends_with(": ");
        assert!(
            found == expected || (is_open && found.starts_with(expected.as_str())),
            "{found}\nis not\n{expected}\nof\n{text}"
        );
    }
}

#[test]
fn each_fault_of_a_limit_names_place_and_cure() {
    for (rest, expected) in LIMITS {
        check(
            &format!("name: a\nlimits:\n  - {{ name: l, {rest} }}\n"),
            expected,
        );
    }
}

#[test]
fn all_faults_of_a_file_are_told_at_once() {
    for (text, expected) in FILES {
        check(text, expected);
    }
}

#[test]
fn faults_of_all_documents_are_told() {
    let text = "name: a\nlimits: 3\n---\nname: b\nlimits: 4\n";
    let found = errors(text);
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn policies_of_one_name_are_refused_with_both_places() {
    let limits = "limits: [{ name: l, meter: requests, limit: 1, window: { fixed: 1s } }]\n";
    let text = format!("name: a\n{limits}---\nname: b\n{limits}---\nname: a\n{limits}");
    let refused = compile(policies(&text)).expect_err("two are named a");
    let found: Vec<_> = refused.iter().map(ToString::to_string).collect();
    let expected = "p.yaml:7:1: `name` is \"a\", as is the policy at p.yaml:1; rename one";
    assert_eq!(found, [expected], "both places are named");
}

#[test]
fn bombs_of_aliases_and_depth_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    assert!(errors(&bomb)[0].contains("aliases"), "{:?}", errors(&bomb));
    for (depth, expected) in [(30, "nested deeper"), (100_000, "recursion")] {
        let found = errors(&format!("a: {}", "[".repeat(depth)));
        assert!(found[0].contains(expected), "{found:?} of {depth} levels");
    }
    let long = format!("a: {}", "x".repeat(2 << 20));
    assert!(errors(&long)[0].contains("bytes"), "{:?}", errors(&long));
}

const WORDS: &[&str] = &[
    "name",
    "match",
    "limits",
    "window",
    "calendar",
    "day",
    "per",
    "app",
    "model",
    "prefix",
    "cost",
    "\"25.00\"",
    "meter",
    "limit",
    "60s",
    "sliding",
    "cel",
    "from",
    "log",
    "header",
    "5",
    "-1",
    "1.5",
    "true",
    "~",
    "algorithm",
    "token_bucket",
    "refill",
    "every",
    "on_unavailable",
    "allow",
    "response",
];

fn anything() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => prop::sample::select(WORDS).prop_map(str::to_owned),
        1 => "[ -~\\n\\t]{0,6}",
        1 => any::<char>().prop_map(String::from),
    ];
    let sign = prop::sample::select(
        &[
            ": ", "\n", "\n  ", "\n- ", "{", "}", "[", "]", ", ", "&a ", "*a ", "---\n",
        ][..],
    );
    let piece = prop_oneof![word, sign.prop_map(str::to_owned)];
    prop_oneof![
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat()),
        tree().prop_map(|tree| format!("name: a\nlimits: {tree}\n")),
    ]
}

/// YAML that is well-formed, in the language's words, and rarely right.
fn tree() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(WORDS).prop_map(str::to_owned),
        Just("x".to_owned())
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let key = prop::sample::select(WORDS);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|nodes| format!("[{}]", nodes.join(", "))),
            prop::collection::vec((key, inner), 0..5).prop_map(|entries| {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, node)| format!("{key}: {node}"))
                    .collect();
                format!("{{{}}}", entries.join(", "))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic_and_each_refusal_has_a_place(text in anything()) {
        // To YAML a carriage return alone ends a line, too.
        let lines = text.split(['\n', '\r']).count();
        if let Err(errors) = read("p.yaml", &text) {
            prop_assert!(!errors.is_empty(), "refused without a reason");
            for error in errors {
                prop_assert!(error.line >= 1 && error.column >= 1, "{}", error);
                prop_assert!(error.line <= lines + 1, "{}", error);
                prop_assert!(!error.problem.is_empty(), "{}", error);
            }
        }
    }
}
