//! The folder of a server: the cluster is created here, its password is kept here.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;

use rand::distr::{Alphanumeric, SampleString};
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::postmaster::POLL_INTERVAL;
use crate::temporary_folder::random_name;
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

/// The folder of a server, and what its programs run with.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub(crate) directory: PathBuf,
    pub(crate) cluster: PathBuf,
    pub(crate) binaries: Binaries,
    pub(crate) account: Account,
    pub(crate) durability: Durability,
    pub(crate) settings: Vec<String>,
    /// Ends a start that is going on, and refuses later ones.
    pub(crate) cancel: CancellationToken,
}

impl DataDir {
    /// Creates the cluster if it is missing, all of it or nothing, and returns its password.
    pub(crate) fn initialize(&self) -> Result<String, Error> {
        let password_file = self.directory.join("password");
        if self.cluster.exists() {
            return fs::read_to_string(&password_file)
                .map_err(Error::io("reading", &password_file));
        }
        let password = Alphanumeric.sample_string(&mut rand::rng(), 32);
        write_secret(&password_file, &password)?;
        self.account.take_ownership(&password_file)?;
        let unfinished = self.directory.join("cluster.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(Error::io("removing", &unfinished))?;
        }
        fs::create_dir(&unfinished).map_err(Error::io("creating", &unfinished))?;
        self.account.take_ownership(&unfinished)?;
        let initdb = self.binaries.program("initdb");
        let mut command = self.account.command(&initdb);
        command
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
            ])
            .args((self.durability == Durability::Test).then_some("--no-sync"))
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&unfinished)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let output = self
            .run_to_end(&mut command)
            .map_err(Error::io("running", &initdb))?;
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if !output.status.success() {
            return Err(Error::Initdb {
                directory: unfinished,
                output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        fs::rename(&unfinished, &self.cluster).map_err(Error::io("renaming", &unfinished))?;
        Ok(password)
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

    /// Creates the cluster as a standby of the server at this superuser's URL.
    pub(crate) fn copy(&self, url: &str) -> Result<(), Error> {
        let program = self.binaries.program("pg_basebackup");
        let output = self
            .account
            .command(&program)
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"])
            .arg("--dbname")
            .arg(url)
            .arg("--pgdata")
            .arg(&self.cluster)
            .output()
            .map_err(Error::io("running", &program))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Initdb {
            directory: self.cluster.clone(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
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
