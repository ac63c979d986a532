//! The demo's state folder, and the unprivileged user that Postgres runs as when we are root.
//!
//! Invariant: everything the demo writes lies in one new folder that only its user (and, as root,
//! Postgres's) can enter. Deliberately absent: its removal, which is the guard's.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use service::{Exit, Failure};

/// Whom Postgres runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RunAs {
    /// The user who runs the demo.
    Ourselves,
    /// An unprivileged user, since we are root and Postgres refuses root.
    User {
        /// Its name, for messages.
        name: String,
        /// Its user id.
        uid: u32,
        /// Its main group's id.
        gid: u32,
    },
}

impl RunAs {
    /// Finds whom to run Postgres as.
    ///
    /// # Errors
    ///
    /// We are root, and there is neither a user `postgres` nor `nobody`.
    pub(super) fn find() -> Result<Self, Failure> {
        let ourselves = fs::metadata("/proc/self").map_err(|error| {
            Failure::unexpected(format!(
                "/proc is not mounted, and the demo needs it: {error}"
            ))
        })?;
        if ourselves.uid() != 0 {
            return Ok(Self::Ourselves);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        ["postgres", "nobody"].iter().find_map(|name| user(&users, name)).ok_or_else(|| {
            Failure::new(
                Exit::Configuration,
                "Postgres refuses to run as root, and this system has neither a user `postgres` \
                 nor `nobody`: run the demo as a user who is not root",
            )
        })
    }

    /// Makes a command that runs as this user.
    pub(super) fn command(&self, program: &Path) -> Command {
        match self {
            Self::Ourselves => Command::new(program),
            Self::User { uid, gid, .. } => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={uid}"))
                    .arg(format!("--regid={gid}"))
                    .arg("--clear-groups")
                    .arg("--")
                    .arg(program);
                command
            }
        }
    }

    /// Gives a file or folder to this user.
    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::User { uid, gid, .. } => chown(path, Some(*uid), Some(*gid)),
        }
    }
}

/// Reads one user out of the text of /etc/passwd.
fn user(passwd: &str, name: &str) -> Option<RunAs> {
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(RunAs::User {
        name: name.to_owned(),
        uid,
        gid,
    })
}

/// A new state folder, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    path: PathBuf,
    /// Why it does not lie where the user asked for it.
    moved: Option<String>,
}

impl Folder {
    /// Makes a folder under the temporary folder, or under /tmp or /var/tmp where Postgres's user
    /// cannot enter that.
    ///
    /// # Errors
    ///
    /// It can be made nowhere.
    pub(super) fn make(run_as: &RunAs) -> Result<Self, Failure> {
        let asked = std::env::temp_dir();
        let mut moved = None;
        let mut refusal = String::new();
        for parent in [asked.as_path(), Path::new("/tmp"), Path::new("/var/tmp")] {
            match Self::make_in(parent, run_as) {
                Ok(path) => return Ok(Self { path, moved }),
                Err(reason) => {
                    if parent == asked {
                        moved = Some(reason.clone());
                    }
                    refusal = reason;
                }
            }
        }
        Err(Failure::new(
            Exit::Configuration,
            format!("no folder for the demo's state: {refusal}; set TMPDIR to one"),
        ))
    }

    fn make_in(parent: &Path, run_as: &RunAs) -> Result<PathBuf, String> {
        let folder = tempfile::Builder::new()
            .prefix("tollbook-demo-")
            .tempdir_in(parent)
            .map_err(|error| format!("{} cannot be written: {error}", parent.display()))?;
        let RunAs::User { name, .. } = run_as else {
            return Ok(folder.keep());
        };
        // Others may pass through to the one folder inside that is Postgres's, and see nothing.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))
            .map_err(|error| format!("{} cannot be opened up: {error}", folder.path().display()))?;
        let passes = run_as
            .command(Path::new("test"))
            .arg("-x")
            .arg(folder.path())
            .status()
            .map_err(|error| format!("`setpriv` cannot be run ({error}): install util-linux"))?;
        if !passes.success() {
            return Err(format!(
                "{} cannot be entered by user {name}",
                parent.display()
            ));
        }
        Ok(folder.keep())
    }

    /// Returns its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns why it does not lie in the temporary folder that was asked for, if so.
    pub(super) fn moved(&self) -> Option<&str> {
        self.moved.as_deref()
    }

    /// Makes a folder inside it that only we can enter.
    pub(super) fn private(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path.join(name);
        fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))
            .map_err(|error| {
                Failure::unexpected(format!("{} cannot be made: {error}", path.display()))
            })?;
        Ok(path)
    }

    /// Writes a file inside it that only we can read.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.path.join(name);
        fs::write(&path, "")
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| {
                Failure::unexpected(format!("{} cannot be written: {error}", path.display()))
            })?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobody2:x:7:8::/:\nnobody:x:65534:65533::/:\n";
        let expected = RunAs::User {
            name: "nobody".to_owned(),
            uid: 65534,
            gid: 65533,
        };
        assert_eq!(user(passwd, "nobody"), Some(expected), "the third line");
        assert_eq!(user(passwd, "postgres"), None, "not on this system");
    }
}
