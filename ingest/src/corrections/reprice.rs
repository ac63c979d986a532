//! Re-pricing: what usage costs by the book in force, less what it was posted at.
//!
//! Invariant: what is posted takes a whole sum of the ledger back under its old rate set and posts the
//! same quantities under the new one, so a second run finds nothing left to do. Each part is worked out
//! in one snapshot; what commits after it was folded by the book in force, since a change of prices
//! waits for every batch. Deliberately absent: what sums can be priced anew (`domain::reprice`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use domain::adjustment::{SignedPosting, SignedSums};
use domain::counting::LogLimits;
use domain::fold::PostingKey;
use domain::ids::{ModelId, ProviderId, Version};
use domain::meter::Meter;
use domain::money::Amount;
use domain::price::{PriceBook, PricedModel, RateSet, RateSetId};
use domain::reprice::{Holding, Repriced, Unclear, reprice as priced_anew};
use store::adjust::{
    AdjustmentWrite, Correction, Held, Horizon, Journal, Reprice, Standing, SumsFilter, adjust,
    open_chain,
};
use store::{Database, audit};
use tokio::sync::mpsc;

use super::{CorrectionError, TRIES_MAX, moved_or};
use crate::rules::limits_from_log;

/// Sums of one part at most: two postings each, some 50 MiB in all.
const PART_MAX: usize = 50_000;

/// Sums on their way from Postgres.
const UNDERWAY_MAX: usize = 1_000;

/// Rate sets read at once.
const PAGE_ROWS: u32 = 5_000;

/// What to price anew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepriceArgs {
    /// Which usage.
    pub filter: SumsFilter,
    /// What was asked, as JSON; the ledger keeps it.
    pub arguments: String,
    /// Who takes responsibility; `None`: the database's login.
    pub by: Option<String>,
    /// Why; empty where nobody said.
    pub because: String,
    /// Works it out and posts nothing.
    pub is_dry_run: bool,
}

/// What changes for one application's use of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepricedGroup {
    /// Requests that cost otherwise now.
    pub requests: u64,
    /// What they cost; what has no amount counts as 0.
    pub before: Amount,
    /// What they cost now.
    pub after: Amount,
    /// How many of them had used something without a rate.
    pub unpriced_before: u64,
    /// How many of them still have.
    pub unpriced_after: u64,
    /// Requests whose sums do not say what they cost now; they stay as they are.
    pub unclear: u64,
}

/// What a run found and posted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepricedTotals {
    /// By application and asked model.
    pub groups: BTreeMap<(String, String), RepricedGroup>,
    /// The adjustments that were posted; 0 where nothing differs, or in a dry run.
    pub adjustments: u64,
    /// Requests that stay as they are: priced by more than one rate set.
    pub unclear_rates: u64,
    /// Requests that stay as they are: how many have a rate is not known.
    pub unclear_requests: u64,
    /// Requests that stay as they are: the amount does not fit.
    pub overflowing: u64,
}

/// Prices usage anew by the book in force and posts the differences, in parts of at most 50,000 sums.
/// What was committed when an error ends it stays.
///
/// # Errors
///
/// A [`CorrectionError`]; asking again goes on where it ended.
pub async fn reprice(db: &Database, args: &RepriceArgs) -> Result<RepricedTotals, CorrectionError> {
    let mut books = Books::new(db);
    let mut filter = args.filter.clone();
    let mut totals = RepricedTotals::default();
    let mut tries = 0;
    loop {
        let standing = match args.is_dry_run {
            true => None,
            false => Some(open_chain(db).await?),
        };
        let mut journal = Journal::open(db).await?;
        let horizon = journal.horizon().await?;
        let plan = plan(
            &mut books,
            &mut journal,
            &horizon,
            &filter,
            standing.is_some(),
        )
        .await?;
        drop(journal);
        if let (Some(standing), false) = (standing, plan.differences.is_empty()) {
            let limits = limits_of(db, horizon.versions.policies).await?;
            let write = write_of(args, standing, &horizon, limits, &plan.differences)?;
            match adjust(db, write).await {
                Ok(_) => totals.adjustments += 1,
                Err(error) => {
                    moved_or(error)?;
                    tries += 1;
                    if tries >= TRIES_MAX {
                        return Err(CorrectionError::Outrun);
                    }
                    continue;
                }
            }
        }
        tries = 0;
        totals.add(plan.found);
        match plan.next {
            Some(quarter) => filter.from = Some(quarter),
            None => return Ok(totals),
        }
    }
}

/// A sum that costs otherwise.
pub(crate) struct Difference {
    key: PostingKey,
    before: SignedSums,
    rate_set_id: RateSetId,
    rate_set: Arc<RateSet>,
    after: SignedSums,
}

impl Difference {
    /// Returns what takes the sum back, and what it becomes.
    pub(crate) fn postings(&self) -> Option<[SignedPosting; 2]> {
        let back = SignedPosting {
            key: self.key,
            sums: self.before.negated()?,
        };
        let anew = SignedPosting {
            key: PostingKey {
                rate_set: self.rate_set_id,
                ..self.key
            },
            sums: self.after,
        };
        Some([back, anew])
    }
}

/// Says whether a posting of a re-pricing takes a sum back.
pub(crate) fn takes_back(posting: &SignedPosting) -> bool {
    posting.sums.quantities.get(Meter::Requests) < 0
}

/// What one snapshot says.
struct Plan {
    differences: Vec<Difference>,
    found: RepricedTotals,
    /// Where the next part goes on: the quarter-hour of the last sum that was looked at.
    next: Option<domain::time::UnixMs>,
}

/// Compares every sum with what it costs by the book in force. A plan that is posted ends at a whole
/// quarter-hour once it is large enough for a part.
async fn plan(
    books: &mut Books<'_>,
    journal: &mut Journal,
    horizon: &Horizon,
    filter: &SumsFilter,
    is_posted: bool,
) -> Result<Plan, CorrectionError> {
    let (sender, mut held) = mpsc::channel::<Held>(UNDERWAY_MAX);
    let wanted = filter.provider.as_deref();
    let compare = async {
        let mut plan = Plan {
            differences: Vec::new(),
            found: RepricedTotals::default(),
            next: None,
        };
        let mut quarter = None;
        while let Some(held) = held.recv().await {
            let start = held.key.quarter.start();
            if plan.differences.len() >= PART_MAX && quarter != Some(start) {
                plan.next = Some(start);
                break;
            }
            quarter = Some(start);
            if !books
                .is_meant(&held, wanted, horizon.versions.prices)
                .await?
            {
                continue;
            }
            let judged = books.judge(&held, horizon.versions.prices).await?;
            plan.found.add_one(&held, &judged);
            if let (Judged::Differs(difference), true) = (judged, is_posted) {
                plan.differences.push(*difference);
            }
        }
        drop(held);
        Ok::<_, CorrectionError>(plan)
    };
    let (read, plan) = tokio::join!(journal.sums(&horizon.bounds, filter, sender), compare);
    let plan = plan?;
    read?;
    Ok(plan)
}

/// Reads the limits from the log of a version of the policies.
async fn limits_of(
    db: &Database,
    version: Option<Version>,
) -> Result<Option<Arc<LogLimits>>, CorrectionError> {
    let Some(version) = version else {
        return Ok(None);
    };
    let missing = || CorrectionError::Unreadable(format!("policies {} are missing", version.0));
    let stored = store::policies::load_version(db, version).await?;
    Ok(limits_from_log(&stored.ok_or_else(missing)?.files)?)
}

fn write_of(
    args: &RepriceArgs,
    standing: Standing,
    horizon: &Horizon,
    limits: Option<Arc<LogLimits>>,
    differences: &[Difference],
) -> Result<AdjustmentWrite<'static>, CorrectionError> {
    let corrected = u64::try_from(differences.len()).unwrap_or(u64::MAX);
    let mut postings = Vec::with_capacity(differences.len().saturating_mul(2));
    let mut rate_sets: HashMap<RateSetId, Arc<RateSet>> = HashMap::new();
    for difference in differences {
        let pair = difference.postings().ok_or_else(|| {
            CorrectionError::Unreadable("a sum is too large to be taken back".to_owned())
        })?;
        postings.extend(pair);
        rate_sets
            .entry(difference.rate_set_id)
            .or_insert_with(|| Arc::clone(&difference.rate_set));
    }
    Ok(AdjustmentWrite {
        standing,
        versions: horizon.versions,
        limits,
        made_by: args.by.clone(),
        because: args.because.clone(),
        arguments: args.arguments.clone(),
        correction: Correction::Reprice(Reprice {
            bounds: horizon.bounds.clone(),
            corrected,
            postings,
            rate_sets: rate_sets.into_iter().collect(),
        }),
    })
}

impl RepricedTotals {
    fn add_one(&mut self, held: &Held, judged: &Judged) {
        let requests = held.sums.quantities.get(Meter::Requests);
        let group = || (held.app.clone(), held.model.clone());
        match judged {
            Judged::Same => {}
            Judged::Differs(difference) => {
                let group = self.groups.entry(group()).or_default();
                group.requests = group.requests.saturating_add(requests);
                let count = |count: i64| u64::try_from(count).unwrap_or(0);
                let (before, after) = (&difference.before, &difference.after);
                group.before = add(group.before, before.amount);
                group.after = add(group.after, after.amount);
                group.unpriced_before += count(before.unpriced_requests);
                group.unpriced_after += count(after.unpriced_requests);
            }
            Judged::Unclear(why) => {
                self.groups.entry(group()).or_default().unclear += requests;
                match why {
                    Unclear::Rates => self.unclear_rates += requests,
                    Unclear::Requests => self.unclear_requests += requests,
                    Unclear::Overflow => self.overflowing += requests,
                }
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.unclear_rates += other.unclear_rates;
        self.unclear_requests += other.unclear_requests;
        self.overflowing += other.overflowing;
        for (key, of) in other.groups {
            let group = self.groups.entry(key).or_default();
            group.requests = group.requests.saturating_add(of.requests);
            group.before = add(group.before, of.before);
            group.after = add(group.after, of.after);
            group.unpriced_before += of.unpriced_before;
            group.unpriced_after += of.unpriced_after;
            group.unclear += of.unclear;
        }
    }
}

/// Adds for display; what would not fit into the ledger stays at the last sum that did.
fn add(sum: Amount, amount: Amount) -> Amount {
    sum.checked_add(amount).unwrap_or(sum)
}

/// What a sum costs by a book.
pub(crate) enum Judged {
    /// What it is posted at.
    Same,
    /// Something else.
    Differs(Box<Difference>),
    /// It does not say.
    Unclear(Unclear),
}

/// The price books and rate sets that sums were priced by; read when first needed.
pub(crate) struct Books<'b> {
    db: &'b Database,
    books: HashMap<Version, PriceBook>,
    rate_sets: HashMap<RateSetId, Arc<RateSet>>,
    models: HashMap<(Version, RateSetId, String, String), Arc<PricedModel>>,
}

impl<'b> Books<'b> {
    /// Knows nothing yet.
    pub(crate) fn new(db: &'b Database) -> Self {
        Self {
            db,
            books: HashMap::new(),
            rate_sets: HashMap::new(),
            models: HashMap::new(),
        }
    }

    /// Says what a sum costs by a version of the price book.
    ///
    /// # Errors
    ///
    /// A [`CorrectionError`] where Postgres cannot be read, or holds what the ledger never writes.
    pub(crate) async fn judge(
        &mut self,
        held: &Held,
        new: Version,
    ) -> Result<Judged, CorrectionError> {
        let rate_set = self.rate_set(held.key.rate_set).await?;
        let mut old = Vec::with_capacity(held.prices.len());
        for version in &held.prices {
            old.push(self.model(*version, held, &rate_set).await?);
        }
        let new = self.model(new, held, &rate_set).await?;
        let holding = Holding {
            quarter: held.key.quarter,
            rate_set: &rate_set,
            rate_set_id: held.key.rate_set,
            sums: held.sums,
        };
        let old: Vec<&PricedModel> = old.iter().map(AsRef::as_ref).collect();
        Ok(match priced_anew(&holding, &old, &new) {
            Repriced::Same => Judged::Same,
            Repriced::Unclear(why) => Judged::Unclear(why),
            Repriced::Other {
                rate_set,
                rate_set_id,
                sums,
            } => match (SignedSums::of(&held.sums), SignedSums::of(&sums)) {
                (Some(before), Some(after)) => Judged::Differs(Box::new(Difference {
                    key: held.key,
                    before,
                    rate_set_id,
                    rate_set,
                    after,
                })),
                _ => Judged::Unclear(Unclear::Overflow),
            },
        })
    }

    async fn rate_set(&mut self, id: RateSetId) -> Result<Arc<RateSet>, CorrectionError> {
        if !self.rate_sets.contains_key(&id) {
            let mut after = None;
            loop {
                let page = audit::rate_sets_after(self.db, after, PAGE_ROWS).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.key);
                let readable = page
                    .into_iter()
                    .filter_map(|stored| Some((stored.key, Arc::new(stored.rate_set.ok()?))));
                self.rate_sets.extend(readable);
            }
        }
        let known = self.rate_sets.get(&id).map(Arc::clone);
        known.ok_or_else(|| CorrectionError::Unreadable(format!("rate set {} is missing", id.0)))
    }

    /// Returns the provider by which a version of the price book prices a sum. A path to a backend that
    /// no book behind the sum could read is read by this one. A name that such a book would have read
    /// as a path was configured, or told by the event itself, and stays what it is.
    async fn provider<'h>(
        &mut self,
        version: Version,
        held: &'h Held,
        rate_set: &RateSet,
    ) -> Result<&'h str, CorrectionError> {
        let logged = held.provider.as_str();
        if !logged.contains('/') {
            return Ok(logged);
        }
        // An earlier correction has read it already.
        let mut is_path = rate_set.provider != logged;
        for old in &held.prices {
            is_path = is_path || self.book(*old).await?.provider_of(logged) == logged;
        }
        if is_path {
            return Ok(self.book(version).await?.provider_of(logged));
        }
        Ok(logged)
    }

    /// Says whether the filter means the provider of a sum: by its own name, or by what the book makes
    /// of it.
    async fn is_meant(
        &mut self,
        held: &Held,
        wanted: Option<&str>,
        version: Version,
    ) -> Result<bool, CorrectionError> {
        let Some(wanted) = wanted.filter(|wanted| *wanted != held.provider) else {
            return Ok(true);
        };
        let rate_set = self.rate_set(held.key.rate_set).await?;
        Ok(self.provider(version, held, &rate_set).await? == wanted)
    }

    /// Returns the rates of a sum's model in a version of the price book.
    async fn model(
        &mut self,
        version: Version,
        held: &Held,
        rate_set: &RateSet,
    ) -> Result<Arc<PricedModel>, CorrectionError> {
        let provider = self.provider(version, held, rate_set).await?;
        let key = (
            version,
            held.key.rate_set,
            provider.to_owned(),
            held.model.clone(),
        );
        if let Some(known) = self.models.get(&key) {
            return Ok(Arc::clone(known));
        }
        let bad = |what: &str| {
            CorrectionError::Unreadable(format!(
                "the postings of app {:?}, model {:?} name {what}",
                held.app, held.model
            ))
        };
        let asked = ModelId::new(held.model.as_str()).map_err(|_| bad("a model that is none"))?;
        let answered = ModelId::new(rate_set.priced_model.as_str())
            .map_err(|_| bad("a priced model that is none"))?;
        let provider = match provider {
            "" => None,
            name => Some(ProviderId::new(name).map_err(|_| bad("a provider that is none"))?),
        };
        let book = self.book(version).await?;
        let model = book.price_model(provider.as_ref(), Some(&answered), &asked);
        let model = Arc::new(model);
        self.models.insert(key, Arc::clone(&model));
        Ok(model)
    }

    async fn book(&mut self, version: Version) -> Result<&PriceBook, CorrectionError> {
        if !self.books.contains_key(&version) {
            let missing = |what: String| {
                CorrectionError::Unreadable(format!("price book {} {what}", version.0))
            };
            let stored = audit::price_book(self.db, version).await?;
            let stored = stored.ok_or_else(|| missing("is missing".to_owned()))?;
            let book = PriceBook::from_canonical(&stored.content)
                .map_err(|error| missing(format!("cannot be read: {error}")))?;
            self.books.insert(version, book);
        }
        let known = self.books.get(&version);
        known.ok_or_else(|| CorrectionError::Unreadable("a price book is missing".to_owned()))
    }
}
