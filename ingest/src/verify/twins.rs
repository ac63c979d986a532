//! Twins: what was counted as a duplicate must have been counted before, by the part it names.
//!
//! Invariant: an id that is still held must be held for that part; one whose day was dropped proves
//! nothing either way. Deliberately absent: why ids are dropped.

use std::collections::HashMap;

use domain::event::Identity;
use domain::ids::{ChainId, PartNumber, PartRef};
use domain::part::Duplicate;
use store::audit;

use super::report::Findings;
use super::{Places, VerifyError};

/// Duplicates of a chain whose twins were found, and whose ids are gone.
#[derive(Debug, Default)]
pub(super) struct Twins {
    found: u64,
    gone: u64,
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
            self.check_missing(places, chain, &missing, findings)
                .await?;
        }
        Ok(())
    }

    /// Ids may be missing only below the source's floor, which may have risen meanwhile.
    async fn check_missing(
        &mut self,
        places: &Places,
        chain: ChainId,
        missing: &[(PartNumber, Duplicate)],
        findings: &mut Findings,
    ) -> Result<(), VerifyError> {
        if missing.is_empty() {
            return Ok(());
        }
        let chains = audit::chains(&places.db).await?;
        let floor = chains
            .iter()
            .find(|known| known.id == chain)
            .and_then(|known| known.floor);
        for (part, duplicate) in missing {
            if floor.is_some_and(|floor| duplicate.identity.start() < floor) {
                self.gone += 1;
            } else {
                findings.differs(format!(
                    "part {}, {}: no part took its id",
                    part.0,
                    told(duplicate)
                ));
            }
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
        if self.gone > 0 {
            let gone = self.gone;
            findings.proved(format!(
                "of {gone} duplicates the first is aged out, by their id"
            ));
        }
    }
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
