//! The account that the server runs as. Postgres refuses to run as root, so under root it is an
//! unprivileged account, else that of this process.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use crate::{Error, failed, postgres_variables};

/// Whether the server's account can enter `folder`, or its nearest ancestor that exists.
///
/// # Errors
/// When there is no account for the server.
pub fn is_accessible(folder: &Path) -> Result<bool, Error> {
    let account = Account::for_server(folder)?;
    let existing = folder.ancestors().find(|folder| folder.exists());
    Ok(existing.is_some_and(|folder| account.can_enter(folder)))
}

/// The account that the server runs as; `None` for the account of this process.
#[derive(Debug)]
pub(crate) struct Account(Option<User>);

impl Account {
    /// The account for the server in this folder: the owner of the cluster that is there.
    pub(crate) fn for_server(folder: &Path) -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        let owner = folder.join("cluster").metadata().ok();
        let owner = owner.and_then(|owner| User::from_uid(owner.uid().into()).ok().flatten());
        let by_name = |name| User::from_name(name).ok().flatten();
        owner
            .filter(|owner| !owner.uid.is_root())
            .or_else(|| ["postgres", "nobody"].into_iter().find_map(by_name))
            .map(|user| Self(Some(user)))
            .ok_or_else(|| {
                Error(
                    "Postgres refuses to run as root, and there is no account postgres or nobody"
                        .into(),
                )
            })
    }

    /// A command that runs as this account, from a folder that every account can enter, and
    /// without the environment of another server.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/");
        for variable in postgres_variables() {
            command.env_remove(variable);
        }
        if let Self(Some(user)) = self {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Makes this account the owner of a path.
    pub(crate) fn take_ownership(&self, path: &Path) -> Result<(), Error> {
        let Self(Some(user)) = self else {
            return Ok(());
        };
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(failed("changing the owner of", path))
    }

    fn can_enter(&self, folder: &Path) -> bool {
        let mut test = self.command(Path::new("sh"));
        test.args(["-c", "test -x \"$0\""]).arg(folder);
        self.0.is_none() || test.status().is_ok_and(|status| status.success())
    }

    /// Creates a folder, and those above it, unless they exist. The umask does not keep this
    /// account out of them.
    pub(crate) fn create_folder(&self, folder: &Path) -> Result<(), Error> {
        let missing = folder.ancestors().take_while(|folder| !folder.exists());
        let missing: Vec<_> = missing.collect();
        fs::create_dir_all(folder).map_err(failed("creating", folder))?;
        let Self(Some(user)) = self else {
            return Ok(());
        };
        for folder in missing {
            fs::set_permissions(folder, Permissions::from_mode(0o755))
                .map_err(failed("changing the mode of", folder))?;
        }
        if self.can_enter(folder) {
            return Ok(());
        }
        let (folder, name) = (folder.display(), &user.name);
        Err(Error(format!(
            "the account {name}, which Postgres runs as under root, can't enter {folder}"
        )))
    }
}
