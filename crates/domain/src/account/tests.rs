//! Accounts and counters against slow, obvious models.
//!
//! Invariant: a model keeps every event, or every message, in a list and computes from the whole of
//! it; a bucket's model is the other form of the algorithm (virtual scheduling, by arrival times).

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that overflows or misses an index fails"
)]

mod convergence;
mod grounds;
mod models;
mod verdicts;
