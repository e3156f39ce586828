//! The server's life: initdb, start, ready, stop.

use std::fs::{self, File, TryLockError};
use std::net::TcpListener;
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::account::Account;
use crate::data_dir::{DataDir, Durability, GLANCE, signal};
use crate::{Binaries, Error, ParentDeathGuard};

/// How long a server may take to stop before it is killed.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server. Dropping it stops it in an orderly way; if this process is killed, its guard does the same.
#[derive(Debug)]
pub struct Server {
    place: DataDir,
    port: u16,
    password: String,
    /// None while the server is stopped.
    running: Option<(Child, ParentDeathGuard)>,
    /// Held as long as the server may run, so that a second one on the same directory is refused.
    _lock: File,
    /// Removed with the server.
    _folder: Option<TempDir>,
}

impl Server {
    /// Starts a server whose data stay in `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// [`Error::InUse`] when another server runs there; see [`Error`] for the others.
    pub fn start(directory: &Path, binaries: &Binaries) -> Result<Self, Error> {
        fs::create_dir_all(directory).map_err(Error::io("making", directory))?;
        let directory = directory
            .canonicalize()
            .map_err(Error::io("finding", directory))?;
        Self::start_in(&directory, binaries, Durability::Full, &[], None)
    }

    /// Starts a server in a folder of its own, which is removed with it, without `fsync`. `settings` are given as
    /// `name=value`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start_temporary(binaries: &Binaries, settings: &[&str]) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("max-two-postgres-")
            .map_err(Error::io("making a folder in", &std::env::temp_dir()))?;
        let path = folder.path().to_owned();
        Self::start_in(&path, binaries, Durability::Test, settings, Some(folder))
    }

    /// Starts a streaming standby of this server, in a folder of its own, with the same password and settings. It can be
    /// promoted with `select pg_promote()`.
    ///
    /// # Errors
    /// [`Error::Initdb`] when the copy can't be made; see [`Error`] for the others.
    pub fn start_standby(&self) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("max-two-postgres-")
            .map_err(Error::io("making a folder in", &std::env::temp_dir()))?;
        let directory = folder.path().to_owned();
        let place = DataDir {
            cluster: directory.join("cluster"),
            directory,
            binaries: self.place.binaries.clone(),
            account: Account::for_server()?,
            durability: self.place.durability,
            settings: self.place.settings.clone(),
        };
        place.account.own(&place.directory)?;
        let lock = lock(&place.directory)?;
        place.copy(&self.url("postgres", "postgres"))?;
        Self::start_at(place, self.password.clone(), lock, Some(folder))
    }

    fn start_in(
        directory: &Path,
        binaries: &Binaries,
        durability: Durability,
        settings: &[&str],
        folder: Option<TempDir>,
    ) -> Result<Self, Error> {
        let place = DataDir {
            directory: directory.to_owned(),
            cluster: directory.join("cluster"),
            binaries: binaries.clone(),
            account: Account::for_server()?,
            durability,
            settings: settings.iter().map(ToString::to_string).collect(),
        };
        if !place.account.can_enter(&place.cluster) {
            return Err(Error::Unreachable {
                directory: directory.to_owned(),
                account: place.account.name().to_owned(),
            });
        }
        if folder.is_some() {
            place.account.own(directory)?;
        }
        let lock = lock(directory)?;
        let password = place.initialize()?;
        Self::start_at(place, password, lock, folder)
    }

    /// Starts a server whose cluster has been made.
    fn start_at(
        place: DataDir,
        password: String,
        lock: File,
        folder: Option<TempDir>,
    ) -> Result<Self, Error> {
        let port = free_port().map_err(Error::io("finding a free port for", &place.directory))?;
        let mut server = Self {
            place,
            port,
            password,
            running: None,
            _lock: lock,
            _folder: folder,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Starts the server after it was stopped, or died, on the same port. Does nothing while it runs.
    ///
    /// # Errors
    /// [`Error::Start`], with the last lines of its log.
    pub fn start_again(&mut self) -> Result<(), Error> {
        if self.is_running() {
            return Ok(());
        }
        if let Some((_, guard)) = self.running.take() {
            guard.dismiss();
        }
        self.place.wait_for_predecessor();
        self.running = Some(self.place.run(self.port)?);
        Ok(())
    }

    /// The URL of `database` for `role`; every role of this server has the same password.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        format!(
            "postgres://{role}:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    /// The password of all its roles: letters and digits.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the server runs.
    pub fn is_running(&mut self) -> bool {
        self.running
            .as_mut()
            .is_some_and(|(process, _)| matches!(process.try_wait(), Ok(None)))
    }

    /// Stops the server: sessions are ended, what was committed is on disk. After a minute it is killed; the next start
    /// recovers.
    pub fn stop(&mut self) {
        self.end(Signal::SIGINT);
    }

    /// Ends the server as a crash would: at once, with recovery at the next start.
    pub fn crash(&mut self) {
        self.end(Signal::SIGQUIT);
    }

    fn end(&mut self, how: Signal) {
        let Some((mut process, guard)) = self.running.take() else {
            return;
        };
        signal(&process, how);
        let deadline = Instant::now() + PATIENCE;
        while matches!(process.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                signal(&process, Signal::SIGKILL);
            }
            sleep(GLANCE);
        }
        guard.dismiss();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let file = File::create(&path).map_err(Error::io("making", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::io("locking", &path)(error)),
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
