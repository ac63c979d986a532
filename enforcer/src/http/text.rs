//! The JSON that decisions are asked in, as it is written.
//!
//! Invariant: strict: what is unknown, twice, out of range or of another type is refused with a
//! sentence; an absent field and one of `null` are the same. Texts are borrowed from the body wherever
//! they hold no escapes.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use domain::meter::QUANTITY_MAX;
use domain::money::Amount;
use domain::nearest::nearest;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::problem::Problem;

/// The most candidates of one request.
const CANDIDATES_MAX: usize = 100;

/// The most headers of one request.
const HEADERS_MAX: usize = 200;

/// The longest id of somebody or something, in bytes: as usage events have it.
const ID_BYTES_MAX: usize = 256;

/// What is asked or reported.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AskText<'a> {
    #[serde(borrow)]
    pub(super) tenant: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) app: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) user: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) session: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) provider: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) route: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) method: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) host: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) path: Option<Text<'a>>,
    pub(super) source_address: Option<IpAddr>,
    pub(super) destination_address: Option<IpAddr>,
    #[serde(borrow)]
    pub(super) headers: Option<HeadersText<'a>>,
    pub(super) estimate: Option<Object<EstimateText>>,
    #[serde(borrow)]
    pub(super) candidates: Option<Vec<Object<CandidateText<'a>>>>,
    pub(super) report: Option<Object<ReportText>>,
}

/// A model, provider or instance that could serve the request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CandidateText<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) provider: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) instance: Option<Text<'a>>,
}

/// What the request will use.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EstimateText {
    pub(super) input_tokens: Option<Count>,
    pub(super) output_tokens: Option<Count>,
    pub(super) cost: Option<Money>,
}

/// What was used.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ReportText {
    pub(super) requests: Option<Count>,
    pub(super) input_uncached_tokens: Option<Count>,
    pub(super) input_cache_read_tokens: Option<Count>,
    pub(super) input_cache_write_tokens: Option<Count>,
    pub(super) input_cache_write_1h_tokens: Option<Count>,
    pub(super) input_audio_tokens: Option<Count>,
    pub(super) output_text_tokens: Option<Count>,
    pub(super) output_reasoning_tokens: Option<Count>,
    pub(super) output_audio_tokens: Option<Count>,
    pub(super) images: Option<Count>,
    pub(super) input_tokens: Option<Count>,
    pub(super) output_tokens: Option<Count>,
    pub(super) total_tokens: Option<Count>,
    pub(super) cost: Option<Money>,
}

/// An object, and not the array that would stand for one by the order of its fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<T>(pub(super) T);

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A text.
#[derive(Debug)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A whole number that every reader of JSON holds exactly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = u64::deserialize(deserializer)?;
        if count > QUANTITY_MAX {
            return Err(D::Error::custom(format_args!(
                "{count} is above {QUANTITY_MAX}"
            )));
        }
        Ok(Self(count))
    }
}

/// An amount of money, never negative, as a decimal number in quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Money(pub(super) Amount);

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_str(TextVisitor)?;
        let amount = text.as_ref().parse::<Amount>();
        let amount = amount.map_err(|error| D::Error::custom(format_args!("cost: {error}")))?;
        if amount < Amount::ZERO {
            return Err(D::Error::custom("a cost is never negative"));
        }
        Ok(Self(amount))
    }
}

/// Headers by lower-case name.
#[derive(Debug)]
pub(super) struct HeadersText<'a>(pub(super) Vec<(Text<'a>, Text<'a>)>);

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = HeadersText<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("headers: an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeadersText<'de>, A::Error> {
        let mut headers: Vec<(Text<'de>, Text<'de>)> = Vec::new();
        while let Some((Text(name), value)) = map.next_entry::<Text<'de>, Text<'de>>()? {
            if headers.len() >= HEADERS_MAX {
                let problem = format_args!("more than {HEADERS_MAX} headers");
                return Err(A::Error::custom(problem));
            }
            let has_capitals = name.bytes().any(|byte| byte.is_ascii_uppercase());
            let name = if has_capitals {
                Cow::Owned(name.to_ascii_lowercase())
            } else {
                name
            };
            headers.push((Text(name), value));
        }
        Ok(HeadersText(headers))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for HeadersText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadersVisitor)
    }
}

/// Reads a body.
pub(super) fn read(body: &[u8]) -> Result<AskText<'_>, Problem> {
    let read = serde_json::from_slice(body);
    let Object(ask): Object<AskText<'_>> = read.map_err(|error| refuse(&error))?;
    let candidates = ask.candidates.as_deref().unwrap_or_default();
    if candidates.len() > CANDIDATES_MAX {
        let count = candidates.len();
        return Err(Problem::bad(format!(
            "candidates: {count} of them; send at most {CANDIDATES_MAX}"
        )));
    }
    let ids = [
        ("tenant", &ask.tenant),
        ("app", &ask.app),
        ("user", &ask.user),
        ("session", &ask.session),
        ("model", &ask.model),
        ("provider", &ask.provider),
        ("route", &ask.route),
    ];
    let of_candidates = candidates.iter().flat_map(|Object(candidate)| {
        [
            ("candidates: model", &candidate.model),
            ("candidates: provider", &candidate.provider),
            ("candidates: instance", &candidate.instance),
        ]
    });
    for (name, text) in ids.into_iter().chain(of_candidates) {
        let bytes = text.as_ref().map_or(0, |text| text.as_ref().len());
        if bytes > ID_BYTES_MAX {
            return Err(Problem::bad(format!(
                "{name}: {bytes} bytes long; an id has at most {ID_BYTES_MAX}"
            )));
        }
    }
    Ok(ask)
}

/// Makes a sentence of what the reader said; of an unknown field with the nearest known one.
fn refuse(error: &serde_json::Error) -> Problem {
    let said = error.to_string();
    let mut quoted = said.split('`').skip(1).step_by(2);
    if said.starts_with("unknown field")
        && let Some(unknown) = quoted.next()
    {
        let unknown: String = unknown.chars().take(64).collect();
        let place = said.rsplit_once(" at line ").map_or("", |(_, place)| place);
        let known = nearest(&unknown, quoted.clone());
        let mean = known.map_or_else(String::new, |known| format!("; did you mean \"{known}\"?"));
        return Problem::bad(format!(
            "there is no field \"{unknown}\" (line {place}){mean}"
        ));
    }
    Problem::bad(format!("the body cannot be read: {said}"))
}
