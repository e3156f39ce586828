//! A Postgres server of one's own, for the launcher and for the tests.
//!
//! What enters is a directory; what leaves is the URL of a running server, which ends when its [`Server`] does, and also
//! when the program that owns it is killed; and in it the roles of Max Two ([`roles`]). Nothing is promised for production:
//! it listens on the loopback interface only.

mod account;
mod binaries;
mod data_dir;
mod parent_death_guard;
pub mod roles;
mod server;

pub use binaries::Binaries;
pub use parent_death_guard::ParentDeathGuard;
pub use server::Server;

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No Postgres binaries are installed, and they could not be downloaded.
    #[error(
        "no Postgres binaries were found (looked in {looked_in}), and downloading them failed ({download}); \
         install them with: {}",
        binaries::install_line()
    )]
    NoBinaries {
        /// Where they were looked for.
        looked_in: String,
        /// Why the download failed.
        download: String,
    },
    /// The setting that names the binaries' folder names one without them.
    #[error("POSTGRES_BIN: {0} holds no initdb and postgres")]
    NotBinaries(PathBuf),
    /// Another program runs a server in the directory.
    #[error(
        "the data directory {0} is in use by another max-two; stop that one or name another --data-dir"
    )]
    InUse(PathBuf),
    /// The account that the server must run as (Postgres refuses to be root) can't enter the directory.
    #[error(
        "the data directory {directory} can't be entered by the account {account}, which Postgres runs as under root"
    )]
    Unreachable {
        /// The directory.
        directory: PathBuf,
        /// The account.
        account: String,
    },
    /// Running as root, and there is no other account for the server.
    #[error(
        "Postgres refuses to run as root, and there is no account `postgres` or `nobody` to run it as"
    )]
    NoAccount,
    /// `initdb` failed, or `pg_basebackup` for a standby.
    #[error("the cluster in {directory} could not be made: {output}")]
    Initdb {
        /// The cluster's directory.
        directory: PathBuf,
        /// What `initdb` printed.
        output: String,
    },
    /// The server ended, or was not ready in time.
    #[error("the Postgres server in {directory} did not start: {log}")]
    Start {
        /// The cluster's directory.
        directory: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// A file or a process could not be handled.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// With what.
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

/// Whether the account that a server would run as can enter `directory`, or the first of its parents that exists.
///
/// # Errors
/// [`Error::NoAccount`] when there is no such account.
pub fn is_reachable(directory: &Path) -> Result<bool, Error> {
    Ok(account::Account::for_server()?.can_enter(directory))
}
