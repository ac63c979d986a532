//! What the fields of LiteLLM's map mean.
//!
//! Invariant: a field whose name speaks of money is a rate or has a kind; a new one gets the kind
//! `other`, so that nothing is passed over in silence.

use crate::meter::{Meter, QUANTITY_MAX};

/// The kind of prices per token of an image.
pub(super) const IMAGE_TOKENS: &str = "image tokens";

/// What a field means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The rate of a meter above some input.
    Rate(Meter, u64),
    /// A price in a unit that is no meter, by its kind.
    OtherUnit(&'static str),
    /// A price under conditions that no tier of a book expresses, or beside that of the model's use.
    OtherTier(&'static str),
    /// No price.
    NoPrice,
}

/// Fields that are rates.
const RATES: [(&str, Meter); 11] = [
    ("input_cost_per_token", Meter::InputUncachedTokens),
    ("output_cost_per_token", Meter::OutputTextTokens),
    ("cache_read_input_token_cost", Meter::InputCacheReadTokens),
    // An older name of the same; what comes first in an entry counts.
    (
        "input_cost_per_token_cache_hit",
        Meter::InputCacheReadTokens,
    ),
    (
        "cache_creation_input_token_cost",
        Meter::InputCacheWriteTokens,
    ),
    (
        "cache_creation_input_token_cost_above_1hr",
        Meter::InputCacheWrite1hTokens,
    ),
    (
        "output_cost_per_reasoning_token",
        Meter::OutputReasoningTokens,
    ),
    ("input_cost_per_audio_token", Meter::InputAudioTokens),
    ("output_cost_per_audio_token", Meter::OutputAudioTokens),
    ("input_cost_per_request", Meter::Requests),
    ("output_cost_per_image", Meter::Images),
];

/// Parts of names that tell conditions; the first that occurs counts.
const TIERS: [(&str, &str); 12] = [
    ("_batches", "batch tier"),
    ("_priority", "priority tier"),
    ("_flex", "flex tier"),
    ("_ultrafast", "ultrafast tier"),
    ("_balanced", "balanced tier"),
    ("_decisions", "decisions tier"),
    ("off_peak", "off-peak hours"),
    ("uplift", "regional uplift"),
    ("multiplier", "multiplier"),
    ("search_context", "search context"),
    ("grounding", "grounding queries"),
    ("explicit_cache", "explicit cache"),
];

/// Parts of names that tell units; the first that occurs counts.
const UNITS: [(&str, &str); 16] = [
    ("cache_creation_input_audio", "cached audio tokens"),
    ("cache_read_input_audio", "cached audio tokens"),
    ("cache_read_input_image", "cached image tokens"),
    ("image_token", IMAGE_TOKENS),
    ("video_token", "video tokens"),
    ("per_second", "per second"),
    ("per_character", "per character"),
    ("per_pixel", "per pixel"),
    ("per_image", "per image"),
    ("per_query", "per query"),
    ("per_page", "per page"),
    ("per_credit", "per credit"),
    ("per_session", "per session"),
    ("per_gb_per_day", "per gigabyte and day"),
    ("dbu_cost", "in Databricks units"),
    ("per_text_message", "per message"),
];

/// Parts of names that speak of money.
const MONEY: [&str; 5] = ["cost", "price", "pricing", "uplift", "multiplier"];

/// Returns what a field means.
pub(super) fn meaning_of(field: &str) -> Meaning {
    let (base, above) = split_tier(field);
    if let Some((_, meter)) = RATES.iter().find(|(name, _)| *name == base) {
        return Meaning::Rate(*meter, above);
    }
    if !MONEY.iter().any(|word| field.contains(word)) {
        return Meaning::NoPrice;
    }
    let found = |(part, _): &&(&str, &str)| field.contains(part);
    if let Some((_, kind)) = TIERS.iter().find(found) {
        return Meaning::OtherTier(kind);
    }
    // Databricks gives the same price in its own unit beside dollars.
    match UNITS.iter().find(found) {
        Some((_, kind)) if field.contains("dbu_cost") || field.contains("cache_") => {
            Meaning::OtherTier(kind)
        }
        Some((_, kind)) => Meaning::OtherUnit(kind),
        None => Meaning::OtherTier("other"),
    }
}

/// Splits a name like `input_cost_per_token_above_200k_tokens` into the price and the number of tokens
/// above which it holds; 0 where the name has none.
fn split_tier(field: &str) -> (&str, u64) {
    let tier = field.rsplit_once("_above_").and_then(|(base, size)| {
        let size = size.strip_suffix("_tokens")?;
        let (digits, unit) = match size.strip_suffix('k') {
            Some(digits) => (digits, 1000),
            None => (size, 1),
        };
        let tokens = digits.parse::<u64>().ok()?.checked_mul(unit)?;
        Some((base, tokens)).filter(|_| tokens <= QUANTITY_MAX)
    });
    tier.unwrap_or((field, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_mean_what_litellm_bills() {
        use Meaning::{NoPrice, OtherTier, OtherUnit, Rate};
        let cases = [
            ("input_cost_per_token", Rate(Meter::InputUncachedTokens, 0)),
            (
                "output_cost_per_token_above_128k_tokens",
                Rate(Meter::OutputTextTokens, 128_000),
            ),
            (
                "cache_creation_input_token_cost_above_1hr",
                Rate(Meter::InputCacheWrite1hTokens, 0),
            ),
            (
                "cache_creation_input_token_cost_above_1hr_above_200k_tokens",
                Rate(Meter::InputCacheWrite1hTokens, 200_000),
            ),
            (
                "cache_read_input_token_cost_above_512_tokens",
                Rate(Meter::InputCacheReadTokens, 512),
            ),
            ("input_cost_per_token_batches", OtherTier("batch tier")),
            (
                "input_cost_per_token_above_200k_tokens_priority",
                OtherTier("priority tier"),
            ),
            ("output_cost_per_second_1080p", OtherUnit("per second")),
            ("input_cost_per_image", OtherUnit("per image")),
            ("output_cost_per_image_2K", OtherUnit("per image")),
            ("input_cost_per_image_token", OtherUnit(IMAGE_TOKENS)),
            ("search_context_cost_per_query", OtherTier("search context")),
            (
                "regional_processing_uplift_multiplier_eu",
                OtherTier("regional uplift"),
            ),
            (
                "cache_read_input_audio_token_cost",
                OtherTier("cached audio tokens"),
            ),
            ("input_dbu_cost_per_token", OtherTier("in Databricks units")),
            ("guardrail_cost_per_unit", OtherTier("other")),
            ("max_input_tokens", NoPrice),
            ("litellm_provider", NoPrice),
        ];
        for (field, meaning) in cases {
            assert_eq!(meaning_of(field), meaning, "{field}");
        }
    }
}
