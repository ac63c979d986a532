//! Randomness: where the process draws what nobody else may know.
//!
//! Invariant: rooms that must run alike twice take what was drawn here as an argument. Deliberately
//! absent: secrets that outlive the process.

use std::hash::{BuildHasher as _, RandomState};

/// Draws words of a key that lives as long as the process. std's random state is keyed by the system's
/// randomness, and no two are alike.
#[must_use]
pub fn words<const N: usize>() -> [u64; N] {
    std::array::from_fn(|word| RandomState::new().hash_one(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_draws_are_alike() {
        assert_ne!(words::<4>(), words::<4>());
    }
}
