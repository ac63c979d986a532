//! Reports: what usage cost, and what was rejected, as tables, JSON or CSV.
//!
//! Invariant: numbers leave here as exact as they came, but in tables, which say what they round; and
//! no character that a terminal acts on leaves here raw, since ids and payloads come from outside.
//! Deliberately absent: the command line and the terminal, which the executable knows; SQL.

pub mod cost;
mod error;
pub mod explain;
mod output;
pub mod rejected;
mod table;
mod text;

pub use error::{ReportError, ReportErrorKind};
pub use output::{Output, UnknownOutput};
