//! What a record of Envoy AI Gateway's access log says, by FORMATS.md sections 0, 2.2 and 10.

use super::json::{self, Fault, Json};
use super::time;

/// The greatest quantity, 2⁵³.
const QUANTITY_MAX: u64 = 9_007_199_254_740_992;

/// Which fields of the source say whose usage it is.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The field of the application.
    pub app: String,
    /// The field of its user.
    pub user: String,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            app: "x-tenant-id".to_owned(),
            user: "x-user-id".to_owned(),
        }
    }
}

/// One event's usage.
#[derive(Debug, Clone)]
pub struct Line {
    /// Who is charged.
    pub app: String,
    /// Its user, or empty.
    pub user: String,
    /// The gateway's route, or empty.
    pub route: String,
    /// Who answered, as logged, or empty.
    pub provider: String,
    /// The model that was asked for.
    pub model: String,
    /// The model that answered.
    pub answered_model: Option<String>,
    /// The request's id, or empty.
    pub request_id: String,
    /// When it started, in ms since 1970.
    pub start: i64,
    /// In the order of the oracle's meters.
    pub quantities: [u64; 10],
    /// Whether it did not succeed.
    pub failed: bool,
    /// The event's own bytes, trimmed.
    pub bytes: Vec<u8>,
}

/// What one event is.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is usage.
    Usage(Box<Line>),
    /// It is not metered.
    Ignored,
    /// It cannot become usage; the reason's name.
    Rejected(&'static str),
}

/// Reads a record.
#[must_use]
pub fn read(payload: Option<&[u8]>, rule: &Rule) -> Vec<Verdict> {
    let whole = payload.unwrap_or_default();
    let reject = |reason| vec![Verdict::Rejected(reason)];
    let bytes = whole.trim_ascii();
    if bytes.is_empty() {
        return reject("empty");
    }
    if whole.len() > 1_048_576 {
        return reject("too_large");
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return reject("not_json");
    };
    if text.starts_with('[') {
        return match json::elements(text) {
            Err(_) => reject("not_json"),
            Ok(elements) if elements.is_empty() => reject("empty"),
            Ok(elements) => elements
                .into_iter()
                .map(|each| element(each, rule))
                .collect(),
        };
    }
    vec![element(text, rule)]
}

fn element(text: &str, rule: &Rule) -> Verdict {
    let outer = match json::read(text) {
        Err(fault) => return Verdict::Rejected(name_of(fault)),
        Ok(object @ Json::Object(_)) => object,
        Ok(_) => return Verdict::Rejected("not_an_object"),
    };
    let mut broken = None;
    for key in ["message", "log"] {
        let Some(Json::Text(carried)) = outer.field(key) else {
            continue;
        };
        let inside = carried.trim_ascii();
        match json::read(inside) {
            Ok(object @ Json::Object(_)) => return line(&object, inside, rule),
            Err(Fault::DuplicateKey) if inside.starts_with('{') => {
                return Verdict::Rejected("duplicate_key");
            }
            Ok(Json::Array(_)) => broken = broken.or(Some("not_an_object")),
            Err(_) if inside.starts_with('{') => broken = broken.or(Some("not_json")),
            Ok(_) | Err(_) => {}
        }
    }
    match broken.filter(|_| !is_metered(&outer)) {
        Some(reason) => Verdict::Rejected(reason),
        None => line(&outer, text, rule),
    }
}

const fn name_of(fault: Fault) -> &'static str {
    match fault {
        Fault::NotJson => "not_json",
        Fault::DuplicateKey => "duplicate_key",
    }
}

const USAGE: [&str; 6] = [
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.cached_input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "gen_ai.usage.total_tokens",
];

fn is_metered(object: &Json) -> bool {
    let is_set = |name: &str| match object.field(name) {
        None | Some(Json::Null) => false,
        Some(Json::Text(text)) => !matches!(text.as_str(), "" | "-"),
        Some(_) => true,
    };
    is_set("gen_ai.request.model") || USAGE.into_iter().any(is_set)
}

fn line(object: &Json, text: &str, rule: &Rule) -> Verdict {
    if !is_metered(object) {
        return Verdict::Ignored;
    }
    match usage(object, text, rule) {
        Ok(line) => Verdict::Usage(Box::new(line)),
        Err(reason) => Verdict::Rejected(reason),
    }
}

fn usage(object: &Json, text: &str, rule: &Rule) -> Result<Line, &'static str> {
    let model = string(object, "gen_ai.request.model")?.ok_or("missing_field")?;
    let quantities = quantities(object)?;
    let start = start(object)?;
    let status = quantity(object, "response_code")?;
    let flags = string(object, "response_flags")?.unwrap_or_default();
    let failed = match status {
        Some(0) => true,
        Some(status) if status >= 400 => true,
        Some(_) | None => flags.split(',').any(is_abort),
    };
    Ok(Line {
        app: id(object, &rule.app)?.unwrap_or_else(|| "unattributed".to_owned()),
        user: id(object, &rule.user)?.unwrap_or_default(),
        route: id(object, "route_name")?.unwrap_or_default(),
        provider: id(object, "gen_ai.provider.name")?.unwrap_or_default(),
        model: checked(model)?,
        answered_model: id(object, "gen_ai.response.model")?,
        request_id: string(object, "x-request-id")?.unwrap_or_default(),
        start,
        quantities,
        failed,
        bytes: text.as_bytes().to_vec(),
    })
}

fn is_abort(flag: &str) -> bool {
    const SHORT: [&str; 10] = ["DC", "DPE", "DR", "DT", "LR", "SI", "UC", "UPE", "UR", "UT"];
    SHORT.contains(&flag)
}

fn quantities(object: &Json) -> Result<[u64; 10], &'static str> {
    let read = USAGE.map(|name| quantity(object, name));
    let [input, cached, created, output, reasoning, total] = read;
    let (input, cached, created) = (input?, cached?, created?);
    let (output, reasoning, total) = (output?, reasoning?, total?);
    let mut quantities = [0; 10];
    quantities[0] = 1;
    let Some(input) = input else {
        let others = [cached, created, output, reasoning, total];
        return if others.iter().all(Option::is_none) {
            Ok(quantities)
        } else {
            Err("missing_field")
        };
    };
    let output = match (output, total) {
        (Some(output), _) => output,
        (None, Some(total)) if total != input => return Err("missing_field"),
        (None, _) => 0,
    };
    if total.is_some_and(|total| total != input + output) {
        return Err("inconsistent");
    }
    let (cached, created) = (cached.unwrap_or(0), created.unwrap_or(0));
    let reasoning = reasoning.unwrap_or(0);
    quantities[1] = input.checked_sub(cached + created).ok_or("inconsistent")?;
    quantities[2] = cached;
    quantities[3] = created;
    quantities[6] = output.checked_sub(reasoning).ok_or("inconsistent")?;
    quantities[7] = reasoning;
    Ok(quantities)
}

fn start(object: &Json) -> Result<i64, &'static str> {
    let in_range = |at: u64| {
        i64::try_from(at)
            .ok()
            .filter(|at| *at < 253_402_300_800_000)
    };
    match object.field("start_time") {
        None | Some(Json::Null) => Err("missing_field"),
        Some(Json::Whole(at)) => in_range(*at).ok_or("bad_time"),
        Some(Json::OtherNumber) => Err("bad_time"),
        Some(Json::Text(text)) if matches!(text.as_str(), "" | "-") => Err("missing_field"),
        Some(Json::Text(text)) => time::parse(text)
            .or_else(|| digits(text).and_then(in_range))
            .ok_or("bad_time"),
        Some(Json::Bool | Json::Array(_) | Json::Object(_)) => Err("wrong_type"),
    }
}

fn quantity(object: &Json, name: &str) -> Result<Option<u64>, &'static str> {
    let number = match object.field(name) {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Text(text)) if matches!(text.as_str(), "" | "-") => return Ok(None),
        Some(Json::Text(text)) => digits(text),
        Some(Json::Whole(number)) => Some(*number),
        Some(Json::Bool | Json::OtherNumber | Json::Array(_) | Json::Object(_)) => None,
    };
    number
        .filter(|number| *number <= QUANTITY_MAX)
        .map(Some)
        .ok_or("bad_number")
}

fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn string(object: &Json, name: &str) -> Result<Option<String>, &'static str> {
    match object.field(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) if matches!(text.as_str(), "" | "-") => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err("wrong_type"),
    }
}

fn id(object: &Json, name: &str) -> Result<Option<String>, &'static str> {
    string(object, name)?.map(checked).transpose()
}

fn checked(text: String) -> Result<String, &'static str> {
    if text.len() > 256 || text.contains('\0') {
        Err("bad_id")
    } else {
        Ok(text)
    }
}
