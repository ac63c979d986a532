//! What several descriptors' counts say together.
//!
//! Invariant: a pure function, the same as envoyproxy/ratelimit's (`src/service/ratelimit.go` and
//! `src/limiter/base_limiter.go` there), code by code.
//!
//! | descriptor | code | limit | remaining |
//! | --- | --- | --- | --- |
//! | meets no limit, or a replaced one | OK | absent | 0 |
//! | unlimited | OK | absent | 4294967295 |
//! | at most the limit after its hits | OK | its | what is left |
//! | beyond it | `OVER_LIMIT`, in shadow OK | its | 0; where nothing was counted, what is left |
//!
//! The request is over its limit where one descriptor is that is no quota, or where all quotas are.
//! Deliberately absent: counting.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;

use smallvec::SmallVec;

use super::rules::{Allowance, Met, Unit};
use super::{HeaderNames, Options};
use crate::grpc::wire::{
    CODE_OK, CODE_OVER_LIMIT, CurrentLimit, DescriptorStatus, Duration, HeaderValue, Kind,
    RateLimitRequest, RateLimitResponse, Struct, Value,
};

/// One descriptor, counted.
#[derive(Debug)]
pub(super) struct Line<'r> {
    /// The limit that holds for it; absent where none does, or it is replaced.
    pub(super) met: Option<Met<'r>>,
    /// What it asks for: its own addend, or the request's.
    pub(super) hits: u64,
    /// What its counter shows with these hits.
    pub(super) after: i128,
    /// What its counter shows where they were not counted.
    pub(super) uncounted: Option<i128>,
}

/// A line's share of the answer.
struct Share {
    status: DescriptorStatus,
    unit: Option<Unit>,
    is_over: bool,
    is_quota: bool,
    is_unlimited: bool,
}

impl Line<'_> {
    fn share(&self, options: &Options, seconds: i64) -> Share {
        let Some(met) = &self.met else {
            return Share {
                status: passed(0),
                unit: None,
                is_over: false,
                is_quota: options.is_all_quota,
                is_unlimited: false,
            };
        };
        let Allowance::Hits {
            requests_per_unit,
            unit,
        } = met.allowance
        else {
            return Share {
                status: passed(u32::MAX),
                unit: None,
                is_over: false,
                is_quota: false,
                is_unlimited: true,
            };
        };
        let limit = i128::from(requests_per_unit);
        let left = limit.saturating_sub(self.after);
        let shown = limit.saturating_sub(self.uncounted.unwrap_or(self.after));
        let is_shadow = met.limit.is_some_and(|limit| limit.is_shadow);
        let is_over = left < 0 && !is_shadow;
        let past = seconds.checked_rem(unit.seconds()).unwrap_or(0);
        let status = DescriptorStatus {
            code: if is_over { CODE_OVER_LIMIT } else { CODE_OK },
            current_limit: Some(CurrentLimit {
                requests_per_unit,
                unit: unit.number(),
                name: met
                    .limit
                    .map_or_else(String::new, |limit| limit.name.to_string()),
            }),
            limit_remaining: u32::try_from(shown.max(0)).unwrap_or(u32::MAX),
            duration_until_reset: Some(Duration {
                seconds: unit.seconds().saturating_sub(past),
                nanos: 0,
            }),
        };
        Share {
            status,
            unit: Some(unit),
            is_over,
            is_quota: options.is_all_quota || met.limit.is_some_and(|limit| limit.is_quota),
            is_unlimited: false,
        }
    }
}

fn passed(limit_remaining: u32) -> DescriptorStatus {
    DescriptorStatus {
        code: CODE_OK,
        current_limit: None,
        limit_remaining,
        duration_until_reset: None,
    }
}

/// Says whether counted lines refuse the request; a global shadow mode does not matter here.
pub(super) fn is_refused(lines: &[Line<'_>], options: &Options) -> bool {
    let mut quotas = Quotas::default();
    let mut is_over = false;
    for line in lines {
        let share = line.share(options, 0);
        is_over |= quotas.takes(&share) && share.is_over;
    }
    is_over || quotas.are_all_over()
}

/// How many quotas a request meets, and how many of them are over.
#[derive(Default)]
struct Quotas {
    met: usize,
    over: usize,
}

impl Quotas {
    /// Counts a share that is a quota; says whether it is none, so that it denies by itself.
    fn takes(&mut self, share: &Share) -> bool {
        if share.is_unlimited || !share.is_quota {
            return true;
        }
        self.met = self.met.saturating_add(1);
        self.over = self.over.saturating_add(usize::from(share.is_over));
        false
    }

    const fn are_all_over(&self) -> bool {
        self.met > 0 && self.met == self.over
    }
}

/// Makes the answer; `seconds` is the present in Unix seconds.
pub(super) fn answer(
    request: &RateLimitRequest,
    lines: &[Line<'_>],
    options: &Options,
    seconds: i64,
) -> RateLimitResponse {
    let mut statuses = Vec::with_capacity(lines.len());
    let mut quotas = Quotas::default();
    let mut is_over = false;
    let mut tightest = Tightest::default();
    let mut passed: SmallVec<[&Line<'_>; 4]> = SmallVec::new();
    for line in lines {
        let share = line.share(options, seconds);
        tightest.meet(&share, statuses.len());
        let denies = quotas.takes(&share);
        if share.is_over && denies {
            is_over = true;
            tightest.index = Some(statuses.len());
            tightest.remaining = 0;
        }
        if !(share.is_over || share.is_unlimited) {
            passed.push(line);
        }
        statuses.push(share.status);
    }
    let is_over = (is_over || quotas.are_all_over()) && !options.is_all_shadow;
    let named = options.headers.as_ref().zip(tightest.index);
    let headers = named.and_then(|(names, index)| headers(names, statuses.get(index)?));
    RateLimitResponse {
        overall_code: if is_over { CODE_OVER_LIMIT } else { CODE_OK },
        response_headers_to_add: headers.unwrap_or_default(),
        dynamic_metadata: options.adds_metadata.then(|| metadata(request, &passed)),
        statuses,
    }
}

/// The descriptor that headers tell of: the last one that denies, else the one with the least left.
struct Tightest {
    index: Option<usize>,
    remaining: u32,
}

impl Default for Tightest {
    fn default() -> Self {
        Self {
            index: None,
            remaining: u32::MAX,
        }
    }
}

impl Tightest {
    fn meet(&mut self, share: &Share, index: usize) {
        if share.unit.is_some() && share.status.limit_remaining < self.remaining {
            self.index = Some(index);
            self.remaining = share.status.limit_remaining;
        }
    }
}

/// Returns the three headers of a descriptor that meets a limit.
fn headers(names: &HeaderNames, status: &DescriptorStatus) -> Option<Vec<HeaderValue>> {
    let header = |key: &str, value: String| HeaderValue {
        key: key.to_owned(),
        value,
    };
    let limit = status.current_limit.as_ref()?.requests_per_unit;
    let reset = status.duration_until_reset?.seconds;
    Some(vec![
        header(&names.limit, limit.to_string()),
        header(&names.remaining, status.limit_remaining.to_string()),
        header(&names.reset, reset.to_string()),
    ])
}

/// Returns what the request was, and what the passed rules say of themselves.
fn metadata(request: &RateLimitRequest, passed: &[&Line<'_>]) -> Struct {
    let mut fields = BTreeMap::new();
    fields.insert("domain".to_owned(), Value::text(request.domain.as_str()));
    let descriptors = request.descriptors.iter().map(|descriptor| {
        let entries = descriptor.entries.iter();
        let entries = entries.map(|entry| Value::text(format!("{}={}", entry.key, entry.value)));
        let mut fields = BTreeMap::new();
        fields.insert("entries".to_owned(), Value::list(entries.collect()));
        if let Some(limit) = &descriptor.limit {
            let unit = Unit::from_number(limit.unit).map_or("UNKNOWN", Unit::name);
            let text = format!("requests_per_unit:{} unit:{unit}", limit.requests_per_unit);
            fields.insert("limit".to_owned(), Value::text(text));
        }
        if let Some(hits) = descriptor.hits_addend {
            fields.insert("hitsAddend".to_owned(), number(hits));
        }
        Value::fields(fields)
    });
    fields.insert("descriptors".to_owned(), Value::list(descriptors.collect()));
    if request.hits_addend != 0 {
        fields.insert("hitsAddend".to_owned(), number(request.hits_addend.into()));
    }
    let mut said = Struct::default();
    for line in passed {
        let limit = line.met.as_ref().and_then(|met| met.limit);
        if let Some(metadata) = limit.and_then(|limit| limit.metadata.as_ref()) {
            merge(&mut said, metadata);
        }
    }
    if !said.fields.is_empty() {
        fields.insert("metadata".to_owned(), Value::fields(said.fields));
    }
    Struct { fields }
}

/// Returns a number as protobuf's JSON values have it: a float.
fn number(number: u64) -> Value {
    Value::number(number.to_string().parse().unwrap_or_default())
}

/// Adds fields that are not there yet; tables within tables likewise.
fn merge(into: &mut Struct, from: &Struct) {
    for (key, value) in &from.fields {
        match into.fields.entry(key.clone()) {
            Place::Vacant(place) => {
                place.insert(value.clone());
            }
            Place::Occupied(mut known) => {
                let known = known.get_mut().kind.as_mut();
                if let (Some(Kind::Struct(known)), Some(Kind::Struct(more))) = (known, &value.kind)
                {
                    merge(known, more);
                }
            }
        }
    }
}
