//! Ingest: from log to ledger.
//!
//! The walk of a record: `poll` reads it under an open `assignment` (made by `opening`), `batch`
//! keeps its bytes, `folding` decodes (`decode`), prices and folds it on a thread of its own,
//! `pipeline` commits it in one transaction (`store`), and the head goes back to Kafka as the
//! metadata of the group's offset. Beside it `watch` looks whether the log is still the same.
//!
//! Invariant: every record of every source partition is folded exactly once, whatever crashes.
//! Deliberately absent: SQL (`store`), prices and sums (`domain`), command lines (`tollbook`).

mod accounts;
mod ages;
mod assignment;
mod balances;
mod batch;
pub mod config;
pub mod corrections;
pub mod decode;
mod error;
pub mod event_schema;
mod folding;
mod gaps;
mod group;
mod headers;
pub mod kafka;
mod observe;
mod old_ids;
mod opening;
mod pipeline;
pub mod policies;
mod poll;
pub mod prices;
mod queues;
mod roll_up;
mod rules;
mod run;
pub mod source_config;
pub mod verify;
mod watch;

pub use error::{IngestError, exit_of_store};
pub use headers::Headers;
pub use kafka::head_metadata;
pub use rules::{Rules, UnusableRules};
pub use run::{IngestSettings, Mode, Summary, run};
