//! What is decided where there is no room for a counter.
//!
//! Invariant: whoever has a counter is decided by it, whatever others do. Deliberately absent: how much
//! room there is (`counters`).

use domain::policy::model::Verdict as Otherwise;

use super::{Engine, Gathered, InForce, Reason};

impl Engine {
    /// Has the policy's word decide where a counter lacks that there is no room for.
    #[cold]
    pub(super) fn do_without(&self, gathered: &mut Gathered<'_>, force: &InForce) {
        for place in 0..gathered.counted.len() {
            let both = gathered.counted.get(place).zip(gathered.met.get(place));
            let Some((counted, met)) = both else {
                continue;
            };
            let index = met.index;
            if let Some((_, policy, _, limit)) = force.set().limit_at(index)
                && self.counters.lacks(counted)
                && policy.on_unavailable.verdict == Otherwise::Deny
            {
                gathered.refuse(limit, index, || Reason::NoRoom);
            }
        }
    }
}
