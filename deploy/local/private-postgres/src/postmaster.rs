//! The server's main process: starts it on a cluster and a port, waits until `postmaster.pid` shows
//! that it is ready, and ends it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Cluster, Durability};
use crate::{Error, ParentDeathGuard};

/// How long a server may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_mins(1);
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

/// A server's main process, and the guard that ends it with this process.
#[derive(Debug)]
pub(crate) struct Postmaster {
    process: Child,
    guard: ParentDeathGuard,
}

impl Postmaster {
    /// Starts the server and waits until it accepts sessions.
    pub(crate) fn start(cluster: &Cluster, port: u16) -> Result<Self, Error> {
        let log_path = cluster.folder.join("postgres.log");
        let log = File::create(&log_path).map_err(Error::io("creating", &log_path))?;
        let (guard_signal, guarded_folder) = match cluster.durability {
            Durability::Full => ("INT", None),
            Durability::Test => ("QUIT", Some(&*cluster.folder)),
        };
        let program = cluster.binaries.program("postgres");
        let process = command(cluster, port)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(Error::io("sharing", &log_path))?)
            .stderr(log)
            // A Ctrl-C in the terminal must not stop the server: this process stops it last.
            .process_group(0)
            .spawn()
            .map_err(Error::io("starting", &program))?;
        let guard = ParentDeathGuard::new(process.id(), guard_signal, guarded_folder)
            .map_err(Error::io("guarding", &program))?;
        let mut postmaster = Self { process, guard };
        if postmaster.wait_until_ready(cluster) {
            return Ok(postmaster);
        }
        postmaster.end(Signal::SIGQUIT);
        if cluster.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        if log.contains(PORT_IN_USE_MESSAGE) {
            return Err(Error::PortInUse(port));
        }
        Err(Error::Start {
            folder: cluster.pgdata.clone(),
            log: last_lines(&log),
        })
    }

    /// Waits for `ready` in the last line of `postmaster.pid`, as `pg_ctl` does. There is no
    /// timeout, because a recovery may take long. False when the process has ended instead, or the
    /// start was cancelled.
    fn wait_until_ready(&mut self, cluster: &Cluster) -> bool {
        let own_id = self.process.id().to_string();
        while self.is_running() && !cluster.cancel.is_cancelled() {
            let text = cluster.pid_file();
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

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Sends this signal, unless the process has ended already, and waits for its end. A process
    /// that takes too long is killed.
    pub(crate) fn end(mut self, signal: Signal) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        if self.is_running() {
            self.send(signal);
        }
        while self.is_running() {
            if Instant::now() > deadline {
                self.send(Signal::SIGKILL);
            }
            sleep(POLL_INTERVAL);
        }
        self.guard.dismiss();
    }

    fn send(&self, signal: Signal) {
        let id = i32::try_from(self.process.id()).expect("the kernel's process ids are i32");
        // It fails only when the process has already ended.
        let _ = kill(Pid::from_raw(id), signal);
    }
}

/// The command that runs the server.
fn command(cluster: &Cluster, port: u16) -> Command {
    let mut command = (cluster.account).command(&cluster.binaries.program("postgres"));
    command
        .arg("-D")
        .arg(&cluster.pgdata)
        .arg("-p")
        .arg(port.to_string());
    let fsync = match cluster.durability {
        Durability::Full => "fsync=on",
        Durability::Test => "fsync=off",
    };
    for setting in SETTINGS
        .into_iter()
        .chain([fsync])
        .chain(cluster.settings.iter().map(|setting| &**setting))
    {
        command.arg("-c").arg(setting);
    }
    command
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}
