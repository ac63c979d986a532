//! A real Postgres: made by `initdb`, on a free port of 127.0.0.1, with fsync on.
//!
//! Invariant: the shared server is never stopped by a test; a test that stops or restarts one starts
//! its own.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;

use super::children::{Account, Child, DeathSignal, Program, account, free_port};
use super::database::Database;
use super::{folders, product, wait};

/// How long a server may take to start on a busy machine; after a crash it recovers first.
const START: Duration = Duration::from_secs(60);

/// What tests add to the settings that `initdb` writes.
const TEST_SETTINGS: &str = "fsync = on\nmax_connections = 300\nshared_buffers = 128MB\n\
     max_wal_size = 4GB\nlog_min_messages = warning\nmax_locks_per_transaction = 256\n";

/// A Postgres server.
pub struct Postgres {
    port: u16,
    folder: PathBuf,
    programs: PathBuf,
    account: Option<Account>,
    child: Mutex<Option<Child>>,
    template: OnceLock<()>,
    clones: Mutex<u32>,
}

static SHARED: OnceLock<Arc<Postgres>> = OnceLock::new();

impl Postgres {
    /// Returns the server that tests share.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        Arc::clone(SHARED.get_or_init(|| Self::private("postgres")))
    }

    /// Makes and starts a server of a test's own.
    #[must_use]
    pub fn private(name: &str) -> Arc<Self> {
        Self::with_settings(name, TEST_SETTINGS)
    }

    /// Makes and starts a server with these lines of `postgresql.conf` beside those of `initdb`.
    #[must_use]
    pub fn with_settings(name: &str, settings: &str) -> Arc<Self> {
        let folder = folders::make(name);
        // Postgres refuses to run as root.
        let account = rustix::process::geteuid().is_root().then(|| {
            account("postgres")
                .or_else(|| account("nobody"))
                .expect("a system has nobody")
        });
        if let Some(account) = account {
            chown(&folder, Some(account.user), Some(account.group)).unwrap();
        }
        let server = Self {
            port: free_port(),
            programs: programs(),
            account,
            child: Mutex::new(None),
            template: OnceLock::new(),
            clones: Mutex::new(0),
            folder,
        };
        server.make_cluster(settings);
        server.start();
        Arc::new(server)
    }

    fn make_cluster(&self, settings: &str) {
        let data = self.data();
        let made = self.program(
            "initdb",
            &[
                "--pgdata",
                &data,
                "--username",
                "tollbook",
                "--auth",
                "trust",
                "--encoding",
                "UTF8",
                "--no-locale",
                "--no-sync",
            ],
        );
        let status = made.start();
        assert!(
            status.wait(START).success(),
            "initdb failed\n{}",
            status.log()
        );
        let settings =
            format!("unix_socket_directories = ''\nlisten_addresses = '127.0.0.1'\n{settings}");
        let file = Path::new(&data).join("postgresql.conf");
        let given = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, given + &settings).unwrap();
    }

    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }

    fn program(&self, program: &str, arguments: &[&str]) -> Program {
        Program {
            name: program.to_owned(),
            path: self.programs.join(program),
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            environment: Vec::new(),
            account: self.account,
            death_signal: DeathSignal::Quit,
            logs: self.folder.clone(),
        }
    }

    /// Starts the server and waits until it answers.
    pub fn start(&self) {
        let port = self.port.to_string();
        let child = self
            .program("postgres", &["-D", &self.data(), "-p", &port])
            .start();
        let server = Database::at(&self.url("postgres"));
        wait::until("Postgres answers", START, || {
            assert!(child.ended().is_none(), "Postgres ended\n{}", child.log());
            server.try_rows("select 1").ok()
        });
        *self.child.lock() = Some(child);
    }

    /// Stops the server: SIGINT ends its sessions (a fast shutdown), SIGQUIT is a crash.
    pub fn stop(&self, signal: Signal) {
        let child = self.child.lock().take().expect("the server runs");
        child.signal(signal);
        let _status = child.wait(START);
    }

    /// Returns the process id of its first process, the parent of all others; `None` while it is
    /// stopped.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.child.lock().as_ref().map(Child::pid)
    }

    /// Returns the port it listens at.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of one of its databases, for its superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://tollbook@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database.
    #[must_use]
    pub fn empty_database(&self, name: &str) -> Database {
        let name = self.unused(name);
        let server = Database::at(&self.url("postgres"));
        server.run(&format!("create database \"{name}\""));
        Database::at(&self.url(&name))
    }

    /// Makes a database that carries the migrations, by cloning one that `tollbook migrate` made.
    #[must_use]
    pub fn migrated_database(&self, name: &str) -> Database {
        let server = Database::at(&self.url("postgres"));
        self.template.get_or_init(|| {
            server.run("create database migrated");
            product::migrate(&self.url("migrated"));
        });
        let name = self.unused(name);
        // One at a time: a template must have no other session.
        let _guard = self.clones.lock();
        server.run(&format!("create database \"{name}\" template migrated"));
        Database::at(&self.url(&name))
    }

    /// Copies a database that nobody but this process uses.
    #[must_use]
    pub fn copy_of(&self, database: &Database) -> Database {
        let (_, from) = database
            .url()
            .rsplit_once('/')
            .expect("a URL names a database");
        let name = self.unused(from);
        let server = Database::at(&self.url("postgres"));
        // A template must have no other session.
        server.run(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{from}'; "
        ));
        wait::until_true("the database has no session", START, || {
            let sql = format!("create database \"{name}\" template \"{from}\"");
            server.try_rows(&sql).is_ok()
        });
        Database::at(&self.url(&name))
    }

    fn unused(&self, name: &str) -> String {
        let mut count = self.clones.lock();
        *count += 1;
        format!(
            "{}_{count}",
            name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
        )
    }
}

/// Stops the shared server, if it was started.
pub fn stop_shared() {
    if let Some(server) = SHARED.get()
        && let Some(child) = server.child.lock().take()
    {
        child.signal(Signal::QUIT);
        let _status = child.wait(START);
    }
}

/// Finds the folder of Postgres's programs: beside the `initdb` on PATH, else Debian's newest.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|folder| folder.join("initdb").exists());
    on_path
        .filter(|folder| folder.join("postgres").exists())
        .unwrap_or_else(|| {
            let found = Command::new("sh")
                .args(["-c", "ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1"])
                .output()
                .unwrap();
            let folder = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
            assert!(
                folder.join("initdb").exists(),
                "no Postgres: install postgresql (15 or newer)"
            );
            folder
        })
}
