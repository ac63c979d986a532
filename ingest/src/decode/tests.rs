//! Tests of the decoders: captured lines against the upstream's bill, golden cases, any bytes.

use std::sync::Arc;

use domain::event::{Outcome, Provenance};
use domain::meter::{Meter, Quantities};
use domain::price::PriceBook;
use serde_json::Value as Json;

use super::{Decoded, Decoder};
use crate::source_config::{Format, SourceConfig};

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
    Decoder::new(config, Arc::new(PriceBook::shipped())).expect("a valid configuration")
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
