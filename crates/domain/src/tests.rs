//! Property tests of the domain against slow, obvious models.
//!
//! Invariant: a model shares no arithmetic with what it checks; money is counted on digits.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that overflows or misses an index fails"
)]

mod event;
mod fold;
mod hash;
mod money;
mod part;
mod pricing;
mod reprice;
mod slow;
