//! Random numbers for made-up traffic and for the demo's password.
//!
//! Invariant: the seed comes from the system, so two demos differ. Deliberately absent: any claim
//! that the numbers after the seed are fit for secrets.

use std::fs::File;
use std::io::Read as _;

use service::Failure;

/// `SplitMix64` (Steele, Lea, Flood 2014), seeded by the system, with 128 secret bits beside it.
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
    secret: [u8; 16],
}

impl Random {
    /// Seeds a generator from `/dev/urandom`.
    ///
    /// # Errors
    ///
    /// The system has no such device.
    pub(super) fn from_system() -> Result<Self, Failure> {
        let mut bytes = [0_u8; 24];
        File::open("/dev/urandom")
            .and_then(|mut device| device.read_exact(&mut bytes))
            .map_err(|error| {
                Failure::unexpected(format!("/dev/urandom cannot be read: {error}"))
            })?;
        let mut seed = [0_u8; 8];
        let mut secret = [0_u8; 16];
        let (front, back) = bytes.split_at(8);
        seed.copy_from_slice(front);
        secret.copy_from_slice(back);
        Ok(Self {
            state: u64::from_le_bytes(seed),
            secret,
        })
    }

    /// Returns the 128 secret bits in hexadecimal.
    pub(super) fn hex(&self) -> String {
        format!("{:032x}", u128::from_le_bytes(self.secret))
    }

    /// Returns the next number.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 up to but without `bound`, which must not be 0; the bias of the
    /// remainder does not matter to made-up traffic.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Tells true once in `times`, on average.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Picks one of the values by their weights.
    pub(super) fn pick<'a, T>(&mut self, weighted: &'a [(T, u64)]) -> Option<&'a T> {
        let total = weighted.iter().map(|(_, weight)| weight).sum();
        let mut left = self.below(total);
        for (value, weight) in weighted {
            if left < *weight {
                return Some(value);
            }
            left -= weight;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_of_zero_is_never_picked() {
        let mut random = Random::from_system().unwrap();
        let weighted = [("never", 0), ("often", 3), ("rarely", 1)];
        let picked: Vec<_> = (0..1000).filter_map(|_| random.pick(&weighted)).collect();
        assert_eq!(picked.len(), 1000, "each time one is picked");
        assert!(!picked.contains(&&"never"), "weight 0");
        assert!(
            picked.contains(&&"rarely"),
            "weight 1 of 4, a thousand times"
        );
    }
}
