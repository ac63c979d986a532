//! Putting policies in force: what a set of files would change, and the change.
//!
//! Invariant: a set with a fault never comes here, so the one in force stays. A start applies the
//! configuration's files only where that very set never was applied at a start, so that a restart undoes
//! nothing decided since. Deliberately absent: reading files (the executable) and SQL (`store`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use domain::counting::LogLimits;
use domain::ids::Version;
use domain::policy::CompiledSet;
use domain::policy::files::{PolicyFile, compile_files, content_hash};
use domain::policy::model::{CountedFrom, LimitId};
use domain::time::UnixMs;
use store::policies::{NewPolicies, Put};
use store::{Database, StoreError};

use crate::rules::UnusableRules;

/// How often a change is worked out anew because another came first.
const TRIES_MAX: u32 = 100;

/// Policy files that were read and compiled together.
#[derive(Debug, Clone)]
pub struct PolicyFiles {
    /// The files, in their order.
    pub files: Vec<PolicyFile>,
    /// What they mean.
    pub set: Arc<CompiledSet>,
    /// Where they came from, for people.
    pub origin: String,
}

/// Why policies cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum PoliciesError {
    /// Postgres is away, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in force was written by a newer program.
    #[error(transparent)]
    InForce(#[from] UnusableRules),
}

/// What becomes of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It begins to count.
    Starts,
    /// It goes on counting; its value may be another.
    Stays,
    /// It counts no more.
    Ends,
}

impl Change {
    /// Returns the word that reports use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starts => "starts",
            Self::Stays => "stays",
            Self::Ends => "ends",
        }
    }
}

/// What becomes of one limit at one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitChange {
    /// What becomes of it.
    pub change: Change,
    /// The policy.
    pub policy: String,
    /// The attachment; empty for the unnamed one.
    pub attachment: String,
    /// The limit.
    pub limit: String,
    /// What it is counted from.
    pub from: CountedFrom,
    /// The identity of its counters.
    pub id: LimitId,
    /// Of a limit that counts from the log and does not end: from when on it counts all of its use.
    pub whole_from: Option<UnixMs>,
}

/// A change that was worked out and not yet made.
#[derive(Debug, Clone)]
pub struct ApplyPlan {
    /// The version in force before.
    pub before: Option<Version>,
    /// The limits of both sets: those of the new one in its order, then those that end.
    pub limits: Vec<LimitChange>,
    /// The same files are in force already.
    pub is_nothing: bool,
}

/// Works out what putting files in force would change.
///
/// # Errors
///
/// Each [`PoliciesError`].
pub async fn plan_apply(db: &Database, files: &PolicyFiles) -> Result<ApplyPlan, PoliciesError> {
    let now = store::watermark::clock(db).await?;
    let held = store::policies::load(db).await?;
    let Some(held) = held else {
        return Ok(ApplyPlan {
            before: None,
            limits: changes(&CompiledSet::default(), &HashMap::new(), &files.set, now),
            is_nothing: false,
        });
    };
    let old = compile_files(&held.files).map_err(|errors| UnusableRules::of_policies(&errors))?;
    Ok(ApplyPlan {
        before: Some(held.version),
        limits: changes(&old, &held.whole_from, &files.set, now),
        is_nothing: held.hash == content_hash(&files.files),
    })
}

/// Puts files in force, unless they are already; returns the plan that was followed and the version.
///
/// # Errors
///
/// Each [`PoliciesError`]; nothing was changed. [`StoreError::Busy`] where batches do not let go in time.
pub async fn apply(
    db: &Database,
    files: &PolicyFiles,
) -> Result<(ApplyPlan, Option<Version>), PoliciesError> {
    for _ in 0..TRIES_MAX {
        let plan = plan_apply(db, files).await?;
        if plan.is_nothing {
            return Ok((plan, None));
        }
        match store::policies::put(db, &new_policies(&plan, files)).await? {
            Put::Yes(version) => return Ok((plan, Some(version))),
            Put::Moved | Put::AlreadyApplied => {}
        }
    }
    Err(StoreError::Busy(None).into())
}

/// Puts the configuration's files in force, unless this very set was applied at a start before. Without
/// files it does nothing: what was applied by hand stays.
///
/// # Errors
///
/// As [`apply`].
pub async fn apply_at_start(db: &Database, files: &PolicyFiles) -> Result<(), StoreError> {
    if files.files.is_empty() {
        return Ok(());
    }
    let hash = content_hash(&files.files);
    for _ in 0..TRIES_MAX {
        // Looked up before any lock is asked for, since mostly it was applied, and a start must not
        // wait for a batch that is stuck.
        if store::policies::was_applied_at_start(db, hash).await? {
            return Ok(());
        }
        let new = NewPolicies {
            after: store::policies::version_in_force(db).await?,
            files: files.files.clone(),
            set: Arc::clone(&files.set),
            origin: files.origin.clone(),
        };
        match store::policies::put_at_start(db, &new).await? {
            Put::Yes(_) | Put::AlreadyApplied => return Ok(()),
            Put::Moved => {}
        }
    }
    Err(StoreError::Busy(None))
}

fn new_policies(plan: &ApplyPlan, files: &PolicyFiles) -> NewPolicies {
    NewPolicies {
        after: plan.before,
        files: files.files.clone(),
        set: Arc::clone(&files.set),
        origin: files.origin.clone(),
    }
}

/// Compares two sets limit by limit.
fn changes(
    old: &CompiledSet,
    whole_from: &HashMap<LimitId, UnixMs>,
    new: &Arc<CompiledSet>,
    now: UnixMs,
) -> Vec<LimitChange> {
    let of_set = |set: &CompiledSet, change: &dyn Fn(LimitId) -> Option<Change>| {
        let limits = set.limits().filter_map(|(id, policy, attachment, limit)| {
            Some(LimitChange {
                change: change(id)?,
                policy: policy.name.clone(),
                attachment: attachment.name.clone(),
                limit: limit.name.clone(),
                from: limit.from,
                id,
                whole_from: None,
            })
        });
        limits.collect::<Vec<_>>()
    };
    let log_limits = LogLimits::of(Arc::clone(new));
    let starting: HashMap<LimitId, UnixMs> = log_limits
        .iter()
        .flat_map(|limits| limits.iter())
        .map(|limit| (limit.id, limit.whole_from(now)))
        .collect();
    let old_ids: HashSet<_> = old.limits().map(|(id, ..)| id).collect();
    let new_ids: HashSet<_> = new.limits().map(|(id, ..)| id).collect();
    let mut limits = of_set(new, &|id| {
        Some(if old_ids.contains(&id) {
            Change::Stays
        } else {
            Change::Starts
        })
    });
    for limit in &mut limits {
        let starting = starting.get(&limit.id).copied();
        limit.whole_from = whole_from.get(&limit.id).copied().or(starting);
    }
    limits.extend(of_set(old, &|id| {
        (!new_ids.contains(&id)).then_some(Change::Ends)
    }));
    limits
}
