//! The token counts of one line, taken apart into disjoint meters.
//!
//! Invariant: the meters sum to the line's input and output, or the line is rejected; nothing is
//! clamped and nothing guessed. Deliberately absent: what the tokens cost.

use domain::event::Provenance;
use domain::meter::{Meter, Quantities};
use domain::reject::{Reason, Rejection};

use crate::decode::object::{FieldId, FieldSet, Object};
use crate::source_config::{Attribute, SourceConfig};

/// The fields that hold quantities.
#[derive(Debug)]
pub(super) struct UsageFields {
    input: FieldId,
    cache_read: FieldId,
    cache_write: FieldId,
    output: FieldId,
    reasoning: FieldId,
    total: FieldId,
    /// What the gateway does not log by itself; there where the configuration names the field.
    cache_write_1h: Option<FieldId>,
    input_audio: Option<FieldId>,
    output_audio: Option<FieldId>,
    images: Option<FieldId>,
}

impl UsageFields {
    pub(super) fn new(config: &SourceConfig, fields: &mut FieldSet) -> Self {
        let configured = |attribute| config.fields.get(&attribute).map(String::as_str);
        let mut named = |attribute, key| fields.add(configured(attribute).unwrap_or(key));
        let input = named(Attribute::InputTokens, "gen_ai.usage.input_tokens");
        let cache_read = named(
            Attribute::InputCacheReadTokens,
            "gen_ai.usage.cached_input_tokens",
        );
        let cache_write = named(
            Attribute::InputCacheWriteTokens,
            "gen_ai.usage.cache_creation_input_tokens",
        );
        let output = named(Attribute::OutputTokens, "gen_ai.usage.output_tokens");
        let reasoning = named(
            Attribute::OutputReasoningTokens,
            "gen_ai.usage.reasoning_tokens",
        );
        let total = named(Attribute::TotalTokens, "gen_ai.usage.total_tokens");
        let mut optional = |attribute| Some(fields.add(configured(attribute)?));
        Self {
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
            total,
            cache_write_1h: optional(Attribute::InputCacheWrite1hTokens),
            input_audio: optional(Attribute::InputAudioTokens),
            output_audio: optional(Attribute::OutputAudioTokens),
            images: optional(Attribute::Images),
        }
    }

    /// Returns all of the fields.
    pub(super) fn all(&self) -> impl Iterator<Item = FieldId> {
        let always = [
            self.input,
            self.cache_read,
            self.cache_write,
            self.output,
            self.reasoning,
            self.total,
        ];
        let configured = [
            self.cache_write_1h,
            self.input_audio,
            self.output_audio,
            self.images,
        ];
        always.into_iter().chain(configured.into_iter().flatten())
    }

    /// Reads what the request used, in disjoint meters.
    ///
    /// | the line has | quantities |
    /// | --- | --- |
    /// | no token count | none; provenance missing |
    /// | any token count, no input | rejected `missing_field` |
    /// | input, no output, a total other than the input | rejected `missing_field` |
    /// | input, no output (an embedding, a stream that broke) | output 0 |
    /// | a total other than input + output | rejected `inconsistent` |
    /// | parts above their whole | rejected `inconsistent` |
    pub(super) fn read(
        &self,
        line: &Object<'_, '_>,
    ) -> Result<(Quantities, Provenance), Rejection> {
        let mut quantities = Quantities::default();
        quantities.set(Meter::Requests, 1);
        let images = self
            .images
            .map(|field| line.quantity(field))
            .transpose()?
            .flatten();
        quantities.set(Meter::Images, images.unwrap_or(0));
        let provenance = match self.tokens(line, &mut quantities)? {
            Provenance::Missing if images.is_some() => Provenance::Reported,
            provenance => provenance,
        };
        Ok((quantities, provenance))
    }

    fn tokens(
        &self,
        line: &Object<'_, '_>,
        quantities: &mut Quantities,
    ) -> Result<Provenance, Rejection> {
        let optional = |field: Option<FieldId>| match field {
            Some(field) => line.quantity(field),
            None => Ok(None),
        };
        let input = line.quantity(self.input)?;
        let output = line.quantity(self.output)?;
        let total = line.quantity(self.total)?;
        let cache_read = line.quantity(self.cache_read)?;
        let cache_write = line.quantity(self.cache_write)?;
        let reasoning = line.quantity(self.reasoning)?;
        let cache_write_1h = optional(self.cache_write_1h)?;
        let input_audio = optional(self.input_audio)?;
        let output_audio = optional(self.output_audio)?;
        let others = [output, total, cache_read, cache_write, reasoning];
        let configured = [cache_write_1h, input_audio, output_audio];
        let Some(input) = input else {
            if others.iter().chain(&configured).all(Option::is_none) {
                return Ok(Provenance::Missing);
            }
            let detail = "is absent from a line with other token counts".to_owned();
            return Err(line.reject(Reason::MissingField, self.input, detail));
        };
        let output = match (output, total) {
            (Some(output), _) => output,
            (None, Some(total)) if total != input => {
                let detail = format!("is absent, and the total of {total} is not the input's");
                return Err(line.reject(Reason::MissingField, self.output, detail));
            }
            (None, _) => 0,
        };
        if let Some(total) = total.filter(|total| *total != input + output) {
            let detail = format!("is {total}, not the sum of input {input} and output {output}");
            return Err(line.reject(Reason::Inconsistent, self.total, detail));
        }
        let [
            cache_read,
            cache_write,
            cache_write_1h,
            input_audio,
            reasoning,
            output_audio,
        ] = [
            cache_read,
            cache_write,
            cache_write_1h,
            input_audio,
            reasoning,
            output_audio,
        ]
        .map(Option::unwrap_or_default);
        let parts = [cache_read, cache_write, input_audio];
        quantities.set(
            Meter::InputUncachedTokens,
            rest_of(line, self.input, input, &parts)?,
        );
        quantities.set(Meter::InputCacheReadTokens, cache_read);
        let short = rest_of(line, self.cache_write, cache_write, &[cache_write_1h])?;
        quantities.set(Meter::InputCacheWriteTokens, short);
        quantities.set(Meter::InputCacheWrite1hTokens, cache_write_1h);
        quantities.set(Meter::InputAudioTokens, input_audio);
        let parts = [reasoning, output_audio];
        quantities.set(
            Meter::OutputTextTokens,
            rest_of(line, self.output, output, &parts)?,
        );
        quantities.set(Meter::OutputReasoningTokens, reasoning);
        quantities.set(Meter::OutputAudioTokens, output_audio);
        Ok(Provenance::Reported)
    }
}

/// Takes the parts out of their whole; each is at most 2⁵³, so no sum of them overflows.
fn rest_of(
    line: &Object<'_, '_>,
    field: FieldId,
    whole: u64,
    parts: &[u64],
) -> Result<u64, Rejection> {
    let sum: u64 = parts.iter().sum();
    whole.checked_sub(sum).ok_or_else(|| {
        let detail = format!("is {whole}, less than the {sum} tokens that are parts of it");
        line.reject(Reason::Inconsistent, field, detail)
    })
}
