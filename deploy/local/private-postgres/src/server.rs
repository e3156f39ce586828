//! A server from its start to its stop: a folder and binaries enter, a URL leaves. It keeps its
//! port across crashes and restarts, but a process that takes the port meanwhile keeps it.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::Path;

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Durability, write_secret};
use crate::postmaster::Postmaster;
use crate::temporary_folder::TemporaryFolder;
use crate::{Binaries, Error};

/// The file that [`Server::write_url`] writes.
pub const DATABASE_URL_FILE: &str = "database-url";

/// How many ports to try, when other processes take them before the server listens.
const PORT_TRIES: usize = 10;

/// A running server. Dropping it stops it in an orderly way. If this process is killed, a
/// [`ParentDeathGuard`](crate::ParentDeathGuard) stops it.
#[derive(Debug)]
pub struct Server {
    cluster: Cluster,
    port: u16,
    password: String,
    /// None while the server is stopped.
    postmaster: Option<Postmaster>,
    /// Held while the server may run, so that a second one on the same folder is refused.
    _lock: File,
    /// The folder of a temporary server, removed with it.
    _folder: Option<TemporaryFolder>,
}

impl Server {
    /// Starts a server whose data stay in `folder`, which is created if it is missing. `cancel`
    /// ends this start or a later one, which may take long: a recovery has no time limit.
    ///
    /// # Errors
    /// [`Error::InUse`] when another server runs there; see [`Error`] for the others.
    pub fn start(
        folder: &Path,
        binaries: &Binaries,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(Error::io("creating", folder))?;
        let folder = folder
            .canonicalize()
            .map_err(Error::io("finding", folder))?;
        let settings = Vec::new();
        let cluster = Cluster::new(folder, binaries, Durability::Full, settings, cancel)?;
        Self::start_in(cluster, None)
    }

    /// Starts a server without `fsync` in a new folder, which is removed with it. `settings` have
    /// the form `name=value`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start_temporary(binaries: &Binaries, settings: &[&str]) -> Result<Self, Error> {
        let settings = settings.iter().map(ToString::to_string).collect();
        let cancel = CancellationToken::new();
        let (cluster, folder) = Cluster::temporary(binaries, Durability::Test, settings, cancel)?;
        Self::start_in(cluster, Some(folder))
    }

    /// Starts a streaming standby of this server, in a new folder, with the same password and
    /// settings. `select pg_promote()` promotes it. This server is stopped while it is copied,
    /// which ends its sessions.
    ///
    /// # Errors
    /// [`Error::MakeCluster`] when the copy fails; see [`Error`] for the others.
    pub fn start_standby(&mut self) -> Result<Self, Error> {
        let own = &self.cluster;
        let (cluster, folder) = Cluster::temporary(
            &own.binaries,
            own.durability,
            own.settings.clone(),
            own.cancel.clone(),
        )?;
        let lock = cluster.lock()?;
        self.stop();
        if let Err(error) = cluster.copy(&self.cluster, &self.url("postgres", "postgres")) {
            // The disk may be full, and this server needs room to start.
            drop(folder);
            // The cause of both errors is that of the copy.
            let _ = self.start_again();
            return Err(error);
        }
        self.start_again()?;
        Self::start_on_free_port(cluster, self.password.clone(), lock, Some(folder))
    }

    fn start_in(cluster: Cluster, folder: Option<TemporaryFolder>) -> Result<Self, Error> {
        cluster.check_access()?;
        let lock = cluster.lock()?;
        let password = cluster.initialize()?;
        Self::start_on_free_port(cluster, password, lock, folder)
    }

    fn start_on_free_port(
        cluster: Cluster,
        password: String,
        lock: File,
        folder: Option<TemporaryFolder>,
    ) -> Result<Self, Error> {
        let mut server = Self {
            cluster,
            port: 0,
            password,
            postmaster: None,
            _lock: lock,
            _folder: folder,
        };
        server.start_on(free_port)?;
        Ok(server)
    }

    /// Starts the server on a port from `pick_port`. Postgres can't listen on port 0, so another
    /// process may take the port before the server listens there. Then the next port is tried.
    fn start_on(&mut self, mut pick_port: impl FnMut() -> io::Result<u16>) -> Result<(), Error> {
        let mut tries = 1;
        loop {
            self.port =
                pick_port().map_err(Error::io("finding a free port for", &self.cluster.folder))?;
            match self.start_again() {
                Err(Error::PortInUse(_)) if tries < PORT_TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    /// Starts the server on the same port after it was stopped or died. Does nothing while it runs.
    ///
    /// # Errors
    /// [`Error::PortInUse`], or [`Error::Start`] with the last lines of the server's log.
    pub fn start_again(&mut self) -> Result<(), Error> {
        if self.is_running() {
            return Ok(());
        }
        // One that died leaves its guard.
        self.stop();
        self.cluster.wait_for_previous_server()?;
        self.postmaster = Some(Postmaster::start(&self.cluster, self.port)?);
        Ok(())
    }

    /// The URL of `database` for `role`. It leaves nothing to `PGSSLMODE` and its like.
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
    /// [`Error::Io`] when it can't be written.
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
        self.postmaster.as_mut().is_some_and(Postmaster::is_running)
    }

    /// Stops the server: ends its sessions and writes a checkpoint. A server that takes longer than
    /// a minute is killed, and recovers at the next start.
    pub fn stop(&mut self) {
        self.end(Signal::SIGINT);
    }

    /// Ends the server at once, like a crash. The next start recovers.
    pub fn crash(&mut self) {
        self.end(Signal::SIGQUIT);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(postmaster) = self.postmaster.take() {
            postmaster.end(signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that no process uses at this moment.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_process_has_taken_is_replaced() {
        let binaries = Binaries::of_environment().expect("Postgres is installed");
        let mut server = Server::start_temporary(&binaries, &[]).expect("it starts");
        server.stop();
        let other = TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
        let taken = other.local_addr().expect("it is bound").port();

        // The first port is taken; later ones are free.
        let mut first = Some(taken);
        server
            .start_on(|| first.take().map_or_else(free_port, Ok))
            .expect("it finds a free port");
        assert!(server.is_running());
        assert_ne!(server.port(), taken);

        let port = server.port();
        server.crash();
        server.start_again().expect("its port is still free");
        assert_eq!(server.port(), port);

        server.stop();
        let outcome = server.start_on(|| Ok(taken));
        assert!(
            matches!(outcome, Err(Error::PortInUse(port)) if port == taken),
            "{outcome:?}"
        );
    }

    #[test]
    fn a_stale_pid_file_whose_number_lives_on_is_no_obstacle() {
        let binaries = Binaries::of_environment().expect("Postgres is installed");
        let mut server = Server::start_temporary(&binaries, &[]).expect("it starts");
        let pid_file = server.cluster.pgdata.join("postmaster.pid");
        let text = fs::read_to_string(&pid_file).expect("the server wrote it");
        server.crash();
        // Postgres would take a process of another account for no server.
        let mut other = server
            .cluster
            .account
            .command(Path::new("sleep"))
            .arg("600")
            .spawn()
            .expect("the machine has `sleep`");
        let (_, rest) = text.split_once('\n').expect("it has lines");
        fs::write(&pid_file, format!("{}\n{rest}", other.id())).expect("it is writable");
        let outcome = server.start_again();
        other.kill().expect("it is a child");
        other.wait().expect("it is a child");
        outcome.expect("the number is not that of a server");
    }

    #[test]
    fn a_server_that_its_parent_left_running_is_not_joined_by_another() {
        let binaries = Binaries::of_environment().expect("Postgres is installed");
        let mut server = Server::start_temporary(&binaries, &[]).expect("it starts");
        let id = server.cluster.previous_server();
        assert!(id.is_some() && server.is_running());
        server.cluster.cancel.cancel();
        let outcome = server.cluster.wait_for_previous_server();
        assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
        assert!(server.cluster.pgdata.join("postmaster.pid").exists());
        server.stop();
        assert_eq!(server.cluster.previous_server(), None);
    }
}
