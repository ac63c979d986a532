//! Ids that were taken: by which part, and whether by one only.
//!
//! Invariant: what is counted as sound is found by later batches where they look for it. Deliberately
//! absent: ids whose days were dropped.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
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
    /// How many stand there once more; none, unless somebody wrote to the table.
    pub repeated: u64,
    /// How many do not lie where they are looked for; none, unless somebody wrote to the table.
    pub misplaced: u64,
}

/// How much of the time that ids are of is read in one statement.
const PAGE: TimeDelta = TimeDelta::hours(1);

/// Looks at each id of a log line that is held: no index says that it was taken once. Reads all of them, an hour
/// of events at a time.
///
/// # Errors
///
/// A [`StoreError`]; retry as its kind says.
pub async fn held_once(db: &Database) -> Result<HeldOnce, StoreError> {
    let mut found = HeldOnce::default();
    // Before 1970 no event is.
    let mut from = DateTime::UNIX_EPOCH;
    while let Some(first) = first_from(db, from).await? {
        from = first + PAGE;
        look_at(db, (first, from), &mut found).await?;
    }
    Ok(found)
}

/// Returns the first stretch from an instant on.
async fn first_from(
    db: &Database,
    from: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let first = sqlx::query_scalar!(
        "-- first_from
        select min(stretch) from event_seen where stretch >= $1",
        from
    )
    .fetch_one(db.pool())
    .await?;
    Ok(first)
}

async fn look_at(
    db: &Database,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    found: &mut HeldOnce,
) -> Result<(), StoreError> {
    let mut of_stretch: Vec<Identity> = Vec::new();
    let mut at = None;
    let mut rows = sqlx::query!(
        r#"-- look_at
        select e.stretch, e.source, e.ids,
            coalesce(c.source, e.source) <> e.source or e.number > coalesce(n.number, 0)
                as "is_elsewhere!"
        from event_seen e
        left join chain c on c.id = e.chain
        left join event_seen_count n on n.source = e.source
        where e.stretch >= $1 and e.stretch < $2
        order by e.stretch, e.source"#,
        from,
        to
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
        let is_of_another = |id: &&Identity| Some(Stretch::of(**id).start()) != start;
        let misplaced = if row.is_elsewhere || !is_ascending {
            ids.len()
        } else {
            ids.iter().filter(is_of_another).count()
        };
        found.misplaced += count(misplaced);
        found.ids += count(ids.len());
        of_stretch.extend(ids);
    }
    found.repeated += repeats(&mut of_stretch);
    Ok(())
}

fn count(ids: usize) -> u64 {
    u64::try_from(ids).unwrap_or(u64::MAX)
}

/// Counts the ids that stand more than once in a list, which it empties.
fn repeats(ids: &mut Vec<Identity>) -> u64 {
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    let repeated = all - ids.len();
    ids.clear();
    count(repeated)
}
