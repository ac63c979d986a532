//! Pricing against a list of rows, searched from the top for every question.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::select;

use super::slow::Slow;
use crate::event::{Dimensions, Outcome, Provenance, UsageEvent};
use crate::ids::{AppId, ModelId, ProviderId, TenantId};
use crate::meter::{Meter, Quantities};
use crate::price::{PriceBook, PriceCache, RateSet};
use crate::time::UnixMs;

/// A row of the book: model, meter, tier, start (0: none, else that day of 1970), rate.
type Row = (&'static str, Meter, u64, u32, String);

/// Another name and the model that it stands for.
type Alias = (&'static str, &'static str);

const MODELS: [&str; 7] = ["m", "m-2024-01-31", "m-20240131", "m*", "m-2*", "n", "*"];
const ALIASES: [Alias; 4] = [
    ("a", "m"),
    ("a-2024-01-31", "n"),
    ("n-20240131", "m"),
    ("z", "n"),
];
const ASKED: [&str; 9] = [
    "m",
    "m-2024-01-31",
    "m-20240131",
    "m-x",
    "n",
    "n-20240131",
    "a",
    "a-2024-01-31",
    "q",
];

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let rate = "[0-9]{1,2}(\\.[0-9]{1,6})?|0\\.0000[0-9]{1,8}|100000000000000";
    let row = (
        select(&MODELS[..]),
        select(&Meter::ALL[..]),
        0_u64..3,
        0_u32..3,
        rate,
    );
    let tier =
        row.prop_map(|(model, meter, tier, day, rate)| (model, meter, tier * 100, day, rate));
    vec(tier, 0..24).prop_map(|rows| {
        let mut kept: Vec<Row> = Vec::new();
        for row in rows {
            if !kept
                .iter()
                .any(|k| (k.0, k.1, k.2, k.3) == (row.0, row.1, row.2, row.3))
            {
                kept.push(row);
            }
        }
        kept
    })
}

fn book_of(rows: &[Row], aliases: &[Alias]) -> PriceBook {
    let mut text =
        "provider,model,meter,above_input_tokens,from,usd_per_unit,alias_of\n".to_owned();
    for (model, meter, above, day, rate) in rows {
        let from = if *day == 0 {
            String::new()
        } else {
            format!("1970-01-{:02}", day + 1)
        };
        text.push_str(&format!("p,{model},{meter},{above},{from},{rate},\n"));
    }
    for (name, model) in aliases {
        text.push_str(&format!("p,{name},,,,,{model}\n"));
    }
    PriceBook::default().with_file("rows.csv", &text).unwrap()
}

/// The models of the book that a name means, the first choice first.
fn models_of(name: &str, aliases: &[Alias]) -> Vec<String> {
    let alias = |name: &str| {
        aliases
            .iter()
            .find(|alias| alias.0 == name)
            .map(|alias| alias.1)
    };
    let mut models = vec![name.to_owned()];
    models.extend(alias(name).map(str::to_owned));
    for date in ["-2024-01-31", "-20240131"] {
        if let Some(undated) = name.strip_suffix(date) {
            models.push(undated.to_owned());
            models.extend(alias(undated).map(str::to_owned));
        }
    }
    // All patterns that a name can match, the longest first.
    for length in (0..=name.len()).rev() {
        models.push(format!("{}*", name.get(..length).unwrap()));
    }
    models
}

/// The meters whose rate one may use, itself first.
fn meters_of(meter: Meter) -> Vec<Meter> {
    use Meter as M;
    match meter {
        M::InputCacheWrite1hTokens => vec![meter, M::InputCacheWriteTokens, M::InputUncachedTokens],
        M::InputCacheReadTokens | M::InputCacheWriteTokens | M::InputAudioTokens => {
            vec![meter, M::InputUncachedTokens]
        }
        M::OutputReasoningTokens | M::OutputAudioTokens => vec![meter, M::OutputTextTokens],
        M::Requests | M::InputUncachedTokens | M::OutputTextTokens | M::Images => vec![meter],
    }
}

/// What the rows say: the model that the rates are of, the tier, and each meter's rate and its own.
type Found = (String, u64, Vec<Option<(String, Meter)>>);

fn search(rows: &[Row], models: &[String], day: u32, input_tokens: u64) -> Found {
    let holds = |row: &&Row| row.3 <= day;
    let has_rates = |model: &&String| rows.iter().filter(holds).any(|row| row.0 == model.as_str());
    let Some(model) = models.iter().find(has_rates) else {
        return (String::new(), 0, vec![None; Meter::ALL.len()]);
    };
    let of_model = || {
        rows.iter()
            .filter(holds)
            .filter(|row| row.0 == model && (row.2 == 0 || row.2 < input_tokens))
    };
    let tier = of_model().map(|row| row.2).max().unwrap_or(0);
    let rate_of = |meter: &Meter| {
        // The greatest tier first, in it the latest start.
        let row = of_model()
            .filter(|row| row.1 == *meter)
            .max_by_key(|row| (row.2, row.3))?;
        Some((row.4.clone(), *meter))
    };
    let rates = Meter::ALL.map(|meter| meters_of(meter).iter().find_map(rate_of));
    (model.clone(), tier, rates.to_vec())
}

fn quantities() -> impl Strategy<Value = Quantities> {
    let quantity = (any::<u64>(), 0_u32..64).prop_map(|(quantity, bits)| {
        let quantity = quantity >> bits;
        if quantity > 1 << 62 { 0 } else { quantity }
    });
    proptest::array::uniform10(quantity).prop_map(Quantities::from_array)
}

/// Checks one rate set's answer against paper: Σ quantity × rate.
fn check_price(rates: &[Option<(String, Meter)>], set: &RateSet, quantities: &Quantities) {
    let mut sum = Slow::default();
    let (mut is_priced, mut is_unpriced) = (false, false);
    for (rate, (meter, quantity)) in rates.iter().zip(quantities.iter()) {
        match rate {
            Some((rate, _)) => {
                sum = sum.plus(&Slow::of_text(rate).times(quantity));
                is_priced |= quantity > 0;
            }
            None => is_unpriced |= quantity > 0 && meter != Meter::Requests,
        }
    }
    let priced = set.price(quantities);
    assert_eq!(
        priced.is_some(),
        sum.fits(),
        "{} in the ledger",
        sum.to_text()
    );
    if let Some(priced) = priced {
        assert_eq!(
            priced.amount.to_string(),
            sum.to_text(),
            "the amount of {quantities:?}"
        );
        assert_eq!(
            priced.is_priced, is_priced,
            "some of {quantities:?} has a rate"
        );
        assert_eq!(
            priced.is_unpriced, is_unpriced,
            "some of {quantities:?} has none"
        );
    }
}

proptest! {
    #[test]
    fn events_are_priced_as_a_search_through_the_rows_says(
        rows in rows(),
        aliases in proptest::sample::subsequence(&ALIASES[..], 0..=ALIASES.len()),
        answered in proptest::option::of(select(&ASKED[..])),
        asked in select(&ASKED[..]),
        is_known in proptest::bool::weighted(0.9),
        quantities in quantities(),
    ) {
        // An alias of a model that has no rates is refused in a file.
        let has_rates = |model: &str| rows.iter().any(|row| row.0 == model);
        let aliases: Vec<_> = aliases.into_iter().filter(|alias| has_rates(alias.1)).collect();
        let book = book_of(&rows, &aliases);
        let provider = ProviderId::new(if is_known { "p" } else { "other" }).unwrap();
        let asked_id = ModelId::new(asked).unwrap();
        let answered_id = answered.map(|answered| ModelId::new(answered).unwrap());
        let model = book.price_model(Some(&provider), answered_id.as_ref(), &asked_id);
        let mut models = answered.map_or_else(Vec::new, |answered| models_of(answered, &aliases));
        models.extend(models_of(asked, &aliases));
        if !is_known {
            models.clear();
        }
        for day in 0_u32..4 {
            for ms in [0, 86_399_999] {
                let at = UnixMs::new(i64::from(day) * 86_400_000 + ms).unwrap();
                for input_tokens in [0, 99, 100, 101, 200, 201, u64::MAX] {
                    let (book_model, tier, rates) = search(&rows, &models, day, input_tokens);
                    let (id, set) = model.rate_set(at, input_tokens);
                    prop_assert_eq!(id, set.id());
                    prop_assert_eq!(&set.book_model, &book_model);
                    prop_assert_eq!(set.above_input_tokens, tier);
                    prop_assert_eq!(&set.provider, provider.as_str());
                    prop_assert_eq!(&set.priced_model, answered.unwrap_or(asked));
                    for ((meter, rate), expected) in set.rates.iter().zip(&rates) {
                        let rate = rate.map(|(rate, from)| (Slow::of_text(&rate.to_string()), from));
                        let expected = expected.clone();
                        let expected = expected.map(|(rate, from)| (Slow::of_text(&rate), from));
                        prop_assert_eq!(rate, expected, "{} on day {}", meter, day);
                    }
                    check_price(&rates, set, &quantities);
                }
            }
        }
    }

    #[test]
    fn every_part_of_a_rate_set_is_part_of_its_id(
        texts in any::<[String; 3]>(),
        above in any::<u64>(),
        meter in select(&Meter::ALL[..]),
        change in 0_usize..6,
    ) {
        let rate = |units| crate::money::Rate::from_units(units).unwrap();
        let [provider, priced_model, book_model] = texts;
        let rates = crate::meter::PerMeter::from_fn(|meter| Some((rate(7), meter)));
        let set = RateSet { provider, priced_model, book_model, above_input_tokens: above, rates };
        let mut changed = set.clone();
        let fallback = meter.fallback().unwrap_or(Meter::Images);
        match change {
            0 => changed.provider.push('x'),
            1 => changed.priced_model.push('x'),
            2 => changed.book_model.push('x'),
            3 => changed.above_input_tokens ^= 1,
            4 => changed.rates.set(meter, Some((rate(8), meter))),
            _ => changed.rates.set(meter, None),
        }
        prop_assert!(changed.id() != set.id());
        changed = set.clone();
        changed.rates.set(meter, Some((rate(7), fallback)));
        prop_assert_eq!(changed.id() == set.id(), fallback == meter);
    }
}

#[test]
fn a_full_cache_answers_as_the_book_does() {
    let rows = [("m", "1"), ("n", "2"), ("*", "3")];
    let rows = rows.map(|(model, rate)| (model, Meter::Images, 0, 0, rate.to_owned()));
    let book = Arc::new(book_of(&rows, &[]));
    let mut cache = PriceCache::new(Arc::clone(&book), 2);
    let provider = ProviderId::new("p").unwrap();
    for round in 0..3 {
        for answered in [None, Some("m"), Some("n"), Some("x")] {
            for asked in ["m", "n", "x"] {
                let event = UsageEvent {
                    dimensions: Dimensions {
                        tenant: TenantId::default_tenant(),
                        app: AppId::unattributed(),
                        user: None,
                        session: None,
                        route: None,
                        provider: Some(provider.clone()),
                        model: ModelId::new(asked).unwrap(),
                    },
                    answered_model: answered.map(|answered| ModelId::new(answered).unwrap()),
                    start: UnixMs::FIRST,
                    outcome: Outcome::Succeeded,
                    provenance: Provenance::Reported,
                    quantities: Quantities::default(),
                    identity: None,
                    payload: None,
                };
                let answered = event.answered_model.as_ref();
                let model = book.price_model(Some(&provider), answered, &event.dimensions.model);
                let (id, rate_set) = cache.rate_set(&event, 0);
                let expected = model.rate_set(UnixMs::FIRST, 0);
                assert_eq!(
                    (id, rate_set),
                    expected,
                    "{answered:?} {asked} in round {round}"
                );
            }
        }
    }
}
