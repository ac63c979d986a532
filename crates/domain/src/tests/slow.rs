//! Decimals on digits, as on paper.

/// A number that is zero or more, in 10⁻¹⁸: its decimal digits, the least first, no leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Slow(Vec<u8>);

impl Slow {
    /// Takes a whole number of 10⁻¹⁸.
    pub(super) fn of_units(units: u128) -> Self {
        Self::of_digits(&units.to_string())
    }

    fn of_digits(digits: &str) -> Self {
        let digits = digits.trim_start_matches('0');
        Self(digits.bytes().rev().map(|byte| byte - b'0').collect())
    }

    /// Reads a plain decimal of at most 18 places.
    pub(super) fn of_text(text: &str) -> Self {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        assert!(
            fraction.len() <= 18,
            "{text} has too many places for the model"
        );
        Self::of_digits(&format!("{whole}{fraction:0<18}"))
    }

    /// Adds digit by digit.
    pub(super) fn plus(&self, other: &Self) -> Self {
        let mut sum = Vec::new();
        let mut carry = 0;
        for place in 0..self.0.len().max(other.0.len()) {
            let digit = |number: &Self| number.0.get(place).copied().unwrap_or(0);
            let digits = digit(self) + digit(other) + carry;
            sum.push(digits % 10);
            carry = digits / 10;
        }
        if carry > 0 {
            sum.push(carry);
        }
        Self(sum)
    }

    /// Multiplies by a count: shifts for each of its digits and adds as often as it says.
    pub(super) fn times(&self, count: u64) -> Self {
        let mut product = Self::default();
        for digit in count.to_string().bytes() {
            if !product.0.is_empty() {
                product.0.insert(0, 0);
            }
            for _ in 0..digit - b'0' {
                product = product.plus(self);
            }
        }
        product
    }

    /// Says whether `NUMERIC(38,18)` holds it.
    pub(super) fn fits(&self) -> bool {
        self.0.len() <= 38
    }

    /// Writes the shortest plain decimal.
    pub(super) fn to_text(&self) -> String {
        let digits: String = self
            .0
            .iter()
            .rev()
            .map(|digit| char::from(b'0' + digit))
            .collect();
        let digits = format!("{digits:0>19}");
        let (whole, fraction) = digits.split_at(digits.len() - 18);
        let text = format!("{whole}.{fraction}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[test]
fn paper_arithmetic_is_right_where_it_can_be_seen() {
    let text = |number: Slow| number.to_text();
    assert_eq!(text(Slow::default()), "0", "zero");
    assert_eq!(
        text(Slow::of_text("0.1").plus(&Slow::of_text("9.95"))),
        "10.05",
        "carry"
    );
    assert_eq!(
        text(Slow::of_text("0.000000000000000001").times(105)),
        "0.000000000000000105",
        "×"
    );
    assert_eq!(text(Slow::of_text("1.5").times(0)), "0", "× 0");
    assert_eq!(
        text(Slow::of_units(1_500_000_000_000_000_000)),
        "1.5",
        "units"
    );
}
