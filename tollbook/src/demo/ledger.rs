//! What the screen shows of the ledger, read as any report reads it.
//!
//! Invariant: every figure comes out of Postgres, none out of what the demo believes it has sent.
//! Deliberately absent: drawing (see `screen`).

use std::collections::HashMap;

use domain::ids::{ChainId, PartNumber};
use domain::meter::Meter;
use domain::money::Amount;
use domain::time::{QUARTER_MS, UnixMs};
use service::{Exit, Failure};
use store::audit::{self, Pages};
use store::cost::{CostQuery, CostRow, Dimension, Snapshot, Tenants};
use store::{Database, Role};

/// At most so much of the parts is read at a time.
const PAGE: Pages = Pages {
    parts_max: 1_000,
    rows_max: u32::MAX,
};

/// What became of the messages so far, and what each application cost.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    /// Events posted.
    pub(super) accepted: u64,
    /// Events that had been counted before.
    pub(super) duplicates: u64,
    /// Events kept as rejected.
    pub(super) rejected: u64,
    /// Requests of models that the price book has no rate for.
    pub(super) unpriced: u128,
    /// What all of it cost, as far as it has rates.
    pub(super) cost: Option<Amount>,
    /// The applications, the costliest first.
    pub(super) apps: Vec<App>,
}

/// One application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct App {
    pub(super) name: String,
    pub(super) requests: u128,
    pub(super) tokens: u128,
    pub(super) cost: Option<Amount>,
}

/// A reader of the demo's ledger that reads each part once.
pub(super) struct Ledger {
    db: Database,
    read: HashMap<ChainId, PartNumber>,
    accepted: u64,
    duplicates: u64,
    rejected: u64,
}

impl Ledger {
    /// Opens the ledger with the rights of a report.
    ///
    /// # Errors
    ///
    /// Postgres refuses.
    pub(super) async fn open(url: &str) -> Result<Self, Failure> {
        let db = Database::open(url, Role::Reports)
            .await
            .map_err(unreadable)?;
        Ok(Self {
            db,
            read: HashMap::new(),
            accepted: 0,
            duplicates: 0,
            rejected: 0,
        })
    }

    /// Reads what is new.
    ///
    /// # Errors
    ///
    /// Postgres does not answer.
    pub(super) async fn look(&mut self) -> Result<Look, Failure> {
        self.read_parts().await?;
        let rows = self.rows().await?;
        let mut look = Look {
            cost: Amount::from_units(0),
            accepted: self.accepted,
            duplicates: self.duplicates,
            rejected: self.rejected,
            ..Look::default()
        };
        for row in rows {
            look.unpriced += row.sums.unpriced_requests;
            look.cost = sum(look.cost, row.sums.amount);
            look.apps.push(app(row));
        }
        look.apps
            .sort_by(|a, b| b.cost.cmp(&a.cost).then_with(|| a.name.cmp(&b.name)));
        Ok(look)
    }

    async fn read_parts(&mut self) -> Result<(), Failure> {
        for chain in audit::chains(&self.db).await.map_err(unreadable)? {
            let last = self.read.entry(chain.id).or_insert(PartNumber::NONE);
            loop {
                let parts = audit::parts(&self.db, chain.id, *last, PAGE).await;
                let parts = parts.map_err(unreadable)?;
                let Some(newest) = parts.last() else { break };
                *last = newest.number;
                for counts in parts
                    .iter()
                    .flat_map(|part| &part.header)
                    .map(|part| part.counts)
                {
                    self.accepted = self.accepted.saturating_add(counts.accepted);
                    self.duplicates = self.duplicates.saturating_add(counts.duplicates);
                    self.rejected = self.rejected.saturating_add(counts.rejected);
                }
            }
        }
        Ok(())
    }

    async fn rows(&self) -> Result<Vec<CostRow>, Failure> {
        let mut snapshot = Snapshot::open(&self.db, Tenants::All)
            .await
            .map_err(unreadable)?;
        let Some(extent) = snapshot.extent().await.map_err(unreadable)? else {
            return Ok(Vec::new());
        };
        let end = UnixMs::new(extent.last.get().saturating_add(QUARTER_MS)).unwrap_or(extent.last);
        let query = CostQuery {
            by: vec![Dimension::App],
            bounds: vec![extent.first, end],
        };
        snapshot.cost(&query).await.map_err(unreadable)
    }
}

fn app(row: CostRow) -> App {
    let tokens = Meter::ALL
        .iter()
        .filter(|meter| meter.name().ends_with("_tokens"));
    App {
        requests: row.sums.quantities.get(Meter::Requests),
        tokens: tokens.map(|meter| row.sums.quantities.get(*meter)).sum(),
        cost: row.sums.amount,
        name: row.dimensions.into_iter().next().unwrap_or_default(),
    }
}

/// Adds amounts of which either may not exist; a sum beyond what an amount holds shows as none.
fn sum(one: Option<Amount>, other: Option<Amount>) -> Option<Amount> {
    match (one, other) {
        (Some(one), Some(other)) => one.checked_add(other),
        (one, other) => one.or(other),
    }
}

fn unreadable(error: impl std::error::Error) -> Failure {
    Failure::new(
        Exit::Dependency,
        format!("the demo cannot read its ledger: {error}"),
    )
}
