//! A server's folder: makes the database cluster in it, or reads the password of the one that is
//! there. The folder holds
//!
//! - `cluster`: the cluster, which is Postgres' data directory;
//! - `password`: the password of all roles;
//! - `lock`: locked while a server may run, so that a second one is refused;
//! - `postgres.log`: the log since the last start (`postmaster.rs`);
//! - `database-url`: written on request (`server.rs`).

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;

use rand::distr::{Alphanumeric, SampleString};
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::postmaster::POLL_INTERVAL;
use crate::temporary_folder::{TemporaryFolder, random_name};
use crate::{Binaries, Error};

/// Whether data must survive a crash of the machine. They survive a crash of the server in both
/// cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// `fsync = on`.
    Full,
    /// `fsync = off`: for tests, whose data are removed with the server.
    Test,
}

/// A database cluster, and what the programs that make and serve it run with.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The folder of everything that belongs to it.
    pub(crate) folder: PathBuf,
    /// Its data directory, in `folder`.
    pub(crate) pgdata: PathBuf,
    pub(crate) binaries: Binaries,
    pub(crate) account: Account,
    pub(crate) durability: Durability,
    /// The server's settings, each `name=value`.
    pub(crate) settings: Vec<String>,
    /// Ends a start that is going on, and refuses later ones.
    pub(crate) cancel: CancellationToken,
}

impl Cluster {
    pub(crate) fn new(
        folder: PathBuf,
        binaries: &Binaries,
        durability: Durability,
        settings: Vec<String>,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        Ok(Self {
            pgdata: folder.join("cluster"),
            folder,
            binaries: binaries.clone(),
            account: Account::for_server()?,
            durability,
            settings,
            cancel,
        })
    }

    /// A cluster in a new folder, which the server's account owns.
    pub(crate) fn temporary(
        binaries: &Binaries,
        durability: Durability,
        settings: Vec<String>,
        cancel: CancellationToken,
    ) -> Result<(Self, TemporaryFolder), Error> {
        let parent = env::temp_dir();
        let folder = TemporaryFolder::create(&parent, "max-two-postgres-")
            .map_err(Error::io("creating a folder in", &parent))?;
        let path = folder.path().to_owned();
        let cluster = Self::new(path, binaries, durability, settings, cancel)?;
        cluster.account.take_ownership(&cluster.folder)?;
        Ok((cluster, folder))
    }

    pub(crate) fn check_access(&self) -> Result<(), Error> {
        if let Account::Unprivileged(user) = &self.account
            && !self.account.can_enter(&self.pgdata)
        {
            return Err(Error::Inaccessible {
                folder: self.folder.clone(),
                account: user.name.clone(),
            });
        }
        Ok(())
    }

    /// Keeps the folder from any other server, until the result is dropped.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        let path = self.folder.join("lock");
        let file = File::create(&path).map_err(Error::io("creating", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(self.folder.clone())),
            Err(TryLockError::Error(error)) => Err(Error::io("locking", &path)(error)),
        }
    }

    /// Creates it if it is missing, all of it or nothing, and returns its password.
    pub(crate) fn initialize(&self) -> Result<String, Error> {
        let password_file = self.folder.join("password");
        if self.pgdata.exists() {
            return fs::read_to_string(&password_file)
                .map_err(Error::io("reading", &password_file));
        }
        let password = Alphanumeric.sample_string(&mut rand::rng(), 32);
        write_secret(&password_file, &password)?;
        self.account.take_ownership(&password_file)?;
        let unfinished = self.folder.join("cluster.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(Error::io("removing", &unfinished))?;
        }
        fs::create_dir(&unfinished).map_err(Error::io("creating", &unfinished))?;
        self.account.take_ownership(&unfinished)?;
        let mut initdb = self.account.command(&self.binaries.program("initdb"));
        initdb
            .args(["--username=postgres", "--auth=scram-sha-256"])
            .args(["--encoding=UTF8", "--no-locale"])
            .args((self.durability == Durability::Test).then_some("--no-sync"))
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&unfinished);
        self.make(&unfinished, initdb)?;
        fs::rename(&unfinished, &self.pgdata).map_err(Error::io("renaming", &unfinished))?;
        Ok(password)
    }

    /// Creates it as a standby of `primary`, whose server is stopped, and will be at this
    /// superuser's URL.
    pub(crate) fn copy(&self, primary: &Self, url: &str) -> Result<(), Error> {
        // Not with `pg_basebackup`, which a downloaded Postgres does not have.
        let mut cp = self.account.command(Path::new("cp"));
        cp.args(["-R", "-p"]).arg(&primary.pgdata).arg(&self.pgdata);
        self.make(&self.pgdata, cp)?;
        let settings = self.pgdata.join("postgresql.auto.conf");
        OpenOptions::new()
            .append(true)
            .open(&settings)
            .and_then(|mut file| writeln!(file, "primary_conninfo = '{url}'"))
            .map_err(Error::io("writing", &settings))?;
        let signal = self.pgdata.join("standby.signal");
        File::create(&signal).map_err(Error::io("creating", &signal))?;
        self.account.take_ownership(&signal)
    }

    /// Runs the program that makes the cluster in `folder`. Kills it when the start is cancelled.
    fn make(&self, folder: &Path, mut program: Command) -> Result<(), Error> {
        program
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let output = self
            .run_to_end(&mut program)
            .map_err(Error::io("running", Path::new(program.get_program())))?;
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if output.status.success() {
            return Ok(());
        }
        Err(Error::MakeCluster {
            folder: folder.to_owned(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Runs a program that prints little, and kills it when the start is cancelled.
    fn run_to_end(&self, command: &mut Command) -> io::Result<Output> {
        let mut process = command.spawn()?;
        while process.try_wait()?.is_none() {
            if self.cancel.is_cancelled() {
                process.kill()?;
            }
            sleep(POLL_INTERVAL);
        }
        process.wait_with_output()
    }
}

/// Writes a file that only the account of this process can read, all of it or nothing.
pub(crate) fn write_secret(path: &Path, secret: &str) -> Result<(), Error> {
    let unfinished = path.with_extension(random_name());
    // Created with mode 600: nobody can open it before the mode is set.
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| {
            file.write_all(secret.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, path)
        });
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.map_err(Error::io("writing", path))
}
