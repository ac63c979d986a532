//! Ids of log lines: one row holds those that one part took of one stretch of time of one source.
//!
//! Invariant: each id is counted by one part. No index can tell, so the order of commits does: takings
//! of a source are numbered under a lock that is held until the commit ([`record`]), so that whoever sees
//! one sees all before it. A transaction looks at first ([`look_up`]), does its work, writes its ids under
//! that lock, and looks at what was taken in between; all of it commits together. Deliberately
//! absent: when ids are dropped.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use domain::event::Identity;
use domain::fold::{BatchFold, SeenId};
use domain::ids::{ChainId, PartNumber, PartRef};
use futures_util::TryStreamExt;
use sqlx::PgConnection;

use super::held::HeldIds;
use super::run::{Run, Stretch};
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

    /// Says whether nobody took ids of a source between what is known and this taking.
    fn is_alone(&self, source: SourceId, number: i64) -> bool {
        let known = self.known.get(&source).copied().unwrap_or(0);
        known.checked_add(1) == Some(number)
    }

    /// Returns the sources of the ids, ascending, each once.
    fn sources(&self) -> Vec<i32> {
        let mut sources: Vec<i32> = self.groups.iter().map(|group| group.source.0).collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    /// Hands the ids to what the process holds, once their transaction has committed.
    pub(crate) fn hold(mut self, held: &mut HeldIds, numbers: &BTreeMap<SourceId, i64>) {
        for group in std::mem::take(&mut self.groups) {
            let Group {
                stretch,
                source,
                run,
            } = group;
            // What others took in between is held by now, or nothing of the stretch.
            if let Some(number) = numbers.get(&source)
                && self.is_alone(source, *number)
            {
                held.add_own((stretch, source), run, &self.parts, *number);
            }
        }
    }
}

/// Adds the groups of one stretch, by source.
fn add_groups(groups: &mut Vec<Group>, stretch: Stretch, ids: &[SeenId], sources: &[SourceId]) {
    let mut runs: BTreeMap<SourceId, Run> = BTreeMap::new();
    for id in ids {
        let source = sources.get(id.part_index());
        let source = source.expect("each part has a source");
        let part = u32::try_from(id.part_index()).unwrap_or(u32::MAX);
        runs.entry(*source).or_default().push(id.identity, part);
    }
    groups.extend(runs.into_iter().map(|(source, run)| Group {
        stretch,
        source,
        run,
    }));
}

/// Locks the counts of the sources before anything is looked up, so that nobody takes ids until the transaction ends:
/// for one that others came before.
pub(super) async fn lock_counts(tx: &mut PgConnection, new: &NewIds) -> Result<(), StoreError> {
    let sources = new.sources();
    if sources.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "/* lock_counts */
        insert into event_seen_count as counted (source, number)
        select source, 0 from unnest($1::integer[]) as taking (source) order by source
        on conflict (source) do update set number = counted.number",
        &sources
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Finds the ids that were taken before, and leaves them out of what is to be taken.
pub(super) async fn look_up(
    tx: &mut PgConnection,
    held: &mut HeldIds,
    new: &mut NewIds,
    seen: &mut HashMap<Identity, PartRef>,
) -> Result<(), StoreError> {
    let mut wanted = Vec::with_capacity(new.groups.len());
    for (index, group) in new.groups.iter().enumerate() {
        let after = held.ask(group.stretch, group.source).unwrap_or(-1);
        held.taken(group.stretch, group.source, group.run.ids(), |id, part| {
            seen.insert(id, part);
        });
        wanted.push(Wanted {
            index,
            stretch: group.stretch,
            source: group.source,
            after,
            before: i64::MAX,
        });
    }
    let known = read(tx, &wanted, |wanted, part, ids| {
        if let Some(group) = new.groups.get(wanted.index) {
            group.run.common(&ids, |id, _| {
                seen.insert(id, part);
            });
        }
        held.add(wanted.stretch, wanted.source, Run::of_part(ids, 0), &[part]);
    })
    .await?;
    for group in &new.groups {
        let number = known.get(&group.source).copied().unwrap_or(0);
        held.note(group.stretch, group.source, number);
    }
    new.known = known;
    new.leave_out(seen);
    Ok(())
}

/// Writes the ids, under a lock that is held until the transaction ends. The last thing that a transaction
/// does, and in one statement, which Postgres has whole before it locks: so others wait while it is carried out,
/// for a second look where several take ids, and for the commit; and where the process is paused in
/// between, for as long as Postgres lets a transaction be idle.
pub(crate) async fn record(
    tx: &mut PgConnection,
    held: &mut HeldIds,
    new: &mut NewIds,
) -> Result<Recorded, StoreError> {
    let sources = new.sources();
    if sources.is_empty() {
        return Ok(Recorded::Taken(BTreeMap::new()));
    }
    let rows = Rows::of(new);
    let recorded = sqlx::query!(
        r#"/* record_ids */
        with counted as (
            insert into event_seen_count as counted (source, number)
            select source, 1 from unnest($1::integer[]) as taking (source) order by source
            on conflict (source) do update set number = counted.number + 1
            returning source, number
        ), taken as (
            insert into event_seen (stretch, number, source, chain, part, ids)
            select stretch, number, source, chain, part, ids
            from unnest($2::timestamptz[], $3::integer[], $4::integer[], $5::bigint[], $6::bytea[])
                as new (stretch, source, chain, part, ids)
            join counted using (source)
            returning 1
        )
        select source as "source!", number as "number!", (select count(*) from taken) as "rows!"
        from counted"#,
        &sources,
        &rows.stretches,
        &rows.sources,
        &rows.chains,
        &rows.parts,
        &rows.ids
    )
    .fetch_all(&mut *tx)
    .await?;
    let written = recorded.first().map_or(0, |row| row.rows);
    if recorded.len() != sources.len() || usize::try_from(written) != Ok(rows.ids.len()) {
        return Err(StoreError::Corrupt(format!(
            "{written} rows of ids were written of {}",
            rows.ids.len()
        )));
    }
    let numbers = recorded
        .iter()
        .map(|row| (SourceId(row.source), row.number));
    let numbers: BTreeMap<SourceId, i64> = numbers.collect();
    if is_overtaken(tx, held, new, &numbers).await? {
        return Ok(Recorded::Overtaken);
    }
    Ok(Recorded::Taken(numbers))
}

/// Says whether another transaction took one of the ids since they were looked up; what others took in between is
/// held from now on.
async fn is_overtaken(
    tx: &mut PgConnection,
    held: &mut HeldIds,
    new: &mut NewIds,
    numbers: &BTreeMap<SourceId, i64>,
) -> Result<bool, StoreError> {
    let mut wanted = Vec::new();
    for (index, group) in new.groups.iter().enumerate() {
        let number = numbers.get(&group.source).copied().unwrap_or(i64::MAX);
        if !new.is_alone(group.source, number) {
            wanted.push(Wanted {
                index,
                stretch: group.stretch,
                source: group.source,
                after: new.known.get(&group.source).copied().unwrap_or(0),
                before: number,
            });
        }
    }
    let mut is_overtaken = false;
    read(tx, &wanted, |wanted, part, ids| {
        if let Some(group) = new.groups.get(wanted.index) {
            group.run.common(&ids, |_, _| is_overtaken = true);
        }
        if held.holds(wanted.stretch, wanted.source) {
            held.add(wanted.stretch, wanted.source, Run::of_part(ids, 0), &[part]);
        }
    })
    .await?;
    for wanted in &wanted {
        let last = wanted.before.saturating_sub(1);
        if held.holds(wanted.stretch, wanted.source) {
            held.note(wanted.stretch, wanted.source, last);
        }
        new.known.insert(wanted.source, last);
    }
    Ok(is_overtaken)
}

/// The takings of one stretch of one source between two of them.
struct Wanted {
    /// Of the group that has ids of it.
    index: usize,
    stretch: Stretch,
    source: SourceId,
    after: i64,
    before: i64,
}

/// A row as it is read: which of the wanted, its source's last taking, and a row of ids, if there is one.
type ReadRow = (i64, i64, Option<i32>, Option<i64>, Option<Vec<u8>>);

/// `$1` to `$4`: stretches, sources, and the takings between which to read, both left out. `$5`, `$6`: the first and
/// the last stretch. `offset 0` keeps the look-ups apart, so that each goes by the index.
const READ_IDS: &str = "/* read_ids */
    select wanted.index, coalesce(counted.number, 0), taken.chain, taken.part, taken.ids
    from unnest($1::timestamptz[], $2::integer[], $3::bigint[], $4::bigint[])
        with ordinality as wanted (stretch, source, after, before, index)
    left join event_seen_count counted on counted.source = wanted.source
    left join lateral (
        select chain, part, ids from event_seen
        where stretch = wanted.stretch and source = wanted.source
            and number > wanted.after and number < wanted.before
            and stretch >= $5 and stretch <= $6
        offset 0
    ) taken on true";

/// Reads ids, row by row in no order; returns each source's last taking as of the same instant.
#[expect(
    clippy::disallowed_methods,
    reason = "statements of the checked kind are kept, and planned for all days"
)]
async fn read(
    tx: &mut PgConnection,
    wanted: &[Wanted],
    mut row: impl FnMut(&Wanted, PartRef, Vec<Identity>),
) -> Result<BTreeMap<SourceId, i64>, StoreError> {
    let mut known = BTreeMap::new();
    let stretches = wanted.iter().map(|wanted| wanted.stretch.start().to_utc());
    let stretches: Vec<DateTime<Utc>> = stretches.collect();
    let (Some(first), Some(last)) = (stretches.iter().min(), stretches.iter().max()) else {
        return Ok(known);
    };
    let sources: Vec<i32> = wanted.iter().map(|wanted| wanted.source.0).collect();
    let after: Vec<i64> = wanted.iter().map(|wanted| wanted.after).collect();
    let before: Vec<i64> = wanted.iter().map(|wanted| wanted.before).collect();
    // Planned anew each time, so that it locks and reads no partition but those of the days at hand: one that is
    // being made must not wait for all batches.
    let mut rows = sqlx::query_as::<_, ReadRow>(READ_IDS)
        .bind(&stretches)
        .bind(&sources)
        .bind(&after)
        .bind(&before)
        .bind(first)
        .bind(last)
        .persistent(false)
        .fetch(tx);
    while let Some((index, number, chain, part, ids)) = rows.try_next().await? {
        let index = usize::try_from(index - 1).unwrap_or(usize::MAX);
        let wanted = wanted
            .get(index)
            .expect("rows are numbered as they were wanted");
        known.insert(wanted.source, number);
        if let (Some(chain), Some(part), Some(ids)) = (chain, part, ids) {
            let part = PartRef {
                chain: ChainId(chain),
                number: PartNumber(part),
            };
            row(wanted, part, unpacked(&ids));
        }
    }
    Ok(known)
}

/// Rows of ids, as columns.
#[derive(Default)]
struct Rows {
    stretches: Vec<DateTime<Utc>>,
    sources: Vec<i32>,
    chains: Vec<i32>,
    parts: Vec<i64>,
    ids: Vec<Vec<u8>>,
}

impl Rows {
    fn of(new: &NewIds) -> Self {
        let mut rows = Self::default();
        for group in &new.groups {
            for (part, ids) in packed(&group.run) {
                let part = usize::try_from(part).unwrap_or(usize::MAX);
                let part = new.parts.get(part).expect("runs name the batch's parts");
                rows.stretches.push(group.stretch.start().to_utc());
                rows.sources.push(group.source.0);
                rows.chains.push(part.chain.0);
                rows.parts.push(part.number.0);
                rows.ids.push(ids);
            }
        }
        rows
    }
}

/// Reads the ids of a row, which are ascending.
pub(crate) fn unpacked(ids: &[u8]) -> Vec<Identity> {
    let (ids, _) = ids.as_chunks::<ID_BYTES>();
    let id = |bytes: &[u8; ID_BYTES]| Identity::from_bits(u128::from_be_bytes(*bytes));
    ids.iter().map(id).collect()
}

/// Packs a run into rows of one part each.
fn packed(run: &Run) -> Vec<(u32, Vec<u8>)> {
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
        let (_, ids) = rows
            .get_mut(row)
            .expect("a row that was just found or made");
        ids.extend_from_slice(&id.to_bits().to_be_bytes());
    }
    rows
}
