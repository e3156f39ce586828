//! The account that the server runs as: that of this process, or an unprivileged one when this
//! process runs as root, as which Postgres refuses to run.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use crate::{Error, postgres_variables};

/// The account that the server runs as.
#[derive(Debug)]
pub(crate) enum Account {
    /// The account of this process.
    Current,
    /// An unprivileged account, because this process runs as root.
    Unprivileged(User),
}

impl Account {
    pub(crate) fn for_server() -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self::Current);
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(Self::Unprivileged)
            .ok_or(Error::NoAccount)
    }

    /// A command that runs as this account, from a folder that every account can enter, and
    /// without the environment of another server.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/");
        for variable in postgres_variables() {
            command.env_remove(variable);
        }
        if let Self::Unprivileged(user) = self {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Makes this account the owner of a path.
    pub(crate) fn take_ownership(&self, path: &Path) -> Result<(), Error> {
        match self {
            Self::Current => Ok(()),
            Self::Unprivileged(user) => {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                    .map_err(Error::io("changing the owner of", path))
            }
        }
    }

    /// Whether this account can enter every existing folder above `path`.
    pub(crate) fn can_enter(&self, path: &Path) -> bool {
        let Self::Unprivileged(user) = self else {
            return true;
        };
        path.ancestors()
            .skip(1)
            .filter_map(|folder| folder.metadata().ok())
            .all(|folder| {
                let bit = if folder.uid() == user.uid.as_raw() {
                    0o100
                } else if folder.gid() == user.gid.as_raw() {
                    0o010
                } else {
                    0o001
                };
                folder.mode() & bit != 0
            })
    }
}
