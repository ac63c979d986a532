//! The rules in force: which sources there are, how each is decoded, and what is priced and counted by.
//!
//! Invariant: rules are made from one version each of price book, source configuration and policies, as
//! Postgres holds them; never from files alone, so that all processes fold alike.

use std::sync::Arc;

use domain::counting::LogLimits;
use domain::policy::PolicyError;
use domain::policy::files::{PolicyFile, compile_files};
use domain::price::PriceBook;
use parking_lot::RwLock;
use store::in_force::{InForce, Versions};

use crate::decode::Decoder;
use crate::source_config::{SourceConfig, from_canonical};

/// The rules of one state of what is in force.
pub struct Rules {
    /// What they were made of.
    pub versions: Versions,
    /// The limits that count from the log; `None`: there are none.
    pub limits: Option<Arc<LogLimits>>,
    /// The price book.
    pub book: Arc<PriceBook>,
    /// The sources, in the order of their configuration.
    pub configs: Vec<SourceConfig>,
    /// One decoder per source, in the same order.
    pub decoders: Vec<Decoder>,
}

/// The rules that are folded by now. Clones share them.
#[derive(Clone)]
pub(crate) struct RulesInUse {
    shared: Arc<RwLock<Arc<Rules>>>,
}

impl RulesInUse {
    /// Begins with these rules.
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self {
            shared: Arc::new(RwLock::new(rules)),
        }
    }

    /// Returns the rules.
    pub(crate) fn get(&self) -> Arc<Rules> {
        Arc::clone(&self.shared.read())
    }

    /// Folds by other rules from the next batch on.
    pub(crate) fn set(&self, rules: Arc<Rules>) {
        *self.shared.write() = rules;
    }
}

/// What is in force cannot be used by this version of the program.
#[derive(Debug, thiserror::Error)]
#[error(
    "the {what} in force cannot be read by this version: {problem}; run the version that applied it, or apply another"
)]
pub struct UnusableRules {
    what: &'static str,
    problem: String,
}

impl UnusableRules {
    /// Makes the error of policies in force by the first thing that is wrong with them.
    pub(crate) fn of_policies(errors: &[PolicyError]) -> Self {
        let first = errors.first().map(ToString::to_string);
        unusable("policies", &first.unwrap_or_default())
    }
}

impl Rules {
    /// Reads what is in force.
    ///
    /// # Errors
    ///
    /// [`UnusableRules`] where a newer program applied what this one cannot read; the caller stops.
    pub fn read(in_force: &InForce) -> Result<Self, UnusableRules> {
        let book = PriceBook::from_canonical(&in_force.price_book)
            .map_err(|error| unusable("price book", &error))?;
        let book = Arc::new(book);
        let configs = from_canonical(&in_force.source_config)
            .map_err(|error| unusable("source configuration", &error))?;
        let decoders = configs
            .iter()
            .map(|config| Decoder::new(config, Arc::clone(&book), in_force.identity_secret))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable("source configuration", &error))?;
        Ok(Self {
            versions: in_force.versions(),
            limits: limits_from_log(&in_force.policy_files)?,
            book,
            configs,
            decoders,
        })
    }
}

/// Reads the limits of policy files in force that count from the log; `None` where there are none.
///
/// # Errors
///
/// [`UnusableRules`] where a newer program applied what this one cannot read; the caller stops.
pub(crate) fn limits_from_log(
    files: &[PolicyFile],
) -> Result<Option<Arc<LogLimits>>, UnusableRules> {
    let policies = compile_files(files).map_err(|errors| UnusableRules::of_policies(&errors))?;
    Ok(LogLimits::of(Arc::new(policies)).map(Arc::new))
}

fn unusable(what: &'static str, error: &dyn std::fmt::Display) -> UnusableRules {
    UnusableRules {
        what,
        problem: error.to_string(),
    }
}
