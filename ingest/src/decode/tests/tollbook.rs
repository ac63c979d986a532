//! Tests of our own events: golden cases, both modes alike, the published types, any bytes.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use domain::event::Outcome;
use domain::meter::{METERS, Meter};
use domain::reject::Reason;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value as Json, json};

use super::{Decoded, Decoder, Found, assert_cases, assert_reached, decode_all, decoder};
use super::{mutate, outcomes};
use crate::decode::tollbook::{ATTRIBUTES, DATA_FIELDS, as_structured};
use crate::event_schema::{Event, event_schema};
use crate::headers::Headers;
use crate::source_config::{Format, SourceConfig};

const CASES: &str = include_str!("../../../../testdata/tollbook/cases.ndjson");
const EVENTS: &str = include_str!("../../../../testdata/tollbook/events.ndjson");

static OURS: LazyLock<Decoder> =
    LazyLock::new(|| decoder(&SourceConfig::new("usage", Format::Tollbook)));

#[test]
fn golden_cases_decode_as_written() {
    assert_cases(CASES);
}

#[test]
fn the_decoder_reads_the_fields_that_the_schema_publishes() {
    let schema: Json = serde_json::from_str(&event_schema()).unwrap();
    let names = |node: &Json| -> BTreeSet<String> {
        node["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    };
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut attributes: BTreeSet<String> = of(&ATTRIBUTES);
    attributes.remove("data_base64");
    assert_eq!(names(&schema), attributes);
    assert_eq!(names(&schema["$defs"]["Usage"]), of(&DATA_FIELDS));
    let meters = &schema["$defs"]["EventMeters"];
    assert_eq!(names(meters), of(&Meter::ALL.map(Meter::name)));
    for strict in ["Usage", "EventMeters"] {
        assert_eq!(
            schema["$defs"][strict]["additionalProperties"],
            json!(false)
        );
    }
}

/// Takes an event apart into the headers and the value of binary mode.
fn in_binary_mode(event: &Json) -> (Headers, String) {
    let attributes = event.as_object().unwrap();
    let names: Vec<(String, String)> = attributes
        .iter()
        .filter(|(name, _)| *name != "data")
        .map(|(name, value)| (format!("ce_{name}"), value.as_str().unwrap().to_owned()))
        .collect();
    let headers = names
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    (headers.collect(), event["data"].to_string())
}

#[test]
fn both_modes_are_the_same_event() {
    for line in EVENTS.lines() {
        let event: Json = serde_json::from_str(line).unwrap();
        let (headers, data) = in_binary_mode(&event);
        let structured = outcomes(&OURS, Headers::NONE, Some(line));
        assert_eq!(outcomes(&OURS, &headers, Some(&data)), structured, "{line}");
        let whole = as_structured(&headers, data.as_bytes());
        assert_eq!(
            outcomes(&OURS, Headers::NONE, Some(&whole)),
            structured,
            "what is kept of a binary one: {whole}"
        );
    }
}

#[test]
fn an_event_is_no_envelope_of_what_its_extension_attributes_carry() {
    let auto = decoder(&SourceConfig::new("usage", Format::Auto));
    let mut other: Json = serde_json::from_str(EVENTS.lines().next().unwrap()).unwrap();
    other["id"] = json!("another");
    for name in ["message", "log"] {
        for carried in [other.to_string(), "{\"cut".to_owned(), "[{}]".to_owned()] {
            for line in EVENTS.lines() {
                let mut event: Json = serde_json::from_str(line).unwrap();
                event[name] = json!(carried);
                let (headers, data) = in_binary_mode(&event);
                let plain = outcomes(&OURS, Headers::NONE, Some(line));
                for decoder in [&*OURS, &auto] {
                    let text = event.to_string();
                    assert_eq!(outcomes(decoder, Headers::NONE, Some(&text)), plain);
                    assert_eq!(outcomes(decoder, &headers, Some(&data)), plain);
                }
                event["specversion"] = Json::Null;
                let text = event.to_string();
                for decoder in [&*OURS, &auto] {
                    let found = outcomes(decoder, Headers::NONE, Some(&text)).to_string();
                    assert!(found.contains("specversion"), "{found}: {text}");
                }
            }
        }
    }
}

/// Decodes a record in binary mode, which is rejected, and then what is kept of it.
fn rejected_and_again(
    decoder: &Decoder,
    headers: &[(&str, &[u8])],
    data: &[u8],
) -> (Reason, Vec<Found>, String) {
    let mut rejected = None;
    let headers: Headers = headers.iter().copied().collect();
    decoder.decode_record(
        &headers,
        Some(data),
        &mut |_, kept, decoded| match decoded {
            Decoded::Rejected(rejection) => rejected = Some((rejection.reason, kept.to_vec())),
            other => panic!("{other:?}"),
        },
    );
    let (reason, kept) = rejected.expect("an outcome");
    let again = decode_all(decoder, Some(&kept));
    (reason, again, String::from_utf8(kept).expect("a text"))
}

#[test]
fn what_is_rejected_for_its_encoding_stays_rejected_in_the_form_that_is_kept() {
    let auto = decoder(&SourceConfig::new("usage", Format::Auto));
    let sound: [(&str, &[u8]); 6] = [
        ("ce_specversion", b"1.0"),
        ("ce_type", b"tollbook.usage.v1"),
        ("ce_source", b"gateway"),
        ("ce_id", b"request"),
        ("ce_time", b"2026-11-21T00:00:00Z"),
        ("content-type", b"application/json"),
    ];
    let data = br#"{"model":"m","app":"a"}"#;
    for decoder in [&*OURS, &auto] {
        // A Latin-1 letter, where a replacement character would make a valid id or name.
        let latin = b" {\"model\":\"m\",\"app\":\"caf\xe9\"} ";
        let (reason, again, kept) = rejected_and_again(decoder, &sound, latin);
        assert_eq!(reason, Reason::NotJson);
        assert_eq!(again, [Found::Rejected(Reason::UnknownField)], "{kept}");
        let bytes = "eyJtb2RlbCI6Im0iLCJhcHAiOiJjYWbpIn0=";
        assert!(kept.contains(bytes), "all of the data is kept: {kept}");

        for (place, (name, value)) in sound.iter().enumerate() {
            let broken = [value, b"\xe9".as_slice()].concat();
            let mut headers = sound;
            headers[place].1 = &broken;
            let (reason, again, kept) = rejected_and_again(decoder, &headers, data);
            assert_eq!(reason, Reason::WrongType, "{name}");
            assert_eq!(again, [Found::Rejected(Reason::WrongType)], "{kept}");
        }
    }
}

#[test]
fn an_event_of_more_headers_than_are_kept_is_rejected_and_stays_so() {
    let auto = decoder(&SourceConfig::new("usage", Format::Auto));
    let names: Vec<String> = (0..80)
        .map(|count| format!("ce_extension{count}"))
        .collect();
    let of_event: [(&str, &[u8]); 5] = [
        ("ce_specversion", b"1.0"),
        ("ce_type", b"tollbook.usage.v1"),
        ("ce_source", b"gateway"),
        ("ce_id", b"request"),
        ("ce_time", b"2026-11-21T00:00:00Z"),
    ];
    let extensions = |count: usize| {
        let names = names.iter().take(count);
        names.map(|name| (name.as_str(), b"1".as_slice()))
    };
    let data: &[u8] = br#"{"model":"m","app":"a"}"#;
    let whole = EVENTS.lines().next().unwrap().as_bytes();
    for decoder in [&*OURS, &auto] {
        let most: Headers = of_event.into_iter().chain(extensions(59)).collect();
        let told = outcomes(decoder, &most, Some(r#"{"model":"m","app":"a"}"#));
        assert_eq!(told[0]["app"], "a", "64 headers are read: {told}");
        let first: Vec<_> = of_event.into_iter().chain(extensions(60)).collect();
        let last: Vec<_> = extensions(64).chain(of_event).collect();
        for headers in [first, last] {
            for data in [data, whole] {
                let (reason, again, kept) = rejected_and_again(decoder, &headers, data);
                assert_eq!(reason, Reason::TooLarge);
                assert_eq!(again.len(), 1);
                assert!(matches!(again[..], [Found::Rejected(_)]), "{kept}");
            }
        }
    }
}

#[test]
fn spoilt_events_reach_every_reason_of_the_decoder() {
    let mut mutator = mutate::Mutator::of(&mutate::TOLLBOOK, 1, EVENTS.lines());
    let mut reached = BTreeSet::new();
    for _ in 0..mutate::Mutation::ALL.len() * 400 {
        let message = mutator.next_message();
        reached.extend(decode_all(&OURS, message.payload.as_deref()));
    }
    assert_reached(&reached, &[Reason::UnknownShape]);
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
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_give_at_least_one_outcome(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        header in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        decode_all(&OURS, Some(&bytes));
        let headers = [("ce_specversion", b"1.0".as_slice()), ("ce_id", &header)];
        let mut told = 0;
        OURS.decode_record(&headers.into_iter().collect(), Some(&bytes), &mut |_, _, _| told += 1);
        prop_assert_eq!(told, 1, "binary mode is one event");
    }

    #[test]
    fn what_is_accepted_is_an_event_by_the_published_types(seed in any::<u64>()) {
        let mut mutator = mutate::Mutator::of(&mutate::TOLLBOOK, seed, EVENTS.lines());
        for _ in 0..4 {
            let message = mutator.next_message();
            let payload = message.payload.as_deref();
            OURS.decode(payload, &mut |_, bytes, decoded| {
                if let Decoded::Event(_) = decoded {
                    let typed = serde_json::from_slice::<Event>(bytes);
                    assert!(typed.is_ok(), "{typed:?}: {}", String::from_utf8_lossy(bytes));
                }
            });
        }
    }

    #[test]
    fn meters_are_posted_as_they_are(quantities in any::<[u32; METERS]>()) {
        let mut meters = serde_json::Map::new();
        for (meter, quantity) in Meter::ALL.into_iter().zip(quantities).skip(1) {
            meters.insert(meter.name().to_owned(), json!(quantity));
        }
        let event = json!({
            "specversion": "1.0", "type": "tollbook.usage.v1", "source": "s", "id": "i",
            "time": "2026-11-21T00:00:00Z", "data": {"model": "m", "meters": meters},
        });
        let mut found = None;
        OURS.decode(Some(event.to_string().as_bytes()), &mut |_, _, decoded| {
            if let Decoded::Event(event) = decoded {
                found = Some(*event.quantities.as_array());
            }
        });
        let mut expected = quantities.map(u64::from);
        expected[0] = 1;
        prop_assert_eq!(found, Some(expected));
        prop_assert!(found.is_some());
    }
}
