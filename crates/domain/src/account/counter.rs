//! The counter that a replica holds per limit and key: an account in the form that decides fast.
//!
//! Invariant: its level is that of an account of all that was merged and of its own use (for buckets
//! at least that), whatever came first. Checking and charging allocate nothing, but when a counter
//! first sees so many slots at once; merging may. Deliberately absent: locks, keys, time.
//!
//! Of buckets the process follows its own use exactly, beside the slots: own use alone is a lower
//! bound of all use, as the slots are, so the greater of both is the best that is known. Where one
//! replica decides, that is the exact algorithm.

pub(super) mod grounds;
mod level;

use super::bucket::{self, Base, Fluid, Walk};
use super::table::{Drops, Slot, SlotTable};
use super::{Account, Message, Origin, OriginUse, Revision, SLOTS_MAX, sliding_cut};
use crate::decision::{Asked, Verdict};
use crate::limit::{Algorithm, LimitSpec, Moment};
use crate::time::UnixMs;
use crate::units::Units;
use crate::window::{WindowLength, WindowSpec};

/// Own slots of a calendar or fixed window that are kept: the present one, and three around it, for a
/// clock that is set back or forth.
const WINDOWS_MAX: u16 = 4;

/// Slots of a bucket that are kept at most: those of several origins that have not folded theirs.
const BUCKET_SLOTS_MAX: u16 = 4 * OWN_SLOTS_MAX;

/// [`SLOTS_MAX`], as tables have it.
const OWN_SLOTS_MAX: u16 = 64;

const _: () = assert!(SLOTS_MAX == 64, "both are one bound");

/// One limit's use by one key, as one replica sees it. What a decision looks at comes first; what one
/// of a bucket does lies in lines of its own.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct Counter {
    others: Option<Box<Others>>,
    own: SlotTable,
    origin: Origin,
    bucket: Option<Bucket>,
}

/// What the other origins counted: by origin, and all together.
#[derive(Debug, Clone)]
struct Others {
    account: Account,
    table: SlotTable,
}

/// What only buckets need; their levels lie beside the newest slot, so that a decision follows no
/// pointer.
#[derive(Debug, Clone)]
struct Bucket {
    /// The walk from the base over all slots: see [`Account`].
    merged: Fluid,
    /// Own use alone, at its very instants.
    exact: Fluid,
    /// All that this process ever charged.
    own_total: Total,
    /// When the oldest slot is to be folded, in milliseconds since 1970.
    fold_due: i64,
    base: Option<Box<Base>>,
}

/// A sum, packed.
#[derive(Debug, Clone, Copy)]
#[repr(C, packed(8))]
struct Total(Units);

impl Total {
    const fn add(&mut self, units: Units) {
        self.0 = self.get().saturating_add(units);
    }

    const fn get(self) -> Units {
        self.0
    }
}

impl Bucket {
    const EMPTY: Self = Self {
        base: None,
        own_total: Total(Units::ZERO),
        merged: Fluid::EMPTY,
        exact: Fluid::EMPTY,
        fold_due: i64::MAX,
    };
}

impl Counter {
    /// Begins a counter of a limit; `origin` is this process's own.
    #[must_use]
    pub fn new(limit: &LimitSpec, origin: Origin) -> Self {
        let bucket = match limit.algorithm() {
            Algorithm::Window(_) => None,
            Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => Some(Bucket::EMPTY),
        };
        Self {
            origin,
            own: own_table(limit),
            bucket,
            others: None,
        }
    }

    /// Says what the limit says to an ask at this moment. Charges nothing.
    #[inline]
    pub fn check(&mut self, limit: &LimitSpec, moment: Moment, asked: Asked) -> Verdict {
        let asked = asked.units();
        match limit.algorithm() {
            Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => {
                let start = moment.slot.start();
                let others = self.others.as_ref();
                let others = others.map_or(0, |others| others.table.sum_at(start));
                let used = Units::new(self.own.sum_at(start).saturating_add(others));
                let reset = moment.slot.end();
                let verdict = Verdict::of(limit.limit(), used, asked, reset);
                // A window that begins anew has room for whatever fits the limit at all.
                verdict.retried_at(|| (asked <= limit.limit()).then_some(reset))
            }
            Algorithm::Window(WindowSpec::Sliding(length)) => {
                self.check_sliding(limit, *length, moment, asked)
            }
            Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
                self.check_bucket(limit, *refill, moment, asked)
            }
        }
    }

    /// Charges what was admitted, or what a report says, in full; beyond the limit, too.
    #[inline]
    pub fn charge(&mut self, limit: &LimitSpec, moment: Moment, units: Units) {
        if units.is_zero() {
            return;
        }
        match limit.algorithm() {
            Algorithm::Window(_) => self.own.add(moment.slot.start(), units),
            Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
                self.charge_bucket(*refill, moment, units.or_zero());
            }
        }
    }

    /// Returns when, without more use, nothing of what counts now counts any longer: see
    /// [`Verdict::reset`].
    #[must_use]
    pub fn reset(&self, limit: &LimitSpec, moment: Moment) -> UnixMs {
        match limit.algorithm() {
            Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => moment.slot.end(),
            Algorithm::Window(WindowSpec::Sliding(length)) => {
                let slot_ms = limit.algorithm().slots().slot_ms(moment.now);
                let newest = self.newest_start();
                if newest > sliding_cut(moment.now, length.ms(), slot_ms) {
                    leaves(newest, *length, slot_ms)
                } else {
                    moment.now
                }
            }
            Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
                let walk = Walk::of(*refill);
                let level = self.level(walk, moment.now);
                let now = self.now(moment.now);
                now.saturating_add_ms(walk.ms_to_drain(level))
            }
        }
    }

    /// Merges what another origin says; of this process's own messages, which come back to it, only
    /// the base.
    pub fn merge(&mut self, limit: &LimitSpec, mut message: Message) {
        let is_later = self.merge_base(message.base.take());
        let is_own = message.origin == self.origin;
        let is_newer = !is_own && {
            let others = self.others.get_or_insert_with(|| {
                let (account, table) = (Account::default(), others_table(limit));
                Box::new(Others { account, table })
            });
            others.account.merge(message)
        };
        if is_later || is_newer {
            self.merge_slots(limit);
        }
    }

    /// Forgets the other origins whose use no longer counts. What a base holds of them it goes on
    /// holding, so that a message that arrives again counts nothing twice.
    pub fn prune(&mut self, limit: &LimitSpec, now: UnixMs) {
        let cut = self.cut(limit, now);
        let base = self
            .bucket
            .as_ref()
            .and_then(|bucket| bucket.base.as_deref());
        let has_forgotten = self.others.as_mut().is_some_and(|others| {
            others.account.retain(|origin, use_| {
                let is_live = use_.slots().iter().any(|slot| slot.start.get() > cut);
                let is_late = match base {
                    Some(base) => bucket::late(Some(base), origin, use_.before(base.at())),
                    None => Units::ZERO,
                };
                is_live || !is_late.is_zero()
            })
        });
        // Mostly nobody is forgotten, and all slots are as they were.
        if has_forgotten {
            self.merge_slots(limit);
        }
    }

    /// Says whether nothing here counts any longer, so that a counter that begins anew would say the
    /// same.
    #[must_use]
    pub fn is_idle(&self, limit: &LimitSpec, now: UnixMs) -> bool {
        match limit.algorithm() {
            Algorithm::Window(_) => self.newest_start() <= self.cut(limit, now),
            Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
                let is_ahead = self.newest_start() > now.get();
                !is_ahead && self.level(Walk::of(*refill), now) == 0
            }
        }
    }

    /// Returns what this process counted, to send and to store.
    #[must_use]
    pub fn message(&self, revision: Revision) -> Message {
        let slots = self.own.sums();
        let total = match &self.bucket {
            Some(bucket) => bucket.own_total.get(),
            None => slots
                .iter()
                .fold(Units::ZERO, |total, slot| total.saturating_add(slot.sum)),
        };
        let base = self
            .bucket
            .as_ref()
            .and_then(|bucket| bucket.base.as_deref().cloned());
        Message {
            origin: self.origin,
            use_: OriginUse::new(revision, total, slots),
            base,
        }
    }

    /// Says whether this process counted anything here that still stands.
    #[must_use]
    pub fn has_own(&self) -> bool {
        let of_bucket = self.bucket.as_ref();
        self.own.iter().next().is_some()
            || of_bucket
                .is_some_and(|bucket| !bucket.own_total.get().is_zero() || bucket.base.is_some())
    }

    /// Returns what the other origins counted, by which an idle counter may be told from a live one.
    #[must_use]
    pub fn others(&self) -> Option<&Account> {
        self.others.as_deref().map(|others| &others.account)
    }

    fn check_sliding(
        &mut self,
        limit: &LimitSpec,
        length: WindowLength,
        moment: Moment,
        asked: Units,
    ) -> Verdict {
        let window_ms = length.ms();
        let slot_ms = limit.algorithm().slots().slot_ms(moment.now);
        let cut = sliding_cut(moment.now, window_ms, slot_ms);
        let others = self.others.as_mut();
        let others = others.map_or(0, |others| others.table.sum_after(cut));
        let used = Units::new(self.own.sum_after(cut).saturating_add(others));
        let reset = self.reset(limit, moment);
        let verdict = Verdict::of(limit.limit(), used, asked, reset);
        verdict.retried_at(|| {
            if asked > limit.limit() {
                return None;
            }
            let mut left = used;
            let live = self.slots().filter(|slot| slot.start > cut);
            let mut freed = live.map(|slot| {
                left = left.saturating_sub(Units::new(slot.sum));
                (slot.start, left)
            });
            let room = limit.limit().saturating_sub(asked);
            let first = freed.find(|(_, left)| *left <= room);
            first.map(|(start, _)| leaves(start, length, slot_ms))
        })
    }

    /// Returns the instant after which a slot must start to count.
    fn cut(&self, limit: &LimitSpec, now: UnixMs) -> i64 {
        let slots = limit.algorithm().slots();
        match limit.algorithm() {
            Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => {
                slots.slot_at(now).start().get().saturating_sub(1)
            }
            Algorithm::Window(WindowSpec::Sliding(length)) => {
                sliding_cut(now, length.ms(), slots.slot_ms(now))
            }
            Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => {
                let base = self
                    .bucket
                    .as_ref()
                    .and_then(|bucket| bucket.base.as_deref());
                let since = base.map_or(UnixMs::FIRST, Base::at);
                since.get().saturating_sub(1)
            }
        }
    }

    /// Sums the slots of the others again, from the base on.
    fn merge_slots(&mut self, limit: &LimitSpec) {
        let base = self
            .bucket
            .as_ref()
            .and_then(|bucket| bucket.base.as_deref());
        let since = base.map_or(UnixMs::FIRST, Base::at);
        if since > UnixMs::FIRST {
            self.own.drop_before(since);
        }
        if let Some(others) = &mut self.others {
            others.table = others_table(limit);
            let slots = others.account.origins().flat_map(|(_, use_)| use_.slots());
            for slot in slots.filter(|slot| slot.start >= since) {
                others.table.add(slot.start, slot.sum);
            }
        }
        match limit.algorithm() {
            Algorithm::Window(_) => {}
            Algorithm::TokenBucket(refill) | Algorithm::LeakyBucket(refill) => {
                self.walk_all(Walk::of(*refill));
            }
        }
    }

    fn newest_start(&self) -> i64 {
        let own = self.own.newest_start();
        let others = self.others.as_ref();
        others.map_or(own, |others| own.max(others.table.newest_start()))
    }

    fn slots(&self) -> impl Iterator<Item = Slot> {
        slots(&self.own, self.others.as_deref())
    }
}

/// Returns when a slot of a sliding window leaves it: when its end is as old as the window is long.
fn leaves(start: i64, length: WindowLength, slot_ms: i64) -> UnixMs {
    let ms = length.ms().saturating_add(slot_ms);
    UnixMs::FIRST.saturating_add_ms(start.saturating_add(ms))
}

/// Returns the table of what this process counts itself.
const fn own_table(limit: &LimitSpec) -> SlotTable {
    match limit.algorithm() {
        Algorithm::Window(WindowSpec::Calendar(_) | WindowSpec::Fixed(_)) => {
            SlotTable::new(WINDOWS_MAX, Drops::Farthest)
        }
        Algorithm::Window(WindowSpec::Sliding(_)) => SlotTable::new(OWN_SLOTS_MAX, Drops::Oldest),
        Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => {
            SlotTable::new(BUCKET_SLOTS_MAX, Drops::Oldest)
        }
    }
}

/// Returns the table of what all others count. It is filled in no order of time, and nobody says there
/// which slot is the present one; so it holds more windows than several origins tell of.
const fn others_table(limit: &LimitSpec) -> SlotTable {
    match limit.algorithm() {
        Algorithm::Window(_) => SlotTable::new(OWN_SLOTS_MAX, Drops::Oldest),
        Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => own_table(limit),
    }
}

/// Returns own slots and the others', ascending by start; a start may come twice.
fn slots<'a>(own: &'a SlotTable, others: Option<&'a Others>) -> impl Iterator<Item = Slot> + 'a {
    let mut own = own.iter().peekable();
    let others = others.into_iter().flat_map(|others| others.table.iter());
    let mut others = others.peekable();
    std::iter::from_fn(move || match (own.peek(), others.peek()) {
        (Some(mine), Some(other)) if other.start < mine.start => others.next(),
        (Some(_), _) => own.next(),
        (None, _) => others.next(),
    })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// Behind 32 bytes of whoever holds counters by cache lines of 64.
    #[test]
    fn a_window_lies_in_one_line_and_a_bucket_in_two_more() {
        let [own, bucket] = [offset_of!(Counter, own), offset_of!(Counter, bucket)];
        assert_eq!((own, size_of::<Slot>()), (8, 24), "the newest slot");
        assert_eq!(bucket, 96, "128 with what lies before");
        assert!(size_of::<Option<Bucket>>() <= 128);
    }
}
