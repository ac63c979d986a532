//! Tests of LiteLLM's payloads: captured ones against LiteLLM's own costs, golden cases, any bytes.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use domain::event::Outcome;
use domain::meter::Meter;
use domain::price::{PriceBook, PriceFile};
use domain::reject::Reason;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use serde_json::Value as Json;

use super::{Decoded, Decoder, Found, assert_cases, assert_golden, decode_all, decoder, mutate};
use super::{OF_STRICT_FORMATS, assert_reached};
use crate::source_config::{Format, SourceConfig};

const LOGGED: &str = include_str!("../../../../testdata/litellm/standard_logging.ndjson");
const DECODED: &str = include_str!("../../../../testdata/litellm/decoded.ndjson");
const CASES: &str = include_str!("../../../../testdata/litellm/cases.ndjson");
const MAP: &str = include_str!("../../../../testdata/prices/litellm.json");

static TEAMS: LazyLock<Decoder> = LazyLock::new(|| {
    decoder(&SourceConfig {
        app: Some("request_tags.0".to_owned()),
        user: Some("end_user".to_owned()),
        ..SourceConfig::new("usage.litellm", Format::Litellm)
    })
});

#[test]
fn captured_payloads_decode_as_the_golden_file_says() {
    assert_golden(&TEAMS, LOGGED.lines(), DECODED);
}

#[test]
fn golden_cases_decode_as_written() {
    assert_cases(CASES);
}

/// Prices one payload by a book: in 10⁻¹⁸ dollars; `None` where it has no rate.
fn cost(payload: &str, book: &PriceBook) -> Option<i128> {
    let mut cost = None;
    TEAMS.decode(Some(payload.as_bytes()), &mut |_, _, decoded| {
        let Decoded::Event(event) = decoded else {
            panic!("{decoded:?}")
        };
        let dimensions = &event.dimensions;
        let answered = event.answered_model.as_ref();
        let priced = book.price_model(dimensions.provider.as_ref(), answered, &dimensions.model);
        let input = u64::try_from(event.quantities.input_tokens()).unwrap();
        let (_, rate_set) = priced.rate_set(event.start, input);
        let priced = rate_set.price(&event.quantities).unwrap();
        cost = (!priced.is_unpriced).then(|| priced.amount.units());
    });
    cost
}

/// Reads a float's decimal text as 10⁻¹⁸, without a float.
fn units_of(number: &str) -> i128 {
    let (mantissa, exponent) = number.split_once('e').unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().unwrap();
    let scale: i32 = exponent.parse::<i32>().unwrap() + 18;
    let places = scale - i32::try_from(fraction.len()).unwrap();
    let power = 10_i128.pow(places.unsigned_abs());
    if places >= 0 {
        digits * power
    } else {
        digits / power
    }
}

#[test]
fn costs_equal_litellms_own_to_a_billionth_of_a_dollar() {
    let shipped = PriceBook::shipped();
    let map = PriceFile::read("litellm.json", MAP).unwrap();
    let imported = shipped.with(&map).unwrap();
    let alone = PriceBook::default().with(&map).unwrap();
    for book in [shipped, imported, alone] {
        assert_costs_equal(&book);
    }
}

fn assert_costs_equal(book: &PriceBook) {
    let (mut compared, mut unpriced) = (0, 0);
    for payload in LOGGED.lines() {
        let logged: Json = serde_json::from_str(payload).unwrap();
        let Some(ours) = cost(payload, book) else {
            assert_eq!(logged["model_group"], "in-house-llama", "{payload}");
            unpriced += 1;
            continue;
        };
        let theirs = units_of(&logged["response_cost"].to_string());
        let difference = (ours - theirs).abs();
        assert!(
            difference <= 1_000_000_000,
            "{ours} and {theirs}: {payload}"
        );
        compared += 1;
    }
    assert_eq!(
        (compared, unpriced),
        (81, 19),
        "every payload is one or the other"
    );
}

#[test]
fn what_litellm_answered_itself_is_a_request_without_tokens() {
    let hit = LOGGED.lines().next().unwrap();
    let hit = hit.replacen("\"cache_hit\":null", "\"cache_hit\":true", 1);
    let mut found = None;
    TEAMS.decode(Some(hit.as_bytes()), &mut |_, _, decoded| {
        if let Decoded::Event(event) = decoded {
            found = Some((event.quantities, event.outcome));
        }
    });
    let (quantities, outcome) = found.expect("an event");
    assert_eq!(outcome, Outcome::Succeeded);
    for (meter, quantity) in quantities.iter() {
        assert_eq!(quantity, u64::from(meter == Meter::Requests), "{meter}");
    }
}

/// Decodes a payload of these own counts and usage objects: its quantities' input and output tokens.
fn counted(own: &str, objects: &str) -> Result<(u128, u128), String> {
    let payload = format!(
        r#"{{"status":"success","model":"m","startTime":1.5,{own},
        "id":"i","litellm_call_id":"c",{objects}}}"#
    );
    let mut found = None;
    TEAMS.decode(Some(payload.as_bytes()), &mut |_, _, decoded| {
        found = Some(match decoded {
            Decoded::Event(event) => Ok((
                event.quantities.input_tokens(),
                event.quantities.output_tokens(),
            )),
            Decoded::Rejected(rejection) => Err(rejection.to_string()),
            Decoded::Ignored(_) => panic!("{payload} is ignored"),
        });
    });
    found.expect("an outcome")
}

#[test]
fn a_payloads_own_counts_agree_with_its_usage_object_or_it_is_rejected() {
    let object = r#""metadata":{"usage_object":{"prompt_tokens":7,"completion_tokens":3}}"#;
    for own in [
        r#""prompt_tokens":7,"completion_tokens":3,"total_tokens":10"#,
        r#""prompt_tokens":0,"completion_tokens":0,"total_tokens":0"#,
        r#""prompt_tokens":null"#,
    ] {
        assert_eq!(counted(own, object), Ok((7, 3)), "{own}");
    }
    for (field, own) in [
        ("prompt_tokens", r#""prompt_tokens":8"#),
        ("completion_tokens", r#""completion_tokens":2"#),
        ("total_tokens", r#""prompt_tokens":7,"total_tokens":11"#),
    ] {
        let found = counted(own, object).unwrap_err();
        assert!(
            found.contains("inconsistent") && found.contains(field),
            "{found}"
        );
    }
}

#[test]
fn a_usage_object_of_zeros_says_nothing() {
    let zeros = r#""metadata":{"usage_object":{"prompt_tokens":0,"completion_tokens":0,
        "total_tokens":0,"prompt_tokens_details":{"cached_tokens":0}}}"#;
    let next = format!(r#"{zeros},"response":{{"usage":{{"input_tokens":7,"output_tokens":3}}}}"#);
    let own = r#""prompt_tokens":7,"completion_tokens":3"#;
    assert_eq!(counted(own, zeros), Ok((7, 3)), "its own counts");
    assert_eq!(counted(own, &next), Ok((7, 3)), "the next object's");
    assert_eq!(counted(r#""call_type":"x""#, &next), Ok((7, 3)));
    assert_eq!(counted(r#""call_type":"x""#, zeros), Ok((0, 0)));
    let parts = zeros.replace(r#"cached_tokens":0"#, r#"cached_tokens":5"#);
    assert!(counted(own, &parts).is_err(), "parts without their whole");
}

#[test]
fn spoilt_payloads_reach_every_reason_of_the_decoder_and_conserve_tokens() {
    let mut mutator = mutate::Mutator::of(&mutate::LITELLM, 1, LOGGED.lines());
    let mut reached = BTreeSet::new();
    for _ in 0..mutate::Mutation::ALL.len() * 200 {
        let message = mutator.next_message();
        reached.extend(decode_all(&TEAMS, message.payload.as_deref()));
    }
    let others: Vec<Reason> = OF_STRICT_FORMATS
        .into_iter()
        .filter(|reason| *reason != Reason::UnknownValue)
        .collect();
    assert_reached(&reached, &others);
    assert!(reached.contains(&Found::Ignored), "nothing is ignored");
    for outcome in [
        Outcome::Succeeded,
        Outcome::Refused,
        Outcome::Failed,
        Outcome::Aborted,
    ] {
        let is_reached = |found: &Found| matches!(found, Found::Event(of, ..) if *of == outcome);
        assert!(
            reached.iter().any(is_reached),
            "{outcome:?} is never reached"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_bytes_give_at_least_one_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&TEAMS, Some(&bytes));
    }

    #[test]
    fn counts_are_split_without_loss_or_rejected(
        [input, output, read, write, hour, audio, reasoning, voice] in any::<[u8; 8]>(),
        total in proptest::option::of(0_u64..600),
    ) {
        let counts = [input, output, read, write, hour, audio, reasoning, voice].map(u64::from);
        let [input, output, read, write, hour, audio, reasoning, voice] = counts;
        let total_text = total.map_or("null".to_owned(), |total| total.to_string());
        let payload = format!(
            r#"{{"status":"success","model":"m","startTime":1.5,"metadata":{{"usage_object":{{
            "prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{total_text},
            "prompt_tokens_details":{{"cached_tokens":{read},"audio_tokens":{audio},
            "cache_creation_tokens":{write},
            "cache_creation_token_details":{{"ephemeral_1h_input_tokens":{hour}}}}},
            "completion_tokens_details":{{"reasoning_tokens":{reasoning},"audio_tokens":{voice}}}}}}}}}"#
        );
        let is_sound = read + write + audio <= input && hour <= write
            && reasoning + voice <= output && total.is_none_or(|total| total == input + output);
        let mut sums = None;
        TEAMS.decode(Some(payload.as_bytes()), &mut |_, _, decoded| {
            if let Decoded::Event(event) = decoded {
                let quantities = event.quantities;
                let get = |meter| quantities.get(meter);
                sums = Some((
                    quantities.input_tokens(),
                    quantities.output_tokens(),
                    get(Meter::InputCacheReadTokens),
                    get(Meter::InputCacheWriteTokens) + get(Meter::InputCacheWrite1hTokens),
                ));
            }
        });
        let expected = is_sound.then_some((u128::from(input), u128::from(output), read, write));
        prop_assert_eq!(sums, expected);
    }
}
