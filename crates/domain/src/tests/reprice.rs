//! Re-pricing against folding every event again, one by one, under the other book.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::select;

use crate::event::{Dimensions, Outcome, Provenance, UsageEvent};
use crate::fold::{BatchFold, Folder, Posting, PostingKey, Sums};
use crate::hash::HashKey;
use crate::ids::{
    AppId, ChainId, ModelId, Offset, PartNumber, PartRef, Place, ProviderId, TenantId,
};
use crate::meter::{Meter, Quantities};
use crate::money::Amount;
use crate::price::{PriceBook, PricedModel, RateSetId};
use crate::reprice::{Holding, Repriced, Unclear, reprice};
use crate::time::UnixMs;

/// A row of a book: meter, tier, minutes after 1970 from which it holds, rate.
type Row = (Meter, u64, i64, u32);

/// An event: its minute after 1970, of each meter how much, and what the log calls its provider.
type Used = (i64, [u64; 4], &'static str);

/// What logs call the two providers: the second by a path, which only a book that knows it can read.
const LOGGED: [&str; 2] = ["p", "gateway/q/rule/0"];

const METERS: [Meter; 5] = [
    Meter::Requests,
    Meter::InputUncachedTokens,
    Meter::InputCacheReadTokens,
    Meter::OutputTextTokens,
    Meter::Images,
];

fn book() -> impl Strategy<Value = Vec<Row>> {
    let row = (
        select(&METERS[..]),
        select(&[0_u64, 100, 150][..]),
        select(&[0_i64, 7, 15, 20][..]),
        1_u32..4,
    );
    vec(row, 0..7).prop_map(|rows| {
        let mut kept: Vec<Row> = Vec::new();
        for row in rows {
            if !kept
                .iter()
                .any(|k| (k.0, k.1, k.2) == (row.0, row.1, row.2))
            {
                kept.push(row);
            }
        }
        kept
    })
}

fn used() -> impl Strategy<Value = Used> {
    let count = || select(&[0_u64, 0, 1, 40, 101, 151][..]);
    (
        0_i64..30,
        [count(), count(), count(), count()],
        select(&LOGGED[..]),
    )
}

/// A book of the first provider, or of both at the same rates.
fn parsed(rows: &[Row], providers: &[&str]) -> PriceBook {
    let mut text = "provider,model,meter,above_input_tokens,from,usd_per_unit\n".to_owned();
    for (meter, above, minute, rate) in rows {
        let from = match minute {
            0 => String::new(),
            minute => format!("1970-01-01T00:{minute:02}:00Z"),
        };
        for provider in providers {
            text.push_str(&format!("{provider},m,{meter},{above},{from},{rate}\n"));
        }
    }
    PriceBook::default().with_file("rows.csv", &text).unwrap()
}

/// Makes the event as decoding does by this book.
fn event(book: &PriceBook, (minute, quantities, logged): &Used) -> UsageEvent<'static> {
    let mut of = Quantities::from_fn(|_| 0);
    of.set(Meter::Requests, 1);
    for (meter, quantity) in METERS.into_iter().skip(1).zip(quantities) {
        of.set(meter, *quantity);
    }
    UsageEvent {
        dimensions: Dimensions {
            tenant: TenantId::default_tenant(),
            app: AppId::unattributed(),
            user: None,
            session: None,
            route: None,
            provider: Some(ProviderId::new(book.provider_of(logged)).unwrap()),
            model: ModelId::new("m").unwrap(),
        },
        answered_model: None,
        start: UnixMs::new(minute * 60_000).unwrap(),
        outcome: Outcome::Succeeded,
        provenance: Provenance::Reported,
        quantities: of,
        identity: None,
        payload: None,
    }
}

fn fold(book: &PriceBook, events: &[UsageEvent<'_>]) -> (BatchFold, Vec<PostingKey>) {
    let mut folder = Folder::new(Arc::new(book.clone()), HashKey::new([1; 4]));
    let mut batch = BatchFold::default();
    let part = batch.open_part(PartRef {
        chain: ChainId(1),
        number: PartNumber(1),
    });
    let place = Place {
        offset: Offset(0),
        index: 0,
    };
    let mut keys = Vec::new();
    for event in events {
        let mut alone = BatchFold::default();
        alone.open_part(PartRef {
            chain: ChainId(1),
            number: PartNumber(1),
        });
        folder.fold(&mut alone, 0, place, event).unwrap();
        keys.push(alone.close().parts[0].postings[0].key);
        folder.fold(&mut batch, part, place, event).unwrap();
    }
    (batch, keys)
}

fn model(book: &PriceBook, provider: &str) -> PricedModel {
    let asked = ModelId::new("m").unwrap();
    let provider = ProviderId::new(book.provider_of(provider)).unwrap();
    book.price_model(Some(&provider), Some(&asked), &asked)
}

/// What matters of sums: quantities never change.
fn cost(sums: &Sums) -> (Amount, u64, u64) {
    (sums.amount, sums.priced_requests, sums.unpriced_requests)
}

fn postings(book: &PriceBook, events: &[UsageEvent<'_>]) -> Vec<Posting> {
    fold(book, events).0.close().parts.remove(0).postings
}

proptest! {
    #[test]
    fn what_is_priced_anew_is_what_its_events_fold_to(
        old_rows in book(), new_rows in book(), used in vec(used(), 1..6)
    ) {
        let (old, new) = (parsed(&old_rows, &["p"]), parsed(&new_rows, &["p", "q"]));
        let events: Vec<_> = used.iter().map(|used| event(&old, used)).collect();
        let anew: Vec<_> = used.iter().map(|used| event(&new, used)).collect();
        let (batch, keys) = fold(&old, &events);
        let closed = batch.close();
        for posting in &closed.parts[0].postings {
            // The series keeps what the log says where the old book made nothing of it.
            let provider = closed.series[&posting.key.series].provider.as_str();
            let (old_model, new_model) = (model(&old, provider), model(&new, provider));
            let mine: Vec<_> = anew.iter().zip(&keys)
                .filter(|(_, key)| **key == posting.key).map(|(event, _)| event.clone()).collect();
            let again = postings(&new, &mine);
            let holding = Holding {
                quarter: posting.key.quarter,
                rate_set: &closed.rate_sets[&posting.key.rate_set],
                rate_set_id: posting.key.rate_set,
                sums: posting.sums,
            };
            match reprice(&holding, &[&old_model], &new_model) {
                Repriced::Other { rate_set_id, sums, .. } => {
                    prop_assert_eq!(again.len(), 1, "one rate set for all of them");
                    prop_assert_eq!(again[0].key.rate_set, rate_set_id, "by the very rate set");
                    prop_assert_eq!(again[0].sums, sums, "all sums");
                }
                Repriced::Same => {
                    prop_assert_eq!(again.len(), 1, "one rate set for all of them");
                    prop_assert_eq!(cost(&again[0].sums), cost(&posting.sums), "nothing to post");
                }
                Repriced::Unclear(why) => {
                    let has_starts = new_rows.iter().any(|row| row.2 % 15 > 0);
                    let is_unclear = mine.len() > 1 || (why == Unclear::Rates && has_starts);
                    prop_assert!(is_unclear, "of one event all is known but its minute: {why:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_priced_anew_stays(old_rows in book(), new_rows in book(), used in vec(used(), 1..6),
        is_other in any::<bool>())
    {
        let (old, new) = (parsed(&old_rows, &["p"]), parsed(&new_rows, &["p", "q"]));
        let events: Vec<_> = used.iter().map(|used| event(&new, used)).collect();
        let closed = fold(&new, &events).0.close();
        for posting in &closed.parts[0].postings {
            let provider = closed.series[&posting.key.series].provider.as_str();
            let (old_model, new_model) = (model(&old, provider), model(&new, provider));
            let books = if is_other { vec![&old_model, &new_model] } else { vec![&new_model] };
            let holding = Holding {
                quarter: posting.key.quarter,
                rate_set: &closed.rate_sets[&posting.key.rate_set],
                rate_set_id: posting.key.rate_set,
                sums: posting.sums,
            };
            // Sums that both books may have priced can be unclear, and are never another's.
            let repriced = reprice(&holding, &books, &new_model);
            let is_kept = repriced == Repriced::Same
                || (is_other && matches!(repriced, Repriced::Unclear(_)));
            prop_assert!(is_kept, "{repriced:?}");
        }
    }
}

/// Prices three requests of 50 tokens each, then asks what another book makes of their sum.
fn three(old: &[Row], new: &[Row]) -> Repriced {
    let (old, new) = (parsed(old, &["p"]), parsed(new, &["p"]));
    let events = [(1, [50, 0, 9, 0]), (2, [50, 0, 9, 0]), (3, [50, 0, 0, 1])];
    let used = |(minute, quantities)| event(&old, &(minute, quantities, "p"));
    let events: Vec<_> = events.into_iter().map(used).collect();
    let closed = fold(&old, &events).0.close();
    assert_eq!(
        closed.parts[0].postings.len(),
        1,
        "one posting of three requests"
    );
    let posting = closed.parts[0].postings[0];
    let holding = Holding {
        quarter: posting.key.quarter,
        rate_set: &closed.rate_sets[&posting.key.rate_set],
        rate_set_id: posting.key.rate_set,
        sums: posting.sums,
    };
    reprice(&holding, &[&model(&old, "p")], &model(&new, "p"))
}

#[test]
fn sums_are_priced_anew_only_where_every_event_agrees() {
    use Meter::{Images, InputUncachedTokens as Input, OutputTextTokens as Output};
    let base: &[Row] = &[(Input, 0, 0, 1), (Output, 0, 0, 2), (Images, 0, 0, 3)];
    let check = |old: &[Row], new: &[Row], expected: Result<Option<(u32, u64, u64)>, Unclear>| {
        let found = match three(old, new) {
            Repriced::Same => Ok(None),
            Repriced::Other { sums, .. } => {
                let (amount, priced, unpriced) = cost(&sums);
                Ok(Some((amount.to_string(), priced, unpriced)))
            }
            Repriced::Unclear(why) => Err(why),
        };
        let told = expected.map(|sums| {
            sums.map(|(amount, priced, unpriced)| (amount.to_string(), priced, unpriced))
        });
        assert_eq!(found, told, "from {old:?} to {new:?}");
    };
    // 150 input tokens, 18 of output, one image.
    check(base, base, Ok(None));
    check(&[], base, Ok(Some((189, 3, 0))));
    check(base, &[], Ok(Some((0, 0, 3))));
    check(
        base,
        &[(Input, 0, 0, 2), (Output, 0, 0, 2), (Images, 0, 0, 3)],
        Ok(Some((339, 3, 0))),
    );
    let tier = |above| [base, &[(Input, above, 0, 5)]].concat();
    // Two of the three might lie above 100 together with none; above 150 none can.
    check(base, &tier(100), Err(Unclear::Rates));
    check(base, &tier(150), Ok(None));
    // The old tier says that each lies at or below 100.
    check(
        &tier(100),
        &[base, &[(Input, 100, 0, 7)]].concat(),
        Ok(None),
    );
    let mid_quarter = [base, &[(Input, 0, 7, 5)]].concat();
    check(base, &mid_quarter, Err(Unclear::Rates));
    let next_quarter = [base, &[(Input, 0, 15, 5)]].concat();
    check(base, &next_quarter, Ok(None));
    // Output and image are of different requests: how many have a rate, only the events say.
    check(
        base,
        &[(Output, 0, 0, 2), (Images, 0, 0, 3)],
        Err(Unclear::Requests),
    );
    check(base, &[(Input, 0, 0, 1)], Err(Unclear::Requests));
    check(&[(Input, 0, 0, 1)], base, Ok(Some((189, 3, 0))));
}

#[test]
fn rate_sets_tell_tiers_apart() {
    let rows = [
        (Meter::InputUncachedTokens, 0, 0, 1),
        (Meter::InputUncachedTokens, 100, 0, 2),
    ];
    let book = parsed(&rows, &["p"]);
    let events = [100, 101].map(|input| event(&book, &(1, [input, 0, 0, 0], "p")));
    let found: BTreeMap<RateSetId, u64> = postings(&book, &events)
        .iter()
        .map(|posting| {
            (
                posting.key.rate_set,
                posting.sums.quantities.get(Meter::Requests),
            )
        })
        .collect();
    assert_eq!(found.len(), 2, "one posting per tier");
}
