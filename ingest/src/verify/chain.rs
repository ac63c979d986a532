//! One chain, part by part.
//!
//! Invariant: what is in memory is bounded by a page of rows. Only the parts up to the head that the
//! chain had at the beginning are looked at, so that an ingest at work makes no difference appear.

use std::collections::HashMap;
use std::sync::Arc;

use domain::ids::PartNumber;
use store::audit::{self, Chain, Pages, StoredPart, StoredRows};

use super::heads::{ChainHeads, Head};
use super::links::Links;
use super::refold::{Refolded, Refolder};
use super::report::Findings;
use super::twins::Twins;
use super::{Places, Shared, VerifyError, compare, log};

/// A page: at most 4,000 rejected payloads of 64 KiB, 256 MiB in the worst case.
const PAGES: Pages = Pages {
    parts_max: 500,
    rows_max: 4_000,
};

/// Checks a chain and returns its title with what was found.
///
/// # Errors
///
/// A [`VerifyError`] where Kafka or Postgres cannot be read.
pub(super) async fn check(
    places: &Places,
    chains: &[Chain],
    chain: &Chain,
    heads: &[Head],
    shared: &mut Shared,
) -> Result<(String, Findings), VerifyError> {
    let (kafka, owned) = (Arc::clone(&places.kafka), chain.clone());
    let is_latest = is_latest(chains, chain);
    let held = tokio::task::spawn_blocking(move || log::held(&kafka, &owned, is_latest)).await??;
    let mut check = ChainCheck {
        places,
        chain,
        findings: Findings::default(),
        links: Links::new(),
        heads: ChainHeads::of(chain.id, heads),
        twins: Twins::default(),
        refolder: Refolder::new(places, chain, held),
        shared,
    };
    check.run().await?;
    Ok((title(chain), check.findings))
}

pub(super) fn title(chain: &Chain) -> String {
    let (id, topic, partition) = (chain.id.0, &chain.topic, chain.partition);
    match &chain.source {
        Some(source) if source == topic && chain.incarnation == 1 => {
            format!("chain {id}, {topic}/{partition}")
        }
        Some(source) => format!(
            "chain {id}, {topic}/{partition} of source {source:?}, incarnation {}",
            chain.incarnation
        ),
        None => format!("chain {id}, adjustments"),
    }
}

/// Says whether a chain is of the log that its topic has now.
pub(crate) fn is_latest(chains: &[Chain], chain: &Chain) -> bool {
    let has_ended = chain
        .position
        .as_ref()
        .is_some_and(|position| position.state == "ended");
    let is_succeeded = chains.iter().any(|other| {
        (&other.source, &other.topic, other.partition)
            == (&chain.source, &chain.topic, chain.partition)
            && other.incarnation > chain.incarnation
    });
    !has_ended && !is_succeeded
}

/// A part behind the head is a writer's at work, or nobody's.
///
/// # Errors
///
/// A [`VerifyError`] where Postgres cannot be read.
pub(super) async fn check_behind_head(
    places: &Places,
    chain: &Chain,
    head: PartNumber,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let one = Pages {
        parts_max: 1,
        rows_max: 1,
    };
    let behind = audit::parts(&places.db, chain.id, head, one).await?;
    let Some(part) = behind.first() else {
        return Ok(());
    };
    let now = audit::chains(&places.db).await?;
    let position = now
        .into_iter()
        .find(|other| other.id == chain.id)
        .and_then(|chain| chain.position);
    if position.is_some_and(|position| position.last_part < part.number) {
        let number = part.number.0;
        findings.differs(format!(
            "part {number} lies behind the head, part {}",
            head.0
        ));
    }
    Ok(())
}

struct ChainCheck<'c> {
    places: &'c Places,
    chain: &'c Chain,
    findings: Findings,
    links: Links,
    heads: ChainHeads<'c>,
    twins: Twins,
    refolder: Refolder,
    shared: &'c mut Shared,
}

impl ChainCheck<'_> {
    async fn run(&mut self) -> Result<(), VerifyError> {
        let head = self
            .chain
            .position
            .as_ref()
            .map_or(PartNumber(i64::MAX), |at| at.last_part);
        let mut after = PartNumber::NONE;
        loop {
            let mut page = audit::parts(&self.places.db, self.chain.id, after, PAGES).await?;
            page.retain(|part| part.number <= head);
            let (Some(first), Some(last)) = (page.first(), page.last()) else {
                break;
            };
            let (first, last) = (first.number, last.number);
            let rows = audit::rows(&self.places.db, self.chain.id, first, last).await?;
            self.check_page(&page, rows).await?;
            self.check_amounts(after, last).await?;
            after = last;
        }
        self.finish(head).await
    }

    async fn check_page(
        &mut self,
        page: &[StoredPart],
        mut rows: HashMap<PartNumber, StoredRows>,
    ) -> Result<(), VerifyError> {
        for part in page {
            let rows = rows.remove(&part.number).unwrap_or_default();
            self.check_part(part, &rows).await?;
        }
        Ok(())
    }

    async fn check_part(
        &mut self,
        part: &StoredPart,
        rows: &StoredRows,
    ) -> Result<(), VerifyError> {
        self.findings.parts += 1;
        self.heads.check(part, &mut self.findings);
        let Some(header) = self.links.check(part, rows, &mut self.findings) else {
            return Ok(());
        };
        self.shared.versions.prices.insert(header.prices);
        self.shared.versions.sources.insert(header.sources);
        let duplicates: Vec<_> = rows
            .duplicates
            .iter()
            .map(|row| (part.number, *row))
            .collect();
        let (places, chain) = (self.places, self.chain.id);
        self.twins
            .check(
                places,
                chain,
                &duplicates,
                &mut self.shared.unresolved,
                &mut self.findings,
            )
            .await?;
        match self.refolder.refold(header, &rows.duplicates).await? {
            Refolded::Part { batch, .. } => {
                let records = compare::part(header, rows, &batch, &mut self.findings);
                self.findings.refolded += 1;
                self.findings.records += records;
            }
            Refolded::Unprovable(why) => self.findings.unproven(part.number, &why),
            Refolded::NoRules(why) => {
                self.findings
                    .differs(format!("part {}: {why}", part.number.0));
            }
        }
        Ok(())
    }

    async fn check_amounts(
        &mut self,
        after: PartNumber,
        up_to: PartNumber,
    ) -> Result<(), VerifyError> {
        let chain = self.chain.id;
        if let Some(found) = audit::amount_difference(&self.places.db, chain, after, up_to).await? {
            self.findings.differs(format!(
                "part {}, posting of app {:?}, model {:?}: its amount is {}, but its quantities \
                 cost {}",
                found.part.number.0, found.app, found.model, found.posted, found.computed
            ));
        }
        Ok(())
    }

    async fn finish(&mut self, head: PartNumber) -> Result<(), VerifyError> {
        self.links.finish(self.chain, &mut self.findings);
        let heads = std::mem::replace(&mut self.heads, ChainHeads::of(self.chain.id, &[]));
        heads.finish(&mut self.findings);
        self.twins.finish(&mut self.findings);
        check_behind_head(self.places, self.chain, head, &mut self.findings).await?;
        self.check_passed_over().await?;
        if self.chain.has_open_gap {
            self.findings
                .noted("a gap in the log waits for an operator (`tollbook gaps list`)");
        }
        if self.findings.refolded > 0 {
            let (parts, records) = (self.findings.refolded, self.findings.records);
            self.findings.proved(format!(
                "{parts} parts were folded again from {records} records of the log"
            ));
        }
        Ok(())
    }

    /// The position may move over transaction markers without a part, never over a record.
    async fn check_passed_over(&mut self) -> Result<(), VerifyError> {
        let ends = self
            .chain
            .position
            .as_ref()
            .map(|at| (at.part_end, at.position));
        let Some((Some(part_end), Some(position))) = ends else {
            return Ok(());
        };
        if position <= part_end {
            return Ok(());
        }
        let passed = self.refolder.passed_over(part_end, position).await?;
        for offset in passed.unwrap_or_default() {
            self.findings.differs(format!(
                "the record at offset {} belongs to no part, and the position {} lies behind it",
                offset.0, position.0
            ));
        }
        Ok(())
    }
}
