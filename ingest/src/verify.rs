//! `verify`: refolds what the log still has and compares it with the ledger.
//!
//! Invariant: changes nothing, and says of every part whether it was proved, differs, or is not
//! provable and why. Works on a live installation: it looks at what was there when it began.
//! Deliberately absent: SQL (`store::audit`), and repair.

mod adjustments;
pub(crate) mod chain;
mod compare;
mod contents;
mod heads;
mod links;
pub(crate) mod log;
mod places;
mod refold;
mod report;
mod rules;
mod twins;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use domain::ids::Version;
use service::Exit;
use store::{Database, StoreError, audit};

use crate::config::KafkaConfig;
use crate::corrections::CorrectionError;
use crate::error::exit_of_store;
use crate::kafka::LogError;
use report::{Findings, Totals};

/// What verification ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing differs; the text says how much was proved.
    Verified(String),
    /// Something differs; the text names the first difference.
    Differs(String),
}

impl Verdict {
    /// Returns the exit code that says it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Verified(_) => Exit::Ok,
            Self::Differs(_) => Exit::Data,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Verified(what) => write!(f, "verified: {what}"),
            Self::Differs(what) => write!(f, "differs: {what}"),
        }
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Postgres is away or refuses; the kind says which.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kafka is away.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A correction cannot be made again.
    #[error(transparent)]
    Correction(#[from] CorrectionError),
    /// What was found cannot be written.
    #[error("the report cannot be written: {0}")]
    Output(#[from] io::Error),
    /// The thread that reads the log ended.
    #[error("the thread that reads the log ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl VerifyError {
    /// Returns the exit code that this error ends the process with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => exit_of_store(error),
            Self::Log(LogError::BadSettings(_)) => Exit::Configuration,
            Self::Log(LogError::Unreachable { .. } | LogError::NoTopic(_)) => Exit::Dependency,
            Self::Correction(error) => error.exit(),
            Self::Output(_) | Self::Thread(_) => Exit::Unexpected,
        }
    }
}

/// Where a verification looks.
#[derive(Clone)]
struct Places {
    db: Database,
    kafka: Arc<KafkaConfig>,
}

/// Verifies every chain and what they share, writes what it finds as it goes, and ends with the
/// verdict as the last line.
///
/// # Errors
///
/// A [`VerifyError`] where Postgres or Kafka cannot be read; then there is no verdict.
pub async fn run(
    db: &Database,
    kafka: &KafkaConfig,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, VerifyError> {
    let places = Places {
        db: db.clone(),
        kafka: Arc::new(kafka.clone()),
    };
    let mut totals = Totals::default();
    // Heads first: what Kafka was told before cannot be ahead of the parts that are read after.
    let heads = heads::read(&places, &audit::chains(db).await?).await?;
    let chains = audit::chains(db).await?;
    let mut shared = Shared::default();
    for chain in &chains {
        let (title, findings) = match &chain.source {
            Some(_) => chain::check(&places, &chains, chain, &heads, &mut shared).await?,
            None => adjustments::check(&places, chain, &mut shared).await?,
        };
        findings.write(&title, out)?;
        totals.add(&title, &findings);
    }
    let mut findings = Findings::default();
    heads::check_unknown(&heads, &chains, &mut findings);
    contents::check(db, &shared.versions, &mut findings).await?;
    twins::refold(&places, &chains, shared.unresolved, &mut findings).await?;
    let title = "the ledger".to_owned();
    findings.write(&title, out)?;
    totals.add(&title, &findings);
    let verdict = totals.verdict(chains.len());
    writeln!(out, "{verdict}")?;
    out.flush()?;
    Ok(verdict)
}

/// What is gathered over all chains.
#[derive(Default)]
struct Shared {
    versions: Versions,
    unresolved: twins::Unresolved,
}

/// The versions that parts name.
#[derive(Default)]
struct Versions {
    prices: BTreeSet<Version>,
    sources: BTreeSet<Version>,
}
