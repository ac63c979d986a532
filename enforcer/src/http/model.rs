//! The model that a body asks for: the top-level `model` of a JSON object, as `OpenAI`,
//! Anthropic and others have it.
//!
//! Invariant: bounded in size and time. A body that is cut, is no such object, or names a model twice
//! names none: of two, nobody knows which the upstream takes. Deliberately absent: paths that name a
//! model.

use std::fmt;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::BODY_WITHIN;

/// How much of a body that is too long is let pass, in bytes.
const PASSED_BYTES_MAX: usize = 1_024 * 1_024;

/// Reads a body of at most `max` bytes and returns the model that it names.
pub(super) async fn of_body(mut body: Incoming, max: usize) -> Option<String> {
    let read = async {
        let mut taken = Vec::new();
        let mut passed = 0_usize;
        while let Some(frame) = body.frame().await {
            let data = frame
                .ok()?
                .into_data()
                .unwrap_or_else(|_trailers| Bytes::new());
            let length = taken.len().saturating_add(data.len());
            if passed > 0 || length > max {
                // A peer that is still sending would not see the answer.
                taken.clear();
                passed = passed.saturating_add(data.len()).max(1);
                if passed > PASSED_BYTES_MAX {
                    return None;
                }
            } else {
                taken.extend_from_slice(&data);
            }
        }
        named(&taken)
    };
    let read = tokio::time::timeout(BODY_WITHIN, read).await;
    read.ok().flatten()
}

/// Returns the model that a whole body names.
pub(crate) fn named(body: &[u8]) -> Option<String> {
    let Asked { model } = serde_json::from_slice(body).ok()?;
    model.filter(|model| !model.is_empty())
}

struct Asked {
    model: Option<String>,
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AskedVisitor)
    }
}

struct AskedVisitor;

impl<'de> Visitor<'de> for AskedVisitor {
    type Value = Asked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asked, A::Error> {
        let mut model = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "model" {
                let _passed: IgnoredAny = map.next_value()?;
            } else if model.is_some() {
                return Err(A::Error::custom("two models"));
            } else {
                model = Some(map.next_value()?);
            }
        }
        Ok(Asked { model })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_once_at_the_top() {
        for (body, model) in [
            (
                r#"{"messages":[{"model":"inner"}],"model":"gpt-4o","n":1}"#,
                Some("gpt-4o"),
            ),
            (r#" {"model" : "a\"b\u00e9"} "#, Some("a\"bé")),
            (r#"{"model":"a","model":"b"}"#, None),
            (r#"{"model":"a","mod\u0065l":"b"}"#, None),
            (r#"{"model":"a","messages":["#, None),
            (r#"{"model":"a"} {"model":"b"}"#, None),
            (r#"{"model":""}"#, None),
            (r#"{"model":null}"#, None),
            (r#"{"model":7}"#, None),
            (r#"{"Model":"a"}"#, None),
            (r#"[{"model":"a"}]"#, None),
            ("", None),
            ("\u{feff}{}", None),
        ] {
            assert_eq!(named(body.as_bytes()).as_deref(), model, "{body}");
        }
        let deep = format!(
            "{{\"x\":{}1{},\"model\":\"a\"}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(
            named(deep.as_bytes()).as_deref(),
            Some("a"),
            "what is passed over may be deep"
        );
        assert_eq!(named(b"{\"model\":\"\xff\"}"), None, "no text");
    }
}
