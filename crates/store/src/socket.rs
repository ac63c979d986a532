//! Sockets that send what they are given at once.
//!
//! sqlx 0.9 leaves Nagle's algorithm on: the end of a `COPY` waits until Postgres's kernel has
//! acknowledged the rows before it, which takes it 40 ms where few rows were sent (measured: two such
//! waits in a batch). The driver hands nobody its socket, so the process asks the kernel for copies of
//! its own descriptors. Invariant: where that is refused (an old kernel, a strict sandbox), nothing
//! but time is lost. Deliberately absent: other systems than Linux.

/// Switches Nagle's algorithm off for every TCP connection that this process has.
#[cfg(target_os = "linux")]
pub(crate) fn send_at_once() {
    use rustix::net::sockopt::set_tcp_nodelay;
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    let (Ok(own), Ok(descriptors)) = (
        pidfd_open(getpid(), PidfdFlags::empty()),
        std::fs::read_dir("/proc/self/fd"),
    ) else {
        return;
    };
    for entry in descriptors.flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let copy = number.map(|number| pidfd_getfd(&own, number, PidfdGetfdFlags::empty()));
        if let Some(Ok(copy)) = copy {
            // What is no TCP connection refuses the option.
            set_tcp_nodelay(&copy, true).ok();
        }
    }
}

/// Does nothing here.
#[cfg(not(target_os = "linux"))]
pub(crate) const fn send_at_once() {}
