//! What a process remembers of the ids that it took: a hint which of a batch's ids were taken before.
//!
//! Invariant: a hint only. An id that is remembered is looked up, one that is not is copied, and the
//! unique index decides; so what is forgotten, or taken by another process, costs time and nothing
//! else. Bounded: 16 MiB, some four million ids.

use domain::event::Identity;

/// Tags of one bucket: a cache line.
const TAGS: usize = 16;

/// Buckets; a power of two.
const BUCKETS: usize = 1 << 18;

/// Remembers ids by 32 bits of their hash, in the bucket that other bits name; the oldest of a
/// bucket makes room for a new one.
#[derive(Debug)]
pub(crate) struct RecentIds {
    buckets: Vec<[u32; TAGS]>,
}

impl Default for RecentIds {
    fn default() -> Self {
        Self {
            buckets: vec![[0; TAGS]; BUCKETS],
        }
    }
}

impl RecentIds {
    /// Remembers an id, and says whether it may have been taken before; one in a hundred million that were
    /// not is taken for one that was.
    pub(super) fn note(&mut self, id: Identity) -> bool {
        let (bucket, tag) = place_of(id);
        let Some(tags) = self.buckets.get_mut(bucket) else {
            return false;
        };
        let is_known = tags.contains(&tag);
        if !is_known {
            tags.copy_within(..TAGS - 1, 1);
            tags[0] = tag;
        }
        is_known
    }
}

/// Both come from the lower bits of an id, which are a hash.
fn place_of(id: Identity) -> (usize, u32) {
    let [.., a, b, c, d, e, f, g, h] = id.to_bits().to_be_bytes();
    let bucket = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(0) & (BUCKETS - 1);
    // Zero stands for an empty place.
    (bucket, u32::from_be_bytes([e, f, g, h]).max(1))
}

#[cfg(test)]
mod tests {
    use domain::event::Identity;

    use super::{BUCKETS, RecentIds, TAGS};

    /// Spreads numbers over all bits, as hashes are.
    fn id(number: u64) -> Identity {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Identity::from_bits(u128::from(mixed ^ (mixed >> 29)).wrapping_mul(0x0001_0000_0001))
    }

    #[test]
    fn what_was_added_is_remembered_and_little_else_is() {
        let mut recent = RecentIds::default();
        let count = u64::try_from(BUCKETS * TAGS / 4).unwrap();
        let taken_for_known = (0..count).filter(|number| recent.note(id(*number)));
        assert!(
            taken_for_known.count() < 100,
            "few are taken for one that was added"
        );
        // In the reverse order, so that what this adds pushes nothing out that is still asked for.
        let remembered = (0..count).rev().filter(|number| recent.note(id(*number)));
        assert!(
            u64::try_from(remembered.count()).unwrap() * 1000 >= count * 999,
            "a quarter full loses nearly none"
        );
    }
}
