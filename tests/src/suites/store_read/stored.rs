//! What `verify` reads is what the batch wrote, and a changed row does not hash to its part.

use std::collections::HashMap;
use std::sync::Arc;

use domain::event::{
    Dimensions, Identity, IdentityKey, IdentitySecret, LogIdentity, Outcome, Provenance, UsageEvent,
};
use domain::fold::{BatchFold, Folder};
use domain::hash::{Hash128, Hash256, HashKey};
use domain::ids::{AppId, ModelId, Offset, PartNumber, PartRef, Place, ProviderId, TenantId};
use domain::meter::{Meter, PerMeter};
use domain::part::{PartRows, RejectedEvent, part_hash};
use domain::price::PriceBook;
use domain::reject::{Reason, Rejection};
use domain::time::UnixMs;
use ingest::prices::{ConfiguredPrices, apply_at_start};
use store::audit::{self, Pages, StoredPart, StoredRows};
use store::claim::{ClaimRequest, claim};
use store::in_force::{self, Applied};
use store::source::{self, NewSource};
use store::{BatchWrite, Database as Store, PartWrite, Role, Writer};

use crate::harness::database::{Database, RUNTIME};
use crate::harness::postgres::Postgres;

const FIRST_AT: i64 = 1_800_000_000_000;

/// Three parts: events priced and not, rejected ones, repeats within a batch and across batches.
async fn write_parts(url: &str) -> Vec<(PartRef, Hash256)> {
    let db = Store::open(url, Role::Ingest).await.unwrap();
    let new = NewSource {
        name: "usage".to_owned(),
        topic: "usage.envoy".to_owned(),
    };
    let source = source::register(&db, &[new]).await.unwrap().remove(0);
    let book = Arc::new(PriceBook::shipped());
    let sources = "{}";
    let configured = ConfiguredPrices {
        shipped: PriceBook::shipped(),
        files: Vec::new(),
        book: PriceBook::shipped(),
    };
    apply_at_start(&db, &configured).await.unwrap();
    let applied = in_force::apply_sources_at_start(&db, sources, Hash128::of(sources.as_bytes()));
    assert!(
        matches!(applied.await.unwrap(), Applied::Yes(_)),
        "the sources are in force"
    );
    let in_force = in_force::load(&db).await.unwrap();
    let process = sqlx::types::Uuid::from_u128(7);
    let mut writer = Writer::connect(&db, process).await.unwrap();
    let request = ClaimRequest {
        source: source.id,
        topic: source.topic,
        partition: 0,
        process,
        backend: Some(writer.backend()),
    };
    let claimed = claim(&db, &request).await.unwrap();
    let mut folder = Folder::new(book, HashKey::new([1; 4]));
    let mut heads: Vec<(PartRef, Hash256)> = Vec::new();
    for number in 1..=3_i64 {
        let part = PartRef {
            chain: claimed.chain,
            number: PartNumber(number),
        };
        let mut fold = BatchFold::default();
        fill(&mut folder, &mut fold, part);
        fold.take_ids();
        let (from, to) = (Offset((number - 1) * 40), Offset(number * 40));
        let write = PartWrite {
            epoch: claimed.epoch,
            expected: (number > 1).then_some(from),
            from,
            to,
            floor: UnixMs::new(FIRST_AT - 1),
            skipped: None,
            previous: heads.last().map_or(Hash256::ZERO, |(_, hash)| *hash),
            tail: None,
            anchor: None,
        };
        let batch = BatchWrite {
            versions: in_force.versions(),
            parts: vec![write],
            fold,
        };
        heads.extend(writer.commit(batch).await.unwrap().heads);
    }
    heads
}

/// 40 records: every tenth is rejected, every eighth repeats the one before it or, from the second
/// part on, one of the part before.
fn fill(folder: &mut Folder, fold: &mut BatchFold, part: PartRef) {
    let index = fold.open_part(part);
    for record in 0..40_i64 {
        let number = (part.number.0 - 1) * 40 + record;
        let place = Place {
            offset: Offset(number),
            index: 0,
        };
        fold.part_mut(index).unwrap().count_record();
        if record % 10 == 9 {
            let rejection = Rejection::new(Reason::BadNumber, "tokens", "is negative");
            let time = UnixMs::new(FIRST_AT + number).unwrap();
            let event = RejectedEvent::new(place, rejection, time, b"{\"tokens\":-1}");
            fold.part_mut(index).unwrap().reject(event);
            continue;
        }
        let repeated = if record % 16 == 0 {
            number - 33
        } else {
            number - 1
        };
        let event_number = if record % 8 == 0 {
            repeated.max(0)
        } else {
            number
        };
        folder
            .fold(fold, index, place, &event(event_number))
            .unwrap();
    }
}

fn event(number: i64) -> UsageEvent<'static> {
    let start = UnixMs::new(FIRST_AT + number * 60_000).unwrap();
    let model = if number % 2 == 0 {
        "gpt-4o"
    } else {
        "a-model-that-no-book-has"
    };
    let mut quantities = PerMeter::default();
    quantities.set(Meter::Requests, 1);
    quantities.set(Meter::InputUncachedTokens, 100 + number.unsigned_abs());
    UsageEvent {
        dimensions: Dimensions {
            tenant: TenantId::default_tenant(),
            app: AppId::new(format!("app-{}", number % 3)).unwrap(),
            user: None,
            session: None,
            route: None,
            provider: Some(ProviderId::new("openai").unwrap()),
            model: ModelId::new(model).unwrap(),
        },
        answered_model: None,
        start,
        outcome: Outcome::Succeeded,
        provenance: Provenance::Reported,
        quantities,
        identity: Some(identity(number)),
        payload: None,
    }
}

fn identity(number: i64) -> Identity {
    let key = IdentityKey::of_source(IdentitySecret::from_bytes([1; 32]), "usage");
    let parts = LogIdentity {
        tenant: "default",
        request_id: "",
        start: UnixMs::new(FIRST_AT + number * 60_000).unwrap(),
        content: &number.to_be_bytes(),
    };
    Identity::of_log_line(&key, &parts)
}

struct Stored {
    sql: Database,
    reports: Store,
    heads: Vec<(PartRef, Hash256)>,
}

fn stored() -> Stored {
    let sql = Postgres::shared().empty_database("stored");
    RUNTIME.block_on(async {
        store::migrate(sql.url()).await.unwrap();
        let heads = write_parts(sql.url()).await;
        let reports = Store::open(sql.url(), Role::Reports).await.unwrap();
        Stored {
            reports,
            heads,
            sql: sql.clone(),
        }
    })
}

impl Stored {
    /// Reads all parts, a page of one at a time.
    fn parts(&self) -> Vec<StoredPart> {
        let chain = self.heads[0].0.chain;
        let mut parts: Vec<StoredPart> = Vec::new();
        RUNTIME.block_on(async {
            loop {
                let after = parts.last().map_or(PartNumber::NONE, |part| part.number);
                let page = Pages {
                    parts_max: 10,
                    rows_max: 1,
                };
                let more = audit::parts(&self.reports, chain, after, page)
                    .await
                    .unwrap();
                assert!(
                    more.len() <= 1,
                    "a part with more rows than a page comes alone"
                );
                if more.is_empty() {
                    return parts;
                }
                parts.extend(more);
            }
        })
    }

    fn rows(&self) -> HashMap<PartNumber, StoredRows> {
        let [(first, _), .., (last, _)] = self.heads.as_slice() else {
            panic!("three parts")
        };
        let rows = audit::rows(&self.reports, first.chain, first.number, last.number);
        RUNTIME.block_on(rows).unwrap()
    }

    /// Returns the parts whose rows do not hash to what they say.
    fn differing(&self) -> Vec<i64> {
        let rows = self.rows();
        let differs = |part: &&StoredPart| {
            let StoredRows {
                postings,
                rejected,
                duplicates,
                unreadable,
            } = &rows[&part.number];
            let rows = PartRows {
                postings,
                rejected,
                duplicates,
            };
            match &part.header {
                Ok(header) => !unreadable.is_empty() || part_hash(header, &rows) != part.hash,
                Err(_) => true,
            }
        };
        self.parts()
            .iter()
            .filter(differs)
            .map(|part| part.number.0)
            .collect()
    }
}

pub(super) fn stored_rows_hash_to_what_their_parts_say() {
    let stored = stored();
    let parts = stored.parts();
    let heads: Vec<_> = parts.iter().map(|part| (part.number, part.hash)).collect();
    let expected: Vec<_> = stored
        .heads
        .iter()
        .map(|(part, hash)| (part.number, *hash))
        .collect();
    assert_eq!(heads, expected, "the heads that the writer returned");
    assert_eq!(stored.differing(), Vec::<i64>::new(), "as it was written");
    let rows = stored.rows();
    let of = |number| &rows[&PartNumber(number)];
    assert_eq!(of(1).rejected.len(), 4, "every tenth record");
    let repeats = |number| {
        of(number)
            .duplicates
            .iter()
            .map(|repeat| repeat.first.number.0)
    };
    assert!(
        repeats(2).any(|first| first == 1),
        "a repeat of the part before"
    );
    assert!(
        repeats(2).any(|first| first == 2),
        "a repeat within the part"
    );
    let chains = RUNTIME.block_on(audit::chains(&stored.reports)).unwrap();
    let position = chains[0].position.as_ref().unwrap();
    assert_eq!(
        (chains.len(), position.last_part.0),
        (1, 3),
        "one chain, three parts"
    );
    assert_eq!(position.position, Some(Offset(120)), "where it stands");
    let orphans = RUNTIME.block_on(audit::orphans(&stored.reports)).unwrap();
    assert_eq!(
        orphans,
        audit::Orphans::default(),
        "every row leads somewhere"
    );
}

pub(super) fn stored_contents_have_the_keys_that_they_hash_to() {
    let stored = stored();
    let db = &stored.reports;
    let part = stored.parts().remove(0).header.unwrap();
    RUNTIME.block_on(async {
        let series = audit::series_after(db, None, 100).await.unwrap();
        assert_eq!(series.len(), 6, "three apps, two models");
        assert!(
            series.iter().all(|found| found.series.id() == found.key),
            "series"
        );
        let after = audit::series_after(db, Some(series[3].key), 100)
            .await
            .unwrap();
        assert_eq!(after, series[4..], "the next page");
        let rate_sets = audit::rate_sets_after(db, None, 100).await.unwrap();
        assert_eq!(rate_sets.len(), 2, "one with rates, one without");
        let is_own_key = |found: &audit::StoredRateSet| {
            found
                .rate_set
                .as_ref()
                .is_ok_and(|rate_set| rate_set.id() == found.key)
        };
        assert!(rate_sets.iter().all(is_own_key), "rate sets: {rate_sets:?}");
        let book = audit::price_book(db, part.prices).await.unwrap().unwrap();
        let shipped = PriceBook::shipped();
        assert_eq!(
            book.content,
            shipped.to_canonical(),
            "the book that priced it"
        );
        assert_eq!(book.content_hash, shipped.content_hash(), "and its hash");
        let config = audit::source_config(db, part.sources)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            config.content_hash,
            Hash128::of(config.content.as_bytes()),
            "sources"
        );
        let (known, unknown) = (identity(1), identity(1_000_000));
        let seen = audit::seen(db, &[unknown, known]).await.unwrap();
        assert_eq!(seen, [(known, stored.heads[0].0)], "who took an identity");
    });
}

pub(super) fn a_changed_row_does_not_hash_to_its_part() {
    let stored = stored();
    let cases: [(&str, &str); 9] = [
        (
            "update posting set amount = amount + 0.000000000000000001
                 where part = 2 and amount is not null",
            "update posting set amount = amount - 0.000000000000000001
                 where part = 2 and amount is not null",
        ),
        (
            "update posting set quarter = quarter + interval '15 min' where part = 2",
            "update posting set quarter = quarter - interval '15 min' where part = 2",
        ),
        (
            "update posting set quarter = quarter + interval '1 us' where part = 2",
            "update posting set quarter = quarter - interval '1 us' where part = 2",
        ),
        (
            "update posting set images = -1 where part = 2",
            "update posting set images = 0 where part = 2",
        ),
        (
            "update rejected_event set detail = 'is odd' where part = 2",
            "update rejected_event set detail = 'is negative' where part = 2",
        ),
        (
            "update rejected_event set reason = 'no_reason' where part = 2",
            "update rejected_event set reason = 'bad_number' where part = 2",
        ),
        (
            "update rejected_event set record_at = record_at + interval '1 us' where part = 2",
            "update rejected_event set record_at = record_at - interval '1 us' where part = 2",
        ),
        (
            "update duplicate set first_part = first_part + 100 where part = 2",
            "update duplicate set first_part = first_part - 100 where part = 2",
        ),
        (
            "update part set accepted = accepted + 1 where number = 2",
            "update part set accepted = accepted - 1 where number = 2",
        ),
    ];
    for (tampering, repair) in cases {
        let change = |statement: &str| {
            stored.sql.run(&format!(
                "set session_replication_role = replica; {statement}; reset all"
            ));
        };
        change(tampering);
        assert_eq!(stored.differing(), [2], "{tampering}");
        change(repair);
        assert_eq!(stored.differing(), Vec::<i64>::new(), "{repair}");
    }
}
