//! Tests of recognising: golden cases, and that what is recognised decodes as under its own format.

use std::sync::LazyLock;

use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

use super::{ACCESS, Decoder, assert_cases, decode_all, decoder, mutate};
use crate::source_config::{Format, SourceConfig};

const CASES: &str = include_str!("../../../../testdata/auto/cases.ndjson");
const LOGGED: &str = include_str!("../../../../testdata/litellm/standard_logging.ndjson");
const EVENTS: &str = include_str!("../../../../testdata/tollbook/events.ndjson");

fn of(format: Format) -> Decoder {
    decoder(&SourceConfig::new("usage", format))
}

static AUTO: LazyLock<Decoder> = LazyLock::new(|| of(Format::Auto));

#[test]
fn golden_cases_decode_as_written() {
    assert_cases(CASES);
}

#[test]
fn every_captured_message_decodes_as_under_its_own_format() {
    for (format, lines) in [
        (Format::EnvoyAiGateway, ACCESS),
        (Format::Litellm, LOGGED),
        (Format::Tollbook, EVENTS),
    ] {
        let own = of(format);
        for line in lines.lines() {
            let payload = Some(line.as_bytes());
            assert_eq!(
                decode_all(&AUTO, payload),
                decode_all(&own, payload),
                "{line}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_bytes_give_at_least_one_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&AUTO, Some(&bytes));
    }

    #[test]
    fn a_message_decodes_alike_every_time(seed in any::<u64>()) {
        let mut mutator = mutate::Mutator::of(&mutate::TOLLBOOK, seed, EVENTS.lines());
        let message = mutator.next_message();
        let payload = message.payload.as_deref();
        prop_assert_eq!(decode_all(&AUTO, payload), decode_all(&AUTO, payload));
    }
}
