//! Lists from outside: LiteLLM's map, YAML and JSON, and how lists lie over one another.

use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::ids::{ModelId, ProviderId};
use crate::meter::Meter;
use crate::money::Rate;
use crate::time::{DAY_MS, UnixMs};

/// A small map in LiteLLM's layout: entries of its release 1.106.2, and two made up.
const MAP: &str = include_str!("../../../../testdata/prices/litellm.json");

/// What the map says as a book, in the canonical form.
const MAP_AS_BOOK: &str = include_str!("../../../../testdata/prices/litellm.csv");

fn map() -> PriceFile {
    PriceFile::read("litellm.json", MAP).unwrap()
}

#[test]
fn the_map_becomes_the_golden_book() {
    let file = map();
    assert_eq!(
        file.layout(),
        Layout::LiteLlm,
        "recognised by what stands in it"
    );
    assert_eq!(
        file.layer().to_canonical(),
        MAP_AS_BOOK,
        "see testdata/prices/litellm.csv"
    );
    let yaml: String = MAP_AS_BOOK.lines().skip(1).map(yaml_row).collect();
    let yaml = PriceFile::read("prices", &format!("rates:\n{yaml}")).unwrap();
    assert_eq!(
        yaml.layout(),
        Layout::Yaml,
        "recognised by what stands in it"
    );
    assert_eq!(yaml.layer(), file.layer(), "the same in YAML");
}

/// Returns a row of the golden book, whose cells hold no comma, as an item of a YAML list.
fn yaml_row(row: &str) -> String {
    let cells: Vec<&str> = row.split(',').collect();
    let [provider, model, meter, above, rate, source, ..] = cells.as_slice() else {
        panic!("{row}")
    };
    format!(
        "  - provider: {provider}\n    model: {model:?}\n    meter: {meter}\n    \
         above_input_tokens: {above}\n    usd_per_unit: {rate}\n    source: {source:?}\n"
    )
}

#[test]
fn what_no_book_expresses_is_counted_by_kind() {
    let file = map();
    let kinds: BTreeMap<_, _> = file
        .findings()
        .not_expressed
        .iter()
        .map(|kind| {
            (
                kind.kind.as_str(),
                (kind.prices, kind.models, kind.example.as_str()),
            )
        })
        .collect();
    let expected = [
        ("batch tier", (19, 7, "amazon.nova-lite-v1:0")),
        ("flex tier", (3, 1, "gemini/gemini-2.5-pro")),
        ("grounding queries", (1, 1, "gemini/gemini-2.5-pro")),
        ("image tokens", (1, 1, "acme/odd")),
        ("other", (1, 1, "acme/odd")),
        ("per image beside a price per token", (1, 1, "acme/both")),
        ("per query", (1, 1, "amazon.rerank-v1:0")),
        ("per second", (2, 1, "whisper-1")),
        ("priority tier", (12, 3, "gemini/gemini-2.5-pro")),
        ("search context", (4, 4, "claude-sonnet-4-5")),
        (
            "zero per token beside a price in another unit",
            (2, 1, "amazon.rerank-v1:0"),
        ),
    ];
    assert_eq!(kinds, BTreeMap::from(expected), "kinds");
    assert_eq!(file.findings().rounded, 1, "a float's residue");
    assert_eq!(
        file.findings().models_without_rates,
        2,
        "whisper-1 and amazon.rerank-v1:0"
    );
    assert_eq!(
        file.findings().contradicted,
        ["deepseek/deepseek-chat"],
        "only one key gives writing to the cache a price"
    );
}

#[test]
fn tiers_hold_for_the_whole_request_and_fall_back_as_litellm_does() {
    let book = PriceBook::default().with(&map()).unwrap();
    let rates = |provider: &str, model: &str, input: u64| {
        let provider = ProviderId::new(provider).unwrap();
        let model = ModelId::new(model).unwrap();
        let priced = book.price_model(Some(&provider), None, &model);
        let (_, set) = priced.rate_set(UnixMs::FIRST, input);
        let rate = |meter| set.rates.get(meter).map(|(rate, _)| rate.to_string());
        [
            Meter::InputUncachedTokens,
            Meter::InputCacheReadTokens,
            Meter::OutputTextTokens,
            Meter::OutputReasoningTokens,
        ]
        .map(|meter| rate(meter).unwrap_or_default())
    };
    let cases = [
        (
            "google",
            "gemini-2.5-pro",
            200_000,
            ["0.00000125", "0.000000125", "0.00001", "0.00001"],
        ),
        (
            "gemini",
            "gemini-2.5-pro",
            200_001,
            ["0.0000025", "0.00000025", "0.000015", "0.000015"],
        ),
        ("acme", "odd", 128_000, ["0.0000008", "0.0000008", "0", "0"]),
        ("acme", "odd", 128_001, ["0.0000016", "0.0000016", "0", "0"]),
        (
            "dashscope",
            "qwen-plus-2025-07-28",
            256_000,
            ["0.0000004", "0.0000004", "0.0000012", "0.000004"],
        ),
        (
            "dashscope",
            "qwen-plus-2025-07-28",
            256_001,
            ["0.0000012", "0.0000012", "0.0000036", "0.000012"],
        ),
    ];
    for (provider, model, input, expected) in cases {
        assert_eq!(
            rates(provider, model, input),
            expected,
            "{provider}/{model} at {input}"
        );
    }
}

#[test]
fn tiers_that_leave_meters_out_fall_back_within_the_tier() {
    let text = r#"{"p/m": {"litellm_provider": "p", "output_cost_per_token": 9e-6,
        "input_cost_per_token": 7e-6, "tiered_pricing": [
            {"range": [0, 1000], "input_cost_per_token": 1e-6, "cache_read_input_token_cost": 1e-7},
            {"range": [1000.0, 2000], "input_cost_per_token": 2e-6}]}}"#;
    let file = PriceFile::read("m", text).unwrap();
    let rates: Vec<_> = file
        .layer()
        .content
        .rates()
        .map(|rate| format!("{} >{} {}", rate.meter, rate.above_input_tokens, rate.rate))
        .collect();
    let expected = [
        "input_uncached_tokens >0 0.000001",
        "input_uncached_tokens >1000 0.000002",
        "input_cache_read_tokens >0 0.0000001",
        "input_cache_read_tokens >1000 0.000002",
        "output_text_tokens >0 0.000009",
    ];
    assert_eq!(rates, expected, "the table counts, and output beside it");
}

#[test]
fn what_prices_list_prints_can_be_imported() {
    let json = r#"[{"provider": "p", "model": "@cf/m", "meter": "images", "above_input_tokens": 0,
        "usd_per_unit": "0.1", "from": null, "read": "2026-11-21", "source": "s", "layer": "import 3"}]"#;
    let csv = "provider,model,meter,above_input_tokens,usd_per_unit,from,read,source,layer\n\
               p,'@cf/m,images,0,0.1,,2026-11-21,s,import 3\n";
    let json = PriceFile::read("prices", json).unwrap();
    let csv = PriceFile::read("prices", csv).unwrap();
    assert_eq!(
        (json.layout(), csv.layout()),
        (Layout::Json, Layout::Csv),
        "layouts"
    );
    assert_eq!(json.layer(), csv.layer(), "the same rows");
    assert_eq!(json.layer().rates(), 1, "one rate");
}

#[test]
fn a_floats_residue_is_rounded_once() {
    let cases = [
        ("8.000000000000001e-07", "0.0000008", 1),
        ("2.9999999999999997e-07", "0.0000003", 1),
        ("7.9752604167e-09", "0.000000007975260417", 1),
        ("1.5e-18", "0.000000000000000002", 1),
        ("1e-18", "0.000000000000000001", 0),
        ("0.1000000000000000000000", "0.1", 0),
    ];
    for (number, rate, rounded) in cases {
        let text = format!("provider,model,meter,usd_per_unit\np,m,images,{number}\n");
        let file = PriceFile::read("p", &text).unwrap();
        let rates: Vec<_> = file.layer().content.rates().map(|rate| rate.rate).collect();
        assert_eq!(rates, [rate.parse::<Rate>().unwrap()], "{number}");
        assert_eq!(file.findings().rounded, rounded, "{number}");
    }
}

#[test]
fn a_list_from_an_instant_on_leaves_what_was_before() {
    let old = "provider,model,meter,above_input_tokens,usd_per_unit,from\n\
               p,m,input_uncached_tokens,0,5,\n\
               p,m,input_cache_read_tokens,0,1,\n\
               p,m,input_uncached_tokens,1000,10,\n\
               p,m,images,0,7,\n\
               p,m,input_uncached_tokens,0,6,2027-06-01\n";
    let new = "provider,model,meter,usd_per_unit\np,m,input_uncached_tokens,4\n";
    let old = PriceFile::read("old", old).unwrap();
    let new = PriceFile::read("new", new).unwrap();
    let start = UnixMs::new(20_000 * DAY_MS).unwrap();
    let new = new.starting_at(start);
    let layered = LayeredBook::of([old.layer(), new.layer()]);
    let rates: Vec<_> = layered
        .book
        .rates()
        .map(|rate| {
            let start = rate.start.map_or(0, |start| start.get() / DAY_MS);
            let layer = layered.layer_of(&rate).unwrap();
            format!(
                "{} >{} @{start} {} L{layer}",
                rate.meter, rate.above_input_tokens, rate.rate
            )
        })
        .collect();
    let expected = [
        "input_uncached_tokens >0 @0 5 L0",
        "input_uncached_tokens >0 @20000 4 L1",
        "input_uncached_tokens >1000 @0 10 L0",
        "input_uncached_tokens >1000 @20000 4 L1",
        "input_cache_read_tokens >0 @0 1 L0",
        "input_cache_read_tokens >0 @20000 4 L1",
        "images >0 @0 7 L0",
    ];
    assert_eq!(
        rates, expected,
        "images fall back to nothing and keep their rate"
    );
}

#[test]
fn an_alias_of_a_later_list_wins_over_rates_of_an_earlier_one() {
    let header = "provider,model,meter,usd_per_unit,alias_of\n";
    let file = |rows: &str| PriceFile::read("p", &format!("{header}{rows}")).unwrap();
    let first = file("p,a,images,1,\np,b,images,2,\n");
    let second = file("p,a,,,b\np,c,,,nowhere\n");
    let third = file("p,a,images,3,\n");
    let listed = |files: &[&PriceFile]| {
        let book = LayeredBook::of(files.iter().map(|file| file.layer())).book;
        let rates: Vec<_> = book
            .rates()
            .map(|rate| format!("{}={}", rate.model, rate.rate))
            .collect();
        let aliases: Vec<_> = book
            .aliases()
            .map(|a| format!("{}->{}", a.name, a.model))
            .collect();
        [rates, aliases].concat()
    };
    assert_eq!(
        listed(&[&first, &second]),
        ["b=2", "a->b"],
        "an alias from now on"
    );
    assert_eq!(
        listed(&[&first, &second, &third]),
        ["a=3", "b=2"],
        "rates end it"
    );
    assert_eq!(
        listed(&[&second]),
        Vec::<String>::new(),
        "an alias of nothing is left out"
    );
}

#[test]
fn the_difference_names_each_rate_once() {
    let header = "provider,model,meter,usd_per_unit,alias_of\n";
    let book = |rows: &str| {
        let file = PriceFile::read("p", &format!("{header}{rows}")).unwrap();
        PriceBook::default().with(&file).unwrap()
    };
    let old = book("p,a,images,1,\np,b,images,2,\np,c,images,3,\np,x,,,a\n");
    let new = book("p,a,images,1,\np,b,images,4,\np,d,images,5,\np,x,,,b\n");
    let diff = PriceDiff::between(&old, &new);
    let changes: Vec<_> = diff
        .changes
        .iter()
        .map(|change| {
            let text = |rate: Option<Rate>| rate.map_or("-".to_owned(), |rate| rate.to_string());
            format!(
                "{} {}->{}",
                change.model,
                text(change.old),
                text(change.new)
            )
        })
        .collect();
    assert_eq!(changes, ["b 2->4", "c 3->-", "d -->5"], "changes");
    assert_eq!((diff.unchanged, diff.aliases), (1, 1), "the rest");
}

/// A list of a few rates, some from an instant on.
fn lists() -> impl Strategy<Value = PriceLayer> {
    let start = prop_oneof![Just(None), (0_i64..4).prop_map(Some)];
    let row = (
        0_usize..3,
        any::<proptest::sample::Index>(),
        0_u64..2,
        start.clone(),
        0_i128..9,
    );
    (proptest::collection::vec(row, 0..8), start).prop_map(|(rows, from)| {
        let mut cells: BTreeMap<String, i128> = BTreeMap::new();
        for (model, meter, above, start, units) in rows {
            let start = start.map_or_else(String::new, |day| instant(day).to_string());
            let meter = Meter::ALL.get(meter.index(3)).unwrap();
            if start.is_empty() {
                // What a list restates without a price for input, it cannot end.
                cells
                    .entry(format!("p,m{model},input_uncached_tokens,0,"))
                    .or_insert(units);
            }
            cells.insert(format!("p,m{model},{meter},{above},{start}"), units);
        }
        let header = "provider,model,meter,above_input_tokens,from,usd_per_unit\n".to_owned();
        let text = cells.iter().fold(header, |text, (cells, units)| {
            format!("{text}{cells},{units}\n")
        });
        let file = PriceFile::read("p", &text).unwrap();
        match from {
            Some(day) => file.starting_at(instant(day)).layer().clone(),
            None => file.layer().clone(),
        }
    })
}

fn instant(day: i64) -> UnixMs {
    UnixMs::new(day.saturating_mul(DAY_MS)).unwrap()
}

/// What a model's request costs per unit of a meter by lists over one another, the slow and obvious
/// way: the last list that restates the model at this time counts, with all that later ones add.
fn model_rate(lists: &[PriceLayer], model: &str, meter: Meter, at: UnixMs) -> Option<Rate> {
    // Each entry: meter, tier, start; the rate. Rebuilt for the instant asked for.
    let mut known: BTreeMap<(Meter, u64, Option<UnixMs>), Rate> = BTreeMap::new();
    for list in lists {
        let rates: Vec<_> = list
            .content
            .rates()
            .filter(|rate| rate.model == model)
            .collect();
        let is_restated = rates.iter().any(|rate| rate.start.is_none());
        let begins = list.holds_from().is_none_or(|from| from <= at);
        if is_restated {
            if begins {
                known.clear();
            } else {
                known.retain(|(.., start), _| {
                    start.is_none_or(|start| Some(start) < list.holds_from())
                });
            }
        }
        for rate in rates {
            let start = rate.start.max(list.holds_from());
            known.insert((rate.meter, rate.above_input_tokens, start), rate.rate);
        }
    }
    let holding = |meter: Meter| {
        let of_meter = known.iter().filter(|((of, above, start), _)| {
            *of == meter && *above == 0 && start.is_none_or(|start| start <= at)
        });
        of_meter
            .max_by_key(|((.., start), _)| *start)
            .map(|(_, rate)| *rate)
    };
    std::iter::successors(Some(meter), |meter| meter.fallback()).find_map(holding)
}

/// Says whether a list adds rates to a model after one that restated it from an instant on: what that
/// one left out is priced by copies, which an addition does not reach. Not compared.
fn is_added_to(lists: &[PriceLayer], model: &str) -> bool {
    let mut is_restated_late = false;
    lists.iter().any(|list| {
        let rates = || list.content.rates().filter(|rate| rate.model == model);
        let is_restated = rates().any(|rate| rate.start.is_none());
        let is_added = is_restated_late && !is_restated && rates().next().is_some();
        is_restated_late |= is_restated && list.holds_from().is_some();
        is_added
    })
}

proptest! {
    #[test]
    fn a_stored_list_reads_back_as_the_same(list in lists()) {
        let back = PriceLayer::from_canonical(&list.to_canonical(), list.holds_from()).unwrap();
        prop_assert_eq!(back, list);
    }

    #[test]
    fn the_last_list_that_says_something_counts(lists in proptest::collection::vec(lists(), 1..4)) {
        let book = LayeredBook::of(&lists).book;
        let provider = ProviderId::new("p").unwrap();
        for name in ["m0", "m1", "m2"].into_iter().filter(|name| !is_added_to(&lists, name)) {
            let model = ModelId::new(name).unwrap();
            let priced = book.price_model(Some(&provider), None, &model);
            for day in 0..5 {
                let (_, set) = priced.rate_set(instant(day), 0);
                // Requests fall back to nothing: a list cannot end them, only price them anew.
                for meter in [Meter::InputUncachedTokens, Meter::InputCacheReadTokens] {
                    let expected = model_rate(&lists, name, meter, instant(day));
                    let found = set.rates.get(meter).map(|(rate, _)| rate);
                    prop_assert_eq!(found, expected, "{} {} on day {}", name, meter, day);
                }
            }
        }
    }

    #[test]
    fn a_covered_list_changes_nothing(lists in proptest::collection::vec(lists(), 2..5)) {
        let last = lists.last().unwrap();
        let (covered, kept): (Vec<_>, Vec<_>) =
            lists.iter().partition(|list| !std::ptr::eq(*list, last) && list.is_covered_by(last));
        let without = LayeredBook::of(kept).book;
        prop_assert_eq!(without, LayeredBook::of(&lists).book, "without {} lists", covered.len());
    }
}
