//! The server's life: initdb, start, ready, stop.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::distr::{Alphanumeric, SampleString};
use tempfile::TempDir;

use crate::account::Account;
use crate::{Binaries, Error, Leash};

/// How long the server of an owner that was killed may take to stop.
const PREDECESSOR: Duration = Duration::from_secs(15);
/// How long a server may take to stop before it is killed.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often a file or a process is looked at while waiting for it.
const GLANCE: Duration = Duration::from_millis(10);
/// What differs from Postgres' defaults.
const SETTINGS: [&str; 6] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    // The table of users fits.
    "shared_buffers=256MB",
    // A round writes a hundred megabytes of WAL: checkpoints come by time, not by size.
    "max_wal_size=4GB",
    // The versions of last_query's row that a round's snapshot kept are cleaned up soon.
    "autovacuum_naptime=10s",
];

/// Whether data must survive a crash of the machine. They survive one of the server in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durability {
    /// `fsync = on`.
    Full,
    /// `fsync = off`: for tests, whose data end with them.
    Test,
}

/// A server. Dropping it stops it in an orderly way; if this process is killed, its leash does the same.
#[derive(Debug)]
pub struct Server {
    place: Place,
    port: u16,
    password: String,
    /// None while the server is stopped.
    running: Option<(Child, Leash)>,
    /// Held as long as the server may run, so that a second one on the same directory is refused.
    _lock: File,
    /// Removed with the server.
    _folder: Option<TempDir>,
}

/// Where and how a server runs.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    cluster: PathBuf,
    binaries: Binaries,
    account: Account,
    durability: Durability,
    settings: Vec<String>,
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

    fn start_in(
        directory: &Path,
        binaries: &Binaries,
        durability: Durability,
        settings: &[&str],
        folder: Option<TempDir>,
    ) -> Result<Self, Error> {
        let place = Place {
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
        let lock = lock(directory)?;
        if folder.is_some() {
            place.account.own(directory)?;
        }
        let password = place.initialize()?;
        let port = free_port().map_err(Error::io("finding a free port for", directory))?;
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
        if let Some((_, leash)) = self.running.take() {
            leash.dismiss();
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
        let Some((mut process, leash)) = self.running.take() else {
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
        leash.dismiss();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Place {
    /// Makes the cluster if it is missing, whole or not at all, and returns its password.
    fn initialize(&self) -> Result<String, Error> {
        let password_file = self.directory.join("password");
        if self.cluster.exists() {
            return fs::read_to_string(&password_file)
                .map_err(Error::io("reading", &password_file));
        }
        let password = Alphanumeric.sample_string(&mut rand::rng(), 32);
        write_secret(&password_file, &password)?;
        self.account.own(&password_file)?;
        let unfinished = self.directory.join("cluster.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(Error::io("removing", &unfinished))?;
        }
        fs::create_dir(&unfinished).map_err(Error::io("making", &unfinished))?;
        self.account.own(&unfinished)?;
        let initdb = self.binaries.program("initdb");
        let output = self
            .account
            .command(&initdb)
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
            .output()
            .map_err(Error::io("running", &initdb))?;
        if !output.status.success() {
            return Err(Error::Initdb {
                directory: unfinished,
                output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        fs::rename(&unfinished, &self.cluster).map_err(Error::io("renaming", &unfinished))?;
        Ok(password)
    }

    /// An owner that was killed leaves its server to the leash, which may not be done yet.
    fn wait_for_predecessor(&self) {
        let deadline = Instant::now() + PREDECESSOR;
        while let Some(pid) = self
            .pid_file()
            .lines()
            .next()
            .and_then(|line| line.parse().ok())
            && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
        {
            // Its number may be another process's by now: Postgres itself knows better.
            if Instant::now() > deadline {
                return;
            }
            sleep(GLANCE);
        }
    }

    /// Starts the server and waits until it accepts sessions.
    fn run(&self, port: u16) -> Result<(Child, Leash), Error> {
        let log_path = self.directory.join("postgres.log");
        let log = File::create(&log_path).map_err(Error::io("making", &log_path))?;
        let (fsync, last_signal, folder) = match self.durability {
            Durability::Full => ("fsync=on", "INT", None),
            Durability::Test => ("fsync=off", "QUIT", Some(&*self.directory)),
        };
        let program = self.binaries.program("postgres");
        let mut command = self.account.command(&program);
        command
            .arg("-D")
            .arg(&self.cluster)
            .arg("-p")
            .arg(port.to_string());
        for setting in SETTINGS
            .into_iter()
            .chain([fsync])
            .chain(self.settings.iter().map(|setting| &**setting))
        {
            command.arg("-c").arg(setting);
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(Error::io("sharing", &log_path))?)
            .stderr(log)
            // Away from the terminal's Ctrl-C: the owner decides when the server's turn has come.
            .process_group(0)
            .spawn()
            .map_err(Error::io("starting", &program))?;
        let leash = Leash::new(process.id(), last_signal, folder)
            .map_err(Error::io("tying a leash to", &program))?;
        if self.wait_until_ready(&mut process) {
            return Ok((process, leash));
        }
        signal(&process, Signal::SIGQUIT);
        let _ = process.wait();
        leash.dismiss();
        Err(Error::Start {
            directory: self.cluster.clone(),
            log: last_lines(&log_path),
        })
    }

    /// The last line of `postmaster.pid` says how far the server is; `pg_ctl` waits by it, too.
    fn wait_until_ready(&self, process: &mut Child) -> bool {
        let own = process.id().to_string();
        // As long as it lives: a recovery takes what it takes.
        while matches!(process.try_wait(), Ok(None)) {
            let text = self.pid_file();
            let mut lines = text.lines();
            if lines.next() == Some(&own)
                && lines.last().is_some_and(|status| status.trim() == "ready")
            {
                return true;
            }
            sleep(GLANCE);
        }
        false
    }

    /// Empty where there is none.
    fn pid_file(&self) -> String {
        fs::read_to_string(self.cluster.join("postmaster.pid")).unwrap_or_default()
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

fn write_secret(path: &Path, secret: &str) -> Result<(), Error> {
    File::create(path)
        .and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(secret.as_bytes())?;
            file.sync_all()
        })
        .map_err(Error::io("writing", path))
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

fn signal(process: &Child, signal: Signal) {
    // It fails only when the process has ended, which is what the signal is for.
    let _ = kill(
        Pid::from_raw(i32::try_from(process.id()).expect("the kernel's process ids are i32")),
        signal,
    );
}
