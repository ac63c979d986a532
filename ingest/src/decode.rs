//! From a record's bytes to usage events: one module per format of messages.
//!
//! Invariant: a pure function of the bytes, the source's configuration and the price book (which
//! providers it knows): no I/O, no clock, no panic; any bytes give at least one outcome, and each
//! event of a record gives exactly one. Deliberately absent: prices, duplicates, the age of events.

use std::sync::Arc;

use domain::event::{IdentitySecret, UsageEvent};
use domain::price::PriceBook;
use domain::reject::{Reason, Rejection};

use crate::headers::{HEADERS_MAX, Headers};
use crate::source_config::{Format, SourceConfig, SourceConfigError};

mod auto;
mod envelope;
mod envoy_ai_gateway;
mod line;
mod litellm;
mod object;
mod scan;
mod source;
#[cfg(test)]
mod tests;
mod tollbook;

use auto::{Recogniser, Shape};
use envoy_ai_gateway::EnvoyAiGateway;
use line::{LineFormat, decode_element};
use litellm::LiteLlm;
use object::{FieldId, FieldSet, Object};
use tollbook::{Mode, Tollbook, as_structured, mode_of};

/// The largest record that is parsed, in bytes: 1 MiB, some thousand times an access log line. A
/// larger one is rejected, so that its cost is that of its hash.
pub const PAYLOAD_MAX: usize = 1024 * 1024;

/// What one event of a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are events; a box would cost an allocation for each"
)]
pub enum Decoded<'a> {
    /// Usage to post.
    Event(UsageEvent<'a>),
    /// Well-formed, and by the format's rule nothing to meter.
    Ignored(Ignored),
    /// No usage can be made of it.
    Rejected(Rejection),
}

/// Why a well-formed event is not metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ignored {
    /// The line is of a request to no model: it names none and has no usage.
    NoModelRequest,
}

/// Decodes the records of one source. Cheap to share; holds no state between records.
#[derive(Debug)]
pub struct Decoder {
    format: Decoding,
}

/// How the records of one source are read.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one for each source, and never moved"
)]
enum Decoding {
    EnvoyAiGateway(EnvoyAiGateway),
    LiteLlm(LiteLlm),
    Tollbook(Tollbook),
    Auto(Box<Auto>),
}

/// Recognises each event by its shape.
#[derive(Debug)]
struct Auto {
    recogniser: Recogniser,
    envoy_ai_gateway: EnvoyAiGateway,
    litellm: LiteLlm,
    tollbook: Tollbook,
}

impl Decoder {
    /// Makes the decoder of a source; the book says which segments of a provider's logged name are
    /// providers, and identities of log lines are hashed under the installation's secret.
    ///
    /// # Errors
    ///
    /// [`SourceConfigError::Setting`] where the configuration cannot work; the caller refuses to
    /// start.
    pub fn new(
        config: &SourceConfig,
        book: Arc<PriceBook>,
        secret: IdentitySecret,
    ) -> Result<Self, SourceConfigError> {
        config.validate()?;
        let format = match config.format {
            Format::EnvoyAiGateway => {
                Decoding::EnvoyAiGateway(EnvoyAiGateway::new(config, book, secret))
            }
            Format::Litellm => Decoding::LiteLlm(LiteLlm::new(config, book, secret)),
            Format::Tollbook => Decoding::Tollbook(Tollbook::new(config, book, secret)),
            Format::Auto => Decoding::Auto(Box::new(Auto {
                recogniser: Recogniser::new(),
                envoy_ai_gateway: EnvoyAiGateway::new(config, Arc::clone(&book), secret),
                litellm: LiteLlm::new(config, Arc::clone(&book), secret),
                tollbook: Tollbook::new(config, book, secret),
            })),
        };
        Ok(Self { format })
    }

    /// Returns the message's field that an event's time comes from, for rejections by age; empty
    /// where that is another one for each event.
    #[must_use]
    pub fn time_field(&self) -> &str {
        match &self.format {
            Decoding::EnvoyAiGateway(format) => format.time_field(),
            Decoding::LiteLlm(format) => format.time_field(),
            Decoding::Tollbook(_) => "start",
            Decoding::Auto(_) => "",
        }
    }

    /// Tells each event of a record: its index within the record from 0, its own bytes without
    /// white space around them, and what it is. At least one; the indexes ascend by one.
    ///
    /// | payload | events |
    /// | --- | --- |
    /// | none (a tombstone), white space, an array of nothing | 1, rejected `empty` |
    /// | above [`PAYLOAD_MAX`] | 1, rejected `too_large` |
    /// | not UTF-8, not JSON, cut off, too deep | 1, rejected `not_json` |
    /// | an object | 1 |
    /// | an array | 1 per element; what is no object is rejected `not_an_object` |
    /// | anything else | 1, rejected `not_an_object` |
    ///
    /// An object that is a shipper's envelope stands for the line inside (see `envelope`).
    pub fn decode(&self, payload: Option<&[u8]>, emit: &mut dyn FnMut(u32, &[u8], Decoded<'_>)) {
        let payload = payload.unwrap_or_default();
        let bytes = payload.trim_ascii();
        let mut reject = |rejection| emit(0, bytes, Decoded::Rejected(rejection));
        if bytes.is_empty() {
            return reject(Rejection::new(Reason::Empty, "", "the record has no value"));
        }
        if payload.len() > PAYLOAD_MAX {
            let detail = format!("the record has {} bytes, more than 1 MiB", payload.len());
            return reject(Rejection::new(Reason::TooLarge, "", detail));
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let detail = format!("is not UTF-8 at byte {}", error.valid_up_to());
                return reject(Rejection::new(Reason::NotJson, "", detail));
            }
        };
        match envelope::elements(text) {
            Ok(envelope::Elements::One) => self.decode_event(0, text, emit),
            Ok(envelope::Elements::Many(elements)) => {
                for (index, element) in (0..).zip(elements) {
                    self.decode_event(index, element, emit);
                }
            }
            Err(rejection) => reject(rejection),
        }
    }

    /// Decodes one event: an object of the format, or an envelope around one.
    fn decode_event(&self, index: u32, text: &str, emit: &mut dyn FnMut(u32, &[u8], Decoded<'_>)) {
        let mut tell = |bytes: &[u8], decoded: Decoded<'_>| emit(index, bytes, decoded);
        match &self.format {
            Decoding::EnvoyAiGateway(format) => decode_element(format, text, &mut tell),
            Decoding::LiteLlm(format) => decode_element(format, text, &mut tell),
            Decoding::Tollbook(format) => decode_element(format, text, &mut tell),
            Decoding::Auto(auto) => match auto.recogniser.recognise(text) {
                Ok(Shape::CloudEvent) => decode_element(&auto.tollbook, text, &mut tell),
                Ok(Shape::LiteLlm) => decode_element(&auto.litellm, text, &mut tell),
                Ok(Shape::EnvoyAiGateway) => {
                    decode_element(&auto.envoy_ai_gateway, text, &mut tell);
                }
                Err(rejection) => tell(text.as_bytes(), Decoded::Rejected(rejection)),
            },
        }
    }

    /// As [`Self::decode`], for a record with headers: these may say that it is a CloudEvent, and in
    /// binary mode they are a part of it. The bytes told of such an event are those of its structured
    /// form, which is all of it.
    pub fn decode_record(
        &self,
        headers: &Headers,
        payload: Option<&[u8]>,
        emit: &mut dyn FnMut(u32, &[u8], Decoded<'_>),
    ) {
        let tollbook = match &self.format {
            Decoding::Tollbook(format) => format,
            Decoding::Auto(auto) => &auto.tollbook,
            Decoding::EnvoyAiGateway(_) | Decoding::LiteLlm(_) => {
                return self.decode(payload, emit);
            }
        };
        let is_small = payload.is_none_or(|payload| payload.len() <= PAYLOAD_MAX);
        // Further headers than are kept might say another mode, or what is not read.
        let is_whole = headers.too_many().is_none();
        if !is_small || (is_whole && mode_of(headers) != Mode::Binary) {
            return self.decode(payload, emit);
        }
        let data = payload.unwrap_or_default().trim_ascii();
        let too_many = headers.too_many().map(|count| {
            let detail =
                format!("the record has {count} headers of an event, more than {HEADERS_MAX}");
            Decoded::Rejected(Rejection::new(Reason::TooLarge, "", detail))
        });
        let decoded = too_many.unwrap_or_else(|| match std::str::from_utf8(data) {
            Ok("") => {
                let detail = "the event has no data";
                Decoded::Rejected(Rejection::new(Reason::Empty, "", detail))
            }
            Ok(data) => tollbook.decode_binary(headers, data),
            Err(error) => {
                let detail = format!("is not UTF-8 at byte {}", error.valid_up_to());
                Decoded::Rejected(Rejection::new(Reason::NotJson, "", detail))
            }
        });
        match decoded {
            // Told only of rejected ones, for which the whole event is kept.
            Decoded::Rejected(_) => {
                let whole = as_structured(headers, data);
                emit(0, whole.as_bytes(), decoded);
            }
            Decoded::Event(_) | Decoded::Ignored(_) => emit(0, data, decoded),
        }
    }
}

impl LineFormat for EnvoyAiGateway {
    fn fields(&self) -> &FieldSet {
        Self::fields(self)
    }

    fn envelope_fields(&self) -> [FieldId; 2] {
        Self::envelope_fields(self)
    }

    fn is_metered(&self, line: &Object<'_, '_>) -> bool {
        Self::is_metered(self, line)
    }

    fn decode<'a>(&'a self, line: &Object<'a, '_>, text: &'a str) -> Decoded<'a> {
        Self::decode(self, line, text.as_bytes())
    }
}
