//! Meters: the named quantities of usage, and the quantities that one event or one posting carries.
//!
//! Invariant: standard meters are disjoint, so that every sum over them is billable and nothing
//! counts twice. Derived totals (`input_tokens`, `output_tokens`, `total_tokens`) are computed, never
//! stored.

use std::fmt;
use std::str::FromStr;

/// The greatest quantity of one meter in one event: 2⁵³, the last integer that every JSON reader
/// holds exactly (RFC 8259, section 6).
pub const QUANTITY_MAX: u64 = 1 << 53;

/// The number of standard meters.
pub const METERS: usize = 10;

/// A standard meter; its order here is its order in hashes, columns and reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meter {
    /// Requests, also failed ones; one per event.
    Requests,
    /// Input tokens that no cache served or stored, without audio.
    InputUncachedTokens,
    /// Input tokens read from the provider's prompt cache.
    InputCacheReadTokens,
    /// Input tokens written to the provider's cache for its shortest time (5 minutes at Anthropic).
    InputCacheWriteTokens,
    /// Input tokens written to the provider's cache for an hour.
    InputCacheWrite1hTokens,
    /// Audio input, in tokens.
    InputAudioTokens,
    /// Output tokens that the client sees as text.
    OutputTextTokens,
    /// Output tokens spent on reasoning.
    OutputReasoningTokens,
    /// Audio output, in tokens.
    OutputAudioTokens,
    /// Images made.
    Images,
}

impl Meter {
    /// All standard meters, in order.
    pub const ALL: [Self; METERS] = [
        Self::Requests,
        Self::InputUncachedTokens,
        Self::InputCacheReadTokens,
        Self::InputCacheWriteTokens,
        Self::InputCacheWrite1hTokens,
        Self::InputAudioTokens,
        Self::OutputTextTokens,
        Self::OutputReasoningTokens,
        Self::OutputAudioTokens,
        Self::Images,
    ];

    /// Returns the name used in SQL columns, JSON, price files and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputUncachedTokens => "input_uncached_tokens",
            Self::InputCacheReadTokens => "input_cache_read_tokens",
            Self::InputCacheWriteTokens => "input_cache_write_tokens",
            Self::InputCacheWrite1hTokens => "input_cache_write_1h_tokens",
            Self::InputAudioTokens => "input_audio_tokens",
            Self::OutputTextTokens => "output_text_tokens",
            Self::OutputReasoningTokens => "output_reasoning_tokens",
            Self::OutputAudioTokens => "output_audio_tokens",
            Self::Images => "images",
        }
    }

    /// Returns the meter whose rate stands in where a rate set has none for this one: reasoning and
    /// audio output fall back to text, cache and audio input to uncached input.
    #[must_use]
    pub const fn fallback(self) -> Option<Self> {
        match self {
            Self::InputCacheReadTokens | Self::InputCacheWriteTokens | Self::InputAudioTokens => {
                Some(Self::InputUncachedTokens)
            }
            Self::InputCacheWrite1hTokens => Some(Self::InputCacheWriteTokens),
            Self::OutputReasoningTokens | Self::OutputAudioTokens => Some(Self::OutputTextTokens),
            Self::Requests | Self::InputUncachedTokens | Self::OutputTextTokens | Self::Images => {
                None
            }
        }
    }

    /// Says whether usage of this meter without a rate is unpriced usage. `requests` cost nothing by
    /// statement unless a price book lists them.
    #[must_use]
    pub const fn is_billable_unlisted(self) -> bool {
        !matches!(self, Self::Requests)
    }

    /// Says whether this meter is part of the derived `input_tokens`.
    #[must_use]
    pub const fn is_input(self) -> bool {
        matches!(
            self,
            Self::InputUncachedTokens
                | Self::InputCacheReadTokens
                | Self::InputCacheWriteTokens
                | Self::InputCacheWrite1hTokens
                | Self::InputAudioTokens
        )
    }

    /// Says whether this meter is part of the derived `output_tokens`.
    #[must_use]
    pub const fn is_output(self) -> bool {
        matches!(
            self,
            Self::OutputTextTokens | Self::OutputReasoningTokens | Self::OutputAudioTokens
        )
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no standard meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a meter")]
pub struct UnknownMeter;

impl FromStr for Meter {
    type Err = UnknownMeter;

    fn from_str(name: &str) -> Result<Self, UnknownMeter> {
        Self::ALL
            .into_iter()
            .find(|meter| meter.name() == name)
            .ok_or(UnknownMeter)
    }
}

/// One value per standard meter, in the order of [`Meter::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PerMeter<T>([T; METERS]);

impl<T: Copy> PerMeter<T> {
    /// Takes the values in the order of [`Meter::ALL`].
    #[must_use]
    pub const fn from_array(values: [T; METERS]) -> Self {
        Self(values)
    }

    /// Computes one value per meter.
    #[must_use]
    pub fn from_fn(value: impl Fn(Meter) -> T) -> Self {
        Self(Meter::ALL.map(value))
    }

    /// Returns the value of one meter.
    #[must_use]
    #[expect(
        clippy::as_conversions,
        clippy::indexing_slicing,
        reason = "a field-less enum of METERS variants is an index below METERS"
    )]
    pub const fn get(&self, meter: Meter) -> T {
        self.0[meter as usize]
    }

    /// Replaces the value of one meter.
    #[expect(
        clippy::as_conversions,
        clippy::indexing_slicing,
        reason = "a field-less enum of METERS variants is an index below METERS"
    )]
    pub const fn set(&mut self, meter: Meter, value: T) {
        self.0[meter as usize] = value;
    }

    /// Returns the values in the order of [`Meter::ALL`].
    #[must_use]
    pub const fn as_array(&self) -> &[T; METERS] {
        &self.0
    }

    /// Returns meters with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Meter, T)> + '_ {
        Meter::ALL.into_iter().zip(self.0.iter().copied())
    }
}

/// Quantities of one event or one posting. Of an event each is at most [`QUANTITY_MAX`]; of a
/// posting at most `i64::MAX`, since Postgres keeps them as `bigint`.
pub type Quantities = PerMeter<u64>;

impl Quantities {
    /// Adds meter by meter; `None` where a sum would pass `i64::MAX`.
    #[must_use]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let mut sums = *self;
        for (sum, value) in sums.0.iter_mut().zip(other.0) {
            *sum = sum
                .checked_add(value)
                .filter(|sum| *sum <= i64::MAX.unsigned_abs())?;
        }
        Some(sums)
    }

    /// Subtracts meter by meter; `None` below zero.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        let mut rest = *self;
        for (value, less) in rest.0.iter_mut().zip(other.0) {
            *value = value.checked_sub(less)?;
        }
        Some(rest)
    }

    /// Returns the sum of all input meters; below 5 × `i64::MAX`.
    #[must_use]
    pub fn input_tokens(&self) -> u128 {
        self.sum_of(Meter::is_input)
    }

    /// Returns the sum of all output meters; below 3 × `i64::MAX`.
    #[must_use]
    pub fn output_tokens(&self) -> u128 {
        self.sum_of(Meter::is_output)
    }

    fn sum_of(&self, is_part: impl Fn(Meter) -> bool) -> u128 {
        self.iter()
            .filter(|(meter, _)| is_part(*meter))
            .fold(0, |sum, (_, value)| sum.saturating_add(u128::from(value)))
    }
}
