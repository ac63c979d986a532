//! Postgres: the only room that knows SQL, one file per family of transactions.
//!
//! Invariant: what a batch puts into the ledger, the positions it moves and the ids it takes commit
//! together or not at all, and only while its process owns the chains. Deliberately absent: Kafka,
//! decoding, configuration files, retry loops; callers retry by the kind of [`StoreError`].

pub mod accounts;
pub mod adjust;
pub mod audit;
pub mod batch;
pub mod checkup;
pub mod claim;
mod connect;
mod copy;
pub mod cost;
mod error;
pub mod explain;
pub mod fault;
pub mod gap;
pub mod in_force;
mod migrate;
pub mod partitions;
pub mod policies;
pub mod prices;
pub mod rejected;
mod roles;
pub mod rollup;
mod socket;
pub mod source;
pub mod watermark;

pub use batch::{
    Advanced, BatchWrite, CommitError, Committed, IdleAdvance, PartWrite, ResolvePart, Resolved,
    Writer,
};
pub use connect::{Backend, Database, Role};
pub use error::StoreError;
pub use migrate::{Migrated, Roles, migrate};
