//! Medians and ratios of measures.
//!
//! Invariant: a median is a number that was measured, or the mean of two. Deliberately absent: money;
//! floats are for measures alone.

/// Returns the middle value, or the mean of both middle ones; `None` of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// Returns the value below which so many of a thousand lie; `None` of nothing.
pub(crate) fn percentile(mut values: Vec<f64>, per_mille: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = values.len().checked_sub(1)? * per_mille / 1000;
    values.get(rank).copied()
}

pub(crate) fn rounded(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "measures of a run lie far below 2^53"
)]
pub(crate) fn ratio(amount: u64, of: u64) -> f64 {
    amount as f64 / of as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        let cases: [(&[f64], Option<f64>); 4] = [
            (&[], None),
            (&[2.0], Some(2.0)),
            (&[3.0, 1.0], Some(2.0)),
            (&[9.0, 1.0, 2.0], Some(2.0)),
        ];
        for (values, expected) in cases {
            assert_eq!(median(values.to_vec()), expected, "{values:?}");
        }
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred: Vec<f64> = (0..=100_u32).rev().map(f64::from).collect();
        assert_eq!(percentile(hundred.clone(), 990), Some(99.0));
        assert_eq!(percentile(hundred, 500), Some(50.0));
        assert_eq!(percentile(vec![4.0], 990), Some(4.0));
        assert_eq!(percentile(Vec::new(), 990), None);
    }
}
