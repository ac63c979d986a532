//! What stands behind a counter: the accounts of its origins, what replicas wrote of it, and what the ledger
//! holds of the usage that it counts.
//!
//! Invariant: all of an answer is one snapshot, so that accounts and ledger can be compared; what was
//! committed after the parts that a decision knew is told apart. Deliberately absent: which series a
//! counter counts, and what of their usage, which the domain knows.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::account::{Origin, ReplicaId, Revision, SlotSum};
use domain::ids::{ChainId, PartNumber, Version};
use domain::meter::PerMeter;
use domain::policy::CounterKey;
use domain::series::Series;
use domain::time::UnixMs;
use domain::units::Units;
use domain::window::Span;
use sqlx::{Postgres, Transaction};

use crate::accounts::{quantities_of, units_of};
use crate::connect::Database;
use crate::cost::{instant, set_tenant};
use crate::error::StoreError;
use crate::in_force::uuid_of;

/// Which counter, and what somebody knew of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The counter.
    pub counter: CounterKey,
    /// Whose usage it counts.
    pub tenant: String,
    /// The application whose usage it counts alone; `None` for all.
    pub app: Option<String>,
    /// The quarter-hours that it counts: both ends are edges of quarter-hours. `None` leaves the ledger
    /// out.
    pub span: Option<Span>,
    /// How new the numbers of each origin were that somebody knew, each origin once.
    pub known: Vec<(Origin, Revision)>,
}

/// What one origin counted in one slot, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSlot {
    /// Who counted.
    pub origin: Origin,
    /// The part that changed it last; of openings the version of the policies.
    pub revision: Revision,
    /// The slot and what was counted in it.
    pub slot: SlotSum,
}

/// A chain, how far it was known, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainBehind {
    /// The chain.
    pub chain: ChainId,
    /// Its origin.
    pub origin: Origin,
    /// Its topic and partition; of corrections `adjustment`.
    pub name: String,
    /// Its last part that was known, or that the openings held.
    pub known: PartNumber,
    /// Its last part.
    pub last: PartNumber,
    /// Its last part that enforcers were told of; `None` where they never were.
    pub sent: Option<PartNumber>,
}

/// What a replica wrote of a counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaBehind {
    /// Who counted.
    pub replica: ReplicaId,
    /// How new it is.
    pub revision: Revision,
    /// All that it ever counted.
    pub total: Units,
    /// The slots, ascending.
    pub slots: Vec<SlotSum>,
}

/// What requests of one series used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesBehind {
    /// Whether it is in parts after those that were known; else it is all that the ledger holds now.
    pub is_since: bool,
    /// The series.
    pub series: Series,
    /// What was used.
    pub quantities: PerMeter<i128>,
    /// What of it has a rate costs, in 10⁻¹⁸ of the currency.
    pub amount: i128,
    /// Billable units without a rate.
    pub unpriced: i128,
}

/// What stands behind a counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// When the snapshot was taken, by Postgres's clock.
    pub at: UnixMs,
    /// The policies in force in the snapshot.
    pub policies: Option<Version>,
    /// The counter's accounts, ascending by chain and slot, openings first.
    pub accounts: Vec<AccountSlot>,
    /// All chains, ascending.
    pub chains: Vec<ChainBehind>,
    /// What replicas wrote, ascending.
    pub replicas: Vec<ReplicaBehind>,
    /// What the ledger holds in the span, in no order: of each series all, and what is since.
    pub series: Vec<SeriesBehind>,
}

/// Reads what stands behind a counter, in one snapshot.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; [`StoreError::Corrupt`] where a row cannot be read.
pub async fn read(db: &Database, question: &Question) -> Result<Behind, StoreError> {
    let begin = "begin transaction isolation level repeatable read, read only";
    let mut tx = db.pool().begin_with(begin).await?;
    set_tenant(&mut tx, "*").await?;
    let seen = sqlx::query!(r#"/* explain */ select policies, now() as "now!" from in_force"#)
        .fetch_one(&mut *tx)
        .await?;
    let mut chains = chains(&mut tx, &question.known).await?;
    let accounts = accounts(&mut tx, question.counter, &chains).await?;
    let replicas = replicas(&mut tx, question.counter).await?;
    let series = match question.span {
        Some(span) => {
            let mut known = question.known.iter();
            if let Some((_, opening)) = known.find(|(origin, _)| *origin == Origin::Opening) {
                raise_to_opening(&mut tx, Version(opening.number), &mut chains).await?;
            }
            ledger(&mut tx, question, span, &chains).await?
        }
        None => Vec::new(),
    };
    tx.rollback().await?;
    Ok(Behind {
        at: instant(seen.now)?,
        policies: seen.policies.map(Version),
        accounts,
        chains,
        replicas,
        series,
    })
}

/// Returns all chains with the parts that were known.
async fn chains(
    tx: &mut Transaction<'_, Postgres>,
    known: &[(Origin, Revision)],
) -> Result<Vec<ChainBehind>, StoreError> {
    let rows = sqlx::query!(
        r#"/* explain_chains */
        select c.id, c.kind, c.topic, c.partition, p.part, b.part as "sent?"
        from chain c join source_position p on p.chain = c.id
        left join balance_mark b on b.chain = c.id
        order by c.id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let known: HashMap<Origin, Revision> = known.iter().copied().collect();
    let chains = rows.into_iter().map(|row| {
        let chain = ChainId(row.id);
        let (origin, name) = if row.kind == "adjustment" {
            (Origin::Adjustment, row.kind)
        } else {
            let name = format!("{}/{}", row.topic, row.partition);
            (Origin::Chain(chain), name)
        };
        let known = known.get(&origin).map_or(0, |revision| revision.number);
        ChainBehind {
            chain,
            origin,
            name,
            known: PartNumber(known),
            last: PartNumber(row.part),
            sent: row.sent.map(PartNumber),
        }
    });
    Ok(chains.collect())
}

async fn accounts(
    tx: &mut Transaction<'_, Postgres>,
    counter: CounterKey,
    chains: &[ChainBehind],
) -> Result<Vec<AccountSlot>, StoreError> {
    let rows = sqlx::query!(
        r#"/* explain_accounts */
        select chain, slot, sum::text as "sum!", epoch, part from account where counter = $1
        order by chain, slot"#,
        uuid_of(counter.0)
    )
    .fetch_all(&mut **tx)
    .await?;
    let read = rows.into_iter().map(|row| {
        let chain = chains.iter().find(|known| known.chain.0 == row.chain);
        Ok(AccountSlot {
            origin: match row.chain {
                0 => Origin::Opening,
                id => chain.map_or(Origin::Chain(ChainId(id)), |chain| chain.origin),
            },
            revision: Revision {
                epoch: row.epoch,
                number: row.part,
            },
            slot: SlotSum {
                start: instant(row.slot)?,
                sum: units_of(&row.sum)?,
            },
        })
    });
    read.collect()
}

async fn replicas(
    tx: &mut Transaction<'_, Postgres>,
    counter: CounterKey,
) -> Result<Vec<ReplicaBehind>, StoreError> {
    let rows = sqlx::query!(
        r#"/* explain_replicas */
        select replica, epoch, number, total::text as "total!", slots,
            sums::text[] as "sums!: Vec<String>"
        from replica_account where counter = $1 order by replica"#,
        uuid_of(counter.0)
    )
    .fetch_all(&mut **tx)
    .await?;
    let read = rows.into_iter().map(|row| {
        let slots = row.slots.into_iter().zip(&row.sums).map(|(start, sum)| {
            let (start, sum) = (instant(start)?, units_of(sum)?);
            Ok(SlotSum { start, sum })
        });
        Ok(ReplicaBehind {
            replica: ReplicaId(row.replica.cast_unsigned()),
            revision: Revision {
                epoch: row.epoch,
                number: row.number,
            },
            total: units_of(&row.total)?,
            slots: slots.collect::<Result<_, StoreError>>()?,
        })
    });
    read.collect()
}

/// Raises what was known of each chain to what the openings held: all that was committed before the
/// policies came in force, since that waited for all batches.
async fn raise_to_opening(
    tx: &mut Transaction<'_, Postgres>,
    version: Version,
    chains: &mut [ChainBehind],
) -> Result<(), StoreError> {
    let applied = sqlx::query_scalar!(
        "/* explain_opening */ select applied_at from policy_set where version = $1",
        version.0
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(applied) = applied else {
        return Ok(());
    };
    for chain in chains {
        // Parts ascend in the order of their commits; halving finds the last one of before.
        let (mut before, mut after) = (chain.known.0, chain.last.0.saturating_add(1));
        while after.saturating_sub(before) > 1 {
            let middle = before.midpoint(after);
            match committed(tx, chain.chain, middle).await? {
                Some(committed) if committed > applied => after = middle,
                Some(_) | None => before = middle,
            }
        }
        chain.known = PartNumber(before);
    }
    Ok(())
}

async fn committed(
    tx: &mut Transaction<'_, Postgres>,
    chain: ChainId,
    part: i64,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let committed = sqlx::query_scalar!(
        "/* explain_committed */
        select b.committed_at from part p join batch b on b.id = p.batch
        where p.chain = $1 and p.number = $2",
        chain.0,
        part
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(committed)
}

async fn ledger(
    tx: &mut Transaction<'_, Postgres>,
    question: &Question,
    span: Span,
    chains: &[ChainBehind],
) -> Result<Vec<SeriesBehind>, StoreError> {
    let (ids, parts): (Vec<i32>, Vec<i64>) = chains
        .iter()
        .map(|chain| (chain.chain.0, chain.known.0))
        .unzip();
    let rows = sqlx::query_file!(
        "src/explain.sql",
        question.tenant,
        question.app.as_deref(),
        span.start().to_utc(),
        span.end().to_utc(),
        &ids,
        &parts
    )
    .fetch_all(&mut **tx)
    .await?;
    let read = rows.into_iter().map(|row| {
        Ok(SeriesBehind {
            is_since: row.is_since,
            series: Series {
                tenant: row.tenant,
                app: row.app,
                user: row.user_id,
                session: row.session,
                route: row.route,
                provider: row.provider,
                model: row.model,
            },
            quantities: quantities_of(&row.quantities)?,
            amount: units_of(&row.amount)?.get(),
            unpriced: units_of(&row.unpriced)?.get(),
        })
    });
    read.collect()
}
