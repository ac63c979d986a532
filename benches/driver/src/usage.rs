//! What processes used, as Linux accounts for it in `/proc`.
//!
//! Invariant: processor time is exact to the system's tick (10 ms) for each process, and includes what
//! ended threads and reaped children used. Deliberately absent: samples, but for the peak of memory,
//! which ends with the process.

use std::fs;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tests::harness::{load, wait};

/// How often the peak of memory is read: the kernel keeps the peak, only the last moments can be missed.
const LOOK: Duration = Duration::from_millis(20);

/// What one process used from its start to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessUse {
    /// When it ended, in ms since 1970.
    pub(crate) ended_at_ms: i64,
    /// Its processor time, in µs.
    pub(crate) cpu_us: u64,
    /// The most memory it had resident, in KiB.
    pub(crate) peak_memory_kib: u64,
}

/// Waits until a child has ended and leaves it to be reaped.
///
/// # Errors
///
/// `/proc` does not say what a process used.
pub(crate) fn of_child(pid: i32) -> Result<ProcessUse, String> {
    let child = Pid::from_raw(pid).ok_or("a process id is positive")?;
    let waiter: JoinHandle<rustix::io::Result<i64>> = std::thread::spawn(move || {
        waitid(
            WaitId::Pid(child),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )?;
        Ok(load::now_ms())
    });
    let mut peak_memory_kib = 0;
    while !waiter.is_finished() {
        peak_memory_kib = peak_memory_kib.max(peak_of(pid).unwrap_or(0));
        wait::pause(LOOK);
    }
    let ended = waiter.join().map_err(|_| "the waiting thread panicked")?;
    // A process that was not reaped yet still has its times, and no memory any more.
    let own = Times::of(pid).ok_or_else(|| format!("/proc/{pid}/stat cannot be read"))?;
    Ok(ProcessUse {
        ended_at_ms: ended.map_err(|error| error.to_string())?,
        cpu_us: to_us(own.own),
        peak_memory_kib,
    })
}

/// Returns the processor time in µs that a server has used by now: its first process, those of its
/// children that live, and those that have ended.
///
/// # Errors
///
/// `/proc` does not say.
pub(crate) fn of_server(pid: i32) -> Result<u64, String> {
    let gone = || format!("/proc/{pid}/stat cannot be read");
    loop {
        let before = Times::of(pid).ok_or_else(gone)?;
        let children: u64 = processes()
            .filter_map(Times::of)
            .filter(|times| times.parent == pid)
            .map(|times| times.own + times.reaped)
            .sum();
        let after = Times::of(pid).ok_or_else(gone)?;
        // A child that was reaped meanwhile would count twice, or not at all.
        if before.reaped == after.reaped {
            return Ok(to_us(after.own + after.reaped + children));
        }
    }
}

/// The times of one process, in ticks.
struct Times {
    parent: i32,
    own: u64,
    reaped: u64,
}

impl Times {
    /// Reads fields 4 and 14 to 17 of `/proc/PID/stat` (proc(5)); the second is a name in brackets
    /// that may hold anything.
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: number(14)? + number(15)?,
            reaped: number(16)? + number(17)?,
        })
    }
}

fn to_us(ticks: u64) -> u64 {
    ticks * 1_000_000 / rustix::param::clock_ticks_per_second()
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(Path::new("/proc")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn peak_of(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
