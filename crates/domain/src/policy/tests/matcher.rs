//! The matcher against a slow, obvious one, over random policies and requests.

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

use super::set;
use crate::event::Dimensions;
use crate::hash::HashKey;
use crate::ids::{AppId, ModelId, ProviderId, TenantId};
use crate::policy::model::CountedFrom;
use crate::policy::{CompiledSet, CounterKey, Keyed, Place, Placed, Placing};
use crate::request::Request;

/// Few words, so that policies and requests meet.
const WORDS: [&str; 6] = ["a", "ab", "abc", "b", "gpt-4", "gpt-4o"];
const FIELDS: [&str; 10] = [
    "tenant", "app", "user", "session", "model", "provider", "route", "method", "host", "path",
];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.1.1", "192.0.2.1", "2001:db8::1"];

/// One condition, kept as what it says.
#[derive(Debug, Clone)]
enum Condition {
    OneOf(Vec<&'static str>),
    Prefix(&'static str),
    Glob(&'static str),
    Regex(&'static str),
}

impl Condition {
    fn yaml(&self) -> String {
        match self {
            Self::OneOf(words) if words.len() == 1 => words[0].to_owned(),
            Self::OneOf(words) => format!("[{}]", words.join(", ")),
            Self::Prefix(word) => format!("{{ prefix: {word} }}"),
            Self::Glob(word) => format!("{{ glob: \"{word}*\" }}"),
            Self::Regex(word) => format!("{{ regex: \"^{word}[a-z]?$\" }}"),
        }
    }

    fn holds(&self, text: &str) -> bool {
        match self {
            Self::OneOf(words) => words.contains(&text),
            Self::Prefix(word) | Self::Glob(word) => text.starts_with(word),
            Self::Regex(word) => match text.strip_prefix(word) {
                Some("") => true,
                Some(rest) => rest.len() == 1 && rest.as_bytes()[0].is_ascii_lowercase(),
                None => false,
            },
        }
    }
}

/// Conditions by name: fields, headers as `header:x`, the source's network as `source_address`, and
/// expressions as `cel:field`.
type Conditions = Vec<(String, Condition)>;

#[derive(Debug, Clone)]
struct SlowLimit {
    per: Vec<&'static str>,
    missing: &'static str,
    is_log: bool,
}

#[derive(Debug, Clone)]
struct SlowPolicy {
    matches: Conditions,
    attachments: Vec<Conditions>,
    limits: Vec<SlowLimit>,
}

type SlowRequest = HashMap<String, String>;

fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&WORDS[..])
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        4 => prop::collection::vec(word(), 1..12).prop_map(Condition::OneOf),
        2 => word().prop_map(Condition::Prefix),
        1 => word().prop_map(Condition::Glob),
        1 => word().prop_map(Condition::Regex),
    ]
}

fn conditions(is_logged: bool) -> impl Strategy<Value = Conditions> {
    let fields = if is_logged { &FIELDS[..7] } else { &FIELDS[..] };
    let name = prop_oneof![
        8 => prop::sample::select(fields).prop_map(str::to_owned),
        1 => prop::sample::select(fields).prop_map(|field| format!("cel:{field}")),
        if is_logged { 0 } else { 1 } => word().prop_map(|word| format!("header:{word}")),
        if is_logged { 0 } else { 1 } => prop::strategy::Just("source_address".to_owned()),
    ];
    let all = prop::collection::vec((name, condition()), 0..3);
    all.prop_map(|all| {
        // One `cel` at most, and each name once.
        let mut kept: Conditions = Vec::new();
        for (name, condition) in all {
            let is_cel = name.starts_with("cel:");
            let is_taken = kept
                .iter()
                .any(|(other, _)| *other == name || (is_cel && other.starts_with("cel:")));
            if !is_taken {
                kept.push((name, condition));
            }
        }
        kept
    })
}

fn yaml_of(conditions: &Conditions) -> String {
    let mut entries = Vec::new();
    let mut headers = Vec::new();
    for (name, condition) in conditions {
        if let Some(field) = name.strip_prefix("cel:") {
            let tests: Vec<_> = match condition {
                Condition::OneOf(words) => words
                    .iter()
                    .map(|word| format!("{field} == '{word}'"))
                    .collect(),
                Condition::Prefix(word) | Condition::Glob(word) => {
                    vec![format!("{field}.startsWith('{word}')")]
                }
                Condition::Regex(word) => vec![format!("{field}.matches('^{word}[a-z]?$')")],
            };
            entries.push(format!("cel: \"{}\"", tests.join(" || ")));
        } else if let Some(header) = name.strip_prefix("header:") {
            headers.push(format!("X-{header}: {}", condition.yaml()));
        } else if name == "source_address" {
            entries.push("source_address: [10.0.0.0/24, \"2001:db8::/32\"]".to_owned());
        } else {
            entries.push(format!("{name}: {}", condition.yaml()));
        }
    }
    if !headers.is_empty() {
        entries.push(format!("headers: {{ {} }}", headers.join(", ")));
    }
    format!("{{ {} }}", entries.join(", "))
}

fn text_of<'r>(request: &'r SlowRequest, name: &str) -> Option<&'r str> {
    let otherwise = match name {
        "tenant" => Some("default"),
        "app" => Some("unattributed"),
        _ => None,
    };
    request.get(name).map(String::as_str).or(otherwise)
}

fn hold(conditions: &Conditions, request: &SlowRequest) -> bool {
    conditions.iter().all(|(name, condition)| {
        if name == "source_address" {
            return matches!(text_of(request, name), Some("10.0.0.1" | "2001:db8::1"));
        }
        let name = name.strip_prefix("cel:").unwrap_or(name);
        text_of(request, name).is_some_and(|text| condition.holds(text))
    })
}

fn slow_policies() -> impl Strategy<Value = Vec<SlowPolicy>> {
    let keys = prop::sample::subsequence(&FIELDS[..7], 0..4);
    let missing = prop::sample::select(&["shared", "skip", "deny"][..]);
    let limits = prop::collection::vec((keys, missing), 1..4);
    let policy = any::<bool>().prop_flat_map(move |is_log| {
        let attachments = prop::collection::vec(conditions(is_log), 0..3);
        (conditions(is_log), attachments, limits.clone()).prop_map(
            move |(matches, attachments, limits)| {
                let limits = limits.into_iter().map(|(per, missing)| SlowLimit {
                    per,
                    missing,
                    is_log,
                });
                SlowPolicy {
                    matches,
                    attachments,
                    limits: limits.collect(),
                }
            },
        )
    });
    prop::collection::vec(policy, 0..8)
}

fn slow_request() -> impl Strategy<Value = SlowRequest> {
    let names = FIELDS.iter().map(|field| (*field).to_owned());
    let names: Vec<_> = names
        .chain(WORDS.map(|word| format!("header:{word}")))
        .collect();
    let carried = prop::collection::hash_map(
        prop::sample::select(names),
        word().prop_map(str::to_owned),
        0..12,
    );
    let address = prop::option::of(prop::sample::select(&ADDRESSES[..]));
    (carried, address).prop_map(|(mut carried, address)| {
        if let Some(address) = address {
            carried.insert("source_address".to_owned(), address.to_owned());
        }
        carried
    })
}

fn yaml(policies: &[SlowPolicy]) -> String {
    let mut text = String::new();
    for (policy, number) in policies.iter().zip(0..) {
        text.push_str(&format!(
            "---\nname: p{number}\nmatch: {}\n",
            yaml_of(&policy.matches)
        ));
        let attachments: Vec<_> = policy
            .attachments
            .iter()
            .zip(0..)
            .map(|(conditions, number)| {
                format!("{{ name: a{number}, match: {} }}", yaml_of(conditions))
            })
            .collect();
        text.push_str(&format!(
            "attachments: [{}]\nlimits:\n",
            attachments.join(", ")
        ));
        for (limit, number) in policy.limits.iter().zip(0..) {
            let from = if limit.is_log { "log" } else { "decision" };
            text.push_str(&format!(
                "  - {{ name: l{number}, meter: requests, limit: 5, window: {{ fixed: 60s }}, per: [{}], \
                 missing_key: {}, from: {from} }}\n",
                limit.per.join(", "), limit.missing
            ));
        }
    }
    text
}

/// What applies, by asking each policy in turn: policy, attachment, limit, and the key in words.
fn slowly(policies: &[SlowPolicy], request: &SlowRequest) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (policy, number) in policies.iter().zip(0..) {
        let everywhere = [Vec::new()];
        let (attachments, is_named) = if policy.attachments.is_empty() {
            (&everywhere[..], false)
        } else {
            (policy.attachments.as_slice(), true)
        };
        for (attachment, place) in attachments.iter().zip(0..) {
            if !hold(&policy.matches, request) || !hold(attachment, request) {
                continue;
            }
            for (limit, index) in policy.limits.iter().zip(0..) {
                let keys = limit.per.iter().filter(|key| **key != "tenant");
                let lacks = keys.clone().any(|key| !request.contains_key(*key));
                let tenant = text_of(request, "tenant").unwrap();
                let values: Vec<_> = keys.map(|key| (key, request.get(*key))).collect();
                let key = match limit.missing {
                    "skip" if lacks => continue,
                    "deny" if lacks => "denied".to_owned(),
                    _ => format!("{tenant} {values:?}"),
                };
                let attachment = if is_named {
                    format!("a{place}")
                } else {
                    String::new()
                };
                found.push((format!("p{number}/{attachment}/l{index}"), key));
            }
        }
    }
    found
}

/// What applies, as the matcher says it: the same names, and the keys as they are hashed.
fn quickly(set: &CompiledSet, request: &SlowRequest) -> Vec<(String, Option<CounterKey>)> {
    with(request, |asked| {
        let applied = set.matching(asked).map(|one| {
            let name = format!(
                "{}/{}/{}",
                one.policy.name, one.attachment.name, one.limit.name
            );
            let keyed = match one.keyed {
                Keyed::Counts(key) => Some(key),
                Keyed::Skipped => panic!("what is skipped is not yielded"),
                Keyed::Denied(_) => None,
            };
            (name, keyed)
        });
        applied.collect()
    })
}

/// What holds, as the quick way says it: places instead of keys, and the keys that it makes of them.
fn placed(
    set: &CompiledSet,
    request: &SlowRequest,
    placing: &Placing,
) -> Vec<(String, Option<(Place, CounterKey)>)> {
    with(request, |asked| {
        let mut held = Vec::new();
        set.each_holding(asked, placing, |one| {
            let (id, _, attachment, limit) = set.limit_at(one.index).unwrap();
            assert_eq!((id, &limit.name), (one.id, &one.limit.name), "its index");
            let name = format!("{}/{}/{}", one.policy.name, attachment.name, one.limit.name);
            let placed = match one.placed {
                Placed::Counts(place) => Some((place, one.limit.counter_key(one.id, asked))),
                Placed::Denied(_) => None,
            };
            held.push((name, placed));
        });
        held
    })
}

/// Looks at a request as protocols make it.
fn with<T>(request: &SlowRequest, look: impl FnOnce(&Request<'_>) -> T) -> T {
    let headers: HashMap<String, String> = request
        .iter()
        .filter_map(|(name, value)| {
            Some((
                format!("x-{}", name.strip_prefix("header:")?),
                value.clone(),
            ))
        })
        .collect();
    let text = |name: &str| request.get(name).map(String::as_str);
    let asked = Request {
        tenant: text("tenant"),
        app: text("app"),
        user: text("user"),
        session: text("session"),
        model: text("model"),
        provider: text("provider"),
        route: text("route"),
        method: text("method"),
        host: text("host"),
        path: text("path"),
        source: text("source_address").map(|address| address.parse::<IpAddr>().unwrap()),
        destination: None,
        headers: Some(&headers),
    };
    look(&asked)
}

proptest! {
    #[test]
    fn the_matcher_agrees_with_asking_each_policy(
        policies in slow_policies(),
        requests in prop::collection::vec(slow_request(), 1..12),
    ) {
        let set = set(&yaml(&policies));
        // The same limit and the same words, if and only if the same hash.
        let mut by_words: HashMap<(String, String), Option<CounterKey>> = HashMap::new();
        let mut by_hash: HashMap<Option<CounterKey>, (String, String)> = HashMap::new();
        let placing = Placing::new(HashKey::new([1; 4]));
        let mut by_place: HashMap<(String, Place), CounterKey> = HashMap::new();
        let mut by_key: HashMap<CounterKey, Place> = HashMap::new();
        for request in &requests {
            let slow = slowly(&policies, request);
            let quick = quickly(&set, request);
            let placed = placed(&set, request, &placing);
            let keys = placed.iter().map(|(name, placed)| (name.clone(), placed.map(|(_, key)| key)));
            prop_assert_eq!(&keys.collect::<Vec<_>>(), &quick, "the same limits, and the same keys");
            for (name, (place, key)) in placed.into_iter().filter_map(|(name, one)| Some((name, one?))) {
                prop_assert_eq!(*by_key.entry(key).or_insert(place), place, "{}", &name);
                prop_assert_eq!(*by_place.entry((name, place)).or_insert(key), key);
            }
            let names = |all: &[(String, String)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            prop_assert_eq!(names(&slow), quick.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
            for ((name, words), (_, keyed)) in slow.into_iter().zip(quick) {
                prop_assert_eq!(words == "denied", keyed.is_none(), "{}", &name);
                if keyed.is_some() {
                    let what = (name, words);
                    prop_assert_eq!(*by_words.entry(what.clone()).or_insert(keyed), keyed);
                    prop_assert_eq!(by_hash.entry(keyed).or_insert_with(|| what.clone()), &what);
                }
            }
        }
    }
}

#[test]
fn a_usage_event_counts_by_the_key_that_its_request_was_asked_with() {
    let set = set("name: p\nmatch: { app: [team-a, unattributed] }\n\
         limits: [{ name: l, meter: cost, limit: 5, window: { calendar: day }, per: [app, model, user] },\n\
         { name: pace, meter: requests, limit: 5, window: { fixed: 60s } }]\n");
    for app in ["team-a", "unattributed"] {
        let event = Dimensions {
            tenant: TenantId::default_tenant(),
            app: AppId::new(app).unwrap(),
            user: None,
            session: None,
            route: None,
            provider: Some(ProviderId::new("openai").unwrap()),
            model: ModelId::new("gpt-4o").unwrap(),
        };
        let logged = Request::of_event(&event);
        let logged: Vec<_> = set
            .matching(&logged)
            .counted_from(CountedFrom::Log)
            .collect();
        let asked = Request {
            app: (app != "unattributed").then_some(app),
            model: Some("gpt-4o"),
            method: Some("POST"),
            ..Request::default()
        };
        let asked: Vec<_> = set.matching(&asked).collect();
        assert_eq!(
            (logged.len(), asked.len()),
            (1, 2),
            "the log sees what is counted from it"
        );
        assert_eq!(logged[0].keyed, asked[0].keyed, "one counter for {app}");
    }
}

#[test]
fn long_values_have_keys_of_their_own() {
    let set = set(
        "name: p\nlimits: [{ name: l, meter: requests, limit: 5, window: { fixed: 60s }, per: [app, user] }]\n",
    );
    // Around what fits on the stack, alone and together.
    let texts = [1, 100, 116, 200, 230, 231, 232, 256, 999, 1000].map(|length| "x".repeat(length));
    let placing = Placing::new(HashKey::new([1; 4]));
    let (mut keys, mut places) = (Vec::new(), Vec::new());
    for app in &texts {
        for user in &texts {
            let request = Request {
                app: Some(app),
                user: Some(user),
                ..Request::default()
            };
            keys.extend(set.matching(&request).map(|one| format!("{:?}", one.keyed)));
            set.each_holding(&request, &placing, |one| {
                places.push(format!("{:?}", one.placed));
            });
        }
    }
    places.sort();
    places.dedup();
    assert_eq!(places.len(), keys.len(), "nor a place");
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count, "no two pairs share a counter");
}
