//! The rows of a correction, made under the locks of its transaction; and what a retry would become.
//!
//! Invariant: what is counted here is what the part's hash covers. Deliberately absent: the chain's
//! position, and writing.

use domain::adjustment::{Resolution, SignedPosting};
use domain::fold::{BatchFold, ClosedBatch};
use domain::ids::{ChainId, Offset, PartRef, Place};
use domain::part::{Counts, Duplicate};
use domain::time::UnixMs;
use sqlx::PgConnection;

use super::{AdjustError, Correction, Reprice, Retried, Retry, Standing};
use crate::batch::ids::{self, Care, CountLock, HeldIds, NewIds};
use crate::connect::Database;
use crate::error::StoreError;
use crate::source::SourceId;

/// The rows of a correction.
pub(super) struct Content {
    pub(super) counts: Counts,
    pub(super) floor: Option<UnixMs>,
    pub(super) resolutions: Vec<Resolution>,
    pub(super) bounds: Vec<PartRef>,
    pub(super) postings: Vec<SignedPosting>,
    /// Duplicates, series and rate sets; of re-pricings only the rate sets.
    pub(super) closed: ClosedBatch,
    /// The ids that a retry takes.
    pub(super) ids: NewIds,
}

/// Works out the rows, under the locks that the transaction holds.
pub(super) async fn content_of(
    tx: &mut PgConnection,
    standing: &Standing,
    correction: Correction<'_>,
) -> Result<Content, AdjustError> {
    match correction {
        Correction::Retry(retry) => retried(tx, retry).await,
        Correction::Drop(dropped) => Ok(dropped_content(standing, &dropped)),
        Correction::Reprice(reprice) => Ok(repriced(standing, reprice)),
    }
}

fn empty_batch(part: PartRef) -> ClosedBatch {
    let mut fold = BatchFold::default();
    fold.open_part(part);
    fold.close()
}

fn dropped_content(standing: &Standing, dropped: &[(ChainId, Place)]) -> Content {
    let offsets = standing.position.0..;
    let resolutions = offsets.zip(dropped).map(|(at, (chain, place))| Resolution {
        at: Offset(at),
        chain: *chain,
        place: *place,
        accepted: 0,
        duplicates: 0,
        ignored: 0,
    });
    Content {
        counts: Counts {
            records: count(dropped.len()),
            ..Counts::default()
        },
        floor: None,
        resolutions: resolutions.collect(),
        bounds: Vec::new(),
        postings: Vec::new(),
        closed: empty_batch(standing.next_part()),
        ids: NewIds::default(),
    }
}

fn repriced(standing: &Standing, reprice: Reprice) -> Content {
    let mut closed = empty_batch(standing.next_part());
    closed.rate_sets.extend(reprice.rate_sets);
    let mut postings = reprice.postings;
    postings.sort_unstable();
    Content {
        counts: Counts {
            records: reprice.corrected,
            ..Counts::default()
        },
        floor: None,
        resolutions: Vec::new(),
        bounds: reprice.bounds,
        postings,
        closed,
        ids: NewIds::default(),
    }
}

/// Returns the floor of a source.
pub(super) async fn floor_of(
    connection: &mut PgConnection,
    source: SourceId,
) -> Result<Option<UnixMs>, StoreError> {
    let floor = sqlx::query_scalar!(
        "/* floor_of */ select floor_at from source where id = $1",
        source.0
    )
    .fetch_one(connection)
    .await?;
    Ok(floor.and_then(UnixMs::from_utc))
}

/// Folds and takes ids under the source's lock: its floor cannot rise meanwhile, so no id that is
/// asked for can be gone.
async fn retried(tx: &mut PgConnection, retry: Retry<'_>) -> Result<Content, AdjustError> {
    sqlx::query!(
        "/* hold_floor */ select from source where id = $1 for share",
        retry.source.0
    )
    .fetch_one(&mut *tx)
    .await?;
    let floor = floor_of(tx, retry.source).await?;
    let mut retried = (retry.fold)(floor);
    if retried.resolutions.is_empty() {
        return Err(AdjustError::Moved);
    }
    let mut held = HeldIds::default();
    let of_parts = vec![retry.source; retried.fold.parts().len()];
    let how = (Care::SomeRepeat, CountLock::AtTheEnd);
    let taken = ids::take(tx, &retried.fold, &of_parts, &mut held, how).await?;
    if !taken.seen.is_empty() {
        retried.fold.withdraw_seen(&taken.seen);
    }
    let resolutions = resolutions_of(&mut retried);
    let closed = retried.fold.close();
    let Some(part) = closed.parts.first() else {
        let what = "a retry folded no part".to_owned();
        return Err(StoreError::Corrupt(what).into());
    };
    let sum = |of: fn(&Resolution) -> u64| resolutions.iter().map(of).sum();
    let counts = Counts {
        records: count(resolutions.len()),
        accepted: part.counts.accepted,
        duplicates: part.counts.duplicates,
        rejected: 0,
        ignored: sum(|resolution| resolution.ignored),
    };
    let too_large = || StoreError::Corrupt("a retried sum does not fit into a posting".to_owned());
    let postings = part.postings.iter().map(SignedPosting::of);
    let mut postings: Vec<SignedPosting> = postings.collect::<Option<_>>().ok_or_else(too_large)?;
    postings.sort_unstable();
    Ok(Content {
        counts,
        floor,
        resolutions,
        bounds: Vec::new(),
        postings,
        closed,
        ids: taken.new,
    })
}

/// Moves what turned out to be duplicates from the accepted ones.
fn count_duplicates(duplicates: &[Duplicate], resolutions: &mut [Resolution]) {
    for duplicate in duplicates {
        let found = resolutions.binary_search_by_key(&duplicate.place.offset, |found| found.at);
        if let Some(resolution) = found.ok().and_then(|at| resolutions.get_mut(at)) {
            resolution.accepted = resolution.accepted.saturating_sub(1);
            resolution.duplicates = resolution.duplicates.saturating_add(1);
        }
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Says what a retry would become, and takes nothing: the resolutions with their duplicates counted.
///
/// # Errors
///
/// Each [`StoreError`] of a statement; retry as its kind says.
pub async fn preview(db: &Database, retried: Retried) -> Result<Vec<Resolution>, StoreError> {
    let mut retried = retried;
    let ids: Vec<_> = retried.fold.ids().iter().map(|id| id.identity).collect();
    let seen = crate::audit::seen(db, &ids).await?;
    retried.fold.withdraw_seen(&seen.into_iter().collect());
    Ok(resolutions_of(&mut retried))
}

/// Returns the resolutions with the duplicates counted that the fold knows by now.
pub fn resolutions_of(retried: &mut Retried) -> Vec<Resolution> {
    let mut resolutions = std::mem::take(&mut retried.resolutions);
    for part in retried.fold.parts() {
        count_duplicates(part.duplicates(), &mut resolutions);
    }
    resolutions
}
