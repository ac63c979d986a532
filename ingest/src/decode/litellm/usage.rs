//! The token counts of one payload, taken apart into disjoint meters.
//!
//! Invariant: the meters sum to the payload's prompt and completion tokens, or the event is rejected;
//! nothing is clamped and nothing guessed. Image and video tokens have no meter of their own and stay
//! in the text's. Deliberately absent: what the tokens cost.

use domain::event::Provenance;
use domain::meter::{Meter, Quantities};
use domain::reject::{Reason, Rejection};

use crate::decode::line::within;
use crate::decode::object::{FieldId, FieldSet, Object, Room};
use crate::decode::scan::Value;

/// Where a payload may have the usage object, in the order in which they are tried.
const OBJECTS: [&str; 3] = [
    "metadata.usage_object",
    "hidden_params.usage_object",
    "response.usage",
];

/// The fields that hold quantities: those of the payload, and those of its usage object.
#[derive(Debug)]
pub(super) struct UsageFields {
    objects: [FieldId; 3],
    totals: Totals,
    fields: FieldSet,
    inner: Totals,
    /// Further names of the same counts, of the responses API.
    responses: [FieldId; 2],
    cache_read: Vec<FieldId>,
    cache_write: Vec<FieldId>,
    cache_write_1h: Vec<FieldId>,
    input_audio: Vec<FieldId>,
    reasoning: Vec<FieldId>,
    output_audio: Vec<FieldId>,
}

#[derive(Debug, Clone, Copy)]
struct Totals {
    input: FieldId,
    output: FieldId,
    total: FieldId,
}

impl Totals {
    fn new(fields: &mut FieldSet) -> Self {
        Self {
            input: fields.add("prompt_tokens"),
            output: fields.add("completion_tokens"),
            total: fields.add("total_tokens"),
        }
    }
}

/// What a payload counts, as far as it says so.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    input: u64,
    output: u64,
    total: Option<u64>,
    cache_read: u64,
    cache_write: u64,
    cache_write_1h: u64,
    input_audio: u64,
    reasoning: u64,
    output_audio: u64,
}

impl UsageFields {
    pub(super) fn new(outer: &mut FieldSet) -> Self {
        let objects = OBJECTS.map(|name| outer.add(name));
        let totals = Totals::new(outer);
        let mut fields = FieldSet::default();
        let inner = Totals::new(&mut fields);
        let mut all = |names: &[&str]| names.iter().map(|name| fields.add(name)).collect();
        Self {
            objects,
            totals,
            inner,
            cache_read: all(&[
                "prompt_tokens_details.cached_tokens",
                "input_tokens_details.cached_tokens",
                "cache_read_input_tokens",
            ]),
            cache_write: all(&[
                "prompt_tokens_details.cache_creation_tokens",
                "prompt_tokens_details.cache_write_tokens",
                "cache_creation_input_tokens",
            ]),
            cache_write_1h: all(&[
                "prompt_tokens_details.cache_creation_token_details.ephemeral_1h_input_tokens",
                "cache_creation.ephemeral_1h_input_tokens",
            ]),
            input_audio: all(&[
                "prompt_tokens_details.audio_tokens",
                "input_tokens_details.audio_tokens",
            ]),
            reasoning: all(&[
                "completion_tokens_details.reasoning_tokens",
                "output_tokens_details.reasoning_tokens",
            ]),
            output_audio: all(&[
                "completion_tokens_details.audio_tokens",
                "output_tokens_details.audio_tokens",
            ]),
            responses: ["input_tokens", "output_tokens"].map(|name| fields.add(name)),
            fields,
        }
    }

    /// Reads what the request used, in disjoint meters.
    ///
    /// | the payload has | quantities |
    /// | --- | --- |
    /// | no token at all: LiteLLM writes 0 where it knows none | none; provenance missing |
    /// | a usage object with tokens | of that object |
    /// | usage objects of zeros alone | of the next, else as if there were none |
    /// | counts of its own, not 0, other than its usage object's | rejected `inconsistent` |
    /// | counts of its own only | all uncached input and text |
    /// | a total other than input + output | rejected `inconsistent` |
    /// | two names of one count that differ | rejected `inconsistent` |
    /// | parts above their whole | rejected `inconsistent` |
    pub(super) fn read(
        &self,
        line: &Object<'_, '_>,
    ) -> Result<(Quantities, Provenance), Rejection> {
        for field in self.objects {
            let Some(Value::Object(text)) = line.value(field) else {
                continue;
            };
            let name = line.name(field);
            let mut room = Room::default();
            let usage = Object::read(&self.fields, text, &mut room);
            let usage = usage.map_err(|fault| within(name, &fault))?;
            let counts = self.of_object(&usage);
            let Some(counts) = counts.map_err(|fault| within(name, &fault))? else {
                continue;
            };
            let found = counts.split(&usage, self.inner);
            let found = found.map_err(|fault| within(name, &fault))?;
            self.check_own(line, name, counts)?;
            return Ok(found);
        }
        let count = |field| line.quantity(field);
        let counts = Counts {
            input: count(self.totals.input)?.unwrap_or(0),
            output: count(self.totals.output)?.unwrap_or(0),
            total: count(self.totals.total)?,
            ..Counts::default()
        };
        counts.split(line, self.totals)
    }

    /// Compares the payload's own counts with those of its usage object; 0 is what LiteLLM writes
    /// where it knows none.
    fn check_own(
        &self,
        line: &Object<'_, '_>,
        object: &str,
        counts: Counts,
    ) -> Result<(), Rejection> {
        let Counts { input, output, .. } = counts;
        for (field, counted) in [
            (self.totals.input, input),
            (self.totals.output, output),
            (self.totals.total, input + output),
        ] {
            let own = line.quantity(field)?.unwrap_or(0);
            if own != 0 && own != counted {
                let detail = format!("is {own}, but {object} counts {counted}");
                return Err(line.reject(Reason::Inconsistent, field, detail));
            }
        }
        Ok(())
    }

    /// Reads a usage object; `None` where it counts neither input nor output, or nothing at all.
    fn of_object(&self, usage: &Object<'_, '_>) -> Result<Option<Counts>, Rejection> {
        let [input, output] = self.responses;
        let input = agreed(usage, &[self.inner.input, input])?;
        let output = agreed(usage, &[self.inner.output, output])?;
        if input.is_none() && output.is_none() {
            return Ok(None);
        }
        let part = |fields: &[FieldId]| Ok(agreed(usage, fields)?.unwrap_or(0));
        let counts = Counts {
            input: input.unwrap_or(0),
            output: output.unwrap_or(0),
            total: usage.quantity(self.inner.total)?,
            cache_read: part(&self.cache_read)?,
            cache_write: part(&self.cache_write)?,
            cache_write_1h: part(&self.cache_write_1h)?,
            input_audio: part(&self.input_audio)?,
            reasoning: part(&self.reasoning)?,
            output_audio: part(&self.output_audio)?,
        };
        Ok((!counts.is_nothing()).then_some(counts))
    }
}

/// Reads one count under several names: what is not zero must agree.
fn agreed(usage: &Object<'_, '_>, fields: &[FieldId]) -> Result<Option<u64>, Rejection> {
    let mut found: Option<(FieldId, u64)> = None;
    for field in fields {
        let Some(count) = usage.quantity(*field)? else {
            continue;
        };
        match found {
            Some((first, other)) if other != count && other != 0 && count != 0 => {
                let detail = format!("is {count}, but {} is {other}", usage.name(first));
                return Err(usage.reject(Reason::Inconsistent, *field, detail));
            }
            Some((_, other)) if other != 0 => {}
            Some(_) | None => found = Some((*field, count)),
        }
    }
    Ok(found.map(|(_, count)| count))
}

impl Counts {
    const fn is_nothing(self) -> bool {
        let Self {
            input,
            output,
            total,
            cache_read,
            cache_write,
            cache_write_1h,
            input_audio,
            reasoning,
            output_audio,
        } = self;
        let input = input | cache_read | cache_write | cache_write_1h | input_audio;
        let output = output | reasoning | output_audio;
        input == 0 && output == 0 && matches!(total, None | Some(0))
    }

    fn split(
        self,
        line: &Object<'_, '_>,
        fields: Totals,
    ) -> Result<(Quantities, Provenance), Rejection> {
        let (input, output) = (self.input, self.output);
        if let Some(total) = self.total.filter(|total| *total != input + output) {
            let detail = format!("is {total}, not the sum of input {input} and output {output}");
            return Err(line.reject(Reason::Inconsistent, fields.total, detail));
        }
        let rest_of = |field, whole: u64, parts: &[u64]| {
            // Each is at most 2^53, so that no sum of them overflows.
            let sum: u64 = parts.iter().sum();
            whole.checked_sub(sum).ok_or_else(|| {
                let detail = format!("is {whole}, less than the {sum} tokens that are parts of it");
                line.reject(Reason::Inconsistent, field, detail)
            })
        };
        let input_parts = [self.cache_read, self.cache_write, self.input_audio];
        let uncached = rest_of(fields.input, input, &input_parts)?;
        let text = rest_of(fields.output, output, &[self.reasoning, self.output_audio])?;
        let short = self.cache_write.checked_sub(self.cache_write_1h);
        let short = short.ok_or_else(|| {
            let detail = format!(
                "holds {} tokens cached for an hour, more than the {} that were cached",
                self.cache_write_1h, self.cache_write
            );
            line.reject(Reason::Inconsistent, fields.input, detail)
        })?;
        let mut quantities = super::request_alone();
        for (meter, quantity) in [
            (Meter::InputUncachedTokens, uncached),
            (Meter::InputCacheReadTokens, self.cache_read),
            (Meter::InputCacheWriteTokens, short),
            (Meter::InputCacheWrite1hTokens, self.cache_write_1h),
            (Meter::InputAudioTokens, self.input_audio),
            (Meter::OutputTextTokens, text),
            (Meter::OutputReasoningTokens, self.reasoning),
            (Meter::OutputAudioTokens, self.output_audio),
        ] {
            quantities.set(meter, quantity);
        }
        let provenance = if input + output > 0 {
            Provenance::Reported
        } else {
            Provenance::Missing
        };
        Ok((quantities, provenance))
    }
}
