//! Units: how much of a limit's meter was used, is asked for, or may be used.
//!
//! Invariant: one kind of number for all meters, so that one code counts them all: whole units of a
//! quantity, or 10⁻¹⁸ of the currency for cost and for computed amounts of money. Deliberately
//! absent: which meter a number is of; its limit knows.

use crate::money::Amount;

/// So many units of a meter: whole units, or 10⁻¹⁸ of the currency. Negative only in sums that
/// corrections made so. Sums saturate: a level that stands at the end of 128 bits denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Units(i128);

impl Units {
    /// None.
    pub const ZERO: Self = Self(0);

    /// One: a request, a token, 10⁻¹⁸ of the currency.
    pub const ONE: Self = Self(1);

    /// Takes a count of units.
    #[must_use]
    pub const fn new(units: i128) -> Self {
        Self(units)
    }

    /// Returns the count of units.
    #[must_use]
    pub const fn get(self) -> i128 {
        self.0
    }

    /// Says whether there are none.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Adds; stops at the ends of 128 bits.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Subtracts; stops at the ends of 128 bits.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Returns these units, or none where they are negative.
    #[must_use]
    pub const fn or_zero(self) -> Self {
        if self.0 < 0 { Self(0) } else { self }
    }
}

impl From<u64> for Units {
    fn from(units: u64) -> Self {
        Self(units.into())
    }
}

impl From<Amount> for Units {
    fn from(amount: Amount) -> Self {
        Self(amount.units())
    }
}
