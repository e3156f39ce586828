//! A server's folder: makes the database cluster in it, or uses the one that is there. It holds
//!
//! - `cluster`: the cluster, which is Postgres' data directory;
//! - `password`: the password of all roles;
//! - `lock`: locked by the process that uses the folder, so that a second one is refused;
//! - `postgres.log`: the log since the last start, locked by each process of the server;
//! - `database-url`: written on request (`server.rs`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf, absolute};

use rand::distr::{Alphanumeric, SampleString};
use tempfile::TempDir;

use crate::account::Account;
use crate::parent_death_guard::run;
use crate::{Binaries, Error, failed};

/// A database cluster, and what the programs that make and serve it run with.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The folder of everything that belongs to it.
    pub(crate) folder: PathBuf,
    /// Its data directory, in `folder`.
    pub(crate) pgdata: PathBuf,
    pub(crate) binaries: Binaries,
    pub(crate) account: Account,
    /// Removes the folder of a temporary cluster.
    pub(crate) temporary: Option<TempDir>,
    /// Keeps the folder from any other process.
    _lock: File,
}

impl Cluster {
    /// Takes a folder, which is created if it is missing.
    pub(crate) fn open(folder: &Path, binaries: &Binaries) -> Result<Self, Error> {
        let folder = absolute(folder).map_err(failed("finding", folder))?;
        let account = Account::for_server(&folder)?;
        account.create_folder(&folder)?;
        let path = folder.join("lock");
        let lock = lock(&path).map_err(failed("locking", &path))?;
        let lock = lock.ok_or_else(|| {
            Error(format!(
                "the data directory {} is in use by another max-two; stop that one or name another --data-dir",
                folder.display()
            ))
        })?;
        let folder = folder.canonicalize().map_err(failed("finding", &folder))?;
        Ok(Self {
            pgdata: folder.join("cluster"),
            folder,
            binaries: binaries.clone(),
            account,
            temporary: None,
            _lock: lock,
        })
    }

    /// Takes a new folder, which is removed with the result.
    pub(crate) fn temporary(binaries: &Binaries) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("max-two-postgres-")
            .map_err(failed("creating a folder in", &std::env::temp_dir()))?;
        Account::for_server(folder.path())?.take_ownership(folder.path())?;
        let mut cluster = Self::open(folder.path(), binaries)?;
        cluster.temporary = Some(folder);
        Ok(cluster)
    }

    /// The server's log, locked. A server's processes inherit it for their output, so it stays
    /// locked until the last of them has ended. `None` while those of an earlier server run.
    pub(crate) fn lock_log(&self) -> Result<Option<File>, Error> {
        let path = self.log_path();
        lock(&path).map_err(failed("locking", &path))
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// Removes the `postmaster.pid` of a server that was killed. Postgres would refuse to start if
    /// another process has that id by now. The cluster still can't get two servers: ours lock the
    /// log, and Postgres finds the shared memory of a server that somebody else has started.
    pub(crate) fn remove_stale_pid_file(&self) {
        let _ = fs::remove_file(self.pgdata.join("postmaster.pid"));
    }

    /// The text of `postmaster.pid`; empty when the file is missing. It holds the folder's path,
    /// which may be any bytes.
    pub(crate) fn pid_file(&self) -> String {
        let bytes = fs::read(self.pgdata.join("postmaster.pid")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Creates the cluster if it is missing, all of it or nothing, and returns its password.
    pub(crate) fn initialize(&self) -> Result<String, Error> {
        let password_file = self.folder.join("password");
        if self.pgdata.exists() {
            return fs::read_to_string(&password_file).map_err(failed("reading", &password_file));
        }
        let password = Alphanumeric.sample_string(&mut rand::rng(), 32);
        write_secret(&password_file, &password)?;
        let unfinished = self.folder.join("cluster.unfinished");
        // A process that was killed may have left it.
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(failed("removing", &unfinished))?;
        }
        fs::create_dir(&unfinished).map_err(failed("creating", &unfinished))?;
        for path in [&password_file, &unfinished] {
            self.account.take_ownership(path)?;
        }
        let mut initdb = self.account.command(&self.binaries.program("initdb"));
        initdb
            .args(["--username=postgres", "--auth=scram-sha-256"])
            .args(["--encoding=UTF8", "--no-locale"])
            .args(self.temporary.is_some().then_some("--no-sync"))
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&unfinished);
        run(&mut initdb)?;
        fs::rename(&unfinished, &self.pgdata).map_err(failed("renaming", &unfinished))?;
        Ok(password)
    }

    /// Creates the cluster as a standby of `primary`, whose server is stopped now. The standby will
    /// connect to it with the superuser's `url`.
    pub(crate) fn copy(&self, primary: &Self, url: &str) -> Result<(), Error> {
        // Not with `pg_basebackup`, which a downloaded Postgres does not have.
        let mut cp = self.account.command(Path::new("cp"));
        run(cp.arg("-Rp").arg(&primary.pgdata).arg(&self.pgdata))?;
        let connection = format!("primary_conninfo = '{url}'\n");
        for (name, text) in [
            ("postgresql.auto.conf", &*connection),
            ("standby.signal", ""),
        ] {
            let path = self.pgdata.join(name);
            fs::write(&path, text).map_err(failed("writing", &path))?;
            self.account.take_ownership(&path)?;
        }
        Ok(())
    }
}

/// Opens and locks a file. `None` if another process has locked it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Writes a file that only the account of this process can read.
pub(crate) fn write_secret(path: &Path, secret: &str) -> Result<(), Error> {
    // Another account may own the last one.
    let _ = fs::remove_file(path);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(secret.as_bytes()).and(file.sync_all()))
        .map_err(failed("writing", path))
}
