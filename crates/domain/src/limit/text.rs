//! Limits in words, for people: units of a meter, windows and buckets.
//!
//! Invariant: a number is exact, and reads as the person wrote it that set the limit. Deliberately
//! absent: names of policies and keys.

use super::{Algorithm, LimitSpec, MeterSelector};
use crate::money::Amount;
use crate::units::Units;
use crate::window::WindowSpec;

impl MeterSelector {
    /// Writes units of this meter: of cost an amount of the currency, else a whole number.
    #[must_use]
    pub fn text_of(self, units: Units) -> String {
        match (self, Amount::from_units(units.get())) {
            (Self::Cost, Some(amount)) => amount.to_string(),
            // What no amount can hold is far above any limit.
            _ => units.get().to_string(),
        }
    }
}

impl LimitSpec {
    /// Describes how it counts: `day in Europe/Berlin`, `sliding 60s`, `token bucket, 50 each 30s`.
    #[must_use]
    pub fn algorithm_text(&self) -> String {
        let (name, refill) = match self.algorithm() {
            Algorithm::Window(window) => return window_text(window),
            Algorithm::TokenBucket(refill) => ("token bucket", refill),
            Algorithm::LeakyBucket(refill) => ("leaky bucket", refill),
        };
        let amount = self.meter().text_of(refill.amount);
        format!("{name}, {amount} each {}", span_text(refill.every.ms()))
    }
}

fn window_text(window: &WindowSpec) -> String {
    match window {
        WindowSpec::Fixed(length) => format!("fixed {}", span_text(length.ms())),
        WindowSpec::Sliding(length) => format!("sliding {}", span_text(length.ms())),
        WindowSpec::Calendar(calendar) => {
            let period = calendar.period.name();
            format!("{period} in {}", calendar.zone)
        }
    }
}

/// Writes a span of time in its greatest whole unit.
fn span_text(ms: i64) -> String {
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    let whole = units.into_iter().find_map(|(unit, name)| {
        let is_whole = ms.checked_rem(unit) == Some(0);
        Some(format!(
            "{}{name}",
            ms.checked_div(unit).filter(|_| is_whole)?
        ))
    });
    whole.unwrap_or_else(|| format!("{ms}ms"))
}

#[cfg(test)]
mod tests {
    use super::span_text;

    #[test]
    fn a_span_is_written_in_its_greatest_whole_unit() {
        let rows = [
            (1, "1ms"),
            (60_000, "1m"),
            (90_000, "90s"),
            (86_400_000, "1d"),
            (7_200_000, "2h"),
            (1_500, "1500ms"),
        ];
        for (ms, text) in rows {
            assert_eq!(span_text(ms), text, "{ms}");
        }
    }
}
