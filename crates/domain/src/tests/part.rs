//! What a part's hash covers.

use std::collections::BTreeMap;

use crate::event::Identity;
use crate::fold::{Posting, PostingKey, Sums};
use crate::hash::{Hash128, Hash256};
use crate::ids::{ChainId, Epoch, Offset, PartNumber, PartRef, Place, Version};
use crate::meter::{Meter, PerMeter, Quantities};
use crate::money::{Amount, Rate};
use crate::part::{
    Counts, Duplicate, PAYLOAD_KEPT_MAX, PartHeader, PartRows, RejectedEvent, Skipped, part_hash,
};
use crate::price::{RateSet, RateSetId};
use crate::reject::{Reason, Rejection};
use crate::series::{Series, SeriesId};
use crate::time::UnixMs;

/// A part with its rows.
#[derive(Clone)]
struct Part {
    header: PartHeader,
    postings: Vec<Posting>,
    rejected: Vec<RejectedEvent>,
    duplicates: Vec<Duplicate>,
}

impl Part {
    fn hash(&self) -> Hash256 {
        let rows = PartRows {
            postings: &self.postings,
            rejected: &self.rejected,
            duplicates: &self.duplicates,
        };
        part_hash(&self.header, &rows)
    }
}

fn ms(ms: i64) -> UnixMs {
    UnixMs::new(ms).unwrap()
}

fn place(offset: i64, index: u32) -> Place {
    Place {
        offset: Offset(offset),
        index,
    }
}

fn part_ref(chain: i32, number: i64) -> PartRef {
    PartRef {
        chain: ChainId(chain),
        number: PartNumber(number),
    }
}

fn posting(seed: u8) -> Posting {
    Posting {
        key: PostingKey {
            series: SeriesId(Hash128::from_bytes([seed; 16])),
            rate_set: RateSetId(Hash128::from_bytes([seed + 1; 16])),
            quarter: ms(900_000 * i64::from(seed)).quarter(),
        },
        sums: Sums {
            quantities: Quantities::from_fn(|_| u64::from(seed)),
            failed_requests: 1,
            unmeasured_requests: 2,
            priced_requests: 3,
            unpriced_requests: 4,
            amount: Amount::from_units(5).unwrap(),
        },
    }
}

fn part() -> Part {
    let rejection = Rejection::new(Reason::BadNumber, "tokens", "is negative");
    Part {
        header: PartHeader {
            part: part_ref(3, 7),
            epoch: Epoch(11),
            from: Offset(100),
            to: Offset(200),
            counts: Counts {
                records: 99,
                accepted: 90,
                duplicates: 2,
                rejected: 4,
                ignored: 5,
            },
            fold_version: 1,
            floor: Some(ms(1000)),
            prices: Version(8),
            sources: Version(9),
            skipped: Some(Skipped {
                from: Offset(50),
                to: Offset(100),
            }),
            previous: Hash256::from_bytes([9; 32]),
        },
        postings: vec![posting(1), posting(5)],
        rejected: vec![
            RejectedEvent::new(place(101, 0), rejection.clone(), ms(2000), b"{}"),
            RejectedEvent::new(place(102, 1), rejection, ms(2000), b"[]"),
        ],
        duplicates: vec![
            Duplicate {
                place: place(103, 2),
                identity: Identity::from_bits(1),
                first: part_ref(4, 1),
            },
            Duplicate {
                place: place(104, 0),
                identity: Identity::from_bits(2),
                first: part_ref(3, 7),
            },
        ],
    }
}

/// One change of a part, by name.
type Change = (&'static str, fn(&mut Part));

const HEADER: &[Change] = &[
    ("chain", |p| p.header.part.chain = ChainId(4)),
    ("number", |p| p.header.part.number = PartNumber(8)),
    ("epoch", |p| p.header.epoch = Epoch(12)),
    ("from", |p| p.header.from = Offset(101)),
    ("to", |p| p.header.to = Offset(201)),
    ("records", |p| p.header.counts.records += 1),
    ("accepted", |p| p.header.counts.accepted += 1),
    ("duplicates", |p| p.header.counts.duplicates += 1),
    ("rejected", |p| p.header.counts.rejected += 1),
    ("ignored", |p| p.header.counts.ignored += 1),
    ("fold version", |p| p.header.fold_version = 2),
    ("floor", |p| p.header.floor = Some(ms(1001))),
    ("no floor", |p| p.header.floor = None),
    ("floor at 0", |p| p.header.floor = Some(ms(0))),
    ("prices", |p| p.header.prices = Version(10)),
    ("sources", |p| p.header.sources = Version(10)),
    ("skipped from", |p| {
        p.header.skipped = Some(Skipped {
            from: Offset(51),
            to: Offset(100),
        });
    }),
    ("skipped to", |p| {
        p.header.skipped = Some(Skipped {
            from: Offset(50),
            to: Offset(99),
        });
    }),
    ("nothing skipped", |p| p.header.skipped = None),
    ("previous", |p| p.header.previous = Hash256::ZERO),
];

const ROWS: &[Change] = &[
    ("a posting less", |p| p.postings.truncate(1)),
    ("no postings", |p| p.postings.clear()),
    ("postings swapped", |p| p.postings.swap(0, 1)),
    ("posting twice", |p| p.postings.insert(0, posting(1))),
    ("series", |p| {
        p.postings[0].key.series = SeriesId(Hash128::from_bytes([0; 16]));
    }),
    ("rate set", |p| {
        p.postings[0].key.rate_set = RateSetId(Hash128::from_bytes([0; 16]));
    }),
    ("quarter", |p| p.postings[0].key.quarter = ms(0).quarter()),
    ("failed", |p| p.postings[0].sums.failed_requests += 1),
    ("unmeasured", |p| {
        p.postings[0].sums.unmeasured_requests += 1;
    }),
    ("priced", |p| p.postings[0].sums.priced_requests += 1),
    ("unpriced", |p| p.postings[0].sums.unpriced_requests += 1),
    ("amount", |p| {
        p.postings[0].sums.amount = Amount::from_units(6).unwrap();
    }),
    ("negative amount", |p| {
        p.postings[0].sums.amount = Amount::from_units(-5).unwrap();
    }),
    ("amount of the other", |p| {
        p.postings[1].sums.amount = Amount::from_units(6).unwrap();
    }),
    ("a rejection less", |p| p.rejected.truncate(1)),
    ("rejections swapped", |p| p.rejected.swap(0, 1)),
    ("offset", |p| p.rejected[0].place.offset = Offset(100)),
    ("index", |p| p.rejected[0].place.index = 1),
    ("reason", |p| {
        p.rejected[0].rejection.reason = Reason::BadTime;
    }),
    ("field", |p| {
        p.rejected[0].rejection.field = "token".to_owned();
    }),
    ("detail", |p| p.rejected[0].rejection.detail.push('!')),
    ("field and detail", |p| {
        p.rejected[0].rejection.field = "tokensi".to_owned();
        p.rejected[0].rejection.detail = "s negative".to_owned();
    }),
    ("record time", |p| p.rejected[0].record_time = ms(2001)),
    ("payload", |p| p.rejected[0].payload = b"{ ".to_vec()),
    ("payload bytes", |p| p.rejected[0].payload_bytes += 1),
    ("payload digest", |p| {
        p.rejected[0].payload_digest = Hash128::of(b"");
    }),
    ("a duplicate less", |p| p.duplicates.truncate(1)),
    ("duplicates swapped", |p| p.duplicates.swap(0, 1)),
    ("duplicate's offset", |p| {
        p.duplicates[0].place.offset = Offset(102);
    }),
    ("duplicate's index", |p| p.duplicates[0].place.index = 3),
    ("identity", |p| {
        p.duplicates[0].identity = Identity::from_bits(3);
    }),
    ("first's chain", |p| {
        p.duplicates[0].first.chain = ChainId(5);
    }),
    ("first's number", |p| {
        p.duplicates[0].first.number = PartNumber(2);
    }),
];

#[test]
fn any_change_of_a_part_changes_its_hash() {
    let mut hashes = BTreeMap::from([(part().hash().to_bytes(), "unchanged".to_owned())]);
    let mut check = |name: String, changed: &Part| {
        let same = hashes.insert(changed.hash().to_bytes(), name.clone());
        assert_eq!(same, None, "{name} has the hash of another change");
    };
    for (name, change) in HEADER.iter().chain(ROWS) {
        let mut changed = part();
        change(&mut changed);
        check((*name).to_owned(), &changed);
    }
    for meter in Meter::ALL {
        let mut changed = part();
        let sums = &mut changed.postings[1].sums;
        sums.quantities.set(meter, sums.quantities.get(meter) + 1);
        check(meter.name().to_owned(), &changed);
    }
}

#[test]
fn rows_of_one_kind_are_never_read_as_another() {
    // The same bytes in another list: a hash that did not carry lengths would not tell them apart.
    let mut one = part();
    one.postings.clear();
    one.rejected.clear();
    let mut other = part();
    other.postings.clear();
    other.duplicates.clear();
    assert_ne!(one.hash(), other.hash(), "duplicates are not rejections");
}

#[test]
fn hashes_stay_what_was_stored() {
    // Raise HASH_VERSION when this changes: stored chains must stay provable.
    let expected = "81b49e3b3ce3915106524a60b3e3a233704cee48a129b896d5971ff3a0f55cee";
    assert_eq!(part().hash().to_string(), expected, "the hash of a part");
    let series = Series {
        tenant: "default".to_owned(),
        app: "team-a".to_owned(),
        user: String::new(),
        session: String::new(),
        route: "chat".to_owned(),
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
    };
    let expected = "2a52846e8d1c25a23b4512566697daca";
    assert_eq!(series.id().0.to_string(), expected, "the key of a series");
    let rate_set = RateSet {
        provider: "openai".to_owned(),
        priced_model: "gpt-4o-2024-07-18".to_owned(),
        book_model: "gpt-4o".to_owned(),
        above_input_tokens: 200_000,
        rates: PerMeter::from_fn(|meter| {
            Some((Rate::from_units(2_500_000_000_000)?, meter.fallback()?))
        }),
    };
    assert_eq!(
        rate_set.id().0.to_string(),
        "2355b30252e756c8f5d7a7ba6dd0c78c",
        "the key of a rate set"
    );
}

#[test]
fn a_series_with_a_dimension_moved_is_another_series() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let series = |names: [&str; 7]| {
        let [tenant, app, user, session, route, provider, model] = names.map(str::to_owned);
        Series {
            tenant,
            app,
            user,
            session,
            route,
            provider,
            model,
        }
    };
    let mut ids = BTreeMap::from([(series(names).id().0.to_bytes(), names)]);
    for place in 0..names.len() {
        let mut changed = names;
        changed[place] = "";
        assert_eq!(
            ids.insert(series(changed).id().0.to_bytes(), changed),
            None,
            "{place} empty"
        );
        let mut changed = names;
        changed.swap(place, (place + 1) % names.len());
        assert_eq!(
            ids.insert(series(changed).id().0.to_bytes(), changed),
            None,
            "{place} moved"
        );
    }
    let [one, other] = [["ab", "c"], ["a", "bc"]]
        .map(|[tenant, app]| series([tenant, app, "", "", "", "", ""]).id());
    assert_ne!(one, other, "a letter moved from one to the next");
}

#[test]
fn a_long_payload_is_cut_and_its_hash_is_of_the_whole() {
    for length in [
        0,
        PAYLOAD_KEPT_MAX - 1,
        PAYLOAD_KEPT_MAX,
        PAYLOAD_KEPT_MAX + 1,
        200_000,
    ] {
        let payload = vec![b'x'; length];
        let rejection = Rejection::new(Reason::TooLarge, "", "is too large");
        let event = RejectedEvent::new(place(1, 0), rejection, ms(0), &payload);
        assert_eq!(
            event.payload.len(),
            length.min(PAYLOAD_KEPT_MAX),
            "kept of {length}"
        );
        assert_eq!(
            usize::try_from(event.payload_bytes),
            Ok(length),
            "the full length"
        );
        assert_eq!(
            event.payload_digest,
            Hash128::of(&payload),
            "the hash of {length}"
        );
    }
}
