//! The canonical hash against BLAKE3 of the same bytes in one piece.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};

use crate::hash::Canonical;

/// Texts from none to several pieces of the hash.
fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let sizes = prop_oneof![4 => 0..40_usize, 2 => 16_300..16_420_usize, 1 => 0..70_000_usize];
    vec(
        (sizes, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
        0..12,
    )
}

proptest! {
    #[test]
    fn fields_in_pieces_hash_as_one_text(texts in texts(), numbers in vec(any::<i64>(), 0..3_000)) {
        let mut canonical = Canonical::new("kind/1");
        let mut plain = 6_u64.to_be_bytes().to_vec();
        plain.extend(b"kind/1");
        for text in &texts {
            canonical.bytes(text);
            plain.extend(u64::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text);
        }
        for number in &numbers {
            canonical.signed(*number);
            plain.extend(number.to_be_bytes());
        }
        let hash = *blake3::hash(&plain).as_bytes();
        prop_assert_eq!(canonical.finish256().to_bytes(), hash);
        prop_assert_eq!(&canonical.finish128().to_bytes()[..], &hash[..16]);
    }
}
