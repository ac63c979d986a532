//! Waiting for a state, with a bound.
//!
//! Invariant: no wait ends because time passed, but for the bound, which fails the test.

use std::time::Duration;

use tokio::time::Instant;

/// How often a state is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Polls until `state` returns something, and returns it. Panics with `what` at the bound.
pub fn until<T>(what: &str, within: Duration, mut state: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = state() {
            return found;
        }
        assert!(Instant::now() < end, "waited {within:?} in vain: {what}");
        pause(POLL);
    }
}

/// Polls until the condition holds; panics with `what` at the bound.
pub fn until_true(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    until(what, within, || condition().then_some(()));
}

/// Lets time pass where time itself is what the test is about: how long a process stands still, how
/// long a transaction stays open, the pause between two looks at a state.
#[expect(
    clippy::disallowed_methods,
    reason = "tests run on threads of their own, not on a runtime"
)]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
