//! Accepted events, as far as they may have to be taken out again as duplicates.
//!
//! Invariant: what is taken out is what was put in, exactly. Most events fit into 88 bytes; the sums of
//! larger ones lie apart. Deliberately absent: what an event was posted under.

use crate::event::Identity;
use crate::ids::{Offset, Place};
use crate::meter::{METERS, Quantities};
use crate::money::Amount;

use super::Sums;

/// The accepted events of a part, in their order.
#[derive(Default)]
pub(super) struct AcceptedEvents {
    events: Vec<Packed>,
    /// The sums that do not fit into a packed event.
    large: Vec<Sums>,
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

/// An accepted event in few bytes: a batch has up to a hundred thousand, and they are written and read
/// once each.
#[derive(Clone, Copy)]
struct Packed {
    /// The halves of the identity; 0 where it has none.
    identity: [u64; 2],
    offset: i64,
    /// The amount; of a large event the index of its sums.
    amount: i64,
    index: u32,
    posting: u32,
    quantities: [u32; METERS],
    flags: u8,
}

const IDENTIFIED: u8 = 1;
const FAILED: u8 = 1 << 1;
const UNMEASURED: u8 = 1 << 2;
const PRICED: u8 = 1 << 3;
const UNPRICED: u8 = 1 << 4;
const LARGE: u8 = 1 << 5;

impl AcceptedEvents {
    pub(super) const fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn reserve(&mut self, events: usize) {
        self.events.reserve(events);
    }

    pub(super) fn push(&mut self, event: &Accepted) {
        let identity = event.identity.map_or(0, Identity::to_bits);
        let mut packed = Packed {
            identity: halves(identity),
            offset: event.place.offset.0,
            amount: 0,
            index: event.place.index,
            posting: event.posting,
            quantities: [0; METERS],
            flags: if event.identity.is_some() {
                IDENTIFIED
            } else {
                0
            },
        };
        if let Some((amount, quantities, flags)) = pack(&event.sums) {
            packed.amount = amount;
            packed.quantities = quantities;
            packed.flags |= flags;
        } else {
            packed.amount = i64::try_from(self.large.len()).unwrap_or(i64::MAX);
            packed.flags |= LARGE;
            self.large.push(event.sums);
        }
        self.events.push(packed);
    }

    pub(super) fn get(&self, index: usize) -> Option<Accepted> {
        let packed = self.events.get(index)?;
        let sums = if packed.flags & LARGE == 0 {
            unpack(packed)
        } else {
            *self.large.get(usize::try_from(packed.amount).ok()?)?
        };
        Some(Accepted {
            place: Place {
                offset: Offset(packed.offset),
                index: packed.index,
            },
            identity: packed.identity(),
            posting: packed.posting,
            sums,
        })
    }

    /// Returns the identities of those events that have one, with the events' indexes.
    pub(super) fn identities(&self) -> impl Iterator<Item = (usize, Identity)> + '_ {
        self.events
            .iter()
            .enumerate()
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

/// Packs sums; `None` where one of them is too large.
fn pack(sums: &Sums) -> Option<(i64, [u32; METERS], u8)> {
    let mut quantities = [0; METERS];
    let mut beyond = 0;
    for (packed, quantity) in quantities.iter_mut().zip(sums.quantities.as_array()) {
        beyond |= *quantity >> 32;
        *packed = u32::try_from(*quantity & u64::from(u32::MAX)).unwrap_or(0);
    }
    let counts = [
        (sums.failed_requests, FAILED),
        (sums.unmeasured_requests, UNMEASURED),
        (sums.priced_requests, PRICED),
        (sums.unpriced_requests, UNPRICED),
    ];
    let mut flags = 0;
    for (count, flag) in counts {
        beyond |= count >> 1;
        if count & 1 != 0 {
            flags |= flag;
        }
    }
    let amount = i64::try_from(sums.amount.units()).ok()?;
    (beyond == 0).then_some((amount, quantities, flags))
}

fn unpack(packed: &Packed) -> Sums {
    let count = |flag| u64::from(packed.flags & flag != 0);
    Sums {
        quantities: Quantities::from_array(packed.quantities.map(u64::from)),
        failed_requests: count(FAILED),
        unmeasured_requests: count(UNMEASURED),
        priced_requests: count(PRICED),
        unpriced_requests: count(UNPRICED),
        amount: Amount::from_units(i128::from(packed.amount)).unwrap_or_default(),
    }
}
