//! The service against a slow model of envoyproxy/ratelimit, written from its rules: Redis is a map of
//! texts to numbers, a wildcard is a regular expression, a level is a list that is searched.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;
use regex::Regex;

use super::*;
use crate::grpc::wire::{CODE_OK, CODE_OVER_LIMIT, RateLimitResponse};
use crate::rls::Denied;

/// Length, number and name of each unit.
const UNITS: [(i64, i32, &str); 7] = [
    (1, 1, "second"),
    (60, 2, "minute"),
    (3_600, 3, "hour"),
    (86_400, 4, "day"),
    (7 * 86_400, 7, "week"),
    (30 * 86_400, 5, "month"),
    (365 * 86_400, 6, "year"),
];

#[derive(Debug, Clone)]
struct Rule {
    key: &'static str,
    value: &'static str,
    limit: Option<Limit>,
    is_shadow: bool,
    is_quota: bool,
    shares: bool,
    below: Vec<Self>,
}

#[derive(Debug, Clone)]
struct Limit {
    /// Hits and the unit's index; unlimited without.
    hits: Option<(u32, usize)>,
    name: &'static str,
    replaces: Vec<&'static str>,
}

impl Rule {
    fn composed(&self) -> String {
        match self.value {
            "" => self.key.to_owned(),
            value => format!("{}_{value}", self.key),
        }
    }
}

fn limit() -> impl Strategy<Value = Limit> {
    let hits = prop::option::weighted(
        0.9,
        (0..6_u32, prop::sample::select(vec![0, 1, 1, 2, 2, 3])),
    );
    let names = ["", "", "n1", "n2"];
    let name = prop::sample::select(names.to_vec());
    let replaces = prop::collection::vec(prop::sample::select(vec!["n1", "n2", "n3"]), 0..2);
    (hits, name, replaces).prop_map(|(hits, name, mut replaces)| {
        replaces.retain(|replaced| *replaced != name);
        Limit {
            hits,
            name,
            replaces,
        }
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = || {
        (
            prop::sample::select(vec!["a", "b", "a_x", "b*"]),
            prop::sample::select(vec!["", "", "x", "y", "x*", "x*z", "*", "*x*z*", "x_y"]),
            prop::option::weighted(0.8, limit()),
            prop::bool::weighted(0.15),
            prop::bool::weighted(0.3),
            any::<bool>(),
        )
            .prop_map(|(key, value, limit, is_shadow, is_quota, shares)| Rule {
                key,
                value,
                limit,
                is_shadow,
                is_quota,
                shares: shares && (key.contains('*') || value.contains('*')),
                below: Vec::new(),
            })
    };
    let unique = |mut rules: Vec<Rule>| {
        let mut seen: Vec<String> = Vec::new();
        rules.retain(|rule| {
            let is_new = !seen.contains(&rule.composed());
            seen.push(rule.composed());
            is_new
        });
        rules
    };
    let leaves = prop::collection::vec(rule(), 0..5).prop_map(unique);
    leaves.prop_recursive(2, 24, 5, move |below| {
        let rules = prop::collection::vec((rule(), below), 1..6);
        rules.prop_map(move |rules| {
            let rules = rules
                .into_iter()
                .map(|(rule, below)| Rule { below, ..rule });
            unique(rules.collect())
        })
    })
}

fn yaml(rules: &[Rule], indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    for rule in rules {
        writeln!(text, "{pad}- key: \"{}\"", rule.key).unwrap();
        if !rule.value.is_empty() {
            writeln!(text, "{pad}  value: \"{}\"", rule.value).unwrap();
        }
        for (name, is_set) in [
            ("shadow_mode", rule.is_shadow),
            ("quota_mode", rule.is_quota),
            ("share_threshold", rule.shares),
        ] {
            if is_set {
                writeln!(text, "{pad}  {name}: true").unwrap();
            }
        }
        if let Some(limit) = &rule.limit {
            writeln!(text, "{pad}  rate_limit:").unwrap();
            match limit.hits {
                None => writeln!(text, "{pad}    unlimited: true").unwrap(),
                Some((hits, unit)) => {
                    writeln!(text, "{pad}    requests_per_unit: {hits}").unwrap();
                    writeln!(text, "{pad}    unit: {}", UNITS[unit].2).unwrap();
                }
            }
            if !limit.name.is_empty() {
                writeln!(text, "{pad}    name: {}", limit.name).unwrap();
            }
            if !limit.replaces.is_empty() {
                writeln!(text, "{pad}    replaces:").unwrap();
                for name in &limit.replaces {
                    writeln!(text, "{pad}      - name: {name}").unwrap();
                }
            }
        }
        if !rule.below.is_empty() {
            writeln!(text, "{pad}  descriptors:").unwrap();
            yaml(&rule.below, indent + 4, text);
        }
    }
}

fn requests() -> impl Strategy<Value = Vec<(i64, RateLimitRequest)>> {
    let entry = (
        prop::sample::select(vec!["a", "a", "b", "a_x", "bb", "c"]),
        prop::sample::select(vec![
            "", "x", "x", "y", "xz", "xyz", "axbz", "x*", "x_y", "y_x",
        ]),
    );
    let entry = entry.prop_map(|(key, value)| Entry {
        key: key.to_owned(),
        value: value.to_owned(),
    });
    let limit = (0..5_u32, 0..UNITS.len()).prop_map(|(requests_per_unit, unit)| LimitOverride {
        requests_per_unit,
        unit: UNITS[unit].1,
    });
    let descriptor = (
        prop::collection::vec(entry, 1..4),
        prop::option::weighted(0.2, limit),
        prop::option::weighted(0.4, 0..4_u64),
    );
    let descriptor = descriptor.prop_map(|(entries, limit, hits_addend)| Descriptor {
        entries,
        limit,
        hits_addend,
    });
    let request = (
        prop::sample::select(vec!["gw", "gw", "gw", "gw", "gw", "other"]),
        prop::collection::vec(descriptor, 1..4),
        0..3_u32,
    );
    let request = request.prop_map(|(domain, descriptors, hits_addend)| RateLimitRequest {
        domain: domain.to_owned(),
        descriptors,
        hits_addend,
    });
    let step = prop::sample::select(vec![0, 0, 0, 0, 1, 7, 50, 1_000]);
    prop::collection::vec((step, request), 1..60)
}

#[derive(Debug, Clone, PartialEq)]
struct Status {
    code: i32,
    limit: Option<(u32, i32, String, i64)>,
    remaining: u32,
}

/// The model.
struct Model<'r> {
    rules: &'r [Rule],
    redis: BTreeMap<String, u64>,
    denied: Denied,
    is_all_quota: bool,
}

/// What the model finds for a descriptor.
#[derive(Debug, Clone)]
struct Found {
    hits: Option<(u32, usize)>,
    name: &'static str,
    replaces: Vec<&'static str>,
    is_shadow: bool,
    is_quota: bool,
    /// The entries as they stand in the key.
    values: Vec<String>,
}

impl Model<'_> {
    fn find(&self, domain: &str, descriptor: &Descriptor) -> Option<Found> {
        if domain != "gw" {
            return None;
        }
        let mut values: Vec<_> = descriptor.entries.iter().map(|e| e.value.clone()).collect();
        if let Some(limit) = descriptor.limit {
            let unit = UNITS
                .iter()
                .position(|(_, number, _)| *number == limit.unit);
            return Some(Found {
                hits: Some((limit.requests_per_unit, unit.unwrap())),
                name: "",
                replaces: Vec::new(),
                is_shadow: false,
                is_quota: false,
                values,
            });
        }
        let mut level = self.rules;
        for (index, entry) in descriptor.entries.iter().enumerate() {
            let name = format!("{}_{}", entry.key, entry.value);
            let exact = level.iter().find(|rule| rule.composed() == name);
            let wild = level.iter().find(|rule| {
                let composed = rule.composed();
                let parts: Vec<_> = composed.split('*').map(regex::escape).collect();
                let pattern = format!("(?s)^{}$", parts.join(".*"));
                composed.contains('*') && Regex::new(&pattern).unwrap().is_match(&name)
            });
            let by_key = level.iter().find(|rule| rule.composed() == entry.key);
            let rule = exact.or(wild).or(by_key)?;
            if exact.is_none() && wild.is_some() && rule.shares {
                let composed = rule.composed();
                let prefix = format!("{}_", entry.key);
                let value = composed.strip_prefix(&prefix).unwrap_or(&composed);
                values[index] = value.to_owned();
            }
            if index + 1 == descriptor.entries.len() {
                return rule.limit.as_ref().map(|limit| Found {
                    hits: limit.hits,
                    name: limit.name,
                    replaces: limit.replaces.clone(),
                    is_shadow: rule.is_shadow,
                    is_quota: rule.is_quota,
                    values,
                });
            }
            level = &rule.below;
        }
        None
    }

    fn found(&self, request: &RateLimitRequest) -> Vec<Option<Found>> {
        let mut found: Vec<_> = request
            .descriptors
            .iter()
            .map(|descriptor| self.find(&request.domain, descriptor))
            .collect();
        let replaced: Vec<_> = found
            .iter()
            .flatten()
            .flat_map(|of| of.replaces.clone())
            .collect();
        for of in &mut found {
            *of = of
                .take()
                .filter(|of| of.hits.is_none() || !replaced.contains(&of.name));
        }
        found
    }

    fn answer(&mut self, request: &RateLimitRequest, now: i64) -> (i32, Vec<Status>) {
        let found = self.found(request);
        let before = self.redis.clone();
        let (mut over, mut quotas, mut quotas_over) = (0, 0, 0);
        let mut statuses = Vec::new();
        let mut keys = Vec::new();
        for (descriptor, of) in request.descriptors.iter().zip(&found) {
            let limit = of.as_ref().and_then(|of| of.hits);
            let is_unlimited = of.is_some() && limit.is_none();
            let is_quota =
                !is_unlimited && (self.is_all_quota || of.as_ref().is_some_and(|of| of.is_quota));
            quotas += i32::from(is_quota);
            let Some((limit, unit)) = limit else {
                let remaining = if is_unlimited { u32::MAX } else { 0 };
                statuses.push(Status {
                    code: CODE_OK,
                    limit: None,
                    remaining,
                });
                keys.push(None);
                continue;
            };
            let of = of.as_ref().unwrap();
            let (length, number, _) = UNITS[unit];
            let hits = descriptor
                .hits_addend
                .unwrap_or(request.hits_addend.max(1).into());
            let key = key(
                &request.domain,
                descriptor,
                &of.values,
                now / length * length,
            );
            let count = self.redis.entry(key.clone()).or_default();
            *count += hits;
            let is_over = *count > limit.into();
            if is_over && !of.is_shadow {
                if is_quota {
                    quotas_over += 1;
                } else {
                    over += 1;
                }
            }
            let left = u64::from(limit).saturating_sub(*count);
            statuses.push(Status {
                code: if is_over && !of.is_shadow {
                    CODE_OVER_LIMIT
                } else {
                    CODE_OK
                },
                limit: Some((limit, number, of.name.to_owned(), length - now % length)),
                remaining: u32::try_from(left).unwrap(),
            });
            keys.push(Some((key, limit)));
        }
        let is_over = over > 0 || (quotas > 0 && quotas == quotas_over);
        if is_over && self.denied == Denied::Free {
            self.redis = before;
            for (status, key) in statuses.iter_mut().zip(keys) {
                if let Some((key, limit)) = key {
                    let used = self.redis.get(&key).copied().unwrap_or_default();
                    let left = u64::from(limit).saturating_sub(used);
                    status.remaining = u32::try_from(left).unwrap();
                }
            }
        }
        (if is_over { CODE_OVER_LIMIT } else { CODE_OK }, statuses)
    }
}

fn key(domain: &str, descriptor: &Descriptor, values: &[String], start: i64) -> String {
    let mut key = format!("{domain}_");
    for (entry, value) in descriptor.entries.iter().zip(values) {
        write!(key, "{}_{value}_", entry.key).unwrap();
    }
    key + &start.to_string()
}

fn seen(answer: &RateLimitResponse) -> (i32, Vec<Status>) {
    let statuses = answer.statuses.iter().map(|status| {
        let reset = status.duration_until_reset.map(|reset| reset.seconds);
        let limit = status.current_limit.clone().zip(reset);
        Status {
            code: status.code,
            limit: limit
                .map(|(limit, reset)| (limit.requests_per_unit, limit.unit, limit.name, reset)),
            remaining: status.limit_remaining,
        }
    });
    (answer.overall_code, statuses.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_sequence_is_answered_as_the_model_does(
        rules in rules(),
        requests in requests(),
        // The second, the middle of an hour, and shortly before a day, a week and a year begin.
        start in prop::sample::select(vec![NOW, 1_792_886_370, 1_792_627_170, 57 * 365 * 86_400 - 30]),
        is_free in any::<bool>(),
        is_all_quota in prop::bool::weighted(0.1),
    ) {
        let mut text = "domain: gw\ndescriptors:\n".to_owned();
        yaml(&rules, 2, &mut text);
        let denied = if is_free { Denied::Free } else { Denied::Counts };
        let rls = service(&text, Options { denied, is_all_quota, ..Options::default() });
        let redis = BTreeMap::new();
        let mut model = Model { rules: &rules, redis, denied, is_all_quota };
        let mut now = start;
        for (step, request) in &requests {
            now += step;
            let answer = rls.should_rate_limit(request, at(now)).unwrap();
            let expected = model.answer(request, now);
            prop_assert_eq!(seen(&answer), expected, "{:?} at {} by\n{}", request, now, text);
        }
    }
}
