//! Expressions: faults, guards, meaning, and agreement with another implementation of CEL.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test that goes wrong may panic"
)]

use std::collections::HashMap;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

use super::{Cel, CelError, Purpose, Value};
use crate::meter::{Meter, Quantities};
use crate::request::Request;

fn fault(text: &str, purpose: Purpose) -> String {
    let fault = Cel::compile(text, purpose).expect_err(text);
    format!("{}: {}", fault.at, fault.problem)
}

/// Expressions that are refused, and what is told.
const FAULTS: &[(&str, &str)] = &[
    ("", "1: a value is expected here, not the end"),
    ("app = 'x'", "5: '=' means nothing; write == to compare"),
    ("app & app", "5: '&' means nothing; write &&"),
    ("app == 'x", "8: this text has no closing '"),
    ("app == 'x' model", "12: `model` is not expected here"),
    ("(app == 'x'", "12: `)` is expected here, not the end"),
    ("ap == 'x'", "1: there is no `ap`; the nearest is `app`"),
    ("app == 1", "8: this is a whole number but must be a text"),
    (
        "app",
        "1: the expression gives a text but must give true or false",
    ),
    ("!app", "2: this is a text but must be true or false"),
    ("app - 'x' == ''", "5: `-` does not work on a text"),
    (
        "1.5 > 1",
        "1: numbers are whole here: no fraction and no exponent",
    ),
    (
        "1e3 > 1",
        "1: numbers are whole here: no fraction and no exponent",
    ),
    (
        "1u > 0",
        "1: unsigned numbers are no part of this; leave the `u` out",
    ),
    (
        "9223372036854775808 > 0",
        "1: 9223372036854775808 is no whole number of 64 bits",
    ),
    (
        "r'x' == app",
        "1: raw texts and bytes are no part of this; write a plain text",
    ),
    (
        "'\\q' == app",
        "3: this escape means nothing; write \\\\ for a backslash",
    ),
    (
        "headers == app",
        "1: headers are read one by one: write headers[\"x-name\"]",
    ),
    (
        "headers[app] == ''",
        "9: a header's name must be written as a text in quotes",
    ),
    (
        "app.name == ''",
        "4: only `headers` has something in it: write headers[\"x-name\"]",
    ),
    (
        "app in model",
        "8: behind `in` stands a list, such as [\"a\", \"b\"], or `headers`",
    ),
    ("[1] == [1]", "1: a list can only stand behind `in`"),
    ("{'a': 1} == 1", "1: maps and messages are no part of this"),
    (
        "['a'].exists(x, x == app)",
        "6: `exists` is no part of this: an expression has no loops",
    ),
    (
        "app.startWith('x')",
        "4: there is no function `startWith`; the nearest is `startsWith`",
    ),
    (
        "app.startsWith()",
        "4: `startsWith` is called with another number of values",
    ),
    (
        "app.matches('(')",
        "13: this text is no regular expression: unclosed group",
    ),
    (
        "app.matches('a{1000}{1000}')",
        "13: this text is too large a regular expression",
    ),
    (
        "app.matches(model)",
        "13: the regular expression must be written as a text in quotes",
    ),
    (
        "total_tokens > 1",
        "1: `total_tokens` is known only where a meter is computed",
    ),
    ("has(app)", "1: `has` asks for a header: has(headers.name)"),
];

#[test]
fn each_fault_names_its_character_and_cure() {
    for (text, expected) in FAULTS {
        let found = fault(text, Purpose::Condition);
        assert_eq!(found, *expected, "of {text}");
    }
    let amount = "1: the expression gives true or false but must give a whole number";
    assert_eq!(
        fault("1 < 2", Purpose::Amount),
        amount,
        "an amount is a number"
    );
}

#[test]
fn size_depth_and_length_are_bounded() {
    let deep = format!("{}1{} > 0", "(".repeat(5_000 / 2), ")".repeat(5_000 / 2));
    let cases = [
        ("!".repeat(1_000) + "true", "nested deeper"),
        ("-".repeat(1_000) + "1 > 0", "nested deeper"),
        ("true ? true : ".repeat(200) + "true", "nested deeper"),
        ("[".repeat(1_000), "nested deeper"),
        ("headers[".repeat(400), "nested deeper"),
        ("size(".repeat(400), "nested deeper"),
        ("1 + ".repeat(900) + "1 > 0", "more than 256 parts"),
        ("true || ".repeat(400) + "true", "more than 256 parts"),
        (
            "app == '".to_owned() + &"x".repeat(5_000) + "'",
            "more than 4096",
        ),
        (deep, "bytes"),
    ];
    for (text, expected) in cases {
        let found = fault(&text, Purpose::Condition);
        assert!(found.contains(expected), "{found} of {} bytes", text.len());
    }
}

#[test]
fn an_amount_is_whole_checked_and_never_negative() {
    let mut used = Quantities::default();
    used.set(Meter::InputUncachedTokens, 100);
    used.set(Meter::InputCacheReadTokens, 900);
    used.set(Meter::OutputTextTokens, 10);
    let headers = [("x-weight", "3"), ("x-word", "three")];
    let request = Request {
        path: Some("/v1/batch"),
        headers: Some(&headers),
        ..Request::default()
    };
    let cases = [
        ("total_tokens", Ok(1_010)),
        ("input_tokens + 5 * output_tokens", Ok(1_050)),
        (
            "input_uncached_tokens + input_cache_read_tokens / 10",
            Ok(190),
        ),
        ("path.startsWith('/v1/batch') ? 10 : 1", Ok(10)),
        ("int(headers['X-Weight']) * 2", Ok(6)),
        ("'x-none' in headers ? int(headers['x-none']) : 7", Ok(7)),
        ("int(headers['x-none'])", Err(CelError::NoHeader)),
        ("int(headers['x-word'])", Err(CelError::NotANumber)),
        ("output_tokens - input_tokens", Err(CelError::Negative)),
        ("images in [0, int('x')] ? 1 : 2", Err(CelError::NotANumber)),
        ("images == 0 || int('x') == 1 ? 1 : 2", Ok(1)),
        ("int('x') == 1 || images == 0 ? 1 : 2", Ok(1)),
        (
            "9223372036854775807 + output_tokens",
            Err(CelError::Overflow),
        ),
        (
            "9223372036854775807 * output_tokens",
            Err(CelError::Overflow),
        ),
        ("-(-9223372036854775807 - 1)", Err(CelError::Overflow)),
        ("input_tokens / images", Err(CelError::DivisionByZero)),
        ("input_tokens % images", Err(CelError::DivisionByZero)),
    ];
    for (text, expected) in cases {
        let cel = Cel::compile(text, Purpose::Amount).unwrap();
        assert_eq!(cel.amount(&request, &used), expected, "of {text}");
    }
}

#[test]
fn what_an_expression_reads_is_known_before_it_runs() {
    let cases = [
        ("app == 'x' && model != 'y'", None, false),
        ("app == 'x' || path == '/'", Some("path"), false),
        ("has(headers.x)", Some("headers"), false),
        ("source_address == '::1'", Some("source_address"), false),
        ("total_tokens > 5 && true", None, true),
    ];
    for (text, unlogged, usage) in cases {
        let text = format!("{text} ? 1 : 2");
        let cel = Cel::compile(&text, Purpose::Amount).unwrap();
        assert_eq!(
            (cel.reads_unlogged(), cel.reads_usage()),
            (unlogged, usage),
            "of {text}"
        );
    }
}

const TEXTS: [&str; 5] = ["", "a", "ab", "ä€", "12"];

fn texts(depth: u32) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(&TEXTS[..]).prop_map(|text| format!("'{text}'")),
        prop::sample::select(&["app", "model", "user"][..]).prop_map(str::to_owned),
        prop::sample::select(&["headers['x']", "headers['none']"][..]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(depth, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one} + {other})")),
            inner.prop_map(|one| format!("string({one})")),
            (-5..100_i64).prop_map(|number| format!("string({number})")),
        ]
    })
}

fn wholes() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => (-4..5_i64).prop_map(|number| number.to_string()),
        1 => Just("9223372036854775807".to_owned()),
        1 => Just("0x1f".to_owned()),
        2 => texts(1).prop_map(|text| format!("size({text})")),
        1 => texts(1).prop_map(|text| format!("int({text})")),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let sign = prop::sample::select(&["+", "-", "*", "/", "%"][..]);
        prop_oneof![
            3 => (inner.clone(), sign.clone(), inner.clone()).prop_map(|(one, sign, other)| format!("{one} {sign} {other}")),
            2 => (inner.clone(), sign, inner.clone()).prop_map(|(one, sign, other)| format!("({one}) {sign} ({other})")),
            1 => inner.prop_map(|one| format!("-({one})")),
        ]
    })
}

fn truths() -> impl Strategy<Value = String> {
    let compare = prop::sample::select(&["==", "!=", "<", "<=", ">", ">="][..]);
    let ask = prop::sample::select(&["startsWith", "endsWith", "contains"][..]);
    let leaf = prop_oneof![
        any::<bool>().prop_map(|truth| truth.to_string()),
        (texts(2), compare.clone(), texts(2))
            .prop_map(|(one, sign, other)| format!("{one} {sign} {other}")),
        (wholes(), compare, wholes())
            .prop_map(|(one, sign, other)| format!("{one} {sign} {other}")),
        (texts(1), ask, texts(1)).prop_map(|(one, ask, other)| format!("{one}.{ask}({other})")),
        (wholes(), wholes(), wholes())
            .prop_map(|(one, two, three)| format!("{one} in [{two}, {three}]")),
        texts(1).prop_map(|one| format!("{one} in ['a', app, 'ab']")),
        Just("'x' in headers".to_owned()),
        Just("has(headers.none)".to_owned()),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        let sign = prop::sample::select(&["&&", "||", "==", "!="][..]);
        prop_oneof![
            (inner.clone(), sign.clone(), inner.clone())
                .prop_map(|(one, sign, other)| format!("({one}) {sign} ({other})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(one, two, three)| format!("({one}) ? ({two}) : ({three})")),
            inner.prop_map(|one| format!("!({one})")),
        ]
    })
}

/// What the other implementation says; `None` where it fails.
fn other(text: &str, app: &str) -> Option<String> {
    let program = cel::Program::compile(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let mut context = cel::Context::default();
    let values = [("app", app), ("model", "gpt-4"), ("user", "")];
    for (name, value) in values {
        context.add_variable(name, value).unwrap();
    }
    let headers = HashMap::from([("x".to_owned(), "a".to_owned())]);
    context.add_variable("headers", headers).unwrap();
    let value = match program.execute(&context).ok()? {
        cel::Value::Bool(truth) => truth.to_string(),
        cel::Value::Int(number) => number.to_string(),
        cel::Value::String(text) => text.to_string(),
        other => panic!("{text} gave {other:?}"),
    };
    Some(value)
}

fn ours(text: &str, app: &str) -> Option<String> {
    let cel = Cel::compile(text, Purpose::Key).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
    let headers = [("x", "a")];
    let request = Request {
        app: Some(app),
        model: Some("gpt-4"),
        headers: Some(&headers),
        ..Request::default()
    };
    let value = match cel.value(&request).ok()? {
        Value::Truth(truth) => truth.to_string(),
        Value::Whole(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    };
    Some(value)
}

proptest! {
    #[test]
    fn values_agree_with_another_implementation(
        text in prop_oneof![truths(), wholes(), texts(3)],
        app in prop::sample::select(&["a", "ab", "x"][..]),
    ) {
        prop_assert_eq!(ours(&text, app), other(&text, app), "{}", text);
    }

    #[test]
    fn no_text_makes_compiling_panic(text in "[a-z0-9 .'\"\\\\()\\[\\]{}?:!&|=<>+*/%-]{0,40}") {
        for purpose in [Purpose::Condition, Purpose::Key, Purpose::Amount] {
            if let Err(fault) = Cel::compile(&text, purpose) {
                prop_assert_eq!(fault.at <= text.chars().count() + 1, true, "{:?}", fault);
            }
        }
    }
}
