//! Retrying and dropping rejected events.
//!
//! Invariant: an event is resolved at most once, by the transaction that counts it; what is still
//! rejected stays as it was kept. Deliberately absent: choosing events; the filter says which.

use domain::adjustment::Resolution;
use domain::ids::{ChainId, Offset, PartNumber, PartRef};
use domain::reject::Rejection;
use domain::time::UnixMs;
use store::adjust::{
    AdjustmentWrite, Correction, OpenRejection, RejectionKey, Retried, Retry, Standing, adjust,
    open_chain, open_rejections, preview, standing,
};
use store::in_force::Versions;
use store::rejected::Address;
use store::{Database, audit, in_force};

use super::{CorrectionError, Payloads, RejectedArgs, RetryFold, Retryable, TRIES_MAX, moved_or};
use crate::config::KafkaConfig;
use crate::folding::folder_of;
use crate::rules::Rules;

/// Events of one part at most: 32 MiB of kept payloads.
const PART_MAX: u32 = 500;

/// Bytes of one part at most, but for one event: what was cut and read again has up to 1 MiB each.
const PART_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Bytes of one event at most: records above are not parsed.
const EVENT_BYTES_MAX: u64 = 1024 * 1024;

/// What became of one rejected event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Where it stands.
    pub address: Address,
    /// The name of its source.
    pub source: String,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a rejected event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Its events were counted, or had been, or are not metered.
    Counted {
        /// Events posted.
        accepted: u64,
        /// Events that had been counted before.
        duplicates: u64,
        /// Events that are not metered.
        ignored: u64,
    },
    /// It was given up.
    Dropped,
    /// It still cannot become usage.
    Rejected(Rejection),
    /// It could not be tried, in words why.
    Refused(String),
}

/// What became of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResolvedTotals {
    /// Rejected events that were resolved.
    pub resolved: u64,
    /// Rejected events that stay as they are.
    pub kept: u64,
    /// Events posted.
    pub accepted: u64,
    /// Events that had been counted before.
    pub duplicates: u64,
    /// Events that are not metered.
    pub ignored: u64,
}

impl ResolvedTotals {
    fn add(&mut self, fate: &Fate) {
        match fate {
            Fate::Counted {
                accepted,
                duplicates,
                ignored,
            } => {
                self.resolved += 1;
                self.accepted += accepted;
                self.duplicates += duplicates;
                self.ignored += ignored;
            }
            Fate::Dropped => self.resolved += 1,
            Fate::Rejected(_) | Fate::Refused(_) => self.kept += 1,
        }
    }
}

/// Decodes rejected events again by the rules in force and counts them, in parts of at most 500; tells
/// what became of each. What was committed when an error ends it stays.
///
/// # Errors
///
/// A [`CorrectionError`]; asking again goes on where it ended.
pub async fn retry_rejected(
    db: &Database,
    kafka: &KafkaConfig,
    args: &RejectedArgs,
    tell: &mut (dyn FnMut(Resolved) + Send),
) -> Result<ResolvedTotals, CorrectionError> {
    let mut run = Run::new(db, args);
    let mut payloads = Payloads::new(db, kafka).await?;
    while let Some((standing, page)) = run.next_page().await? {
        let rules = Rules::read(&in_force::load(db).await?)?;
        let chunk = chunk_of(&page);
        let Some(fates) = retry_chunk(&run, &rules, &mut payloads, standing, chunk).await? else {
            run.try_again()?;
            continue;
        };
        run.done(chunk, fates, tell);
    }
    Ok(run.totals)
}

/// Gives rejected events up, in parts of at most 500; tells each.
///
/// # Errors
///
/// A [`CorrectionError`]; asking again goes on where it ended.
pub async fn drop_rejected(
    db: &Database,
    args: &RejectedArgs,
    tell: &mut (dyn FnMut(Resolved) + Send),
) -> Result<ResolvedTotals, CorrectionError> {
    let mut run = Run::new(db, args);
    while let Some((standing, page)) = run.next_page().await? {
        if let (Some(standing), false) = (standing, args.is_dry_run) {
            let in_force = in_force::load(db).await?;
            let keys = page.iter().map(OpenRejection::key).collect();
            let write = run.write(standing, in_force.versions(), Correction::Drop(keys));
            if let Err(error) = adjust(db, write).await {
                moved_or(error)?;
                run.try_again()?;
                continue;
            }
        }
        let fates = page.iter().map(|_| Fate::Dropped).collect();
        run.done(&page, fates, tell);
    }
    Ok(run.totals)
}

/// A run over the pages of a filter.
struct Run<'r> {
    db: &'r Database,
    args: &'r RejectedArgs,
    after: Option<RejectionKey>,
    tries: u32,
    totals: ResolvedTotals,
}

impl<'r> Run<'r> {
    fn new(db: &'r Database, args: &'r RejectedArgs) -> Self {
        Self {
            db,
            args,
            after: None,
            tries: 0,
            totals: ResolvedTotals::default(),
        }
    }

    /// Returns the next events, and where the chain stood before they were read; a dry run makes no
    /// chain.
    async fn next_page(
        &self,
    ) -> Result<Option<(Option<Standing>, Vec<OpenRejection>)>, CorrectionError> {
        let (db, filter) = (self.db, &self.args.filter);
        let stands = standing(db).await?;
        let page = open_rejections(db, filter, self.after, PART_MAX).await?;
        if page.is_empty() {
            return Ok(None);
        }
        if stands.is_some() || self.args.is_dry_run {
            return Ok(Some((stands, page)));
        }
        // The first adjustment of all: nobody can have resolved anything before the chain is there.
        let stands = open_chain(db).await?;
        let page = open_rejections(db, filter, self.after, PART_MAX).await?;
        Ok((!page.is_empty()).then_some((Some(stands), page)))
    }

    fn try_again(&mut self) -> Result<(), CorrectionError> {
        self.tries += 1;
        if self.tries >= TRIES_MAX {
            return Err(CorrectionError::Outrun);
        }
        Ok(())
    }

    fn write<'w>(
        &self,
        standing: Standing,
        versions: Versions,
        correction: Correction<'w>,
    ) -> AdjustmentWrite<'w> {
        AdjustmentWrite {
            standing,
            versions,
            limits: None,
            made_by: self.args.by.clone(),
            because: self.args.because.clone(),
            arguments: self.args.arguments.clone(),
            correction,
        }
    }

    fn done(
        &mut self,
        chunk: &[OpenRejection],
        fates: Vec<Fate>,
        tell: &mut (dyn FnMut(Resolved) + Send),
    ) {
        self.tries = 0;
        self.after = chunk.last().map(OpenRejection::key).or(self.after);
        for (open, fate) in chunk.iter().zip(fates) {
            self.totals.add(&fate);
            tell(Resolved {
                address: open.address.clone(),
                source: open.source_name.clone(),
                fate,
            });
        }
    }
}

/// Returns the first events of a page that one part takes: of one source, and bounded.
fn chunk_of(page: &[OpenRejection]) -> &[OpenRejection] {
    let (mut length, mut bytes) = (0, 0_u64);
    for open in page {
        bytes = bytes.saturating_add(open.event.payload_bytes.min(EVENT_BYTES_MAX));
        let is_first = length == 0;
        let is_of_source = page
            .first()
            .is_some_and(|first| first.source == open.source);
        if !is_first && (!is_of_source || bytes > PART_BYTES_MAX) {
            break;
        }
        length += 1;
    }
    page.get(..length).unwrap_or(page)
}

/// Retries the events of one source; `None` where the ledger moved on meanwhile.
async fn retry_chunk(
    run: &Run<'_>,
    rules: &Rules,
    payloads: &mut Payloads,
    standing: Option<Standing>,
    chunk: &[OpenRejection],
) -> Result<Option<Vec<Fate>>, CorrectionError> {
    let Some(first) = chunk.first() else {
        return Ok(Some(Vec::new()));
    };
    let name = &first.source_name;
    let configured = rules
        .configs
        .iter()
        .position(|config| config.name() == name);
    let Some(decoder) = configured.and_then(|index| rules.decoders.get(index)) else {
        let why = format!("the source configuration in force has no source named {name:?}");
        return Ok(Some(
            chunk.iter().map(|_| Fate::Refused(why.clone())).collect(),
        ));
    };
    let mut fates: Vec<Option<Fate>> = Vec::with_capacity(chunk.len());
    let mut events: Vec<Retryable> = Vec::new();
    for open in chunk {
        match payloads.whole(open, decoder).await? {
            Ok(event) => {
                events.push(event);
                fates.push(None);
            }
            Err(why) => fates.push(Some(Fate::Refused(why))),
        }
    }
    let mut folder = folder_of(rules);
    let part = standing.map_or(FIRST_PART, |standing| standing.next_part());
    let from = standing.map_or(Offset(0), |standing| standing.position);
    let mut kept: Vec<Option<Rejection>> = Vec::new();
    let mut fold = |floor: Option<UnixMs>| -> Retried {
        let mut again = RetryFold {
            decoder,
            folder: &mut folder,
            floor,
            accepts_duplicates: run.args.accepts_duplicates,
            limits: rules.limits.as_ref(),
        };
        let (retried, rejections) = again.fold(part, from, &events);
        kept = rejections;
        retried
    };
    let floor = audit::chains(run.db).await?;
    let floor = floor.into_iter().find(|chain| chain.id == first.chain);
    let planned = fold(floor.and_then(|chain| chain.floor));
    let resolutions = match standing.filter(|_| !run.args.is_dry_run) {
        _ if planned.resolutions.is_empty() => Vec::new(),
        None => preview(run.db, planned).await?,
        Some(standing) => {
            drop(planned);
            let retry = Retry {
                source: first.source,
                accepts_duplicates: run.args.accepts_duplicates,
                fold: &mut fold,
            };
            let write = run.write(standing, rules.versions, Correction::Retry(retry));
            match adjust(run.db, write).await {
                Ok(adjusted) => adjusted.resolutions,
                Err(error) => return moved_or(error).map(|()| None),
            }
        }
    };
    Ok(Some(fates_of(fates, kept, resolutions)))
}

/// The part of a dry run before the first adjustment.
const FIRST_PART: PartRef = PartRef {
    chain: ChainId(0),
    number: PartNumber(1),
};

/// Joins what was refused, what stays rejected and what was resolved, each in the order of the events.
fn fates_of(
    fates: Vec<Option<Fate>>,
    kept: Vec<Option<Rejection>>,
    resolutions: Vec<Resolution>,
) -> Vec<Fate> {
    let (mut kept, mut resolutions) = (kept.into_iter(), resolutions.into_iter());
    let fates = fates.into_iter().map(|refused| match refused {
        Some(fate) => fate,
        None => match kept.next().flatten() {
            Some(rejection) => Fate::Rejected(rejection),
            None => resolutions.next().map_or_else(
                || Fate::Refused("it was not folded".to_owned()),
                |resolution| Fate::Counted {
                    accepted: resolution.accepted,
                    duplicates: resolution.duplicates,
                    ignored: resolution.ignored,
                },
            ),
        },
    });
    fates.collect()
}
