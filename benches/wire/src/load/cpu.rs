//! Processor time of a process, exact to the nanosecond.
//!
//! Invariant: the sum over the threads that live: `/proc/PID/task/*/schedstat`, whose first number is
//! the time on a processor in ns. Deliberately absent: threads that have ended; none of those that are
//! measured end meanwhile.

use std::fs;

/// Returns the processor time of a process in ns.
///
/// # Errors
///
/// There is no such process, or the kernel does not keep these times.
pub(super) fn of(pid: u32) -> Result<u64, String> {
    let threads = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&threads).map_err(|error| format!("{threads}: {error}"))?;
    let mut sum = 0_u64;
    for entry in entries {
        let path = entry.map_err(crate::text)?.path().join("schedstat");
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let first = text.split_whitespace().next();
        let time: Option<u64> = first.and_then(|first| first.parse().ok());
        let time = time.ok_or_else(|| format!("{}: {text:?}", path.display()))?;
        sum = sum.saturating_add(time);
    }
    Ok(sum)
}
