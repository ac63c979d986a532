//! Money: texts and arithmetic against decimals on paper.

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::slow::Slow;
use crate::money::{Amount, DecimalError, Rate};

const UNITS_MAX: i128 = 99_999_999_999_999_999_999_999_999_999_999_999_999;

/// Units of every size, the limits often.
fn units() -> impl Strategy<Value = i128> {
    prop_oneof![
        any::<i128>().prop_map(|units| units % (UNITS_MAX + 1)),
        any::<i64>().prop_map(i128::from),
        (0_u32..127, any::<i128>()).prop_map(|(bits, units)| (units >> bits) % (UNITS_MAX + 1)),
        prop_oneof![
            Just(0),
            Just(1),
            Just(-1),
            Just(UNITS_MAX),
            Just(-UNITS_MAX)
        ],
    ]
}

/// What a decimal text means, worked out on its characters: the shortest text, or what is wrong.
fn read_on_paper(text: &str) -> Result<String, Vec<DecimalError>> {
    let malformed = || vec![DecimalError::Malformed];
    let lower = text.to_ascii_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let unsigned = |text: &str| text.strip_prefix(['+', '-']).unwrap_or(text).to_owned();
    let is_digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let digits = unsigned(mantissa);
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, "0"));
    if !is_digits(whole) || !is_digits(fraction) || !is_digits(&unsigned(exponent)) {
        return Err(malformed());
    }
    let mut whole: Vec<char> = whole.chars().collect();
    let mut fraction: Vec<char> = fraction.chars().collect();
    let steps: usize = unsigned(exponent).parse().unwrap();
    for _ in 0..steps {
        if exponent.starts_with('-') {
            fraction.insert(0, whole.pop().unwrap_or('0'));
        } else {
            whole.push(if fraction.is_empty() {
                '0'
            } else {
                fraction.remove(0)
            });
        }
    }
    let whole: String = whole.into_iter().collect();
    let fraction: String = fraction.into_iter().collect();
    let (whole, fraction) = (
        whole.trim_start_matches('0'),
        fraction.trim_end_matches('0'),
    );
    let mut wrong = Vec::new();
    if fraction.len() > 18 {
        wrong.push(DecimalError::TooPrecise);
    }
    if whole.len() > 20 {
        wrong.push(DecimalError::TooLarge);
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let is_zero = whole.is_empty() && fraction.is_empty();
    let sign = if mantissa.starts_with('-') && !is_zero {
        "-"
    } else {
        ""
    };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    Ok(format!("{sign}{whole}{point}{fraction}"))
}

/// Texts that are decimals or nearly so.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[-+]?[0-9]{1,25}",
        "[-+]?[0-9]{1,22}\\.[0-9]{1,22}",
        "[-+]?0{0,3}[0-9]{1,4}(\\.[0-9]{1,4}0{0,20})?[eE][-+]?[0-9]{1,2}",
        "[-+]?0\\.0{0,12}[0-9]{1,8}(e-?[0-9])?",
        "[-+0-9.eE_ ]{0,8}",
        ".{0,6}",
    ]
}

proptest! {
    #[test]
    fn amounts_are_written_shortest_and_read_back(units in units()) {
        let amount = Amount::from_units(units).unwrap();
        let text = amount.to_string();
        let sign = if units < 0 { "-" } else { "" };
        prop_assert_eq!(&text, &format!("{sign}{}", Slow::of_units(units.unsigned_abs()).to_text()));
        prop_assert_eq!(text.parse::<Amount>(), Ok(amount));
        let rate = if units < 0 { Err(DecimalError::Negative) } else { Ok(text.clone()) };
        prop_assert_eq!(text.parse::<Rate>().map(|rate| rate.to_string()), rate);
    }

    #[test]
    fn texts_are_read_as_on_paper(text in texts()) {
        let read = text.parse::<Amount>().map(|amount| amount.to_string());
        match (read, read_on_paper(&text)) {
            (Ok(read), expected) => prop_assert_eq!(Ok(read), expected, "{}", text),
            (Err(error), Err(wrong)) => {
                prop_assert!(wrong.contains(&error), "{} is {:?}, not {:?}", text, wrong, error);
            }
            (Err(error), Ok(read)) => prop_assert!(false, "{text} is {read}, not {error}"),
        }
    }

    #[test]
    fn a_rate_times_a_quantity_is_exact_or_none(units in units(), quantity in any::<u64>()) {
        let rate = Rate::from_units(units.abs()).unwrap();
        for quantity in [quantity, quantity % 1000, quantity >> 20] {
            let on_paper = Slow::of_units(units.unsigned_abs()).times(quantity);
            let amount = rate.checked_times(quantity).map(|amount| amount.to_string());
            prop_assert_eq!(amount, on_paper.fits().then(|| on_paper.to_text()));
        }
    }

    #[test]
    fn adding_is_exact_or_none_and_subtracting_undoes_it(one in units(), other in units()) {
        let [one, other] = [one, other].map(|units| Amount::from_units(units).unwrap());
        let sum = one.checked_add(other);
        prop_assert_eq!(sum, other.checked_add(one), "in either order");
        if let Some(sum) = sum {
            prop_assert_eq!(sum.checked_sub(other), Some(one), "undone");
        }
        let [one, other] = [one, other].map(|amount| amount.units().unsigned_abs());
        let on_paper = Slow::of_units(one).plus(&Slow::of_units(other));
        let amounts = [one, other].map(|units| Amount::from_units(units.cast_signed()).unwrap());
        let sum = amounts[0].checked_add(amounts[1]).map(|sum| sum.to_string());
        prop_assert_eq!(sum, on_paper.fits().then(|| on_paper.to_text()));
    }
}

#[test]
fn texts_at_the_limits_are_read_or_refused() {
    use DecimalError::{Malformed, TooLarge, TooPrecise};
    let nines = "99999999999999999999.999999999999999999";
    let cases = [
        ("0.00000015", Ok("0.00000015")),
        ("1.5e-7", Ok("0.00000015")),
        ("1.5E-07", Ok("0.00000015")),
        ("-2", Ok("-2")),
        ("+2", Ok("2")),
        ("-0.0", Ok("0")),
        ("0e99", Ok("0")),
        ("0e99999999999999999999", Ok("0")),
        ("1e99999999999999999999", Err(TooLarge)),
        ("1e-99999999999999999999", Err(TooPrecise)),
        ("1e-18", Ok("0.000000000000000001")),
        ("1e-19", Err(TooPrecise)),
        ("10e-19", Ok("0.000000000000000001")),
        (nines, Ok(nines)),
        ("100000000000000000000", Err(TooLarge)),
        ("1e19", Ok("10000000000000000000")),
        ("1e20", Err(TooLarge)),
        ("", Err(Malformed)),
        (".5", Err(Malformed)),
        ("5.", Err(Malformed)),
        ("1e", Err(Malformed)),
        ("1e+-1", Err(Malformed)),
        ("--1", Err(Malformed)),
        ("0x1", Err(Malformed)),
        ("NaN", Err(Malformed)),
        ("inf", Err(Malformed)),
        ("1_000", Err(Malformed)),
        (" 1", Err(Malformed)),
        ("１", Err(Malformed)),
    ];
    for (text, expected) in cases {
        let read = text.parse::<Amount>().map(|amount| amount.to_string());
        assert_eq!(
            read.as_deref().map_err(|error| *error),
            expected,
            "{text:?}"
        );
    }
    assert_eq!(Amount::from_units(UNITS_MAX + 1), None, "above");
    assert_eq!(Amount::from_units(-UNITS_MAX - 1), None, "below");
    assert_eq!(Rate::from_units(-1), None, "a rate below zero");
}
