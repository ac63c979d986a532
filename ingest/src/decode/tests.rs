//! Tests of the decoders: captured lines against the upstream's bill, golden cases, any bytes.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use domain::event::{IdentitySecret, Outcome, Provenance, UsageEvent};
use domain::ids::AppId;
use domain::meter::{Meter, Quantities};
use domain::price::PriceBook;
use domain::reject::Reason;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use serde_json::{Value as Json, json};

use super::{Decoded, Decoder, Ignored};
use crate::headers::Headers;
use crate::source_config::{Format, SourceConfig};

mod auto;
mod litellm;
mod tollbook;

const ACCESS: &str = include_str!("../../../testdata/envoy-ai-gateway/access.ndjson");
const BILLED: &str = include_str!("../../../testdata/envoy-ai-gateway/billed.ndjson");

fn captured_source() -> SourceConfig {
    SourceConfig {
        app: Some("x-tenant-id".to_owned()),
        user: Some("x-user-id".to_owned()),
        ..SourceConfig::new("usage.envoy", Format::EnvoyAiGateway)
    }
}

fn decoder(config: &SourceConfig) -> Decoder {
    let secret = IdentitySecret::from_bytes([1; 32]);
    Decoder::new(config, Arc::new(PriceBook::shipped()), secret).expect("a valid configuration")
}

/// Returns the quantities of the one event in a line.
fn quantities(decoder: &Decoder, line: &str) -> (Quantities, Outcome, Provenance) {
    let mut found = None;
    decoder.decode(Some(line.as_bytes()), &mut |_, _, decoded| match decoded {
        Decoded::Event(event) => {
            found = Some((event.quantities, event.outcome, event.provenance));
        }
        other => panic!("{other:?}"),
    });
    found.expect("one event")
}

/// Says, from the provider's own usage object, what each meter must hold.
fn billed_meters(bill: &Json) -> Vec<(Meter, u64)> {
    let usage = &bill["usage"];
    let count = |pointer: &str| usage.pointer(pointer).and_then(Json::as_u64).unwrap_or(0);
    match bill["provider"].as_str() {
        Some("openai") => vec![
            (
                Meter::InputUncachedTokens,
                count("/prompt_tokens") - count("/prompt_tokens_details/cached_tokens"),
            ),
            (
                Meter::InputCacheReadTokens,
                count("/prompt_tokens_details/cached_tokens"),
            ),
            (Meter::InputCacheWriteTokens, 0),
            (
                Meter::OutputTextTokens,
                count("/completion_tokens") - count("/completion_tokens_details/reasoning_tokens"),
            ),
            (
                Meter::OutputReasoningTokens,
                count("/completion_tokens_details/reasoning_tokens"),
            ),
        ],
        Some("anthropic") => vec![
            (Meter::InputUncachedTokens, count("/input_tokens")),
            (
                Meter::InputCacheReadTokens,
                count("/cache_read_input_tokens"),
            ),
            (
                Meter::InputCacheWriteTokens,
                count("/cache_creation_input_tokens"),
            ),
            (Meter::OutputTextTokens, count("/output_tokens")),
            (Meter::OutputReasoningTokens, 0),
        ],
        provider => panic!("a bill of {provider:?}"),
    }
}

#[test]
fn captured_lines_have_the_tokens_that_the_upstream_billed() {
    let decoder = decoder(&captured_source());
    let mut compared = 0;
    for (line, bill) in ACCESS.lines().zip(BILLED.lines()) {
        let bill: Json = serde_json::from_str(bill).expect("a bill");
        let (quantities, outcome, provenance) = quantities(&decoder, line);
        assert_eq!(quantities.get(Meter::Requests), 1, "{line}");
        if bill["billed"] == Json::Bool(true) {
            for (meter, billed) in billed_meters(&bill) {
                assert_eq!(quantities.get(meter), billed, "{meter} of {line}");
            }
            let others = [Meter::InputCacheWrite1hTokens, Meter::InputAudioTokens];
            assert!(
                others.iter().all(|meter| quantities.get(*meter) == 0),
                "{line}"
            );
            assert_eq!(
                (outcome, provenance),
                (Outcome::Succeeded, Provenance::Reported),
                "{line}"
            );
        } else {
            assert_eq!(
                quantities.input_tokens() + quantities.output_tokens(),
                0,
                "{line}"
            );
            assert_ne!(outcome, Outcome::Succeeded, "{line}");
            assert_eq!(provenance, Provenance::Missing, "{line}");
        }
        compared += 1;
    }
    assert_eq!(
        (compared, BILLED.lines().count()),
        (1_000, 1_000),
        "all lines were compared"
    );
}

#[expect(
    unreachable_pub,
    reason = "the suites, whose file it is, use it from other modules"
)]
#[path = "../../../tests/src/mutate.rs"]
mod mutate;

/// What one event decoded to, without what it borrows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Event(Outcome, Provenance, bool),
    Ignored,
    Rejected(Reason),
}

fn decode_all(decoder: &Decoder, payload: Option<&[u8]>) -> Vec<Found> {
    let mut found = Vec::new();
    decoder.decode(payload, &mut |index, bytes, decoded| {
        assert_eq!(
            usize::try_from(index),
            Ok(found.len()),
            "indexes ascend by one"
        );
        assert_eq!(
            bytes,
            bytes.trim_ascii(),
            "the bytes of an event are trimmed"
        );
        found.push(match decoded {
            Decoded::Event(event) => {
                assert_eq!(
                    event.quantities.get(Meter::Requests),
                    1,
                    "an event is one request"
                );
                let identity = event.identity.expect("log lines are told apart by default");
                assert_eq!(
                    identity.is_of_producer(),
                    event.payload.is_some(),
                    "only a producer's id has a payload beside it"
                );
                assert!(
                    identity.is_of_producer() || identity.start() == event.start,
                    "a log line's identity carries its time"
                );
                let is_attributed = event.dimensions.app != AppId::unattributed();
                Found::Event(event.outcome, event.provenance, is_attributed)
            }
            Decoded::Ignored(Ignored::NoModelRequest) => Found::Ignored,
            Decoded::Rejected(rejection) => {
                assert!(
                    !rejection.detail.is_empty(),
                    "a rejection says what is wrong"
                );
                Found::Rejected(rejection.reason)
            }
        });
    });
    assert!(!found.is_empty(), "every record gives at least one outcome");
    found
}

#[test]
fn spoilt_messages_reach_every_reason_of_a_decoder_and_every_acceptance() {
    let decoder = decoder(&captured_source());
    let mut mutator = mutate::Mutator::new(1, ACCESS.lines());
    let mut reached = BTreeSet::new();
    for _ in 0..mutate::Mutation::ALL.len() * 400 {
        let message = mutator.next_message();
        reached.extend(decode_all(&decoder, message.payload.as_deref()));
    }
    assert_reached(&reached, &OF_STRICT_FORMATS);
    assert!(reached.contains(&Found::Ignored), "nothing is ignored");
    for outcome in [
        Outcome::Succeeded,
        Outcome::Refused,
        Outcome::Failed,
        Outcome::Aborted,
    ] {
        for provenance in [Provenance::Reported, Provenance::Missing] {
            for is_attributed in [true, false] {
                let found = Found::Event(outcome, provenance, is_attributed);
                assert!(reached.contains(&found), "{found:?} is never reached");
            }
        }
    }
}

/// Reasons that formats of the gateways' own do not have.
const OF_STRICT_FORMATS: [Reason; 4] = [
    Reason::UnknownValue,
    Reason::UnknownField,
    Reason::UnknownMeter,
    Reason::UnknownShape,
];

/// Panics unless every reason was reached but these, and those that are found later: by the age of
/// an event and by its amount reject those who know its record and its price.
fn assert_reached(reached: &BTreeSet<Found>, others: &[Reason]) {
    let later = [
        Reason::TooOld,
        Reason::TooFarAhead,
        Reason::BelowFloor,
        Reason::Overflow,
    ];
    let missing: Vec<Reason> = Reason::ALL
        .into_iter()
        .filter(|reason| !later.contains(reason) && !others.contains(reason))
        .filter(|reason| !reached.contains(&Found::Rejected(*reason)))
        .collect();
    assert!(missing.is_empty(), "never reached: {missing:?}");
}

static CAPTURED: LazyLock<Decoder> = LazyLock::new(|| decoder(&captured_source()));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_give_at_least_one_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&CAPTURED, Some(&bytes));
    }

    #[test]
    fn any_text_of_json_characters_gives_at_least_one_outcome(
        text in r#"[\[\]{}",:\\ulnrtefas0-9. \n+-]{0,80}"#,
    ) {
        decode_all(&CAPTURED, Some(text.as_bytes()));
    }

    #[test]
    fn a_message_decodes_alike_every_time(seed in any::<u64>()) {
        let mut mutator = mutate::Mutator::new(seed, ACCESS.lines().take(20));
        let message = mutator.next_message();
        let payload = message.payload.as_deref();
        prop_assert_eq!(decode_all(&CAPTURED, payload), decode_all(&CAPTURED, payload));
    }
}

/// Hand-made cases, one a line: a source's settings, a payload, and what it must decode to.
const CASES: &str = include_str!("../../../testdata/envoy-ai-gateway/cases.ndjson");

/// The captured lines decoded, line for line.
const DECODED: &str = include_str!("../../../testdata/envoy-ai-gateway/decoded.ndjson");

/// Writes what each event of a record decoded to; keys in alphabetical order, absent ones left out.
fn outcomes(decoder: &Decoder, headers: &Headers, payload: Option<&str>) -> Json {
    let mut outcomes = Vec::new();
    decoder.decode_record(headers, payload.map(str::as_bytes), &mut |_, _, decoded| {
        outcomes.push(match decoded {
            Decoded::Event(event) => event_as_json(&event),
            Decoded::Ignored(Ignored::NoModelRequest) => json!({"ignored": "no_model_request"}),
            Decoded::Rejected(rejection) => json!({"rejected": rejection.to_string()}),
        });
    });
    Json::Array(outcomes)
}

fn event_as_json(event: &UsageEvent<'_>) -> Json {
    let dimensions = &event.dimensions;
    let mut written = json!({
        "app": dimensions.app.as_str(),
        "tenant": dimensions.tenant.as_str(),
        "model": dimensions.model.as_str(),
        "start": event.start.to_string(),
        "outcome": format!("{:?}", event.outcome),
        "provenance": format!("{:?}", event.provenance),
    });
    for (meter, quantity) in event
        .quantities
        .iter()
        .filter(|(_, quantity)| *quantity > 0)
    {
        written[meter.name()] = json!(quantity);
    }
    let identity = event
        .identity
        .map(|identity| format!("{:032x}", identity.to_bits()));
    for (key, text) in [
        (
            "user",
            dimensions.user.as_ref().map(|id| id.as_str().to_owned()),
        ),
        (
            "session",
            dimensions.session.as_ref().map(|id| id.as_str().to_owned()),
        ),
        (
            "route",
            dimensions.route.as_ref().map(|id| id.as_str().to_owned()),
        ),
        (
            "provider",
            dimensions
                .provider
                .as_ref()
                .map(|id| id.as_str().to_owned()),
        ),
        (
            "answered",
            event
                .answered_model
                .as_ref()
                .map(|id| id.as_str().to_owned()),
        ),
        ("identity", identity),
        (
            "payload",
            event.payload.map(|payload| format!("{:016x}", payload.0)),
        ),
    ] {
        if let Some(text) = text {
            written[key] = Json::String(text);
        }
    }
    written
}

/// Compares what each payload decodes to with its golden line; prints what was found instead.
fn assert_golden<'l>(decoder: &Decoder, lines: impl Iterator<Item = &'l str>, golden: &str) {
    let mut differences = Vec::new();
    let mut expected = golden.lines();
    for line in lines {
        let found = outcomes(decoder, Headers::NONE, Some(line));
        let golden = expected.next().map(serde_json::from_str::<Json>);
        if golden.is_none_or(|golden| golden.expect("a golden line") != found) {
            differences.push(found.to_string());
        }
    }
    assert!(
        differences.is_empty(),
        "decoded otherwise:\n{}",
        differences.join("\n")
    );
    assert_eq!(expected.next(), None, "a golden line without its payload");
}

/// Checks hand-made cases.
fn assert_cases(cases: &str) {
    let mut differences = Vec::new();
    for case in cases.lines() {
        let case: Json = serde_json::from_str(case).expect("a case");
        let source = serde_json::from_value(case["source"].clone()).expect("a source");
        let headers = case["headers"].as_object();
        let headers: Headers = headers
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap().as_bytes()))
            .collect();
        let found = outcomes(&decoder(&source), &headers, case["payload"].as_str());
        if found != case["expected"] {
            differences.push(format!("{}: {found}", case["case"]));
        }
    }
    assert!(
        differences.is_empty(),
        "decoded otherwise:\n{}",
        differences.join("\n")
    );
}

#[test]
fn captured_lines_decode_as_the_golden_file_says() {
    assert_golden(&CAPTURED, ACCESS.lines(), DECODED);
}

#[test]
fn golden_cases_decode_as_written() {
    assert_cases(CASES);
}
