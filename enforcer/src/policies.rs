//! The policies in force: looked for in Postgres, compiled, swapped whole.
//!
//! Invariant: a stored set that cannot be used is told and leaves the one before in force; an unread
//! Postgres does, too. Deliberately absent: who puts policies in force.

use std::sync::Arc;
use std::time::Duration;

use domain::ids::Version;
use domain::limit::LimitSpec;
use domain::policy::files::compile_files;
use domain::policy::model::LimitId;
use service::Shutdown;
use store::policies::PolicySet;
use tokio::time::sleep;

use crate::engine::{PoliciesInForce, Source};
use crate::feed::postgres::Postgres;
use crate::feed::{Shared, now};
use crate::observe::feed as observe;

/// How often it is looked whether others are in force: a raised limit acts within a second.
const LOOK: Duration = Duration::from_millis(250);

/// What is known of the version in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It was never asked for.
    Nothing,
    /// This one, used or refused; `None` where no policies ever were in force.
    Version(Option<Version>),
}

/// Follows the policies in force until the shutdown. `others` are the limits that count beside policies.
pub(crate) async fn follow(
    shared: &Shared,
    postgres: &Arc<Postgres>,
    others: &[(LimitId, LimitSpec)],
    shutdown: &Shutdown,
) {
    let mut known = Known::Nothing;
    loop {
        let looked = async {
            Box::pin(look(shared, postgres, others, &mut known)).await;
            sleep(LOOK).await;
        };
        // A process that ends waits for no answer.
        if shutdown.unless_requested(looked).await.is_none() {
            return;
        }
    }
}

async fn look(
    shared: &Shared,
    postgres: &Arc<Postgres>,
    others: &[(LimitId, LimitSpec)],
    known: &mut Known,
) -> Option<()> {
    let asked = now();
    let version = postgres
        .ask("version of policies", async move |database| {
            store::policies::version_in_force(&database).await
        })
        .await?;
    let is_known = *known == Known::Version(version);
    let is_usable = match version {
        _ if is_known => true,
        // Whatever was in force before Postgres was asked (the files of a start, maybe) stays.
        None => {
            shared.policies_known();
            true
        }
        Some(version) => {
            let set = postgres
                .ask("policies", async move |database| {
                    store::policies::load_version(&database, version).await
                })
                .await??;
            put(shared, set, others).await
        }
    };
    *known = Known::Version(version);
    let sources = shared.engine.sources();
    sources.note(Source::Postgres, asked);
    // Refused ones do not count as known, or nobody would see how old those in force are.
    if is_usable && (!is_known || !shared.has_refused_policies()) {
        sources.note(Source::Policies, asked);
    }
    Some(())
}

/// Puts a stored set in force; says whether that could be done.
async fn put(shared: &Shared, stored: PolicySet, others: &[(LimitId, LimitSpec)]) -> bool {
    let version = stored.version.0;
    let PolicySet {
        files, whole_from, ..
    } = stored;
    // Many policies take seconds to compile, and this thread sends frames.
    let compiled = tokio::task::spawn_blocking(move || compile_files(&files)).await;
    let set = match compiled {
        Ok(Ok(set)) => set,
        Ok(Err(errors)) => {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            observe::bad_policies(version, &errors.join("; "));
            shared.policies_refused();
            return false;
        }
        Err(panic) => {
            observe::bad_policies(version, &panic.to_string());
            shared.policies_refused();
            return false;
        }
    };
    shared.swap(PoliciesInForce {
        set,
        version,
        others: others.to_vec(),
        whole_from,
    });
    shared.policies_known();
    true
}
