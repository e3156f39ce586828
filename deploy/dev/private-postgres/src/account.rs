//! Whom the server runs as: its owner, or, since Postgres refuses to run as root, an account without privileges.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use crate::Error;

/// The account of the server.
#[derive(Debug)]
pub(crate) enum Account {
    /// That of this process.
    Own,
    /// Another one, since this process is root's.
    Other(User),
}

impl Account {
    pub(crate) fn for_server() -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self::Own);
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(Self::Other)
            .ok_or(Error::NoAccount)
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Own => "of this process",
            Self::Other(user) => &user.name,
        }
    }

    /// A command that will run as this account, from a directory that every account can enter.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/");
        if let Self::Other(user) = self {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Gives a path to this account.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Error> {
        match self {
            Self::Own => Ok(()),
            Self::Other(user) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(Error::io("changing the owner of", path)),
        }
    }

    /// Whether every folder above `path` lets this account through, as far as they exist.
    pub(crate) fn can_enter(&self, path: &Path) -> bool {
        let Self::Other(user) = self else { return true };
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
