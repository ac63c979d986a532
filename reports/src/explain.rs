//! `explain`: a denial worked out again, and the usage behind it.
//!
//! Invariant: the verdict is computed by the code that decides, of what the denial recorded; the ledger is
//! read in one snapshot and compared to the last unit, and whatever differs is said. Deliberately absent:
//! where the denial comes from.

mod compare;
mod ledger;
mod view;

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use domain::calendar::Tz;
use domain::counting::LogLimits;
use domain::explain::{Denial, Recomputed, counted_span, recompute};
use domain::ids::Version;
use domain::policy::CompiledSet;
use domain::policy::files::compile_files;
use domain::policy::model::{CountedFrom, Limit, LimitId, Policy};
use domain::request::Field;
use domain::time::UnixMs;
use domain::window::Span;
use store::Database;
use store::explain::{Behind, Question};

use crate::error::ReportError;
use crate::output::Output;
use compare::Finding;
use ledger::Ledger;

/// What `explain` was asked.
#[derive(Debug, Clone)]
pub struct ExplainArgs {
    /// The denial.
    pub denial: Denial,
    /// The policies of the configuration's files, which an enforcer decides by until any are in force;
    /// their version is 0.
    pub configured: Option<Arc<CompiledSet>>,
    /// How many series are listed at most; the others are summed. At least 1.
    pub series_max: usize,
    /// In which zone windows are shown, beside UTC.
    pub zone: Tz,
    /// In which form; CSV is refused.
    pub output: Output,
    /// How wide a table may be, in columns; as wide as it wants where absent.
    pub width: Option<u16>,
}

/// A denial that was worked out again, and what stands behind it.
#[derive(Debug)]
struct Explanation<'a> {
    args: &'a ExplainArgs,
    denial: &'a Denial,
    policy: Policy,
    limit: Limit,
    /// From when on the limit's accounts are whole.
    whole_from: Option<UnixMs>,
    recomputed: Option<Recomputed>,
    /// What was counted; `None` for buckets.
    span: Option<Span>,
    behind: Behind,
    /// Of a limit that counts from the log.
    ledger: Option<Ledger>,
    findings: Vec<Finding>,
}

/// Whether a denial is what its numbers and the ledger say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Explained {
    /// It was worked out again, and all that was compared agrees.
    Agrees,
    /// Something differs; the report says what.
    Differs,
}

/// Works a denial out again, reads what stands behind it, and writes both.
///
/// # Errors
///
/// [`ReportError::Usage`] where the denial cannot be explained here, [`ReportError::Store`] as its kind
/// says, [`ReportError::Write`].
pub async fn run(
    db: &Database,
    args: &ExplainArgs,
    out: &mut dyn Write,
) -> Result<Explained, ReportError> {
    if args.output == Output::Csv {
        return Err(ReportError::Usage(
            "an explanation does not fit into CSV; use --output table or json".to_owned(),
        ));
    }
    let explanation = read(db, args).await?;
    match args.output {
        Output::Json => view::write_json(&explanation, out)?,
        Output::Table | Output::Csv => view::write_table(&explanation, out)?,
    }
    out.flush()?;
    Ok(explanation.verdict())
}

async fn read<'a>(db: &Database, args: &'a ExplainArgs) -> Result<Explanation<'a>, ReportError> {
    let denial = &args.denial;
    let (set, whole_from) = policies(db, args).await?;
    let (policy, limit) = limit_of(&set, denial)?;
    let limits = LogLimits::of(Arc::clone(&set));
    let counted = limits.as_ref().zip(denial.counter);
    let counted = counted.filter(|_| limit.from == CountedFrom::Log);
    let span = counted_span(&limit.spec, denial.at);
    let question = denial.counter.map(|counter| Question {
        counter,
        tenant: denial
            .key_value(Field::Tenant)
            .unwrap_or("default")
            .to_owned(),
        app: app_of(denial),
        span: span
            .filter(|_| counted.is_some())
            .and_then(ledger::quarters),
        known: known_of(denial),
    });
    let behind = match &question {
        Some(question) => store::explain::read(db, question).await?,
        None => nothing(denial),
    };
    let ledger = counted.and_then(|(limits, counter)| {
        Ledger::of(limits, denial.limit_id, counter, &behind, question?.span?)
    });
    let mut explanation = Explanation {
        args,
        denial,
        recomputed: recompute(&limit.spec, denial),
        policy,
        limit,
        whole_from: whole_from.get(&denial.limit_id).copied(),
        span,
        behind,
        ledger,
        findings: Vec::new(),
    };
    explanation.findings = compare::findings(&explanation);
    Ok(explanation)
}

type WholeFrom = HashMap<LimitId, UnixMs>;

/// Returns the policies that the denial was made by.
async fn policies(
    db: &Database,
    args: &ExplainArgs,
) -> Result<(Arc<CompiledSet>, WholeFrom), ReportError> {
    let version = args.denial.version;
    if version == Version(0) {
        let configured = args.configured.clone();
        let configured = configured.ok_or_else(|| {
            ReportError::Usage(
                "the denial was made by policies of files alone; name them in policies.files"
                    .to_owned(),
            )
        })?;
        return Ok((configured, WholeFrom::new()));
    }
    let stored = store::policies::load_version(db, version).await?;
    let stored = stored.ok_or_else(|| {
        ReportError::Usage(format!(
            "the denial was made by policies of version {}, which this ledger does not know; name the \
             database of the enforcer that made it (`tollbook policy list` shows what is known)",
            version.0
        ))
    })?;
    let set = compile_files(&stored.files).map_err(|errors| {
        let first = errors.first().map(ToString::to_string).unwrap_or_default();
        ReportError::Usage(format!(
            "the policies of version {} cannot be read by this program ({first}); use the version of \
             the enforcer",
            version.0
        ))
    })?;
    Ok((Arc::new(set), stored.whole_from))
}

fn limit_of(set: &CompiledSet, denial: &Denial) -> Result<(Policy, Limit), ReportError> {
    let found = set.limits().find(|(id, ..)| *id == denial.limit_id);
    let (_, policy, _, limit) = found.ok_or_else(|| {
        ReportError::Usage(format!(
            "policies of version {} have no limit {} of policy {} that counts as the denial says; name \
             the database of the enforcer that made it",
            denial.version.0, denial.limit, denial.policy
        ))
    })?;
    Ok((policy.clone(), limit.clone()))
}

/// Returns the application whose usage the counter counts alone.
fn app_of(denial: &Denial) -> Option<String> {
    let app = denial.key_value(Field::App);
    let app = app.unwrap_or(domain::ids::UNATTRIBUTED);
    denial.is_keyed_by(Field::App).then(|| app.to_owned())
}

fn known_of(denial: &Denial) -> Vec<(domain::account::Origin, domain::account::Revision)> {
    let origins = denial.grounds.iter().flat_map(|grounds| &grounds.origins);
    origins
        .filter_map(|origin| Some((origin.origin, origin.revision?)))
        .collect()
}

/// Returns what stands behind a denial that looked at no counter.
const fn nothing(denial: &Denial) -> Behind {
    Behind {
        at: denial.at,
        policies: None,
        accounts: Vec::new(),
        chains: Vec::new(),
        replicas: Vec::new(),
        series: Vec::new(),
    }
}

impl Explanation<'_> {
    fn verdict(&self) -> Explained {
        let differs = |finding: &Finding| finding.agrees == Some(false);
        if self.findings.iter().any(differs) {
            Explained::Differs
        } else {
            Explained::Agrees
        }
    }

    /// Writes units of the limit's meter.
    fn text(&self, units: domain::units::Units) -> String {
        self.limit.spec.meter().text_of(units)
    }
}
