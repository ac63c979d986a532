//! What was kept of a rejected event's payload, as text or as hexadecimal digits.
//!
//! Invariant: nothing of a payload reaches a terminal as a control sequence.

use std::fmt::Write;

use store::rejected::RejectedPayload;

use crate::output::{Field, Record};
use crate::text::{grouped, lines};

/// Bytes in one line of hexadecimal digits.
const HEX_LINE_BYTES: usize = 32;

/// Returns the payload under `payload` where it is text, else under `payload_hex`.
pub(super) fn record(found: &RejectedPayload) -> Record {
    let (name, payload) = match text_of(&found.payload) {
        Some(text) => ("payload", text.to_owned()),
        None => ("payload_hex", hex(&found.payload)),
    };
    vec![
        (
            "payload_digest",
            Field::Text(found.payload_digest.to_string()),
        ),
        (
            "payload_kept_bytes",
            Field::Count(u128::try_from(found.payload.len()).unwrap_or(0)),
        ),
        (name, Field::Text(payload)),
    ]
}

/// Says how long the payload is, how much of it was kept, and its hash.
pub(super) fn about(found: &RejectedPayload) -> String {
    let whole = grouped(&found.event.payload_bytes.to_string());
    let kept = u64::try_from(found.payload.len()).unwrap_or(u64::MAX);
    let cut = if kept < found.event.payload_bytes {
        format!(
            ", of which the first {} were kept",
            grouped(&kept.to_string())
        )
    } else {
        String::new()
    };
    format!(
        "{whole} bytes{cut}; BLAKE3-128 of all {}",
        found.payload_digest
    )
}

/// Returns the payload for a terminal, ending in a line feed: text with its control characters
/// written out, else lines of hexadecimal digits.
pub(super) fn shown(payload: &[u8]) -> String {
    if payload.is_empty() {
        return "(no bytes)\n".to_owned();
    }
    if let Some(text) = text_of(payload) {
        return format!("{}\n", lines(text));
    }
    let mut shown = String::new();
    for line in payload.chunks(HEX_LINE_BYTES) {
        shown.push_str(&hex(line));
        shown.push('\n');
    }
    shown
}

/// Returns the bytes as text where they are UTF-8; a last character that was cut off is left out.
fn text_of(payload: &[u8]) -> Option<&str> {
    match std::str::from_utf8(payload) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => payload
            .get(..error.valid_up_to())
            .and_then(|whole| std::str::from_utf8(whole).ok()),
        Err(_) => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        let written = write!(hex, "{byte:02x}");
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn payloads_are_shown_as_text_or_as_digits() {
        let rows: [(&[u8], &str); 6] = [
            (b"", "(no bytes)\n"),
            (b"{\"a\":1}", "{\"a\":1}\n"),
            (b"\x1b[2J\nnext", "\\u{1b}[2J\nnext\n"),
            (b"\xff\x00\x1b", "ff001b\n"),
            ("é".as_bytes(), "é\n"),
            (b"cut \xc3", "cut \n"),
        ];
        for (payload, expected) in rows {
            assert_eq!(shown(payload), expected, "of {payload:?}");
        }
        let long = [0xfe_u8; 40];
        assert_eq!(shown(&long).lines().count(), 2, "32 bytes a line");
    }
}
