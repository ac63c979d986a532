//! A Postgres of the demo's own: found on the machine, in a new folder, on a free loopback port.
//!
//! Invariant: it asks for a password that only the demo's files hold, and never runs as root.
//! Deliberately absent: what is in the database; `tollbook migrate` and ingest see to that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use service::{Exit, Failure};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::folder::{Folder, RunAs};
use super::guard::{EndSignal, Guard};
use super::process::{self, LOOK_EVERY, Process};
use super::random::Random;

/// The oldest version that the migrations are tried on.
const VERSION_MIN: u32 = 15;

/// How long a new server may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The superuser of the new cluster, and its database.
const NAME: &str = "tollbook";

/// A cluster that is made but not started.
pub(super) struct Cluster {
    programs: PathBuf,
    data: PathBuf,
    log: PathBuf,
    password: String,
    run_as: RunAs,
}

/// A server that answers.
pub(super) struct Postgres {
    cluster: Cluster,
    process: Process,
    port: u16,
}

impl Cluster {
    /// Makes a cluster in the folder.
    ///
    /// # Errors
    ///
    /// There is no Postgres of the version needed, or `initdb` fails.
    pub(super) async fn make(folder: &Folder, run_as: RunAs) -> Result<Self, Failure> {
        let programs = find_programs()?;
        let home = folder.private("postgres")?;
        let password = Random::from_system()?.hex();
        let password_file = home.join("password");
        let made = fs::write(&password_file, &password)
            .and_then(|()| run_as.give(&password_file))
            .and_then(|()| run_as.give(&home));
        made.map_err(|error| {
            Failure::unexpected(format!("{} cannot be prepared: {error}", home.display()))
        })?;
        let data = home.join("data");
        let mut initdb = run_as.command(&programs.join("initdb"));
        initdb
            .current_dir(&home)
            .args([
                "--username",
                NAME,
                "--auth",
                "scram-sha-256",
                "--encoding",
                "UTF8",
            ])
            .args(["--no-locale", "--no-sync", "--no-instructions", "--pgdata"])
            .arg(&data)
            .arg("--pwfile")
            .arg(&password_file);
        process::run("initdb", initdb, &folder.path().join("initdb.log")).await?;
        let log = folder.path().join("postgres.log");
        Ok(Self {
            programs,
            data,
            log,
            password,
            run_as,
        })
    }

    /// Starts the server on a free port, announced to the guard; it need not answer yet.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(super) fn start(self, guard: &mut Guard) -> Result<Postgres, Failure> {
        let port = process::free_port()?;
        let mut command = self.run_as.command(&self.programs.join("postgres"));
        command
            .current_dir(&self.data)
            .arg("-D")
            .arg(&self.data)
            .args(["-p", &port.to_string()])
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .args(["-c", "shared_buffers=128MB", "-c", "max_wal_size=1GB"]);
        let log = self.log.clone();
        let process = Process::start("postgres", command, EndSignal::Interrupt, log, guard)?;
        Ok(Postgres {
            cluster: self,
            process,
            port,
        })
    }
}

impl Postgres {
    /// Waits until it answers, then makes the database.
    ///
    /// # Errors
    ///
    /// It ended, or does not answer in a minute.
    pub(super) async fn ready(&mut self, folder: &Folder) -> Result<(), Failure> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = self.process.ended() {
                return Err(self.process.failure(status));
            }
            if self.accepts().await.is_ok() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    Exit::Dependency,
                    format!("postgres did not answer on port {} within 60 s", self.port),
                ));
            }
            sleep(LOOK_EVERY).await;
        }
        self.make_database(folder).await
    }

    async fn accepts(&self) -> io::Result<()> {
        TcpStream::connect(("127.0.0.1", self.port)).await.map(drop)
    }

    /// Makes the database; a server that has just begun to listen may still refuse for a moment.
    async fn make_database(&self, folder: &Folder) -> Result<(), Failure> {
        let log = folder.path().join("createdb.log");
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let mut createdb = Command::new(self.cluster.programs.join("createdb"));
            createdb
                .args(["--host", "127.0.0.1", "--port", &self.port.to_string()])
                .args([
                    "--username",
                    NAME,
                    "--maintenance-db",
                    "postgres",
                    "--no-password",
                    NAME,
                ])
                .env("PGPASSWORD", &self.cluster.password);
            match process::run("createdb", createdb, &log).await {
                Ok(()) => return Ok(()),
                Err(failure) if Instant::now() >= deadline => return Err(failure),
                Err(failure) if !failure.sentence().contains("starting up") => return Err(failure),
                Err(_starting_up) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Returns the connection string, with its password.
    pub(super) fn url(&self) -> String {
        format!(
            "postgres://{NAME}:{}@127.0.0.1:{}/{NAME}",
            self.cluster.password, self.port
        )
    }

    /// Returns the failure of a server that has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        self.process
            .ended()
            .map_or(Ok(()), |status| Err(self.process.failure(status)))
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// It cannot be waited for.
    pub(super) async fn end(self, guard: &mut Guard) -> Result<(), Failure> {
        self.process.end(guard).await
    }
}

/// Finds the folder of the newest server programs: on PATH, or where Debian keeps them.
fn find_programs() -> Result<PathBuf, Failure> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = folders
        .iter()
        .filter_map(|folder| Some((version(folder)?, real(folder))));
    let newest = found.max_by_key(|(version, _)| *version);
    match newest {
        Some((version, folder)) if version >= VERSION_MIN => Ok(folder),
        Some((version, folder)) => Err(Failure::new(
            Exit::Dependency,
            format!(
                "Postgres {VERSION_MIN} or newer is needed, {} has {version}",
                folder.display()
            ),
        )),
        None => Err(Failure::new(
            Exit::Dependency,
            "no Postgres server on PATH or under /usr/lib/postgresql: `make setup` installs one",
        )),
    }
}

/// Returns the folder that a program linked from here really lies in, beside its fellows.
fn real(folder: &Path) -> PathBuf {
    let server = folder.join("postgres").canonicalize().ok();
    server
        .and_then(|server| server.parent().map(Path::to_path_buf))
        .unwrap_or_else(|| folder.to_path_buf())
}

/// Returns the major version of the server in a folder, if there is one.
fn version(folder: &Path) -> Option<u32> {
    let server = folder.join("postgres");
    if !server.is_file() {
        return None;
    }
    let output = Command::new(server).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Reads the major version out of `postgres (PostgreSQL) 15.14 (Debian …)`.
fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_whitespace().nth(2)?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_of_releases_and_betas() {
        let cases = [
            (
                "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)",
                Some(15),
            ),
            ("postgres (PostgreSQL) 17beta2", Some(17)),
            ("postgres", None),
            ("postgres (PostgreSQL) devel", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }
}
