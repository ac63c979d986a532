//! Ids of log lines: one row holds those that one part took of one stretch of time of one source.
//!
//! Invariant: each id is counted by one part. No index can tell, so the order of commits does: takings
//! of a source are numbered under a lock that is held until the commit ([`record`]), so that whoever sees
//! one sees all before it. A transaction looks at first ([`look_up`]), does its work, and looks again
//! under that lock, at what was taken in between; its rows and its number commit with it. Deliberately
//! absent: when ids are dropped.

use std::collections::{BTreeMap, HashMap};

use domain::event::Identity;
use domain::fold::{BatchFold, SeenId};
use domain::ids::{ChainId, PartNumber, PartRef};
use futures_util::TryStreamExt;
use sqlx::PgConnection;

use super::held::HeldIds;
use super::run::{Run, Stretch};
use crate::copy::copy_each;
use crate::error::StoreError;
use crate::source::SourceId;

/// The most ids of one row, so that two rows fit on a page of 8 KiB (`event_seen_ids`).
const ROW_IDS_MAX: usize = 250;

/// Bytes of an id.
const ID_BYTES: usize = 16;

/// The ids that a batch takes, and up to where it knows what others took.
#[derive(Debug, Default)]
pub(crate) struct NewIds {
    /// By stretch, then source; none is empty.
    groups: Vec<Group>,
    /// What the groups' runs name: the batch's parts.
    parts: Vec<PartRef>,
    /// The last taking of each source that was known when the ids were looked up.
    known: BTreeMap<SourceId, i64>,
}

/// The ids that a batch takes of one stretch of one source.
#[derive(Debug)]
struct Group {
    stretch: Stretch,
    source: SourceId,
    run: Run,
}

/// What came of recording the ids of a transaction.
pub(crate) enum Recorded {
    /// They are this transaction's; by source which taking it is.
    Taken(BTreeMap<SourceId, i64>),
    /// Another transaction took one of them since they were looked up: roll back, and begin anew.
    Overtaken,
}

impl NewIds {
    /// Sorts a batch's ids into groups; the sources are the parts', in the batch's order.
    pub(super) fn of(fold: &BatchFold, ids: &[SeenId], sources: &[SourceId]) -> Self {
        let parts = fold.parts().iter().map(domain::fold::PartFold::part);
        let mut groups: Vec<Group> = Vec::new();
        let mut rest = ids;
        while let Some(first) = rest.first() {
            let stretch = Stretch::of(first.identity);
            let within = rest.partition_point(|id| Stretch::of(id.identity) <= stretch);
            let (of_stretch, after) = rest.split_at(within);
            rest = after;
            add_groups(&mut groups, stretch, of_stretch, sources);
        }
        Self {
            groups,
            parts: parts.collect(),
            known: BTreeMap::new(),
        }
    }

    /// Leaves out ids that were taken before.
    fn leave_out(&mut self, seen: &HashMap<Identity, PartRef>) {
        if seen.is_empty() {
            return;
        }
        for group in &mut self.groups {
            group.run.retain(|id| !seen.contains_key(&id));
        }
        self.groups.retain(|group| !group.run.is_empty());
    }

    /// Hands the ids to what the process holds, once their transaction has committed.
    pub(crate) fn hold(self, held: &mut HeldIds, numbers: &BTreeMap<SourceId, i64>) {
        for group in self.groups {
            let Group {
                stretch,
                source,
                run,
            } = group;
            // Where others took some in between they are read first, and these with them.
            if let (Some(known), Some(number)) = (self.known.get(&source), numbers.get(&source))
                && known.checked_add(1) == Some(*number)
            {
                held.add(stretch, source, run, &self.parts);
                held.note(stretch, source, *number);
            }
        }
    }
}

/// Adds the groups of one stretch, by source.
fn add_groups(groups: &mut Vec<Group>, stretch: Stretch, ids: &[SeenId], sources: &[SourceId]) {
    let source_of = |id: &SeenId| sources.get(id.part_index()).copied();
    let mut of_stretch: Vec<SourceId> = ids.iter().filter_map(source_of).collect();
    of_stretch.sort_unstable();
    of_stretch.dedup();
    for source in of_stretch {
        let mut run = Run::with_capacity(ids.len());
        for id in ids.iter().filter(|id| source_of(id) == Some(source)) {
            run.push(
                id.identity,
                u32::try_from(id.part_index()).unwrap_or(u32::MAX),
            );
        }
        groups.push(Group {
            stretch,
            source,
            run,
        });
    }
}

/// Finds the ids that were taken before, and leaves them out of what is to be taken.
pub(super) async fn look_up(
    tx: &mut PgConnection,
    held: &mut HeldIds,
    new: &mut NewIds,
    seen: &mut HashMap<Identity, PartRef>,
) -> Result<(), StoreError> {
    let wanted = new.groups.iter().map(|group| Wanted {
        stretch: group.stretch,
        source: group.source,
        after: held.known_to(group.stretch, group.source).unwrap_or(-1),
    });
    let wanted: Vec<Wanted> = wanted.collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let known = read(tx, &wanted, |wanted, part, ids| {
        held.add(wanted.stretch, wanted.source, Run::of_part(ids, 0), &[part]);
    })
    .await?;
    for group in &new.groups {
        let number = known.get(&group.source).copied().unwrap_or(0);
        held.note(group.stretch, group.source, number);
        held.taken(group.stretch, group.source, group.run.ids(), |id, part| {
            seen.insert(id, part);
        });
    }
    new.known = known;
    new.leave_out(seen);
    Ok(())
}

/// Writes the ids, under a lock that is held until the transaction ends. The last thing that a
/// transaction does, so that others wait for no more than a commit.
pub(crate) async fn record(tx: &mut PgConnection, new: &NewIds) -> Result<Recorded, StoreError> {
    let mut sources: Vec<i32> = new.groups.iter().map(|group| group.source.0).collect();
    sources.sort_unstable();
    sources.dedup();
    if sources.is_empty() {
        return Ok(Recorded::Taken(BTreeMap::new()));
    }
    let rows = sqlx::query!(
        "/* count_ids */
        insert into event_seen_count as counted (source, number)
        select source, 1 from unnest($1::integer[]) as taking (source) order by source
        on conflict (source) do update set number = counted.number + 1
        returning source, number",
        &sources
    )
    .fetch_all(&mut *tx)
    .await?;
    let numbers: BTreeMap<SourceId, i64> = rows
        .into_iter()
        .map(|row| (SourceId(row.source), row.number))
        .collect();
    if is_overtaken(tx, new, &numbers).await? {
        return Ok(Recorded::Overtaken);
    }
    copy(tx, new, &numbers).await?;
    Ok(Recorded::Taken(numbers))
}

/// Says whether another transaction took one of the ids since they were looked up.
async fn is_overtaken(
    tx: &mut PgConnection,
    new: &NewIds,
    numbers: &BTreeMap<SourceId, i64>,
) -> Result<bool, StoreError> {
    let wanted = new.groups.iter().filter_map(|group| {
        let after = new.known.get(&group.source).copied().unwrap_or(0);
        let is_alone = numbers.get(&group.source).copied() == after.checked_add(1);
        (!is_alone).then_some(Wanted {
            stretch: group.stretch,
            source: group.source,
            after,
        })
    });
    let wanted: Vec<Wanted> = wanted.collect();
    if wanted.is_empty() {
        return Ok(false);
    }
    let mut is_overtaken = false;
    read(tx, &wanted, |wanted, _, ids| {
        let key = (wanted.stretch, wanted.source);
        let group = new
            .groups
            .binary_search_by_key(&key, |group| (group.stretch, group.source));
        if let Some(group) = group.ok().and_then(|index| new.groups.get(index)) {
            group.run.common(&ids, |_, _| is_overtaken = true);
        }
    })
    .await?;
    Ok(is_overtaken)
}

/// The takings of one stretch of one source after one of them.
struct Wanted {
    stretch: Stretch,
    source: SourceId,
    after: i64,
}

/// Reads ids, row by row in no order; returns each source's last taking as of the same instant.
async fn read(
    tx: &mut PgConnection,
    wanted: &[Wanted],
    mut row: impl FnMut(&Wanted, PartRef, Vec<Identity>),
) -> Result<BTreeMap<SourceId, i64>, StoreError> {
    let column = |of: fn(&Wanted) -> i64| -> Vec<i64> { wanted.iter().map(of).collect() };
    let sources: Vec<i32> = wanted.iter().map(|wanted| wanted.source.0).collect();
    let stretches: Vec<_> = wanted
        .iter()
        .map(|wanted| wanted.stretch.start().to_utc())
        .collect();
    let mut known = BTreeMap::new();
    // `offset 0` keeps the look-ups apart: each reads by the index what it needs, whatever the tables held
    // when the statement was planned.
    let mut rows = sqlx::query!(
        r#"/* read_ids */
        select wanted.index as "index!", coalesce(counted.number, 0) as "number!",
            taken.chain as "chain?", taken.part as "part?", taken.ids as "ids?"
        from unnest($1::timestamptz[], $2::integer[], $3::bigint[])
            with ordinality as wanted (stretch, source, after, index)
        left join event_seen_count counted on counted.source = wanted.source
        left join lateral (
            select chain, part, ids from event_seen
            where stretch = wanted.stretch and source = wanted.source and number > wanted.after
            offset 0
        ) taken on true"#,
        &stretches,
        &sources,
        &column(|wanted| wanted.after)
    )
    .fetch(tx);
    while let Some(found) = rows.try_next().await? {
        let index = usize::try_from(found.index - 1).unwrap_or(usize::MAX);
        let Some(wanted) = wanted.get(index) else {
            continue;
        };
        known.insert(wanted.source, found.number);
        if let (Some(chain), Some(part), Some(ids)) = (found.chain, found.part, found.ids) {
            let part = PartRef {
                chain: ChainId(chain),
                number: PartNumber(part),
            };
            row(wanted, part, unpacked(&ids));
        }
    }
    Ok(known)
}

/// Reads the ids of a row, which are ascending.
pub(crate) fn unpacked(ids: &[u8]) -> Vec<Identity> {
    let (ids, _) = ids.as_chunks::<ID_BYTES>();
    let id = |bytes: &[u8; ID_BYTES]| Identity::from_bits(u128::from_be_bytes(*bytes));
    ids.iter().map(id).collect()
}

async fn copy(
    tx: &mut PgConnection,
    new: &NewIds,
    numbers: &BTreeMap<SourceId, i64>,
) -> Result<(), StoreError> {
    let statement =
        "copy event_seen (stretch, number, source, chain, part, ids) from stdin (format binary)";
    let mut rows: Vec<(&Group, u32, Vec<u8>)> = Vec::new();
    let mut groups = new.groups.iter();
    copy_each(tx, statement, &mut |out| {
        if rows.is_empty() {
            let Some(group) = groups.next() else {
                return false;
            };
            rows.extend(
                rows_of(&group.run)
                    .into_iter()
                    .map(|(part, ids)| (group, part, ids)),
            );
        }
        let Some((group, part, ids)) = rows.pop() else {
            return false;
        };
        let part = new.parts.get(usize::try_from(part).unwrap_or(usize::MAX));
        let part = part.expect("runs name the batch's parts");
        let number = numbers.get(&group.source).copied().unwrap_or(0);
        out.row(6)
            .timestamp(group.stretch.start())
            .int8(number)
            .int4(group.source.0)
            .int4(part.chain.0)
            .int8(part.number.0)
            .bytea(&ids);
        true
    })
    .await
    .map_err(|error| error.into_store_error("event_seen"))
}

/// Packs a run into rows of one part each.
fn rows_of(run: &Run) -> Vec<(u32, Vec<u8>)> {
    // The last of each part is not full yet.
    let mut rows: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut open: HashMap<u32, usize> = HashMap::new();
    let mut last: Option<(u32, usize)> = None;
    for (id, part) in run.entries() {
        let known = match last {
            Some((last_part, row)) if last_part == part => Some(row),
            Some(_) | None => open.get(&part).copied(),
        };
        let is_open = |row: &usize| {
            let bytes = rows.get(*row).map_or(usize::MAX, |(_, ids)| ids.len());
            bytes < ROW_IDS_MAX * ID_BYTES
        };
        let row = known.filter(is_open).unwrap_or_else(|| {
            rows.push((part, Vec::new()));
            open.insert(part, rows.len() - 1);
            rows.len() - 1
        });
        last = Some((part, row));
        if let Some((_, ids)) = rows.get_mut(row) {
            ids.extend_from_slice(&id.to_bits().to_be_bytes());
        }
    }
    rows
}
