//! Seconds since 1970 as decimal text, to the millisecond.
//!
//! Invariant: no float: the digits after the third are cut, whatever they are.

use domain::time::UnixMs;

/// Reads seconds with at most a fraction, as Python writes times; `None` for anything else, and
/// outside the years 1970 to 9999.
///
/// | text | ms |
/// | --- | --- |
/// | `1795226006` | 1795226006000 |
/// | `1795226006.5` | 1795226006500 |
/// | `1795226006.579713` | 1795226006579 |
/// | `-1`, `1e9`, `.5`, `1.` | none |
pub(super) fn epoch_seconds(text: &str) -> Option<UnixMs> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (text, ""),
    };
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits = fraction.bytes().chain(*b"000").take(3);
    let ms = digits.fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
    UnixMs::new(seconds.checked_mul(1000)?.checked_add(ms)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::epoch_seconds;

    #[test]
    fn only_plain_decimals_are_seconds() {
        let ms = |text| epoch_seconds(text).map(domain::time::UnixMs::get);
        assert_eq!(ms("0"), Some(0));
        assert_eq!(ms("1795226006.579713"), Some(1_795_226_006_579));
        assert_eq!(
            ms("1795226006.0009999999999999999999"),
            Some(1_795_226_006_000)
        );
        assert_eq!(ms("253402300799.999"), Some(253_402_300_799_999));
        for wrong in [
            "",
            "-1",
            "-0",
            "+1",
            "1.",
            ".5",
            "1e9",
            "1.5e3",
            "1.2.3",
            " 1",
            "253402300800",
            "9223372036854775807",
            "99999999999999999999",
            "\u{661}",
            "NaN",
        ] {
            assert_eq!(ms(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_time_is_cut_to_its_millisecond(ms in 0_i64..253_402_300_800_000, more in "[0-9]{0,9}") {
            let text = format!("{}.{:03}{more}", ms / 1000, ms % 1000);
            prop_assert_eq!(epoch_seconds(&text).map(domain::time::UnixMs::get), Some(ms));
        }
    }
}
