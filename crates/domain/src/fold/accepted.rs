//! Accepted events, as far as they may have to be taken out again as duplicates.
//!
//! Invariant: what is taken out is what was put in, exactly. Most events fit into 56 bytes; the few that do
//! not lie apart. Deliberately absent: what an event was posted under.

use crate::event::Identity;
use crate::ids::{Offset, Place};
use crate::meter::{METERS, Quantities};
use crate::money::Amount;

use super::Sums;

/// How many events lie in one piece of memory: pieces of one size go from batch to batch, and none is
/// copied into a larger one.
const PIECE: usize = 2048;

/// The accepted events of a part, in their order.
#[derive(Default)]
pub(super) struct AcceptedEvents {
    /// Full but for the last.
    pieces: Vec<Vec<Packed>>,
    count: u32,
    /// The offset of the first.
    base: i64,
    /// Those that do not fit into a packed event.
    large: Vec<Large>,
}

/// One accepted event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    pub(super) place: Place,
    pub(super) identity: Option<Identity>,
    /// The index of its posting in the part.
    pub(super) posting: u32,
    pub(super) sums: Sums,
}

/// What a packed event may have no room for.
#[derive(Clone, Copy)]
struct Large {
    place: Place,
    sums: Sums,
}

/// An accepted event in few bytes: a batch has up to a million, and they are written and read once each.
#[derive(Clone, Copy)]
struct Packed {
    /// The halves of the identity; 0 where it has none.
    identity: [u64; 2],
    /// The amount; of a large event the index among those.
    amount: i64,
    /// What comes on top of the first event's offset.
    offset: u32,
    index: u32,
    posting: u32,
    /// What was used, besides one request.
    quantities: [u32; SLOTS],
    /// Of which meters, each in four bits.
    meters: u16,
    flags: u8,
}

/// How many meters other than requests a packed event has room for; three or four are usual.
const SLOTS: usize = 4;

const IDENTIFIED: u8 = 1;
const FAILED: u8 = 1 << 1;
const UNMEASURED: u8 = 1 << 2;
const PRICED: u8 = 1 << 3;
const UNPRICED: u8 = 1 << 4;
const LARGE: u8 = 1 << 5;

impl AcceptedEvents {
    /// Returns how many there are, which is the next one's index; a batch holds far fewer than 2^32.
    pub(super) const fn len(&self) -> u32 {
        self.count
    }

    pub(super) fn push(&mut self, event: &Accepted) {
        if self.count == 0 {
            self.base = event.place.offset.0;
        }
        let mut packed = pack(event, self.base).unwrap_or_else(|| {
            let index = i64::try_from(self.large.len()).unwrap_or(i64::MAX);
            self.large.push(Large {
                place: event.place,
                sums: event.sums,
            });
            Packed {
                identity: [0; 2],
                amount: index,
                offset: 0,
                index: 0,
                posting: event.posting,
                quantities: [0; SLOTS],
                meters: 0,
                flags: LARGE,
            }
        });
        if let Some(identity) = event.identity {
            packed.identity = halves(identity.to_bits());
            packed.flags |= IDENTIFIED;
        }
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            // The first grows as it is filled, since at rest a part has few events.
            let room = if self.pieces.is_empty() { 0 } else { PIECE };
            self.pieces.push(Vec::with_capacity(room));
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(packed);
            self.count = self.count.saturating_add(1);
        }
    }

    pub(super) fn get(&self, index: u32) -> Option<Accepted> {
        let index = usize::try_from(index).ok()?;
        let packed = self.pieces.get(index / PIECE)?.get(index % PIECE)?;
        let (place, sums) = if packed.flags & LARGE == 0 {
            let place = Place {
                offset: Offset(self.base.checked_add(i64::from(packed.offset))?),
                index: packed.index,
            };
            (place, unpack(packed))
        } else {
            let large = self.large.get(usize::try_from(packed.amount).ok()?)?;
            (large.place, large.sums)
        };
        Some(Accepted {
            place,
            identity: packed.identity(),
            posting: packed.posting,
            sums,
        })
    }

    /// Returns the identities of those events that have one, with the events' indexes.
    pub(super) fn identities(&self) -> impl Iterator<Item = (u32, Identity)> + '_ {
        (0..)
            .zip(self.pieces.iter().flatten())
            .filter_map(|(index, event)| Some((index, event.identity()?)))
    }
}

impl Packed {
    fn identity(&self) -> Option<Identity> {
        let [high, low] = self.identity;
        let bits = (u128::from(high) << 64) | u128::from(low);
        (self.flags & IDENTIFIED != 0).then(|| Identity::from_bits(bits))
    }
}

fn halves(bits: u128) -> [u64; 2] {
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    [half(bits >> 64), half(bits)]
}

/// Packs an event, but for its identity; `None` where it has something that there is no room for.
fn pack(event: &Accepted, base: i64) -> Option<Packed> {
    let sums = &event.sums;
    let [requests, used @ ..] = sums.quantities.as_array();
    let mut quantities = [0; SLOTS];
    let mut meters = 0;
    let mut slots = quantities.iter_mut().zip((0..).step_by(4));
    for (meter, quantity) in (0_u16..).zip(used) {
        if *quantity != 0 {
            let (slot, shift) = slots.next()?;
            *slot = u32::try_from(*quantity).ok()?;
            meters |= meter << shift;
        }
    }
    let counts = [
        (sums.failed_requests, FAILED),
        (sums.unmeasured_requests, UNMEASURED),
        (sums.priced_requests, PRICED),
        (sums.unpriced_requests, UNPRICED),
    ];
    let mut beyond = *requests ^ 1;
    let mut flags = 0;
    for (count, flag) in counts {
        beyond |= count >> 1;
        if count & 1 != 0 {
            flags |= flag;
        }
    }
    let packed = Packed {
        identity: [0; 2],
        amount: i64::try_from(sums.amount.units()).ok()?,
        offset: u32::try_from(event.place.offset.0.checked_sub(base)?).ok()?,
        index: event.place.index,
        posting: event.posting,
        quantities,
        meters,
        flags,
    };
    (beyond == 0).then_some(packed)
}

fn unpack(packed: &Packed) -> Sums {
    let mut quantities = [0; METERS];
    let [requests, used @ ..] = &mut quantities;
    *requests = 1;
    for (quantity, shift) in packed.quantities.iter().zip((0..).step_by(4)) {
        // Slots that are not used name the first meter, and nothing of it.
        let meter = usize::from((packed.meters >> shift) & 0xf);
        if let Some(used) = used.get_mut(meter) {
            *used |= u64::from(*quantity);
        }
    }
    let count = |flag| u64::from(packed.flags & flag != 0);
    Sums {
        quantities: Quantities::from_array(quantities),
        failed_requests: count(FAILED),
        unmeasured_requests: count(UNMEASURED),
        priced_requests: count(PRICED),
        unpriced_requests: count(UNPRICED),
        amount: Amount::from_units(i128::from(packed.amount)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Accepted, AcceptedEvents, PIECE, Packed};
    use crate::event::Identity;
    use crate::ids::{Offset, Place};
    use crate::meter::Quantities;
    use crate::money::Amount;

    use super::Sums;

    /// Mostly none or little, now and then more than is packed.
    fn quantity() -> impl Strategy<Value = u64> {
        prop_oneof![
            6 => Just(0),
            3 => 1..100_000_u64,
            1 => prop_oneof![Just(u64::from(u32::MAX)), Just(u64::from(u32::MAX) + 1)],
        ]
    }

    prop_compose! {
        fn event()(
            offset in prop_oneof![9 => 0..1_000_i64, 1 => Just(1 << 40)],
            index in 0..3_u32,
            identity in proptest::option::of(any::<u128>()),
            posting in any::<u32>(),
            mut quantities in proptest::array::uniform10(quantity()),
            requests in prop_oneof![9 => Just(1), 1 => 0..3_u64],
            counts in proptest::array::uniform4(prop_oneof![9 => 0..2_u64, 1 => Just(2)]),
            amount in prop_oneof![
                Just(0), -1_000_000..1_000_000_i128, Just(i128::MAX / 4)
            ],
        ) -> Accepted {
            quantities[0] = requests;
            let [failed_requests, unmeasured_requests, priced_requests, unpriced_requests] = counts;
            Accepted {
                place: Place { offset: Offset(offset), index },
                identity: identity.map(Identity::from_bits),
                posting,
                sums: Sums {
                    quantities: Quantities::from_array(quantities),
                    failed_requests,
                    unmeasured_requests,
                    priced_requests,
                    unpriced_requests,
                    amount: Amount::from_units(amount).unwrap(),
                },
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_was_put_in(events in proptest::collection::vec(event(), 0..50)) {
            let mut kept = AcceptedEvents::default();
            events.iter().for_each(|event| kept.push(event));
            for (index, event) in (0..).zip(&events) {
                let found = kept.get(index).unwrap();
                prop_assert_eq!(found.place, event.place);
                prop_assert_eq!(found.identity, event.identity);
                prop_assert_eq!(found.posting, event.posting);
                prop_assert_eq!(found.sums, event.sums);
            }
            prop_assert!(kept.get(kept.len()).is_none());
            let identities: Vec<_> = kept.identities().collect();
            let expected: Vec<_> = (0..)
                .zip(&events)
                .filter_map(|(index, event)| Some((index, event.identity?)))
                .collect();
            prop_assert_eq!(identities, expected);
        }
    }

    #[test]
    fn events_are_found_in_every_piece() {
        let mut kept = AcceptedEvents::default();
        let count = u32::try_from(2 * PIECE + 1).unwrap();
        let event = |index| Accepted {
            place: Place {
                offset: Offset(i64::from(index)),
                index: 0,
            },
            identity: Some(Identity::from_bits(u128::from(index))),
            posting: index,
            sums: Sums::default(),
        };
        (0..count).for_each(|index| kept.push(&event(index)));
        for index in [0, 1, count / 2 - 1, count / 2, count - 1] {
            assert_eq!(kept.get(index).unwrap().posting, index);
        }
        assert_eq!(kept.len(), count);
        assert_eq!(kept.identities().count(), usize::try_from(count).unwrap());
        assert_eq!(size_of::<Packed>(), 56, "as the module's head says");
    }
}
