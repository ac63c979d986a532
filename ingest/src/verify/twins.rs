//! Twins: what was counted as a duplicate must have been counted before, by the part it names.
//!
//! Invariant: an id that is still held must be held for that part; of one whose day was dropped the
//! part is folded again, and must count it. Deliberately absent: why ids are dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use domain::event::{AgeRule, Identity};
use domain::ids::{ChainId, PartNumber, PartRef};
use domain::part::Duplicate;
use store::audit::{self, Chain, Pages};

use super::refold::{Refolded, Refolder};
use super::report::Findings;
use super::{Places, VerifyError, chain, log};

/// The most duplicates with ids that are gone whose parts are folded again; 16 bytes each, and more
/// for the trees.
const UNRESOLVED_MAX: u64 = 1_000_000;

/// Duplicates of a chain whose twins were found.
#[derive(Debug, Default)]
pub(super) struct Twins {
    found: u64,
}

/// Duplicates whose ids are gone, by the part that they name as their first.
#[derive(Debug, Default)]
pub(super) struct Unresolved {
    by_part: BTreeMap<PartRef, BTreeSet<Identity>>,
    kept: u64,
    left_out: u64,
}

impl Unresolved {
    fn add(&mut self, duplicate: &Duplicate) {
        if self.kept >= UNRESOLVED_MAX {
            self.left_out += 1;
            return;
        }
        let identities = self.by_part.entry(duplicate.first).or_default();
        self.kept += u64::from(identities.insert(duplicate.identity));
    }
}

impl Twins {
    /// Checks the duplicates of a page of parts.
    ///
    /// # Errors
    ///
    /// A [`VerifyError`] where Postgres cannot be read.
    pub(super) async fn check(
        &mut self,
        places: &Places,
        chain: ChainId,
        duplicates: &[(PartNumber, Duplicate)],
        unresolved: &mut Unresolved,
        findings: &mut Findings,
    ) -> Result<(), VerifyError> {
        for chunk in duplicates.chunks(1_000) {
            let identities: Vec<Identity> = chunk
                .iter()
                .map(|(_, duplicate)| duplicate.identity)
                .collect();
            let seen: HashMap<Identity, PartRef> = audit::seen(&places.db, &identities)
                .await?
                .into_iter()
                .collect();
            let mut missing = Vec::new();
            for (part, duplicate) in chunk {
                match seen.get(&duplicate.identity) {
                    Some(first) if *first == duplicate.first => self.found += 1,
                    Some(first) => findings.differs(format!(
                        "part {}, {}: it names {} as its first, but {} took its id",
                        part.0,
                        told(duplicate),
                        told_part(duplicate.first),
                        told_part(*first)
                    )),
                    None => missing.push((*part, *duplicate)),
                }
            }
            check_missing(places, chain, &missing, unresolved, findings).await?;
        }
        Ok(())
    }

    /// Says what was proved.
    pub(super) fn finish(&self, findings: &mut Findings) {
        if self.found > 0 {
            let found = self.found;
            findings.proved(format!(
                "{found} duplicates were counted by the part they name"
            ));
        }
    }
}

/// Ids may be missing only below the source's floor, which may have risen meanwhile.
async fn check_missing(
    places: &Places,
    chain: ChainId,
    missing: &[(PartNumber, Duplicate)],
    unresolved: &mut Unresolved,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    if missing.is_empty() {
        return Ok(());
    }
    let chains = audit::chains(&places.db).await?;
    // Adjustments are of any source.
    let of_chain = |known: &&Chain| known.id == chain;
    let is_adjustment = chains
        .iter()
        .find(of_chain)
        .is_none_or(|own| own.source.is_none());
    let floor = chains
        .iter()
        .filter(|known| is_adjustment || known.id == chain)
        .filter_map(|known| known.floor)
        .max();
    let first: Vec<PartRef> = missing
        .iter()
        .map(|(_, duplicate)| duplicate.first)
        .collect();
    let committed = audit::committed_at(&places.db, &first).await?;
    for (part, duplicate) in missing {
        // Ids of log lines age by their own time, those that producers own by their arrival.
        let aged = if duplicate.identity.is_of_producer() {
            let floor = AgeRule::of_producers(floor).floor;
            floor.zip(committed.get(&duplicate.first).copied())
        } else {
            floor.zip(Some(duplicate.identity.start()))
        };
        if aged.is_some_and(|(floor, at)| at < floor) {
            unresolved.add(duplicate);
        } else {
            let what = told(duplicate);
            findings.differs(format!("part {}, {what}: no part took its id", part.0));
        }
    }
    Ok(())
}

/// Folds the parts again that duplicates name whose ids are gone, as far as the log has them.
///
/// # Errors
///
/// A [`VerifyError`] where Kafka or Postgres cannot be read.
pub(super) async fn refold(
    places: &Places,
    chains: &[Chain],
    unresolved: Unresolved,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let (mut found, mut gone) = (0_u64, unresolved.left_out);
    let mut refolder: Option<(ChainId, Refolder)> = None;
    for (part, identities) in unresolved.by_part {
        let count = u64::try_from(identities.len()).unwrap_or(u64::MAX);
        if refolder
            .as_ref()
            .is_none_or(|(chain, _)| *chain != part.chain)
        {
            refolder = open(places, chains, part.chain).await?;
        }
        let Some((_, refolder)) = &mut refolder else {
            let missing = told_part(part);
            findings.differs(format!(
                "{count} duplicates name {missing}, which is missing"
            ));
            continue;
        };
        match counted_by(places, refolder, part).await? {
            Some(Refolded::Part { counted, .. }) => {
                let is_counted = |identity: &&Identity| counted.binary_search(identity).is_ok();
                let known = identities.iter().filter(is_counted).count();
                let known = u64::try_from(known).unwrap_or(u64::MAX);
                found += known;
                if known < count {
                    let (lost, first) = (count - known, told_part(part));
                    findings.differs(format!(
                        "{lost} duplicates name {first}, which did not count them"
                    ));
                }
            }
            Some(Refolded::Unprovable(_) | Refolded::NoRules(_)) => gone += count,
            None => {
                let missing = told_part(part);
                findings.differs(format!(
                    "{count} duplicates name {missing}, which is missing"
                ));
            }
        }
    }
    if found > 0 {
        findings.proved(format!(
            "{found} repeated events whose ids are aged out were counted by the part that their \
             duplicates name, as the log has it"
        ));
    }
    if gone > 0 {
        findings.noted(format!(
            "not provable that {gone} repeated events were counted by the part that their \
             duplicates name: their ids are aged out, and the log cannot say"
        ));
    }
    Ok(())
}

async fn open(
    places: &Places,
    chains: &[Chain],
    wanted: ChainId,
) -> Result<Option<(ChainId, Refolder)>, VerifyError> {
    let Some(chain) = chains.iter().find(|chain| chain.id == wanted) else {
        return Ok(None);
    };
    let (kafka, owned) = (Arc::clone(&places.kafka), chain.clone());
    let is_latest = chain::is_latest(chains, chain);
    let held = tokio::task::spawn_blocking(move || log::held(&kafka, &owned, is_latest)).await??;
    Ok(Some((wanted, Refolder::new(places, chain, held))))
}

async fn counted_by(
    places: &Places,
    refolder: &mut Refolder,
    part: PartRef,
) -> Result<Option<Refolded>, VerifyError> {
    let one = Pages {
        parts_max: 1,
        rows_max: 1,
    };
    let before = PartNumber(part.number.0.saturating_sub(1));
    let found = audit::parts(&places.db, part.chain, before, one).await?;
    let header = found
        .into_iter()
        .find(|stored| stored.number == part.number)
        .and_then(|stored| stored.header.ok());
    let Some(header) = header else {
        return Ok(None);
    };
    let mut rows = audit::rows(&places.db, part.chain, part.number, part.number).await?;
    let duplicates = rows.remove(&part.number).unwrap_or_default().duplicates;
    refolder.refold(&header, &duplicates).await.map(Some)
}

fn told(duplicate: &Duplicate) -> String {
    let place = duplicate.place;
    format!(
        "duplicate at offset {}, index {}",
        place.offset.0, place.index
    )
}

fn told_part(part: PartRef) -> String {
    format!("part {} of chain {}", part.number.0, part.chain.0)
}
