//! A private Postgres server for the launcher, the tests and the benchmark.
//!
//! [`Binaries`] finds Postgres' programs, or downloads them. [`Server`] runs them on a folder and
//! has a URL; [`roles`] sets up the database of Max Two in it. The server stops when its [`Server`]
//! is dropped, and also when its parent process, the one that started it, is killed. It is not for
//! production: it listens on the loopback interface only.
//!
//! Except in [`roles`], functions block. The launcher also guards its other processes with
//! [`ParentDeathGuard`].

mod account;
mod binaries;
mod cluster;
mod download;
mod parent_death_guard;
pub mod roles;
mod server;

pub use account::is_accessible;
pub use binaries::Binaries;
pub use parent_death_guard::ParentDeathGuard;
pub use server::{DATABASE_URL_FILE, Server};

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, User};

/// Why there is no server: one line for a person, which names what to do where that is known.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Words the error of an operation on a path. If a permission is missing, it names whose folder it
/// is.
fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let (what, path) = (format!("{doing} {}", path.display()), path.to_owned());
    move |error| {
        let mut owners = path
            .ancestors()
            .filter_map(|folder| Some((folder.display(), folder.metadata().ok()?.uid())));
        match owners.next() {
            Some((folder, owner))
                if error.kind() == io::ErrorKind::PermissionDenied
                    && owner != Uid::effective().as_raw() =>
            {
                let name = User::from_uid(owner.into()).ok().flatten();
                let name = name.map_or_else(|| owner.to_string(), |owner| owner.name);
                Error(format!(
                    "{what}: {folder} belongs to the account {name}; start max-two as that \
                     account, or name another --data-dir"
                ))
            }
            _ => Error(format!("{what}: {error}")),
        }
    }
}

/// The names of all variables `PG*` in this process's environment, such as `PGOPTIONS`. libpq, sqlx
/// and Postgres' own programs read them, but they are meant for another server than a private one.
#[must_use]
pub fn postgres_variables() -> Vec<OsString> {
    env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.as_encoded_bytes().starts_with(b"PG"))
        .collect()
}
