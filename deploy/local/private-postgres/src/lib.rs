//! A private Postgres server for the launcher, the tests, the soak and the benchmark.
//!
//! [`Binaries`] finds Postgres' programs, or downloads them. [`Server`] runs them on a folder and
//! has a URL; [`roles`] creates the roles of Max Two in it. The server stops when its [`Server`] is
//! dropped, and also when its parent process, the one that started it, is killed. It is not for
//! production: it listens on the loopback interface only.
//!
//! Except in [`roles`], functions block. A start may take minutes, for a recovery or a download.

mod account;
mod binaries;
mod cluster;
mod download;
mod parent_death_guard;
mod postmaster;
mod previous_server;
pub mod roles;
mod server;
mod temporary_folder;

pub use binaries::Binaries;
pub use parent_death_guard::ParentDeathGuard;
pub use server::{DATABASE_URL_FILE, Server};

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No Postgres binaries are installed, and they could not be downloaded.
    #[error(
        "no Postgres binaries were found (looked in {looked_in}), and downloading them failed ({download}); \
         install them with: {}",
        binaries::install_command()
    )]
    NoBinaries {
        /// The searched folders.
        looked_in: String,
        /// Why the download failed.
        download: String,
    },
    /// The configured folder does not hold the binaries.
    #[error("POSTGRES_BIN: {0} holds no initdb and postgres")]
    NotBinaries(PathBuf),
    /// The data were made by a major version whose binaries are missing.
    #[error(
        "the data in {folder} were made by Postgres {major}, and {found} holds another version: install \
         Postgres {major} or name its folder with POSTGRES_BIN, or name another --data-dir for new data"
    )]
    OtherMajor {
        /// The server's folder.
        folder: PathBuf,
        /// The version that made the data.
        major: String,
        /// The folder of the binaries that were found.
        found: PathBuf,
    },
    /// Another program runs a server in the folder.
    #[error(
        "the data directory {0} is in use by another max-two; stop that one or name another --data-dir"
    )]
    InUse(PathBuf),
    /// The unprivileged account that the server runs as under root can't enter the folder.
    #[error(
        "the data directory {folder} can't be entered by the account {account}, which Postgres runs as under root"
    )]
    Inaccessible {
        /// The folder.
        folder: PathBuf,
        /// The account.
        account: String,
    },
    /// This process runs as root, and there is no unprivileged account for the server.
    #[error(
        "Postgres refuses to run as root, and there is no account `postgres` or `nobody` to run it as"
    )]
    NoAccount,
    /// `initdb` failed, or for a standby the copy.
    #[error("the cluster in {folder} could not be made: {output}")]
    MakeCluster {
        /// The cluster's folder.
        folder: PathBuf,
        /// What the program printed.
        output: String,
    },
    /// The start was cancelled.
    #[error("the start of the Postgres server was cancelled")]
    Cancelled,
    /// A server that an earlier process started has not stopped.
    #[error("a Postgres server that was started earlier still runs in {folder}, as process {id}")]
    StillRuns {
        /// The cluster's folder.
        folder: PathBuf,
        /// Its process id.
        id: i32,
    },
    /// The server ended before it was ready.
    #[error("the Postgres server in {folder} did not start: {log}")]
    Start {
        /// The cluster's folder.
        folder: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// Another process listens on the server's port.
    #[error("port {0} on 127.0.0.1 is in use by another process")]
    PortInUse(u16),
    /// An operation on a file or a process failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The file or program.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

/// Whether the server's account can enter every existing folder above `path`.
///
/// # Errors
/// [`Error::NoAccount`] when there is no account for the server.
pub fn is_accessible(path: &Path) -> Result<bool, Error> {
    Ok(account::Account::for_server()?.can_enter(path))
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
