//! Decode and fold per event, beside a typed parse of the same lines by `serde_json`.
//!
//! Invariant: every line is another event, as in life, of one of 10,000 applications by Zipf's law, so that
//! series and postings outgrow the processor's caches: none is a duplicate. Deliberately absent: the copy
//! out of Kafka's buffers and the rows on their way into Postgres.

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;

use domain::event::{AgeRule, IdentitySecret};
use domain::fold::{BatchFold, Folder};
use domain::hash::HashKey;
use domain::ids::{ChainId, Offset, PartNumber, PartRef, Place};
use domain::price::PriceBook;
use domain::time::UnixMs;
use foldhash::fast::FixedState;
use ingest::decode::{Decoded, Decoder};
use serde::Deserialize;
use serde_json::Value;

use crate::measure::{Contender, measure};

/// 1,000 access-log lines of a real gateway.
const CAPTURED: &str = include_str!("../../testdata/envoy-ai-gateway/access.ndjson");

/// How often each captured line is used, each time with another request id and application.
const COPIES: usize = 100;

/// How many applications there are; the k-th has a share in proportion to 1/k.
const APPS: u64 = 10_000;

/// The source as an operator would write it.
const SOURCE: &str =
    r#"{"topic":"usage","format":"envoy-ai-gateway","app":"x-tenant-id","user":"x-user-id"}"#;

/// The fields that usage is made of; the floor parses these and checks nothing.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    start_time: Option<Cow<'a, str>>,
    response_code: Option<u64>,
    #[serde(borrow, rename = "x-request-id")]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "x-tenant-id")]
    app: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "x-user-id")]
    user: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "gen_ai.request.model")]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "gen_ai.response.model")]
    answered: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "gen_ai.provider.name")]
    provider: Option<Cow<'a, str>>,
    #[serde(borrow)]
    route_name: Option<Cow<'a, str>>,
    #[serde(rename = "gen_ai.usage.input_tokens")]
    input: Option<u64>,
    #[serde(rename = "gen_ai.usage.cached_input_tokens")]
    cached: Option<u64>,
    #[serde(rename = "gen_ai.usage.cache_creation_input_tokens")]
    written: Option<u64>,
    #[serde(rename = "gen_ai.usage.output_tokens")]
    output: Option<u64>,
    #[serde(rename = "gen_ai.usage.reasoning_tokens")]
    reasoning: Option<u64>,
}

/// Measures, and returns a line of figures per contender.
///
/// # Errors
///
/// A captured line is no usage event any more; the text says so.
pub(crate) fn run() -> Result<Vec<Value>, String> {
    let lines = lines();
    let book = Arc::new(PriceBook::shipped());
    let source = serde_json::from_str(SOURCE).map_err(|error| error.to_string())?;
    let secret = IdentitySecret::from_bytes([1; 32]);
    let decoder =
        Decoder::new(&source, Arc::clone(&book), secret).map_err(|error| error.to_string())?;
    let posted = fold(
        &decoder,
        &mut Folder::new(Arc::clone(&book), HashKey::new([1; 4])),
        &lines,
        Posted::Together,
    );
    if usize::try_from(posted) != Ok(lines.len()) {
        return Err(format!(
            "of {} captured lines {posted} were posted",
            lines.len()
        ));
    }
    let mut one_by_one = Folder::new(Arc::clone(&book), HashKey::new([2; 4]));
    let mut folder = Folder::new(book, HashKey::new([3; 4]));
    let mut contenders = [
        Contender {
            name: "decode, price, fold, take ids, close",
            work: Box::new(|| fold(&decoder, &mut folder, &lines, Posted::Together)),
        },
        Contender {
            name: "the same, posted one by one",
            work: Box::new(|| fold(&decoder, &mut one_by_one, &lines, Posted::OneByOne)),
        },
        Contender {
            name: "decode",
            work: Box::new(|| decode(&decoder, &lines)),
        },
        Contender {
            name: "floor: serde_json, typed",
            work: Box::new(|| parse(&lines)),
        },
    ];
    let events = u128::try_from(lines.len()).map_err(|error| error.to_string())?;
    Ok(measure("fold", "ns per event", events, &mut contenders))
}

/// Returns the captured lines, each several times under other request ids of the same length.
fn lines() -> Vec<String> {
    let mut sum = 0;
    // Weights of 40 bits: the last application's still has 27.
    let weights: Vec<u64> = (1..=APPS)
        .map(|rank| {
            sum += (1 << 40) / rank;
            sum
        })
        .collect();
    let random = FixedState::with_seed(0x70_11_b0_0c);
    let copies = (0..COPIES).flat_map(|copy| CAPTURED.lines().map(move |line| (copy, line)));
    let with_ids = copies.map(|(copy, line)| {
        let drawn = random.hash_one((copy, line)) % sum;
        let app = weights.partition_point(|&sum| sum <= drawn);
        let line = with_value(line, "\"x-tenant-id\":", &format!("\"app-{app:05}\""));
        let marker = "\"x-request-id\":\"";
        let Some((before, id)) = line.split_once(marker) else {
            return line;
        };
        let kept: String = id.chars().skip(4).collect();
        format!("{before}{marker}{copy:04}{kept}")
    });
    with_ids.collect()
}

/// Returns a line with another value, which holds no comma, behind a key that is not the last.
fn with_value(line: &str, key: &str, value: &str) -> String {
    let found = line.split_once(key);
    let Some((before, (_, after))) =
        found.and_then(|(before, rest)| Some((before, rest.split_once(',')?)))
    else {
        return line.to_owned();
    };
    format!("{before}{key}{value},{after}")
}

/// How events are posted.
#[derive(Clone, Copy)]
enum Posted {
    /// Many at a time, as the product does.
    Together,
    /// Each by itself.
    OneByOne,
}

/// Folds all lines as one batch and returns how many were posted.
fn fold(decoder: &Decoder, folder: &mut Folder, lines: &[String], posted: Posted) -> u64 {
    let mut batch = BatchFold::default();
    let part = batch.open_part(PartRef {
        chain: ChainId(1),
        number: PartNumber(1),
    });
    let age = AgeRule {
        window_ms: AgeRule::LOG_WINDOW_MS,
        floor: None,
    };
    for (offset, line) in (0..).zip(lines) {
        decoder.decode(Some(line.as_bytes()), &mut |index, _, decoded| {
            let Decoded::Event(event) = decoded else {
                return;
            };
            let place = Place {
                offset: Offset(offset),
                index,
            };
            // The broker's time of the record: here the event's own.
            let record: UnixMs = event.start;
            let folded = age
                .check(event.start, record, decoder.time_field())
                .and_then(|()| match posted {
                    Posted::Together => folder.fold_soon(&mut batch, part, place, &event),
                    Posted::OneByOne => folder.fold(&mut batch, part, place, &event),
                });
            black_box(folded.is_ok());
        });
    }
    folder.post(&mut batch);
    batch.take_ids();
    let closed = batch.close();
    closed.parts.iter().map(|part| part.counts.accepted).sum()
}

/// Decodes all lines and returns how many are events.
fn decode(decoder: &Decoder, lines: &[String]) -> u64 {
    let mut events = 0;
    for line in lines {
        decoder.decode(Some(line.as_bytes()), &mut |_, _, decoded| {
            events += u64::from(matches!(black_box(&decoded), Decoded::Event(_)));
        });
    }
    events
}

/// Parses all lines into the fields that usage is made of and returns a sum over them.
fn parse(lines: &[String]) -> u64 {
    lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Line<'_>>(line).ok())
        .map(|line| total(&line))
        .sum()
}

fn total(line: &Line<'_>) -> u64 {
    let texts = [
        &line.start_time,
        &line.request_id,
        &line.app,
        &line.user,
        &line.model,
        &line.answered,
        &line.provider,
        &line.route_name,
    ];
    let numbers = [
        line.response_code,
        line.input,
        line.cached,
        line.written,
        line.output,
        line.reasoning,
    ];
    let present = texts
        .iter()
        .map(|text| u64::from(black_box(text).is_some()))
        .sum::<u64>();
    numbers
        .iter()
        .flatten()
        .fold(present, |sum, number| sum.wrapping_add(*number))
}
