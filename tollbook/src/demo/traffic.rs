//! The traffic of the demo: what a real gateway logged, moved to the present, and made-up requests
//! of the same shape from then on.
//!
//! Invariant: every message is what a shipper would put on Kafka; nothing reaches the ledger another
//! way. Deliberately absent: sending them (see `producer`), and any knowledge of prices.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use service::{Exit, Failure};

use super::gateway::Ask;
use super::random::Random;

/// 1,000 access-log lines of Envoy AI Gateway 1.1, one JSON object a line.
const CAPTURED: &str = include_str!("../../../testdata/envoy-ai-gateway/access.ndjson");

/// Where a line holds the start of its request: RFC 3339 in UTC with milliseconds.
const TIME_FIELD: &str = "\"start_time\":\"";

/// Messages that no decoder accepts, each broken in another way.
const BROKEN: &[&str] = &[
    "upstream connect error or disconnect/reset before headers",
    r#"{"start_time":"2026-11-2"#,
    r#"{"x-tenant-id":"team-00","gen_ai.request.model":"gpt-4o","response_code":200}"#,
    "[1, 2, 3]",
];

/// Returns the captured messages with their times moved so that the last one starts at `now`,
/// every fiftieth of them twice, as a shipper that retries sends it, and a few broken ones between.
///
/// `text` replaces what was captured when the demo was built.
///
/// # Errors
///
/// A line of `text` holds no start time.
pub(super) fn replay(text: Option<&str>, now: DateTime<Utc>) -> Result<Vec<String>, Failure> {
    let lines: Vec<&str> = text
        .unwrap_or(CAPTURED)
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    let times = lines.iter().zip(1..).map(|(line, number)| {
        time_of(line).map(|(_, time, _)| time).ok_or_else(|| {
            Failure::new(
                Exit::Data,
                format!("the gateway file's line {number} has no \"start_time\" in RFC 3339"),
            )
        })
    });
    let times: Vec<_> = times.collect::<Result<_, _>>()?;
    let Some(last) = times.iter().max() else {
        return Err(Failure::new(
            Exit::Data,
            "the gateway file is empty: give one with log lines",
        ));
    };
    let shift = now - *last;
    let mut messages = Vec::with_capacity(lines.len() + lines.len() / 50 + BROKEN.len());
    let broken_every = lines.len() / BROKEN.len() + 1;
    for (number, line) in lines.iter().enumerate() {
        let moved = moved(line, shift);
        if number % 50 == 49 {
            messages.push(moved.clone());
        }
        messages.push(moved);
        if number % broken_every == broken_every / 2 {
            messages.extend(
                BROKEN
                    .get(number / broken_every)
                    .map(|text| (*text).to_owned()),
            );
        }
    }
    Ok(messages)
}

/// Splits a line around its start time.
fn time_of(line: &str) -> Option<(&str, DateTime<Utc>, &str)> {
    let (before, rest) = line.split_once(TIME_FIELD)?;
    let (time, after) = rest.split_once('"')?;
    let time = DateTime::parse_from_rfc3339(time).ok()?;
    Some((before, time.to_utc(), after))
}

/// Returns a line with its start time moved; one without a time stays as it is.
fn moved(line: &str, shift: chrono::TimeDelta) -> String {
    let Some((before, time, after)) = time_of(line) else {
        return line.to_owned();
    };
    let time = (time + shift).to_rfc3339_opts(SecondsFormat::Millis, true);
    format!("{before}{TIME_FIELD}{time}\"{after}")
}

/// A model that the made-up traffic asks for.
#[derive(Debug, Clone, Copy)]
struct Model {
    asked: &'static str,
    answered: &'static str,
    provider: &'static str,
    path: &'static str,
}

const fn openai(asked: &'static str, answered: &'static str) -> Model {
    Model {
        asked,
        answered,
        provider: "openai",
        path: "/v1/chat/completions",
    }
}

const fn anthropic(asked: &'static str, answered: &'static str) -> Model {
    Model {
        asked,
        answered,
        provider: "anthropic",
        path: "/v1/messages",
    }
}

/// The models and how often each is asked for; the last has no list price anywhere.
const MODELS: &[(Model, u64)] = &[
    (openai("gpt-4o-mini", "gpt-4o-mini-2024-07-18"), 40),
    (openai("gpt-4o", "gpt-4o-2024-08-06"), 20),
    (openai("o3-mini", "o3-mini-2025-01-31"), 8),
    (
        anthropic("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
        22,
    ),
    (
        anthropic("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        15,
    ),
    (openai("in-house-llama", "in-house-llama"), 5),
];

/// The applications and how busy each is; one request in 33 names none.
const APPS: &[(&str, u64)] = &[
    ("checkout-assistant", 30),
    ("search", 22),
    ("support-bot", 18),
    ("code-review", 12),
    ("translation", 8),
    ("büro-süd", 4),
    ("名古屋", 3),
    ("", 3),
];

/// What comes next.
pub(super) enum Next {
    /// A message as it is: broken, or one that a shipper sends once more.
    Message(String),
    /// A new request, which the gateway asks for first.
    Request(Draft),
}

/// A request before anybody decided on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft {
    model: Model,
    app: &'static str,
}

impl Draft {
    /// Returns what the gateway knows of it.
    pub(super) fn ask(&self) -> Ask<'static> {
        Ask {
            app: (!self.app.is_empty()).then_some(self.app),
            provider: self.model.provider,
            model: self.model.asked,
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The model answered.
    Answered,
    /// The upstream failed.
    Failed,
    /// The gateway refused it.
    Refused,
}

impl End {
    const fn status(self) -> u16 {
        match self {
            Self::Answered => 200,
            Self::Failed => 503,
            Self::Refused => 429,
        }
    }
}

/// Makes up requests, endlessly.
pub(super) struct Generator {
    random: Random,
    last: Option<String>,
}

impl Generator {
    /// Makes a generator whose requests nobody has seen before.
    pub(super) fn new(random: Random) -> Self {
        Self { random, last: None }
    }

    /// Returns what comes next: a new request, now and then the message before once more, and rarely
    /// something broken.
    pub(super) fn next(&mut self) -> Next {
        if self.random.once_in(1000) {
            let index = self.random.below(BROKEN.len().try_into().unwrap_or(1));
            let broken = usize::try_from(index)
                .ok()
                .and_then(|index| BROKEN.get(index));
            return Next::Message(broken.copied().unwrap_or_default().to_owned());
        }
        if self.random.once_in(100)
            && let Some(last) = &self.last
        {
            return Next::Message(last.clone());
        }
        let drawn = self.random.pick(MODELS).copied();
        let drawn = drawn.zip(self.random.pick(APPS).copied());
        match drawn {
            Some((model, app)) => Next::Request(Draft { model, app }),
            None => Next::Message(String::new()),
        }
    }

    /// Returns what the gateway logs of a request that started at `now`.
    pub(super) fn logged(&mut self, draft: Draft, is_refused: bool, now: DateTime<Utc>) -> String {
        let end = match (is_refused, self.random.once_in(40)) {
            (true, _) => End::Refused,
            (false, true) => End::Failed,
            (false, false) => End::Answered,
        };
        let line = self.line(draft, end, now).unwrap_or_default();
        self.last = Some(line.clone());
        line
    }

    fn line(&mut self, draft: Draft, end: End, now: DateTime<Utc>) -> Option<String> {
        let Draft { model, app } = draft;
        let app = if app.is_empty() {
            "null".to_owned()
        } else {
            format!("\"{app}\"")
        };
        let id = (u128::from(self.random.next()) << 64) | u128::from(self.random.next());
        let time = now.to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut line = format!(
            "{{\"duration\":{},\"gen_ai.provider.name\":\"default/{}/route/chat/rule/0/ref/0\",\
             \"gen_ai.request.model\":\"{}\"",
            self.random.below(4000),
            model.provider,
            model.asked,
        );
        self.usage(&mut line, model, end)?;
        write!(
            line,
            ",\"method\":\"POST\",\"response_code\":{},\"response_flags\":\"-\",\
             \"route_name\":\"httproute/default/chat/rule/0/match/0/*\",{TIME_FIELD}{time}\",\
             \"x-envoy-origin-path\":\"{}\",\"x-request-id\":\"{id:032x}\",\"x-tenant-id\":{app},\
             \"x-user-id\":\"user-{}\"}}",
            end.status(),
            model.path,
            self.random.below(500),
        )
        .ok()?;
        Some(line)
    }

    /// Adds what the request used; one without an answer used nothing that the gateway knows of.
    fn usage(&mut self, line: &mut String, model: Model, end: End) -> Option<()> {
        if end != End::Answered {
            let nothing = ",\"gen_ai.response.model\":null,\"gen_ai.usage.input_tokens\":null,\
                 \"gen_ai.usage.cached_input_tokens\":null,\
                 \"gen_ai.usage.cache_creation_input_tokens\":null,\
                 \"gen_ai.usage.output_tokens\":null,\"gen_ai.usage.reasoning_tokens\":null,\
                 \"gen_ai.usage.total_tokens\":null";
            line.push_str(nothing);
            return Some(());
        }
        let fresh = 100 + self.random.below(3900);
        let cached = if self.random.once_in(3) {
            self.random.below(6000)
        } else {
            0
        };
        let written = match model.provider {
            "anthropic" if self.random.once_in(4) => self.random.below(2000),
            _ => 0,
        };
        let output = 10 + self.random.below(900);
        let reasoning = if model.asked == "o3-mini" {
            self.random.below(output)
        } else {
            0
        };
        let input = fresh + cached + written;
        write!(
            line,
            ",\"gen_ai.response.model\":\"{}\",\"gen_ai.usage.input_tokens\":{input},\
             \"gen_ai.usage.cached_input_tokens\":{cached},\
             \"gen_ai.usage.cache_creation_input_tokens\":{written},\
             \"gen_ai.usage.output_tokens\":{output},\
             \"gen_ai.usage.reasoning_tokens\":{reasoning},\
             \"gen_ai.usage.total_tokens\":{}",
            model.answered,
            input + output,
        )
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000).unwrap()
    }

    #[test]
    fn the_capture_ends_now_and_keeps_its_distances() {
        let messages = replay(None, now()).unwrap();
        let times: Vec<_> = messages.iter().filter_map(|line| time_of(line)).collect();
        assert_eq!(
            times.iter().map(|(_, time, _)| *time).max(),
            Some(now()),
            "the last one"
        );
        assert_eq!(times.len(), 1020, "1,000 lines, and each fiftieth twice");
        let broken = messages
            .iter()
            .filter(|line| time_of(line).is_none())
            .count();
        assert_eq!(broken, BROKEN.len(), "each broken one once");
    }

    #[test]
    fn a_file_without_times_is_refused_by_line() {
        let failure = replay(Some("{}\n"), now()).unwrap_err();
        assert_eq!(
            failure.sentence(),
            "the gateway file's line 1 has no \"start_time\" in RFC 3339",
            "named by its line"
        );
    }

    #[test]
    fn made_up_requests_are_json_of_the_present() {
        let mut generator = Generator::new(Random::from_system().unwrap());
        let mut made = 0;
        while made < 2000 {
            let Next::Request(draft) = generator.next() else {
                continue;
            };
            made += 1;
            let is_refused = made % 5 == 0;
            let line = generator.logged(draft, is_refused, now());
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["start_time"], "2027-01-15T08:00:00.000Z", "{line}");
            assert_eq!(value["response_code"] == 429, is_refused, "{line}");
            let tokens = &value["gen_ai.usage.total_tokens"];
            assert_eq!(tokens.is_u64(), value["response_code"] == 200, "{line}");
        }
    }
}
