//! Text from outside, made fit for a terminal, a spreadsheet or JSON.
//!
//! Invariant: what comes out holds no character that a terminal acts on or that reorders or hides
//! its neighbours; everything else stays as it was.

use std::fmt::Write;

/// Says whether a character would act on a terminal, or would reorder or hide others: controls (C0,
/// DEL, C1) and the invisible formatting characters of Unicode (bidirectional controls, zero-width
/// characters, line and paragraph separators).
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
        )
}

/// Returns a text for one line of a terminal: unsafe characters as `\u{1b}`.
pub(crate) fn one_line(text: &str) -> String {
    escape(text, |_| false)
}

/// Returns a text for several lines of a terminal: as [`one_line`], but line feeds and tabs stay.
pub(crate) fn lines(text: &str) -> String {
    escape(text, |character| matches!(character, '\n' | '\t'))
}

/// Returns a text for a cell of CSV: as [`one_line`], with a leading apostrophe where a spreadsheet
/// would take it for a formula.
pub(crate) fn csv_cell(text: &str) -> String {
    let cell = one_line(text);
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{cell}")
    } else {
        cell
    }
}

/// Returns JSON whose strings hold their unsafe characters as `\u001b`. JSON itself lets DEL, C1 and
/// Unicode's formatting characters stand; outside of strings none of them can occur.
pub(crate) fn json_without_controls(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        if is_unsafe(character) {
            // All unsafe characters lie in the first plane, so one escape holds them.
            let written = write!(safe, "\\u{:04x}", u32::from(character));
            debug_assert!(written.is_ok(), "writing to a string does not fail");
        } else {
            safe.push(character);
        }
    }
    safe
}

fn escape(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unsafe(character) && !is_kept(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Returns a whole number with thousands separated by commas.
pub(crate) fn grouped(digits: &str) -> String {
    let mut grouped = String::with_capacity(digits.len().saturating_mul(4) / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::{csv_cell, grouped, json_without_controls, lines, one_line};

    #[test]
    fn what_a_terminal_acts_on_is_written_out() {
        let rows = [
            ("plain", "plain"),
            ("שלום", "שלום"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\nb\tc\r", "a\\u{a}b\\u{9}c\\u{d}"),
            ("\u{7f}\u{9b}31m", "\\u{7f}\\u{9b}31m"),
            ("abc\u{202e}cba", "abc\\u{202e}cba"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
        ];
        for (text, expected) in rows {
            assert_eq!(one_line(text), expected, "of {text:?}");
        }
        assert_eq!(
            lines("a\n\tb\u{1b}"),
            "a\n\tb\\u{1b}",
            "lines and tabs stay"
        );
        assert_eq!(
            json_without_controls("\"\u{9b}\u{202e}é\""),
            "\"\\u009b\\u202eé\"",
            "JSON"
        );
    }

    #[test]
    fn formulas_get_an_apostrophe() {
        let rows = [
            ("=cmd()", "'=cmd()"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@a", "'@a"),
            ("\t=1", "'\\u{9}=1"),
            ("a=1", "a=1"),
            ("", ""),
        ];
        for (text, expected) in rows {
            assert_eq!(csv_cell(text), expected, "of {text:?}");
        }
    }

    #[test]
    fn thousands_are_separated() {
        let rows = [
            ("0", "0"),
            ("999", "999"),
            ("1000", "1,000"),
            ("1234567", "1,234,567"),
        ];
        for (digits, expected) in rows {
            assert_eq!(grouped(digits), expected, "of {digits}");
        }
    }
}
