//! A generator of messages: captured lines, as they are and spoilt in every way that we know of.
//!
//! Invariant: the same seed gives the same messages. Among some thousands of them are all reasons for
//! which a decoder rejects, and all shapes that it accepts. Deliberately absent: what a message must
//! decode to; whoever plays it asks the oracle.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// What is done to a captured line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// Nothing.
    None,
    /// A key is left out.
    DropKey,
    /// A key occurs twice, at times written with an escape.
    DuplicateKey,
    /// A value has another type.
    Retype,
    /// A number at an edge, or no whole number.
    Number,
    /// A string at an edge: empty, long, with control characters, halves of surrogate pairs.
    Text,
    /// A time at an edge.
    Time,
    /// Another status or other response flags.
    Outcome,
    /// The line of a request to no model.
    NoModel,
    /// A request to a model without token counts, and at times without an application.
    NoUsage,
    /// Token counts that contradict each other.
    Contradict,
    /// Numbers as decimal strings, keys with escapes, other order, white space: the same line.
    Rewrite,
    /// Bytes at the end are missing.
    Truncate,
    /// One byte is another.
    FlipByte,
    /// A value of many levels.
    Nest,
    /// A field that nobody asked for.
    UnknownField,
    /// A shipper's envelope around it.
    Envelope,
    /// An envelope around something that is no line.
    BrokenEnvelope,
    /// An array of lines, some of them spoilt.
    Array,
    /// An array that is no array of lines.
    BrokenArray,
    /// JSON, but no object.
    Scalar,
    /// No value, or white space.
    Empty,
    /// Random bytes.
    Noise,
    /// More bytes than are parsed.
    Huge,
}

impl Mutation {
    /// All mutations.
    pub const ALL: [Self; 24] = [
        Self::None,
        Self::DropKey,
        Self::DuplicateKey,
        Self::Retype,
        Self::Number,
        Self::Text,
        Self::Time,
        Self::Outcome,
        Self::NoModel,
        Self::NoUsage,
        Self::Contradict,
        Self::Rewrite,
        Self::Truncate,
        Self::FlipByte,
        Self::Nest,
        Self::UnknownField,
        Self::Envelope,
        Self::BrokenEnvelope,
        Self::Array,
        Self::BrokenArray,
        Self::Scalar,
        Self::Empty,
        Self::Noise,
        Self::Huge,
    ];
}

/// One message for the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What was done.
    pub mutation: Mutation,
    /// The record's value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
}

/// Numbers and texts that stand where a token count should, as JSON.
const NUMBERS: [&str; 24] = [
    "0",
    "1",
    "12",
    "\"12\"",
    "\"007\"",
    "9007199254740992",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "-0",
    "1.5",
    "2.0",
    "1e3",
    "1e308",
    "\"1.5\"",
    "\"-1\"",
    "\"+1\"",
    "\" 1\"",
    "\"NaN\"",
    "\"0x10\"",
    "\"\u{661}\"",
];

/// Strings that an id may be, as JSON.
const TEXTS: [&str; 17] = [
    "\"\"",
    "\"-\"",
    "null",
    "\" \"",
    "\"team \\u0000 null\"",
    "\"\\ud83d\"",
    "\"\\udc00\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "\"caf\u{e9}\"",
    "\"cafe\u{301}\"",
    "\"\u{202e}abc\"",
    "\"../../etc\"",
    "\"=cmd()\"",
    "\"a\\tb\\nc\\u001f\"",
    "\"quote\\\"back\\\\slash\\/\"",
    "\"unattributed\"",
    "\"\u{540d}\u{53e4}\u{5c4b}\"",
];

/// Times, as JSON; those of the present come from the captured line.
const TIMES: [&str; 16] = [
    "\"1970-01-01T00:00:00Z\"",
    "\"1969-12-31T23:59:59.999Z\"",
    "\"9999-12-31T23:59:59.999Z\"",
    "\"+10000-01-01T00:00:00Z\"",
    "\"2026-02-29T12:00:00Z\"",
    "\"2016-12-31T23:59:60Z\"",
    "\"2026-03-29T02:30:00+01:00\"",
    "\"2026-11-21\"",
    "\"yesterday\"",
    "\"\"",
    "null",
    "true",
    "0",
    "-1",
    "253402300800000",
    "1787300000123.5",
];

/// Where a format has what is spoilt; `/` steps into an object.
#[derive(Debug)]
pub struct Vocabulary {
    /// All fields that name the model that was asked for.
    models: &'static [&'static str],
    /// When the request started.
    start: &'static str,
    /// What says what became of the request, with values to choose from.
    outcomes: &'static [(&'static str, &'static [&'static str])],
    /// Token counts; the first is not spared where usage is to stay.
    usage: &'static [&'static str],
    /// What a count is where there is none.
    no_usage: &'static str,
    /// All names of ids.
    ids: &'static [&'static str],
    /// What names the application.
    app: (&'static str, &'static str),
    /// Counts that contradict the others.
    contradictions: &'static [(&'static str, &'static str)],
}

/// Of lines of Envoy AI Gateway.
pub const ENVOY_AI_GATEWAY: Vocabulary = Vocabulary {
    models: &["gen_ai.request.model"],
    start: "start_time",
    outcomes: &[
        (
            "response_code",
            &["0", "200", "206", "302", "401", "403", "429", "500", "null"],
        ),
        (
            "response_flags",
            &["\"-\"", "\"DC\"", "\"UC,URX\"", "\"UF\"", "null", "7"],
        ),
    ],
    usage: &[
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.cached_input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.total_tokens",
    ],
    no_usage: "null",
    ids: &[
        "gen_ai.request.model",
        "gen_ai.response.model",
        "gen_ai.provider.name",
        "route_name",
        "x-request-id",
        "x-tenant-id",
        "x-user-id",
    ],
    app: ("x-tenant-id", "null"),
    contradictions: &[
        ("gen_ai.usage.cached_input_tokens", "9007199254740992"),
        ("gen_ai.usage.reasoning_tokens", "9007199254740992"),
        ("gen_ai.usage.total_tokens", "1"),
        ("gen_ai.usage.input_tokens", "null"),
        ("gen_ai.usage.output_tokens", "null"),
    ],
};

/// Of payloads of LiteLLM's log.
pub const LITELLM: Vocabulary = Vocabulary {
    models: &["model_group", "model"],
    start: "startTime",
    outcomes: &[
        (
            "status",
            &[
                "\"success\"",
                "\"failure\"",
                "\"failure\"",
                "\"-\"",
                "\"ok\"",
                "7",
            ],
        ),
        (
            "error_information/error_code",
            &[
                "\"401\"",
                "403",
                "\"429\"",
                "\"499\"",
                "\"500\"",
                "\"teapot\"",
                "null",
                "{}",
            ],
        ),
        (
            "error_information/error_class",
            &["\"BudgetExceededError\"", "\"Timeout\"", "null", "7"],
        ),
        ("cache_hit", &["true", "false", "null", "\"True\""]),
    ],
    usage: &[
        "metadata/usage_object/prompt_tokens",
        "metadata/usage_object/prompt_tokens_details/cached_tokens",
        "metadata/usage_object/prompt_tokens_details/cache_creation_tokens",
        "metadata/usage_object/prompt_tokens_details/audio_tokens",
        "metadata/usage_object/cache_creation_input_tokens",
        "metadata/usage_object/cache_read_input_tokens",
        "metadata/usage_object/completion_tokens",
        "metadata/usage_object/completion_tokens_details/reasoning_tokens",
        "metadata/usage_object/completion_tokens_details/audio_tokens",
        "metadata/usage_object/total_tokens",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
    ],
    no_usage: "0",
    ids: &[
        "model_group",
        "model",
        "hidden_params/litellm_model_name",
        "custom_llm_provider",
        "metadata/user_api_key_request_route",
        "id",
        "litellm_call_id",
        "end_user",
    ],
    app: ("request_tags", "[]"),
    contradictions: &[
        (
            "metadata/usage_object/prompt_tokens_details/cached_tokens",
            "9007199254740992",
        ),
        ("metadata/usage_object/cache_read_input_tokens", "77"),
        ("metadata/usage_object/cache_creation_input_tokens", "77"),
        (
            "metadata/usage_object/completion_tokens_details/reasoning_tokens",
            "9007199254740992",
        ),
        ("metadata/usage_object/total_tokens", "1"),
        ("metadata/usage_object/prompt_tokens", "null"),
        ("metadata/usage_object", "{}"),
        ("metadata/usage_object", "null"),
    ],
};

/// Of Tollbook's own events.
pub const TOLLBOOK: Vocabulary = Vocabulary {
    models: &["data/model"],
    start: "data/start",
    outcomes: &[
        (
            "data/outcome",
            &[
                "\"succeeded\"",
                "\"refused\"",
                "\"failed\"",
                "\"aborted\"",
                "\"lost\"",
                "null",
                "7",
            ],
        ),
        ("specversion", &["\"1.0\"", "\"1.0\"", "\"0.3\"", "1.0"]),
        (
            "type",
            &["\"tollbook.usage.v1\"", "\"tollbook.usage.v2\"", "null"],
        ),
        (
            "datacontenttype",
            &["\"application/json\"", "\"text/xml\"", "null"],
        ),
    ],
    usage: &[
        "data/meters/input_uncached_tokens",
        "data/meters/input_cache_read_tokens",
        "data/meters/input_cache_write_tokens",
        "data/meters/input_audio_tokens",
        "data/meters/output_text_tokens",
        "data/meters/output_reasoning_tokens",
        "data/meters/images",
    ],
    no_usage: "null",
    ids: &[
        "id",
        "source",
        "data/tenant",
        "data/app",
        "data/user",
        "data/session",
        "data/route",
        "data/provider",
        "data/model",
        "data/priced_model",
    ],
    app: ("data/app", "null"),
    contradictions: &[
        ("data/meters/requests", "2"),
        ("data/meters/requests", "1"),
        ("data/meters/gpu_milliseconds", "12"),
        ("data/meters/input_tokens", "12"),
        ("data/aplication", "\"a\""),
        ("data_base64", "\"e30=\""),
        ("traceparent", "\"00-1-2-01\""),
        ("Trace-Parent", "\"00-1-2-01\""),
        ("data", "[]"),
        ("data", "null"),
        ("id", "null"),
    ],
};

/// Keys with their values' JSON texts, in the order in which they are written.
type Fields = Vec<(String, String)>;

/// Makes messages from captured lines, the same ones for the same seed.
#[derive(Debug)]
pub struct Mutator {
    words: &'static Vocabulary,
    lines: Vec<Fields>,
    state: u64,
    turn: usize,
}

impl Mutator {
    /// Takes captured lines of Envoy AI Gateway.
    ///
    /// # Panics
    ///
    /// Where there is no line, or one is no JSON object.
    #[must_use]
    pub fn new<'l>(seed: u64, lines: impl IntoIterator<Item = &'l str>) -> Self {
        Self::of(&ENVOY_AI_GATEWAY, seed, lines)
    }

    /// Takes captured lines of a format.
    ///
    /// # Panics
    ///
    /// Where there is no line, or one is no JSON object.
    #[must_use]
    pub fn of<'l>(
        words: &'static Vocabulary,
        seed: u64,
        lines: impl IntoIterator<Item = &'l str>,
    ) -> Self {
        let lines: Vec<Fields> = lines.into_iter().map(fields_of).collect();
        assert!(!lines.is_empty(), "a generator needs a line to spoil");
        Self {
            words,
            lines,
            state: seed,
            turn: 0,
        }
    }

    /// Makes the next message; each mutation in turn, so that none is left out.
    #[must_use]
    pub fn next_message(&mut self) -> Message {
        let all = Mutation::ALL.as_slice();
        let mutation = all
            .get(self.turn % all.len())
            .copied()
            .unwrap_or(Mutation::None);
        self.turn += 1;
        Message {
            mutation,
            payload: self.payload(mutation),
        }
    }

    fn payload(&mut self, mutation: Mutation) -> Option<Vec<u8>> {
        let text = match mutation {
            Mutation::Truncate => self.truncated(),
            Mutation::Envelope => self.envelope(),
            Mutation::BrokenEnvelope => self.broken_envelope(),
            Mutation::Array => self.array(),
            Mutation::BrokenArray => self.broken_array(),
            Mutation::Scalar => self
                .pick(&["null", "7", "\"text\"", "true", "1e999"])
                .to_owned(),
            Mutation::Empty => {
                return match self.below(3) {
                    0 => None,
                    1 => Some(Vec::new()),
                    _ => Some(b" \r\n\t".to_vec()),
                };
            }
            Mutation::Noise => return Some(self.noise()),
            Mutation::FlipByte => return Some(self.flipped()),
            Mutation::Huge => self.huge(),
            Mutation::None
            | Mutation::DropKey
            | Mutation::DuplicateKey
            | Mutation::Retype
            | Mutation::Number
            | Mutation::Text
            | Mutation::Time
            | Mutation::Outcome
            | Mutation::NoModel
            | Mutation::NoUsage
            | Mutation::Contradict
            | Mutation::Rewrite
            | Mutation::Nest
            | Mutation::UnknownField => self.line_with(mutation),
        };
        Some(text.into_bytes())
    }

    /// Writes one captured line with one thing changed inside.
    fn line_with(&mut self, mutation: Mutation) -> String {
        let mut fields = self.line();
        match mutation {
            Mutation::DropKey => {
                let index = self.below(fields.len());
                fields.remove(index);
            }
            Mutation::DuplicateKey => self.duplicate_key(&mut fields),
            Mutation::Retype => {
                let value = self.pick(&["true", "{}", "[]", "[1]", "{\"a\":1}", "7", "\"x\""]);
                self.set_any(&mut fields, value);
            }
            Mutation::Number => {
                let (key, value) = (self.pick(self.words.usage), self.pick(&NUMBERS));
                set(&mut fields, key, value);
            }
            Mutation::Text => {
                let key = self.pick(self.words.ids);
                let value = match self.below(TEXTS.len() + 3) {
                    0 => format!("\"{}\"", "i".repeat(256)),
                    1 => format!("\"{}\"", "i".repeat(257)),
                    2 => format!("\"{}\"", "\u{e9}".repeat(200)),
                    _ => self.pick(&TEXTS).to_owned(),
                };
                set(&mut fields, key, &value);
            }
            Mutation::Time => {
                let value = self.pick(&TIMES);
                set(&mut fields, self.words.start, value);
            }
            Mutation::Outcome => self.change_outcome(&mut fields),
            Mutation::NoModel => self.forget_model(&mut fields),
            Mutation::NoUsage => {
                self.forget_usage(&mut fields);
                if self.below(2) == 0 {
                    self.forget_app(&mut fields);
                }
            }
            Mutation::Contradict => self.contradict(&mut fields),
            Mutation::Rewrite => return self.rewritten(&fields),
            Mutation::Nest => {
                let depth = self.pick(&[100, 126, 127, 128, 129, 5_000]);
                let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
                fields.push(("nested".to_owned(), value));
            }
            Mutation::UnknownField => {
                let value = self.pick(&["{\"a\":{\"b\":[1,2,{\"c\":null}]}}", "1e400", "[{},[]]"]);
                fields.push(("zz.unknown".to_owned(), value.to_owned()));
            }
            Mutation::None
            | Mutation::Truncate
            | Mutation::FlipByte
            | Mutation::Envelope
            | Mutation::BrokenEnvelope
            | Mutation::Array
            | Mutation::BrokenArray
            | Mutation::Scalar
            | Mutation::Empty
            | Mutation::Noise
            | Mutation::Huge => {}
        }
        written(&fields)
    }

    /// Writes another outcome; one time in two each without usage or application.
    fn change_outcome(&mut self, fields: &mut Fields) {
        for (key, values) in self.words.outcomes {
            let value = self.pick(values);
            set(fields, key, value);
        }
        if self.below(2) == 0 {
            self.forget_usage(fields);
        }
        if self.below(2) == 0 {
            self.forget_app(fields);
        }
    }

    fn forget_usage(&self, fields: &mut Fields) {
        for key in self.words.usage {
            set(fields, key, self.words.no_usage);
        }
    }

    fn forget_app(&self, fields: &mut Fields) {
        let (key, none) = self.words.app;
        set(fields, key, none);
    }

    fn duplicate_key(&mut self, fields: &mut Fields) {
        let index = self.below(fields.len());
        let Some((key, value)) = fields.get(index).cloned() else {
            return;
        };
        match self.below(3) {
            // The same key under another spelling.
            0 => {
                let first = key.chars().next().map_or(0, u32::from);
                let rest: String = key.chars().skip(1).collect();
                fields.push((format!("\\u{first:04x}{rest}"), value));
            }
            1 => fields.push((key, "1".to_owned())),
            // Deep inside of a value that nobody reads.
            _ => fields.push((
                "zz.deep".to_owned(),
                "[{\"a\":{\"b\":1,\"b\":2}}]".to_owned(),
            )),
        }
    }

    fn forget_model(&mut self, fields: &mut Fields) {
        let gone = self.pick(&["null", "\"-\"", "\"\""]);
        // One time in three some usage stays, and the line is no line of another request.
        let keeps_usage = self.below(3) == 0;
        for key in self.words.models {
            set(fields, key, gone);
        }
        for key in self.words.usage.iter().skip(usize::from(keeps_usage)) {
            set(fields, key, gone);
        }
    }

    fn contradict(&mut self, fields: &mut Fields) {
        let (key, value) = self.pick(self.words.contradictions);
        set(fields, key, value);
    }

    /// Writes the same line in another way.
    fn rewritten(&mut self, fields: &Fields) -> String {
        let mut fields = fields.clone();
        for (key, value) in &mut fields {
            let is_count = self.words.usage.contains(&key.as_str());
            if is_count && value != "null" && !value.starts_with('"') {
                *value = format!("\"{value}\"");
            }
            if self.below(4) == 0 {
                *key = key
                    .chars()
                    .map(|c| format!("\\u{:04x}", u32::from(c)))
                    .collect();
            }
        }
        for index in (1..fields.len()).rev() {
            let other = self.below(index + 1);
            fields.swap(index, other);
        }
        let gap = self.pick(&["", " ", "\n\t", "\r\n  "]);
        let members: Vec<String> = fields
            .iter()
            .map(|(key, value)| format!("\"{key}\"{gap}:{gap}{value}"))
            .collect();
        format!(
            "{gap}{{{gap}{}{gap}}}{gap}",
            members.join(&format!("{gap},{gap}"))
        )
    }

    fn truncated(&mut self) -> String {
        let line = written(&self.line());
        let mut end = self.below(line.len());
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.get(..end).unwrap_or_default().to_owned()
    }

    fn flipped(&mut self) -> Vec<u8> {
        let mut bytes = written(&self.line()).into_bytes();
        let index = self.below(bytes.len());
        let byte = self.next_u64().to_le_bytes();
        if let (Some(flipped), [byte, ..]) = (bytes.get_mut(index), byte) {
            *flipped = byte;
        }
        bytes
    }

    fn envelope(&mut self) -> String {
        let inner = self.pick(&[
            Mutation::None,
            Mutation::DuplicateKey,
            Mutation::Number,
            Mutation::Rewrite,
            Mutation::NoModel,
        ]);
        let line = self.line_with(inner);
        let quoted = quoted(&line);
        match self.below(4) {
            0 => format!("{{\"message\":{quoted},\"host\":\"node-1\",\"stream\":\"stdout\"}}"),
            1 => format!("{{\"@timestamp\":\"2026-11-21T00:00:00Z\",\"log\":{quoted}}}"),
            2 => format!("{{\"message\":\"plain text\",\"log\":{quoted}}}"),
            // Two envelopes: one is taken off, and inside there is no request to a model.
            _ => format!(
                "{{\"message\":{}}}",
                self::quoted(&format!("{{\"log\":{quoted}}}"))
            ),
        }
    }

    fn broken_envelope(&mut self) -> String {
        let inside = match self.below(5) {
            0 => format!("{{{}", self.truncated()),
            1 => self.array(),
            2 => "[2026-11-21 00:00:00.000][1][info] starting main dispatch loop".to_owned(),
            3 => "{not json".to_owned(),
            _ => "7".to_owned(),
        };
        format!("{{\"message\":{}}}", quoted(&inside))
    }

    fn array(&mut self) -> String {
        let length = 1 + self.below(5);
        let elements: Vec<String> = (0..length)
            .map(|_| match self.below(8) {
                0 => self.pick(&["null", "7", "\"text\"", "[]", "{}"]).to_owned(),
                1 => self.line_with(Mutation::Number),
                2 => self.line_with(Mutation::DuplicateKey),
                3 => self.envelope(),
                _ => self.line_with(Mutation::None),
            })
            .collect();
        format!("[ {} ]", elements.join(" ,\n"))
    }

    fn broken_array(&mut self) -> String {
        let line = self.line_with(Mutation::None);
        match self.below(4) {
            0 => "[]".to_owned(),
            1 => format!("[{line},{line}"),
            2 => format!("[{line},]"),
            _ => format!("[[{line}]]"),
        }
    }

    fn noise(&mut self) -> Vec<u8> {
        let length = 1 + self.below(200);
        (0..length)
            .map(|_| self.next_u64().to_le_bytes()[0])
            .collect()
    }

    fn huge(&mut self) -> String {
        let mut fields = self.line();
        // Below the greatest size, just above it, and far above it.
        let bytes = self.pick(&[900_000, 1_048_576, 3_000_000]);
        fields.push(("zz.body".to_owned(), format!("\"{}\"", "x".repeat(bytes))));
        written(&fields)
    }

    fn set_any(&mut self, fields: &mut Fields, value: &str) {
        let index = self.below(fields.len());
        if let Some((_, old)) = fields.get_mut(index) {
            value.clone_into(old);
        }
    }

    fn line(&mut self) -> Fields {
        let index = self.below(self.lines.len());
        self.lines.get(index).cloned().unwrap_or_default()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = self.below(from.len());
        *from
            .get(index)
            .expect("an index below the length of a list that is not empty")
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next_u64() % bound).unwrap_or(0)
    }

    /// `SplitMix64` (<https://prng.di.unimi.it/splitmix64.c>).
    const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn fields_of(line: &str) -> Fields {
    let object: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(line).expect("a captured line is a JSON object");
    object
        .into_iter()
        .map(|(key, value)| (key, value.get().to_owned()))
        .collect()
}

/// Sets a field; a path steps into the objects on its way, and makes them where there are none.
fn set(fields: &mut Fields, path: &str, value: &str) {
    let (key, rest) = match path.split_once('/') {
        Some((key, rest)) => (key, Some(rest)),
        None => (path, None),
    };
    let old = fields.iter().position(|(known, _)| known == key);
    let index = old.unwrap_or_else(|| {
        fields.push((key.to_owned(), "{}".to_owned()));
        fields.len() - 1
    });
    let Some((_, old)) = fields.get_mut(index) else {
        return;
    };
    match rest {
        None => value.clone_into(old),
        Some(rest) => {
            let mut inside = if old.starts_with('{') {
                fields_of(old)
            } else {
                Fields::new()
            };
            set(&mut inside, rest, value);
            *old = written(&inside);
        }
    }
}

/// Writes an object; keys stand as they are, so that they may hold escapes.
fn written(fields: &Fields) -> String {
    let members: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("\"{key}\":{value}"))
        .collect();
    format!("{{{}}}", members.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}
