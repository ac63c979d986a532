//! Access log lines like the captured ones, made from a seed.
//!
//! Invariant: the same seed and present give the same lines, so that a failed run can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::oracle::time;

use super::folders;

/// A small generator of pseudo-random numbers (`SplitMix64`, <https://prng.di.unimi.it/splitmix64.c>).
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Begins at a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 up to, not including, `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// Returns one of the choices.
    pub fn one_of<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        let place = self.below(choices.len().try_into().unwrap());
        &choices[usize::try_from(place).unwrap()]
    }

    /// Says yes with this chance, in percent.
    pub const fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// Takes a seed from the clock, or from `TOLLBOOK_TESTS_SEED` to repeat a run, and prints it.
#[must_use]
pub fn seed(test: &str) -> u64 {
    let given = std::env::var_os("TOLLBOOK_TESTS_SEED");
    let given = given.and_then(|text| text.to_str().and_then(|text| text.parse().ok()));
    let seed = given.unwrap_or_else(|| now_ms().unsigned_abs());
    println!("{test}: seed {seed} (repeat it by TOLLBOOK_TESTS_SEED={seed})");
    seed
}

/// Returns the present in ms since 1970.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "events must lie in the window before the present"
)]
pub fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    i64::try_from(since.as_millis()).unwrap()
}

/// Makes lines.
#[derive(Debug, Clone)]
pub struct Load {
    random: Random,
    run: u64,
    made: u64,
    now: i64,
    /// How many applications share the load; the first has half of it.
    pub apps: u64,
}

/// Provider, the path that the gateway logs it by, asked model, answering model.
const MODELS: [(&str, &str, &str); 7] = [
    ("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    ("openai", "gpt-4o", "gpt-4o-2024-08-06"),
    ("openai", "o3-mini", "o3-mini-2025-01-31"),
    ("openai", "in-house-llama", "in-house-llama-2024-07-18"),
    (
        "anthropic",
        "claude-sonnet-4-5",
        "claude-sonnet-4-5-20250929",
    ),
    ("anthropic", "claude-haiku-4-5", "claude-haiku-4-5-20250929"),
    ("google", "gemini-2.5-pro", "gemini-2.5-pro"),
];

impl Load {
    /// Begins at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            run: random.bits(),
            random,
            made: 0,
            now: now_ms(),
            apps: 20,
        }
    }

    /// Makes the next line: a request to a model within the last two hours.
    pub fn line(&mut self) -> String {
        let at = self.now - i64::try_from(self.random.below(7_200_000)).unwrap();
        self.line_at(at)
    }

    /// Makes the next line, of a request at this instant.
    pub fn line_at(&mut self, at: i64) -> String {
        self.made += 1;
        let random = &mut self.random;
        let (provider, asked, answered) = *random.one_of(&MODELS);
        let app = if random.percent(50) {
            0
        } else {
            random.below(self.apps)
        };
        let tenant = if random.percent(3) {
            "null".to_owned()
        } else {
            format!("\"team-{app:02}\"")
        };
        let user = random.below(5);
        let id = format!("{:016x}-{:08x}", self.run, self.made);
        let start = time::format(at);
        let head = format!(
            "\"gen_ai.provider.name\":\"default/{provider}/route/chat/rule/0/ref/0\",\
             \"gen_ai.request.model\":\"{asked}\",\"method\":\"POST\",\"response_flags\":\"-\",\
             \"route_name\":\"httproute/default/chat/rule/{}\",\"start_time\":\"{start}\",\
             \"x-request-id\":\"{id}\",\"x-tenant-id\":{tenant},\"x-user-id\":\"user-{user}\"",
            random.below(2)
        );
        if random.percent(3) {
            let status = random.one_of(&[429, 500, 503]);
            return format!(
                "{{{head},\"response_code\":{status},\"gen_ai.usage.input_tokens\":null}}"
            );
        }
        let input_end = if random.percent(2) { 300_000 } else { 4_000 };
        let input = 10 + random.below(input_end);
        let cached = if random.percent(30) {
            random.below(input)
        } else {
            0
        };
        let created = if random.percent(10) {
            random.below(input - cached)
        } else {
            0
        };
        let output = 1 + random.below(900);
        let reasoning = if random.percent(25) {
            random.below(output)
        } else {
            0
        };
        format!(
            "{{{head},\"gen_ai.response.model\":\"{answered}\",\"response_code\":200,\
             \"gen_ai.usage.input_tokens\":{input},\
             \"gen_ai.usage.cached_input_tokens\":{cached},\
             \"gen_ai.usage.cache_creation_input_tokens\":{created},\
             \"gen_ai.usage.output_tokens\":{output},\
             \"gen_ai.usage.reasoning_tokens\":{reasoning},\
             \"gen_ai.usage.total_tokens\":{}}}",
            input + output
        )
    }

    /// Makes the next lines.
    pub fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// Makes payloads as a real topic has them: lines, lines in shippers' envelopes and in arrays,
    /// lines sent twice, lines that are not metered, and some that cannot become usage.
    pub fn mixed(&mut self, count: usize) -> Vec<String> {
        let mut payloads: Vec<String> = Vec::with_capacity(count);
        for _ in 0..count {
            let payload = match self.random.below(100) {
                0..=5 if !payloads.is_empty() => self.random.one_of(&payloads).clone(),
                6..=9 => {
                    let line = serde_json::Value::String(self.line());
                    format!("{{\"host\":\"node-1\",\"message\":{line}}}")
                }
                10..=12 => format!("[{} , {}]", self.line(), self.line()),
                13 => "{\"mcp_method\":\"tools/list\",\"response_code\":200}".to_owned(),
                14 => self
                    .line()
                    .replace("\"response_code\":", "\"response_code\":-"),
                15 => self.line().chars().take(100).collect(),
                _ => self.line(),
            };
            payloads.push(payload);
        }
        payloads
    }
}

/// Returns the captured access log, its times moved so that the last request began a minute ago.
#[must_use]
pub fn captured() -> Vec<String> {
    let lines = captured_as_is();
    let start = |line: &String| time::parse(start_of(line)).expect("a captured time");
    let last = lines
        .iter()
        .map(start)
        .max()
        .expect("the capture has lines");
    let by = now_ms() - 60_000 - last;
    let moved = |line: &String| line.replace(start_of(line), &time::format(start(line) + by));
    lines.iter().map(moved).collect()
}

fn start_of(line: &str) -> &str {
    let (_, rest) = line
        .split_once("\"start_time\":\"")
        .expect("a captured line has a start");
    rest.split('"').next().unwrap_or(rest)
}

/// Returns the captured access log.
#[must_use]
pub fn captured_as_is() -> Vec<String> {
    read("access.ndjson")
}

/// Returns what the upstream billed, line for line with the access log.
#[must_use]
pub fn billed() -> Vec<serde_json::Value> {
    let lines = read("billed.ndjson");
    lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("a bill is JSON"))
        .collect()
}

fn read(file: &str) -> Vec<String> {
    let path = folders::workspace()
        .join("testdata/envoy-ai-gateway")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().map(str::to_owned).collect()
}
