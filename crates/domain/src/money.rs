//! Money: rates and amounts in fixed point, 10⁻¹⁸ of the installation's currency.
//!
//! Invariant: no floating point, no rounding, checked arithmetic. What does not fit into 128 bits
//! is an error at the place where it would arise, never a wrapped number.

use std::fmt;
use std::str::FromStr;

/// Decimal places that an amount or a rate carries.
pub const DECIMALS: usize = 18;

const ONE: i128 = 1_000_000_000_000_000_000;

/// The greatest magnitude in 10⁻¹⁸: what `NUMERIC(38,18)` holds, 38 nines.
const UNITS_MAX: i128 = 99_999_999_999_999_999_999_999_999_999_999_999_999;

/// Why a text is not an exact decimal of at most 18 places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// The text is no decimal number.
    #[error("is not a decimal number")]
    Malformed,
    /// The number has a non-zero digit beyond the 18th place.
    #[error("has more than 18 decimal places")]
    TooPrecise,
    /// The number does not fit into `NUMERIC(38,18)`.
    #[error("is too large")]
    TooLarge,
    /// A rate is below zero.
    #[error("is negative")]
    Negative,
}

/// An amount of money in 10⁻¹⁸ of the currency; may be negative (corrections). Its magnitude is
/// below 10²⁰ of the currency, as `NUMERIC(38,18)` holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(i128);

impl Amount {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// Takes a count of 10⁻¹⁸; `None` beyond `NUMERIC(38,18)`.
    #[must_use]
    pub fn from_units(units: i128) -> Option<Self> {
        (-UNITS_MAX..=UNITS_MAX)
            .contains(&units)
            .then_some(Self(units))
    }

    /// Returns the count of 10⁻¹⁸.
    #[must_use]
    pub const fn units(self) -> i128 {
        self.0
    }

    /// Adds; `None` beyond `NUMERIC(38,18)`.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::from_units)
    }

    /// Subtracts; `None` beyond `NUMERIC(38,18)`.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).and_then(Self::from_units)
    }
}

/// The price of one unit of a meter in 10⁻¹⁸ of the currency; zero or more (zero: free by
/// statement).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(i128);

impl Rate {
    /// Takes a count of 10⁻¹⁸; `None` below zero or beyond `NUMERIC(38,18)`.
    #[must_use]
    pub fn from_units(units: i128) -> Option<Self> {
        (0..=UNITS_MAX).contains(&units).then_some(Self(units))
    }

    /// Returns the count of 10⁻¹⁸.
    #[must_use]
    pub const fn units(self) -> i128 {
        self.0
    }

    /// Reads a rate as [`FromStr`] does, but rounds what stands beyond the 18th place, half up: for
    /// numbers that were floats once.
    ///
    /// # Errors
    ///
    /// [`DecimalError`], never [`DecimalError::TooPrecise`].
    pub fn from_str_rounded(text: &str) -> Result<Self, DecimalError> {
        Self::from_parsed(parse_units(text, Excess::Round)?)
    }

    fn from_parsed(units: i128) -> Result<Self, DecimalError> {
        if units < 0 {
            return Err(DecimalError::Negative);
        }
        Self::from_units(units).ok_or(DecimalError::TooLarge)
    }

    /// Returns the amount for a quantity; `None` beyond `NUMERIC(38,18)`.
    #[must_use]
    pub fn checked_times(self, quantity: u64) -> Option<Amount> {
        self.0
            .checked_mul(i128::from(quantity))
            .and_then(Amount::from_units)
    }
}

impl FromStr for Amount {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        parse_units(text, Excess::Refuse)
            .and_then(|units| Self::from_units(units).ok_or(DecimalError::TooLarge))
    }
}

impl FromStr for Rate {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        Self::from_parsed(parse_units(text, Excess::Refuse)?)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_units(self.0, f)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_units(self.0, f)
    }
}

/// What becomes of digits beyond the 18th place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    /// Other than zeros, they are an error.
    Refuse,
    /// They are rounded, half up.
    Round,
}

/// Reads `[-+]digits[.digits][e[-+]digits]` exactly.
///
/// | text | units |
/// | --- | --- |
/// | `0.00000015` | 150 000 000 000 |
/// | `1.5e-7` | 150 000 000 000 |
/// | `-2` | −2 × 10¹⁸ |
/// | `1e-19` | error: too precise |
/// | `.5`, `5.`, `0x1`, `NaN`, `1_000` | error: malformed |
fn parse_units(text: &str, excess: Excess) -> Result<i128, DecimalError> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            require_digits(digits)?;
            // An exponent beyond 64 bits is as good as the last one: no text has so many digits.
            let last = if exponent.starts_with('-') {
                i64::MIN
            } else {
                i64::MAX
            };
            let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
            (mantissa, exponent.parse().unwrap_or(last))
        }
        None => (text, 0),
    };
    let (is_negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => {
            require_digits(fraction)?;
            (whole, fraction)
        }
        None => (digits, ""),
    };
    require_digits(whole)?;
    let places = i64::try_from(fraction.len()).map_err(|_| DecimalError::TooPrecise)?;
    let scale = exponent.saturating_sub(places).saturating_add(18);
    let units = scaled(whole.bytes().chain(fraction.bytes()), scale, excess)?;
    Ok(if is_negative {
        units.saturating_neg()
    } else {
        units
    })
}

fn require_digits(text: &str) -> Result<(), DecimalError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DecimalError::Malformed);
    }
    Ok(())
}

/// Returns the digits times ten to the scale; digits that a negative scale cuts off must be zeros, or
/// are rounded.
fn scaled(
    digits: impl Iterator<Item = u8> + Clone,
    scale: i64,
    excess: Excess,
) -> Result<i128, DecimalError> {
    let digits = digits.skip_while(|byte| *byte == b'0');
    let count = i64::try_from(digits.clone().count()).map_err(|_| DecimalError::TooLarge)?;
    let kept = count.saturating_add(scale.min(0));
    let mut units: i128 = 0;
    for (place, byte) in (0_i64..).zip(digits) {
        let digit = i128::from(byte.saturating_sub(b'0'));
        if place < kept {
            units = units
                .checked_mul(10)
                .and_then(|units| units.checked_add(digit))
                .ok_or(DecimalError::TooLarge)?;
        } else if excess == Excess::Refuse && digit != 0 {
            return Err(DecimalError::TooPrecise);
        } else if place == kept && digit >= 5 {
            units = units.checked_add(1).ok_or(DecimalError::TooLarge)?;
        }
    }
    if units == 0 || scale <= 0 {
        return Ok(units);
    }
    let power = u32::try_from(scale).map_err(|_| DecimalError::TooLarge)?;
    10_i128
        .checked_pow(power)
        .and_then(|factor| units.checked_mul(factor))
        .ok_or(DecimalError::TooLarge)
}

/// Writes the shortest exact decimal: no exponent, no trailing zeros, `0` for zero.
fn write_units(units: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let magnitude = units.unsigned_abs();
    let one = ONE.unsigned_abs();
    let whole = magnitude.checked_div(one).unwrap_or(0);
    let fraction = magnitude.checked_rem(one).unwrap_or(0);
    let sign = if units < 0 { "-" } else { "" };
    if fraction == 0 {
        return f.pad(&format!("{sign}{whole}"));
    }
    let places = format!("{fraction:018}");
    f.pad(&format!("{sign}{whole}.{}", places.trim_end_matches('0')))
}
