//! The guard: a shell that outlives the demo, ends what it started and removes its state folder.
//!
//! Invariant: however the demo ends (Ctrl-C, a failed step, SIGKILL), the guard's input closes, and
//! then every process announced to it is ended and the folder is gone. Deliberately absent: the
//! order of a proper shutdown, which the demo keeps itself while it lives.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Which signal asks a process to end properly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT: what Postgres calls a fast shutdown.
    Interrupt,
}

impl EndSignal {
    /// Returns the name that `kill` takes.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
        }
    }
}

/// Reads `add SIGNAL PID` and `gone PID` lines; at the end of its input it ends what was added and
/// not gone (first politely, after 5 s with SIGKILL) and removes the folder in `$1`.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
known=
while read -r word first second; do
    case $word in
        add) known="$known $first:$second" ;;
        gone) rest=; for one in $known; do [ "${one#*:}" = "$first" ] || rest="$rest $one"; done
            known=$rest ;;
    esac
done
for one in $known; do kill -s "${one%%:*}" "${one#*:}" 2>/dev/null; done
tries=0
while [ $tries -lt 50 ]; do
    alive=
    for one in $known; do kill -0 "${one#*:}" 2>/dev/null && alive="$alive ${one#*:}"; done
    [ -n "$alive" ] || break
    tries=$((tries + 1)); sleep 0.1
done
for pid in $alive; do kill -s KILL "$pid" 2>/dev/null; done
tries=0
until rm -rf -- "$1" 2>/dev/null || [ $tries -ge 50 ]; do tries=$((tries + 1)); sleep 0.1; done
"#;

/// The guard of one demo.
pub(super) struct Guard {
    shell: Child,
    input: Option<ChildStdin>,
}

impl Guard {
    /// Starts the guard of a state folder.
    ///
    /// # Errors
    ///
    /// There is no `sh`, or no process can be started; the demo must not start anything else.
    pub(super) fn start(folder: &Path) -> io::Result<Self> {
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(SCRIPT)
            .arg("tollbook-demo-guard")
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not in the terminal's foreground group: Ctrl-C is for the demo alone.
            .process_group(0)
            .spawn()?;
        let input = shell.stdin.take();
        Ok(Self { shell, input })
    }

    /// Announces a process that must not outlive the demo.
    ///
    /// # Errors
    ///
    /// The guard is gone; the demo should end, since nobody would clean up after it.
    pub(super) fn add(&mut self, pid: u32, signal: EndSignal) -> io::Result<()> {
        self.tell(&format!("add {} {pid}\n", signal.name()))
    }

    /// Says that a process has ended and was waited for, so its id may be another's.
    ///
    /// # Errors
    ///
    /// The guard is gone.
    pub(super) fn gone(&mut self, pid: u32) -> io::Result<()> {
        self.tell(&format!("gone {pid}\n"))
    }

    fn tell(&mut self, line: &str) -> io::Result<()> {
        match &mut self.input {
            Some(input) => input.write_all(line.as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Lets the guard remove the folder and waits until it has.
    ///
    /// # Errors
    ///
    /// The guard cannot be waited for.
    pub(super) fn finish(mut self) -> io::Result<()> {
        drop(self.input.take());
        self.shell.wait().map(drop)
    }
}
