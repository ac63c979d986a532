//! A ledger that a test fills by SQL, so that it decides what is in each part, right or wrong.
//!
//! Invariant: a part's rows, its position and nothing else change in one transaction, as the batch
//! does it.

use std::fmt::Write;

use store::rollup::{RollUpError, RolledUp, roll_up};
use store::{Database as Store, Role};

use crate::harness::database::{Database, RUNTIME, literal};
use crate::harness::postgres::Postgres;

/// The rate of a token where there is one: 18 decimals, none of them to spare.
pub(super) const RATE: &str = "0.000000150000000001";

/// A database that carries the schema, as a superuser and as the product see it.
pub(super) struct Ledger {
    pub(super) sql: Database,
    pub(super) ingest: Store,
    pub(super) reports: Store,
}

/// One row of the journal, before it is keyed.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) tenant: &'static str,
    pub(super) app: String,
    /// The start of the quarter-hour, as SQL reads it.
    pub(super) quarter: String,
    pub(super) requests: i64,
    /// Uncached input tokens, all requests together.
    pub(super) tokens: i64,
    /// The tokens have a rate.
    pub(super) has_rate: bool,
}

impl Line {
    pub(super) fn of(app: &str, quarter: &str, requests: i64, tokens: i64) -> Self {
        Self {
            tenant: "default",
            app: app.to_owned(),
            quarter: quarter.to_owned(),
            requests,
            tokens,
            has_rate: true,
        }
    }

    pub(super) fn unpriced(mut self) -> Self {
        self.has_rate = false;
        self
    }

    pub(super) fn of_tenant(mut self, tenant: &'static str) -> Self {
        self.tenant = tenant;
        self
    }

    fn rate_set(&self) -> &'static str {
        if self.has_rate {
            "md5('rated')::uuid"
        } else {
            "md5('unrated')::uuid"
        }
    }
}

impl Ledger {
    /// Makes an empty ledger with chains 1 to `chains`, one per partition.
    pub(super) fn with_chains(chains: i32) -> Self {
        let sql = Postgres::shared().empty_database("store_read");
        RUNTIME.block_on(store::migrate(sql.url())).unwrap();
        let open = |role| RUNTIME.block_on(Store::open(sql.url(), role)).unwrap();
        let (ingest, reports) = (open(Role::Ingest), open(Role::Reports));
        sql.run(&format!(
            "insert into price_book (content, content_hash, origin) values ('', md5('')::uuid, '');
             insert into source_config (content, content_hash) values ('', md5('')::uuid);
             insert into source (name, topic) values ('usage', 'usage.envoy');
             insert into chain (kind, source, topic, partition, incarnation)
                 select 'log', 1, 'usage.envoy', n - 1, 1 from generate_series(1, {chains}) n;
             insert into source_position (chain, epoch) select id, 1 from chain;
             insert into batch (process) values (gen_random_uuid());
             insert into rate_set (key, provider, priced_model, book_model, above_input_tokens,
                     input_uncached_tokens, rate_of)
                 values (md5('rated')::uuid, 'openai', 'gpt-rated', 'gpt-rated', 0, {RATE},
                     '{{\"\",input_uncached_tokens,\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"}}'),
                 (md5('unrated')::uuid, 'openai', 'gpt-unrated', '', 0, null,
                     array_fill(''::text, array[10]));
             select ensure_posting_month('2027-03-01')"
        ));
        Self {
            sql,
            ingest,
            reports,
        }
    }

    /// Adds a part to a chain in one transaction.
    pub(super) fn add_part(&self, chain: i32, number: i64, lines: &[Line]) {
        let count = lines.len();
        let mut sql = format!(
            "insert into part values ({chain}, {number}, 1, 1, {number}, {number} + 1, {count},
                 {count}, 0, 0, 0, {count}, 1, 1, null, 1, 1, null, null,
                 decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex'));"
        );
        for line in lines {
            let (tenant, app) = (literal(line.tenant), literal(&line.app));
            let quantity = line.tokens;
            let has_tokens = quantity > 0;
            let priced = if has_tokens && line.has_rate {
                line.requests
            } else {
                0
            };
            let unpriced = if has_tokens && !line.has_rate {
                line.requests
            } else {
                0
            };
            let amount = match (has_tokens, line.has_rate) {
                (true, false) => "null".to_owned(),
                (true, true) => format!("{quantity} * {RATE}"),
                (false, _) => "0".to_owned(),
            };
            let key = format!("md5({tenant} || '/' || {app})::uuid");
            write!(
                sql,
                "insert into series values ({key}, {tenant}, {app}, '', '', '', 'openai', 'gpt')
                     on conflict do nothing;
                 insert into posting values ({chain}, {number}, {key}, {rate_set},
                     {quarter}::timestamptz, {requests}, {quantity}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                     {priced}, {unpriced}, {amount});",
                rate_set = line.rate_set(),
                quarter = literal(&line.quarter),
                requests = line.requests,
            )
            .unwrap();
        }
        write!(
            sql,
            "update source_position set part = {number} where chain = {chain}"
        )
        .unwrap();
        // Several statements in one message are one transaction.
        self.sql.run(&sql);
    }

    pub(super) fn roll_up(&self) -> Result<RolledUp, RollUpError> {
        RUNTIME.block_on(roll_up(&self.ingest))
    }

    /// Rolls up until nothing is left.
    pub(super) fn roll_up_all(&self) {
        while !matches!(
            self.roll_up().unwrap(),
            RolledUp::Moved {
                parts: 0,
                is_behind: false,
            }
        ) {}
    }

    /// Changes rows that nobody may change, as someone who owns the server could.
    pub(super) fn tamper(&self, statement: &str) {
        self.sql.run(&format!(
            "set session_replication_role = replica; {statement}; reset all"
        ));
    }
}
