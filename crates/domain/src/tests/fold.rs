//! The fold against sums in a hash map, however events are split, ordered and repeated.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;

use crate::event::{
    Dimensions, Identity, IdentityKey, IdentitySecret, LogIdentity, Outcome, PayloadDigest,
    ProducerIdentity, Provenance, UsageEvent,
};
use crate::fold::{BatchFold, ClosedBatch, Folder};
use crate::hash::HashKey;
use crate::ids::{
    AppId, ChainId, ModelId, Offset, PartNumber, PartRef, Place, ProviderId, TenantId, UserId,
};
use crate::meter::{Meter, Quantities};
use crate::price::PriceBook;
use crate::reject::Reason;
use crate::time::UnixMs;

/// Two priced models, one of them with a tier and without an output rate; no others.
const BOOK: &str = "provider,model,meter,above_input_tokens,usd_per_unit\n\
                    p,m,input_uncached_tokens,0,0.000003\n\
                    p,m,output_text_tokens,0,0.000000000000000001\n\
                    p,n,input_uncached_tokens,0,0.5\n\
                    p,n,input_uncached_tokens,100,0.25\n";

const QUARTER: i64 = 900_000;

/// The most that a `bigint` holds.
const MOST: u64 = i64::MAX.unsigned_abs();

/// An event as plain as it can be written.
#[derive(Debug, Clone)]
struct Plain {
    app: &'static str,
    user: Option<&'static str>,
    provider: Option<&'static str>,
    asked: &'static str,
    answered: Option<&'static str>,
    start: i64,
    outcome: Outcome,
    provenance: Provenance,
    input: u64,
    output: u64,
    images: u64,
    has_identity: bool,
}

fn plain_events() -> impl Strategy<Value = Plain> {
    let dimensions = (
        select(&["a", "b"][..]),
        select(&[None, Some("u")][..]),
        select(&[Some("p"), Some("p"), Some("q"), None][..]),
        select(&["m", "n", "x"][..]),
        select(&[None, Some("m"), Some("m-2026-01-31"), Some("x")][..]),
        select(&[0, 1, QUARTER - 1, QUARTER, 3 * QUARTER + 7][..]),
    );
    let tokens = || prop_oneof![Just(0_u64), 0_u64..300, Just(1 << 53), Just(MOST / 2)];
    let outcome = select(
        &[
            Outcome::Succeeded,
            Outcome::Refused,
            Outcome::Failed,
            Outcome::Aborted,
        ][..],
    );
    let provenance = select(
        &[
            Provenance::Reported,
            Provenance::Estimated,
            Provenance::Missing,
        ][..],
    );
    let images = prop_oneof![Just(0_u64), Just(1_u64)];
    let rest = (
        outcome,
        provenance,
        tokens(),
        tokens(),
        images,
        any::<bool>(),
    );
    (dimensions, rest).prop_map(|(dimensions, rest)| {
        let (app, user, provider, asked, answered, start) = dimensions;
        let (outcome, provenance, input, output, images, has_identity) = rest;
        let output = output >> 1;
        Plain {
            app,
            user,
            provider,
            asked,
            answered,
            start,
            outcome,
            provenance,
            input,
            output,
            images,
            has_identity,
        }
    })
}

impl Plain {
    fn identity(&self, number: usize) -> Option<Identity> {
        let request_id = format!("request {number}");
        self.has_identity.then(|| {
            let key = IdentityKey::of_source(IdentitySecret::from_bytes([1; 32]), "usage");
            let parts = LogIdentity {
                tenant: "default",
                request_id: &request_id,
                start: UnixMs::new(self.start).unwrap(),
                content: b"",
            };
            Identity::of_log_line(&key, &parts)
        })
    }

    fn event(&self, number: usize) -> UsageEvent<'static> {
        let mut quantities = Quantities::default();
        quantities.set(Meter::Requests, 1);
        quantities.set(Meter::InputUncachedTokens, self.input);
        quantities.set(Meter::OutputTextTokens, self.output);
        quantities.set(Meter::Images, self.images);
        UsageEvent {
            dimensions: Dimensions {
                tenant: TenantId::default_tenant(),
                app: AppId::new(self.app).unwrap(),
                user: self.user.map(|user| UserId::new(user).unwrap()),
                session: None,
                route: None,
                provider: self
                    .provider
                    .map(|provider| ProviderId::new(provider).unwrap()),
                model: ModelId::new(self.asked).unwrap(),
            },
            answered_model: self.answered.map(|model| ModelId::new(model).unwrap()),
            start: UnixMs::new(self.start).unwrap(),
            outcome: self.outcome,
            provenance: self.provenance,
            quantities,
            identity: self.identity(number),
            payload: None,
        }
    }

    /// The model that prices it, worked out by hand for [`BOOK`].
    fn book_model(&self) -> &'static str {
        match (self.provider, self.answered, self.asked) {
            (None | Some("q"), ..) => "",
            (_, Some("m" | "m-2026-01-31"), _) => "m",
            (_, _, "x") => "",
            (_, _, asked) => asked,
        }
    }

    /// Its tier and, in 10⁻¹⁸, what it costs.
    fn cost(&self) -> (u64, u128) {
        let [input, output] = [self.input, self.output].map(u128::from);
        match self.book_model() {
            "m" => (0, input * 3_000_000_000_000 + output),
            // Above 100, not from 100 on.
            "n" if self.input > 100 => (100, input * 250_000_000_000_000_000),
            "n" => (0, input * 500_000_000_000_000_000),
            _ => (0, 0),
        }
    }

    /// Whether it has priced and unpriced usage.
    fn is_priced(&self) -> (bool, bool) {
        let [input, output, images] = [self.input > 0, self.output > 0, self.images > 0];
        match self.book_model() {
            "m" => (input || output, images),
            "n" => (input, output || images),
            _ => (false, input || output || images),
        }
    }
}

/// What is summed separately by: app, user, provider, asked and priced model, the book's model, tier,
/// quarter-hour's start.
type Key = (String, String, String, String, String, String, u64, i64);

/// Requests, input, output, images, failed, unmeasured, priced, unpriced, amount in 10⁻¹⁸.
type Totals = HashMap<Key, [u128; 9]>;

fn add(totals: &mut Totals, key: Key, values: [u128; 9]) {
    let sums = totals.entry(key).or_default();
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// The model: each event with an identity once, each without as often as it came.
fn naive(events: &[Plain], order: &[usize]) -> Totals {
    let mut totals = Totals::new();
    let mut seen = HashSet::new();
    for number in order {
        let event = &events[*number];
        if event.has_identity && !seen.insert(*number) {
            continue;
        }
        let (tier, amount) = event.cost();
        let (is_priced, is_unpriced) = event.is_priced();
        let is_failed = event.outcome != Outcome::Succeeded;
        let key = (
            event.app.to_owned(),
            event.user.unwrap_or("").to_owned(),
            event.provider.unwrap_or("").to_owned(),
            event.asked.to_owned(),
            event.answered.unwrap_or(event.asked).to_owned(),
            event.book_model().to_owned(),
            tier,
            event.start / QUARTER * QUARTER,
        );
        let values = [
            1,
            u128::from(event.input),
            u128::from(event.output),
            u128::from(event.images),
            u128::from(is_failed),
            u128::from(!is_failed && event.provenance == Provenance::Missing),
            u128::from(is_priced),
            u128::from(is_unpriced),
            amount,
        ];
        add(&mut totals, key, values);
    }
    totals
}

/// Adds a batch's postings, found by the series and rate sets that the batch names.
fn add_batch(totals: &mut Totals, batch: &ClosedBatch) {
    for posting in batch.parts.iter().flat_map(|part| &part.postings) {
        let series = &batch.series[&posting.key.series];
        let rate_set = &batch.rate_sets[&posting.key.rate_set];
        assert_eq!(series.id(), posting.key.series, "the series of the key");
        assert_eq!(
            rate_set.id(),
            posting.key.rate_set,
            "the rate set of the key"
        );
        assert_eq!(series.tenant, "default", "the tenant");
        assert_eq!(rate_set.provider, series.provider, "one provider");
        let key = (
            series.app.clone(),
            series.user.clone(),
            series.provider.clone(),
            series.model.clone(),
            rate_set.priced_model.clone(),
            rate_set.book_model.clone(),
            rate_set.above_input_tokens,
            posting.key.quarter.start().get(),
        );
        let of = |meter| u128::from(posting.sums.quantities.get(meter));
        let sums = &posting.sums;
        let values = [
            of(Meter::Requests),
            of(Meter::InputUncachedTokens),
            of(Meter::OutputTextTokens),
            of(Meter::Images),
            u128::from(sums.failed_requests),
            u128::from(sums.unmeasured_requests),
            u128::from(sums.priced_requests),
            u128::from(sums.unpriced_requests),
            sums.amount.units().unsigned_abs(),
        ];
        for (_, quantity) in sums.quantities.iter() {
            assert!(quantity <= MOST, "a bigint holds {quantity}");
        }
        add(totals, key, values);
    }
}

/// Where one event goes: which of the events, to which partition, and whether a batch ends there.
type Step = (usize, usize, bool);

fn steps(events: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(
        (0..events, 0_usize..3, proptest::bool::weighted(0.2)),
        // More than are posted together.
        0..90,
    )
}

/// What the store holds: which part took which id, and how far each chain is.
#[derive(Default)]
struct Ledger {
    totals: Totals,
    seen: HashMap<Identity, PartRef>,
    parts: [i64; 3],
    accepted: u64,
    duplicates: u64,
}

impl Ledger {
    fn commit(&mut self, folder: &mut Folder, events: &[Plain], steps: &[Step]) {
        let mut batch = BatchFold::default();
        let mut opened: Vec<usize> = Vec::new();
        for (offset, (number, partition, _)) in (0_i64..).zip(steps) {
            let index = opened
                .iter()
                .position(|known| known == partition)
                .unwrap_or_else(|| {
                    self.parts[*partition] += 1;
                    let chain = ChainId(i32::try_from(*partition).unwrap() + 1);
                    opened.push(*partition);
                    batch.open_part(PartRef {
                        chain,
                        number: PartNumber(self.parts[*partition]),
                    })
                });
            batch.part_mut(index).unwrap().count_record();
            let place = Place {
                offset: Offset(offset),
                index: 0,
            };
            let event = events[*number].event(*number);
            if number % 5 == 0 {
                folder.fold(&mut batch, index, place, &event).unwrap();
            } else {
                folder.fold_soon(&mut batch, index, place, &event).unwrap();
            }
        }
        folder.post(&mut batch);
        batch.take_ids();
        let ids: Vec<_> = batch
            .ids()
            .iter()
            .map(|id| (id.identity, batch.part_of(id)))
            .collect();
        assert!(
            ids.is_sorted_by(|one, other| one.0 < other.0),
            "ids ascend, each once"
        );
        let known = ids
            .iter()
            .filter_map(|(identity, _)| Some((*identity, *self.seen.get(identity)?)));
        let known: HashMap<_, _> = known.collect();
        batch.withdraw_seen(&known);
        for id in batch.ids() {
            assert_eq!(
                self.seen.insert(id.identity, batch.part_of(id)),
                None,
                "an id is taken once"
            );
        }
        self.keep(&batch.close(), length(steps));
    }

    fn keep(&mut self, batch: &ClosedBatch, events: u64) {
        let mut counted = 0;
        for part in &batch.parts {
            let counts = part.counts;
            assert_eq!(counts.records, counts.events(), "here a record is an event");
            assert_eq!(
                counts.duplicates,
                length(&part.duplicates),
                "duplicates are named"
            );
            assert!(part.postings.is_sorted(), "postings ascend");
            assert!(
                part.duplicates
                    .is_sorted_by(|one, other| one.place < other.place),
                "by place"
            );
            let requests = part
                .postings
                .iter()
                .map(|p| p.sums.quantities.get(Meter::Requests));
            assert_eq!(
                requests.sum::<u64>(),
                counts.accepted,
                "accepted events are posted"
            );
            for duplicate in &part.duplicates {
                assert_eq!(
                    self.seen.get(&duplicate.identity),
                    Some(&duplicate.first),
                    "the first"
                );
            }
            counted += counts.events();
            self.accepted += counts.accepted;
            self.duplicates += counts.duplicates;
        }
        assert_eq!(counted, events, "events are conserved");
        let postings = || batch.parts.iter().flat_map(|part| &part.postings);
        let series: HashSet<_> = postings().map(|posting| posting.key.series).collect();
        let rate_sets: HashSet<_> = postings().map(|posting| posting.key.rate_set).collect();
        assert_eq!(
            batch.series.len(),
            series.len(),
            "series that are named, no others"
        );
        assert_eq!(
            batch.rate_sets.len(),
            rate_sets.len(),
            "rate sets that are named, no others"
        );
        add_batch(&mut self.totals, batch);
    }
}

fn length<T>(slice: &[T]) -> u64 {
    u64::try_from(slice.len()).unwrap()
}

fn folder() -> Folder {
    let book = PriceBook::default().with_file("book.csv", BOOK).unwrap();
    Folder::new(Arc::new(book), HashKey::new([1; 4]))
}

fn fold_all(events: &[Plain], steps: &[Step]) -> Ledger {
    let mut ledger = Ledger::default();
    let mut folder = folder();
    for batch in steps.split_inclusive(|(.., is_last)| *is_last) {
        ledger.commit(&mut folder, events, batch);
    }
    ledger
}

proptest! {
    #[test]
    fn totals_are_the_naive_sums_however_events_are_split_ordered_and_repeated(
        (events, steps) in vec(plain_events(), 1..8)
            .prop_flat_map(|events| { let steps = steps(events.len()); (Just(events), steps) }),
    ) {
        let order: Vec<_> = steps.iter().map(|step| step.0).collect();
        let ledger = fold_all(&events, &steps);
        prop_assert_eq!(&ledger.totals, &naive(&events, &order));
        prop_assert_eq!(ledger.accepted + ledger.duplicates, length(&steps));
        // Backwards, and all in one batch and part: the same.
        let backwards: Vec<_> = steps.iter().rev().map(|step| (step.0, 0, false)).collect();
        let other = fold_all(&events, &backwards);
        prop_assert_eq!(&other.totals, &ledger.totals);
        prop_assert_eq!(other.accepted, ledger.accepted);
    }

    #[test]
    fn folding_twice_changes_nothing(
        events in vec(plain_events(), 1..6),
        seed in vec((any::<proptest::sample::Index>(), 0_usize..3, any::<bool>()), 1..20),
    ) {
        let events: Vec<_> =
            events.into_iter().map(|event| Plain { has_identity: true, ..event }).collect();
        let steps = seed.iter().map(|(at, partition, ends)| (at.index(events.len()), *partition, *ends));
        let steps: Vec<Step> = steps.collect();
        let once = fold_all(&events, &steps);
        let twice = fold_all(&events, &[steps.clone(), steps].concat());
        prop_assert_eq!(&twice.totals, &once.totals);
        prop_assert_eq!(twice.accepted, once.accepted);
        prop_assert!(twice.duplicates > once.duplicates);
    }
}

fn plain(input: u64) -> Plain {
    Plain {
        app: "a",
        user: None,
        provider: Some("p"),
        asked: "m",
        answered: None,
        start: 0,
        outcome: Outcome::Succeeded,
        provenance: Provenance::Reported,
        input,
        output: 0,
        images: 0,
        has_identity: true,
    }
}

#[test]
fn a_full_sum_opens_another_posting_and_gives_back_what_it_took() {
    let events = [plain(MOST), plain(1), plain(MOST - 1), plain(5)];
    let part = PartRef {
        chain: ChainId(1),
        number: PartNumber(1),
    };
    // Which events were counted before, and the input tokens of the postings that remain.
    let cases: [(&[usize], &[u64]); 5] = [
        (&[], &[5, MOST, MOST]),
        (&[0], &[5, MOST]),
        (&[0, 3], &[MOST]),
        (&[1, 2], &[5, MOST]),
        (&[0, 1, 2, 3], &[]),
    ];
    for (seen, expected) in cases {
        let mut batch = BatchFold::default();
        let index = batch.open_part(part);
        let mut folder = folder();
        for (number, event) in events.iter().enumerate() {
            let place = Place {
                offset: Offset(i64::try_from(number).unwrap()),
                index: 0,
            };
            folder
                .fold(&mut batch, index, place, &event.event(number))
                .unwrap();
        }
        batch.take_ids();
        let first = PartRef {
            chain: ChainId(9),
            number: PartNumber(3),
        };
        let seen = seen
            .iter()
            .map(|number| (events[*number].identity(*number).unwrap(), first));
        batch.withdraw_seen(&seen.collect());
        let closed = batch.close();
        let of_input = |part: &crate::fold::ClosedPart| {
            let postings = part.postings.iter();
            let mut input: Vec<_> = postings
                .map(|p| p.sums.quantities.get(Meter::InputUncachedTokens))
                .collect();
            input.sort_unstable();
            input
        };
        assert_eq!(
            of_input(&closed.parts[0]),
            expected,
            "the postings that remain"
        );
        assert!(
            closed.parts[0].duplicates.iter().all(|d| d.first == first),
            "the first part"
        );
    }
}

#[test]
fn an_amount_that_does_not_fit_is_told_and_posts_nothing() {
    let book = "provider,model,meter,usd_per_unit\np,m,input_uncached_tokens,60\n";
    let book = PriceBook::default().with_file("dear.csv", book).unwrap();
    let mut folder = Folder::new(Arc::new(book), HashKey::new([1; 4]));
    let mut batch = BatchFold::default();
    let index = batch.open_part(PartRef {
        chain: ChainId(1),
        number: PartNumber(1),
    });
    // 60 × 10^18 fits into NUMERIC(38,18), twice that opens another posting, 60 × i64::MAX is too much.
    let fits = 1_000_000_000_000_000_000;
    let inputs = [fits, MOST, fits];
    let mut verdicts = Vec::new();
    for (number, input) in inputs.into_iter().enumerate() {
        let place = Place {
            offset: Offset(0),
            index: u32::try_from(number).unwrap(),
        };
        let folded = folder.fold(&mut batch, index, place, &plain(input).event(number));
        verdicts.push(folded.err().map(|rejection| rejection.reason));
    }
    assert_eq!(verdicts, [None, Some(Reason::Overflow), None], "verdicts");
    batch.take_ids();
    assert_eq!(batch.ids().len(), 2, "a rejected event takes no id");
    let closed = batch.close();
    let amounts: Vec<_> = closed.parts[0]
        .postings
        .iter()
        .map(|p| p.sums.amount.to_string())
        .collect();
    assert_eq!(
        amounts, ["60000000000000000000"; 2],
        "two postings, each within NUMERIC(38,18)"
    );
    assert_eq!(closed.parts[0].counts.accepted, 2, "accepted");
}

#[test]
fn a_repeat_within_a_batch_names_the_part_that_counts_the_first() {
    let event = plain(7);
    let part = |chain| PartRef {
        chain: ChainId(chain),
        number: PartNumber(1),
    };
    let mut folder = folder();
    for seen_in in [None, Some(part(8))] {
        let mut batch = BatchFold::default();
        let parts = [batch.open_part(part(1)), batch.open_part(part(2))];
        // The repeat comes before the first in time: parts count in the order they were opened.
        for (offset, index) in [(10, parts[1]), (20, parts[0]), (30, parts[0])] {
            let place = Place {
                offset: Offset(offset),
                index: 0,
            };
            folder
                .fold(&mut batch, index, place, &event.event(0))
                .unwrap();
        }
        batch.take_ids();
        let ids: Vec<_> = batch.ids().iter().map(|id| batch.part_of(id)).collect();
        assert_eq!(ids, [part(1)], "one id, taken by the first part");
        let seen = seen_in.map(|first| (event.identity(0).unwrap(), first));
        batch.withdraw_seen(&seen.into_iter().collect());
        let closed = batch.close();
        let first = seen_in.unwrap_or(part(1));
        let mut duplicates = closed.parts.iter().flat_map(|part| &part.duplicates);
        assert!(
            duplicates.all(|duplicate| duplicate.first == first),
            "they name {first:?}"
        );
        let counts = closed
            .parts
            .iter()
            .map(|part| (part.counts.accepted, part.counts.duplicates));
        let expected = if seen_in.is_some() {
            [(0, 2), (0, 1)]
        } else {
            [(1, 1), (0, 1)]
        };
        assert!(
            counts.eq(expected),
            "counts where the first was seen in {seen_in:?}"
        );
        let expected = usize::from(seen_in.is_none());
        assert_eq!(closed.series.len(), expected, "series that postings name");
        assert_eq!(
            closed.rate_sets.len(),
            expected,
            "rate sets that postings name"
        );
    }
}

#[test]
fn an_id_that_a_producer_gives_twice_is_counted_once_and_another_payload_is_told() {
    let part = PartRef {
        chain: ChainId(1),
        number: PartNumber(1),
    };
    let mut batch = BatchFold::default();
    let index = batch.open_part(part);
    let mut folder = folder();
    let give = |id: &str, payload: u64, input: u64| UsageEvent {
        identity: Some(Identity::of_producer(&ProducerIdentity {
            tenant: "default",
            source: "usage",
            producer: "gateway-1",
            id,
        })),
        payload: Some(PayloadDigest(payload)),
        ..plain(input).event(0)
    };
    let events = [
        give("a", 1, 5),
        give("b", 2, 7),
        give("a", 1, 5),
        give("a", 9, 500),
    ];
    for (offset, event) in (0..).zip(&events) {
        let place = Place {
            offset: Offset(offset),
            index: 0,
        };
        folder.fold(&mut batch, index, place, event).unwrap();
    }
    batch.take_ids();
    assert_eq!(batch.ids().len(), 2, "two ids");
    for id in batch.ids() {
        let payload = batch.payload_of(id).map(|payload| payload.0);
        assert!(
            matches!(payload, Some(1 | 2)),
            "the first that came: {payload:?}"
        );
    }
    let conflicts = batch.conflicts();
    assert_eq!(conflicts.count, 1, "the repeat that says the same is none");
    assert_eq!(
        conflicts.sample,
        events[0].identity.map(|id| (id, part, part))
    );
    let closed = batch.close();
    let counts = closed.parts[0].counts;
    assert_eq!((counts.accepted, counts.duplicates), (2, 2));
    let input: u64 = closed.parts[0]
        .postings
        .iter()
        .map(|posting| posting.sums.quantities.get(Meter::InputUncachedTokens))
        .sum();
    assert_eq!(input, 12, "the first of each id is charged");
}
