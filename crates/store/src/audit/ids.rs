//! Ids that were taken: by which part, and whether by one only.
//!
//! Invariant: what is read is what later batches know repeats by. Deliberately absent: ids whose days
//! were dropped.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use domain::event::Identity;
use domain::ids::{ChainId, PartNumber, PartRef};
use domain::time::UnixMs;
use futures_util::TryStreamExt;
use uuid::Uuid;

use crate::batch::ids::{Stretch, unpacked};
use crate::connect::Database;
use crate::error::StoreError;

/// Returns which parts took these identities, ascending; those that nobody took, or whose days were
/// dropped, are absent.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn seen(
    db: &Database,
    identities: &[Identity],
) -> Result<Vec<(Identity, PartRef)>, StoreError> {
    let (of_producers, of_lines): (Vec<Identity>, Vec<Identity>) = identities
        .iter()
        .partition(|identity| identity.is_of_producer());
    let mut seen = BTreeMap::new();
    let stretches: BTreeSet<_> = of_lines.iter().map(|id| Stretch::of(*id).start()).collect();
    let stretches: Vec<_> = stretches.into_iter().map(UnixMs::to_utc).collect();
    let wanted: HashSet<Identity> = of_lines.into_iter().collect();
    let mut rows = sqlx::query!(
        r#"-- seen
        select taken.chain as "chain!", taken.part as "part!", taken.ids as "ids!"
        from unnest($1::timestamptz[]) as wanted (stretch)
        cross join lateral (
            select chain, part, ids from event_seen where stretch = wanted.stretch offset 0
        ) taken"#,
        &stretches
    )
    .fetch(db.pool());
    while let Some(row) = rows.try_next().await? {
        let part = part_ref(row.chain, row.part);
        let ids = unpacked(&row.ids).into_iter();
        seen.extend(ids.filter(|id| wanted.contains(id)).map(|id| (id, part)));
    }
    drop(rows);
    let keys: Vec<Uuid> = of_producers
        .iter()
        .map(|identity| Uuid::from_u128(identity.to_bits()))
        .collect();
    let rows = sqlx::query!(
        "-- seen
        select identity, chain, part from event_seen_by_id where identity = any($1)",
        &keys
    )
    .fetch_all(db.pool())
    .await?;
    seen.extend(rows.into_iter().map(|row| {
        let identity = Identity::from_bits(row.identity.as_u128());
        (identity, part_ref(row.chain, row.part))
    }));
    Ok(seen.into_iter().collect())
}

const fn part_ref(chain: i32, number: i64) -> PartRef {
    PartRef {
        chain: ChainId(chain),
        number: PartNumber(number),
    }
}

/// The ids of log lines that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldOnce {
    /// How many there are.
    pub ids: u64,
    /// How many were taken by a second part; none, unless somebody wrote to the table.
    pub repeated: u64,
    /// How many do not lie where they are looked for; none, unless somebody wrote to the table.
    pub misplaced: u64,
}

/// Looks at each id of a log line that is held: no index says that it was taken once. Reads all of them.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn held_once(db: &Database) -> Result<HeldOnce, StoreError> {
    let mut found = HeldOnce::default();
    let mut of_stretch: Vec<Identity> = Vec::new();
    let mut at = None;
    let mut rows = sqlx::query!(
        "-- held_once
        select stretch, source, ids from event_seen order by stretch, source"
    )
    .fetch(db.pool());
    while let Some(row) = rows.try_next().await? {
        if at != Some((row.stretch, row.source)) {
            at = Some((row.stretch, row.source));
            found.repeated += repeats(&mut of_stretch);
        }
        let ids = unpacked(&row.ids);
        let is_ascending = ids.is_sorted_by(|id, next| id < next);
        let start = UnixMs::from_utc(row.stretch);
        let is_elsewhere = |id: &&Identity| Some(Stretch::of(**id).start()) != start;
        let misplaced = if is_ascending {
            ids.iter().filter(is_elsewhere).count()
        } else {
            ids.len()
        };
        let count = |ids: usize| u64::try_from(ids).unwrap_or(u64::MAX);
        found.misplaced += count(misplaced);
        found.ids += count(ids.len());
        of_stretch.extend(ids);
    }
    found.repeated += repeats(&mut of_stretch);
    Ok(found)
}

/// Counts the ids that stand more than once in a list, which it empties.
fn repeats(ids: &mut Vec<Identity>) -> u64 {
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    let repeated = all - ids.len();
    ids.clear();
    u64::try_from(repeated).unwrap_or(u64::MAX)
}
