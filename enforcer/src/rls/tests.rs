//! The service against what envoyproxy/ratelimit was recorded to answer, against a slow model of it,
//! and case by case.

mod answers;
mod files;
mod matching;
mod messages;
mod model;
mod replay;

use std::sync::Arc;

use domain::account::ReplicaId;
use domain::time::UnixMs;

use super::{OneDomain, Options, Rls, RuleFile, load};
use crate::counters::Counters;
use crate::grpc::wire::{Descriptor, Entry, LimitOverride, RateLimitRequest};

/// A Saturday in the middle of an hour; no window but the second begins here.
const NOW: i64 = 1_792_875_754;

fn at(seconds: i64) -> UnixMs {
    UnixMs::new(seconds * 1_000 + 345).unwrap()
}

fn file(text: &str) -> RuleFile {
    RuleFile {
        path: "rls/a.yaml".to_owned(),
        text: text.to_owned(),
    }
}

fn service(rules: &str, options: Options) -> Rls {
    let counters = Arc::new(Counters::new(ReplicaId(1), usize::MAX));
    let rls = Rls::new(counters, options).unwrap();
    rls.swap(load(&[file(rules)], OneDomain::Refused).unwrap().rules);
    rls
}

/// Makes a descriptor of `key=value` pairs with blanks between.
fn descriptor(entries: &str) -> Descriptor {
    let entries = entries.split_whitespace().map(|entry| {
        let (key, value) = entry.split_once('=').unwrap();
        let [key, value] = [key, value].map(str::to_owned);
        Entry { key, value }
    });
    Descriptor {
        entries: entries.collect(),
        limit: None,
        hits_addend: None,
    }
}

fn limited(entries: &str, requests_per_unit: u32, unit: i32) -> Descriptor {
    Descriptor {
        limit: Some(LimitOverride {
            requests_per_unit,
            unit,
        }),
        ..descriptor(entries)
    }
}

fn hits(hits: u64, descriptor: Descriptor) -> Descriptor {
    Descriptor {
        hits_addend: Some(hits),
        ..descriptor
    }
}

fn request(descriptors: &[Descriptor]) -> RateLimitRequest {
    RateLimitRequest {
        domain: "gw".to_owned(),
        descriptors: descriptors.to_vec(),
        hits_addend: 0,
    }
}
