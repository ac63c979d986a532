//! The fold's accounts against a slow model: for each limit and key the sum over the events that count.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "tests stop at whatever does not fit"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::event::{
    Dimensions, Identity, IdentityKey, IdentitySecret, LogIdentity, Outcome, Provenance, UsageEvent,
};
use crate::fold::{BatchFold, Folder};
use crate::hash::HashKey;
use crate::ids::{
    AppId, ChainId, ModelId, Offset, PartNumber, PartRef, Place, ProviderId, TenantId, UserId,
};
use crate::meter::{PerMeter, Quantities};
use crate::policy::files::{PolicyFile, compile_files};
use crate::price::PriceBook;
use crate::window::WindowLength;

const POLICIES: &str = r#"
name: one
limits:
  - { name: cost, meter: cost, limit: "5", per: [app], window: { calendar: day, timezone: Europe/Berlin }, from: log, unpriced_rate: "0.25" }
  - { name: tokens, meter: total_tokens, limit: 100, per: [app, model], window: { sliding: 10m }, from: log }
  - { name: asked, meter: requests, limit: 5, window: { calendar: hour } }
---
name: two
match: { app: { prefix: "a" } }
limits:
  - { name: users, meter: requests, limit: 100, per: [user], missing_key: skip, window: { fixed: 1h }, from: log }
  - { name: weighted, meter: { cel: "output_tokens * 3 + 1" }, limit: 100, window: { calendar: minute }, from: log }
  - { name: plain, meter: cost, limit: "5", per: [app], window: { calendar: month }, from: log }
"#;

/// Noon of a day in summer.
const NOON: i64 = 1_782_820_800_000;

fn limits() -> Arc<LogLimits> {
    let set = compile_files(&[PolicyFile::new("test.yaml", POLICIES.to_owned())]).unwrap();
    Arc::new(LogLimits::of(Arc::new(set)).unwrap())
}

#[derive(Debug, Clone)]
struct Event {
    app: &'static str,
    user: Option<&'static str>,
    model: &'static str,
    at: i64,
    input: u64,
    output: u64,
    images: u64,
    /// Equal ids at equal instants are one event.
    id: u8,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (
        prop::sample::select(vec!["a1", "a2", "b", "unattributed"]),
        prop::option::of(prop::sample::select(vec!["u1", "u2"])),
        prop::sample::select(vec!["gpt-4o", "gpt-4o-mini", "nobody-knows"]),
        prop::sample::select(vec![
            -86_400_000 * 40,
            -50_000_000,
            -700_000,
            -60_000,
            0,
            59_999,
            200_000,
        ]),
        (0_u64..1000, 0_u64..1000, 0_u64..2),
        0_u8..6,
    );
    let event = event.prop_map(
        |(app, user, model, at, (input, output, images), id)| Event {
            app,
            user,
            model,
            at: NOON + at,
            input,
            output,
            images,
            id,
        },
    );
    prop::collection::vec(event, 0..40)
}

fn usage<'e>(event: &'e Event, content: &'e [u8]) -> UsageEvent<'e> {
    let start = UnixMs::new(event.at).unwrap();
    let mut quantities: Quantities = PerMeter::from_fn(|_| 0);
    quantities.set(Meter::Requests, 1);
    quantities.set(Meter::InputUncachedTokens, event.input);
    quantities.set(Meter::OutputTextTokens, event.output);
    quantities.set(Meter::Images, event.images);
    let key = IdentityKey::of_source(IdentitySecret::from_bytes([1; 32]), "usage");
    let parts = LogIdentity {
        tenant: "default",
        request_id: "",
        start,
        content,
    };
    UsageEvent {
        dimensions: Dimensions {
            tenant: TenantId::default_tenant(),
            app: AppId::new(event.app).unwrap(),
            user: event.user.map(|user| UserId::new(user).unwrap()),
            session: None,
            route: None,
            provider: Some(ProviderId::new("openai").unwrap()),
            model: ModelId::new(event.model).unwrap(),
        },
        answered_model: None,
        start,
        outcome: Outcome::Succeeded,
        provenance: Provenance::Reported,
        quantities,
        identity: Some(Identity::of_log_line(&key, &parts)),
        payload: None,
    }
}

/// What each (limit's name, key values, slot) should hold.
type Model = BTreeMap<(String, Vec<Option<String>>, i64), i128>;

fn named(limits: &LogLimits, sums: &[AccountSum]) -> Model {
    let mut found = Model::new();
    for sum in sums {
        let mut of = limits.set().limits();
        let (_, _, _, limit) = of.find(|(id, ..)| *id == sum.name.limit).unwrap();
        let key = (limit.name.clone(), sum.name.values.clone(), sum.slot.get());
        *found.entry(key).or_default() += sum.sum.get();
    }
    found.retain(|_, sum| *sum != 0);
    found
}

fn add(model: &mut Model, name: &str, values: &[Option<&str>], slot: i64, units: i128) {
    let values = values.iter().map(|value| value.map(str::to_owned));
    let key = (name.to_owned(), values.collect(), slot);
    *model.entry(key).or_default() += units;
}

/// Adds one event by hand: the windows' edges near noon of that day, Berlin two hours ahead.
fn slow(model: &mut Model, event: &Event, horizon: i64, book: &PriceBook) {
    let usage = usage(event, &[]);
    let mut prices = crate::price::PriceCache::new(Arc::new(book.clone()), 10);
    let (_, rates) = prices.rate_set(&usage, event.input);
    let priced = rates.price(&usage.quantities).unwrap();
    let (at, amount) = (event.at, priced.amount.units());
    let mut unpriced = 0;
    for (meter, quantity) in usage.quantities.iter() {
        if meter != Meter::Requests && rates.rates.get(meter).is_none() {
            unpriced += i128::from(quantity);
        }
    }
    let app = (event.app != "unattributed").then_some(event.app);
    let floor = |length: i64| at - at.rem_euclid(length);
    let day = at + 7_200_000 - (at + 7_200_000).rem_euclid(86_400_000) - 7_200_000;
    if day + 86_400_000 > horizon {
        let quarter = 250_000_000_000_000_000;
        add(model, "cost", &[app], day, amount + unpriced * quarter);
    }
    let slot = floor(10_000);
    if slot + 10_000 + 600_000 > horizon {
        let tokens = i128::from(event.input + event.output);
        add(model, "tokens", &[app, Some(event.model)], slot, tokens);
    }
    if !event.app.starts_with('a') {
        return;
    }
    let hour = floor(3_600_000);
    if let Some(user) = event.user
        && hour + 3_600_000 > horizon
    {
        add(model, "users", &[Some(user)], hour, 1);
    }
    let minute = floor(60_000);
    if minute + 60_000 > horizon {
        add(
            model,
            "weighted",
            &[],
            minute,
            i128::from(event.output * 3 + 1),
        );
    }
    let (month, end) = if at < JUNE {
        (MAY, JUNE)
    } else {
        (JUNE, i64::MAX)
    };
    if end > horizon {
        add(model, "plain", &[app], month, amount);
    }
}

/// The first instant of May 2026.
const MAY: i64 = 1_777_593_600_000;

/// The first instant of June 2026.
const JUNE: i64 = 1_780_272_000_000;

proptest! {
    #[test]
    fn accounts_are_the_sums_over_accepted_events(
        batches in prop::collection::vec(events(), 1..4),
        seen in prop::collection::vec(any::<bool>(), 160),
        age in prop::sample::select(vec![0_i64, 3_600_000, 86_400_000 * 60]),
    ) {
        let limits = limits();
        let book = PriceBook::shipped();
        let mut folder = Folder::new(Arc::new(book.clone()), HashKey::new([1; 4])).counting_by(Some(Arc::clone(&limits)));
        let horizon = NOON - age;
        for events in batches {
            let mut fold = BatchFold::default();
            fold.count_by(Arc::clone(&limits), UnixMs::new(horizon).unwrap());
            let mut expected = Model::new();
            let mut first = std::collections::HashSet::new();
            for (number, event) in events.iter().enumerate() {
                let part = PartRef { chain: ChainId(1 + i32::from(event.id % 2)), number: PartNumber(1) };
                let index = fold.parts().iter().position(|known| known.part() == part);
                let index = index.unwrap_or_else(|| fold.open_part(part));
                let place = Place { offset: Offset(i64::try_from(number).unwrap()), index: 0 };
                let content = format!("{}", event.id);
                folder.fold(&mut fold, index, place, &usage(event, content.as_bytes())).unwrap();
                let _new = first.insert((event.id, event.at));
            }
            // Of repeats within the batch the first in the order of parts counts, which the fold says.
            fold.take_ids();
            let ids = fold.ids().to_vec();
            let before = PartRef { chain: ChainId(9), number: PartNumber(9) };
            let known: HashMap<_, _> = ids
                .iter()
                .zip(&seen)
                .filter(|(_, seen)| **seen)
                .map(|(id, _)| (id.identity, before))
                .collect();
            fold.withdraw_seen(&known);
            let mut duplicates = std::collections::HashSet::new();
            for part in fold.parts() {
                for duplicate in part.duplicates() {
                    let _new = duplicates.insert(duplicate.place.offset.0);
                }
            }
            for (number, event) in (0_i64..).zip(&events) {
                if !duplicates.contains(&number) {
                    slow(&mut expected, event, horizon, &book);
                }
            }
            expected.retain(|_, sum| *sum != 0);
            let closed = fold.close();
            let all: Vec<_> = closed.parts.iter().flat_map(|part| part.accounts.clone()).collect();
            prop_assert_eq!(named(&limits, &all), expected);
        }
    }

    #[test]
    fn sums_of_the_ledger_add_what_their_events_did(events in events()) {
        let limits = limits();
        let mut folder = Folder::new(Arc::new(PriceBook::shipped()), HashKey::new([1; 4])).counting_by(Some(Arc::clone(&limits)));
        let horizon = UnixMs::new(NOON).unwrap();
        let mut fold = BatchFold::default();
        fold.count_by(Arc::clone(&limits), horizon);
        let part = fold.open_part(PartRef { chain: ChainId(1), number: PartNumber(1) });
        for (number, event) in (0_i64..).zip(&events) {
            let place = Place { offset: Offset(number), index: 0 };
            let content = format!("{number}");
            folder.fold(&mut fold, part, place, &usage(event, content.as_bytes())).unwrap();
        }
        fold.take_ids();
        let closed = fold.close();
        let told: Vec<_> = limits.iter().filter(|limit| limit.is_told_by_ledger()).map(|limit| limit.id).collect();
        prop_assert_eq!(told.len(), 2, "the day's and the month's costs");
        let mut sums = AccountSums::after(horizon);
        for posting in &closed.parts[0].postings {
            let rates = &closed.rate_sets[&posting.key.rate_set];
            let quantities = PerMeter::from_fn(|meter| i128::from(posting.sums.quantities.get(meter)));
            let used = SeriesUse {
                series: &closed.series[&posting.key.series],
                start: posting.key.quarter.start(),
                quantities: &quantities,
                amount: posting.sums.amount.units(),
                unpriced: unpriced_quantity(rates, &posting.sums.quantities),
            };
            sums.add_use(&limits, &used, |limit| told.contains(&limit.id));
        }
        let mut counted = closed.parts[0].accounts.clone();
        counted.retain(|sum| told.contains(&sum.name.limit));
        prop_assert_eq!(named(&limits, &sums.into_sums()), named(&limits, &counted));
    }
}

#[test]
fn a_limit_is_whole_at_once_or_after_one_window() {
    let limits = limits();
    let now = UnixMs::new(NOON + 12_345).unwrap();
    let whole: Vec<_> = limits
        .iter()
        .map(|limit| limit.whole_from(now).get())
        .collect();
    let berlin = NOON - 14 * 3_600_000;
    let expected = [
        berlin,
        NOON + 12_345 + 600_000,
        NOON + 3_600_000,
        NOON + 60_000,
        JUNE,
    ];
    assert_eq!(whole, expected, "day, sliding, fixed, minute, month");
    assert!(WindowLength::from_ms(600_000).is_ok());
}

#[test]
fn without_limits_from_the_log_nobody_counts() {
    let text =
        "name: a\nlimits: [{ name: pace, meter: requests, limit: 5, window: { fixed: 1m } }]";
    let set = compile_files(&[PolicyFile::new("a.yaml", text.to_owned())]).unwrap();
    assert!(LogLimits::of(Arc::new(set)).is_none());
}
