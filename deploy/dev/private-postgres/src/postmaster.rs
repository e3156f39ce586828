//! The server's main process: started on a port, ready once `postmaster.pid` shows it, signalled.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::data_dir::{DataDir, Durability};
use crate::{Error, ParentDeathGuard};

/// How long to wait until the guard of a killed owner has stopped the server that it left behind.
const PREVIOUS_SERVER_STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How often to check the process and its files while waiting for a change.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// What the server logs when another process listens on its port. `initdb --no-locale` keeps its
/// messages in English.
const PORT_IN_USE_MESSAGE: &str = "could not bind IPv4 address";
/// What differs from Postgres' defaults.
const SETTINGS: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    // The table `users` fits.
    "shared_buffers=256MB",
    // A round writes a hundred megabytes of WAL. Checkpoints start by time, not by size.
    "max_wal_size=4GB",
    // Keeps recycled WAL files for what rounds write between two checkpoints. Otherwise commits
    // stall for tens of milliseconds while Postgres creates files.
    "min_wal_size=1GB",
    // Soon removes the versions of the row in `last_query` that a round's snapshot held back.
    "autovacuum_naptime=10s",
];

impl DataDir {
    /// Waits for the end of a server whose owner was killed, which the guard may not have stopped
    /// yet. Then no server runs here, since the caller holds the lock of the directory. So it
    /// removes a `postmaster.pid` that is left: Postgres would refuse to start if its number
    /// belongs to another process by now.
    ///
    /// # Errors
    /// [`Error::StillRuns`] when the server does not end in time.
    pub(crate) fn wait_for_previous_server(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PREVIOUS_SERVER_STOP_TIMEOUT;
        while let Some(id) = self.previous_server() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if Instant::now() > deadline {
                return Err(Error::StillRuns {
                    directory: self.cluster.clone(),
                    id,
                });
            }
            sleep(POLL_INTERVAL);
        }
        let path = self.pid_file_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("removing", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The process id in `postmaster.pid`, if it is that of a server in this directory.
    pub(crate) fn previous_server(&self) -> Option<i32> {
        let id = self.pid_file().lines().next()?.parse().ok()?;
        if kill(Pid::from_raw(id), None) == Err(Errno::ESRCH) {
            return None;
        }
        // A server of ours has the directory as an argument, one that was started by hand may have
        // it as the working directory alone.
        let process = Path::new("/proc").join(id.to_string());
        let is_server = match fs::read(process.join("cmdline")) {
            Ok(arguments) => {
                let cluster = self.cluster.as_os_str().as_bytes();
                arguments
                    .split(|byte| *byte == 0)
                    .any(|word| word == cluster)
                    || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == self.cluster)
            }
            // It may have ended. Without /proc, as on macOS, it may be the server.
            Err(_) => !Path::new("/proc/self").exists(),
        };
        is_server.then_some(id)
    }

    /// Starts the server and waits until it accepts sessions.
    pub(crate) fn run(&self, port: u16) -> Result<(Child, ParentDeathGuard), Error> {
        let log_path = self.directory.join("postgres.log");
        let log = File::create(&log_path).map_err(Error::io("creating", &log_path))?;
        let (fsync, guard_signal, folder) = match self.durability {
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
            // A Ctrl-C in the terminal must not stop the server: its owner stops it last.
            .process_group(0)
            .spawn()
            .map_err(Error::io("starting", &program))?;
        let guard = ParentDeathGuard::new(process.id(), guard_signal, folder)
            .map_err(Error::io("guarding", &program))?;
        if self.wait_until_ready(&mut process) {
            return Ok((process, guard));
        }
        signal(&process, Signal::SIGQUIT);
        let _ = process.wait();
        guard.dismiss();
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        if log.contains(PORT_IN_USE_MESSAGE) {
            return Err(Error::PortInUse(port));
        }
        Err(Error::Start {
            directory: self.cluster.clone(),
            log: last_lines(&log),
        })
    }

    /// Waits for `ready` in the last line of `postmaster.pid`, as `pg_ctl` does. There is no
    /// timeout, because a recovery may take long. False when the process has ended instead, or the
    /// start was cancelled.
    fn wait_until_ready(&self, process: &mut Child) -> bool {
        let own_id = process.id().to_string();
        while matches!(process.try_wait(), Ok(None)) && !self.cancel.is_cancelled() {
            let text = self.pid_file();
            let mut lines = text.lines();
            if lines.next() == Some(&own_id)
                && lines.last().is_some_and(|status| status.trim() == "ready")
            {
                return true;
            }
            sleep(POLL_INTERVAL);
        }
        false
    }

    /// The text of `postmaster.pid`; empty when the file is missing.
    fn pid_file(&self) -> String {
        fs::read_to_string(self.pid_file_path()).unwrap_or_default()
    }

    fn pid_file_path(&self) -> PathBuf {
        self.cluster.join("postmaster.pid")
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

/// Sends a signal to a child process.
pub(crate) fn signal(process: &Child, signal: Signal) {
    // It fails only when the process has already ended.
    let _ = kill(
        Pid::from_raw(i32::try_from(process.id()).expect("the kernel's process ids are i32")),
        signal,
    );
}
