//! Postgres as the feed uses it: it may be away at any time, the start included.
//!
//! Invariant: no question waits longer than a bound, and whether Postgres answers is told when it
//! changes. Deliberately absent: what is asked.

use std::time::Duration;

use parking_lot::Mutex;
use store::{Database, Role, StoreError};
use tokio::time::timeout;

use crate::observe::feed as observe;

/// How long a question may take: Postgres ends statements after as long.
const PATIENCE: Duration = Duration::from_secs(15);

/// A database that is opened when it first answers.
#[derive(Debug)]
pub(crate) struct Postgres {
    url: String,
    opened: Mutex<Option<Database>>,
    is_up: Mutex<Option<bool>>,
}

impl Postgres {
    pub(crate) const fn new(url: String) -> Self {
        Self {
            url,
            opened: Mutex::new(None),
            is_up: Mutex::new(None),
        }
    }

    /// Asks something; `None` where Postgres did not do it, which is told. The caller asks again later.
    pub(crate) async fn ask<T, F>(
        &self,
        what: &'static str,
        question: impl FnOnce(Database) -> F,
    ) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let asked = async {
            let opened = self.opened.lock().clone();
            let database = match opened {
                Some(database) => database,
                None => {
                    let database = Database::open(&self.url, Role::Enforcer).await?;
                    *self.opened.lock() = Some(database.clone());
                    database
                }
            };
            question(database).await
        };
        let answer = match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                observe::postgres_failed(what, &error);
                None
            }
            Err(_elapsed) => {
                observe::postgres_silent(what);
                None
            }
        };
        self.is(answer.is_some());
        answer
    }

    fn is(&self, is_up: bool) {
        let mut known = self.is_up.lock();
        if *known != Some(is_up) {
            *known = Some(is_up);
            observe::postgres_up(is_up);
        }
    }
}
