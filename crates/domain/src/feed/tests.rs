//! What is written is read back; anything else is refused.

use proptest::prelude::*;

use super::*;
use crate::account::{Base, OriginUse, Revision, SlotSum};
use crate::hash::Hash128;
use crate::units::Units;

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        (1..1_000_i32).prop_map(|chain| Origin::Chain(ChainId(chain))),
        any::<u64>().prop_map(|replica| Origin::Replica(ReplicaId(replica))),
        Just(Origin::Opening),
        Just(Origin::Adjustment),
    ]
}

fn instant() -> impl Strategy<Value = UnixMs> {
    (0..=UnixMs::LAST.get()).prop_filter_map("an instant", UnixMs::new)
}

fn units() -> impl Strategy<Value = Units> {
    prop_oneof![any::<i128>(), -5..5_i128].prop_map(Units::new)
}

fn message() -> impl Strategy<Value = Message> {
    let slot = (instant(), units()).prop_map(|(start, sum)| SlotSum { start, sum });
    let slots = proptest::collection::vec(slot, 0..70);
    let included = proptest::collection::btree_map(origin(), units(), 0..4);
    let base = (instant(), any::<i128>(), included)
        .prop_map(|(at, level, included)| Base::new(at, level, included));
    let revision =
        (any::<i64>(), any::<i64>()).prop_map(|(epoch, number)| Revision { epoch, number });
    (
        origin(),
        revision,
        units(),
        slots,
        proptest::option::of(base),
    )
        .prop_map(|(origin, revision, total, slots, base)| Message {
            origin,
            use_: OriginUse::new(revision, total, slots),
            base,
        })
}

fn hash() -> impl Strategy<Value = Hash128> {
    any::<[u8; 16]>().prop_map(Hash128::from_bytes)
}

fn mark() -> impl Strategy<Value = Mark> {
    let numbers = (any::<i32>(), any::<i64>(), any::<i64>());
    (
        numbers,
        proptest::option::of(instant()),
        instant(),
        any::<bool>(),
    )
        .prop_map(|((chain, epoch, part), watermark, at, is_last)| Mark {
            chain: ChainId(chain),
            epoch,
            part: PartNumber(part),
            watermark,
            at,
            is_last,
        })
}

fn entry() -> impl Strategy<Value = Entry> {
    (hash(), hash(), message()).prop_map(|(limit, counter, message)| Entry {
        limit: LimitId(limit),
        counter: CounterKey(counter),
        message,
    })
}

proptest! {
    #[test]
    fn balances_are_read_back(
        (limit, counter, origin) in (hash(), hash(), origin()),
        message in message(),
        mark in mark(),
    ) {
        let key = BalanceKey::Account {
            limit: LimitId(limit),
            counter: CounterKey(counter),
            origin,
        };
        prop_assert_eq!(BalanceKey::from_bytes(&key.to_bytes()), Ok(key));
        let chain = BalanceKey::Mark(mark.chain);
        prop_assert_eq!(BalanceKey::from_bytes(&chain.to_bytes()), Ok(chain));
        for balance in [Balance::Account(message), Balance::Mark(mark)] {
            prop_assert_eq!(Balance::from_bytes(&balance.to_bytes()), Ok(balance));
        }
    }

    #[test]
    fn frames_are_read_back_and_cut_ones_are_refused(
        replica in any::<u64>(),
        at in instant(),
        entries in proptest::collection::vec(entry(), 0..5),
        cut in any::<proptest::sample::Index>(),
    ) {
        let frame = Frame { replica: ReplicaId(replica), at, entries };
        let bytes = frame.to_bytes();
        prop_assert_eq!(Frame::from_bytes(&bytes), Ok(frame));
        let cut = bytes.get(..cut.index(bytes.len())).unwrap_or_default();
        prop_assert!(Frame::from_bytes(cut).is_err(), "a cut frame is no frame");
    }

    #[test]
    fn noise_is_refused_without_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let versioned = [&[1_u8][..], &noise].concat();
        for bytes in [&noise, &versioned] {
            let _read = (
                BalanceKey::from_bytes(bytes),
                Balance::from_bytes(bytes),
                Frame::from_bytes(bytes),
            );
        }
    }
}

#[test]
fn another_version_is_told_by_its_number() {
    let mut bytes = BalanceKey::Mark(ChainId(7)).to_bytes();
    bytes.iter_mut().take(1).for_each(|version| *version = 9);
    assert_eq!(
        BalanceKey::from_bytes(&bytes),
        Err(FeedError::Version(9)),
        "it is not this version"
    );
    assert_eq!(Frame::from_bytes(&[]), Err(FeedError::Empty), "nothing");
}
