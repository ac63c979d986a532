//! A ledger with a source, a writer, and batches made of events that a test names.
//!
//! Invariant: batches are folded by the product's own fold and committed by its own writer; what is
//! stored is read by SQL.

use std::sync::Arc;

use domain::event::{
    Dimensions, Identity, IdentityKey, IdentitySecret, LogIdentity, Outcome, Provenance, UsageEvent,
};
use domain::fold::{BatchFold, Folder};
use domain::hash::{Hash128, HashKey};
use domain::ids::{AppId, ModelId, Offset, PartRef, Place, ProviderId, TenantId};
use domain::meter::{Meter, Quantities};
use domain::price::PriceBook;
use domain::time::UnixMs;
use ingest::prices::{ConfiguredPrices, apply_at_start};
use sqlx::types::Uuid;
use store::claim::{Claim, ClaimRequest, claim};
use store::in_force::Versions;
use store::source::{NewSource, SourceId, register};
use store::{BatchWrite, CommitError, Committed, Database as Store, PartWrite, Role, Writer};

use crate::harness::database::{Database, RUNTIME};
use crate::harness::postgres::Postgres;

/// 2027-03-01T10:00:00Z.
pub(super) const MORNING: i64 = 1_803_895_200_000;
pub(super) const TOPIC: &str = "usage.envoy";

/// A database with the schema, one source, and prices and sources in force.
pub(super) struct World {
    pub(super) sql: Database,
    pub(super) ingest: Store,
    pub(super) source: SourceId,
    pub(super) book: Arc<PriceBook>,
    pub(super) versions: Versions,
}

/// One request, as far as tests vary it.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) app: String,
    pub(super) model: String,
    pub(super) at: i64,
    pub(super) tokens: u64,
}

impl Request {
    pub(super) fn of(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            app: "app".to_owned(),
            model: "gpt-4o".to_owned(),
            at: MORNING,
            tokens: 10,
        }
    }

    pub(super) const fn at(mut self, at: i64) -> Self {
        self.at = at;
        self
    }

    pub(super) fn by(mut self, app: &str) -> Self {
        app.clone_into(&mut self.app);
        self
    }

    fn event(&self) -> UsageEvent<'_> {
        let start = UnixMs::new(self.at).unwrap();
        let mut quantities = Quantities::from_fn(|_| 0);
        quantities.set(Meter::Requests, 1);
        quantities.set(Meter::InputUncachedTokens, self.tokens);
        let key = IdentityKey::of_source(IdentitySecret::from_bytes([1; 32]), "usage");
        let parts = LogIdentity {
            tenant: "default",
            request_id: &self.id,
            start,
            content: self.id.as_bytes(),
        };
        let identity = Identity::of_log_line(&key, &parts);
        UsageEvent {
            dimensions: Dimensions {
                tenant: TenantId::default_tenant(),
                app: AppId::new(self.app.as_str()).unwrap(),
                user: None,
                session: None,
                route: None,
                provider: Some(ProviderId::new("openai").unwrap()),
                model: ModelId::new(self.model.as_str()).unwrap(),
            },
            answered_model: None,
            start,
            outcome: Outcome::Succeeded,
            provenance: Provenance::Reported,
            quantities,
            identity: Some(identity),
            payload: None,
        }
    }
}

/// The ids of log lines that were taken, one a row, for a `from` clause.
pub(super) const IDS: &str =
    "(select chain, part, (event_seen.tableoid, event_seen.ctid) as row, place,
    encode(substr(ids, 16 * place + 1, 16), 'hex')::uuid as identity
    from event_seen, generate_series(0, length(ids) / 16 - 1) as place) as seen";

/// A claimed chain and where its owner knows it to stand.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) claim: Claim,
    pub(super) source: SourceId,
}

impl Chain {
    /// Returns the offset that the next batch begins at.
    pub(super) fn position(&self) -> i64 {
        self.claim.position.map_or(0, |position| position.0)
    }

    pub(super) fn id(&self) -> i32 {
        self.claim.chain.0
    }

    fn part(&self) -> PartRef {
        PartRef {
            chain: self.claim.chain,
            number: self.claim.last_part.next(),
        }
    }

    fn write(&self, records: usize) -> PartWrite {
        let from = Offset(self.position());
        PartWrite {
            epoch: self.claim.epoch,
            expected: self.claim.position,
            from: self.claim.part_end.unwrap_or(from),
            to: Offset(from.0 + i64::try_from(records).unwrap()),
            floor: self.claim.floor,
            skipped: None,
            previous: self.claim.last_hash,
            tail: None,
            anchor: None,
        }
    }

    /// Follows a part that was committed.
    pub(super) fn follow(&mut self, committed: &Committed, index: usize, to: Offset) {
        let (part, hash) = committed.heads[index];
        assert_eq!(part, self.part(), "the chain's next part");
        self.claim.last_part = part.number;
        self.claim.last_hash = hash;
        self.claim.position = Some(to);
        self.claim.part_end = Some(to);
    }
}

impl World {
    /// Makes a ledger in a database of its own.
    pub(super) fn new() -> Self {
        let sql = Postgres::shared().empty_database("store_write");
        RUNTIME.block_on(store::migrate(sql.url())).unwrap();
        let url = sql.url().to_owned();
        Self::at(sql, &url, PriceBook::shipped())
    }

    /// Makes a ledger that the product reaches by another way than the test.
    pub(super) fn at(sql: Database, url: &str, book: PriceBook) -> Self {
        let ingest = RUNTIME.block_on(Store::open(url, Role::Ingest)).unwrap();
        let new = NewSource {
            name: "usage".to_owned(),
            topic: TOPIC.to_owned(),
        };
        let source = RUNTIME.block_on(register(&ingest, &[new])).unwrap()[0].id;
        let configured = ConfiguredPrices {
            shipped: book.clone(),
            files: Vec::new(),
            book: book.clone(),
        };
        RUNTIME
            .block_on(apply_at_start(&ingest, &configured))
            .unwrap();
        let applied = RUNTIME.block_on(async {
            use store::in_force::{apply_sources_at_start, load};
            apply_sources_at_start(&ingest, "[]", Hash128::of(b"[]")).await?;
            load(&ingest).await
        });
        let applied = applied.unwrap();
        Self {
            sql,
            ingest,
            source,
            book: Arc::new(book),
            versions: applied.versions(),
        }
    }

    pub(super) fn request(&self, partition: i32, writer: &Writer, process: Uuid) -> ClaimRequest {
        ClaimRequest {
            source: self.source,
            topic: TOPIC.to_owned(),
            partition,
            process,
            backend: Some(writer.backend()),
        }
    }

    pub(super) fn writer(&self) -> (Writer, Uuid) {
        let process = Uuid::now_v7();
        let writer = RUNTIME
            .block_on(Writer::connect(&self.ingest, process))
            .unwrap();
        (writer, process)
    }

    pub(super) fn claim(&self, partition: i32, writer: &(Writer, Uuid)) -> Chain {
        let request = self.request(partition, &writer.0, writer.1);
        self.claimed(&request)
    }

    /// Claims the first partition of another source, which is made.
    pub(super) fn claim_other(&self, name: &str, writer: &(Writer, Uuid)) -> Chain {
        let new = NewSource {
            name: name.to_owned(),
            topic: name.to_owned(),
        };
        let source = RUNTIME.block_on(register(&self.ingest, &[new])).unwrap()[0].id;
        let request = ClaimRequest {
            source,
            topic: name.to_owned(),
            ..self.request(0, &writer.0, writer.1)
        };
        self.claimed(&request)
    }

    fn claimed(&self, request: &ClaimRequest) -> Chain {
        let claim = RUNTIME.block_on(claim(&self.ingest, request)).unwrap();
        let source = request.source;
        Chain { claim, source }
    }

    /// Folds the requests, one record each, into one part per chain.
    pub(super) fn batch(&self, parts: &[(&Chain, &[Request])]) -> BatchWrite {
        let mut folder = Folder::new(Arc::clone(&self.book), HashKey::new([1; 4]));
        let mut fold = BatchFold::default();
        let mut writes = Vec::new();
        for (chain, requests) in parts {
            let index = fold.open_part(chain.part());
            for (offset, request) in (chain.position()..).zip(*requests) {
                let place = Place {
                    offset: Offset(offset),
                    index: 0,
                };
                fold.part_mut(index).unwrap().count_record();
                folder
                    .fold(&mut fold, index, place, &request.event())
                    .unwrap();
            }
            writes.push(chain.write(requests.len()));
        }
        fold.take_ids();
        BatchWrite {
            versions: self.versions,
            parts: writes,
            fold,
        }
    }

    /// Commits one part per chain and follows it.
    pub(super) fn commit(
        &self,
        writer: &mut Writer,
        parts: &mut [(&mut Chain, &[Request])],
    ) -> Result<Committed, CommitError> {
        let of: Vec<(&Chain, &[Request])> = parts
            .iter()
            .map(|(chain, requests)| (&**chain, *requests))
            .collect();
        let batch = self.batch(&of);
        let ends: Vec<Offset> = batch.parts.iter().map(|part| part.to).collect();
        let committed = RUNTIME.block_on(writer.commit(batch))?;
        for (index, (chain, _)) in parts.iter_mut().enumerate() {
            chain.follow(&committed, index, ends[index]);
        }
        Ok(committed)
    }

    /// Returns how many requests all postings hold.
    pub(super) fn requests(&self) -> i64 {
        self.sql
            .number("select coalesce(sum(requests), 0)::bigint from posting")
    }
}

/// Makes requests with the ids `first..first + count`.
pub(super) fn requests(first: usize, count: usize) -> Vec<Request> {
    (first..first + count)
        .map(|id| Request::of(&id.to_string()))
        .collect()
}
