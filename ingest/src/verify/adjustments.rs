//! The adjustment chain: each correction made again from what it corrects, and compared.
//!
//! Invariant: a retry is folded again from the kept payload by the rules, the floor and the word on
//! duplicates that its part names; a re-pricing from the sums that the journal held up to the part's
//! bounds, by the part's price book. What is in memory is bounded by a page of parts. Deliberately
//! absent: whether more could have been corrected.

use std::collections::BTreeMap;

use domain::adjustment::{
    AdjustmentKind, AdjustmentRows, Resolution, SignedPosting, adjustment_hash,
};
use domain::fold::PostingKey;
use domain::hash::Hash256;
use domain::ids::PartNumber;
use domain::meter::Meter;
use domain::part::{FOLD_VERSION, PartHeader};
use domain::time::{QUARTER_MS, Quarter, UnixMs};
use store::adjust::{Journal, SumsFilter, resolved_by};
use store::audit::{self, Chain, Pages, StoredAdjustment, StoredPart};
use tokio::sync::mpsc;

use super::chain::{check_behind_head, title};
use super::links::{Contents, Links};
use super::places;
use super::refold::counted_elsewhere;
use super::report::Findings;
use super::rules::PartRules;
use super::twins::Twins;
use super::{Places, Shared, VerifyError};
use crate::corrections::{Books, CorrectionError, Judged, Payloads, RetryFold, takes_back};

/// A page: parts are large, a retry of up to 500 events, a re-pricing of thousands of postings.
const PAGES: Pages = Pages {
    parts_max: 100,
    rows_max: 50_000,
};

/// Sums that are read again at once.
const KEYS_MAX: usize = 1_000;

/// Checks the chain and returns its title with what was found.
///
/// # Errors
///
/// A [`VerifyError`] where Kafka or Postgres cannot be read.
pub(super) async fn check(
    places: &Places,
    chain: &Chain,
    shared: &mut Shared,
) -> Result<(String, Findings), VerifyError> {
    let mut check = AdjustmentCheck {
        places,
        chain,
        findings: Findings::default(),
        links: Links::new(),
        twins: Twins::default(),
        payloads: None,
        proved: Proved::default(),
        shared,
    };
    check.run().await?;
    Ok((title(chain), check.findings))
}

/// What was made again and is as it is stored.
#[derive(Debug, Default)]
struct Proved {
    retried: u64,
    dropped: u64,
    repriced: u64,
}

struct AdjustmentCheck<'c> {
    places: &'c Places,
    chain: &'c Chain,
    findings: Findings,
    links: Links,
    twins: Twins,
    payloads: Option<Payloads>,
    proved: Proved,
    shared: &'c mut Shared,
}

impl AdjustmentCheck<'_> {
    async fn run(&mut self) -> Result<(), VerifyError> {
        let position = self.chain.position.as_ref();
        let head = position.map_or(PartNumber(i64::MAX), |at| at.last_part);
        let db = &self.places.db;
        let mut after = PartNumber::NONE;
        loop {
            let mut page = audit::parts(db, self.chain.id, after, PAGES).await?;
            page.retain(|part| part.number <= head);
            let (Some(first), Some(last)) = (page.first(), page.last()) else {
                break;
            };
            let (first, last) = (first.number, last.number);
            let mut rows = audit::adjustments(db, self.chain.id, first, last).await?;
            for part in &page {
                let rows = rows.remove(&part.number).unwrap_or_default();
                self.check_part(part, &rows).await?;
            }
            let found = audit::amount_difference(db, self.chain.id, after, last).await?;
            if let Some(found) = found {
                self.findings.differs(format!(
                    "part {}, posting of app {:?}, model {:?}: its amount is {}, but its \
                     quantities cost {}",
                    found.part.number.0, found.app, found.model, found.posted, found.computed
                ));
            }
            after = last;
        }
        self.links.finish(self.chain, &mut self.findings);
        self.twins.finish(&mut self.findings);
        check_behind_head(self.places, self.chain, head, &mut self.findings).await?;
        self.finish();
        Ok(())
    }

    fn finish(&mut self) {
        let Proved {
            retried,
            dropped,
            repriced,
        } = self.proved;
        if retried > 0 {
            self.findings.proved(format!(
                "{retried} retried events fold to what their adjustments post"
            ));
        }
        if repriced > 0 {
            self.findings.proved(format!(
                "{repriced} sums that were priced anew are what the journal held then, and cost what \
                 their adjustments post"
            ));
        }
        if dropped > 0 {
            self.findings.proved(format!(
                "{dropped} rejected events were dropped, and posted nothing"
            ));
        }
    }

    async fn check_part(
        &mut self,
        part: &StoredPart,
        rows: &StoredAdjustment,
    ) -> Result<(), VerifyError> {
        self.findings.parts += 1;
        let Some(header) = check_links(&mut self.links, part, rows, &mut self.findings) else {
            return Ok(());
        };
        self.shared.versions.prices.insert(header.prices);
        self.shared.versions.sources.insert(header.sources);
        let duplicates = rows.duplicates.iter().map(|row| (part.number, *row));
        let duplicates: Vec<_> = duplicates.collect();
        let (services, unresolved) = (self.places, &mut self.shared.unresolved);
        self.twins
            .check(
                services,
                self.chain.id,
                &duplicates,
                unresolved,
                &mut self.findings,
            )
            .await?;
        let Some(adjustment) = &rows.adjustment else {
            let number = part.number.0;
            self.findings
                .differs(format!("part {number}: who corrected what is missing"));
            return Ok(());
        };
        if let Some(fault) = places::unsound(header, rows, adjustment.kind) {
            self.findings.differs(fault);
        }
        match adjustment.kind {
            AdjustmentKind::Retry => {
                let accepts_duplicates = adjustment.accepts_duplicates;
                self.check_retry(header, rows, accepts_duplicates).await
            }
            AdjustmentKind::Drop => {
                self.check_drop(header, rows);
                Ok(())
            }
            AdjustmentKind::Reprice => self.check_reprice(header, rows).await,
        }
    }

    fn check_drop(&mut self, header: &PartHeader, rows: &StoredAdjustment) {
        let is_empty = rows.postings.is_empty() && rows.duplicates.is_empty();
        let counts_nothing =
            |found: &Resolution| (found.accepted, found.duplicates, found.ignored) == (0, 0, 0);
        let records = u64::try_from(rows.resolutions.len()).unwrap_or(u64::MAX);
        let number = header.part.number.0;
        if !is_empty || !rows.resolutions.iter().all(counts_nothing) {
            self.findings
                .differs(format!("part {number} drops events and counts something"));
        } else if records != header.counts.records {
            let counted = header.counts.records;
            self.findings.differs(format!(
                "part {number} counts {counted} dropped events, but has {records}"
            ));
        } else {
            self.proved.dropped += records;
        }
    }

    /// Prices the sums that the part takes back anew, from the journal up to the part's bounds.
    async fn check_reprice(
        &mut self,
        header: &PartHeader,
        rows: &StoredAdjustment,
    ) -> Result<(), VerifyError> {
        let number = header.part.number;
        if header.fold_version != FOLD_VERSION {
            self.unproven_by_version(header);
            return Ok(());
        }
        let taken_back = rows.postings.iter().filter(|posting| takes_back(posting));
        let keys: Vec<PostingKey> = taken_back.map(|posting| posting.key).collect();
        let corrected = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        if corrected != header.counts.records {
            let counted = header.counts.records;
            self.findings.differs(format!(
                "part {} counts {counted} sums that it prices anew, but takes {corrected} back",
                number.0
            ));
            return Ok(());
        }
        let before = self.findings.difference_count();
        let made = match self.priced_anew(header, rows, &keys).await {
            Ok(made) => made,
            Err(VerifyError::Correction(CorrectionError::Unreadable(what))) => {
                self.findings.differs(format!("part {}: {what}", number.0));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        compare_postings(number, &rows.postings, &made, &mut self.findings);
        if self.findings.difference_count() == before {
            self.proved.repriced += corrected;
        }
        Ok(())
    }

    /// Returns the postings that pricing these sums anew makes, ascending.
    async fn priced_anew(
        &self,
        header: &PartHeader,
        rows: &StoredAdjustment,
        keys: &[PostingKey],
    ) -> Result<Vec<SignedPosting>, VerifyError> {
        let mut books = Books::new(&self.places.db);
        let mut journal = Journal::open(&self.places.db).await?;
        let mut postings = Vec::with_capacity(keys.len().saturating_mul(2));
        // By time, so that each look reads the few quarter-hours that its keys lie in.
        let mut keys = keys.to_vec();
        keys.sort_unstable_by_key(|key| key.quarter);
        for keys in keys.chunks(KEYS_MAX) {
            let filter = SumsFilter {
                from: keys.first().map(|key| key.quarter.start()),
                to: keys.last().map(|key| quarter_end(key.quarter)),
                keys: keys.to_vec(),
                ..SumsFilter::default()
            };
            let (sender, mut held) = mpsc::channel(KEYS_MAX);
            let sums = journal.sums(&rows.bounds, &filter, sender);
            let judge = async {
                let mut made = Vec::with_capacity(keys.len());
                while let Some(held) = held.recv().await {
                    if let Judged::Differs(difference) = books.judge(&held, header.prices).await? {
                        made.extend(difference.postings().into_iter().flatten());
                    }
                }
                Ok::<_, CorrectionError>(made)
            };
            let (read, made) = tokio::join!(sums, judge);
            read?;
            postings.extend(made?);
        }
        postings.sort_unstable();
        Ok(postings)
    }

    fn unproven_by_version(&mut self, header: &PartHeader) {
        let version = header.fold_version;
        let why =
            format!("they were folded by fold version {version}, this program has {FOLD_VERSION}");
        self.findings.unproven(header.part.number, &why);
    }

    async fn check_retry(
        &mut self,
        header: &PartHeader,
        rows: &StoredAdjustment,
        accepts_duplicates: bool,
    ) -> Result<(), VerifyError> {
        let number = header.part.number;
        if header.fold_version != FOLD_VERSION {
            self.unproven_by_version(header);
            return Ok(());
        }
        let events = resolved_by(&self.places.db, header.part).await?;
        let source = events.first().map(|event| event.source_name.clone());
        let source = source.unwrap_or_default();
        if events.len() != rows.resolutions.len()
            || events.iter().any(|event| event.source_name != source)
        {
            self.findings.differs(format!(
                "part {}: the rejected events that it retried are not there",
                number.0
            ));
            return Ok(());
        }
        let mut rules = match PartRules::read(self.places, &source, header).await? {
            Ok(rules) => rules,
            Err(why) => {
                self.findings.differs(format!("part {}: {why}", number.0));
                return Ok(());
            }
        };
        let mut whole = Vec::with_capacity(events.len());
        for event in &events {
            match self.payloads().await?.whole(event, &rules.decoder).await? {
                Ok(event) => whole.push(event),
                Err(why) => {
                    self.findings
                        .unproven(number, &format!("of an event {why}"));
                    return Ok(());
                }
            }
        }
        let mut again = RetryFold {
            decoder: &rules.decoder,
            folder: &mut rules.folder,
            floor: header.floor,
            accepts_duplicates,
            limits: None,
        };
        let (mut retried, kept) = again.fold(header.part, header.from, &whole);
        if let Some(rejection) = kept.into_iter().flatten().next() {
            self.findings.differs(format!(
                "part {}: it counts a rejected event that is none by its rules: {rejection}",
                number.0
            ));
            return Ok(());
        }
        retried
            .fold
            .withdraw_seen(&counted_elsewhere(header.part, &rows.duplicates));
        let resolutions = store::adjust::resolutions_of(&mut retried);
        let closed = retried.fold.close();
        self.compare_retry(header, rows, &resolutions, &closed);
        Ok(())
    }

    fn compare_retry(
        &mut self,
        header: &PartHeader,
        rows: &StoredAdjustment,
        resolutions: &[Resolution],
        closed: &domain::fold::ClosedBatch,
    ) {
        let before = self.findings.difference_count();
        let number = header.part.number;
        let Some(part) = closed.parts.first() else {
            return;
        };
        let counted = (header.counts.accepted, header.counts.duplicates);
        if counted != (part.counts.accepted, part.counts.duplicates) {
            self.findings.differs(format!(
                "part {} counts {} accepted events and {} duplicates, but its payloads hold {} and {}",
                number.0, counted.0, counted.1, part.counts.accepted, part.counts.duplicates
            ));
        }
        if rows.resolutions != resolutions {
            self.findings.differs(format!(
                "part {}: what became of its rejected events is not what their payloads fold to",
                number.0
            ));
        }
        if rows.duplicates != part.duplicates {
            self.findings.differs(format!(
                "part {}: its duplicates are not those that its payloads fold to",
                number.0
            ));
        }
        let mut postings: Vec<_> = part.postings.iter().filter_map(SignedPosting::of).collect();
        postings.sort_unstable();
        compare_postings(number, &rows.postings, &postings, &mut self.findings);
        if self.findings.difference_count() == before {
            self.proved.retried += u64::try_from(resolutions.len()).unwrap_or(u64::MAX);
            self.findings.refolded += 1;
            self.findings.records += header.counts.records;
        }
    }

    async fn payloads(&mut self) -> Result<&mut Payloads, VerifyError> {
        if self.payloads.is_none() {
            let payloads = Payloads::new(&self.places.db, &self.places.kafka).await?;
            self.payloads = Some(payloads);
        }
        let missing = || CorrectionError::Outrun;
        Ok(self.payloads.as_mut().ok_or_else(missing)?)
    }
}

fn check_links<'p>(
    links: &mut Links,
    part: &'p StoredPart,
    rows: &StoredAdjustment,
    findings: &mut Findings,
) -> Option<&'p PartHeader> {
    let requests = rows
        .postings
        .iter()
        .map(|posting| i128::from(posting.sums.quantities.get(Meter::Requests)));
    let contents = Contents {
        postings: rows.postings.len(),
        requests: requests.sum(),
        duplicates: rows.duplicates.len(),
        rejected: 0,
        unreadable: &rows.unreadable,
        hash: &|header| hash(header, rows),
    };
    links.check_contents(part, &contents, findings)
}

/// The hash of the rows; zeros where it is not told who made the correction, which no part has.
fn hash(header: &PartHeader, rows: &StoredAdjustment) -> Hash256 {
    let Some(adjustment) = &rows.adjustment else {
        return Hash256::ZERO;
    };
    adjustment_hash(
        header,
        &AdjustmentRows {
            adjustment,
            resolutions: &rows.resolutions,
            bounds: &rows.bounds,
            postings: &rows.postings,
            duplicates: &rows.duplicates,
        },
    )
}

/// Compares postings by what they are told apart by.
fn compare_postings(
    number: PartNumber,
    stored: &[SignedPosting],
    made: &[SignedPosting],
    findings: &mut Findings,
) {
    if stored == made {
        return;
    }
    let grouped = |postings: &[SignedPosting]| {
        let mut groups: BTreeMap<PostingKey, Vec<SignedPosting>> = BTreeMap::new();
        for posting in postings {
            groups.entry(posting.key).or_default().push(*posting);
        }
        groups
    };
    let (stored, made) = (grouped(stored), grouped(made));
    let keys = stored
        .keys()
        .chain(made.keys().filter(|key| !stored.contains_key(key)));
    for key in keys {
        if stored.get(key) != made.get(key) {
            findings.differs(format!(
                "part {}, posting of series {} at {}: it is not what the correction makes",
                number.0,
                key.series.0,
                key.quarter.start()
            ));
        }
    }
}

/// Returns the instant after a quarter-hour.
fn quarter_end(quarter: Quarter) -> UnixMs {
    quarter.start().saturating_add_ms(QUARTER_MS)
}
