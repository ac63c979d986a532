//! Places at which a test can have the process kill itself.
//!
//! Invariant: a build without the feature `fail-points` holds none of this; with it nothing happens
//! until `FAILPOINTS` names a point. Deliberately absent: clean-up, since the point of such a death
//! is that there is none.

/// Dies by SIGKILL here if `FAILPOINTS` sets this point to `return`, for example
/// `batch::before_commit=3*off->return` for the fourth time.
#[cfg(not(feature = "fail-points"))]
#[inline]
pub const fn point(_name: &'static str) {}

/// Dies by SIGKILL here if `FAILPOINTS` sets this point to `return`, for example
/// `batch::before_commit=3*off->return` for the fourth time.
#[cfg(feature = "fail-points")]
pub fn point(name: &'static str) {
    armed::arm();
    if fail::eval(name, |_| ()).is_some() {
        armed::die(name);
    }
}

#[cfg(feature = "fail-points")]
mod armed {
    use std::sync::Once;

    static ARMED: Once = Once::new();

    /// Reads `FAILPOINTS` once: `name=actions`, separated by semicolons.
    #[expect(
        clippy::disallowed_methods,
        reason = "a switch of tests, not configuration"
    )]
    pub(super) fn arm() {
        ARMED.call_once(|| {
            let Ok(points) = std::env::var("FAILPOINTS") else {
                return;
            };
            for point in points
                .split(';')
                .map(str::trim)
                .filter(|point| !point.is_empty())
            {
                let set = point
                    .split_once('=')
                    .map(|(name, actions)| fail::cfg(name.trim(), actions.trim()));
                assert!(
                    matches!(set, Some(Ok(()))),
                    "FAILPOINTS holds `{point}`, which is not `name=actions`"
                );
            }
        });
    }

    /// The library forbids unsafe code, so another process sends the signal that nothing can catch: a
    /// shell, whose own `kill` is there also where no program of that name is installed.
    pub(super) fn die(name: &str) -> ! {
        tracing::warn!(fault.point = name, "dying at a fail point");
        let killed = std::process::Command::new("sh")
            .args(["-c", &format!("kill -KILL {}", std::process::id())])
            .status();
        assert!(killed.is_ok(), "`sh` cannot be run at fail point {name}");
        loop {
            std::thread::park();
        }
    }
}
