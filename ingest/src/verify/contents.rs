//! What the chains share: series and rate sets under the hash of their content, versions, rows that
//! lead to nothing, ids that are held, and the roll-ups.
//!
//! Invariant: a row that money leads to is what its key says. Deliberately absent: single chains.

use domain::hash::Hash128;
use domain::ids::Version;
use store::audit::{self, HeldOnce, RollupGrain, StoredText};
use store::{Database, StoreError};

use super::Versions;
use super::report::Findings;

/// Rows of one page.
const PAGE_ROWS: u32 = 5_000;

/// The most differences of roll-ups that are read.
const ROLLUP_DIFFERENCES_MAX: u32 = 100;

/// Checks all of it.
///
/// # Errors
///
/// A [`StoreError`] where Postgres cannot be read.
pub(super) async fn check(
    db: &Database,
    versions: &Versions,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    check_series(db, findings).await?;
    check_rate_sets(db, findings).await?;
    check_versions(db, versions, findings).await?;
    check_orphans(db, findings).await?;
    check_ids(db, findings).await?;
    check_rollups(db, findings).await
}

async fn check_series(db: &Database, findings: &mut Findings) -> Result<(), StoreError> {
    let (mut after, mut sound) = (None, 0_u64);
    loop {
        let page = audit::series_after(db, after, PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key);
        for stored in &page {
            let found = stored.series.id();
            if found == stored.key {
                sound += 1;
                continue;
            }
            let series = &stored.series;
            findings.differs(format!(
                "series {} (app {:?}, model {:?}) has another content than its key says: that \
                 content has the key {}",
                stored.key.0, series.app, series.model, found.0
            ));
        }
    }
    findings.proved(format!("{sound} series are what their keys say"));
    Ok(())
}

async fn check_rate_sets(db: &Database, findings: &mut Findings) -> Result<(), StoreError> {
    let (mut after, mut sound) = (None, 0_u64);
    loop {
        let page = audit::rate_sets_after(db, after, PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key);
        for stored in &page {
            let key = stored.key.0;
            match &stored.rate_set {
                Ok(rate_set) if rate_set.id() == stored.key => sound += 1,
                Ok(rate_set) => findings.differs(format!(
                    "rate set {key} (provider {:?}, model {:?}) has another content than its key \
                     says: that content has the key {}",
                    rate_set.provider,
                    rate_set.priced_model,
                    rate_set.id().0
                )),
                Err(unreadable) => findings.differs(format!("rate set {key}: {unreadable}")),
            }
        }
    }
    findings.proved(format!("{sound} rate sets are what their keys say"));
    Ok(())
}

async fn check_versions(
    db: &Database,
    versions: &Versions,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let mut sound = 0_u64;
    for version in &versions.prices {
        let stored = audit::price_book(db, *version).await?;
        sound += u64::from(check_text("price book", *version, stored, findings));
    }
    for version in &versions.sources {
        let stored = audit::source_config(db, *version).await?;
        sound += u64::from(check_text(
            "source configuration",
            *version,
            stored,
            findings,
        ));
    }
    findings.proved(format!(
        "{sound} price books and source configurations are what their hashes say"
    ));
    Ok(())
}

fn check_text(
    what: &str,
    version: Version,
    stored: Option<StoredText>,
    findings: &mut Findings,
) -> bool {
    let Some(stored) = stored else {
        findings.differs(format!(
            "{what} {} is missing, and parts name it",
            version.0
        ));
        return false;
    };
    let found = Hash128::of(stored.content.as_bytes());
    let is_sound = found == stored.content_hash;
    if !is_sound {
        findings.differs(format!(
            "{what} {} has the hash {}, but its content hashes to {found}",
            version.0, stored.content_hash
        ));
    }
    is_sound
}

async fn check_orphans(db: &Database, findings: &mut Findings) -> Result<(), StoreError> {
    let orphans = audit::orphans(db).await?;
    let adjustments = audit::adjustment_orphans(db).await?;
    for (count, what) in [
        (
            orphans.postings_without_part,
            "postings belong to a part that is missing",
        ),
        (
            orphans.postings_without_series,
            "postings name a series that is missing",
        ),
        (
            orphans.postings_without_rate_set,
            "postings name a rate set that is missing",
        ),
        (
            orphans.rejected_without_part,
            "rejected events belong to a part that is missing",
        ),
        (
            orphans.duplicates_without_part,
            "duplicates belong to a part that is missing",
        ),
        (
            orphans.ids_without_part,
            "ids were taken by a part that is missing",
        ),
        (
            adjustments.adjustments_without_part,
            "adjustments belong to a part that is missing",
        ),
        (
            adjustments.rows_without_adjustment,
            "resolutions and bounds belong to an adjustment that is missing",
        ),
        (
            adjustments.resolutions_without_event,
            "resolutions are of a rejected event that is missing",
        ),
    ] {
        if count > 0 {
            findings.differs(format!("{count} {what}"));
        }
    }
    Ok(())
}

/// Ids that producers own are kept apart by an index, those of log lines by the order of commits alone.
async fn check_ids(db: &Database, findings: &mut Findings) -> Result<(), StoreError> {
    let HeldOnce {
        ids,
        repeated,
        misplaced,
    } = audit::held_once(db).await?;
    if repeated > 0 {
        findings.differs(format!("{repeated} ids of log lines were taken twice"));
    }
    if misplaced > 0 {
        findings.differs(format!(
            "{misplaced} ids of log lines do not lie where repeats look for them"
        ));
    }
    if repeated == 0 && misplaced == 0 && ids > 0 {
        findings.proved(format!("{ids} ids of log lines were each taken once"));
    }
    Ok(())
}

async fn check_rollups(db: &Database, findings: &mut Findings) -> Result<(), StoreError> {
    let differences = audit::rollup_differences(db, ROLLUP_DIFFERENCES_MAX).await?;
    if differences.is_empty() {
        findings.proved("the roll-ups by quarter-hour and by day are the sums of the postings");
    }
    for difference in differences {
        let grain = match difference.grain {
            RollupGrain::Quarter => "quarter-hour",
            RollupGrain::Day => "day",
        };
        findings.differs(format!(
            "roll-up by {grain}, {} of app {:?}, model {:?} at {}: it holds {}, the postings sum \
             to {}",
            difference.name,
            difference.app,
            difference.model,
            difference.start,
            difference.rolled_up,
            difference.posted
        ));
    }
    Ok(())
}
