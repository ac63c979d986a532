//! Child processes: servers and the product.
//!
//! Invariant: no child outlives this process. Linux sends the death signal when the *thread* that
//! forked ends, so one thread, which never ends, forks all of them.

use std::fs::File;
use std::io;
use std::iter::Cycle;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::wait;

/// Which signal a child gets when this process dies.
#[derive(Debug, Clone, Copy)]
pub enum DeathSignal {
    /// SIGKILL.
    Kill,
    /// SIGQUIT: Postgres's immediate shutdown, which ends its own children too.
    Quit,
}

/// An account to run a child as: user and group id.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// The user's id.
    pub user: u32,
    /// The group's id.
    pub group: u32,
}

/// What to start.
pub struct Program {
    /// What a person calls it; also the name of its log.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, beside the inherited one.
    pub environment: Vec<(String, String)>,
    /// The account to run it as; this process's own where `None`.
    pub account: Option<Account>,
    /// The signal that ends it when this process dies.
    pub death_signal: DeathSignal,
    /// The folder that its standard output and error go to.
    pub logs: PathBuf,
}

/// A running or ended child; ended by SIGKILL when dropped.
pub struct Child {
    name: String,
    pid: Pid,
    child: Mutex<std::process::Child>,
    stdout: PathBuf,
    stderr: PathBuf,
}

type Order = (Command, Sender<io::Result<std::process::Child>>);

static FORK: LazyLock<Sender<Order>> = LazyLock::new(|| {
    let (orders, queue) = channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, answer) in queue {
            // The one who asked waits for the answer, unless its test has just been given up.
            drop(answer.send(command.spawn()));
        }
    });
    orders
});

impl Program {
    /// Starts it.
    #[must_use]
    pub fn start(self) -> Child {
        let stdout = self.logs.join(format!("{}.out", self.name));
        let stderr = self.logs.join(format!("{}.err", self.name));
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(match self.death_signal {
            DeathSignal::Kill => "KILL",
            DeathSignal::Quit => "QUIT",
        });
        if let Some(account) = self.account {
            command.arg(format!("--reuid={}", account.user));
            command.arg(format!("--regid={}", account.group));
            command.arg("--clear-groups");
        }
        command
            .arg(&self.path)
            .args(&self.arguments)
            .envs(self.environment)
            .current_dir(&self.logs)
            .stdin(Stdio::null())
            .stdout(
                File::options()
                    .create(true)
                    .append(true)
                    .open(&stdout)
                    .unwrap(),
            )
            .stderr(
                File::options()
                    .create(true)
                    .append(true)
                    .open(&stderr)
                    .unwrap(),
            );
        let (answer, child) = channel();
        FORK.send((command, answer))
            .expect("the forking thread never ends");
        let child = child
            .recv()
            .expect("the forking thread answers")
            .unwrap_or_else(|error| {
                panic!(
                    "cannot start {} through setpriv: {error}",
                    self.path.display()
                )
            });
        let pid = Pid::from_child(&child);
        Child {
            name: self.name,
            pid,
            child: Mutex::new(child),
            stdout,
            stderr,
        }
    }
}

impl Child {
    /// Returns its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself already: then there is nobody to send to.
        let _gone: Result<(), _> = kill_process(self.pid, signal);
    }

    /// Returns how it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().try_wait().unwrap()
    }

    /// Waits for its end.
    #[must_use]
    pub fn wait(&self, within: Duration) -> ExitStatus {
        wait::until(
            &format!("{} ends\n{}", self.name, self.log()),
            within,
            || self.ended(),
        )
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let _status = self.child.lock().wait().unwrap();
    }

    /// Returns what it wrote to standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Returns what it wrote to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Returns the end of what it wrote, for a failed test's message.
    #[must_use]
    pub fn log(&self) -> String {
        let whole = format!("{}{}", self.stdout(), self.stderr());
        let lines: Vec<&str> = whole.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!(
            "--- {} ({})\n{}",
            self.name,
            self.pid(),
            lines.get(from..).unwrap_or(&[]).join("\n")
        )
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Returns the account of this name, if the system has it.
#[must_use]
pub fn account(name: &str) -> Option<Account> {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = accounts
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(Account {
        user: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
    })
}

/// Ports for servers: below those that the system gives to connections (`net.ipv4.ip_local_port_range`, from
/// 32,768 on), as a connection might take one of those before its server does.
const PORTS: Range<u16> = 12_000..32_000;

/// Returns a port on 127.0.0.1 that was free a moment ago, and that no caller in this process got lately.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: LazyLock<Mutex<Cycle<Range<u16>>>> = LazyLock::new(|| {
        // Two test processes at once begin at different ports.
        let begin = usize::try_from(std::process::id()).unwrap() * 37 % PORTS.len();
        let mut ports = PORTS.cycle();
        let _skipped = begin.checked_sub(1).and_then(|last| ports.nth(last));
        Mutex::new(ports)
    });
    let mut next = NEXT.lock();
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut tried = next.by_ref().take(PORTS.len());
    tried.find(is_free).expect("some port is free")
}
