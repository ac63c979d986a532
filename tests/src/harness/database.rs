//! A database as a test looks at it: SQL in, texts out.
//!
//! Invariant: every value comes as Postgres's own text, by the simple protocol; no type of the
//! product stands between a test and what is stored.

use std::sync::LazyLock;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::runtime::Runtime;

/// The runtime that the harness's own connections and proxies live on.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
});

/// One database of a server.
#[derive(Clone)]
pub struct Database {
    url: String,
    pool: PgPool,
}

/// A row: a text per column, `None` for null.
pub type TextRow = Vec<Option<String>>;

impl Database {
    /// Names a database; connects when it is asked something.
    #[must_use]
    pub fn at(url: &str) -> Self {
        let options = PgPoolOptions::new()
            .max_connections(4)
            .idle_timeout(Duration::from_secs(2))
            .acquire_timeout(Duration::from_secs(10));
        let _context = RUNTIME.enter();
        Self {
            url: url.to_owned(),
            pool: options.connect_lazy(url).unwrap(),
        }
    }

    /// Returns its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the pool, for a test of the store, whose own connections these may be.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Runs SQL and returns its rows.
    ///
    /// # Errors
    ///
    /// Whatever Postgres or the connection says.
    pub fn try_rows(&self, sql: &str) -> sqlx::Result<Vec<TextRow>> {
        let rows = RUNTIME.block_on(async {
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
                .fetch_all(&self.pool)
                .await
        })?;
        Ok(rows.iter().map(texts).collect())
    }

    /// Runs SQL and returns its rows; panics with Postgres's error.
    #[must_use]
    pub fn rows(&self, sql: &str) -> Vec<TextRow> {
        self.try_rows(sql)
            .unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    /// Runs SQL for its effect.
    pub fn run(&self, sql: &str) {
        let _rows = self.rows(sql);
    }

    /// Returns the only value of the only row; panics if it is null or there is none.
    #[must_use]
    pub fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        let first = rows.first().and_then(|row| row.first()).cloned().flatten();
        first.unwrap_or_else(|| panic!("no value: {sql}"))
    }

    /// Returns the only value as an integer.
    #[must_use]
    pub fn number(&self, sql: &str) -> i64 {
        self.value(sql)
            .parse()
            .unwrap_or_else(|error| panic!("{error}: {sql}"))
    }

    /// Opens a session of its own, for what must happen in one: transactions and settings.
    #[must_use]
    pub fn session(&self) -> Session {
        let connection = RUNTIME.block_on(PgConnection::connect(&self.url)).unwrap();
        Session { connection }
    }
}

/// One session of a database.
pub struct Session {
    connection: PgConnection,
}

impl Session {
    /// Runs SQL and returns its rows.
    ///
    /// # Errors
    ///
    /// Whatever Postgres or the connection says.
    pub fn try_rows(&mut self, sql: &str) -> sqlx::Result<Vec<TextRow>> {
        let rows = RUNTIME.block_on(async {
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
                .fetch_all(&mut self.connection)
                .await
        })?;
        Ok(rows.iter().map(texts).collect())
    }

    /// Runs SQL for its effect; panics with Postgres's error.
    pub fn run(&mut self, sql: &str) {
        self.try_rows(sql)
            .unwrap_or_else(|error| panic!("{error}\n{sql}"));
    }
}

/// Writes a text as an SQL literal.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn texts(row: &PgRow) -> TextRow {
    (0..row.len())
        .map(|column| {
            let value = row.try_get_raw(column).unwrap();
            value.as_str().ok().map(str::to_owned)
        })
        .collect()
}
