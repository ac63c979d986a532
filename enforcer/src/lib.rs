//! Decisions: may this request go?
//!
//! Invariant: between parsing a request and answering it nothing is awaited, and no lock is held across
//! an await. Deliberately absent: SQL, and what policies and limits mean, which is the domain's.

pub mod counters;
