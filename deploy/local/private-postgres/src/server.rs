//! A server from its start to its stop: a folder and binaries enter, a URL leaves. It keeps its
//! port across crashes and restarts.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Cluster, write_secret};
use crate::{Binaries, Error, ParentDeathGuard, failed};

/// The file that [`Server::write_url`] writes.
pub const DATABASE_URL_FILE: &str = "database-url";

/// How long an earlier server, whose parent was killed, may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_mins(1);
/// How often to check the process and its files while waiting for a change.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
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

/// A server, running or stopped. Dropping it stops the server gracefully. If this process is
/// killed, a [`ParentDeathGuard`] stops the server.
#[derive(Debug)]
pub struct Server {
    cluster: Cluster,
    /// Further settings, each `name=value`.
    settings: Vec<String>,
    password: String,
    port: u16,
    /// Whether the server has been ready on this port, and keeps it.
    has_port: bool,
    /// The main process, and the guard that ends it with this one. None while it is stopped.
    postmaster: Option<(Child, ParentDeathGuard)>,
    /// When the start began to wait for the end of an earlier server.
    waits_since: Option<Instant>,
}

impl Server {
    /// Prepares a server whose data stay in `folder`, which is created if it is missing. It does
    /// not run yet.
    ///
    /// # Errors
    /// When another process uses the folder, this one may not, or the cluster can't be made.
    pub fn prepare(folder: &Path, binaries: &Binaries) -> Result<Self, Error> {
        let cluster = Cluster::open(folder, binaries)?;
        let password = cluster.initialize()?;
        Self::new(cluster, password, Vec::new())
    }

    /// Starts a server without `fsync` in a new folder, which is removed with it. `settings` have
    /// the form `name=value`.
    ///
    /// # Errors
    /// When the cluster can't be made, or the server does not start.
    pub fn start_temporary(binaries: &Binaries, settings: &[&str]) -> Result<Self, Error> {
        let cluster = Cluster::temporary(binaries)?;
        let password = cluster.initialize()?;
        let settings = [&["fsync=off"], settings].concat();
        let settings = settings.into_iter().map(ToOwned::to_owned).collect();
        let mut server = Self::new(cluster, password, settings)?;
        server.start()?;
        Ok(server)
    }

    /// Starts a streaming standby of this server, in a new folder, with the same password and
    /// settings. `select pg_promote()` promotes it. This server is stopped while it is copied,
    /// which ends its sessions.
    ///
    /// # Errors
    /// When the copy fails, or one of the two does not start.
    pub fn start_standby(&mut self) -> Result<Self, Error> {
        let cluster = Cluster::temporary(&self.cluster.binaries)?;
        self.stop();
        let copied = cluster.copy(&self.cluster, &self.url("postgres", "postgres"));
        self.start()?;
        copied?;
        let mut standby = Self::new(cluster, self.password.clone(), self.settings.clone())?;
        standby.start()?;
        Ok(standby)
    }

    fn new(cluster: Cluster, password: String, settings: Vec<String>) -> Result<Self, Error> {
        Ok(Self {
            port: free_port()?,
            cluster,
            settings,
            password,
            has_port: false,
            postmaster: None,
            waits_since: None,
        })
    }

    /// Starts the server, on the same port as before, if it does not run.
    ///
    /// # Errors
    /// As for [`Self::advance_start`].
    pub fn start(&mut self) -> Result<(), Error> {
        if !self.is_running() {
            self.stop();
        }
        while !self.advance_start()? {
            sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Takes the next step of a start, and returns whether the server accepts sessions. It does not
    /// wait: a recovery may take minutes, and the caller may want to stop.
    ///
    /// # Errors
    /// When the server has ended, with the last lines of its log, or an earlier one does not end.
    pub fn advance_start(&mut self) -> Result<bool, Error> {
        let Some((process, _)) = &self.postmaster else {
            self.postmaster = self.spawn()?;
            return Ok(false);
        };
        let id = process.id().to_string();
        if self.is_running() {
            // As `pg_ctl` does, look for `ready` in the last line.
            let text = self.cluster.pid_file();
            let is_ready = text.lines().next() == Some(&id) && text.trim_end().ends_with("\nready");
            self.has_port |= is_ready;
            return Ok(is_ready);
        }
        // Dismisses the guard.
        self.stop();
        let log = fs::read(self.cluster.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        if log.contains(PORT_IN_USE_MESSAGE) && !self.has_port {
            // Postgres can't listen on port 0, so another process was able to take the port.
            self.port = free_port()?;
            return Ok(false);
        }
        let lines: Vec<_> = log.lines().collect();
        let last_lines = lines[lines.len().saturating_sub(5)..].join("; ");
        Err(self.failed(&format!("did not start: {last_lines}")))
    }

    fn failed(&self, what: &str) -> Error {
        let pgdata = self.cluster.pgdata.display();
        Error(format!("the Postgres server in {pgdata} {what}"))
    }

    /// Starts the server's process, unless processes of an earlier server have to end first.
    fn spawn(&mut self) -> Result<Option<(Child, ParentDeathGuard)>, Error> {
        let cluster = &self.cluster;
        let Some(log) = cluster.lock_log()? else {
            let since = *self.waits_since.get_or_insert_with(Instant::now);
            if since.elapsed() < STOP_TIMEOUT {
                return Ok(None);
            }
            return Err(self.failed("was started earlier, and still runs"));
        };
        self.waits_since = None;
        cluster.remove_stale_pid_file();
        let program = cluster.binaries.program("postgres");
        let mut command = cluster.account.command(&program);
        command.arg("-D").arg(&cluster.pgdata);
        command.arg("-p").arg(self.port.to_string());
        let settings = self.settings.iter().map(|setting| &**setting);
        for setting in SETTINGS.into_iter().chain(settings) {
            command.arg("-c").arg(setting);
        }
        let start = || {
            log.set_len(0)?;
            let mut process = command
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                // A Ctrl-C in the terminal must not stop the server: this process stops it last.
                .process_group(0)
                .spawn()?;
            let guard = match &cluster.temporary {
                None => ParentDeathGuard::new(process.id(), "INT", None),
                Some(_) => ParentDeathGuard::new(process.id(), "QUIT", Some(&cluster.folder)),
            };
            if guard.is_err() {
                // Without one it could outlive this process.
                process.kill()?;
                process.wait()?;
            }
            Ok(Some((process, guard?)))
        };
        start().map_err(failed("starting", &program))
    }

    /// The URL of `database` for `role`. Variables such as `PGSSLMODE` have nothing to add to it.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        format!(
            "postgres://{role}:{}@127.0.0.1:{}/{database}?sslmode=disable",
            self.password, self.port
        )
    }

    /// The folder that its data are in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.cluster.folder
    }

    /// Writes [`Self::url`] to [`DATABASE_URL_FILE`] in the server's folder. Only the account
    /// of this process can read it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write_url(&self, role: &str, database: &str) -> Result<(), Error> {
        let path = self.folder().join(DATABASE_URL_FILE);
        write_secret(&path, &format!("{}\n", self.url(role, database)))
    }

    /// The password of all its roles. It consists of letters and digits.
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
        let process = self.postmaster.as_mut().map(|(process, _)| process);
        process.is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Stops the server: ends its sessions and writes a checkpoint. If it has died, this only ends
    /// its guard.
    pub fn stop(&mut self) {
        self.end(Signal::SIGINT);
    }

    /// Ends the server at once, like a crash. The next start recovers.
    pub fn crash(&mut self) {
        self.end(Signal::SIGQUIT);
    }

    fn end(&mut self, signal: Signal) {
        let is_running = self.is_running();
        if let Some((mut process, guard)) = self.postmaster.take() {
            if is_running {
                // It fails only when the process has ended meanwhile.
                let _ = kill(Pid::from_raw(process.id().cast_signed()), signal);
            }
            let _ = process.wait();
            guard.dismiss();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that no process uses at this moment.
fn free_port() -> Result<u16, Error> {
    let address = TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr());
    address
        .map(|address| address.port())
        .map_err(|error| Error(format!("no port is free: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_process_has_taken_is_replaced() {
        let binaries = Binaries::from_env().expect("Postgres is installed");
        let mut server = Server::start_temporary(&binaries, &[]).expect("it starts");
        server.stop();
        let taken = TcpListener::bind(("127.0.0.1", server.port)).expect("it is free again");
        // As at its first start.
        server.has_port = false;
        server.start().expect("another port is free");
        let taken = taken.local_addr().expect("it is bound");
        assert_ne!(server.port(), taken.port());
    }
}
