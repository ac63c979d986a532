//! The ids of a batch: of log lines, and of events whose producers own them.
//!
//! Invariant: each id is counted by one part. Those that producers own are taken first, in their order,
//! so that batches do not wait for each other in a circle; those of log lines last of all. A batch that was
//! overtaken locks first: where it so meets another one in a circle, for a new series or an id that a producer owns,
//! Postgres ends one of them with 40P01, and it is folded again and locks first, too. Deliberately absent: when ids are dropped.

mod held;
mod lines;
mod producers;
mod run;

use std::collections::HashMap;

use domain::event::Identity;
use domain::fold::{BatchFold, Conflicts, SeenId};
use domain::hash::Hash128;
use domain::ids::{ChainId, PartRef};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::StoreError;
use crate::in_force::uuid_of;
use crate::source::SourceId;

pub(crate) use held::HeldIds;
pub(crate) use lines::{NewIds, Recorded, record, unpacked};
pub(crate) use run::Stretch;

/// What came of taking the ids of a batch.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Those that were taken before, and by which part.
    pub(crate) seen: HashMap<Identity, PartRef>,
    /// Those of them that came with another payload.
    pub(crate) conflicts: Conflicts,
    /// Producers' ids were taken before, which cost a `COPY` in vain.
    pub(crate) was_surprised: bool,
    /// Those of log lines that are to be recorded ([`record`]) before the transaction ends.
    pub(crate) new: NewIds,
}

/// How ids that producers own are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// By `COPY`, which is thrown away where it meets a repeat.
    AllNew,
    /// Row by row.
    SomeRepeat,
}

/// When the counts of log lines' ids are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CountLock {
    /// When the ids are recorded, so that others wait for little more than a commit.
    AtTheEnd,
    /// Before they are looked up, so that nobody takes one in between.
    AtOnce,
}

/// Takes the ids of a batch whose `take_ids` was called; the sources are its parts', in their order.
pub(crate) async fn take(
    tx: &mut PgConnection,
    fold: &BatchFold,
    sources: &[SourceId],
    held: &mut HeldIds,
    (care, lock): (Care, CountLock),
) -> Result<Taken, StoreError> {
    let (of_lines, of_producers) = split(fold);
    let mut taken = Taken {
        conflicts: fold.conflicts(),
        new: NewIds::of(fold, of_lines, sources),
        ..Taken::default()
    };
    if lock == CountLock::AtOnce {
        lines::lock_counts(tx, &taken.new).await?;
    }
    lines::look_up(tx, held, &mut taken.new, &mut taken.seen).await?;
    producers::take(tx, fold, of_producers, care, &mut taken).await?;
    Ok(taken)
}

/// Returns the source of each part's chain, in the batch's order.
pub(crate) async fn sources_of(
    tx: &mut PgConnection,
    known: &mut HashMap<ChainId, SourceId>,
    fold: &BatchFold,
) -> Result<Vec<SourceId>, StoreError> {
    let chains = fold.parts().iter().map(|part| part.part().chain);
    let chains: Vec<ChainId> = chains.collect();
    let new = chains.iter().filter(|chain| !known.contains_key(chain));
    let new: Vec<i32> = new.map(|chain| chain.0).collect();
    if !new.is_empty() {
        let rows = sqlx::query!(
            r#"/* sources_of */
            select id, source as "source!" from chain where id = any($1) and source is not null"#,
            &new
        )
        .fetch_all(tx)
        .await?;
        known.extend(
            rows.iter()
                .map(|row| (ChainId(row.id), SourceId(row.source))),
        );
    }
    let of_chain = |chain: &ChainId| {
        let source = known.get(chain).copied();
        source.ok_or_else(|| StoreError::corrupt_chain(*chain, "it has no source"))
    };
    chains.iter().map(of_chain).collect()
}

/// Splits a batch's ids into those of log lines and those that producers own.
fn split(fold: &BatchFold) -> (&[SeenId], &[SeenId]) {
    let ids = fold.ids();
    let first_owned = ids.partition_point(|id| !id.identity.is_of_producer());
    ids.split_at_checked(first_owned).unwrap_or((ids, &[]))
}

fn uuid_of_identity(identity: Identity) -> Uuid {
    uuid_of(Hash128::from_bytes(identity.to_bits().to_be_bytes()))
}
