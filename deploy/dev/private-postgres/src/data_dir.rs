//! A place for a server: its folder, its programs, its account; the cluster is made here, and the process started.

use std::fs::{self, File, Permissions};
use std::io::Write;
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

use crate::account::Account;
use crate::{Binaries, Error, ParentDeathGuard};

/// How long the server of an owner that was killed may take to stop.
const PREDECESSOR: Duration = Duration::from_secs(15);
/// How often a file or a process is looked at while waiting for it.
pub(crate) const GLANCE: Duration = Duration::from_millis(10);
/// What differs from Postgres' defaults.
const SETTINGS: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    // The table of users fits.
    "shared_buffers=256MB",
    // A round writes a hundred megabytes of WAL: checkpoints come by time, not by size.
    "max_wal_size=4GB",
    // What rounds write between two checkpoints finds files to be written over: a commit that has to wait until a new
    // one is made waits for tens of milliseconds.
    "min_wal_size=1GB",
    // The versions of last_query's row that a round's snapshot kept are cleaned up soon.
    "autovacuum_naptime=10s",
];

/// Whether data must survive a crash of the machine. They survive one of the server in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// `fsync = on`.
    Full,
    /// `fsync = off`: for tests, whose data end with them.
    Test,
}

/// Where and how a server runs.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub(crate) directory: PathBuf,
    pub(crate) cluster: PathBuf,
    pub(crate) binaries: Binaries,
    pub(crate) account: Account,
    pub(crate) durability: Durability,
    pub(crate) settings: Vec<String>,
}

impl DataDir {
    /// Makes the cluster if it is missing, whole or not at all, and returns its password.
    pub(crate) fn initialize(&self) -> Result<String, Error> {
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

    /// Makes the cluster as a standby of the server at this URL, which must be a superuser's.
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

    /// An owner that was killed leaves its server to the guard, which may not be done yet.
    pub(crate) fn wait_for_predecessor(&self) {
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
    pub(crate) fn run(&self, port: u16) -> Result<(Child, ParentDeathGuard), Error> {
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
        let guard = ParentDeathGuard::new(process.id(), last_signal, folder)
            .map_err(Error::io("tying a guard to", &program))?;
        if self.wait_until_ready(&mut process) {
            return Ok((process, guard));
        }
        signal(&process, Signal::SIGQUIT);
        let _ = process.wait();
        guard.dismiss();
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

fn write_secret(path: &Path, secret: &str) -> Result<(), Error> {
    File::create(path)
        .and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(secret.as_bytes())?;
            file.sync_all()
        })
        .map_err(Error::io("writing", path))
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(process: &Child, signal: Signal) {
    // It fails only when the process has ended, which is what the signal is for.
    let _ = kill(
        Pid::from_raw(i32::try_from(process.id()).expect("the kernel's process ids are i32")),
        signal,
    );
}
