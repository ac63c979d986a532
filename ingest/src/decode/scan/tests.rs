//! The reader of JSON against `serde_json`: what the one accepts, the other accepts.

use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use serde_json::Value as Json;

use super::{DEPTH_MAX, Fault, Layout, Scanner, Span, Value};

/// Says that both readers judge a text alike, but for what only ours refuses.
fn check(text: &str) {
    let theirs = serde_json::from_str::<Json>(text);
    match Scanner::read_value(text) {
        Ok(value) => {
            // Their number may be out of the range of a float, which is no fault of the text.
            if let Err(error) = &theirs {
                assert!(
                    error.to_string().contains("number out of range"),
                    "{text:?}: {error}"
                );
            }
            if let (Value::Text(ours), Ok(Json::String(theirs))) = (value, &theirs) {
                assert_eq!(ours.decode(), theirs.as_str(), "{text:?}");
            }
        }
        Err(Fault::DuplicateKey { .. } | Fault::TooDeep { .. }) => {}
        Err(fault) => assert!(
            theirs.is_err(),
            "{text:?}: {fault:?}, and theirs is {theirs:?}"
        ),
    }
}

#[test]
fn faults_are_told_apart() {
    let syntax = |at, expected| Fault::Syntax { at, expected };
    for (text, fault) in [
        ("", Fault::CutOff),
        ("{", Fault::CutOff),
        ("{\"a\":tru", Fault::CutOff),
        ("{\"a\":1", Fault::CutOff),
        ("\"abc\\u12", Fault::CutOff),
        ("-", Fault::CutOff),
        ("{\"a\":1,}", syntax(7, "a key in quotes")),
        ("{\"a\" 1}", syntax(5, "a colon")),
        ("[1 2]", syntax(3, "a comma or the end")),
        ("[1]x", syntax(3, "nothing more")),
        ("01", syntax(1, "nothing more")),
        ("+1", syntax(0, "a value")),
        ("NaN", syntax(0, "a value")),
        ("1.e5", syntax(2, "a digit")),
        ("\"a\nb\"", syntax(2, "no control character in a string")),
        ("\"\\x\"", syntax(2, "an escape")),
        (
            "\"\\udc00\"",
            syntax(7, "the first half of a surrogate pair before this"),
        ),
        (
            "\"\\ud800x\"",
            syntax(7, "the other half of a surrogate pair"),
        ),
        (
            "{\"a\":1,\"\\u0061\":2}",
            Fault::DuplicateKey {
                key: "a".to_owned(),
            },
        ),
        (
            "[{\"a\":{\"b\":1,\"b\":2}}]",
            Fault::DuplicateKey {
                key: "b".to_owned(),
            },
        ),
    ] {
        assert_eq!(Scanner::read_value(text), Err(fault), "{text:?}");
    }
}

#[test]
fn nesting_is_read_up_to_its_greatest_depth() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(
        Scanner::read_value(&nested(DEPTH_MAX)).is_ok(),
        "the greatest depth is read"
    );
    let deeper = nested(DEPTH_MAX + 1);
    assert_eq!(
        Scanner::read_value(&deeper),
        Err(Fault::TooDeep { at: DEPTH_MAX })
    );
    assert_eq!(
        Scanner::read_value(&nested(100_000)),
        Err(Fault::TooDeep { at: DEPTH_MAX })
    );
}

#[test]
fn a_repeated_key_is_found_among_few_and_among_many() {
    for count in [1, 2, 63, 64, 65, 66, 1_000] {
        let members: Vec<String> = (0..count).map(|each| format!("\"key-{each}\":0")).collect();
        let unique = format!("{{{}}}", members.join(","));
        assert!(Scanner::read_value(&unique).is_ok(), "{count} keys");
        for repeated in [0, count / 2, count - 1] {
            let key = format!("key-{repeated}");
            let twice = format!("{{{},\"{key}\":0}}", members.join(","));
            assert_eq!(
                Scanner::read_value(&twice),
                Err(Fault::DuplicateKey { key })
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn texts_of_json_characters_are_judged_as_by_serde(
        text in r#"[\[\]{}",:\\ultrefasbdD8c0-9.Ee \n+-]{0,24}"#,
    ) {
        check(&text);
    }

    #[test]
    fn strings_are_judged_as_by_serde(text in r#"(\\u[dD][89abcdef][0-9]{2}|\\[bfnrtu"\\/x]|[a-zé😀\x01-\x20]){0,12}"#) {
        check(&format!("\"{text}\""));
    }

    #[test]
    fn numbers_are_judged_as_by_serde(text in "-?[0-9]{0,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?") {
        check(&text);
    }

    #[test]
    fn special_bytes_are_found_wherever_they_stand(
        text in "[a-zA-Zé日😀 !#~\u{7f}]{0,40}",
        special in "[\"\\\\\u{0}-\u{1f}]",
        rest in "[a-z\"]{0,20}",
    ) {
        let whole = format!("{text}{special}{rest}");
        prop_assert_eq!(super::plain_length(whole.as_bytes()), text.len());
        prop_assert!(super::plain_length(text.as_bytes()) == text.len(), "nothing special");
    }
}

/// Reads objects one after the other by one layout, and each by none: both must say the same.
fn check_layout(texts: &[String]) {
    let find = |_, key: &str| "abc".find(key);
    let mut layout = Layout::default();
    for text in texts {
        let mut plain: Vec<(usize, Span)> = Vec::new();
        let read = Scanner::read_object(text, |hash, key, value| {
            plain.extend(find(hash, key).map(|found| (found, value)));
        });
        let mut laid = Vec::new();
        let read_laid = Scanner::read_object_like(text, &mut layout, find, |found, value| {
            laid.push((found, value));
        });
        assert_eq!(read_laid, read, "{text:?} of {texts:?}");
        assert!(read.is_err() || laid == plain, "{text:?} of {texts:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_layout_changes_no_reading(
        templates in proptest::collection::vec("[{] ?(\"[abd]{1,2}\" ?: ?(1|\"x\"|[{]\"a\":1,\"a\":2[}]),? ?){0,4}[}]?", 1..4),
        turns in proptest::collection::vec(0_usize..4, 1..30),
    ) {
        let texts: Vec<String> = turns
            .iter()
            .map(|turn| {
                let template = &templates[turn % templates.len()];
                // Without the comma after the last member most of them are objects.
                template.replace(",}", "}").replace(", }", "}")
            })
            .collect();
        check_layout(&texts);
    }
}

#[test]
fn keys_that_leave_a_layout_are_still_told_twice() {
    let line = |keys: &[&str]| {
        let members: Vec<String> = keys.iter().map(|key| format!("\"{key}\":1")).collect();
        format!("{{{}}}", members.join(","))
    };
    let usual = line(&["a", "b", "c"]);
    let mut texts = vec![usual.clone(); 3];
    texts.push(line(&["a", "b", "a"]));
    texts.push(line(&["a", "b", "c", "b"]));
    texts.extend((0..12).map(|_| line(&["a", "d", "b"])));
    texts.push(line(&["a", "d", "d"]));
    texts.push(line(&["a", "d", "b", "\\u0061"]));
    texts.push(usual);
    check_layout(&texts);
}
