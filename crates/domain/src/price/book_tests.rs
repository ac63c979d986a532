//! The shipped book, and how names, times and tiers find their rates.

use super::*;
use crate::ids::{ModelId, ProviderId};
use crate::meter::Meter;
use crate::time::UnixMs;

fn rate_set(
    book: &PriceBook,
    provider: &str,
    answered: &str,
    asked: &str,
    at: i64,
    input_tokens: u64,
) -> RateSet {
    let provider = ProviderId::new(provider).ok();
    let answered = ModelId::new(answered).ok();
    let asked = ModelId::new(asked).unwrap();
    let model = book.price_model(provider.as_ref(), answered.as_ref(), &asked);
    let (id, rate_set) = model.rate_set(UnixMs::new(at).unwrap(), input_tokens);
    assert_eq!(id, rate_set.id(), "an id is the hash of the content");
    RateSet::clone(rate_set)
}

#[test]
fn shipped_book_has_the_models_of_seven_providers_with_source_and_date() {
    let book = PriceBook::shipped();
    assert_eq!(book.providers.len(), 7, "providers");
    let models: usize = book
        .providers
        .values()
        .map(|prices| prices.models.len())
        .sum();
    assert_eq!(models, 286, "models");
    assert_eq!(book.rates().count(), 1127, "rates");
    for rate in book.rates() {
        assert!(!rate.source.is_empty(), "{rate:?} names its source");
        assert!(rate.read.is_some(), "{rate:?} names the day it was read");
    }
    assert!(book.knows_provider("openai"), "a provider of the book");
    assert!(!book.knows_provider("chat"), "a route's name");
    assert!(!book.knows_provider(""), "no name");
    for (logged, provider) in [
        ("default/openai/route/chat/rule/0", "openai"),
        ("openai/anthropic", "anthropic"),
        ("default/in-house/route/chat", "default/in-house/route/chat"),
        ("openai", "openai"),
        ("", ""),
    ] {
        assert_eq!(book.provider_of(logged), provider, "{logged:?}");
    }
}

#[test]
fn canonical_form_of_the_shipped_book_reads_back() {
    let book = PriceBook::shipped();
    let canonical = book.to_canonical();
    let back = PriceBook::from_canonical(&canonical).unwrap();
    assert_eq!(back, book, "the same book");
    assert_eq!(back.to_canonical(), canonical, "the same text");
    assert_eq!(back.content_hash(), book.content_hash(), "the same hash");
}

#[test]
fn names_find_their_model() {
    let book = PriceBook::shipped()
        .with_file(
            "more.csv",
            "provider,model,meter,usd_per_unit,alias_of\n\
             openai,gpt*,input_uncached_tokens,1,\n\
             openai,gpt-4o-mini*,input_uncached_tokens,2,\n\
             openai,house,,,gpt-4o\n",
        )
        .unwrap();
    // Provider, answering model, asked model → the book's model.
    let rows = [
        ("openai", "gpt-4o", "x", "gpt-4o"),
        ("openai", "gpt-4o-2024-08-06", "x", "gpt-4o-2024-08-06"),
        ("openai", "gpt-4o-2024-07-18", "x", "gpt-4o"),
        ("openai", "gpt-4o-20240718", "x", "gpt-4o"),
        ("openai", "house", "x", "gpt-4o"),
        ("openai", "house-2026-01-31", "x", "gpt-4o"),
        ("openai", "gpt-4o-2024-13-18", "x", "gpt*"),
        ("openai", "gpt-4o-mini-turbo", "x", "gpt-4o-mini*"),
        ("openai", "gpt*", "x", "gpt*"),
        ("openai", "in-house-llama-2024-07-18", "gpt-4o", "gpt-4o"),
        ("openai", "", "gpt-4o", "gpt-4o"),
        ("openai", "in-house-llama", "in-house-llama", ""),
        ("openai", "-2024-07-18", "x", ""),
        ("OpenAI", "gpt-4o", "gpt-4o", ""),
        ("anthropic", "gpt-4o", "house", ""),
        ("", "gpt-4o", "gpt-4o", ""),
        (
            "anthropic",
            "claude-haiku-4-5-20250929",
            "x",
            "claude-haiku-4-5",
        ),
    ];
    for (provider, answered, asked, expected) in rows {
        let set = rate_set(&book, provider, answered, asked, 0, 0);
        assert_eq!(set.book_model, expected, "{provider} {answered} {asked}");
        let priced = if answered.is_empty() { asked } else { answered };
        assert_eq!(set.priced_model, priced, "{provider} {answered} {asked}");
        assert_eq!(set.provider, provider, "{provider} {answered} {asked}");
        let has_rates = set.rates.iter().any(|(_, rate)| rate.is_some());
        assert_eq!(
            has_rates,
            !expected.is_empty(),
            "{provider} {answered} {asked}"
        );
    }
}

/// Meter → its rate and the meter that the rate is of.
fn check_rates(set: &RateSet, expected: &[(Meter, &str, Meter)]) {
    for (meter, rate) in set.rates.iter() {
        let wanted = expected.iter().find(|row| row.0 == meter);
        let wanted = wanted.map(|(_, rate, from)| (rate.parse().unwrap(), *from));
        assert_eq!(
            rate, wanted,
            "{meter} of {} from {}",
            set.book_model, set.above_input_tokens
        );
    }
}

#[test]
fn a_tier_takes_what_it_lacks_from_the_tier_below_and_then_from_the_fallback() {
    use Meter::*;
    let book = PriceBook::default()
        .with_file(
            "tiers.csv",
            "provider,model,meter,above_input_tokens,usd_per_unit\n\
             p,m,input_uncached_tokens,0,1\n\
             p,m,input_cache_read_tokens,0,0.1\n\
             p,m,input_cache_write_tokens,0,1.25\n\
             p,m,output_text_tokens,0,5\n\
             p,m,input_uncached_tokens,200000,2\n\
             p,m,output_text_tokens,1000000,10\n\
             p,m,requests,1000000,0.5\n",
        )
        .unwrap();
    let base = [
        (InputUncachedTokens, "1", InputUncachedTokens),
        (InputCacheReadTokens, "0.1", InputCacheReadTokens),
        (InputCacheWriteTokens, "1.25", InputCacheWriteTokens),
        (InputCacheWrite1hTokens, "1.25", InputCacheWriteTokens),
        (InputAudioTokens, "1", InputUncachedTokens),
        (OutputTextTokens, "5", OutputTextTokens),
        (OutputReasoningTokens, "5", OutputTextTokens),
        (OutputAudioTokens, "5", OutputTextTokens),
    ];
    let mut middle = base;
    middle[0].1 = "2";
    middle[4].1 = "2";
    let mut high = middle.to_vec();
    for row in high.iter_mut().skip(5) {
        row.1 = "10";
    }
    high.push((Requests, "0.5", Requests));
    let rows: [(u64, u64, &[_]); 6] = [
        (0, 0, &base),
        (200_000, 0, &base),
        (200_001, 200_000, &middle),
        (1_000_000, 200_000, &middle),
        (1_000_001, 1_000_000, &high),
        (u64::MAX, 1_000_000, &high),
    ];
    for (input_tokens, above, expected) in rows {
        let set = rate_set(&book, "p", "", "m", 0, input_tokens);
        assert_eq!(set.above_input_tokens, above, "tier of {input_tokens}");
        check_rates(&set, expected);
    }
}

#[test]
fn a_rate_holds_until_a_later_one_starts() {
    let book = PriceBook::default()
        .with_file(
            "dated.csv",
            "provider,model,meter,usd_per_unit,from\n\
             p,m,input_uncached_tokens,3,1970-01-03\n\
             p,m,input_uncached_tokens,2,1970-01-02T01:00:00+01:00\n\
             p,m,output_text_tokens,7,\n\
             p,n,input_uncached_tokens,9,1970-01-02\n\
             p,n-2024-01-01,input_uncached_tokens,8,1970-01-03\n",
        )
        .unwrap();
    const DAY: i64 = 86_400_000;
    let rows = [
        ("m", 0, None, "m"),
        ("m", DAY - 1, None, "m"),
        ("m", DAY, Some("2"), "m"),
        ("m", 2 * DAY - 1, Some("2"), "m"),
        ("m", 2 * DAY, Some("3"), "m"),
        ("m", 900 * DAY, Some("3"), "m"),
        ("n", DAY - 1, None, ""),
        ("n", DAY, Some("9"), "n"),
        // The exact name wins from when on it has rates.
        ("n-2024-01-01", 2 * DAY - 1, Some("9"), "n"),
        ("n-2024-01-01", 2 * DAY, Some("8"), "n-2024-01-01"),
    ];
    for (model, at, expected, book_model) in rows {
        let set = rate_set(&book, "p", "", model, at, 0);
        let rate = set
            .rates
            .get(Meter::InputUncachedTokens)
            .map(|(rate, _)| rate.to_string());
        assert_eq!(rate.as_deref(), expected, "{model} at {at}");
        assert_eq!(set.book_model, book_model, "{model} at {at}");
        let output = set.rates.get(Meter::OutputTextTokens).is_some();
        assert_eq!(
            output,
            model == "m",
            "an undated rate of {model} holds at {at}"
        );
    }
}
